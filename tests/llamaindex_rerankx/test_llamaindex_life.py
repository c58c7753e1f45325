"""In a server's life: loops, threads, cancellation, copies, callbacks, clients, keys and deadlines."""

import asyncio
import copy
import json
import logging
import pickle
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from hard_stage import PASSAGES, index_of, retrieved
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle
from llamaindex_stage import BEST, QUESTION, Callbacks, Overlap, ids, llm
from pydantic import ValidationError

from llamaindex_rerankx import Rerank, RerankedNode, rerank
from rerankx import BackendError, Scores
from rerankx.interface import remaining_s
from rerankx.testing import FakeBackend

GUARD_S = 20  # so that what hangs fails; nothing is asserted of time
KEY = "sk-very-secret"
BEST_IDS = [f"p{i}" for i in BEST]


def engine_of(**options):
    return index_of().as_query_engine(**{"similarity_top_k": 10, "llm": llm(), **options})


def retriever_of():
    return index_of().as_retriever(similarity_top_k=10)


def found(nodes):
    return [(node.node_id, node.score) for node in nodes]


@pytest.fixture(params=["fake", "embedded"])
def backend(request):
    """A backend without, and one with a model."""
    if request.param == "fake":
        return FakeBackend()
    pytest.importorskip("rerankx.backends.embedded", reason="the embedded backend, or what it needs, is not here")
    return "embedded"


@pytest.fixture(params=["retriever", "engine"])
def search(request):
    """Returns `search(backend)`, which gives a reranked retriever's or engine's `search(query)` and `asearch(query)`."""

    class Search:
        def __init__(self, backend, **options):
            target = retriever_of() if request.param == "retriever" else engine_of()
            self.target = rerank(target, backend, **options)

        def __call__(self, query=QUESTION):
            return (
                self.target.retrieve(query) if request.param == "retriever" else self.target.query(query).source_nodes
            )

        async def later(self, query=QUESTION):
            if request.param == "retriever":
                return await self.target.aretrieve(query)
            return (await self.target.aquery(query)).source_nodes

    return Search


# Event loops


def test_one_object_serves_one_event_loop_after_another(search, backend):
    reranked = search(backend)
    first, second = (asyncio.run(reranked.later()) for _ in range(2))
    assert found(first) == found(second) == found(reranked())


def test_one_object_serves_the_event_loop_of_another_thread(search, backend):
    reranked = search(backend)

    async def elsewhere():
        return await asyncio.to_thread(lambda: asyncio.run(reranked.later()))

    here = asyncio.run(reranked.later())
    assert found(asyncio.run(elsewhere())) == found(here)


def test_the_sync_way_works_where_an_event_loop_runs(search, backend):
    reranked = search(backend)

    async def notebook():
        return reranked()

    assert found(asyncio.run(notebook())) == found(reranked())


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


def test_eight_searches_at_once_do_not_block_the_event_loop(search):
    gate = Gate()
    reranked = search(Blocking(gate), top_n=2)

    async def together():
        return await asyncio.gather(*(reranked.later() for _ in range(8)), gate.open())

    assert [ids(nodes) for nodes in asyncio.run(together())[:-1]] == [BEST_IDS] * 8


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


