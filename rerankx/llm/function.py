"""`FunctionChat`: asks a model through a function of the caller's."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from functools import partial
from types import FunctionType, MethodType
from typing import Any, get_args

from rerankx.errors import ReplyError
from rerankx.llm.chat import Chat, Feature, Messages, Reply, Wish, in_thread
from rerankx.llm.failures import Raised, fault_of, outcome_of
from rerankx.llm.identity import identity
from rerankx.network.faults import Fault

Function = Callable[[list[dict[str, str]]], str | Awaitable[str]]
"""Takes messages, [{"role": "user", "content": ...}], and returns the reply's text."""


class FunctionChat(Chat):
    """Asks a function, which is told the messages and nothing else.

    A synchronous one is called in a thread of its own. An asynchronous one is awaited in the running event loop, and where the
    caller's own call is a synchronous one, in rerankx's, which runs in the background: a client that it keeps from call to
    call must not belong to another loop.

    Args:
        function: The function, or whatever is called like one. It gets messages of its own, and may change them.
    """

    lacks = frozenset(get_args(Feature))
    retries = True  # or not, as who wrote it likes

    def __init__(self, function: Function) -> None:
        try:
            inspect.signature(function).bind([])
        except TypeError:
            raise TypeError(
                f"llm= takes a function of one argument, the messages; {_name(function)} takes others"
            ) from None
        except ValueError:  # a builtin, which does not tell
            pass
        self._function = function
        self.model = _name(function)
        self.address = f"function:{self.model}"
        self.settings = _settings(function)

    async def ask(self, messages: Messages, wish: Wish, *, blocking: bool) -> Reply:
        """Return the reply, of which nobody says why it ended. Nothing of the wish is granted.

        Raises:
            Fault: The function raised, or returned no text.
        """
        own = [dict(message) for message in messages]
        text: object = await outcome_of(self._answer(own), blocking=blocking)
        if isinstance(text, Raised):
            raise fault_of(text.error, address=self.address, texts=[message["content"] for message in messages])
        if text is None:
            return Reply("")
        if not isinstance(text, str):
            words = f"{self.model} returned {type(text).__name__}, not a str: return the text of the reply"
            raise Fault(ReplyError, words, answered=True, billed=True)
        return Reply(text)

    async def _answer(self, messages: list[dict[str, str]]) -> object:
        if _is_async(self._function):
            answer: object = self._function(messages)
        else:
            answer = await in_thread(partial(self._function, messages))
        return await answer if inspect.isawaitable(answer) else answer


def _is_async(function: Function) -> bool:
    inner: Any = function
    while isinstance(inner, partial):
        inner = inner.func
    return inspect.iscoroutinefunction(inner) or inspect.iscoroutinefunction(type(inner).__call__)


def _settings(function: Function) -> str:
    """Return where a function can be imported from; of any other, and of what is made in a function, who it is."""
    if isinstance(function, FunctionType) and "<" not in function.__qualname__ and function.__closure__ is None:
        return f"{function.__module__}.{function.__qualname__}"
    if isinstance(function, MethodType):  # a new object each time
        return f"{identity(function.__self__)}.{function.__func__.__qualname__}"
    return identity(function)


def _name(function: object) -> str:
    while isinstance(function, partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) and name else type(function).__name__
