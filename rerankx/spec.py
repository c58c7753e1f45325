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
from weakref import WeakKeyDictionary

from rerankx import registry
from rerankx.after import drop_near_duplicates, fill_budget, lost_in_the_middle, mmr
from rerankx.compose.cached import Cached
from rerankx.compose.calibrated import Calibrated, Calibration
from rerankx.compose.cascade import Cascade
from rerankx.compose.fallback import Fallback
from rerankx.compose.floor import Floor
from rerankx.compose.fused import Fusion
from rerankx.compose.made import title
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
from rerankx.interface import Backend, Scale
from rerankx.ranking import Ranking
from rerankx.reranker import Reranker, Step

T = TypeVar("T")
Plain = str | int | float | bool | None | Mapping[str, "Plain"] | Sequence["Plain"]


class _Wrapper(NamedTuple):
    kind: type[Backend]
    one: tuple[str, ...] = ()
    """Options that are a backend."""
    several: tuple[str, ...] = ()
    """Options that are lists of backends."""

    @property
    def options(self) -> list[str]:
        """Return what the constructor takes, in its order."""
        return list(inspect.signature(self.kind).parameters)


_WRAPPERS: Mapping[str, _Wrapper] = {
    "cached": _Wrapper(Cached, one=("backend",)),
    "calibrated": _Wrapper(Calibrated, one=("backend",)),
    "cascade": _Wrapper(Cascade, several=("stages",)),
    "fallback": _Wrapper(Fallback, several=("backends",)),
    "floor": _Wrapper(Floor, one=("backend", "floor")),
    "fusion": _Wrapper(Fusion, several=("backends",)),
    "windowed": _Wrapper(Windowed, one=("backend",)),
}
_AFTER: Mapping[str, Step] = {
    "drop_near_duplicates": drop_near_duplicates,
    "fill_budget": cast("Step", fill_budget),
    "lost_in_the_middle": lost_in_the_middle,
    "mmr": mmr,
}
_RERANKER = ("backend", "fallback", "on_error", "deadline_s", "after")
_EMPTY = Ranking[Any]((), "", "", "", Scale.UNKNOWN, total=0)
# "tokenizer" and its kind name a file, "key_field" a field.
_SECRET = re.compile(
    r"api.?key|key(?!_|word)|token(?!i)|secret|passw|pwd|cred|auth(?!or(?!iz))|cookie|bearer|passphrase|signature|jwt",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(r"://[^/@\s]+@|[?&][^=&\s]*(key|token|sig|secret)[^=&\s]*=", re.IGNORECASE)
_variables: WeakKeyDictionary[Backend, dict[str, str]] = WeakKeyDictionary()
"""The names of variables by which backends were given their keys."""


def from_spec(spec: Mapping[str, Plain] | str | os.PathLike[str]) -> Reranker:
    """Return the reranker that a spec declares.

        from_spec({"backend": {"cascade": {"stages": ["embedded", "minilm"], "keep": 20}}, "deadline_s": 2})
        from_spec("pipeline.yaml")

    Its names are "backend", "fallback", "on_error", "deadline_s" and "after". A backend is a name, "minilm" or "backend:model",
    or {name: options}; the wrappers go by "cascade", "fusion", "fallback", "floor", "windowed", "cached" and "calibrated", with
    the arguments of their classes; a cache's `store` is a path, or {"path": ..., "max_bytes": ...}, without a path in memory. A
    relative path begins where the process stands. Steps that come after are names of functions in `rerankx.after`, or {name:
    options}.

    There are no secrets in a spec: backends read their keys from the environment, by their own variables or by
    {"api_key": {"env": "MY_KEY"}}. A spec decides what is loaded and where texts are sent: take it only from those who may
    decide that.

    Args:
        spec: A mapping, or the path of a YAML or JSON file.

    Raises:
        SpecError: What is wrong with it, and where: "backend.cascade.stages[1].windowed: size must be at least 1, not 0".
        MissingDependencyError: A backend needs a package that is not installed, or a YAML file needs PyYAML.
        AuthenticationError: There is no key in the environment.
        OSError: The file cannot be read.
    """
    try:
        declared = _plain(spec if isinstance(spec, Mapping) else _read(spec), "")
    except RecursionError:
        raise SpecError("a spec must not hold itself, nor be nested hundreds deep") from None
    _check_names(declared, _RERANKER, "")
    if "backend" not in declared:
        raise SpecError('a spec needs a "backend"')
    backend = _backend(declared["backend"], "backend")
    fallback = [
        _backend(one, f"fallback[{i}]") for i, one in enumerate(_listed(declared.get("fallback", []), "fallback"))
    ]
    after = [_step(one, f"after[{i}]") for i, one in enumerate(_listed(declared.get("after", []), "after"))]
    options = {name: declared[name] for name in ("on_error", "deadline_s") if name in declared}
    return _made("", lambda: Reranker(backend, fallback=fallback, after=after, **options))


def to_spec(reranker: Reranker) -> dict[str, Any]:
    """Return the spec from which `from_spec` makes an equal reranker: plain, without defaults, and without secrets.

    Raises:
        SpecError: Part of it is code or an object, such as a callback, a language model, or a backend that does not tell how it
            was made; or a secret that no variable is known for.
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


# From a spec


def _backend(declared: Any, path: str) -> Backend:
    if isinstance(declared, str):
        return _made(path, partial(_named, declared))
    name, options = _entry(declared, path, 'a name or {"name": {options}}')
    path = f"{path}.{name}"
    wrapper = _WRAPPERS.get(name)
    if wrapper is not None:
        return _wrapper(wrapper, options, path)
    variables = {option: value["env"] for option, value in options.items() if _is_variable(value)}
    _refuse_secrets({option: value for option, value in options.items() if option not in variables}, path)
    for option, variable in variables.items():
        if not os.environ.get(variable):
            raise AuthenticationError(f"{path}.{option}: the environment has no {variable}")
    backend = _made(path, lambda: registry.create(name, **options | {o: os.environ[v] for o, v in variables.items()}))
    if variables:
        _variables[backend] = variables
    return backend


def _wrapper(wrapper: _Wrapper, options: dict[str, Any], path: str) -> Backend:
    _check_names(options, wrapper.options, path)
    made = dict(options)
    for name in wrapper.one:
        if name in options and (name, options[name]) != ("floor", "input_order"):
            made[name] = _backend(options[name], f"{path}.{name}")
    needed = {**dict.fromkeys(wrapper.one[:1], "a backend"), **dict.fromkeys(wrapper.several, "a list of backends")}
    if wrapper.kind is Calibrated:
        needed["calibrator"] = "the path of its file, or what is in that"
    for name, what in needed.items():
        if name not in options:
            raise SpecError(f"{path}: it needs {name!r}, {what}")
    for name in wrapper.several:
        made[name] = [
            _backend(one, f"{path}.{name}[{i}]") for i, one in enumerate(_listed(options[name], f"{path}.{name}"))
        ]
    if isinstance(options.get("store"), dict):
        made["store"] = _store(options["store"], f"{path}.store")
    if wrapper.kind is not Fallback:
        return _made(path, partial(wrapper.kind, **made))
    if isinstance(min_scores := options.get("min_scores"), dict):
        # The names as they are declared are not those of the objects that were made of them.
        titles = {
            _name_of(one): title(backend) for one, backend in zip(options["backends"], made["backends"], strict=True)
        }
        made["min_scores"] = {titles.get(name, name): threshold for name, threshold in min_scores.items()}
    return _made(path, lambda: Fallback(*made.pop("backends"), **made))


def _named(name: str) -> Backend:
    if name in _WRAPPERS:
        first = _WRAPPERS[name].options[0]
        raise SpecError(f"{name} needs what it is made of: {{{name}: {{{first}: ...}}}}")
    return registry.create(name)


def _name_of(declared: Any) -> str:
    return declared if isinstance(declared, str) else next(iter(declared))


def _store(declared: dict[str, Any], path: str) -> Store:
    _check_names(declared, ("path", "max_bytes"), path)
    kind: Callable[..., Store] = DiskStore if "path" in declared else MemoryStore
    return _made(path, partial(kind, **declared))


def _step(declared: Any, path: str) -> Step:
    name, options = _entry(
        {declared: {}} if isinstance(declared, str) else declared, path, 'a name or {"name": {options}}'
    )
    if name not in _AFTER:
        raise SpecError(f"{path}: no step {name!r}{did_you_mean(name, _AFTER)}; known: {', '.join(_AFTER)}")
    known = [option for option in inspect.signature(_AFTER[name]).parameters if option not in ("ranking", "top_n")]
    _check_names(options, known, f"{path}.{name}")
    step = partial(_AFTER[name], **options) if options else _AFTER[name]
    _made(f"{path}.{name}", lambda: step(_EMPTY, None))  # it checks its options before it does anything
    return step


def _entry(declared: Any, path: str, expected: str) -> tuple[str, dict[str, Any]]:
    if not isinstance(declared, dict):
        raise SpecError(f"{path}: expected {expected}, not {type(declared).__name__}")
    if len(declared) != 1:
        raise SpecError(f"{path}: expected {expected}, not a mapping of {len(declared)} names ({', '.join(declared)})")
    ((name, options),) = declared.items()
    options = {} if options is None else options
    if not isinstance(options, dict):
        raise SpecError(f"{path}.{name}: expected its options by name, not {type(options).__name__}")
    return name, options


def _listed(declared: Any, path: str) -> list[Any]:
    if not isinstance(declared, list):
        raise SpecError(f"{path}: expected a list, not {type(declared).__name__}")
    return declared


def _is_variable(value: Any) -> bool:
    return isinstance(value, dict) and set(value) == {"env"} and isinstance(value["env"], str)


def _refuse_secrets(value: Any, path: str) -> None:
    """Raise a SpecError where a secret may be, in options or written ones."""
    if isinstance(value, dict):
        for name, inner in value.items():
            at = f"{path}.{name}"
            if name == "headers" and inner:
                raise SpecError(f"{at}: headers may hold secrets, and a spec holds none; build this backend in code")
            if name == "dialect":  # "auth" and "tokens" are names of places in it
                continue
            if isinstance(inner, str) and _SECRET.search(name):
                raise SpecError(f'{at}: no secret in a spec; leave it out, or write {{"env": "NAME_OF_A_VARIABLE"}}')
            _refuse_secrets(inner, at)
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            _refuse_secrets(inner, f"{path}[{i}]")
    elif isinstance(value, str) and _SECRET_IN_URL.search(value):
        raise SpecError(f"{path}: no secret in a spec, not in an address either")


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


def _plain(value: Any, path: str) -> Any:
    """Return a copy of the value, of dicts and lists; raise a SpecError if it holds anything but plain data."""
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise SpecError(f"{path or 'spec'}: a name must be a string, not {name!r} ({type(name).__name__})")
        return {name: _plain(inner, f"{path}.{name}" if path else name) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{path}[{i}]") for i, inner in enumerate(value)]
    if not isinstance(value, str | int | float | None):
        raise SpecError(f"{path}: a spec holds text, numbers, lists and mappings, not {type(value).__name__}")
    return value


def _check_names(declared: dict[str, Any], known: Sequence[str], path: str) -> None:
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
    try:
        text = file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SpecError(f"{file} is not UTF-8: {error.reason} at byte {error.start}") from error
    found = _json(text, file) if file.suffix == ".json" else _yaml(text, file)
    if not isinstance(found, Mapping):
        raise SpecError(f"{file} holds {type(found).__name__}; a spec is a mapping")
    return found


def _json(text: str, file: Path) -> object:
    try:
        return json.loads(text, object_pairs_hook=_without_repeats)
    except ValueError as error:
        raise SpecError(f"{file} is no JSON: {error}") from error


def _without_repeats(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    """Return the mapping; a name that is there twice is an edit that forgot the old line."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise SpecError(f"{twice!r} stands twice in one mapping")
    return made


def _yaml(text: str, file: Path) -> object:
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError("from_spec", ["yaml"], "pip install pyyaml") from error
    try:

        class Loader(yaml.SafeLoader):
            def construct_mapping(self, node: Any, deep: bool = False) -> Any:
                _without_repeats([(self.construct_object(key), None) for key, _ in node.value])
                return super().construct_mapping(node, deep)

        return yaml.load(text, Loader)  # noqa: S506 - it is a safe one
    except (yaml.YAMLError, TypeError) as error:
        raise SpecError(f"{file} is no YAML: {error}") from error


# To a spec


def _written(backend: Backend, path: str) -> Any:
    for name, wrapper in _WRAPPERS.items():
        if type(backend) is wrapper.kind:
            return {name: _written_wrapper(backend, wrapper, f"{path}.{name}")}
    name, options = _options_of(backend, path)
    model = options.pop("model", None)
    if alias := registry.alias_of(name, backend.model):
        name, model = alias, None
    options = _plain(options, f"{path}.{name}")
    _refuse_secrets(options, f"{path}.{name}")
    options |= {option: {"env": variable} for option, variable in _variables.get(backend, {}).items()}
    if getattr(backend, "_key", None) is not None and not backend.secrets and backend not in _variables:
        raise SpecError(f"{path}.{name}: it has a key, and no variable that a spec could name it by")
    if not options:
        return name if model is None else f"{name}:{model}"
    return {name: options if model is None else {"model": model, **options}}


def _written_wrapper(backend: Backend, wrapper: _Wrapper, path: str) -> dict[str, Any]:
    written: dict[str, Any] = {}
    for name, parameter in inspect.signature(wrapper.kind).parameters.items():
        value = getattr(backend, name)
        if name in wrapper.several:
            written[name] = [_written(one, f"{path}.{name}[{i}]") for i, one in enumerate(value)]
        elif name in wrapper.one:
            if value is not None:  # a floor's input order
                written[name] = _written(value, f"{path}.{name}")
        else:
            value = _plain(_as_declared(value), f"{path}.{name}")
            if value != parameter.default and not _says_nothing(value):
                written[name] = value
    if (
        isinstance(backend, Fallback)
        and len(set(map(title, backend.backends))) < len(backend.backends)
        and backend.min_scores
    ):
        raise SpecError(f"{path}.min_scores: two of the backends are the same, so that a threshold cannot name one")
    return written


def _as_declared(value: Any) -> Any:
    if type(value) in (MemoryStore, DiskStore):
        return _written_store(value)
    return value.to_dict() if isinstance(value, Calibration) else value


def _written_store(store: Any) -> Plain:
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
    if isinstance(make, partial) and make.func is cls and len(reduced) == 2:
        given = signature.bind_partial(*make.args, *cast("tuple[Any, ...]", reduced[1]), **make.keywords).arguments
    elif not signature.parameters:
        given = {}
    else:
        raise SpecError(
            f"{path}: {cls.__name__} does not tell how it was made: have __reduce__ return a partial of the class"
        )
    known = {**{option: parameter.default for option, parameter in signature.parameters.items()}, **preset}
    own = {option: None if value == {} else value for option, value in given.items()}
    return backend.name, {
        option: value for option, value in own.items() if option not in known or value != known[option]
    }


def _written_step(step: Step, path: str) -> Any:
    function, options = (step.func, dict(step.keywords)) if isinstance(step, partial) else (step, {})
    name = next((name for name, known in _AFTER.items() if known is function), None)
    if name is None or (isinstance(step, partial) and step.args):
        raise SpecError(f"{path}: a function of your own has no place in a spec; it knows {', '.join(_AFTER)}")
    options = _plain(options, f"{path}.{name}")
    return {name: options} if options else name
