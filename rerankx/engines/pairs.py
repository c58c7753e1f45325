"""A query and its texts as a cross-encoder reads them: each tokenised once, and the ids joined by hand.

Tokenizers encode pairs, and so the query anew with every text. What a pair is made of (special tokens before, between and behind,
token types) is learnt from the tokenizer itself and checked on it, so that the ids are those of its own pair encoding, to the id.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerankx.errors import ModelNotFoundError, OptionError

Ids = NDArray[np.int64]

# Words of different lengths, since a template may be wrong for one token and right for two; the last is no word at all.
_PROBES = (("a", "b"), ("what is a probe", "it is a short text, read once"), ("café 42", "x"), ("y", ""))

# Per token that fits: of a text that long only the start is looked at. A token is hardly ever a quarter as long.
_CHARACTERS = 32


class Pair(NamedTuple):
    """A query and a text, ready for the model."""

    ids: Ids
    """[tokens], special ones included."""
    types: Ids
    """[tokens]: the token types of the same; zeros where the model has none."""
    cut: bool
    """Whether the query or the text is longer than what is left of it here."""


class PairTokenizer:
    """Makes pairs; safe under threads, since the tokenizer is set up once.

    Args:
        tokenizer: With the model's post-processor. Its truncation and padding are switched off.
        max_tokens: The longest pair, special tokens included; at least as many as these and one more for query and text each.

    Raises:
        ModelNotFoundError: The tokenizer's pairs are not special tokens around a query and a text.
        OptionError: `max_tokens` leaves no room.
    """

    def __init__(self, tokenizer: Tokenizer, *, max_tokens: int) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "[SEP]" in a text is five characters, not its end
        self._tokenizer = tokenizer
        self._template = _template_of(tokenizer)
        self.room = max_tokens - self._template.specials
        """How many tokens of query and text fit into a pair."""
        if self.room < 2:
            raise OptionError(f"max_tokens must be at least {self._template.specials + 2}, not {max_tokens}")

    def ids(self, text: str) -> Ids:
        """Return the ids of a query or a text, all of them, without special tokens."""
        return _ids(self._tokenizer, text)

    def start(self, text: str) -> Ids:
        """Return the ids of a text, or of a long one's start, of which a pair cannot hold all.

        The tokenizer takes 200 bytes for a character at once, so that a book would cost gigabytes for a few hundred tokens.
        """
        end = text.rfind(" ", 0, _CHARACTERS * self.room)
        if len(text) > _CHARACTERS * self.room and end > 0:
            ids = self.ids(text[:end])
            if len(ids) > self.room:
                return ids
        return self.ids(text)

    def join(self, query: Ids, text: Ids) -> Pair:
        """Return the pair, cut as tokenizers' "longest_first" does: of the text alone, unless the query takes more than half."""
        kept_query, kept_text = lengths(len(query), len(text), self.room)
        ids, types = self._template.fill(query[:kept_query], text[:kept_text])
        return Pair(ids, types, kept_query < len(query) or kept_text < len(text))


def lengths(query: int, text: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each are kept, as `TruncationStrategy::LongestFirst` of tokenizers 0.20 to 0.23 decides.

    The shorter one is kept whole if that leaves the longer one at least as much; else each has half, the longer one the odd
    token.
    """
    if query + text <= room:
        return query, text
    shorter, longer = min(query, text), max(query, text)
    if shorter > room // 2:
        shorter, longer = room // 2, room - room // 2
    else:
        longer = room - shorter
    return (shorter, longer) if query <= text else (longer, shorter)


class _Template(NamedTuple):
    """Ids and types of what stands before the query, between it and the text, and behind that."""

    before: tuple[Ids, Ids]
    query_type: int
    between: tuple[Ids, Ids]
    text_type: int
    behind: tuple[Ids, Ids]

    @property
    def specials(self) -> int:
        """Return how many tokens of a pair are neither query nor text."""
        return sum(len(ids) for ids, _ in (self.before, self.between, self.behind))

    def fill(self, query: Ids, text: Ids) -> tuple[Ids, Ids]:
        """Return ids and token types of a pair."""
        ids = np.concatenate([self.before[0], query, self.between[0], text, self.behind[0]])
        of_query, of_text = (
            np.full(len(some), kind) for some, kind in ((query, self.query_type), (text, self.text_type))
        )
        return ids, np.concatenate([self.before[1], of_query, self.between[1], of_text, self.behind[1]])


def _template_of(tokenizer: Tokenizer) -> _Template:
    """Return how the tokenizer makes a pair, learnt from one and checked on others."""
    query, text = _PROBES[1]
    whole = tokenizer.encode(query, text)
    ids, types, parts = _array(whole.ids), _array(whole.type_ids), whole.sequence_ids
    first, second = ([i for i, part in enumerate(parts) if part == which] for which in (0, 1))
    if not first or not second or first[-1] > second[0]:
        raise _unknown(tokenizer)
    cuts = (slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, None))
    before, between, behind = ((ids[cut], types[cut]) for cut in cuts)
    template = _Template(before, int(types[first[0]]), between, int(types[second[0]]), behind)
    for query, text in _PROBES:
        expected = tokenizer.encode(query, text)
        got = template.fill(_ids(tokenizer, query), _ids(tokenizer, text))
        if got[0].tolist() != expected.ids or got[1].tolist() != expected.type_ids:
            raise _unknown(tokenizer)
    return template


def _unknown(tokenizer: Tokenizer) -> ModelNotFoundError:
    kind = type(tokenizer.post_processor).__name__
    return ModelNotFoundError(
        f"this tokenizer ({kind}) does not make pairs of special tokens around a query and a text, as cross-encoders read them;"
        " use the tokenizer.json that belongs to the model"
    )


def _ids(tokenizer: Tokenizer, text: str) -> Ids:
    # The tokenizer takes no lone surrogates.
    return _array(tokenizer.encode(text.encode("utf-8", "replace").decode("utf-8"), add_special_tokens=False).ids)


def _array(ids: Sequence[int]) -> Ids:
    return np.array(ids, np.int64)
