"""A model's judgements: which texts it is asked, what becomes of its grades and failures, and how far it agrees with people."""

import json
import random

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")
pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[llm]'")

import scripted
from chat_stage import MODEL, ChatStage
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import Counted, kept, passages_in, prompt_of, value_of, worth

from rerankx import (
    Backend,
    BackendError,
    Cached,
    Calibrated,
    Cascade,
    Fallback,
    Floor,
    Fusion,
    Scale,
    Scores,
    Windowed,
)
from rerankx.backends.judge import Judge
from rerankx.backends.listwise import Listwise
from rerankx.compose.calibrated import Calibration
from rerankx.evaluation.datasets import Candidate, Dataset
from rerankx.evaluation.labels import agreement_of, cohens_kappa, label, same_model
from rerankx.testing import FakeBackend

HERE = "http://127.0.0.1:9/v1"
PRICE = {"per_million_tokens": 1.0, "per_million_output_tokens": 4.0}


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch):
    scripted.alone(monkeypatch)
    with scripted.closed():
        yield


def valued(asked) -> str:
    """A model that writes the value which the passage states."""
    (passage,) = passages_in(prompt_of(asked))
    return str(value_of(passage))


def judge(llm=valued, **options) -> Judge:
    return kept(Judge(llm=llm, **options))


def dataset(values, qrels=None, **more) -> Dataset:
    """Return a dataset whose documents state their values, d0, d1, ... for each query."""
    queries = {qid: f"what is it worth, {qid}" for qid in values}
    candidates = {
        qid: [Candidate(f"d{i}", text, -float(i)) for i, text in enumerate(worth(*found))]
        for qid, found in values.items()
    }
    return Dataset(
        "prices", queries, {qid: dict((qrels or {}).get(qid, {})) for qid in queries}, candidates, "made up", **more
    )


def said(function, **options):
    """Return a fake judge of grades 0 to 4, of what a function makes of the value."""
    options = {"scale": Scale.similarity(0, 4), "name": "judge", "model": "fake-x", **options}
    return FakeBackend(score=lambda query, text: function(value_of(text)), **options)


# Which are asked, and what is written down


def test_a_dataset_without_judgements_is_labelled_and_nothing_is_verified():
    labels = label(dataset({"q1": [0, 1, 2, 3, 4], "q2": [0, 0]}), judge())
    assert labels.grades == {"q1": {"d0": 0, "d1": 1, "d2": 2, "d3": 3, "d4": 4}, "q2": {"d0": 0, "d1": 0}}
    assert labels.dataset.qrels == {"q1": {"d0": 0, "d1": 0, "d2": 2, "d3": 3, "d4": 4}, "q2": {"d0": 0, "d1": 0}}
    assert (labels.agreement, labels.added, labels.ungraded, labels.failures) == (None, 7, 0, {})
    assert labels.dataset.labelled_by == labels.judge == "judge:valued"
    assert "nothing was verified" in str(labels)
    assert "1 of 2 queries have a relevant document" in str(labels)
    assert "7 judgements are by judge:valued, and nobody has verified them" in labels.dataset.issues


def test_the_first_candidates_are_asked_and_no_others():
    model = Counted(valued)
    labels = label(dataset({"q1": [4, 3, 2, 1]}), judge(model), depth=2)
    assert labels.dataset.qrels == {"q1": {"d0": 4, "d1": 3}}
    assert {passages_in(prompt)[0] for prompt in model.prompts} == set(worth(4, 3))
    assert all(size == 1 for size in model.sizes), "one text at a time: no order could sway it"


def test_the_dataset_given_stays_as_it_was():
    given_one = dataset({"q1": [4, 3]}, {"q1": {"d0": 1}})
    labels = label(given_one, judge())
    assert given_one.qrels == {"q1": {"d0": 1}}
    assert (given_one.labelled_by, given_one.issues) == ("", ())
    assert labels.dataset.candidates == given_one.candidates


def test_people_have_the_last_word():
    labels = label(dataset({"q1": [4, 0, 3]}, {"q1": {"d0": 0, "d1": 1, "elsewhere": 1}}), judge())
    assert labels.dataset.qrels == {"q1": {"d0": 0, "d1": 1, "elsewhere": 1, "d2": 1}}
    assert labels.added == 1
    assert labels.grades["q1"]["d0"] == 4, "what the model said of it is kept"


