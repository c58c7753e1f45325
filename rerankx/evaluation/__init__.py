"""Measure rankings against judgements, and find out which reranker helps on data of your own.

from rerankx.evaluation import advise, compare, load

print(advise("my-collection", budget_ms=100))
print(compare(["embedded", "minilm"], load("my-collection")))
"""

from rerankx.evaluation.advising import Advice, advise
from rerankx.evaluation.calibration import Calibrator, brier_score, calibration_error, reliability
from rerankx.evaluation.choosing import Choice
from rerankx.evaluation.comparing import Compared, System, compare
from rerankx.evaluation.configurations import Ceiling, Configuration
from rerankx.evaluation.datasets import (
    Candidate,
    Dataset,
    from_beir,
    from_candidates,
    from_llama_index,
    from_table,
    from_trec,
    load,
    read_qrels,
    read_run,
    with_retriever,
    write_run,
)
from rerankx.evaluation.labels import Agreement, Labels, label
from rerankx.evaluation.loads import Cold, Load
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
from rerankx.evaluation.scoring import QueryScores, Scoring, score
from rerankx.evaluation.statistics import (
    Comparison,
    bootstrap_interval,
    compare_paired,
    effect_size,
    holm,
    minimum_detectable_effect,
    queries_needed,
    sign_flip,
    win_tie_loss,
)

__all__ = [
    "Advice",
    "Agreement",
    "Calibrator",
    "Candidate",
    "Ceiling",
    "Choice",
    "Cold",
    "Compared",
    "Comparison",
    "Configuration",
    "Dataset",
    "Labels",
    "Load",
    "QueryScores",
    "Scoring",
    "System",
    "advise",
    "average_precision",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "compare",
    "compare_paired",
    "effect_size",
    "evaluate",
    "evaluate_per_query",
    "from_beir",
    "from_candidates",
    "from_llama_index",
    "from_table",
    "from_trec",
    "hit",
    "holm",
    "judged_fraction",
    "label",
    "load",
    "minimum_detectable_effect",
    "ndcg",
    "precision",
    "queries_needed",
    "ranked_from_scores",
    "read_qrels",
    "read_run",
    "recall",
    "reciprocal_rank",
    "reliability",
    "score",
    "sign_flip",
    "win_tie_loss",
    "with_retriever",
    "write_run",
]
