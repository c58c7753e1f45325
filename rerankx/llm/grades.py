"""A grade, or yes or no, read from what a model replied."""

from __future__ import annotations

import math
import re

from rerankx.errors import ReplyError
from rerankx.llm.answers import MARKUP, PROSE, answer_in, quoted

_GRADE = r"(-?\d++(?:\.\d+)?)(?!\w|\.\d)(?:\s*(?:/|out\s+of)\s*(\d{1,9}))?(?!\s*(?:-|–|to\b|or\b|and\b|/|%)\s*\d)"
_NAMED_GRADE = re.compile(
    rf"(?:grade|score|rating|relevance|answer|label)\w{{0,20}}(?:\s+level)?[\"'*_`]*\s*(?:is|of|:|=|->)\s*[\"'*_`\[({{]*{_GRADE}",
    re.IGNORECASE,
)
_FIRST_GRADE = re.compile(
    rf"[^\w\-]*{_GRADE}(?=[\"'*_`\])}}]*\s*(?:\Z|[\n.:,;)\-–—!]|\((?=[^()\d\n]{{0,200}}\))))(?![.)][ \t]+\d)"
)
_LAST_GRADE = re.compile(rf"(?:\b(?:an?|is|it|be)|[:=\n])[\s\"'*_`\[(]*{_GRADE}[\s\"'*_`\])}}.!]*\Z", re.IGNORECASE)
_DOUBT = re.compile(
    r"\bbetween\W+(?:an?\s)?\d|\b(?:maybe|perhaps|possibly|no)\W{1,3}\d|\d\s*(?:-|–|\bto\b|\bor\b)\s*\d", re.IGNORECASE
)
_DENIED = re.compile(r"(?:\b(?:not|cannot|than|would\sbe|could\sbe|might\sbe)\b|n't\b)[^.\n]{0,20}$", re.IGNORECASE)
_SCALE = re.compile(
    r"[(\[]\s?-?\d+\s*(?:-|–|to)\s*\d+\s?[)\]]"
    r"|\b(?:scale|range)\b[^\w\n]{0,3}(?:(?:of|from)\b)?[^\w\n]{0,3}-?\d+\s*(?:-|–|to)\s*\d+",
    re.IGNORECASE,
)
_LEVEL = re.compile(r"^[^\w\n]{0,5}(\d+):", re.MULTILINE)
_POINTS = re.compile(r"^[ \t*#]{0,9}([1-9])[.)][ \t]+(?=[^\W\d])", re.MULTILINE)
_IN_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_GRADE_FIELD = re.compile(
    r"[\"'*_]{0,5}\b(?:grade|score|rating|relevance|answer|relevant)[\"'*_]*\s*[:=]", re.IGNORECASE
)
_YES = {
    "yes": True,
    "true": True,
    "relevant": True,
    "no": False,
    "false": False,
    "irrelevant": False,
    "not relevant": False,
}
_NAMED_YES = re.compile(
    r"(?:answer|relevant|relevance|verdict|judge?ment|label)[\"'*_`]*\s*(?:is\s*:?|:|=)\s*[\"'*_`]*"
    r"(yes|no|true|false|not relevant|irrelevant|relevant)\b(?!\s*\?)",
    re.IGNORECASE,
)
_SAID_YES = re.compile(
    r"\W*(?:the|this) passage is (not relevant|irrelevant|relevant)(?: to the query)?\W*\Z", re.IGNORECASE
)
_FIRST_YES = re.compile(r"\W*(yes|no|true|false)\b(?=\W*(?:\Z|[\n.:,;!)\-–—])|\s(?:because|since|as)\b)", re.IGNORECASE)
_LAST_YES = re.compile(r"(?:\n|:)\W*(yes|no|true|false)\W*\Z", re.IGNORECASE)
_YES_AND_NO = re.compile(
    r"\byes\W{1,3}(?:(?:and|or|but)\W{1,3})?no\b(?!\s+doubt)|\bno\b[^a-z]{1,5}(?:(?:and|or|but|wait)\W{1,3})*yes\b",
    re.IGNORECASE,
)


def read_grade(reply: str, low: int, high: int) -> tuple[int, tuple[str, ...]]:
    """Return the whole number in [low, high] that a reply gives, and how it was mended.

    Raises:
        ReplyError: It gives none, several, or one that is not on the scale.
    """
    text, bare, repairs = _answer_in(reply)
    if bare in _IN_WORDS:
        text = str(_IN_WORDS.index(bare))
        repairs.add("words")
    said = _SCALE.sub(" ", text)
    if {"1", "2"} <= set(_POINTS.findall(said)):
        said = _POINTS.sub("", said)  # the numbers of a list
    if _DOUBT.search(said):
        raise ReplyError(f"the answer does not decide on one grade: {quoted(text)}")
    if len(set(_LEVEL.findall(said))) > 2:
        raise ReplyError("the answer repeats the grades there are")
    last = _LAST_GRADE.search(said, max(0, len(said) - 60))
    if last and _DENIED.search(said[max(0, last.start(1) - 40) : last.start(1)]):
        raise ReplyError(f"the answer says what the grade is not: {quoted(text)}")
    matches = [*_NAMED_GRADE.finditer(said), *filter(None, (_FIRST_GRADE.match(said), last))]
    grades = {(float(m[1]) if len(m[1]) < 16 else math.inf, int(m[2] or high)) for m in matches}
    if not grades:
        raise ReplyError(f"the answer gives no grade from {low} to {high}: {quoted(text)}")
    if len(grades) > 1:
        raise ReplyError(f"the answer gives several grades: {quoted(text)}")
    ((grade, top),) = grades
    if top != high or not low <= grade <= high or grade != int(grade):
        raise ReplyError(f"the answer gives no whole grade from {low} to {high}: {quoted(text)}")
    if PROSE.search(_GRADE_FIELD.sub("", said)):
        repairs.add("prose")
    return int(grade), tuple(sorted(repairs))


def _answer_in(reply: str) -> tuple[str, str, set[str]]:
    """Return a reply's text without markup, the same in lower case without the marks around it, and how it was mended."""
    text, repairs = answer_in(reply)
    text = MARKUP.sub(" ", text).strip()
    return text, text.strip(" \t\n\"'*_`.!()[]{}").lower(), repairs


def read_yes_no(reply: str) -> tuple[bool, tuple[str, ...]]:
    """Return whether a reply says yes, and how it was mended.

    Raises:
        ReplyError: It says neither, or both.
    """
    text, bare, repairs = _answer_in(reply)
    last = _LAST_YES.search(text, max(0, len(text) - 60))
    matches = [*_NAMED_YES.finditer(text), *filter(None, (_FIRST_YES.match(text), _SAID_YES.match(text), last))]
    answers = {_YES[m[1].lower()] for m in matches} | ({_YES[bare]} if bare in _YES else set())
    if len(answers) > 1 or _YES_AND_NO.search(text):
        raise ReplyError(f"the answer says both yes and no: {quoted(text)}")
    if not answers:
        raise ReplyError(f"the answer is neither yes nor no: {quoted(text)}")
    if bare not in _YES and PROSE.search(re.sub(r"\b(?:yes|no|true|false)\b", "", _GRADE_FIELD.sub("", text), count=1)):
        repairs.add("prose")
    return answers.pop(), tuple(sorted(repairs))
