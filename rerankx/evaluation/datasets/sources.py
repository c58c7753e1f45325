"""Datasets from where they lie: BEIR folders, TREC files, candidates JSON lines, LlamaIndex's QA dataset."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import cast

from rerankx.arguments import shown
from rerankx.compose.made import whole
from rerankx.evaluation.datasets import judgements
from rerankx.evaluation.datasets.dataset import Dataset
from rerankx.evaluation.datasets.files import (
    FIRST_STAGE,
    Notes,
    as_id,
    document,
    identity,
    lines,
    records,
    text_of,
    there,
)
from rerankx.evaluation.datasets.joined import joined
from rerankx.evaluation.datasets.judgements import Qrels, check_relevant
from rerankx.evaluation.datasets.lists import (
    FirstStage,
    Run,
    from_file,
    from_mapping,
    is_json,
)
from rerankx.evaluation.datasets.retrieved import Retriever, bm25, check_bm25, check_known, retrieved
from rerankx.evaluation.datasets.tables import from_table

FilePath = str | os.PathLike[str]
Texts = FilePath | Mapping[str, str]
Judged = FilePath | Mapping[str, Mapping[str, int]]
Source = FilePath | Run | Retriever


def load(
    path: FilePath,
    *,
    split: str = "test",
    candidates: Source | None = None,
    depth: int = 100,
    name: str | None = None,
) -> Dataset:
    """Return the dataset that lies there: a BEIR folder, a file of candidates in one, LlamaIndex's QA dataset, or a table.

    Args:
        path: A folder, as in `from_beir`; a file of candidates JSON lines that lies in such a folder; a JSON file, as in
            `from_llama_index`; or a .csv or .tsv file with a head line and the columns query, text and grade, as in
            `from_table`, where a row with an empty grade is not judged.
        split: Which judgements of the folder.
        candidates: The first stage; see `rerankx.evaluation.datasets`.
        depth: How many candidates per query are kept.
        name: What reports call it.

    Raises:
        FileNotFoundError: Something of it is not there.
        ValueError: It is something else, or what is there cannot be used.
        MissingDependencyError: There is no first stage, and BM25 cannot be run here.
    """
    path = Path(path)
    if path.is_dir():
        return from_beir(path, split=split, candidates=candidates, depth=depth, name=name)
    if not path.exists() and not path.with_name(f"{path.name}.gz").exists():
        raise FileNotFoundError(f"{path} is not there; expected a folder in BEIR layout, or a file")
    if path.suffix in (".csv", ".tsv"):
        return _from_csv(path, candidates, depth, name)
    path = there(path)
    parts = _parts(path)
    if "relevant_docs" in parts:
        return from_llama_index(path, candidates=candidates, depth=depth, name=name)
    if "hits" in parts or "candidates" in parts:
        if candidates is not None:
            raise ValueError(f"{path} holds candidates: pass the folder it is in, or no candidates=")
        if not (path.parent / "qrels").is_dir():
            raise ValueError(
                f"{path} holds candidates, and there is no qrels/ beside it: use from_candidates(path, qrels=...)"
            )
        return from_beir(path.parent, split=split, candidates=path, depth=depth, name=name)
    raise ValueError(
        f"{path}: expected a folder in BEIR layout, candidates JSON lines, or LlamaIndex's QA dataset as JSON; "
        "or a table, .csv or .tsv; for a TREC run use rerankx.evaluation.from_trec"
    )


def from_beir(
    folder: FilePath,
    *,
    split: str = "test",
    candidates: Source | None = None,
    depth: int = 100,
    name: str | None = None,
) -> Dataset:
    """Return a dataset in BEIR layout: corpus.jsonl, queries.jsonl, qrels/test.tsv.

    Queries are those with judgements. Those of a split may be in a file of its own, such as queries.train.jsonl.

    Args:
        folder: Where the files are.
        split: Which judgements: qrels/<split>.tsv.
        candidates: None: the folder's candidates.*.jsonl if there is one, else BM25, for which the whole corpus is held in
            memory; see `rerankx.evaluation.datasets` for others.
        depth: How many candidates per query are kept.
        name: What reports call it.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: What is there cannot be used, or there are several candidates.*.jsonl.
        MissingDependencyError: There is no first stage, and BM25 cannot be run here.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not there, or no folder")
    qrels = _one_of(folder, f"qrels/{split}.tsv")
    queries = _one_of(folder, f"queries.{split}.jsonl", "queries.jsonl")
    if candidates is None:
        candidates = _only_candidates(folder)
    return _dataset(
        name or folder.resolve().name,
        qrels=qrels,
        queries=queries,
        candidates=candidates,
        corpus=lambda: _one_of(folder, "corpus.jsonl"),
        depth=depth,
    )


