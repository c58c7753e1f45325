"""What a model answered, in plain characters: without its thinking, and never an error message or a refusal."""

from __future__ import annotations

import re
import unicodedata

from rerankx.errors import ReplyError
from rerankx.llm.words import REASONING

_LONGEST = 50_000  # characters of an answer without its thinking: a hundred passages with 500 on each
_SHOWN = 80  # characters of a reply in a message
_THINK = re.compile(
    rf"[<◁]\s*+\|?+\s*+(/?+)\s*+(?:begin_of_|(end_of_))?+(?:\w{{1,20}}:)?+(?:{'|'.join(REASONING)})\b[^<>◁▷]{{0,40}}[>▷]|\[(/?)THINK\]",
    re.IGNORECASE,
)
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)(?:[^<]|<\|constrain\|>){0,80}<\|message\|>")
_TURN_ENDS = re.compile(  # what stands after it is a turn that the model made up
    r"<\|(?:im_end|im_start|eot_id|eom_id|end|endoftext|end_of_text|return)\|>|</s>|<end_of_turn>"
    r"|\n(?:User|Human|### ?(?:Instruction|Input|User|Human)) ?:"
)
_ANSWER = re.compile(r"<(?:final_)?answer>", re.IGNORECASE)
_ANSWER_ENDS = re.compile(r"</(?:final_)?answer>", re.IGNORECASE)
_LATEX_TEXT = re.compile(r"\\text\{([^{}]*+)\}")
_BOXED = re.compile(r"\$?\\boxed\{([^{}]*+)\}\$?")
_ESCAPED = re.compile(r"\\\[ ?(\w{1,3}) ?\\\]")
_HALF_BRACKET = re.compile(r"^(\d{1,3}|[A-Z])\](?=\s{0,9}[>,])")  # the other half was given to the model to go on from
_ERROR = re.compile(
    r"""\W*+(?: (?:[\w.]{0,60}(?:error|exception)\b(?:\s+code)?\s*(?:[:(\d]|-(?!\w))) | traceback\b
    | http(?:/[\d.]+)?\s+[45]\d\d\b | rate\s+limit\b | an\s+error\s+(?:has\s+)?occurred
    | (?:internal\s+server|upstream|gateway|connection|server)\s+error | bad\s+gateway
    | service\s+(?:is\s+)?(?:temporarily\s+)?unavailable
    | too\s+many\s+requests | \d{3}\s+(?:error|bad|internal|service|too|unauthorized|forbidden|not\s+found|gateway) )""",
    re.IGNORECASE | re.VERBOSE,
)
_JSON_ERROR = re.compile(
    r"""[^\w"]*+(?: "(?:type|object|status)"\s*+:\s*+"error" | "success"\s*+:\s*+false
    | "(?:error|errors|detail|fault)"\s*+:\s*+(?!null|false|""|\[\s*\]|\{\s*\}) )""",
    re.IGNORECASE | re.VERBOSE,
)
_HTML = re.compile(r"[\s`]*(?:html\s+)?<(?:!doctype|html|head|body|script|\?xml)\b", re.IGNORECASE)
_REFUSAL = re.compile(
    r"""\W*+(?: (?: (?:(?:i['’]?m|i\s+am)\s+(?:\w+\s+)?)?sorry | unfortunately | (?:my\s+)?apologies | i\s+apologi[sz]e
            | however | as\s+an?\s+(?:ai|(?:large\s+)?language\s+model)(?:\s+language\s+model|\s+assistant|\s+model)? )
        \W{1,3}(?:but\s+)? )?
    (?: i\s*(?:can['’]?t|can\s?not|won['’]?t|will\s+not|could\s+not|couldn['’]?t)
    | i\s*(?:['’]?m|\s+am)\s+(?:not\s+able|unable) | i\s+(?:do\s+not|don['’]?t)\s+(?:have|know)
    | unable\s+to | (?:i['’]?m|i\s+am)\s+sorry\s*[.!]?\s*\Z )\b
    | \W*+(?: lo\s+siento | no\s+puedo | es\s+tut\s+mir | leider | je\s+suis\s+désolé | je\s+ne\s+peux | désolé | 抱歉 | 很抱歉
    | 对不起 | 我无法 | 我不能 | 申し訳 | すみません | извините | я\s+не\s+могу )""",
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
    "、": ",",
    "،": ",",
    "。": ".",
    "।": ".",
    "•": "-",
    "▪": "-",
    "◦": "-",
    "−": "-",
}

PROSE = re.compile(r"[^\W\d_]{2}")
MARKUP = re.compile(r"```\w*|</?\w{1,20}>")


def answer_in(reply: str) -> tuple[str, set[str]]:
    """Return what a reply says after its thinking, in plain characters, and how that was had; refuse what is no answer at all."""
    text, repairs = _after_thinking(reply), set[str]()
    if text is None:
        raise ReplyError("the answer was cut off while thinking")
    if text != reply:
        repairs.add("thinking")
    text = _answer_of(text)
    if len(text) > _LONGEST:
        raise ReplyError(f"the answer is too long, {len(text)} characters")
    strange = {ord(c): plain(c) for c in set(text) if c > "\x7f"}
    said = _without_latex(text.translate(strange).replace("&gt;", ">")).strip()
    said = _HALF_BRACKET.sub(r"[\1]", said)
    if any(new != chr(c) and any("0" <= d <= "9" for d in new) for c, new in strange.items()):
        repairs.add("digits")
    if "```" in said:
        repairs.add("fence")
    if not said:
        raise ReplyError("the answer is empty" if not repairs else "the answer holds thinking and nothing else")
    if _ERROR.match(said) or _JSON_ERROR.match(said) or _HTML.match(said):
        raise ReplyError(f"the answer is an error message: {quoted(said)}")
    if _REFUSAL.match(said):
        raise ReplyError(f"the answer is a refusal: {quoted(said)}")
    if "</passage>" in said.lower():
        raise ReplyError("the answer repeats the question")
    return said, repairs


def _answer_of(text: str) -> str:
    """Return the first turn in a text, or what stands in its last tags for an answer."""
    turn = next((turn for turn in _TURN_ENDS.split(text) if turn.strip()), "")
    return _ANSWER_ENDS.split(_ANSWER.split(turn)[-1], maxsplit=1)[0]


def _without_latex(text: str) -> str:
    r"""Return a text with what is in a \boxed on a line of its own."""
    return _BOXED.sub(r"\n\1\n", _LATEX_TEXT.sub(r"\1", _ESCAPED.sub(r"[\1]", text)))


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
        closes = bool(tag[1] or tag[2] or tag[3])
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
