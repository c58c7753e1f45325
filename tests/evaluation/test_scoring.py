"""Scores are asked for once, kept, and give rankings of every depth and mixture."""

import json

import pytest

from rerankx import BackendError, Cascade, Fusion, Reranker, Scale, Usage
from rerankx.evaluation import evaluate
from rerankx.evaluation.datasets import Candidate, Dataset
from rerankx.evaluation.scoring import score
from rerankx.testing import FakeBackend


def dataset(n=4, scores=True):
    queries = {f"q{i}": f"apple {i}" for i in range(3)}
    candidates = {
        qid: [Candidate(f"d{i}", "apple " * i or "pear", float(n - i) if scores else None) for i in range(n)]
        for qid in queries
    }
    return Dataset("made up", queries, {qid: {"d3": 1} for qid in queries}, candidates, "words")


class Longest(FakeBackend):
    """Scores by length, and knows how often it was asked."""

    def __init__(self, **options):
        super().__init__(score=by_length, scale=Scale.UNKNOWN, **options)


def by_length(query, text):
    return float(len(text))


def test_every_candidate_is_scored_and_ranked():
    scoring = score(Longest(), dataset())
    assert scoring.ranked()["q0"] == ["d3", "d2", "d1", "d0"]
    assert scoring.scores["q0"].values == (4.0, 6.0, 12.0, 18.0)
    assert evaluate(scoring.ranked(), scoring.dataset.qrels, ["RR"]) == {"RR": 1.0}


def test_a_depth_costs_no_call_and_leaves_the_rest_as_it_was():
    backend = Longest()
    scoring = score(backend, dataset())
    calls = len(backend.calls)
    assert scoring.ranked(depth=2)["q0"] == ["d1", "d0", "d2", "d3"]
    assert scoring.ranked(depth=99) == scoring.ranked()
    assert len(backend.calls) == calls


def test_a_depth_of_scores_that_depend_on_each_other_is_refused():
    scoring = score(Longest(pointwise=False), dataset())
    assert scoring.ranked()["q0"][0] == "d3"
    with pytest.raises(ValueError, match=r"scores 4 candidates together.*\.depth\(2\)"):
        scoring.ranked(depth=2)


@pytest.mark.parametrize(("scores", "method"), [(True, "weighted"), (True, "rrf"), (False, "rrf")])
def test_a_weight_mixes_with_the_first_stage(scores, method):
    scoring = score(Longest(), dataset(scores=scores))
    assert scoring.ranked(weight=0, method=method)["q0"] == ["d0", "d1", "d2", "d3"]
    assert scoring.ranked(weight=0.01, method=method)["q0"] == ["d0", "d1", "d2", "d3"]
    assert scoring.ranked(weight=0.99, method=method)["q0"] == ["d3", "d2", "d1", "d0"]


def test_scores_that_are_not_there_are_not_added_up():
    scoring = score(Longest(), dataset(scores=False))
    assert scoring.ranked(weight=1)["q0"] == ["d3", "d2", "d1", "d0"]
    with pytest.raises(ValueError, match="gave no scores to add up; take method='rrf'"):
        scoring.ranked(weight=0.5)


TEXTS = {
    "plain": ["apple", "apple apple", "pear", "plum plum plum"],
    "repeated": ["pear", "apple", "pear", "plum plum plum", "apple", "apple fig"],
    "blank": [" ", "apple", "", "apple fig fig", "pear"],
    "of one length": ["pear", "plum", "figs", "kiwi"],
}
WAYS = [{"weight": 1}, *({"weight": w, "method": "rrf"} for w in (0.2, 0.5, 0.75))]
WAYS += [{"weight": w, "method": "weighted", "normalise": "zscore"} for w in (0.2, 0.5, 0.75)]


