"""Measures of a ranking against judgements, as trec_eval defines them, named as ir-measures names them.

Shared by every measure of one query:
    ranked: Document ids, best first, each once.
    judged: Grade of each judged document. No judgement, or a negative grade, counts as grade 0.
    k: Depth: only the first k documents of `ranked` count. None means all.
    relevant_from: Lowest grade that counts as relevant, at least 1.
Results lie in [0, 1], higher is better, and are 0.0 where the query has no relevant document.
ValueError if a document is ranked twice (it would be paid twice), or if `k` or `relevant_from` is no int >= 1.

Sources: trec_eval 9, https://github.com/usnistgov/trec_eval; MacAvaney, Macdonald and Ounis, ECIR 2022,
doi:10.1007/978-3-030-99739-7_38 (ir-measures).
"""

import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Literal, get_args

__all__ = [
    "Gain",
    "average_precision",
    "evaluate",
    "evaluate_per_query",
    "hit",
    "judged_fraction",
    "ndcg",
    "precision",
    "ranked_from_scores",
    "recall",
    "reciprocal_rank",
]

Gain = Literal["linear", "exponential"]


def ndcg(ranked: Sequence[str], judged: Mapping[str, int], *, k: int | None = None, gain: Gain = "linear") -> float:
    """Return the discounted gain of the first k documents over the best that any ranking could have.

    The best ranking is made of all judged documents, retrieved or not. Gain of a grade g > 0: g if "linear",
    2**g - 1 if "exponential"; the two agree on grades 0 and 1. The discount at rank r is log2(r + 1).

    Source: Järvelin and Kekäläinen, TOIS 2002, doi:10.1145/582415.582418; exponential gain: Burges et al.,
    ICML 2005, doi:10.1145/1102351.1102363.
    """
    top = _first(ranked, k)
    if gain not in get_args(Gain):
        raise ValueError(f"gain is {gain!r}: expected one of {', '.join(get_args(Gain))}")
    ideal = sorted((grade for grade in judged.values() if grade > 0), reverse=True)
    if not ideal:
        return 0.0
    discounted = partial(_dcg, highest=ideal[0], gain=gain)
    return discounted(judged.get(document, 0) for document in top) / discounted(ideal[:k])


def average_precision(
    ranked: Sequence[str], judged: Mapping[str, int], *, k: int | None = None, relevant_from: int = 1
) -> float:
    """Return the sum of the precision at each relevant document in the first k, over all relevant documents."""
    ranks = _relevant_ranks(ranked, judged, k, relevant_from)
    total = _relevant_count(judged, relevant_from)
    return math.fsum(found / rank for found, rank in enumerate(ranks, start=1)) / total if total else 0.0


def reciprocal_rank(
    ranked: Sequence[str], judged: Mapping[str, int], *, k: int | None = None, relevant_from: int = 1
) -> float:
    """Return 1 / rank of the first relevant document, 0.0 if there is none in the first k."""
    ranks = _relevant_ranks(ranked, judged, k, relevant_from)
    return 1 / ranks[0] if ranks else 0.0


def recall(ranked: Sequence[str], judged: Mapping[str, int], *, k: int | None = None, relevant_from: int = 1) -> float:
    """Return the share of all relevant documents that is in the first k."""
    ranks = _relevant_ranks(ranked, judged, k, relevant_from)
    total = _relevant_count(judged, relevant_from)
    return len(ranks) / total if total else 0.0


def precision(ranked: Sequence[str], judged: Mapping[str, int], *, k: int, relevant_from: int = 1) -> float:
    """Return the number of relevant documents in the first k, divided by k even if fewer were retrieved."""
    _check_positive("k", k)
    return len(_relevant_ranks(ranked, judged, k, relevant_from)) / k


def hit(ranked: Sequence[str], judged: Mapping[str, int], *, k: int | None = None, relevant_from: int = 1) -> float:
    """Return 1.0 if a relevant document is in the first k, else 0.0."""
    return 1.0 if _relevant_ranks(ranked, judged, k, relevant_from) else 0.0


def judged_fraction(ranked: Sequence[str], judged: Mapping[str, int], *, k: int | None = None) -> float:
    """Return the share of the first k documents that has a judgement, of any grade.

    Divided by what was retrieved if that is less than k, as in ir-measures; 0.0 if nothing was.
    """
    top = _first(ranked, k)
    return sum(document in judged for document in top) / len(top) if len(top) else 0.0


def ranked_from_scores(scores: Mapping[str, float]) -> list[str]:
    """Return the document ids ordered as trec_eval orders them: score descending, then id descending.

    trec_eval holds scores in single precision, so scores that differ by less than about 6e-8 of their size
    are ties, here too. (In ir-measures, Judged and RR@k break ties by id ascending, in double precision.)

    Raises:
        ValueError: A score is nan.
    """
    for document, score in scores.items():
        if math.isnan(score):
            raise ValueError(f"the score of document {document!r} is nan: expected a number")
    single = dict(zip(scores, array("f", scores.values()), strict=True))
    return sorted(scores, key=lambda document: (single[document], document), reverse=True)


