"""`Dataset`: queries, judgements and candidates, whatever they came from."""

from __future__ import annotations

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
        ValueError: The mappings have not the same query ids.
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

    @property
    def scored(self) -> bool:
        """Return whether the first stage gave every candidate a score."""
        return all(one.score is not None for found in self.candidates.values() for one in found)

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
