"""One distinctive key, every path broken, and a search for it in all that anybody may print, log, save or send."""

import asyncio
import copy
import gc
import json
import logging
import pickle
import tracemalloc

import pytest
from backend_stage import DOCUMENTS, KEY, QUERY, SDK, WAYS, held_in, made, spoken, told
from fault_stage import (
    NONSENSE,
    PLACES,
    body,
    closed,
    echoing,
    echoing_late,
    echoing_place,
    gzip_bomb,
    half_a_body,
    rate_limited,
    redirect,
    reset,
    slow_body,
)

from rerankx import AuthenticationError, Reranker, RerankxError
from rerankx.testing import FakeBackend

TARGETS = (SDK, "cohere", "tei", "voyage", "nim", "deepinfra", "pinecone")
CODES = (400, 401, 402, 403, 404, 408, 409, 413, 422, 429, 498, 500, 502, 503)
BROKEN = {
    **{f"echo with {code}": echoing(code) for code in CODES},
    **{f"late echo with {code}": echoing_late(code) for code in (400, 401, 500)},
    **{f"echo as {place}": echoing_place(place) for place in PLACES},
    "429": rate_limited("3600"),
    "redirect": redirect(),
    "closed": closed(),
    "reset": reset(),
    "half a body": half_a_body(),
    "slow body": slow_body(),
    "gzip bomb": gzip_bomb(),
    **NONSENSE,
}


cells = pytest.mark.parametrize(
    ("target", "fault"), [pytest.param(t, name, id=f"{t}-{name}") for t in TARGETS for name in BROKEN]
)
# The words of the query and the documents that are in no message of ours.
TEXTS = ("how long does a refund", "museum opens", "takes a week", "does it take, a refund")


@pytest.fixture(autouse=True)
def logs(caplog):
    caplog.set_level(logging.DEBUG)  # of all loggers: httpx, httpcore and asyncio, too
    for name in ("rerankx", "httpx", "httpcore", "cohere", "asyncio"):
        caplog.set_level(logging.DEBUG, logger=name)
    return caplog


def everything_about(reranker, logs) -> str:
    """Break it in every way that it is used, and return all that is to be seen."""
    shown = []
    for way in WAYS.values():
        try:
            shown.append(repr(way(reranker)))
        except RerankxError as error:
            shown.append(told(error))
    for options in ({"on_error": "input_order"}, {"fallback": FakeBackend()}):
        ranking = Reranker(reranker.backend, **options).rerank(QUERY, DOCUMENTS)
        shown += [repr(ranking.attempts), str(ranking.degraded), repr(ranking.usage)]
    backend = reranker.backend
    shown += [
        repr(backend),
        str(backend),
        backend.fingerprint,
        repr(backend.describe()),
        repr(reranker),
        repr(backend.spent),
    ]
    return " ".join([*shown, *logged(logs)])


def logged(logs, *, by_client: bool = False) -> list[str]:
    """Return what was logged: by httpx and httpcore, which write down a reply's head as it comes, or by all others."""
    some = [record for record in logs.records if record.name.startswith(("httpx", "httpcore")) == by_client]
    return [f"{record.getMessage()} {record.args!r} {record.exc_text or ''}" for record in some]


@cells
def test_neither_key_nor_texts_are_shown(stage, logs, target, fault):
    url = stage.address(BROKEN[fault], dialect=spoken(target))
    backend = made(target, url, max_retries=1, timeout_s=0.2 if fault == "slow body" else 30.0, failure_threshold=None)
    shown = everything_about(Reranker(backend), logs)
    assert len(stage.requests(url)) >= 4  # it was broken, each time
    assert held_in(shown) is None
    # A traceback shows our own lines of code, which hold the texts if they are written there: they are not.
    for text in TEXTS:
        assert text not in shown, shown[max(0, shown.index(text) - 200) :][:400]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("fault", ["echo with 401", "echo with 500", "closed", "slow body", "echo as result"])
def test_the_http_library_logs_no_key(stage, logs, target, fault):
    url = stage.address(BROKEN[fault], dialect=spoken(target))
    with pytest.raises(RerankxError):
        made(target, url, max_retries=1, timeout_s=0.2 if fault == "slow body" else 30.0).score(QUERY, DOCUMENTS)
    assert logged(logs, by_client=True) != []
    assert held_in(" ".join(logged(logs, by_client=True))) is None


@pytest.mark.xfail(
    strict=True, reason="httpx logs a reply's reason at INFO, httpcore its head at DEBUG, whatever is in it"
)
@pytest.mark.parametrize("target", ["tei", SDK])
@pytest.mark.parametrize("place", ["reason", "location", "retry-after"])
def test_the_http_library_logs_no_key_that_a_server_puts_in_the_head(stage, logs, target, place):
    url = stage.address(echoing_place(place), dialect=spoken(target))
    with pytest.raises(RerankxError):
        made(target, url, max_retries=0).score(QUERY, DOCUMENTS)
    assert held_in(" ".join(logged(logs, by_client=True))) is None


