"""`LangChainChat`: asks a model of LangChain's. The model keeps its callbacks, and what it does nests in the caller's trace."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

from rerankx.errors import BackendError, ReplyError
from rerankx.llm.chat import Chat, Feature, Messages, Reply, Unable, Wish, in_thread
from rerankx.llm.endings import ending_of
from rerankx.llm.failures import Raised, outcome_of, problem_of
from rerankx.llm.identity import identity
from rerankx.llm.loaded import is_a, loaded
from rerankx.llm.openai import first_token
from rerankx.network.faults import Fault

_CHAT_MODEL = ("langchain_core.language_models.chat_models", "BaseChatModel")
# Who made the model has set these, or has not wanted to.
_OWNERS: frozenset[Feature] = frozenset(("seed", "temperature"))
_ADDRESSES = ("openai_api_base", "anthropic_api_url", "base_url")


class LangChainChat(Chat):
    """Asks a chat model of LangChain's, or another runnable that takes messages.

    Of a chat model, structured output and log-probabilities are wished for where it may have them. Its temperature and the
    length of its replies are left as they are, but where one token is asked for. Any other runnable, a model that was bound,
    that retries or falls back, a plain LLM, is asked for text alone: what is to be configured was configured by who made it.

    Args:
        llm: The model. It returns a message or a string.
    """

    retries = True

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        self._is_chat = is_a(llm, *_CHAT_MODEL)
        model = _inner(llm)
        names = (getattr(model, name, None) for name in ("model_name", "model", "model_id", "deployment_name"))
        self.model = next((name for name in names if isinstance(name, str) and name), type(model).__name__)
        self.address = f"langchain:{type(llm).__name__}"
        self.host = _host(model)
        self.settings = _settings(llm)
        profile = getattr(model, "profile", None)
        self._profile: Mapping[str, object] = profile if isinstance(profile, Mapping) else {}
        if not self._is_chat:
            self.lacks = frozenset((*_OWNERS, "schema", "logprobs", "max_tokens"))
        elif self._profile.get("structured_output") is False or not _has_structured_output(llm):
            self.lacks = _OWNERS | {"schema"}
        else:
            self.lacks = _OWNERS

    async def context_tokens(self) -> int | None:
        """Return what the model's profile says; None where it has none."""
        tokens = self._profile.get("max_input_tokens")
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    async def ask(self, messages: Messages, wish: Wish, *, blocking: bool) -> Reply:
        """Return the reply; see `Chat`."""
        own = [dict(message) for message in messages]
        wish = self._granted(wish)
        options = _options(wish)
        outcome: object
        runnable = self._llm if wish.schema is None else self._structured(wish.schema)
        if runnable is None:
            raise Unable(_unsent("no structured output by JSON schema"), frozenset(("schema",)))
        if blocking:
            outcome = await outcome_of(in_thread(partial(runnable.invoke, own, **options)), blocking=True)
        else:
            outcome = await outcome_of(runnable.ainvoke(own, **options), blocking=False)
        if isinstance(outcome, Raised):
            ended = _ended_early(outcome.error)
            if ended is not None:
                return ended
            raise _unable_by_name(outcome.error, wish) or problem_of(
                outcome.error, messages, wish, address=self.host or self.address
            )
        if wish.schema is not None and isinstance(outcome, Mapping):
            outcome = outcome.get("raw")
        return _reply(outcome, tool_first=wish.schema is not None)

    def _granted(self, wish: Wish) -> Wish:
        """Return what is passed on of a wish."""
        if not self._is_chat:
            return Wish()
        return Wish(
            max_tokens=wish.max_tokens if wish.top_logprobs > 0 else None,
            schema=wish.schema,
            top_logprobs=wish.top_logprobs,
        )

    def _structured(self, schema: Mapping[str, object]) -> Any:
        """Return a runnable that returns {"raw": message, ...}; None where the model has none by JSON schema."""
        make = self._llm.with_structured_output
        options: dict[str, object] = {"method": "json_schema", "include_raw": True}
        if "strict" in inspect.signature(make).parameters:
            options["strict"] = True
        try:
            # Title and description become a function's name and description, which LangChain asks for.
            return make({"title": "answer", "description": "The answer.", **schema}, **options)
        except Exception:  # a method that it does not have, a package that is not there: nothing was sent
            return None

    def __repr__(self) -> str:
        return f"LangChainChat({self.model!r}, address={self.address!r})"


def _inner(llm: Any) -> Any:
    """Return the model in a runnable that wraps one: bound, or tried again."""
    for _ in range(8):
        wrapped = llm.__dict__.get("bound") if hasattr(llm, "__dict__") else None
        if wrapped is None:
            break
        llm = wrapped
    return llm


def _settings(llm: Any) -> str:
    """Return how a model was made, with the names of its secrets in their place; where it does not tell, who it is."""
    told = True

    def written(held: Any) -> object:
        nonlocal told
        found = held.to_json() if hasattr(held, "to_json") else None
        told = told and isinstance(found, Mapping) and found.get("type") != "not_implemented"
        return found

    try:
        settings = json.dumps(llm, sort_keys=True, default=written)
    except Exception:  # of what somebody put into it
        return identity(llm)
    return settings if told else identity(llm)


