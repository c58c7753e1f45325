"""`OpenAIChat` on loopback: what is sent, what is read, and what goes wrong."""

import asyncio
import copy
import json
import logging
import math
import pickle
import threading

import pytest
from backend_stage import held_in, told
from chat_stage import MODEL, TOO_LONG, WORDINGS, ChatStage, Said, error, refusing, wait_until

from rerankx.errors import AuthenticationError, BackendError, RateLimitError, ReplyError
from rerankx.llm.chat import Reply, Unable, Wish
from rerankx.llm.openai import OpenAIChat
from rerankx.network import loop
from rerankx.network.client import MAX_REPLY_BYTES
from rerankx.network.faults import Fault

KEY = "sk-kanarienvogel-4711-wellensittich-0815"
PROMPT = "Which of the passages says how long the ferry to Borkum takes, é 中?"
MESSAGES = [{"role": "user", "content": PROMPT}]
SCHEMA = {"type": "object", "properties": {"ranking": {"type": "array", "items": {"type": "integer", "enum": [1, 2]}}}}
ALL = Wish(max_tokens=50, temperature=0.0, seed=7, schema=SCHEMA, top_logprobs=5)
PARAMETERS = {
    "seed": "seed",
    "temperature": "temperature",
    "max_tokens": "max_tokens",
    "response_format": "schema",
    "logprobs": "logprobs",
}
VARIABLES = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "RERANKX_LLM_API_KEY")
PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch):
    for name in (*VARIABLES, *PROXIES):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def stage():
    with ChatStage(lambda body: Said("[2] > [1]")) as stage:
        yield stage


@pytest.fixture
def chat_of():
    """Return a function that makes a chat with a stage; it is closed afterwards."""
    made = []

    def make(stage, **options):
        made.append(OpenAIChat(MODEL, **{"base_url": stage.base_url, **options}))
        return made[-1]

    yield make
    for chat in made:
        loop.run(chat.aclose())


def _by_loop(chat, wish, messages):
    return loop.run(chat.ask(messages, wish, blocking=True))


def _by_asyncio(chat, wish, messages):
    return asyncio.run(chat.ask(messages, wish, blocking=False))


WAYS = {"sync": _by_loop, "async": _by_asyncio}


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def ask(request):
    """Return `ask(chat, wish=Wish(), messages=MESSAGES)`, by the sync or by the async way."""

    def ask(chat, wish=Wish(), messages=MESSAGES):  # noqa: B008 - it is frozen
        return request.param(chat, wish, messages)

    return ask


def answered(chat, wish=Wish(), messages=MESSAGES):  # noqa: B008 - it is frozen
    return _by_loop(chat, wish, messages)


def refused(chat, wish=Wish()):  # noqa: B008 - it is frozen
    """Return the fault, or what the chat is unable to do."""
    with pytest.raises((Fault, Unable)) as caught:
        answered(chat, wish)
    return caught.value


# What is sent.


def test_a_reply_with_nothing_wished(stage, chat_of, ask):
    reply = ask(chat_of(stage))
    assert reply == Reply("[2] > [1]", input_tokens=11, output_tokens=7)
    (asked,) = stage.requests
    assert asked.body == {"model": MODEL, "messages": MESSAGES}
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.headers["content-type"] == "application/json"
    assert "authorization" not in asked.headers


def test_all_that_may_be_wished_is_sent(stage, chat_of, ask):
    ask(chat_of(stage), ALL)
    assert stage.bodies[0] == {
        "model": MODEL,
        "messages": MESSAGES,
        "temperature": 0.0,
        "seed": 7,
        "max_tokens": 50,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
        },
        "logprobs": True,
        "top_logprobs": 5,
    }


