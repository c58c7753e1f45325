"""`candidates=` through whatever stands between the reranker and the number of documents that are retrieved."""

import pickle

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import VectorStoreRetriever
from langchain_stage import QUESTION, Backwards, FromList, documents, pages, store
from pydantic import Field, PrivateAttr

from langchain_rerankx import Reranker, rerank
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


@pytest.mark.parametrize("make", [two, lambda: FromList(found=documents(), k=2)], ids=["vector store", "field"])
def test_with_candidates_a_k_of_the_call_is_how_many_are_kept(invoke, make):
    backend = FakeBackend()
    assert len(invoke(rerank(make(), backend, candidates=5), QUESTION, k=3)) == 3
    assert len(backend.calls[0].texts) == 5


@pytest.mark.parametrize("wrap", [lambda r: r, lambda r: r.with_retry(), lambda r: r.bind()])
def test_what_is_chosen_with_the_call_is_asked_within_wrappers_too(invoke, wrap):
    backend = FakeBackend()
    retriever = rerank(wrap(alternatives()), backend, candidates=5)
    assert len(invoke(retriever, QUESTION, {"configurable": {"which": "list"}})) == 1
    assert len(backend.calls[0].texts) == 5
    tuned = wrap(FromList(found=documents(), k=1).configurable_fields(k=ConfigurableField(id="n")))
    assert len(invoke(rerank(tuned, backend, candidates=5), QUESTION, {"configurable": {"n": 3}})) == 3


def test_a_reranker_configured_within_a_retry_is_told_top_n(invoke):
    reranker = Reranker(FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n")).with_retry()
    assert len(invoke(rerank(two(), reranker, candidates=5, top_n=4), QUESTION, {"configurable": {"n": 1}})) == 4


def test_a_number_bound_to_the_retriever_is_how_many_are_kept(invoke):
    class ByKeyword(FromList):
        def _get_relevant_documents(self, query, *, run_manager, k=None):
            return self.found[: self.k if k is None else k]

    backend = FakeBackend()
    assert len(invoke(rerank(ByKeyword(found=documents()).bind(k=2), backend, candidates=5), QUESTION)) == 2
    assert len(backend.calls[0].texts) == 5


def test_of_two_fields_the_one_that_is_set_says_how_many(invoke):
    class Two(BaseRetriever):
        k: int | None = None
        top_k: int = 2

        def _get_relevant_documents(self, query, *, run_manager):
            return documents()[: self.top_k if self.k is None else self.k]

    backend = FakeBackend()
    assert len(invoke(rerank(Two(), backend, candidates=5), QUESTION)) == 2
    assert len(backend.calls[0].texts) == 5


@pytest.mark.parametrize("number", [None, True])
def test_a_number_that_is_none_keeps_all(invoke, number):
    retriever = store().as_retriever(search_kwargs={"k": number})
    assert len(invoke(rerank(retriever, FakeBackend(), candidates=5), QUESTION)) == 5


# A reranking retriever within


def test_a_reranking_retriever_is_asked_for_that_many_of_its_best(invoke):
    first, second = FakeBackend(), FakeBackend()
    once = rerank(two(), first, candidates=5, top_n=1)
    twice = rerank(once, second, candidates=3, top_n=2)
    assert len(invoke(twice, QUESTION)) == 2
    assert (len(first.calls[0].texts), len(second.calls[0].texts)) == (5, 3)
    assert (once.top_n, once.candidates) == (1, 5)


@pytest.mark.parametrize("candidates", [None, 3], ids=["none", "fewer"])
def test_a_reranking_retriever_asks_for_as_many_as_it_is_asked_for(invoke, candidates):
    backend = FakeBackend()
    once = rerank(two(), FakeBackend(), candidates=candidates, top_n=1)
    assert len(invoke(rerank(once, backend, candidates=5, top_n=4), QUESTION)) == 4
    assert len(backend.calls[0].texts) == 5


def test_a_reranking_retriever_over_a_function_is_asked_for_more_of_what_that_found(invoke):
    backend = FakeBackend()
    once = rerank(lambda query: documents(), FakeBackend(), top_n=1)
    assert len(invoke(rerank(once, backend, candidates=4), QUESTION)) == 1
    assert len(backend.calls[0].texts) == 4


@pytest.mark.parametrize(
    ("once", "number"),
    [
        (lambda: rerank(two(), FakeBackend(), candidates=5), 2),
        (lambda: rerank(two(), Reranker(FakeBackend(), top_n=1), candidates=5), 1),
        (lambda: rerank(two(), FakeBackend(), candidates=5, top_n=3), 3),
        (lambda: rerank(two(), FakeBackend(), candidates=5, top_n=3).bind(top_n=1), 1),
    ],
    ids=["of its base", "of its reranker", "its own", "bound"],
)
def test_with_candidates_as_many_are_kept_as_the_reranking_retriever_returns(invoke, once, number):
    assert len(invoke(rerank(once(), FakeBackend(), candidates=4), QUESTION)) == number


# What is copied


class Lazy(FromList):
    filter: str = "a"
    connected: list = Field(default_factory=list)
    _client: object = PrivateAttr(default=None)

    def _get_relevant_documents(self, query, *, run_manager):
        if self._client is None:
            self._client = object()
            self.connected.append(self.filter)
        return self.found[: self.k]


def test_what_a_copy_has_connected_to_is_kept(invoke):
    base = Lazy(found=documents())
    retriever = rerank(base, FakeBackend(), candidates=5)
    for _ in range(3):
        invoke(retriever, QUESTION)
    assert base.connected == ["a"]


def test_a_change_to_the_retriever_reaches_the_copy(invoke):
    base, backend = Lazy(found=documents()), FakeBackend()
    retriever = rerank(base, backend, candidates=5)
    invoke(retriever, QUESTION)
    base.filter, base.found = "b", documents()[:2]
    invoke(retriever, QUESTION)
    assert base.connected == ["a", "b"]
    assert len(backend.calls[1].texts) == 2


def test_search_kwargs_that_change_reach_the_copy(invoke):
    base, backend = Own(vectorstore=store(), search_kwargs={"k": 2}), FakeBackend()
    retriever = rerank(base, backend, candidates=5)
    invoke(retriever, QUESTION)
    base.search_kwargs["filter"] = lambda document: document.id == "id-1"
    invoke(retriever, QUESTION)
    assert len(backend.calls[1].texts) == 1


def test_a_copy_does_not_make_retrievers_unequal():
    one, other = (rerank(FromList(found=documents()), Backwards(), candidates=5) for _ in range(2))
    one.invoke(QUESTION)
    assert one == other
    assert pickle.loads(pickle.dumps(one)) == other


# Other kinds


class Own(VectorStoreRetriever):
    def _get_relevant_documents(self, query, *, run_manager):
        return self.vectorstore.similarity_search(query, **self.search_kwargs)


def test_a_vector_store_retriever_that_drops_keywords_is_asked_by_its_search_kwargs(invoke):
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
