"""Retries, waits, limits, circuits, budgets, cancellation and connections, by what the server saw of them."""

import asyncio
import gc
import json
import os
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest
from backend_stage import BEST, DOCUMENTS, MADE, QUERY, SDK, made, spoken
from fault_stage import (
    FaultStage,
    body,
    closed,
    good,
    held,
    http_date,
    rate_limited,
    reset,
    slow_first_byte,
    status,
    wait_until,
)

from rerankx import BackendError, DeadlineError, RateLimitError, Reranker
from rerankx.network import limits

both = pytest.mark.parametrize("target", [SDK, "tei"])
THREADS = 16
SLOW = slow_first_byte()


@pytest.fixture
def ask(stage):
    """Returns `ask(*script, target, **options)`: a backend, and a function that tells its requests."""

    def make(*script, target="tei", **options):
        url = stage.address(*script, dialect=spoken(target))
        return made(target, url, **options), lambda: stage.requests(url), url

    return make


def best(backend, **options):
    return [hit.index for hit in Reranker(backend, **options).rerank(QUERY, DOCUMENTS)]


# What is counted


def test_what_never_left_is_no_call(ask):
    backend = made("tei", "http://127.0.0.1:9", max_calls=1, failure_threshold=None)
    for _ in range(2):
        with pytest.raises(BackendError, match=r"no connection to http://127\.0\.0\.1:9.*tried 3 times") as caught:
            backend.score(QUERY, DOCUMENTS)
        assert caught.value.usage.calls == backend.spent.calls == 0


def test_a_part_that_fails_takes_what_the_others_used_with_it(ask):
    backend, _, _ = ask(good(), status(400), max_documents=2, max_concurrency=1, price={"per_search_unit": 1.0})
    ranking = Reranker(backend, on_error="input_order").rerank(QUERY, DOCUMENTS)
    assert (ranking.usage.calls, ranking.usage.cost_usd) == (2, 1.0)


def test_who_leaves_a_service_no_time_does_not_open_its_circuit(ask):
    backend, _, _ = ask(SLOW, failure_threshold=1, max_retries=0)
    with pytest.raises(DeadlineError):
        best(backend, deadline_s=0.1)
    assert backend.circuit == "closed"
    with pytest.raises(DeadlineError):
        best(backend, deadline_s=0.7)
    assert backend.circuit == "open"


def test_a_package_that_is_slow_to_load_is_no_fault_of_the_service(ask):
    backend, requests, _ = ask(good(), target=SDK, failure_threshold=1)
    backend._clients._prepare = lambda: time.sleep(0.5)
    with pytest.raises(DeadlineError, match="nothing was sent"):
        best(backend, deadline_s=0.05)
    assert (backend.circuit, backend.spent.calls, len(requests())) == ("closed", 0, 0)
    assert best(backend) == BEST


# What is tried again, and when.


@both
def test_seconds_of_retry_after_are_waited(ask, target):
    backend, requests, _ = ask(rate_limited("1"), good(), target=target)
    assert best(backend, deadline_s=30) == BEST
    first, second = requests()
    assert second.at - first.at >= 1


@both
def test_a_date_of_retry_after_is_waited_for(ask, target):
    said = []

    def soon():
        said.append(http_date(1))
        return said[-1]

    backend, requests, _ = ask(rate_limited(soon), good(), target=target)
    assert best(backend, deadline_s=30) == BEST
    began = time.time() - time.monotonic()
    assert requests()[1].at + began >= parsedate_to_datetime(said[0]).timestamp() - 0.01


@both
@pytest.mark.parametrize("after", ["7", lambda: http_date(7)], ids=["seconds", "date"])
@pytest.mark.parametrize("code", [429, 503])
def test_retry_after_beyond_the_deadline_is_not_waited_for(ask, rank, target, after, code):
    said = after() if callable(after) else after
    backend, requests, _ = ask(status(code, Retry_After=said), good(), target=target)
    began = time.monotonic()
    with pytest.raises(RateLimitError if code == 429 else BackendError):
        rank(Reranker(backend, deadline_s=5))
    assert time.monotonic() - began < 5
    assert len(requests()) == 1


