import copy
import logging
import math
import pickle
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import Backend, Hit, Ranking, Reranker, Scale, after
from rerankx.after import drop_near_duplicates, fill_budget, lost_in_the_middle, mmr
from rerankx.backends.embedded import Embedded

STEPS = {
    "drop_near_duplicates": partial(drop_near_duplicates, embed=lambda texts: np.eye(len(texts))),
    "mmr": partial(mmr, embed=lambda texts: np.eye(len(texts))),
    "lost_in_the_middle": lost_in_the_middle,
    "fill_budget": partial(fill_budget, budget_tokens=10**6, count_tokens=len),
}


def ranking_of(texts, scores=None):
    """Return a ranking of the texts in this order; without scores they fall from 1 to 0."""
    n = len(texts)
    scores = [1 - i / max(n - 1, 1) for i in range(n)] if scores is None else scores
    hits = tuple(
        Hit(i + 1, 100 + i, score or 0.0, score, text, text)
        for i, (text, score) in enumerate(zip(texts, scores, strict=True))
    )
    return Ranking(hits, "q", "fake", "m", Scale.PROBABILITY, total=n)


def ranks(ranking):
    return [hit.rank for hit in ranking]


def duplicates(ranking):
    return {hit.index - 99: [i - 99 for i in hit.details["duplicates"]] for hit in ranking if hit.details}


def plane(*degrees):
    """Return an embedding that gives text "a" the first direction, "b" the second, and so on; their lengths differ."""
    angles = dict(zip("abcdefgh", degrees, strict=False))

    def embed(texts):
        return [
            [k * math.cos(math.radians(angles[t])), k * math.sin(math.radians(angles[t]))]
            for k, t in enumerate(texts, 1)
        ]

    return embed


vectors = st.lists(st.tuples(*[st.integers(-3, 3)] * 3), min_size=1, max_size=12)


@st.composite
def embedded_rankings(draw):
    """Return a ranking, among whose texts are equal and blank ones, and an embedding of them."""
    known = draw(vectors)
    texts = [f"t{i}" for i in range(len(known))]
    drawn = draw(st.lists(st.sampled_from([*texts, " ", ""]), max_size=20))
    score = st.one_of(st.none(), st.floats(0, 1))
    scores = sorted(
        draw(st.lists(score, min_size=len(drawn), max_size=len(drawn))), key=lambda s: (s is None, -(s or 0))
    )
    return ranking_of(drawn, scores), lambda asked: [known[int(text[1:])] for text in asked]


def cosine(a, b):
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return float(np.dot(a, b) / lengths) if lengths else 0.0


# drop_near_duplicates


def test_what_is_nearly_that_above_it_goes_and_the_one_that_stays_tells_of_it():
    kept = drop_near_duplicates(ranking_of("abcd"), embed=plane(0, 10, 90, 95))  # cos 10° = 0.985, cos 20° = 0.94
    assert ranks(kept) == [1, 3]
    assert duplicates(kept) == {1: [2], 3: [4]}


def test_only_those_that_stay_are_compared_with():
    kept = drop_near_duplicates(ranking_of("abc"), embed=plane(0, 15, 30))
    assert (ranks(kept), duplicates(kept)) == ([1, 3], {1: [2]})


def test_what_is_near_to_several_goes_for_the_best_of_them():
    kept = drop_near_duplicates(ranking_of("abc"), embed=plane(0, 30, 16))
    assert duplicates(kept) == {1: [3]}


def test_the_threshold_is_one_of_cosine():
    at = partial(drop_near_duplicates, ranking_of("ab"), embed=plane(0, 60))
    assert (len(at(threshold=0.499)), len(at(threshold=0.5)), len(at(threshold=0.501))) == (1, 1, 2)


def test_vectors_of_one_direction_are_equal_at_a_threshold_of_one():
    assert (
        len(drop_near_duplicates(ranking_of("ab"), threshold=1, embed=lambda _: [[0.1, 0.2, 0.7], [0.3, 0.6, 2.1]]))
        == 1
    )


