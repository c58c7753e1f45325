"""A reranker and a retriever that ask a model of LangChain's, over a server on loopback."""

import asyncio
import copy
import json
import logging
import pickle
import traceback

import pytest

pytest.importorskip("langchain_openai", reason="needs: pip install langchain-openai")

import scripted
from chat_stage import ChatStage, Said, error, refusing, wait_until
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.load import dumpd, load
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnableParallel
from langchain_openai import ChatOpenAI
from langchain_stage import BEST, QUESTION, FromList, Tracer, documents, pages, runs, scores

import rerankx
from langchain_rerankx import Reranker, RerankRetriever, rerank
from rerankx import AuthenticationError, BackendError, BudgetError, DeadlineError, ReplyError
from rerankx.testing import FakeBackend

KEY = scripted.KEY
SLOW = Said(delay_s=30)
GRADED = [BEST[1], BEST[0], *BEST[2:]]  # `weigher` and `grader` give 4 to the first two, then 1, 0, 0
JUDGED = [0.9375, 0.9375, 0.1875, 0.0625, 0.0625]
how = pytest.mark.parametrize("how", ["sync", "async"])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    scripted.alone(monkeypatch)


@pytest.fixture
def stage():
    """A server whose model ranks by words in common with the query."""
    with ChatStage(scripted.ranker) as stage:
        yield stage


def model(stage, **options):
    # Its connections are kept for the whole process, and those of an event loop that has ended are never closed.
    given = {"base_url": stage.base_url, "api_key": KEY, "max_retries": 0, "default_headers": {"Connection": "close"}}
    return ChatOpenAI(**{"model": "stage-model", **given, **options})


def asked(given=None):
    return {"query": QUESTION, "documents": documents() if given is None else given}


def retriever(*args, **options):
    return rerank(FromList(found=documents(), k=5), *args, **options)


def traced(runnable, how, input=None, **config):
    """Return what a runnable returned, or raised, and the root of its trace."""
    tracer = Tracer()
    config = {"callbacks": [tracer], **config}
    input = asked() if input is None else input
    try:
        result = runnable.invoke(input, config) if how == "sync" else asyncio.run(runnable.ainvoke(input, config))
    except Exception as error:
        result = error
    (root,) = tracer.roots
    return result, root


def told(run):
    """Return the metadata of a run of ours, without the prefix."""
    return {name.removeprefix("rerankx_"): value for name, value in run.extra["metadata"].items()}


def above(root, name):
    """Return for each run of that name the names of those around it, from the outside."""

    def found(run, names):
        here = [names] if run.name == name else []
        return here + [one for child in run.child_runs for one in found(child, [*names, run.name])]

    return found(root, [])


# What comes back


@pytest.mark.parametrize("prompted", [{}, {"strategy": "first-token"}, {"shuffles": 2}])
def test_a_model_puts_documents_in_order(stage, invoke, prompted):
    stage.brain = scripted.pointer
    given, before = documents(), documents()
    found = invoke(Reranker("listwise", llm=model(stage), **prompted), asked(given))
    assert pages(found)[:3] == BEST[:3]  # of equals a shuffle makes another order
    assert sorted(pages(found)) == sorted(BEST)
    assert scores(found) == [1.0, 0.8, 0.6, 0.4, 0.2]
    assert given == before
    assert all(new is not old for new in found for old in given)


def test_a_model_grades_each_document_by_itself(stage, invoke):
    stage.brain = scripted.weigher
    found = invoke(Reranker("judge", llm=model(stage)), asked())
    assert pages(found) == GRADED
    assert scores(found) == pytest.approx(JUDGED)
    assert len(stage.requests) == 5


def test_a_grade_may_be_written_and_ties_keep_their_order(stage, invoke):
    stage.brain = scripted.grader
    found = invoke(Reranker("judge", llm=model(stage)), asked())
    assert pages(found) == GRADED
    assert scores(found) == [1.0, 1.0, 0.25, 0.0, 0.0]