def test_unless_it_is_given_to_the_model():
    labels = label(dataset({"q1": [4, 0, 3]}, {"q1": {"d0": 0, "d1": 1, "elsewhere": 1}}), judge(), people_first=False)
    assert labels.dataset.qrels == {"q1": {"d0": 1, "d1": 0, "elsewhere": 1, "d2": 1}}
    assert labels.added == 3
    again = label(dataset({"q1": [4]}, {"q1": {"d0": 0}}), judge(), people_first=False, sample=0)
    assert (again.dataset.qrels, again.agreement.pairs) == ({"q1": {"d0": 4}}, 0)


@pytest.mark.parametrize(
    ("people", "expected"),
    [
        (1, [0, 0, 1, 1, 1]),
        (2, [0, 0, 1, 2, 2]),
        (3, [0, 0, 2, 2, 3]),
        (4, [0, 0, 2, 3, 4]),
        (8, [0, 0, 4, 6, 8]),
    ],
)
def test_grades_are_written_down_on_the_scale_of_people(people, expected):
    labels = label(dataset({"q1": [0, 1, 2, 3, 4]}, {"q1": {"elsewhere": people}}), judge())
    assert [labels.dataset.qrels["q1"][f"d{i}"] for i in range(5)] == expected


def test_what_is_relevant_stays_relevant_on_a_smaller_scale():
    labels = label(dataset({"q1": [0, 1]}, {"q1": {"elsewhere": 1}}), judge(), relevant_from=1)
    assert labels.dataset.qrels["q1"] == {"elsewhere": 1, "d0": 0, "d1": 1}


def test_people_who_found_nothing_relevant_set_no_scale():
    labels = label(dataset({"q1": [0, 3]}, {"q1": {"elsewhere": -1}}), judge())
    assert labels.dataset.qrels["q1"] == {"elsewhere": -1, "d0": 0, "d1": 3}


def test_relevant_begins_where_it_is_said():
    values = dataset({"q1": [0, 1, 2, 3, 4]})
    assert label(values, judge(), relevant_from=1).dataset.qrels["q1"] == {f"d{i}": i for i in range(5)}
    assert [*label(values, judge(), relevant_from=4).dataset.qrels["q1"].values()] == [0, 0, 0, 0, 4]


def test_an_expected_grade_is_rounded_a_half_upwards():
    scores = [0.49, 0.5, 1.5, 2.49, 2.5, 3.9]
    labels = label(dataset({"q1": range(6)}), said(lambda value: scores[value]))
    assert [*labels.grades["q1"].values()] == [0, 1, 2, 2, 3, 4]


def test_a_probability_is_relevant_from_a_half_and_so_is_a_logit():
    values = dataset({"q1": [0, 1, 2]})
    likely = label(values, said(lambda value: (0.49, 0.5, 1.0)[value], scale=Scale.PROBABILITY))
    logits = label(values, said(lambda value: (-0.1, 0.0, 9.0)[value], scale=Scale.LOGIT))
    assert [*likely.grades["q1"].values()] == [*logits.grades["q1"].values()] == [0, 1, 1]
    assert likely.relevant_from == 1


def test_a_yes_no_judge_gives_two_grades():
    labels = label(
        dataset({"q1": [0, 3]}), judge(lambda asked: "yes" if valued(asked) > "2" else "no", grades="yes-no")
    )
    assert labels.dataset.qrels["q1"] == {"d0": 0, "d1": 1}


def test_two_grades_have_no_weighted_kappa():
    assert label(many(), said(lambda value: value / 4, scale=Scale.PROBABILITY)).agreement.weighted_kappa is None


def test_a_judge_that_is_served_is_known_by_its_name():
    with ChatStage(valued) as stage, scripted.closed():
        labels = label(dataset({"q1": [0, 4]}), kept(Judge(MODEL, base_url=stage.base_url, price=PRICE)))
    assert labels.dataset.labelled_by == f"judge:{MODEL}"
    assert labels.dataset.qrels["q1"] == {"d0": 0, "d1": 4}
    assert labels.usage.calls >= 2
    assert "$0." in str(labels)


