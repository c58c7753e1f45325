import math
import random
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx.evaluation import (
    average_precision,
    evaluate,
    evaluate_per_query,
    hit,
    judged_fraction,
    ndcg,
    precision,
    ranked_from_scores,
    recall,
    reciprocal_rank,
)

# ir-measures 0.4.3 reads its measures' names with ast.Num, which Python 3.12 warns of.
pytestmark = pytest.mark.filterwarnings(
    r"ignore:ast\.(Num|Str|NameConstant) is deprecated:DeprecationWarning",
    r"ignore:Attribute [ns] is deprecated:DeprecationWarning",
)

JUDGED = {"a": 3, "b": 2, "c": 1, "d": 0, "e": -1}
BINARY = [average_precision, reciprocal_rank, recall, precision, hit]
ALL = [ndcg, *BINARY, judged_fraction]

# nDCG


def test_ndcg_divides_linear_gain_by_the_best_ranking_of_all_judged_documents():
    ideal = 3 + 2 / math.log2(3) + 1 / 2
    assert ndcg(["c", "a"], JUDGED) == pytest.approx((1 + 3 / math.log2(3)) / ideal, abs=1e-15)


def test_ndcg_cuts_ranking_and_ideal_at_k():
    assert ndcg(["b", "a"], JUDGED, k=1) == pytest.approx(2 / 3, abs=1e-15)


def test_ndcg_ideal_has_k_documents_even_if_fewer_were_retrieved():
    assert ndcg(["a"], JUDGED, k=2) == pytest.approx(3 / (3 + 2 / math.log2(3)), abs=1e-15)


def test_ndcg_exponential_gain_is_two_to_the_grade_minus_one():
    assert ndcg(["b"], JUDGED, k=1, gain="exponential") == pytest.approx(3 / 7, abs=1e-15)


def test_ndcg_counts_negative_grades_as_zero():
    assert ndcg(["e", "a"], {"a": 1, "e": -1}) == ndcg(["d", "a"], {"a": 1, "d": 0})


def test_ndcg_of_the_ideal_ranking_is_exactly_one():
    assert ndcg(["a", "b", "c", "d"], JUDGED) == 1.0


def test_ndcg_exponential_gain_survives_grades_beyond_the_float_range():
    assert ndcg(["b", "a"], {"a": 5001, "b": 5000}, k=1, gain="exponential") == pytest.approx(0.5)


def test_ndcg_refuses_an_unknown_gain():
    with pytest.raises(ValueError, match="gain is 'exp': expected one of linear, exponential"):
        ndcg(["a"], JUDGED, gain="exp")


def brute_force_ndcg(ranked, judged, k, gain):
    """Return nDCG with the ideal found by trying every ranking of the judged documents."""

    def dcg(documents):
        grades = [max(judged.get(document, 0), 0) for document in documents[:k]]
        return sum((2**g - 1 if gain == "exponential" else g) / math.log2(i + 2) for i, g in enumerate(grades))

    best = max(dcg(order) for order in permutations(judged))
    return dcg(ranked) / best if best else 0.0


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-2, 4), min_size=1, max_size=5),
    st.lists(st.sampled_from("abcdefghij"), unique=True),
    st.none() | st.integers(1, 8),
    st.sampled_from(["linear", "exponential"]),
)
def test_ndcg_equals_brute_force(judged, ranked, k, gain):
    assert ndcg(ranked, judged, k=k, gain=gain) == pytest.approx(brute_force_ndcg(ranked, judged, k, gain), abs=1e-12)


# Binary measures


def test_average_precision_divides_by_all_relevant_documents():
    assert average_precision(["x", "a", "b"], JUDGED) == pytest.approx((1 / 2 + 2 / 3) / 3, abs=1e-15)


def test_average_precision_ignores_what_lies_below_k():
    assert average_precision(["x", "a", "b"], JUDGED, k=2) == pytest.approx(1 / 2 / 3, abs=1e-15)


def test_reciprocal_rank_is_one_over_the_first_relevant_rank():
    assert reciprocal_rank(["x", "d", "c", "a"], JUDGED) == 1 / 3


def test_reciprocal_rank_is_zero_below_k():
    assert reciprocal_rank(["x", "d", "c"], JUDGED, k=2) == 0.0


def test_recall_divides_by_all_relevant_documents():
    assert recall(["a", "x", "b"], JUDGED, k=2) == 1 / 3


