"""Where to cut a text: into windows of so many tokens, and rather not within a sentence.

Sentences are found by rules, for many scripts, in one pass. They miss one sooner than they invent one: a window that ends a
sentence too late loses nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, chain

Span = tuple[int, int]
"""Where something begins and ends, in characters."""

# Ends a sentence where a blank and no small letter follows.
_MARKS = ".!?\N{HORIZONTAL ELLIPSIS}"
# Ends one without a blank: CJK, Indic, Arabic, Urdu, Armenian, Ethiopic, Burmese, Khmer, Tibetan.
_FULL = "。！？｡।॥؟۔։።፧။។།"
_CLOSERS = "\"'”’»›)\\]}」』）】〉》｣＂"
_BREAKS = "\n\r\f\u2028\u2029"

# Possessive, and without a condition behind them: a megabyte of dots is one match, not a million tries.
_END = re.compile(rf"([{_MARKS}{_FULL}]++)([{_CLOSERS}]*+)(\s*+)|[{_BREAKS}]\s*+")
_LABEL = re.compile(r"[^\W\d_]{1,2}[.)]\s|[^\W\d_]{1,2}\)")

# English, German, French, Spanish and Latin ones that a capital or a number often follows; without their last dot.
_WORDS = (
    "abb abs al app approx art aufl bd bzw ca cap cf ch chap col corp dept dipl dr ed eds eq eqs est etc evtl ex "
    "fig figs ff fr gen ggf gov hon hr inc ing jr lt ltd max mfg min mio mlle mme mr mrs ms mt nat no nos nr op p "
    "pag para pp pres prof pt r ref refs rep res rev s sec sect sen ser sr sra st ste str supp tab tel thm u v vgl "
    "viz vol vols vs z zb"
)
_ABBREVIATIONS = frozenset(_WORDS.split())
_LONGEST = 32  # characters before a dot that are looked at


def sentence_starts(text: str) -> list[int]:
    """Return where sentences begin, in characters, ascending; 0 is not among them.

    A sentence ends with its mark and what closes quotes and brackets behind it, at a blank line, at a line that ends before
    anything but a small letter (headings, list items), and nowhere else: not at decimals, initials and common abbreviations.
    Each start is that of a character that is no blank. Takes time in proportion to the text.
    """
    starts = []
    for end in _END.finditer(text):
        at = end.end()
        if at < len(text) and _is_end(text, end):
            starts.append(at)
    return starts


def _is_end(text: str, end: re.Match[str]) -> bool:
    marks, closers, blank = end.groups()
    at = end.end()
    if marks is None:
        blank = end[0]
    elif marks[-1] in _FULL:
        return True
    if blank.count("\n") > 1 or "\f" in blank or "\N{PARAGRAPH SEPARATOR}" in blank:
        return True
    new_line = marks is None or any(mark in blank for mark in _BREAKS)
    goes_on = text[at].islower() and not (new_line and _LABEL.match(text, at))
    if marks is None or goes_on or not blank:
        return blank != "" and not goes_on
    return bool(closers) or marks != "." or not _is_short_for_something(text, end.start())


def _is_short_for_something(text: str, dot: int) -> bool:
    """Return whether the dot belongs to an abbreviation, an initial or the number of a list item."""
    before = text[max(dot - _LONGEST, 0) : dot]
    if not before or before[-1].isspace():
        return False
    line = before.splitlines()[-1]
    words = line.split()
    word = words[-1].lstrip("\"'([“‘«„")
    if word.isdecimal():  # "2. Close the valve", at the start of a line
        return len(words) == 1 and len(line) < _LONGEST and len(word) < 4
    letters = word.replace(".", "")
    if not letters.isalpha():
        return False
    initials = word != "I" and len(word) == 2 * len(letters) - 1  # "J", "U.S", "e.g"
    return initials or word.casefold() in _ABBREVIATIONS


def split_windows(text: str, spans: Sequence[Span], *, size: int, overlap: int) -> list[Span]:
    """Return where the windows of a text begin and end, in characters, in their order.

    Each ends where a sentence does, as late as `size` allows; the next begins where one does, as early as `overlap` allows, but
    so that it holds the next sentence whole. Only a sentence longer than `size` is cut, between words where there are blanks,
    else between tokens. Takes time in proportion to the text.

    Args:
        text: The text.
        spans: Where its tokens begin and end (`Backend.token_spans`).
        size: The most tokens in a window, at least 1.
        overlap: The most tokens that a window shares with the one before, in [0, size / 2].

    Returns:
        The text itself where it has no more than `size` tokens. Else windows without blanks at their ends, which together hold
        every token and every character that is no blank.
    """
    if len(spans) <= size:
        return [(0, len(text))]
    tokens = _Tokens(text, spans)
    windows: list[Span] = []
    first = end = 0
    while end < len(spans):
        if end > 0:
            first = tokens.next_first(first, end, size=size, overlap=overlap)
        end = tokens.window_end(end, first + size)
        window = tokens.characters(first, end)
        if window[0] < window[1]:
            windows.append(window)
    return windows


class _Tokens:
    """The tokens of a text, by number, and where among them one may cut."""

    def __init__(self, text: str, spans: Sequence[Span]) -> None:
        self.text, self.n = text, len(spans)
        # Never falling: a normaliser may have changed the order of what it read.
        self.firsts = list(accumulate((start for start, _ in spans), max))
        self.ends = list(accumulate((end for _, end in spans), max))
        begin = {bisect_left(self.firsts, at) for at in sentence_starts(text)}
        self.sentences = [*sorted(i for i in begin if 0 < i < self.n and self.is_between(i)), self.n]
        """Where sentences begin, and where the last one ends."""

    def is_between(self, i: int) -> bool:
        """Return whether no character belongs to tokens on both sides: several may stand for one, as for an emoji."""
        return self.ends[i - 1] <= self.firsts[i]

    def is_word(self, i: int) -> bool:
        """Return whether a word begins there; some tokenizers count the blank before it to it."""
        at = self.firsts[i]
        return self.ends[i - 1] < at or (self.ends[i - 1] == at and self.text[at : at + 1].isspace())

    def window_end(self, last: int, limit: int) -> int:
        """Return the number of the token before which a window ends: behind `last`, and as near before `limit` as may be."""
        if limit >= self.n:
            return self.n
        place = bisect_right(self.sentences, limit) - 1
        if place >= 0 and self.sentences[place] > last:
            return self.sentences[place]
        tries = range(limit, last + (limit - last) // 2, -1)
        return next(chain(filter(self.is_word, tries), filter(self.is_between, tries)), limit)

    def next_first(self, first: int, end: int, *, size: int, overlap: int) -> int:
        """Return the number of the token with which the next window begins: behind `first`, not behind `end`."""
        earliest = max(end - overlap, first + 1)
        whole = self.sentences[bisect_right(self.sentences, end)]
        if whole - end <= size:
            earliest = max(earliest, whole - size)
        begins = self.sentences[bisect_left(self.sentences, earliest)]
        if begins <= end:
            return begins
        tries = range(earliest, end + 1)  # the end is within a sentence
        return next(chain(filter(self.is_word, tries), filter(self.is_between, tries)), end)

    def characters(self, first: int, end: int) -> Span:
        """Return where in the text these tokens are, with what is no token between them, without blanks around them."""
        start = 0 if first == 0 else self.firsts[first]
        part = self.text[start : len(self.text) if end == self.n else self.firsts[end]]
        start += len(part) - len(part.lstrip())
        return start, start + len(part.strip())
