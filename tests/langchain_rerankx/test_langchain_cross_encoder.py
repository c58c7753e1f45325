import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

import numpy as np
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_stage import BEST, QUESTION, documents, pages, scores

import rerankx
from langchain_rerankx import Reranker, cross_encoder
from langchain_rerankx.cross_encoder import CrossEncoder
from rerankx.testing import BackendContract, word_overlap


class Overlap(BaseCrossEncoder):
    model_name = "overlap"

    def score(self, text_pairs):
        return np.array([word_overlap(*pair) for pair in text_pairs], np.float32)


class Classes(BaseCrossEncoder):
    def score(self, text_pairs):
        return np.zeros((len(text_pairs), 2), np.float32)


class Second(BaseCrossEncoder):
    """Of two classes the second, as `HuggingFaceCrossEncoder` gives it."""

    def score(self, text_pairs):
        return (np.float32(word_overlap(*pair)) for pair in text_pairs)


class Short(BaseCrossEncoder):
    def score(self, text_pairs):
        return [0.5]


class TestCrossEncoder(BackendContract):
    def make(self):
        return CrossEncoder(Overlap())


def asked():
    return {"query": QUESTION, "documents": documents()}


def test_a_cross_encoder_of_langchains_reranks(invoke):
    found = invoke(Reranker.from_cross_encoder(Overlap(), top_n=3), asked())
    assert pages(found) == BEST[:3]


def test_without_a_scale_its_scores_are_an_order(invoke):
    reranker = Reranker.from_cross_encoder(Overlap())
    assert scores(invoke(reranker, asked())) == [1.0, 0.8, 0.6, 0.4, 0.2]
    with pytest.raises(ValueError, match="only an order"):
        Reranker.from_cross_encoder(Overlap(), min_score=0.5)


def test_with_a_scale_they_can_be_cut(invoke):
    reranker = Reranker.from_cross_encoder(Overlap(), scale=rerankx.Scale.PROBABILITY, min_score=0.5)
    assert pages(invoke(reranker, asked())) == BEST[:2]


def test_the_model_is_named():
    assert CrossEncoder(Overlap()).model == "overlap"
    assert CrossEncoder(Classes()).model == "Classes"


def test_scores_of_several_classes_are_refused_by_their_shape(invoke):
    with pytest.raises(rerankx.ReplyError, match=r"shape \(5, 2\) for 5 texts"):
        invoke(Reranker.from_cross_encoder(Classes()), asked())


def test_scores_may_be_any_iterable(invoke):
    assert pages(invoke(Reranker.from_cross_encoder(Second()), asked())) == BEST


def test_a_column_of_scores_is_taken(invoke):
    class Column(Overlap):
        def score(self, text_pairs):
            return super().score(text_pairs)[:, None]

    assert pages(invoke(Reranker.from_cross_encoder(Column()), asked())) == BEST


def test_lists_of_scores_are_refused(invoke):
    class Lists(Overlap):
        def score(self, text_pairs):
            return [[0.1, 0.9] for _ in text_pairs]

    with pytest.raises(rerankx.ReplyError, match="something else than numbers for 5 texts"):
        invoke(Reranker.from_cross_encoder(Lists()), asked())


def test_one_call_at_a_time_reaches_an_encoder_that_two_rerankers_share():
    class Watched(Overlap):
        inside, most = 0, 0

        def score(self, text_pairs):
            self.inside += 1
            self.most = max(self.most, self.inside)
            time.sleep(0.01)
            self.inside -= 1
            return super().score(text_pairs)

    watched = Watched()
    rerankers = [Reranker.from_cross_encoder(watched) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda reranker: reranker.invoke(asked()), rerankers))
    assert watched.most == 1


def test_an_encoder_that_is_used_again_is_watched_once():
    encoder = Overlap()
    CrossEncoder(encoder)
    before = len(weakref.finalize._registry)
    for _ in range(5):
        CrossEncoder(encoder)
    assert len(weakref.finalize._registry) == before


def test_an_encoder_that_is_gone_leaves_no_lock_behind():
    encoder = Overlap()
    made, before = CrossEncoder(encoder), len(cross_encoder._locks)
    del encoder, made
    gc.collect()
    assert len(cross_encoder._locks) < before


def test_too_few_scores_are_an_error_and_lose_no_document(invoke):
    with pytest.raises(rerankx.ReplyError):
        invoke(Reranker.from_cross_encoder(Short()), asked())


def test_what_does_not_score_is_refused():
    with pytest.raises(TypeError, match=r"has a method score\(pairs\); str has none"):
        Reranker.from_cross_encoder("cross-encoder/ms-marco-MiniLM-L6-v2")
