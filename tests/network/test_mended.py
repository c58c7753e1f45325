"""One test for each defect of the network code that was found and mended."""

import asyncio
import gc
import http.server
import os
import pickle
import random
import select
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import warnings
from contextlib import suppress
from types import FunctionType, ModuleType

import httpx
import pytest
from backend_stage import BEST, DOCUMENTS, KEY, MADE, QUERY, SDK, held_in, made, pieces, spoken, told
from fault_stage import body, echoing, good, held, rate_limited, redirect, reset, slow_first_byte, status, wait_until

from rerankx import (
    BackendError,
    DeadlineError,
    MissingDependencyError,
    OptionError,
    RateLimitError,
    Reranker,
)
from rerankx.backends import cohere as cohere_module
from rerankx.backends.cohere import Cohere
from rerankx.backends.http import Http
from rerankx.catalogue.endpoints import Dialect
from rerankx.compose.fallback import Fallback
from rerankx.engines.once import Once
from rerankx.network import client as client_module
from rerankx.network import policy
from rerankx.network.limits import Slots

both = pytest.mark.parametrize("target", [SDK, "tei"])


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork, which Windows lacks")
# httpcore leaves a handshake that is cancelled to be collected.
leaves_sockets = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
SLOW = slow_first_byte()


@pytest.fixture
def ask(stage):
    """Returns `ask(*script, target, **options)`: a backend, a function that tells its requests, and its address."""

    def make(*script, target="tei", **options):
        url = stage.address(*script, dialect=spoken(target))
        return made(target, url, **options), lambda: stage.requests(url), url

    return make


@pytest.fixture
def injected(stage):
    """Returns `injected(url, key, **options)`: a backend on a synchronous client of the SDK's."""
    from cohere import ClientV2

    opened = []

    def make(url, key=KEY, **options):
        opened.append(httpx.Client())
        MADE.append(Cohere(client=ClientV2(key, base_url=url, httpx_client=opened[-1]), **options))
        return MADE[-1]

    yield make
    for one in opened:
        one.close()


def best(backend, **options):
    return [hit.index for hit in Reranker(backend, **options).rerank(QUERY, DOCUMENTS)]


def forget():
    """Close and drop all backends."""
    while MADE:
        MADE.pop().close()
    gc.collect()


# Forks.


def in_child(work, seconds=30):
    """Return what `work` returns in a forked process; "late" if that takes longer."""
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
        if not select.select([answer], [], [], seconds)[0]:
            os.kill(child, signal.SIGKILL)
        text = answer.read()
    os.waitpid(child, 0)
    return text or "late"


@forks
@both
def test_a_child_can_close_what_the_parent_has_open_and_ask(ask, target):
    backend, requests, _ = ask(target=target)
    best(backend)

    def work():
        backend.close()
        return best(backend)

    assert in_child(work) == repr(BEST)
    assert best(backend) == BEST
    assert len({request.connection for request in requests()}) == 2  # the parent's is as it was


@forks
def test_a_child_can_close_what_an_event_loop_of_the_parents_has_open(ask):
    backend, _, _ = ask()

    async def run():
        await Reranker(backend).arerank(QUERY, DOCUMENTS)
        return in_child(lambda: threaded(lambda: (backend.close(), best(backend))[1]))

    assert asyncio.run(run()) == repr(BEST)


def threaded(work):
    """Return what `work` returns in a thread of its own, in which no event loop runs."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


@forks
def test_a_child_can_ask_by_a_synchronous_client_that_the_parent_has_used(stage, injected):
    backend = injected(stage.address())
    assert best(backend) == BEST
    assert in_child(lambda: best(backend)) == repr(BEST)
    assert best(backend) == BEST


# What is sent, counted and billed.


@both
def test_a_request_that_is_too_large_is_not_sent_and_not_counted(ask, target, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_REQUEST_BYTES", 20)
    backend, requests, _ = ask(target=target, failure_threshold=1, price={"per_search_unit": 1.0})
    with pytest.raises(BackendError, match="shorten the texts") as caught:
        best(backend)
    assert (type(caught.value), requests(), backend.circuit) == (BackendError, [], "closed")
    assert (backend.spent.calls, backend.spent.cost_usd or 0.0) == (0, 0.0)


@pytest.fixture
def silent():
    """The port of a listener that accepts and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        forget()


