import asyncio
import copy
import json
import logging
import threading

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

import langchain_stage
from langchain_core.documents import Document
from langchain_core.runnables import ConfigurableField, RunnableParallel, RunnablePassthrough
from langchain_stage import (
    BEST,
    PAGES,
    QUESTION,
    FromList,
    Native,
    documents,
    only_an_order,
    pages,
    scores,
)
from pydantic import ValidationError

import rerankx
from langchain_rerankx import Reranker
from rerankx.testing import FakeBackend


def asked(**changes):
    return {"query": QUESTION, "documents": documents(), **changes}


# What comes back


def test_documents_come_back_best_first(invoke):
    assert pages(invoke(Reranker(FakeBackend()), asked())) == BEST


def test_compress_documents_returns_what_invoke_returns(compress):
    reranker = Reranker(FakeBackend(), top_n=2)
    assert compress(reranker, documents(), QUESTION) == reranker.invoke(asked())


def test_the_score_is_a_python_float_in_the_metadata(invoke):
    found = invoke(Reranker(FakeBackend()), asked())
    assert {type(score) for score in scores(found)} == {float}
    assert scores(found) == sorted(scores(found), reverse=True)
    assert json.dumps([document.metadata for document in found])


def test_the_score_replaces_an_older_one(invoke):
    stale = Document(page_content=BEST[0], metadata={"relevance_score": 99.0})
    assert scores(invoke(Reranker(FakeBackend()), asked(documents=[stale]))) == [1.0]


def test_the_score_goes_under_score_key(invoke):
    [best] = invoke(Reranker(FakeBackend(), score_key="rerank", top_n=1), asked())
    assert best.metadata == {"source": {"page": 3}, "rerank": 1.0}


def test_without_score_key_no_score_is_written(invoke):
    [best] = invoke(Reranker(FakeBackend(), score_key=None, top_n=1), asked())
    assert best.metadata == {"source": {"page": 3}}


@pytest.mark.parametrize("score_key", ["relevance_score", None])
def test_documents_that_went_in_are_not_touched(invoke, score_key):
    given = documents()
    before = copy.deepcopy(given)
    found = invoke(Reranker(FakeBackend(), score_key=score_key), asked(documents=given))
    for document in found:
        document.metadata["added"] = True
    assert given == before


def test_a_second_reranking_leaves_the_result_of_the_first_alone(invoke):
    given = documents()
    first = invoke(Reranker(FakeBackend()), asked(documents=given))
    before = copy.deepcopy(first)
    invoke(Reranker(FakeBackend()), {"query": "gift cards", "documents": first})
    assert first == before


def test_id_and_nested_metadata_are_kept(invoke):
    best = invoke(Reranker(FakeBackend()), asked())[0]
    assert (best.id, best.metadata["source"], best.type) == ("id-3", {"page": 3}, "Document")


def test_what_is_nested_in_the_metadata_is_copied(invoke):
    held = {"list": [1], "tuple": ([1],), "set": {1}, "dict": {"list": [1]}, "lock": threading.Lock()}
    [found] = invoke(Reranker(FakeBackend()), asked(documents=[Document("page", metadata=held)]))
    found.metadata["list"].append(2)
    found.metadata["tuple"][0].append(2)
    found.metadata["set"].add(2)
    found.metadata["dict"]["list"].append(2)
    assert {name: held[name] for name in ("list", "tuple", "set", "dict")} == {
        "list": [1],
        "tuple": ([1],),
        "set": {1},
        "dict": {"list": [1]},
    }
    assert found.metadata["lock"] is held["lock"]


def test_a_subclass_of_document_and_its_fields_are_kept(invoke):
    class Page(Document):
        number: int

    [page] = invoke(Reranker(FakeBackend()), asked(documents=[Page(page_content=PAGES[0], number=7)]))
    assert type(page) is Page
    assert page.number == 7


def test_duplicates_are_kept(invoke):
    one = documents()[3]
    assert len(invoke(Reranker(FakeBackend()), asked(documents=[one, one, documents()[3]]))) == 3


def test_blank_pages_come_last_with_score_zero(invoke):
    blank = [Document(page_content=" "), Document(page_content="")]
    found = invoke(Reranker(FakeBackend()), asked(documents=[*blank, *documents()]))
    assert pages(found[-2:]) == [" ", ""]
    assert scores(found[-2:]) == [0.0, 0.0]


