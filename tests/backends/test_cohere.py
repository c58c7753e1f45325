"""`Cohere`: what its SDK sends for us, what we make of its replies and errors, and clients that are given."""

import asyncio
import copy
import json
import pickle
import threading
import warnings
from types import SimpleNamespace

import pytest

pytest.importorskip("cohere", reason="needs the extra: pip install 'rerankx[cohere]'")

import cohere
import httpx
from backend_stage import DOCUMENTS, KEY, QUERY, alone, held_in, told
from fault_stage import FaultStage, body, good, half_a_body, held, redirect, reset, slow_first_byte, status, wait_until

from rerankx import AuthenticationError, BackendError, DeadlineError, RateLimitError, ReplyError, Reranker, Scale
from rerankx.backends import cohere as cohere_module
from rerankx.catalogue.prices import PRICES

api_error = pytest.importorskip("cohere.core.api_error")
Cohere = cohere_module.Cohere
DEFAULT = cohere_module.DEFAULT
BROKEN = "kanarienvogel\nwellensittich"
BY_UNIT, BY_TOKEN = "rerank-v3.5", "rerank-v5.0-pro"


@pytest.fixture(scope="module")
def stage():
    with FaultStage() as stage:
        yield stage


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch):
    alone(monkeypatch)


def asked(url, **options):
    return Cohere(**{"base_url": url, "api_key": KEY, **options})


SDK_CLIENTS = {"ClientV2": httpx.Client, "AsyncClientV2": httpx.AsyncClient}


def sdk(kind, url, key=KEY):
    """Return a client of the SDK's that leaves no connection open."""
    none = httpx.Limits(max_keepalive_connections=0)
    return getattr(cohere, kind)(key, base_url=url, httpx_client=SDK_CLIENTS[kind](limits=none))


class TestRequest:
    def test_is_the_sdks(self, stage):
        url = stage.address()
        asked(url).score(QUERY, DOCUMENTS)
        (request,) = stage.requests(url)
        assert request.path == "/v2/rerank"
        assert request.body == {"model": DEFAULT, "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
        assert request.headers["authorization"] == f"Bearer {KEY}"
        assert request.headers["content-type"] == "application/json"
        assert request.headers["x-client-name"] == "rerankx"
        assert request.headers["accept-encoding"] == "identity"

    @pytest.mark.parametrize("given", [{"max_tokens_per_doc": 512}, {"priority": 0}, {"priority": 999}])
    def test_holds_what_is_given(self, stage, given):
        url = stage.address()
        asked(url, **given).score(QUERY, DOCUMENTS)
        expected = {"model": DEFAULT, "query": QUERY, "documents": DOCUMENTS, "top_n": 3, **given}
        assert stage.requests(url)[0].body == expected

    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (True, {"mode": "enabled"}),
            ({}, {"mode": "enabled"}),
            ({"threshold": 0.2, "max_spans": 3}, {"mode": "enabled", "threshold": 0.2, "max_spans": 3}),
            ({"mode": "disabled"}, {"mode": "disabled"}),
        ],
    )
    def test_asks_for_relevant_spans(self, stage, given, expected):
        url = stage.address()
        asked(url, relevant_spans=given).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].body["relevant_spans"] == expected

    @pytest.mark.parametrize("client", SDK_CLIENTS)
    def test_of_a_client_that_is_given_holds_the_same(self, stage, client):
        url = stage.address()
        given = {"max_tokens_per_doc": 5, "priority": 3, "relevant_spans": True}
        Cohere("some-model", client=sdk(client, url), **given).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].body == {
            "model": "some-model", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "max_tokens_per_doc": 5, "priority": 3,
            "relevant_spans": {"mode": "enabled"},
        }  # fmt: skip

    def test_top_n_is_the_number_of_documents_whatever_the_caller_keeps(self, stage):
        url = stage.address()
        assert len(Reranker(asked(url)).rerank(QUERY, DOCUMENTS, top_n=1)) == 1
        assert stage.requests(url)[0].body["top_n"] == 3

    @pytest.mark.parametrize("text", ["a\x00b", "👩‍🚀 𝄞", '"quoted" \\ back', "a\u2028b\x85c"])
    def test_text_arrives_as_it_is(self, stage, text):
        url = stage.address()
        asked(url).score(f"q {text}", [text, "other"])
        (request,) = stage.requests(url)
        assert (request.body["query"], request.body["documents"]) == (f"q {text}", [text, "other"])

    def test_half_a_surrogate_pair_becomes_a_question_mark(self, stage):
        url = stage.address()
        asked(url).score("q \udc00", ["half \ud83d here"])
        (request,) = stage.requests(url)
        assert (request.body["query"], request.body["documents"]) == ("q ?", ["half ? here"])

    def test_more_than_1000_documents_go_in_several(self, stage):
        url = stage.address(scorer=lambda _query, texts: [int(text.split()[1]) / 10_000 for text in texts])
        scores = asked(url, model=BY_UNIT).score("q", [f"text {i}" for i in range(2005)])
        assert sorted(len(request.body["documents"]) for request in stage.requests(url)) == [5, 1000, 1000]
        assert scores.values == tuple(i / 10_000 for i in range(2005))
        assert (scores.usage.calls, scores.usage.search_units) == (3, 3)

    def test_exactly_1000_go_in_one(self, stage):
        url = stage.address()
        asked(url).score("q", [f"text {i}" for i in range(1000)])
        assert len(stage.requests(url)) == 1

    def test_scores_stay_with_their_documents(self, stage):
        url = stage.address(scorer=[0.2, 0.9, 0.4])
        ranking = Reranker(asked(url)).rerank(QUERY, DOCUMENTS)
        assert [(hit.index, hit.score) for hit in ranking] == [(1, 0.9), (2, 0.4), (0, 0.2)]

    def test_order_of_the_server_breaks_ties(self, stage):
        results = [{"index": i, "relevance_score": 1.0} for i in (1, 2, 0)]
        url = stage.address(body(json.dumps({"results": results}).encode()))
        assert [hit.index for hit in Reranker(asked(url)).rerank(QUERY, DOCUMENTS)] == [1, 2, 0]

    def test_missing_indices_are_unscored_and_last(self, stage):
        url = stage.address(body(b'{"results": [{"index": 2, "relevance_score": 0.1}]}'))
        ranking = Reranker(asked(url)).rerank(QUERY, DOCUMENTS)
        assert ([hit.index for hit in ranking], ranking.degraded) == ([2, 0, 1], "incomplete")

    def test_as_yaml_is_a_key(self, stage):
        from rerankx.structured import as_yaml

        url = stage.address()
        Reranker(asked(url)).rerank("q", [{"title": "Ä", "body": "one\ntwo"}], key=as_yaml)
        assert stage.requests(url)[0].body["documents"] == [as_yaml({"title": "Ä", "body": "one\ntwo"})]


