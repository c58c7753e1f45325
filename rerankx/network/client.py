"""HTTP clients: one per running event loop, with everything bounded that a server could make unbounded."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from contextvars import ContextVar
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Generic, NoReturn, TypeVar
from urllib.parse import urlsplit
from weakref import finalize

import httpx

from rerankx.engines.once import Once, renew_after_fork
from rerankx.interface import remaining_s

MAX_REPLY_BYTES = 16 * 2**20
"""Of a reply's body: 160 times what 1,000 results take."""
MAX_REQUEST_BYTES = 64 * 2**20
"""Of a request's body: above what any service that is known here takes."""

C = TypeVar("C")


class TooMuchError(Exception):
    """A reply over its bound."""


class TooLargeError(Exception):
    """A request over its bound, which is not sent."""


class Departure:
    """Whether a request has left: set by the client's hooks, where they are ours."""

    def __init__(self) -> None:
        self.known, self.left = False, False


departure: ContextVar[Departure | None] = ContextVar("rerankx_departure", default=None)


class Secret:
    """A string that does not show itself, and does not pickle."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return it."""
        return self._value

    def __repr__(self) -> str:
        return "<secret>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


class PerLoop(Generic[C]):
    """One client for each event loop that asks for one; it is closed when the loop is shut down, or nobody has this object.

    Connections belong to the loop in which they were made: a client that is used in two of them fails now and then.
    """

    def __init__(
        self, make: Callable[[], C], close: Callable[[C], Awaitable[None]], *, prepare: Callable[[], object]
    ) -> None:
        self._make, self._close, self._prepare = make, close, prepare
        self._prepared = False
        self._finalizer: finalize[..., PerLoop[C]] | None = None
        self.renew_lock()
        renew_after_fork(self)

    def renew_lock(self) -> None:
        """Begin anew, after a fork: the parent's clients are not ours to use or to close."""
        if self._finalizer is not None:
            self._finalizer.detach()
            _foreign.append(self._open)
        self._open: _Open[C] = {}
        # It also keeps the clients alive until then: one that is collected together with its sockets is not closed in order.
        self._finalizer = finalize(self, _close_soon, self._open)
        self._finalizer.atexit = False

    async def prepare(self) -> None:
        """Do what takes too long for an event loop: imports and certificates."""
        if not self._prepared:
            await asyncio.to_thread(self._prepare)
            self._prepared = True

    async def get(self) -> C:
        """Return the client of the running loop."""
        await self.prepare()
        loop = asyncio.get_running_loop()
        if loop not in self._open:
            for other in [other for other in list(self._open) if other.is_closed()]:
                self._open.pop(other, None)
            life = _life(self._make(), self._close, self._open, loop)
            # The loop closes asynchronous generators when it is shut down: that is how the client learns of it.
            self._open[loop] = (await anext(life), life)
        return self._open[loop][0]

    async def aclose(self) -> None:
        """Close all of them; who asks later gets a new one."""
        here = asyncio.get_running_loop()
        for loop, (_, life) in list(self._open.items()):
            if loop is here:
                await life.aclose()
            elif loop.is_running():
                with suppress(RuntimeError):  # it was closed in between
                    await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(life.aclose(), loop))
            else:
                self._open.pop(loop, None)


_foreign: list[object] = []  # the parent's clients, after a fork: collected, they would be closed
_Open = dict[asyncio.AbstractEventLoop, tuple[C, AsyncGenerator[C]]]


async def _life(
    client: C, close: Callable[[C], Awaitable[None]], all_open: _Open[C], loop: asyncio.AbstractEventLoop
) -> AsyncGenerator[C]:
    try:
        yield client
    finally:
        all_open.pop(loop, None)
        await close(client)


def _close_soon(all_open: _Open[C]) -> None:
    """Close the clients, each in its loop; from whatever thread collects garbage."""
    for loop, (_, life) in list(all_open.items()):
        with suppress(RuntimeError):  # the loop is closed, and so are they
            loop.call_soon_threadsafe(loop.create_task, life.aclose())


