"""Systems over the same candidates: figures, verdicts, what a reader has to know."""

import json
from dataclasses import replace

import pytest

from rerankx import BackendError, Cached, DiskStore, Scale, Scores, Usage
from rerankx.evaluation import evaluate
from rerankx.evaluation.comparing import compare
from rerankx.evaluation.datasets import Candidate, Dataset, read_run
from rerankx.testing import FakeBackend

N = 40


def dataset(name="made up", unjudged=0):
    """Return queries whose relevant document is the last of four."""
    queries = {f"q{i}": f"apple {i}" for i in range(N)}
    candidates = {qid: [Candidate(f"d{i}", f"text {i}", 4.0 - i) for i in range(4)] for qid in queries}
    qrels = {qid: {"d3": 1, **({"d0": 0} if i >= unjudged else {})} for i, qid in enumerate(queries)}
    return Dataset(name, queries, qrels, candidates, "words", ("something odd",))


def last_first(query, text):
    return float(text[-1])


def first_first(query, text):
    return -float(text[-1])


def backend(score, **options):
    return FakeBackend(score=score, scale=Scale.UNKNOWN, **options)


def test_a_better_order_is_called_better():
    compared = compare({"good": backend(last_first), "same": backend(first_first)}, dataset(), measure="RR@10")
    first, good, same = compared.systems
    assert (first.name, first.mean, first.against_first_stage, first.scoring) == ("first stage", 0.25, None, None)
    assert (good.mean, good.against_first_stage.difference, good.against_first_stage.verdict) == (1.0, 0.75, "better")
    assert (same.mean, same.against_first_stage.verdict, same.against_first_stage.ties) == (0.25, "inconclusive", N)
    assert good.mean == evaluate(good.run, dataset().qrels, ["RR@10"])["RR@10"]
    assert compared["good"] is good
    assert compared.first_stage is first


def test_a_worse_order_is_called_worse():
    turned = Dataset("x", dataset().queries, {qid: {"d0": 1} for qid in dataset().queries}, dataset().candidates)
    assert compare([backend(last_first)], turned).systems[1].against_first_stage.verdict == "worse"


def test_p_values_are_adjusted_for_the_number_of_backends():
    systems = compare({"a": backend(last_first), "b": backend(last_first)}, dataset()).systems[1:]
    for system in systems:
        assert system.p_adjusted == pytest.approx(2 * system.against_first_stage.p)


def on_six(sign):
    """Return scores that change the order for the better, or worse, on 6 of the 40 queries: p is 2 / 2 ** 6."""

    def score(query, text):
        return sign * float(text[-1]) if int(query.split()[1]) < 6 else -sign * float(text[-1])

    return score


@pytest.mark.parametrize(("sign", "verdict"), [(1, "better"), (-1, "worse")])
def test_a_verdict_that_many_backends_may_have_by_chance_is_not_given(sign, verdict):
    some = dataset()
    if sign < 0:  # the first stage is as the backend is elsewhere
        some = Dataset("x", some.queries, some.qrels, {qid: found[::-1] for qid, found in some.candidates.items()})

    def same(query, text):
        return -sign * float(text[-1])

    alone = compare({"a": backend(on_six(sign))}, some, measure="RR@10")
    assert alone["a"].verdict == alone["a"].against_first_stage.verdict == verdict
    assert "looked at alone" not in str(alone)

    two = compare({"a": backend(on_six(sign)), "b": backend(same)}, some, measure="RR@10")
    assert two["a"].against_first_stage.verdict == verdict
    assert (two["a"].verdict, two["a"].p_adjusted) == ("inconclusive", 2 * two["a"].against_first_stage.p)
    assert [one["verdict"] for one in two.to_dict()["systems"]] == [None, "inconclusive", "inconclusive"]
    assert verdict not in str(two).splitlines()[3]
    assert (
        f"a is {verdict} if looked at alone (p 0.031), which may be chance among 2 backends (p 0.062, corrected for"
        " their number)."
    ) in str(two)


def test_equivalence_is_no_matter_of_the_number_of_backends():
    two = compare({"a": backend(first_first), "b": backend(first_first)}, dataset(), margin=0.1)
    assert (two["a"].verdict, two["a"].p_adjusted) == ("equivalent", 1.0)