def test_recall_without_k_counts_the_whole_ranking():
    assert recall(["a", "x", "b"], JUDGED) == 2 / 3


def test_precision_divides_by_k_even_if_fewer_were_retrieved():
    assert precision(["a", "b"], JUDGED, k=5) == 2 / 5


def test_precision_counts_only_the_first_k():
    assert precision(["x", "a", "b"], JUDGED, k=2) == 1 / 2


def test_precision_needs_a_depth():
    with pytest.raises(ValueError, match="k is None: expected an int of at least 1"):
        precision(["a"], JUDGED, k=None)


@pytest.mark.parametrize(("k", "value"), [(1, 0.0), (2, 1.0), (None, 1.0)])
def test_hit_is_one_if_a_relevant_document_is_in_the_first_k(k, value):
    assert hit(["x", "c"], JUDGED, k=k) == value


@pytest.mark.parametrize(
    ("measure", "value"),
    [(average_precision, 1 / 3), (reciprocal_rank, 1 / 3), (recall, 1.0), (precision, 1 / 4), (hit, 1.0)],
)
def test_relevant_from_raises_the_bar(measure, value):
    assert measure(["c", "b", "a", "x"], JUDGED, k=4, relevant_from=3) == pytest.approx(value, abs=1e-15)


@pytest.mark.parametrize("bad", [0, -1, True, 1.0, "2"])
@pytest.mark.parametrize("measure", BINARY)
def test_relevant_from_must_be_a_positive_int(measure, bad):
    with pytest.raises(ValueError, match=rf"relevant_from is {bad!r}: expected an int of at least 1"):
        measure(["a"], JUDGED, k=1, relevant_from=bad)


# Judged


def test_judged_fraction_counts_every_grade():
    assert judged_fraction(["d", "e", "x", "a"], JUDGED, k=3) == 2 / 3


def test_judged_fraction_divides_by_what_was_retrieved():
    assert judged_fraction(["a", "x"], JUDGED, k=10) == 1 / 2


def test_judged_fraction_of_an_empty_ranking_is_zero():
    assert judged_fraction([], JUDGED, k=10) == 0.0


# What all measures share


@pytest.mark.parametrize("measure", ALL)
def test_a_document_ranked_twice_is_refused(measure):
    with pytest.raises(ValueError, match="document 'x' is ranked twice"):
        measure(["a", "x", "x"], JUDGED, k=1)


@pytest.mark.parametrize("bad", [0, -1, True, 1.0, "2"])
@pytest.mark.parametrize("measure", ALL)
def test_k_must_be_a_positive_int(measure, bad):
    with pytest.raises(ValueError, match=rf"^k is {bad!r}: expected an int of at least 1"):
        measure(["a"], JUDGED, k=bad)


@pytest.mark.parametrize("judged", [{}, {"a": 0}, {"a": -1}])
@pytest.mark.parametrize("measure", [ndcg, *BINARY])
def test_a_query_with_nothing_relevant_gives_zero(measure, judged):
    assert measure(["a"], judged, k=1) == 0.0


@pytest.mark.parametrize(("ranked", "kind"), [("abc", "str"), ({"a": 0.1}, "dict")])
@pytest.mark.parametrize("measure", ALL)
def test_a_ranking_that_is_no_sequence_of_ids_is_refused(measure, ranked, kind):
    with pytest.raises(ValueError, match=f"a ranking is a {kind}: expected a sequence of document ids"):
        measure(ranked, JUDGED, k=1)


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(-2, 60), max_size=8),
    st.permutations("abcdefghij"),
    st.integers(1, 12),
    st.sampled_from(ALL),
)
def test_every_measure_lies_between_zero_and_one(judged, ranked, k, measure):
    assert 0.0 <= measure(ranked, judged, k=k) <= 1.0


# ranked_from_scores


def test_ranked_from_scores_puts_the_highest_score_first():
    assert ranked_from_scores({"a": -1.0, "b": 3, "c": 0.5}) == ["b", "c", "a"]


def test_ranked_from_scores_breaks_ties_by_id_descending():
    assert ranked_from_scores({"a": 1.0, "c": 1.0, "b": 1.0}) == ["c", "b", "a"]


def test_ranked_from_scores_ties_what_single_precision_cannot_tell_apart():
    assert ranked_from_scores({"a": 1 + 1e-8, "b": 1.0}) == ["b", "a"]


