"""benchmarks/embedded_quality.py measures what it says it does, and the tables and the card made of it are true."""

import importlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rerankx import Scale
from rerankx.backends.embedded import Embedded
from rerankx.backends.embedded.combine import COSINE, LEXICAL, MAXSIM
from rerankx.catalogue import EMBEDDED
from rerankx.evaluation import Candidate, Dataset, QueryScores, Scoring, compare_paired

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("RERANKX_DATA", ROOT.parent / "shared" / "data"))
CARD = (ROOT / "docs" / "embedded-model.md").read_text("utf-8")
RESULT = json.loads((ROOT / "benchmarks" / "embedded_quality.json").read_text("utf-8"))
# The first stage puts what is relevant last; by words and by vectors it is first.
TEXTS = {
    "cats": "Cats sleep all day.",
    "museum": "The museum opens on Sundays.",
    "refund": "You get your money back within five days.",
}
QUERIES = {"1": "how do I get my money back?", "2": "when is my money paid back?"}


@pytest.fixture(scope="module")
def quality():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "benchmarks")
        yield importlib.import_module("embedded_quality")


def run(*arguments):
    command = [sys.executable, ROOT / "benchmarks" / "embedded_quality.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def scoring(values, first=(3.0, 2.0, 1.0)):
    """Return what a backend said of three candidates a, b and c."""
    found = [Candidate(docid, docid, score) for docid, score in zip("abc", first, strict=True)]
    dataset = Dataset("made up", {"1": "q", "2": "q"}, {"1": {"c": 1}, "2": {"a": 1}}, {"1": found, "2": found})
    scores = {qid: QueryScores(tuple(values)) for qid in dataset.queries}
    return Scoring("model", "model", "model", True, Scale.UNKNOWN, dataset, scores)


def systems(row):
    return {system["system"]: system for system in row["systems"]}


# The benchmark.


def test_it_prints_a_table_and_writes_every_figure(tmp_path):
    folder = tmp_path / "cosqa"
    (folder / "qrels").mkdir(parents=True)
    hits = [{"docid": name, "rank": i + 1, "score": 9.0 - i} for i, name in enumerate(TEXTS)]
    for name, lines in {
        "corpus": [{"_id": name, "text": text} for name, text in TEXTS.items()],
        "queries": [{"_id": qid, "text": text} for qid, text in QUERIES.items()],
        "candidates.mine": [{"qid": qid, "hits": hits} for qid in QUERIES],
    }.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", "utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n1\trefund\t1\n2\trefund\t1\n", "utf-8")
    written = tmp_path / "result.json"
    done = run("cosqa", "--data", tmp_path, "--keep", tmp_path / "keep", "--json", written)
    assert done.returncode == 0, done.stderr
    # 1 / log2(3 + 1) before; two queries are too few for a verdict; three candidates are no more than the first 20.
    assert "| CoSQA (code), BM25 | 2 | 0.500 | 1.000 (+0.500) ? |" in done.stdout
    (row,) = json.loads(written.read_text("utf-8"))["collections"]
    assert (row["before"], row["candidates"], row["tuned"]) == (0.5, 3, False)
    assert "of the first 20" not in systems(row)
    alone = systems(row)["embedded"]
    assert (alone["mean"], alone["wins"], alone["losses"], alone["verdict"]) == (1, 2, 0, "inconclusive")
    assert list((tmp_path / "keep").iterdir())


def test_a_collection_that_is_not_known_and_one_that_is_not_there_are_named(tmp_path):
    unknown, missing = run("scifacts"), run("scifact", "--data", tmp_path)
    assert unknown.returncode == missing.returncode == 2
    assert "no collection 'scifacts'; there are scifact, dl19" in unknown.stderr
    assert f"{tmp_path / 'scifact'} is not there: name the collections' folder by --data" in missing.stderr


def test_ranks_are_fused_and_ties_keep_the_first_stages_order(quality):
    assert quality.fused_by_rank(scoring([1.0, 2.0, 3.0]))["1"] == ["a", "c", "b"]  # c, b, a: a and c tie
    assert quality.fused_by_rank(scoring([3.0, 1.0, 2.0]))["1"] == ["a", "b", "c"]
    assert quality.fused_by_rank(scoring([1.0, 3.0, 2.0]))["1"] == ["b", "a", "c"]


def test_systems_are_compared_with_the_first_stage_on_every_query(quality):
    found = quality.compared(scoring([1.0, 2.0, 3.0]))
    assert set(found) == set(quality.SYSTEMS) - {"of the first 20", "of the first 50"}
    # Query 1 from rank 3 to 1, query 2 from 1 to 3.
    assert (found["embedded"].wins, found["embedded"].losses, found["embedded"].difference) == (1, 1, 0)
    assert found["fused by score, 3 to 1"].mean_a == pytest.approx(0.75)
    assert found["fused by score"].n == 2


def test_a_gain_counts_after_correction_only_and_a_loss_by_itself(quality):
    better = compare_paired([0.6] * 20, [0.5] * 20)
    worse = compare_paired([0.5] * 20, [0.6] * 20)
    assert quality.row("s", better, 0.04)["verdict"] == "better"
    assert quality.row("s", better, 0.06)["verdict"] == "inconclusive"
    assert quality.row("s", worse, 0.9)["verdict"] == "worse"
    assert quality.row("s", worse, 0.9)["p_adjusted"] == 0.9


def test_queries_that_failed_are_no_result(quality, monkeypatch):
    failing = scoring([None] * 3)
    failed = {
        qid: replace(one, error="BackendError: no", degraded="input_order") for qid, one in failing.scores.items()
    }
    monkeypatch.setattr(quality, "score", lambda *_, **__: replace(failing, scores=failed))
    with pytest.raises(SystemExit, match=r"CoSQA \(code\): 2 queries failed"):
        quality.measured(Embedded(), {quality.COLLECTIONS["cosqa"]: failing.dataset}, None)


# The tables.


def test_losses_are_bold_and_what_is_open_has_a_question_mark(quality):
    row = {"mean": 0.5, "difference": -0.1}
    shown = {
        verdict: quality.cell({**row, "verdict": verdict}, "{mean:.3f} ({difference:+.3f})")
        for verdict in ("better", "worse", "inconclusive", "equivalent")
    }
    assert shown == {
        "better": "0.500 (-0.100)",
        "worse": "**0.500 (-0.100) worse**",
        "inconclusive": "0.500 (-0.100) ?",
        "equivalent": "0.500 (-0.100) =",
    }
    assert quality.cell(None, "{mean}") == "–"


def test_every_row_of_a_table_has_as_many_cells_as_its_head(quality):
    for table in (quality.summary(RESULT), quality.gains(RESULT), quality.published()):
        cells = {len(line.split(" | ")) for line in table.splitlines() if not line.startswith("|---")}
        assert len(cells) == 1


def test_published_figures_stand_only_beside_the_same_candidates(quality):
    rows = [line for line in quality.summary(RESULT).splitlines() if re.search(r"monoT5|MiniLM|bge|gpt", line)]
    assert [row.split(" | ")[0] for row in rows] == ["| SciFact, BM25", "| TREC DL19, BM25"]
    assert "MiniLM" not in rows[1]  # its figure on DL19 is over the track's own candidates
    assert re.search(
        r"ms-marco-MiniLM-L6-v2\]\(https://\S+\) \|  \| 0\.743 \| MS MARCO's official", quality.published()
    )


# What was measured.


def test_all_collections_were_measured_with_the_model_that_ships(quality):
    assert RESULT["backend"] == Embedded().fingerprint, "measure again: see benchmarks/embedded_quality.py"
    measured = [(row["name"], row["first_stage"], row["tuned"]) for row in RESULT["collections"]]
    assert measured == [(one.name, one.first_stage, one.tuned) for one in quality.COLLECTIONS.values()]
    for row in RESULT["collections"]:
        asked = [name for name, one in quality.SYSTEMS.items() if one.depth is None or one.depth < row["candidates"]]
        assert list(systems(row)) == asked
        assert all(one["wins"] + one["ties"] + one["losses"] == row["queries"] for one in row["systems"])


def test_the_verdicts_follow_from_the_figures():
    for row in RESULT["collections"]:
        for one in row["systems"]:
            assert one["low"] <= one["difference"] <= one["high"]
            assert one["mean"] - row["before"] == pytest.approx(one["difference"], abs=2e-5)
            assert (one["verdict"] == "worse") == (one["high"] < 0 and one["p"] <= 0.05)
            assert (one["verdict"] == "better") == (one["low"] > 0 and one["p_adjusted"] <= 0.05)


@pytest.mark.slow
def test_a_collection_gives_the_figures_again(tmp_path):
    if not (DATA / "xquad" / "en").is_dir():
        pytest.skip(f"no collection xquad/en in {DATA}; RERANKX_DATA names another folder")
    written = tmp_path / "result.json"
    done = run("xquad-en", "--data", DATA, "--json", written)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(written.read_text("utf-8"))["collections"]
    (kept,) = [one for one in RESULT["collections"] if one["name"] == row["name"]]
    assert row["before"] == kept["before"]
    for name, one in systems(kept).items():
        # int8 differs in the last places from one processor to another.
        assert systems(row)[name]["mean"] == pytest.approx(one["mean"], abs=0.005)


# The card.


def test_the_card_says_what_the_code_has():
    weights = [float(weight) for weight in re.findall(r"^\| \w+ \| (0\.\d) \|", CARD, re.MULTILINE)]
    assert weights == [COSINE, MAXSIM, LEXICAL]
    assert f"({EMBEDDED.megabytes} MB)" in CARD
    assert f"`max_tokens={Embedded().max_tokens}`" in CARD
    assert f"of a text, {EMBEDDED.max_tokens} at the most" in CARD
    assert EMBEDDED.licence in CARD.partition("## Licence")[2]


def test_what_the_documents_conclude_is_in_the_figures():
    rows = {(row["name"], row["first_stage"]): systems(row) for row in RESULT["collections"]}
    worse = {key for key, found in rows.items() if found["embedded"]["verdict"] == "worse"}
    assert worse == {("TREC DL19", "TAS-B (dense)"), ("XQuAD Hindi", "BM25")}
    for name in ("fused by score", "fused by score, min-max"):
        assert not [key for key, found in rows.items() if found[name]["verdict"] == "worse"]
    english = [key for key in rows if key[1] == "BM25" and key[0] not in ("XQuAD German", "XQuAD Hindi")]
    assert all(rows[key]["embedded"]["difference"] > 0 for key in english)
    assert (
        f"{rows['SciFact', 'BM25']['embedded']['mean']:.3f} and {rows['TREC DL19', 'BM25']['embedded']['mean']:.3f}"
        in CARD
    )


def test_the_cards_code_runs():
    (block,) = re.findall(r"```python\n(.*?)```", CARD, re.DOTALL)
    names = {}
    exec(compile(block, "embedded-model.md", "exec"), names)
    assert names["ranking"][0].document["text"].startswith("Refunds")
