"""What bounds the requests to a service: how many at a time, per minute, after faults, and for how much money.

Each is one for all threads and event loops that use a backend, and none of them blocks: who has to wait is told how long, or
awaits.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections import deque
from concurrent.futures import Future
from typing import Literal

from rerankx.engines.once import renew_after_fork
from rerankx.interface import Usage

Circuit = Literal["closed", "open", "half-open"]

_WINDOW_S = 60.0
_NOTHING_USD = 1e-9  # ten times 0.1 is not 1


class _Locked:
    """Has a lock, and a new one after a fork."""

    def __init__(self) -> None:
        self.renew_lock()
        renew_after_fork(self)

    def renew_lock(self) -> None:
        """Take a new lock, after a fork."""
        self._lock = threading.RLock()  # who is collected while it is held may give something back


class Slots(_Locked):
    """At most n at a time, over all threads and event loops; first come, first served."""

    def __init__(self, n: int) -> None:
        self._n = n
        super().__init__()

    def renew_lock(self) -> None:
        """Begin anew, after a fork: what is under way is under way in the parent."""
        super().renew_lock()
        self._free = self._n
        self._waiting: deque[tuple[Future[None], asyncio.AbstractEventLoop]] = deque()

    async def take(self) -> None:
        """Wait for one; who has it gives it back."""
        turn: Future[None] = Future()
        with self._lock:
            if self._free:
                self._free -= 1
                return
            self._waiting.append((turn, asyncio.get_running_loop()))
        try:
            await asyncio.wrap_future(turn)
        except BaseException:  # also GeneratorExit, where a loop was closed with somebody waiting
            if not turn.cancel() and not turn.cancelled():  # the turn had come all the same
                self.give_back()
            raise

    def give_back(self) -> None:
        """Leave it to who waits longest, if anybody does."""
        while True:
            with self._lock:
                if not self._waiting:
                    self._free += 1
                    return
                turn, loop = self._waiting.popleft()
            if not loop.is_closed() and turn.set_running_or_notify_cancel():
                turn.set_result(None)
                return


class RateLimit(_Locked):
    """At most n in any 60 seconds. Who asks is given a time, the earliest that is free."""

    def __init__(self, per_minute: int) -> None:
        super().__init__()
        self._n = per_minute
        self._starts: deque[float] = deque()

    def reserve(self, within_s: float) -> float | None:
        """Return when to start, by `time.monotonic`; None, and nothing is reserved, if that is not within `within_s`."""
        with self._lock:
            now = time.monotonic()
            while self._starts and self._starts[0] <= now - _WINDOW_S:
                self._starts.popleft()
            start = now
            if len(self._starts) >= self._n:
                start = max(now, self._starts[-self._n] + _WINDOW_S)
            if self._starts:
                start = max(start, self._starts[-1])
            if start - now > within_s:
                return None
            self._starts.append(start)
            return start

    @property
    def idle(self) -> bool:
        """Return whether nothing of the last minute counts any more."""
        return not self._starts or self._starts[-1] <= time.monotonic() - _WINDOW_S

    def give_back(self, start: float) -> None:
        """Free a time that was reserved and is not used."""
        with self._lock:
            if start in self._starts:
                self._starts.remove(start)


class _RateLimits(_Locked):
    """All limits of the process."""

    def __init__(self) -> None:
        super().__init__()
        self._limits: dict[tuple[str, str | None, int], RateLimit] = {}

    def get(self, address: str, account: str | None, per_minute: int) -> RateLimit:
        with self._lock:
            if len(self._limits) > 1000:  # not by whether somebody has one: the service remembers the minute
                self._limits = {key: limit for key, limit in self._limits.items() if not limit.idle}
            return self._limits.setdefault((address, account, per_minute), RateLimit(per_minute))


_rate_limits = _RateLimits()


def rate_limit_of(address: str, account: str | None, per_minute: int) -> RateLimit:
    """Return the limit for that service, account and rate: one for all who ask, since the service counts them together."""
    return _rate_limits.get(address, account, per_minute)


class Refused(Exception):
    """Why a request is not sent."""


class Breaker(_Locked):
    """A circuit breaker: after so many faults in a row nothing is sent for a while; then one request at a time."""

    def __init__(self, threshold: int | None, recovery_s: float) -> None:
        super().__init__()
        self._threshold = math.inf if threshold is None else threshold
        self._recovery_s = recovery_s
        self._faults = 0
        self._opened: float | None = None

    def renew_lock(self) -> None:
        """Take a new lock, after a fork; a probe is the parent's."""
        super().renew_lock()
        self._probe: object | None = None

    @property
    def state(self) -> Circuit:
        """Return "closed", "open", or "half-open" where the next request may try whether the service is back."""
        opened = self._opened
        if opened is None:
            return "closed"
        return "open" if time.monotonic() < opened + self._recovery_s else "half-open"

    def check(self) -> None:
        """Raise `Refused` if nothing is sent now."""
        with self._lock:
            self._check()

    def enter(self) -> object:
        """Return a token for one request, to be told with how it went.

        Raises:
            Refused: Nothing is sent now.
        """
        token = object()
        with self._lock:
            self._check()
            if self._opened is not None:
                self._probe = token
        return token

    def succeeded(self, token: object) -> None:
        """Note that the service answered; an answer to what was sent before the circuit opened does not close it."""
        with self._lock:
            if self._opened is None or token is self._probe:
                self._faults, self._opened, self._probe = 0, None, None

    def failed(self, token: object) -> None:
        """Note a fault of the service."""
        with self._lock:
            self._faults += 1
            if token is self._probe or (self._opened is None and self._faults >= self._threshold):
                self._opened, self._probe = time.monotonic(), None

    def left(self, token: object) -> None:
        """Note that nobody waited for the outcome."""
        with self._lock:
            if token is self._probe:
                self._probe = None

    def _check(self) -> None:
        if self._opened is None:
            return
        wait = self._opened + self._recovery_s - time.monotonic()
        if wait > 0 or self._probe is not None:
            when = f"the next try is in {wait:.0f} s" if wait > 0 else "one request is trying whether it is back"
            raise Refused(f"the circuit is open after {self._faults} faults in a row ({when})")


