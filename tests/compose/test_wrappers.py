"""What holds for every backend that is made of backends, and for each of them over each."""

import asyncio
import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import Backend, BackendError, Cascade, Fallback, Floor, Fusion, Reranker, Scale, Scores, Usage
from rerankx.compose.cached import Cached
from rerankx.compose.calibrated import Calibrated, Calibration
from rerankx.compose.windowed import Windowed
from rerankx.interface import out_of_time
from rerankx.testing import BackendContract, FakeBackend, word_overlap

QUERY = "refund of the red umbrella"
WORDS = ["refund", "the", "red", "umbrella", "museum", "rose", "of", "garden"]


def share(query, text):
    """Return a score with few ties, in [0, 1]."""
    return (word_overlap(query, text) + 1 / (1 + len(text))) / 2


class Fake(FakeBackend):
    """Counts what it is asked, and leaves texts unscored where the caller's time is up."""

    def __init__(self, name="fake", *, score=share, **more):
        super().__init__(name=name, score=score, **more)

    def _score(self, query, texts, *, top_n=None):
        values = super()._score(query, texts, top_n=top_n)
        cut = [len(text) > 1000 for text in texts]
        if out_of_time()():
            return Scores([None] * len(texts), degraded="deadline")
        return Scores(values, usage=Usage(calls=1, input_tokens=len(texts)), cut=cut)

    async def _ascore(self, query, texts, *, top_n=None):
        await asyncio.sleep(0)
        return self._score(query, texts, top_n=top_n)


def listwise():
    return Fake("listwise", pointwise=False)


def minmax(backend):
    return Fusion([backend, Fake("second", score=word_overlap)], method="weighted", weights=[2, 1])


def mean(backend):
    return Fusion([backend, Fake("second", score=word_overlap)], method="weighted", normalise="none")


def calibrated(backend):
    scale = backend.scale if backend.scale.absolute else Scale.LOGIT
    curve = Calibration(
        method="platt", scale=scale, fingerprint=backend.fingerprint, corpus="c", slope=3.0, intercept=-1.0
    )
    return Calibrated(backend, curve)


WRAPPERS: dict[str, Callable[[Backend], Backend]] = {
    "cascade, as the first": lambda one: Cascade([one, Fake("last")], keep=10),
    "cascade, as the last": lambda one: Cascade([Fake("first"), one], keep=10),
    "cascade, alone": lambda one: Cascade([one]),
    "fusion": lambda one: Fusion([one, Fake("second"), Fake("third")]),
    "fusion with the retriever": lambda one: Fusion(["retrieval", one], weights=[1, 2]),
    "fusion, weighted": minmax,
    "fusion, mean": mean,
    "floor": lambda one: Floor(one, below=20),
    "floor, as the floor": lambda one: Floor(Fake("over"), one, below=20),
    "fallback, as the first": lambda one: Fallback(one, Fake("second")),
    "fallback, as the second": lambda one: Fallback(Fake("down", error=BackendError("down")), one),
    "cached": Cached,
    "windowed": lambda one: Windowed(one, size=20, overlap=5),
    "calibrated": calibrated,
}
POINTWISE_ONLY = {"cached", "windowed", "calibrated"}


def legal(outer: str, inner: Backend) -> bool:
    if outer in POINTWISE_ONLY:
        return inner.pointwise and (outer, inner.name) != ("windowed", "windowed")
    if outer == "fusion, weighted":
        return inner.scale.kind != "rank"
    return outer != "fusion, mean" or inner.scale == Fake().scale


def pairs(lawful):
    inner = {"plain": Fake, "listwise": listwise}
    inner |= {name: lambda make=make: make(Fake()) for name, make in WRAPPERS.items()}
    found = [
        (outer, name, make) for outer in WRAPPERS for name, make in inner.items() if legal(outer, make()) == lawful
    ]
    return [pytest.param(WRAPPERS[outer], make, id=f"{outer} > {name}") for outer, name, make in found]


every_pair = pytest.mark.parametrize(("outer", "inner"), pairs(lawful=True))