@both
@leaves_sockets
def test_a_timeout_of_the_handshake_is_no_call(target, silent):
    url, price = f"https://127.0.0.1:{silent}", {"per_search_unit": 1.0}
    backend = made(target, url, timeout_s=0.3, max_retries=0, price=price, max_calls=1)
    for _ in range(2):
        with pytest.raises(DeadlineError, match="no answer within") as caught:
            best(backend)
        assert (caught.value.usage.calls, backend.spent.calls, backend.spent.cost_usd or 0.0) == (0, 0, 0.0)


@both
def test_a_timeout_after_the_request_has_left_is_a_call(ask, target):
    backend, _, _ = ask(SLOW, target=target, timeout_s=0.3, max_retries=0, price={"per_search_unit": 1.0})
    with pytest.raises(DeadlineError):
        best(backend)
    assert (backend.spent.calls, backend.spent.cost_usd, backend.spent.estimated) == (1, 1.0, True)


# The circuit.


def test_who_has_no_patience_does_not_open_a_circuit(ask):
    backend, _, _ = ask(SLOW, failure_threshold=1, max_retries=0)
    for _ in range(3):
        with pytest.raises(DeadlineError):
            best(backend, deadline_s=0.1)
        assert backend.circuit == "closed"


def test_who_has_no_patience_does_not_close_a_circuit(ask):
    backend, requests, _ = ask(status(500), SLOW, failure_threshold=1, recovery_s=0.1, max_retries=0)
    with pytest.raises(BackendError):
        best(backend)
    wait_until(lambda: backend.circuit == "half-open")
    with pytest.raises(DeadlineError):
        best(backend, deadline_s=0.1)
    assert backend.circuit == "half-open"
    assert len(requests()) <= 2


def test_who_has_patience_opens_a_circuit(ask):
    backend, _, _ = ask(SLOW, failure_threshold=1, max_retries=0)
    with pytest.raises(DeadlineError):
        best(backend, deadline_s=policy.PATIENCE_S + 0.75)
    assert backend.circuit == "open"


# The queue.


def test_who_has_too_little_left_after_the_queue_is_not_sent(ask, stage):
    gate = threading.Event()
    backend, requests, url = ask(held(gate), good(), max_concurrency=1)
    backend._policy.took(5.0)  # as if it had

    async def run():
        reranker, hurried = Reranker(backend), Reranker(backend, deadline_s=2.0)
        first = asyncio.ensure_future(reranker.arerank(QUERY, DOCUMENTS))
        await asyncio.to_thread(stage.wait_for, url, 1)
        others = [asyncio.ensure_future(hurried.arerank(QUERY, DOCUMENTS)) for _ in range(5)]
        await asyncio.sleep(1.5)
        gate.set()
        await first
        return await asyncio.gather(*others, return_exceptions=True)

    refused = asyncio.run(run())
    assert {type(error) for error in refused} == {DeadlineError}
    assert all("nothing was sent" in str(error) and not error.usage.calls for error in refused)
    assert "the queue has left" in str(refused[0])
    assert (len(requests()), backend.circuit) == (1, "closed")
    assert best(backend) == BEST  # without a deadline there is time


def test_who_had_little_from_the_beginning_may_try(ask):
    backend, _, _ = ask(max_concurrency=1)
    backend._policy.took(60.0)
    assert best(backend, deadline_s=20) == BEST


def test_how_long_an_answer_takes_is_learned(ask):
    backend, _, _ = ask(good(delay_s=0.2))
    best(backend)
    assert 0.1 < backend._policy.typical_s < 20


@pytest.mark.parametrize("when", ["before", "between", "after"])
def test_a_waiter_whose_loop_is_closed_and_collected_loses_no_slot(when):
    """The slot is given back before its loop is closed, before it is collected, or after that."""
    slots, loop = Slots(1), asyncio.new_event_loop()
    asyncio.run(slots.take())
    loop.set_exception_handler(lambda *_: None)  # "Task was destroyed"
    task = loop.create_task(slots.take())
    loop.run_until_complete(asyncio.sleep(0))
    if when == "before":
        slots.give_back()
    loop.close()
    if when == "between":
        slots.give_back()
    del task, loop
    gc.collect()
    if when == "after":
        slots.give_back()
        gc.collect()
    assert (slots._free, len(slots._waiting)) == (1, 0)


def test_what_is_collected_within_the_lock_does_not_wait_for_it():
    code = """
        import asyncio, faulthandler, gc
        from rerankx.network import limits

        faulthandler.dump_traceback_later(3, exit=True)
        slots, loop = limits.Slots(1), asyncio.new_event_loop()
        asyncio.run(slots.take())
        loop.set_exception_handler(lambda *_: None)
        task = loop.create_task(slots.take())
        loop.run_until_complete(asyncio.sleep(0))
        slots.give_back()
        loop.close()
        del task, loop

        class Collecting(limits.Future):
            def __init__(self):
                gc.collect()  # as it may happen whenever anything is made
                super().__init__()

        limits.Future = Collecting
        asyncio.run(asyncio.wait_for(slots.take(), 3))
        print("taken")
    """
    assert alone(code)[:2] == (0, "taken")


