"""`OpenAIChat`: a chat model behind an endpoint that speaks OpenAI's chat completions: vLLM, llama.cpp, hosted ones."""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, Self, cast
from urllib.parse import urlsplit

import httpx

from rerankx.llm.chat import Chat, Feature, Messages, Reply, Unable, Wish
from rerankx.llm.endings import ending_of
from rerankx.llm.refusals import refusal_of
from rerankx.network.client import PerLoop, checked_base_url, http_client, joined, tls
from rerankx.network.faults import Fault, Quoted, nonsense, of_exception, of_status
from rerankx.network.service import checked_extra, checked_headers, find_key, told_amount, whole

_OPENAI = "https://api.openai.com/v1"
_PATH = "/chat/completions"
_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})
_MODELS_TRIES = 3  # rankings in which it is asked, until it is taken for one that does not say
_MODELS_S = 2.0  # for what a server says of its models: it is only good to know

_CONTEXT = ("max_model_len", "context_length", "context_window", "max_context_length")
"""In an entry of /models: vLLM and SGLang; OpenRouter and Together; Groq; Mistral."""


class OpenAIChat(Chat):
    """Asks a model behind an OpenAI-compatible endpoint.

    Redirects are not followed, certificates are verified, proxies are taken from the environment.

    Args:
        model: The model, as the service names it.
        base_url: The endpoint, with or without "/v1"; None is `OPENAI_BASE_URL`, and without it OpenAI's.
        api_key: The key; None reads `OPENAI_API_KEY` where the address is OpenAI's or of `OPENAI_BASE_URL`, and everywhere else
            `RERANKX_LLM_API_KEY`: OpenAI's key goes nowhere unasked.
        headers: More headers. They may hold secrets: they are in no message, and what has them does not pickle.
        extra: More fields of the request's body; they take the place of what is there.
        context_tokens: How many tokens prompt and reply may have together; None asks the endpoint.
        connections: How many at a time, in each event loop.
        lacks: What it is known not to take.

    Raises:
        AuthenticationError: No key, and it is OpenAI that is asked.
        TypeError: An argument of the wrong type.
        ValueError: An argument out of its range.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
        context_tokens: int | None = None,
        connections: int = 8,
        lacks: frozenset[Feature] = frozenset(),
    ) -> None:
        if not isinstance(model, str):
            raise TypeError(f"model must be a string, not {type(model).__name__}")
        if not model.strip():
            raise ValueError("model must be a name, as the service has it")
        self.model, self.lacks = model, frozenset(lacks)
        usual = os.environ.get("OPENAI_BASE_URL", "").strip() or _OPENAI
        from_environment = base_url is None or str(base_url).rstrip("/") == usual.rstrip("/")
        given_url, base_url = base_url, usual if base_url is None else base_url
        self.address = _address(checked_base_url(base_url, who=model))
        self.host = urlsplit(self.address).hostname or ""
        self._openai = self.host == "api.openai.com" or self.host.endswith(".api.openai.com")
        self.key_variable = "OPENAI_API_KEY" if from_environment or self._openai else "RERANKX_LLM_API_KEY"
        """Where the key is read from, if none is given."""
        self.key = find_key(api_key, [self.key_variable], needed=self._openai and not headers, who=model)
        self._headers, self._extra = checked_headers(headers or {}), _checked_extra(extra or {})
        self.settings = json.dumps(self._extra, sort_keys=True)
        self._context = whole("context_tokens", context_tokens)
        count = whole("connections", connections) or 1
        self._given: dict[str, Any] = {
            "model": model,
            "base_url": given_url,
            "headers": self._headers or None,
            "extra": self._extra or None,
            "context_tokens": context_tokens,
            "connections": connections,
            "lacks": self.lacks,
        }
        self._clients = PerLoop(lambda: http_client(count), httpx.AsyncClient.aclose, prepare=tls)
        self._found: tuple[int | None] | None = None  # what the endpoint says of the context, once it was asked
        self._failures = self._left = 0  # how often it did not say so, and how often nobody waited until it did
        self._finding: dict[asyncio.AbstractEventLoop, asyncio.Event] = {}

    async def prepare(self) -> None:
        """Read the certificates, and make a client."""
        await self._clients.get()

    async def aclose(self) -> None:
        """Close the connections, of all event loops."""
        await self._clients.aclose()

    async def ask(self, messages: Messages, wish: Wish, *, blocking: bool) -> Reply:
        """Return the reply; see `Chat`."""
        problem: Fault | Unable
        try:
            client = await self._clients.get()
            content = json.dumps(self._body(messages, wish), ensure_ascii=False).encode("utf-8", "replace")
            response = await client.post(self.address, content=content, headers=self._sent_headers())
        except Exception as error:
            problem = of_exception(error, address=self.address)
        else:
            found = self._read(response, messages, wish)
            if isinstance(found, Reply):
                return found
            problem = found
        raise problem  # out of the except block: an exception of httpx's knows the request, and so the key

    async def context_tokens(self) -> int | None:
        """Return what was declared, else what the endpoint says of the model, asked once; OpenAI's own does not say."""
        if self._context is not None or self._openai:
            return self._context
        loop = asyncio.get_running_loop()
        before = self._failures
        while self._found is None:
            if loop in self._finding:
                await self._finding[loop].wait()
                if self._failures > before:
                    return None
                continue
            self._finding[loop] = asked = asyncio.Event()
            try:
                self._found = (await self._find_context(),)
            except (httpx.HTTPError, OSError, _NoReplyError):
                self._failures += 1
                if self._failures < _MODELS_TRIES:
                    return None  # it may still be loading
                self._found = (None,)
            except asyncio.CancelledError:
                self._left += 1
                if self._left >= _MODELS_TRIES:  # a deadline that it never meets
                    self._found = (None,)
                raise
            finally:  # where it was cancelled, who waits asks in its place
                del self._finding[loop]
                asked.set()
        return self._found[0]

    def _body(self, messages: Messages, wish: Wish) -> dict[str, object]:
        body: dict[str, object] = {"model": self.model, "messages": [dict(message) for message in messages]}
        if wish.temperature is not None:
            body["temperature"] = wish.temperature
        if wish.seed is not None:
            body["seed"] = wish.seed
        if wish.max_tokens is not None and not self._extra.keys() & _LIMITS:
            # OpenAI's reasoning models refuse the older name, and few others know the newer one.
            # https://platform.openai.com/docs/api-reference/chat/create#chat-create-max_tokens
            body["max_completion_tokens" if self._openai else "max_tokens"] = wish.max_tokens
        if wish.schema is not None:
            schema = {"name": "answer", "strict": True, "schema": wish.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        if wish.top_logprobs > 0:
            body |= {"logprobs": True, "top_logprobs": wish.top_logprobs}
        body |= self._extra
        if _wants_one_token(wish):
            body |= dict.fromkeys(self._extra.keys() & _LIMITS, wish.max_tokens)
        return body

    def _sent_headers(self) -> httpx.Headers:
        headers = httpx.Headers({"Content-Type": "application/json"})
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key.reveal()}"
        headers.update(self._headers)  # whatever the case of their names
        return headers

    def _secrets(self) -> list[str]:
        # A header's value is a secret whole, and so is each of its words: "Bearer ...".
        words = [word for value in self._headers.values() for word in [value, *value.split()] if len(word) > 7]
        return [*([] if self.key is None else [self.key.reveal()]), *words]

    def _read(self, response: httpx.Response, messages: Messages, wish: Wish) -> Reply | Fault | Unable:
        if not response.is_success:
            return self._refusal(response.status_code, response.headers, response.text, messages, wish)
        try:
            reply = json.loads(response.content)
        except (ValueError, RecursionError):
            return nonsense(f"the reply is no JSON: {len(response.content)} bytes of something else")
        if not isinstance(reply, Mapping):
            return nonsense(f"the reply is no object, but a {type(reply).__name__}")
        choices = reply.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], Mapping) else {}
        # OpenRouter and LM Studio say what went wrong under a status of 200: before there are choices, or within one.
        if wrong := reply.get("error") or choice.get("error"):
            code = wrong.get("code") if isinstance(wrong, Mapping) else None
            if isinstance(code, int) and 400 <= code < 600:
                return self._refusal(code, response.headers, json.dumps({"error": wrong}), messages, wish)
            fault = nonsense("the reply is an error under a status of 200")
            fault.said = self._quoted(json.dumps(wrong), messages)
            return fault
        try:
            return _reply(choice, reply.get("usage"))
        except _NoReplyError as error:
            return nonsense(str(error))

    def _quoted(self, body: str, messages: Messages) -> Quoted:
        return Quoted(body, self._secrets(), [message["content"] for message in messages])

    def _refusal(
        self, status: int, headers: Mapping[str, str], body: str, messages: Messages, wish: Wish
    ) -> Fault | Unable:
        """Return what a reply that refuses is: of a wish, or of anything else."""
        said = self._quoted(body, messages)
        fault = of_status(status, headers, said, permanent=status == 501, address=self.host)
        if status in (401, 403) and self.key is None and not self._headers:
            fault.words = f"HTTP {status}: no key was sent; pass api_key=, or set {self.key_variable}"
        if status == 404:
            fault.words = f"HTTP 404: is {self.model!r} the model's name there, and base_url right?"
        sent = [message["content"] for message in messages]
        own = self._extra.keys() - (_LIMITS if _wants_one_token(wish) else set())
        return refusal_of(fault, status, body, sent=sent, features=wish.features, extra=own)

    async def _find_context(self) -> int | None:
        """Return what the endpoint says of the model's context; None where it does not.

        Raises:
            OSError, httpx.HTTPError, _NoReplyError: It does not answer, or not now.
        """
        base = self.address.removesuffix(_PATH)
        try:
            async with asyncio.timeout(_MODELS_S):
                told = await self._get(f"{base}/models")
                entries = told if isinstance(told, list) else told.get("data") if isinstance(told, Mapping) else None
                entry = _entry(entries, self.model)
                for name in _CONTEXT:
                    if (tokens := _tokens(entry.get(name))) is not None:
                        return tokens
                if not isinstance(meta := entry.get("meta"), Mapping):
                    return None
                # llama.cpp: n_ctx is of a slot, as served; n_ctx_train is not, and older ones tell only that.
                if (tokens := _tokens(meta.get("n_ctx"))) is not None:
                    return tokens
                props: Any = await self._get(f"{re.sub(r'/v1$', '', base)}/props")
                return _tokens(props["default_generation_settings"]["n_ctx"])
        except (httpx.HTTPError, OSError, _NoReplyError):
            raise
        except Exception:  # of whatever kind: what it says nobody can read
            return None

    async def _get(self, url: str) -> object:
        client = await self._clients.get()
        response = await client.get(url, headers=self._sent_headers())
        if response.status_code in (408, 429) or response.is_server_error:
            raise _NoReplyError(f"HTTP {response.status_code}")
        return json.loads(response.content) if response.is_success else None

    def __repr__(self) -> str:
        return f"OpenAIChat({self.model!r}, address={self.address!r})"

    def __reduce__(self) -> tuple[object, ...]:
        if self._headers:
            raise TypeError(
                "headers may hold secrets, and a pickle holds none: pass the key by the environment instead"
            )
        return partial(type(self), **self._given), ()  # the key stays here: a copy reads the environment

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        make: Any = type(self)
        return cast("Self", make(**self._given, api_key=None if self.key is None else self.key.reveal()))


