"""Laws of windows: what they cover, how often the model is asked, and what a perfect ranker makes of them."""

import asyncio
import math
import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx.llm.windows import sliding, windows


@st.composite
def layouts(draw):
    n = draw(st.integers(1, 90))
    window = draw(st.integers(2, 30))
    return n, window, draw(st.integers(1, window - 1))


def steps(n, rank, **options):
    """Return every order that the strategy yields."""

    async def all_of_them():
        return [order async for order in sliding(n, rank, **options)]

    return asyncio.run(all_of_them())


class Oracle:
    """A scripted ranker that knows the true order, and counts what it is asked."""

    def __init__(self, truth):
        self.place = {index: place for place, index in enumerate(truth)}
        self.asked = []

    async def __call__(self, window):
        self.asked.append(tuple(window))
        return sorted(window, key=self.place.__getitem__)


@given(layouts())
def test_every_text_is_in_a_window(layout):
    n, window, step = layout
    covered = [place for start, end in windows(n, window=window, step=step) for place in range(start, end)]
    assert set(covered) == set(range(n))


@given(layouts())
def test_no_window_is_larger_than_asked_and_they_go_from_back_to_front(layout):
    n, window, step = layout
    spans = windows(n, window=window, step=step)
    assert all(0 < end - start <= window for start, end in spans)
    assert (spans[0][1], spans[-1][0]) == (n, 0)
    assert all(after[0] < before[0] and after[1] < before[1] for before, after in pairwise(spans))


@given(layouts())
def test_neighbours_share_what_can_rise(layout):
    n, window, step = layout
    spans = windows(n, window=window, step=step)
    assert all(after[1] - before[0] == window - step for before, after in pairwise(spans))


@given(layouts())
def test_a_pass_takes_as_many_calls_as_the_formula_says(layout):
    n, window, step = layout
    expected = 1 if n <= window else 1 + math.ceil((n - window) / step)
    assert len(windows(n, window=window, step=step)) == expected


@pytest.mark.parametrize(("n", "calls"), [(5, 1), (20, 1), (21, 2), (25, 2), (30, 2), (40, 3), (50, 4), (100, 9)])
def test_the_counts_of_the_published_method(n, calls):
    assert len(windows(n, window=20, step=10)) == calls


@given(layouts(), st.integers(0, 10**6))
def test_one_pass_settles_the_first_places_from_wherever_they_come(layout, seed):
    n, window, step = layout
    truth = random.Random(seed).sample(range(n), n)
    settled = n if n <= window else window - step
    assert steps(n, Oracle(truth), top_n=None, window=window, step=step)[-1][:settled] == truth[:settled]


def test_the_best_can_rise_from_the_very_end():
    truth = [*range(90, 100), *range(90)]
    assert steps(100, Oracle(truth), top_n=10, window=20, step=10)[-1] == truth


@given(layouts(), st.data())
def test_a_perfect_ranker_yields_the_ideal_order_as_far_as_it_is_asked_for(layout, data):
    n, window, step = layout
    top_n = data.draw(st.integers(1, n))
    truth = random.Random(data.draw(st.integers(0, 10**6))).sample(range(n), n)
    assert steps(n, Oracle(truth), top_n=top_n, window=window, step=step)[-1][:top_n] == truth[:top_n]


@given(layouts(), st.data())
def test_there_are_no_more_passes_than_top_n_needs(layout, data):
    n, window, step = layout
    top_n = data.draw(st.integers(1, n))
    oracle = Oracle(range(n))
    steps(n, oracle, top_n=top_n, window=window, step=step)
    passes = math.ceil(top_n / (window - step))
    assert len(oracle.asked) <= sum(
        len(windows(n, window=window, step=step, first=p * (window - step)))
        for p in range(passes)
        if p * (window - step) < n
    )


@given(layouts(), st.integers(0, 10**6))
def test_whoever_ranks_no_text_is_lost_at_any_step(layout, seed):
    n, window, step = layout
    dice = random.Random(seed)

    async def whim(window):
        return dice.sample(list(window), len(window))

    assert all(sorted(order) == list(range(n)) for order in steps(n, whim, top_n=n, window=window, step=step))


def test_a_ranker_that_changes_nothing_leaves_the_order_as_it_came():
    async def same(window):
        return window

    assert steps(57, same, top_n=57, window=20, step=10)[-1] == list(range(57))


def test_what_fails_on_the_way_leaves_the_steps_before_it():
    calls = []

    async def failing(window):
        calls.append(window)
        if len(calls) > 2:
            raise RuntimeError("enough")
        return window[::-1]

    async def collected():
        found = []
        try:
            async for order in sliding(50, failing, top_n=None, window=20, step=10):
                found.append(order)
        except RuntimeError:
            return found

    assert [len(order) for order in asyncio.run(collected())] == [50, 50]
