"""`Http`: what is sent in every dialect, what may be given, what is kept of it, and what an answer costs."""

import copy
import json
import pickle
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType

import pytest

pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[http]'")

import httpx
from backend_stage import DOCUMENTS, KEY, QUERY, alone, held_in, told
from fault_stage import FaultStage, body, good, put, redirect, shuffled, status
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import (
    AuthenticationError,
    BackendError,
    MissingDependencyError,
    RateLimitError,
    ReplyError,
    Reranker,
    Scale,
    registry,
)
from rerankx.backends import http as http_module
from rerankx.backends.http import Http
from rerankx.catalogue.endpoints import ENDPOINTS, LISTWISE, Dialect
from rerankx.catalogue.prices import PRICES
from rerankx.interface import Usage

MODEL = "some/model"
HOSTED = [name for name, dialect in ENDPOINTS.items() if dialect.needs_key]
OWN = [name for name, dialect in ENDPOINTS.items() if not dialect.needs_key and name != "cohere"]
PRESETS = [*HOSTED, *OWN]
NOWHERE = "http://127.0.0.1:9"
"""Where nothing is asked: for what is seen without a request."""


@pytest.fixture(scope="module")
def stage():
    with FaultStage() as stage:
        yield stage


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch):
    alone(monkeypatch)


def http(name="cohere", url=NOWHERE, **options):
    return Http(**{"model": MODEL, "dialect": name, "base_url": url, "api_key": KEY, **options})


def sent(stage, name="cohere", texts=DOCUMENTS, query=QUERY, **options):
    """Return the one request that a backend of these options sends."""
    url = stage.address(dialect=name if isinstance(name, str | Dialect) else Dialect(**name))
    http(name, url, **options).score(query, texts)
    (request,) = stage.requests(url)
    return request


def body_by(dialect, query, texts, model=MODEL):
    """Return the body that the data of a dialect stand for."""
    expected = copy.deepcopy(dict(dialect.extra))
    put(expected, dialect.query, [query] * len(texts) if dialect.repeat_query else query)
    put(expected, dialect.documents, texts if dialect.document is None else [{dialect.document: t} for t in texts])
    if dialect.model is not None:
        put(expected, dialect.model, model)
    if dialect.top_n is not None:
        put(expected, dialect.top_n, len(texts))
    return expected


@pytest.fixture
def wire(monkeypatch):
    """The requests of all backends, as httpx sends them: there a header that comes twice is seen twice."""
    seen = []

    def answer(request):
        seen.append(request)
        n = len(json.loads(request.content)["documents"])
        return httpx.Response(200, json={"results": [{"index": i, "relevance_score": 0.5} for i in range(n)]})

    monkeypatch.setattr(http_module, "http_client", lambda _: httpx.AsyncClient(transport=httpx.MockTransport(answer)))
    return seen


class TestBody:
    @pytest.mark.parametrize("name", ENDPOINTS)
    def test_is_what_the_data_of_the_preset_say(self, stage, name):
        assert sent(stage, name).body == body_by(ENDPOINTS[name], QUERY, DOCUMENTS)

    @pytest.mark.parametrize("name", ENDPOINTS)
    def test_goes_to_the_path_of_the_preset(self, stage, name):
        assert sent(stage, name).path == ENDPOINTS[name].path.replace("{model}", MODEL)

    def test_places_go_down_by_dots(self, stage):
        nested = {
            "path": "/a/b",
            "query": "input.query.text",
            "documents": "input.documents",
            "document": "content",
            "model": "parameters.model",
            "top_n": "parameters.return.n",
            "extra": {"seed": 1},
            "results": "output.results",
            "index": "document.index",
            "score": "relevance.value",
        }
        assert sent(stage, nested, texts=["a", "b"], query="q").body == {
            "input": {"query": {"text": "q"}, "documents": [{"content": "a"}, {"content": "b"}]},
            "parameters": {"model": MODEL, "return": {"n": 2}},
            "seed": 1,
        }

    def test_scores_of_nested_places_stay_with_their_documents(self, stage):
        nested = {"path": "/r", "results": "a.b.c", "index": "d.i", "score": "s.v"}
        url = stage.address(dialect=Dialect(**nested), scorer=[0.1, 0.3, 0.2])
        assert http(nested, url).score(QUERY, DOCUMENTS).values == (0.1, 0.3, 0.2)

    def test_query_is_repeated_once_per_document(self, stage):
        assert sent(stage, "deepinfra").body == {"queries": [QUERY] * 3, "documents": DOCUMENTS}

    def test_top_n_is_the_number_of_documents_whatever_the_caller_keeps(self, stage):
        url = stage.address()
        ranking = Reranker(http(url=url)).rerank(QUERY, DOCUMENTS, top_n=1)
        assert stage.requests(url)[0].body["top_n"] == 3
        assert (len(ranking), ranking.total) == (1, 3)

    def test_blank_texts_are_not_sent(self, stage):
        url = stage.address()
        scores = http(url=url).score(QUERY, ["", "a refund", " \n"])
        assert stage.requests(url)[0].body["documents"] == ["a refund"]
        assert [value is None for value in scores.values] == [True, False, True]

    def test_only_blank_texts_send_nothing(self, stage):
        url = stage.address()
        http(url=url).score(QUERY, ["", "\t"])
        assert stage.requests(url) == []

    def test_no_model_sends_none(self, stage):
        url = stage.address(dialect=Dialect(path="/v1/rerank", model=None))
        backend = Http(dialect="vllm", base_url=url)
        backend.score(QUERY, DOCUMENTS)
        assert "model" not in stage.requests(url)[0].body
        assert backend.model == "as-served"

    def test_extra_is_added(self, stage):
        assert sent(stage, extra={"instruction": "be kind", "n": None}).body == {
            **body_by(ENDPOINTS["cohere"], QUERY, DOCUMENTS),
            "instruction": "be kind",
            "n": None,
        }

    def test_extra_takes_the_place_of_the_presets(self, stage):
        assert sent(stage, "tei", extra={"raw_scores": True}).body["raw_scores"] is True

    def test_extra_joins_the_object_that_the_query_is_in(self, stage):
        assert sent(stage, "nim", extra={"query": {"lang": "de"}}).body["query"] == {"text": QUERY, "lang": "de"}

    def test_extra_joins_the_object_of_the_preset(self, stage):
        sent_parameters = sent(stage, "pinecone", extra={"parameters": {"max_length": 9}}).body["parameters"]
        assert sent_parameters == {"truncate": "END", "max_length": 9}

    def test_extra_does_not_change_the_table_of_presets(self, stage):
        before = copy.deepcopy(dict(ENDPOINTS["pinecone"].extra))
        sent(stage, "pinecone", extra={"parameters": {"max_length": 9}, "return_documents": True})
        assert ENDPOINTS["pinecone"].extra == before

    def test_extra_is_as_it_was_when_it_was_given(self, stage):
        url, extra = stage.address(), {"options": {"depth": 1}}
        backend = http(url=url, extra=extra)
        before = backend.fingerprint
        extra["options"]["depth"] = 2
        assert backend.fingerprint == before

    @pytest.mark.parametrize("text", ["a\x00b", "👩‍🚀 𝄞", "a\u2028b\x85c", '"quoted" \\ back', "\x1b[0m", "naïve café"])
    def test_text_arrives_as_it_is(self, stage, text):
        request = sent(stage, texts=[text, "other"], query=f"q {text}")
        assert (request.body["documents"][0], request.body["query"]) == (text, f"q {text}")

    def test_half_a_surrogate_pair_becomes_a_question_mark(self, stage):
        request = sent(stage, texts=["half \ud83d here"], query="q \udc00")
        assert (request.body["documents"], request.body["query"]) == (["half ? here"], "q ?")

    @settings(deadline=None)
    @given(texts=st.lists(st.text(st.characters(exclude_categories=[])), min_size=1, max_size=5))
    def test_any_texts_can_be_sent(self, stage, texts):
        url = stage.address()
        scores = http(url=url).score("q", texts)
        assert len(scores.values) == len(texts)


