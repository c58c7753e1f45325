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

# What retrievers call the number of documents that they return.
KNOBS = ("k", "top_k")


def asking_for(n: int, retriever: Retriever) -> tuple[Retriever, dict[str, Any]]:
    """Return a retriever, and the keywords to invoke it with, so that it returns n documents. The one given stays as it is.

    Raises:
        ValueError: It has nothing that says how many.
    """
    if isinstance(retriever, RunnableBindingBase):
        bound, keywords = asking_for(n, retriever.bound)
        if bound is retriever.bound:
            return retriever, keywords
        kwargs = {name: value for name, value in retriever.kwargs.items() if name not in (*KNOBS, "top_n")}
        return retriever.model_copy(update={"bound": bound, "kwargs": kwargs}), keywords
    if is_dynamic(retriever):
        default, keywords = asking_for(n, retriever.default)
        same = default is retriever.default
        return (retriever if same else retriever.model_copy(update={"default": default})), keywords
    if _takes_k_per_call(retriever):
        return retriever, {"k": n}
    if isinstance(retriever, BaseRetriever):
        if knob := _knob(retriever):
            return retriever.model_copy(update={knob: n}), {}
        if (search := _search_kwargs(retriever)) is not None:
            return retriever.model_copy(update={"search_kwargs": {**search, "k": n}}), {}
        if _is_reranking(retriever):
            return retriever.model_copy(update={"top_n": n, "candidates": _at_least(n, retriever)}), {}
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
        said = (retriever.kwargs.get(name) for name in (*KNOBS, "top_n"))
        number = next((value for value in said if value is not None), None)
        return own_number(retriever.bound) if number is None else _whole(number)
    if is_dynamic(retriever):
        return own_number(retriever.default)
    if isinstance(retriever, BaseRetriever):
        if knob := _knob(retriever):
            number = getattr(retriever, knob)
        elif (search := _search_kwargs(retriever)) is not None:
            number = search.get("k", _default_k(retriever))
        elif _is_reranking(retriever):
            return _own_number_of_reranking(retriever)
    return _whole(number)


class Copies:
    """Keeps the copy that was made of a retriever, and with it what the copy has connected to or loaded since.

    It says nothing about what a retriever is: any two are equal, and it is left behind by pickles and copies.
    """

    def __init__(self) -> None:
        self._kept: tuple[object, tuple[Retriever, dict[str, Any]]] | None = None

    def asking_for(self, n: int, retriever: Retriever) -> tuple[Retriever, dict[str, Any]]:
        """Return what `asking_for` returns; the same as before, as long as every field of the retriever is the same object."""
        if not (isinstance(retriever, BaseRetriever) and _knob(retriever)):
            return asking_for(n, retriever)
        state = (n, id(retriever), {name: id(value) for name, value in vars(retriever).items()})
        kept = self._kept
        if kept is None or kept[0] != state:
            kept = self._kept = (state, asking_for(n, retriever))
        return kept[1]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Copies)

    def __hash__(self) -> int:
        return hash(Copies)

    def __reduce__(self) -> tuple[type[Copies], tuple[()]]:
        return Copies, ()


def most_to_choose_from(retriever: Retriever, asked: Mapping[str, Any]) -> int | None:
    """Return among how many documents a search for diversity chooses, and so the most it returns; None without such a search.

    Args:
        retriever: The retriever.
        asked: The keywords that it is invoked with.
    """
    if isinstance(retriever, RunnableBindingBase):
        return most_to_choose_from(retriever.bound, {**retriever.kwargs, **asked})
    if getattr(retriever, "search_type", None) != "mmr":
        return None
    search = {**(_search_kwargs(retriever) or {}), **asked}
    return _whole(search.get("fetch_k", 20))  # LangChain's default


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


@lru_cache(maxsize=1024)
def hint_at_fetch_k(candidates: int, fetch_k: int) -> None:
    """Log, the first time, that a search for diversity returns fewer than are asked for."""
    logger.warning(
        "candidates=%d, but maximal marginal relevance chooses among fetch_k=%d documents and returns no more: set"
        " search_kwargs={'fetch_k': ...} on the retriever", candidates, fetch_k,
    )  # fmt: skip


def _takes_k_per_call(retriever: Retriever) -> TypeGuard[VectorStoreRetriever]:
    """Return whether keywords of a call reach the vector store, which a subclass with methods of its own may not do."""
    return isinstance(retriever, VectorStoreRetriever) and all(
        getattr(type(retriever), name) is getattr(VectorStoreRetriever, name)
        for name in ("_get_relevant_documents", "_aget_relevant_documents")
    )


def _knob(retriever: BaseRetriever) -> str | None:
    """Return the field that says how many; of several the one that is set."""
    there = [name for name in KNOBS if name in type(retriever).model_fields]
    return next((name for name in there if getattr(retriever, name) is not None), there[0] if there else None)


def _is_reranking(retriever: BaseRetriever) -> bool:
    """Return whether it is a `RerankRetriever`, which is defined over this module."""
    return {"base_retriever", "reranker", "candidates", "top_n"} <= type(retriever).model_fields.keys()


def _own_number_of_reranking(retriever: Any) -> int | None:
    number = getattr(retriever.reranker, "top_n", None) if retriever.top_n is None else retriever.top_n
    return own_number(retriever.base_retriever) if number is None else _whole(number)


def _at_least(n: int, retriever: Any) -> int | None:
    """Return how many a reranking retriever has to ask for to return n; None if it cannot ask."""
    try:
        asking_for(n, retriever.base_retriever)
    except ValueError:
        return None
    return n if retriever.candidates is None else max(n, _whole(retriever.candidates) or n)


def _default_k(retriever: Any) -> object:
    """Return how many documents the vector store of a retriever returns if it is not told."""
    diverse = getattr(retriever, "search_type", None) == "mmr"
    name = "max_marginal_relevance_search" if diverse else "similarity_search"
    search = getattr(getattr(retriever, "vectorstore", None), name, None)
    parameter = inspect.signature(search).parameters.get("k") if search else None
    return parameter.default if parameter else None


def _whole(number: object) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _search_kwargs(retriever: object) -> Mapping[str, Any] | None:
    search = getattr(retriever, "search_kwargs", None)
    return search if isinstance(search, Mapping) else None


def _its_numbers(retriever: Retriever) -> str:
    """Return " (but ...)" with the fields that may say how many, if there are any."""
    fields = getattr(type(retriever), "model_fields", {})
    numbers = [name for name in fields if type(getattr(retriever, name, None)) is int]
    return f" (but {', '.join(numbers)})" if numbers else ""
