"""From long documents to the passages that go into a prompt: `rerank_then_chunk`."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar, overload

from rerankx.after import fill_budget
from rerankx.arguments import as_list, check_query, texts_of
from rerankx.compose.cached import Cached
from rerankx.compose.made import whole
from rerankx.compose.windowed import Windowed
from rerankx.interface import Backend, deadline
from rerankx.ranking import Ranking
from rerankx.reranker import Reranker, stepped
from rerankx.sentences import split_windows

T = TypeVar("T")

logger = logging.getLogger("rerankx")


@dataclass(frozen=True, slots=True)
class Chunk(Generic[T]):
    """A piece of a document."""

    document: T
    """The caller's object itself."""
    index: int
    """The document's position among those that came in, from 0."""
    start: int
    """Where the piece begins in the document's text, in characters."""
    end: int
    """Where it ends."""
    text: str
    """What stands there."""


@overload
def rerank_then_chunk(
    query: str,
    documents: Iterable[str],
    *,
    budget_tokens: int,
    reranker: str | Backend | Reranker = ...,
    documents_kept: int = ...,
    chunk_tokens: int = ...,
    count_tokens: Callable[[str], int] | None = ...,
    key: None = ...,
) -> Ranking[Chunk[str]]: ...
@overload
def rerank_then_chunk(
    query: str,
    documents: Iterable[T],
    *,
    budget_tokens: int,
    reranker: str | Backend | Reranker = ...,
    documents_kept: int = ...,
    chunk_tokens: int = ...,
    count_tokens: Callable[[str], int] | None = ...,
    key: Callable[[T], str],
) -> Ranking[Chunk[T]]: ...
def rerank_then_chunk(
    query: str,
    documents: Iterable[T],
    *,
    budget_tokens: int,
    reranker: str | Backend | Reranker = "embedded",
    documents_kept: int = 5,
    chunk_tokens: int = 200,
    count_tokens: Callable[[str], int] | None = None,
    key: Callable[[T], str] | None = None,
) -> Ranking[Chunk[T]]:
    """Return the best pieces of the best documents, as many as fit a budget, best first.

        context = rerank_then_chunk(question, documents, budget_tokens=2_000)
        prompt = " ".join(hit.text for hit in context)

    Whole documents are ranked first, a pointwise backend through `Windowed`, so that their last page counts too. The best ones
    are cut where sentences end, into pieces that do not overlap, and the pieces are ranked by the same backend. They go in by
    rank; one that does not fit any more is passed over, and the next one may. A document or piece whose text occurs twice goes in
    once. Where nothing fits, the ranking is empty and a warning is logged.

    Args:
        query: What to rank by; not blank.
        documents: Strings, or any objects together with `key`.
        budget_tokens: The most tokens that all pieces together may have, at least 1.
        reranker: A backend's name, a `Backend`, or a `Reranker`, whose `deadline_s` is then for both rankings together, whose
            `on_ranking` hears of each of them, and whose `after` comes after that of the pieces.
        documents_kept: How many of the best documents are cut into pieces, at least 1.
        chunk_tokens: The longest piece, at least 1, as the backend counts tokens.
        count_tokens: Returns how many tokens a piece takes of the budget: those of the model that will read it. None counts as
            the backend does.
        key: Returns the text of a document, as in `sorted`.

    Returns:
        Hits of `Chunk`, which say where in which document they stand. `rank` is that among all pieces and `total` their number;
        usage, time and attempts are those of both rankings.

    Raises:
        ValueError: A blank query, or an argument out of its range.
        TypeError: An argument of the wrong type.
        BackendError: The backend failed and the reranker's `on_error` is "raise".
    """
    job = _Job(query, documents, budget_tokens, reranker, documents_kept, chunk_tokens, count_tokens, key)
    with deadline(job.reranker.deadline_s):
        ranked = job.reranker.rerank(query, job.indices, top_n=job.kept, key=job.texts.__getitem__)
        pieces = job.pieces(ranked)
        scored = job.reranker.rerank(query, pieces, key=_text)
    return job.filled(ranked, scored)


