"""`fallback=`, and `rerankx.Fallback`, through the LangChain adapter: what comes back, and what a trace shows of it."""

import copy
import json
import pickle

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.load import dumpd, load
from langchain_core.runnables import ConfigurableField
from langchain_core.tracers.context import collect_runs
from langchain_stage import BEST, QUESTION, FromList, Tracer, documents, pages, runs, shape
from pydantic import ValidationError

import rerankx
from langchain_rerankx import Reranker, rerank
from rerankx.testing import FakeBackend

ASKED = {"query": QUESTION, "documents": documents()}
COPIES = [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))]
how = pytest.mark.parametrize("copied", COPIES, ids=["copy", "deepcopy", "pickle"])


def failing(name="first", error=None):
    return FakeBackend(name=name, model="m", error=error or rerankx.RateLimitError("too many"))


def spare():
    return FakeBackend(name="spare", model="m")


def base():
    return FromList(found=documents(), k=5)


WAYS = {
    "fallback=": lambda: Reranker(failing(), fallback=spare()),
    "a list": lambda: Reranker(failing(), fallback=[spare()]),
    "a backend": lambda: Reranker(rerankx.Fallback(failing(), spare())),
    "a core reranker": lambda: Reranker(rerankx.Reranker(failing(), fallback=spare())),
}
every_way = pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)


@every_way
def test_the_fallback_answers_where_the_backend_fails(make, invoke):
    assert pages(invoke(make(), ASKED)) == BEST


@every_way
def test_the_failed_attempt_is_a_failed_run_beneath_one_that_went_well(make, invoke):
    tracer = Tracer()
    found = invoke(make(), ASKED, {"callbacks": [tracer]})
    [root] = tracer.roots
    assert shape(root) == ("chain", "Reranker", [("chain", "first:m", [])])
    assert (root.error, root.outputs) == (None, {"output": found})
    assert "RateLimitError: too many" in root.child_runs[0].error


@every_way
def test_the_metadata_say_who_was_asked_and_who_answered(make, invoke):
    tracer = Tracer()
    invoke(make(), ASKED, {"callbacks": [tracer]})
    metadata = tracer.roots[0].metadata
    assert (metadata["rerankx_backend"], metadata["rerankx_model"]) == ("fallback", "first:m > spare:m")
    assert (metadata["rerankx_answered_by"], metadata["rerankx_degraded"]) == ("spare:m", "fallback")


def test_a_first_one_that_answers_is_no_failure(invoke):
    tracer = Tracer()
    invoke(Reranker(spare(), fallback=failing()), ASKED, {"callbacks": [tracer]})
    [root] = tracer.roots
    assert (root.child_runs, root.metadata["rerankx_degraded"]) == ([], None)
    assert root.metadata["rerankx_answered_by"] == "spare:m"


def test_without_a_fallback_nobody_else_can_have_answered(invoke):
    tracer = Tracer()
    invoke(Reranker(spare()), ASKED, {"callbacks": [tracer]})
    assert "rerankx_answered_by" not in tracer.roots[0].metadata


def test_the_failed_attempts_are_seen_by_those_who_collect_runs(invoke):
    with collect_runs() as collected:
        invoke(Reranker(failing(), fallback=[failing("second"), spare()]), ASKED)
    assert [run.name for run in collected.traced_runs[0].child_runs] == ["first:m", "second:m"]


def test_where_all_fail_each_is_a_failed_run_beneath_a_failed_one(invoke):
    tracer = Tracer()
    with pytest.raises(rerankx.RateLimitError, match="all 2 backends failed"):
        invoke(Reranker(failing(), fallback=failing("second")), ASKED, {"callbacks": [tracer]})
    [root] = tracer.roots
    assert shape(root) == ("chain", "Reranker", [("chain", "first:m", []), ("chain", "second:m", [])])
    assert all("RateLimitError" in run.error for run in (root, *root.child_runs))


def test_where_all_fail_the_input_order_may_stand(invoke):
    tracer = Tracer()
    reranker = Reranker(failing(), fallback=failing("second"), on_error="input_order")
    assert pages(invoke(reranker, ASKED, {"callbacks": [tracer]})) == pages(ASKED["documents"])
    [root] = tracer.roots
    assert (root.error, root.metadata["rerankx_degraded"]) == (None, "input_order")
    assert [(run.name, run.error is None) for run in root.child_runs] == [("first:m", False), ("second:m", False)]
    assert "rerankx_answered_by" not in root.metadata


def test_on_ranking_sees_who_answered(invoke):
    seen = []
    invoke(Reranker(failing(), fallback=spare(), on_ranking=seen.append), ASKED)
    assert [(ranking.backend, ranking.degraded) for ranking in seen] == [("spare", "fallback")]


def test_a_threshold_is_not_the_fallbacks(invoke):
    assert len(invoke(Reranker(failing(), fallback=spare(), min_score=0.9), ASKED)) == 5
    own = rerankx.Fallback(failing(), spare(), min_scores={"spare": 0.9})
    assert pages(invoke(Reranker(own, min_score=0.1), ASKED)) == BEST[:1]


def test_a_retriever_takes_a_fallback(invoke):
    tracer = Tracer()
    found = invoke(rerank(base(), failing(), fallback=spare(), top_n=2), QUESTION, {"callbacks": [tracer]})
    assert pages(found) == BEST[:2]
    assert shape(runs(tracer.roots[0], "Reranker")[0]) == ("chain", "Reranker", [("chain", "first:m", [])])


