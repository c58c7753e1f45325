import asyncio
import copy
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import Backend, BackendError, Fallback, OptionError, Reranker, Scale, Scores, Usage, Windowed
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.compose.cached import Cached
from rerankx.interface import deadline
from rerankx.testing import BackendContract, FakeBackend, word_overlap

QUERY = "how long does a refund take"
FILLER = "The museum opens on Sundays and its garden is known for roses. "
ANSWER = "A refund does take five days. "
MARKS = {"best": 4.0, "good": 3.0, "fair": 2.0, "poor": 1.0}


class Marked(Backend):
    """Scores a text by the marks in it, reads no more than so many characters, and keeps what it was asked."""

    name, model, scale, pointwise = "marked", "marks", Scale.LOGIT, True

    def __init__(self, *, reads=10**9, **more):
        self.reads, self.more, self.asked = reads, more, []

    def _score(self, query, texts, *, top_n=None):
        self.asked.append((list(texts), top_n))
        values = [
            max((MARKS.get(word.strip("."), 0.0) for word in text[: self.reads].split()), default=0.0) for text in texts
        ]
        details = [{"marks": value} for value in values]
        return Scores(values, **{"details": details, "cut": [len(text) > self.reads for text in texts], **self.more})


def scored(backend, *texts, **options):
    return Windowed(backend, **options).score(QUERY, texts)


class TestWindowedContract(BackendContract):
    on_deadline = "unscored"

    def make(self):
        return Windowed(FakeBackend(score=word_overlap))

    def variants(self):
        return [
            Windowed(FakeBackend(), size=100),
            Windowed(FakeBackend(), overlap=20),
            Windowed(FakeBackend(), combine="first"),
            Windowed(FakeBackend(), combine="top3_mean"),
            Windowed(FakeBackend(model="another")),
        ]


class TestWindowedEmbeddedContract(BackendContract):
    tolerance = 1e-6
    on_deadline = "unscored"

    def make(self):
        return Windowed("embedded", size=60, overlap=15)


def test_relevance_is_found_wherever_it_stands():
    texts = [FILLER * before + ANSWER + FILLER * (60 - before) for before in (0, 10, 30, 59, 60)]
    values = scored("embedded", *texts).values
    plain = Reranker("embedded").backend.score(QUERY, texts).values
    assert min(values) > 0.8 * max(values)
    assert min(plain) < 0.5 * max(plain)  # that is what it is for


def test_the_details_say_which_window_was_the_best():
    text = "One two. " * 30 + "best " + "six seven. " * 30
    scores = scored(Marked(), text, "short best", size=20, overlap=5)
    window = scores.details[0]["window"]
    assert scores.details[0]["marks"] == 4.0
    assert "best" in text[window["start"] : window["end"]].split()
    assert 1 < window["number"] < window["of"]
    assert scores.details[1] == {"marks": 4.0, "window": {"start": 0, "end": 10, "number": 1, "of": 1}}


def test_all_windows_of_all_texts_go_in_one_call_each_once_and_without_a_hint():
    backend = Marked()
    long = "One two three. " * 10
    Windowed(backend, size=8, overlap=0).score(QUERY, [long, "short", long, "short", "One two three. " * 2], top_n=1)
    assert backend.asked == [(["One two three. One two three.", "short", "One two three. One two three. "], None)]


@pytest.mark.parametrize(("combine", "value", "number"), [("max", 4.0, 2), ("first", 2.0, 1), ("top3_mean", 3.0, 2)])
def test_scores_of_windows_become_one(combine, value, number):
    scores = scored(Marked(), "One fair. Two best. Five poor. Six good.", size=3, overlap=0, combine=combine)
    assert scores.values == (value,)
    assert scores.details[0]["window"]["number"] == number
    assert scores.details[0]["window"]["of"] == 4


def test_a_mean_of_fewer_than_three_is_that_of_those():
    assert scored(Marked(), "One fair. Two best.", "good", size=3, overlap=0, combine="top3_mean").values == (3.0, 3.0)


def test_of_equal_windows_the_first_is_told():
    assert scored(Marked(), "One. Two best. Five best.", size=3, overlap=0).details[0]["window"]["number"] == 2


def test_first_reads_no_other_window():
    backend = Marked()
    scored(backend, "One fair. Two best. Five poor.", size=3, overlap=0, combine="first")
    assert backend.asked[0][0] == ["One fair."]


