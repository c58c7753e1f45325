import asyncio
import logging

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from hypothesis import given
from hypothesis import strategies as st
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import ImageNode, MetadataMode, Node, NodeWithScore, QueryBundle, TextNode
from llamaindex_stage import BEST, PASSAGES, QUESTION, Overlap, ids, nodes_of, places, retrieved

from llamaindex_rerankx import Rerank, RerankedNode
from rerankx import BackendError, DeadlineError, Reranker, Scale
from rerankx.testing import FakeBackend

WARNING = "raise similarity_top_k"


def test_it_is_a_node_postprocessor():
    assert isinstance(Rerank(Overlap()), BaseNodePostprocessor)


# What comes back


def test_the_best_nodes_come_first(run):
    reranked = run(Rerank(Overlap()), retrieved(), QueryBundle(QUESTION))
    assert ids(reranked)[:2] == [f"p{i}" for i in BEST]


def test_nothing_is_lost_without_top_n(run):
    reranked = run(Rerank(Overlap()), retrieved(), QueryBundle(QUESTION))
    assert sorted(ids(reranked)) == sorted(f"p{i}" for i in range(len(PASSAGES)))


def test_top_n_keeps_that_many(run):
    assert len(run(Rerank(Overlap(), top_n=3), retrieved(), QueryBundle(QUESTION))) == 3


def test_top_n_reaches_the_backend_as_a_hint(run):
    backend = Overlap()
    run(Rerank(backend, top_n=3), retrieved(), QueryBundle(QUESTION))
    assert backend.calls[-1].top_n == 3


def test_min_score_drops_what_is_below_it(run):
    reranked = run(Rerank(Overlap(), min_score=0.5), retrieved(), QueryBundle(QUESTION))
    assert ids(reranked) == [f"p{i}" for i in BEST]


def test_the_way_in_decides_the_way_through(run):
    backend = Overlap()
    run(Rerank(backend), retrieved(), QueryBundle(QUESTION))
    assert backend.ways == [run.how]


def test_nodes_come_back_as_the_same_objects(run):
    came = retrieved()
    reranked = run(Rerank(Overlap(), top_n=1), came, QueryBundle(QUESTION))
    assert reranked[0].node is came[BEST[0]].node


def test_retrieval_score_and_rank_are_kept(run):
    best = run(Rerank(Overlap()), retrieved(), QueryBundle(QUESTION))[0]
    assert isinstance(best, RerankedNode)
    assert (best.retrieval_score, best.retrieval_rank) == (pytest.approx(0.9 - BEST[0] / 100), BEST[0] + 1)


def test_a_second_reranking_carries_retrieval_score_and_rank_on(run):
    first = run(Rerank(Overlap()), retrieved(), QueryBundle(QUESTION))
    best = run(Rerank(Overlap()), first[::-1], QueryBundle(QUESTION))[0]
    assert (best.retrieval_score, best.retrieval_rank) == (pytest.approx(0.9 - BEST[0] / 100), BEST[0] + 1)


def test_what_came_in_is_not_changed(run):
    came = retrieved()
    before = [(node.score, node.node.to_dict(), node.node.hash) for node in came]
    order = list(came)
    run(Rerank(Overlap(), top_n=2), came, QueryBundle(QUESTION))
    assert [(node.score, node.node.to_dict(), node.node.hash) for node in came] == before
    assert all(a is b for a, b in zip(came, order, strict=True))


def test_duplicates_keep_their_own_places(run):
    node = nodes_of()[5]
    twice = [NodeWithScore(node=node, score=0.7), *retrieved()[:2], NodeWithScore(node=node, score=0.1)]
    reranked = run(Rerank(Overlap()), twice, QueryBundle(QUESTION))
    assert [(n.node_id, n.retrieval_rank) for n in reranked[:2]] == [("p5", 1), ("p5", 4)]


