"""The LlamaIndex migration guide: our code runs and keeps what it should, theirs parses, and what is said of theirs is so."""

import ast
import re
import sys
from contextlib import suppress
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")
import numpy as np
from llama_index.core import MockEmbedding, Settings, VectorStoreIndex
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import ChatMessage, ChatResponse, CompletionResponse, MockLLM
from llama_index.core.postprocessor import LLMRerank, SentenceTransformerRerank
from llama_index.core.postprocessor.rankGPT_rerank import RankGPTRerank
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from llamaindex_rerankx import Rerank, RerankedNode, rerank

GUIDE = (Path(__file__).parents[1] / "docs" / "moving-to-rerankx-in-llamaindex.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (before|ours) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
# The shortest first: every model below prefers it.
PAGES = ["i" * n for n in range(1, 61)]
QUERY = "which"


class CrossEncoder:
    """Stands in for that of sentence-transformers."""

    def __init__(self, model, **options):
        self.options = options

    def predict(self, pairs, *, activation_fn=None):
        scores = np.array([-len(text) for _, text in pairs], np.float32)
        return scores if activation_fn is None else activation_fn(scores)


class RerankRequest:
    def __init__(self, query, passages):
        self.passages = passages


class Ranker:
    """Stands in for that of flashrank."""

    def __init__(self, model_name="a model", max_length=512):
        self.model_name = model_name

    def rerank(self, request):
        scored = [{**passage, "score": np.float32(1 / len(passage["text"]))} for passage in request.passages]
        return sorted(scored, key=lambda passage: -passage["score"])


class ClientV2:
    """Stands in for that of cohere."""

    def __init__(self, api_key, *, base_url=None, timeout=None):
        self.timeout = timeout

    def rerank(self, *, model, query, documents):
        order = sorted(range(len(documents)), key=lambda i: len(documents[i]))
        return SimpleNamespace(results=[SimpleNamespace(index=i, relevance_score=1 / len(documents[i])) for i in order])


class Ordering(MockLLM):
    """Answers RankGPT with the shortest passage first."""

    def chat(self, messages, **kwargs):
        shown = [re.match(r"\[(\d+)] (\w+)$", str(message.content)) for message in messages]
        order = sorted((match for match in shown if match), key=lambda match: len(match[2]))
        answer = " > ".join(f"[{match[1]}]" for match in order)
        return ChatResponse(message=ChatMessage(role="assistant", content=answer))


def says(answer):
    """Return a model that has this one answer."""

    class Says(MockLLM):
        def complete(self, prompt, formatted=False, **kwargs):
            return CompletionResponse(text=answer)

    return Says()


class Shortest(BaseNodePostprocessor):
    def _postprocess_nodes(self, nodes, query_bundle=None):
        return sorted(nodes, key=lambda node: len(node.text))[:5]


class Events(BaseEventHandler):
    seen: list

    def handle(self, event, **kwargs):
        self.seen.append(event.class_name())


@pytest.fixture(autouse=True)
def models(monkeypatch):
    """Stand in for what needs a key, a download or a model of one's own."""
    with suppress(ImportError):  # its tests skip themselves
        base = import_module("llama_index.postprocessor.flashrank_rerank.base")
        monkeypatch.setattr(base, "Ranker", Ranker)
        monkeypatch.setattr(base, "RerankRequest", RerankRequest)
    for name, parts in {
        "sentence_transformers": [CrossEncoder],
        "flashrank": [Ranker, RerankRequest],
        "cohere": [ClientV2],
    }.items():
        try:
            module = import_module(name)
        except ImportError:
            module = ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
        for part in parts:
            monkeypatch.setattr(module, part.__name__, part, raising=False)
    monkeypatch.setenv("COHERE_API_KEY", "none")
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=2))


@pytest.fixture
def names():
    """Return what the guide's reader has."""
    index = VectorStoreIndex([TextNode(text=page, id_=str(len(page))) for page in PAGES])
    return {
        "__name__": "guide",
        "index": index,
        "postprocessor": Shortest(),
        "llm": Ordering(),
        "old_engine": index.as_query_engine(similarity_top_k=10),
        "queries": [QUERY],
    }


def nodes(*texts):
    return [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=1 - i / 10) for i, text in enumerate(texts)]


def flash(**options):
    base = pytest.importorskip(
        "llama_index.postprocessor.flashrank_rerank.base",
        reason="needs: pip install llama-index-postprocessor-flashrank-rerank",
    )
    return base.FlashRankRerank(**options)


