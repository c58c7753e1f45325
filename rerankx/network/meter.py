"""What a request costs: as the reply bills it, else estimated, and said so."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

from rerankx.catalogue.endpoints import Billing
from rerankx.catalogue.prices import Price
from rerankx.interface import Usage

_BYTES_PER_TOKEN = 4
"""English prose, roughly; the estimate says that it is one."""
_TOKENS_PER_PART, _PARTS_PER_UNIT = 500, 100
"""A longer text counts as several, and 100 make a unit: https://docs.pinecone.io/models/cohere-rerank-4-fast, 2026-11."""


@dataclass(frozen=True, slots=True)
class Meter:
    """How one model is paid for."""

    billing: Billing
    price: Price | None
    """None where it is not known."""

    def estimate(self, query: str, texts: Sequence[str]) -> Usage:
        """Return what one request will probably be billed."""
        return self.used(query, texts, units=None, tokens=None)

    def used(self, query: str, texts: Sequence[str], *, units: float | None, tokens: float | None) -> Usage:
        """Return what one request has used; None for what the reply did not tell."""
        by_unit, by_token = self._paid_by()
        estimated = (by_unit and units is None) or (by_token and tokens is None)
        if by_unit and units is None:
            units = _estimated_units(texts)
        if by_token and tokens is None:
            tokens = _estimated_tokens(query, texts)
        if units is None and self.billing in ("nothing", "tokens"):
            units = 0
        return Usage(
            calls=1,
            input_tokens=None if tokens is None else math.ceil(tokens),
            search_units=None if units is None else math.ceil(units),
            cost_usd=self._cost(units, tokens),
            estimated=estimated,
        )

    def _paid_by(self) -> tuple[bool, bool]:
        """Return whether search units have a price, and whether tokens do."""
        if self.price is None:
            return self.billing == "search_units", self.billing == "tokens"
        return self.price.per_search_unit is not None, self.price.per_million_tokens is not None

    def _cost(self, units: float | None, tokens: float | None) -> float | None:
        if self.price is None:
            return 0.0 if self.billing == "nothing" else None
        cost = 0.0
        if self.price.per_search_unit is not None:
            cost += self.price.per_search_unit * (units or 0)
        if self.price.per_million_tokens is not None:
            cost += self.price.per_million_tokens * (tokens or 0) / 1e6
        return cost


def checked_price(price: Mapping[str, float]) -> Price:
    """Return the price that a caller gives.

    Raises:
        TypeError: It is not a mapping.
        ValueError: It has other names, or something that is not an amount.
    """
    expected = '{"per_search_unit": usd} or {"per_million_tokens": usd}'
    _check_amounts(price, {"per_search_unit", "per_million_tokens"}, expected)
    return Price(price.get("per_search_unit"), price.get("per_million_tokens"))


def checked_chat_price(price: Mapping[str, float]) -> Price:
    """Return the price of a language model that a caller gives.

    Raises:
        TypeError: It is not a mapping.
        ValueError: It has other names or lacks one, or something that is not an amount.
    """
    names = ("per_million_tokens", "per_million_output_tokens")
    expected = '{"per_million_tokens": usd, "per_million_output_tokens": usd}'
    _check_amounts(price, {*names}, expected)
    if len(price) < len(names):
        raise ValueError(f"price must be {expected}, not {', '.join(price)} alone: what is written is billed, too")
    read, written = (price[name] for name in names)
    return Price(per_million_tokens=read, per_million_output_tokens=written)


def _check_amounts(price: Mapping[str, float], names: Set[str], expected: str) -> None:
    if not isinstance(price, Mapping):
        raise TypeError(f"price must be {expected}, not {type(price).__name__}")
    amounts = price.values()
    if not price or not price.keys() <= names:
        raise ValueError(f"price must be {expected}, not a mapping of {', '.join(map(str, price)) or 'nothing'}")
    shown = {name: str(amount)[:20] for name, amount in price.items()}
    if not all(isinstance(a, int | float) and not isinstance(a, bool) and 0 <= a <= 1e9 for a in amounts):
        raise ValueError(f"price must be {expected}, in US dollars, not {shown}")


def _estimated_tokens(query: str, texts: Sequence[str]) -> int:
    """Return the tokens of the pairs: the query counts once per text."""
    return sum(_tokens(text) for text in texts) + len(texts) * _tokens(query)


def _estimated_units(texts: Sequence[str]) -> int:
    parts = sum(max(1, math.ceil(_tokens(text) / _TOKENS_PER_PART)) for text in texts)
    return math.ceil(parts / _PARTS_PER_UNIT)


def _tokens(text: str) -> int:
    return math.ceil(len(text.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)
