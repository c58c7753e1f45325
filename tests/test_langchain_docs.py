"""The migration guide: our code runs and keeps what it should, their code at least parses, and their defaults are as stated."""

import ast
import asyncio
import io
import json
import re
import sys
import threading
import zipfile
from contextlib import ExitStack
from dataclasses import replace
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest
from fault_stage import FaultStage, body, closed, status

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import PydanticOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerankx import rerank
from rerankx import AuthenticationError, BackendError, RateLimitError, ReplyError, Reranker, as_yaml
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.backends.flashrank import REPOSITORY, FlashRank
from rerankx.catalogue import FLASHRANK
from rerankx.catalogue.endpoints import ENDPOINTS
from rerankx.cli import main
from rerankx.registry import BUILT_IN

GUIDE = (Path(__file__).parents[1] / "docs" / "moving-to-rerankx-in-langchain.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (before|ours) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
ROWS = [line for line in GUIDE.splitlines() if line.startswith("| ")]
PAGES = ["i" * n for n in range(1, 61)]
MINILM, FLASH = "cross-encoder/ms-marco-MiniLM-L6-v2", "ms-marco-MiniLM-L-12-v2"
KEY = "a-key-of-these-tests"


class Shortest(BaseCrossEncoder):
    """Prefers the shortest, as all stand-ins do."""

    def score(self, text_pairs):
        return [-float(len(text)) for _, text in text_pairs]


class Ranker:
    """Stands in for a ranker of `rerankers`."""

    def rank(self, query, docs):
        return sorted(
            (SimpleNamespace(doc_id=i, score=-len(text)) for i, text in enumerate(docs)), key=lambda r: -r.score
        )


class Says(FakeListChatModel):
    """A chat model with structured output, as `LLMListwiseRerank` needs it."""

    def with_structured_output(self, schema, **kwargs):
        return self | PydanticOutputParser(pydantic_object=schema)


def shortest_of(messages):
    """Answer what rerankx asks with the shortest passage first."""
    (message,) = messages
    shown = re.findall(r'^<passage id="(\d+)">\n(.+)\n</passage>$', message["content"], re.MULTILINE)
    return " > ".join(f"[{label}]" for label, text in sorted(shown, key=lambda one: len(one[1])))


class FromList(BaseRetriever):
    """Returns its documents."""

    found: list[Document]

    def _get_relevant_documents(self, query, *, run_manager):
        return self.found


class Tracer(BaseTracer):
    """Keeps the runs that end, by their names."""

    def __init__(self):
        super().__init__()
        self.ended = {}

    def _persist_run(self, run):
        for one in [run, *run.child_runs]:
            self.ended[one.name] = one
            self.ended |= {beneath.name: beneath for beneath in one.child_runs}


@pytest.fixture
def names():
    """Return what the guide's reader has, and stand in for what needs a key or a download."""
    pytest.importorskip("langchain_classic", reason="needs: pip install langchain-classic")
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker

    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_documents([Document(page, id=str(len(page))) for page in PAGES])
    everything = store.as_retriever(search_kwargs={"k": 60})
    return {
        "__name__": "guide",
        "store": store,
        "model": Shortest(),
        "compressor": CrossEncoderReranker(model=Shortest(), top_n=50),
        "ranker": Ranker(),
        "llm": RunnableLambda(shortest_of),
        "old_retriever": everything,
        "queries": ["which"],
    }


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Serve small models with random weights under the names in the guide; return the folders with the same files."""
    pytest.importorskip("onnx", reason="needs the package onnx, by which the models of these tests are written")
    from engines.graph_stage import save_model
    from engines.hub_stage import HubStage
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("hub")
    minilm = save_model(home / "minilm", seed=1, name="onnx/model.onnx")
    flash = save_model(home / FLASH, config={"pad_token_id": 0}, seed=2, name=str(FLASHRANK[FLASH].onnx_file))
    (flash / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, "pad_token": "[PAD]"}))
    (flash / "special_tokens_map.json").write_text(json.dumps({"sep_token": "[SEP]", "pad_token": "[PAD]"}))
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in flash.iterdir():
            archive.write(path, f"{FLASH}/{path.name}")
    names = ("config.json", "tokenizer.json", "onnx/model.onnx")
    with ExitStack() as stack:
        stage = stack.enter_context(HubStage())
        stack.enter_context(stage.in_process(home))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        # A GPU would be taken where torch finds one, and there are no weights for torch here.
        patch.setattr("rerankx.backends.cross_encoder._sees_cuda", lambda: False)
        stage.add(MINILM, "main", {name: (minilm / name).read_bytes() for name in names}, lfs=names[2:])
        stage.add(REPOSITORY, "main", {f"{FLASH}.zip": packed.getvalue()}, lfs=(f"{FLASH}.zip",))
        yield {MINILM: minilm, FLASH: flash}


@pytest.fixture(scope="module")
def stage():
    with FaultStage() as stage:
        yield stage


@pytest.fixture
def keys(monkeypatch):
    """Forget the keys and proxies of this machine, and have one key for every service."""
    pytest.importorskip("cohere", reason="needs the extra: pip install 'rerankx[cohere]'")
    from backend_stage import alone

    alone(monkeypatch)
    for variable in ("CO_API_KEY", *(name for dialect in ENDPOINTS.values() for name in dialect.key_variables)):
        monkeypatch.setenv(variable, KEY)


@pytest.fixture
def cohere(stage, keys, monkeypatch):
    """Return a function that has an address answer for Cohere, and returns it."""

    def at(*script, **options):
        url = stage.address(*(script or [answer]), **{"scorer": short_is_good, **options})
        monkeypatch.setenv("CO_API_URL", url)
        return url

    return at


@pytest.fixture
def their_cohere(keys):
    """Return LangChain's CohereRerank for an address."""
    theirs = pytest.importorskip("langchain_cohere", reason="needs: pip install langchain-cohere").CohereRerank
    return lambda url, **fields: theirs(**{"base_url": url, "model": "rerank-v3.5", **fields})


async def answer(exchange):
    """Answer, and have the client close the connection: theirs keeps it open otherwise, and nothing closes it."""
    await exchange.send_json(exchange.reply(), Connection="close")


def refuse(code):
    return status(code, Connection="close")


def short_is_good(query, texts):
    return [1 / len(text) for text in texts]


def shortest_first(texts):
    return sorted(texts, key=len)


def judge(hub, code):
    """Return a function that orders texts as the model named in the code does, by its files."""
    model = FlashRank(hub[FLASH]) if "flashrank:" in code else CrossEncoder(hub[MINILM])
    return lambda texts: [hit.document for hit in Reranker(model).rerank("which", texts)]


def of_the_hub(code):
    return re.search("minilm|cross-encoder:|flashrank:", code) is not None


def test_every_python_block_is_marked():
    assert len(BLOCKS) == GUIDE.count("```python") >= 12


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "before"])
def test_their_code_parses(code):
    ast.parse(code)


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "ours" and "retriever = " in code])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_our_code_returns_the_best_of_the_candidates(code, names, request):
    order = shortest_first
    if "cohere:" in code:
        request.getfixturevalue("cohere")()
    elif of_the_hub(code):
        order = judge(request.getfixturevalue("hub"), code)
    exec(compile(code, "guide", "exec"), names)
    found = names["retriever"].invoke("which")
    candidates = names["store"].as_retriever(search_kwargs={"k": 20 if "candidates=20" in code else 50}).invoke("which")
    assert len(found) == (3 if "top_n=3" in code else 5)
    if "base_compressor=Reranker" not in code:  # the embedded model has another opinion of these pages
        best = order([document.page_content for document in candidates])[: len(found)]
        assert [document.page_content for document in found] == best
    if "rerank(store.as_retriever(), compressor" not in code:
        assert all("relevance_score" in document.metadata for document in found)
    assert all(document.id for document in found)