class TestAddress:
    def test_is_coheres_own(self):
        assert asked(None).describe()["address"] == "https://api.cohere.com"

    @pytest.mark.parametrize("suffix", ["", "/"])
    def test_prefix_of_base_url_is_kept(self, stage, suffix):
        url = stage.address()  # it has a prefix
        asked(url + suffix).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].path == "/v2/rerank"

    def test_comes_from_the_environment_as_it_is_now(self, stage, monkeypatch):
        url = stage.address()
        monkeypatch.setenv("CO_API_URL", url)
        Cohere(api_key=KEY).score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 1

    def test_that_is_given_wins(self, stage, monkeypatch):
        monkeypatch.setenv("CO_API_URL", "http://127.0.0.1:9")
        url = stage.address()
        asked(url).score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 1

    @pytest.mark.parametrize("base_url", ["https://user:geheim@host", "https://host?key=geheim", "https://host#geheim"])
    def test_secrets_have_no_place_in_it(self, base_url):
        with pytest.raises(ValueError, match="base_url of 'cohere'") as caught:
            asked(base_url)
        assert "geheim" not in told(caught.value)

    def test_whole_address_is_understood_as_http_understands_it(self, stage):
        url = stage.address()
        asked(url + "/v2/rerank").score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].path == "/v2/rerank"

    def test_of_the_environment_does_not_matter_to_a_client_that_is_given(self, monkeypatch):
        monkeypatch.setenv("CO_API_URL", "nonsense")
        assert Cohere(client=sdk("ClientV2", "http://127.0.0.1:9")).name == "cohere"

    def test_redirect_is_not_followed(self, stage):
        url, strays = stage.address(redirect()), stage.strays
        with pytest.raises(BackendError, match="redirects are not followed"):
            asked(url).score(QUERY, DOCUMENTS)
        assert (len(stage.requests(url)), stage.strays) == (1, strays)


