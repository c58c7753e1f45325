"""llama.cpp's own server, which answers in Jina's dialect and in TEI's; the weights are random, so scores mean nothing."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from llamacpp_stage import llama_cpp, need
from process_stage import free_port
from relay_stage import Relay

from rerankx import Reranker, Scale
from rerankx.errors import AuthenticationError, BackendError, ReplyError
from rerankx.testing import BackendContract

need()
QUERY = "how long does a refund take"
DOCUMENTS = [
    "A refund takes five working days to reach your account.",
    "The museum opens on Sundays; its garden is known for roses.",
    "\N{GRINNING FACE} \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "كم يستغرق استرداد الأموال",
    "退款需要多长时间",
    'a "quoted" word, a back\\slash,\na line and a nul \x00',
    "e\N{COMBINING ACUTE ACCENT}\N{COMBINING TILDE}",
    "?!",
]
MANY = [f"{DOCUMENTS[i % len(DOCUMENTS)]} {i}" for i in range(200)]
TOO_LONG = "refund " * 60  # a token per letter or so: more than the model's 256
FAR_TOO_LONG = "refund " * 600  # more than llama.cpp reads at once, 512
OPTIONS = {"llamacpp": {"scale": "logit"}, "tei": {"scale": "logit"}}
"""By preset; this model's scores are logits, and neither preset can know that."""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with llama_cpp(tmp_path_factory.mktemp("llamacpp")) as served:
        yield served


@pytest.fixture
def made():
    """Return a list of rerankers to be closed."""
    rerankers = []
    yield rerankers
    for reranker in rerankers:
        reranker.backend.close()


@pytest.fixture(params=OPTIONS)
def reranker(request, server, made):
    made.append(Reranker(request.param, base_url=server.address, **OPTIONS[request.param]))
    return made[0]


def direct(server, documents, *, query=QUERY):
    """Return index -> score, as the server says in Jina's dialect to who asks it without rerankx."""
    reply = httpx.post(f"{server.address}/v1/rerank", json={"query": query, "documents": documents}, timeout=60)
    results = reply.raise_for_status().json()["results"]
    return {result["index"]: result["relevance_score"] for result in results}


def raw(ranking):
    return {hit.index: hit.raw_score for hit in ranking}


@pytest.mark.parametrize("documents", [DOCUMENTS[:1], DOCUMENTS, MANY], ids=["one", "several", "many"])
def test_scores_and_order_are_the_server_s(server, reranker, documents):
    ranking = reranker.rerank(QUERY, documents)
    expected = direct(server, documents)
    assert raw(ranking) == pytest.approx(expected, abs=1e-5)
    assert [hit.raw_score for hit in ranking] == sorted((hit.raw_score for hit in ranking), reverse=True)
    assert (ranking.degraded, ranking.usage.cost_usd) == (None, 0.0)
    assert ranking.scale == Scale.LOGIT


@pytest.mark.parametrize("documents", [DOCUMENTS, MANY], ids=["several", "many"])
def test_both_dialects_say_the_same(server, made, documents):
    made += [Reranker(name, base_url=server.address, **options) for name, options in OPTIONS.items()]
    jina, tei = (reranker.rerank(QUERY, documents) for reranker in made)
    assert [hit.index for hit in jina] == [hit.index for hit in tei]
    assert [hit.raw_score for hit in jina] == [hit.raw_score for hit in tei]


def test_async_says_the_same(reranker):
    ranking = reranker.rerank(QUERY, DOCUMENTS)
    assert raw(asyncio.run(reranker.arerank(QUERY, DOCUMENTS))) == raw(ranking)


def test_the_query_arrives_as_it_is(server, reranker):
    for query in DOCUMENTS:
        assert raw(reranker.rerank(query, DOCUMENTS)) == pytest.approx(direct(server, DOCUMENTS, query=query), abs=1e-5)


def test_tei_s_lists_go_in_parts_of_at_most_32_and_llama_cpp_s_in_one(server, made):
    for name, parts in (("llamacpp", [200]), ("tei", [32] * 6 + [8])):
        with Relay(server.address) as relay:
            made.append(Reranker(name, base_url=relay.address, **OPTIONS[name]))
            ranking = made[-1].rerank(QUERY, MANY)
            sent = [exchange.body.get("texts") or exchange.body["documents"] for exchange in relay.exchanges]
        assert sorted(map(len, sent), reverse=True) == parts
        assert sorted(text for texts in sent for text in texts) == sorted(MANY)
        assert (ranking.usage.calls, len(ranking)) == (len(parts), 200)


def test_50_at_once_in_a_loop_get_their_own_answers(server, reranker):
    queries = [f"{QUERY} {i}" for i in range(50)]

    async def run():
        return await asyncio.gather(*(reranker.arerank(query, DOCUMENTS) for query in queries))

    for query, ranking in zip(queries, asyncio.run(run()), strict=True):
        assert ranking.query == query
        assert raw(ranking) == pytest.approx(direct(server, DOCUMENTS, query=query), abs=1e-5)


