"""What a backend takes beside one query at a time in a warm process: many at once, and the first answer of a new process."""

from __future__ import annotations

import json
import pickle
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, cast

from rerankx.compose.retrieval import retrieved
from rerankx.errors import BackendError
from rerankx.evaluation.scoring import Scoring
from rerankx.interface import Backend, Scores, Usage
from rerankx.reranker import Reranker
from rerankx.spec import to_spec

_ENOUGH = 64
_EACH = 4  # queries per thread: with fewer, most of the time is that of the first and the last ones
_COLD = 3

_Asked = tuple[str, list[str], list[float | None]]
"""A query, its candidates' texts, and their scores by the first stage."""


@dataclass(frozen=True, slots=True)
class Load:
    """How a backend answers several queries at once."""

    concurrency: int
    """How many threads asked, each its next query as soon as it had an answer."""
    queries: int
    """How many they asked in all."""
    p50_ms: float | None
    """Median wall time of a query, in milliseconds, failures not counted; None if all failed."""
    p95_ms: float | None
    queries_per_s: float
    """Answers per second, from the first question to the last answer."""
    failed: int
    cached: float = 0.0
    """Share of the texts that a cache answered, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Cold:
    """What a backend takes in a new Python process."""

    start_s: float
    """Seconds from the process's first line to the answer to its first query: imports, loading and scoring."""
    memory_mb: float | None
    """The most memory the process had resident after a few queries, in MB (1,000,000 bytes); None on neither Linux nor macOS."""
    base_mb: float | None
    """The same before rerankx was imported: Python itself, and the queries."""
    cached: float = 0.0
    """Share of the texts of the first query that a cache answered, in [0, 1]: one on disk, or elsewhere."""


def under_load(backend: Backend, scoring: Scoring, *, concurrency: int, seed: int = 0) -> Load:
    """Return how the backend answers when so many threads of this process ask it at once.

    They ask 64 of the queries that were scored, or four per thread if that is more, or all if there are fewer; the first is asked
    beforehand, about two candidates, and not counted. It is the dataset's own mix of lengths, without pauses. The backend is
    asked through `Backend.score`, as by a server with threads, and not through `Backend.ascore`.

    A local backend with a cache in memory is copied, since it has seen these texts: the copy's cache is empty.

    Args:
        backend: The one that was scored.
        scoring: What it gave, one query at a time.
        concurrency: How many threads, at least 1; no more than there are queries.
        seed: For the choice of queries.
    """
    asked = _chosen(scoring, max(_ENOUGH, _EACH * concurrency), seed)
    concurrency = min(concurrency, len(asked))
    backend = forgetful(backend, scoring.usage)
    query, texts, given = asked[0]
    _answer(backend, (query, texts[:2], given[:2]))
    start = time.perf_counter()
    with ThreadPoolExecutor(concurrency) as threads:
        answers = list(threads.map(partial(_answer, backend), asked))
    took = time.perf_counter() - start
    answered = [scores for scores in answers if scores is not None]
    p50, p95 = percentiles([scores.elapsed_ms for scores in answered])
    usage = sum((scores.usage for scores in answered), Usage())
    cached = _share(usage.cache_hits, usage.cache_misses)
    return Load(concurrency, len(asked), p50, p95, len(answered) / took, len(asked) - len(answered), cached)


def cold_start(backend: Backend, scoring: Scoring, *, seed: int = 0, timeout_s: float = 300.0) -> Cold:
    """Return what the backend takes in a new Python process that builds it from its spec and asks it three of the queries.

    The files of its model are here already, and most likely in the system's memory, since this process has read them: downloads
    and a cold disk are not in it, nor is the start of the interpreter. Memory is that of the process alone, not of a GPU, a
    service, or processes that it starts.

    Args:
        backend: The one that was scored.
        scoring: Its dataset is asked about.
        seed: For the choice of queries.
        timeout_s: Seconds that the process may take in all; then it is killed.

    Raises:
        SpecError: There is no spec of the backend, see `rerankx.to_spec`.
        BackendError: The process failed, died, or was too slow.
    """
    spec = to_spec(Reranker(backend))
    queries = _chosen(scoring, _COLD, seed)
    told = _told_by_child({"path": sys.path, "spec": spec, "queries": queries}, timeout_s)
    if "error" in told:
        raise BackendError(f"in a new process: {told['error']}")
    cached = _share(told["hits"], told["misses"])
    return Cold(told["start_s"], told["memory_mb"], told["base_mb"], cached)


def percentiles(times: Sequence[float]) -> tuple[float | None, float | None]:
    """Return the median, and the smallest that 95 % of all do not exceed; None where there are no times."""
    if not times:
        return None, None
    return statistics.median(times), sorted(times)[ceil(0.95 * len(times)) - 1]


def _told_by_child(given: dict[str, object], timeout_s: float) -> dict[str, Any]:
    """Return what the new process replied."""
    if not sys.executable:
        raise BackendError("a new process needs a Python interpreter, and sys.executable names none")
    command = [sys.executable, str(Path(__file__).with_name("cold.py"))]
    try:
        done = subprocess.run(  # noqa: S603 - this interpreter, and a file of ours
            command,
            input=json.dumps(given).encode("ascii"),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise BackendError(f"a new process gave no answer within {timeout_s:g} s") from None
    except OSError as error:
        raise BackendError(f"a new process could not be started: {type(error).__name__}") from error
    try:  # a process that dies after its reply has replied
        return cast("dict[str, Any]", json.loads(done.stdout))
    except ValueError:
        raise BackendError(f"a new process ended with code {done.returncode} and no answer") from None


def _chosen(scoring: Scoring, n: int, seed: int) -> list[_Asked]:
    """Return n of the queries that were scored, by chance; all if there are fewer."""
    qids = random.Random(seed).sample(sorted(scoring.scores), min(n, len(scoring.scores)))  # noqa: S311 - no secret
    dataset = scoring.dataset
    return [
        (
            dataset.queries[qid],
            [one.text for one in dataset.candidates[qid]],
            [one.score for one in dataset.candidates[qid]],
        )
        for qid in qids
    ]


def _answer(backend: Backend, asked: _Asked) -> Scores | None:
    query, texts, given = asked
    try:
        with retrieved(texts, given):
            return backend.score(query, texts)
    except BackendError:
        return None


def forgetful(backend: Backend, usage: Usage) -> Backend:
    """Return a copy that has cached nothing, of a local backend that caches; any other itself."""
    if usage.calls or not usage.cache_hits + usage.cache_misses:
        return backend  # with a remote one, limits on what may be spent would begin anew, too
    try:
        return cast("Backend", pickle.loads(pickle.dumps(backend)))  # noqa: S301 - ours, of this very line
    except Exception:  # it holds what cannot be pickled: `Load.cached` tells how much its cache gave
        return backend


def _share(hits: int, misses: int) -> float:
    return hits / (hits + misses) if hits else 0.0
