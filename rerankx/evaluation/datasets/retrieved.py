"""A retriever as first stage: one of LangChain, one of LlamaIndex, a function, or BM25 run here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from inspect import isawaitable
from typing import Any, Protocol

from rerankx.arguments import shown
from rerankx.compose.made import whole
from rerankx.errors import MissingDependencyError
from rerankx.evaluation.datasets.dataset import Dataset
from rerankx.evaluation.datasets.files import FIRST_STAGE, Notes, as_id, number_of
from rerankx.evaluation.datasets.joined import joined
from rerankx.evaluation.datasets.lists import FirstStage, Hit, taken

BM25 = "bm25s"

_K1, _B = (
    0.9,
    0.4,
)  # Anserini's, with which BEIR's BM25 is published: https://github.com/castorini/pyserini, 2cr/beir.yaml


class _Invoked(Protocol):
    def invoke(self, input: str, /) -> Sequence[object]: ...


class _Retrieving(Protocol):
    def retrieve(self, query: str, /) -> Sequence[object]: ...


Found = tuple[str, str] | tuple[str, str, float | None]
Retriever = _Invoked | _Retrieving | Callable[[str], Iterable[Found]]
"""LangChain's `BaseRetriever`, LlamaIndex's, or a function from a query to (docid, text) or (docid, text, score), best first."""


def with_retriever(
    dataset: Dataset, retriever: Retriever, *, depth: int = 100, id_of: Callable[[Any], str] | None = None
) -> Dataset:
    """Return the dataset with the candidates that a retriever finds; it is asked once per query.

    The retriever says itself how many it returns; at most `depth` are kept. Chunks of one id, for one query: the first is kept,
    and said in `issues`.

    Args:
        dataset: Its queries and judgements are kept.
        retriever: Of LangChain (asked by `invoke`), of LlamaIndex (by `retrieve`), or a function.
        depth: How many candidates per query are kept, at least 1.
        id_of: Returns the id that the judgements know, from a `Document` or a node, such as `lambda d: d.metadata["source"]`.
            None: a document's `id`, a node's `node_id`.

    Raises:
        TypeError: It is none of these, or returns something else.
        ValueError: A document without an id, or no id of all that it found is judged.
        Exception: Whatever the retriever raises, with a note that names the query.
    """
    notes = Notes()
    stage = retrieved(retriever, dataset.queries, depth, notes, id_of=id_of)
    check_known(stage.hits, dataset.qrels)
    kept = [issue for issue in dataset.issues if not issue.startswith(FIRST_STAGE)]
    fresh = joined(dataset.name, dataset.queries, dataset.qrels, stage, {}, depth, notes)
    return replace(fresh, issues=(*kept, *fresh.issues), labelled_by=dataset.labelled_by)


def retrieved(
    retriever: object,
    queries: Mapping[str, str],
    depth: int,
    notes: Notes,
    *,
    id_of: Callable[[Any], str] | None = None,
) -> FirstStage:
    """Return what a retriever finds for each query, asked once for each."""
    depth = whole("depth", depth)
    ask, read = _ways(retriever, id_of)
    stage = FirstStage(getattr(retriever, "__name__", type(retriever).__name__))
    for qid, query in queries.items():
        place = f"what {stage.name} found for query {shown(qid)}"
        try:
            found = ask(query)
        except Exception as error:
            error.add_note(f"raised by the retriever {stage.name} for query {shown(qid)}")
            raise
        if isawaitable(found):
            getattr(found, "close", lambda: None)()
            raise TypeError(f"{place} is awaitable; pass a retriever that is not asynchronous")
        if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
            raise TypeError(f"{place} is {type(found).__name__}, expected a list of what was found, best first")
        stage.hits[qid] = taken(qid, [read(place, one) for one in found], depth, notes)
    return stage


def check_known(hits: Mapping[str, Sequence[Hit]], qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Raise ValueError if documents were found, some are judged, and none of those found is: a retriever has ids of its own."""
    found = [hit.docid for one in hits.values() for hit in one]
    judged = {docid for grades in qrels.values() for docid in grades}
    if found and judged and judged.isdisjoint(found):
        raise ValueError(
            f"no document that was found is judged: found are ids such as {shown(found[0])}, judged such as "
            f"{shown(min(judged))}; give the documents these ids, or pass id_of= to with_retriever"
        )


