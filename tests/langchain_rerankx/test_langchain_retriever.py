import asyncio
import copy
import logging

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import ConfigurableField, RunnableLambda, RunnablePassthrough
from langchain_core.tools import create_retriever_tool
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_stage import (
    BEST,
    PAGES,
    QUESTION,
    Backwards,
    FromList,
    Native,
    documents,
    pages,
    scores,
    store,
)
from pydantic import ValidationError

import rerankx
from langchain_rerankx import Reranker, RerankRetriever, rerank
from rerankx.testing import FakeBackend


class BackwardsFew(Backwards):
    top_n: int


def base(**fields):
    return FromList(found=documents(), **{"k": 5, **fields})


# What is retrieved from


def test_it_is_a_retriever_that_returns_the_best_first(invoke):
    retriever = rerank(base(), FakeBackend())
    assert isinstance(retriever, BaseRetriever)
    assert pages(invoke(retriever, QUESTION)) == BEST


def test_the_default_reranker_is_embedded():
    pytest.importorskip("rerankx.backends.embedded", reason="the embedded backend, or what it needs, is not here")
    assert rerank(base()).reranker.backend == "embedded"


def test_the_documents_of_the_retriever_are_not_touched(invoke):
    retriever = base()
    before = copy.deepcopy(retriever.found)
    invoke(rerank(retriever, FakeBackend()), QUESTION)
    assert retriever.found == before


def test_async_asks_retriever_and_backend_asynchronously(invoke):
    ways = []

    class Noting(FromList):
        def _get_relevant_documents(self, query, *, run_manager):
            ways.append("sync")
            return self.found

        async def _aget_relevant_documents(self, query, *, run_manager):
            ways.append("async")
            return self.found

    backend = Native()
    invoke(rerank(Noting(found=documents()), backend), QUESTION)
    assert [*ways, *backend.ways] == [invoke.how, invoke.how]


def test_a_runnable_is_a_retriever(invoke):
    retriever = RunnableLambda(str.strip) | base()
    assert pages(invoke(rerank(retriever, FakeBackend()), f" {QUESTION} ")) == BEST


def test_a_function_is_a_retriever(invoke):
    assert pages(invoke(rerank(lambda query: tuple(documents()), FakeBackend()), QUESTION)) == BEST


def test_a_coroutine_function_is_a_retriever():
    async def search(query):
        return documents()

    assert pages(asyncio.run(rerank(search, FakeBackend()).ainvoke(QUESTION))) == BEST


def test_no_documents_call_no_reranker(invoke):
    backend = FakeBackend()
    assert invoke(rerank(lambda query: [], backend), QUESTION) == []
    assert backend.calls == []


def test_a_vector_store_is_told_from_its_retriever():
    with pytest.raises(TypeError, match=r"InMemoryVectorStore is not a retriever; pass its \.as_retriever\(\)"):
        rerank(store(), FakeBackend())


def test_what_cannot_retrieve_is_a_type_error():
    with pytest.raises(TypeError, match=r"retriever must be .* not str"):
        rerank("embedded", base())


@pytest.mark.parametrize("found", [None, "page", {"documents": []}, documents()[0]])
def test_a_retriever_that_returns_no_list_is_a_type_error(invoke, found):
    with pytest.raises(TypeError, match=f"the retriever returned {type(found).__name__}"):
        invoke(rerank(lambda query: found, FakeBackend()), QUESTION)


# What reranks


def test_a_name_reranks_with_its_options(named, invoke):
    assert pages(invoke(rerank(base(), "named", model="m", weight=2.0), QUESTION)) == BEST
    assert [(backend.model, backend.weight) for backend in named] == [("m", 2.0)]


