"""`FakeBackend` does what it says, and `BackendContract` lets the sound pass and finds the faulty."""

import asyncio
import inspect
import itertools
import logging
import math
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest

from rerankx import Attempt, BackendError, DeadlineError, ReplyError, Reranker, Scale, Scores, Usage
from rerankx.interface import remaining_s
from rerankx.testing import BackendContract, Call, FakeBackend, word_overlap

KEY = "sk-0123456789abcdef"
PROMISES = [name for name in vars(BackendContract) if name.startswith("test_")]


def by_length(query, text):
    return float(len(text))


def overlap_logit(query, text):
    return 10 * word_overlap(query, text) - 5


# FakeBackend


def test_the_fake_scores_by_the_share_of_the_querys_words():
    assert FakeBackend().score("Red apple pie", ["an APPLE, red", "apples", "red apple pie"]).values == (
        2 / 3,
        0.0,
        1.0,
    )
    assert word_overlap("?!", "?!") == 0.0


def test_the_fake_scores_by_the_function_it_is_given():
    fake = FakeBackend(score=lambda query, text: None if text == "b" else len(query + text), scale=Scale.UNKNOWN)
    assert fake.score("q", ["aa", "b"]).values == (3.0, None)


def test_the_fake_is_what_it_is_declared_to_be():
    fake = FakeBackend(name="x", model="y", scale=Scale.RANK, pointwise=False)
    assert (fake.name, fake.model, fake.scale, fake.pointwise) == ("x", "y", Scale.RANK, False)
    assert repr(fake) == "<FakeBackend x:y>"


def test_the_fake_replies_what_it_is_told_right_or_wrong():
    assert FakeBackend(reply=Scores([0.5, None], truncated=1)).score("q", ["a", "b"]).truncated == 1
    assert FakeBackend(reply=[]).score("q", []).values == ()
    with pytest.raises(ReplyError):
        FakeBackend(reply=[]).score("q", ["a"])


def test_the_fake_raises_what_it_is_told():
    fake = FakeBackend(error=DeadlineError("late"))
    with pytest.raises(DeadlineError, match="late"):
        fake.score("q", ["a"])
    assert len(fake.calls) == 1


def test_the_fake_knows_what_it_was_asked_by_16_threads():
    fake = FakeBackend()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda i: fake.score(f"q{i}", ["a", "", "b"], top_n=2), range(200)))
    assert sorted(fake.calls) == sorted(Call(f"q{i}", ("a", "b"), 2) for i in range(200))


@dataclass
class Offset:
    by: float

    def __call__(self, query, text):
        return self.by


def test_the_fakes_fingerprint_tells_all_that_makes_its_scores():
    fakes = [
        FakeBackend(),
        FakeBackend(name="other"),
        FakeBackend(model="other"),
        FakeBackend(score=by_length),
        FakeBackend(score=lambda query, text: 0.0),
        FakeBackend(score=lambda query, text: 1.0),
        FakeBackend(score=Offset(0.25)),
        FakeBackend(score=Offset(0.5)),
        FakeBackend(scale=Scale.LOGIT),
        FakeBackend(reply=[0.5]),
        FakeBackend(reply=[0.25]),
    ]
    prints = [fake.fingerprint for fake in fakes]
    assert len(set(prints)) == len(prints)
    assert FakeBackend(score=by_length).fingerprint == FakeBackend(score=by_length).fingerprint
    assert " at 0x" not in FakeBackend(score=by_length).fingerprint


# The contract lets the sound pass


class TestFake(BackendContract):
    def make(self):
        return FakeBackend()

    def variants(self):
        return [FakeBackend(model="other"), FakeBackend(score=by_length), FakeBackend(scale=Scale.LOGIT)]


class TestLogit(BackendContract):
    def make(self):
        return FakeBackend(score=overlap_logit, scale=Scale.LOGIT)


class ByPlace(FakeBackend):
    """Ranks: a text's score depends on the others."""

    def _score(self, query, texts, *, top_n=None):
        overlaps = [word_overlap(query, text) for text in texts]
        return Scores([float(sum(other < one for other in overlaps)) for one in overlaps])


class TestRank(BackendContract):
    def make(self):
        return ByPlace(scale=Scale.RANK, pointwise=False)


