"""`Reranker`: the reranking step as LangChain sees it, a Runnable and a document compressor at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from langchain_core.callbacks import (
    AsyncCallbackManager,
    AsyncCallbackManagerForChainRun,
    CallbackManager,
    CallbackManagerForChainRun,
    Callbacks,
)
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.language_models import BaseLanguageModel
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from langchain_core.runnables import Runnable, RunnableConfig, RunnableSerializable, ensure_config
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SecretStr,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WithJsonSchema,
    WrapValidator,
)
from pydantic.json_schema import SkipJsonSchema
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict  # typing's own makes pydantic refuse the input schema before Python 3.12

import rerankx
from langchain_rerankx.options import ASKING, Opaque, Options

if TYPE_CHECKING:
    from langchain_core.cross_encoders import BaseCrossEncoder


class RerankInput(TypedDict):
    """What a reranker is invoked with; other keys are ignored."""

    query: str
    """What to rank by; not blank."""
    documents: Sequence[Document]
    """The candidates, in any order."""


def _as_options(value: object) -> object:
    return Options(value) if isinstance(value, Mapping) and not isinstance(value, Options) else value


def _as_fallback(value: object) -> object:
    if isinstance(value, BaseLanguageModel):  # which pydantic would take for a sequence
        raise TypeError(f"fallback must be a name, a rerankx.Backend or several of them, not {type(value).__name__}")
    return tuple(value) if isinstance(value, list) else value


def _as_steps(value: object) -> object:
    if not isinstance(value, list | tuple):
        raise TypeError(f"after must be a list of functions, step(ranking, top_n), not {type(value).__name__}")
    return tuple(value)


def _as_json(options: Options) -> object:
    return to_jsonable_python(options.shown(), serialize_unknown=True)


def _saying_what_was_given(value: object, check: ValidatorFunctionWrapHandler) -> object:
    # Pydantic would say it too, if it did not hide all input, for the sake of keys.
    try:
        return check(value)
    except ValidationError as error:
        given = repr(value) if isinstance(value, int | float) else type(value).__name__
        raise ValueError(f"{error.errors()[0]['msg']}, not {given}") from None


Number = WrapValidator(_saying_what_was_given)


class Reranker(BaseDocumentCompressor, RunnableSerializable[RerankInput, list[Document]]):
    """Orders documents by their relevance to a query, best first.

        Reranker("embedded", top_n=5).invoke({"query": "how do I get my money back?", "documents": documents})

    What comes back are copies of the documents with their score, in [0, 1], in the metadata; the ones that went in are not
    changed. (Dicts, lists, tuples and sets in the metadata are copied too, other objects are shared.)

    With a language model, which keeps its own callbacks, and whose runs are beneath the reranker's:

        Reranker("listwise", llm=ChatOpenAI(model="gpt-6-luna"), top_n=5)
        Reranker("judge", llm=ChatOpenAI(model="gpt-6-luna"), min_score=0.5)

    `repr` and `model_dump_json` show it by its type; `dumpd` writes it where `load` can make it again and no key is told, else
    `load` says that it is missing. What streams the tokens of a chat to a user streams the model's, too, unless it is told not
    to: LangGraph does not those of a model with `tags=["nostream"]`.

    A pickle holds no key: it is read from the environment where it is used. What cannot be read there, such as headers or a
    language model, does not pickle. Copies have both.

    Every call is one run of type "chain" in the trace, with backend, model, counts, time, usage and `degraded` in its metadata,
    and who answered, where that is another than was asked. What failed on the way to a result is a failed run beneath it; a call
    that raises is a failed run itself.
    For "first retrieve, then rerank" in one object: `rerank(retriever, ...)`.

    Args:
        backend: A name such as "embedded" or "backend:model", a `rerankx.Backend`, or a `rerankx.Reranker`.
        **fields: The fields below. With a name, every other keyword is an option of the backend, as in `rerankx.Reranker`.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: The backend needs a package that is not installed.
        TypeError: An option that the backend does not have, or a setting that belongs to the object given as backend.
        pydantic.ValidationError: A field that does not exist, or a value out of its range.
    """

    backend: Annotated[
        str | rerankx.Backend | rerankx.Reranker, WithJsonSchema({"type": "string", "default": "embedded"})
    ] = "embedded"
    """A name such as "embedded" or "backend:model", a `rerankx.Backend`, or a `rerankx.Reranker`."""
    model: str | None = None
    """Which of the backend's models; only with a name that does not say."""
    fallback: Annotated[
        str | rerankx.Backend | tuple[str | rerankx.Backend, ...] | None,
        BeforeValidator(_as_fallback),
        WithJsonSchema(
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]}
        ),
    ] = None
    """Who is asked where the backend fails: a name, a `rerankx.Backend`, or several in their order, as in `rerankx.Fallback`."""
    options: Annotated[
        Options,
        BeforeValidator(_as_options),
        PlainSerializer(_as_json, when_used="json"),
        WithJsonSchema({"type": "object"}),
    ] = Field(default_factory=Options)
    """The backend's own options, not the fallback's, a mapping; only with a name. Secrets in it are masked wherever it is
    shown."""
    top_n: Annotated[int | None, Field(ge=1, strict=True), Number] = None
    """Keep that many; None keeps all."""
    min_score: Annotated[float | None, Field(ge=0, le=1, strict=True), Number] = None
    """Keep those with at least this score, in [0, 1]; applied before `top_n`."""
    key: SkipJsonSchema[Callable[[Document], str] | None] = Field(default=None, repr=False)
    """Returns the text that is scored; None scores `page_content`."""
    score_key: str | None = "relevance_score"
    """Where the score goes in the metadata, over what is there; None writes none."""
    on_error: Literal["raise", "input_order"] = "raise"
    """What a failed backend, behind which no fallback answers, does: raise, or leave the documents in their order, with score
    0.0."""
    deadline_s: Annotated[float | None, Field(gt=0, allow_inf_nan=False, strict=True), Number] = None
    """Seconds for one reranking; None = no bound."""
    retrieval_score: SkipJsonSchema[Callable[[Document], float | None] | None] = Field(default=None, repr=False)
    """Returns the score that a document came with, higher is better, such as `lambda d: d.metadata["score"]`: for backends that
    take the retriever into account. None: by their order alone."""
    after: SkipJsonSchema[Annotated[tuple[rerankx.Step, ...], BeforeValidator(_as_steps)]] = Field(
        default=(), repr=False
    )
    """Functions of a `rerankx.Ranking`, applied before it is cut to `top_n`, such as those of `rerankx.after`."""
    on_ranking: SkipJsonSchema[Callable[[rerankx.Ranking[Document]], object] | None] = Field(default=None, repr=False)
    """Called with every `rerankx.Ranking`."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True, validate_assignment=True
    )

    def __init__(self, backend: str | rerankx.Backend | rerankx.Reranker = "embedded", **fields: object) -> None:
        for given in (backend, fields.get("model")):
            refuse_language_model(given)
        if isinstance(backend, str):
            fields = _with_options(fields, type(self).model_fields)
        super().__init__(backend=backend, **fields)  # type: ignore[call-arg] # mypy looks at the first base alone
        # A wrong name, option or threshold is told here, not with the first query.
        try:
            self._core().check(min_score=self.min_score)
        except TypeError as error:
            unknown = [name for name in self.options if f"no option {name!r}" in str(error)]
            if near := _hint_at_llm(self.backend, unknown) or _nearest_field(unknown):
                raise TypeError(f"{error}{near}") from error
            raise

    @classmethod
    def from_cross_encoder(
        cls, model: BaseCrossEncoder, *, scale: rerankx.Scale = rerankx.Scale.UNKNOWN, **fields: object
    ) -> Self:
        """Return a reranker over a cross-encoder of LangChain's, such as `HuggingFaceCrossEncoder`.

        Args:
            model: Scores pairs of query and text, one number each, higher is better.
            scale: What its scores are, such as `rerankx.Scale.LOGIT`. It does not say so itself; with UNKNOWN they are an order,
                and `min_score` is refused.
            **fields: As of `Reranker`.
        """
        from langchain_rerankx.cross_encoder import CrossEncoder

        return cls(CrossEncoder(model, scale=scale), **fields)

    def invoke(  # type: ignore[override] # any other keyword is a mistake, and Python says so
        self, input: RerankInput, config: RunnableConfig | None = None, *, top_n: int | None = None
    ) -> list[Document]:
        """Return the documents in order of relevance, best first.

        Args:
            input: Query and documents. No documents: nothing is called and nothing traced.
            config: As for every Runnable.
            top_n: Keep that many, in place of the field `top_n`.

        Raises:
            TypeError: The input is not a query and documents.
            ValueError: A blank query, an argument out of range, or `min_score` with a backend whose scores are only an order.
            BackendError: The backend failed and `on_error` is "raise".
        """
        input = _checked(input)
        if not input["documents"]:
            return []
        call = _Call(self, input, top_n)
        return self._call_with_config(call.run, input, call.config(config))

    async def ainvoke(  # type: ignore[override]
        self, input: RerankInput, config: RunnableConfig | None = None, *, top_n: int | None = None
    ) -> list[Document]:
        """Return what `invoke` returns, without blocking the event loop."""
        input = _checked(input)
        if not input["documents"]:
            return []
        call = _Call(self, input, top_n)
        return await self._acall_with_config(call.arun, input, call.config(config))

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return what `invoke` returns; traced under `callbacks`, or else under the Runnable that it is called from."""
        return self.invoke({"query": query, "documents": documents}, {"callbacks": callbacks})

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return what `compress_documents` returns, without blocking the event loop."""
        return await self.ainvoke({"query": query, "documents": documents}, {"callbacks": callbacks})

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """Return True; a key is written by its name, and what is not JSON, such as a backend object, as "not_implemented"."""
        return True

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Return the package, so that what was dumped outlives a move of this file."""
        return ["langchain_rerankx"] if cls is Reranker else super().get_lc_namespace()

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Return the options that are keys, and the names under which `load` looks for them in its `secrets_map`."""
        if not isinstance(self.backend, str):
            return {}
        name = self.backend.partition(":")[0]
        declared = self.options.backend(self.backend, self.model).secrets
        held = [option for option, value in self.options.items() if isinstance(value, SecretStr)]
        return {option: declared.get(option) or _variable(name, option) for option in held}

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """Return what `dumpd` writes, from which `load` makes an equal reranker."""
        dumped = super().to_json()
        if dumped["type"] == "constructor":
            kwargs, secrets = dumped["kwargs"], self.lc_secrets
            if not isinstance(self.backend, str):
                kwargs["backend"] = Opaque(self.backend)
            if "fallback" in kwargs:
                kwargs["fallback"] = _shown(self.fallback)
            if "options" in kwargs:
                kwargs["options"] = {name: held for name, held in self.options.written().items() if name not in secrets}
            kwargs |= {name: {"lc": 1, "type": "secret", "id": [variable]} for name, variable in secrets.items()}
        return dumped

    def __getstate__(self) -> dict[Any, Any]:
        """Return what a pickle holds: no key, which a copy reads from the environment.

        Raises:
            TypeError: An option is, or may hold, what a copy could not read there, such as headers or a language model.
        """
        if isinstance(self.backend, str) and self.options:
            self.options.backend(self.backend, self.model)  # which knows what of its options is secret
        return super().__getstate__()

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Return a copy that uses the same backend object, whose model may be large or hold a lock."""
        memo = {} if memo is None else memo
        memo[id(self.backend)] = self.backend
        memo[id(self.fallback)] = self.fallback
        return super().__deepcopy__(memo)

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
        """Return what `repr` shows; a backend object by its type, since it may be somebody's dataclass with a key in it."""
        for name, value in super().__repr_args__():
            yield name, _shown(value) if name in ("backend", "fallback") else value

    def _core(self) -> rerankx.Reranker:
        """Return the core's reranker for these fields: light, and made for every call. The backend in it is made once."""
        if isinstance(self.backend, rerankx.Reranker):
            own = {
                name: getattr(self, name)
                for name in ("model", "fallback", "on_error", "deadline_s", "after", "on_ranking")
            }
            if given := [*not_default(own), *self.options]:
                raise TypeError(
                    f"{', '.join(given)} given with a rerankx.Reranker object; pass them to its constructor"
                )
            return self.backend
        if mistaken := sorted(self.options.keys() & (Reranker.model_fields.keys() - {"name", "options"})):
            raise TypeError(
                f"{', '.join(mistaken)} in options: an argument of Reranker itself, not an option of its backend"
            )
        backend, model, options = self.backend, self.model, self.options
        if isinstance(backend, str):
            backend, model, options = options.backend(backend, model), None, Options()
        return rerankx.Reranker(
            backend,
            model=model,
            fallback=self._fallbacks(),
            on_error=self.on_error,
            deadline_s=self.deadline_s,
            after=self.after,
            on_ranking=self.on_ranking,
            **options,
        )

    def _fallbacks(self) -> list[rerankx.Backend]:
        given = self.fallback if isinstance(self.fallback, tuple) else () if self.fallback is None else (self.fallback,)
        return [self.options.fallback(one) if isinstance(one, str) else one for one in given]


