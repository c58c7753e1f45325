"""Everything of LlamaIndex that a reranker is plugged into: routers, agents, workflows, retrievers around retrievers, chats."""

import asyncio
import itertools
import threading

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from hard_stage import PASSAGES, index_of, nodes_of
from llama_index.core import QueryBundle, StorageContext, VectorStoreIndex
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ToolCallResult
from llama_index.core.base.base_selector import BaseSelector, SelectorResult, SingleSelection
from llama_index.core.chat_engine import CondensePlusContextChatEngine, CondenseQuestionChatEngine
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.indices.query.query_transform import DecomposeQueryTransform, HyDEQueryTransform
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, MessageRole, MockLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.node_parser import TokenTextSplitter
from llama_index.core.objects import ObjectIndex
from llama_index.core.postprocessor import (
    LongContextReorder,
    MetadataReplacementPostProcessor,
    PrevNextNodePostprocessor,
    SimilarityPostprocessor,
)
from llama_index.core.query_engine import (
    CitationQueryEngine,
    RetrieverQueryEngine,
    RouterQueryEngine,
    SubQuestionQueryEngine,
    TransformQueryEngine,
)
from llama_index.core.question_gen.types import BaseQuestionGenerator, SubQuestion
from llama_index.core.retrievers import AutoMergingRetriever, QueryFusionRetriever, RecursiveRetriever, RouterRetriever
from llama_index.core.schema import IndexNode, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.tools import FunctionTool, QueryEngineTool, RetrieverTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters
from llama_index.core.workflow import Context, Event, StartEvent, StopEvent, Workflow, step
from llamaindex_stage import QUESTION, HashEmbedding, Overlap, ids, llm, memory, places

from llamaindex_rerankx import Rerank, RerankedNode, rerank
from rerankx.testing import FakeBackend

GUARD_S = 20  # so that what hangs fails; nothing is asserted of time
OTHER = "when do gift cards expire"


@pytest.fixture(params=["sync", "async"])
def call(request):
    """Returns `call(thing, "query", ...)`, which calls `thing.query` or awaits `thing.aquery`."""

    def way(thing, name, *args, **kwargs):
        if request.param == "sync":
            return getattr(thing, name)(*args, **kwargs)
        return asyncio.run(getattr(thing, f"a{name}")(*args, **kwargs))

    way.how = request.param
    return way


def retriever_of(k=10):
    return index_of().as_retriever(similarity_top_k=k)


def engine_of(*postprocessors, **options):
    options = {"similarity_top_k": 10, "llm": llm(), **options}
    return index_of().as_query_engine(node_postprocessors=list(postprocessors), **options)


def reranked_engine(top_n=2):
    return rerank(engine_of(), Overlap(), top_n=top_n)


def are_reranked(nodes):
    return all(type(node) is RerankedNode for node in nodes)


class Says(MockLLM):
    """Says the same, whatever the prompt."""

    said: str = ""

    def __init__(self, said):
        super().__init__()
        self.said = said

    @llm_completion_callback()
    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text=self.said)


def test_the_retriever_alone_finds_others(call):
    # Or nothing below would show more than that somebody cut at two.
    assert ids(call(retriever_of(2), "retrieve", QUESTION)) == ["p4", "p8"]


# Engines around engines


class Chosen(BaseSelector):
    """Chooses what it was told to choose."""

    def __init__(self, *indices):
        self.indices = indices

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def _select(self, choices, query):
        return SelectorResult(selections=[SingleSelection(index=i, reason="told") for i in self.indices])

    async def _aselect(self, choices, query):
        return self._select(choices, query)


def tools_of(*engines):
    return [QueryEngineTool.from_defaults(engine, name=f"tool{i}") for i, engine in enumerate(engines)]


def router_of(*chosen):
    tools = tools_of(engine_of(similarity_top_k=1), reranked_engine())
    return RouterQueryEngine(Chosen(*chosen), tools, llm=llm())


def test_a_router_hands_on_what_the_reranked_engine_it_chose_found(call):
    nodes = call(router_of(1), "query", QUESTION).source_nodes
    assert ids(nodes) == ["p5", "p3"]
    assert are_reranked(nodes)