class TestUnknown(BackendContract):
    tolerance = 0.01

    def make(self):
        return FakeBackend(score=Drifting(), scale=Scale.UNKNOWN, model="drifts")


class Drifting:
    """Scores alike, but not the same, from call to call."""

    def __init__(self):
        self.calls = 0

    def __call__(self, query, text):
        self.calls += 1
        return word_overlap(query, text) + self.calls % 3 * 0.004

    def __repr__(self):
        return "Drifting()"


class Reading(FakeBackend):
    """A local model: reads 2,000 characters, and stops at the deadline."""

    def __init__(self, length=2_000, **options):
        super().__init__(**options)
        self.length = length

    @property
    def fingerprint(self):
        return f"{super().fingerprint}:{self.length}"

    def _score(self, query, texts, *, top_n=None):
        left = remaining_s()
        late = left is not None and left < 0
        values = [None if late else word_overlap(query, text[: self.length]) for text in texts]
        cut = sum(len(text) > self.length for text in texts if len(text) > 25_000)
        details = [{"read": min(len(text), self.length)} for text in texts]
        return Scores(values, details=details, truncated=cut, degraded="deadline" if late else None)


class TestReading(BackendContract):
    truncates = True
    on_deadline = "unscored"

    def make(self):
        return Reading()

    def variants(self):
        return [Reading(100)]


class Asking(FakeBackend):
    """A service: has a key, a client that cannot be pickled, and raises at the deadline."""

    def __init__(self, key):
        super().__init__(name="asking")
        self._key, self._client = key, threading.Lock()

    def _score(self, query, texts, *, top_n=None):
        left = remaining_s()
        if left is not None and left < 0:
            raise DeadlineError("late")
        usage = Usage(calls=1, input_tokens=None, cost_usd=0.002, estimated=True)
        return Scores(super()._score(query, texts), usage=usage, attempts=(Attempt("asking", "m"),))

    async def _ascore(self, query, texts, *, top_n=None):
        await asyncio.sleep(0)
        return self._score(query, texts, top_n=top_n)


class TestAsking(BackendContract):
    on_deadline = "error"
    picklable = False
    secret = KEY

    def make(self):
        return Asking(KEY)


# The contract finds the faulty


class Overriding(FakeBackend):
    """Overrides the method that checks, and checks nothing."""

    def score(self, query, texts, *, top_n=None):
        return Scores(tuple(0.5 for _ in texts), usage=Usage(calls=1))


class Faulty(FakeBackend):
    """Does something to good scores."""

    def __init__(self, fault, **options):
        super().__init__(**options)
        self.fault = fault

    def _score(self, query, texts, *, top_n=None):
        return self.fault(super()._score(query, texts), query=query, texts=texts, top_n=top_n)


def drops_one(values, **asked):
    return values[1:]


def drops_one_of_many(values, **asked):
    return values[:32]


def not_a_number(values, **asked):
    return [math.nan, *values[1:]]


def beyond_its_bounds(values, **asked):
    return [value + 1 for value in values]


def sorts(values, **asked):
    return sorted(values, reverse=True)


def indifferent(values, **asked):
    return [0.5] * len(values)


def unscored(values, **asked):
    return [None] * len(values)


def divided_by_the_best(values, **asked):
    return [value / (max(values) or 1) for value in values]


def less_for_a_copy(values, *, texts, **asked):
    return [value / (1 + texts[:i].count(texts[i])) for i, value in enumerate(values)]


def less_for_every_other(values, **asked):
    return [value / (1 + i % 2) for i, value in enumerate(values)]


def the_first_top_n_only(values, *, top_n, **asked):
    return [value if top_n is None or i < top_n else None for i, value in enumerate(values)]


def sorts_the_texts(values, *, texts, **asked):
    texts.sort()
    return values


def encodes_the_texts(values, *, texts, **asked):
    return [value for value, text in zip(values, texts, strict=True) if text.encode()]


def encodes_the_query(values, *, query, **asked):
    return values if query.encode() else []


def stops_at_nul(values, *, texts, **asked):
    return [value for value, text in zip(values, texts, strict=True) if "\0" not in text]


def one_of_all_when_awkward(values, *, texts, **asked):
    return [0.1] * len(values) if any("\ud83d" in text for text in texts) else values