@pytest.mark.parametrize(("min_score", "kept"), [(0.95, 0), (0.9375, 2), (0.1, 3), (0.0, 5)])
def test_min_score_holds_for_a_judge(stage, invoke, min_score, kept):
    stage.brain = scripted.weigher
    found = invoke(retriever("judge", llm=model(stage), min_score=min_score), QUESTION)
    assert pages(found) == GRADED[:kept]


def test_min_score_is_refused_where_there_is_only_an_order(stage):
    with pytest.raises(ValueError, match="only an order"):
        Reranker("listwise", llm=model(stage), min_score=0.5)


def test_a_retriever_asks_the_model(stage, invoke):
    found = invoke(retriever("listwise", llm=model(stage), top_n=2), QUESTION)
    assert pages(found) == BEST[:2]
    assert len(stage.requests) == 1


def test_no_documents_are_no_question(stage, invoke):
    assert invoke(Reranker("listwise", llm=model(stage)), asked([])) == []
    assert stage.requests == []


@pytest.mark.parametrize("ask", [scripted.ranker, scripted.async_ranker])
def test_a_function_is_a_model_too(invoke, ask):
    assert pages(invoke(Reranker("listwise", llm=ask), asked())) == BEST


def test_a_runnable_is_a_model_too(stage, invoke):
    for llm in (
        model(stage).bind(max_tokens=99),
        model(stage).with_retry(),
        model(stage).with_config(tags=["nostream"]),
    ):
        assert pages(invoke(Reranker("listwise", llm=llm), asked())) == BEST
    assert stage.bodies[0]["max_completion_tokens"] == 99


@how
def test_each_of_a_batch_is_ranked_by_itself(stage, how):
    reranker = Reranker("listwise", llm=model(stage), top_n=1)
    inputs = [{"query": page, "documents": documents()} for page in BEST]
    config = {"max_concurrency": 3}
    found = reranker.batch(inputs, config) if how == "sync" else asyncio.run(reranker.abatch(inputs, config))
    assert [pages(one) for one in found] == [[page] for page in BEST]


def test_it_works_where_an_event_loop_is_running(stage):
    async def main():
        return Reranker("listwise", llm=model(stage)).invoke(asked())

    assert pages(asyncio.run(main())) == BEST


def test_many_at_a_time_in_one_event_loop(stage):
    stage.brain = scripted.weigher
    reranker = Reranker("judge", llm=model(stage), max_concurrency=4)

    async def main():
        return await asyncio.gather(*[reranker.ainvoke(asked()) for _ in range(4)])

    assert [pages(found) for found in asyncio.run(main())] == [GRADED] * 4
    assert stage.answering_peak <= 4


def test_a_stream_has_one_piece(stage):
    reranker = Reranker("listwise", llm=model(stage))

    async def main():
        return [piece async for piece in reranker.astream(asked())]

    for pieces in (list(reranker.stream(asked())), asyncio.run(main())):
        assert [pages(piece) for piece in pieces] == [BEST]


def test_what_was_found_out_about_a_model_is_kept(stage):
    stage.brain = refusing("response_format", then=scripted.ranker)
    reranker = Reranker("listwise", llm=model(stage)).configurable_fields(top_n=ConfigurableField(id="n"))
    for n, requests in ((1, 2), (2, 3), (3, 4)):
        assert pages(reranker.invoke(asked(), {"configurable": {"n": n}})) == BEST[:n]
        assert len(stage.requests) == requests


def test_limits_hold_over_calls(stage, invoke):
    limited = retriever("listwise", llm=model(stage), max_calls=1)
    assert pages(invoke(limited, QUESTION)) == BEST
    with pytest.raises(BudgetError):
        invoke(limited, QUESTION)
    assert len(stage.requests) == 1


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda made: made.model_copy(), lambda made: made.model_copy(deep=True)],
    ids=["copy", "deepcopy", "model_copy", "model_copy, deep"],
)
def test_a_copy_spends_from_the_same_limit(copied):
    limited = Reranker("listwise", llm=scripted.ranker, max_calls=1)
    assert pages(limited.invoke(asked())) == BEST
    with pytest.raises(BudgetError):
        copied(limited).invoke(asked())


