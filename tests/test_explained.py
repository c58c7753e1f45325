import json

import pytest

from rerankx import (
    BackendError,
    Cascade,
    DeadlineError,
    Fallback,
    Floor,
    Fusion,
    Ranking,
    Reranker,
    Scale,
    Scores,
)
from rerankx.testing import FakeBackend

OWN = ["rank", "retrieved", "retrieval_score", "score", "raw_score", "by", "degraded"]


class Given(FakeBackend):
    """Gives text "ti" the i-th of its values; what else it says holds for every call."""

    def __init__(self, *values, name="given", error=None, **more):
        super().__init__(score=self.value, name=name, model="m", scale=Scale.LOGIT, error=error)
        self.values, self.more = values, more

    def value(self, query, text):
        return self.values[int(text[1:])]

    def _score(self, query, texts, *, top_n=None):
        return Scores(super()._score(query, texts, top_n=top_n), **self.more)


def ranked(backend, n=2, **options):
    return Reranker(backend).rerank("q", [f"t{i}" for i in range(n)], **options)


def more(row):
    return {name: value for name, value in row.items() if name not in OWN}


def test_a_row_per_hit_says_where_it_came_from():
    rows = ranked(Given(-1, 0, 2), 3, retrieval_score=lambda text: int(text[1:]) / 10, top_n=2).explain()
    assert rows == [
        {"rank": 1, "retrieved": 3, "retrieval_score": 0.2, "score": pytest.approx(0.8808, abs=1e-4), "raw_score": 2,
         "by": "given:m", "degraded": None},
        {"rank": 2, "retrieved": 2, "retrieval_score": 0.1, "score": 0.5, "raw_score": 0, "by": "given:m", "degraded": None},
    ]  # fmt: skip


def test_every_stage_has_its_rank_and_score():
    rows = ranked(Cascade([Given(5, 3, 4, name="one"), Given(1, 1, 2, name="two")], keep=2), 3).explain()
    assert [more(row) for row in rows] == [
        {"1 one rank": 2, "1 one score": 4, "2 two rank": 1, "2 two score": 2},
        {"1 one rank": 1, "1 one score": 5, "2 two rank": 2, "2 two score": 1},
        {"1 one rank": 3, "1 one score": 3, "2 two rank": None, "2 two score": None},
    ]


def test_a_backend_that_did_not_score_a_text_leaves_its_columns_empty():
    rows = ranked(Fusion([Given(1, None, name="one"), Given(1, 2, name="two")])).explain()
    found = {row["retrieved"]: more(row) for row in rows}
    assert found[2] == {"1 one rank": None, "1 one score": None, "2 two rank": 1, "2 two score": 2}
    assert found[1] == {"1 one rank": 1, "1 one score": 1, "2 two rank": 2, "2 two score": 1}


def test_two_of_one_name_have_their_own_columns():
    row = ranked(Fusion([Given(1, 2), Given(2, 1)])).explain()[0]
    assert list(more(row)) == ["1 given rank", "1 given score", "2 given rank", "2 given score"]


def test_stages_within_stages_are_numbered_so():
    inner = Fusion([Given(1, 2, name="a"), Given(2, 1, name="b")])
    row = ranked(Cascade([inner, Given(1, 2, name="c")], keep=2)).explain()[0]
    assert [name for name in more(row) if name.endswith("rank")] == [
        "1 fusion rank", "1.1 a rank", "1.2 b rank", "2 c rank",
    ]  # fmt: skip
    assert row["1.1 a score"] == 2


def test_a_step_is_named_by_the_one_who_answered():
    stage = Fallback(Given(name="down", error=BackendError("no")), Given(1, 2, name="up"))
    row = ranked(Cascade([stage, Given(1, 2)], keep=2)).explain()[0]
    assert row["1 up rank"] == 1


@pytest.mark.parametrize(
    ("backend", "by", "degraded"),
    [
        (Fallback(Given(error=BackendError("no")), Given(1, 2, name="up")), "up:m", "fallback"),
        (Cascade([Given(1, 2, name="up"), Given(error=DeadlineError("late"))], keep=2), "up:m", "deadline"),
        (Given(1, None, degraded="incomplete"), "given:m", "incomplete"),
    ],
)
def test_who_answered_instead_is_in_every_row(backend, by, degraded):
    assert {(row["by"], row["degraded"]) for row in ranked(backend).explain()} == {(by, degraded)}


