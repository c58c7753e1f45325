"""What a second pass costs with `Cached`: 50 candidates that have been scored before, kept in memory and on disk.

    python benchmarks/cache.py [--candidates 50] [--rounds 200] [--work FOLDER]

Each backend scores the passages once (the first pass, through an empty cache: what is kept is written then), and then the same
query and passages again and again. Milliseconds of one `Reranker.rerank`: median, and lowest and highest of the rounds. "none" is
the backend itself without a cache, over passages that it has seen as well (the embedded one keeps vectors of its own). "another
process" is the first call of a new process that finds the file; imports and opening the file are left out. No model is loaded for
it, but of a model in a folder the files are read once, to know which version they are; a repository's commit says that at once.

Backends: "embedded"; and a cross-encoder of the size of MiniLM-L6 with random weights (local_models.py), which is as fast as the
published one. It is left out, with a line that says so, where torch, transformers or onnxscript are not installed.
The asked limits, 2 ms in memory and 10 ms on disk, are those of the medians of the blocking calls; the exit status is 1 where one
is exceeded.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path

from local_models import make, quiet
from local_speed import machine

from rerankx import Cached, MemoryStore, Reranker, demo

LIMITS_MS = {"memory": 2.0, "disk": 10.0}

ANOTHER = """
import sys, time
from rerankx import Cached, Reranker
from rerankx.backends import {module}
query, *texts = sys.stdin.read().split("\\0")
reranker = Reranker(Cached({backend}, {path!r}))
reranker.backend.store.get([b"x"])
start = time.perf_counter()
ranking = reranker.rerank(query, texts)
took = (time.perf_counter() - start) * 1000
assert ranking.usage.cache_hits == len(texts), ranking.usage
print(took)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--candidates", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument(
        "--work",
        type=Path,
        help="keep model and files there, begin with empty caches all the same; default: a temporary folder",
    )
    args = parser.parse_args()

    quiet()
    for name, fact in machine().items():
        print(f"{name}: {fact}")
    query, texts = candidates(args.candidates)
    letters = statistics.mean(map(len, texts))
    print(f"texts: {len(texts)} of the demo's passages, numbered, {letters:.0f} characters in the mean\n")
    print("| backend | store | call | median ms | lowest | highest |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        within = [
            measure(*backend, query, texts, args.rounds) for backend in backends((args.work or Path(scratch)).resolve())
        ]
    sys.exit(0 if all(within) else 1)


def candidates(n: int) -> tuple[str, list[str]]:
    passages = [passage.text for passage in demo.passages()]
    texts = [f"{passages[i % len(passages)]} ({i})" for i in range(n)]
    return demo.questions()[0].text, texts


def backends(work: Path) -> list[tuple[str, str, str, Path]]:
    """Return what is measured: a title, the module and the expression that makes it, and a folder for files."""
    found = [("embedded", "embedded", "embedded.Embedded()", work)]
    try:
        make("minilm", work / "minilm")
    except ImportError as error:
        print(f"left out: the cross-encoder, there is no {error.name}", file=sys.stderr)
        return found
    folder = str(work / "minilm")
    return [
        *found,
        ("cross-encoder, MiniLM-L6's size", "cross_encoder", f"cross_encoder.CrossEncoder({folder!r})", work),
    ]


def measure(title: str, module: str, expression: str, work: Path, query: str, texts: list[str], rounds: int) -> bool:
    """Print the rows of one backend; return whether it is within the limits."""
    backend = eval(expression, {module: import_module(f"rerankx.backends.{module}")})
    plain = Reranker(backend)
    plain.rerank(query, texts)
    row(title, "none", "rerank", [milliseconds(partial(plain.rerank, query, texts)) for _ in range(min(rounds, 10))])
    path, within = work / f"{module}.db", True
    for old in work.glob(f"{path.name}*"):  # of an earlier run; with its -wal and -shm
        old.unlink()
    for kind, store in (("memory", MemoryStore()), ("disk", path)):
        reranker = Reranker(Cached(backend, store))
        row(title, kind, "first pass", [first_pass(reranker, query, texts)])
        took = [milliseconds(partial(reranker.rerank, query, texts)) for _ in range(rounds)]
        assert reranker.rerank(query, texts).usage.cache_hits == len(texts)
        row(title, kind, "rerank", took)
        within &= statistics.median(took) <= LIMITS_MS[kind]
        row(title, kind, "arerank", asyncio.run(in_loop(reranker, query, texts, rounds)))
    code = ANOTHER.format(module=module, backend=expression, path=str(path))
    took = [other_process(code, [query, *texts]) for _ in range(min(rounds, 5))]
    row(title, "disk", "rerank, first of another process", took)
    return within


def first_pass(reranker: Reranker, query: str, texts: Sequence[str]) -> float:
    """Return what a pass takes of which the cache knows nothing."""
    start = time.perf_counter()
    ranking = reranker.rerank(query, texts)
    took = (time.perf_counter() - start) * 1000
    assert ranking.usage.cache_misses == len(texts), f"not empty: {ranking.usage}"
    return took


async def in_loop(reranker: Reranker, query: str, texts: Sequence[str], rounds: int) -> list[float]:
    took = []
    for _ in range(rounds):
        start = time.perf_counter()
        await reranker.arerank(query, texts)
        took.append((time.perf_counter() - start) * 1000)
    return took


def other_process(code: str, given: Sequence[str]) -> float:
    done = subprocess.run(
        [sys.executable, "-c", code], input="\0".join(given), capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


def row(title: str, store: str, call: str, took: Sequence[float]) -> None:
    print(
        f"| {title} | {store} | {call} | {statistics.median(took):.2f} | {min(took):.2f} | {max(took):.2f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
