"""What a bridge to a chat model is: one question, one reply, and what of the wishes was not to be had."""

from __future__ import annotations

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Literal, TypeVar

from rerankx.network.client import Secret
from rerankx.network.faults import Fault

T = TypeVar("T")

Messages = Sequence[Mapping[str, str]]
"""Of {"role": "user", "content": ...}, as every chat API has them."""

Feature = Literal["seed", "logprobs", "schema", "temperature", "max_tokens"]
"""What may be wished for, in the order in which it is done without where a model refuses a request and does not say why."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is asked of a reply, beyond the messages. None or 0: not asked, and then nothing of it is sent."""

    max_tokens: int | None = None
    """Of the reply, thinking included."""
    temperature: float | None = None
    seed: int | None = None
    schema: Mapping[str, object] | None = None
    """The JSON schema, an object's, that the reply must match."""
    top_logprobs: int = 0
    """How many alternatives of the first token, with their log-probabilities."""

    @property
    def features(self) -> frozenset[Feature]:
        """Return which of them are asked for."""
        asked: dict[Feature, bool] = {
            "seed": self.seed is not None,
            "logprobs": self.top_logprobs > 0,
            "schema": self.schema is not None,
            "temperature": self.temperature is not None,
            "max_tokens": self.max_tokens is not None,
        }
        return frozenset(feature for feature, wanted in asked.items() if wanted)


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said."""

    text: str
    """"" where it said nothing. What a schema or a tool call filled in is JSON here."""
    ended: Literal["stop", "length", "filter", "refusal"] = "stop"
    """Why it ended: by itself or not told, cut off at a limit, stopped by a content filter, refused in a field of its own."""
    first_token: Mapping[str, float] | None = None
    """Alternatives of the first token of the answer, each with its natural log-probability; None where there are none."""
    input_tokens: int | None = None
    """As billed; None where it is not told."""
    output_tokens: int | None = None


class Unable(Exception):
    """A request was refused for what was wished, not for what was asked.

    Args:
        fault: What it is where nothing can be done without.
        features: Which wishes are to blame, as far as the refusal tells; empty where it does not.
    """

    def __init__(self, fault: Fault, features: frozenset[Feature] = frozenset()) -> None:
        super().__init__(fault.words)
        self.fault, self.features = fault, features


class Chat(ABC):
    """Asks one model. Safe under threads and in several event loops at a time; pickles where what it holds does."""

    model: str
    """As its provider names it."""
    address: str
    """Where it is: a URL, or "langchain:ChatOpenAI". Nothing secret."""
    settings: str = ""
    """What else of it changes an answer, as far as it tells: for a fingerprint's digest, and never shown."""
    host: str = ""
    """Who serves it, as in a list of prices: "api.openai.com". "" where nobody says."""
    key: Secret | None = None
    retries: bool = False
    """Whether it tries again by itself, so that others need not."""
    lacks: frozenset[Feature] = frozenset()
    """What it is known, or declared, not to have: it is never asked for that."""

    async def prepare(self) -> None:  # noqa: B027 - most have nothing to prepare
        """Do what takes too long for an event loop: imports, certificates."""

    async def context_tokens(self) -> int | None:
        """Return how many tokens prompt and reply may have together, as the model or its server says; None if neither does."""
        return None

    @abstractmethod
    async def ask(self, messages: Messages, wish: Wish, *, blocking: bool) -> Reply:
        """Return the reply.

        Args:
            messages: Of roles "system" and "user".
            wish: What it may hold is granted or raises `Unable`; a model that ignores part of it just replies.
            blocking: Whether the caller's own call is a synchronous one. What has a synchronous method and an asynchronous one is
                then asked by the former, in a thread (`in_thread`): its connections may belong to another event loop.

        Raises:
            Unable: It does not take part of the wish.
            Fault: No reply, in whatever way; nothing else is raised, but what cancels.
        """

    async def aclose(self) -> None:  # noqa: B027
        """Close the connections that are its own."""


async def in_thread(function: Callable[[], T]) -> T:
    """Return what `function` returns, called in a thread of its own that sees the caller's context.

    Who is cancelled leaves the thread behind, which no exit of the process waits for: a pool's threads are waited for.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    context = copy_context()

    def tell(result: T | None, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)  # type: ignore[arg-type] # of T, where there is no error
        else:
            done.set_exception(error)

    def work() -> None:
        result: T | None = None
        error: BaseException | None = None
        try:
            result = context.run(function)
        except StopIteration:  # which no future takes
            error = RuntimeError("StopIteration was raised")
        except BaseException as raised:
            error = raised
        try:
            loop.call_soon_threadsafe(tell, result, error)
        except RuntimeError:  # the loop is closed: nobody waits
            return

    threading.Thread(target=work, name="rerankx-llm", daemon=True).start()
    return await done