class Spend(_Locked):
    """The running total, and what it must not exceed."""

    def __init__(self, max_calls: int | None, budget_usd: float | None, max_input_tokens: int | None = None) -> None:
        super().__init__()
        self._max_calls, self._budget_usd, self._max_input_tokens = max_calls, budget_usd, max_input_tokens
        self._total = Usage()

    def renew_lock(self) -> None:
        """Take a new lock, after a fork; what is under way is the parent's."""
        super().renew_lock()
        self._reserved: list[Usage] = []

    @property
    def total(self) -> Usage:
        """Return what was used so far; of requests that are under way, the estimate."""
        with self._lock:
            return sum(self._reserved, self._total)

    def reserve(self, estimate: Usage) -> None:
        """Count one request.

        Raises:
            Refused: It would be one too many, or might exceed the budget.
        """
        with self._lock:
            total = sum(self._reserved, self._total)
            if self._max_calls is not None and total.calls >= self._max_calls:
                raise Refused(f"max_calls={self._max_calls} are used up")
            read, more = total.input_tokens or 0, estimate.input_tokens or 0
            if self._max_input_tokens is not None and read + more > self._max_input_tokens:
                raise Refused(
                    f"max_input_tokens={self._max_input_tokens} are used up: {read} were read, and this request has about {more}"
                )
            spent, cost = total.cost_usd or 0.0, estimate.cost_usd or 0.0
            if self._budget_usd is not None and spent + cost > self._budget_usd + _NOTHING_USD:
                raise Refused(
                    f"budget_usd={self._budget_usd:g} is used up: {spent:.6f} is spent, and this request would cost about"
                    f" {cost:.6f}"
                )
            self._reserved.append(estimate)

    def settle(self, estimate: Usage, used: Usage) -> None:
        """Put what was used in the place of what was reserved."""
        with self._lock:
            self._reserved.remove(estimate)
            self._total += used