def test_every_python_block_is_marked():
    assert len(BLOCKS) == GUIDE.count("```python") >= 12


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "before"])
def test_their_code_parses(code):
    ast.parse(code)


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "ours" and "engine = " in code])
def test_our_code_returns_the_best_of_the_candidates(code, names):
    exec(compile(code, "guide", "exec"), names)
    candidates = names["index"].as_retriever(similarity_top_k=20).retrieve(QUERY)
    best = sorted((node.text for node in candidates), key=len)[:5]
    results = [names["engine"].query(QUERY).source_nodes]
    if "retriever = " in code:
        results.append(names["retriever"].retrieve(QUERY))
    for found in results:
        assert len(found) == 5
        if "Rerank(top_n" not in code:  # the embedded model has another opinion of these pages
            assert [node.text for node in found] == best
        if "postprocessor," not in code:
            assert all(isinstance(node, RerankedNode) and type(node.score) is float for node in found)
            assert all(0 < node.score <= 1 for node in found)


def test_the_lines_of_the_first_table_are_lines_that_work(names):
    engine = names["index"].as_query_engine()
    lines = re.findall(r"\| `(rerank\(engine, \w+\(.*?\))` \|", GUIDE)
    assert len(lines) == 4
    for line in lines:
        if "Cohere" in line:
            continue  # its package is not among the tests' own
        if "FlashRank" in line:
            flash()
        scope = {
            **names,
            "rerank": rerank,
            "engine": engine,
            "SentenceTransformerRerank": lambda **options: SentenceTransformerRerank(device="cpu", **options),
            "FlashRankRerank": flash,
            "LLMRerank": LLMRerank,
            "llm": says("\n".join(f"Doc: {n}, Relevance: 5" for n in range(1, 11))),
        }
        assert len(eval(line, scope).query(QUERY).source_nodes) == 5


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (lambda: SentenceTransformerRerank(device="cpu", top_n=99), 'SentenceTransformer("a model")'),
        (lambda: flash(top_n=99), 'FlashRank("a model")'),
        (lambda: RankGPTRerank(llm=Ordering(), top_n=99), "Listwise(RankGPTRerank(llm=llm, top_n=99))"),
    ],
    ids=["SentenceTransformerRerank", "FlashRankRerank", "RankGPTRerank"],
)
def test_the_order_of_the_model_stays_ties_included(theirs, ours, names):
    code = next(code for _, code in BLOCKS if f"class {ours.split('(')[0]}(" in code)
    exec(compile(code, "guide", "exec"), names)
    texts = ["iii", "i", "ii", "jjj", "j", "kkkk", "kk", "k", "jj"]
    before = theirs().postprocess_nodes(nodes(*texts), query_str=QUERY)
    after = Rerank(eval(ours, names)).postprocess_nodes(nodes(*texts), query_str=QUERY)
    assert [node.text for node in after] == [node.text for node in before] != texts


def listwise(names, postprocessor):
    code = next(code for _, code in BLOCKS if "class Listwise" in code)
    exec(compile(code, "guide", "exec"), names)
    return Rerank(names["Listwise"](postprocessor))


def test_around_an_llm_reranker_nothing_is_lost_and_nothing_comes_twice(names):
    theirs = LLMRerank(llm=says("Doc: 2, Relevance: 9\nDoc: 3, Relevance: 8\nDoc: 2, Relevance: 7"))
    texts = ["a", "b", "c", "d"]
    assert [node.text for node in theirs.postprocess_nodes(nodes(*texts), query_str=QUERY)] == ["b", "c", "b"]
    found = listwise(names, theirs).postprocess_nodes(nodes(*texts), query_str=QUERY)
    assert [(node.text, node.score) for node in found] == [("b", 1.0), ("c", 0.75), ("a", 0.0), ("d", 0.0)]


def test_around_an_llm_reranker_a_reply_without_a_list_is_told(names):
    llm = says("I cannot say.")
    assert LLMRerank(llm=llm).postprocess_nodes(nodes("a", "b"), query_str=QUERY) == []
    found = listwise(names, LLMRerank(llm=llm)).postprocess_nodes(nodes("a", "b"), query_str=QUERY)
    assert [(node.text, node.degraded) for node in found] == [("a", "incomplete"), ("b", "incomplete")]


def test_the_check_at_the_end_tells_a_difference(names):
    code = BLOCKS[-1][1]
    exec(compile(code, "guide", "exec"), {**names, "engine": names["old_engine"]})
    with pytest.raises(AssertionError):
        exec(compile(code, "guide", "exec"), {**names, "engine": names["index"].as_query_engine()})


def test_lists_given_to_the_wrong_place_do_nothing_as_stated(names):
    index, cut = names["index"], [Rerank(top_n=1)]
    assert len(index.as_query_engine().query(QUERY).source_nodes) == 2
    assert len(index.as_retriever(node_postprocessors=cut).retrieve(QUERY)) == 2
    engine = index.as_query_engine()
    engine.node_postprocessors = cut
    assert len(engine.query(QUERY).source_nodes) == 2


