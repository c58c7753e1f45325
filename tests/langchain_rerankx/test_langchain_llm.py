"""A model of LangChain's as a language model: what it is asked, what of its reply is read, its callbacks, and how it fails."""

import asyncio
import json
import re
import traceback

import pytest

pytest.importorskip("langchain_openai", reason="needs langchain-openai")

from chat_stage import TOO_LONG, WORDINGS, ChatStage, Said, error, refusing, wait_until
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.language_models import BaseChatModel, FakeListLLM, FakeMessagesListChatModel
from langchain_core.messages import AIMessage
from langchain_core.output_parsers import JsonOutputParser, StrOutputParser
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers import BaseTracer
from langchain_openai import ChatOpenAI

from rerankx import AuthenticationError, BackendError, DeadlineError, RateLimitError, ReplyError
from rerankx.llm.bridges import chat_of
from rerankx.llm.chat import Reply, Unable, Wish
from rerankx.llm.langchain import LangChainChat
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
    # Its connections are kept for the whole process, and those of an event loop that has ended are never closed.
    given = {"base_url": stage.base_url, "api_key": KEY, "max_retries": 0, "default_headers": {"Connection": "close"}}
    return ChatOpenAI(**{"model": "stage-model", **given, **options})


def problem_in(ask, llm, wish=IN_VAIN, kind=Fault):
    with pytest.raises(kind) as raised:
        ask(llm, wish)
    shown = "".join(traceback.format_exception(raised.value))
    assert KEY not in shown
    assert QUESTION not in shown
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None
    return raised.value


# What it is asked, and what of its reply is read.


def test_a_chat_model_answers_with_nothing_set_that_its_owner_has_not_set(ask):
    with ChatStage(lambda body: "[2] > [1]") as stage:
        reply = ask(model(stage, temperature=0.3))
        assert stage.bodies == [
            {"model": "stage-model", "messages": list(MESSAGES), "stream": False, "temperature": 0.3}
        ]
    assert reply == Reply("[2] > [1]", input_tokens=11, output_tokens=7)


def test_structured_output_is_the_models_own(ask):
    with ChatStage(lambda body: '{"ranking": [2, 1]}') as stage:
        assert ask(model(stage), STRUCTURED) == Reply('{"ranking": [2, 1]}', input_tokens=11, output_tokens=7)
        asked = stage.bodies[0]["response_format"]["json_schema"]
    assert (asked["name"], asked["strict"], asked["schema"]) == ("answer", True, SCHEMA)
    assert "title" not in SCHEMA


def test_what_is_no_json_is_a_reply_all_the_same(ask):
    with ChatStage(lambda body: "I rank [2] > [1]") as stage:
        assert ask(model(stage), STRUCTURED).text == "I rank [2] > [1]"


def test_a_tool_call_is_the_structured_answer(ask):
    with ChatStage(lambda body: Said("Let me see.", tool_call='{"ranking": [2, 1]}')) as stage:
        assert json.loads(ask(model(stage), STRUCTURED).text) == {"ranking": [2, 1]}
        assert ask(model(stage)).text == "Let me see."


def test_a_tool_call_that_was_cut_off_is_there_as_it_is(ask):
    with ChatStage(lambda body: Said(None, tool_call='{"ranking": [2,')) as stage:
        assert ask(model(stage)).text == '{"ranking": [2,'


def test_log_probabilities_of_the_first_token(ask):
    with ChatStage(lambda body: Said("B", logprobs=[{"B": -0.1, " A": -2.5}, {"x": -1.0}])) as stage:
        reply = ask(model(stage), ONE_TOKEN)
        assert stage.bodies[0]["logprobs"] is True
        assert stage.bodies[0]["top_logprobs"] == 20
        assert stage.bodies[0]["max_completion_tokens"] == 1
    assert reply.first_token == {"B": -0.1, " A": -2.5}


