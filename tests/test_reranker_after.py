import asyncio
import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import BackendError, Ranking, Reranker, Scale
from rerankx.testing import FakeBackend

DOCUMENTS = ["a", "bb", "", "cccc", "ddd"]


def longest(query, text):
    return len(text) / 10


def reranker(*after, backend=None, **more):
    return Reranker(backend or FakeBackend(score=longest), after=after, **more)


def ranked(one, how="rerank", documents=DOCUMENTS, **options):
    """Call `rerank` or `arerank`: what holds for one holds for the other."""
    if how == "rerank":
        return one.rerank("q", documents, **options)
    return asyncio.run(one.arerank("q", documents, **options))


def turned(ranking, top_n=None):
    return replace(ranking, hits=ranking.hits[::-1])


class Noting:
    """Keeps what it was called with, and changes nothing."""

    def __init__(self):
        self.calls = []

    def __call__(self, ranking, top_n):
        self.calls.append((ranking, top_n))
        return ranking


both = pytest.mark.parametrize("how", ["rerank", "arerank"])


@both
def test_a_step_has_the_whole_ranking_and_the_number_and_is_cut_after(how):
    step = Noting()
    result = ranked(reranker(step), how, top_n=2)
    ((seen, top_n),) = step.calls
    assert (seen.documents, top_n) == (["cccc", "ddd", "bb", "a", ""], 2)
    assert result.documents == ["cccc", "ddd"]
    assert result.total == 5


@both
def test_steps_are_taken_in_turn(how):
    step = Noting()
    result = ranked(reranker(lambda ranking, top_n: ranking[1:], turned, step), how, top_n=3)
    assert step.calls[0][0].documents == ["", "a", "bb", "ddd"]
    assert result.documents == ["", "a", "bb"]


@both
def test_a_rank_stays_that_of_relevance(how):
    result = ranked(reranker(turned), how, top_n=2)
    assert [(hit.document, hit.rank) for hit in result] == [("", 5), ("a", 4)]


@both
def test_what_min_score_drops_no_step_sees(how):
    step = Noting()
    ranked(reranker(step), how, min_score=0.25)
    assert step.calls[0][0].documents == ["cccc", "ddd"]


def test_without_steps_the_backend_is_told_how_many_are_wanted_and_with_them_it_scores_all():
    plain, stepped = FakeBackend(), FakeBackend()
    ranked(reranker(backend=plain), top_n=2)
    ranked(reranker(Noting(), backend=stepped), top_n=2)
    assert [plain.calls[0].top_n, stepped.calls[0].top_n] == [2, None]


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab ", max_size=3), max_size=8), st.none() | st.integers(1, 9))
def test_steps_that_change_nothing_change_nothing(documents, top_n):
    plain = ranked(reranker(), documents=documents, top_n=top_n)
    stepped = ranked(reranker(Noting(), lambda ranking, top_n: ranking), documents=documents, top_n=top_n)
    assert replace(stepped, elapsed_ms=0) == replace(plain, elapsed_ms=0)


@both
def test_a_step_is_called_for_no_documents_too(how):
    step = Noting()
    assert len(ranked(reranker(step), how, documents=[])) == 0
    assert len(step.calls[0][0]) == 0


@both
def test_a_step_sees_the_input_order_where_the_backend_failed(how):
    step = Noting()
    result = ranked(
        reranker(step, backend=FakeBackend(error=BackendError("down")), on_error="input_order"), how, top_n=2
    )
    assert step.calls[0][0].degraded == "input_order"
    assert result.documents == ["a", "bb"]


@both
def test_what_a_step_raises_is_raised_whatever_is_done_with_the_backends_errors(how):
    def broken(ranking, top_n):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ranked(reranker(broken, on_error="input_order"), how)


@both
@pytest.mark.parametrize(("returned", "kind"), [(None, "NoneType"), ([1], "list"), (("a",), "tuple")])
def test_a_step_that_returns_no_ranking_is_named(how, returned, kind):
    def forgetful(ranking, top_n):
        return returned

    with pytest.raises(TypeError, match=rf"after: .*forgetful returned {kind}; a step returns a Ranking"):
        ranked(reranker(forgetful), how)


@both
def test_on_ranking_gets_what_is_returned(how):
    seen = []
    result = ranked(reranker(turned, on_ranking=seen.append), how, top_n=2)
    assert seen == [result]


def test_on_ranking_is_called_where_the_event_loop_is_with_steps_as_without():
    threads = []

    def note(ranking):
        threads.append(threading.current_thread())

    for after in ([], [turned]):
        ranked(Reranker(FakeBackend(), after=after, on_ranking=note), "arerank")
    assert threads[0] is threads[1]


def test_steps_do_not_hold_up_the_event_loop():
    here = []
    ranked(reranker(lambda ranking, top_n: here.append(threading.current_thread()) or ranking), "arerank")
    assert here[0] is not threading.current_thread()


def test_many_queries_each_take_the_steps():
    step = Noting()
    many = reranker(step, turned).rerank_many(["p", "q"], [["a", "bb"], ["ccc"]], top_n=1)
    assert [ranking.documents for ranking in many] == [["a"], ["ccc"]]
    assert [seen.query for seen, _ in step.calls] == ["p", "q"]


def test_a_step_may_make_more_or_fewer_and_it_is_cut_all_the_same():
    doubled = reranker(lambda ranking, top_n: replace(ranking, hits=ranking.hits * 2))
    assert len(ranked(doubled, top_n=7)) == 7
    assert len(ranked(reranker(lambda ranking, top_n: ranking[:0]), top_n=7)) == 0


def test_the_list_of_steps_may_change_later():
    steps = [turned]
    one = Reranker(FakeBackend(score=longest), after=steps)
    steps.clear()
    assert ranked(one).documents[0] == ""


def test_documents_are_the_callers_and_stay_as_they_were():
    documents = [["a"], ["bb"]]
    result = reranker(turned).rerank("q", documents, key="".join)
    assert [hit.document is documents[hit.index] for hit in result] == [True, True]
    assert documents == [["a"], ["bb"]]


def test_min_score_belongs_to_the_backend_with_steps_too():
    one = reranker(turned, backend=FakeBackend(scale=Scale.UNKNOWN))
    with pytest.raises(ValueError, match="min_score"):
        ranked(one, min_score=0.5)


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (turned, r"after must be a list of functions, step\(ranking, top_n\), not function"),
        ("mmr", "after must be a list of functions, .* not str"),
        (None, "after must be a list of functions, .* not NoneType"),
        ([turned, "mmr"], r"after\[1\] must be a function, step\(ranking, top_n\), not str"),
    ],
)
def test_steps_are_functions_in_a_list(after, words):
    with pytest.raises(TypeError, match=words):
        Reranker(FakeBackend(), after=after)


def test_a_ranking_is_what_comes_back():
    assert isinstance(ranked(reranker(turned)), Ranking)
