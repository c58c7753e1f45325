"""Lists of ids in what is, or was meant to be, JSON: with prose around, cut off, in single quotes. One pass, no recursion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rerankx.llm.words import LABEL

_TOKEN = re.compile(r"""("(?:[^"\\]|\\.)*+"?|'[^'\n]{0,40}')|([\[\]{}:])|([^\s"'\[\]{}:,]++)|'""", re.DOTALL)
_OPENING = re.compile(r"[\[{]")
_STRING_ID = re.compile(
    rf"[\[(#]?\s*(?:{LABEL}[\s:#_\-]{{0,2}})?[\[(#]?(?:(\d{{1,9}})|([a-z]))[\])]?\.?", re.IGNORECASE
)
# What an object's id is found under, the surest first.
_ID_KEYS = (
    re.compile(r"id", re.IGNORECASE),
    re.compile(rf"(?:{LABEL})?[\s_\-]*(?:id|identifier)", re.IGNORECASE),
    re.compile(rf"(?:{LABEL})?[\s_\-]*(?:number|index|label)?", re.IGNORECASE),
)
_SCORE_KEY = re.compile(r"\w{0,20}(?:scor|grade|rating|relevan|confiden|similar|probab|points)\w{0,20}", re.IGNORECASE)
_RANK_KEY = re.compile(r"rank\w{0,20}|position|place|order", re.IGNORECASE)
_WORTH = re.compile(r"-?\d{1,9}(?:\.\d{1,20})?")


class Listed(NamedTuple):
    """A list of ids."""

    ids: list[int | str]
    """Letters in upper case."""
    key: str
    """What it is named; "" for a list that has no name."""
    at: int
    start: int
    """Of the outermost object or list that it is in."""
    end: int
    cut: bool
    remarks: str
    """What else its objects hold, where they hold no number that orders them: "" for nothing, "grades" in words, or "other"."""


class _Open:
    """An object or a list that is not closed yet."""

    def __init__(self, is_list: bool, at: int, within: _Open | None) -> None:
        self.is_list, self.at = is_list, at
        self.key: str = within.next_key if within else ""
        self.within_list: bool = within is not None and within.is_list
        self.values: list[object] = []
        self.fields: dict[str, object] = {}
        self.next_key: str = ""

    def add(self, value: object) -> None:
        if self.is_list:
            self.values.append(value)
        elif self.next_key:
            self.fields[self.next_key] = value
            self.next_key = ""
        else:
            self.next_key = value if isinstance(value, str) else ""


def lists_in(text: str) -> Iterator[Listed]:
    """Yield every list of ids in a text, and nothing for a list that holds anything else."""
    inner: list[tuple[_Open, bool]] = []
    stack: list[_Open] = []
    at = 0
    # Outside of brackets a quote is an inch, or an apostrophe.
    while token := (_TOKEN if stack else _OPENING).search(text, at):
        at = token.end()
        mark = token[0]
        if mark in ("[", "{"):
            stack.append(_Open(mark == "[", token.start(), stack[-1] if stack else None))
        elif mark in ("]", "}"):
            if stack[-1].is_list is not (mark == "]"):
                stack.clear()
                inner.clear()
                continue
            closed = stack.pop()
            if closed.is_list and not closed.within_list:
                inner.append((closed, False))
            if stack:
                stack[-1].add(closed.values if closed.is_list else closed.fields)
            else:
                yield from _listed(inner, closed.at, at)
                inner = []
        elif (string := token[1]) is not None:
            whole = len(string) > 1 and string[0] == string[-1]
            if whole or not stack[-1].is_list:
                stack[-1].add(string[1:-1] if whole else string[1:])
        elif (word := token[3]) and (at < len(text) or not word.isdecimal()):
            # The last number of a text that is cut off may be half of one.
            stack[-1].add(int(word) if word.isdecimal() and len(word) < 10 else _word(word))
    if stack:
        open_lists = [(one, True) for one in stack if one.is_list and not one.within_list]
        yield from _listed([*inner, *open_lists], stack[0].at, len(text))


def _word(word: str) -> object:
    """Return a bare word as what it is in a list: a letter, a number too large to be an id, or nothing of use."""
    if re.fullmatch(r"[A-Za-z]\.?", word):
        return word[0]
    if word.isdecimal():
        return 10**9
    return float(word) if re.fullmatch(r"-?\d{1,9}(?:\.\d{1,20})?", word) else None


def _listed(lists: list[tuple[_Open, bool]], start: int, end: int) -> Iterator[Listed]:
    for one, cut in sorted(lists, key=lambda pair: pair[0].at):
        ids = [_id(value) for value in one.values]
        known = [i for i in ids if i is not None]
        objects = [value for value in one.values if isinstance(value, dict)]
        if len(known) == len(ids) and _in_order(objects) and len({type(i) for i in known}) < 2:
            yield Listed(known, one.key, one.at, start, end, cut, _remarks(objects))


def _id(value: object) -> int | str | None:
    """Return the id that a list's element is, or holds: None where it is none, or may be one of several."""
    if isinstance(value, dict):
        for keys in _ID_KEYS:
            ids = [
                _id(held) for key, held in value.items() if key and keys.fullmatch(key) and not isinstance(held, dict)
            ]
            found = {i for i in ids if i is not None}
            if found:
                return found.pop() if len(found) == 1 else None
        return None
    if isinstance(value, str):
        match = _STRING_ID.fullmatch(value.strip()) if len(value) < 40 else None
        if match is None:
            return None
        return int(match[1]) if match[1] else match[2].upper()
    if isinstance(value, list):
        return _id(value[0]) if len(value) == 1 and not isinstance(value[0], (list, dict)) else None
    if isinstance(value, float) and value == int(value) < 0:
        return -1
    return value if isinstance(value, int) else None


def _worth(objects: list[dict[str, object]], key: re.Pattern[str]) -> list[float]:
    """Return the numbers that objects hold under a key."""
    held = [value for one in objects for name, value in one.items() if key.fullmatch(name)]
    said = [str(value) for value in held if isinstance(value, (str, int, float))]
    return [float(value) for value in said if _WORTH.fullmatch(value)]


def _in_order(objects: list[dict[str, object]]) -> bool:
    """Return whether objects stand by their own scores and ranks, where they have them."""
    scores, ranks = _worth(objects, _SCORE_KEY), _worth(objects, _RANK_KEY)
    return scores == sorted(scores, reverse=True) and ranks == sorted(ranks)


def _remarks(objects: list[dict[str, object]]) -> str:
    """Return `Listed.remarks`."""
    if _worth(objects, _SCORE_KEY) or _worth(objects, _RANK_KEY):
        return ""
    if any(_SCORE_KEY.fullmatch(key) for one in objects for key in one):
        return "grades"
    return "other" if any(len(one) > 1 for one in objects) else ""
