"""How words and vectors make one score: three parts, each in [0, 1], added with fixed weights.

Cosine of the mean vectors (what the texts are about) + MaxSim (each query token's best match among the text's tokens: what they
say in particular) + BM25 (the very words). Each part depends on the query and one text alone, so the score does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerankx.backends.embedded.encoder import Encoding
from rerankx.backends.embedded.lexical import Lexicon, Pieces, bm25

# benchmarks/embedded_weights.py: mean nDCG@10 over HotpotQA (sample), Cranfield and NQ is .774; cosine with words .771, cosine
# alone .752. Any lexical share from .13 to .33 is within .002 of it.
COSINE, MAXSIM, LEXICAL = 0.4, 0.4, 0.2


@dataclass(frozen=True, slots=True)
class Query:
    """What scoring needs of a query."""

    pieces: Pieces
    mean: NDArray[np.float32]
    """[384], unit length."""
    tokens: NDArray[np.float32]
    """[tokens, 384], unit length each; words only, so none for a query of signs or of characters that are not known."""
    length: int
    """How many tokens were read, [CLS] and [SEP] included."""


@dataclass(frozen=True, slots=True)
class Packed:
    """What scoring needs of a text, small enough to keep: token vectors take one byte per dimension."""

    words: Pieces
    mean: NDArray[np.float32]
    """[384], unit length."""
    codes: NDArray[np.int8]
    """[tokens, 384]: token vectors, each divided by its own step."""
    steps: NDArray[np.float32]
    """[tokens]; `codes * steps` has unit length."""
    cut: bool
    """Whether the encoder read only the first part of the text."""

    @property
    def nbytes(self) -> int:
        """Return the bytes of its arrays."""
        return self.words.nbytes + self.mean.nbytes + self.codes.nbytes + self.steps.nbytes


class Parts(NamedTuple):
    """What a score is made of: the score is their sum, in [0, 1]."""

    cosine: float
    """In [0, .4]."""
    maxsim: float
    """In [0, .4]."""
    lexical: float
    """In [0, .2]."""


def query_of(encoding: Encoding, lexicon: Lexicon) -> Query:
    """Return an encoded query, ready to score with."""
    inner = encoding.vectors[1:-1]
    tells = lexicon.idf[encoding.pieces[: len(inner)]] > 0
    return Query(
        pieces=encoding.pieces,
        mean=_unit(encoding.vectors.mean(axis=0)),
        tokens=_unit(inner[tells]),
        length=len(encoding.vectors),
    )


def pack(encoding: Encoding, lexicon: Lexicon) -> Packed:
    """Return an encoded text, ready to be scored and kept."""
    units = _unit(encoding.vectors)
    codes = np.rint(units * (127 / np.abs(units).max(axis=1, keepdims=True))).astype(np.int8)
    steps = 1 / np.linalg.norm(codes.astype(np.float32), axis=1)
    return Packed(lexicon.words(encoding.pieces), _unit(encoding.vectors.mean(axis=0)), codes, steps, encoding.cut)


def parts_of(query: Query, text: Packed, lexicon: Lexicon) -> Parts:
    """Return the three parts of a text's score, weighted."""
    return Parts(
        COSINE * cosine(query, text), MAXSIM * maxsim(query, text), LEXICAL * bm25(query.pieces, text.words, lexicon)
    )


def cosine(query: Query, text: Packed) -> float:
    """Return the cosine of the mean vectors; below 0, which says no more than unrelated, is 0."""
    return min(max(float(query.mean @ text.mean), 0.0), 1.0)


def maxsim(query: Query, text: Packed) -> float:
    """Return the mean, over the query's tokens, of the cosine with the most similar token of the text; in [0, 1].

    Source: Khattab and Zaharia, SIGIR 2020, doi:10.1145/3397271.3401075, here divided by the number of query tokens.
    """
    if not len(query.tokens):
        return 0.0
    similarities = (text.codes.astype(np.float32) @ query.tokens.T) * text.steps[:, None]
    return float(np.clip(similarities.max(axis=0), 0, 1).mean())


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths: NDArray[np.float32] = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / lengths
