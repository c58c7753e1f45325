"""`candidates=` through whatever stands between the reranker and the number of documents that are retrieved."""

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import VectorStoreRetriever
from langchain_stage import QUESTION, FromList, documents, pages, store
from pydantic import Field

from langchain_rerankx import rerank
from rerankx.testing import FakeBackend


def two():
    return store().as_retriever(search_kwargs={"k": 2})


def configurable():
    return two().configurable_fields(search_kwargs=ConfigurableField(id="search"))


def alternatives():
    return two().configurable_alternatives(
        ConfigurableField(id="which"), default_key="store", list=FromList(found=documents(), k=1)
    )


@pytest.mark.parametrize(
    "make",
    [
        two,
        lambda: two().with_config(tags=["t"]),
        lambda: two().with_retry(),
        lambda: two().bind(k=2),
        lambda: FromList(found=documents(), k=2).with_config(tags=["t"]),
        configurable,
        lambda: configurable().with_retry(),
        lambda: FromList(found=documents(), k=2).configurable_fields(k=ConfigurableField(id="n")),
        alternatives,
    ],
    ids=[
        "plain",
        "with_config",
        "with_retry",
        "bind",
        "field in with_config",
        "configurable",
        "configurable with_retry",
        "configurable k",
        "alternatives",
    ],
)
def test_candidates_reach_the_retriever_through_what_wraps_it(invoke, make):
    backend = FakeBackend()
    found = invoke(rerank(make(), backend, candidates=5), QUESTION)
    assert (len(backend.calls[0].texts), len(found)) == (5, 2)


def test_a_configured_search_keeps_its_filter_and_takes_the_candidates(invoke):
    backend = FakeBackend()
    search = {"k": 1, "filter": lambda document: document.id != "id-3"}
    found = invoke(rerank(configurable(), backend, candidates=4), QUESTION, {"configurable": {"search": search}})
    assert len(found) == 1
    assert "id-3" not in [document.id for document in found]
    assert len(backend.calls[0].texts) == 4


def test_a_configured_search_is_still_reached_through_a_retry(invoke):
    search = {"k": 1, "filter": lambda document: document.id == "id-2"}
    found = invoke(
        rerank(configurable().with_retry(), FakeBackend(), candidates=5),
        QUESTION,
        {"configurable": {"search": search}},
    )
    assert [document.id for document in found] == ["id-2"]


def test_another_alternative_is_asked_for_the_candidates_too(invoke):
    backend = FakeBackend()
    found = invoke(rerank(alternatives(), backend, candidates=5), QUESTION, {"configurable": {"which": "list"}})
    assert (len(backend.calls[0].texts), len(found)) == (5, 1)


def test_an_alternative_that_cannot_be_asked_is_told_when_it_is_chosen(invoke):
    retriever = two().configurable_alternatives(ConfigurableField(id="which"), code=RunnableLambda(lambda query: []))
    with pytest.raises(ValueError, match="candidates=5 cannot be passed on: RunnableLambda"):
        invoke(rerank(retriever, FakeBackend(), candidates=5), QUESTION, {"configurable": {"which": "code"}})


def test_a_k_of_the_call_comes_before_the_candidates(invoke):
    backend = FakeBackend()
    invoke(rerank(two(), backend, candidates=5), QUESTION, k=3)
    assert len(backend.calls[0].texts) == 3


def test_a_reranking_retriever_is_asked_for_that_many_of_its_best(invoke):
    first, second = FakeBackend(), FakeBackend()
    once = rerank(two(), first, candidates=5, top_n=1)
    twice = rerank(once, second, candidates=3, top_n=2)
    assert len(invoke(twice, QUESTION)) == 2
    assert (len(first.calls[0].texts), len(second.calls[0].texts)) == (5, 3)
    assert once.top_n == 1


def test_a_vector_store_retriever_that_drops_keywords_is_asked_by_its_search_kwargs(invoke):
    class Own(VectorStoreRetriever):
        def _get_relevant_documents(self, query, *, run_manager):
            return self.vectorstore.similarity_search(query, **self.search_kwargs)

    retriever, backend = Own(vectorstore=store(), search_kwargs={"k": 2}), FakeBackend()
    assert len(invoke(rerank(retriever, backend, candidates=5), QUESTION)) == 2
    assert len(backend.calls[0].texts) == 5
    assert retriever.search_kwargs == {"k": 2}


def test_any_retriever_with_search_kwargs_is_asked_by_them(invoke):
    class Parents(BaseRetriever):
        search_kwargs: dict = Field(default_factory=dict)

        def _get_relevant_documents(self, query, *, run_manager):
            return documents()[: self.search_kwargs["k"]]

    backend = FakeBackend()
    invoke(rerank(Parents(), backend, candidates=5), QUESTION)
    assert len(backend.calls[0].texts) == 5


def test_the_error_names_the_numbers_that_the_retriever_has():
    class Wiki(BaseRetriever):
        lang: str = "en"
        top_k_results: int = 3
        load_all: bool = False

        def _get_relevant_documents(self, query, *, run_manager):
            return []

    with pytest.raises(ValueError, match=r"Wiki has no field k or top_k \(but top_k_results\)\. Have it return 50"):
        rerank(Wiki(), FakeBackend(), candidates=50)


def test_a_sequence_is_asked_by_its_own_means(invoke):
    backend = FakeBackend()
    chain = RunnableLambda(str.strip) | store().as_retriever(search_kwargs={"k": 5})
    with pytest.raises(ValueError, match="RunnableSequence has no field k or top_k"):
        rerank(chain, backend, candidates=5)
    assert pages(invoke(rerank(chain, backend), QUESTION))


def test_what_wraps_the_retriever_stays_as_it_was(invoke):
    bound = FromList(found=documents(), k=2).with_config(tags=["t"])
    invoke(rerank(bound, FakeBackend(), candidates=5), QUESTION)
    assert bound.bound.k == 2