# Its trace


@how
@pytest.mark.parametrize(("backend", "requests"), [("listwise", 1), ("judge", 5)])
def test_the_models_runs_are_beneath_the_rerankers(stage, how, backend, requests):
    stage.brain = scripted.ranker if backend == "listwise" else scripted.weigher
    _, root = traced(retriever(backend, llm=model(stage)), how, QUESTION)
    assert root.name == "RerankRetriever"
    found = above(root, "ChatOpenAI")
    assert len(found) == requests
    assert all(names[:2] == ["RerankRetriever", "Reranker"] for names in found)
    assert {run.error for run in runs(root, "ChatOpenAI")} == {None}


@how
def test_its_run_tells_what_was_spent(stage, how):
    stage.brain = scripted.weigher
    price = {"per_million_tokens": 10_000.0, "per_million_output_tokens": 100_000.0}
    _, root = traced(Reranker("judge", llm=model(stage), price=price), how)
    known = {"backend": "judge", "model": "stage-model", "calls": 5, "input_tokens": 500, "output_tokens": 5}
    assert known.items() <= told(root).items()
    assert told(root)["cost_usd"] == pytest.approx(5.5)
    assert told(root)["degraded"] is None


@how
def test_tags_and_metadata_reach_the_model(stage, how):
    reranker = Reranker("listwise", llm=model(stage, tags=["its own"])).with_config(
        tags=["mine"], metadata={"team": "search"}
    )
    _, root = traced(reranker, how, tags=["a call's"])
    (run,) = runs(root, "ChatOpenAI")
    assert {"its own", "mine", "a call's"} <= set(run.tags)
    assert run.extra["metadata"]["team"] == "search"


class Watching(BaseCallbackHandler):
    def __init__(self):
        self.parents = []
        self.ended = []

    def on_chat_model_start(self, serialized, messages, *, run_id, parent_run_id=None, **kwargs):
        self.parents.append(parent_run_id)

    def on_llm_end(self, response, **kwargs):
        self.ended.append(response.llm_output["token_usage"]["prompt_tokens"])


@how
def test_the_models_own_callbacks_are_told_of_it(stage, how):
    stage.brain = scripted.weigher
    watching = Watching()
    _, root = traced(Reranker("judge", llm=model(stage, callbacks=[watching])), how)
    assert watching.parents == [root.id] * 5
    assert watching.ended == [100] * 5


@how
def test_the_models_own_callbacks_are_called_without_any_trace(stage, how):
    watching = Watching()
    reranker = Reranker("listwise", llm=model(stage, callbacks=[watching]))
    reranker.invoke(asked()) if how == "sync" else asyncio.run(reranker.ainvoke(asked()))
    assert len(watching.ended) == 1


@how
def test_it_nests_from_threads_too(stage, how):
    reranker = Reranker("listwise", llm=model(stage))
    _, root = traced(RunnableParallel(one=reranker, two=reranker), how)  # whose sync way is threads
    found = above(root, "ChatOpenAI")
    assert len(found) == 2
    assert all(names[1] == "Reranker" for names in found)
    assert [len(runs(one, "ChatOpenAI")) for one in runs(root, "Reranker")] == [1, 1]


def test_it_nests_from_a_thread_of_an_event_loop(stage):
    reranker = Reranker("listwise", llm=model(stage))

    async def search(_):
        return await asyncio.to_thread(reranker.invoke, asked())

    found, root = traced(RunnableLambda(search, name="outer"), "async", "")
    assert pages(found) == BEST
    assert [names[:2] for names in above(root, "ChatOpenAI")] == [["outer", "Reranker"]]