class TestHeaders:
    @pytest.mark.parametrize("name", ENDPOINTS)
    def test_are_those_of_the_preset_and_no_others(self, stage, name):
        dialect, headers = ENDPOINTS[name], sent(stage, name).headers
        assert headers.pop(dialect.auth.lower()) == f"{dialect.auth_scheme} {KEY}".strip()
        fixed = {header.lower(): value for header, value in dialect.headers.items()}
        assert {header: headers.pop(header) for header in fixed} == fixed
        assert headers.pop("content-type") == "application/json"
        assert headers.pop("accept-encoding") == "identity"
        assert headers.pop("user-agent") == "rerankx"
        assert headers.keys() == {"host", "accept", "connection", "content-length"}

    def test_no_key_sends_no_authorisation(self, stage):
        assert "authorization" not in sent(stage, "tei", api_key=None).headers

    def test_scheme_may_be_none(self, stage):
        dialect = {"path": "/r", "auth": "X-Key", "auth_scheme": ""}
        request = sent(stage, dialect)
        assert request.headers["x-key"] == KEY
        assert "authorization" not in request.headers

    def test_more_of_them_are_sent(self, stage):
        assert sent(stage, headers={"X-Tenant": "seven"}).headers["x-tenant"] == "seven"

    def test_those_that_are_given_win(self, wire):
        http(headers={"Authorization": "Custom thing", "Content-Type": "application/json; charset=utf-8"}).score(
            "q", ["a"]
        )
        (request,) = wire
        assert request.headers.get_list("authorization") == ["Custom thing"]
        assert request.headers.get_list("content-type") == ["application/json; charset=utf-8"]

    @pytest.mark.parametrize("header", ["authorization", "content-type"])
    def test_those_that_are_given_win_in_any_case_of_letters(self, wire, header):
        http(headers={header: "of mine"}).score("q", ["a"])
        (request,) = wire
        assert request.headers.get_list(header) == ["of mine"]

    def test_headers_stand_in_for_a_key(self):
        assert Http(dialect="voyage", headers={"Authorization": "Bearer of-the-gateway"}).name == "voyage"

    @pytest.mark.parametrize("headers", [["X-Name"], "X-Name: value", 5])
    def test_are_a_mapping(self, headers):
        with pytest.raises(TypeError, match="headers must be a mapping"):
            http(headers=headers)

    @pytest.mark.parametrize("value", [5, None, b"x", "ключ", "one\ntwo", "nul\x00"])
    def test_that_cannot_be_sent_are_refused_at_once_without_their_value(self, value):
        with pytest.raises(ValueError, match="header 'X-Token' must be") as caught:
            http(headers={"X-Token": value})
        assert str(value) not in str(caught.value)