def test_a_model_without_log_probabilities_just_replies(ask):
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
    ],
)
def test_a_reply_that_ended_early_is_a_reply(ask, wish, said, reply):
    # Cut off under a schema, openai's client raises LengthFinishReasonError, and stopped ContentFilterFinishReasonError.
    with ChatStage(lambda body: said) as stage:
        found = ask(model(stage), wish)
    if wish is STRUCTURED and reply.ended == "filter":  # of which it keeps nothing, in some versions
        assert (found.text, found.ended) == ("", "filter")
    else:
        assert found == reply


@pytest.mark.parametrize(
    ("message", "reply"),
    [
        (AIMessage(["[2] ", {"type": "text", "text": "> [1]"}]), Reply("[2] > [1]")),
        (AIMessage([{"type": "thinking", "thinking": "hm", "text": "hm"}, {"type": "text", "text": "[1]"}]), Reply("[1]")),
        (AIMessage([{"type": "refusal", "refusal": "No."}]), Reply("No.", ended="refusal")),
        (AIMessage("[1", response_metadata={"stop_reason": "max_tokens"}), Reply("[1", ended="length")),
        (AIMessage("", response_metadata={"finish_reason": "SAFETY"}), Reply("", ended="filter")),
        (AIMessage("[1]", response_metadata={"finish_reason": "STOP"}), Reply("[1]")),
        (AIMessage("[1", response_metadata={"incomplete_details": {"reason": "max_output_tokens"}}), Reply("[1", ended="length")),
        (AIMessage("", response_metadata={"stop_reason": "refusal"}), Reply("", ended="refusal")),
        (
            AIMessage("", tool_calls=[{"name": "answer", "args": {"ranking": [2, 1]}, "id": "1"}]),
            Reply('{"ranking": [2, 1]}'),
        ),
    ],
)  # fmt: skip
def test_messages_of_other_providers_are_read(ask, message, reply):
    assert ask(FakeMessagesListChatModel(responses=[message])) == reply


# Which of LangChain's objects it is.


def test_a_chat_model_is_known_by_its_provider_and_its_name():
    with ChatStage() as stage:
        chat = chat_of(model(stage))
    assert isinstance(chat, LangChainChat)
    assert (chat.model, chat.host, chat.address) == ("stage-model", "127.0.0.1", "langchain:ChatOpenAI")
    assert chat.retries
    assert chat.lacks == {"seed", "temperature"}
    assert KEY not in repr(chat)


def test_openais_own_address_is_known():
    assert chat_of(ChatOpenAI(model="gpt-4o-mini", api_key=KEY)).host == "api.openai.com"


def test_what_changes_an_answer_is_in_the_settings_and_the_key_is_not():
    def settings(**options):
        return chat_of(ChatOpenAI(model="m", api_key=KEY, **options)).settings

    assert settings() == settings() != settings(temperature=0.5)
    bound = ChatOpenAI(model="m", api_key=KEY).bind(stop=["x"])
    assert chat_of(bound).settings not in (settings(), chat_of(bound.bind(stop=["y"])).settings)
    assert KEY not in settings() + chat_of(bound).settings


def test_the_context_is_what_the_profile_says():
    async def context(llm):
        return await chat_of(llm).context_tokens()

    assert asyncio.run(context(ChatOpenAI(model="gpt-4o-mini", api_key=KEY))) == 128_000
    assert asyncio.run(context(ChatOpenAI(model="mine", api_key=KEY, profile={"max_input_tokens": 900}))) == 900
    assert asyncio.run(context(ChatOpenAI(model="mine", api_key=KEY))) is None


def test_a_profile_without_structured_output_is_believed():
    assert "schema" in chat_of(ChatOpenAI(model="mine", api_key=KEY, profile={"structured_output": False})).lacks


class OnlyText(BaseChatModel):
    """A chat model as small as can be."""

    text: str = "[2] > [1]"

    @property
    def _llm_type(self):
        return "only-text"

    def _generate(self, messages, stop=None, run_manager=None):
        return ChatResult(generations=[ChatGeneration(message=AIMessage(self.text))])


class NoSchema(OnlyText):
    def with_structured_output(self, schema, *, include_raw=False, method="function_calling"):
        if method != "function_calling":
            raise ValueError(f"method {method} is unknown to {KEY}")