def test_a_router_that_chooses_two_engines_hands_on_the_nodes_of_both(call):
    nodes = call(router_of(1, 0), "query", QUESTION).source_nodes
    assert [type(node) for node in nodes] == [RerankedNode, RerankedNode, NodeWithScore]
    assert ids(nodes)[:2] == ["p5", "p3"]


def test_a_router_retriever_hands_on_what_the_reranked_retriever_it_chose_found(call):
    tools = [RetrieverTool.from_defaults(one) for one in (retriever_of(1), rerank(retriever_of(), Overlap(), top_n=2))]
    nodes = call(RouterRetriever(Chosen(1), tools, llm=llm()), "retrieve", QUESTION)
    assert ids(nodes) == ["p5", "p3"]


class Split(BaseQuestionGenerator):
    """Asks each tool a question of its own."""

    def _get_prompts(self):
        return {}

    def _update_prompts(self, prompts):
        pass

    def generate(self, tools, query):
        return [SubQuestion(sub_question=asked, tool_name=f"tool{i}") for i, asked in enumerate([QUESTION, OTHER])]

    async def agenerate(self, tools, query):
        return self.generate(tools, query)


def sub_questions_over(*engines):
    return SubQuestionQueryEngine.from_defaults(
        tools_of(*engines), llm=llm(), question_gen=Split(), verbose=False, use_async=False
    )


def test_sub_questions_are_each_answered_from_their_best_nodes(call):
    engine = sub_questions_over(reranked_engine(top_n=1), reranked_engine(top_n=1))
    assert ids(call(engine, "query", "both").source_nodes)[-2:] == ["p5", "p4"]


def test_a_reranker_is_asked_the_sub_question(call):
    backends = [Overlap(), Overlap()]
    call(sub_questions_over(*(rerank(engine_of(), one) for one in backends)), "query", "both")
    assert [one.calls[-1].query for one in backends] == [QUESTION, OTHER]


def test_hyde_changes_what_is_searched_and_not_what_is_reranked_by(call):
    backend = Overlap()
    hyde = HyDEQueryTransform(llm=Says(PASSAGES[4]), include_original=False)
    call(TransformQueryEngine(engine_of(Rerank(backend), similarity_top_k=1), hyde), "query", QUESTION)
    assert (backend.calls[-1].query, backend.seen) == (QUESTION, [PASSAGES[4]])


def test_hyde_in_front_of_an_engine_finds_the_best_nodes(call):
    engine = TransformQueryEngine(reranked_engine(), HyDEQueryTransform(llm=Says(PASSAGES[4])))
    assert ids(call(engine, "query", QUESTION).source_nodes) == ["p5", "p3"]


def test_a_decomposed_query_is_what_is_reranked_by(call):
    backend = Overlap()
    engine = TransformQueryEngine(
        engine_of(Rerank(backend)), DecomposeQueryTransform(llm=Says(OTHER)), {"index_summary": "help pages"}
    )
    call(engine, "query", QUESTION)
    assert backend.calls[-1].query == OTHER


def test_a_citation_engine_splits_what_the_reranker_kept(call):
    engine = CitationQueryEngine.from_args(
        index_of(),
        llm=llm(),
        similarity_top_k=10,
        text_splitter=TokenTextSplitter(chunk_size=20, chunk_overlap=0),  # the default one may download a list of words
        node_postprocessors=[Rerank(Overlap(), top_n=1)],
    )
    texts = [node.node.get_content() for node in call(engine, "query", QUESTION).source_nodes]
    assert len(texts) > 1  # top_n counts what goes into the splitter
    assert all(text.split(":\n", 1)[1].strip() in PASSAGES[5] for text in texts)


def test_an_engine_that_streams_its_answer_has_the_best_nodes(call):
    engine = rerank(engine_of(streaming=True), Overlap(), top_n=2)
    assert ids(call(engine, "query", QUESTION).source_nodes) == ["p5", "p3"]