def test_what_the_listwise_reranker_of_langchain_does_is_as_stated():
    pytest.importorskip("langchain_classic", reason="needs: pip install langchain-classic")
    from langchain_classic.retrievers.document_compressors import LLMListwiseRerank

    def theirs(*ids):
        llm = Says(responses=[f'{{"ranked_document_ids": {list(ids)}}}'])
        documents = [Document(text) for text in "abcd"]
        return LLMListwiseRerank.from_llm(llm, top_n=9).compress_documents(documents, "which")

    def ours(answer):
        return rerank(from_pages(*"abcd"), "listwise", llm=lambda messages: answer).invoke("which")

    assert signature(LLMListwiseRerank).parameters["top_n"].default == 3
    assert content(theirs(2, 0, 2, -1)) == ["c", "a", "c", "d"]
    assert theirs(2)[0].metadata == {}
    with pytest.raises(IndexError):
        theirs(4)
    assert scored(ours("[3] > [1] > [3] > [9]")) == [("c", 1.0), ("a", 0.75), ("b", 0.5), ("d", 0.25)]


def test_the_two_models_of_the_hub_and_the_stand_ins_have_opinions_of_their_own(hub):
    orders = [judge(hub, "flashrank:")(PAGES), judge(hub, "minilm")(PAGES), shortest_first(PAGES)]
    assert len({tuple(order[:3]) for order in orders}) == 3