@pytest.mark.parametrize(
    ("base", "path"),
    [
        ("", "/v1/chat/completions"),
        ("/", "/v1/chat/completions"),
        ("/v1", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/chat/completions"),
        ("/openai/v1", "/openai/v1/chat/completions"),
        ("/v1/openai", "/v1/openai/chat/completions"),
        ("/v1beta/openai/", "/v1beta/openai/chat/completions"),
        ("/api/paas/v4", "/api/paas/v4/chat/completions"),
        ("/team/vault", "/team/vault/v1/chat/completions"),
    ],
)
def test_the_path_beneath_a_base_url(stage, chat_of, base, path):
    chat = chat_of(stage, base_url=stage.origin + base)
    answered(chat)
    assert stage.requests[0].path == path
    assert chat.address == stage.origin + path


def test_extra_takes_the_place_of_what_is_there(stage, chat_of):
    extra = {
        "temperature": 1.0,
        "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"thinking": False},
    }
    chat = chat_of(stage, extra=extra)
    extra["temperature"] = 2.0
    answered(chat, ALL)
    body = stage.bodies[0]
    assert (body["temperature"], body["response_format"]) == (1.0, {"type": "json_object"})
    assert body["chat_template_kwargs"] == {"thinking": False}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_in_extra_is_the_only_one_but_where_one_token_is_wanted(stage, chat_of, name):
    chat = chat_of(stage, extra={name: 99})
    answered(chat, Wish(max_tokens=50))
    answered(chat, Wish(max_tokens=1, top_logprobs=20))
    limits = [{k: v for k, v in body.items() if k.startswith("max_")} for body in stage.bodies]
    assert limits == [{name: 99}, {name: 1}]


def test_openai_itself_is_asked_with_max_completion_tokens_and_not_for_its_models(stage, chat_of, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", stage.origin)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for host in ("api.openai.com", "eu.api.openai.com"):
        chat = chat_of(stage, base_url=f"http://{host}/v1")
        answered(chat, ALL)
        assert loop.run(chat.context_tokens()) is None
        assert chat.host == host
        asked = stage.requests[-1]
        assert (asked.body["max_completion_tokens"], "max_tokens" in asked.body) == (50, False)
        assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert len(stage.asked) == 2


def test_half_a_surrogate_pair_is_sent_as_a_question_mark(stage, chat_of):
    answered(chat_of(stage), messages=[{"role": "user", "content": "a \ud83d b"}])
    assert stage.prompts() == ["a ? b"]


def test_a_request_that_is_too_large_is_not_sent(stage, chat_of):
    with pytest.raises(Fault, match="MiB") as caught:
        answered(chat_of(stage), messages=[{"role": "user", "content": "x" * (65 * 2**20)}])
    assert (caught.value.sent, stage.asked) == (False, [])


# Keys.


def test_the_key_that_is_given_is_sent(stage, chat_of, monkeypatch):
    monkeypatch.setenv("RERANKX_LLM_API_KEY", "another")
    stage.key = KEY
    assert answered(chat_of(stage, api_key=KEY)).text == "[2] > [1]"


def test_openai_s_key_goes_nowhere_unasked(stage, chat_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answered(chat_of(stage))
    assert "authorization" not in stage.requests[0].headers
    monkeypatch.setenv("RERANKX_LLM_API_KEY", "for-others")
    answered(chat_of(stage))
    assert stage.requests[1].headers["authorization"] == "Bearer for-others"


def test_openai_s_key_goes_to_the_address_of_its_own_variable(stage, chat_of, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("RERANKX_LLM_API_KEY", "for-others")
    monkeypatch.setenv("OPENAI_BASE_URL", stage.base_url)
    chat = chat_of(stage, base_url=None)
    answered(chat)
    assert stage.requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert chat.address == f"{stage.base_url}/chat/completions"


def test_openai_needs_a_key(monkeypatch):
    for base_url in (None, "https://api.openai.com/v1"):
        with pytest.raises(AuthenticationError, match="OPENAI_API_KEY"):
            OpenAIChat("gpt-x", base_url=base_url)
    monkeypatch.setenv("RERANKX_LLM_API_KEY", KEY)
    with pytest.raises(AuthenticationError):
        OpenAIChat("gpt-x")
    assert OpenAIChat("gpt-x", api_key=KEY).address == "https://api.openai.com/v1/chat/completions"
    assert OpenAIChat("gpt-x", headers={"Authorization": "Bearer x"}).key is None


def test_headers_are_sent_and_win_whatever_their_case(stage, chat_of):
    answered(chat_of(stage, api_key=KEY, headers={"authorization": "Basic abc", "X-Team": "search"}))
    headers = stage.requests[0].headers
    assert (headers["authorization"], headers["x-team"]) == ("Basic abc", "search")


@pytest.mark.parametrize(
    ("options", "problem", "words"),
    [
        ({"model": 7}, TypeError, "model"),
        ({"model": " "}, ValueError, "model"),
        ({"base_url": "ftp://x"}, ValueError, "base_url"),
        ({"base_url": f"http://u:{KEY}@x"}, ValueError, "base_url"),
        ({"base_url": f"http://x/v1?key={KEY}"}, ValueError, "base_url"),
        ({"api_key": 7}, TypeError, "api_key"),
        ({"api_key": f"{KEY}\n{KEY}"}, AuthenticationError, "line break"),
        ({"headers": [("a", "b")]}, TypeError, "headers"),
        ({"headers": {"X-Key": f"{KEY}é"}}, ValueError, "X-Key"),
        ({"extra": "x"}, TypeError, "extra"),
        ({"extra": {"x": object()}}, TypeError, "JSON"),
        ({"extra": {"x": math.nan}}, TypeError, "JSON"),
        ({"extra": {"stream": True}}, ValueError, "stream"),
        ({"extra": {"messages": []}}, ValueError, "messages"),
        ({"context_tokens": 0}, ValueError, "context_tokens"),
        ({"context_tokens": "8k"}, TypeError, "context_tokens"),
        ({"connections": 0}, ValueError, "connections"),
    ],
)
def test_arguments_that_are_none(options, problem, words):
    with pytest.raises(problem, match=words) as caught:
        OpenAIChat(**{"model": MODEL, "base_url": "http://127.0.0.1:9", **options})
    assert held_in(str(caught.value), KEY) is None


# What is read.


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (Said(None), Reply("")),
        (Said(""), Reply("")),
        (Said("[2", finish_reason="length"), Reply("[2", "length")),
        (Said(None, finish_reason="length", reasoning="let me think"), Reply("", "length")),
        (Said("[2", finish_reason="content_filter"), Reply("[2", "filter")),
        (Said("[2]", finish_reason=None), Reply("[2]")),
        (Said("[2]", finish_reason="eos"), Reply("[2]")),
        (Said(None, refusal="I cannot."), Reply("I cannot.", "refusal")),
        (Said("[2]", refusal=""), Reply("[2]")),
        (Said(None, tool_call='{"ranking": [2]}', finish_reason="tool_calls"), Reply('{"ranking": [2]}')),
        (Said("[2]", tool_call='{"ranking": [1]}'), Reply("[2]")),
        (Said("[2]", reasoning="[1]"), Reply("[2]")),
        (Said([{"type": "text", "text": "[2]"}, {"type": "text", "text": " > [1]"}]), Reply("[2] > [1]")),
        (Said([{"type": "thinking", "thinking": "[1]"}, {"type": "text", "text": "[2]"}]), Reply("[2]")),
        (Said([{"type": "refusal", "refusal": "No."}]), Reply("No.", "refusal")),
        (Said([{"type": "text", "text": None}, 7, None]), Reply("")),
        (Said(body={}), Reply("")),
        (Said(body={"choices": None}), Reply("")),
        (Said(body={"choices": []}), Reply("")),
        (Said(body={"choices": [None]}), Reply("")),
        (Said(body={"choices": [{}]}), Reply("")),
        (Said(body={"choices": [{"message": None, "finish_reason": ["length"]}]}), Reply("")),
        (Said(body={"choices": [{"message": {"content": "x"}}], "error": None, "usage": None}), Reply("x")),
        (
            Said(body={"choices": [{"message": {"tool_calls": [{"function": {"arguments": {"a": 1}}}]}}]}),
            Reply('{"a": 1}'),
        ),
        (Said(body={"choices": [{"message": {"tool_calls": [None]}}]}), Reply("")),
        (Said(body={"choices": [{"message": {"tool_calls": [{"function": {"arguments": 7}}]}}]}), Reply("")),
    ],
)
def test_what_a_reply_says(stage, chat_of, said, expected):
    stage.brain = lambda body: said
    reply = answered(chat_of(stage))
    assert (reply.text, reply.ended) == (expected.text, expected.ended)


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ((120, 9), (120, 9)),
        (None, (None, None)),
        ({"prompt_tokens": 5}, (5, None)),
        ({"prompt_tokens": -1, "completion_tokens": True}, (None, None)),
        ({"prompt_tokens": "5", "completion_tokens": 2.0}, (None, 2)),
        ({"prompt_tokens": 0, "completion_tokens": 10**400}, (0, None)),
    ],
)
def test_what_a_reply_took(stage, chat_of, usage, expected):
    stage.brain = lambda body: Said("x", usage=usage)
    reply = answered(chat_of(stage))
    assert (reply.input_tokens, reply.output_tokens) == expected


