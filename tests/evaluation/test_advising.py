"""The advice may be no, says why, and what it advises is what was measured."""

import json
import random
from dataclasses import replace

import pytest

from rerankx import BackendError, ModelNotFoundError, Reranker, Scale, Usage, from_spec
from rerankx.evaluation import Candidate, Dataset, advise
from rerankx.evaluation.configurations import spec_of
from rerankx.testing import FakeBackend

WORDS = ["apple", "pear", "plum", "cherry", "fig", "lime", "kiwi", "melon", "grape", "peach"]


def world(n=60, depth=20, *, relevant=True, scores=True, seed=0, in_front=False):
    """Return n queries, each with one relevant document somewhere among its candidates, its text the query's."""
    rng = random.Random(seed)
    queries, qrels, candidates = {}, {}, {}
    for i in range(n):
        qid, place = f"q{i}", 0 if in_front else rng.randrange(depth)
        queries[qid] = f"{rng.choice(WORDS)} number {i}"
        qrels[qid] = {f"{qid}-d{place}" if relevant else f"{qid}-elsewhere": 1}
        candidates[qid] = [
            Candidate(
                f"{qid}-d{j}",
                f"about {queries[qid]}" if j == place else f"about {rng.choice(WORDS)} {j}",
                float(depth - j) if scores else None,
            )
            for j in range(depth)
        ]
    return Dataset("made up", queries, qrels, candidates, "words")


class Judge(FakeBackend):
    """Knows what is relevant with some chance, and costs what it is told to."""

    def __init__(self, right=1.0, *, name="knowing", usd=0.0, scale=Scale.PROBABILITY, **options):
        super().__init__(score=lambda query, text: 0.0, scale=scale, **options)
        self.name, self.model, self.right, self.usd, self.calls_made = name, "m", right, usd, 0

    def _score(self, query, texts, *, top_n=None):
        self.calls_made += 1
        rng = random.Random(query)
        knows = rng.random() < self.right
        values = [0.9 if knows and query in text else rng.random() * 0.8 for text in texts]
        from rerankx import Scores

        return Scores(values, usage=Usage(calls=1, cost_usd=self.usd * len(texts)))


class Dead(Judge):
    def _score(self, query, texts, *, top_n=None):
        raise BackendError("connection refused")


def test_a_reranker_that_helps_is_advised_with_figures_and_a_spec():
    advice = advise(world(), ["embedded"])
    assert advice.decision == "rerank"
    assert advice.reason.startswith("Rerank with embedded, first 20")
    assert "on queries it was not chosen on" in advice.reason
    assert advice.choice.gain.low > 0
    assert from_spec(advice.spec).rerank("apple", ["pear", "apple"])[0].document == "apple"


def test_what_is_advised_orders_as_what_was_measured():
    data = world()
    for backends, depths in ((["embedded"], [20]), (["embedded"], [5]), (["embedded"], [5, 10, 20])):
        advice = advise(data, backends, depths=depths, margin=0.0)
        reranker = advice.reranker()
        for qid, found in data.candidates.items():
            ranking = reranker.rerank(
                data.queries[qid], found, key=lambda one: one.text, retrieval_score=lambda one: one.score
            )
            assert [one.docid for one in ranking.documents] == list(advice.chosen.run[qid])


@pytest.mark.parametrize("configuration", range(8))
def test_every_configurations_spec_orders_as_it_was_measured(configuration):
    data = world(40)
    one = advise(data, ["embedded"], depths=[5, 20]).configurations[configuration]
    reranker = from_spec(spec_of(one, "embedded"))
    for qid, found in data.candidates.items():
        ranking = reranker.rerank(
            data.queries[qid], found, key=lambda one: one.text, retrieval_score=lambda one: one.score
        )
        assert [each.docid for each in ranking.documents] == list(one.run[qid])


