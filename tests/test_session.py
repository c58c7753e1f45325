import asyncio
import copy
import logging
import pickle
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import Backend, BackendError, Fallback, Ranking, Reranker, Scale, Scores, Usage
from rerankx.after import drop_near_duplicates, lost_in_the_middle
from rerankx.compose.cached import Cached
from rerankx.session import RerankSession
from rerankx.testing import FakeBackend

QUESTION = "how do i return a gift and who pays shipping"
ROUNDS = {
    "return a gift": ["a gift can go back within 30 days", "the museum is closed", "how to wrap a gift"],
    "who pays shipping": ["the buyer pays shipping", "the museum is closed", "shipping takes two days"],
    "museum hours": ["the museum is closed", "how to wrap a gift"],
}


@dataclass(frozen=True)
class Page:
    title: str
    text: str


def text_of(page):
    return page.text


def pairs(backend):
    return [(call.query, text) for call in backend.calls for text in call.texts]


def told(ranking):
    """Return all that a ranking says but for the details."""
    return [(hit.rank, hit.index, hit.score, hit.raw_score, hit.document, hit.text) for hit in ranking]


def filled(backend, question=QUESTION, **options):
    session = RerankSession(backend, question, **options)
    for query, documents in ROUNDS.items():
        session.add(documents, query=query)
    return session


class Failing(Backend):
    """Fails for some queries, as long as it is told to."""

    name, model, scale, pointwise = "failing", "m", Scale.similarity(0, 1), True

    def __init__(self, *queries):
        self.queries, self.asked = set(queries), []

    def _score(self, query, texts, *, top_n=None):
        self.asked += [(query, text) for text in texts]
        if query in self.queries:
            raise BackendError("down")
        return [0.5 for _ in texts]


class Leaving(Backend):
    """Leaves texts with "late" in them unscored, until it is told not to."""

    name, model, scale, pointwise = "leaving", "m", Scale.similarity(0, 1), True
    late = True

    def _score(self, query, texts, *, top_n=None):
        values = [None if self.late and "late" in text else min(len(text) / 100, 1) for text in texts]
        return Scores(values, degraded="deadline" if None in values else None)


class Waiting(Backend):
    """Scores in the event loop alone."""

    name, model, scale, pointwise = "waiting", "m", Scale.UNKNOWN, True

    def _score(self, query, texts, *, top_n=None):
        raise AssertionError("asked outside the event loop")

    async def _ascore(self, query, texts, *, top_n=None):
        await asyncio.sleep(0)
        return [len(text) for text in texts]


# The law


documents = st.lists(st.sampled_from(["a", "b", "a b", "b a", "a b c", "c", "d", " ", ""]), max_size=6)
queries = st.sampled_from(["a b c", "a", "b c", "d"])


@given(st.lists(st.tuples(queries, documents), max_size=5), st.sampled_from([Scale.similarity(0, 1), Scale.UNKNOWN]))
def test_all_rounds_give_what_one_pass_over_all_documents_gives_and_no_pair_is_scored_twice(rounds, scale):
    backend = FakeBackend(scale=scale)
    session = RerankSession(backend, "a b c")
    for query, found in rounds:
        session.add(found, query=query)
    came = [list(dict.fromkeys(found)) for _, found in rounds]
    first = {text: min(found.index(text) for found in came if text in found) for found in came for text in found}
    union = sorted(first, key=first.__getitem__)
    assert session.documents == union
    scored = len(backend.calls)
    assert told(session.context()) == told(Reranker(FakeBackend(scale=scale)).rerank("a b c", union))
    assert len(backend.calls) == scored  # the rounds have paid for it
    assert max(Counter(pairs(backend)).values(), default=1) == 1
    asked = {(query, text) for query, found in rounds for text in found}
    assert set(pairs(backend)) == {pair for pair in asked | {("a b c", text) for text in union} if pair[1].strip()}


