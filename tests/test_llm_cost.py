"""benchmarks/llm_cost.py prints what it counted, dollars included, and its status says whether that is what the formula gives."""

import importlib
import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")
pytest.importorskip("tenacity", reason="needs the extra: pip install 'rerankx[llm]'")

import scripted

from rerankx import Reranker
from rerankx.catalogue.chat_prices import CHAT_PRICES

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
QUERY = "how long does a refund take"


@pytest.fixture
def cost(monkeypatch):
    scripted.alone(monkeypatch)
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("llm_cost")


@pytest.fixture
def run(cost, monkeypatch, tmp_path, capsys):
    """Run it without data, for one query: returns status, rows as {(n, strategy): cells}, and what was printed."""

    def ran(*options, data=tmp_path / "none"):
        given = ["llm_cost.py", str(data), "--queries", "1", *options]
        monkeypatch.setattr(sys, "argv", given)
        try:
            status = cost.main()
        except SystemExit as ended:
            status = ended.code
        out, err = capsys.readouterr()
        cells = [line.strip("| ").split(" | ") for line in out.splitlines() if line.startswith("| ")]
        rows = {(int(row[0]), row[1]): row[2:] for row in cells if row[0].isdigit()}
        return status, rows, out, err

    return ran


@pytest.mark.parametrize(
    ("strategy", "calls"),
    [
        ("sliding", {2: 1, 19: 1, 20: 1, 21: 2, 30: 2, 31: 3, 50: 4, 100: 9}),
        ("sliding, 2 shuffles", {2: 3, 20: 3, 21: 6, 50: 12, 100: 27}),
        ("first-token", {20: 1, 21: 2, 50: 4, 100: 9}),
        ("all in one call", {2: 1, 20: 1, 21: 1, 50: 1, 100: 1}),
        ("judge, log-probabilities", {2: 2, 20: 20, 100: 100}),
        ("judge, by text", {2: 2, 20: 20, 100: 100}),
    ],
)
def test_the_formula_gives_what_was_counted_by_hand(cost, strategy, calls):
    (found,) = [one for one in cost.STRATEGIES if one.name == strategy]
    assert {n: found.calls(n) for n in calls} == calls


@pytest.mark.parametrize("n", [2, 20, 21, 45])
def test_a_function_is_asked_as_often_as_the_formula_says(cost, n):
    # Without the server, its counting and `usage`: calls of a function.
    for strategy in cost.STRATEGIES:
        asked = []

        def llm(messages, asked=asked):
            asked.append(messages)
            return cost.reply_to(messages[0]["content"])

        # Which tells no log-probabilities: first-token is asked as often as sliding.
        Reranker(strategy.backend, llm=llm, **strategy.options).rerank(QUERY, scripted.plain(n), top_n=cost.TOP_N)
        assert len(asked) == strategy.calls(n), strategy.name


def test_the_figures_are_those_of_the_requests(run, cost):
    status, rows, out, err = run("--candidates", "3", "21", "--price-in", "1", "--price-out", "1000")
    assert (status, err) == (0, "")
    assert out.endswith("The calls are those of the formula.\n")
    assert "1 in, 1000 out (as given)" in out
    assert set(rows) == {(n, strategy.name) for n in (3, 21) for strategy in cost.STRATEGIES}

    by_20, by_21 = (
        cost.tokens_in(json.dumps({"ranking": [*range(1, n + 1, 2), *range(2, n + 1, 2)]})) for n in (20, 21)
    )
    # Two windows: of 20, from the back, and of what is left at the front with 9 of these.
    by_11 = cost.tokens_in(json.dumps({"ranking": [*range(1, 12, 2), *range(2, 12, 2)]}))
    written = {
        "sliding": by_20 + by_11,
        "sliding, 2 shuffles": 3 * (by_20 + by_11),
        "first-token": 2,
        "all in one call": by_21,
        "judge, log-probabilities": 21,
        "judge, by text": 21,
    }
    assert {name: int(rows[21, name][2]) for name in written} == written
    for (n, name), (calls, read, wrote, dollars) in rows.items():
        (strategy,) = [one for one in cost.STRATEGIES if one.name == name]
        assert int(calls) == strategy.calls(n)
        assert float(dollars) == pytest.approx((int(read.replace(",", "")) + 1000 * int(wrote)) / 1e6, abs=1e-6)


def test_tokens_read_are_those_of_the_prompts(run, cost, monkeypatch):
    prompts = []

    def kept(prompt, answered=cost.reply_to):
        prompts.append(prompt)
        return answered(prompt)

    monkeypatch.setattr(cost, "reply_to", kept)
    monkeypatch.setattr(cost, "STRATEGIES", cost.STRATEGIES[:1])
    _, rows, _, _ = run("--candidates", "30")
    assert len(prompts) == 2
    assert rows[30, "sliding"][1] == f"{sum(map(cost.tokens_in, prompts)):,}"
    # Words and punctuation at least, and not every letter.
    assert len(prompts[0].split()) < cost.tokens_in(prompts[0]) < len(prompts[0]) / 2


