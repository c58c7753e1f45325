"""What a model answered, in plain characters: without its thinking, and never an error message or a refusal."""

from __future__ import annotations

import re
import unicodedata

from rerankx.errors import ReplyError

_LONGEST = 50_000  # characters of an answer without its thinking: a hundred passages with 500 on each
_SHOWN = 80  # characters of a reply in a message
_THINK = re.compile(
    r"<\s*(/?)\s*(?:think(?:ing)?|thought|reasoning|reflection|scratchpad)\b[^<>]{0,40}>|\[(/?)THINK\]", re.IGNORECASE
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)[^<]{0,80}<\|message\|>")
_ANSWER = re.compile(r"<answer>", re.IGNORECASE)
_ERROR = re.compile(
    r"""\W*(?: (?:[\w.]*(?:error|exception)\b(?:\s+code)?\s*[:\-(\d]) | traceback\b | http\s*/?\s*[\d.]+\s*\d* | rate\s+limit
    | (?:internal\s+server|upstream|gateway|connection|server)\s+error | bad\s+gateway
    | service\s+(?:is\s+)?(?:temporarily\s+)?unavailable
    | too\s+many\s+requests | \d{3}\s+(?:error|bad|internal|service|too|unauthorized|forbidden|not\s+found|gateway) )""",
    re.IGNORECASE | re.VERBOSE,
)
_JSON_ERROR = re.compile(r'\W*"(?:error|errors|detail|fault)"\s*+:\s*+(?!null|false|""|\[\s*\]|\{\s*\})', re.IGNORECASE)
_HTML = re.compile(r"<(?:!doctype|html|head|body|script|\?xml)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"""\W*(?: (?:i['’]?m|i\s+am)\s+(?:very\s+|so\s+)?sorry\b(?!\s+for) | (?:sorry|unfortunately|apologies),?\s+(?:but\s+)?i\b
    | i\s*(?:can['’]?t|can\s?not|won['’]?t|will\s+not|do\s+not|don['’]?t|could\s+not|couldn['’]?t)
    | i\s*(?:['’]?m|\s+am)\s+(?:not\s+able|unable)
    | as\s+an?\s+(?:ai|language\s+model) )\b""",
    re.IGNORECASE | re.VERBOSE,
)

_SAME = dict.fromkeys("→⇒➜➔➡⟶⟹≻≽≥⪰»›▶►▸＞", ">")
_SAME |= {
    "【": "[",
    "】": "]",
    "〔": "[",
    "〕": "]",
    "〖": "[",
    "〗": "]",
    "⟦": "[",
    "⟧": "]",
    "“": '"',
    "”": '"',
    "‘": "'",
    "’": "'",
}

PROSE = re.compile(r"[^\W\d_]{2}")
MARKUP = re.compile(r"```\w*|</?\w{1,20}>|\\boxed")


def answer_in(reply: str) -> tuple[str, set[str]]:
    """Return what a reply says after its thinking, in plain characters, and how that was had; refuse what is no answer at all."""
    text, repairs = _after_thinking(reply), set[str]()
    if text is None:
        raise ReplyError("the answer was cut off while thinking")
    if text != reply:
        repairs.add("thinking")
    for part in _ANSWER.split(text)[1:][-1:]:
        text = part
    if len(text) > _LONGEST:
        raise ReplyError(f"the answer is too long, {len(text)} characters")
    strange = {ord(c): plain(c) for c in set(text) if c > "\x7f"}
    said = text.translate(strange).replace("&gt;", ">").strip()
    if any(new != chr(c) and any("0" <= d <= "9" for d in new) for c, new in strange.items()):
        repairs.add("digits")
    if "```" in said:
        repairs.add("fence")
    if not said:
        raise ReplyError("the answer is empty" if not repairs else "the answer holds thinking and nothing else")
    if _ERROR.match(said) or _JSON_ERROR.match(said) or _HTML.search(said, 0, 500):
        raise ReplyError(f"the answer is an error message: {quoted(said)}")
    if _REFUSAL.match(said):
        raise ReplyError(f"the answer is a refusal: {quoted(said)}")
    return said, repairs


def _after_thinking(reply: str) -> str | None:
    """Return a reply without its thinking; None where it never comes to an end."""
    channels = list(_CHANNEL.finditer(reply))
    if channels:
        if channels[-1][1] != "final":
            return None
        reply = re.split(r"<\|\w+\|>", reply[channels[-1].end() :], maxsplit=1)[0]
    kept: list[str] = []
    thinking, at = False, 0
    for tag in _THINK.finditer(reply):
        closes = bool(tag[1] or tag[2])
        if closes and not thinking:
            kept.clear()  # it opened in the prompt
        elif not closes and not thinking:
            kept.append(reply[at : tag.start()])
        thinking, at = not closes, tag.end()
    return None if thinking else "".join(kept) + reply[at:]


def plain(char: str) -> str:
    """Return what a character is in ASCII, where it is a digit, an arrow, a bracket, a quote or a letter."""
    if char in _SAME:
        return _SAME[char]
    form = unicodedata.normalize("NFKC", char)
    digit = unicodedata.digit(char, None)
    if (
        digit is not None
        and (form.isdecimal() or not form.isascii())
        and "<circle>" not in unicodedata.decomposition(char)
    ):
        return str(digit) if unicodedata.category(char) == "Nd" or unicodedata.decomposition(char) else f" {digit} "
    value = unicodedata.numeric(char, None)
    if unicodedata.category(char) == "No" and value is not None and value == int(value):
        return f" {int(value)} "
    return form if form.isascii() else char


def quoted(text: str) -> str:
    """Return the beginning of a text in quotes, fit for a message."""
    shown = ascii(" ".join(text[:_SHOWN].split()))[1:-1]
    return f"'{shown if len(shown) < _SHOWN - 5 and len(text) <= _SHOWN else shown[: _SHOWN - 5] + '...'}'"