async def cancelled(backend, reranking):
    """Cancel a call that waits for the backend, and return what its task raises."""
    task = asyncio.create_task(reranking)
    started = asyncio.create_task(backend.started.wait())
    await asyncio.wait([task, started], timeout=GUARD_S, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    started.cancel()
    [raised] = await asyncio.gather(task, return_exceptions=True)
    return raised


def test_a_call_can_be_cancelled(search):
    backend = Waiting()
    raised = asyncio.run(cancelled(backend, search(backend).later()))
    assert type(raised) is asyncio.CancelledError


def test_on_error_does_not_swallow_a_cancellation(search):
    backend = Waiting()
    raised = asyncio.run(cancelled(backend, search(backend, on_error="input_order").later()))
    assert type(raised) is asyncio.CancelledError


def test_after_a_cancelled_call_the_next_one_works(search):
    backend = Waiting()
    reranked = search(backend, top_n=2)

    async def twice():
        await cancelled(backend, reranked.later())
        return await reranked.later()

    assert ids(asyncio.run(twice())) == BEST_IDS


def test_a_call_that_takes_too_long_for_its_caller_is_cancelled(search):
    backend = Waiting()

    async def impatient():
        async with asyncio.timeout(0.01):
            await search(backend).later()

    with pytest.raises(TimeoutError):
        asyncio.run(impatient())


def test_a_cancelled_reranking_leaves_no_span_open(spans):
    backend = Waiting()
    reranking = Rerank(backend).apostprocess_nodes(retrieved(), query_str=QUESTION)
    asyncio.run(cancelled(backend, reranking))
    assert spans.open_spans == {}
    assert "Rerank._apostprocess_nodes" in [span.id_.split("-")[0] for span in spans.dropped_spans]


def test_a_cancelled_reranking_ends_its_callback_event():
    backend, heard = Waiting(), Callbacks()
    rerank = Rerank(backend, callback_manager=CallbackManager([heard]))
    asyncio.run(cancelled(backend, rerank.apostprocess_nodes(retrieved(), query_str=QUESTION)))
    assert CBEventType.RERANKING in [kind for kind, _ in heard.ended]


# Threads


def test_eight_threads_get_what_one_gets(backend):
    queries = [f"{QUESTION} {passage}" for passage in PASSAGES[:5]] + ["gift cards", "when do parcels leave", "card"]
    alone = [found(Rerank(backend).postprocess_nodes(retrieved(), query_str=query)) for query in queries]
    shared, together = Rerank(backend), threading.Barrier(len(queries))

    def search(query):
        together.wait(GUARD_S)
        return found(shared.postprocess_nodes(retrieved(), query_str=query))

    with ThreadPoolExecutor(len(queries)) as pool:
        at_once = list(pool.map(search, queries))
    assert [[name for name, _ in one] for one in at_once] == [[name for name, _ in one] for one in alone]
    assert [[s for _, s in one] for one in at_once] == [pytest.approx([s for _, s in one]) for one in alone]


def test_too_few_candidates_are_warned_of_once_by_one_object_after_another_thread_did(caplog):
    shared = Rerank(FakeBackend(), top_n=20)
    for _ in range(2):
        thread = threading.Thread(target=shared.postprocess_nodes, args=(retrieved(), QueryBundle(QUESTION)))
        thread.start()
        thread.join(GUARD_S)
    assert len([record for record in caplog.records if "raise similarity_top_k" in record.message]) == 1


# Copies

copied = pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))], ids=["deepcopy", "pickle"]
)


class Fixed(BaseRetriever):
    """Brings the passages."""

    def _retrieve(self, query_bundle):
        return retrieved()


@copied
def test_a_copy_of_a_reranked_retriever_retrieves_alike(copied):
    retriever = rerank(Fixed(), Overlap(), top_n=2)
    again = copied(retriever)
    assert found(again.retrieve(QUESTION)) == found(retriever.retrieve(QUESTION))
    assert again.postprocessor is not retriever.postprocessor


@copied
def test_a_copy_of_a_retriever_over_an_index_retrieves_alike(copied):
    retriever = rerank(retriever_of(), Overlap(), top_n=2)
    assert found(copied(retriever).retrieve(QUESTION)) == found(retriever.retrieve(QUESTION))


@copied
def test_a_copy_of_a_reranked_engine_answers_alike(copied):
    engine = rerank(engine_of(), Overlap(), top_n=2)
    assert ids(copied(engine).query(QUESTION).source_nodes) == BEST_IDS


@copied
def test_a_copy_of_an_object_that_was_used_is_used_alike(copied, backend):
    reranker = Rerank(backend, top_n=3)
    before = found(reranker.postprocess_nodes(retrieved(), query_str=QUESTION))
    assert found(copied(reranker).postprocess_nodes(retrieved(), query_str=QUESTION)) == before


@copied
def test_a_copy_of_an_engines_postprocessor_works_in_another_engine(copied):
    first = Rerank(Overlap(), top_n=2)
    engine_of(node_postprocessors=[first])
    assert ids(engine_of(node_postprocessors=[copied(first)]).query(QUESTION).source_nodes) == BEST_IDS


