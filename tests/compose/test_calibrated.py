import asyncio
import copy
import json
import math
import pickle
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rerankx import Backend, BackendError, Cached, Fallback, Floor, Reranker, Scale, Scores, Usage, Windowed
from rerankx.compose.calibrated import Bin, Calibrated, Calibration, to_axis
from rerankx.errors import OptionError
from rerankx.testing import BackendContract, FakeBackend

QUERY = "refund of the red umbrella"
UNIT = Scale.similarity(0, 1)
SCALES = [Scale.LOGIT, Scale.PROBABILITY, UNIT, Scale.similarity(-1, 10)]


def platt(slope=2.0, intercept=-1.0, *, scale=Scale.LOGIT, fingerprint="fixed:fixed", **more):
    return Calibration(
        method="platt", scale=scale, fingerprint=fingerprint, corpus="c", slope=slope, intercept=intercept, **more
    )


def isotonic(*knots, scale=Scale.LOGIT, fingerprint="fixed:fixed", **more):
    return Calibration(method="isotonic", scale=scale, fingerprint=fingerprint, corpus="c", knots=knots, **more)


STEPS = ((-2.0, 0.0), (0.0, 0.0), (0.5, 0.5), (1.0, 0.5), (3.0, 1.0))


class Fixed(Backend):
    """Gives the scores that it was made with."""

    name, model, scale, pointwise = "fixed", "fixed", Scale.LOGIT, True

    def __init__(self, *values, **more):
        self.values, self.more, self.asked = values, more, 0

    def _score(self, query, texts, *, top_n=None):
        self.asked += 1
        self.top_n = top_n
        return Scores(self.values[: len(texts)], **self.more)

    def token_spans(self, text):
        return [(0, len(text))]


def scored(backend, n):
    return backend.score(QUERY, [f"text {i}" for i in range(n)])


def ranked(backend, n, **options):
    return Reranker(backend).rerank(QUERY, [f"text {i}" for i in range(n)], **options)


class TestPlattContract(BackendContract):
    def make(self):
        return Calibrated(FakeBackend(), platt(scale=UNIT, fingerprint=FakeBackend().fingerprint))

    def variants(self):
        own = FakeBackend().fingerprint
        other = FakeBackend(model="other")
        return [
            Calibrated(FakeBackend(), platt(3.0, scale=UNIT, fingerprint=own)),
            Calibrated(FakeBackend(), platt(intercept=0.0, scale=UNIT, fingerprint=own)),
            Calibrated(FakeBackend(), isotonic((0.0, 0.1), (1.0, 0.9), scale=UNIT, fingerprint=own)),
            Calibrated(FakeBackend(), isotonic((0.0, 0.1), (1.0, 0.8), scale=UNIT, fingerprint=own)),
            Calibrated(other, platt(scale=UNIT, fingerprint=other.fingerprint)),
        ]


class TestIsotonicContract(BackendContract):
    def make(self):
        curve = isotonic((0.2, 0.1), (0.6, 0.1), (0.7, 0.9), scale=UNIT, fingerprint=FakeBackend().fingerprint)
        return Calibrated(FakeBackend(), curve)


class TestCachedAndCalibratedContract(BackendContract):
    def make(self):
        return Cached(Calibrated(Cached(FakeBackend()), platt(scale=UNIT, fingerprint=FakeBackend().fingerprint)))


# The curve


def test_a_logistic_curve_is_the_logistic_function_of_the_logit():
    assert platt(2.0, -1.0).probability(0.75) == pytest.approx(1 / (1 + math.exp(-0.5)), abs=1e-15)


def test_a_temperature_divides_the_log_odds_of_a_probability():
    curve = Calibration(method="temperature", scale=Scale.PROBABILITY, fingerprint="", corpus="", slope=0.5)
    assert curve.probability(0.8) == pytest.approx(math.sqrt(4) / (1 + math.sqrt(4)), abs=1e-5)
    assert curve.probability(0.5) == 0.5


def test_the_axis_of_a_probability_is_nearly_its_log_odds_and_finite_at_its_ends():
    assert to_axis(Scale.PROBABILITY, 0.9) == pytest.approx(math.log(9), abs=1e-4)
    assert to_axis(Scale.PROBABILITY, 0.0) == pytest.approx(math.log(1e-6), abs=1e-5)
    assert to_axis(Scale.PROBABILITY, 1.0) == pytest.approx(-math.log(1e-6), abs=1e-5)