def test_a_wrapped_judge_is_known_by_its_own_name():
    labels = label(dataset({"q1": [0, 4]}), Cached(said(float)))
    assert labels.dataset.labelled_by == "judge:fake-x"


# Failures


def failing_on(name, answer=None):
    def brain(asked):
        if name in prompt_of(asked):
            if answer is None:
                raise RuntimeError("the model is away")
            return answer
        return valued(asked)

    return brain


@pytest.mark.parametrize("answer", [None, "I cannot help with that.", "9", "0 or 4"])
def test_a_query_on_which_the_judge_fails_has_none_of_its_grades(answer):
    values = dataset({"q1": [4, 0], "q2": [4, 0], "q3": [0, 4]}, {"q2": {"d1": 1}})
    labels = label(values, judge(failing_on("q2", answer), max_retries=0))
    assert [*labels.failures] == ["q2"]
    assert labels.dataset.qrels == {"q1": {"d0": 1, "d1": 0}, "q2": {"d1": 1}, "q3": {"d0": 0, "d1": 1}}
    assert labels.ungraded == 0
    assert "1 of 3 queries failed and have no grade" in str(labels)


def test_a_text_without_a_grade_is_counted_and_not_taken_for_irrelevant():
    broken = judge(failing_on("worth 3", "no idea"), on_bad_reply="unscored")
    labels = label(dataset({"q1": [4, 3, 0]}), broken)
    assert labels.dataset.qrels["q1"] == {"d0": 4, "d2": 0}
    assert (labels.ungraded, labels.failures) == (1, {})
    assert "texts without a grade: 1" in str(labels)


def test_a_blank_text_is_no_failure():
    values = dataset({"q1": [4, 0]})
    values.candidates["q1"].append(Candidate("blank", " ", -9.0))
    labels = label(values, judge())
    assert labels.ungraded == 0
    assert "blank" not in labels.dataset.qrels["q1"]


def test_a_judge_that_grades_nothing_is_an_error():
    with pytest.raises(BackendError, match=r"brain has graded none of the texts of prices: .*Error"):
        label(dataset({"q1": [4, 0]}), judge(failing_on("q1"), max_retries=0))
    with pytest.raises(BackendError, match="left all of them without a score"):
        label(dataset({"q1": [4, 0]}), said(lambda value: None))


def test_what_it_took_to_grade_nothing_is_told():
    with pytest.raises(BackendError) as caught:
        label(dataset({"q1": [4, 0]}), judge(lambda asked: "no idea"))
    assert caught.value.usage.calls > 0


def test_what_was_graded_before_a_break_is_not_asked_again(tmp_path):
    values, model = dataset({f"q{i}": [i, 4 - i] for i in range(5)}), Counted(valued)

    def stop(done, of):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        label(values, judge(model), keep=tmp_path, progress=stop)
    model.prompts.clear()
    labels = label(values, judge(model), keep=tmp_path)
    assert not any(f", q{i}" in prompt for prompt in model.prompts for i in range(3))
    assert labels.added == 10
    assert labels.dataset.qrels["q0"] == {"d0": 0, "d1": 4}
    model.prompts.clear()
    assert label(values, judge(model), keep=tmp_path).grades == labels.grades
    assert model.prompts == []


def test_progress_is_told():
    told = []
    label(dataset({"q1": [1], "q2": [2]}), judge(), progress=lambda *told_of: told.append(told_of))
    assert told == [(1, 2), (2, 2)]


# What is refused


def test_a_judge_that_gives_no_grades_is_refused():
    values = dataset({"q1": [1]})
    for scale in (Scale.RANK, Scale.UNKNOWN, Scale.similarity(-1, 1), Scale.similarity(0, 1), Scale.similarity(1, 5)):
        with pytest.raises(
            ValueError, match=r"the scores of judge:fake-x \(.*\) are no grades: pass .*'judge:<model>'"
        ):
            label(values, said(float, scale=scale))
    with pytest.raises(ValueError, match="does not score each text by itself"):
        label(values, said(float, pointwise=False))