# The rate.


def test_who_is_refused_for_max_calls_gives_the_turn_back(ask):
    refused, _, url = ask(requests_per_minute=1, max_calls=0)
    with pytest.raises(RateLimitError, match="max_calls=0"):
        best(refused)
    assert best(made("tei", url, requests_per_minute=1), deadline_s=20) == BEST


def test_what_never_left_gives_the_turn_back():
    backend = made("tei", "http://127.0.0.1:9", requests_per_minute=1, max_retries=0)
    for _ in range(2):
        with pytest.raises(BackendError, match="no connection"):
            best(backend, deadline_s=20)


def test_the_rate_outlives_its_backends(ask):
    requests, url = ask(requests_per_minute=1)[1:]
    best(MADE[-1])
    forget()
    with pytest.raises(RateLimitError, match="requests_per_minute"):
        best(made("tei", url, requests_per_minute=1), deadline_s=1)
    assert len(requests()) == 1


def test_clients_of_different_accounts_have_a_rate_each(stage, injected):
    url = stage.address()
    one, other = (injected(url, key, requests_per_minute=1) for key in (KEY, KEY[::-1]))
    assert best(one, deadline_s=20) == best(other, deadline_s=20) == BEST
    with pytest.raises(RateLimitError):
        best(other, deadline_s=1)


def test_a_client_has_no_rate_of_one_that_was_collected(stage, injected, monkeypatch):
    monkeypatch.setattr(cohere_module, "id", lambda _: 4711, raising=False)  # what was free is given again
    url = stage.address()
    for key in (KEY, KEY[::-1]):
        assert best(injected(url, key, requests_per_minute=1), deadline_s=5) == BEST
        forget()


# Retry-After.


@pytest.fixture
def waits(monkeypatch):
    """What is waited for between two tries; it takes no time."""
    waits = []

    class Asyncio:
        def __getattr__(self, name):
            return getattr(asyncio, name)

        async def sleep(self, seconds):
            waits.append(seconds)

    monkeypatch.setattr(policy, "asyncio", Asyncio())
    return waits


@pytest.mark.parametrize("deadline_s", [None, 120])
def test_a_minute_of_retry_after_is_waited_for(ask, waits, deadline_s):
    backend, _, _ = ask(rate_limited("60"), good())
    assert best(backend, deadline_s=deadline_s) == BEST
    assert len(waits) == 1
    assert 60 <= waits[0] <= 60 + policy.BACKOFF_S


@pytest.mark.parametrize(("after", "deadline_s"), [("60", 59), ("61", None), ("61", 600)])
def test_more_than_a_minute_or_the_deadline_is_not(ask, waits, after, deadline_s):
    backend, requests, _ = ask(rate_limited(after), good())
    with pytest.raises(RateLimitError, match=f"Retry-After: {after} s"):
        best(backend, deadline_s=deadline_s)
    assert (waits, len(requests())) == ([], 1)


def test_retry_after_of_nothing_still_backs_off(ask, waits, monkeypatch):
    monkeypatch.setattr(random, "uniform", lambda low, high: high)  # the most of the interval that there may be
    backend, _, _ = ask(*[rate_limited("0")] * 3, good(), max_retries=3)
    assert best(backend) == BEST
    assert waits == pytest.approx([policy.BACKOFF_S * 2**n for n in range(3)])


def test_many_who_are_told_the_same_do_not_come_at_once(ask, waits):
    backend, _, _ = ask(*[rate_limited("5")] * 6, good(), max_retries=6)
    best(backend)
    assert len(set(waits)) == 6
    assert min(waits) >= 5


# Keys.


def reachable(error):
    """Return all text that an error leads to, but by its traceback: frames hold what the caller holds anyway."""
    waiting, seen, texts = [error], {}, []
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen[id(one)] = one
        if isinstance(one, bytes | bytearray):
            texts.append(bytes(one).decode("latin-1"))
        elif isinstance(one, str):
            texts.append(one)
        elif isinstance(one, BaseException):
            one.__traceback__ = None
            waiting += [one.__cause__, one.__context__, one.args, vars(one)]
        else:
            waiting += gc.get_referents(one)
    return "\n".join(texts)


