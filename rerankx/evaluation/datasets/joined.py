"""Queries, judgements, candidate lists and texts become a dataset."""

from __future__ import annotations

import re
from collections.abc import Mapping

from rerankx.arguments import shown
from rerankx.evaluation.datasets.dataset import Candidate, Dataset
from rerankx.evaluation.datasets.files import FIRST_STAGE, Notes
from rerankx.evaluation.datasets.lists import FirstStage


def joined(
    name: str,
    queries: Mapping[str, str],
    qrels: Mapping[str, Mapping[str, int]],
    stage: FirstStage,
    texts: Mapping[str, str],
    depth: int,
    notes: Notes,
    where: object = "",
) -> Dataset:
    """Return the dataset, its candidates with their texts.

    Raises:
        ValueError: A candidate has no text, neither its own nor in `texts`, which come from `where`.
    """
    candidates = {}
    for qid, query in queries.items():
        kept = []
        for docid, own, score in stage.hits.get(qid, ()):
            text = texts.get(docid) if own is None else own
            if text is None:
                source = f"is not in {where}" if where else "came without a text; pass corpus="
                raise ValueError(f"{stage.name}: document {shown(docid)}, a candidate for query {shown(qid)}, {source}")
            # ArguAna asks with a document of its corpus, under the same id, which BEIR leaves out, too. Ids that are the same by
            # chance are told by the texts.
            if docid == qid and docid not in qrels[qid] and _folded(query) in _folded(text):
                notes.add(f"{FIRST_STAGE}queries that found themselves, which was left out", f"query {shown(qid)}")
                continue
            kept.append(Candidate(docid, text, score))
        candidates[qid] = tuple(kept[:depth])
        if not kept:
            notes.add(f"{FIRST_STAGE}queries without candidates, kept: they count 0", f"query {shown(qid)}")
    blank = {one.docid for found in candidates.values() for one in found if not one.text.strip()}
    for docid in sorted(blank):
        notes.add(f"{FIRST_STAGE}documents without text, kept", f"document {shown(docid)}")
    judged = {qid: qrels[qid] for qid in queries}
    of_a_folder = re.fullmatch(r"candidates\.(.+)\.jsonl(\.gz)?", stage.name)
    first_stage = of_a_folder[1] if of_a_folder else stage.name
    return Dataset(name, dict(queries), judged, candidates, first_stage, notes.told())


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())
