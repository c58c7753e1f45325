"""What the log-probabilities of a reply's first token say: an order, a grade, yes or no."""

from __future__ import annotations

import math
from collections.abc import Mapping

from rerankx.errors import ReplyError
from rerankx.llm.answers import plain
from rerankx.llm.order import Order
from rerankx.llm.words import LETTERS

_MASS = 0.1  # below it a model was about to say something else, and what is left of the labels is noise
_NONE = -9999.0  # what services tell of a token of which they tell nothing
_AROUND = " \t\r\n▁ĠĊ[](){}<>\"'`*_.,:;#"  # a token, as vocabularies write a space before it
_AROUND_WORDS = _AROUND + "-–|=$!"  # a -3 is no 3


def order_of_first_token(logprobs: Mapping[str, float], n: int) -> Order:
    """Return the order of n passages named by `LETTERS`, by the natural log-probabilities of a reply's first token.

    Ties stay in input order, and letters that are not there come last.

    Raises:
        ReplyError: Fewer than half of the letters are there, or they hold less than a tenth of the probability.
    """
    letters = _merged(logprobs, {letter: i for i, letter in enumerate(LETTERS[:n].lower())}, _AROUND_WORDS)
    if n < 1 or len(letters) < (n + 1) // 2:
        raise ReplyError(f"the first token's log-probabilities name {len(letters)} of {n} passages")
    if sum(map(math.exp, letters.values())) < _MASS:
        raise ReplyError("the first token is hardly ever a passage's letter")
    ranked = sorted(letters, key=lambda i: (-letters[i], i))
    return Order((*ranked, *(i for i in range(n) if i not in letters)), ("missing ids",) if len(letters) < n else ())


def expected_grade(logprobs: Mapping[str, float], low: int, high: int) -> float | None:
    """Return the mean grade in [low, high] under a first token's log-probabilities; None where the grades hold less than a tenth.

    Source: Zhuang et al., 2310.14122, expected relevance.
    """
    mass = {g: math.exp(v) for g, v in _merged(logprobs, {str(g): g for g in range(low, high + 1)}, _AROUND).items()}
    total = sum(mass.values())
    return None if total < _MASS else min(max(sum(g * p for g, p in mass.items()) / total, low), high)


def probability_of_yes(logprobs: Mapping[str, float]) -> float | None:
    """Return p(yes) / (p(yes) + p(no)) of a first token; None where the two hold less than a tenth."""
    mass = {answer: math.exp(v) for answer, v in _merged(logprobs, {"yes": 1, "no": 0}, _AROUND_WORDS).items()}
    total = sum(mass.values())
    return None if total < _MASS else mass.get(1, 0.0) / total


def _merged(logprobs: Mapping[str, float], labels: Mapping[str, int], around: str) -> dict[int, float]:
    """Return each label's log-probability, its spellings added up; a value that is none is left out."""
    merged: dict[int, float] = {}
    for token, value in logprobs.items():
        label = labels.get("".join(map(plain, token)).strip(around).lower())
        if label is not None and isinstance(value, (int, float)) and math.isfinite(value) and value > _NONE:
            value, other = min(float(value), 0.0), merged.get(label, -math.inf)
            most = max(value, other)
            merged[label] = min(0.0, most + math.log(math.exp(value - most) + math.exp(other - most)))
    return merged
