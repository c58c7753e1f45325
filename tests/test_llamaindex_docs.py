"""The LlamaIndex migration guide: our code runs and keeps what it should, theirs parses, and what is said of theirs is so."""

import ast
import io
import json
import re
import sys
import zipfile
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path
from shutil import copytree
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
from rerankx import Reranker
from rerankx.backends.cross_encoder import CrossEncoder as OurCrossEncoder
from rerankx.backends.flashrank import REPOSITORY, FlashRank
from rerankx.catalogue import FLASHRANK
from rerankx.cli import main
from rerankx.registry import BUILT_IN

# LlamaIndex imports langchain-community where it is installed, and that says at once that it is no longer maintained.
pytestmark = pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")

GUIDE = (Path(__file__).parents[1] / "docs" / "moving-to-rerankx-in-llamaindex.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (before|ours) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
PAGES = ["i" * n for n in range(1, 61)]
TEXTS = ["iii", "i", "ii", "jjj", "j", "kkkk", "kk", "k", "jj"]
PASSAGES = ["The valve is closed.", "Refunds take ten days.", "no", "The valve is closed.", "A longer one, " * 9, "no"]
QUERY = "which"
MINILM = "cross-encoder/ms-marco-MiniLM-L6-v2"
FLASH = ("ms-marco-MiniLM-L-12-v2", "ms-marco-TinyBERT-L-2-v2")


class CrossEncoder:
    """Stands in for that of sentence-transformers. It prefers the shortest, as all stand-ins do."""

    def __init__(self, model, **options):
        self.options = options

    def predict(self, pairs, *, activation_fn=None):
        scores = np.array([-len(text) for _, text in pairs], np.float32)
        return scores if activation_fn is None else activation_fn(scores)


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
def without_keys(monkeypatch):
    """Stand in for what needs a key or a model of one's own."""
    stand_in(monkeypatch, "cohere", ClientV2)
    monkeypatch.setenv("COHERE_API_KEY", "none")
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
    order = judge(request.getfixturevalue("hub"), code) if of_the_hub(code) else shortest_first
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
def test_the_lines_of_the_first_table_are_lines_that_work(names, flash):
    engine = names["index"].as_query_engine()
    lines = re.findall(r"\| `(rerank\(engine, \w+\(.*?\))` \|", GUIDE)
    assert len(lines) == 4
    for line in lines:
        if "Cohere" in line:
            continue  # its package is not among the tests' own
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


@pytest.mark.parametrize("line", re.findall(r"\| `(rerank\(engine, \".*?\))`:", GUIDE))
def test_the_names_in_the_first_table_keep_the_model(line, names, hub):
    line = line.replace("NAME", FLASH[0] if "flashrank" in line else MINILM)
    found = eval(line, {"rerank": rerank, "engine": names["index"].as_query_engine()}).query(QUERY).source_nodes
    candidates = [node.text for node in names["index"].as_retriever(similarity_top_k=20).retrieve(QUERY)]
    assert [node.text for node in found] == judge(hub, line)(candidates)[:5]


def test_the_models_of_the_hub_and_the_stand_ins_have_opinions_of_their_own(hub):
    orders = [judge(hub, name)(PAGES) for name in ("minilm", *(f"flashrank:{name}" for name in FLASH))]
    assert len({tuple(order[:3]) for order in [*orders, shortest_first(PAGES)]}) == 4


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`rerankx (.+?)`", GUIDE))))
def test_the_commands_do_what_they_should(command, hub, capsys):
    assert main(command.split()) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ([MINILM, FLASH[0]] if command == "models" else ["onnx", "cpu"]))


def test_the_order_of_an_llm_reranker_stays(names):
    theirs = RankGPTRerank(llm=Ordering(), top_n=99).postprocess_nodes(nodes(*TEXTS), query_str=QUERY)
    ours = listwise(names, RankGPTRerank(llm=Ordering(), top_n=99)).postprocess_nodes(nodes(*TEXTS), query_str=QUERY)
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


def test_the_defaults_of_cohere_rerank_are_as_stated(monkeypatch):
    cohere = pytest.importorskip(
        "llama_index.postprocessor.cohere_rerank", reason="needs: pip install llama-index-postprocessor-cohere-rerank"
    )
    theirs = cohere.CohereRerank()
    assert (theirs.top_n, theirs.model, theirs.max_retries) == (2, "rerank-english-v3.0", 10)
    monkeypatch.delenv("COHERE_API_KEY")
    with pytest.raises((KeyError, ValueError)):  # 0.10.0 raises a KeyError, the next one a ValueError
        cohere.CohereRerank()


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