@pytest.mark.parametrize(
    ("target", "fix"),
    [
        (lambda: router_of(1), "rerank the engine or the retriever inside it"),
        (lambda: sub_questions_over(engine_of()), "rerank the engine or the retriever inside it"),
        (
            lambda: TransformQueryEngine(engine_of(), HyDEQueryTransform(llm=llm())),
            "rerank the engine or the retriever inside it",
        ),
        (lambda: CitationQueryEngine(retriever_of(), llm=llm()), r"build it with node_postprocessors=\[Rerank"),
        (lambda: chat_engine("context"), r"build it with node_postprocessors=\[Rerank"),
        (lambda: chat_engine("condense_question"), r"build it with node_postprocessors=\[Rerank"),
    ],
    ids=["router", "sub questions", "transform", "citations", "context chat", "condensing chat"],
)
def test_what_holds_no_place_for_a_reranker_is_refused_with_the_fix(target, fix):
    with pytest.raises(TypeError, match=fix):
        rerank(target(), Overlap())


# Agents and tools


class CallsTool(MockLLM):
    """Calls the tool "search" once with the question, and then answers."""

    @property
    def metadata(self):
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True)

    async def astream_chat_with_tools(self, tools, user_msg=None, chat_history=None, **kwargs):
        done = any(message.role is MessageRole.TOOL for message in chat_history)
        said = ("Send it back.", {}) if done else ("I shall search.", {"search": True})
        message = ChatMessage(said[0], role="assistant", additional_kwargs=said[1])

        async def stream():
            yield ChatResponse(message=message, delta=message.content)

        return stream()

    def get_tool_calls_from_response(self, response, error_on_no_tool_call=True, **kwargs):
        if not response.message.additional_kwargs:
            return []
        return [ToolSelection(tool_id="call-1", tool_name="search", tool_kwargs={"input": QUESTION})]


def searching_agent(tool):
    return FunctionAgent(name="helper", tools=[tool], llm=CallsTool())


def search_tool(engine):
    return QueryEngineTool.from_defaults(engine, name="search")


def run_agent(agent):
    """Return the answer of an agent and the outputs of its tools."""

    async def run():
        handler = agent.run(user_msg=QUESTION)
        outputs = [event.tool_output async for event in handler.stream_events() if isinstance(event, ToolCallResult)]
        return await handler, outputs

    return asyncio.run(run())


workflow_warnings = pytest.mark.filterwarnings(
    # llama-index-workflows of 2025 warns of itself.
    "ignore:ServiceManager is deprecated:DeprecationWarning:workflows",
    # An agent is a pydantic model and a Workflow, and Workflow looks at every attribute of itself, pydantic's old names too.
    "ignore:The `__fields(_set)?__` attribute is deprecated:DeprecationWarning",
    "ignore:Accessing the 'model_(computed_)?fields' attribute on the instance is deprecated:DeprecationWarning",
)
agents = pytest.mark.parametrize(
    "agent_of", [searching_agent, lambda tool: AgentWorkflow(agents=[searching_agent(tool)])], ids=["alone", "workflow"]
)


@agents
@workflow_warnings
def test_an_agents_tool_returns_the_best_nodes_in_order(agent_of):
    _, (output,) = run_agent(agent_of(search_tool(reranked_engine())))
    assert ids(output.raw_output.source_nodes) == ["p5", "p3"]
    assert are_reranked(output.raw_output.source_nodes)


@agents
@workflow_warnings
def test_an_agents_answer_comes_with_the_reranked_nodes_of_its_tool(agent_of):
    answer, _ = run_agent(agent_of(search_tool(reranked_engine())))
    assert str(answer) == "Send it back."
    assert are_reranked(answer.tool_calls[0].tool_output.raw_output.source_nodes)


@agents
@workflow_warnings
def test_an_agents_tool_reranks_by_the_async_way(agent_of):
    backend = Overlap()
    run_agent(agent_of(search_tool(rerank(engine_of(), backend))))
    assert backend.ways == ["async"]


@agents
@workflow_warnings
def test_an_agent_hears_of_a_backend_that_fails(agent_of):
    broken = rerank(engine_of(), Overlap(error=RuntimeError("the model is gone")))
    _, (output,) = run_agent(agent_of(search_tool(broken)))
    assert (output.is_error, "overlap" in output.content) == (True, True)


