"""What a request costs, and what a price may be."""

import math
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx.catalogue.prices import Price
from rerankx.interface import Usage
from rerankx.network.meter import Meter, checked_chat_price, checked_price

BY_UNIT, BY_TOKEN, BY_BOTH = Price(per_search_unit=0.002), Price(per_million_tokens=1.0), Price(0.5, 1e6)
BILLINGS = ["tokens", "search_units", "nothing", "unknown"]
TEXTS = st.lists(st.text(st.characters(exclude_categories=[]), max_size=50), min_size=1, max_size=20)
AMOUNTS = st.none() | st.floats(0, 1e9) | st.integers(0, 10**9)


def used(billing, price, *, units=None, tokens=None, query="four", texts=("eight789", "ab")):
    return Meter(billing, price).used(query, texts, units=units, tokens=tokens)


class TestUsed:
    def test_is_one_call_that_writes_nothing(self):
        usage = used("tokens", None, tokens=5)
        assert (usage.calls, usage.output_tokens, usage.cache_hits, usage.cache_misses) == (1, 0, 0, 0)

    @pytest.mark.parametrize(
        ("billing", "price", "units", "tokens", "expected"),
        [
            ("tokens", BY_TOKEN, None, 10, Usage(1, 10, 0, 0, 1e-5)),
            ("tokens", BY_TOKEN, 3, 10, Usage(1, 10, 0, 3, 1e-5)),
            ("tokens", None, None, 10, Usage(1, 10, 0, 0, None)),
            ("search_units", BY_UNIT, 2, None, Usage(1, None, 0, 2, 0.004)),
            ("search_units", BY_UNIT, 2, 10, Usage(1, 10, 0, 2, 0.004)),
            ("search_units", None, 2, None, Usage(1, None, 0, 2, None)),
            ("nothing", None, None, 10, Usage(1, 10, 0, 0, 0.0)),
            ("nothing", None, None, None, Usage(1, None, 0, 0, 0.0)),
            ("nothing", BY_TOKEN, None, 10, Usage(1, 10, 0, 0, 1e-5)),
            ("unknown", None, None, None, Usage(1, None, 0, None, None)),
            ("unknown", None, 1, 10, Usage(1, 10, 0, 1, None)),
            ("unknown", BY_BOTH, 2, 3, Usage(1, 3, 0, 2, 4.0)),
            ("tokens", BY_TOKEN, None, 0, Usage(1, 0, 0, 0, 0.0)),
            ("search_units", BY_UNIT, 0, None, Usage(1, None, 0, 0, 0.0)),
        ],
    )
    def test_is_what_the_reply_bills(self, billing, price, units, tokens, expected):
        assert used(billing, price, units=units, tokens=tokens) == expected

    @pytest.mark.parametrize(
        ("billing", "price", "units", "tokens", "expected"),
        [
            # The query counts once per text: 2 x 1 token, and the texts have 2 and 1.
            ("tokens", BY_TOKEN, None, None, Usage(1, 5, 0, 0, 5e-6, estimated=True)),
            ("tokens", None, None, None, Usage(1, 5, 0, 0, None, estimated=True)),
            ("search_units", BY_UNIT, None, None, Usage(1, None, 0, 1, 0.002, estimated=True)),
            ("search_units", None, None, 7, Usage(1, 7, 0, 1, None, estimated=True)),
            ("search_units", BY_TOKEN, 3, None, Usage(1, 5, 0, 3, 5e-6, estimated=True)),
            ("unknown", BY_BOTH, None, 3, Usage(1, 3, 0, 1, 3.5, estimated=True)),
        ],
    )
    def test_is_estimated_where_the_reply_does_not_tell_what_is_paid_for(self, billing, price, units, tokens, expected):
        assert used(billing, price, units=units, tokens=tokens) == expected

    def test_amounts_are_whole_and_costs_are_not(self):
        assert used("search_units", BY_UNIT, units=0.5) == Usage(1, None, 0, 1, 0.001)

    @settings(deadline=None)
    @given(st.sampled_from(BILLINGS), st.sampled_from([None, BY_UNIT, BY_TOKEN, BY_BOTH]), AMOUNTS, AMOUNTS, TEXTS)
    def test_is_known_and_never_negative_where_there_is_a_price(self, billing, price, units, tokens, texts):
        usage = used(billing, price, units=units, tokens=tokens, query="q", texts=texts)
        if price is not None or billing == "nothing":
            assert 0 <= usage.cost_usd < math.inf
        else:
            assert usage.cost_usd is None
        for amount in (usage.input_tokens, usage.search_units):
            assert amount is None or (type(amount) is int and amount >= 0)
        told = {"units": units, "tokens": tokens}
        if all(amount is not None for amount in told.values()):
            assert usage.estimated is False


