"""`Remote`: a backend whose scores come from a service. A subclass says how one request is sent and its reply read."""

from __future__ import annotations

import asyncio
import math
import os
import reprlib
from abc import abstractmethod
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from typing import Any, Self, TypeVar, cast

import httpx

from rerankx.catalogue.endpoints import Billing
from rerankx.catalogue.prices import PRICES
from rerankx.errors import AuthenticationError, BackendError, DeadlineError, MissingDependencyError, OptionError
from rerankx.interface import Backend, Scores, Usage, deadline, remaining_s
from rerankx.network import loop
from rerankx.network.client import PerLoop, Secret
from rerankx.network.faults import nonsense
from rerankx.network.limits import Circuit, rate_limit_of
from rerankx.network.meter import Meter, checked_price
from rerankx.network.policy import Policy

T = TypeVar("T")

_MOST = 1e9  # of seconds and dollars


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


class Remote(Backend):
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
        self._given, self._key, self._address = dict(given), key, address
        self._max_documents = max_documents
        price = given["price"]
        self._meter = Meter(billing, PRICES.get(f"{self.name}:{self.model}") if price is None else checked_price(price))
        per_minute = whole("requests_per_minute", given["requests_per_minute"])
        account = sha256(identity.encode()).hexdigest()
        self._deadline_s = _number("deadline_s", given["deadline_s"])
        self._policy = Policy(
            f"{self.name}:{self.model}",
            timeout_s=_needed("timeout_s", _number("timeout_s", given["timeout_s"])),
            max_retries=_needed("max_retries", whole("max_retries", given["max_retries"], low=0)),
            rate=None if per_minute is None else rate_limit_of(address, account, per_minute),
            max_concurrency=_needed("max_concurrency", whole("max_concurrency", given["max_concurrency"])),
            failure_threshold=whole("failure_threshold", given["failure_threshold"]),
            recovery_s=_needed("recovery_s", _number("recovery_s", given["recovery_s"])),
            max_calls=whole("max_calls", given["max_calls"], low=0),
            budget_usd=_number("budget_usd", given["budget_usd"], low=0.0),
        )
        if given["budget_usd"] is not None and self._meter.price is None and billing != "nothing":
            raise ValueError(
                f"budget_usd needs the price of {self.name}:{self.model}, which is not known here; pass price="
                '{"per_search_unit": usd} or {"per_million_tokens": usd}'
            )

    @property
    def circuit(self) -> Circuit:
        """Return the state of the circuit breaker: "open" while nothing is sent, "half-open" when the next request may try."""
        return self._policy.breaker.state

    @property
    def spent(self) -> Usage:
        """Return what this object has used so far; requests that are under way are estimated."""
        return self._policy.spend.total

    def describe(self) -> dict[str, object]:
        """Return where it asks, the state of its circuit, its price and what it has spent: nothing secret."""
        price = self._meter.price
        return {
            "address": self._address,
            "model": self.model,
            "scale": self.scale.kind,
            "max_documents": self._max_documents,
            "circuit": self.circuit,
            "price": None if price is None else asdict(price),
            "spent": asdict(self.spent),
        }

    def close(self) -> None:
        """Close the connections; the next call opens new ones. Inside a running event loop they close soon after."""
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            loop.run(self.aclose())
        else:
            self._closing = running.create_task(self.aclose())

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
        # Before anything is counted: it takes no service to import a package slowly.
        try:
            async with asyncio.timeout(remaining_s()):
                await self._clients.get()
        except TimeoutError:
            words = f"{self.name}:{self.model}: the deadline passed while its client was loaded, nothing was sent"
            raise DeadlineError(words) from None
        except ImportError as error:
            missing = error.name or "socksio"  # httpx does not name it
            command = "pip install 'httpx[socks]'" if error.name is None else "pip install 'rerankx[cohere]'"
            raise MissingDependencyError(self.name, [missing], command) from None
        except (OSError, ValueError, httpx.InvalidURL) as error:
            read = "SSL_CERT_FILE, SSL_CERT_DIR, HTTPS_PROXY and its kind"
            raise OptionError(
                f"no HTTP client can be made of the environment ({type(error).__name__}): see {read}"
            ) from None

    async def _answered(self, query: str, texts: Sequence[str]) -> tuple[Answer, Usage]:
        return await self._policy.call(
            lambda: self._ask(query, texts),
            estimate=self._meter.estimate(query, texts),
            used=lambda answer: self._meter.used(query, texts, units=answer.units, tokens=answer.tokens),
        )

    def _secrets(self) -> list[str]:
        """Return what must not be in a message."""
        return [] if self._key is None else [self._key.reveal()]

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), **self._given), ()  # the key stays here: a copy reads the environment

    def __copy__(self) -> Self:
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        key = None if self._key is None else self._key.reveal()
        make: Any = type(self)
        return cast("Self", make(**self._given, api_key=key))


def find_key(api_key: object, variables: Sequence[str], *, needed: bool, who: str) -> Secret | None:
    """Return the key: the one that was given, else from the first environment variable that holds one.

    Raises:
        AuthenticationError: There is none, and one is needed.
        TypeError: The key is not a string.
    """
    if hasattr(api_key, "get_secret_value"):
        api_key = api_key.get_secret_value()
    if api_key is not None and not isinstance(api_key, str):
        raise TypeError(f"api_key must be a string, not {type(api_key).__name__}")
    found = (api_key or "").strip() or next(filter(None, (os.environ.get(name, "").strip() for name in variables)), "")
    if not found and needed:
        environment = f", or set {' or '.join(variables)}" if variables else ""
        raise AuthenticationError(f"{who!r} needs a key: pass api_key={environment}")
    if not (found.isascii() and found.isprintable()):
        raise AuthenticationError(f"the key of {who!r} holds characters that no header can hold, such as a line break")
    return Secret(found) if found else None


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


def told_amount(amount: object) -> float | None:
    """Return an amount that a reply tells; None for what is none: some tell -1."""
    known = isinstance(amount, int | float) and not isinstance(amount, bool) and 0 <= amount < 1e15
    return float(cast("float", amount)) if known else None


def whole(name: str, value: object, *, low: int = 1, high: float = math.inf) -> int | None:
    """Return a whole number of those bounds, or None.

    Raises:
        TypeError: It is something else.
        ValueError: It is out of bounds.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
    if not low <= value <= high:
        raise ValueError(
            f"{name} must be at least {low}{f' and at most {high}' if high < math.inf else ''}, not {value}"
        )
    return value


def _number(name: str, value: object, *, low: float = 5e-324) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not low <= value <= _MOST:
        bounds = f"at most {_MOST:g}" if value > _MOST else "above 0" if low else "0 or above"
        raise ValueError(f"{name} must be {bounds}, not {reprlib.repr(value)}")
    return float(value)


def _needed(name: str, value: T | None) -> T:
    if value is None:
        raise TypeError(f"{name} must be a number, not None")
    return value