@workflow_warnings
def test_an_agents_retriever_tool_returns_the_best_nodes_in_order():
    tool = RetrieverTool.from_defaults(rerank(retriever_of(), Overlap(), top_n=2), name="search")
    _, (output,) = run_agent(searching_agent(tool))
    assert ids(output.raw_output) == ["p5", "p3"]


def test_a_retriever_tool_tells_the_model_the_pages_and_no_scores(call):
    tool = RetrieverTool.from_defaults(rerank(retriever_of(), Overlap(), top_n=2))
    said = call(tool, "call", QUESTION).content
    assert said.index(PASSAGES[5]) < said.index(PASSAGES[3])
    assert "score" not in said


def help_tools():
    described = {
        "refunds": "Gets money back for an item.",
        "addresses": "Changes an address.",
        "hours": "Opening hours.",
    }
    return [FunctionTool.from_defaults(lambda: "done", name=n, description=d) for n, d in described.items()]


def test_an_agents_own_tools_can_be_reranked(call):
    objects = ObjectIndex.from_objects(help_tools(), embed_model=HashEmbedding())
    retriever = objects.as_retriever(similarity_top_k=3, node_postprocessors=[Rerank(Overlap(), top_n=1)])
    assert [tool.metadata.name for tool in call(retriever, "retrieve", QUESTION)] == ["refunds"]


# Workflows


class Found(Event):
    nodes: list[NodeWithScore]


class Ranked(Event):
    nodes: list[NodeWithScore]


class Search(Workflow):
    """Three steps: search, rerank, answer."""

    def __init__(self, reranker):
        super().__init__(timeout=GUARD_S)
        self.retriever, self.reranker = retriever_of(), reranker

    @step
    async def search(self, ctx: Context, event: StartEvent) -> Found:
        return Found(nodes=await self.retriever.aretrieve(event.query))

    @step
    async def rerank(self, ctx: Context, event: Found) -> Ranked:
        ranked = Ranked(nodes=await self.reranker.apostprocess_nodes(event.nodes, query_str=QUESTION))
        ctx.write_event_to_stream(ranked)
        return ranked

    @step
    async def answer(self, ctx: Context, event: Ranked) -> StopEvent:
        return StopEvent(result=event.nodes)


def run_workflow(reranker):
    """Return the result of the workflow, and the nodes of the events that it sent out."""

    async def run():
        handler = Search(reranker).run(query=QUESTION)
        streamed = [event.nodes async for event in handler.stream_events() if isinstance(event, Ranked)]
        return await handler, streamed

    return asyncio.run(run())


@workflow_warnings
def test_a_workflow_carries_reranked_nodes_from_step_to_step():
    result, _ = run_workflow(Rerank(Overlap(), top_n=2))
    assert ids(result) == ["p5", "p3"]
    assert are_reranked(result)
    assert [node.retrieval_rank for node in result] == [3, 6]


@workflow_warnings
def test_a_workflow_streams_reranked_nodes():
    result, (streamed,) = run_workflow(Rerank(Overlap(), top_n=2))
    assert all(told is node for told, node in zip(streamed, result, strict=True))


@workflow_warnings
def test_a_workflow_step_reranks_by_the_async_way():
    backend = Overlap()
    run_workflow(Rerank(backend))
    assert backend.ways == ["async"]


# Retrievers around retrievers


def fusion_of(*retrievers, **options):
    options = {"llm": llm(), "num_queries": 1, "similarity_top_k": 20, "use_async": False, **options}
    return QueryFusionRetriever(list(retrievers), **options)


def shortest_first():
    return FakeBackend(score=lambda query, text: 1 / len(text))


def test_reciprocal_rank_fusion_goes_by_the_reranked_places_and_loses_nothing(call):
    orders = [ids(rerank(retriever_of(), one).retrieve(QUESTION)) for one in (Overlap(), shortest_first())]
    points = {name: sum(1 / (60 + order.index(name)) for order in orders) for name in orders[0]}
    fusion = fusion_of(
        rerank(retriever_of(), Overlap()), rerank(retriever_of(), shortest_first()), mode="reciprocal_rerank"
    )
    found = call(fusion, "retrieve", QUESTION)
    assert len(found) == len(PASSAGES)
    assert {node.node_id: node.score for node in found} == pytest.approx(points)


