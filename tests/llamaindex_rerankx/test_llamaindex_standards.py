"""`PostprocessorStandardTests` on our postprocessor, and on those of others."""

import os
import sys
from importlib.util import find_spec
from types import MappingProxyType, ModuleType
from typing import ClassVar

import numpy as np
import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

import llamaindex_stage

import rerankx
from llamaindex_rerankx import Rerank
from llamaindex_rerankx.testing import PostprocessorStandardTests
from rerankx import Scale
from rerankx.testing import FakeBackend

KEY = "sk-0123456789abcdef"
BOOM = RuntimeError("the model is out of order")


def known_faults(**reasons):
    """Mark inherited tests as expected to fail."""

    def marked(tests):
        for name, reason in reasons.items():
            inherited = getattr(PostprocessorStandardTests, name)

            def test(self, inherited=inherited):
                inherited(self)

            setattr(tests, name, pytest.mark.xfail(reason=reason, strict=True)(test))
        return tests

    return marked


def missing(package):
    """Return what stands in the place of tests that need the package."""

    @pytest.mark.skip(reason=f"needs: pip install {package}")
    class Missing:
        def test_missing(self):
            raise NotImplementedError

    return Missing


def found(module):
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # not even the parent
        return False


def needs(module, package):
    return lambda tests: tests if found(module) else missing(package)


# Ours


class TestRerank(PostprocessorStandardTests):
    """Over a backend object, which does not survive `to_dict`."""

    scores_textless = False
    survives_to_dict = False

    def scoring(self, scores, **fields):
        self.backend = FakeBackend(reply=scores)
        return Rerank(self.backend, **fields)

    def failing(self, **fields):
        return Rerank(FakeBackend(error=BOOM), **fields)

    def asked(self):
        return self.backend.calls[-1].texts

    def waiting(self, wait):
        return Rerank(FakeBackend(score=lambda query, text: wait() or 0.5))


class TestRerankOverACore(TestRerank):
    """Over a `rerankx.Reranker`, with scores that are only an order."""

    def scoring(self, scores, **fields):
        self.backend = FakeBackend(reply=scores, scale=Scale.RANK)
        return Rerank(rerankx.Reranker(self.backend), **fields)

    def failing(self, **fields):
        return Rerank(rerankx.Reranker(FakeBackend(error=BOOM)), **fields)

    def waiting(self, wait):
        return Rerank(rerankx.Reranker(FakeBackend(score=lambda query, text: wait() or 0.5)))


class Answering(FakeBackend):
    """A backend for use by name, which does not work without a key; its scores are numpy's logits, like a local model's."""

    made: ClassVar[list] = []
    secrets = MappingProxyType({"api_key": "ANSWERING_API_KEY"})

    def __init__(self, model="m", scores=None, *, api_key=None):
        super().__init__(model=model, scale=Scale.LOGIT, error=BOOM if scores is None else None)
        self._reply = None if scores is None else [np.float32(score) for score in scores]
        self.api_key = api_key or os.environ["ANSWERING_API_KEY"]
        self.made.append(self)


class TestRerankByName(PostprocessorStandardTests):
    scores_textless = False
    secret = KEY
    given_again: ClassVar = {"api_key": KEY}

    @pytest.fixture(autouse=True)
    def _answering(self, installed_backends, monkeypatch):
        monkeypatch.setattr(llamaindex_stage, "Overlap", Answering)
        monkeypatch.setattr(Answering, "made", [])
        monkeypatch.setenv("ANSWERING_API_KEY", "for-pickles")

    def scoring(self, scores, **fields):
        return Rerank("overlap", scores=list(scores), api_key=KEY, **fields)

    def failing(self, **fields):
        return Rerank("overlap", api_key=KEY, **fields)

    def asked(self):
        return Answering.made[-1].calls[-1].texts


# Those of others


class StubbedModels(PostprocessorStandardTests):
    """Postprocessors that load a model by its name: what it answers is kept under that name, as it would be on a disk."""

    answers: ClassVar[dict] = {}
    waits: ClassVar[dict] = {}
    texts: ClassVar[list] = []

    def scoring(self, scores, **fields):
        name = f"model {len(self.answers)}"
        self.answers[name] = None if scores is None else np.array(scores, dtype=np.float32)
        return self.made(name, fields)

    def waiting(self, wait):
        made = self.scoring([0.5])
        self.waits[made.model] = wait
        return made

    def failing(self, **fields):
        return self.scoring(None, **fields)

    def asked(self):
        return self.texts

    @classmethod
    def answer(cls, name, texts):
        cls.texts[:] = texts
        cls.waits.get(name, bool)()
        if cls.answers[name] is None:
            raise RuntimeError("the model is out of order")  # anew: LlamaIndex marks those that it has told of
        return cls.answers[name]


