"""Candidate lists: what a first stage found for each query, from JSON lines, a TREC run or a mapping."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from rerankx.arguments import shown
from rerankx.evaluation.datasets.files import (
    FIRST_STAGE,
    Notes,
    Record,
    as_id,
    identity,
    lines,
    number_of,
    records,
    text_in,
    there,
)
from rerankx.evaluation.datasets.runs import TWICE, run_of
from rerankx.evaluation.metrics import ranked_from_scores

Run = Mapping[str, Sequence[str] | Mapping[str, float]]


class Hit(NamedTuple):
    """A document that was found, with its text if that came along."""

    docid: str
    text: str | None = None
    score: float | None = None


@dataclass
class FirstStage:
    """What was found for each query."""

    name: str
    hits: dict[str, list[Hit]] = field(default_factory=dict)
    queries: dict[str, str] = field(default_factory=dict)
    """Query id to its text, where that came along."""


def from_file(path: str | os.PathLike[str], wanted: Collection[str] | None, depth: int, notes: Notes) -> FirstStage:
    """Return the candidates of the wanted queries (None: of all) in a file: JSON lines, or else a TREC run.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A line of it cannot be used, or no query of it is wanted.
    """
    path = there(path)
    found = FirstStage(path.name)
    if is_json(path):
        _read(found, path, wanted, depth, notes)
    else:
        for qid, scores in run_of(path, wanted, notes).items():
            hits = [Hit(docid, None, score) for docid, score in scores.items()]
            found.hits[qid] = taken(qid, hits, depth, notes)
    if not found.hits:
        other = f": expected some of {shown(list(wanted))}" if wanted else ""
        raise ValueError(f"{path}: there is no candidate list for any judged query in it{other}")
    return found


def from_mapping(run: Run, wanted: Collection[str] | None, depth: int, notes: Notes) -> FirstStage:
    """Return the candidates of the wanted queries in a mapping to document ids, best first, or to scores by document id."""
    found = FirstStage("given")
    for key, ranked in run.items():
        qid = as_id("candidates", key, "a query id")
        if wanted is not None and qid not in wanted:
            continue
        place = f"candidates of query {shown(qid)}"
        if isinstance(ranked, str) or not isinstance(ranked, Sequence | Mapping):
            raise ValueError(f"{place}: expected a list of document ids, or scores by document id, not {shown(ranked)}")
        found.hits[qid] = taken(qid, _given(place, ranked), depth, notes)
    return found


def _given(place: str, ranked: Sequence[str] | Mapping[str, float]) -> list[Hit]:
    if not isinstance(ranked, Mapping):
        return [Hit(as_id(place, docid, "a document id")) for docid in ranked]
    scores = {as_id(place, docid, "a document id"): score for docid, score in ranked.items()}
    return [Hit(docid, None, number_of(place, scores[docid], "a score")) for docid in ranked_from_scores(scores)]


def taken(qid: str, hits: Iterable[Hit], depth: int, notes: Notes) -> list[Hit]:
    """Return the best `depth` hits, each document once; one more if the query itself may be among them."""
    kept: dict[str, Hit] = {}
    for hit in hits:
        if hit.docid in kept:
            notes.add(TWICE, f"document {shown(hit.docid)} for query {shown(qid)}")
        elif len(kept) < depth + (qid in kept or qid == hit.docid):
            kept[hit.docid] = hit
    scores = [hit.score for hit in kept.values() if hit.score is not None]
    if any(later > earlier for earlier, later in pairwise(scores)):
        notes.add(f"{FIRST_STAGE}candidate lists whose scores rise, kept in their order", f"that of query {shown(qid)}")
    return list(kept.values())


def is_json(path: Path) -> bool:
    """Return whether the first line with something in it begins as JSON does."""
    return next((line.lstrip()[:1] in ("{", "[") for _, line in lines(path)), False)


def _read(found: FirstStage, path: Path, wanted: Collection[str] | None, depth: int, notes: Notes) -> None:
    """Read lines of ours, {"qid", "query", "hits": [{"docid", "rank", "score"}]}, and of rank_llm.

    rank_llm's are {"query": {"qid", "text"}, "candidates": [{"docid", "score", "doc": {...}}]}, once {"query": "...",
    "hits": [{"content", "qid", "docid", "rank", "score"}]}. A file may be one JSON list of such objects, too.

    Source: `Request` and `DataWriter`, https://github.com/castorini/rank_llm.
    """
    before: dict[str, object] = {}
    texts: dict[str, str] = {}
    for place, record in records(path):
        entries = record.get("hits", record.get("candidates"))
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(f"{place}: 'hits' is {shown(entries)}, expected a list of objects with 'docid'")
        qid, query = _asked(place, record, entries)
        if qid in before:
            raise ValueError(f"{place}: query {shown(qid)} has candidates already, {before[qid]}; remove one")
        before[qid] = place
        if wanted is not None and qid not in wanted:
            continue
        if query is not None:
            found.queries[qid] = query
        found.hits[qid] = [
            # One string for one text, however many lists it is in.
            hit if hit.text is None else hit._replace(text=_shared(texts, hit.docid, hit.text))
            for hit in taken(qid, _hits(place, entries), depth, notes)
        ]


def _shared(texts: dict[str, str], docid: str, text: str) -> str:
    known = texts.setdefault(docid, text)
    return known if known == text else text


def _asked(place: object, record: Record, entries: Sequence[Record]) -> tuple[str, str | None]:
    query = record.get("query")
    if isinstance(query, dict):
        return identity(place, query, "qid", "_id", "id"), _text(place, query.get("text"))
    if record.get("qid") is None and entries and entries[0].get("qid") is not None:
        return identity(place, entries[0], "qid"), _text(place, query)
    return identity(place, record, "qid", "_id", "id"), _text(place, query)


def _text(place: object, text: object) -> str | None:
    if text is not None and not isinstance(text, str):
        raise ValueError(f"{place}: the query's text is {shown(text)}, expected a string")
    return text


def _hits(place: object, entries: Sequence[Record]) -> list[Hit]:
    ranks = [number_of(place, entry.get("rank"), "a rank") for entry in entries]
    known = [rank for rank in ranks if rank is not None]
    if known and len(known) < len(entries):
        raise ValueError(f"{place}: {len(known)} of {len(entries)} hits have a rank; give it to all or to none")
    order = sorted(range(len(entries)), key=known.__getitem__) if known else range(len(entries))
    return [_hit(place, entries[i]) for i in order]


def _hit(place: object, entry: Record) -> Hit:
    docid = identity(place, entry, "docid", "_id", "id")
    score = number_of(place, entry.get("score"), f"the score of document {shown(docid)}")
    held = entry.get("doc", entry)
    if isinstance(held, str):
        return Hit(docid, _unwrapped(held), score)
    return Hit(docid, text_in(place, held) if isinstance(held, dict) else None, score)


def _unwrapped(held: str) -> str:
    """Return the text of a document that is a string: itself, or what an index held as JSON."""
    if held.startswith("{"):
        try:
            return text_in("", json.loads(held)) or held
        except (ValueError, RecursionError):
            return held
    return held