def test_the_short_name_is_the_model_it_is_said_to_be(hub):
    retriever = rerank(lambda query: [Document(page) for page in PAGES], "minilm")
    assert [document.page_content for document in retriever.invoke("which")] == judge(hub, "minilm")(PAGES)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`rerankx (.+?)`", GUIDE))))
def test_the_commands_do_what_they_should(command, hub, capsys):
    assert main(command.split()) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ([MINILM, FLASH] if command == "models" else ["onnx", "cpu"]))


def test_without_a_word_on_the_scale_min_score_is_refused(hub):
    name, pages = f"cross-encoder:{hub[MINILM]}", [Document(page) for page in PAGES[:4]]
    with pytest.raises(ValueError, match="min_score"):
        rerank(lambda query: pages, name, min_score=0.3)
    ranks = rerank(lambda query: pages, name).invoke("which")
    assert [document.metadata["relevance_score"] for document in ranks] == [1.0, 0.75, 0.5, 0.25]
    found = rerank(lambda query: pages, name, scale="logit", min_score=0.3).invoke("which")
    assert all(document.metadata["relevance_score"] >= 0.3 for document in found)


def cohere_blocks():
    """Return their code, ours, and ours with a fallback."""
    return [code for _, code in BLOCKS if "rerank-v3.5" in code]


def from_pages(*texts):
    return FromList(found=[Document(text, id=str(i)) for i, text in enumerate(texts or PAGES[::-1])])


def content(documents):
    return [document.page_content for document in documents]


def scored(documents):
    return [(document.page_content, document.metadata["relevance_score"]) for document in documents]


def test_cohere_is_asked_the_same_and_gives_the_same(names, stage, cohere, their_cohere):
    url = cohere()
    before, ours, _ = cohere_blocks()
    found = []
    for code in (before.replace("CohereRerank(", f"CohereRerank(base_url={url!r}, "), ours):
        exec(compile(code, "guide", "exec"), names)
        found.append(names["retriever"].invoke("which"))
    assert scored(found[0]) == scored(found[1])
    asked, asked_by_ours = stage.requests(url)
    said = {name: value for name, value in asked.body.items() if value is not None}
    assert {**said, "top_n": 50} == asked_by_ours.body
    assert asked.headers["authorization"] == asked_by_ours.headers["authorization"] == f"Bearer {KEY}"
    assert asked.headers["x-client-name"] == "langchain:partner"
    assert asked_by_ours.headers["x-client-name"] == "rerankx"
    assert [document.id is None for document in found[0]] == [True] * 5
    assert [document.id for document in found[1]] == [str(len(text)) for text in content(found[1])]


