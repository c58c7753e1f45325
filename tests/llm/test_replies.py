from __future__ import annotations

import json
import math
from contextlib import suppress
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reply_corpus import CORPUS

from rerankx.errors import ReplyError
from rerankx.llm.answers import quoted
from rerankx.llm.replies import (
    Order,
    expected_grade,
    order_of_first_token,
    probability_of_yes,
    read_grade,
    read_order,
    read_yes_no,
)

PIECES = [
    *"[](){}<>,;:.\"'`*#-=\n \\",
    *("[1]", "[2]", "[3]", "[0]", "[99]", "1", "2", "3", "10", "A", "B", "[C]", " > ", ", ", "1. ", "\n2. ", "12.5"),
    *(
        '{"ranking": [',
        "]}",
        '"id": ',
        "null",
        "true",
        "```json\n",
        "```",
        "<think>",
        "</think>",
        "<answer>",
        "Passage ",
        "Error: ",
    ),
    *(
        "③",
        "１",
        "¹",
        "٣",
        "½",
        "→",
        "\ud800",
        "\x00",
        "score",
        "grade: ",
        "yes",
        "no",
        "the ",
        "or ",
        "<|channel|>final<|message|>",
    ),
]
ANYTHING = st.one_of(
    st.text(st.characters()),
    st.text(),
    st.lists(st.sampled_from(PIECES), max_size=60).map("".join),
    st.text("[]{}123,> \n", max_size=60),
)
PERMUTATIONS = st.integers(2, 26).flatmap(lambda n: st.permutations(range(1, n + 1)))


def _letters(ids: list[int]) -> list[str]:
    return [chr(64 + i) for i in ids]


FORMATS = {
    "json": (lambda ids: json.dumps({"ranking": ids}), ()),
    "json indented": (lambda ids: json.dumps({"ranking": ids}, indent=2), ()),
    "json strings": (lambda ids: json.dumps({"order": [str(i) for i in ids]}), ()),
    "json objects": (lambda ids: json.dumps({"ranking": [{"id": i} for i in ids]}), ()),
    "json letters": (lambda ids: json.dumps({"ranking": _letters(ids)}), ("letters",)),
    "json list": (json.dumps, ()),
    "fenced": (lambda ids: f"```json\n{json.dumps({'ranking': ids})}\n```", ("fence",)),
    "chain": (lambda ids: " > ".join(f"[{i}]" for i in ids), ()),
    "tight chain": (lambda ids: ">".join(f"[{i}]" for i in ids), ()),
    "chain in prose": (
        lambda ids: f"Of {len(ids)} passages: " + " > ".join(f"[{i}]" for i in ids) + ". Done.",
        ("prose",),
    ),
    "commas": (lambda ids: ", ".join(f"[{i}]" for i in ids), ()),
    "lines": (lambda ids: "\n".join(f"[{i}]" for i in ids), ()),
    "numbered": (lambda ids: "\n".join(f"{at}. [{i}]" for at, i in enumerate(ids, 1)), ()),
    "numbered bare": (lambda ids: "\n".join(f"{at}. {i}" for at, i in enumerate(ids, 1)), ()),
    "bare chain": (lambda ids: " > ".join(map(str, ids)), ()),
    "bare commas": (lambda ids: ", ".join(map(str, ids)), ()),
    "bare tight commas": (lambda ids: ",".join(map(str, ids)), ()),
    "bare lines": (lambda ids: "\n".join(map(str, ids)), ()),
    "labelled": (lambda ids: " > ".join(f"Passage {i}" for i in ids), ()),
    "letters": (lambda ids: " > ".join(f"[{i}]" for i in _letters(ids)), ("letters",)),
    "bare letters": (lambda ids: " > ".join(_letters(ids)), ("letters",)),
    "full width": (
        lambda ids: "＞".join("［" + "".join(chr(0xFF10 + int(d)) for d in str(i)) + "］" for i in ids),
        ("digits",),
    ),
    "superscript": (
        lambda ids: " > ".join("[" + "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(d)] for d in str(i)) + "]" for i in ids),
        ("digits",),
    ),
    "thinking": (lambda ids: "<think>[1] > [2]?</think>\n" + " > ".join(f"[{i}]" for i in ids), ("thinking",)),
}


