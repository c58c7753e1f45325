import hashlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rerankx import DeadlineError, ModelNotFoundError, Reranker
from rerankx.backends.embedded import Embedded
from rerankx.backends.embedded.combine import (
    COSINE,
    LEXICAL,
    MAXSIM,
    cosine,
    maxsim,
    pack,
    parts_of,
    query_of,
)
from rerankx.backends.embedded.encoder import Encoding, SentenceEncoder, shared_encoder
from rerankx.backends.embedded.lexical import DATA, Lexicon, bm25, shared_lexicon
from rerankx.backends.embedded.vectors import VectorCache, content_key
from rerankx.catalogue import EMBEDDED
from rerankx.interface import Backend, deadline
from rerankx.testing import BackendContract

TEXTS = ["The cat sat on the mat.", "Stock markets fell on Monday.", "A kitten rests on a rug."]


class TestEmbedded(BackendContract):
    truncates = True
    on_deadline = "unscored"

    def make(self) -> Backend:
        return Embedded()

    def variants(self) -> list[Backend]:
        return [Embedded(max_tokens=128)]


class TestEmbeddedWithoutCache(TestEmbedded):
    def make(self) -> Backend:
        return Embedded(cache_bytes=0)


class TestEmbeddedWithCacheForOneText(TestEmbedded):
    def make(self) -> Backend:
        return Embedded(cache_bytes=20_000)


# What ships


def test_the_files_are_those_of_the_card():
    assert hashlib.sha256((DATA / "encoder.int8.onnx").read_bytes()).hexdigest() == EMBEDDED.sha256
    assert round((DATA / "encoder.int8.onnx").stat().st_size / 1e6) == EMBEDDED.megabytes


def test_no_file_that_ships_is_a_pickle():
    assert {path.suffix for path in DATA.iterdir()} == {".onnx", ".json", ".npz"}
    with zipfile.ZipFile(DATA / "lexicon.npz") as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                np.lib.format.read_array(file, allow_pickle=False)


def test_the_encoder_gives_the_vectors_of_the_published_model():
    # minilm_fp32.npy is SentenceTransformer("all-MiniLM-L6-v2").encode(TEXTS, normalize_embeddings=True), fp32 on CPU with
    # sentence-transformers 6.2.0, torch 2.13.0. The fp32 file of scripts/build_encoder.py is equal to it within 2e-7; what is
    # left here is the cost of int8.
    reference = np.load(Path(__file__).parent / "minilm_fp32.npy")
    for text, expected in zip(TEXTS, reference, strict=True):
        vector = shared_encoder().encode(text, max_tokens=256).vectors.mean(axis=0)
        assert vector @ expected / np.linalg.norm(vector) > 0.985


# What it does


def test_meaning_beats_shared_words():
    ranking = Reranker().rerank("Where does the cat sleep?", ["The cat scan costs 90 euros.", TEXTS[2], TEXTS[1]])
    assert ranking[0].document == TEXTS[2]


def test_words_decide_between_texts_of_one_meaning():
    ranking = Reranker().rerank("error E4711", ["What error E4712 means", "What error E4711 means"])
    assert ranking[0].index == 1


def test_a_text_of_only_unknown_characters_is_scored_low():
    (score,) = Embedded().score("how do refunds work", ["𓀀𓀁𓀂"]).values
    assert score < 0.3


def test_special_tokens_in_a_text_are_words_like_others():
    ids = list(shared_encoder().pieces("[SEP] [CLS]"))
    assert 101 not in ids
    assert 102 not in ids


def test_a_query_in_a_script_that_it_cannot_read_is_ranked_with_one_warning(caplog):
    reranker = Reranker()
    for query in ("चाय कैसे बनाते हैं", "как вернуть деньги"):
        assert len(reranker.rerank(query, TEXTS)) == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "reads English" in caplog.text


@pytest.mark.parametrize("query", ["naïve café, ça va?", "β-blockers and 5 µm", "42 %"])
def test_a_query_in_latin_script_or_without_letters_is_no_reason_to_warn(query, caplog):
    Reranker().rerank(query, TEXTS)
    assert not caplog.records


def test_the_query_is_cut_like_a_text():
    long_query = "refund " * 2000
    (score,) = Embedded(max_tokens=16).score(long_query, ["refund"]).values
    assert 0 <= score <= 1


def test_words_behind_the_cut_still_count():
    filler = "The garden is open. " * 100
    with_word, without = Embedded(max_tokens=32).score("xylophone", [filler + "xylophone", filler + "trombone"]).values
    assert with_word > without


def test_a_cut_text_is_counted_each_time_it_is_given():
    long = "word " * 1000
    assert Embedded().score("q", [long, "short", long]).truncated == 2


# The cache


