import math
import random
from itertools import product

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rerankx.evaluation.statistics import (
    _student_over_normal,
    bootstrap_interval,
    compare_paired,
    effect_size,
    holm,
    minimum_detectable_effect,
    queries_needed,
    sign_flip,
    win_tie_loss,
)

FEW = 500  # resamples, where their number is not what is tested
# Thousandths: what is tested is not the rounding of floats.
VALUE = st.integers(0, 1000).map(lambda thousandths: thousandths / 1000)
PAIRS = st.lists(st.tuples(VALUE, VALUE), min_size=2, max_size=40)


def normal(n, mean=0.0, sd=0.25, seed=0):
    source = random.Random(seed)
    return [source.gauss(mean, sd) for _ in range(n)]


def with_spread(n, mean, sd):
    """Return n numbers, n even, of exactly this mean and standard deviation."""
    step = sd * math.sqrt((n - 1) / n)
    return [mean - step, mean + step] * (n // 2)


def compared(differences, **options):
    return compare_paired(differences, [0.0] * len(differences), **{"resamples": FEW, **options})


# bootstrap_interval


@pytest.mark.parametrize("n", [8, 50, 400])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_is_that_of_scipy_stretched_by_student_over_normal(n, level):
    stats = pytest.importorskip("scipy.stats")
    values = [value**3 + abs(value) for value in normal(n, 0.1)]
    options = {"method": "percentile", "confidence_level": level, "n_resamples": 20_000, "random_state": 5}
    plain = stats.bootstrap((values,), lambda x, axis: x.mean(axis=axis), **options).confidence_interval
    stretch = math.sqrt(n / (n - 1)) * stats.t.ppf((1 + level) / 2, n - 1) / stats.norm.ppf((1 + level) / 2)
    mean = math.fsum(values) / n
    expected = [mean + (end - mean) * stretch for end in plain]
    width = expected[1] - expected[0]
    assert bootstrap_interval(values, level=level, resamples=20_000) == pytest.approx(expected, abs=0.03 * width)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("degrees", [5, 10, 1000])
def test_the_stretch_of_an_interval_is_that_of_scipys_quantiles(level, degrees):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.t.ppf((1 + level) / 2, degrees) / stats.norm.ppf((1 + level) / 2)
    assert _student_over_normal(level, degrees) == pytest.approx(expected, rel=0.01 if degrees == 5 else 0.001)


@pytest.mark.parametrize("n", [8, 30])
def test_interval_covers_the_true_mean_as_often_as_it_says(n):
    repetitions = 800
    covered = 0
    for seed in range(repetitions):
        low, high = bootstrap_interval(normal(n, 0.1, seed=seed), resamples=FEW)
        covered += low <= 0.1 <= high
    # Plain percentiles cover 0.885 for 8; the standard error of a share is 0.008 here.
    assert 0.93 <= covered / repetitions <= 0.975


def test_interval_leans_to_the_side_of_the_longer_tail():
    low, high = bootstrap_interval([0.0] * 27 + [0.9] * 3)
    assert high - 0.09 > 1.2 * (0.09 - low)


def test_interval_at_a_higher_level_is_wider():
    values = normal(30)
    low, high = bootstrap_interval(values, level=0.8)
    wider = bootstrap_interval(values, level=0.99)
    assert wider[0] < low < high < wider[1]


def test_interval_of_equal_differences_is_their_value():
    assert bootstrap_interval([0.1] * 7) == (0.1, 0.1)


def test_interval_depends_on_the_seed_alone():
    values = normal(30)
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_interval_of_more_queries_than_are_drawn_at_once_is_that_of_the_normal_theory():
    values = with_spread(2**20 + 2, 0.1, 0.25)
    half = 1.96 * 0.25 / math.sqrt(len(values))
    assert bootstrap_interval(values, resamples=60) == pytest.approx((0.1 - half, 0.1 + half), abs=0.5 * half)


# sign_flip


def all_ways(values):
    observed = abs(math.fsum(values))
    sums = [
        abs(math.fsum(s * v for s, v in zip(signs, values, strict=True)))
        for signs in product([1, -1], repeat=len(values))
    ]
    return sum(total >= observed - 1e-12 for total in sums) / len(sums)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=8))
