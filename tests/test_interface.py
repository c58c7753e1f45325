import asyncio
import json
import math
import threading
import time
from dataclasses import asdict
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx.errors import BackendError, DeadlineError, MissingDependencyError, ReplyError
from rerankx.interface import Attempt, Backend, Scale, Scores, Usage, check_query, deadline, remaining_s
from rerankx.testing import FakeBackend

TEXTS = ["a", "b", "c"]
finite = st.floats(allow_nan=False, allow_infinity=False)


def replying(reply, **options):
    return FakeBackend(reply=reply, scale=Scale.UNKNOWN, **options)


def run(backend, how, texts=TEXTS, query="q"):
    if how == "score":
        return backend.score(query, texts)
    return asyncio.run(backend.ascore(query, texts))


both = pytest.mark.parametrize("how", ["score", "ascore"])


# Scale


@pytest.mark.parametrize(
    ("scale", "raw", "unit"),
    [
        (Scale.LOGIT, 0.0, 0.5),
        (Scale.LOGIT, math.log(3), 0.75),
        (Scale.LOGIT, -math.log(3), 0.25),
        (Scale.LOGIT, 1e308, 1.0),
        (Scale.PROBABILITY, 0.3, 0.3),
        (Scale.PROBABILITY, 1.00005, 1.0),
        (Scale.similarity(-1, 1), 0.5, 0.75),
        (Scale.similarity(-1, 1), -1.00005, 0.0),
    ],
)
def test_to_unit(scale, raw, unit):
    assert scale.to_unit(raw) == pytest.approx(unit, abs=1e-15)


@pytest.mark.parametrize("raw", [-1e308, -1000.0, -710.0])
def test_to_unit_of_a_logit_far_below_neither_overflows_nor_leaves_the_range(raw):
    assert 0 <= Scale.LOGIT.to_unit(raw) < 1e-300


@given(st.sampled_from([Scale.LOGIT, Scale.PROBABILITY, Scale.similarity(-3, 7)]), finite, finite)
def test_to_unit_is_in_the_range_and_never_falls(scale, a, b):
    low, high = scale.to_unit(min(a, b)), scale.to_unit(max(a, b))
    assert 0 <= low <= high <= 1


@given(st.floats(-2, 2))
def test_to_unit_of_a_logit_never_falls_between_neighbours(raw):
    # exp(x) / (1 + exp(x)) does, for one pair in 400.
    neighbours = [raw]
    for _ in range(300):
        neighbours.append(math.nextafter(neighbours[-1], math.inf))
    units = [Scale.LOGIT.to_unit(x) for x in neighbours]
    assert units == sorted(units)


@pytest.mark.parametrize("scale", [Scale.RANK, Scale.UNKNOWN])
def test_to_unit_refuses_scores_that_are_only_an_order(scale):
    assert not scale.absolute
    with pytest.raises(ValueError, match=scale.kind):
        scale.to_unit(0.5)


@pytest.mark.parametrize("scale", [Scale.LOGIT, Scale.PROBABILITY, Scale.similarity(0, 1)])
def test_scores_with_a_meaning_of_their_own_are_absolute(scale):
    assert scale.absolute


@pytest.mark.parametrize(("low", "high"), [(1, 1), (2, 1), (0, math.inf), (-math.inf, 0), (math.nan, 1)])
def test_similarity_needs_finite_bounds_in_order(low, high):
    with pytest.raises(ValueError, match="low < high"):
        Scale.similarity(low, high)


# Usage


def test_usage_adds_every_field():
    one = Usage(1, 2, 3, 4, 0.5, 6, 7)
    assert one + Usage(10, 20, 30, 40, 5.0, 60, 70, estimated=True) == Usage(
        11, 22, 33, 44, 5.5, 66, 77, estimated=True
    )


def test_usage_of_nothing_is_neutral():
    one = Usage(1, 2, 3, 4, 0.5, 6, 7, estimated=True)
    assert one + Usage() == one == Usage() + one


@pytest.mark.parametrize("unknown", ["input_tokens", "output_tokens", "search_units", "cost_usd"])
def test_usage_that_is_not_known_stays_not_known(unknown):
    assert getattr(Usage(**{unknown: None}) + Usage(), unknown) is None
    assert getattr(Usage() + Usage(**{unknown: None}), unknown) is None


def test_usage_goes_to_json():
    assert json.loads(json.dumps(asdict(Usage(cost_usd=None))))["cost_usd"] is None


