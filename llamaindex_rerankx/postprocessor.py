"""`Rerank`, a node postprocessor over `rerankx.Reranker`."""

from __future__ import annotations

import logging
import math
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from difflib import get_close_matches
from inspect import signature
from os import PathLike, fspath
from pickle import HIGHEST_PROTOCOL
from typing import Annotated, Any, Literal

from llama_index.core.base.llms.base import BaseLLM
from llama_index.core.bridge.pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    field_serializer,
    field_validator,
    model_serializer,
)
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.exception import ExceptionEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.settings import Settings
from pydantic import SecretBytes, SecretStr, WithJsonSchema
from pydantic.json_schema import SkipJsonSchema

from llamaindex_rerankx.nodes import RerankedNode, reranked_nodes, with_scores
from rerankx import Attempt, Backend, BackendError, Fallback, Ranking, Reranker, Scale, Step

dispatcher = get_dispatcher(__name__)
logger = logging.getLogger("rerankx")

# What an option's name holds when its value may be a secret, unless that is a number; such options are left out of to_dict().
# "tokenizer" and its kind name a file, "key_field" a field.
_SECRET = re.compile(
    r"api.?key|key(?!_|word)|token(?!i)|secret|passw|pwd|cred|auth(?!or(?!iz))|cookie|bearer|passphrase|signature|jwt",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(r"://[^/@\s]+@|[?&][^=&\s]*(key|token|sig|secret)[^=&\s]*=", re.IGNORECASE)
_UNWRITABLE = object()

_ASKING = ("listwise", "judge")
"""Backends that ask a language model."""
_NOBODY = "Settings.llm"
"""The name of a model that is asked nothing: as long as it is not known who is."""
_making = threading.Lock()


class Rerank(BaseNodePostprocessor):
    """Orders nodes by their relevance to the query.

        index.as_query_engine(similarity_top_k=20, node_postprocessors=[Rerank("embedded", top_n=5)])

    Returns new `RerankedNode` objects around the same node objects; nothing that came in is changed, metadata included: prompts,
    embeddings and hashes stay as they were. Nodes without text are never sent to the backend; they come last, with score 0.0.

    "listwise" and "judge" ask a language model: `llm`, an LLM of LlamaIndex's, and without it `Settings.llm`. Where that was
    never set, it is OpenAI's gpt-3.5-turbo if there is a key for it, and else an error.

        Rerank("listwise", top_n=5)
        Rerank("judge", llm=OpenAI(model="gpt-6-luna"), min_score=0.5)

    `Settings.llm` is looked up when nodes are ranked, not before: it may be set later, and where another is set, that one is
    asked from then on, with budgets and counts that start anew. The LLM that an engine answers with is not looked at: where it
    is to rank as well, pass it as `llm`. The LLM's events and spans are within those of the reranking.

    `to_dict` holds no function, no object such as an LLM or a client among the options, and no option whose name suggests a
    secret: give those to `from_dict` again, or have the backend read them from the environment. A `Backend` object and an `llm`
    are written by what they are, "<OpenAI>", and have to be given again: `from_dict(data, llm=...)`. A `Backend` object does
    survive pickle. A pickle holds no key either: it is read from the environment where it is loaded. What cannot be read there,
    such as headers or an LLM, does not pickle.

    Args:
        backend: A name such as "embedded" or "backend:model", a `rerankx.Backend`, or a ready `rerankx.Reranker`.
        model: Which of the backend's models; only with a name.
        fallback: Who is asked where the backend fails: a name, a `rerankx.Backend`, or several of them in their order, as in
            `rerankx.Fallback`. What answers has `degraded="fallback"`, and there is an event for each one that failed.
        top_n: Keep that many, at least 1; None keeps all.
        min_score: Keep nodes with a score at or above it, in [0, 1]; applied before `top_n`.
        metadata_mode: What a node's text is: its content with the metadata that an embedding model sees (EMBED), with
            that which an LLM sees (LLM), with all of it (ALL), or with none (NONE).
        key: Returns the text of a node, instead of `metadata_mode`.
        keep_retrieval_score: Also write `retrieval_score` into the metadata of a copy of each node, as other rerankers do.
            Neither a language model nor an embedding model is shown it, but the node's hash changes, by which some
            retrievers tell nodes apart. `RerankedNode` has it either way.
        on_error: What a failed backend, behind which no fallback answers, does: "raise", or "input_order", which returns the
            nodes as they came, with `degraded="input_order"`.
        deadline_s: Seconds for one ranking, above 0; None = no bound.
        after: Functions of a `rerankx.Ranking` of nodes, applied before it is cut to `top_n`, such as those of `rerankx.after`.
        on_ranking: Called with every `rerankx.Ranking`, whose documents are the `NodeWithScore` objects that came in.
        callback_manager: Receives a RERANKING event per call; engines replace it with their own.
        **options: The backend's own options, not the fallback's; only with a name.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: It needs a package that is not installed.
        TypeError: An option that the backend does not have, one given with an object that is already configured, or what
            `to_dict` wrote in place of an LLM.
        ValueError: An argument out of its range; `top_n` and `min_score` are also checked on assignment. Or, when nodes are
            ranked: there is no `llm`, and no `Settings.llm`, or LlamaIndex's `MockLLM` in its place. Or "listwise" or "judge" by
            name as a fallback, which has no `llm`.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, validate_assignment=True)

    backend: Annotated[str | Backend | Reranker, WithJsonSchema({"type": "string"})] = Field(frozen=True)
    model: str | None = Field(default=None, frozen=True)
    fallback: Annotated[
        str | Backend | tuple[str | Backend, ...] | None,
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
        ),
    ] = Field(default=None, frozen=True)
    top_n: int | None = Field(default=None, ge=1)
    min_score: float | None = Field(default=None, ge=0, le=1)
    metadata_mode: MetadataMode = MetadataMode.EMBED
    key: SkipJsonSchema[Callable[[BaseNode], str] | None] = Field(default=None, exclude=True, repr=False)
    keep_retrieval_score: bool = False
    on_error: Literal["raise", "input_order"] = Field(default="raise", frozen=True)
    deadline_s: float | None = Field(default=None, frozen=True)
    after: SkipJsonSchema[tuple[Step, ...]] = Field(default=(), frozen=True, exclude=True, repr=False)
    on_ranking: SkipJsonSchema[Callable[[Ranking[Any]], object] | None] = Field(default=None, frozen=True, exclude=True)
    _options: dict[str, object] = PrivateAttr()
    _reranker: Reranker = PrivateAttr()
    """Where `Settings.llm` is to be asked, it asks nobody: it stands for what does not depend on the LLM."""
    _latest: tuple[BaseLLM, Reranker] | None = PrivateAttr(default=None)
    """`Settings.llm` when it was last looked up, and the reranker that asks it."""
    _warned: bool = PrivateAttr(default=False)

    def __init__(
        self,
        backend: str | Backend | Reranker = "embedded",
        *,
        model: str | None = None,
        fallback: str | Backend | Sequence[str | Backend] | None = None,
        top_n: int | None = None,
        min_score: float | None = None,
        metadata_mode: MetadataMode = MetadataMode.EMBED,
        key: Callable[[BaseNode], str] | None = None,
        keep_retrieval_score: bool = False,
        on_error: Literal["raise", "input_order"] = "raise",
        deadline_s: float | None = None,
        after: Sequence[Step] = (),
        on_ranking: Callable[[Ranking[Any]], object] | None = None,
        callback_manager: CallbackManager | None = None,
        **options: object,
    ) -> None:
        if isinstance(backend, Reranker):
            _refuse_beside_reranker(
                options,
                model=model,
                fallback=fallback,
                on_error=on_error,
                deadline_s=deadline_s,
                after=after or None,
                on_ranking=on_ranking,
            )
            reranker = backend
        else:
            for given in (backend, model):
                if isinstance(given, BaseLLM):
                    raise TypeError(f'{type(given).__name__} is an LLM, no name: write Rerank("listwise", llm=...)')
            _refuse_what_stands_for_an_llm(options)
            _refuse_asking_fallback(fallback)
            for_settings = _is_for_settings(backend, model, options)
            checked = _asking_nobody(options) if for_settings else options
            try:
                reranker = Reranker(
                    backend,
                    model=_NOBODY if for_settings else model,
                    fallback=fallback,
                    on_error=on_error,
                    deadline_s=deadline_s,
                    after=after,
                    on_ranking=on_ranking,
                    **checked,
                )
            except TypeError as error:
                unknown = [name for name in options if f"no option {name!r}" in str(error)]
                if near := "".join(_nearest(name, backend) for name in unknown):
                    raise TypeError(f"{error}{near}") from error
                raise
        reranker.check(min_score=min_score)
        fields: dict[str, Any] = {
            "backend": backend,
            "model": model,
            "fallback": fallback if isinstance(fallback, str | Backend | None) else tuple(fallback),
            "top_n": top_n,
            "min_score": min_score,
            "metadata_mode": metadata_mode,
            "key": key,
            "keep_retrieval_score": keep_retrieval_score,
            "on_error": reranker.on_error,
            "deadline_s": reranker.deadline_s,
            "after": reranker.after,
            "on_ranking": reranker.on_ranking,
            "callback_manager": CallbackManager() if callback_manager is None else callback_manager,
        }
        super().__init__(**fields)
        self._options = dict(options)
        self._reranker = reranker

    @classmethod
    def class_name(cls) -> str:
        """Return the id under which it is serialised."""
        return "Rerank"

    @field_validator("top_n", "min_score", mode="before")
    @classmethod
    def _refuse_bool_and_text(cls, value: object) -> object:
        # Pydantic would read True as 1 and "5" as 5.
        if isinstance(value, bool | str):
            raise ValueError(f"must be a number or None, not {value!r}")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        before = self.__dict__.get(name)
        super().__setattr__(name, value)
        if name == "min_score" and self.__pydantic_private__ is not None:
            try:
                self._reranker.check(min_score=value)  # only the backend knows whether there can be one
            except ValueError:
                super().__setattr__(name, before)
                raise

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, candidates = self._checked(nodes, query_bundle)
        if not candidates:
            return []
        reranker = self._ready()
        with self._reported(query, candidates, reranker.backend.model) as reranked:
            ranking = reranker.rerank(query.query_str, candidates, **self._arguments())
            reranked += self._converted(ranking)
        return reranked

    # LlamaIndex gives a span to implementations of abstract methods only, which this is not.
    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query, candidates = self._checked(nodes, query_bundle)
        if not candidates:
            return []
        reranker = self._ready()
        with self._reported(query, candidates, reranker.backend.model) as reranked:
            ranking = await reranker.arerank(query.query_str, candidates, **self._arguments())
            reranked += self._converted(ranking)
        return reranked

    def _checked(self, nodes: Iterable[object], query_bundle: object) -> tuple[QueryBundle, list[NodeWithScore]]:
        """Return the query and the candidates, as LlamaIndex's own types whatever was passed."""
        if query_bundle is None:
            raise ValueError("Missing query bundle in extra info.")
        query = QueryBundle(query_bundle) if isinstance(query_bundle, str) else query_bundle
        if not isinstance(query, QueryBundle):
            raise TypeError(f"query_bundle must be a QueryBundle or a string, not {type(query).__name__}")
        candidates = with_scores(nodes)
        self._warn_of_few(len(candidates))
        return query, candidates

    def _ready(self) -> Reranker:
        """Return what ranks: the reranker, or one that asks `Settings.llm`, the same one as long as that is the same.

        Raises:
            ValueError: There is no such LLM.
        """
        if not _is_for_settings(self.backend, self.model, self._options):
            return self._reranker
        llm = _llm_of_settings(self.backend)
        with _making:  # two would count what they spend by themselves
            if self._latest is None or self._latest[0] is not llm:
                behind = self._reranker.backend
                others = behind.backends[1:] if isinstance(behind, Fallback) else None  # with their models, once loaded
                self._latest = (llm, self._made({**self._options, "llm": llm}, model=None, fallback=others))
            return self._latest[1]

    def _made(
        self,
        options: Mapping[str, object],
        *,
        model: str | None,
        fallback: str | Backend | Sequence[str | Backend] | None,
    ) -> Reranker:
        assert isinstance(self.backend, str), "anything else is there already"
        return Reranker(
            self.backend,
            model=model,
            fallback=fallback,
            on_error=self.on_error,
            deadline_s=self.deadline_s,
            after=self.after,
            on_ranking=self.on_ranking,
            **options,
        )

    def _warn_of_few(self, n: int) -> None:
        if self.top_n is not None and 0 < n <= self.top_n and not self._warned:
            self._warned = True
            logger.warning(
                "top_n=%d, and %d nodes came in: nothing to choose from; raise similarity_top_k, LlamaIndex's default is 2,"
                " or the number that what comes before keeps",
                self.top_n,
                n,
            )

    def _arguments(self) -> dict[str, Any]:
        return {"top_n": self.top_n, "min_score": self.min_score, "key": self._text, "retrieval_score": _came_with}

    def _text(self, candidate: NodeWithScore) -> str:
        if self.key is not None:
            return self.key(candidate.node)
        return candidate.node.get_content(metadata_mode=self.metadata_mode)

    @contextmanager
    def _reported(
        self, query: QueryBundle, candidates: list[NodeWithScore], model: str
    ) -> Iterator[list[NodeWithScore]]:
        """Tell LlamaIndex's events and callbacks of what happens inside, where the list is filled with the result."""
        top_n = len(candidates) if self.top_n is None else self.top_n
        dispatcher.event(ReRankStartEvent(query=query, nodes=candidates, top_n=top_n, model_name=model))
        payload: dict[str, Any] = {
            EventPayload.NODES: candidates,
            EventPayload.MODEL_NAME: model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            reranked: list[NodeWithScore] = []
            try:
                yield reranked
            except Exception as error:
                if isinstance(error, BackendError):
                    _tell_of_failures(error.attempts)
                dispatcher.event(ExceptionEvent(exception=error))
                raise
            event.on_end(payload={EventPayload.NODES: reranked})
        dispatcher.event(ReRankEndEvent(nodes=reranked))

    def _converted(self, ranking: Ranking[NodeWithScore]) -> list[RerankedNode]:
        """Return the ranking's nodes, after one event for each attempt that failed."""
        _tell_of_failures(ranking.attempts)
        return reranked_nodes(ranking, into_metadata=self.keep_retrieval_score)

    @field_serializer("backend")
    def _backend_name(self, backend: str | Backend | Reranker) -> str:
        return _name_of(backend)

    @field_serializer("fallback")
    def _fallback_names(self, fallback: str | Backend | tuple[str | Backend, ...] | None) -> str | list[str] | None:
        if isinstance(fallback, tuple):
            return [_name_of(one) for one in fallback]
        return None if fallback is None else _name_of(fallback)

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
        """Return what `repr` shows; of a backend object only what it is, since its own may show a key."""
        shown = {"backend": _name_of(self.backend), "fallback": self._fallback_names(self.fallback)}
        for name, value in super().__repr_args__():
            yield name, shown.get(str(name), value)

    @model_serializer(mode="wrap")
    def custom_model_dump(self, handler: SerializerFunctionWrapHandler, info: SerializationInfo) -> dict[str, Any]:
        """Return the fields and the options, flat, as the constructor takes them."""
        written = _marked(_without_secrets(self._options), self._options.get("llm"))
        dumped = {**handler(self), **written, "class_name": self.class_name()}
        if isinstance(self.backend, Reranker):  # which has these two, and would not take them beside it
            dumped = {name: value for name, value in dumped.items() if name not in ("on_error", "deadline_s")}
        return dumped

    # LlamaIndex's own pair drops what does not pickle (a lambda for `key`), from the original too; pydantic's raises.
    def __getstate__(self) -> dict[Any, Any]:
        state = BaseModel.__getstate__(self)
        fields = {name: value for name, value in state["__dict__"].items() if name != "callback_manager"}
        private = dict(state["__pydantic_private__"])
        if isinstance(self.backend, str):  # it is made again, and reads its keys from the environment
            behind = self._reranker.backend
            first = behind.backends[0] if isinstance(behind, Fallback) else behind
            private |= {"_options": _pickled(self._options, first), "_latest": None}
            del private["_reranker"]
        return {**state, "__dict__": fields, "__pydantic_private__": private}

    def __setstate__(self, state: dict[Any, Any]) -> None:
        BaseModel.__setstate__(
            self, {**state, "__dict__": {**state["__dict__"], "callback_manager": CallbackManager()}}
        )
        if isinstance(self.backend, str):
            for_settings = _is_for_settings(self.backend, self.model, self._options)
            self._reranker = self._made(
                _asking_nobody(self._options) if for_settings else self._options,
                model=_NOBODY if for_settings else self.model,
                fallback=self.fallback,
            )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Rerank:
        # A copy reports to the same handlers, not to copies of them that nobody reads.
        memo = {} if memo is None else memo
        memo[id(self.callback_manager)] = self.callback_manager
        # It also uses the same model and clients, which may be large, or hold locks.
        memo[id(self.backend)] = self.backend
        memo[id(self.fallback)] = self.fallback
        memo[id(self._options)] = self._options
        memo[id(self._reranker)] = self._reranker
        memo[id(self._latest)] = self._latest
        return super().__deepcopy__(memo)


def _came_with(candidate: NodeWithScore) -> float | None:
    """Return the score that a node came with; None if it is no number, which is for the retriever to know."""
    return candidate.score if candidate.score is not None and math.isfinite(candidate.score) else None


def _is_for_settings(backend: object, model: str | None, options: Mapping[str, object]) -> bool:
    """Return whether a language model is to be asked, and none is given, nor anything that belongs to one."""
    given = (options.get(name) for name in ("llm", "base_url", "api_key", "headers", "extra"))
    return backend in _ASKING and model is None and all(one is None for one in given)


def _asking_nobody(options: Mapping[str, object]) -> dict[str, object]:
    """Return the options for a model `_NOBODY`, so that they can be checked before there is an LLM.

    What it lacks is not known then, and what it costs neither. With an address and a key nothing is read from the environment.
    """
    price = options.get("price")
    free = {"per_million_tokens": 0.0, "per_million_output_tokens": 0.0}
    nowhere = {"base_url": "http://localhost", "api_key": "none"}
    return {**options, **nowhere, "price": free if price is None else price}


def _llm_of_settings(backend: object) -> BaseLLM:
    needed = f"Rerank({backend!r}) needs a language model"
    try:
        llm = Settings.llm
    except (ImportError, ValueError) as error:  # of LlamaIndex's default: no package, no key
        raise ValueError(
            f"{needed}: pass llm=, or set Settings.llm. Settings.llm was never set, and LlamaIndex's default, OpenAI's"
            " gpt-3.5-turbo, needs llama-index-llms-openai and OPENAI_API_KEY"
        ) from error
    if type(llm) is MockLLM:  # it repeats what it is asked, in which there are ids and grades
        raise ValueError(f"{needed}, and Settings.llm is None (LlamaIndex puts MockLLM there): set it, or pass llm=")
    return llm


def _refuse_asking_fallback(fallback: object) -> None:
    several = isinstance(fallback, Sequence) and not isinstance(fallback, str)
    for one in fallback if several else [fallback]:  # type: ignore[attr-defined] # of a sequence
        if isinstance(one, str) and one in _ASKING:
            raise ValueError(
                f"{one!r} needs a language model, and no option reaches a fallback: as a fallback give the object:"
                f" rerankx.Reranker({one!r}, llm=...).backend"
            )


def _marked(written: dict[str, object], llm: object) -> dict[str, object]:
    """Return what is written of the options, with a mark where an LLM is missing: without it another one would be asked."""
    return written if llm is None or "llm" in written else {**written, "llm": f"<{type(llm).__name__}>"}


def _refuse_what_stands_for_an_llm(options: Mapping[str, object]) -> None:
    llm = options.get("llm")
    if isinstance(llm, str) and re.fullmatch(r"<\w+>", llm):
        raise TypeError(
            f"llm is {llm!r}, which to_dict() writes in place of a language model: pass that itself,"
            " Rerank.from_dict(data, llm=...)"
        )


def _tell_of_failures(attempts: Iterable[Attempt]) -> None:
    for attempt in attempts:
        if attempt.error is not None:
            failure = BackendError(f"{attempt.backend}:{attempt.model}: {attempt.error}")
            dispatcher.event(ExceptionEvent(exception=failure))


def _name_of(backend: str | Backend | Reranker) -> str:
    if isinstance(backend, str):
        return backend
    scorer = backend.backend if isinstance(backend, Reranker) else backend
    return f"<{scorer.name}:{scorer.model}>"  # no name of a backend: from_dict then says so, and builds no other


def _refuse_beside_reranker(options: Mapping[str, object], **arguments: object) -> None:
    given = [name for name, value in arguments.items() if value not in (None, "raise")]
    if given or options:
        raise TypeError(f"{', '.join([*given, *sorted(options)])} given with a Reranker; pass them to its constructor")


def _without_secrets(options: Mapping[str, object]) -> dict[str, object]:
    """Return what of the options may be written down: no secrets, and nothing that JSON has no word for."""
    cleaned = {name: _cleaned(value) for name, value in options.items() if name != "dialect"}
    written = {
        name: value
        for name, value in cleaned.items()
        if value is not _UNWRITABLE and (isinstance(value, int | float | None) or not _SECRET.search(str(name)))
    }
    return written | _dialect(options)


def _pickled(options: Mapping[str, object], backend: Backend) -> dict[str, object]:
    """Return the options but for the keys, which a backend that is made of them reads from the environment.

    Raises:
        TypeError: One of them is, or may hold, what a backend could not read there, such as headers or an LLM.
    """
    backend.__reduce_ex__(HIGHEST_PROTOCOL)  # it refuses what it would refuse of its own
    kept = {name: value for name, value in options.items() if name not in backend.secrets}
    if secret := sorted(name for name, value in kept.items() if _may_hold_secret(name, value)):
        raise TypeError(
            f"{', '.join(secret)} may hold secrets, and a pickle holds none: make the postprocessor where it is used"
        )
    return kept


def _may_hold_secret(name: str, value: object) -> bool:
    if name.startswith("dialect.") and not name.startswith("dialect.headers"):
        return False  # "auth" and "tokens" are names of places there
    if isinstance(value, Mapping):
        return any(_may_hold_secret(f"{name}.{inner}", item) for inner, item in value.items())
    if isinstance(value, list | tuple | set | frozenset):
        return any(not _tells_no_secret(item) or _may_hold_secret(name, item) for item in value)
    if isinstance(value, str):
        return bool(_SECRET.search(name) or _SECRET_IN_URL.search(value))
    return isinstance(value, SecretStr | SecretBytes) or (isinstance(value, bytes) and bool(_SECRET.search(name)))


def _dialect(options: Mapping[str, object]) -> dict[str, object]:
    """Return the dialect of a service, if there is one: "auth", "tokens" and others are names of places in it, not secrets."""
    dialect = options.get("dialect")
    if is_dataclass(dialect) and not isinstance(dialect, type):
        dialect = asdict(dialect)
    if not isinstance(dialect, Mapping):
        return {} if dialect is None else {"dialect": dialect}
    cleaned = {name: _cleaned(value) for name, value in dialect.items()}
    return {"dialect": {name: value for name, value in cleaned.items() if value is not _UNWRITABLE}}


def _cleaned(value: object) -> object:
    if isinstance(value, PathLike):
        return fspath(value)
    if isinstance(value, Scale):
        return asdict(value) if value.kind == "similarity" else value.kind
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a number of numpy's
        return value.item()
    if isinstance(value, str):
        return _UNWRITABLE if _SECRET_IN_URL.search(value) else value
    if isinstance(value, Mapping):
        return _without_secrets(value)
    if isinstance(value, list | tuple | set | frozenset):
        items = [item for item in map(_cleaned, filter(_tells_no_secret, value)) if item is not _UNWRITABLE]
        return items if isinstance(value, list | tuple) else _in_order(items)
    return value if isinstance(value, int | float | None) else _UNWRITABLE


def _in_order(items: list[Any]) -> list[Any]:
    """Return what a set held in an order that is always the same: sorted, or by what is shown of items of different types."""
    try:
        return sorted(items)
    except TypeError:
        return sorted(items, key=repr)


def _tells_no_secret(item: object) -> bool:
    """Return whether an item of a sequence is no pair like ("Authorization", "Bearer ...")."""
    pair = isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str)
    return not (pair and _SECRET.search(item[0]))  # type: ignore[index] # only of a pair


def _nearest(option: str, backend: object) -> str:
    """Return what an option that the backend does not have may have been meant for, else nothing."""
    if option in ("llm", "chat_model", "language_model"):
        if str(backend).partition(":")[0] in _ASKING:
            return "; did you mean 'llm'?"
        return (
            '; llm belongs to "listwise" and "judge": write rerank(retriever, "listwise", llm=...) or'
            ' Rerank("listwise", llm=...)'
        )
    if option == "similarity_top_k" or get_close_matches(option, ["candidates"], cutoff=0.75):
        return "; candidates is an argument of rerank()"
    own = [name for name in signature(Rerank.__init__).parameters if name not in ("self", "options")]
    near = get_close_matches(option, own, n=1, cutoff=0.75)
    return f"; Rerank itself has {near[0]!r}" if near else ""
