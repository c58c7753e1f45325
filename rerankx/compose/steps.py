"""What `Hit.details` says of the way through a pipeline: a list of steps under the name "steps"."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from rerankx.errors import BackendError
from rerankx.interface import Attempt, Backend, Degraded, Scores, Usage
from rerankx.ranking import best_first

Step = dict[str, object]


def steps_of(backend: Backend, scores: Scores, *, number: int) -> list[Step | None]:
    """Return for each text who scored it, in which place it was and with which score; None where there is nothing to say.

    "step" is the number, "by" the backend that answered, as "name:model", "rank" counts from 1, "score" is the raw one. What the
    backend says in its own `details` is in it under "details". One that was not scored has a step only for their sake.
    """
    by = answerer(backend, scores)
    steps: list[Step | None] = [None] * len(scores.values)
    for rank, index in enumerate(best_first(scores.values, scores.order), start=1):
        value, detail = scores.values[index], None if scores.details is None else scores.details[index]
        if value is not None or detail:
            more = {"details": dict(detail)} if detail else {}
            place = None if value is None else rank
            steps[index] = {"step": number, "by": by, "rank": place, "score": value, **more}
    return steps


def with_steps(steps: Sequence[Step | None]) -> Mapping[str, object] | None:
    """Return the details of a text with these steps; None without any."""
    there = [step for step in steps if step is not None]
    return {"steps": there} if there else None


def answerer(backend: Backend, scores: Scores) -> str:
    """Return "name:model" of who the scores are from: the backend, or the one that answered for it."""
    answered = [attempt for attempt in scores.attempts if attempt.error is None]
    who = answered[0] if len(answered) == 1 else None
    return f"{backend.name}:{backend.model}" if who is None else f"{who.backend}:{who.model}"


def attempts_of(backend: Backend, scores: Scores) -> Sequence[Attempt]:
    """Return who was tried, the backend itself where its scores do not say."""
    answered = any(attempt.error is None for attempt in scores.attempts)
    own = () if answered else (Attempt(backend.name, backend.model, degraded=scores.degraded),)
    return (*scores.attempts, *own)


def with_usage(error: BackendError, spent: Usage) -> BackendError:
    """Return a copy of the error that also tells what others have spent: a backend may raise the same object again."""
    told = type(error).__new__(type(error), *error.args)  # its class may not be made by what is in args
    told.__dict__.update(error.__dict__)
    told.usage = spent + (error.usage or Usage())
    return told


def degraded_of(parts: Iterable[Scores]) -> Degraded | None:
    """Return what the first of them that is degraded says."""
    return next((part.degraded for part in parts if part.degraded is not None), None)


def cut_of(
    n: int, parts: Sequence[tuple[Sequence[int], Scores]], *, disjoint: bool = False
) -> tuple[list[bool] | None, int]:
    """Return which of n texts were cut by anybody, None if some do not say, and how many, at least.

    Args:
        n: How many texts there are.
        parts: Scores, and the indices of the texts that they are about.
        disjoint: Whether no text is in two of the parts.
    """
    if any(scores.cut is None and scores.truncated for _, scores in parts):
        counts = [scores.truncated for _, scores in parts]
        return None, sum(counts) if disjoint else max(counts)
    cut = [False] * n
    for indices, scores in parts:
        for index, one in zip(indices, scores.cut or (), strict=False):
            cut[index] |= one
    return cut, sum(cut)
