"""`Tally`: each reply is counted once, in any thread, and a model that ranks nothing is warned of once."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")
pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[llm]'")

from scripted import warnings_in

from rerankx.llm.tally import Replies, Tally


def test_nothing_is_counted_at_first():
    assert Tally("who").replies == Replies(0, 0, 0, {})


def test_each_reply_is_counted_once_and_each_repair_of_it():
    tally = Tally("who")
    tally.answered(())
    tally.answered(["prose", "missing ids"])
    tally.answered(["prose"])
    tally.failed()
    assert tally.replies == Replies(parsed=1, repaired=2, failed=1, repairs={"prose": 2, "missing ids": 1})


def test_what_was_told_does_not_change_later():
    tally = Tally("who")
    tally.answered(["prose"])
    told = tally.replies
    tally.answered(["prose"])
    assert told == Replies(repaired=1, repairs={"prose": 1})


def test_no_count_is_lost_under_threads():
    tally, together = Tally("who"), threading.Barrier(8)

    def count(_):
        together.wait(timeout=30)
        for _ in range(500):
            tally.answered(())
            tally.answered(["prose", "fence"])
            tally.failed()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(8)))
    assert tally.replies == Replies(4000, 4000, 4000, {"prose": 4000, "fence": 4000})


def test_the_warning_comes_once_under_threads(caplog):
    tally, together = Tally("who"), threading.Barrier(8)

    def order(_):
        together.wait(timeout=30)
        for _ in range(50):
            tally.ranked(moved=False)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(order, range(8)))
    assert len(warnings_in(caplog)) == 1


def test_eight_rankings_in_which_nothing_moved_are_warned_of(caplog):
    tally = Tally("listwise:some-model")
    for _ in range(7):
        tally.ranked(moved=False)
    assert warnings_in(caplog) == []
    tally.ranked(moved=False)
    (warning,) = warnings_in(caplog)
    assert warning.startswith("listwise:some-model has left the passages in the order in which they were shown")
    assert "8 rankings in a row" in warning


def test_one_in_which_something_moved_begins_the_count_anew(caplog):
    tally = Tally("who")
    for _ in range(10):
        for _ in range(7):
            tally.ranked(moved=False)
        tally.ranked(moved=True)
    assert warnings_in(caplog) == []


def test_it_is_not_warned_of_again(caplog):
    tally = Tally("who")
    for _ in range(3):
        for _ in range(20):
            tally.ranked(moved=False)
        tally.ranked(moved=True)
    assert len(warnings_in(caplog)) == 1


def test_replies_are_values():
    told = Replies(1, 2, 3, {"prose": 2})
    assert copy.copy(told) == told
    with pytest.raises(AttributeError):
        told.parsed = 5
