"""Lists of ids in what is, or was meant to be, JSON: with prose around, cut off, in single quotes. One pass, no recursion."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(r"""("(?:[^"\\]|\\.)*+"?|'[^'\n]{0,40}')|([\[\]{}:])|([^\s"'\[\]{}:,]++)|'""", re.DOTALL)
_STRING_ID = re.compile(r"[\[(#]?\s*(?:[a-z]{2,12}[\s:#_\-]{0,2})?[\[(#]?(?:(\d{1,9})|([a-z]))[\])]?\.?", re.IGNORECASE)
_ID_KEY = re.compile(r"(?:passage|document|doc|text|item)?[\s_\-]*(?:id|identifier|number|index|label)?", re.IGNORECASE)
_SCORE_KEY = re.compile(r"\w*(?:score|grade|rating|relevance|confidence)", re.IGNORECASE)
_RANK_KEY = re.compile(r"rank|position|place", re.IGNORECASE)


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


class _Open:
    """An object or a list that is not closed yet."""

    def __init__(self, is_list: bool, at: int, key: str) -> None:
        self.is_list, self.at, self.key = is_list, at, key
        self.values: list[object] = []
        self.fields: dict[str, object] = {}
        self.next_key = ""

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
    for token in _TOKEN.finditer(text):
        string, mark, word = token.groups()
        if mark in ("[", "{"):
            stack.append(_Open(mark == "[", token.start(), stack[-1].next_key if stack else ""))
        elif not stack or mark == ":" or token[0] == "'":
            continue
        elif mark:
            if stack[-1].is_list is not (mark == "]"):
                stack.clear()
                inner.clear()
                continue
            closed = stack.pop()
            if closed.is_list:
                inner.append((closed, False))
            if stack:
                stack[-1].add(closed.values if closed.is_list else closed.fields)
            else:
                yield from _listed(inner, closed.at, token.end())
                inner = []
        elif string is not None:
            whole = len(string) > 1 and string[0] == string[-1]
            if whole or not stack[-1].is_list:
                stack[-1].add(string[1:-1] if whole else string[1:])
        elif (
            token.end() < len(text) or not word.isdecimal()
        ):  # the last number of a text that is cut off may be half of one
            stack[-1].add(int(word) if word.isdecimal() and len(word) < 10 else _word(word))
    if stack:
        yield from _listed([*inner, *((one, True) for one in stack if one.is_list)], stack[0].at, len(text))


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
            yield Listed(known, one.key, one.at, start, end, cut)


def _id(value: object) -> int | str | None:
    """Return the id that a list's element is, or holds: None where it is none."""
    if isinstance(value, dict):
        for key in sorted(value, key=lambda key: key.lower() != "id"):
            if (
                key
                and _ID_KEY.fullmatch(key)
                and not isinstance(value[key], dict)
                and (found := _id(value[key])) is not None
            ):
                return found
        return None
    if isinstance(value, str):
        match = _STRING_ID.fullmatch(value.strip()) if len(value) < 40 else None
        return None if match is None else int(match[1]) if match[1] else match[2].upper()
    if isinstance(value, list):
        return _id(value[0]) if len(value) == 1 and not isinstance(value[0], list) else None
    return value if isinstance(value, int) else -1 if isinstance(value, float) and value == int(value) < 0 else None


def _in_order(objects: list[dict[str, object]]) -> bool:
    """Return whether objects stand by their own scores and ranks, where they have them."""
    for key, sign in ((_SCORE_KEY, -1), (_RANK_KEY, 1)):
        said = [sign * v for one in objects for k, v in one.items() if key.fullmatch(k) and isinstance(v, (int, float))]
        if said != sorted(said):
            return False
    return True
