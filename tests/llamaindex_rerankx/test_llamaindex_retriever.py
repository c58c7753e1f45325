import asyncio
import logging
from types import SimpleNamespace

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.postprocessor import LongContextReorder, SimilarityPostprocessor
from llama_index.core.query_engine import CustomQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, TextNode
from llamaindex_stage import PASSAGES, QUESTION, Callbacks, Overlap, ids, index_of, llm, memory, retrieved

from llamaindex_rerankx import Rerank, RerankedNode, RerankRetriever, rerank
from rerankx import Reranker


class Fixed(BaseRetriever):
    """Brings what it was given; its k is nobody's business."""

    def __init__(self, nodes):
        self.nodes = nodes  # and does not call LlamaIndex's __init__, as some do not

    def _retrieve(self, query_bundle):
        return self.nodes

    async def _aretrieve(self, query_bundle):
        return self.nodes[::-1]


@pytest.fixture(params=["sync", "async"])
def retrieve(request):
    """Returns `retrieve(retriever, query)`, by the sync or by the async way."""

    def call(retriever, query=QUESTION):
        return retriever.retrieve(query) if request.param == "sync" else asyncio.run(retriever.aretrieve(query))

    call.how = request.param
    return call


def test_a_retriever_becomes_a_retriever_whose_nodes_are_reranked(retrieve):
    retriever = rerank(index_of().as_retriever(similarity_top_k=10), Overlap(), top_n=2)
    assert isinstance(retriever, RerankRetriever)
    nodes = retrieve(retriever)
    assert ids(nodes) == ["p5", "p3"]
    assert all(isinstance(node, RerankedNode) for node in nodes)


def test_async_goes_through_the_async_ways_of_both(retrieve):
    backend = Overlap()
    nodes = retrieve(RerankRetriever(Fixed(retrieved()[:3]), backend))
    assert backend.ways == [retrieve.how]
    assert backend.seen == (PASSAGES[:3] if retrieve.how == "sync" else PASSAGES[2::-1])
    assert len(nodes) == 3


@pytest.mark.parametrize(
    "backend", [Overlap(), Reranker(Overlap()), Rerank(Overlap())], ids=["backend", "reranker", "postprocessor"]
)
def test_a_retriever_takes_whatever_reranks(retrieve, backend):
    assert ids(retrieve(RerankRetriever(Fixed(retrieved()), backend)))[:2] == ["p5", "p3"]


def test_any_postprocessor_can_be_given(retrieve):
    assert ids(retrieve(rerank(Fixed(retrieved()), SimilarityPostprocessor(similarity_cutoff=0.885)))) in (
        ["p0", "p1"],
        ["p1", "p0"],
    )


def test_arguments_beside_a_ready_postprocessor_are_refused():
    with pytest.raises(TypeError, match="top_n, on_error given with a ready Rerank"):
        rerank(Fixed([]), Rerank(Overlap()), top_n=2, on_error="raise")


def test_what_it_is_made_of_can_be_seen():
    inner = Fixed([])
    retriever = RerankRetriever(inner, Overlap(), top_n=3)
    assert retriever.retriever is inner
    assert retriever.postprocessor.top_n == 3


def test_prompts_of_the_inner_retriever_stay_within_reach():
    fusion = QueryFusionRetriever([Fixed([])], llm=llm(), num_queries=1)
    fusion._get_prompts = lambda: {"gen": "a prompt"}
    assert list(rerank(fusion, Overlap()).get_prompts()) == ["retriever:gen"]


def test_retriever_and_reranker_report_to_the_callbacks_of_the_inner_retriever(retrieve):
    heard = Callbacks()
    retrieve(rerank(index_of(callback_manager=CallbackManager([heard])).as_retriever(), Overlap()))
    kinds = [kind for kind, _ in heard.started if kind in (CBEventType.RETRIEVE, CBEventType.RERANKING)]
    assert kinds[-3:] == [CBEventType.RETRIEVE, CBEventType.RETRIEVE, CBEventType.RERANKING]


def test_a_given_callback_manager_hears_the_reranking(retrieve):
    heard = Callbacks()
    retrieve(rerank(Fixed(retrieved()), Overlap(), callback_manager=CallbackManager([heard])))
    assert CBEventType.RERANKING in [kind for kind, _ in heard.started]


def test_a_ready_postprocessor_keeps_its_callback_manager():
    manager = CallbackManager([Callbacks()])
    ready = Rerank(Overlap(), callback_manager=manager)
    RerankRetriever(index_of().as_retriever(), ready)
    assert ready.callback_manager is manager


