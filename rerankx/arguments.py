"""What callers pass, checked: each error says what was given, what was expected and what to do."""

from __future__ import annotations

import math
import operator
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TypeVar

T = TypeVar("T")


def check_query(query: object) -> None:
    """Raise TypeError or ValueError unless `query` is a string with something in it."""
    if not isinstance(query, str):
        raise TypeError(f"query must be a string, not {type(query).__name__}")
    if not query.strip():
        raise ValueError(f"query is blank ({query[:20]!r}); give the words to rank by")


def as_list(documents: Iterable[T]) -> list[T]:
    """Return the documents as a list; one string, and what has no order, is a TypeError."""
    kind = type(documents).__name__
    if isinstance(documents, str | bytes):
        raise TypeError(f"documents is one {kind}; pass a list of documents")
    if kind == "DataFrame":  # iterating one gives its columns' names
        raise TypeError("documents is a DataFrame; pass one of its columns, or its rows as dicts together with key=")
    if isinstance(documents, Mapping | Set) or not isinstance(documents, Iterable):
        raise TypeError(f"documents must be an ordered iterable, such as a list, not {kind}; pass list(...) of it")
    return list(documents)


def texts_of(documents: Sequence[T], key: Callable[[T], str] | None) -> list[str]:
    """Return the text of each document: the document itself, or what `key` makes of it."""
    if key is not None and not callable(key):
        raise TypeError(
            f"key must be a function of a document, such as lambda d: d[{shown(key)}], not {type(key).__name__}"
        )
    texts = []
    for i, document in enumerate(documents):
        text = document if key is None else key(document)
        if not isinstance(text, str):
            if key is None:
                hint = "remove it" if document is None else "pass key=, a function that returns its text"
                raise TypeError(f"document {i} is {type(document).__name__}, not a string; {hint}")
            raise TypeError(f"key returned {type(text).__name__} for document {i}, not a string")
        texts.append(text)
    return texts


def scores_of(documents: Sequence[T], score: Callable[[T], float | None] | None) -> list[float | None] | None:
    """Return the score that each document came with, None for one without; None where nobody asks."""
    if score is None:
        return None
    if not callable(score):
        raise TypeError(f"retrieval_score must be a function of a document, not {type(score).__name__}")
    scores: list[float | None] = []
    for i, document in enumerate(documents):
        found = score(document)
        if found is not None and (isinstance(found, bool | str) or not hasattr(found, "__float__")):
            raise TypeError(f"retrieval_score returned {type(found).__name__} for document {i}, not a number or None")
        try:
            number = None if found is None else float(found)
        except (TypeError, ValueError, OverflowError):
            raise TypeError(f"retrieval_score returned no one number for document {i}, but {shown(found)}") from None
        if number is not None and not math.isfinite(number):
            raise ValueError(f"retrieval_score returned {number} for document {i}; scores must be finite")
        scores.append(number)
    return scores


def checked_top_n(top_n: int | None) -> int | None:
    """Return `top_n` as an int of at least 1, or None."""
    if top_n is None:
        return None
    if isinstance(top_n, bool) or not hasattr(top_n, "__index__"):
        raise TypeError(f"top_n must be a whole number or None, not {shown(top_n)}")
    number = operator.index(top_n)
    if number < 1:
        raise ValueError(f"top_n must be at least 1, or None to keep all, not {number}")
    return number


def checked_min_score(min_score: float | None) -> float | None:
    """Return `min_score` as a float in [0, 1], or None."""
    if min_score is None:
        return None
    number = _number("min_score", min_score, "a number in [0, 1]")
    if not 0 <= number <= 1:
        raise ValueError(f"min_score is on the normalised score and lies in [0, 1]; {number:g} does not")
    return number


def checked_deadline_s(deadline_s: float | None, name: str = "deadline_s") -> float | None:
    """Return `deadline_s` as a finite float above 0, or None; `name` is what a message calls it."""
    if deadline_s is None:
        return None
    number = _number(name, deadline_s, "a number of seconds above 0")
    if not 0 < number < math.inf:
        raise ValueError(f"{name} must be a number of seconds above 0, or None, not {number:g}")
    return min(number, 1e9)  # 31 years: clocks do not take much more


def shown(value: object) -> str:
    """Return a value cut short, for a message: it may be a document."""
    return reprlib.repr(value)


def _number(name: str, value: object, expected: str) -> float:
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be {expected} or None, not {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{name} must be {expected}, not a number of {len(str(value))} digits") from None