@pytest.mark.parametrize("backend", [Overlap(), places()], ids=["similarity", "rank"])
def test_scores_are_floats_that_never_rise(run, backend):
    scores = [node.score for node in run(Rerank(backend), retrieved(), QueryBundle(QUESTION))]
    assert all(type(score) is float for score in scores)
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > scores[-1]


@given(st.lists(st.sampled_from([*PASSAGES, "", "  "]), max_size=12), st.none() | st.integers(1, 12), st.booleans())
def test_a_reranking_is_a_permutation_cut_at_top_n(passages, top_n, ranks):
    came = retrieved(passages)
    reranked = Rerank(places() if ranks else Overlap(), top_n=top_n).postprocess_nodes(came, query_str=QUESTION)
    assert len(reranked) == len(came[:top_n])
    ranks_before = [node.retrieval_rank for node in reranked]
    assert len(set(ranks_before)) == len(ranks_before)
    assert all(node.node is came[node.retrieval_rank - 1].node for node in reranked)
    scores = [node.score for node in reranked]
    assert scores == sorted(scores, reverse=True)


# What goes in


def test_a_missing_query_is_an_error_even_without_nodes(run):
    with pytest.raises(ValueError, match=r"^Missing query bundle in extra info\.$"):
        run(Rerank(Overlap()), [], None)


def test_no_nodes_give_no_nodes_and_no_call(run):
    backend = Overlap()
    assert run(Rerank(backend), [], QueryBundle(QUESTION)) == []
    assert backend.calls == []


def test_a_string_as_query_bundle_is_the_query(run):
    backend = Overlap()
    run(Rerank(backend), retrieved(), QUESTION)
    assert backend.calls[-1].query == QUESTION


def test_query_str_is_the_query():
    backend = Overlap()
    Rerank(backend).postprocess_nodes(retrieved(), query_str=QUESTION)
    assert backend.calls[-1].query == QUESTION


def test_another_kind_of_query_is_named(run):
    with pytest.raises(TypeError, match="query_bundle must be a QueryBundle or a string, not dict"):
        run(Rerank(Overlap()), retrieved(), {"query": QUESTION})


def test_bare_nodes_are_accepted(run):
    best = run(Rerank(Overlap()), nodes_of(), QueryBundle(QUESTION))[0]
    assert (best.node_id, best.retrieval_score, best.retrieval_rank) == ("p5", None, 6)


def test_what_is_not_a_node_is_named_with_its_position(run):
    with pytest.raises(TypeError, match="node 1 is str; expected a NodeWithScore or a node"):
        run(Rerank(Overlap()), [*retrieved()[:1], "a passage"], QueryBundle(QUESTION))


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        (None, "topic: refunds\nlength: long\n\nyou get it back"),
        (MetadataMode.EMBED, "topic: refunds\nlength: long\n\nyou get it back"),
        (MetadataMode.LLM, "page: 7\ntopic: refunds\n\nyou get it back"),
        (MetadataMode.ALL, "page: 7\ntopic: refunds\nlength: long\n\nyou get it back"),
        (MetadataMode.NONE, "you get it back"),
    ],
)
def test_metadata_mode_decides_what_is_scored(mode, text):
    node = TextNode(
        text="you get it back",
        metadata={"page": 7, "topic": "refunds", "length": "long"},
        excluded_embed_metadata_keys=["page"],
        excluded_llm_metadata_keys=["length"],
    )
    backend = Overlap()
    rerank = Rerank(backend) if mode is None else Rerank(backend, metadata_mode=mode)
    rerank.postprocess_nodes([NodeWithScore(node=node)], query_str=QUESTION)
    assert backend.seen == [text]


def test_key_makes_the_text_of_a_node(run):
    backend = Overlap()
    run(Rerank(backend, key=lambda node: node.node_id), retrieved()[:2], QueryBundle(QUESTION))
    assert backend.seen == ["p0", "p1"]


