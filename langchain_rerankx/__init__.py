"""rerankx in LangChain: one line added to an existing chain.

    from langchain_rerankx import rerank

    retriever = rerank(retriever, top_n=5)

`rerank` returns a retriever that takes the place of yours. `Reranker` is the step alone: a Runnable of {"query", "documents"} and
a document compressor.
"""

from __future__ import annotations

try:
    import langchain_core  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "langchain_core":  # it is there, but broken: its own words say more than ours could
        raise
    from rerankx import MissingDependencyError

    raise MissingDependencyError("langchain_rerankx", ["langchain_core"], "pip install 'rerankx[langchain]'") from error

from langchain_rerankx.reranker import Reranker, RerankInput
from langchain_rerankx.retriever import RerankRetriever, rerank

__all__ = ["RerankInput", "RerankRetriever", "Reranker", "rerank"]
