"""What pipelines are worth: nDCG@10 against time per query for single backends, fusions and cascades over one first stage.

    python benchmarks/composition.py [DATA ...] [--backend NAME ...] [--candidates FILE] [--keep 20] [--depth 100]
    python benchmarks/composition.py [DATA ...] --speed [--rounds 2]

DATA is a folder in BEIR layout that holds a first stage's ranking too, candidates.*.jsonl: see quality.py. Without any, scifact
and trec-dl19 of the folder that RERANKX_DATA names are taken, by default ../shared/data beside the repository.

The table: nDCG@10 (linear gain, ideal from all judgments) over every judged query, and the time of the first --timed queries. All
pipelines answer each of these in turn, in shuffled order, from strings to an order, with no vector of a text known beforehand:
median and quartiles of milliseconds, the median of CPU time, and the median of the ratios, query by query, to the milliseconds of
"embedded" alone. Where others use the machine the ratios and CPU time are what counts. "a | 20 | b" is a cascade that keeps 20;
"retrieval" has the first stage's scores.

--backend names who is dear, such as minilm. Without it that is a model of MiniLM-L6's size whose head is random (local_models.py
makes it): its time is real and its order says nothing, so that its pipelines have a "-" for quality and answer the timed queries
alone.

--speed: a cascade of two cross-encoders with random heads, one of TinyBERT-L2's size over all candidates and one of MiniLM-L6's
size over the best --keep, against the larger one alone, in turn over the timed queries. That the scores of both are the same is
checked first. What a random head keeps may be longer than what it drops, which costs: both lengths are printed. "times as fast"
is the ratio of the medians; beside it stand the ratios query by query, and that of the CPU time.
"""

from __future__ import annotations

import argparse
import gc
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from local_models import make, quiet
from local_speed import Others, load, machine, milliseconds, quartiles, ratios
from quality import read_beir, read_lines

from rerankx import Backend, Cascade, Fusion, Ranking, Reranker
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.backends.embedded import Embedded
from rerankx.evaluation.metrics import evaluate

