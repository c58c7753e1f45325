"""A postprocessor and a retriever that ask an LLM of LlamaIndex's, `Settings.llm` too, over a server on loopback."""

import asyncio
import copy
import json
import logging
import pickle
import re
import threading
import time
import traceback
from typing import Any

import pytest

pytest.importorskip("llama_index.llms.openai_like", reason="needs: pip install llama-index-llms-openai-like")

import scripted
from chat_stage import ChatStage, Said, error, refusing, wait_until
from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.core.schema import QueryBundle
from llama_index.llms.openai_like import OpenAILike
from llamaindex_stage import QUESTION, Callbacks, ids, index_of, retrieved

import rerankx
from llamaindex_rerankx import Rerank, RerankRetriever, rerank
from rerankx import AuthenticationError, BackendError, BudgetError, DeadlineError, ReplyError
from rerankx.testing import FakeBackend

KEY = scripted.KEY
SLOW = Said(delay_s=30)
ALL = [f"p{i}" for i in range(10)]
FIRST = ["p5", "p3", "p8"]  # 10, 6 and 3 words in common with the query
GRADED = ["p3", "p5"]  # 4, the best grade, for both
how = pytest.mark.parametrize("how", ["sync", "async"])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Nobody's keys, and an LLM in the settings that is nobody's either."""
    scripted.alone(monkeypatch)
    monkeypatch.setattr(Settings, "_llm", None)
    monkeypatch.setattr(Settings, "_callback_manager", None)


@pytest.fixture
def stage():
    """A server whose model ranks by words in common with the query."""
    with ChatStage(scripted.ranker) as stage:
        yield stage


def model(stage, kind=OpenAILike, **options):
    # Its connections would be kept beyond their event loop, and never be closed.
    given = {"api_base": stage.base_url, "api_key": KEY, "max_retries": 0, "default_headers": {"Connection": "close"}}
    return kind(**{"model": "stage-model", "is_chat_model": True, "reuse_client": False, **given, **options})


def ranked(reranker, how="sync", nodes=None):
    nodes = retrieved() if nodes is None else nodes
    if how == "sync":
        return reranker.postprocess_nodes(nodes, QueryBundle(QUESTION))
    return asyncio.run(reranker.apostprocess_nodes(nodes, QueryBundle(QUESTION)))


class Fixed(BaseRetriever):
    """Brings the passages."""

    def _retrieve(self, query_bundle):
        return retrieved()


# What comes back


@pytest.mark.parametrize("prompted", [{}, {"strategy": "first-token"}, {"shuffles": 2}, {"window": 6}])
def test_an_llm_puts_nodes_in_order(stage, run, prompted):
    stage.brain = scripted.pointer
    given = retrieved()
    found = run(Rerank("listwise", llm=model(stage), **prompted), given, QueryBundle(QUESTION))
    assert ids(found)[:2] == FIRST[:2]
    assert sorted(ids(found)) == ALL
    assert [one.score for one in found] == pytest.approx([1 - i / 10 for i in range(10)])
    assert given == retrieved()
    assert all(one.node is given[int(one.node_id[1:])].node for one in found)


def test_an_llm_grades_each_node_by_itself(stage, run):
    stage.brain = scripted.weigher
    found = run(Rerank("judge", llm=model(stage)), retrieved(), QueryBundle(QUESTION))
    assert ids(found)[:2] == GRADED
    assert sorted(ids(found)) == ALL
    assert [one.score for one in found][:2] == pytest.approx([0.9375, 0.9375])
    assert len(stage.requests) == 10


@pytest.mark.parametrize(("min_score", "kept"), [(0.95, []), (0.9375, GRADED)])
def test_min_score_holds_for_a_judge(stage, run, min_score, kept):
    stage.brain = scripted.weigher
    found = run(Rerank("judge", llm=model(stage), min_score=min_score), retrieved(), QueryBundle(QUESTION))
    assert ids(found) == kept


@pytest.mark.parametrize("options", [{}, {"llm": scripted.ranker}])
def test_min_score_is_refused_where_there_is_only_an_order(options):
    with pytest.raises(ValueError, match="only an order"):
        Rerank("listwise", min_score=0.5, **options)
    with pytest.raises(ValueError, match="only an order"):
        Rerank("listwise", **options).min_score = 0.5
    assert Rerank("judge", min_score=0.5, **options).min_score == 0.5


@how
def test_a_retriever_and_an_engine_ask_it(stage, how):
    llm = model(stage)
    retriever = rerank(index_of().as_retriever(similarity_top_k=10), "listwise", llm=llm, top_n=2)
    found = retriever.retrieve(QUESTION) if how == "sync" else asyncio.run(retriever.aretrieve(QUESTION))
    assert ids(found) == FIRST[:2]
    plain = index_of().as_query_engine(llm=MockLLM(), similarity_top_k=10)
    engine = rerank(plain, "listwise", llm=llm, top_n=2)
    answer = engine.query(QUESTION) if how == "sync" else asyncio.run(engine.aquery(QUESTION))
    assert ids(answer.source_nodes) == FIRST[:2]
    assert len(stage.requests) == 2  # the answer is MockLLM's


def test_no_nodes_are_no_question(stage, run):
    assert run(Rerank("listwise", llm=model(stage)), [], QueryBundle(QUESTION)) == []
    assert stage.requests == []


def test_it_works_where_an_event_loop_is_running(stage):
    async def main():
        return ranked(Rerank("listwise", llm=model(stage), top_n=2))

    assert ids(asyncio.run(main())) == FIRST[:2]


def test_many_at_a_time_in_one_event_loop(stage):
    reranker = Rerank("listwise", llm=model(stage), top_n=2)

    async def main():
        calls = [reranker.apostprocess_nodes(retrieved(), QueryBundle(QUESTION)) for _ in range(6)]
        return [ids(found) for found in await asyncio.gather(*calls)]

    assert asyncio.run(main()) == [FIRST[:2]] * 6


@how
def test_it_is_called_by_chat_or_achat(stage, how, monkeypatch):
    calls = []

    def noting(name):
        method = getattr(OpenAILike, name)
        monkeypatch.setattr(
            OpenAILike, name, lambda self, *args, **more: calls.append(name) or method(self, *args, **more)
        )

    for name in ("chat", "achat", "complete", "acomplete"):
        noting(name)
    ranked(Rerank("listwise", llm=model(stage), top_n=2), how)
    assert calls == [{"sync": "chat", "async": "achat"}[how]]


# The LLM of the settings


@how
@pytest.mark.parametrize("backend", ["listwise", "judge"])
def test_without_an_llm_that_of_the_settings_is_asked(stage, how, backend):
    stage.brain = scripted.ranker if backend == "listwise" else scripted.weigher
    reranker = Rerank(backend, top_n=2)
    Settings.llm = model(stage)  # later than the reranker was made
    assert ids(ranked(reranker, how)) == (FIRST[:2] if backend == "listwise" else GRADED)


@how
def test_another_llm_in_the_settings_is_asked_from_then_on(stage, how):
    with ChatStage(scripted.lazy) as other:
        reranker = Rerank("listwise", top_n=2)
        Settings.llm = first = model(stage)
        assert ids(ranked(reranker, how)) == FIRST[:2]
        Settings.llm = model(other)
        assert ids(ranked(reranker, how)) == ["p0", "p1"]
        Settings.llm = first
        assert ids(ranked(reranker, how)) == FIRST[:2]
        assert (len(stage.requests), len(other.requests)) == (2, 1)


@how
def test_an_llm_that_is_given_is_asked_whatever_the_settings_say(stage, how):
    with ChatStage(scripted.lazy) as other:
        reranker = Rerank("listwise", llm=model(stage), top_n=2)
        Settings.llm = model(other)
        assert ids(ranked(reranker, how)) == FIRST[:2]
        assert other.requests == []


def test_a_model_of_a_service_is_asked_whatever_the_settings_say(stage):
    with ChatStage(scripted.lazy) as other:
        Settings.llm = model(other)
        reranker = Rerank("listwise:mine", base_url=stage.base_url, top_n=2)
        assert ids(ranked(reranker)) == FIRST[:2]
        reranker._reranker.backend.close()
        assert (stage.bodies[0]["model"], other.requests) == ("mine", [])


def test_a_model_that_is_named_is_asked_whatever_the_settings_say(stage, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", stage.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatStage(scripted.lazy) as other:
        Settings.llm = model(other)
        reranker = Rerank("listwise", model="mine", top_n=2)
        assert ids(ranked(reranker)) == FIRST[:2]
        reranker._reranker.backend.close()
        assert (stage.bodies[0]["model"], other.requests) == ("mine", [])


def test_a_deep_copy_spends_from_the_same_limit(stage):
    Settings.llm = model(stage)
    reranker = Rerank("listwise", max_calls=1, top_n=2)
    ranked(reranker)
    with pytest.raises(BudgetError):
        ranked(copy.deepcopy(reranker))


def test_what_was_found_out_about_the_llm_of_the_settings_is_kept(stage):
    stage.brain = refusing("response_format", then=scripted.ranker)
    Settings.llm = model(stage)
    reranker = Rerank("listwise", top_n=2)
    for requests in (2, 3, 4):
        assert ids(ranked(reranker)) == FIRST[:2]
        assert len(stage.requests) == requests


@how
def test_limits_hold_over_calls(stage, how):
    Settings.llm = model(stage)
    reranker = Rerank("listwise", max_calls=1, top_n=2)
    assert ids(ranked(reranker, how)) == FIRST[:2]
    with pytest.raises(BudgetError):
        ranked(reranker, how)
    assert len(stage.requests) == 1


class LooksLong(OpenAILike):
    """Lets other threads run while somebody reads what it is."""

    @property
    def metadata(self):
        time.sleep(0.05)
        return super().metadata


def test_threads_that_are_first_share_one_limit(stage):
    Settings.llm = model(stage, LooksLong)
    reranker, barrier, results = Rerank("listwise", max_calls=1, top_n=2), threading.Barrier(6), []

    def search():
        barrier.wait(30)
        try:
            results.append(ids(ranked(reranker)))
        except BudgetError:
            results.append(None)

    threads = [threading.Thread(target=search) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(map(bool, results)) == [False] * 5 + [True]
    assert len(stage.requests) == 1


@how
def test_a_retriever_asks_the_llm_of_the_settings(stage, how):
    retriever = RerankRetriever(Fixed(), "listwise", top_n=2)
    Settings.llm = model(stage)
    found = retriever.retrieve(QUESTION) if how == "sync" else asyncio.run(retriever.aretrieve(QUESTION))
    assert ids(found) == FIRST[:2]


@how
@pytest.mark.parametrize("wrong", [None, ImportError("no package")], ids=["no key", "no package"])
def test_without_any_llm_it_says_what_is_missing(monkeypatch, how, wrong):
    def refuse(*_args, **_more):
        raise wrong

    if wrong is not None:  # else LlamaIndex takes OpenAI's, for which there is no key
        monkeypatch.setattr("llama_index.core.settings.resolve_llm", refuse)
    with pytest.raises(ValueError, match=r"needs a language model: pass llm=, or set Settings\.llm\.") as raised:
        ranked(Rerank("listwise", on_error="input_order"), how)
    assert str(raised.value).endswith(
        "Settings.llm was never set, and LlamaIndex's default, OpenAI's gpt-3.5-turbo, needs llama-index-llms-openai and"
        " OPENAI_API_KEY"
    )


@how
@pytest.mark.parametrize("backend", ["listwise", "judge"])
@pytest.mark.filterwarnings("ignore:.*MockLLM")
def test_an_llm_that_is_disabled_ranks_nothing(how, backend, capsys):
    Settings.llm = None
    with pytest.raises(ValueError, match="needs a language model") as raised:
        ranked(Rerank(backend), how)
    assert str(raised.value).endswith("Settings.llm is None (LlamaIndex puts MockLLM there): set it, or pass llm=")


def test_no_nodes_need_no_llm():
    assert ranked(Rerank("listwise"), nodes=[]) == []


@how
def test_a_first_token_is_asked_of_the_llm_of_the_settings_and_no_warning_is_given(stage, how, caplog):
    stage.brain = scripted.pointer
    reranker = Rerank("listwise", strategy="first-token", top_n=2)
    Settings.llm = model(stage)
    assert ids(ranked(reranker, how)) == FIRST[:2]
    assert stage.bodies[0]["logprobs"] is True
    assert [record for record in caplog.records if record.name == "rerankx"] == []


class OnlyCompletes(CustomLLM):
    """Takes no options, and so tells no log-probabilities."""

    @property
    def metadata(self):
        return LLMMetadata(model_name="plain")

    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text=scripted.ranker({"messages": [{"role": "user", "content": prompt}]}))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError


def test_an_llm_of_the_settings_that_tells_no_log_probabilities_is_told_of_when_it_is_asked(caplog):
    reranker = Rerank("listwise", strategy="first-token", top_n=2)
    Settings.llm = OnlyCompletes()
    assert ids(ranked(reranker)) == FIRST[:2]
    (said,) = {record.getMessage() for record in caplog.records if record.name == "rerankx"}
    assert said.startswith("listwise:plain tells no log-probabilities")


@pytest.mark.parametrize("used", [lambda made: made, lambda made: pickle.loads(pickle.dumps(made))])
def test_nobody_is_asked_and_no_key_read_while_there_is_no_llm(monkeypatch, used):
    monkeypatch.setenv("RERANKX_LLM_API_KEY", KEY)
    made = used(Rerank("listwise", budget_usd=1.0, fallback="embedded"))
    assert made._reranker.backend.backends[0]._key.reveal() != KEY


@pytest.mark.parametrize(
    "wrong",
    [
        {"windw": 4},
        {"window": 1},
        {"deadline_s": -1},
        {"lacks": ["wings"]},
        {"on_bad_reply": "shrug"},
        {"price": {}},
        {"max_concurrency": 0},
    ],
    ids=lambda wrong: next(iter(wrong)),
)
def test_a_wrong_option_is_told_before_there_is_an_llm(wrong):
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        Rerank("listwise", **wrong)


@how
def test_a_fallback_answers_for_the_llm_of_the_settings(how):
    Settings.llm = model(_dead())
    reranker = Rerank("listwise", fallback="embedded")
    found = ranked(reranker, how)
    assert sorted(ids(found)) == ALL
    assert {one.degraded for one in found} == {"fallback"}


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda thing: pickle.loads(pickle.dumps(thing))],
    ids=["copy", "deepcopy", "pickle"],
)
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("fallback", [None, "embedded"])
def test_a_copy_asks_the_llm_of_the_settings(stage, copied, used, fallback):
    Settings.llm = model(stage)
    reranker = Rerank("listwise", top_n=2, window=12, fallback=fallback)
    if used:
        ranked(reranker)
    again = copied(reranker)
    assert again.to_dict() == reranker.to_dict()
    with ChatStage(scripted.lazy) as other:
        Settings.llm = model(other)
        assert ids(ranked(again)) == ["p0", "p1"]


def test_from_dict_asks_the_llm_of_the_settings(stage):
    data = json.loads(Rerank("listwise", top_n=2, window=12).to_json())
    Settings.llm = model(stage)
    assert ids(ranked(Rerank.from_dict(data))) == FIRST[:2]


# Its events, spans and callbacks


class Spans(BaseSpanHandler[BaseSpan]):
    entered: list[Any] = Field(default_factory=list)
    """(span, parent)."""
    dropped: list[Any] = Field(default_factory=list)

    def new_span(self, id_, bound_args, instance=None, parent_span_id=None, tags=None, **kwargs):
        self.entered.append((id_, parent_span_id))
        return BaseSpan(id_=id_, parent_id=parent_span_id)

    def prepare_to_exit_span(self, id_, bound_args, instance=None, result=None, **kwargs):
        return self.open_spans.get(id_)

    def prepare_to_drop_span(self, id_, bound_args, instance=None, err=None, **kwargs):
        self.dropped.append(id_)
        return self.open_spans.get(id_)

    def names_above(self, span):
        """Return the names of the spans around it, from the inside."""
        parents, names = dict(self.entered), []
        while (span := parents[span]) is not None:
            names.append(re.sub(r"-[0-9a-f-]{36}$", "", span))
        return names


@pytest.fixture
def tree():
    handler, root = Spans(), get_dispatcher()
    root.add_span_handler(handler)
    yield handler
    root.span_handlers.remove(handler)


INSIDE = {"sync": "Rerank._postprocess_nodes", "async": "Rerank._apostprocess_nodes"}
CHAT = {"sync": "OpenAILike.chat-", "async": "OpenAILike.achat-"}


@how
@pytest.mark.parametrize(("backend", "requests"), [("listwise", 1), ("judge", 10)])
@pytest.mark.parametrize("of_settings", [False, True])
def test_the_llms_spans_are_within_the_postprocessors(stage, tree, how, backend, requests, of_settings):
    stage.brain = scripted.ranker if backend == "listwise" else scripted.weigher
    Settings.llm = model(stage)
    ranked(Rerank(backend, **({} if of_settings else {"llm": model(stage)})), how)
    chats = [span for span, _ in tree.entered if span.startswith(CHAT[how])]
    assert len(stage.requests) == requests
    assert (
        len(chats) >= requests
    )  # a class that is derived from OpenAI's has a span of its own around that of the other
    assert all(INSIDE[how] in tree.names_above(span) for span in chats)
    assert len({span for span, _ in tree.entered if span.startswith(INSIDE[how])}) == 1
    assert tree.dropped == []


@how
def test_the_llms_events_are_between_those_of_the_reranking(stage, tree, events, how):
    Settings.llm = model(stage)
    ranked(Rerank("listwise", top_n=2), how)
    kinds = (ReRankStartEvent, LLMChatStartEvent, LLMChatEndEvent, ReRankEndEvent)
    seen = [event for event in events.seen if isinstance(event, kinds)]
    assert [type(event) for event in seen] == list(kinds)
    assert seen[0].model_name == "stage-model"
    assert QUESTION in seen[1].messages[-1].content
    assert INSIDE[how] in tree.names_above(seen[1].span_id)
    assert seen[0].span_id.startswith(INSIDE[how])


@how
def test_it_nests_within_a_retriever(stage, tree, how):
    retriever = rerank(Fixed(), "listwise", llm=model(stage))
    retriever.retrieve(QUESTION) if how == "sync" else asyncio.run(retriever.aretrieve(QUESTION))
    chat = next(span for span, _ in tree.entered if span.startswith(CHAT[how]))
    names = tree.names_above(chat)
    outer = {"sync": "RerankRetriever._retrieve", "async": "RerankRetriever._aretrieve"}[how]
    assert 0 <= names.index(INSIDE[how]) < names.index(outer)


def test_it_nests_from_a_thread_of_an_event_loop(stage, tree):
    outer = get_dispatcher("a_caller")

    @outer.span
    async def search():
        return await asyncio.to_thread(ranked, Rerank("listwise", llm=model(stage), top_n=2))

    assert ids(asyncio.run(search())) == FIRST[:2]
    chat = next(span for span, _ in tree.entered if span.startswith(CHAT["sync"]))
    assert any("search" in name for name in tree.names_above(chat))


class Nested(Callbacks):
    """Keeps of every event its type and that of the one around it."""

    def __init__(self):
        super().__init__()
        self.types, self.around = {}, []

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **kwargs):
        self.types[event_id] = event_type
        self.around.append((event_type, self.types.get(parent_id)))
        return event_id


@how
def test_callbacks_of_both_nest(stage, how):
    heard = Nested()
    manager = CallbackManager([heard])
    reranker = Rerank("listwise", llm=model(stage, callback_manager=manager), callback_manager=manager)
    with manager.as_trace("search"):
        ranked(reranker, how)
    assert heard.around == [(CBEventType.RERANKING, None), (CBEventType.LLM, CBEventType.RERANKING)]


@how
def test_callbacks_of_the_settings_are_told_of_both(stage, how):
    heard = Nested()
    Settings.llm, Settings.callback_manager = model(stage), CallbackManager([heard])
    ranked(Rerank("listwise"), how)
    assert [what for what, _ in heard.around] == [CBEventType.RERANKING, CBEventType.LLM]


@how
def test_usage_is_told_to_who_asks(stage, how):
    stage.brain = scripted.weigher
    rankings = []
    price = {"per_million_tokens": 10_000.0, "per_million_output_tokens": 100_000.0}
    ranked(Rerank("judge", llm=model(stage), price=price, on_ranking=rankings.append), how)
    usage = rankings[0].usage
    assert (usage.calls, usage.input_tokens, usage.output_tokens) == (10, 1000, 10)
    assert usage.cost_usd == pytest.approx(11.0)
    assert not usage.estimated


# How it fails


@how
@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (403, AuthenticationError), (500, BackendError)]
)
def test_a_fault_of_the_service_is_an_error_and_a_dropped_span(stage, tree, events, how, status, kind):
    stage.brain = lambda body: error(status, f"Not with {KEY}, to say {QUESTION}.")
    with pytest.raises(BackendError) as raised:
        ranked(Rerank("listwise", llm=model(stage)), how)
    assert type(raised.value) is kind
    assert f"HTTP {status}" in str(raised.value)
    assert KEY not in "".join(traceback.format_exception(raised.value))
    assert any(span.startswith(INSIDE[how]) for span in tree.dropped)
    assert any(event.exception is raised.value for event in events.of(ExceptionEvent))


def _dead():
    with ChatStage() as stage:
        return stage


@how
@pytest.mark.parametrize("fault", ["500", "401", "dead", "prose"])
def test_a_fallback_answers_and_no_node_is_lost(events, how, fault):
    brain = {"500": lambda body: error(500, "down"), "401": lambda body: error(401, "no"), "prose": lambda body: "No."}
    with ChatStage(brain.get(fault, scripted.ranker)) as stage:
        llm = model(_dead() if fault == "dead" else stage)
        found = ranked(Rerank("listwise", llm=llm, fallback="embedded"), how)
    assert sorted(ids(found)) == ALL
    assert {one.degraded for one in found} == {"fallback"}
    assert any("listwise:stage-model" in str(event.exception) for event in events.of(ExceptionEvent))


@how
def test_the_input_order_may_stand_in_its_place(how):
    found = ranked(Rerank("listwise", llm=model(_dead()), on_error="input_order"), how)
    assert ids(found) == ALL
    assert {one.degraded for one in found} == {"input_order"}


@how
def test_what_is_no_order_is_asked_again_and_then_an_error(stage, how):
    stage.brain = lambda body: "I like all of them."
    with pytest.raises(ReplyError):
        ranked(Rerank("listwise", llm=model(stage)), how)
    assert len(stage.requests) == 2


@how
@pytest.mark.parametrize(("backend", "keep"), [("listwise", "input_order"), ("judge", "unscored")])
def test_what_is_no_answer_may_leave_nodes_where_they_are(stage, how, backend, keep):
    brain = scripted.ranker if backend == "listwise" else scripted.grader
    stage.brain = lambda body: "I like it." if "Parcels leave" in scripted.prompt_of(body) else brain(body)
    found = ranked(Rerank(backend, llm=model(stage), on_bad_reply=keep), how)
    assert sorted(ids(found)) == ALL
    assert {one.degraded for one in found} == {"incomplete"}
    assert ids(found) == ALL if backend == "listwise" else ids(found)[-1] == "p0"


@how
@pytest.mark.parametrize("backend", ["listwise", "judge"])
def test_a_deadline_ends_it(stage, how, backend):
    stage.brain = lambda body: SLOW
    with pytest.raises(DeadlineError):
        ranked(Rerank(backend, llm=model(stage), deadline_s=0.3), how)


@how
def test_a_deadline_leaves_the_order_that_was_reached(stage, how):
    llm, stage.brain = model(stage), lambda body: "I am up."
    llm.complete("wake up")  # what takes time the first time is no part of it
    stage.brain = lambda body: SLOW if len(stage.requests) > 3 else scripted.ranker(body)
    found = ranked(Rerank("listwise", llm=llm, window=4, deadline_s=1.5), how)
    assert {one.degraded for one in found} == {"deadline"}
    assert sorted(ids(found)) == ALL
    assert ids(found) != ALL


def test_who_is_cancelled_hangs_up(stage, tree):
    stage.brain = lambda body: SLOW

    async def main():
        reranker = Rerank("listwise", llm=model(stage))
        task = asyncio.create_task(reranker.apostprocess_nodes(retrieved(), QueryBundle(QUESTION)))
        await asyncio.to_thread(stage.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: stage.requests[0].done)

    asyncio.run(main())
    assert stage.requests[0].hung_up
    assert len(stage.requests) == 1


# What it is shown and kept as


class Collected(logging.Handler):
    def __init__(self):
        super().__init__(logging.DEBUG)
        self.lines = []

    def emit(self, record):
        self.lines.append(self.format(record))


@how
@pytest.mark.parametrize("of_settings", [False, True])
def test_no_key_is_shown(stage, events, how, of_settings):
    stage.brain = lambda body: (
        error(401, f"Incorrect API key: {KEY}") if len(stage.requests) > 1 else scripted.ranker(body)
    )
    llm = model(stage, default_headers={"Connection": "close", "X-Api-Key": KEY})
    Settings.llm = llm
    reranker, log = Rerank("listwise", **({} if of_settings else {"llm": llm})), Collected()
    ours = logging.getLogger("rerankx")
    ours.addHandler(log)
    try:
        found = ranked(reranker, how)
        with pytest.raises(AuthenticationError) as raised:
            ranked(reranker, how)
    finally:
        ours.removeHandler(log)
    shown = [repr(reranker), str(reranker), str(reranker.to_dict()), reranker.to_json(), reranker.model_dump_json()]
    shown += [str(reranker.model_dump()), str([one.to_dict() for one in found]), *log.lines]
    shown += ["".join(traceback.format_exception(raised.value))]
    shown += [str(event) for event in events.seen if isinstance(event, ReRankStartEvent | ReRankEndEvent)]
    shown += [repr(event.exception) for event in events.of(ExceptionEvent) if isinstance(event.exception, BackendError)]
    assert all(KEY not in text for text in shown)
    assert stage.requests[0].headers["x-api-key"] == KEY


def test_an_llm_is_not_written_and_may_be_given_again(stage, run):
    llm = model(stage)
    data = json.loads(Rerank("listwise", llm=llm, top_n=2, window=12).to_json())
    assert (data["llm"], data["window"]) == ("<OpenAILike>", 12)
    assert ids(run(Rerank.from_dict(data, llm=llm), retrieved(), QueryBundle(QUESTION))) == FIRST[:2]


@pytest.mark.parametrize("backend", ["listwise", "judge"])
@pytest.mark.parametrize("of", [model, lambda stage: scripted.ranker], ids=["llm", "function"])
def test_another_llm_is_never_asked_in_place_of_one_that_was_not_written(stage, backend, of):
    with ChatStage(scripted.lazy) as other:
        Settings.llm = model(other)
        made = Rerank(backend, llm=of(stage))
        for data in (made.to_dict(), json.loads(made.to_json()), made.model_dump(mode="json")):
            with pytest.raises(
                TypeError, match=r"which to_dict\(\) writes in place of a language model: pass that itself"
            ):
                Rerank.from_dict(data)
        assert other.requests == []


def test_an_llm_that_is_none_is_that_of_the_settings_and_written_so():
    data = Rerank("listwise", llm=None).to_dict()
    assert data["llm"] is None
    Rerank.from_dict(data)


@pytest.mark.parametrize("fallback", [None, "embedded"])
def test_an_llm_does_not_pickle(stage, fallback):
    with pytest.raises(TypeError, match="an llm may hold a key, and a pickle holds none"):
        pickle.dumps(Rerank("listwise", llm=model(stage), fallback=fallback))


def test_a_function_pickles(run):
    again = pickle.loads(pickle.dumps(Rerank("listwise", llm=scripted.ranker, top_n=2)))
    assert ids(run(again, retrieved(), QueryBundle(QUESTION))) == FIRST[:2]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_copy_asks_the_same_llm(stage, run, copied):
    llm = model(stage)
    again = copied(Rerank("listwise", llm=llm, top_n=2, max_calls=1))
    assert again._options["llm"] is llm
    assert ids(run(again, retrieved(), QueryBundle(QUESTION))) == FIRST[:2]
    assert len(stage.requests) == 1


# What it says to mistakes


@pytest.mark.parametrize(
    "mistake",
    [
        lambda llm: Rerank(llm),
        lambda llm: Rerank("listwise", model=llm),
        lambda llm: rerank(Fixed(), llm),
        lambda llm: RerankRetriever(Fixed(), llm),
    ],
)
def test_an_llm_in_the_wrong_place_is_told_the_right_one(stage, mistake):
    with pytest.raises(
        TypeError, match=r'OpenAILike is an LLM, no name: write Rerank\("listwise", llm=\.\.\.\)'
    ) as raised:
        mistake(model(stage))
    assert KEY not in str(raised.value)


def test_an_llm_is_nothing_to_be_reranked(stage):
    with pytest.raises(TypeError, match=r'cannot be reranked: write rerank\(retriever, "listwise", llm=\.\.\.\)'):
        rerank(model(stage))


@pytest.mark.parametrize("name", ["llm", "chat_model", "language_model"])
@pytest.mark.parametrize("make", [Rerank, lambda **options: rerank(Fixed(), **options)], ids=["Rerank", "rerank"])
def test_an_llm_for_a_backend_that_asks_none_is_told_which_do(stage, make, name):
    with pytest.raises(TypeError, match=f"backend 'embedded' has no option '{name}'") as raised:
        make(**{name: model(stage)})
    assert str(raised.value).endswith(
        '; llm belongs to "listwise" and "judge": write rerank(retriever, "listwise", llm=...) or Rerank("listwise", llm=...)'
    )


@pytest.mark.parametrize("name", ["chat_model", "language_model"])
@pytest.mark.parametrize("backend", ["listwise", "judge", "listwise:mine"])
def test_other_names_for_an_llm_are_told_ours(stage, backend, name):
    with pytest.raises(TypeError, match=f"has no option '{name}'.*; did you mean 'llm'[?]$"):
        Rerank(backend, **{name: model(stage)})


@pytest.mark.parametrize("name", ["listwise", "judge"])
@pytest.mark.parametrize("backend", ["embedded", "listwise", FakeBackend()], ids=["other", "asking", "object"])
@pytest.mark.parametrize("around", [lambda name: name, lambda name: ["embedded", name]], ids=["one", "of several"])
def test_a_fallback_that_asks_an_llm_is_an_object(name, backend, around):
    with pytest.raises(ValueError, match="as a fallback give the object") as raised:
        Rerank(backend, fallback=around(name))
    assert f"rerankx.Reranker({name!r}, llm=...).backend" in str(raised.value)


def test_such_an_object_answers_as_a_fallback(stage, run):
    stage.brain = scripted.grader
    judge = rerankx.Reranker("judge", llm=model(stage)).backend
    found = run(Rerank("listwise", llm=model(_dead()), fallback=judge), retrieved(), QueryBundle(QUESTION))
    assert sorted(ids(found)[:2]) == GRADED


@pytest.mark.parametrize("more", [{"model": "mine"}, {"api_key": KEY}, {"base_url": "http://host"}])
def test_what_an_llm_has_itself_is_refused_beside_it(stage, more):
    with pytest.raises(TypeError, match="given together with llm=") as raised:
        Rerank("listwise", llm=model(stage), **more)
    assert KEY not in str(raised.value)
