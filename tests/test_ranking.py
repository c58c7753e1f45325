import copy
import json
import pickle
import re
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from html.parser import HTMLParser

import pytest

from rerankx.interface import Attempt, Scale, Usage
from rerankx.ranking import Hit, Ranking
from rerankx.reranker import Reranker
from rerankx.testing import FakeBackend

HOSTILE = "</td><script>alert('1')</script>\"onmouseover=\"alert(2)&amp;"


def hit(rank, index, text="text", **more):
    given = {"score": 0.5, "raw_score": 0.0, "document": text, "text": text, **more}
    return Hit(rank=rank, index=index, **given)


def ranking(*hits, **more):
    given = {"query": "q", "backend": "fake", "model": "m", "scale": Scale.LOGIT, "total": len(hits), **more}
    return Ranking(hits=hits, **given)


THREE = ranking(
    hit(1, 2, "risen", score=0.75, raw_score=1.5, details={"window": 4}),
    hit(2, 1, "stayed"),
    hit(3, 0, "fallen", score=0.0, raw_score=None),
    total=9,
    min_score=0.25,
    usage=Usage(calls=1, cost_usd=None),
    truncated=2,
    elapsed_ms=12.6,
    degraded="fallback",
    attempts=(Attempt("first", "x", "BackendError: no"), Attempt("fake", "m")),
)


# A sequence


def test_it_is_a_sequence_of_hits():
    assert isinstance(THREE, Sequence)
    assert len(THREE) == 3
    assert list(THREE) == [THREE[0], THREE[1], THREE[2]] == list(THREE.hits)
    assert THREE[-1].text == "fallen"
    assert THREE[1] in THREE
    with pytest.raises(IndexError):
        THREE[3]


def test_documents_are_the_callers_own_in_the_new_order():
    one, two = object(), object()
    found = ranking(hit(1, 1, document=two), hit(2, 0, document=one)).documents
    assert [id(document) for document in found] == [id(two), id(one)]


def test_a_slice_is_a_ranking_that_knows_what_the_whole_knew():
    tail = THREE[1:]
    assert isinstance(tail, Ranking)
    assert tail.hits == THREE.hits[1:]
    assert [h.rank for h in tail] == [2, 3]
    assert (tail.query, tail.backend, tail.total, tail.usage, tail.degraded, tail.attempts) == (
        "q", "fake", 9, THREE.usage, "fallback", THREE.attempts,
    )  # fmt: skip


def test_an_empty_ranking_is_false_and_shows_itself():
    empty = ranking()
    assert not empty
    assert str(empty).splitlines() == ["rank  move  score  0 of 0 by fake:m in 0 ms"]
    assert "<tbody></tbody>" in empty._repr_html_()


def test_movement_counts_the_places_risen():
    assert [h.movement for h in THREE] == [2, 0, -2]


def test_nothing_can_be_set():
    with pytest.raises(FrozenInstanceError):
        THREE.query = "other"
    with pytest.raises(FrozenInstanceError):
        THREE[0].score = 1.0


# Copies


@pytest.mark.parametrize("thing", [THREE, THREE[0]], ids=["ranking", "hit"])
@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_are_equal(thing, copied):
    twin = copied(thing)
    assert type(twin) is type(thing)
    assert twin == thing
    assert repr(twin) == repr(thing)


def test_rankings_that_differ_are_unequal():
    assert THREE[:2] != THREE
    assert hit(1, 0) != hit(1, 1)


# Plain data


def test_to_dict_holds_everything_and_the_callers_documents():
    document = {"id": 7}
    made = ranking(hit(1, 0, "t", document=document, details={"window": 4})).to_dict()
    assert made["hits"][0]["document"] is document
    assert made["hits"][0] == {
        "rank": 1, "index": 0, "score": 0.5, "raw_score": 0.0, "document": document, "details": {"window": 4},
        "retrieval_score": None,
    }  # fmt: skip
    assert set(made) == {*Ranking.__dataclass_fields__}