def documents(n):
    """Return n texts with duplicates, blanks, and one of some length among them."""
    return [
        ("", " ".join(WORDS[j % 8] for j in range(90)), "the refund", " \n")[i % 4]
        if i % 3 == 0
        else f"{WORDS[i % 8]} {WORDS[i % 5]} {i % 7}"
        for i in range(n)
    ]


def place(text):
    """Return the score that a retriever would have given."""
    return len(text) % 5


def told(ranking):
    """Return all that may not depend on how it was asked."""
    return (
        [(hit.index, hit.raw_score, hit.details) for hit in ranking],
        ranking.degraded,
        ranking.truncated,
        ranking.scale,
    )


# Each over each


@every_pair
@pytest.mark.parametrize("n", [0, 1, 2, 33])
def test_what_is_legal_loses_and_doubles_nothing_and_leaves_its_input_alone(outer, inner, n):
    given = documents(n)
    ranking = Reranker(outer(inner())).rerank(QUERY, given, retrieval_score=place)
    assert sorted(hit.index for hit in ranking) == list(range(n))
    assert all(hit.document is given[hit.index] for hit in ranking)
    assert given == documents(n)
    assert all((hit.raw_score is None) or hit.text.strip() for hit in ranking)


@pytest.mark.parametrize(("outer", "inner"), pairs(lawful=False))
def test_what_is_not_legal_is_refused_when_it_is_made(outer, inner):
    one = inner()
    with pytest.raises(ValueError, match=one.name):
        outer(one)


@every_pair
def test_both_ways_of_asking_give_the_same(outer, inner):
    given = documents(33)
    plain = Reranker(outer(inner())).rerank(QUERY, given, retrieval_score=place, top_n=7)
    other = asyncio.run(Reranker(outer(inner())).arerank(QUERY, given, retrieval_score=place, top_n=7))
    assert told(other) == told(plain)
    assert other.usage == plain.usage
    assert other.attempts == plain.attempts


@every_pair
def test_copies_are_as_good(outer, inner):
    backend = outer(inner())
    expected = told(Reranker(backend).rerank(QUERY, documents(9)))
    for twin in (copy.deepcopy(outer(inner())), pickle.loads(pickle.dumps(backend))):
        assert twin.fingerprint == backend.fingerprint
        assert told(Reranker(twin).rerank(QUERY, documents(9))) == expected


@every_pair
def test_what_time_ran_out_for_is_told(outer, inner):
    reranker = Reranker(outer(inner()), deadline_s=1e-9, on_error="input_order")
    ranking = reranker.rerank(QUERY, documents(9))
    assert ranking.degraded is not None
    assert len(ranking) == 9


@every_pair
def test_rows_and_notebook_view_and_json_are_there(outer, inner):
    ranking = Reranker(outer(inner())).rerank(QUERY, documents(9))
    assert len({tuple(row) for row in ranking.explain()}) == 1
    assert ranking._repr_html_()
    assert ranking.to_json()


@every_pair
def test_a_text_that_was_cut_is_counted_once(outer, inner):
    long = "the refund " * 200
    backend = outer(inner())
    ranking = Reranker(backend).rerank(QUERY, [long, "the refund", long])
    met = any(long in call.texts for fake in fakes(backend) if fake.name != "down" for call in fake.calls)
    assert ranking.truncated == (2 if met else 0)


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_failure_is_raised_or_answered_for_and_never_hidden(name):
    reranker = Reranker(WRAPPERS[name](Fake("broken", error=BackendError("kaput"))))
    if name == "fallback, as the first":
        ranking = reranker.rerank(QUERY, documents(5))
        assert ranking.degraded == "fallback"
        assert [attempt.error for attempt in ranking.attempts] == ["BackendError: kaput", None]
    else:
        with pytest.raises(BackendError, match="kaput"):
            reranker.rerank(QUERY, documents(5))


# Deeper


def nested(draw, depth):
    """Return a function that makes some pipeline anew."""
    if depth == 0:
        return draw(st.sampled_from([Fake, listwise]))
    inner = nested(draw, depth - 1)
    name = draw(st.sampled_from([name for name in WRAPPERS if legal(name, inner())]))
    return lambda: WRAPPERS[name](inner())


