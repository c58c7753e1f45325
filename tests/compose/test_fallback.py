import asyncio
import copy
import json
import logging
import pickle
import threading
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import (
    Attempt,
    AuthenticationError,
    Backend,
    BackendError,
    DeadlineError,
    Fallback,
    MissingDependencyError,
    ModelNotFoundError,
    OptionError,
    RateLimitError,
    ReplyError,
    Reranker,
    Scale,
    Scores,
    UnknownBackendError,
    Usage,
)
from rerankx.interface import deadline, out_of_time, remaining_s
from rerankx.testing import BackendContract, FakeBackend

TEXTS = ["red apple", "blue sky", "red wine"]


def scored(backend, how="score", *, texts=TEXTS, **more):
    """Call `score` or `ascore`: what holds for one holds for the other."""
    if how == "score":
        return backend.score("red wine", texts, **more)
    return asyncio.run(backend.ascore("red wine", texts, **more))


both = pytest.mark.parametrize("how", ["score", "ascore"])


def failing(name="first", error=None, **more):
    return FakeBackend(name=name, model="m", error=error or RateLimitError("too many"), **more)


def answering(name="second", **more):
    return FakeBackend(name=name, model="m", **more)


def of_scale(scale, name="second", **more):
    """Return a backend that scores 0, 1, 2 ... downwards from the first text."""
    return FakeBackend(name=name, model="m", reply=[2.0, 1.0, 0.0], scale=scale, **more)


class Punctual(FakeBackend):
    """Raises where the caller's time is up, as what asks a server does; else what it was told to, if anything."""

    def _score(self, query, texts, *, top_n=None):
        if out_of_time()():
            raise DeadlineError("late")
        return super()._score(query, texts, top_n=top_n)


class Local(FakeBackend):
    """Leaves texts unscored where the caller's time is up."""

    def _score(self, query, texts, *, top_n=None):
        if out_of_time()():
            return Scores([None] * len(texts), degraded="deadline")
        return super()._score(query, texts, top_n=top_n)


class CutShort(FakeBackend):
    """Scores only the first `n` texts, and says that its time was up."""

    def __init__(self, n, **more):
        super().__init__(**more)
        self.n = n

    def _score(self, query, texts, *, top_n=None):
        values = super()._score(query, texts, top_n=top_n)
        return Scores([*values[: self.n], *[None] * (len(texts) - self.n)], degraded="deadline", usage=Usage(calls=1))


