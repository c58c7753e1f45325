"""`advise`: whether to rerank on a dataset, with what, and how deep; the answer may be no."""

from __future__ import annotations

import html
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rerankx import registry
from rerankx.arguments import shown
from rerankx.compose.made import made, whole
from rerankx.errors import BackendError, ModelNotFoundError, SpecError
from rerankx.evaluation import wording
from rerankx.evaluation.choosing import Choice, Decision, choose, nothing_to_gain, same_subject
from rerankx.evaluation.comparing import check_asked, named_backends, refuse_own_judge
from rerankx.evaluation.configurations import Ceiling, Configuration, Measuring, cost, relevant_from, spec_of
from rerankx.evaluation.datasets import Dataset, load
from rerankx.evaluation.labels import parts_of
from rerankx.evaluation.report import report
from rerankx.evaluation.scoring import Progress, Scoring, score
from rerankx.evaluation.tables import as_html, as_lines
from rerankx.interface import Backend
from rerankx.ranking import showable
from rerankx.reranker import Reranker
from rerankx.spec import from_spec, to_spec

_HIGHEST_BUDGET = 1e9
_DEFAULT = ("embedded", "minilm")
_DEPTHS = (10, 20, 50, 100, 200)
# Those that ask nobody but, where a model is not there yet, the hub.
_LOCAL = {"embedded", "retrieval", "cross-encoder", "flashrank", "minilm", "bge", "jina", "mxbai", "gte", "qwen3"}


