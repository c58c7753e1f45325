"""In a server's life: loops, threads, cancellation, copies, clients, keys and deadlines."""

import asyncio
import copy
import json
import logging
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.load import dumpd
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_stage import BEST, PAGES, QUESTION, Backwards, FromList, Tracer, documents, pages, runs, scores
from pydantic import ConfigDict, SecretStr

from langchain_rerankx import Reranker, rerank
from rerankx import Scores
from rerankx.interface import remaining_s
from rerankx.testing import FakeBackend

GUARD_S = 20  # so that what hangs fails; nothing is asserted of time
KEY = "sk-very-secret"


def base(**fields):
    return FromList(found=documents(), **{"k": 5, **fields})


def asked(**changes):
    return {"query": QUESTION, "documents": documents(), **changes}


@pytest.fixture(params=["fake", "embedded"])
def retriever(request):
    """A retriever over a backend without, and one over a backend with a model."""
    if request.param == "fake":
        return rerank(base(), FakeBackend())
    pytest.importorskip("rerankx.backends.embedded", reason="the embedded backend, or what it needs, is not here")
    return rerank(base(), "embedded")


# Event loops


def test_one_retriever_serves_one_event_loop_after_another(retriever):
    first, second = (asyncio.run(retriever.ainvoke(QUESTION)) for _ in range(2))
    assert first == second == retriever.invoke(QUESTION)


def test_one_retriever_serves_the_event_loop_of_another_thread(retriever):
    async def elsewhere():
        return await asyncio.to_thread(lambda: asyncio.run(retriever.ainvoke(QUESTION)))

    here = asyncio.run(retriever.ainvoke(QUESTION))
    assert asyncio.run(elsewhere()) == here


def test_invoke_works_where_an_event_loop_runs(retriever):
    async def notebook():
        return retriever.invoke(QUESTION)

    assert asyncio.run(notebook()) == retriever.invoke(QUESTION)


class Gate:
    """What blocks its thread until a coroutine opens it."""

    def __init__(self):
        self.reached, self.opened = threading.Event(), threading.Event()

    def wait(self):
        self.reached.set()
        in_time = self.opened.wait(GUARD_S)
        self.opened.set()  # one such wait is enough
        assert in_time, "the event loop stood still"

    async def open(self):
        while not self.reached.is_set():
            await asyncio.sleep(0.001)
        self.opened.set()


class Blocking(FakeBackend):
    def __init__(self, gate):
        super().__init__()
        self.gate = gate

    def _score(self, query, texts, *, top_n=None):
        self.gate.wait()
        return super()._score(query, texts, top_n=top_n)


class BlockingCompressor(Backwards):
    model_config = ConfigDict(arbitrary_types_allowed=True)
    gate: Gate

    def compress_documents(self, documents, query, callbacks=None):
        self.gate.wait()
        return super().compress_documents(documents, query, callbacks)


def blocking_search(gate):
    def search(query):
        gate.wait()
        return documents()

    return search


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda gate: rerank(base(), Blocking(gate)), BEST),
        (lambda gate: rerank(base(), BlockingCompressor(gate=gate)), PAGES[::-1]),
        (lambda gate: rerank(blocking_search(gate), FakeBackend()), BEST),
    ],
    ids=["backend", "another package's compressor", "retriever"],
)
def test_eight_searches_at_once_do_not_block_the_event_loop(make, expected):
    gate = Gate()
    retriever = make(gate)

    async def together():
        return await asyncio.gather(*(retriever.ainvoke(QUESTION) for _ in range(8)), gate.open())

    assert [pages(found) for found in asyncio.run(together())[:-1]] == [expected] * 8


# Cancellation


class Waiting(FakeBackend):
    """A backend whose first answer never comes."""

    def __init__(self):
        super().__init__()
        self.started = asyncio.Event()

    async def _ascore(self, query, texts, *, top_n=None):
        if not self.started.is_set():
            self.started.set()
            await asyncio.Event().wait()
        return super()._score(query, texts, top_n=top_n)


