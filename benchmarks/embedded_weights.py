"""How the embedded backend's weights were chosen: nDCG@10 on the tuning sets for other weights of its three parts.

    python benchmarks/embedded_weights.py DATA [DATA ...] [--queries 500] [--option max_tokens=128]

DATA are folders as in quality.py; the tuning sets are hotpotqa-sample, cranfield and nq-oracle. Every query is reranked once; the
parts of each score, which its hits report, are then added up anew with each row's weights. Ties keep the first stage's order.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

from quality import bm25_candidates, read_beir, read_candidates

from rerankx import Ranking, Reranker
from rerankx.backends.embedded.combine import COSINE, LEXICAL, MAXSIM
from rerankx.evaluation.metrics import evaluate

SHIPPED = {"cosine": COSINE, "maxsim": MAXSIM, "lexical": LEXICAL}
ROWS = (
    (1, 0, 0),
    (0, 1, 0),
    (0, 0, 1),
    (1, 0, 0.25),
    (1, 0, 0.5),
    (1, 1, 0),
    (1, 1, 0.3),
    (1, 1, 0.5),
    (1, 1, 0.6),
    (1, 1, 1),
    (1, 0.5, 0.5),
    (0.5, 1, 0.5),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=500, help="at most so many of a collection's queries")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON", help="an option of the backend")
    args = parser.parse_args()

    options = {name: json.loads(value) for name, value in (option.split("=", 1) for option in args.option)}
    collections = [reranked(folder, args.queries, Reranker(**options)) for folder in args.data]
    print(f"| cosine | maxsim | lexical | {' | '.join(folder.name for folder in args.data)} | mean |")
    print("|---" * (4 + len(args.data)) + "|")
    for weights in ROWS:
        parts = dict(zip(SHIPPED, weights, strict=True))
        ndcg = [evaluate(reweighted(rankings, parts), qrels, ["nDCG@10"])["nDCG@10"] for rankings, qrels in collections]
        print("| " + " | ".join([*map(str, weights), *(f"{value:.4f}" for value in (*ndcg, fmean(ndcg)))]) + " |")


def reranked(folder: Path, queries: int, reranker: Reranker) -> tuple[dict[str, Ranking[str]], dict]:
    corpus, texts, qrels = read_beir(folder)
    qrels = dict(list(qrels.items())[:queries])
    path = next(iter(sorted(folder.glob("candidates.*.jsonl"))), None)
    candidates = read_candidates(path) if path else bm25_candidates(corpus, texts, qrels, 100)
    return {
        qid: reranker.rerank(texts[qid], candidates[qid][:100], key=corpus.__getitem__)
        for qid in qrels
        if qid in candidates
    }, qrels


def reweighted(rankings: dict[str, Ranking[str]], weights: dict[str, float]) -> dict[str, list[str]]:
    run = {}
    for qid, ranking in rankings.items():
        scores = {
            hit.document: sum(weight * hit.details[part] / SHIPPED[part] for part, weight in weights.items())
            for hit in sorted(ranking, key=lambda hit: hit.index)
        }
        run[qid] = sorted(scores, key=lambda docid: -scores[docid])
    return run


if __name__ == "__main__":
    main()