def test_the_axis_of_a_similarity_is_its_place_between_its_bounds():
    assert to_axis(Scale.similarity(-1, 1), 0.5) == 0.75


@pytest.mark.parametrize(
    ("raw", "expected"), [(-9, 0.0), (-1, 0.0), (0.25, 0.25), (0.75, 0.5), (2, 0.75), (3, 1.0), (9, 1.0)]
)
def test_an_isotonic_curve_is_straight_between_its_knots_and_level_outside(raw, expected):
    assert isotonic(*STEPS).probability(raw) == pytest.approx(expected, abs=2e-6)


def test_an_isotonic_curve_of_one_knot_is_level():
    assert isotonic((1.0, 0.3)).probability(-5) == pytest.approx(0.3, abs=2e-6)


def test_a_level_part_rises_too_little_to_see_and_enough_to_tell_scores_apart():
    curve = isotonic((0.0, 0.5))
    values = [curve.probability(raw) for raw in (-30, -10.001, -10, 0, 1e-6, 5, 20, 20.001)]
    assert values == sorted(set(values))
    assert values[-1] - values[0] < 2e-6


def curves():
    sharpness = st.floats(1e-6, 1e3)
    places = st.lists(st.floats(-50, 50), min_size=1, max_size=6, unique=True).map(sorted)
    levels = st.lists(st.floats(0, 1), min_size=6, max_size=6).map(sorted)
    return st.one_of(
        st.builds(lambda scale, a, b: platt(a, b, scale=scale), st.sampled_from(SCALES), sharpness, st.floats(-99, 99)),
        st.builds(
            lambda scale, xs, ps: isotonic(*zip(xs, ps, strict=False), scale=scale),
            st.sampled_from(SCALES),
            places,
            levels,
        ),
    )


@given(curves(), st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20))
@example(platt(1e3), [36.5, 37.5, 40, 800, -800])
@example(isotonic((-50.0, 0.31), (0.1, 0.939)), [math.nextafter(0.1, 0), 0.1])  # 0.31 + (0.939 - 0.31) > 0.939
def test_a_probability_lies_between_0_and_1_and_never_falls(curve, raws):
    values = [curve.probability(raw) for raw in sorted(raws)]
    assert all(0 <= value <= 1 for value in values)
    assert values == sorted(values)


def test_infinite_scores_have_the_probability_at_the_end():
    for curve in (platt(), isotonic(*STEPS)):
        assert curve.probability(-math.inf) == pytest.approx(0, abs=2e-6)
        assert curve.probability(math.inf) == pytest.approx(1, abs=2e-6)


def test_nan_has_no_probability():
    with pytest.raises(ValueError, match="raw is nan"):
        platt().probability(math.nan)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"method": "beta"}, "method must be one of platt, temperature, isotonic, not 'beta'"),
        ({"slope": 0.0}, "slope above 0"),
        ({"slope": math.inf}, "slope above 0"),
        ({"intercept": math.nan}, "must be finite"),
        ({"scale": Scale.RANK}, "only an order"),
        ({"scale": Scale.UNKNOWN}, "only an order"),
        ({"scale": UNIT, "method": "temperature"}, "no log-odds"),
        ({"method": "isotonic"}, "at least one knot"),
        ({"method": "isotonic", "knots": ((0.0, 0.5), (0.0, 0.6))}, "knots must rise"),
        ({"method": "isotonic", "knots": ((0.0, 0.5), (1.0, 0.4))}, "never fall"),
        ({"method": "isotonic", "knots": ((0.0, 1.1),)}, "probability in"),
        ({"method": "isotonic", "knots": ((math.nan, 0.1),)}, "finite number"),
    ],
)
def test_what_is_no_curve_is_refused(more, message):
    with pytest.raises(ValueError, match=message):
        replace(platt(), **more)


@pytest.mark.parametrize("more", [{"scale": "logit"}, {"fingerprint": None}, {"corpus": 3}])
def test_a_field_of_the_wrong_type_is_refused(more):
    with pytest.raises(TypeError, match=next(iter(more))):
        replace(platt(), **more)


# Files

TOLD = {"n": 60, "relevant": 20, "ece": 0.05, "brier": 0.1, "notes": ("few",), "date": "2026-11-23"}
FULL = [
    platt(0.1 + 0.2, -1 / 3, bins=(Bin(0.0, 0.1, 3, 0.05, 1 / 3),), **TOLD),
    platt(scale=Scale.PROBABILITY, ece=None),
    isotonic(*STEPS, scale=Scale.similarity(-1, 3), **TOLD),
]


