"""The one verb: `Reranker(...).rerank(query, documents)`. It sorts once, cuts, normalises and reports."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar, overload

from rerankx import registry
from rerankx.arguments import (
    as_list,
    check_query,
    checked_deadline_s,
    checked_min_score,
    checked_top_n,
    scores_of,
    texts_of,
)
from rerankx.compose.fallback import Fallback
from rerankx.compose.retrieval import retrieved
from rerankx.errors import BackendError
from rerankx.interface import Attempt, Backend, Scale, Scores, Usage, deadline
from rerankx.ranking import Hit, Ranking, best_first

T = TypeVar("T")
OnError = Literal["raise", "input_order"]
Step = Callable[[Ranking[Any], int | None], Ranking[Any]]

logger = logging.getLogger("rerankx")

# Of no documents. The backend is not asked for its scale: a model may have to be fetched to know it.
_NOTHING = Scores((), scale=Scale.UNKNOWN)


class Reranker:
    """Orders documents by their relevance to a query, with the backend of your choice.

        Reranker().rerank("how do I get my money back?", passages, top_n=5)

    Safe under threads; sync calls work inside a running event loop, `arerank` does not block it.

    Args:
        backend: A name such as "embedded" or "backend:model" (`rerankx backends` lists them), or a `Backend`.
        model: Which of the backend's models, where the name does not say; only with a name.
        fallback: Who is asked where the backend fails: a name, a `Backend`, or several of them in their order, as in `Fallback`,
            which also takes thresholds for them. What answers says so: `degraded="fallback"`, `Ranking.attempts`.
        on_error: What a `BackendError`, with a fallback the last one's too, does: "raise", or "input_order", which returns the
            documents as they came, unscored, with `degraded="input_order"` and the errors in `attempts`, and logs a warning.
        deadline_s: Seconds for one ranking, above 0. A local backend stops between texts and leaves the rest unscored
            (`degraded="deadline"`); a remote one raises `DeadlineError`. With a fallback each but the last may use half of what
            is left. None = no bound.
        after: Functions of a ranking, applied in turn before it is cut to `top_n`: `drop_near_duplicates`, `mmr`,
            `lost_in_the_middle`, `fill_budget` of `rerankx.after`, or your own, `step(ranking, top_n) -> Ranking`. They may need
            more than `top_n`, so that the backend is asked for all; `deadline_s` does not bound them.
        on_ranking: Called with every `Ranking` before it is returned. What it raises is logged and stops nothing.
        **options: The backend's own options, not the fallback's; only with a name. A wrong one names the nearest right one.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: It needs a package that is not installed; the error says what to install.
        TypeError: An option that the backend does not have, or an argument of the wrong type.
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        backend: str | Backend = "embedded",
        *,
        model: str | None = None,
        fallback: str | Backend | Sequence[str | Backend] | None = None,
        on_error: OnError = "raise",
        deadline_s: float | None = None,
        after: Sequence[Step] = (),
        on_ranking: Callable[[Ranking[Any]], object] | None = None,
        **options: object,
    ) -> None:
        if on_error not in ("raise", "input_order"):
            raise ValueError(f"on_error must be 'raise' or 'input_order', not {on_error!r}")
        if on_ranking is not None and not callable(on_ranking):
            raise TypeError(f"on_ranking must be callable, not {type(on_ranking).__name__}")
        _refuse_call_arguments(options)
        self.backend = _with_fallback(_backend(backend, model, options), fallback)
        self.on_error: OnError = on_error
        self.deadline_s = checked_deadline_s(deadline_s)
        self.after = _checked_after(after)
        self.on_ranking = on_ranking

    @overload
    def rerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = ...,
        min_score: float | None = ...,
        key: None = ...,
        retrieval_score: Callable[[str], float | None] | None = ...,
    ) -> Ranking[str]: ...
    @overload
    def rerank(
        self,
        query: str,
        documents: Iterable[T],
        *,
        top_n: int | None = ...,
        min_score: float | None = ...,
        key: Callable[[T], str],
        retrieval_score: Callable[[T], float | None] | None = ...,
    ) -> Ranking[T]: ...
    def rerank(
        self,
        query: str,
        documents: Iterable[T],
        *,
        top_n: int | None = None,
        min_score: float | None = None,
        key: Callable[[T], str] | None = None,
        retrieval_score: Callable[[T], float | None] | None = None,
    ) -> Ranking[T]:
        """Return the documents in order of relevance, best first.

        Scored ones first, by raw score; ties by the order a server gave, then by input position; unscored ones last, as
        they came. Nothing is dropped unless `top_n` or `min_score` says so, and nothing is changed.

        Args:
            query: What to rank by; not blank.
            documents: Strings, or any objects together with `key`. Blank texts are kept, unscored. None at all is fine.
            top_n: Keep that many, at least 1; None keeps all.
            min_score: Keep those with `score` at or above it, in [0, 1]; applied before `top_n`. What a degraded result
                left unscored is kept, last. It belongs to the backend that was asked: not applied to a result degraded to
                "input_order" or "fallback", or where a cascade's last stage ran out of time: the scores mean something
                else, and `Ranking.min_score` is then None; but where a fallback answered that has a threshold of its own
                (`Fallback(min_scores=)`), that is applied.
            key: Returns the text of a document, as in `sorted`.
            retrieval_score: Returns the score that a document came with, higher is better, or None: for backends that take the
                retriever into account ("retrieval"), and for `Hit.retrieval_score`.

        Raises:
            ValueError: A blank query, an argument out of range, or `min_score` with a backend whose scores are only an
                order.
            TypeError: An argument of the wrong type; the message names it, and the position among the documents.
            BackendError: The backend failed and `on_error` is "raise".
        """
        return _Job(self, query, documents, top_n, min_score, key, retrieval_score).run()

    @overload
    async def arerank(
        self,
        query: str,
        documents: Iterable[str],
        *,
        top_n: int | None = ...,
        min_score: float | None = ...,
        key: None = ...,
        retrieval_score: Callable[[str], float | None] | None = ...,
    ) -> Ranking[str]: ...
    @overload
    async def arerank(
        self,
        query: str,
        documents: Iterable[T],
        *,
        top_n: int | None = ...,
        min_score: float | None = ...,
        key: Callable[[T], str],
        retrieval_score: Callable[[T], float | None] | None = ...,
    ) -> Ranking[T]: ...
    async def arerank(
        self,
        query: str,
        documents: Iterable[T],
        *,
        top_n: int | None = None,
        min_score: float | None = None,
        key: Callable[[T], str] | None = None,
        retrieval_score: Callable[[T], float | None] | None = None,
    ) -> Ranking[T]:
        """Return what `rerank` returns, without blocking the event loop."""
        if min_score is not None:  # it needs the scale, for which a model's configuration may have to be fetched
            from asyncio import to_thread

            await to_thread(getattr, self.backend, "scale")
        return await _Job(self, query, documents, top_n, min_score, key, retrieval_score).arun()

    @overload
    def rerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Iterable[str]],
        *,
        top_n: int | None = ...,
        min_score: float | None = ...,
        key: None = ...,
        retrieval_score: Callable[[str], float | None] | None = ...,
    ) -> list[Ranking[str]]: ...
    @overload
    def rerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Iterable[T]],
        *,
        top_n: int | None = ...,
        min_score: float | None = ...,
        key: Callable[[T], str],
        retrieval_score: Callable[[T], float | None] | None = ...,
    ) -> list[Ranking[T]]: ...
    def rerank_many(
        self,
        queries: Sequence[str],
        documents: Sequence[Iterable[T]],
        *,
        top_n: int | None = None,
        min_score: float | None = None,
        key: Callable[[T], str] | None = None,
        retrieval_score: Callable[[T], float | None] | None = None,
    ) -> list[Ranking[T]]:
        """Return one ranking per query, in their order; every argument is checked before anything is scored.

        Args:
            queries: The queries.
            documents: One collection of documents per query.
            top_n: As in `rerank`.
            min_score: As in `rerank`.
            key: As in `rerank`.
            retrieval_score: As in `rerank`.

        Raises:
            ValueError: Not one collection per query, or as in `rerank`.
            TypeError: As in `rerank`.
            BackendError: As in `rerank`.
        """
        if isinstance(queries, str):
            raise TypeError("queries is one string; pass a list of queries, or call rerank()")
        if len(queries) != len(documents):
            raise ValueError(f"documents must hold one list per query: {len(queries)} queries, {len(documents)} lists")
        pairs = zip(queries, documents, strict=True)
        jobs = [_Job(self, query, some, top_n, min_score, key, retrieval_score) for query, some in pairs]
        return [job.run() for job in jobs]

    def check(self, *, top_n: int | None = None, min_score: float | None = None) -> None:
        """Raise what `rerank` would raise for these arguments: for those who are given them long before the first query."""
        checked_top_n(top_n)
        _on_scale(checked_min_score(min_score), self.backend)

    def __repr__(self) -> str:
        return f"Reranker({self.backend.name!r}, model={self.backend.model!r})"


