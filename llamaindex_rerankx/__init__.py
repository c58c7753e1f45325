"""rerankx in LlamaIndex: a node postprocessor, a retriever, and one line that adds either to what exists.

>>> from llamaindex_rerankx import Rerank, rerank
>>> engine = index.as_query_engine(similarity_top_k=20, node_postprocessors=[Rerank(top_n=5)])
>>> engine = rerank(engine, top_n=5, candidates=20)  # an engine that exists already
>>> retriever = rerank(index.as_retriever(), top_n=5, candidates=20)
"""

from importlib.util import find_spec

from rerankx import MissingDependencyError


def _installed(package: str) -> bool:
    # Looked for, not imported: a llama-index-core that is there and broken then fails below, with its own error.
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # not even the parent
        return False


if not _installed("llama_index.core"):
    raise MissingDependencyError("llamaindex_rerankx", ["llama_index.core"], "pip install 'rerankx[llamaindex]'")

from llamaindex_rerankx.nodes import RerankedNode  # noqa: E402
from llamaindex_rerankx.postprocessor import Rerank  # noqa: E402
from llamaindex_rerankx.retriever import RerankRetriever, rerank  # noqa: E402

__all__ = ["Rerank", "RerankRetriever", "RerankedNode", "rerank"]
