"""Strategies: how an order of many texts comes of orders of a few. Pure but for the question that they are given to ask.

A strategy is an asynchronous generator. It is told how many texts there are, best first as far as is known, and is given a
function that ranks a few of them; it yields the order of all after every step, so that whoever runs out of time or money has the
best so far. `sliding` is the one there is; setwise heapsort, tournaments and top-down partitioning fit the same signature.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

Rank = Callable[[Sequence[int]], Awaitable[Sequence[int]]]
"""Returns the text indices that it is given, best first. They come in the best order that is known."""


class Strategy(Protocol):
    """Turns one order into a better one."""

    def __call__(self, n: int, rank: Rank, *, top_n: int | None, window: int, step: int) -> AsyncIterator[list[int]]:
        """Yield the order of all n texts, better each time.

        Args:
            n: Number of texts; the first order is 0, 1, 2 ...
            rank: Ranks at most `window` of them.
            top_n: How many of the best must be right; None = what one pass gives.
            window: How many texts are ranked at a time, at least 2.
            step: How far a window moves, in [1, window).
        """
        ...


def windows(n: int, *, window: int, step: int, first: int = 0) -> list[tuple[int, int]]:
    """Return the windows of one pass as (start, end), from the back to the front.

    Two neighbours share `window - step` places: as many texts can rise from the very end to the front. The windows are
    1 + ceil((n - first - window) / step), or 1 where all fits into one.

    Args:
        n: Number of texts.
        window: The most texts in one.
        step: How far the next one begins before the last.
        first: The place that the front window begins with: those before it are settled.
    """
    found, end = [], n
    while end > first:
        start = max(end - window, first)
        found.append((start, end))
        if start == first:
            break
        end -= step
    return found


async def sliding(n: int, rank: Rank, *, top_n: int | None, window: int, step: int) -> AsyncIterator[list[int]]:
    """Yield the order after each window of a pass from the back to the front, and of as many passes as `top_n` needs.

    One pass settles the first `window - step` places, and all of them where one window holds all that is left.

    Source: Sun et al., EMNLP 2023, arXiv:2304.09542 (RankGPT).
    """
    order, settled = list(range(n)), 0
    while settled < n:
        spans = windows(n, window=window, step=step, first=settled)
        for start, end in spans:
            order[start:end] = await rank(tuple(order[start:end]))
            yield list(order)
        settled = n if len(spans) == 1 else settled + window - step
        if top_n is None or settled >= top_n:
            return
