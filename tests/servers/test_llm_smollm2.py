"""`listwise` and `judge` on a real language model that cannot rank: protocol, repair, and that it is noticed. No quality."""

import asyncio
import logging

import pytest
from smollm2_stage import CONTEXT, need, smollm2

from rerankx import ReplyError, Reranker

need()
PASSAGES = (
    "The ferry to Borkum takes two hours.",
    "Bread is baked at five in the morning.",
    "The museum is closed on Mondays.",
    "The night train stops in Ghent.",
    "A catamaran reaches Borkum in one hour.",
    "Roses are cut in spring.",
)
QUERY = "how long is the way to Borkum?"
QUERIES = (
    QUERY,
    "when is bread baked?",
    "is the museum open on Monday?",
    "where does the night train stop?",
    "when are roses cut?",
    "which ship is fast?",
    "what takes two hours?",
    "what happens in spring?",
    "what is closed?",
    "who is in Ghent?",
)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with smollm2(tmp_path_factory.mktemp("smollm2")) as served:
        yield served


@pytest.fixture
def make(server):
    """Returns `make(name, **options)`, which makes a reranker."""
    made = []

    def reranker(name, **options):
        made.append(Reranker(name, model="smollm2", base_url=server.address, **options))
        return made[-1]

    yield reranker
    for one in made:
        one.backend.close()


def order_of(ranking):
    return [hit.index for hit in ranking]


def complete(ranking):
    return sorted(order_of(ranking)) == list(range(len(PASSAGES)))


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_schema_has_an_order_of_all_passages_in_one_call(make, how):
    reranker = make("listwise")
    ranking = reranker.rerank(QUERY, PASSAGES) if how == "sync" else asyncio.run(reranker.arerank(QUERY, PASSAGES))
    assert complete(ranking)
    assert ranking.degraded is None
    assert (ranking.usage.calls, ranking.usage.cost_usd, ranking.usage.estimated) == (1, None, False)
    assert 200 < ranking.usage.input_tokens < CONTEXT
    assert len(PASSAGES) < ranking.usage.output_tokens < 60
    replies = reranker.backend.replies
    assert (replies.parsed + replies.repaired, replies.failed) == (1, 0)


def test_without_a_schema_no_document_is_lost_and_every_reply_is_counted(make):
    reranker = make("listwise", lacks=["schema"], on_bad_reply="input_order")
    rankings = [reranker.rerank(query, PASSAGES) for query in QUERIES[:5]]
    assert all(map(complete, rankings))
    replies = reranker.backend.replies
    assert replies.failed, "it talks, and that is not taken for a ranking"
    assert replies.parsed + replies.repaired + replies.failed == sum(ranking.usage.calls for ranking in rankings)
    kept = [ranking for ranking in rankings if ranking.degraded == "incomplete"]
    assert replies.failed >= 2 * len(kept)  # it was asked again
    assert all(order_of(ranking) == list(range(len(PASSAGES))) for ranking in kept)
    assert all(hit.details == {"kept": "input_order"} for ranking in kept for hit in ranking)


def test_a_model_that_ranks_by_place_is_noticed(make, caplog):
    reranker = make("listwise")
    with caplog.at_level(logging.WARNING, logger="rerankx"):
        orders = [order_of(reranker.rerank(query, PASSAGES)) for query in QUERIES]
    assert orders == [list(range(len(PASSAGES)))] * len(QUERIES)
    (warning,) = [record.message for record in caplog.records]
    assert "in the order in which they were shown" in warning


def test_log_probabilities_of_letters_are_an_order_or_a_reason(make):
    ranking = make("listwise", strategy="first-token", on_bad_reply="input_order").rerank(QUERY, PASSAGES)
    assert complete(ranking)
    if ranking[0].details is None:
        assert ranking.usage.output_tokens == 1
    else:
        assert ranking[0].details["strategy"] == "sliding"
        assert "first token" in ranking[0].details["because"]


def test_yes_or_no_is_a_probability_from_one_token_each(make):
    # What it has read before it reads again in other portions, and then counts a little otherwise.
    reranker = make("judge", grades="yes-no", extra={"cache_prompt": False})
    ranking = reranker.rerank(QUERY, PASSAGES)
    assert complete(ranking)
    assert (ranking.usage.calls, ranking.usage.output_tokens) == (len(PASSAGES), len(PASSAGES))
    assert all(hit.details == {"grade_from": "log-probabilities"} for hit in ranking)
    assert all(0 < hit.score < 1 for hit in ranking)
    again = reranker.rerank(QUERY, list(reversed(PASSAGES)))
    assert {hit.text: hit.score for hit in again} == pytest.approx({hit.text: hit.score for hit in ranking}, abs=1e-3)


def test_a_judge_that_gives_no_grade_is_asked_twice_for_each_text(make):
    reranker = make("judge", lacks=["logprobs"], on_bad_reply="unscored")
    ranking = reranker.rerank(QUERY, PASSAGES)
    assert complete(ranking)
    assert ranking.degraded == "incomplete"
    graded = [hit for hit in ranking if hit.raw_score is not None]
    assert all(hit.details == {"grade_from": "text"} for hit in graded)
    replies = reranker.backend.replies
    assert replies.failed >= 2 * (len(PASSAGES) - len(graded)) > 0
    assert ranking.usage.calls == replies.parsed + replies.repaired + replies.failed


def test_a_reply_that_is_cut_off_is_not_taken_for_an_order_of_all(make):
    reranker = make("listwise", max_output_tokens=16)
    with pytest.raises(ReplyError, match="cut off before there was an answer"):
        reranker.rerank(QUERY, PASSAGES)
    assert reranker.backend.replies.failed == 2


def test_passages_are_cut_to_the_context_that_the_server_tells(make):
    reranker = make("listwise")
    ranking = reranker.rerank(QUERY, [passage + " It rains." * 400 for passage in PASSAGES])
    assert complete(ranking)
    assert ranking.truncated == len(PASSAGES)
    assert ranking.usage.input_tokens < CONTEXT * max(ranking.usage.calls, 1)