# What goes in


@both
@pytest.mark.parametrize("query", ["", " \n", "\N{IDEOGRAPHIC SPACE}"])
def test_a_blank_query_is_refused_even_without_texts(how, query):
    with pytest.raises(ValueError, match="query is blank"):
        run(FakeBackend(), how, [], query)


@both
def test_a_query_that_is_no_string_is_refused(how):
    with pytest.raises(TypeError, match="query must be a string, not NoneType"):
        run(FakeBackend(), how, TEXTS, None)


@both
def test_a_text_that_is_no_string_is_named_with_its_index(how):
    fake = FakeBackend()
    with pytest.raises(TypeError, match="text 2 is NoneType"):
        run(fake, how, ["a", "", None])
    assert fake.calls == []


@both
def test_one_string_is_not_taken_for_texts(how):
    with pytest.raises(TypeError, match="texts is one string"):
        run(FakeBackend(), how, "abc")


def test_check_query_lets_a_query_pass():
    check_query(" q ")


@both
def test_nothing_to_score_calls_nothing(how):
    fake = FakeBackend()
    assert run(fake, how, []) == Scores(())  # not even its scale is asked for
    assert run(fake, how, ["", " "]) == Scores((None, None), scale=fake.scale)
    assert fake.calls == []


@both
def test_blank_texts_are_never_sent(how):
    fake = FakeBackend(score=lambda query, text: float(text), scale=Scale.UNKNOWN)
    assert run(fake, how, ["", "1", " \t", "2"]).values == (None, 1.0, None, 2.0)
    assert fake.calls == [("q", ("1", "2"), None)]


@both
def test_the_backend_gets_a_list_of_its_own(how):
    class Greedy(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            return [1.0 for _ in range(len(texts)) if texts.pop()]

    texts = list(TEXTS)
    assert run(Greedy(), how, texts).values == (1.0, 1.0, 1.0)
    assert texts == TEXTS


@both
def test_top_n_reaches_the_backend(how):
    fake = FakeBackend()
    score = fake.score if how == "score" else lambda *given, **named: asyncio.run(fake.ascore(*given, **named))
    score("q", TEXTS, top_n=2)
    assert fake.calls[0].top_n == 2


# What comes out


class Number:
    """What a numeric package returns: not a float, but it becomes one."""

    def __float__(self):
        return 0.25


class Vector:
    def __float__(self):
        raise TypeError("only length-1 arrays can be converted")


@both
def test_values_become_floats(how):
    values = run(replying([1, Number(), None]), how).values
    assert values == (1.0, 0.25, None)
    assert [type(value) for value in values] == [float, float, type(None)]


@both
@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ([0.1, 0.2], "returned 2 scores for 3 texts"),
        ([0.1] * 4, "returned 4 scores for 3 texts"),
        ([0.1, math.nan, 0.2], "text 1: the score is nan"),
        ([0.1, 0.2, -math.inf], "text 2: the score is -inf"),
        (["0.1", 0.2, 0.3], "text 0: a score must be a number or None, not str"),
        ([True, 0.2, 0.3], "text 0: a score must be a number or None, not bool"),
        ([0.1, Vector(), 0.3], "text 1: a score must be one number, not Vector"),
        ([10**400, 0.2, 0.3], "text 0: a score must be one number, not int"),
        ("abc", "returned str as scores"),
        (b"abc", "returned bytes as scores"),
        ({0: 0.1, 1: 0.2, 2: 0.3}, "returned dict as scores"),
        ({0.1, 0.2, 0.3}, "returned set as scores"),
        (Scores(None), "returned NoneType as scores"),
        (Scores([1, 2, 3], details=[{}, {}]), "returned 2 details for 3 texts"),
        (Scores([1, 2, 3], details=[{}, None, "best"]), "details that are neither a mapping nor None"),
        (Scores([1, 2, 3], order=[0, 0]), "an order with repeated or foreign indices"),
        (Scores([1, 2, 3], order=[0, 3]), "an order with repeated or foreign indices"),
        (Scores([1, 2, 3], order=[-1]), "an order with repeated or foreign indices"),
        (Scores([1, 2, 3], order=[0.0]), "an order with repeated or foreign indices"),
        (Scores([1, 2, 3], order=["first"]), "an order with repeated or foreign indices"),
    ],
)  # fmt: skip
def test_a_reply_that_is_no_scoring_of_the_texts_is_a_reply_error(how, reply, said):
    with pytest.raises(ReplyError, match=said) as caught:
        run(replying(reply), how)
    assert "backend 'fake' (model 'word-overlap')" in str(caught.value)


