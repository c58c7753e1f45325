"""Standard tests: LangChain's own for retrievers on ours, and ours for rerankers on ours and on those of others."""

import inspect
from importlib.util import find_spec
from types import MappingProxyType

import numpy as np
import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

import langchain_stage
from cohere_stage import CohereStage
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_stage import QUESTION, store

import rerankx
from langchain_rerankx import Reranker, rerank
from langchain_rerankx.testing import RerankerStandardTests
from rerankx import Scale
from rerankx.testing import FakeBackend

KEY = "sk-0123456789abcdef"
BOOM = RuntimeError("the model is out of order")


def known_faults(**reasons):
    """Mark inherited tests as expected to fail."""

    def marked(tests):
        for name, reason in reasons.items():
            inherited = getattr(RerankerStandardTests, name)

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


def needs(module, package):
    return lambda tests: tests if find_spec(module) else missing(package)


# LangChain's tests for retrievers


def retriever_tests():
    if not find_spec("langchain_tests") or not find_spec("pytest_asyncio"):
        return missing("langchain-tests")
    from langchain_tests.integration_tests import RetrieversIntegrationTests

    for test in vars(RetrieversIntegrationTests).values():
        if inspect.iscoroutinefunction(test):  # the mark on the class would mark the others too, which is a warning
            pytest.mark.asyncio(test)
    return RetrieversIntegrationTests


class TestRetriever(retriever_tests()):
    @property
    def retriever_constructor(self):
        return rerank

    @property
    def retriever_constructor_params(self):
        return {"retriever": store().as_retriever(), "reranker": FakeBackend()}

    @property
    def retriever_query_example(self):
        return QUESTION

    @property
    def num_results_arg_name(self):
        return "top_n"


# Ours


class TestReranker(RerankerStandardTests):
    scores_blank_pages = False

    def scoring(self, scores, **fields):
        return Reranker(FakeBackend(reply=scores), **fields)

    def failing(self, **fields):
        return Reranker(FakeBackend(error=BOOM), **fields)


class TestRerankerOverACore(RerankerStandardTests):
    """Over a `rerankx.Reranker`, with scores that are only an order."""

    scores_blank_pages = False

    def scoring(self, scores, **fields):
        return Reranker(rerankx.Reranker(FakeBackend(reply=scores, scale=Scale.RANK)), **fields)

    def failing(self, **fields):
        return Reranker(rerankx.Reranker(FakeBackend(error=BOOM)), **fields)


class Answering(FakeBackend):
    """A backend for use by name, with a key; its scores are numpy's logits, as those of a local model are."""

    secrets = MappingProxyType({"api_key": "ANSWERING_API_KEY"})

    def __init__(self, model="m", scores=None, api_key=None):
        super().__init__(model=model, scale=Scale.LOGIT, error=BOOM if scores is None else None)
        self._reply = None if scores is None else [np.float32(score) for score in scores]
        self.api_key = api_key


class TestRerankerByName(RerankerStandardTests):
    scores_blank_pages = False
    secret = KEY

    @pytest.fixture(autouse=True)
    def _answering(self, named, monkeypatch):
        monkeypatch.setattr(langchain_stage, "Named", Answering)

    def scoring(self, scores, **fields):
        return Reranker("named", options={"scores": list(scores), "api_key": KEY}, **fields)

    def failing(self, **fields):
        return Reranker("named", options={"api_key": KEY}, **fields)


# Those of others


class Answers(BaseCrossEncoder):
    def __init__(self, scores):
        self.scores = scores

    def score(self, text_pairs):
        if self.scores is None:
            raise BOOM
        return self.scores


@needs("langchain_classic", "langchain-classic")
@known_faults(
    test_top_n_below_one_is_refused="takes any number; with -1 the last document is lost",
    test_the_score_is_a_finite_builtin_float="writes no score",
    test_the_score_never_rises_with_the_rank="writes no score",
    test_a_stale_score_is_overwritten="writes no score, so that of another reranker stays",
    test_what_comes_back_is_the_callers="returns the documents that went in",
    test_no_documents_take_no_model_call="asks the model about an empty list",
    test_too_few_scores_are_an_error="loses the documents without a score",
    test_too_many_scores_are_an_error="ignores the surplus",
    test_a_score_that_is_not_finite_is_an_error="sorts by NaN, which puts documents anywhere",
    test_one_chain_run_under_the_callbacks_given="is not traced",
    test_one_chain_run_under_the_ambient_runnable="is not traced",
    test_a_failure_is_seen_in_the_run="is not traced",
)
class TestCrossEncoderReranker(RerankerStandardTests):
    default_top_n = 3

    def scoring(self, scores, **fields):
        from langchain_classic.retrievers.document_compressors import CrossEncoderReranker

        return CrossEncoderReranker(model=Answers(scores), **fields)

    def failing(self, **fields):
        return self.scoring(None, **fields)


@pytest.fixture(scope="module")
def stage():
    with CohereStage() as stage:
        yield stage


@needs("langchain_cohere", "langchain-cohere")
@known_faults(
    test_top_n_below_one_is_refused="takes any number, and sends it to the server",
    test_half_a_surrogate_pair_is_taken="cannot be written as UTF-8 by the SDK's HTTP client",
    test_the_id_is_kept="loses it, langchain-ai/langchain-cohere#131",
    test_a_subclass_of_document_is_kept="makes a plain Document of it",
    test_too_few_scores_are_an_error="loses the documents that the server leaves out",
    test_a_score_that_is_not_finite_is_an_error="takes what JSON should not hold, and returns it as a score",
    test_one_chain_run_under_the_callbacks_given="is not traced",
    test_one_chain_run_under_the_ambient_runnable="is not traced",
    test_a_failure_is_seen_in_the_run="is not traced",
    test_pickles_rank_alike="holds a client that cannot be pickled",
    test_deep_copies_rank_alike="holds a client that cannot be copied",
)
class TestCohereRerank(RerankerStandardTests):
    default_top_n = 3
    secret = KEY

    @pytest.fixture(autouse=True)
    def _stage(self, stage):
        self.stage = stage

    def made(self, base_url, fields):
        from langchain_cohere import CohereRerank

        return CohereRerank(model="rerank-v3.5", cohere_api_key=KEY, base_url=base_url, **fields)

    def scoring(self, scores, **fields):
        return self.made(self.stage.answering(scores), fields)

    def failing(self, **fields):
        return self.made(self.stage.refusing(), fields)