class _Job(Generic[T]):
    """One call of `rerank`: its checked arguments, and what becomes of the scores."""

    def __init__(
        self,
        reranker: Reranker,
        query: str,
        documents: Iterable[T],
        top_n: int | None,
        min_score: float | None,
        key: Callable[[T], str] | None,
        retrieval_score: Callable[[T], float | None] | None,
    ) -> None:
        check_query(query)
        self.reranker, self.backend, self.query = reranker, reranker.backend, query
        self.documents = as_list(documents)
        self.texts = texts_of(self.documents, key)
        self.came_with = scores_of(self.documents, retrieval_score)
        self.top_n = checked_top_n(top_n)
        self.min_score = _on_scale(checked_min_score(min_score), self.backend)

    def run(self) -> Ranking[T]:
        if not self.documents:
            return self.finished(self.stepped(self.ranking(_NOTHING)))
        start = time.perf_counter()
        try:
            with deadline(self.reranker.deadline_s), retrieved(self.texts, self.came_with):
                scores = self.backend.score(self.query, self.texts, top_n=self.wanted)
        except BackendError as error:
            scores = self.input_order(error, start)
        return self.finished(self.stepped(self.ranking(scores)))

    async def arun(self) -> Ranking[T]:
        if not self.documents:
            return self.finished(self.stepped(self.ranking(_NOTHING)))
        start = time.perf_counter()
        try:
            with deadline(self.reranker.deadline_s), retrieved(self.texts, self.came_with):
                scores = await self.backend.ascore(self.query, self.texts, top_n=self.wanted)
        except BackendError as error:
            scores = self.input_order(error, start)
        ranking = self.ranking(scores)
        if self.reranker.after:  # which may take a model
            from asyncio import to_thread

            ranking = await to_thread(self.stepped, ranking)
        return self.finished(ranking)

    @property
    def wanted(self) -> int | None:
        """Return how many of the best are needed: with steps that come after, perhaps all."""
        return None if self.reranker.after else self.top_n

    def input_order(self, error: BackendError, start: float) -> Scores:
        """Return "nothing scored", if the caller prefers that to the error; `start` is when the attempt began."""
        if self.reranker.on_error == "raise":
            raise error
        logger.warning("reranking failed, the input order stands: %s", error)
        told = f"{type(error).__name__}: {error}"
        attempts = error.attempts or (Attempt(self.backend.name, self.backend.model, told),)
        return Scores(
            (None,) * len(self.texts),
            degraded="input_order",
            attempts=attempts,
            usage=error.usage or Usage(),
            scale=self.backend.scale,
            elapsed_ms=(time.perf_counter() - start) * 1000,
        )

    def ranking(self, scores: Scores) -> Ranking[T]:
        scale = scores.scale or self.backend.scale
        order = best_first(scores.values, scores.order)
        n = len(order)

        def hit(position: int, index: int) -> Hit[T]:
            raw = scores.values[index]
            score = 0.0 if raw is None else scale.to_unit(raw) if scale.absolute else (n - position) / n
            details = None if scores.details is None else scores.details[index]
            came_with = None if self.came_with is None else self.came_with[index]
            return Hit(position + 1, index, score, raw, self.documents[index], self.texts[index], details, came_with)

        hits = [hit(position, index) for position, index in enumerate(order)]
        min_score = self._applicable_min_score(scores)
        if min_score is not None:
            # What a degraded result did not get to may be good: nobody knows, so it stays, last.
            hits = [h for h in hits if h.score >= min_score or (h.raw_score is None and scores.degraded)]
        backend, model = self._answerer(scores)
        return Ranking(
            hits=tuple(hits),
            query=self.query,
            backend=backend,
            model=model,
            scale=scale,
            total=n,
            min_score=min_score,
            usage=scores.usage,
            truncated=scores.truncated,
            elapsed_ms=scores.elapsed_ms,
            degraded=scores.degraded,
            attempts=tuple(scores.attempts),
        )

    def stepped(self, ranking: Ranking[T]) -> Ranking[T]:
        """Return the ranking after the steps that come after."""
        return stepped(self.reranker.after, ranking, self.top_n)

    def finished(self, ranking: Ranking[T]) -> Ranking[T]:
        """Return the ranking cut to `top_n`; tell who wants to know."""
        ranking = ranking[: self.top_n]
        self._notify(ranking)
        return ranking

    def _answerer(self, scores: Scores) -> tuple[str, str]:
        """Return backend and model that the scores are from."""
        answered = [attempt for attempt in scores.attempts if attempt.error is None]
        # With several, it is for none of them alone that the backend answers.
        return (
            (answered[0].backend, answered[0].model) if len(answered) == 1 else (self.backend.name, self.backend.model)
        )

    def _applicable_min_score(self, scores: Scores) -> float | None:
        if scores is _NOTHING or self.min_score is None:
            return self.min_score
        scale = scores.scale or self.backend.scale
        if scores.min_score is not None:
            if not scale.absolute:
                raise ValueError(
                    f"min_scores has a threshold for {self._answerer(scores)[0]!r}, whose scores ({scale.kind}) are only an order"
                )
            return scores.min_score
        if scores.degraded in ("input_order", "fallback") or not scale.absolute:
            reason = f"degraded to {scores.degraded!r}" if scores.degraded else "only an order"
            logger.warning("min_score=%s is not applied: the result is %s", self.min_score, reason)
            return None
        return self.min_score

    def _notify(self, ranking: Ranking[T]) -> None:
        if self.reranker.on_ranking is not None:
            try:
                self.reranker.on_ranking(ranking)
            except Exception:
                logger.exception("on_ranking raised; the ranking is returned all the same")