@pytest.mark.parametrize("after", ["nan", "inf", "-1", "1e400", "0x10", "٣", "9" * 400])
@pytest.mark.parametrize("name", ["Retry_After", "Retry_After_Ms"])
def test_a_retry_after_that_is_none_does_no_harm(ask, rank, name, after):
    backend, requests, _ = ask(body(b"{}", 429, **{name: after.encode().decode("latin-1")}), good())
    try:
        assert [hit.index for hit in rank(Reranker(backend, deadline_s=5))] == BEST
    except RateLimitError:
        assert len(requests()) == 1


@both
def test_a_timeout_is_tried_again_once(ask, rank, target):
    backend, requests, _ = ask(
        slow_first_byte(), slow_first_byte(), good(), target=target, timeout_s=0.3, max_retries=9
    )
    with pytest.raises(DeadlineError):
        rank(Reranker(backend))
    assert len(requests()) == 2


@both
def test_a_timeout_once_is_no_failure(ask, rank, target):
    backend, requests, _ = ask(slow_first_byte(), good(), target=target, timeout_s=0.5)
    assert [hit.index for hit in rank(Reranker(backend))] == BEST
    assert len(requests()) == 2


@both
@pytest.mark.parametrize("fault", [status(500), status(429), reset(), closed()], ids=["500", "429", "reset", "closed"])
def test_nothing_is_sent_after_a_success(ask, rank, target, fault):
    backend, requests, _ = ask(fault, fault, good(), status(500), target=target, max_retries=9)
    ranking = rank(Reranker(backend))
    assert ([hit.index for hit in ranking], ranking.usage.calls) == (BEST, 3)
    time.sleep(0.1)
    assert len(requests()) == 3


@pytest.mark.parametrize("before", ["", "x" * 1_000, DOCUMENTS[1] + " "], ids=["at once", "late", "after a document"])
def test_a_500_that_says_it_is_permanent_is_not_tried_again(ask, before):
    words = json.dumps(
        {"error": {"code": 500, "message": before + "input is too large to process. increase the batch"}}
    )
    backend, requests, _ = ask(body(words.encode(), 500), target="llamacpp")
    with pytest.raises(BackendError):
        best(backend)
    assert len(requests()) == 1


@both
def test_no_request_begins_after_the_deadline(ask, rank, target):
    backend, requests, _ = ask(status(503), target=target, max_retries=10_000, failure_threshold=None)
    began = time.monotonic()
    with pytest.raises(BackendError):
        rank(Reranker(backend, deadline_s=0.5))
    ended = time.monotonic()
    time.sleep(0.5)
    assert len(requests()) > 3
    assert max(request.at for request in requests()) <= min(ended, began + 0.5) + 0.25  # to wake up takes time


def test_the_nearer_of_two_deadlines_holds(ask, rank):
    for own, outer in ((0.3, 60.0), (60.0, 0.3)):
        backend, requests, _ = ask(slow_first_byte(), deadline_s=own)
        with pytest.raises(DeadlineError):
            rank(Reranker(backend, deadline_s=outer))
        assert len(requests()) == 1


# Requests per minute.


def test_requests_beyond_the_rate_wait_their_turn(ask, monkeypatch):
    monkeypatch.setattr(limits, "_WINDOW_S", 0.5)
    backend, requests, _ = ask(requests_per_minute=2)
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(lambda _: best(backend, deadline_s=30), range(6))) == [BEST] * 6
    at = sorted(request.at for request in requests())
    # The server's clock reads when it has read: a request may seem to come late, never early.
    assert all(at[i + 2] - at[i] > 0.4 for i in range(4))


