import asyncio
import copy
import logging
import multiprocessing
import os
import pickle
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerankx import (
    Backend,
    BackendError,
    DeadlineError,
    Fallback,
    Floor,
    Reranker,
    Scale,
    Scores,
    Usage,
    Windowed,
)
from rerankx.compose.cached import Cached
from rerankx.compose.flights import Patience
from rerankx.compose.stores import DiskStore, MemoryStore
from rerankx.interface import deadline, out_of_time, remaining_s
from rerankx.testing import BackendContract, FakeBackend

WAIT = 20  # seconds, for what must happen; nothing takes that long


class Telling(Backend):
    """Says all that a backend can say: details, cuts, usage; leaves texts unscored when time is up."""

    name, scale, pointwise = "telling", Scale.UNKNOWN, True

    def __init__(self, model="length"):
        self.model = model
        self.asked = []

    def _score(self, query, texts, *, top_n=None):
        self.asked += texts
        over = out_of_time()()
        return Scores(
            [None if over else len(text) + 1 / 3 for text in texts],
            details=[{"letters": len(text), "first": [text[0], None, 0.1]} for text in texts],
            cut=[len(text) > 1_000 for text in texts],
            usage=Usage(calls=1, input_tokens=len(texts), cost_usd=0.5, cache_hits=7, cache_misses=7),
            degraded="deadline" if over else None,
        )


class Fixed(Backend):
    """Gives the scores that it was made with, cut to the number of texts."""

    name, model, pointwise = "fixed", "fixed", True

    def __init__(self, scale=Scale.UNKNOWN, **said):
        self.scale, self.said, self.calls = scale, said, []

    def _score(self, query, texts, *, top_n=None):
        self.calls.append(list(texts))
        return Scores([float(len(text)) for text in texts], **self.said)


class Gate(Backend):
    """Waits in the middle until it is let go; what it does then can be chosen for each call."""

    name, model, scale, pointwise = "gate", "gate", Scale.UNKNOWN, True

    def __init__(self, *outcomes):
        self.outcomes, self.asked = list(outcomes), []
        self.lock, self.inside, self.open = threading.Lock(), threading.Semaphore(0), threading.Event()

    def _begin(self, texts):
        with self.lock:
            self.asked.append(tuple(texts))
            outcome = self.outcomes.pop(0) if self.outcomes else None
        self.inside.release()
        return outcome

    def _end(self, outcome, texts):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome or [float(len(text)) for text in texts]

    def _score(self, query, texts, *, top_n=None):
        outcome = self._begin(texts)
        assert self.open.wait(WAIT)
        return self._end(outcome, texts)

    async def _ascore(self, query, texts, *, top_n=None):
        outcome = self._begin(texts)
        while not self.open.is_set():
            await asyncio.sleep(0.001)
        return self._end(outcome, texts)

    def entered(self):
        assert self.inside.acquire(timeout=WAIT)


class Shop:
    """A store of one's own, which counts."""

    def __init__(self):
        self.held, self.gets, self.puts = {}, 0, 0

    def get(self, keys):
        self.gets += 1
        return {key: self.held[key] for key in keys if key in self.held}

    def put(self, items):
        self.puts += 1
        self.held |= items


@pytest.fixture(params=["memory", "disk", "own"])
def store(request, tmp_path):
    return {"memory": MemoryStore, "disk": partial(DiskStore, tmp_path / "scores.db"), "own": Shop}[request.param]()


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="rerankx")
    return lambda: [record.getMessage() for record in caplog.records]


@pytest.fixture(params=["score", "ascore"])
def ask(request):
    if request.param == "score":
        return lambda backend, texts, query="q", **more: backend.score(query, texts, **more)
    return lambda backend, texts, query="q", **more: asyncio.run(backend.ascore(query, texts, **more))


class TestInMemory(BackendContract):
    def make(self):
        return Cached(FakeBackend())

    def variants(self):
        return [Cached(FakeBackend(model="other")), Cached(FakeBackend(scale=Scale.UNKNOWN))]


class TestOnDisk(BackendContract):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        self.path = tmp_path / "scores.db"

    def make(self):
        return Cached(FakeBackend(), self.path)


class Timely(FakeBackend):
    def _score(self, query, texts, *, top_n=None):
        if out_of_time()():
            return Scores([None] * len(texts), degraded="deadline")
        return super()._score(query, texts, top_n=top_n)


