"""What comes back: `Hit`, one document in its place, and `Ranking`, all of them with how they came about."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar, overload

from rerankx.explained import columns_of, way_of
from rerankx.interface import Attempt, Degraded, Scale, Usage

T_co = TypeVar("T_co", covariant=True)

_PREVIEW = 90  # characters of a text that a table shows
# A passage must not steer the terminal, and half a surrogate pair cannot be printed at all.
_UNSHOWABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


def best_first(values: Sequence[float | None], order: Sequence[int] | None = None) -> list[int]:
    """Return the indices of `values`, best first: the only sort there is.

    Scored before unscored, then by value descending, then by place in `order` (absent from it: after the others), then
    by input position.
    """
    place = {} if order is None else {index: i for i, index in enumerate(order)}

    def sort_key(index: int) -> tuple[bool, float, int, int]:
        value = values[index]
        return (value is None, 0.0 if value is None else -value, place.get(index, len(values)), index)

    return sorted(range(len(values)), key=sort_key)


@dataclass(frozen=True, slots=True)
class Hit(Generic[T_co]):
    """One document in its place."""

    rank: int
    """From 1."""
    index: int
    """Its position among the documents that came in, from 0."""
    score: float
    """In [0, 1]; 0.0 if it was not scored."""
    raw_score: float | None
    """The backend's own value, on `Ranking.scale`; None if it was not scored."""
    document: T_co
    """The caller's object itself, not a copy."""
    text: str
    """What was scored: the document, or what `key` made of it."""
    details: Mapping[str, object] | None = None
    """What else the backend says of it: best window, spans, scores of stages."""
    retrieval_score: float | None = None
    """The score that it came with, if `rerank` was told."""

    @property
    def movement(self) -> int:
        """Return how many places it rose; negative if it fell."""
        return self.index + 1 - self.rank