def test_nothing_is_lost_without_top_n(invoke):
    assert sorted(pages(invoke(Reranker(FakeBackend()), asked()))) == sorted(PAGES)


# What is asked


def test_top_n_keeps_the_best(invoke):
    assert pages(invoke(Reranker(FakeBackend(), top_n=2), asked())) == BEST[:2]


def test_top_n_of_a_call_stands_over_the_field(invoke):
    assert pages(invoke(Reranker(FakeBackend(), top_n=2), asked(), top_n=3)) == BEST[:3]


def test_top_n_reaches_the_backend_as_a_hint(invoke):
    backend = FakeBackend()
    invoke(Reranker(backend, top_n=2), asked())
    assert backend.calls[0].top_n == 2


def test_min_score_drops_what_lies_below(invoke):
    assert pages(invoke(Reranker(FakeBackend(), min_score=0.5), asked())) == BEST[:2]


def test_key_says_what_is_scored(invoke):
    backend = FakeBackend()
    invoke(Reranker(backend, key=lambda document: document.id), asked())
    assert backend.calls[0].texts == ("id-0", "id-1", "id-2", "id-3", "id-4")


def test_on_ranking_receives_the_ranking(invoke):
    seen = []
    invoke(Reranker(FakeBackend(), on_ranking=seen.append), asked())
    assert [type(ranking) for ranking in seen] == [rerankx.Ranking]


def test_deadline_reaches_the_core():
    assert Reranker(FakeBackend(), deadline_s=2.5)._core().deadline_s == 2.5


def test_invoke_does_not_call_the_backend_for_no_documents(invoke):
    backend = FakeBackend()
    assert invoke(Reranker(backend), asked(documents=[])) == []
    assert backend.calls == []


def test_compress_documents_does_not_call_the_backend_for_no_documents(compress):
    backend = FakeBackend()
    assert compress(Reranker(backend), [], QUESTION) == []
    assert backend.calls == []


def test_async_asks_the_backend_asynchronously(invoke):
    backend = Native()
    invoke(Reranker(backend), asked())
    assert backend.ways == [invoke.how]


def test_other_keys_of_the_input_are_ignored(invoke):
    assert pages(invoke(Reranker(FakeBackend(), top_n=1), asked(history=["hello"]))) == BEST[:1]


def test_documents_may_be_any_iterable(invoke):
    assert pages(invoke(Reranker(FakeBackend()), asked(documents=iter(documents())))) == BEST


def test_batch_returns_one_list_per_input():
    reranker = Reranker(FakeBackend(), top_n=1)
    inputs = [asked(), {"query": "gift cards", "documents": documents()}]
    assert [pages(found) for found in reranker.batch(inputs)] == [[PAGES[3]], [PAGES[2]]]
    assert [pages(found) for found in asyncio.run(reranker.abatch(inputs))] == [[PAGES[3]], [PAGES[2]]]


def test_it_is_a_step_of_a_chain(invoke):
    chain = RunnableParallel(query=RunnablePassthrough(), documents=FromList(found=documents(), k=5)) | Reranker(
        FakeBackend()
    )
    assert pages(invoke(chain, QUESTION)) == BEST


def test_its_input_schema_names_query_and_documents():
    schema = Reranker(FakeBackend()).get_input_schema().model_json_schema()
    assert set(schema["$defs"]["RerankInput"]["properties"]) == {"query", "documents"}


def test_its_fields_have_a_json_schema():
    schema = Reranker.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["properties"]["backend"] == {"default": "embedded", "title": "Backend", "type": "string"}
    assert {"model", "options", "top_n", "min_score", "score_key", "on_error", "deadline_s"} < set(schema["properties"])
    assert not {"key", "on_ranking"} & set(schema["properties"])
    assert Reranker.model_json_schema(mode="serialization")["properties"]["top_n"]["default"] is None