def from_trec(
    run: Source,
    qrels: Judged,
    *,
    queries: Texts,
    corpus: Texts | None = None,
    depth: int = 100,
    name: str | None = None,
) -> Dataset:
    """Return a dataset of a TREC run and TREC or BEIR judgements.

    Args:
        run: The run, in trec_eval's order: by score, then by document id descending; or any other first stage.
        qrels: A file as in `read_qrels`, or a mapping from query id to grade by document id.
        queries: A file of JSON lines or of "id<tab>text" lines, or a mapping from query id to text.
        corpus: The same for documents; a JSON line may have a title. None: the first stage brings all texts.
        depth: How many candidates per query are kept.
        name: What reports call it.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: What is there cannot be used.
        MissingDependencyError: `run` is "bm25", which cannot be run here.
    """
    return _dataset(
        name or _named(run, qrels), qrels=qrels, queries=queries, candidates=run, corpus=lambda: corpus, depth=depth
    )


def from_candidates(
    path: FilePath,
    *,
    qrels: Judged | None = None,
    queries: Texts | None = None,
    corpus: Texts | None = None,
    depth: int = 100,
    name: str | None = None,
) -> Dataset:
    """Return a dataset of candidates JSON lines: ours, or rank_llm's of either shape.

    Ours are {"qid", "query", "hits": [{"docid", "rank", "score"}]}, where a hit may have "text" and "title" too. Hits without
    rank are best first. Of rank_llm's documents title and text are joined as everywhere here, not as "Title: ... Content: ...".

    Args:
        path: The file; it may be one JSON list, too.
        qrels: As in `from_trec`. None: nothing is judged, all queries are kept, and `qrels` of each is {}.
        queries: As in `from_trec`, for lines that do not hold the query's text.
        corpus: As in `from_trec`, for hits that do not hold their text.
        depth: How many candidates per query are kept.
        name: What reports call it.

    Raises:
        FileNotFoundError: A file is not there.
        ValueError: What is there cannot be used.

    Source: rank_llm's `Request`, https://github.com/castorini/rank_llm.
    """
    path = there(path)
    return _dataset(
        name or _named(path, path), qrels=qrels, queries=queries, candidates=path, corpus=lambda: corpus, depth=depth
    )


def from_llama_index(
    path: FilePath, *, candidates: Source | None = None, depth: int = 100, name: str | None = None
) -> Dataset:
    """Return a dataset of the JSON that LlamaIndex's `EmbeddingQAFinetuneDataset.save_json` writes, read as a whole.

    That is {"queries": {qid: text}, "corpus": {docid: text}, "relevant_docs": {qid: [docid, ...]}, "mode": "text"}. What is
    relevant has grade 1.

    Args:
        path: The file.
        candidates: None: BM25 over its corpus; see `rerankx.evaluation.datasets` for others.
        depth: How many candidates per query are kept.
        name: What reports call it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is something else, or what is there cannot be used.
        MissingDependencyError: There is no first stage, and BM25 cannot be run here.
    """
    path = there(path)
    whole_file = document(path)
    parts = whole_file if isinstance(whole_file, dict) else {}
    for part in ("queries", "corpus", "relevant_docs"):
        if not isinstance(parts.get(part), dict):
            raise ValueError(
                f"{path}: there is no object {part!r}; expected LlamaIndex's QA dataset, an object of queries, corpus and "
                "relevant_docs"
            )
    if parts.get("mode", "text") != "text":
        raise ValueError(f"{path}: mode is {shown(parts['mode'])}; only 'text' can be ranked here")
    for qid, docids in parts["relevant_docs"].items():
        if not isinstance(docids, list):
            raise ValueError(f"{path}: relevant_docs of query {shown(qid)} is {shown(docids)}, expected a list of ids")
    qrels = {qid: {as_id(path, d, "an id"): 1 for d in docids} for qid, docids in parts["relevant_docs"].items()}
    return _dataset(
        name or _named(path, path),
        qrels=qrels,
        queries=parts["queries"],
        candidates="bm25" if candidates is None else candidates,
        corpus=lambda: cast("Mapping[str, str]", parts["corpus"]),
        depth=depth,
        where=path,
    )


