"""`llamaindex_rerankx` under the name that LlamaIndex's integrations have; nothing is defined here."""

from llamaindex_rerankx import Rerank, RerankedNode, RerankRetriever, rerank

__all__ = ["Rerank", "RerankRetriever", "RerankedNode", "rerank"]