class _Call:
    """One reranking: what the core is asked, what the trace is told, what is made of the answer."""

    def __init__(self, reranker: Reranker, input: RerankInput, top_n: int | None) -> None:
        self.reranker, self.core = reranker, reranker._core()
        self.input, self.top_n = input, reranker.top_n if top_n is None else top_n
        self.arguments: dict[str, Any] = {
            "top_n": self.top_n,
            "min_score": reranker.min_score,
            "key": reranker.key or (lambda document: document.page_content),
            "retrieval_score": reranker.retrieval_score,
        }

    def config(self, config: RunnableConfig | None) -> RunnableConfig:
        """Return the config with what is known beforehand in its metadata."""
        config = ensure_config(config)
        config["metadata"] = {
            **config.get("metadata", {}),
            "rerankx_backend": self.core.backend.name,
            "rerankx_model": self.core.backend.model,
            "rerankx_top_n": self.top_n,
            "rerankx_documents_in": len(self.input["documents"]),
        }
        return config

    def run(self, input: RerankInput, run_manager: CallbackManagerForChainRun) -> list[Document]:
        attempts: Sequence[rerankx.Attempt] = ()
        try:
            ranking = self.core.rerank(input["query"], input["documents"], **self.arguments)
            attempts = ranking.attempts
        except rerankx.BackendError as error:
            attempts = error.attempts
            raise
        finally:
            for name, failure in _failures(attempts):
                # Configured as for a Runnable, for those who listen by context.
                child = CallbackManager.configure(run_manager.get_child())
                child.on_chain_start(None, {"query": input["query"]}, name=name).on_chain_error(failure)
        run_manager.metadata.update(_outcome(ranking, self.core.backend))
        return self.documents(ranking)

    async def arun(self, input: RerankInput, run_manager: AsyncCallbackManagerForChainRun) -> list[Document]:
        attempts: Sequence[rerankx.Attempt] = ()
        try:
            ranking = await self.core.arerank(input["query"], input["documents"], **self.arguments)
            attempts = ranking.attempts
        except rerankx.BackendError as error:
            attempts = error.attempts
            raise
        finally:
            for name, failure in _failures(attempts):
                child = AsyncCallbackManager.configure(run_manager.get_child())
                run = await child.on_chain_start(None, {"query": input["query"]}, name=name)
                await run.on_chain_error(failure)
        run_manager.metadata.update(_outcome(ranking, self.core.backend))
        return self.documents(ranking)

    def documents(self, ranking: rerankx.Ranking[Document]) -> list[Document]:
        """Return new documents, best first, with their scores; the metadata of the old ones stays as it is."""
        score_key = self.reranker.score_key
        made = []
        for hit in ranking:
            metadata = _own(hit.document.metadata)
            if score_key is not None:
                metadata[score_key] = hit.score
            made.append(hit.document.model_copy(update={"metadata": metadata}))
        return made