def test_a_reranker_that_harms_is_not_advised():
    advice = advise(world(in_front=True, n=100).subset([f"q{i}" for i in range(100)]), [Judge(0.0)], depths=[20])
    assert advice.decision == "skip"  # the first stage is perfect, and no model is run
    assert advice.chosen is None
    mixed = world(100, seed=1)
    harmed = Dataset("harmed", mixed.queries, mixed.qrels, dict(mixed.candidates), "words")
    for qid in list(harmed.candidates)[:60]:
        found = list(harmed.candidates[qid])
        found.sort(key=lambda one: one.docid not in harmed.qrels[qid])
        harmed.candidates[qid] = found
    advice = advise(harmed, [Judge(0.0)], depths=[20])
    assert (advice.decision, advice.spec) == ("skip", None)
    with pytest.raises(ValueError, match="no reranker is advised: Do not rerank"):
        advice.reranker()


def test_nothing_is_run_where_the_candidates_do_not_hold_what_is_relevant():
    backend = Judge()
    advice = advise(world(relevant=False), [backend])
    assert (advice.decision, backend.calls_made, advice.configurations) == ("skip", 0, ())
    assert advice.reason.startswith("Do not rerank, fix retrieval")
    assert "100% of the queries have nothing relevant among their candidates" in advice.reason
    assert advice.ceiling.recall == {10: 0.0, 20: 0.0}


def test_nothing_is_run_where_the_first_stage_is_perfect():
    backend = Judge()
    advice = advise(world(in_front=True), [backend])
    assert (advice.decision, backend.calls_made) == ("skip", 0)
    assert "has what is relevant in front already" in advice.reason


def test_too_few_queries_are_inconclusive_and_told_how_many_are_missing():
    advice = advise(world(20), [Judge()])
    assert (advice.decision, advice.spec) == ("inconclusive", None)
    assert "20 queries are too few to decide by, at least 30 are needed" in advice.reason
    assert advice.reason.endswith("Judge about 10 more to settle it.")


def test_what_is_dear_is_not_taken_where_something_cheap_is_as_good():
    backends = {"dear": Judge(usd=0.01), "cheap": Judge(usd=0.0001)}
    advice = advise(world(), backends, depths=[20])
    assert advice.chosen.backend == "cheap"
    assert [one.backend for one in advice.configurations][-1] == "dear"


def test_a_budget_rules_out_and_is_told():
    backends = {"dear": Judge(usd=0.01), "cheap": Judge(0.3, usd=0.0001)}
    assert advise(world(), backends, depths=[20]).chosen.backend == "dear"
    within = advise(world(), backends, depths=[20], budget_usd=5)
    assert within.chosen.backend == "cheap"
    none = advise(world(), {"dear": Judge(usd=0.01)}, depths=[10, 20], budget_usd=5)
    assert (none.decision, none.choice, none.spec) == ("skip", None, None)
    assert none.reason.startswith(
        "Do not rerank within $5: nothing that was tried takes as little. The cheapest that gains is"
    )
    assert (none.chosen.depth, none.chosen.difference_low > 0) == (10, True)
    json.dumps(none.to_dict(), allow_nan=False)


def test_a_price_that_is_not_known_is_above_every_budget():
    class Unpriced(Judge):
        def _score(self, query, texts, *, top_n=None):
            scores = super()._score(query, texts, top_n=top_n)
            return type(scores)(scores.values, usage=Usage(calls=1, cost_usd=None))

    assert advise(world(), [Unpriced()], depths=[20]).decision == "rerank"
    advice = advise(world(), [Unpriced()], depths=[20], budget_usd=100)
    assert advice.decision == "skip"
    assert "a price that is not known" in advice.reason


def test_each_depth_costs_what_it_costs():
    advice = advise(world(), [Judge(usd=0.001)], depths=[5, 20])
    prices = {one.depth: one.usd_per_1000 for one in advice.configurations}
    assert prices == {5: pytest.approx(5), 20: pytest.approx(20)}


def test_without_scores_of_the_first_stage_there_is_no_fusion_of_scores():
    for scores in (True, False):
        advice = advise(world(scores=scores), ["embedded"], depths=[20])
        assert {one.method for one in advice.configurations} == ({"rrf", "weighted"} if scores else {"rrf"})


