"""What is known of a model: the kinds of card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What is known of a model."""

    model: str
    """As its provider names it."""
    source: str
    """Where the weights come from."""
    sha256: str
    """Of the file that is run."""
    megabytes: int
    """Of the file that is run, 10^6 bytes."""
    licence: str
    """SPDX identifier of the weights' licence."""
    languages: str
    max_tokens: int
    """The longest sequence it has positions for."""
    good_at: str
    not_good_at: str


@dataclass(frozen=True, slots=True)
class Published:
    """A figure that somebody else printed; not measured here."""

    collection: str
    """Such as "TREC DL19" or "BEIR SciFact"."""
    metric: str
    """Such as "nDCG@10" or "MRR@10"; linear or exponential gain as the source has it."""
    value: float
    """In [0, 1]."""
    first_stage: str
    """What found the candidates, and how many; figures over different first stages do not compare."""
    source: str
    """Address of the page that has it."""


@dataclass(frozen=True, slots=True)
class Golden:
    """Logits that the model gives to one query and two texts, printed by somebody else: what `rerankx verify` compares with."""

    query: str
    texts: tuple[str, ...]
    logits: tuple[float, ...]
    tolerance: float
    source: str


@dataclass(frozen=True, slots=True)
class CrossEncoderCard:
    """What is known of a cross-encoder before a file of it is fetched."""

    model: str
    """Its repository on the hub, or the name its package gives it."""
    licence: str
    """SPDX identifier of the weights' licence, or the provider's words where there is none."""
    commercial_use: bool
    """Whether that licence permits it."""
    languages: str
    parameters: int
    """Of the whole model, word vectors included."""
    megabytes: int | None
    """Of the file that is run on a CPU (10^6 bytes); of the safetensors where there is no such file; None where nobody says."""
    max_tokens: int
    """The longest pair that it has positions for, special tokens included."""
    onnx_file: str | None
    """The fp32 graph within the repository; None where it has none: then sentence-transformers runs the safetensors."""
    activation: Literal["identity", "sigmoid", "softmax"] | None
    """What its provider applies to the logits by default; None where nobody says. Raw scores here are always the logits."""
    scale: Literal["logit", "unknown"]
    """"logit" where it was trained so that the sigmoid of a score is a probability, or its provider reads it so."""
    source: str
    """Address of the page that says so: the model's card."""
    published: tuple[Published, ...] = ()
    golden: Golden | None = None
    template: str | None = None
    """Key in `rerankx.catalogue.templates` of the prompt without which its scores are noise."""
    note: str = ""
    """One line on what it is good for, or what to mind."""