def test_where_cohere_is_down_the_fallback_answers(names, cohere, hub):
    cohere(refuse(503))
    exec(compile(cohere_blocks()[2], "guide", "exec"), names)
    candidates = content(names["store"].as_retriever(search_kwargs={"k": 50}).invoke("which"))
    assert content(names["retriever"].invoke("which")) == judge(hub, "minilm")(candidates)[:5]


def test_where_the_fallback_answers_the_threshold_of_cohere_is_not_applied(cohere, hub):
    cohere(refuse(503))
    retriever = rerank(from_pages(), "cohere:rerank-v3.5", min_score=1.0, fallback="minilm")
    assert content(retriever.invoke("which")) == judge(hub, "minilm")(PAGES[::-1])
    cohere()
    assert content(rerank(from_pages(), "cohere:rerank-v3.5", min_score=1.0).invoke("which")) == ["i"]


def test_keys_and_addresses_of_cohere_are_read_as_stated(stage, cohere, their_cohere, monkeypatch):
    url = cohere()
    monkeypatch.setenv("COHERE_API_KEY", "another-key-of-these-tests")
    their_cohere(url).compress_documents([Document("i")], "which")
    rerank(from_pages(), "cohere:rerank-v3.5").invoke("which")
    rerank(from_pages(), "cohere:rerank-v3.5", api_key="a-third-key-of-these-tests").invoke("which")
    monkeypatch.delenv("COHERE_API_KEY")
    their_cohere(url).compress_documents([Document("i")], "which")
    used = [request.headers["authorization"].removeprefix("Bearer ") for request in stage.requests(url)]
    assert used == ["another-key-of-these-tests", KEY, "a-third-key-of-these-tests", KEY]
    assert their_cohere(None).client._client_wrapper.get_base_url() == "https://api.cohere.com"


def test_the_clients_of_the_sdk_are_taken_as_stated(stage, cohere, their_cohere):
    import cohere as sdk

    url = cohere()
    for make in (sdk.ClientV2, sdk.AsyncClientV2):
        client = make(KEY, base_url=url, client_name="mine")
        assert content(rerank(from_pages(), "cohere:rerank-v3.5", client=client).invoke("which")) == PAGES
    assert {request.headers["x-client-name"] for request in stage.requests(url)} == {"mine"}
    with pytest.raises(ValueError, match="ClientV2"):
        their_cohere(None, client=client)
    assert issubclass(sdk.BedrockClientV2, sdk.ClientV2)
    assert issubclass(sdk.SagemakerClientV2, sdk.ClientV2)


def test_cohere_is_asked_in_the_event_loop_by_ours_alone(cohere, their_cohere, monkeypatch):
    import cohere as sdk

    url, asked_in = cohere(), []

    def seen(rerank):
        return lambda *args, **options: (asked_in.append(threading.current_thread()), rerank(*args, **options))[1]

    for client in (sdk.ClientV2, sdk.AsyncClientV2):
        monkeypatch.setattr(client, "rerank", seen(client.rerank))
    asyncio.run(their_cohere(url).acompress_documents([Document("i")], "which"))
    asyncio.run(rerank(from_pages(), "cohere:rerank-v3.5").ainvoke("which"))
    theirs, ours = asked_in
    assert theirs is not threading.main_thread()
    assert ours is threading.main_thread()