def test_p_of_few_queries_is_the_share_of_all_ways_to_swap(values):
    tenths = [value / 10 for value in values]
    assert sign_flip(tenths) == pytest.approx(all_ways(tenths), abs=1e-15)


def test_p_of_six_wins_is_one_of_thirty_two():
    assert sign_flip([0.1, 0.2, 0.3, 0.4, 0.5, 0.6]) == 2 / 64


def test_p_is_exact_for_sixteen_queries_that_differ_and_any_number_that_tie():
    values = [0.1] * 16 + [0.0] * 500
    assert sign_flip(values, resamples=1) == 2 / 2**16


@pytest.mark.parametrize("n", [10, 60])
def test_p_is_that_of_scipy(n):
    stats = pytest.importorskip("scipy.stats")
    values = normal(n, 0.05, seed=4)
    mine = sign_flip(values)
    options = {"permutation_type": "samples", "n_resamples": 50_000, "random_state": 5}
    theirs = stats.permutation_test((values,), lambda x, axis: x.mean(axis=axis), **options).pvalue
    assert 0.01 < theirs < 0.9
    assert mine == pytest.approx(theirs, abs=1e-12 if n == 10 else 0.007)


def test_p_of_many_normal_differences_is_near_that_of_the_t_test():
    stats = pytest.importorskip("scipy.stats")
    values = normal(300, 0.03, seed=2)
    assert sign_flip(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.005)


@pytest.mark.parametrize("resamples", [1, 99, 200_000])
def test_p_is_never_zero(resamples):
    assert sign_flip([0.1] * 60, resamples=resamples) == 1 / (resamples + 1)


def test_p_counts_ways_that_move_the_mean_as_far_though_rounding_differs():
    values = [0.1, 0.2, 0.3, -0.1, -0.2, 0.7] * 5  # their sums tie often, in floats nearly
    exactly = [round(value * 10) for value in values]
    assert sign_flip(values) == sign_flip(exactly)


@pytest.mark.parametrize("n", [7, 40])
def test_p_of_equal_systems_is_below_five_percent_in_at_most_five(n):
    found = sum(sign_flip(normal(n, seed=seed), resamples=FEW) <= 0.05 for seed in range(600))
    assert found / 600 <= 0.067  # two standard errors above


def test_p_where_nothing_differs_is_one():
    assert sign_flip([0.0]) == 1.0
    assert sign_flip([0.0, -0.0, 0.0]) == 1.0


# effect_size, win_tie_loss


def test_effect_size_is_mean_over_standard_deviation():
    assert effect_size([1.0, 2.0, 3.0]) == 2.0
    assert effect_size(with_spread(10, 0.1, 0.25)) == pytest.approx(0.4, abs=1e-12)


def test_effect_size_times_root_n_is_the_t_statistic_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = normal(40, 0.1)
    assert effect_size(values) * math.sqrt(40) == pytest.approx(stats.ttest_1samp(values, 0).statistic, abs=1e-12)


def test_effect_size_without_spread_is_infinite_or_zero():
    nearly = [0.3 - 0.2, 0.4 - 0.3, 0.9 - 0.8]
    assert len(set(nearly)) > 1
    assert effect_size(nearly) == math.inf
    assert effect_size([-0.1, -0.1]) == -math.inf
    assert effect_size([0.0, 0.0]) == 0.0


def test_wins_ties_and_losses_are_counted_in_this_order():
    assert win_tie_loss([0.5, 0.1, 0.0, 1e-10, -1e-10, -0.2]) == (2, 3, 1)


