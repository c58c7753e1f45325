"""A function as a language model: what it is told, where it runs, and what becomes of what it returns and raises."""

import asyncio
import contextvars
import functools
import json
import pickle
import re
import threading
import traceback
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import get_args

import httpx
import pytest
from chat_stage import ChatStage, Said, error

from rerankx import AuthenticationError, BackendError, DeadlineError, RateLimitError, ReplyError
from rerankx.llm.bridges import chat_of
from rerankx.llm.chat import Feature, Reply, Wish
from rerankx.llm.function import FunctionChat
from rerankx.network import loop
from rerankx.network.faults import Fault

MESSAGES = ({"role": "user", "content": "the query and the passages"},)
EVERYTHING = Wish(max_tokens=1, temperature=0.0, seed=7, schema={"type": "object"}, top_logprobs=20)
KEY = "sk-proj-0123456789abcdef"


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Returns `ask(function, wish)`, which asks as a synchronous caller does, or as an asynchronous one."""

    def call(function, wish=EVERYTHING):
        answer = chat_of(function).ask(MESSAGES, wish, blocking=request.param == "sync")
        return loop.run(answer) if request.param == "sync" else asyncio.run(answer)

    call.how = request.param
    return call


def fault_in(ask, function):
    with pytest.raises(Fault) as raised:
        ask(function)
    assert raised.value.__context__ is None
    assert raised.value.__cause__ is None
    return raised.value


async def coroutine(messages):
    return f"asynchronously: {messages[0]['content']}"


class Asynchronous:
    async def __call__(self, messages):
        return "an object"


class Synchronous:
    def __call__(self, messages):
        return "an object"

    async def method(self, messages):
        return "a method"


async def with_more(prefix, messages):
    return prefix + messages[0]["content"]


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda messages: messages[0]["content"], "the query and the passages"),
        (coroutine, "asynchronously: the query and the passages"),
        (lambda messages: coroutine(messages), "asynchronously: the query and the passages"),
        (functools.partial(with_more, "> "), "> the query and the passages"),
        (functools.partial(Asynchronous()), "an object"),
        (Asynchronous(), "an object"),
        (Synchronous(), "an object"),
        (Synchronous().method, "a method"),
        (lambda messages: None, ""),
        (lambda messages: "", ""),
    ],
)
def test_a_function_answers(ask, function, text):
    assert ask(function) == Reply(text)


def test_the_messages_are_the_functions_own(ask):
    def careless(messages):
        assert type(messages) is list
        assert messages == [{"role": "user", "content": "the query and the passages"}]
        messages[0]["content"] = "something else"
        messages.append("more")
        return "done"

    for _ in range(2):
        assert ask(careless).text == "done"


def test_a_synchronous_function_runs_in_a_thread_of_its_own(ask):
    threads = []
    ask(lambda messages: threads.append(threading.current_thread()))
    assert threads[0] is not threading.current_thread()
    assert threads[0].daemon
    assert threads[0].name == "rerankx-llm"


def test_an_asynchronous_function_runs_in_the_running_loop(ask):
    threads = []

    async def function(messages):
        threads.append(threading.current_thread())

    ask(function)
    assert (threads[0] is threading.current_thread()) == (ask.how == "async")


@pytest.mark.parametrize("awaits", [False, True])
def test_a_function_sees_the_callers_context(ask, awaits):
    trace = contextvars.ContextVar("trace")
    trace.set("the caller's")

    async def asynchronous(messages):
        return trace.get()

    assert ask(asynchronous if awaits else lambda messages: trace.get()).text == "the caller's"


@pytest.mark.parametrize("returned", [{"content": "[1] > [2]"}, ["[1]"], 3, b"[1]", object(), True])
def test_what_is_no_text_is_no_reply(ask, returned):
    def model(messages):
        return returned

    fault = fault_in(ask, model)
    assert fault.error is ReplyError
    assert f"model returned {type(returned).__name__}, not a str: return the text of the reply" in fault.words
    assert fault.billed
    assert not fault.again


def test_a_generator_is_no_reply(ask):
    async def streaming(messages):
        yield "[1]"

    assert "returned async_generator, not a str" in fault_in(ask, streaming).words


def test_an_exception_is_a_fault_without_its_words_but_with_its_line(ask):
    def function(messages):
        raise ValueError(f"the key {KEY} does not like {messages[0]['content']}")

    fault = fault_in(ask, function)
    line = function.__code__.co_firstlineno + 1
    assert fault.error is BackendError
    assert fault.words == f"the model raised ValueError (test_function.py, line {line})"
    assert fault.billed
    assert not fault.again
    shown = "".join(traceback.format_exception(fault))
    assert KEY not in shown
    assert "passages" not in shown


def test_an_exit_ends_neither_the_background_loop_nor_the_wait_for_it():
    def leaves(messages):
        raise SystemExit(3)

    async def leaves_too(messages):
        raise SystemExit(3)

    for function in (leaves, leaves_too):
        with pytest.raises(Fault, match="the model raised SystemExit"):
            loop.run(FunctionChat(function).ask(MESSAGES, Wish(), blocking=True))
        assert loop.run(FunctionChat(coroutine).ask(MESSAGES, Wish(), blocking=True)).text


def test_an_interrupt_in_the_callers_loop_passes():
    async def interrupted(messages):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(FunctionChat(interrupted).ask(MESSAGES, Wish(), blocking=False))


def test_who_is_cancelled_cancels_what_it_awaits():
    ended = []

    async def slow(messages):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    async def main():
        async with asyncio.timeout(0.05):
            await FunctionChat(slow).ask(MESSAGES, Wish(), blocking=False)

    with pytest.raises(TimeoutError):
        asyncio.run(main())
    assert ended == ["cancelled"]


def test_who_is_cancelled_leaves_a_thread_behind():
    released, done = threading.Event(), threading.Event()

    def slow(messages):
        released.wait(30)
        done.set()
        return "too late"

    async def main():
        task = asyncio.create_task(FunctionChat(slow).ask(MESSAGES, Wish(), blocking=False))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not done.is_set()
        released.set()
        await asyncio.to_thread(done.wait, 30)
        await asyncio.sleep(0.05)  # what the thread says is heard by nobody

    asyncio.run(main())
    assert done.is_set()


def test_a_cancellation_that_is_not_ours_is_a_fault(ask):
    async def function(messages):
        task = asyncio.ensure_future(asyncio.sleep(60))
        task.cancel()
        await task

    assert fault_in(ask, function).words.startswith("the model raised CancelledError (")


def test_an_error_of_rerankxs_passes_as_what_it_is(ask):
    def function(messages):
        raise RateLimitError("no more today")

    fault = fault_in(ask, function)
    assert (fault.error, fault.words) == (RateLimitError, "no more today")


def test_nothing_of_a_wish_is_granted_and_to_try_again_is_its_own_affair():
    assert FunctionChat(coroutine).lacks == frozenset(get_args(Feature))
    assert FunctionChat(coroutine).retries
    assert asyncio.run(FunctionChat(coroutine).context_tokens()) is None


@pytest.mark.parametrize(
    ("function", "name"),
    [(coroutine, "coroutine"), (functools.partial(with_more, ""), "with_more"), (Asynchronous(), "Asynchronous")],
)
def test_it_has_a_name_and_pickles_where_its_function_does(function, name):
    chat = pickle.loads(pickle.dumps(chat_of(function)))
    assert (chat.model, chat.address) == (name, f"function:{name}")
    assert isinstance(asyncio.run(chat.ask(MESSAGES, Wish(), blocking=False)).text, str) or name == "with_more"


# By what people write functions with.


def by_httpx(base_url):
    def function(messages):
        headers = {"Authorization": f"Bearer {KEY}"}
        body = {"model": "stage-model", "messages": messages}
        response = httpx.post(f"{base_url}/chat/completions", headers=headers, json=body, timeout=0.5)
        response.raise_for_status()
        return response.json()["choices"][0]["message"]["content"]

    return function


def by_urllib(base_url):
    def function(messages):
        body = json.dumps({"model": "stage-model", "messages": messages}).encode()
        request = urllib.request.Request(f"{base_url}/chat/completions", body, {"Authorization": f"Bearer {KEY}"})
        try:
            with urllib.request.urlopen(request, timeout=0.5) as response:
                return json.loads(response.read())["choices"][0]["message"]["content"]
        except urllib.error.HTTPError as error:
            error.close()  # it is the reply, too
            raise

    return function


BY = pytest.mark.parametrize("by", [by_httpx, by_urllib])


@BY
def test_a_function_over_http_answers(ask, by):
    with ChatStage(lambda body: "[2] > [1]") as stage:
        assert ask(by(stage.base_url)).text == "[2] > [1]"
        assert stage.bodies == [{"model": "stage-model", "messages": list(MESSAGES)}]


@BY
@pytest.mark.parametrize(
    ("status", "kind", "again"),
    [
        (401, AuthenticationError, False),
        (404, BackendError, False),
        (429, RateLimitError, True),
        (500, BackendError, True),
    ],
)
def test_a_status_is_its_fault_and_is_asked_once(ask, by, status, kind, again):
    words = f"your key {KEY} is not fit for the query and the passages"
    with ChatStage(lambda body: error(status, words, Retry_After="7")) as stage:
        fault = fault_in(ask, by(stage.base_url))
        assert len(stage.requests) == 1
    assert (fault.error, fault.again) == (kind, again)
    assert fault.words.startswith(f"HTTP {status}")
    assert fault.after_s == (7.0 if status in (429, 500) else None)
    said = fault.said() if fault.said else ""
    assert not re.search("sk-proj|passages", said)
    assert "is not fit for" in said or by is by_urllib  # whose exceptions have not read the body


@BY
def test_a_timeout_is_a_timeout(ask, by):
    with ChatStage(lambda body: Said(delay_s=5)) as stage:
        fault = fault_in(ask, by(stage.base_url))
    assert fault.error is DeadlineError
    assert fault.timed_out


def test_a_refused_connection_says_so(ask):
    with ChatStage() as stage:
        gone = stage.base_url
    fault = fault_in(ask, by_httpx(gone))
    assert fault.words.startswith("no connection to function:by_httpx.<locals>.function: ")
    assert fault.again
    assert not fault.sent


def test_a_closed_connection_is_a_fault_of_transport(ask):
    with ChatStage(lambda body: Said(drop=True)) as stage:
        fault = fault_in(ask, by_httpx(stage.base_url))
    assert (fault.words, fault.again) == ("the connection broke (RemoteProtocolError)", True)


def test_a_cause_tells_more_than_what_wraps_it(ask):
    def function(messages):
        try:
            raise TimeoutError("30 s")
        except TimeoutError as reason:
            raise RuntimeError("my client failed") from reason

    assert fault_in(ask, function).timed_out


# What tells one from another.


def test_a_function_that_can_be_imported_is_told_by_its_name():
    assert FunctionChat(coroutine).settings == FunctionChat(coroutine).settings == f"{__name__}.coroutine"


def test_functions_of_one_name_are_told_apart():
    one, other = (lambda messages, answer=answer: answer for answer in "ab")
    assert one.__qualname__ == other.__qualname__
    assert FunctionChat(one).settings == FunctionChat(one).settings != FunctionChat(other).settings


def decorated(function, answer):
    @functools.wraps(function)
    def inner(messages):
        return answer

    return inner


def test_decorated_functions_are_told_apart():
    one, other = (decorated(coroutine, answer) for answer in "ab")
    assert one.__qualname__ == other.__qualname__ == "coroutine"
    assert FunctionChat(one).settings != FunctionChat(other).settings


def test_objects_of_one_class_are_told_apart():
    one, other = Model(), Model()
    assert FunctionChat(one).settings == FunctionChat(one).settings != FunctionChat(other).settings


def test_a_bound_method_is_told_by_its_object():
    class Client:
        def ask(self, messages):
            return ""

        def other(self, messages):
            return ""

    one, other = Client(), Client()
    assert FunctionChat(one.ask).settings == FunctionChat(one.ask).settings
    assert len({FunctionChat(f).settings for f in (one.ask, one.other, other.ask)}) == 3


@dataclass
class Unhashable:
    def __call__(self, messages):
        return ""


def test_an_object_that_has_no_hash_is_told_apart_from_its_equals():
    assert FunctionChat(Unhashable()).settings != FunctionChat(Unhashable()).settings


# What an llm= may be.


def test_a_bridge_stays():
    chat = FunctionChat(coroutine)
    assert chat_of(chat) is chat


class Model:
    def __call__(self, messages):
        return ""


@pytest.mark.parametrize(
    ("llm", "words"),
    [
        ("gpt-5-mini", "llm= takes an object; a model by its name is 'listwise:<model>' with base_url="),
        (Model, "llm= takes an object, not its class: llm=Model(...)"),
        (3, "llm= takes a LangChain chat model, a LlamaIndex LLM, or a function that takes messages"),
        ({}, "not dict"),
        (lambda: "", "llm= takes a function of one argument, the messages; "),
        (lambda messages, model: "", "takes others"),
    ],
)
def test_what_is_no_model_is_refused(llm, words):
    with pytest.raises(TypeError, match=re.escape(words)):
        chat_of(llm)
