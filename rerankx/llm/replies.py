"""The order that a model's reply gives: one reader, pure, in time that grows with the reply.

Read in this order, and the first that lists half of the passages is it:

    0  a JSON list named for what it is: {"ranking": [3, 1, 2]}, of ids or of objects with one
    1  a chain of ids in brackets: [3] > [1] > [2]
    2  any other list of such ids, alone on its lines or numbered, or of JSON
    3  a chain of bare ids: 3 > 1 > 2, Passage 3 > Passage 1, C > A > B
    4  a list of them, alone on its lines

Of several rankings of one kind the one with most ids counts, and of those the last: a draft comes before what it becomes.
Where that does not settle it, the reply is refused. So is whatever else is in doubt: asking again costs a call, a wrong order
is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from rerankx.errors import ReplyError
from rerankx.llm.answers import MARKUP, PROSE, answer_in, quoted
from rerankx.llm.first_token import expected_grade, order_of_first_token, probability_of_yes
from rerankx.llm.grades import read_grade, read_yes_no
from rerankx.llm.jsonlike import lists_in
from rerankx.llm.order import Order

__all__ = [
    "Order",
    "expected_grade",
    "order_of_first_token",
    "probability_of_yes",
    "read_grade",
    "read_order",
    "read_yes_no",
]

_GAP = 600  # characters from one id to the next: a passage's worth of comment in a numbered list

_LABEL = r"(?:passages?|documents?|docs?|texts?|candidates?|items?|snippets?|identifiers?|ids?|no|number)"
_BRACKETED = re.compile(rf"\[\s*(?:{_LABEL}\s*[:#_\-]?\s*)?[\"'#]?(\d++|[A-Za-z])[\"']?\s*\]", re.IGNORECASE)
_NUMBER = re.compile(rf"(?<![\w.:/+\-$€£\\])(?:{_LABEL}[\s:#_\-*]{{0,3}})?(\d++)(?![\w%/:°]|\.\d)", re.IGNORECASE)
_LETTER = re.compile(rf"(?<![\w'.:/])(?:{_LABEL}[\s:#_\-*]{{0,3}})?([A-Za-z])(?![\w'/:])", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"(?:^|\n)[ \t*_#]{0,9}(\d{1,3})[.)][ \t]+(?=[\w\[*#(])")
_WORDS = rf"\b(?:{_LABEL}|and|then)\b|\\succ\b|\\"
_AMONG_BRACKETS = re.compile(rf"(?:{_WORDS}|[\s,;>=|&\"'*_`~.()#\-–—])*+", re.IGNORECASE)
_AMONG_BARE = re.compile(rf"(?:{_WORDS}|[\s,;>|&\"'*_`()#]|(?<=[\s>\-=])[\-–—=]|[\-–—=]+(?=>))*+", re.IGNORECASE)
_ASIDE = re.compile(r"\([^()\n]{0,200}\)")
_NUMBERED = re.compile(rf"[^\[\]]*\n[\s*_#]*(\d{{1,3}})[.):][\s*_]*(?:{_LABEL}[\s:#_*]*)?", re.IGNORECASE)
_BEFORE = re.compile(r"(?:^|[\n:])[\s*_`\"'(#>~\-•]*(?:1[.)][ \t*_]*)?$")
_AFTER = re.compile(r"[\"'`*_). \t>]*(?:$|\n|\Z)")
_SCORES = re.compile(r"\b(?:scored?s?|grades?d?|ratings?|rated|points|relevance|confidence)\b", re.IGNORECASE)
_UNDECIDED = re.compile(r"\b(?:or|not|versus|vs)\W{1,3}$", re.IGNORECASE)
_NAMED = re.compile(r"rank(?!s)|order|permut|result|answer|sorted", re.IGNORECASE)
_OTHER_LIST = re.compile(r"ranks|score|grade|rating|relevan|confiden|count|total|page|usage|token", re.IGNORECASE)
_CUT = re.compile(r"[\s*_`]*[>,]\s*(?:\[\s*\d*)?\Z")


class _Found(NamedTuple):
    """Ids in a row, as they stand."""

    tier: int
    ids: list[int]
    at: int
    start: int
    """Of it and what belongs to it."""
    end: int
    letters: bool = False
    cut: bool = False


def read_order(reply: str, n: int) -> Order:
    """Return the order that a reply gives n passages, whose ids are 1 to n, or A to Z where it uses letters.

    Ids that are unknown or come again are dropped, those that are missing follow in input order.

    Raises:
        ReplyError: It is not a ranking, or lists fewer than half of the passages.
    """
    text, repairs = answer_in(reply)
    best = _decided([*_in_json(text), *_in_text(text, n)], n, text)
    known = _known(best, n)
    if 0 in best.ids:
        raise ReplyError(f"the answer has an id 0, where ids go from 1 to {n}")
    around = text[: best.start] + " " + text[best.end :]
    prose = bool(PROSE.search(MARKUP.sub("", around)))
    if best.tier in (2, 4) and prose and n > 1 and known == sorted(known):
        raise ReplyError("the answer names the passages in the order given, and does not say that this is its ranking")
    if _UNDECIDED.search(text[max(0, best.at - 20) : best.at]):
        raise ReplyError("the answer does not decide on one ranking")
    mended = {
        "prose": prose,
        "letters": best.letters,
        "cut off": best.cut,
        "unknown ids": any(not 1 <= i <= n for i in best.ids),
        "repeated ids": sum(1 <= i <= n for i in best.ids) > len(known),
        "missing ids": len(known) < n,
    }
    repairs |= {word for word, applies in mended.items() if applies}
    seen = set(known)
    ids = known + [i for i in range(1, n + 1) if i not in seen]
    return Order(tuple(i - 1 for i in ids), tuple(sorted(repairs)))


def _decided(found: list[_Found], n: int, text: str) -> _Found:
    """Return the ranking that counts."""
    need, most = (n + 1) // 2, 0
    for tier in range(5):
        rivals = [one for one in found if one.tier == tier]
        if not rivals:
            continue
        best = max(rivals, key=lambda one: (len(_known(one, n)), one.at))
        most = max(most, len(_known(best, n)))
        if n and len(_known(best, n)) >= need:
            ours = _known(best, n)
            if all(_agrees(one.at < best.at and tier < 2, _known(one, n), ours) for one in rivals):
                return best
            raise ReplyError("the answer holds rankings that differ, and does not say which one counts")
        if tier == 0:
            break
    else:
        if not most:
            raise ReplyError(f"the answer is not a ranking: {quoted(text)}")
    raise ReplyError(f"the answer lists {most} of {n} passages")


def _known(one: _Found, n: int) -> list[int]:
    """Return the ids there are, each once."""
    return [i for i in dict.fromkeys(one.ids) if 1 <= i <= n]


def _agrees(before: bool, theirs: list[int], ours: list[int]) -> bool:
    """Return whether a ranking says what the best one says, as far as it goes, or comes before it and is a draft of it."""
    if before and set(theirs) <= set(ours):
        return True
    place = {i: at for at, i in enumerate(ours)}
    places = [place.get(i, -1) for i in theirs]
    return len(theirs) < 2 or (-1 not in places and places == sorted(places))


def _in_json(text: str) -> Iterator[_Found]:
    for one in lists_in(text):
        named = bool(_NAMED.search(one.key))
        if (_OTHER_LIST.search(one.key) and not named) or (len(one.ids) < 2 and not named and one.start == one.at):
            continue  # a list of one id and no name is an id in brackets
        letters = bool(one.ids) and isinstance(one.ids[0], str)
        ids = [ord(i) - 64 if isinstance(i, str) else i for i in one.ids]
        yield _Found(0 if named else 2, ids, one.at, one.start, one.end, letters, one.cut)


def _in_text(text: str, n: int) -> Iterator[_Found]:
    """Yield the runs of ids in brackets, then those of bare ids."""
    yield from _runs(text, [t for t in _BRACKETED.finditer(text) if t[1].isdecimal()], bare=False, n=n)
    listed = {t.start(1) for t in _LIST_NUMBER.finditer(text)}
    numbers = [t for t in _NUMBER.finditer(text) if t.start(1) not in listed]
    scores = _SCORES.search(text)  # which are numbers, too
    yield from (run for run in _runs(text, numbers, bare=True, n=n) if run.tier == 3 or not scores)
    if n <= 26:
        yield from _runs(text, [t for t in _BRACKETED.finditer(text) if t[1].isalpha()], bare=False, n=n)
        yield from _runs(text, list(_LETTER.finditer(text)), bare=True, n=n)


def _runs(text: str, tokens: list[re.Match[str]], *, bare: bool, n: int) -> Iterator[_Found]:
    """Yield the ids that one kind of joint holds together: ">" with ties, a comma, a line, or the numbers of a list."""
    run: list[re.Match[str]] = []
    joints: set[str] = set()
    for token in tokens:
        joint = _joint(text[run[-1].end() : token.start()], len(run), bare, token[0]) if run else None
        if run and (joint is None or not (joints | {joint} <= {">", ","} or joints <= {joint})):
            yield from _run(text, run, joints, bare=bare, n=n)
            run = run[-1:] if joint == ">" else []  # what a chain begins with may end a list
            joints = set()
        if run and joint is not None:
            joints.add(joint)
        run.append(token)
    if run:
        yield from _run(text, run, joints, bare=bare, n=n)


def _joint(gap: str, place: int, bare: bool, token: str) -> str | None:
    """Return what holds two ids together; None where it is prose."""
    if len(gap) > _GAP:
        return None
    numbered = _NUMBERED.fullmatch(gap)
    if numbered and int(numbered[1]) == place + 1:
        # A bare number may be the first word of a comment; a comment may not be what stands between two of them.
        return "#" if not token.isalnum() or not PROSE.search(gap) else None
    among = _AMONG_BARE if bare else _AMONG_BRACKETS
    if ">" in gap or "\\succ" in gap:
        return ">" if among.fullmatch(_ASIDE.sub("", gap)) else None
    if not gap or not among.fullmatch(gap):
        return None
    return next((mark for mark in ("\n", ";") if mark in gap), ",")


def _run(text: str, run: list[re.Match[str]], joints: set[str], *, bare: bool, n: int) -> Iterator[_Found]:
    letters = run[0][1].isalpha()
    ids = [ord(t[1].upper()) - 64 if letters else int(t[1]) if len(t[1]) < 10 else 10**9 for t in run]
    start, end, chain = run[0].start(), run[-1].end(), ">" in joints
    numbered = "#" in joints and not run[-1][0].isalnum()
    alone = _BEFORE.search(text[max(0, start - 40) : start]) and _AFTER.match(text, end)
    if not (chain or numbered or alone):
        return  # in a sentence
    if len(joints) > 1 and len(set(ids)) < len(ids):
        return  # pairs: [1] > [2], [2] > [3]
    if bare and not chain:
        # Counts and dates are bare numbers, too; and a lone one is an answer only where there is but one passage.
        if (len(run) == 1 and n > 1) or len(set(ids)) < len(ids) or not all(1 <= i <= n for i in ids):
            return
        if (letters or len(run) == 1) and (PROSE.search(text, 0, start) or PROSE.search(text, end)):
            return
    yield _Found((3 if bare else 1) + (not chain), ids, start, start, end, letters, bool(_CUT.match(text, end)))
