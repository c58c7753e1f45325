"""Names become backends, and what a wrapper is given is checked."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from inspect import getattr_static

from rerankx import registry
from rerankx.arguments import shown
from rerankx.interface import Backend, Scale


def made(what: str, backend: object) -> Backend:
    """Return the backend: of that name, or the one that was given; `what` it is for, for a message.

    Raises:
        TypeError: It is neither.
        UnknownBackendError: No backend of that name.
        MissingDependencyError: It needs a package that is not installed.
    """
    if isinstance(backend, str):
        return registry.create(backend)
    if not isinstance(backend, Backend):
        ready = isinstance(getattr(backend, "backend", None), Backend)
        hint = "; pass its .backend (its deadline_s and on_error stay behind)" if ready else ""
        raise TypeError(f"{what} must be a name or a rerankx.Backend, not {type(backend).__name__}{hint}")
    return backend


def all_made(what: str, argument: str, backends: object) -> tuple[Backend, ...]:
    """Return the backends, at least one; `what` each is, with {} for its position, and the argument's name, for messages.

    Raises:
        TypeError: `backends` is no list, or as in `made`.
        ValueError: There is none.
    """
    if not isinstance(backends, Sequence) or isinstance(backends, str | bytes):
        raise TypeError(f"{argument} must be a list of names or backends, not {type(backends).__name__}")
    if not backends:
        raise ValueError(f"{argument} is empty; give at least one name or backend")
    return tuple(made(what.format(i), backend) for i, backend in enumerate(backends))


def whole(name: str, value: object, *, low: int = 1) -> int:
    """Return a whole number of at least `low`.

    Raises:
        TypeError: It is no whole number.
        ValueError: It is less.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be a whole number, not {shown(value)}")
    number = operator.index(value)
    if number < low:
        raise ValueError(f"{name} must be at least {low}, not {number}")
    return number


def known_scale(backend: Backend) -> Scale | None:
    """Return the backend's scale, if it is known without a model's configuration, which might have to be fetched.

    A wrapper's `scale_source` is the backend whose scale it has, or that scale.
    """
    static = getattr_static(backend, "scale", None)
    if isinstance(static, Scale):
        return static
    source = getattr(backend, "scale_source", None)
    return known_scale(source) if isinstance(source, Backend) else source


def title(backend: Backend) -> str:
    """Return "name:model"."""
    return f"{backend.name}:{backend.model}"
