import asyncio
import json
import logging
import math
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import (
    Attempt,
    BackendError,
    DeadlineError,
    MissingDependencyError,
    Ranking,
    ReplyError,
    Reranker,
    Scale,
    Scores,
    Usage,
)
from rerankx.interface import remaining_s
from rerankx.reranker import best_first
from rerankx.testing import FakeBackend

SECRET = "sk-123: a whole document"


def asked(reranker, how, *given, **named):
    """Call `rerank` or `arerank`: what holds for one holds for the other."""
    if how == "rerank":
        return reranker.rerank(*given, **named)
    return asyncio.run(reranker.arerank(*given, **named))


both = pytest.mark.parametrize("how", ["rerank", "arerank"])


def replying(reply, *, scale=Scale.UNKNOWN, **more):
    return Reranker(FakeBackend(reply=reply, scale=scale), **more)


def by_number(query, text):
    return None if text == "unscored" else float(text)


def numbers(scale=Scale.UNKNOWN, **more):
    """Return a reranker whose score is the number in the text."""
    return Reranker(FakeBackend(score=by_number, scale=scale), **more)


def letters(n):
    return [chr(97 + i) for i in range(n)]


# Order


@both
def test_higher_scores_come_first(how):
    ranking = asked(numbers(), how, "q", ["1", "3", "2"])
    assert ranking.documents == ["3", "2", "1"]
    assert [hit.rank for hit in ranking] == [1, 2, 3]
    assert [hit.index for hit in ranking] == [1, 2, 0]
    assert [hit.raw_score for hit in ranking] == [3.0, 2.0, 1.0]


def test_ties_keep_the_input_order():
    assert replying([1, 2, 1, 2, 1]).rerank("q", letters(5)).documents == ["b", "d", "a", "c", "e"]


def test_ties_follow_the_servers_order_before_the_input_order():
    ranking = replying(Scores([1, 2, 1, 1], order=[3, 2, 1, 0])).rerank("q", letters(4))
    assert ranking.documents == ["b", "d", "c", "a"]


def test_texts_missing_from_the_servers_order_come_after_the_others_as_they_came():
    ranking = replying(Scores([1, 1, 1, 1], order=[3])).rerank("q", letters(4))
    assert ranking.documents == ["d", "a", "b", "c"]


def test_the_servers_order_never_beats_a_score():
    assert replying(Scores([1, 2], order=[0, 1])).rerank("q", letters(2)).documents == ["b", "a"]


def test_unscored_texts_come_last_as_they_came_whatever_their_score_would_be():
    ranking = numbers().rerank("q", ["unscored", "-5", "", "0", "unscored"])
    assert [hit.index for hit in ranking] == [3, 1, 0, 2, 4]
    assert [(hit.score, hit.raw_score) for hit in ranking][2:] == [(0.0, None)] * 3


def test_logits_too_high_to_tell_apart_in_the_score_keep_their_order():
    ranking = numbers(Scale.LOGIT).rerank("q", ["40", "60", "50"])
    assert ranking.documents == ["60", "50", "40"]
    assert [hit.score for hit in ranking] == [1.0, 1.0, 1.0]


def test_best_first_takes_no_values():
    assert best_first([]) == []


# The normalised score


@pytest.mark.parametrize(
    ("scale", "raws", "scores"),
    [
        (Scale.LOGIT, ["0", str(-math.log(3))], [0.5, 0.25]),
        (Scale.PROBABILITY, ["0.875", "0.25"], [0.875, 0.25]),
        (Scale.similarity(-1, 1), ["1", "-0.5"], [1.0, 0.25]),
        (Scale.RANK, ["9", "8", "7", "-1"], [1.0, 0.75, 0.5, 0.25]),
        (Scale.UNKNOWN, ["9", "8", "7", "-1"], [1.0, 0.75, 0.5, 0.25]),
        (Scale.RANK, ["9", "8", "unscored", ""], [1.0, 0.75, 0.0, 0.0]),
    ],
)  # fmt: skip
def test_score_is_the_raw_score_on_the_unit_interval(scale, raws, scores):
    assert [hit.score for hit in numbers(scale).rerank("q", raws)] == pytest.approx(scores, abs=1e-15)


