"""What docs/pipelines.md says is true: its code runs, with a small model of random weights in the place of MiniLM."""

import asyncio
import json
import re
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the package onnx, by which the model of these tests is written")

from engines.graph_stage import save_model
from engines.hub_stage import HubStage

from rerankx import Backend, Cascade, DeadlineError, Fusion, Reranker, Scale, demo, from_spec
from rerankx.backends.embedded import Embedded

GUIDE = (Path(__file__).parents[1] / "docs" / "pipelines.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
TEXTS = [passage.text for passage in demo.passages()]
QUERY = "how do I get my money back?"
MINILM = "cross-encoder/ms-marco-MiniLM-L6-v2"


@pytest.fixture(scope="module", autouse=True)
def hub(tmp_path_factory):
    """Serve the small model under MiniLM's name."""
    home = tmp_path_factory.mktemp("hub")
    folder = save_model(home / "minilm", seed=1, name="onnx/model.onnx")
    names = ("config.json", "tokenizer.json", "onnx/model.onnx")
    with HubStage() as stage, stage.in_process(home), pytest.MonkeyPatch.context() as patch:
        # A GPU would be taken where torch finds one, and there are no weights for torch here.
        patch.setattr("rerankx.backends.cross_encoder._sees_cuda", lambda: False)
        stage.add(MINILM, "main", {name: (folder / name).read_bytes() for name in names}, lfs=names[2:])
        yield


def run(words, **names):
    """Run the one block that holds these words."""
    (block,) = [block for block in BLOCKS if words in block]
    names = {"Cascade": Cascade, "Fusion": Fusion, "Reranker": Reranker, "passages": TEXTS, **names}
    exec(compile(block, "docs/pipelines.md", "exec"), names)
    return names


def hybrid():
    found = [{"text": text, "bm25": 1 / (i + 1)} for i, text in enumerate(TEXTS)]
    return run("hybrid = ", found=found)


def by_keywords(query, k):
    return [passage.text for passage in demo.KeywordSearch(demo.passages())(query, k)]


def likes():
    """Return the vectors of texts, and of a query, as the frameworks' embeddings are asked for them."""
    embedded = Embedded()
    return lambda texts: embedded.embed(list(texts)).tolist()


def test_every_block_is_run_here():
    named = re.findall(r'run\("(.*?)"', Path(__file__).read_text("utf-8"))
    assert all(sum(words in block for block in BLOCKS) == 1 for words in named)
    assert all(any(words in block for words in named) for block in BLOCKS)


def test_a_cascade_scores_what_it_keeps_and_loses_nothing():
    ranking = run("from rerankx import Cascade, Fusion, Reranker")["ranking"]
    assert [hit.raw_score is not None for hit in ranking] == [True] * 20 + [False] * (len(TEXTS) - 20)
    assert sorted(ranking.documents) == sorted(TEXTS)
    by_embedded = [hit.document for hit in Reranker().rerank(QUERY, TEXTS)]
    assert set(ranking.documents[:20]) == set(by_embedded[:20])
    assert ranking.documents[20:] == by_embedded[20:]


def test_the_retrievers_scores_are_fused():
    ranking = hybrid()["ranking"]
    steps = [hit.details["steps"][0]["details"]["steps"][0] for hit in ranking]
    assert len(ranking) == 5
    assert [(step["rank"], step["score"]) for step in steps] == [(h.index + 1, h.retrieval_score) for h in ranking]


def test_only_behind_the_last_stage_a_fusion_has_a_threshold():
    fusions = [Fusion(["retrieval", "embedded"], method=method) for method in ("rrf", "weighted")]
    for fusion in fusions:
        with pytest.raises(ValueError, match="only an order"):
            Reranker(fusion).check(min_score=0.5)
        Reranker(Cascade([fusion, "minilm"], keep=5)).check(min_score=0.5)


def test_in_langchain_one_retriever_becomes_a_hybrid():
    pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
    retriever = run("retriever = rerank(bm25", bm25=langchain_bm25())["retriever"]
    found = retriever.invoke(QUERY)
    assert len(found) == 5
    assert {document.page_content for document in found} <= set(TEXTS)
    assert retriever.base_retriever.k == 4  # a copy was asked for 100


def test_in_langchain_two_retrievers_are_fused_and_reranked():
    pytest.importorskip("langchain_classic", reason="needs: pip install langchain-classic")
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    class Likes(Embeddings):
        def embed_documents(self, texts):
            return vectors(texts)

        def embed_query(self, text):
            return vectors([text])[0]

    vectors = likes()
    dense = InMemoryVectorStore.from_texts(TEXTS, Likes()).as_retriever()
    bm25 = langchain_bm25()
    retriever = run("EnsembleRetriever", bm25=bm25, dense=dense)["retriever"]
    either = {document.page_content for one in (bm25, dense) for document in one.invoke(QUERY)}
    found = [document.page_content for document in retriever.invoke(QUERY)]
    assert len(found) == 5
    assert set(found) <= either


def langchain_bm25():
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever

    class Keywords(BaseRetriever):
        k: int = 4

        def _get_relevant_documents(self, query, *, run_manager):
            return [Document(text) for text in by_keywords(query, self.k)]

    return Keywords()


@pytest.fixture
def own_event_loop():
    # LlamaIndex takes the thread's event loop, or makes one, and leaves it open.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.mark.filterwarnings("ignore:.langchain-community. is being sunset:DeprecationWarning")
def test_in_llamaindex_two_retrievers_are_fused_and_reranked(monkeypatch, own_event_loop):
    pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")
    from llama_index.core import Settings, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.llms import MockLLM
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, TextNode

    class Likes(BaseEmbedding):
        def _get_text_embedding(self, text):
            return vectors([text])[0]

        _get_query_embedding = _get_text_embedding

        async def _aget_query_embedding(self, query):
            return vectors([query])[0]

    class Keywords(BaseRetriever):
        def _retrieve(self, query):
            found = by_keywords(query.query_str, 5)
            return [NodeWithScore(node=nodes[TEXTS.index(text)], score=1 / (i + 1)) for i, text in enumerate(found)]

    vectors, nodes = likes(), [TextNode(text=text, id_=str(i)) for i, text in enumerate(TEXTS)]
    monkeypatch.setattr(Settings, "_llm", MockLLM())
    dense = VectorStoreIndex(nodes, embed_model=Likes()).as_retriever(similarity_top_k=5)
    retriever = run("QueryFusionRetriever", bm25=Keywords(), dense=dense)["retriever"]
    either = {node.text for one in (Keywords(), dense) for node in one.retrieve(QUERY)}
    found = retriever.retrieve(QUERY)
    assert len(found) == 5
    assert {node.text for node in found} <= either


def test_in_time_nothing_is_degraded(capsys):
    def cascade(stages, *, deadlines_s, **options):
        return Cascade(stages, deadlines_s=[seconds and 60.0 for seconds in deadlines_s], **options)

    def reranker(backend, *, deadline_s):
        return Reranker(backend, deadline_s=60.0)  # no test of how busy the machine is

    names = run("patience=10", Cascade=cascade, Reranker=reranker)
    assert capsys.readouterr().out == "None ()\n"
    assert [hit.raw_score is not None for hit in names["ranking"]] == [True] * 5


def test_a_stage_that_is_late_is_passed_over():
    class Late(Backend):
        name, model, scale, pointwise = "late", "always", Scale.LOGIT, True

        def _score(self, query, texts, *, top_n=None):
            raise DeadlineError("not in time")

    ranking = Reranker(Cascade(["embedded", Late()], keep=20)).rerank(QUERY, TEXTS)
    assert ranking.degraded == "deadline"
    assert ranking.documents == Reranker().rerank(QUERY, TEXTS).documents
    assert [attempt.error is None for attempt in ranking.attempts] == [True, False]


def test_what_comes_after_takes_what_fits():
    ranking = run("lost_in_the_middle")["ranking"]
    ranks = [hit.rank for hit in ranking]
    assert 1 < len(ranks) <= 10
    assert ranks[0] == 1
    assert ranks == [*sorted(ranks)[::2], *sorted(ranks)[1::2][::-1]]


def test_each_row_says_where_a_hit_came_from(capsys):
    run("explain()", hybrid=hybrid()["hybrid"])
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[0] for line in lines] == ["1", "2", "3"]
    assert all(retrieved == place for _, retrieved, place, _, _ in lines)
    assert all(float(score) for *_, score in lines)


def test_the_file_is_read_and_written_back(tmp_path, monkeypatch):
    yaml = pytest.importorskip("yaml", reason="needs: pip install pyyaml")
    (declared,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    (tmp_path / "pipeline.yaml").write_text(declared, "utf-8")
    monkeypatch.chdir(tmp_path)
    names = run("from_spec(")
    again = from_spec(names["declared"])
    assert again.backend.fingerprint == names["reranker"].backend.fingerprint
    assert again.backend.fingerprint == Cascade([Fusion(["retrieval", "embedded"]), "minilm"], keep=20).fingerprint
    written, read = names["declared"], yaml.safe_load(declared)
    assert {name: written[name] for name in written if name != "backend"} == {
        n: read[n] for n in read if n != "backend"
    }
    assert json.loads(json.dumps(written)) == written