def test_a_retriever_takes_a_fallback_by_name(named, invoke):
    assert pages(invoke(rerank(base(), "named:broken", fallback="named"), QUESTION)) == BEST


def test_options_are_the_backends_and_not_the_fallbacks(named):
    Reranker("named", weight=2.0, fallback=["named", "named:other"])
    assert [(made.model, made.weight) for made in named] == [("words", 2.0), ("words", 1.0), ("other", 1.0)]


# What is refused


@pytest.mark.parametrize("wrapped", [Reranker, lambda core, **more: rerank(base(), core, **more)])
def test_a_fallback_beside_a_ready_reranker_is_refused(wrapped):
    with pytest.raises(TypeError, match=r"fallback given with a rerankx\.Reranker object"):
        wrapped(rerankx.Reranker(spare()), fallback="embedded")


def test_a_fallback_for_another_packages_reranker_is_refused():
    with pytest.raises(TypeError, match="fallback given with a Reranker object; set them on it"):
        rerank(base(), Reranker(spare()), fallback="embedded")


def test_a_fallback_among_the_options_is_refused():
    with pytest.raises(TypeError, match="fallback in options: an argument of Reranker itself"):
        Reranker("embedded", options={"fallback": "minilm"})


def test_a_wrong_name_is_told_at_once():
    with pytest.raises(rerankx.UnknownBackendError, match="did you mean 'embedded'"):
        Reranker(spare(), fallback="embeded")


@pytest.mark.parametrize("fallback", [7, {"embedded": 1}, [7], rerankx.Reranker(spare())])
def test_a_fallback_of_another_kind_is_refused(fallback):
    with pytest.raises(ValidationError, match="fallback"):
        Reranker(spare(), fallback=fallback)


# Made once


def test_fallbacks_are_made_once(named, invoke):
    reranker = Reranker("named:broken", fallback=["named", "named:other"])
    for _ in range(2):
        invoke(reranker, ASKED)
    assert [made.model for made in named] == ["broken", "words", "other"]


def test_a_runnable_with_configurable_fields_makes_no_fallback_again(named, invoke):
    reranker = Reranker("named:broken", fallback="named").configurable_fields(top_n=ConfigurableField(id="n"))
    found = [pages(invoke(reranker, ASKED, {"configurable": {"n": n}})) for n in (1, 2)]
    assert found == [BEST[:1], BEST[:2]]
    assert [made.model for made in named] == ["broken", "words"]


def test_a_backend_object_keeps_a_fallback_that_is_named(named, invoke):
    reranker = Reranker(failing(), fallback="named").configurable_fields(top_n=ConfigurableField(id="n"))
    for n in (1, 2):
        invoke(reranker, ASKED, {"configurable": {"n": n}})
    assert len(named) == 1


def test_the_fallback_may_be_configured(named, invoke):
    reranker = Reranker(failing()).configurable_fields(fallback=ConfigurableField(id="spare"))
    for fallback in ("named", ["named:broken", "named"]):
        for _ in range(2):
            assert pages(invoke(reranker, ASKED, {"configurable": {"spare": fallback}})) == BEST
    assert [made.model for made in named] == ["words", "broken"]


def test_a_fallback_that_is_assigned_is_asked(named, invoke):
    reranker = Reranker("named:broken")
    reranker.fallback = ["named"]
    assert pages(invoke(reranker, ASKED)) == BEST


# Copied and shown


@how
@pytest.mark.parametrize(
    "fallback",
    [lambda: spare(), lambda: [failing("second"), spare()], lambda: "named", lambda: ["named:broken", "named"]],
    ids=["object", "objects", "name", "names"],
)
def test_copies_fall_back_too(named, fallback, copied, invoke):
    assert pages(invoke(copied(Reranker("named:broken", fallback=fallback())), ASKED)) == BEST


def test_a_deep_copy_shares_the_fallback_object():
    fallback = spare()
    assert copy.deepcopy(Reranker(failing(), fallback=fallback)).fallback is fallback
    assert copy.deepcopy(Reranker(failing(), fallback=[fallback])).fallback[0] is fallback


@pytest.mark.filterwarnings("ignore:The function `load` is in beta")
@pytest.mark.parametrize("fallback", ["named", ["named"], ["named:broken", "named"]])
def test_names_go_to_json_and_back(named, fallback, invoke):
    reranker = Reranker("named:broken", fallback=fallback)
    dumped = json.loads(json.dumps(dumpd(reranker)))
    assert dumped["kwargs"]["fallback"] == fallback
    again = load(dumped, allowed_objects=[Reranker], valid_namespaces=["langchain_rerankx"])
    assert again == reranker
    assert pages(invoke(again, ASKED)) == BEST


def test_a_fallback_object_does_not_go_to_json_and_shows_its_type_alone():
    for fallback, held in ((spare(), lambda it: it), (["embedded", spare()], lambda it: it[1])):
        reranker = Reranker("embedded", fallback=fallback)
        assert held(dumpd(reranker)["kwargs"]["fallback"])["type"] == "not_implemented"
        assert "<FakeBackend>" in repr(reranker)


def test_a_reranker_without_a_fallback_dumps_none():
    assert "fallback" not in dumpd(Reranker("embedded"))["kwargs"]


def test_the_fallback_has_a_json_schema():
    kinds = [one.get("type") for one in Reranker.model_json_schema()["properties"]["fallback"]["anyOf"]]
    assert kinds == ["string", "array", "null"]