def _dataset(
    name: str,
    *,
    qrels: Judged | None,
    queries: Texts | None,
    candidates: Source,
    corpus: Callable[[], Texts | None],
    depth: int,
    where: object = None,
) -> Dataset:
    depth = whole("depth", depth)
    notes = Notes()
    searched = isinstance(candidates, str) and candidates == "bm25"
    if searched:
        check_bm25()  # before anything long is read
    grades: Qrels | None = None
    if qrels is not None:
        grades = judgements.given(qrels, notes) if isinstance(qrels, Mapping) else judgements.judgements(qrels, notes)
    stage: FirstStage | None = None
    if isinstance(candidates, Mapping):
        stage = from_mapping(candidates, grades, depth, notes)
    elif isinstance(candidates, str | os.PathLike) and not searched:
        stage = from_file(candidates, grades, depth, notes)
    source = _source_of_queries(queries, stage)
    asked = _queries(source, grades, notes)
    if not asked:
        expected = f" such as {shown(next(iter(grades)))}" if grades else ""
        raise ValueError(f"{where or _shown(source, 'queries')}: no query has a text and judgements{expected}")
    if grades is None:
        grades = {qid: {} for qid in asked}
        notes.add("nothing is judged: no measure can be taken")
    else:
        check_relevant(where or _shown(qrels, "qrels"), grades, asked, notes)

    judged = dict.fromkeys(docid for qid in asked for docid in grades[qid])
    documents: Texts | None = None
    texts: dict[str, str] = {}
    if stage is None and not searched:
        stage = retrieved(candidates, asked, depth, notes)
        check_known(stage.hits, grades)
    elif stage is None:
        documents = corpus()
        texts = _texts(documents, None, judged, notes)
        stage = bm25(texts, asked, depth)
    elif bare := {hit.docid for qid in asked for hit in stage.hits.get(qid, ()) if hit.text is None}:
        documents = corpus()
        texts = {} if documents is None else _texts(documents, bare, judged, notes)
    if judged and not any(hit.docid in judged for qid in asked for hit in stage.hits.get(qid, ())):
        notes.add(f"{FIRST_STAGE}no candidate is judged, for any query: are the ids of both the same?")
    named = "" if documents is None else where or _shown(documents, "corpus")
    return joined(name, asked, grades, stage, texts, depth, notes, named)


def _source_of_queries(queries: Texts | None, stage: FirstStage | None) -> Texts:
    """Return where the queries' texts are: what was given, or else what came with the candidates."""
    if queries is not None:
        return queries
    if stage is None:
        return {}
    missing = next((qid for qid in stage.hits if qid not in stage.queries), None)
    if missing is not None:
        raise ValueError(f"{stage.name}: query {shown(missing)} has no text; pass queries=")
    return stage.queries


def _queries(source: Texts, grades: Qrels | None, notes: Notes) -> dict[str, str]:
    """Return the texts of judged queries (of all, where nothing is), in the order of the judgements."""
    found: dict[str, str] = {}
    for place, qid, text in _pairs(source, "queries"):
        if grades is not None and qid not in grades:
            notes.add("queries without judgements, left out", f"query {shown(qid)}")
        elif _first(found, place, qid, text, "query", notes):
            found[qid] = text
    if grades is not None:
        for qid in grades:
            if qid not in found:
                notes.add("judged queries without a text, left out", f"query {shown(qid)}")
    kept = {qid: found[qid] for qid in (found if grades is None else grades) if qid in found}
    for qid in [qid for qid, text in kept.items() if not text.strip()]:
        notes.add("blank queries, left out", f"query {shown(qid)}")
        del kept[qid]
    return kept


