"""What an advice says: its sentence, its remarks, its table, and all of it as plain data."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from rerankx import __version__
from rerankx.evaluation.calibration import Calibrator
from rerankx.evaluation.choosing import FEWEST, Choice
from rerankx.evaluation.configurations import Ceiling, Configuration, Measuring, cost, pareto
from rerankx.evaluation.datasets import Dataset
from rerankx.evaluation.metrics import evaluate
from rerankx.evaluation.scoring import Scoring

if TYPE_CHECKING:
    from rerankx.evaluation.advising import Advice

_REGRESSIONS, _TEXTS, _LETTERS = 5, 5, 300
_WELL_FOUND = 0.9
_TOO_GOOD = 0.9
"""Share of what a perfect order would gain from which a gain is a reason to ask where the model's training data came from."""


def no_headroom(ceiling: Ceiling, measure: str, queries: int) -> str:
    """Return why no model was run."""
    told = f"even the perfect order of these candidates would gain only {ceiling.headroom:.3f} {measure} on {queries} queries"
    if ceiling.ideal < _WELL_FOUND and ceiling.recall[max(ceiling.recall)] < _WELL_FOUND:
        share = f"{ceiling.without_relevant:.0%} of the queries have nothing relevant among their candidates"
        return f"Do not rerank, fix retrieval: {told}, and {share}."
    return f"Do not rerank: {told}, for the first stage has what is relevant in front already."


def reason(choice: Choice, chosen: Configuration, options: int, measure: str, margin: float) -> str:
    """Return the decision, in one sentence with its reason."""
    gain = choice.gain
    figures = f"{gain.difference:+.3f} {measure} ({gain.low:+.3f} to {gain.high:+.3f})"
    if choice.decision == "rerank":
        failed = f"; it failed on {chosen.failed} of {len(chosen.values)} queries" if chosen.failed else ""
        return f"Rerank with {chosen.name}: {figures} on queries it was not chosen on, at {price(chosen)}{failed}."
    best = chosen.name if options == 1 else f"{chosen.name}, chosen of {options}"
    if choice.decision == "skip":
        if gain.verdict == "worse":
            return f"Do not rerank: {best}, has {figures} on other queries: it is worse than the first stage alone."
        return f"Do not rerank: {best}, has {figures} on other queries, which rules out a gain of more than {margin:g}."
    grouped = ", about other documents," if gain.n < len(chosen.values) else ""
    more = "" if gain.more_queries is None else f" Judge about {gain.more_queries:,} more{grouped} to settle it."
    if gain.n < FEWEST:
        about = f" are about {gain.n} sets of documents, and so many" if gain.n < len(chosen.values) else ""
        return (
            f"Inconclusive: {len(chosen.values)} queries{about} are too few to decide by, at least {FEWEST} are needed; {best},"
            f" has {figures}.{more}"
        )
    if gain.verdict == "better":
        return (
            f"Inconclusive: {best}, has {figures} on other queries, and {gain.n} queries are too few to rule out that rare losses"
            f" outweigh it.{more}"
        )
    return (
        f"Inconclusive: {best}, has {figures} on other queries, and so few find a true gain of {gain.detectable:.3f} in 8 of 10"
        f" cases.{more}"
    )


def over_budget(nearest: Configuration, measure: str, budget_ms: float | None, budget_usd: float | None) -> str:
    """Return what would be beyond the budget, where nothing is within it."""
    bounds = [
        f"{budget_ms:g} ms" if budget_ms is not None else "",
        f"${budget_usd:g}" if budget_usd is not None else "",
    ]
    gain = f"{nearest.difference:+.3f} {measure} ({nearest.difference_low:+.3f} to {nearest.difference_high:+.3f})"
    what = "The cheapest that gains" if nearest.difference_low > 0 else "The cheapest"
    return (
        f"Do not rerank within {' and '.join(filter(None, bounds))}: nothing that was tried takes as little. {what} is"
        f" {nearest.name}, with {gain} on these queries, at {price(nearest)}; fewer candidates take less."
    )


