import asyncio
import pickle
import re
import threading
from functools import partial
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import (
    Attempt,
    BackendError,
    Reranker,
    Scale,
    Scores,
    Usage,
    Windowed,
    arerank_then_chunk,
    rerank_then_chunk,
)
from rerankx.after import fill_budget
from rerankx.compose.cached import Cached
from rerankx.interface import remaining_s
from rerankx.long_documents import Chunk
from rerankx.testing import FakeBackend

QUERY = "how long does a refund take"
FILLER = "The museum opens on Sundays and its garden is known for roses. "
ANSWER = "A refund does take five days."
LONG = FILLER * 40 + ANSWER + " " + FILLER * 40


class Words(FakeBackend):
    """Counts a word as a token."""

    def token_spans(self, text):
        return [match.span() for match in re.finditer(r"\S+", text)]


def words(text):
    return len(text.split())


def chunked(documents, budget_tokens=1_000, reranker=None, **options):
    reranker = reranker or Words()
    return rerank_then_chunk(QUERY, documents, budget_tokens=budget_tokens, reranker=reranker, **options)


def test_the_passage_is_found_deep_in_a_long_document():
    ranking = rerank_then_chunk(QUERY, [FILLER * 30, LONG, "A museum."], budget_tokens=60, chunk_tokens=30)
    best = ranking[0]
    assert ANSWER in best.text
    assert best.document.index == 1
    assert LONG[best.document.start : best.document.end] == best.document.text == best.text


def test_spans_lead_back_into_the_callers_objects():
    documents = [{"body": FILLER * 3}, {"body": FILLER * 3 + ANSWER}]
    ranking = chunked(documents, chunk_tokens=12, key=lambda document: document["body"])
    assert ranking[0].document == Chunk(documents[1], 1, len(FILLER) * 3, len(FILLER) * 3 + len(ANSWER), ANSWER)
    assert ranking[0].document.document is documents[1]


def test_only_the_best_documents_are_cut():
    backend = Words()
    ranking = chunked(["a refund", "a refund does take", "the museum"], reranker=backend, documents_kept=2)
    assert [hit.text for hit in ranking] == ["a refund does take", "a refund"]
    assert [call.texts for call in backend.calls][1] == ("a refund does take", "a refund")
    assert ranking.total == 2


def test_the_budget_is_filled_by_rank_and_what_does_not_fit_is_passed_over():
    documents = ["a refund does take long", "how long does a refund", "long refund"]  # 5, 5 and 2 tokens
    assert [hit.index for hit in chunked(documents, 12)] == [0, 1, 2]
    ranking = chunked(documents, 8)
    assert [(hit.rank, hit.text) for hit in ranking] == [(1, documents[0]), (3, documents[2])]
    assert ranking.total == 3
    assert [hit.text for hit in chunked(documents, 7)] == [documents[0], documents[2]]
    assert [hit.text for hit in chunked(documents, 4)] == [documents[2]]


def test_where_nothing_fits_nothing_comes_back_and_it_is_said(caplog):
    ranking = chunked([ANSWER], 2)
    assert (list(ranking), ranking.total) == ([], 1)
    assert caplog.messages == ["none of 1 texts fits into budget_tokens=2; the ranking is empty"]


def test_the_budget_may_be_in_the_tokens_of_who_reads_it():
    assert len(chunked([ANSWER, FILLER], 40, count_tokens=len)) == 1
    assert len(chunked([ANSWER, FILLER], 40)) == 2


def test_a_text_that_occurs_twice_goes_in_once():
    documents = [FILLER + ANSWER, FILLER + ANSWER, FILLER + "Another."]
    ranking = chunked(documents, chunk_tokens=12)
    assert sorted((hit.text, hit.document.index) for hit in ranking) == [
        (ANSWER, 0), ("Another.", 2), (FILLER.strip(), 0),
    ]  # fmt: skip


def test_a_document_that_occurs_twice_takes_one_place():
    ranking = chunked([ANSWER, ANSWER, "a refund"], documents_kept=2)
    assert [hit.document.index for hit in ranking] == [0, 2]


@pytest.mark.parametrize("documents", [[], ["", " \n"]])
def test_nothing_in_nothing_out(documents, caplog):
    backend = Words()
    ranking = chunked(documents, reranker=backend)
    assert (list(ranking), ranking.total, backend.calls) == ([], 0, [])
    assert caplog.messages == []