@pytest.mark.parametrize(
    ("logprobs", "expected"),
    [
        ({"A": -0.1, "B": -2.5}, {"A": -0.1, "B": -2.5}),
        ([{"A": -0.1}, {"B": -0.2}], {"A": -0.1}),
        (None, None),
        ({"content": None}, None),
        ({"content": []}, None),
        ({"content": [None]}, None),
        ({"content": [{"token": "A", "logprob": -1, "top_logprobs": None}]}, {"A": -1.0}),
        # The one that was sampled is beside its alternatives: llama.cpp, under a grammar.
        (
            {"content": [{"token": "`", "logprob": -9.3, "top_logprobs": [{"token": "C", "logprob": -1.9}]}]},
            {"C": -1.9, "`": -9.3},
        ),
        (
            {"content": [{"token": "A", "logprob": -9999.0, "top_logprobs": [{"token": "A", "logprob": -0.5}]}]},
            {"A": -0.5},
        ),
        (
            {"content": [{"token": "A", "logprob": math.nan, "top_logprobs": [{"token": "B", "logprob": -math.inf}]}]},
            None,
        ),
        ({"content": [{"token": 7, "logprob": -1}]}, None),
        ({"content": [{"token": "A", "logprob": True}]}, None),
        ({"content": [{"token": "A", "logprob": "-1"}]}, None),
        ({"content": [{"token": "A", "logprob": -1, "top_logprobs": [None, 7, {"token": "B"}]}]}, {"A": -1.0}),
        ({"tokens": ["A"], "token_logprobs": [-0.1], "top_logprobs": [{"A": -0.1, "B": -3}]}, {"A": -0.1, "B": -3.0}),
        ({"top_logprobs": []}, None),
        ({"content": "A", "top_logprobs": "A"}, None),
    ],
)
def test_the_first_token(stage, chat_of, logprobs, expected):
    stage.brain = lambda body: Said("A", logprobs=logprobs)
    assert answered(chat_of(stage), Wish(top_logprobs=5)).first_token == expected