def test_rank_scores_count_all_documents_not_those_kept():
    assert [hit.score for hit in numbers(Scale.RANK).rerank("q", ["1", "2", "3", "4"], top_n=2)] == [1.0, 0.75]


def test_scores_are_plain_floats():
    for hit in numbers(Scale.LOGIT).rerank("q", ["1", "2"]):
        assert (type(hit.score), type(hit.raw_score)) == (float, float)


def test_scores_of_another_scale_are_read_on_it():
    reply = Scores([0.0], scale=Scale.LOGIT, degraded="fallback")
    ranking = replying(reply, scale=Scale.PROBABILITY).rerank("q", ["a"])
    assert (ranking.scale, ranking[0].score) == (Scale.LOGIT, 0.5)


# top_n and min_score


def test_nothing_is_dropped_unless_asked():
    assert len(numbers().rerank("q", ["unscored", "", "1"])) == 3


def test_top_n_keeps_the_best():
    ranking = numbers().rerank("q", ["1", "3", "2"], top_n=2)
    assert ranking.documents == ["3", "2"]
    assert ranking.total == 3


def test_top_n_may_exceed_the_documents():
    assert numbers().rerank("q", ["1", "3"], top_n=50).documents == ["3", "1"]


def test_top_n_is_told_to_the_backend():
    fake = FakeBackend()
    Reranker(fake).rerank("q", ["a"], top_n=3)
    asyncio.run(Reranker(fake).arerank("q", ["a"], top_n=4))
    assert [call.top_n for call in fake.calls] == [3, 4]


class WholeNumber:
    """What a numeric package calls a whole number."""

    def __index__(self):
        return 2


def test_top_n_takes_whole_numbers_of_other_types():
    assert len(numbers().rerank("q", ["1", "2", "3"], top_n=WholeNumber())) == 2


@both
@pytest.mark.parametrize(
    ("top_n", "error"),
    [(0, ValueError), (-1, ValueError), ("3", TypeError), (True, TypeError), (2.0, TypeError)],
)
def test_any_other_top_n_is_refused(how, top_n, error):
    reranker = numbers()
    with pytest.raises(error, match="top_n must be"):
        asked(reranker, how, "q", ["1"], top_n=top_n)
    assert reranker.backend.calls == []


def test_min_score_keeps_what_reaches_it_and_says_so():
    ranking = numbers(Scale.PROBABILITY).rerank("q", ["0.5", "0.75", "0.25", "unscored"], min_score=0.5)
    assert ranking.documents == ["0.75", "0.5"]
    assert (ranking.min_score, ranking.total) == (0.5, 4)
    assert numbers().rerank("q", ["1"]).min_score is None


def test_min_score_is_on_the_normalised_score():
    assert numbers(Scale.LOGIT).rerank("q", ["-1", "1"], min_score=0.5).documents == ["1"]


def test_min_score_comes_before_top_n():
    ranking = numbers(Scale.PROBABILITY).rerank("q", ["0.1", "0.9", "0.8", "0.7"], min_score=0.75, top_n=3)
    assert ranking.documents == ["0.9", "0.8"]


def test_min_score_zero_keeps_the_unscored():
    assert len(numbers(Scale.PROBABILITY).rerank("q", ["unscored", "0.5"], min_score=0)) == 2


@pytest.mark.parametrize("scale", [Scale.RANK, Scale.UNKNOWN])
def test_min_score_is_refused_where_scores_are_only_an_order(scale):
    reranker = numbers(scale)
    with pytest.raises(ValueError, match=r"'fake' .* only an order: use top_n"):
        reranker.rerank("q", ["1"], min_score=0.5)
    assert reranker.backend.calls == []


