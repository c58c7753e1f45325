"""A ranking that was read from a reply."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Order:
    """A ranking that was read."""

    indices: tuple[int, ...]
    """A permutation of range(n), best first."""
    repairs: tuple[str, ...] = ()
    """How the reply was mended, sorted; () is exactly what was asked for. Of "cut off", "digits" (not 0-9), "fence", "letters",
    "missing ids", "prose", "repeated ids", "thinking", "unknown ids"."""