@copied
def test_a_copy_of_reranked_nodes_keeps_what_is_known_of_them(copied):
    nodes = rerank(Fixed(), Overlap(), top_n=2).retrieve(QUESTION)
    again = copied(nodes)
    assert [type(node) for node in again] == [RerankedNode] * 2
    assert [node.retrieval_rank for node in again] == [node.retrieval_rank for node in nodes] == [6, 4]


# Callbacks


def engine_with(heard, *postprocessors):
    return RetrieverQueryEngine.from_args(
        retriever_of(), llm=llm(), node_postprocessors=list(postprocessors), callback_manager=CallbackManager([heard])
    )


def rerankings(heard):
    return len([kind for kind, _ in heard.started if kind is CBEventType.RERANKING])


def test_one_instance_in_two_engines_reports_to_the_engine_that_was_built_last():
    first, second, shared = Callbacks(), Callbacks(), Rerank(Overlap(), top_n=2)
    engines = [engine_with(heard, shared) for heard in (first, second)]
    answers = [ids(engine.query(QUESTION).source_nodes) for engine in engines]
    assert answers == [BEST_IDS, BEST_IDS]
    assert (rerankings(first), rerankings(second)) == (0, 2)


def test_a_copy_for_each_engine_reports_to_its_own():
    first, second, rerank = Callbacks(), Callbacks(), Rerank(Overlap(), top_n=2)
    for heard in (first, second):
        engine_with(heard, copy.deepcopy(rerank)).query(QUESTION)
    assert (rerankings(first), rerankings(second)) == (1, 1)


def test_two_reranked_engines_of_one_engine_report_to_its_callbacks():
    heard = Callbacks()
    engine = engine_with(heard)
    for top_n in (1, 2):
        rerank(engine, Overlap(), top_n=top_n).query(QUESTION)
    assert rerankings(heard) == 2


# Clients and keys


class Client:
    """A client as they are: with its key in sight."""

    def __repr__(self):
        return f"Client(api_key={KEY!r})"


class Kept(FakeBackend):
    """A backend with a client and a key, which are in what it raises, too."""

    made: list["Kept"] = []  # noqa: RUF012  (a fixture empties it)

    def __init__(self, model="kept", *, client=None, api_key=None, broken=False):
        super().__init__(name="kept", model=model, error=RuntimeError(f"bad key {api_key}") if broken else None)
        self.client, self.api_key = client, api_key
        self.made.append(self)


@pytest.fixture
def made(tmp_path, monkeypatch):
    """The backend "kept", installed as a third party would; the list of those that were made."""
    info = tmp_path / "kept-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: kept\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rerankx.backends]\nkept = {__name__}:Kept\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Kept, "made", [])
    return Kept.made


def test_a_client_among_the_options_reaches_the_backend_itself(made):
    client = Client()
    rerank(engine_of(), "kept", client=client).query(QUESTION)
    assert [backend.client is client for backend in made] == [True]


shown = pytest.mark.parametrize(
    "shown",
    [repr, str, lambda r: str(r.to_dict()), lambda r: r.to_json(), lambda r: f"{r.model_dump()} {r.model_dump_json()}"],
    ids=["repr", "str", "to_dict", "to_json", "model_dump"],
)


@shown
def test_a_client_among_the_options_is_not_shown(made, shown):
    assert "Client" not in shown(Rerank("kept", client=Client()))


@shown
def test_a_key_is_not_shown(made, shown):
    assert KEY not in shown(Rerank("kept", api_key=KEY))


def test_a_client_survives_a_deep_copy_as_what_it_is_to_the_backend(made):
    again = copy.deepcopy(Rerank("kept", client=Client()))
    assert type(again._reranker.backend.client) is Client


def test_a_key_is_not_in_what_is_shown_of_a_retriever(made):
    assert KEY not in repr(rerank(Fixed(), "kept", api_key=KEY))


def test_a_key_is_not_in_the_events_and_spans(made, events, spans):
    heard = Callbacks()
    engine = rerank(engine_with(heard), "kept", api_key=KEY, client=Client())
    engine.query(QUESTION)
    asyncio.run(engine.aquery(QUESTION))
    assert len(events.seen) > 10
    told = [event.model_dump() for event in events.seen]
    assert KEY not in f"{events.seen} {told} {heard.started} {heard.ended} {spans.completed_spans}"