class CrossEncoder:
    """What sentence-transformers' does, without a model."""

    def __init__(self, model_name, **options):
        self.model_name = model_name

    def predict(self, pairs):
        return StubbedModels.answer(self.model_name, [text for _, text in pairs])


@known_faults(
    test_top_n_below_one_is_refused="takes any number; with -1 the last node is lost",
    test_an_assigned_top_n_below_one_is_refused="takes any number",
    test_a_string_as_query_bundle_is_taken="'str' object has no attribute 'query_str'",
    test_bare_nodes_are_taken="'TextNode' object has no attribute 'node'",
    test_the_same_node_twice_comes_back_twice="writes the scores into what came in: the last one counts for both places",
    test_the_score_is_a_finite_builtin_float="numpy's float32, which JSON does not know, #10780",
    test_the_input_stays_as_it_was="writes the scores into what came in",
    test_what_comes_back_are_new_objects_around_the_same_nodes="returns what came in",
    test_a_second_call_leaves_the_first_result_alone="writes the scores into what it has returned",
    test_a_score_that_is_not_finite_is_an_error="sorts by NaN, which puts nodes anywhere",
    test_rerank_events_are_sent="sends none",
    test_the_events_belong_to_the_span="sends none",
    test_a_callback_manager_may_be_given="its constructor does not take it",
)
class TestSentenceTransformerRerank(StubbedModels):
    default_top_n = 2

    @pytest.fixture(autouse=True)
    def _sentence_transformers(self, monkeypatch):
        stub = ModuleType("sentence_transformers")
        stub.CrossEncoder = CrossEncoder
        monkeypatch.setitem(sys.modules, "sentence_transformers", stub)

    def made(self, name, fields):
        from llama_index.core.postprocessor import SentenceTransformerRerank

        return SentenceTransformerRerank(model=name, **{"device": "cpu", **fields})


class Ranker:
    """What FlashRank's does, without a model: the passages that came in, with their scores, best first."""

    def __init__(self, model_name, max_length):
        self.model_name = model_name

    def rerank(self, request):
        scores = StubbedModels.answer(self.model_name, [passage["text"] for passage in request.passages])
        surplus = [{"id": f"surplus {i}"} for i in range(len(scores) - len(request.passages))]
        scored = [*request.passages, *surplus][: len(scores)]
        for passage, score in zip(scored, scores, strict=True):
            passage["score"] = score
        return sorted(scored, key=lambda passage: passage["score"], reverse=True)


@needs("llama_index.postprocessor.flashrank_rerank", "llama-index-postprocessor-flashrank-rerank")
@known_faults(
    test_top_n_below_one_is_refused="takes any number; with -1 the last node is lost",
    test_an_assigned_top_n_below_one_is_refused="takes any number",
    test_an_unknown_field_is_refused="ignores what it does not know",
    test_a_string_as_query_bundle_is_taken="'str' object has no attribute 'query_str'",
    test_bare_nodes_are_taken="'TextNode' object has no attribute 'node'",
    test_duplicates_keep_their_own_scores="keeps the scores by id: the lowest counts for all nodes of that id",
    test_the_same_node_twice_comes_back_twice="keeps the scores by id, and writes them into what came in",
    test_the_score_is_a_finite_builtin_float="numpy's float32, which JSON does not know",
    test_the_input_stays_as_it_was="writes the scores into what came in",
    test_what_comes_back_are_new_objects_around_the_same_nodes="returns what came in",
    test_a_second_call_leaves_the_first_result_alone="writes the scores into what it has returned",
    test_a_score_that_is_not_finite_is_an_error="sorts by NaN, which puts nodes anywhere",
    test_rerank_events_are_sent="sends events of its own instead",
    test_a_reranking_callback_is_called="calls none",
    test_a_number_is_told_where_all_are_kept="tells nothing",
    test_the_events_belong_to_the_span="sends events of its own instead",
    test_a_failure_is_told="calls no callback",
)
class TestFlashRankRerank(StubbedModels):
    default_top_n = 20

    @pytest.fixture(autouse=True)
    def _ranker(self, monkeypatch):
        from llama_index.postprocessor.flashrank_rerank import base

        monkeypatch.setattr(base, "Ranker", Ranker)

    def made(self, name, fields):
        from llama_index.postprocessor.flashrank_rerank import FlashRankRerank

        return FlashRankRerank(model=name, **fields)
