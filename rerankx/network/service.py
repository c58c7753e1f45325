"""`Service`: a backend that asks somebody else, under limits of time, number and money."""

from __future__ import annotations

import asyncio
import json
import math
import os
import reprlib
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from typing import Any, Self, TypeVar, cast

import httpx

from rerankx.catalogue.prices import Price
from rerankx.errors import AuthenticationError, DeadlineError, MissingDependencyError, OptionError
from rerankx.interface import Backend, Usage, remaining_s
from rerankx.network import loop
from rerankx.network.client import Secret
from rerankx.network.limits import Circuit, rate_limit_of
from rerankx.network.policy import Policy

T = TypeVar("T")

_MOST = 1e9  # of seconds and dollars


class Service(Backend):
    """Asks a service, under limits of time, number and money. A subclass says how.

    Args:
        given: What the subclass was constructed with, but the key: the options that all have in common, and what a copy needs.
        key: The key, if there is one.
        identity: What tells the account from others: it is not kept.
        address: Where requests go.
        price: What it charges; None where that is not known.
        free: Whether it charges nothing.

    Raises:
        TypeError: An option of the wrong type.
        ValueError: An option out of its range.
    """

    def __init__(
        self,
        given: Mapping[str, Any],
        *,
        key: Secret | None,
        identity: str,
        address: str,
        price: Price | None,
        free: bool,
    ) -> None:
        self._given, self._key, self._address, self._price = dict(given), key, address, price
        per_minute = whole("requests_per_minute", given["requests_per_minute"])
        account = sha256(identity.encode()).hexdigest()
        self._deadline_s = number("deadline_s", given["deadline_s"])
        self._policy = Policy(
            f"{self.name}:{self.model}",
            timeout_s=needed("timeout_s", number("timeout_s", given["timeout_s"])),
            max_retries=needed("max_retries", whole("max_retries", given["max_retries"], low=0)),
            rate=None if per_minute is None else rate_limit_of(address, account, per_minute),
            max_concurrency=needed("max_concurrency", whole("max_concurrency", given["max_concurrency"])),
            failure_threshold=whole("failure_threshold", given["failure_threshold"]),
            recovery_s=needed("recovery_s", number("recovery_s", given["recovery_s"])),
            max_calls=whole("max_calls", given["max_calls"], low=0),
            max_input_tokens=whole("max_input_tokens", given.get("max_input_tokens"), low=0),
            budget_usd=number("budget_usd", given["budget_usd"], low=0.0),
        )
        if given["budget_usd"] is not None and price is None and not free:
            raise ValueError(
                f"budget_usd needs the price of {self.name}:{self.model}, which is not known here; pass price="
                + self._price_form
            )

    _price_form = '{"per_search_unit": usd} or {"per_million_tokens": usd}'

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
        price = self._price
        return {
            "address": self._address,
            "model": self.model,
            "scale": self.scale.kind,
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

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections, of all event loops."""

    async def _ready(self, prepare: Callable[[], Awaitable[object]]) -> None:
        """Have a client made, before anything is counted."""
        # Before anything is counted: it takes no service to import a package slowly.
        try:
            async with asyncio.timeout(remaining_s()):
                await prepare()
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


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return a copy of the headers that a caller gives; no message holds a value.

    Raises:
        TypeError: They are no mapping.
        ValueError: A name or value that is no string of printable ASCII characters.
    """
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping of names to values, not {type(headers).__name__}")
    for name, value in headers.items():
        if not (isinstance(name, str) and isinstance(value, str) and value.isascii() and value.isprintable()):
            raise ValueError(f"header {name!r} must be a string of printable ASCII characters")  # a secret, perhaps
    return dict(headers)


def checked_extra(extra: Mapping[str, object]) -> dict[str, object]:
    """Return a copy of the fields that a caller gives, which the caller cannot change.

    Raises:
        TypeError: They are no mapping, or hold what JSON does not know.
    """
    if not isinstance(extra, Mapping):
        raise TypeError(f"extra must be a mapping of fields, not {type(extra).__name__}")
    try:
        return cast("dict[str, object]", json.loads(json.dumps(dict(extra), allow_nan=False, default=_as_dict)))
    except (TypeError, ValueError) as error:
        raise TypeError(f"extra must hold what JSON knows: {error}") from None


def _as_dict(value: object) -> dict[object, object]:
    """Return a mapping of another kind as the dict that JSON knows."""
    if not isinstance(value, Mapping):
        raise TypeError(f"not {type(value).__name__}")
    return dict(value)


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


def number(name: str, value: object, *, low: float = 5e-324) -> float | None:
    """Return a number of at least `low` and at most 10^9, or None.

    Raises:
        TypeError: It is something else.
        ValueError: It is out of bounds.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    if not low <= value <= _MOST:
        bounds = f"at most {_MOST:g}" if value > _MOST else "above 0" if low else "0 or above"
        raise ValueError(f"{name} must be {bounds}, not {reprlib.repr(value)}")
    return float(value)


def needed(name: str, value: T | None) -> T:
    """Return the value.

    Raises:
        TypeError: It is None.
    """
    if value is None:
        raise TypeError(f"{name} must be a number, not None")
    return value
