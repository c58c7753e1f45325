"""What the tests of the LangChain adapter play with: backends, retrievers, foreign rerankers, and a recorder of runs."""

from typing import ClassVar

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.retrievers import BaseRetriever
from langchain_core.tracers.base import BaseTracer
from langchain_core.vectorstores import InMemoryVectorStore

from rerankx import RateLimitError, Scale
from rerankx.testing import FakeBackend

QUESTION = "how do I get my money back"
PAGES = [
    "Parcels leave the warehouse within two days.",
    "How soon do you get your money back? Within a week.",
    "Gift cards never expire.",
    "How do I get my money back? Send it to us.",
    "Money can be paid by card.",
]
BEST = [PAGES[3], PAGES[1], PAGES[4], PAGES[0], PAGES[2]]  # by word overlap with QUESTION


def documents():
    """Return new documents, one per page, with an id and nested metadata."""
    return [Document(id=f"id-{i}", page_content=page, metadata={"source": {"page": i}}) for i, page in enumerate(PAGES)]


def pages(found):
    return [document.page_content for document in found]


def scores(found):
    return [document.metadata["relevance_score"] for document in found]


def store():
    """Return a vector store of the pages; what it finds has no meaning, but is always the same."""
    made = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    made.add_documents(documents())
    return made


class Named(FakeBackend):
    """A backend for use by name; `made` lists those that were made. The model "broken" fails."""

    made: ClassVar[list["Named"]] = []

    def __init__(
        self, model: str = "words", weight: float = 1.0, api_key: str | None = None, headers: dict | None = None
    ) -> None:
        super().__init__(name="named", model=model, error=RateLimitError("too many") if model == "broken" else None)
        self.weight, self.api_key, self.headers = weight, api_key, headers
        self.made.append(self)


class Native(FakeBackend):
    """A backend that notes in `ways` how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.ways: list[str] = []

    def _score(self, query, texts, *, top_n=None):
        self.ways.append("sync")
        return super()._score(query, texts, top_n=top_n)

    async def _ascore(self, query, texts, *, top_n=None):
        self.ways.append("async")
        return super()._score(query, texts, top_n=top_n)


def only_an_order():
    return FakeBackend(scale=Scale.RANK)


class FromList(BaseRetriever):
    """Returns the first `k` of its documents, themselves."""

    found: list[Document]
    k: int = 4

    def _get_relevant_documents(self, query, *, run_manager):
        return self.found[: self.k]


class Backwards(BaseDocumentCompressor):
    """Another package's reranker: it turns the documents around and knows no score."""

    def compress_documents(self, documents, query, callbacks=None):
        return tuple(reversed(documents))


class Tracer(BaseTracer):
    """Keeps the root runs that end."""

    def __init__(self) -> None:
        super().__init__()
        self.roots = []

    def _persist_run(self, run):
        self.roots.append(run)


def shape(run):
    """Return a run and those beneath it, as (type, name, children)."""
    return (run.run_type, run.name, [shape(child) for child in run.child_runs])


def runs(run, name):
    """Return the runs of that name in the tree, from the top."""
    return [run] * (run.name == name) + [found for child in run.child_runs for found in runs(child, name)]
