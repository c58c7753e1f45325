"""Rerank a first stage's candidates and score both orders.

    python benchmarks/quality.py DATA [--candidates FILE] [--backend embedded] [--depth 100] [--relevant-from 1]

DATA is a folder in BEIR layout: corpus.jsonl, queries.jsonl, qrels/test.tsv. The candidates are a first stage's ranking, one
query a line: {"qid": ..., "hits": [{"docid": ..., "rank": ..., "score": ...}]}; without them BM25 is run here (bm25s, k1 0.9,
b 0.4, English stop words and stemmer; needs `pip install 'rerankx[evaluation]'`).

Prints nDCG@10 (linear gain, ideal from all judgments), MAP and MRR of both orders over every judged query, and the median and
95th percentile of milliseconds per query, in this process, one query at a time, after one warm-up query.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from rerankx import Reranker
from rerankx.evaluation.metrics import evaluate

Candidates = dict[str, list[str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument(
        "--candidates", type=Path, help="default: candidates.*.jsonl of DATA if there is one, else BM25"
    )
    parser.add_argument("--backend", default="embedded")
    parser.add_argument("--option", action="append", default=[], metavar="NAME=JSON", help="an option of the backend")
    parser.add_argument("--depth", type=int, default=100, help="candidates per query")
    parser.add_argument(
        "--relevant-from", type=int, default=1, help="lowest grade that counts as relevant in MAP and MRR"
    )
    parser.add_argument("--queries", type=int, help="only the first so many, for a quick look")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    args = parser.parse_args()

    corpus, queries, qrels = read_beir(args.data)
    path = args.candidates or next(iter(sorted(args.data.glob("candidates.*.jsonl"))), None)
    candidates = read_candidates(path) if path else bm25_candidates(corpus, queries, qrels, args.depth)
    qids = [qid for qid in qrels if qid in candidates][: args.queries]
    before = {qid: candidates[qid][: args.depth] for qid in qids}
    options = {name: json.loads(value) for name, value in (option.split("=", 1) for option in args.option)}
    after, milliseconds, hits = rerank_all(Reranker(args.backend, **options), corpus, queries, before)

    names = ("nDCG@10", f"AP(rel={args.relevant_from})", f"RR(rel={args.relevant_from})")
    judged = qrels if args.queries is None else {qid: qrels[qid] for qid in qids}
    result = {
        "data": args.data.name if args.data.parent.name != "xquad" else f"xquad/{args.data.name}",
        "first_stage": path.name if path else "bm25s",
        "backend": args.backend,
        "queries": len(judged),
        "depth": args.depth,
        "before": dict(zip(("nDCG@10", "MAP", "MRR"), evaluate(before, judged, names).values(), strict=True)),
        "after": dict(zip(("nDCG@10", "MAP", "MRR"), evaluate(after, judged, names).values(), strict=True)),
        "ms_p50": statistics.median(milliseconds),
        "ms_p95": statistics.quantiles(milliseconds, n=20)[-1],
        "texts_from_cache": hits,
    }
    print(json.dumps(result) if args.json else table(result))


def rerank_all(
    reranker: Reranker, corpus: dict, queries: dict, before: Candidates
) -> tuple[Candidates, list[float], float]:
    reranker.rerank("warm up", ["warm up"])
    after, milliseconds, hits, texts = {}, [], 0, 0
    for done, (qid, docids) in enumerate(before.items(), 1):
        start = time.perf_counter()
        ranking = reranker.rerank(queries[qid], docids, key=corpus.__getitem__)
        milliseconds.append((time.perf_counter() - start) * 1000)
        after[qid] = ranking.documents
        hits, texts = hits + ranking.usage.cache_hits, texts + ranking.total
        if sys.stderr.isatty():
            print(f"\r{done}/{len(before)}", end="", file=sys.stderr)
    return after, milliseconds, hits / max(texts, 1)


def read_beir(folder: Path) -> tuple[dict[str, str], dict[str, str], dict[str, dict[str, int]]]:
    """Return texts (title and text), queries and judgments."""
    corpus = {d["_id"]: f"{d.get('title') or ''} {d['text']}".strip() for d in read_lines(folder / "corpus.jsonl")}
    queries = {q["_id"]: q["text"] for q in read_lines(folder / "queries.jsonl")}
    qrels: dict[str, dict[str, int]] = {}
    for line in (folder / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        qid, docid, grade = line.split("\t")
        qrels.setdefault(qid, {})[docid] = int(grade)
    return corpus, queries, qrels


def read_lines(path: Path) -> list[dict]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def read_candidates(path: Path) -> Candidates:
    ranked = {line["qid"]: sorted(line["hits"], key=lambda hit: hit["rank"]) for line in read_lines(path)}
    return {qid: [hit["docid"] for hit in hits] for qid, hits in ranked.items()}


def bm25_candidates(corpus: dict, queries: dict, qrels: dict, depth: int) -> Candidates:
    import bm25s
    import Stemmer

    settings = {"stopwords": "en", "stemmer": Stemmer.Stemmer("english"), "show_progress": False}
    docids, qids = list(corpus), [qid for qid in qrels if qid in queries]
    index = bm25s.BM25(k1=0.9, b=0.4)
    index.index(bm25s.tokenize(list(corpus.values()), **settings), show_progress=False)
    asked = bm25s.tokenize([queries[qid] for qid in qids], **settings)
    found, _ = index.retrieve(asked, k=min(depth, len(docids)), show_progress=False)
    return {qid: [docids[i] for i in row] for qid, row in zip(qids, found, strict=True)}


def table(result: dict) -> str:
    rows = [f"{result['data']}: {result['queries']} queries, top {result['depth']} of {result['first_stage']}", ""]
    rows += ["| order | nDCG@10 | MAP | MRR |", "|---|---|---|---|"]
    for name, order in (("first stage", "before"), (result["backend"], "after")):
        rows.append(f"| {name} | " + " | ".join(f"{value:.4f}" for value in result[order].values()) + " |")
    rows += [
        "",
        f"{result['ms_p50']:.0f} ms per query (p95 {result['ms_p95']:.0f}), {result['texts_from_cache']:.0%} of texts from cache",
    ]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
