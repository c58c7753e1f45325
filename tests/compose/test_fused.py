import asyncio
import copy
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import (
    Attempt,
    BackendError,
    Cascade,
    DeadlineError,
    Fallback,
    Floor,
    Fusion,
    OptionError,
    Reranker,
    Scale,
    Scores,
    Usage,
)
from rerankx.fusion import rrf, weighted_sum
from rerankx.interface import out_of_time, remaining_s
from rerankx.testing import BackendContract, FakeBackend, word_overlap

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


def half(query, text):
    return word_overlap(query, text) / 2


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


def values(backend, n):
    return list(backend.score("q", texts(n)).values)


both = pytest.mark.parametrize("how", ["rerank", "arerank"])
methods = pytest.mark.parametrize(
    "how",
    [{}, *({"method": "weighted", "normalise": one} for one in ("minmax", "zscore", "none"))],
    ids=["rrf", "minmax", "zscore", "none"],
)


class TestFusionContract(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Fusion([Local(), Local(score=half)])

    def variants(self):
        parts = [Local(), Local(score=half)]
        return [
            Fusion(parts, k=1),
            Fusion(parts, weights=[1, 2]),
            Fusion(parts[::-1]),
            Fusion([*parts, "retrieval"]),
            Fusion(parts, method="weighted"),
            Fusion(parts, method="weighted", normalise="zscore"),
            Fusion(parts, method="weighted", normalise="none"),
            Fusion(parts, method="weighted", normalise="none", weights=[1, 2]),
        ]


class TestWeightedFusionContract(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Fusion([Local(), Local(score=half)], method="weighted", weights=[1, 3])


class TestFusionOfScoresContract(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Fusion([Local(), Local(score=half)], method="weighted", normalise="none")

    def test_it_is_pointwise(self):
        assert self.make().pointwise


# Sums


def test_rrf_adds_shares_of_places():
    backend = Fusion([Given(0.1, 0.9, 0.5), Given(0.9, 0.5, 0.1)], k=1, weights=[1, 2])
    assert values(backend, 3) == rrf([[1, 2, 0], [0, 1, 2]], n=3, k=1, weights=[1, 2])
    assert ranked(backend, 3).scale == Scale.RANK


def test_rrf_takes_60_where_no_offset_is_given():
    assert values(Fusion([Given(1)]), 1) == [1 / 61]


@pytest.mark.parametrize("normalise", [None, "minmax", "zscore"])
def test_weighted_adds_normalised_scores(normalise):
    rows = [[0.1, 0.9, None], [5.0, 3.0, 4.0]]
    backend = Fusion(
        [Given(*rows[0]), Given(*rows[1], scale=Scale.LOGIT)], method="weighted", normalise=normalise, weights=[1, 2]
    )
    assert values(backend, 3) == weighted_sum(rows, weights=[1, 2], normalise=normalise or "minmax")
    assert ranked(backend, 3).scale == Scale.UNKNOWN


def test_scores_as_they_are_have_a_mean_and_stay_on_their_scale():
    parts = [Given(0.25, 1.0, scale=UNIT), Given(0.75, 0.5, scale=UNIT)]
    backend = Fusion(parts, method="weighted", normalise="none", weights=[1, 3])
    assert values(backend, 2) == [0.625, 0.625]
    assert (backend.scale, ranked(backend, 2).scale) == (UNIT, UNIT)
    assert order(ranked(backend, 2, min_score=0.7)) == []


@methods
@settings(deadline=None)
@given(data=st.data(), n=st.integers(1, 9))
def test_a_fusion_of_one_orders_as_it_does(how, data, n):
    some = st.lists(st.none() | st.integers(-3, 3), min_size=n, max_size=n)
    one = Given(*data.draw(some), scale=Scale.LOGIT)
    fused, plain = ranked(Fusion([one], **how), n), ranked(one, n)
    assert order(fused) == order(plain)
    assert [hit.raw_score is None for hit in fused] == [hit.raw_score is None for hit in plain]
    if how.get("normalise") == "none":
        assert [hit.raw_score for hit in fused] == [hit.raw_score for hit in plain]


def server(**more):
    return Given(0.5, 0.5, 0.9, 0.5, order=[2, 3, 1, 0], **more)


def test_rrf_of_one_keeps_the_order_in_which_a_server_put_ties():
    assert order(ranked(Fusion([server()]), 4)) == [2, 3, 1, 0]


@pytest.mark.parametrize("normalise", ["minmax", "none"])
def test_a_weighted_fusion_of_one_keeps_the_order_in_which_a_server_put_ties(normalise):
    assert order(ranked(Fusion([server()], method="weighted", normalise=normalise), 4)) == [2, 3, 1, 0]


@settings(deadline=None)
@given(st.data(), st.integers(1, 9), st.floats(0.1, 5))
def test_who_scores_all_alike_changes_no_order(data, n, weight):
    some = st.lists(st.integers(0, 3), min_size=n, max_size=n)
    parts = [Given(*data.draw(some), scale=Scale.LOGIT) for _ in range(2)]
    alike = Given(*[7] * n, scale=Scale.LOGIT)
    assert order(ranked(Fusion([*parts, alike], weights=[1, 1, weight]), n)) == order(ranked(Fusion(parts), n))


@methods
@settings(deadline=None)
@given(data=st.data(), n=st.integers(1, 7))
def test_it_is_the_same_in_whatever_order_its_backends_stand(how, data, n):
    some = st.lists(st.none() | st.integers(-3, 3), min_size=n, max_size=n)
    parts = [Given(*data.draw(some), name=f"g{i}", scale=Scale.LOGIT) for i in range(3)]
    shuffled = data.draw(st.permutations(parts))
    assert values(Fusion(parts, **how), n) == pytest.approx(values(Fusion(shuffled, **how), n))


@settings(deadline=None)
@given(st.data(), st.integers(1, 7))
def test_scores_as_they_are_lie_among_the_backends(data, n):
    unit = st.lists(st.floats(0, 1), min_size=n, max_size=n)
    rows = [data.draw(unit) for _ in range(3)]
    weights = data.draw(st.lists(st.floats(0, 9), min_size=3, max_size=3).filter(any))
    fused = values(Fusion([Given(*row) for row in rows], method="weighted", normalise="none", weights=weights), n)
    for value, column in zip(fused, zip(*rows, strict=True), strict=True):
        assert min(column) - 1e-9 <= value <= max(column) + 1e-9


def test_a_server_that_tells_ties_apart_is_believed():
    alike = Given(0.5, 0.5, 0.5, 0.5, order=[2, 0])
    assert values(Fusion([alike], k=0), 4) == rrf([[2, 0, [1, 3]]], n=4, k=0)


# What is missing


def test_a_text_that_one_did_not_score_has_no_share_of_it():
    backend = Fusion([Given(0.1, None, 0.9), Given(0.5, 0.9, None)], k=0)
    assert values(backend, 3) == [1 / 2 + 1 / 2, 1.0, 1.0]


@methods
def test_a_text_that_none_has_scored_is_not_scored(how):
    ranking = ranked(Fusion([Given(0.1, None, 0.9), Given(0.2, None, 0.3)], **how), 3)
    assert order(ranking) == [2, 0, 1]
    assert (ranking[-1].raw_score, ranking[-1].details) == (None, None)


def test_a_mean_needs_all_its_parts():
    backend = Fusion([Given(0.1, None), Given(0.2, 0.9)], method="weighted", normalise="none")
    assert values(backend, 2) == [pytest.approx(0.15), None]


@methods
def test_blank_texts_and_duplicates_stay(how):
    documents = ["one", "", "one", " ", "two"]
    ranking = Reranker(Fusion([FakeBackend(), FakeBackend(score=half)], **how)).rerank("two", documents)
    assert order(ranking) == [4, 0, 2, 1, 3]


# Who is asked


@both
def test_all_are_asked_about_all_texts_without_a_hint(how):
    parts = [Given(1, 2, 3), Given(1, 2, 3)]
    ranked(Fusion(parts), 3, how, top_n=1)
    assert [[(call.texts, call.top_n) for call in part.calls] for part in parts] == [[(("t0", "t1", "t2"), None)]] * 2


@both
def test_they_are_asked_side_by_side(how):
    together = threading.Barrier(3, timeout=30)

    class Meeting(Given):
        def _score(self, query, texts, *, top_n=None):
            together.wait()  # broken, and so a BackendError, unless all three are at it
            return super()._score(query, texts, top_n=top_n)

    assert order(ranked(Fusion([Meeting(1, 2), Meeting(1, 2), Meeting(1, 2)]), 2, how)) == [1, 0]


@both
def test_the_callers_deadline_reaches_everybody(how):
    parts = [Given(1, 2), Given(1, 2), Given(1, 2)]
    ranked(Fusion(parts), 2, how, reranker={"deadline_s": 60})
    assert all(0 < left <= 60 for part in parts for left in part.left)


@both
def test_where_one_fails_the_fusion_fails(how):
    with pytest.raises(BackendError, match="down"):
        ranked(Fusion([Given(1, 2), Given(error=BackendError("down"))]), 2, how)


def test_where_one_fails_the_error_says_what_the_others_spent():
    parts = [Given(1, 2, usage=Usage(calls=1)), Given(error=BackendError("down"))]
    assert ranked(Fallback(Fusion(parts), Given(1, 2)), 2).usage.calls == 1


def test_where_several_fail_the_error_says_what_all_of_them_spent():
    errors = [BackendError("down"), BackendError("down, too")]
    for error in errors:
        error.usage = Usage(calls=1)
    with pytest.raises(BackendError) as caught:
        ranked(Fusion([Given(error=error) for error in errors]), 2)
    assert caught.value.usage.calls == 2


def test_an_error_that_is_raised_again_says_what_this_time_took():
    fusion = Fusion([Given(1, 2, usage=Usage(calls=1)), Given(error=BackendError("down"))])
    for _ in range(3):
        with pytest.raises(BackendError) as caught:
            ranked(fusion, 2)
    assert caught.value.usage.calls == 1


def test_a_task_that_is_cancelled_ends_those_that_it_asked():
    ended = []

    class Waiting(FakeBackend):
        async def _ascore(self, query, texts, *, top_n=None):
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                ended.append(self.name)
                raise

    async def run():
        task = asyncio.ensure_future(Fusion([Waiting(name="a"), Waiting(name="b")]).ascore("q", ["t"]))
        await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert sorted(ended) == ["a", "b"]


def test_the_first_that_fails_ends_the_others_of_its_event_loop():
    ended = []

    class Waiting(FakeBackend):
        async def _ascore(self, query, texts, *, top_n=None):
            try:
                await asyncio.sleep(60)
            finally:
                ended.append(self.name)

    with pytest.raises(DeadlineError):
        asyncio.run(Fusion([Waiting(name="a"), Given(error=DeadlineError("late"))]).ascore("q", ["t0"]))
    assert ended == ["a"]


# What it tells


@both
def test_usage_is_summed_once_and_a_text_that_two_cut_is_cut_once(how):
    parts = [
        Given(1, 2, 3, usage=Usage(calls=1, input_tokens=5), cut=[True, False, False]),
        Given(1, 2, 3, usage=Usage(calls=2, input_tokens=None), cut=[True, True, False]),
    ]
    ranking = ranked(Fusion(parts), 3, how)
    assert (ranking.usage.calls, ranking.usage.input_tokens, ranking.truncated) == (3, None, 2)
    assert Fusion(parts).score("q", texts(3)).cut == (True, True, False)


def test_counts_of_what_was_cut_are_not_added_up():
    assert ranked(Fusion([Given(1, 2, 3, truncated=1), Given(1, 2, 3, truncated=1)]), 3).truncated == 1


def test_steps_hold_everybodys_rank_and_score():
    parts = [Given(0.1, None, name="one", details=[{"window": 2}, None]), Given(0.3, 0.9, name="two")]
    ranking = ranked(Fusion(parts), 2)
    found = {hit.index: hit.details for hit in ranking}
    two = {"step": 2, "by": "two:m", "rank": 1, "score": 0.9}
    assert found[1] == {"steps": [two]}
    assert found[0]["steps"] == [
        {"step": 1, "by": "one:m", "rank": 1, "score": 0.1, "details": {"window": 2}},
        {"step": 2, "by": "two:m", "rank": 2, "score": 0.3},
    ]


def test_what_one_lacks_the_ranking_tells():
    ranking = ranked(Fusion([Given(0.1, 0.2), Given(0.5, None, degraded="deadline")]), 2)
    assert ranking.degraded == "deadline"


def test_who_was_tried_is_told_with_the_others():
    parts = [Fallback(Given(name="down", error=BackendError("no")), Given(0.1, 0.2, name="up")), Given(0.5, 0.1)]
    ranking = ranked(Fusion(parts), 2)
    assert (ranking.degraded, ranking.backend) == ("fallback", "fusion")
    assert ranking.attempts == (
        Attempt("down", "m", "BackendError: no"),
        Attempt("up", "m"),
        Attempt("given", "m"),
    )


def test_without_trouble_there_are_no_attempts():
    ranking = ranked(Fusion([Given(0.1, 0.2), Given(0.1, 0.2)]), 2)
    assert (ranking.degraded, ranking.attempts) == (None, ())


# Scales


def answered(scale, **more):
    return Fallback(Given(name="down", error=BackendError("no")), Given(0.9, 0.1, scale=scale, **more))


@pytest.mark.parametrize("normalise", ["minmax", "none"])
def test_a_fallback_with_only_an_order_is_fused_by_rank(normalise):
    ranking = ranked(Fusion([Given(0.2, 0.4), answered(Scale.RANK)], method="weighted", normalise=normalise), 2)
    assert (ranking.scale, ranking.degraded) == (Scale.RANK, "fallback")
    assert [hit.raw_score for hit in ranking] == [pytest.approx(1 / 61 + 1 / 62)] * 2


def test_a_fallback_on_another_scale_is_not_in_the_mean():
    parts = [Given(0.2, 0.4), answered(UNIT)]
    ranking = ranked(Fusion(parts, method="weighted", normalise="none"), 2, min_score=0.3)
    assert (ranking.scale, ranking.min_score, len(ranking)) == (Scale.RANK, None, 2)


def test_a_cascade_out_of_time_is_fused_by_rank():
    stages = [Given(0.9, 0.1), Given(error=DeadlineError("late"))]
    ranking = ranked(Fusion([Given(0.2, 0.4), Cascade(stages, keep=2)], method="weighted"), 2)
    assert (ranking.scale, ranking.degraded) == (Scale.RANK, "deadline")


def test_min_score_is_not_applied_to_a_mean_with_a_fallback_whoever_else_was_late():
    late = Given(0.2, None, degraded="deadline")
    fused = Fusion([late, answered(Scale.LOGIT)], method="weighted", normalise="none")
    assert ranked(fused, 2, min_score=0.9).min_score is None


@pytest.mark.parametrize("late", [{}, {"method": "weighted", "normalise": "zscore"}])
def test_min_score_is_refused_where_sums_are_only_an_order(late):
    with pytest.raises(ValueError, match=r"min_score.*'fusion'.*only an order"):
        ranked(Fusion([Given(1), Given(1)], **late), 1, min_score=0.5)


def test_pointwise_are_only_means_of_what_is():
    parts = [FakeBackend(), FakeBackend(score=half)]
    assert Fusion(parts, method="weighted", normalise="none").pointwise
    assert not Fusion(parts, method="weighted").pointwise
    assert not Fusion(parts).pointwise
    assert not Fusion([*parts, FakeBackend(pointwise=False)], method="weighted", normalise="none").pointwise


# What it is made of


def test_it_tells_what_it_is_made_of():
    fusion = Fusion(["retrieval", FakeBackend()])
    assert fusion.model == "retrieval:order-or-score + fake:word-overlap"
    assert FakeBackend().fingerprint in fusion.fingerprint


@methods
def test_it_copies_and_pickles(how):
    fusion = Fusion([FakeBackend(), FakeBackend()], weights=[1, 2], **how)
    for twin in (copy.deepcopy(fusion), pickle.loads(pickle.dumps(fusion))):
        assert (twin.fingerprint, twin.weights) == (fusion.fingerprint, (1, 2))


def test_lists_that_it_was_given_may_change_later():
    parts, weights = [FakeBackend()], [2.0]
    fusion = Fusion(parts, weights=weights)
    parts.clear()
    weights[0] = -1
    assert (len(fusion.backends), fusion.weights) == (1, (2,))


RANKS = FakeBackend(name="ranks", scale=Scale.RANK)
LOGITS = FakeBackend(name="logits", scale=Scale.LOGIT)
UNKNOWN = FakeBackend(name="unknown", scale=Scale.UNKNOWN)


@pytest.mark.parametrize(
    ("backends", "options", "error", "words"),
    [
        ([], {}, ValueError, "backends is empty"),
        ("embedded", {}, TypeError, "backends must be a list of names or backends, not str"),
        ([None], {}, TypeError, "backend 0 of a fusion must be a name or a rerankx.Backend, not NoneType"),
        ([LOGITS], {"method": "weigthed"}, ValueError, "method must be .* not 'weigthed'; did you mean 'weighted'"),
        ([LOGITS], {"normalise": "minmax"}, ValueError, "normalise is not for method='rrf'"),
        ([LOGITS], {"method": "weighted", "k": 3}, ValueError, "k is not for method='weighted'"),
        ([LOGITS], {"method": "weighted", "normalise": "l2"}, ValueError, "normalise must be one of .*, not 'l2'"),
        ([LOGITS], {"k": -1}, ValueError, "k must be at least 0, not -1"),
        ([LOGITS], {"k": 1.5}, TypeError, "k must be a whole number"),
        ([LOGITS], {"weights": [1, 2]}, ValueError, "weights has length 2: expected 1"),
        ([LOGITS], {"weights": [-1]}, ValueError, r"weights\[0\] is -1"),
        ([LOGITS], {"weights": [float("nan")]}, ValueError, r"weights\[0\] is nan"),
        ([LOGITS], {"weights": [0]}, ValueError, "at least one above 0"),
        ([LOGITS, RANKS], {"method": "weighted"}, OptionError, "ranks:word-overlap has none: its answer is only an order"),
        ([LOGITS, Floor(LOGITS)], {"method": "weighted"}, OptionError, "floor:.* has none"),
        ([UNKNOWN], {"method": "weighted", "normalise": "none"}, OptionError, "unknown:.* mean nothing beyond one query"),
        ([LOGITS, FakeBackend()], {"method": "weighted", "normalise": "none"}, OptionError, "one common scale"),
        (["retrieval", LOGITS], {"method": "weighted", "normalise": "none"}, OptionError, "mean nothing beyond one query"),
    ],
)  # fmt: skip
def test_what_it_is_not_made_of(backends, options, error, words):
    with pytest.raises(error, match=words):
        Fusion(backends, **options)


@pytest.mark.parametrize("inner", [Fusion([LOGITS]), Cascade([RANKS]), Fallback(RANKS, LOGITS)])
def test_an_order_that_a_wrapper_is_known_to_give_is_refused_at_once(inner):
    with pytest.raises(OptionError, match="only an order"):
        Fusion([inner, LOGITS], method="weighted")


@pytest.mark.parametrize("inner", [Fusion([LOGITS]), Cascade([RANKS]), Fallback(RANKS, LOGITS)])
def test_an_order_is_not_added_up_in_any_case(inner):
    with pytest.raises(OptionError, match="only an order"):
        Fusion([inner, LOGITS], method="weighted").score("q", ["some", "text"])


class Lazy(FakeBackend):
    """Would have to fetch something to know its scale."""

    @property
    def scale(self):
        raise AssertionError("fetched")

    @scale.setter
    def scale(self, value):
        pass


@pytest.mark.parametrize("inner", [Floor(Lazy()), Fusion([Lazy()]), Cascade([Lazy(), RANKS], keep=1)])
def test_an_order_whatever_its_parts_are_is_refused_at_once(inner):
    with pytest.raises(OptionError, match="only an order"):
        Fusion([inner, LOGITS], method="weighted")


def test_a_scale_that_would_have_to_be_fetched_is_left_for_later():
    Fusion([Lazy(), Cascade([Lazy()]), Fallback(Lazy(), LOGITS)], method="weighted", normalise="none")


@pytest.mark.parametrize("weights", ["1", [None], ["1"], 1])
def test_weights_that_are_no_numbers_are_named(weights):
    with pytest.raises((TypeError, ValueError), match="weights"):
        Fusion([LOGITS], weights=weights)