def test_16_threads_get_their_own_answers(server, reranker):
    queries, together = [f"{QUERY} {i}" for i in range(16)], threading.Barrier(16)

    def run(query):
        together.wait(timeout=60)
        return reranker.rerank(query, DOCUMENTS)

    with ThreadPoolExecutor(16) as pool:
        for query, ranking in zip(queries, pool.map(run, queries), strict=True):
            assert raw(ranking) == pytest.approx(direct(server, DOCUMENTS, query=query), abs=1e-5)


def test_a_loop_after_another_is_served(reranker):
    expected = raw(reranker.rerank(QUERY, DOCUMENTS))
    for _ in range(5):
        assert raw(asyncio.run(reranker.arerank(QUERY, DOCUMENTS))) == expected


def test_sync_inside_a_running_loop_is_served(reranker):
    async def run():
        return reranker.rerank(QUERY, DOCUMENTS)

    assert raw(asyncio.run(run())) == raw(reranker.rerank(QUERY, DOCUMENTS))


def test_a_connection_that_the_server_ends_after_its_100_requests_loses_none(server, made):
    made.append(Reranker("llamacpp", base_url=server.address, max_retries=0, max_concurrency=1))
    for _ in range(250):
        assert len(made[0].rerank(QUERY, DOCUMENTS[:2])) == 2


@pytest.mark.slow
def test_a_connection_that_the_server_ends_after_5_idle_seconds_loses_none(server, made):
    made.append(Reranker("llamacpp", base_url=server.address, max_retries=0))
    made[0].rerank(QUERY, DOCUMENTS)
    threading.Event().wait(6)
    assert len(made[0].rerank(QUERY, DOCUMENTS)) == len(DOCUMENTS)


@pytest.mark.parametrize(
    ("name", "text", "status"),
    [
        ("llamacpp", TOO_LONG, "400"),
        ("llamacpp", FAR_TOO_LONG, "500"),
        ("tei", TOO_LONG, "400"),
        pytest.param("tei", FAR_TOO_LONG, "500"),
    ],
    ids=["llamacpp context", "llamacpp batch", "tei context", "tei batch"],
)
@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_text_that_is_too_long_for_the_model_is_an_error_after_one_request(server, made, name, text, status, how):
    with Relay(server.address) as relay:
        made.append(Reranker(name, base_url=relay.address, max_retries=2, **OPTIONS[name]))
        rerank = made[0].rerank if how == "sync" else lambda *given: asyncio.run(made[0].arerank(*given))
        with pytest.raises(BackendError, match=status) as caught:
            rerank(QUERY, [*DOCUMENTS, text])
        assert len(relay.exchanges) == 1
    assert type(caught.value) is BackendError
    assert made[0].backend.circuit == "closed"
    assert "refund" not in str(caught.value)