def counts_long_ones(values, *, texts, **asked):
    return Scores(values, truncated=sum(len(text) > 25_000 for text in texts))


def counts_short_ones(values, *, texts, **asked):
    return Scores(values, truncated=1)


def prints(values, **asked):
    print("scored", len(values))  # noqa: T201 - the fault
    return values


def takes_over_logging(values, **asked):
    logging.root.addHandler(logging.NullHandler())
    return values


def late(values, **asked):
    left = remaining_s()
    if left is not None and left < 0:
        raise DeadlineError("late")
    return values


def late_and_silent(values, **asked):
    left = remaining_s()
    return values if left is None or left > 0 else [None] * len(values)


def usage_of_its_own(values, **asked):
    return Scores(values, usage={"tokens": 3})


def odd_usage(values, **asked):
    return Scores(values, usage=Usage(cost_usd=1j))


def odd_details(values, **asked):
    return Scores(values, details=[{"seen": {1, 2}} for _ in values])


class Forgetful(FakeBackend):
    """Keeps what it is asked on itself."""

    def _score(self, query, texts, *, top_n=None):
        self.texts = list(texts)
        time.sleep(0.002)
        return [word_overlap(query, text) for text in self.texts]


class Confused(FakeBackend):
    """Keeps on itself how many it is asked about."""

    def _score(self, query, texts, *, top_n=None):
        self.asked = len(texts)
        time.sleep(0.002)
        return [word_overlap(query, text) / self.asked for text in texts]


class ScoresOnlyBlanks(FakeBackend):
    """Right until all are blank."""

    def score(self, query, texts, *, top_n=None):
        return super().score(query, texts, top_n=top_n) if "".join(texts).strip() else Scores((0.0,) * len(texts))


class OtherWhenAwaited(FakeBackend):
    async def _ascore(self, query, texts, *, top_n=None):
        return [0.5] * len(texts)


class RunsALoop(FakeBackend):
    def _score(self, query, texts, *, top_n=None):
        running = asyncio.sleep(0, super()._score(query, texts))
        try:
            return asyncio.run(running)
        finally:
            running.close()


class KeepsALoop(FakeBackend):
    loop = None

    async def _ascore(self, query, texts, *, top_n=None):
        self.loop = self.loop or asyncio.get_running_loop()
        return await self.loop.run_in_executor(None, lambda: self._score(query, texts))


class FirstLoopOnly(KeepsALoop):
    """Gives up, quietly, in the second event loop."""

    async def _ascore(self, query, texts, *, top_n=None):
        self.loop = self.loop or asyncio.get_running_loop()
        return self._score(query, texts) if self.loop is asyncio.get_running_loop() else [None] * len(texts)


class Locked(FakeBackend):
    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()


class LocksOnUse(FakeBackend):
    """Pickles until it has been used."""

    def _score(self, query, texts, *, top_n=None):
        self.lock = threading.Lock()
        return super()._score(query, texts)


class LosesItsModel(FakeBackend):
    def __reduce__(self):
        return FakeBackend, ()


class LosesItsFunction(FakeBackend):
    fingerprint = "the same"

    def __reduce__(self):
        return LosesItsFunction, ()


class NamedByAddress(FakeBackend):
    @property
    def fingerprint(self):
        return f"fake:{id(self)}"


class NamedByUse(FakeBackend):
    @property
    def fingerprint(self):
        return f"fake:{len(self.calls)}"


class NamedAlike(FakeBackend):
    fingerprint = "fake"


class Unnamed(FakeBackend):
    fingerprint = ""


class ShowsItsKey(FakeBackend):
    def __repr__(self):
        return f"<ShowsItsKey {KEY}>"


class PrintsItsKey(FakeBackend):
    def __repr__(self):
        return "<PrintsItsKey>"

    def __str__(self):
        return KEY


class PicklesItsKey(FakeBackend):
    def __init__(self):
        super().__init__()
        self.key = KEY


class Lucky(FakeBackend):
    fingerprint = "luck"


def lucky():
    """Return what makes equal backends that score differently."""
    counter = itertools.count()
    return lambda: Lucky(score=Offset(next(counter) / 100))


def made(backend, *given, **options):
    return lambda: backend(*given, **options)


