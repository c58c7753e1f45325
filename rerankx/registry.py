"""Which backends there are: name -> where it lives, and what must be installed for it.

A built-in backend is one `Entry` here. A third party adds one without an edit, through an entry point of its
distribution:

    [project.entry-points."rerankx.backends"]
    mine = "my_package.backend:Mine"
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

from rerankx.errors import MissingDependencyError, UnknownBackendError, did_you_mean
from rerankx.interface import Backend

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

GROUP = "rerankx.backends"

logger = logging.getLogger("rerankx")


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a built-in backend lives."""

    target: str
    """"module:Class"."""
    summary: str
    """One line for a listing."""
    requires: tuple[str, ...] = ()
    """Import names of the packages that it needs."""
    extra: str | None = None
    """The extra that installs them; None if the base install does."""
    model: str | None = None
    """For an alias: the model it stands for."""
    options: Mapping[str, object] = field(default_factory=dict)
    """For a preset: the options it stands for; who names it may give others."""


_WRAPPERS = {
    name.lower(): name for name in ("Cached", "Calibrated", "Cascade", "Fallback", "Floor", "Fusion", "Windowed")
}

_ONNX = ("numpy", "onnxruntime", "tokenizers", "huggingface_hub")


def _cross_encoder(summary: str, model: str | None = None) -> Entry:
    summary = summary if model is None else f"{model}: {summary}"
    return Entry("rerankx.backends.cross_encoder:CrossEncoder", summary, requires=_ONNX, model=model)


_HTTP = Entry(
    target="rerankx.backends.http:Http",
    summary="any rerank service, by a dialect: its paths and names",
    requires=("httpx", "tenacity"),
    extra="http",
)

BUILT_IN: Mapping[str, Entry] = {
    "embedded": Entry(
        target="rerankx.backends.embedded:Embedded",
        summary="words and a small sentence encoder, inside the wheel: no download, no key",
        requires=("numpy", "onnxruntime", "tokenizers"),
    ),
    "retrieval": Entry(
        "rerankx.compose.retrieval:Retrieval", "the retriever's own order or scores: a part of a fusion"
    ),
    "cross-encoder": _cross_encoder("query and text read together by a transformer: any repository or folder"),
    "minilm": _cross_encoder("91 MB, English", "cross-encoder/ms-marco-MiniLM-L6-v2"),
    "bge": _cross_encoder("1.1 GB, English and Chinese", "BAAI/bge-reranker-base"),
    "jina": _cross_encoder("151 MB, English, long texts", "jinaai/jina-reranker-v1-turbo-en"),
    "mxbai": _cross_encoder("284 MB, English", "mixedbread-ai/mxbai-rerank-xsmall-v1"),
    "gte": _cross_encoder("599 MB, English, long texts", "Alibaba-NLP/gte-reranker-modernbert-base"),
    "qwen3": Entry(
        target="rerankx.backends.cross_encoder:CrossEncoder",
        summary="Qwen/Qwen3-Reranker-0.6B: a language model, over 100 languages, for GPUs",
        requires=(*_ONNX, "sentence_transformers"),
        extra="sentence-transformers",
        model="Qwen/Qwen3-Reranker-0.6B",
    ),
    "flashrank": Entry(
        target="rerankx.backends.flashrank:FlashRank",
        summary="FlashRank's models by its own names",
        requires=_ONNX,
    ),
    "cohere": Entry(
        target="rerankx.backends.cohere:Cohere",
        summary="Cohere's models, by its own SDK",
        requires=("cohere", "httpx", "tenacity"),
        extra="cohere",
    ),
    "http": _HTTP,
    "listwise": Entry(
        target="rerankx.backends.listwise:Listwise",
        summary="a language model that puts passages in order: yours, or any OpenAI-compatible service's",
        requires=("httpx", "tenacity"),
        extra="llm",
    ),
    "judge": Entry(
        target="rerankx.backends.judge:Judge",
        summary="a language model that grades each text by itself",
        requires=("httpx", "tenacity"),
        extra="llm",
    ),
}
"""Those of `presets()` come on top."""


