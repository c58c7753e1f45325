"""Classes of packages that rerankx does not import: found where somebody has imported them, and otherwise nothing is of them."""

from __future__ import annotations

import sys


def loaded(module: str, name: str) -> type | None:
    """Return the class of that name, or None where the module is not loaded, or has none."""
    found = getattr(sys.modules.get(module), name, None)
    return found if isinstance(found, type) else None


def is_a(thing: object, module: str, name: str) -> bool:
    """Return whether `thing` is an instance of that class."""
    kind = loaded(module, name)
    return kind is not None and isinstance(thing, kind)
