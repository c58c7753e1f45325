"""The public names as a user types them; `test_typing.py` has mypy read it. A wrong type here is a broken promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict, assert_type

import rerankx
from rerankx import (
    Attempt,
    Backend,
    BackendError,
    Cached,
    Cascade,
    DiskStore,
    Fallback,
    Fusion,
    Hit,
    Ranking,
    Reranker,
    Scale,
    Scores,
    Usage,
    Windowed,
    from_spec,
    to_spec,
)
from rerankx.after import drop_near_duplicates, lost_in_the_middle, mmr
from rerankx.testing import BackendContract, FakeBackend


class Passage(TypedDict):
    id: int
    text: str


PASSAGES: list[Passage] = [{"id": 1, "text": "red"}, {"id": 2, "text": "blue"}]


def text_of(passage: Passage) -> str:
    return passage["text"]


def id_of(passage: Passage) -> int:
    return passage["id"]


def strings_come_back_as_strings(reranker: Reranker) -> None:
    ranking = reranker.rerank("red", ["red", "blue"], top_n=1, min_score=0.5)
    assert_type(ranking, Ranking[str])
    assert_type(ranking[0], Hit[str])
    assert_type(ranking[:1], Ranking[str])
    assert_type(ranking.documents, list[str])
    assert_type([hit.score for hit in ranking], list[float])
    assert_type(ranking[0].raw_score, float | None)
    assert_type(ranking[0].details, Mapping[str, object] | None)
    assert_type(ranking.to_json(), str)


def any_iterable_of_strings_will_do(reranker: Reranker) -> None:
    assert_type(reranker.rerank("red", (text for text in ("red", "blue"))), Ranking[str])
    assert_type(reranker.rerank("red", {"a": "red"}.values()), Ranking[str])


def objects_come_back_as_they_are_with_a_key(reranker: Reranker) -> None:
    ranking = reranker.rerank("red", PASSAGES, key=text_of)
    assert_type(ranking, Ranking[Passage])
    assert_type(ranking[0].document, Passage)
    assert_type(reranker.rerank("red", PASSAGES, key=lambda passage: passage["text"]).documents, list[Passage])


def objects_without_a_key_are_an_error(reranker: Reranker) -> None:
    reranker.rerank("red", PASSAGES)  # type: ignore[arg-type]
    reranker.rerank("red", PASSAGES, key="text")  # type: ignore[call-overload]
    reranker.rerank("red", PASSAGES, key=id_of)  # type: ignore[arg-type]


async def awaiting_makes_no_difference(reranker: Reranker) -> None:
    assert_type(await reranker.arerank("red", ["red"]), Ranking[str])
    assert_type(await reranker.arerank("red", PASSAGES, key=text_of), Ranking[Passage])


def a_score_that_documents_came_with_is_a_number(reranker: Reranker) -> None:
    assert_type(reranker.rerank("red", PASSAGES, key=text_of, retrieval_score=id_of), Ranking[Passage])
    reranker.rerank("red", PASSAGES, key=text_of, retrieval_score=text_of)  # type: ignore[arg-type]


def steps_take_rankings_and_return_them() -> Reranker:
    def first(ranking: Ranking[Passage], top_n: int | None) -> Ranking[Passage]:
        return ranking[:1]

    Reranker(after=[text_of])  # type: ignore[list-item]
    return Reranker(after=[first, drop_near_duplicates, mmr, lost_in_the_middle])


def pipelines_are_backends_made_of_names_and_backends() -> list[Backend]:
    Cascade("embedded", keep=1)  # a string is a sequence of strings: refused when it runs
    Cascade(["embedded", 3], keep=1)  # type: ignore[list-item]
    Fusion(["retrieval"], method="sum")  # type: ignore[arg-type]
    return [
        Cascade(["embedded", FakeBackend()], keep=[20], deadlines_s=[None, 1.0]),
        Fusion(["retrieval", "embedded"], weights=[1, 2]),
        Windowed("embedded", combine="first"),
        Cached("embedded", DiskStore("scores.db"), ttl_s=60),
    ]


def a_pipeline_is_declared_and_written() -> dict[str, object]:
    return to_spec(from_spec({"backend": {"cascade": {"stages": ["embedded", "minilm"], "keep": 20}}}))


def rows_say_where_hits_came_from(ranking: Ranking[str]) -> None:
    assert_type(ranking.explain(), list[dict[str, object]])
    assert_type(ranking[0].retrieval_score, float | None)


def many_queries_give_many_rankings(reranker: Reranker) -> None:
    assert_type(reranker.rerank_many(["red"], [["red", "blue"]]), list[Ranking[str]])
    assert_type(reranker.rerank_many(["red"], [PASSAGES], key=text_of), list[Ranking[Passage]])


def a_ranking_of_something_is_a_ranking_of_objects(ranking: Ranking[str]) -> Ranking[object]:
    return ranking


def log(ranking: Ranking[object]) -> None:
    print(ranking.backend, ranking.elapsed_ms, ranking.usage.cost_usd, ranking.degraded, ranking.attempts)  # noqa: T201


def a_reranker_is_made_of_a_name_or_a_backend() -> list[Reranker]:
    Reranker("fake", on_error="ignore")  # type: ignore[arg-type]
    Reranker("fake", fallback=Reranker())  # type: ignore[arg-type]
    Fallback("cohere", None)  # type: ignore[arg-type]
    return [
        rerankx.Reranker(),
        Reranker("cohere:rerank-v3.5", on_error="input_order", deadline_s=2, on_ranking=log),
        Reranker("cohere", model="rerank-v3.5", api_key="..."),
        Reranker("cohere", fallback="minilm", api_key="..."),
        Reranker("cohere", fallback=["minilm", FakeBackend()]),
        Reranker(Fallback("cohere", FakeBackend(), min_scores={"fake": 0.5})),
        Reranker(FakeBackend(score=lambda query, text: float(len(text)), scale=Scale.UNKNOWN)),
    ]


class Shortest(Backend):
    name = "shortest"
    model = "none"
    scale = Scale.UNKNOWN
    pointwise = True

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> list[float]:
        return [-float(len(text)) for text in texts]


class Telling(Shortest):
    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return Scores([None for _ in texts], usage=Usage(calls=1), attempts=[Attempt("shortest", "none", "no")])


class TestShortest(BackendContract):
    query = "red"

    def make(self) -> Backend:
        return Shortest()


def an_error_is_caught_by_its_kind(backend: Backend) -> Scores | None:
    try:
        return backend.score("red", ["red"])
    except BackendError as error:
        log_attempts(error.attempts)
        return None


def log_attempts(attempts: Sequence[Attempt]) -> None:
    print(*(f"{attempt.backend}: {attempt.error} {attempt.degraded}" for attempt in attempts))  # noqa: T201