def test_nodes_without_text_come_last_and_are_not_sent(run):
    blank = [ImageNode(id_="picture", image_url="file:///x.png"), Node(id_="empty"), TextNode(id_="spaces", text="  ")]
    backend = Overlap()
    reranked = run(Rerank(backend), [*blank, *nodes_of()[:2]], QueryBundle(QUESTION))
    assert [(node.node_id, node.score) for node in reranked[2:]] == [("picture", 0.0), ("empty", 0.0), ("spaces", 0.0)]
    assert backend.seen == PASSAGES[:2]


# Arguments


@pytest.mark.parametrize("top_n", [0, -1, True, "5", 2.5])
def test_a_wrong_top_n_is_refused_when_it_is_built(top_n):
    with pytest.raises(ValueError, match="top_n"):
        Rerank(Overlap(), top_n=top_n)


@pytest.mark.parametrize(("name", "value"), [("top_n", 0), ("top_n", True), ("min_score", 1.5), ("min_score", "high")])
def test_a_wrong_value_is_refused_on_assignment(name, value):
    rerank = Rerank(Overlap(), top_n=2, min_score=0.1)
    with pytest.raises(ValueError, match=name):
        setattr(rerank, name, value)
    assert (rerank.top_n, rerank.min_score) == (2, 0.1)


def test_top_n_can_be_assigned(run):
    rerank = Rerank(Overlap(), top_n=2)
    rerank.top_n = 4
    assert len(run(rerank, retrieved(), QueryBundle(QUESTION))) == 4


@pytest.mark.parametrize("name", ["backend", "model", "on_error", "deadline_s", "on_ranking"])
def test_what_the_reranker_was_built_with_cannot_be_assigned(name):
    with pytest.raises(ValueError, match="frozen"):
        setattr(Rerank(Overlap()), name, None)


def test_a_backend_that_is_neither_name_nor_object_is_refused():
    with pytest.raises(TypeError, match=r"backend must be a name or a rerankx\.Backend, not int"):
        Rerank(3)


def test_an_unknown_option_is_refused(installed_backends, monkeypatch):
    monkeypatch.setattr(Overlap, "__init__", lambda self, model="words", weight=1.0: None)
    with pytest.raises(TypeError, match="did you mean 'weight'"):
        Rerank("overlap", wieght=2.0)


@pytest.mark.parametrize(
    ("wrong", "hint"),
    [
        ("min_scor", "Rerank itself has 'min_score'"),
        ("topn", "Rerank itself has 'top_n'"),
        ("canditates", r"candidates is an argument of rerank\(\)"),
        ("candidates", r"candidates is an argument of rerank\(\)"),
        ("similarity_top_k", r"candidates is an argument of rerank\(\)"),
    ],
)
def test_a_misspelt_argument_names_what_may_be_meant(wrong, hint):
    with pytest.raises(TypeError, match=f"no option '{wrong}'.*; {hint}$"):
        Rerank("embedded", **{wrong: 3})


def test_a_threshold_is_refused_on_assignment_where_scores_are_only_an_order():
    rerank = Rerank(places())
    with pytest.raises(ValueError, match="only an order"):
        rerank.min_score = 0.3
    assert rerank.min_score is None


def test_a_name_with_a_model_and_options_builds_the_backend(installed_backends):
    rerank = Rerank("overlap:letters", weight=0.5)
    best = rerank.postprocess_nodes(retrieved(), query_str=QUESTION)[0]
    assert best.score == pytest.approx(0.5)


def test_a_reranker_keeps_its_own_settings(run):
    backend = Overlap(error=ValueError("no"))
    rerank = Rerank(Reranker(backend, on_error="input_order", deadline_s=5.0))
    assert (rerank.on_error, rerank.deadline_s) == ("input_order", 5.0)
    assert ids(run(rerank, retrieved(), QueryBundle(QUESTION))) == ids(retrieved())


@pytest.mark.parametrize("given", [{"model": "m"}, {"deadline_s": 1.0}, {"on_error": "input_order"}, {"weight": 2}])
def test_settings_beside_a_reranker_are_refused(given):
    with pytest.raises(TypeError, match=f"{next(iter(given))} given with a Reranker"):
        Rerank(Reranker(Overlap()), **given)


