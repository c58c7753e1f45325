"""Lines and records of files that may be gzipped, wrongly encoded or broken, each with its place."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, NamedTuple, cast

from rerankx.arguments import shown

# Where a document's text is: BEIR and rank_llm, MS MARCO v2, Anserini, LlamaIndex and others. The order is rank_llm's,
# `convert_doc_to_prompt_content` in https://github.com/castorini/rank_llm.
_TEXTS = ("text", "segment", "contents", "content", "body", "passage")
_IDS = ("_id", "id", "docid", "qid")

Record = Mapping[str, object]

FIRST_STAGE = "first stage: "
"""How issues begin that concern the candidates."""


class Place(NamedTuple):
    """Where something was read, for a message."""

    path: Path
    number: int
    unit: str = "line"

    def __str__(self) -> str:
        return f"{self.path}, {self.unit} {self.number}"


class Notes:
    """Collects what is odd but was handled: a kind of thing, how often it was seen, and the first that was."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[int, str]] = {}

    def add(self, what: str, example: str = "") -> None:
        """Count one of a kind; `what` says what was done about it."""
        count, first = self._seen.get(what, (0, example))
        self._seen[what] = (count + 1, first)

    def told(self) -> tuple[str, ...]:
        """Return a sentence for each kind."""
        return tuple(
            f"{what}: {count}, such as {first}" if first else what for what, (count, first) in self._seen.items()
        )


def there(path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that is there; if it is not, that of the same file gzipped.

    Raises:
        FileNotFoundError: There is neither.
        ValueError: It is a folder.
    """
    given = Path(path)
    for one in (given, given.with_name(f"{given.name}.gz")):
        if one.is_dir():
            raise ValueError(f"{one} is a folder: expected a file")
        if one.exists():
            return one
    raise FileNotFoundError(f"{given} is not there, nor is {given.name}.gz")


def lines(path: Path) -> Iterator[tuple[Place, str]]:
    """Yield each line that is not blank, without its line end and a byte order mark, and its place.

    Raises:
        ValueError: It is not UTF-8, or broken gzip.
    """
    number = 0
    with path.open("rb") as file:
        try:
            for number, line in enumerate(_unpacked(file), 1):
                text = _decoded(Place(path, number), line)
                if text and not text.isspace():
                    yield Place(path, number), text
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{Place(path, number + 1)}: the gzip file is broken ({error}); fetch it again") from error


def records(path: Path) -> Iterator[tuple[Place, Record]]:
    """Yield the JSON object of each line that is not blank, and its place; or those of one JSON list.

    Raises:
        ValueError: As in `lines`, or what is there is no JSON object.
    """
    first = True
    for place, line in lines(path):
        if first and line.lstrip().startswith("["):
            yield from _listed(path)
            return
        first = False
        yield place, _object(place, _parsed(place, line))


def document(path: Path) -> object:
    """Return what the whole file holds as JSON.

    Raises:
        ValueError: As in `lines`, or it is not JSON.
    """
    return _parsed(path, "\n".join(line for _, line in lines(path)))


def identity(place: object, record: Record, *names: str) -> str:
    """Return the id of a record, under the first of `names` that it has; by default those that are usual.

    Raises:
        ValueError: It has none, or it is no string or whole number.
    """
    names = names or _IDS
    name = next((name for name in names if record.get(name) is not None), None)
    if name is None:
        raise ValueError(f"{place}: there is no {names[0]!r}, only {shown(list(record))}")
    return as_id(place, record[name], name)


def as_id(place: object, value: object, name: str) -> str:
    """Return an id as a string; a whole number becomes one.

    Raises:
        ValueError: It is neither, or blank.
    """
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{place}: {name} is {shown(value)}, expected a string that is not blank, or a whole number")
    return value


def text_of(place: object, record: Record) -> str:
    """Return title and text of a document, or the text of a query.

    Raises:
        ValueError: There is no text, or it is no string.
    """
    text = text_in(place, record)
    if text is None:
        raise ValueError(f"{place}: there is no 'text', only {shown(list(record))}")
    return text


def text_in(place: object, record: Record) -> str | None:
    """Return title and text of a document, None if it has no field for it.

    Raises:
        ValueError: Title or text is no string.
    """
    name = next((name for name in _TEXTS if name in record), None)
    if name is None:
        return None
    text, title = record[name], record.get("title") or ""
    for field, value in ((name, text), ("title", title)):
        if not isinstance(value, str):
            raise ValueError(f"{place}: {field} is {shown(value)}, expected a string")
    return f"{title} {text}".strip()


def number_of(place: object, value: object, name: str) -> float | None:
    """Return a finite number, None for None.

    Raises:
        ValueError: It is something else.
    """
    if value is None:
        return None
    try:
        number = float(cast("float | str", value)) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{place}: {name} is {shown(value)}, expected a finite number")
    return number


def _unpacked(file: IO[bytes]) -> IO[bytes]:
    packed = file.read(2) == b"\x1f\x8b"
    file.seek(0)
    return cast("IO[bytes]", gzip.GzipFile(fileobj=file)) if packed else file


def _decoded(place: Place, line: bytes) -> str:
    line = line.removesuffix(b"\n").removesuffix(b"\r")
    try:
        return line.decode("utf-8-sig" if place.number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; convert the file first, such as by "
            "iconv -f LATIN1 -t UTF-8"
        ) from error


def _parsed(place: object, text: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"character {error.pos + 1}" if isinstance(place, Place) else f"line {error.lineno}"
        raise ValueError(f"{place}: not JSON ({error.msg}, {where}): {shown(text)}") from error
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, 1,000 brackets
        raise ValueError(f"{place}: JSON that cannot be read ({error})") from error


def _object(place: object, value: object) -> Record:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: expected a JSON object, not {shown(value)}")
    return value


def _listed(path: Path) -> Iterator[tuple[Place, Record]]:
    values = document(path)
    if not isinstance(values, list):
        raise ValueError(f"{path}: expected a JSON list, or a JSON object on each line")
    for number, value in enumerate(values, 1):
        place = Place(path, number, "item")
        yield place, _object(place, value)