def test_ranked_from_scores_keeps_apart_what_single_precision_can():
    assert ranked_from_scores({"a": 1 + 2e-7, "b": 1.0}) == ["a", "b"]


def test_ranked_from_scores_refuses_nan():
    with pytest.raises(ValueError, match="the score of document 'b' is nan"):
        ranked_from_scores({"a": 1.0, "b": math.nan})


# evaluate


QRELS = {"q1": {"a": 1}, "q2": {"a": 1, "b": 1}}


def test_evaluate_averages_over_queries():
    assert evaluate({"q1": ["x", "a"], "q2": ["a"]}, QRELS, ["RR", "R@5"]) == {"RR": 0.75, "R@5": 0.75}


def test_a_query_missing_from_the_run_counts_zero():
    assert evaluate({"q1": ["a"]}, QRELS, ["RR"]) == {"RR": 0.5}


def test_a_query_without_judgements_is_ignored():
    assert evaluate({"q1": ["a"], "q2": ["a"], "q3": ["x"]}, QRELS, ["RR"]) == {"RR": 1.0}


def test_a_judged_query_without_a_relevant_document_counts_zero():
    assert evaluate({"q1": ["a"], "q2": ["a"]}, {"q1": {"a": 1}, "q2": {"a": 0}}, ["nDCG@10"]) == {"nDCG@10": 0.5}


def test_evaluate_per_query_gives_query_then_metric():
    expected = {"q1": {"RR": 0.5, "P@2": 0.5}, "q2": {"RR": 0.0, "P@2": 0.0}}
    assert evaluate_per_query({"q1": ["x", "a"]}, QRELS, ["RR", "P@2"]) == expected


def test_the_default_metrics_can_be_computed():
    assert evaluate({"q1": ["a"]}, {"q1": {"a": 1}}) == {
        "nDCG@10": 1.0,
        "RR@10": 1.0,
        "R@100": 1.0,
        "Judged@10": 1.0,
    }


def test_evaluate_refuses_empty_qrels():
    with pytest.raises(ValueError, match="qrels is empty"):
        evaluate({"q1": ["a"]}, {})


def test_an_error_in_a_ranking_names_the_query():
    with pytest.raises(ValueError, match="query 'q2': document 'a' is ranked twice"):
        evaluate({"q1": ["a"], "q2": ["a", "a"]}, QRELS)


def test_scores_in_place_of_a_ranking_are_refused():
    with pytest.raises(ValueError, match=r"query 'q1': a ranking is a dict.*ranked_from_scores"):
        evaluate({"q1": {"a": 0.5}}, QRELS)


def test_one_bare_metric_name_is_refused():
    with pytest.raises(ValueError, match=r"metrics is 'RR': expected a sequence of names, as in \['RR'\]"):
        evaluate({"q1": ["a"]}, QRELS, "RR")


@pytest.mark.parametrize(
    ("name", "measure", "settings"),
    [
        ("nDCG", ndcg, {}),
        ("nDCG@3", ndcg, {"k": 3}),
        ("nDCG(dcg='log2')@3", ndcg, {"k": 3}),
        ("nDCG(dcg='exp-log2')@3", ndcg, {"k": 3, "gain": "exponential"}),
        ('nDCG(dcg="exp-log2")', ndcg, {"gain": "exponential"}),
        ("AP", average_precision, {}),
        ("AP(rel=2)@3", average_precision, {"k": 3, "relevant_from": 2}),
        ("RR", reciprocal_rank, {}),
        ("RR(rel=3)@2", reciprocal_rank, {"k": 2, "relevant_from": 3}),
        ("R(rel=2)@3", recall, {"k": 3, "relevant_from": 2}),
        ("P@3", precision, {"k": 3}),
        ("Success(rel=3)@2", hit, {"k": 2, "relevant_from": 3}),
        ("Judged", judged_fraction, {}),
        ("Judged@3", judged_fraction, {"k": 3}),
    ],
)
def test_a_name_selects_measure_and_settings(name, measure, settings):
    ranked = ["x", "c", "b", "a", "d"]
    assert evaluate({"q": ranked}, {"q": JUDGED}, [name]) == {name: measure(ranked, JUDGED, **settings)}


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            "ndcg@10",
            "MRR",
            "nDCG@0",
            "nDCG@-1",
            "nDCG@x",
            "nDCG@10 ",
            "R",
            "P",
            "Success",
            "nDCG(rel=2)",
        ),
        *("AP(dcg='log2')", "AP(rel=0)", "Judged(rel=2)@5", "nDCG(dcg='exp')", "nDCG(dcg=log2)", "nDCG()@10"),
    ],
)
def test_an_unknown_metric_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=r"unknown metric .*known.*nDCG.*AP.*RR.*R.*P.*Success.*Judged"):
        evaluate({}, QRELS, [name])