async def _sendable(request: httpx.Request) -> None:
    request.extensions = {**request.extensions, "trace": _leaving}
    if (going := departure.get()) is not None:
        going.known = True
    length = int(request.headers.get("content-length", 0))
    if length > MAX_REQUEST_BYTES:
        raise TooLargeError(
            f"the request has {length / 2**20:.0f} MiB; {MAX_REQUEST_BYTES // 2**20} are allowed: shorten the texts"
        )


async def _leaving(event: str, info: Mapping[str, Any]) -> None:
    if event != "http11.send_request_headers.started" or getattr(info.get("request"), "method", b"") == b"CONNECT":
        return
    # The loop may have stood still: then the connection is there before the clock has rung, and nothing is to be sent any more.
    left = remaining_s()
    if left is not None and left <= 0:
        raise TimeoutError
    if (going := departure.get()) is not None:
        going.left = True


async def _bounded(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "").lower() not in ("", "identity"):
        raise TooMuchError("the reply is compressed, which was not asked for, and may unpack to any size")
    if int(response.headers.get("content-length", 0)) > MAX_REPLY_BYTES:
        raise TooMuchError(_TOO_LONG)
    if isinstance(response.stream, httpx.AsyncByteStream):
        response.stream = _Bounded(response.stream)


_TOO_LONG = f"the reply has more than {MAX_REPLY_BYTES // 2**20} MiB"


class _Bounded(httpx.AsyncByteStream):
    """A body that ends with an error when it is too long."""

    def __init__(self, stream: httpx.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > MAX_REPLY_BYTES:
                raise TooMuchError(_TOO_LONG)
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()


_tls = Once(httpx.create_ssl_context)


def tls() -> ssl.SSLContext:
    """Return what certificates are verified with, the same for all clients; it takes tens of milliseconds to make."""
    return _tls.get()


def http_client(connections: int) -> httpx.AsyncClient:
    """Return a client that verifies certificates, follows no redirect, takes proxies from the environment and bounds both bodies.

    It has no time-out of its own: who uses it sets one clock for the whole request.
    """
    return httpx.AsyncClient(
        verify=tls(),
        follow_redirects=False,
        timeout=None,  # noqa: S113 - see above
        limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=30),
        headers={"Accept-Encoding": "identity", "User-Agent": "rerankx"},
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept
        event_hooks={"request": [_sendable], "response": [_bounded]},
    )


def checked_base_url(url: str, *, who: str) -> str:
    """Return the address without a slash at its end.

    Raises:
        TypeError: It is not a string.
        ValueError: It is no http or https address, or holds a password or a query, in which keys have no place.
    """
    if not isinstance(url, str):
        raise TypeError(f"base_url must be a string such as 'https://host/path', not {type(url).__name__}")
    url = url.strip()
    parts = urlsplit(url)
    if "@" in parts.netloc or "?" in url or "#" in url:
        raise ValueError(f"base_url of {who!r} holds a user name, a query or a fragment; pass a key as api_key=")
    try:
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and not url.split()[1:]
        parts.port  # noqa: B018 - raises
    except ValueError:  # of the port
        whole = False
    if not whole:  # it may be a key, and is not shown
        raise ValueError(f"base_url of {who!r} must begin with http:// or https:// and a host; a port is a number")
    return url.rstrip("/")


def joined(base_url: str, path: str) -> str:
    """Return the address of `path` below `base_url`, which may hold the beginning of it already, or all: "https://host/v1"."""
    steps = path.strip("/").split("/")
    for n in range(len(steps), 0, -1):
        beginning = "/" + "/".join(steps[:n])
        if urlsplit(base_url).path.endswith(beginning):
            return base_url.removesuffix(beginning) + path
    return base_url + path