@given(st.lists(st.tuples(queries, documents), max_size=5))
def test_a_rounds_ranking_is_that_of_its_documents(rounds):
    session = RerankSession(FakeBackend(), "a b c")
    for query, found in rounds:
        assert told(session.add(found, query=query).ranking) == told(Reranker(FakeBackend()).rerank(query, found))


@given(st.lists(st.tuples(queries, documents), max_size=5), st.integers(1, 4))
def test_new_and_changed_are_what_the_session_before_and_after_says(rounds, watch):
    session = RerankSession(FakeBackend(), "a b c", watch=watch)
    for query, found in rounds:
        before = session.context()
        done = session.add(found, query=query)
        after = session.context()
        assert done.new == len(after) - len(before)
        best, was = ({hit.text for hit in ranking[:watch] if hit.text.strip()} for ranking in (after, before))
        assert done.changed == len(best - was)
        assert done.settled == (best == was)


def test_fewer_pairs_are_scored_than_by_ranking_all_that_there_is_after_each_round():
    backend = FakeBackend()
    filled(backend).context()
    again, pool = FakeBackend(), []
    for query, found in ROUNDS.items():
        pool = list(dict.fromkeys([*pool, *found]))
        Reranker(again).rerank(query, found)
        Reranker(again).rerank(QUESTION, pool)
    assert (len(pairs(backend)), len(pairs(again))) == (8 + 5, 8 + 3 + 5 + 5)


# What a round says


def test_a_round_has_the_scores_for_both_questions():
    session = RerankSession(FakeBackend(), "gift shipping")
    done = session.add(["a gift", "shipping a gift", "a museum", " "], query="museum")
    assert done.query == "museum"
    assert [(hit.text, hit.score, hit.details["question_score"]) for hit in done.ranking] == [
        ("a museum", 1.0, 0.0),
        ("a gift", 0.0, 0.5),
        ("shipping a gift", 0.0, 1.0),
        (" ", 0.0, None),
    ]


def test_without_a_sub_question_it_is_the_question():
    backend = FakeBackend()
    session = RerankSession(backend, "gift")
    done = session.add(["a gift", "a museum"])
    assert done.query == "gift"
    assert [(hit.score, hit.details["question_score"]) for hit in done.ranking] == [(1.0, 1.0), (0.0, 0.0)]
    assert len(pairs(backend)) == 2


def test_scores_that_are_only_an_order_are_places_among_all():
    session = RerankSession(FakeBackend(score=lambda _, text: len(text), scale=Scale.UNKNOWN), "q")
    session.add(["xxx", "x"])
    done = session.add(["xx", "xxxx"])
    assert [(hit.text, hit.score, hit.details["question_score"]) for hit in done.ranking] == [
        ("xxxx", 1.0, 1.0),
        ("xx", 0.5, 0.5),
    ]
    assert [hit.score for hit in session.context()] == [1.0, 0.75, 0.5, 0.25]


def test_texts_without_a_score_count_among_all_places_and_have_none():
    session = RerankSession(FakeBackend(score=lambda _, text: len(text), scale=Scale.UNKNOWN), "q")
    done = session.add(["xxx", " ", "x", ""])
    assert {hit.text: hit.details["question_score"] for hit in done.ranking} == {
        "xxx": 1,
        "x": 0.75,
        " ": None,
        "": None,
    }
    assert {hit.text: hit.score for hit in session.context()} == {"xxx": 1, "x": 0.75, " ": 0, "": 0}


def test_a_round_that_brings_nothing_better_settles():
    session = RerankSession(FakeBackend(), "a b c", watch=2)
    told = [
        (done.new, done.changed, done.settled)
        for done in map(session.add, [["a", "b"], ["a b", "d"], ["a", "d", "b"], ["e"], ["a b c", "b c a"]])
    ]
    assert told == [(2, 2, False), (2, 1, False), (0, 0, True), (1, 0, True), (2, 2, False)]
    assert [(done.new, done.changed) for done in session.rounds] == [(new, changed) for new, changed, _ in told]