def price(one: Configuration) -> str:
    """Return what a query takes, in words."""
    ms = "no known time" if one.p95_ms is None else f"{_rounded(one.p95_ms)} ms (p95)"
    if one.usd_per_1000 is None:
        return f"{ms} and a price that is not known"
    return f"{ms} and ${_rounded(one.usd_per_1000, 2)} per 1,000 queries" if one.usd_per_1000 else f"{ms} and no fee"


def about_data(dataset: Dataset, groups: Sequence[int]) -> Iterator[str]:
    """Yield what is to be known of the data before anything is measured."""
    apart = len(set(groups))
    if apart < len(groups):
        yield (
            f"{len(groups)} queries are about {apart} sets of documents; those about the same one win and lose together, and"
            " count as one where chance is ruled out."
        )
    if dataset.labelled_by:
        yield f"{dataset.labelled_by} gave judgements: the figures are as good as its opinion."
    yield from dataset.issues


def about_choice(
    chosen: Configuration, choice: Choice, options: Sequence[Configuration], measuring: Measuring, ceiling: Ceiling
) -> Iterator[str]:
    """Yield what is to be known of the configuration that was chosen, and of how."""
    least = choice.gain.detectable
    of = "queries" if choice.gain.n == len(measuring.first) else "groups of queries"
    if choice.decision != "rerank" and 0 < least < math.inf:
        yield f"{choice.gain.n} {of} find a true gain of {least:.3f} in 8 of 10 cases."
    parts = sum(choice.chosen.values())
    if (own := choice.chosen.get(choice.option, 0)) < parts:
        others = ", ".join(f"{options[i].name} ({times})" for i, times in choice.chosen.items() if i != choice.option)
        yield f"Chosen on {own} of {parts} parts of the queries; on the others: {others}."
    best = max(options, key=lambda one: one.mean)
    if best is not chosen and best.mean > chosen.mean:
        yield (
            f"{best.name} has {best.mean - chosen.mean:.3f} more on these queries, which is within the margin, at {price(best)}."
        )
    for one in options[: choice.option]:
        gap = [chosen.values[qid] - value for qid, value in one.values.items()]
        if cost(one)[:2] < cost(chosen)[:2] and measuring.interval(gap)[0] <= 0:
            yield f"{one.name} takes less, {price(one)}, and so few queries do not tell the two apart."
            break
    if choice.decision == "rerank" and chosen.method == "weighted" and chosen.weight < 1:
        yield (
            "It adds up scores, and so the retriever has to give them, too: LlamaIndex's nodes have them, and in LangChain"
            " retrieval_score= says where they are."
        )
    judged = [
        next(iter(evaluate(run, measuring.dataset.qrels, [_holes(measuring.measure)]).values()))
        for run in (measuring.run, chosen.run)
    ]
    if abs(judged[0] - judged[1]) > 0.05:
        yield (
            f"Of the documents in front, {judged[0]:.0%} were judged in the first stage's order and {judged[1]:.0%} in the new"
            " one; what has no judgement counts as not relevant."
        )
    if chosen.difference > _TOO_GOOD * ceiling.headroom:
        yield (
            f"It has {chosen.difference / ceiling.headroom:.0%} of what a perfect order would gain. That is rare: make sure that"
            " the model was not trained on these judgements."
        )


