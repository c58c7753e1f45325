"""The LlamaIndex migration guide: our code runs and keeps what it should, theirs parses, and what is said of theirs is so."""

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
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from shutil import copytree
from types import ModuleType, SimpleNamespace

import pytest
from fault_stage import FaultStage, closed, status

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
from rerankx import AuthenticationError, BackendError, RateLimitError, ReplyError, Reranker, as_yaml
from rerankx.backends.cross_encoder import CrossEncoder as OurCrossEncoder
from rerankx.backends.flashrank import REPOSITORY, FlashRank
from rerankx.catalogue import FLASHRANK
from rerankx.catalogue.endpoints import ENDPOINTS
from rerankx.cli import main
from rerankx.registry import BUILT_IN

# LlamaIndex imports langchain-community where it is installed, and that says at once that it is no longer maintained.
pytestmark = pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")

GUIDE = (Path(__file__).parents[1] / "docs" / "moving-to-rerankx-in-llamaindex.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (before|ours) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
PAGES = ["i" * n for n in range(1, 61)]
TEXTS = ["iii", "i", "ii", "jjj", "j", "kkkk", "kk", "k", "jj"]
PASSAGES = ["The valve is closed.", "Refunds take ten days.", "no", "The valve is closed.", "A longer one, " * 9, "no"]
ROWS = [line for line in GUIDE.splitlines() if line.startswith("| ")]
QUERY = "which"
KEY = "a-key-of-these-tests"
MINILM = "cross-encoder/ms-marco-MiniLM-L6-v2"
FLASH = ("ms-marco-MiniLM-L-12-v2", "ms-marco-TinyBERT-L-2-v2")


class CrossEncoder:
    """Stands in for that of sentence-transformers. It prefers the shortest, as all stand-ins do."""

    def __init__(self, model, **options):
        self.options = options

    def predict(self, pairs, *, activation_fn=None):
        scores = np.array([-len(text) for _, text in pairs], np.float32)
        return scores if activation_fn is None else activation_fn(scores)


class Ordering(MockLLM):
    """Answers RankGPT, and ours, with the shortest passage first."""

    def chat(self, messages, **kwargs):
        said = "\n".join(str(message.content) for message in messages)
        theirs, ours = r"^\[(\d+)] (\w+)$", r'^<passage id="(\d+)">\n(.+)\n</passage>$'
        shown = [*re.finditer(theirs, said, re.MULTILINE), *re.finditer(ours, said, re.MULTILINE)]
        order = sorted(shown, key=lambda match: len(match[2]))
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
def without_models(monkeypatch):
    """Stand in for the models of LlamaIndex itself."""
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    monkeypatch.setattr(Settings, "_embed_model", MockEmbedding(embed_dim=2))


@pytest.fixture
def no_torch(monkeypatch):
    """Stand in for sentence-transformers, whose models `SentenceTransformerRerank` fetches."""
    stand_in(monkeypatch, "sentence_transformers", CrossEncoder)


def stand_in(monkeypatch, name, part):
    try:
        module = import_module(name)
    except ImportError:
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(module, part.__name__, part, raising=False)


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
def their_cohere(keys, monkeypatch):
    """Return LlamaIndex's CohereRerank for an address."""
    theirs = pytest.importorskip(
        "llama_index.postprocessor.cohere_rerank", reason="needs: pip install llama-index-postprocessor-cohere-rerank"
    )
    monkeypatch.setenv("COHERE_API_KEY", KEY)
    return lambda url, **fields: theirs.CohereRerank(**{"base_url": url, "model": "rerank-v3.5", **fields})


async def answer(exchange):
    """Answer, and have the client close the connection: theirs keeps it open otherwise, and nothing closes it."""
    await exchange.send_json(exchange.reply(), Connection="close")


def refuse(code):
    return status(code, Connection="close")


def short_is_good(query, texts):
    return [1 / len(text) for text in texts]


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """Serve small models with random weights under the names in the guide; return the folders with the same files."""
    pytest.importorskip("onnx", reason="needs the package onnx, by which the models of these tests are written")
    from engines.graph_stage import save_model
    from engines.hub_stage import HubStage
    from huggingface_hub import constants

    home = tmp_path_factory.mktemp("hub")
    folders = {MINILM: save_model(home / "minilm", seed=1, name="onnx/model.onnx")}
    zips = {}
    for seed, name in enumerate(FLASH, 2):
        folders[name] = flash_files(home / name, seed, save_model)
        zips[f"{name}.zip"] = packed(folders[name])
    names = ("config.json", "tokenizer.json", "onnx/model.onnx")
    with ExitStack() as stack:
        stage = stack.enter_context(HubStage())
        stack.enter_context(stage.in_process(home))
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        # A GPU would be taken where torch finds one, and there are no weights for torch here.
        patch.setattr("rerankx.backends.cross_encoder._sees_cuda", lambda: False)
        stage.add(MINILM, "main", {name: (folders[MINILM] / name).read_bytes() for name in names}, lfs=names[2:])
        stage.add(REPOSITORY, "main", zips, lfs=tuple(zips))
        yield folders


def flash_files(folder, seed, save_model):
    save_model(folder, config={"pad_token_id": 0}, seed=seed, name=str(FLASHRANK[folder.name].onnx_file))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 512, "pad_token": "[PAD]"}))
    (folder / "special_tokens_map.json").write_text(json.dumps({"sep_token": "[SEP]", "pad_token": "[PAD]"}))
    return folder


