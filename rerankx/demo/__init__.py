"""A small help centre to rerank: 100 passages, 40 questions, graded judgments. An illustration, not a benchmark (README.md)."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from statistics import fmean, median
from typing import Any

from rerankx.backends.embedded.encoder import shared_encoder
from rerankx.backends.embedded.lexical import bm25, shared_lexicon
from rerankx.evaluation.datasets import Candidate, Dataset
from rerankx.evaluation.metrics import evaluate
from rerankx.ranking import Ranking, best_first
from rerankx.reranker import Reranker

METRICS = ("nDCG@5", "RR(rel=3)")
"""What both orders are scored by; for the reciprocal rank a passage must answer the question fully."""


@dataclass(frozen=True, slots=True)
class Passage:
    """An article of the help centre."""

    id: str
    title: str
    body: str

    @property
    def text(self) -> str:
        """Return title and body, which is what is ranked."""
        return f"{self.title}\n{self.body}"


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the grades of the passages that bear on it: 3 answers it fully, 2 in part, 1 is near but does not."""

    id: str
    text: str
    grades: dict[str, int]


@dataclass(frozen=True, slots=True)
class Answered:
    """One question before and after."""

    question: Question
    before: list[Passage]
    """The candidates as keyword search returned them."""
    ranking: Ranking[Passage]
    search_ms: float
    scores_before: dict[str, float]
    """Each of METRICS."""
    scores_after: dict[str, float]


def passages() -> list[Passage]:
    """Return the 100 passages."""
    return [Passage(p["id"], p["title"], p["text"]) for p in _lines("passages.jsonl")]


def questions() -> list[Question]:
    """Return the 40 questions."""
    return [Question(q["id"], q["text"], q["judgments"]) for q in _lines("questions.jsonl")]


class KeywordSearch:
    """The first stage: BM25 over the passages' words."""

    def __init__(self, collection: list[Passage]) -> None:
        self._collection = collection
        self._words = [shared_lexicon().words(shared_encoder().pieces(passage.text)) for passage in collection]

    def __call__(self, query: str, k: int) -> list[Passage]:
        """Return the k best passages, best first."""
        pieces = shared_encoder().pieces(query)
        scores = [bm25(pieces, words, shared_lexicon()) for words in self._words]
        return [self._collection[i] for i in best_first(scores)[:k]]


def dataset(*, candidates: int = 20) -> Dataset:
    """Return the help centre as a dataset: the questions, their judgements, and what keyword search finds, without scores."""
    search, asked = KeywordSearch(passages()), questions()
    return Dataset(
        "help centre",
        {question.id: question.text for question in asked},
        {question.id: question.grades for question in asked},
        {
            question.id: [Candidate(passage.id, passage.text) for passage in search(question.text, candidates)]
            for question in asked
        },
        "keyword search",
    )


def run(reranker: Reranker, *, candidates: int = 20) -> Iterator[Answered]:
    """Yield every question before and after: keyword search for the candidates, then the reranker."""
    search = KeywordSearch(passages())
    for question in questions():
        start = time.perf_counter()
        before = search(question.text, candidates)
        search_ms = (time.perf_counter() - start) * 1000
        ranking = reranker.rerank(question.text, before, key=lambda passage: passage.text)
        yield Answered(
            question, before, ranking, search_ms, _scores(question, before), _scores(question, ranking.documents)
        )


def show(answered: Sequence[Answered], *, top_n: int = 5, every: bool = False) -> str:
    """Return the summary of all questions under some of them: all, or the first, the most improved and the most worsened."""
    gains = [a.scores_after["nDCG@5"] - a.scores_before["nDCG@5"] for a in answered]
    picked = range(len(answered)) if every else dict.fromkeys((0, gains.index(max(gains)), gains.index(min(gains))))
    shown = [f"{answered[i].question.id}: {show_ranking(answered[i].ranking, top_n=top_n)}\n" for i in picked]
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    rows = [
        f"{len(answered)} questions: {better} better, {worse} worse, {len(answered) - better - worse} as before",
        "",
    ]
    rows.append(f"{'':<16}{'nDCG@5':>8}{'MRR':>8}{'ms/question':>13}")
    for name, scores, times in (
        ("keyword search", [a.scores_before for a in answered], [a.search_ms for a in answered]),
        (answered[0].ranking.backend, [a.scores_after for a in answered], [a.ranking.elapsed_ms for a in answered]),
    ):
        means = [fmean(score[metric] for score in scores) for metric in METRICS]
        rows.append(f"{name:<16}{means[0]:>8.3f}{means[1]:>8.3f}{median(times):>13.1f}")
    return "\n".join([*shown, *rows])


def show_ranking(ranking: Ranking[Passage], *, top_n: int = 5) -> str:
    """Return the question over two columns: the titles as they were found, and as they were reranked, with movement."""
    before = sorted(ranking, key=lambda hit: hit.index)
    width = 44
    rows = [ranking.query, f"     {'before':<{width}} after"]
    for place, (old, new) in enumerate(zip(before[:top_n], ranking[:top_n], strict=True), 1):
        arrow = "=" if new.movement == 0 else f"▲{new.movement}" if new.movement > 0 else f"▼{-new.movement}"
        rows.append(
            f"{place:>3}  {old.document.title[: width - 2]:<{width}} {new.document.title[:width]:<{width}} {arrow}"
        )
    return "\n".join(rows)


def _scores(question: Question, order: list[Passage]) -> dict[str, float]:
    return evaluate({question.id: [passage.id for passage in order]}, {question.id: question.grades}, METRICS)


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (files(__package__) / name).read_text(encoding="utf-8").splitlines()]
