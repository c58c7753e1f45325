"""`Policy`: how a service is asked. One ranking's requests under its limits, its deadline, and with what is tried again."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Generic, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_random_exponential

from rerankx.errors import BackendError, BudgetError, DeadlineError, RateLimitError
from rerankx.interface import Usage, remaining_s
from rerankx.network.client import Departure, departure
from rerankx.network.faults import Fault, Quoted, timed_out, unsent
from rerankx.network.limits import Breaker, RateLimit, Refused, Slots, Spend

BACKOFF_S = 0.5
"""The first wait before another try is at most this, the next at most twice that, and so on."""
LONGEST_WAIT_S = 60.0
"""A service that asks to be left alone for longer is not waited for."""

PATIENCE_S = 0.25
"""A time-out speaks of a service's health if it had `timeout_s`, or at least this."""

T = TypeVar("T")


class Policy:
    """What holds for all requests of one backend.

    Args:
        who: The backend, for messages.
        timeout_s: Seconds for one request, to its last byte.
        max_retries: Tries after the first.
        rate: Requests per minute; None = no limit.
        max_concurrency: Requests at a time.
        failure_threshold: Faults in a row that open the circuit; None = never.
        recovery_s: Seconds until an open circuit is tried.
        max_calls: Requests in all; None = no limit.
        max_input_tokens: Tokens read, in all; None = no limit.
        budget_usd: US dollars in all; None = no limit.
    """

    def __init__(
        self,
        who: str,
        *,
        timeout_s: float,
        max_retries: int,
        rate: RateLimit | None,
        max_concurrency: int,
        failure_threshold: int | None,
        recovery_s: float,
        max_calls: int | None,
        max_input_tokens: int | None,
        budget_usd: float | None,
    ) -> None:
        self.who, self.timeout_s, self.max_retries, self.rate = who, timeout_s, max_retries, rate
        self.max_concurrency = max_concurrency
        self.slots = Slots(max_concurrency)
        self.breaker = Breaker(failure_threshold, recovery_s)
        self.spend = Spend(max_calls, budget_usd, max_input_tokens)
        self.typical_s = 0.0
        """About how long an answer takes."""

    def took(self, seconds: float) -> None:
        """Note how long an answer took."""
        self.typical_s = seconds if not self.typical_s else 0.8 * self.typical_s + 0.2 * seconds

    async def call(
        self,
        send: Callable[[], Awaitable[T]],
        *,
        estimate: Usage,
        used: Callable[[T], Usage],
        spent: Callable[[Usage], None] = lambda _: None,
    ) -> tuple[T, Usage]:
        """Return the answer to a request, and what all its tries have used.

        Args:
            send: Sends it, and returns the answer or raises a `Fault`.
            estimate: What it will probably use.
            used: What it has used, as the answer tells.
            spent: Told what all its tries have used, also where there is no answer, or nobody waits for it any more.

        Raises:
            BackendError: No answer; one of its kinds.
        """
        tries = _Tries(self, send, estimate, used)
        retrying = AsyncRetrying(
            retry=retry_if_exception(tries.worth_another),
            wait=tries.wait_s,
            stop=tries.must_stop,
            sleep=asyncio.sleep,
            reraise=True,
        )
        try:
            return await retrying(tries.once), tries.used
        except Fault as found:
            fault = found
        finally:
            spent(tries.used)
        said = "" if fault.said is None else await _words(fault.said)
        raise tries.error(fault, said)  # outside, so that the fault is no context of it