def test_a_text_of_which_a_window_was_not_scored_is_not_scored():
    backend = Marked(details=None, cut=None)
    backend._score = lambda query, texts, *, top_n=None: Scores([1.0, None, 2.0], degraded="deadline")
    scores = scored(backend, "One fair. Two best.", "good", size=3, overlap=0)
    assert (scores.values, scores.degraded) == ((None, 2.0), "deadline")
    assert scores.details == (None, {"window": {"start": 0, "end": 4, "number": 1, "of": 1}})


def test_a_text_is_cut_if_one_of_its_windows_was():
    scores = scored(Marked(reads=8), "One fair. Unbelievably best.", "short", "One. Two.", size=3, overlap=0)
    assert (scores.cut, scores.truncated) == ((True, False, False), 1)


def test_where_only_their_number_is_known_the_longest_windows_were_cut():
    scores = scored(Marked(cut=None, truncated=1), "One fair. Unbelievably best.", "a", size=3, overlap=0)
    assert (scores.cut, scores.truncated) == ((True, False), 1)
    assert scored(Marked(cut=None), "One fair. Unbelievably best.", size=3, overlap=0).cut == (False,)


def test_ties_are_broken_as_the_backend_breaks_them():
    same = Marked(order=[3, 1, 0])
    scores = scored(same, "One best.", "Two best.", "Six. Ten best.", size=3, overlap=0)
    assert scores.order == (2, 1, 0)


def test_what_the_call_took_is_told():
    usage = Usage(calls=3, input_tokens=70, cost_usd=0.1)
    assert scored(Marked(usage=usage), "One fair. Two best.", size=3, overlap=0).usage == usage


TEXTS = st.lists(
    st.lists(st.sampled_from(["refund", "Take", "five", ".", "!", "\n", "退款", "。", "how"]), max_size=30).map(
        " ".join
    ),
    max_size=6,
)


@given(TEXTS, st.sampled_from(["max", "first", "top3_mean"]))
def test_windows_of_short_texts_equal_none(texts, combine):
    backend = FakeBackend()
    assert Windowed(backend, combine=combine).score(QUERY, texts).values == backend.score(QUERY, texts).values


