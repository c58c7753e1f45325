"""`langchain_cohere.CohereRerank`, with Cohere's own client and a server on loopback, behind `rerank()`."""

import socket

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
pytest.importorskip("langchain_cohere", reason="needs: pip install langchain-cohere")

import cohere
import httpx
from cohere.core.api_error import ApiError
from cohere_stage import CohereStage
from langchain_cohere import CohereRerank
from langchain_core.runnables import RunnablePassthrough
from langchain_stage import PAGES, QUESTION, FromList, Tracer, documents, pages, runs, scores, shape, store

from langchain_rerankx import rerank
from rerankx.testing import word_overlap

KEY = "sk-0123456789abcdef"


@pytest.fixture(scope="module")
def stage():
    with CohereStage() as serving:
        yield serving


@pytest.fixture
def requests(stage):
    """The requests of this test."""
    stage.requests.clear()
    return stage.requests


def reranker(base_url, **fields):
    return CohereRerank(client=cohere.ClientV2(KEY, base_url=base_url), model="rerank-v3.5", **fields)


def base(**fields):
    return FromList(found=documents(), **{"k": 5, **fields})


SCORES = [0.1, 0.7, 0.2, 0.9, 0.3]


def test_its_answer_is_the_order(invoke, stage):
    found = invoke(rerank(base(), reranker(stage.answering(SCORES)), top_n=2, candidates=5), QUESTION)
    assert pages(found) == [PAGES[3], PAGES[1]]
    assert scores(found) == [0.9, 0.7]


def test_it_is_sent_query_and_candidates(invoke, stage, requests):
    invoke(rerank(base(k=2), reranker(stage.answering(SCORES)), top_n=2, candidates=5), QUESTION)
    [request] = requests
    assert request.path.endswith("/v2/rerank")
    assert (request.body["query"], request.body["documents"]) == (QUESTION, PAGES)


def test_candidates_are_asked_of_a_vector_store(invoke, stage, requests):
    retriever = store().as_retriever(search_kwargs={"k": 2})
    invoke(rerank(retriever, reranker(stage.answering(SCORES)), top_n=2, candidates=5), QUESTION)
    assert sorted(requests[0].body["documents"]) == sorted(PAGES)


def test_how_many_it_sends_back_is_its_own_setting(invoke, stage, requests):
    found = invoke(rerank(base(), reranker(stage.answering(SCORES), top_n=1), top_n=2), QUESTION)
    assert (len(found), requests[0].body["top_n"]) == (1, 1)


def test_top_n_cuts_what_it_sends_back(invoke, stage):
    assert len(invoke(rerank(base(), reranker(stage.answering(SCORES)), top_n=2), QUESTION)) == 2


def test_top_n_of_a_call_cuts_what_it_sends_back(invoke, stage):
    assert len(invoke(rerank(base(), reranker(stage.answering(SCORES))), QUESTION, top_n=1)) == 1


def test_nothing_is_sent_for_no_documents(invoke, stage, requests):
    assert invoke(rerank(base(k=0), reranker(stage.answering([]))), QUESTION) == []
    assert requests == []


def test_a_batch_sends_one_request_per_query(stage, requests):
    retriever = rerank(base(), reranker(stage.answering(SCORES)), top_n=1)
    assert [pages(found) for found in retriever.batch([QUESTION, "gift cards"])] == [[PAGES[3]], [PAGES[3]]]
    assert sorted(request.body["query"] for request in requests) == ["gift cards", QUESTION]


def test_it_works_in_a_chain(invoke, stage):
    overlaps = [word_overlap(QUESTION, page) for page in PAGES]
    chain = {"context": rerank(base(), reranker(stage.answering(overlaps)), top_n=1), "q": RunnablePassthrough()}
    assert pages(invoke(RunnablePassthrough() | chain, QUESTION)["context"]) == [PAGES[3]]


def test_it_is_a_run_beside_the_retriever(invoke, stage):
    tracer = Tracer()
    found = invoke(rerank(base(), reranker(stage.answering(SCORES))), QUESTION, {"callbacks": [tracer]})
    assert shape(tracer.roots[0]) == (
        "retriever",
        "RerankRetriever",
        [("retriever", "FromList", []), ("chain", "CohereRerank", [])],
    )
    assert tracer.roots[0].child_runs[1].outputs == {"output": found}


def test_its_key_is_not_in_the_trace(invoke, stage, requests):
    tracer = Tracer()
    invoke(rerank(base(), reranker(stage.answering(SCORES))), QUESTION, {"callbacks": [tracer]})
    assert requests[0].headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in str(tracer.roots[0].model_dump())


def failed(invoke, base_url, error):
    """Return the root of the trace of a call that ends with that error."""
    tracer = Tracer()
    with pytest.raises(error):
        invoke(rerank(base(), reranker(base_url), top_n=2, candidates=5), QUESTION, {"callbacks": [tracer]})
    return tracer.roots[0]


def test_a_refusal_is_the_clients_own_error_and_a_failed_run(invoke, stage):
    root = failed(invoke, stage.refusing(400), ApiError)
    assert "refused" in runs(root, "CohereRerank")[0].error
    assert root.error is not None


def unserved():
    """Return an address of this machine where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def test_a_server_that_is_down_is_the_clients_own_error_and_a_failed_run(invoke):
    root = failed(invoke, unserved(), httpx.ConnectError)
    assert "ConnectError" in runs(root, "CohereRerank")[0].error
    assert root.error is not None


def test_a_reranker_that_takes_over_answers_where_the_server_is_down(invoke, stage):
    down, up = (rerank(base(), reranker(url), top_n=1) for url in (unserved(), stage.answering(SCORES)))
    assert pages(invoke(down.with_fallbacks([up]), QUESTION)) == [PAGES[3]]
