"""A server on loopback that speaks OpenAI's chat completions, says whatever a brain tells it to, and fails on request."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MODEL = "stage-model"
NOT_SAID = object()


@dataclass
class Said:
    """What the server says to one request; the defaults are a good reply with nothing in it."""

    text: str | list | None = ""
    finish_reason: str | None = "stop"
    logprobs: Mapping | list | None = None
    """{token: log-probability} of the first token, or a list of them, one for each token, or what `choices[0].logprobs` is."""
    usage: tuple[int, int] | Mapping | None = (11, 7)
    """Tokens of prompt and completion, or what `usage` is; None leaves it out."""
    refusal: str | None = None
    tool_call: str | None = None
    """Arguments, as JSON, of a call that the model makes."""
    reasoning: str | None = None
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: object = NOT_SAID
    """All of the reply, as JSON, in place of what the above make."""
    raw: bytes | None = None
    """All of the reply, as it is sent."""
    delay_s: float = 0.0
    """Before the first byte."""
    hold: threading.Event | None = None
    """Nothing is sent before it is set."""
    drip_s: float = 0.0
    """Before the body, blanks are sent one by one for so long."""
    blanks: int = 0
    """Before the body, so many blanks are sent."""
    drop: bool = False
    """The connection is closed without an answer."""
    half: bool = False
    """The connection is closed in the middle of the body."""


@dataclass
class Asked:
    """What the server was asked."""

    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: dict | None
    at: float
    """Monotonic time."""
    hung_up: bool = False
    """Whether the client closed the connection while it was being answered."""
    done: bool = False


Brain = Callable[[dict], "str | dict | Said"]


class ChatStage:
    """A context manager: serves while it is entered, whatever the path before /chat/completions is.

        with ChatStage(lambda body: "[2] > [1]") as stage:
            stage.base_url      # http://127.0.0.1:port/v1
            stage.requests      # of chats, in the order in which they came
            stage.brain = lambda body: Said("[1]", logprobs={"A": -0.1})

    A brain is called with the request's body, in a thread of its own; it returns the text, a `Said`, or a dict: the reply as a
    whole. What it raises is a reply with status 500.

    Args:
        brain: Says what is replied.
        models: What GET /v1/models answers: a list of entries, the reply as a whole, or a `Said`; None is 404.
        props: What GET /props answers, as llama.cpp has it; None is 404.
        key: The key that is asked for; None takes any and none.
    """

    def __init__(self, brain: Brain = lambda body: "", *, models=None, props=None, key: str | None = None):
        self.brain, self.models, self.props, self.key = brain, models, props, key
        self.asked: list[Asked] = []
        """All requests."""
        self.answering = self.answering_peak = 0
        self._tasks: set[asyncio.Task] = set()

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        return f"{self.origin}/v1"

    @property
    def requests(self) -> list[Asked]:
        """The chats among them."""
        return [asked for asked in self.asked if asked.path.endswith("/chat/completions")]

    @property
    def bodies(self) -> list[dict]:
        return [asked.body for asked in self.requests]

    def prompts(self) -> list[str]:
        """Return what the last message of each chat was."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def wait_for(self, n: int) -> list[Asked]:
        """Return the chats as soon as there are n of them."""
        wait_until(lambda: len(self.requests) >= n, f"{n} requests; there are {len(self.requests)}")
        return self.requests

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="chat-stage")
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_error):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512, limit=2**24)
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        await self._end.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            while True:
                asked = await _read(reader)
                self.asked.append(asked)
                self.answering += 1
                self.answering_peak = max(self.answering_peak, self.answering)
                try:
                    if not await self._answer(asked, reader, writer):
                        break
                finally:
                    self.answering -= 1
                    asked.done = True
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has closed it, or the stage is
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, asked: Asked, reader, writer) -> bool:
        """Answer, and return whether the connection is of more use."""
        said = await self._said(asked)
        if said.drop:
            return False
        content = _content(said, asked.body)
        reading = asyncio.ensure_future(reader.read(1))  # nobody sends the next request before this one is answered
        try:
            if await _hung_up(reading, said.delay_s) or (said.hold and await _hung_up(reading, 60, unless=said.hold)):
                asked.hung_up = True
                return False
            drops = round(said.drip_s / 0.01)
            length = len(content) + drops + said.blanks
            head = {"Content-Type": "application/json", "Content-Length": str(length), **said.headers}
            lines = [f"HTTP/1.1 {said.status} Some Reason", *(f"{name}: {value}" for name, value in head.items())]
            writer.write("\r\n".join([*lines, "", ""]).encode())
            for _ in range(drops):
                writer.write(b" ")
                if await _hung_up(reading, 0.01):
                    asked.hung_up = True
                    return False
            for start in range(0, said.blanks, 65_536):
                writer.write(b" " * min(65_536, said.blanks - start))
                await writer.drain()
            writer.write(content[: len(content) // 2] if said.half else content)
            await writer.drain()
            return not said.half
        except ConnectionError:
            asked.hung_up = True
            raise
        finally:
            reading.cancel()
            await asyncio.wait([reading])  # a stream has one reader at a time

    async def _said(self, asked: Asked) -> Said:
        if self.key is not None and asked.headers.get("authorization") != f"Bearer {self.key}":
            return error(401, "Incorrect API key provided", code="invalid_api_key")
        if asked.method == "GET":
            found = {"models": self.models, "props": self.props}.get(asked.path.rpartition("/")[2])
            if found is None:
                return error(404, "Not Found")
            if isinstance(found, list):
                found = {"object": "list", "data": found}
            return found if isinstance(found, Said) else Said(body=found)
        if asked.method != "POST" or not asked.path.endswith("/chat/completions"):
            return error(404, f"Invalid URL ({asked.method} {asked.path})")
        wrong = wrong_in(asked.body)
        if wrong:
            return error(400, f"no chat: {wrong}")
        try:
            said = await asyncio.to_thread(self.brain, asked.body)
        except Exception as raised:
            return error(500, f"the brain failed: {raised!r}")
        return said if isinstance(said, Said) else Said(said) if isinstance(said, str) else Said(body=said)


async def _read(reader) -> Asked:
    first = await reader.readexactly(1)
    at = time.monotonic()
    head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.split("\r\n")[:-2]
    headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = line.split(" ")
    return Asked(method, path.partition("?")[0], headers, json.loads(body) if body else None, at)


async def _hung_up(reading: asyncio.Future, within_s: float, *, unless: threading.Event | None = None) -> bool:
    """Return whether the client hangs up before that many seconds are over, or the event is set."""
    end = time.monotonic() + within_s
    while (left := end - time.monotonic()) > 0 and not (unless is not None and unless.is_set()):
        await asyncio.wait([reading], timeout=left if unless is None else 0.005)
        if reading.done():
            return True
    return False


def _content(said: Said, body: dict | None) -> bytes:
    if said.raw is not None:
        return said.raw
    if said.body is not NOT_SAID:
        return json.dumps(said.body).encode()
    return json.dumps(completion(said, (body or {}).get("model", MODEL))).encode()


def completion(said: Said, model: str = MODEL) -> dict:
    """Return a chat completion, as OpenAI's API has it."""
    message: dict = {"role": "assistant", "content": said.text, "refusal": said.refusal}
    if said.reasoning is not None:
        message["reasoning_content"] = said.reasoning
    if said.tool_call is not None:
        call = {"name": "answer", "arguments": said.tool_call}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": call}]
    choice = {"index": 0, "message": message, "finish_reason": said.finish_reason, "logprobs": _logprobs(said.logprobs)}
    reply = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    if said.usage is not None:
        reply["usage"] = _usage(said.usage)
    return reply


def _usage(usage) -> Mapping:
    if isinstance(usage, Mapping):
        return usage
    prompt, completed = usage
    return {"prompt_tokens": prompt, "completion_tokens": completed, "total_tokens": prompt + completed}


def _logprobs(told):
    if told is None or (isinstance(told, Mapping) and ("content" in told or "top_logprobs" in told)):
        return told
    return {"content": [_token(alternatives) for alternatives in ([told] if isinstance(told, Mapping) else told)]}


def _token(alternatives: Mapping[str, float]) -> dict:
    top = [{"token": token, "logprob": lp, "bytes": list(token.encode())} for token, lp in alternatives.items()]
    top.sort(key=lambda one: -one["logprob"])
    return {**top[0], "top_logprobs": top}


def wrong_in(body: object) -> str | None:
    """Return what no server would take."""
    if not isinstance(body, dict):
        return "no object"
    if not (isinstance(body.get("model"), str) and body["model"]):
        return "model"
    messages = body.get("messages")
    if not (isinstance(messages, list) and messages):
        return "messages"
    if not all(message.get("role") in ("system", "user", "assistant", "tool", "developer") for message in messages):
        return "role"
    if body.get("stream"):
        return "stream"
    if "top_logprobs" in body and not body.get("logprobs"):
        return "top_logprobs without logprobs"
    return None


def wait_until(condition: Callable[[], object], what: str = "what was waited for", seconds: float = 30) -> None:
    """Return when the condition holds; it is an error if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.002)


# What a server says that refuses.


def error(status: int, message: str, *, param=None, code=None, kind: str = "invalid_request_error", **headers) -> Said:
    """Return an error in OpenAI's form."""
    said = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Said(status=status, body=said, headers={name.replace("_", "-"): value for name, value in headers.items()})


def _openai(param: str) -> Said:
    said = f"Unsupported parameter: '{param}' is not supported with this model."
    return error(400, said, param=param, code="unsupported_parameter")


def _openai_value(param: str) -> Said:
    said = f"Unsupported value: '{param}' does not support 0 with this model. Only the default (1) value is supported."
    return error(400, said, param=param, code="unsupported_value")


def _vllm(param: str) -> Said:
    said = (
        f"1 validation error for ChatCompletionRequest\n{param}\n  Extra inputs are not permitted "
        "[type=extra_forbidden, input_value=7, input_type=int]"
    )
    return Said(
        status=400, body={"object": "error", "message": said, "type": "BadRequestError", "param": None, "code": 400}
    )


def _pydantic(param: str) -> Said:
    one = {"type": "extra_forbidden", "loc": ["body", param], "msg": "Extra inputs are not permitted", "input": 7}
    return Said(status=422, body={"detail": [one]})


def _azure(param: str) -> Said:
    return error(400, f"Unrecognized request argument supplied: {param}")


def _llama_cpp(param: str) -> Said:
    said = {"error": {"code": 400, "message": f"Unsupported param: {param}", "type": "invalid_request_error"}}
    return Said(status=400, body=said)


def _not_implemented(param: str) -> Said:
    said = {"error": {"code": 501, "message": f"{param} is not implemented", "type": "not_supported_error"}}
    return Said(status=501, body=said)


def _mute(param: str) -> Said:
    return error(400, "Bad request")


WORDINGS = {
    "openai": _openai,
    "openai value": _openai_value,
    "vllm": _vllm,
    "pydantic": _pydantic,
    "azure": _azure,
    "llama.cpp": _llama_cpp,
    "not implemented": _not_implemented,
    "mute": _mute,
}
"""How servers say that they do not take a parameter; "mute" does not say which."""


def refusing(*params: str, wording: str = "openai", then: Brain = lambda body: "") -> Brain:
    """Return a brain that refuses bodies with one of these fields, in the words of some server, and else does as `then` does."""

    def brain(body: dict):
        for param in params:
            if param in body:
                return WORDINGS[wording](param)
        return then(body)

    return brain


TOO_LONG = {
    "openai": error(
        400,
        "This model's maximum context length is 8192 tokens. However, your messages resulted in 9011 tokens. Please reduce the "
        "length of the messages.",
        param="messages",
        code="context_length_exceeded",
    ),
    "vllm": Said(
        status=400,
        body={
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 4600 tokens (4500 in the "
            "messages, 100 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError",
            "param": None,
            "code": 400,
        },
    ),
    "vllm max_tokens": error(
        400,
        "'max_tokens' or 'max_completion_tokens' is too large: 200. This model's maximum context length is 256 tokens and your "
        "request has 128 input tokens (200 > 256 - 128).",
        param="max_tokens",
        kind="BadRequestError",
    ),
    "llama.cpp": Said(
        status=400,
        body={
            "error": {
                "code": 400,
                "message": "the request exceeds the available context size. try increasing the context size or enable context "
                "shift",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 3030,
                "n_ctx": 2048,
            }
        },
    ),
    "anthropic": error(400, "prompt is too long: 208310 tokens > 200000 maximum"),
    "mistral": Said(
        status=400,
        body={
            "object": "error",
            "message": "Prompt contains 40000 tokens and 0 draft tokens, too large for model with 32768 maximum context length",
            "type": "invalid_request_prompt",
            "param": None,
            "code": "3051",
        },
    ),
    "tgi": Said(
        status=422,
        body={
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 2048. Given: 2100 `inputs` tokens",
            "error_type": "validation",
        },
    ),
}
"""How servers say that a prompt does not fit."""