@pytest.mark.parametrize(
    "make",
    [
        FakeBackend,
        lambda: rerankx.Reranker(FakeBackend()),
        lambda: Reranker(FakeBackend()),
        lambda: Reranker(FakeBackend()).with_retry(),
        lambda: Reranker(FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n")),
    ],
    ids=["backend", "core", "reranker", "wrapped", "configurable"],
)
def test_rerankers_of_every_kind_rerank(invoke, make):
    found = invoke(rerank(base(), make(), top_n=2), QUESTION)
    assert pages(found) == BEST[:2]
    assert scores(found)[0] == 1.0


def test_another_packages_compressor_reranks(invoke):
    assert pages(invoke(rerank(base(), Backwards()), QUESTION)) == PAGES[::-1]


def test_top_n_cuts_what_another_compressor_returns(invoke):
    assert pages(invoke(rerank(base(), Backwards(), top_n=2), QUESTION)) == PAGES[:-3:-1]


def test_another_runnable_reranks(invoke):
    backwards = RunnableLambda(lambda asked: asked["documents"][::-1])
    assert pages(invoke(rerank(base(), backwards, top_n=2), QUESTION)) == PAGES[:-3:-1]


def test_another_compressor_is_not_called_for_no_documents(invoke):
    class Never(Backwards):
        def compress_documents(self, documents, query, callbacks=None):
            raise AssertionError("called")

    assert invoke(rerank(lambda query: [], Never()), QUESTION) == []


def test_settings_reach_the_reranker():
    settings = {
        "min_score": 0.5,
        "key": str,
        "on_error": "input_order",
        "deadline_s": 2.0,
        "score_key": None,
        "on_ranking": print,
    }
    reranker = rerank(base(), FakeBackend(), **settings).reranker
    assert {name: getattr(reranker, name) for name in settings} == settings


def test_settings_of_the_call_go_with_a_core_reranker(invoke):
    core = rerankx.Reranker(FakeBackend())
    assert pages(invoke(rerank(base(), core, min_score=0.5, score_key="s"), QUESTION)) == BEST[:2]


@pytest.mark.parametrize(
    "setting",
    [
        {"min_score": 0.5},
        {"key": str},
        {"on_error": "input_order"},
        {"deadline_s": 1.0},
        {"score_key": None},
        {"on_ranking": print},
        {"model": "m"},
        {"weight": 2.0},
    ],
    ids=lambda setting: next(iter(setting)),
)
@pytest.mark.parametrize("make", [lambda: Reranker(FakeBackend()), Backwards], ids=["reranker", "foreign"])
def test_a_setting_for_a_reranker_that_has_its_own_is_a_type_error(make, setting):
    with pytest.raises(TypeError, match=f"{next(iter(setting))} given with a .* object; set them on it"):
        rerank(base(), make(), **setting)


def test_options_for_a_backend_object_are_a_type_error():
    with pytest.raises(TypeError, match="weight given with a FakeBackend object"):
        rerank(base(), FakeBackend(), weight=2.0)


def test_what_cannot_rerank_is_a_type_error():
    with pytest.raises(TypeError, match=r"reranker must be .* not int"):
        rerank(base(), 3)


def test_an_unknown_backend_keeps_its_error():
    with pytest.raises(rerankx.UnknownBackendError):
        rerank(base(), "embeded")


def test_the_class_takes_a_backend_as_well(invoke):
    retriever = RerankRetriever(base_retriever=lambda query: documents(), reranker=FakeBackend())
    assert pages(invoke(retriever, QUESTION)) == BEST


@pytest.mark.parametrize("field", [{"topn": 3}, {"k": 3}, {"top_n": 0}, {"candidates": 0}])
def test_a_wrong_field_is_refused(field):
    with pytest.raises(ValidationError, match=next(iter(field))):
        RerankRetriever(base_retriever=base(), reranker=FakeBackend(), **field)


def test_its_fields_have_a_json_schema():
    schema = RerankRetriever.model_json_schema()
    assert {"base_retriever", "reranker", "top_n", "candidates", "tags", "metadata"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False
    retriever = rerank(base(), FakeBackend())
    assert retriever.get_input_jsonschema()["type"] == "string"
    assert retriever.get_output_jsonschema()["items"] == {"$ref": "#/$defs/Document"}


def test_a_misspelt_setting_names_the_nearest(named):
    with pytest.raises(TypeError, match=r"no option 'min_scor'.*Reranker itself has 'min_score'"):
        rerank(base(), "named", min_scor=0.5)


# How many


def test_without_top_n_nothing_is_lost(invoke):
    assert len(invoke(rerank(base(), FakeBackend()), QUESTION)) == 5


def test_top_n_keeps_the_best(invoke):
    assert pages(invoke(rerank(base(), FakeBackend(), top_n=2), QUESTION)) == BEST[:2]


def test_top_n_of_a_call_stands_over_the_field(invoke):
    assert pages(invoke(rerank(base(), FakeBackend(), top_n=2), QUESTION, top_n=1)) == BEST[:1]


def test_top_n_of_the_retriever_stands_over_that_of_the_reranker(invoke):
    assert len(invoke(rerank(base(), Reranker(FakeBackend(), top_n=1), top_n=3), QUESTION)) == 3


def test_top_n_of_the_reranker_holds_where_the_retriever_has_none(invoke):
    assert len(invoke(rerank(base(), Reranker(FakeBackend(), top_n=1)), QUESTION)) == 1


@pytest.mark.parametrize("reranker", [FakeBackend(), Backwards()], ids=["ours", "foreign"])
def test_top_n_of_a_call_must_be_at_least_one(invoke, reranker):
    with pytest.raises(ValueError, match="at least 1"):
        invoke(rerank(base(), reranker), QUESTION, top_n=-1)


def test_candidates_asks_a_vector_store_for_more(invoke):
    backend = FakeBackend()
    invoke(rerank(store().as_retriever(search_kwargs={"k": 2}), backend, candidates=5), QUESTION)
    assert len(backend.calls[0].texts) == 5


def test_candidates_leaves_the_vector_store_retriever_alone(invoke):
    retriever = store().as_retriever(search_kwargs={"k": 2})
    invoke(rerank(retriever, FakeBackend(), candidates=5), QUESTION)
    assert retriever.search_kwargs == {"k": 2}
    assert len(retriever.invoke(QUESTION)) == 2


def test_candidates_keeps_the_other_search_kwargs(invoke):
    retriever = store().as_retriever(search_kwargs={"filter": lambda document: document.id != "id-3"})
    assert PAGES[3] not in pages(invoke(rerank(retriever, FakeBackend(), candidates=5, top_n=4), QUESTION))


def diverse(n, **search):
    """Return a retriever by maximal marginal relevance over n texts."""
    made = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    made.add_texts([f"text {i}" for i in range(n)])
    return made.as_retriever(search_type="mmr", search_kwargs=search)


def test_candidates_leave_the_fetch_k_of_a_diverse_retriever_alone(invoke):
    retriever, backend = diverse(60, fetch_k=40, k=3), FakeBackend()
    assert len(invoke(rerank(retriever, backend, candidates=30), "text")) == 3
    assert len(backend.calls[0].texts) == 30
    assert retriever.search_kwargs == {"fetch_k": 40, "k": 3}


@pytest.mark.parametrize("search", [{}, {"fetch_k": 20}], ids=["default", "set"])
def test_a_fetch_k_that_is_too_small_is_told_once(invoke, caplog, search):
    retriever = rerank(diverse(60, **search), FakeBackend(), candidates=50, top_n=3)
    invoke(retriever, "text")
    invoke(retriever, "text")
    [message] = warnings_of(caplog)
    assert "candidates=50, but maximal marginal relevance chooses among fetch_k=20" in message


@pytest.mark.parametrize(
    ("make", "keywords"),
    [
        (lambda: diverse(60, fetch_k=50), {}),
        (lambda: diverse(60).bind(fetch_k=50), {}),
        (lambda: diverse(60), {"fetch_k": 50}),
    ],
    ids=["set", "bound", "of the call"],
)
def test_a_fetch_k_that_is_large_enough_is_no_reason_to_warn(invoke, caplog, make, keywords):
    backend = FakeBackend()
    invoke(rerank(make(), backend, candidates=50, top_n=3), "text", **keywords)
    assert len(backend.calls[0].texts) == 50
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("knob", ["k", "top_k"])
def test_candidates_sets_a_field_k_or_top_k_on_a_copy(invoke, knob):
    class WithKnob(BaseRetriever):
        k: int = 2

        def _get_relevant_documents(self, query, *, run_manager):
            return documents()[: self.k]

    class WithTopK(BaseRetriever):
        top_k: int = 2

        def _get_relevant_documents(self, query, *, run_manager):
            return documents()[: self.top_k]

    retriever, backend = {"k": WithKnob, "top_k": WithTopK}[knob](), FakeBackend()
    invoke(rerank(retriever, backend, candidates=5), QUESTION)
    assert len(backend.calls[0].texts) == 5
    assert getattr(retriever, knob) == 2


def test_candidates_for_a_retriever_without_a_number_is_a_value_error():
    with pytest.raises(ValueError, match="no field k or top_k"):
        rerank(lambda query: documents(), FakeBackend(), candidates=5)


@pytest.mark.parametrize(
    "make",
    [lambda: base(k=2), lambda: store().as_retriever(search_kwargs={"k": 2})],
    ids=["field", "vector store"],
)
def test_with_candidates_the_retrievers_own_number_is_kept(invoke, make):
    assert len(invoke(rerank(make(), FakeBackend(), candidates=5), QUESTION)) == 2


def test_with_candidates_the_default_number_of_a_vector_store_is_kept(invoke):
    assert len(invoke(rerank(store().as_retriever(), FakeBackend(), candidates=5), QUESTION)) == 4


def test_with_candidates_the_number_of_the_reranker_comes_first(invoke):
    assert len(invoke(rerank(base(k=2), Reranker(FakeBackend(), top_n=3), candidates=5), QUESTION)) == 3


def test_other_keywords_of_a_call_reach_the_retriever(invoke):
    assert len(invoke(rerank(store().as_retriever(), FakeBackend()), QUESTION, k=1)) == 1


# The hint


def warnings_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "langchain_rerankx"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: rerank(base(k=2), FakeBackend(), top_n=2),
        lambda: rerank(base(), FakeBackend(), candidates=2, top_n=3),
        lambda: rerank(base(k=2), Reranker(FakeBackend(), top_n=2)),
        lambda: rerank(store().as_retriever(), FakeBackend(), top_n=5),
        lambda: rerank(base(k=2), BackwardsFew(top_n=3)),
        lambda: rerank(base(k=2), Reranker(FakeBackend(), top_n=2).with_retry()),
    ],
    ids=["own number", "candidates", "top_n of the reranker", "vector store", "top_n of another", "wrapped"],
)
def test_nothing_to_choose_from_is_hinted_at_once(invoke, caplog, make):
    retriever = make()
    invoke(retriever, QUESTION)
    invoke(retriever, QUESTION)
    [message] = warnings_of(caplog)
    assert "candidates=" in message
    assert caplog.records[0].levelno == logging.WARNING


