"""Where a hit came from, in plain rows: what `Ranking.explain` returns and the notebook view shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

Row = dict[str, object]


def columns_of(details: Mapping[str, object] | None) -> Row:
    """Return the details of a hit, flat: a column for each entry, and for each step of a pipeline its rank and score.

    A step's columns begin with its number and name: "2 cross-encoder rank", and "1.2 embedded score" within the first one.
    """
    own = _own(details)
    return {**dict(_step_columns(details, "")), **own}


def way_of(columns: Mapping[str, object]) -> str:
    """Return the columns about a pipeline in one line, such as "1 embedded 4, 2 cross-encoder 1"; "" where there is none."""
    told = []
    for name, value in columns.items():
        if name.endswith(" rank") and value is not None:
            told.append(f"{name.removesuffix(' rank')} {value}")
        elif name in _SHOWN or name.rpartition(" ")[2] in _SHOWN:
            told.append(name if value is True else f"{name} {value}")
    return ", ".join(told)


# Of what a backend says of a text, that which is about where it came from.
_SHOWN = ("window", "cached", "floor_rank", "duplicates")


def _step_columns(details: Mapping[str, object] | None, path: str) -> Iterator[tuple[str, object]]:
    steps = (details or {}).get("steps")
    if not isinstance(steps, Sequence):
        return
    for place, step in enumerate(steps, start=1):
        if not isinstance(step, Mapping):
            continue
        at = f"{path}{step.get('step', place)}"
        label = f"{at} {str(step.get('by')).partition(':')[0]}"
        yield f"{label} rank", step.get("rank")
        yield f"{label} score", step.get("score")
        inner = step.get("details")
        if isinstance(inner, Mapping):
            # What the last one says stands in the details around it, too.
            known = _own(details) if place == len(steps) else {}
            own = _own(inner).items()
            taken = ("rank", "score")
            yield from (
                (f"{label} {name}", value) for name, value in own if known.get(name) != value and name not in taken
            )
            yield from _step_columns(inner, f"{at}.")


def _own(details: Mapping[str, object] | None) -> Row:
    return {str(name): _plain(str(name), value) for name, value in (details or {}).items() if name != "steps"}


def _plain(name: str, value: object) -> object:
    if name == "window" and isinstance(value, Mapping):
        return f"{value.get('start')}-{value.get('end')} ({value.get('number')} of {value.get('of')})"
    return value