class TestKey:
    @pytest.mark.parametrize("variable", ["CO_API_KEY", "COHERE_API_KEY"])
    def test_comes_from_either_variable(self, stage, variable, monkeypatch):
        monkeypatch.setenv(variable, " from-the-environment\n")
        url = stage.address()
        asked(url, api_key=None).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].headers["authorization"] == "Bearer from-the-environment"

    def test_first_variable_wins_unless_it_is_blank(self, stage, monkeypatch):
        monkeypatch.setenv("CO_API_KEY", "one")
        monkeypatch.setenv("COHERE_API_KEY", "two")
        url = stage.address()
        asked(url, api_key=None).score(QUERY, DOCUMENTS)
        monkeypatch.setenv("CO_API_KEY", "\n")
        asked(url, api_key=None).score(QUERY, DOCUMENTS)
        assert [r.headers["authorization"] for r in stage.requests(url)] == ["Bearer one", "Bearer two"]

    def test_that_is_given_wins(self, stage, monkeypatch):
        monkeypatch.setenv("CO_API_KEY", "one")
        url = stage.address()
        asked(url).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize("key", [None, "", " \n"])
    def test_missing_names_the_variables(self, key):
        with pytest.raises(AuthenticationError, match="pass api_key=, or set CO_API_KEY or COHERE_API_KEY"):
            Cohere(api_key=key)

    def test_may_be_a_secret_str(self, stage):
        from pydantic import SecretStr

        url = stage.address()
        asked(url, api_key=SecretStr(KEY + "\n")).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize("key", [5, b"key", lambda: KEY])
    def test_of_another_type_is_refused(self, key):
        with pytest.raises(TypeError, match="api_key must be a string"):
            Cohere(api_key=key)

    def test_that_no_header_can_hold_is_refused_at_once_and_not_shown(self):
        with pytest.raises(AuthenticationError, match="no header can hold") as caught:
            Cohere(api_key=BROKEN)
        assert held_in(told(caught.value), "wellensittich") is None

    @pytest.mark.parametrize("client", SDK_CLIENTS)
    def test_of_a_client_that_no_header_can_hold_is_not_shown(self, client):
        with pytest.raises(BackendError) as caught:
            Cohere(client=sdk(client, "http://127.0.0.1:9", BROKEN)).score(QUERY, DOCUMENTS)
        assert held_in(told(caught.value), "wellensittich") is None

    @pytest.mark.parametrize("client", SDK_CLIENTS)
    def test_of_a_client_that_is_given_is_in_no_message(self, stage, client):
        short = "geheim-passwort"  # below the length at which words are left out whatever they are
        words = json.dumps({"message": f"invalid token {short}"}).encode()
        given = sdk(client, stage.address(body(words, 401)), short)
        with pytest.raises(AuthenticationError) as caught:
            Cohere(client=given).score(QUERY, DOCUMENTS)
        assert held_in(told(caught.value), short) is None


def answered(results, **more):
    return body(json.dumps({"results": results, **more}).encode())


class TestSpans:
    TEXT = "𝄞 Ein 👩‍🚀 Rückgeld braucht eine Woche."

    def test_are_in_the_details_of_the_hit(self, stage):
        start = self.TEXT.index("Rückgeld")
        spans = [{"start": start, "end": start + 8, "score": 0.93}, {"start": 0, "end": 1, "score": 0.2}]
        results = [{"index": 1, "relevance_score": 0.9, "relevant_spans": spans}, {"index": 0, "relevance_score": 0.1}]
        url = stage.address(answered(results))
        ranking = Reranker(asked(url, relevant_spans=True)).rerank("q", ["other", self.TEXT])
        assert ranking[0].details == {"relevant_spans": spans}
        assert [ranking[0].text[s["start"] : s["end"]] for s in spans] == ["Rückgeld", "𝄞"]
        assert ranking[1].details is None

    def test_are_plain_data(self, stage):
        results = [{"index": 0, "relevance_score": 0.9, "relevant_spans": [{"start": 0, "end": 1, "score": 0.5}]}]
        scores = asked(stage.address(answered(results)), relevant_spans=True).score("q", ["a"])
        assert json.loads(json.dumps(scores.details)) == [{"relevant_spans": [{"start": 0, "end": 1, "score": 0.5}]}]

    @pytest.mark.parametrize("spans", [None, [], "x", 5, {}])
    def test_none_make_no_details(self, stage, spans):
        results = [{"index": 0, "relevance_score": 0.9, "relevant_spans": spans}]
        assert asked(stage.address(answered(results))).score("q", ["a"]).details is None

    @pytest.mark.parametrize("spans", [["x"], [5], [None], [{}], [{"start": "a"}]])
    def test_that_are_none_are_left_out(self, stage, spans):
        results = [{"index": 0, "relevance_score": 0.9, "relevant_spans": spans}]
        assert asked(stage.address(answered(results))).score("q", ["a"]).details is None

    def test_stay_with_their_documents_when_split(self, stage, monkeypatch):
        monkeypatch.setattr(cohere_module, "_MAX_DOCUMENTS", 2)

        def reply(exchange):
            texts = exchange.texts
            results = [
                {
                    "index": i,
                    "relevance_score": 0.5,
                    "relevant_spans": [{"start": 0, "end": len(texts[i]), "score": 0.5}],
                }
                for i in reversed(range(len(texts)))
            ]
            return json.dumps({"results": results}).encode()

        ranking = Reranker(asked(stage.address(body(reply)))).rerank("q", ["a", "bb", "ccc", "dddd", "eeeee"])
        assert {(hit.text, hit.details["relevant_spans"][0]["end"]) for hit in ranking} == {
            ("a", 1), ("bb", 2), ("ccc", 3), ("dddd", 4), ("eeeee", 5),
        }  # fmt: skip


