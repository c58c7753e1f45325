"""`rerankx advise` answers, writes what it says, and tells what is wrong with its input."""

import json

import pytest
from evaluation.collection_stage import write_collection

from rerankx import from_spec
from rerankx.cli import main


def test_without_a_path_it_is_about_the_help_centre(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["advise", "--offline"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("Rerank with embedded, first 20")
    assert "help centre: 40 queries; keyword search" in told.out
    written = tmp_path / "rerankx-advice"
    assert {path.name for path in written.iterdir()} == {"advice.json", "report.html", "reranker.json", "scores"}
    assert json.loads((written / "advice.json").read_text("utf-8"))["offline"] is True
    assert from_spec(written / "reranker.json").rerank("money", ["cats", "money"])[0].document == "money"


def test_a_collection_of_ones_own_with_bounds_of_ones_own(tmp_path, capsys):
    write_collection(tmp_path / "mine")
    arguments = [
        *("advise", tmp_path / "mine", "--backend", "embedded", "--depth", 5, "--depth", 10, "--measure", "RR@10"),
        *("--budget-usd", 0, "--margin", 0.02, "--out", tmp_path / "out"),
    ]
    assert main(list(map(str, arguments))) == 0
    assert "mine: 40 queries; words" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "advice.json").read_text("utf-8"))
    assert (told["measure"], told["margin"], told["budget_usd"]) == ("RR@10", 0.02, 0)
    assert {one["depth"] for one in told["configurations"]} == {5, 10}


def test_a_second_run_asks_nothing_again(tmp_path, monkeypatch, capsys):
    from rerankx.backends.embedded import Embedded

    arguments = ["advise", "--backend", "embedded", "--out", str(tmp_path)]
    assert main(arguments) == 0
    first = capsys.readouterr().out
    monkeypatch.setattr(Embedded, "_score", None)
    assert main(arguments) == 0
    assert capsys.readouterr().out == first


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["nowhere"], 2, "nowhere is not there"),
        (["--backend", "embeded"], 2, "did you mean 'embedded'"),
        (["--budget-ms", "-1"], 2, "budget_ms must be a number of at least 0"),
        (["--measure", "nonsense"], 2, "nonsense"),
        (["--depth", "0"], 2, "a depth must be at least 1"),
        (["--backend", "tei", "--offline"], 2, "offline=True refuses"),
        (["--backend", "cross-encoder:no/model", "--offline"], 1, "no/model"),
    ],
)
def test_what_is_wrong_is_told(arguments, status, told, tmp_path, monkeypatch, capsys):
    pytest.importorskip("httpx")
    monkeypatch.chdir(tmp_path)
    assert main(["advise", *arguments]) == status
    assert told in capsys.readouterr().err