def test_known_texts_are_not_encoded_again_and_the_usage_says_so():
    backend = Embedded()
    first = backend.score("cat", TEXTS)
    second = backend.score("dog", [*TEXTS, "A new one."])
    assert (first.usage.cache_hits, first.usage.cache_misses) == (0, 3)
    assert (second.usage.cache_hits, second.usage.cache_misses) == (3, 1)
    assert second.usage.input_tokens < first.usage.input_tokens


def test_a_known_text_scores_as_a_new_one():
    backend = Embedded()
    new = backend.score("cat", TEXTS).values
    assert backend.score("cat", TEXTS).values == new == Embedded(cache_bytes=0).score("cat", TEXTS).values


def test_a_text_given_twice_is_encoded_once():
    backend = Embedded(cache_bytes=0)
    twice = backend.score("cat", [TEXTS[0], TEXTS[0]])
    once = backend.score("cat", [TEXTS[0]])
    assert twice.usage.input_tokens == once.usage.input_tokens


def _packed(tokens: int) -> object:
    return pack(
        Encoding(np.arange(tokens, dtype=np.uint16), np.ones((tokens + 2, 384), np.float32), False), shared_lexicon()
    )


def test_the_cache_stays_within_its_bytes_and_drops_what_was_used_last_the_longest_ago():
    entry = _packed(10)
    cache = VectorCache(3 * (entry.nbytes + 1000))
    for name in (b"a", b"b", b"c"):
        cache.put(name, entry)
    cache.get(b"a")
    while len(cache) == 3:
        cache.put(name := name + b"'", entry)
        assert cache.nbytes <= cache.capacity
        if cache.get(b"b") is None:
            break
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_the_cache_counts_what_it_holds():
    import tracemalloc

    cache = VectorCache(2**30)
    tracemalloc.start()
    for i in range(200):
        cache.put(content_key(str(i)), _packed(30))
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert 0.9 * held < cache.nbytes < 1.1 * held


def test_a_text_replaced_is_counted_once():
    cache = VectorCache(10**6)
    cache.put(b"a", _packed(10))
    once = cache.nbytes
    cache.put(b"a", _packed(10))
    assert cache.nbytes == once


def test_a_text_larger_than_the_cache_is_not_kept():
    cache = VectorCache(1000)
    cache.put(b"a", _packed(100))
    assert len(cache) == cache.nbytes == 0


# Options and life


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"max_tokens": 7}, ValueError, r"max_tokens must be in \[8, 512\], not 7"),
        ({"max_tokens": 513}, ValueError, "max_tokens"),
        ({"max_tokens": "128"}, TypeError, "max_tokens must be a whole number, not '128'"),
        ({"max_tokens": True}, TypeError, "max_tokens"),
        ({"cache_bytes": -1}, ValueError, "cache_bytes must be at least 0, not -1"),
        ({"model": "all-mpnet-base-v2"}, ModelNotFoundError, "'all-MiniLM-L6-v2', and no 'all-mpnet-base-v2'"),
        ({"max_token": 128}, TypeError, "did you mean 'max_tokens'"),
    ],
)
def test_a_wrong_option_is_named(options, error, message):
    with pytest.raises(error, match=message):
        Reranker("embedded", **options)


def test_its_one_model_may_be_named():
    assert Reranker("embedded:all-MiniLM-L6-v2").backend.model == Reranker().backend.model


def test_it_pickles_without_its_vectors_and_weights():
    backend = Embedded(max_tokens=128)
    backend.score("cat", TEXTS)
    pickled = pickle.dumps(backend)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).max_tokens == 128


def test_two_instances_share_the_model():
    assert Embedded()._encoder() is Embedded()._encoder()


def test_the_model_is_loaded_once_by_threads_that_come_together(monkeypatch):
    from rerankx.backends.embedded import encoder

    loads = []

    class Slow(SentenceEncoder):
        def __init__(self) -> None:
            loads.append(1)
            super().__init__()

    monkeypatch.setattr(encoder, "_shared", None)
    monkeypatch.setattr(encoder, "SentenceEncoder", Slow)
    with ThreadPoolExecutor(16) as threads:
        got = list(threads.map(lambda _: encoder.shared_encoder(), range(16)))
    assert len(loads) == len(set(map(id, got))) == 1


def test_making_one_loads_nothing():
    code = "from rerankx import Reranker; Reranker(); from rerankx.backends.embedded import encoder; print(encoder._shared)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "None"


def test_an_incomplete_installation_says_what_to_do(tmp_path):
    with pytest.raises(ModelNotFoundError, match=r"encoder.int8.onnx is not in .* pip install --force-reinstall"):
        SentenceEncoder(tmp_path)


