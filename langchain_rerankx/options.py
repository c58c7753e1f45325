"""A backend's options as `Reranker` holds them: no key in sight, and the backend that was made of them kept."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pickle import HIGHEST_PROTOCOL

from langchain_core.load import dumpd
from langchain_core.load.serializable import Serializable
from pydantic import SecretBytes, SecretStr

import rerankx

# A name that may hold a secret. "tokenizer" and its kind name a file, "key_field" a field.
_SECRET = re.compile(
    r"api.?key|key(?!_|word)|token(?!i)|secret|passw|pwd|cred|auth(?!or(?!iz))|cookie|bearer|passphrase|signature|jwt",
    re.IGNORECASE,
)
_SECRET_IN_URL = re.compile(r"://[^/@\s]+@|[?&][^=&\s]*(key|token|sig|secret)[^=&\s]*=", re.IGNORECASE)

ASKING = ("listwise", "judge")
"""Backends that ask a language model."""

# What shows itself without telling more than it should; anything else may be a client or a model that holds a key.
_PLAIN = (str, bytes, int, float, type(None), SecretStr, SecretBytes)


class Options(Mapping[str, object]):
    """A read-only mapping of a backend's options; strings under a name such as "api_key" are `SecretStr`.

    It also keeps the backends that were made, of it and of the names of fallbacks. A Runnable with `configurable_fields` is built
    anew from its fields at every call: this object is handed on, and so no model is loaded again.
    """

    def __init__(self, options: Mapping[str, object] | None = None) -> None:
        self._options = {name: _mapped(name, value, _masked) for name, value in (options or {}).items()}
        self._backends: dict[tuple[str, str | None], rerankx.Backend] = {}
        self._fallbacks: dict[str, rerankx.Backend] = {}

    def backend(self, name: str, model: str | None) -> rerankx.Backend:
        """Return the backend of that name with these options, the same one every time.

        Raises:
            UnknownBackendError: No backend of that name.
            MissingDependencyError: It needs a package that is not installed.
            TypeError: An option that it does not have.
        """
        made = self._backends.get((name, model))
        if made is None:
            options = {name: _mapped(name, value, _revealed) for name, value in self._options.items()}
            made = rerankx.Reranker(name, model=model, **options).backend  # type: ignore[arg-type] # checked in the core
        return self._backends.setdefault((name, model), made)

    def fallback(self, name: str) -> rerankx.Backend:
        """Return the backend of that name without any options, the same one every time; raises what `backend` does.

        Raises:
            ValueError: It asks a language model, which is an option.
        """
        if name in ASKING:
            raise ValueError(
                f"{name!r} needs a language model, and no option reaches a fallback: as a fallback give the object:"
                f" rerankx.Reranker({name!r}, llm=...).backend"
            )
        made = self._fallbacks.get(name)
        return self._fallbacks.setdefault(name, rerankx.Reranker(name).backend if made is None else made)

    def __getitem__(self, name: str) -> object:
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def shown(self) -> dict[str, object]:
        """Return the options for others to see: objects, such as a model, by their type alone."""
        return {name: _mapped(name, value, _plain) for name, value in self._options.items()}

    def written(self) -> dict[str, object]:
        """Return the options as `dumpd` may write them: objects too, where `load` can make them again and no key is told."""
        return {name: _mapped(name, value, _writable) for name, value in self._options.items()}

    def __repr__(self) -> str:
        return repr(self.shown())

    # Nobody can change it; copies share its backends, what these have spent, and clients, most of which cannot be copied.
    def __copy__(self) -> Options:
        return self

    def __deepcopy__(self, memo: object) -> Options:
        return self

    def __reduce__(self) -> tuple[type[Options], tuple[Mapping[str, object]]]:
        named: set[str] = set()
        for backend in self._backends.values():
            # It refuses what it would refuse of its own: headers, a model, a client.
            backend.__reduce_ex__(HIGHEST_PROTOCOL)
            named |= backend.secrets.keys()
        kept = {name: value for name, value in self._options.items() if name not in named}
        if secret := sorted(name for name, value in kept.items() if _holds_secret(value)):
            raise TypeError(
                f"{', '.join(secret)} may hold secrets, and a pickle holds none: make the reranker where it is used"
            )
        return Options, (kept,)  # a copy makes its own backend, which reads its keys from the environment


class Opaque:
    """Stands for an object whose own `repr` is not to be trusted with a key; its own says of what type that is.

    Args:
        held: The object.
        hint: What else to say.
    """

    def __init__(self, held: object, hint: str = "") -> None:
        self._shown = f"<{type(held).__name__}{hint}>"

    def __repr__(self) -> str:
        return self._shown


def _mapped(path: str, value: object, change: Callable[[str, object], object]) -> object:
    """Return `value` with `change` applied to everything in it; `path` is the names that lead there."""
    if isinstance(value, Mapping):
        return {name: _mapped(f"{path}.{name}", item, change) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset) and type(value) in (list, tuple, set, frozenset):
        return type(value)(_mapped(_path_to(item, path), item, change) for item in value)
    return change(path, value)


def _path_to(item: object, path: str) -> str:
    """Return the names that lead to an item of a sequence; a pair in it may be a header, with its name in front."""
    pair = isinstance(item, list | tuple) and len(item) == 2 and isinstance(item[0], str)
    return f"{path}.{item[0]}" if pair else path  # type: ignore[index] # only of a pair


def _masked(path: str, value: object) -> object:
    if path.startswith("dialect.") and not path.startswith("dialect.headers"):
        return value  # "auth" and "tokens" are names of places there
    if not (_SECRET.search(path) or (isinstance(value, str) and _SECRET_IN_URL.search(value))):
        return value
    return SecretBytes(value) if isinstance(value, bytes) else SecretStr(value) if isinstance(value, str) else value


def _holds_secret(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_holds_secret, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(_holds_secret, value))
    return isinstance(value, SecretStr | SecretBytes)


def _plain(path: str, value: object) -> object:
    return value if isinstance(value, _PLAIN) else Opaque(value)


def _writable(path: str, value: object) -> object:
    if isinstance(value, _PLAIN) or (isinstance(value, Serializable) and _tells_no_secret(path, dumpd(value))):
        return value
    return Opaque(value, ": not written; put the object itself here before load()")


def _tells_no_secret(path: str, dumped: object) -> bool:
    """Return whether what `dumpd` wrote of an object is all that makes it, and holds no key but by its name."""
    if isinstance(dumped, Mapping):
        kind = dumped.get("type") if dumped.get("lc") == 1 else None
        if kind in ("secret", "not_implemented"):
            return bool(kind == "secret")
        return all(_tells_no_secret(f"{path}.{name}", item) for name, item in dumped.items())
    if isinstance(dumped, list):
        return all(_tells_no_secret(_path_to(item, path), item) for item in dumped)
    return _masked(path, dumped) is dumped


def _revealed(path: str, value: object) -> object:
    return value.get_secret_value() if isinstance(value, SecretStr | SecretBytes) else value
