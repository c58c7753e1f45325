"""Judgements: who has read which document for which query, and how good it was."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from typing import SupportsIndex

from rerankx.arguments import shown
from rerankx.evaluation.datasets.files import Notes, as_id, lines, there

Qrels = dict[str, dict[str, int]]

_WHOLE = re.compile(r"([+-]?[0-9]{1,9})(?:\.0*)?")
# First column of a header: BEIR's, and others that are usual.
_HEADERS = frozenset({"query-id", "query_id", "queryid", "qid", "query", "topic", "topic_id", "#qid"})


def read_qrels(path: str | os.PathLike[str]) -> Qrels:
    """Return query id to document id to grade, in the order of the file.

    A line is "qid docid grade" as in BEIR, with a header or without, or "qid 0 docid grade" as in TREC. Columns are parted by
    tabs, or by blanks where there is no tab. A grade is a whole number; 1.0 is 1, and negative ones are kept.

    Raises:
        FileNotFoundError: There is no such file, nor one with .gz.
        ValueError: A line that is neither, a grade that is no whole number, two grades for one document, no judgement at all.
    """
    return judgements(path, Notes())


def judgements(path: str | os.PathLike[str], notes: Notes) -> Qrels:
    """Return what `read_qrels` does, and note what is odd."""
    found: Qrels = {}
    first: dict[tuple[str, str], int] = {}
    columns = 0
    path = there(path)
    for place, line in lines(path):
        fields = [field.strip() for field in line.split("\t")] if "\t" in line else line.split()
        if place.number == 1 and fields[0].casefold() in _HEADERS:
            continue
        columns = columns or len(fields)
        if len(fields) not in (3, 4) or len(fields) != columns:
            expected = {3: "3, as above it", 4: "4, as above it"}.get(columns, "") if columns != len(fields) else ""
            wanted = expected or "3 (query, document, grade) or TREC's 4 (query, 0, document, grade)"
            raise ValueError(f"{place}: {len(fields)} columns, expected {wanted}: {shown(line)}")
        qid, docid = as_id(place, fields[0], "the query id"), as_id(place, fields[-2], "the document id")
        grade = grade_of(place, fields[-1])
        enter(found, place, qid, docid, grade, notes, before=first.get((qid, docid)))
        first.setdefault((qid, docid), place.number)
    if not found:
        raise ValueError(f"{path}: there is no judgement in it")
    return found


def enter(
    found: Qrels, place: object, qid: str, docid: str, grade: int, notes: Notes, *, before: int | None = None
) -> None:
    """Add a judgement, and note what is odd.

    Raises:
        ValueError: The document has another grade for this query already.
    """
    grades = found.setdefault(qid, {})
    if docid in grades:
        if grades[docid] != grade:
            line = f" in line {before}" if before else ""
            raise ValueError(
                f"{place}: document {shown(docid)} has grade {grade} for query {shown(qid)}, but {grades[docid]}{line}; "
                "remove one"
            )
        notes.add("judgements that are given twice, taken once", f"document {shown(docid)} for query {shown(qid)}")
        return
    if grade < 0:
        notes.add("negative grades, which count as 0", f"{grade} for query {shown(qid)}")
    grades[docid] = grade


def given(qrels: Mapping[str, Mapping[str, object]], notes: Notes) -> Qrels:
    """Return judgements that were given as a mapping, checked."""
    found: Qrels = {}
    for qid, grades in qrels.items():
        place = f"qrels of query {shown(qid)}"
        key = as_id(place, qid, "the query id")
        found.setdefault(key, {})
        for docid, grade in grades.items():
            enter(found, place, key, as_id(place, docid, "the document id"), grade_of(place, grade), notes)
    if not found:
        raise ValueError("qrels is empty: expected at least one judged query")
    return found


def grade_of(place: object, value: object) -> int:
    """Return a grade as an int.

    Raises:
        ValueError: It is no whole number.
    """
    if isinstance(value, str) and (match := _WHOLE.fullmatch(value.strip())):
        return int(match[1])
    if isinstance(value, SupportsIndex):
        return int(value)
    whole = getattr(value, "is_integer", None)
    if callable(whole) and whole():
        return int(value)  # type: ignore[call-overload, no-any-return]  # floats and numpy's, which have is_integer
    raise ValueError(
        f"{place}: the grade is {shown(value)}, expected a whole number, such as 0, 1, 2 or 3; map others to these first"
    )


def check_relevant(where: object, qrels: Qrels, queries: Iterable[str], notes: Notes) -> None:
    """Note the queries without a relevant document.

    Raises:
        ValueError: None has one.
    """
    asked = list(queries)
    barren = [qid for qid in asked if all(grade < 1 for grade in qrels[qid].values())]
    if len(barren) == len(asked):
        raise ValueError(f"{where}: no query has a document of grade 1 or more, so that every order would be as bad")
    for qid in barren:
        notes.add("queries without a relevant document, kept: every measure of theirs is 0", f"query {shown(qid)}")
