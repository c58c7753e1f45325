"""The migration guide: our code runs and keeps what it should, their code at least parses, and their defaults are as stated."""

import ast
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

GUIDE = (Path(__file__).parents[1] / "docs" / "moving-to-rerankx-in-langchain.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (before|ours) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
# The shortest first: every model below prefers it.
PAGES = ["i" * n for n in range(1, 61)]


class Shortest(BaseCrossEncoder):
    def score(self, text_pairs):
        return [-float(len(text)) for _, text in text_pairs]


class RerankRequest:
    def __init__(self, query, passages):
        self.passages = passages


class Ranker:
    """Stands in for `flashrank.Ranker` and for a ranker of `rerankers`."""

    def __init__(self, model_name="a model"):
        self.model_name = model_name

    def rerank(self, request):
        scored = [{**passage, "score": 1 / len(passage["text"])} for passage in request.passages]
        return sorted(scored, key=lambda passage: -passage["score"])

    def rank(self, query, docs):
        return sorted(
            (SimpleNamespace(doc_id=i, score=-len(text)) for i, text in enumerate(docs)), key=lambda r: -r.score
        )


@pytest.fixture
def names(monkeypatch):
    """Return what the guide's reader has, and stand in for what needs a key or a download."""
    cohere = pytest.importorskip("cohere", reason="needs: pip install langchain-cohere")
    pytest.importorskip("langchain_classic", reason="needs: pip install langchain-classic")
    pytest.importorskip("langchain_cohere", reason="needs: pip install langchain-cohere")

    def rerank(self, *, documents, top_n, **_):
        order = sorted(range(len(documents)), key=lambda i: len(documents[i]))[:top_n]
        return SimpleNamespace(results=[SimpleNamespace(index=i, relevance_score=1 / len(documents[i])) for i in order])

    flashrank = ModuleType("flashrank")
    flashrank.Ranker, flashrank.RerankRequest = Ranker, RerankRequest
    monkeypatch.setitem(sys.modules, "flashrank", flashrank)
    monkeypatch.setattr(cohere.ClientV2, "rerank", rerank)
    monkeypatch.setenv("COHERE_API_KEY", "none")
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker

    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(page, id=str(len(page))) for page in PAGES])
    everything = store.as_retriever(search_kwargs={"k": 60})
    return {
        "__name__": "guide",
        "store": store,
        "model": Shortest(),
        "compressor": CrossEncoderReranker(model=Shortest(), top_n=50),
        "ranker": Ranker(),
        "old_retriever": everything,
        "queries": ["which"],
    }


def test_every_python_block_is_marked():
    assert len(BLOCKS) == GUIDE.count("```python") >= 11


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "before"])
def test_their_code_parses(code):
    ast.parse(code)


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "ours" and "retriever = " in code])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_our_code_returns_the_best_of_the_candidates(code, names):
    exec(compile(code, "guide", "exec"), names)
    found = names["retriever"].invoke("which")
    candidates = names["store"].as_retriever(search_kwargs={"k": 20 if "candidates=20" in code else 50}).invoke("which")
    assert len(found) == (3 if "top_n=3" in code else 5)
    if "base_compressor=Reranker" not in code:  # the embedded model has another opinion of these pages
        best = sorted(candidates, key=lambda document: len(document.page_content))[: len(found)]
        assert [document.page_content for document in found] == [document.page_content for document in best]
    if "rerank(store.as_retriever(), compressor" not in code:
        assert all("relevance_score" in document.metadata for document in found)
    assert all(document.id for document in found) == ("CohereRerank" not in code)


def test_the_check_at_the_end_tells_a_difference(names):
    code = BLOCKS[-1][1]
    exec(compile(code, "guide", "exec"), {**names, "retriever": names["old_retriever"]})
    with pytest.raises(AssertionError):
        exec(compile(code, "guide", "exec"), {**names, "retriever": names["store"].as_retriever()})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_their_defaults_are_as_stated():
    classic = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    cohere = pytest.importorskip("langchain_cohere", reason="needs: pip install langchain-cohere")
    assert classic.CrossEncoderReranker.model_fields["top_n"].default == 3
    assert cohere.CohereRerank.model_fields["top_n"].default == 3