NONSENSE = {
    "empty": Said(raw=b""),
    "HTML": Said(raw=b"<html>Sign in</html>"),
    "cut short": Said(raw=b'{"choices": ['),
    "invalid UTF-8": Said(raw=b'{"choices": "\xff"}'),
    "nested without end": Said(raw=b"[" * 200_000),
    "a list": Said(body=[]),
    "a string": Said(body="x"),
    "null": Said(raw=b"null"),
    "content a number": Said(text=7),
    "content an object": Said(text={"ranking": [1]}),
    "an error": Said(body={"error": "out of memory"}),
    "an error with a code that is none": Said(body={"error": {"message": "no", "code": "server_error"}}),
    "an error in the choice": Said(body={"choices": [{"error": {"message": "no", "code": 7}}]}),
}


@pytest.mark.parametrize("said", NONSENSE.values(), ids=list(NONSENSE))
def test_what_is_no_reply(stage, chat_of, ask, said):
    stage.brain = lambda body: said
    with pytest.raises(Fault) as caught:
        ask(chat_of(stage))
    assert (caught.value.error, caught.value.again, caught.value.billed) == (ReplyError, False, True)


@pytest.mark.parametrize("where", ["reply", "choice"])
@pytest.mark.parametrize(("code", "kind"), [(401, AuthenticationError), (429, RateLimitError), (502, BackendError)])
def test_an_error_under_200_is_what_its_code_says(stage, chat_of, where, code, kind):
    wrong = {"error": {"code": code, "message": "Provider returned error"}}
    stage.brain = lambda body: wrong if where == "reply" else {"choices": [{**wrong, "finish_reason": "error"}]}
    fault = refused(chat_of(stage))
    assert (fault.error, str(code) in fault.words, fault.said()) == (kind, True, "Provider returned error")


def test_a_wish_that_is_refused_under_200_is_one(stage, chat_of):
    wrong = {"error": {"code": 400, "message": "Provider returned error", "metadata": {"raw": '{"param": "seed"}'}}}
    stage.brain = lambda body: wrong
    assert refused(chat_of(stage), ALL).features == {"seed"}


# What is refused.


@pytest.mark.parametrize("wording", [wording for wording in WORDINGS if wording != "mute"])
@pytest.mark.parametrize(("parameter", "feature"), PARAMETERS.items())
def test_a_parameter_that_is_refused_is_named(stage, chat_of, wording, parameter, feature):
    stage.brain = refusing(parameter, wording=wording)
    refusal = refused(chat_of(stage), ALL)
    assert isinstance(refusal, Unable)
    assert refusal.features == {feature}
    assert (refusal.fault.error, refusal.fault.again, refusal.fault.sick) == (BackendError, False, False)


