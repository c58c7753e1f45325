"""Agents, graphs and event streams: where a retriever or a reranker is called from somebody else's loop."""

import asyncio
from typing import Annotated, TypedDict

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
pytest.importorskip("langchain.agents", reason="needs: pip install langchain")
pytest.importorskip("langgraph.graph", reason="needs: pip install langgraph")

from langchain.agents import create_agent
from langchain.agents.middleware import dynamic_prompt
from langchain_core.documents import Document
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool, tool
from langchain_stage import BEST, PAGES, QUESTION, FromList, Tracer, documents, pages, runs, scores, shape, store
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph

from langchain_rerankx import Reranker, rerank
from rerankx import BackendError
from rerankx.testing import FakeBackend

RERANKED = ("retriever", "RerankRetriever", [("retriever", "FromList", []), ("chain", "Reranker", [])])


def base(**fields):
    return FromList(found=documents(), **{"k": 5, **fields})


# Agents


class Scripted(FakeMessagesListChatModel):
    """A chat model that says what it was told to say, whatever tools it is given."""

    def bind_tools(self, tools, **kwargs):
        return self


def searching_agent(searches):
    """Return an agent that calls the tool `search` once with the question, and then answers."""
    call = {"name": "search", "args": {"query": QUESTION}, "id": "call-1", "type": "tool_call"}
    return create_agent(Scripted(responses=[AIMessage("", tool_calls=[call]), AIMessage("Send it back.")]), [searches])


def search_tool(retriever, **more):
    return create_retriever_tool(
        retriever, "search", "Searches the help pages.", response_format="content_and_artifact", **more
    )


def asked():
    return {"messages": [{"role": "user", "content": QUESTION}]}


def said_by_the_tool(answer):
    [message] = [message for message in answer["messages"] if isinstance(message, ToolMessage)]
    return message


def test_an_agents_tool_says_the_best_pages_in_order(invoke):
    agent = searching_agent(search_tool(rerank(base(), FakeBackend(), top_n=2)))
    assert said_by_the_tool(invoke(agent, asked())).content == "\n\n".join(BEST[:2])


def test_an_agents_tool_message_keeps_the_scored_documents(invoke):
    agent = searching_agent(search_tool(rerank(base(), FakeBackend(), top_n=2)))
    found = said_by_the_tool(invoke(agent, asked())).artifact
    assert pages(found) == BEST[:2]
    assert [document.id for document in found] == ["id-3", "id-1"]
    assert scores(found)[0] == 1.0


def test_an_agent_answers_after_the_search(invoke):
    agent = searching_agent(search_tool(rerank(base(), FakeBackend(), top_n=2)))
    assert invoke(agent, asked())["messages"][-1].content == "Send it back."


def test_an_agents_search_is_traced_under_its_tool(invoke):
    tracer = Tracer()
    invoke(searching_agent(search_tool(rerank(base(), FakeBackend()))), asked(), {"callbacks": [tracer]})
    [tools] = runs(tracer.roots[0], "tools")
    assert shape(tools) == ("chain", "tools", [("tool", "search", [RERANKED])])


def test_a_function_that_is_a_tool_nests_the_search(invoke):
    retriever = rerank(base(), FakeBackend(), top_n=1)

    @tool
    def search(query: str) -> str:
        """Searches the help pages."""
        return pages(retriever.invoke(query))[0]

    tracer = Tracer()
    answer = invoke(searching_agent(search), asked(), {"callbacks": [tracer]})
    assert said_by_the_tool(answer).content == BEST[0]
    [tools] = runs(tracer.roots[0], "tools")
    assert shape(tools) == ("chain", "tools", [("tool", "search", [RERANKED])])


def test_a_coroutine_that_is_a_tool_nests_the_search():
    retriever = rerank(base(), FakeBackend(), top_n=1)

    @tool
    async def search(query: str) -> str:
        """Searches the help pages."""
        return pages(await retriever.ainvoke(query))[0]

    tracer = Tracer()
    asyncio.run(searching_agent(search).ainvoke(asked(), {"callbacks": [tracer]}))
    [tools] = runs(tracer.roots[0], "tools")
    assert shape(tools) == ("chain", "tools", [("tool", "search", [RERANKED])])


def test_an_agent_hears_of_a_backend_that_fails(invoke):
    agent = searching_agent(search_tool(rerank(base(), FakeBackend(error=BackendError("down")))))
    with pytest.raises(BackendError, match="down"):
        invoke(agent, asked())


def test_a_prompt_that_an_agent_makes_of_the_pages_holds_the_best(invoke):
    retriever, heard = rerank(base(), FakeBackend(), top_n=2), []

    class Listening(Scripted):
        def _generate(self, messages, *args, **kwargs):
            heard.append(messages[0].content)
            return super()._generate(messages, *args, **kwargs)

    @dynamic_prompt
    def context(request):
        return "\n".join(pages(retriever.invoke(request.state["messages"][-1].content)))

    tracer = Tracer()
    agent = create_agent(Listening(responses=[AIMessage("Send it back.")]), middleware=[context])
    invoke(agent, asked(), {"callbacks": [tracer]})
    assert heard == ["\n".join(BEST[:2])]
    [model] = runs(tracer.roots[0], "model")
    assert shape(model) == ("chain", "model", [RERANKED, ("llm", "Listening", [])])