def test_the_details_of_the_backend_stay():
    reply = Scores([0.5], details=[{"window": 3}])
    session = RerankSession(FakeBackend(reply=reply), "q")
    done = session.add(["x"])
    assert session.context()[0].details["window"] == 3
    assert done.ranking[0].details["window"] == 3
    assert "question_score" in done.ranking[0].details


def test_usage_is_that_of_both_questions():
    backend = FakeBackend(reply=Scores([0.5], usage=Usage(calls=1, cost_usd=0.25)))
    session = RerankSession(backend, "question")
    done = session.add(["x"], query="sub-question")
    assert (done.usage.calls, done.usage.cost_usd) == (2, 0.5)
    assert session.add(["x"], query="sub-question").usage.calls == 0


def test_a_cut_is_of_the_ranking_and_not_of_what_joins():
    session = RerankSession(FakeBackend(), "gift")
    done = session.add(["a gift", "museum", "gift"], top_n=1)
    assert (len(done.ranking), done.ranking.total, done.new) == (1, 3, 3)
    assert len(session.add(["x", "y gift"], min_score=0.5).ranking) == 1
    assert len(session.context()) == 5


# The context


def test_a_hit_of_the_context_tells_which_rounds_found_it():
    session = RerankSession(FakeBackend(), "gift museum")
    session.add(["gift", "museum", "gift"], query="museum", top_n=1)
    session.add(["gift"], query="a gift")
    rounds = {hit.text: hit.details["rounds"] for hit in session.context()}
    assert rounds == {
        "museum": [{"query": "museum", "rank": 1, "score": 1.0}],
        "gift": [{"query": "museum", "rank": None, "score": None}, {"query": "a gift", "rank": 1, "score": 0.5}],
    }


def test_of_equal_texts_in_a_round_the_best_place_counts():
    session = RerankSession(FakeBackend(), "gift")
    session.add(["gift", "museum", "gift"])
    assert [hit.details["rounds"][0]["rank"] for hit in session.context()] == [1, 3]


def test_of_equal_texts_the_best_place_counts_wherever_they_stand():
    session = RerankSession(Reranker(FakeBackend(), after=[lost_in_the_middle]), "gift")
    done = session.add(["gift", "museum", "museum", "a museum"])
    assert [hit.rank for hit in done.ranking] == [1, 3, 4, 2]
    assert {hit.text: hit.details["rounds"][0]["rank"] for hit in session.context()} == {
        "gift": 1,
        "museum": 2,
        "a museum": 4,
    }


def test_of_equal_texts_in_a_round_the_first_object_stays():
    first, second = Page("1", "gift"), Page("2", "gift")
    session = RerankSession(FakeBackend(), "gift", key=text_of)
    session.add([first, second])
    assert [document.title for document in session.documents] == ["1"]


def test_of_equal_texts_the_first_object_stays():
    first, second, other = Page("1", "gift"), Page("2", "gift"), Page("3", "museum")
    session = RerankSession(FakeBackend(), "gift", key=text_of)
    session.add([first])
    done = session.add([second, other, first])
    assert done.ranking[0].document is second  # a round ranks what it was given
    assert (done.new, session.documents) == (1, [first, other])
    assert session.context()[0].document is first


def test_the_context_is_cut_and_thresholded_as_by_rerank():
    session = filled(FakeBackend())
    all_of = session.documents
    for options in ({"top_n": 2}, {"min_score": 0.2}, {"top_n": 1, "min_score": 0.2}):
        assert told(session.context(**options)) == told(Reranker(FakeBackend()).rerank(QUESTION, all_of, **options))


def test_the_context_fills_a_budget_from_the_top_down():
    session = RerankSession(FakeBackend(score=lambda _, text: -len(text), scale=Scale.UNKNOWN), "q")
    session.add(["xxx", "x", "xx", "xxxx"])
    texts = [hit.text for hit in session.context(budget_tokens=7, count_tokens=len)]
    assert texts == ["x", "xx", "xxx"]
    assert len(session.context(budget_tokens=7, count_tokens=len, top_n=2)) == 2
    assert len(session.context(budget_tokens=1000)) == 4