def test_calls_that_are_not_those_of_the_formula_end_with_status_1(run, cost, monkeypatch):
    monkeypatch.setattr(cost, "STRATEGIES", [cost.Strategy("small steps", "listwise", {"step": 5})])
    status, rows, out, err = run("--candidates", "30")
    assert status == 1
    assert rows[30, "small steps"][0] == "3"
    assert err == "30 candidates, small steps: 3 calls, 2 by the formula; 0 replies were no answer\n"
    assert "The calls are those of the formula." not in out


def test_a_reply_that_is_no_answer_ends_with_status_1(run, cost, monkeypatch):
    monkeypatch.setattr(cost, "STRATEGIES", cost.STRATEGIES[:1])
    monkeypatch.setattr(cost, "reply_to", lambda prompt: "I cannot help with that.")
    status, _, _, err = run("--candidates", "3")
    assert status == 1
    assert "3 candidates, sliding: listwise:scripted: " in err
    assert "3 candidates, sliding: 0 calls, 1 by the formula; 2 replies were no answer" in err


@pytest.mark.parametrize("field", ["prompt_tokens", "completion_tokens"])
def test_usage_that_is_not_what_the_server_counted_ends_with_status_1(run, cost, monkeypatch, field):
    def lying(self, status, reply, send=cost.Answering._send):
        if "usage" in reply:
            reply["usage"][field] += 1
        send(self, status, reply)

    monkeypatch.setattr(cost.Answering, "_send", lying)
    monkeypatch.setattr(cost, "STRATEGIES", cost.STRATEGIES[:1])
    status, _, _, err = run("--candidates", "3")
    assert status == 1
    assert "3 candidates, sliding: usage tells 1 calls, " in err
    assert "the server counted 1 calls, " in err


def test_without_data_the_demo_is_ranked_and_that_is_said(run, tmp_path):
    status, _, out, _ = run("--candidates", "2")
    assert status == 0
    assert out.startswith(f"Queries: 1, the demo's passages: there is no {tmp_path / 'none'}")
    assert "this is cost, not quality" in out


def test_data_is_read_in_the_order_of_the_first_stage(cost, tmp_path):
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n")
    (tmp_path / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": "text {i}"}}\n' for i in range(3)))
    (tmp_path / "queries.jsonl").write_text('{"_id": "a", "text": "short"}\n{"_id": "b", "text": "long"}\n')
    hits = {"a": ["d0"], "b": ["d2", "d0", "d1"]}
    lines = [
        {"qid": qid, "hits": [{"docid": docid, "rank": rank, "score": 0.0} for rank, docid in enumerate(docids, 1)]}
        for qid, docids in hits.items()
    ]
    (tmp_path / "candidates.BM25.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    # Of "a" there are too few.
    assert cost.questions(tmp_path, 10, 2)[0] == [("long", ["text 2", "text 0"])]


def test_more_candidates_than_there_are_is_an_error(run):
    status, _, _, err = run("--candidates", "1000")
    assert status == 2
    assert "no query has 1000 candidates in the demo's passages" in err


def test_a_model_without_a_price_is_an_error_that_names_those_with_one(run):
    status, _, out, err = run("--model", "no-such-model")
    assert (status, out) == (2, "")
    assert "no price of 'no-such-model': pass --price-in and --price-out, or one of" in err
    assert "gpt-6-luna" in err


def test_a_model_with_several_prices_is_asked_whose(run):
    status, _, _, err = run("--model", "openai/gpt-oss-120b")
    assert status == 2
    assert "api.groq.com:openai/gpt-oss-120b or api.together.ai:openai/gpt-oss-120b" in err
    status, _, out, _ = run("--model", "api.groq.com:openai/gpt-oss-120b", "--candidates", "2")
    assert status == 0
    assert "0.15 in, 0.6 out" in out


def test_the_price_is_that_of_the_catalogue(run, cost):
    price = CHAT_PRICES[f"api.openai.com:{cost.MODEL}"]
    _, rows, out, _ = run("--candidates", "3")
    assert f"{price.per_million_tokens:g} in, {price.per_million_output_tokens:g} out ({price.source}" in out
    calls, read, wrote, dollars = rows[3, "judge, by text"]
    assert (calls, wrote) == ("3", "3")
    expected = (price.per_million_tokens * int(read.replace(",", "")) + price.per_million_output_tokens * 3) / 1e6
    assert float(dollars) == pytest.approx(expected, abs=1e-6)


def test_a_service_is_asked_what_it_bills_and_without_a_price_there_are_no_dollars(run, cost):
    with cost.scripted() as server:
        status, rows, out, err = run("--candidates", "3", "--model", "theirs", "--base-url", server.address)
        counted = server.counted(None)
    assert (status, err) == (0, "")
    assert "Tokens as billed by the service, which was asked for theirs.\nThe price is not known." in out
    assert {cells[3] for cells in rows.values()} == {"–"}
    assert sum(int(cells[0]) for cells in rows.values()) == counted.calls
    assert sum(int(cells[1].replace(",", "")) for cells in rows.values()) == counted.input_tokens


@pytest.mark.parametrize(
    "options",
    [["--base-url", "http://localhost:1"], ["--price-in", "1"], ["--candidates", "1"], ["--queries", "0"]],
)
def test_options_that_say_too_little_are_an_error(run, options):
    assert run(*options)[0] == 2
