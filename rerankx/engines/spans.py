"""Where in a text its tokens are."""

from __future__ import annotations

from collections.abc import Iterator

from tokenizers import Tokenizer

from rerankx.engines.files import ModelFiles
from rerankx.errors import ModelNotFoundError

_PART = 50_000  # characters


def read_tokenizer(files: ModelFiles) -> Tokenizer | None:
    """Return the model's tokenizer, which reads texts whole; None where the model has no tokenizer.json.

    Raises:
        ModelNotFoundError: It cannot be fetched, or is no tokenizer.
    """
    path = files.find("tokenizer.json")
    if path is None:
        return None
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises this class itself
        raise ModelNotFoundError(f"{path} is no tokenizer that tokenizers reads: {str(error)[:200]}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.encode_special_tokens = True  # "[SEP]" in a text is five characters
    return tokenizer


def token_spans(tokenizer: Tokenizer, text: str) -> list[tuple[int, int]]:
    """Return where each token begins and ends, in characters of `text`; special ones are not among them.

    Args:
        tokenizer: One that neither cuts nor pads.
        text: May hold half of a surrogate pair.
    """
    # The tokenizer takes no lone surrogates; a question mark is one character, too.
    clean = text.encode("utf-8", "replace").decode("utf-8")
    spans: list[tuple[int, int]] = []
    for start, part in parts(clean):
        offsets = tokenizer.encode(part, add_special_tokens=False).offsets
        spans += [(start + first, start + end) for first, end in offsets] if start else offsets
    return spans


def parts(text: str) -> Iterator[tuple[int, str]]:
    """Yield the text in parts cut at blanks, where there are any, each with where it begins.

    The tokenizer takes 200 bytes per character at once.
    """
    start = 0
    while start == 0 or start < len(text):
        end = start + _PART
        if end < len(text):
            end = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = start + _PART if end < 0 else end
        yield start, text[start:end]
        start = end
