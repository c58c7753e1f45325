"""How a wrapper asks its backends: said once, as a generator, and run in a thread or in an event loop."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any, NamedTuple

from rerankx.compose.steps import with_usage
from rerankx.errors import BackendError
from rerankx.interface import Backend, Scores, Usage, bounded, deadline


class Ask(NamedTuple):
    """One question to one backend."""

    backend: Backend
    texts: Sequence[str]
    top_n: int | None = None
    seconds: float | None = None
    """A bound of its own; None for no other than the caller's."""


Asking = Generator[Sequence[Ask], list[Scores], Scores]
"""Yields questions that may be asked side by side, is sent the answers, and returns what it makes of them. What a backend raises,
the first of several, is raised where it yields."""


def asked(query: str, asking: Asking) -> Scores:
    """Return what becomes of the answers; each question of several has a thread of its own."""
    try:
        asks = next(asking)
        while True:
            try:
                answers = _answers(query, asks)
            except Exception as error:
                asks = asking.throw(error)
            else:
                asks = asking.send(answers)
    except StopIteration as end:
        return _returned(end)


async def aasked(query: str, asking: Asking) -> Scores:
    """Return what `asked` returns, without blocking the event loop."""
    try:
        asks = next(asking)
        while True:
            try:
                answers = await _together([_aanswer(query, ask) for ask in asks])
            except Exception as error:
                asks = asking.throw(error)
            else:
                asks = asking.send(answers)
    except StopIteration as end:
        return _returned(end)


def _returned(end: StopIteration) -> Scores:
    scores: Scores = end.value
    return scores


def _answer(query: str, ask: Ask) -> Scores:
    with deadline(ask.seconds):
        return ask.backend.score(query, ask.texts, top_n=ask.top_n)


async def _aanswer(query: str, ask: Ask) -> Scores:
    with deadline(ask.seconds):
        return await ask.backend.ascore(query, ask.texts, top_n=ask.top_n)


def _answers(query: str, asks: Sequence[Ask]) -> list[Scores]:
    first, *others = asks
    if not others:
        return [_answer(query, first)]
    errors: list[BaseException] = []
    with bounded(math.inf) as bound, ThreadPoolExecutor(len(others)) as pool:

        def outcome(ask: Ask) -> Scores | Exception:
            try:
                return _answer(query, ask)
            except Exception as error:
                errors.append(error)
                bound.end = -math.inf  # so that the others begin nothing more
                return error

        waiting = [pool.submit(copy_context().run, outcome, ask) for ask in others]
        outcomes = [outcome(first), *(one.result() for one in waiting)]
    return _all_answered(outcomes, errors)


async def _together(parts: Sequence[Coroutine[Any, Any, Scores]]) -> list[Scores]:
    """Return what they return; the first that fails ends the others, and is raised."""
    if len(parts) == 1:
        return [await parts[0]]
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
        failed = [task for task in done if task.cancelled() or task.exception() is not None]
    finally:
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    return _all_answered(outcomes, [outcomes[tasks.index(task)] for task in failed])


def _all_answered(outcomes: Sequence[Scores | BaseException], errors: Sequence[Scores | BaseException]) -> list[Scores]:
    """Return the answers; raise the first of the errors, with what the others have spent.

    Args:
        outcomes: Of every question; some may have been broken off.
        errors: Those because of which they were, the first in time first.
    """
    error = next((one for one in errors if isinstance(one, BaseException)), None)
    if error is None:
        return [outcome for outcome in outcomes if isinstance(outcome, Scores)]
    if not isinstance(error, BackendError):
        raise error
    others = [one.usage for one in outcomes if isinstance(one, Scores | BackendError) and one is not error]
    raise with_usage(error, sum((usage for usage in others if usage is not None), Usage())) from error