@pytest.mark.parametrize(
    ("min_score", "error"),
    [(-0.1, ValueError), (1.1, ValueError), (math.nan, ValueError), ("0.5", TypeError), (True, TypeError)],
)
def test_any_other_min_score_is_refused(min_score, error):
    with pytest.raises(error, match="min_score"):
        numbers(Scale.PROBABILITY).rerank("q", ["0.5"], min_score=min_score)


def test_min_score_is_not_applied_to_the_input_order(caplog):
    reranker = Reranker(FakeBackend(error=BackendError("no")), on_error="input_order")
    ranking = reranker.rerank("q", ["a", "b"], min_score=0.5, top_n=1)
    assert (ranking.documents, ranking.min_score, ranking.degraded) == (["a"], None, "input_order")
    assert "min_score=0.5 is not applied: the result is degraded to 'input_order'" in caplog.text


def test_min_score_is_not_applied_to_a_fallback(caplog):
    reply = Scores([0.1, 0.2], degraded="fallback", scale=Scale.RANK)
    ranking = replying(reply, scale=Scale.PROBABILITY).rerank("q", ["a", "b"], min_score=0.9)
    assert (ranking.documents, ranking.min_score) == (["b", "a"], None)
    assert "min_score=0.9 is not applied" in caplog.text


@pytest.mark.parametrize("degraded", ["deadline", "incomplete"])
def test_min_score_keeps_what_a_degraded_result_did_not_get_to(degraded):
    reply = Scores([0.1, 0.95, None], degraded=degraded)
    ranking = replying(reply, scale=Scale.PROBABILITY).rerank("q", letters(3), min_score=0.9)
    assert (ranking.documents, ranking.min_score) == (["b", "c"], 0.9)


def test_min_score_drops_what_the_backend_declined_to_score():
    ranking = replying(Scores([0.95, None]), scale=Scale.PROBABILITY).rerank("q", letters(2), min_score=0.9)
    assert ranking.documents == ["a"]


def test_min_score_is_not_applied_to_scores_that_came_as_an_order(caplog):
    ranking = replying(Scores([1, 2], scale=Scale.RANK), scale=Scale.PROBABILITY).rerank("q", letters(2), min_score=0.9)
    assert (ranking.documents, ranking.min_score) == (["b", "a"], None)
    assert "min_score=0.9 is not applied: the result is only an order" in caplog.text


# Documents


@pytest.mark.parametrize(
    "kind", [list, tuple, iter, lambda items: map(str, items), lambda items: dict(enumerate(items)).values()]
)
def test_documents_may_be_any_ordered_iterable(kind):
    assert numbers().rerank("q", kind(["1", "3", "2"])).documents == ["3", "2", "1"]


@both
@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ("one text", "documents is one str; pass a list"),
        (b"one text", "documents is one bytes; pass a list"),
        ({"a": "b"}, "documents must be an ordered iterable, such as a list, not dict"),
        ({"a"}, "not set"),
        ({"a": "b"}.keys(), "not dict_keys"),
        (None, "not NoneType"),
        (7, "not int"),
    ],
)
def test_documents_of_another_kind_are_refused(how, documents, said):
    with pytest.raises(TypeError, match=said):
        asked(numbers(), how, "q", documents)


@pytest.mark.parametrize(
    ("documents", "key", "said"),
    [
        (["1", None], None, "document 1 is NoneType, not a string; remove it"),
        (["1", {"text": "2"}], None, "document 1 is dict, not a string; pass key=, a function that returns its text"),
        (["1", b"2"], None, "document 1 is bytes, not a string; pass key="),
        ([{"text": "1"}], "text", r"key must be a function of a document, such as lambda d: d\['text'\], not str"),
        ([{"text": "1"}, {"text": None}], lambda d: d["text"], "key returned NoneType for document 1, not a string"),
    ],
)
def test_a_document_without_a_text_is_named(documents, key, said):
    reranker = numbers()
    with pytest.raises(TypeError, match=said):
        reranker.rerank("q", documents, key=key)
    assert reranker.backend.calls == []


