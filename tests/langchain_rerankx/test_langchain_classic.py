import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
pytest.importorskip("langchain_classic", reason="needs: pip install langchain-classic")

from langchain_classic.chains import create_history_aware_retriever, create_retrieval_chain
from langchain_classic.chains.combine_documents import create_stuff_documents_chain
from langchain_classic.chains.retrieval_qa.base import RetrievalQA
from langchain_classic.retrievers import (
    ContextualCompressionRetriever,
    EnsembleRetriever,
    MultiQueryRetriever,
    ParentDocumentRetriever,
)
from langchain_classic.retrievers.document_compressors import (
    CrossEncoderReranker,
    DocumentCompressorPipeline,
    LLMListwiseRerank,
)
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.output_parsers import PydanticOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.stores import InMemoryStore
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_stage import BEST, PAGES, QUESTION, FromList, Tracer, documents, pages, runs, scores, shape, store
from langchain_text_splitters import CharacterTextSplitter

from langchain_rerankx import Reranker, rerank
from rerankx.testing import FakeBackend, word_overlap


def base():
    return FromList(found=documents(), k=5)


class Overlap(BaseCrossEncoder):
    def score(self, text_pairs):
        return [word_overlap(*pair) for pair in text_pairs]


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


# Contextual compression


def test_a_contextual_compression_retriever_chooses_among_what_its_vector_store_is_asked_for(invoke):
    backend = FakeBackend()
    retriever = ContextualCompressionRetriever(
        base_compressor=Reranker(backend, top_n=2), base_retriever=store().as_retriever(search_kwargs={"k": 5})
    )
    assert pages(invoke(retriever, QUESTION)) == BEST[:2]
    assert len(backend.calls[0].texts) == 5


def test_a_contextual_compression_retriever_returns_the_scores(invoke):
    retriever = ContextualCompressionRetriever(base_compressor=Reranker(FakeBackend(), top_n=1), base_retriever=base())
    [best] = invoke(retriever, QUESTION)
    assert (best.id, best.metadata) == ("id-3", {"source": {"page": 3}, "relevance_score": 1.0})


# Ensembles


def halves(**settings):
    """Return two reranked retrievers: of the first two pages, and of the others."""
    return [rerank(FromList(found=found), FakeBackend(), **settings) for found in (documents()[:2], documents()[2:])]


def test_an_ensemble_fuses_the_orders_of_reranked_retrievers(invoke):
    found = invoke(EnsembleRetriever(retrievers=halves(top_n=2)), QUESTION)
    assert pages(found) == [PAGES[1], PAGES[3], PAGES[0], PAGES[4]]  # each half's best, then each half's second


def test_an_ensemble_shows_both_rerankings(invoke):
    tracer = Tracer()
    invoke(EnsembleRetriever(retrievers=halves()), QUESTION, {"callbacks": [tracer]})
    reranked = ("retriever", "RerankRetriever", [("retriever", "FromList", []), ("chain", "Reranker", [])])
    assert shape(tracer.roots[0]) == ("retriever", "EnsembleRetriever", [reranked, reranked])


def test_an_ensemble_passes_configurable_on_to_a_reranked_retriever(invoke):
    configurable = store().as_retriever().configurable_fields(search_kwargs=ConfigurableField(id="search"))
    ensemble = EnsembleRetriever(retrievers=[rerank(configurable, FakeBackend())])
    assert [spec.id for spec in ensemble.config_specs] == ["search"]
    assert len(invoke(ensemble, QUESTION, {"configurable": {"search": {"k": 1}}})) == 1


def test_an_ensemble_is_reranked(invoke):
    ensemble = EnsembleRetriever(retrievers=[FromList(found=documents()[:2]), FromList(found=documents()[2:])])
    assert pages(invoke(rerank(ensemble, FakeBackend(), top_n=3), QUESTION)) == BEST[:3]


def test_an_ensemble_cannot_be_asked_for_candidates():
    ensemble = EnsembleRetriever(retrievers=[FromList(found=documents())])
    with pytest.raises(
        ValueError, match=r"candidates=5 cannot be passed on: EnsembleRetriever has no field k or top_k"
    ):
        rerank(ensemble, FakeBackend(), candidates=5)


# Other retrievers


def test_what_several_queries_found_is_reranked_by_the_users_own(invoke):
    class Holding(BaseRetriever):
        """Returns the pages that hold the query."""

        def _get_relevant_documents(self, query, *, run_manager):
            return [document for document in documents() if query in document.page_content]

    several = MultiQueryRetriever.from_llm(Holding(), FakeListChatModel(responses=["Gift\nwarehouse\nSend it"]))
    backend = FakeBackend()
    assert pages(invoke(rerank(several, backend), QUESTION)) == [PAGES[3], PAGES[2], PAGES[0]]
    assert [call.query for call in backend.calls] == [QUESTION]


def parents():
    """Return a retriever that searches parts of pages, and returns pages."""
    retriever = ParentDocumentRetriever(
        vectorstore=InMemoryVectorStore(DeterministicFakeEmbedding(size=8)),
        docstore=InMemoryStore(),
        child_splitter=CharacterTextSplitter(separator=" ", chunk_size=100, chunk_overlap=0),
        search_kwargs={"k": 2},
    )
    retriever.add_documents(documents())
    return retriever


