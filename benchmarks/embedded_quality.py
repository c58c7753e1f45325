"""What the embedded model is worth, losses included: alone, fused with the first stage, and behind its first candidates.

    python benchmarks/embedded_quality.py [COLLECTION ...] [--data FOLDER] [--keep FOLDER] [--json FILE]

Prints nDCG@10 (linear gain, ideal from all judgements) on public collections as a Markdown table; --json writes every figure.
From benchmarks/embedded_quality.json, all collections', `python scripts/readme_tables.py` makes the tables of the README and of
docs/embedded-model.md. The collections lie in the folder that RERANKX_DATA names, or --data, in BEIR layout, each with a first
stage's ranking of up to 100 candidates; NQ has none, and BM25 is run (extra `evaluation`). --keep keeps the scores,
so that an interrupted run goes on.

The systems reorder the same candidates: the model alone, over all of them or over the first 50 or 20, the rest behind these;
"by rank", the sum of 1 / (60 + rank) in both orders; "by score", the sum of the model's and the first stage's scores, each
brought to mean 0 and deviation 1 per query, in equal shares or 3 to 1, or ("min-max") each brought to [0, 1].

Verdicts are those of `compare_paired` against the first stage, at 95 %. A loss counts by itself; a gain only if its p is at most
0.05 after Holm's correction for all comparisons of the run: of many systems that change nothing some look better.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rerankx.backends.embedded import Embedded
from rerankx.catalogue import CROSS_ENCODERS, Published
from rerankx.evaluation import Comparison, Dataset, Scoring, compare_paired, evaluate_per_query, holm, load, score
from rerankx.fusion import Normalise, rrf

DATA = Path(os.environ.get("RERANKX_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
RESULT = Path(__file__).with_suffix(".json")
MEASURE, DEPTH, LEVEL = "nDCG@10", 100, 0.95
BM25 = "BM25"
Run = Mapping[str, Sequence[str]]


class Collection(NamedTuple):
    """Queries with judgements and a first stage's candidates."""

    name: str
    first_stage: str
    path: str
    tuned: bool = False
    """Whether the model's weights were chosen on it."""
    queries: int | None = None
    """Only the first so many."""


COLLECTIONS = {
    "scifact": Collection("SciFact", BM25, "scifact"),
    "dl19": Collection("TREC DL19", BM25, "trec-dl19/candidates.BM25.jsonl"),
    "dl19-tasb": Collection("TREC DL19", "TAS-B (dense)", "trec-dl19/candidates.D_BERT_KD_TASB.jsonl"),
    "cosqa": Collection("CoSQA (code)", BM25, "cosqa"),
    "xquad-en": Collection("XQuAD English", BM25, "xquad/en"),
    "xquad-de": Collection("XQuAD German", BM25, "xquad/de"),
    "xquad-hi": Collection("XQuAD Hindi", BM25, "xquad/hi"),
    # The weights were chosen on the first 500.
    "nq": Collection("NQ (first 500)", BM25, "nq-oracle", tuned=True, queries=500),
    "hotpotqa": Collection("HotpotQA (sample)", BM25, "hotpotqa-sample/candidates.bm25s.jsonl", tuned=True),
    "cranfield": Collection("Cranfield", BM25, "cranfield", tuned=True),
}


class System(NamedTuple):
    """What is made of the embedded model's scores."""

    depth: int | None = None
    """How many of the first stage's candidates are reranked; None is all."""
    weight: float = 1.0
    """In the sum with the first stage's scores."""
    normalise: Normalise = "zscore"
    ranks: bool = False
    """Whether ranks are added up instead."""

    def run(self, scoring: Scoring) -> Run:
        """Return document ids by query id, best first."""
        if self.ranks:
            return fused_by_rank(scoring)
        return scoring.ranked(depth=self.depth, weight=self.weight, normalise=self.normalise)


ALONE, BY_RANK, BY_SCORE, FIRST_20 = "embedded", "fused by rank", "fused by score", "of the first 20"
SYSTEMS = {
    ALONE: System(),
    "of the first 50": System(depth=50),
    FIRST_20: System(depth=20),
    BY_RANK: System(ranks=True),
    BY_SCORE: System(weight=0.5),
    "fused by score, 3 to 1": System(weight=0.75),
    "fused by score, min-max": System(weight=0.5, normalise="minmax"),
}