def test_a_key_that_raises_is_heard():
    with pytest.raises(KeyError, match="text"):
        numbers().rerank("q", [{}], key=lambda d: d["text"])


@both
def test_key_gives_the_text_and_the_documents_come_back_themselves(how):
    documents = [{"text": "1", "inner": [1]}, {"text": "2", "inner": []}, {"text": "", "inner": [3]}]
    before = json.dumps(documents)
    ranking = asked(numbers(), how, "q", documents, key=lambda d: d["text"])
    assert [hit.text for hit in ranking] == ["2", "1", ""]
    assert all(hit.document is documents[hit.index] for hit in ranking)
    assert json.dumps(documents) == before


def test_the_list_of_documents_stays_as_it_was():
    documents = ["1", "3", "2"]
    numbers().rerank("q", documents, top_n=1)
    assert documents == ["1", "3", "2"]


def test_duplicates_are_kept():
    assert numbers().rerank("q", ["1", "2", "1"]).documents == ["2", "1", "1"]


@both
def test_no_documents_ask_nothing(how):
    reranker = numbers()
    ranking = asked(reranker, how, "q", [], top_n=3)
    assert (len(ranking), ranking.total, ranking.usage, ranking.backend) == (0, 0, Usage(), "fake")
    assert reranker.backend.calls == []


@both
@pytest.mark.parametrize("documents", [[], ["1"]])
def test_a_blank_query_is_refused_even_without_documents(how, documents):
    with pytest.raises(ValueError, match="query is blank"):
        asked(numbers(), how, " \n", documents)


# What a ranking says of how it came about


@both
def test_a_ranking_tells_what_the_scores_tell(how):
    attempts = (Attempt("first", "x", "no"), Attempt("fake", "word-overlap"))
    details = [{"window": 1}, None]
    reply = Scores([1, 2], None, details, Usage(calls=2), truncated=1, degraded="fallback", attempts=attempts)
    ranking = asked(replying(reply), how, "the query", letters(2))
    assert (ranking.query, ranking.backend, ranking.model) == ("the query", "fake", "word-overlap")
    assert (ranking.usage, ranking.truncated, ranking.degraded) == (Usage(calls=2), 1, "fallback")
    assert ranking.attempts == attempts
    assert [hit.details for hit in ranking] == [None, {"window": 1}]
    assert ranking.elapsed_ms > 0


def test_arerank_returns_what_rerank_returns():
    reranker = numbers(Scale.LOGIT)
    rankings = [
        asked(reranker, how, "q", ["0", "unscored", "-9", "9"], top_n=3, min_score=0.25, key=lambda d: d)
        for how in ("rerank", "arerank")
    ]
    assert rankings[0].documents == ["9", "0"]
    assert replace(rankings[0], elapsed_ms=0) == replace(rankings[1], elapsed_ms=0)


def test_a_ranking_survives_pickling():
    ranking = numbers().rerank("q", ["1", "2"])
    assert pickle.loads(pickle.dumps(ranking)) == ranking


# Errors


@both
def test_a_backend_error_is_raised_by_default(how):
    error = BackendError("no")
    with pytest.raises(BackendError) as caught:
        asked(Reranker(FakeBackend(error=error)), how, "q", ["a"])
    assert caught.value is error