def test_equal_texts_go_even_where_their_vectors_are_like_nothing_and_blank_ones_stay():
    kept = drop_near_duplicates(
        ranking_of(["x", "x", " ", "", " ", "y"]), embed=lambda texts: np.zeros((len(texts), 4))
    )
    assert (ranks(kept), duplicates(kept)) == ([1, 3, 4, 5, 6], {1: [2]})


def test_details_that_were_there_stay():
    first, *others = ranking_of(["x", "x"]).hits
    first = Hit(1, 0, 1.0, 1.0, "x", "x", {"window": 3})
    before = Ranking((first, *others), "q", "fake", "m", Scale.PROBABILITY, total=2)
    assert drop_near_duplicates(before)[0].details == {"window": 3, "duplicates": [101]}
    assert first.details == {"window": 3}


def test_a_second_pass_keeps_what_the_first_one_told():
    first = drop_near_duplicates(ranking_of("abc"), embed=plane(0, 10, 25), threshold=0.98)
    assert duplicates(first) == {1: [2]}
    second = drop_near_duplicates(first, embed=plane(0, 10, 25), threshold=0.9)
    assert duplicates(second) == {1: [2, 3]}
    lower_first = drop_near_duplicates(first[::-1], embed=plane(0, 10, 25), threshold=0.9)
    assert duplicates(lower_first) == {3: [1, 2]}


def test_hits_that_stay_as_they_are_are_the_same_objects():
    before = ranking_of("abc")
    kept = drop_near_duplicates(before, embed=plane(0, 90, 91))
    assert kept[0] is before[0]
    assert kept[1] is not before[1]
    assert before[1].details is None


@given(embedded_rankings(), st.floats(0.05, 1))
def test_each_hit_stays_or_is_named_once_by_one_that_it_is_near_to(case, threshold):
    ranking, embed = case
    kept = drop_near_duplicates(ranking, threshold=threshold, embed=embed)
    named = [i for hit in kept for i in (hit.details or {}).get("duplicates", [])]
    assert sorted([*(hit.index for hit in kept), *named]) == [hit.index for hit in ranking]
    assert ranks(kept) == sorted(ranks(kept))
    by_index = {hit.index: hit for hit in ranking}
    for hit in kept:
        for i in (hit.details or {}).get("duplicates", []):
            gone = by_index[i]
            assert gone.rank > hit.rank
            assert gone.text == hit.text or cosine(*embed([gone.text, hit.text])) >= threshold - 1e-6
    there = [hit for hit in kept if hit.text.strip()]
    for i, a in enumerate(there):
        for b in there[:i]:
            assert a.text != b.text
            assert cosine(*embed([a.text, b.text])) < threshold + 1e-6
    assert drop_near_duplicates(kept, threshold=threshold, embed=embed) == kept


def test_the_embedded_encoder_knows_the_same_said_twice():
    texts = ["Refunds take five days.", "The museum is closed on Mondays.", "refunds take five days"]
    assert ranks(drop_near_duplicates(ranking_of(texts))) == [1, 2]


def test_long_texts_that_differ_behind_what_the_encoder_reads_both_stay():
    head = "The general terms of this contract apply to all deliveries of goods. " * 25
    tails = [
        "Cats sleep sixteen hours a day and hunt mice at dawn. " * 40,
        "Interest rates rose as inflation went up. " * 40,
    ]
    long = ranking_of([head + tail for tail in tails])
    assert len(drop_near_duplicates(long, embed=Embedded().embed)) == 1  # it reads the head alone
    assert len(drop_near_duplicates(long)) == 2
    assert len(drop_near_duplicates(ranking_of([head + tails[0], head + tails[0].upper()]))) == 1


def test_a_few_words_at_the_end_of_a_long_text_weigh_little():
    head = "The terms of this contract apply to all goods. " * 25
    assert len(Embedded().token_spans(head)) == 250  # what is behind it is a part of its own
    assert len(drop_near_duplicates(ranking_of([head, head + "Cats sleep."]))) == 1


