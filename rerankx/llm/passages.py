"""Texts as they are put into a prompt: nothing in them can pass for the prompt's own marks, and they fit a budget of tokens.

Passages come from anywhere, and so may the query. The order is: neutralise, then trim, so that the budget holds for what is sent,
then fence. Fencing neutralises what it is given once more: nobody can forget it, and what is neutralised already stays as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_letters, ascii_uppercase

# Twentieths of a token for a byte, see `tokens_in`.
_TOKEN = 20
_LETTER, _OTHER, _SIGN = 5, 8, 10
_LETTERS = (ascii_letters + " \n\t").encode()
_ASCII = bytes(range(128))

# Angle brackets and square brackets, and what looks like them or is made them by Unicode's compatibility forms.
_LESS, _MORE = "<＜﹤‹«〈〈《⟨⟪❮❰˂≺⧼", ">＞﹥›»〉〉》⟩⟫❯❱˃≻⧽"
_OPEN, _SHUT = "[［﹇【〖〔﹝⟦〚❲⁅", "]］﹈】〗〕﹞⟧〛❳⁆"

# Tag characters spell text that nobody sees; in the flags of England, Scotland and Wales they are what they were made for.
_FLAGS = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in land) + "\U000e007f" for land in ("gbeng", "gbsct", "gbwls")
)
_INVISIBLE = re.compile(
    f"({_FLAGS})|[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e00ff]+"
)
# Joiners, which several scripts and emoji need, and variation selectors: two in a row have a use, a longer row spells bytes.
_ROW = re.compile(
    "([\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]{2})[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]+"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")

# Every run of opening angle brackets is looked at once, with what follows up to the next bracket: linear in the text.
_TAG = re.compile(f"(?<![{_LESS}])([{_LESS}]+)([^{_LESS}{_MORE}]{{1,256}})([{_MORE}]*)")
_ID = re.compile(rf"[{re.escape(_OPEN)}]([^{re.escape(_OPEN + _SHUT)}]{{1,40}})[{re.escape(_SHUT)}]")

# Letters that look Latin, and signs that NFKD leaves as they are.
_LOOKALIKE = str.maketrans("аеорсухѕіјһԁԛԝАЕОРСУХІЅВНКМТαερονικ¦ǀ∣│❘⁄∕⧸", "aeopcyxsijhdqwAEOPCYXISBHKMTaepovik|||||///")
_LEAD = r"[\s/\\|!?\"'`*]*"
# `<passage` with anything after it, and `<query` unless a longer word begins so: `<QueryClientProvider>` is code.
_FENCE = re.compile(_LEAD + "(?:" + r"\s*".join("passage") + "|" + r"\s*".join("query") + "(?![a-z]))")
# The marks of chat templates (Llama, Mistral, Gemma, Qwen, ChatML, GLM and their kin) and of reasoning models, and the tags in
# which turns and tool calls are commonly forged. DeepSeek's and gpt-oss's, and most of the others, stand in bars: `_BARRED`.
_TURN = re.compile(
    _LEAD
    + r"(?:\w+:)?(?:s|bos|eos|pad|unk|sys|system|user|assistant|human|instructions?|think|thinking|reasoning|answer"
    r"|tool_?(?:call|response|result)s?|function_?(?:call|response|result)s?|invoke|(?:start|end|begin)_(?:of|header)_\w+"
    r"|im_(?:start|end|sep)|endoftext|eot|eot_id|eom_id|extra_id_\d+|unused\d+)(?:\s.*)?",
    re.DOTALL,
)
_TRAIL = " \t\n\"'`*/"
_BARRED = re.compile(r"\|[^()|]+\|")
_BRACKETED = re.compile(
    r"/?(?:inst|system_prompt|available_tools|tool_calls|tool_results|tool_content|args|call_id|think|img|gmask|sop)"
)
_NAMED = re.compile(r"(?:passage|document|doc|id)[#:=._]*")

# What belongs to the character before it, and must not be parted from it: besides combining marks.
_EXTENDS = re.compile(
    "[\u200c\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef\udc00-\udfff]"
)


def neutralised(text: str) -> str:
    """Return the text without what could pass for a mark of the prompt, and without what is hidden from a human reader.

    Never longer than `text`; the same again on what it returned; linear in the length. What has none of this is not changed:

    - our own fences (`</passage>`, `<query>`), and tags, tokens and bracketed words of chat templates (`<|im_start|>`, `[INST]`,
      `<think>`), also spaced out, full-width or in look-alike letters: their angle or square brackets become round ones;
    - ids as the prompt writes them, `[3]` and `[A]`, in any of these brackets: round brackets. An index such as `x[i]` stays;
    - invisible characters: dropped, but for joiners and variation selectors, of which a row is cut to two, and three flags;
    - control characters but newline and tab: a space. A surrogate without its other half: "?".

    Ordinary words stay, whatever they ask for: "rank me first" is for the prompt's wording and the caller's floor to resist.
    """
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), text)
    text = _LONE.sub("?", text).replace("\r\n", "\n")
    text = _INVISIBLE.sub(r"\1", _CONTROL.sub(" ", text))
    return _ID.sub(_round_id, _TAG.sub(_round_tag, _ROW.sub(r"\1", text)))


def _round_tag(tag: re.Match[str]) -> str:
    less, body, more = tag.groups()
    plain = _folded(body).lower()
    closed = bool(more) and (_TURN.fullmatch(plain.rstrip(_TRAIL)) or _BARRED.fullmatch("".join(plain.split())))
    if not closed and not _FENCE.match(plain):
        return tag[0]
    return "(" * len(less) + body + ")" * len(more)


def _round_id(bracketed: re.Match[str]) -> str:
    inner = bracketed[1]
    plain = "".join(_folded(inner).split()).strip("#.:\"'`*_")
    if plain.isascii() and plain.islower() and len(plain) == 1:
        before = bracketed.string[bracketed.start() - 1 : bracketed.start()]
        is_id = not (before.isalnum() or before in ("_", ")", *_SHUT))
    elif len(plain) == 1 and plain in ascii_uppercase:
        is_id = True
    else:
        word = plain.lower()
        digits = _NAMED.sub("", word, count=1)
        is_id = _BRACKETED.fullmatch(word) is not None or (
            1 <= len(digits) <= 4 and all(unicodedata.digit(c, None) is not None for c in digits)
        )
    return f"({inner})" if is_id else bracketed[0]


def _folded(text: str) -> str:
    """Return how it reads: compatibility forms and look-alike letters as plain ones, accents and what is invisible left out."""
    plain = unicodedata.normalize("NFKD", text).translate(_LOOKALIKE)
    return plain if plain.isascii() else "".join(c for c in plain if unicodedata.category(c) not in ("Mn", "Me", "Cf"))


def tokens_in(text: str) -> int:
    """Return about how many tokens the text is to a language model: an estimate, rounded up, that needs no tokenizer.

    An ASCII letter or space counts for 1/4 token, another ASCII character for 1/2, a byte of any other character's UTF-8 for 2/5.
    Bytes / 4 alone says half the truth for JSON and tables, and two thirds of it for Hindi and Chinese. This estimate, measured
    against cl100k_base in November 2026: English 1.26 times the truth, German 0.96, Hindi 1.02 (XQuAD's passages), Python code
    1.14, JSON 0.85, a table 0.76; the worst are bare punctuation, 0.73, and emoji, 0.55. Against o200k_base: English 1.27, German
    1.16, Hindi 1.80, the others the same to 0.04.
    """
    return -(-_twentieths(text) // _TOKEN)


def _twentieths(text: str) -> int:
    raw = text.encode("utf-8", "surrogatepass")
    signs_and_others = raw.translate(None, _LETTERS)
    others = len(signs_and_others.translate(None, _ASCII))
    letters = len(raw) - len(signs_and_others)
    return _LETTER * letters + _SIGN * (len(signs_and_others) - others) + _OTHER * others


def trimmed(text: str, tokens: int) -> tuple[str, bool]:
    """Return as much of the text's beginning as `tokens_in` says fits, and whether anything was cut off.

    The whole text where it fits; else it ends with a word where one ends in the last tenth, never between a character and its
    accents or joined parts, and without the space after it. "" where not even one character fits.

    Args:
        text: Neutralised already: what that takes out does not count.
        tokens: At least 1.
    """
    if tokens < 1:
        raise ValueError(f"a text was to be trimmed to {tokens} tokens: at least 1")
    room = tokens * _TOKEN
    if len(text) * _LETTER <= room and _twentieths(text) <= room:
        return text, False
    end = 0
    for character in text[: room // _LETTER + 1]:
        room -= _twentieths(character)
        if room < 0:
            break
        end += 1
    if end == len(text):
        return text, False
    return text[: _end_of_word(text, _end_of_character(text, end))].rstrip(), True


def _end_of_character(text: str, end: int) -> int:
    # At most 32 back: no script piles up more, and a pile without end is not worth all of the text.
    for at in range(end, max(end - 32, 0), -1):
        parted = _EXTENDS.match(text[at]) or unicodedata.combining(text[at]) or text[at - 1] == "\u200d"
        if not parted:
            return at
    return 0 if end <= 32 else end


def _end_of_word(text: str, end: int) -> int:
    if end == 0 or text[end].isspace():
        return end
    for at in range(end, end - max(end // 10, 1), -1):
        if text[at - 1].isspace():
            return at
    return end


def fenced(texts: Sequence[str], labels: Sequence[str]) -> str:
    """Return the passages of a listwise prompt, neutralised, each in a fence that carries its label as `id`.

    Raises:
        ValueError: There are not as many labels as texts.
    """
    return "\n".join(
        f'<passage id="{label}">\n{neutralised(text)}\n</passage>' for text, label in zip(texts, labels, strict=True)
    )


def fenced_passage(text: str) -> str:
    """Return the one passage of a judge's prompt, neutralised, in a fence."""
    return f"<passage>\n{neutralised(text)}\n</passage>"


def fenced_query(text: str) -> str:
    """Return the query, neutralised, in its fence."""
    return f"<query>{neutralised(text)}</query>"


def numbers(n: int) -> list[str]:
    """Return the labels "1" to str(n)."""
    return [str(i) for i in range(1, n + 1)]


def letters(n: int) -> list[str]:
    """Return the labels "A", "B", ..., n of them.

    Raises:
        ValueError: There are not so many letters.
    """
    if n > len(ascii_uppercase):
        raise ValueError(f"{n} passages were to be labelled with letters: at most {len(ascii_uppercase)}")
    return list(ascii_uppercase[:n])
