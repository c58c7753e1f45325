import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
pytest.importorskip("langchain_classic", reason="needs: pip install langchain-classic")

from langchain_classic.chains import create_retrieval_chain
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker, DocumentCompressorPipeline
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.runnables import RunnableLambda
from langchain_stage import BEST, PAGES, QUESTION, FromList, Tracer, documents, pages, scores, shape

from langchain_rerankx import Reranker, rerank
from rerankx.testing import FakeBackend, word_overlap


def base():
    return FromList(found=documents(), k=5)


def test_it_is_the_compressor_of_a_contextual_compression_retriever(invoke):
    retriever = ContextualCompressionRetriever(base_compressor=Reranker(FakeBackend(), top_n=2), base_retriever=base())
    assert pages(invoke(retriever, QUESTION)) == BEST[:2]


def test_it_is_seen_in_the_trace_of_a_contextual_compression_retriever(invoke):
    tracer = Tracer()
    retriever = ContextualCompressionRetriever(base_compressor=Reranker(FakeBackend()), base_retriever=base())
    invoke(retriever, QUESTION, {"callbacks": [tracer]})
    assert [shape(root) for root in tracer.roots] == [
        ("retriever", "ContextualCompressionRetriever", [("retriever", "FromList", []), ("chain", "Reranker", [])])
    ]


def test_it_is_a_part_of_a_compressor_pipeline(compress):
    pipeline = DocumentCompressorPipeline(
        transformers=[Reranker(FakeBackend(), top_n=3), Reranker(FakeBackend(), top_n=1)]
    )
    assert pages(compress(pipeline, documents(), QUESTION)) == BEST[:1]


def test_a_retrieval_chain_takes_the_retriever(invoke):
    answer = RunnableLambda(lambda given: len(given["context"]))
    chain = create_retrieval_chain(rerank(base(), FakeBackend(), top_n=2), answer)
    given = invoke(chain, {"input": QUESTION})
    assert (pages(given["context"]), given["answer"]) == (BEST[:2], 2)


def test_the_cross_encoder_reranker_of_langchain_can_rerank(invoke):
    class Overlap(BaseCrossEncoder):
        def score(self, text_pairs):
            return [word_overlap(*pair) for pair in text_pairs]

    found = invoke(rerank(base(), CrossEncoderReranker(model=Overlap(), top_n=4), top_n=2), QUESTION)
    assert pages(found) == BEST[:2]


def test_a_contextual_compression_retriever_can_be_reranked_again(invoke):
    inner = ContextualCompressionRetriever(
        base_compressor=Reranker(FakeBackend(score=lambda query, text: -len(text) / 100 + 1), top_n=3),
        base_retriever=base(),
    )
    found = invoke(rerank(inner, FakeBackend()), QUESTION)
    assert pages(found)[0] == PAGES[3]
    assert scores(found)[0] == 1.0