def test_their_defaults_are_as_stated():
    encoder = signature(SentenceTransformerRerank).parameters
    assert encoder["top_n"].default == 2
    assert encoder["model"].default == "cross-encoder/stsb-distilroberta-base"
    assert encoder["trust_remote_code"].default is True
    assert signature(LLMRerank).parameters["top_n"].default == 10
    assert signature(LLMRerank).parameters["choice_batch_size"].default == 10
    assert signature(RankGPTRerank).parameters["top_n"].default == 5


def test_the_defaults_of_flashrank_rerank_are_as_stated():
    fields = type(flash()).model_fields
    assert {name: fields[name].default for name in ("top_n", "model", "max_length")} == {
        "top_n": 20,
        "model": "ms-marco-TinyBERT-L-2-v2",
        "max_length": 512,
    }
    assert flash(topn=3).top_n == 20


def test_the_defaults_of_cohere_rerank_are_as_stated(monkeypatch):
    cohere = pytest.importorskip(
        "llama_index.postprocessor.cohere_rerank", reason="needs: pip install llama-index-postprocessor-cohere-rerank"
    )
    theirs = cohere.CohereRerank()
    assert (theirs.top_n, theirs.model, theirs.max_retries) == (2, "rerank-english-v3.0", 10)
    monkeypatch.delenv("COHERE_API_KEY")
    with pytest.raises((KeyError, ValueError)):  # 0.10.0 raises a KeyError, the next one a ValueError
        cohere.CohereRerank()


def test_what_sentence_transformer_rerank_does_is_as_stated():
    theirs = SentenceTransformerRerank(device="cpu", keep_retrieval_score=True)
    assert theirs._model.options == {"max_length": 512, "device": "cpu", "trust_remote_code": True}
    assert theirs.trust_remote_code is False
    came = nodes("iii", "i", "ii")
    found = theirs.postprocess_nodes(came, query_str=QUERY)
    assert found[0] is came[1]
    assert came[2].score == -2
    assert type(found[0].score) is np.float32
    with pytest.raises(ValueError, match="serializ"):
        found[0].model_dump_json()
    assert "retrieval_score" in found[0].node.get_content(metadata_mode=MetadataMode.LLM)
    assert len(SentenceTransformerRerank(device="cpu", top_n=-1).postprocess_nodes(came, query_str=QUERY)) == 2
    (ours,) = Rerank(keep_retrieval_score=True).postprocess_nodes(nodes("i"), query_str=QUERY)
    assert ours.metadata == {"retrieval_score": 1.0}
    assert "retrieval_score" not in ours.node.get_content(metadata_mode=MetadataMode.LLM)


def test_what_flashrank_rerank_does_is_as_stated():
    came = nodes("iii", "i")
    came[1].node.id_ = came[0].node.id_
    found = flash().postprocess_nodes(came, query_str=QUERY)
    assert found[0].score == found[1].score
    assert type(found[0].score) is np.float32


def test_what_the_llm_rerankers_do_is_as_stated():
    def read(answer):
        found = LLMRerank(llm=says(answer)).postprocess_nodes(nodes("a", "b"), query_str=QUERY)
        return [(node.text, node.score) for node in found]

    assert read("Doc: 0, Relevance: 5") == [("b", 5)]
    assert read("Doc: 1, Relevance: 0.9") == [("a", 0)]
    with pytest.raises(IndexError):
        read("Doc: -9, Relevance: 5")
    with pytest.raises(ValueError, match="llm"):
        RankGPTRerank()
    found = RankGPTRerank(llm=Ordering()).postprocess_nodes(nodes("iii", "i"), query_str=QUERY)
    assert [(node.text, node.score) for node in found] == [("i", 0.9), ("iii", 1)]


@pytest.mark.parametrize(
    ("make", "sent"),
    [
        (lambda: SentenceTransformerRerank(device="cpu"), False),
        (flash, False),
        (lambda: LLMRerank(llm=says("Doc: 1, Relevance: 5")), False),
        (lambda: RankGPTRerank(llm=Ordering()), False),
        (Rerank, True),
    ],
    ids=["SentenceTransformerRerank", "FlashRankRerank", "LLMRerank", "RankGPTRerank", "ours"],
)
def test_who_sends_the_events_that_tracers_know_is_as_stated(make, sent):
    handler, root = Events(seen=[]), get_dispatcher()
    root.add_event_handler(handler)
    try:
        make().postprocess_nodes(nodes("a", "b"), query_str=QUERY)
    finally:
        root.event_handlers.remove(handler)
    assert ({"ReRankStartEvent", "ReRankEndEvent"} <= set(handler.seen)) is sent