def _own(value: Any) -> Any:
    """Return a copy of dicts, lists, tuples and sets, and of those in them; others, which may not be copyable, as they are."""
    if type(value) is dict:
        return {name: _own(item) for name, item in value.items()}
    return type(value)(_own(item) for item in value) if type(value) in (list, tuple, set) else value


def _with_options(fields: Mapping[str, object], known: Container[str]) -> dict[str, object]:
    """Return the fields, with those that are not known among the options.

    Raises:
        TypeError: An option is also in `options`, or that is no mapping.
    """
    own = {name: value for name, value in fields.items() if name in known}
    if len(own) == len(fields):
        return own  # the options as they are: a Runnable with configurable fields hands on the backend that is in them
    rest = {name: value for name, value in fields.items() if name not in own}
    options = own.get("options", {})
    if not isinstance(options, Mapping):
        raise TypeError(f"options must be a mapping of names to values, not {type(options).__name__}")
    if twice := sorted(rest.keys() & options.keys()):
        raise TypeError(f"{', '.join(twice)} given twice, as a keyword and in options")
    return {**own, "options": {**options, **rest}}


def refuse_language_model(given: object) -> None:
    """Raise a TypeError that says what to write, where a language model is given in place of a name or a reranker."""
    if is_language_model(given):
        raise TypeError(f'{type(given).__name__} is a language model, no reranker or name: write "listwise", llm=...')