class TestOptions:
    @pytest.mark.parametrize("value", ["yes", 1, 0, None, ["mode"]])
    def test_relevant_spans_is_a_bool_or_a_mapping(self, value):
        with pytest.raises(TypeError, match="relevant_spans must be True, False or a mapping"):
            asked(None, relevant_spans=value)

    @pytest.mark.parametrize(("option", "value"), [("priority", -1), ("priority", 1000), ("max_tokens_per_doc", 0),
                                                   ("max_tokens_per_doc", -5)])  # fmt: skip
    def test_number_out_of_range_is_refused(self, option, value):
        with pytest.raises(ValueError, match=f"{option} must be"):
            asked(None, **{option: value})

    @pytest.mark.parametrize("option", ["priority", "max_tokens_per_doc"])
    @pytest.mark.parametrize("value", ["5", True, 2.5])
    def test_number_of_another_type_is_refused(self, option, value):
        with pytest.raises(TypeError, match=f"{option} must be a whole number"):
            asked(None, **{option: value})

    @pytest.mark.parametrize("model", [None, 5, ""])
    def test_model_is_a_name(self, model):
        with pytest.raises((TypeError, ValueError), match="model"):
            asked(None, model=model)

    @pytest.mark.parametrize(("option", "value", "error"), [("timeout_s", 0, ValueError), ("deadline_s", "1", TypeError),
                                                            ("max_retries", -1, ValueError), ("max_calls", 1.5, TypeError),
                                                            ("budget_usd", -1, ValueError)])  # fmt: skip
    def test_those_of_all_network_backends_are_checked(self, option, value, error):
        with pytest.raises(error, match=option):
            asked(None, **{option: value})

    def test_wrong_one_names_the_nearest(self):
        with pytest.raises(TypeError, match="backend 'cohere' has no option 'max_tokens_per_document'; did you mean"):
            Reranker("cohere", api_key=KEY, max_tokens_per_document=5)

    def test_is_what_the_name_makes(self):
        backend = Reranker("cohere:rerank-v3.5", api_key=KEY).backend
        assert (type(backend), backend.model, backend.scale, backend.pointwise) == (
            Cohere, "rerank-v3.5", Scale.PROBABILITY, True,
        )  # fmt: skip

    def test_default_model_is_one_with_a_price(self):
        assert f"cohere:{DEFAULT}" in PRICES


class Fake:
    """A client as those of the SDK for Amazon's clouds: synchronous, and its accounts are not to be relied on."""

    def __init__(self, results=None, meta=None):
        self.results, self.meta, self.asked = results, meta, []

    def rerank(self, **request):
        self.asked.append(request)
        results = [SimpleNamespace(index=i, relevance_score=0.5) for i in range(len(request["documents"]))]
        return SimpleNamespace(results=results if self.results is None else self.results, meta=self.meta)


def meta(**billed):
    return SimpleNamespace(billed_units=SimpleNamespace(**billed), tokens=SimpleNamespace(input_tokens=-1))


WAYS = {
    "sync": lambda backend, *args: backend.score(*args),
    "async": lambda backend, *args: asyncio.run(backend.ascore(*args)),
}


@pytest.fixture(params=WAYS.values(), ids=list(WAYS))
def score(request):
    return request.param


