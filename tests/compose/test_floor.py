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


def ranked(backend, n, **options):
    return Reranker(backend).rerank("q", [f"text {i}" for i in range(n)], **options)


def order(ranking):
    return [hit.index for hit in ranking]


class TestFloorContract(BackendContract):
    def make(self):
        return Floor(FakeBackend(), below=10)


def test_what_the_first_stage_has_far_down_does_not_enter_the_top():
    ranking = ranked(Floor(Fixed(3, 2, 1, 9), below=2, top=2), 4)
    assert order(ranking) == [0, 1, 3, 2]
    assert ranking[2].details == {"floor_rank": 4, "held_back_from": 1}


def test_a_backend_may_be_the_floor():
    floor = Floor(Fixed(9, 1, 2, 3), Fixed(0.1, 0.9, 0.8, 0.2), below=2, top=2)
    assert order(ranked(floor, 4)) == [2, 1, 0, 3]


def test_who_is_not_far_down_keeps_the_place():
    assert order(ranked(Floor(Fixed(1, 3, 2, 0), below=3, top=1), 4)) == [1, 2, 0, 3]


def test_a_list_that_is_short_is_left_as_it_is():
    assert order(ranked(Floor(Fixed(1, 3, 2)), 3)) == [1, 2, 0]


def test_a_text_that_is_kept_out_does_not_move_up_where_the_others_have_no_score():
    ranking = ranked(Floor(Fixed(1.0, None, None, 9.0, degraded="deadline"), below=2, top=2), 4)
    assert order(ranking)[0] == 0
    assert ranking[1].index != 3
    assert ranking.degraded == "deadline"


def test_usage_is_that_of_both_and_what_lacks_is_told():
    backend = Fixed(1, 2, usage=Usage(calls=2), truncated=1)
    floor = Fixed(1, None, usage=Usage(calls=1), degraded="deadline")
    ranking = ranked(Floor(backend, floor, below=2, top=2), 2)
    assert (ranking.usage.calls, ranking.truncated, ranking.degraded) == (3, 1, "incomplete")


class Failing(Fixed):
    def _score(self, query, texts, *, top_n=None):
        raise BackendError("down")


def test_no_floor_is_no_ranking():
    with pytest.raises(BackendError, match="down"):
        ranked(Floor(Fixed(1, 2), Failing()), 2)


@given(st.data(), st.integers(1, 30), st.integers(1, 8), st.integers(0, 8))
def test_nothing_is_lost_and_no_place_of_the_top_is_taken_by_what_is_far_down(data, n, top, more):
    value = st.one_of(st.none(), st.floats(-5, 5))
    mine, theirs = (Fixed(*data.draw(st.lists(value, min_size=n, max_size=n))) for _ in range(2))
    floor = Floor(mine, theirs, below=top + more, top=top)
    ranking = ranked(floor, n)
    assert sorted(order(ranking)) == list(range(n))
    far_down = set(order(ranked(theirs, n))[top + more :])
    assert not [hit for hit in ranking[:top] if hit.raw_score is not None and hit.index in far_down]


def test_both_ways_of_asking_give_the_same():
    reranker = Reranker(Floor(Fixed(1, 2, 9), Fixed(3, 2, 1), below=2, top=1))
    assert order(asyncio.run(reranker.arerank("q", ["a", "b", "c"]))) == order(reranker.rerank("q", ["a", "b", "c"]))


def test_it_tells_who_it_is_made_of():
    floor = Floor("embedded", FakeBackend())
    assert floor.model.startswith("embedded:")
    assert FakeBackend().fingerprint in floor.fingerprint
    assert floor.fingerprint != Floor("embedded").fingerprint != Floor("embedded", below=40).fingerprint


def test_it_copies_and_pickles():
    floor = Floor(FakeBackend(), below=12, top=3)
    for twin in (copy.deepcopy(floor), pickle.loads(pickle.dumps(floor))):
        assert (twin.fingerprint, twin.below, twin.top) == (floor.fingerprint, 12, 3)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"below": 5}, ValueError, "below must be at least 10, not 5"),
        ({"top": 0}, ValueError, "top must be at least 1, not 0"),
        ({"top": True}, TypeError, "top must be a whole number, not bool"),
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
