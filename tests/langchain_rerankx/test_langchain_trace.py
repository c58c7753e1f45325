import asyncio

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.context import collect_runs
from langchain_stage import QUESTION, Backwards, FromList, Tracer, documents, runs, shape

import rerankx
from langchain_rerankx import Reranker, rerank
from rerankx.testing import FakeBackend

ASKED = {"query": QUESTION, "documents": documents()}


def failing():
    return FakeBackend(error=rerankx.RateLimitError("too many"))


def test_a_reranking_is_one_run_of_type_chain(invoke):
    tracer = Tracer()
    invoke(Reranker(FakeBackend()), ASKED, {"callbacks": [tracer]})
    assert [shape(root) for root in tracer.roots] == [("chain", "Reranker", [])]


def test_no_documents_are_no_run(invoke):
    tracer = Tracer()
    invoke(Reranker(FakeBackend()), {**ASKED, "documents": []}, {"callbacks": [tracer]})
    assert tracer.roots == []


def test_the_run_has_query_and_documents_in_and_documents_out(invoke):
    tracer = Tracer()
    found = invoke(Reranker(FakeBackend()), {**ASKED, "history": "h"}, {"callbacks": [tracer]})
    assert tracer.roots[0].inputs == ASKED
    assert tracer.roots[0].outputs == {"output": found}


def test_the_metadata_of_the_run_say_how_it_went(invoke):
    tracer = Tracer()
    invoke(Reranker(FakeBackend(), top_n=3), ASKED, {"callbacks": [tracer], "metadata": {"user": "u"}}, top_n=2)
    metadata = tracer.roots[0].metadata
    assert metadata.pop("rerankx_elapsed_ms") > 0
    assert metadata == {
        "user": "u",
        "rerankx_backend": "fake",
        "rerankx_model": "word-overlap",
        "rerankx_top_n": 2,
        "rerankx_documents_in": 5,
        "rerankx_documents_out": 2,
        "rerankx_degraded": None,
    }