def test_the_retrieval_has_a_span_by_both_ways(retrieve, spans):
    retrieve(rerank(Fixed(retrieved()), Overlap()))
    method = {"sync": "_retrieve", "async": "_aretrieve"}[retrieve.how]
    assert f"RerankRetriever.{method}" in [span.id_.split("-")[0] for span in spans.completed_spans]


def test_fusing_two_reranked_retrievers_counts_each_node_twice(retrieve):
    # Fusion knows nodes by their hash, which a score written into metadata would change.
    index = index_of()
    both = [rerank(index.as_retriever(similarity_top_k=10), Overlap(weight=w), top_n=5) for w in (1.0, 0.5)]
    fusion = QueryFusionRetriever(
        both, llm=llm(), num_queries=1, similarity_top_k=10, mode="reciprocal_rerank", use_async=False
    )
    nodes = retrieve(fusion)
    assert len(nodes) == 5
    assert (nodes[0].node_id, nodes[0].score) == ("p5", pytest.approx(2 / 60))


# candidates


def test_candidates_widen_a_copy_of_the_retriever(retrieve):
    inner, backend = index_of().as_retriever(similarity_top_k=2), Overlap()
    nodes = retrieve(rerank(inner, backend, top_n=3, candidates=8))
    assert (len(backend.seen), len(nodes)) == (8, 3)
    assert (inner.similarity_top_k, len(inner.retrieve(QUESTION))) == (2, 2)


def test_with_candidates_alone_as_many_come_back_as_before(retrieve):
    inner = index_of().as_retriever(similarity_top_k=3)
    assert len(retrieve(rerank(inner, Overlap(), candidates=8))) == 3


class Counting(BaseRetriever):
    """Raises, as LlamaIndex's BM25 does, when it is asked for more than it holds."""

    def __init__(self):
        self.similarity_top_k = 2
        self.bm25 = SimpleNamespace(scores={"num_docs": len(PASSAGES)})
        super().__init__()

    def _retrieve(self, query_bundle):
        if self.similarity_top_k > len(PASSAGES):
            raise ValueError("k is larger than the corpus")
        return retrieved()[: self.similarity_top_k]


def test_a_retriever_is_asked_for_no_more_than_it_holds(retrieve):
    backend = Overlap()
    assert len(retrieve(rerank(Counting(), backend, candidates=1000, top_n=3), QUESTION)) == 3
    assert len(backend.seen) == len(PASSAGES)


@pytest.mark.parametrize("own", [10, 1], ids=["it has them", "it has to ask for them"])
def test_a_reranking_retriever_is_asked_for_that_many_of_its_best(retrieve, own):
    first, second = Overlap(), Overlap()
    inner = index_of().as_retriever(similarity_top_k=own)
    once = rerank(inner, first, top_n=1)
    twice = rerank(once, second, candidates=4, top_n=2)
    assert len(retrieve(twice, QUESTION)) == 2
    assert (len(first.seen), len(second.seen)) == (max(own, 4), 4)
    assert (once.postprocessor.top_n, inner.similarity_top_k) == (1, own)


def test_with_candidates_as_many_come_back_as_from_the_reranking_retriever(retrieve):
    once = rerank(index_of().as_retriever(similarity_top_k=3), Overlap())
    assert len(retrieve(rerank(once, Overlap(), candidates=6), QUESTION)) == 3
    once = rerank(index_of().as_retriever(similarity_top_k=8), Overlap(), top_n=2)
    assert len(retrieve(rerank(once, Overlap(), candidates=6), QUESTION)) == 2


def test_a_number_that_nobody_chose_is_no_reason_to_warn(retrieve, caplog):
    once = rerank(index_of().as_retriever(), Overlap(), top_n=2)
    retrieve(rerank(once, Overlap(), top_n=1, candidates=8), QUESTION)
    assert [record for record in caplog.records if "nothing to choose from" in record.getMessage()] == []


@pytest.mark.parametrize(("own", "asked"), [(3, 20), (None, None), (30, 30)])
def test_candidates_reach_the_bound_of_a_hybrid_search(own, asked):
    hybrid = index_of().as_retriever(vector_store_query_mode="hybrid", similarity_top_k=2, hybrid_top_k=own)
    wider = rerank(hybrid, Overlap(), candidates=20).retriever
    asks = wider._build_vector_store_query(QueryBundle(QUESTION, embedding=[0.0] * 64))
    assert (asks.similarity_top_k, asks.hybrid_top_k) == (20, asked)
    assert hybrid._hybrid_top_k == own


def test_a_number_that_belongs_to_a_retriever_inside_is_left_alone():
    class Around(Fixed):
        similarity_top_k = property(
            lambda self: self.nodes.similarity_top_k,
            lambda self, number: setattr(self.nodes, "similarity_top_k", number),
        )

    inner = index_of().as_retriever(similarity_top_k=3)
    with pytest.raises(TypeError, match="Around has no similarity_top_k of its own"):
        rerank(Around(inner), Overlap(), candidates=20)
    assert inner.similarity_top_k == 3


