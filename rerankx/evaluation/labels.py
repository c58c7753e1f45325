"""Judgements by a language model, held against those of people."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rerankx.arguments import shown
from rerankx.compose.made import made, title, whole
from rerankx.errors import BackendError
from rerankx.evaluation.datasets import Candidate, Dataset
from rerankx.evaluation.scoring import Progress, Scoring, score
from rerankx.interface import Backend, Scale, Usage
from rerankx.registry import create

_ENOUGH = 50  # pairs
# "Moderate" begins above it: Landis and Koch, Biometrics 33, 1977, doi:10.2307/2529310.
_TRUSTED = 0.4
_RESAMPLES = 2000

Pair = tuple[str, str]
"""Query id and document id."""
Graded = tuple[str, int, int]
"""Query id, the grade by people, the grade by the model."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far a model's grades agree with those of people, on the pairs that both have judged.

    Both for these pairs and no others: where relevant texts are rarer than among them, kappa is another.
    """

    pairs: int
    queries: int
    """Of which the pairs are."""
    counts: Mapping[tuple[int, int], int]
    """Grade by people and grade by the model, each on its own scale, to the number of pairs."""
    confusion: tuple[tuple[int, int], tuple[int, int]]
    """Pairs by people (row) and by the model (column): not relevant, relevant."""
    share_equal: float | None
    """Of the pairs, those that both call relevant or both do not; None without pairs."""
    kappa: float | None
    """Cohen's, on relevant or not: 1 is full agreement, 0 what chance would give. None where people have judged all pairs alike,
    so that nothing can be told."""
    low: float | None
    """Lower end of the 95 % interval of kappa, by drawing queries; None where there is no kappa, or one query. Of few queries it
    is too narrow."""
    high: float | None
    weighted_kappa: float | None
    """As kappa, on grades, with quadratic weights; None if the two scales are not the same, or are of two grades."""

    @property
    def enough(self) -> bool:
        """Return whether there are at least 50 pairs."""
        return self.pairs >= _ENOUGH

    @property
    def trusted(self) -> bool:
        """Return whether kappa is at least 0.4, over enough pairs."""
        return self.enough and self.kappa is not None and self.kappa >= _TRUSTED

    @property
    def warnings(self) -> list[str]:
        """Return why the labels are not to be trusted, a sentence each; none if they are."""
        found = []
        if not self.enough:
            found.append(
                f"Only {self.pairs} pairs were judged by both: at least {_ENOUGH} are needed to trust the labels."
            )
        if self.pairs and self.kappa is None:
            alike, other = ("relevant", "not") if sum(self.confusion[1]) else ("not relevant", "relevant")
            found.append(
                f"People call all of these pairs {alike}, so that kappa is undefined and nothing is verified: have some judged"
                f" that are {other}."
            )
        elif self.kappa is not None and self.kappa < _TRUSTED:
            found.append(
                f"Kappa is below {_TRUSTED}: do not decide by these labels; try another model or other criteria."
            )
        return found

    def __str__(self) -> str:
        if not self.pairs:
            return "Against people: no pair was judged by both."
        (_, false), (missed, _) = self.confusion
        parts = [f"Against people: {self.pairs} pairs of {self.queries} queries"]
        if self.kappa is None:
            parts.append("kappa undefined")
        else:
            interval = "" if self.low is None else f" ({self.low:.2f} to {self.high:.2f})"
            parts.append(f"kappa {self.kappa:.2f}{interval}")
        if self.weighted_kappa is not None:
            parts.append(f"weighted kappa {self.weighted_kappa:.2f}")
        parts.append(
            f"the same of {self.share_equal:.0%}; relevant by the model alone {false}, by people alone {missed}"
        )
        return ", ".join(parts) + "."


@dataclass(frozen=True, slots=True, repr=False)
class Labels:
    """A dataset with a model's judgements in it, and what is known of how good they are."""

    dataset: Dataset
    """With the new judgements, and `labelled_by`, if any of them is the model's."""
    agreement: Agreement | None
    """None where there was no judgement by people."""
    judge: str
    """Who was asked, as "name:model"."""
    grades: Mapping[str, Mapping[str, int]]
    """Query id to document id to the model's own grade, of all that it was asked."""
    relevant_from: int
    """Lowest of the model's grades that counts as relevant."""
    added: int
    """How many judgements in the dataset are the model's."""
    ungraded: int
    """How many texts got no grade, those of failed queries not counted."""
    failures: Mapping[str, str]
    """The errors of the queries where the judge failed; none of their judgements is the model's."""
    usage: Usage
    """What all questions took, but for the two texts by which `score` warms up."""

    def __str__(self) -> str:
        judged = self.dataset.qrels
        relevant = sum(any(grade > 0 for grade in grades.values()) for grades in judged.values())
        lines = [
            f"{self.dataset.name}: {self.added} judgements by {self.judge}, relevant from its grade {self.relevant_from}; with"
            f" them {relevant} of {len(judged)} queries have a relevant document.",
        ]
        if self.agreement is None:
            lines.append(
                "Warning: nothing was verified, there is no judgement by people: have at least 50 pairs judged."
            )
        else:
            lines += [str(self.agreement), *(f"Warning: {one}" for one in self.agreement.warnings)]
        if self.failures:
            first = next(iter(self.failures.values()))
            lines.append(
                f"Warning: {len(self.failures)} of {len(judged)} queries failed and have no grade by the model; the first:"
                f" {first}"
            )
        if self.ungraded:
            lines.append(f"Warning: texts without a grade: {self.ungraded}; in measures they count as not relevant.")
        cost = "price not known" if self.usage.cost_usd is None else f"${self.usage.cost_usd:.4f}"
        return "\n".join([*lines, f"It took {self.usage.calls} calls, {cost}."])

    def __repr__(self) -> str:
        return f"<Labels of {self.dataset.name} by {self.judge}: {self.added} judgements>"


