"""The lexical part: BM25 over word pieces, with document frequencies that ship with it.

The frequencies are a general collection's, not the candidates': every candidate holds the query's words, so among them no word
is rare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

K1, B = 0.9, 0.4  # Pyserini's defaults; (1.2, .75) and (0.6, .4) moved the tuning sets' mean nDCG@10 by less than .002

DATA = Path(__file__).parent / "data"

Pieces = NDArray[np.uint16]
"""Ids of a text's word pieces, in order, without special tokens."""


@dataclass(frozen=True, slots=True)
class Lexicon:
    """How much each word piece tells, and how long a text is on average."""

    idf: NDArray[np.float32]
    """Inverse document frequency by piece id, in nats; 0 for punctuation and for the piece of unknown characters."""
    mean_length: float
    """Mean number of pieces per text that have an idf."""

    @classmethod
    def load(cls, path: Path) -> Lexicon:
        """Return the lexicon in an .npz of `df` (how many texts hold a piece), `texts`, `mean_length` and `is_word`."""
        with np.load(path, allow_pickle=False) as table:
            df, texts = table["df"].astype(np.float64), float(table["texts"])
            idf = np.log1p((texts - df + 0.5) / (df + 0.5))
            return cls(np.where(table["is_word"], idf, 0).astype(np.float32), float(table["mean_length"]))

    def words(self, pieces: Pieces) -> Pieces:
        """Return the pieces that tell something, in order."""
        return pieces[self.idf[pieces] > 0]


def bm25(query: Pieces, text: Pieces, lexicon: Lexicon) -> float:
    """Return how much of the query's weight the text covers, in [0, 1].

    Args:
        query: The query's pieces.
        text: The words among the text's pieces.
        lexicon: Weights and mean length.

    The sum of BM25 (Robertson and Zaragoza 2009, doi:10.1561/1500000019) divided by its supremum for this query, which is every
    piece of it an unlimited number of times; 0 for a query without words.
    """
    terms = np.unique(lexicon.words(query))
    if not len(terms) or not len(text):
        return 0.0
    weights = lexicon.idf[terms].astype(np.float64)
    counts = np.bincount(text, minlength=len(lexicon.idf))[terms]
    saturation = K1 * (1 - B + B * len(text) / lexicon.mean_length)
    return float(weights @ (counts / (counts + saturation)) / weights.sum())


@cache
def shared_lexicon() -> Lexicon:
    """Return the lexicon that ships with rerankx, read once per process."""
    return Lexicon.load(DATA / "lexicon.npz")