@dataclass(frozen=True, slots=True, repr=False)
class Ranking(Sequence[Hit[T_co]]):
    """The documents in their new order, best first: a sequence of `Hit`.

    A slice is a `Ranking` too. It compares, copies, pickles (if its documents do) and goes to JSON.
    """

    hits: tuple[Hit[T_co], ...]
    query: str
    backend: str
    """Which backend answered; the one that was asked, if none did."""
    model: str
    """Its model."""
    scale: Scale
    """What `Hit.raw_score` is."""
    total: int
    """How many documents came in, before `min_score` and `top_n`."""
    min_score: float | None = None
    """The threshold that was applied: the caller's, or that of the fallback that answered. None if there was none, or if the
    result was too degraded to apply it."""
    usage: Usage = field(default_factory=Usage)
    truncated: int = 0
    """How many texts were cut to the model's length."""
    elapsed_ms: float = 0.0
    """Wall time of the scoring, in milliseconds."""
    degraded: Degraded | None = None
    """Why this is less than what was asked; None if it is not."""
    attempts: tuple[Attempt, ...] = ()
    """Which backends were tried, in that order, and their errors, where there was more than one to try or one failed. The one
    without an error answered: `backend` and `model` name it."""

    @property
    def documents(self) -> list[T_co]:
        """Return the caller's documents, best first."""
        return [hit.document for hit in self.hits]

    def __len__(self) -> int:
        return len(self.hits)

    def __iter__(self) -> Iterator[Hit[T_co]]:
        return iter(self.hits)

    @overload
    def __getitem__(self, index: int) -> Hit[T_co]: ...
    @overload
    def __getitem__(self, index: slice) -> Ranking[T_co]: ...
    def __getitem__(self, index: int | slice) -> Hit[T_co] | Ranking[T_co]:
        return replace(self, hits=self.hits[index]) if isinstance(index, slice) else self.hits[index]

    def to_dict(self) -> dict[str, object]:
        """Return plain dicts and lists; the documents are the caller's own objects."""
        return {
            "query": self.query,
            "backend": self.backend,
            "model": self.model,
            "scale": self.scale.kind,
            "hits": [hit_to_dict(hit) for hit in self.hits],
            "total": self.total,
            "min_score": self.min_score,
            "usage": {name: getattr(self.usage, name) for name in Usage.__dataclass_fields__},
            "truncated": self.truncated,
            "elapsed_ms": self.elapsed_ms,
            "degraded": self.degraded,
            "attempts": [{name: getattr(a, name) for name in Attempt.__dataclass_fields__} for a in self.attempts],
        }

    def to_json(self, *, default: Callable[[object], object] | None = None, indent: int | None = None) -> str:
        """Return `to_dict()` as JSON.

        Args:
            default: Turns a document that JSON does not know into something it does, as in `json.dumps`.
            indent: Spaces per level; None for one line.

        Raises:
            TypeError: A document is not known to JSON and there is no `default`.
        """
        text = json.dumps(self.to_dict(), default=default or _no_default, ensure_ascii=False, indent=indent)
        # Half a surrogate pair, which UTF-8 cannot hold, becomes JSON's own escape of it.
        return text.encode("utf-8", "backslashreplace").decode("utf-8")

    def explain(self) -> list[dict[str, object]]:
        """Return a row per hit that says where it came from, ready for `pandas.DataFrame`.

        "rank", "retrieved" (its place among the documents that came in, from 1), "retrieval_score", "score", "raw_score", "by"
        (the backend that answered) and "degraded"; then what the backend says of it (`Hit.details`), flat: of a pipeline every
        step's rank and score, as "1 embedded rank" and "2 cross-encoder score", the best window, whether it was cached. All rows
        have the same columns; None where a hit has nothing to say.
        """
        told = [columns_of(hit.details) for hit in self.hits]
        names = dict.fromkeys(name for columns in told for name in columns)
        rows = []
        for hit, columns in zip(self.hits, told, strict=True):
            row: dict[str, object] = {
                "rank": hit.rank,
                "retrieved": hit.index + 1,
                "retrieval_score": hit.retrieval_score,
                "score": hit.score,
                "raw_score": hit.raw_score,
                "by": f"{self.backend}:{self.model}",
                "degraded": self.degraded,
            }
            rows.append(row | {name: columns.get(name) for name in names if name not in row})
        return rows

    def __repr__(self) -> str:
        flag = f", degraded={self.degraded!r}" if self.degraded else ""
        return f"<Ranking of {len(self)} of {self.total} by {self.backend}:{self.model}{flag}>"

    def __str__(self) -> str:
        """Return a table with movement arrows, for a terminal."""
        rows = [f"{hit.rank:>4}  {_arrow(hit):<5} {hit.score:.3f}  {_preview(hit.text)}" for hit in self.hits]
        return "\n".join([f"rank  move  score  {self._summary()}", *rows])

    def _repr_html_(self) -> str:
        # Passages are untrusted: everything is escaped.
        ways = [way_of(columns_of(hit.details)) for hit in self.hits]
        shown = any(ways)
        rows = "".join(
            f'<tr><td style="text-align:right">{hit.rank}</td>'
            f'<td style="color:{_colour(hit)};white-space:nowrap">{_arrow(hit)}</td>'
            f'<td title="{html.escape(f"raw {hit.raw_score}")}">{hit.score:.3f}</td>'
            f'<td style="text-align:left" title="{html.escape(showable(hit.text[:2000]))}">'
            f"{html.escape(_preview(hit.text))}</td>"
            + (f'<td style="text-align:left">{html.escape(showable(way))}</td>' if shown else "")
            + "</tr>"
            for hit, way in zip(self.hits, ways, strict=True)
        )
        more = "<th>where from</th>" if shown else ""
        return (
            f'<table><caption style="text-align:left">{html.escape(self._summary())}</caption>'
            f"<thead><tr><th>rank</th><th>moved</th><th>score</th><th>text</th>{more}</tr></thead><tbody>{rows}</tbody></table>"
        )

    def _summary(self) -> str:
        parts = [f"{len(self)} of {self.total} by {self.backend}:{self.model} in {self.elapsed_ms:.0f} ms"]
        if self.truncated:
            parts.append(f"{self.truncated} texts cut to the model's length")
        if self.degraded:
            parts.append(f"degraded: {self.degraded}")
        return " · ".join(parts)


def hit_to_dict(hit: Hit[object]) -> dict[str, object]:
    """Return the hit as a plain dict; the document is the caller's own object."""
    return {
        "rank": hit.rank,
        "index": hit.index,
        "score": hit.score,
        "raw_score": hit.raw_score,
        "document": hit.document,
        "details": None if hit.details is None else dict(hit.details),
        "retrieval_score": hit.retrieval_score,
    }


def _no_default(value: object) -> object:
    raise TypeError(f"{type(value).__name__} is not known to JSON; pass default= to say what to write for it")


def _arrow(hit: Hit[object]) -> str:
    if hit.movement == 0:
        return "="
    return f"▲ {hit.movement}" if hit.movement > 0 else f"▼ {-hit.movement}"


def _colour(hit: Hit[object]) -> str:
    return "gray" if hit.movement == 0 else "green" if hit.movement > 0 else "firebrick"


def showable(text: str) -> str:
    """Return the text without what steers a terminal or cannot be printed."""
    return _UNSHOWABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _preview(text: str) -> str:
    line = showable(" ".join(text[: 4 * _PREVIEW].split()))
    return line if len(line) <= _PREVIEW else line[: _PREVIEW - 1] + "…"