# Graphs


class State(TypedDict, total=False):
    question: str
    docs: list[Document]


def graph_of(saver=None, **nodes):
    """Return a graph that runs the nodes one after the other."""
    graph = StateGraph(State)
    names = list(nodes)
    for name, node in nodes.items():
        graph.add_node(name, node)
    for start, end in zip([START, *names], [*names, END], strict=True):
        graph.add_edge(start, end)
    return graph.compile(checkpointer=saver)


def searching(retriever, how):
    """Return a node that searches, a function or a coroutine function."""

    def search(state):
        return {"docs": retriever.invoke(state["question"])}

    async def asearch(state):
        return {"docs": await retriever.ainvoke(state["question"])}

    return {"sync": search, "async": asearch}[how]


def compressing(reranker, how):
    """Return a node that reranks what the state holds, a function or a coroutine function."""

    def compress(state):
        return {"docs": reranker.compress_documents(state["docs"], state["question"])}

    async def acompress(state):
        return {"docs": await reranker.acompress_documents(state["docs"], state["question"])}

    return {"sync": compress, "async": acompress}[how]


def test_a_node_that_searches_is_traced_under_its_node(invoke):
    tracer = Tracer()
    graph = graph_of(search=searching(rerank(base(), FakeBackend()), invoke.how))
    assert pages(invoke(graph, {"question": QUESTION}, {"callbacks": [tracer]})["docs"]) == BEST
    [node] = runs(tracer.roots[0], "search")
    assert shape(node) == ("chain", "search", [RERANKED])


def test_a_node_that_compresses_is_traced_under_its_node(invoke):
    tracer = Tracer()
    graph = graph_of(
        search=searching(base(), invoke.how), rerank=compressing(Reranker(FakeBackend(), top_n=2), invoke.how)
    )
    assert pages(invoke(graph, {"question": QUESTION}, {"callbacks": [tracer]})["docs"]) == BEST[:2]
    [node] = runs(tracer.roots[0], "rerank")
    assert shape(node) == ("chain", "rerank", [("chain", "Reranker", [])])


def test_a_sync_node_of_a_graph_that_is_awaited_is_traced_under_its_node():
    tracer = Tracer()
    graph = graph_of(
        search=searching(rerank(base(), FakeBackend()), "sync"), rerank=compressing(Reranker(FakeBackend()), "sync")
    )
    asyncio.run(graph.ainvoke({"question": QUESTION}, {"callbacks": [tracer]}))
    assert [shape(node) for name in ("search", "rerank") for node in runs(tracer.roots[0], name)] == [
        ("chain", "search", [RERANKED]),
        ("chain", "rerank", [("chain", "Reranker", [])]),
    ]


def test_a_task_of_a_workflow_nests_the_search():
    retriever = rerank(base(), FakeBackend(), top_n=2)

    @task
    def search(question):
        return pages(retriever.invoke(question))

    @entrypoint()
    def workflow(question):
        return search(question).result()

    tracer = Tracer()
    assert workflow.invoke(QUESTION, {"callbacks": [tracer]}) == BEST[:2]
    [run] = runs(tracer.roots[0], "search")
    assert shape(run) == ("chain", "search", [RERANKED])


def kept_by_a_checkpointer(invoke, graph):
    config = {"configurable": {"thread_id": "t"}}
    invoke(graph, {"question": QUESTION}, config)
    return graph.get_state(config).values["docs"]


@pytest.mark.parametrize(
    "make",
    [
        lambda how: {"search": searching(rerank(base(), FakeBackend()), how)},
        lambda how: {"search": searching(base(), how), "rerank": compressing(Reranker(FakeBackend()), how)},
    ],
    ids=["retriever", "compressor"],
)
def test_a_checkpoint_keeps_order_scores_ids_and_metadata(invoke, make):
    found = kept_by_a_checkpointer(invoke, graph_of(InMemorySaver(), **make(invoke.how)))
    assert pages(found) == BEST
    assert {type(score) for score in scores(found)} == {float}
    assert scores(found)[0] == 1.0
    assert (found[0].id, found[0].metadata["source"]) == ("id-3", {"page": 3})


def test_a_graph_goes_on_from_its_checkpoint_with_the_reranked_documents(invoke):
    graph = graph_of(InMemorySaver(), rerank=compressing(Reranker(FakeBackend(), top_n=2), invoke.how))
    config = {"configurable": {"thread_id": "t"}}
    invoke(graph, {"question": QUESTION, "docs": documents()}, config)
    assert pages(invoke(graph, {"question": "gift cards"}, config)["docs"]) == BEST[:2]


def joined(left, right):
    return {**left, **right}


class Fanned(TypedDict, total=False):
    found: Annotated[dict[str, list[str]], joined]