@pytest.mark.parametrize(
    ("code", "tries"), [(408, 3), (409, 3), (429, 3), (500, 3), (503, 3), (400, 1), (401, 1), (404, 1)]
)
def test_cohere_is_asked_again_as_stated(code, tries, stage, cohere, their_cohere, monkeypatch):
    from cohere.core import http_client
    from cohere.core.api_error import ApiError

    monkeypatch.setattr(http_client, "time", SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0))
    url = cohere(refuse(code))
    with pytest.raises(ApiError):
        their_cohere(url).compress_documents([Document("i")], "which")
    assert len(stage.requests(url)) == tries
    kind = {401: AuthenticationError, 429: RateLimitError}.get(code, BackendError)
    with pytest.raises(BackendError) as caught:
        rerank(from_pages(), "cohere:rerank-v3.5").invoke("which")
    assert caught.type is kind
    assert f"HTTP {code}" in str(caught.value)
    assert "the server says no" in str(caught.value)
    assert len(stage.requests(url)) == 2 * tries


def test_the_limits_of_cohere_are_as_stated(their_cohere):
    from rerankx.backends.cohere import DEFAULT, Cohere

    assert their_cohere(None).client._client_wrapper.get_timeout() == 300
    ours = signature(Cohere).parameters
    assert [ours[name].default for name in ("timeout_s", "max_retries")] == [30, 2]
    assert f'`"cohere"` alone is `{DEFAULT}`' in GUIDE


def test_a_broken_connection_and_a_wrong_reply_of_cohere_are_told_as_stated(stage, cohere, their_cohere):
    url = cohere(closed(), answer)
    assert content(rerank(from_pages(), "cohere:rerank-v3.5").invoke("which")) == PAGES
    assert len(stage.requests(url)) == 2
    cohere(body(b'{"results": [{"index": 0, "relevance_score": "high"}]}', Connection="close"))
    with pytest.raises(ReplyError):
        rerank(from_pages(), "cohere:rerank-v3.5").invoke("which")


def test_what_failed_is_a_failed_run_in_the_trace(cohere):
    cohere(refuse(400))
    tracer = Tracer()
    retriever = rerank(from_pages(), "cohere:rerank-v3.5", on_error="input_order")
    assert content(retriever.invoke("which", {"callbacks": [tracer]})) == PAGES[::-1]
    assert "HTTP 400" in tracer.ended["cohere:rerank-v3.5"].error
    assert tracer.ended["Reranker"].error is None


def test_what_cohere_bills_is_told_and_bounded_as_stated(stage, cohere):
    url, tracer, rankings = cohere(), Tracer(), []
    retriever = rerank(from_pages(), "cohere:rerank-v3.5", on_ranking=rankings.append, budget_usd=0.003)
    retriever.invoke("which", {"callbacks": [tracer]})
    told = tracer.ended["Reranker"].extra["metadata"]
    assert (told["rerankx_search_units"], told["rerankx_cost_usd"]) == (1, 0.002)
    assert rankings[0].usage.search_units == 1
    for spent in (retriever, rerank(from_pages(), "cohere:rerank-v3.5", max_calls=0)):
        with pytest.raises(RateLimitError):
            spent.invoke("which")
    assert len(stage.requests(url)) == 1


def test_many_documents_are_split_by_ours_alone(stage, cohere, their_cohere):
    url = cohere(dialect=replace(ENDPOINTS["cohere"], max_documents=None))
    documents = [Document(str(n)) for n in range(1001)]
    their_cohere(url).compress_documents(documents, "which")
    rerank(FromList(found=documents), "cohere:rerank-v3.5").invoke("which")
    sizes = [len(request.body["documents"]) for request in stage.requests(url)]
    assert (sizes[0], sorted(sizes[1:])) == (1001, [1, 1000])