class TestWithADeadline(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Cached(Cached(Timely()))


# What comes back.


def plain(scores, without=("usage", "elapsed_ms", "details", "cut")):
    kept = {name: getattr(scores, name) for name in Scores.__dataclass_fields__ if name not in without}
    details = [
        (detail and {k: v for k, v in detail.items() if k != "cached"}) or None for detail in scores.details or ()
    ]
    return kept | {"details": details if any(details) else None}


TEXTS = st.lists(st.sampled_from(["", " ", "a", "b b", "c" * 2_000, "\ud83d", "a q", "q", "long " * 300]), max_size=8)


@settings(deadline=None)
@given(rounds=st.lists(st.tuples(st.sampled_from(["q", "other q"]), TEXTS), max_size=6), asynchronous=st.booleans())
def test_cached_equals_uncached(rounds, asynchronous):
    cached, backend = Cached(Telling()), Telling()
    for query, texts in rounds:
        got = asyncio.run(cached.ascore(query, texts)) if asynchronous else cached.score(query, texts)
        expected = backend.score(query, texts)
        assert plain(got) == plain(expected)
        assert list(got.cut or ()) == list(expected.cut or ())
        assert got.usage.cache_hits + got.usage.cache_misses == sum(bool(text.strip()) for text in texts)


def test_what_is_known_is_not_asked_again_and_says_so(store, ask):
    inner = Telling()
    backend = Cached(inner, store)
    first = ask(backend, ["one", "three"])
    second = ask(backend, ["three", "four", "one", "three"])
    assert inner.asked == ["one", "three", "four"]
    assert first.details[1] == {"letters": 5, "first": ["t", None, 0.1]}
    assert second.details[0] == {"letters": 5, "first": ["t", None, 0.1], "cached": True}
    assert [bool(detail.get("cached")) for detail in second.details] == [True, False, True, True]
    assert second.values == (5 + 1 / 3, 4 + 1 / 3, 3 + 1 / 3, 5 + 1 / 3)


def test_usage_is_that_of_what_was_asked_and_counts_texts(store, ask):
    backend = Cached(Telling(), store)
    assert ask(backend, ["a", "a", "b"]).usage == Usage(calls=1, input_tokens=2, cost_usd=0.5, cache_misses=3)
    assert ask(backend, ["a", "c", "b"]).usage == Usage(
        calls=1, input_tokens=1, cost_usd=0.5, cache_hits=2, cache_misses=1
    )
    assert ask(backend, ["a", "b", "b"]).usage == Usage(cache_hits=3)


def test_where_all_is_known_nothing_is_called(store, ask):
    ask(Cached(Telling(), store), ["a", "b"])
    broken = Telling()
    broken._score = None
    assert ask(Cached(broken, store), ["b", "a"]).values == (1 + 1 / 3, 1 + 1 / 3)


def test_a_text_given_twice_is_asked_once(ask):
    inner = Telling()
    assert len(set(ask(Cached(inner), ["a", "b", "a", "a"]).values)) == 1
    assert inner.asked == ["a", "b"]


def test_top_n_does_not_keep_scores_from_being_kept(ask):
    inner = FakeBackend()
    backend = Cached(inner)
    ask(backend, ["a", "q"], top_n=1)
    assert inner.calls[0].top_n is None
    assert ask(backend, ["q", "a"], top_n=1).usage.cache_hits == 2


def test_ties_stand_in_input_order_whatever_is_kept(ask):
    backend = Cached(Fixed(order=[1, 0]))
    for _ in range(2):
        assert ask(backend, ["a", "b"]).order is None
    assert [hit.index for hit in Reranker(backend).rerank("q", ["a", "b"])] == [0, 1]


@pytest.mark.parametrize(("truncated", "cut"), [(0, [0, 0, 0]), (3, [1, 1, 1]), (2, [0, 1, 1]), (1, [0, 0, 1])])
def test_where_it_is_not_said_which_texts_were_cut_the_longest_are(truncated, cut):
    backend = Cached(Fixed(truncated=truncated))
    for _ in range(2):
        scores = backend.score("q", ["a", "bb", "ccc"])
        assert (list(scores.cut), scores.truncated) == ([bool(one) for one in cut], truncated)


def test_of_texts_without_a_score_none_counts_as_cut_before_the_others():
    inner = FakeBackend(reply=Scores([1.0, None], truncated=1))
    assert Cached(inner).score("q", ["short", "much longer"]).cut == (True, False)


def test_errors_are_the_backends(store, ask):
    error = DeadlineError("too late")
    error.usage = Usage(calls=3)
    backend = Cached(FakeBackend(error=error), store)
    for _ in range(2):
        with pytest.raises(DeadlineError) as raised:
            ask(backend, ["a"])
        assert raised.value is error
    with pytest.raises(BackendError, match=r"'fake'.*ZeroDivisionError"):
        ask(Cached(FakeBackend(error=ZeroDivisionError()), store), ["a"])


def test_what_it_is_is_what_its_backend_is():
    inner = FakeBackend(scale=Scale.LOGIT)
    inner.token_spans = lambda text: [(0, len(text))]
    backend = Cached(inner)
    assert (backend.name, backend.model, backend.scale, backend.pointwise) == (
        "cached",
        "fake:word-overlap",
        Scale.LOGIT,
        True,
    )
    assert backend.fingerprint == inner.fingerprint
    assert backend.token_spans("two words") == [(0, 9)]


# What is kept, and for whom.


def test_texts_without_a_score_are_asked_about_again(store):
    inner = FakeBackend(score=lambda query, text: None if text == "b" else 1.0)
    backend = Cached(inner, store)
    for _ in range(2):
        backend.score("q", ["a", "b"])
    assert [call.texts for call in inner.calls] == [("a", "b"), ("b",)]


@pytest.mark.parametrize("degraded", ["fallback", "deadline", "incomplete", "input_order"])
def test_nothing_of_a_degraded_answer_is_kept(store, degraded):
    inner = Fixed(degraded=degraded)
    backend = Cached(inner, store)
    for _ in range(2):
        scores = backend.score("q", ["a", "bb"])
        assert (scores.values, scores.degraded) == ((1.0, 2.0), degraded)
    assert len(inner.calls) == 2


def test_what_is_missing_of_the_answer_is_missing_of_the_whole(ask):
    inner = Telling()
    backend = Cached(inner)
    ask(backend, ["a", "b"])
    with deadline(1e-9):
        scores = ask(backend, ["a", "c"])
    assert (scores.values, scores.degraded) == ((1 + 1 / 3, None), "deadline")


@pytest.mark.parametrize("details", [{"a": object()}, {"a": float("nan")}, {"a": (1, 2)}, {1: "a"}, {"a": {2}}])
def test_details_that_json_does_not_give_back_are_not_kept_and_that_is_said(details, warnings):
    inner = Fixed(details=[details])
    backend = Cached(inner, MemoryStore())
    for _ in range(2):
        assert backend.score("q", ["a"]).details == (details,)
    assert len(inner.calls) == 2
    (warning,) = warnings()
    assert "JSON" in warning


def test_what_is_kept_is_not_changed_by_who_gets_it(store):
    backend = Cached(Telling(), store)
    for _ in range(3):
        details = backend.score("q", ["a"]).details[0]
        assert details["first"] == ["a", None, 0.1]
        details["first"].append("mine")
        details["letters"] = "mine"


def test_equal_texts_have_details_of_their_own():
    for inner in (Telling(), Fixed(details=[{"same": 1}])):
        backend = Cached(inner)
        for _ in range(2):
            one, other = backend.score("q", ["a", "a"]).details
            assert one == other
            assert one is not other


def test_scores_of_another_scale_are_neither_kept_nor_joined(ask):
    inner = Fixed()
    backend = Cached(inner)
    ask(backend, ["a"])
    inner.said = {"scale": Scale.LOGIT}
    scores = ask(backend, ["a", "bb"])
    assert (scores.scale, scores.values, scores.usage.cache_hits) == (Scale.LOGIT, (1.0, 2.0), 0)
    assert inner.calls == [["a"], ["bb"], ["a", "bb"]]
    ask(backend, ["bb"])
    assert inner.calls[-1] == ["bb"]


def test_another_query_text_namespace_backend_or_scale_is_another_pair(store):
    first = Cached(FakeBackend(), store, namespace="a")
    first.score("b", ["c"])
    others = [
        (first, "bc", "c"),
        (first, "b", "c "),
        (Cached(FakeBackend(), store), "ab", "c"),
        (Cached(FakeBackend(), store), "b", "c"),
        (Cached(FakeBackend(), store, namespace="ab"), "c", "c"),
        (Cached(FakeBackend(model="word-overlap2"), store, namespace="a"), "b", "c"),
        (Cached(FakeBackend(scale=Scale.similarity(0, 2)), store, namespace="a"), "b", "c"),
    ]
    for backend, query, text in others:
        assert backend.score(query, [text]).usage.cache_hits == 0
    assert first.score("b", ["c"]).usage.cache_hits == 1


@settings(deadline=None)
@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=2, max_size=2, unique=True))
def test_no_two_pairs_have_one_key(pairs):
    keys = [Cached(FakeBackend(), namespace=space)._identify(query, [query])[1] for space, query in pairs]
    assert keys[0] != keys[1]