def about_backends(scorings: Iterable[Scoring]) -> Iterator[str]:
    """Yield what is to be known of how each backend did its work."""
    for scoring in scorings:
        name, scores = scoring.name, scoring.scores
        if failures := Counter(error.partition(":")[0] for error in scoring.failures.values()):
            why = ", ".join(f"{kind} {times}" for kind, times in failures.items())
            yield f"{name} failed on {failures.total()} queries ({why}); their order is the first stage's."
        if degraded := sum(one.degraded is not None and one.error is None for one in scores.values()):
            yield f"{name} gave less than was asked on {degraded} queries."
        if truncated := sum(one.truncated for one in scores.values()):
            texts = sum(len(one.values) for one in scores.values())
            yield f"{name} read {truncated:,} of {texts:,} texts, each counted for every query, only in part: they are too long."
        if not scoring.pointwise:
            yield f"{name} scores candidates together: it was tried at the deepest alone."
        if scoring.kept:
            yield f"The times of {name} are those of an earlier run, of {scoring.kept} queries; another folder measures anew."
        for warning in scoring.warnings:
            yield f"{name}: {warning}"


def caption(advice: Advice) -> str:
    """Return what the table is about."""
    dataset, ceiling = advice.dataset, advice.ceiling
    recall = ", ".join(f"{value:.3f} at {depth}" for depth, value in ceiling.recall.items())
    stage = dataset.first_stage or "first stage"
    return (
        f"{dataset.name}: {len(dataset.queries)} queries; {advice.measure} of {stage} {ceiling.first:.3f}, of the perfect order"
        f" of its candidates {ceiling.ideal:.3f}; recall {recall}. On all queries, what nothing else beats:"
    )


def rows(advice: Advice) -> list[list[str]]:
    """Return the table: those that no other beats in all respects, and the chosen one; the cheapest first."""
    told = [["", "configuration", advice.measure, "difference", "95 %", "p50 ms", "p95 ms", "$/1,000", "in budget"]]
    front = pareto(advice.configurations)
    for one, best in zip(advice.configurations, front, strict=True):
        if not best and one is not advice.chosen:
            continue
        mark = "" if one is not advice.chosen else "→" if advice.decision == "rerank" else "·"
        times = ["?" if ms is None else _rounded(ms) for ms in (one.p50_ms, one.p95_ms)]
        usd = "?" if one.usd_per_1000 is None else _rounded(one.usd_per_1000, 2)
        interval = f"{one.difference_low:+.3f} to {one.difference_high:+.3f}"
        told.append(
            [mark, one.name, f"{one.mean:.3f}", f"{one.difference:+.3f}", interval, *times, usd,
             "yes" if one.within_budget else "no"]
        )  # fmt: skip
    return told


def plain(advice: Advice) -> dict[str, Any]:
    """Return all figures as plain data, fit for JSON."""
    dataset, choice = advice.dataset, advice.choice
    measuring = Measuring(dataset, advice.measure, advice.groups, seed=0)
    first = list(measuring.first.values())
    low, high = measuring.interval(first)
    return {
        "rerankx": "advice-1",
        "version": __version__,
        "dataset": dataset.name,
        "first_stage": dataset.first_stage,
        "measure": advice.measure,
        "queries": len(first),
        "groups": len(set(advice.groups)),
        "candidates": max(map(len, dataset.candidates.values())),
        "decision": advice.decision,
        "reason": advice.reason,
        "remarks": [one for one in advice.remarks if one not in dataset.issues],
        "issues": list(dataset.issues),
        "budget_ms": advice.budget_ms,
        "budget_usd": advice.budget_usd,
        "offline": advice.offline,
        "margin": advice.margin,
        "level": 0.95,
        "ceiling": {
            **asdict(advice.ceiling),
            "headroom": advice.ceiling.headroom,
            "recall": {str(depth): value for depth, value in advice.ceiling.recall.items()},
        },
        "first": {"mean": advice.ceiling.first, "low": low, "high": high},
        "crossfitted": None if choice is None else _crossfitted(choice, advice.options),
        "chosen": None if advice.chosen is None else advice.configurations.index(advice.chosen),
        "configurations": [
            {**_figures(one), "pareto": best}
            for one, best in zip(advice.configurations, pareto(advice.configurations), strict=True)
        ],
        "per_query": [] if advice.chosen is None else _per_query(advice, advice.chosen),
        "regressions": [] if advice.chosen is None else _regressions(advice, advice.chosen, measuring.run),
        "reliability": [found for scoring in advice.scorings.values() for found in _reliability(scoring)],
        "spec": advice.spec,
    }