class TestTheFirstAnswers(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Fallback(Local(), Local(name="spare"))

    def variants(self):
        return [
            Fallback(Local(), Local(name="other")),
            Fallback(Local(name="spare"), Local()),
            Fallback(Local(), Local(name="spare"), Local()),
            Fallback(Local(), Local(name="spare"), min_scores={"spare": 0.5}),
            Fallback(Local(), Local(name="spare"), min_scores={"spare": 0.25}),
        ]


class TestTheSecondAnswersBecauseTheFirstAlwaysFails(BackendContract):
    on_deadline = "error"

    def make(self):
        return Fallback(Punctual(name="first", error=BackendError("no")), Punctual())


class TestAFallbackWithinAFallback(BackendContract):
    on_deadline = "error"

    def make(self):
        inner = Fallback(*(Punctual(name=name, error=BackendError("no")) for name in ("a", "b")))
        return Fallback(inner, Fallback(Punctual(), Punctual(name="spare")))


# Who answers


@both
def test_the_first_answers_if_it_can(how):
    first, second = answering("first"), answering()
    scores = scored(Fallback(first, second), how)
    assert scores.values == (0.5, 0.0, 1.0)
    assert scores.degraded is None
    assert scores.attempts == (Attempt("first", "m"),)
    assert second.calls == []


@both
def test_the_next_is_asked_where_one_fails(how):
    first, second, third = failing(), answering(), answering("third")
    scores = scored(Fallback(first, second, third), how)
    assert scores.values == (0.5, 0.0, 1.0)
    assert scores.degraded == "fallback"
    assert scores.attempts == (Attempt("first", "m", "RateLimitError: too many"), Attempt("second", "m"))
    assert [len(backend.calls) for backend in (first, second, third)] == [1, 1, 0]


@both
@pytest.mark.parametrize(
    "error", [AuthenticationError("no"), DeadlineError("no"), ReplyError("no"), RuntimeError("no")]
)
def test_the_next_is_asked_whatever_failed_in_the_backend(how, error):
    assert scored(Fallback(failing(error=error), answering()), how).degraded == "fallback"


@both
def test_the_next_is_asked_where_the_answer_is_no_scoring(how):
    scores = scored(Fallback(FakeBackend(reply=[1.0]), answering()), how)
    assert scores.attempts[0].error.startswith("ReplyError: backend 'fake'")
    assert scores.degraded == "fallback"


@both
@pytest.mark.parametrize(
    "error",
    [
        ModelNotFoundError("no such model"),
        MissingDependencyError("first", ["p"], "pip install p"),
        OptionError("no such option"),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_mistake_of_the_program_is_raised(how, error):
    class Mistaken(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            raise error

    second = answering()
    with pytest.raises(type(error)):
        scored(Fallback(Mistaken(), second), how)
    assert second.calls == []


@both
@pytest.mark.parametrize(("query", "texts", "error"), [(" ", ["a"], ValueError), ("q", [None], TypeError)])
def test_a_mistake_of_the_caller_is_raised_and_nobody_is_asked(how, query, texts, error):
    backends = failing(), answering()
    fallback = Fallback(*backends)
    with pytest.raises(error):
        fallback.score(query, texts) if how == "score" else asyncio.run(fallback.ascore(query, texts))
    assert [backend.calls for backend in backends] == [[], []]


def test_each_is_asked_in_its_own_way():
    ways = []

    class Native(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            ways.append("sync")
            return super()._score(query, texts, top_n=top_n)

        async def _ascore(self, query, texts, *, top_n=None):
            ways.append("async")
            return super()._score(query, texts, top_n=top_n)

    scored(Fallback(Native(error=BackendError("no")), Native()), "ascore")
    assert ways == ["async", "async"]


@both
def test_each_is_asked_the_same(how):
    first, second = failing(), answering()
    scored(Fallback(first, second), how, texts=["a", " ", "b"], top_n=1)
    assert first.calls == second.calls
    assert (second.calls[0].texts, second.calls[0].top_n) == (("a", "b"), 1)


def test_a_task_that_is_cancelled_asks_nobody_else():
    second, started = answering(), asyncio.Event()

    class Waiting(FakeBackend):
        async def _ascore(self, query, texts, *, top_n=None):
            started.set()
            await asyncio.Event().wait()

    async def main():
        task = asyncio.create_task(Fallback(Waiting(), second).ascore("q", ["a"]))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert second.calls == []


# What the scores say


@both
def test_the_scores_are_on_the_scale_of_the_one_that_answered(how):
    scores = scored(Fallback(failing(scale=Scale.PROBABILITY), of_scale(Scale.LOGIT)), how)
    assert (scores.scale, scores.values) == (Scale.LOGIT, (2.0, 1.0, 0.0))


def test_order_details_and_cut_texts_are_those_of_the_one_that_answered():
    reply = Scores([1, 1, 1], order=[2, 0, 1], details=[{"a": 1}, None, None], truncated=2)
    scores = scored(Fallback(failing(), FakeBackend(reply=reply, scale=Scale.UNKNOWN)), texts=["", *TEXTS])
    assert (scores.order, scores.details, scores.truncated) == ((3, 1, 2), (None, {"a": 1}, None, None), 2)


def test_what_the_answer_of_a_fallback_lacks_is_in_its_attempt():
    scores = scored(Fallback(failing(), FakeBackend(reply=Scores([1, None, 0], degraded="incomplete"))))
    assert scores.degraded == "fallback"
    assert scores.attempts[-1] == Attempt("fake", "word-overlap", None, "incomplete")


def test_what_the_first_lacks_is_what_the_scores_lack():
    scores = scored(Fallback(FakeBackend(reply=Scores([1, None, 0], degraded="incomplete")), answering()))
    assert (scores.degraded, scores.values) == ("incomplete", (1.0, None, 0.0))


def test_an_answer_without_a_single_score_is_none():
    unscored = FakeBackend(name="first", model="m", reply=[None] * 3)
    scores = scored(Fallback(unscored, answering()))
    assert scores.degraded == "fallback"
    assert scores.attempts[0] == Attempt("first", "m", "ReplyError: none of 3 texts was scored")


def test_an_answer_without_a_single_score_stands_where_nobody_failed_and_nobody_has_a_better_one():
    second = FakeBackend(name="second", model="m", reply=[None] * 3)
    scores = scored(Fallback(FakeBackend(name="first", model="m", reply=[None] * 3), second))
    assert (scores.values, scores.degraded) == ((None,) * 3, "incomplete")
    assert [attempt.error is None for attempt in scores.attempts] == [True, False]


def test_usage_is_added_up():
    spent = Scores([None] * 3, usage=Usage(calls=2, cost_usd=0.5))
    inner = Fallback(FakeBackend(reply=spent), failing())
    answered = FakeBackend(reply=Scores([1, 0, 1], usage=Usage(calls=1, cost_usd=0.25, input_tokens=None)))
    assert scored(Fallback(inner, failing(), answered)).usage == Usage(calls=3, cost_usd=0.75, input_tokens=None)


def test_an_inner_fallback_tells_its_own_attempts():
    inner = Fallback(failing("a"), answering("b"))
    scores = scored(Fallback(inner, answering("c")))
    assert [(attempt.backend, attempt.error is None) for attempt in scores.attempts] == [("a", False), ("b", True)]
    assert scores.degraded == "fallback"


def test_an_inner_fallback_that_fails_tells_its_own_attempts():
    inner = Fallback(failing("a"), failing("b"))
    scores = scored(Fallback(inner, Fallback(failing("c"), answering("d"))))
    assert [attempt.backend for attempt in scores.attempts] == ["a", "b", "c", "d"]
    assert [attempt.backend for attempt in scores.attempts if attempt.error is None] == ["d"]


def test_a_backend_that_tells_only_failures_has_answered_itself():
    reply = Scores([1, 0, 1], attempts=[Attempt("replica", "m", "no")])
    scores = scored(Fallback(failing(), FakeBackend(reply=reply)))
    assert [attempt.backend for attempt in scores.attempts] == ["first", "replica", "fake"]


def test_a_failure_that_is_passed_over_is_logged(caplog):
    scored(Fallback(failing(), failing("second", DeadlineError("late")), answering("third")))
    assert [record.getMessage() for record in caplog.records] == [
        "first:m failed, second:m is asked next: RateLimitError: too many",
        "second:m failed, third:m is asked next: DeadlineError: late",
    ]
    assert {(record.name, record.levelno) for record in caplog.records} == {("rerankx", logging.WARNING)}


def test_no_message_holds_what_a_backend_quoted(caplog):
    secret = "sk-123: a whole document"
    broken = failing(error=Exception(secret)), failing("second", Exception(secret))
    with pytest.raises(BackendError) as raised:
        scored(Fallback(*broken), texts=[secret])
    assert secret not in f"{raised.value} {raised.value.attempts} {caplog.text}"


# All failed


@both
def test_the_error_names_everybody_and_why(how):
    with pytest.raises(BackendError) as raised:
        scored(Fallback(failing(), failing("second", ReplyError("not a list"))), how)
    assert str(raised.value) == (
        "all 2 backends failed: first:m: RateLimitError: too many; second:m: ReplyError: not a list"
    )
    assert raised.value.attempts == (
        Attempt("first", "m", "RateLimitError: too many"),
        Attempt("second", "m", "ReplyError: not a list"),
    )
    assert type(raised.value.__cause__) is ReplyError


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([DeadlineError("x"), DeadlineError("y")], DeadlineError),
        ([RateLimitError("x"), RateLimitError("y")], RateLimitError),
        ([AuthenticationError("x"), AuthenticationError("y")], AuthenticationError),
        ([DeadlineError("x"), RateLimitError("y")], BackendError),
        ([BackendError("x"), DeadlineError("y")], BackendError),
        ([ReplyError("x"), ReplyError("y")], BackendError),
    ],
)
def test_the_error_is_of_the_one_kind_that_all_were(errors, kind):
    for tried in (Fallback(*map(failing, "ab", errors)), Fallback(*(Fallback(*map(failing, "ab", errors)),) * 2)):
        with pytest.raises(BackendError) as raised:
            scored(tried)
        assert type(raised.value) is kind


def test_the_last_failure_is_not_logged_since_it_is_raised(caplog):
    with pytest.raises(BackendError):
        scored(Fallback(failing(), failing("second")))
    assert len(caplog.records) == 1


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))])
def test_the_error_crosses_process_boundaries_whole(copied):
    with pytest.raises(BackendError) as raised:
        scored(Fallback(failing(), failing("second")))
    twin = copied(raised.value)
    assert (type(twin), str(twin), twin.attempts) == (RateLimitError, str(raised.value), raised.value.attempts)