def evaluate(
    run: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = ("nDCG@10", "RR@10", "R@100", "Judged@10"),
) -> dict[str, float]:
    """Return the mean of each metric over all queries of `qrels`.

    Args:
        run: Query id to ranking, best first. A query of `qrels` that is missing here counts 0.0, as with
            trec_eval -c; a query that is only here is ignored.
        qrels: Query id to judged documents and their grades.
        metrics: Names as in ir-measures: nDCG, AP, RR, R, P, Success and Judged, with a cutoff as in
            "nDCG@10" (R, P and Success need one), and options as in "nDCG(dcg='exp-log2')@10" (exponential
            gain) and "AP(rel=2)@100" (relevant from grade 2).

    Returns:
        Metric name, as given, to its mean in [0, 1].

    Raises:
        ValueError: A metric is unknown, `qrels` is empty, or a ranking is not as the measures expect it.
    """
    per_query = evaluate_per_query(run, qrels, metrics)
    if not per_query:
        raise ValueError("qrels is empty: expected at least one query to average over")
    return {name: math.fsum(row[name] for row in per_query.values()) / len(per_query) for name in metrics}


def evaluate_per_query(
    run: Mapping[str, Sequence[str]],
    qrels: Mapping[str, Mapping[str, int]],
    metrics: Sequence[str] = ("nDCG@10", "RR@10", "R@100", "Judged@10"),
) -> dict[str, dict[str, float]]:
    """Return query id to metric name to value, for all queries of `qrels` in their order.

    Arguments and errors are those of `evaluate`, except that empty `qrels` give {}.
    """
    if isinstance(metrics, str):
        raise ValueError(f"metrics is {metrics!r}: expected a sequence of names, as in [{metrics!r}]")
    measures = {name: _measure(name) for name in metrics}
    values = {}
    for query, judged in qrels.items():
        try:
            ranked = run.get(query, ())
            values[query] = {name: measure(ranked, judged) for name, measure in measures.items()}
        except ValueError as error:
            raise ValueError(f"query {query!r}: {error}") from error
    return values


# Name in ir-measures: measure, option that it takes, whether it can do without @k.
_FAMILIES: dict[str, tuple[Callable[..., float], str, bool]] = {
    "nDCG": (ndcg, "dcg", True),
    "AP": (average_precision, "rel", True),
    "RR": (reciprocal_rank, "rel", True),
    "R": (recall, "rel", False),
    "P": (precision, "rel", False),
    "Success": (hit, "rel", False),
    "Judged": (judged_fraction, "", True),
}
_EXAMPLES = {"dcg": "[(dcg='exp-log2')]", "rel": "[(rel=2)]", "": ""}
_GAINS = {"log2": "linear", "exp-log2": "exponential"}
_NAME = re.compile(
    r"(?P<family>\w+)(?:\((?:rel=(?P<rel>[1-9]\d*)|dcg=(?P<quote>['\"])(?P<dcg>log2|exp-log2)(?P=quote))\))?"
    r"(?:@(?P<k>[1-9]\d*))?"
)


def _measure(name: str) -> Callable[[Sequence[str], Mapping[str, int]], float]:
    match = _NAME.fullmatch(name)
    if match and match["family"] in _FAMILIES:
        measure, option, whole = _FAMILIES[match["family"]]
        given = "rel" if match["rel"] else "dcg" if match["dcg"] else ""
        if given in ("", option) and (match["k"] or whole):
            settings: dict[str, int | str] = {}
            if match["k"]:
                settings["k"] = int(match["k"])
            if match["rel"]:
                settings["relevant_from"] = int(match["rel"])
            if match["dcg"]:
                settings["gain"] = _GAINS[match["dcg"]]
            return partial(measure, **settings)
    known = ", ".join(
        f"{family}{_EXAMPLES[option]}{'[@10]' if whole else '@10'}" for family, (_, option, whole) in _FAMILIES.items()
    )
    raise ValueError(f"unknown metric {name!r}; known, where [] may be left out: {known}")


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} is {value!r}: expected an int of at least 1")


def _first(ranked: Sequence[str], k: int | None) -> Sequence[str]:
    if isinstance(ranked, (str, Mapping)):
        hint = "; for scores, use ranked_from_scores" if isinstance(ranked, Mapping) else ""
        raise ValueError(f"a ranking is a {type(ranked).__name__}: expected a sequence of document ids{hint}")
    if k is not None:
        _check_positive("k", k)
    seen: set[str] = set()
    for document in ranked:
        if document in seen:
            raise ValueError(f"document {document!r} is ranked twice: expected each at most once")
        seen.add(document)
    return ranked[:k]


def _relevant_ranks(ranked: Sequence[str], judged: Mapping[str, int], k: int | None, relevant_from: int) -> list[int]:
    _check_positive("relevant_from", relevant_from)
    top = enumerate(_first(ranked, k), start=1)
    return [rank for rank, document in top if judged.get(document, 0) >= relevant_from]


def _relevant_count(judged: Mapping[str, int], relevant_from: int) -> int:
    return sum(grade >= relevant_from for grade in judged.values())


def _dcg(grades: Iterable[int], *, highest: int, gain: Gain) -> float:
    """Return the discounted sum; exponential gains are in units of 2**highest, or grades > 1023 would overflow."""
    offset = 2.0**-highest
    return math.fsum(
        (grade if gain == "linear" else 2.0 ** (grade - highest) - offset) / math.log2(rank + 1)
        for rank, grade in enumerate(grades, start=1)
        if grade > 0
    )
