import pickle
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx.llm import prompts
from rerankx.llm.prompts import PARTS, PLACEHOLDERS, TEMPLATES, Template, builtin, own, part, version

# A text that changes gets a new version: both change here.
WRITTEN = {
    "listwise/1": "ef9fd105b666",
    "first-token/1": "5b957e18451e",
    "judge/1": "4abd323344db",
    "judge-yes-no/1": "438c9ebf5e51",
    "answer-json/1": "a273d5d986a8",
    "answer-brackets/1": "7ec8c1f7ae4f",
    "criteria/1": "dc9121b178a3",
    "criteria-yes-no/1": "ec02ebef4238",
    "again/1": "2d872f542b31",
}


def text_of(name):
    return builtin(name).text if name in TEMPLATES else part(name)


@pytest.mark.parametrize("name", [*TEMPLATES, *PARTS])
def test_a_text_has_the_version_it_was_written_under(name):
    assert sha256(text_of(name).encode()).hexdigest()[:12] == WRITTEN[version(name)]


def test_every_file_is_named_and_every_name_has_a_file():
    folder = Path(prompts.__file__).parent
    assert {path.stem for path in folder.glob("*.txt")} == {*TEMPLATES, *PARTS}


@pytest.mark.parametrize("name", [*TEMPLATES, *PARTS])
def test_the_first_line_is_not_sent(name):
    assert not text_of(name).startswith("#")
    assert version(name) == f"{name}/1"
    assert text_of(name) == ("\n\n" if name == "again" else "") + text_of(name).strip()


@pytest.mark.parametrize(
    ("name", "placeholders"),
    [
        ("listwise", ("query", "passages", "n", "answer")),
        ("first-token", ("query", "passages", "n")),
        ("judge", ("query", "passage", "criteria")),
        ("judge-yes-no", ("query", "passage", "criteria")),
    ],
)
def test_what_each_template_leaves_open(name, placeholders):
    template = builtin(name)
    assert template.id == version(name)
    assert template.placeholders == placeholders


@pytest.mark.parametrize("name", PARTS)
def test_what_each_part_leaves_open(name):
    assert Template(part(name), name).placeholders == (("problem",) if name == "again" else ())


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_query_stands_before_and_after_the_passages(name):
    before, _, after = builtin(name).text.partition("{passages}" if "{passages}" in builtin(name).text else "{passage}")
    assert "{query}" in before
    assert "{query}" in after
    assert "untrusted" in before


def test_a_listwise_prompt_is_filled_whole():
    prompt = builtin("listwise").filled(query="<query>q</query>", passages="P", n="2", answer=part("answer-json"))
    assert prompt.count("<query>q</query>") == 2
    assert "Below are 2 passages" in prompt
    assert prompt.endswith(part("answer-json"))
    assert '{"ranking": [ids, best first]}' in prompt


def test_what_a_value_holds_is_not_filled():
    assert Template("{query}|{passages}", "t/1").filled(query="{passages}", passages="{query} \\1 {n}") == (
        "{passages}|{query} \\1 {n}"
    )


@given(st.text(), st.text())
def test_values_arrive_as_they_are(query, passages):
    filled = Template("{query}\n--\n{passages}\n{query}", "t/1").filled(query=query, passages=passages)
    assert filled == f"{query}\n--\n{passages}\n{query}"


def test_other_braces_are_text():
    text = '{"a": {"b": [1]}} {} {unknown} {Query} {0} {query!r} {{query}} {'
    assert Template(text, "t/1").filled(query="q") == '{"a": {"b": [1]}} {} {unknown} {Query} {0} {query!r} {q} {'


def test_a_value_that_is_not_asked_for_is_left_out():
    assert Template("{query}", "t/1").filled(query="q", n="3") == "q"


def test_a_missing_value_is_an_error():
    with pytest.raises(ValueError, match=r"the prompt t/1 needs \{n\}, \{answer\}; given: \{query\}"):
        Template("{query} {answer} {n}", "t/1").filled(query="q")


def test_an_own_template_is_known_by_its_text():
    template = own("Rank {passages} for {query}.", needs=("query", "passages"))
    assert template.id == "sha256:" + sha256(template.text.encode()).hexdigest()[:12]
    assert template.filled(query="q", passages="p") == "Rank p for q."
    assert own("# mine 1\n{query}", needs=("query",)).text == "# mine 1\n{query}"


def test_an_own_template_must_hold_what_it_needs():
    with pytest.raises(
        ValueError,
        match=r"does not hold \{passages\}; did you mean 'pasages'\?;"
        r" it needs \{query\}, \{passages\}, it holds \{pasages\}, \{query\}",
    ):
        own("{pasages} {query}", needs=("query", "passages"))
    with pytest.raises(ValueError, match="it holds none"):
        own("", needs=("query",))


@pytest.mark.parametrize("text", [None, 3, b"{query}"])
def test_an_own_template_must_be_a_string(text):
    with pytest.raises(TypeError, match=f"a prompt is a string, not {type(text).__name__}"):
        own(text, needs=())


def test_unknown_names_are_told_with_what_there_is():
    with pytest.raises(
        ValueError, match=r"no prompt named 'listwize'; did you mean 'listwise'.*there are: listwise, first-token"
    ):
        builtin("listwize")
    with pytest.raises(ValueError, match="there are: answer-json"):
        part("listwise")
    with pytest.raises(ValueError, match=r"no prompt named '\.\./errors'"):
        version("../errors")


def test_templates_compare_and_pickle():
    assert pickle.loads(pickle.dumps(builtin("judge"))) == builtin("judge")
    assert builtin("judge") != builtin("judge-yes-no")


def test_placeholders_are_known_to_all_our_texts():
    used = {name for text in (*TEMPLATES, *PARTS) for name in Template(text_of(text), text).placeholders}
    assert used == set(PLACEHOLDERS)


def test_importing_them_loads_no_third_party_package():
    code = (
        "import sys; before = set(sys.modules); import rerankx.llm.prompts, rerankx.llm.passages;"
        "new = {m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names);"
        "print(sorted(new))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['rerankx']"
