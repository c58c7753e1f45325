"""What docs/evaluation.md says is true: its code runs on the help centre, written out as a collection of one's own."""

import re
from pathlib import Path

import pytest
from evaluation.collection_stage import write_collection

from rerankx import demo, from_spec
from rerankx.evaluation import load

GUIDE = (Path(__file__).parents[1] / "docs" / "evaluation.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder in which my-collection is the help centre."""
    home = tmp_path_factory.mktemp("docs")
    write_collection(home / "my-collection")
    return home


@pytest.fixture(scope="module")
def names(folder):
    """Run every block, one after the other, as a reader would, and return what they leave."""
    pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
    found = {
        "retriever": keywords(),
        "passages": [passage.text for passage in demo.passages()],
        "judge": grader,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for block in BLOCKS:
            exec(compile(block, "docs/evaluation.md", "exec"), found)
    return found


def keywords():
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    search = demo.KeywordSearch(demo.passages())

    class Keywords(BaseRetriever):
        k: int = 20

        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(one.text, metadata={"id": one.id}) for one in search(query, self.k)]

    return Keywords()


def grader(asked):
    return "4" if "refund" in str(asked).lower() else "1"


def test_the_advice_is_as_it_is_printed_but_for_the_time(names):
    printed = re.search(r"```text\n(.*?)\n```", GUIDE, re.DOTALL)[1]
    without_time = [re.sub(r"at [\d,]+ ms", "at … ms", one) for one in (printed, names["advice"].reason)]
    assert without_time[0] == without_time[1]


def test_the_advice_is_written_and_its_spec_is_a_reranker(names, folder):
    assert {path.name for path in (folder / "advice").iterdir()} == {"report.html", "advice.json", "reranker.json"}
    assert from_spec(folder / "advice" / "reranker.json").rerank("money back", names["passages"])


def test_the_advised_retriever_answers(names):
    assert len(names["retriever"].invoke("how do I get my money back?")) == 5


def test_a_table_is_a_dataset(names):
    assert list(names["small"].queries.values()) == ["money back?", "how to log in"]


def test_what_is_compared_is_written_as_runs(names, folder):
    assert [one.name for one in names["compared"].systems] == ["first stage", "embedded"]
    assert len(list((folder / "runs").iterdir())) == 3


def test_the_calibrated_threshold_is_a_probability(names):
    assert all(hit.score >= 0.3 for hit in names["ranking"])
    assert names["ranking"].backend == "calibrated"
    assert names["calibrator"].ece < 0.15


def test_the_judge_is_checked(names):
    assert "kappa" in str(names["labels"])
    assert names["labels"].dataset.labelled_by


def test_the_margins_and_numbers_it_names_are_the_codes(names):
    from inspect import signature

    from rerankx.evaluation import advise, choosing, configurations

    assert signature(advise).parameters["margin"].default == 0.01
    assert (choosing.FEWEST, choosing.FOLDS, configurations._TIMED) == (30, 5, 30)
    for words in ("two margins (0.02)", "Fewer than 30 queries", "five times", "on 30 queries", "95 % interval"):
        assert words in GUIDE


def test_the_command_of_the_guide_is_one(folder, monkeypatch, capsys):
    from rerankx.cli import main

    (command,) = re.findall(r"```bash\nrerankx (advise .*?)\n```", GUIDE)
    arguments = command.replace(" --backend minilm", "").replace("300", "5000").split()
    monkeypatch.chdir(folder)
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("Rerank with embedded")
    assert (folder / "rerankx-advice" / "report.html").exists()
    assert len(load(folder / "my-collection").queries) == 40
