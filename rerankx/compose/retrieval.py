"""`Retrieval`: the retriever's own order and scores, as a backend among others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from rerankx.interface import Backend, Scale, Scores


class _Retrieved(NamedTuple):
    texts: Sequence[str]
    scores: Sequence[float | None] | None


_retrieved: ContextVar[_Retrieved | None] = ContextVar("rerankx_retrieved", default=None)


@contextmanager
def retrieved(texts: Sequence[str], scores: Sequence[float | None] | None) -> Iterator[None]:
    """Let `Retrieval` know, within, in which order the texts came and with which scores, if any: higher is better."""
    token = _retrieved.set(_Retrieved(texts, scores))
    try:
        yield
    finally:
        _retrieved.reset(token)


class Retrieval(Backend):
    """Scores the texts as the retriever did: by its scores, where `rerank` was given them, else by the order in which they came.

        Fusion(["retrieval", "embedded"])
        Cascade(["retrieval", "minilm"], keep=[20])

    That is the order in which they came to `Reranker.rerank`, wherever in a pipeline this stands; between equal scores it
    decides. A text that came several times has the best of its places and scores. One that came without a score, among others
    with one, is not scored.
    """

    name = "retrieval"
    model = "order-or-score"
    scale = Scale.UNKNOWN
    pointwise = False

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        came = _retrieved.get()
        if came is None:  # asked by itself, not by a `Reranker`
            came = _Retrieved(texts, None)
        places = {text: place for place, text in reversed(list(enumerate(came.texts)))}
        order = sorted((i for i, text in enumerate(texts) if text in places), key=lambda i: places[texts[i]])
        if came.scores is not None and any(score is not None for score in came.scores):
            best: dict[str, float] = {}
            for text, score in zip(came.texts, came.scores, strict=True):
                if score is not None:
                    best[text] = max(score, best.get(text, score))
            return Scores([best.get(text) for text in texts], order)
        n = len(came.texts)
        return Scores([float(n - places[text]) if text in places else None for text in texts], order, scale=Scale.RANK)