@pytest.mark.parametrize("one", FULL, ids=["logit", "probability", "similarity"])
def test_what_is_saved_is_loaded_bit_for_bit(one, tmp_path):
    path = tmp_path / "ünïcode.json"
    one.save(path)
    assert Calibration.load(path) == one
    assert Calibration.load(str(path)) == one
    assert Calibration.from_dict(json.loads(json.dumps(one.to_dict()))) == one


def test_a_file_holds_what_names_its_origin(tmp_path):
    FULL[0].save(tmp_path / "c.json")
    found = json.loads((tmp_path / "c.json").read_text("utf-8"))
    assert {name: found[name] for name in ("version", "fingerprint", "scale", "corpus", "n", "date")} == {
        "version": 1,
        "fingerprint": "fixed:fixed",
        "scale": {"kind": "logit"},
        "corpus": "c",
        "n": 60,
        "date": "2026-11-23",
    }


def test_a_file_begun_with_a_byte_order_mark_and_more_names_is_read(tmp_path):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({**FULL[0].to_dict(), "comment": "mine"}), "utf-8-sig")
    assert Calibration.load(path) == FULL[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff\xfe", "codec"),
        (b"[]", "no calibration"),
        (b'{"format": "other"}', '"format" is not'),
        (b'{"format": "rerankx calibration", "version": 2}', "version 2; this rerankx reads 1"),
        (b'{"format": "rerankx calibration", "version": 1}', "no calibration: no 'scale'"),
    ],
)
def test_a_file_that_holds_none_is_refused_with_its_name(content, message, tmp_path):
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.json.*{message}"):
        Calibration.load(tmp_path / "bad.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slope": "1"}, "no calibration"),
        ({"slope": -1}, "slope above 0"),
        ({"knots": 3}, "no calibration"),
        ({"knots": [[1]], "method": "isotonic"}, "no calibration"),
        ({"knots": [["a", 0.1]], "method": "isotonic"}, "no calibration"),
        ({"bins": [[1, 2]]}, "no calibration"),
        ({"scale": "logit"}, "scale must be a mapping"),
        ({"scale": {"kind": "stars"}}, "no scale 'stars'"),
        ({"scale": {}}, "no 'kind'"),
        ({"corpus": None}, "corpus must be a string"),
    ],
)
def test_changed_data_is_refused_with_what_is_wrong(change, message):
    with pytest.raises(ValueError, match=message):
        Calibration.from_dict({**platt().to_dict(), **change})


@pytest.mark.parametrize("name", ["method", "scale", "fingerprint", "corpus"])
def test_data_without_its_origin_is_refused(name):
    data = platt().to_dict()
    del data[name]
    with pytest.raises(ValueError, match=name):
        Calibration.from_dict(data)


# The backend


def test_scores_become_probabilities_and_details_keep_them():
    details = [{"window": 1}, None, None]
    scores = scored(Calibrated(Fixed(3.0, -1.0, None, details=details), platt()), 3)
    assert scores.values == (platt().probability(3.0), platt().probability(-1.0), None)
    assert scores.details == ({"window": 1, "raw_score": 3.0}, {"raw_score": -1.0}, None)
    assert scores.scale == Scale.PROBABILITY
    assert details == [{"window": 1}, None, None]


def test_a_threshold_is_a_probability():
    ranking = ranked(Calibrated(Fixed(3.0, 0.4, 0.6, -2.0), platt()), 4, min_score=0.5)
    assert [hit.index for hit in ranking] == [0, 2]
    assert [hit.score for hit in ranking] == [hit.raw_score for hit in ranking]
    assert ranking.backend == "calibrated"
    assert ranking.model == "fixed:fixed"


def test_all_else_that_the_backend_says_is_passed_on():
    usage = Usage(calls=2, input_tokens=7)
    backend = Fixed(1.0, None, usage=usage, cut=[True, False], order=[1, 0], degraded="deadline")
    scores = Calibrated(backend, platt()).score(QUERY, ["a", "b"], top_n=1)
    assert (scores.usage, scores.cut, scores.order, scores.degraded) == (usage, (True, False), (1, 0), "deadline")
    assert backend.top_n == 1


