"""Choose one of several ways to rank, and find out what the choice is worth on queries that it was not made on.

Who takes the best of many on some queries and tells how good it is there tells too much: of many that change nothing, one looks
good by chance. Here the queries are cut into parts; for each part the choice is made on the others. What the parts give together
is what this way of choosing brings, and that is compared with the first stage, once.

Sources: Stone, Journal of the Royal Statistical Society B 36(2), 1974 (cross-validatory choice and assessment); Varma and
Simon, BMC Bioinformatics 7:91, 2006, doi:10.1186/1471-2105-7-91 (the choice belongs inside); Breiman et al., Classification
and Regression Trees, 1984 (the simplest within one standard error of the best; here: within a margin, shown).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from rerankx.evaluation.statistics import Comparison, compare_paired, queries_needed, win_tie_loss

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Decision = Literal["rerank", "skip", "inconclusive"]

_CHUNK = 2**20  # numbers held at once: 8 MiB
_NOTHING = 1e-9  # an error that is none

FOLDS = 5
FEWEST = 30
"""Groups of queries below which nothing is decided: where differences are skewed, intervals of fewer are not to be relied on."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which way of ranking to take, if any."""

    decision: Decision
    """"rerank": the gain is shown. "skip": a gain of more than the margin is ruled out. "inconclusive": neither."""
    option: int
    """The position of the one that is chosen on all queries; whether to use it is for `decision` to say."""
    gain: Comparison
    """The options chosen on other queries, minus the first stage. n and `more_queries` count groups, and wins, ties and losses
    queries; p and the interval are for the whole way of choosing. "better" is not enough for "rerank": see `choose`."""
    chosen: Mapping[int, int]
    """In how many parts each option was chosen, the most frequent first."""


def choose(
    first: Sequence[float],
    options: Sequence[Sequence[float]],
    *,
    groups: Sequence[Hashable] | None = None,
    margin: float = 0.01,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Choice:
    """Return the first option that is not inferior to the best, and what it is worth to choose so.

    Not inferior: with confidence `level`, one-sided, its mean is at most `margin` below that of the option with the highest mean.

    "rerank" asks for a gain that is shown, and that is left if as many queries lose all they had as n groups may hide (7.1 % of
    them for 50). "skip" asks for a loss that is shown, or an interval that lies below the margin. p is the share of random signs
    for the groups' differences by which the whole procedure, with its choices, gives as much; where there is one option it is
    `sign_flip`'s. `benchmarks/advisor.py` has the rates of error in worlds in which the truth is known.

    Args:
        first: The first stage's value per query, in [0, 1], higher is better.
        options: As many values for each way of ranking, in the order in which they are to be preferred: the cheapest first.
        groups: What each query belongs to; queries of a group are not taken for independent, and are tested as one. None: each
            query is one.
        margin: The largest difference that does not matter, in [0, 1).
        level: Of the interval: an option that gains nothing is called "rerank" in at most (1 - level) / 2 of all cases.
        resamples: As in `compare_paired`.
        seed: For the parts, the interval and the test.

    Raises:
        ValueError: No option, not one value per query, or fewer than two groups.
    """
    import numpy as np

    if not options:
        raise ValueError("there is nothing to choose from; pass at least one option")
    sizes = {len(first), *map(len, options)} | (set() if groups is None else {len(groups)})
    if len(sizes) > 1:
        raise ValueError(f"there are {sorted(sizes)} values: expected one per query in each")
    groups = range(len(first)) if groups is None else groups
    members = _members(groups)
    if len(members) < 2:
        raise ValueError(f"all {len(first)} queries are of one group, about the same documents: expected at least two")
    before = np.array(by_group(first, groups))
    table = np.array([by_group(values, groups) for values in options])
    parts = _parts(len(members), seed)
    after = np.empty_like(before)
    chosen: Counter[int] = Counter()
    queries_after = list(first)
    for part in parts:
        others = np.setdiff1d(np.arange(len(members)), part)
        option = _preferred(table[:, others], margin, level)
        chosen[option] += 1
        after[part] = table[option, part]
        for group in part:
            for i in members[group]:
                queries_after[i] = options[option][i]
    gain = compare_paired(after.tolist(), before.tolist(), margin=margin, level=level, resamples=resamples, seed=seed)
    if len(table) > 1:
        gain = _widened(gain, *_by_chance(table - before, parts, margin, level, resamples, seed))
    wins, ties, losses = win_tie_loss([a - b for a, b in zip(queries_after, first, strict=True)])
    gain = replace(gain, wins=wins, ties=ties, losses=losses)
    decision = _decided(gain)
    if decision == "inconclusive":
        gain = replace(gain, more_queries=_more(gain))
    return Choice(decision, _preferred(table, margin, level), gain, dict(chosen.most_common()))


def by_group(values: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """Return a number per group, in the order of their first queries, whose mean is the mean over all queries."""
    members = _members(groups)
    share = len(members) / len(values)
    return [share * math.fsum(values[i] for i in rows) for rows in members]


def nothing_to_gain(first: Sequence[float], ideal: Sequence[float], *, margin: float = 0.01) -> bool:
    """Return whether even the perfect order of the candidates has a mean of no more than two margins above the first stage's.

    Then no reranker is worth running: the documents that matter are in front already, or were not retrieved.
    """
    return math.fsum(best - now for best, now in zip(ideal, first, strict=True)) <= 2 * margin * len(first)


def same_subject(
    queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]], *, relevant_from: int = 1
) -> list[int]:
    """Return a number per query, equal for those that ask the same words or have the same relevant documents.

    Such queries win and lose together: ten ways to ask for one passage tell little more than one.
    """
    joined: list[int] = []  # to an earlier query of the group, or to itself
    known: dict[Hashable, int] = {}

    def earliest(i: int) -> int:
        while joined[i] != i:
            joined[i] = joined[joined[i]]
            i = joined[i]
        return i

    for i, (qid, text) in enumerate(queries.items()):
        joined.append(i)
        relevant = frozenset(docid for docid, grade in qrels[qid].items() if grade >= relevant_from)
        for key in (" ".join(text.casefold().split()), relevant):
            if key:
                one, other = earliest(i), earliest(known.setdefault(key, i))
                joined[max(one, other)] = min(one, other)
    return [earliest(i) for i in range(len(joined))]


