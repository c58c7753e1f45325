"""What docs/services.md says is true: its code runs, against a server on loopback."""

import asyncio
import inspect
import re
from dataclasses import replace
from pathlib import Path

import pytest
from backend_stage import alone
from fault_stage import FaultStage, status

from rerankx import Reranker
from rerankx.backends.cohere import Cohere
from rerankx.backends.http import Http
from rerankx.catalogue.endpoints import ENDPOINTS, Dialect
from rerankx.catalogue.prices import PRICES

GUIDE = (Path(__file__).parents[1] / "docs" / "services.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
PASSAGES = ["Cats sleep all day.", "You get your money back within five days.", "The museum opens on Sundays."]


@pytest.fixture
def stage(monkeypatch):
    alone(monkeypatch)
    for name in ("CO_API_KEY", "VOYAGE_API_KEY"):
        monkeypatch.setenv(name, "key")
    with FaultStage() as stage:
        yield stage


def run(names=None):
    names = {"passages": PASSAGES, **(names or {})}
    for block in BLOCKS:
        exec(compile(block, "docs/services.md", "exec"), names)
    return names


def test_every_block_runs(stage, monkeypatch, capsys):
    url = stage.address()
    monkeypatch.setenv("CO_API_URL", url)
    names = run()
    assert "cohere None [None]" in capsys.readouterr().out
    assert names["ranking"][0].document["title"] == "Refunds"
    assert stage.requests(url)[-1].body["documents"][0] == "title: Refunds\nbody: Five working days.\n"


def test_the_dialect_of_ones_own_is_spoken(stage):
    mine = run_block("mine = {")["mine"]
    url = stage.address(dialect=Dialect(**mine), scorer=[-1.0, 2.5, 0.0])
    ranking = Reranker("http:my-model", base_url=url, dialect=mine).rerank("money back", PASSAGES)
    assert [hit.index for hit in ranking] == [1, 2, 0]
    assert ranking.scale.kind == "logit"
    body = stage.requests(url)[0].body
    assert body["input"] == {"query": "money back", "passages": [{"text": text} for text in PASSAGES]}
    assert "top_n" not in body


def test_when_it_is_down_the_fallback_answers_with_its_own_threshold(stage, monkeypatch, capsys):
    url = stage.address(status(503))
    monkeypatch.setenv("CO_API_URL", url)
    monkeypatch.setitem(ENDPOINTS, "voyage", replace(ENDPOINTS["voyage"], base_url=url))  # is down, too
    run_block("from rerankx import Fallback", {"passages": PASSAGES})
    printed = capsys.readouterr().out
    assert printed.startswith("embedded fallback ['BackendError: HTTP 503")


def run_block(words, names=None):
    names = {"Reranker": Reranker, **(names or {})}
    exec(compile(next(block for block in BLOCKS if words in block), "docs/services.md", "exec"), names)
    return names


@pytest.mark.parametrize("cls", [Cohere, Http])
def test_the_options_and_their_defaults_are_those_of_the_constructors(cls):
    table = GUIDE[GUIDE.index("| option |") : GUIDE.index("Between tries")]
    parameters = inspect.signature(cls).parameters
    for names, default in re.findall(r"^\| (`.*?`) \| (.*?) \|", table, re.MULTILINE):
        values = default.split(", ")
        for i, name in enumerate(re.findall(r"`(.*?)`", names)):
            said = values[min(i, len(values) - 1)]
            assert parameters[name].default == (None if said == "none" else float(said)), name


def test_a_query_with_50_candidates_is_one_search_unit(stage):
    reranker = Reranker("cohere:rerank-v3.5", base_url=stage.address())
    usage = asyncio.run(reranker.arerank("money", [f"passage {i}" for i in range(50)])).usage
    assert (usage.calls, usage.search_units, usage.cost_usd) == (1, 1, PRICES["cohere:rerank-v3.5"].per_search_unit)


def test_every_service_that_the_guide_names_is_there():
    for name in re.findall(r'Reranker\("([a-z-]+)', GUIDE):
        assert name in {*ENDPOINTS, "http", "cohere", "embedded"}, name
