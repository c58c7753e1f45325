"""LlamaIndex's BM25 retriever, which raises when it is asked for more nodes than it holds."""

import asyncio

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")
pytest.importorskip("llama_index.retrievers.bm25", reason="needs: pip install llama-index-retrievers-bm25")

from hard_stage import PASSAGES, index_of, nodes_of
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.retrievers.bm25 import BM25Retriever
from llamaindex_stage import QUESTION, Overlap, ids, llm

from llamaindex_rerankx import rerank


@pytest.fixture(params=["sync", "async"])
def retrieve(request):
    """Returns `retrieve(retriever)`, by the sync or by the async way."""

    def call(retriever):
        return retriever.retrieve(QUESTION) if request.param == "sync" else asyncio.run(retriever.aretrieve(QUESTION))

    return call


def bm25(k=2):
    return BM25Retriever.from_defaults(nodes=nodes_of(), similarity_top_k=k)


def test_what_words_found_is_reranked(retrieve):
    assert ids(retrieve(rerank(bm25(10), Overlap(), top_n=2))) == ["p5", "p3"]


def test_more_candidates_than_there_are_nodes_are_all_the_nodes(retrieve):
    backend = Overlap()
    found = retrieve(rerank(bm25(), backend, top_n=3, candidates=1000))
    assert (len(backend.seen), len(found)) == (len(PASSAGES), 3)


def test_fewer_candidates_than_there_are_nodes_are_that_many(retrieve):
    backend = Overlap()
    retrieve(rerank(bm25(), backend, top_n=3, candidates=7))
    assert len(backend.seen) == 7


def test_the_retriever_given_brings_what_it_brought(retrieve):
    inner = bm25()
    before = ids(inner.retrieve(QUESTION))
    retrieve(rerank(inner, Overlap(), candidates=1000))
    assert (inner.similarity_top_k, ids(inner.retrieve(QUESTION))) == (2, before)


def test_an_engine_over_words_is_reranked_with_more_candidates_than_there_are_nodes():
    backend = Overlap()
    engine = RetrieverQueryEngine.from_args(bm25(), llm=llm())
    found = rerank(engine, backend, top_n=2, candidates=1000).query(QUESTION).source_nodes
    assert (ids(found), len(backend.seen)) == (["p5", "p3"], len(PASSAGES))


def test_words_and_vectors_fused_are_reranked(retrieve):
    inner = [bm25(6), index_of().as_retriever(similarity_top_k=6)]
    fusion = QueryFusionRetriever(
        inner, llm=llm(), num_queries=1, similarity_top_k=20, mode="reciprocal_rerank", use_async=False
    )
    backend = Overlap()
    assert ids(retrieve(rerank(fusion, backend, top_n=2))) == ["p5", "p3"]
    either = {node.text for one in inner for node in one.retrieve(QUESTION)}
    assert sorted(backend.seen) == sorted(either)


def test_reranked_words_and_reranked_vectors_are_the_same_nodes_to_a_fusion(retrieve):
    both = [rerank(one, Overlap()) for one in (bm25(10), index_of().as_retriever(similarity_top_k=10))]
    fusion = QueryFusionRetriever(
        both, llm=llm(), num_queries=1, similarity_top_k=20, mode="reciprocal_rerank", use_async=False
    )
    found = retrieve(fusion)
    assert len(found) == len(PASSAGES)
    assert (ids(found)[:2], found[0].score) == (["p5", "p3"], pytest.approx(2 / 60))