# Policies of the core, passed through


def test_a_backend_error_is_raised(run):
    with pytest.raises(BackendError, match="overlap"):
        run(Rerank(Overlap(error=RuntimeError("no"))), retrieved(), QueryBundle(QUESTION))


def test_input_order_returns_the_nodes_as_they_came_and_says_so(run):
    rerank = Rerank(Overlap(error=RuntimeError("no")), on_error="input_order", top_n=3)
    reranked = run(rerank, retrieved(), QueryBundle(QUESTION))
    assert [(node.node_id, node.degraded) for node in reranked] == [(f"p{i}", "input_order") for i in range(3)]


def test_degraded_is_none_when_all_went_well(run):
    assert {node.degraded for node in run(Rerank(Overlap()), retrieved(), QueryBundle(QUESTION))} == {None}


def test_the_deadline_reaches_the_backend():
    from rerankx.interface import remaining_s

    class Late(Overlap):
        def _score(self, query, texts, *, top_n=None):
            raise DeadlineError(f"{remaining_s():.0f} seconds left")

    with pytest.raises(DeadlineError, match="30 seconds left"):
        Rerank(Late(), deadline_s=30.2).postprocess_nodes(retrieved(), query_str=QUESTION)


def test_on_ranking_receives_the_ranking_of_the_nodes(run):
    rankings, came = [], retrieved()
    run(Rerank(Overlap(), on_ranking=rankings.append), came, QueryBundle(QUESTION))
    assert [ranking.backend for ranking in rankings] == ["overlap"]
    assert rankings[0][0].document is came[BEST[0]]


def test_one_instance_serves_two_event_loops():
    rerank = Rerank(Overlap(), top_n=1)
    for _ in range(2):
        assert ids(asyncio.run(rerank.apostprocess_nodes(retrieved(), query_str=QUESTION))) == ["p5"]


# The warning


@pytest.mark.parametrize("n", [1, 2])
def test_too_few_candidates_are_warned_of_once(run, caplog, n):
    rerank = Rerank(Overlap(), top_n=2)
    for _ in range(3):
        run(rerank, retrieved()[:n], QueryBundle(QUESTION))
    assert [record.levelno for record in caplog.records if WARNING in record.message] == [logging.WARNING]


def test_enough_candidates_are_not_warned_of(run, caplog):
    run(Rerank(Overlap(), top_n=2), retrieved()[:3], QueryBundle(QUESTION))
    run(Rerank(Overlap()), retrieved()[:3], QueryBundle(QUESTION))
    run(Rerank(Overlap(), top_n=2), [], QueryBundle(QUESTION))
    assert caplog.records == []


def test_a_threshold_on_scores_that_are_only_an_order_is_refused_at_once():
    with pytest.raises(ValueError, match="only an order"):
        Rerank(FakeBackend(scale=Scale.RANK), min_score=0.5)


def test_the_retrieval_score_goes_into_the_metadata_of_a_copy_if_asked_for(run):
    given = retrieved()
    before = [(node.node.hash, dict(node.metadata)) for node in given]
    best = run(Rerank(Overlap(), top_n=1, keep_retrieval_score=True), given, QUESTION)[0]
    assert best.node.metadata["retrieval_score"] == best.retrieval_score == 0.85
    assert [(node.node.hash, dict(node.metadata)) for node in given] == before
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert best.node.get_content(metadata_mode=mode) == given[BEST[0]].node.get_content(metadata_mode=mode)


def test_a_second_reranking_keeps_the_retrieval_score_of_the_first(run):
    once = run(Rerank(Overlap(), keep_retrieval_score=True), retrieved(), QUESTION)
    twice = run(Rerank(Overlap(weight=0.5), keep_retrieval_score=True), once, QUESTION)
    assert twice[0].node.metadata["retrieval_score"] == 0.85
    assert twice[0].node.excluded_llm_metadata_keys == ["retrieval_score"]