class TestAddress:
    @pytest.mark.parametrize(
        ("base_url", "expected"),
        [
            ("http://host", "http://host/v2/rerank"),
            ("http://host/", "http://host/v2/rerank"),
            ("http://host///", "http://host/v2/rerank"),
            ("https://host:8443/a/b", "https://host:8443/a/b/v2/rerank"),
            ("https://host/a/b/", "https://host/a/b/v2/rerank"),
            ("https://host/v2/rerank", "https://host/v2/rerank"),
            ("https://host/a/v2/rerank/", "https://host/a/v2/rerank"),
            ("HTTPS://Host", "HTTPS://Host/v2/rerank"),
            ("http://[::1]:8080", "http://[::1]:8080/v2/rerank"),
        ],
    )
    def test_is_base_url_and_path(self, base_url, expected):
        assert http(url=base_url).describe()["address"] == expected

    @pytest.mark.parametrize("name", [name for name in ENDPOINTS if ENDPOINTS[name].base_url])
    def test_is_the_presets_unless_told(self, name):
        dialect = ENDPOINTS[name]
        address = http(name, None).describe()["address"]
        assert address == dialect.base_url + dialect.path.replace("{model}", MODEL)

    @pytest.mark.parametrize("base_url", ["https://user:geheim@host", "https://geheim@host", "https://host?key=geheim",
                                          "https://host/a#geheim", " https://u:geheim@host", "//u:geheim@host"])  # fmt: skip
    def test_secrets_have_no_place_in_it(self, base_url):
        with pytest.raises(ValueError, match="api_key=") as caught:
            http(url=base_url)
        assert "geheim" not in told(caught.value)

    @pytest.mark.parametrize("base_url", ["user:geheim@host/v1", "ftp:u:geheim@host"])
    def test_secrets_are_not_shown_where_the_scheme_is_missing(self, base_url):
        with pytest.raises(ValueError, match="base_url") as caught:
            http(url=base_url)
        assert "geheim" not in told(caught.value)

    @pytest.mark.parametrize("base_url", ["host", "host:80/a", "ftp://host", "http://", "http:///path", "", " ", "/v1"])
    def test_what_is_no_address_is_refused(self, base_url):
        with pytest.raises(ValueError, match=r"base_url of 'http' must begin with http:// or https://"):
            http(url=base_url)

    @pytest.mark.parametrize("base_url", [b"http://host", 5, ["http://host"], httpx.URL("http://host")])
    def test_what_is_no_string_is_refused(self, base_url):
        with pytest.raises(TypeError, match="base_url must be a string"):
            http(url=base_url)

    @pytest.mark.parametrize(
        "base_url",
        [
            pytest.param(
                url
            )
            for url in ("http://host:abc", "http://host:99999", "http://:80", "https://host?", "https://host/a#", "https://ho st")
        ],
    )  # fmt: skip
    def test_what_cannot_be_an_address_is_refused(self, base_url):
        with pytest.raises(ValueError, match="base_url"):
            http(url=base_url)

    @pytest.mark.parametrize(
        "blank",
        [pytest.param(s) for s in ("http://host\n", " http://host", "http://host/ ")],
    )
    def test_blanks_around_it_do_not_matter(self, blank):
        assert http(url=blank).describe()["address"] == "http://host/v2/rerank"

    def test_broken_ipv6_is_refused(self):
        with pytest.raises(ValueError, match="IPv6"):
            http(url="http://[::1")

    def test_is_needed_where_the_dialect_has_none(self):
        with pytest.raises(ValueError, match="'http' needs base_url="):
            Http(MODEL)

    def test_path_without_a_slash_does_not_change_the_host(self):
        with pytest.raises(ValueError, match="must begin with a slash, not 'rank'"):
            http({"path": "rank"}, "http://mine")

    def test_model_that_would_lead_elsewhere_is_refused(self):
        with pytest.raises(ValueError, match="leads elsewhere"):
            http("deepinfra", "http://host", model="org/../../admin")

    @pytest.mark.parametrize("model", ["org/model#2", "org/model?v=1"])
    def test_model_stays_in_the_path(self, model):
        url = httpx.URL(http("deepinfra", "http://host", model=model).describe()["address"])
        assert (url.query, url.fragment, "/v1/inference/" in url.path) == (b"", "", True)

    def test_redirect_names_the_host_that_it_sends_to(self, stage):
        url = stage.address(redirect())
        with pytest.raises(BackendError, match=r"HTTP 307: 127\.0\.0\.1 sends on to 127\.0\.0\.1.*set base_url"):
            http(url=url).score(QUERY, DOCUMENTS)


MINE = {"path": "/rank", "documents": "texts", "score": "score", "results": ""}


class TestDialect:
    @pytest.mark.parametrize(
        "dialect", [MINE, Dialect(**MINE), MappingProxyType(MINE)], ids=["dict", "Dialect", "mapping"]
    )
    def test_may_be_ones_own(self, stage, dialect):
        url = stage.address(dialect=Dialect(**MINE), scorer=[0.1, 0.3, 0.2])
        backend = http(dialect, url)
        assert backend.score(QUERY, DOCUMENTS).values == (0.1, 0.3, 0.2)
        assert backend.name == "http"

    @pytest.mark.parametrize("name", PRESETS)
    def test_name_of_the_preset_is_the_backends(self, name):
        assert http(name).name == name

    def test_cohere_is_the_protocol_here(self):
        assert http("cohere").name == "http"

    @pytest.mark.parametrize(("name", "near"), [("voyag", "voyage"), ("Tei", "tei"), ("llama-cpp", "llamacpp")])
    def test_unknown_name_says_the_nearest(self, name, near):
        with pytest.raises(ValueError, match=f"no dialect '{name}'; did you mean '{near}'"):
            http(name)

    @pytest.mark.parametrize(("field", "near"), [("pth", "path"), ("documnts", "documents"), ("scoer", "score")])
    def test_unknown_field_says_the_nearest(self, field, near):
        with pytest.raises(
            ValueError, match=f"a dialect has no field '{field}'; did you mean '{near}'.*it has: path, "
        ):
            http({"path": "/r", field: "x"})

    def test_needs_a_path(self):
        with pytest.raises(ValueError, match="a dialect needs a path"):
            http({"documents": "texts"})

    @pytest.mark.parametrize("dialect", [5, None, ["path"], ("path", "/x")])
    def test_of_another_type_is_refused(self, dialect):
        with pytest.raises(TypeError, match="dialect must be a name, a Dialect or a mapping"):
            http(dialect)

    def test_name_of_a_field_that_is_no_string_is_refused(self):
        with pytest.raises(ValueError, match="a dialect has no field 5"):
            http({"path": "/r", 5: "x"})

    @pytest.mark.parametrize(
        "wrong",
        [
            {"path": 5},
            {"extra": None},
            {"headers": ["a"]},
            {"max_documents": -3},
            {"max_documents": "32"},
            {"billing": "free"},
            {"key_variables": "MY_KEY"},
            {"query": 5},
        ],
        ids=repr,
    )
    def test_wrong_value_names_its_field(self, wrong):
        (field,) = wrong
        with pytest.raises((TypeError, ValueError), match=field):
            http({"path": "/r", **wrong})

    def test_scale_that_is_none_is_refused(self):
        with pytest.raises(ValueError, match="scale must be one of logit, probability, unknown"):
            http({"path": "/r", "scale": "percent"})

    @settings(deadline=None)
    @given(st.sampled_from(list(ENDPOINTS)), st.permutations(range(7)))
    def test_scores_stay_with_their_documents_in_any_order_of_the_server(self, stage, name, order):
        scores = [0.7, 0.1, 0.5, 0.5, 0.2, 0.9, 0.0]
        behaviour = good() if ENDPOINTS[name].index is None else shuffled(lambda _: order)
        url = stage.address(behaviour, dialect=name, scorer=scores)
        assert http(name, url).score("q", [f"text {i}" for i in range(7)]).values == tuple(scores)


