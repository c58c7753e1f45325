"""benchmarks/composition.py prints what it says it does: a short run of it, on a collection made up here, and its arithmetic."""

import importlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest

from rerankx import Ranking, Reranker
from rerankx.testing import FakeBackend

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
# The first stage puts what is relevant last; by words and by vectors it is first.
TEXTS = {
    "cats": "Cats sleep all day.",
    "museum": "The museum opens on Sundays.",
    "refund": "You get your money back within five days.",
}


@pytest.fixture(scope="module")
def composition():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("composition")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-up")
    (folder / "qrels").mkdir()
    corpus = [{"_id": name, "text": text} for name, text in TEXTS.items()]
    hits = [{"docid": name, "rank": i + 1, "score": 9.0 - i} for i, name in enumerate(TEXTS)]
    for name, lines in {
        "corpus": corpus,
        "queries": [{"_id": "1", "text": "how do I get my money back?"}],
        "candidates.mine": [{"qid": "1", "hits": hits}],
    }.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\trefund\t1\n", "utf-8")
    return folder


def run(*arguments):
    command = [sys.executable, BENCHMARKS / "composition.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def rows_of(output):
    lines = [line for line in output.splitlines() if line.startswith("| ")]
    return {cells[0]: cells[1:] for cells in (re.split(r" (?<!\\)\| ?", line[2:]) for line in lines)}


@pytest.mark.slow
def test_quality_stands_beside_time(folder):
    pytest.importorskip("onnx", reason="needs the package onnx")
    done = run(folder, "--backend", "embedded", "--keep", 3)
    assert done.returncode == 0, done.stderr
    assert "1 queries, top 100 of candidates.mine" in done.stdout
    rows = rows_of(done.stdout)
    assert rows["first stage"][0] == "0.500"  # 1 / log2(3 + 1)
    assert rows["embedded"][0] == rows[r"retrieval \| 3 \| embedded"][0] == "1.000"
    assert rows["embedded"][-2] == "1.00"
    assert rows["retrieval + embedded, rrf"][0] != "-"


@pytest.mark.slow
def test_a_cascade_of_two_is_timed_against_the_larger_one(folder):
    for package in ("onnx", "torch", "transformers"):
        pytest.importorskip(package, reason=f"needs the package {package}")
    done = run(folder, "--speed", "--keep", 2, "--rounds", 1)
    assert done.returncode == 0, done.stderr
    assert re.search(r"times as fast: \d+\.\d\d \(query by query .*\), in CPU time \d+\.\d\d; 1 in turn", done.stdout)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    done = run(tmp_path / "nothing")
    assert done.returncode == 2
    assert "nothing: give DATA, or set RERANKX_DATA" in done.stderr


def test_a_first_stage_is_asked_for(composition, folder, tmp_path):
    copytree(folder, tmp_path / "alone", ignore=ignore_patterns("candidates.*"))
    with pytest.raises(SystemExit, match="name a first stage's ranking by --candidates"):
        composition.read(tmp_path / "alone", None, 100, None)


def test_candidates_are_the_first_by_rank_with_their_scores(composition, folder):
    collection = composition.read(folder, None, 2, None)
    assert list(collection.found["1"].items()) == [("cats", 9.0), ("museum", 8.0)]
    assert collection.rank(Reranker("retrieval"), "1").documents == ["cats", "museum"]
    assert collection.ndcg({"1": ["museum", "refund"]}) == pytest.approx(0.631, abs=0.001)  # 1 / log2(2 + 1)


def test_a_cascade_whose_scores_are_others_is_not_timed(composition):
    alone = Reranker(FakeBackend()).rerank("cats", list(TEXTS.values()))
    composition.check_scores(alone, alone, keep=3)
    with pytest.raises(SystemExit, match="scored 3 of 3"):
        composition.check_scores(alone, alone, keep=2)
    with pytest.raises(SystemExit, match="1 of 3 differ"):
        composition.check_scores(alone, raised(alone), keep=3)


def raised(ranking: Ranking[str]) -> Ranking[str]:
    """Return the ranking with one score a little too high."""
    first, *others = ranking.hits
    return replace(ranking, hits=(replace(first, raw_score=first.raw_score + 0.001), *others))


def test_the_ratio_is_that_of_the_medians(composition):
    alone, cascade = composition.Times([4.0, 8.0, 80.0], [1.0, 2.0, 3.0]), composition.Times([1.0, 2.0, 3.0], [1.0] * 3)
    assert composition.ratio_of_medians(alone, cascade, "wall") == 4
    assert composition.ratio_of_medians(alone, cascade, "cpu") == 2