def test_other_errors_have_no_attempts():
    assert BackendError("no").attempts == ()


# Under a deadline


def left_to(backends, how, seconds):
    """Return how many seconds each was given."""
    left = []

    class Noting(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            left.append(remaining_s())
            return super()._score(query, texts, top_n=top_n)

    errors = [BackendError("no")] * (backends - 1) + [None]
    with deadline(seconds):
        scored(Fallback(*(Noting(error=error) for error in errors)), how)
    return left


@both
def test_each_but_the_last_may_use_half_of_the_time_that_is_left(how):
    first, second, third = left_to(3, how, 600)
    assert 290 < first <= 300
    assert 290 < second <= 300
    assert 590 < third <= 600


@both
def test_without_a_deadline_nobody_is_bounded(how):
    assert left_to(2, how, None) == [None, None]


class Hanging(FakeBackend):
    """Waits for as long as it may, and then says so: what a server does that does not answer."""

    def _score(self, query, texts, *, top_n=None):
        super()._score(query, texts, top_n=top_n)
        threading.Event().wait(remaining_s())
        raise DeadlineError("no answer")


@both
def test_a_first_one_that_hangs_leaves_time_for_the_next(how):
    with deadline(0.2):
        scores = scored(Fallback(Hanging(), Punctual()), how)
    assert scores.values == (0.5, 0.0, 1.0)
    assert scores.attempts[0].error == "DeadlineError: no answer"


@both
def test_one_whose_half_of_the_time_ends_before_all_is_scored_gives_way_to_the_next(how):
    with deadline(600):
        scores = scored(Fallback(CutShort(2, name="first", model="m"), answering()), how)
    assert (scores.values, scores.degraded) == ((0.5, 0.0, 1.0), "fallback")
    told = "DeadlineError: 2 of 3 texts were scored in its share of the time"
    assert scores.attempts == (Attempt("first", "m", told), Attempt("second", "m"))


def test_what_was_scored_in_half_of_the_time_stands_if_the_next_fails():
    with deadline(600):
        scores = scored(Fallback(CutShort(1, name="first"), failing("second"), CutShort(0, name="third")))
    assert (scores.values, scores.degraded) == ((0.5, None, None), "deadline")
    assert [(attempt.backend, attempt.error is None) for attempt in scores.attempts] == [
        ("first", True),
        ("second", False),
        ("third", False),
    ]
    assert scores.usage.calls == 2


def test_of_two_that_were_cut_short_the_one_that_scored_more_stands():
    with deadline(600):
        scores = scored(Fallback(*(CutShort(n, name=f"cut{n}") for n in (1, 2)), failing("third")))
    assert scores.values == (0.5, 0.0, None)
    assert (scores.degraded, scores.attempts[1].degraded) == ("fallback", "deadline")
    assert [attempt.error is None for attempt in scores.attempts] == [False, True, False]


def test_the_last_one_that_was_cut_short_does_not_replace_a_better_one():
    with deadline(600):
        scores = scored(Fallback(CutShort(2, name="first"), CutShort(1)))
    assert (scores.values, scores.degraded) == ((0.5, 0.0, None), "deadline")


def test_an_answer_that_was_not_cut_short_stands_before_one_that_was():
    declining = FakeBackend(name="declining", reply=[1.0, None, None])
    with deadline(600):
        scores = scored(Fallback(CutShort(2), declining))
    assert (scores.values, scores.degraded) == ((1.0, None, None), "fallback")


def test_the_last_one_may_be_cut_short():
    with deadline(600):
        scores = scored(Fallback(failing(), CutShort(1)))
    assert (scores.degraded, scores.attempts[-1].degraded) == ("fallback", "deadline")


def test_an_inner_fallback_that_was_cut_short_gives_way_and_one_that_recovered_does_not():
    cut = Fallback(failing("a"), CutShort(1, name="b"))
    recovered = Fallback(CutShort(1, name="c"), answering("d"))
    with deadline(600):
        scores = scored(Fallback(cut, recovered, answering("e")))
    assert [attempt.backend for attempt in scores.attempts] == ["a", "b", "c", "d"]


def test_what_was_scored_stands_where_no_time_is_left():
    second = answering()
    with deadline(1e-9):
        scores = scored(Fallback(CutShort(1), second))
    assert (scores.values, scores.degraded, second.calls) == ((0.5, None, None), "deadline", [])


def test_a_backend_that_leaves_texts_unscored_without_a_deadline_has_answered():
    assert scored(Fallback(CutShort(1), answering())).degraded == "deadline"


# What it is


def test_it_is_a_backend_that_names_its_backends():
    fallback = Fallback(answering("a"), answering("b"))
    assert (fallback.name, fallback.model) == ("fallback", "a:m > b:m")
    assert repr(fallback) == "<Fallback fallback:a:m > b:m>"
    assert Fallback(fallback, answering("c")).model == "a:m > b:m > c:m"


def test_its_scale_is_the_first_ones():
    assert Fallback(of_scale(Scale.LOGIT), of_scale(Scale.RANK)).scale == Scale.LOGIT


def test_it_is_not_pointwise_since_who_answers_may_change():
    assert Fallback(answering(), answering()).pointwise is False


def test_where_one_failed_and_the_others_score_nothing_it_fails():
    fallback = Fallback(failing("a"), answering("b", reply=[None, None]))
    with pytest.raises(
        BackendError, match=r"all 2 backends failed: a:m: .*; b:m: ReplyError: none of 2 texts was scored"
    ):
        fallback.score("query", ["one", "two"])


def test_making_it_and_reading_its_scale_asks_nothing_of_the_others():
    class Costly(Backend):
        name, model, pointwise = "costly", "m", True

        @property
        def scale(self):
            raise AssertionError("fetched")

        def _score(self, query, texts, *, top_n=None):
            raise BackendError("no")

    fallback = Fallback(of_scale(Scale.LOGIT), Costly(), min_scores={"costly": 0.5})
    assert (fallback.scale, fallback.pointwise, fallback.model) == (Scale.LOGIT, False, "second:m > costly:m")
    assert scored(fallback).scale == Scale.LOGIT


def test_names_become_backends():
    fallback = Fallback("cross-encoder:some/model", "embedded")
    assert [backend.name for backend in fallback.backends] == ["cross-encoder", "embedded"]
    assert fallback.backends[0].model == "some/model"


def test_a_wrong_name_is_told_when_it_is_made():
    with pytest.raises(UnknownBackendError, match="'embeded'; did you mean 'embedded'"):
        Fallback("embedded", "embeded")


@pytest.mark.parametrize("backends", [(), ("embedded",)])
def test_at_least_two_are_needed(backends):
    with pytest.raises(ValueError, match=f"at least two backends, as arguments, not {len(backends)}"):
        Fallback(*backends)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (None, "backend 1 of a fallback must be a name or a rerankx.Backend, not NoneType"),
        (FakeBackend, "not ABCMeta"),
        (["embedded"], "not list"),
        (Reranker(FakeBackend()), "not Reranker; pass its .backend"),
    ],
)
def test_anything_else_is_refused(other, said):
    with pytest.raises(TypeError, match=said):
        Fallback("embedded", other)


