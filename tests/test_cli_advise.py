"""`rerankx advise` answers, writes what it says, and tells what is wrong with its input."""

import csv
import json

import pytest
from evaluation.collection_stage import write_collection

from rerankx import demo, from_spec
from rerankx.cli import main
from rerankx.cli.advising import Bar


def test_without_a_path_it_is_about_the_help_centre(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["advise", "--offline"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("Rerank with embedded, first 20")
    assert "help centre: 40 queries; nDCG@10 of keyword search 0.520" in told.out
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
    assert "mine: 40 queries; RR@10 of words" in capsys.readouterr().out
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
    again = capsys.readouterr().out
    assert "- The times of embedded are those of an earlier run" in again
    assert [line for line in again.splitlines() if "earlier run" not in line] == first.splitlines()


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["nowhere"], 2, "nowhere is not there; expected a folder in BEIR layout"),
        (["--split", "dev"], 2, "--candidates and --split belong to a collection"),
        (["--out", "file"], 2, "--out is a file"),
        (["--backend", "cohere", "--offline"], 2, "offline refuses those"),
        (["--backend", "embeded"], 2, "did you mean 'embedded'"),
        (["--budget-ms", "-1"], 2, "budget_ms must be a number from 0 to"),
        (["--measure", "nonsense"], 2, "nonsense"),
        (["--depth", "0"], 2, "a depth must be at least 1"),
        (["--backend", "tei", "--offline"], 2, "offline refuses those"),
        (["--backend", "cross-encoder:no/model", "--offline"], 1, "no/model"),
    ],
)
def test_what_is_wrong_is_told(arguments, status, told, tmp_path, monkeypatch, capsys):
    pytest.importorskip("httpx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["advise", *arguments]) == status
    assert told in capsys.readouterr().err


def test_a_spreadsheet_is_a_collection(tmp_path, capsys):
    data = demo.dataset()
    rows = [
        [data.queries[qid], one.text, data.qrels[qid].get(one.docid, "")]
        for qid, found in data.candidates.items()
        for one in found
    ]
    with (tmp_path / "sheet.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([["query", "text", "grade"], *rows])
    arguments = ["advise", tmp_path / "sheet.csv", "--backend", "embedded", "--out", tmp_path / "out"]
    assert main(list(map(str, arguments))) == 0
    assert capsys.readouterr().out.startswith("Rerank with embedded, first 20")


@pytest.mark.parametrize("name", ["candidates.words.jsonl", "words"])
def test_candidates_go_by_their_name_in_the_folder(name, tmp_path, capsys):
    write_collection(tmp_path / "mine")
    (tmp_path / "mine" / "candidates.other.jsonl").write_text("")
    arguments = ["advise", tmp_path / "mine", "--backend", "embedded", "--depth", 10, "--out", tmp_path / "out"]
    assert main(list(map(str, arguments))) == 2
    assert "pass one as candidates= (--candidates)" in capsys.readouterr().err
    assert main([*map(str, arguments), "--candidates", name]) == 0


def test_who_stops_it_is_told_that_it_goes_on(tmp_path, monkeypatch, capsys):
    def stopped(args, progress):
        raise KeyboardInterrupt

    monkeypatch.setattr("rerankx.cli.advising.advice", stopped)
    assert main(["advise", "--out", str(tmp_path)]) == 130
    assert "the same command goes on from" in capsys.readouterr().err


def test_how_far_it_is_is_told_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr("rerankx.cli.advising._EVERY_S", -1)
    bar = Bar()
    bar(10, 40)
    assert "rerankx: 10/40 queries scored, about 0 s left" in capsys.readouterr().err