class TestScale:
    @pytest.mark.parametrize("name", ENDPOINTS)
    def test_is_the_presets(self, name):
        assert http(name).scale.kind == ENDPOINTS[name].scale

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ("logit", Scale.LOGIT),
            ("probability", Scale.PROBABILITY),
            ("unknown", Scale.UNKNOWN),
            (Scale.LOGIT, Scale.LOGIT),
            (Scale.RANK, Scale.RANK),
            (Scale.similarity(0, 10), Scale.similarity(0, 10)),
        ],
    )
    def test_may_be_told(self, given, expected):
        assert http("tei", scale=given).scale == expected

    @pytest.mark.parametrize("scale", ["rank", "sigmoid", "", 5, 0, True, Scale])
    def test_of_another_name_is_refused(self, scale):
        with pytest.raises(ValueError, match=r"scale must be one of logit, probability, unknown, or a rerankx\.Scale"):
            http(scale=scale)

    def test_told_scale_makes_a_threshold_possible(self, stage):
        url = stage.address(scorer=[0.2, 0.9, 0.4])
        ranking = Reranker(http(url=url, scale="probability")).rerank(QUERY, DOCUMENTS, min_score=0.4)
        assert [hit.index for hit in ranking] == [1, 2]

    def test_score_outside_of_the_scale_is_an_error(self, stage):
        url = stage.address(scorer=[7.7, -11.0, 0.5])
        with pytest.raises(ReplyError, match="outside the declared probability"):
            http(url=url, scale="probability").score(QUERY, DOCUMENTS)


SEVENTY = [f"text {i}" for i in range(70)]


class TestSplitting:
    def test_more_than_fit_go_in_several_requests(self, stage):
        url = stage.address(dialect="tei", scorer=lambda _query, texts: [int(t.split()[1]) / 100 for t in texts])
        scores = http("tei", url).score("q", SEVENTY)
        assert sorted(len(request.body["texts"]) for request in stage.requests(url)) == [6, 32, 32]
        assert scores.values == tuple(i / 100 for i in range(70))
        assert scores.usage.calls == 3

    def test_max_documents_may_be_told(self, stage):
        url = stage.address(dialect="tei")
        http("tei", url, max_documents=30).score("q", SEVENTY)
        assert sorted(len(request.body["texts"]) for request in stage.requests(url)) == [10, 30, 30]

    def test_top_n_of_a_part_is_its_own_length(self, stage):
        url = stage.address()
        http(url=url, max_documents=40).score("q", SEVENTY)
        assert {(len(r.body["documents"]), r.body["top_n"]) for r in stage.requests(url)} == {(40, 40), (30, 30)}

    @pytest.mark.parametrize("model", [*sorted(LISTWISE), "jinaai/jina-reranker-v3"])
    def test_lists_of_a_listwise_model_stay_whole(self, stage, model):
        url = stage.address(dialect=replace(ENDPOINTS["tei"], max_documents=None))
        backend = http("tei", url, model=model)
        backend.score("q", SEVENTY)
        assert backend.pointwise is False
        assert [len(request.body["texts"]) for request in stage.requests(url)] == [70]

    def test_pointwise_may_be_told(self, stage):
        url = stage.address(dialect=replace(ENDPOINTS["tei"], max_documents=None))
        backend = http("tei", url, pointwise=False)
        backend.score("q", SEVENTY)
        assert backend.pointwise is False
        assert len(stage.requests(url)) == 1
        assert http("jina-api", model="jina-reranker-v3", pointwise=True).pointwise is True

    def test_other_models_are_pointwise(self):
        assert http(model="jina-reranker-v2-base-multilingual").pointwise is True

    @pytest.mark.parametrize("value", ["no", 0, 1.0])
    def test_pointwise_that_is_no_bool_is_refused(self, value):
        with pytest.raises(TypeError, match="pointwise"):
            http(pointwise=value)

    @pytest.mark.parametrize("value", [0, -1])
    def test_max_documents_out_of_range_is_refused(self, value):
        with pytest.raises(ValueError, match="max_documents must be at least 1"):
            http(max_documents=value)

    @pytest.mark.parametrize("value", [True, 2.5, "3"])
    def test_max_documents_of_another_type_is_refused(self, value):
        with pytest.raises(TypeError, match="max_documents must be a whole number"):
            http(max_documents=value)


class TestModel:
    @pytest.mark.parametrize("name", [name for name in ENDPOINTS if ENDPOINTS[name].default_model])
    def test_is_the_presets_unless_told(self, name):
        assert Http(dialect=name, api_key=KEY).model == ENDPOINTS[name].default_model

    @pytest.mark.parametrize("name", OWN)
    def test_server_of_ones_own_needs_none(self, name):
        assert Http(dialect=name).model == "as-served"

    def test_is_needed_where_there_is_no_default(self):
        with pytest.raises(ValueError, match=r"'together' needs a model: write 'together:\.\.\.'"):
            Http(dialect="together", api_key=KEY)

    def test_is_needed_where_it_is_in_the_path(self):
        with pytest.raises(ValueError, match="'http' needs a model"):
            Http(dialect={"path": "/models/{model}"}, base_url=NOWHERE)

    def test_may_hold_colons(self):
        assert Reranker("openrouter:cohere/rerank:free", api_key=KEY).backend.model == "cohere/rerank:free"

    @pytest.mark.parametrize("model", [5, ["a"], b"m"])
    def test_that_is_no_string_is_refused(self, model):
        with pytest.raises(TypeError, match="model must be a string"):
            http(model=model)