def stepped(steps: Iterable[Step], ranking: Ranking[T], top_n: int | None) -> Ranking[T]:
    """Return what the steps make of a ranking, one after the other.

    Raises:
        TypeError: One of them returns something else than a `Ranking`.
    """
    for step in steps:
        made: object = step(ranking, top_n)
        if not isinstance(made, Ranking):
            name = getattr(step, "__qualname__", type(step).__name__)
            raise TypeError(f"after: {name} returned {type(made).__name__}; a step returns a Ranking")
        ranking = made
    return ranking


def _checked_after(after: object) -> tuple[Step, ...]:
    if not isinstance(after, Sequence) or isinstance(after, str | bytes):
        raise TypeError(f"after must be a list of functions, step(ranking, top_n), not {type(after).__name__}")
    for i, step in enumerate(after):
        if not callable(step):
            raise TypeError(f"after[{i}] must be a function, step(ranking, top_n), not {type(step).__name__}")
    return tuple(after)


def _backend(backend: str | Backend, model: str | None, options: Mapping[str, object]) -> Backend:
    if isinstance(backend, str):
        return registry.create(backend, model=model, **options)
    if not isinstance(backend, Backend):
        raise TypeError(f"backend must be a name or a rerankx.Backend, not {type(backend).__name__}")
    given = sorted(options) if model is None else ["model", *sorted(options)]
    if given:
        kind = type(backend).__name__
        raise TypeError(f"{', '.join(given)} given with a {kind} object; pass them to its constructor")
    return backend


def _with_fallback(backend: Backend, fallback: object) -> Backend:
    if fallback is None:
        return backend
    if isinstance(fallback, str | Backend):
        return Fallback(backend, fallback)
    if not isinstance(fallback, Sequence) or isinstance(fallback, bytes):
        raise TypeError(f"fallback must be a name, a rerankx.Backend or a list of them, not {type(fallback).__name__}")
    return Fallback(backend, *fallback) if fallback else backend


def _refuse_call_arguments(options: Mapping[str, object]) -> None:
    for name in ("top_n", "min_score", "key", "retrieval_score"):
        if name in options:
            raise TypeError(f"{name} is an argument of rerank(), not of Reranker()")


def _on_scale(min_score: float | None, backend: Backend) -> float | None:
    """Return the threshold, if the backend's scores are such that there can be one."""
    if min_score is not None and not backend.scale.absolute:
        raise ValueError(
            "min_score needs scores that mean the same for every query; those of"
            f" {backend.name!r} ({backend.scale.kind}) are only an order: use top_n"
        )
    return min_score