def test_a_generator_is_no_reply():
    with pytest.raises(ReplyError, match="returned generator as scores"):
        run(replying(float(i) for i in range(3)), "score")


def test_a_faulty_score_is_named_by_its_place_among_all_texts():
    with pytest.raises(ReplyError, match="text 2: the score is nan"):
        replying([0.5, math.nan]).score("q", ["a", " ", "c"])


@pytest.mark.parametrize(("scale", "value"), [(Scale.PROBABILITY, 1.001), (Scale.similarity(-1, 1), -1.001)])
def test_a_score_outside_the_declared_bounds_is_refused(scale, value):
    with pytest.raises(ReplyError, match=f"score {value} lies outside the declared {scale.kind}"):
        FakeBackend(reply=[value], scale=scale).score("q", ["a"])


def test_a_score_outside_the_declared_bounds_by_rounding_is_taken_as_it_is():
    assert FakeBackend(reply=[1.00001], scale=Scale.PROBABILITY).score("q", ["a"]).values == (1.00001,)


def test_bounds_are_those_of_the_scale_that_came_with_the_values():
    reply = Scores([7.5], scale=Scale.LOGIT, degraded="fallback")
    scores = FakeBackend(reply=reply, scale=Scale.PROBABILITY).score("q", ["a"])
    assert (scores.values, scores.scale) == ((7.5,), Scale.LOGIT)


@both
def test_all_a_reply_says_comes_back_spread_over_all_texts(how):
    reply = Scores(
        [0.5, None], order=[1, 0], details=[{"window": 3}, None], usage=Usage(calls=1), truncated=1,
        degraded="incomplete", attempts=[Attempt("x", "y", "z")], elapsed_ms=1e9,
    )  # fmt: skip
    scores = run(replying(reply), how, ["", "a", "b"])
    assert scores.values == (None, 0.5, None)
    assert scores.order == (2, 1)
    assert scores.details == (None, {"window": 3}, None)
    assert (scores.usage, scores.truncated, scores.degraded) == (Usage(calls=1), 1, "incomplete")
    assert scores.attempts == (Attempt("x", "y", "z"),)
    assert scores.scale == Scale.UNKNOWN
    assert 0 <= scores.elapsed_ms < 60_000


@both
def test_elapsed_ms_is_the_time_the_scoring_took(how):
    class Slow(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            time.sleep(0.02)
            return [0.0] * len(texts)

    assert 20 <= run(Slow(), how).elapsed_ms < 10_000


def test_which_texts_were_cut_is_told_of_each_and_counted():
    scores = FakeBackend(reply=Scores([0.5, 0.25], cut=[False, True])).score("q", ["a", "", "b"])
    assert (scores.cut, scores.truncated) == ((False, False, True), 1)


def test_flags_for_other_texts_are_an_error():
    with pytest.raises(ReplyError, match="returned 1 flags for what was cut for 2 texts"):
        FakeBackend(reply=Scores([0.5, 0.25], cut=[True])).score("q", ["a", "b"])


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Where's information?", ["Where", "'", "s", "inform", "ation", "?"]),
        ("退款 10 days", ["退", "款", "10", "days"]),
        ("мама мыла раму", ["мама", "мыла", "раму"]),
        ("tiếng Việt ქართული", ["tiếng", "Việt", "ქართულ", "ი"]),
        ("คืน\u3000金", ["ค", "ื", "น", "金"]),
        (" \n", []),
        ("half \ud83d", ["half", "\ud83d"]),
    ],
)
def test_tokens_are_guessed_by_what_looks_like_one(text, tokens):
    assert [text[start:end] for start, end in FakeBackend().token_spans(text)] == tokens


# What goes wrong


@both
def test_a_failure_is_a_backend_error_that_quotes_nothing(how):
    secret = "sk-123: the whole document"
    with pytest.raises(BackendError) as caught:
        run(FakeBackend(error=RuntimeError(secret)), how, [secret] * 3, secret)
    assert str(caught.value) == "backend 'fake' (model 'word-overlap') failed while scoring 3 texts: RuntimeError"
    assert str(caught.value.__cause__) == secret


