"""What language models are asked: texts in files beside this one, each with a version that goes into a backend's fingerprint.

The first line of a file is `# name version` and is not sent. Where a file's text changes, its version does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.resources import files

from rerankx.errors import did_you_mean

PLACEHOLDERS = ("query", "passages", "passage", "n", "answer", "criteria", "problem")
"""What a template may leave open, each written in braces. Any other braces are text."""

TEMPLATES = ("listwise", "first-token", "judge", "judge-yes-no")
PARTS = ("answer-json", "answer-brackets", "criteria", "criteria-yes-no", "again")

_SLOT = re.compile(r"\{([a-z_]+)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """A prompt, one user message, with places left open."""

    text: str
    """Of `PLACEHOLDERS`, each in braces; there is no way to escape one, and no other braces need it."""
    id: str
    """"listwise/1" for one of ours, "sha256:" and 12 digits for a caller's own: changes when the text does."""

    @property
    def placeholders(self) -> tuple[str, ...]:
        """Return which are in the text, in the order of `PLACEHOLDERS`."""
        found = set(_SLOT.findall(self.text))
        return tuple(name for name in PLACEHOLDERS if name in found)

    def filled(self, **values: str) -> str:
        """Return the text with each placeholder replaced, in one pass: what a value holds in braces is not filled in turn.

        A value whose placeholder is not in the text is left out.

        Raises:
            ValueError: A placeholder of the text got no value.
        """
        missing = [name for name in self.placeholders if name not in values]
        if missing:
            raise ValueError(f"the prompt {self.id} needs {_braced(missing)}; given: {_braced(sorted(values))}")
        return _SLOT.sub(lambda slot: values.get(slot[1], slot[0]), self.text)


def builtin(name: str) -> Template:
    """Return one of our `TEMPLATES`."""
    _check(name, TEMPLATES)
    return Template(_text_of(name), version(name))


def part(name: str) -> str:
    """Return one of our `PARTS`: what fills `{answer}` or `{criteria}`.

    "again" holds `{problem}` and starts with an empty line: it is appended as it is to the prompt that is asked a second time.
    """
    _check(name, PARTS)
    return _text_of(name)


def version(name: str) -> str:
    """Return the name and version of a template or part of ours, as in "answer-json/1"."""
    _check(name, (*TEMPLATES, *PARTS))
    head = _file_of(name)[0].split()
    return f"{head[1]}/{head[2]}"


def own(text: str, *, needs: Sequence[str], may: Sequence[str] = ()) -> Template:
    """Return a template of a caller's own.

    Args:
        text: The whole message, with placeholders in braces. Query and passages come neutralised and in their fences.
        needs: The placeholders, without braces, that it must have.
        may: Those that it may have besides.

    Raises:
        TypeError: `text` is no string.
        ValueError: One of `needs` is not in it, or a placeholder that is filled elsewhere.
    """
    if not isinstance(text, str):
        raise TypeError(f"a prompt is a string, not {type(text).__name__}")
    template = Template(text, "sha256:" + sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12])
    missing = [name for name in needs if name not in template.placeholders]
    if missing:
        in_braces = sorted(set(_SLOT.findall(text)))
        raise ValueError(
            f"the prompt does not hold {_braced(missing)}{did_you_mean(missing[0], in_braces)}; it needs {_braced(needs)}, "
            f"it holds {_braced(in_braces)}, and it may hold {_braced([*needs, *may])}"
        )
    if strange := [name for name in template.placeholders if name not in (*needs, *may)]:
        raise ValueError(
            f"the prompt holds {_braced(strange)}, which nothing fills here; it may hold {_braced([*needs, *may])}"
        )
    return template


def _braced(names: Sequence[str]) -> str:
    return ", ".join(f"{{{name}}}" for name in names) or "none"


def _check(name: str, known: Sequence[str]) -> None:
    if name not in known:
        raise ValueError(f"no prompt named {name!r}{did_you_mean(name, known)}; there are: {', '.join(known)}")


def _text_of(name: str) -> str:
    return _file_of(name)[1]


@cache
def _file_of(name: str) -> tuple[str, str]:
    """Return a file's first line and its text, without the newline at its end."""
    head, _, text = (files(__package__) / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
    return head, text.rstrip("\n")