def choosing(reranker, query, how):
    """Return a node that puts the best page under the query."""
    given = {"query": query, "documents": documents()}

    def choose(state):
        return {"found": {query: pages(reranker.invoke(given))}}

    async def achoose(state):
        return {"found": {query: pages(await reranker.ainvoke(given))}}

    return {"sync": choose, "async": achoose}[how]


def test_parallel_nodes_share_one_reranker(invoke):
    reranker, tracer = Reranker(FakeBackend(), top_n=1), Tracer()
    expected = {QUESTION: [PAGES[3]], "gift cards": [PAGES[2]], "leave the warehouse": [PAGES[0]]}
    graph = StateGraph(Fanned)
    for query in expected:
        graph.add_node(query, choosing(reranker, query, invoke.how))
        graph.add_edge(START, query)
        graph.add_edge(query, END)
    assert invoke(graph.compile(), {"found": {}}, {"callbacks": [tracer]})["found"] == expected
    assert [len(runs(node, "Reranker")) for query in expected for node in runs(tracer.roots[0], query)] == [1, 1, 1]


def test_configurable_of_the_graph_reaches_the_base_retriever_inside_a_node(invoke):
    configurable = store().as_retriever().configurable_fields(search_kwargs=ConfigurableField(id="search"))
    graph = graph_of(search=searching(rerank(configurable, FakeBackend()), invoke.how))
    found = invoke(graph, {"question": QUESTION}, {"configurable": {"search": {"k": 1}}})["docs"]
    assert len(found) == 1


def test_configurable_of_the_graph_reaches_the_reranker_inside_a_node(invoke):
    reranker = Reranker(FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n"))
    graph = graph_of(search=searching(rerank(base(), reranker), invoke.how))
    assert len(invoke(graph, {"question": QUESTION}, {"configurable": {"n": 2}})["docs"]) == 2


# Streams of events


def events_of(runnable, given=QUESTION, **which):
    async def collected():
        return [event async for event in runnable.astream_events(given, version="v2", **which)]

    return asyncio.run(collected())


def chain_of(retriever):
    return {"context": retriever, "question": RunnablePassthrough()} | RunnableLambda(lambda given: given["context"])


def named(events, *kinds):
    return [(event["event"], event["name"]) for event in events if event["event"] in kinds]


@pytest.mark.parametrize("kind", ["on_retriever_start", "on_retriever_end"])
def test_the_events_hold_one_retriever_run_more_than_without_a_reranker(kind):
    without = named(events_of(chain_of(base())), kind)
    assert without == [(kind, "FromList")]
    assert sorted(named(events_of(chain_of(rerank(base(), FakeBackend()))), kind)) == [
        *without,
        (kind, "RerankRetriever"),
    ]


def test_the_events_show_the_reranker_as_a_chain():
    events = events_of(chain_of(rerank(base(), FakeBackend(), top_n=2)))
    start, end = (
        next(event for event in events if (event["event"], event["name"]) == (kind, "Reranker"))
        for kind in ("on_chain_start", "on_chain_end")
    )
    assert start["data"]["input"] == {"query": QUESTION, "documents": documents()}
    assert pages(end["data"]["output"]) == BEST[:2]


def test_the_event_of_the_retriever_holds_what_it_returned():
    [end] = [
        event
        for event in events_of(chain_of(rerank(base(), FakeBackend(), top_n=2)), include_names=["RerankRetriever"])
        if event["event"] == "on_retriever_end"
    ]
    assert pages(end["data"]["output"]) == BEST[:2]


def test_events_of_retrievers_alone_can_be_asked_for():
    events = events_of(chain_of(rerank(base(), FakeBackend())), include_types=["retriever"])
    assert named(events, "on_chain_start", "on_chain_end") == []
    assert named(events, "on_retriever_end") == [
        ("on_retriever_end", "FromList"),
        ("on_retriever_end", "RerankRetriever"),
    ]


def test_events_can_be_asked_for_by_the_retrievers_tag():
    events = events_of(chain_of(rerank(base(), FakeBackend(), tags=["search"])), include_tags=["search"])
    assert ("on_retriever_end", "RerankRetriever") in named(events, "on_retriever_end")


def test_the_events_of_an_agent_hold_the_scored_documents():
    events = events_of(searching_agent(search_tool(rerank(base(), FakeBackend(), top_n=2))), asked())
    ends = {event["name"]: event["data"]["output"] for event in events if event["event"] == "on_retriever_end"}
    assert scores(ends["RerankRetriever"])[0] == 1.0


# LangGraph calls its third protocol of events experimental, at every use
@pytest.mark.filterwarnings("ignore:The v3 streaming protocol on Pregel is experimental")
def test_a_graph_streams_by_the_third_protocol():
    graph = graph_of(search=searching(rerank(base(), FakeBackend(), top_n=2), "async"))

    async def streamed():
        try:
            stream = await graph.astream_events({"question": QUESTION}, version="v3")
        except (NotImplementedError, TypeError) as error:
            pytest.skip(f"this langgraph has no events of version v3: {error}")
        return await stream.output()

    assert pages(asyncio.run(streamed())["docs"]) == BEST[:2]
