"""Fuse what several rankers say about the same texts, by rank (`rrf`) or by score (`weighted_sum`)."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

__all__ = ["Normalise", "rrf", "weighted_sum"]

Normalise = Literal["minmax", "zscore", "none"]


def rrf(
    orders: Sequence[Sequence[int | Sequence[int]]], *, n: int, k: int = 60, weights: Sequence[float] | None = None
) -> list[float]:
    """Return one fused score per text; higher is better.

    Args:
        orders: Rankings to fuse, each a sequence of text indices, best first. A missing index adds 0. An entry may be a sequence
            of indices that are tied: each has the mean of their places' shares.
        n: Number of texts; indices lie in [0, n).
        k: Rank offset, dimensionless; 60 is the source's value.
        weights: One finite weight >= 0 per ranking, not all 0; None means 1 each.

    Returns:
        n floats in [0, sum(weights) / (k + 1)]; without weights, [0, len(orders) / (k + 1)].
        Rank scores: not comparable across queries.

    Raises:
        ValueError: An index is repeated in one ranking or lies outside [0, n); `n` or `k` is not an
            int >= 0; the weights are not as described.

    Source: Cormack, Clarke and Büttcher, SIGIR 2009, doi:10.1145/1571941.1572114; weights and ties are our addition.
    """
    for name, value in (("n", n), ("k", k)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} is {value!r}: expected an int of at least 0")
    parts: list[list[float]] = [[] for _ in range(n)]
    for position, (order, weight) in enumerate(
        zip(orders, checked_weights(weights, len(orders), "orders"), strict=True)
    ):
        seen: set[int] = set()
        rank = 1
        for entry in order:
            tied = entry if isinstance(entry, Sequence) else (entry,)
            shares = [weight / (k + place) for place in range(rank, rank + len(tied))]
            rank += len(tied)
            for index in tied:
                if not 0 <= index < n:
                    raise ValueError(f"orders[{position}] holds index {index}: expected 0 <= index < n = {n}")
                if index in seen:
                    raise ValueError(f"orders[{position}] holds index {index} twice: expected each at most once")
                seen.add(index)
                parts[index].append(_sum(shares) / len(shares))
    return [_sum(part) for part in parts]


def weighted_sum(
    scores: Sequence[Sequence[float | None]],
    *,
    weights: Sequence[float] | None = None,
    normalise: Normalise = "minmax",
) -> list[float | None]:
    """Return one fused score per text: the weighted sum of each ranker's normalised scores, higher is better.

    Args:
        scores: One sequence per ranker, each with one entry per text, higher is better; None = not scored
            by that ranker. A missing entry takes the ranker's lowest value after normalising; a ranker
            that scored nothing adds 0.
        weights: One finite weight >= 0 per ranker, not all 0; None means 1 each.
        normalise: Within each ranker, over the texts that it scored:
            "minmax" to [0, 1]; if all are equal, 0.5 each, and 0 for a missing entry.
            "zscore" to mean 0, population standard deviation 1; if all are equal, 0 each.
            "none" keeps the scores: only for rankers that share a scale.

    Returns:
        As many entries as there are texts, [] if none; None where no ranker scored the text. With "minmax"
        in [0, sum(weights)]. Except with "none", not comparable across queries.

    Raises:
        ValueError: A score is not finite; the rankers differ in length; the weights or `normalise` are not
            as described; a sum is too large for a float.

    Source: Fox and Shaw, TREC-2, 1994 (CombSUM); Bruch, Gai and Ingber, TOIS 2023, doi:10.1145/3596512.
    """
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise is {normalise!r}: expected one of {', '.join(get_args(Normalise))}")
    weights = checked_weights(weights, len(scores), "scores")
    for ranker, row in enumerate(scores):
        if len(row) != len(scores[0]):
            raise ValueError(f"scores[{ranker}] has length {len(row)}: expected {len(scores[0])}, as scores[0]")
        for index, score in enumerate(row):
            if score is not None and not math.isfinite(score):
                raise ValueError(f"scores[{ranker}][{index}] is {score}: expected a finite number or None")
    filled = [_normalised(row, normalise) for row in scores]
    return [
        None
        if all(row[index] is None for row in scores)
        else _sum([weight * row[index] for weight, row in zip(weights, filled, strict=True)])
        for index in range(len(scores[0]) if len(scores) else 0)
    ]


def checked_weights(weights: Sequence[float] | None, count: int, of: str) -> Sequence[float]:
    """Return the weights, 1 each without any; raise a TypeError or ValueError unless they are as `rrf` says."""
    if weights is None:
        return [1.0] * count
    if isinstance(weights, str | bytes) or not hasattr(weights, "__len__"):
        raise TypeError(f"weights must be a list of numbers, not {type(weights).__name__}")
    for position, weight in enumerate(weights):
        if isinstance(weight, bool | str) or not hasattr(weight, "__float__") or not _is_a_float(weight):
            raise TypeError(f"weights[{position}] must be a number, not {type(weight).__name__}")
    if len(weights) != count:
        raise ValueError(f"weights has length {len(weights)}: expected {count}, one per entry of {of}")
    for position, weight in enumerate(weights):
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weights[{position}] is {weight}: expected a finite number >= 0")
    if count and not any(weight > 0 for weight in weights):
        raise ValueError(f"weights is {list(weights)}: expected at least one above 0")
    return weights


def _is_a_float(number: float) -> bool:
    try:
        float(number)
    except (OverflowError, TypeError, ValueError):
        return False
    return True


def _normalised(row: Sequence[float | None], normalise: Normalise) -> list[float]:
    """Return `row` on the scale asked for, with no gaps."""
    present = [float(score) for score in row if score is not None]
    if not present:
        return [0.0] * len(row)
    if normalise == "none":
        values, missing = present, min(present)
    elif normalise == "minmax":
        values, missing = _to_unit_range(present), 0.0
    else:
        values = _to_zscores(present)
        missing = min(values)
    supply = iter(values)
    return [missing if score is None else next(supply) for score in row]


def _to_unit_range(values: list[float]) -> list[float]:
    if min(values) == max(values):
        return [0.5] * len(values)
    # max - min overflows on huge values, and x / (max - min) loses digits on denormal ones. A power of two
    # that brings the largest magnitude to [0.5, 1) costs no digits that the result could show.
    exponent = math.frexp(max(map(abs, values)))[1]
    scaled = [math.ldexp(value, -exponent) for value in values]
    low = min(scaled)
    spread = max(scaled) - low
    return [(value - low) / spread for value in scaled]


def _to_zscores(values: list[float]) -> list[float]:
    if min(values) == max(values):
        return [0.0] * len(values)
    # z does not depend on scale or offset. From [0, 1] no square can overflow, and nearly equal scores do
    # not cancel against their mean.
    values = _to_unit_range(values)
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / deviation for value in values]


def _sum(parts: list[float]) -> float:
    """Return the sum, the same for every order of `parts`, so that equal evidence gives an exact tie."""
    try:
        total = math.fsum(parts)
    except (OverflowError, ValueError):  # ValueError: inf - inf
        total = math.inf
    if math.isinf(total):
        raise ValueError(f"the sum of {parts} is too large for a float: use smaller weights or scores")
    return total