def _figures(one: Configuration) -> dict[str, Any]:
    kept = {field.name: getattr(one, field.name) for field in fields(one) if field.name not in ("run", "values")}
    return {"name": one.name, **kept}


def _crossfitted(choice: Choice, options: Sequence[Configuration]) -> dict[str, Any]:
    gain = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in asdict(choice.gain).items()
    }
    return {
        **gain,
        "folds": sum(choice.chosen.values()),
        "chosen": {options[i].name: times for i, times in choice.chosen.items()},
    }


def _per_query(advice: Advice, chosen: Configuration) -> list[dict[str, Any]]:
    queries = advice.dataset.queries
    return [
        {"qid": qid, "query": _cut(text), "before": advice.first[qid], "after": chosen.values[qid]}
        for qid, text in queries.items()
    ]


def _regressions(advice: Advice, chosen: Configuration, before: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the queries that lost most, with the texts in front before and after."""
    losses = {qid: chosen.values[qid] - value for qid, value in advice.first.items()}
    worst = sorted((qid for qid, loss in losses.items() if loss < 0), key=losses.__getitem__)[:_REGRESSIONS]
    told = []
    for qid in worst:
        grades = advice.dataset.qrels[qid]
        texts = {one.docid: one.text for one in advice.dataset.candidates[qid]}
        was, now = (
            [{"docid": docid, "text": _cut(texts[docid]), "grade": grades.get(docid)} for docid in run[qid][:_TEXTS]]
            for run in (before, chosen.run)
        )
        figures = {"before": advice.first[qid], "after": chosen.values[qid]}
        told.append({"qid": qid, "query": _cut(advice.dataset.queries[qid]), **figures, "was": was, "now": now})
    return told


def _reliability(scoring: Scoring) -> Iterator[dict[str, Any]]:
    """Yield how far a backend's scores, made probabilities, can be trusted; nothing where its scores are only an order."""
    if not scoring.scale.absolute:
        return
    pairs = [
        (value, int(scoring.dataset.qrels[qid].get(one.docid, 0) > 0), qid)
        for qid, scored in scoring.scores.items()
        for one, value in zip(scoring.dataset.candidates[qid], scored.values, strict=True)
        if value is not None and scored.degraded is None
    ]
    if len({label for _, label, _ in pairs}) < 2:
        return
    values, labels, qids = zip(*pairs, strict=True)
    about = {"scale": scoring.scale, "fingerprint": scoring.fingerprint, "corpus": scoring.dataset.name}
    try:
        fitted = Calibrator.fit(values, labels, groups=qids, **about)  # type: ignore[arg-type]
    except (ValueError, ArithmeticError):  # scores of which no curve can be made
        return
    bins = [
        {"low": one.low, "high": one.high, "predicted": one.predicted, "observed": one.relevant, "count": one.n}
        for one in fitted.bins
    ]
    note = "; ".join(["what has no judgement counts as not relevant", *fitted.notes])
    figures = {"labels": len(pairs), "error": fitted.ece, "brier": fitted.brier, "note": note}
    yield {"backend": scoring.name, "method": fitted.method, **figures, "bins": bins}


def _rounded(value: float, digits: int = 0) -> str:
    """Return a number with so many decimals, or, where that would show nothing of it, with one digit that counts."""
    return f"{value:,.{digits}f}" if value == 0 or value >= 10**-digits else f"{value:.1g}"


def _holes(measure: str) -> str:
    cutoff = measure.rpartition("@")[2] if "@" in measure else None
    return f"Judged@{cutoff}" if cutoff else "Judged"


def _cut(text: str) -> str:
    return text if len(text) <= _LETTERS else text[: _LETTERS - 1] + "…"
