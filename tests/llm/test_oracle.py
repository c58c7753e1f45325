"""What a scripted oracle, which knows the judgments, makes of trec-dl19: exact at its best, less so with noise, and never a loss.

No language model is asked: these are laws of windows, of the reader of replies and of what follows a bad one.
"""

import math
import os
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")
pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[llm]'")

from oracle import FATAL, FAULTS, HARMLESS, Oracle, PointingOracle, topics
from scripted import passages_in, prompt_of, warnings_in

from rerankx.backends.judge import Judge
from rerankx.backends.listwise import Listwise
from rerankx.errors import ReplyError
from rerankx.evaluation import metrics

DATA = Path(os.environ.get("RERANKX_DATA", Path(__file__).parents[3] / "shared" / "data"))
DEPTH = 100
NOISE = (0.0, 0.1, 0.2, 0.4, 0.8, 1.0)
SEEDS = range(2)
RATES = (0.0, 0.25, 0.5, 0.75, 1.0)

pytestmark = pytest.mark.skipif(
    not (DATA / "trec-dl19").is_dir(), reason=f"no collection trec-dl19 in {DATA}; RERANKX_DATA names another folder"
)


@cache
def collection():
    return topics(DATA / "trec-dl19", DEPTH)


def names_of(topic) -> list[str]:
    """Return a short text for each candidate: the scripted oracle has no need of more to know it."""
    return [f"passage {i}" for i in topic.ids]


def graded(topic, texts=None) -> dict[str, int]:
    return dict(zip(texts or names_of(topic), topic.grades, strict=True))


def listwise(llm, **options) -> Listwise:
    return Listwise(llm=llm, **options)


def order_of(scores) -> list[int]:
    return sorted(range(len(scores.values)), key=lambda i: -scores.values[i])


def best_order(topic) -> list[int]:
    return sorted(range(len(topic.ids)), key=lambda i: -topic.grades[i])


def quality(topic, order, k=10) -> float:
    return metrics.ndcg([topic.ids[i] for i in order], topic.judged, k=k)


def qualities(options, oracle, *, some=None) -> list[float]:
    """Return nDCG@10 of each query, as a scripted oracle of these errors ranks it."""
    found = []
    for topic in collection()[:some]:
        llm = Oracle(graded(topic), **oracle)
        found.append(quality(topic, order_of(listwise(llm, **options).score(topic.query, names_of(topic)))))
    return found


def is_whole(values) -> bool:
    """Whether each of the documents has a place, and each place a document."""
    return sorted(values) == [float(place) for place in range(1, DEPTH + 1)]


class TestCollection:
    def test_is_the_one_that_is_known(self):
        assert [len(topic.ids) for topic in collection()] == [DEPTH] * 43
        bm25 = fmean(quality(topic, range(DEPTH)) for topic in collection())
        assert bm25 == pytest.approx(0.5058, abs=5e-5)

    def test_leaves_room_between_the_first_stage_and_the_best_order(self):
        assert fmean(quality(topic, best_order(topic)) for topic in collection()) > 0.85