def test_another_reranker_that_keeps_fewer_than_asked_is_hinted_at_once(invoke, caplog):
    retriever = rerank(base(), BackwardsFew(top_n=3), top_n=4)
    invoke(retriever, QUESTION)
    invoke(retriever, QUESTION)
    assert warnings_of(caplog) == ["BackwardsFew keeps top_n=3 by itself, fewer than top_n=4: set its own"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: rerank(base(k=2), FakeBackend()),
        lambda: rerank(base(k=3), FakeBackend(), top_n=2),
        lambda: rerank(base(k=2), FakeBackend(), candidates=5, top_n=2),
        lambda: rerank(base(k=2), FakeBackend(), candidates=5),
        lambda: rerank(lambda query: documents()[:1], FakeBackend(), top_n=2),
    ],
    ids=["no top_n", "enough", "enough candidates", "own number kept", "number not known"],
)
def test_where_there_is_a_choice_nothing_is_hinted(invoke, caplog, make):
    invoke(make(), QUESTION)
    assert warnings_of(caplog) == []


def test_a_call_that_asks_for_more_itself_hints_at_nothing(invoke, caplog):
    invoke(rerank(store().as_retriever(), FakeBackend(), top_n=4), QUESTION, k=5)
    assert warnings_of(caplog) == []