class TestClient:
    @pytest.mark.parametrize("client", SDK_CLIENTS)
    def test_of_the_sdk_is_used(self, stage, client, score):
        url = stage.address(scorer=[0.2, 0.9, 0.4])
        scores = score(Cohere(client=sdk(client, url)), QUERY, DOCUMENTS)
        assert scores.values == (0.2, 0.9, 0.4)
        assert stage.requests(url)[0].headers["authorization"] == f"Bearer {KEY}"

    @pytest.mark.parametrize("client", SDK_CLIENTS)
    def test_of_another_address_is_used_there(self, stage, client):
        url = stage.address()  # as of Azure: an address with a path
        given = sdk(client, url + "/")
        Cohere("its-model", client=given).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].body["model"] == "its-model"

    def test_of_amazons_clouds_tells_no_amounts(self, score):
        client = Fake(meta=meta(search_units=None, input_tokens=-1))
        usage = score(Cohere("cohere.rerank-v3-5:0", client=client), QUERY, DOCUMENTS).usage
        assert (usage.calls, usage.search_units, usage.estimated) == (1, 1, True)
        assert usage.input_tokens is None

    def test_of_amazons_clouds_with_a_model_that_is_paid_by_tokens(self):
        usage = Cohere(BY_TOKEN, client=Fake(meta=meta(input_tokens=-1))).score(QUERY, DOCUMENTS).usage
        assert (usage.search_units, usage.estimated) == (0, True)
        assert 0 < usage.input_tokens < 1000
        assert usage.cost_usd > 0

    @pytest.mark.parametrize("client", ["key", 5, object(), SimpleNamespace(rerank="no"), {}])
    def test_that_is_none_is_refused(self, client):
        with pytest.raises(TypeError, match="client must be one of Cohere's SDK"):
            Cohere(client=client)

    @pytest.mark.parametrize("option", [{"api_key": KEY}, {"base_url": "http://host"}, {"api_key": ""}])
    def test_goes_with_neither_key_nor_address(self, option):
        with pytest.raises(TypeError, match="api_key and base_url belong to the client"):
            Cohere(client=Fake(), **option)

    def test_needs_no_key(self):
        assert Cohere(client=Fake()).score(QUERY, DOCUMENTS).usage.calls == 1

    def test_may_be_false(self):
        class Empty(Fake):
            def __len__(self):
                return 0

        assert Cohere(client=Empty()).score(QUERY, DOCUMENTS).usage.calls == 1

    def test_is_asked_without_retries_of_its_own(self):
        client = Fake()
        Cohere(client=client).score(QUERY, DOCUMENTS)
        assert client.asked[0]["request_options"]["max_retries"] == 0

    def test_is_told_when_a_thread_has_to_end(self):
        client = Fake()
        Cohere(client=client, timeout_s=7.5).score(QUERY, DOCUMENTS)
        Cohere(client=client, timeout_s=7.5, deadline_s=2.5).score(QUERY, DOCUMENTS)
        Cohere(client=client, deadline_s=0.5).score(QUERY, DOCUMENTS)
        assert [asked["request_options"]["timeout_in_seconds"] for asked in client.asked] == [8, 3, 1]

    def test_may_be_asynchronous_without_saying_so(self):
        made = []

        class Wrapped(Fake):
            def rerank(self, **request):
                async def rerank():
                    return Fake.rerank(self, **request)

                made.append(rerank())
                return made[-1]

        try:
            assert Cohere(client=Wrapped(), max_retries=0).score(QUERY, DOCUMENTS).usage.calls == 1
        finally:
            for coroutine in made:
                coroutine.close()

    def test_may_be_asynchronous(self, score):
        class Async(Fake):
            async def rerank(self, **request):
                return super().rerank(**request)

        assert score(Cohere(client=Async()), QUERY, DOCUMENTS).values == (0.5, 0.5, 0.5)

    def test_synchronous_one_is_left_at_the_deadline(self, stage, score):
        url = stage.address(slow_first_byte())
        with pytest.raises(DeadlineError):
            score(Cohere(client=sdk("ClientV2", url), deadline_s=0.2), QUERY, DOCUMENTS)
        assert len(stage.requests(url)) <= 1

    def test_synchronous_one_ends_by_a_clock_of_its_own(self, stage):
        url = stage.address(slow_first_byte())
        with pytest.raises(DeadlineError):
            Cohere(client=sdk("ClientV2", url), deadline_s=0.2).score(QUERY, DOCUMENTS)
        wait_until(lambda: all(request.hung_up for request in stage.requests(url)), "the end of what nobody waits for")

    def test_synchronous_one_does_not_block_the_event_loop(self):
        gate = threading.Event()

        class Waiting(Fake):
            def rerank(self, **request):
                assert gate.wait(30)
                return super().rerank(**request)

        async def main():
            ranking = asyncio.ensure_future(Cohere(client=Waiting()).ascore(QUERY, DOCUMENTS))
            await asyncio.sleep(0.01)
            gate.set()  # which only this loop can
            return await ranking

        assert asyncio.run(main()).values == (0.5, 0.5, 0.5)

    def test_synchronous_one_is_asked_by_as_many_threads_as_requests_are_allowed(self):
        n, together = 40, threading.Barrier(40, timeout=1)

        class Together(Fake):
            def rerank(self, **request):
                together.wait()
                return super().rerank(**request)

        async def main():
            backend = Cohere(client=Together(), max_concurrency=n, max_retries=0, failure_threshold=None)
            return await asyncio.gather(*(backend.ascore(QUERY, DOCUMENTS) for _ in range(n)))

        assert len(asyncio.run(main())) == n

    def test_does_not_pickle(self):
        with pytest.raises(TypeError, match="does not pickle"):
            pickle.dumps(Cohere(client=Fake()))

    def test_is_shared_by_a_deep_copy(self):
        client = Fake()
        copy.deepcopy(Cohere("m", client=client)).score(QUERY, DOCUMENTS)
        assert client.asked[0]["model"] == "m"

    def test_stays_open_when_the_backend_is_closed(self, stage):
        url = stage.address()
        backend = Cohere(client=sdk("ClientV2", url))
        backend.score(QUERY, DOCUMENTS)
        backend.close()
        assert backend.score(QUERY, DOCUMENTS).usage.calls == 1

    def test_says_in_the_description_what_it_is(self):
        assert Cohere(client=Fake()).describe()["address"] == "somewhere by Fake"

    @pytest.mark.parametrize("results", [None, 5, "x", {}, ({},)], ids=repr)
    def test_that_returns_nonsense_is_an_error(self, results):
        client = Fake()
        client.rerank = lambda **_: SimpleNamespace(results=results)
        with pytest.raises(ReplyError, match="no list of results"):
            Cohere(client=client).score(QUERY, DOCUMENTS)

    def test_that_raises_something_is_an_error_without_its_words(self):
        class Broken(Fake):
            def rerank(self, **request):
                raise RuntimeError(f"boto3 says {KEY}")

        with pytest.raises(BackendError, match="RuntimeError") as caught:
            Cohere(client=Broken()).score(QUERY, DOCUMENTS)
        assert held_in(told(caught.value)) is None