def test_where_a_query_ends_and_a_text_begins_is_part_of_the_key():
    backend = Cached(FakeBackend())
    assert backend._identify("b", ["cd"])[1] != backend._identify("bc", ["d"])[1]


def test_what_was_kept_on_another_scale_is_not_met():
    store = MemoryStore()
    for scale in (Scale.LOGIT, Scale.similarity(0, 1)):  # one fingerprint: a new version of somebody's own backend, say
        backend = Cached(Fixed(scale), store)
        assert backend.score("q", ["a"]).usage.cache_hits == 0


def test_half_a_surrogate_pair_is_not_the_whole():
    backend = Cached(FakeBackend())
    texts = ["\ud83d", "\ude00", "\ud83d\ude00", "\N{GRINNING FACE}"]
    assert len(set(backend._identify("q", texts)[1])) == 4


class Clock(Cached):
    now = 1_000.0

    def _now(self):
        return self.now


def test_what_is_older_than_its_time_is_asked_again(store, ask):
    inner = FakeBackend()
    backend = Clock(inner, store, ttl_s=10)
    ask(backend, ["a"])
    backend.now += 9.9
    assert ask(backend, ["a"]).usage.cache_hits == 1
    backend.now += 0.1
    assert ask(backend, ["a"]).usage.cache_hits == 0
    assert ask(backend, ["a"]).usage.cache_hits == 1  # of now
    assert Clock(inner, store).score("q", ["a"]).usage.cache_hits == 1  # no time limit