@both
def test_a_turn_beyond_the_deadline_is_refused_at_once(ask, rank, target):
    backend, requests, _ = ask(target=target, requests_per_minute=1)
    rank(Reranker(backend))
    began = time.monotonic()
    with pytest.raises(RateLimitError):
        rank(Reranker(backend, deadline_s=20))
    assert time.monotonic() - began < 10
    assert len(requests()) == 1


def test_the_rate_is_shared_by_backends_of_one_address_and_key(ask, stage):
    backend, requests, url = ask(requests_per_minute=1)
    best(backend)
    with pytest.raises(RateLimitError):
        best(made("tei", url, requests_per_minute=1), deadline_s=1)
    assert len(requests()) == 1
    assert best(made("tei", url, requests_per_minute=1, api_key="another-key-1"), deadline_s=5) == BEST
    assert best(made("tei", stage.address(dialect="tei"), requests_per_minute=1), deadline_s=5) == BEST


def test_a_retry_takes_a_turn_too(ask):
    backend, requests, _ = ask(status(500), good(), requests_per_minute=1)
    with pytest.raises(RateLimitError):
        best(backend, deadline_s=2)
    assert len(requests()) == 1


# Concurrency.


@both
def test_threads_and_loops_share_the_slots(ask, stage, target):
    backend, requests, url = ask(good(delay_s=0.02), target=target, max_concurrency=3)

    async def many():
        return await asyncio.gather(*(Reranker(backend).arerank(QUERY, DOCUMENTS) for _ in range(5)))

    with ThreadPoolExecutor(8) as pool:
        sync = [pool.submit(best, backend) for _ in range(10)]
        loops = [pool.submit(lambda: asyncio.run(many())) for _ in range(3)]
        assert [one.result() for one in sync] == [BEST] * 10
        assert [[hit.index for hit in ranking] for loop in loops for ranking in loop.result()] == [BEST] * 15
    assert len(requests()) == 25
    assert stage.answering_peak(url) == 3


def test_who_waits_for_a_slot_waits_no_longer_than_the_deadline(ask, stage, rank):
    gate = threading.Event()
    backend, requests, url = ask(held(gate), max_concurrency=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(best, backend)
        stage.wait_for(url, 1)
        with pytest.raises(DeadlineError):
            rank(Reranker(backend, deadline_s=0.2))
        gate.set()
        assert first.result() == BEST
    assert len(requests()) == 1


# The circuit.


@both
@pytest.mark.parametrize("fault", [status(500), reset(), body(b""), SLOW], ids=["500", "reset", "empty", "slow"])
def test_the_circuit_opens_fails_fast_and_closes_again(ask, rank, target, fault):
    options = {"failure_threshold": 3, "recovery_s": 0.4, "max_retries": 0, "timeout_s": 0.2 if fault is SLOW else 30.0}
    backend, requests, _ = ask(fault, fault, fault, good(), target=target, **options)
    for _ in range(3):
        assert backend.circuit == "closed"
        with pytest.raises(BackendError):
            rank(Reranker(backend))
    assert backend.circuit == "open"
    with pytest.raises(BackendError, match="circuit"):
        rank(Reranker(backend))
    assert len(requests()) == 3
    wait_until(lambda: backend.circuit == "half-open")
    backend._policy.timeout_s = 30.0
    assert [hit.index for hit in rank(Reranker(backend))] == BEST
    assert backend.circuit == "closed"
    assert len(requests()) == 4


@pytest.mark.parametrize("code", [400, 401, 404, 422, 429])
def test_what_is_the_callers_fault_opens_no_circuit(ask, code):
    backend, requests, _ = ask(status(code), failure_threshold=2, max_retries=0)
    for _ in range(5):
        with pytest.raises(BackendError):
            best(backend)
    assert (backend.circuit, len(requests())) == ("closed", 5)


def test_one_request_probes_and_the_others_fail_fast(ask, stage):
    gate = threading.Event()
    options = {"failure_threshold": 1, "recovery_s": 0.2, "max_retries": 0}
    backend, requests, _url = ask(status(500), held(gate), target="tei", max_concurrency=THREADS, **options)
    with pytest.raises(BackendError):
        best(backend)
    wait_until(lambda: backend.circuit == "half-open")
    together = threading.Barrier(THREADS)

    def one(_):
        together.wait(30)
        try:
            return best(backend)
        except BackendError as error:
            gate.set() if sum(1 for _ in refused) >= THREADS - 2 else refused.append(error)
            return None

    refused: list = []
    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(one, range(THREADS)))
    assert sorted(map(bool, results)) == [False] * (THREADS - 1) + [True]
    assert len(requests()) == 2
    assert backend.circuit == "closed"