@pytest.mark.parametrize(("reply", "n", "order", "said"), CORPUS, ids=[f"{at}" for at in range(len(CORPUS))])
def test_the_corpus_reads_as_it_should(
    reply: str, n: int, order: list[int] | None, said: tuple[str, ...] | str
) -> None:
    if order is None:
        assert isinstance(said, str)
        with pytest.raises(ReplyError, match=said):
            read_order(reply, n)
    else:
        rest = [i for i in range(1, n + 1) if i not in order]
        assert read_order(reply, n) == Order(tuple(i - 1 for i in order + rest), tuple(said))


def test_the_corpus_is_large_and_names_no_reply_twice() -> None:
    assert len(CORPUS) >= 120
    assert len({(reply, n) for reply, n, *_ in CORPUS}) == len(CORPUS)


@given(ANYTHING, st.integers(1, 30))
@example("[" * 5000, 3)
@example("9" * 5000, 3)
@example("[" + "9" * 5000 + "]", 3)
@example('{"ranking": [' + "1" * 5000 + ", 2, 3]}", 3)
@example('[{"id": 1, "' + "scor" * 12_000 + '!": 1}]', 3)
@example('[{"id": 1, "score": ' + "[" * 5000 + "]" * 5000 + "}]", 3)
@example("[" + '{"id": [' * 5000 + "1" + "]}" * 5000 + "]", 3)
def test_any_text_is_a_permutation_or_a_reply_error(reply: str, n: int) -> None:
    try:
        order = read_order(reply, n)
    except ReplyError:
        return
    assert sorted(order.indices) == list(range(n))
    assert list(order.repairs) == sorted(set(order.repairs))


@given(ANYTHING)
def test_any_text_is_a_grade_or_a_reply_error(reply: str) -> None:
    try:
        grade, _ = read_grade(reply, 0, 4)
    except ReplyError:
        return
    assert type(grade) is int
    assert 0 <= grade <= 4


@given(ANYTHING)
def test_any_text_is_yes_or_no_or_a_reply_error(reply: str) -> None:
    try:
        answer, _ = read_yes_no(reply)
    except ReplyError:
        return
    assert answer in (True, False)


@pytest.mark.parametrize("form", FORMATS)
@given(ids=PERMUTATIONS)
def test_a_permutation_reads_back_from_every_format(form: str, ids: list[int]) -> None:
    written, repairs = FORMATS[form]
    assert read_order(written(ids), len(ids)) == Order(tuple(i - 1 for i in ids), repairs)