def test_its_error_is_passed_on():
    backend = FakeBackend(error=BackendError("kaput"))
    with pytest.raises(BackendError, match="kaput"):
        scored(Calibrated(backend, platt(scale=UNIT, fingerprint=backend.fingerprint)), 2)


@given(
    curves().filter(lambda curve: curve.scale == Scale.LOGIT),
    st.lists(st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-1e3, 1e3)), min_size=1, max_size=12),
    st.randoms(),
    st.booleans(),
)
@example(platt(1e3), [40.0, 800.0, None, 41.0, 800.0], None, False)
def test_the_order_never_changes(curve, raws, random, with_order):
    more = {"order": random.sample(range(len(raws)), random.randint(0, len(raws)))} if with_order and random else {}
    plain = ranked(Fixed(*raws, **more), len(raws))
    calibrated = ranked(Calibrated(Fixed(*raws, **more), curve), len(raws))
    assert [hit.index for hit in calibrated] == [hit.index for hit in plain]
    assert [(hit.details or {}).get("raw_score") for hit in calibrated] == [hit.raw_score for hit in plain]


def test_scores_that_rounding_makes_equal_stay_told_apart():
    assert platt().probability(40.0) == platt().probability(60.0) == 1.0
    assert scored(Calibrated(Fixed(40.0, None, 60.0, 40.0), platt()), 4).order == (2, 0, 3, 1)


def test_scores_that_were_equal_are_given_no_order():
    assert scored(Calibrated(Fixed(1.0, 1.0, 2.0), platt()), 3).order is None


def test_an_answer_on_another_scale_is_passed_on_as_it_is():
    details = [{"from": "words"}, None]
    backend = Fixed(0.7, 0.2, scale=UNIT, degraded="fallback", details=details)
    scores = scored(Calibrated(backend, platt()), 2)
    assert scores.values == (0.7, 0.2)
    assert scores.scale == UNIT
    assert scores.details == tuple(details)
    assert scores.degraded == "fallback"


def test_an_answer_with_its_own_threshold_is_passed_on_as_it_is():
    scores = scored(Calibrated(Fixed(0.7, 0.2, min_score=0.6), platt()), 2)
    assert (scores.values, scores.scale, scores.min_score) == ((0.7, 0.2), Scale.LOGIT, 0.6)


def test_both_ways_of_asking_give_the_same():
    backend = Calibrated(Fixed(40.0, None, 60.0), platt())
    awaited = asyncio.run(backend.ascore(QUERY, ["a", "b", "c"]))
    assert replace(awaited, elapsed_ms=0) == replace(backend.score(QUERY, ["a", "b", "c"]), elapsed_ms=0)


def test_an_asynchronous_backend_is_asked_as_one():
    class Awaited(Fixed):
        async def _ascore(self, query, texts, *, top_n=None):
            await asyncio.sleep(0)
            return [7.0] * len(texts)

    scores = asyncio.run(Calibrated(Awaited(1.0), platt()).ascore(QUERY, ["a"]))
    assert scores.details == ({"raw_score": 7.0},)


def test_tokens_are_the_backends():
    assert Calibrated(Fixed(), platt()).token_spans("two words") == [(0, 9)]


def test_a_backend_may_be_a_name():
    curve = platt(scale=UNIT, fingerprint="any")
    backend = Calibrated("embedded", curve, check=False)
    assert scored(backend, 2).scale == Scale.PROBABILITY


@pytest.mark.parametrize("one", [platt(), isotonic(*STEPS)], ids=["platt", "isotonic"])
def test_a_calibrator_may_be_an_object_a_file_or_plain_data(one, tmp_path):
    one.save(tmp_path / "c.json")
    expected = Calibrated(Fixed(), one)
    for given_as in (tmp_path / "c.json", str(tmp_path / "c.json"), one.to_dict()):
        made = Calibrated(Fixed(), given_as)
        assert made.calibrator == one
        assert made.fingerprint == expected.fingerprint


def test_copies_are_as_good():
    backend = Calibrated(FakeBackend(), platt(scale=UNIT, fingerprint=FakeBackend().fingerprint))
    for twin in (pickle.loads(pickle.dumps(backend)), copy.deepcopy(backend)):
        assert twin.fingerprint == backend.fingerprint
        assert scored(twin, 3).values == scored(backend, 3).values


def test_a_fingerprint_names_the_curve_and_not_what_is_told_of_it():
    assert Calibrated(Fixed(), platt()).fingerprint == Calibrated(Fixed(), platt(**TOLD)).fingerprint