def test_a_long_text_is_the_mean_of_its_parts_by_their_tokens(monkeypatch):
    read = []

    class Words:
        """Each part points in a direction of its own."""

        def token_spans(self, text):
            return [(i, i + 2) for i in range(0, len(text), 3)]

        def embed(self, parts):
            read.extend(parts)
            return np.eye(len(parts))

    monkeypatch.setattr(after, "_embedded", Words)
    words = [f"{i:02}" for i in range(100)] * 6
    vectors = after._embedded_vectors([" ".join(words), "short"])
    assert read == [" ".join(words[:250]), " ".join(words[250:500]), " ".join(words[500:]), "short"]
    assert vectors.tolist() == [[250, 250, 100, 0], [0, 0, 0, 2]]


def test_texts_without_a_token_are_alike():
    nothing = ["\u200b", "\u200b\u200b"]
    assert [len(Embedded().token_spans(text)) for text in nothing] == [0, 0]
    assert ranks(drop_near_duplicates(ranking_of([*nothing, "Cats sleep."]))) == [1, 3]


# mmr


def test_the_second_is_one_that_is_not_like_the_first():
    ranking = ranking_of("abc", [1.0, 0.9, 0.5])
    assert ranks(mmr(ranking, embed=plane(0, 5, 90), balance=0.5)) == [1, 3, 2]
    assert ranks(mmr(ranking, embed=plane(0, 5, 90), balance=0.9)) == [1, 2, 3]


def test_relevance_is_stretched_over_the_ranking():
    close, far = ranking_of("abc", [0.52, 0.51, 0.50]), ranking_of("abc", [1.0, 0.5, 0.0])
    for balance in (0.3, 0.5, 0.7):
        assert ranks(mmr(close, balance=balance, embed=plane(0, 5, 90))) == ranks(
            mmr(far, balance=balance, embed=plane(0, 5, 90))
        )


def test_worked_by_hand():
    # rel 1, .8, .4, 0; after a: b .5*.8-.5*cos 30 = -.033, c .5*.4-.5*cos 60 = -.05, d 0-.5*cos 90 = 0
    # after a, d: b: max(cos 30, cos 60) stays, c: max(cos 60, cos 30) -> .2-.433
    assert ranks(mmr(ranking_of("abcd", [1, 0.8, 0.4, 0]), balance=0.5, embed=plane(0, 30, 60, 90))) == [1, 4, 2, 3]


def test_what_is_the_opposite_of_all_before_gains_by_it():
    assert ranks(mmr(ranking_of("abc", [1.0, 0.6, 0.0]), balance=0.5, embed=plane(0, 90, 180))) == [1, 3, 2]


def test_unscored_hits_stay_last_and_blank_ones_are_like_nothing():
    ranking = ranking_of(["a", "a", " ", "b", "c"], [0.9, 0.8, 0.7, None, None])
    assert ranks(mmr(ranking, balance=0.5, embed=plane(0, 0, 0))) == [1, 3, 2, 4, 5]


def test_of_equals_the_one_that_stood_first_is_next():
    assert ranks(mmr(ranking_of("aaaa", [0.5] * 4), embed=plane(0))) == [1, 2, 3, 4]


@given(embedded_rankings(), st.floats(0, 1), st.integers(1, 20))
def test_mmr_loses_nothing_and_a_cut_is_the_beginning_of_the_whole(case, balance, top_n):
    ranking, embed = case
    whole = mmr(ranking, balance=balance, embed=embed)
    assert sorted(map(id, whole)) == sorted(map(id, ranking))
    assert mmr(ranking, top_n, balance=balance, embed=embed) == whole[:top_n]
    assert [hit.raw_score is None for hit in whole] == [hit.raw_score is None for hit in ranking]
    assert whole[:1] == ranking[:1]


@given(embedded_rankings())
def test_a_balance_of_one_changes_nothing(case):
    assert mmr(case[0], balance=1, embed=case[1]) == case[0]


@given(embedded_rankings(), st.floats(0, 1))
def test_each_place_has_the_best_gain_of_those_left(case, balance):
    ranking, embed = case
    order = [hit for hit in mmr(ranking, balance=balance, embed=embed) if hit.raw_score is not None]
    scores = [hit.score for hit in order]
    span = (max(scores) - min(scores)) or 1 if scores else 1

    def like(a, b):
        return cosine(*embed([a.text, b.text])) if a.text.strip() and b.text.strip() else 0.0

    def gain(hit, before):
        return balance * (hit.score - min(scores)) / span - (1 - balance) * max(
            (like(hit, one) for one in before), default=0
        )

    for i, hit in enumerate(order):
        assert gain(hit, order[:i]) >= max(gain(other, order[:i]) for other in order[i:]) - 1e-6