def test_a_clock_that_is_set_back_makes_nothing_immortal(store):
    backend = Clock(FakeBackend(), store, ttl_s=10)
    backend.score("q", ["a"])
    backend.now -= 500
    assert backend.score("q", ["a"]).usage.cache_hits == 0
    assert backend.score("q", ["a"]).usage.cache_hits == 1
    backend.now += 10
    assert backend.score("q", ["a"]).usage.cache_hits == 0


class Costly(FakeBackend):
    prints = 0

    @property
    def fingerprint(self):
        self.prints += 1
        return super().fingerprint


def test_the_fingerprint_is_asked_for_once_a_call(ask):
    inner = Costly()
    backend = Cached(inner)
    for calls in (1, 2):
        ask(backend, ["a", "b"])
        assert inner.prints == calls


# A store that fails.


class Failing:
    def __init__(self, error):
        self.error = error

    def get(self, keys):
        raise self.error

    def put(self, items):
        raise self.error


@pytest.mark.parametrize("error", [OSError("redis://:secret@host"), KeyError("x"), StopIteration(), TimeoutError()])
def test_a_store_that_raises_is_said_once_and_passed_over(error, ask, warnings):
    backend = Cached(FakeBackend(), Failing(error))
    for _ in range(3):
        scores = ask(backend, ["a", "q"])
        assert (scores.values, scores.degraded, scores.usage.cache_misses) == ((0.0, 1.0), None, 2)
    assert len(warnings()) == 2  # get, put
    assert type(error).__name__ in warnings()[0]
    assert "secret" not in str(warnings())


class Answers(Shop):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def get(self, keys):
        return self.answer(self.held, keys)


def flipped(value):
    return value[:12] + bytes([value[12] ^ 1]) + value[13:]


@pytest.mark.parametrize(
    "answer",
    [
        lambda held, keys: None,
        lambda held, keys: [held.get(key) for key in keys],
        lambda held, keys: 7,
        lambda held, keys: dict.fromkeys(keys),
        lambda held, keys: dict.fromkeys(keys, "text"),
        lambda held, keys: dict.fromkeys(keys, b""),
        lambda held, keys: dict.fromkeys(keys, b"[1000.0,0.5,false,null]"),
        lambda held, keys: {key: held.get(key, b"")[:-1] for key in keys},
        lambda held, keys: {key: flipped(held[key]) for key in keys if key in held},
        lambda held, keys: dict(zip(keys, (held[key] for key in reversed(keys) if key in held), strict=False)),
    ],
)  # fmt: skip
def test_what_cannot_be_read_back_is_a_miss(answer):
    inner = FakeBackend()
    backend = Cached(inner, Answers(answer))
    for _ in range(2):
        scores = backend.score("q", ["a", "q"])
        assert (scores.values, scores.usage.cache_hits) == ((0.0, 1.0), 0)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_a_store_may_return_other_bytes(kind):
    backend = Cached(FakeBackend(), Answers(lambda held, keys: {key: kind(held[key]) for key in keys if key in held}))
    backend.score("q", ["a"])
    assert backend.score("q", ["a"]).usage.cache_hits == 1