@pytest.mark.parametrize("form", FORMATS)
@given(ids=PERMUTATIONS, data=st.data())
def test_a_reply_cut_off_never_says_another_order(form: str, ids: list[int], data: st.DataObject) -> None:
    text = FORMATS[form][0](ids)
    try:
        order = read_order(text[: data.draw(st.integers(0, len(text)))], len(ids))
    except ReplyError:
        return
    assert any(
        order.indices == (*(i - 1 for i in ids[:k]), *(i - 1 for i in sorted(ids[k:])))
        for k in range((len(ids) + 1) // 2, len(ids) + 1)
    )


HOSTILE = [
    *(
        "[",
        "{",
        '{"a":',
        '{"ranking":[',
        "<think>",
        "<",
        "1",
        "1 ",
        "[1]",
        "[1] > ",
        "[1] (",
        "> ",
        "(((",
        '"',
        '"\\',
        "'",
        "A ",
        "\n",
    ),
    *(
        "\n1. ",
        "\n1. [1] x",
        "1, ",
        "```",
        "<|channel|>",
        "**",
        "yes ",
        "grade: ",
        "answer is ",
        "no ",
        "- ",
        "\ud800",
        "½①²",
        "passage ",
    ),
    *(
        "id:",
        "scale ",
        "error",
        "a.",
        "i ",
        "0-",
        "between ",
        " ",
        "\n ",
        "grade" + " " * 99,
        "\n" + "*" * 99,
        "[1], ",
        "1 > 2, ",
        "[[1]],",
    ),
    *(
        "grade",
        "A,B\n%\n",
        "A, B\n1\nC, D\n1\n",
        "[1] > [2]\n",
        "[1], [2]\nx\n",
        "[1]\n1",
        "[1]" + "\n " * 299,
        "[1]" + "\n\t*" * 199 + "x",
        '[{"id":1},',
        "\\boxed{",
        "<" + " " * 99,
        "User:\n",
        "</answer>",
        "not [1] > [2], ",
        ".",
        '{"a":[1]} ',
        "1:\n2:\n",
        "(",
    ),
]


@pytest.mark.parametrize(
    ("piece", "size"), [*((piece, 49_900) for piece in HOSTILE), *((piece, 1_000_000) for piece in HOSTILE[:8])]
)
def test_hostile_replies_end(piece: str, size: int) -> None:
    text = piece * (size // len(piece))
    for reply in (text, text + "[1], 1 a.", "3" + text + "4", "3\n" + text):
        for read in (lambda r: read_order(r, 20), lambda r: read_grade(r, 0, 4), read_yes_no):
            with suppress(ReplyError):  # what backtracks would take hours
                read(reply)


@given(st.text(st.characters()))
def test_a_message_quotes_little_and_can_be_encoded(text: str) -> None:
    assert len(quoted(text)) <= 82
    quoted(text).encode()


@pytest.mark.parametrize(
    ("reply", "grade", "repairs"),
    [
        ("3", 3, ()),
        (" 3.\n", 3, ()),
        ("**3**", 3, ()),
        ("Grade: 3", 3, ()),
        ("Relevance: 2/4", 2, ()),
        ('{"grade": 3}', 3, ()),
        ('{"grade": "3"}', 3, ()),
        ("3/4", 3, ()),
        ("3.0", 3, ()),
        ("0", 0, ()),
        ("three", 3, ("words",)),
        ("３", 3, ("digits",)),
        ('```json\n{"grade": 2}\n```', 2, ("fence",)),
        ("<think>2, no, 4</think>3", 3, ("thinking",)),
        ("On a scale of 0 to 4, the grade is 3.", 3, ("prose",)),
        ("3 - because it says 2 things", 3, ("prose",)),
        ("I would give this a 3.", 3, ("prose",)),
        ("The passage names 2 dogs.\nGrade: 3", 3, ("prose",)),
        ("<answer>3</answer>", 3, ()),
        ("<grade>3</grade>", 3, ()),
        ("\\boxed{3}", 3, ()),
        ("The final answer is $\\boxed{3}$.", 3, ("prose",)),
        ("3</s>", 3, ()),
        ("3<|im_end|>\n<|im_start|>user\nGrade: 1", 3, ()),
        ("3 (highly relevant)", 3, ("prose",)),
        ("3!", 3, ()),
        ("Grade (0-4): 3", 3, ()),
        ("Relevance [0-4]: 3", 3, ()),
        ("1. It is on the topic.\n2. It answers.\n\nGrade: 3", 3, ("prose",)),
        ("It can't be a 4. Grade: 3", 3, ("prose",)),
    ],
)
def test_a_grade_is_read(reply: str, grade: int, repairs: tuple[str, ...]) -> None:
    assert read_grade(reply, 0, 4) == (grade, repairs)


@pytest.mark.parametrize(
    "reply",
    [
        *(
            "",
            "5",
            "-1",
            "3.5",
            "9" * 6000,
            "3/10",
            "2-3",
            "2 or 3",
            "between 2 and 3",
            "Grade: 2-3",
            "Grade: 2. Grade: 3",
            "true",
        ),
        *(
            "There are 3 passages",
            "<passage>\nAn echo.\n</passage>\nThe grades:\n3",
            "Error code: 4",
            "I'm sorry, I can't grade this. 3",
            "<think>3",
            '{"grade": null}',
            '{"error": "4"}',
            "0: not relevant\n1: marginally relevant\n2: fairly relevant\n3: highly relevant\n4: perfectly relevant",
            "1. It is on the topic.\n2. It answers.\n3. It is full.",
            "1. 3",
            "3, maybe 4",
            "3 (out of 10)",
            "between a 2 and a 3",
            "This is not a 3",
            "It is a 3, not a 4.",
            "If it named the year it would be a 4",
            "Grade: 2... no, 3",
            "\u22123",
        ),
    ],
)
def test_what_is_no_grade_is_refused(reply: str) -> None:
    with pytest.raises(ReplyError):
        read_grade(reply, 0, 4)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        *(
            ("yes", True),
            ("No.", False),
            ("**Yes**", True),
            ("YES", True),
            ("Not relevant", False),
            ("irrelevant", False),
        ),
        *(
            ('{"relevant": true}', True),
            ('{"answer": "no"}', False),
            ("Answer: Yes", True),
            ("The answer is no.", False),
        ),
        *(
            ("Yes, there is no doubt", True),
            ("No, it is about cats", False),
            ("<think>no</think>yes", True),
            ("So:\nno", False),
            ("<answer>no</answer>", False),
            ("\\boxed{\\text{yes}}", True),
            ("yes<|im_end|>", True),
            ("Yes because it answers it", True),
            ("The passage is not relevant to the query.", False),
        ),
    ],
)
def test_yes_or_no_is_read(reply: str, answer: bool) -> None:
    assert read_yes_no(reply)[0] is answer


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "maybe",
        "Yes and no",
        "Yes or no?",
        "no, wait, yes",
        "Yes. Answer: no",
        "I cannot say yes",
        "Error: no answer",
        "<think>yes",
        "yesterday",
        "yes, but no",
        "no, but yes",
        "Verdict: relevant? No",
        "<passage>\nyes\n</passage>",
        "know",
    ],
)
def test_what_is_neither_or_both_is_refused(reply: str) -> None:
    with pytest.raises(ReplyError):
        read_yes_no(reply)


