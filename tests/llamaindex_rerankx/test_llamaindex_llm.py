"""An LLM of LlamaIndex's as a model: what it is asked, what is read of its reply, its events and spans, and how it fails."""

import asyncio
import re
import threading
import traceback
from typing import Any, get_args

import pytest

pytest.importorskip("llama_index.llms.openai_like", reason="needs llama-index-llms-openai-like")

from chat_stage import TOO_LONG, WORDINGS, ChatStage, Said, error, refusing, wait_until
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.llm import LLMChatEndEvent, LLMChatStartEvent
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata, MockLLM
from llama_index.llms.openai import OpenAI
from llama_index.llms.openai_like import OpenAILike

from rerankx import AuthenticationError, BackendError, DeadlineError, RateLimitError
from rerankx.llm.bridges import chat_of
from rerankx.llm.chat import Feature, Reply, Unable, Wish
from rerankx.llm.llamaindex import LlamaIndexChat
from rerankx.network import loop
from rerankx.network.faults import Fault

QUESTION = "which of these passages is about rivers"
MESSAGES = ({"role": "system", "content": "You rank."}, {"role": "user", "content": QUESTION})
SCHEMA = {
    "type": "object",
    "properties": {"ranking": {"type": "array", "items": {"type": "integer", "enum": [1, 2]}}},
    "required": ["ranking"],
    "additionalProperties": False,
}
KEY = "sk-proj-0123456789abcdef"
NO_CHOICES = {"id": "1", "object": "chat.completion", "created": 1, "model": "stage-model", "choices": []}
IN_VAIN = Wish(max_tokens=400, temperature=0.0, seed=7)
STRUCTURED = Wish(max_tokens=400, schema=SCHEMA)
ONE_TOKEN = Wish(max_tokens=1, top_logprobs=20)


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Returns `ask(llm, wish)`, which asks as a synchronous caller does, or as an asynchronous one."""

    def call(llm, wish=IN_VAIN):
        answer = chat_of(llm).ask(MESSAGES, wish, blocking=request.param == "sync")
        return loop.run(answer) if request.param == "sync" else asyncio.run(answer)

    call.how = request.param
    return call


def model(stage, **options):
    # Its connections would be kept beyond their event loop, and never be closed.
    given = {"api_base": stage.base_url, "api_key": KEY, "max_retries": 0, "default_headers": {"Connection": "close"}}
    return OpenAILike(**{"model": "stage-model", "is_chat_model": True, "reuse_client": False, **given, **options})


def problem_in(ask, llm, wish=IN_VAIN, kind=Fault):
    with pytest.raises(kind) as raised:
        ask(llm, wish)
    shown = "".join(traceback.format_exception(raised.value))
    assert KEY not in shown
    assert QUESTION not in shown
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None
    return raised.value


class Custom(CustomLLM):
    """An LLM that completes, and knows nothing of chats, options or event loops."""

    threads: list[Any] = Field(default_factory=list)

    @property
    def metadata(self):
        return LLMMetadata(context_window=2048, model_name="custom")

    def complete(self, prompt, formatted=False, **kwargs):
        assert kwargs == {}
        self.threads.append(threading.current_thread())
        return CompletionResponse(text=f"[2] > [1] of {prompt}")

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError


# What it is asked, and what of its reply is read.


def test_an_llm_answers_with_nothing_set_that_its_owner_has_not_set(ask):
    with ChatStage(lambda body: "[2] > [1]") as stage:
        reply = ask(model(stage, temperature=0.3))
        assert stage.bodies == [
            {"model": "stage-model", "messages": list(MESSAGES), "stream": False, "temperature": 0.3}
        ]
    assert reply == Reply("[2] > [1]", input_tokens=11, output_tokens=7)


def test_structured_output_is_a_response_format(ask):
    with ChatStage(lambda body: '{"ranking": [2, 1]}') as stage:
        assert ask(model(stage), STRUCTURED) == Reply('{"ranking": [2, 1]}', input_tokens=11, output_tokens=7)
        asked = stage.bodies[0]["response_format"]["json_schema"]
        assert "max_tokens" not in stage.bodies[0]
    assert asked == {"name": "answer", "strict": True, "schema": SCHEMA}


def test_log_probabilities_of_the_first_token(ask):
    with ChatStage(lambda body: Said("B", logprobs=[{"B": -0.1, " A": -2.5}, {"x": -1.0}])) as stage:
        reply = ask(model(stage), ONE_TOKEN)
        body = stage.bodies[0]
    assert (body["logprobs"], body["top_logprobs"], body["max_tokens"]) == (True, 20, 1)
    assert reply.first_token == {"B": -0.1, " A": -2.5}


def test_an_llm_without_log_probabilities_just_replies(ask):
    with ChatStage(lambda body: "B") as stage:
        assert ask(model(stage), ONE_TOKEN).first_token is None


@pytest.mark.parametrize("wish", [IN_VAIN, STRUCTURED])
@pytest.mark.parametrize(
    ("said", "reply"),
    [
        (Said("[2] >", finish_reason="length"), Reply("[2] >", ended="length", input_tokens=11, output_tokens=7)),
        (Said(None, finish_reason="length"), Reply("", ended="length", input_tokens=11, output_tokens=7)),
        (Said("", finish_reason="content_filter"), Reply("", ended="filter", input_tokens=11, output_tokens=7)),
        (Said(None), Reply("", input_tokens=11, output_tokens=7)),
        (Said("", usage=None), Reply("")),
        (Said(None, refusal="No."), Reply("No.", ended="refusal", input_tokens=11, output_tokens=7)),
        (Said("[1]", finish_reason=None), Reply("[1]", input_tokens=11, output_tokens=7)),
        (Said("[1]", reasoning="Passage 2 is not."), Reply("[1]", input_tokens=11, output_tokens=7)),
    ],
)
def test_a_reply_that_ended_early_is_a_reply(ask, wish, said, reply):
    with ChatStage(lambda body: said) as stage:
        assert ask(model(stage), wish) == reply


def test_other_llms_are_asked_for_text_alone(ask):
    everything = Wish(max_tokens=1, temperature=0.0, seed=7, schema=SCHEMA, top_logprobs=20)
    llm = Custom()
    assert ask(llm, everything).text.startswith("[2] > [1] of system: You rank.")
    assert chat_of(llm).lacks == frozenset(get_args(Feature))
    assert QUESTION in ask(MockLLM(), everything).text


def test_a_synchronous_llm_does_not_stop_the_event_loop(ask):
    llm = Custom()
    ask(llm)
    assert [thread.name for thread in llm.threads] == ["rerankx-llm"]


# Which of LlamaIndex's objects it is.


def test_an_llm_is_known_by_its_metadata():
    with ChatStage() as stage:
        chat = chat_of(model(stage, context_window=8192))
    assert isinstance(chat, LlamaIndexChat)
    assert (chat.model, chat.host, chat.address) == ("stage-model", "127.0.0.1", "llamaindex:OpenAILike")
    assert asyncio.run(chat.context_tokens()) == 8192
    assert chat.retries
    assert chat.lacks == {"seed", "temperature"}
    assert KEY not in repr(chat)


def test_an_llm_that_only_completes_takes_no_options():
    with ChatStage() as stage:
        assert chat_of(model(stage, is_chat_model=False)).lacks == frozenset(get_args(Feature))


def test_openais_own_address_is_known():
    chat = chat_of(OpenAI(model="gpt-4o-mini", api_key=KEY))
    assert (chat.model, chat.host) == ("gpt-4o-mini", "api.openai.com")
    assert asyncio.run(chat.context_tokens()) == 128_000


def test_what_changes_an_answer_is_in_the_settings_and_the_key_is_not():
    def settings(**options):
        return chat_of(OpenAILike(model="m", api_key=KEY, **options)).settings

    assert settings() == settings() != settings(temperature=0.5)
    assert KEY not in settings()


def test_llms_of_a_class_of_ones_own_are_told_apart():
    one, other = Custom(), Custom()
    assert chat_of(one).settings == chat_of(one).settings != chat_of(other).settings


def test_a_model_that_llamaindex_does_not_know_has_no_context():
    chat = chat_of(OpenAI(model="mine", api_key=KEY))
    assert chat.model == "mine"
    assert asyncio.run(chat.context_tokens()) is None


def test_an_llm_without_a_name_has_that_of_its_class():
    assert chat_of(MockLLM()).model == "MockLLM"


# How it fails.


@pytest.mark.parametrize(
    ("status", "kind", "again"),
    [
        (401, AuthenticationError, False),
        (403, AuthenticationError, False),
        (404, BackendError, False),
        (429, RateLimitError, True),
        (500, BackendError, True),
        (503, BackendError, True),
    ],
)
def test_a_status_is_its_fault(ask, status, kind, again):
    said = f"Your key {KEY} is not fit to say {QUESTION}."
    with ChatStage(lambda body: error(status, said, Retry_After="7")) as stage:
        fault = problem_in(ask, model(stage))
        assert len(stage.requests) == 1
    assert (fault.error, fault.again) == (kind, again)
    assert fault.words.startswith(f"HTTP {status}")
    assert fault.after_s == (7.0 if again else None)
    assert "is not fit to say" in fault.said()
    assert not re.search(r"sk-proj|rivers", fault.said())


def test_llamaindexs_llm_tries_again_by_itself(ask):
    with ChatStage(lambda body: error(429, "slow down", Retry_After="0.01")) as stage:
        assert problem_in(ask, model(stage, max_retries=2)).error is RateLimitError
        # So nobody else does: openai's client has tried three times, and LlamaIndex has tried that twice.
        assert len(stage.requests) >= 3


def test_a_refused_connection_says_where_to(ask):
    with ChatStage() as stage:
        llm = model(stage)
    fault = problem_in(ask, llm)
    assert fault.words.startswith("no connection to 127.0.0.1: ")
    assert (fault.error, fault.again, fault.sent) == (BackendError, True, False)


def test_a_closed_connection_is_a_fault_of_transport(ask):
    with ChatStage(lambda body: Said(drop=True)) as stage:
        fault = problem_in(ask, model(stage))
    assert (fault.words, fault.again, fault.billed) == ("the connection broke (RemoteProtocolError)", True, True)


def test_a_timeout_is_a_timeout(ask):
    with ChatStage(lambda body: Said(delay_s=5)) as stage:
        fault = problem_in(ask, model(stage, timeout=0.2))
    assert (fault.error, fault.timed_out, fault.again) == (DeadlineError, True, True)


@pytest.mark.parametrize(
    "said",
    [
        Said(body=NO_CHOICES),  # IndexError, in LlamaIndex's code
        Said(body={"choices": None}),
        Said(body={"error": {"message": f"overloaded, {KEY}"}}),
        Said(raw=b"<html>the key is " + KEY.encode()),
        Said(body={}),
    ],
    ids=["no choices", "choices are null", "an error", "html", "nothing"],
)
def test_what_llamaindex_cannot_read_is_a_fault_without_its_words(ask, said):
    with ChatStage(lambda body: said) as stage:
        fault = problem_in(ask, model(stage))
    assert fault.error is BackendError
    assert re.fullmatch(r"the model raised \w+Error \(\w+.py, line \d+\)", fault.words)
    assert fault.billed
    assert not fault.again


@pytest.mark.parametrize("wording", sorted(WORDINGS.keys() - {"openai value", "mute"}))
@pytest.mark.parametrize(
    ("param", "wish", "feature"),
    [("response_format", STRUCTURED, "schema"), ("logprobs", ONE_TOKEN, "logprobs")],
)
def test_a_refused_wish_is_named(ask, wording, param, wish, feature):
    with ChatStage(refusing(param, wording=wording)) as stage:
        refusal = problem_in(ask, model(stage), wish, kind=Unable)
    assert refusal.features == {feature}
    assert refusal.fault.words.startswith("HTTP ")


def test_a_refusal_that_names_nothing_may_be_of_any_wish(ask):
    with ChatStage(refusing("logprobs", wording="mute")) as stage:
        assert problem_in(ask, model(stage), ONE_TOKEN, kind=Unable).features == frozenset()


def test_a_refusal_where_nothing_was_wished_is_a_fault(ask):
    with ChatStage(lambda body: error(400, "Bad request")) as stage:
        assert problem_in(ask, model(stage)).words == "HTTP 400"


@pytest.mark.parametrize("server", sorted(TOO_LONG))
def test_a_prompt_that_is_too_long_is_no_refused_wish(ask, server):
    with ChatStage(lambda body: TOO_LONG[server]) as stage:
        fault = problem_in(ask, model(stage), STRUCTURED)
    assert "the prompt does not fit the model's context" in fault.words
    assert not fault.again


def test_who_is_cancelled_hangs_up():
    async def main():
        task = asyncio.create_task(chat_of(model(stage)).ask(MESSAGES, IN_VAIN, blocking=False))
        await asyncio.to_thread(stage.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: stage.requests[0].done)

    with ChatStage(lambda body: Said(delay_s=30)) as stage:
        asyncio.run(main())
        assert stage.requests[0].hung_up


# Its events, and the spans around it.


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

    def above(self, what):
        """Return the names of the spans around it, from the inside."""
        parents = dict(self.entered)
        span = next(span for span in parents if span.startswith(what))
        names = []
        while (span := parents[span]) is not None:
            names.append(re.sub(r"-[0-9a-f-]{36}$", "", span))
        return names


class Events(BaseEventHandler):
    seen: list[Any] = Field(default_factory=list)

    def handle(self, event, **kwargs):
        self.seen.append(event)


@pytest.fixture
def watched():
    """Returns handlers of spans and of events, which see all that is dispatched."""
    root, spans, events = get_dispatcher(), Spans(), Events()
    handlers = root.span_handlers, root.event_handlers
    root.span_handlers, root.event_handlers = [*handlers[0], spans], [*handlers[1], events]
    yield spans, events
    root.span_handlers, root.event_handlers = handlers


dispatcher = get_dispatcher("a_caller")


@dispatcher.span
def rank(chat):
    return loop.run(chat.ask(MESSAGES, IN_VAIN, blocking=True))


@dispatcher.span
async def arank(chat):
    return await chat.ask(MESSAGES, IN_VAIN, blocking=False)


def ranked(llm, how):
    return rank(chat_of(llm)) if how == "sync" else asyncio.run(arank(chat_of(llm)))


@pytest.mark.parametrize("how", ["sync", "async"])
def test_the_chats_span_is_within_the_callers(watched, how):
    spans, events = watched
    with ChatStage(lambda body: "[1]") as stage:
        ranked(model(stage), how)
    name = {"sync": "OpenAILike.chat", "async": "OpenAILike.achat"}[how]
    assert spans.above(name)[-1] == {"sync": "rank", "async": "arank"}[how]
    assert spans.dropped == []
    (start,) = [event for event in events.seen if isinstance(event, LLMChatStartEvent)]
    (end,) = [event for event in events.seen if isinstance(event, LLMChatEndEvent)]
    assert start.messages[1].content == QUESTION
    assert end.response.message.content == "[1]"
    assert start.span_id == end.span_id
    assert start.span_id.startswith(("OpenAILike.", "OpenAI."))


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_failed_chat_drops_its_span(watched, how):
    spans, _ = watched
    with ChatStage(lambda body: error(500, "down")) as stage, pytest.raises(Fault):
        ranked(model(stage), how)
    assert any(span.startswith("OpenAILike.") for span in spans.dropped)


@pytest.mark.parametrize("how", ["sync", "async"])
def test_the_llms_callback_manager_is_told(how):
    debug = LlamaDebugHandler(print_trace_on_end=False)
    with ChatStage(lambda body: "[1]") as stage:
        ranked(model(stage, callback_manager=CallbackManager([debug])), how)
    assert len(debug.get_event_pairs(CBEventType.LLM)) == 1