class _Tries(Generic[T]):
    """The tries of one request."""

    def __init__(
        self, policy: Policy, send: Callable[[], Awaitable[T]], estimate: Usage, used: Callable[[T], Usage]
    ) -> None:
        self._policy, self._send, self._estimate, self._used = policy, send, estimate, used
        self._begun = time.monotonic()
        self._timeouts = self._tried = 0
        self._jitter = wait_random_exponential(multiplier=BACKOFF_S, max=LONGEST_WAIT_S)
        self.used = Usage()

    async def once(self) -> T:
        """Return the answer.

        Raises:
            Fault: None came, or nothing was sent.
        """
        policy, at_first = self._policy, remaining_s()
        try:
            policy.breaker.check()  # without waiting for a turn
        except Refused as why:
            raise unsent(BackendError, str(why)) from None
        try:
            async with asyncio.timeout(at_first):
                await policy.slots.take()
        except TimeoutError:
            words = f"max_concurrency={policy.max_concurrency} requests were under way until the deadline"
            raise unsent(DeadlineError, words) from None
        try:
            self._check_time(at_first)
            # With the slot in hand: what waits behind the limit for a slot would not be sent when its time has come.
            start = await self._turn()
            try:
                return await self._sent()
            except Fault as fault:
                if not fault.sent:
                    self._give_back(start)
                raise
        finally:
            policy.slots.give_back()

    def _check_time(self, at_first: float | None) -> None:
        """Raise a `Fault` where the wait for a slot has left too little: under too high a load nobody is answered otherwise."""
        left, typical = remaining_s(), self._policy.typical_s
        if left is not None and at_first is not None and left < at_first / 2 and left < typical / 2:
            raise unsent(DeadlineError, f"the queue has left {left:.3g} s, and an answer takes about {typical:.3g} s")

    async def _turn(self) -> float | None:
        """Wait until the rate allows a request, and return when it was."""
        rate, left = self._policy.rate, remaining_s()
        if rate is None:
            return None
        start = rate.reserve(within_s=math.inf if left is None else left)
        if start is None:
            raise unsent(RateLimitError, "requests_per_minute allows no request before the deadline")
        try:
            await asyncio.sleep(start - time.monotonic())
        except BaseException:
            rate.give_back(start)
            raise
        return start

    def _give_back(self, start: float | None) -> None:
        if self._policy.rate is not None and start is not None:
            self._policy.rate.give_back(start)

    async def _sent(self) -> T:
        policy, left = self._policy, remaining_s()
        if left is not None and left <= 0:
            raise unsent(DeadlineError, "the deadline had passed")
        try:
            token = policy.breaker.enter()
        except Refused as why:
            raise unsent(BackendError, str(why)) from None
        try:
            policy.spend.reserve(self._estimate)
        except Refused as why:
            policy.breaker.left(token)
            raise unsent(BudgetError, str(why)) from None
        limit = policy.timeout_s if left is None else min(policy.timeout_s, left)
        used = replace(self._estimate, estimated=True)  # as long as nobody knows
        going, begun = Departure(), time.monotonic()
        departure.set(going)
        self._tried += 1
        try:
            async with asyncio.timeout(limit):
                answer = await self._send()
            used = self._used(answer)
            policy.breaker.succeeded(token)
            policy.took(time.monotonic() - begun)
            return answer
        except (Fault, TimeoutError) as error:
            # Who leaves a service no time learns nothing of its health.
            patient = limit >= min(policy.timeout_s, PATIENCE_S)
            fault = error if isinstance(error, Fault) else timed_out(limit, sick=patient)
            fault.sent = fault.sent and (going.left or not going.known)
            used = Usage() if not fault.sent else used if fault.billed else Usage(calls=1)
            self._timeouts += fault.timed_out
            breaker = policy.breaker
            (breaker.failed if fault.sick else breaker.succeeded if fault.answered else breaker.left)(token)
            raise fault from None
        except BaseException:
            policy.breaker.left(token)
            raise
        finally:
            policy.spend.settle(self._estimate, used)
            self.used += used

    def worth_another(self, error: BaseException) -> bool:
        """Return whether asking again may help."""
        if not isinstance(error, Fault):
            return False
        return error.again and not (error.timed_out and self._timeouts > 1)

    def wait_s(self, state: RetryCallState) -> float:
        """Return how long to wait: a random part of an interval that doubles, after what the service asks for."""
        return (_fault(state).after_s or 0.0) + self._jitter(state)

    def must_stop(self, state: RetryCallState) -> bool:
        """Return whether there is no other try: there were enough, or it would be too late."""
        left, asked = remaining_s(), _fault(state).after_s
        too_late = left is not None and state.upcoming_sleep >= left
        return state.attempt_number > self._policy.max_retries or too_late or (asked or 0.0) > LONGEST_WAIT_S

    def error(self, fault: Fault, said: str) -> BackendError:
        """Return what the caller is told."""
        words = f"{self._policy.who}: {fault.words}{f' ({said})' if said else ''}"
        if fault.after_s:
            words += f"; Retry-After: {fault.after_s:.0f} s"
        if self._tried > 1:
            words += f"; tried {self._tried} times in {time.monotonic() - self._begun:.1f} s"
        error = fault.error(words)
        error.usage = self.used
        return error


async def _words(said: Callable[[], str]) -> str:
    if isinstance(said, Quoted) and said.slow:
        return await asyncio.to_thread(said)
    return said()  # without a pause, in which other parts of the ranking would be sent


def _fault(state: RetryCallState) -> Fault:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, Fault)
    return error
