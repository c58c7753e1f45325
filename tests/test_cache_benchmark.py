"""benchmarks/cache.py prints what it says it does: a short run of it with a backend that is there everywhere."""

import importlib
import re
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def cache():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        yield importlib.import_module("cache")


def test_each_store_is_measured_in_each_way_and_a_second_run_begins_with_empty_ones(cache, tmp_path, capsys):
    measured = ("embedded", "embedded", "embedded.Embedded()", tmp_path, *cache.candidates(3), 1)
    cache.measure(*measured)
    first = capsys.readouterr().out
    assert re.findall(r"^\| embedded \| (\w+) \| ([\w ,]+) \| [\d.]+ \| [\d.]+ \| [\d.]+ \|$", first, re.MULTILINE) == [
        ("none", "rerank"),
        *((store, call) for store in ("memory", "disk") for call in ("first pass", "rerank", "arerank")),
        ("disk", "rerank, first of another process"),
    ]
    assert (tmp_path / "embedded.db").is_file()
    cache.measure(*measured)  # it looks itself whether there was anything
    assert len(capsys.readouterr().out.splitlines()) == len(first.splitlines())


def test_a_first_pass_of_which_the_cache_knows_something_is_none(cache):
    reranker = cache.Reranker(cache.Cached("embedded"))
    query, texts = cache.candidates(3)
    assert len(set(texts)) == 3
    assert cache.first_pass(reranker, query, texts[:2]) > 0
    with pytest.raises(AssertionError, match="not empty"):
        cache.first_pass(reranker, query, texts)


def test_the_limit_is_that_of_the_medians(cache, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cache, "other_process", lambda code, given: 0.0)
    for limit, within in ((0.0, False), (60_000.0, True)):
        monkeypatch.setattr(cache, "LIMITS_MS", {"memory": 60_000.0, "disk": limit})
        assert cache.measure("fake", "embedded", "embedded.Embedded()", tmp_path, *cache.candidates(2), 1) is within