@pytest.mark.parametrize("on_error", ["raise", "input_order"])
def test_a_key_in_what_a_backend_raises_is_not_in_the_events(made, events, caplog, on_error):
    heard = Callbacks()
    engine = rerank(engine_with(heard), "kept", api_key=KEY, broken=True, on_error=on_error)
    try:
        engine.query(QUESTION)
    except BackendError:
        assert on_error == "raise"
    assert KEY not in f"{events.seen} {[event.model_dump() for event in events.seen]} {heard.ended} {caplog.text}"


def test_a_key_in_what_a_backend_raises_is_not_in_the_error(made):
    with pytest.raises(BackendError) as raised:
        Rerank("kept", api_key=KEY, broken=True).postprocess_nodes(retrieved(), query_str=QUESTION)
    assert KEY not in f"{raised.value!r} {raised.value}"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"top_n": 0}, ValidationError),
        ({"metadata_mode": "no such"}, ValidationError),
        ({"min_score": 2.0}, ValueError),
        ({"on_error": "no such"}, ValueError),
        ({"no_such_option": 1}, TypeError),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_key_is_not_in_the_error_of_a_wrong_argument(made, wrong, error):
    with pytest.raises(error) as raised:
        Rerank("kept", api_key=KEY, **wrong)
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_a_key_is_not_in_what_from_dict_needs(made):
    data = json.loads(json.dumps(Rerank("kept", api_key=KEY, top_n=2).to_dict()))
    again = Rerank.from_dict(data, api_key="another")
    assert (again.top_n, made[-1].api_key) == (2, "another")


# Deadlines


class Slow(FakeBackend):
    """A backend that needs all the time there is for the first text."""

    def _score(self, query, texts, *, top_n=None):
        left = remaining_s()
        if left is None:
            return super()._score(query, texts, top_n=top_n)
        time.sleep(max(left, 0))
        return Scores([0.9, *[None] * (len(texts) - 1)], degraded="deadline")


def test_what_a_deadline_left_comes_last_in_its_order(run):
    nodes = run(Rerank(Slow(), deadline_s=0.01), retrieved(), QueryBundle(QUESTION))
    assert ids(nodes) == ids(retrieved())
    assert [node.score for node in nodes] == [0.9, *[0.0] * 9]


def test_a_deadline_that_was_missed_is_said_on_every_node(run):
    nodes = run(Rerank(Slow(), deadline_s=0.01, top_n=3), retrieved(), QueryBundle(QUESTION))
    assert [node.degraded for node in nodes] == ["deadline"] * 3


def test_a_deadline_that_was_missed_is_told_in_the_events(run, events):
    run(Rerank(Slow(), deadline_s=0.01), retrieved(), QueryBundle(QUESTION))
    [end] = [event for event in events.seen if type(event).__name__ == "ReRankEndEvent"]
    assert {node.degraded for node in end.nodes} == {"deadline"}


def test_a_deadline_does_not_hold_for_the_next_reranker(run):
    first = run(Rerank(Slow(), deadline_s=0.01), retrieved(), QueryBundle(QUESTION))
    nodes = run(Rerank(Slow(), top_n=2), first, QueryBundle(QUESTION))
    assert ids(nodes) == ["p5", "p3"]
    assert nodes[1].score > 0


def test_an_answer_is_made_of_what_a_deadline_left(search):
    nodes = search(Slow(), deadline_s=0.01)()
    assert {node.degraded for node in nodes} == {"deadline"}
    assert len(nodes) == len(PASSAGES)


# Listeners


def test_an_on_ranking_that_raises_costs_no_nodes(run, caplog):
    def on_ranking(ranking):
        raise RuntimeError("the dashboard is down")

    with caplog.at_level(logging.ERROR, logger="rerankx"):
        nodes = run(Rerank(Overlap(), top_n=2, on_ranking=on_ranking), retrieved(), QueryBundle(QUESTION))
    assert ids(nodes) == BEST_IDS
    assert [record.exc_info[0] for record in caplog.records] == [RuntimeError]


def test_an_on_ranking_hears_of_every_query_of_an_engine(search):
    rankings = []
    reranked = search(Overlap(), on_ranking=rankings.append)
    reranked("gift cards")
    asyncio.run(reranked.later(QUESTION))
    assert [ranking[0].document.node_id for ranking in rankings] == ["p4", "p5"]
