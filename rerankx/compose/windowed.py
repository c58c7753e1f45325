"""`Windowed`: documents that are longer than a model reads, read whole."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, get_args

from rerankx.compose.made import known_scale, made, title, whole
from rerankx.errors import OptionError
from rerankx.interface import Backend, Scale, Scores, bounded, out_of_time
from rerankx.sentences import Span, split_windows

Combine = Literal["max", "first", "top3_mean"]

# Raise it when the way a text is cut changes a score.
_METHOD = 1


class Windowed(Backend):
    """Scores a text by its windows, so that what stands on its last page counts as much as what stands on its first.

        Reranker(Windowed("minilm"))

    A model reads so many tokens, and what is behind them is cut off. Here a longer text becomes several windows, which end where
    sentences do, and all of them go to the backend in one call. A text that fits one window is scored as without. `details` say
    which window was the best: {"window": {"start": 120, "end": 480, "number": 2, "of": 7}}, in characters of the text. What else
    the backend says there is about that window: spans, say, count from its start. {"cached": True} is said where all windows
    were. A text of which not all windows were scored, since time ran out, is itself not scored.

    Args:
        backend: A name such as "minilm" or "backend:model", or a `Backend`; pointwise. A name takes no options.
        size: The longest window, at least 1, in tokens as the backend counts them. Together with the query it has to fit what the
            model reads: what does not is cut, and counted in `truncated`.
        overlap: How many tokens at most a window shares with the one before, in [0, size / 2]; it begins where a sentence does.
            None is a quarter of `size`.
        combine: "max", the best window's score; "first", the first window's, which is the only one read; "top3_mean", the mean of
            the best three raw scores, or of as many as there are.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: It needs a package that is not installed.
        TypeError: An argument of the wrong type.
        ValueError: A backend that is not pointwise or `Windowed` itself, a number out of its range, or "top3_mean" where scores
            are only an order. (Where a model's configuration has to be fetched to know that, `rerank` raises it, as
            `OptionError`.)
    """

    name = "windowed"
    pointwise = True

    def __init__(
        self, backend: str | Backend, *, size: int = 200, overlap: int | None = None, combine: Combine = "max"
    ) -> None:
        self.backend = made("backend of windows", backend)
        if not self.backend.pointwise:
            name = self.backend.name
            raise ValueError(
                f"windows need a backend that is pointwise: the scores of {name!r} depend on the other texts, and windows are not"
                " the texts; put the windows inside, as in Fallback(Windowed('minilm'), 'embedded')"
            )
        if isinstance(self.backend, Windowed):
            raise ValueError(
                "a backend that is 'windowed' already takes no windows around it: only one of the two could say which was the"
                " best; pass its .backend"
            )
        if combine not in get_args(Combine):
            raise ValueError(f"combine must be one of {', '.join(get_args(Combine))}, not {combine!r}")
        self.size = whole("size", size)
        self.overlap = self.size // 4 if overlap is None else whole("overlap", overlap, low=0)
        if self.overlap > self.size // 2:
            raise ValueError(f"overlap must be at most half of size, here {self.size // 2}, not {self.overlap}")
        self.combine: Combine = combine
        if (scale := known_scale(self.backend)) is not None:
            self._check(scale)

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return backend and model: "cross-encoder:..."."""
        return title(self.backend)

    @property
    def scale(self) -> Scale:  # type: ignore[override]
        """Return the backend's."""
        return self.backend.scale

    @property
    def scale_source(self) -> Backend:
        """Return the backend."""
        return self.backend

    @property
    def fingerprint(self) -> str:
        """Return the backend's fingerprint, how its texts are cut, and what becomes of their scores."""
        return f"{self.name}.{_METHOD}:{self.size}:{self.overlap}:{self.combine}:[{self.backend.fingerprint!r}]"

    def token_spans(self, text: str) -> Sequence[Span]:
        """Return the backend's."""
        return self.backend.token_spans(text)

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        cut = self._cut(texts)
        windows = list(cut.windows)
        return self._joined(texts, cut, self.backend.score(query, windows) if windows else None)

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        from asyncio import CancelledError, to_thread

        with bounded(math.inf) as bound:
            try:  # a tokenizer may have to be fetched, and long texts take their time
                cut = await to_thread(self._cut, texts)
            except CancelledError:
                bound.end = -math.inf  # the thread goes on, but cuts no more
                raise
        windows = list(cut.windows)
        return self._joined(texts, cut, await self.backend.ascore(query, windows) if windows else None)

    def _cut(self, texts: Sequence[str]) -> _Cut:
        """Return the windows of as many texts as there is time for."""
        self._check(self.backend.scale)
        over = out_of_time()
        spans: dict[str, list[Span]] = {}
        windows: dict[str, int] = {}
        for text in texts:
            if over():
                break
            if text not in spans:
                found = split_windows(text, self.token_spans(text), size=self.size, overlap=self.overlap)
                spans[text] = found
                for start, end in found[:1] if self.combine == "first" else found:
                    windows.setdefault(text[start:end], len(windows))
        return _Cut(spans, windows)

    def _joined(self, texts: Sequence[str], cut: _Cut, scores: Scores | None) -> Scores:
        """Return the scores of the texts, from those of their windows; None: there was no time for any."""
        if scores is None:
            return Scores([None] * len(texts), degraded="deadline")
        was_cut = _which_were_cut(list(cut.windows), scores)
        found = {text: self._of_text(text, spans, cut.windows, scores, was_cut) for text, spans in cut.spans.items()}
        places = {index: place for place, index in enumerate(scores.order or ())}
        placed = [
            (places[one.best], i) for i, text in enumerate(texts) if (one := found.get(text)) and one.best in places
        ]
        nothing = _Text(None, None, -1, False)
        each = [found.get(text, nothing) for text in texts]
        return replace(
            scores,
            values=[one.value for one in each],
            order=None if scores.order is None else [i for _, i in sorted(placed)],
            details=[one.details for one in each],
            cut=[one.cut for one in each],
            degraded="deadline" if len(found) < len(set(texts)) else scores.degraded,
        )

    def _of_text(
        self, text: str, spans: Sequence[Span], windows: Mapping[str, int], scores: Scores, cut: Sequence[bool]
    ) -> _Text:
        read = spans[:1] if self.combine == "first" else spans
        indices = [windows[text[start:end]] for start, end in read]
        values = [scores.values[i] for i in indices]
        there = [value for value in values if value is not None]
        was_cut = any(cut[i] for i in indices)
        if len(there) < len(values):
            return _Text(None, None, -1, was_cut)
        number = max(range(len(there)), key=there.__getitem__)  # the first of equals
        best = sorted(there, reverse=True)[: 3 if self.combine == "top3_mean" else 1]
        start, end = read[number]
        told = [(scores.details and scores.details[i]) or {} for i in indices]
        details = dict(told[number])
        if not all(one.get("cached") for one in told):
            details.pop("cached", None)
        details["window"] = {"start": start, "end": end, "number": number + 1, "of": len(spans)}
        return _Text(sum(best) / len(best), details, indices[number], was_cut)

    def _check(self, scale: Scale) -> None:
        if self.combine == "top3_mean" and not scale.absolute:
            raise OptionError(
                f"combine='top3_mean' needs scores of which there can be a mean; those of {self.backend.name!r} ({scale.kind})"
                " are only an order: take combine='max'"
            )


class _Cut(NamedTuple):
    """Texts, and what they were cut into."""

    spans: Mapping[str, list[Span]]
    """By text, where its windows begin and end."""
    windows: Mapping[str, int]
    """What is read, in this order: each window, once, with its position."""


class _Text(NamedTuple):
    """What the windows say of a text."""

    value: float | None
    details: Mapping[str, object] | None
    best: int
    """Position of the best window among all of them."""
    cut: bool


def _which_were_cut(windows: Sequence[str], scores: Scores) -> Sequence[bool]:
    """Return whether each window was cut; where the backend only says how many were, the longest ones."""
    if scores.cut is not None:
        return scores.cut
    longest = set(sorted(range(len(windows)), key=lambda i: -len(windows[i]))[: scores.truncated])
    return [i in longest for i in range(len(windows))]
