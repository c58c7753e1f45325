"""What tells two objects apart that look the same."""

from __future__ import annotations

from uuid import uuid4
from weakref import finalize

_known: dict[int, str] = {}


def identity(thing: object) -> str:
    """Return what no other object of any process has, and this one for as long as it lives."""
    unique = uuid4().hex
    if id(thing) not in _known:
        try:
            finalize(thing, _known.pop, id(thing), None)
        except TypeError:  # nothing would say when it ends, and another takes its place
            return unique
    return _known.setdefault(id(thing), unique)
