"""`RerankSession`: several rounds of retrieval for one question, as agents make them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Generic, TypeVar, cast, overload

from rerankx.after import fill_budget, lost_in_the_middle
from rerankx.arguments import as_list, check_query, texts_of
from rerankx.compose.cached import Cached
from rerankx.compose.made import whole
from rerankx.interface import Backend, Scale, Usage
from rerankx.ranking import Ranking, best_first
from rerankx.reranker import Reranker

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Round(Generic[T_co]):
    """What one round of retrieval brought."""

    query: str
    """The sub-question; the question itself, if there was none."""
    ranking: Ranking[T_co]
    """The round's documents against the sub-question. The `details` of a hit hold "question_score": its `score` for the original
    question, None where that is not known. On a scale that is not absolute it is, as `Hit.score` always is there, its place
    among all that the session holds."""
    new: int
    """How many texts the session did not have."""
    changed: int | None
    """How many of the best for the original question, `watch` of them, were not among the best before the round. None where that
    is not known: the backend is not pointwise, or it left some of the round's texts unscored."""
    usage: Usage = field(default_factory=Usage)
    """What the round took: the scores for the sub-question, and those for the original question."""

    @property
    def settled(self) -> bool:
        """Return whether the round changed nothing: no other documents are the best; where that is not known, none is new.

        A reason to stop searching.
        """
        return self.new == 0 if self.changed is None else self.changed == 0