@pytest.mark.parametrize(
    ("status", "message", "features"),
    [
        (400, "This response_format type is unavailable now", {"schema"}),
        (400, "'response_format.type' : value is not one of the allowed values ['text','json_object']", {"schema"}),
        (400, "Invalid schema for response_format 'answer': schema exceeds the limit of 5 levels", {"schema"}),
        (400, "guided decoding is not available", {"schema"}),
        (400, "Failed to parse grammar", {"schema"}),
        (400, "Structured outputs are not supported by this model", {"schema"}),
        (400, "Unable to generate parser for this template: JSON schema error at #: unrecognized type", {"schema"}),
        (400, "You are not allowed to request logprobs from this model", {"logprobs"}),
        (400, "Invalid value for 'top_logprobs': must be less than or equal to 5", {"logprobs"}),
        (400, "Logprobs are not supported with this model", {"logprobs"}),
        (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.", {"max_tokens"}),
        (400, "max_tokens is too large: 100000. This model supports at most 4096 completion tokens", {"max_tokens"}),
        (400, "max_tokens (5000) exceeds the maximum of 4096 output tokens", {"max_tokens"}),
        (400, "`temperature` and `seed` may not be given together", {"temperature", "seed"}),
        (400, "", set()),
        (400, "The request is invalid", set()),
        (422, "Unprocessable", set()),
        (501, "Not implemented", set()),
        (500, "invalid JSON schema in format", {"schema"}),
        (404, "No endpoints found that can handle the requested parameters", set()),
    ],
)  # fmt: skip
def test_what_the_words_blame(stage, chat_of, status, message, features):
    stage.brain = lambda body: error(status, message)
    refusal = refused(chat_of(stage), ALL)
    assert isinstance(refusal, Unable)
    assert refusal.features == features
    assert (str(status) in refusal.fault.words, refusal.fault.again) == (True, False)


def test_without_wishes_nobody_is_unable(stage, chat_of):
    for status in (400, 422, 501):
        stage.brain = lambda body, status=status: error(
            status, "Unsupported parameter: 'temperature'", param="temperature"
        )
        assert isinstance(refused(chat_of(stage)), Fault)


def test_only_what_was_wished_is_blamed(stage, chat_of):
    stage.brain = refusing("max_tokens", then=lambda body: error(400, "neither seed nor temperature"))
    assert refused(chat_of(stage), Wish(temperature=0.0)).features == {"temperature"}


def test_a_prompt_that_is_repeated_blames_nobody(stage, chat_of):
    asked = "What temperature is the seed kept at? response_format logprobs"
    stage.brain = lambda body: Said(
        status=422,
        body={"detail": [{"loc": ["body", "seed"], "msg": f"not allowed: {asked}", "input": {"temperature": 0}}]},
    )
    with pytest.raises(Unable) as caught:
        answered(chat_of(stage), ALL, [{"role": "user", "content": asked}])
    assert caught.value.features == {"seed"}


def test_a_field_of_extra_that_is_refused_blames_no_wish(stage, chat_of):
    stage.brain = refusing("top_k")
    fault = refused(chat_of(stage, extra={"top_k": 1}), ALL)
    assert isinstance(fault, Fault)
    assert "top_k" in fault.said()


@pytest.mark.parametrize("wording", [wording for wording in WORDINGS if wording != "mute"])
@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 1), ("response_format", {"type": "json_object"}), ("max_completion_tokens", 9)]
)
def test_a_wish_that_extra_replaces_is_not_to_blame(stage, chat_of, wording, field, value):
    stage.brain = refusing(field, wording=wording)
    assert isinstance(refused(chat_of(stage, extra={field: value}), ALL), Fault)


@pytest.mark.parametrize("said", TOO_LONG.values(), ids=list(TOO_LONG))
@pytest.mark.parametrize("wish", [Wish(), ALL], ids=["nothing wished", "all wished"])
def test_a_prompt_that_is_too_long_says_what_to_do(stage, chat_of, said, wish):
    stage.brain = lambda body: said
    fault = refused(chat_of(stage), wish)
    assert isinstance(fault, Fault)
    assert (fault.error, fault.again, fault.sick) == (BackendError, False, False)
    for option in ("context_tokens=", "window=", "passage_tokens="):
        assert option in fault.words


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (413, "Request too large for model"),
        (500, "Context size has been exceeded."),
        (500, "Requested tokens (2285) exceed context window of 2048"),
        (400, "Input is too long for requested model."),
        (400, "The input has too many tokens"),
        (400, "The number of tokens exceeds what this model takes"),
    ],
)
def test_more_words_for_a_prompt_that_is_too_long(stage, chat_of, status, message):
    stage.brain = lambda body: error(status, message)
    fault = refused(chat_of(stage), ALL)
    assert isinstance(fault, Fault)
    assert ("passage_tokens=" in fault.words, fault.again) == (True, False)


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        (error(404, "The model `x` does not exist", code="model_not_found"), BackendError),
        (error(404, 'model "llama3.1" not found, try pulling it first'), BackendError),
        (error(404, "404 page not found"), BackendError),
        (error(400, "Invalid model name passed in model=x. Call `/v1/models` to view available models"), BackendError),
        (error(400, "llama-3.1-8b is not a valid model ID"), BackendError),
        (error(400, "The model llama-3.1 does not exist"), BackendError),
        (error(400, "The response was filtered: content management policy", code="content_filter"), ReplyError),
        (error(400, "Your request was flagged by our moderation"), ReplyError),
        (error(400, "Your resource is temporarily blocked, as it may violate our content policy"), BackendError),
        (error(403, "Your organization was suspended under our content policy"), AuthenticationError),
        (error(400, "Your credit balance is too low"), BackendError),
        (error(400, "API key not valid. Please pass a valid API key."), AuthenticationError),
        (error(401, "Incorrect API key provided", param="temperature"), AuthenticationError),
        (error(403, "temperature is not for you"), AuthenticationError),
        (error(402, "no more money for max_tokens"), RateLimitError),
        (error(429, "slow down", Retry_After="3"), RateLimitError),
        (error(409, "seed"), BackendError),
        (error(500, "the seed of all evil"), BackendError),
        (error(503, "temperature too high, unsupported load"), BackendError),
        (Said(status=307, headers={"Location": "http://127.0.0.1:9/v1"}, raw=b""), BackendError),
    ],
)
def test_what_no_wish_is_to_blame_for(stage, chat_of, said, kind):
    stage.brain = lambda body: said
    fault = refused(chat_of(stage), ALL)
    assert isinstance(fault, Fault)
    assert fault.error is kind


