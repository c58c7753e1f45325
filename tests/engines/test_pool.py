import math
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerankx.engines import pool
from rerankx.interface import deadline


def test_results_come_in_the_order_of_the_items():
    items = [3, 1, 2]
    assert pool.run_longest_first(lambda n: n * 10, items, sizes=items) == [30, 10, 20]


def test_the_longest_start_first(monkeypatch):
    monkeypatch.setattr(pool, "_pool", ThreadPoolExecutor(1))
    started = []
    pool.run_longest_first(lambda n: started.append(n) or n, [1, 3, 2], sizes=[1, 3, 2])
    assert started == [3, 2, 1]


def test_nothing_is_nothing():
    assert pool.run_longest_first(lambda n: n, [], sizes=[]) == []


def test_what_the_deadline_left_no_time_for_is_none(monkeypatch):
    monkeypatch.setattr(pool, "_pool", ThreadPoolExecutor(1))
    started = []

    def work(n):
        started.append(n)
        while n == 2 and remaining[0] - time.monotonic() > -0.01:  # the second item outlives the deadline
            time.sleep(0.001)
        return n

    with deadline(0.2):
        remaining = [time.monotonic() + 0.2]
        assert pool.run_longest_first(work, [1, 2, 3], sizes=[3, 2, 1]) == [1, None, None]
    pool._pool.shutdown(wait=True)
    assert started == [1, 2]


def test_the_first_error_is_raised_and_the_rest_is_not_started(monkeypatch):
    monkeypatch.setattr(pool, "_pool", ThreadPoolExecutor(1))
    started = []

    def work(n):
        started.append(n)
        raise KeyError(n)

    with pytest.raises(KeyError, match="0"):
        pool.run_longest_first(work, list(range(50)), sizes=[1] * 50)
    pool._pool.shutdown(wait=True)
    assert started == [0]


def test_it_is_no_wider_than_the_cores_it_may_use(monkeypatch):
    monkeypatch.setattr(pool, "_quota", lambda: 1)
    assert pool.usable_cores() == 1
    monkeypatch.setattr(pool, "_quota", lambda: math.inf)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert pool.usable_cores() == cores


@pytest.mark.parametrize(("content", "cores"), [("max 100000", math.inf), ("150000 100000", 2), ("50000 100000", 1)])
def test_the_quota_of_a_container_counts(content, cores, monkeypatch, tmp_path):
    (tmp_path / "cpu.max").write_text(content)
    monkeypatch.setattr(pool, "_CPU_MAX", tmp_path / "cpu.max")
    assert pool._quota() == cores


def test_without_a_container_there_is_no_quota(monkeypatch, tmp_path):
    monkeypatch.setattr(pool, "_CPU_MAX", tmp_path / "missing")
    assert pool._quota() == math.inf


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_has_a_pool_of_its_own():
    pool.run_longest_first(lambda n: n, [1], sizes=[1])
    child = os.fork()
    if child == 0:
        os._exit(0 if pool.run_longest_first(lambda n: n + 1, [1], sizes=[1]) == [2] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_short_call_takes_turns_with_a_long_one(monkeypatch):
    monkeypatch.setattr(pool, "_pool", ThreadPoolExecutor(1))
    monkeypatch.setattr(pool, "usable_cores", lambda: 1)
    begun, done = threading.Event(), []

    def slow(n):
        begun.set()
        short_is_in.wait(10)
        done.append(n)
        return n

    short_is_in = threading.Event()
    with ThreadPoolExecutor(2) as callers:
        long = callers.submit(pool.run_longest_first, slow, list(range(20)), sizes=[1] * 20)
        begun.wait(10)
        short = callers.submit(pool.run_longest_first, lambda n: done.append(n) or n, ["short"], sizes=[1])
        while pool._pool._work_queue.qsize() == 0:
            time.sleep(0.001)
        short_is_in.set()
        assert short.result(10) == ["short"]
        long.result(10)
    assert done.index("short") <= 2


def test_a_deadline_ends_the_wait_for_an_item_that_takes_longer(monkeypatch):
    monkeypatch.setattr(pool, "_pool", ThreadPoolExecutor(1))
    go = threading.Event()
    with deadline(0.05):
        assert pool.run_longest_first(lambda n: go.wait(10), [1], sizes=[1]) == [None]
    go.set()
