import asyncio
import copy
import pickle
import time
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import (
    Attempt,
    Backend,
    BackendError,
    Cascade,
    DeadlineError,
    Fallback,
    Fusion,
    RateLimitError,
    Reranker,
    Scale,
    Scores,
    Usage,
)
from rerankx.interface import out_of_time, remaining_s
from rerankx.testing import BackendContract, FakeBackend

UNIT = Scale.similarity(0, 1)


class Given(FakeBackend):
    """Gives text "ti" the i-th of its values, alone and in company; what else it says holds for every call."""

    def __init__(self, *values, name="given", scale=Scale.LOGIT, pointwise=True, error=None, **more):
        super().__init__(score=self.value, name=name, model="m", scale=scale, pointwise=pointwise, error=error)
        self.values, self.more, self.left = values, more, []

    def value(self, query, text):
        return self.values[int(text[1:])]

    def _score(self, query, texts, *, top_n=None):
        self.left.append(remaining_s())
        return Scores(super()._score(query, texts, top_n=top_n), **self.more)


class Local(FakeBackend):
    """Leaves texts unscored where the caller's time is up."""

    def _score(self, query, texts, *, top_n=None):
        scored = super()._score(query, texts, top_n=top_n)
        return Scores([None] * len(texts), degraded="deadline") if out_of_time()() else scored


class Slow(Given):
    """Takes a moment for each call, and heeds no deadline."""

    def _score(self, query, texts, *, top_n=None):
        scores = super()._score(query, texts, top_n=top_n)
        time.sleep(0.02)
        return scores


def late(name="late", **more):
    error = DeadlineError("too slow")
    for key, value in more.items():
        setattr(error, key, value)
    return Given(name=name, error=error)


def asked(backend):
    return [[int(text[1:]) for text in call.texts] for call in backend.calls]


def texts(n):
    return [f"t{i}" for i in range(n)]


def ranked(backend, n, how="rerank", *, reranker=None, **options):
    """Call `rerank` or `arerank`: what holds for one holds for the other."""
    one = Reranker(backend, **(reranker or {}))
    return (
        one.rerank("q", texts(n), **options) if how == "rerank" else asyncio.run(one.arerank("q", texts(n), **options))
    )


def order(ranking):
    return [hit.index for hit in ranking]


def raw(ranking):
    return [hit.raw_score for hit in ranking]


both = pytest.mark.parametrize("how", ["rerank", "arerank"])


class TestCascadeContract(BackendContract):
    on_deadline = "error"  # nothing was scored in time

    def make(self):
        return Cascade([Local(), Local(name="last")], keep=10)

    def variants(self):
        stages = [Local(), Local(name="last")]
        return [
            Cascade(stages, keep=11),
            Cascade(stages, keep=10, patience=3),
            Cascade(stages, keep=10, deadlines_s=[None, 9]),
            Cascade(stages[::-1], keep=10),
            Cascade([*stages, Local(name="third")], keep=[10, 9]),
        ]


class TestPatientCascadeContract(BackendContract):
    on_deadline = "error"

    def make(self):
        return Cascade([Local(), Local(name="last")], keep=10, patience=4)


