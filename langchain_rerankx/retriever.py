"""`rerank(retriever, ...)`: the retriever that you have, with a reranker behind it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    BaseCallbackManager,
    CallbackManagerForRetrieverRun,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda, ensure_config
from langchain_core.runnables.base import RunnableBindingBase
from langchain_core.runnables.config import merge_configs
from langchain_core.runnables.utils import ConfigurableFieldSpec, get_unique_config_specs
from pydantic import BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema, model_validator

import rerankx
from langchain_rerankx.candidates import (
    KNOBS,
    Copies,
    asking_for,
    hint_at_fetch_k,
    hint_at_fewer_than_asked,
    hint_at_nothing_to_choose_from,
    is_dynamic,
    most_to_choose_from,
    own_number,
)
from langchain_rerankx.reranker import (
    Number,
    Reranker,
    RerankInput,
    is_language_model,
    not_default,
    refuse_language_model,
)


def rerank(
    retriever: Runnable[str, list[Document]] | Callable[[str], Iterable[Document] | Awaitable[Iterable[Document]]],
    reranker: str
    | rerankx.Backend
    | rerankx.Reranker
    | BaseDocumentCompressor
    | Runnable[RerankInput, list[Document]] = "embedded",
    *,
    model: str | None = None,
    fallback: str | rerankx.Backend | Sequence[str | rerankx.Backend] | None = None,
    top_n: int | None = None,
    candidates: int | None = None,
    min_score: float | None = None,
    key: Callable[[Document], str] | None = None,
    on_error: Literal["raise", "input_order"] = "raise",
    deadline_s: float | None = None,
    name: str | None = None,
    tags: Sequence[str] | None = None,
    metadata: Mapping[str, object] | None = None,
    score_key: str | None = "relevance_score",
    retrieval_score: Callable[[Document], float | None] | None = None,
    after: Sequence[rerankx.Step] = (),
    on_ranking: Callable[[rerankx.Ranking[Document]], object] | None = None,
    **options: object,
) -> RerankRetriever:
    """Return a retriever that asks `retriever` and puts the best of its documents first.

        retriever = rerank(retriever, top_n=5, candidates=50)
        retriever = rerank(retriever, "listwise", llm=ChatOpenAI(model="gpt-6-luna"), top_n=5, candidates=20)

    It takes the place of `retriever` wherever that stood. Name, tags and retries are arguments here, or belong on `retriever`:
    what `with_config()` and its kind return is no longer a retriever to those who ask for one.

    Args:
        retriever: A retriever, any Runnable from a query to documents, or a function of the query.
        reranker: A backend's name such as "embedded" or "backend:model", a `rerankx.Backend`, a `rerankx.Reranker`, a `Reranker`,
            or another package's document compressor or Runnable of {"query", "documents"}.
        model: Which of the backend's models, where the name does not say.
        fallback: Who is asked where the backend fails: a name, a `rerankx.Backend`, or several of them in their order.
        top_n: Keep that many, at least 1. None = as many as the reranker keeps; with `candidates`, as many as `retriever`
            returned without it.
        candidates: How many to ask `retriever` for, at least 1; None leaves it alone.
        min_score: Keep those with at least this score, in [0, 1]; applied before `top_n`.
        key: Returns the text that is scored; None scores `page_content`.
        on_error: What a failed backend, behind which no fallback answers, does: raise, or leave the documents in their order,
            with score 0.0.
        deadline_s: Seconds for one reranking; None = no bound.
        name: The name of its run in a trace.
        tags: Tags of its runs.
        metadata: Metadata of its runs.
        score_key: Where the score goes in the metadata, over what is there; None writes none.
        retrieval_score: Returns the score that a document came with, higher is better: for backends that take the retriever into
            account. None: by their order alone.
        after: Functions of a `rerankx.Ranking`, applied before it is cut to `top_n`, such as those of `rerankx.after`.
        on_ranking: Called with every `rerankx.Ranking`.
        **options: The backend's own options, such as the `llm` of "listwise" and "judge". They and `model` need a name; a
            `rerankx.Reranker` also has its own `fallback`, `on_error`, `deadline_s`, `after` and `on_ranking`; any other reranker
            has all settings of its own, and only `top_n` cuts what it returns.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: The backend needs a package that is not installed.
        TypeError: Not a retriever, not a reranker, an unknown option, or a setting for an object that has its own.
        ValueError: An argument out of its range, or `candidates` for a retriever that cannot be asked for a number.
    """
    settings = not_default(
        {
            "model": model,
            "fallback": fallback,
            "min_score": min_score,
            "key": key,
            "on_error": on_error,
            "deadline_s": deadline_s,
            "score_key": score_key,
            "retrieval_score": retrieval_score,
            "after": after,
            "on_ranking": on_ranking,
        }
    )
    if isinstance(reranker, str | rerankx.Backend | rerankx.Reranker):
        reranker = Reranker(reranker, options=options, **settings)
    elif given := [*settings, *options]:
        raise TypeError(f"{', '.join(given)} given with a {type(reranker).__name__} object; set them on it")
    return RerankRetriever(
        base_retriever=_as_retriever(retriever),
        reranker=reranker,
        top_n=top_n,
        candidates=candidates,
        name=name,
        tags=None if tags is None else list(tags),
        metadata=None if metadata is None else dict(metadata),
    )


def _as_retriever(value: object) -> Runnable[str, list[Document]]:
    if is_language_model(value):  # a Runnable too
        raise TypeError(
            f'{type(value).__name__} is a language model, no retriever: write rerank(retriever, "listwise", llm=...)'
        )
    if isinstance(value, Runnable):
        return value
    if hasattr(value, "as_retriever"):
        raise TypeError(f"{type(value).__name__} is not a retriever; pass its .as_retriever()")
    if inspect.isgeneratorfunction(value):  # RunnableLambda would add its documents up

        @functools.wraps(value)
        def gathered(*args: Any, **kwargs: Any) -> list[Document]:
            return list(value(*args, **kwargs))

        return RunnableLambda(gathered)
    if inspect.isasyncgenfunction(value):

        @functools.wraps(value)
        async def agathered(*args: Any, **kwargs: Any) -> list[Document]:
            return [document async for document in value(*args, **kwargs)]

        return RunnableLambda(agathered)
    if callable(value):
        return RunnableLambda(value)
    raise TypeError(f"retriever must be a retriever, a Runnable or a function of the query, not {type(value).__name__}")


def _as_reranker(value: object) -> Runnable[RerankInput, list[Document]] | BaseDocumentCompressor:
    if isinstance(value, str | rerankx.Backend | rerankx.Reranker):
        return Reranker(value)
    refuse_language_model(value)
    if isinstance(value, Runnable | BaseDocumentCompressor):
        return value
    if hasattr(value, "score"):
        raise TypeError(
            f"{type(value).__name__} is not a reranker; if it is a cross-encoder: Reranker.from_cross_encoder(...)"
        )
    raise TypeError(
        "reranker must be a backend's name, a rerankx.Backend or Reranker, a document compressor or a Runnable, not"
        f" {type(value).__name__}"
    )


class RerankRetriever(BaseRetriever):
    """A retriever that asks another one and reranks what it returns; `rerank` makes one.

    `invoke(query, config, top_n=3)` overrides `top_n` for a call; any other keyword goes on to `base_retriever`, as does the
    `configurable` part of the config.
    """

    base_retriever: Annotated[
        Runnable[str, list[Document]], BeforeValidator(_as_retriever), WithJsonSchema({"type": "object"})
    ]
    """Where the candidates come from; a function of the query becomes a `RunnableLambda`."""
    reranker: Annotated[
        Runnable[RerankInput, list[Document]] | BaseDocumentCompressor,
        BeforeValidator(_as_reranker),
        WithJsonSchema({"type": ["string", "object"], "default": "embedded"}),
    ] = Field(default_factory=Reranker)
    """What orders them. A reranker of another package decides by itself how many it returns; `top_n` can only cut that. To choose
    with a call, make the fields of a `Reranker` configurable: it keeps its backends."""
    top_n: Annotated[int | None, Field(ge=1, strict=True), Number] = None
    """Keep that many. None = as many as `reranker` keeps; with `candidates`, as many as `base_retriever` returned without it."""
    candidates: Annotated[int | None, Field(ge=1, strict=True), Number] = None
    """How many to ask `base_retriever` for; None leaves it alone."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True, validate_assignment=True
    )

    _copies: Copies = PrivateAttr(default_factory=Copies)

    @model_validator(mode="after")
    def _can_be_asked(self) -> Self:
        if self.candidates is not None:
            asking_for(self.candidates, self.base_retriever)
        return self

    # BaseRetriever keeps the config to itself: what belongs further down is handed to the methods below.

    def invoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Return the documents for the query `input`, best first.

        Args:
            input: The query.
            config: As for every Runnable; `configurable` reaches the base retriever and the reranker.
            **kwargs: `top_n` for this call, and whatever the base retriever takes.
        """
        return super().invoke(input, config, passed_down=_passed_down(config), **kwargs)

    async def ainvoke(self, input: str, config: RunnableConfig | None = None, **kwargs: Any) -> list[Document]:
        """Return what `invoke` returns, without blocking the event loop."""
        return await super().ainvoke(input, config, passed_down=_passed_down(config), **kwargs)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        top_n: int | None = None,
        passed_down: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        call = _Call(self, _under(run_manager.get_child(), passed_down), top_n, kwargs)
        documents = _as_documents(call.source.invoke(query, call.source_config, **call.asked))
        if not documents:
            return []
        found = call.step.invoke({"query": query, "documents": documents}, call.step_config, **call.step_asked)
        return list(found)[: call.top_n]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        top_n: int | None = None,
        passed_down: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        call = _Call(self, _under(run_manager.get_child(), passed_down), top_n, kwargs)
        documents = _as_documents(await call.source.ainvoke(query, call.source_config, **call.asked))
        if not documents:
            return []
        found = await call.step.ainvoke({"query": query, "documents": documents}, call.step_config, **call.step_asked)
        return list(found)[: call.top_n]

    @property
    def config_specs(self) -> list[ConfigurableFieldSpec]:
        """Return what is configurable in the base retriever and in the reranker."""
        parts = [part for part in (self.base_retriever, self.reranker) if isinstance(part, Runnable)]
        return get_unique_config_specs(spec for part in parts for spec in part.config_specs)

    def _get_ls_params(self, **_kwargs: Any) -> LangSmithRetrieverParams:
        return LangSmithRetrieverParams(ls_retriever_name="rerankx")

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True; it can be loaded again if its base retriever and its reranker can."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Return the package, so that what was dumped outlives a move of this file."""
        return ["langchain_rerankx"] if cls is RerankRetriever else super().get_lc_namespace()