def test_scores_that_depend_on_each_other_are_tried_at_the_deepest_alone():
    advice = advise(world(), [Judge(pointwise=False)], depths=[5, 20])
    assert {one.depth for one in advice.configurations} == {20}
    assert any("scores candidates together" in one for one in advice.remarks)


def test_a_backend_that_fails_here_and_there_is_told():
    class Flaky(Judge):
        def _score(self, query, texts, *, top_n=None):
            if query.endswith("3"):
                raise BackendError("try again")
            return super()._score(query, texts, top_n=top_n)

    advice = advise(world(), [Flaky()], depths=[20])
    assert any("failed on 6 queries (BackendError 6)" in one for one in advice.remarks)
    assert advice.chosen.failed == 6


def test_a_backend_that_never_answers_is_an_error_unless_another_does():
    with pytest.raises(
        BackendError, match=r"failed on each of the first 10 queries; on the first: .*connection refused"
    ):
        advise(world(), {"dead": Dead()})
    for backends in ({"dead": Dead(), "embedded": "embedded"}, {"embedded": "embedded", "dead": Dead()}):
        advice = advise(world(), backends, depths=[20])
        assert advice.chosen.backend == "embedded"
        assert any(one.startswith("dead was not measured:") for one in advice.remarks)


def test_a_quota_that_ends_with_the_scoring_loses_nothing():
    class Limited(Judge):
        def _score(self, query, texts, *, top_n=None):
            if self.calls_made > 60:
                raise BackendError("quota")
            return super()._score(query, texts, top_n=top_n)

    advice = advise(world(), [Limited(usd=0.001)], depths=[5, 20])
    # At 5 it is not more.
    assert [one.usd_per_1000 for one in advice.configurations] == pytest.approx([20] * len(advice.configurations))


def test_what_fails_costs_and_takes_as_much_as_what_answers():
    class Half(Judge):
        def _score(self, query, texts, *, top_n=None):
            if int(query.split()[-1]) % 2:
                raise BackendError("try again")
            return super()._score(query, texts, top_n=top_n)

    advice = advise(world(), [Half(usd=0.001)], depths=[20])
    assert advice.chosen.usd_per_1000 == pytest.approx(20)
    assert all(one.failed == 30 for one in advice.configurations)
    # What is deployed does in a failure what was measured.
    assert from_spec(spec_of(advice.chosen, "embedded")).on_error == "input_order"
    assert from_spec(spec_of(replace(advice.chosen, failed=0), "embedded")).on_error == "raise"


def test_an_order_alone_is_not_added_up():
    advice = advise(world(), {"ranks": Judge(scale=Scale.RANK)}, depths=[20])
    assert {one.method for one in advice.configurations} == {"rrf"}


def test_what_a_backend_warns_of_is_told_again_after_a_break(tmp_path):
    import logging

    class Warns(Judge):
        def _score(self, query, texts, *, top_n=None):
            logging.getLogger("rerankx").warning("this script means little to me")
            return super()._score(query, texts, top_n=top_n)

    backend = Warns()
    for _ in range(2):
        remarks = advise(world(), {"it": backend}, depths=[20], keep=tmp_path).remarks
        assert remarks.count("it: this script means little to me") == 1
    assert any("The times of it are those of an earlier run, of 60 queries" in one for one in remarks)


def test_relevance_is_what_the_measure_says():
    data = world()
    graded = Dataset("graded", data.queries, dict(data.qrels), data.candidates, "words")
    graded.qrels["q0"] = {"q0-d0": 2}
    with pytest.raises(ValueError, match="1 queries with a relevant judgement"):
        advise(graded, ["embedded"], measure="RR(rel=2)@10")


def test_what_steers_a_terminal_is_not_printed():
    data = world()
    odd = Dataset("odd \x1b[31m", data.queries, data.qrels, data.candidates, "words \x07")
    assert "\x1b" not in str(advise(odd, {"e\x1b[2J": "embedded"}, depths=[20]))