class TestRetries:
    @pytest.mark.parametrize("client", [None, *SDK_CLIENTS])
    @pytest.mark.parametrize(
        "behaviour",
        [*(status(code, Retry_After="0") for code in (408, 409, 429, 500, 503)), reset(), half_a_body()],
        ids=["408", "409", "429", "500", "503", "reset", "half a body"],
    )
    @pytest.mark.parametrize("retries", [0, 2])
    def test_are_ours_alone(self, stage, client, behaviour, retries):
        url = stage.address(behaviour)
        given = {"base_url": url, "api_key": KEY} if client is None else {"client": sdk(client, url)}
        with pytest.raises(BackendError):
            Cohere(**given, max_retries=retries).score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 1 + retries

    @pytest.mark.parametrize("client", [None, *SDK_CLIENTS])
    def test_stop_with_the_first_answer(self, stage, client):
        url = stage.address(status(500), good())
        given = {"base_url": url, "api_key": KEY} if client is None else {"client": sdk(client, url)}
        scores = Cohere(**given).score(QUERY, DOCUMENTS)
        assert (scores.usage.calls, len(stage.requests(url))) == (2, 2)

    def test_wait_as_the_service_asks(self, stage):
        url = stage.address(status(429, Retry_After="3600"))
        with pytest.raises(RateLimitError, match="3600 s"):
            asked(url).score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 1


