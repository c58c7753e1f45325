"""What an engine is: something that runs a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

ONNX_FILES = ("onnx/model.onnx", "model.onnx")
"""Where a repository or a folder has its fp32 graph, by custom."""


class Logits(NamedTuple):
    """What a model says of n pairs, before any activation."""

    rows: Sequence[NDArray[np.float32] | None]
    """[labels] per text, in the order of the texts; None where the deadline left no time."""
    cut: Sequence[bool]
    """[n]: whether the pair was cut to the model's length; False where it was not run."""
    tokens: int
    """Computed, special ones included."""


class Engine(Protocol):
    """Runs one model; safe under threads."""

    def logits(self, query: str, texts: Sequence[str]) -> Logits:
        """Return the logits of the query with each text; at least one text, none of them blank."""

    def describe(self) -> dict[str, object]:
        """Return how it runs, as JSON has it: engine, device, precision, longest pair."""