# Over Pyserini's BM25, which has .679 on SciFact and .506 on DL19.
TOP_100 = "BM25, top 100"
DEAR, RANK_LLM = "https://github.com/DataScienceUIBK/DeAR-Reranking", "https://github.com/castorini/rank_llm"
LANGUAGE_MODELS = (
    ("monoT5-3B", Published("BEIR SciFact", MEASURE, 0.7657, TOP_100, DEAR)),
    ("monoT5-3B", Published("TREC DL19", MEASURE, 0.7183, TOP_100, DEAR)),
    ("RankGPT, gpt-4", Published("TREC DL19", MEASURE, 0.7559, TOP_100, DEAR)),
    ("RankGPT, gpt-4o-mini", Published("TREC DL19", MEASURE, 0.7345, TOP_100, RANK_LLM)),
    ("RankZephyr-7B", Published("TREC DL19", MEASURE, 0.7365, TOP_100, RANK_LLM)),
)
# Those that stand beside the figures measured here.
NICKNAMES = {
    "cross-encoder/ms-marco-MiniLM-L6-v2": "MiniLM-L6",
    "BAAI/bge-reranker-v2-m3": "bge-v2-m3",
    "monoT5-3B": "monoT5-3B",
    "RankGPT, gpt-4": "gpt-4",
}
# The names that the published figures' collections have here.
SAME = {"BEIR SciFact": "SciFact", "TREC DL19": "TREC DL19"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "collections", nargs="*", metavar="COLLECTION", help=f"default: all of {', '.join(COLLECTIONS)}"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="the folder of the collections")
    parser.add_argument("--keep", type=Path, help="a folder for the scores")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write every figure")
    args = parser.parse_args()
    for name in args.collections:
        if name not in COLLECTIONS:
            parser.error(f"there is no collection {name!r}; there are {', '.join(COLLECTIONS)}")
    chosen = [COLLECTIONS[name] for name in args.collections or COLLECTIONS]
    if missing := [str(args.data / one.path) for one in chosen if not (args.data / one.path).exists()]:
        parser.error(f"{missing[0]} is not there: name the collections' folder by --data or RERANKX_DATA")

    # Every text is kept: a passage is a candidate of many queries.
    backend = Embedded(cache_bytes=2**31)
    result = measured(backend, {one: dataset_of(one, args.data) for one in chosen}, args.keep)
    print(summary(result))
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def dataset_of(collection: Collection, data: Path) -> Dataset:
    dataset = load(data / collection.path, depth=DEPTH, name=collection.name)
    return dataset.subset(list(dataset.queries)[: collection.queries])


def measured(backend: Embedded, datasets: Mapping[Collection, Dataset], keep: Path | None) -> dict[str, Any]:
    """Return the figures of all systems on all collections, as plain data."""
    found: list[tuple[Collection, Dataset, dict[str, Comparison]]] = []
    for collection, dataset in datasets.items():

        def told(done: int, of: int, name: str = f"{collection.name}, {collection.first_stage}") -> None:
            if sys.stderr.isatty():
                print(f"\r{name}: {done}/{of} ", end="\n" if done == of else "", file=sys.stderr)

        scoring = score(backend, dataset, keep=keep, progress=told)
        if scoring.failures:
            raise SystemExit(f"{collection.name}: {len(scoring.failures)} queries failed, {scoring.failures}")
        found.append((collection, dataset, compared(scoring)))
    adjusted = iter(holm([paired.p for *_, systems in found for paired in systems.values()]))
    return {
        "measure": MEASURE,
        "level": LEVEL,
        "backend": backend.fingerprint,
        "collections": [
            {
                "name": collection.name,
                "first_stage": collection.first_stage,
                "tuned": collection.tuned,
                "queries": len(dataset.queries),
                "candidates": max(map(len, dataset.candidates.values())),
                "before": round(systems[ALONE].mean_b, 5),
                "systems": [row(name, paired, next(adjusted)) for name, paired in systems.items()],
            }
            for collection, dataset, systems in found
        ],
    }


def compared(scoring: Scoring) -> dict[str, Comparison]:
    """Return each system against the first stage, on every judged query; without those that are the same as another here."""
    longest = max(map(len, scoring.dataset.candidates.values()))
    first = values(scoring.ranked(weight=0), scoring.dataset)
    return {
        name: compare_paired(values(system.run(scoring), scoring.dataset), first, level=LEVEL)
        for name, system in SYSTEMS.items()
        if system.depth is None or system.depth < longest
    }


def values(run: Run, dataset: Dataset) -> list[float]:
    return [value[MEASURE] for value in evaluate_per_query(run, dataset.qrels, [MEASURE]).values()]