class RerankSession(Generic[T]):
    """Collects what rounds of retrieval find for one question, and ranks all of it against that question.

        session = RerankSession("minilm", "How do I return a gift and who pays the shipping?")
        session.add(search("return a gift"), query="return a gift")
        if not session.add(search("who pays return shipping"), query="who pays return shipping").settled:
            ...
        session.context(top_n=5, budget_tokens=2000)

    Documents are the same if their texts are; the first stays. With a pointwise backend no pair of query and text is scored
    twice, and the context costs nothing that a round has paid for. Any other backend, such as `Fallback` or a language model that
    sees a list, is asked anew each time: by `add` about the round's documents, by `context` about all.

    Safe under threads and event loops: rounds may be added side by side. A round that fails leaves the session as it was, but
    scores that were had are not paid for again. It keeps what it was given until it goes; pickled, it travels without the
    scores.

    Args:
        reranker: A backend's name, a `Backend`, or a `Reranker`, whose `on_error`, `deadline_s`, `on_ranking` and `after` hold
            for each ranking. With a pointwise backend a round makes two; `after` and `on_ranking` see the sub-question's alone.
        question: The original question; not blank.
        key: Returns the text of a document, as in `rerank`.
        watch: How many of the best `Round.changed` is about, at least 1.

    Raises:
        ValueError: A blank question, or a number out of its range.
        TypeError: An argument of the wrong type.
        UnknownBackendError: No backend of that name.
        MissingDependencyError: It needs a package that is not installed.
    """

    @overload
    def __init__(
        self: RerankSession[str],
        reranker: str | Backend | Reranker,
        question: str,
        *,
        key: None = ...,
        watch: int = ...,
    ) -> None: ...
    @overload
    def __init__(
        self,
        reranker: str | Backend | Reranker,
        question: str,
        *,
        key: Callable[[T], str],
        watch: int = ...,
    ) -> None: ...
    def __init__(
        self,
        reranker: str | Backend | Reranker,
        question: str,
        *,
        key: Callable[[T], str] | None = None,
        watch: int = 10,
    ) -> None:
        check_query(question)
        texts_of([], key)
        self.question = question
        self.watch = whole("watch", watch)
        self._key = key
        self._reranker = _keeping_scores(reranker if isinstance(reranker, Reranker) else Reranker(reranker))
        self._pool = _Pool[T](self.watch)

    @property
    def documents(self) -> list[T]:
        """Return all documents of all rounds, each text once: every round's first, then every round's second, and so on.

        A text that several rounds found has the best of its places. So "retrieval" in a pipeline favours no round.
        """
        return self._pool.documents()

    @property
    def rounds(self) -> list[Round[T]]:
        """Return the rounds, in the order in which they ended."""
        return self._pool.rounds()

    def add(
        self,
        documents: Iterable[T],
        *,
        query: str | None = None,
        top_n: int | None = None,
        min_score: float | None = None,
    ) -> Round[T]:
        """Return the round's documents in order of relevance to the sub-question; all of them join the session.

        Args:
            documents: What the round found; none at all is fine.
            query: The sub-question that they were found by; None = the question itself.
            top_n: As in `rerank`, for the ranking alone: what is cut joins the session, too.
            min_score: As in `rerank`, for the ranking alone.

        Raises:
            ValueError: As in `rerank`.
            TypeError: As in `rerank`.
            BackendError: The backend failed and `on_error` is "raise"; the session is as before.
        """
        came = self._came(documents, query)
        ranking = self._reranker.rerank(came.query, came.documents, top_n=top_n, min_score=min_score, key=self._text)
        known = self._plain().rerank(self.question, came.texts) if self._reranker.backend.pointwise else None
        return self._pool.join(came, ranking, known)

    async def aadd(
        self,
        documents: Iterable[T],
        *,
        query: str | None = None,
        top_n: int | None = None,
        min_score: float | None = None,
    ) -> Round[T]:
        """Return what `add` returns, without blocking the event loop."""
        came, reranker = self._came(documents, query), self._reranker
        ranking = await reranker.arerank(came.query, came.documents, top_n=top_n, min_score=min_score, key=self._text)
        known = await self._plain().arerank(self.question, came.texts) if reranker.backend.pointwise else None
        return self._pool.join(came, ranking, known)

    def context(
        self,
        *,
        top_n: int | None = None,
        min_score: float | None = None,
        budget_tokens: int | None = None,
        count_tokens: Callable[[str], int] | None = None,
    ) -> Ranking[T]:
        """Return all documents of all rounds in order of relevance to the original question.

        The same as one `rerank` of `documents`, ties as these stand. The `details` of a hit hold "rounds": a list of
        {"query", "rank", "score"}, one for each round that found it; rank and score are None where the round's own ranking left
        it out.

        Args:
            top_n: Keep that many, at least 1; None keeps all.
            min_score: As in `rerank`.
            budget_tokens: Keep what fits into so many tokens, from the top down, as in `fill_budget`; after the reranker's own
                `after`, but before a `lost_in_the_middle` in it. None = no bound.
            count_tokens: As in `fill_budget`.

        Raises:
            ValueError: As in `rerank`.
            TypeError: As in `rerank`.
            BackendError: The backend failed and `on_error` is "raise".
        """
        reranker = self._with_budget(budget_tokens, count_tokens)
        documents, found = self._pool.found()
        ranking = reranker.rerank(self.question, documents, top_n=top_n, min_score=min_score, key=self._text)
        return _with_rounds(ranking, found)

    async def acontext(
        self,
        *,
        top_n: int | None = None,
        min_score: float | None = None,
        budget_tokens: int | None = None,
        count_tokens: Callable[[str], int] | None = None,
    ) -> Ranking[T]:
        """Return what `context` returns, without blocking the event loop."""
        reranker = self._with_budget(budget_tokens, count_tokens)
        documents, found = self._pool.found()
        ranking = await reranker.arerank(self.question, documents, top_n=top_n, min_score=min_score, key=self._text)
        return _with_rounds(ranking, found)

    def __repr__(self) -> str:
        return f"<RerankSession of {len(self.rounds)} rounds and {len(self.documents)} documents by {self._reranker!r}>"

    def _came(self, documents: Iterable[T], query: str | None) -> _Came[T]:
        query = self.question if query is None else query
        check_query(query)
        there = as_list(documents)
        texts = texts_of(there, self._key)
        firsts: dict[str, T] = {}
        for document, text in zip(there, texts, strict=True):
            firsts.setdefault(text, document)
        return _Came(query, there, firsts)

    def _text(self, document: T) -> str:
        return cast(str, document) if self._key is None else self._key(document)

    def _plain(self) -> Reranker:
        """Return the reranker that gives scores and does nothing else."""
        plain = copy(self._reranker)
        plain.after, plain.on_ranking = (), None
        return plain

    def _with_budget(self, budget_tokens: int | None, count_tokens: Callable[[str], int] | None) -> Reranker:
        if budget_tokens is None:
            if count_tokens is not None:
                raise ValueError("count_tokens counts for a budget, and there is none; pass budget_tokens, too")
            return self._reranker
        fill = partial(fill_budget, budget_tokens=budget_tokens, count_tokens=count_tokens)
        fill(_EMPTY)  # a wrong argument is found out before anything is scored
        reranker = copy(self._reranker)
        last = tuple(step for step in reranker.after[-1:] if step is lost_in_the_middle)
        reranker.after = (*reranker.after[: len(reranker.after) - len(last)], fill, *last)
        return reranker


@dataclass(frozen=True, slots=True)
class _Came(Generic[T]):
    """What came with a round: its query, its documents, and the first one of each text."""

    query: str
    documents: list[T]
    firsts: dict[str, T]

    @property
    def texts(self) -> list[str]:
        return list(self.firsts)