def _passed_down(config: RunnableConfig | None) -> RunnableConfig:
    """Return what of a config is meant for those beneath as well. Tags and metadata reach them with the callbacks."""
    config = ensure_config(config)
    passed: RunnableConfig = {"configurable": config["configurable"], "recursion_limit": config["recursion_limit"]}
    if config.get("max_concurrency") is not None:
        passed["max_concurrency"] = config["max_concurrency"]
    return passed


def _under(callbacks: BaseCallbackManager, passed_down: RunnableConfig | None) -> RunnableConfig:
    return {**(passed_down or {}), "callbacks": callbacks}


def _as_documents(found: object) -> list[Document]:
    if isinstance(found, str | Mapping | Document) or not isinstance(found, Iterable):
        raise TypeError(f"the retriever returned {type(found).__name__}, not a list of Document")
    return list(found)


class _Call:
    """One retrieval: who is asked for how many, who orders them, and how many are kept."""

    def __init__(
        self, retriever: RerankRetriever, config: RunnableConfig, top_n: int | None, asked: Mapping[str, Any]
    ) -> None:
        self.source, self.source_config = _resolved(retriever.base_retriever, config)
        own, candidates, self.asked = own_number(self.source), retriever.candidates, dict(asked)
        if candidates is not None:
            # A number given with the call is then, like the retriever's own, how many are kept.
            own = next((self.asked.pop(name) for name in KNOBS if name in asked), own)
            self.source, keywords = retriever._copies.asking_for(candidates, self.source)
            self.asked |= keywords
            most = most_to_choose_from(self.source, self.asked)
            if most is not None and most < candidates:
                hint_at_fetch_k(candidates, most)
        step, self.step_config = _resolved(retriever.reranker, config)
        self.step, number, takes_top_n = _as_runnable(step), _number_of(step), _takes_top_n(step)
        self.top_n = _checked_top_n(retriever.top_n if top_n is None else top_n)
        if self.top_n is None and number is None and candidates is not None:
            self.top_n = own
        self.step_asked = {"top_n": self.top_n} if takes_top_n and self.top_n is not None else {}
        fetched, kept = own if candidates is None else candidates, number if self.top_n is None else self.top_n
        if isinstance(fetched, int) and isinstance(kept, int) and fetched <= kept and not asked:
            hint_at_nothing_to_choose_from(fetched, kept)
        if not takes_top_n and isinstance(number, int) and self.top_n is not None and number < self.top_n:
            hint_at_fewer_than_asked(type(step).__name__, number, self.top_n)