@how
def test_as_a_compressor_it_nests_under_the_callbacks_given(stage, how):
    reranker = Reranker("listwise", llm=model(stage))

    def compress(_, config):
        return reranker.compress_documents(documents(), QUESTION, config["callbacks"])

    async def acompress(_, config):
        return await reranker.acompress_documents(documents(), QUESTION, config["callbacks"])

    _, root = traced(RunnableLambda(compress, acompress, name="outer"), how, "")
    assert [names[:2] for names in above(root, "ChatOpenAI")] == [["outer", "Reranker"]]


def test_events_of_a_stream_tell_of_the_model(stage):
    async def main():
        reranker = retriever("listwise", llm=model(stage, disable_streaming=True))
        return [event async for event in reranker.astream_events(QUESTION, version="v2")]

    events = asyncio.run(main())
    (ours,) = [
        event["run_id"] for event in events if event["event"] == "on_chain_start" and event["name"] == "Reranker"
    ]
    (ended,) = [event for event in events if event["event"] == "on_chat_model_end"]
    assert ours in ended["parent_ids"]
    assert ended["data"]["output"].usage_metadata["input_tokens"] == 11


# How it fails


@how
@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (403, AuthenticationError), (500, BackendError)]
)
def test_a_fault_of_the_service_is_an_error_and_failed_runs(stage, how, status, kind):
    stage.brain = lambda body: error(status, f"Not with {KEY}, to say {QUESTION}.")
    failure, root = traced(Reranker("listwise", llm=model(stage)), how)
    assert type(failure) is kind
    assert f"HTTP {status}" in str(failure)
    assert root.error
    assert [bool(run.error) for run in runs(root, "ChatOpenAI")] == [True]
    assert KEY not in "".join(traceback.format_exception(failure))
    assert len(stage.requests) == 1


def _dead():
    with ChatStage() as stage:
        return stage


@how
@pytest.mark.parametrize("fault", ["500", "401", "dead", "prose"])
def test_a_fallback_answers_and_no_document_is_lost(how, fault):
    brain = {"500": lambda body: error(500, "down"), "401": lambda body: error(401, "no"), "prose": lambda body: "No."}
    with ChatStage(brain.get(fault, scripted.ranker)) as stage:
        reranker = Reranker("listwise", llm=model(_dead() if fault == "dead" else stage), fallback="embedded")
        found, root = traced(reranker, how)
    assert sorted(pages(found)) == sorted(BEST)
    assert (told(root)["degraded"], told(root)["answered_by"][:9]) == ("fallback", "embedded:")
    assert root.error is None
    (failed,) = runs(root, "listwise:stage-model")
    assert failed.error


@how
def test_the_input_order_may_stand_in_its_place(how):
    found, root = traced(Reranker("listwise", llm=model(_dead()), on_error="input_order"), how)
    assert pages(found) == pages(documents())
    assert told(root)["degraded"] == "input_order"


def test_langchains_own_fallback_answers_unnoticed(stage, invoke):
    llm = model(_dead()).with_fallbacks([model(stage)])
    assert pages(invoke(Reranker("listwise", llm=llm), asked())) == BEST


@how
def test_what_is_no_order_is_asked_again_and_then_an_error(stage, how):
    stage.brain = lambda body: "I like all of them."
    failure, root = traced(Reranker("listwise", llm=model(stage)), how)
    assert isinstance(failure, ReplyError)
    assert len(runs(root, "ChatOpenAI")) == len(stage.requests) == 2


@how
@pytest.mark.parametrize(("backend", "keep"), [("listwise", "input_order"), ("judge", "unscored")])
def test_what_is_no_answer_may_leave_documents_where_they_are(stage, how, backend, keep):
    brain = scripted.ranker if backend == "listwise" else scripted.grader
    stage.brain = lambda body: "I like it." if documents()[0].page_content in scripted.prompt_of(body) else brain(body)
    found, root = traced(Reranker(backend, llm=model(stage), on_bad_reply=keep), how)
    assert sorted(pages(found)) == sorted(BEST)
    assert told(root)["degraded"] == "incomplete"
    assert pages(found)[-1] == documents()[0].page_content if backend == "judge" else pages(found) == pages(documents())