@dataclass(slots=True)
class _Entry(Generic[T]):
    document: T
    place: int
    """The best that it came in, from 0, among the texts of a round."""
    rounds: list[dict[str, object]] = field(default_factory=list)
    raw_score: float | None = None
    """For the original question, as far as it is known."""


class _Pool(Generic[T]):
    """What a session holds; every method is one step to other threads."""

    def __init__(self, watch: int) -> None:
        self._watch = watch
        self._entries: dict[str, _Entry[T]] = {}
        self._rounds: list[Round[T]] = []
        self._lock = threading.Lock()

    def documents(self) -> list[T]:
        return self.found()[0]

    def rounds(self) -> list[Round[T]]:
        with self._lock:
            return list(self._rounds)

    def found(self) -> tuple[list[T], dict[str, list[dict[str, object]]]]:
        """Return all documents, by the best place that they came in, and for each text the rounds that found it."""
        with self._lock:
            rounds = {text: [dict(one) for one in entry.rounds] for text, entry in self._entries.items()}
            entries = sorted(self._entries.values(), key=lambda entry: entry.place)
            return [entry.document for entry in entries], rounds

    def join(self, came: _Came[T], ranking: Ranking[T], known: Ranking[str] | None) -> Round[T]:
        """Take a round in; `known` has the scores of its texts for the original question, if there can be any."""
        with self._lock:
            before = set(self._best())
            new = len(came.firsts.keys() - self._entries.keys())
            for place, (text, document) in enumerate(came.firsts.items()):
                entry = self._entries.setdefault(text, _Entry(document, place))
                entry.place = min(entry.place, place)
            places = {
                hit.text: hit for hit in sorted(ranking.hits, key=lambda hit: -hit.rank)
            }  # of equal texts the best
            for text in came.firsts:
                hit = places.get(text)
                rank, score = (None, None) if hit is None else (hit.rank, hit.score)
                self._entries[text].rounds.append({"query": came.query, "rank": rank, "score": score})
            changed, usage = None, ranking.usage
            question_scores: Mapping[str, float] = {}
            if known is not None:
                usage += known.usage
                for scored in known:
                    if scored.raw_score is not None:
                        self._entries[scored.text].raw_score = scored.raw_score
                if all(scored.raw_score is not None or not scored.text.strip() for scored in known):
                    changed = len(set(self._best()) - before)
                question_scores = self._question_scores(came.texts, known.scale)
            hits = tuple(
                replace(hit, details={**(hit.details or {}), "question_score": question_scores.get(hit.text)})
                for hit in ranking
            )
            done = Round(came.query, replace(ranking, hits=hits), new, changed, usage)
            self._rounds.append(done)
            return done

    def _order(self) -> list[str]:
        """Return the texts that have a score for the original question, best first."""
        entries = sorted(self._entries.items(), key=lambda item: item[1].place)
        texts = [text for text, entry in entries if entry.raw_score is not None]
        return [texts[i] for i in best_first([self._entries[text].raw_score for text in texts])]

    def _best(self) -> list[str]:
        return self._order()[: self._watch]

    def _question_scores(self, texts: Sequence[str], scale: Scale) -> dict[str, float]:
        """Return the score of each text for the original question, as `Hit.score` has it; of those that have one."""
        n = len(self._entries)
        place = {} if scale.absolute else {text: (n - i) / n for i, text in enumerate(self._order())}
        raw = {text: self._entries[text].raw_score for text in texts}
        return {
            text: scale.to_unit(score) if scale.absolute else place[text]
            for text, score in raw.items()
            if score is not None
        }

    def __getstate__(self) -> dict[str, object]:
        with self._lock:
            entries = {text: replace(entry, rounds=list(entry.rounds)) for text, entry in self._entries.items()}
            return {"_watch": self._watch, "_entries": entries, "_rounds": list(self._rounds)}

    def __setstate__(self, state: Mapping[str, object]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


_EMPTY = Ranking[Any]((), "", "", "", Scale.UNKNOWN, total=0)


def _keeping_scores(reranker: Reranker) -> Reranker:
    """Return the reranker, with a memory for scores where they may be kept."""
    if not reranker.backend.pointwise or isinstance(reranker.backend, Cached):
        return reranker
    keeping = copy(reranker)
    keeping.backend = Cached(reranker.backend)
    return keeping


def _with_rounds(ranking: Ranking[T], found: Mapping[str, list[dict[str, object]]]) -> Ranking[T]:
    # By text: a step that comes after may number its hits anew, or bring others.
    hits = tuple(replace(hit, details={**(hit.details or {}), "rounds": found.get(hit.text, [])}) for hit in ranking)
    return replace(ranking, hits=hits)