DATA = Path(os.environ.get("RERANKX_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
COLLECTIONS = ("scifact", "trec-dl19")
TOLERANCE = 1e-4
FIRST, BASE = "first stage", "embedded"


class Times(NamedTuple):
    """Seconds, query by query."""

    wall: list[float]
    cpu: list[float]


class Collection(NamedTuple):
    """Queries, and what a first stage found for each."""

    title: str
    texts: Mapping[str, str]
    queries: Mapping[str, str]
    found: Mapping[str, Mapping[str, float]]
    """By query, best first: the first stage's score of each document."""
    judged: Mapping[str, Mapping[str, int]]

    def rank(self, reranker: Reranker, qid: str) -> Ranking[str]:
        """Return the ids of what was found, in the reranker's order."""
        found, text = self.found[qid], self.texts.__getitem__
        return reranker.rerank(self.queries[qid], list(found), key=text, retrieval_score=found.__getitem__)

    def ndcg(self, orders: Mapping[str, Sequence[str]]) -> float:
        """Return the quality of an order of ids for each query."""
        return evaluate(orders, self.judged, ("nDCG@10",))["nDCG@10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="*", default=[DATA / name for name in COLLECTIONS])
    parser.add_argument("--candidates", type=Path, help="default: the first candidates.*.jsonl of DATA")
    parser.add_argument("--backend", nargs="+", help="who is dear; default: a model of MiniLM-L6's size")
    parser.add_argument("--depth", type=int, default=100, help="candidates per query")
    parser.add_argument("--keep", type=int, default=20, help="how many texts a cascade passes on")
    parser.add_argument("--queries", type=int, help="only the first so many, for a quick look")
    parser.add_argument("--timed", type=int, default=10, help="queries whose time is taken")
    parser.add_argument("--speed", action="store_true", help="two cross-encoders against the larger one alone")
    parser.add_argument("--rounds", type=int, default=2, help="with --speed: how often each query is asked")
    args = parser.parse_args()
    if args.candidates and len(args.data) != 1:
        parser.error("--candidates belongs to one DATA")
    if missing := [str(folder) for folder in args.data if not folder.is_dir()]:
        parser.error(f"no folder {', '.join(missing)}: give DATA, or set RERANKX_DATA")

    quiet()
    sys.stdout.reconfigure(line_buffering=True)
    facts = machine()
    print("\n".join(f"{name}: {facts[name]}" for name in ("processor", "cores", "instructions", "system")))
    print(f"load at the start: {facts['load at the start']}")
    with tempfile.TemporaryDirectory() as scratch:
        for folder in args.data:
            collection = read(folder, args.candidates, args.depth, args.queries)
            print(f"\n## {collection.title}\n")
            if args.speed:
                cascade_speed(collection, Path(scratch), args.keep, args.timed, args.rounds)
            else:
                compare(collection, Path(scratch), args.backend, args.keep, args.timed)
    print(f"\nload at the end: {load()}")


def read(folder: Path, path: Path | None, depth: int, limit: int | None) -> Collection:
    texts, queries, qrels = read_beir(folder)
    path = path or next(iter(sorted(folder.glob("candidates.*.jsonl"))), None)
    if path is None:
        raise SystemExit(f"no candidates.*.jsonl in {folder}: name a first stage's ranking by --candidates")
    ranked = {line["qid"]: sorted(line["hits"], key=lambda hit: hit["rank"]) for line in read_lines(path)}
    qids = [qid for qid in qrels if qid in ranked][:limit]
    found = {qid: {hit["docid"]: float(hit["score"]) for hit in ranked[qid][:depth]} for qid in qids}
    judged = qrels if limit is None else {qid: qrels[qid] for qid in qids}
    title = f"{folder.name}: {len(judged)} queries, top {depth} of {path.name.removesuffix('.jsonl')}"
    return Collection(title, texts, queries, found, judged)


# Quality against time.


def compare(collection: Collection, scratch: Path, names: Sequence[str] | None, keep: int, timed: int) -> None:
    if names:
        dear = {name: Reranker(name).backend for name in names}
    else:
        dear = {"MiniLM-size, random": cross_encoder("minilm", scratch)}
    remembering, forgetting = ({"cache_bytes": size} for size in (2**30, 0))
    for_quality = pipelines(remembering, dear if names else {}, keep)
    orders = {FIRST: {qid: list(found) for qid, found in collection.found.items()}}
    for name, backend in for_quality.items():
        reranker = Reranker(backend)
        orders[name] = {qid: collection.rank(reranker, qid).documents for qid in collection.found}
    others = Others()
    for_time = pipelines(forgetting, dear, keep)
    times = in_turn(collection, {name: Reranker(backend) for name, backend in for_time.items()}, timed)

    print(f"| order | nDCG@10 | ms per query (quartiles) | CPU ms | × {BASE} |\n|---|---|---|---|---|")
    print(f"| {FIRST} | {collection.ndcg(orders[FIRST]):.3f} | | | |")
    for name, taken in times.items():
        quality = f"{collection.ndcg(orders[name]):.3f}" if name in orders else "-"
        ratio = statistics.median(ratios(taken.wall, times[BASE].wall))
        print(f"| {name} | {quality} | {in_milliseconds(taken)} | {ratio:.2f} |")
    print(f"\ntime: {sizes(collection, timed)} (medians); {disturbance(others)}")


def pipelines(options: Mapping[str, int], dear: Mapping[str, Backend], keep: int) -> dict[str, Backend]:
    """Return what is compared, by name; `options` are those of the embedded backend."""
    embedded, glance = Embedded(**options), Embedded(max_tokens=64, **options)
    fused = Fusion(["retrieval", embedded], method="weighted")
    made: dict[str, Backend] = {
        BASE: embedded,
        "embedded, of 64 tokens": glance,
        "retrieval + embedded, rrf": Fusion(["retrieval", embedded]),
        "retrieval + embedded, weighted": fused,
        f"retrieval \\| {keep} \\| embedded": Cascade(["retrieval", embedded], keep=keep),
        f"embedded, of 64 tokens \\| {keep} \\| embedded": Cascade([glance, embedded], keep=keep),
    }
    for name, backend in dear.items():
        made[name] = backend
        made[f"retrieval \\| {keep} \\| {name}"] = Cascade(["retrieval", backend], keep=keep)
        made[f"embedded \\| {keep} \\| {name}"] = Cascade([embedded, backend], keep=keep)
        made[f"retrieval + embedded, weighted \\| {keep} \\| {name}"] = Cascade([fused, backend], keep=keep)
    return made


def in_turn(collection: Collection, rerankers: Mapping[str, Reranker], timed: int, rounds: int = 1) -> dict[str, Times]:
    """Return what each took, after a warm-up not counted."""
    times = {name: Times([], []) for name in rerankers}
    qids, order, shuffled = list(collection.found)[:timed], list(rerankers), random.Random(0)
    for name in order:
        collection.rank(rerankers[name], qids[0])
    for qid in qids * rounds:
        shuffled.shuffle(order)
        for name in order:
            gc.collect()
            wall, cpu = time.perf_counter(), time.process_time()
            collection.rank(rerankers[name], qid)
            times[name].cpu.append(time.process_time() - cpu)
            times[name].wall.append(time.perf_counter() - wall)
    return times


# Two cross-encoders against one.


def cascade_speed(collection: Collection, scratch: Path, keep: int, timed: int, rounds: int) -> None:
    small, large = (cross_encoder(name, scratch) for name in ("tiny", "minilm"))
    alone, cascade = Reranker(large), Reranker(Cascade([small, large], keep=keep))
    kept: list[str] = []
    for qid in list(collection.found)[:3]:
        ranking = collection.rank(cascade, qid)
        check_scores(collection.rank(alone, qid), ranking, keep)
        kept += [collection.texts[docid] for docid in ranking.documents[:keep]]
    others = Others()
    times = in_turn(collection, {"alone": alone, "cascade": cascade}, timed, rounds)
    wall, cpu = (ratio_of_medians(times["alone"], times["cascade"], clock) for clock in ("wall", "cpu"))
    lower, middle, upper = quartiles(ratios(times["alone"].wall, times["cascade"].wall))
    print("| pipeline | ms per query (quartiles) | CPU ms |\n|---|---|---|")
    print(f"| MiniLM-size alone | {in_milliseconds(times['alone'])} |")
    print(f"| TinyBERT-size \\| {keep} \\| MiniLM-size | {in_milliseconds(times['cascade'])} |")
    print(f"\ntimes as fast: {wall:.2f} (query by query {middle:.2f}, quartiles {lower:.2f} to {upper:.2f}),", end=" ")
    print(f"in CPU time {cpu:.2f}; {len(times['alone'].wall)} in turn")
    length = statistics.median(len(large.token_spans(text)) for text in kept)
    print(f"{sizes(collection, timed)} (medians), those kept of {length:.0f}; {disturbance(others)}")


def ratio_of_medians(one: Times, other: Times, clock: str) -> float:
    return statistics.median(getattr(one, clock)) / statistics.median(getattr(other, clock))


def cross_encoder(name: str, scratch: Path) -> CrossEncoder:
    folder = scratch / name
    make(name, folder)
    return CrossEncoder(folder, device="cpu", cache_dir=folder / "made")


def check_scores(alone: Ranking[str], cascade: Ranking[str], keep: int) -> None:
    """Stop unless the cascade's scores, of the best `keep`, are those of its last stage alone."""
    right = {hit.index: hit.raw_score for hit in alone}
    scored = {hit.index: hit.raw_score for hit in cascade if hit.raw_score is not None}
    if len(scored) != min(keep, len(right)) or len(cascade) != len(alone):
        raise SystemExit(f"the cascade scored {len(scored)} of {len(cascade)} texts, of {len(alone)}")
    if drift := [index for index, score in scored.items() if abs(score - right[index]) > TOLERANCE]:
        raise SystemExit(f"the cascade's scores are not those of its last stage: {len(drift)} of {len(scored)} differ")


def in_milliseconds(times: Times) -> str:
    """Return two cells of a table."""
    lower, median, upper = map(milliseconds, quartiles(times.wall))
    return f"{median} ({lower}–{upper}) | {milliseconds(statistics.median(times.cpu))}"


def sizes(collection: Collection, timed: int) -> str:
    """Return how many texts the timed queries have, and of how many tokens."""
    found, embedded = list(collection.found.values())[:timed], Embedded()
    tokens = [len(embedded.token_spans(collection.texts[docid])) for docids in found for docid in docids]
    return f"{len(found)} queries with {statistics.median(map(len, found)):.0f} texts of {statistics.median(tokens):.0f} tokens"


def disturbance(others: Others) -> str:
    cores = others.cores()
    return "how busy others kept the machine is unknown" if cores is None else f"others kept {cores:.1f} cores busy"


if __name__ == "__main__":
    main()