class Stuck(Shop):
    """Answers when it is let go."""

    def __init__(self):
        super().__init__()
        self.open = threading.Event()

    def get(self, keys):
        self.gets += 1
        assert self.open.wait(WAIT)
        return super().get(keys)

    def put(self, items):
        assert self.open.wait(WAIT)
        super().put(items)


def test_a_store_that_hangs_is_not_waited_for_and_left_alone_until_it_is_back(ask, warnings):
    store = Stuck()
    backend = Cached(FakeBackend(), store)
    with deadline(WAIT):
        assert ask(backend, ["q"]).values == (1.0,)
        assert remaining_s() > 0
    for _ in range(5):
        assert ask(backend, ["q"]).values == (1.0,)
    assert store.gets == 1
    (warning,) = warnings()
    assert "takes too long" in warning
    store.open.set()
    backend._here.late.result(WAIT)
    ask(backend, ["q"])
    assert ask(backend, ["q"]).usage.cache_hits == 1


def test_a_store_may_take_a_quarter_of_the_time_that_is_left():
    patience = Patience(Future())
    assert patience._seconds() == 1
    for seconds, at_most in ((100, 1), (2, 0.5), (1e-9, 0.05)):
        with deadline(seconds):
            assert 0 < patience._seconds() <= at_most


def test_an_event_loop_goes_on_while_a_store_is_slow():
    store = Stuck()
    backend = Cached(FakeBackend(), store)

    async def both():
        asked = asyncio.ensure_future(backend.ascore("q", ["q"]))
        while not store.gets:
            await asyncio.sleep(0.001)
        store.open.set()  # from the loop, which the store would be holding up
        return await asked

    assert asyncio.run(both()).values == (1.0,)


def test_a_broken_file_breaks_no_query(tmp_path, ask, warnings):
    for name in ("folder", "garbage"):
        path = tmp_path / name
        path.mkdir() if name == "folder" else path.write_bytes(b"garbage" * 1_000)
        backend = Cached(FakeBackend(), path)
        for _ in range(2):
            assert ask(backend, ["a", "q"]).values == (0.0, 1.0)
    assert len(warnings()) == 2


# Asked once, whoever asks.


def together(*calls):
    """Return what comes of the calls, each in its own thread: values, or the exception."""

    def one(call):
        try:
            return call()
        except Exception as error:
            return error

    return [pool.submit(one, call) for pool in [ThreadPoolExecutor(len(calls))] for call in calls]


def in_thread(backend, texts):
    return lambda: backend.score("q", texts)


def in_loop(backend, texts):
    return lambda: asyncio.run(backend.ascore("q", texts))


def settle():
    """Give those who wait the time to begin: if they have not, they find the entry in the store, which is as good."""
    time.sleep(0.05)


@pytest.mark.parametrize(
    "kinds", [[in_thread] * 16, [in_loop] * 16, [in_thread, in_loop] * 8, [in_loop, in_thread] * 8]
)
def test_the_same_pairs_at_once_are_asked_once(kinds, store):
    inner = Gate()
    backend = Cached(inner, store)
    futures = together(*(kind(backend, ["a", "bb", "ccc"]) for kind in kinds))
    inner.entered()
    settle()
    inner.open.set()
    results = [future.result(WAIT) for future in futures]
    assert {result.values for result in results} == {(1.0, 2.0, 3.0)}
    assert inner.asked == [("a", "bb", "ccc")]
    assert sum(result.usage.cache_misses for result in results) == 3
    assert sum(result.details is None for result in results) == 1


def test_the_same_pairs_at_once_in_one_event_loop_are_asked_once(store):
    inner = Gate()
    backend = Cached(inner, store)

    async def run():
        tasks = [asyncio.ensure_future(backend.ascore("q", ["a", "bb"])) for _ in range(16)]
        await asyncio.sleep(0.05)
        inner.open.set()
        return await asyncio.gather(*tasks)

    assert {scores.values for scores in asyncio.run(run())} == {(1.0, 2.0)}
    assert inner.asked == [("a", "bb")]


@pytest.mark.parametrize("store", [MemoryStore(max_bytes=0), Failing(OSError())])
def test_at_once_pairs_are_asked_once_also_where_nothing_is_kept(store):
    inner = Gate()
    backend = Cached(inner, store)

    async def run():
        first = asyncio.ensure_future(backend.ascore("q", ["a"]))
        await asyncio.to_thread(inner.entered)
        second = asyncio.ensure_future(backend.ascore("q", ["a"]))
        while not any(flight.future._done_callbacks for flight in backend._here._flights.values()):
            await asyncio.sleep(0.001)  # until it waits: nothing is kept for who comes later
        inner.open.set()
        return await asyncio.gather(first, second)

    assert [scores.values for scores in asyncio.run(run())] == [(1.0,)] * 2
    assert inner.asked == [("a",)]