def test_a_budget_is_filled_before_the_order_for_language_models():
    seen = []
    reranker = Reranker(
        FakeBackend(score=lambda _, text: ord(text) / 200), after=[lost_in_the_middle], on_ranking=seen.append
    )
    session = RerankSession(reranker, "q")
    session.add(["d", "c", "b", "a"])
    assert [hit.rank for hit in session.context(budget_tokens=2, count_tokens=len)] == [1, 2]
    assert [hit.rank for hit in session.context(budget_tokens=3, count_tokens=len)] == [1, 3, 2]
    assert [hit.rank for hit in session.context()] == [1, 3, 4, 2]
    assert reranker.after == (lost_in_the_middle,)
    assert [len(ranking) for ranking in seen] == [4, 2, 3, 4]


def test_a_wrong_budget_is_found_out_before_anything_is_scored():
    backend = FakeBackend()
    session = RerankSession(Fallback(backend, FakeBackend()), "q")
    session.add(["x"])
    calls = len(backend.calls)
    with pytest.raises(ValueError, match="budget_tokens must be at least 1, not 0"):
        session.context(budget_tokens=0)
    with pytest.raises(ValueError, match="pass budget_tokens, too"):
        session.context(count_tokens=len)
    assert len(backend.calls) == calls


# The reranker's own


def test_what_comes_after_and_who_is_told_are_the_rerankers():
    seen = []
    after = [lambda ranking, top_n: drop_near_duplicates(ranking, embed=lambda texts: [[1.0]] * len(texts))]
    session = RerankSession(Reranker(FakeBackend(), after=after, on_ranking=seen.append), "gift")
    done = session.add(["a museum", "gift"], query="museum")
    assert [hit.text for hit in done.ranking] == ["a museum"]
    assert done.ranking[0].details["duplicates"] == [1]
    assert done.ranking[0].details["question_score"] == 0.0
    assert [hit.text for hit in session.context()] == ["gift"]
    assert session.context()[0].details["rounds"] == [{"query": "museum", "rank": None, "score": None}]
    assert [ranking.query for ranking in seen] == ["museum", "gift", "gift"]
    assert session.documents == ["a museum", "gift"]


def test_the_reranker_stays_as_it_was():
    backend = FakeBackend()
    reranker = Reranker(backend)
    filled(reranker)
    assert reranker.backend is backend
    assert reranker.rerank(QUESTION, ["a gift"])[0].details is None


def test_a_cache_of_ones_own_is_the_sessions():
    backend = FakeBackend()
    cached = Cached(backend)
    filled(cached)
    calls = len(backend.calls)
    assert calls > 0
    context = filled(cached).context()
    assert len(backend.calls) == calls
    assert (context.backend, context.model) == (
        "cached",
        "fake:word-overlap",
    )  # no cache of a cache, which knows no ttl_s


def test_a_deadline_leaves_texts_unscored_and_a_later_round_makes_up_for_it():
    backend = Leaving()
    session = RerankSession(Reranker(backend, deadline_s=60), "q")
    done = session.add(["early", "late"])
    assert (done.ranking.degraded, done.new, done.changed, done.settled) == ("deadline", 2, None, False)
    assert {hit.text: hit.details["question_score"] for hit in done.ranking} == {"early": 0.05, "late": None}
    backend.late = False
    done = session.add(["late"])
    assert (done.new, done.changed, done.settled) == (0, 1, False)
    assert [hit.text for hit in session.context()] == ["early", "late"]
    assert session.context().degraded is None


def test_a_score_that_was_had_is_not_forgotten_where_a_later_round_has_none():
    class Forgetting:
        """A store that keeps nothing, so that each round asks anew."""

        def get(self, keys):
            return {}

        def put(self, items):
            pass

    backend = Leaving()
    session = RerankSession(Cached(backend, Forgetting()), "q")
    backend.late = False
    session.add(["late"])
    backend.late = True
    done = session.add(["late", "early"])
    assert {hit.text: hit.details["question_score"] for hit in done.ranking} == {"early": 0.05, "late": 0.04}
    assert done.changed is None


