"""benchmarks/advisor.py asks `choose` in worlds of which it says what is true: short runs of each, and its arithmetic."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest

from rerankx import Scale
from rerankx.evaluation import Candidate, Dataset, evaluate_per_query, score
from rerankx.testing import FakeBackend

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
WORLDS = (
    "no effect at all, 18 options",
    "no effect at all, 60 options",
    "useless",
    "harmful",
    "harmful: small wins, 1 in 10 ruined",
    "harmful: small wins, 1 in 20 ruined",
    "one useful, 1.5 x detectable",
    "one useful, 1 x detectable",
    "one useful, 0.75 x detectable",
    "good but over the budget",
    "two as good, one cheap",
    "two good, the dear one by 0.005",
    "two good, the dear one by 0.04",
    "useless, 5 paraphrases, grouped",
    "useless, 5 paraphrases, not grouped",
    "trained on these judgements",
    "few: no effect at all",
    "few: small wins, 1 in 10 ruined",
    "few: one useful, 1.5 x detectable",
    "1 in 50 retrieved, useless",
    "half have none retrieved, 1.5 x",
)


@pytest.fixture(scope="module")
def advisor():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("advisor")


def made(advisor, name, size=1_000, n=300):
    return advisor.WORLDS[name].make(np.random.default_rng(0), size, n)


def as_dataset(asked):
    """The same queries as anyone would have them: ids, texts, grades and scores."""
    queries, qrels, candidates = {}, {}, {}
    for q, (grades, places, first) in enumerate(zip(asked.grades, asked.places, asked.first, strict=True)):
        names = {int(place): f"relevant {i}" for i, place in enumerate(places) if place < len(first)}
        found = [Candidate(names.get(i, f"other {i}"), f"{q} {i}", float(one)) for i, one in enumerate(first)]
        queries[f"q{q}"], candidates[f"q{q}"] = f"query {q}", found
        qrels[f"q{q}"] = {f"relevant {i}": int(grade) for i, grade in enumerate(grades) if grade}
    return Dataset("made up", queries, qrels, candidates, "made up")


def ndcg_of(run, dataset):
    return [row["nDCG@10"] for row in evaluate_per_query(run, dataset.qrels, ["nDCG@10"]).values()]


def test_a_real_dataset_and_a_backend_give_the_same_values(advisor):
    rng = np.random.default_rng(0)
    asked = advisor.queries(rng, 40, recall=0.8, none=0.1)
    given = advisor.scores(asked, advisor.Reranker(1.5, 0.6, 0.2), advisor.errors(rng, 40), rng.random(40))
    dataset = as_dataset(asked)

    def look_up(query, text):
        q, i = map(int, text.split())
        return float(given[q, i])

    scoring = score(FakeBackend(score=look_up, scale=Scale.UNKNOWN), dataset)
    first = {qid: [one.docid for one in found] for qid, found in dataset.candidates.items()}
    assert advisor.ndcg(asked) == pytest.approx(ndcg_of(first, dataset))
    for depth in advisor.DEPTHS:
        for weight in advisor.WEIGHTS:
            values = advisor.ndcg(asked, given, depth, weight)
            assert values == pytest.approx(ndcg_of(scoring.ranked(depth=depth, weight=weight), dataset))
    perfect = {
        qid: sorted(ids, key=lambda docid, judged=dataset.qrels[qid]: -judged.get(docid, 0))
        for qid, ids in first.items()
    }
    assert advisor.ideal(asked) == pytest.approx(ndcg_of(perfect, dataset))


def test_a_first_stage_is_about_half_right_and_many_queries_tie(advisor):
    row = advisor.about("useless", made(advisor, "useless"))
    assert 0.4 < row.first < 0.6 < row.ideal < 1
    assert row.ties > 0.4
    differences = made(advisor, "no effect at all, 18 options").options - made(advisor, "useless").first.mean()
    assert 0.13 < differences.std() < 0.5


def test_the_worlds_are_those_that_are_known_here(advisor):
    assert tuple(advisor.WORLDS) == WORLDS


@pytest.mark.parametrize("name", WORLDS)
def test_each_world_gives_a_row(advisor, name):
    n = advisor.WORLDS[name].sizes[-1]
    about, row = advisor.measured(name, n, 10, 0, size=1_000)
    assert (about.world, row.world, row.n, row.repetitions) == (name, name, n, 10)
    assert row.rerank + row.skip + row.inconclusive + row.fix_retrieval == pytest.approx(1)
    assert row.harm <= row.rerank
    assert about.wins + about.ties + about.losses == pytest.approx(1)
    assert set(row.missed.split(", ")) <= {"", *advisor.WORLDS[name].required}
    table = advisor.results_table([row]).splitlines()
    assert len({line.count("|") for line in table}) == 1
    assert advisor.worlds_table([about]).count(name) == 1


def test_what_is_said_to_be_true_is_true(advisor):
    assert not made(advisor, "no effect at all, 18 options").truth.any()
    world = made(advisor, "no effect at all, 18 options")
    assert (world.options - world.first).mean(axis=1) == pytest.approx(0, abs=1e-12)
    assert made(advisor, "useless").truth.max() == pytest.approx(0, abs=advisor.NOTHING)
    assert made(advisor, "harmful").truth.max() == pytest.approx(-0.02, abs=advisor.NOTHING)
    world = made(advisor, "one useful, 1.5 x detectable", n=100)
    best = (world.options - world.first)[world.truth.argmax()]
    needed = advisor.minimum_detectable_effect(best.std(), 100)
    assert best.mean() == pytest.approx(1.5 * needed, abs=advisor.NOTHING)


def test_a_skewed_harmful_one_wins_more_often_than_it_loses(advisor):
    row = advisor.about("harmful", made(advisor, "harmful: small wins, 1 in 10 ruined"))
    assert row.best < 0
    assert row.wins > row.losses


def test_nothing_over_the_budget_is_among_the_options(advisor):
    world = made(advisor, "good but over the budget")
    assert world.options.shape[0] == world.truth.size == 12
    assert world.truth.max() <= advisor.NOTHING


def test_what_was_trained_on_the_judgements_looks_good_and_is_not(advisor):
    world = made(advisor, "trained on these judgements")
    assert (world.options - world.first).mean(axis=1).max() > 0.1
    assert world.truth.max() < 0
    _, row = advisor.measured("trained on these judgements", 100, 10, 0, size=1_000)
    assert row.harm > 0.8
    assert row.missed == ""


def test_paraphrases_are_drawn_together(advisor):
    world = made(advisor, "useless, 5 paraphrases, grouped")
    drawn = advisor.sample(world, 50, np.random.default_rng(0)).reshape(10, 5)
    assert (drawn // 5 == drawn[:, :1] // 5).all()
    assert (drawn % 5 == np.arange(5)).all()


def test_where_nothing_was_retrieved_there_is_nothing_to_choose(advisor):
    _, row = advisor.measured("1 in 50 retrieved, useless", 300, 10, 0, size=1_000)
    assert row.fix_retrieval > 0.8


def test_the_same_seed_gives_the_same_row_and_another_gives_another(advisor):
    rows = [advisor.measured("useless", 50, 10, seed, size=1_000) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_a_share_is_missed_beyond_two_of_its_own_errors(advisor):
    world = made(advisor, "no effect at all, 18 options")

    def row(recommended, name="one useful, 1.5 x detectable", truth=world):
        drawn = [advisor.Drawn("rerank" if i < recommended else "skip", False, 0) for i in range(1_000)]
        return advisor.summary(name, truth, 50, drawn)

    assert row(34, "useless").missed == ""
    assert row(35, "useless").missed == "harm"
    good = advisor.replace(world, truth=np.ones_like(world.truth))
    assert row(774, truth=good).missed == "found"
    assert row(775, truth=good).missed == ""
    assert "**" in advisor.results_table([row(35, "useless")])


def test_a_root_that_is_not_there_is_an_error(advisor):
    assert advisor.root(lambda x: x**3 - 8, 0, 30) == pytest.approx(2, abs=1e-5)
    with pytest.raises(ValueError, match="expected 0 between them"):
        advisor.root(lambda x: x + 1, 0, 1)


def test_the_command_prints_both_tables_and_keeps_the_figures(advisor, tmp_path, monkeypatch, capsys):
    file = tmp_path / "figures.json"
    monkeypatch.setattr("sys.argv", ["advisor.py", "no effect at all, 18", "--repetitions", "2", "--json", str(file)])
    with pytest.raises(SystemExit) as left:
        advisor.main()
    out = capsys.readouterr().out
    assert out.count("\n| no effect at all, 18 options |") == 1 + 3
    assert f"missed: {'nothing' if left.value.code == 0 else 'no effect'}" in out
    held = json.loads(file.read_text("utf-8"))
    assert [row["n"] for row in held["results"]] == [50, 100, 300]
    monkeypatch.setattr("sys.argv", ["advisor.py", "no such world"])
    with pytest.raises(SystemExit):
        advisor.main()
    assert "there are: no effect at all" in capsys.readouterr().err
