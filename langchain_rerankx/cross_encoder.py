"""A cross-encoder of LangChain's as a backend."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rerankx import Backend, ReplyError, Scale

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder


class CrossEncoder(Backend):
    """Scores by a `BaseCrossEncoder`, such as `HuggingFaceCrossEncoder`; one call at a time.

    Args:
        encoder: Its `score` takes pairs of query and text, and returns one number each, higher is better.
        scale: What its scores are; it does not say so itself.

    Raises:
        TypeError: No `score`.
    """

    name = "langchain-cross-encoder"
    pointwise = True

    def __init__(self, encoder: BaseCrossEncoder, *, scale: Scale = Scale.UNKNOWN) -> None:
        if not callable(getattr(encoder, "score", None)):
            raise TypeError(
                f"a cross-encoder of LangChain's has a method score(pairs); {type(encoder).__name__} has none"
            )
        self.encoder, self.scale = encoder, scale
        self.model = str(getattr(encoder, "model_name", type(encoder).__name__))
        self._lock = _lock_of(encoder)

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> list[float]:
        with self._lock:
            scores = self.encoder.score([(query, text) for text in texts])
        try:
            return [_number(score) for score in scores]
        except (TypeError, ValueError) as error:
            shape = getattr(scores, "shape", None)
            what = f"scores of shape {tuple(shape)}" if shape else "something else than numbers"
            raise ReplyError(
                f"{self.model} returned {what} for {len(texts)} texts; expected one number each. A model with several classes is"
                " no reranker as it is"
            ) from error

    def __reduce__(self) -> tuple[object, ...]:
        return _cross_encoder, (self.encoder, self.scale)  # a lock does not travel


def _cross_encoder(encoder: BaseCrossEncoder, scale: Scale) -> CrossEncoder:
    return CrossEncoder(encoder, scale=scale)


def _number(score: Any) -> float:
    """Return a score, or the only one in an array, as a float."""
    return float(score.item() if hasattr(score, "item") else score)


# Fast tokenizers are set up anew at every call, so that two threads at once crash one another: one lock per encoder, whoever
# holds it.
_locks: dict[int, threading.Lock] = {}


def _lock_of(encoder: object) -> threading.Lock:
    made = threading.Lock()
    lock = _locks.setdefault(id(encoder), made)
    if lock is made:
        with contextlib.suppress(TypeError):  # it cannot be referred to weakly, so its lock stays
            weakref.finalize(encoder, _locks.pop, id(encoder), None)
    return lock