def test_letters_are_ordered_by_log_probability_and_their_spellings_added_up() -> None:
    # A: 0.2 + 0.2 + 0.1 = 0.5 > B: 0.4; each spelling of A alone is below.
    shares = {" A": 0.2, "a": 0.2, "[A": 0.1, "▁B": 0.4, "ĠC.": 0.05, "The": 0.05}
    assert order_of_first_token({t: math.log(p) for t, p in shares.items()}, 3) == Order((0, 1, 2))


def test_letters_that_are_absent_come_last_in_input_order() -> None:
    assert order_of_first_token({"D": -1.0, "B": -2.0}, 4) == Order((3, 1, 0, 2), ("missing ids",))


def test_ties_between_letters_keep_the_input_order() -> None:
    assert order_of_first_token({"C": -1.0, "B": -1.0, "A": -1.0}, 3) == Order((0, 1, 2))


def test_very_small_probabilities_keep_their_order() -> None:
    assert order_of_first_token({"A": -900.0, "B": -800.0, " B": -1e300, "C": 0.0}, 3) == Order((2, 1, 0))


@pytest.mark.parametrize("log_probability", [-9999.0, -math.inf])
def test_a_letter_of_which_nothing_is_told_is_none(log_probability: float) -> None:
    with pytest.raises(ReplyError, match="1 of 4 passages"):
        order_of_first_token({"A": 0.0, **dict.fromkeys("BCD", log_probability)}, 4)