@given(TEXTS, st.integers(1, 12))
def test_the_best_window_scores_what_it_scores_alone(texts, size):
    backend = FakeBackend()
    scores = Windowed(backend, size=size, overlap=size // 2).score(QUERY, texts)
    for text, value, details in zip(texts, scores.values, scores.details or [None] * len(texts), strict=True):
        assert (value is None) == (not text.strip())
        if details is not None:
            window = details["window"]
            assert 1 <= window["number"] <= window["of"]
            assert backend.score(QUERY, [text[window["start"] : window["end"]]]).values == (value,)


def test_both_ways_of_asking_give_the_same():
    texts = ["One fair. Two best.", "short", "", "One fair. Two best."]
    windowed = Windowed(Marked(), size=3, overlap=0)
    one, other = windowed.score(QUERY, texts), asyncio.run(windowed.ascore(QUERY, texts))
    assert (one.values, one.details, one.cut) == (other.values, other.details, other.cut)


def test_the_event_loop_does_not_wait_for_the_tokenizer():
    threads = set()

    class Slow(FakeBackend):
        def token_spans(self, text):
            threads.add(threading.get_ident())
            return super().token_spans(text)

    asyncio.run(Windowed(Slow()).ascore(QUERY, ["one", "two"]))
    assert threads.isdisjoint({threading.get_ident()})


def test_texts_that_there_was_no_time_to_cut_are_not_scored():
    never = threading.Event()

    class Tired(FakeBackend):
        def token_spans(self, text):
            if text == "two":
                never.wait(0.2)
            return super().token_spans(text)

    with deadline(0.1):
        scores = Windowed(Tired()).score(QUERY, ["one", "two", "six"])
    assert [value is None for value in scores.values] == [False, False, True]
    assert scores.degraded == "deadline"


def test_failures_of_the_backend_are_its_own():
    with pytest.raises(BackendError, match="down"):
        scored(FakeBackend(error=BackendError("down")), "text")


def test_it_tells_what_it_is_made_of():
    windowed = Windowed("embedded")
    ranking = Reranker(windowed).rerank("a", ["a", "b"])
    assert (ranking.backend, ranking.model) == ("windowed", "embedded:all-MiniLM-L6-v2")
    assert windowed.backend.fingerprint in windowed.fingerprint
    assert windowed.scale == windowed.backend.scale
    assert windowed.token_spans("a refund") == windowed.backend.token_spans("a refund")


def test_it_copies_and_pickles():
    windowed = Windowed(FakeBackend(), size=30, overlap=3, combine="first")
    for twin in (copy.deepcopy(windowed), pickle.loads(pickle.dumps(windowed))):
        assert twin.fingerprint == windowed.fingerprint


def test_windows_of_windows_are_refused():
    with pytest.raises(ValueError, match=r"'windowed' already takes no windows around it.*pass its \.backend"):
        Windowed(Windowed(Marked()))


def test_a_text_is_from_a_cache_if_all_its_windows_are():
    backend = Windowed(Cached(Marked()), size=3, overlap=0)
    told = [
        backend.score(QUERY, [text]).details[0]
        for text in ("One fair. Two best.", "One fair. Two best.", "Two best. Five poor.", "Two best. Five poor.")
    ]
    assert [detail.get("cached") for detail in told] == [None, True, None, True]
    assert {detail["marks"] for detail in told} == {4.0}


def test_once_it_is_cancelled_no_more_texts_are_cut():
    begun, on, cut = threading.Event(), threading.Event(), []

    class Slow(FakeBackend):
        def token_spans(self, text):
            cut.append(text)
            begun.set()
            assert on.wait(20)
            return super().token_spans(text)

    async def run():
        task = asyncio.ensure_future(Windowed(Slow()).ascore(QUERY, ["one", "two", "six"]))
        assert await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        on.set()

    asyncio.run(run())  # at its end the threads have ended
    assert cut == ["one"]


class Late(FakeBackend):
    """Knows its scale when it is loaded."""

    pointwise = True

    def __init__(self):
        super().__init__()
        del self.scale

    @property
    def scale(self):
        return Scale.UNKNOWN

    @scale.setter
    def scale(self, value): ...

    @scale.deleter
    def scale(self): ...


def test_a_mean_of_what_is_only_an_order_is_refused():
    with pytest.raises(ValueError, match=r"'fake' \(unknown\) are only an order: take combine='max'"):
        Windowed(FakeBackend(scale=Scale.UNKNOWN), combine="top3_mean")
    late = Windowed(Late(), combine="top3_mean")
    with pytest.raises(OptionError, match=r"'fake' \(unknown\) are only an order: take combine='max'"):
        late.score(QUERY, ["text"])
    with pytest.raises(OptionError, match="only an order"):
        asyncio.run(late.ascore(QUERY, ["text"]))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"size": 0}, ValueError, "size must be at least 1, not 0"),
        ({"size": 2.5}, TypeError, r"size must be a whole number, not 2\.5"),
        ({"overlap": -1}, ValueError, "overlap must be at least 0, not -1"),
        ({"size": 100, "overlap": 51}, ValueError, "overlap must be at most half of size, here 50, not 51"),
        ({"combine": "mean"}, ValueError, "combine must be one of max, first, top3_mean, not 'mean'"),
    ],
)
def test_options_out_of_range_are_refused(options, error, words):
    with pytest.raises(error, match=words):
        Windowed("embedded", **options)


@pytest.mark.parametrize("backend", [Fallback("embedded", FakeBackend()), FakeBackend(pointwise=False)])
def test_a_backend_that_compares_texts_is_refused(backend):
    with pytest.raises(ValueError, match=rf"pointwise: the scores of '{backend.name}' depend on the other texts"):
        Windowed(backend)


def test_what_is_no_backend_is_refused():
    with pytest.raises(TypeError, match=r"backend of windows must be a name .*, not Reranker; pass its \.backend"):
        Windowed(Reranker())


def test_a_cross_encoder_reads_a_long_text_whole(tmp_path):
    pytest.importorskip("onnx", reason="needs the package onnx, by which this test writes its model")
    from graph_stage import save_model

    backend = CrossEncoder(save_model(tmp_path), cache_dir=tmp_path / "cache")
    text = "".join(f"Room {i} is known for roses. " for i in range(200)) + ANSWER
    plain, windowed = backend.score(QUERY, [text, ANSWER]), Windowed(backend).score(QUERY, [text, ANSWER])
    assert (plain.cut, windowed.cut) == ((True, False), (False, False))
    assert windowed.values[1] == plain.values[1]
    window = windowed.details[0]["window"]
    best = backend.score(QUERY, [text[window["start"] : window["end"]]])
    assert windowed.values[0] == pytest.approx(best.values[0], abs=1e-5)
    assert windowed.usage.input_tokens > len(backend.token_spans(text))


def test_the_overlap_is_a_quarter_unless_it_is_given():
    assert [Windowed("embedded", size=size).overlap for size in (200, 80, 3)] == [50, 20, 0]
