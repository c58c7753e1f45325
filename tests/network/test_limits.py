"""What bounds the requests to a service: slots, a rate, a circuit breaker and an account."""

import asyncio
import math
import os
import random
import sys
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx.interface import Usage
from rerankx.network import limits
from rerankx.network.limits import Breaker, RateLimit, Refused, Slots, Spend, rate_limit_of


class Clock:
    """Time that passes when told to, in whole seconds, so that nothing is rounded."""

    def __init__(self):
        self.now = 1000

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(limits, "time", clock)
    return clock


async def rest():
    """Let all others do what they can do now."""
    for _ in range(5):
        await asyncio.sleep(0)


def in_a_child(work):
    """Return whether `work()` is true in a fork of this process."""
    child = os.fork()
    if not child:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


forks = pytest.mark.skipif(
    not hasattr(os, "fork") or sys.version_info >= (3, 12), reason="a fork beside threads is a warning"
)


class TestSlots:
    def test_are_as_many_as_they_are(self):
        async def main():
            slots, tasks = Slots(3), []
            tasks = [asyncio.ensure_future(slots.take()) for _ in range(5)]
            await rest()
            done = [task.done() for task in tasks]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            return done

        assert asyncio.run(main()) == [True, True, True, False, False]

    def test_are_given_in_the_order_in_which_they_were_asked_for(self):
        async def main():
            slots, order = Slots(1), []

            async def work(i):
                await slots.take()
                order.append(i)
                await asyncio.sleep(0)
                slots.give_back()

            await asyncio.gather(*(work(i) for i in range(20)))
            return order, slots._free

        assert asyncio.run(main()) == (list(range(20)), 1)

    def test_who_comes_later_does_not_overtake(self):
        async def main():
            slots, order = Slots(1), []
            await slots.take()

            async def work(i):
                await slots.take()
                order.append(i)
                slots.give_back()

            first = asyncio.ensure_future(work("first"))
            await rest()
            slots.give_back()  # it is first's, who has not seen it yet
            await asyncio.gather(first, work("second"))
            return order

        assert asyncio.run(main()) == ["first", "second"]

    def test_who_gives_up_waiting_takes_none(self):
        async def main():
            slots = Slots(1)
            await slots.take()
            waiting = [asyncio.ensure_future(slots.take()) for _ in range(3)]
            await rest()
            waiting[0].cancel()
            waiting[1].cancel()
            await rest()
            slots.give_back()
            await asyncio.wait_for(waiting[2], 5)
            slots.give_back()
            return slots._free, len(slots._waiting)

        assert asyncio.run(main()) == (1, 0)

    def test_slot_of_who_is_cancelled_as_it_comes_goes_to_the_next(self):
        async def main():
            slots = Slots(1)
            await slots.take()
            waiting = [asyncio.ensure_future(slots.take()) for _ in range(2)]
            await rest()
            slots.give_back()
            waiting[0].cancel()  # in the same turn of the loop
            await asyncio.wait_for(waiting[1], 5)
            slots.give_back()
            return waiting[0].cancelled(), slots._free

        assert asyncio.run(main()) == (True, 1)

    def test_who_waits_in_vain_for_a_time_takes_none(self):
        async def main():
            slots = Slots(1)
            await slots.take()
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.001):
                        await slots.take()
            slots.give_back()
            await asyncio.wait_for(slots.take(), 5)
            return slots._free

        assert asyncio.run(main()) == 0

    def test_are_shared_by_event_loops(self):
        slots, order = Slots(1), []
        asyncio.run(slots.take())
        begun = threading.Event()

        async def other():
            begun.set()
            await slots.take()
            order.append("taken")

        thread = threading.Thread(target=lambda: asyncio.run(other()))
        thread.start()
        assert begun.wait(30)
        order.append("given back")
        slots.give_back()
        thread.join(30)
        assert order == ["given back", "taken"]

    def test_are_left_by_a_loop_that_ends_while_it_waits(self):
        slots = Slots(1)
        asyncio.run(slots.take())

        async def waits():
            asyncio.ensure_future(slots.take())  # noqa: RUF006
            await rest()

        asyncio.run(waits())
        slots.give_back()
        asyncio.run(asyncio.wait_for(slots.take(), 5))

    @settings(max_examples=60, deadline=None)
    @given(st.integers(1, 4), st.integers(1, 25), st.randoms(use_true_random=False))
    def test_are_all_free_in_the_end_whoever_is_cancelled_when(self, n, tasks, rnd):
        async def main():
            slots, held, most = Slots(n), 0, 0

            async def work(steps):
                nonlocal held, most
                await slots.take()
                held += 1
                most = max(most, held)
                try:
                    for _ in range(steps):
                        await asyncio.sleep(0)
                finally:
                    held -= 1
                    slots.give_back()

            running = [asyncio.ensure_future(work(rnd.randrange(4))) for _ in range(tasks)]
            while any(not task.done() for task in running):
                if rnd.random() < 0.5:
                    rnd.choice(running).cancel()
                await asyncio.sleep(0)
            return slots._free, len(slots._waiting), most

        free, waiting, most = asyncio.run(main())
        assert (free, waiting) == (n, 0)
        assert most <= n

    def test_many_threads_loops_and_cancellations(self):
        slots, lock, held, most, errors = Slots(3), threading.Lock(), 0, 0, []

        async def work():
            nonlocal held, most
            await slots.take()
            with lock:
                held += 1
                most = max(most, held)
            try:
                await asyncio.sleep(0)
            finally:
                with lock:
                    held -= 1
                slots.give_back()

        async def main(seed):
            rnd = random.Random(seed)
            for _ in range(20):
                tasks = [asyncio.ensure_future(work()) for _ in range(10)]
                for _ in range(rnd.randrange(6)):
                    await asyncio.sleep(0)
                for task in rnd.sample(tasks, 4):
                    task.cancel()
                await asyncio.wait(tasks, timeout=30)
                errors.extend(task for task in tasks if not task.done() or (not task.cancelled() and task.exception()))

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        try:
            threads = [threading.Thread(target=lambda seed=seed: asyncio.run(main(seed))) for seed in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            sys.setswitchinterval(before)
        assert errors == []
        assert (slots._free, len(slots._waiting), held) == (3, 0, 0)
        assert most <= 3

    @forks
    def test_are_all_free_in_a_child(self):
        slots = Slots(1)
        asyncio.run(slots.take())
        assert in_a_child(lambda: slots._free == 1)


class TestRateLimit:
    def test_first_ones_start_at_once(self, clock):
        rate = RateLimit(3)
        assert [rate.reserve(math.inf) for _ in range(3)] == [1000] * 3

    def test_others_start_when_the_window_has_passed(self, clock):
        rate = RateLimit(2)
        assert [rate.reserve(math.inf) for _ in range(5)] == [1000, 1000, 1060, 1060, 1120]

    def test_window_slides(self, clock):
        rate, starts = RateLimit(2), []
        for now in (1000, 1050, 1060, 1070):
            clock.now = now
            starts.append(rate.reserve(math.inf))
        assert starts == [1000, 1050, 1060, 1110]

    def test_nothing_is_reserved_that_would_be_too_late(self, clock):
        rate = RateLimit(1)
        rate.reserve(0)
        assert rate.reserve(59) is None
        assert rate.reserve(60) == 1060

    def test_what_is_given_back_can_be_had(self, clock):
        rate = RateLimit(1)
        rate.reserve(0)
        later = rate.reserve(math.inf)
        assert later == 1060
        rate.give_back(later)
        assert rate.reserve(math.inf) == 1060

    def test_what_was_not_reserved_can_be_given_back(self, clock):
        rate = RateLimit(1)
        rate.give_back(5.0)
        assert rate.reserve(0) == 1000

    @settings(max_examples=300, deadline=None)
    @given(
        st.integers(1, 5),
        st.lists(
            st.one_of(
                st.tuples(st.just("pass"), st.integers(0, 90)),
                st.tuples(st.just("reserve"), st.sampled_from([0, 30, 100, math.inf])),
                st.tuples(st.just("give back"), st.integers(0, 30)),
            ),
            max_size=60,
        ),
    )
    def test_no_window_has_more_and_nobody_overtakes(self, n, steps):
        clock, starts = Clock(), []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "time", clock)
            rate = RateLimit(n)
            for what, amount in steps:
                if what == "pass":
                    clock.now += amount
                elif what == "reserve":
                    start = rate.reserve(amount)
                    if start is not None:
                        assert clock.now <= start <= clock.now + amount
                        assert start >= max(starts, default=start)
                        starts.append(start)
                elif starts and (start := starts[amount % len(starts)]) >= clock.now:  # who waits may be cancelled
                    rate.give_back(start)
                    starts.remove(start)
            for first, last in zip(starts, starts[n:], strict=False):
                assert last - first >= 60

    @settings(deadline=None)
    @given(st.integers(1, 5), st.lists(st.floats(0, 70), min_size=10, max_size=30))
    def test_no_window_has_more_at_any_times(self, n, waits):
        clock, starts = Clock(), []
        clock.now = 12345.678
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "time", clock)
            rate = RateLimit(n)
            for wait in waits:
                clock.now += wait
                starts.append(rate.reserve(math.inf))
        for first, last in zip(starts, starts[n:], strict=False):
            assert last - first > 60 - 1e-9

    def test_many_threads(self, clock):
        rate, starts = RateLimit(7), []
        threads = [
            threading.Thread(target=lambda: starts.extend(rate.reserve(math.inf) for _ in range(50))) for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert max(Counter(starts).values()) == 7
        assert sorted(Counter(starts)) == list(range(1000, 1000 + 60 * math.ceil(400 / 7), 60))

    def test_is_one_for_the_same_service_account_and_rate(self):
        one = rate_limit_of("http://a", "me", 5)
        assert rate_limit_of("http://a", "me", 5) is one
        for other in (("http://b", "me", 5), ("http://a", "you", 5), ("http://a", None, 5), ("http://a", "me", 6)):
            assert rate_limit_of(*other) is not one

    def test_of_nobody_is_kept_as_long_as_its_minute_lasts(self, clock, monkeypatch):
        """A service remembers who asked, whether or not the one who asked is still there."""
        every = limits._RateLimits()
        monkeypatch.setattr(limits, "_rate_limits", every)
        rate_limit_of("http://used", "me", 1).reserve(0)
        rate_limit_of("http://unused", "me", 1)
        for i in range(1100):
            rate_limit_of(f"http://{i}", "me", 1)
        assert rate_limit_of("http://used", "me", 1).reserve(0) is None
        assert ("http://unused", "me", 1) not in every._limits

    def test_is_forgotten_when_its_minute_is_over(self, clock, monkeypatch):
        every = limits._RateLimits()
        monkeypatch.setattr(limits, "_rate_limits", every)
        for i in range(1001):
            rate_limit_of(f"http://{i}", "me", 1).reserve(0)
        rate_limit_of("http://new", "me", 1)
        assert len(every._limits) == 1002
        clock.now += 60
        rate_limit_of("http://newer", "me", 1)
        assert set(every._limits) == {("http://newer", "me", 1)}

    def test_that_has_passed_its_minute_is_idle(self, clock):
        rate = RateLimit(1)
        assert rate.idle
        rate.reserve(0)
        assert not rate.idle
        clock.now += 60
        assert rate.idle


def refusal(ask, *args):
    """Return why something is refused; None if it is not."""
    try:
        ask(*args)
    except Refused as refused:
        return str(refused)
    return None


def opened(threshold=3, recovery_s=30):
    breaker = Breaker(threshold, recovery_s)
    for _ in range(threshold):
        breaker.failed(breaker.enter())
    return breaker


class TestBreaker:
    def test_is_closed_until_so_many_faults_in_a_row(self, clock):
        breaker, states = Breaker(3, 30), []
        for _ in range(3):
            states.append(breaker.state)
            breaker.failed(breaker.enter())
        assert states == ["closed"] * 3
        assert breaker.state == "open"

    def test_a_success_begins_the_row_anew(self, clock):
        breaker = Breaker(2, 30)
        for outcome in (breaker.failed, breaker.succeeded, breaker.failed, breaker.succeeded):
            outcome(breaker.enter())
        assert breaker.state == "closed"

    def test_what_nobody_waited_for_counts_as_neither(self, clock):
        breaker = Breaker(2, 30)
        for outcome in (breaker.failed, breaker.left, breaker.failed):
            outcome(breaker.enter())
        assert breaker.state == "open"

    def test_open_one_says_why_and_until_when(self, clock):
        breaker = opened()
        clock.now += 10
        expected = "the circuit is open after 3 faults in a row (the next try is in 20 s)"
        assert refusal(breaker.check) == refusal(breaker.enter) == expected

    def test_asking_changes_nothing(self, clock):
        breaker = opened()
        clock.now += 30
        assert refusal(breaker.check) is refusal(breaker.check) is None
        assert breaker.state == "half-open"
        assert refusal(breaker.enter) is None

    def test_one_request_tries_when_the_time_has_come(self, clock):
        breaker = opened()
        clock.now += 29
        assert (breaker.state, refusal(breaker.enter) is None) == ("open", False)
        clock.now += 1
        assert (breaker.state, refusal(breaker.enter)) == ("half-open", None)
        assert "one request is trying" in refusal(breaker.enter)
        assert "one request is trying" in refusal(breaker.check)

    def test_closes_when_that_one_succeeds(self, clock):
        breaker = opened()
        clock.now += 30
        breaker.succeeded(breaker.enter())
        assert (breaker.state, refusal(breaker.enter), refusal(breaker.enter)) == ("closed", None, None)

    def test_begins_to_count_anew_when_closed(self, clock):
        breaker = opened()
        clock.now += 30
        breaker.succeeded(breaker.enter())
        breaker.failed(breaker.enter())
        assert breaker.state == "closed"

    def test_opens_anew_when_that_one_fails(self, clock):
        breaker = opened()
        clock.now += 40
        token = breaker.enter()
        clock.now += 5
        breaker.failed(token)
        assert breaker.state == "open"
        clock.now += 29
        assert breaker.state == "open"
        clock.now += 1
        assert refusal(breaker.enter) is None

    def test_another_tries_when_that_one_is_cancelled(self, clock):
        breaker = opened()
        clock.now += 30
        breaker.left(breaker.enter())
        assert breaker.state == "half-open"
        assert refusal(breaker.enter) is None
        assert refusal(breaker.enter) is not None

    @pytest.fixture
    def late(self, clock):
        """An open breaker, and the token of a request of before that is still under way."""
        breaker = Breaker(2, 30)
        tokens = [breaker.enter() for _ in range(3)]
        breaker.failed(tokens[0])
        breaker.failed(tokens[1])
        return breaker, tokens[2]

    def test_late_fault_does_not_put_off_the_next_try(self, clock, late):
        breaker, token = late
        clock.now += 20
        breaker.failed(token)
        clock.now += 10
        assert breaker.state == "half-open"

    def test_late_success_does_not_close_it(self, clock, late):
        breaker, token = late
        breaker.succeeded(token)
        assert breaker.state == "open"

    @pytest.mark.parametrize("outcome", [Breaker.failed, Breaker.succeeded, Breaker.left], ids=lambda f: f.__name__)
    def test_late_outcome_does_not_decide_for_the_one_that_tries(self, clock, late, outcome):
        breaker, token = late
        clock.now += 30
        trying = breaker.enter()
        outcome(breaker, token)
        assert breaker.state == "half-open"
        assert "one request is trying" in refusal(breaker.enter)
        breaker.succeeded(trying)
        assert breaker.state == "closed"

    def test_threshold_of_none_never_opens(self, clock):
        breaker = Breaker(None, 30)
        for _ in range(1000):
            breaker.failed(breaker.enter())
        assert breaker.state == "closed"

    def test_many_threads_let_one_try(self, clock):
        breaker, refusals = opened(), []
        clock.now += 30
        threads = [threading.Thread(target=lambda: refusals.append(refusal(breaker.enter))) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert refusals.count(None) == 1

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.tuples(st.sampled_from(["enter", "failed", "succeeded", "left", "wait"]), st.integers(0, 9)), max_size=60
        )
    )
    def test_lets_somebody_through_within_the_time_whatever_happens(self, steps):
        clock = Clock()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(limits, "time", clock)
            breaker, under_way = Breaker(2, 30), []
            for step, which in steps:
                if step == "wait":
                    clock.now += 10
                elif step == "enter":
                    if refusal(breaker.check) is None:
                        under_way.append(breaker.enter())
                elif under_way:
                    getattr(breaker, step)(under_way.pop(which % len(under_way)))
            for token in under_way:
                breaker.left(token)
            clock.now += 30
            assert refusal(breaker.enter) is None

    @forks
    def test_somebody_may_try_in_a_child(self, clock):
        breaker = opened()
        clock.now += 30
        breaker.enter()
        assert in_a_child(lambda: refusal(breaker.enter) is None)