@given(
    st.lists(st.lists(st.sampled_from(["refund", "Take", "five.", "\n", "long!"]), max_size=40).map(" ".join), max_size=8),
    st.integers(1, 60), st.integers(1, 10), st.integers(1, 4),
)  # fmt: skip
def test_the_budget_is_kept_and_spans_are_true(documents, budget, size, kept):
    ranking = chunked(documents, budget, chunk_tokens=size, documents_kept=kept)
    assert sum(words(hit.text) for hit in ranking) <= budget
    for hit in ranking:
        chunk = hit.document
        assert chunk.document is documents[chunk.index]
        assert documents[chunk.index][chunk.start : chunk.end] == chunk.text == hit.text
        assert words(hit.text) <= size
    assert len({hit.document.index for hit in ranking}) <= kept
    assert len({hit.text for hit in ranking}) == len(ranking)


@given(
    st.lists(st.sampled_from(["refund", "Take", "five.", "\n", "long!"]), max_size=40).map(" ".join), st.integers(1, 9)
)
def test_pieces_do_not_overlap_and_hold_every_word_that_is_no_repetition(document, size):
    ranking = chunked([document], 1_000, chunk_tokens=size)
    spans = sorted((hit.document.start, hit.document.end) for hit in ranking)
    assert all(a[1] <= b[0] for a, b in pairwise(spans))
    assert {word for hit in ranking for word in hit.text.split()} == set(document.split())


def test_both_ways_of_asking_give_the_same():
    options = {"budget_tokens": 60, "reranker": Words(), "chunk_tokens": 12}
    one = rerank_then_chunk(QUERY, [LONG, ANSWER], **options)
    other = asyncio.run(arerank_then_chunk(QUERY, [LONG, ANSWER], **options))
    assert one.hits == other.hits
    assert len(one) > 1


def test_the_event_loop_does_not_wait_for_the_tokenizer():
    threads = set()

    class Slow(Words):
        def token_spans(self, text):
            threads.add(threading.get_ident())
            return super().token_spans(text)

    asyncio.run(arerank_then_chunk(QUERY, [ANSWER], budget_tokens=10, reranker=Slow()))
    assert threads
    assert threading.get_ident() not in threads


def test_what_both_rankings_took_is_told():
    class Costly(Words):
        def _score(self, query, texts, *, top_n=None):
            values = super()._score(query, texts)
            return Scores(values, usage=Usage(calls=1), cut=[True] * len(texts), attempts=[Attempt("a", "b")])

    heard = []
    ranking = chunked([ANSWER], reranker=Reranker(Costly(), on_ranking=heard.append))
    assert (ranking.usage.calls, ranking.truncated, len(ranking.attempts)) == (2, 2, 2)
    assert ranking.elapsed_ms == heard[0].elapsed_ms + heard[1].elapsed_ms > 0


@pytest.mark.parametrize("late", [1, 2])
def test_it_is_degraded_where_either_ranking_is(late):
    class Late(Words):
        def _score(self, query, texts, *, top_n=None):
            values = super()._score(query, texts, top_n=top_n)
            return Scores([0.5, None], degraded="deadline") if len(self.calls) == late else values

    assert chunked([FILLER, ANSWER], reranker=Late()).degraded == "deadline"


def test_the_reranker_keeps_its_ways_and_stays_as_it_was():
    heard = []
    failing = Reranker(Words(error=BackendError("down")), on_error="input_order", on_ranking=heard.append)
    ranking = chunked(["one", "two"], reranker=failing)
    assert [hit.text for hit in ranking] == ["one", "two"]
    assert ranking.degraded == "input_order"
    assert [heard[0].degraded, len(heard)] == ["input_order", 2]
    assert not isinstance(failing.backend, Windowed)
    with pytest.raises(BackendError, match="down"):
        chunked(["one"], reranker=Reranker(failing.backend))


def test_a_fallback_answers_for_both_rankings():
    reranker = Reranker(Words(error=BackendError("down")), fallback=Words())
    ranking = chunked([FILLER, ANSWER], reranker=reranker)
    assert ranking[0].text == ANSWER
    assert ranking.degraded == "fallback"