# Thresholds


def ranked(fallback, **more):
    return Reranker(fallback).rerank("red wine", TEXTS, **more)


def test_the_threshold_of_the_caller_is_the_first_ones():
    ranking = ranked(Fallback(answering("first"), answering(), min_scores={"second": 0.9}), min_score=0.5)
    assert (ranking.documents, ranking.min_score) == (["red wine", "red apple"], 0.5)


@pytest.mark.parametrize("key", ["second", "second:m"])
def test_one_that_answers_has_its_own_threshold(key):
    ranking = ranked(Fallback(failing(), answering(), min_scores={key: 0.75}), min_score=0.1)
    assert (ranking.documents, ranking.min_score) == (["red wine"], 0.75)


def test_a_threshold_of_zero_is_one():
    assert ranked(Fallback(failing(), answering(), min_scores={"second": 0}), min_score=0.9).min_score == 0.0


def test_a_fallback_without_a_threshold_has_none_and_that_is_said(caplog):
    fallback = Fallback(failing(), answering(), answering("third"), min_scores={"third": 0.75})
    ranking = ranked(fallback, min_score=0.9)
    assert (len(ranking), ranking.min_score) == (3, None)
    assert "min_score=0.9 is not applied: the result is degraded to 'fallback'" in caplog.text


def test_no_threshold_is_applied_that_the_caller_did_not_ask_for():
    ranking = ranked(Fallback(failing(), answering(), min_scores={"second": 0.75}))
    assert (len(ranking), ranking.min_score) == (3, None)