def test_a_spec_of_somebody_elses_stays(tmp_path):
    (tmp_path / "reranker.json").write_text("{}")
    advise(world(20), ["embedded"]).save(tmp_path)
    assert (tmp_path / "reranker.json").exists()


def test_a_model_that_is_named_and_missing_is_an_error_and_the_default_one_a_remark(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelNotFoundError):
        advise(world(), ["minilm"], offline=True)
    advice = advise(world())
    assert advice.decision == "rerank"
    assert {one.backend for one in advice.configurations} <= {"embedded", "minilm"}


def test_offline_refuses_what_asks_a_service():
    pytest.importorskip("httpx")
    from rerankx import Fallback
    from rerankx.registry import create

    service = create("tei", base_url="http://localhost:1")
    with pytest.raises(ValueError, match=r"asks a service .*offline refuses"):
        advise(world(), [service], offline=True)
    with pytest.raises(ValueError, match="asks a service"):
        advise(world(), [Fallback(service, "embedded")], offline=True)


def test_who_judged_is_not_advised():
    data = world()
    labelled = Dataset("by a model", data.queries, data.qrels, data.candidates, "words", labelled_by="judge:m")
    with pytest.raises(ValueError, match="was judged by judge:m"):
        advise(labelled, [Judge()])
    assert any("judge:m gave judgements" in one for one in advise(labelled, ["embedded"]).remarks)


def test_what_cannot_be_written_as_a_spec_is_advised_without_one():
    advice = advise(world(), [Judge()], depths=[20])
    assert (advice.decision, advice.spec) == ("rerank", None)
    assert any(one.startswith("There can be no spec of knowing") for one in advice.remarks)


def test_queries_about_one_document_are_a_group():
    data = world(60)
    doubled = Dataset(
        "doubled",
        {**data.queries, **{f"again {qid}": f"once more {text}" for qid, text in data.queries.items()}},
        {**data.qrels, **{f"again {qid}": grades for qid, grades in data.qrels.items()}},
        {**data.candidates, **{f"again {qid}": found for qid, found in data.candidates.items()}},
        "words",
    )
    advice = advise(doubled, ["embedded"], depths=[20])
    assert advice.choice.gain.n == 60
    assert any("120 queries are about 60 sets of documents" in one for one in advice.remarks)


def test_queries_without_a_relevant_judgement_are_left_out():
    data = world()
    some = Dataset("some", data.queries, {**data.qrels, "q0": {}, "q1": {"x": 0}}, data.candidates, "words")
    assert len(advise(some, ["embedded"], depths=[20]).dataset.queries) == 58


def test_what_is_nearly_perfect_is_asked_about():
    advice = advise(world(), [Judge(1.0)], depths=[20])
    assert any("make sure that the model was not trained on these judgements" in one for one in advice.remarks)
    assert not any("trained on" in one for one in advise(world(), [Judge(0.5)], depths=[20]).remarks)


def test_an_interrupted_run_goes_on(tmp_path):
    backend, data = Judge(), world()
    told = []

    def stop(done, total):
        told.append((done, total))
        if done == 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advise(data, [backend], depths=[20], keep=tmp_path, progress=stop)
    before = backend.calls_made
    advise(data, [backend], depths=[20], keep=tmp_path)
    assert backend.calls_made == before + 20 + 1  # and one to warm up
    assert told[-1] == (40, 60)


def test_all_of_it_is_written_and_read_again(tmp_path):
    advice = advise(world(), ["embedded"])
    files = advice.save(tmp_path / "new" / "folder")
    assert [file.name for file in files] == ["report.html", "advice.json", "reranker.json"]
    told = json.loads(files[1].read_text("utf-8"))
    assert told == json.loads(json.dumps(advice.to_dict()))
    assert told["configurations"][told["chosen"]]["name"] == advice.chosen.name
    assert (told["decision"], told["reason"]) == (advice.decision, advice.reason)
    assert told["reliability"][0]["backend"] == "embedded"
    assert advice.chosen.name in files[0].read_text("utf-8")
    assert isinstance(from_spec(files[2]), Reranker)