def test_the_metadata_say_what_it_took(invoke):
    class Paid(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            usage = rerankx.Usage(calls=1, search_units=1, cost_usd=0.002, input_tokens=None)
            return rerankx.Scores([0.5] * len(texts), usage=usage, truncated=2)

    tracer = Tracer()
    invoke(Reranker(Paid()), ASKED, {"callbacks": [tracer]})
    names = ("calls", "search_units", "cost_usd", "input_tokens", "truncated")
    assert [tracer.roots[0].metadata[f"rerankx_{name}"] for name in names] == [1, 1, 0.002, None, 2]
    assert "rerankx_output_tokens" not in tracer.roots[0].metadata


def test_the_metadata_reach_those_who_collect_runs(invoke):
    with collect_runs() as collected:
        invoke(Reranker(FakeBackend()), ASKED)
    assert collected.traced_runs[0].metadata["rerankx_documents_out"] == 5


def test_the_metadata_reach_the_events():
    async def ends():
        events = Reranker(FakeBackend()).astream_events(ASKED, version="v2")
        return [event["metadata"] async for event in events if event["event"] == "on_chain_end"]

    assert [metadata["rerankx_documents_out"] for metadata in asyncio.run(ends())] == [5]


def test_the_callers_config_is_not_changed(invoke):
    config = {"metadata": {"user": "u"}, "tags": ["t"]}
    invoke(Reranker(FakeBackend()), ASKED, config)
    assert config == {"metadata": {"user": "u"}, "tags": ["t"]}


def test_an_error_is_seen_in_the_run(invoke):
    tracer = Tracer()
    with pytest.raises(rerankx.RateLimitError):
        invoke(Reranker(failing()), ASKED, {"callbacks": [tracer]})
    assert "RateLimitError('too many')" in tracer.roots[0].error


def test_input_order_is_seen_as_degraded(invoke):
    tracer = Tracer()
    invoke(Reranker(failing(), on_error="input_order"), ASKED, {"callbacks": [tracer]})
    assert tracer.roots[0].error is None
    assert tracer.roots[0].metadata["rerankx_degraded"] == "input_order"
    assert tracer.roots[0].metadata["rerankx_elapsed_ms"] > 0


def test_every_failed_attempt_is_a_failed_run_beneath(invoke):
    tracer = Tracer()
    invoke(Reranker(failing(), on_error="input_order"), ASKED, {"callbacks": [tracer]})
    assert shape(tracer.roots[0]) == ("chain", "Reranker", [("chain", "fake:word-overlap", [])])
    assert "RateLimitError: too many" in tracer.roots[0].child_runs[0].error


def test_a_failed_attempt_is_seen_by_those_who_collect_runs(invoke):
    with collect_runs() as collected:
        invoke(Reranker(failing(), on_error="input_order"), ASKED)
    [attempt] = collected.traced_runs[0].child_runs
    assert "RateLimitError: too many" in attempt.error


def test_the_run_has_the_name_of_the_reranker(invoke):
    tracer = Tracer()
    invoke(Reranker(FakeBackend(), name="second stage"), ASKED, {"callbacks": [tracer]})
    assert tracer.roots[0].name == "second stage"


def test_compressing_is_traced_under_the_callbacks_given(compress, invoke):
    tracer = Tracer()
    manager = (CallbackManager if invoke.how == "sync" else AsyncCallbackManager).configure([tracer])
    if invoke.how == "sync":
        outer = manager.on_chain_start(None, {}, name="outer")
        compress(Reranker(FakeBackend()), documents(), QUESTION, callbacks=outer.get_child())
        outer.on_chain_end({})
    else:

        async def traced():
            outer = await manager.on_chain_start(None, {}, name="outer")
            await Reranker(FakeBackend()).acompress_documents(documents(), QUESTION, callbacks=outer.get_child())
            await outer.on_chain_end({})

        asyncio.run(traced())
    assert shape(tracer.roots[0]) == ("chain", "outer", [("chain", "Reranker", [])])


def test_compressing_is_traced_under_the_runnable_around_it(invoke):
    reranker = Reranker(FakeBackend())

    def step(query):
        return reranker.compress_documents(documents(), query)

    async def astep(query):
        return await reranker.acompress_documents(documents(), query)

    tracer = Tracer()
    invoke(RunnableLambda(step, astep, name="node"), QUESTION, {"callbacks": [tracer]})
    assert shape(tracer.roots[0]) == ("chain", "node", [("chain", "Reranker", [])])


def test_a_retriever_shows_its_base_and_the_reranking(invoke):
    tracer = Tracer()
    invoke(rerank(FromList(found=documents()), FakeBackend()), QUESTION, {"callbacks": [tracer]})
    assert [shape(root) for root in tracer.roots] == [
        ("retriever", "RerankRetriever", [("retriever", "FromList", []), ("chain", "Reranker", [])])
    ]


def test_a_retriever_is_traced_under_the_chain_around_it(invoke):
    tracer = Tracer()
    chain = RunnableLambda(str.strip) | rerank(FromList(found=documents()), FakeBackend())
    invoke(chain, QUESTION, {"callbacks": [tracer]})
    assert [run.parent_run_id for run in runs(tracer.roots[0], "RerankRetriever")] == [tracer.roots[0].id]


def test_a_retriever_that_finds_nothing_shows_no_reranking(invoke):
    tracer = Tracer()
    invoke(rerank(FromList(found=[]), FakeBackend()), QUESTION, {"callbacks": [tracer]})
    assert shape(tracer.roots[0]) == ("retriever", "RerankRetriever", [("retriever", "FromList", [])])


def test_a_failed_reranking_is_seen_in_both_runs(invoke):
    tracer = Tracer()
    with pytest.raises(rerankx.RateLimitError):
        invoke(rerank(FromList(found=documents()), failing()), QUESTION, {"callbacks": [tracer]})
    assert [run.error is None for run in (tracer.roots[0], *tracer.roots[0].child_runs)] == [False, True, False]


def test_a_retriever_has_its_name_tags_and_metadata(invoke):
    tracer = Tracer()
    retriever = rerank(FromList(found=documents()), FakeBackend(), name="search", tags=["t"], metadata={"team": "shop"})
    invoke(retriever, QUESTION, {"callbacks": [tracer]})
    run = tracer.roots[0]
    assert (run.name, run.tags, run.metadata["team"]) == ("search", ["t"], "shop")


def test_a_retriever_names_rerankx_as_its_maker(invoke):
    tracer = Tracer()
    invoke(rerank(FromList(found=documents()), FakeBackend()), QUESTION, {"callbacks": [tracer]})
    assert tracer.roots[0].metadata["ls_retriever_name"] == "rerankx"


def test_run_name_and_run_id_stay_with_the_retriever(invoke):
    tracer = Tracer()
    invoke(
        rerank(FromList(found=documents()), FakeBackend()), QUESTION, {"callbacks": [tracer], "run_name": "outermost"}
    )
    assert shape(tracer.roots[0]) == (
        "retriever",
        "outermost",
        [("retriever", "FromList", []), ("chain", "Reranker", [])],
    )


def test_another_packages_reranker_is_a_run_whose_callbacks_it_is_given(invoke):
    seen = []

    class Listening(Backwards):
        def compress_documents(self, documents, query, callbacks=None):
            seen.append(callbacks.parent_run_id)
            return documents

    tracer = Tracer()
    invoke(rerank(FromList(found=documents()), Listening()), QUESTION, {"callbacks": [tracer]})
    root = tracer.roots[0]
    assert shape(root) == (
        "retriever",
        "RerankRetriever",
        [("retriever", "FromList", []), ("chain", "Listening", [])],
    )
    assert seen == [root.child_runs[1].id]