def test_what_goes_in_and_out_has_a_json_schema():
    reranker = Reranker(FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n"))
    assert set(reranker.get_input_jsonschema()["$defs"]["RerankInput"]["required"]) == {"query", "documents"}
    assert reranker.get_output_jsonschema()["items"] == {"$ref": "#/$defs/Document"}
    assert "n" in str(reranker.get_config_jsonschema())


# Mistakes


def test_behind_a_retriever_the_error_says_what_to_write(invoke):
    chain = FromList(found=documents()) | Reranker(FakeBackend())
    with pytest.raises(TypeError, match=r"write `rerank\(retriever, \.\.\.\)`"):
        invoke(chain, QUESTION)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (QUESTION, "not str"),
        ({"question": QUESTION, "documents": []}, "query not among"),
        ({"query": QUESTION}, "documents not among"),
        ({"query": QUESTION, "documents": None}, "not NoneType"),
        ({"query": QUESTION, "documents": "page"}, "not str"),
        ({"query": QUESTION, "documents": [Document(page_content="a"), "b"]}, "document 1 is str"),
        ({"query": None, "documents": [Document(page_content="a")]}, "query must be a string"),
    ],
)
def test_another_input_is_a_type_error(invoke, given, said):
    with pytest.raises(TypeError, match=said):
        invoke(Reranker(FakeBackend()), given)


def test_a_blank_query_is_a_value_error(invoke):
    with pytest.raises(ValueError, match="blank"):
        invoke(Reranker(FakeBackend()), asked(query=" "))


def test_another_keyword_of_a_call_is_a_type_error(invoke):
    with pytest.raises(TypeError, match="topn"):
        invoke(Reranker(FakeBackend()), asked(), topn=3)


def test_top_n_of_a_call_must_be_at_least_one(invoke):
    with pytest.raises(ValueError, match="at least 1"):
        invoke(Reranker(FakeBackend()), asked(), top_n=0)


@pytest.mark.parametrize(
    "field",
    [
        {"top_n": 0},
        {"top_n": -1},
        {"min_score": 1.5},
        {"deadline_s": 0},
        {"on_error": "ignore"},
        {"topn": 3},
        {"api_key": "sk-1"},
    ],
)
def test_a_wrong_field_is_refused_when_it_is_made(field):
    with pytest.raises(ValidationError, match=next(iter(field))):
        Reranker(FakeBackend(), **field)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"top_n": 0}, "greater than or equal to 1, not 0"),
        ({"top_n": True}, "valid integer, not True"),
        ({"min_score": 1.5}, "less than or equal to 1, not 1.5"),
        ({"deadline_s": "soon"}, "valid number, not str"),
    ],
)
def test_the_error_of_a_wrong_number_says_what_was_given(field, said):
    with pytest.raises(ValidationError, match=said):
        Reranker(FakeBackend(), **field)


def test_the_error_of_a_wrong_field_does_not_quote_its_value():
    with pytest.raises(ValidationError) as caught:
        Reranker(FakeBackend(), api_key="sk-1")
    assert "sk-1" not in str(caught.value)


def test_an_unknown_backend_is_told_when_it_is_made():
    with pytest.raises(rerankx.UnknownBackendError, match="embeded"):
        Reranker("embeded")


def test_an_unknown_option_is_told_when_it_is_made(named):
    with pytest.raises(TypeError, match="no option 'wieght'; did you mean 'weight'"):
        Reranker("named", options={"wieght": 2.0})


def test_an_option_may_be_a_keyword(named):
    reranker = Reranker("named", weight=2.0, options={"headers": {}}, api_key="sk-1")
    assert (named[0].weight, named[0].headers, named[0].api_key) == (2.0, {}, "sk-1")
    assert set(reranker.options) == {"weight", "headers", "api_key"}


def test_an_option_is_not_given_twice(named):
    with pytest.raises(TypeError, match="weight given twice, as a keyword and in options"):
        Reranker("named", weight=2.0, options={"weight": 3.0})


def test_a_misspelt_field_is_named(named):
    with pytest.raises(TypeError, match=r"no option 'topn'.*Reranker itself has 'top_n'"):
        Reranker("named", topn=3)


def test_an_unknown_option_that_is_like_no_field_names_the_options_alone(named):
    with pytest.raises(TypeError, match=r"no option 'zzz'; it has: [^;]*$"):
        Reranker("named", zzz=3)


def test_the_nearest_field_is_named_for_what_is_unknown_alone(named, monkeypatch):
    class WithNearName(FakeBackend):
        def __init__(self, model_id="m", weight=1.0):
            super().__init__()

    monkeypatch.setattr(langchain_stage, "Named", WithNearName)
    with pytest.raises(TypeError) as caught:
        Reranker("named", model_id="x", weigth=2.0)
    assert "did you mean 'weight'" in str(caught.value)
    assert "Reranker itself" not in str(caught.value)