class TestPerfect:
    def test_reaches_the_best_order_there_is_of_the_first_ten(self):
        for topic in collection():
            llm = Oracle(graded(topic, topic.texts))
            scores = listwise(llm).score(topic.query, topic.texts)
            assert [topic.grades[i] for i in order_of(scores)[:10]] == sorted(topic.grades, reverse=True)[:10]
            assert quality(topic, order_of(scores)) == quality(topic, best_order(topic))
            assert (llm.asked, scores.degraded) == (9, None)

    @pytest.mark.parametrize("top_n", [20, 25, 50])
    def test_reaches_the_best_order_of_as_many_as_are_to_be_right(self, top_n):
        for topic in collection()[:10]:
            scores = listwise(Oracle(graded(topic))).score(topic.query, names_of(topic), top_n=top_n)
            assert quality(topic, order_of(scores), k=top_n) == quality(topic, best_order(topic), k=top_n)

    def test_reaches_the_best_order_of_all_that_are_shown_at_once(self):
        for topic in collection():
            scores = listwise(Oracle(graded(topic)), window="all").score(topic.query, names_of(topic))
            assert order_of(scores) == best_order(topic)

    @pytest.mark.parametrize(("window", "step"), [(20, 10), (20, 15), (20, 19), (10, 5), (4, 2), (2, 1)])
    def test_makes_of_windows_exactly_what_they_allow(self, window, step):
        for topic in collection()[:10]:
            order, end = list(range(DEPTH)), DEPTH
            while end > 0:
                start = max(end - window, 0)
                order[start:end] = sorted(order[start:end], key=lambda i: -topic.grades[i])
                end = end - step if start else 0
            scores = listwise(Oracle(graded(topic)), window=window, step=step).score(topic.query, names_of(topic))
            assert order_of(scores) == order

    def test_reaches_it_by_first_tokens(self):
        for topic in collection()[:15]:
            scores = listwise(PointingOracle(graded(topic)), strategy="first-token").score(topic.query, names_of(topic))
            assert quality(topic, order_of(scores)) == quality(topic, best_order(topic))
            assert (scores.details, scores.usage.calls) == (None, 9)

    def test_reaches_it_as_a_judge_text_by_text(self):
        for topic in collection()[:5]:
            grades = graded(topic)

            async def grade(messages, grades=grades):
                (passage,) = passages_in(prompt_of(messages))
                return str(grades[passage])

            scores = Judge(llm=grade).score(topic.query, names_of(topic))
            assert order_of(scores) == best_order(topic)

    def test_is_at_its_best_with_shuffles_too(self):
        for topic in collection()[:5]:
            scores = listwise(Oracle(graded(topic)), shuffles=2).score(topic.query, names_of(topic))
            assert quality(topic, order_of(scores)) == pytest.approx(quality(topic, best_order(topic)))

    def test_is_not_taken_for_a_model_that_does_not_rank(self, caplog):
        for topic in collection():
            listwise(Oracle(graded(topic))).score(topic.query, names_of(topic))
        assert warnings_in(caplog) == []


@cache
def by_noise() -> dict[float, list[float]]:
    """Return nDCG@10 of each query under each noise, averaged over the seeds."""
    return {
        noise: [
            fmean(of_one) for of_one in zip(*(qualities({}, {"noise": noise, "seed": s}) for s in SEEDS), strict=True)
        ]
        for noise in NOISE
    }


class TestNoise:
    def test_of_none_leaves_the_best_order(self):
        assert by_noise()[0.0] == [quality(topic, best_order(topic)) for topic in collection()]

    @pytest.mark.parametrize(("less", "more"), list(pairwise(NOISE)))
    def test_lowers_the_quality_by_more_than_chance(self, less, more):
        """The mean of the queries' differences lies two of its standard errors above 0."""
        lost = [before - after for before, after in zip(by_noise()[less], by_noise()[more], strict=True)]
        assert fmean(lost) > 2 * stdev(lost) / math.sqrt(len(lost))

    @pytest.mark.parametrize(("less", "more"), list(pairwise(NOISE)))
    def test_lowers_the_quality_by_no_sudden_fall(self, less, more):
        """Nowhere does it fall twice as fast as from one end to the other."""
        mean = {noise: fmean(found) for noise, found in by_noise().items()}
        fall = (mean[0.0] - mean[1.0]) / (1.0 - 0.0)
        assert (mean[less] - mean[more]) / (more - less) < 2 * fall

    def test_is_the_same_again_with_the_same_seed(self):
        noisy = {"noise": 0.4, "seed": 3}
        assert qualities({}, noisy, some=5) == qualities({}, noisy, some=5)
        assert qualities({}, noisy, some=5) != qualities({}, {**noisy, "seed": 4}, some=5)

    def test_loses_no_document(self):
        for topic in collection()[:10]:
            scores = listwise(Oracle(graded(topic), noise=1.0)).score(topic.query, names_of(topic), top_n=30)
            assert is_whole(scores.values)

    def test_is_less_where_answers_to_shuffled_windows_are_merged(self):
        noisy = {"noise": 0.3}
        once, merged = (qualities({"shuffles": n}, noisy, some=15) for n in (0, 4))
        assert fmean(merged) > fmean(once) + 2 * stdev(once) / math.sqrt(15) / 10