@overload
async def arerank_then_chunk(
    query: str,
    documents: Iterable[str],
    *,
    budget_tokens: int,
    reranker: str | Backend | Reranker = ...,
    documents_kept: int = ...,
    chunk_tokens: int = ...,
    count_tokens: Callable[[str], int] | None = ...,
    key: None = ...,
) -> Ranking[Chunk[str]]: ...
@overload
async def arerank_then_chunk(
    query: str,
    documents: Iterable[T],
    *,
    budget_tokens: int,
    reranker: str | Backend | Reranker = ...,
    documents_kept: int = ...,
    chunk_tokens: int = ...,
    count_tokens: Callable[[str], int] | None = ...,
    key: Callable[[T], str],
) -> Ranking[Chunk[T]]: ...
async def arerank_then_chunk(
    query: str,
    documents: Iterable[T],
    *,
    budget_tokens: int,
    reranker: str | Backend | Reranker = "embedded",
    documents_kept: int = 5,
    chunk_tokens: int = 200,
    count_tokens: Callable[[str], int] | None = None,
    key: Callable[[T], str] | None = None,
) -> Ranking[Chunk[T]]:
    """Return what `rerank_then_chunk` returns, without blocking the event loop."""
    from asyncio import to_thread

    job = _Job(query, documents, budget_tokens, reranker, documents_kept, chunk_tokens, count_tokens, key)
    with deadline(job.reranker.deadline_s):
        ranked = await job.reranker.arerank(query, job.indices, top_n=job.kept, key=job.texts.__getitem__)
        pieces = await to_thread(job.pieces, ranked)
        scored = await job.reranker.arerank(query, pieces, key=_text)
    return await to_thread(job.filled, ranked, scored)


class _Job(Generic[T]):
    """One call: its checked arguments, and what is pure of it."""

    def __init__(
        self,
        query: str,
        documents: Iterable[T],
        budget_tokens: int,
        reranker: str | Backend | Reranker,
        documents_kept: int,
        chunk_tokens: int,
        count_tokens: Callable[[str], int] | None,
        key: Callable[[T], str] | None,
    ) -> None:
        check_query(query)
        self.budget, self.size = whole("budget_tokens", budget_tokens), whole("chunk_tokens", chunk_tokens)
        self.kept = whole("documents_kept", documents_kept)
        if count_tokens is not None and not callable(count_tokens):  # before anything is scored
            raise TypeError(f"count_tokens must be a function of a text, not {type(count_tokens).__name__}")
        self.reranker = _reads_all(reranker if isinstance(reranker, Reranker) else Reranker(reranker))
        self.after = self.reranker.after
        self.reranker.after = ()  # a token budget, say, is not for whole documents
        self.spans = self.reranker.backend.token_spans
        self.count = count_tokens or (lambda text: len(self.spans(text)))
        self.documents = as_list(documents)
        self.texts = texts_of(self.documents, key)
        self.indices = list({text: i for i, text in reversed(list(enumerate(self.texts)))}.values())[::-1]
        """Of the documents to rank: the first one of each text."""

    def pieces(self, ranked: Ranking[int]) -> list[Chunk[T]]:
        """Return the pieces of the best documents, in the order of these; a text that occurs twice is there once."""
        found: dict[str, Chunk[T]] = {}
        for hit in ranked:
            i, text = hit.document, hit.text
            for start, end in split_windows(text, self.spans(text), size=self.size, overlap=0):
                piece = text[start:end]
                if piece.strip():
                    found.setdefault(piece, Chunk(self.documents[i], i, start, end, piece))
        return list(found.values())

    def filled(self, ranked: Ranking[int], pieces: Ranking[Chunk[T]]) -> Ranking[Chunk[T]]:
        """Return those of the ranked pieces that fit the budget, with what both rankings took."""
        pieces = stepped(self.after, pieces, None)
        by_rank = replace(
            pieces, hits=tuple(sorted(pieces, key=lambda hit: hit.rank))
        )  # what comes after may have moved them
        fitting = fill_budget(by_rank, budget_tokens=self.budget, count_tokens=self.count)
        taken = {hit.index for hit in fitting}
        return replace(
            pieces,
            hits=tuple(hit for hit in pieces if hit.index in taken),
            usage=ranked.usage + pieces.usage,
            truncated=ranked.truncated + pieces.truncated,
            elapsed_ms=ranked.elapsed_ms + pieces.elapsed_ms,
            degraded=pieces.degraded or ranked.degraded,
            attempts=ranked.attempts + pieces.attempts,
        )


def _text(chunk: Chunk[T]) -> str:
    return chunk.text


def _reads_all(reranker: Reranker) -> Reranker:
    """Return the reranker, with windows if it may have them; the caller's own stays as it was."""
    wide = copy.copy(reranker)
    inner: object = reranker.backend
    while isinstance(inner, Cached):
        inner = inner.backend
    if reranker.backend.pointwise and not isinstance(inner, Windowed):
        wide.backend = Windowed(reranker.backend)
    return wide