@both
@pytest.mark.parametrize("error", [BackendError("no"), DeadlineError("late"), RuntimeError(SECRET)])
def test_input_order_returns_the_documents_as_they_came(how, error, caplog):
    reranker = Reranker(FakeBackend(error=error), on_error="input_order")
    ranking = asked(reranker, how, "q", ["a", "", "c"], top_n=2)
    assert ranking.documents == ["a", ""]
    assert [(hit.score, hit.raw_score) for hit in ranking] == [(0.0, None)] * 2
    assert (ranking.degraded, ranking.total) == ("input_order", 3)
    (attempt,) = ranking.attempts
    assert (attempt.backend, attempt.model) == ("fake", "word-overlap")
    assert attempt.error.startswith(f"{'BackendError' if type(error) is RuntimeError else type(error).__name__}: ")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "the input order stands" in caplog.text


@both
def test_a_wrong_reply_counts_as_a_backend_error(how):
    with pytest.raises(ReplyError):
        asked(replying([1, 2]), how, "q", ["a"])
    assert asked(replying([1, 2], on_error="input_order"), how, "q", ["a"]).degraded == "input_order"


@both
@pytest.mark.parametrize("error", [MissingDependencyError("b", ["p"], "pip install p"), KeyboardInterrupt()])
def test_input_order_never_hides_a_mistake_in_the_installation(how, error):
    class Broken(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            raise error

    with pytest.raises(type(error)):
        asked(Reranker(Broken(), on_error="input_order"), how, "q", ["a"])


@both
def test_input_order_never_hides_a_bad_argument(how):
    with pytest.raises(TypeError):
        asked(numbers(on_error="input_order"), how, "q", [None])


@both
def test_no_message_holds_what_the_backend_quoted(how, caplog):
    broken = FakeBackend(error=Exception(SECRET))
    with pytest.raises(BackendError) as caught:
        asked(Reranker(broken), how, SECRET, [SECRET])
    assert SECRET not in str(caught.value)
    ranking = asked(Reranker(broken, on_error="input_order"), how, SECRET, [SECRET])
    assert SECRET not in str(ranking.attempts) + caplog.text


# A fallback


def failing(name="first"):
    return FakeBackend(name=name, model="m", error=BackendError("no"))


@both
@pytest.mark.parametrize(
    "fallback",
    [FakeBackend(), [FakeBackend()], [failing("second"), FakeBackend()], (failing("second"), FakeBackend())],
)
def test_a_fallback_answers_where_the_backend_fails(how, fallback):
    ranking = asked(Reranker(failing(), fallback=fallback), how, "red", ["blue", "red"])
    assert (ranking.documents, ranking.backend, ranking.degraded) == (["red", "blue"], "fake", "fallback")


@both
def test_a_fallback_is_not_asked_without_need(how):
    spare = failing("spare")
    ranking = asked(Reranker(FakeBackend(), fallback=spare), how, "red", ["blue", "red"])
    assert (ranking.backend, ranking.degraded, spare.calls) == ("fake", None, [])


def test_a_fallback_may_be_named_and_the_options_are_the_backends():
    reranker = Reranker("embedded", max_tokens=64, fallback="cross-encoder:some/model")
    first, second = reranker.backend.backends
    assert (first.name, first.max_tokens, second.model) == ("embedded", 64, "some/model")
    assert repr(reranker) == f"Reranker('fallback', model='embedded:{first.model} > cross-encoder:some/model')"


@pytest.mark.parametrize("none", [None, [], ()])
def test_without_a_fallback_the_backend_is_the_backend_itself(none):
    fake = FakeBackend()
    assert Reranker(fake, fallback=none).backend is fake


@pytest.mark.parametrize(
    "fallback", [7, b"minilm", {"minilm": 0.5}, {FakeBackend()}, FakeBackend, Reranker(FakeBackend())]
)
def test_a_fallback_of_another_kind_is_refused(fallback):
    with pytest.raises(TypeError, match=r"fallback must be a name, a rerankx\.Backend or a list of them, not"):
        Reranker(FakeBackend(), fallback=fallback)


def test_a_threshold_is_the_backends_and_not_the_fallbacks(caplog):
    ranking = Reranker(failing(), fallback=FakeBackend()).rerank("red", ["blue", "red"], min_score=0.5)
    assert (len(ranking), ranking.min_score) == (2, None)
    assert "min_score=0.5 is not applied" in caplog.text


@both
def test_the_input_order_is_what_is_left_where_the_fallback_fails_too(how):
    reranker = Reranker(failing(), fallback=failing("second"), on_error="input_order")
    ranking = asked(reranker, how, "red", ["blue", "red"])
    assert (ranking.documents, ranking.degraded) == (["blue", "red"], "input_order")
    assert ranking.attempts == (
        Attempt("first", "m", "BackendError: no"),
        Attempt("second", "m", "BackendError: no"),
    )


@both
def test_with_a_deadline_the_backend_may_use_half_of_it(how):
    left = []
    fake = FakeBackend(score=lambda query, text: left.append(remaining_s()))
    asked(Reranker(fake, fallback=FakeBackend(), deadline_s=600), how, "q", ["a"])
    assert 290 < left[0] <= 300


def test_of_several_that_answered_none_is_named():
    attempts = (Attempt("stage1", "m"), Attempt("stage2", "m"))
    ranking = replying(Scores([1], attempts=attempts)).rerank("q", ["a"])
    assert (ranking.backend, ranking.attempts) == ("fake", attempts)


# on_ranking


@both
def test_on_ranking_gets_every_ranking_before_it_is_returned(how):
    seen = []
    reranker = numbers(on_ranking=seen.append)
    first, second = (asked(reranker, how, "q", documents) for documents in (["1", "2"], []))
    assert seen[0] is first
    assert seen[1] is second


def test_on_ranking_sees_degraded_rankings_too():
    seen = []
    Reranker(FakeBackend(error=BackendError("no")), on_error="input_order", on_ranking=seen.append).rerank("q", ["a"])
    assert [ranking.degraded for ranking in seen] == ["input_order"]


@both
def test_on_ranking_that_raises_is_logged_and_stops_nothing(how, caplog):
    def broken(ranking):
        raise RuntimeError("in the callback")

    assert asked(numbers(on_ranking=broken), how, "q", ["1", "2"]).documents == ["2", "1"]
    assert "in the callback" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


# Deadline


@both
@pytest.mark.parametrize("seconds", [60, 60.0, Decimal(60)])
def test_the_backend_sees_the_deadline(how, seconds):
    left = []
    fake = FakeBackend(score=lambda query, text: left.append(remaining_s()))
    asked(Reranker(fake, deadline_s=seconds), how, "q", ["a"])
    assert 59 < left[0] <= 60
    assert remaining_s() is None


def test_without_a_deadline_nothing_bounds_the_backend():
    left = []
    Reranker(FakeBackend(score=lambda query, text: left.append(remaining_s()))).rerank("q", ["a"])
    assert left == [None]


# The constructor


@pytest.mark.parametrize(
    ("seconds", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (math.inf, ValueError),
        (math.nan, ValueError),
        ("3", TypeError),
        (True, TypeError),
    ],
)
def test_a_deadline_that_is_no_number_of_seconds_is_refused(seconds, error):
    with pytest.raises(error, match="deadline_s must be a number of seconds above 0"):
        Reranker(FakeBackend(), deadline_s=seconds)


def test_a_data_frame_is_refused_before_its_column_names_are_ranked():
    frame = type("DataFrame", (list,), {})(["title", "body"])
    with pytest.raises(TypeError, match="documents is a DataFrame; pass one of its columns"):
        Reranker(FakeBackend()).rerank("q", frame)


@pytest.mark.parametrize("on_error", ["ignore", None, True])
def test_another_on_error_is_refused(on_error):
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'input_order'"):
        Reranker(FakeBackend(), on_error=on_error)


def test_on_ranking_must_be_callable():
    with pytest.raises(TypeError, match="on_ranking must be callable, not str"):
        Reranker(FakeBackend(), on_ranking="print")


@pytest.mark.parametrize("name", ["top_n", "min_score", "key"])
def test_arguments_of_rerank_are_pointed_to_it(name):
    with pytest.raises(TypeError, match=rf"{name} is an argument of rerank\(\), not of Reranker\(\)"):
        Reranker("embedded", **{name: 3})


@pytest.mark.parametrize("backend", [None, FakeBackend, 7])
def test_a_backend_is_a_name_or_a_backend(backend):
    with pytest.raises(TypeError, match=r"backend must be a name or a rerankx\.Backend, not"):
        Reranker(backend)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "m"}, "model given with a FakeBackend object"),
        ({"b": 1, "a": 2, "model": "m"}, "model, a, b given with"),
    ],
)
def test_options_go_with_a_name_only(given, said):
    with pytest.raises(TypeError, match=said):
        Reranker(FakeBackend(), **given)


