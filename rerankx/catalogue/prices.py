"""What providers charge for reranking: published prices, each with its source and date."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars; None where that is not what is charged for."""

    per_search_unit: float | None = None
    """One unit is a query with up to 100 documents."""
    per_million_tokens: float | None = None
    """10^6 tokens read."""
    per_million_output_tokens: float | None = None
    """10^6 tokens written, by a language model."""
    source: str = ""
    """Where it was read."""
    read: str = ""
    """When, as an ISO date."""


_COHERE_LISTED = "https://github.com/BerriAI/litellm (its list of prices, which cites https://cohere.com/pricing)"
_COHERE_5_LISTED = (
    "https://github.com/BerriAI/litellm (its list of prices, which cites https://cohere.com/blog/rerank-5)"
)
_FIREWORKS_LISTED = (
    "https://github.com/BerriAI/litellm (its list of prices, which cites https://api.fireworks.ai/v1/serverless/models)"
)
_JINA_LISTED = "https://github.com/BerriAI/litellm (its list of prices, which cites https://api.jina.ai/v1/models)"
_VOYAGE_LISTED = (
    "https://github.com/BerriAI/litellm (its list of prices, which cites https://docs.voyageai.com/docs/pricing)"
)

PRICES: Mapping[str, Price] = {
    "cohere:rerank-v3.5": Price(
        per_search_unit=0.002, source="https://github.com/BerriAI/litellm (its list of prices)", read="2026-11-23"
    ),
    "cohere:rerank-v4.0-fast": Price(per_search_unit=0.002, source=_COHERE_LISTED, read="2026-11-23"),
    "cohere:rerank-v4.0-pro": Price(per_search_unit=0.0025, source=_COHERE_LISTED, read="2026-11-23"),
    "cohere:rerank-v5.0-fast": Price(per_million_tokens=0.02, source=_COHERE_5_LISTED, read="2026-11-23"),
    "cohere:rerank-v5.0-pro": Price(per_million_tokens=0.05, source=_COHERE_5_LISTED, read="2026-11-23"),
    "dashscope:qwen3-rerank": Price(
        per_million_tokens=0.069,  # Beijing, where the preset asks; Singapore takes 0.1
        source="https://www.alibabacloud.com/help/en/model-studio/qwen3-rerank",
        read="2026-11-23",
    ),
    "deepinfra:Qwen/Qwen3-Reranker-0.6B": Price(
        per_million_tokens=0.01, source="https://deepinfra.com/Qwen/Qwen3-Reranker-0.6B/api", read="2026-11-23"
    ),
    "deepinfra:Qwen/Qwen3-Reranker-8B": Price(
        per_million_tokens=0.05, source="https://deepinfra.com/Qwen/Qwen3-Reranker-8B/api", read="2026-11-23"
    ),
    "deepinfra:nvidia/Nemotron-3.5-Rerank-8B-BF16": Price(
        per_million_tokens=0.05,
        source="https://deepinfra.com/nvidia/Nemotron-3.5-Rerank-8B-BF16/api",
        read="2026-11-23",
    ),
    "fireworks:accounts/fireworks/models/qwen3-reranker-8b": Price(
        per_million_tokens=0.2, source=_FIREWORKS_LISTED, read="2026-11-23"
    ),
    "jina-api:jina-reranker-v2-base-multilingual": Price(
        per_million_tokens=0.05, source=_JINA_LISTED, read="2026-11-23"
    ),
    "mixedbread:mixedbread-ai/mxbai-rerank-base-v2": Price(
        per_million_tokens=0.15,
        source="https://www.mixedbread.com/docs/reranking/models/mxbai-rerank-base-v2",
        read="2026-11-23",
    ),
    "mixedbread:mixedbread-ai/mxbai-rerank-large-v2": Price(
        per_million_tokens=0.15,
        source="https://www.mixedbread.com/docs/reranking/models/mxbai-rerank-large-v2",
        read="2026-11-23",
    ),
    "openrouter:cohere/rerank-5-fast": Price(
        per_million_tokens=0.02, source="https://openrouter.ai/models/cohere/rerank-5-fast-20261028", read="2026-11-23"
    ),
    "voyage:rerank-2.5": Price(per_million_tokens=0.05, source=_VOYAGE_LISTED, read="2026-11-23"),
    "voyage:rerank-2.5-lite": Price(per_million_tokens=0.02, source=_VOYAGE_LISTED, read="2026-11-23"),
    "voyage:rerank-3": Price(per_million_tokens=0.05, source=_VOYAGE_LISTED, read="2026-11-23"),
    "voyage:rerank-3-lite": Price(per_million_tokens=0.02, source=_VOYAGE_LISTED, read="2026-11-23"),
    "zeroentropy:zerank-2": Price(
        per_million_tokens=0.025, source="https://docs.zeroentropy.dev/models", read="2026-11-23"
    ),
}
"""By "provider:model"; the provider is the name of a backend."""
