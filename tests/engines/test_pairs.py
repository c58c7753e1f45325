"""Pairs joined by hand are the tokenizer's own, to the id: over the three kinds of tokenizers that cross-encoders have."""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from rerankx import ModelNotFoundError, demo
from rerankx.backends.embedded.lexical import DATA
from rerankx.engines.pairs import PairTokenizer, lengths

AWKWARD = [
    "",
    " ",
    "\U0001f600 \u200d",
    "\u0643\u0645 \u064a",
    "\u9000\u6b3e",
    "a[SEP]b</s>",
    "half \ud83d",
    "x" * 300,
    "e\u0301",
]


def word_piece():
    """BERT's, with the vocabulary of the embedded model."""
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizer.json"))
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    return tokenizer


def trained(model, trainer, **parts):
    tokenizer = Tokenizer(model)
    for name, part in parts.items():
        setattr(tokenizer, name, part)
    tokenizer.train_from_iterator([passage.text for passage in demo.passages()], trainer)
    return tokenizer


def unigram():
    """XLM-RoBERTa's kind: SentencePiece, and two separators between query and text."""
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = trained(
        models.Unigram(),
        trainers.UnigramTrainer(vocab_size=800, special_tokens=special, unk_token="<unk>", show_progress=False),
        normalizer=normalizers.NFKC(),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def byte_level():
    """ModernBERT's kind: BPE over bytes, and no second token type."""
    tokenizer = trained(
        models.BPE(),
        trainers.BpeTrainer(vocab_size=800, special_tokens=["[CLS]", "[SEP]"], show_progress=False),
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoder=decoders.ByteLevel(),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    return tokenizer


def roberta():
    """RoBERTa's own post-processor, which gives every token the type 0."""
    tokenizer = byte_level()
    tokenizer.post_processor = processors.RobertaProcessing(("[SEP]", 1), ("[CLS]", 0))
    return tokenizer


MAKERS = [word_piece, unigram, byte_level, roberta]


@pytest.fixture(scope="module", params=MAKERS, ids=lambda make: make.__name__)
def both(request):
    """By hand and by the tokenizer itself, for a given length: two objects, since the one is set up once and for all."""
    own = request.param()
    hand = Tokenizer.from_str(own.to_str())  # training twice need not give the same
    own.encode_special_tokens = True
    pairs_of = lru_cache(lambda max_tokens: PairTokenizer(hand, max_tokens=max_tokens))

    def made(max_tokens, query, text):
        pairs = pairs_of(max_tokens)
        pair = pairs.join(pairs.ids(query), pairs.ids(text))
        own.enable_truncation(max_tokens, strategy="longest_first")
        expected = own.encode(*(some.encode("utf-8", "replace").decode("utf-8") for some in (query, text)))
        return pair, expected

    return made


def check(pair, expected):
    assert pair.ids.tolist() == expected.ids
    assert pair.types.tolist() == expected.type_ids
    assert pair.cut == bool(expected.overflowing)


@pytest.mark.parametrize("max_tokens", [8, 9, 64, 512])
@pytest.mark.parametrize(
    "query", ["who pays for a refund?", "x", "", "refund " * 20], ids=["usual", "x", "none", "long"]
)
def test_pairs_are_those_of_the_tokenizer(both, max_tokens, query):
    if query.startswith("refund"):
        query *= max_tokens // 8
    for text in [*AWKWARD, *(passage.text[: 20 * max_tokens] for passage in demo.passages()[:20])]:
        check(*both(max_tokens, query, text))


@given(st.text(max_size=60), st.text(max_size=200), st.integers(6, 40))
def test_any_pair_is_that_of_the_tokenizer(both, query, text, max_tokens):
    check(*both(max_tokens, query, text))


@given(st.integers(0, 40), st.integers(0, 40), st.integers(2, 40))
def test_lengths_fill_the_room_and_take_from_the_longer(query, text, room):
    kept_query, kept_text = lengths(query, text, room)
    assert kept_query <= query
    assert kept_text <= text
    assert kept_query + kept_text == min(room, query + text)
    if query <= room // 2:
        assert kept_query == query


def test_threads_share_one_tokenizer():
    pairs = PairTokenizer(word_piece(), max_tokens=64)
    texts = [passage.text for passage in demo.passages()] * 4
    alone = [pairs.ids(text).tolist() for text in texts]
    with ThreadPoolExecutor(8) as pool:
        assert [ids.tolist() for ids in pool.map(pairs.ids, texts)] == alone


def test_a_tokenizer_that_was_cut_and_padded_is_set_right():
    tokenizer = word_piece()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=200)
    pairs = PairTokenizer(tokenizer, max_tokens=64)
    assert len(pairs.join(pairs.ids("one two three four five six"), pairs.ids("a")).ids) == 10


def test_a_tokenizer_without_pairs_is_refused():
    bare = word_piece()
    bare.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="$B [SEP] $A", special_tokens=[("[CLS]", 101), ("[SEP]", 102)]
    )
    with pytest.raises(ModelNotFoundError, match="does not make pairs"):
        PairTokenizer(bare, max_tokens=64)


def test_there_must_be_room_for_a_query_and_a_text():
    with pytest.raises(ValueError, match="max_tokens must be at least 5, not 4"):
        PairTokenizer(word_piece(), max_tokens=4)


@pytest.mark.parametrize("make", [word_piece, unigram, byte_level], ids=lambda make: make.__name__)
def test_of_a_long_text_the_start_gives_the_same_pair(make):
    pairs = PairTokenizer(make(), max_tokens=40)
    query, text = pairs.ids("how long does a refund take"), "Refunds reach your card within ten days. " * 200
    assert len(pairs.start(text)) < len(pairs.ids(text)) / 2
    for one, other in zip(pairs.join(query, pairs.start(text)), pairs.join(query, pairs.ids(text)), strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("text", ["a short text", "x" * 30_000, "x" * 30_000 + " and more", "  ", ""])
def test_a_text_of_few_tokens_or_blanks_is_read_whole(text):
    pairs = PairTokenizer(word_piece(), max_tokens=40)
    assert pairs.start(text).tolist() == pairs.ids(text).tolist()
