import math
from fractions import Fraction
from statistics import fmean, pstdev

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rerankx.fusion import rrf, weighted_sum

finite = st.floats(allow_nan=False, allow_infinity=False)
MODES = ["minmax", "zscore"]


@st.composite
def rankings(draw, min_orders=0):
    """Return (orders, n): up to four partial rankings of n texts."""
    n = draw(st.integers(1, 8))
    partial = st.permutations(range(n)).flatmap(lambda order: st.integers(0, n).map(lambda cut: order[:cut]))
    return draw(st.lists(partial, min_size=min_orders, max_size=4)), n


@st.composite
def score_rows(draw, elements=finite):
    """Return up to four rows of equal length, with gaps."""
    n = draw(st.integers(0, 6))
    return draw(st.lists(st.lists(st.none() | elements, min_size=n, max_size=n), max_size=4))


# rrf


def test_rrf_adds_one_over_k_plus_rank():
    assert rrf([[2, 0], [0, 1]], n=4, k=10) == [1 / 12 + 1 / 11, 1 / 12, 1 / 11, 0.0]


def test_rrf_default_k_is_60():
    assert rrf([[0]], n=1) == [1 / 61]


def test_rrf_without_rankings_scores_every_text_zero():
    assert rrf([], n=2) == [0.0, 0.0]


def test_rrf_without_texts_is_empty():
    assert rrf([[]], n=0) == []


def test_rrf_weights_scale_each_ranking():
    assert rrf([[0], [1]], n=2, k=0, weights=[0.25, 3]) == [0.25, 3.0]


def test_rrf_ties_texts_with_the_same_ranks_from_different_rankings():
    # Added left to right, 1/61 + 1/62 + 1/64 and its permutations differ in the last bit.
    orders = [[0, 1, 3, 2], [1, 2, 3, 0], [2, 0, 3, 1]]
    first, second, third, _ = rrf(orders, n=4)
    assert first == second == third


def test_rrf_leaves_its_input_unchanged():
    orders = [[1, 0], [0]]
    rrf(orders, n=2)
    assert orders == [[1, 0], [0]]


def test_rrf_refuses_a_repeated_index():
    with pytest.raises(ValueError, match=r"orders\[1\] holds index 0 twice"):
        rrf([[0], [0, 1, 0]], n=2)


@pytest.mark.parametrize("index", [-1, 2])
def test_rrf_refuses_an_index_outside_the_texts(index):
    with pytest.raises(ValueError, match=rf"orders\[0\] holds index {index}: expected 0 <= index < n = 2"):
        rrf([[0, index]], n=2)


@pytest.mark.parametrize("name", ["n", "k"])
@pytest.mark.parametrize("value", [-1, 1.0, True, "3", None])
def test_rrf_refuses_a_count_that_is_no_int_from_0(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value!r}: expected an int"):
        rrf([], **{"n": 1, "k": 60} | {name: value})


@given(rankings(min_orders=1), st.data())
def test_rrf_moving_a_text_up_never_lowers_its_score(case, data):
    orders, n = case
    which = data.draw(st.integers(0, len(orders) - 1))
    assume(len(orders[which]) >= 2)
    place = data.draw(st.integers(1, len(orders[which]) - 1))
    text = orders[which][place]
    before = rrf(orders, n=n)
    raised = [list(order) for order in orders]
    raised[which].insert(data.draw(st.integers(0, place - 1)), raised[which].pop(place))
    assert rrf(raised, n=n)[text] > before[text]


@given(rankings(), st.data())
def test_rrf_permuting_the_texts_permutes_the_scores(case, data):
    orders, n = case
    to = data.draw(st.permutations(range(n)))
    moved = rrf([[to[index] for index in order] for order in orders], n=n)
    assert [moved[to[index]] for index in range(n)] == rrf(orders, n=n)


@given(rankings(), st.randoms(use_true_random=False))
def test_rrf_does_not_depend_on_the_order_of_rankings(case, random):
    orders, n = case
    shuffled = random.sample(orders, len(orders))
    assert rrf(shuffled, n=n) == rrf(orders, n=n)


@given(rankings(), st.integers(0, 100))
def test_rrf_stays_in_the_documented_range(case, k):
    orders, n = case
    top = len(orders) / (k + 1)
    assert all(0 <= score <= top * (1 + 1e-15) for score in rrf(orders, n=n, k=k))


# weighted_sum


def test_minmax_maps_each_ranker_to_the_unit_range_and_adds():
    assert weighted_sum([[10, 20, 15], [3, -1, 0]]) == [1.0, 1.0, 0.75]


def test_minmax_is_the_default():
    rows = [[1.0, 2.0, 7.0], [3.0, None, 0.5]]
    assert weighted_sum(rows) == weighted_sum(rows, normalise="minmax") != weighted_sum(rows, normalise="zscore")


def test_zscore_uses_the_population_standard_deviation():
    values = [1.0, 2.0, 4.0, 9.0]
    expected = [(value - fmean(values)) / pstdev(values) for value in values]
    assert weighted_sum([values], normalise="zscore") == pytest.approx(expected, abs=1e-12)


