import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NO_PATH = "DATA = None "
TAKE_A_PATH = [path for path in NOTEBOOKS if NO_PATH in path.read_text(encoding="utf-8")]

# The kernel's own start-up warns of things that are none of ours.
quiet_kernel = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::UserWarning")


def read(path):
    return pytest.importorskip("nbformat").read(path, as_version=4)


def printed(notebook):
    """Execute the notebook from top to bottom, and return what its cells wrote."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("matplotlib")
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    return "".join(output.get("text") or output.get("data", {}).get("text/plain", "") for output in outputs)


@pytest.fixture
def beir(tmp_path):
    """Return a small folder in BEIR layout whose first stage has every answer in the fourth place of six, with scores."""
    things = ["kettle", "bicycle", "violin", "ladder", "umbrella", "compass", "candle", "tractor", "mirror", "anchor"]
    queries = {f"q{i}": f"how do I repair a broken {thing}" for i, thing in enumerate(things)}
    corpus = {f"d{i}": f"Repairing a broken {thing} takes glue and patience." for i, thing in enumerate(things)}
    folder = tmp_path / "workshop"
    (folder / "qrels").mkdir(parents=True)
    judged = [f"q{i}\td{i}\t1" for i in range(len(things))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *judged]) + "\n")
    for name, texts in (("corpus", corpus), ("queries", queries)):
        lines = [{"_id": one, "text": text} for one, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = {f"q{i}": [f"d{(i + step) % len(things)}" for step in (1, 2, 3, 0, 4, 5)] for i in range(len(things))}
    lines = [
        {"qid": qid, "query": queries[qid], "hits": [{"docid": docid, "score": 9 - i} for i, docid in enumerate(ids)]}
        for qid, ids in found.items()
    ]
    (folder / "candidates.shelf.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.mark.slow
@quiet_kernel
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_top_to_bottom(path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    printed(read(path))


@pytest.mark.slow
@quiet_kernel
@pytest.mark.parametrize("path", TAKE_A_PATH, ids=lambda path: path.stem)
def test_it_takes_a_collection_of_ones_own(path, beir, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "agg")
    notebook = read(path)
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith(NO_PATH)]
    cell.source = f"DATA = {str(beir)!r}"
    told = printed(notebook)
    assert "how do I repair a broken" in told
    assert "help centre" not in told


def test_the_first_two_take_a_path():
    assert [path.stem[:2] for path in TAKE_A_PATH][:2] == ["01", "02"]


def test_they_are_numbered_without_a_gap():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{number:02}" for number in range(1, len(NOTEBOOKS) + 1)]


def test_each_is_linked_to_and_no_link_leads_nowhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    links = {
        (page.parent / link).resolve()
        for page in pages
        for link in re.findall(r"\]\(([^)#]*\.ipynb)", page.read_text(encoding="utf-8"))
    }
    assert links == {path.resolve() for path in NOTEBOOKS}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_without_output(path):
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in read(path).cells)
