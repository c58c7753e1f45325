"""What the advisor's promises are worth: how often it is right in made-up worlds whose truth is known.

    python benchmarks/advisor.py [WORLD ...] [--repetitions 1000] [--processes 2] [--seed 0] [--json FILE]

A world is a population of 10,000 queries with 50 candidates each, judged documents, the scores of a first stage and those of
rerankers; nDCG@10 of every way to rank (a backend, over the first 10, 20 or 50 candidates, alone or in equal parts with the first
stage) is known for all of them, so that the true gain of each is their mean. A repetition draws n queries, with replacement, and
asks `choose` of rerankx.evaluation.choosing, as the advisor does, after `nothing_to_gain`. The same seed gives the same tables.

The first table is the worlds: the first stage's nDCG@10, the best true gain of an option, and how the option that has it differs
from the first stage, query by query. The second one, per world and n: the true gain of the best option and, in the mean, of the
one chosen; the share of repetitions that end in each decision; "harm", the share that recommends what has no true gain; how often
the interval holds the true gain of what was chosen; and "naive", the share in which the best of all on the same queries has a
p of at most 0.05, as one finds it who looks for himself.

Required: harm at most 2.5 %, and at least 80 % found of an effect that is 1.5 times what n queries are said to detect. Shares
have an error of their own (of 2.5 % in 1,000 repetitions two standard errors are 1.0 %), which is granted; the exit status is 1
where a share is beyond it. Not counted are a reranker that was trained on the judgements, and paraphrases of which `choose` knows
nothing: no statistic can see that.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerankx.evaluation.choosing import choose, nothing_to_gain
from rerankx.evaluation.statistics import minimum_detectable_effect, sign_flip

Floats = NDArray[np.float64]

QUERIES = 10_000
CANDIDATES, RELEVANT, CUT = 50, 4, 10
DEPTHS, WEIGHTS = (10, 20, 50), (1.0, 0.5)
SIZES = (50, 100, 300)
RESAMPLES = 1_000
HARM, FOUND = 0.025, 0.80
NOTHING = 1e-4
"""A true gain up to this is none: a world that is made to have a gain of 0 has it within less."""


@dataclass(frozen=True)
class Queries:
    """Queries with their candidates in the first stage's order: columns are places."""

    grades: Floats
    """Of the judged documents, [queries, RELEVANT]; 0 is no document."""
    places: NDArray[np.int_]
    """Where each of them is among the candidates, from 0; CANDIDATES if it was not found."""
    signal: Floats
    """By how much each candidate stands out, [queries, CANDIDATES]; 0 if it is not relevant."""
    noise: Floats
    """What the first stage sees beside it."""

    @property
    def first(self) -> Floats:
        """Return the first stage's scores."""
        return self.signal + self.noise


@dataclass(frozen=True)
class Reranker:
    """How a reranker's scores come about."""

    ability: float = 1.0
    """How well it sees relevance; the first stage has 1."""
    alike: float = 0.5
    """Correlation of its errors with the first stage's."""
    ruined: float = 0.0
    """Share of queries on which it puts everything relevant last."""


@dataclass(frozen=True)
class World:
    """A population: nDCG@10 of each query, and what is true of it."""

    first: Floats
    ideal: Floats
    """Of the perfect order of the candidates."""
    options: Floats
    """[options, queries], the cheapest first."""
    truth: Floats
    """The true gain of each option."""
    group: int = 1
    """So many queries, one after the other, ask for the same."""
    told: bool = True
    """Whether `choose` is told the groups."""
    cheap: int = 0
    """So many of the options are of the cheaper of two equals."""


def queries(rng: np.random.Generator, n: int, *, recall: float = 0.85, none: float = 0.0, group: int = 1) -> Queries:
    """Return `n` queries, `group` of which ask for the same, one after the other.

    The first stage finds a relevant document with chance `recall`, and for a share `none` of the queries it finds none.
    """
    subjects = n // group
    count = rng.choice([1, 2, 3, 4], p=[0.6, 0.2, 0.1, 0.1], size=(subjects, 1))
    grades = rng.choice([1.0, 2.0], p=[0.7, 0.3], size=(subjects, RELEVANT)) * (np.arange(RELEVANT) < count)
    found = (grades > 0) & (rng.random((subjects, RELEVANT)) < recall) & (rng.random((subjects, 1)) >= none)
    signal = np.zeros((subjects, CANDIDATES))
    signal[:, :RELEVANT] = found * rng.gamma(1.5, 1.5, size=(subjects, 1)) * (0.7 + 0.3 * grades)
    grades, found, signal = (np.repeat(values, group, axis=0) for values in (grades, found, signal))
    noise = errors(rng, n, group)
    order = (-signal - noise).argsort(axis=1)
    places = np.where(found, order.argsort(axis=1)[:, :RELEVANT], CANDIDATES)
    return Queries(grades, places, *(np.take_along_axis(values, order, axis=1) for values in (signal, noise)))