def test_pairs_are_shared_between_different_requests():
    inner = Gate()
    backend = Cached(inner)
    first = together(in_thread(backend, ["a", "bb"]))[0]
    inner.entered()
    second = together(in_thread(backend, ["ccc", "bb"]))[0]
    inner.entered()
    inner.open.set()
    assert first.result(WAIT).values == (1.0, 2.0)
    assert second.result(WAIT).values == (3.0, 2.0)
    assert inner.asked == [("a", "bb"), ("ccc",)]


@pytest.mark.parametrize("kind", [in_thread, in_loop])
def test_who_want_each_others_pairs_do_not_wait_for_ever(kind):
    inner = Gate()
    backend = Cached(inner)
    texts = [f"{'x' * i}" for i in range(1, 9)]
    futures = together(*(kind(backend, texts[i:] + texts[:i]) for i in range(8)))
    inner.entered()
    settle()
    inner.open.set()
    for i, future in enumerate(futures):
        assert future.result(WAIT).values == tuple(float(len(text)) for text in texts[i:] + texts[:i])


@pytest.mark.parametrize("kind", [in_thread, in_loop])
@pytest.mark.parametrize(
    "outcome", [BackendError("down"), Scores([None], degraded="deadline"), Scores([9.0], degraded="fallback"), Scores([None])]
)  # fmt: skip
def test_who_waited_in_vain_asks_himself(kind, outcome):
    inner = Gate(outcome)
    backend = Cached(inner)
    first = together(kind(backend, ["a"]))[0]
    inner.entered()
    others = together(*[kind(backend, ["a"])] * 4)
    settle()
    inner.open.set()
    got = first.result(WAIT)
    assert got is outcome or got.degraded is not None
    assert [other.result(WAIT).values for other in others] == [(1.0,)] * 4
    assert inner.asked == [("a",)] * 2


def test_an_error_says_what_was_paid_before_it():
    """Own texts are scored; then the pair that was waited for comes to nothing, and to ask for it fails."""
    error = BackendError("down again")
    error.usage = Usage(calls=1)
    inner = Gate(BackendError("down"), Scores([3.0], usage=Usage(calls=1, cost_usd=0.5)), error)
    backend = Cached(inner)
    first = together(in_thread(backend, ["a"]))[0]
    inner.entered()
    second = together(in_thread(backend, ["a", "bbb"]))[0]
    inner.entered()
    inner.open.set()
    assert str(first.result(WAIT)) == "down"
    told = second.result(WAIT)
    assert (type(told), str(told), told.usage) == (BackendError, "down again", Usage(calls=2, cost_usd=0.5))
    assert error.usage == Usage(calls=1)  # the backend may raise it again


def test_an_error_says_what_was_paid_for_an_answer_on_another_scale(ask):
    other = Scores([2.0], scale=Scale.LOGIT, usage=Usage(calls=1))
    inner = Gate(Scores([1.0]), other, BackendError("down"))
    inner.open.set()
    backend = Cached(inner)
    ask(backend, ["a"])
    with pytest.raises(BackendError, match="down") as raised:
        ask(backend, ["a", "bb"])
    assert raised.value.usage == Usage(calls=1)


@pytest.mark.parametrize("first", [Scale.UNKNOWN, Scale.LOGIT])
def test_two_answers_of_one_call_are_not_joined_where_one_is_on_another_scale(first):
    """Own texts are scored; then the pair that was waited for comes to nothing, and is asked for apart."""
    other = {"scale": Scale.LOGIT, "degraded": "incomplete"}
    inner = Gate(BackendError("down"), Scores([9.0], scale=first), Scores([1.0], **other), Scores([1.0, 2.0], **other))
    backend = Cached(inner)
    down = together(in_thread(backend, ["a"]))[0]
    inner.entered()
    second = together(in_thread(backend, ["a", "bbb"]))[0]
    inner.entered()
    inner.open.set()
    assert str(down.result(WAIT)) == "down"
    scores = second.result(WAIT)
    assert (scores.values, scores.scale) == ((1.0, 2.0), Scale.LOGIT)
    assert inner.asked[1:] == [("bbb",), ("a",), ("a", "bbb")]


def test_where_every_call_fails_everybody_gets_the_error():
    inner = Gate(*[BackendError("down")] * 100)
    backend = Cached(inner)
    futures = together(*[in_thread(backend, ["a"]), in_loop(backend, ["a"])] * 4)
    inner.entered()
    settle()
    inner.open.set()
    assert {str(future.result(WAIT)) for future in futures} == {"down"}
    assert len(inner.asked) == 8