# Backends that see a list


def test_one_that_is_not_pointwise_is_asked_anew():
    backend = FakeBackend(pointwise=False, scale=Scale.RANK, score=lambda _, text: len(text))
    session = RerankSession(backend, "q")
    first = session.add(["x", "xx"], query="sub")
    assert [hit.details["question_score"] for hit in first.ranking] == [None, None]
    assert (first.new, first.changed, first.settled) == (2, None, False)
    assert session.add(["x"], query="sub").settled
    for _ in range(2):
        assert [hit.text for hit in session.context(top_n=1)] == ["xx"]
    asked = [(call.query, call.texts) for call in backend.calls]
    assert asked == [("sub", ("x", "xx")), ("sub", ("x",)), ("q", ("x", "xx")), ("q", ("x", "xx"))]


def test_a_fallback_answers():
    session = RerankSession(Reranker(Failing("q", "sub"), fallback=FakeBackend()), "q")
    assert session.add(["q", "x"], query="sub").ranking.degraded == "fallback"
    assert (session.context().backend, session.context().documents) == ("fake", ["q", "x"])


# Failures


@pytest.mark.parametrize("fails", ["sub", "q"])
def test_a_round_that_fails_leaves_the_session_as_it_was(fails):
    backend = Failing(fails)
    session = RerankSession(backend, "q")
    backend.queries.clear()
    session.add(["x"], query="sub")
    backend.queries.add(fails)
    with pytest.raises(BackendError, match="down"):
        session.add(["y"], query="sub")
    assert (session.documents, len(session.rounds)) == (["x"], 1)
    backend.queries.clear()
    assert session.add(["y"], query="sub").new == 1
    assert Counter(backend.asked)[("sub", "y")] == (2 if fails == "sub" else 1)


def test_with_the_input_order_for_failures_the_documents_join_all_the_same(caplog):
    with caplog.at_level(logging.WARNING, "rerankx"):
        backend = Failing("sub", "q")
        session = RerankSession(Reranker(backend, on_error="input_order"), "q")
        done = session.add(["x", "y"], query="sub")
    assert done.ranking.degraded == "input_order"
    assert (done.ranking.documents, done.new, done.changed, done.settled) == (["x", "y"], 2, None, False)
    backend.queries.clear()
    assert [hit.raw_score for hit in session.context()] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("documents", "options", "error", "words"),
    [
        (["x", 3], {}, TypeError, "document 1 is int, not a string; pass key="),
        ("x", {}, TypeError, "documents is one str"),
        (["x"], {"query": " "}, ValueError, "query is blank"),
        (["x"], {"query": 3}, TypeError, "query must be a string, not int"),
        (["x"], {"top_n": 0}, ValueError, "top_n must be at least 1"),
        (["x"], {"min_score": 2}, ValueError, "min_score"),
    ],
)
def test_what_is_no_round_is_refused_and_nothing_is_asked(documents, options, error, words):
    backend = FakeBackend()
    session = RerankSession(backend, "q")
    with pytest.raises(error, match=words):
        session.add(documents, **options)
    with pytest.raises(error, match=words):
        asyncio.run(session.aadd(documents, **options))
    assert (backend.calls, session.documents, session.rounds) == ([], [], [])


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (("embedded", " "), {}, ValueError, "query is blank"),
        (("embedded", None), {}, TypeError, "must be a string, not NoneType"),
        ((Reranker, "q"), {}, TypeError, "backend must be a name or a rerankx.Backend"),
        (("no-such", "q"), {}, ValueError, "no backend named 'no-such'"),
        (("embedded", "q"), {"key": "text"}, TypeError, "key must be a function of a document"),
        (("embedded", "q"), {"watch": 0}, ValueError, "watch must be at least 1, not 0"),
        (("embedded", "q"), {"watch": None}, TypeError, "watch must be a whole number"),
    ],
)
def test_what_it_is_not_made_of(arguments, options, error, words):
    with pytest.raises(error, match=words):
        RerankSession(*arguments, **options)