def test_what_is_dropped_without_being_closed_warns_of_nothing(server):
    program = f"""
from rerankx import Reranker
for _ in range(5):
    Reranker("llamacpp", base_url="{server.address}").rerank("q", ["a", "b"])
"""
    # Of its own process, where no other test's collection of garbage comes in between.
    done = subprocess.run([sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, check=True)
    assert "unclosed" not in done.stderr


def test_nothing_to_rank_takes_no_request(server, made):
    with Relay(server.address) as relay:
        for name, options in OPTIONS.items():
            made.append(Reranker(name, base_url=relay.address, **options))
            assert len(made[-1].rerank(QUERY, [])) == 0
            assert len(asyncio.run(made[-1].arerank(QUERY, []))) == 0
            assert len(made[-1].rerank(QUERY, ["", " \n", "\N{IDEOGRAPHIC SPACE}"])) == 3
        assert relay.exchanges == []


def test_blank_texts_are_not_sent(server, made):
    with Relay(server.address) as relay:
        for name, options in OPTIONS.items():
            made.append(Reranker(name, base_url=relay.address, **options))
            ranking = made[-1].rerank(QUERY, ["", DOCUMENTS[0], " \n", DOCUMENTS[1]])
            assert raw(ranking) == pytest.approx(
                {1: (d := direct(server, DOCUMENTS[:2]))[0], 3: d[1], 0: None, 2: None}
            )
        sent = [exchange.body.get("texts") or exchange.body["documents"] for exchange in relay.exchanges]
        assert sent == [DOCUMENTS[:2]] * 2


@pytest.mark.parametrize("top_n", [1, 3, 100])
def test_top_n_keeps_the_best_of_all(server, made, top_n):
    with Relay(server.address) as relay:
        made.append(Reranker("llamacpp", base_url=relay.address))
        ranking = made[0].rerank(QUERY, MANY[:50], top_n=top_n)
        assert [exchange.body["top_n"] for exchange in relay.exchanges] == [50]
    expected = direct(server, MANY[:50])
    assert [hit.raw_score for hit in ranking] == pytest.approx(
        sorted(expected.values(), reverse=True)[:top_n], abs=1e-5
    )


def test_logits_under_a_preset_that_says_probability_are_found_out(server, made):
    made.append(Reranker("tei", base_url=server.address))
    assert max(direct(server, DOCUMENTS, query="x").values()) > 1
    with pytest.raises(ReplyError, match="probability"):
        made[0].rerank("x", DOCUMENTS)


def test_tokens_are_those_that_the_server_counts(server, made):
    made.append(Reranker("llamacpp", base_url=server.address))
    reply = httpx.post(f"{server.address}/v1/rerank", json={"query": QUERY, "documents": DOCUMENTS}).json()
    usage = made[0].rerank(QUERY, DOCUMENTS).usage
    assert (usage.input_tokens, usage.calls) == (reply["usage"]["total_tokens"], 1)
    assert made[0].backend.spent == usage


def test_cohere_s_path_is_not_there(server, made):
    with Relay(server.address) as relay:
        made.append(Reranker("http", dialect="cohere", model="m", base_url=relay.address))
        with pytest.raises(BackendError, match="404"):
            made[0].rerank(QUERY, DOCUMENTS)
        assert [exchange.status for exchange in relay.exchanges] == [404]


def test_the_key_is_asked_for_and_never_shown(tmp_path, made, monkeypatch):
    monkeypatch.delenv("LLAMA_API_KEY", raising=False)
    with llama_cpp(tmp_path, key="right-key-0123456789") as server, Relay(server.address) as relay:
        for key in (None, "wrong-key-0123456789"):
            made.append(Reranker("llamacpp", base_url=relay.address, api_key=key))
            with pytest.raises(AuthenticationError, match="401") as caught:
                made[-1].rerank(QUERY, DOCUMENTS)
            assert "0123456789" not in str(caught.value)
        made.append(Reranker("llamacpp", base_url=relay.address, api_key="right-key-0123456789"))
        assert len(made[-1].rerank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
        monkeypatch.setenv("LLAMA_API_KEY", "right-key-0123456789")
        made.append(Reranker("llamacpp", base_url=relay.address))
        assert len(made[-1].rerank(QUERY, DOCUMENTS)) == len(DOCUMENTS)
        assert [exchange.status for exchange in relay.exchanges] == [401, 401, 200, 200]


def test_a_server_that_was_started_anew_is_found_again(tmp_path, made):
    port = free_port()
    with llama_cpp(tmp_path, port=port) as server:
        made.append(Reranker("llamacpp", base_url=server.address, max_retries=1, failure_threshold=None))
        expected = raw(made[0].rerank(QUERY, DOCUMENTS))
    with pytest.raises(BackendError, match="connection"):
        made[0].rerank(QUERY, DOCUMENTS)
    with llama_cpp(tmp_path, port=port):
        assert raw(made[0].rerank(QUERY, DOCUMENTS)) == expected


class OnLlamaCpp(BackendContract):
    """What `Backend` promises, but for a text of 20,000 letters, which this server refuses."""

    tolerance = 1e-5
    on_deadline = "error"
    # Weights are random; of these two it prefers the first.
    relevant = "The museum opens on Sundays; its garden is known for roses."
    irrelevant = "A refund takes five working days to reach your account."
    awkward = (*DOCUMENTS[2:], "bell \x07 escape \x1b[31m delete \x7f", "half a pair \ud83d")

    @pytest.fixture(autouse=True)
    def _relay(self, server):
        # The relay keeps no connection open, so what the contract makes and copies need not be closed.
        with Relay(server.address) as relay:
            self.address = relay.address
            yield

    def make(self):
        return Reranker(self.preset, base_url=self.address, scale="logit").backend

    def test_awkward_texts_are_taken_and_disturb_no_other(self):
        backend = self.make()
        got = self._scores(backend, [*self.awkward, self.relevant])
        self._check_same(got[-1:], self._scores(backend, [self.relevant]), "in awkward company")

    def test_awkward_queries_are_taken(self):
        backend = self.make()
        for query in self.awkward:
            self._scores(backend, [self.relevant, self.irrelevant], query=query)

    def test_a_cut_text_is_counted(self):
        backend = self.make()
        assert backend.score(self.query, [self.relevant]).truncated == 0
        with pytest.raises(BackendError, match="too large"):
            backend.score(self.query, [self.relevant, FAR_TOO_LONG])


class TestLlamaCppByJina(OnLlamaCpp):
    preset = "llamacpp"


class TestLlamaCppByTei(OnLlamaCpp):
    preset = "tei"
