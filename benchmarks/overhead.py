"""What rerankx itself costs: import, cold start, a known corpus, memory, adapters.

    python benchmarks/overhead.py [--rounds 7] [--passages FILE]

FILE holds one passage per line or BEIR's corpus.jsonl; by default the demo's passages, repeated with a number so that no two are
alike. Milliseconds: the median, lowest and highest of the rounds; a round of a cold figure is a new process. What one thing costs
over another is their difference round by round, the two measured in turn.
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
from collections.abc import Callable
from pathlib import Path

COLD = """
import sys, time
start = time.perf_counter()
from rerankx import Reranker
texts = sys.stdin.read().split("\\0")
ranking = Reranker().rerank("who pays for a refund", texts)
print((time.perf_counter() - start) * 1000, ranking.usage.input_tokens)
"""

AFTER = """
import sys, time
import {first}
start = time.perf_counter()
import {second}
print((time.perf_counter() - start) * 1000)
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
    row("import rerankx, over bare Python", in_turn(process("import rerankx"), process("pass"), args.rounds))
    named = process("import rerankx; rerankx.Reranker")
    row("… and its name Reranker", in_turn(named, process("pass"), args.rounds))
    cold, tokens = zip(*(map(float, run(COLD, short).split()) for _ in range(args.rounds)), strict=True)
    row(f"new process, import to ranking of {len(short)} passages of {tokens[0] / len(short):.0f} tokens", cold)
    row(f"a new query over the same {len(short)} passages, now known", known(short, args.rounds))
    if sys.platform == "linux":
        row(f"resident memory after {len(passages[:1000])} passages, MB", [float(run(MEMORY, passages[:1000]))])
    for first, second in (
        ("langchain_core.retrievers", "langchain_rerankx"),
        ("llama_index.core", "llamaindex_rerankx"),
    ):
        if importable(first):
            code = AFTER.format(first=first, second=second)
            run(code, [])  # the first may have to compile what it imports
            row(f"import {second}, after {first}", [float(run(code, [])) for _ in range(2 * args.rounds)])
    for n in (50, 1000):
        adapters(n, args.rounds)


def adapters(n: int, rounds: int) -> None:
    """Print what each adapter adds to the core, on scores that cost nothing."""
    from rerankx import Backend, Reranker, Scale

    class Nothing(Backend):
        name, model, scale, pointwise = "nothing", "constant", Scale.PROBABILITY, True

        def _score(self, query: str, texts: list[str], *, top_n: int | None = None) -> list[float]:
            return [0.5] * len(texts)

    texts = [f"passage {i}" for i in range(n)]
    reranker, backend = Reranker(Nothing()), Nothing()

    def core() -> None:
        reranker.rerank("q", texts, top_n=5)

    row(f"core: {n} strings, scores at no cost", [milliseconds(core) for _ in range(10 * rounds)])
    if importable("langchain_core"):
        from langchain_core.documents import Document
        from langchain_core.retrievers import BaseRetriever

        from langchain_rerankx import Reranker as Compressor
        from langchain_rerankx import rerank

        class Found(BaseRetriever):
            found: list[Document]

            def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
                return self.found

        documents, compressor = [Document(text) for text in texts], Compressor(backend, top_n=5)
        added = in_turn(lambda: compressor.compress_documents(documents, "q"), core, 10 * rounds)
        row(f"langchain_rerankx adds, {n} documents", added)
        base = Found(found=documents)
        line = rerank(base, backend, top_n=5)
        added = in_turn(lambda: line.invoke("q"), lambda: (base.invoke("q"), core()), 10 * rounds)
        row(f"… and rerank(retriever), over that retriever and the core, {n} documents", added)
    if importable("llama_index.core"):
        from llama_index.core.schema import NodeWithScore, TextNode

        from llamaindex_rerankx import Rerank

        nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in texts]
        postprocessor = Rerank(backend, top_n=5)
        added = in_turn(lambda: postprocessor.postprocess_nodes(nodes, query_str="q"), core, 10 * rounds)
        row(f"llamaindex_rerankx adds, {n} nodes", added)


def known(texts: list[str], rounds: int) -> list[float]:
    from rerankx import Reranker

    reranker = Reranker()
    reranker.rerank("first", texts)
    queries = [f"which of the {i} plans can be paused" for i in range(max(rounds, 20))]
    return [milliseconds(lambda query=query: reranker.rerank(query, texts)) for query in queries]


def read_passages(path: Path | None) -> list[str]:
    if path is None:
        from rerankx import demo

        return [f"{passage.text} ({i})" for i in range(10) for passage in demo.passages()]
    lines = path.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines] if path.suffix == ".jsonl" else lines


def in_turn(one: Callable[[], object], other: Callable[[], object], rounds: int) -> list[float]:
    """Return by how many milliseconds `one` took longer than `other`, round by round, after a round not counted."""
    return [milliseconds(one) - milliseconds(other) for _ in range(rounds + 1)][1:]


def milliseconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


# pip compiles what it installs; a source tree is compiled by the first, uncounted round, unless this variable forbids it.
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def process(code: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", code], check=True, env=ENVIRONMENT)


def run(code: str, texts: list[str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="\0".join(texts),
        capture_output=True,
        text=True,
        check=True,
        env=ENVIRONMENT,
    )
    return done.stdout


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