@pytest.mark.parametrize("mode", ["simple", "relative_score", "dist_based_score", "reciprocal_rerank"])
def test_every_mode_of_fusion_keeps_the_best_of_two_reranked_retrievers_first(call, mode):
    # places() scores are ranks, far outside [0, 1] before they are made comparable
    fusion = fusion_of(rerank(retriever_of(), Overlap()), rerank(retriever_of(), places()), mode=mode)
    found = call(fusion, "retrieve", QUESTION)
    assert ids(found)[:2] == ["p5", "p3"]
    assert len(found) == len(PASSAGES)


def test_hashes_of_nodes_are_those_they_had(call):
    index = index_of()
    before = {node.node_id: node.node.hash for node in index.as_retriever(similarity_top_k=10).retrieve(QUESTION)}
    found = call(rerank(index.as_retriever(similarity_top_k=10), Overlap()), "retrieve", QUESTION)
    assert {node.node_id: node.node.hash for node in found} == before


def test_what_a_fusion_brings_can_be_reranked(call):
    fusion = fusion_of(retriever_of(6), retriever_of(10), mode="reciprocal_rerank")
    nodes = call(rerank(fusion, Overlap(), top_n=2), "retrieve", QUESTION)
    assert ids(nodes) == ["p5", "p3"]
    assert all(node.retrieval_score > 1 / 60 for node in nodes)  # found by both


def test_what_a_fusion_brings_is_reranked_by_the_question_and_not_by_those_a_model_made(call):
    backend = Overlap()
    fusion = fusion_of(retriever_of(), llm=Says(OTHER), num_queries=2)
    call(rerank(fusion, backend), "retrieve", QUESTION)
    assert [one.query for one in backend.calls] == [QUESTION]


def test_queries_that_a_model_made_are_what_the_retrievers_inside_a_fusion_rerank_by(call):
    backend = Overlap()
    call(fusion_of(rerank(retriever_of(), backend), llm=Says(OTHER), num_queries=2), "retrieve", QUESTION)
    assert sorted(one.query for one in backend.calls) == sorted([QUESTION, OTHER])


def test_a_fusion_that_runs_its_own_loop_in_the_sync_way_reranks():
    fusion = fusion_of(rerank(retriever_of(), Overlap()), rerank(retriever_of(), Overlap()), use_async=True)
    assert ids(fusion.retrieve(QUESTION))[:2] == ["p5", "p3"]


def index_nodes():
    """Return nodes that only point at the passages."""
    return [IndexNode(id_=f"i{i}", text=text[:20], index_id=f"p{i}") for i, text in enumerate(PASSAGES)]


def pointing_retriever():
    index = VectorStoreIndex(index_nodes(), embed_model=HashEmbedding())
    return index.as_retriever(similarity_top_k=10)


def recursive_over(retriever):
    return RecursiveRetriever("root", {"root": retriever}, node_dict={node.node_id: node for node in nodes_of()})


def test_what_a_recursive_retriever_leads_to_is_reranked(call):
    backend = Overlap()
    nodes = call(rerank(recursive_over(pointing_retriever()), backend, top_n=2), "retrieve", QUESTION)
    assert ids(nodes) == ["p5", "p3"]
    assert sorted(backend.seen) == sorted(PASSAGES)


def test_a_recursive_retriever_follows_reranked_index_nodes_in_their_order(call):
    def wanted(query, text):
        return float(text.startswith(("Batteries", "Our shops")))

    root = rerank(pointing_retriever(), FakeBackend(score=wanted), top_n=2)
    assert sorted(ids(call(recursive_over(root), "retrieve", QUESTION))) == ["p1", "p9"]


def test_nodes_of_an_object_behind_an_index_node_are_reranked(call):
    pointer = IndexNode(id_="all", text="All that is known", index_id="all", obj=retriever_of())
    index = VectorStoreIndex(objects=[pointer], embed_model=HashEmbedding())
    assert ids(call(rerank(index.as_retriever(), Overlap(), top_n=2), "retrieve", QUESTION)) == ["p5", "p3"]