def test_none_adds_the_scores_as_they_are():
    assert weighted_sum([[1, 2], [10, -20]], normalise="none") == [11.0, -18.0]


def test_weights_scale_each_ranker():
    assert weighted_sum([[0, 1], [1, 0]], weights=[3, 0.5]) == [0.5, 3.0]


@pytest.mark.parametrize(("normalise", "value"), [("minmax", 0.5), ("zscore", 0.0), ("none", 7.0)])
def test_a_constant_ranker_gives_each_scored_text_the_same(normalise, value):
    assert weighted_sum([[7, 7, 7]], normalise=normalise) == [value] * 3


def test_a_text_that_a_constant_minmax_ranker_left_out_gets_0_from_it():
    assert weighted_sum([[7, 7, None], [0, 1, 1]]) == [0.5, 1.5, 1.0]


def test_a_missing_entry_takes_0_with_minmax():
    assert weighted_sum([[5, 9, None], [0, 0, 4]]) == [0.0, 1.0, 1.0]


def test_a_missing_entry_takes_the_lowest_z_with_zscore():
    assert weighted_sum([[5, 9, None], [1, 1, 1]], normalise="zscore") == [-1.0, 1.0, -1.0]


def test_a_missing_entry_takes_the_lowest_score_with_none():
    assert weighted_sum([[5, 9, None], [0, 0, 0]], normalise="none") == [5.0, 9.0, 5.0]


@pytest.mark.parametrize("normalise", ["minmax", "zscore", "none"])
def test_a_text_without_any_score_stays_none(normalise):
    fused = weighted_sum([[1, None, 2], [None, None, 3]], normalise=normalise)
    assert [score is None for score in fused] == [False, True, False]


@pytest.mark.parametrize("normalise", ["minmax", "zscore", "none"])
def test_a_ranker_that_scored_nothing_adds_nothing(normalise):
    row = [1.0, 2.0, 4.0]
    empty = [None, None, None]
    assert weighted_sum([row, empty], normalise=normalise) == weighted_sum([row], normalise=normalise)


@pytest.mark.parametrize("scores", [[], [[]], [[], []]])
def test_no_texts_give_an_empty_list(scores):
    assert weighted_sum(scores) == []


def test_no_rankers_need_no_weights():
    assert weighted_sum([], weights=[]) == []


def test_weighted_sum_leaves_its_input_unchanged():
    rows = [[3.0, None, 1.0]]
    weighted_sum(rows)
    assert rows == [[3.0, None, 1.0]]


@pytest.mark.parametrize(
    "row",
    [
        [5e-324, 0.0, 1e-323],
        [-1.7e308, 1.7e308, 0.0],
        [1.0, 1.0 + 2**-52, 1.0 + 2**-51],
        [1e-300, 1e300, 0.0],
    ],
    ids=["denormal", "spread beyond float", "neighbours", "600 decades"],
)
def test_minmax_is_exact_on_extreme_spreads(row):
    low, high = Fraction(min(row)), Fraction(max(row))
    expected = [float((Fraction(value) - low) / (high - low)) for value in row]
    assert weighted_sum([row]) == pytest.approx(expected, rel=1e-15, abs=0)


def test_zscore_of_nearly_equal_scores_does_not_cancel():
    row = [1.0, 1.0 + 2**-52, 1.0 + 2**-51]
    expected = [-math.sqrt(1.5), 0.0, math.sqrt(1.5)]
    assert weighted_sum([row], normalise="zscore") == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused_with_its_place(value):
    with pytest.raises(ValueError, match=rf"scores\[1\]\[2\] is {value}: expected a finite number or None"):
        weighted_sum([[1, 2, 3], [1, 2, value]])


def test_rankers_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match=r"scores\[2\] has length 1: expected 2"):
        weighted_sum([[1, 2], [1, 2], [1]])


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalise is 'max': expected one of minmax, zscore, none"):
        weighted_sum([[1, 2]], normalise="max")


@pytest.mark.parametrize(
    ("rows", "weights"),
    [([[1e308], [1e308]], [1, 1]), ([[1e308], [1e308]], [10, 10]), ([[1e308], [-1e308]], [10, 10])],
    ids=["sum", "inf", "inf - inf"],
)
def test_a_sum_beyond_float_is_refused(rows, weights):
    with pytest.raises(ValueError, match="too large for a float"):
        weighted_sum(rows, weights=weights, normalise="none")


@pytest.mark.parametrize(
    "fuse", [lambda w: rrf([[0], [0]], n=1, weights=w), lambda w: weighted_sum([[1], [2]], weights=w)]
)
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "weights has length 1: expected 2"),
        ([1, 1, 1], "weights has length 3: expected 2"),
        ([], "weights has length 0: expected 2"),
        ([1, -0.5], r"weights\[1\] is -0.5: expected a finite number >= 0"),
        ([math.nan, 1], r"weights\[0\] is nan"),
        ([1, math.inf], r"weights\[1\] is inf"),
        ([0, 0.0], "expected at least one above 0"),
    ],
)
def test_bad_weights_are_refused(fuse, weights, message):
    with pytest.raises(ValueError, match=message):
        fuse(weights)