def _address(base_url: str) -> str:
    """Return where chats are completed: beneath the version in the base URL, wherever that is, else beneath "/v1"."""
    # "https://host/v1beta/openai" and "https://host/api/paas/v4" are bases, too.
    path = urlsplit(base_url).path
    whole_or_versioned = path.endswith(_PATH) or re.search(r"/v\d+\w*(/|$)", path)
    return joined(base_url, _PATH if whole_or_versioned else f"/v1{_PATH}")


def _checked_extra(extra: Mapping[str, object]) -> dict[str, object]:
    checked = checked_extra(extra)
    for name in ("messages", "stream"):
        if name in checked:
            raise ValueError(f"extra may not hold {name!r}: the prompt and the form of the reply are not the caller's")
    return checked


def _wants_one_token(wish: Wish) -> bool:
    """Return whether a first token is all that is wanted, whatever limit the caller's own fields have."""
    return wish.top_logprobs > 0 and wish.max_tokens == 1


class _NoReplyError(Exception):
    """A reply that is none, or of a shape that nobody can read."""


def _reply(choice: Mapping[str, Any], usage: object) -> Reply:
    message = choice.get("message")
    message = message if isinstance(message, Mapping) else {}
    text, refused = _text(message)
    used = usage if isinstance(usage, Mapping) else {}
    return Reply(
        text or _arguments(message) or refused,
        ended="refusal" if refused else ending_of(choice.get("finish_reason")),
        first_token=first_token(choice.get("logprobs")),
        input_tokens=_amount(used.get("prompt_tokens")),
        output_tokens=_amount(used.get("completion_tokens")),
    )