@settings(deadline=None)
@given(st.data(), st.integers(2, 4), st.lists(st.sampled_from([*documents(12), "one more"]), max_size=33))
def test_pipelines_of_any_depth_lose_nothing_and_answer_the_same_both_ways(data, depth, given_texts):
    make = nested(data.draw, depth)
    before = list(given_texts)
    ranking = Reranker(make()).rerank(QUERY, given_texts, retrieval_score=place)
    assert sorted(hit.index for hit in ranking) == list(range(len(given_texts)))
    assert given_texts == before
    other = asyncio.run(Reranker(make()).arerank(QUERY, given_texts, retrieval_score=place))
    assert told(other) == told(ranking)


@settings(deadline=None)
@given(st.data(), st.integers(1, 3))
def test_a_pipeline_that_is_pointwise_scores_a_text_alone_as_in_company(data, depth):
    make = nested(data.draw, depth)
    backend = make()
    if backend.pointwise:
        texts = [text for text in documents(12) if text.strip()]
        together = backend.score(QUERY, texts)
        alone = [make().score(QUERY, [text]) for text in texts]
        assert list(together.values) == pytest.approx([one.values[0] for one in alone], abs=1e-12)
        assert together.details is None or list(together.details) == [one.details and one.details[0] for one in alone]


def deep():
    first = Fusion(["retrieval", Cached(Fake("a")), Windowed(Fake("b"), size=20, overlap=5)])
    last = Fallback(Floor(listwise(), Cached(Windowed(Fake("c")))), Cached(Fake("d")))
    return Cascade([first, Windowed(Cached(Fake("e"))), last], keep=[20, 10])


def test_threads_and_tasks_on_one_pipeline_get_what_one_after_the_other_gets():
    jobs = [documents(33)[i : i + 20] for i in range(13)]
    expected = [[(hit.index, hit.raw_score) for hit in Reranker(deep()).rerank(QUERY, job)] for job in jobs]
    reranker = Reranker(deep())

    async def run():
        return await asyncio.gather(*(reranker.arerank(QUERY, job) for job in jobs))

    with ThreadPoolExecutor(8) as pool:
        in_threads = list(pool.map(lambda job: reranker.rerank(QUERY, job), jobs))
    for found in (in_threads, asyncio.run(run())):
        assert [[(hit.index, hit.raw_score) for hit in ranking] for ranking in found] == expected


def fakes(backend):
    """Return all the fakes in a pipeline."""
    if isinstance(backend, Fake):
        return [backend]
    parts = [one for held in vars(backend).values() for one in (held if isinstance(held, tuple) else [held])]
    return [fake for one in parts if isinstance(one, Backend) for fake in fakes(one)]


@settings(deadline=None)
@given(st.data(), st.integers(1, 4))
def test_usage_is_what_was_asked_each_call_once(data, depth):
    backend = nested(data.draw, depth)()
    ranking = Reranker(backend).rerank(QUERY, documents(12))
    calls = [call for fake in fakes(backend) if fake.name != "down" for call in fake.calls]
    assert ranking.usage.calls == len(calls)
    assert ranking.usage.input_tokens == sum(len(call.texts) for call in calls)


# Laws


texts_of_some_words = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=15).map(" ".join), min_size=1, max_size=9
)


@settings(deadline=None)
@given(texts_of_some_words, st.integers(0, 5))
def test_a_cascade_with_room_for_all_orders_as_its_last_stage_does(texts, more):
    unique = list(dict.fromkeys(texts))

    def spread(query, text):
        return unique.index(text) * 7 % 13 / 13 + unique.index(text) / 1000

    last = Fake("last", score=spread, scale=Scale.LOGIT)
    ranking = Reranker(Cascade([Fake(), last], keep=len(unique) + more)).rerank(QUERY, unique)
    plain = Reranker(last).rerank(QUERY, unique)
    assert [(hit.index, hit.raw_score) for hit in ranking] == [(hit.index, hit.raw_score) for hit in plain]