@given(score_rows(), st.sampled_from(MODES))
def test_every_fused_score_is_finite_or_none(rows, normalise):
    assert all(score is None or math.isfinite(score) for score in weighted_sum(rows, normalise=normalise))


@given(score_rows())
def test_minmax_stays_in_the_documented_range(rows):
    assert all(score is None or 0 <= score <= len(rows) for score in weighted_sum(rows))


@given(st.lists(finite, min_size=1, max_size=8), st.sampled_from([*MODES, "none"]))
def test_one_ranker_keeps_its_order(row, normalise):
    fused = weighted_sum([row], normalise=normalise)
    in_order = [fused[index] for index in sorted(range(len(row)), key=row.__getitem__)]
    assert in_order == sorted(fused)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=8), st.sampled_from([*MODES, "none"]))
def test_one_ranker_keeps_different_scores_apart(row, normalise):
    assert len(set(weighted_sum([row], normalise=normalise))) == len(set(row))


@given(score_rows(), st.sampled_from(MODES), st.data())
def test_permuting_the_texts_permutes_the_fused_scores(rows, normalise, data):
    n = len(rows[0]) if rows else 0
    source = data.draw(st.permutations(range(n)))
    moved = weighted_sum([[row[index] for index in source] for row in rows], normalise=normalise)
    fused = weighted_sum(rows, normalise=normalise)
    assert moved == [fused[index] for index in source]


@given(score_rows(st.integers(-100, 100)), st.sampled_from(MODES), st.integers(1, 9), st.integers(-50, 50))
def test_normalised_sums_do_not_depend_on_scale_or_offset(rows, normalise, scale, offset):
    moved = [[score if score is None else scale * score + offset for score in row] for row in rows]
    expected = weighted_sum(rows, normalise=normalise)
    assert weighted_sum(moved, normalise=normalise) == pytest.approx(expected, abs=1e-12)


# Ties in rrf


@st.composite
def tied_rankings(draw):
    """Return (orders, n): rankings of some of n texts, in which neighbours may be tied."""
    n = draw(st.integers(1, 8))
    orders = []
    for _ in range(draw(st.integers(1, 3))):
        order = draw(st.permutations(range(n)))[: draw(st.integers(0, n))]
        entries: list[int | list[int]] = []
        while order:
            size = draw(st.integers(1, len(order)))
            entries.append(order[0] if size == 1 and draw(st.booleans()) else order[:size])
            order = order[size:]
        orders.append(entries)
    return orders, n


def test_rrf_gives_tied_texts_the_mean_of_their_places():
    mean = (1 / 12 + 1 / 13) / 2
    assert rrf([[3, [0, 2], 1]], n=4, k=10) == [pytest.approx(mean), 1 / 14, pytest.approx(mean), 1 / 11]


def test_rrf_ties_take_up_as_many_places_as_there_are_texts():
    assert rrf([[[0, 1, 2], 3]], n=4, k=0)[3] == 1 / 4


@pytest.mark.parametrize("entry", [[0, 1, 0], [0, 2]])
def test_rrf_refuses_a_wrong_index_among_ties(entry):
    with pytest.raises(ValueError, match=r"orders\[0\] holds index"):
        rrf([[entry]], n=2)


def test_rrf_refuses_a_text_that_stands_alone_and_among_ties():
    with pytest.raises(ValueError, match="holds index 1 twice"):
        rrf([[1, [0, 1]]], n=2)


@given(tied_rankings(), st.integers(0, 100))
def test_rrf_ties_share_what_their_places_are_worth(case, k):
    orders, n = case
    flat = [[index for entry in order for index in (entry if isinstance(entry, list) else [entry])] for order in orders]
    assert math.fsum(rrf(orders, n=n, k=k)) == pytest.approx(math.fsum(rrf(flat, n=n, k=k)))


@given(tied_rankings(), st.data())
def test_rrf_does_not_depend_on_the_order_of_ties(case, data):
    orders, n = case
    shuffled = [
        [data.draw(st.permutations(entry)) if isinstance(entry, list) else entry for entry in order] for order in orders
    ]
    assert rrf(orders, n=n) == rrf(shuffled, n=n)


@given(rankings(min_orders=1))
def test_rrf_a_tie_of_one_is_none(case):
    orders, n = case
    assert rrf([[[index] for index in order] for order in orders], n=n) == rrf(orders, n=n)


@given(tied_rankings(), st.floats(0.1, 9))
def test_rrf_a_ranking_in_which_all_are_tied_changes_no_order(case, weight):
    orders, n = case
    without = rrf(orders, n=n)
    fused = rrf([*orders, [list(range(n))]], n=n, weights=[*[1.0] * len(orders), weight])
    share = fused[0] - without[0]
    assert fused == pytest.approx([score + share for score in without])
