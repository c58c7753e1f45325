import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerankx import Cascade, Fallback, Floor, Fusion, OptionError, Reranker, Scale, Scores
from rerankx.compose.retrieval import Retrieval
from rerankx.testing import BackendContract, FakeBackend

DOCUMENTS = ["one", "two", "three"]
CAME_WITH = {"one": 0.5, "two": 7.0, "three": -1.0}.get


def ranked(backend, documents=DOCUMENTS, how="rerank", **options):
    """Call `rerank` or `arerank`: what holds for one holds for the other."""
    if how == "rerank":
        return Reranker(backend).rerank("q", documents, **options)
    return asyncio.run(Reranker(backend).arerank("q", documents, **options))


def order(ranking):
    return [hit.index for hit in ranking]


def raw(ranking):
    return {hit.index: hit.raw_score for hit in ranking}


def longest(query, text):
    return len(text)


def backwards(**more):
    return FakeBackend(score=longest, scale=Scale.UNKNOWN, **more)


both = pytest.mark.parametrize("how", ["rerank", "arerank"])


class TestRetrievalContract(BackendContract):
    def make(self):
        return Retrieval()

    def test_the_relevant_text_scores_above_the_irrelevant_one(self):
        """It does not read the texts: the first is above the second."""
        first, second = self._scores(self.make(), [self.irrelevant, self.relevant])
        assert first > second


@both
def test_without_scores_it_is_the_order_in_which_the_texts_came(how):
    ranking = ranked("retrieval", how=how)
    assert (order(ranking), raw(ranking), ranking.scale) == ([0, 1, 2], {0: 3, 1: 2, 2: 1}, Scale.RANK)


@both
def test_with_scores_it_is_they(how):
    ranking = ranked("retrieval", how=how, retrieval_score=CAME_WITH)
    assert (order(ranking), raw(ranking), ranking.scale) == ([1, 0, 2], {0: 0.5, 1: 7, 2: -1}, Scale.UNKNOWN)


@both
@pytest.mark.parametrize(
    "outer", [lambda one: Cascade([backwards(), one], keep=3), lambda one: Floor(one, backwards())]
)
def test_wherever_it_stands_it_knows_how_the_texts_came_to_the_reranker(how, outer):
    assert order(ranked(outer("retrieval"), how=how)) == [0, 1, 2]
    assert order(ranked(outer("retrieval"), how=how, retrieval_score=CAME_WITH)) == [1, 0, 2]


@both
def test_among_others_each_in_a_thread_or_a_task_of_its_own_too(how):
    inner = Fallback(Fusion([backwards(), "retrieval"], weights=[0, 1]), "retrieval")
    nested = Fusion([backwards(), inner], weights=[0, 1])
    assert order(ranked(nested, how=how, retrieval_score=CAME_WITH)) == [1, 0, 2]
    assert order(ranked(nested, how=how)) == [0, 1, 2]


def test_one_that_came_without_a_score_among_others_is_not_scored():
    ranking = ranked("retrieval", retrieval_score={"two": 1.0}.get)
    assert (order(ranking), raw(ranking)) == ([1, 0, 2], {0: None, 1: 1, 2: None})


def test_where_none_came_with_a_score_their_order_counts():
    ranking = ranked("retrieval", retrieval_score=lambda document: None)
    assert (order(ranking), ranking.scale) == ([0, 1, 2], Scale.RANK)


def test_scores_of_0_are_scores():
    assert ranked("retrieval", retrieval_score=lambda document: 0).scale == Scale.UNKNOWN


def test_a_text_that_came_several_times_has_the_best_of_its_places_and_scores():
    documents = [("a", 1), ("b", 5), ("a", 9), ("c", None), ("b", 4)]
    plain = Reranker("retrieval").rerank("q", documents, key=lambda one: one[0])
    assert raw(plain) == {0: 5, 1: 4, 2: 5, 3: 2, 4: 4}
    scored = Reranker("retrieval").rerank("q", documents, key=lambda one: one[0], retrieval_score=lambda one: one[1])
    assert raw(scored) == {0: 9, 1: 5, 2: 9, 3: None, 4: 5}


def test_blank_texts_take_up_their_places_and_are_not_scored():
    assert raw(ranked("retrieval", ["", "a", " ", "b"])) == {0: None, 1: 3, 2: None, 3: 1}


def test_asked_by_itself_it_is_the_order_of_what_it_is_asked_about():
    assert Retrieval().score("q", ["b", "a"]).values == (2, 1)


def test_hybrid_search_is_one_line():
    hybrid = Fusion(["retrieval", backwards()], method="weighted", weights=[9, 1])
    assert order(ranked(hybrid, retrieval_score=CAME_WITH)) == [1, 0, 2]
    assert order(ranked(Fusion(["retrieval", backwards()], weights=[1, 3]))) == [2, 0, 1]


def test_weighted_without_scores_says_what_to_do():
    with pytest.raises(OptionError, match=r"no retrieval_score came.*take method='rrf'"):
        ranked(Fusion(["retrieval", backwards()], method="weighted"))


def test_an_option_that_is_wrong_is_not_swallowed_by_the_input_order():
    reranker = Reranker(Fusion(["retrieval", backwards()], method="weighted"), on_error="input_order")
    with pytest.raises(OptionError):
        reranker.rerank("q", DOCUMENTS)