def test_fields_and_lengths_reach_cohere_as_stated(stage, cohere, their_cohere):
    url = cohere()
    row = next(row for row in ROWS if "rank_fields" in row)
    options = eval("dict(" + ", ".join(re.findall(r"`(key=.+?)`", row)) + ")", {"as_yaml": as_yaml})
    record = {"text": "A week.", "title": "Refunds", "page": 3}
    document = Document(record["text"], metadata={"title": "Refunds", "page": 3})
    their_cohere(url).rerank([record], "which", rank_fields=["title", "text"], max_tokens_per_doc=99)
    retriever = rerank(FromList(found=[document]), "cohere:rerank-v3.5", max_tokens_per_doc=99, **options)
    retriever.invoke("which")
    theirs, ours = (request.body for request in stage.requests(url))
    assert ours["max_tokens_per_doc"] == theirs["max_tokens_per_doc"] == 99
    assert sorted(ours["documents"][0].splitlines()) == sorted(theirs["documents"][0].splitlines())
    assert ours["documents"] == ["title: Refunds\ntext: A week.\n"]


def test_the_object_that_is_kept_returns_no_more_than_its_own_top_n(cohere, their_cohere):
    url = cohere()
    line = re.search(r"If you keep the object, `(.+?)`", GUIDE)[1]
    store = SimpleNamespace(as_retriever=from_pages)
    for top_n, expected in ((3, 3), (5, 5)):
        scope = {"rerank": rerank, "store": store, "compressor": their_cohere(url, top_n=top_n)}
        kept = eval(line.replace(", candidates=50", ""), scope).invoke("which")
        assert len(kept) == expected


@pytest.mark.parametrize("line", re.findall(r"`(rerank\(r, \"(?!flashrank|cross-encoder)[\w-]+:.*?\))`", GUIDE))
def test_the_names_of_services_in_the_tables_are_asked_for_that_model(line, stage, keys):
    name, model = re.search(r'"([\w-]+):(.+?)"', line).groups()
    url = stage.address(answer, dialect=name, scorer=short_is_good)
    code = line.replace('"URL', f'"{url}') if '"URL' in line else f"{line[:-1]}, base_url={url!r})"
    found = eval(code, {"rerank": rerank, "r": from_pages(), "key": "the-reader's-own-key"}).invoke("which")
    top_n = int((re.search(r"top_n=(\d+)", line) or [0, 60])[1])
    assert content(found) == PAGES[:top_n]
    assert [document.id for document in found] == [str(60 - len(document.page_content)) for document in found]
    request = stage.requests(url)[0]
    if name != "tei":  # serves one model, whatever its name
        assert request.body["model"] == model
    key = KEY if name == "cohere" or ENDPOINTS[name].key_variables else ""
    used = request.headers.get(ENDPOINTS[name].auth.lower(), "").removeprefix("Bearer ")
    assert used == (key if "top_n" in line else "the-reader's-own-key")