def test_a_tie_is_within_what_is_asked_for():
    assert win_tie_loss([0.25, 0.2, -0.25, -0.3], tie=0.25) == (0, 3, 1)
    assert win_tie_loss([1e-300, 0.0, -1e-300], tie=0) == (1, 1, 1)


def test_no_query_is_no_win_no_tie_and_no_loss():
    assert win_tie_loss([]) == (0, 0, 0)


# holm


def test_holm_multiplies_the_smallest_by_all_and_the_next_by_one_less():
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09], abs=1e-15)


def test_holm_keeps_the_order_given_and_stops_at_one():
    assert holm([0.9, 0.01, 0.6]) == pytest.approx([1.0, 0.03, 1.0], abs=1e-15)
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_is_its_definition(p_values):
    def by_definition(p):
        below = sorted(p_values)[: sorted(p_values).index(p) + p_values.count(p)]
        return max(min(1.0, (len(p_values) - i) * other) for i, other in enumerate(below))

    assert holm(p_values) == [by_definition(p) for p in p_values]


# minimum_detectable_effect, queries_needed


@pytest.mark.parametrize(
    ("sd", "effect", "published"),
    [(0.1, 0.01, 785), (0.15, 0.03, 196), (0.2, 0.02, 785), (0.25, 0.05, 196), (0.25, 0.1, 49), (0.3, 0.02, 1766)],
)
def test_queries_needed_are_those_of_the_normal_formula_and_two_for_the_unknown_spread(sd, effect, published):
    assert queries_needed(sd, effect) - published in (1, 2, 3)  # published figures are rounded


@pytest.mark.parametrize(("n", "tolerance"), [(6, 0.05), (15, 0.01), (50, 0.001), (1000, 0.0001)])
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_detectable_effect_is_that_of_the_t_test_with_this_power(n, tolerance, power):
    stats = pytest.importorskip("scipy.stats")
    critical = stats.t.ppf(0.975, n - 1)

    def power_at(effect):
        return stats.nct.sf(critical, n - 1, effect / 0.25 * math.sqrt(n))

    effect = minimum_detectable_effect(0.25, n, power=power)
    assert power_at(effect * (1 - tolerance)) < power < power_at(effect * (1 + tolerance))


@given(st.floats(0.001, 10), st.floats(0.001, 10), st.floats(0.5, 0.99), st.floats(0.5, 0.999))
def test_queries_needed_are_the_fewest_that_detect_the_effect(sd, effect, power, level):
    n = queries_needed(sd, effect, power=power, level=level)
    assert minimum_detectable_effect(sd, n, power=power, level=level) <= effect * (1 + 1e-9)
    assert n == 1 or minimum_detectable_effect(sd, n - 1, power=power, level=level) > effect * (1 - 1e-9)


def test_five_queries_detect_nothing_as_no_p_of_theirs_is_small_enough():
    assert sign_flip([0.5] * 5) > 0.05 >= sign_flip([0.5] * 6)
    assert minimum_detectable_effect(0.1, 5) == math.inf
    assert minimum_detectable_effect(0.1, 6) < math.inf
    assert queries_needed(0.1, 100) == 6


def test_without_spread_six_queries_detect_anything():
    assert minimum_detectable_effect(0.0, 6) == 0.0
    assert queries_needed(0.0, 0.01) == 6


def test_the_needed_queries_give_a_verdict_as_often_as_they_say():
    n = queries_needed(0.25, 0.1)
    verdicts = [compared(normal(n, 0.1, seed=seed), seed=seed).verdict for seed in range(400)]
    assert verdicts.count("worse") == 0
    assert 0.75 <= verdicts.count("better") / 400 <= 0.85


# compare_paired


