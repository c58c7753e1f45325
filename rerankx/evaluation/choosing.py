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

from rerankx.evaluation.statistics import Comparison, compare_paired, win_tie_loss

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Decision = Literal["rerank", "skip", "inconclusive"]

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
    """The options chosen on other queries, minus the first stage; n and `more_queries` count groups, and wins, ties and losses
    queries."""
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
        raise ValueError(f"all {len(first)} queries are of one group: expected at least two")
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
    wins, ties, losses = win_tie_loss([a - b for a, b in zip(queries_after, first, strict=True)])
    gain = replace(gain, wins=wins, ties=ties, losses=losses)
    return Choice(_decided(gain), _preferred(table, margin, level), gain, dict(chosen.most_common()))


def by_group(values: Sequence[float], groups: Sequence[Hashable]) -> list[float]:
    """Return a number per group, in the order of their first queries, whose mean is the mean over all queries."""
    members = _members(groups)
    share = len(members) / len(values)
    return [share * math.fsum(values[i] for i in rows) for rows in members]


def nothing_to_gain(first: Sequence[float], ideal: Sequence[float], *, margin: float = 0.01) -> bool:
    """Return whether even the perfect order of the candidates has a mean of less than two margins above the first stage's.

    Then no reranker is worth running: the documents that matter are in front already, or were not retrieved.
    """
    return math.fsum(best - now for best, now in zip(ideal, first, strict=True)) < 2 * margin * len(first)


def same_subject(queries: Mapping[str, str], qrels: Mapping[str, Mapping[str, int]]) -> list[int]:
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
        relevant = frozenset(docid for docid, grade in qrels[qid].items() if grade > 0)
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


def _decided(gain: Comparison) -> Decision:
    if gain.n < FEWEST:
        return "inconclusive"
    if gain.verdict == "better":
        return "rerank"
    return "skip" if gain.verdict == "worse" or gain.high < gain.margin else "inconclusive"