def test_what_a_node_stands_for_is_looked_up_before_the_reranking_alone(retrieve):
    found = [
        NodeWithScore(
            node=IndexNode(
                text=f"a{i}",
                index_id=f"a{i}",
                obj=IndexNode(text=page, index_id=f"b{i}", obj=TextNode(text=f"leaf {i}")),
            ),
            score=0.5,
        )
        for i, page in enumerate(PASSAGES)
    ]
    inner = Fixed(found)
    BaseRetriever.__init__(inner)
    nodes = retrieve(rerank(inner, Overlap()), QUESTION)
    assert {type(node) for node in nodes} == {RerankedNode}
    assert [node.score for node in nodes] == sorted((node.score for node in nodes), reverse=True)


def test_a_degraded_first_stage_is_seen_behind_the_second(retrieve):
    once = rerank(index_of().as_retriever(), Overlap(error=RuntimeError("no")), on_error="input_order")
    assert {node.degraded for node in retrieve(rerank(once, Overlap()), QUESTION)} == {"input_order"}


def test_a_reranking_retriever_whose_postprocessor_has_no_number_is_refused():
    once = RerankRetriever(index_of().as_retriever(), LongContextReorder())
    with pytest.raises(TypeError, match="LongContextReorder has no top_n for candidates=5"):
        rerank(once, Overlap(), candidates=5)


def test_candidates_that_are_not_more_than_top_n_are_warned_of(retrieve, caplog):
    retrieve(rerank(index_of().as_retriever(), Overlap(), top_n=4, candidates=4))
    assert [r.levelno for r in caplog.records if "LlamaIndex's default is 2" in r.message] == [logging.WARNING]


def test_candidates_for_a_retriever_without_the_knob_name_it():
    with pytest.raises(TypeError, match="Fixed has no similarity_top_k of its own that candidates=20 could set"):
        rerank(Fixed([]), Overlap(), candidates=20)


def test_candidates_for_a_retriever_whose_knob_is_fixed_name_it():
    class Stiff(Fixed):
        similarity_top_k = property(lambda self: 2)

    with pytest.raises(TypeError, match="Stiff has no similarity_top_k of its own that candidates=20 could set"):
        rerank(Stiff([]), Overlap(), candidates=20)


@pytest.mark.parametrize(("candidates", "error"), [(0, ValueError), (True, TypeError), ("20", TypeError)])
def test_wrong_candidates_are_refused(candidates, error):
    with pytest.raises(error, match="candidates must be"):
        rerank(index_of().as_retriever(), Overlap(), candidates=candidates)


# Anything else


@pytest.mark.parametrize(
    ("target", "fix"),
    [
        (lambda: index_of(), r"VectorStoreIndex .* index\.as_retriever\(\) or index\.as_query_engine\(\)"),
        (
            lambda: SimpleChatEngine.from_defaults(llm=llm(), memory=memory()),
            r"SimpleChatEngine .* node_postprocessors=\[Rerank",
        ),
        (lambda: Custom(), r"Custom .* rerank the engine or the retriever inside it"),
        (lambda: retrieved(), r"list .*postprocess_nodes\(nodes, query_str=\.\.\.\)"),
        (lambda: "retriever", "str .* pass a BaseRetriever or a RetrieverQueryEngine"),
        (lambda: None, "NoneType .* pass a BaseRetriever or a RetrieverQueryEngine"),
    ],
    ids=["index", "chat engine", "other engine", "nodes", "string", "nothing"],
)
def test_what_cannot_be_reranked_is_refused_with_the_fix(target, fix):
    with pytest.raises(TypeError, match=fix):
        rerank(target(), Overlap())


class Custom(CustomQueryEngine):
    def custom_query(self, query_str):
        return query_str


def test_a_retriever_that_is_none_is_refused():
    with pytest.raises(TypeError, match="pass a BaseRetriever"):
        RerankRetriever("not a retriever", Overlap())


def test_query_bundles_reach_the_reranker_unchanged(retrieve):
    backend = Overlap()
    retrieve(RerankRetriever(Fixed(retrieved()), backend), QueryBundle("one", custom_embedding_strs=["two"]))
    assert backend.calls[-1].query == "one"


def test_candidates_for_a_fusion_retriever_are_refused_since_its_own_number_only_cuts():
    fusion = QueryFusionRetriever([index_of().as_retriever()], llm=llm(), num_queries=1)
    with pytest.raises(
        TypeError, match="QueryFusionRetriever has no similarity_top_k of its own that candidates=20 could set"
    ):
        rerank(fusion, Overlap(), candidates=20)