def test_every_service_of_the_tables_is_tested():
    names = set(re.findall(r'rerank\(r, "([\w-]+):', GUIDE))
    assert names - {"flashrank", "cross-encoder"} == {
        "cohere", "jina-api", "infinity", "dashscope", "voyage", "nvidia", "nim", "mixedbread", "pinecone", "tei"
    }  # fmt: skip
    variables = {ENDPOINTS[name].key_variables[0] for name in ("jina-api", "dashscope", "voyage", "nvidia")}
    assert variables == {"JINA_API_KEY", "DASHSCOPE_API_KEY", "VOYAGE_API_KEY", "NVIDIA_API_KEY"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_jina_gives_the_same_and_its_scores_tell_the_rank_unless_declared(stage, keys, monkeypatch):
    compressors = pytest.importorskip(
        "langchain_community.document_compressors.jina_rerank", reason="needs: pip install langchain-community"
    )
    url = stage.address(answer, dialect="jina-api", scorer=short_is_good)
    monkeypatch.setattr(compressors, "JINA_API_URL", f"{url}/v1/rerank")
    theirs = compressors.JinaRerank(model="NAME", top_n=3)
    with theirs.session:
        before = theirs.compress_documents(from_pages().found, "which")
    options = {"base_url": url, "top_n": 3}
    after = rerank(from_pages(), "jina-api:NAME", **options).invoke("which")
    declared = rerank(from_pages(), "jina-api:NAME", scale="probability", **options).invoke("which")
    assert content(after) == content(before)
    assert [score for _, score in scored(after)] == [1, 59 / 60, 58 / 60]
    assert scored(declared) == scored(before)
    assert [document.id for document in before] == [None] * 3
    for name in ("jina-api", "voyage", "dashscope"):
        with pytest.raises(ValueError, match="min_score"):
            rerank(from_pages(), f"{name}:NAME", min_score=0.3)
    asked, *_ = stage.requests(url)
    assert asked.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("name", ["nvidia", "nim"])
def test_the_score_of_nvidia_is_the_sigmoid_of_the_logit_and_what_is_long_is_cut(name, stage, keys):
    url = stage.address(answer, dialect=name, scorer=[0.0, 2.0])
    found = rerank(from_pages("a", "b"), f"{name}:NAME", base_url=url).invoke("which")
    assert scored(found) == [("b", pytest.approx(0.880797)), ("a", 0.5)]
    assert stage.requests(url)[0].body["truncate"] == "END"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_defaults_of_the_community_for_services_are_as_stated(monkeypatch):
    pytest.importorskip("langchain_community", reason="needs: pip install langchain-community")
    from langchain_community.document_compressors import dashscope_rerank, infinity_rerank, jina_rerank

    fields = jina_rerank.JinaRerank.model_fields
    assert (fields["model"].default, fields["top_n"].default) == ("jina-reranker-v1-base-en", 3)
    assert infinity_rerank.DEFAULT_MODEL_NAME == "BAAI/bge-reranker-base"
    assert infinity_rerank.InfinityRerank.model_fields["top_n"].default == 3
    assert dashscope_rerank.DashScopeRerank.model_fields["top_n"].default == 3
    client = SimpleNamespace(Models=SimpleNamespace(gte_rerank="gte-rerank"))
    monkeypatch.setitem(sys.modules, "dashscope", SimpleNamespace(TextReRank=client))
    made = [
        dashscope_rerank.DashScopeRerank(model="mine", dashscope_api_key=KEY, **options)
        for options in ({}, {"client": client})
    ]
    assert [one.model for one in made] == ["gte-rerank", "mine"]
    ours = [ENDPOINTS[name].default_model for name in ("jina-api", "dashscope")]
    assert ours == ["jina-reranker-v3.5", "qwen3-rerank"]


RERANKERS = [row.split(" | ") for row in ROWS if row.startswith("| `Reranker(") and "api_key=key" in row]


@pytest.mark.parametrize(("theirs", "ours"), RERANKERS)
def test_the_services_of_rerankers_give_the_same(theirs, ours, stage, keys):
    rerankers = pytest.importorskip("rerankers", reason="needs: pip install 'rerankers[api]'")
    name, model = re.search(r'"([\w-]+):(.+?)"', ours).groups()
    dialect = ENDPOINTS[name]
    url = stage.address(answer, refuse(400), dialect=dialect, scorer=short_is_good)
    call = theirs.strip("| `").replace(', url="URL/rerank"', "").removesuffix(")")
    ranker = eval(f"{call}, url={url + dialect.path!r})", {"Reranker": rerankers.Reranker, "key": KEY})
    assert ranker.model == model
    pages = PAGES[30:0:-1]
    found = ranker.rank("which", pages)
    with pytest.raises((KeyError, TypeError)):
        ranker.rank("which", pages)
    ranking = Reranker(f"{name}:{model}", base_url=stage.address(answer, dialect=dialect, scorer=short_is_good))
    hits = ranking.rerank("which", pages)
    assert [(hit.index, hit.raw_score) for hit in hits] == [(one.doc_id, one.score) for one in found.results]


def test_all_six_services_of_rerankers_are_there():
    assert len(RERANKERS) == 6


def test_the_check_at_the_end_tells_a_difference(names):
    code = BLOCKS[-1][1]
    exec(compile(code, "guide", "exec"), {**names, "retriever": names["old_retriever"]})
    with pytest.raises(AssertionError):
        exec(compile(code, "guide", "exec"), {**names, "retriever": names["store"].as_retriever()})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_their_defaults_are_as_stated():
    classic = pytest.importorskip("langchain_classic.retrievers.document_compressors")
    cohere = pytest.importorskip("langchain_cohere", reason="needs: pip install langchain-cohere")
    assert classic.CrossEncoderReranker.model_fields["top_n"].default == 3
    assert cohere.CohereRerank.model_fields["top_n"].default == 3


def test_our_defaults_are_as_stated():
    assert CrossEncoder().model == MINILM == BUILT_IN["minilm"].model
    assert FlashRank().model == "ms-marco-TinyBERT-L-2-v2"
    assert BUILT_IN["bge"].model == "BAAI/bge-reranker-base"
    assert {name for name, entry in BUILT_IN.items() if entry.model} == {
        "minilm",
        "bge",
        "jina",
        "mxbai",
        "gte",
        "qwen3",
    }


def test_the_defaults_of_flashrank_are_as_stated():
    flashrank = pytest.importorskip("flashrank", reason="needs: pip install flashrank")
    theirs = {name: parameter.default for name, parameter in signature(flashrank.Ranker).parameters.items()}
    assert theirs == {
        "model_name": "ms-marco-TinyBERT-L-2-v2", "cache_dir": "/tmp", "max_length": 512, "log_level": "INFO"
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_defaults_of_the_community_are_as_stated():
    compressors = pytest.importorskip(
        "langchain_community.document_compressors.flashrank_rerank", reason="needs: pip install langchain-community"
    )
    encoders = pytest.importorskip("langchain_community.cross_encoders.huggingface")
    assert compressors.DEFAULT_MODEL_NAME == "ms-marco-MultiBERT-L-12"
    fields = compressors.FlashrankRerank.model_fields
    assert {name: fields[name].default for name in ("top_n", "score_threshold", "prefix_metadata")} == {
        "top_n": 3, "score_threshold": 0.0, "prefix_metadata": ""
    }  # fmt: skip
    assert encoders.HuggingFaceCrossEncoder.model_fields["model_name"].default == "BAAI/bge-reranker-base"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_flashrank_rerank_gives_the_same_and_does_what_is_stated(hub):
    compressors = pytest.importorskip(
        "langchain_community.document_compressors", reason="needs: pip install langchain-community"
    )
    flashrank = pytest.importorskip("flashrank", reason="needs: pip install flashrank")
    client = flashrank.Ranker(FLASH, cache_dir=str(hub[FLASH].parent))
    theirs = compressors.FlashrankRerank(client=client, top_n=99)
    documents = [Document(page, id=page) for page in PAGES]
    before = theirs.compress_documents(documents, "which")
    after = rerank(lambda query: documents, f"flashrank:{FLASH}").invoke("which")
    scores = [
        {document.page_content: document.metadata["relevance_score"] for document in found} for found in (before, after)
    ]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert [type(found["i"]).__name__ for found in scores] == ["float32", "float"]
    assert [found[0].id for found in (before, after)] == [None, after[0].page_content]
    assert set(before[0].metadata) == {"id", "relevance_score"}
    (stale,) = theirs.compress_documents([Document("i", metadata={"relevance_score": 2})], "which")
    assert stale.metadata["relevance_score"] == 2


def test_marks_in_a_text_are_characters_like_any_others(hub):
    flashrank = pytest.importorskip("flashrank", reason="needs: pip install flashrank")
    client = flashrank.Ranker(FLASH, cache_dir=str(hub[FLASH].parent))
    text = "one [SEP] two"
    (theirs,) = client.rerank(flashrank.RerankRequest("which", [{"text": text}]))
    (ours,) = Reranker(FlashRank(hub[FLASH])).rerank("which", [text])
    assert abs(theirs["score"] - ours.score) > 1e-3