def errors(rng: np.random.Generator, n: int, group: int = 1) -> Floats:
    """Return standard normal numbers, [n, CANDIDATES]; within a group they are the same for nine tenths of their variance."""
    own = rng.standard_normal((n, CANDIDATES))
    if group == 1:
        return own
    shared = np.repeat(rng.standard_normal((n // group, CANDIDATES)), group, axis=0)
    return math.sqrt(0.9) * shared + math.sqrt(0.1) * own


def scores(asked: Queries, reranker: Reranker, own: Floats, luck: Floats) -> Floats:
    """Return what the reranker says of each candidate: `own` are errors of its own, and `luck` in [0, 1) is per query."""
    noise = reranker.alike * asked.noise + math.sqrt(1 - reranker.alike**2) * own
    last = -20.0 * (asked.signal > 0)
    return noise + np.where(luck[:, None] < reranker.ruined, last, reranker.ability * asked.signal)


def ndcg(asked: Queries, given: Floats | None = None, depth: int = CANDIDATES, weight: float = 1.0) -> Floats:
    """Return nDCG@10 per query of the first `depth` candidates ordered by `given`; without it, of the first stage's order."""
    places = asked.places
    if given is not None:
        mixed = given[:, :depth]
        if weight < 1:
            mixed = weight * _z(mixed) + (1 - weight) * _z(asked.first[:, :depth])
        within = places < depth
        held = np.take_along_axis(mixed, np.where(within, places, 0), axis=1)
        before = np.stack([(mixed > held[:, [i]]).sum(axis=1) for i in range(RELEVANT)], axis=1)
        places = np.where(within, before, places)
    return _dcg(asked.grades, places) / _best(asked.grades)


def ideal(asked: Queries) -> Floats:
    """Return nDCG@10 per query of the best order of its candidates."""
    return _best(np.where(asked.places < CANDIDATES, asked.grades, 0.0)) / _best(asked.grades)


def _z(values: Floats) -> Floats:
    return (values - values.mean(axis=1, keepdims=True)) / values.std(axis=1, keepdims=True)


def _dcg(grades: Floats, places: NDArray[np.int_]) -> Floats:
    return np.where(places < CUT, grades / np.log2(places + 2), 0.0).sum(axis=1)


def _best(grades: Floats) -> Floats:
    return _dcg(-np.sort(-grades, axis=1), np.broadcast_to(np.arange(RELEVANT), grades.shape))


# The worlds.


class Population:
    """Queries, and rerankers over them whose ability is set so that what is wanted is true."""

    def __init__(
        self, rng: np.random.Generator, size: int, *, recall: float = 0.85, none: float = 0.0, group: int = 1
    ) -> None:
        self.rng, self.group = rng, group
        self.asked = queries(rng, size, recall=recall, none=none, group=group)
        self.first = ndcg(self.asked)

    def made(self, gain: float | Callable[[Floats], float], *, alike: float, ruined: float = 0.0) -> Floats:
        """Return nDCG@10 of a reranker's options, [options, queries], of which the best has the true gain `gain`.

        A function is given the best one's differences and returns the gain.
        """
        own = errors(self.rng, len(self.first), self.group)
        luck = np.repeat(self.rng.random(len(self.first) // self.group), self.group)

        def options(ability: float) -> Floats:
            given = scores(self.asked, Reranker(ability, alike, ruined), own, luck)
            return np.stack([ndcg(self.asked, given, depth, weight) for depth in DEPTHS for weight in WEIGHTS])

        def excess(ability: float) -> float:
            differences = options(ability) - self.first
            best = differences[differences.mean(axis=1).argmax()]
            return float(best.mean()) - (gain(best) if callable(gain) else gain)

        return options(root(excess, -1.0, 8.0))

    def world(self, *options: Floats, told: bool = True, twins: bool = False) -> World:
        """Return the world in which these are the options, the cheapest reranker's first."""
        table = np.concatenate(options)
        truth = (table - self.first).mean(axis=1)
        cheap = len(options[0]) if twins else 0
        return World(self.first, ideal(self.asked), table, truth, self.group, told, cheap)


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return where a function that rises in [low, high] is 0, or nearly (false position, Illinois)."""
    at_low, at_high, side = function(low), function(high), 0
    if at_low > 0 or at_high < 0:
        raise ValueError(f"it goes from {at_low:.4f} to {at_high:.4f}: expected 0 between them")
    while high - low > 1e-9:
        middle = (low * at_high - high * at_low) / (at_high - at_low)
        value = function(middle)
        if abs(value) < NOTHING / 10:
            return middle
        if value > 0:
            high, at_high = middle, value
            at_low, side = (at_low / 2 if side > 0 else at_low), 1
        else:
            low, at_low = middle, value
            at_high, side = (at_high / 2 if side < 0 else at_high), -1
    return (low + high) / 2


def detectable(n: int, times: float) -> Callable[[Floats], float]:
    """Return the function that says of differences so many times what n queries would find."""
    return lambda differences: times * minimum_detectable_effect(float(differences.std()), n)


def no_effect(rng: np.random.Generator, size: int, n: int, *, count: int) -> World:
    """`count` options and the first stage, of which each could be any other: every one takes every place once."""
    asked = queries(rng, -(-size // (count + 1)))
    n = len(asked.grades)
    values = [ndcg(asked)]
    values += [ndcg(asked, scores(asked, Reranker(), errors(rng, n), np.ones(n))) for _ in range(count)]
    turned = np.concatenate([np.roll(np.stack(values), turn, axis=0) for turn in range(count + 1)], axis=1)
    return World(turned[0], np.tile(ideal(asked), count + 1), turned[1:], np.zeros(count))


def same_gain(
    rng: np.random.Generator,
    size: int,
    n: int,
    *,
    gain: float,
    ruined: float = 0.0,
    recall: float = 0.85,
    group: int = 1,
    told: bool = True,
) -> World:
    """Three rerankers, the best option of each with the same true gain."""
    people = Population(rng, size, recall=recall, group=group)
    alikes = (0.9, 0.95, 0.98) if ruined else (0.5, 0.7, 0.9)
    return people.world(*(people.made(gain, alike=alike, ruined=ruined) for alike in alikes), told=told)


def one_useful(rng: np.random.Generator, size: int, n: int, *, times: float, none: float = 0.0) -> World:
    """Two useless rerankers, and one between them whose best option gains so many times what n queries detect."""
    people = Population(rng, size, none=none)
    useless = [people.made(0.0, alike=alike) for alike in (0.5, 0.9)]
    return people.world(useless[0], people.made(detectable(n, times), alike=0.7), useless[1])


def good_but_slow(rng: np.random.Generator, size: int, n: int) -> World:
    """One useful reranker, which is over the budget and so is not asked about, and two useless ones."""
    world = one_useful(rng, size, n, times=1.5)
    each = len(DEPTHS) * len(WEIGHTS)
    within = [*range(each), *range(2 * each, 3 * each)]
    return replace(world, options=world.options[within], truth=world.truth[within])


def two_good(rng: np.random.Generator, size: int, n: int, *, better: float = 0.0) -> World:
    """Two useful rerankers, the second ten times as dear and by `better` the better one."""
    people = Population(rng, size)
    return people.world(people.made(0.08, alike=0.7), people.made(0.08 + better, alike=0.7), twins=True)


def trained_on_these(rng: np.random.Generator, size: int, n: int) -> World:
    """Three rerankers that know these judgements and are harmful elsewhere: what is drawn is not what is true."""
    people = Population(rng, size)
    here = people.world(*(people.made(0.15, alike=alike) for alike in (0.5, 0.7, 0.9)))
    elsewhere = people.world(*(people.made(-0.02, alike=alike) for alike in (0.5, 0.7, 0.9)))
    return replace(here, truth=elsewhere.truth)


@dataclass(frozen=True)
class Kind:
    """A world's maker, the numbers of queries to ask, and what is required of it."""

    make: Callable[[np.random.Generator, int, int], World]
    sizes: Sequence[int] = SIZES
    required: Sequence[str] = ("harm",)


FEW = (8, 20, 30, 40)  # where 1.5 times what is detectable is more than can be gained from 20 down
WORLDS: Mapping[str, Kind] = {
    "no effect at all, 18 options": Kind(partial(no_effect, count=18)),
    "no effect at all, 60 options": Kind(partial(no_effect, count=60)),
    "useless": Kind(partial(same_gain, gain=0.0)),
    "harmful": Kind(partial(same_gain, gain=-0.02)),
    "harmful: small wins, 1 in 10 ruined": Kind(partial(same_gain, gain=-0.01, ruined=0.10)),
    "harmful: small wins, 1 in 20 ruined": Kind(partial(same_gain, gain=-0.01, ruined=0.05)),
    "one useful, 1.5 x detectable": Kind(partial(one_useful, times=1.5), required=("harm", "found")),
    "one useful, 1 x detectable": Kind(partial(one_useful, times=1.0)),
    "one useful, 0.75 x detectable": Kind(partial(one_useful, times=0.75)),
    "good but over the budget": Kind(good_but_slow),
    "two as good, one cheap": Kind(two_good),
    "two good, the dear one by 0.005": Kind(partial(two_good, better=0.005)),
    "two good, the dear one by 0.04": Kind(partial(two_good, better=0.04)),
    "useless, 5 paraphrases, grouped": Kind(partial(same_gain, gain=0.0, group=5)),
    "useless, 5 paraphrases, not grouped": Kind(partial(same_gain, gain=0.0, group=5, told=False), required=()),
    "trained on these judgements": Kind(trained_on_these, required=()),
    "few: no effect at all": Kind(partial(no_effect, count=18), FEW),
    "few: small wins, 1 in 10 ruined": Kind(partial(same_gain, gain=-0.01, ruined=0.10), FEW),
    "few: one useful, 1.5 x detectable": Kind(partial(one_useful, times=1.5), (30, 40)),
    "1 in 50 retrieved, useless": Kind(partial(same_gain, gain=-0.001, recall=0.02)),
    "half have none retrieved, 1.5 x": Kind(partial(one_useful, times=1.5, none=0.5), (100, 300), ("harm", "found")),
}


# What choose makes of them.


class Drawn(NamedTuple):
    """What came of one repetition."""

    decision: str
    naive: bool
    """Whether the best of all on these queries has p <= 0.05 and is better."""
    option: int | None = None
    """The one chosen; None where retrieval is to be mended, and nothing was chosen."""
    covered: bool = False
    """Whether the interval holds the true gain of the options that were chosen in the parts."""


@dataclass
class Row:
    """What came of all repetitions of a world and a number of queries; shares, and true gains."""

    world: str
    n: int
    repetitions: int
    best: float
    chosen: float | None
    """In the mean; None if nothing ever was."""
    rerank: float
    skip: float
    inconclusive: float
    fix_retrieval: float
    harm: float
    covered: float | None
    naive: float
    cheap: float | None
    """Where the first options are of the cheaper of two: how often one of these is chosen."""
    missed: str = ""
    """What was required and is not so."""


@dataclass(frozen=True)
class About:
    """A world, as a row of the first table."""

    world: str
    first: float
    ideal: float
    best: float
    sd: float
    wins: float
    ties: float
    losses: float


def sample(world: World, n: int, rng: np.random.Generator) -> NDArray[np.int_]:
    """Return which queries are drawn: groups with replacement, all queries of each, n in all."""
    subjects = rng.integers(0, len(world.first) // world.group, -(-n // world.group))
    return (subjects[:, None] * world.group + np.arange(world.group)).ravel()[:n]


def repetition(world: World, n: int, seed: int) -> Drawn:
    """Return what comes of n queries."""
    rng = np.random.default_rng(seed)
    drawn = sample(world, n, rng)
    first, options = world.first[drawn].tolist(), world.options[:, drawn]
    differences = options[options.mean(axis=1).argmax()] - first
    p = sign_flip(differences.tolist(), resamples=RESAMPLES, seed=seed)
    naive = bool(differences.mean() > 0 and p <= 0.05)
    if nothing_to_gain(first, world.ideal[drawn].tolist()):
        return Drawn("fix retrieval", naive)
    groups = (np.arange(n) // world.group).tolist() if world.told else None
    choice = choose(first, options.tolist(), groups=groups, resamples=RESAMPLES, seed=seed)
    true = sum(parts * world.truth[option] for option, parts in choice.chosen.items()) / sum(choice.chosen.values())
    covered = bool(choice.gain.low <= true <= choice.gain.high)
    return Drawn(choice.decision, naive, choice.option, covered)


def measured(name: str, n: int, repetitions: int, seed: int, size: int = QUERIES) -> tuple[About, Row]:
    """Return a world that is made of `size` queries, and what comes of drawing n of them time and again."""
    kind, key = WORLDS[name], zlib.crc32(name.encode())
    world = kind.make(np.random.default_rng([seed, key]), size, n)
    seeds = np.random.default_rng([seed, key, n]).integers(0, 2**31, repetitions).tolist()
    drawn = [repetition(world, n, one) for one in seeds]
    return about(name, world), summary(name, world, n, drawn)


def about(name: str, world: World) -> About:
    differences = world.options - world.first
    best = differences[differences.mean(axis=1).argmax()]
    shares = [float(share.mean()) for share in (best > 1e-9, np.abs(best) <= 1e-9, best < -1e-9)]
    top = float(world.truth.max())
    return About(name, float(world.first.mean()), float(world.ideal.mean()), top, float(best.std()), *shares)


def summary(name: str, world: World, n: int, drawn: Sequence[Drawn]) -> Row:
    count = len(drawn)
    decided = Counter(one.decision for one in drawn)
    chose = [(one, float(world.truth[one.option])) for one in drawn if one.option is not None]
    row = Row(
        world=name,
        n=n,
        repetitions=count,
        best=float(world.truth.max()),
        chosen=sum(true for _, true in chose) / len(chose) if chose else None,
        rerank=decided["rerank"] / count,
        skip=decided["skip"] / count,
        inconclusive=decided["inconclusive"] / count,
        fix_retrieval=decided["fix retrieval"] / count,
        harm=sum(one.decision == "rerank" and true <= NOTHING for one, true in chose) / count,
        covered=sum(one.covered for one, _ in chose) / len(chose) if chose else None,
        naive=sum(one.naive for one in drawn) / count,
        cheap=sum(one.option < world.cheap for one, _ in chose if one.option is not None) / len(chose)
        if world.cheap and chose
        else None,
    )
    row.missed = ", ".join(what for what in WORLDS[name].required if missed(what, row))
    return row


def missed(required: str, row: Row) -> bool:
    """Return whether a share is beyond what is required by more than two of its standard errors."""
    share, limit, sign = (row.harm, HARM, 1) if required == "harm" else (row.rerank - row.harm, FOUND, -1)
    return sign * (share - limit) > 2 * math.sqrt(limit * (1 - limit) / row.repetitions)


def worlds_table(rows: Sequence[About]) -> str:
    lines = [
        "| world | first stage | perfect order | best true gain | sd of its differences | wins | ties | losses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = " | ".join(f"{100 * share:.0f} %" for share in (row.wins, row.ties, row.losses))
        lines.append(f"| {row.world} | {row.first:.3f} | {row.ideal:.3f} | {row.best:+.3f} | {row.sd:.3f} | {shares} |")
    return "\n".join(lines)


def results_table(rows: Sequence[Row]) -> str:
    lines = [
        "| world | n | best true gain | of the chosen | rerank | skip | inconclusive | fix retrieval | harm | covered | naive |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        harm = f"**{_percent(row.harm)}**" if "harm" in row.missed else _percent(row.harm)
        rerank = f"**{_percent(row.rerank)}**" if "found" in row.missed else _percent(row.rerank)
        chosen = "-" if row.chosen is None else f"{row.chosen:+.3f}"
        shares = " | ".join(map(_percent, (row.skip, row.inconclusive, row.fix_retrieval)))
        more = f"{harm} | {_percent(row.covered)} | {_percent(row.naive)}"
        lines.append(f"| {row.world} | {row.n} | {row.best:+.3f} | {chosen} | {rerank} | {shares} | {more} |")
    return "\n".join(lines)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f} %"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("world", nargs="*", help="part of a world's name; default: all")
    parser.add_argument("--repetitions", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all figures there")
    args = parser.parse_args()
    names = [name for name in WORLDS if not args.world or any(part in name for part in args.world)]
    if not names:
        parser.error(f"no world is called so; there are: {'; '.join(WORLDS)}")

    tasks = [(name, n, args.repetitions, args.seed) for name in names for n in WORLDS[name].sizes]
    found: list[tuple[About, Row]] = []
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as pool:
        for one in pool.map(measured, *zip(*tasks, strict=True)):
            found.append(one)
            print(f"{len(found)} of {len(tasks)}: {one[1].world}, n = {one[1].n}", file=sys.stderr)
    worlds, rows = [one for one, _ in found], [row for _, row in found]
    print(f"{args.repetitions} repetitions each, seed {args.seed}\n")
    print(worlds_table(described(worlds)), results_table(rows), sep="\n\n")
    for row in rows:
        if row.cheap is not None:
            print(f"\n{row.world}, n = {row.n}: the cheap one is chosen in {_percent(row.cheap)}", end="")
    missing = [f"{row.world}, n = {row.n}: {row.missed}" for row in rows if row.missed]
    print("\n\nmissed:", "; ".join(missing) or "nothing")
    if args.json:
        held = {"repetitions": args.repetitions, "seed": args.seed}
        held |= {"worlds": [asdict(one) for one in worlds], "results": [asdict(row) for row in rows]}
        args.json.write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
    sys.exit(1 if missing else 0)


def described(worlds: Sequence[About]) -> list[About]:
    """Return each world once; where its gain depends on n, once for each."""
    return list(dict.fromkeys(worlds))


if __name__ == "__main__":
    main()