def is_language_model(given: object) -> bool:
    """Return whether it is a language model, or what `bind`, `with_fallbacks`, `configurable_fields` and such make of one."""
    while isinstance(given, Runnable) and not isinstance(given, BaseLanguageModel):
        given = next((getattr(given, name) for name in ("bound", "runnable", "default") if hasattr(given, name)), None)
    return isinstance(given, BaseLanguageModel)


def _hint_at_llm(backend: object, unknown: Iterable[str]) -> str:
    """Return what to write where one of the options that a backend does not have is a language model, else nothing."""
    if not isinstance(backend, str) or {"llm", "chat_model", "language_model"}.isdisjoint(unknown):
        return ""
    if backend.partition(":")[0] in ASKING:
        return "; did you mean 'llm'?"
    return (
        '; llm belongs to "listwise" and "judge": write rerank(retriever, "listwise", llm=...) or'
        ' Reranker("listwise", llm=...)'
    )


def _nearest_field(names: Iterable[str]) -> str:
    """Return "; did you mean ..." for the first of the names that is nearly one of `Reranker`'s fields, else nothing."""
    near = [get_close_matches(name, Reranker.model_fields, n=1, cutoff=0.75) for name in names]
    return next((f"; Reranker itself has {found[0]!r}" for found in near if found), "")


