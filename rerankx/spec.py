"""A pipeline as plain data: `from_spec` builds it, `to_spec` writes it, YAML or JSON holds it.

backend:
  cascade:
    stages:
      - fusion: {backends: [retrieval, embedded]}
      - fallback:
          backends: [cohere, minilm]
          min_scores: {minilm: 0.3}
    keep: 20
on_error: input_order
deadline_s: 2
after: [drop_near_duplicates, {mmr: {balance: 0.8}}]
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

from rerankx import registry
from rerankx.after import drop_near_duplicates, fill_budget, lost_in_the_middle, mmr
from rerankx.compose.cached import Cached
from rerankx.compose.cascade import Cascade
from rerankx.compose.fallback import Fallback
from rerankx.compose.floor import Floor
from rerankx.compose.fused import Fusion
from rerankx.compose.stores import DiskStore, MemoryStore, Store
from rerankx.compose.windowed import Windowed
from rerankx.errors import (
    AuthenticationError,
    MissingDependencyError,
    RerankxError,
    SpecError,
    UnknownBackendError,
    did_you_mean,
)
from rerankx.interface import Backend
from rerankx.reranker import Reranker, Step

T = TypeVar("T")
Plain = str | int | float | bool | None | Mapping[str, "Plain"] | Sequence["Plain"]


class _Wrapper(NamedTuple):
    make: Callable[..., Backend]
    options: tuple[str, ...]
    """As the constructor has them, in its order."""
    holds: tuple[str, ...]
    """Those that are a backend or a list of backends."""


def _fallback(backends: Sequence[Backend], **options: Any) -> Fallback:
    return Fallback(*backends, **options)


_WRAPPERS: Mapping[str, _Wrapper] = {
    "cached": _Wrapper(Cached, ("backend", "store", "ttl_s", "namespace"), ("backend",)),
    "cascade": _Wrapper(Cascade, ("stages", "keep", "deadlines_s", "patience"), ("stages",)),
    "fallback": _Wrapper(_fallback, ("backends", "min_scores"), ("backends",)),
    "floor": _Wrapper(Floor, ("backend", "floor", "below"), ("backend", "floor")),
    "fusion": _Wrapper(Fusion, ("backends", "method", "weights", "k", "normalise"), ("backends",)),
    "windowed": _Wrapper(Windowed, ("backend", "size", "overlap", "combine"), ("backend",)),
}
_AFTER: Mapping[str, Step] = {
    "drop_near_duplicates": drop_near_duplicates,
    "fill_budget": cast("Step", fill_budget),
    "lost_in_the_middle": lost_in_the_middle,
    "mmr": mmr,
}
_RERANKER = ("backend", "on_error", "deadline_s", "after")
_SECRET_IN_URL = re.compile(r"://[^/@\s]+@|[?&][^=&\s]*(key|token|sig|secret)[^=&\s]*=", re.IGNORECASE)


def from_spec(spec: Mapping[str, Plain] | str | os.PathLike[str]) -> Reranker:
    """Return the reranker that a spec declares.

        from_spec({"backend": {"cascade": {"stages": ["embedded", "minilm"], "keep": 20}}, "deadline_s": 2})
        from_spec("pipeline.yaml")

    A backend is a name, "minilm" or "backend:model", or {name: options}; the wrappers go by "cascade", "fusion", "fallback",
    "floor", "windowed" and "cached", with the arguments of their classes; a cache's `store` is a path, or {"path": ...,
    "max_bytes": ...}, without a path in memory. Steps that come after are names of functions in
    `rerankx.after`, or {name: options}. There are no secrets in a spec: backends read their keys from the environment, by their
    own variables or by {"api_key": {"env": "MY_KEY"}}. A spec decides what is loaded and where texts are sent: take it only from
    those who may decide that.

    Args:
        spec: A mapping, or the path of a YAML or JSON file.

    Raises:
        SpecError: What is wrong with it, and where: "backend.cascade.keep: ...".
        MissingDependencyError: A backend needs a package that is not installed, or a YAML file needs PyYAML.
        OSError: The file cannot be read.
    """
    declared = spec if isinstance(spec, Mapping) else _read(spec)
    _check_plain(declared, "")
    _check_names(declared, _RERANKER, "")
    if "backend" not in declared:
        raise SpecError('a spec needs a "backend"')
    after = declared.get("after", [])
    if not isinstance(after, Sequence) or isinstance(after, str):
        raise SpecError(f"after: expected a list of steps, not {type(after).__name__}")
    options: dict[str, Any] = {name: declared[name] for name in ("on_error", "deadline_s") if name in declared}
    backend = _backend(declared["backend"], "backend")
    made = [_step(step, f"after[{i}]") for i, step in enumerate(after)]
    return _made("", partial(Reranker, backend, after=made, **options))


def to_spec(reranker: Reranker) -> dict[str, Any]:
    """Return the spec from which `from_spec` makes an equal reranker: plain, without defaults, and without secrets.

    Raises:
        SpecError: Part of it is code or an object, such as a callback, a language model, or a backend that does not tell how it
            was made.
    """
    if not isinstance(reranker, Reranker):
        raise TypeError(f"to_spec takes a rerankx.Reranker, not {type(reranker).__name__}")
    if reranker.on_ranking is not None:
        raise SpecError("on_ranking: a function has no place in a spec; set it on the reranker that is made of it")
    spec: dict[str, Any] = {"backend": _written(reranker.backend, "backend")}
    if reranker.on_error != "raise":
        spec["on_error"] = reranker.on_error
    if reranker.deadline_s is not None:
        spec["deadline_s"] = reranker.deadline_s
    if reranker.after:
        spec["after"] = [_written_step(step, f"after[{i}]") for i, step in enumerate(reranker.after)]
    return spec


def _backend(declared: Plain, path: str) -> Backend:
    if isinstance(declared, str):
        return _made(path, partial(_named, declared))
    name, options = _entry(declared, path, 'a name or {"name": {options}}')
    path = f"{path}.{name}"
    wrapper = _WRAPPERS.get(name)
    if wrapper is None:
        return _made(path, partial(registry.create, name, **_without_secrets(options, path)))
    _check_names(options, wrapper.options, path)
    made: dict[str, Any] = dict(options)
    if isinstance(options.get("store"), Mapping):
        made["store"] = _store(options["store"], f"{path}.store")
    for part in wrapper.holds:
        held = options.get(part)
        if isinstance(held, Sequence) and not isinstance(held, str):
            made[part] = [_backend(one, f"{path}.{part}[{i}]") for i, one in enumerate(held)]
        elif isinstance(held, Mapping) or (isinstance(held, str) and (name, held) != ("floor", "input_order")):
            made[part] = _backend(held, f"{path}.{part}")
    return _made(path, partial(wrapper.make, **made))


def _store(declared: Mapping[str, Any], path: str) -> Store:
    _check_names(declared, ("path", "max_bytes"), path)
    kind: Callable[..., Store] = DiskStore if "path" in declared else MemoryStore
    return _made(path, partial(kind, **declared))


def _named(name: str) -> Backend:
    if name in _WRAPPERS:
        first = _WRAPPERS[name].options[0]
        raise SpecError(f"{name} needs what it is made of: {{{name}: {{{first}: ...}}}}")
    return registry.create(name)


def _step(declared: Plain, path: str) -> Step:
    name, options = (
        (declared, {}) if isinstance(declared, str) else _entry(declared, path, 'a name or {"name": {options}}')
    )
    if name not in _AFTER:
        raise SpecError(f"{path}: no step {name!r}{did_you_mean(name, _AFTER)}; known: {', '.join(_AFTER)}")
    known = [option for option in inspect.signature(_AFTER[name]).parameters if option not in ("ranking", "top_n")]
    _check_names(options, known, f"{path}.{name}")
    return partial(_AFTER[name], **options) if options else _AFTER[name]


def _entry(declared: Plain, path: str, expected: str) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(declared, Mapping):
        raise SpecError(f"{path}: expected {expected}, not {type(declared).__name__}")
    if len(declared) != 1:
        raise SpecError(f"{path}: expected {expected}, not a mapping of {len(declared)} names ({', '.join(declared)})")
    ((name, options),) = declared.items()
    options = {} if options is None else options
    if not isinstance(options, Mapping):
        raise SpecError(f"{path}.{name}: expected its options by name, not {type(options).__name__}")
    return name, options


def _without_secrets(options: Mapping[str, Any], path: str) -> dict[str, Any]:
    """Return the options, a key that is named by its variable as what that holds."""
    made = dict(options)
    for name, value in options.items():
        if name == "headers" and value:
            raise SpecError(f"{path}.headers: they may hold secrets, and a spec holds none; build this backend in code")
        if name == "api_key" and value is not None:
            if not (isinstance(value, Mapping) and set(value) == {"env"} and isinstance(value["env"], str)):
                raise SpecError(
                    f'{path}.api_key: no secret in a spec; leave it out, or write {{"env": "NAME_OF_A_VARIABLE"}}'
                )
            if not os.environ.get(value["env"]):
                raise AuthenticationError(f"{path}.api_key: the environment has no {value['env']}")
            made[name] = os.environ[value["env"]]
        if isinstance(value, str) and _SECRET_IN_URL.search(value):
            raise SpecError(f"{path}.{name}: no secret in a spec, not in an address either")
    return made


def _made(path: str, make: Callable[[], T]) -> T:
    """Return what is made; what is wrong with it is told with the path."""
    try:
        return make()
    except (MissingDependencyError, AuthenticationError) as error:
        error.add_note(f"in the spec, at {path or 'its top'}")
        raise
    except UnknownBackendError as error:
        known = UnknownBackendError(error.name, [*error.known, *_WRAPPERS])
        raise SpecError(f"{path}: {known}") from error
    except (TypeError, ValueError, RerankxError) as error:
        raise SpecError(f"{path}: {error}" if path else str(error)) from error


def _check_plain(value: object, path: str) -> None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if not isinstance(name, str):
                raise SpecError(f"{path or 'spec'}: a name must be a string, not {name!r} ({type(name).__name__})")
            _check_plain(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_plain(inner, f"{path}[{i}]")
    elif not isinstance(value, str | int | float | None):
        raise SpecError(f"{path}: a spec holds text, numbers, lists and mappings, not {type(value).__name__}")


def _check_names(declared: Mapping[str, object], known: Sequence[str], path: str) -> None:
    for name in declared:
        if name not in known:
            at = f"{path}.{name}" if path else name
            raise SpecError(f"{at}: not known here{did_you_mean(name, known)}; known: {', '.join(known)}")


def _read(path: object) -> Mapping[str, Plain]:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"a spec is a mapping or the path of a file, not {type(path).__name__}")
    file = Path(path)
    if file.suffix not in (".yaml", ".yml", ".json"):
        raise SpecError(f"{str(file)[:80]!r} is no .yaml, .yml or .json file; pass the path of one, or a mapping")
    text = file.read_text("utf-8")
    found = _json(text, file) if file.suffix == ".json" else _yaml(text, file)
    if not isinstance(found, Mapping):
        raise SpecError(f"{file} holds {type(found).__name__}; a spec is a mapping")
    return found


def _json(text: str, file: Path) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise SpecError(f"{file} is no JSON: {error}") from error


def _yaml(text: str, file: Path) -> object:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("from_spec", ["yaml"], "pip install pyyaml") from error
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise SpecError(f"{file} is no YAML: {error}") from error


def _written(backend: Backend, path: str) -> Any:
    wrapper = _WRAPPERS.get(backend.name)
    if wrapper is not None:
        return _written_wrapper(backend, wrapper, f"{path}.{backend.name}")
    name, options = _options_of(backend, path)
    model = options.pop("model", None)
    if alias := registry.alias_of(name, backend.model):
        name, model = alias, None
    if any(option in options for option in ("llm", "headers")):
        raise SpecError(f"{path}.{name}: made with objects or headers, which have no place in a spec")
    _check_plain(options, f"{path}.{name}")
    if not options:
        return name if model is None else f"{name}:{model}"
    return {name: options if model is None else {"model": model, **options}}


def _written_wrapper(backend: Backend, wrapper: _Wrapper, path: str) -> dict[str, Any]:
    defaults = inspect.signature(type(backend)).parameters
    written: dict[str, Any] = {}
    for name in wrapper.options:
        value = getattr(backend, name)
        if isinstance(value, tuple):
            value = list(value)
        elif isinstance(value, MemoryStore | DiskStore):
            value = _written_store(value)
        if name in wrapper.holds:
            if isinstance(value, list):
                value = [_written(one, f"{path}.{name}[{i}]") for i, one in enumerate(value)]
            elif isinstance(value, Backend):
                value = _written(value, f"{path}.{name}")
            else:
                continue
        elif _says_nothing(value) or (name in defaults and value == defaults[name].default):
            continue
        written[name] = value
    _check_plain(written, path)
    return {backend.name: written}


def _written_store(store: MemoryStore | DiskStore) -> Plain:
    default = inspect.signature(type(store)).parameters["max_bytes"].default
    size = {} if store.max_bytes == default else {"max_bytes": store.max_bytes}
    if isinstance(store, MemoryStore):
        return size
    return {"path": str(store.path), **size} if size else str(store.path)


def _says_nothing(value: object) -> bool:
    return value in (None, "", {}) or (isinstance(value, list) and all(one is None for one in value))


def _options_of(backend: Backend, path: str) -> tuple[str, dict[str, Any]]:
    """Return the name of the backend's class, and the options of its constructor that do not come with it.

    They are those that it pickles by: these hold no secret.
    """
    cls = type(backend)
    preset = registry.preset_of(backend.name, cls)
    if preset is None:
        raise SpecError(f"{path}: {cls.__name__} is not registered as {backend.name!r}, so that a spec cannot name it")
    try:
        reduced = backend.__reduce__()
    except TypeError as error:
        raise SpecError(f"{path}: {error}") from error
    signature, make = inspect.signature(cls), reduced[0] if isinstance(reduced, tuple) else None
    if isinstance(make, partial) and make.func is cls:
        given = signature.bind_partial(*make.args, **make.keywords).arguments
    elif not signature.parameters:
        given = {}
    else:
        raise SpecError(
            f"{path}: {cls.__name__} does not tell how it was made: have __reduce__ return a partial of the class"
        )
    defaults = {option: parameter.default for option, parameter in signature.parameters.items()}
    known = {**defaults, **preset}
    own = {option: None if value == {} else value for option, value in given.items()}
    return backend.name, {
        option: value for option, value in own.items() if option not in known or value != known[option]
    }


def _written_step(step: Step, path: str) -> Any:
    function, options = (step.func, dict(step.keywords)) if isinstance(step, partial) else (step, {})
    name = next((name for name, known in _AFTER.items() if known is function), None)
    if name is None or (isinstance(step, partial) and step.args):
        raise SpecError(f"{path}: a function of your own has no place in a spec; it knows {', '.join(_AFTER)}")
    _check_plain(options, f"{path}.{name}")
    return {name: options} if options else name