def label(
    dataset: Dataset,
    judge: object,
    *,
    depth: int = 10,
    relevant_from: int | None = None,
    people_relevant_from: int = 1,
    sample: int | None = None,
    people_first: bool = True,
    keep: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    seed: int = 0,
) -> Labels:
    """Return the dataset with a model's judgements of the first candidates, and their agreement with those of people.

        labels = label(load("my-collection"), "judge:gpt-6-luna", depth=20, keep="labels")
        print(labels)
        compare(["embedded", "minilm"], labels.dataset)

    Each text is graded by itself, so that there is no order of passages which could sway the judge. The model that gave the
    grades cannot be compared by them: it would agree with itself.

    A score becomes a grade by rounding to the nearest whole number on the judge's scale, a half upwards: 0 to 4, or 0 and 1 of a
    probability. A logit is made a probability first. As measures call every grade from 1 relevant, a grade below `relevant_from`
    is written down as 0, and the others as they are. Where people have judged some of the dataset on another scale, with the
    highest grade h, a relevant grade is written down in proportion: between 1 and h.

    Args:
        dataset: With candidates; its judgements, if it has any, are taken for those of people.
        judge: A language model: a chat model or LLM of either framework, or a function, as `llm=` of the backend "judge"; or a
            pointwise backend of one model, whose scores are grades, or its name, such as "judge:...".
        depth: How many candidates of each query are graded.
        relevant_from: Lowest of the judge's grades that counts as relevant; None is half of its highest, rounded up: 2 of 4,
            which is "holds a part of the answer" by the criteria that come with `Judge`.
        people_relevant_from: Lowest grade by people that counts as relevant, for the agreement.
        sample: How many of the pairs that people have judged are graded too, to find the agreement: drawn from all candidates,
            spread over grades and queries. None is all those among the first `depth`.
        people_first: Whether a judgement by people stays where the model gives another.
        keep: As in `score`: a folder from which an interrupted call goes on.
        progress: As in `score`.
        seed: For the sample and the interval of kappa.

    Raises:
        BackendError: The judge has graded nothing.
        ValueError: An argument out of its range, a judge whose scores are no grades, a dataset that a model has judged, or one in
            which there is nothing to grade.
    """
    grader = made("judge", judge) if isinstance(judge, str | Backend) else create("judge", llm=judge)
    depth = whole("depth", depth)
    if dataset.labelled_by:
        raise ValueError(
            f"{dataset.name} has judgements by {dataset.labelled_by}, which would be taken for those of people: pass the dataset"
            " as it was without them"
        )
    who, highest = _checked_judge(grader)
    relevant_from = -(-highest // 2) if relevant_from is None else whole("relevant_from", relevant_from)
    if relevant_from > highest:
        raise ValueError(f"relevant_from is {relevant_from}, and the highest grade of {who} is {highest}")
    people_relevant_from = whole("people_relevant_from", people_relevant_from)
    both = _both(dataset, depth, None if sample is None else whole("sample", sample, low=0), seed)
    asked = _asked(dataset, depth, both, people_first=people_first)

    scoring = score(grader, asked, keep=keep, progress=progress)
    grades = _grades(scoring, grader.scale)
    if not any(grades.values()):
        why = next(iter(scoring.failures.values()), "it left all of them without a score")
        error = BackendError(f"{who} has graded none of the texts of {dataset.name}: {why}")
        error.usage = scoring.usage
        raise error
    top = max((grade for judged in dataset.qrels.values() for grade in judged.values()), default=0)
    qrels, added = _merged(dataset, grades, highest, relevant_from, max(top, 0), people_first=people_first)
    agreement = None
    if any(dataset.qrels.values()):
        graded = [(qid, dataset.qrels[qid][docid], grades[qid][docid]) for qid, docid in both if docid in grades[qid]]
        agreement = agreement_of(
            graded,
            relevant_from=(people_relevant_from, relevant_from),
            same_scale=1 < top == highest,
            seed=seed,
        )
    missing = sum(
        found.error is None and value is None and bool(one.text.strip())
        for qid, found in scoring.scores.items()
        for one, value in zip(asked.candidates[qid], found.values, strict=True)
    )
    issues = [*dataset.issues, f"{added} judgements are by {who}, {_trust(agreement)}"] if added else dataset.issues
    labelled = replace(dataset, qrels=qrels, labelled_by=who if added else "", issues=issues)
    return Labels(
        labelled, agreement, who, grades, relevant_from, added, missing, dict(scoring.failures), scoring.usage
    )


def agreement_of(
    graded: Collection[Graded], *, relevant_from: tuple[int, int] = (1, 1), same_scale: bool = False, seed: int = 0
) -> Agreement:
    """Return how far the grades agree.

    Args:
        graded: Query id, grade by people and grade by the model, of each pair that both have judged.
        relevant_from: Lowest grade that counts as relevant, of people and of the model.
        same_scale: Whether the two grades are on one scale, of more than two grades.
        seed: For the interval.
    """
    # A negative grade counts as 0, as everywhere.
    rows = [(qid, max(people, 0), max(model, 0)) for qid, people, model in graded]
    relevant = [(qid, int(people >= relevant_from[0]), int(model >= relevant_from[1])) for qid, people, model in rows]
    cells = Counter((people, model) for _, people, model in relevant)
    told_apart = len({people for _, people, _ in relevant}) > 1
    low, high = _interval(relevant, seed) if told_apart else (None, None)
    return Agreement(
        pairs=len(rows),
        queries=len({qid for qid, _, _ in rows}),
        counts=dict(sorted(Counter((people, model) for _, people, model in rows).items())),
        confusion=((cells[0, 0], cells[0, 1]), (cells[1, 0], cells[1, 1])),
        share_equal=(cells[0, 0] + cells[1, 1]) / len(rows) if rows else None,
        kappa=cohens_kappa([row[1] for row in relevant], [row[2] for row in relevant]) if told_apart else None,
        low=low,
        high=high,
        weighted_kappa=cohens_kappa([row[1] for row in rows], [row[2] for row in rows]) if same_scale else None,
    )


def cohens_kappa(first: Sequence[int], second: Sequence[int]) -> float | None:
    """Return Cohen's kappa of two raters' grades with quadratic weights; of two neighbouring grades, the plain one.

    In (-1, 1]; None where it is undefined, since both raters give one and the same grade to everything, or there is none.

    Source: Cohen, Psychological Bulletin 70, 1968, doi:10.1037/h0026256.
    """
    n = len(first)
    apart = sum((a - b) ** 2 for a, b in zip(first, second, strict=True))
    by_chance = n * (sum(a * a for a in first) + sum(b * b for b in second)) - 2 * sum(first) * sum(second)
    return 1 - n * apart / by_chance if by_chance else None


def same_model(backend: Backend, labelled_by: str) -> bool:
    """Return whether the backend is, or a wrapper that holds, the model that gave a dataset's judgements.

    Models are the same if their names are, without regard to case, to the backend that asks them and to a provider in front:
    "judge:gpt-x" is "listwise:openai/GPT-X". A function goes by its own name. That two names mean one model, such as an alias
    and its dated version, cannot be known.

    Args:
        backend: Any; what it holds in its attributes is looked into, to every depth.
        labelled_by: `Dataset.labelled_by`, "name:model"; "" is nobody.
    """
    # A model's own name may have colons: of "judge:qwen3:8b" it may be what follows any of them.
    parts = labelled_by.split(":")
    names = {_bare(":".join(parts[i:])) for i in range(len(parts))} - {""}
    return any(_bare(one.model) in names for one in parts_of(backend))


def _bare(model: str) -> str:
    return model.strip().rstrip("/").rpartition("/")[2].casefold()


def parts_of(backend: Backend) -> Iterator[Backend]:
    """Yield the backend, and those that it holds in its attributes, to every depth, each once."""
    seen: set[int] = set()
    waiting = [backend]
    while waiting:
        one = waiting.pop(0)
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += _held(one)


def _held(backend: Backend) -> list[Backend]:
    held: list[Backend] = []
    waiting: list[object] = list(vars(backend).values())
    while waiting:
        value = waiting.pop(0)
        if isinstance(value, Backend):
            held.append(value)
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value
        elif isinstance(inner := getattr(value, "backend", None), Backend):  # of a `Reranker`
            held.append(inner)
    return held


def _trust(agreement: Agreement | None) -> str:
    if agreement is None or agreement.kappa is None:
        return "and nobody has verified them"
    few = "" if agreement.enough else f", of only {agreement.pairs} pairs"
    return f"whose kappa with people is {agreement.kappa:.2f}{few}"


def _checked_judge(judge: Backend) -> tuple[str, int]:
    """Return who it is, as "name:model", and its highest grade."""
    models = [one for one in parts_of(judge) if not _held(one)]
    if len(models) > 1:
        names = ", ".join(map(title, models))
        raise ValueError(
            f"the judge is made of several models ({names}): pass one of them, so that it is known who judged"
        )
    who, scale = title(models[0]), judge.scale
    if not judge.pointwise:
        raise ValueError(
            f"{who} does not score each text by itself, so that what it says is no grade: pass a backend that grades, such as"
            " 'judge:<model>'"
        )
    grades = scale.low == 0 and scale.high == int(scale.high) >= 2 if scale.kind == "similarity" else scale.absolute
    if not grades:
        told = f"similarity in [{scale.low:g}, {scale.high:g}]" if scale.kind == "similarity" else scale.kind
        raise ValueError(
            f"the scores of {who} ({told}) are no grades: pass a backend that grades, such as 'judge:<model>', or one that gives"
            " probabilities, such as Calibrated(...)"
        )
    return who, int(scale.high) if scale.kind == "similarity" else 1


def _both(dataset: Dataset, depth: int, sample: int | None, seed: int) -> list[Pair]:
    """Return the pairs, judged by people, that the model is to grade too."""
    judged = [
        (qid, one.docid)
        for qid, found in dataset.candidates.items()
        for one in (found[:depth] if sample is None else found)
        if one.docid in dataset.qrels[qid] and one.text.strip()
    ]
    if sample is None:
        return judged
    import numpy as np

    by_grade: dict[int, list[Pair]] = {}
    for qid, docid in (judged[i] for i in np.random.default_rng(seed).permutation(len(judged))):
        by_grade.setdefault(dataset.qrels[qid][docid], []).append((qid, docid))
    order = _in_turn([_in_turn(_by_query(by_grade[grade])) for grade in sorted(by_grade, reverse=True)])
    return order[:sample]


def _by_query(pairs: Sequence[Pair]) -> list[list[Pair]]:
    found: dict[str, list[Pair]] = {}
    for pair in pairs:
        found.setdefault(pair[0], []).append(pair)
    return list(found.values())


def _in_turn(several: Sequence[Sequence[Pair]]) -> list[Pair]:
    """Return the first of each, then the second of each, until all are out."""
    return [one[i] for i in range(max(map(len, several), default=0)) for one in several if i < len(one)]


def _asked(dataset: Dataset, depth: int, both: Collection[Pair], *, people_first: bool) -> Dataset:
    """Return the dataset of the candidates that the model is to grade."""
    wanted = set(both)

    def is_asked(qid: str, place: int, one: Candidate) -> bool:
        settled = people_first and one.docid in dataset.qrels[qid]
        return (qid, one.docid) in wanted or (place < depth and not settled)

    candidates = {
        qid: [one for place, one in enumerate(found) if is_asked(qid, place, one)]
        for qid, found in dataset.candidates.items()
    }
    if not any(one.text.strip() for found in candidates.values() for one in found):
        why = "people have judged all of them" if any(dataset.candidates.values()) else "there is none"
        raise ValueError(f"no candidate of {shown(dataset.name)} is left to grade, among the first {depth}: {why}")
    return replace(dataset, candidates=candidates)


def _grades(scoring: Scoring, scale: Scale) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {qid: {} for qid in scoring.dataset.queries}
    for qid, found in scoring.scores.items():
        for one, value in zip(scoring.dataset.candidates[qid], found.values, strict=True):
            if value is not None:
                grade = value if scale.kind == "similarity" else scale.to_unit(value)
                grades[qid][one.docid] = math.floor(grade + 0.5)
    return grades


def _merged(
    dataset: Dataset,
    grades: Mapping[str, Mapping[str, int]],
    highest: int,
    relevant_from: int,
    top: int,
    *,
    people_first: bool,
) -> tuple[dict[str, dict[str, int]], int]:
    """Return all judgements, and how many are the model's; `top` is the highest grade by people, 0 where there is none."""

    def written(grade: int) -> int:
        if grade < relevant_from:
            return 0
        return max(1, math.floor(grade * top / highest + 0.5)) if top else grade

    qrels = {qid: dict(judged) for qid, judged in dataset.qrels.items()}
    added = 0
    for qid, found in grades.items():
        for docid, grade in found.items():
            if not people_first or docid not in dataset.qrels[qid]:
                qrels[qid][docid] = written(grade)
                added += 1
    return qrels, added


def _interval(rows: Sequence[Graded], seed: int) -> tuple[float | None, float | None]:
    """Return the 2.5th and 97.5th percentile of kappa over draws of as many queries; draws that tell nothing are passed over."""
    import numpy as np

    sums: dict[str, list[int]] = {}
    for qid, a, b in rows:
        own = sums.setdefault(qid, [0, 0, 0, 0])
        for i, one in enumerate((1, a, b, (a - b) ** 2)):
            own[i] += one
    if len(sums) < 2:
        return None, None
    table = np.array(list(sums.values()), dtype=float)
    rng = np.random.default_rng(seed)
    drawn = np.concatenate(
        [table[rng.integers(0, len(table), (50, len(table)))].sum(axis=1) for _ in range(_RESAMPLES // 50)]
    )
    drawn = drawn[(drawn[:, 1] > 0) & (drawn[:, 1] < drawn[:, 0])]
    if not len(drawn):
        return None, None
    n, a, b, apart = drawn.T
    low, high = np.quantile(1 - n * apart / (n * (a + b) - 2 * a * b), [0.025, 0.975])
    return float(low), float(high)
