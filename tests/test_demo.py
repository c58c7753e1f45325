import hashlib
from importlib.resources import files

import pytest

from rerankx import Reranker, demo
from rerankx.testing import FakeBackend

FROZEN = {
    "passages.jsonl": "f06e5441965fe82b6c2c4a369c22c1dfb249ee970c113bab9232e0b079637c15",
    "questions.jsonl": "1d45a61a1e6fbc7b7d53bf12aa897e97be2c23f397368c6bb597f420c0fe69d8",
}


@pytest.mark.parametrize("name", FROZEN)
def test_text_and_judgments_are_as_they_were_frozen_before_any_model_saw_them(name):
    assert hashlib.sha256((files("rerankx.demo") / name).read_bytes()).hexdigest() == FROZEN[name]


def test_judgments_are_about_passages_that_exist_and_every_question_has_an_answer():
    ids = {passage.id for passage in demo.passages()}
    assert len(ids) == 100
    assert len(demo.questions()) == 40
    for question in demo.questions():
        assert set(question.grades) <= ids
        assert 3 in question.grades.values()


def test_keyword_search_finds_the_passage_with_the_words():
    search = demo.KeywordSearch(demo.passages())
    assert "time zone" in search("time zone of the workspace", 1)[0].text.lower()
    assert len(search("refund", 7)) == 7


def test_a_run_reranks_the_candidates_of_keyword_search_and_loses_none():
    answered = list(demo.run(Reranker(FakeBackend()), candidates=10))
    assert len(answered) == 40
    for one in answered:
        assert {p.id for p in one.before} == {p.id for p in one.ranking.documents}
        assert len(one.before) == 10


def test_a_backend_that_knows_the_judgments_reaches_what_the_candidates_allow():
    grades = {question.text: question.grades for question in demo.questions()}
    ids = {passage.text: passage.id for passage in demo.passages()}
    oracle = FakeBackend(score=lambda query, text: grades[query].get(ids[text], 0) / 3)
    for one in demo.run(Reranker(oracle), candidates=100):
        assert one.scores_after == pytest.approx({"nDCG@5": 1, "RR(rel=3)": 1})


def test_the_summary_counts_wins_and_losses_and_shows_the_worst():
    answered = list(demo.run(Reranker(), candidates=20))
    gains = [a.scores_after["nDCG@5"] - a.scores_before["nDCG@5"] for a in answered]
    shown = demo.show(answered)
    worst = answered[gains.index(min(gains))].question
    assert min(gains) < 0
    assert worst.text in shown
    assert f"{sum(g > 0 for g in gains)} better, {sum(g < 0 for g in gains)} worse" in shown
    assert all(question.id in demo.show(answered, every=True) for question in demo.questions())


def test_arrows_say_how_far_a_title_moved():
    ranking = Reranker(FakeBackend()).rerank("pause", demo.passages()[:6], key=lambda p: p.text)
    table = demo.show_ranking(ranking, top_n=3)
    assert len(table.splitlines()) == 5
    assert any(mark in table for mark in "▲▼=")