def test_a_threshold_is_known_by_the_name_as_given():
    bge = "cross-encoder:BAAI/bge-reranker-base"
    Fallback("embedded", "minilm", "bge", min_scores={"minilm": 0.5, bge: 0.5})
    with pytest.raises(ValueError, match="two thresholds for 'bge'"):
        Fallback("embedded", "minilm", "bge", min_scores={"bge": 0.5, bge: 0.5})


def test_what_a_fallback_left_unscored_is_kept():
    fallback = Fallback(failing(), FakeBackend(reply=[0.1, None, 0.9]), min_scores={"fake": 0.5})
    assert ranked(fallback, min_score=0.5).documents == ["red wine", "blue sky"]


@pytest.mark.parametrize(
    ("outer", "inner", "applied"),
    [
        ({"fallback": 0.25}, {"b": 0.75}, 0.75),
        ({"fallback": 0.25}, {}, None),
        ({}, {"b": 0.75}, 0.75),
    ],
)
def test_a_threshold_within_an_inner_fallback_is_its_own(outer, inner, applied):
    fallback = Fallback(failing(), Fallback(failing("a"), answering("b"), min_scores=inner), min_scores=outer)
    assert ranked(fallback, min_score=0.5).min_score == applied


def test_the_threshold_of_an_inner_fallback_is_its_first_ones():
    fallback = Fallback(failing(), Fallback(answering("a"), answering("b")), min_scores={"fallback": 0.75})
    assert ranked(fallback, min_score=0.5).min_score == 0.75