FAULTS = {
    "test_what_it_is_is_declared": [
        (made(FakeBackend, name="a:b"), {}, "the model begins at the first colon"),
        (made(FakeBackend, name=""), {}, "name is empty"),
        (made(FakeBackend, model=None), {}, "model is None; expected a str"),
        (made(FakeBackend, scale="logit"), {}, "scale is 'logit'; expected a Scale"),
        (made(FakeBackend, pointwise=1), {}, "pointwise is 1; expected a bool"),
        (made(Unnamed), {}, "fingerprint is empty"),
    ],
    "test_score_and_ascore_are_the_inherited_ones": [(made(Overriding), {}, "override _score, not score")],
    "test_no_text_takes_no_call": [(made(Overriding), {}, "no texts, but Scores")],
    "test_one_finite_score_on_the_scale_per_text": [
        (made(Faulty, drops_one), {}, "0 scores for 1 texts"),
        (made(Faulty, drops_one_of_many), {}, "32 scores for 33 texts"),
        (made(Faulty, not_a_number), {}, "finite"),
        (made(Faulty, beyond_its_bounds), {}, "outside the declared similarity"),
    ],
    "test_blank_texts_are_unscored_and_disturb_no_other": [
        (made(Overriding), {}, "with blank texts among them"),
        (made(ScoresOnlyBlanks), {}, "with blank texts alone"),
    ],
    "test_duplicates_score_alike": [(made(Faulty, less_for_a_copy), {}, "a text given twice")],
    "test_a_score_ignores_the_other_texts_if_pointwise": [
        (made(Faulty, divided_by_the_best), {}, "alone and in company"),
        (made(Faulty, less_for_every_other, scale=Scale.LOGIT, score=overlap_logit), {}, "alone and in company"),
        (made(Faulty, sorts), {}, "in reverse order"),
        (made(ByPlace, scale=Scale.RANK, pointwise=True), {}, "alone and in company"),
        (made(FakeBackend, score=Drifting()), {"tolerance": 0.001}, "in reverse order"),
    ],
    "test_the_relevant_text_scores_above_the_irrelevant_one": [
        (made(Faulty, sorts), {}, "relevant 0.0, irrelevant"),
        (made(Faulty, sorts, scale=Scale.RANK, pointwise=False), {}, "relevant 0.0, irrelevant"),
        (made(Faulty, indifferent), {}, "relevant 0.5, irrelevant 0.5"),
        (made(Faulty, unscored), {}, "was not scored"),
    ],
    "test_top_n_is_only_a_hint": [(made(Faulty, the_first_top_n_only), {}, "top_n=1: the most relevant text was not scored")],
    "test_its_input_stays_as_it_was": [(made(Faulty, sorts_the_texts), {}, "the list of texts was changed")],
    "test_awkward_texts_are_taken_and_disturb_no_other": [
        (made(Faulty, encodes_the_texts), {}, "UnicodeEncodeError"),
        (made(Faulty, stops_at_nul), {}, "scores for"),
        (made(Faulty, one_of_all_when_awkward), {}, "in awkward company"),
    ],
    "test_awkward_queries_are_taken": [(made(Faulty, encodes_the_query), {}, "UnicodeEncodeError")],
    "test_a_cut_text_is_counted": [
        (made(Faulty, counts_long_ones), {}, "truncated is 1 .*declared truncates=False"),
        (made(FakeBackend), {"truncates": True}, "truncated is 0 .*declared truncates=True"),
        (made(Faulty, counts_short_ones), {"truncates": True}, "was cut"),
    ],
    "test_threads_share_one_instance": [
        (made(Forgetful), {}, "scores for"),
        (made(Confused), {}, "under threads"),
    ],
    "test_ascore_returns_what_score_returns": [(made(OtherWhenAwaited), {}, "from ascore")],
    "test_score_works_inside_a_running_event_loop": [(made(RunsALoop), {}, "RuntimeError")],
    "test_one_instance_serves_one_event_loop_after_another": [
        (made(KeepsALoop), {}, "RuntimeError"),
        (made(FirstLoopOnly), {}, "in another event loop"),
    ],
    "test_copies_are_equal": [
        (made(Locked), {}, "cannot pickle"),
        (made(LocksOnUse), {}, "cannot pickle"),
        (made(LosesItsModel, model="other"), {}, "a copy has fingerprint"),
        (made(LosesItsFunction, score=by_length, scale=Scale.UNKNOWN), {}, "from a copy"),
        (made(FakeBackend), {"picklable": False}, "DID NOT RAISE"),
    ],
    "test_equal_backends_have_equal_fingerprints_and_scores": [
        (made(NamedByAddress), {}, "of equal backends"),
        (made(NamedByUse), {}, "of equal backends"),
        (lucky(), {}, "from two equal backends"),
    ],
    "test_different_backends_have_different_fingerprints": [
        (made(NamedAlike), {"variants": lambda self: [NamedAlike(score=by_length)]}, "variant 1 has the fingerprint"),
        (made(FakeBackend), {"variants": lambda self: [FakeBackend(model="m")] * 2}, "variant 2 has the fingerprint"),
    ],
    "test_the_key_stays_secret": [
        (made(ShowsItsKey), {"secret": KEY}, "the key is in its repr"),
        (made(PrintsItsKey), {"secret": KEY}, "the key is in its str"),
        (made(FakeBackend, model=KEY), {"secret": KEY}, "the key is in its repr"),
        (made(NamedAlike, model=KEY), {"secret": KEY}, "the key is in its repr"),
        (made(PicklesItsKey), {"secret": KEY}, "the key is in its pickle"),
    ],
    "test_a_deadline_does_what_is_declared": [
        (made(FakeBackend), {"on_deadline": "error"}, "DID NOT RAISE"),
        (made(FakeBackend), {"on_deadline": "unscored"}, "the deadline had passed, and all were scored"),
        (made(Faulty, late_and_silent), {"on_deadline": "unscored"}, "degraded is 'incomplete'; expected 'deadline'"),
        (made(Faulty, late_and_silent), {}, "after a deadline that is ignored"),
        (made(Faulty, late), {}, "late"),
        (made(FakeBackend, reply=Scores([0.0] * 3, degraded="deadline")), {}, "declared on_deadline='ignored'"),
    ],
    "test_usage_and_details_go_to_json": [
        (made(Faulty, usage_of_its_own), {}, "usage is a dict"),
        (made(Faulty, odd_usage), {}, "complex is not JSON serializable"),
        (made(Faulty, odd_details), {}, "set is not JSON serializable"),
    ],
    "test_a_blank_query_is_refused": [(made(Overriding), {}, "DID NOT RAISE")],
    "test_a_text_that_is_no_string_is_refused_with_its_index": [(made(Overriding), {}, "DID NOT RAISE")],
    "test_nothing_is_printed": [
        (made(Faulty, prints), {}, "printed 'scored 3"),
        (made(Faulty, takes_over_logging), {}, "the root logger has another handler"),
    ],
}  # fmt: skip