@how
@pytest.mark.parametrize("backend", ["listwise", "judge"])
def test_a_deadline_ends_it(stage, how, backend):
    stage.brain = lambda body: SLOW
    failure, root = traced(Reranker(backend, llm=model(stage), deadline_s=0.3), how)
    assert isinstance(failure, DeadlineError)
    assert root.error


@how
def test_a_deadline_leaves_the_order_that_was_reached(stage, how):
    llm, stage.brain = model(stage), lambda body: "I am up."
    llm.invoke("wake up")  # what takes time the first time is no part of it
    stage.brain = lambda body: SLOW if len(stage.requests) > 3 else scripted.ranker(body)
    found, root = traced(Reranker("listwise", llm=llm, window=2, deadline_s=1.0), how)
    assert told(root)["degraded"] == "deadline"
    assert sorted(pages(found)) == sorted(BEST)
    assert pages(found) != pages(documents())


@pytest.mark.parametrize(("backend", "requests"), [("listwise", 1), ("judge", 5)])
def test_who_is_cancelled_hangs_up(stage, backend, requests):
    tracer = Tracer()
    first = []

    def brain(body):
        first.append(body)
        return SLOW if backend == "listwise" or len(first) > 1 else scripted.grader(body)

    async def main():
        task = asyncio.create_task(
            Reranker(backend, llm=model(stage), lacks=["logprobs"]).ainvoke(asked(), {"callbacks": [tracer]})
        )
        await asyncio.to_thread(stage.wait_for, requests)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: all(request.done for request in stage.requests))

    stage.brain = brain
    asyncio.run(main())
    assert [request.hung_up for request in stage.requests] == [False] * (requests > 1) + [True] * max(requests - 1, 1)
    (root,) = tracer.roots
    assert "CancelledError" in root.error


# What it is shown and kept as


