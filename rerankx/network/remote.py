"""`Remote`: a backend whose scores come from a service. A subclass says how one request is sent and its reply read."""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rerankx.catalogue.endpoints import Billing
from rerankx.catalogue.prices import PRICES
from rerankx.errors import BackendError
from rerankx.interface import Scores, Usage, deadline
from rerankx.network import loop
from rerankx.network.client import PerLoop, Secret
from rerankx.network.faults import nonsense
from rerankx.network.meter import Meter, checked_price
from rerankx.network.service import Service

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a service says of n texts."""

    values: list[float | None]
    """In the order of the texts; None where it left one out."""
    order: list[int]
    """Text indices, as the service ordered them."""
    details: list[Mapping[str, object] | None] | None = None
    units: float | None = None
    """Search units billed; None where it does not say."""
    tokens: float | None = None
    """Tokens billed; None where it does not say."""


class Remote(Service):
    """Asks a service, under limits of time, number and money. A subclass sets `_clients`.

    Args:
        given: What the subclass was constructed with, but the key: the options that all have in common, and what a copy needs.
        key: The key, if there is one.
        identity: What tells the account from others: it is not kept.
        address: Where requests go.
        billing: What the service charges for.
        max_documents: How many texts one request may hold; None = all.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of its range.
    """

    _clients: PerLoop[Any]

    def __init__(
        self,
        given: Mapping[str, Any],
        *,
        key: Secret | None,
        identity: str,
        address: str,
        billing: Billing,
        max_documents: int | None,
    ) -> None:
        price = given["price"]
        known = PRICES.get(f"{self.name}:{self.model}") if price is None else checked_price(price)
        self._meter, self._max_documents = Meter(billing, known), max_documents
        super().__init__(given, key=key, identity=identity, address=address, price=known, free=billing == "nothing")

    def describe(self) -> dict[str, object]:
        """Return where it asks, the state of its circuit, its price and what it has spent: nothing secret."""
        return {**super().describe(), "max_documents": self._max_documents}

    async def aclose(self) -> None:
        """Close the connections, of all event loops."""
        await self._clients.aclose()

    @abstractmethod
    async def _ask(self, query: str, texts: Sequence[str]) -> Answer:
        """Return the answer to one request.

        Raises:
            Fault: There is none; nothing else is raised.
        """

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return loop.run(self._ascore(query, texts, top_n=top_n))

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        query, texts = _encodable(query), [_encodable(text) for text in texts]
        size = self._max_documents if self.pointwise and self._max_documents else len(texts)
        parts = [texts[i : i + size] for i in range(0, len(texts), size)]
        with deadline(self._deadline_s):
            await self._prepared()
            answered = await _all([self._answered(query, part) for part in parts])
        values: list[float | None] = []
        order: list[int] = []
        details: list[Mapping[str, object] | None] = []
        for answer, _ in answered:
            order += [len(values) + i for i in answer.order]
            details += answer.details or [None] * len(answer.values)
            values += answer.values
        return Scores(
            values,
            order=order,
            details=details if any(detail is not None for detail in details) else None,
            usage=sum((used for _, used in answered), Usage()),
            degraded="incomplete" if None in values else None,
        )

    async def _prepared(self) -> None:
        await self._ready(self._clients.get)

    async def _answered(self, query: str, texts: Sequence[str]) -> tuple[Answer, Usage]:
        return await self._policy.call(
            lambda: self._ask(query, texts),
            estimate=self._meter.estimate(query, texts),
            used=lambda answer: self._meter.used(query, texts, units=answer.units, tokens=answer.tokens),
        )


def checked_results(results: Sequence[tuple[object, object]], n: int) -> tuple[list[float | None], list[int]]:
    """Return scores in the order of the texts, and the indices in the order of the results.

    Args:
        results: Index and score of each.
        n: How many texts were sent.

    Raises:
        Fault: An index that is foreign or comes twice, or a score that is no finite number.
    """
    values: list[float | None] = [None] * n
    order: list[int] = []
    for index, score in results:
        if isinstance(index, bool) or not isinstance(index, int):
            raise nonsense(f"a result has {_shown(index)} for an index; expected a whole number")
        if not 0 <= index < n:
            raise nonsense(f"a result is about document {index if abs(index) < 1e9 else 'number very many'} of {n}")
        if values[index] is not None:
            raise nonsense(f"document {index} has two results")
        if isinstance(score, bool) or not isinstance(score, int | float):
            raise nonsense(f"document {index} has {_shown(score)} for a score; expected a number")
        try:
            values[index] = float(score)
        except OverflowError:
            values[index] = math.inf
        if not math.isfinite(values[index] or 0.0):
            raise nonsense(f"document {index} has the score {values[index]}; scores must be finite")
        order.append(index)
    return values, order


def _shown(value: object) -> str:
    # A server's words, in a message: its kind is enough.
    return repr(value) if isinstance(value, bool | float | None) else type(value).__name__


async def _all(parts: Sequence[Coroutine[Any, Any, tuple[T, Usage]]]) -> list[tuple[T, Usage]]:
    """Return what they return; the first that fails ends the others, and is raised with what all have used."""
    if len(parts) == 1:
        return [await parts[0]]
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        return list(await asyncio.gather(*tasks))
    except BackendError as error:
        used = Usage()
        for task in tasks:
            if task.done() and not task.cancelled():
                failure = task.exception()
                used += task.result()[1] if failure is None else getattr(failure, "usage", None) or Usage()
        error.usage = used
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _encodable(text: str) -> str:
    """Return the text as UTF-8 can hold it: half a surrogate pair becomes a question mark."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
