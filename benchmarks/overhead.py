"""What rerankx itself costs: import, cold start, a known corpus, memory, adapters.

    python benchmarks/overhead.py [--rounds 7] [--passages FILE]

FILE holds one passage per line or BEIR's corpus.jsonl; by default the demo's passages, repeated with a number so that no two are
alike. Times are medians over the rounds, in milliseconds, each round of a cold figure in a new process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

COLD = """
import sys, time
start = time.perf_counter()
from rerankx import Reranker
texts = sys.stdin.read().split("\\0")
ranking = Reranker().rerank("who pays for a refund", texts)
print((time.perf_counter() - start) * 1000, ranking.usage.input_tokens)
"""

MEMORY = """
import sys
from rerankx import Reranker
texts = sys.stdin.read().split("\\0")
Reranker().rerank("who pays for a refund", texts)
with open("/proc/self/status") as status:
    print(next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS")))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passages", type=Path)
    args = parser.parse_args()

    passages = read_passages(args.passages)
    short = [" ".join(text.split()[:75]) for text in passages if len(text.split()) >= 75][:50]
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    print("| what | median | lowest | highest |\n|---|---|---|---|")
    bare = processes("pass", args.rounds)
    row("import rerankx, over bare Python", imports("rerankx", args.rounds, bare))
    row("… and its Reranker name", imports("rerankx; rerankx.Reranker", args.rounds, bare))
    cold, tokens = zip(*(map(float, run(COLD, short).split()) for _ in range(args.rounds)), strict=True)
    row(f"new process, import to ranking of {len(short)} passages of {tokens[0] / len(short):.0f} tokens", cold)
    row(f"a new query over the same {len(short)} passages, now known", known(short, args.rounds))
    if sys.platform == "linux":
        row(f"resident memory after {len(passages[:1000])} passages, MB", [float(run(MEMORY, passages[:1000]))])
    for name, first, second in (
        ("langchain_rerankx", "langchain_core.retrievers", "langchain_rerankx"),
        ("llamaindex_rerankx", "llama_index.core", "llamaindex_rerankx"),
    ):
        if importable(first):
            base = processes(f"import {first}", args.rounds)
            row(f"import {name}, over {first}", imports(f"{first}, {second}", args.rounds, base))
    for n in (50, 1000):
        adapters(n, args.rounds)


def adapters(n: int, rounds: int) -> None:
    """Print what each adapter adds to the core, on scores that cost nothing."""
    from rerankx import Reranker
    from rerankx.testing import FakeBackend

    texts = [f"passage {i}" for i in range(n)]
    backend = FakeBackend(score=lambda query, text: 0.5)
    core = best_ms(lambda: Reranker(backend).rerank("q", texts, top_n=5), rounds)
    row(f"core: rerank {n} strings, scores at no cost", [core])
    if importable("langchain_core"):
        from langchain_core.documents import Document

        from langchain_rerankx import Reranker as Compressor

        documents = [Document(text) for text in texts]
        compressor = Compressor(backend=backend, top_n=5)
        row(
            f"langchain_rerankx adds, {n} documents",
            [best_ms(lambda: compressor.compress_documents(documents, "q"), rounds) - core],
        )
    if importable("llama_index.core"):
        from llama_index.core.schema import NodeWithScore, TextNode

        from llamaindex_rerankx import Rerank

        nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]
        postprocessor = Rerank(backend, top_n=5)
        added = best_ms(lambda: postprocessor.postprocess_nodes(nodes, query_str="q"), rounds) - core
        row(f"llamaindex_rerankx adds, {n} nodes", [added])


def known(texts: list[str], rounds: int) -> list[float]:
    from rerankx import Reranker

    reranker = Reranker()
    reranker.rerank("first", texts)
    times = []
    for i in range(max(rounds, 20)):
        start = time.perf_counter()
        reranker.rerank(f"which of the {i} plans can be paused", texts)
        times.append((time.perf_counter() - start) * 1000)
    return times


def read_passages(path: Path | None) -> list[str]:
    if path is None:
        from rerankx import demo

        return [f"{passage.text} ({i})" for i in range(10) for passage in demo.passages()]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines


def imports(modules: str, rounds: int, base: float) -> list[float]:
    return [time_process(f"import {modules}") - base for _ in range(rounds)]


def processes(code: str, rounds: int) -> float:
    return statistics.median(time_process(code) for _ in range(rounds))


def time_process(code: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return (time.perf_counter() - start) * 1000


def run(code: str, texts: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], input="\0".join(texts), capture_output=True, text=True, check=True
    )
    return done.stdout


def best_ms(call: object, rounds: int) -> float:
    times = []
    for _ in range(rounds * 3):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1000)
    return statistics.median(times)


def importable(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def row(what: str, values: list[float]) -> None:
    print(f"| {what} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |", flush=True)


if __name__ == "__main__":
    main()