# Config


def configurable_store():
    return store().as_retriever().configurable_fields(search_kwargs=ConfigurableField(id="search"))


def test_configurable_reaches_the_retriever(invoke):
    retriever = rerank(configurable_store(), FakeBackend())
    assert len(invoke(retriever, QUESTION, {"configurable": {"search": {"k": 1}}})) == 1


def test_configurable_reaches_the_reranker(invoke):
    reranker = Reranker(FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n"))
    assert len(invoke(rerank(base(), reranker), QUESTION, {"configurable": {"n": 2}})) == 2


def test_configurable_reaches_them_through_a_chain(invoke):
    chain = RunnablePassthrough() | rerank(configurable_store(), FakeBackend())
    assert len(invoke(chain, QUESTION, {"configurable": {"search": {"k": 1}}})) == 1


def test_config_specs_are_those_of_retriever_and_reranker():
    reranker = Reranker(FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n"))
    retriever = rerank(configurable_store(), reranker)
    assert sorted(spec.id for spec in retriever.config_specs) == ["n", "search"]


def test_config_specs_of_another_compressor_are_none():
    assert [spec.id for spec in rerank(configurable_store(), Backwards()).config_specs] == ["search"]


def test_of_the_config_only_what_is_meant_for_all_is_passed_down(invoke):
    seen = {}

    class Noting(FromList):
        def invoke(self, input, config=None, **kwargs):
            seen.update(config)
            return super().invoke(input, config, **kwargs)

        async def ainvoke(self, input, config=None, **kwargs):
            seen.update(config)
            return await super().ainvoke(input, config, **kwargs)

    config = {
        "configurable": {"user": "u"},
        "max_concurrency": 2,
        "recursion_limit": 7,
        "run_name": "outer",
        "tags": ["t"],
        "metadata": {"m": 1},
    }
    invoke(rerank(Noting(found=documents()), FakeBackend()), QUESTION, config)
    del seen["callbacks"]
    assert seen == {"configurable": {"user": "u"}, "max_concurrency": 2, "recursion_limit": 7}


def test_the_callers_config_is_not_changed(invoke):
    config = {"configurable": {"user": "u"}, "metadata": {"m": 1}, "tags": ["t"]}
    before = copy.deepcopy(config)
    invoke(rerank(base(), FakeBackend()), QUESTION, config)
    assert config == before


# In use


def test_batch_returns_one_list_per_query():
    retriever = rerank(base(), FakeBackend(), top_n=1)
    queries, expected = [QUESTION, "gift cards"], [[PAGES[3]], [PAGES[2]]]
    assert [pages(found) for found in retriever.batch(queries)] == expected
    assert [pages(found) for found in asyncio.run(retriever.abatch(queries))] == expected


def test_it_works_in_a_chain(invoke):
    chain = {"context": rerank(base(), FakeBackend(), top_n=1), "question": RunnablePassthrough()} | RunnableLambda(
        lambda given: (given["question"], pages(given["context"]))
    )
    assert invoke(chain, QUESTION) == (QUESTION, BEST[:1])


def test_it_works_as_a_tool(invoke):
    tool = create_retriever_tool(rerank(base(), FakeBackend(), top_n=1), "search", "Searches the help pages.")
    assert invoke(tool, {"query": QUESTION}) == BEST[0]


def test_reranking_twice_shows_the_last_score(invoke):
    once = rerank(base(), FakeBackend())
    twice = rerank(once, FakeBackend(score=lambda query, text: 0.25))
    assert set(scores(invoke(twice, QUESTION))) == {0.25}


def test_an_error_is_raised(invoke):
    with pytest.raises(rerankx.BackendError, match="down"):
        invoke(rerank(base(), FakeBackend(error=rerankx.BackendError("down"))), QUESTION)


def test_on_error_input_order_returns_what_was_retrieved(invoke):
    retriever = rerank(base(), FakeBackend(error=rerankx.BackendError("down")), on_error="input_order", top_n=2)
    assert pages(invoke(retriever, QUESTION)) == PAGES[:2]


def test_a_generator_function_is_a_retriever_too():
    def search(query):
        yield Document("a")
        yield Document(query)

    assert pages(rerank(search, FakeBackend()).invoke("q")) == ["q", "a"]


def test_a_generator_function_may_take_the_config():
    def search(query, config):
        yield Document(config["configurable"]["user"])

    found = rerank(search, FakeBackend()).invoke("q", {"configurable": {"user": "u"}})
    assert pages(found) == ["u"]


def test_an_asynchronous_generator_function_is_a_retriever_too():
    async def search(query):
        yield Document("a")
        yield Document(query)

    assert pages(asyncio.run(rerank(search, FakeBackend()).ainvoke("q"))) == ["q", "a"]


def test_a_cross_encoder_is_told_where_it_goes_in():
    class Scores:
        def score(self, text_pairs):
            return []

    with pytest.raises(TypeError, match=r"Reranker\.from_cross_encoder"):
        rerank(base(), Scores())


@pytest.mark.parametrize("top_n", [True, "2", 1.0])
def test_top_n_is_a_whole_number(top_n):
    with pytest.raises(ValidationError, match="top_n"):
        rerank(lambda query: [], FakeBackend(), top_n=top_n)
    with pytest.raises(TypeError, match="top_n must be a whole number"):
        rerank(lambda query: [], FakeBackend()).invoke("q", top_n=top_n)
