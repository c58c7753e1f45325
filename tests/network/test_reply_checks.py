"""Whatever a server does with the results: scores stay with their documents, and nothing is lost."""

import math

import pytest
from backend_stage import MADE, SDK, made, spoken
from fault_stage import good, shuffled
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import Reranker

TARGETS = [SDK, "cohere", "tei", "voyage", "nim", "pinecone"]
by_index = pytest.mark.parametrize("target", TARGETS)
thorough = settings(max_examples=25, deadline=None)
# Few values, so that many are equal; all are exact in any format.
some_scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=9)


def number_in(_query, texts):
    """The score of a text is the number that it begins with."""
    return [float(text.split()[0]) for text in texts]


def documents_of(scores):
    return [f"{score} of document {i}" for i, score in enumerate(scores)]


def asked(stage, target, behaviour, scores, **options):
    url = stage.address(behaviour, dialect=spoken(target), scorer=number_in)
    ranking = Reranker(made(target, url, **options)).rerank("a query", documents_of(scores))
    MADE.pop().close()  # an example is no test: hundreds would be open
    return ranking, stage.requests(url)


@by_index
def test_scores_stay_with_their_documents_and_the_servers_order_breaks_ties(stage, target):
    @thorough
    @given(some_scores.flatmap(lambda scores: st.tuples(st.just(scores), st.permutations(range(len(scores))))))
    def check(case):
        scores, order = case
        ranking, _ = asked(stage, target, shuffled(lambda _n: order), scores)
        assert {hit.index: hit.raw_score for hit in ranking} == dict(enumerate(scores))
        assert [hit.text for hit in ranking] == [documents_of(scores)[hit.index] for hit in ranking]
        assert [hit.index for hit in ranking] == sorted(order, key=lambda i: -scores[i])  # stable
        assert ranking.degraded is None

    check()


@by_index
def test_what_the_server_leaves_out_is_last_and_unscored(stage, target):
    @thorough
    @given(
        some_scores.flatmap(
            lambda scores: st.tuples(
                st.just(scores),
                st.permutations(range(len(scores))).flatmap(
                    lambda order: st.integers(0, len(scores) - 1).map(lambda n: order[:n])
                ),
            )
        )
    )
    def check(case):
        scores, kept = case
        ranking, requests = asked(stage, target, shuffled(lambda _n: kept), scores)
        left_out = [i for i in range(len(scores)) if i not in kept]
        assert [hit.index for hit in ranking] == sorted(kept, key=lambda i: -scores[i]) + left_out
        assert [hit.raw_score for hit in ranking[len(kept) :]] == [None] * len(left_out)
        assert ranking.degraded == "incomplete"
        assert len(requests) == 1

    check()


def test_results_without_an_index_are_in_the_order_of_the_documents(stage):
    @thorough
    @given(some_scores)
    def check(scores):
        ranking, _ = asked(stage, "deepinfra", good(), scores)
        assert {hit.index: hit.raw_score for hit in ranking} == dict(enumerate(scores))
        assert [hit.index for hit in ranking] == sorted(range(len(scores)), key=lambda i: -scores[i])

    check()


@pytest.mark.parametrize("target", ["tei", "nim", "voyage", "deepinfra"])
def test_batches_are_joined_as_they_were_cut(stage, target):
    @thorough
    @given(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=11), st.integers(1, 5))
    def check(scores, size):
        ranking, requests = asked(stage, target, good(), scores, max_documents=size)
        assert {hit.index: hit.raw_score for hit in ranking} == dict(enumerate(scores))
        assert [hit.index for hit in ranking] == sorted(range(len(scores)), key=lambda i: -scores[i])
        assert len(requests) == ranking.usage.calls == math.ceil(len(scores) / size)

    check()


def test_the_servers_own_limit_is_kept(stage):
    ranking, requests = asked(stage, "tei", good(), [0.5] * 65)  # the server refuses more than 32
    assert (len(requests), len(ranking), ranking.degraded) == (3, 65, None)


def test_a_batch_that_fails_fails_the_ranking_and_ends_the_others(stage):
    from fault_stage import status

    from rerankx import BackendError

    url = stage.address(good(), status(422), good(), dialect="tei")
    backend = made("tei", url, max_documents=1, max_concurrency=1)
    with pytest.raises(BackendError):
        backend.score("a query", ["a", "b", "c", "d", "e"])
    assert len(stage.requests(url)) == 2


@pytest.mark.parametrize("model", ["jina-reranker-v3", "jinaai/jina-reranker-v3"])
def test_a_listwise_model_is_never_split(stage, model):
    _, requests = asked(stage, "jina-api", good(), [0.5] * 9, model=model, max_documents=2)
    assert len(requests) == 1


def test_what_is_declared_listwise_is_never_split(stage):
    _, requests = asked(stage, "voyage", good(), [0.5] * 9, pointwise=False, max_documents=2)
    assert len(requests) == 1


def test_blank_texts_are_not_sent(stage, rank):
    url = stage.address(dialect="tei")
    ranking = rank(Reranker(made("tei", url)), "refund", ["", "no", " \n", "refund"])
    assert [hit.index for hit in ranking] == [3, 1, 0, 2]
    assert [request.body["texts"] for request in stage.requests(url)] == [["no", "refund"]]


def test_top_n_keeps_the_best_of_all_that_were_scored(stage, rank):
    url = stage.address(dialect="cohere")
    ranking = rank(Reranker(made("cohere", url)), "refund", ["no", "nor this", "refund"], top_n=1)
    assert ([hit.index for hit in ranking], ranking.total) == ([2], 3)
    assert stage.requests(url)[0].body["top_n"] == 3