def packed(folder):
    """Return the folder as FlashRank's zips hold theirs."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"{folder.name}/{path.name}")
    return content.getvalue()


def shortest_first(texts):
    return sorted(texts, key=len)


def judge(hub, code):
    """Return a function that orders texts as the model named in the code does, by its files."""
    flash = next((name for name in FLASH if f"flashrank:{name}" in code), None)
    model = OurCrossEncoder(hub[MINILM]) if flash is None else FlashRank(hub[flash])
    return lambda texts: [hit.document for hit in Reranker(model).rerank(QUERY, texts)]


def of_the_hub(code):
    return re.search("minilm|cross-encoder:|flashrank:", code) is not None


@pytest.fixture
def flash(hub, tmp_path, monkeypatch):
    """Return LlamaIndex's FlashRankRerank, which finds the files where FlashRank would have put them."""
    base = pytest.importorskip(
        "llama_index.postprocessor.flashrank_rerank.base",
        reason="needs: pip install llama-index-postprocessor-flashrank-rerank",
    )
    for name in FLASH:
        copytree(hub[name], tmp_path / name)
    monkeypatch.setattr(base, "Ranker", partial(base.Ranker, cache_dir=str(tmp_path)))
    return base.FlashRankRerank


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


def test_every_python_block_is_marked():
    assert len(BLOCKS) == GUIDE.count("```python") >= 12


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "before"])
def test_their_code_parses(code):
    ast.parse(code)


@pytest.mark.parametrize("code", [code for whose, code in BLOCKS if whose == "ours" and "engine = " in code])
def test_our_code_returns_the_best_of_the_candidates(code, names, request):
    order = shortest_first
    if "cohere:" in code:
        request.getfixturevalue("cohere")()
    elif of_the_hub(code):
        order = judge(request.getfixturevalue("hub"), code)
    exec(compile(code, "guide", "exec"), names)
    candidates = names["index"].as_retriever(similarity_top_k=20).retrieve(QUERY)
    best = order([node.text for node in candidates])[:5]
    results = [names["engine"].query(QUERY).source_nodes]
    if "retriever = " in code:
        results.append(names["retriever"].retrieve(QUERY))
    for found in results:
        assert len(found) == 5
        if "[Rerank(top_n" not in code:  # the embedded model has another opinion of these pages
            assert [node.text for node in found] == best
        if "postprocessor," not in code:
            assert all(isinstance(node, RerankedNode) and type(node.score) is float for node in found)
            assert all(0 < node.score <= 1 for node in found)


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize("line", re.findall(r"\| `(rerank\(engine, \w+\(.*?\))` \|", GUIDE))
def test_the_lines_of_the_first_table_are_lines_that_work(line, names, request):
    scope = {
        "rerank": rerank,
        "engine": names["index"].as_query_engine(),
        "SentenceTransformerRerank": lambda **options: SentenceTransformerRerank(device="cpu", **options),
        "LLMRerank": LLMRerank,
        "llm": says("\n".join(f"Doc: {n}, Relevance: 5" for n in range(1, 11))),
    }
    if "FlashRank" in line:
        scope["FlashRankRerank"] = request.getfixturevalue("flash")
    if "Cohere" in line:
        scope["CohereRerank"] = partial(request.getfixturevalue("their_cohere"), request.getfixturevalue("cohere")())
    assert len(eval(line, scope).query(QUERY).source_nodes) == 5