class TestEstimate:
    @settings(deadline=None)
    @given(st.text(st.characters(exclude_categories=[])), TEXTS, st.sampled_from(BILLINGS))
    def test_is_what_is_used_where_the_reply_tells_nothing(self, query, texts, billing):
        meter = Meter(billing, BY_BOTH)
        assert meter.estimate(query, texts) == meter.used(query, texts, units=None, tokens=None)

    @pytest.mark.parametrize(("n", "units"), [(1, 1), (99, 1), (100, 1), (101, 2), (200, 2), (1000, 10)])
    def test_unit_is_a_query_with_up_to_100_texts(self, n, units):
        assert Meter("search_units", BY_UNIT).estimate("q", ["short"] * n).search_units == units

    @pytest.mark.parametrize(("letters", "units"), [(2000, 1), (2001, 2), (4000, 2), (4001, 3)])
    def test_text_above_500_tokens_counts_as_several(self, letters, units):
        assert Meter("search_units", BY_UNIT).estimate("q", ["x" * letters] * 100).search_units == units

    def test_grows_with_the_bytes_of_a_text(self):
        few, many = (
            Meter("tokens", BY_TOKEN).estimate("q", [text]).input_tokens for text in ("aaaa" * 10, "日本語" * 10)
        )
        assert few < many

    @settings(deadline=None)
    @given(TEXTS, st.text(max_size=20))
    def test_never_shrinks_by_another_text(self, texts, more):
        meter = Meter("tokens", BY_BOTH)
        before, after = meter.estimate("q", texts), meter.estimate("q", [*texts, more])
        assert before.input_tokens <= after.input_tokens
        assert before.search_units <= after.search_units
        assert before.cost_usd <= after.cost_usd


class TestPrice:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({"per_search_unit": 0.002}, Price(per_search_unit=0.002)),
            ({"per_million_tokens": 1}, Price(per_million_tokens=1)),
            ({"per_search_unit": 0, "per_million_tokens": 0.0}, Price(0, 0.0)),
            (MappingProxyType({"per_search_unit": 1}), Price(per_search_unit=1)),
        ],
    )
    def test_is_one_amount_or_two(self, given, expected):
        assert checked_price(given) == expected

    @pytest.mark.parametrize("given", [None, 1, 0.002, "per_search_unit", [("per_search_unit", 1)], BY_UNIT])
    def test_that_is_no_mapping_is_refused(self, given):
        with pytest.raises(TypeError, match=f"price must be .*, not {type(given).__name__}"):
            checked_price(given)

    @pytest.mark.parametrize("given", [{}, {"usd": 1}, {"per_search_unit": 1, "per_call": 2}, {5: 1}, {None: 1}])
    def test_of_other_names_is_refused(self, given):
        with pytest.raises(ValueError, match=r"price must be .*, not a mapping of"):
            checked_price(given)

    @pytest.mark.parametrize("amount", [-1, -1e-9, math.nan, math.inf, "1", None, True, [1], 1j])
    def test_that_is_no_amount_is_refused(self, amount):
        with pytest.raises(ValueError, match="in US dollars"):
            checked_price({"per_search_unit": amount})

    def test_beyond_floats_is_refused(self):
        with pytest.raises(ValueError, match="price must be"):
            Meter("tokens", checked_price({"per_search_unit": 10**400})).estimate("q", ["a"])


@pytest.mark.parametrize("name", ["per_million_tokens", "per_million_output_tokens"])
def test_a_price_of_a_language_model_is_of_what_is_read_and_of_what_is_written(name):
    whole = {"per_million_tokens": 1.0, "per_million_output_tokens": 0.0}
    assert checked_chat_price(whole) == Price(per_million_tokens=1.0, per_million_output_tokens=0.0)
    with pytest.raises(ValueError, match=f"not {name} alone"):
        checked_chat_price({name: 1.0})
