"""A table as dataset: a row for each query and document, in pandas, Arrow, Polars, a dict of columns or a list of dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rerankx.arguments import shown
from rerankx.compose.made import whole
from rerankx.evaluation.datasets.dataset import Dataset
from rerankx.evaluation.datasets.files import Notes, as_id, number_of
from rerankx.evaluation.datasets.joined import joined
from rerankx.evaluation.datasets.judgements import Qrels, check_relevant, enter, grade_of
from rerankx.evaluation.datasets.lists import FirstStage, Hit, taken


def from_table(
    table: object,
    *,
    query: str = "query",
    text: str = "text",
    grade: str | None = "grade",
    qid: str | None = None,
    docid: str | None = None,
    score: str | None = None,
    depth: int = 100,
    name: str = "table",
) -> Dataset:
    """Return the dataset of a table with a row for each query and each document found for it.

    Args:
        table: A DataFrame of pandas or Polars, an Arrow table, a mapping of columns, or a sequence of rows that are mappings.
        query: The column of the queries' texts.
        text: The column of the documents' texts.
        grade: The column of grades: whole numbers, or True and False. A row without one (None, nan) is not judged. None: nothing
            is judged, and all queries are kept.
        qid: The column of query ids. None: queries of the same text are the same, and are called q1, q2, ...
        docid: The column of document ids. None: documents of the same text are the same, and are called d1, d2, ...
        score: The column of the first stage's scores, higher is better; rows that tie keep their order. A row without a score
            (None, nan) is a document that is judged and was not found. None: the rows of a query are best first.
        depth: How many candidates per query are kept.
        name: What reports call it.

    Raises:
        TypeError: It is no table.
        ValueError: A column is not there, a value in it cannot be used, one id has two texts or two grades, nothing is relevant.
    """
    depth = whole("depth", depth)
    columns = {
        column: _column(table, column) for column in (query, text, grade, qid, docid, score) if column is not None
    }
    if not columns[query]:
        raise ValueError("the table has no rows")
    for column, values in columns.items():
        if len(values) != len(columns[query]):
            raise ValueError(
                f"column {column!r} has {len(values)} rows, but column {query!r} has {len(columns[query])}"
            )
    notes = Notes()
    queries: dict[str, str] = {}
    grades: Qrels = {}
    hits: dict[str, list[Hit]] = {}
    texts: dict[tuple[str, str], str] = {}
    called: dict[str, dict[str, str]] = {"q": {}, "d": {}}

    def id_in(place: str, column: str | None, row: int, letter: str, text: str) -> str:
        if column is not None:
            return as_id(place, _value(columns[column][row]), f"column {column!r}")
        return called[letter].setdefault(text, f"{letter}{len(called[letter]) + 1}")

    for row in range(len(columns[query])):
        place = f"row {row} of the table"
        asked, held = (_text(place, column, columns[column][row]) for column in (query, text))
        if not asked.strip():
            notes.add("rows with a blank query, left out", f"row {row}")
            continue
        key = id_in(place, qid, row, "q", asked)
        document = id_in(place, docid, row, "d", held)
        for what, known, given in (
            ("query", queries.setdefault(key, asked), asked),
            ("document", texts.setdefault((key, document), held), held),
        ):
            if known != given:
                raise ValueError(
                    f"{place}: {what} {shown(key if what == 'query' else document)} has another text above"
                )
        grades.setdefault(key, {})
        hits.setdefault(key, [])
        value = None if grade is None else _value(columns[grade][row])
        if value is not None:
            enter(grades, place, key, document, grade_of(place, value), notes)
        number = None if score is None else number_of(place, _value(columns[score][row]), f"column {score!r}")
        if score is None or number is not None:
            hits[key].append(Hit(document, held, number))
    if not queries:
        raise ValueError("the table has no row with a query")
    if grade is None:
        notes.add("nothing is judged: no measure can be taken")
    else:
        for key in [key for key in queries if not grades[key]]:
            notes.add("queries without judgements, left out", f"query {shown(key)}")
            del queries[key]
        check_relevant("the table", grades, queries, notes)
    stage = FirstStage(f"column {score!r}" if score is not None else "row order")
    for key in queries:
        stage.hits[key] = taken(key, sorted(hits[key], key=_falling), depth, notes)
    return joined(name, queries, grades, stage, {}, depth, notes)


def _falling(hit: Hit) -> float:
    return -(hit.score or 0.0)


def _column(table: Any, column: str) -> list[object]:
    """Return a column as a list.

    Raises:
        TypeError: It is no table.
        ValueError: There is no such column.
    """
    if isinstance(table, Sequence) and not isinstance(table, str | bytes):
        if not all(isinstance(row, Mapping) for row in table):
            raise TypeError("a table that is a list must hold its rows as dicts")
        names = list(dict.fromkeys(name for row in table for name in row))
        values: Any = [row.get(column) for row in table]
    else:
        # Arrow's has column_names, and its `columns` are the data.
        found = getattr(table, "column_names", None)
        if found is None:
            found = list(table) if isinstance(table, Mapping) else getattr(table, "columns", None)
        if found is None:
            raise TypeError(
                f"a table must be a DataFrame, an Arrow table, a dict of columns or a list of dicts, not {type(table).__name__}"
            )
        names = list(found)
        values = table[column] if column in names else []
    if column not in names:
        raise ValueError(
            f"the table has no column {column!r}, only {', '.join(map(str, names))}; name it, such as query=..."
        )
    if names.count(column) > 1:
        raise ValueError(f"the table has several columns {column!r}; rename one")
    for way in ("to_pylist", "tolist", "to_list"):
        if hasattr(values, way):
            values = getattr(values, way)()
            break
    return list(values)


def _value(value: Any) -> Any:
    """Return the value, None if it is missing: None, nan, pandas' NA."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None
    if hasattr(value, "item"):  # numpy's
        value = value.item()
    return None if isinstance(value, float) and value != value else value


def _text(place: str, column: str, value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{place}: column {column!r} is {shown(value)}, expected a string")
    return value