@settings(deadline=None)
@given(texts_of_some_words)
def test_windows_of_short_texts_equal_none(texts):
    plain, windowed = Fake().score(QUERY, texts), Windowed(Fake(), size=200).score(QUERY, texts)
    assert windowed.values == plain.values
    assert windowed.cut == plain.cut
    backend = Fake()
    Windowed(backend, size=200).score(QUERY, texts)
    assert set(backend.calls[0].texts) == set(texts)


@settings(deadline=None)
@given(st.lists(texts_of_some_words, min_size=1, max_size=4))
def test_cached_equals_uncached_whatever_was_asked_before(rounds):
    cached, backend = Cached(Fake()), Fake()
    for texts in rounds:
        got, expected = cached.score(QUERY, texts), backend.score(QUERY, texts)
        assert (got.values, got.cut, got.truncated, got.scale, got.degraded) == (
            expected.values, expected.cut, expected.truncated, expected.scale, expected.degraded,
        )  # fmt: skip
    assert sum(len(call.texts) for call in fakes(cached)[0].calls) == len({text for texts in rounds for text in texts})


@pytest.mark.parametrize("part", ["fusion", "windowed"])
def test_details_from_a_cache_are_those_of_the_text_whoever_was_asked_about_with_it(part):
    inner = {"fusion": lambda: mean(Fake()), "windowed": lambda: Windowed(mean(Fake()), size=5, overlap=0)}[part]
    cached, texts = Cached(inner()), ["the red umbrella", "refund", "rose garden of the museum " * 3]
    cached.score(QUERY, texts[2:])
    got, expected = cached.score(QUERY, texts), inner().score(QUERY, texts)
    assert got.values == pytest.approx(expected.values)
    assert [{**detail, "cached": None} for detail in got.details] == [
        {**detail, "cached": None} for detail in expected.details
    ]


# The contract, of nestings


class TestNestedCascadeContract(BackendContract):
    truncates = True
    on_deadline = "error"

    def make(self):
        inner = Cascade([Fake("a"), Fake("b")], keep=20)
        return Cascade([Windowed(Fake("c")), inner, Cached(Fake("d"))], keep=[25, 12])


class TestFusionOfWrappersContract(BackendContract):
    truncates = True
    on_deadline = "unscored"

    def make(self):
        return Fusion([Cached(Fake("a")), Windowed(Fake("b")), Fallback(Fake("c"), Fake("d"))])


class TestMeanOfWrappersContract(BackendContract):
    truncates = True
    on_deadline = "unscored"

    def make(self):
        return Fusion([Cached(Fake("a")), Windowed(Cached(Fake("b")))], method="weighted", normalise="none")


class TestCachedMeanContract(BackendContract):
    truncates = True
    on_deadline = "unscored"

    def make(self):
        return Cached(mean(Fake("a")))


class TestWindowedMeanContract(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Windowed(mean(Cached(Fake("a"))), size=50, overlap=10)


class TestFloorUnderAFusionContract(BackendContract):
    truncates = True
    on_deadline = "error"

    def make(self):
        fusion = Fusion([Cached(Fake("a")), Windowed(Fake("b"))])
        return Floor(Cascade([Fake("c"), Fake("d")], keep=20), fusion, below=15)

    def test_a_deadline_does_what_is_declared(self):
        """A floor that has scored nothing is none."""
        reranker = Reranker(self.make(), deadline_s=1e-9)
        with pytest.raises(BackendError, match="its floor has scored nothing"):
            reranker.rerank(self.query, self._texts(3))


class TestFallbackOfPipelinesContract(BackendContract):
    truncates = True
    on_deadline = "unscored"

    def make(self):
        return Fallback(Fusion([Fake("a"), Fake("b")]), Cascade([Fake("c"), Fake("d")], keep=10))


class TestPipelineWithTheEmbeddedContract(BackendContract):
    on_deadline = "unscored"
    tolerance = 1e-6

    def make(self):
        return Fusion(["embedded", Windowed("embedded")])

    def test_a_cut_text_is_counted(self):
        """The text that one of the two cuts is counted; a short one is not."""
        backend = self.make()
        assert backend.score(self.query, [self.relevant, "It is closed. " * 3000]).truncated == 1
        assert backend.score(self.query, [self.relevant]).truncated == 0
