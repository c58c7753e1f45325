"""Names become backends."""

from __future__ import annotations

from rerankx import registry
from rerankx.interface import Backend


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
