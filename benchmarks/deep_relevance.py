"""Is relevance found wherever it stands in a long document? A backend as it is, and in windows.

    python benchmarks/deep_relevance.py [--data FOLDER] [--backend embedded] [--queries 25] [--plot FILE]

Abstracts of SciFact are joined into long documents. In one of them is an abstract that answers the query, first at the beginning,
then further and further back; the others hold none that is judged relevant to any query. For each place the document is ranked
among the others by three readings: the backend as it is, which cuts off what it has no room for; its first window alone, which is
what cutting off leaves; and `Windowed`, which reads everything. Printed are how often the document comes first, its mean
reciprocal rank and its mean score, and what chance would give. A tie counts against the document.

The embedded backend as it is counts the words of the whole text, but encodes no more than its beginning.

The seconds per query are not what one query would take: the other documents are the same for all, and the embedded backend keeps
the vectors of what it has read, from query to query and from one reading to the next. `--option cache_bytes=0` keeps none.

The data is a folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/test.tsv. Without --data it is scifact in the folder that
RERANKX_DATA names, by default ../shared/data beside the repository.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from local_speed import machine
from quality import read_beir

from rerankx import Backend, Reranker, Scale, Windowed

DATA = Path(os.environ.get("RERANKX_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
SEED = 0


class Case(NamedTuple):
    """A query, and a document that answers it at each of some places."""

    query: str
    placed: Sequence[str]


class Found(NamedTuple):
    """What a reading makes of the document at one place, over all queries."""

    first: float
    """The share of queries for which it came first."""
    reciprocal_rank: float
    score: float
    """In [0, 1]; the mean of the raw scores where the scale has no such place."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=DATA / "scifact")
    parser.add_argument("--backend", default="embedded", help="a pointwise one")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON", help="an option of the backend")
    parser.add_argument("--queries", type=int, default=25)
    parser.add_argument("--documents", type=int, default=10, help="that are ranked for a query")
    parser.add_argument("--abstracts", type=int, default=10, help="in a document")
    parser.add_argument("--places", type=int, nargs="+", default=[1, 2, 4, 7, 10], help="of the relevant one, from 1")
    parser.add_argument("--size", type=int, default=200, help="of a window, in tokens")
    parser.add_argument("--overlap", type=int, default=50, help="of windows, in tokens")
    parser.add_argument("--plot", type=Path, help="draw the figures into this file; needs matplotlib")
    args = parser.parse_args()
    if not all(1 <= place <= args.abstracts for place in args.places):
        parser.error(f"--places must lie in 1 to {args.abstracts}, the number of --abstracts")

    cases, others = joined(args.data, args.queries, args.documents - 1, args.abstracts, args.places)
    options = {name: json.loads(value) for name, value in (option.split("=", 1) for option in args.option)}
    backend = Reranker(args.backend, **options).backend
    window = {"size": args.size, "overlap": args.overlap}
    readings = {
        "as it is": backend,
        "first window": Windowed(backend, **window, combine="first"),
        "Windowed": Windowed(backend, **window),
    }
    facts = machine()
    print("\n".join(f"{name}: {facts[name]}" for name in ("processor", "cores", "instructions", "system")))
    tokens = fmean(len(backend.token_spans(text)) for text in others)
    print(
        f"\n{backend.name}:{backend.model}, {args.data.name}: {len(cases)} queries, each with {args.documents} documents of"
        f" {args.abstracts} abstracts, {tokens:.0f} tokens in the mean; windows of {args.size} tokens\n"
    )
    found = {}
    for name, reading in readings.items():
        start = time.perf_counter()
        found[name] = read(reading, cases, others)
        took = (time.perf_counter() - start) / len(cases)
        print(f"{name}: {took:.2f} s per query, all places together, with what the backend keeps of the texts before")
    print("\n" + table(found, args.places, args.documents))
    if args.plot is not None:
        plot(found, args.places, args.documents, args.plot)