async def cancelled(backend, runnable, given, tracer):
    """Cancel a call that waits for the backend, and return what its task raises."""
    task = asyncio.create_task(runnable.ainvoke(given, {"callbacks": [tracer]}))
    started = asyncio.create_task(backend.started.wait())
    await asyncio.wait([task, started], timeout=GUARD_S, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    started.cancel()
    [raised] = await asyncio.gather(task, return_exceptions=True)
    return raised


@pytest.mark.parametrize(
    ("make", "given"),
    [(Reranker, asked()), (lambda backend: rerank(base(), backend), QUESTION)],
    ids=["reranker", "retriever"],
)
def test_a_call_can_be_cancelled(make, given):
    backend = Waiting()
    raised = asyncio.run(cancelled(backend, make(backend), given, Tracer()))
    assert type(raised) is asyncio.CancelledError


def test_a_cancelled_reranking_is_a_failed_run():
    tracer, backend = Tracer(), Waiting()
    # LangChain leaves the run of a cancelled retriever open, and a tracer keeps what has ended: so there is a chain around it
    retriever = rerank(base(), backend)

    async def search(query):
        return await retriever.ainvoke(query)

    asyncio.run(cancelled(backend, RunnableLambda(search), QUESTION, tracer))
    [run] = runs(tracer.roots[0], "Reranker")
    assert "CancelledError" in run.error
    assert run.end_time is not None


def test_after_a_cancelled_call_the_next_one_works():
    backend = Waiting()
    retriever = rerank(base(), backend)

    async def twice():
        await cancelled(backend, retriever, QUESTION, Tracer())
        return await retriever.ainvoke(QUESTION)

    assert pages(asyncio.run(twice())) == BEST


def test_a_call_that_takes_too_long_for_its_caller_is_cancelled():
    backend = Waiting()

    async def impatient():
        async with asyncio.timeout(0.01):
            await rerank(base(), backend).ainvoke(QUESTION)

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())


# Threads


def test_eight_threads_get_what_one_gets(retriever):
    queries = [f"{QUESTION} {page}" for page in PAGES] + ["gift cards", "when do parcels leave", "pay by card"]
    alone = [copy.deepcopy(retriever).invoke(query) for query in queries]
    together = threading.Barrier(len(queries))

    def search(query):
        together.wait(GUARD_S)
        return retriever.invoke(query)

    with ThreadPoolExecutor(len(queries)) as pool:
        found = list(pool.map(search, queries))
    assert [pages(one) for one in found] == [pages(one) for one in alone]
    assert [scores(one) for one in found] == [pytest.approx(scores(one)) for one in alone]


# Copies

copied = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["deepcopy", "pickle"]
)


def configurable():
    """Return a retriever with something to configure at each level."""
    reranker = Reranker(FakeBackend()).configurable_alternatives(
        ConfigurableField(id="which"), default_key="first", second=Reranker(FakeBackend(score=backwards))
    )
    return rerank(base().configurable_fields(k=ConfigurableField(id="k")), reranker)


def backwards(query, text):
    return 1 - BEST.index(text) / 10 if text in BEST[3:] else 0.0


@copied
def test_a_copy_with_configurable_parts_is_configured_like_the_first(invoke, copied):
    config = {"configurable": {"k": 4, "which": "second"}}
    found = invoke(copied(configurable()), QUESTION, config)
    assert pages(found) == [PAGES[0], PAGES[2], PAGES[1], PAGES[3]]
    assert found == invoke(configurable(), QUESTION, config)


@copied
def test_a_configurable_retriever_copies(invoke, copied):
    retriever = rerank(base(), FakeBackend(), top_n=4).configurable_fields(top_n=ConfigurableField(id="n"))
    assert pages(invoke(copied(retriever), QUESTION, {"configurable": {"n": 2}})) == BEST[:2]


@copied
def test_a_copy_of_a_retriever_that_was_used_is_used_alike(invoke, retriever, copied):
    expected = invoke(retriever, QUESTION)
    assert invoke(copied(retriever), QUESTION) == expected


