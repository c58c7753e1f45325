"""benchmarks/local_speed.py computes what it prints: its arithmetic, its texts, and a short run of it."""

import importlib
import json
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from rerankx import demo
from rerankx.backends.embedded.lexical import DATA

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUERY = "what does the warranty cover"


@pytest.fixture(scope="module")
def speed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("local_speed")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.from_file(str(DATA / "tokenizer.json"))


@pytest.fixture(scope="module")
def passages():
    return [passage.text for passage in demo.passages()]


def test_quartiles_are_interpolated(speed):
    assert speed.quartiles([4.0, 1.0, 2.0, 3.0, 5.0]) == (2.0, 3.0, 4.0)
    assert speed.quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)
    assert speed.quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_the_ratio_is_the_median_of_those_of_the_rounds(speed):
    theirs, ours = [2.0, 40.0, 9.0], [1.0, 10.0, 1.0]
    assert speed.ratios(theirs, ours) == [2.0, 4.0, 9.0]
    line = {"contestants": {"st": {"wall_s": theirs}, "ours": {"wall_s": ours}}}
    assert speed.cell(line, "st") == "4.00 × (9,000)"  # of the medians it would be 9
    assert speed.cell(line, "ours") == "1,000 ms"
    assert speed.cell(line, "fastembed") == "–"


def test_operations_are_those_counted_by_hand(speed):
    # One layer, h = 2, f = 3, 5 tokens; a multiply-add is two operations. Projections: 4 of 2 x 2 a token, 80 multiply-adds.
    # Feed-forward: 2 of 2 x 3 a token, 60. Attention: 5 x 5 weights of 2 products each, and as many for the values, 100.
    shape = type(speed.SHAPES["tiny"])(layers=1, hidden=2, feed_forward=3, heads=1)
    assert shape.flops(5) == 2 * (80 + 60 + 100)
    assert shape._replace(layers=4).flops(5) == 4 * shape.flops(5)
    assert speed.SHAPES["minilm"].flops(100) == pytest.approx(100 * (21.2e6 + 9.2e3 * 100), rel=0.01)


def test_mixed_lengths_are_log_normal_and_always_the_same(speed):
    lengths = speed.mixed_lengths(1000)
    assert statistics.median(lengths) == pytest.approx(118, abs=1)
    assert sorted(lengths)[950] == pytest.approx(300, abs=3)
    assert min(lengths) >= 20
    assert max(lengths) == 300
    assert lengths == speed.mixed_lengths(1000)
    assert lengths != sorted(lengths)


def test_mixed_texts_have_these_lengths_and_differ(speed, passages, tokenizer):
    workload = speed.mixed(QUERY, passages, 60, tokenizer)
    assert workload.lengths == speed.mixed_lengths(60)
    assert workload.lengths == [len(tokenizer.encode(QUERY, text).ids) for text in workload.texts]
    assert len(set(workload.texts)) == 60  # one that comes twice would be computed once
    assert workload == speed.mixed(QUERY, passages, 60, tokenizer)


def test_equal_texts_are_equally_long_and_differ(speed, passages, tokenizer):
    workload = speed.equal(QUERY, passages, 16, 42, tokenizer)
    assert [len(tokenizer.encode(QUERY, text).ids) for text in workload.texts] == [42] * 16 == workload.lengths
    assert len(set(workload.texts)) == 16


def test_without_the_collection_the_demo_is_read_and_that_is_said(speed, tmp_path):
    query, passages, source = speed.collection(tmp_path)
    assert query in {question.text for question in demo.questions()}
    assert len(set(passages)) == len(passages) == 1000
    assert str(tmp_path / "trec-dl19") in source


def contestant(speed, **changes):
    return speed.CONTESTANTS["st"]._replace(**changes)


