"""Configurations: a backend at a depth and in a mixture with the first stage, and what is measured of each."""

from __future__ import annotations

import math
import os
import random
import re
import statistics
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rerankx.compose.fused import Method
from rerankx.errors import BackendError
from rerankx.evaluation.choosing import by_group
from rerankx.evaluation.datasets import Dataset
from rerankx.evaluation.loads import forgetful, percentiles
from rerankx.evaluation.metrics import evaluate, evaluate_per_query
from rerankx.evaluation.scoring import Scoring, score
from rerankx.evaluation.statistics import bootstrap_interval
from rerankx.interface import Backend

_MIXTURES: tuple[tuple[Method, float], ...] = (("rrf", 1.0), ("rrf", 0.5), ("weighted", 0.5), ("weighted", 0.75))
_TIMED = 30  # queries of which the times at smaller depths are taken
_SEEN = 0.05  # share of texts that were answered by a cache above which times are taken anew
_DRAWS = 2_000  # for intervals that are only shown


@dataclass(frozen=True, slots=True, repr=False)
class Configuration:
    """A backend, how many candidates it sees, and how its scores are mixed with the first stage's; what was measured of it.

    Its figures are those on all queries. The best of many was chosen on the same ones, and looks better here than it is.
    """

    backend: str
    """What reports call it."""
    model: str
    """Backend and model, as "name:model"."""
    depth: int
    """How many of the first stage's candidates are reranked."""
    weight: float
    """The backend's share in the fusion with the first stage; 1 is the backend alone."""
    method: Method
    """How they are fused, where they are."""
    run: Mapping[str, Sequence[str]]
    """Query id to document ids, best first."""
    values: Mapping[str, float]
    """Query id to the value of the measure."""
    mean: float
    low: float
    """Lower end of the 95 % interval of the mean."""
    high: float
    difference: float
    """Mean difference to the first stage."""
    difference_low: float
    difference_high: float
    p50_ms: float | None
    """Median wall time of a query, in milliseconds, one at a time, warm, of a backend that has kept no text from before; None if
    it never answered."""
    p95_ms: float | None
    usd_per_1000: float | None
    """US dollars for 1,000 such queries; 0 for what is free, None where the price is not known."""
    failed: int
    """On how many queries the backend failed; there the order is the first stage's."""
    degraded: int
    within_budget: bool

    @property
    def name(self) -> str:
        """Return what it is, as in "embedded, first 50, fused by score 3:1"."""
        return f"{self.backend}, first {self.depth}{_mixture(self.method, self.weight)}"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """What the candidates allow, whatever orders them."""

    first: float
    """Mean of the measure, as the first stage orders them."""
    ideal: float
    """As the judgements would order them."""
    low: float
    """Lower end of the 95 % interval of the difference."""
    high: float
    recall: Mapping[int, float]
    """Depth to the share of relevant documents that is among so many candidates, the mean over queries."""
    without_relevant: float
    """Share of queries that have no relevant document among their candidates."""

    @property
    def headroom(self) -> float:
        """Return what a perfect reranker would gain."""
        return self.ideal - self.first


def relevant_from(measure: str) -> int:
    """Return the lowest grade that a measure calls relevant: 2 of "RR(rel=2)@10", and else 1."""
    asked = re.search(r"\brel=(\d+)", measure)
    return int(asked[1]) if asked else 1