def test_the_first_table_keeps_four_postprocessors():
    assert len(re.findall(r"\| `(rerank\(engine, \w+\(.*?\))` \|", GUIDE)) == 4


@pytest.mark.parametrize("line", re.findall(r"\| `(rerank\(engine, \".*?\))`:", GUIDE))
def test_the_names_in_the_first_table_keep_the_model(line, names, hub, request):
    if "cohere" in line:
        request.getfixturevalue("cohere")()
    line = line.replace("NAME", FLASH[0] if "flashrank" in line else MINILM)
    scope = {"rerank": rerank, "engine": names["index"].as_query_engine(), "llm": names["llm"]}
    found = eval(line, scope).query(QUERY).source_nodes
    candidates = [node.text for node in names["index"].as_retriever(similarity_top_k=20).retrieve(QUERY)]
    order = judge(hub, line) if of_the_hub(line) else shortest_first
    assert [node.text for node in found] == order(candidates)[:5]


def test_the_models_of_the_hub_and_the_stand_ins_have_opinions_of_their_own(hub):
    orders = [judge(hub, name)(PAGES) for name in ("minilm", *(f"flashrank:{name}" for name in FLASH))]
    assert len({tuple(order[:3]) for order in [*orders, shortest_first(PAGES)]}) == 4


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`rerankx (.+?)`", GUIDE))))
def test_the_commands_do_what_they_should(command, hub, capsys):
    assert main(command.split()) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ([MINILM, FLASH[0]] if command == "models" else ["onnx", "cpu"]))


def test_the_order_of_an_llm_reranker_stays():
    theirs = RankGPTRerank(llm=Ordering(), top_n=99).postprocess_nodes(nodes(*TEXTS), query_str=QUERY)
    ours = Rerank("listwise", llm=Ordering()).postprocess_nodes(nodes(*TEXTS), query_str=QUERY)
    assert [node.text for node in ours] == [node.text for node in theirs] != TEXTS


def same_as(theirs, ours, tolerance):
    """Check that two rerankings give the same scores and the same order, and that in ours equal texts stay as they came."""
    before, after = (one.postprocess_nodes(nodes(*PASSAGES), query_str=QUERY) for one in (theirs, ours))
    places = {text: [i for i, other in enumerate(PASSAGES) if other == text] for text in PASSAGES}
    assert [node.score for node in after] == pytest.approx([float(node.score) for node in before], abs=tolerance)
    assert [node.text for node in after] == [node.text for node in before] != PASSAGES
    assert [node.node_id for node in after] == [str(i) for node in before for i in places.pop(node.text, ())]


@pytest.mark.parametrize("name", FLASH)
def test_in_fp32_scores_and_order_are_those_of_flash_rank_rerank(name, flash):
    theirs = flash(model=name, top_n=99)
    same_as(theirs, Rerank(f"flashrank:{name}"), 1e-5)
    same_as(theirs, Rerank(f"flashrank:{name}", engine="flashrank"), 1e-9)