def test_a_spec_of_yesterday_does_not_stay_behind(tmp_path):
    advise(world(), ["embedded"]).save(tmp_path)
    files = advise(world(20), ["embedded"]).save(tmp_path)
    assert [file.name for file in files] == ["report.html", "advice.json"]
    assert not (tmp_path / "reranker.json").exists()


@pytest.mark.parametrize("data", [world(), world(20), world(relevant=False)])
def test_it_is_shown_and_is_plain_data_whatever_it_says(data):
    advice = advise(data, ["embedded"])
    assert str(advice).startswith(advice.reason)
    assert advice.reason in advice._repr_html_().replace("&#x27;", "'")
    assert repr(advice) == f"<Advice on made up: {advice.decision}>"
    json.dumps(advice.to_dict(), allow_nan=False)


def test_the_worst_losses_are_shown_with_what_was_in_front():
    advice = advise(world(), [Judge(0.7)], depths=[20])
    losses = advice.to_dict()["regressions"]
    assert losses
    assert [one["after"] - one["before"] for one in losses] == sorted(one["after"] - one["before"] for one in losses)
    assert losses[0]["was"] != losses[0]["now"]
    assert losses[0]["was"][0].keys() == {"docid", "text", "grade"}


def test_the_same_seed_gives_the_same_advice():
    one, other = (advise(world(), [Judge(0.4)], depths=[20], seed=3) for _ in range(2))  # of one time and price
    assert one.choice == other.choice


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"budget_ms": -1}, "budget_ms must be a number from 0 to"),
        ({"budget_usd": float("nan")}, "budget_usd"),
        ({"margin": 1}, "margin must be in"),
        ({"depths": []}, "depths is empty"),
        ({"depths": [0]}, "a depth must be at least 1"),
        ({"measure": "nonsense"}, "nonsense"),
        ({"measure": "Judged@10"}, "tells how much was judged"),
        ({"backends": {"": "embedded"}}, "no name for a backend"),
        ({"backends": []}, "no backend to compare"),
    ],
)
def test_bad_arguments_are_told(arguments, told):
    with pytest.raises(ValueError, match=told):
        advise(world(), **arguments)


def test_data_without_judgements_says_what_to_do():
    data = world()
    bare = Dataset("bare", data.queries, {qid: {} for qid in data.queries}, data.candidates, "words")
    with pytest.raises(ValueError, match=r"bare has 0 queries with a relevant judgement.*rerankx\.evaluation\.label"):
        advise(bare)
    empty = Dataset("empty", data.queries, data.qrels, dict.fromkeys(data.queries, ()), "words")
    with pytest.raises(ValueError, match="no query of empty has a candidate"):
        advise(empty)


def test_a_path_is_loaded(tmp_path):
    data = world(40)
    path = tmp_path / "candidates.jsonl"
    (tmp_path / "qrels").mkdir()
    (tmp_path / "queries.jsonl").write_text(
        "\n".join(json.dumps({"_id": qid, "text": text}) for qid, text in data.queries.items())
    )
    texts = {one.docid: one.text for found in data.candidates.values() for one in found}
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps({"_id": i, "text": t}) for i, t in texts.items()))
    rows = [f"{qid}\t{docid}\t{grade}" for qid, grades in data.qrels.items() for docid, grade in grades.items()]
    (tmp_path / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]))
    hits = [
        {
            "qid": qid,
            "query": data.queries[qid],
            "hits": [{"docid": one.docid, "rank": i, "score": one.score} for i, one in enumerate(found, 1)],
        }
        for qid, found in data.candidates.items()
    ]
    (tmp_path / "candidates.words.jsonl").write_text("\n".join(map(json.dumps, hits)))
    by_path, by_data = advise(tmp_path, ["embedded"]), advise(data, ["embedded"])
    assert by_path.choice.gain == by_data.choice.gain
    assert not path.exists()
