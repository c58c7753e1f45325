"""The embedded default on public collections: that it helps where the card says so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DATA = Path(os.environ.get("RERANKX_DATA", Path(__file__).parents[2] / "shared" / "data"))
ROOT = Path(__file__).parents[1]


def collection(name: str) -> Path:
    if not (DATA / name).is_dir():
        pytest.skip(f"no collection {name} in {DATA}; RERANKX_DATA names another folder")
    return DATA / name


def quality(*args: object) -> dict:
    import json

    command = [sys.executable, ROOT / "benchmarks" / "quality.py", *map(str, args), "--json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout)


@pytest.mark.slow
def test_it_improves_bm25_on_hotpotqa():
    data = collection("hotpotqa-sample")
    result = quality(data, "--candidates", data / "candidates.bm25s.jsonl")
    assert result["before"]["nDCG@10"] == pytest.approx(0.788, abs=0.001)
    assert result["after"]["nDCG@10"] > 0.81


@pytest.mark.slow
def test_it_improves_bm25_on_web_questions():
    data = collection("trec-dl19")
    result = quality(data, "--candidates", data / "candidates.BM25.jsonl", "--queries", 10, "--depth", 30)
    assert result["after"]["nDCG@10"] > result["before"]["nDCG@10"] + 0.02


@pytest.mark.slow
def test_the_benchmark_makes_its_own_candidates_where_there_are_none(tmp_path):
    pytest.importorskip("bm25s")
    pytest.importorskip("Stemmer")
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(
        '{"_id": "a", "title": "Refunds", "text": "paid in ten days"}\n{"_id": "b", "text": "cats sleep"}\n'
    )
    (tmp_path / "queries.jsonl").write_text('{"_id": "1", "text": "refund"}\n{"_id": "2", "text": "cat"}\n')
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\ta\t1\n2\tb\t2\n")
    assert quality(tmp_path)["after"] == {"nDCG@10": 1, "MAP": 1, "MRR": 1}
