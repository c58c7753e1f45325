"""`LlamaIndexChat`: asks an LLM of LlamaIndex's. Its events and its spans are those of any other chat, within the caller's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from inspect import unwrap
from typing import Any, get_args
from urllib.parse import urlsplit

from rerankx.errors import ReplyError
from rerankx.llm.chat import Chat, Feature, Messages, Reply, Wish, in_thread
from rerankx.llm.endings import ending_of
from rerankx.llm.failures import Raised, outcome_of, problem_of
from rerankx.llm.identity import identity
from rerankx.llm.loaded import is_a, loaded
from rerankx.network.faults import Fault

# Who made the LLM has set these, or has not wanted to.
_OWNERS: frozenset[Feature] = frozenset(("seed", "temperature"))


class LlamaIndexChat(Chat):
    """Asks an LLM of LlamaIndex's, by `chat` and `achat`, which one that only completes has as well.

    One of OpenAI's family is asked for structured output and log-probabilities, too; any other for text alone. Its temperature
    and the length of its replies are left as they are, but where one token is asked for.

    Args:
        llm: The LLM.
    """

    retries = True

    def __init__(self, llm: Any) -> None:
        self._llm = llm
        told = _metadata(llm)
        names = (getattr(told, "model_name", None), getattr(llm, "model", None))
        self.model = next(
            (name for name in names if isinstance(name, str) and name not in ("", "unknown")), type(llm).__name__
        )
        self.address = f"llamaindex:{type(llm).__name__}"
        self.host = _host(llm)
        self.settings = _settings(llm)
        # Others take options of their own: what they do with these nobody knows.
        self._takes_options = is_a(llm, "llama_index.llms.openai.base", "OpenAI") and bool(
            getattr(told, "is_chat_model", False)
        )
        self.lacks = _OWNERS if self._takes_options else frozenset(get_args(Feature))

    async def context_tokens(self) -> int | None:
        """Return what the LLM's metadata says; None where it has none."""
        tokens = getattr(_metadata(self._llm), "context_window", None)
        return tokens if isinstance(tokens, int) and tokens > 0 else None

    async def ask(self, messages: Messages, wish: Wish, *, blocking: bool) -> Reply:
        """Return the reply; see `Chat`."""
        message_of: Any = loaded("llama_index.core.base.llms.types", "ChatMessage")
        own = [message_of(role=message["role"], content=message["content"]) for message in messages]
        wish = self._granted(wish)
        options = _options(wish)
        outcome: object
        if blocking or self._only_blocks():
            outcome = await outcome_of(in_thread(partial(self._llm.chat, own, **options)), blocking=blocking)
        else:
            outcome = await outcome_of(self._llm.achat(own, **options), blocking=False)
        if isinstance(outcome, Raised):
            raise problem_of(outcome.error, messages, wish, address=self.host or self.address)
        return _reply(outcome)

    def _granted(self, wish: Wish) -> Wish:
        """Return what is passed on of a wish."""
        if not self._takes_options:
            return Wish()
        few = wish.max_tokens if wish.top_logprobs > 0 else None
        return Wish(max_tokens=few, schema=wish.schema, top_logprobs=wish.top_logprobs)

    def _only_blocks(self) -> bool:
        """Return whether its asynchronous methods are those of `CustomLLM`, which call the synchronous ones in the loop."""
        custom, kind = loaded("llama_index.core.llms.custom", "CustomLLM"), type(self._llm)
        names = ("achat", "acomplete")  # of which each class has wrappers of its own
        return custom is not None and all(
            unwrap(getattr(kind, name)) is unwrap(getattr(custom, name)) for name in names
        )

    def __repr__(self) -> str:
        return f"LlamaIndexChat({self.model!r}, address={self.address!r})"


def _metadata(llm: Any) -> object:
    try:
        return llm.metadata
    except Exception:  # OpenAI's class raises for a model that it does not know
        return None


def _settings(llm: Any) -> str:
    """Return how an LLM was made, but for its key; of a class that is not LlamaIndex's, which may hold more, who it is."""
    if not type(llm).__module__.startswith("llama_index."):
        return identity(llm)
    try:
        told = {name: value for name, value in llm.to_dict().items() if name != "api_key"}
        return json.dumps(told, sort_keys=True)
    except Exception:  # of what somebody put into it
        return identity(llm)


def _host(llm: object) -> str:
    address = getattr(llm, "api_base", None) or getattr(llm, "base_url", None)
    try:
        return (urlsplit(address).hostname or "") if isinstance(address, str) else ""
    except ValueError:
        return ""


def _options(wish: Wish) -> dict[str, object]:
    options: dict[str, object] = {}
    if wish.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": dict(wish.schema)}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    if wish.top_logprobs > 0:
        options |= {"logprobs": True, "top_logprobs": wish.top_logprobs}
    if wish.max_tokens is not None:
        options["max_tokens"] = wish.max_tokens
    return options


def _reply(response: object) -> Reply:
    message = getattr(response, "message", None)
    if message is None:
        words = f"the LLM returned {type(response).__name__}, not a ChatResponse"
        raise Fault(ReplyError, words, answered=True, billed=True)
    raw = getattr(response, "raw", None)
    choice = _first(_field(raw, "choices"))
    usage = _field(raw, "usage")
    text, refusal = getattr(message, "content", None), _field(_field(choice, "message"), "refusal")
    refused = refusal if isinstance(refusal, str) else ""
    reasons = (_field(choice, "finish_reason"), _field(raw, "stop_reason"), _field(raw, "done_reason"))
    return Reply(
        (text if isinstance(text, str) else "") or refused,
        ended="refusal" if refused else ending_of(*reasons),
        first_token=_first_token(getattr(response, "logprobs", None)),
        input_tokens=_amount(usage, "prompt_tokens", "input_tokens"),
        output_tokens=_amount(usage, "completion_tokens", "output_tokens"),
    )


def _first_token(logprobs: object) -> dict[str, float] | None:
    alternatives = _first(logprobs)
    if not isinstance(alternatives, list):
        return None
    return {one.token: float(one.logprob) for one in reversed(alternatives)} or None


def _field(thing: object, name: str) -> object:
    return thing.get(name) if isinstance(thing, Mapping) else getattr(thing, name, None)


def _first(things: object) -> object:
    return things[0] if isinstance(things, list | tuple) and things else None


def _amount(usage: object, *names: str) -> int | None:
    for name in names:
        amount = _field(usage, name)
        if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0:
            return amount
    return None