def test_an_inner_fallback_that_comes_first_keeps_its_thresholds():
    inner = Fallback(failing("a"), answering("b"), min_scores={"b": 0.75})
    assert ranked(Fallback(inner, answering("c")), min_score=0.5).min_score == 0.75


def test_a_threshold_for_an_unknown_name_names_the_known():
    with pytest.raises(ValueError, match=r"'secnd' among them; did you mean 'second:m'\?; known: second:m, minilm"):
        Fallback("embedded", answering("second"), "minilm", min_scores={"secnd": 0.5})


@pytest.mark.parametrize(
    ("backends", "key", "said"),
    [
        (["embedded", "minilm"], "embedded", "'embedded' comes first, and its threshold is the min_score of rerank"),
        (["minilm", "bge"], "cross-encoder", "'cross-encoder' may be any of minilm, bge; take one of these names"),
        (["embedded", "minilm"], 3, "no backend 3 among them; known: minilm"),
    ],
)
def test_a_threshold_for_nobody_in_particular_is_refused(backends, key, said):
    with pytest.raises(ValueError, match=said):
        Fallback(*backends, min_scores={key: 0.5})


def test_a_name_as_given_comes_before_the_name_of_a_backend():
    Fallback("embedded", "cross-encoder", "bge", min_scores={"cross-encoder": 0.5})
    with pytest.raises(ValueError, match="'cross-encoder' comes first"):
        Fallback("cross-encoder", "bge", min_scores={"cross-encoder": 0.5})


