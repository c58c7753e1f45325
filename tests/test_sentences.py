import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerankx import sentences as sentences_module
from rerankx.sentences import sentence_starts, split_windows


def sentences(text):
    starts = [0, *sentence_starts(text), len(text)]
    return [text[a:b].strip() for a, b in pairwise(starts)]


def words(text):
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def letters(text):
    return [(i, i + 1) for i, letter in enumerate(text) if not letter.isspace()]


def windows(text, spans=words, **options):
    return [text[a:b] for a, b in split_windows(text, spans(text), **options)]


@pytest.mark.parametrize(
    ("between", "parts"),
    [
        (" ", ["It leaks.", "Close the valve!", "Why?", "Nobody knows…", "Well."]),
        (" ", ['"Is it closed?"', "(It was.)", "“Good.”", "‘Yes!’", "*Note.* It leaks."]),
        (" ", ["It took 3.5 litres at 20.10 Uhr.", "In 1999.", "It cost $3.50.", "Then came 2000."]),
        (" ", ["Dr. Smith met Prof. J. R. Jones, e.g. Monday.", "See Fig. 3 and Nos. 4 and 5."]),
        (" ", ["Die GmbH, d.h. Firma Abb. 3, vgl. Nr. 7.", "Am Ende."]),
        (" ", ["It is called index.html.", "So am I.", "It is v2.", "And so on."]),
        (" ", ["(As said by Dr. No etc.)", "He said no!", "Bring pens, etc...", "It took 3.5.", "Then two."]),
        (" ", ["Really?! she asked.", "He left... and came back.", "The end..."]),
        ("", ["退款需要多长时间？", "五个工作日。", "“好！”", "再见"]),
        ("", ["これは「本」です。", "そうですか？", "はい"]),
        (" ", ["यह पहला है।", "यह दूसरा है॥", "तीसरा"]),
        (" ", ["هل هذا صحيح؟", "نعم"]),
        (" ", ["یہ ایک ہے۔", "وہ دو ہے۔"]),
        (" ", ["Это дом.", "Там сад."]),
        ("\n", ["Introduction", "The valve leaks", "It is old."]),
        ("\n", ["- red", "- green", "* blue", "1. Close it.", "2. Open it.", "a) wait", "b. go", "• end"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_sentences_are_found(between, parts):
    assert sentences(between.join(parts)) == parts


def test_a_line_that_goes_on_is_no_sentence_and_a_blank_line_ends_one():
    text = "The valve is closed by turning\nthe red handle. It\r\nthen stops.\n\nand so on\x0cpage two"
    assert sentences(text) == [
        "The valve is closed by turning\nthe red handle.", "It\r\nthen stops.", "and so on", "page two",
    ]  # fmt: skip


@given(st.text(alphabet="aB. !?\n\"')。1\r\x0c", max_size=60))
def test_a_start_is_a_character_that_is_no_blank(text):
    starts = sentence_starts(text)
    assert starts == sorted(set(starts))
    assert all(0 < start < len(text) and not text[start].isspace() for start in starts)


SENTENCES = ["One two three.", "Four five six seven.", "Eight nine.", "Ten eleven twelve.", "Thirteen."]
TEXT = " ".join(SENTENCES)  # 4, 5, 3, 4 and 2 tokens


def test_windows_end_where_sentences_do():
    assert windows(TEXT, size=9, overlap=0) == [" ".join(SENTENCES[:2]), " ".join(SENTENCES[2:])]
    assert windows(TEXT, size=8, overlap=0) == [SENTENCES[0], " ".join(SENTENCES[1:3]), " ".join(SENTENCES[3:])]


def test_windows_overlap_by_whole_sentences():
    assert windows(TEXT, size=9, overlap=4) == [
        " ".join(SENTENCES[:2]), " ".join(SENTENCES[2:]),
    ]  # fmt: skip  # the sentence of 5 tokens is more than 4
    assert windows(TEXT, size=12, overlap=6) == [" ".join(SENTENCES[:3]), " ".join(SENTENCES[2:])]


def test_the_next_sentence_is_kept_whole_rather_than_the_overlap():
    text = "One two. Three four five six seven eight nine."
    assert windows(text, size=8, overlap=4) == ["One two.", "Three four five six seven eight nine."]


def test_a_sentence_that_is_too_long_is_cut_between_words():
    text = "Unbelievably " * 7
    assert windows(text, letters, size=30, overlap=0) == ["Unbelievably Unbelievably"] * 3 + ["Unbelievably"]
    assert windows(text, letters, size=30, overlap=15) == ["Unbelievably Unbelievably"] * 5


def test_the_rest_of_a_sentence_that_was_cut_has_an_overlap():
    text = " ".join(f"word{i}" for i in range(25))
    assert windows(text, size=10, overlap=3) == [
        " ".join(f"word{i}" for i in range(a, b)) for a, b in [(0, 10), (7, 17), (15, 25)]
    ]


def test_a_word_that_is_too_long_is_cut_between_tokens():
    assert windows("x" * 25, letters, size=10, overlap=2) == ["x" * 10, "x" * 10, "x" * 9]


def test_a_script_without_blanks_is_cut_between_sentences_and_letters():
    assert windows("退款。五个工作日。", letters, size=6, overlap=0) == ["退款。", "五个工作日。"]
    assert windows("退款五个工作日", letters, size=4, overlap=1) == ["退款五个", "个工作日"]


def test_a_character_of_several_tokens_is_not_cut():
    # A byte-level tokenizer has four tokens for it.
    spans = [(i, i + 1) for i in range(8) for _ in range(4)]
    found = split_windows("😀" * 8, spans, size=10, overlap=0)
    assert found == [(0, 2), (2, 4), (4, 6), (6, 8)]


def test_a_character_of_more_tokens_than_a_window_may_have_is_not_lost():
    found = split_windows("ab", [(0, 1)] * 4 + [(1, 2)] * 4, size=3, overlap=1)
    assert sorted({i for a, b in found for i in range(a, b)}) == [0, 1]


def test_what_is_no_token_is_not_lost():
    text = "\x00\x01 One two. \x02 Three four.\x03"
    spans = [match.span() for match in re.finditer(r"\w+", text)]
    assert split_windows(text, spans, size=2, overlap=0) == [(0, 13), (14, 26)]


def test_spans_that_hold_the_blank_before_a_word_are_taken():
    text = "one two three four five six"
    spans = [match.span() for match in re.finditer(r" ?\w\w?", text)]
    assert split_windows(text, spans, size=4, overlap=0) == [(0, 7), (8, 13), (14, 23), (24, 27)]


def test_a_window_does_not_begin_with_the_one_before():
    text = " ".join(["Word"] * 9) + ". Two. " + " ".join(["Long"] * 15)
    assert windows(text, size=10, overlap=5)[1:] == ["Two.", " ".join(["Long"] * 10), " ".join(["Long"] * 10)]


def test_a_token_on_both_sides_of_a_sentences_end_is_not_cut():
    assert split_windows("ab. Cd ef", [(0, 2), (2, 5), (4, 6), (7, 9)], size=3, overlap=0) == [(0, 6), (7, 9)]


def test_spans_that_a_normaliser_put_out_of_order_are_taken():
    assert split_windows("abcd efgh", [(1, 2), (0, 1), (2, 4), (5, 9)], size=3, overlap=0) == [(0, 4), (5, 9)]
    out_of_order = [(0, 1), (2, 3), (10, 13), (11, 12), (6, 7), (14, 15)]
    assert split_windows("abcdefghijklmno", out_of_order, size=4, overlap=2) == [(0, 11), (10, 15)]
    one_in_another = [(0, 1), (2, 3), (4, 5), (6, 7), (8, 13), (9, 10), (11, 12), (14, 15)]
    assert split_windows("abcdefghijklmno", one_in_another, size=6, overlap=0) == [(0, 8), (8, 15)]


TEXTS = st.one_of(
    st.lists(st.sampled_from(["one", "Two", "é", "退", "。", ".", "!", "…", "\n", "\n\n", " ", "  ", "😀", "Dr", "3", '"']))
    .map("".join),
    st.text(max_size=80),
)  # fmt: skip
SIZES = st.integers(1, 12).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size // 2)))
SPANS = st.sampled_from([words, letters])


ANY_SPANS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=30)


@given(ANY_SPANS, SIZES)
def test_no_character_is_lost_whatever_the_spans(spans, sizes):
    text = "One two. Three é. 退款。 x"
    spans = [(start, min(start + length, len(text))) for start, length in spans]
    found = split_windows(text, spans, size=sizes[0], overlap=sizes[1])
    held = {i for a, b in found for i in range(a, b)}
    assert all(i in held or letter.isspace() for i, letter in enumerate(text))
    assert all(0 <= a < b <= len(text) for a, b in found)


@given(TEXTS, SIZES, SPANS)
def test_windows_cover_every_token_in_order_and_keep_to_their_bounds(text, sizes, make):
    size, overlap = sizes
    spans = make(text)
    found = split_windows(text, spans, size=size, overlap=overlap)
    held = [[i for i, (a, b) in enumerate(spans) if start <= a and b <= end] for start, end in found]
    assert {i for some in held for i in some} == set(range(len(spans)))
    if len(spans) > size:
        assert all(0 < len(some) <= size for some in held)
        assert all(not text[a].isspace() and not text[b - 1].isspace() for a, b in found)
    for (start, end), (next_start, next_end) in pairwise(found):
        assert start < next_start
        assert end < next_end
    for one, following in pairwise(held):
        assert len(set(one) & set(following)) <= overlap


@given(TEXTS, SIZES)
def test_every_character_that_is_no_blank_is_in_a_window(text, sizes):
    found = split_windows(text, words(text), size=sizes[0], overlap=sizes[1])
    held = {i for a, b in found for i in range(a, b)}
    assert all(i in held or letter.isspace() for i, letter in enumerate(text))


@given(TEXTS, SPANS)
def test_a_text_that_fits_is_one_window_and_unchanged(text, make):
    spans = make(text)
    assert split_windows(text, spans, size=max(len(spans), 1), overlap=0) == [(0, len(text))]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 4))
def test_no_sentence_that_fits_is_cut(lengths, overlap):
    text = " ".join(" ".join(["Word"] * n) + "." for n in lengths)
    starts = {0, *sentence_starts(text)}
    found = split_windows(text, words(text), size=10, overlap=overlap)
    assert {a for a, _ in found} <= starts
    assert {b + 1 for _, b in found[:-1]} <= starts


@pytest.mark.parametrize("size", [10, 200])
@pytest.mark.parametrize("piece", ["One two. ", ". ", ".", "\n a", "Dr. ", "退款。", "word ", "x", "!) "])
def test_work_grows_no_faster_than_the_text(piece, size, monkeypatch):
    """Counts the places that are looked at: no other load on the machine changes them."""
    looks = 0

    class Counted(sentences_module._Tokens):
        def is_word(self, i):
            nonlocal looks
            looks += 1
            return super().is_word(i)

        def is_between(self, i):
            nonlocal looks
            looks += 1
            return super().is_between(i)

    monkeypatch.setattr(sentences_module, "_Tokens", Counted)
    text = piece * 5_000
    spans = letters(text)
    split_windows(text, spans, size=size, overlap=size // 2)
    assert looks <= 4 * len(spans)