def _variable(backend: str, option: str) -> str:
    """Return the name of an environment variable, as providers write it: COHERE_API_KEY, JINA_API_KEY."""
    name = re.sub(r"\W", "_", f"{backend}_{option}".upper())
    return name.replace("_API_API_", "_API_")


def _outcome(ranking: rerankx.Ranking[Document], asked: rerankx.Backend) -> dict[str, object]:
    """Return what is known only afterwards. Tracers keep the run's own metadata dict, so what is added to it reaches them.

    Of usage and cut texts what is 0 is left out, and None, which says not known, is not. Who answered is left out where it is who
    was asked.
    """
    spent = {"truncated": ranking.truncated, **asdict(ranking.usage)}
    other = (ranking.backend, ranking.model) != (asked.name, asked.model)
    return {
        **({"rerankx_answered_by": f"{ranking.backend}:{ranking.model}"} if other else {}),
        **{f"rerankx_{name}": value for name, value in spent.items() if value != 0},
        "rerankx_documents_out": len(ranking),
        "rerankx_elapsed_ms": round(ranking.elapsed_ms, 3),
        "rerankx_degraded": ranking.degraded,
    }


def _failures(attempts: Iterable[rerankx.Attempt]) -> list[tuple[str, rerankx.BackendError]]:
    """Return name and error of every attempt that failed; each becomes a failed run beneath the reranker's."""
    return [(f"{a.backend}:{a.model}", rerankx.BackendError(a.error)) for a in attempts if a.error is not None]


def _shown(backend: object) -> object:
    """Return a backend's name as it is, an object by its type; of several, a list of them."""
    if isinstance(backend, tuple):
        return [_shown(one) for one in backend]
    return backend if isinstance(backend, str | None) else Opaque(backend)


def not_default(fields: Mapping[str, object]) -> dict[str, object]:
    """Return those of `Reranker`'s fields whose value is not the default."""
    return {name: value for name, value in fields.items() if value != Reranker.model_fields[name].default}


def _checked(input: object) -> RerankInput:
    """Return query and documents alone, the documents as a list.

    Raises:
        TypeError: It is something else; the message says what to write.
    """
    if not isinstance(input, Mapping):
        if isinstance(input, list | tuple):
            raise TypeError(
                "a reranker needs the query too, and behind a retriever it is gone: instead of `retriever | Reranker(...)`"
                " write `rerank(retriever, ...)`"
            )
        raise TypeError(f'a reranker takes {{"query": ..., "documents": [...]}}, not {type(input).__name__}')
    if missing := [name for name in ("query", "documents") if name not in input]:
        raise TypeError(
            f"a reranker takes query and documents; {' and '.join(missing)} not among {sorted(map(str, input))}"
        )
    documents = input["documents"]
    if isinstance(documents, str | Mapping) or not isinstance(documents, Iterable):
        raise TypeError(f"documents must be a list of Document, not {type(documents).__name__}")
    documents = list(documents)
    for i, document in enumerate(documents):
        if not isinstance(document, Document):
            raise TypeError(f"document {i} is {type(document).__name__}, not a Document")
    return {"query": input["query"], "documents": documents}
