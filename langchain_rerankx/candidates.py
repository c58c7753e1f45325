"""How many documents a retriever is asked for, and how many it returns by itself."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeGuard

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.vectorstores import VectorStoreRetriever

if TYPE_CHECKING:
    from langchain_core.runnables.configurable import DynamicRunnable

Retriever = Runnable[str, list[Document]]

logger = logging.getLogger("langchain_rerankx")

# What retrievers call the number of documents that they return; the last is that of a reranking one, ours included.
_KNOBS = ("k", "top_k", "top_n")


def asking_for(n: int, retriever: Retriever) -> tuple[Retriever, dict[str, Any]]:
    """Return a retriever, and the keywords to invoke it with, so that it returns n documents. The one given stays as it is.

    Raises:
        ValueError: It has nothing that says how many.
    """
    if isinstance(retriever, RunnableBindingBase):
        bound, keywords = asking_for(n, retriever.bound)
        same = bound is retriever.bound
        return (retriever if same else retriever.model_copy(update={"bound": bound})), keywords
    if is_dynamic(retriever):
        default, keywords = asking_for(n, retriever.default)
        same = default is retriever.default
        return (retriever if same else retriever.model_copy(update={"default": default})), keywords
    if _takes_k_per_call(retriever):
        _hint_at_fetch_k(n, retriever)
        return retriever, {"k": n}
    if isinstance(retriever, BaseRetriever):
        if knob := _knob(retriever):
            return retriever.model_copy(update={knob: n}), {}
        if (search := _search_kwargs(retriever)) is not None:
            return retriever.model_copy(update={"search_kwargs": {**search, "k": n}}), {}
    raise ValueError(
        f"candidates={n} cannot be passed on: {type(retriever).__name__} has no field k or top_k{_its_numbers(retriever)}."
        f" Have it return {n} documents by its own means, and leave candidates out"
    )


def is_dynamic(runnable: object) -> TypeGuard[DynamicRunnable[Any, Any]]:
    """Return whether it has configurable fields or alternatives."""
    from langchain_core.runnables.configurable import DynamicRunnable  # 5 ms: not with the import of this package

    return isinstance(runnable, DynamicRunnable)


def own_number(retriever: Retriever) -> int | None:
    """Return how many documents the retriever is set to return; None if it does not say."""
    number: object = None
    if isinstance(retriever, RunnableBindingBase):
        number = retriever.kwargs.get("k")
        return number if isinstance(number, int) else own_number(retriever.bound)
    if is_dynamic(retriever):
        return own_number(retriever.default)
    if isinstance(retriever, BaseRetriever):
        if knob := _knob(retriever):
            number = getattr(retriever, knob)
        elif (search := _search_kwargs(retriever)) is not None:
            search_of = getattr(getattr(retriever, "vectorstore", None), "similarity_search", None)
            default = inspect.signature(search_of).parameters.get("k") if search_of else None
            number = search.get("k", default.default if default else None)
    return number if isinstance(number, int) else None


@lru_cache(maxsize=1024)  # once per process for the same numbers: a retriever may be made anew with every request
def hint_at_nothing_to_choose_from(asked: int, kept: int) -> None:
    """Log, the first time, that reranking can only reorder."""
    logger.warning(
        "nothing to choose from: the retriever is asked for %d documents and %d are kept, so reranking can only reorder them;"
        " pass a larger candidates=, such as %d", asked, kept, 10 * kept,
    )  # fmt: skip


@lru_cache(maxsize=1024)
def hint_at_fewer_than_asked(reranker: str, number: int, top_n: int) -> None:
    """Log, the first time, that a reranker which decides for itself returns fewer than are asked for."""
    logger.warning("%s keeps top_n=%d by itself, fewer than top_n=%d: set its own", reranker, number, top_n)


def _hint_at_fetch_k(n: int, retriever: VectorStoreRetriever) -> None:
    if retriever.search_type == "mmr":
        fetch_k = retriever.search_kwargs.get("fetch_k", 20)  # LangChain's default
        if isinstance(fetch_k, int) and fetch_k < n:
            _log_fetch_k(n, fetch_k)


@lru_cache(maxsize=1024)
def _log_fetch_k(n: int, fetch_k: int) -> None:
    logger.warning(
        "candidates=%d, but maximal marginal relevance chooses among fetch_k=%d documents and returns no more: set"
        " search_kwargs={'fetch_k': ...} on the retriever", n, fetch_k,
    )  # fmt: skip


def _takes_k_per_call(retriever: Retriever) -> TypeGuard[VectorStoreRetriever]:
    """Return whether keywords of a call reach the vector store, which a subclass with methods of its own may not do."""
    return isinstance(retriever, VectorStoreRetriever) and all(
        getattr(type(retriever), name) is getattr(VectorStoreRetriever, name)
        for name in ("_get_relevant_documents", "_aget_relevant_documents")
    )


def _knob(retriever: BaseRetriever) -> str | None:
    return next((name for name in _KNOBS if name in type(retriever).model_fields), None)


def _search_kwargs(retriever: BaseRetriever) -> Mapping[str, Any] | None:
    search = getattr(retriever, "search_kwargs", None)
    return search if isinstance(search, Mapping) else None


def _its_numbers(retriever: Retriever) -> str:
    """Return " (but ...)" with the fields that may say how many, if there are any."""
    fields = getattr(type(retriever), "model_fields", {})
    numbers = [name for name in fields if type(getattr(retriever, name, None)) is int]
    return f" (but {', '.join(numbers)})" if numbers else ""