def _text(message: Mapping[str, Any]) -> tuple[str, str]:
    """Return what was said, and the words in which an answer was refused; "" for none."""
    content, refusal = message.get("content"), message.get("refusal")
    refused = [refusal] if isinstance(refusal, str) else []
    if content is None or isinstance(content, str):
        return content or "", "".join(refused)
    if not isinstance(content, list):
        raise _NoReplyError(f"the content of the reply is no text, but a {type(content).__name__}")
    parts = [part for part in content if isinstance(part, Mapping)]  # of other types there is what it thought
    said = [part["text"] for part in parts if part.get("type") == "text" and isinstance(part.get("text"), str)]
    refused += [part["refusal"] for part in parts if isinstance(part.get("refusal"), str)]
    return "".join(said), "".join(refused)


def _arguments(message: Mapping[str, Any]) -> str:
    """Return the arguments of the first call that the model makes; "" for none."""
    calls = message.get("tool_calls")
    call = calls[0] if isinstance(calls, list) and calls else None
    function = call.get("function") if isinstance(call, Mapping) else None
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if isinstance(arguments, Mapping):
        return json.dumps(arguments)
    return arguments if isinstance(arguments, str) else ""


def first_token(logprobs: object) -> dict[str, float] | None:
    """Return the alternatives of the first token, and it; None for none."""
    if not isinstance(logprobs, Mapping):
        return None
    found: dict[str, float] = {}
    first = _first(logprobs.get("content"))
    if first is not None:
        alternatives = first.get("top_logprobs")
        for one in [*(alternatives if isinstance(alternatives, list) else []), first]:
            if isinstance(one, Mapping):
                _keep(found, one.get("token"), one.get("logprob"))
    elif (older := _first(logprobs.get("top_logprobs"))) is not None:
        for token, value in older.items():
            _keep(found, token, value)
    return found or None


def _first(tokens: object) -> Mapping[str, Any] | None:
    first = tokens[0] if isinstance(tokens, list) and tokens else None
    return first if isinstance(first, Mapping) else None


def _keep(found: dict[str, float], token: object, value: object) -> None:
    if not isinstance(token, str) or isinstance(value, bool) or not isinstance(value, int | float):
        return
    # The token itself is among its alternatives, mostly; half a character has the same text as another half.
    if abs(value) < 1e9 and value > found.get(token, -math.inf):
        found[token] = float(value)


def _amount(told: object) -> int | None:
    amount = told_amount(told)
    return None if amount is None else int(amount)


def _entry(entries: object, model: str) -> Mapping[str, Any]:
    """Return what is said of a model, or of the only one there is."""
    known = [entry for entry in entries if isinstance(entry, Mapping)] if isinstance(entries, list) else []
    return next((entry for entry in known if entry.get("id") == model), known[0] if len(known) == 1 else {})


def _tokens(told: object) -> int | None:
    return told if isinstance(told, int) and not isinstance(told, bool) and 0 < told < 10**9 else None