def test_of_a_quantised_file_their_scores_depend_on_the_batch_and_ours_do_not(hub, tmp_path):
    flashrank = pytest.importorskip("flashrank", reason="needs: pip install flashrank")
    from onnxruntime.quantization import quantize_dynamic

    folder = copytree(hub[FLASH[0]], tmp_path / "quantised" / FLASH[0])
    (graph,) = folder.glob("*.onnx")
    quantize_dynamic(hub[FLASH[0]] / graph.name, graph)
    theirs = flashrank.Ranker(FLASH[0], cache_dir=str(folder.parent))
    ours = FlashRank(folder)

    def by_theirs(*texts):
        found = theirs.rerank(flashrank.RerankRequest(QUERY, [{"text": text} for text in texts]))
        return {one["text"]: one["score"] for one in found}["no"]

    def by_ours(*texts):
        return ours.score(QUERY, texts).values[0]

    assert abs(by_theirs("no") - by_theirs("no", *PASSAGES)) > 1e-5
    assert by_ours("no") == by_ours("no", *PASSAGES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_in_fp32_scores_and_order_are_those_of_sentence_transformer_rerank(tmp_path):
    for package in ("onnx", "onnxscript", "sentence_transformers"):
        pytest.importorskip(
            package, reason="needs sentence-transformers, onnx and onnxscript: one model in both formats"
        )
    from engines.graph_stage import export
    from engines.torch_stage import save_classifier
    from transformers import AutoModelForSequenceClassification

    folder = save_classifier("bert", tmp_path / "model")
    export(AutoModelForSequenceClassification.from_pretrained(folder), folder / "onnx/model.onnx", types=True)
    ours = Rerank(f"cross-encoder:{folder}", engine="onnx", scale="logit", cache_dir=str(tmp_path / "cache"))
    theirs = SentenceTransformerRerank(model=str(folder), device="cpu", top_n=99)
    same_as(theirs, ours, 1e-4)
    marked = [one.postprocess_nodes(nodes("one [SEP] two"), query_str=QUERY)[0].score for one in (theirs, ours)]
    assert abs(marked[0] - marked[1]) > 1e-4


def test_without_a_word_on_the_scale_min_score_is_refused(hub):
    name = f"cross-encoder:{hub[MINILM]}"
    with pytest.raises(ValueError, match="min_score"):
        Rerank(name, min_score=0.3)
    ranks = Rerank(name).postprocess_nodes(nodes("a", "b", "c", "d"), query_str=QUERY)
    assert [node.score for node in ranks] == [1.0, 0.75, 0.5, 0.25]
    assert Rerank(name, scale="logit", min_score=0.3).min_score == 0.3


@pytest.mark.parametrize("name", FLASH)
def test_marks_in_a_text_are_characters_like_any_others(name, flash):
    (theirs,) = flash(model=name).postprocess_nodes(nodes("one [SEP] two"), query_str=QUERY)
    (ours,) = Rerank(f"flashrank:{name}").postprocess_nodes(nodes("one [SEP] two"), query_str=QUERY)
    assert abs(theirs.score - ours.score) > 1e-4


def test_our_defaults_are_as_stated():
    assert OurCrossEncoder().model == BUILT_IN["minilm"].model == MINILM
    assert FlashRank().model == "ms-marco-TinyBERT-L-2-v2"
    assert {name for name, entry in BUILT_IN.items() if entry.model} == {
        "minilm",
        "bge",
        "jina",
        "mxbai",
        "gte",
        "qwen3",
    }


def test_what_an_llm_does_not_list_and_lists_twice_is_there_once_as_stated():
    theirs = LLMRerank(llm=says("Doc: 2, Relevance: 9\nDoc: 3, Relevance: 8\nDoc: 2, Relevance: 7"))
    texts = ["a", "b", "c", "d"]
    assert [node.text for node in theirs.postprocess_nodes(nodes(*texts), query_str=QUERY)] == ["b", "c", "b"]
    found = Rerank("listwise", llm=says("[2] > [3] > [2] > [-9]")).postprocess_nodes(nodes(*texts), query_str=QUERY)
    assert [(node.text, node.score) for node in found] == [("b", 1.0), ("c", 0.75), ("a", 0.5), ("d", 0.25)]


def test_an_answer_that_is_no_ranking_is_told_as_stated():
    llm = says("I cannot say.")
    assert LLMRerank(llm=llm).postprocess_nodes(nodes("a", "b"), query_str=QUERY) == []
    with pytest.raises(ReplyError):
        Rerank("listwise", llm=llm).postprocess_nodes(nodes("a", "b"), query_str=QUERY)
    lenient = Rerank("listwise", llm=llm, on_bad_reply="input_order")
    found = lenient.postprocess_nodes(nodes("a", "b"), query_str=QUERY)
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


def test_the_defaults_of_flashrank_rerank_are_as_stated(flash):
    fields = flash.model_fields
    assert {name: fields[name].default for name in ("top_n", "model", "max_length")} == {
        "top_n": 20,
        "model": "ms-marco-TinyBERT-L-2-v2",
        "max_length": 512,
    }
    assert flash(topn=3).top_n == 20
    assert signature(flash()._reranker.__class__).parameters["cache_dir"].default == "/tmp"
    assert "cache_dir" not in fields


def test_the_defaults_of_cohere_rerank_are_as_stated(their_cohere, monkeypatch):
    from rerankx.backends.cohere import DEFAULT, Cohere

    theirs = type(their_cohere(None))()
    assert (theirs.top_n, theirs.model, theirs.max_retries) == (2, "rerank-english-v3.0", 10)
    assert theirs._client._client_wrapper.get_timeout() == 300
    assert f'`"cohere"` alone is `{DEFAULT}`' in GUIDE
    ours = signature(Cohere).parameters
    assert [ours[name].default for name in ("timeout_s", "max_retries")] == [30, 2]
    monkeypatch.delenv("COHERE_API_KEY")
    with pytest.raises((KeyError, ValueError)):  # 0.10.0 raises a KeyError, the next one a ValueError
        their_cohere(None)
    monkeypatch.delenv("CO_API_KEY")
    with pytest.raises(AuthenticationError, match="CO_API_KEY or COHERE_API_KEY"):
        Rerank("cohere")


def cohere_blocks():
    """Return their code, ours, and ours with a fallback."""
    return [code for _, code in BLOCKS if "rerank-v3.5" in code]


def ranked(reranker, *texts):
    return [
        (node.text, node.score) for node in reranker.postprocess_nodes(nodes(*texts or PAGES[::-1]), query_str=QUERY)
    ]


def content(found):
    return [node.text for node in found]


@pytest.mark.usefixtures("their_cohere")
def test_cohere_is_asked_the_same_and_gives_the_same(names, stage, cohere):
    url = cohere()
    before, ours, _ = cohere_blocks()
    found = []
    for code in (before.replace("CohereRerank(", f"CohereRerank(base_url={url!r}, "), ours):
        exec(compile(code, "guide", "exec"), names)
        found.append([(node.text, node.score, node.node_id) for node in names["engine"].query(QUERY).source_nodes])
    assert found[0] == found[1]
    asked, asked_by_ours = stage.requests(url)
    assert {**asked.body, "top_n": 20} == asked_by_ours.body
    assert asked.headers["authorization"] == asked_by_ours.headers["authorization"] == f"Bearer {KEY}"


def test_where_cohere_is_down_the_fallback_answers(names, cohere, hub):
    cohere(refuse(503))
    exec(compile(cohere_blocks()[2], "guide", "exec"), names)
    candidates = content(names["index"].as_retriever(similarity_top_k=20).retrieve(QUERY))
    found = names["engine"].query(QUERY).source_nodes
    assert content(found) == judge(hub, "minilm")(candidates)[:5]
    assert {node.degraded for node in found} == {"fallback"}


def test_where_the_fallback_answers_the_threshold_of_cohere_is_not_applied(cohere, hub):
    cohere(refuse(503))
    found = ranked(Rerank("cohere:rerank-v3.5", min_score=1.0, fallback="minilm"))
    assert [text for text, _ in found] == judge(hub, "minilm")(PAGES[::-1])
    cohere()
    assert ranked(Rerank("cohere:rerank-v3.5", min_score=1.0)) == [("i", 1.0)]


def test_keys_and_addresses_of_cohere_are_read_as_stated(stage, cohere, their_cohere, monkeypatch):
    url = cohere()
    monkeypatch.setenv("COHERE_API_KEY", "another-key-of-these-tests")
    ranked(their_cohere(url))
    ranked(Rerank("cohere"))
    ranked(Rerank("cohere", api_key="a-third-key-of-these-tests"))
    monkeypatch.delenv("CO_API_KEY")
    ranked(Rerank("cohere"))
    used = [request.headers["authorization"].removeprefix("Bearer ") for request in stage.requests(url)]
    another = "another-key-of-these-tests"
    assert used == [another, KEY, "a-third-key-of-these-tests", another]
    assert their_cohere(None)._client._client_wrapper.get_base_url() == "https://api.cohere.com"


def test_the_clients_of_the_sdk_are_taken_as_stated(stage, cohere):
    import cohere as sdk

    url = cohere()
    for make in (sdk.ClientV2, sdk.AsyncClientV2):
        client = make(KEY, base_url=url, client_name="mine")
        assert [text for text, _ in ranked(Rerank("cohere:rerank-v3.5", client=client))] == PAGES
    assert {request.headers["x-client-name"] for request in stage.requests(url)} == {"mine"}
    assert issubclass(sdk.BedrockClientV2, sdk.ClientV2)
    assert issubclass(sdk.SagemakerClientV2, sdk.ClientV2)


def test_cohere_is_asked_in_the_event_loop_by_ours_alone(cohere, their_cohere, monkeypatch):
    import cohere as sdk

    url, asked_in = cohere(), []

    def seen(rerank):
        return lambda *args, **options: (asked_in.append(threading.current_thread()), rerank(*args, **options))[1]

    for client in (sdk.ClientV2, sdk.AsyncClientV2):
        monkeypatch.setattr(client, "rerank", seen(client.rerank))
    for reranker in (their_cohere(url), Rerank("cohere:rerank-v3.5")):
        asyncio.run(reranker.apostprocess_nodes(nodes("i"), query_str=QUERY))
    theirs, ours = asked_in
    assert theirs is not threading.main_thread()
    assert ours is threading.main_thread()


@pytest.mark.parametrize(
    ("code", "theirs", "ours"),
    [(408, 3, 3), (409, 3, 3), (429, 3, 3), (500, 6, 3), (503, 6, 3), (504, 6, 3), (400, 1, 1)],
)
def test_cohere_is_asked_again_as_stated(code, theirs, ours, stage, cohere, their_cohere, monkeypatch):
    import tenacity.nap
    from cohere.core import http_client
    from cohere.core.api_error import ApiError

    no_wait = SimpleNamespace(sleep=lambda seconds: None, time=lambda: 0)
    monkeypatch.setattr(http_client, "time", no_wait)
    monkeypatch.setattr(tenacity.nap, "time", no_wait)
    url = cohere(refuse(code))
    with pytest.raises(ApiError):
        ranked(their_cohere(url, max_retries=2))
    assert len(stage.requests(url)) == theirs
    with pytest.raises(BackendError) as caught:
        ranked(Rerank("cohere:rerank-v3.5"))
    assert caught.type is (RateLimitError if code == 429 else BackendError)
    assert f"HTTP {code}" in str(caught.value)
    assert "the server says no" in str(caught.value)
    assert len(stage.requests(url)) == theirs + ours


def test_a_broken_connection_to_cohere_is_tried_again(stage, cohere):
    url = cohere(closed(), answer)
    assert [text for text, _ in ranked(Rerank("cohere:rerank-v3.5"))] == PAGES
    assert len(stage.requests(url)) == 2


def test_where_cohere_fails_there_is_an_event_and_every_node_says_so(cohere):
    cohere(refuse(401))
    handler, root = Events(seen=[]), get_dispatcher()
    root.add_event_handler(handler)
    try:
        reranker = Rerank("cohere:rerank-v3.5", on_error="input_order")
        found = reranker.postprocess_nodes(nodes("aa", "a"), query_str=QUERY)
    finally:
        root.event_handlers.remove(handler)
    assert "ExceptionEvent" in handler.seen
    assert [(node.text, node.degraded) for node in found] == [("aa", "input_order"), ("a", "input_order")]


def test_what_cohere_bills_is_told_and_bounded_as_stated(stage, cohere):
    url, rankings = cohere(), []
    reranker = Rerank("cohere:rerank-v3.5", on_ranking=rankings.append, budget_usd=0.003)
    ranked(reranker)
    assert (rankings[0].usage.search_units, rankings[0].usage.cost_usd) == (1, 0.002)
    for spent in (reranker, Rerank("cohere:rerank-v3.5", max_calls=0)):
        with pytest.raises(RateLimitError):
            ranked(spent)
    assert len(stage.requests(url)) == 1


def test_many_nodes_are_split_by_ours_alone(stage, cohere, their_cohere):
    url = cohere(dialect=replace(ENDPOINTS["cohere"], max_documents=None))
    for reranker in (their_cohere(url), Rerank("cohere:rerank-v3.5")):
        ranked(reranker, *map(str, range(1001)))
    sizes = [len(request.body["documents"]) for request in stage.requests(url)]
    assert (sizes[0], sorted(sizes[1:])) == (1001, [1, 1000])


def test_fields_and_lengths_reach_cohere_as_stated(stage, cohere):
    url = cohere()
    row = next(row for row in ROWS if "max_tokens_per_doc" in row)
    options = eval("dict(" + ", ".join(re.findall(r"`(key=.+?)`", row)) + ")", {"as_yaml": as_yaml})
    node = TextNode(text="A week.", metadata={"title": "Refunds", "page": 3})
    reranker = Rerank("cohere:rerank-v3.5", max_tokens_per_doc=99, **options)
    reranker.postprocess_nodes([NodeWithScore(node=node)], query_str=QUERY)
    (request,) = stage.requests(url)
    assert request.body["max_tokens_per_doc"] == 99
    assert request.body["documents"] == ["title: Refunds\ntext: A week.\n"]


SERVICES = [
    row.strip("| ").split(" | ")[:2]
    for row in ROWS
    if re.search(r'\| `rerank\(engine, "[\w-]+(:NAME)?"', row)
    and not row.startswith(("| `CohereRerank", "| `Sent", "| `Flash", "| `LLM"))
]


@pytest.mark.parametrize(("theirs", "ours"), SERVICES)
def test_the_names_of_services_in_the_table_are_asked_for_that_model(theirs, ours, stage, keys, names):
    name = re.search(r'"([\w-]+)(:NAME)?"', ours)[1]
    url = stage.address(answer, dialect=name, scorer=short_is_good)
    line = ours.strip("`")
    code = line.replace('"URL', f'"{url}') if '"URL' in line else f"{line[:-1]}, base_url={url!r})"
    scope = {
        "rerank": rerank,
        "engine": names["index"].as_query_engine(similarity_top_k=20),
        "MetadataMode": MetadataMode,
    }
    found = eval(code, scope).query(QUERY).source_nodes
    candidates = names["index"].as_retriever(similarity_top_k=20).retrieve(QUERY)
    top_n = int((re.search(r"top_n=(\d+)", line) or [0, 20])[1])
    assert content(found) == shortest_first(content(candidates))[:top_n]
    (request,) = stage.requests(url)
    assert request.body.get("model") == ("NAME" if "NAME" in ours else None)
    key = KEY if ENDPOINTS[name].key_variables else ""
    used = request.headers.get(ENDPOINTS[name].auth.lower(), "").removeprefix("Bearer ")
    assert used == ("KEY" if "auth_token" in theirs else key)


def test_every_service_of_the_table_is_tested():
    named = [re.search(r'"([\w-]+)(:NAME)?"', ours)[1] for _, ours in SERVICES]
    assert named == ["jina-api", "voyage", "mixedbread", "pinecone", "nvidia", "nim", "tei"]
    assert ENDPOINTS["jina-api"].key_variables == ("JINA_API_KEY",)
    assert ENDPOINTS["jina-api"].default_model == "jina-reranker-v3.5"
    assert ENDPOINTS["mixedbread"].default_model == "mixedbread-ai/mxbai-rerank-large-v2"
    assert [ENDPOINTS[name].max_documents for name in ("pinecone", "tei")] == [100, 32]


def test_scores_of_services_are_as_stated(stage, keys):
    for name in ("jina-api", "voyage", "mixedbread"):
        url = stage.address(answer, dialect=name, scorer=[0.2, 0.6])
        assert ranked(Rerank(f"{name}:NAME", base_url=url), "a", "b") == [("b", 1.0), ("a", 0.5)]
        declared = Rerank(f"{name}:NAME", base_url=url, scale="probability")
        assert ranked(declared, "a", "b") == [("b", 0.6), ("a", 0.2)]
        with pytest.raises(ValueError, match="min_score"):
            Rerank(f"{name}:NAME", base_url=url, min_score=0.3)
    for name in ("nvidia", "nim"):
        url = stage.address(answer, dialect=name, scorer=[0.0, 2.0])
        assert ranked(Rerank(f"{name}:NAME", base_url=url), "a", "b") == [("b", pytest.approx(0.880797)), ("a", 0.5)]
        assert stage.requests(url)[0].body["truncate"] == "END"


def other(package):
    reason = f"needs: pip install llama-index-postprocessor-{package.replace('_', '-')}"
    return pytest.importorskip(f"llama_index.postprocessor.{package}.base", reason=reason)


def test_jina_rerank_gives_the_same_and_has_its_key_elsewhere(stage, keys, monkeypatch):
    theirs = other("jinaai_rerank").JinaRerank
    monkeypatch.setenv("JINAAI_API_KEY", "a-key-for-theirs")
    url = stage.address(answer, dialect="jina-api", scorer=short_is_good)
    assert theirs.model_fields["model"].default == theirs().model == "jina-reranker-v1-base-en"
    assert theirs().top_n == 2
    ours = Rerank("jina-api:NAME", base_url=url, scale="probability", top_n=2)
    assert ranked(theirs(model="NAME", base_url=f"{url}/v1")) == ranked(ours)
    used = [request.headers["authorization"] for request in stage.requests(url)]
    assert used == ["Bearer a-key-for-theirs", f"Bearer {KEY}"]


def test_tei_rerank_gives_the_same_and_sends_all_in_one_request(stage, keys):
    theirs = other("tei_rerank").TextEmbeddingInference
    url = stage.address(answer, dialect=replace(ENDPOINTS["tei"], max_documents=None), scorer=short_is_good)
    line = next(ours for given, ours in SERVICES if "TextEmbeddingInference" in given)
    assert "metadata_mode=MetadataMode.NONE" in line
    ours = Rerank("tei", base_url=url, api_key="KEY", top_n=5, metadata_mode=MetadataMode.NONE)
    found = []
    for reranker in (theirs(base_url=url, auth_token="Bearer KEY"), ours):
        came = nodes(*PAGES[::-1])
        for node in came:
            node.node.metadata = {"a title": "that is not shown"}
        found.append([(node.text, node.score) for node in reranker.postprocess_nodes(came, query_str=QUERY)])
    assert found[0] == found[1]
    sizes = [len(request.body["texts"]) for request in stage.requests(url)]
    assert (sizes[0], sorted(sizes[1:])) == (60, [28, 32])
    assert {request.headers["authorization"] for request in stage.requests(url)} == {"Bearer KEY"}


@pytest.mark.parametrize(
    ("package", "name", "expected"),
    [
        ("mixedbreadai_rerank", "MixedbreadAIRerank", (10, "mixedbread-ai/mxbai-rerank-large-v1")),
        ("pinecone_native_rerank", "PineconeNativeRerank", (2, "bge-reranker-v2-m3")),
    ],
)
def test_the_defaults_of_other_services_are_as_stated(package, name, expected):
    parameters = signature(getattr(other(package), name)).parameters
    assert tuple(parameters[one].default for one in ("top_n", "model")) == expected


@pytest.mark.usefixtures("no_torch")
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


def test_what_flashrank_rerank_does_is_as_stated(flash):
    came = nodes("iii", "i")
    came[1].node.id_ = came[0].node.id_
    found = flash().postprocess_nodes(came, query_str=QUERY)
    assert found[0].score == found[1].score
    assert type(found[0].score) is np.float32
    assert {id(node) for node in found} == {id(node) for node in came}
    ours = Rerank("flashrank").postprocess_nodes(came, query_str=QUERY)
    assert ours[0].score != ours[1].score


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


@pytest.mark.usefixtures("no_torch")
@pytest.mark.parametrize(
    ("make", "sent"),
    [
        (lambda: SentenceTransformerRerank(device="cpu"), False),
        (lambda: LLMRerank(llm=says("Doc: 1, Relevance: 5")), False),
        (lambda: RankGPTRerank(llm=Ordering()), False),
        (Rerank, True),
    ],
    ids=["SentenceTransformerRerank", "LLMRerank", "RankGPTRerank", "ours"],
)
def test_who_sends_the_events_that_tracers_know_is_as_stated(make, sent):
    assert sends_events(make()) is sent


def test_flashrank_rerank_does_not_send_them(flash):
    assert not sends_events(flash())


def sends_events(postprocessor):
    handler, root = Events(seen=[]), get_dispatcher()
    root.add_event_handler(handler)
    try:
        postprocessor.postprocess_nodes(nodes("a", "b"), query_str=QUERY)
    finally:
        root.event_handlers.remove(handler)
    return {"ReRankStartEvent", "ReRankEndEvent"} <= set(handler.seen)
