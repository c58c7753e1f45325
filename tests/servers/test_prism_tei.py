"""The OpenAPI document of text-embeddings-inference has the word: Prism refuses what it does not allow."""

import asyncio
import json

import httpx
import pytest
from prism_stage import NEAR, check_outcome, near, prism, result, spec, strict
from relay_stage import Relay

from rerankx import Reranker
from rerankx.errors import BackendError, RateLimitError, ReplyError

SPEC = spec("tei-rerank")
DOCUMENTS = [f"document {i}" for i in range(4)]
# Statuses that the document has a reply for: what is raised, and whether it is worth another try.
FAULTS = {
    400: (BackendError, False),
    413: (BackendError, False),
    422: (BackendError, False),
    424: (BackendError, False),
    429: (RateLimitError, True),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    document = json.loads(SPEC.read_text("utf-8"))
    strict(document["components"]["schemas"]["RerankRequest"])
    near(document, "/rerank", result("score"), wrapped=False)
    with prism(document, tmp_path_factory.mktemp("prism")) as served:
        yield served


@pytest.fixture(params=["sync", "async"])
def rank(request):
    """Return a function that ranks by a backend of its own."""

    def run(address, documents, **options):
        reranker = Reranker("tei", base_url=address, **{"max_retries": 0, **options})
        try:
            if request.param == "sync":
                return reranker.rerank("how long does a refund take? 退款", documents)
            return asyncio.run(reranker.arerank("how long does a refund take? 退款", documents))
        finally:
            reranker.backend.close()

    return run


@pytest.mark.parametrize(
    "documents",
    [
        ["one"],
        DOCUMENTS,
        [f"document {i}" for i in range(100)],
        ["\N{GRINNING FACE} \x00", "half \ud83d"],
        ["long " * 40_000],
    ],
    ids=["one", "four", "many", "unicode", "long"],
)
def test_tei_takes_every_list_of_documents_in_parts_of_at_most_32(rank, server, documents):
    with Relay(server.address) as relay:
        rank_or_nonsense(rank, relay.address, documents)
        sent = [exchange.body["texts"] for exchange in relay.exchanges]
        assert {exchange.status for exchange in relay.exchanges} == {200}
    assert max(map(len, sent)) <= 32
    assert len({text for texts in sent for text in texts}) <= len(documents)


@pytest.mark.parametrize(
    "extra", [{}, {"raw_scores": True}, {"truncate": False}, {"truncation_direction": "Left"}], ids=json.dumps
)
def test_tei_takes_every_field_that_it_has(rank, server, extra):
    with Relay(server.address) as relay:
        rank_or_nonsense(rank, relay.address, DOCUMENTS, extra=extra)
        (exchange,) = relay.exchanges
    assert (exchange.status, exchange.body) == (200, {**exchange.body, **extra})


@pytest.mark.parametrize(("status", "expected"), FAULTS.items(), ids=map(str, FAULTS))
def test_each_error_is_the_right_one_after_the_right_number_of_requests(rank, server, status, expected):
    kind, again = expected
    with Relay(server.address, add={"Prefer": f"code={status}"}) as relay:
        with pytest.raises(BackendError, match=str(status)) as caught:
            rank(relay.address, DOCUMENTS, max_retries=1)
        assert len(relay.exchanges) == 1 + again
    assert type(caught.value) is kind


def test_what_is_nearly_a_reply_is_an_error_or_the_ranking_that_it_says(rank, server):
    outcomes = set()
    with Relay(server.address, add={"Prefer": "dynamic=true"}) as relay:
        for _ in range(60):
            ranking = rank_or_nonsense(rank, relay.address + NEAR, DOCUMENTS)
            check_outcome(ranking, relay.exchanges[-1].reply, "score")
            outcomes.add(ranking is None)
    assert outcomes == {True, False}


@pytest.mark.parametrize(
    "wrong",
    [
        {"texts": "a"},
        {"texts": [1]},
        {"query": None},
        {"truncate": "yes"},
        {"documents": ["a"]},
        {"top_n": 1},
        {"model": "m"},
    ],
    ids=json.dumps,
)
def test_a_request_that_is_not_tei_s_is_refused(server, wrong):
    body = {"query": "q", "texts": ["a"], **wrong}
    assert httpx.post(f"{server.address}/rerank", json=body).status_code == 422


def test_a_request_in_another_dialect_is_refused(server):
    dialect = {"path": "/rerank", "results": "", "score": "score"}
    for given in (dialect, {**dialect, "documents": "texts"}):  # with a model and a top_n, which TEI does not know
        reranker = Reranker("http", dialect=given, model="m", base_url=server.address)
        with pytest.raises(BackendError, match="422"):
            reranker.rerank("refund", DOCUMENTS)
        reranker.backend.close()


def rank_or_nonsense(rank, *given, **options):
    try:
        return rank(*given, **options)
    except ReplyError:
        return None
