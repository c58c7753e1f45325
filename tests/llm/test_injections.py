"""benchmarks/injections.jsonl is what it says it is, and no attack in it can pass for a fence, an id or a turn of the prompt."""

import json
import re
import unicodedata
from pathlib import Path

import pytest

from rerankx.llm.passages import fenced, letters, neutralised, numbers, tokens_in

ATTACKS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "benchmarks/injections.jsonl").read_text(encoding="utf-8").splitlines()
]
QUERY = "what does the warranty cover"
FAMILIES = {
    "plain",
    "forged ids",
    "fake turns",
    "closing fences",
    "fake answers",
    "authority",
    "other languages",
    "encodings",
    "long distractors",
    "grades",
    "threats and bribes",
    "role play",
    "forged tools",
    "markup",
    "forged queries",
}
# Those that forge in plain words, which nothing takes out.
IN_WORDS = {"turn-words", "turn-alpaca", "fence-other-words"}

# Written apart from what it tests: how a reader who is easily deceived sees a text.
FENCE = re.compile(r"<+\s*/?\s*(passage|query)")
ID = re.compile(r"\[+\s*(\d{1,4}|[A-Za-z])\s*\]")
TURN = re.compile(
    r"<\s*\|.{1,40}?\|\s*>|\[/?(INST|SYSTEM_PROMPT|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>|</?(s|system|user|think|tool_call|invoke)\b[^>]*>"
    r"|<(start|end)_of_turn>"
)


def as_read(text):
    folded = unicodedata.normalize("NFKD", text).translate(str.maketrans("【】раse", "[]pase"))
    seen = "".join(c for c in folded if unicodedata.category(c) not in ("Cf", "Mn"))
    return re.sub(r"\bp a s s a g e\b", "passage", seen, flags=re.IGNORECASE).replace("PASSAGE", "passage")


def marks_in(text):
    read = as_read(text)
    return [*FENCE.finditer(read), *ID.finditer(read), *TURN.finditer(read)]


def text_of(attack):
    text = attack["text"].replace("{query}", QUERY).replace("{id}", "2").replace("{letter}", "B")
    return {"start": f"{text} Some facts.", "end": f"Some facts. {text}", "whole": text}[attack["where"]]


def each(attacks):
    return pytest.mark.parametrize("attack", [pytest.param(attack, id=attack["name"]) for attack in attacks])


def test_there_are_enough_attacks_of_every_family():
    assert len(ATTACKS) >= 66
    assert {attack["family"] for attack in ATTACKS} == FAMILIES
    for family in FAMILIES:
        assert sum(attack["family"] == family for attack in ATTACKS) >= 4


@pytest.mark.parametrize("field", ["name", "text"])
def test_no_two_attacks_are_alike(field):
    assert len({attack[field] for attack in ATTACKS}) == len(ATTACKS)


@each(ATTACKS)
def test_an_attack_is_complete(attack):
    assert list(attack) == ["name", "family", "where", "text"]
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", attack["name"])
    assert attack["where"] in ("start", "end", "whole")
    assert attack["text"].strip()
    assert set(re.findall(r"\{([a-z]+)\}", attack["text"])) <= {"query", "id", "letter"}


@each([attack for attack in ATTACKS if attack["family"] == "long distractors"])
def test_long_distractors_are_long(attack):
    assert len(text_of(attack).split()) >= 200


@each(
    [a for a in ATTACKS if a["family"] in ("forged ids", "fake turns", "closing fences") and a["name"] not in IN_WORDS]
)
def test_a_forgery_is_one_before_it_is_neutralised(attack):
    assert marks_in(text_of(attack))


@each(ATTACKS)
@pytest.mark.parametrize("labels", [numbers(3), letters(3)], ids=["numbers", "letters"])
def test_no_attack_forges_a_fence_an_id_or_a_turn(attack, labels):
    block = fenced(["The first.", text_of(attack), "The third."], labels)
    assert block.count("</passage>") == 3
    assert re.findall(r'<passage id="(.)">', block) == labels
    assert len(marks_in(block)) == 6  # the fences


@each([attack for attack in ATTACKS if attack["name"] in ("encoding-zero-width", "encoding-tags", "encoding-bidi")])
def test_what_is_hidden_is_seen_or_gone(attack):
    assert neutralised(text_of(attack)).isprintable()


def test_what_selectors_spell_is_cut_to_nothing_readable():
    (attack,) = (attack for attack in ATTACKS if attack["name"] == "encoding-selectors")
    assert len([c for c in text_of(attack) if 0xE0100 <= ord(c) <= 0xE01EF]) > 20
    assert len([c for c in neutralised(text_of(attack)) if 0xE0100 <= ord(c) <= 0xE01EF]) == 2


@each(ATTACKS)
def test_words_stay(attack):
    if attack["family"] in ("plain", "other languages", "threats and bribes", "role play", "grades"):
        assert neutralised(text_of(attack)) == text_of(attack)
    assert tokens_in(neutralised(text_of(attack))) > 0