# One query's retriever is not another's


def test_every_query_has_its_own_retriever():
    reranker = Reranker("retrieval")
    both_ways = reranker.rerank_many(["p", "q"], [DOCUMENTS, DOCUMENTS[::-1]])
    assert [ranking.documents for ranking in both_ways] == [DOCUMENTS, DOCUMENTS[::-1]]


def test_threads_and_tasks_do_not_see_each_others():
    reranker = Reranker(Cascade([backwards(), "retrieval"], keep=50))
    jobs = [[f"{i}" + "x" * ((i * j) % 7) for j in range(9)] for i in range(24)]

    async def run():
        return await asyncio.gather(*(reranker.arerank("q", job) for job in jobs))

    with ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(lambda job: reranker.rerank("q", job), jobs))
    for job, in_thread, in_task in zip(jobs, threads, asyncio.run(run()), strict=True):
        assert raw(in_thread) == raw(in_task) == {i: 9 - job.index(text) for i, text in enumerate(job)}


def test_a_reranker_within_one_has_its_own_and_leaves_the_outers():
    class Asking(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            self.inner = Reranker("retrieval").rerank("q", ["other", *texts])
            return super()._score(query, texts, top_n=top_n)

    asking = Asking()
    ranking = ranked(Cascade([asking, "retrieval"], keep=3), retrieval_score=CAME_WITH)
    assert asking.inner.documents == ["other", *DOCUMENTS]
    assert order(ranking) == [1, 0, 2]


@pytest.mark.parametrize("error", [None, RuntimeError("down")])
def test_nothing_of_a_query_is_left_behind(error):
    before = contextvars.copy_context()
    reranker = Reranker(FakeBackend(error=error), on_error="input_order")
    reranker.rerank("q", DOCUMENTS, retrieval_score=CAME_WITH)
    left = {name: value for name, value in contextvars.copy_context().items() if before.get(name) is not value}
    assert {name: value for name, value in left.items() if value is not None} == {}


# What the ranking knows of it


@both
def test_a_hit_has_the_score_that_it_came_with_whoever_ranks(how):
    ranking = ranked(backwards(), how=how, retrieval_score=CAME_WITH, top_n=2)
    assert [(hit.document, hit.retrieval_score) for hit in ranking] == [("three", -1), ("one", 0.5)]
    assert [hit.retrieval_score for hit in ranked(backwards(), how=how)] == [None] * 3
    assert ranking.to_dict()["hits"][0]["retrieval_score"] == -1


def test_the_input_order_keeps_the_scores():
    reranker = Reranker(FakeBackend(error=RuntimeError("down")), on_error="input_order")
    ranking = reranker.rerank("q", DOCUMENTS, retrieval_score=CAME_WITH)
    assert [hit.retrieval_score for hit in ranking] == [0.5, 7, -1]


def test_documents_may_come_from_a_generator_and_are_asked_once():
    seen = []

    def score(document):
        seen.append(document)
        return 1

    Reranker(backwards()).rerank("q", (text for text in DOCUMENTS), retrieval_score=score)
    assert seen == DOCUMENTS


def test_rerank_many_gives_every_hit_its_score():
    many = Reranker(backwards()).rerank_many(["p", "q"], [["one"], ["two"]], retrieval_score=CAME_WITH)
    assert [hit.retrieval_score for ranking in many for hit in ranking] == [0.5, 7]


@pytest.mark.parametrize(
    ("score", "error", "words"),
    [
        (0.5, TypeError, "retrieval_score must be a function of a document, not float"),
        (lambda document: "0.5", TypeError, "retrieval_score returned str for document 0, not a number or None"),
        (lambda document: True, TypeError, "retrieval_score returned bool for document 0"),
        (lambda document: None if document == "one" else [1], TypeError, "list for document 1"),
        (lambda document: float("nan"), ValueError, "retrieval_score returned nan for document 0; scores must be finite"),
        (lambda document: 10**400, (ValueError, TypeError), "retrieval_score .*document 0"),
    ],
)  # fmt: skip
def test_a_score_that_is_none_is_refused_with_its_place(score, error, words):
    backend = backwards()
    with pytest.raises(error, match=words):
        ranked(backend, retrieval_score=score)
    assert backend.calls == []


def test_an_array_is_no_score():
    import numpy as np

    with pytest.raises(TypeError, match=r"retrieval_score .*document 0"):
        ranked(backwards(), retrieval_score=lambda document: np.array([1.0, 2.0]))
    ranking = ranked(backwards(), retrieval_score=lambda document: np.float32(0.5))
    assert all(type(hit.retrieval_score) is float for hit in ranking)


def test_it_is_an_argument_of_the_call():
    with pytest.raises(TypeError, match=r"retrieval_score is an argument of rerank\(\)"):
        Reranker("embedded", retrieval_score=CAME_WITH)


def test_scores_that_a_retriever_gave_have_no_threshold():
    with pytest.raises(ValueError, match="min_score"):
        ranked("retrieval", retrieval_score=CAME_WITH, min_score=0.5)


def test_a_text_that_did_not_come_is_not_scored():
    class Rewriting(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            return Scores(Retrieval().score(query, ["foreign", *texts]).values[1:])

    assert raw(ranked(Rewriting(scale=Scale.RANK))) == {0: 3, 1: 2, 2: 1}