def test_to_json_is_the_dict():
    assert json.loads(THREE.to_json()) == {
        "query": "q",
        "backend": "fake",
        "model": "m",
        "scale": "logit",
        "hits": [
            {"rank": 1, "index": 2, "score": 0.75, "raw_score": 1.5, "document": "risen", "details": {"window": 4},
             "retrieval_score": None},
            {"rank": 2, "index": 1, "score": 0.5, "raw_score": 0.0, "document": "stayed", "details": None,
             "retrieval_score": None},
            {"rank": 3, "index": 0, "score": 0.0, "raw_score": None, "document": "fallen", "details": None,
             "retrieval_score": None},
        ],
        "total": 9,
        "min_score": 0.25,
        "usage": {
            "calls": 1, "input_tokens": 0, "output_tokens": 0, "search_units": 0, "cost_usd": None, "cache_hits": 0,
            "cache_misses": 0, "estimated": False,
        },
        "truncated": 2,
        "elapsed_ms": 12.6,
        "degraded": "fallback",
        "attempts": [
            {"backend": "first", "model": "x", "error": "BackendError: no", "degraded": None},
            {"backend": "fake", "model": "m", "error": None, "degraded": None},
        ],
    }  # fmt: skip


def test_to_json_keeps_letters_and_indents():
    made = ranking(hit(1, 0, "größer")).to_json(indent=2)
    assert '\n  "query": "q"' in made
    assert "größer" in made


def test_to_json_asks_what_to_write_for_other_documents():
    odd = ranking(hit(1, 0, document=1j))
    with pytest.raises(TypeError, match="complex is not known to JSON; pass default="):
        odd.to_json()
    assert json.loads(odd.to_json(default=str))["hits"][0]["document"] == "1j"


# Shown


def test_repr_is_one_line():
    assert repr(THREE) == "<Ranking of 3 of 9 by fake:m, degraded='fallback'>"
    assert repr(ranking(hit(1, 0))) == "<Ranking of 1 of 1 by fake:m>"


def test_str_is_a_table_with_arrows():
    assert str(THREE).splitlines() == [
        "rank  move  score  3 of 9 by fake:m in 13 ms · 2 texts cut to the model's length · degraded: fallback",
        "   1  ▲ 2   0.750  risen",
        "   2  =     0.500  stayed",
        "   3  ▼ 2   0.000  fallen",
    ]


def test_a_long_text_is_shown_on_one_short_line():
    shown = str(ranking(hit(1, 0, "one\n\ttwo  three " * 50))).splitlines()
    assert len(shown) == 2
    assert "one two three one" in shown[1]
    assert shown[1].endswith("…")
    assert len(shown[1].split("  ")[-1]) == 90


def test_a_text_of_exactly_the_length_shown_is_whole():
    assert str(ranking(hit(1, 0, "x" * 90))).endswith("x" * 90)


@pytest.mark.parametrize("text", ["\x1b[2J\x1b[31mred", "bell\x07", "\x9b31m", "half \ud83d", "nul \x00"])
def test_a_text_cannot_steer_the_terminal_or_break_printing(text):
    for shown in (str(ranking(hit(1, 0, text))), ranking(hit(1, 0, text))._repr_html_()):
        assert shown.replace("\n", "").isprintable()
        assert "\N{REPLACEMENT CHARACTER}" in shown
        shown.encode()


def test_joined_emoji_and_other_scripts_are_shown_as_they_are():
    family = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL} می\N{ZERO WIDTH NON-JOINER}خواهم 退款"
    assert family in str(ranking(hit(1, 0, family)))


class Page(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.shown = set(), set(), []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.shown.append(data)


def test_html_escapes_whatever_is_untrusted():
    page = Page(ranking(hit(1, 0, HOSTILE), backend=HOSTILE, model=HOSTILE)._repr_html_())
    assert page.tags == {"table", "caption", "thead", "tbody", "tr", "th", "td"}
    assert page.attributes == {"style", "title"}
    assert HOSTILE in page.shown


def test_html_shows_ranks_arrows_scores_and_why_it_is_degraded():
    shown = Page(THREE._repr_html_()).shown
    assert shown[1:6] == ["rank", "moved", "score", "text", "where from"]
    assert shown[6:] == [
        "1",
        "▲ 2",
        "0.750",
        "risen",
        "window 4",
        "2",
        "=",
        "0.500",
        "stayed",
        "3",
        "▼ 2",
        "0.000",
        "fallen",
    ]
    assert shown[0].endswith("degraded: fallback")


def test_html_colours_what_rose_and_what_fell():
    assert re.findall(r"color:(\w+)", THREE._repr_html_()) == ["green", "gray", "firebrick"]


def test_html_stays_small_for_long_texts():
    assert len(ranking(hit(1, 0, "x" * 1_000_000))._repr_html_()) < 5_000


def test_half_a_surrogate_pair_goes_to_json_and_back():
    ranking = Reranker(FakeBackend()).rerank("q", ["half \ud83d"])
    assert json.loads(ranking.to_json().encode("utf-8"))["hits"][0]["document"] == "half \ud83d"