def test_repr_names_backend_and_model():
    assert repr(Reranker(FakeBackend())) == "Reranker('fake', model='word-overlap')"


# Many at once


def test_16_threads_share_one_reranker():
    reranker, together = numbers(), threading.Barrier(16)

    def run(i):
        together.wait(timeout=60)
        return reranker.rerank(f"q{i}", [str(k) for k in range(i + 1)])

    with ThreadPoolExecutor(16) as pool:
        rankings = list(pool.map(run, range(16)))
    for i, ranking in enumerate(rankings):
        assert (ranking.query, ranking.documents) == (f"q{i}", [str(k) for k in range(i, -1, -1)])


def test_rerank_works_inside_a_running_event_loop():
    async def main():
        return numbers().rerank("q", ["1", "2"])

    assert asyncio.run(main()).documents == ["2", "1"]


def test_the_scale_that_a_threshold_needs_is_not_looked_up_in_the_event_loop():
    class Fetching(FakeBackend):
        @property
        def scale(self):
            asked.append(threading.current_thread() is threading.main_thread())
            return Scale.PROBABILITY

        @scale.setter
        def scale(self, value):
            pass

    asked = []
    asyncio.run(Reranker(Fetching()).arerank("q", ["a"], min_score=0.0))
    assert asked[0] is False