CALL = Usage(calls=1, cost_usd=0.25)


class TestSpend:
    def test_counts_what_is_under_way_as_estimated(self):
        spend = Spend(None, None)
        spend.reserve(CALL)
        assert spend.total == CALL

    def test_counts_what_was_used_in_its_place(self):
        spend = Spend(None, None)
        spend.reserve(CALL)
        spend.settle(CALL, Usage(calls=1, cost_usd=0.5))
        assert spend.total == Usage(calls=1, cost_usd=0.5)

    def test_equal_estimates_are_settled_one_by_one(self):
        spend = Spend(None, None)
        spend.reserve(CALL)
        spend.reserve(Usage(calls=1, cost_usd=0.25))
        spend.settle(CALL, Usage(calls=1, cost_usd=1.0))
        assert spend.total == Usage(calls=2, cost_usd=1.25)

    def test_calls_beyond_the_number_are_refused(self):
        spend = Spend(2, None)
        assert [refusal(spend.reserve, CALL) is None for _ in range(3)] == [True, True, False]
        assert refusal(spend.reserve, CALL) == "max_calls=2 are used up"
        assert spend.total.calls == 2

    def test_what_would_go_beyond_the_budget_is_refused(self):
        spend = Spend(None, 0.6)
        assert [refusal(spend.reserve, CALL) is None for _ in range(3)] == [True, True, False]
        assert refusal(spend.reserve, CALL).startswith(
            "budget_usd=0.6 is used up: 0.500000 is spent, and this request would cost about 0.25"
        )

    def test_budget_may_be_spent_to_the_last(self):
        spend = Spend(None, 0.5)
        assert [refusal(spend.reserve, CALL) is None for _ in range(3)] == [True, True, False]

    def test_budget_may_be_spent_to_the_last_in_tenths(self):
        spend = Spend(None, 0.3)
        tenth = Usage(calls=1, cost_usd=0.1)
        assert [refusal(spend.reserve, tenth) is None for _ in range(4)] == [True, True, True, False]

    def test_what_cost_less_than_estimated_leaves_more(self):
        spend = Spend(None, 0.5)
        spend.reserve(CALL)
        spend.reserve(CALL)
        spend.settle(CALL, Usage(calls=1))
        assert refusal(spend.reserve, CALL) is None

    def test_what_costs_nothing_fits_into_no_budget(self):
        spend = Spend(None, 0.0)
        assert refusal(spend.reserve, Usage(calls=1)) is None
        assert refusal(spend.reserve, CALL) is not None

    def test_no_calls_refuse_the_first(self):
        assert refusal(Spend(0, None).reserve, CALL) is not None

    def test_tokens_read_have_a_limit_of_their_own(self):
        spend = Spend(None, None, 100)
        reading = Usage(calls=1, input_tokens=60)
        spend.reserve(reading)
        assert "max_input_tokens=100" in str(refusal(spend.reserve, reading))
        spend.settle(reading, Usage(calls=1, input_tokens=40))  # less than was estimated
        assert refusal(spend.reserve, reading) is None

    def test_many_threads_are_never_over(self):
        spend, passed = Spend(100, 20.0), []

        def work(seed):
            rnd = random.Random(seed)
            for _ in range(100):
                if refusal(spend.reserve, CALL) is None:
                    spend.settle(CALL, Usage(calls=1, cost_usd=rnd.choice([0.0, 0.125, 0.25])))
                    passed.append(1)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert spend.total.calls == len(passed) == 100
        assert spend.total.cost_usd <= 20.0

    @settings(deadline=None)
    @given(st.floats(0, 2), st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 1), st.booleans()), max_size=30))
    def test_is_never_over_where_estimates_are_not_too_low(self, budget, requests):
        spend, under_way = Spend(None, budget), []
        for cost, share, settled in requests:
            estimate = Usage(calls=1, cost_usd=cost)
            if refusal(spend.reserve, estimate) is None:
                under_way.append((estimate, Usage(calls=1, cost_usd=cost * share)))
            if settled and under_way:
                spend.settle(*under_way.pop())
            assert spend.total.cost_usd <= budget + 1e-9

    @forks
    def test_what_is_under_way_is_not_the_childs(self):
        spend = Spend(1, None)
        spend.reserve(CALL)
        assert in_a_child(lambda: spend.total.calls == 0)
