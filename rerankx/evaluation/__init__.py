"""Measure rankings against judgements."""

from rerankx.evaluation.metrics import (
    average_precision,
    evaluate,
    evaluate_per_query,
    hit,
    judged_fraction,
    ndcg,
    precision,
    ranked_from_scores,
    recall,
    reciprocal_rank,
)

__all__ = [
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
