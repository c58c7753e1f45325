"""benchmarks/deep_relevance.py prints what it says it does: a short run, on a collection made up here, and its arithmetic."""

import importlib
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from rerankx import Scale, Scores
from rerankx.testing import FakeBackend

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUERY = "how do I get my money back?"
TEXTS = {
    "refund": "You get your money back within five days.",
    **{f"cats{i}": f"Cats sleep {i} hours." for i in range(6)},
}


@pytest.fixture(scope="module")
def deep():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("deep_relevance")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made-up")
    (folder / "qrels").mkdir()
    corpus = [{"_id": name, "text": text} for name, text in TEXTS.items()]
    for name, lines in {"corpus": corpus, "queries": [{"_id": "1", "text": QUERY}]}.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\trefund\t1\n", "utf-8")
    return folder


def run(*arguments):
    command = [sys.executable, BENCHMARKS / "deep_relevance.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_windows_find_what_stands_last_and_the_first_window_does_not(folder):
    small = ["--queries", 1, "--documents", 2, "--abstracts", 3, "--size", 12, "--overlap", 0]
    done = run("--data", folder, *small, "--places", 1, 3)
    assert done.returncode == 0, done.stderr
    assert "1 queries, each with 2 documents of 3 abstracts" in done.stdout
    assert (
        len(re.findall(r"^(?:as it is|first window|Windowed): \d+\.\d\d s per query", done.stdout, re.MULTILINE)) == 3
    )
    rows = dict(re.findall(r"^\| (\w+) \| (.*) \|$", done.stdout, re.MULTILINE))
    at_first, at_last = ([cell.split(",")[0] for cell in rows[place].split(" | ")] for place in ("1", "3"))
    assert at_first == ["100%"] * 3
    assert (at_last[1], at_last[2]) == ("0%", "100%")
    assert rows["chance"].split(" | ") == ["50%, 0.75"] * 3


def test_a_place_that_no_document_has_is_refused(folder):
    done = run("--data", folder, "--abstracts", 3, "--places", 4)
    assert done.returncode == 2
    assert "--places must lie in 1 to 3" in done.stderr


def test_the_answer_stands_where_it_is_told_and_nowhere_else(deep, folder):
    (case,), others = deep.joined(folder, 1, 2, 3, [1, 2, 3])
    assert case.query == QUERY
    assert [text.split("\n\n").index(TEXTS["refund"]) for text in case.placed] == [0, 1, 2]
    assert len({tuple(sorted(text.split("\n\n"))) for text in case.placed}) == 1  # the same around it
    assert [len(text.split("\n\n")) for text in others] == [3, 3]
    assert not any(TEXTS["refund"] in text for text in others)
    assert deep.joined(folder, 1, 2, 3, [1, 2, 3]) == ([case], others)


def test_a_tie_counts_against_the_document(deep):
    backend = FakeBackend(score=lambda _, text: len(text) / 4, scale=Scale.similarity(0, 1))
    cases = [deep.Case("q", ["xxx", "xx"]), deep.Case("q", ["xxxx", "x"])]
    assert deep.read(backend, cases, ["xx", "xxx"]) == [
        deep.Found(0.5, (1 / 2 + 1) / 2, (0.75 + 1.0) / 2),
        deep.Found(0.0, (1 / 3 + 1 / 3) / 2, (0.5 + 0.25) / 2),
    ]


def test_scores_that_are_missing_are_no_result(deep):
    backend = FakeBackend(reply=Scores([0.5, None], degraded="deadline"))
    with pytest.raises(SystemExit, match="left texts unscored: deadline"):
        deep.read(backend, [deep.Case("q", ["x"])], ["y"])


def test_chance_is_the_mean_over_all_places(deep):
    found = deep.chance(4)
    assert (found.first, found.reciprocal_rank) == (0.25, pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4))
    assert math.isnan(found.score)