@cache
def presets() -> Mapping[str, Entry]:
    """Return the entries of the services that `http` knows: one per dialect in the catalogue."""
    from rerankx.catalogue.endpoints import ENDPOINTS  # 10 ms: only for those who need it

    return {
        name: replace(_HTTP, summary=endpoint.summary, options={"dialect": name})
        for name, endpoint in ENDPOINTS.items()
        if name != "cohere"  # there it is the protocol, which others speak, too
    }


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of `available()`."""

    name: str
    summary: str
    missing: tuple[str, ...] = ()
    """Import names of the packages that are not installed."""
    command: str | None = None
    """What installs them."""


def available() -> list[Listed]:
    """Return every backend, the default first and then by name, with what is missing for it. Imports none of them."""
    listed = []
    for name, entry in {**BUILT_IN, **presets()}.items():
        missing = _missing(entry)
        listed.append(Listed(name, entry.summary, missing, _install_command(entry) if missing else None))
    for name, points in _entry_points().items():
        listed.append(Listed(name, f"from {_distributions(points)}"))
    return sorted(listed, key=lambda line: (line.name != "embedded", line.name))


def create(name: str, /, *, model: str | None = None, **options: object) -> Backend:
    """Return the backend that `name` stands for: "backend" or "backend:model", split at the first colon.

    Args:
        name: A registered name, with or without a model.
        model: The model, where the name does not say.
        **options: Arguments of the backend's own constructor.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: A package that it needs is not installed.
        TypeError: An option that its constructor does not have.
        ValueError: Two models, none after the colon, or several packages that offer a backend of that name.
    """
    backend, colon, named = name.partition(":")
    if backend in _WRAPPERS:
        raise ValueError(
            f"{backend!r} is made of other backends: pass a rerankx.{_WRAPPERS[backend]} in place of a name"
        )
    if colon and not named:
        raise ValueError(f"{name!r} names no model after the colon; write {backend!r} for its default")
    if named and model is not None and named != model:
        raise ValueError(f"two models given: {named!r} in the name, {model!r} as model=")
    cls, preset = _find(backend)
    given = {"model": named or model} if named or model else {}
    options = {**preset, **given, **options}
    _check_options(cls, backend, options)
    return cls(**options)


def preset_of(name: str, cls: type[Backend]) -> Mapping[str, object] | None:
    """Return the options that come with the name, if it stands for this very class; else None."""
    try:
        found, preset = _find(name)
    except (UnknownBackendError, MissingDependencyError, ValueError, TypeError):
        return None
    return preset if found is cls else None


def alias_of(name: str, model: str) -> str | None:
    """Return the alias that stands for this model of the backend, if there is one: "minilm"."""
    target = BUILT_IN[name].target if name in BUILT_IN else None
    aliases = (alias for alias, entry in BUILT_IN.items() if entry.model == model and entry.target == target)
    return next(aliases, None)


def _find(name: str) -> tuple[type[Backend], Mapping[str, object]]:
    """Return the class that `name` stands for, and the options that come with the name."""
    entry = BUILT_IN.get(name) or presets().get(name)
    if entry is not None:
        missing = _missing(entry)
        if missing:
            raise MissingDependencyError(name, missing, _install_command(entry))
        module, _, attribute = entry.target.partition(":")
        preset = entry.options if entry.model is None else {"model": entry.model, **entry.options}
        return getattr(import_module(module), attribute), preset
    points = _entry_points()
    if name not in points:
        raise UnknownBackendError(name, [*BUILT_IN, *presets(), *points])
    if len(points[name]) > 1:
        raise ValueError(f"several installed packages offer a backend {name!r}: {_distributions(points[name])}")
    cls = points[name][0].load()
    if not (isinstance(cls, type) and issubclass(cls, Backend)):
        raise TypeError(f"entry point {name!r} of {_distributions(points[name])} is not a rerankx.Backend class")
    return cls, {}


def _missing(entry: Entry) -> tuple[str, ...]:
    return tuple(package for package in entry.requires if find_spec(package) is None)


def _install_command(entry: Entry) -> str:
    return f"pip install 'rerankx[{entry.extra}]'" if entry.extra else "pip install rerankx"


def _entry_points() -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points  # 10 ms: only for those who need it

    found: dict[str, list[EntryPoint]] = {}
    for point in sorted(entry_points(group=GROUP), key=lambda point: (point.name, point.value)):
        if point.name in BUILT_IN or point.name in presets():
            logger.warning("backend %r of %s is ignored: that name is built in", point.name, _distributions([point]))
        else:
            found.setdefault(point.name, []).append(point)
    return found


def _distributions(points: list[EntryPoint]) -> str:
    return ", ".join(sorted({point.dist.name if point.dist else point.value for point in points}))


def _check_options(cls: type[Backend], backend: str, options: Mapping[str, object]) -> None:
    parameters = inspect.signature(cls).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    for name in options:
        if name not in parameters:
            near, known = did_you_mean(name, parameters), ", ".join(sorted(parameters)) or "none"
            raise TypeError(f"backend {backend!r} has no option {name!r}{near}; it has: {known}")
