"""TREC runs: "qid Q0 docid rank score tag", a line for each document that was found."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rerankx.arguments import shown
from rerankx.evaluation.datasets.files import FIRST_STAGE, Notes, as_id, lines, number_of, there
from rerankx.evaluation.metrics import ranked_from_scores


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Return query id to document id to score, best first.

    The order is that of trec_eval: by score, then by document id descending; the rank column is not looked at.

    Raises:
        FileNotFoundError: There is no such file, nor one with .gz.
        ValueError: A line that has not 6 columns, a score that is no finite number, a document twice for one query, no line.

    Source: trec_eval 9, https://github.com/usnistgov/trec_eval.
    """
    return run_of(path, None, None)


def run_of(
    path: str | os.PathLike[str], wanted: Collection[str] | None, notes: Notes | None
) -> dict[str, dict[str, float]]:
    """Return what `read_run` does for the wanted queries; a document that is there twice is noted, if there are notes."""
    path = there(path)
    found: dict[str, dict[str, float]] = {}
    empty = True
    for place, line in lines(path):
        empty = False
        fields = line.split()
        if len(fields) != 6:
            raise ValueError(
                f"{place}: {len(fields)} columns, expected TREC's 6 (query, Q0, document, rank, score, tag): {shown(line)}"
            )
        qid, _, docid, _, score, _ = fields
        value = number_of(place, score, "the score")
        if wanted is not None and qid not in wanted:
            continue
        scores = found.setdefault(qid, {})
        if docid not in scores:
            scores[docid] = value or 0.0
        elif notes is None:
            raise ValueError(f"{place}: document {shown(docid)} is there twice for query {shown(qid)}; remove one")
        else:
            notes.add(TWICE, f"document {shown(docid)} for query {shown(qid)}")
    if empty:
        raise ValueError(f"{path}: there is no line in it")
    return {qid: {docid: scores[docid] for docid in ranked_from_scores(scores)} for qid, scores in found.items()}


TWICE = f"{FIRST_STAGE}documents that are listed twice for a query, of which the first was kept"


def write_run(rankings: Mapping[str, Sequence[str]], path: str | os.PathLike[str], *, tag: str) -> None:
    """Write rankings as a TREC run that any tool reads in this order, whatever it does about ties.

    The scores are n, n - 1, ..., 1 for n documents.

    Args:
        rankings: Query id to document ids, best first, each once.
        path: The file; one that is there is replaced.
        tag: What made it, the last column.

    Raises:
        ValueError: An id or the tag is blank or holds a blank, which the format cannot, or half a surrogate pair, or a
            document is ranked twice. Nothing was written.
    """
    rows = []
    _check_column("tag", tag)
    for qid, ranked in rankings.items():
        _check_column("query id", qid)
        if isinstance(ranked, str) or len(set(ranked)) != len(ranked):
            raise ValueError(f"the ranking of query {shown(qid)} must be a list of document ids, each once")
        for rank, docid in enumerate(ranked, 1):
            _check_column("document id", docid)
            rows.append(f"{qid} Q0 {docid} {rank} {len(ranked) - rank + 1} {tag}\n")
    Path(path).write_bytes("".join(rows).encode())


def _check_column(name: str, value: str) -> None:
    if len(as_id(name, value, "it").split()) != 1 or value != value.strip():
        raise ValueError(f"{name} {shown(value)} holds a blank, which a TREC run cannot; give ids without")