def test_scores_are_compared_in_the_convention_of_each(speed):
    right = [(1, 2.0), (0, 0.0), (2, -2.0)]
    assert speed.compared(contestant(speed), right, right) == {"equal": True, "max_abs": 0.0}
    sigmoids = [(1, 0.880797), (0, 0.5), (2, 0.119203)]
    assert speed.compared(contestant(speed, gives="sigmoid"), sigmoids, right)["equal"]
    assert not speed.compared(contestant(speed), sigmoids, right)["equal"]
    off = speed.compared(contestant(speed), [(1, 2.0), (0, 0.001), (2, -2.0)], right)
    assert not off["equal"]
    assert off["max_abs"] == pytest.approx(0.001)
    assert speed.scores_in_words(off, contestant(speed)).startswith("DIFFER")


def test_an_order_may_swap_only_what_is_equal(speed):
    right, order = [(0, 2.0), (1, 1.00001), (2, 1.0), (3, 0.0)], contestant(speed, gives="order")
    nothing = float("nan")
    assert speed.compared(order, [(i, nothing) for i in (0, 2, 1, 3)], right)["equal"]
    swapped = speed.compared(order, [(i, nothing) for i in (1, 0, 2, 3)], right)
    assert not swapped["equal"]
    assert swapped["max_abs"] == pytest.approx(1, abs=1e-4)
    assert not speed.compared(order, [(0, nothing)], right)["equal"]


def test_drift_is_told_by_rank_and_by_the_first_ten(speed):
    right = [(i, -float(i)) for i in range(20)]
    drifted = [(i, -float({9: 10, 10: 9}.get(i, i))) for i in range(20)]
    told = speed.compared(contestant(speed, exact=False), drifted, right)
    assert told["top_10"] == 0.9
    assert told["max_abs"] == 1
    assert told["spearman"] == pytest.approx(1 - 6 * 2 / (20 * 399))


def test_a_batch_that_no_memory_holds_is_left_out(speed, capsys):
    huge = speed.Workload("huge", "q", ["x"] * 1_000_000, [500] * 1_000_000)
    assert not speed.fits(speed.CONTESTANTS["flashrank"], Path("minilm"), huge)
    assert "left out: FlashRank, fp32, huge" in capsys.readouterr().out
    assert speed.fits(speed.CONTESTANTS["ours"], Path("minilm"), huge)


@pytest.mark.skipif(
    not all(find_spec(package) for package in ("onnx", "torch", "transformers")),
    reason="onnx, torch and transformers make the weights",
)
def test_a_short_run_ends_with_tables(tmp_path):
    script, kept = BENCHMARKS / "local_speed.py", tmp_path / "results.json"
    options = [
        "--models",
        "tiny",
        "--rounds",
        "1",
        "--sizes",
        "4",
        "--against",
        "plain",
        "int8",
        "--data",
        str(tmp_path),
    ]
    command = [sys.executable, str(script), *options, "--json", str(kept), "--markdown"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "Not the published checkpoint" in done.stdout
    assert "last layer of ours: first row" in done.stdout

    results = json.loads(kept.read_text("utf-8"))
    assert [line["workload"] for line in results["speed"]] == [
        "4 short",
        "4 mixed",
        "16 of 42 tokens",
        "16 of 86 tokens",
    ]
    for line in results["speed"]:
        assert set(line["contestants"]) == {"ours", "plain", "int8"}
        assert all(len(measured["wall_s"]) == 1 for measured in line["contestants"].values())
        assert line["contestants"]["ours"]["scores"]["equal"]
        assert 0 < line["contestants"]["int8"]["scores"]["max_abs"] < 1
    assert {line["contestant"] for line in results["cold"]} == {"python", "ours", "plain", "int8"}
    assert all(20 < line["megabytes"] < 1000 for line in results["memory"])
    assert all(0 < line["utilisation"] < 2 for line in results["utilisation"])

    again = subprocess.run([sys.executable, str(script), "--show", str(kept)], capture_output=True, text=True)
    assert again.stdout.strip()
    assert done.stdout.endswith(again.stdout)
