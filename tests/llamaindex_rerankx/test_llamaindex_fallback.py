"""`fallback=`, and `rerankx.Fallback`, through the LlamaIndex adapter: what comes back, and which events tell of it."""

import copy
import json
import pickle

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import QueryBundle
from llamaindex_stage import BEST, QUESTION, Callbacks, Overlap, ids, index_of, llm, retrieved

from llamaindex_rerankx import Rerank, rerank
from rerankx import BackendError, DeadlineError, Fallback, RateLimitError, Reranker, UnknownBackendError
from rerankx.testing import FakeBackend

QUERY = QueryBundle(QUESTION)
FOUND = [f"p{i}" for i in BEST]


def failing(name="first", error=None):
    return FakeBackend(name=name, model="m", error=error or RateLimitError("too many"))


WAYS = {
    "fallback=": lambda **more: Rerank(failing(), fallback=Overlap(), **more),
    "a list": lambda **more: Rerank(failing(), fallback=[Overlap()], **more),
    "a backend": lambda **more: Rerank(Fallback(failing(), Overlap()), **more),
    "a core reranker": lambda **more: Rerank(Reranker(failing(), fallback=Overlap()), **more),
}
every_way = pytest.mark.parametrize("make", WAYS.values(), ids=WAYS)


@every_way
def test_the_fallback_answers_where_the_backend_fails(make, run):
    reranked = run(make(top_n=2), retrieved(), QUERY)
    assert ids(reranked) == FOUND
    assert {node.degraded for node in reranked} == {"fallback"}


@every_way
def test_the_failed_attempt_is_an_exception_event_in_a_reranking_that_went_well(make, run, events):
    reranked = run(make(top_n=2), retrieved(), QUERY)
    (failure,), (end,) = events.of(ExceptionEvent), events.of(ReRankEndEvent)
    assert str(failure.exception) == "first:m: RateLimitError: too many"
    assert all(told is node for told, node in zip(end.nodes, reranked, strict=True))
    assert events.of(ReRankStartEvent)[0].model_name == "first:m > overlap:words"


def test_the_failed_attempt_belongs_to_the_span_of_the_call(run, events):
    run(Rerank(failing(), fallback=Overlap()), retrieved(), QUERY)
    spans = {event.span_id for kind in (ReRankStartEvent, ExceptionEvent, ReRankEndEvent) for event in events.of(kind)}
    assert len(spans) == 1


def test_the_callback_event_ends_with_the_nodes(run):
    heard = Callbacks()
    run(Rerank(failing(), fallback=Overlap(), callback_manager=CallbackManager([heard])), retrieved(), QUERY)
    [(kind, payload)] = [event for event in heard.ended if event[0] is CBEventType.RERANKING]
    assert (kind, len(payload[EventPayload.NODES])) == (CBEventType.RERANKING, 10)


def test_a_first_one_that_answers_is_no_failure(run, events):
    reranked = run(Rerank(Overlap(), fallback=failing()), retrieved(), QUERY)
    assert (events.of(ExceptionEvent), {node.degraded for node in reranked}) == ([], {None})


def test_where_all_fail_there_is_an_event_for_each_and_one_for_the_call(run, events):
    with pytest.raises(BackendError) as raised:
        run(Rerank(failing(), fallback=failing("second", DeadlineError("late"))), retrieved(), QUERY)
    *attempts, last = [event.exception for event in events.of(ExceptionEvent)]
    assert [str(error) for error in attempts] == ["first:m: RateLimitError: too many", "second:m: DeadlineError: late"]
    assert last is raised.value
    assert events.of(ReRankEndEvent) == []


def test_where_all_fail_the_input_order_may_stand(run, events):
    rerank = Rerank(failing(), fallback=failing("second"), on_error="input_order")
    reranked = run(rerank, retrieved(), QUERY)
    assert (ids(reranked), {node.degraded for node in reranked}) == (ids(retrieved()), {"input_order"})
    assert (len(events.of(ExceptionEvent)), len(events.of(ReRankEndEvent))) == (2, 1)


def test_an_error_with_attempts_of_another_kind_is_reraised_as_it_is(run):
    class Odd(Exception):
        attempts = 3

    def key(node):
        raise Odd

    with pytest.raises(Odd):
        run(Rerank(Overlap(), key=key), retrieved(), QUERY)


def test_on_ranking_sees_who_answered(run):
    seen = []
    run(Rerank(failing(), fallback=Overlap(), on_ranking=seen.append), retrieved(), QUERY)
    assert [(ranking.backend, ranking.degraded) for ranking in seen] == [("overlap", "fallback")]