@pytest.mark.parametrize("options", [["x"], None])
def test_options_are_a_mapping(named, options):
    with pytest.raises(TypeError, match="options must be a mapping"):
        Reranker("named", options=options, weight=2.0)


def test_a_field_that_is_assigned_is_checked():
    reranker = Reranker(FakeBackend())
    with pytest.raises(ValidationError, match="top_n"):
        reranker.top_n = 0


def test_an_object_among_the_options_reaches_the_backend_itself(named):
    client = object()
    Reranker("named", headers={"client": client})
    assert named[0].headers["client"] is client


def test_options_are_for_a_name():
    with pytest.raises(TypeError, match="weight given with a FakeBackend object"):
        Reranker(FakeBackend(), options={"weight": 2.0})


@pytest.mark.parametrize("name", ["on_error", "top_n", "score_key"])
def test_an_argument_of_reranker_is_not_an_option(named, name):
    with pytest.raises(TypeError, match=f"{name} in options"):
        Reranker("named", options={name: 1})


@pytest.mark.parametrize(
    "field",
    [{"model": "m"}, {"on_error": "input_order"}, {"deadline_s": 1}, {"on_ranking": print}, {"options": {"weight": 2}}],
)
def test_what_a_core_reranker_has_is_not_given_twice(field):
    with pytest.raises(TypeError, match=r"given with a rerankx\.Reranker object"):
        Reranker(rerankx.Reranker(FakeBackend()), **field)


# The backend


def test_a_name_makes_the_backend_with_model_and_options(named):
    Reranker("named", model="m", options={"weight": 2.0})
    assert [(backend.model, backend.weight) for backend in named] == [("m", 2.0)]


def test_a_name_may_hold_the_model(named):
    Reranker("named:m")
    assert [backend.model for backend in named] == ["m"]


def test_a_core_reranker_is_used_as_it_is(invoke):
    core = rerankx.Reranker(FakeBackend(error=rerankx.BackendError("down")), on_error="input_order")
    assert pages(invoke(Reranker(core), asked())) == PAGES


def test_the_backend_is_made_once_for_all_calls(named, invoke):
    reranker = Reranker("named")
    invoke(reranker, asked())
    invoke(reranker, asked())
    assert len(named) == 1


def test_a_configured_call_does_not_make_the_backend_again(named, invoke):
    reranker = Reranker("named").configurable_fields(top_n=ConfigurableField(id="top_n"))
    found = [invoke(reranker, asked(), {"configurable": {"top_n": n}}) for n in (1, 2)]
    assert [pages(some) for some in found] == [BEST[:1], BEST[:2]]
    assert len(named) == 1


def test_a_configured_model_is_another_backend(named, invoke):
    reranker = Reranker("named").configurable_fields(model=ConfigurableField(id="which"))
    invoke(reranker, asked(), {"configurable": {"which": "other"}})
    assert [backend.model for backend in named] == ["words", "other"]


def test_a_changed_field_holds_from_the_next_call_on(invoke):
    first, second = FakeBackend(), FakeBackend()
    reranker = Reranker(first)
    reranker.backend = second
    invoke(reranker, asked())
    assert (len(first.calls), len(second.calls)) == (0, 1)


# Failure


def test_an_error_of_the_backend_is_raised(invoke):
    with pytest.raises(rerankx.RateLimitError, match="too many"):
        invoke(Reranker(FakeBackend(error=rerankx.RateLimitError("too many"))), asked())


def test_on_error_input_order_returns_the_documents_as_they_came(invoke):
    found = invoke(Reranker(FakeBackend(error=rerankx.BackendError("down")), on_error="input_order"), asked())
    assert pages(found) == PAGES
    assert scores(found) == [0.0] * len(PAGES)


def test_a_failure_is_logged_once(invoke, caplog):
    with caplog.at_level(logging.WARNING):
        invoke(Reranker(FakeBackend(error=rerankx.BackendError("down")), on_error="input_order"), asked())
    assert [record.name for record in caplog.records] == ["rerankx"]


def test_a_threshold_on_scores_that_are_only_an_order_is_refused_at_once():
    with pytest.raises(ValueError, match="only an order"):
        Reranker(only_an_order(), min_score=0.5)
