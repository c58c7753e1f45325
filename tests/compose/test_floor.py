import asyncio
import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import Backend, BackendError, Floor, Reranker, Scale, Scores, Usage
from rerankx.testing import BackendContract, FakeBackend


class Fixed(Backend):
    """Gives the scores that it was made with."""

    name, model, scale, pointwise = "fixed", "fixed", Scale.UNKNOWN, False

    def __init__(self, *values, **more):
        self.values, self.more = values, more

    def _score(self, query, texts, *, top_n=None):
        return Scores(self.values, **self.more)


class Longest(Backend):
    """Prefers the longest, and keeps what it was asked about."""

    name, model, scale, pointwise = "longest", "length", Scale.UNKNOWN, True

    def _score(self, query, texts, *, top_n=None):
        self.seen = list(texts)
        return [len(text) for text in texts]


TEXTS = ["text" + "." * i for i in range(30)]


def ranked(backend, n, **options):
    return Reranker(backend).rerank("q", TEXTS[:n], **options)


def order(ranking):
    return [hit.index for hit in ranking]


class TestFloorContract(BackendContract):
    def make(self):
        return Floor(FakeBackend(), below=10)


def test_what_the_first_stage_has_far_down_follows_behind_all_others():
    ranking = ranked(Floor(Longest(), below=2), 4)
    assert order(ranking) == [1, 0, 2, 3]
    assert [hit.details for hit in ranking] == [None, None, {"floor_rank": 3}, {"floor_rank": 4}]
    assert [hit.raw_score for hit in ranking] == [4, 3, 2, 1]


def test_the_backend_does_not_see_it():
    backend = Longest()
    ranked(Floor(backend, Fixed(1, 9, 2, 8), below=2), 4)
    assert backend.seen == [TEXTS[1], TEXTS[3]]  # in the floor's order


def test_what_is_far_down_follows_in_the_floors_order():
    assert order(ranked(Floor(Longest(), Fixed(0.2, 0.9, 0.1, 0.8), below=2), 4)) == [3, 1, 0, 2]


def test_a_list_that_is_short_is_the_backends():
    assert order(ranked(Floor(Longest()), 3)) == [2, 1, 0]


def test_details_of_the_backend_stay_with_their_texts():
    backend = Fixed(1, 2, details=[{"a": 1}, {"b": 2}])
    ranking = ranked(Floor(backend, Fixed(0.1, 0.9, 0.8), below=2), 3)
    assert {hit.index: hit.details for hit in ranking} == {1: {"a": 1}, 2: {"b": 2}, 0: {"floor_rank": 3}}


def test_what_is_far_down_does_not_rise_above_what_has_no_score():
    ranking = ranked(Floor(Fixed(1.0, None, None, degraded="deadline"), below=3), 5)
    assert order(ranking) == [0, 1, 2, 3, 4]
    assert [hit.raw_score for hit in ranking] == [5, None, None, None, None]
    assert ranking.degraded == "deadline"


def test_usage_is_that_of_both_and_what_lacks_is_told():
    backend = Fixed(1, 2, usage=Usage(calls=2), truncated=1)
    floor = Fixed(1, None, usage=Usage(calls=1), degraded="deadline")
    ranking = ranked(Floor(backend, floor, below=2), 2)
    assert (ranking.usage.calls, ranking.truncated, ranking.degraded) == (3, 1, "incomplete")


class Failing(Fixed):
    def _score(self, query, texts, *, top_n=None):
        raise BackendError("down")


def test_a_floor_that_scores_nothing_is_none():
    with pytest.raises(BackendError, match="its floor has scored nothing"):
        ranked(Floor(Fixed(1, 2), Fixed(None, None, degraded="deadline")), 2)


def test_no_floor_is_no_ranking():
    with pytest.raises(BackendError, match="down"):
        ranked(Floor(Fixed(1, 2), Failing()), 2)


@given(st.data(), st.integers(1, 30), st.integers(1, 30))
def test_nothing_is_lost_and_what_is_far_down_is_behind_all_others(data, n, below):
    value = st.one_of(st.none(), st.floats(-5, 5))
    mine = Fixed(*data.draw(st.lists(value, min_size=min(n, below), max_size=min(n, below))))
    theirs = Fixed(*data.draw(st.lists(value, min_size=n, max_size=n).filter(lambda values: set(values) != {None})))
    ranking = ranked(Floor(mine, theirs, below=below), n)
    assert sorted(order(ranking)) == list(range(n))
    assert order(ranking)[below:] == order(ranked(theirs, n))[below:]


def test_both_ways_of_asking_give_the_same():
    reranker = Reranker(Floor(Longest(), Fixed(3, 2, 1), below=2))
    assert order(asyncio.run(reranker.arerank("q", ["a", "b", "c"]))) == order(reranker.rerank("q", ["a", "b", "c"]))


def test_it_tells_who_it_is_made_of():
    floor = Floor("embedded", FakeBackend())
    assert floor.model.startswith("embedded:")
    assert FakeBackend().fingerprint in floor.fingerprint
    assert floor.fingerprint != Floor("embedded").fingerprint != Floor("embedded", below=40).fingerprint


def test_it_copies_and_pickles():
    floor = Floor(FakeBackend(), below=12)
    for twin in (copy.deepcopy(floor), pickle.loads(pickle.dumps(floor))):
        assert (twin.fingerprint, twin.below) == (floor.fingerprint, 12)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"below": 0}, ValueError, "below must be at least 1, not 0"),
        ({"below": True}, TypeError, "below must be a whole number, not bool"),
        (
            {"floor": Reranker()},
            TypeError,
            "floor must be a name or a rerankx.Backend, not Reranker; pass its .backend",
        ),
    ],
)
def test_what_it_is_not_made_of(options, error, words):
    with pytest.raises(error, match=words):
        Floor("embedded", **options)