def test_a_model_without_structured_output_lacks_it(ask):
    assert chat_of(OnlyText()).lacks == {"seed", "temperature", "schema"}
    assert ask(OnlyText()) == Reply("[2] > [1]")


def test_structured_output_by_another_method_is_not_to_be_had(ask):
    assert "schema" not in chat_of(NoSchema()).lacks
    refusal = problem_in(ask, NoSchema(), STRUCTURED, kind=Unable)
    assert refusal.features == {"schema"}
    assert not refusal.fault.sent


def test_a_client_that_knows_no_log_probabilities_is_without_them(ask):
    refusal = problem_in(ask, OnlyText(), ONE_TOKEN, kind=Unable)
    assert refusal.features <= {"logprobs", "max_tokens"}
    assert refusal.features


class Picky(OnlyText):
    """Refuses options with an exception that has no status of its own."""

    refusal: object = None

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        if kwargs:
            raise self.refusal
        return super()._generate(messages)


def of_boto(code, message):
    refusal = RuntimeError("An error occurred")
    refusal.response = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": 400},
    }
    return refusal


@pytest.mark.parametrize(
    "refusal",
    [
        ValueError("Unsupported parameter: top_logprobs"),
        of_boto("ValidationException", "logprobs is not supported by this model"),
    ],
    ids=["by its words", "by a status within"],
)
def test_a_refusal_that_a_client_raises_as_its_own_is_of_a_wish(ask, refusal):
    assert problem_in(ask, Picky(refusal=refusal), ONE_TOKEN, kind=Unable).features == {"logprobs"}


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (TimeoutError("unknown: the logprobs worker timed out"), DeadlineError),
        (ConnectionError("parsing: no support for logprobs"), BackendError),
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_what_is_known_for_what_it_is_blames_no_wish(ask, raised, kind):
    assert problem_in(ask, Picky(refusal=raised), ONE_TOKEN).error is kind


def test_runnables_of_one_factory_are_told_apart():
    def made(answer):
        return RunnableLambda(lambda messages: answer)

    one, other = made("a"), made("b")
    assert chat_of(one).settings == chat_of(one).settings != chat_of(other).settings


def test_other_runnables_are_asked_for_text_alone(ask):
    everything = Wish(max_tokens=1, temperature=0.0, seed=7, schema=SCHEMA, top_logprobs=20)
    with ChatStage(lambda body: "[2] > [1]") as stage:
        llm = model(stage)
        runnables = [
            (llm.bind(max_tokens=99), "stage-model", 99),
            (llm.with_retry(), "stage-model", None),
            (llm.with_config(tags=["mine"]), "stage-model", None),
            (llm.with_fallbacks([OnlyText()]), "stage-model", None),
            (llm | StrOutputParser(), "RunnableSequence", None),
        ]
        for runnable, name, max_tokens in runnables:
            assert chat_of(runnable).model == name
            assert chat_of(runnable).lacks >= everything.features
            assert ask(runnable, everything).text == "[2] > [1]"
            body = stage.bodies[-1]
            assert body.get("max_completion_tokens") == max_tokens
            assert body.keys() <= {"model", "messages", "stream", "max_completion_tokens"}


def test_a_plain_llm_and_a_function_of_langchains_answer_with_text(ask):
    assert ask(FakeListLLM(responses=["[2] > [1]"])) == Reply("[2] > [1]")
    assert ask(RunnableLambda(lambda messages: messages[1]["content"])).text == QUESTION


@pytest.mark.parametrize("returned", [{"ranking": [1]}, None, 3])
def test_what_is_no_message_is_no_reply(ask, returned):
    fault = problem_in(ask, RunnableLambda(lambda messages: returned))
    assert fault.error is ReplyError
    assert f"returned {type(returned).__name__}, not a message or a str" in fault.words


def test_a_parser_that_reads_json_leaves_nothing_to_read(ask):
    with ChatStage(lambda body: '{"ranking": [2, 1]}') as stage:
        assert problem_in(ask, model(stage) | JsonOutputParser()).error is ReplyError