def test_comparison_holds_what_the_functions_give():
    a = [0.5 + value / 4 for value in normal(40, 0.2)]
    b = [0.5 + value / 4 for value in normal(40, seed=1)]
    differences = [x - y for x, y in zip(a, b, strict=True)]
    comparison = compare_paired(a, b, level=0.9, power=0.7, seed=3, resamples=FEW, margin=0.02)
    assert comparison.n == 40
    assert comparison.mean_a == pytest.approx(sum(a) / 40, abs=1e-12)
    assert comparison.mean_b == pytest.approx(sum(b) / 40, abs=1e-12)
    assert comparison.difference == pytest.approx(comparison.mean_a - comparison.mean_b, abs=1e-12)
    assert (comparison.low, comparison.high) == bootstrap_interval(differences, level=0.9, seed=3, resamples=FEW)
    assert comparison.p == sign_flip(differences, seed=3, resamples=FEW)
    assert comparison.effect_size == effect_size(differences)
    assert comparison.sd == pytest.approx(comparison.difference / comparison.effect_size, abs=1e-12)
    assert (comparison.wins, comparison.ties, comparison.losses) == win_tie_loss(differences)
    assert comparison.detectable == minimum_detectable_effect(comparison.sd, 40, power=0.7, level=0.9)
    assert (comparison.level, comparison.margin) == (0.9, 0.02)


def test_a_clear_gain_is_better_and_a_clear_loss_is_worse():
    better = compared(with_spread(100, 0.1, 0.2))
    assert (better.verdict, better.not_inferior, better.more_queries) == ("better", True, None)
    worse = compared(with_spread(100, -0.1, 0.2))
    assert (worse.verdict, worse.not_inferior, worse.more_queries) == ("worse", False, None)


def test_a_difference_within_chance_is_inconclusive_with_the_queries_that_it_needs():
    comparison = compared(with_spread(50, 0.05, 0.25))
    assert (comparison.verdict, comparison.not_inferior) == ("inconclusive", False)
    assert comparison.more_queries == queries_needed(0.25, 0.05) - 50 == 149


def test_a_difference_below_the_margin_needs_what_is_sooner_settled():
    far_from_the_margin = compared(with_spread(200, 0.004, 0.2), margin=0.02)
    assert far_from_the_margin.verdict == "inconclusive"
    assert far_from_the_margin.more_queries == pytest.approx(queries_needed(0.2, 0.016) - 200, abs=1)
    near_the_margin = compared(with_spread(200, -0.015, 0.2), margin=0.02)
    assert near_the_margin.verdict == "inconclusive"
    assert near_the_margin.more_queries == pytest.approx(queries_needed(0.2, 0.015) - 200, abs=1)


def test_more_queries_counts_on_the_power_asked_for():
    differences = with_spread(50, 0.05, 0.25)
    expected = queries_needed(0.25, 0.05, power=0.9, level=0.99) - 50
    assert compared(differences, power=0.9, level=0.99).more_queries == expected


def test_many_queries_without_a_difference_that_matters_are_equivalent():
    comparison = compared(with_spread(1000, 0.001, 0.05))
    assert (comparison.verdict, comparison.not_inferior, comparison.more_queries) == ("equivalent", True, None)


def test_a_sure_difference_that_is_too_small_to_matter_is_equivalent():
    comparison = compared(with_spread(1000, 0.005, 0.02))
    assert comparison.low > 0
    assert comparison.p < 0.05
    assert comparison.verdict == "equivalent"
    assert compared(with_spread(1000, 0.005, 0.02), margin=0).verdict == "better"


def test_a_loss_that_is_surely_less_than_the_margin_is_not_inferior():
    comparison = compared(with_spread(1000, 0.01, 0.2), margin=0.02)
    assert (comparison.verdict, comparison.not_inferior) == ("inconclusive", True)
    assert not compared(with_spread(1000, -0.01, 0.2), margin=0.02).not_inferior


