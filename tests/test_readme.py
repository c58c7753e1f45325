"""What the documents say is true: their code runs, their output is what is printed, their tables are current."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from evaluation.collection_stage import write_collection
from fault_stage import FaultStage

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCORE = r"\b0\.\d\d\b"
BLOCKS = re.findall(r"```python\n(.*?)```(?:\n\n<!-- output:.*?-->\n```text\n(.*?)```)?", README, re.DOTALL)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """Return what a reader has before the first line: a retriever, an index, a collection, and a key for Cohere."""
    pytest.importorskip("langchain_core")
    pytest.importorskip("llama_index.core")
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.vectorstores import InMemoryVectorStore
    from llama_index.core import Document, Settings, VectorStoreIndex
    from llama_index.core.embeddings import MockEmbedding
    from llama_index.core.llms import MockLLM

    texts = ["Refunds take ten days.", "Cats sleep all day.", *(f"Article {i}" for i in range(60))]
    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(texts)
    Settings.llm, Settings.embed_model = MockLLM(), MockEmbedding(embed_dim=8)
    index = VectorStoreIndex.from_documents([Document(text=text) for text in texts])
    with FaultStage() as cohere, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CO_API_KEY", "key")
        patch.setenv("OPENAI_API_KEY", "key")
        patch.setenv("CO_API_URL", cohere.address())
        home = tmp_path_factory.mktemp("readme")
        write_collection(home / "my-collection")
        patch.chdir(home)
        yield {"retriever": store.as_retriever(), "index": index}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_every_block_runs_and_prints_what_it_says(names, capsys):
    assert len(BLOCKS) >= 6
    for code, output in BLOCKS:
        exec(compile(code, "README.md", "exec"), names)
        printed = capsys.readouterr().out
        if output:
            assert re.sub(SCORE, "", printed) == re.sub(SCORE, "", output)
            scores = [[float(score) for score in re.findall(SCORE, text)] for text in (printed, output)]
            assert scores[0] == pytest.approx(scores[1], abs=0.02)


def test_the_tables_are_current():
    command = [sys.executable, ROOT / "scripts" / "readme_tables.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_ci_runs_the_test_command_of_the_readme():
    command = re.search(r"## Tests\n\n```bash\n(.*?)\n```", README).group(1)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_the_documents_link_to_files_that_exist():
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\((?!https?://|#)([^)]+)\)", document.read_text(encoding="utf-8")):
            assert (document.parent / target.partition("#")[0]).exists(), f"{document.name} links to {target}"


def test_notice_names_every_file_that_ships_with_its_checksum():
    import hashlib

    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    for path in (ROOT / "rerankx" / "backends" / "embedded" / "data").iterdir():
        assert f"embedded/data/{path.name}" in notice
        assert hashlib.sha256(path.read_bytes()).hexdigest() in notice