@both
@pytest.mark.parametrize("error", [DeadlineError("late"), MissingDependencyError("b", ["p"], "pip install p")])
def test_errors_of_rerankx_pass_as_they_are(how, error):
    with pytest.raises(type(error)) as caught:
        run(FakeBackend(error=error), how)
    assert caught.value is error


@both
def test_what_cannot_be_looked_at_is_a_failure_of_the_backend(how):
    class Unsized:
        def __len__(self):
            raise TypeError("len() of unsized object")

    with pytest.raises(BackendError, match="failed while scoring 3 texts: TypeError"):
        run(replying(Unsized()), how)


def test_cancelling_is_no_failure():
    class Waiting(FakeBackend):
        async def _ascore(self, query, texts, *, top_n=None):
            await asyncio.sleep(60)

    async def main():
        task = asyncio.create_task(Waiting().ascore("q", TEXTS))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


# The event loop


def test_ascore_leaves_the_event_loop_free():
    freed = threading.Event()

    class Blocking(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            return [float(freed.wait(timeout=30))] * len(texts)

    async def main():
        # Set by the loop, awaited by the scoring: blocked, it would time out and score 0.
        asyncio.get_running_loop().call_soon(freed.set)
        return await Blocking().ascore("q", TEXTS)

    assert asyncio.run(main()).values == (1.0, 1.0, 1.0)


def test_ascore_prefers_a_backends_own_coroutine():
    class Native(FakeBackend):
        async def _ascore(self, query, texts, *, top_n=None):
            await asyncio.sleep(0)
            return [0.75] * len(texts)

    assert asyncio.run(Native().ascore("q", TEXTS)).values == (0.75,) * 3


# The deadline


def test_without_a_deadline_nothing_remains_to_be_known():
    assert remaining_s() is None
    with deadline(None):
        assert remaining_s() is None


def test_a_deadline_runs_down_and_ends_with_its_block():
    with deadline(60):
        first = remaining_s()
        time.sleep(0.001)
        assert 0 < remaining_s() < first <= 60
    assert remaining_s() is None


def test_a_deadline_that_has_passed_is_below_zero():
    with deadline(1e-9):
        time.sleep(0.001)
        assert remaining_s() < 0


@pytest.mark.parametrize(("outer", "inner"), [(5, 60), (60, 5), (5, None)])
def test_the_nearer_deadline_holds(outer, inner):
    with deadline(outer):
        with deadline(inner):
            assert 4 < remaining_s() <= 5
        assert outer - 1 < remaining_s() <= outer


def test_a_deadline_ends_with_an_error_too():
    with pytest.raises(KeyError), deadline(5):
        raise KeyError
    assert remaining_s() is None


@both
def test_the_backend_sees_the_deadline(how):
    class Asking(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            return [float(remaining_s())] * len(texts)

    with deadline(60):
        value = run(Asking(scale=Scale.UNKNOWN), how).values[0]
    assert 59 < value <= 60


def test_deadlines_of_concurrent_tasks_are_their_own():
    async def left(seconds):
        with deadline(seconds):
            await asyncio.sleep(0.001)
            return remaining_s()

    async def main():
        return await asyncio.gather(left(5), left(50), left(None))

    five, fifty, none = asyncio.run(main())
    assert 4 < five <= 5
    assert 49 < fifty <= 50
    assert none is None


# The class


def test_a_backend_without_score_cannot_be_made():
    class Empty(Backend):
        name, model, scale, pointwise = "empty", "none", Scale.RANK, True

    with pytest.raises(TypeError, match="_score"):
        Empty()


def test_the_default_fingerprint_is_name_and_model():
    class Least(Backend):
        name, model, scale, pointwise = "least", "none", Scale.RANK, True

        def _score(self, query, texts, *, top_n=None):
            return [Decimal(1)] * len(texts)

    assert Least().fingerprint == "least:none"
    assert repr(Least()) == "<Least least:none>"
    assert Least().score("q", TEXTS).values == (1.0, 1.0, 1.0)


@pytest.mark.parametrize(
    ("values", "given", "degraded"),
    [
        ([None, None], None, "incomplete"),
        ([None, None], "deadline", "deadline"),
        ([None, 0.5], None, None),
    ],
)
def test_a_scoring_that_scores_nothing_is_incomplete(values, given, degraded):
    backend = FakeBackend(reply=Scores(values, degraded=given))
    assert backend.score("q", ["a", "b"]).degraded == degraded
    assert backend.score("q", ["", " "]).degraded is None