def test_what_an_error_leads_to_is_found():
    error = BackendError("x")
    error.__cause__ = httpx.ConnectError("y", request=httpx.Request("POST", "http://h", headers={"Authorization": KEY}))
    assert held_in(reachable(error))


FAULTS = {
    "no connection": None,
    "401": echoing(401),
    "429": echoing(429),
    "500": echoing(500),
    "redirect": redirect(),
    "reset": reset(),
    "no answer": SLOW,
    "nonsense": body(b"{}"),
    "no JSON": body(KEY.encode()),
    "gzip": body(KEY.encode(), Content_Encoding="gzip"),
}


@both
@pytest.mark.parametrize("fault", FAULTS)
def test_no_key_hangs_on_an_error(stage, rank, target, fault):
    url = "http://127.0.0.1:9" if FAULTS[fault] is None else stage.address(FAULTS[fault], dialect=spoken(target))
    backend = made(target, url, max_retries=0, timeout_s=0.3 if FAULTS[fault] is SLOW else 30.0)
    with pytest.raises(BackendError) as caught:
        rank(Reranker(backend))
    assert held_in(told(caught.value)) is None
    assert held_in(reachable(caught.value)) is None


@pytest.mark.parametrize("fault", ["no connection", "401", "500", "nonsense"])
def test_no_key_of_a_client_hangs_on_an_error(stage, injected, fault):
    backend = injected("http://127.0.0.1:9" if FAULTS[fault] is None else stage.address(FAULTS[fault]), max_retries=0)
    with pytest.raises(BackendError) as caught:
        best(backend)
    assert held_in(told(caught.value)) is None
    assert held_in(reachable(caught.value)) is None


OWN = Dialect(path="/rank", documents="texts", model=None, top_n=None, headers={"X-Account": f"Token {KEY}"})


def test_headers_of_ones_own_dialect_are_blotted(stage):
    url = stage.address(echoing(400), dialect=OWN)
    MADE.append(Http("m", dialect=OWN, base_url=url))
    with pytest.raises(BackendError, match="HTTP 400") as caught:
        best(MADE[-1])
    assert stage.requests(url)[0].headers["x-account"] == f"Token {KEY}"
    assert not any(piece in told(caught.value) for piece in pieces(KEY, 6))


@pytest.mark.parametrize("dialect", [OWN, {"path": "/rank", "headers": {"X-Account": KEY}}], ids=["own", "mapping"])
def test_headers_of_ones_own_dialect_do_not_pickle(dialect):
    MADE.append(Http("m", dialect=dialect, base_url="http://127.0.0.1:9"))
    with pytest.raises(TypeError, match="headers may hold secrets"):
        pickle.dumps(MADE[-1])


def test_dialects_without_headers_pickle():
    MADE.append(Http("m", dialect={"path": "/rank"}, base_url="http://127.0.0.1:9"))
    MADE.append(pickle.loads(pickle.dumps(MADE[-1])))
    assert MADE[-1].fingerprint == MADE[-2].fingerprint


# The environment.


@pytest.fixture
def hides(ask):
    """Returns a function that says what a ranking raises which falls back and keeps the order of the input."""

    def ranked(target):
        backend, _, url = ask(target=target)
        other = made(target, url)
        for on_error in ("input_order", "raise"):
            with pytest.raises(Exception) as caught:  # noqa: PT011 - which one is what is asked
                Reranker(Fallback(backend, other), on_error=on_error).rerank(QUERY, DOCUMENTS)
        assert backend.spent.calls == 0
        return caught.value

    return ranked


@pytest.mark.skipif(httpx.__version__ < "0.28", reason="httpx before 0.28 passes over a file that is not there")
@both
def test_certificates_that_are_not_there_are_an_option(hides, tmp_path, monkeypatch, target):
    monkeypatch.setattr(client_module, "_tls", Once(httpx.create_ssl_context))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    error = hides(target)
    assert type(error) is OptionError
    assert "SSL_CERT_FILE" in str(error)


@both
def test_certificates_that_are_none_are_an_option(hides, tmp_path, monkeypatch, target):
    (tmp_path / "none.pem").write_text("no certificate")
    monkeypatch.setattr(client_module, "_tls", Once(httpx.create_ssl_context))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert type(hides(target)) is OptionError


@both
def test_a_socks_proxy_needs_a_package(hides, monkeypatch, target):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    error = hides(target)
    assert type(error) is MissingDependencyError
    assert "socksio" in str(error)