def test_arerank_leaves_the_event_loop_free():
    freed = threading.Event()
    reranker = Reranker(FakeBackend(score=lambda query, text: float(freed.wait(timeout=30))))

    async def main():
        # Set by the loop, awaited by the scoring: blocked, it would time out and score 0.
        asyncio.get_running_loop().call_soon(freed.set)
        return await reranker.arerank("q", ["a"])

    assert asyncio.run(main())[0].raw_score == 1.0


def test_one_reranker_serves_one_event_loop_after_another():
    reranker = numbers()
    for _ in range(3):
        assert asyncio.run(reranker.arerank("q", ["1", "2"])).documents == ["2", "1"]


def test_rerank_many_ranks_each_query_with_its_own_documents():
    fake = FakeBackend()
    rankings = Reranker(fake).rerank_many(
        ["red apple", "sea"], [["blue", "red"], iter(["hill", "sea", "lake"])], top_n=1
    )
    assert [ranking.query for ranking in rankings] == ["red apple", "sea"]
    assert [ranking.documents for ranking in rankings] == [["red"], ["sea"]]
    assert [(call.query, call.top_n) for call in fake.calls] == [("red apple", 1), ("sea", 1)]


def test_rerank_many_takes_key_and_min_score():
    documents = [("a", "0.2"), ("b", "0.9")]
    (ranking,) = numbers(Scale.PROBABILITY).rerank_many(["q"], [documents], key=lambda d: d[1], min_score=0.5)
    assert ranking.documents == [("b", "0.9")]


def test_rerank_many_reads_each_text_once():
    read = []
    numbers().rerank_many(["q"], [["1", "2"]], key=lambda d: read.append(d) or d)
    assert read == ["1", "2"]