class TestErrors:
    @pytest.mark.parametrize(
        ("code", "error"),
        [
            *(
                (code, BackendError)
                for code in (400, 404, 405, 408, 409, 413, 418, 422, 499, 500, 501, 502, 503, 504, 529)
            ),
            *((code, AuthenticationError) for code in (401, 403, 498)),
            *((code, RateLimitError) for code in (402, 429)),
        ],
    )
    @pytest.mark.parametrize("client", [None, *SDK_CLIENTS])
    def test_of_the_sdk_are_ours(self, stage, code, error, client):
        url = stage.address(status(code, "that will not do"))
        given = {"base_url": url, "api_key": KEY} if client is None else {"client": sdk(client, url)}
        with pytest.raises(BackendError, match=f"HTTP {code}.*that will not do") as caught:
            Cohere(**given, max_retries=0).score(QUERY, DOCUMENTS)
        assert type(caught.value) is error
        assert not any(type(e).__module__.startswith("cohere") for e in _chain(caught.value))

    @pytest.mark.parametrize("content", [b"<html>", b"", b"[]", b"null", b"{}", b'{"data": []}', b'{"results": null}'])
    @pytest.mark.parametrize("client", [None, *SDK_CLIENTS])
    def test_reply_that_is_none_is_one(self, stage, content, client):
        url = stage.address(body(content))
        given = {"base_url": url, "api_key": KEY} if client is None else {"client": sdk(client, url)}
        with pytest.raises(ReplyError):
            Cohere(**given).score(QUERY, DOCUMENTS)
        assert len(stage.requests(url)) == 1

    def test_of_no_json_keep_the_words(self, stage):
        url = stage.address(body(b"<html>Bad Gateway</html>", 502))
        with pytest.raises(BackendError, match=r"HTTP 502 \(<html>Bad Gateway</html>\)"):
            asked(url, max_retries=0).score(QUERY, DOCUMENTS)

    @pytest.mark.parametrize(
        "text",
        [
            "Refunds take a week, said the museum.",
            'say "please" to\nthe museum',
        ],
    )
    def test_quote_no_document(self, stage, text):
        url = stage.address(body(json.dumps({"message": f"bad document: {text}"}).encode(), 400))
        with pytest.raises(BackendError) as caught:
            asked(url).score(QUERY, [text])
        assert "museum" not in str(caught.value)


def _chain(error):
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class TestUsage:
    def bill(self, stage, model, billed, **options):
        results = [{"index": i, "relevance_score": 0.5} for i in range(3)]
        url = stage.address(answered(results, meta={"billed_units": billed}))
        return asked(url, model=model, **options).score(QUERY, DOCUMENTS).usage

    def test_units_are_those_of_the_reply(self, stage):
        usage = self.bill(stage, BY_UNIT, {"search_units": 2})
        assert (usage.search_units, usage.cost_usd, usage.estimated) == (2, 0.004, False)

    def test_tokens_are_those_of_the_reply(self, stage):
        usage = self.bill(stage, BY_TOKEN, {"input_tokens": 1_000_000})
        assert (usage.input_tokens, usage.search_units, usage.cost_usd, usage.estimated) == (1_000_000, 0, 0.05, False)

    @pytest.mark.parametrize(
        "billed", [None, {}, {"search_units": None}, {"search_units": -1}, {"search_units": "x"}, [], "x"]
    )
    def test_units_are_estimated_where_the_reply_has_none(self, stage, billed):
        usage = self.bill(stage, BY_UNIT, billed)
        assert (usage.search_units, usage.cost_usd, usage.estimated) == (1, 0.002, True)

    @pytest.mark.parametrize(
        "billed", [None, {}, {"search_units": 1}, {"input_tokens": -1}, {"input_tokens": 0.5j.imag * -1}]
    )
    def test_tokens_are_estimated_where_the_reply_has_none(self, stage, billed):
        usage = self.bill(stage, BY_TOKEN, billed)
        assert usage.estimated is True
        assert 0 < usage.input_tokens < 1000

    def test_amount_beyond_floats_does_not_cost_the_scores(self, stage):
        assert self.bill(stage, BY_TOKEN, {"input_tokens": 10**400}).calls == 1

    def test_model_without_a_price_costs_nobody_knows_what(self, stage):
        usage = self.bill(stage, "rerank-v9", {"search_units": 1})
        assert (usage.search_units, usage.cost_usd) == (1, None)

    def test_price_that_is_given_counts(self, stage):
        assert self.bill(stage, "rerank-v9", {"search_units": 3}, price={"per_search_unit": 0.5}).cost_usd == 1.5

    def test_budget_without_a_price_is_refused(self):
        with pytest.raises(ValueError, match="budget_usd needs the price of cohere:rerank-v9"):
            asked(None, model="rerank-v9", budget_usd=1.0)

    @pytest.mark.parametrize("name", [name for name in PRICES if name.startswith("cohere:")])
    def test_every_model_with_a_price_can_have_a_budget(self, name):
        assert asked(None, model=name.partition(":")[2], budget_usd=1.0).spent.cost_usd == 0.0

    def test_long_texts_count_as_several_when_estimated(self, stage):
        results = [{"index": i, "relevance_score": 0.5} for i in range(60)]
        url = stage.address(answered(results))
        usage = asked(url, model=BY_UNIT).score("q", ["word " * 500] * 60).usage
        assert (usage.search_units, usage.estimated) == (2, True)


