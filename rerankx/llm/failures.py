"""What the libraries of others raise, as faults: known by its class or its HTTP status. Its own words may hold a key."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx

from rerankx.errors import AuthenticationError, BackendError, DeadlineError, RateLimitError
from rerankx.llm.chat import Messages, Unable, Wish
from rerankx.llm.loaded import is_a
from rerankx.llm.refusals import blamed_in, refusal_of
from rerankx.network.faults import Fault, Quoted, of_exception, of_status

T = TypeVar("T")

_DEEP = 8  # causes of causes
_SECRET = ("auth", "key", "token", "secret", "cookie")  # in the names of headers
# Of classes that have neither a status nor a cause which says as much: what such an exception is, and whether to try again.
_KNOWN: tuple[tuple[str, str, type[BackendError], str], ...] = (
    ("langchain_core.exceptions", "ModelTimeoutError", DeadlineError, "no answer in time"),
    ("langchain_core.exceptions", "ModelConnectionError", BackendError, "the connection broke"),
    ("langchain_core.exceptions", "ModelRateLimitError", RateLimitError, "too many requests"),
    ("langchain_core.exceptions", "ModelAuthenticationError", AuthenticationError, "the key is wrong"),
    (
        "langchain_core.exceptions",
        "ModelPermissionDeniedError",
        AuthenticationError,
        "the key is not allowed this model",
    ),
    ("requests.exceptions", "Timeout", DeadlineError, "no answer in time"),
    ("requests.exceptions", "ConnectionError", BackendError, "the connection broke"),
    ("builtins", "ConnectionError", BackendError, "the connection broke"),
)


@dataclass(frozen=True, slots=True)
class Raised:
    """What was raised where an answer was waited for."""

    error: BaseException


async def outcome_of(call: Awaitable[T], *, blocking: bool) -> T | Raised:
    """Return what a model answers, or what was raised: in hand, so that what is raised instead has it in no context.

    What cancels whoever waits for it is raised as it is.

    Args:
        call: The call.
        blocking: Whether the running loop is rerankx's own. Others wait for that one, and an exit must not end it.
    """
    try:
        return await call
    except Exception as error:
        return Raised(error)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        return Raised(error)  # nobody has cancelled this one: a part of the model's own was
    except (SystemExit, KeyboardInterrupt) as error:
        if not blocking:
            raise
        return Raised(error)


def fault_of(error: BaseException, *, address: str, texts: Sequence[str] = ()) -> Fault:
    """Return the fault that an exception is of a library that asks a model.

    Args:
        error: The exception, which is not kept.
        address: What was asked, for a message.
        texts: What was sent: nothing of it is quoted.
    """
    return _recognised(error, address, texts) or _unknown(error)


def _recognised(error: BaseException, address: str, texts: Sequence[str]) -> Fault | None:
    causes = list(_causes(error))
    for kind_of in (_by_reply, _by_kind):  # a cause may know more than what wraps it
        for one in causes:
            found = kind_of(one, address, texts)
            if found is not None:
                return found
    if any(isinstance(one, RuntimeError) and "event loop" in str(one).lower() for one in causes):
        return Fault(
            BackendError, "the model's client belongs to another event loop: keep to one, or call synchronously"
        )
    return None


def _unknown(error: BaseException) -> Fault:
    return Fault(BackendError, f"the model raised {type(error).__name__}{_where(error)}", billed=True)


def _where(error: BaseException) -> str:
    """Return the line that raised it, which may be the caller's own; of what it says nothing is told."""
    frames = traceback.extract_tb(error.__traceback__)
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an exception tells, of a reply that is none; None where it tells none."""
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):  # boto's
        told = response.get("ResponseMetadata")
        status = told.get("HTTPStatusCode") if isinstance(told, Mapping) else None
        return int(status) if isinstance(status, int) and 300 <= status < 600 else None
    places = ((error, "status_code"), (response, "status_code"), (error, "status"), (error, "code"))
    for place, name in places:
        status = getattr(place, name, None)
        if isinstance(status, int) and not isinstance(status, bool) and 300 <= status < 600:
            return int(status)
    return None


def body_of(error: BaseException) -> str:
    """Return the body of such a reply, "" where it is not told; it may quote anything."""
    body = getattr(error, "body", None)
    response = getattr(error, "response", None)
    if body is None and isinstance(response, Mapping):
        body = response.get("Error")
    if body is None:
        with suppress(Exception):  # one that was not read, or is closed
            body = getattr(getattr(error, "response", None), "text", None)
    if isinstance(body, bytes):
        return body.decode(errors="replace")
    if isinstance(body, str):
        return body
    if not isinstance(body, list | Mapping):
        return ""
    with suppress(TypeError, ValueError, RecursionError):
        return json.dumps(body, ensure_ascii=False, default=str)
    return ""


def _causes(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(_DEEP):
        if one is None:
            return
        yield one
        one = one.__cause__


def _by_reply(error: BaseException, address: str, texts: Sequence[str]) -> Fault | None:
    """Return the fault that is known from a reply, or from the connection on which there was none."""
    if isinstance(error, Fault):
        return error
    if isinstance(error, BackendError):
        return Fault(type(error), str(error), billed=True)
    status = status_of(error)
    if status is not None:
        said = Quoted(body_of(error), _secrets(error), texts)
        return of_status(status, _headers(error), said, permanent=status == 501, address=address)
    if is_a(error, "httpx2", "HTTPError"):  # of the same names, and of no kinship
        twin = getattr(httpx, type(error).__name__, httpx.TransportError)
        return of_exception(twin(str(error)), address=address)
    return of_exception(error, address=address) if isinstance(error, httpx.HTTPError | TimeoutError) else None


def _by_kind(error: BaseException, address: str, texts: Sequence[str]) -> Fault | None:
    """Return the fault that an exception's class alone tells."""
    for module, name, kind, words in _KNOWN:
        if is_a(error, module, name):
            waited, again = kind is DeadlineError, kind is not AuthenticationError
            words = f"{words} ({type(error).__name__})"
            return Fault(kind, words, again=again, timed_out=waited, sick=again, billed=waited or kind is BackendError)
    return None