def _host(model: object) -> str:
    client = getattr(getattr(model, "root_client", None), "base_url", None)
    for address in (client, *(getattr(model, name, None) for name in _ADDRESSES)):
        try:
            host = urlsplit(str(address)).hostname if address is not None else None
        except ValueError:
            continue
        if host:
            return host
    return ""


def _has_structured_output(llm: object) -> bool:
    """Return whether its class has a way to structured output: one of its own, or LangChain's, by tools."""
    base = loaded(*_CHAT_MODEL)
    return any(
        getattr(type(llm), name, None) is not getattr(base, name, None)
        for name in ("with_structured_output", "bind_tools")
    )


def _options(wish: Wish) -> dict[str, object]:
    if wish.top_logprobs <= 0:
        return {}
    few = {} if wish.max_tokens is None else {"max_tokens": wish.max_tokens}
    return {"logprobs": True, "top_logprobs": wish.top_logprobs, **few}


def _unsent(words: str) -> Fault:
    return Fault(BackendError, words, sent=False)


_UNEXPECTED = re.compile(r"unexpected keyword argument '(\w+)'")


def _unable_by_name(error: BaseException, wish: Wish) -> Unable | None:
    """Return what a provider's own client says where it does not know an option: nothing was sent."""
    found = _UNEXPECTED.search(str(error)) if isinstance(error, TypeError) else None
    options: dict[str, Feature] = {"logprobs": "logprobs", "top_logprobs": "logprobs", "max_tokens": "max_tokens"}
    feature = options.get(found[1]) if found else None
    if found is None or not wish.features:
        return None
    return Unable(_unsent(f"the model takes no {found[1]}"), frozenset(() if feature is None else (feature,)))


def _ended_early(error: BaseException) -> Reply | None:
    """Return the reply that openai's client refuses to return: one that was cut off, or stopped, and was to match a schema."""
    ended = [
        ending
        for name, ending in (
            ("LengthFinishReasonError", "length"),
            ("ContentFilterFinishReasonError", "content_filter"),
        )
        if is_a(error, "openai", name)
    ]
    if not ended:
        return None
    completion = getattr(error, "completion", None)
    choices = getattr(completion, "choices", None) or [None]
    text = getattr(getattr(choices[0], "message", None), "content", None)
    usage = getattr(completion, "usage", None)
    return Reply(
        text if isinstance(text, str) else "",
        ended=ending_of(*ended),
        input_tokens=getattr(usage, "prompt_tokens", None),
        output_tokens=getattr(usage, "completion_tokens", None),
    )


def _reply(message: object, *, tool_first: bool) -> Reply:
    if isinstance(message, str):
        return Reply(message)
    content = getattr(message, "content", None)
    if not isinstance(content, str | list):
        words = f"the runnable returned {type(message).__name__}, not a message or a str"
        raise Fault(ReplyError, words, answered=True, billed=True)
    text, refused = _text(content)
    arguments = _arguments(message)
    more = _mapping(getattr(message, "additional_kwargs", None))
    refused = refused or (more["refusal"] if isinstance(more.get("refusal"), str) else "")
    told = _mapping(getattr(message, "response_metadata", None))
    usage = _mapping(getattr(message, "usage_metadata", None))
    incomplete = _mapping(told.get("incomplete_details")).get("reason")
    ended = ending_of(told.get("finish_reason"), told.get("stop_reason"), told.get("done_reason"), incomplete)
    return Reply(
        (arguments or text if tool_first else text or arguments) or refused,
        ended="refusal" if refused else ended,
        first_token=first_token(told.get("logprobs")),
        input_tokens=usage.get("input_tokens"),
        output_tokens=usage.get("output_tokens"),
    )


def _text(content: str | list[Any]) -> tuple[str, str]:
    """Return what was said, and the words in which an answer was refused; of other blocks there is what it thought."""
    if isinstance(content, str):
        return content, ""
    said, refused = "", ""
    for block in content:
        if isinstance(block, str):
            said += block
        elif isinstance(block, Mapping):
            text, refusal = block.get("text"), block.get("refusal")
            said += text if isinstance(text, str) and block.get("type", "text") in ("text", "output_text") else ""
            refused += refusal if isinstance(refusal, str) else ""
    return said, refused


def _arguments(message: object) -> str:
    """Return the arguments of the first call that the model makes, those that are no JSON as they are; "" for none."""
    for name in ("tool_calls", "invalid_tool_calls"):
        calls = getattr(message, name, None)
        call = calls[0] if isinstance(calls, list) and calls else None
        arguments = call.get("args") if isinstance(call, Mapping) else None
        if isinstance(arguments, Mapping):
            return json.dumps(arguments, ensure_ascii=False, default=str)
        if isinstance(arguments, str):
            return arguments
    return ""


def _mapping(thing: object) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", thing) if isinstance(thing, Mapping) else {}
