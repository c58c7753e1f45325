"""`RerankRetriever`, a retriever whose nodes are reranked, and `rerank`, which adds reranking to what exists."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, TypeVar, cast, overload

from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine.types import BaseChatEngine
from llama_index.core.indices.base import BaseIndex
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.prompts.mixin import PromptMixinType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from llamaindex_rerankx.postprocessor import Rerank
from rerankx import Backend, Reranker

Engine = TypeVar("Engine", bound=RetrieverQueryEngine)

dispatcher = get_dispatcher(__name__)


class RerankRetriever(BaseRetriever):
    """Retrieves with another retriever, then reranks: for every place that takes a retriever and no postprocessors.

    Args:
        retriever: Brings the candidates.
        postprocessor: A ready postprocessor, or what `Rerank` takes as its backend.
        top_n: As in `Rerank`; not with a ready postprocessor.
        callback_manager: Receives the events; None = that of `retriever`, while a ready postprocessor keeps its own.
        **options: As in `Rerank`; not with a ready postprocessor.
    """

    def __init__(
        self,
        retriever: BaseRetriever,
        postprocessor: str | Backend | Reranker | BaseNodePostprocessor = "embedded",
        *,
        top_n: int | None = None,
        callback_manager: CallbackManager | None = None,
        **options: object,
    ) -> None:
        if not isinstance(retriever, BaseRetriever):
            raise _refusal(retriever)
        # A retriever whose __init__ does not call LlamaIndex's has none.
        manager = callback_manager or getattr(retriever, "callback_manager", None) or CallbackManager()
        self._retriever = retriever
        self._postprocessor = _postprocessor(postprocessor, top_n, options)
        if callback_manager is not None or self._postprocessor is not postprocessor:
            self._postprocessor.callback_manager = manager
        super().__init__(callback_manager=manager)

    @property
    def retriever(self) -> BaseRetriever:
        """Return what brings the candidates."""
        return self._retriever

    @property
    def postprocessor(self) -> BaseNodePostprocessor:
        """Return what reranks them."""
        return self._postprocessor

    def _get_prompt_modules(self) -> PromptMixinType:
        return {"retriever": self._retriever}

    # What a node stands for has been looked up by the inner retriever; LlamaIndex would do so again, behind the reranker.
    def _handle_recursive_retrieval(self, query_bundle: QueryBundle, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return nodes

    async def _ahandle_recursive_retrieval(
        self, query_bundle: QueryBundle, nodes: list[NodeWithScore]
    ) -> list[NodeWithScore]:
        return nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = self._retriever.retrieve(query_bundle)
        return self._postprocessor.postprocess_nodes(nodes, query_bundle)

    # LlamaIndex gives a span to implementations of abstract methods only, which this is not.
    @dispatcher.span
    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        nodes = await self._retriever.aretrieve(query_bundle)
        return await self._postprocessor.apostprocess_nodes(nodes, query_bundle)


@overload
def rerank(
    target: Engine,
    backend: str | Backend | Reranker | BaseNodePostprocessor = ...,
    *,
    top_n: int | None = ...,
    candidates: int | None = ...,
    **options: object,
) -> Engine: ...
@overload
def rerank(
    target: BaseRetriever,
    backend: str | Backend | Reranker | BaseNodePostprocessor = ...,
    *,
    top_n: int | None = ...,
    candidates: int | None = ...,
    **options: object,
) -> RerankRetriever: ...
@overload
def rerank(
    target: BaseQueryEngine,
    backend: str | Backend | Reranker | BaseNodePostprocessor = ...,
    *,
    top_n: int | None = ...,
    candidates: int | None = ...,
    **options: object,
) -> BaseQueryEngine: ...
def rerank(
    target: BaseRetriever | BaseQueryEngine,
    backend: str | Backend | Reranker | BaseNodePostprocessor = "embedded",
    *,
    top_n: int | None = None,
    candidates: int | None = None,
    **options: object,
) -> RerankRetriever | BaseQueryEngine:
    """Return the retriever or query engine with reranking added; the one given is not changed.

    An engine keeps its class and its postprocessors; the reranker comes after them. It shares its synthesizer, prompts included,
    with the engine given, and a ready postprocessor then reports to the engine's callbacks, as in every engine of LlamaIndex.

    Args:
        target: A retriever, or a `RetrieverQueryEngine` such as `index.as_query_engine()` returns.
        backend: As in `Rerank`, or any ready postprocessor.
        top_n: As in `Rerank`. With `candidates` and without `top_n`, as many as the retriever was asked for until now.
        candidates: How many nodes to ask the retriever for, at least 1: the `similarity_top_k` of a copy of it. Where it, or
            the engine, reranks already: how many that reranker keeps. A BM25 retriever is asked for no more than it holds.
        **options: As in `Rerank`.

    Raises:
        TypeError: Neither a retriever nor a `RetrieverQueryEngine`, or `candidates` for a retriever that has no
            `similarity_top_k`; the message says what to do. Or as in `Rerank`.
        ValueError: `candidates` below 1, or as in `Rerank`.
    """
    if isinstance(target, BaseRetriever):
        retriever, before = target, []
    elif isinstance(target, RetrieverQueryEngine):
        retriever, before = target.retriever, _postprocessors_of(target)
    else:
        raise _refusal(target)
    if candidates is not None:
        own = _own_number(retriever)
        if before and hasattr(before[-1], "top_n"):
            # The engine reranks already, and what that keeps are the candidates.
            own = own if before[-1].top_n is None else before[-1].top_n
            retriever, last = _keeping_more(retriever, before[-1], _checked_candidates(candidates))
            before = [*before[:-1], last]
        else:
            retriever = _widened(retriever, candidates)
        if top_n is None and not isinstance(backend, BaseNodePostprocessor):
            top_n = own
    if isinstance(target, BaseRetriever):
        return RerankRetriever(retriever, backend, top_n=top_n, **options)  # type: ignore[arg-type]
    return _reranked_engine(target, retriever, [*before, _postprocessor(backend, top_n, options)])


def _postprocessor(
    backend: str | Backend | Reranker | BaseNodePostprocessor, top_n: int | None, options: Mapping[str, object]
) -> BaseNodePostprocessor:
    if not isinstance(backend, BaseNodePostprocessor):
        return Rerank(backend, top_n=top_n, **options)  # type: ignore[arg-type]
    given = [*([] if top_n is None else ["top_n"]), *sorted(options)]
    if given:
        raise TypeError(f"{', '.join(given)} given with a ready {type(backend).__name__}; pass them to its constructor")
    return backend


def _widened(retriever: BaseRetriever, candidates: int) -> BaseRetriever:
    """Return a copy of the retriever that brings `candidates` nodes."""
    candidates = _checked_candidates(candidates)
    if isinstance(retriever, RerankRetriever):
        return _reranking_more(retriever, candidates)
    wider: Any = copy.copy(retriever)
    before = getattr(retriever, "similarity_top_k", None)
    try:
        if isinstance(retriever, QueryFusionRetriever):  # its own number only cuts what the retrievers inside it bring
            raise AttributeError
        wider.similarity_top_k  # noqa: B018  (it must be there: setting an attribute that nobody reads would do nothing)
        wider.similarity_top_k = min(candidates, _most(retriever))
        if getattr(retriever, "similarity_top_k", None) != before:  # it is that of a retriever inside, which both share
            wider.similarity_top_k = before
            raise AttributeError
        # What stores with a hybrid search return at most.
        if (bound := getattr(wider, "_hybrid_top_k", None)) is not None:
            wider._hybrid_top_k = max(bound, candidates)
    except AttributeError as error:
        raise TypeError(
            f"{type(retriever).__name__} has no similarity_top_k of its own that candidates={candidates} could set; leave"
            " candidates out and set how many nodes it brings where you build it (often the similarity_top_k of a"
            " retriever inside it)"
        ) from error
    return cast(BaseRetriever, wider)


def _checked_candidates(candidates: object) -> int:
    if isinstance(candidates, bool) or not isinstance(candidates, int):
        raise TypeError(f"candidates must be a whole number or None, not {candidates!r}")
    if candidates < 1:
        raise ValueError(f"candidates must be at least 1, not {candidates}")
    return candidates


def _own_number(retriever: BaseRetriever) -> int | None:
    """Return how many nodes the retriever is set to bring; None if it does not say."""
    if isinstance(retriever, RerankRetriever):
        top_n = getattr(retriever.postprocessor, "top_n", None)
        return _own_number(retriever.retriever) if top_n is None else top_n
    number = getattr(retriever, "similarity_top_k", None)
    return number if isinstance(number, int) else None


def _reranking_more(retriever: RerankRetriever, candidates: int) -> RerankRetriever:
    """Return a copy that keeps `candidates` nodes, and asks for at least as many where it can."""
    wider = copy.copy(retriever)
    wider._retriever, wider._postprocessor = _keeping_more(retriever.retriever, retriever.postprocessor, candidates)
    return wider


def _keeping_more(
    retriever: BaseRetriever, reranker: BaseNodePostprocessor, candidates: int
) -> tuple[BaseRetriever, BaseNodePostprocessor]:
    """Return copies of both, so that the reranker keeps `candidates` nodes and gets at least as many where that can be set."""
    if not hasattr(reranker, "top_n"):
        raise TypeError(
            f"{type(reranker).__name__} has no top_n for candidates={candidates} to set; leave candidates out"
        )
    kept = copy.copy(reranker)
    kept.top_n = candidates
    if isinstance(kept, Rerank):
        kept._warned = True  # of few candidates: this number is nobody's choice
    asked = _own_number(retriever)
    return (_widened(retriever, candidates) if asked is not None and asked < candidates else retriever), kept


def _most(retriever: object) -> float:
    """Return how many nodes a retriever can be asked for: LlamaIndex's BM25 raises when that is more than it holds."""
    scores = getattr(getattr(retriever, "bm25", None), "scores", None)
    return scores["num_docs"] if isinstance(scores, Mapping) and "num_docs" in scores else math.inf