@pytest.mark.parametrize(
    ("queries", "documents", "more", "error", "said"),
    [
        (["q", " "], [["1"], ["2"]], {}, ValueError, "query is blank"),
        (["q", "q"], [["1"], [None]], {}, TypeError, "document 0 is NoneType"),
        (["q", "q"], [["1"], "2"], {}, TypeError, "documents is one str"),
        (["q", "q"], [["1"]], {}, ValueError, "one list per query: 2 queries, 1 lists"),
        ("q", [["1"]], {}, TypeError, "queries is one string"),
        (["q"], [["1"]], {"top_n": 0}, ValueError, "top_n"),
        (["q"], [["1"]], {"min_score": 0.5}, ValueError, "only an order"),
    ],
)
def test_rerank_many_checks_everything_before_it_scores_anything(queries, documents, more, error, said):
    reranker = numbers()
    with pytest.raises(error, match=said):
        reranker.rerank_many(queries, documents, **more)
    assert reranker.backend.calls == []


def test_rerank_many_of_nothing_is_nothing():
    assert numbers().rerank_many([], []) == []


# Laws

raw = st.none() | st.floats(-50, 50)


def ranked(values, scale=Scale.LOGIT):
    """Return the ranking of documents 0, 1, ... whose raw scores are `values`."""
    fake = FakeBackend(score=lambda query, text: values[int(text)], scale=scale)
    return Reranker(fake).rerank("q", list(range(len(values))), key=str)


@given(st.lists(raw))
def test_nothing_is_lost_and_nothing_is_added(values):
    ranking = ranked(values)
    assert sorted(hit.index for hit in ranking) == list(range(len(values)))
    assert [hit.rank for hit in ranking] == list(range(1, len(values) + 1))


@given(st.lists(raw, min_size=1), st.randoms(use_true_random=False))
def test_a_score_follows_its_document(values, random):
    shuffled = list(range(len(values)))
    random.shuffle(shuffled)
    fake = FakeBackend(score=lambda query, text: values[int(text)], scale=Scale.LOGIT)
    for hit in Reranker(fake).rerank("q", shuffled, key=str):
        assert hit.raw_score == values[hit.document]
        assert hit.document == shuffled[hit.index]


@given(st.lists(raw), st.sampled_from([Scale.LOGIT, Scale.similarity(-50, 50), Scale.RANK, Scale.UNKNOWN]))
def test_the_score_never_rises_down_the_ranking(values, scale):
    scores = [hit.score for hit in ranked(values, scale)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


@given(st.lists(st.sampled_from([None, 0.0, -0.0, 1.0])))
def test_ties_are_stable(values):
    hits = list(ranked(values))
    for one, other in pairwise(hits):
        if one.raw_score == other.raw_score:
            assert one.index < other.index


@given(st.lists(st.floats(0, 1)), st.integers(1, 10), st.floats(0, 1))
def test_top_n_and_min_score_keep_the_head_of_the_full_ranking(values, top_n, min_score):
    reranker = numbers(Scale.PROBABILITY)
    texts = [repr(value) for value in values]
    everything = reranker.rerank("q", texts)
    kept = reranker.rerank("q", texts, top_n=top_n, min_score=min_score)
    assert isinstance(kept, Ranking)
    assert list(kept) == [hit for hit in everything if hit.score >= min_score][:top_n]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"top_n": 0}, ValueError),
        ({"top_n": "3"}, TypeError),
        ({"min_score": 2}, ValueError),
        ({"min_score": 0.5}, ValueError),
    ],
)
def test_check_refuses_what_rerank_would_refuse(arguments, error):
    reranker = Reranker(FakeBackend(scale=Scale.RANK))
    with pytest.raises(error) as early:
        reranker.check(**arguments)
    with pytest.raises(error) as late:
        reranker.rerank("q", ["a"], **arguments)
    assert str(early.value) == str(late.value)


def test_check_takes_what_rerank_takes():
    Reranker(FakeBackend()).check(top_n=1, min_score=0.5)