@dataclass(frozen=True, slots=True, repr=False)
class Advice:
    """Whether to rerank, with what, and why. `print(advice)` shows a table; `save` writes all there is."""

    decision: Decision
    """"rerank", "skip" or "inconclusive"."""
    reason: str
    """In one sentence."""
    remarks: Sequence[str]
    """What a reader has to know beside it, a sentence each."""
    dataset: Dataset
    """Of what was given, the queries that have a relevant judgement."""
    measure: str
    margin: float
    """The largest difference that does not matter."""
    budget_ms: float | None
    budget_usd: float | None
    offline: bool
    groups: Sequence[int]
    """A number per query; those of one number are about the same documents, and are tested as one."""
    ceiling: Ceiling
    first: Mapping[str, float]
    """The first stage's value per query."""
    configurations: Sequence[Configuration]
    """The cheapest first; none where the ceiling ended it before a model ran."""
    choice: Choice | None
    """How it was chosen from `options`, and what that is worth; None where there was nothing to choose from."""
    chosen: Configuration | None
    """The one to take; or, where the decision is another, the one that came nearest: over the budget, the cheapest that gains."""
    scorings: Mapping[str, Scoring]
    """All scores, by what reports call the backend."""
    spec: Mapping[str, Any] | None
    """What `rerankx.from_spec` makes the chosen one of; None unless the decision is "rerank"."""

    @property
    def options(self) -> Sequence[Configuration]:
        """Return what was chosen from: the configurations within the budget."""
        return [one for one in self.configurations if one.within_budget]

    def reranker(self) -> Reranker:
        """Return the reranker that is advised.

        Raises:
            ValueError: None is.
        """
        if self.spec is None:
            raise ValueError(f"no reranker is advised: {self.reason}")
        return from_spec(self.spec)

    def to_dict(self) -> dict[str, Any]:
        """Return all figures as plain data, fit for JSON; the report is made of this."""
        return wording.plain(self)

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write report.html, advice.json and, where one is advised, reranker.json, the spec; return the files."""
        made_in = Path(folder).expanduser()
        made_in.mkdir(parents=True, exist_ok=True)
        told = self.to_dict()
        contents = {"report.html": report(told), "advice.json": json.dumps(told, indent=1, allow_nan=False)}
        if self.spec is not None:
            contents["reranker.json"] = json.dumps(self.spec, indent=1)
        elif (made_in / "advice.json").exists():  # of an advice that no longer holds
            (made_in / "reranker.json").unlink(missing_ok=True)
        files = []
        for name, content in contents.items():
            files.append(made_in / name)
            files[-1].write_text(content + "\n", encoding="utf-8", errors="backslashreplace")
        return files

    def __str__(self) -> str:
        remarks = ("- " + one for one in self.remarks)
        return showable("\n".join([self.reason, "", wording.caption(self), *as_lines(wording.rows(self)), *remarks]))

    def __repr__(self) -> str:
        return f"<Advice on {self.dataset.name}: {self.decision}>"

    def _repr_html_(self) -> str:
        remarks = "".join(f"<li>{html.escape(one)}</li>" for one in self.remarks)
        table = as_html(wording.rows(self), caption=wording.caption(self))
        return f"<p><b>{html.escape(self.reason)}</b></p>{table}<ul>{remarks}</ul>"


def advise(
    data: Dataset | str | os.PathLike[str],
    backends: Sequence[str | Backend] | Mapping[str, str | Backend] | None = None,
    *,
    budget_ms: float | None = None,
    budget_usd: float | None = None,
    offline: bool = False,
    measure: str = "nDCG@10",
    depths: Sequence[int] = _DEPTHS,
    margin: float = 0.01,
    keep: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Advice:
    """Return whether to rerank, with what, and how deep; the answer may be no.

        advice = advise("my-collection", budget_ms=100)
        print(advice)
        advice.save("advice")

    First what costs nothing: where even a perfect order of the candidates would gain less than two margins, no model is run.
    Then every backend scores the candidates once, and each of the depths and mixtures with the first stage is a configuration.
    Of those within the budget the cheapest is chosen that is not inferior to the best. What that is worth is measured by
    cross-fitting, on queries that the choice was not made on: "rerank" if the gain is shown (95 %), "skip" if a gain of more than
    the margin is ruled out, and else "inconclusive", with how many more queries are needed.

    Depths below the deepest are timed apart, on 30 queries, by a copy of the backend that has seen no text; this asks a service
    about those again. Queries with the same relevant documents are one group and are not taken for independent.

    Args:
        data: A dataset with judgements, or what `load` takes: the path of a collection.
        backends: As in `compare`, without caches that outlive them: those answer in no time and at no cost. None is "embedded",
            and "minilm" where its files are on this machine.
        budget_ms: Most that the 95th percentile of a query's time may be, in milliseconds; None is no bound.
        budget_usd: Most that 1,000 queries may cost, in US dollars; a price that is not known is above it. None is no bound.
        offline: Whether to refuse backends of ours that ask a service, wherever it runs, and to fetch no model that is named.
        measure: As in `rerankx.evaluation.evaluate`, in [0, 1].
        depths: How many candidates are reranked. A backend whose scores depend on each other is tried at the deepest alone.
        margin: The largest difference that does not matter, in [0, 1).
        keep: As in `score`: a folder from which an interrupted run goes on.
        progress: As in `score`, over all backends.
        seed: For the parts, the intervals and the tests.

    Raises:
        ValueError: Fewer than 2 queries with a relevant judgement, an argument out of its range, a backend that gave the
            judgements, or one that asks a service in spite of `offline`.
        ModelNotFoundError: The files of a backend that was named are not to be had.
        BackendError: Each of them failed on its first ten queries.
    """
    for name, budget in (("budget_ms", budget_ms), ("budget_usd", budget_usd)):
        if budget is not None and not 0 <= budget <= _HIGHEST_BUDGET:
            raise ValueError(f"{name} must be a number from 0 to {_HIGHEST_BUDGET:.0e}, or None, not {shown(budget)}")
    check_asked(measure, margin)
    deep = sorted({whole("a depth", depth) for depth in depths})
    if not deep:
        raise ValueError("depths is empty; give at least one, such as 50")
    lowest = relevant_from(measure)
    dataset = _judged(data if isinstance(data, Dataset) else load(data, depth=max(deep)), lowest)
    longest = min(deep[-1], max(map(len, dataset.candidates.values())))
    deep = [*(depth for depth in deep if depth < longest), longest]
    groups = same_subject(dataset.queries, dataset.qrels, relevant_from=lowest)
    measuring = Measuring(dataset, measure, groups, seed)
    first = list(measuring.first.values())
    ceiling, ideal = measuring.ceiling(deep)
    remarks = list(wording.about_data(dataset, groups))

    def advice(decision: Decision, reason: str, **found: Any) -> Advice:
        nothing: dict[str, Any] = {"configurations": (), "choice": None, "chosen": None, "scorings": {}, "spec": None}
        return Advice(
            decision=decision,
            reason=reason,
            remarks=remarks,
            dataset=dataset,
            measure=measure,
            margin=margin,
            budget_ms=budget_ms,
            budget_usd=budget_usd,
            offline=offline,
            groups=groups,
            ceiling=ceiling,
            first=measuring.first,
            **{**nothing, **found},
        )

    if nothing_to_gain(first, ideal, margin=margin):
        return advice("skip", wording.no_headroom(ceiling, measure, len(first)))
    named = named_backends(_DEFAULT if backends is None else backends)
    if offline:
        _refuse_services(named)
    as_is = {name: made("backend", one) for name, one in named.items()}
    at_hand = {name: _at_hand(one) for name, one in named.items()}
    ready = at_hand if offline or backends is None else as_is
    tried, missing = _tried(ready, dataset.depth(longest), backends is None, keep, progress)
    remarks += missing
    configurations: list[Configuration] = []
    for scoring in tried:
        configurations += measuring.configurations(
            scoring, ready[scoring.name], deep, keep=keep, budget_ms=budget_ms, budget_usd=budget_usd
        )
    configurations.sort(key=cost)
    remarks += wording.about_backends(tried)
    found: dict[str, Any] = {"configurations": configurations, "scorings": {scoring.name: scoring for scoring in tried}}
    options = [one for one in configurations if one.within_budget]
    if not options:
        nearest = next((one for one in configurations if one.difference_low > 0), configurations[0])
        return advice("skip", wording.over_budget(nearest, measure, budget_ms, budget_usd), chosen=nearest, **found)
    values = [list(one.values.values()) for one in options]
    choice = choose(first, values, groups=groups, margin=margin, seed=seed)
    chosen, spec = options[choice.option], None
    remarks[:0] = wording.about_choice(chosen, choice, options, measuring, ceiling)
    if choice.decision == "rerank":
        backend = (at_hand if offline else as_is)[chosen.backend]
        try:
            spec = spec_of(chosen, to_spec(Reranker(backend))["backend"])
        except SpecError as error:
            remarks.append(f"There can be no spec of {chosen.backend}: {error}")
    reason = wording.reason(choice, chosen, len(options), measure, margin)
    return advice(choice.decision, reason, choice=choice, chosen=chosen, spec=spec, **found)


def _judged(dataset: Dataset, lowest: int) -> Dataset:
    judged = [qid for qid, grades in dataset.qrels.items() if any(grade >= lowest for grade in grades.values())]
    if len(judged) < 2:
        raise ValueError(
            f"{dataset.name} has {len(judged)} queries with a relevant judgement, and an advice needs at least 2: judge some, or"
            " have a model judge them (rerankx.evaluation.label)"
        )
    if not any(dataset.candidates[qid] for qid in judged):
        raise ValueError(
            f"no query of {dataset.name} has a candidate; check that the ids in run and judgements are the same"
        )
    return dataset.subset(judged)


def _tried(
    ready: Mapping[str, Backend],
    dataset: Dataset,
    may_miss: bool,
    keep: str | os.PathLike[str] | None,
    progress: Progress | None,
) -> tuple[list[Scoring], list[str]]:
    """Return the scores of each backend, and a sentence about each of which there are none."""
    refuse_own_judge(ready, dataset)
    tried, missing = [], []
    failure: BackendError | None = None
    for position, (name, backend) in enumerate(ready.items()):

        def told(done: int, of: int, position: int = position) -> None:
            if progress is not None:
                progress(position * of + done, len(ready) * of)

        try:
            tried.append(score(backend, dataset, name=name, keep=keep, progress=told))
        except ModelNotFoundError:
            if not may_miss:
                raise
            missing.append(f"{name} is a stronger model and not on this machine: name it to have it fetched and tried.")
        except BackendError as error:
            failure = failure or error
            missing.append(f"{name} was not measured: {error}")
    if failure is not None and not tried:
        raise failure
    return tried, missing


def _at_hand(backend: str | Backend) -> Backend:
    """Return the backend, which is to load what is there and nothing else, if it is told by its name."""
    ready = made("backend", backend)
    if isinstance(backend, str) and "local_files_only" in inspect.signature(type(ready)).parameters:
        return registry.create(backend, local_files_only=True)
    return ready


def _refuse_services(named: Mapping[str, str | Backend]) -> None:
    services = (registry.BUILT_IN.keys() | registry.presets().keys()) - _LOCAL
    for name, backend in named.items():
        asked = {backend.partition(":")[0]} if isinstance(backend, str) else {one.name for one in parts_of(backend)}
        if found := asked & services:
            raise ValueError(
                f"{name} asks a service ({', '.join(sorted(found))}), and offline refuses those; leave it out"
            )