def test_a_value_that_is_none_is_left_out() -> None:
    # A server may tell of no probability.
    logprobs = cast("dict[str, float]", {"B": -1.0, "A": None, "3": None, "yes": None})
    assert order_of_first_token(logprobs, 2) == Order((1, 0), ("missing ids",))
    assert expected_grade(logprobs, 0, 4) is None
    assert probability_of_yes(logprobs) is None


@pytest.mark.parametrize("token", ["-B", "B-", "=B", "|B", "B!", "$B"])
def test_marks_beside_a_letter_are_no_part_of_it(token: str) -> None:
    assert order_of_first_token({token: -0.5, "A": -2.0}, 2) == Order((1, 0))


def test_a_negative_number_is_no_grade() -> None:
    assert expected_grade({"-3": 0.0}, 0, 4) is None


def test_a_word_that_is_a_letter_is_no_passage() -> None:
    shares = {"I": 0.6, "J": 0.2, **dict.fromkeys("ABCD", 0.04)}
    assert order_of_first_token({letter: math.log(p) for letter, p in shares.items()}, 10).indices[0] == 8


@pytest.mark.parametrize(("share", "there"), [(0.09, False), (0.11, True)])
def test_letters_of_little_mass_say_nothing(share: float, there: bool) -> None:
    found = {"B": math.log(share * 0.75), "A": math.log(share * 0.25), "The": math.log(1 - share)}
    if there:
        assert order_of_first_token(found, 2) == Order((1, 0))
    else:
        with pytest.raises(ReplyError, match="hardly ever"):
            order_of_first_token(found, 2)


@pytest.mark.parametrize(
    "logprobs", [{}, {"A": -1.0}, {"A": -1.0, "B": math.nan, "C": -math.inf, "D": math.inf}, {"1": -1.0, "2": -1.0}]
)
def test_fewer_than_half_of_the_letters_are_refused(logprobs: dict[str, float]) -> None:
    with pytest.raises(ReplyError, match="of 4 passages"):
        order_of_first_token(logprobs, 4)


NUMBERS = st.floats(allow_nan=True, allow_infinity=True)


@given(
    st.dictionaries(
        st.sampled_from([*"ABCDabcd", " A", "[B", "yes", "No", " no", "0", "1", "４", "4", "x", "\ud800"]), NUMBERS
    )
)
def test_any_log_probabilities_are_read_or_refused(logprobs: dict[str, float]) -> None:
    with suppress(ReplyError):
        assert sorted(order_of_first_token(logprobs, 4).indices) == [0, 1, 2, 3]
    assert (grade := expected_grade(logprobs, 0, 4)) is None or 0 <= grade <= 4
    assert (yes := probability_of_yes(logprobs)) is None or 0 <= yes <= 1


def test_the_expected_grade_is_the_mean_over_the_grades_alone() -> None:
    shares = {"3": 0.3, " 3": 0.1, "2": 0.2, "0": 0.1, "The": 0.2, "7": 0.1}
    expected = (3 * 0.4 + 2 * 0.2 + 0 * 0.1) / 0.7
    assert expected_grade({t: math.log(p) for t, p in shares.items()}, 0, 4) == pytest.approx(expected, abs=1e-12)


def test_the_probability_of_yes_is_its_share_of_the_two() -> None:
    shares = {"Yes": 0.3, " yes": 0.1, "NO": 0.2, "Maybe": 0.4}
    assert probability_of_yes({t: math.log(p) for t, p in shares.items()}) == pytest.approx(0.4 / 0.6, abs=1e-12)
    assert probability_of_yes({"no": 0.0}) == 0.0
    assert probability_of_yes({"yes": 1e-9}) == 1.0


@pytest.mark.parametrize(("share", "there"), [(0.09, False), (0.11, True)])
def test_labels_of_little_mass_say_nothing(share: float, there: bool) -> None:
    assert (expected_grade({"3": math.log(share)}, 0, 4) is not None) is there
    assert (probability_of_yes({"yes": math.log(share)}) is not None) is there