def merging_over(wrap):
    """Return a merging retriever over `wrap(retriever)`; passages 0 to 4 have the parent "first", the others "second"."""
    parents = {"first": PASSAGES[:5], "second": PASSAGES[5:]}
    children, documents = [], []
    for name, passages in parents.items():
        parent = TextNode(id_=name, text=" ".join(passages))
        those = [node for node in nodes_of() if node.text in passages]
        parent.relationships[NodeRelationship.CHILD] = [RelatedNodeInfo(node_id=node.node_id) for node in those]
        for node in those:
            node.relationships[NodeRelationship.PARENT] = RelatedNodeInfo(node_id=name)
        children += those
        documents += [parent, *those]
    storage = StorageContext.from_defaults()
    storage.docstore.add_documents(documents)
    index = VectorStoreIndex(children, storage_context=storage, embed_model=HashEmbedding())
    return AutoMergingRetriever(wrap(index.as_retriever(similarity_top_k=10)), storage)


def test_what_was_merged_is_reranked(call):
    nodes = call(rerank(merging_over(lambda retriever: retriever), Overlap()), "retrieve", QUESTION)
    assert (ids(nodes), nodes[0].score) == (["second", "first"], 1.0)


def test_a_merging_retriever_merges_what_was_reranked(call):
    reranked = {node.node_id: node.score for node in rerank(retriever_of(), Overlap()).retrieve(QUESTION)}
    nodes = call(merging_over(lambda retriever: rerank(retriever, Overlap())), "retrieve", QUESTION)
    mean = sum(reranked[f"p{i}"] for i in range(5)) / 5
    assert {node.node_id: node.score for node in nodes}["first"] == pytest.approx(mean)
    assert len(nodes) == 2


def test_a_merging_retriever_goes_by_what_the_reranker_kept(call):
    nodes = call(merging_over(lambda retriever: rerank(retriever, Overlap(), top_n=2)), "retrieve", QUESTION)
    assert ids(nodes) == ["p5", "p3"]  # too few of either parent's to merge


def test_more_candidates_are_asked_for_under_the_same_filters(call):
    nodes = nodes_of()
    for i, node in enumerate(nodes):
        node.metadata = {"shelf": "left" if i < 5 else "right"}
    filters = MetadataFilters(filters=[MetadataFilter(key="shelf", value="left")])
    retriever = VectorStoreIndex(nodes, embed_model=HashEmbedding()).as_retriever(similarity_top_k=1, filters=filters)
    found = call(rerank(retriever, Overlap(), top_n=10, candidates=10), "retrieve", QUESTION)
    assert (found[0].node_id, sorted(ids(found))) == ("p3", ["p0", "p1", "p2", "p3", "p4"])


def test_objects_are_retrieved_in_the_order_of_their_reranked_nodes(call):
    objects = ObjectIndex.from_objects(PASSAGES, embed_model=HashEmbedding())
    retriever = objects.as_retriever(similarity_top_k=10, node_postprocessors=[Rerank(Overlap(), top_n=2)])
    assert call(retriever, "retrieve", QUESTION) == [PASSAGES[5], PASSAGES[3]]


# Beside other postprocessors


def answer_nodes(call, *postprocessors, **options):
    return call(engine_of(*postprocessors, **options), "query", QUESTION).source_nodes


@pytest.mark.parametrize("backend", [Overlap, places], ids=["scores", "ranks"])
def test_a_reordering_for_long_contexts_follows_the_reranked_order(call, backend):
    order = ids(answer_nodes(call, Rerank(backend(), top_n=4)))
    around = ids(answer_nodes(call, Rerank(backend(), top_n=4), LongContextReorder()))
    assert around in ([order[0], order[2], order[3], order[1]], [order[1], order[3], order[2], order[0]])


def test_a_cutoff_after_the_reranker_goes_by_its_scores(call):
    kept = answer_nodes(call, Rerank(Overlap()), SimilarityPostprocessor(similarity_cutoff=0.5))
    assert ids(kept) == ["p5", "p3"]


