"""The scores of a backend for every candidate of a dataset: asked for once, kept on disk, and taken up again after a break."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast, get_args

from rerankx.compose.fused import Method, places_of
from rerankx.compose.made import made, title, whole
from rerankx.compose.retrieval import retrieved
from rerankx.errors import BackendError, SpecError
from rerankx.evaluation.datasets import Candidate, Dataset
from rerankx.fusion import Normalise, rrf, weighted_sum
from rerankx.interface import Backend, Scale, Scores, Usage
from rerankx.ranking import best_first
from rerankx.reranker import Reranker
from rerankx.spec import to_spec

logger = logging.getLogger("rerankx")

_HOPELESS = 10
"""Queries that have all failed after which no more are asked."""

Progress = Callable[[int, int], object]
"""Called with how many queries are done, and of how many."""


@dataclass(frozen=True, slots=True)
class QueryScores:
    """What a backend said of one query's candidates."""

    values: tuple[float | None, ...]
    """Raw scores, one per candidate in their order; None = not scored."""
    order: tuple[int, ...] | None = None
    """Indices of candidates, best first, which break ties, as in `rerankx.Scores`."""
    elapsed_ms: float = 0.0
    """Wall time, in milliseconds, of a failure too."""
    usage: Usage = field(default_factory=Usage)
    truncated: int = 0
    """How many texts were cut to the model's length."""
    degraded: str | None = None
    """As in `rerankx.Scores`; "input_order" where the backend failed."""
    error: str | None = None
    """The type and message of the failure, if it failed."""


@dataclass(frozen=True, slots=True, repr=False)
class Scoring:
    """A backend's scores for a dataset, from which rankings of any depth and mixture are made at no cost."""

    name: str
    """What reports call it."""
    backend: str
    """Backend and model, as "name:model"."""
    fingerprint: str
    pointwise: bool
    """Whether a score ignores the other candidates: only then are there rankings of a smaller depth."""
    scale: Scale
    """What the scores are."""
    dataset: Dataset
    scores: Mapping[str, QueryScores]
    """By query id, of all queries that have candidates."""
    kept: int = 0
    """How many of these an earlier call had kept, their times with them."""
    warnings: Sequence[str] = ()
    """What was logged as a warning meanwhile, each once."""

    def ranked(
        self,
        *,
        depth: int | None = None,
        weight: float = 1.0,
        method: Method = "weighted",
        normalise: Normalise = "zscore",
    ) -> dict[str, list[str]]:
        """Return document ids by query id, best first: every candidate, those behind `depth` as the first stage has them.

        So does `Cascade(["retrieval", Fusion([backend, "retrieval"], method=..., weights=[weight, 1 - weight])], keep=depth)`.

        Args:
            depth: How many candidates of each query are reranked, at least 1; None is all that were scored.
            weight: Of the backend in the fusion with the first stage, in [0, 1]; 1 is the backend alone, 0 the first stage.
            method: "weighted", of scores, or "rrf", of ranks, for a weight between; as in `rerankx.Fusion`.
            normalise: For "weighted": as in `rerankx.fusion.weighted_sum`.

        Raises:
            ValueError: A number out of its range, a depth below what was scored where scores depend on each other, or "weighted"
                where the first stage gave no scores.
        """
        if depth is not None:
            depth = whole("depth", depth)
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be in [0, 1], not {weight!r}")
        if method not in get_args(Method):
            raise ValueError(f"method must be 'rrf' or 'weighted', not {method!r}")
        if 0 < weight < 1 and method == "weighted" and not self.dataset.scored:
            raise ValueError(f"the first stage of {self.dataset.name} gave no scores to add up; take method='rrf'")
        run = {}
        for qid, candidates in self.dataset.candidates.items():
            scored = self.scores.get(qid)
            cut = len(candidates) if depth is None else min(depth, len(candidates))
            came = _came(candidates)
            if scored is not None:
                if cut < len(candidates) and not self.pointwise:
                    raise ValueError(
                        f"{self.name} scores {len(candidates)} candidates together, so that its order of {cut} of them is not"
                        f" known: score the dataset at .depth({cut})"
                    )
                came = [*_mixed(candidates, came[:cut], scored, weight, method, normalise), *came[cut:]]
            run[qid] = [candidates[i].docid for i in came]
        return run

    @property
    def failures(self) -> Mapping[str, str]:
        """Return the errors of the queries where the backend failed; their order is the first stage's."""
        return {qid: scored.error for qid, scored in self.scores.items() if scored.error is not None}

    @property
    def usage(self) -> Usage:
        """Return what all queries took together."""
        return sum((scored.usage for scored in self.scores.values()), Usage())

    @property
    def usd_per_1000(self) -> float | None:
        """Return the US dollars of 1,000 answers; None where the price is not known, or nothing was answered."""
        cost, answers = self.usage.cost_usd, len(self.scores) - len(self.failures)
        return None if cost is None or not answers else 1000 * cost / answers

    def __repr__(self) -> str:
        failed = f", {len(self.failures)} failed" if self.failures else ""
        return f"<Scoring of {self.dataset.name} by {self.name}: {len(self.scores)} queries{failed}>"