def test_as_the_second_of_a_fallback_its_threshold_is_a_probability():
    down = FakeBackend(name="down", error=BackendError("down"))
    pipeline = Fallback(down, Calibrated(Fixed(3.0, 0.4), platt()), min_scores={"calibrated": 0.5})
    ranking = ranked(pipeline, 2, min_score=0.9)
    assert [hit.index for hit in ranking] == [0]
    assert ranking.min_score == 0.5


def test_over_a_cache_it_is_the_same():
    backend = FakeBackend()
    curve = platt(scale=UNIT, fingerprint=backend.fingerprint)
    plain, cached = Calibrated(backend, curve), Calibrated(Cached(backend), curve)
    assert cached.fingerprint == plain.fingerprint
    assert scored(cached, 3).values == scored(cached, 3).values == scored(plain, 3).values


# What is refused


@pytest.mark.parametrize("backend", [FakeBackend(pointwise=False), Floor(FakeBackend()), Fallback(Fixed(), Fixed())])
def test_a_backend_that_is_not_pointwise_is_refused(backend):
    with pytest.raises(ValueError, match=f"only pointwise scores can be calibrated, and those of '{backend.name}'"):
        Calibrated(backend, platt())


@pytest.mark.parametrize("scale", [Scale.RANK, Scale.UNKNOWN, Scale.PROBABILITY, UNIT])
def test_a_backend_on_another_scale_is_refused_when_it_is_made(scale):
    with pytest.raises(ValueError, match=f"fitted to scores on logit.* are on {scale.kind}"):
        Calibrated(FakeBackend(scale=scale), platt())


def test_another_range_of_similarity_is_another_scale():
    message = re.escape("on similarity(-1, 1), and those of fake:word-overlap are on similarity(0, 1)")
    with pytest.raises(ValueError, match=message):
        Calibrated(FakeBackend(), platt(scale=Scale.similarity(-1, 1)))


def test_a_scale_that_has_to_be_looked_up_is_checked_when_it_scores():
    class Late(Fixed):
        @property
        def scale(self):
            return Scale.UNKNOWN

    backend = Late(1.0)
    with pytest.raises(OptionError, match="are on unknown"):
        scored(Calibrated(backend, platt()), 1)
    assert backend.asked == 0


@pytest.mark.parametrize("ask", [Backend.score, lambda *given: asyncio.run(Backend.ascore(*given))])
def test_the_calibrator_of_another_backend_is_refused_before_anything_is_asked(ask):
    backend = Fixed(1.0)
    other = platt(fingerprint="fixed:other")
    with pytest.raises(OptionError, match="fitted to the scores of 'fixed:other', not to those of 'fixed:fixed'"):
        ask(Calibrated(backend, other), QUERY, ["a"])
    assert backend.asked == 0
    assert ask(Calibrated(backend, other, check=False), QUERY, ["a"]).scale == Scale.PROBABILITY


def test_windows_make_another_backend_of_it():
    with pytest.raises(OptionError, match="fitted to the scores of 'fixed:fixed'"):
        scored(Calibrated(Windowed(Fixed(1.0)), platt()), 1)


@pytest.mark.parametrize(
    ("backend", "calibrator", "error", "message"),
    [
        (3, platt(), TypeError, "backend to calibrate must be a name or a rerankx.Backend, not int"),
        (Reranker(Fixed()), platt(), TypeError, "pass its .backend"),
        (Fixed(), None, TypeError, "calibrator must be a Calibrator, the path of its file or its to_dict"),
        (Fixed(), 0.5, TypeError, "calibrator must be"),
        (Fixed(), {}, ValueError, "no calibration"),
        (Fixed(), "not/there.json", FileNotFoundError, "not/there.json"),
    ],
)
def test_wrong_arguments_are_refused(backend, calibrator, error, message):
    with pytest.raises(error, match=re.escape(message)):
        Calibrated(backend, calibrator)


def test_no_third_party_is_loaded_for_it():
    code = """
import sys
before = set(sys.modules)
from rerankx.compose.calibrated import Calibrated, Calibration
from rerankx.interface import Scale
Calibration(method="platt", scale=Scale.LOGIT, fingerprint="", corpus="", slope=1.0).probability(1.0)
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
print(sorted(tops - sys.stdlib_module_names - {"rerankx"}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
