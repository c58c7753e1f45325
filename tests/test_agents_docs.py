"""What docs/agents.md says is true: its agents run, with real retrievers and models that repeat a script."""

import re
from pathlib import Path

import pytest

import rerankx
from rerankx.after import drop_near_duplicates
from rerankx.backends.embedded import Embedded

GUIDE = (Path(__file__).parents[1] / "docs" / "agents.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"(?:<!-- ([\w: ]+) -->\n)?```python\n(.*?)```", GUIDE, re.DOTALL)


def run(*names):
    """Run these blocks in turn, in one room."""
    room = {}
    for name in names:
        (block,) = [block for named, block in BLOCKS if named == name]
        exec(compile(block, "docs/agents.md", "exec"), room)
    return room


def check(room, printed, asked):
    """Look at what three searches for one question should lead to."""
    session, context = room["session"], room["context"]
    assert [found.query for found in session.rounds] == room["searches"]
    assert [len(found.ranking) for found in session.rounds] == [3, 3, 3]
    assert [found.settled for found in session.rounds] == [False, False, True]
    assert sum(found.new for found in session.rounds) == len(session.documents) < 15  # some were found twice
    titles = [hit.document.metadata["title"] for hit in context]
    assert titles[0] == "Resetting two-factor when the device is gone"
    assert {"Recovery codes", "Signing out of other devices"} <= set(titles)
    assert len(titles) == 5
    assert all(hit.details["rounds"] for hit in context)
    whole = rerankx.Reranker(room["encoder"]).rerank(room["question"], [hit.text for hit in session.context()])
    assert [hit.score for hit in whole] == [hit.score for hit in session.context()]
    assert printed.splitlines()[-1] == f"(your model's answer) {titles}"
    assert all(hit.text in asked for hit in context)


def test_every_block_is_run_here():
    assert [name for name, _ in BLOCKS] == [
        "",
        "",
        "langchain: setup",
        "langchain: agent",
        "llamaindex: setup",
        "llamaindex: agent",
    ]


def test_the_first_block_prints_what_it_says(capsys):
    exec(compile(BLOCKS[0][1], "docs/agents.md", "exec"), {})
    first, *hits = capsys.readouterr().out.splitlines()
    assert first == "0 0 True"
    assert sorted(hits) == [
        "A gift goes back within 30 days. ['return a gift', 'gift returns']",
        "The buyer pays for shipping. ['return shipping costs']",
    ]


def test_what_comes_after_does_what_is_said(capsys):
    passages = ["Refunds arrive in ten days.", "refunds arrive in ten days", "a refund " * 40, "Cats sleep."]
    room = {"passages": passages}
    exec(compile(BLOCKS[1][1], "docs/agents.md", "exec"), room)
    printed = capsys.readouterr().out
    assert [hit.text for hit in room["short"]] == ["Refunds arrive in ten days.", "Cats sleep."]
    assert "[1]" in printed
    rows = re.findall(r"^\| `(\w+)`", GUIDE, re.MULTILINE)
    assert all(callable(room[name]) for name in rows)
    assert len(rows) == 4


def test_texts_that_differ_in_a_price_are_near_duplicates_by_default_and_a_paraphrase_is_none():
    """The texts of which `drop_near_duplicates` and the guide tell."""
    text = (
        "The annual plan costs {} dollars per seat and year, billed at the start of the term;"
        " seats added later are charged for the rest of the term."
    )
    assert len(text.split()) == 28
    pairs = [
        ("The valve must be open.", "The valve must not be open."),
        (
            "Refunds are paid within five working days to the card that was used.",
            "Money back: we pay refunds in five working days, to the card you used.",
        ),
        (text.format(120), text.format(240)),
    ]
    cosines = [float(first @ second) for first, second in map(Embedded().embed, pairs)]
    assert cosines == pytest.approx([0.96, 0.85, 0.97], abs=0.01)


def test_a_langgraph_agent_searches_three_times(capsys, monkeypatch):
    pytest.importorskip("langchain.agents", reason="needs: pip install langchain")
    from langchain_core.language_models.fake_chat_models import GenericFakeChatModel

    asked = []
    generate = GenericFakeChatModel._generate

    def listening(self, messages, *args, **kwargs):
        asked.append(messages)
        return generate(self, messages, *args, **kwargs)

    monkeypatch.setattr(GenericFakeChatModel, "_generate", listening)
    room = run("langchain: setup", "langchain: agent")
    check(room, capsys.readouterr().out, asked[-1][0].content)
    seen = [message.content for message in asked[3] if message.type == "tool"]
    assert [text.startswith("Nothing here") for text in seen] == [False, False, True]
    assert (
        len(drop_near_duplicates(room["context"], embed=room["LocalEmbeddings"]().embed_documents, threshold=0.6)) < 5
    )


# LlamaIndex imports langchain-community where it is installed, which says that it is no longer maintained; its workflows look at
# every attribute of an agent, also those that pydantic would rather they did not.
@pytest.mark.filterwarnings(
    "ignore:.langchain-community. is being sunset:DeprecationWarning",
    "ignore:The `__fields__` attribute:DeprecationWarning",
    "ignore:The `__fields_set__` attribute:DeprecationWarning",
    "ignore:Accessing the 'model_:DeprecationWarning",
)
def test_a_llamaindex_agent_searches_three_times(capsys):
    mock = pytest.importorskip(
        "llama_index.core.llms.mock", reason="needs the extra: pip install 'rerankx[llamaindex]'"
    )
    if not hasattr(getattr(mock, "MockFunctionCallingLLM", None), "response_generator"):
        pytest.skip("this llama-index-core has no scripted function-calling model")
    asked = []
    room = run("llamaindex: setup")
    generate = room["model"].response_generator

    def listening(messages, **options):
        asked.append(messages)
        return generate(messages, **options)

    room["model"].response_generator = listening
    (block,) = [block for name, block in BLOCKS if name == "llamaindex: agent"]
    exec(compile(block, "docs/agents.md", "exec"), room)
    check(room, capsys.readouterr().out, asked[-1][0].content)
    seen = [message.content for message in asked[3] if message.role == "tool"]
    assert [text.startswith("Nothing here") for text in seen] == [False, False, True]
    embed = room["LocalEmbedding"]().get_text_embedding_batch
    assert len(drop_near_duplicates(room["context"], embed=embed, threshold=0.6)) < 5