def test_a_threshold_that_a_backend_sets_itself_is_kept_unless_it_has_one_here():
    setting = FakeBackend(reply=Scores([0.1, 0.5, 0.9], min_score=0.75))
    assert ranked(Fallback(setting, answering()), min_score=0.1).min_score == 0.75
    assert ranked(Fallback(failing(), setting), min_score=0.1).min_score == 0.75
    assert ranked(Fallback(failing(), setting, min_scores={"fake": 0.25}), min_score=0.1).min_score == 0.25


def test_two_thresholds_for_one_are_refused():
    with pytest.raises(ValueError, match="two thresholds for 'minilm'"):
        Fallback("embedded", "minilm", min_scores={"minilm": 0.5, "cross-encoder": 0.5})


@pytest.mark.parametrize(
    ("min_scores", "error", "said"),
    [
        ({"minilm": 1.5}, ValueError, "min_score"),
        ({"minilm": "0.5"}, TypeError, "min_score"),
        ({"minilm": None}, TypeError, "the threshold of 'minilm' is None; leave it out"),
        ([0.5], TypeError, "min_scores must be a mapping of names to numbers, not list"),
    ],
)
def test_what_is_no_threshold_is_refused(min_scores, error, said):
    with pytest.raises(error, match=said):
        Fallback("embedded", "minilm", min_scores=min_scores)


def test_a_threshold_where_scores_are_only_an_order_is_refused():
    with pytest.raises(ValueError, match=r"min_scores: the scores of 'second:m' \(rank\) are only an order"):
        Fallback("embedded", of_scale(Scale.RANK), min_scores={"second": 0.5})


def test_a_threshold_where_scores_turn_out_to_be_only_an_order_is_refused_when_it_would_be_applied():
    class Fetching(Backend):
        name, model, pointwise = "fetching", "m", True

        @property
        def scale(self):
            return Scale.UNKNOWN

        def _score(self, query, texts, *, top_n=None):
            return [1.0] * len(texts)

    fallback = Fallback(failing(), Fetching(), min_scores={"fetching": 0.5})
    assert len(ranked(fallback)) == 3
    with pytest.raises(ValueError, match=r"a threshold for 'fetching', whose scores \(unknown\) are only an order"):
        ranked(fallback, min_score=0.5)


@pytest.mark.parametrize("min_score", [1.5, "0.5", float("nan")])
def test_a_threshold_in_scores_that_is_none_is_a_wrong_reply(min_score):
    with pytest.raises(ReplyError, match="min_score="):
        scored(FakeBackend(reply=Scores([1, 0, 1], min_score=min_score)))


# In a reranker


def asked(reranker, how, *given, **named):
    if how == "score":
        return reranker.rerank(*given, **named)
    return asyncio.run(reranker.arerank(*given, **named))


