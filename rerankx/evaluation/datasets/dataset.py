"""`Dataset`: queries, judgements and candidates, whatever they came from."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rerankx.arguments import shown
from rerankx.compose.made import whole


@dataclass(frozen=True, slots=True)
class Candidate:
    """A document that the first stage found for a query."""

    docid: str
    text: str
    score: float | None = None
    """The first stage's score, higher is better; None if it gave none."""


@dataclass(frozen=True, slots=True, repr=False)
class Dataset:
    """Queries with their judgements and their candidates; the three mappings have the same query ids.

    Raises:
        ValueError: The mappings have not the same query ids, a candidate comes twice, or a score is not finite.
    """

    name: str
    queries: Mapping[str, str]
    """Query id to its text, not blank."""
    qrels: Mapping[str, Mapping[str, int]]
    """Query id to the grades of judged documents. Without judgements at all, each query has {}."""
    candidates: Mapping[str, Sequence[Candidate]]
    """Query id to what the first stage found, best first, each document once; empty where it found nothing."""
    first_stage: str = ""
    """What found the candidates: "bm25s", a retriever's type, a file's name; of candidates.NAME.jsonl, NAME."""
    issues: Sequence[str] = ()
    """What was odd and what was done about it, a sentence each."""
    labelled_by: str = ""
    """The model that gave judgements, as "name:model", if one did: it cannot be measured by them."""

    def __post_init__(self) -> None:
        for what, mapping in (("qrels", self.qrels), ("candidates", self.candidates)):
            odd = next(iter(self.queries.keys() ^ mapping.keys()), None)
            if odd is not None:
                raise ValueError(
                    f"query {shown(odd)} is in only one of queries and {what}: expected the same ids in both"
                )
        for qid, found in self.candidates.items():
            if len({one.docid for one in found}) < len(found):
                docids = [one.docid for one in found]
                twice = next(docid for docid in docids if docids.count(docid) > 1)
                raise ValueError(
                    f"document {shown(twice)} is twice among the candidates of query {shown(qid)}; keep one"
                )
            for one in found:
                if one.score is not None and not math.isfinite(one.score):
                    raise ValueError(
                        f"the score of {shown(one.docid)} for query {shown(qid)} is {one.score}; None is none"
                    )

    @property
    def scored(self) -> bool:
        """Return whether the first stage gave every candidate a score, and the scores fall along its order."""
        for found in self.candidates.values():
            scores = [one.score for one in found if one.score is not None]
            if len(scores) < len(found) or scores != sorted(scores, reverse=True):
                return False
        return True

    def subset(self, qids: Iterable[str]) -> Dataset:
        """Return the dataset of these queries alone, in this order, each once.

        Raises:
            ValueError: A query id is not in it.
        """
        wanted = list(dict.fromkeys([qids] if isinstance(qids, str) else qids))
        for qid in wanted:
            if qid not in self.queries:
                raise ValueError(f"there is no query {shown(qid)} in {self!r}")
        return replace(
            self,
            queries={qid: self.queries[qid] for qid in wanted},
            qrels={qid: self.qrels[qid] for qid in wanted},
            candidates={qid: self.candidates[qid] for qid in wanted},
        )

    def depth(self, n: int) -> Dataset:
        """Return the dataset with the best n candidates of each query; n is at least 1."""
        n = whole("n", n)
        return replace(self, candidates={qid: found[:n] for qid, found in self.candidates.items()})

    def __repr__(self) -> str:
        judged = sum(map(len, self.qrels.values()))
        pairs = sum(map(len, self.candidates.values()))
        stage = f" by {self.first_stage}" if self.first_stage else ""
        issues = f", {len(self.issues)} issue{'s' if len(self.issues) > 1 else ''}" if self.issues else ""
        return f"<Dataset {self.name}: {len(self.queries)} queries, {judged} judgements, {pairs} candidates{stage}{issues}>"