def test_a_probe_that_fails_opens_the_circuit_again(ask):
    backend, requests, _ = ask(status(500), failure_threshold=1, recovery_s=0.2, max_retries=0)
    for n in (1, 2):
        with pytest.raises(BackendError):
            best(backend)
        assert backend.circuit == "open"
        wait_until(lambda: backend.circuit == "half-open")
        assert len(requests()) == n


def test_a_probe_that_is_cancelled_leaves_the_probe_to_the_next(ask, stage):
    gate = threading.Event()
    options = {"failure_threshold": 1, "recovery_s": 0.1, "max_retries": 0}
    backend, _, url = ask(status(500), held(gate), good(), **options)

    async def run():
        with pytest.raises(BackendError):
            await Reranker(backend).arerank(QUERY, DOCUMENTS)
        while backend.circuit != "half-open":
            await asyncio.sleep(0.01)
        probe = asyncio.ensure_future(Reranker(backend).arerank(QUERY, DOCUMENTS))
        await asyncio.to_thread(stage.wait_for, url, 2)
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert backend.circuit == "half-open"
        return await Reranker(backend).arerank(QUERY, DOCUMENTS)

    assert [hit.index for hit in asyncio.run(run())] == BEST
    assert backend.circuit == "closed"


# Budgets.


@both
def test_max_calls_refuses_before_it_sends(ask, rank, target):
    backend, requests, _ = ask(status(500), good(), target=target, max_calls=3)
    rank(Reranker(backend))
    rank(Reranker(backend))
    with pytest.raises(RateLimitError, match="max_calls"):
        rank(Reranker(backend))
    assert backend.spent.calls == len(requests()) == 3


@pytest.mark.parametrize("target", [SDK, "voyage"])
def test_a_budget_refuses_before_it_sends(ask, rank, target):
    # The server bills 1 search unit, or 11 tokens.
    price = {"per_search_unit": 1.0} if target == SDK else {"per_million_tokens": 1e6 / 11}
    backend, requests, _ = ask(target=target, price=price, budget_usd=4.0, model="m")
    spent = 0.0
    for _ in range(9):
        try:
            spent += rank(Reranker(backend)).usage.cost_usd
        except RateLimitError:
            break
    assert 0 < spent <= 4
    assert backend.spent.cost_usd == pytest.approx(spent)
    assert backend.spent.calls == len(requests()) < 9


@pytest.mark.parametrize("options", [{"max_calls": 10}, {"budget_usd": 10.0, "price": {"per_search_unit": 1.0}}])
def test_threads_never_spend_more_than_there_is(ask, options):
    backend, requests, _ = ask(status(500), good(delay_s=0.01), target=SDK, max_concurrency=THREADS, **options)
    together = threading.Barrier(THREADS)

    def one(_):
        together.wait(30)
        try:
            return best(backend)
        except RateLimitError:
            return None

    with ThreadPoolExecutor(THREADS) as pool:
        results = list(pool.map(one, range(THREADS)))
    assert None in results
    answered = sum(result == BEST for result in results)
    # The refused 500 is a call, and costs nothing.
    assert len(requests()) == backend.spent.calls == answered + 1
    assert answered == (9 if "max_calls" in options else 10)


def test_what_was_never_sent_is_not_spent(ask, rank):
    backend, requests, _ = ask(max_calls=1)
    with pytest.raises(DeadlineError):
        rank(Reranker(backend, deadline_s=1e-9))
    assert (backend.spent.calls, requests()) == (0, [])
    assert len(rank(Reranker(backend))) == 3