def test_neighbours_that_came_without_a_score_are_reranked_too(call):
    nodes = nodes_of()
    for one, following in itertools.pairwise(nodes):
        one.relationships[NodeRelationship.NEXT] = RelatedNodeInfo(node_id=following.node_id)
        following.relationships[NodeRelationship.PREVIOUS] = RelatedNodeInfo(node_id=one.node_id)
    index = VectorStoreIndex(nodes, embed_model=HashEmbedding())
    around = PrevNextNodePostprocessor(docstore=index.docstore, num_nodes=2, mode="both")
    engine = index.as_query_engine(similarity_top_k=1, llm=llm(), node_postprocessors=[around, Rerank(Overlap())])
    found = call(engine, "query", QUESTION).source_nodes
    assert ids(found)[:2] == ["p5", "p3"]
    assert [node.node_id for node in found if node.retrieval_score is not None] == ["p4"]
    assert all(node.score is not None for node in found)


def windows():
    """Return nodes that are a heading to search by, with the passage in their metadata to answer from."""
    hidden = {"excluded_embed_metadata_keys": ["window"], "excluded_llm_metadata_keys": ["window"]}
    return [
        TextNode(id_=f"p{i}", text=f"Heading {i}", metadata={"window": text}, **hidden)
        for i, text in enumerate(PASSAGES)
    ]


def window_engine(*postprocessors):
    index = VectorStoreIndex(windows(), embed_model=HashEmbedding())
    return index.as_query_engine(similarity_top_k=10, llm=llm(), node_postprocessors=list(postprocessors))


def test_a_window_put_in_place_before_the_reranker_is_what_is_reranked(call):
    place = MetadataReplacementPostProcessor(target_metadata_key="window")
    answer = call(window_engine(place, Rerank(Overlap(), top_n=2)), "query", QUESTION)
    assert ids(answer.source_nodes) == ["p5", "p3"]


def test_a_window_put_in_place_after_the_reranker_is_what_is_answered_from(call):
    backend, place = Overlap(), MetadataReplacementPostProcessor(target_metadata_key="window")
    answer = call(window_engine(Rerank(backend, top_n=1), place), "query", "Heading 7")
    assert sorted(backend.seen) == [f"Heading {i}" for i in range(10)]
    assert PASSAGES[7] in str(answer)


def test_a_reranker_can_be_told_to_look_at_the_window(call):
    rerank = Rerank(Overlap(), top_n=2, key=lambda node: node.metadata["window"])
    assert ids(call(window_engine(rerank), "query", QUESTION).source_nodes) == ["p5", "p3"]


def test_a_second_reranker_sees_what_the_first_kept(call):
    first, second = Rerank(Overlap(), top_n=4), Overlap()
    nodes = answer_nodes(call, first, Rerank(second, top_n=1))
    assert (len(second.seen), ids(nodes)) == (4, ["p5"])


# Chats


def chat_engine(mode, *postprocessors, model=None):
    return index_of().as_chat_engine(
        chat_mode=mode,
        llm=model or llm(),
        memory=memory(),
        similarity_top_k=10,
        node_postprocessors=list(postprocessors),
    )


def history():
    return [ChatMessage("I bought a lamp.", role="user"), ChatMessage("A fine lamp.", role="assistant")]


@pytest.mark.parametrize("mode", ["condense_plus_context", "best", "condense_question"])
def test_a_chat_reranks_by_the_condensed_question(call, mode):
    backend = Overlap()
    call(chat_engine(mode, Rerank(backend), model=Says(QUESTION)), "chat", "and the money?", history())
    assert [one.query for one in backend.calls] == [QUESTION]


def test_a_chat_that_does_not_condense_reranks_by_the_message(call):
    backend = Overlap()
    call(chat_engine("context", Rerank(backend), model=Says(OTHER)), "chat", QUESTION, history())
    assert [one.query for one in backend.calls] == [QUESTION]


@pytest.mark.parametrize("mode", ["best", "condense_question"])
def test_a_chat_answers_from_the_best_nodes(call, mode):
    answer = call(chat_engine(mode, Rerank(Overlap(), top_n=2)), "chat", QUESTION)
    assert ids(answer.source_nodes) == ["p5", "p3"]
    assert are_reranked(answer.source_nodes)


@pytest.mark.parametrize("mode", ["context", "condense_plus_context"])
def test_a_chat_that_streams_its_answer_has_the_best_nodes(mode):
    answer = chat_engine(mode, Rerank(Overlap(), top_n=2)).stream_chat(QUESTION)
    list(answer.response_gen)
    assert ids(answer.source_nodes) == ["p5", "p3"]