VARIABLES = [(name, variable) for name in ENDPOINTS for variable in ENDPOINTS[name].key_variables]


class TestKey:
    @pytest.mark.parametrize(("name", "variable"), VARIABLES)
    def test_comes_from_every_variable(self, stage, name, variable, monkeypatch):
        monkeypatch.setenv(variable, "  from-the-environment\n")
        dialect = ENDPOINTS[name]
        got = sent(stage, name, api_key=None).headers[dialect.auth.lower()]
        assert got == f"{dialect.auth_scheme} from-the-environment".strip()

    @pytest.mark.parametrize(("name", "variable"), VARIABLES)
    def test_that_is_given_wins(self, stage, name, variable, monkeypatch):
        monkeypatch.setenv(variable, "from-the-environment")
        assert KEY in sent(stage, name).headers[ENDPOINTS[name].auth.lower()]

    def test_first_variable_wins_unless_it_is_blank(self, stage, monkeypatch):
        first, second = ENDPOINTS["deepinfra"].key_variables
        monkeypatch.setenv(second, "two")
        monkeypatch.setenv(first, "one")
        assert sent(stage, "deepinfra", api_key=None).headers["authorization"] == "Bearer one"
        monkeypatch.setenv(first, " ")
        assert sent(stage, "deepinfra", api_key=None).headers["authorization"] == "Bearer two"

    @pytest.mark.parametrize("name", HOSTED)
    @pytest.mark.parametrize("key", [None, "", "  \n"])
    def test_missing_names_the_variables(self, name, key):
        with pytest.raises(AuthenticationError) as caught:
            http(name, api_key=key)
        assert str(caught.value).startswith(f"'{name}' needs a key: pass api_key=, or set ")
        assert all(variable in str(caught.value) for variable in ENDPOINTS[name].key_variables)

    @pytest.mark.parametrize("name", OWN)
    def test_server_of_ones_own_needs_none(self, name):
        assert Http(dialect=name, api_key=None).name == name

    @pytest.mark.parametrize("key", [KEY + "\n", f"  {KEY}", f"\t{KEY}\r\n"])
    def test_blanks_around_it_are_left_out(self, stage, key):
        assert sent(stage, api_key=key).headers["authorization"] == f"Bearer {KEY}"

    def test_may_be_a_secret_str(self, stage):
        from pydantic import SecretStr

        assert sent(stage, api_key=SecretStr(KEY)).headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize("key", [5, b"bytes", ["a"], lambda: KEY])
    def test_of_another_type_is_refused(self, key):
        with pytest.raises(TypeError, match="api_key must be a string, not"):
            http(api_key=key)

    @pytest.mark.parametrize(
        "key", ["kanarien\nvogel", "kanarien\r\nvogel", "kanarien\x00vogel", "kanarien\x7fvogel", "kanarienvögel"]
    )
    def test_that_no_header_can_hold_is_refused_at_once_and_not_shown(self, key):
        with pytest.raises(AuthenticationError, match="holds characters that no header can hold") as caught:
            http(api_key=key)
        assert "kanarien" not in told(caught.value)

    def test_missing_where_the_dialect_knows_no_variable(self):
        with pytest.raises(AuthenticationError, match=r"pass api_key=$"):
            http({"path": "/r", "needs_key": True}, api_key=None)


BASE = {"name": {"path": "/r", "extra": {"a": 1}}, "url": NOWHERE}


class TestFingerprint:
    @pytest.mark.parametrize(
        "changed",
        [
            {"model": "other"},
            {"url": "http://127.0.0.1:10"},
            {"scale": "probability"},
            {"scale": Scale.similarity(0, 2)},
            {"extra": {"b": 2}},
            {"extra": {"a": 2}},
            *(
                {"name": {"path": "/r", "extra": {"a": 1}, **field}}
                for field in (
                    {"path": "/s"},
                    {"query": "q"},
                    {"repeat_query": True},
                    {"documents": "texts"},
                    {"document": "text"},
                    {"model": "m"},
                    {"top_n": None},
                    {"extra": {"a": 2}},
                    {"score": "logit"},
                    {"results": "data"},
                    {"scale": "logit"},
                )
            ),
        ],
        ids=repr,
    )
    def test_changes_with_what_changes_a_score(self, changed):
        assert http(**{**BASE, **changed}).fingerprint != http(**BASE).fingerprint

    @pytest.mark.parametrize(
        "changed",
        [
            {"api_key": "other"},
            {"headers": {"X-Tenant": "seven"}},
            {"timeout_s": 1.0},
            {"deadline_s": 1.0},
            {"max_retries": 0},
            {"max_concurrency": 1},
            {"requests_per_minute": 5},
            {"max_calls": 5},
            {"price": {"per_search_unit": 1.0}},
            {"failure_threshold": None},
            {"recovery_s": 1},
            {"extra": {"a": 1}},
            {"extra": {}},
        ],
        ids=repr,
    )
    def test_does_not_change_with_what_changes_none(self, changed):
        assert http(**{**BASE, **changed}).fingerprint == http(**BASE).fingerprint

    @pytest.mark.parametrize(
        "changed",
        [
            {"read": "2030-01-01"},
            {"summary": "said otherwise"},
            {"source": "https://elsewhere"},
            {"key_variables": ("KEY",)},
            {"billing": "tokens"},
            {"tokens": "usage.tokens"},
            {"permanent": ("too large",)},
        ],
        ids=repr,
    )
    def test_does_not_change_with_what_is_only_said_of_a_service(self, changed):
        assert http(Dialect(path="/r", **changed)).fingerprint == http(Dialect(path="/r")).fingerprint

    def test_holds_no_key(self):
        assert KEY not in http(headers={"X": KEY}).fingerprint

    def test_is_the_same_whatever_the_order_of_the_fields(self):
        assert http(extra={"a": 1, "b": 2}).fingerprint == http(extra={"b": 2, "a": 1}).fingerprint

    def test_takes_any_mapping(self):
        assert http({"path": "/r", "extra": MappingProxyType({"a": 1})}).fingerprint

    def test_is_the_same_in_another_process(self):
        code = "from rerankx.backends.http import Http; print(Http('m', base_url='http://h', extra={'b': 1, 'a': 2}).fingerprint)"
        there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
        here = Http("m", base_url="http://h", extra={"b": 1, "a": 2}).fingerprint
        assert there.stdout.strip() == here


