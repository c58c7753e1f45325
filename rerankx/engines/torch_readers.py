"""Queries and texts as sentence-transformers' modules take them, not padded yet, and padded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from rerankx.engines.prompts import Encoded, PromptReader
from rerankx.errors import ModelNotFoundError, OptionError


class Reader(Protocol):
    """Makes a query and texts ready for the model."""

    extras: dict[str, Any]
    """What sentence-transformers' modules are given besides, whatever the pair."""

    def read(self, query: str, texts: Sequence[str]) -> list[Encoded]:
        """Return the pairs, in the order of the texts."""


class PairReader:
    """Pairs as sentence-transformers makes them (its prompts and chat templates included), not padded yet."""

    def __init__(self, encoder: Any, *, max_tokens: int) -> None:
        self._encoder, self._length = encoder, max_tokens
        self.extras: dict[str, Any] = {}
        first, tokenizer, self._chat = encoder[0], encoder.tokenizer, "message" in encoder.modalities
        least = tokenizer.num_special_tokens_to_add(pair=True) + 2
        if max_tokens < least:
            raise OptionError(f"max_tokens must be at least {least}, not {max_tokens}")
        tokenizer.model_max_length = max_tokens
        if not self._chat:
            # "[SEP]" in a text is five characters, not its end; a chat template is made of such tokens.
            tokenizer.split_special_tokens = True
        own = first.processing_kwargs
        first.processing_kwargs = {
            **own,
            "text": {**own.get("text", {}), "padding": False},
            "common": {**own.get("common", {}), "return_tensors": None},
        }
        self._prompt = encoder.prompts.get(encoder.default_prompt_name) if encoder.default_prompt_name else None

    def read(self, query: str, texts: Sequence[str]) -> list[Encoded]:
        """Return the pairs, in the order of the texts."""
        # The tokenizer takes no lone surrogates.
        query, *clean = (text.encode("utf-8", "replace").decode("utf-8") for text in (query, *texts))
        if self._prompt and not self._chat:
            query = self._prompt + query  # what `preprocess` would do, but it measures the prompt as well, padded
        pairs = [[query, text] for text in clean]
        made = self._encoder.preprocess(pairs, prompt=self._prompt if self._chat else None)
        columns = {name: rows for name, rows in made.items() if isinstance(rows, list)}
        self.extras = {name: value for name, value in made.items() if name not in columns}
        whole = getattr(made, "encodings", None)
        ids = columns["input_ids"]
        cut = [bool(one.overflowing) for one in whole] if whole else [len(row) >= self._length for row in ids]
        return [Encoded({name: rows[i] for name, rows in columns.items()}, cut[i]) for i in range(len(ids))]


class TemplateReader(PromptReader):
    """Prompts from a template, with what sentence-transformers' modules want to know besides."""

    extras: dict[str, Any] = {"modality": "text", "logits_to_keep": 1}  # noqa: RUF012  (never written to)


def keep_answers(encoder: Any, model: str, reader: PromptReader) -> None:
    """Leave of the vocabulary that a language model predicts the answers alone, and make their logits its score."""
    import torch
    from sentence_transformers.cross_encoder.modules import LogitScore

    answers = [reader.yes] if reader.no is None else [reader.yes, reader.no]

    class Answers(torch.nn.Linear):  # type: ignore[misc,unused-ignore]
        """The rows of the vocabulary that are asked for, in float32: in bf16 the logits near 20 are multiples of 1/8."""

        def forward(self, hidden: Any) -> Any:
            return torch.nn.functional.linear(hidden.float(), self.weight)

    network = encoder[0].model
    head = network.get_output_embeddings()
    if getattr(head, "bias", None) is not None:
        raise ModelNotFoundError(f"{model!r} has a vocabulary with a bias, which no model with a template has")
    small = Answers(head.in_features, len(answers), bias=False, device=head.weight.device)
    with torch.no_grad():
        small.weight.copy_(head.weight[answers])
    network.set_output_embeddings(small)
    encoder.append(LogitScore(0, None if reader.no is None else 1))


def padded(pairs: Sequence[Encoded], tokenizer: Any) -> dict[str, Any]:
    """Return the pairs' features as tensors, [pairs, tokens of the longest]."""
    import torch

    width = max(pair.tokens for pair in pairs)
    filler = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": tokenizer.pad_token_type_id}
    padded = {}
    for name in pairs[0].features:
        rows = np.full((len(pairs), width), filler.get(name, 0), np.int64)
        for row, pair in zip(rows, pairs, strict=True):
            ids = pair.features[name]
            row[width - len(ids) if tokenizer.padding_side == "left" else 0 :][: len(ids)] = ids
        padded[name] = torch.from_numpy(rows)
    return padded


def longest(encoder: Any) -> int | None:
    """Return how many tokens the model has positions for; None where it does not say."""
    import torch

    known = [encoder.tokenizer.model_max_length, getattr(encoder.config, "max_position_embeddings", None)]
    for name, part in encoder.named_modules():
        # RoBERTa and its kin count positions from behind the padding's own.
        if (
            name.endswith("position_embeddings")
            and isinstance(part, torch.nn.Embedding)
            and part.padding_idx is not None
        ):
            known.append(part.num_embeddings - part.padding_idx - 1)
    # A tokenizer that knows no limit says 10^30; XLNet's configuration says -1.
    return min((one for one in known if one is not None and 0 < one < 10**9), default=None)