def fused_by_rank(scoring: Scoring) -> dict[str, list[str]]:
    """Return the candidates by the sum of 1 / (60 + rank) in both orders; ties keep the first stage's."""
    run = {}
    for qid, after in scoring.ranked().items():
        before = [one.docid for one in scoring.dataset.candidates[qid]]
        places = {docid: place for place, docid in enumerate(before)}
        sums = rrf([range(len(before)), [places[docid] for docid in after]], n=len(before))
        run[qid] = [before[place] for place in sorted(range(len(before)), key=lambda place: -sums[place])]
    return run


def row(system: str, paired: Comparison, p_adjusted: float) -> dict[str, Any]:
    """Return the comparison as plain data, with its p among all others, by which a gain is taken for one or not."""
    chance = paired.verdict == "better" and p_adjusted > 1 - paired.level
    figures = {
        "mean": paired.mean_a,
        "difference": paired.difference,
        "low": paired.low,
        "high": paired.high,
        "p": paired.p,
        "p_adjusted": p_adjusted,
    }
    return {
        "system": system,
        **{name: round(figure, 5) for name, figure in figures.items()},
        "wins": paired.wins,
        "ties": paired.ties,
        "losses": paired.losses,
        "verdict": "inconclusive" if chance else paired.verdict,
    }


# Tables in Markdown, from the plain data.


def summary(result: Mapping[str, Any]) -> str:
    """Return a row per collection: the first stage, four of the systems, and what others have printed over BM25's candidates."""
    others = (BY_RANK, BY_SCORE, FIRST_20)
    rows = [["collection, first stage", "queries", "first stage", ALONE, "95 %", *others, "published"]]
    for one in result["collections"]:
        systems = {row["system"]: row for row in one["systems"]}
        cells = [cell(systems.get(name), "{mean:.3f} ({difference:+.3f})") for name in (ALONE, *others)]
        interval = "{low:+.3f} to {high:+.3f}".format_map(systems[ALONE])
        best = [f"{NICKNAMES[model]} {figure.value:.3f}" for model, figure in comparable(one) if model in NICKNAMES]
        before = f"{one['before']:.3f}"
        rows.append([title(one), f"{one['queries']:,}", before, cells[0], interval, *cells[1:], ", ".join(best)])
    return markdown(rows)


def gains(result: Mapping[str, Any]) -> str:
    """Return a row per collection: each system's difference to the first stage, with its interval."""
    rows = [["collection, first stage", *SYSTEMS]]
    for one in result["collections"]:
        systems = {row["system"]: row for row in one["systems"]}
        shown = "{difference:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append([title(one), *(cell(systems.get(name), shown) for name in SYSTEMS)])
    return markdown(rows)


def published() -> str:
    """Return what others have printed on the collections that are measured here, with the first stage of each."""
    found: dict[tuple[str, str, str], dict[str, float]] = {}
    for model, figure in printed():
        row = (figure.first_stage, model.rpartition("/")[2], figure.source)
        found.setdefault(row, {})[SAME[figure.collection]] = figure.value
    rows = [["model", *SAME.values(), "over"]]
    for (first_stage, model, source), figures in sorted(found.items(), key=lambda row: [row[0][0], row[0][1].lower()]):
        cells = [f"{figures[name]:.3f}" if name in figures else "" for name in SAME.values()]
        rows.append([f"[{model}]({source})", *cells, first_stage])
    return markdown(rows)


def printed() -> list[tuple[str, Published]]:
    """Return models with figures of the measure, on collections that are measured here."""
    models = [(card.model, figure) for card in CROSS_ENCODERS.values() for figure in card.published]
    return [one for one in (*models, *LANGUAGE_MODELS) if one[1].metric == MEASURE and one[1].collection in SAME]


def comparable(one: Mapping[str, Any]) -> list[tuple[str, Published]]:
    """Return those that others have printed for this collection and the same first stage."""
    return [
        (model, figure)
        for model, figure in printed()
        if (SAME[figure.collection], figure.first_stage)
        == (one["name"], f"{one['first_stage']}, top {one['candidates']}")
    ]


def title(one: Mapping[str, Any]) -> str:
    return f"{one['name']}, {one['first_stage']}{', *tuned*' if one['tuned'] else ''}"


def cell(row: Mapping[str, Any] | None, shown: str) -> str:
    """Return the row's figures with its verdict, where that is not "better"; a dash where it is the same as another system."""
    if row is None:
        return "–"
    figures = shown.format_map(row)
    marked = {"better": figures, "worse": f"**{figures} worse**", "equivalent": f"{figures} ="}
    return marked.get(row["verdict"], f"{figures} ?")


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = (f"| {' | '.join(cells)} |" for cells in rows)
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


if __name__ == "__main__":
    main()
