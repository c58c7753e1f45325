"""How a wrapper asks its backends: said once, as a generator, and run in a thread or in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import Any, NamedTuple

from rerankx.compose.steps import with_usage
from rerankx.errors import BackendError
from rerankx.interface import Backend, Scores, Usage, deadline


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
    with ThreadPoolExecutor(len(others)) as pool:
        waiting = [pool.submit(copy_context().run, _answer, query, ask) for ask in others]
        outcomes: list[Scores | Exception] = [_outcome(partial(_answer, query, first))]
        outcomes += [_outcome(one.result) for one in waiting]
    return _all_answered(outcomes)


def _outcome(answer: Callable[[], Scores]) -> Scores | Exception:
    try:
        return answer()
    except Exception as error:
        return error


def _all_answered(outcomes: Sequence[Scores | BaseException | None]) -> list[Scores]:
    """Return the answers; raise the first error, with what the others have spent. None is one that was broken off."""
    answers = [outcome for outcome in outcomes if isinstance(outcome, Scores)]
    error = next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)
    if error is None:
        return answers
    if not isinstance(error, BackendError):
        raise error
    others = [one.usage for one in outcomes if isinstance(one, Scores | BackendError) and one is not error]
    raise with_usage(error, sum((usage for usage in others if usage is not None), Usage())) from error


async def _together(parts: Sequence[Coroutine[Any, Any, Scores]]) -> list[Scores]:
    """Return what they return; the first that fails ends the others, and is raised."""
    if len(parts) == 1:
        return [await parts[0]]
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for task in tasks:
            task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
    return _all_answered([None if isinstance(one, asyncio.CancelledError) else one for one in ended])