# lost_in_the_middle


def test_the_best_stand_at_both_ends():
    assert ranks(lost_in_the_middle(ranking_of("abcdef"))) == [1, 3, 5, 6, 4, 2]
    assert ranks(lost_in_the_middle(ranking_of("abcde"))) == [1, 3, 5, 4, 2]


def test_it_is_cut_before():
    assert ranks(lost_in_the_middle(ranking_of("abcdef"), 3)) == [1, 3, 2]


@given(st.integers(0, 30), st.integers(1, 40))
def test_the_best_are_kept_and_stand_nearer_to_an_end(n, top_n):
    there = lost_in_the_middle(ranking_of(["x"] * n), top_n)
    assert sorted(ranks(there)) == list(range(1, min(n, top_n) + 1))
    to_the_end = {hit.rank: min(i, len(there) - 1 - i) for i, hit in enumerate(there)}
    assert [to_the_end[rank] for rank in sorted(to_the_end)] == sorted(to_the_end.values())


# fill_budget


def fitted(texts, budget, top_n=None):
    return ranks(fill_budget(ranking_of(texts), top_n, budget_tokens=budget, count_tokens=len))


def test_what_does_not_fit_is_passed_over_and_the_next_may_fit():
    assert fitted(["aaa", "bbbb", "c", "d", "e"], 5) == [1, 3, 4]


def test_no_more_than_top_n_are_taken():
    assert fitted(["aaa", "bbbb", "c", "d", "e"], 6, 2) == [1, 3]


def test_nothing_that_fits_is_said(caplog):
    with caplog.at_level(logging.WARNING, "rerankx"):
        assert fitted(["aaa", "bbbb"], 2) == []
        assert "none of 2 texts fits into budget_tokens=2" in caplog.text
        caplog.clear()
        assert fitted([], 2) == []
        assert not caplog.text


def test_tokens_are_the_embedded_encoders_word_pieces_by_default():
    text = "Unbelievably internationalised, isn't it?"
    n = len(Embedded().token_spans(text))
    assert n > 3
    assert len(fill_budget(ranking_of([text]), budget_tokens=n)) == 1
    assert len(fill_budget(ranking_of([text]), budget_tokens=n - 1)) == 0


@given(st.lists(st.integers(0, 9)), st.integers(1, 40), st.none() | st.integers(1, 10))
def test_what_is_taken_fits_and_what_is_passed_over_did_not(sizes, budget, top_n):
    taken = fitted(["x" * size for size in sizes], budget, top_n)
    assert taken == sorted(taken)
    assert sum(sizes[rank - 1] for rank in taken) <= budget
    last = len(sizes) if top_n is None or len(taken) < top_n else taken[-1]
    for rank in set(range(1, last + 1)).difference(taken):
        assert sum(sizes[r - 1] for r in taken if r < rank) + sizes[rank - 1] > budget


# all of them


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_what_the_ranking_says_of_itself_stays_and_so_does_the_ranking(step):
    before = ranking_of(["aa", "bb", "cc"])
    twin = copy.deepcopy(before)
    there = step(before)
    assert before == twin
    assert (there.query, there.backend, there.scale, there.total) == (before.query, "fake", before.scale, 3)
    assert pickle.loads(pickle.dumps(there)) == there


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_nothing_in_nothing_out(step):
    assert step(ranking_of([])).hits == ()


def test_no_model_is_loaded_where_there_is_nothing_to_compare():
    def embed(texts):
        raise AssertionError("asked")

    for ranking in (ranking_of([]), ranking_of(["x"]), ranking_of(["x", "x"]), ranking_of([" ", ""])):
        drop_near_duplicates(ranking, embed=embed)
    for ranking in (ranking_of([]), ranking_of(["x"]), ranking_of(["x", "y"], [None, None])):
        mmr(ranking, embed=embed)
    mmr(ranking_of("ab"), balance=1, embed=embed)