def test_who_waits_for_a_task_that_is_cancelled_asks_himself():
    inner = Gate()
    backend = Cached(inner)
    waiting = []

    async def run():
        task = asyncio.ensure_future(backend.ascore("q", ["a"]))
        await asyncio.to_thread(inner.entered)
        waiting.extend(together(in_thread(backend, ["a"]), in_loop(backend, ["a"])))
        other = asyncio.ensure_future(backend.ascore("q", ["a"]))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        inner.open.set()
        return await other

    assert asyncio.run(run()).values == (1.0,)
    assert [future.result(WAIT).values for future in waiting] == [(1.0,)] * 2
    assert len(inner.asked) == 2


def test_a_task_that_waits_and_is_cancelled_disturbs_nobody():
    inner = Gate()
    backend = Cached(inner)

    async def run():
        first = asyncio.ensure_future(backend.ascore("q", ["a"]))
        await asyncio.to_thread(inner.entered)
        second = asyncio.ensure_future(backend.ascore("q", ["a"]))
        await asyncio.sleep(0.05)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        inner.open.set()
        return await first

    assert asyncio.run(run()).values == (1.0,)
    assert inner.asked == [("a",)]


@pytest.mark.parametrize("kind", [in_thread, in_loop])
def test_who_waits_waits_no_longer_than_his_own_deadline(kind):
    inner = Gate()
    inner.outcomes = [None, DeadlineError("too late")]
    backend = Cached(inner)
    first = together(in_thread(backend, ["a"]))[0]
    inner.entered()

    def hurried():
        with deadline(0.1):
            return kind(backend, ["a"])()

    second = together(hurried)[0]
    inner.entered()  # asks himself, while the first is still at it
    assert not first.done()
    inner.open.set()
    assert isinstance(second.result(WAIT), DeadlineError)
    assert first.result(WAIT).values == (1.0,)


@pytest.mark.parametrize("kind", [in_thread, in_loop])
def test_who_waits_has_time_left_to_ask_himself(kind):
    class Timed(Gate):
        def _begin(self, texts):
            assert remaining_s() is None or remaining_s() > 0
            return super()._begin(texts)

    inner = Timed()
    backend = Cached(inner)
    first = together(in_thread(backend, ["a"]))[0]
    inner.entered()

    def hurried():
        with deadline(1):
            return kind(backend, ["a"])()

    second = together(hurried)[0]
    inner.entered()
    inner.open.set()
    assert second.result(WAIT).values == first.result(WAIT).values == (1.0,)


def test_a_thread_that_waits_for_a_task_does_not_starve_it(monkeypatch):
    """The windows' second step needs the one thread of the pool, in which somebody waits for those windows."""
    monkeypatch.setattr("rerankx.compose.flights._WAIT_FOR_A_TASK_S", 0.05, raising=False)
    backend = Cached(Windowed(FakeBackend()))

    async def run():
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        task = asyncio.ensure_future(backend.ascore("q", ["q"]))
        while not backend._here._flights:
            await asyncio.sleep(0)
        return await asyncio.wait_for(asyncio.gather(task, asyncio.to_thread(backend.score, "q", ["q"])), WAIT)

    assert [scores.values for scores in asyncio.run(run())] == [(1.0,)] * 2


def test_a_call_that_holds_up_the_loop_does_not_wait_for_a_task_of_it():
    inner = Gate()
    backend = Cached(inner)

    async def run():
        task = asyncio.ensure_future(backend.ascore("q", ["a"]))
        await asyncio.to_thread(inner.entered)
        threading.Timer(0.05, inner.open.set).start()
        blocking = backend.score("q", ["a"])  # in the thread of the loop: the task cannot go on
        return blocking, await task

    for scores in asyncio.run(run()):
        assert scores.values == (1.0,)


def test_two_event_loops_share_one_instance():
    inner = Gate()
    backend = Cached(inner)
    futures = together(*[in_loop(backend, ["a"])] * 4)
    inner.entered()
    settle()
    inner.open.set()
    for future in futures:
        assert future.result(WAIT).values == (1.0,)
    assert asyncio.run(backend.ascore("q", ["a"])).usage.cache_hits == 1
    assert inner.asked == [("a",)]


# Threads, processes, copies.

LAW_TEXTS = [f"{i} {'q ' * (i % 7)}{'word ' * (i % 11)}" for i in range(60)]


