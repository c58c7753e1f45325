"""What docs/language-models.md says is true: its code runs, against a server on loopback with a scripted model."""

import re
from inspect import signature
from pathlib import Path

import pytest

pytest.importorskip("httpx", reason="needs the extra: pip install 'rerankx[llm]'")

import scripted
from chat_stage import ChatStage, Said
from scripted import KEY, QUERY, passages_in, pointer, prompt_of, ranker

from rerankx import Reranker
from rerankx.backends.judge import Judge
from rerankx.backends.listwise import Listwise
from rerankx.catalogue.chat_prices import CHAT_PRICES

GUIDE = (Path(__file__).parents[1] / "docs" / "language-models.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
PASSAGES = ["Cats sleep all day.", "You get your money back within five days.", "The museum opens on Sundays."]


@pytest.fixture(autouse=True)
def nothing_of_the_machine(monkeypatch):
    scripted.alone(monkeypatch)


@pytest.fixture
def stage():
    with ChatStage(ranker) as stage:
        yield stage


@pytest.fixture
def ask(stage):
    """The guide's own function, with OpenAI's client."""
    openai = pytest.importorskip("openai", reason="needs: pip install openai")
    with openai.OpenAI(base_url=stage.base_url, api_key=KEY) as client:
        yield run("def ask(messages)", client=client)["ask"]


def run(words, **names):
    """Run the one block that holds these words."""
    (block,) = [block for block in BLOCKS if words in block]
    names = {"Reranker": Reranker, "passages": PASSAGES, **names}
    exec(compile(block, "docs/language-models.md", "exec"), names)
    return names


def test_every_block_is_run_here():
    named = re.findall(r'run\("(.*?)"', Path(__file__).read_text(encoding="utf-8"))
    assert all(sum(words in block for block in BLOCKS) == 1 for words in named)
    assert all(any(words in block for words in named) for block in BLOCKS)


def test_models_by_name(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert run("OPENAI_API_KEY")["reranker"].backend.fingerprint.startswith(
        "judge:gpt-6-luna@https://api.openai.com/v1/chat"
    )


def test_a_function(stage, ask):
    ranking = Reranker("listwise", llm=ask).rerank("how do I get my money back?", PASSAGES)
    assert ranking[0].document == PASSAGES[1]
    assert len(stage.requests) == 1


def test_criteria_of_ones_own(stage, ask):
    stage.brain = lambda body: "3" if "E04" in passages_in(prompt_of(body))[0] else "2"
    names = run("criteria = ", ask=ask, passages=["E04: open the lid.", "Out of paper."])
    assert [hit.document for hit in names["ranking"]] == ["E04: open the lid."]
    assert names["criteria"] in prompt_of(stage.requests[0].body)


def test_a_prompt_of_ones_own(stage, ask):
    run("paragraphs of our contracts", ask=ask)["reranker"].rerank(QUERY, PASSAGES)
    assert "Which of these 3 paragraphs of our contracts" in prompt_of(stage.requests[0].body)


@pytest.mark.parametrize("strategy", ["sliding", "first-token", "judge"])
def test_the_placeholders_are_those_of_the_table(strategy):
    must, may = re.search(rf"^\| {strategy} \| (.*?) \|(.*?)\|$", GUIDE, re.MULTILINE).groups()
    needed, more = (re.findall(r"`(\{\w+\})`", cell) for cell in (must, may))
    make = (
        (lambda prompt: Judge(llm=ranker, prompt=prompt))
        if strategy == "judge"
        else (lambda prompt: Listwise(llm=ranker, strategy=strategy, prompt=prompt))
    )
    make(" ".join(needed))
    make(" ".join(needed + more))
    for missing in needed:
        with pytest.raises(ValueError, match=re.escape(missing)):
            make(" ".join(name for name in needed if name != missing))


def test_what_becomes_of_a_bad_reply(stage, ask, capsys):
    stage.brain = lambda body: "I cannot say."
    run("on_bad_reply", ask=ask)
    assert capsys.readouterr().out.startswith(
        "incomplete {'kept': 'input_order'} Replies(parsed=0, repaired=0, failed=2"
    )


def test_limits_with_a_fallback(stage, ask):
    stage.brain = lambda body: Said(status=401)
    ranking = run("max_calls=10_000", ask=ask)["reranker"].rerank("how do I get my money back?", PASSAGES)
    assert (ranking.backend, ranking.degraded) == ("embedded", "fallback")


def test_a_floor(ask):
    assert run("import Floor", ask=ask)["safe"].backend.name


def test_a_budget_needs_a_price():
    with pytest.raises(ValueError, match="budget_usd needs the price"):
        Listwise(llm=ranker, budget_usd=1.0)


def test_langchain(stage):
    langchain_openai = pytest.importorskip("langchain_openai", reason="needs: pip install langchain-openai")
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_core.vectorstores import InMemoryVectorStore

    store = InMemoryVectorStore(DeterministicFakeEmbedding(size=8))
    store.add_texts(PASSAGES)
    given = {"base_url": stage.base_url, "api_key": KEY, "default_headers": {"Connection": "close"}}
    model = langchain_openai.ChatOpenAI(model="stage-model", **given)
    names = run("llm=chat_model", retriever=store.as_retriever(), chat_model=model)
    found = names["retriever"].invoke("how do I get my money back?")
    assert found[0].page_content == PASSAGES[1]


def test_llamaindex():
    pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")
    assert run("asks Settings.llm")["postprocessor"].min_score == 0.5


def test_the_defaults_are_as_stated():
    listwise, judge = (signature(cls).parameters for cls in (Listwise, Judge))
    assert [cls["passage_tokens"].default for cls in (listwise, judge)] == [400, 1000]
    assert {cls["max_output_tokens"].default for cls in (listwise, judge)} == {4096}
    assert listwise["window"].default == 20


@pytest.mark.parametrize("options", [{}, {"window": "all"}, {"shuffles": 2}, {"strategy": "first-token"}])
def test_the_calls_for_50_passages_are_as_stated(stage, options):
    word = next(iter(options), "")
    row = next(
        line for line in GUIDE.splitlines() if line.startswith(f"| … `{word}" if word else '| `Reranker("listwise"')
    )
    stage.brain = pointer if word == "strategy" else ranker
    backend = Listwise("m", base_url=stage.base_url, **options)
    ranking = Reranker(backend).rerank(QUERY, [f"passage number {i}" for i in range(50)])
    backend.close()
    assert ranking.usage.calls == len(stage.requests) == int(re.match(r"\d+", row.split(" | ")[2])[0])


def test_the_dollars_are_those_of_the_tokens():
    price = CHAT_PRICES["api.openai.com:gpt-6-luna"]
    rows = re.findall(r"^\| \d+ \| .*? \| \d+ \| ([\d,]+) \| ([\d,]+) \| ([\d.]+) \|$", GUIDE, re.MULTILINE)
    assert len(rows) == 8
    for row in rows:
        read, written, dollars = (float(cell.replace(",", "")) for cell in row)
        cost = read * price.per_million_tokens + written * price.per_million_output_tokens
        assert dollars == pytest.approx(cost / 1000, abs=0.005)