@pytest.mark.parametrize("target", TARGETS)
def test_the_key_of_the_environment_is_not_shown(stage, logs, monkeypatch, target):
    from rerankx.catalogue.endpoints import ENDPOINTS

    variables = ("COHERE_API_KEY",) if target == SDK else ENDPOINTS[target].key_variables[:1]
    for name in variables:
        monkeypatch.setenv(name, KEY)
    url = stage.address(echoing(500), dialect=spoken(target))
    assert held_in(everything_about(Reranker(made(target, url, api_key=None, max_retries=0)), logs)) is None
    for request in stage.requests(url):
        assert (KEY in str(request.headers)) == bool(variables)


@pytest.mark.parametrize("value", [KEY, f"Bearer {KEY}", f"Basic {KEY}", f"token={KEY};"])
@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "Cookie"])
@pytest.mark.parametrize("fault", [*(f"echo with {code}" for code in (400, 401, 500)), "late echo with 400", "closed"])
def test_a_key_in_a_header_is_not_shown(stage, logs, name, value, fault):
    url = stage.address(BROKEN[fault], dialect="tei")
    backend = made("tei", url, api_key=None, headers={name: value}, max_retries=0, failure_threshold=None)
    assert held_in(everything_about(Reranker(backend), logs)) is None
    assert stage.requests(url)[0].headers[name.lower()] == value


@pytest.mark.parametrize("headers", [{}, {"X-Api-Key": KEY}])
@pytest.mark.parametrize("target", TARGETS)
def test_a_pickle_holds_no_key(stage, target, headers):
    options = {"headers": headers} if headers and target != SDK else {}
    backend = made(target, stage.address(dialect=spoken(target)), **options)
    for _ in range(2):
        try:
            pickled = pickle.dumps(backend)
        except TypeError as error:
            assert headers, error  # noqa: PT017
            refused = told(error)
            assert held_in(refused) is None
        else:
            assert held_in(pickled.decode("latin-1")) is None
        Reranker(backend).rerank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("target", [SDK, "voyage", "pinecone"])
def test_a_pickle_reads_the_environment_and_a_deep_copy_keeps_the_key(stage, monkeypatch, target):
    url = stage.address(dialect=spoken(target))
    backend = made(target, url)
    pickled = pickle.dumps(backend)
    with pytest.raises(AuthenticationError):
        pickle.loads(pickled)
    variable = {SDK: "CO_API_KEY", "voyage": "VOYAGE_API_KEY", "pinecone": "PINECONE_API_KEY"}[target]
    copied = copy.deepcopy(backend)
    monkeypatch.setenv(variable, "another-key-4712")
    for one in (copied, loaded := pickle.loads(pickled)):
        Reranker(one).rerank(QUERY, DOCUMENTS)
        one.close()
    assert loaded is not copied
    first, second = (str(request.headers) for request in stage.requests(url))
    assert (KEY in first, "another-key-4712" in second) == (True, True)


@pytest.mark.parametrize("target", ["tei", SDK])
@pytest.mark.parametrize(
    "shape", ["http://user:{}@127.0.0.1:9/v1", "http://127.0.0.1:9/?api_key={}", "ftp://{}/x", "{}"]
)
def test_a_key_in_the_address_is_refused_and_not_shown(target, shape):
    with pytest.raises(ValueError, match="base_url") as refused:
        made(target, shape.format(KEY))
    assert held_in(told(refused.value)) is None


@pytest.mark.parametrize("target", ["tei", SDK])
@pytest.mark.parametrize(
    "key",
    [KEY + "\n", KEY + "\nX-More: 1", "ключ-" + KEY, KEY + "\x00"],
    ids=["newline at the end", "newline within", "not ASCII", "NUL"],
)
def test_a_key_that_no_header_can_hold_is_not_shown(stage, logs, target, key):
    url = stage.address(dialect=spoken(target))
    try:
        backend = made(target, url, api_key=key)
        shown = everything_about(Reranker(backend), logs)
    except (ValueError, TypeError, RerankxError) as error:
        shown = told(error)
    assert held_in(shown) is None


@pytest.mark.parametrize("target", ["tei", SDK])
def test_a_key_of_another_type_is_not_shown(target):
    with pytest.raises(TypeError) as refused:
        made(target, "http://127.0.0.1:9", api_key=[KEY])
    assert held_in(told(refused.value)) is None


