"""`as_yaml`: documents with fields as one text."""

import datetime
import sys
from collections import OrderedDict
from decimal import Decimal
from enum import Enum
from types import MappingProxyType

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import MissingDependencyError, Reranker
from rerankx.structured import as_yaml
from rerankx.testing import FakeBackend

# PyYAML writes the other line breaks of Unicode as they are, and reads them as blanks.
LETTERS = st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029\ufeff")
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.dates() | st.text(LETTERS)
FIELDS = st.dictionaries(
    st.text(LETTERS, max_size=10),
    st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc"), inner, max_size=3)),
    max_size=4,
)


class TestText:
    def test_is_one_line_per_field_in_their_order(self):
        assert as_yaml({"title": "Refunds", "year": 2026, "body": "They take a week."}) == (
            "title: Refunds\nyear: 2026\nbody: They take a week.\n"
        )

    def test_shows_letters_of_all_scripts_as_they_are(self):
        assert as_yaml({"größe": "naïve 日本語 🚀"}) == "größe: naïve 日本語 🚀\n"

    def test_does_not_break_long_lines(self):
        assert as_yaml({"body": "word " * 200 + "end"}).count("\n") == 1

    def test_of_several_lines_keeps_them(self):
        assert yaml.safe_load(as_yaml({"body": "one\ntwo\n\n  three\n"})) == {"body": "one\ntwo\n\n  three\n"}

    def test_holds_lists_and_dicts(self):
        assert as_yaml({"tags": ["a", "b"], "more": {"x": None}}) == "tags:\n- a\n- b\nmore:\n  x: null\n"

    def test_holds_dates(self):
        assert as_yaml({"day": datetime.date(2026, 11, 23)}) == "day: 2026-11-23\n"

    @pytest.mark.parametrize(
        "tricky", ["no", "1.0", "- a", "a: b", "#x", "'", '"', "null", "", " a ", "&a", "*a", "!tag", "%", "@"]
    )
    def test_of_a_tricky_string_stays_a_string(self, tricky):
        assert yaml.safe_load(as_yaml({"a": tricky})) == {"a": tricky}

    def test_of_half_a_surrogate_pair_can_be_encoded(self):
        assert as_yaml({"a": "x \ud83d"}).encode()

    @settings(deadline=None)
    @given(FIELDS)
    def test_can_be_read_back(self, document):
        assert (yaml.safe_load(as_yaml(document)) or {}) == document

    @settings(deadline=None)
    @given(FIELDS)
    def test_keeps_the_order(self, document):
        assert list(yaml.safe_load(as_yaml(document)) or ()) == list(document)

    @pytest.mark.parametrize(
        "value", [["red", "blue"], {"k": "red"}, datetime.date(2026, 11, 23)], ids=["list", "dict", "date"]
    )
    def test_says_twice_what_occurs_twice(self, value):
        text = as_yaml({"tags": value, "labels": value})
        assert "id001" not in text

    def test_does_not_change_the_document(self):
        document = {"b": [1], "a": {"x": 1}}
        as_yaml(document, ["a"])
        assert document == {"b": [1], "a": {"x": 1}}

    @pytest.mark.parametrize(("document", "fields"), [({}, None), ({"a": 1}, []), ({"a": 1}, ["b"])])
    def test_of_no_fields_is_blank(self, document, fields):
        assert as_yaml(document, fields).strip() == ""


class TestFields:
    def test_are_those_that_are_named_in_that_order(self):
        assert as_yaml({"a": 1, "b": 2, "c": 3}, ["c", "a"]) == "c: 3\na: 1\n"

    def test_that_are_missing_are_left_out(self):
        assert as_yaml({"a": 1}, ["title", "a"]) == "a: 1\n"

    @pytest.mark.parametrize("fields", [("a",), {"a": None}, iter(["a"])])
    def test_may_be_any_iterable(self, fields):
        assert as_yaml({"a": 1, "b": 2}, fields) == "a: 1\n"

    def test_named_twice_come_once(self):
        assert as_yaml({"a": 1, "b": 2}, ["a", "b", "a"]) == "a: 1\nb: 2\n"

    def test_as_one_string_are_refused(self):
        with pytest.raises(TypeError, match=r"fields is one string; pass a list, such as \['title'\]"):
            as_yaml({"title": 1}, "title")

    def test_that_are_missing_may_have_any_value_elsewhere(self):
        assert as_yaml({"a": 1, "b": object()}, ["a"]) == "a: 1\n"


class Colour(Enum):
    RED = "red"


class Word(str):
    __slots__ = ()


class TestRefused:
    @pytest.mark.parametrize("document", ["text", 5, None, ["a"], [("a", 1)]])
    def test_what_is_no_mapping(self, document):
        with pytest.raises(TypeError, match=f"as_yaml takes a mapping of fields, not {type(document).__name__}"):
            as_yaml(document)

    @pytest.mark.parametrize(
        "value", [object(), Decimal("1.5"), Colour.RED, lambda: 1, 1j, Word("a")], ids=lambda v: type(v).__name__
    )
    @pytest.mark.parametrize(
        "wrapped", [lambda v: v, lambda v: [1, v], lambda v: {"x": {"y": v}}], ids=["bare", "list", "dict"]
    )
    def test_value_that_is_not_plain_says_its_type(self, value, wrapped):
        with pytest.raises(TypeError, match=f"a field holds {type(value).__name__}"):
            as_yaml({"a": wrapped(value)})

    @pytest.mark.parametrize("value", [{"a", "b"}, b"bytes"], ids=lambda v: type(v).__name__)
    def test_value_that_yaml_has_a_tag_for_is_not_plain(self, value):
        with pytest.raises(TypeError, match="a field holds"):
            as_yaml({"a": value})

    def test_message_holds_no_value(self):
        with pytest.raises(TypeError) as caught:
            as_yaml({"a": Word("geheim")})
        assert "geheim" not in str(caught.value)

    @pytest.mark.parametrize("inner", [OrderedDict(a=1), MappingProxyType({"a": 1})], ids=["OrderedDict", "mapping"])
    def test_mappings_within_are_taken_too(self, inner):
        assert as_yaml({"x": inner}) == "x:\n  a: 1\n"

    @pytest.mark.parametrize("mapping", [OrderedDict(a=1), MappingProxyType({"a": 1})], ids=["OrderedDict", "mapping"])
    def test_nor_any_mapping_as_the_whole(self, mapping):
        assert as_yaml(mapping) == "a: 1\n"

    def test_missing_package_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "yaml", None)
        with pytest.raises(MissingDependencyError, match="'as_yaml' needs yaml, not installed here: pip install"):
            as_yaml({"a": 1})


def test_is_a_key():
    records = [{"title": "Museum", "body": "open on Sundays"}, {"title": "Refund", "body": "takes a week"}]
    ranking = Reranker(FakeBackend()).rerank("refund week", records, key=as_yaml)
    assert ranking[0].document is records[1]
    assert ranking[0].text == as_yaml(records[1])