class Collected(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


OPTIONS = [{}, {"default_headers": {"Connection": "close", "Authorization": f"Bearer {KEY}"}}, {"max_tokens": 99}]


@how
@pytest.mark.parametrize("options", OPTIONS, ids=["key", "headers", "bound"])
def test_no_key_is_shown(stage, how, options):
    stage.brain = lambda body: (
        error(401, f"Incorrect API key: {KEY}") if len(stage.requests) > 1 else scripted.ranker(body)
    )
    llm = model(stage).bind(**options) if "max_tokens" in options else model(stage, **options)
    reranker, log = Reranker("listwise", llm=llm), Collected()
    around = retriever(reranker)
    ours = logging.getLogger("rerankx")
    ours.addHandler(log)
    try:
        _, good = traced(reranker, how)
        failure, bad = traced(reranker, how)
    finally:
        ours.removeHandler(log)
    assert isinstance(failure, AuthenticationError)
    shown = [
        repr(reranker),
        str(reranker),
        str(reranker.model_dump()),
        reranker.model_dump_json(),
        repr(reranker.options),
    ]
    shown += [
        json.dumps(dumpd(reranker)),
        repr(around),
        json.dumps(dumpd(around)),
        repr(reranker.model_dump()["options"]),
    ]
    shown += ["".join(traceback.format_exception(failure)), *log.lines]
    for root in (good, bad):
        ours_alone = [run for name in ("Reranker", "listwise:stage-model") for run in runs(root, name)]
        shown += [
            f"{run.name} {run.serialized} {run.inputs} {run.outputs} {run.extra} {run.error}" for run in ours_alone
        ]
    assert all(KEY not in text for text in shown)
    assert "ChatOpenAI" in repr(reranker) or "_ChatModelBinding" in repr(reranker)
    assert stage.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_a_model_is_shown_by_its_type(stage):
    reranker = Reranker("listwise", llm=model(stage), window=4)
    assert repr(reranker.options) == "{'llm': <ChatOpenAI>, 'window': 4}"
    assert json.loads(reranker.model_dump_json())["options"] == {"llm": "<ChatOpenAI>", "window": 4}


def test_a_dump_in_python_makes_another_one(stage, invoke):
    again = Reranker(**Reranker("listwise", llm=model(stage), top_n=2).model_dump(exclude_none=True))
    assert pages(invoke(again, asked())) == BEST[:2]


beta = pytest.mark.filterwarnings("ignore:The function `load` is in beta")


def loaded(dumped, **more):
    allowed = {"allowed_objects": [Reranker, ChatOpenAI], "valid_namespaces": ["langchain_rerankx"]}
    return load(json.loads(json.dumps(dumped)) if not more.pop("as_it_is", False) else dumped, **allowed, **more)


@beta
def test_a_model_goes_to_json_and_back_but_for_its_key(stage, invoke):
    dumped = dumpd(Reranker("listwise", llm=model(stage), top_n=2, window=4))
    written = dumped["kwargs"]["options"]["llm"]["kwargs"]
    assert written["openai_api_key"] == {"lc": 1, "type": "secret", "id": ["OPENAI_API_KEY"]}
    again = loaded(dumped, secrets_map={"OPENAI_API_KEY": "sk-another"})
    assert pages(invoke(again, asked())) == BEST[:2]
    assert again.options["window"] == 4
    assert stage.requests[0].headers["authorization"] == "Bearer sk-another"


@beta
@pytest.mark.parametrize(
    "options",
    [
        {"default_headers": {"Authorization": KEY, "Connection": "close"}},
        {"default_query": {"api_key": KEY}},
        {"extra_body": {"api_key": KEY}},
        {"base_url": f"http://user:{KEY}@127.0.0.1:9/v1"},
    ],
    ids=["headers", "query", "body", "address"],
)
def test_a_model_with_a_secret_elsewhere_is_not_written_and_load_says_so(stage, invoke, options):
    dumped = dumpd(Reranker("listwise", llm=model(stage, **options)))
    assert KEY not in json.dumps(dumped)
    with pytest.raises(NotImplementedError, match="<ChatOpenAI: not written; put the object itself here before load"):
        loaded(dumped)
    dumped["kwargs"]["options"]["llm"] = model(stage)
    assert pages(invoke(loaded(dumped, as_it_is=True), asked())) == BEST


@beta
def test_a_function_is_not_written_and_load_says_so():
    with pytest.raises(NotImplementedError, match="<function: not written"):
        loaded(dumpd(Reranker("listwise", llm=scripted.ranker)))


def test_a_model_does_not_pickle(stage):
    for made in (Reranker("listwise", llm=model(stage)), retriever("judge", llm=model(stage).bind(max_tokens=9))):
        with pytest.raises(TypeError, match="an llm may hold a key, and a pickle holds none"):
            pickle.dumps(made)


def test_a_function_pickles(invoke):
    again = pickle.loads(pickle.dumps(Reranker("listwise", llm=scripted.ranker, top_n=2)))
    assert pages(invoke(again, asked())) == BEST[:2]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_asks_the_same_model(stage, invoke, copied):
    llm = model(stage)
    again = copied(retriever("listwise", llm=llm, top_n=2))
    assert pages(invoke(again, QUESTION)) == BEST[:2]
    assert again.reranker.options["llm"] is llm


# What it says to mistakes


@pytest.mark.parametrize(
    "mistake",
    [
        lambda llm: Reranker(llm),
        lambda llm: Reranker(llm.bind(max_tokens=9)),
        lambda llm: Reranker("listwise", model=llm),
        lambda llm: retriever(llm),
        lambda llm: retriever("listwise", model=llm),
        lambda llm: retriever(llm.with_config(tags=["t"])),
    ],
)
def test_a_model_in_the_wrong_place_is_told_the_right_one(stage, mistake):
    with pytest.raises(
        TypeError, match=r'is a language model, no reranker or name: write "listwise", llm=\.\.\.'
    ) as raised:
        mistake(model(stage))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda llm: llm,
        lambda llm: llm.bind(max_tokens=9),
        lambda llm: llm.bind(max_tokens=9).with_retry(),
        lambda llm: llm.with_fallbacks([llm]),
        lambda llm: llm.configurable_fields(max_tokens=ConfigurableField(id="n")).with_retry(),
    ],
    ids=["model", "bound", "bound twice", "with fallbacks", "configurable"],
)
@pytest.mark.parametrize("make", [rerank, lambda llm: RerankRetriever(base_retriever=llm)], ids=["rerank", "class"])
def test_a_model_is_no_retriever(stage, wrapped, make):
    with pytest.raises(
        TypeError, match=r'is a language model, no retriever: write rerank\(retriever, "listwise", llm=\.\.\.\)'
    ) as raised:
        make(wrapped(model(stage)))
    assert KEY not in str(raised.value)


