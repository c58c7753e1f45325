"""rerankx: the reranking layer for retrieval-augmented generation.

    >>> from rerankx import Reranker
    >>> ranking = Reranker().rerank("how do I get my money back?", passages, top_n=5)
    >>> ranking[0].document, ranking[0].score

Importing it imports no third-party package; names are resolved on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rerankx.compose.cached import Cached as Cached
    from rerankx.compose.calibrated import Calibrated as Calibrated
    from rerankx.compose.cascade import Cascade as Cascade
    from rerankx.compose.fallback import Fallback as Fallback
    from rerankx.compose.floor import Floor as Floor
    from rerankx.compose.fused import Fusion as Fusion
    from rerankx.compose.stores import DiskStore as DiskStore
    from rerankx.compose.stores import MemoryStore as MemoryStore
    from rerankx.compose.stores import Store as Store
    from rerankx.compose.windowed import Windowed as Windowed
    from rerankx.errors import AuthenticationError as AuthenticationError
    from rerankx.errors import BackendError as BackendError
    from rerankx.errors import BudgetError as BudgetError
    from rerankx.errors import DeadlineError as DeadlineError
    from rerankx.errors import MissingDependencyError as MissingDependencyError
    from rerankx.errors import ModelNotFoundError as ModelNotFoundError
    from rerankx.errors import OptionError as OptionError
    from rerankx.errors import RateLimitError as RateLimitError
    from rerankx.errors import ReplyError as ReplyError
    from rerankx.errors import RerankxError as RerankxError
    from rerankx.errors import SpecError as SpecError
    from rerankx.errors import UnknownBackendError as UnknownBackendError
    from rerankx.interface import Attempt as Attempt
    from rerankx.interface import Backend as Backend
    from rerankx.interface import Scale as Scale
    from rerankx.interface import Scores as Scores
    from rerankx.interface import Usage as Usage
    from rerankx.long_documents import arerank_then_chunk as arerank_then_chunk
    from rerankx.long_documents import rerank_then_chunk as rerank_then_chunk
    from rerankx.ranking import Hit as Hit
    from rerankx.ranking import Ranking as Ranking
    from rerankx.reranker import Reranker as Reranker
    from rerankx.reranker import Step as Step
    from rerankx.session import RerankSession as RerankSession
    from rerankx.spec import from_spec as from_spec
    from rerankx.spec import to_spec as to_spec
    from rerankx.structured import as_yaml as as_yaml

__version__ = "0.1.0"

_HOMES = {
    "rerankx.compose.cached": ("Cached",),
    "rerankx.compose.calibrated": ("Calibrated",),
    "rerankx.compose.cascade": ("Cascade",),
    "rerankx.compose.fallback": ("Fallback",),
    "rerankx.compose.floor": ("Floor",),
    "rerankx.compose.fused": ("Fusion",),
    "rerankx.compose.stores": ("DiskStore", "MemoryStore", "Store"),
    "rerankx.compose.windowed": ("Windowed",),
    "rerankx.errors": (
        "AuthenticationError",
        "BackendError",
        "BudgetError",
        "DeadlineError",
        "MissingDependencyError",
        "ModelNotFoundError",
        "OptionError",
        "RateLimitError",
        "ReplyError",
        "RerankxError",
        "SpecError",
        "UnknownBackendError",
    ),
    "rerankx.interface": ("Attempt", "Backend", "Scale", "Scores", "Usage"),
    "rerankx.long_documents": ("arerank_then_chunk", "rerank_then_chunk"),
    "rerankx.ranking": ("Hit", "Ranking"),
    "rerankx.reranker": ("Reranker", "Step"),
    "rerankx.session": ("RerankSession",),
    "rerankx.spec": ("from_spec", "to_spec"),
    "rerankx.structured": ("as_yaml",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - a list, from the one table of names


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'rerankx' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