def test_a_deadline_leaves_the_rest_unscored_and_keeps_what_was_done():
    backend = Embedded()
    backend.score("cat", TEXTS[:1])  # loaded, and one text known
    texts = [TEXTS[0], *(f"{'word ' * 250}{i}" for i in range(400))]
    with deadline(0.3):
        scores = backend.score("cat", texts)
    assert scores.degraded == "deadline"
    assert scores.values[0] is not None
    assert None in scores.values


def _score_in_child(texts: list[str]) -> list[float | None]:
    return list(Embedded().score("cat", texts).values)


def test_a_long_text_is_read_in_parts_as_it_is_read_whole(monkeypatch):
    from rerankx.engines import spans

    text = "Refunds, naïve café:\n退款 takes ten days. " * 300 + "x" * 3000
    whole, found = shared_encoder().pieces(text), shared_encoder().spans(text)
    monkeypatch.setattr(spans, "_PART", 997)
    # The run of letters at the end, longer than a part and than any word, may be cut anywhere.
    assert list(shared_encoder().pieces(text)[:3600]) == list(whole[:3600])
    assert shared_encoder().spans(text)[:3600] == found[:3600]
    assert "".join(part for _, part in spans.parts(text)) == text


def test_a_cancelled_call_starts_nothing_more():
    import asyncio
    import threading

    backend, begun, encoded = Embedded(cache_bytes=0), threading.Event(), []
    real = backend._encode_and_score

    def counted(query, item):
        encoded.append(item)
        begun.set()
        return real(query, item)

    backend._encode_and_score = counted

    async def cancel() -> int:
        task = asyncio.create_task(backend.ascore("cat", [f"{'word ' * 200}{i}" for i in range(500)]))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return len(encoded)

    at_once = asyncio.run(cancel())  # waits for the thread, too
    assert len(encoded) <= at_once + 4 < 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_the_cache_was_locked_does_not_wait_for_it():
    backend = Embedded()
    backend.score("cat", TEXTS)
    with backend._cache._lock:
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if None not in backend.score("cat", TEXTS).values else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_scores_as_its_parent(method):
    expected = _score_in_child(TEXTS)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_score_in_child, (TEXTS,)) == expected


# The parts

LEXICON = Lexicon(np.array([0, 1.0, 2.0, 3.0], np.float32), mean_length=4.0)


def _pieces(*ids: int) -> np.ndarray:
    return np.array(ids, np.uint16)


def test_bm25_is_the_share_of_the_query_that_is_covered():
    # One of the pieces 1 and 2 (idf 1 and 2), twice, in a text of mean length: 1 * 2/(2 + .9) / 3.
    assert bm25(_pieces(1, 2), _pieces(1, 1, 3, 3), LEXICON) == pytest.approx(2 / 2.9 / 3)


def test_bm25_of_a_text_with_all_of_it_very_often_nears_one():
    assert 0.98 < bm25(_pieces(1, 2), _pieces(*[1, 2] * 2000), Lexicon(LEXICON.idf, 4000)) < 1


def test_bm25_prefers_the_shorter_of_two_texts_with_the_same_words():
    assert bm25(_pieces(1), _pieces(1, 2), LEXICON) > bm25(_pieces(1), _pieces(1, 2, 2, 2, 2), LEXICON)


def test_bm25_counts_a_repeated_query_word_once():
    assert bm25(_pieces(1, 1, 2), _pieces(1), LEXICON) == bm25(_pieces(1, 2), _pieces(1), LEXICON)


def test_pieces_without_weight_are_no_words():
    assert bm25(_pieces(0), _pieces(1), LEXICON) == 0
    assert bm25(_pieces(1), _pieces(), LEXICON) == 0
    assert list(LEXICON.words(_pieces(0, 1, 0, 2))) == [1, 2]


def test_the_lexicon_that_ships_weighs_rare_words_and_no_punctuation():
    lexicon, pieces = shared_lexicon(), shared_encoder().pieces
    the, telescope = (lexicon.idf[pieces(word)[0]] for word in ("the", "telescope"))
    assert 0 < the < 0.1 < 3 < telescope
    assert not len(lexicon.words(pieces("?! ... —")))
    assert not len(lexicon.words(pieces("𓀀")))


def _encoding(*vectors: list[float]) -> Encoding:
    """Return an encoding with [CLS] and [SEP] around the given token vectors."""
    edge = [0.0, 0.0, 1.0]
    matrix = np.array([edge, *vectors, edge], np.float32)
    return Encoding(np.ones(len(vectors), np.uint16), matrix, False)


def test_maxsim_is_the_mean_of_each_query_tokens_best_match():
    query = query_of(_encoding([1, 0, 0], [0, 1, 0]), LEXICON)
    text = pack(_encoding([1, 0, 0], [1, 1, 0]), LEXICON)
    assert maxsim(query, text) == pytest.approx((1 + 2**-0.5) / 2, abs=0.01)


