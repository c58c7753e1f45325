"""Cohere's own OpenAPI document has the word: Prism refuses what it does not allow, and answers as it says."""

import asyncio
import json
from contextlib import ExitStack, suppress

import httpx
import pytest
from prism_stage import NEAR, check_outcome, near, prism, result, spec, strict
from relay_stage import Relay

from rerankx import Ranking, Reranker
from rerankx.errors import AuthenticationError, BackendError, RateLimitError, ReplyError

SPEC = spec("cohere-rerank")
KEY = "co-key-that-nobody-may-see"
SPANS = {
    "type": "object",
    "properties": {
        "mode": {"enum": ["enabled", "disabled"]},
        "threshold": {"type": "number"},
        "max_spans": {"type": "integer"},
    },
    "required": ["mode"],
    "additionalProperties": False,
}
"""Of the SDK, 7.3.1; the document is older."""
DOCUMENTS = {
    "one": ["A refund takes five working days."],
    "five": [f"document {i}" for i in range(5)],
    "many": [f"document {i}" for i in range(1000)],
    "unicode": [
        "\N{GRINNING FACE}",
        "كم يستغرق",
        "退款需要多长时间",
        "nul \x00 and \x1b[31m",
        "e\N{COMBINING ACUTE ACCENT}",
    ],
    "half a pair": ["half a pair \ud83d", "whole"],
    "structured": ["title: 'A \"quoted\" title'\nbody: |\n  two\n  lines\n", "{}", "null", "1"],
    "long": ["refund " * 30_000, "short"],
}
OPTIONS = {
    "none": {},
    "max_tokens_per_doc": {"max_tokens_per_doc": 512},
    "highest priority": {"priority": 0},
    "lowest priority": {"priority": 999},
    "spans": {"relevant_spans": True},
    "chosen spans": {"relevant_spans": {"mode": "enabled", "threshold": 0.3, "max_spans": 2}},
    "all": {"max_tokens_per_doc": 32_000, "priority": 5, "relevant_spans": True},
}
# Statuses that the document has a reply for: what is raised, and whether it is worth another try.
FAULTS = {
    400: (BackendError, False),
    401: (AuthenticationError, False),
    403: (AuthenticationError, False),
    404: (BackendError, False),
    422: (BackendError, False),
    429: (RateLimitError, True),
    498: (AuthenticationError, False),
    499: (BackendError, False),
    500: (BackendError, True),
    501: (BackendError, True),
    503: (BackendError, True),
    504: (BackendError, True),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    document = json.loads(SPEC.read_text("utf-8"))
    request = document["paths"]["/v2/rerank"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    strict(request, relevant_spans=SPANS)
    near(document, "/v2/rerank", result("relevance_score"), wrapped=True)
    with prism(document, tmp_path_factory.mktemp("prism")) as served:
        yield served


class Side:
    """One of the two backends that speak Cohere's protocol, asked in one of two ways; `close` ends what it made."""

    def __init__(self, backend: str, how: str):
        self.backend, self.how, self._made = backend, how, ExitStack()

    def reranker(self, address: str, **options: object) -> Reranker:
        given = {"model": "rerank-v3.5", "api_key": KEY, "base_url": address, "max_retries": 0, **options}
        if self.backend == "http":
            body = {k: given.pop(k) for k in ("max_tokens_per_doc", "priority", "relevant_spans") if k in given}
            if body.get("relevant_spans") is True:
                body["relevant_spans"] = {"mode": "enabled"}
            given |= {"dialect": "cohere", "extra": body, "scale": "probability"}
        reranker = Reranker(self.backend, **given)
        self._made.callback(reranker.backend.close)
        return reranker

    def rank(self, reranker: Reranker, documents: list[str], **given: object) -> Ranking:
        query = "how long does a refund take? 退款 \N{GRINNING FACE}"
        if self.how == "sync":
            return reranker.rerank(query, documents, **given)
        return asyncio.run(reranker.arerank(query, documents, **given))

    def close(self):
        self._made.close()


@pytest.fixture(params=["cohere sync", "cohere async", "http sync", "http async"])
def side(request):
    backend, how = request.param.split()
    if backend == "cohere":
        pytest.importorskip("cohere", reason="needs the extra: pip install 'rerankx[cohere]'")
    side = Side(backend, how)
    yield side
    side.close()


def asked(side, server, documents, *, rank=None, **options):
    """Return the one exchange that a ranking takes; what the canned reply makes of it is not looked at."""
    with Relay(server.address) as relay:
        try:
            side.rank(side.reranker(relay.address, **options), documents, **(rank or {}))
        except ReplyError:
            assert len(documents) < 5  # it is about the documents 3, 4 and 0
        (exchange,) = relay.exchanges
    return exchange


@pytest.mark.parametrize("documents", DOCUMENTS.values(), ids=DOCUMENTS)
def test_cohere_takes_every_list_of_documents(side, server, documents):
    exchange = asked(side, server, documents)
    assert (exchange.status, exchange.path) == (200, "/v2/rerank")
    sendable = [text.encode("utf-8", "replace").decode().replace("?", "\ufffd") for text in documents]
    assert [text.replace("?", "\ufffd") for text in exchange.body["documents"]] == sendable


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_cohere_takes_every_option(side, server, options):
    exchange = asked(side, server, DOCUMENTS["five"], **options)
    sent = {**options, "relevant_spans": {"mode": "enabled"}} if options.get("relevant_spans") is True else options
    assert (exchange.status, exchange.body) == (200, {**exchange.body, **sent})


@pytest.mark.parametrize("top_n", [1, 5, 50])
def test_cohere_is_always_asked_for_all_of_them(side, server, top_n):
    exchange = asked(side, server, DOCUMENTS["five"], rank={"top_n": top_n})
    assert (exchange.status, exchange.body.get("top_n", 5)) == (200, 5)


def test_the_key_goes_as_a_bearer(side, server):
    assert asked(side, server, DOCUMENTS["five"]).headers["authorization"] == f"Bearer {KEY}"


def test_what_is_left_out_of_the_reply_stands_unscored_at_the_end(side, server):
    ranking = side.rank(side.reranker(server.address), DOCUMENTS["five"])
    assert [hit.index for hit in ranking] == [3, 4, 0, 1, 2]
    assert [hit.raw_score for hit in ranking] == [0.999071, 0.7867867, 0.32713068, None, None]
    assert ranking.degraded == "incomplete"


def test_what_the_reply_bills_is_the_usage(side, server):
    usage = side.rank(side.reranker(server.address), DOCUMENTS["five"]).usage
    assert (usage.calls, usage.search_units) == (1, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_a_reply_about_other_documents_is_none(side, server, n):
    with pytest.raises(ReplyError):
        side.rank(side.reranker(server.address), DOCUMENTS["five"][:n])


@pytest.mark.parametrize(("status", "expected"), FAULTS.items(), ids=map(str, FAULTS))
def test_each_error_is_the_right_one_after_the_right_number_of_requests(side, server, status, expected):
    kind, again = expected
    with Relay(server.address, add={"Prefer": f"code={status}"}) as relay:
        with pytest.raises(BackendError) as caught:
            side.rank(side.reranker(relay.address, max_retries=1), DOCUMENTS["five"])
        assert {exchange.status for exchange in relay.exchanges} == {status}
        assert len(relay.exchanges) == 1 + again
    assert type(caught.value) is kind
    assert str(status) in str(caught.value)
    assert KEY not in str(caught.value)


def test_a_fault_of_a_moment_is_got_over(side, server):
    with Relay(server.address, add={"Prefer": "code=503"}, times=1) as relay:
        ranking = side.rank(side.reranker(relay.address, max_retries=1), DOCUMENTS["five"])
        assert [exchange.status for exchange in relay.exchanges] == [503, 200]
    assert (ranking[0].index, ranking.usage.calls) == (3, 2)


def test_without_a_bearer_it_is_the_key_that_is_wrong(side, server):
    with Relay(server.address, drop=["Authorization"]) as relay:
        with pytest.raises(AuthenticationError, match="401"):
            side.rank(side.reranker(relay.address, max_retries=2), DOCUMENTS["five"])
        assert len(relay.exchanges) == 1


def test_a_header_of_ones_own_reaches_the_server(server):
    reranker = Reranker(
        "http", dialect="cohere", model="m", api_key=KEY, base_url=server.address, headers={"Prefer": "code=403"}
    )
    with pytest.raises(AuthenticationError, match="403"):
        reranker.rerank("refund", DOCUMENTS["five"])
    reranker.backend.close()


def test_a_client_of_ones_own_is_asked_as_it_is(server):
    cohere = pytest.importorskip("cohere", reason="needs the extra: pip install 'rerankx[cohere]'")
    with httpx.Client(headers={"Prefer": "code=498"}) as http:
        reranker = Reranker("cohere", client=cohere.ClientV2(KEY, base_url=server.address, httpx_client=http))
        with pytest.raises(AuthenticationError, match="498"):
            reranker.rerank("refund", DOCUMENTS["five"])
        reranker.backend.close()


def test_an_async_client_of_ones_own_is_asked_as_it_is(server):
    cohere = pytest.importorskip("cohere", reason="needs the extra: pip install 'rerankx[cohere]'")

    async def run():
        async with httpx.AsyncClient(headers={"Prefer": "code=498"}) as http:
            reranker = Reranker("cohere", client=cohere.AsyncClientV2(KEY, base_url=server.address, httpx_client=http))
            with pytest.raises(AuthenticationError, match="498"):
                await reranker.arerank("refund", DOCUMENTS["five"])
            await reranker.backend.aclose()

    asyncio.run(run())


def test_what_is_made_up_at_random_is_an_error(side, server):
    with Relay(server.address, add={"Prefer": "dynamic=true"}) as relay:
        reranker = side.reranker(relay.address, failure_threshold=None)
        for _ in range(20):
            with suppress(ReplyError):
                ranking = side.rank(reranker, DOCUMENTS["five"])
                # Indices and scores run to millions and 10^38: only an empty list is about these documents.
                assert relay.exchanges[-1].reply["results"] == []
                assert {hit.raw_score for hit in ranking} == {None}
        assert [exchange.status for exchange in relay.exchanges] == [200] * 20


def test_what_is_nearly_a_reply_is_an_error_or_the_ranking_that_it_says(side, server):
    outcomes = set()
    with Relay(server.address, add={"Prefer": "dynamic=true"}) as relay:
        reranker = side.reranker(relay.address + NEAR, failure_threshold=None)
        for _ in range(60):
            try:
                ranking = side.rank(reranker, DOCUMENTS["five"][:4])
            except ReplyError:
                ranking = None
            check_outcome(ranking, relay.exchanges[-1].reply["results"], "relevance_score")
            outcomes.add(ranking is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"top_n": 0},
        {"top_n": "5"},
        {"priority": 1000},
        {"max_tokens_per_doc": "512"},
        {"relevant_spans": True},
        {"documents": [{"text": "a"}]},
        {"documents": "a"},
        {"model": None},
        {"query": ["a"]},
        {"return_documents": False},
        {"max_tokens_per_document": 512},
    ],
    ids=json.dumps,
)
def test_a_request_that_is_not_cohere_s_is_refused(server, wrong):
    body = {"model": "m", "query": "q", "documents": ["a"], **wrong}
    with httpx.Client(headers={"Authorization": "Bearer key"}) as client:
        assert client.post(f"{server.address}/v2/rerank", json=body).status_code == 422


def test_a_request_that_we_make_wrong_is_refused(server):
    with Relay(server.address) as relay:
        side = Side("http", "sync")
        with pytest.raises(BackendError, match="422"):
            side.rank(side.reranker(relay.address, max_tokens_per_doc="512", max_retries=2), DOCUMENTS["five"])
        side.close()
        assert [exchange.status for exchange in relay.exchanges] == [422]