each_fault = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)


class TestFaults:
    @each_fault
    @pytest.mark.parametrize("rate", RATES)
    def test_of_any_rate_lose_no_document_and_double_none(self, fault, rate):
        for topic in collection()[:4]:
            llm = Oracle(graded(topic), faults=[fault], rate=rate)
            scores = listwise(llm, on_bad_reply="input_order").score(topic.query, names_of(topic))
            assert is_whole(scores.values)
            assert scores.degraded in (None, "incomplete")

    @each_fault
    @pytest.mark.parametrize("rate", RATES)
    def test_of_any_rate_raise_nothing_but_that_there_is_no_answer(self, fault, rate):
        for topic in collection()[:4]:
            llm = Oracle(graded(topic), faults=[fault], rate=rate)
            try:
                values = listwise(llm).score(topic.query, names_of(topic)).values
            except ReplyError:
                assert rate > 0
                assert fault not in HARMLESS
            else:
                assert is_whole(values)

    @pytest.mark.parametrize("rate", RATES)
    def test_of_all_kinds_with_noise_lose_no_document_of_any_query(self, rate):
        for topic in collection():
            llm = Oracle(graded(topic), noise=0.3, faults=FAULTS, rate=rate)
            scores = listwise(llm, on_bad_reply="input_order").score(topic.query, names_of(topic))
            assert is_whole(scores.values)
            assert llm.asked == scores.usage.calls <= 18

    @pytest.mark.parametrize("fault", HARMLESS, ids=lambda fault: fault.__name__)
    def test_that_only_add_something_leave_the_best_order(self, fault):
        oracle = {"faults": [fault], "rate": 1.0}
        assert qualities({}, oracle) == by_noise()[0.0]

    @pytest.mark.parametrize("fault", FATAL, ids=lambda fault: fault.__name__)
    def test_that_leave_no_answer_leave_the_order_in_which_texts_came(self, fault):
        topic = collection()[0]
        llm = Oracle(graded(topic), faults=[fault], rate=1.0)
        scores = listwise(llm, on_bad_reply="input_order").score(topic.query, names_of(topic))
        assert order_of(scores) == list(range(DEPTH))
        assert (scores.degraded, llm.asked) == ("incomplete", 18)
        assert list(scores.details) == [{"kept": "input_order"}] * DEPTH

    def test_that_leave_no_answer_lower_the_quality_to_that_of_the_first_stage(self):
        found = [fmean(qualities({"on_bad_reply": "input_order"}, {"faults": FATAL, "rate": rate})) for rate in RATES]
        assert found == sorted(found, reverse=True)
        assert found[0] == fmean(by_noise()[0.0])
        assert found[-1] == fmean(quality(topic, range(DEPTH)) for topic in collection())

    @pytest.mark.parametrize("rate", [0.5, 1.0])
    def test_are_counted_for_every_call(self, rate):
        topic = collection()[1]
        llm = Oracle(graded(topic), faults=FAULTS, rate=rate)
        backend = listwise(llm, on_bad_reply="input_order")
        backend.score(topic.query, names_of(topic))
        replies = backend.replies
        assert replies.parsed + replies.repaired + replies.failed == llm.asked
        assert replies.repaired + replies.failed > 0

    def test_in_shuffled_windows_lose_no_document(self):
        for topic in collection()[:5]:
            llm = Oracle(graded(topic), noise=0.3, faults=FAULTS, rate=0.5)
            scores = listwise(llm, on_bad_reply="input_order", shuffles=2).score(topic.query, names_of(topic))
            assert is_whole(scores.values)

    @pytest.mark.parametrize("calls", range(1, 9))
    def test_under_a_limit_of_calls_lose_no_document(self, calls):
        topic = collection()[2]
        llm = Oracle(graded(topic), faults=HARMLESS, rate=0.5)
        scores = listwise(llm, max_calls=calls).score(topic.query, names_of(topic))
        assert is_whole(scores.values)
        assert (scores.degraded, llm.asked) == ("deadline", calls)