@pytest.mark.parametrize("name", ["llm", "chat_model", "language_model"])
@pytest.mark.parametrize("make", [Reranker, retriever], ids=["Reranker", "rerank"])
def test_a_model_for_a_backend_that_asks_none_is_told_which_do(stage, make, name):
    with pytest.raises(TypeError, match=f"backend 'embedded' has no option '{name}'") as raised:
        make(**{name: model(stage)})
    assert str(raised.value).endswith(
        '; llm belongs to "listwise" and "judge": write rerank(retriever, "listwise", llm=...) or Reranker("listwise", llm=...)'
    )


@pytest.mark.parametrize("name", ["chat_model", "language_model"])
@pytest.mark.parametrize("backend", ["listwise", "judge", "listwise:mine"])
@pytest.mark.parametrize("make", [Reranker, retriever], ids=["Reranker", "rerank"])
def test_other_names_for_a_model_are_told_ours(stage, make, backend, name):
    with pytest.raises(TypeError, match=f"has no option '{name}'.*; did you mean 'llm'[?]$"):
        make(backend, **{name: model(stage)})


@pytest.mark.parametrize("name", ["listwise", "judge"])
@pytest.mark.parametrize("around", [lambda name: name, lambda name: ["embedded", name]], ids=["one", "of several"])
def test_a_fallback_that_asks_a_model_is_an_object(stage, name, around):
    for make in (Reranker, retriever):
        with pytest.raises(ValueError, match="as a fallback give the object") as raised:
            make("listwise", llm=model(stage), fallback=around(name))
        assert f"rerankx.Reranker({name!r}, llm=...).backend" in str(raised.value)


def test_such_an_object_answers_as_a_fallback(stage, invoke):
    stage.brain = scripted.grader
    judge = rerankx.Reranker("judge", llm=model(stage)).backend
    assert pages(invoke(Reranker("listwise", llm=model(_dead()), fallback=judge), asked())) == GRADED


def test_a_model_is_no_fallback(stage):
    with pytest.raises(
        TypeError, match=r"fallback must be a name, a rerankx\.Backend or several of them, not ChatOpenAI"
    ):
        Reranker(FakeBackend(), fallback=model(stage))


@pytest.mark.parametrize("more", [{"model": "mine"}, {"api_key": KEY}, {"base_url": "http://host"}])
def test_what_a_model_has_itself_is_refused_beside_it(stage, more):
    with pytest.raises(TypeError, match="given together with llm=") as raised:
        Reranker("listwise", llm=model(stage), **more)
    assert KEY not in str(raised.value)


def test_without_a_model_it_says_what_to_pass():
    with pytest.raises(ValueError, match="'listwise' needs a language model: pass llm="):
        retriever("listwise")