def test_a_chat_takes_a_reranked_retriever(call):
    retriever = rerank(retriever_of(), Overlap(), top_n=2)
    chat = CondensePlusContextChatEngine.from_defaults(retriever, llm=llm(), memory=memory())
    assert ids(call(chat, "chat", QUESTION).source_nodes) == ["p5", "p3"]


def test_a_chat_takes_a_reranked_engine(call):
    chat = CondenseQuestionChatEngine.from_defaults(reranked_engine(), llm=llm(), memory=memory())
    assert ids(call(chat, "chat", QUESTION).source_nodes) == ["p5", "p3"]


# Evaluation


def evaluator_of(retriever, **options):
    return RetrieverEvaluator.from_metric_names(["mrr", "hit_rate"], retriever=retriever, **options)


def measured(evaluator, expected):
    return asyncio.run(evaluator.aevaluate(QUESTION, expected)).metric_vals_dict


def test_an_evaluator_measures_a_reranked_retriever():
    evaluator = evaluator_of(rerank(retriever_of(), Overlap(), top_n=2))
    assert measured(evaluator, ["p3"]) == {"mrr": 0.5, "hit_rate": 1.0}


def test_an_evaluator_measures_a_retriever_with_a_postprocessor():
    evaluator = evaluator_of(retriever_of(), node_postprocessors=[Rerank(Overlap(), top_n=2)])
    assert measured(evaluator, ["p3"]) == {"mrr": 0.5, "hit_rate": 1.0}


def test_a_sync_evaluation_reranks():
    result = evaluator_of(rerank(retriever_of(), Overlap(), top_n=2)).evaluate(QUESTION, ["p5"])
    assert (result.retrieved_ids, result.metric_vals_dict["mrr"]) == (["p5", "p3"], 1.0)


def test_an_evaluation_leaves_the_event_loop_free():
    reached, opened = threading.Event(), threading.Event()

    class Blocking(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            reached.set()
            assert opened.wait(GUARD_S), "the event loop stood still"
            return super()._score(query, texts, top_n=top_n)

    async def open_it():
        while not reached.is_set():
            await asyncio.sleep(0.001)
        opened.set()

    async def both():
        evaluator = evaluator_of(rerank(retriever_of(), Blocking()))
        return await asyncio.gather(evaluator.aevaluate(QUESTION, ["p5"]), open_it())

    assert asyncio.run(both())[0].metric_vals_dict["mrr"] == 1.0


# What a model is shown


def same_order(**options):
    return Rerank(FakeBackend(score=lambda query, text: 0.5), **options)


@pytest.mark.parametrize("options", [{}, {"keep_retrieval_score": True}], ids=["plain", "keep_retrieval_score"])
@pytest.mark.parametrize("mode", ["compact", "refine", "tree_summarize", "accumulate"])
def test_a_prompt_is_the_same_with_reranking_and_without(call, mode, options):
    def prompt(*postprocessors):
        return str(call(engine_of(*postprocessors, response_mode=mode), "query", QUESTION))

    assert prompt(same_order(**options)) == prompt()


def test_a_chat_prompt_is_the_same_with_reranking_and_without(call):
    def prompt(*postprocessors):
        return str(call(chat_engine("condense_plus_context", *postprocessors), "chat", QUESTION))

    assert prompt(same_order()) == prompt()


def test_the_nodes_in_the_index_are_not_changed_by_a_query(call):
    index = index_of()
    before = {name: node.to_dict() for name, node in index.docstore.docs.items()}
    engine = index.as_query_engine(similarity_top_k=10, llm=llm(), node_postprocessors=[Rerank(Overlap(), top_n=2)])
    call(engine, "query", QUESTION)
    assert {name: node.to_dict() for name, node in index.docstore.docs.items()} == before


def test_an_engine_can_retrieve_and_synthesize_apart(call):
    engine: RetrieverQueryEngine = reranked_engine()
    nodes = call(engine, "retrieve", QueryBundle(QUESTION))
    answer = call(engine, "synthesize", QueryBundle(QUESTION), nodes)
    assert all(kept is node for kept, node in zip(answer.source_nodes, nodes, strict=True))