# Cancellation.


async def _cancelled(task):
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@both
@pytest.mark.parametrize("where", ["in flight", "in the queue", "in back-off", "before its turn"])
def test_cancelling_leaves_nothing_behind(ask, stage, target, where, monkeypatch):
    gate = threading.Event()
    if where == "before its turn":
        monkeypatch.setattr(limits, "_WINDOW_S", 1.0)
    script = {
        "in flight": [held(gate), good()],
        "in the queue": [held(gate), good()],
        "in back-off": [rate_limited("20"), good()],
        "before its turn": [good()],
    }[where]
    per_minute = {"requests_per_minute": 1} if where == "before its turn" else {}
    backend, requests, url = ask(*script, target=target, max_concurrency=1, **per_minute)

    async def run():
        def rerank():
            return asyncio.ensure_future(Reranker(backend).arerank(QUERY, DOCUMENTS))

        me = asyncio.current_task()
        if where == "before its turn":
            await rerank()
        task = rerank()
        if where == "before its turn":
            await asyncio.sleep(0.1)
        else:
            await asyncio.to_thread(stage.wait_for, url, 1)
        threads = threading.active_count()
        if where == "in the queue":
            waiting = [rerank() for _ in range(3)]
            await asyncio.sleep(0.05)
            for one in waiting:
                await _cancelled(one)
            gate.set()
            await task
        else:
            await asyncio.sleep(0.05)
            await _cancelled(task)
        await asyncio.sleep(0.05)
        assert asyncio.all_tasks() == {me}
        assert threading.active_count() <= threads
        if where == "in flight":
            wait = asyncio.to_thread(wait_until, lambda: requests()[0].hung_up, "the connection's end")
            await wait
        assert len(requests()) == 1
        assert [hit.index for hit in await rerank()] == BEST  # the one slot is free
        assert len(requests()) == 2
        await asyncio.sleep(0.1)
        assert len(requests()) == 2

    asyncio.run(run())


def test_cancelling_a_ranking_of_many_batches_ends_them_all(ask, stage):
    gate = threading.Event()
    backend, requests, url = ask(held(gate), max_documents=1, max_concurrency=3)

    async def run():
        task = asyncio.ensure_future(backend.ascore(QUERY, list("abcdefgh")))
        await asyncio.to_thread(stage.wait_for, url, 3)
        await _cancelled(task)
        await asyncio.sleep(0.1)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert len(requests()) == 3

    asyncio.run(run())


# Connections, loops, threads and processes.


@both
def test_connections_are_used_again(ask, target):
    backend, requests, _ = ask(target=target)
    for _ in range(3):
        best(backend)

    async def run():
        for _ in range(3):
            await Reranker(backend).arerank(QUERY, DOCUMENTS)

    asyncio.run(run())
    numbers = [request.connection for request in requests()]
    assert len(set(numbers[:3])) == len(set(numbers[3:])) == 1


@both
def test_three_loops_in_a_row_leave_no_connection_open(ask, stage, target):
    backend, requests, url = ask(target=target)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        for _ in range(3):
            ranking = asyncio.run(Reranker(backend).arerank(QUERY, DOCUMENTS))
            assert [hit.index for hit in ranking] == BEST
            wait_until(lambda: stage.connections_open(url) == 0, "the connection's end")
            gc.collect()
    assert len(requests()) == 3


@both
def test_close_closes_the_connections_and_the_next_call_opens_new_ones(ask, stage, target):
    backend, _requests, url = ask(target=target)
    for _ in range(2):
        best(backend)
        assert stage.connections_open(url) == 1
        backend.close()
        wait_until(lambda: stage.connections_open(url) == 0, "the connection's end")

    async def run():
        await Reranker(backend).arerank(QUERY, DOCUMENTS)
        await backend.aclose()
        await asyncio.to_thread(wait_until, lambda: stage.connections_open(url) == 0, "the connection's end")

    asyncio.run(run())


