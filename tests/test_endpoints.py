"""The presets and prices are complete and agree with themselves; what they say was looked up, not measured here."""

from datetime import date

import pytest

from rerankx.catalogue.endpoints import ENDPOINTS, LISTWISE
from rerankx.catalogue.prices import PRICES

PROTOCOL = "cohere"  # a way of asking, not a service: no address, no key
HOSTED = {name: dialect for name, dialect in ENDPOINTS.items() if dialect.needs_key}
OWN = {name: dialect for name, dialect in ENDPOINTS.items() if not dialect.needs_key and name != PROTOCOL}
MODEL_HAS_TO_BE_NAMED = {"together"}  # it serves none but those on endpoints of one's own
ONE_MODEL = {"tei"}
GATEWAYS = {"litellm", "openrouter"}


def looked_up(entry):
    return entry.source.startswith("https://") and date.fromisoformat(entry.read) <= date.today()


@pytest.mark.parametrize(("name", "dialect"), ENDPOINTS.items(), ids=ENDPOINTS)
class TestPreset:
    def test_says_where_and_when_it_was_looked_up(self, name, dialect):
        assert looked_up(dialect)

    def test_has_one_line_for_a_listing(self, name, dialect):
        assert dialect.summary.strip() == dialect.summary != ""
        assert "\n" not in dialect.summary

    def test_path_and_address_join_to_one_url(self, name, dialect):
        assert dialect.path.startswith("/")
        assert not dialect.base_url.endswith("/")

    def test_no_two_parts_of_the_body_have_the_same_place(self, name, dialect):
        places = [dialect.query, dialect.documents, dialect.model, dialect.top_n, *dialect.extra]
        tops = [place.partition(".")[0] for place in places if place is not None]
        assert len(set(tops)) == len(tops)

    def test_model_reaches_the_service(self, name, dialect):
        assert dialect.model is not None or "{model}" in dialect.path or name in ONE_MODEL

    def test_bare_scores_come_in_the_order_of_the_documents(self, name, dialect):
        assert dialect.score != "" or dialect.index is None

    def test_limit_is_a_number_of_documents(self, name, dialect):
        assert dialect.max_documents is None or dialect.max_documents > 0

    def test_asks_for_texts_to_be_cut_or_leaves_it_to_the_service(self, name, dialect):
        assert dialect.extra.get("truncate") in (None, True, "END")


@pytest.mark.parametrize(("name", "dialect"), HOSTED.items(), ids=HOSTED)
class TestHosted:
    def test_is_asked_over_tls_with_a_key(self, name, dialect):
        assert dialect.base_url.startswith("https://")
        assert dialect.key_variables
        assert all(variable.isupper() for variable in dialect.key_variables)

    def test_is_not_said_to_be_free(self, name, dialect):
        assert dialect.billing != "nothing"

    def test_has_a_default_model_unless_it_has_to_be_named(self, name, dialect):
        assert (dialect.default_model is None) == (name in MODEL_HAS_TO_BE_NAMED)


@pytest.mark.parametrize(("name", "dialect"), OWN.items(), ids=OWN)
class TestServerOfOnesOwn:
    def test_is_on_this_machine_until_told_otherwise(self, name, dialect):
        assert dialect.base_url.startswith("http://localhost:")

    def test_costs_nothing_unless_others_are_behind_it(self, name, dialect):
        assert dialect.billing == ("unknown" if name in GATEWAYS else "nothing")

    def test_serves_whatever_model_it_was_started_with(self, name, dialect):
        assert dialect.default_model is None


def test_hosted_ones_come_first_and_each_kind_is_sorted():
    assert list(ENDPOINTS) == [*sorted([PROTOCOL, *HOSTED]), *sorted(OWN)]


def test_protocol_is_tied_to_no_service():
    protocol = ENDPOINTS[PROTOCOL]
    assert (protocol.base_url, protocol.default_model, protocol.key_variables) == ("", None, ())


@pytest.mark.parametrize("name", sorted({*GATEWAYS, PROTOCOL, "vllm", "llamacpp", "jina-api"}))
def test_scale_is_unknown_where_the_model_decides_on_it(name):
    assert ENDPOINTS[name].scale == "unknown"


@pytest.mark.parametrize(("name", "price"), PRICES.items(), ids=PRICES)
class TestPrice:
    def test_says_where_and_when_it_was_looked_up(self, name, price):
        assert looked_up(price)

    def test_is_one_amount(self, name, price):
        amounts = [amount for amount in (price.per_search_unit, price.per_million_tokens) if amount is not None]
        assert len(amounts) == 1
        assert amounts[0] > 0

    def test_is_of_a_service_that_charges_so(self, name, price):
        provider, _, model = name.partition(":")
        assert model
        by_tokens = price.per_million_tokens is not None
        assert ENDPOINTS[provider].billing in ("unknown", "tokens" if by_tokens else "search_units")


def test_prices_are_sorted():
    assert list(PRICES) == sorted(PRICES)


@pytest.mark.parametrize("model", sorted(LISTWISE))
def test_listwise_model_is_the_last_part_of_a_name(model):
    assert "/" not in model
    assert ":" not in model