# Parity with ir-measures, whose providers are pytrec_eval (the C code of trec_eval), its own Judged, the MS MARCO
# script for RR@k, and gdeval (Perl, five decimals) for exponential gain.

TREC_EVAL = [
    *("nDCG", "nDCG@1", "nDCG@5", "nDCG@10", "AP", "AP@5", "AP(rel=2)@100", "RR", "RR(rel=2)", "R@1", "R@5"),
    *("R(rel=2)@100", "P@1", "P@5", "P(rel=3)@10", "P@100", "Success@1", "Success@5", "Success(rel=2)@10"),
]
ASCENDING_TIES = ["RR@3", "RR@10", "RR(rel=2)@10", "Judged", "Judged@1", "Judged@5", "Judged@100"]
EXPONENTIAL = ["nDCG(dcg='exp-log2')@1", "nDCG(dcg='exp-log2')@5", "nDCG(dcg='exp-log2')@10"]


def random_scores_and_qrels(seed):
    """Return scores and qrels with ties, unjudged documents, negative grades, and queries on one side only."""
    rng = random.Random(seed)
    documents = [f"d{number}" for number in range(30)]
    qrels, scores = {}, {}
    for query in map(str, range(1, 41)):
        grades = rng.choice([[0, 1], [-2, -1, 0, 1, 2, 3, 4], [-1, 0]])
        qrels[query] = {document: rng.choice(grades) for document in rng.sample(documents, rng.randint(1, 20))}
        if rng.random() < 0.8:
            retrieved = rng.sample(documents, rng.randint(1, 25))
            scores[query] = {document: float(rng.randint(-3, 3)) for document in retrieved}
    scores["99"] = {"d1": 1.0}
    return scores, qrels


def assert_parity(run, scores, qrels, name, tolerance):
    ir_measures = pytest.importorskip("ir_measures", reason="parity needs: pip install ir-measures")
    measure = ir_measures.parse_measure(name)
    theirs = ir_measures.calc([measure], qrels, scores)
    ours = evaluate_per_query(run, qrels, [name])
    assert {query: row[name] for query, row in ours.items()} == pytest.approx(
        {metric.query_id: metric.value for metric in theirs.per_query}, rel=0, abs=tolerance
    )
    assert evaluate(run, qrels, [name])[name] == pytest.approx(theirs.aggregated[measure], rel=0, abs=tolerance)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TREC_EVAL)
def test_runs_with_ties_equal_trec_eval(name, seed):
    scores, qrels = random_scores_and_qrels(seed)
    run = {query: ranked_from_scores(of_query) for query, of_query in scores.items()}
    assert_parity(run, scores, qrels, name, 1e-9)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TREC_EVAL + ASCENDING_TIES)
def test_ordered_runs_equal_ir_measures(name, seed):
    run, scores, qrels = ordered_run(seed)
    assert_parity(run, scores, qrels, name, 1e-9)


@pytest.mark.parametrize("name", EXPONENTIAL)
def test_exponential_gain_equals_gdeval(name):
    ir_measures = pytest.importorskip("ir_measures", reason="parity needs: pip install ir-measures")
    if not ir_measures.providers.registry["gdeval"].is_available():
        pytest.skip("gdeval needs perl")
    run, scores, qrels = ordered_run(0)
    assert_parity(run, scores, qrels, name, 5.1e-6)  # gdeval prints five decimals


def test_near_ties_equal_trec_eval():
    scores = {"1": {"a": 1 + 1e-8, "b": 1.0, "c": 1 + 2e-7}}
    assert_parity({"1": ranked_from_scores(scores["1"])}, scores, {"1": {"a": 1}}, "RR", 1e-9)


def ordered_run(seed):
    """Return a run in random order, pseudo-scores that decrease strictly along it, and qrels."""
    scores, qrels = random_scores_and_qrels(seed)
    run = {query: list(of_query) for query, of_query in scores.items()}
    decreasing = {query: {document: -float(rank) for rank, document in enumerate(r)} for query, r in run.items()}
    return run, decreasing, qrels
