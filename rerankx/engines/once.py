"""A thing that is made on first use, once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar, cast
from weakref import WeakSet

T = TypeVar("T")


class _Renewed(Protocol):
    def renew_lock(self) -> None: ...


_all: WeakSet[_Renewed] = WeakSet()


def renew_after_fork(owner: _Renewed) -> None:
    """Call `owner.renew_lock()` in every child: a thread of the parent's may have held its lock, and does not exist there."""
    _all.add(owner)


class Once(Generic[T]):
    """Makes a value when it is first asked for; threads that ask meanwhile wait and get the same one.

    What `make` raises is raised to who asked; the next one who asks tries again.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made = False
        self._value: T | None = None
        self._lock = threading.Lock()
        renew_after_fork(self)

    def get(self) -> T:
        """Return the value."""
        with self._lock:
            if not self._made:
                self._value = self._make()
                self._made = True
            return cast("T", self._value)

    def forget(self) -> None:
        """Let go of the value; whoever asks next makes it anew."""
        with self._lock:
            self._made, self._value = False, None

    def renew_lock(self) -> None:
        """Take a new lock, after a fork."""
        self._lock = threading.Lock()


def _after_fork() -> None:
    for one in list(_all):
        one.renew_lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
