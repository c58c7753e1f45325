"""Prompts of language models that rerank: a query and its texts as token ids, and whether the answers make sense."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer

from rerankx.catalogue.templates import Template
from rerankx.errors import ModelNotFoundError, OptionError

# A query, a text that plainly answers it, and one that plainly does not.
_PLAIN = (
    ("What is the capital of France?", "Paris is the capital of France.", "Bananas are a good source of potassium."),
    (
        "How do plants make food?",
        "Plants make food from light, by photosynthesis.",
        "The train to London leaves at noon.",
    ),
    ("Who wrote Hamlet?", "Hamlet was written by William Shakespeare.", "Water boils at 100 degrees Celsius."),
)

# Below this a prompt has no room for what it is about.
_LEAST_ROOM = 8


class Encoded(NamedTuple):
    """A query and a text, ready for the model but for padding."""

    features: dict[str, list[int]]
    """What the model is given by name, [tokens] each: "input_ids" and "attention_mask" at least."""
    cut: bool
    """Whether part of the query or the text was left out."""

    @property
    def tokens(self) -> int:
        """Return how long it is, special tokens included."""
        return len(self.features["input_ids"])


class PromptReader:
    """Makes prompts; not safe under threads that share its tokenizer with somebody who sets it up anew.

    Args:
        tokenizer: The model's. Its truncation and padding are switched off, and special tokens in a query or a text are read as
            the characters they are written with: no document ends the prompt and answers for the model.
        template: The wording.
        max_tokens: The longest prompt.
        instruction: In place of the template's own; None takes that one.

    Raises:
        ModelNotFoundError: The tokenizer has no token for one of the answers.
        OptionError: `max_tokens` leaves no room for a query and a text.
    """

    def __init__(
        self, tokenizer: Tokenizer, template: Template, *, max_tokens: int, instruction: str | None = None
    ) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer, self._template, self._instruction = tokenizer, template, instruction
        self.yes = self._answer(template.yes)
        """The id of the token that means "relevant"."""
        self.no = None if template.no is None else self._answer(template.no)
        """The id of the token that means "not relevant"; None where the score is that of `yes` alone."""
        empty = template.filled("", "", instruction)
        tokenizer.encode_special_tokens = False
        self._fixed = {i: self._ids(piece) for i, piece in enumerate(template.pieces) if "{" not in piece}
        tokenizer.encode_special_tokens = True
        self._length = max_tokens
        self._room = max_tokens - sum(len(self._ids(piece)) for i, piece in enumerate(empty) if i not in self._fixed)
        self._room -= sum(map(len, self._fixed.values()))
        if self._room < _LEAST_ROOM:
            least = max_tokens - self._room + _LEAST_ROOM
            raise OptionError(f"max_tokens must be at least {least} with this prompt, not {max_tokens}")

    def read(self, query: str, texts: Sequence[str]) -> list[Encoded]:
        """Return the prompts, in the order of the texts. The text is cut to what is left; never what stands behind it.

        A query is cut to three quarters of what the prompt leaves, as FlagEmbedding and mxbai-rerank do, so that a long one
        leaves the texts a place. (Qwen's own code would cut the documents away.)
        """
        query, query_cut = self._cut(_clean(query), self._room * 3 // 4)
        return [self._prompt(query, text, query_cut) for text in texts]

    def _prompt(self, query: str, text: str, query_cut: bool) -> Encoded:
        pieces = self._template.filled(query, _clean(text), self._instruction)
        ids = [self._fixed[i] if i in self._fixed else self._ids(piece) for i, piece in enumerate(pieces)]
        over = sum(map(len, ids)) - self._length
        if over > 0:
            (of_text,) = (i for i, piece in enumerate(self._template.pieces) if "{document}" in piece)
            ids[of_text] = ids[of_text][:-over]
        joined = [one for piece in ids for one in piece]
        return Encoded({"input_ids": joined, "attention_mask": [1] * len(joined)}, query_cut or over > 0)

    def _cut(self, query: str, length: int) -> tuple[str, bool]:
        encoding = self._tokenizer.encode(query, add_special_tokens=False)
        if len(encoding.ids) <= length:
            return query, False
        return query[: encoding.offsets[length - 1][1]], True

    def _answer(self, token: str) -> int:
        ids = self._ids(token)
        if len(ids) != 1:
            raise ModelNotFoundError(
                f"this tokenizer makes {len(ids)} tokens of the answer {token!r}, and the template reads the logit of one;"
                " take the template that belongs to the model"
            )
        return ids[0]

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)


def check_answers(score: Callable[[str, Sequence[str]], Sequence[float]], *, model: str, template: str) -> None:
    """Refuse a model that does not tell texts that plainly answer a query from others.

    It is a mistake in what was asked for, not a passing fault of a backend, so `on_error` must not hide it.

    Args:
        score: What to ask: one score per text, higher is better.
        model: Its name, for the message.
        template: The template's key, for the message.

    Raises:
        ModelNotFoundError: A plain answer does not score above a text about something else.
    """
    for query, relevant, other in _PLAIN:
        good, bad = score(query, [relevant, other])
        if not good > bad:  # nor where one of them is no number
            raise ModelNotFoundError(
                f"{model!r} with the template {template!r} gives {relevant!r} {good:.3f} and {other!r} {bad:.3f} for {query!r}:"
                " its scores would be noise; the template or the checkpoint is not the right one (a base model instead of the"
                " reranker, say, or another maker's reranker)"
            )


def _clean(text: str) -> str:
    # The tokenizer takes no lone surrogates.
    return text.encode("utf-8", "replace").decode("utf-8")