class TestCascadeOfOneContract(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Cascade([Local()])


# What goes on, and what comes back


@both
def test_the_last_stage_orders_what_the_first_puts_in_front(how):
    first, last = Given(0.1, 0.9, 0.8, 0.2, scale=UNIT), Given(5, -7, -3, 5)
    ranking = ranked(Cascade([first, last], keep=2), 4, how)
    assert order(ranking) == [2, 1, 3, 0]
    assert raw(ranking) == [-3, -7, None, None]
    assert (ranking.scale, ranking.degraded, ranking.attempts) == (Scale.LOGIT, None, ())
    assert ranking.backend == "cascade"


@both
def test_a_stage_is_asked_about_the_best_of_the_one_before_in_its_order(how):
    stages = [Given(0, 1, 2, 3, 4), Given(9, 9, 1, 3, 2), Given(1, 1, 1, 1, 1)]
    ranked(Cascade(stages, keep=[3, 2]), 5, how, top_n=1)
    assert [asked(stage) for stage in stages] == [[[0, 1, 2, 3, 4]], [[4, 3, 2]], [[3, 4]]]
    assert [stage.calls[0].top_n for stage in stages] == [3, 2, 1]


def test_what_did_not_get_to_the_last_stage_keeps_the_order_of_the_one_it_got_to():
    stages = [Given(0, 1, 2, 3, 4), Given(9, 9, 1, 2, 3), Given(0, 0, 0, 0, 0)]
    assert order(ranked(Cascade(stages, keep=[3, 1]), 5)) == [4, 3, 2, 1, 0]


def test_what_the_last_stage_leaves_unscored_stays_before_what_it_was_not_asked_about():
    ranking = ranked(Cascade([Given(1, 2, 3, 4), Given(0, 0, None, 7)], keep=3), 4)
    assert (order(ranking), raw(ranking)) == ([3, 1, 2, 0], [7, 0, None, None])


def test_ties_of_the_last_stage_stand_as_the_one_before_has_them():
    assert order(ranked(Cascade([Given(1, 3, 2), Given(5, 5, 5)], keep=3), 3)) == [1, 2, 0]


def test_the_order_in_which_a_server_puts_ties_comes_first():
    assert order(ranked(Cascade([Given(1, 3, 2), Given(5, 5, 5, order=[2, 0, 1])], keep=3), 3)) == [0, 1, 2]


@settings(deadline=None)
@given(st.data(), st.integers(1, 8), st.integers(0, 3))
def test_with_room_for_all_it_orders_as_its_last_stage(data, n, more):
    first = data.draw(st.lists(st.none() | st.floats(-9, 9), min_size=n, max_size=n))
    last = data.draw(st.lists(st.floats(-9, 9), min_size=n, max_size=n, unique=True))
    ranking = ranked(Cascade([Given(*first), Given(*last)], keep=n + more), n)
    plain = ranked(Given(*last), n)
    assert (order(ranking), raw(ranking)) == (order(plain), raw(plain))


@settings(deadline=None)
@given(st.data(), st.integers(1, 9), st.lists(st.integers(1, 10), min_size=1, max_size=3))
def test_the_head_is_the_best_of_the_stages_before_and_the_tail_is_theirs(data, n, keep):
    keep = sorted(keep, reverse=True)
    value = st.none() | st.integers(-2, 2)
    some = st.lists(value, min_size=n, max_size=n).filter(lambda values: set(values) != {None})
    stages = [Given(*data.draw(some)) for _ in range(len(keep))]
    last = Given(*data.draw(st.lists(st.integers(-2, 2), min_size=n, max_size=n)))
    expected = list(range(n))
    for stage, room in zip([*stages, last], [n, *keep], strict=True):
        head = expected[:room]
        if any(stage.values[i] is not None for i in head):
            worth = [(stage.values[i] is None, -(stage.values[i] or 0)) for i in head]
            expected[:room] = [head[place] for place in sorted(range(len(head)), key=worth.__getitem__)]
    ranking = ranked(Cascade([*stages, last], keep=keep), n)
    assert order(ranking) == expected
    assert {h.index: h.raw_score for h in ranking if h.raw_score is not None} == {
        i: last.values[i] for i in asked(last)[0]
    }


def test_steps_hold_every_stages_rank_and_score_and_the_last_ones_details_are_the_hits():
    first = Given(0.1, 0.9, 0.8, name="first", details=[{"a": 0}, {"a": 1}, {"a": 2}])
    last = Given(5, -7, -3, name="last", details=[{"window": 1}, None])
    ranking = ranked(Cascade([first, last], keep=2), 3)
    tail = {"step": 1, "by": "first:m", "rank": 3, "score": 0.1, "details": {"a": 0}}
    assert [hit.details for hit in ranking] == [
        {
            "steps": [
                {"step": 1, "by": "first:m", "rank": 2, "score": 0.8, "details": {"a": 2}},
                {"step": 2, "by": "last:m", "rank": 1, "score": -3},
            ]
        },
        {
            "window": 1,
            "steps": [
                {"step": 1, "by": "first:m", "rank": 1, "score": 0.9, "details": {"a": 1}},
                {"step": 2, "by": "last:m", "rank": 2, "score": -7, "details": {"window": 1}},
            ],
        },
        {"steps": [tail]},
    ]


def test_a_step_is_by_the_one_who_answered():
    stage = Fallback(Given(name="down", error=BackendError("no")), Given(1, 2, name="up"))
    ranking = ranked(Cascade([stage, Given(2, 1)], keep=2), 2)
    assert [step["by"] for step in ranking[0].details["steps"]] == ["up:m", "given:m"]


def test_a_text_that_an_inner_cascade_kept_back_says_so():
    inner = Cascade([Given(1, 2, name="inner"), Given(1, 2)], keep=1)
    ranking = ranked(Cascade([inner, Given(1, 2)], keep=1), 2)
    assert "inner:m" in str(ranking[1].details)


@both
def test_usage_is_summed_once_and_a_text_that_two_cut_is_cut_once(how):
    first = Given(3, 2, 1, usage=Usage(calls=1, cost_usd=0.5), cut=[True, False, True])
    last = Given(3, 2, 1, usage=Usage(calls=2, cost_usd=0.25), cut=[False, True])
    ranking = ranked(Cascade([first, last], keep=2), 3, how)
    assert (ranking.usage.calls, ranking.usage.cost_usd, ranking.truncated) == (3, 0.75, 3)


def test_which_texts_were_cut_is_said_of_their_places():
    first, last = Given(1, 2, 3, cut=[False] * 3), Given(1, 2, 3, cut=[True, False])
    assert Cascade([first, last], keep=2).score("q", texts(3)).cut == (False, False, True)


def test_counts_of_what_was_cut_are_not_added_up_over_stages():
    ranking = ranked(Cascade([Given(3, 2, 1, truncated=1), Given(3, 2, 1, truncated=1)], keep=3), 3)
    assert ranking.truncated == 1


def test_a_stage_among_others_that_scores_nothing_is_passed_over():
    ranking = ranked(Cascade([Given(1, 3, 2), Given(None, None, None), Given(1, 2, 3)], keep=[3, 2]), 3)
    assert (order(ranking), ranking.degraded) == ([2, 1, 0], "incomplete")
    assert [attempt.error for attempt in ranking.attempts] == [None, "ReplyError: 0 of 3 texts were scored", None]


def test_where_no_stage_scores_anything_the_input_order_stands_and_is_flagged():
    ranking = ranked(Cascade([Given(None, None), Given(None, None)], keep=2), 2)
    assert (order(ranking), raw(ranking), ranking.degraded) == ([0, 1], [None, None], "incomplete")


class StrangeError(BackendError):
    """One that is not made of its message."""

    def __init__(self, status, *, body):
        super().__init__(f"{status}: {body}")
        self.status = status


@pytest.mark.parametrize("others", [[], [Given(1, 2)]])
def test_an_error_of_any_making_arrives_as_it_is(others):
    broken = Given(error=StrangeError(418, body="teapot"))
    for backend in (Cascade([*others, broken], keep=[2] * len(others)), Fusion([*others, broken])):
        with pytest.raises(StrangeError, match="418: teapot") as caught:
            ranked(backend, 2)
        assert caught.value.status == 418


@pytest.mark.parametrize("n", [0, 1, 2, 33])
def test_nothing_is_lost_or_doubled(n):
    documents = [("", "same words", "q", " ")[i % 4] for i in range(n)]
    ranking = Reranker(Cascade([FakeBackend(), FakeBackend(), FakeBackend()], keep=[5, 2])).rerank("q", documents)
    assert sorted(order(ranking)) == list(range(n))
    assert all(hit.document is documents[hit.index] for hit in ranking)


# Deadlines


@both
def test_every_stage_has_its_own_bound_and_the_callers_holds(how):
    stages = [Given(1, 2), Given(1, 2), Given(1, 2)]
    ranked(Cascade(stages, keep=[2, 2], deadlines_s=[5, None, 900]), 2, how, reranker={"deadline_s": 60})
    (first,), (second,), (third,) = (stage.left for stage in stages)
    assert 0 < first <= 5 < second <= 60
    assert 5 < third <= 60


def test_without_bounds_there_are_none():
    stages = [Given(1, 2), Given(1, 2)]
    ranked(Cascade(stages, keep=2), 2)
    assert [stage.left for stage in stages] == [[None], [None]]


@both
def test_a_last_stage_out_of_time_leaves_the_order_of_the_one_before_as_ranks(how):
    ranking = ranked(Cascade([Given(1, 3, 2, name="first"), late()], keep=2), 3, how)
    assert (order(ranking), raw(ranking), ranking.scale) == ([1, 2, 0], [3, 2, 1], Scale.RANK)
    assert ranking.degraded == "deadline"
    assert ranking.attempts == (Attempt("first", "m"), Attempt("late", "m", "DeadlineError: too slow"))
    assert [len(hit.details["steps"]) for hit in ranking] == [1, 1, 1]


@both
def test_a_last_stage_that_got_to_some_is_passed_over(how):
    last = Given(9, None, 9, name="last", degraded="deadline", usage=Usage(calls=1))
    ranking = ranked(Cascade([Given(1, 3, 2), last], keep=3), 3, how)
    assert (order(ranking), ranking.scale, ranking.degraded) == ([1, 2, 0], Scale.RANK, "deadline")
    assert ranking.attempts[-1].error == "DeadlineError: 2 of 3 texts were scored"
    assert ranking.usage.calls == 1
    assert all(len(hit.details["steps"]) == 1 for hit in ranking)  # half a stage's ranks are none


def test_a_stage_that_scored_all_in_time_is_not_passed_over_for_saying_that_it_was_late():
    ranking = ranked(Cascade([Given(1, 3, 2), Given(3, 2, 1, degraded="deadline")], keep=3), 3)
    assert (order(ranking), ranking.scale, ranking.degraded) == ([0, 1, 2], Scale.LOGIT, "deadline")


@both
def test_a_middle_stage_out_of_time_gives_way_to_the_next(how):
    last = Given(1, 2, 3)
    ranking = ranked(Cascade([Given(1, 3, 2), late(), last], keep=[3, 2]), 3, how)
    assert asked(last) == [[1, 2]]
    assert (order(ranking), ranking.scale, ranking.degraded) == ([2, 1, 0], Scale.LOGIT, "deadline")


def test_a_first_stage_out_of_time_gives_way_to_the_next_in_input_order():
    last = Given(1, 2, 3)
    ranking = ranked(Cascade([late(), last], keep=2), 3)
    assert asked(last) == [[0, 1]]
    assert (order(ranking), raw(ranking), ranking.degraded) == ([1, 0, 2], [2, 1, None], "deadline")
    assert ranking.backend == "given"


def test_where_no_time_is_left_the_next_stages_are_not_asked():
    last = Given(1, 2)
    ranking = ranked(Cascade([Slow(1, 2), last], keep=2), 2, reranker={"deadline_s": 0.001})
    assert (order(ranking), last.calls, ranking.degraded) == ([1, 0], [], "deadline")
    assert ranking.attempts[-1] == Attempt("given", "m", "DeadlineError: no time was left for it")


def test_a_stages_own_bound_that_has_passed_stops_no_other():
    ranking = ranked(Cascade([Slow(1, 2), Given(2, 1)], keep=2, deadlines_s=[0.001, None]), 2)
    assert (order(ranking), ranking.degraded) == ([0, 1], None)


def test_what_the_first_stage_got_to_stands_where_none_finished():
    first = Given(1, None, 2, name="first", degraded="deadline", usage=Usage(calls=1))
    ranking = ranked(Cascade([first, late(usage=Usage(calls=2))], keep=2), 3)
    assert (order(ranking), raw(ranking), ranking.scale) == ([2, 0, 1], [3, 2, None], Scale.RANK)
    assert (ranking.degraded, ranking.usage.calls) == ("deadline", 3)
    assert [attempt.error for attempt in ranking.attempts] == [
        "DeadlineError: 2 of 3 texts were scored",
        "DeadlineError: too slow",
    ]


@both
def test_where_nothing_was_scored_in_time_it_fails_and_says_who_was_asked(how):
    stages = [late("first", usage=Usage(calls=1)), Given(None, None, name="last", degraded="deadline")]
    with pytest.raises(DeadlineError, match="no stage of the cascade finished in time") as caught:
        ranked(Cascade(stages, keep=2), 2, how)
    assert [attempt.backend for attempt in caught.value.attempts] == ["first", "last"]
    assert caught.value.usage.calls == 1


def test_a_failure_for_lack_of_time_may_leave_the_input_order():
    ranking = ranked(Cascade([late("first"), late("last")], keep=2), 2, reranker={"on_error": "input_order"})
    assert (order(ranking), ranking.degraded, len(ranking.attempts)) == ([0, 1], "input_order", 2)


def test_the_spending_and_the_attempts_of_a_stage_that_was_late_are_told():
    tried = (Attempt("x", "m", "RateLimitError: too many"), Attempt("y", "m", "DeadlineError: late"))
    ranking = ranked(Cascade([Given(1, 2), late(usage=Usage(calls=7), attempts=tried)], keep=2), 2)
    assert ranking.usage.calls == 7
    assert ranking.attempts[1:] == tried


def test_a_stage_whose_fallback_was_cut_short_is_passed_over():
    stage = Fallback(Given(name="down", error=BackendError("no")), Given(None, None, 9, degraded="deadline"))
    ranking = ranked(Cascade([Given(1, 3, 2), stage], keep=3), 3)
    assert (order(ranking), ranking.scale) == ([1, 2, 0], Scale.RANK)


def stage(kind, i):
    """Return a stage that does so much in its time; of three texts each prefers another."""
    values, name = [float((j + i) % 3) for j in range(3)], f"s{i}"
    if kind == "late":
        return late(name, usage=Usage(calls=1))
    short = {"all": 3, "part": 1, "none": 0}[kind]
    values = [value if j < short else None for j, value in enumerate(values)]
    more = {} if kind == "all" else {"degraded": "deadline"}
    return Given(*values, name=name, usage=Usage(calls=1), **more)


@pytest.mark.parametrize("kinds", list(product(["all", "part", "none", "late"], repeat=3)), ids="-".join)
def test_the_last_that_finished_stands_else_what_the_first_got_to_else_it_fails(kinds):
    cascade = Cascade([stage(kind, i) for i, kind in enumerate(kinds)], keep=[2, 2])
    finished = [i for i, kind in enumerate(kinds) if kind == "all"]
    if not finished and kinds[0] != "part" and "late" in kinds:
        with pytest.raises(DeadlineError) as caught:
            ranked(cascade, 3)
        assert (caught.value.usage.calls, len(caught.value.attempts)) == (3, 3)
        return
    ranking = ranked(cascade, 3)
    expected = [0, 1, 2]
    for i in finished:
        head = expected[: 3 if i == 0 else 2]
        expected[: len(head)] = sorted(head, key=lambda index: -((index + i) % 3))
    assert order(ranking) == expected
    assert ranking.usage.calls == 3
    assert ranking.scale == (Scale.LOGIT if finished[-1:] == [2] else Scale.RANK)
    assert ranking.degraded == (None if kinds == ("all",) * 3 else "deadline")
    if ranking.degraded:
        assert [attempt.error is None for attempt in ranking.attempts] == [kind == "all" for kind in kinds]


def test_ranks_stand_where_the_stage_that_was_late_is_the_same_as_the_first():
    class Once(Given):
        def _score(self, query, texts, *, top_n=None):
            if self.calls:
                raise DeadlineError("late")
            return super()._score(query, texts, top_n=top_n)

    one = Once(1, 2)
    assert ranked(Cascade([one, one], keep=2), 2).scale == Scale.RANK


# Errors


@both
def test_any_other_error_of_a_stage_is_raised_and_no_more_are_asked(how):
    last = Given(1, 2)
    with pytest.raises(RateLimitError, match="slow down"):
        ranked(Cascade([Given(1, 2), Given(error=RateLimitError("slow down")), last], keep=[2, 2]), 2, how)
    assert last.calls == []


def test_an_error_says_what_the_stages_before_have_spent():
    stages = [Given(1, 2, usage=Usage(calls=1)), Given(error=BackendError("down"))]
    ranking = ranked(Fallback(Cascade(stages, keep=2), Given(1, 2)), 2)
    assert ranking.usage.calls == 1


# Thresholds


def test_min_score_is_on_the_last_stages_scale():
    ranking = ranked(Cascade([Given(0.9, 0.8, 0.7, scale=UNIT), Given(-1, 1, 9)], keep=2), 3, min_score=0.5)
    assert (order(ranking), ranking.min_score) == ([1], 0.5)


def test_min_score_is_not_applied_to_the_scores_of_another_stage():
    first = Given(0.1, 0.3, 0.2, scale=UNIT)
    ranking = ranked(Cascade([first, late()], keep=2), 3, min_score=0.9)
    assert (len(ranking), ranking.min_score) == (3, None)


def test_min_score_needs_a_last_stage_with_scores_that_mean_something():
    with pytest.raises(ValueError, match=r"min_score.*'cascade'.*only an order"):
        ranked(Cascade([Given(1), Given(1, scale=Scale.RANK)], keep=1), 1, min_score=0.5)


def test_min_score_is_applied_where_an_earlier_stage_was_late():
    ranking = ranked(Cascade([late(), Given(-1, 1, 9)], keep=2), 3, min_score=0.5)
    assert (order(ranking), ranking.min_score) == ([1, 2], 0.5)  # what was not scored may be good


def answered_by_another(**more):
    return Fallback(Given(name="down", error=BackendError("no")), Given(0.1, 0.2, scale=UNIT), **more)


def test_min_score_is_not_applied_to_a_fallback_in_the_last_stage_whoever_else_was_late():
    assert ranked(Cascade([Given(1, 2), answered_by_another()], keep=2), 2, min_score=0.9).min_score is None
    assert ranked(Cascade([late(), answered_by_another()], keep=2), 2, min_score=0.9).min_score is None


def test_the_threshold_of_a_fallback_in_the_last_stage_takes_the_callers_place():
    stage = answered_by_another(min_scores={"given": 0.15})
    ranking = ranked(Cascade([Given(1, 2), stage], keep=2), 2, min_score=0.9)
    assert (order(ranking), ranking.min_score, ranking.degraded) == ([1], 0.15, "fallback")


def test_the_threshold_of_a_fallback_in_an_earlier_stage_is_not_that_of_ranks():
    stage = answered_by_another(min_scores={"given": 0.15})
    ranking = ranked(Cascade([stage, late()], keep=2), 2, min_score=0.9)
    assert (len(ranking), ranking.min_score, ranking.scale) == (2, None, Scale.RANK)


def test_min_score_is_applied_where_only_an_earlier_stage_was_answered_for():
    ranking = ranked(Cascade([answered_by_another(), Given(-1, 1)], keep=2), 2, min_score=0.5)
    assert (order(ranking), ranking.min_score) == ([1], 0.5)
    assert ranking.degraded is not None


# Patience


@both
def test_patience_asks_the_best_first_and_stops_when_nothing_new_gets_in(how):
    first, last = Given(*range(10, 0, -1)), Given(5, 4, 9, 1, 2, 3, 8, 7, 6, 0)
    ranking = ranked(Cascade([first, last], keep=10, patience=3), 10, how, top_n=2)
    assert asked(last) == [[0, 1], [2, 3, 4], [5, 6, 7], [8, 9]]
    assert order(ranking) == [2, 6]
    quiet = Given(5, 4, 1, 1, 1, 9, 9, 9, 9, 9)
    ranking = ranked(Cascade([first, quiet], keep=10, patience=3), 10, how, top_n=2)
    assert asked(quiet) == [[0, 1], [2, 3, 4]]
    assert (order(ranking), ranking.total, ranking.degraded) == ([0, 1], 10, None)


@settings(deadline=None)
@given(st.data(), st.integers(1, 12), st.integers(1, 5), st.integers(1, 14), st.integers(1, 12))
def test_patience_stops_exactly_when_so_many_brought_none_into_the_best(data, n, top_n, patience, keep):
    values = data.draw(st.lists(st.none() | st.integers(0, 3), min_size=n, max_size=n))
    values[0] = 0  # a stage that scores nothing is passed over
    last = Given(*values)
    ranking = ranked(Cascade([Given(*range(n, 0, -1)), last], keep=keep, patience=patience), n, top_n=top_n)

    def best(count):
        there = [i for i in range(count) if values[i] is not None]
        return sorted(there, key=lambda i: -values[i])[:top_n]

    room, read, portions = min(n, keep), min(top_n, n, keep), [list(range(min(top_n, n, keep)))]
    while read < room:
        before, start, read = best(read), read, min(read + patience, room)
        portions.append(list(range(start, read)))
        if best(read) == before:
            break
    assert asked(last) == portions
    assert order(ranking)[: len(best(read))] == best(read)


def test_with_endless_patience_everything_is_scored():
    first, values = Given(*range(9)), (3, 1, 4, 1, 5, 9, 2, 6, 5)
    patient = ranked(Cascade([first, Given(*values)], keep=9, patience=9), 9, top_n=3)
    plain = ranked(Cascade([first, Given(*values)], keep=9), 9, top_n=3)
    assert (order(patient), raw(patient)) == (order(plain), raw(plain))


def test_patience_goes_on_where_the_first_had_no_score():
    last = Given(None, None, 5, 1)
    assert order(ranked(Cascade([Given(4, 3, 2, 1), last], keep=4, patience=1), 4, top_n=2)) == [2, 3]
    assert asked(last) == [[0, 1], [2], [3]]


def test_without_top_n_everything_is_asked_at_once():
    last = Given(3, 2, 1)
    ranked(Cascade([Given(3, 2, 1), last], keep=3, patience=1), 3)
    assert asked(last) == [[0, 1, 2]]


def test_patience_keeps_details_usage_and_what_was_cut_with_their_texts():
    class Telling(Given):
        def _score(self, query, texts, *, top_n=None):
            told = [{"text": text} for text in texts]
            cut = [text == "t1" for text in texts]
            return Scores(super()._score(query, texts, top_n=top_n).values, details=told, cut=cut, usage=Usage(calls=1))

    scores = Cascade([Given(4, 3, 2, 1), Telling(1, 2, 0, 0)], keep=4, patience=1).score("q", texts(4), top_n=1)
    assert [detail and detail.get("text") for detail in scores.details] == ["t0", "t1", "t2", None]
    assert (scores.usage.calls, scores.cut, scores.truncated) == (3, (False, True, False, False), 1)


class LateFrom(Given):
    """Is late from its second call on."""

    def _score(self, query, texts, *, top_n=None):
        if len(self.calls) == 1:
            error = DeadlineError("too slow")
            error.usage = Usage(calls=5)
            raise error
        return super()._score(query, texts, top_n=top_n)


def test_patience_out_of_time_leaves_the_order_of_the_stage_before():
    last = LateFrom(0, 1, 2)
    ranking = ranked(Cascade([Given(3, 2, 1), last], keep=3, patience=1), 3, top_n=2)
    assert (order(ranking), ranking.scale, ranking.degraded) == ([0, 1], Scale.RANK, "deadline")


def test_patience_out_of_time_says_what_it_spent():
    last = LateFrom(0, 1, 2, usage=Usage(calls=1))
    assert ranked(Cascade([Given(3, 2, 1), last], keep=3, patience=1), 3, top_n=2).usage.calls == 6


def test_the_portions_of_a_patient_stage_share_its_seconds():
    last = Slow(1, 2, 3, 4)
    ranked(Cascade([Given(4, 3, 2, 1), last], keep=4, patience=1, deadlines_s=[None, 60]), 4, top_n=1)
    assert last.left[1] <= last.left[0] - 0.015


class UntilLate(Given):
    """Takes all the time that it is given, and scores all the same."""

    def _score(self, query, texts, *, top_n=None):
        over = out_of_time()
        while not over():
            time.sleep(0.005)
        return super()._score(query, texts, top_n=top_n)


@pytest.mark.parametrize("caller", [None, 0.3])
def test_a_patient_stage_that_heeds_no_deadline_is_not_asked_on_without_time(caller):
    last = UntilLate(1, 2, 3, 4)
    cascade = Cascade([Given(4, 3, 2, 1), last], keep=4, patience=1, deadlines_s=None if caller else [None, 0.05])
    ranking = ranked(cascade, 4, reranker={"deadline_s": caller}, top_n=1)
    assert (len(last.calls), ranking.degraded, order(ranking)) == (1, "deadline", [0])


# What it is made of


def test_it_tells_what_it_is_made_of():
    cascade = Cascade(["embedded", FakeBackend(scale=Scale.LOGIT)], keep=20)
    assert cascade.model.startswith("embedded:")
    assert cascade.model.endswith(" | 20 | fake:word-overlap")
    assert (cascade.name, cascade.scale, cascade.pointwise) == ("cascade", Scale.LOGIT, False)
    assert FakeBackend(scale=Scale.LOGIT).fingerprint in cascade.fingerprint


def test_its_tokens_are_those_of_its_last_stage():
    class Letters(FakeBackend):
        def token_spans(self, text):
            return [(i, i + 1) for i in range(len(text))]

    assert len(Cascade([FakeBackend(), Letters()], keep=1).token_spans("three")) == 5


def test_it_copies_and_pickles_with_its_numbers():
    cascade = Cascade([FakeBackend(), FakeBackend()], keep=7, patience=2, deadlines_s=[1, None])
    for twin in (copy.deepcopy(cascade), pickle.loads(pickle.dumps(cascade))):
        assert (twin.keep, twin.patience, twin.deadlines_s) == ((7,), 2, (1, None))


def test_lists_that_it_was_given_may_change_later():
    stages, keep = [FakeBackend(), FakeBackend()], [2]
    cascade = Cascade(stages, keep=keep)
    stages.clear()
    keep[0] = 99
    assert (len(cascade.stages), cascade.keep) == (2, (2,))


TWO = ["embedded", "embedded"]


@pytest.mark.parametrize(
    ("stages", "options", "error", "words"),
    [
        ([], {}, ValueError, "stages is empty"),
        ("embedded", {}, TypeError, "stages must be a list of names or backends, not str"),
        ([Reranker()], {}, TypeError, "stage 0 of a cascade must be a name or a rerankx.Backend, not Reranker; pass its .ba"),
        (TWO, {}, ValueError, "keep has 0 numbers; expected 1, one for each of 2 stages but the last"),
        (TWO, {"keep": [3, 2]}, ValueError, "keep has 2 numbers; expected 1"),
        (TWO, {"keep": 0}, ValueError, r"keep\[0\] must be at least 1, not 0"),
        (TWO, {"keep": True}, TypeError, r"keep\[0\] must be a whole number, not True"),
        (TWO, {"keep": "20"}, TypeError, "keep must be one whole number per stage but the last, not str"),
        ([*TWO, "embedded"], {"keep": [2, 3]}, ValueError, r"keep\[1\] is 3, more than the 2 that the stage is given"),
        (TWO, {"keep": 2, "deadlines_s": [1]}, ValueError, "deadlines_s has 1 entries; expected 2, one per stage"),
        (TWO, {"keep": 2, "deadlines_s": 1}, TypeError, "deadlines_s must be one number of seconds or None per stage"),
        (TWO, {"keep": 2, "deadlines_s": [1, -1]}, ValueError, "above 0, or None, not -1"),
        (TWO, {"keep": 2, "patience": 0}, ValueError, "patience must be at least 1, not 0"),
        (["embedded", "retrieval"], {"keep": 2, "patience": 1}, ValueError, "retrieval:order-or-score is not pointwise"),
        (["embedded", Fusion(TWO)], {"keep": 2, "patience": 1}, ValueError, "is not pointwise: leave patience out"),
    ],
)  # fmt: skip
def test_what_it_is_not_made_of(stages, options, error, words):
    with pytest.raises(error, match=words):
        Cascade(stages, **options)


def test_a_stage_may_stand_in_it_twice():
    one = Given(1, 2, 3)
    assert order(ranked(Cascade([one, one], keep=2), 3)) == [2, 1, 0]


def test_a_backend_of_ones_own_that_is_not_checked_is():
    class Wrong(Backend):
        name, model, scale, pointwise = "wrong", "m", UNIT, True

        def _score(self, query, texts, *, top_n=None):
            return [0.5]

    with pytest.raises(BackendError, match="backend 'wrong'"):
        ranked(Cascade([Wrong(), Given(1, 2)], keep=1), 2)