@pytest.mark.parametrize("scores", ["falling", "tied", "none"])
@pytest.mark.parametrize("texts", TEXTS)
@pytest.mark.parametrize("depth", [1, 2, 3, 9])
@pytest.mark.parametrize("way", WAYS)
def test_a_ranking_from_kept_scores_is_the_pipelines_own(scores, texts, depth, way):
    if way.get("method") == "weighted" and scores == "none":
        pytest.skip("there is nothing to add up")
    given = {"falling": lambda i: 9.0 - i, "tied": lambda i: 9.0 - i // 2, "none": lambda i: None}[scores]
    found = [Candidate(f"d{i}", text, given(i)) for i, text in enumerate(TEXTS[texts])]
    data, backend = Dataset("made up", {"q": "apple"}, {"q": {"d0": 1}}, {"q": found}), Longest()
    stage = backend
    if way["weight"] < 1:
        options = {name: value for name, value in way.items() if name != "weight"}
        stage = Fusion([backend, "retrieval"], weights=[way["weight"], 1 - way["weight"]], **options)
    reranker = Reranker(Cascade(["retrieval", stage], keep=depth))
    own = {"retrieval_score": lambda one: one.score} if scores != "none" else {}
    ranking = reranker.rerank("apple", found, key=lambda one: one.text, **own)
    assert score(backend, data).ranked(depth=depth, **way)["q"] == [one.docid for one in ranking.documents]


def test_another_price_or_another_cache_is_measured_anew(tmp_path):
    from rerankx import Cached
    from rerankx.backends.embedded import Embedded

    data = dataset()
    for backend in (Embedded(), Cached(Embedded()), Embedded(cache_bytes=0)):
        score(backend, data, keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(("arguments", "told"), [({"depth": 0}, "depth"), ({"weight": 1.5}, "weight")])
def test_a_number_out_of_its_range_is_refused(arguments, told):
    with pytest.raises(ValueError, match=told):
        score(Longest(), dataset()).ranked(**arguments)


def test_the_retriever_takes_part_with_its_scores():
    assert score("retrieval", dataset()).scores["q0"].values == (4.0, 3.0, 2.0, 1.0)
    assert score("retrieval", dataset(scores=False)).ranked()["q0"] == ["d0", "d1", "d2", "d3"]


def test_a_query_on_which_the_backend_fails_keeps_the_first_stages_order_and_is_told():
    class Failing(Longest):
        def _score(self, query, texts, *, top_n=None):
            if query == "apple 1":
                raise BackendError("down")
            return super()._score(query, texts, top_n=top_n)

    scoring = score(Failing(), dataset())
    assert scoring.failures == {"q1": "BackendError: down"}
    assert scoring.ranked()["q1"] == ["d0", "d1", "d2", "d3"]
    assert scoring.scores["q1"].degraded == "input_order"


def test_one_query_is_asked_beforehand_and_not_counted():
    backend = Longest()
    scoring = score(backend, dataset())
    assert len(backend.calls) == 1 + len(scoring.scores)
    assert all(one.elapsed_ms > 0 for one in scoring.scores.values())


def test_queries_without_candidates_are_not_asked():
    some = dataset()
    empty = Dataset("x", some.queries, some.qrels, {**some.candidates, "q1": []})
    scoring = score(Longest(), empty)
    assert set(scoring.scores) == {"q0", "q2"}
    assert scoring.ranked()["q1"] == []
    with pytest.raises(ValueError, match="no query of x has a candidate"):
        score(Longest(), Dataset("x", some.queries, some.qrels, {qid: [] for qid in some.queries}))


def test_progress_is_told():
    told = []
    score(Longest(), dataset(), progress=lambda done, of: told.append((done, of)))
    assert told == [(1, 3), (2, 3), (3, 3)]


# What is kept


def test_what_was_scored_is_not_asked_again(tmp_path):
    first, second = Longest(), Longest()
    before = score(first, dataset(), keep=tmp_path)
    after = score(second, dataset(), keep=tmp_path)
    assert second.calls == []
    assert after.scores == before.scores


def test_an_interrupted_scoring_goes_on(tmp_path):
    class Stopped(Longest):
        def _score(self, query, texts, *, top_n=None):
            if query == "apple 2":
                raise KeyboardInterrupt
            return super()._score(query, texts, top_n=top_n)

    with pytest.raises(KeyboardInterrupt):
        score(Stopped(), dataset(), keep=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text() + '{"qid": "q2", "val')  # killed while it wrote
    backend = Longest()
    assert score(backend, dataset(), keep=tmp_path).ranked() == score(Longest(), dataset()).ranked()
    assert [call.query for call in backend.calls] == ["apple 2", "apple 2"]
    assert score(Longest(), dataset(), keep=tmp_path).scores.keys() == dataset().queries.keys()


def test_another_backend_another_text_and_another_score_are_asked(tmp_path):
    score(Longest(), dataset(), keep=tmp_path)
    other, fewer, unscored = Longest(model="other"), Longest(), Longest()
    score(other, dataset(), keep=tmp_path)
    score(fewer, dataset(3), keep=tmp_path)
    score(unscored, dataset(scores=False), keep=tmp_path)
    assert all(backend.calls for backend in (other, fewer, unscored))


def test_what_failed_is_asked_again(tmp_path):
    assert score(Longest(error=BackendError("down")), dataset(), keep=tmp_path).failures
    assert not score(Longest(), dataset(), keep=tmp_path).failures


@pytest.mark.parametrize("content", ["", "not json", "[]", '{"rerankx": "scoring-0"}', '{"qid": 1}'])
def test_a_file_of_something_else_is_begun_anew(tmp_path, content):
    score(Longest(), dataset(), keep=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_text(content)
    backend = Longest()
    score(backend, dataset(), keep=tmp_path)
    assert len(backend.calls) == 4
    assert json.loads(file.read_text().splitlines()[0])["rerankx"] == "scoring-2"


def test_lines_that_do_not_fit_are_passed_over(tmp_path):
    score(Longest(), dataset(), keep=tmp_path)
    (file,) = tmp_path.iterdir()
    lines = [line for line in file.read_text().splitlines() if line]
    held = json.loads(lines[1])
    file.write_text("\n".join([lines[0], json.dumps({**held, "values": [1.0]}), '{"qid": "q1"}', "3", *lines[2:]]))
    backend = Longest()
    score(backend, dataset(), keep=tmp_path)
    assert [call.query for call in backend.calls] == ["apple 0", "apple 0"]


def test_usage_is_added_up_and_kept(tmp_path):
    class Paid(Longest):
        def _score(self, query, texts, *, top_n=None):
            from rerankx import Scores

            return Scores(super()._score(query, texts), usage=Usage(calls=1, cost_usd=0.5))

    for _ in range(2):
        assert score(Paid(), dataset(), keep=tmp_path).usage == Usage(calls=3, cost_usd=1.5)


class Dead(FakeBackend):
    """Answers nobody."""

    def __init__(self):
        super().__init__(score=by_length, scale=Scale.UNKNOWN)
        self.asked = 0

    def _score(self, query, texts, *, top_n=None):
        self.asked += 1
        raise BackendError("connection refused")


def test_one_that_never_answers_is_not_asked_about_every_query():
    one = dataset()
    queries = {f"q{i}": f"apple {i}" for i in range(50)}
    many = Dataset("many", queries, {qid: {} for qid in queries}, dict.fromkeys(queries, one.candidates["q0"]))
    backend = Dead()
    with pytest.raises(BackendError, match=r"failed on each of the first 10 queries.*connection refused"):
        score(backend, many)
    assert backend.asked == 11