def test_several_judges_at_once_are_refused():
    with pytest.raises(ValueError, match=r"several models \(judge:fake-x, judge:other\): pass one of them"):
        label(dataset({"q1": [1]}), Fallback(said(float), said(float, model="other")))


def test_judgements_by_a_model_are_not_taken_for_those_of_people():
    labels = label(dataset({"q1": [1, 2]}), judge())
    with pytest.raises(ValueError, match="prices has judgements by judge:valued, which would be taken for those of"):
        label(labels.dataset, said(float))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"relevant_from": 0}, "relevant_from must be at least 1"),
        ({"relevant_from": 5}, "relevant_from is 5, and the highest grade of judge:valued is 4"),
        ({"people_relevant_from": 0}, "people_relevant_from must be at least 1"),
        ({"sample": -1}, "sample must be at least 0"),
    ],
)
def test_numbers_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        label(dataset({"q1": [1]}), judge(), **options)


def test_nothing_to_grade_is_said():
    with pytest.raises(ValueError, match=r"no candidate of 'prices' is left to grade.*people have judged all of them"):
        label(dataset({"q1": [1]}, {"q1": {"d0": 1}}), judge(), sample=0)
    with pytest.raises(ValueError, match="there is none"):
        label(dataset({"q1": []}), judge())


# Agreement


def many(n=30, wrong=0, seed=0):
    """Return a dataset of n queries with two documents, judged by people, who disagree with the value on so many pairs."""
    values = {f"q{i}": [0, 4] for i in range(n)}
    pairs = [(qid, docid) for qid in values for docid in ("d0", "d1")]
    other = set(random.Random(seed).sample(pairs, wrong))
    qrels = {qid: {docid: int((docid == "d1") != ((qid, docid) in other)) for docid in ("d0", "d1")} for qid in values}
    return dataset(values, qrels)


def test_full_agreement_is_trusted():
    labels = label(many(), judge())
    found = labels.agreement
    assert (found.pairs, found.queries, found.kappa, found.low, found.high, found.share_equal) == (60, 30, 1, 1, 1, 1)
    assert found.confusion == ((30, 0), (0, 30))
    assert found.counts == {(0, 0): 30, (1, 4): 30}
    assert found.weighted_kappa is None, "grades 0 to 1 and 0 to 4 are not one scale"
    assert found.enough
    assert found.trusted
    assert "Warning" not in str(labels)
    assert (labels.added, labels.dataset.labelled_by, labels.dataset.issues) == (0, "", ())


def test_little_agreement_is_warned_of():
    labels = label(many(wrong=25), judge())
    found = labels.agreement
    assert found.low < found.kappa < found.high < 0.5
    assert found.enough
    assert not found.trusted
    assert "Warning: Kappa is below 0.4: do not decide by these labels" in str(labels)


def test_few_pairs_are_warned_of_whatever_they_say():
    labels = label(many(n=24), judge())
    assert labels.agreement.kappa == 1
    assert not labels.agreement.enough
    assert not labels.agreement.trusted
    assert "Only 48 pairs were judged by both: at least 50" in str(labels)
    assert label(many(n=25), judge()).agreement.trusted


@pytest.mark.parametrize(
    ("grade", "told"), [(1, "all of these pairs relevant"), (0, "all of these pairs not relevant")]
)
def test_kappa_is_undefined_where_people_judge_all_alike(grade, told):
    values = dataset({f"q{i}": [0, 4] for i in range(40)}, {f"q{i}": {"d0": grade, "d1": grade} for i in range(40)})
    labels = label(values, judge())
    found = labels.agreement
    assert (found.pairs, found.kappa, found.low, found.high, found.share_equal) == (80, None, None, None, 0.5)
    assert not found.trusted
    assert "kappa undefined" in str(labels)
    assert told in str(labels)


def test_a_negative_grade_is_not_relevant():
    found = agreement_of([("q1", -2, 0), ("q2", 1, 1)], same_scale=True)
    assert (found.counts, found.weighted_kappa) == ({(0, 0): 1, (1, 1): 1}, 1)


def test_a_judge_that_gives_all_the_same_grade_has_a_kappa_of_nothing():
    labels = label(many(), said(lambda value: 3.0))
    assert (labels.agreement.kappa, labels.agreement.low, labels.agreement.high) == (0, 0, 0)
    assert "Warning: Kappa is below" in str(labels)