class TestCopies:
    def test_pickle_holds_no_key_and_reads_the_environment(self, monkeypatch):
        backend = http("voyage", extra={"truncation": False}, timeout_s=7.0)
        written = pickle.dumps(backend)
        assert held_in(written.decode("latin-1")) is None
        with pytest.raises(AuthenticationError):
            pickle.loads(written)
        monkeypatch.setenv("VOYAGE_API_KEY", "there")
        again = pickle.loads(written)
        assert again.fingerprint == backend.fingerprint
        assert again._policy.timeout_s == 7.0

    @pytest.mark.parametrize("name", ["tei", "pinecone", {"path": "/r", "extra": {"a": 1}}, Dialect(path="/r")])
    def test_pickle_asks_the_same(self, stage, name):
        url = stage.address(dialect=name if isinstance(name, str | Dialect) else Dialect(**name))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PINECONE_API_KEY", KEY)
            again = pickle.loads(pickle.dumps(http(name, url, max_documents=5, scale="logit")))
        assert again.score(QUERY, DOCUMENTS).usage.calls == 1
        assert again.scale == Scale.LOGIT

    def test_pickle_of_one_with_headers_is_refused(self):
        with pytest.raises(TypeError, match="headers may hold secrets"):
            pickle.dumps(http(headers={"X-Token": KEY}))

    def test_deepcopy_keeps_key_and_headers(self, stage):
        url = stage.address()
        copy.deepcopy(http(url=url, headers={"X-Token": "seven"})).score(QUERY, DOCUMENTS)
        (request,) = stage.requests(url)
        assert (request.headers["authorization"], request.headers["x-token"]) == (f"Bearer {KEY}", "seven")

    def test_deepcopy_of_a_reranker(self, stage):
        url = stage.address()
        assert copy.deepcopy(Reranker(http(url=url))).rerank(QUERY, DOCUMENTS)[0].index == 2

    def test_copy_keeps_the_key(self):
        assert copy.copy(http("voyage")).name == "voyage"

    def test_copy_shares_neither_circuit_nor_account(self, stage):
        backend = http(url=stage.address())
        backend.score(QUERY, DOCUMENTS)
        assert copy.deepcopy(backend).spent == Usage()

    def test_repr_holds_no_key(self):
        backend = http(headers={"X": KEY})
        assert held_in(repr(backend) + repr(vars(backend).get("_key")) + repr(Reranker(backend))) is None


class TestDescription:
    @pytest.mark.parametrize("name", ENDPOINTS)
    def test_goes_to_json(self, name):
        said = json.loads(json.dumps(http(name).describe(), allow_nan=False))
        assert said["model"] == MODEL
        assert said["scale"] == ENDPOINTS[name].scale
        assert said["max_documents"] == ENDPOINTS[name].max_documents
        assert said["circuit"] == "closed"
        assert said["spent"]["calls"] == 0

    def test_holds_no_key(self):
        assert held_in(json.dumps(http(headers={"X": KEY}).describe())) is None

    def test_tells_the_price_and_what_is_spent(self, stage):
        url = stage.address(dialect="voyage")
        backend = http("voyage", url, model="rerank-2.5")
        backend.score(QUERY, DOCUMENTS)
        said = backend.describe()
        assert said["price"]["per_million_tokens"] == PRICES["voyage:rerank-2.5"].per_million_tokens
        assert said["spent"]["input_tokens"] == 11


