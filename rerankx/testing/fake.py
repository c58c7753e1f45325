"""`FakeBackend`: a backend with no model, for the tests of what stands on rerankx."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import NamedTuple

from rerankx.interface import Backend, Scale, Scores

_UNIT = Scale.similarity(0, 1)


def word_overlap(query: str, text: str) -> float:
    """Return the share of the query's words that the text holds, in [0, 1]; 0.0 if the query has none."""
    words = set(re.findall(r"\w+", query.casefold()))
    return len(words.intersection(re.findall(r"\w+", text.casefold()))) / len(words) if words else 0.0


class Call(NamedTuple):
    """One call of a `FakeBackend`: what it was asked to score."""

    query: str
    texts: tuple[str, ...]
    top_n: int | None


class FakeBackend(Backend):
    """A backend with no model behind it: deterministic, at once, and `calls` says what it was asked.

        FakeBackend(score=lambda query, text: -len(text), scale=Scale.UNKNOWN)

    Its fingerprint tells a function by its module and name, a lambda or an object by its `repr` and so its address.

    Args:
        score: Returns the raw score of one text, or None; without it, `word_overlap`.
        name: As in `Backend`.
        model: As in `Backend`.
        scale: As in `Backend`.
        pointwise: As in `Backend`.
        reply: What every call returns instead, right or wrong.
        error: What every call raises instead.
    """

    def __init__(
        self,
        *,
        score: Callable[[str, str], float | None] = word_overlap,
        name: str = "fake",
        model: str = "word-overlap",
        scale: Scale = _UNIT,
        pointwise: bool = True,
        reply: Scores | Sequence[float | None] | None = None,
        error: Exception | None = None,
    ) -> None:
        self.name, self.model, self.scale, self.pointwise = name, model, scale, pointwise
        self._text_score, self._reply, self._error = score, reply, error
        self.calls: list[Call] = []  # append is atomic: no lock, and nothing to rebuild after pickling

    @property
    def fingerprint(self) -> str:
        """Return name, model, and all that makes its scores."""
        function = self._text_score
        named = isinstance(function, FunctionType) and "<" not in function.__qualname__
        told = f"{function.__module__}.{function.__qualname__}" if named else repr(function)
        return f"{super().fingerprint}:{told}:{self.scale}:{self._reply}"

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Sequence[float | None] | Scores:
        self.calls.append(Call(query, tuple(texts), top_n))
        if self._error is not None:
            raise self._error
        if self._reply is not None:
            return self._reply
        return [self._text_score(query, text) for text in texts]
