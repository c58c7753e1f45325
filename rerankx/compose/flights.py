"""How a cache waits: for its store, and for others who are asking about the same pairs.

One query's way is a generator of steps; it is run in a thread or in an event loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Mapping, Sequence, Set
from concurrent.futures import Future, wait
from contextvars import copy_context
from typing import Any, NamedTuple, Protocol, TypeVar

from rerankx.compose.stores import told_of_forks
from rerankx.interface import Backend, Scores, remaining_s

T = TypeVar("T")

# How long a store may take before the query goes on without it.
_PATIENCE_S, _LEAST_PATIENCE_S = 1.0, 0.05
# How long to wait for another's call: one that hangs, or cannot go on before its waiter does (two event loops, each held up by a
# blocking call that waits for a task of the other), must not hang all who ask for the same. A thread waits less for a task, which
# may need the place in a pool that the thread waits in.
_WAIT_S, _WAIT_FOR_A_TASK_S = 30.0, 1.0


class Step(Protocol):
    """One thing that has to be waited for."""

    def run(self) -> object:
        """Return what comes of it, in this thread."""

    async def arun(self) -> object:
        """Return what comes of it, without blocking the event loop."""


Steps = Generator[Step, Any, T]


def run_steps(steps: Steps[T]) -> T:
    """Return what the generator returns, its steps run in this thread."""
    try:
        step = next(steps)
        while True:
            try:
                result = step.run()
            except BaseException as error:
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        returned: T = end.value
        return returned


async def arun_steps(steps: Steps[T]) -> T:
    """Return what the generator returns, its steps run without blocking the event loop."""
    try:
        step = next(steps)
        while True:
            try:
                result = await step.arun()
            except BaseException as error:  # to be cancelled, too: others may be waiting for what was being scored
                step = steps.throw(error)
            else:
                step = steps.send(result)
    except StopIteration as end:
        returned: T = end.value
        return returned


class Work(NamedTuple):
    """Something that may take a while: texts are hashed, a model's configuration is looked up."""

    work: Callable[[], object]

    def run(self) -> object:
        """Return what comes of it, in this thread."""
        return self.work()

    async def arun(self) -> object:
        """Return what comes of it, without blocking the event loop."""
        return await asyncio.to_thread(self.work)


class Question(NamedTuple):
    """The backend is asked."""

    backend: Backend
    query: str
    texts: Sequence[str]

    def run(self) -> Scores:
        """Return what comes of it, in this thread."""
        return self.backend.score(self.query, self.texts)

    async def arun(self) -> Scores:
        """Return what comes of it, without blocking the event loop."""
        return await self.backend.ascore(self.query, self.texts)


class Patience(NamedTuple):
    """A store is waited for, but not for long; whether it is done."""

    future: Future[Any]

    def run(self) -> bool:
        """Return what comes of it, in this thread."""
        wait([self.future], timeout=self._seconds())
        return self.future.done()

    async def arun(self) -> bool:
        """Return what comes of it, without blocking the event loop."""
        await _await({self.future}, self._seconds())
        return self.future.done()

    def _seconds(self) -> float:
        left = remaining_s()
        return _PATIENCE_S if left is None else min(_PATIENCE_S, max(left / 4, _LEAST_PATIENCE_S))


class Flight:
    """One call's asking about pairs that nobody else is asking about: others who want them wait for what is kept of them."""

    def __init__(self, *, in_task: bool) -> None:
        self.future: Future[Mapping[bytes, bytes]] = Future()
        self.future.set_running_or_notify_cancel()  # a task that waits may be cancelled, and must not cancel it for all
        self.thread, self.in_task = threading.get_ident(), in_task
        self.keys: Sequence[bytes] = ()

    def land(self, values: Mapping[bytes, bytes]) -> None:
        """Tell those who wait; the first time counts."""
        if not self.future.done():
            self.future.set_result(values)


class Landing(NamedTuple):
    """Others are waited for; what is kept of theirs, which may be nothing."""

    flights: Set[Flight]

    def run(self) -> Mapping[bytes, bytes]:
        """Return what comes of it, in this thread."""
        # Not for one of this very thread: that is a task of the event loop which this call holds up.
        others = {flight for flight in self.flights if flight.thread != threading.get_ident()}
        longest = _WAIT_FOR_A_TASK_S if any(flight.in_task for flight in others) else _WAIT_S
        wait({flight.future for flight in others}, timeout=self._seconds(longest))
        return self._values()

    async def arun(self) -> Mapping[bytes, bytes]:
        """Return what comes of it, without blocking the event loop."""
        await _await({flight.future for flight in self.flights}, self._seconds(_WAIT_S))
        return self._values()

    def _seconds(self, longest: float) -> float:
        left = remaining_s()
        return longest if left is None else min(longest, max(left / 2, 0.0))  # the other half is for asking himself

    def _values(self) -> Mapping[bytes, bytes]:
        return {key: value for one in self.flights if one.future.done() for key, value in one.future.result().items()}


class UnderWay:
    """What is going on in this process: flights, and a store's method that takes too long."""

    def __init__(self) -> None:
        self.landed = 0
        """How many have landed: who sees it unchanged has missed nothing."""
        self.late: Future[Any] | None = None
        self._lock = threading.Lock()
        self._flights: dict[bytes, Flight] = {}
        told_of_forks(self)

    def claim(self, keys: Sequence[bytes], mine: Flight) -> dict[bytes, Flight]:
        """Return the flights of those keys that others are asking about; the rest goes with `mine`."""
        with self._lock:
            theirs = {key: self._flights[key] for key in keys if key in self._flights}
            mine.keys = [key for key in keys if key not in theirs]
            self._flights |= dict.fromkeys(mine.keys, mine)
        return theirs

    def release(self, mine: Flight) -> None:
        """Let go of what goes with `mine`; if it has not landed, nothing will come of it."""
        with self._lock:
            self.landed += 1
            for key in mine.keys:
                self._flights.pop(key, None)
            mine.keys = []
        mine.land({})

    def before_fork(self) -> None:
        """Do nothing: the child takes over nothing."""

    def after_fork(self, *, in_child: bool) -> None:
        """Begin anew in the child, where the threads of all this do not exist."""
        if in_child:
            self._lock, self._flights, self.late = threading.Lock(), {}, None


def started(work: Callable[[], T]) -> Future[T]:
    """Return what comes of the work, done in a thread of its own: a pool's may all be waiting, and would hold up the exit."""
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()
    context = copy_context()

    def run() -> None:
        try:
            future.set_result(context.run(work))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="rerankx-cache", daemon=True).start()
    return future


async def _await(futures: Set[Future[Any]], seconds: float) -> None:
    """Wait until all are done, or for so long."""
    pending = [asyncio.wrap_future(future) for future in futures if not future.done()]
    if not pending:
        return
    try:
        await asyncio.wait(pending, timeout=seconds)
    finally:
        for one in pending:
            # One that fails says so to whoever asks the future itself.
            if not one.cancel() and not one.cancelled():
                one.exception()
