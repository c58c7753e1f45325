"""The migration guide: our code runs and keeps what it should, their code at least parses, and their defaults are as stated."""

import ast
import io
import json
import re
import zipfile
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_rerankx import rerank
from rerankx import Reranker
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.backends.flashrank import REPOSITORY, FlashRank
from rerankx.catalogue import FLASHRANK
from rerankx.cli import main
from rerankx.registry import BUILT_IN

GUIDE = (Path(__file__).parents[1] / "docs" / "moving-to-rerankx-in-langchain.md").read_text("utf-8")
BLOCKS = re.findall(r"<!-- (before|ours) -->\n```python\n(.*?)```", GUIDE, re.DOTALL)
PAGES = ["i" * n for n in range(1, 61)]
MINILM, FLASH = "cross-encoder/ms-marco-MiniLM-L6-v2", "ms-marco-MiniLM-L-12-v2"


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


@pytest.fixture
def names(monkeypatch):
    """Return what the guide's reader has, and stand in for what needs a key or a download."""
    cohere = pytest.importorskip("cohere", reason="needs: pip install langchain-cohere")
    pytest.importorskip("langchain_classic", reason="needs: pip install langchain-classic")
    pytest.importorskip("langchain_cohere", reason="needs: pip install langchain-cohere")

    def rerank(self, *, documents, top_n, **_):
        order = sorted(range(len(documents)), key=lambda i: len(documents[i]))[:top_n]
        return SimpleNamespace(results=[SimpleNamespace(index=i, relevance_score=1 / len(documents[i])) for i in order])

    monkeypatch.setattr(cohere.ClientV2, "rerank", rerank)
    monkeypatch.setenv("COHERE_API_KEY", "none")
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
    order = judge(request.getfixturevalue("hub"), code) if of_the_hub(code) else shortest_first
    exec(compile(code, "guide", "exec"), names)
    found = names["retriever"].invoke("which")
    candidates = names["store"].as_retriever(search_kwargs={"k": 20 if "candidates=20" in code else 50}).invoke("which")
    assert len(found) == (3 if "top_n=3" in code else 5)
    if "base_compressor=Reranker" not in code:  # the embedded model has another opinion of these pages
        best = order([document.page_content for document in candidates])[: len(found)]
        assert [document.page_content for document in found] == best
    if "rerank(store.as_retriever(), compressor" not in code:
        assert all("relevance_score" in document.metadata for document in found)
    assert all(document.id for document in found) == ("CohereRerank" not in code)


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