def test_parent_documents_are_reranked(invoke):
    backend = FakeBackend()
    found = invoke(rerank(parents(), backend, candidates=5, top_n=3), QUESTION)
    assert pages(found) == BEST[:3]
    assert sorted(backend.calls[0].texts) == sorted(PAGES)


def test_parent_documents_are_as_many_as_before(invoke):
    assert len(invoke(rerank(parents(), FakeBackend(), candidates=5), QUESTION)) == 2


# Chains


def test_a_retrieval_chain_with_a_history_asks_for_the_input_alone(invoke):
    backend = FakeBackend()
    chain = create_retrieval_chain(
        rerank(base(), backend, top_n=2), RunnableLambda(lambda given: given["chat_history"])
    )
    given = invoke(chain, {"input": QUESTION, "chat_history": [("human", "hello")]})
    assert (pages(given["context"]), given["answer"]) == (BEST[:2], [("human", "hello")])
    assert [call.query for call in backend.calls] == [QUESTION]


@pytest.mark.parametrize(
    ("history", "asked"), [([], "and gift cards"), ([("human", "hello")], QUESTION)], ids=["first", "follow-up"]
)
def test_a_follow_up_question_is_reranked_as_the_model_puts_it(invoke, history, asked):
    backend = FakeBackend()
    prompt = ChatPromptTemplate([("placeholder", "{chat_history}"), ("human", "{input}")])
    aware = create_history_aware_retriever(
        FakeListChatModel(responses=[QUESTION]), rerank(base(), backend, top_n=1), prompt
    )
    invoke(create_retrieval_chain(aware, RunnableLambda(len)), {"input": "and gift cards", "chat_history": history})
    assert [call.query for call in backend.calls] == [asked]


def test_a_model_reads_the_pages_best_first(invoke):
    prompt = ChatPromptTemplate([("human", "{context}")])
    reads = create_stuff_documents_chain(RunnableLambda(lambda asked: asked.to_messages()[0]), prompt)
    chain = create_retrieval_chain(rerank(base(), FakeBackend(), top_n=2), reads)
    assert invoke(chain, {"input": QUESTION})["answer"] == "\n\n".join(BEST[:2])


# The chain is deprecated and in use; its parts say so where they are made
@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainDeprecationWarning")
def test_a_question_answering_chain_of_old_returns_the_best_as_its_sources(invoke):
    chain = RetrievalQA.from_chain_type(
        FakeListChatModel(responses=["Send it back."]),
        retriever=rerank(base(), FakeBackend(), top_n=2),
        return_source_documents=True,
    )
    assert pages(invoke(chain, {"query": QUESTION})["source_documents"]) == BEST[:2]


# Rerankers of langchain-classic


class Structured(FakeListChatModel):
    """A chat model whose answers are parsed."""

    def with_structured_output(self, schema, **kwargs):
        return self | PydanticOutputParser(pydantic_object=schema)


def listwise(*order):
    return LLMListwiseRerank.from_llm(Structured(responses=[f'{{"ranked_document_ids": {list(order)}}}']))


def test_the_listwise_reranker_of_langchain_can_rerank(invoke):
    found = invoke(rerank(base(), listwise(4, 0, 2, 1, 3), top_n=2), QUESTION)
    assert pages(found) == [PAGES[4], PAGES[0]]


@pytest.mark.parametrize(
    "make", [lambda: CrossEncoderReranker(model=Overlap()), lambda: listwise(0)], ids=lambda make: type(make()).__name__
)
def test_a_reranker_of_langchain_is_a_run_beside_the_retriever(invoke, make):
    tracer, reranker = Tracer(), make()
    found = invoke(rerank(base(), reranker), QUESTION, {"callbacks": [tracer]})
    retrieving, reranking = tracer.roots[0].child_runs
    assert (retrieving.run_type, retrieving.name) == ("retriever", "FromList")
    assert (reranking.run_type, reranking.name) == ("chain", type(reranker).__name__)
    assert reranking.inputs == {"query": QUESTION, "documents": documents()}
    assert reranking.outputs == {"output": found}


def test_a_pipeline_of_compressors_reranks_and_shows_its_parts(invoke):
    pipeline = DocumentCompressorPipeline(
        transformers=[Reranker(FakeBackend(), top_n=3, name="first"), Reranker(FakeBackend(), name="second")]
    )
    tracer = Tracer()
    assert pages(invoke(rerank(base(), pipeline, top_n=2), QUESTION, {"callbacks": [tracer]})) == BEST[:2]
    assert shape(tracer.roots[0].child_runs[1]) == (
        "chain",
        "DocumentCompressorPipeline",
        [("chain", "first", []), ("chain", "second", [])],
    )


def test_the_model_of_the_listwise_reranker_is_seen_beneath_it(invoke):
    tracer = Tracer()
    invoke(rerank(base(), listwise(0)), QUESTION, {"callbacks": [tracer]})
    reranking = tracer.roots[0].child_runs[1]
    assert [run.run_type for run in runs(reranking, "Structured")] == ["llm"]
    assert runs(tracer.roots[0], "Structured") == runs(reranking, "Structured")


def test_configurable_reaches_what_is_within_another_packages_reranker(invoke):
    inner = Reranker(FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n"))
    retriever = rerank(base(), LLMListwiseRerank(reranker=inner, top_n=5))
    assert len(invoke(retriever, QUESTION, {"configurable": {"n": 2}})) == 2