def _postprocessors_of(engine: RetrieverQueryEngine) -> list[BaseNodePostprocessor]:
    if not hasattr(engine, "_node_postprocessors") or not hasattr(engine, "_retriever"):
        raise TypeError(
            f"this {type(engine).__name__} cannot be extended; build it with node_postprocessors=[Rerank(...)]"
        )
    return list(engine._node_postprocessors)


def _reranked_engine(
    engine: RetrieverQueryEngine, retriever: BaseRetriever, postprocessors: list[BaseNodePostprocessor]
) -> RetrieverQueryEngine:
    # A copy, not a new RetrieverQueryEngine: a subclass stays what it is. LlamaIndex has no public way to do it.
    reranked = copy.copy(engine)
    reranked._retriever = retriever
    reranked._node_postprocessors = postprocessors
    postprocessors[-1].callback_manager = engine.callback_manager
    return reranked


def _refusal(target: object) -> TypeError:
    if isinstance(target, BaseIndex):
        fix = "pass index.as_retriever() or index.as_query_engine()"
    elif isinstance(target, BaseQueryEngine):
        fix = "rerank the engine or the retriever inside it, or build it with node_postprocessors=[Rerank(...)]"
    elif isinstance(target, BaseChatEngine):
        fix = "build it with node_postprocessors=[Rerank(...)]"
    elif isinstance(target, list | tuple):
        fix = "for nodes, call Rerank(...).postprocess_nodes(nodes, query_str=...)"
    elif isinstance(target, BaseLLM):
        fix = 'write rerank(retriever, "listwise", llm=...)'
    else:
        fix = "pass a BaseRetriever or a RetrieverQueryEngine"
    return TypeError(f"{type(target).__name__} cannot be reranked: {fix}")