@pytest.mark.parametrize(("margin", "enough"), [(0.01, 368), (0.02, 183), (0.05, 72)])
def test_systems_that_never_differed_are_equivalent_once_a_rare_difference_would_have_shown(margin, enough):
    too_few = compared([0.0] * (enough - 1), margin=margin)
    assert (too_few.verdict, too_few.not_inferior, too_few.more_queries) == ("inconclusive", False, 1)
    shown = compared([0.0] * enough, margin=margin)
    assert (shown.verdict, shown.not_inferior, shown.more_queries) == ("equivalent", True, None)
    assert (1 - margin) ** enough <= 0.025 < (1 - margin) ** (enough - 1)


def test_systems_that_did_not_differ_need_the_queries_to_show_a_rare_difference():
    assert compared([0.0] * 50).more_queries == 318


def test_at_least_one_query_is_asked_for_where_the_formula_would_be_content_but_p_is_not():
    differences = [0.1] * 5 + [0.0] * 3
    assert queries_needed(0.052, 0.0625) == len(differences)
    assert compared(differences).more_queries == 1


def test_a_rare_great_loss_passes_for_harmless_in_few_samples():
    source = random.Random(0)
    passed = 0
    for seed in range(300):  # by 0.015 worse on average, and no loss in the sample in 22 % of cases
        losses = [-0.5 if source.random() < 0.03 else 0.0 for _ in range(50)]
        passed += compared(losses, seed=seed).not_inferior
    assert passed / 300 <= 0.025


def test_nothing_is_equivalent_without_a_margin_and_no_number_of_ties_will_show_it():
    comparison = compared([0.0] * 5000, margin=0, resamples=1)
    assert (comparison.verdict, comparison.not_inferior, comparison.more_queries) == ("inconclusive", False, None)


def test_five_equal_gains_are_inconclusive_and_six_are_better():
    five = compare_paired([0.3, 0.4, 0.5, 0.6, 0.9], [0.2, 0.3, 0.4, 0.5, 0.8])
    assert (five.verdict, five.sd, five.detectable, five.more_queries) == ("inconclusive", 0.0, math.inf, 1)
    assert five.low > 0
    assert compared([0.1] * 6).verdict == "better"


def test_differences_of_rounding_count_as_none():
    comparison = compare_paired([0.1 + 0.2] * 4, [0.3] * 4)
    assert (comparison.difference, comparison.p, comparison.effect_size, comparison.ties) == (0.0, 1.0, 0.0, 4)


@settings(max_examples=60)
@given(PAIRS, st.sampled_from([0.0, 0.01, 0.05]))
def test_swapping_the_systems_mirrors_the_comparison(pairs, margin):
    a, b = map(list, zip(*pairs, strict=True))
    one = compare_paired(a, b, resamples=100, margin=margin)
    other = compare_paired(b, a, resamples=100, margin=margin)
    assert (other.low, other.high, other.difference) == (-one.high, -one.low, -one.difference)
    assert (other.p, other.sd, other.effect_size) == (one.p, one.sd, -one.effect_size)
    assert (other.wins, other.ties, other.losses) == (one.losses, one.ties, one.wins)
    assert (other.mean_a, other.mean_b, other.more_queries) == (one.mean_b, one.mean_a, one.more_queries)
    mirror = {"better": "worse", "worse": "better"}
    assert other.verdict == mirror.get(one.verdict, one.verdict)


@settings(max_examples=60)
@given(PAIRS, st.randoms(use_true_random=False))
def test_the_order_of_the_queries_changes_nothing(pairs, source):
    shuffled = source.sample(pairs, len(pairs))
    one, other = (compare_paired(*map(list, zip(*rows, strict=True)), resamples=100) for rows in (pairs, shuffled))
    assert one == other


@settings(max_examples=60)
@given(PAIRS, st.integers(1, 4))
def test_what_both_systems_gain_changes_no_difference(pairs, quarters):
    a, b = map(list, zip(*pairs, strict=True))
    assume(any(x != y for x, y in pairs))
    plain = compare_paired(a, b, resamples=100)
    lifted = compare_paired([x + quarters / 4 for x in a], [y + quarters / 4 for y in b], resamples=100)
    assert lifted.difference == pytest.approx(plain.difference, abs=1e-12)
    assert (lifted.wins, lifted.ties, lifted.losses) == (plain.wins, plain.ties, plain.losses)