def held_to(promise, make, declared, capsys):
    """Run one test of the contract."""
    contract = type("Contract", (BackendContract,), {"make": lambda self: make(), **declared})()
    test = getattr(contract, promise)
    test(**{"capsys": capsys} if "capsys" in inspect.signature(test).parameters else {})


@pytest.fixture
def _root_logger():
    handlers = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = handlers


@pytest.mark.usefixtures("_root_logger")
@pytest.mark.parametrize(
    ("promise", "make", "declared", "said"),
    [
        pytest.param(promise, *fault, id=f"{promise}-{i}")
        for promise, faults in FAULTS.items()
        for i, fault in enumerate(faults)
    ],
)
def test_the_contract_finds_a_broken_promise(promise, make, declared, said, capsys):
    found = (AssertionError, BackendError, TypeError, pytest.fail.Exception)
    with pytest.raises(found, match=said):
        held_to(promise, make, declared, capsys)


def test_every_promise_of_the_contract_is_shown_to_be_tested():
    assert set(FAULTS) == set(PROMISES)


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_says_what_it_is(promise):
    assert getattr(BackendContract, promise).__doc__.endswith(".")


def test_a_contract_without_make_is_not_passed():
    with pytest.raises(NotImplementedError):
        BackendContract().test_no_text_takes_no_call()


def test_the_module_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; from rerankx.testing import BackendContract, FakeBackend"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_fake_stands_in_for_a_backend():
    assert Reranker(FakeBackend()).rerank("red", ["blue", "red"]).documents == ["red", "blue"]