def test_a_fallback_of_langchains_answers_in_its_place(ask):
    with ChatStage(lambda body: error(500, "down")) as stage:
        assert ask(model(stage).with_fallbacks([OnlyText(text="[1]")])).text == "[1]"


# How it fails.


@pytest.mark.parametrize("wish", [IN_VAIN, STRUCTURED])
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
def test_a_status_is_its_fault(ask, wish, status, kind, again):
    said = f"Your key {KEY} is not fit to say {QUESTION}."
    with ChatStage(lambda body: error(status, said, Retry_After="7")) as stage:
        fault = problem_in(ask, model(stage), wish)
        assert len(stage.requests) == 1
    assert (fault.error, fault.again) == (kind, again)
    assert fault.words.startswith(f"HTTP {status}")
    assert fault.after_s == (7.0 if again else None)
    assert "is not fit to say" in fault.said()
    assert not re.search(r"sk-proj|rivers", fault.said())


def test_langchains_model_tries_again_by_itself(ask):
    with ChatStage(lambda body: error(429, "slow down", Retry_After="0.01")) as stage:
        assert problem_in(ask, model(stage, max_retries=2)).error is RateLimitError
        assert len(stage.requests) == 3  # so nobody else does


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


@pytest.mark.parametrize("wish", [IN_VAIN, STRUCTURED])
@pytest.mark.parametrize(
    "said",
    [
        Said(body=NO_CHOICES),  # IndexError, in LangChain's code
        Said(body={"choices": None}),
        Said(body={"error": {"message": f"overloaded, {KEY}"}}),
        Said(raw=b"<html>the key is " + KEY.encode()),
        Said(body={}),
    ],
    ids=["no choices", "choices are null", "an error", "html", "nothing"],
)
def test_what_langchain_cannot_read_is_a_fault_without_its_words(ask, wish, said):
    with ChatStage(lambda body: said) as stage:
        fault = problem_in(ask, model(stage), wish)
    assert fault.error is BackendError
    assert re.fullmatch(r"the model raised \w+Error \(\w+.py, line \d+\)", fault.words)
    assert fault.billed
    assert not fault.again


@pytest.mark.filterwarnings("ignore:This model does not support OpenAI's structured output:UserWarning")
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
        assert ask(model(stage)) == Reply("", input_tokens=11, output_tokens=7)


def test_a_refusal_where_nothing_was_wished_is_a_fault(ask):
    with ChatStage(lambda body: error(400, "Bad request")) as stage:
        assert problem_in(ask, model(stage)).words == "HTTP 400"


@pytest.mark.parametrize("server", sorted(TOO_LONG))
def test_a_prompt_that_is_too_long_is_no_refused_wish(ask, server):
    with ChatStage(lambda body: TOO_LONG[server]) as stage:
        fault = problem_in(ask, model(stage), STRUCTURED)
    assert "the prompt does not fit the model's context" in fault.words
    assert not fault.again


def test_a_grammar_that_a_server_fails_at_is_a_refused_wish(ask):
    said = error(500, "Failed to parse grammar of json_schema", kind="server_error")
    with ChatStage(lambda body: said if "response_format" in body else "[1]") as stage:
        refusal = problem_in(ask, model(stage), STRUCTURED, kind=Unable)
        assert ask(model(stage)).text == "[1]"
    assert refusal.features == {"schema"}
    assert not refusal.fault.again


@pytest.mark.parametrize("wish", [IN_VAIN, STRUCTURED])
def test_a_wrong_key_is_that_whatever_its_status(ask, wish):
    with ChatStage(lambda body: error(400, "API key not valid. Please pass a valid API key.")) as stage:
        assert problem_in(ask, model(stage), wish).error is AuthenticationError