class TestByName:
    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset_can_be_made(self, name, monkeypatch):
        for variable in ENDPOINTS[name].key_variables[:1]:
            monkeypatch.setenv(variable, KEY)
        backend = Reranker(f"{name}:{MODEL}").backend
        assert isinstance(backend, Http)
        assert (backend.name, backend.model) == (name, MODEL)

    @pytest.mark.parametrize("name", PRESETS)
    def test_every_preset_ranks(self, stage, name):
        url = stage.address(dialect=name)
        ranking = Reranker(f"{name}:{MODEL}", api_key=KEY, base_url=url).rerank(QUERY, DOCUMENTS)
        assert (ranking[0].index, ranking.backend, ranking.model) == (2, name, MODEL)
        assert ranking.usage.calls == 1

    def test_http_takes_a_dialect(self, stage):
        url = stage.address(dialect="tei")
        reranker = Reranker("http", base_url=url, dialect="tei", scale="probability", pointwise=True)
        assert reranker.rerank(QUERY, DOCUMENTS)[0].index == 2

    def test_cohere_is_the_one_on_the_sdk(self):
        from rerankx.backends.cohere import Cohere

        assert isinstance(Reranker("cohere", api_key=KEY).backend, Cohere)

    @pytest.mark.parametrize(("option", "near"), [("base_ur", "base_url"), ("timeout", "timeout_s"), ("apikey", "api_key"),
                                                  ("max_docs", "max_documents")])  # fmt: skip
    def test_wrong_option_names_the_nearest(self, option, near):
        with pytest.raises(TypeError, match=f"backend 'tei' has no option '{option}'; did you mean '{near}'"):
            Reranker("tei", **{option: 1})

    @pytest.mark.parametrize("name", ["voyge", "mixbread", "infinty"])
    def test_wrong_name_names_the_nearest(self, name):
        with pytest.raises(ValueError, match="did you mean"):
            Reranker(name)

    @pytest.mark.parametrize(("absent", "name", "extra"), [("httpx", "tei", "http"), ("tenacity", "voyage", "http"),
                                                           ("tenacity", "http", "http"), ("cohere", "cohere", "cohere"),
                                                           ("httpx", "cohere", "cohere")])  # fmt: skip
    def test_missing_package_names_the_extra(self, absent, name, extra, monkeypatch):
        find_spec = registry.find_spec
        monkeypatch.setattr(registry, "find_spec", lambda package: None if package == absent else find_spec(package))
        with pytest.raises(MissingDependencyError) as caught:
            Reranker(name)
        assert caught.value.packages == (absent,)
        assert caught.value.command == f"pip install 'rerankx[{extra}]'"

    @pytest.mark.parametrize("what", ["import rerankx", "from rerankx import Reranker; Reranker()",
                                      "from rerankx.registry import available; available()"])  # fmt: skip
    def test_what_needs_no_network_imports_none(self, what):
        code = (
            f"{what}\nimport sys\nprint(sorted({{'httpx', 'tenacity', 'cohere', 'yaml', 'ssl'}} & sys.modules.keys()))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.stdout.strip(), done.stderr) == ("[]", "")


COUNTS = {"max_retries": 0, "requests_per_minute": 1, "max_concurrency": 1, "failure_threshold": 1, "max_calls": 0}


class TestNumbers:
    """Options of number and time, those that all network backends have."""

    @pytest.mark.parametrize("option", ["timeout_s", "deadline_s", "recovery_s"])
    @pytest.mark.parametrize("value", [0, -1, 0.0, float("nan"), float("-inf")])
    def test_seconds_are_above_0(self, option, value):
        with pytest.raises(ValueError, match=f"{option} must be above 0, not"):
            http(**{option: value})

    @pytest.mark.parametrize("option", ["timeout_s", "deadline_s", "recovery_s", "budget_usd"])
    def test_infinity_is_refused(self, option):
        with pytest.raises(ValueError, match="must be at most"):
            http(**{option: float("inf"), "price": {"per_search_unit": 1}})

    @pytest.mark.parametrize("option", ["timeout_s", "deadline_s", "recovery_s", "budget_usd"])
    @pytest.mark.parametrize("value", ["5", True, [1], b"1", 1j])
    def test_amounts_are_numbers(self, option, value):
        with pytest.raises(TypeError, match=f"{option} must be a number, not {type(value).__name__}"):
            http(**{option: value})

    @pytest.mark.parametrize("option", ["timeout_s", "deadline_s", "recovery_s", "budget_usd"])
    def test_number_beyond_floats_is_a_value_error(self, option):
        with pytest.raises(ValueError, match=option):
            http(**{option: 10**400})

    @pytest.mark.parametrize(("option", "low"), COUNTS.items())
    def test_counts_have_a_lower_bound(self, option, low):
        with pytest.raises(ValueError, match=f"{option} must be at least {low}, not {low - 1}"):
            http(**{option: low - 1})
        assert http(**{option: low}).name == "http"

    @pytest.mark.parametrize("option", COUNTS)
    @pytest.mark.parametrize("value", ["5", True, False, 1.0, float("nan")])
    def test_counts_are_whole_numbers(self, option, value):
        with pytest.raises(TypeError, match=f"{option} must be a whole number, not {type(value).__name__}"):
            http(**{option: value})

    @pytest.mark.parametrize("option", ["timeout_s", "max_retries", "max_concurrency", "recovery_s"])
    def test_some_cannot_be_none(self, option):
        with pytest.raises(TypeError, match=f"{option} must be a number, not None"):
            http(**{option: None})

    @pytest.mark.parametrize(
        "option", ["deadline_s", "requests_per_minute", "failure_threshold", "max_calls", "budget_usd"]
    )
    def test_others_can(self, option):
        assert http(**{option: None}).name == "http"

    def test_budget_is_0_or_above(self):
        with pytest.raises(ValueError, match="budget_usd must be 0 or above, not -1"):
            http(budget_usd=-1, price={"per_search_unit": 1})

    @pytest.mark.parametrize("extra", [[1], "a", 5])
    def test_extra_is_a_mapping(self, extra):
        with pytest.raises(TypeError):
            http(extra=extra)

    @pytest.mark.parametrize("extra", [{"x": object()}, {"x": {1, 2}}, {"x": b"y"}, {"x": float("nan")}, {("a",): 1}])
    def test_extra_that_is_no_json_is_refused_at_once(self, extra):
        with pytest.raises((TypeError, ValueError), match="extra"):
            http(extra=extra)


def billing(reply, dialect="cohere"):
    """Return the behaviour of a service that says so of what it bills."""
    return body(lambda exchange: json.dumps({**exchange.reply(), **reply}).encode())


def bill(stage, name, reply, **options):
    url = stage.address(billing(reply), dialect=name)
    backend = http(name, url, **options)
    usage = backend.score(QUERY, DOCUMENTS).usage
    assert backend.spent == usage
    return usage


class TestUsage:
    @pytest.mark.parametrize("name", [name for name in ENDPOINTS if ENDPOINTS[name].tokens and ENDPOINTS[name].results])
    def test_tokens_are_those_of_the_reply(self, stage, name):
        url = stage.address(dialect=name)
        usage = http(name, url).score(QUERY, DOCUMENTS).usage
        assert (usage.calls, usage.input_tokens, usage.estimated) == (1, 11, False)

    @pytest.mark.parametrize("name", [name for name in ENDPOINTS if ENDPOINTS[name].units])
    def test_units_are_those_of_the_reply(self, stage, name):
        url = stage.address(dialect=name)
        assert http(name, url).score(QUERY, DOCUMENTS).usage.search_units == 1

    @pytest.mark.parametrize("name", [name for name in OWN if ENDPOINTS[name].billing == "nothing"])
    def test_server_of_ones_own_costs_nothing(self, stage, name):
        url = stage.address(dialect=name)
        usage = http(name, url).score(QUERY, DOCUMENTS).usage
        assert (usage.cost_usd, usage.search_units, usage.estimated) == (0.0, 0, False)

    @pytest.mark.parametrize("amount", [-1, -0.5, "11", None, True, [], {}, float("nan"), float("inf"), float("-inf")])
    def test_amount_that_is_none_is_estimated(self, stage, amount):
        usage = bill(stage, "voyage", {"usage": {"total_tokens": amount}}, model="rerank-2.5")
        assert usage.estimated is True
        assert 0 < usage.input_tokens < 1000
        assert usage.cost_usd == pytest.approx(usage.input_tokens * 0.05e-6)

    @pytest.mark.parametrize("usage", [None, [], "much", 5, {}])
    def test_usage_that_is_none_is_estimated(self, stage, usage):
        assert bill(stage, "voyage", {"usage": usage}, model="rerank-2.5").estimated is True

    @pytest.mark.parametrize("name", ["voyage", "pinecone"])
    def test_amount_beyond_floats_does_not_cost_the_scores(self, stage, name):
        reply = {"usage": {"total_tokens": 10**400, "rerank_units": 10**400}}
        price = {"per_million_tokens": 1.0} if name == "voyage" else {"per_search_unit": 1.0}
        assert bill(stage, name, reply, price=price).calls == 1

    def test_fractions_are_rounded_up_and_paid_as_they_are(self, stage):
        usage = bill(stage, "pinecone", {"usage": {"rerank_units": 1.5}}, price={"per_search_unit": 1.0})
        assert (usage.search_units, usage.cost_usd) == (2, 1.5)

    def test_0_is_an_amount(self, stage):
        usage = bill(stage, "voyage", {"usage": {"total_tokens": 0}}, model="rerank-2.5")
        assert (usage.input_tokens, usage.cost_usd, usage.estimated) == (0, 0.0, False)

    @pytest.mark.parametrize(
        "name", [name for name in PRICES if name.partition(":")[0] in ENDPOINTS and "cohere:" not in name]
    )
    def test_cost_is_by_the_catalogue(self, stage, name):
        provider, _, model = name.partition(":")
        url, price = stage.address(dialect=provider), PRICES[name]
        usage = http(provider, url, model=model).score(QUERY, DOCUMENTS).usage
        per_token = price.per_million_tokens
        assert usage.cost_usd == pytest.approx(price.per_search_unit if per_token is None else per_token * 11e-6)

    def test_cost_is_by_the_price_that_is_given(self, stage):
        usage = bill(stage, "voyage", {}, model="rerank-2.5", price={"per_million_tokens": 1e6})
        assert usage.cost_usd == 11.0

    def test_both_prices_add_up(self, stage):
        usage = bill(stage, "cohere", {}, price={"per_million_tokens": 1e6, "per_search_unit": 0.5})
        assert usage.cost_usd == 11.5

    def test_cost_of_a_server_of_ones_own_is_by_a_price_if_one_is_given(self, stage):
        assert bill(stage, "vllm", {}, price={"per_million_tokens": 1e6}).cost_usd == 11.0

    @pytest.mark.parametrize("name", ["voyage", "cohere", "litellm", "pinecone"])
    def test_cost_without_a_price_is_not_known(self, stage, name):
        assert bill(stage, name, {}).cost_usd is None

    def test_total_of_unknown_costs_stays_unknown(self, stage):
        backend = http("voyage", stage.address(dialect="voyage"))
        backend.score(QUERY, DOCUMENTS)
        backend.score(QUERY, DOCUMENTS)
        assert (backend.spent.calls, backend.spent.input_tokens, backend.spent.cost_usd) == (2, 22, None)

    @pytest.mark.parametrize("name", ["voyage", "cohere", "litellm"])
    def test_budget_without_a_price_is_refused(self, name):
        with pytest.raises(ValueError, match=f"budget_usd needs the price of .*{MODEL}.*pass price="):
            http(name, budget_usd=1.0)

    @pytest.mark.parametrize("name", ["tei", "vllm"])
    def test_budget_of_what_costs_nothing_needs_none(self, name):
        assert http(name, budget_usd=0.0).name == name

    def test_budget_refuses_before_it_is_overspent(self, stage):
        url = stage.address()
        backend = http(url=url, price={"per_search_unit": 0.5}, budget_usd=1.0)
        backend.score(QUERY, DOCUMENTS)
        backend.score(QUERY, DOCUMENTS)
        with pytest.raises(RateLimitError, match="budget_usd=1 is used up"):
            backend.score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 2

    def test_max_calls_refuses_before_one_more(self, stage):
        url = stage.address()
        backend = http(url=url, max_calls=1)
        backend.score(QUERY, DOCUMENTS)
        with pytest.raises(RateLimitError, match="max_calls=1"):
            backend.score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 1

    def test_no_calls_at_all_can_be_allowed(self, stage):
        url = stage.address()
        with pytest.raises(RateLimitError):
            http(url=url, max_calls=0).score(QUERY, DOCUMENTS)
        assert stage.requests(url) == []

    @pytest.mark.parametrize("price", [5, "0.1", ["per_search_unit"], 0.002])
    def test_price_is_a_mapping(self, price):
        with pytest.raises(TypeError, match="price must be"):
            http(price=price)

    @pytest.mark.parametrize("price", [{}, {"per_unit": 1}, {"per_search_unit": "1"}, {"per_search_unit": -1},
                                       {"per_search_unit": True}, {"per_million_tokens": float("nan")},
                                       {"per_search_unit": None}, {1: 2}])  # fmt: skip
    def test_price_of_other_names_or_amounts_is_refused(self, price):
        with pytest.raises(ValueError, match="price must be"):
            http(price=price)


class TestPermanent:
    def test_words_that_say_so_are_believed(self, stage):
        url = stage.address(status(500, "input is too large to process"), dialect="llamacpp")
        with pytest.raises(BackendError, match="too large to process"):
            http("llamacpp", url).score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 1

    @pytest.mark.parametrize(
        ("query", "words"),
        [("process", "input is too large to process"), (QUERY, "word " * 60 + "input is too large to process")],
        ids=["a text of the same word", "late in the body"],
    )
    def test_words_that_say_so_are_found_wherever_they_are(self, stage, query, words):
        url = stage.address(status(500, words), dialect="llamacpp")
        with pytest.raises(BackendError):
            http("llamacpp", url).score(query, ["a", "b"])
        assert len(stage.requests(url)) == 1


def test_every_field_of_a_dialect_is_used():
    """Data that nobody reads is a promise that nobody keeps."""
    code = Path(http_module.__file__).read_text()
    said = {"summary", "source", "read"}
    assert [f.name for f in fields(Dialect) if f.name not in said and not re.search(rf"\.{f.name}\b", code)] == []
