"""Pipelines in LangChain: what the retriever said takes part, and what comes after the order."""

import pickle

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.documents import Document
from langchain_stage import BEST, PAGES, QUESTION, FromList, documents, pages, scores

import rerankx
from langchain_rerankx import Reranker, rerank
from rerankx import Cascade, Fusion, from_spec
from rerankx.after import drop_near_duplicates, lost_in_the_middle
from rerankx.testing import FakeBackend


def keep_two(ranking, top_n=None):
    return ranking[:2]


def scored():
    """Return the documents with scores of a retriever that likes the last one best."""
    return [Document(page, metadata={"score": float(i)}) for i, page in enumerate(PAGES)]


def with_scores(document):
    return document.metadata["score"]


def test_words_and_vectors_are_fused_and_then_reranked_in_one_line(invoke):
    bm25s = pytest.importorskip("bm25s", reason="needs: pip install bm25s")
    index = bm25s.BM25()
    index.index(bm25s.tokenize(PAGES, show_progress=False), show_progress=False)
    asked = bm25s.tokenize([QUESTION], show_progress=False)
    (found,), _ = index.retrieve(asked, k=len(PAGES), show_progress=False)
    words = FromList(found=[documents()[i] for i in found], k=len(PAGES))
    last = FakeBackend()

    retriever = rerank(words, Cascade([Fusion(["retrieval", "embedded"]), last], keep=3), top_n=2)

    assert pages(invoke(retriever, QUESTION)) == BEST[:2]
    assert len(last.calls[0].texts) == 3


def test_the_order_of_the_retriever_takes_part(invoke):
    asked = {"query": QUESTION, "documents": documents()}
    assert pages(invoke(Reranker("retrieval"), asked)) == PAGES


def test_the_scores_of_the_retriever_take_part_where_they_are_told(invoke):
    asked = {"query": QUESTION, "documents": scored()}
    assert pages(invoke(Reranker("retrieval", retrieval_score=with_scores), asked)) == PAGES[::-1]
    retriever = rerank(FromList(found=scored(), k=5), "retrieval", retrieval_score=with_scores)
    assert pages(invoke(retriever, QUESTION)) == PAGES[::-1]


def test_hits_have_the_score_that_they_came_with(invoke):
    seen = []
    reranker = Reranker(FakeBackend(), retrieval_score=with_scores, on_ranking=seen.append)
    invoke(reranker, {"query": QUESTION, "documents": scored()})
    assert [hit.retrieval_score for hit in seen[0]] == [float(PAGES.index(page)) for page in BEST]


def test_steps_come_before_the_cut(invoke):
    twice = [*documents(), *documents()]
    reranker = Reranker(FakeBackend(), after=[drop_near_duplicates], top_n=3)
    assert pages(invoke(reranker, {"query": QUESTION, "documents": twice})) == BEST[:3]


def test_an_order_for_language_models_is_of_the_best(invoke):
    retriever = rerank(FromList(found=documents(), k=5), FakeBackend(), after=[lost_in_the_middle], top_n=3)
    found = invoke(retriever, QUESTION)
    assert pages(found) == [BEST[0], BEST[2], BEST[1]]
    best, third, second = scores(found)
    assert best > second > third  # each keeps its own


def test_a_top_n_of_the_call_reaches_the_steps(invoke):
    seen = []

    def step(ranking, top_n):
        seen.append((len(ranking), top_n))
        return ranking

    invoke(Reranker(FakeBackend(), after=[step], top_n=4), {"query": QUESTION, "documents": documents()}, top_n=2)
    assert seen == [(5, 2)]


@pytest.mark.parametrize("after", [3, [3], "mmr"])
def test_what_is_no_step_is_refused(after):
    with pytest.raises((TypeError, ValueError)):
        Reranker(FakeBackend(), after=after)


def test_a_step_that_returns_something_else_is_an_error(invoke):
    with pytest.raises(TypeError, match="returned list; a step returns a Ranking"):
        invoke(Reranker(FakeBackend(), after=[lambda r, n: list(r)]), {"query": QUESTION, "documents": documents()})


def test_a_reranker_of_the_core_keeps_its_own_steps(invoke):
    core = rerankx.Reranker(FakeBackend(), after=[keep_two])
    assert pages(invoke(Reranker(core), {"query": QUESTION, "documents": documents()})) == BEST[:2]
    with pytest.raises(TypeError, match=r"after given with a rerankx\.Reranker object"):
        Reranker(core, after=[keep_two])


def test_a_pipeline_that_was_declared_is_a_reranker(invoke):
    spec = {"backend": {"cascade": {"stages": ["retrieval", "embedded"], "keep": 3}}, "after": ["lost_in_the_middle"]}
    found = invoke(rerank(FromList(found=documents(), k=5), from_spec(spec), top_n=1), QUESTION)
    assert pages(found) == [PAGES[1]]  # the best of the first three


def test_steps_and_functions_travel_in_a_pickle_and_are_not_shown():
    reranker = Reranker("embedded", after=[keep_two], retrieval_score=with_scores)
    twin = pickle.loads(pickle.dumps(reranker))
    assert (twin.after, twin.retrieval_score) == ((keep_two,), with_scores)
    assert "keep_two" not in repr(reranker)
    assert not {"after", "retrieval_score"} & set(Reranker.model_json_schema()["properties"])
