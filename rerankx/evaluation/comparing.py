"""`compare`: several backends over the same candidates: quality with intervals, time, cost, failures."""

from __future__ import annotations

import html
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rerankx.arguments import shown
from rerankx.compose.made import made, whole
from rerankx.errors import RerankxError
from rerankx.evaluation.configurations import relevant_from
from rerankx.evaluation.datasets import Dataset, write_run
from rerankx.evaluation.labels import same_model
from rerankx.evaluation.loads import Cold, Load, cold_start, percentiles, under_load
from rerankx.evaluation.metrics import evaluate, evaluate_per_query
from rerankx.evaluation.scoring import Progress, Scoring, score
from rerankx.evaluation.statistics import Comparison, Verdict, bootstrap_interval, compare_paired, holm
from rerankx.evaluation.tables import as_html, as_lines
from rerankx.interface import Backend
from rerankx.ranking import showable

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
    look better by chance; `verdict` knows how many there are."""
    p_adjusted: float | None = None
    """`against_first_stage.p` after Holm's correction for the number of backends."""
    p50_ms: float | None = None
    """Median wall time of a query, in milliseconds, one at a time, warm."""
    p95_ms: float | None = None
    usd_per_1000: float | None = None
    """US dollars for 1,000 such queries; 0 for what is free, None where the price is not known."""
    load: Load | None = None
    """Where `concurrency` was given."""
    cold: Cold | None = None
    """Where it was asked for and could be measured."""
    no_cold: str = ""
    """Why it could not."""

    @property
    def verdict(self) -> Verdict | None:
        """Return the verdict against the first stage; "better" and "worse" only where they hold for so many backends.

        They do if `p_adjusted` is at most 1 - level, and else are "inconclusive". "equivalent" stays, which no p is about.
        """
        paired = self.against_first_stage
        if paired is None or self.p_adjusted is None or paired.verdict not in ("better", "worse"):
            return None if paired is None else paired.verdict
        return paired.verdict if self.p_adjusted <= 1 - paired.level else "inconclusive"

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
        return showable("\n".join([_caption(self), *as_lines(_rows(self)), *_remarks(self)]))

    def __repr__(self) -> str:
        names = ", ".join(system.name for system in self.systems)
        return f"<Compared on {self.dataset.name} by {self.measure}: {names}>"

    def _repr_html_(self) -> str:
        remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in _remarks(self))
        return as_html(_rows(self), caption=_caption(self)) + remarks


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
    concurrency: int | None = None,
    cold: bool = False,
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
        concurrency: How many threads at once ask each backend a sample of the queries again, after it was scored, at its price;
            see `rerankx.evaluation.loads.under_load`. None: that is not measured.
        cold: Whether each backend is started again in a new Python process, and asked three queries there, at their price; see
            `rerankx.evaluation.loads.cold_start`. Both are measured anew each time: `keep` does not hold them.

    Raises:
        ValueError: No backend, two of one name, no query with a relevant judgement, fewer than 2, or as `refuse_own_judge`.
    """
    check_asked(measure, margin)
    named = named_backends(backends)
    refuse_own_judge(named, dataset)
    if concurrency is not None:
        concurrency = whole("concurrency", concurrency)
    dataset = dataset if depth is None else dataset.depth(depth)
    lowest = relevant_from(measure)
    judged = {qid: grades for qid, grades in dataset.qrels.items() if any(grade >= lowest for grade in grades.values())}
    if len(judged) < 2:
        raise ValueError(
            f"{dataset.name} has {len(judged)} queries with a relevant judgement; a comparison needs at least 2"
        )
    dataset = dataset.subset(judged)
    run = {qid: [one.docid for one in found] for qid, found in dataset.candidates.items()}
    first = _system("first stage", run, dataset, measure, seed)
    systems = []
    for position, (name, backend) in enumerate(named.items()):

        def told(done: int, of: int, position: int = position) -> None:
            if progress is not None:
                progress(position * of + done, len(named) * of)

        scorer = made("backend", backend)
        scoring = score(scorer, dataset, name=name, keep=keep, progress=told)
        system = _system(name, scoring.ranked(), dataset, measure, seed)
        paired = compare_paired(list(system.values.values()), list(first.values.values()), margin=margin, seed=seed)
        p50, p95 = _times(scoring)
        load = None if concurrency is None else under_load(scorer, scoring, concurrency=concurrency, seed=seed)
        started, why = _cold(scorer, scoring, seed) if cold else (None, "")
        measured = replace(
            system, p50_ms=p50, p95_ms=p95, usd_per_1000=scoring.usd_per_1000, load=load, cold=started, no_cold=why
        )
        systems.append(replace(measured, against_first_stage=paired, scoring=scoring))
    adjusted = holm([system.against_first_stage.p for system in systems if system.against_first_stage is not None])
    systems = [replace(system, p_adjusted=p) for system, p in zip(systems, adjusted, strict=True)]
    return Compared(dataset, measure, (first, *systems))


def check_asked(measure: str, margin: float) -> None:
    """Raise ValueError for what cannot be compared by, before anything is paid for."""
    if not 0 <= margin < 1:
        raise ValueError(f"margin must be in [0, 1), not {shown(margin)}")
    evaluate({}, {"q": {"d": 1}}, [measure])
    if measure.startswith("Judged"):
        raise ValueError(
            f"{measure} tells how much was judged, not how good an order is; take another, such as nDCG@10"
        )


def refuse_own_judge(backends: Mapping[str, str | Backend], dataset: Dataset) -> None:
    """Raise an error if a backend cannot be made, or is judged by itself.

    Raises:
        ValueError: A backend is the model that gave the dataset's judgements, or holds it.
    """
    for name, backend in backends.items():
        if same_model(made("backend", backend), dataset.labelled_by):
            raise ValueError(
                f"{dataset.name} was judged by {dataset.labelled_by}, and {name} is that model or holds it: it would be measured"
                " by its own opinion. Leave it out, or take judgements of people or of another model"
            )


def named_backends(backends: Sequence[str | Backend] | Mapping[str, str | Backend]) -> dict[str, str | Backend]:
    """Return the backends by what reports call them.

    Raises:
        TypeError: It is one, not several.
        ValueError: There is none, or two of one name.
    """
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
    if odd := [name for name in named if not isinstance(name, str) or not name.strip()]:
        raise ValueError(f"{shown(odd[0])} is no name for a backend; take one that reports can show")
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
    return percentiles([one.elapsed_ms for one in scoring.scores.values() if one.error is None])


def _cold(backend: Backend, scoring: Scoring, seed: int) -> tuple[Cold | None, str]:
    """Return what was measured, or None and why not."""
    try:
        return cold_start(backend, scoring, seed=seed), ""
    except RerankxError as error:
        return None, f"{type(error).__name__}: {error}"


def _rows(compared: Compared) -> list[list[str]]:
    loads = [system.load for system in compared.systems if system.load is not None]
    colds = [system.cold for system in compared.systems if system.cold is not None]
    head = [
        "system",
        compared.measure,
        "95 %",
        "difference",
        "verdict",
        "wins/ties/losses",
        "p50 ms",
        "p95 ms",
        "$/1,000",
    ]
    if loads:
        head += [f"{figure}, {loads[0].concurrency} at once" for figure in ("p50 ms", "p95 ms", "queries/s")]
    if colds:
        head += ["cold start s", "memory MB"]
    rows = [head]
    for system in compared.systems:
        paired = system.against_first_stage
        told = ["", "", ""]
        if paired is not None:
            more = "" if paired.more_queries is None else f", {paired.more_queries:,} more queries"
            verdict = f"{system.verdict}{more}" if paired.ties < paired.n else "the same on every query"
            told = [
                f"{paired.difference:+.3f} ({paired.low:+.3f} to {paired.high:+.3f})",
                verdict,
                f"{paired.wins}/{paired.ties}/{paired.losses}",
            ]
        times = [_number(ms) for ms in (system.p50_ms, system.p95_ms)]
        price = "" if system.scoring is None else "?" if system.usd_per_1000 is None else f"{system.usd_per_1000:.2f}"
        row = [system.name, f"{system.mean:.3f}", f"{system.low:.3f} to {system.high:.3f}", *told, *times, price]
        load, cold = system.load, system.cold
        if loads:
            row += (
                ["", "", ""]
                if load is None
                else [*map(_number, (load.p50_ms, load.p95_ms)), f"{load.queries_per_s:,.1f}"]
            )
        if colds:
            row += ["", ""] if cold is None else [f"{cold.start_s:,.1f}", _number(cold.memory_mb)]
        rows.append(row)
    return rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


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
        if 0 < least < math.inf:
            remarks.append(
                f"{paired[0].n} queries find a true difference of {least:.3f} in 8 of 10 cases; inconclusive does not mean equal."
            )
    if compared.holes:
        shares = ", ".join(f"{system.name} {system.judged:.0%}" for system in compared.systems)
        remarks.append(
            f"Judged in front: {shares}. What has no judgement counts as not relevant, so these differ in more than order."
        )
    for system in compared.systems:
        alone = system.against_first_stage
        if alone is not None and system.verdict != alone.verdict:
            remarks.append(
                f"{system.name} is {alone.verdict} if looked at alone (p {alone.p:.3f}), which may be chance among"
                f" {len(paired)} backends (p {system.p_adjusted:.3f}, corrected for their number)."
            )
    for system in compared.systems:
        for count, what in ((system.failed, "failed"), (system.degraded, "gave less than was asked")):
            if count:
                remarks.append(f"{system.name} {what} on {count} queries.")
        if system.truncated:
            remarks.append(f"{system.name} cut {system.truncated:,} texts to its model's length.")
        remarks += _remarks_on_loads(system)
    return remarks


def _remarks_on_loads(system: System) -> list[str]:
    remarks = []
    if system.load is not None and system.load.failed:
        remarks.append(f"{system.name} failed on {system.load.failed} of {system.load.queries} queries under load.")
    for measured, when in ((system.load, "under load"), (system.cold, "at its cold start")):
        if measured is not None and round(measured.cached, 2):
            remarks.append(f"{system.name} took {measured.cached:.0%} of the texts {when} from a cache.")
    if system.no_cold:
        remarks.append(f"{system.name} has no cold start: {system.no_cold}")
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
        "verdict": system.verdict,
        "against_first_stage": None if paired is None else _finite(asdict(paired)),
        **({} if system.load is None else {"load": asdict(system.load)}),
        **({"cold": None, "no_cold": system.no_cold} if system.no_cold else {}),
        **({} if system.cold is None else {"cold": asdict(system.cold)}),
    }


def _finite(figures: Mapping[str, object]) -> dict[str, object]:
    """Return the figures with None for infinity, which JSON does not know."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