# Clients and keys


class Client:
    """A client as they are: with its key in sight."""

    def __repr__(self):
        return f"Client(api_key={KEY!r})"


def test_a_client_among_the_options_reaches_the_backend_itself(named, invoke):
    client = Client()
    invoke(rerank(base(), "named", headers=client), QUESTION)
    assert [backend.headers is client for backend in named] == [True]


@pytest.mark.parametrize(
    "shown", [repr, str, lambda retriever: json.dumps(dumpd(retriever.reranker))], ids=["repr", "str", "dumpd"]
)
def test_a_client_among_the_options_does_not_show_its_key(named, shown):
    assert KEY not in shown(rerank(base(), "named", headers=Client()))


def test_a_secret_str_is_revealed_to_the_backend_of_a_retriever_alone(named):
    retriever = rerank(base(), "named", api_key=SecretStr(KEY))
    assert [backend.api_key for backend in named] == [KEY]
    assert KEY not in repr(retriever)


@pytest.mark.parametrize("key", [KEY, SecretStr(KEY)], ids=["string", "SecretStr"])
def test_a_key_is_not_in_the_trace(named, invoke, key):
    tracer = Tracer()
    invoke(rerank(base(), "named", api_key=key), QUESTION, {"callbacks": [tracer]})
    assert KEY not in str(tracer.roots[0].model_dump())


def test_a_key_is_not_in_the_events(named):
    async def events():
        return [event async for event in rerank(base(), "named", api_key=KEY).astream_events(QUESTION, version="v2")]

    assert KEY not in str(asyncio.run(events()))


# Deadlines


class Slow(FakeBackend):
    """A backend that needs all the time there is for the first text."""

    def _score(self, query, texts, *, top_n=None):
        left = remaining_s()
        if left is None:
            return super()._score(query, texts, top_n=top_n)
        time.sleep(max(left, 0))
        return Scores([0.9, *[None] * (len(texts) - 1)], degraded="deadline")


def test_what_a_deadline_left_comes_last_in_its_order(invoke):
    found = invoke(rerank(lambda query: documents()[::-1], Slow(), deadline_s=0.01), QUESTION)
    assert pages(found) == PAGES[::-1]
    assert scores(found) == [0.9, 0.0, 0.0, 0.0, 0.0]


def test_a_deadline_that_was_missed_is_seen_in_the_run(invoke):
    tracer = Tracer()
    invoke(rerank(base(), Slow(), deadline_s=0.01), QUESTION, {"callbacks": [tracer]})
    [run] = runs(tracer.roots[0], "Reranker")
    assert (run.metadata["rerankx_degraded"], run.error) == ("deadline", None)


def test_without_a_deadline_nothing_is_left(invoke):
    tracer = Tracer()
    assert pages(invoke(rerank(base(), Slow()), QUESTION, {"callbacks": [tracer]})) == BEST
    assert runs(tracer.roots[0], "Reranker")[0].metadata["rerankx_degraded"] is None


def test_a_deadline_does_not_hold_for_the_next_reranker(invoke):
    first = rerank(base(), Reranker(Slow(), deadline_s=0.01, name="first"))
    tracer = Tracer()
    invoke(rerank(first, Reranker(Slow(), name="second")), QUESTION, {"callbacks": [tracer]})
    degraded = [runs(tracer.roots[0], name)[0].metadata["rerankx_degraded"] for name in ("first", "second")]
    assert degraded == ["deadline", None]


# Listeners


def test_an_on_ranking_that_raises_costs_no_documents(invoke, caplog):
    def on_ranking(ranking):
        raise RuntimeError("the dashboard is down")

    with caplog.at_level(logging.ERROR, logger="rerankx"):
        assert pages(invoke(rerank(base(), FakeBackend(), on_ranking=on_ranking), QUESTION)) == BEST
    assert [record.exc_info[0] for record in caplog.records] == [RuntimeError]