class TestCopies:
    def test_pickle_holds_no_key_and_reads_the_environment(self, monkeypatch):
        backend = asked(None, model=BY_UNIT, relevant_spans={"max_spans": 2}, max_tokens_per_doc=7)
        written = pickle.dumps(backend)
        assert held_in(written.decode("latin-1")) is None
        with pytest.raises(AuthenticationError):
            pickle.loads(written)
        monkeypatch.setenv("COHERE_API_KEY", "there")
        again = pickle.loads(written)
        assert (again.model, again.fingerprint, again._body) == (backend.model, backend.fingerprint, backend._body)

    def test_deepcopy_keeps_the_key(self, stage):
        url = stage.address()
        copy.deepcopy(asked(url)).score(QUERY, DOCUMENTS)
        assert stage.requests(url)[0].headers["authorization"] == f"Bearer {KEY}"

    def test_repr_and_description_hold_no_key(self):
        backend = asked(None)
        assert held_in(repr(backend) + json.dumps(backend.describe()) + backend.fingerprint) is None


class TestFingerprint:
    @pytest.mark.parametrize(
        "changed",
        [
            {"model": BY_UNIT},
            {"base_url": "http://other"},
            {"max_tokens_per_doc": 5},
            {"relevant_spans": True},
            {"relevant_spans": {"max_spans": 2}},
        ],
        ids=repr,
    )
    def test_changes_with_what_changes_a_score_or_its_spans(self, changed):
        assert asked(
            **{"url": None, **changed} if "base_url" not in changed else {"url": "http://other"}
        ).fingerprint != (asked(None).fingerprint)

    @pytest.mark.parametrize(
        "changed", [{"api_key": "other"}, {"timeout_s": 1.0}, {"priority": 5}, {"deadline_s": 1.0}], ids=repr
    )
    def test_does_not_change_with_what_changes_none(self, changed):
        assert asked(None, **changed).fingerprint == asked(None).fingerprint

    def test_differs_for_clients_of_different_addresses(self):
        one, other = (Cohere("m", client=sdk("ClientV2", f"http://{host}")) for host in ("one", "other"))
        assert one.fingerprint != other.fingerprint


class TestLoops:
    def test_each_has_connections_of_its_own(self, stage):
        url = stage.address()
        backend = asked(url)
        for _ in range(3):
            assert asyncio.run(backend.ascore(QUERY, DOCUMENTS)).usage.calls == 1
        assert backend.score(QUERY, DOCUMENTS).usage.calls == 1
        assert len({request.connection for request in stage.requests(url)}) == 4

    def test_connection_is_used_again_within_one(self, stage):
        url = stage.address()
        backend = asked(url)

        async def main():
            for _ in range(3):
                await backend.ascore(QUERY, DOCUMENTS)

        asyncio.run(main())
        assert len({request.connection for request in stage.requests(url)}) == 1

    def test_nothing_stays_open_after_one(self, stage):
        url = stage.address()
        asyncio.run(asked(url).ascore(QUERY, DOCUMENTS))
        wait_until(lambda: stage.connections_open(url) == 0, "the end of the connection")

    def test_several_at_the_same_time(self, stage):
        gate = threading.Event()
        url = stage.address(held(gate))
        backend, results = asked(url), []
        threads = [
            threading.Thread(target=lambda: results.append(asyncio.run(backend.ascore(QUERY, DOCUMENTS))))
            for _ in range(5)
        ]
        for thread in threads:
            thread.start()
        stage.wait_for(url, 5)
        gate.set()
        for thread in threads:
            thread.join(30)
        assert [scores.usage.calls for scores in results] == [1] * 5

    def test_sync_call_works_inside_of_one(self, stage):
        backend = asked(stage.address())

        async def main():
            return backend.score(QUERY, DOCUMENTS)

        assert asyncio.run(main()).usage.calls == 1

    @pytest.mark.parametrize("client", [None, "ClientV2"])
    def test_cancelled_task_leaves_nothing_behind(self, stage, client):
        url = stage.address(slow_first_byte(), good())
        backend = asked(url) if client is None else Cohere(client=sdk(client, url), timeout_s=1)

        async def main():
            task = asyncio.ensure_future(backend.ascore(QUERY, DOCUMENTS))
            while not (stage.requests(url) or task.done()):
                await asyncio.sleep(0.005)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await backend.ascore(QUERY, DOCUMENTS)

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert asyncio.run(main()).usage.calls == 1
        assert backend._policy.slots._free == backend._policy.max_concurrency