def _texts(
    source: Texts | None, wanted: Collection[str] | None, judged: Collection[str], notes: Notes
) -> dict[str, str]:
    """Return the texts of wanted documents (None: of all), and note which judged documents there are not."""
    if source is None:
        raise ValueError("there is no corpus to search; pass corpus=")
    found: dict[str, str] = {}
    known: set[str] = set()
    for place, docid, text in _pairs(source, "corpus"):
        if docid in judged:
            known.add(docid)
        if (wanted is None or docid in wanted) and _first(found, place, docid, text, "document", notes):
            found[docid] = text
    if not found and not known:
        raise ValueError(f"{_shown(source, 'corpus')}: none of the documents is in it that are judged or to be ranked")
    for docid in judged:
        if docid not in known:
            notes.add("judged documents that are not in the corpus, kept: no order can hold them", shown(docid))
    return found


def _first(found: Mapping[str, str], place: object, key: str, text: str, what: str, notes: Notes) -> bool:
    """Return whether it is the first of its id, and raise ValueError if there is another text under it."""
    if key not in found:
        return True
    if found[key] != text:
        raise ValueError(f"{place}: {what} {shown(key)} is there already, with another text; remove one")
    notes.add(f"a {what} that is given twice, taken once", f"{what} {shown(key)}")
    return False


def _pairs(source: Texts, what: str) -> Iterator[tuple[object, str, str]]:
    """Yield place, id and text of queries or documents."""
    if isinstance(source, Mapping):
        for key, text in source.items():
            place = f"{what} of id {shown(key)}"
            if not isinstance(text, str):
                raise ValueError(f"{place}: the text is {shown(text)}, expected a string")
            yield place, as_id(place, key, "the id"), text
        return
    path = there(source)
    if is_json(path):
        for at, record in records(path):
            yield at, identity(at, record), text_of(at, record)
        return
    for at, line in lines(path):
        key, tab, text = line.partition("\t")
        if not tab:
            raise ValueError(f"{at}: expected a JSON object, or an id, a tab and a text, not {shown(line)}")
        yield at, as_id(at, key, "the id"), text


def _one_of(folder: Path, *names: str) -> Path:
    for name in names:
        with suppress(FileNotFoundError):
            return there(folder / name)
    held = sorted(str(path.relative_to(folder)) for path in (*folder.glob("*"), *folder.glob("qrels/*")))
    listed = f"it holds {', '.join(held[:8])}" if held else "it is empty"
    raise FileNotFoundError(
        f"{folder} has no {names[-1]}, and {listed}; expected BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv"
    )


def _from_csv(path: Path, candidates: Source | None, depth: int, name: str | None) -> Dataset:
    if candidates is not None:
        raise ValueError(f"{path} is a table, whose rows are the candidates: pass no candidates=")
    table: dict[str, list[str | None]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","):
            for column, value in row.items():
                if isinstance(column, str):  # what has no head line belongs to none
                    table.setdefault(column, []).append(value or None)
    if not table:
        raise ValueError(f"{path} has no rows")
    return from_table(table, depth=depth, name=name or path.stem)


def _only_candidates(folder: Path) -> Path | str:
    found = sorted((*folder.glob("candidates.*jsonl"), *folder.glob("candidates.*jsonl.gz")))
    if len(found) > 1:
        raise ValueError(
            f"{folder} has several first stages: {', '.join(path.name for path in found)}; pass one as candidates= (--candidates)"
        )
    return found[0] if found else "bm25"


def _parts(path: Path) -> Collection[str]:
    """Return the names in the JSON object that a file begins with, or in the first item of its list; none if it is not JSON."""
    if not is_json(path):
        return ()
    try:
        first = json.loads(next(lines(path))[1])
    except (ValueError, RecursionError):  # an object or a list of several lines
        first = document(path)
    if isinstance(first, list):
        first = first[0] if first else None
    return first if isinstance(first, dict) else ()


def _shown(source: object, what: str) -> str:
    return str(source) if isinstance(source, str | os.PathLike) else what


def _named(first: object, second: object) -> str:
    for path in (first, second):
        if isinstance(path, str | os.PathLike):
            return Path(path).name.split(".")[0]
    return "given"