def test_an_unknown_model_is_asked_about(stage, chat_of):
    stage.brain = lambda body: error(404, "no")
    assert refused(chat_of(stage)).words == f"HTTP 404: is {MODEL!r} the model's name there, and base_url right?"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_what_may_be_tried_again(stage, chat_of, status):
    stage.brain = lambda body: error(status, "not now", Retry_After="2")
    fault = refused(chat_of(stage), ALL)
    assert (fault.again, fault.after_s) == (True, 2.0)


def test_what_the_server_says_is_blotted(stage, chat_of):
    stage.brain = lambda body: error(400, f"No: {PROMPT} from {KEY} and token-of-the-team")
    unable = refused(chat_of(stage, api_key=KEY, headers={"X-Team": "token-of-the-team"}), ALL)
    said = unable.fault.said()
    assert said.startswith("No: ")
    assert "Borkum" not in said
    assert "token-of" not in said
    assert held_in(said, KEY) is None


# Connections.


def test_nobody_there(chat_of, ask):
    with ChatStage() as stage:
        gone = stage.base_url
    with pytest.raises(Fault, match="is base_url right") as caught:
        ask(OpenAIChat(MODEL, base_url=gone))
    assert (caught.value.again, caught.value.sent) == (True, False)


@pytest.mark.parametrize("said", [Said(drop=True), Said("x" * 1000, half=True)], ids=["no reply", "half a reply"])
def test_a_connection_that_breaks(stage, chat_of, ask, said):
    stage.brain = lambda body: said
    with pytest.raises(Fault, match="connection broke") as caught:
        ask(chat_of(stage))
    assert (caught.value.again, caught.value.sick) == (True, True)


def test_a_reply_of_any_size_is_bounded(stage, chat_of, ask):
    stage.brain = lambda body: Said("x", blanks=MAX_REPLY_BYTES)
    with pytest.raises(Fault, match="MiB") as caught:
        ask(chat_of(stage))
    assert caught.value.error is ReplyError


def test_a_slow_reply_is_left_with_its_connection(stage, chat_of):
    stage.brain = lambda body: Said("x", drip_s=60)
    chat = chat_of(stage)

    async def run():
        async with asyncio.timeout(0.2):
            await chat.ask(MESSAGES, Wish(), blocking=False)

    with pytest.raises(TimeoutError):
        asyncio.run(run())
    wait_until(lambda: stage.requests[0].hung_up)