def joined(
    folder: Path, queries: int, others: int, abstracts: int, places: Sequence[int]
) -> tuple[list[Case], list[str]]:
    """Return cases, and the documents among which each is ranked; the same ones every time."""
    corpus, asked, qrels = read_beir(folder)
    relevant = {docid for judged in qrels.values() for docid, grade in judged.items() if grade > 0}
    filler = sorted(set(corpus) - relevant)
    draw = random.Random(SEED)
    chosen = draw.sample(sorted(qid for qid, judged in qrels.items() if any(judged.values())), queries)
    documents = [draw.sample(filler, abstracts) for _ in range(others)]
    cases = []
    for qid in chosen:
        answer = draw.choice(sorted(docid for docid, grade in qrels[qid].items() if grade > 0))
        around = draw.sample(filler, abstracts - 1)
        placed = [[*around[: place - 1], answer, *around[place - 1 :]] for place in places]
        cases.append(Case(asked[qid], [_text(corpus, docids) for docids in placed]))
    return cases, [_text(corpus, docids) for docids in documents]


def _text(corpus: dict[str, str], docids: Sequence[str]) -> str:
    return "\n\n".join(corpus[docid] for docid in docids)


def read(backend: Backend, cases: Sequence[Case], others: Sequence[str]) -> list[Found]:
    """Return what the backend makes of each place; its scores ignore the other texts, so each text is scored once."""
    ranks: list[list[int]] = []
    scores: list[list[float]] = []
    scale = backend.scale
    for case in cases:
        answered = backend.score(case.query, [*case.placed, *others])
        values = [value for value in answered.values if value is not None]
        if len(values) < len(answered.values):
            raise SystemExit(f"{backend.name} left texts unscored: {answered.degraded}")
        placed, rest = values[: len(case.placed)], values[len(case.placed) :]
        scale = answered.scale or scale
        ranks.append([1 + sum(other >= value for other in rest) for value in placed])
        scores.append([_shown(value, scale) for value in placed])
    return [
        Found(fmean(rank == 1 for rank in some), fmean(1 / rank for rank in some), fmean(score))
        for some, score in zip(zip(*ranks, strict=True), zip(*scores, strict=True), strict=True)
    ]


def _shown(raw: float, scale: Scale) -> float:
    return scale.to_unit(raw) if scale.absolute else raw


def chance(documents: int) -> Found:
    """Return what an order by lot gives; there is no such score."""
    return Found(1 / documents, sum(1 / rank for rank in range(1, documents + 1)) / documents, float("nan"))


def table(found: dict[str, list[Found]], places: Sequence[int], documents: int) -> str:
    by_lot = chance(documents)
    rows = ["| place of the relevant abstract | " + " | ".join(f"{name}: first, MRR, score" for name in found) + " |"]
    rows.append("|---" * (len(found) + 1) + "|")
    for i, place in enumerate(places):
        cells = (f"{one[i].first:.0%}, {one[i].reciprocal_rank:.2f}, {one[i].score:.2f}" for one in found.values())
        rows.append(f"| {place} | " + " | ".join(cells) + " |")
    cell = f"{by_lot.first:.0%}, {by_lot.reciprocal_rank:.2f}"
    return "\n".join([*rows, "| chance | " + " | ".join([cell] * len(found)) + " |"])


def plot(found: dict[str, list[Found]], places: Sequence[int], documents: int, path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, (ranks, scores) = plt.subplots(1, 2, figsize=(10, 4))
    for name, one in found.items():
        ranks.plot(places, [each.reciprocal_rank for each in one], "o-", label=name)
        scores.plot(places, [each.score for each in one], "o-", label=name)
    ranks.axhline(chance(documents).reciprocal_rank, color="black", linewidth=0.8, linestyle="--", label="chance")
    ranks.set(ylim=(0, 1.02), ylabel="mean reciprocal rank")
    scores.set(ylim=(0, None), ylabel="mean score")
    for axes in (ranks, scores):
        axes.set(xlabel="place of the relevant abstract", xticks=list(places))
    ranks.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