def test_grades_on_one_scale_have_a_weighted_kappa():
    values = dataset(
        {f"q{i}": [0, 1, 2, 3, 4] for i in range(12)}, {f"q{i}": {f"d{j}": j for j in range(5)} for i in range(12)}
    )
    assert label(values, judge()).agreement.weighted_kappa == 1
    near = label(values, said(lambda value: min(value + 1, 4))).agreement
    far = label(values, said(lambda value: 4 - value)).agreement
    assert 0.6 < near.weighted_kappa < 1
    assert far.weighted_kappa == -1


def test_people_may_begin_relevance_elsewhere():
    values = dataset({f"q{i}": [0, 1, 4] for i in range(20)}, {f"q{i}": {"d0": 0, "d1": 1, "d2": 3} for i in range(20)})
    assert label(values, judge()).agreement.kappa < 1
    assert label(values, judge(), people_relevant_from=2).agreement.kappa == 1


def test_people_who_judged_other_documents_verify_nothing():
    labels = label(dataset({"q1": [0, 4]}, {"q1": {"elsewhere": 1}}), judge())
    assert labels.agreement.pairs == 0
    assert not labels.agreement.trusted
    assert "no pair was judged by both" in str(labels)
    assert "Only 0 pairs" in str(labels)


def test_a_sample_is_spread_over_grades_and_queries_and_reaches_beyond_the_depth():
    # Of 20 candidates for each of 10 queries, people found only the last relevant.
    values = {f"q{i}": [0] * 19 + [4] for i in range(10)}
    qrels = {qid: {f"d{i}": int(i == 19) for i in range(20)} for qid in values}
    model = Counted(valued)
    labels = label(dataset(values, qrels), judge(model), depth=2, sample=20)
    assert labels.agreement.confusion == ((10, 0), (0, 10))
    assert labels.agreement.queries == 10
    assert all(len(found) == 2 for found in labels.grades.values())
    assert len(model.prompts) == 22, "and two to warm up"
    assert labels.dataset.qrels == qrels


def test_a_sample_depends_on_its_seed_alone():
    values = dataset(
        {f"q{i}": [i % 5] * 10 for i in range(10)}, {f"q{i}": {f"d{j}": j % 2 for j in range(10)} for i in range(10)}
    )
    drawn = [label(values, judge(), sample=30, seed=seed).grades for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_without_a_sample_people_are_only_asked_about_what_has_no_judgement():
    model = Counted(valued)
    labels = label(dataset({"q1": [4, 0, 2]}, {"q1": {"d0": 1, "d1": 0}}), judge(model), sample=0)
    assert labels.agreement.pairs == 0
    assert labels.grades == {"q1": {"d2": 2}}


def test_the_interval_is_by_queries():
    one = [("q1", 0, 0), ("q1", 1, 1), ("q1", 1, 0)]
    assert agreement_of(one * 20).low is None, "one query says nothing of others"
    alone = [(f"{i}", people, model) for i, (_, people, model) in enumerate(one * 20)]
    together = [(f"{i // 20}", people, model) for i, (_, people, model) in enumerate(sorted(one * 20))]
    narrow, wide = agreement_of(alone), agreement_of(together)
    assert narrow.kappa == wide.kappa
    assert narrow.high - narrow.low < wide.high - wide.low


def test_the_interval_covers_the_truth():
    def drawn(rng):
        truth = [int(rng.random() < 0.3) for _ in range(120)]
        return [(f"{i // 2}", people, people if rng.random() < 0.85 else 1 - people) for i, people in enumerate(truth)]

    rng = random.Random(5)
    # By hand: 85 % agree, 30 % and 36 % are relevant, so that chance agrees on .3 * .36 + .7 * .64.
    by_chance = 0.3 * 0.36 + 0.7 * 0.64
    true = (0.85 - by_chance) / (1 - by_chance)
    found = [agreement_of(drawn(rng), seed=i) for i in range(100)]
    assert sum(one.low <= true <= one.high for one in found) >= 86


@settings(deadline=None)  # the first one imports scikit-learn
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60))
def test_kappa_is_that_of_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics", reason="compares with scikit-learn")
    first, second = zip(*pairs, strict=True)
    a, b = [int(one > 1) for one in first], [int(one > 1) for one in second]
    for mine, theirs, weights in ((first, second, "quadratic"), (a, b, None)):
        found = cohens_kappa(mine, theirs)
        if found is None:
            assert set(mine) == set(theirs)
            assert len(set(mine)) == 1
        else:
            expected = metrics.cohen_kappa_score(mine, theirs, labels=range(5), weights=weights)
            assert found == pytest.approx(expected, abs=1e-12)