def test_a_comparison_that_is_kept_goes_on(tmp_path):
    asked = backend(last_first)
    before = compare([asked], dataset(), keep=tmp_path)
    again = backend(last_first)
    after = compare([again], dataset(), keep=tmp_path)
    assert again.calls == []
    assert after.to_dict() == before.to_dict()


def test_the_depth_is_that_of_the_candidates():
    assert compare([backend(last_first)], dataset(), depth=2).systems[1].mean == 0.0


def test_queries_without_a_relevant_judgement_are_left_out():
    some = dataset()
    qrels = {**some.qrels, "q0": {"d0": 0}, "q1": {}}
    compared = compare([backend(last_first)], Dataset("x", some.queries, qrels, some.candidates))
    assert len(compared.first_stage.values) == N - 2


def test_failures_and_what_was_less_than_asked_are_told():
    class Weak(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            if query == "apple 3":
                raise BackendError("down")
            values = [last_first(query, text) for text in texts]
            return Scores(values, degraded="incomplete" if query == "apple 4" else None, truncated=1)

    weak = compare({"weak": Weak(scale=Scale.UNKNOWN)}, dataset()).systems[1]
    assert (weak.failed, weak.degraded, weak.truncated) == (1, 1, N - 1)
    assert weak.run["q3"] == ["d0", "d1", "d2", "d3"]
    told = str(compare({"weak": Weak(scale=Scale.UNKNOWN)}, dataset()))
    assert "weak failed on 1 queries." in told
    assert "weak gave less than was asked on 1 queries." in told
    assert "weak cut 39 texts to its model's length." in told


@pytest.mark.parametrize(("cost", "told"), [(0.25, 250.0), (0.0, 0.0), (None, None)])
def test_a_price_is_for_1000_queries_or_not_known(cost, told):
    class Paid(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            return Scores([1.0] * len(texts), usage=Usage(cost_usd=cost))

    compared = compare({"paid": Paid(scale=Scale.UNKNOWN)}, dataset())
    assert compared["paid"].usd_per_1000 == told
    assert str(compared).splitlines()[3].split()[-1] == ("?" if told is None else f"{told:.2f}")


def test_holes_are_shown_where_systems_differ_in_them():
    some = dataset()
    judged = {qid: {"d0": 0, "d1": 0, "d2": 1} for qid in some.queries}
    data = Dataset(
        "x", some.queries, judged, {qid: [*found, Candidate("d9", "text 9")] for qid, found in some.candidates.items()}
    )
    compared = compare({"other": backend(last_first)}, data, measure="nDCG@2")
    assert (compared.first_stage.judged, compared["other"].judged) == (1.0, 0.0)
    assert compared.holes
    assert "Judged in front: first stage 100%, other 0%" in str(compared)
    assert not compare({"same": backend(first_first)}, dataset()).holes


def test_runs_are_exported_and_read_again(tmp_path):
    compared = compare({"a/b c": backend(last_first)}, dataset())
    files = compared.export(tmp_path / "runs")
    assert [file.name for file in files] == ["00-first_stage.run", "01-a_b_c.run"]
    assert list(read_run(files[1])["q0"]) == ["d3", "d2", "d1", "d0"]


def test_figures_are_plain_data_and_a_table():
    compared = compare({"good": backend(last_first), "<b>": backend(first_first)}, dataset())
    plain = json.loads(json.dumps(compared.to_dict(), allow_nan=False))
    assert [system["name"] for system in plain["systems"]] == ["first stage", "good", "<b>"]
    assert plain["issues"] == ["something odd"]
    lines = str(compared).splitlines()
    assert lines[0] == "made up: 40 queries, up to 4 candidates by words"
    assert lines[1].split()[:2] == ["system", "nDCG@10"]
    assert "better" in lines[3]
    assert "does not mean equal" not in str(compared)  # all queries agree, and tell nothing of a spread
    assert "&lt;b&gt;" in compared._repr_html_()
    assert "<b>" not in compared._repr_html_()
    assert repr(compared) == "<Compared on made up by nDCG@10: first stage, good, <b>>"


def test_progress_goes_over_all_backends():
    told = []
    compare({"a": backend(last_first), "b": backend(last_first)}, dataset(), progress=lambda *so: told.append(so))
    assert (told[0], told[-1], len(told)) == ((1, 2 * N), (2 * N, 2 * N), 2 * N)


@pytest.mark.parametrize(
    ("backends", "error", "told"),
    [
        ([], ValueError, "no backend to compare"),
        ("embedded", TypeError, "backends is one; pass a list"),
        (["embedded", "embedded"], ValueError, "two backends are called 'embedded'"),
        ({"first stage": "embedded"}, ValueError, "'first stage' is the name"),
        (["embeded"], ValueError, "did you mean 'embedded'"),
    ],
)
def test_backends_that_cannot_be_compared_are_refused(backends, error, told):
    with pytest.raises(error, match=told):
        compare(backends, dataset())


def test_too_few_judged_queries_are_refused():
    with pytest.raises(ValueError, match="has 1 queries with a relevant judgement; a comparison needs at least 2"):
        compare([backend(last_first)], dataset().subset(["q0"]))


def test_there_is_no_system_of_another_name():
    with pytest.raises(KeyError, match="no system 'x'; there are first stage, a"):
        compare({"a": backend(last_first)}, dataset())["x"]


# Load and cold start


def test_load_and_cold_start_are_told_only_where_asked_for():
    compared = compare(["retrieval"], dataset())
    assert (compared.systems[1].load, compared.systems[1].cold, compared.systems[1].no_cold) == (None, None, "")
    assert not {"load", "cold", "no_cold"} & compared.to_dict()["systems"][1].keys()
    assert "at once" not in str(compared)
    assert "cold" not in str(compared)


def test_load_and_cold_start_are_in_the_table_and_the_figures():
    compared = compare(["retrieval"], dataset(), concurrency=2, cold=True)
    first, system = json.loads(json.dumps(compared.to_dict(), allow_nan=False))["systems"]
    assert (system["load"]["concurrency"], system["load"]["queries"], system["load"]["failed"]) == (2, N, 0)
    assert system["cold"]["start_s"] == compared["retrieval"].cold.start_s > 0
    assert not {"load", "cold", "no_cold"} & first.keys()
    assert "no_cold" not in system
    for shown in (str(compared), compared._repr_html_()):
        for column in ("p50 ms, 2 at once", "p95 ms, 2 at once", "queries/s, 2 at once", "cold start s", "memory MB"):
            assert column in shown


def test_a_backend_without_a_spec_has_no_cold_start_and_a_remark_says_why():
    compared = compare({"mine": backend(last_first)}, dataset(), cold=True)
    assert compared["mine"].cold is None
    assert "mine has no cold start: SpecError: backend: FakeBackend is not registered" in str(compared)
    assert "cold start s" not in str(compared)
    plain = compared.to_dict()["systems"][1]
    assert (plain["cold"], plain["no_cold"]) == (None, compared["mine"].no_cold)


def test_what_failed_or_came_from_a_cache_under_load_is_told(tmp_path):
    class Weak(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            if len(self.calls) > N:  # scored, and now under load
                raise BackendError("down")
            return super()._score(query, texts)

    told = str(compare({"weak": Weak()}, dataset(), concurrency=2))
    assert "weak failed on 40 of 40 queries under load." in told
    assert "from a cache" not in told
    cached = Cached(FakeBackend(), store=DiskStore(tmp_path / "scores.db"))
    assert "cached took 100% of the texts under load from a cache." in str(
        compare({"cached": cached}, dataset(), concurrency=2)
    )


def test_what_cannot_be_asked_is_refused_before_anything_is():
    asked = backend(last_first)
    with pytest.raises(ValueError, match="concurrency must be at least 1, not 0"):
        compare([asked], dataset(), concurrency=0)
    with pytest.raises(ValueError, match="did you mean 'embedded'"):
        compare({"a": asked, "b": "embeded"}, dataset())
    assert asked.calls == []


def test_a_model_is_not_measured_by_its_own_judgements():
    some = replace(dataset(), labelled_by="judge:gpt-x")
    asked = backend(last_first, model="gpt-x")
    with pytest.raises(ValueError, match="made up was judged by judge:gpt-x, and a is that model or holds it"):
        compare({"a": asked}, some)
    assert asked.calls == []
    assert compare({"a": backend(last_first, model="gpt-y")}, some)["a"].mean > 0
