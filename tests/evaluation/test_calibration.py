import math
import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rerankx import Reranker, Scale
from rerankx.compose.calibrated import Calibrated, Calibration, to_axis
from rerankx.evaluation.calibration import Bin, Calibrator, brier_score, calibration_error, reliability
from rerankx.testing import FakeBackend, word_overlap

METHODS = ["platt", "temperature", "isotonic"]
SCALES = [Scale.LOGIT, Scale.PROBABILITY, Scale.similarity(-1, 10)]


def fit(scores, labels, method="platt", *, scale=Scale.LOGIT, **more):
    return Calibrator.fit(scores, labels, method=method, scale=scale, fingerprint="f", corpus="c", **more)


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def world(n, *, slope=0.7, intercept=0.5, mean=-2.0, seed=0):
    """Return logits and labels of which the probability of relevance is known."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(mean, 3, n)
    return logits, (rng.random(n) < sigmoid(slope * logits + intercept)).astype(int)


# Known cases


def test_platt_finds_the_curve_that_made_the_labels():
    one = fit(*world(20_000, slope=0.7, intercept=0.5))
    assert one.slope == pytest.approx(0.7, abs=0.03)
    assert one.intercept == pytest.approx(0.5, abs=0.06)
    assert one.notes == ()
    assert (one.n, one.method) == (20_000, "platt")


def test_temperature_finds_how_much_too_sharp_logits_are():
    one = fit(*world(20_000, slope=0.4, intercept=0.0), "temperature")
    assert one.slope == pytest.approx(0.4, abs=0.02)
    assert one.intercept == 0


def test_temperature_leaves_probabilities_that_are_right_as_they_are():
    logits, labels = world(20_000, slope=1.0, intercept=0.0)
    one = fit(sigmoid(logits), labels, "temperature", scale=Scale.PROBABILITY)
    assert [one.probability(p) for p in (0.0, 0.1, 0.5, 0.9, 1.0)] == pytest.approx([0, 0.1, 0.5, 0.9, 1], abs=0.01)


def test_isotonic_finds_a_curve_that_is_no_logistic_one():
    rng = np.random.default_rng(3)
    scores = rng.random(20_000)
    truth = np.where(scores < 0.5, 0.1, np.where(scores < 0.8, 0.3, 0.9))
    one = fit(scores, rng.random(20_000) < truth, "isotonic", scale=Scale.similarity(0, 1))
    assert [one.probability(x) for x in (0.2, 0.4, 0.6, 0.7, 0.9)] == pytest.approx([0.1, 0.1, 0.3, 0.3, 0.9], abs=0.04)


def test_pairs_of_four_have_platts_targets():
    """Two of two scores: their targets are 3/4 and 1/4, which a curve of two numbers meets exactly."""
    one = fit([-1, -1, 1, 1], [0, 0, 1, 1])
    assert [one.probability(-1), one.probability(1)] == pytest.approx([0.25, 0.75], abs=1e-9)


def test_isotonic_pools_what_falls():
    one = fit([1, 2, 3, 4, 5, 6], [0, 1, 0, 0, 1, 1], "isotonic")
    assert one.knots == ((1.0, 0.0), (2.0, 1 / 3), (4.0, 1 / 3), (5.0, 1.0), (6.0, 1.0))


def test_isotonic_takes_ties_together():
    assert fit([1, 1, 1, 2, 2], [0, 0, 1, 0, 1], "isotonic").knots == ((1.0, 1 / 3), (2.0, 0.5))


def test_grades_are_relevant_from_the_grade_that_is_said():
    scores, grades = [0.1, 0.4, 0.5, 0.8, 0.3], [0, 1, 2, 3, -1]
    for lowest in (1, 2, 3):
        assert fit(scores, grades, relevant_from=lowest) == fit(scores, [grade >= lowest for grade in grades])


def test_numbers_of_every_kind_are_taken():
    expected = fit([0.5, 1.0, 2.0, 3.0], [0, 1, 0, 1])
    assert fit(np.array([0.5, 1, 2, 3], np.float32), np.array([False, True, False, True])) == expected
    assert fit(iter([0.5, 1, 2, 3]), (0.0, 1.0, 0.0, 1.0)) == expected


def test_a_series_is_taken():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"score": [0.5, 1, 2, 3], "grade": [0, 1, 0, 1]}, index=[7, 7, 8, 9])
    assert fit(frame["score"], frame["grade"]) == fit([0.5, 1, 2, 3], [0, 1, 0, 1])


# Parity


def ties_and_noise(seed):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(0, 2, 400), 1)
    return scores, (rng.random(400) < sigmoid(scores - 1)).astype(int)


def targets_of(labels):
    positive = labels.sum()
    return np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (len(labels) - positive + 2))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_logistic_curves_are_those_of_scikit_learn(method, seed):
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    scores, labels = ties_and_noise(seed)
    one, soft = fit(scores, labels, method), targets_of(labels)
    model = linear_model.LogisticRegression(C=np.inf, fit_intercept=method == "platt", tol=1e-12, solver="newton-cg")
    # A target t is t pairs that are relevant and 1 - t that are not.
    twice = np.concatenate([scores, scores])[:, None]
    model.fit(twice, np.repeat([1, 0], len(scores)), sample_weight=np.concatenate([soft, 1 - soft]))
    assert one.slope == pytest.approx(model.coef_[0, 0], rel=1e-6)
    assert one.intercept == pytest.approx(model.intercept_[0] if method == "platt" else 0, rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_platts_curve_is_that_of_scikit_learns_calibrated_classifier(seed):
    calibration = pytest.importorskip("sklearn.calibration", reason="scikit-learn is not installed")
    base, frozen = pytest.importorskip("sklearn.base"), pytest.importorskip("sklearn.frozen")

    class Itself(base.ClassifierMixin, base.BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x):
            return x[:, 0]

        def predict(self, x):
            return (x[:, 0] > 0).astype(int)

    scores, labels = ties_and_noise(seed)
    itself = frozen.FrozenEstimator(Itself().fit(scores[:, None], labels))
    model = calibration.CalibratedClassifierCV(itself, method="sigmoid").fit(scores[:, None], labels)
    places = np.linspace(-8, 8, 33)
    expected = model.predict_proba(places[:, None])[:, 1]
    one = fit(scores, labels)
    assert [one.probability(x) for x in places] == pytest.approx(expected, abs=1e-4)  # where its solver stops


@pytest.mark.parametrize("seed", range(5))
def test_isotonic_curves_are_those_of_scikit_learn(seed):
    isotonic = pytest.importorskip("sklearn.isotonic", reason="scikit-learn is not installed")
    scores, labels = ties_and_noise(seed)
    model = isotonic.IsotonicRegression(out_of_bounds="clip").fit(scores, labels)
    one, places = fit(scores, labels, "isotonic"), np.linspace(-9, 9, 301)
    assert [one.probability(x) for x in places] == pytest.approx(model.predict(places), abs=1.01e-6)  # its tilt
    assert [x for x, _ in one.knots] == pytest.approx(list(model.X_thresholds_))
    assert [p for _, p in one.knots] == pytest.approx(list(model.y_thresholds_), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_logistic_curves_are_those_that_scipy_finds(seed):
    optimize = pytest.importorskip("scipy.optimize", reason="scipy is not installed")
    scores, labels = ties_and_noise(seed)
    soft = targets_of(labels)

    def loss(weights):
        z = weights[0] * scores + weights[1]
        return np.sum(np.logaddexp(0, z) - soft * z)

    found = optimize.minimize(loss, [0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    one = fit(scores, labels)
    assert [one.slope, one.intercept] == pytest.approx(found.x, rel=1e-5)


def test_brier_and_reliability_are_those_of_scikit_learn():
    calibration = pytest.importorskip("sklearn.calibration", reason="scikit-learn is not installed")
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(5)
    predicted = rng.random(500) ** 3
    labels = (rng.random(500) < predicted).astype(int)
    assert brier_score(predicted, labels) == pytest.approx(metrics.brier_score_loss(labels, predicted), abs=1e-12)
    shares, means = calibration.calibration_curve(labels, predicted, n_bins=7)
    found = reliability(predicted, labels, bins=7)
    assert [one.relevant for one in found] == pytest.approx(list(shares))
    assert [one.predicted for one in found] == pytest.approx(list(means))


# Held out


def test_what_is_told_of_a_curve_is_about_pairs_that_it_was_not_fitted_to():
    """Labels that have nothing to do with scores: a curve that was measured on its own pairs would look good."""
    rng = np.random.default_rng(11)
    scores, labels = rng.normal(size=300), np.repeat([0, 1], 150)
    one = fit(scores, labels, "isotonic")
    own = [one.probability(x) for x in scores]
    assert brier_score(own, labels) < 0.25
    assert one.brier > 0.25
    assert one.ece > calibration_error(own, labels)


def test_bins_and_ece_are_of_the_same_pairs():
    one = fit(*world(900))
    assert sum(one_bin.n for one_bin in one.bins) == 900
    assert one.ece == pytest.approx(sum(b.n * abs(b.predicted - b.relevant) for b in one.bins) / 900)
    assert one.relevant == pytest.approx(sum(b.n * b.relevant for b in one.bins))


def test_pairs_of_one_query_are_held_out_together():
    """A query whose pairs share score and label tells a fold of its own what to say, unless it goes as a whole."""
    rng = np.random.default_rng(2)
    scores = np.repeat(rng.normal(size=60), 10)
    labels = np.repeat(rng.random(60) < 0.5, 10)
    queries = [f"q{i // 10}" for i in range(600)]
    apart, together = fit(scores, labels, "isotonic"), fit(scores, labels, "isotonic", groups=queries)
    assert together.knots == apart.knots
    assert together.brier > 0.25 > apart.brier


def test_two_groups_are_enough_and_one_is_told():
    scores, labels = [1, 2, 3, 4, 5, 6], [0, 1, 0, 1, 0, 1]
    assert fit(scores, labels, groups=[1, 1, 1, 2, 2, 2]).brier is not None
    alone = fit(scores, labels, groups=["q"] * 6)
    assert (alone.ece, alone.brier, alone.bins) == (None, None, ())
    assert "nothing can be held out" in alone.notes[-1]
    assert alone.slope == fit(scores, labels).slope


@pytest.mark.parametrize("method", METHODS)
def test_a_part_that_lacks_a_kind_is_fitted_all_the_same(method):
    one = fit([0.1, 0.2, 0.3], [0, 0, 1], method)
    assert 0 <= one.brier <= 1


# Few labels, and others that are hard


@pytest.mark.parametrize(("method", "fewest"), [("platt", 50), ("temperature", 50), ("isotonic", 500)])
def test_few_labels_are_told(method, fewest):
    scores, labels = world(fewest, mean=0.0)
    assert fit(scores, labels, method).notes == ()
    told = fit(scores[1:], labels[1:], method).notes
    assert told == (f"{method} wants at least {fewest} labels, and there are {fewest - 1}",)


@pytest.mark.parametrize("kind", ["relevant", "not relevant"])
def test_few_of_a_kind_are_told(kind):
    labels = [i >= 91 for i in range(100)]
    one = fit(range(100), labels if kind == "relevant" else [not label for label in labels[::-1]])
    assert one.notes == (f"only 9 of 100 pairs are {kind}; a curve wants at least 10",)


@pytest.mark.parametrize("method", METHODS)
def test_labels_that_scores_tell_apart_give_a_finite_curve(method):
    scores = list(range(-30, 30))
    one = fit(scores, [score >= 0 for score in scores], method)
    assert all(0 <= one.probability(score) <= 1 for score in scores)
    assert one.probability(-25) < 0.05
    assert one.probability(25) > 0.95
    if method != "isotonic":
        assert 0 < one.probability(-30) < one.probability(30) < 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [Scale.LOGIT, Scale.PROBABILITY])
def test_scores_that_fall_with_relevance_are_told_and_give_a_level_curve(method, scale):
    scores = np.linspace(0.1, 0.9, 60)
    one = fit(scores, scores < 0.5, method, scale=scale)
    assert "the scores do not rise with relevance: the probability is the same for all" in one.notes
    low, high = one.probability(0.1), one.probability(0.9)
    assert low < high < low + 1e-5
    assert low == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.3])
def test_scores_that_are_all_the_same_are_told_and_give_the_share(method, value):
    one = fit([value] * 80, [0, 0, 0, 1] * 20, method, scale=Scale.PROBABILITY if value else Scale.LOGIT)
    assert "the scores do not rise with relevance: the probability is the same for all" in one.notes
    if method != "temperature":  # which can say nothing but a half where the score is one
        assert one.probability(value) == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("offset", [0.0, 1e6])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_the_unit_and_the_origin_of_scores_change_no_probability(unit, offset):
    scores, labels = ties_and_noise(1)
    expected = fit(scores, labels)
    moved = fit((scores + offset) * unit, labels)
    places = [-4.0, 0.0, 2.0]
    assert [moved.probability((x + offset) * unit) for x in places] == pytest.approx(
        [expected.probability(x) for x in places], abs=1e-6
    )


scored_pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=40).filter(
    lambda pairs: 0 < sum(label for _, label in pairs) < len(pairs)
)


@settings(deadline=None)
@given(scored_pairs, st.sampled_from(METHODS), st.sampled_from(SCALES), st.randoms())
def test_any_pairs_give_a_curve_that_never_falls_whatever_their_order(pairs, method, scale, shuffle):
    method = "platt" if scale.kind == "similarity" and method == "temperature" else method
    one = fit(*zip(*pairs, strict=True), method, scale=scale)
    values = [one.probability(score) for score in sorted({score for score, _ in pairs})]
    assert values == sorted(values)
    assert all(0 <= value <= 1 for value in [*values, one.ece, one.brier])
    shuffle.shuffle(pairs)
    again = fit(*zip(*pairs, strict=True), method, scale=scale)
    assert [again.probability(x) for x in (0, 0.2, 1)] == pytest.approx(
        [one.probability(x) for x in (0, 0.2, 1)], abs=1e-6
    )


@settings(deadline=None)
@given(scored_pairs)
@example(
    [(0.4521438145184994, False), (0.4521438145184994, False), (0.4521438145184994, True)]
)  # their mean is another
@example([(0.0, True), (5e-324, False)])  # whose deviation is 0
def test_on_its_own_pairs_platts_curve_says_as_much_relevance_as_its_targets_hold(pairs):
    scores, labels = (np.array(each, float) for each in zip(*pairs, strict=True))
    one = fit(scores, labels)
    assert sum(map(one.probability, scores)) == pytest.approx(targets_of(labels).sum(), abs=1e-4)


@settings(deadline=None)
@given(scored_pairs)
def test_no_curve_that_never_falls_is_nearer_to_the_labels_than_the_isotonic_one(pairs):
    scores, labels = zip(*pairs, strict=True)
    one = fit(scores, labels, "isotonic", scale=Scale.similarity(0, 1))
    own = brier_score(map(one.probability, scores), labels)
    for other in (lambda x: x, lambda x: x * x, lambda x: float(x > 0.5), lambda x: sum(labels) / len(labels)):
        assert own <= brier_score(map(other, scores), labels) + 1e-5


def test_the_same_pairs_give_the_same_calibration():
    assert fit(*world(300), "isotonic") == fit(*world(300), "isotonic")


# What is refused


@pytest.mark.parametrize(
    ("scores", "labels", "more", "message"),
    [
        ([], [], {}, "there are no pairs; a curve needs some"),
        ([1, 2], [1, 1], {}, "all of 2 pairs are relevant; a curve needs some that are and some that are not"),
        ([1, 2], [0, 0], {}, "none of 2 pairs are relevant"),
        ([1, 2], [1, 2], {"relevant_from": 3}, "none of 2 pairs are relevant"),
        ([1, 2, 3], [1, 0], {}, "3 scores, 2 labels: expected one of each per pair"),
        ([1, 2], [1, 0], {"groups": ["q"]}, "2 scores, 2 labels and 1 groups"),
        ([1, math.nan], [1, 0], {}, "score 1 is nan; scores must be finite"),
        ([1, math.inf], [1, 0], {}, "score 1 is inf; scores must be finite"),
        ([0.5, 1.5], [1, 0], {"scale": Scale.PROBABILITY}, r"score 1 is 1.5, outside of probability \[0, 1\]"),
        ([1, 2], [1, 0.5], {}, "label 1 is 0.5; expected a whole number"),
        ([1, 2], [1, math.nan], {}, "label 1 is nan; expected a whole number"),
        ([1, 2], [1, 0], {"relevant_from": 0}, "relevant_from must be at least 1"),
        ([1, 2], [1, 0], {"method": "beta"}, "method must be one of platt, temperature, isotonic, not 'beta'"),
        ([1, 2], [1, 0], {"scale": Scale.RANK}, "scores of scale rank are only an order"),
        ([1, 2], [1, 0], {"scale": Scale.UNKNOWN}, "scores of scale unknown are only an order"),
        ([0, 1], [1, 0], {"method": "temperature", "scale": Scale.similarity(0, 1)}, "take method='platt'"),
    ],
)
def test_pairs_that_no_curve_can_be_fitted_to_are_refused(scores, labels, more, message):
    with pytest.raises(ValueError, match=message):
        fit(scores, labels, **more)


@pytest.mark.parametrize(
    ("scores", "labels", "more", "message"),
    [
        ("12", [1, 0], {}, "scores must be a list of numbers, not str"),
        ({"a": 1}, [1], {}, "scores must be a list of numbers, not dict"),
        (3, [1], {}, "scores must be a list of numbers, not int"),
        ([1, None], [1, 0], {}, "score 1 is None; expected a number"),
        (["0.5", 1], [1, 0], {}, "score 0 is '0.5'"),
        ([1, 2], [1, "high"], {}, "label 1 is 'high'; expected a number"),
        ([1, 2], [1, 0], {"scale": "logit"}, "scale must be a rerankx.Scale, such as backend.scale, not 'logit'"),
        ([1, 2], [1, 0], {"relevant_from": 1.5}, "relevant_from must be a whole number"),
    ],
)
def test_arguments_of_the_wrong_type_are_refused(scores, labels, more, message):
    with pytest.raises(TypeError, match=message):
        fit(scores, labels, **more)


# Measures


def test_bins_hold_their_pairs_means_and_shares():
    found = reliability([0.05, 0.1, 0.15, 1.0, 0.95], [0, 0, 1, 1, 1])
    assert found == (
        Bin(0.0, 0.1, 1, 0.05, 0.0),
        Bin(0.1, 0.2, 2, pytest.approx(0.125), 0.5),
        Bin(0.9, 1.0, 2, pytest.approx(0.975), 1.0),
    )


def test_the_calibration_error_weighs_bins_by_their_pairs():
    assert calibration_error([0.2] * 4 + [0.9], [0, 0, 0, 1, 1]) == pytest.approx((4 * 0.05 + 0.1) / 5)


@pytest.mark.parametrize("n", [100, 1000])
def test_the_error_of_what_is_perfectly_calibrated_is_what_its_description_says(n):
    rng = np.random.default_rng(4)
    errors = []
    for _ in range(50):
        p = rng.random(n)
        errors.append(calibration_error(p, rng.random(n) < p))
    assert np.mean(errors) == pytest.approx(math.sqrt(2 / math.pi) * math.pi / 8 * math.sqrt(10 / n), rel=0.1)


def test_the_brier_score_of_the_share_is_its_variance():
    assert brier_score([0.25] * 4, [0, 0, 0, 1]) == pytest.approx(0.25 * 0.75)
    assert brier_score([0.0, 1.0], [0, 1]) == 0


@pytest.mark.parametrize("measure", [calibration_error, brier_score])
@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([], [], "there are no pairs"),
        ([0.1], [0, 1], "1 probabilities, 2 labels"),
        ([1.2], [1], "probability 0 is 1.2"),
        ([math.nan], [1], "probability 0 is nan"),
        ([0.5], [0.5], "label 0 is 0.5"),
    ],
)
def test_measures_refuse_what_they_cannot_measure(measure, predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        measure(predicted, labels)


def test_no_pairs_have_no_bins_and_no_bins_are_refused():
    assert reliability([], []) == ()
    with pytest.raises(ValueError, match="bins must be at least 1"):
        reliability([0.5], [1], bins=0)


# Together


def test_what_was_fitted_is_saved_and_used(tmp_path):
    def too_high(query, text):
        return 0.5 + word_overlap(query, text) / 2

    backend = FakeBackend(score=too_high, name="high")
    words, rng = ["refund", "red", "umbrella", "rose", "garden"], random.Random(7)
    texts = [" ".join(rng.sample(words, 3)) for _ in range(400)]
    query = "refund of umbrella"
    scores = backend.score(query, texts).values
    labels = ["refund" in text and "umbrella" in text for text in texts]
    one = Calibrator.fit(
        scores, labels, scale=backend.scale, fingerprint=backend.fingerprint, corpus="words", date="2026-11-23"
    )
    one.save(tmp_path / "high.json")
    assert Calibrator.load(tmp_path / "high.json") == one
    plain = Reranker(backend).rerank(query, texts, min_score=0.5)
    ranking = Reranker(Calibrated(backend, tmp_path / "high.json")).rerank(query, texts, min_score=0.5)
    assert len(plain) == 400
    assert sorted(hit.index for hit in ranking) == [i for i, label in enumerate(labels) if label]
    assert one.brier < brier_score(scores, labels)


def test_every_calibrator_is_a_calibration_with_its_own_axis():
    one = fit(*world(100))
    assert isinstance(one, Calibration)
    assert isinstance(replace(one, date="today"), Calibrator)
    assert one.probability(1.5) == pytest.approx(float(sigmoid(one.slope * to_axis(one.scale, 1.5) + one.intercept)))