def _with_key_after(words: str):
    return body(lambda exchange: f"{words} {exchange.request.headers['authorization']}".encode(), 400)


@pytest.mark.parametrize("cut", [50, 150, 199, 200, 9_950, 9_985, 9_999, 10_000])
@pytest.mark.parametrize("target", ["tei", SDK])
def test_a_key_that_is_cut_off_is_not_shown(stage, logs, target, cut):
    """Where a message is cut short within the key, what is left of it is still not shown."""
    long = "lo ng" * (cut // 5) + "x" * (cut % 5)
    url = stage.address(_with_key_after(long), dialect=spoken(target))
    with pytest.raises(RerankxError) as refused:
        made(target, url).score(QUERY, [long, "b"])
    assert held_in(told(refused.value), KEY) is None
    assert held_in(" ".join(logged(logs))) is None


ECHOED = {
    "escaped": 'He said: "The vault\'s code is 4711",\nand left. ',
    "not ASCII": "Der Tresor öffnet mit 4711, sagte er. ",
    "long": "The vault opens with 4711. " * 600,
}


@pytest.mark.parametrize("target", ["tei", SDK])
@pytest.mark.parametrize("document", ECHOED)
@pytest.mark.parametrize("how", ["plain", "json"])
def test_a_document_is_not_shown_however_it_is_echoed(stage, target, document, how):
    text = ECHOED[document]
    said = text if how == "plain" else json.dumps({"message": "cannot rank " + text})
    url = stage.address(body(said.encode(), 400, Content_Type="text/plain"), dialect=spoken(target))
    with pytest.raises(RerankxError) as refused:
        made(target, url).score(QUERY, [text, "b"])
    assert "4711" not in told(refused.value)


# The adapters: a compressor and a postprocessor whose backend is broken, written down.


def test_langchain_writes_no_key(stage, logs):
    pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
    from langchain_core.documents import Document
    from langchain_core.load import dumps

    from langchain_rerankx import Reranker as Compressor

    for target, name in (("voyage", "voyage:rerank-2.5"), ("tei", "tei"), (SDK, "cohere:rerank-v3.5")):
        url = stage.address(echoing(401), dialect=spoken(target))
        headers = {} if target == SDK else {"headers": {"X-Api-Key": KEY}}
        compressor = Compressor(name, api_key=KEY, base_url=url, max_retries=0, **headers)
        shown = [repr(compressor), str(compressor), dumps(compressor), compressor.model_dump_json()]
        for run in (
            lambda made=compressor: made.invoke({"query": QUERY, "documents": [Document(text) for text in DOCUMENTS]}),
            lambda made=compressor: asyncio.run(made.acompress_documents([Document(t) for t in DOCUMENTS], QUERY)),
        ):
            with pytest.raises(RerankxError) as refused:
                run()
            shown.append(told(refused.value))
        assert len(stage.requests(url)) == 2
        assert KEY in str(stage.requests(url)[0].headers)
        assert held_in(" ".join([*shown, *logged(logs), repr(compressor)])) is None


def test_llama_index_writes_no_key(stage, logs):
    pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")
    from llama_index.core.schema import NodeWithScore, TextNode

    from llamaindex_rerankx import Rerank

    for target, name in (("voyage", "voyage:rerank-2.5"), ("tei", "tei"), (SDK, "cohere:rerank-v3.5")):
        url = stage.address(echoing(401), dialect=spoken(target))
        headers = {} if target == SDK else {"headers": {"X-Api-Key": KEY}}
        rerank = Rerank(name, api_key=KEY, base_url=url, max_retries=0, **headers)
        shown = [repr(rerank), str(rerank), str(rerank.to_dict()), rerank.to_json()]
        nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in DOCUMENTS]
        for run in (
            lambda made=rerank, nodes=nodes: made.postprocess_nodes(nodes, query_str=QUERY),
            lambda made=rerank, nodes=nodes: asyncio.run(made.apostprocess_nodes(nodes, query_str=QUERY)),
        ):
            with pytest.raises(RerankxError) as refused:
                run()
            shown.append(told(refused.value))
        assert len(stage.requests(url)) == 2
        assert KEY in str(stage.requests(url)[0].headers)
        assert held_in(" ".join([*shown, *logged(logs), repr(rerank)])) is None


@pytest.mark.parametrize("target", ["tei", SDK])
def test_a_bomb_does_not_fill_the_memory(stage, target):
    url = stage.address(gzip_bomb(400_000_000), dialect=spoken(target))
    backend = made(target, url)
    gc.collect()
    tracemalloc.start()
    try:
        with pytest.raises(RerankxError):
            backend.score(QUERY, DOCUMENTS)
        assert tracemalloc.get_traced_memory()[1] < 128 * 2**20
    finally:
        tracemalloc.stop()
