"""`compare`: several backends over the same candidates: quality with intervals, time, cost, failures."""

from __future__ import annotations

import html
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rerankx.evaluation.datasets import Dataset, write_run
from rerankx.evaluation.metrics import evaluate_per_query
from rerankx.evaluation.scoring import Progress, Scoring, score
from rerankx.evaluation.statistics import Comparison, bootstrap_interval, compare_paired, holm
from rerankx.interface import Backend

Run = Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class System:
    """What was measured of one system, the first stage or a backend behind it."""

    name: str
    run: Run
    """Query id to document ids, best first."""
    values: Mapping[str, float]
    """Query id to the value of the measure."""
    mean: float
    low: float
    """Lower end of the 95 % interval of the mean, see `bootstrap_interval`."""
    high: float
    judged: float
    """Share of the documents in the measure's depth that have a judgement, the mean over queries."""
    scoring: Scoring | None = None
    """None for the first stage."""
    against_first_stage: Comparison | None = None
    """This system minus the first stage. Its verdict is for this comparison alone: of many backends that change nothing, some
    look better by chance; `p_adjusted` knows how many there are."""
    p_adjusted: float | None = None
    """`against_first_stage.p` after Holm's correction for the number of backends."""
    p50_ms: float | None = None
    """Median wall time of a query, in milliseconds, one at a time, warm."""
    p95_ms: float | None = None
    usd_per_1000: float | None = None
    """US dollars for 1,000 such queries; 0 for what is free, None where the price is not known."""

    @property
    def failed(self) -> int:
        """Return on how many queries it failed; there its order is the first stage's."""
        return 0 if self.scoring is None else len(self.scoring.failures)

    @property
    def degraded(self) -> int:
        """Return on how many queries its answer was less than what was asked, failures not counted."""
        scores = () if self.scoring is None else self.scoring.scores.values()
        return sum(one.degraded is not None and one.error is None for one in scores)

    @property
    def truncated(self) -> int:
        """Return how many texts were cut to the model's length, over all queries."""
        return 0 if self.scoring is None else sum(one.truncated for one in self.scoring.scores.values())


@dataclass(frozen=True, slots=True, repr=False)
class Compared:
    """Systems over the candidates of one dataset, the first stage first."""

    dataset: Dataset
    measure: str
    """Named as ir-measures does: "nDCG@10"."""
    systems: tuple[System, ...]

    @property
    def first_stage(self) -> System:
        """Return the first stage, which all others reorder."""
        return self.systems[0]

    def __getitem__(self, name: str) -> System:
        for system in self.systems:
            if system.name == name:
                return system
        raise KeyError(f"no system {name!r}; there are {', '.join(system.name for system in self.systems)}")

    @property
    def holes(self) -> bool:
        """Return whether some system has clearly more unjudged documents in front than another: more than 5 in 100.

        An unjudged document counts as not relevant, so that the system which the judgements were not made for looks worse than
        it is.
        """
        shares = [system.judged for system in self.systems]
        return max(shares) - min(shares) > 0.05

    def to_dict(self) -> dict[str, object]:
        """Return the figures as plain data, without rankings and values per query; None for what is infinite."""
        return {
            "dataset": self.dataset.name,
            "first_stage": self.dataset.first_stage,
            "queries": len(self.first_stage.values),
            "measure": self.measure,
            "holes": self.holes,
            "issues": list(self.dataset.issues),
            "systems": [_plain(system) for system in self.systems],
        }

    def export(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write each system's ranking as a TREC run into the folder, and return the files."""
        made = Path(folder).expanduser()
        made.mkdir(parents=True, exist_ok=True)
        files = []
        for number, system in enumerate(self.systems):
            tag = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in system.name)[:60]
            files.append(made / f"{number:02}-{tag}.run")
            write_run(system.run, files[-1], tag=tag)
        return files

    def __str__(self) -> str:
        rows = _rows(self)
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        aligned = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
        return "\n".join([_caption(self), *(row.rstrip() for row in aligned), *_remarks(self)])

    def __repr__(self) -> str:
        names = ", ".join(system.name for system in self.systems)
        return f"<Compared on {self.dataset.name} by {self.measure}: {names}>"

    def _repr_html_(self) -> str:
        head, *rows = _rows(self)
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in _remarks(self))
        caption = f'<caption style="text-align:left">{html.escape(_caption(self))}</caption>'
        return f"<table>{caption}<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{remarks}"