def test_each_text_is_embedded_once_and_as_a_list():
    asked = []

    def embed(texts):
        asked.append(texts)
        return np.eye(len(texts))

    ranking = ranking_of(["x", "y", " ", "x"])
    drop_near_duplicates(ranking, embed=embed)
    mmr(ranking, embed=embed)
    assert asked == [["x", "y"]] * 2


def test_an_embedding_may_do_with_its_list_what_it_likes():
    def embed(texts):
        n = len(texts)
        texts.clear()
        return np.eye(n)

    assert ranks(drop_near_duplicates(ranking_of("abc"), embed=embed)) == [1, 2, 3]
    assert ranks(mmr(ranking_of("abc"), embed=embed)) == [1, 2, 3]


def test_very_large_and_very_small_vectors_are_compared_all_the_same():
    def embed(texts):
        return [[1e300, 1e300], [1e-300, 1e-300], [1e-300, -1e-300]]

    assert ranks(drop_near_duplicates(ranking_of("abc"), embed=embed)) == [1, 3]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ([[1.0, 2.0]], r"shape \(1, 2\) for 2 texts; expected \(2, d\)"),
        ([1.0, 2.0], r"shape \(2,\) for 2 texts"),
        ([[], []], r"shape \(2, 0\)"),
        ([[1.0, 2.0], [1.0, math.nan]], "not finite for text 1 of 2"),
        ([[1.0, 2.0], [1.0]], "no array of numbers"),
        ([["a"], ["b"]], "no array of numbers"),
        (None, "shape"),
    ],
)
@pytest.mark.parametrize("step", [drop_near_duplicates, mmr])
def test_vectors_that_are_none_are_refused(step, made, words):
    with pytest.raises(ValueError, match=words):
        step(ranking_of("ab"), embed=lambda texts: made)


@pytest.mark.parametrize(
    ("step", "options", "error", "words"),
    [
        (drop_near_duplicates, {"threshold": 0}, ValueError, "threshold is a cosine above 0 and at most 1, not 0"),
        (drop_near_duplicates, {"threshold": 95}, ValueError, "not 95"),
        (drop_near_duplicates, {"threshold": math.nan}, ValueError, "not nan"),
        (drop_near_duplicates, {"threshold": "0.9"}, TypeError, "threshold must be a number, not '0.9'"),
        (
            drop_near_duplicates,
            {"embed": Embedded()},
            TypeError,
            "embed must be a function, such as embeddings.embed_documents",
        ),
        (mmr, {"balance": 1.5}, ValueError, r"balance lies in \[0, 1\]; 1.5 does not"),
        (mmr, {"balance": True}, TypeError, "balance must be a number"),
        (mmr, {"embed": "minilm"}, TypeError, "not str"),
        (mmr, {"top_n": 0}, ValueError, "top_n must be at least 1"),
        (lost_in_the_middle, {"top_n": 2.0}, TypeError, "top_n must be a whole number"),
        (fill_budget, {"budget_tokens": 0}, ValueError, "budget_tokens must be at least 1, not 0"),
        (fill_budget, {"budget_tokens": 1.5}, TypeError, "budget_tokens must be a whole number, not 1.5"),
        (fill_budget, {"budget_tokens": 9, "count_tokens": 4}, TypeError, "count_tokens must be a function"),
        (
            fill_budget,
            {"budget_tokens": 9, "count_tokens": str.split},
            TypeError,
            r"count_tokens returns must be a whole number, not \['a'\]",
        ),
        (
            fill_budget,
            {"budget_tokens": 9, "count_tokens": lambda _: -1},
            ValueError,
            "count_tokens returns must be at least 0, not -1",
        ),
    ],
)
def test_wrong_arguments_are_refused(step, options, error, words):
    with pytest.raises(error, match=words):
        step(ranking_of("ab"), **options)


def test_a_thousand_hits_of_a_real_ranking_go_through():
    reranker = Reranker()
    assert isinstance(reranker.backend, Backend)
    ranking = reranker.rerank("money", [f"passage {i % 500} about money" for i in range(1000)])
    embed = reranker.backend.embed
    kept = drop_near_duplicates(ranking, threshold=1, embed=embed)
    assert len(kept) == 500
    assert len(mmr(ranking, embed=embed)) == 1000