@pytest.mark.parametrize(
    "proxy",
    [
        "ftp://127.0.0.1:9",
        pytest.param("http://127.0.0.1:port"),
        pytest.param("http://[::1"),
    ],
)
def test_a_proxy_that_is_no_address_is_an_option(hides, monkeypatch, proxy):
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert type(hides("tei")) is OptionError


def test_the_package_that_is_named_is_the_one_that_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "cohere", None)
    MADE.append(Cohere(api_key=KEY))
    with pytest.raises(MissingDependencyError) as caught:
        MADE[-1].score(QUERY, DOCUMENTS)
    assert caught.value.packages == ("cohere",)


# Proxies.


@pytest.fixture
def proxied(monkeypatch):
    """Returns `proxied(code)`: a list of what a proxy is asked, that answers with that status."""
    servers = []

    def start(code):
        asked = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_CONNECT(self):
                asked.append(self.path)
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, args=[0.01]).start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{servers[-1].server_address[1]}")
        return asked

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@both
def test_a_proxy_that_wants_a_password_is_not_asked_again(proxied, target):
    asked = proxied(407)
    backend = made(target, "https://nowhere.invalid", failure_threshold=1)
    with pytest.raises(BackendError, match=r"407.*HTTPS_PROXY"):
        best(backend)
    assert (asked, backend.circuit, backend.spent.calls) == (["nowhere.invalid:443"], "closed", 0)


@both
def test_a_proxy_that_makes_no_connection_is_asked_again(proxied, target):
    asked = proxied(502)
    backend = made(target, "https://nowhere.invalid", failure_threshold=3, max_retries=2)
    with pytest.raises(BackendError, match=r"the proxy makes no connection to https://nowhere\.invalid.*502"):
        best(backend)
    assert (len(asked), backend.circuit, backend.spent.calls) == (3, "open", 0)


@pytest.fixture
def tunnel(monkeypatch):
    """Returns `tunnel(answer)`: HTTPS_PROXY is a proxy that answers so, and says nothing else."""
    threads = []

    def start(answer):
        listener = socket.create_server(("127.0.0.1", 0))

        def serve():
            with listener, suppress(OSError):
                listener.settimeout(10)
                connection, _ = listener.accept()
                with connection:
                    connection.settimeout(10)
                    connection.recv(10_000)
                    if answer is not None:
                        connection.sendall(answer)
                        while connection.recv(10_000):  # until the client hangs up
                            pass

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{listener.getsockname()[1]}")

    yield start
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        forget()
    for thread in threads:
        thread.join(15)


@leaves_sockets
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n", None], ids=["silent", "tunnel", "closed"])
def test_what_got_no_further_than_the_proxy_is_no_call(tunnel, answer):
    tunnel(answer)
    price = {"per_search_unit": 1.0}
    backend = made("tei", "https://nowhere.invalid", timeout_s=0.3, max_retries=0, price=price)
    with pytest.raises(BackendError):
        best(backend)
    assert (backend.spent.calls, backend.spent.cost_usd or 0.0) == (0, 0.0)


# The background loop, and the end of a process.


def alone(code, *arguments):
    """Return what a process of its own says, on both channels, where every warning is an error."""
    command = [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.strip(), done.stderr.strip()


def test_a_background_loop_that_cannot_start_is_an_error_and_the_next_may():
    code = """
        import asyncio
        from rerankx.network import loop

        def fails():
            raise OSError("too many open files")

        makes = asyncio.new_event_loop
        asyncio.new_event_loop = asyncio.events.new_event_loop = fails
        for _ in range(2):
            try:
                loop.run(asyncio.sleep(0))
            except OSError as error:
                print(error)
        asyncio.new_event_loop = asyncio.events.new_event_loop = makes
        print(loop.run(asyncio.sleep(0, 42)))
    """
    assert alone(code) == (0, "too many open files\ntoo many open files\n42", "")


@pytest.mark.parametrize("end", ["", "backend.close()", "raise SystemExit(0)"])
@pytest.mark.parametrize(("answer", "printed"), [(good(), "2"), (status(400), "refused")], ids=["answer", "refusal"])
def test_a_synchronous_program_ends_without_a_word(stage, answer, printed, end):
    code = f"""
        import logging, sys
        from rerankx import BackendError, Reranker
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # what is slow on a busy machine is no matter
        from rerankx.backends.http import Http
        backend = Http("m", base_url=sys.argv[1])
        try:
            print(len(Reranker(backend).rerank("q", ["a", "b"])))
        except BackendError:
            print("refused")
        {end}
    """
    assert alone(code, stage.address(answer)) == (0, printed, "")