@both
def test_a_ranking_names_the_one_that_answered(how):
    ranking = asked(Reranker(Fallback(failing(), of_scale(Scale.LOGIT))), how, "q", TEXTS)
    assert (ranking.backend, ranking.model, ranking.scale) == ("second", "m", Scale.LOGIT)
    assert (ranking.degraded, len(ranking.attempts)) == ("fallback", 2)
    assert asked(Reranker(Fallback(answering("first"), failing())), how, "q", TEXTS).backend == "first"


@both
def test_input_order_is_the_last_resort_and_names_everybody(how, caplog):
    reranker = Reranker(Fallback(failing(), failing("second", DeadlineError("late"))), on_error="input_order")
    ranking = asked(reranker, how, "q", TEXTS)
    assert (ranking.documents, ranking.degraded, ranking.backend) == (TEXTS, "input_order", "fallback")
    assert ranking.attempts == (
        Attempt("first", "m", "RateLimitError: too many"),
        Attempt("second", "m", "DeadlineError: late"),
    )
    assert "the input order stands: all 2 backends failed: first:m" in caplog.text


class Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.shown = ""
        self.feed(page)

    def handle_data(self, data):
        self.shown += data


def test_a_ranking_shows_that_it_is_a_fallbacks():
    ranking = ranked(Fallback(failing(), answering()))
    for shown in (str(ranking), Page(ranking._repr_html_()).shown):
        assert "3 of 3 by second:m in" in shown
        assert "degraded: fallback" in shown


def test_attempts_go_to_json():
    data = json.loads(ranked(Fallback(failing(), CutShort(1))).to_json())
    assert data["attempts"] == [
        {"backend": "first", "model": "m", "error": "RateLimitError: too many", "degraded": None},
        {"backend": "fake", "model": "word-overlap", "error": None, "degraded": "deadline"},
    ]


def test_nothing_to_rank_asks_nobody():
    backends = answering("first"), answering()
    assert len(Reranker(Fallback(*backends)).rerank("q", [], min_score=0.5)) == 0
    assert scored(Fallback(*backends), texts=["", " "]).values == (None, None)
    assert [backend.calls for backend in backends] == [[], []]


def test_rerank_many_and_on_ranking_see_the_fallback():
    seen = []
    reranker = Reranker(Fallback(failing(), answering()), on_ranking=seen.append)
    rankings = reranker.rerank_many(["red", "blue"], [TEXTS, TEXTS])
    assert [ranking.documents[0] for ranking in rankings] == ["red apple", "blue sky"]
    assert [ranking.degraded for ranking in seen] == ["fallback"] * 2


# Laws


@given(st.lists(st.sampled_from([None, BackendError, DeadlineError, RuntimeError]), min_size=2, max_size=6), st.data())
def test_whoever_fails_no_document_is_lost_and_the_first_that_does_not_fail_answers(errors, data):
    backends = [
        FakeBackend(
            name=f"b{i}", score=lambda query, text, i=i: float(i), scale=Scale.LOGIT, error=error and error("no")
        )
        for i, error in enumerate(errors)
    ]
    split = data.draw(st.sampled_from([0, *range(2, len(backends))]))
    tried = [Fallback(*backends[:split]), *backends[split:]] if split else backends
    texts = data.draw(st.lists(st.text(), min_size=1, max_size=5).filter(lambda texts: any(map(str.strip, texts))))
    ranking = Reranker(Fallback(*tried), on_error="input_order").rerank("q", texts)
    assert sorted(hit.index for hit in ranking) == list(range(len(texts)))
    sound = next((i for i, error in enumerate(errors) if error is None), None)
    assert [attempt.backend for attempt in ranking.attempts] == [
        backend.name for backend in (backends if sound is None else backends[: sound + 1])
    ]
    if sound is None:
        assert (ranking.degraded, {hit.raw_score for hit in ranking}) == ("input_order", {None})
        return
    assert ranking.backend == f"b{sound}"
    assert ranking.degraded == ("fallback" if sound else None)
    assert {hit.raw_score for hit in ranking if hit.text.strip()} == {float(sound)}