def compare(
    backends: Sequence[str | Backend] | Mapping[str, str | Backend],
    dataset: Dataset,
    *,
    measure: str = "nDCG@10",
    depth: int | None = None,
    margin: float = 0.01,
    keep: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Compared:
    """Return how the backends order the dataset's candidates, next to the first stage.

        print(compare(["embedded", "minilm"], load("scifact")))

    Each backend is asked once per query, one after the other, about the same candidates. Queries without a relevant judgement
    have no value of most measures and are left out; those without candidates count 0 for every system.

    Args:
        backends: Names or backends, or a mapping of the names that reports shall use.
        dataset: With judgements.
        measure: As in `rerankx.evaluation.evaluate`.
        depth: How many candidates of each query are reranked; None is all.
        margin: The largest difference that does not matter, for the verdicts, in [0, 1).
        keep: As in `score`: a folder from which an interrupted comparison goes on.
        progress: As in `score`, over all backends.
        seed: For the intervals and tests.

    Raises:
        ValueError: No backend, two of one name, no query with a relevant judgement, or fewer than 2.
    """
    named = _named(backends)
    dataset = dataset if depth is None else dataset.depth(depth)
    judged = {qid: grades for qid, grades in dataset.qrels.items() if any(grade > 0 for grade in grades.values())}
    if len(judged) < 2:
        raise ValueError(
            f"{dataset.name} has {len(judged)} queries with a relevant judgement; a comparison needs at least 2"
        )
    dataset = dataset.subset(judged)
    run = {qid: [one.docid for one in found] for qid, found in dataset.candidates.items()}
    first = _system("first stage", run, dataset, measure, seed)
    systems, total = [], len(named) * sum(map(bool, run.values()))
    for position, (name, backend) in enumerate(named.items()):

        def told(done: int, of: int, position: int = position) -> None:
            if progress is not None:
                progress(position * of + done, total)

        scoring = score(backend, dataset, name=name, keep=keep, progress=told)
        system = _system(name, scoring.ranked(), dataset, measure, seed)
        paired = compare_paired(list(system.values.values()), list(first.values.values()), margin=margin, seed=seed)
        p50, p95 = _times(scoring)
        measured = replace(system, p50_ms=p50, p95_ms=p95, usd_per_1000=_price(scoring))
        systems.append(replace(measured, against_first_stage=paired, scoring=scoring))
    adjusted = holm([system.against_first_stage.p for system in systems if system.against_first_stage is not None])
    systems = [replace(system, p_adjusted=p) for system, p in zip(systems, adjusted, strict=True)]
    return Compared(dataset, measure, (first, *systems))


def _named(backends: Sequence[str | Backend] | Mapping[str, str | Backend]) -> dict[str, str | Backend]:
    if isinstance(backends, str | Backend):
        raise TypeError("backends is one; pass a list, such as ['embedded', 'minilm']")
    if isinstance(backends, Mapping):
        named = dict(backends)
    else:
        names = [one if isinstance(one, str) else f"{one.name}:{one.model}" for one in backends]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"two backends are called {twice[0]!r}; pass a mapping of names of your own to backends")
        named = dict(zip(names, backends, strict=True))
    if not named:
        raise ValueError("there is no backend to compare; pass at least one name")
    if "first stage" in named:
        raise ValueError("'first stage' is the name of what all are compared with; take another")
    return named