def check_bm25() -> None:
    """Raise MissingDependencyError unless BM25 can be run here."""
    missing = [name for name in ("bm25s", "Stemmer") if find_spec(name) is None]
    if missing:
        command = (
            "pip install 'rerankx[evaluation]' (or pass candidates=, --candidates: a run, or in Python a retriever)"
        )
        raise MissingDependencyError("BM25 as first stage", missing, command)


def bm25(texts: Mapping[str, str], queries: Mapping[str, str], depth: int) -> FirstStage:
    """Return what BM25 finds among all texts, where a word is shared: k1 0.9, b 0.4, English stop words and stemmer.

    Raises:
        MissingDependencyError: bm25s or PyStemmer is not installed.

    Source: bm25s, Lù, arXiv 2407.03618.
    """
    check_bm25()
    bm25s, stemmers = import_module("bm25s"), import_module("Stemmer")  # neither has types
    settings = {"stopwords": "en", "stemmer": stemmers.Stemmer("english"), "show_progress": False}
    docids = list(texts)
    words = bm25s.tokenize(list(texts.values()), **settings)
    stage = FirstStage(BM25, {qid: [] for qid in queries})
    if not any(words.ids):  # which bm25s cannot index
        return stage
    index = bm25s.BM25(k1=_K1, b=_B)
    index.index(words, show_progress=False)
    asked = bm25s.tokenize(list(queries.values()), **settings)
    # One more, where a query may be among the documents.
    rows = index.retrieve(asked, k=min(depth + 1, len(docids)), show_progress=False)
    for qid, found, scores in zip(queries, *rows, strict=True):
        # What shares no word has score 0, and would stand in the order of the corpus.
        hits = [Hit(docids[i], None, float(score)) for i, score in zip(found, scores, strict=True) if score > 0]
        stage.hits[qid] = taken(qid, hits, depth, Notes())
    return stage


def _ways(
    retriever: Any, id_of: Callable[[Any], str] | None
) -> tuple[Callable[[str], object], Callable[[str, Any], Hit]]:
    if callable(getattr(retriever, "invoke", None)):
        return retriever.invoke, lambda place, one: _document(place, one, id_of)
    if callable(getattr(retriever, "retrieve", None)):
        return retriever.retrieve, lambda place, one: _node(place, one, id_of)
    if not callable(retriever) or isinstance(retriever, type):
        raise TypeError(
            "a retriever must be LangChain's (with invoke), LlamaIndex's (with retrieve) or a function of a query, not "
            f"{shown(retriever)}"
        )
    if id_of is not None:
        raise TypeError("id_of is for documents and nodes; a function returns its own ids, as (docid, text)")
    return retriever, _pair


def _document(place: str, one: Any, id_of: Callable[[Any], str] | None) -> Hit:
    text = getattr(one, "page_content", None)
    if not isinstance(text, str):
        raise TypeError(f"{place} has {type(one).__name__} in it, expected documents with page_content")
    return Hit(_identified(place, one.id if id_of is None else id_of(one), "a document's id"), text)


def _node(place: str, one: Any, id_of: Callable[[Any], str] | None) -> Hit:
    node = getattr(one, "node", None)
    if node is None or not hasattr(node, "get_content"):
        raise TypeError(f"{place} has {type(one).__name__} in it, expected NodeWithScore")
    docid = _identified(place, node.node_id if id_of is None else id_of(node), "a node's id")
    # With the metadata that an embedding sees, as LlamaIndex's rerankers and ours read a node.
    return Hit(docid, node.get_content(metadata_mode="embed"), number_of(place, one.score, "a score"))


def _identified(place: str, value: object, name: str) -> str:
    if value is None:
        raise ValueError(
            f"{place}: {name} is None; pass id_of=, a function that returns the id that the judgements know"
        )
    return as_id(place, value, name)


def _pair(place: str, one: Any) -> Hit:
    if not isinstance(one, Sequence) or isinstance(one, str) or len(one) not in (2, 3) or not isinstance(one[1], str):
        raise TypeError(f"{place} has {shown(one)} in it, expected (docid, text) or (docid, text, score)")
    score = number_of(place, one[2], "a score") if len(one) == 3 else None
    return Hit(as_id(place, one[0], "a document id"), one[1], score)