def test_a_threshold_is_not_the_fallbacks(run):
    assert len(run(Rerank(failing(), fallback=Overlap(), min_score=0.9), retrieved(), QUERY)) == 10
    own = Fallback(failing(), Overlap(), min_scores={"overlap": 0.9})
    assert ids(run(Rerank(own, min_score=0.1), retrieved(), QUERY)) == FOUND[:1]


def test_a_retriever_takes_a_fallback():
    retriever = rerank(index_of().as_retriever(similarity_top_k=10), failing(), fallback=Overlap(), top_n=2)
    assert ids(retriever.retrieve(QUESTION)) == FOUND


def test_an_engine_takes_a_fallback_by_name(installed_backends):
    engine = index_of().as_query_engine(llm=llm(), similarity_top_k=10)
    answer = rerank(engine, "overlap", error=RuntimeError("no"), fallback="overlap:spare", top_n=2).query(QUESTION)
    assert ids(answer.source_nodes) == FOUND
    assert {node.degraded for node in answer.source_nodes} == {"fallback"}


def test_options_are_the_backends_and_not_the_fallbacks(installed_backends, run):
    reranker = Rerank("overlap", weight=0.5, error=RuntimeError("no"), fallback="overlap")
    assert run(reranker, retrieved(), QUERY)[0].score == 1.0


# What is refused


@pytest.mark.parametrize("fallback", ["embedded", ["embedded"], FakeBackend()])
def test_a_fallback_beside_a_ready_reranker_is_refused(fallback):
    with pytest.raises(TypeError, match="fallback given with a Reranker; pass them to its constructor"):
        Rerank(Reranker(Overlap()), fallback=fallback)


def test_a_fallback_beside_a_ready_postprocessor_is_refused():
    with pytest.raises(TypeError, match="fallback given with a ready Rerank"):
        rerank(index_of().as_retriever(), Rerank(Overlap()), fallback="embedded")


def test_a_wrong_name_is_told_at_once():
    with pytest.raises(UnknownBackendError, match="did you mean 'embedded'"):
        Rerank(Overlap(), fallback="embeded")


@pytest.mark.parametrize("fallback", [7, {"embedded": 1}, [7], Reranker(Overlap())])
def test_a_fallback_of_another_kind_is_refused(fallback):
    with pytest.raises(TypeError, match="fallback"):
        Rerank(Overlap(), fallback=fallback)


def test_the_fallback_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        Rerank(Overlap(), fallback="embedded").fallback = None


# Copied and written down


@pytest.mark.parametrize(
    "there_and_back", [lambda r: r.to_dict(), lambda r: json.loads(r.to_json())], ids=["dict", "json"]
)
@pytest.mark.parametrize("fallback", ["overlap:spare", ["overlap:spare"], ["overlap:spare", "overlap"]])
def test_names_survive_to_dict(installed_backends, there_and_back, fallback, run):
    data = there_and_back(Rerank("overlap", fallback=fallback, top_n=2))
    assert data["fallback"] == fallback
    again = Rerank.from_dict(data, error=RuntimeError("no"))  # the backend's option
    assert again.to_dict() == data
    assert ids(run(again, retrieved(), QUERY)) == FOUND
    assert again._reranker.backend.model.startswith("overlap:words > overlap:spare")


def test_without_a_fallback_nothing_changes_on_the_way(installed_backends):
    data = Rerank("overlap").to_dict()
    assert data["fallback"] is None
    assert Rerank.from_dict(data)._reranker.backend.name == "overlap"


@pytest.mark.parametrize(("fallback", "written"), [(Overlap(), "<overlap:words>"), ([Overlap()], ["<overlap:words>"])])
def test_a_fallback_object_is_described_and_never_mistaken_for_a_name(fallback, written):
    reranker = Rerank("embedded", fallback=fallback)
    data = reranker.to_dict()
    assert data["fallback"] == written
    assert f"fallback={written!r}" in repr(reranker)
    with pytest.raises(UnknownBackendError):
        Rerank.from_dict(data)


@pytest.mark.parametrize("way", [lambda r: pickle.loads(pickle.dumps(r)), copy.deepcopy, copy.copy])
@pytest.mark.parametrize("fallback", [Overlap, lambda: [Overlap()], lambda: "overlap", lambda: ["overlap"]])
def test_copies_fall_back_too(installed_backends, way, fallback, run):
    again = way(Rerank(failing(), fallback=fallback(), top_n=2))
    assert ids(run(again, retrieved(), QUERY)) == FOUND


def test_a_deep_copy_shares_the_fallback_object():
    fallback = Overlap()
    assert copy.deepcopy(Rerank(failing(), fallback=[fallback])).fallback[0] is fallback


def test_the_fallback_has_a_json_schema():
    kinds = [one.get("type") for one in Rerank.model_json_schema()["properties"]["fallback"]["anyOf"]]
    assert kinds == ["string", "array", "null"]
