import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.schema import QueryBundle
from llamaindex_stage import QUESTION, Callbacks, Overlap, ids, retrieved

from llamaindex_rerankx import Rerank
from rerankx import BackendError


def of(kind, seen):
    return [payload for event_type, payload in seen if event_type is kind]


def test_start_and_end_are_told_with_the_nodes(run, events):
    reranked = run(Rerank(Overlap(), top_n=2), retrieved(), QueryBundle(QUESTION))
    (start,), (end,) = events.of(ReRankStartEvent), events.of(ReRankEndEvent)
    assert (start.query.query_str, start.top_n, start.model_name) == (QUESTION, 2, "words")
    assert ids(start.nodes) == ids(retrieved())
    assert all(told is node for told, node in zip(end.nodes, reranked, strict=True))


def test_top_n_none_is_told_as_the_number_of_candidates(run, events):
    run(Rerank(Overlap()), retrieved()[:4], QueryBundle(QUESTION))
    assert events.of(ReRankStartEvent)[0].top_n == 4


def test_events_belong_to_the_span_of_the_call(run, events):
    run(Rerank(Overlap()), retrieved(), QueryBundle(QUESTION))
    method = {"sync": "_postprocess_nodes", "async": "_apostprocess_nodes"}[run.how]
    spans = {event.span_id.split("-")[0] for event in events.of(ReRankStartEvent) + events.of(ReRankEndEvent)}
    assert spans == {f"Rerank.{method}"}


def test_callbacks_receive_a_reranking_event(run):
    heard = Callbacks()
    rerank = Rerank(Overlap(), top_n=2, callback_manager=CallbackManager([heard]))
    reranked = run(rerank, retrieved(), QueryBundle(QUESTION))
    (start,), (end,) = of(CBEventType.RERANKING, heard.started), of(CBEventType.RERANKING, heard.ended)
    assert ids(start.pop(EventPayload.NODES)) == ids(retrieved())
    assert start == {EventPayload.MODEL_NAME: "words", EventPayload.QUERY_STR: QUESTION, EventPayload.TOP_K: 2}
    assert ids(end[EventPayload.NODES]) == ids(reranked)


def test_an_assigned_callback_manager_is_the_one_that_hears(run):
    first, second = Callbacks(), Callbacks()
    rerank = Rerank(Overlap(), callback_manager=CallbackManager([first]))
    rerank.callback_manager = CallbackManager([second])
    run(rerank, retrieved(), QueryBundle(QUESTION))
    assert (len(first.started), len(of(CBEventType.RERANKING, second.started))) == (0, 1)


def test_no_nodes_no_events(run, events):
    heard = Callbacks()
    run(Rerank(Overlap(), callback_manager=CallbackManager([heard])), [], QueryBundle(QUESTION))
    assert events.of(ReRankStartEvent) + events.of(ReRankEndEvent) == []
    assert heard.started == []


def test_an_error_ends_the_callback_event_with_it(run, events):
    heard = Callbacks()
    rerank = Rerank(Overlap(error=RuntimeError("no")), callback_manager=CallbackManager([heard]))
    with pytest.raises(BackendError) as raised:
        run(rerank, retrieved(), QueryBundle(QUESTION))
    assert of(CBEventType.RERANKING, heard.ended) == [{EventPayload.EXCEPTION: raised.value}]
    assert events.of(ReRankEndEvent) == []
    assert [event.exception for event in events.of(ExceptionEvent)] == [raised.value]


def test_a_failed_attempt_is_told_although_nothing_is_raised(run, events):
    run(Rerank(Overlap(error=RuntimeError("no")), on_error="input_order"), retrieved(), QueryBundle(QUESTION))
    (failure,) = events.of(ExceptionEvent)
    assert "overlap" in str(failure.exception)
    assert {node.degraded for node in events.of(ReRankEndEvent)[0].nodes} == {"input_order"}
