"""Where tokens are, as backends with a tokenizer say it: without their weights, and in characters of the text that was given."""

import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from shutil import copyfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rerankx import MissingDependencyError, ModelNotFoundError
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.backends.embedded import Embedded
from rerankx.backends.embedded.lexical import DATA
from rerankx.backends.flashrank import FlashRank
from rerankx.engines import spans
from rerankx.sentences import split_windows
from rerankx.testing import FakeBackend

CORPUS = [
    "A refund takes five working days to reach your account.",
    "the museum opens on Sundays",
    "退款需要多长时间 é",
]


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=80, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def word_piece():
    return Tokenizer.from_file(str(DATA / "tokenizer.json"))


@pytest.fixture(scope="module", params=[word_piece, byte_level, unigram], ids=lambda make: make.__name__)
def folder(request, tmp_path_factory):
    """A model's folder with everything but its weights; its tokenizer cuts and pads."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = request.param()
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    return folder


@pytest.fixture(params=["embedded", "cross-encoder", "flashrank"])
def backend(request, folder):
    return {
        "embedded": Embedded,
        "cross-encoder": lambda: CrossEncoder(folder),
        "flashrank": lambda: FlashRank(folder),
    }[request.param]()


def test_every_token_is_told_in_characters_of_the_text(backend):
    text = "A refund takes five days, déjà vu."
    found = backend.token_spans(text)
    assert "".join(text[start:end].strip() for start, end in dict.fromkeys(found)) == text.replace(" ", "")
    assert len(found) > 8  # the tokenizer's own truncation
    assert found[0][0] == 0
    assert found[-1][1] == len(text)


def test_a_long_text_is_read_whole_and_in_order(backend):
    text = "A refund takes five days. " * 10_000
    found = backend.token_spans(text)
    assert found[-1][1] >= len(text.rstrip())
    assert all(a[0] <= b[0] for a, b in pairwise(found))
    starts = {start + (text[start] == " ") for start, _ in found}
    assert {i for i in range(len(text)) if text[i] != " " and (i == 0 or text[i - 1] == " ")} <= starts


@pytest.mark.parametrize("text", ["half \ud83d a pair", "\udfff", "x" * 120_000, "\n" * 120_000, "😀" * 60_000])
def test_awkward_texts_are_taken(backend, text):
    found = backend.token_spans(text)
    assert all(0 <= start <= end <= len(text) for start, end in found)
    windows = split_windows(text, found, size=50, overlap=10)
    assert sum(end - start for start, end in windows) >= len(text.strip())


def test_a_text_without_tokens_has_no_spans(backend):
    assert list(backend.token_spans("")) == []


@pytest.fixture
def own_folder(tmp_path):
    """A folder with the embedded model's tokenizer, and no weights."""
    (tmp_path / "config.json").write_text("{}", "utf-8")
    copyfile(DATA / "tokenizer.json", tmp_path / "tokenizer.json")
    return tmp_path


@pytest.mark.parametrize("kind", [CrossEncoder, FlashRank])
def test_it_is_the_models_own_tokenizer(own_folder, kind):
    text = "Unbelievably internationalised refunds, [SEP] and so on."
    found = kind(own_folder).token_spans(text)
    assert found == Embedded().token_spans(text)
    assert found != FakeBackend().token_spans(text)


@pytest.mark.parametrize("made", [lambda _: Embedded(), CrossEncoder, FlashRank])
def test_special_tokens_in_a_text_are_its_characters(own_folder, made):
    assert made(own_folder).token_spans("[SEP]") == [(0, 1), (1, 4), (4, 5)]


@pytest.mark.parametrize("blank", [" ", "\n"])
def test_what_is_too_long_to_be_read_at_once_is_cut_at_blanks(blank):
    text = f"refund{blank}" * 20_000
    cut = list(spans.parts(text))
    assert "".join(part for _, part in cut) == text
    assert [text[start : start + len(part)] for start, part in cut] == [part for _, part in cut]
    assert len(cut) == 3
    assert all(part.startswith(blank) for _, part in cut[1:])
    assert max(len(part) for _, part in cut) <= 50_000


def test_what_has_no_blanks_is_cut_all_the_same():
    assert [(start, len(part)) for start, part in spans.parts("x" * 120_000)] == [
        (0, 50_000),
        (50_000, 50_000),
        (100_000, 20_000),
    ]


def test_words_at_a_cut_are_whole():
    one = Embedded().token_spans("unbelievably")
    assert len(one) > 1
    found = Embedded().token_spans("unbelievably " * 5_000)
    assert found == [(start + 13 * i, end + 13 * i) for i in range(5_000) for start, end in one]


@given(st.text(max_size=60))
def test_the_embedded_spans_are_as_many_as_the_pieces_that_are_read(text):
    backend = Embedded()
    found = backend.token_spans(text)
    assert len(found) == len(backend._encoder().pieces(text))
    assert all(0 <= start <= end <= len(text) for start, end in found)


def test_the_tokenizer_is_read_once_and_threads_share_it(folder, monkeypatch):
    read, load = [], Tokenizer.from_file
    monkeypatch.setattr(
        spans, "Tokenizer", type("Counted", (), {"from_file": lambda path: read.append(path) or load(path)})
    )
    for backend in (CrossEncoder(folder), FlashRank(folder)):
        read.clear()
        together = threading.Barrier(8)

        def ask(text, backend=backend, together=together):
            together.wait(timeout=60)
            return backend.token_spans(text)

        texts = [f"A refund takes {i} days." for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(ask, texts)) == [backend.token_spans(text) for text in texts]
        assert len(read) == 1
        copy = pickle.loads(pickle.dumps(backend))
        assert copy.token_spans(texts[0]) == backend.token_spans(texts[0])


def test_a_model_without_tokenizer_json_counts_what_looks_like_tokens(tmp_path):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    text = "A refund takes five days."
    for backend in (CrossEncoder(tmp_path), FlashRank(tmp_path)):
        assert backend.token_spans(text) == FakeBackend().token_spans(text)


def test_a_spoilt_tokenizer_is_told(tmp_path):
    (tmp_path / "config.json").write_text("{}", "utf-8")
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    for backend in (CrossEncoder(tmp_path), FlashRank(tmp_path)):
        with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json is no tokenizer that tokenizers reads"):
            backend.token_spans("text")


@pytest.mark.parametrize("kind", [CrossEncoder, FlashRank])
@pytest.mark.parametrize("anew", ["download", "close"])
def test_a_new_version_of_the_model_brings_its_tokenizer(own_folder, kind, anew):
    backend = kind(own_folder)
    before = backend.token_spans("unbelievably refunded")
    byte_level().save(str(own_folder / "tokenizer.json"))
    assert backend.token_spans("unbelievably refunded") == before
    if anew == "close":
        backend.close()
    else:
        with pytest.raises((ModelNotFoundError, MissingDependencyError)):  # there is no graph, and torch not everywhere
            backend.download()
    assert backend.token_spans("unbelievably refunded") != before