def test_kappa_of_a_known_case():
    # Cohen's own layout: 45 and 15 by one rater against 25 and 15 by the other; Wikipedia's second example, .1304.
    pairs = [(1, 1)] * 45 + [(1, 0)] * 15 + [(0, 1)] * 25 + [(0, 0)] * 15
    assert cohens_kappa(*zip(*pairs, strict=True)) == pytest.approx(0.1304, abs=5e-5)
    assert cohens_kappa([], []) is None
    assert cohens_kappa([3, 3], [3, 3]) is None


# Who judged


def llm(kind=Judge, model="openai/GPT-x"):
    return kept(kind(model, base_url=HERE))


@pytest.mark.parametrize("kind", [Judge, Listwise])
@pytest.mark.parametrize("labelled_by", ["judge:gpt-x", "listwise:openai/GPT-X", "judge:azure/gpt-x", "gpt-x"])
def test_a_model_is_the_same_whoever_asks_it(kind, labelled_by):
    assert same_model(llm(kind), labelled_by)


@pytest.mark.parametrize("labelled_by", ["", "judge:gpt-y", "judge:gpt-x-mini", "judge:", "judge:openai/"])
def test_another_model_is_not_the_same(labelled_by):
    assert not same_model(llm(), labelled_by)
    assert not same_model(FakeBackend(model=""), labelled_by)


def test_a_name_may_have_colons():
    assert same_model(llm(model="qwen3:8b"), "judge:qwen3:8b")
    assert not same_model(llm(model="qwen3:32b"), "judge:qwen3:8b")


WRAPPED = {
    "cascade": lambda one: Cascade(["embedded", one], keep=5),
    "fusion": lambda one: Fusion(["embedded", one]),
    "fallback": lambda one: Fallback("embedded", one),
    "floor": lambda one: Floor(FakeBackend(), floor=one),
    "floored": lambda one: Floor(one),
    "windowed": Windowed,
    "cached": Cached,
    "calibrated": lambda one: Calibrated(
        one,
        Calibration(
            method="platt", scale=one.scale, fingerprint=one.fingerprint, corpus="c", slope=2.0, intercept=-1.0
        ),
    ),
    "deep": lambda one: Cascade(["embedded", Fallback(Cached(Windowed(one)), "embedded")], keep=5),
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_a_wrapper_is_looked_into(wrap):
    wrapped = wrap(llm())
    assert same_model(wrapped, "judge:gpt-x")
    assert not same_model(wrapped, "judge:gpt-y")


def test_every_wrapper_that_a_spec_knows_is_looked_into():
    from rerankx.spec import _WRAPPERS

    assert set(_WRAPPERS) <= set(WRAPPED), "wrap a judge in it above"


def test_a_wrapper_of_somebody_else_is_looked_into():
    class Mine(Backend):
        name, model, scale, pointwise = "mine", "mine", Scale.UNKNOWN, True

        def __init__(self, inner):
            self._by_language = {"en": inner, "de": self}  # holds itself, too

        def _score(self, query, texts, *, top_n=None):
            return Scores([1.0] * len(texts))

    assert same_model(Mine(llm()), "judge:gpt-x")
    assert not same_model(Mine(FakeBackend()), "judge:gpt-x")


def test_the_judge_of_a_labelled_dataset_is_the_same_model():
    labels = label(dataset({"q1": [0, 4]}), Cached(judge()))
    assert same_model(judge(), labels.dataset.labelled_by)
    assert same_model(Cached(judge()), labels.dataset.labelled_by)
    assert not same_model(FakeBackend(), labels.dataset.labelled_by)
    assert "judge:valued" in json.dumps([*labels.dataset.issues])
