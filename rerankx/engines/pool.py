"""One pool of threads for the whole process, as wide as the cores it may use.

Local models run one text per call on one thread each: padding is never computed, activations stay in the core's cache,
and queries that arrive together share the cores instead of fighting for them.
"""

from __future__ import annotations

import math
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from rerankx.interface import out_of_time, remaining_s

T = TypeVar("T")
R = TypeVar("R")

_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")  # cgroup v2: "QUOTA PERIOD" in microseconds, or "max PERIOD"

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def run_longest_first(function: Callable[[T], R], items: Sequence[T], *, sizes: Sequence[float]) -> list[R | None]:
    """Return `function(item)` for every item, in their order; None for those that the deadline left no time for.

    Calls that come together take turns, item by item: a short one does not wait for the end of a long one.

    Args:
        function: What to do; must not return None, and must not call this function itself.
        items: What to do it to.
        sizes: How long each takes, in any unit; the longest start first, so that no core waits for a late long one.

    Raises:
        Exception: What `function` raised first; items not started by then are not started.
    """
    if not items:
        return []
    work = _Work(function, items, sorted(range(len(items)), key=lambda i: -sizes[i]))
    try:
        for _ in range(min(usable_cores(), len(items))):
            work.go_on()
        work.finished.wait(remaining_s())
    finally:
        work.stopped = True  # also when this thread was interrupted while it waited
    if work.error is not None:
        raise work.error
    return list(work.results)


class _Work(Generic[T, R]):
    """What one call has to do, and what has been done of it."""

    def __init__(self, function: Callable[[T], R], items: Sequence[T], order: Sequence[int]) -> None:
        self.function, self.items, self.waiting = function, items, deque(order)
        self.results: list[R | None] = [None] * len(items)
        self.error: BaseException | None = None
        self.stopped = False
        self.finished = threading.Event()
        self._undone = len(items)
        self._lock = threading.Lock()
        self._over = out_of_time()

    def go_on(self) -> None:
        """Do the next item when its turn comes, behind what other calls already have in the pool's queue."""
        _shared_pool().submit(self._step)

    def _step(self) -> None:
        try:
            if self.stopped or self._over():
                self.finished.set()
                return
            try:
                i = self.waiting.popleft()
            except IndexError:
                return
            self.results[i] = self.function(self.items[i])
            with self._lock:
                self._undone -= 1
            if self._undone == 0:
                self.finished.set()
            elif self.waiting:
                self.go_on()
        except BaseException as error:
            self.error = self.error or error
            self.stopped = True
            self.finished.set()


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