def law(backend, seed):
    """Return how many of 40 rounds of one worker differ from what the backend itself says."""
    plain, wrong = FakeBackend(), 0
    for i in range(40):
        start = (seed * 13 + i * 7) % 50
        texts, query = LAW_TEXTS[start : start + 12], f"q {i % 3}"
        method = backend.score if (seed + i) % 2 else lambda *given: asyncio.run(backend.ascore(*given))
        wrong += method(query, texts).values != plain.score(query, texts).values
    return wrong


def test_under_16_threads_cached_equals_uncached(store):
    inner = FakeBackend()
    backend = Cached(inner, store)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(partial(law, backend), range(16))) == [0] * 16
    asked = [(call.query, text) for call in inner.calls for text in call.texts]
    assert len(asked) == len(set(asked))


@pytest.mark.slow
def test_under_4_processes_cached_equals_uncached(tmp_path):
    backend = Cached(FakeBackend(), tmp_path / "scores.db")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.map(partial(law, backend), range(4)) == [0] * 4
    scores = backend.score("q 0", LAW_TEXTS[:12])
    assert scores.usage.cache_hits > 0  # of other processes


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda backend: pickle.loads(pickle.dumps(backend))])
def test_a_path_travels_and_a_memory_does_not(tmp_path, copied):
    for store, hits in ((tmp_path / "scores.db", 1), (None, int(copied is copy.copy))):
        backend = Cached(FakeBackend(), store, ttl_s=100, namespace="mine")
        backend.score("q", ["a"])
        other = copied(backend)
        assert (other.ttl_s, other.namespace, other.model) == (100, "mine", "fake:word-overlap")
        assert other.score("q", ["a"]).usage.cache_hits == hits


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_a_child_does_not_wait_for_a_thread_of_its_parent():
    inner = Gate()
    backend = Cached(inner, Stuck())
    backend._here.late = backend_late = type("Never", (), {"done": lambda self: False})()
    first = together(in_thread(backend, ["a"]))[0]
    inner.entered()
    pid = os.fork()
    if pid == 0:
        inner.open.set()
        backend.store = MemoryStore()
        ok = backend._here.late is None and backend.score("q", ["a"]).values == (1.0,)
        os._exit(0 if ok else 1)
    assert os.waitpid(pid, 0)[1] == 0
    inner.open.set()
    assert first.result(WAIT).values == (1.0,)
    assert backend._here.late is backend_late


# What is refused.


@pytest.mark.parametrize(
    "inner", [Floor(FakeBackend()), Fallback(FakeBackend(), FakeBackend()), FakeBackend(pointwise=False)]
)
def test_a_backend_that_is_not_pointwise_is_refused(inner):
    with pytest.raises(ValueError, match=rf"only pointwise.*'{inner.name}'.*cache its parts"):
        Cached(inner)


@pytest.mark.parametrize("wrong", [3, {}, MemoryStore, DiskStore, object(), b"path"])
def test_what_is_no_store_is_refused(wrong):
    with pytest.raises(TypeError, match="store must be a path, None, or an object with get"):
        Cached(FakeBackend(), wrong)


def test_other_arguments_are_checked():
    with pytest.raises(TypeError, match="backend of a cache must be a name or"):
        Cached(3)
    for wrong in ("1", True, [1]):
        with pytest.raises(TypeError, match="ttl_s must be a number of seconds"):
            Cached(FakeBackend(), ttl_s=wrong)
    for wrong in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="ttl_s must be a number of seconds above 0"):
            Cached(FakeBackend(), ttl_s=wrong)
    with pytest.raises(TypeError, match="namespace must be a string"):
        Cached(FakeBackend(), namespace=None)
    with pytest.raises(ValueError, match="path must be a file's"):
        Cached(FakeBackend(), "redis://host")


def test_a_name_and_a_path_will_do(tmp_path):
    backend = Cached("embedded", tmp_path / "scores.db")
    scores = [backend.score("refund", ["A refund takes five days.", "The museum opens."]) for _ in range(2)]
    assert scores[0].values == scores[1].values
    assert scores[1].usage == Usage(cache_hits=2)
    assert scores[1].details[0] == {**scores[0].details[0], "cached": True}


def test_a_store_that_returns_text_is_told_of_once_and_passed_over(caplog):
    class Text(MemoryStore):
        def get(self, keys):
            return {key: value.decode("latin-1") for key, value in super().get(keys).items()}

    cached = Cached(FakeBackend(), Text())
    for _ in range(3):
        assert cached.score("a", ["a", "b"]).usage.cache_hits == 0
    assert caplog.messages == ["the store of the cached fake:word-overlap returned str; expected bytes"]