def test_what_a_backend_says_of_a_text_is_flat():
    window = {"window": {"start": 120, "end": 480, "number": 2, "of": 7}, "cached": True}
    rows = ranked(Given(2, 1, details=[window, None])).explain()
    assert more(rows[0]) == {"window": "120-480 (2 of 7)", "cached": True}
    assert more(rows[1]) == {"window": None, "cached": None}


def test_all_rows_have_the_same_columns_in_the_same_order():
    details = [{"b": 1}, None, {"a": 1, "b": 2}]
    rows = ranked(Fusion([Given(1, None, 2, details=details), Given(3, 2, None)]), 3).explain()
    assert len({tuple(row) for row in rows}) == 1


def test_what_a_stage_says_stands_with_the_stage():
    stages = [
        Given(1, 2, name="one", details=[{"x": 1}, {"x": 2}]),
        Given(1, 2, name="two", details=[{"y": 3}, {"y": 4}]),
    ]
    row = ranked(Cascade(stages, keep=2)).explain()[0]
    assert (row["1 one x"], row["y"]) == (2, 3)  # the first is given t1 and t0, the second t1 first
    assert "2 two y" not in row  # it is in "y"


def test_two_stages_that_say_the_same_both_say_it():
    stages = [Given(1, 2, name=name, details=[{"cached": True}] * 2) for name in ("one", "two")]
    row = ranked(Cascade(stages, keep=2)).explain()[0]
    assert (row["1 one cached"], row["cached"]) == (True, True)


@pytest.mark.parametrize("name", OWN)
def test_a_detail_does_not_take_the_place_of_the_hits_own(name):
    row = ranked(Given(1, 2, details=[{name: "foreign"}] * 2)).explain()[0]
    assert row[name] != "foreign"


def test_what_a_floor_kept_back_says_so():
    rows = ranked(Floor(Given(1, 2), below=1)).explain()
    assert [row["floor_rank"] for row in rows] == [None, 2]


def test_nothing_has_no_rows_and_a_slice_has_its_own():
    assert ranked(Given(), 0).explain() == []
    assert [row["rank"] for row in ranked(Given(3, 2, 1), 3)[1:].explain()] == [2, 3]


def test_rows_go_to_json_and_do_not_change_the_ranking():
    ranking = ranked(Cascade([Given(1, 2), Given(1, 2)], keep=1))
    before = json.dumps(ranking.to_dict())
    ranking.explain()[0].clear()
    json.dumps(ranking.explain())
    assert json.dumps(ranking.to_dict()) == before


ODD = [
    {"steps": "three"},
    {"steps": [1, None, "x"]},
    {"steps": [{}]},
    {"steps": [{"by": None, "details": "text"}]},
    {"steps": {"a": 1}},
    {1: 2},
    {"window": "first"},
    {"window": {}},
    {"": ""},
    {"half": "\ud83d"},
]


@pytest.mark.parametrize("details", ODD)
def test_details_of_any_shape_break_neither_rows_nor_the_notebook_view(details):
    ranking = ranked(Given(1, 2, details=[details, None]))
    assert len(ranking.explain()) == 2
    ranking._repr_html_().encode()


# The notebook view


def html(backend, **options):
    return ranked(backend, **options)._repr_html_()


def test_the_notebook_view_says_where_hits_came_from():
    shown = html(Cascade([Given(1, 2, name="one"), Given(2, 1, name="two")], keep=1))
    assert "<th>where from</th>" in shown
    assert "1 one 1, 2 two 1" in shown
    assert ">1 one 2</td>" in shown


def test_without_a_way_there_is_no_column_for_it():
    assert "where from" not in html(Given(1, 2))


def test_window_and_cache_are_shown():
    shown = html(Given(1, 2, details=[{"window": {"start": 0, "end": 9, "number": 1, "of": 2}, "cached": True}, None]))
    assert "window 0-9 (1 of 2), cached" in shown


def test_a_step_without_a_rank_shows_none_of_it():
    shown = html(Cascade([Given(1, None, details=[None, {"x": 1}]), Given(1, 2)], keep=2))
    assert "given None" not in shown


def test_what_stages_are_called_is_escaped():
    shown = html(Fusion([Given(1, 2, name="<script>alert(1)</script>"), Given(1, 2)]))
    assert "<script>" not in shown


def test_a_table_has_as_many_cells_in_every_row():
    shown = html(Fusion([Given(1, None), Given(1, None)]))
    rows = shown.split("<tr>")[2:]
    assert {row.count("<td") for row in rows} == {5}
    assert shown.count("<th>") == 5


def test_a_ranking_of_nothing_shows_itself():
    assert "0 of 0" in Ranking((), "q", "b", "m", Scale.RANK, 0)._repr_html_()