@both
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_backend_that_is_dropped_closes_its_connections(stage, target, way):
    url = stage.address(dialect=spoken(target))

    def dropped():
        MADE.clear()
        gc.collect()

    async def run():
        await Reranker(made(target, url)).arerank(QUERY, DOCUMENTS)
        dropped()
        await asyncio.to_thread(wait_until, lambda: stage.connections_open(url) == 0, "the connection's end", 5)

    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        if way == "async":
            asyncio.run(run())
        else:
            best(made(target, url))
            dropped()
            wait_until(lambda: stage.connections_open(url) == 0, "the connection's end", 5)


@both
def test_a_sync_call_within_a_running_loop_works(ask, target):
    backend, requests, _ = ask(target=target)

    async def run():
        return best(backend), [hit.index for hit in await Reranker(backend).arerank(QUERY, DOCUMENTS)]

    assert asyncio.run(run()) == (BEST, BEST)
    assert len(requests()) == 2


@both
def test_threads_share_one_backend(ask, target):
    backend, requests, _ = ask(good(delay_s=0.01), target=target, max_concurrency=4)
    together = threading.Barrier(THREADS)

    def one(_):
        together.wait(30)
        return best(backend)

    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(one, range(THREADS))) == [BEST] * THREADS
    assert len({request.connection for request in requests()}) <= 4


def _in_child(work) -> str:
    """Return what `work` returns in a forked process."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fork beside threads is what this is about
        child = os.fork()
    if child == 0:
        try:
            answer = repr(work())
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        os.write(writing, answer.encode()[:4000])
        os._exit(0)
    os.close(writing)
    with open(reading) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    return text


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
@both
def test_a_forked_child_can_use_the_backend(ask, target):
    backend, requests, _ = ask(target=target)
    best(backend)
    assert _in_child(lambda: best(backend, deadline_s=20)) == repr(BEST)
    assert best(backend) == BEST
    assert len({request.connection for request in requests()}) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
def test_a_child_forked_while_all_slots_are_taken_has_its_own(ask, stage):
    gate = threading.Event()
    backend, _, url = ask(held(gate), good(), max_concurrency=1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(best, backend)
        stage.wait_for(url, 1)
        answer = _in_child(lambda: best(backend, deadline_s=3))
        gate.set()
        assert first.result() == BEST
    assert answer == repr(BEST)


@both
def test_a_proxy_of_the_environment_is_used(monkeypatch, target):
    with FaultStage() as proxy:
        url = proxy.address(dialect=spoken(target)).replace(proxy.origin, "http://nowhere.invalid")
        monkeypatch.setenv("HTTP_PROXY", proxy.origin)
        monkeypatch.setenv("http_proxy", proxy.origin)
        backend = made(target, url)
        assert best(backend) == BEST
        assert proxy.requests(url)[0].target.startswith("http://nowhere.invalid/")
        backend.close()


@both
def test_no_proxy_of_the_environment_is_heeded(stage, monkeypatch, target):
    with FaultStage() as proxy:
        url = stage.address(dialect=spoken(target))
        for name, value in {"http_proxy": proxy.origin, "no_proxy": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
            monkeypatch.setenv(name.upper(), value)
        assert best(made(target, url)) == BEST
        assert len(stage.requests(url)) == 1


# What the reply says was used.


def test_units_and_tokens_are_those_of_the_reply(ask):
    backend, _, _ = ask(target="voyage")
    usage = Reranker(backend).rerank(QUERY, DOCUMENTS).usage
    assert (usage.calls, usage.input_tokens, usage.estimated) == (1, 11, False)
    backend, _, _ = ask(target=SDK)
    assert Reranker(backend).rerank(QUERY, DOCUMENTS).usage.search_units == 1


def test_a_server_of_ones_own_costs_nothing(ask):
    backend, _, _ = ask(target="tei")
    assert Reranker(backend).rerank(QUERY, DOCUMENTS).usage.cost_usd == 0.0