@settings(max_examples=60)
@given(PAIRS)
def test_a_verdict_and_queries_still_needed_exclude_each_other(pairs):
    a, b = map(list, zip(*pairs, strict=True))
    comparison = compare_paired(a, b, resamples=100)
    assert (comparison.more_queries is None) == (comparison.verdict != "inconclusive")
    assert comparison.more_queries is None or comparison.more_queries >= 1
    assert comparison.low <= comparison.difference + 1e-12
    assert comparison.difference <= comparison.high + 1e-12


def test_arrays_are_taken_and_plain_numbers_come_back():
    numpy = pytest.importorskip("numpy")
    a, b = numpy.array([0.5, 0.25, 1.0], dtype=numpy.float32), numpy.array([0, 1, 0])
    comparison = compare_paired(a, b)
    assert comparison == compare_paired([0.5, 0.25, 1.0], [0.0, 1.0, 0.0])
    assert {type(value) for value in vars(comparison).values()} <= {int, float, bool, str}


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare_paired([0.1, 0.2, 0.3], [0.1, 0.2]), "a has 3 values and b has 2"),
        (lambda: compare_paired([0.1], [0.2]), "a has 1 value: expected at least 2"),
        (lambda: compare_paired([], []), "a has 0 values: expected at least 2"),
        (lambda: compare_paired([0.1, 0.2], [0.1, math.nan]), r"b\[1\] is nan: expected a finite number"),
        (lambda: compare_paired([math.inf, 0.2], [0.1, 0.2]), r"a\[0\] is inf"),
        (lambda: compare_paired({"1": 0.1, "2": 0.3}, [0.1, 0.2]), "a is a dict: expected a sequence of numbers"),
        (lambda: compare_paired("12", "34"), "a is a str"),
        (lambda: compare_paired([0.1, 0.2], [0.1, 0.2], margin=-0.1), "margin is -0.1"),
        (lambda: compare_paired([0.1, 0.2], [0.1, 0.2], margin=1), "margin is 1"),
        (lambda: compare_paired([0.1, 0.2], [0.1, 0.2], level=95), "level is 95: expected a number between 0 and 1"),
        (lambda: compare_paired([0.1, 0.2], [0.1, 0.2], power=1), "power is 1"),
        (lambda: bootstrap_interval([0.1]), "differences has 1 value: expected at least 2"),
        (lambda: bootstrap_interval([0.1, 0.2], level=math.nan), "level is nan"),
        (lambda: bootstrap_interval([0.1, 0.2], resamples=0), "resamples is 0: expected an int of at least 1"),
        (lambda: sign_flip([]), "differences has 0 values: expected at least 1"),
        (lambda: sign_flip([0.1], resamples=1.5), "resamples is 1.5"),
        (lambda: effect_size([0.1]), "expected at least 2"),
        (lambda: win_tie_loss([0.1], tie=-1), "tie is -1"),
        (lambda: holm([0.1, 1.5]), r"p_values\[1\] is 1.5: expected a number in \[0, 1\]"),
        (lambda: holm([math.nan]), r"p_values\[0\] is nan"),
        (lambda: minimum_detectable_effect(-0.1, 10), "sd is -0.1"),
        (lambda: minimum_detectable_effect(0.1, 0), "n is 0: expected an int of at least 1"),
        (lambda: minimum_detectable_effect(0.1, True), "n is True"),
        (lambda: queries_needed(0.1, 0), "effect is 0: expected a number above 0"),
        (lambda: queries_needed(math.nan, 0.1), "sd is nan"),
        (lambda: queries_needed(0.1, 0.1, power=0), "power is 0"),
    ],
)
def test_what_cannot_be_compared_is_said(call, message):
    with pytest.raises(ValueError, match=message):
        call()