def _headers(error: BaseException) -> dict[str, str]:
    for holder in (getattr(error, "response", None), error):
        with suppress(Exception):
            headers = getattr(holder, "headers", None)
            if headers is not None:
                return {str(name).lower(): str(value) for name, value in headers.items()}
    return {}


def _secrets(error: BaseException) -> list[str]:
    """Return the keys that the request had, as far as the exception knows it: they are blotted where the reply quotes them."""
    for holder in (error, getattr(error, "response", None)):
        with suppress(Exception):
            headers = getattr(getattr(holder, "request", None), "headers", None)
            if headers is not None:
                values = [
                    str(value) for name, value in headers.items() if any(word in str(name).lower() for word in _SECRET)
                ]
                return [part for value in values for part in value.split() if len(part) > 5]
    return []


def problem_of(error: BaseException, messages: Messages, wish: Wish, *, address: str) -> Fault | Unable:
    """Return what an exception is of a library that asks a model: a refusal of a wish, or anything else.

    Args:
        error: The exception, which is not kept.
        messages: What was asked.
        wish: What was wished, as far as it was passed on.
        address: What was asked, for a message.
    """
    texts = [message["content"] for message in messages]
    fault = _recognised(error, address, texts)
    if fault is None:
        for one in _causes(error):
            blamed = blamed_in(str(one), sent=texts, features=wish.features)
            if blamed:
                return Unable(_unknown(error), blamed)
        return _unknown(error)
    for one in _causes(error):
        status = status_of(one)
        if status is not None:
            return refusal_of(fault, status, body_of(one), sent=texts, features=wish.features)
    return fault