def test_nothing_in_nothing_out_and_nobody_is_asked():
    backend = FakeBackend()
    session = RerankSession(backend, "q")
    assert session.context().hits == ()
    done = session.add([])
    assert (done.ranking.hits, done.new, done.changed, done.settled) == ((), 0, 0, True)
    assert (backend.calls, len(session.rounds)) == ([], 1)


def test_blank_texts_join_unscored_and_twice_is_once():
    session = RerankSession(FakeBackend(), "gift")
    done = session.add(["", " ", "", "gift"])
    assert (done.new, done.changed, len(done.ranking)) == (3, 1, 4)
    assert [hit.text for hit in session.context()] == ["gift", "", " "]


def test_documents_may_be_a_generator_and_are_not_changed():
    session = RerankSession(FakeBackend(), "gift")
    assert session.add(text for text in ("x", "gift")).new == 2
    found = ["y", "x"]
    session.add(found)
    session.documents.clear()
    session.rounds.clear()
    session.context()[0].details["rounds"].clear()
    assert (found, len(session.documents), len(session.rounds)) == (["y", "x"], 3, 2)
    assert session.context()[0].details["rounds"]


# Side by side


def test_rounds_may_be_added_by_many_threads_at_once():
    backend = FakeBackend()
    session = RerankSession(backend, "a b c d", watch=3)
    texts = [" ".join(letters) for letters in ("abcd", "abc", "ab", "a", "bcd", "cd", "d", "dab")]
    gate = threading.Barrier(16)

    def add(i):
        gate.wait()
        return session.add([texts[(i + j) % 8] for j in range(5)], query="abcd"[i % 4])

    with ThreadPoolExecutor(16) as pool:
        done = list(pool.map(add, range(16)))
    assert sum(one.new for one in done) == len(session.documents) == 8
    assert sorted(session.documents) == sorted(texts)
    assert sorted(map(id, session.rounds)) == sorted(map(id, done))
    assert max(Counter(pairs(backend)).values()) == 1
    assert told(session.context()) == told(Reranker(FakeBackend()).rerank("a b c d", session.documents))


def test_rounds_may_be_added_by_many_tasks_at_once():
    async def run():
        session = RerankSession(Waiting(), "q")
        done = await asyncio.gather(*(session.aadd(["x" * i, "x" * (i + 1)], query="s") for i in range(1, 9)))
        return session, done, await session.acontext(top_n=3, budget_tokens=16, count_tokens=len)

    session, done, context = asyncio.run(run())
    assert sum(one.new for one in done) == len(session.documents) == 9
    assert [len(hit.text) for hit in context] == [9, 7]
    assert [one["rank"] for one in context[1].details["rounds"]].count(1) == 1


def test_both_ways_of_asking_give_the_same():
    async def run():
        session = RerankSession(FakeBackend(), QUESTION)
        done = [await session.aadd(found, query=query) for query, found in ROUNDS.items()]
        return done, await session.acontext(top_n=3)

    done, context = asyncio.run(run())
    session = filled(FakeBackend())
    assert [(one.new, one.changed, told(one.ranking)) for one in done] == [
        (one.new, one.changed, told(one.ranking)) for one in session.rounds
    ]
    assert told(context) == told(session.context(top_n=3))


def test_it_copies_and_pickles():
    session = filled(FakeBackend())
    for twin in (copy.deepcopy(session), pickle.loads(pickle.dumps(session))):
        assert told(twin.context()) == told(session.context())
        assert len(twin.rounds) == 3
        assert twin.add(["new"], query="new").new == 1
    assert len(session.documents) == 5


def test_it_tells_of_itself():
    assert repr(filled(FakeBackend())).startswith("<RerankSession of 3 rounds and 5 documents by Reranker(")
    assert isinstance(filled(FakeBackend()).rounds[0].ranking, Ranking)