def test_maxsim_leaves_out_query_tokens_that_are_no_words():
    encoding = _encoding([1, 0, 0], [0, 1, 0])
    query = query_of(Encoding(_pieces(1, 0), encoding.vectors, False), LEXICON)
    assert len(query.tokens) == 1
    only_signs = query_of(Encoding(_pieces(0, 0), encoding.vectors, False), LEXICON)
    assert len(only_signs.tokens) == 0


@pytest.mark.parametrize("query", ["?! ...", "🚗", "ขอเงินคืนอย่างไร"])
def test_a_query_without_a_word_it_knows_leaves_the_texts_unscored_and_says_so(query, caplog):
    ranking = Reranker().rerank(query, ["🚕", "ขอเงินคืน", "refund"], min_score=0.4)
    assert ranking.degraded == "incomplete"
    assert [hit.raw_score for hit in ranking] == [None] * 3
    assert "knows no word of this query" in caplog.text


def test_maxsim_of_a_query_without_any_token_is_nothing():
    assert maxsim(query_of(_encoding(), LEXICON), pack(_encoding([1, 0, 0]), LEXICON)) == 0


def test_opposite_vectors_are_unrelated_not_worse():
    query, text = query_of(_encoding([5, 0, 0]), LEXICON), pack(_encoding([-9, 0, 0]), LEXICON)
    assert cosine(query, text) == 0


def test_packing_keeps_directions_to_a_degree():
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(50, 384)).astype(np.float32)
    text = pack(Encoding(np.ones(48, np.uint16), vectors, False), LEXICON)
    restored = text.codes * text.steps[:, None]
    np.testing.assert_allclose(np.linalg.norm(restored, axis=1), 1, atol=1e-6)
    assert ((restored * vectors).sum(axis=1) / np.linalg.norm(vectors, axis=1)).min() > 0.9995


def test_the_score_is_the_weighted_sum_of_the_parts_and_lies_in_0_1():
    encoder, lexicon = shared_encoder(), shared_lexicon()
    query = query_of(encoder.encode("cat on a mat", max_tokens=64), lexicon)
    text = pack(encoder.encode(TEXTS[0], max_tokens=64), lexicon)
    parts = parts_of(query, text, lexicon)
    assert parts.cosine == COSINE * cosine(query, text)
    assert parts.maxsim == MAXSIM * maxsim(query, text)
    assert parts.lexical == LEXICAL * bm25(query.pieces, text.words, lexicon)
    assert COSINE + MAXSIM + LEXICAL == pytest.approx(1)  # noqa: SIM300


def test_a_hit_says_what_its_score_is_made_of():
    (hit,) = Reranker().rerank("cat", TEXTS[:1])
    assert hit.details.keys() == {"cosine", "maxsim", "lexical"}
    assert sum(hit.details.values()) == hit.raw_score


def test_a_text_that_is_the_query_scores_near_the_top():
    (score,) = Embedded().score(TEXTS[0], [TEXTS[0]]).values
    assert 0.85 < score <= 1


# Vectors for others


def test_embed_gives_the_vectors_whose_product_is_the_cosine_of_a_score():
    backend = Embedded()
    asked, *found = backend.embed(["where does a cat rest?", *TEXTS])
    details = backend.score("where does a cat rest?", TEXTS).details
    assert np.allclose([COSINE * float(asked @ one) for one in found], [d["cosine"] for d in details], atol=1e-6)


def test_embed_gives_one_vector_of_length_one_per_text_in_their_order():
    backend = Embedded()
    texts = [TEXTS[1], "", TEXTS[0], TEXTS[1], "\U0001f600 \ud83d"]
    vectors = backend.embed(texts)
    assert (vectors.shape, vectors.dtype) == ((5, 384), np.float32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert (vectors[0] == vectors[3]).all()
    assert (vectors[2] == backend.embed([TEXTS[0]])[0]).all()
    assert backend.embed([]).shape == (0, 384)


def test_embed_and_score_share_what_they_know():
    backend = Embedded()
    backend.embed(TEXTS)
    assert backend.score("cats", TEXTS).usage.cache_hits == 3


@pytest.mark.parametrize(("texts", "said"), [("one", "one string"), (["a", None], "text 1 is NoneType")])
def test_embed_takes_a_list_of_strings(texts, said):
    with pytest.raises(TypeError, match=said):
        Embedded().embed(texts)


def test_embed_that_cannot_finish_in_time_is_an_error():
    with deadline(1e-9), pytest.raises(DeadlineError, match="of 3 texts"):
        Embedded().embed(TEXTS)