def _members(groups: Sequence[Hashable]) -> list[list[int]]:
    members: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        members.setdefault(group, []).append(i)
    return list(members.values())


def _parts(n: int, seed: int) -> list[NDArray[np.int_]]:
    import numpy as np

    return np.array_split(np.random.default_rng(seed).permutation(n), min(FOLDS, n))


def _preferred(table: NDArray[np.float64], margin: float, level: float) -> int:
    """Return the row of `table` [options, groups] that comes first of those that are not inferior to the best."""
    means = table.mean(axis=1)
    best = int(means.argmax())
    behind = table[best] - table
    errors = behind.std(axis=1, ddof=1) / math.sqrt(table.shape[1]) if table.shape[1] > 1 else math.inf
    z = statistics.NormalDist().inv_cdf(level)
    enough = means[best] - means + z * errors <= margin
    enough[best] = True
    return int(enough.argmax())


def _by_chance(
    differences: NDArray[np.float64],
    parts: Sequence[NDArray[np.int_]],
    margin: float,
    level: float,
    resamples: int,
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the gains of so many times in which nothing but chance is at work, and their standard errors.

    Each time every group's differences [options, groups] keep their signs or all change them, and the choice is made anew in each
    part. The parts depend on each other: an option that does well in one by chance is chosen for all the others. Of 18 options
    without any effect the gain over its error has a standard deviation of 1.2, not 1 (1.07 with two parts, 1.5 with twenty).
    """
    import numpy as np

    count, n = differences.shape
    z = statistics.NormalDist().inv_cdf(level)
    squares = [differences[:, part] @ differences[:, part].T for part in parts]
    all_squares = sum(squares, start=np.zeros((count, count)))
    rng = np.random.default_rng(seed)
    rows = max(1, _CHUNK // max(n, count * len(parts)))
    gains, errors = [], []
    for start in range(0, resamples, rows):
        signs = rng.integers(0, 2, (min(rows, resamples - start), n)) * 2.0 - 1
        sums = [signs[:, part] @ differences[:, part].T for part in parts]
        all_sums = sum(sums, start=np.zeros((len(signs), count)))
        total, square = np.zeros(len(signs)), np.zeros(len(signs))
        each = np.arange(len(signs))
        for part, own, own_squares in zip(parts, sums, squares, strict=True):
            others = n - len(part)
            means = (all_sums - own) / others
            best = means.argmax(axis=1)
            behind = means[each, best][:, None] - means
            product = (all_squares - own_squares) / others
            size = np.diag(product)
            spread = (size[:, None] + size - 2 * product)[best] - behind**2  # changed signs leave squares as they are
            enough = behind + z * np.sqrt(np.maximum(spread, 0) / max(others - 1, 1)) <= margin
            enough[each, best] = True
            option = enough.argmax(axis=1)
            total += own[each, option]
            square += np.diag(own_squares)[option]
        gains.append(total / n)
        errors.append(np.sqrt(np.maximum(square - total**2 / n, 0) / (n - 1) / n))
    return np.concatenate(gains), np.concatenate(errors)


def _widened(gain: Comparison, chance: NDArray[np.float64], errors: NDArray[np.float64]) -> Comparison:
    """Return the comparison with p and an interval for this way of choosing; `chance` and its `errors` are of `_by_chance`.

    p is twice the share of them that is as far out, over its error, on that side. The interval is as much wider as they vary more
    than their errors say.
    """
    if gain.sd <= _NOTHING or not errors.any():
        return gain
    seen = gain.difference / gain.sd * math.sqrt(gain.n)
    there = errors > _NOTHING
    scaled = chance[there] / errors[there]
    # Sums in another order differ in the last digits.
    fewer = min((scaled >= seen - 1e-9).sum(), (scaled <= seen + 1e-9).sum())
    p = min(1.0, 2 * (int(fewer) + 1) / (len(chance) + 1))
    stretch = max(1.0, math.sqrt(float((chance**2).sum() / (errors**2).sum())))
    low = gain.difference - (gain.difference - gain.low) * stretch
    high = gain.difference + (gain.high - gain.difference) * stretch
    shown = {
        "better": p <= 1 - gain.level and low > 0,
        "worse": p <= 1 - gain.level and high < 0,
        "equivalent": -gain.margin <= low and high <= gain.margin,
        "inconclusive": True,
    }[gain.verdict]
    more = gain.more_queries
    if not shown and gain.difference:
        more = max(1, queries_needed(gain.sd * stretch, abs(gain.difference), level=gain.level) - gain.n)
    return replace(
        gain,
        p=p,
        low=low,
        high=high,
        detectable=gain.detectable * stretch,
        not_inferior=gain.not_inferior and low >= -gain.margin,
        verdict=gain.verdict if shown else "inconclusive",
        more_queries=more,
    )


def _enough_to_see(gain: Comparison) -> float:
    """Return how many groups it takes until the gain outweighs queries that lose all they had and of which none was seen.

    n groups show none with a chance of (1 - level) / 2 if their share is 1 - ((1 - level) / 2) ** (1 / n): 7.1 % for 50.
    """
    if gain.difference <= 0:
        return math.inf
    if gain.mean_b <= 0:  # there is nothing to lose
        return 0
    return math.log((1 - gain.level) / 2) / math.log1p(-gain.difference / (gain.difference + gain.mean_b))


def _decided(gain: Comparison) -> Decision:
    if gain.n < FEWEST:
        return "inconclusive"
    if gain.verdict == "better" and gain.n > _enough_to_see(gain):
        return "rerank"
    return "skip" if gain.verdict == "worse" or gain.high <= gain.margin else "inconclusive"


def _more(gain: Comparison) -> int | None:
    """Return how many more groups may settle what is inconclusive; None if no number is known."""
    if gain.verdict == "better":
        return max(FEWEST, math.floor(_enough_to_see(gain)) + 1) - gain.n
    few = max(0, FEWEST - gain.n)
    return max(few, gain.more_queries) if gain.more_queries is not None else few or None