@pytest.mark.parametrize("how", ["sync", "async"])
def test_one_deadline_is_for_both_rankings(how):
    left = []

    class Slow(Words):
        def _score(self, query, texts, *, top_n=None):
            left.append(remaining_s())
            threading.Event().wait(0.05)
            return super()._score(query, texts)

    options = {"budget_tokens": 1_000, "reranker": Reranker(Slow(), deadline_s=30)}
    if how == "sync":
        rerank_then_chunk(QUERY, [ANSWER], **options)
    else:
        asyncio.run(arerank_then_chunk(QUERY, [ANSWER], **options))
    assert left[1] <= left[0] - 0.05


def test_windows_that_are_there_are_not_put_in_windows():
    backend = Words()
    windowed = Windowed(backend, size=20, overlap=0)
    chunked([LONG], reranker=windowed)
    assert max(words(text) for call in backend.calls for text in call.texts) <= 20
    assert chunked([LONG], reranker=windowed).model == windowed.model


def test_windows_behind_a_cache_are_seen():
    backend = Words()
    chunked([LONG], reranker=Cached(Windowed(backend, size=600, overlap=0)))
    assert max(words(text) for text in backend.calls[0].texts) > 200


def test_a_backend_that_compares_texts_reads_whole_documents():
    backend = Words(pointwise=False, scale=Scale.RANK)
    ranking = chunked([FILLER, LONG], reranker=backend, chunk_tokens=12)
    assert backend.calls[0].texts == (FILLER, LONG)
    assert ANSWER in ranking[0].text


def test_what_comes_after_a_ranking_keeps_its_order():
    def backwards(ranking, top_n=None):
        from dataclasses import replace

        return replace(ranking, hits=ranking.hits[::-1])

    documents = ["a refund does take long", "how long does a refund", "long refund"]
    ranking = chunked(documents, 8, Reranker(Words(), after=[backwards]))
    assert [hit.rank for hit in ranking] == [3, 1]  # filled from the best one on


def test_what_comes_after_is_for_the_pieces_alone():
    seen = []

    def step(ranking, top_n=None):
        seen.append([hit.text for hit in ranking])
        return ranking

    after = [step, partial(fill_budget, budget_tokens=words(ANSWER), count_tokens=words)]
    ranking = chunked([LONG], reranker=Reranker(Words(), after=after), chunk_tokens=12)
    assert [hit.text for hit in ranking] == [ANSWER]
    assert seen == [[ANSWER, FILLER.strip()]]


def test_what_comes_after_has_no_deadline():
    left = []

    def step(ranking, top_n=None):
        left.append(remaining_s())
        return ranking

    chunked([ANSWER], reranker=Reranker(Words(), deadline_s=30, after=[step]))
    assert left == [None]


@pytest.mark.parametrize(
    ("count", "error", "said"),
    [
        (str.split, TypeError, "count_tokens returns must be a whole number"),
        (lambda _: -5, ValueError, "at least 0, not -5"),
    ],
)
def test_what_is_no_number_of_tokens_is_refused(count, error, said):
    with pytest.raises(error, match=said):
        chunked([ANSWER], count_tokens=count)


def test_chunks_pickle():
    ranking = chunked([ANSWER])
    assert pickle.loads(pickle.dumps(ranking)) == ranking


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"budget_tokens": 0}, ValueError, "budget_tokens must be at least 1, not 0"),
        ({"chunk_tokens": True}, TypeError, "chunk_tokens must be a whole number, not True"),
        ({"documents_kept": 0}, ValueError, "documents_kept must be at least 1, not 0"),
        ({"count_tokens": "gpt"}, TypeError, "count_tokens must be a function of a text, not str"),
        ({"query": " "}, ValueError, "query is blank"),
        ({"documents": "one"}, TypeError, "documents is one str"),
        ({"documents": [1]}, TypeError, "document 0 is int, not a string; pass key="),
        ({"reranker": 3}, TypeError, "backend must be a name or a rerankx.Backend, not int"),
    ],
)
def test_bad_arguments_are_refused(options, error, words):
    given = {"query": QUERY, "documents": ["one"], "budget_tokens": 9, "reranker": Words(), **options}
    with pytest.raises(error, match=words):
        rerank_then_chunk(**given)
    with pytest.raises(error, match=words):
        asyncio.run(arerank_then_chunk(**given))