@pytest.mark.parametrize("wish", [IN_VAIN, STRUCTURED])
def test_who_is_cancelled_hangs_up(wish):
    async def main():
        task = asyncio.create_task(chat_of(model(stage)).ask(MESSAGES, wish, blocking=False))
        await asyncio.to_thread(stage.wait_for, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(wait_until, lambda: stage.requests[0].done)

    with ChatStage(lambda body: Said(delay_s=30)) as stage:
        asyncio.run(main())
        assert stage.requests[0].hung_up


# Its callbacks, and the trace around it.


class Watching(BaseCallbackHandler):
    def __init__(self):
        self.runs = []
        """(run, parent, what)."""
        self.ended = []

    def on_chain_start(self, serialized, inputs, *, run_id, parent_run_id=None, **kwargs):
        self.runs.append((run_id, parent_run_id, kwargs.get("name")))

    def on_chat_model_start(self, serialized, messages, *, run_id, parent_run_id=None, **kwargs):
        self.runs.append((run_id, parent_run_id, "chat model"))
        assert messages[0][1].content == QUESTION

    def on_llm_end(self, response, *, run_id, **kwargs):
        self.ended.append(("end", run_id))

    def on_llm_error(self, error, *, run_id, **kwargs):
        self.ended.append(("error", run_id))

    def above(self, what):
        """Return the names of the runs around it, from the inside."""
        parents = {run: (parent, name) for run, parent, name in self.runs}
        run = next(run for run, _, name in self.runs if name == what)
        names = []
        while (run := parents[run][0]) is not None:
            names.append(parents[run][1])
        return names


class WatchingToo(AsyncCallbackHandler):
    def __init__(self):
        self.runs = []

    async def on_chat_model_start(self, serialized, messages, *, run_id, parent_run_id=None, **kwargs):
        self.runs.append(parent_run_id)


class Traces(BaseTracer):
    def __init__(self):
        super().__init__()
        self.roots = []

    def _persist_run(self, run):
        self.roots.append(run)


def enclosing(llm, how, wish):
    chat = chat_of(llm)

    def rank(_):
        return loop.run(chat.ask(MESSAGES, wish, blocking=True)).text

    async def arank(_):
        return (await chat.ask(MESSAGES, wish, blocking=False)).text

    return RunnableLambda(rank, name="rank") if how == "sync" else RunnableLambda(arank, name="rank")


def run(runnable, how, **config):
    return runnable.invoke("", config) if how == "sync" else asyncio.run(runnable.ainvoke("", config))


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize(("wish", "between"), [(IN_VAIN, 0), (STRUCTURED, 2)])
def test_the_models_run_is_within_the_callers(how, wish, between):
    watching = Watching()
    with ChatStage(lambda body: "{}") as stage:
        run(enclosing(model(stage), how, wish), how, callbacks=[watching])
    above = watching.above("chat model")
    assert above[-1] == "rank"
    assert len(above) == 1 + between  # structured output is a chain of LangChain's
    assert [what for what, _ in watching.ended] == ["end"]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_tracer_sees_one_tree_with_the_model_in_it(how):
    traces = Traces()
    with ChatStage(lambda body: "[1]") as stage:
        run(enclosing(model(stage), how, IN_VAIN), how, callbacks=[traces])
    (root,) = traces.roots
    assert root.name == "rank"
    assert [(child.name, child.run_type, child.error) for child in root.child_runs] == [("ChatOpenAI", "llm", None)]


@pytest.mark.parametrize("how", ["sync", "async"])
def test_the_models_own_callbacks_are_called(how):
    watching, too = Watching(), WatchingToo()
    with ChatStage(lambda body: "[1]") as stage:
        own = [watching] if how == "sync" else [watching, too]
        run(enclosing(model(stage, callbacks=own), how, IN_VAIN), how)
    assert [name for _, _, name in watching.runs] == ["chat model"]
    assert len(too.runs) == (how == "async")


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_failed_call_is_a_failed_run(how):
    watching = Watching()
    with ChatStage(lambda body: error(500, "down")) as stage, pytest.raises(Fault):
        run(enclosing(model(stage), how, IN_VAIN), how, callbacks=[watching])
    assert [what for what, _ in watching.ended] == ["error"]
