"""One pool of threads for the whole process, as wide as the cores it may use.

Local models run one text per call on one thread each: padding is never computed, activations stay in the core's cache,
and queries that arrive together share the cores instead of fighting for them.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TypeVar

from rerankx.interface import remaining_s

T = TypeVar("T")
R = TypeVar("R")

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def run_longest_first(function: Callable[[T], R], items: Sequence[T], *, sizes: Sequence[float]) -> list[R | None]:
    """Return `function(item)` for every item, in their order; None for those the caller's deadline left no time to start.

    Args:
        function: What to do; must not return None, and must not call this function itself.
        items: What to do it to.
        sizes: How long each takes, in any unit; the longest start first, so that no core waits for a late long one.

    Raises:
        Exception: What `function` raised first; items not started by then are not started.
    """
    left = remaining_s()
    end = math.inf if left is None else time.monotonic() + left

    given_up = False

    def task(item: T) -> R | None:
        nonlocal given_up
        if given_up or time.monotonic() >= end:
            return None
        try:
            return function(item)
        except BaseException:
            given_up = True
            raise

    pool = _shared_pool()
    futures: dict[int, Future[R | None]] = {}
    try:
        for i in sorted(range(len(items)), key=lambda i: -sizes[i]):
            futures[i] = pool.submit(task, items[i])
        done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
        for future in done:
            future.result()  # raises what was raised
        return [futures[i].result() for i in range(len(items))]
    finally:
        given_up = True  # also when this thread was interrupted while it waited


def usable_cores() -> int:
    """Return how many cores this process may use: by affinity and by the container's quota, where the platform has them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(min(cores, _quota())))


def _quota() -> float:
    """Return the cores that the container is granted, rounded up; inf if there is no such limit."""
    try:
        quota, period = _CPU_MAX.read_text().split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no such file, or "max"
        return math.inf


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="rerankx")
        return _pool


def _forget_after_fork() -> None:
    # A child process has none of its parent's threads, and perhaps a lock that one of them held.
    global _lock, _pool
    _lock, _pool = threading.Lock(), None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
