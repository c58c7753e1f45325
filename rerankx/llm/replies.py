"""The order that a model's reply gives: one reader, pure, in time proportional to the reply.

Read in this order, and the first that lists half of the passages is it:

    0  a JSON list named for what it is: {"ranking": [3, 1, 2]}, of ids or of objects with one
    1  a chain of ids in brackets: [3] > [1] > [2]
    2  any other list of such ids, alone on its lines or numbered, or of JSON
    3  a chain of bare ids: 3 > 1 > 2, Passage 3 > Passage 1, C > A > B
    4  a list of them, alone on its lines

Of several rankings of one kind the one with most ids counts, and of those the last: a draft comes before what it becomes. One
that is called something else where it stands (the input's order, an example, not the ranking) does not count. Where that does not
settle it, the reply is refused, as it is wherever a doubt is seen: asking again costs a call, a wrong order is not noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

from rerankx.errors import ReplyError
from rerankx.llm.answers import MARKUP, PROSE, answer_in, quoted
from rerankx.llm.first_token import expected_grade, order_of_first_token, probability_of_yes
from rerankx.llm.grades import read_grade, read_yes_no
from rerankx.llm.jsonlike import lists_in
from rerankx.llm.order import Order
from rerankx.llm.words import LABEL

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

_BRACKETED = re.compile(rf"\[\s*(?:{LABEL}\s*[:#_\-]?\s*)?[\"'#]?(\d++|[A-Za-z])[\"']?\s*\]", re.IGNORECASE)
_NUMBER = re.compile(
    rf"(?<![\w./+\-$€£\\])(?<!\d:)(?:{LABEL}[\s:#_\-*]{{0,3}}(\d++)(?![\w%/°]|[.:]\d)|(\d++)(?![\w%/:°]|\.\d))",
    re.IGNORECASE,
)
_LETTER = re.compile(rf"(?<![\w'.:/])(?:{LABEL}[\s:#_\-*]{{0,3}})?([A-Za-z])(?![\w'/:])", re.IGNORECASE)
_LIST_NUMBER = re.compile(r"(?:^|\n)[ \t*_#>]{0,9}(\d{1,3})[.)][ \t]+(?=[\w\[*#(])")
_WORDS = rf"\b(?:{LABEL}|and|then)\b|\\succ\b|\\"
_AMONG_BRACKETS = re.compile(rf"(?:{_WORDS}|[\s,;>=|&\"'*_`~.()#\-–—])*+", re.IGNORECASE)
_AMONG_BARE = re.compile(rf"(?:{_WORDS}|[\s,;>|&\"'*_`()#]|(?<=[\s>\-=])[\-–—=]|[\-–—=]+(?=>))*+", re.IGNORECASE)
_ASIDE = re.compile(r"\([^()\n]{0,200}\)")
_NUMBERED = re.compile(rf"[^\[\]]*\n[ \t*_#>]*(?:rank\s)?(\d{{1,3}})([.):])[\s*_]*(?:{LABEL}[\s:#_*]*)?", re.IGNORECASE)
_BEFORE = re.compile(r"(?:^|[\n:=])[\s*_`\"'(\[#>~\-]*(?:1[.)][ \t*_]*)?$")
_AFTER = re.compile(r"[\"'`*_). \t>]*(?:$|\n|\Z)")
_JSON_AFTER = re.compile(r"[\"'`*_). \t,;]*(?:$|\n|\Z|#|//|[}\]])")
_FIRST_OF_LIST = re.compile(r"\b1[.)][ \t*_]*$")
_IS = re.compile(r"\b(?:is|are|be|as|answer|ranking|order)\W{0,9}$", re.IGNORECASE)
_SCORES = re.compile(
    r"\b(?:scored?s?|grades?d?|ratings?|rated|points|(?<!by )(?<!of )relevance(?= ?score|\W{0,3}\d)|confidence\W{0,3}\d)\b",
    re.IGNORECASE,
)
_NUMBERING = re.compile(rf"(?:^|\n)[ \t*_#>]{{0,9}}\d{{1,3}}[.):]|\b{LABEL}\b", re.IGNORECASE)
_SAID = re.compile(r"[^\W_]")
_NAMED = re.compile(r"rank(?!s)|order|permut|result|answer|sorted", re.IGNORECASE)
_OTHER_LIST = re.compile(r"ranks|score|grade|rating|relevan|confiden|count|total|page|usage|token", re.IGNORECASE)
_REJECTED = re.compile(
    r"exclu|remov|discard|irrelev|not_?rel|unrank|revers|worst|least|input|initial|origin|previous|draft|alternativ|example|enum|bottom|_asc|ascend",
    re.IGNORECASE,
)
_CUT = re.compile(r"[\s*_`]*[>,]\s*(?:\[\s*\d*)?\Z")

# What the words around a ranking say of it.
_REVERSED = re.compile(
    r"""\bleast\b[^\n]{0,30}\bmost\b | \bworst\b[^\n]{0,12}\bbest\b | \blowest\b[^\n]{0,30}\bhighest\b | \bbest\slast\b
    | \b(?:worst|lowest|least(?:\s\w{1,20})?)\sfirst\b | \bascending\b | \brevers | \bbottom\sup\b""",
    re.IGNORECASE | re.VERBOSE,
)
_DISOWNED = re.compile(
    r"""\b(?:original|initial|initially|input|given|previous)\s?(?:order|rank\w*|list)?["']?\s?(?::|was|were)
    | \b(?:original|initial|input|given|previous)\s(?:order|ranking|list)\b
    | \b(?:not|cannot|unable|irrelevant|exclud\w+|remov\w+|discard\w+|off-topic|default|example|such\sas|format\sis)\b | n't\b
    | \b(?:perhaps|maybe|than|was|were|instead\sof|errors?|sources?|references?)\W{0,9}$
    | ^\W*(?:the\s)?(?:least|lowest|worst|bottom)\b
    | \([^()]*\w[^()]*$
    | [\])\d]\s{0,3}<[\s=]{0,4}$""",
    re.IGNORECASE | re.VERBOSE,
)
_DISOWNED_AFTER = re.compile(
    r"[ \t\"'*_`)]*(?:\?|(?:would|might|could)\b|is\s(?:not|wrong|the\s(?:input|given|original|initial))\b|<[\s=\-]{0,4}[\[(\d])",
    re.IGNORECASE,
)
_EDGE = " \t\r\n\"'*_`[{$>#-"
_UNDECIDED = re.compile(r"\b(?:or|versus|vs)\W{0,9}$|\balternativ", re.IGNORECASE)
_FINAL = re.compile(r"\b(?:final|correct\w*|revised|answer)\b", re.IGNORECASE)


class _Found(NamedTuple):
    """Ids in a row, as they stand."""

    tier: int
    """5 for a list that is no ranking by its name."""
    ids: list[int]
    at: int
    start: int
    """Of it and what belongs to it."""
    end: int
    letters: bool = False
    cut: bool = False
    between: str = ""
    """What is written between its ids."""


def read_order(reply: str, n: int) -> Order:
    """Return the order that a reply gives n passages, whose ids are 1 to n, or A to Z where it uses letters.

    Ids that are unknown or come again are dropped, those that are missing follow in input order.

    Raises:
        ReplyError: It is not a ranking, or lists fewer than half of the passages.
    """
    text, repairs = answer_in(reply)
    found = [*_in_json(text), *_in_text(text, n)]
    best = _picked(found, n, text)
    _refuse_doubt(best, found, n, text)
    known = _known(best, n)
    mended = {
        "prose": bool(PROSE.search(MARKUP.sub("", text[: best.start] + " " + text[best.end :]))),
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


def _picked(found: list[_Found], n: int, text: str) -> _Found:
    """Return the ranking that counts: of the first kind there is, with the most ids, the last."""
    most = 0
    for tier in range(5):
        ranked = [(len(_known(one, n)), one.at, one) for one in found if one.tier == tier]
        most = max([most, *(count for count, *_ in ranked)])
        enough = [one for one in ranked if one[0] >= max((n + 1) // 2, 1)]
        ours = [one for one in enough if not _disowned(one[2], text)]
        if ours:
            return max(ours, key=lambda one: one[:2])[2]
        if enough:
            raise ReplyError("the answer does not say that this is its ranking, best first")
        if ranked and tier == 0:
            break
    else:
        if not most:
            raise ReplyError(f"the answer is not a ranking: {quoted(text)}")
    raise ReplyError(f"the answer lists {most} of {n} passages")


def _refuse_doubt(best: _Found, found: list[_Found], n: int, text: str) -> None:
    """Raise a ReplyError where a ranking may not be what the reply wants to say."""
    known = _known(best, n)
    if 0 in best.ids:
        raise ReplyError(f"the answer has an id 0, where ids go from 1 to {n}")
    if len(set(best.ids)) > 2 * len(known):
        raise ReplyError(f"most of the ids in the answer are none, where ids go from 1 to {n}")
    if best.tier in (0, 2, 4) and len(best.ids) == n > len(set(best.ids)) and all(1 <= i <= n for i in best.ids):
        raise ReplyError("the answer may be a grade or a rank for each passage, not their ids")
    if best.tier in (2, 4) and n > 1 and known == sorted(known):
        rest = MARKUP.sub("", "\n".join((text[: best.start], best.between, text[best.end :])))
        if _SAID.search(_NUMBERING.sub("", rest)):
            raise ReplyError(
                "the answer names the passages in the order given, and does not say that this is its ranking"
            )
    if _UNDECIDED.search(_clause(text, best.start)):
        raise ReplyError("the answer does not decide on one ranking")
    place = {i: at for at, i in enumerate(known)}
    words = max((word.start() for word in PROSE.finditer(text, 0, best.start)), default=-1)
    for one in found:
        if (
            one is not best
            and _is_rival(one, best, n)
            and not _agrees(one, [place.get(i) for i in _known(one, n)], best, text, words)
        ):
            raise ReplyError("the answer holds rankings that differ, and does not say which one counts")


def _is_rival(one: _Found, best: _Found, n: int) -> bool:
    if one.tier == best.tier or (one.tier == 5 and best.tier == 2):
        return True
    return best.tier == 0 and one.tier == 1 and one.at >= best.end and len(_known(one, n)) >= (n + 1) // 2


def _agrees(one: _Found, places: list[int | None], best: _Found, text: str, words: int) -> bool:
    """Return whether a ranking says what the best one says, as far as it goes, or does not count beside it.

    Args:
        one: The ranking.
        places: Of its ids in the best one.
        best: The one that counts.
        text: The reply.
        words: Where the last word before the best one is.
    """
    shared = [place for place in places if place is not None]
    if len(shared) < len(places):
        return False  # groups
    if shared == sorted(shared) or (best.tier not in (2, 4) and _disowned(one, text)):
        return True
    is_draft = one.end <= words and best.tier < 2 and one.start != best.start
    return is_draft and not (_FINAL.search(_clause(text, one.start)) and not _FINAL.search(_clause(text, best.start)))


def _disowned(one: _Found, text: str) -> bool:
    """Return whether the words around a ranking say that it is another."""
    if one.tier == 5:
        return False
    return bool(
        _DISOWNED.search(_clause(text, one.start, far=one.tier in (2, 4)))
        or _DISOWNED_AFTER.match(text, one.end)
        or _REVERSED.search(_clause(text, one.at, far=True))
        or _REVERSED.search(text[one.end : one.end + 60].partition("\n")[0])
        or (one.start < one.at and _REVERSED.search(text, one.at, min(one.end, one.at + 300)))
    )


def _clause(text: str, at: int, *, far: bool = False) -> str:
    """Return the words of the sentence that lead to a place; with `far`, of the one before where there are none."""
    before = text[max(0, at - 120) : at].rstrip(_EDGE)
    if before.endswith(("1.", "1)")):  # the first of a list
        before = before[:-2].rstrip(_EDGE)
    clauses = re.split(r"[.;!?](?:\s|$)|\n|\bbut\b", before)
    return next(filter(str.strip, reversed(clauses)), "") if far else clauses[-1]


def _known(one: _Found, n: int) -> list[int]:
    """Return the ids there are, each once."""
    return [i for i in dict.fromkeys(one.ids) if 1 <= i <= n]


def _in_json(text: str) -> Iterator[_Found]:
    for one in lists_in(text):
        named, bare = bool(_NAMED.search(one.key)), one.start == one.at
        if bare and (len(one.ids) < 2 or not _stands_alone(text, one.start, one.end, _JSON_AFTER)):
            continue  # an id in brackets, or a list in a sentence
        letters = bool(one.ids) and isinstance(one.ids[0], str)
        ids = [ord(i) - 64 if isinstance(i, str) else i for i in one.ids]
        if one.remarks and ids == sorted(ids) and not (named and one.remarks == "other"):
            continue  # what there is to say of each passage
        other = _REJECTED.search(one.key) or (_OTHER_LIST.search(one.key) and not named)
        yield _Found(5 if other else 0 if named else 2, ids, one.at, one.start, one.end, letters, one.cut)


def _stands_alone(text: str, start: int, end: int, after: re.Pattern[str] = _AFTER) -> bool:
    return bool(_BEFORE.search(text[max(0, start - 40) : start]) and after.match(text, end))


def _in_text(text: str, n: int) -> Iterator[_Found]:
    """Yield the runs of ids in brackets, then those of bare ids."""
    words = [word.span() for word in PROSE.finditer(text)]
    prose = (words[0][1], words[-1][0]) if words else (len(text) + 1, -1)
    runs = partial(_runs, text, n=n, prose=prose)
    yield from runs([_Id(t, t[1]) for t in _BRACKETED.finditer(text) if t[1].isdecimal()], bare=False)
    listed = {t.start(1) for t in _LIST_NUMBER.finditer(text)}
    numbers = [_Id(t, t[1] or t[2]) for t in _NUMBER.finditer(text) if t.start(2) not in listed]
    scores = _SCORES.search(text)  # which are numbers, too
    yield from (run for run in runs(numbers, bare=True) if run.tier == 3 or not scores)
    if n <= 26:
        yield from runs([_Id(t, t[1]) for t in _BRACKETED.finditer(text) if t[1].isalpha()], bare=False)
        yield from runs([_Id(t, t[1]) for t in _LETTER.finditer(text)], bare=True)


class _Id:
    """An id as it is written."""

    def __init__(self, match: re.Match[str], said: str) -> None:
        self.start, self.end = match.span()
        self.bare = match[0].isalnum()
        self.letter = said.isalpha()
        self.id = ord(said.upper()) - 64 if self.letter else int(said) if len(said) < 10 else 10**9


def _runs(text: str, tokens: list[_Id], *, bare: bool, n: int, prose: tuple[int, int]) -> Iterator[_Found]:
    """Yield the ids that one kind of joint holds together: ">" with ties, a comma, a line, or the numbers of a list."""
    run: list[_Id] = []
    joints: set[str] = set()
    for token in tokens:
        joint = _joint(text[run[-1].end : token.start], len(run), bare, token) if run else None
        if run and (joint is None or not (joints | {joint} <= {">", ","} or joints <= {joint})):
            yield from _run(text, run, joints, bare=bare, n=n, prose=prose)
            run = run[-1:] if joint == ">" else []  # what a chain begins with may end a list
            joints = set()
        if run and joint is not None:
            joints.add(joint)
        run.append(token)
    if run:
        yield from _run(text, run, joints, bare=bare, n=n, prose=prose)


def _joint(gap: str, place: int, bare: bool, token: _Id) -> str | None:
    """Return what holds two ids together; None where it is prose."""
    if len(gap) > _GAP or ".." in gap:  # an ellipsis stands for ids
        return None
    numbered = _NUMBERED.fullmatch(gap)
    if numbered and int(numbered[1]) == place + 1:
        # A bare number may be the first word of a comment, or a grade; a comment may not be what stands between two of them.
        return "#" if not token.bare or not (numbered[2] == ":" or PROSE.search(gap)) else None
    among = _AMONG_BARE if bare else _AMONG_BRACKETS
    if ">" in gap or "\\succ" in gap:
        return ">" if among.fullmatch(_ASIDE.sub("", gap)) else None
    if not gap or not among.fullmatch(gap):
        return None
    return ";" if ";" in gap else "\n" if "\n" in gap and "," not in gap else ","


def _run(
    text: str, run: list[_Id], joints: set[str], *, bare: bool, n: int, prose: tuple[int, int]
) -> Iterator[_Found]:
    letters, start, end, chain = run[0].letter, run[0].start, run[-1].end, ">" in joints
    ids = [token.id for token in run]
    numbered = "#" in joints and not run[-1].bare
    alone = _stands_alone(text, start, end)
    if not (chain or numbered or alone):
        return  # in a sentence
    if len(joints) > 1 and len(set(ids)) < len(ids):
        return  # pairs: [1] > [2], [2] > [3]
    if bare and letters and max(ids) > n:
        return  # I > A
    lead = text[max(0, start - 40) : start]
    if bare and chain and run[0].bare and not (_BEFORE.search(lead) or _IS.search(lead)):
        return  # Since 3 > 2, or Settings > 3 > 2
    if bare and "\n" in joints and _FIRST_OF_LIST.search(lead):
        return  # 1. 3, and the 2 of the line after it
    half = bare and not letters and end == len(text) and len(set(ids)) < n and ids[-1] * 10 <= n
    if half and len(ids) > 1:
        ids.pop()  # 1 of 12
    if bare and not chain:
        # Counts and dates are bare numbers, too; and a lone one is an answer only where there is but one passage.
        if (len(run) == 1 and n > 1) or len(set(ids)) < len(ids) or not all(1 <= i <= n for i in ids):
            return
        if (letters or len(run) == 1) and (prose[0] <= start or prose[1] >= end):
            return
    between = "\n".join(text[one.end : two.start] for one, two in pairwise(run))
    cut = half or bool(_CUT.match(text, end))
    yield _Found((3 if bare else 1) + (not chain), ids, start, start, end, letters, cut, between)