def score(
    backend: str | Backend,
    dataset: Dataset,
    *,
    name: str | None = None,
    keep: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Scoring:
    """Return the backend's scores for all candidates of all queries, one query after the other.

    One query is asked beforehand and not counted, so that times are those of a warm process at the dataset's own lengths. A query
    on which the backend fails keeps the first stage's order, and says so in `failures`.

    Args:
        backend: A name such as "minilm" or "backend:model", or a `Backend`.
        dataset: Its candidates and their scores are what a retriever would bring.
        name: What reports call it; None is the name, or the backend's.
        keep: A folder. What was scored is written there query by query, and read again by the next call about the same
            candidates and a backend of the same name, fingerprint and spec, times included. None keeps nothing.
        progress: Called after each query.

    Raises:
        ValueError: No query has a candidate.
        BackendError: It failed on each of the first ten queries.
    """
    scorer = made("backend", backend)
    asked = {qid: found for qid, found in dataset.candidates.items() if any(one.text.strip() for one in found)}
    if not asked:
        raise ValueError(f"no query of {dataset.name} has a candidate with a text; there is nothing to score")
    fingerprint = scorer.fingerprint
    kept = _Kept.opened(keep, _told_apart(scorer), dataset, asked)
    scored, scores = dataset.scored, dict[str, QueryScores]()
    warm = False
    with _overheard() as told:
        for done, (qid, candidates) in enumerate(asked.items(), start=1):
            found = kept.scores.get(qid)
            if found is None:
                if not warm:
                    _asked(scorer, dataset.queries[qid], candidates[:2], scored=scored)
                    warm = True
                found = _asked(scorer, dataset.queries[qid], candidates, scored=scored)
                kept.add(qid, found)
            scores[qid] = found
            if done == _HOPELESS and all(one.error is not None for one in scores.values()):
                first = next(iter(scores.values())).error
                raise BackendError(f"{title(scorer)} failed on each of the first {done} queries; on the first: {first}")
            if progress is not None:
                progress(done, len(asked))
    kept.warn(told)
    shown = name if name is not None else backend if isinstance(backend, str) else scorer.name
    return Scoring(
        name=shown,
        backend=title(scorer),
        fingerprint=fingerprint,
        pointwise=scorer.pointwise,
        scale=scorer.scale,
        dataset=dataset,
        scores=scores,
        kept=sum(qid in kept.scores for qid in asked),
        warnings=tuple(dict.fromkeys([*kept.warnings, *told])),
    )


def _asked(backend: Backend, query: str, candidates: Sequence[Candidate], *, scored: bool) -> QueryScores:
    texts = [one.text for one in candidates]
    start = time.perf_counter()
    try:
        with retrieved(texts, [one.score for one in candidates] if scored else None):
            scores = backend.score(query, texts)
    except BackendError as error:
        return QueryScores(
            (None,) * len(texts),
            elapsed_ms=(time.perf_counter() - start) * 1000,
            degraded="input_order",
            usage=error.usage or Usage(),
            error=f"{type(error).__name__}: {error}",
        )
    return _of(scores)


@contextmanager
def _overheard() -> Iterator[list[str]]:
    """Yield a list that fills with the warnings that are logged meanwhile, each once."""
    told: list[str] = []

    def heard(record: logging.LogRecord) -> bool:
        if record.levelno >= logging.WARNING and (message := record.getMessage()) not in told:
            told.append(message)
        return True

    logger.addFilter(heard)
    try:
        yield told
    finally:
        logger.removeFilter(heard)


def _told_apart(backend: Backend) -> str:
    """Return what tells a backend from one whose scores, times or prices are others."""
    try:
        options = json.dumps(to_spec(Reranker(backend)), sort_keys=True)
    except SpecError:
        options = ""
    return f"{title(backend)} {backend.fingerprint} {options}"


def _of(scores: Scores) -> QueryScores:
    order = None if scores.order is None else tuple(scores.order)
    values = tuple(scores.values)
    return QueryScores(values, order, scores.elapsed_ms, scores.usage, scores.truncated, scores.degraded)


def _came(candidates: Sequence[Candidate]) -> list[int]:
    """Return the candidates' indices as "retrieval" has them: repeated texts behind the first of their kind, blank ones last."""
    first: dict[str, int] = {}
    places = [first.setdefault(one.text, i) for i, one in enumerate(candidates)]
    return sorted(range(len(candidates)), key=lambda i: (not candidates[i].text.strip(), places[i], i))


def _mixed(
    candidates: Sequence[Candidate],
    came: Sequence[int],
    scored: QueryScores,
    weight: float,
    method: Method,
    normalise: Normalise,
) -> list[int]:
    """Return the indices that came, best first."""
    values = [scored.values[i] for i in came]
    place = {i: position for position, i in enumerate(came)}
    order = None if scored.order is None else [place[i] for i in scored.order if i in place]
    if weight == 0:
        return list(came)
    if weight == 1 or all(value is None for value in values):
        return [came[position] for position in best_first(values, order)]
    weights = [weight, 1 - weight]
    fused: Sequence[float | None]
    if method == "weighted":
        own: dict[str, float] = {}
        for i in came:
            own.setdefault(candidates[i].text, candidates[i].score or 0.0)
        # The fusion is not asked about blank texts.
        first = [own[candidates[i].text] if candidates[i].text.strip() else None for i in came]
        fused = weighted_sum([values, first], weights=weights, normalise=normalise)
    else:
        there = [position for position, i in enumerate(came) if candidates[i].text.strip()]
        fused = rrf([places_of(values, order), there], n=len(came), weights=weights)
    return [came[position] for position in best_first(fused)]


class _Kept:
    """What was scored before, and the file to which more is added: a header, then a line per query."""

    def __init__(self, path: Path | None, scores: dict[str, QueryScores], warnings: Sequence[str] = ()) -> None:
        self.path, self.scores, self.warnings = path, scores, warnings

    @classmethod
    def opened(
        cls,
        keep: str | os.PathLike[str] | None,
        backend: str,
        dataset: Dataset,
        asked: Mapping[str, Sequence[Candidate]],
    ) -> _Kept:
        if keep is None:
            return cls(None, {})
        header = {"rerankx": "scoring-2", "backend": backend, "dataset": _digest(dataset, asked)}
        folder = Path(keep).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{blake2b(json.dumps(header).encode(), digest_size=12).hexdigest()}.jsonl"
        lines = _lines(path)
        scores: dict[str, QueryScores] = {}
        if next(lines, None) != header:  # nothing there, or nothing of ours
            path.write_text(json.dumps(header) + "\n", encoding="utf-8")
            return cls(path, {})
        warnings = []
        for line in lines:
            if isinstance(line, dict) and isinstance(line.get("warning"), str):
                warnings.append(line["warning"])
            found = _read(line)
            # What failed is asked again.
            if found is not None and found[1].error is None and len(found[1].values) == len(asked.get(found[0], ())):
                scores[found[0]] = found[1]
        return cls(path, scores, warnings)

    def warn(self, told: Sequence[str]) -> None:
        for warning in told:
            self._append({"warning": warning})

    def add(self, qid: str, scored: QueryScores) -> None:
        self._append({"qid": qid, **asdict(scored)})

    def _append(self, row: Mapping[str, object]) -> None:
        if self.path is not None:
            line = json.dumps(row, ensure_ascii=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"\n{line}\n")  # behind a line that a kill has left half written


def _lines(path: Path) -> Iterator[object]:
    """Yield what the lines hold; a half-written one, and an empty one, is passed over."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            continue


def _read(line: object) -> tuple[str, QueryScores] | None:
    try:
        held = dict(cast("Mapping[str, Any]", line))
        qid, usage = held.pop("qid"), Usage(**held.pop("usage"))
        order = held.pop("order")
        values = tuple(held.pop("values"))
        if not all(value is None or isinstance(value, float | int) for value in (*values, held["elapsed_ms"])):
            return None
        return qid, QueryScores(values, None if order is None else tuple(order), usage=usage, **held)
    except (KeyError, TypeError, ValueError):
        return None


def _digest(dataset: Dataset, asked: Mapping[str, Sequence[Candidate]]) -> str:
    digest = blake2b(digest_size=16)
    for qid, candidates in asked.items():
        row = [qid, dataset.queries[qid], *([one.docid, one.text, one.score] for one in candidates)]
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()