def _system(name: str, run: Run, dataset: Dataset, measure: str, seed: int) -> System:
    cutoff = measure.rpartition("@")[2] if "@" in measure else None
    holes = f"Judged@{cutoff}" if cutoff else "Judged"
    per_query = evaluate_per_query(run, dataset.qrels, (measure, holes))
    values = {qid: row[measure] for qid, row in per_query.items()}
    low, high = bootstrap_interval(list(values.values()), seed=seed)
    mean, judged = (math.fsum(row[which] for row in per_query.values()) / len(per_query) for which in (measure, holes))
    return System(name, run, values, mean, low, high, judged)


def _times(scoring: Scoring) -> tuple[float | None, float | None]:
    """Return median and 95th percentile of the milliseconds of those queries that were answered."""
    times = [one.elapsed_ms for one in scoring.scores.values() if one.error is None]
    return (statistics.median(times), _quantile(times, 0.95)) if times else (None, None)


def _price(scoring: Scoring) -> float | None:
    cost = scoring.usage.cost_usd
    return None if cost is None else 1000 * cost / len(scoring.scores)


def _quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def _rows(compared: Compared) -> list[list[str]]:
    rows = [
        ["system", compared.measure, "95 %", "difference", "verdict", "wins/ties/losses", "p50 ms", "p95 ms", "$/1,000"]
    ]
    for system in compared.systems:
        paired = system.against_first_stage
        told = ["", "", ""]
        if paired is not None:
            more = "" if paired.more_queries is None else f", {paired.more_queries:,} more queries"
            told = [
                f"{paired.difference:+.3f} ({paired.low:+.3f} to {paired.high:+.3f})",
                paired.verdict + more,
                f"{paired.wins}/{paired.ties}/{paired.losses}",
            ]
        times = ["" if ms is None else f"{ms:,.0f}" for ms in (system.p50_ms, system.p95_ms)]
        price = "" if system.scoring is None else "?" if system.usd_per_1000 is None else f"{system.usd_per_1000:.2f}"
        rows.append([system.name, f"{system.mean:.3f}", f"{system.low:.3f} to {system.high:.3f}", *told, *times, price])
    return rows


def _caption(compared: Compared) -> str:
    dataset = compared.dataset
    stage = dataset.first_stage or "the first stage"
    longest = max(map(len, dataset.candidates.values()), default=0)
    return f"{dataset.name}: {len(dataset.queries)} queries, up to {longest} candidates by {stage}"


def _remarks(compared: Compared) -> list[str]:
    """Return what a reader has to know beside the table."""
    remarks = []
    paired = [one.against_first_stage for one in compared.systems if one.against_first_stage is not None]
    if paired:
        least = max(one.detectable for one in paired)
        remarks.append(
            f"{paired[0].n} queries find a true difference of {least:.3f} in 8 of 10 cases; inconclusive does not mean equal."
        )
    if compared.holes:
        shares = ", ".join(f"{system.name} {system.judged:.0%}" for system in compared.systems)
        remarks.append(
            f"Judged in front: {shares}. What has no judgement counts as not relevant, so these differ in more than order."
        )
    for system in compared.systems:
        for count, what in ((system.failed, "failed"), (system.degraded, "gave less than was asked")):
            if count:
                remarks.append(f"{system.name} {what} on {count} queries.")
        if system.truncated:
            remarks.append(f"{system.name} cut {system.truncated:,} texts to its model's length.")
    return remarks


def _plain(system: System) -> dict[str, object]:
    figures = (
        "name",
        "mean",
        "low",
        "high",
        "judged",
        "p_adjusted",
        "p50_ms",
        "p95_ms",
        "usd_per_1000",
        "failed",
        "degraded",
        "truncated",
    )
    paired = system.against_first_stage
    backend = (
        {} if system.scoring is None else {"backend": system.scoring.backend, "fingerprint": system.scoring.fingerprint}
    )
    return {
        **{name: getattr(system, name) for name in figures},
        **backend,
        "against_first_stage": None if paired is None else _finite(asdict(paired)),
    }


def _finite(figures: Mapping[str, object]) -> dict[str, object]:
    """Return the figures with None for infinity, which JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