def test_who_is_cancelled_hangs_up(stage, chat_of):
    stage.brain = lambda body: Said("x", hold=threading.Event())
    chat = chat_of(stage)

    async def run():
        asking = asyncio.create_task(chat.ask(MESSAGES, Wish(), blocking=False))
        await asyncio.to_thread(stage.wait_for, 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.to_thread(wait_until, lambda: stage.requests[0].hung_up)
        stage.brain = lambda body: "still here"
        return await chat.ask(MESSAGES, Wish(), blocking=False)

    assert asyncio.run(run()).text == "still here"


def test_no_more_connections_than_were_given(stage, chat_of):
    stage.brain = lambda body: Said("x", delay_s=0.02)
    chat = chat_of(stage, connections=2)

    async def run():
        await asyncio.gather(*(chat.ask(MESSAGES, Wish(), blocking=False) for _ in range(8)))

    asyncio.run(run())
    assert (stage.answering_peak, len(stage.requests)) == (2, 8)


def test_one_chat_serves_several_loops_and_goes_on_when_it_was_closed(stage, chat_of):
    chat = chat_of(stage)
    for way in (_by_loop, _by_asyncio, _by_loop, _by_asyncio):
        assert way(chat, Wish(), MESSAGES).text == "[2] > [1]"
        loop.run(chat.aclose())


def test_certificates_are_read_beforehand(stage, chat_of):
    chat = chat_of(stage)
    loop.run(chat.prepare())
    assert stage.asked == []


# The context.

ENTRIES = {
    "vLLM": ([{"id": MODEL, "max_model_len": 4096}], 4096),
    "OpenRouter": ([{"id": "other", "context_length": 1}, {"id": MODEL, "context_length": 131072}], 131072),
    "Groq": ([{"id": MODEL, "context_window": 8192}, {"id": "other", "context_window": 1}], 8192),
    "Mistral": ([{"id": MODEL, "max_context_length": 32768}], 32768),
    "Together": (Said(body=[{"id": MODEL, "context_length": 8192}]), 8192),
    "the only one": ([{"id": "/models/m.gguf", "max_model_len": 2048}], 2048),
    "another one of two": ([{"id": "a", "max_model_len": 1}, {"id": "b", "max_model_len": 1}], None),
    "llama.cpp": ([{"id": "m.gguf", "meta": {"n_ctx": 512, "n_ctx_train": 8192}}], 512),
    "llama.cpp, an older one": ([{"id": "m.gguf", "meta": {"n_ctx_train": 8192}}], 1024),
    "llama.cpp, loading": ([{"id": "m.gguf", "meta": None}], None),
    "OpenAI's own fields": ([{"id": MODEL, "object": "model", "owned_by": "x"}], None),
    "none": ([], None),
    "no list": ({"data": {"id": MODEL}}, None),
    "nonsense": (Said(body=["x", None, {"id": MODEL, "max_model_len": "many"}]), None),
    "no number": ([{"id": MODEL, "max_model_len": True, "context_length": -1, "context_window": 7}], 7),
    "no JSON": (Said(raw=b"<html>"), None),
    "refused": (Said(status=403, body={"data": [{"id": MODEL, "max_model_len": 1}]}), None),
    "not there": (None, None),
}


@pytest.mark.parametrize("name", ENTRIES)
def test_the_context_that_a_server_tells(stage, chat_of, name):
    stage.models, expected = ENTRIES[name]
    stage.props = {"default_generation_settings": {"n_ctx": 1024}}
    chat = chat_of(stage, api_key=KEY)
    for _ in range(3):
        assert loop.run(chat.context_tokens()) == expected
    paths = [asked.path for asked in stage.asked]
    assert paths == ["/v1/models", "/props"][: len(paths)]
    assert (len(paths) == 2) == (name == "llama.cpp, an older one")
    assert {asked.headers["authorization"] for asked in stage.asked} == {f"Bearer {KEY}"}


@pytest.mark.parametrize("props", [None, {}, {"default_generation_settings": None}, Said(raw=b"x")])
def test_an_older_llama_cpp_whose_props_are_nothing(stage, chat_of, props):
    stage.models, stage.props = [{"id": "m.gguf", "meta": {"n_ctx_train": 8192}}], props
    assert loop.run(chat_of(stage).context_tokens()) is None


def test_a_context_that_is_declared_is_not_asked_for(stage, chat_of):
    stage.models = [{"id": MODEL, "max_model_len": 4096}]
    assert loop.run(chat_of(stage, context_tokens=2000).context_tokens()) == 2000
    assert stage.asked == []


def test_many_who_want_to_know_ask_once(stage, chat_of):
    stage.models = Said(body={"data": [{"id": MODEL, "max_model_len": 4096}]}, delay_s=0.1)
    chat = chat_of(stage)

    async def run():
        first = asyncio.create_task(chat.context_tokens())
        others = [asyncio.create_task(chat.context_tokens()) for _ in range(5)]
        await asyncio.sleep(0.02)
        first.cancel()  # then one of the others asks
        return await asyncio.gather(*others)

    assert asyncio.run(run()) == [4096] * 5
    assert len([asked for asked in stage.asked if not asked.hung_up]) == 1


def test_nobody_waits_long_for_the_context(stage, chat_of, monkeypatch):
    from rerankx.llm import openai

    monkeypatch.setattr(openai, "_MODELS_S", 0.1)
    stage.models = Said(body=[], delay_s=60)
    chat = chat_of(stage)
    assert loop.run(chat.context_tokens()) is None
    wait_until(lambda: stage.asked[0].hung_up)


@pytest.mark.parametrize("failing", [Said(drop=True), Said(status=503, body={})], ids=["dropped", "503"])
def test_a_server_that_is_not_up_yet_is_asked_for_the_context_again_twice(stage, chat_of, failing):
    chat = chat_of(stage)
    stage.models = failing
    assert loop.run(chat.context_tokens()) is None
    stage.models = [{"id": MODEL, "max_model_len": 4096}]
    assert [loop.run(chat.context_tokens()) for _ in range(2)] == [4096, 4096]
    assert len(stage.asked) == 2
    stage.models, never = failing, chat_of(stage)
    assert [loop.run(never.context_tokens()) for _ in range(5)] == [None] * 5
    assert len(stage.asked) == 5


def test_many_who_want_to_know_of_a_server_that_is_not_up_ask_once(stage, chat_of):
    stage.models = Said(status=503, body={}, delay_s=0.1)
    chat = chat_of(stage)

    async def burst():
        return await asyncio.gather(*(chat.context_tokens() for _ in range(4)))

    assert asyncio.run(burst()) == [None] * 4
    assert len(stage.asked) == 1
    stage.models = [{"id": MODEL, "max_model_len": 4096}]
    assert loop.run(chat.context_tokens()) == 4096


def test_a_context_that_nobody_can_wait_for_is_given_up(stage, chat_of):
    stage.models = Said(body=[], delay_s=60)
    chat = chat_of(stage)

    async def impatient():
        async with asyncio.timeout(0.05):
            return await chat.context_tokens()

    for _ in range(3):
        with pytest.raises(TimeoutError):
            asyncio.run(impatient())
    assert asyncio.run(impatient()) is None


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_where_one_token_is_too_few_the_wish_is_to_blame_and_not_the_callers_field(stage, chat_of, name):
    stage.brain = lambda body: error(400, f"Invalid '{name}': integer below minimum value", param=name)
    refusal = refused(chat_of(stage, extra={name: 2000}), Wish(max_tokens=1, top_logprobs=20))
    assert isinstance(refusal, Unable)
    assert refusal.features == {"max_tokens"}


def test_a_copy_asks_the_same_address_also_where_the_environment_named_it(stage, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", stage.base_url)
    chat = OpenAIChat(MODEL, base_url=stage.base_url, api_key=KEY)
    packed = pickle.dumps(chat)
    monkeypatch.delenv("OPENAI_BASE_URL")
    assert pickle.loads(packed).address == chat.address


@pytest.mark.parametrize("status", [401, 403])
def test_where_no_key_was_sent_that_is_said(stage, chat_of, status):
    stage.brain = lambda body: error(status, "Unauthorized")
    assert "no key was sent; pass api_key=, or set RERANKX_LLM_API_KEY" in refused(chat_of(stage), ALL).words
    assert "the key is wrong" in refused(chat_of(stage, api_key=KEY), ALL).words


def test_an_address_that_is_that_of_the_environment_has_its_key(stage, chat_of, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", stage.base_url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    answered(chat_of(stage), Wish())
    assert stage.requests[0].headers["authorization"] == f"Bearer {KEY}"


def test_nobody_there_tells_no_context():
    with ChatStage() as stage:
        gone = stage.base_url
    assert loop.run(OpenAIChat(MODEL, base_url=gone).context_tokens()) is None


# Copies, and what is shown.


def test_a_pickle_holds_no_key_and_reads_the_environment(stage, chat_of, monkeypatch):
    chat = chat_of(
        stage, api_key=KEY, extra={"top_k": 1}, context_tokens=2000, connections=3, lacks=frozenset({"seed"})
    )
    pickled = pickle.dumps(chat)
    assert held_in(pickled.decode("latin-1"), KEY) is None
    monkeypatch.setenv("RERANKX_LLM_API_KEY", "of-the-environment")
    loaded = pickle.loads(pickled)
    answered(loaded)
    assert stage.requests[0].headers["authorization"] == "Bearer of-the-environment"
    assert stage.bodies[0]["top_k"] == 1
    assert (loaded.model, loaded.address, loaded.lacks) == (chat.model, chat.address, chat.lacks)
    assert loop.run(loaded.context_tokens()) == 2000
    loop.run(loaded.aclose())


def test_headers_are_not_pickled(stage, chat_of):
    with pytest.raises(TypeError, match="headers") as caught:
        pickle.dumps(chat_of(stage, headers={"X-Key": KEY}))
    assert held_in(told(caught.value), KEY) is None


@pytest.mark.parametrize("made", [copy.copy, copy.deepcopy])
def test_a_copy_keeps_key_and_headers(stage, chat_of, made):
    copied = made(chat_of(stage, api_key=KEY, headers={"X-Team": "search"}))
    answered(copied)
    headers = stage.requests[0].headers
    assert (headers["authorization"], headers["x-team"]) == (f"Bearer {KEY}", "search")
    loop.run(copied.aclose())


def _echo(code):
    def brain(body):
        return Said(
            status=code, body={"error": {"message": f"Bearer {KEY} X {KEY[:30]} {json.dumps(body)}", "code": code}}
        )

    return brain


BREAKING = {
    **{f"echo with {code}": _echo(code) for code in (200, 400, 401, 404, 413, 422, 429, 500, 501)},
    "too long": lambda body: error(400, f"maximum context length, {KEY} {body['messages'][0]['content']}"),
    "text": lambda body: Said(status=400, raw=f"no {KEY} {body['messages'][0]['content']}".encode()),
    "no JSON": lambda body: Said(raw=KEY.encode()),
    "dropped": lambda body: Said(drop=True),
}


@pytest.mark.parametrize("given", [{"api_key": KEY}, {"headers": {"X-Key": KEY}}, {"headers": {"X": f"Bearer {KEY}"}}])
@pytest.mark.parametrize("fault", BREAKING)
def test_neither_key_nor_prompt_is_shown(stage, chat_of, caplog, fault, given):
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "asyncio", "rerankx"):
        caplog.set_level(logging.DEBUG, logger=name)
    stage.brain = BREAKING[fault]
    stage.models = Said(status=500, body={"error": KEY})
    chat = chat_of(stage, **given)
    shown = [repr(chat), str(chat), chat.address]
    for wish in (Wish(), ALL):
        caught = refused(chat, wish)
        fault_of = caught.fault if isinstance(caught, Unable) else caught
        shown += [told(caught), fault_of.words, fault_of.said() if fault_of.said else "", repr(fault_of)]
    assert loop.run(chat.context_tokens()) is None
    shown += [f"{record.getMessage()} {record.args!r} {record.exc_text or ''}" for record in caplog.records]
    assert held_in(" ".join(shown), KEY) is None
    assert "ferry to Borkum" not in " ".join(shown)
    assert KEY in str(stage.requests[0].headers)
