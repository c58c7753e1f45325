"""Synchronous calls of asynchronous code: on one event loop, in one thread, for the whole process.

So there is one path to a server, and what bounds it (deadlines, cancellation) is exact on both sides. It also works where an
event loop is running already, as in a notebook.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class _Background:
    """A thread that runs an event loop until the process ends."""

    def __init__(self) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self.thread = threading.Thread(target=_serve, args=[started], name="rerankx", daemon=True)
        self.thread.start()
        self.loop, self._stopped = started.result()

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._stopped.set)
        self.thread.join(timeout=5)


def _serve(started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    # As asyncio.run does, which would also start a thread at its end: Python 3.12 forbids that while a process exits.
    try:
        loop = asyncio.new_event_loop()
    except BaseException as error:
        started.set_exception(error)
        return
    try:
        stopped = asyncio.Event()
        loop.call_soon(started.set_result, (loop, stopped))
        loop.run_until_complete(stopped.wait())
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        loop.run_until_complete(_ended(tasks))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def _ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


_lock = threading.Lock()
_background: _Background | None = None


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return what `coroutine` returns, from any thread; it sees the caller's context, and so its deadline.

    Raises:
        RuntimeError: Called by what runs in it, which would wait for itself; or something else that ran in it has ended it.
    """
    try:
        background = _running()
        if threading.current_thread() is background.thread:
            raise RuntimeError(
                "a synchronous call within rerankx's own event loop waits for itself; await the other one"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, background.loop)
    except BaseException:
        coroutine.close()
        raise
    try:
        while True:
            try:
                return future.result(timeout=1.0)
            except TimeoutError:  # in steps: a wait without end may miss an interrupt, and on Windows does
                runs = background.thread.is_alive()
                if future.done():
                    return future.result()
                if not runs:  # SystemExit and KeyboardInterrupt go through an event loop, whoever raises them
                    raise RuntimeError(
                        "rerankx's event loop was ended by an exit that something raised in it"
                    ) from None
    except BaseException:
        future.cancel()  # after an interrupt; otherwise it is done, and nothing happens
        raise


def _running() -> _Background:
    global _background
    with _lock:
        if _background is None or not _background.thread.is_alive():
            _background = _Background()
        return _background


def _stop() -> None:
    global _background
    background, _background = _background, None
    if background is not None:
        background.stop()


def _after_fork() -> None:
    global _background, _lock
    _background, _lock = None, threading.Lock()  # threads do not survive a fork


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
