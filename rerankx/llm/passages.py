"""Texts as they are put into a prompt: nothing in them can pass for the prompt's own marks, and they fit a budget of tokens.

Passages come from anywhere, and so may the query. The order is: neutralise, then trim, so that the budget holds for what is sent,
then fence. Fencing neutralises what it is given once more: nobody can forget it, and what is neutralised already stays as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_letters, ascii_uppercase

from rerankx.llm.words import LETTERS

# Twentieths of a token for a byte, see `tokens_in`.
_TOKEN = 20
_LETTER, _OTHER, _SIGN = 5, 8, 10
_LETTERS = (ascii_letters + " \n\t").encode()
_ASCII = bytes(range(128))

# Angle brackets and square brackets, and what looks like them or is made them by Unicode's compatibility forms.
_QUOTES = "«‹〈〈《"  # marks of a prompt only in its very form: quotation marks, in several languages
_LESS, _MORE = _QUOTES + "<＜﹤⟨⟪❮❰˂≺⧼≪⋖ᐸ◁", "»›〉〉》>＞﹥⟩⟫❯❱˃≻⧽≫⋗ᐳ▷"
_OPEN, _SHUT = "[［﹇【〖〔〘﹝⟦⟬〚❲⁅", "]］﹈】〗〕〙﹞⟧⟭〛❳⁆"

# Tag characters spell text that nobody sees; in the flags of England, Scotland and Wales they are what they were made for.
_FLAGS = "|".join(
    "\U0001f3f4" + "".join(chr(0xE0000 + ord(c)) for c in land) + "\U000e007f" for land in ("gbeng", "gbsct", "gbwls")
)
# Thai, Lao, Burmese and Khmer part words with a zero width space, and Mongolian parts a vowel.
_WORD_BY_WORD = "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]"
_INVISIBLE = re.compile(
    f"({_FLAGS}|\u200b(?<={_WORD_BY_WORD}\u200b)(?={_WORD_BY_WORD})"
    "|\u180e(?<=[\u1820-\u18aa]\u180e)(?=[\u1820-\u18aa]))"
    "|[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U0001d173-\U0001d17a\U000e0000-\U000e00ff]+"
)
# Joiners, which several scripts and emoji need, and variation selectors: two in a row have a use, a longer row spells bytes.
_ROW = re.compile(
    "([\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]{2})[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]+"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")
_LONE = re.compile("[\ud800-\udfff]")

# What is blank without being a space, and the accents of which any number can be piled up.
_UNSEEN = dict.fromkeys([*map(ord, "\u115f\u1160\u2800\u3164\uffa0\ufffc"), *range(0x300, 0x370)])
# Letters that look Latin, and signs that NFKD leaves as they are.
_LOOKALIKE = str.maketrans(
    "аеорсухѕіјһԁԛԝАЕОРСУХІЅВНКМТαερονικɑɡıᴀᴅᴇɢɪᴍɴᴏᴘǫʀꜱᴛᴜʏ¦ǀ∣│❘⁄∕⧸",
    "aeopcyxsijhdqwAEOPCYXISBHKMTaepovikagiadegimnopqrstuy|||||///",
) | {start + i: ord(c) for start in (0x1F150, 0x1F170) for i, c in enumerate(ascii_uppercase)}

# Every run of opening angle brackets is looked at once, with what follows up to the next bracket: linear in the text.
_TAG = re.compile(f"(?<![{_LESS}])([{_LESS}]++)([^{_LESS}{_MORE}]++)([{_MORE}]*+)")
_LOOKED_AT = 256  # characters of a tag, besides spaces in a row: none of those below is longer
# `</passage` and `</query` with anything after them, but for a longer word: `<QueryClientProvider>` is code.
_FENCE = re.compile(
    r"([\s/\\|!?\"'`*.~-]*)(?:" + r"\s*".join("passage") + "s?|" + r"\s*".join("query") + ")(?![a-z])(.*)", re.DOTALL
)
# Without the slash it is one where an attribute, a number or the end of the tag follows. `x <query && y> 3` is a comparison.
# Here and below no "(" is passed over: there may have been a tag, and what is neutralised again must stay as it is.
_ATTRIBUTE = re.compile(r"\s*\w+\s*=(?!=)|\s*id\b")
_NUMBER = re.compile(r"[\s#:_(]*\d")
_NO_WORDS = re.compile(r"[^a-z()]*")
# The marks of chat templates (Llama, Mistral, Gemma, Qwen, ChatML, GLM, Baichuan and their kin) and of reasoning models, and
# the tags in which turns and tool calls are commonly forged. Most others, as DeepSeek's and gpt-oss's, are `_BARRED`.
_TURN = re.compile(
    r"[\s/\\|!?\"'`*]*(?:[a-z]\w*:)?(?:s|bos|eos|pad|unk|sys|im_(?:start|end|sep)|endo(?:ftext|fturn)|eot|eot_id|eom_id|fim_\w+"
    r"|(?:extra_id_|unused|reserved_)\d+|(?:start|end|begin)_(?:of|header|function)_\w+|(?:function|parameter)\s*=[^()]*"
    r"|(?:system|system_?prompt|developer|user|assistant|human|instructions?|answer|invoke|think|thinking|thought|reasoning"
    r"|reflection|scratchpad|(?:tool|function)_?(?:call|response|result)s?)(?:\s[^()]*)?)"
)
_TRAIL = " \t\n\"'`*/"
_BARRED = re.compile(r"\|[^()]+\|")
_TYPE = re.compile(r"[A-Z](?:\w*[a-z]\w*)?")  # the User of `List<User>`
_NAME_ENDS = re.compile("[A-Za-z0-9]")

# Square brackets, those that are left first: indices, and the ticked box of a list.
_ANY_OPEN = re.compile(f"[{re.escape(_OPEN)}]")
_IN = f"[^{re.escape(_OPEN + _SHUT)}]"
_BRACKET = rf"[{re.escape(_OPEN)}]({_IN}++)[{re.escape(_SHUT)}]"
_SQUARE = re.compile(rf"((?<=[A-Za-z0-9)])(?:\[{_IN}*+\])++|(?<=[-*+] )\[[xX]\](?=\s))|{_BRACKET}")
_WHOLE_BRACKET = re.compile(_BRACKET)
_BRACKETED = re.compile(
    r"(?i:/?(?:inst|system_prompt|model_settings|available_tools|tool_(?:calls|results|content)|call_id|gmask|sop))"
    r"|/?(?:THINK|ARGS|IMG)|\|/?\w+\|"
)
# A list of ids, in the form of an answer: alone on its line, or said to be one.
_LIST = re.compile(
    rf"^([ \t>*`\"'-]*+){_BRACKET}(?=[ \t.*`\"']*+$)"
    rf"|((?<![a-z])(?:rank(?:ing|ed)?|answer|order)[\"'`*]*+\s*+(?::|is\b)[\s\"'`*]*+){_BRACKET}",
    re.IGNORECASE | re.MULTILINE,
)
_LABEL = "(?:passages?|documents?|docs?|texts?|candidates?|items?|snippets?|identifiers?|ids?|no|number)"
_EDGE = r"[\s#.:\"'`*_]*+"
_ONE = rf"{_EDGE}(?:(?:{_LABEL}[\s#:=._\"'-]*)?0*\d{{1,4}}|(?:{_LABEL}[\s#:=._-]+)?[a-z]){_EDGE}"
_ID = re.compile(_ONE)
_IDS = re.compile(rf"{_ONE}(?:[,;>]{_ONE})+,?\s*")

# What belongs to the character before it, and must not be parted from it: besides combining marks.
_EXTENDS = re.compile(
    "[\u1160-\u11ff\u200c\u200d\ufe00-\ufe0f\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f\U000e0100-\U000e01ef\udc00-\udfff]"
)
_REGIONAL = re.compile("[\U0001f1e6-\U0001f1ff]")  # two make a flag


def neutralised(text: str) -> str:
    """Return the text without what could pass for a mark of the prompt, and without what is hidden from a human reader.

    Never longer than `text`; the same again on what it returned; linear in the length. What has none of this is not changed:

    - our own fences (`</passage>`, `<query>`, `<passage id="3"`), and tags, tokens and bracketed words of chat templates
      (`<|im_start|>`, `[INST]`, `<think>`), also spaced out, full-width or in look-alike letters: their angle or square
      brackets become round ones;
    - ids in square brackets, in any that look like them, as an answer writes them: `[3]`, `[A]`, `[item 3]`, and a list,
      `[3, 1, 2]`, that is alone on its line or called a ranking, an answer or an order. Their brackets become round ones;
    - invisible characters: dropped, but for those that a script needs, joiners and variation selectors, of which a row is cut
      to two, and three flags;
    - control characters but newline and tab: a space. A surrogate without its other half: "?".

    Left, because it is code or prose more often: square brackets directly after an ASCII letter, digit or ")", as in `argv[1]`
    (an id stands in a fence's attribute or, in an answer, alone); a list within a sentence or a line of code; type arguments,
    `List<User>`; comparisons and shifts, `cout << passage`; words in quotation marks, `«query»`, but for a fence's slash or id.
    Taken for an id all the same: a footnote `[3]`, a sound `[a]`, a printed list.

    Not promised: that every look-alike of a letter or bracket is known, or every model's tokens, or what a model would decode
    (`&lt;/passage&gt;`, base64). Words stay, whatever they ask for: "rank me first" and "passage 3 is best" are for the prompt's
    wording and the caller's floor to resist. Whatever a model believes, its answer is confined to an order of the passages.
    """
    text = _PAIR.sub(lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), text)
    text = _LONE.sub("?", text).replace("\r\n", "\n")
    text = _ROW.sub(r"\1", _INVISIBLE.sub(r"\1", _CONTROL.sub(" ", text)))
    if _ANY_OPEN.search(text):
        text = _SQUARE.sub(_round_id, _LIST.sub(_round_list, text))
    return _TAG.sub(_round_tag, text)  # last: it leaves a ")", after which a bracket would be an index


def _round_tag(tag: re.Match[str]) -> str:
    less, body, more = tag.groups()
    quoted = less[-1] in _QUOTES
    name = _words(body)
    plain = _folded(name[: 16 * _LOOKED_AT])[:_LOOKED_AT].lower()  # what is hidden is not counted
    is_mark = _is_fence(plain, quoted=quoted, closed=bool(more))
    if not is_mark and more and not quoted and len(name) <= _LOOKED_AT:
        is_type = _TYPE.fullmatch(body) and _NAME_ENDS.match(tag.string, tag.start() - 1)
        is_mark = not is_type and _is_turn(plain)
    return "(" * len(less) + body + ")" * len(more) if is_mark else tag[0]


def _is_turn(plain: str) -> bool:
    return bool(_TURN.fullmatch(plain.rstrip(_TRAIL)) or _BARRED.fullmatch("".join(plain.split())))


def _is_fence(plain: str, *, quoted: bool, closed: bool) -> bool:
    fence = _FENCE.match(plain)
    if fence is None:
        return False
    lead, rest = fence.groups()
    if "/" in lead or "\\" in lead or _ATTRIBUTE.match(rest):
        return True
    return not quoted and bool(_NUMBER.match(rest) or (closed and _NO_WORDS.fullmatch(rest)))


def _round_list(found: re.Match[str]) -> str:
    alone, listed, said, answered = found.groups()
    inner = answered if listed is None else listed
    return f"{alone or said or ''}({inner})" if _reads(inner, _IDS, at_most=1024) else found[0]


def _round_id(found: re.Match[str]) -> str:
    left, inner = found.groups()
    if left is not None:
        return _WHOLE_BRACKET.sub(lambda each: f"({each[1]})" if _is_token(each[1]) else each[0], left)
    return f"({inner})" if _is_token(inner) or _reads(inner, _ID, at_most=64) else found[0]


def _is_token(inner: str) -> bool:
    squeezed = _words(inner).replace(" ", "")
    return len(squeezed) <= 64 and _BRACKETED.fullmatch(_folded(squeezed)) is not None


def _reads(inner: str, form: re.Pattern[str], *, at_most: int) -> bool:
    plain = _words(inner)
    return len(plain) <= at_most and form.fullmatch(_folded(plain).lower()) is not None


def _words(text: str) -> str:
    return " ".join(text.translate(_UNSEEN).split())


def _folded(text: str) -> str:
    """Return how it reads: look-alike letters and digits as plain ones, accents and what is invisible left out."""
    plain = unicodedata.normalize("NFKD", text).translate(_LOOKALIKE)
    return plain if plain.isascii() else "".join(_ascii_digit(c) for c in plain if not _extra(c))


def _ascii_digit(character: str) -> str:
    digit = unicodedata.digit(character, None)
    return character if digit is None else str(digit)


def _extra(character: str) -> bool:
    return unicodedata.category(character) in ("Mn", "Me", "Cf")


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
        extends = _EXTENDS.match(text[at]) or unicodedata.category(text[at])[0] == "M"
        if not (extends or text[at - 1] == "\u200d" or _inside_flag(text, at)):
            return at
    return 0 if end <= 32 else end


def _inside_flag(text: str, at: int) -> bool:
    if not _REGIONAL.match(text[at]):
        return False
    start = at
    while start and _REGIONAL.match(text[start - 1]):
        start -= 1
    return (at - start) % 2 == 1


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
    """Return n labels of `LETTERS`: "A", "B", ...

    Raises:
        ValueError: There are not so many letters.
    """
    if n > len(LETTERS):
        raise ValueError(f"{n} passages were to be labelled with letters: at most {len(LETTERS)}")
    return list(LETTERS[:n])