def _checked_top_n(top_n: int | None) -> int | None:
    if isinstance(top_n, bool | str | float):
        raise TypeError(f"top_n must be a whole number or None, not {top_n!r}")
    if top_n is not None and top_n < 1:
        raise ValueError(f"top_n must be at least 1, or None to keep all, not {top_n}")
    return top_n


def _resolved(runnable: Any, config: RunnableConfig) -> tuple[Any, RunnableConfig]:
    """Return what a Runnable with configurable parts is under this config, and the config for it; anything else as it is."""
    if isinstance(runnable, RunnableBindingBase):
        bound, inner = _resolved(runnable.bound, merge_configs(runnable.config, config))
        return (runnable, config) if bound is runnable.bound else (runnable.model_copy(update={"bound": bound}), inner)
    return _resolved(*runnable.prepare(config)) if is_dynamic(runnable) else (runnable, config)


def _takes_top_n(reranker: object) -> bool:
    """Return whether what is run in the end is ours, and so takes `top_n` with a call."""
    from langchain_core.runnables.fallbacks import RunnableWithFallbacks  # not with the import of this package

    if isinstance(reranker, RunnableBindingBase):
        return _takes_top_n(reranker.bound)
    if isinstance(reranker, RunnableWithFallbacks):
        return all(_takes_top_n(one) for one in reranker.runnables)
    return isinstance(reranker, Reranker)


def _number_of(reranker: object) -> object:
    """Return how many documents a reranker keeps by itself; None if all, or if it does not say."""
    if isinstance(reranker, RunnableBindingBase):
        number = reranker.kwargs.get("top_n")
        return _number_of(reranker.bound) if number is None else number
    if getattr(reranker, "fallbacks", None):
        return _number_of(getattr(reranker, "runnable", None))
    return getattr(reranker, "top_n", None)


def _as_runnable(
    reranker: Runnable[RerankInput, list[Document]] | BaseDocumentCompressor,
) -> Runnable[RerankInput, list[Document]]:
    """Return another package's compressor as a Runnable: a run of its own in the trace, and the config around what it calls."""
    if isinstance(reranker, Runnable):
        return reranker

    def compress(asked: RerankInput, config: RunnableConfig) -> list[Document]:
        return list(reranker.compress_documents(asked["documents"], asked["query"], config.get("callbacks")))

    async def acompress(asked: RerankInput, config: RunnableConfig) -> list[Document]:
        found = await reranker.acompress_documents(asked["documents"], asked["query"], config.get("callbacks"))
        return list(found)

    return RunnableLambda(compress, acompress, name=type(reranker).__name__)
