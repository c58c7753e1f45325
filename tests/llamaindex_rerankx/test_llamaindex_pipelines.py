"""Pipelines in LlamaIndex: what the retriever said takes part, and what comes after the order."""

import math
import pickle

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

import scripted
from llama_index.core import Settings
from llama_index.core.llms import CompletionResponse, CustomLLM, LLMMetadata
from llama_index.core.schema import NodeWithScore, QueryBundle
from llamaindex_stage import BEST, PASSAGES, QUESTION, Overlap, ids, index_of, llm, nodes_of, retrieved

import rerankx
from llamaindex_rerankx import Rerank, rerank
from rerankx import Cascade, Fusion, from_spec
from rerankx.after import drop_near_duplicates, lost_in_the_middle

QUERY = QueryBundle(QUESTION)


def keep_two(ranking, top_n=None):
    return ranking[:2]


def test_words_and_vectors_are_fused_and_then_reranked_in_one_line():
    retrievers = pytest.importorskip(
        "llama_index.retrievers.bm25", reason="needs: pip install llama-index-retrievers-bm25"
    )
    words, last = retrievers.BM25Retriever.from_defaults(nodes=nodes_of(), similarity_top_k=10), Overlap()

    retriever = rerank(words, Cascade([Fusion(["retrieval", "embedded"]), last], keep=4), top_n=2)

    assert ids(retriever.retrieve(QUESTION)) == [f"p{i}" for i in BEST]
    assert len(last.seen) == 4


def test_the_scores_of_the_retriever_take_part(run):
    nodes = [NodeWithScore(node=node, score=i / 10) for i, node in enumerate(nodes_of())]
    found = run(Rerank("retrieval"), nodes, QUERY)
    assert ids(found) == [f"p{i}" for i in reversed(range(len(PASSAGES)))]


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_without_scores_it_is_the_order(run, score):
    nodes = [NodeWithScore(node=node, score=score) for node in nodes_of()]
    assert ids(run(Rerank("retrieval"), nodes, QUERY)) == ids(nodes)


def test_hits_have_the_score_that_they_came_with(run):
    seen = []
    run(Rerank(Overlap(), on_ranking=seen.append), retrieved(), QUERY)
    assert [hit.retrieval_score for hit in seen[0]] == [hit.document.score for hit in seen[0]]


def test_a_fusion_by_scores_in_an_engine():
    fusion = Fusion(["retrieval", "embedded"], method="weighted", weights=[0.5, 0.5])
    engine = rerank(index_of().as_query_engine(similarity_top_k=6, llm=llm()), fusion, top_n=2)
    assert ids(engine.query(QUESTION).source_nodes) == [f"p{i}" for i in BEST]


def test_steps_come_before_the_cut(run):
    found = run(Rerank(Overlap(), after=[drop_near_duplicates], top_n=2), [*retrieved(), *retrieved()], QUERY)
    assert ids(found) == [f"p{i}" for i in BEST]


def test_an_order_for_language_models_is_of_the_best(run):
    straight = ids(run(Rerank(Overlap(), top_n=3), retrieved(), QUERY))
    bent = run(Rerank(Overlap(), top_n=3, after=[lost_in_the_middle]), retrieved(), QUERY)
    assert ids(bent) == [straight[0], straight[2], straight[1]]


@pytest.mark.parametrize("after", [[3], "mmr", 3])
def test_what_is_no_step_is_refused(after):
    with pytest.raises(TypeError, match="after"):
        Rerank(Overlap(), after=after)


class Scripted(CustomLLM):
    """Puts the passages in order by words in common with the query."""

    @property
    def metadata(self):
        return LLMMetadata(model_name="scripted")

    def complete(self, prompt, formatted=False, **kwargs):
        return CompletionResponse(text=scripted.ranker({"messages": [{"role": "user", "content": prompt}]}))

    def stream_complete(self, prompt, formatted=False, **kwargs):
        raise NotImplementedError


def test_steps_come_after_what_the_llm_of_the_settings_says(run, monkeypatch):
    reranker = Rerank("listwise", after=[keep_two])
    monkeypatch.setattr(Settings, "_llm", Scripted())  # later than the reranker was made
    assert ids(run(reranker, retrieved(), QUERY)) == [f"p{i}" for i in BEST]


def test_steps_are_set_once():
    made = Rerank(Overlap(), after=[keep_two])
    with pytest.raises(ValueError, match="frozen"):
        made.after = ()


def test_a_reranker_of_the_core_keeps_its_own_steps(run):
    core = rerankx.Reranker(Overlap(), after=[keep_two])
    assert ids(run(Rerank(core), retrieved(), QUERY)) == [f"p{i}" for i in BEST]
    with pytest.raises(TypeError, match="after given with a Reranker"):
        Rerank(core, after=[keep_two])


def test_a_pipeline_that_was_declared_is_a_postprocessor():
    spec = {"backend": {"cascade": {"stages": ["retrieval", "embedded"], "keep": 8}}, "deadline_s": 30}
    engine = index_of().as_query_engine(
        similarity_top_k=10, node_postprocessors=[Rerank(from_spec(spec), top_n=2)], llm=llm()
    )
    assert set(ids(engine.query(QUESTION).source_nodes)) == {f"p{i}" for i in BEST}


def test_steps_travel_in_a_pickle_and_are_not_written():
    made = Rerank("embedded", after=[keep_two])
    assert pickle.loads(pickle.dumps(made)).after == (keep_two,)
    assert "after" not in made.to_dict()
    assert "after" not in Rerank.model_json_schema()["properties"]