class Measuring:
    """What all configurations are measured with."""

    def __init__(self, dataset: Dataset, measure: str, groups: Sequence[Hashable], seed: int) -> None:
        self.dataset, self.measure, self.groups, self.seed = dataset, measure, groups, seed
        self.relevant_from = relevant_from(measure)
        self.run = {qid: [one.docid for one in found] for qid, found in dataset.candidates.items()}
        self.first = self.values(self.run)

    def values(self, run: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """Return the measure of each query."""
        per_query = evaluate_per_query(run, self.dataset.qrels, (self.measure,))
        return {qid: per_query[qid][self.measure] for qid in self.dataset.queries}

    def interval(self, values: Sequence[float]) -> tuple[float, float]:
        """Return the interval of the mean of one value per query."""
        return bootstrap_interval(by_group(values, self.groups), resamples=_DRAWS, seed=self.seed)

    def ceiling(self, depths: Sequence[int]) -> tuple[Ceiling, list[float]]:
        """Return what the candidates allow, and the measure of each query in the best order of its candidates."""
        qrels, deepest = self.dataset.qrels, depths[-1]
        best = {}
        for qid, docids in self.run.items():
            reached = sorted(docids[:deepest], key=lambda docid, grades=qrels[qid]: -grades.get(docid, 0))  # type: ignore[misc]
            best[qid] = [*reached, *docids[deepest:]]
        ideal = list(self.values(best).values())
        first = list(self.first.values())
        low, high = self.interval([a - b for a, b in zip(ideal, first, strict=True)])
        names = {depth: f"R(rel={self.relevant_from})@{depth}" for depth in depths}
        recall = evaluate(self.run, qrels, list(names.values()))
        found = {depth: recall[name] for depth, name in names.items()}
        hits = evaluate(self.run, qrels, [f"Success(rel={self.relevant_from})@{deepest}"])
        without = 1 - next(iter(hits.values()))
        return Ceiling(statistics.fmean(first), statistics.fmean(ideal), low, high, found, without), ideal

    def configurations(
        self,
        scoring: Scoring,
        backend: Backend,
        depths: Sequence[int],
        *,
        keep: str | os.PathLike[str] | None,
        budget_ms: float | None,
        budget_usd: float | None,
    ) -> Iterator[Configuration]:
        """Yield the backend at every depth, alone and mixed with the first stage; behind what was scored, as it was."""
        for depth in depths if scoring.pointwise else depths[-1:]:
            timed = self._timed(scoring, backend, depth, depths[-1], keep)
            p50, p95 = percentiles([one.elapsed_ms for one in timed.scores.values()])
            usd = timed.usd_per_1000
            for method, weight in _MIXTURES:
                if method == "weighted" and weight < 1 and (not self.dataset.scored or scoring.scale.kind == "rank"):
                    continue
                ranked = scoring.ranked(depth=depth, weight=weight, method=method)
                run = {qid: [*ranked[qid], *docids[len(ranked[qid]) :]] for qid, docids in self.run.items()}
                values = self.values(run)
                gains = [values[qid] - self.first[qid] for qid in values]
                low, high = self.interval(list(values.values()))
                difference_low, difference_high = self.interval(gains)
                yield Configuration(
                    backend=scoring.name,
                    model=scoring.backend,
                    depth=depth,
                    weight=weight,
                    method=method,
                    run=run,
                    values=values,
                    mean=statistics.fmean(values.values()),
                    low=low,
                    high=high,
                    difference=statistics.fmean(gains),
                    difference_low=difference_low,
                    difference_high=difference_high,
                    p50_ms=p50,
                    p95_ms=p95,
                    usd_per_1000=usd,
                    failed=len(scoring.failures),
                    degraded=sum(one.degraded is not None and one.error is None for one in scoring.scores.values()),
                    within_budget=_at_most(p95, budget_ms) and _at_most(usd, budget_usd),
                )

    def _timed(
        self, scoring: Scoring, backend: Backend, depth: int, deepest: int, keep: str | os.PathLike[str] | None
    ) -> Scoring:
        """Return scores at this depth for the time and the price that they took: of some queries, by one that has kept no text.

        Where that is not to be had, since a cache answers or the backend fails, those of the deepest stand: they are not less.
        """
        if depth == deepest and _cached(scoring) <= _SEEN:
            return scoring
        shallow = self.dataset.depth(depth)
        qids = sorted(qid for qid in scoring.scores if any(one.text.strip() for one in shallow.candidates[qid]))
        if not qids:
            return scoring
        some = random.Random(self.seed).sample(qids, min(_TIMED, len(qids)))  # noqa: S311 - no secret
        try:
            timed = score(forgetful(backend, scoring.usage), shallow.subset(some), keep=keep)
        except BackendError:
            return scoring
        as_good = not timed.failures and _cached(timed) <= max(_SEEN, _cached(scoring))
        return timed if as_good else scoring


def _cached(scoring: Scoring) -> float:
    """Return the share of texts that a cache answered."""
    usage = scoring.usage
    return usage.cache_hits / max(1, usage.cache_hits + usage.cache_misses)


def spec_of(chosen: Configuration, backend: object) -> dict[str, Any]:
    """Return the spec of a reranker, given its backend's."""
    stage = backend
    if chosen.weight < 1:
        fusion: dict[str, Any] = {"backends": [backend, "retrieval"]}
        if chosen.method == "weighted":
            fusion |= {"method": "weighted", "normalise": "zscore"}
        if chosen.weight != 0.5:
            fusion["weights"] = [chosen.weight, 1 - chosen.weight]
        stage = {"fusion": fusion}
    spec: dict[str, Any] = {"backend": {"cascade": {"stages": ["retrieval", stage], "keep": chosen.depth}}}
    # As it was measured: where it failed, the first stage's order stood.
    return spec | {"on_error": "input_order"} if chosen.failed else spec


def cost(one: Configuration) -> tuple[float, float, int, bool, bool]:
    """Return what orders configurations, the cheapest and simplest first."""
    dollars = math.inf if one.usd_per_1000 is None else one.usd_per_1000
    ms = math.inf if one.p95_ms is None else one.p95_ms
    return dollars, ms, one.depth, one.weight < 1, one.method == "weighted"


def _at_most(value: float | None, budget: float | None) -> bool:
    return budget is None or (value is not None and value <= budget)


def pareto(configurations: Sequence[Configuration]) -> list[bool]:
    """Return whether no other is at least as good, as fast and as cheap, and better in one of the three."""

    def costs(one: Configuration) -> tuple[float, float, float]:
        return (-one.mean, *cost(one)[:2])

    figures = [costs(one) for one in configurations]
    return [
        not any(other != one and all(a <= b for a, b in zip(other, one, strict=True)) for other in figures)
        for one in figures
    ]


def _mixture(method: Method, weight: float) -> str:
    if weight == 1:
        return ""
    share = "" if weight == 0.5 else f" {weight / (1 - weight):g}:1"
    return f", fused by {'rank' if method == 'rrf' else 'score'}{share}"
