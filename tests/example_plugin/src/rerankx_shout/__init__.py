"""A backend for rerankx: the louder a text, the better."""

from __future__ import annotations

from collections.abc import Sequence

from rerankx import Backend, ModelNotFoundError, Scale

_LOUD = {
    "small": str.isupper,  # a character
    "big": lambda character: character in "!?",
}


class Shout(Backend):
    """Scores by the share of loud characters, in [0, 1].

    Args:
        model: "small" hears capitals, "big" hears exclamation and question marks.
        gain: What the share is multiplied by, before it is cut at 1; at least 1.

    Raises:
        ModelNotFoundError: Another model is asked for.
    """

    name = "shout"
    scale = Scale.similarity(0, 1)
    pointwise = True

    def __init__(self, model: str = "small", *, gain: float = 1.0) -> None:
        if model not in _LOUD:
            raise ModelNotFoundError(f"backend 'shout' has the models {', '.join(sorted(_LOUD))}, and no {model!r}")
        self.model, self.gain = model, gain

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint}:gain={self.gain}"

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> list[float]:
        loud = _LOUD[self.model]
        return [min(1.0, self.gain * sum(map(loud, text)) / len(text)) for text in texts]
