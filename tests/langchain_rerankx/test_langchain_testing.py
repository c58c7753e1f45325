"""`RerankerStandardTests` lets the sound pass and finds the faulty."""

import copy
import math
import pickle
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

import numpy as np
from langchain_core.callbacks import AsyncCallbackManager, CallbackManager
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.load.serializable import Serializable
from langchain_core.runnables import RunnableLambda
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr

from langchain_rerankx.testing import RerankerStandardTests

KEY = "sk-0123456789abcdef"
PROMISES = [name for name in vars(RerankerStandardTests) if name.startswith("test_")]


class Model:
    """Answers with scores, or fails if it has none."""

    def __init__(self, scores):
        self.scores = scores

    def __call__(self, texts):
        if self.scores is None:
            raise RuntimeError("out of order")
        return list(self.scores)


class Sound(BaseDocumentCompressor):
    """A reranker that keeps every promise, in steps that each can go wrong."""

    model: Model
    top_n: int | None = Field(default=None, ge=1)
    key: SecretStr = SecretStr(KEY)
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    def compress_documents(self, documents, query, callbacks=None):
        return self.step().invoke(documents, {"callbacks": callbacks}) if documents else []

    async def acompress_documents(self, documents, query, callbacks=None):
        return await self.step().ainvoke(documents, {"callbacks": callbacks}) if documents else []

    def step(self):
        return RunnableLambda(self.ranked, name="Sound")

    def ranked(self, documents):
        scores = self.scores(documents)
        return [self.made(documents[i], scores[i]) for i in self.kept(self.order(scores))]

    def scores(self, documents):
        scores = self.model([document.page_content for document in documents])
        if len(scores) != len(documents) or not all(map(math.isfinite, scores)):
            raise ValueError("the model's answer is no scoring of the documents")
        return scores

    def order(self, scores):
        return sorted(range(len(scores)), key=lambda i: -scores[i])

    def kept(self, order):
        return order[: self.top_n]

    def made(self, document, score):
        return document.model_copy(update={"metadata": {**copy.deepcopy(document.metadata), **self.added(score)}})

    def added(self, score):
        return {"relevance_score": float(score)}


def sound(scores, **fields):
    return Sound(model=Model(scores), **fields)


class TestSound(RerankerStandardTests):
    secret = KEY

    def scoring(self, scores, **fields):
        return sound(scores, **fields)

    def failing(self, **fields):
        return sound(None, **fields)


class TestSoundWithTheKeyInTheSource(RerankerStandardTests):
    """The lines of a traceback show the source, which is no fault of the compressor's."""

    secret = "sk-written-out"

    def scoring(self, scores, **fields):
        return Sound(key=SecretStr("sk-written-out"), model=Model(scores), **fields)

    def failing(self, **fields):
        return Sound(key=SecretStr("sk-written-out"), model=Model(None), **fields)


class TestSoundWithOtherNames(RerankerStandardTests):
    """Keeps 3 unless told otherwise, and has other names for things."""

    score_key = "score"
    top_n_field = "keep"
    default_top_n = 3
    scores_blank_pages = False

    class Other(Sound):
        keep: int = Field(default=3, ge=1)

        def kept(self, order):
            return order[: self.keep]

        def added(self, score):
            return {"score": score}

        def ranked(self, documents):
            blank = [document for document in documents if not document.page_content.strip()]
            return super().ranked([document for document in documents if document.page_content.strip()]) + blank

    def scoring(self, scores, **fields):
        return self.Other(model=Model(scores), **fields)

    def failing(self, **fields):
        return self.scoring(None, **fields)


# The faulty


def faulty(**methods):
    """Return `Sound` with something else in place of some of its methods."""
    return type("Faulty", (Sound,), methods)


def returning(change):
    """Return `Sound` that does something to what it returns; `change` is given the result and what was asked."""
    return faulty(ranked=lambda self, documents: change(Sound.ranked(self, documents), documents))


def asking(change):
    """Return `Sound` that does something to the documents before it ranks them."""
    return faulty(ranked=lambda self, documents: Sound.ranked(self, change(documents)))


def making(make):
    """Return `Sound` that makes a document anew from the old one and its score."""
    return faulty(made=lambda self, document, score: make(document, {**document.metadata, **self.added(score)}))


def rewriting(change):
    """Return `Sound` that does something to the pages."""
    return making(
        lambda old, metadata: old.model_copy(update={"page_content": change(old.page_content), "metadata": metadata})
    )


def adding(add):
    return faulty(added=lambda self, score: add(score))


def ordering(order):
    return faulty(order=lambda self, scores: order(scores))


def scoring(scores):
    return faulty(scores=lambda self, documents: scores(self.model, documents))


def configured(how):
    """Return `Sound` whose runs are configured otherwise."""

    def compress_documents(self, documents, query, callbacks=None):
        return self.step().invoke(documents, how(callbacks)) if documents else []

    async def acompress_documents(self, documents, query, callbacks=None):
        return await self.step().ainvoke(documents, how(callbacks)) if documents else []

    return faulty(compress_documents=compress_documents, acompress_documents=acompress_documents)


def distinct(found, documents):
    return list({document.page_content: document for document in found}.values())


def asked_for_more(self, order):
    return [order[i] for i in range(len(order) if self.top_n is None else self.top_n)]


def written_into(document, metadata):
    document.metadata.update(metadata)
    return document


def noted(documents):
    for document in documents:
        document.metadata["seen"] = True
    return documents


def noted_on_failure(model, documents):
    if model.scores is None:
        noted(documents)
    return model(documents)


def sorted_in_place(documents):
    documents.sort(key=lambda document: document.page_content, reverse=True)
    return documents


def padded(model, documents):
    return [*model(documents), *[0.0] * len(documents)][: len(documents)]


def as_many_as_there_are(model, documents):
    scores = model(documents)[: len(documents)]
    if len(scores) < len(documents):
        raise ValueError("too few")
    return scores


def unchecked(model, documents):
    scores = model(documents)
    if len(scores) != len(documents):
        raise ValueError("not as many")
    return scores


def wary_of_nan(model, documents):
    scores = unchecked(model, documents)
    if any(map(math.isnan, scores)):
        raise ValueError("NaN")
    return scores


def encoded(documents):
    return [document for document in documents if document.page_content.encode()]


class AnyNumber(Sound):
    top_n: int | None = None


class KeepsThree(Sound):
    top_n: int | None = Field(default=3, ge=1)


class TakesAnything(Sound):
    model_config = ConfigDict(extra="ignore")


class Remembering(Sound):
    """Returns the document that it made the first time, with the new score."""

    _made: dict = PrivateAttr(default_factory=dict)

    def made(self, document, score):
        made = self._made.setdefault(document.page_content, super().made(document, score))
        made.metadata.update(self.added(score))
        return made


class Forgetful(Sound):
    """Keeps what it is asked on itself."""

    _asked: list = PrivateAttr(default_factory=list)

    def ranked(self, documents):
        self._asked = documents
        time.sleep(0.002)
        return super().ranked(self._asked)


class OtherWhenAwaited(Sound):
    async def acompress_documents(self, documents, query, callbacks=None):
        return (await super().acompress_documents(documents, query, callbacks))[::-1]


class AskingAboutNothing(Sound):
    def compress_documents(self, documents, query, callbacks=None):
        return super().compress_documents(documents, query, callbacks) if documents else self.model([])

    async def acompress_documents(self, documents, query, callbacks=None):
        return await super().acompress_documents(documents, query, callbacks) if documents else self.model([])


class TracingNothing(Sound):
    def compress_documents(self, documents, query, callbacks=None):
        return self.step().invoke(documents, {"callbacks": callbacks})

    async def acompress_documents(self, documents, query, callbacks=None):
        return await self.step().ainvoke(documents, {"callbacks": callbacks})

    def scores(self, documents):
        return super().scores(documents) if documents else []


class Untraced(Sound):
    def compress_documents(self, documents, query, callbacks=None):
        return self.ranked(documents) if documents else []


class UntracedWhenAwaited(Sound):
    async def acompress_documents(self, documents, query, callbacks=None):
        return self.ranked(documents) if documents else []


class TracedOtherwiseWhenAwaited(Sound):
    async def acompress_documents(self, documents, query, callbacks=None):
        nested = self.step() | RunnableLambda(lambda found: found)
        return await nested.ainvoke(documents, {"callbacks": callbacks}) if documents else []


class TracedAsRetriever(Sound):
    def compress_documents(self, documents, query, callbacks=None):
        run = CallbackManager.configure(callbacks).on_retriever_start(None, query, name="Sound")
        found = self.ranked(documents)
        run.on_retriever_end(found)
        return found

    async def acompress_documents(self, documents, query, callbacks=None):
        run = await AsyncCallbackManager.configure(callbacks).on_retriever_start(None, query, name="Sound")
        found = self.ranked(documents)
        await run.on_retriever_end(found)
        return found


class FailingAfterwards(Sound):
    """Its run returns the error, which is raised when the run has ended."""

    def ranked(self, documents):
        try:
            return super().ranked(documents)
        except RuntimeError as error:
            return error

    def compress_documents(self, documents, query, callbacks=None):
        return self.raised(super().compress_documents(documents, query, callbacks))

    async def acompress_documents(self, documents, query, callbacks=None):
        return self.raised(await super().acompress_documents(documents, query, callbacks))

    def raised(self, found):
        if isinstance(found, Exception):
            raise found
        return found


class FailingInSilence(Sound):
    def ranked(self, documents):
        try:
            return super().ranked(documents)
        except RuntimeError:
            return documents


class FailingBeforehand(Sound):
    """Asks the model before its run begins."""

    def compress_documents(self, documents, query, callbacks=None):
        if documents:
            self.scores(documents)
        return super().compress_documents(documents, query, callbacks)


class PlainKey(Sound):
    key: str = KEY


class KeyInStr(Sound):
    def __str__(self):
        return KEY


class KeyInDump(Sound):
    key: str = Field(default=KEY, repr=False)


class KeyInJson(Sound):
    def model_dump_json(self, **options):
        return KEY


class KeyInDumpd(Sound, Serializable):
    def to_json(self):
        return {"lc": 1, "type": "constructor", "id": ["Sound"], "kwargs": {"key": KEY}}


class KeyInResult(Sound):
    def added(self, score):
        return {**super().added(score), "key": KEY}


class KeyInRun(Sound):
    def step(self):
        return super().step().with_config(metadata={"key": KEY})


class KeyInError(Sound):
    def scores(self, documents):
        try:
            return super().scores(documents)
        except RuntimeError:
            raise RuntimeError("failed") from ValueError(f"401 for {KEY}")


class KeyInRefusal(Sound):
    def __init__(self, **fields):
        if "no_such_field" in fields:
            raise TypeError(f"unknown: {fields | {'key': KEY}}")
        super().__init__(**fields)


class KeyInWrongNumber(Sound):
    def __init__(self, **fields):
        if fields.get("top_n") == 0:
            raise ValueError(f"wrong: {fields | {'key': KEY}}")
        super().__init__(**fields)


class Locked(Sound):
    _lock: object = PrivateAttr(default_factory=threading.Lock)


class LocksOnUse(Sound):
    _lock: object = PrivateAttr(default=None)

    def ranked(self, documents):
        self._lock = threading.Lock()
        return super().ranked(documents)


class LosesItsNumber(Sound):
    def __reduce__(self):
        return sound, (self.model.scores,)

    def __deepcopy__(self, memo):
        return sound(self.model.scores)


def marked(*marks):
    """Return an override that hides a fault, with these marks."""

    def override(self):
        pass

    for mark in marks:
        mark(override)
    return override


KNOWN = pytest.mark.xfail(reason="known", strict=True)
FAULTS = {
    "test_the_best_come_first": [
        (ordering(lambda scores: range(len(scores))), {}, "compress_documents: got .*page 0.*expected"),
        (ordering(lambda scores: sorted(range(len(scores)), key=scores.__getitem__)), {}, "compress_documents: got"),
        (OtherWhenAwaited, {}, "acompress_documents: got"),
    ],
    "test_one_document_comes_back": [
        (returning(lambda found, asked: found if len(found) > 1 else []), {}, r"got \[\]; expected"),
    ],
    "test_any_sequence_of_documents_is_taken": [
        (asking(lambda documents: documents + []), {}, "can only concatenate tuple"),  # noqa: RUF005 - the fault
        (returning(lambda found, asked: found if type(asked) is list else list(asked)), {}, "of a tuple .*, of a list"),
    ],
    "test_ties_keep_the_order_given": [
        (ordering(lambda scores: sorted(range(len(scores)), key=lambda i: (-scores[i], -i))), {}, "of scores .*: got"),
    ],
    "test_by_default_as_many_are_kept_as_is_declared": [
        (KeepsThree, {}, "default_top_n=None: got"),
        (Sound, {"default_top_n": 3}, "default_top_n=3: got"),
    ],
    "test_top_n_keeps_the_best": [
        (faulty(kept=lambda self, order: order[-(self.top_n or 0) :]), {}, "top_n=1: got"),
        (faulty(kept=lambda self, order: order), {}, "top_n=1: got"),
    ],
    "test_top_n_may_exceed_the_number_of_documents": [(faulty(kept=asked_for_more), {}, "index out of range")],
    "test_top_n_below_one_is_refused": [(AnyNumber, {}, "top_n=0 was taken")],
    "test_an_unknown_field_is_refused": [(TakesAnything, {}, "no_such_field=1 was taken")],
    "test_duplicates_are_kept": [(returning(distinct), {}, "pages lost: .*page 0")],
    "test_blank_pages_are_kept": [
        (returning(lambda found, asked: [one for one in found if one.page_content.strip()]), {}, "pages lost: "),
        (Sound, {"scores_blank_pages": False}, "no scoring of the documents"),
    ],
    "test_awkward_pages_are_taken": [
        (rewriting(lambda page: page[:20_000]), {}, "pages lost: .*xxx"),
        (rewriting(lambda page: page.partition("\0")[0]), {}, "pages lost: .*nul .x00 inside"),
    ],
    "test_half_a_surrogate_pair_is_taken": [
        (asking(encoded), {}, "surrogates not allowed"),
        (rewriting(lambda page: page.encode(errors="replace").decode()), {}, "pages lost: .*half"),
    ],
    "test_the_score_is_a_finite_builtin_float": [
        (adding(lambda score: {"relevance_score": np.float32(score)}), {}, "is a numpy.float32"),
        (adding(lambda score: {"relevance_score": np.float64(score)}), {}, "is a numpy.float64"),
        (adding(lambda score: {"relevance_score": math.inf}), {}, "score inf"),
        (adding(lambda score: {"score": score}), {}, "no 'relevance_score' in the metadata"),
    ],
    "test_the_score_never_rises_with_the_rank": [
        (adding(lambda score: {"relevance_score": 1 - score}), {}, "scores .* by rank"),
    ],
    "test_a_stale_score_is_overwritten": [
        (making(lambda old, metadata: old.model_copy(update={"metadata": {**metadata, **old.metadata}})), {}, "had -12345.5"),
    ],
    "test_the_id_is_kept": [(making(lambda old, metadata: Document(old.page_content, metadata=metadata)), {}, r"ids \[None")],
    "test_the_metadata_are_kept": [
        (making(lambda old, metadata: Document(old.page_content, id=old.id)), {}, "metadata {} of what had"),
        (adding(lambda score: {"id": 0}), {}, "of what had .*'id': -"),
        (adding(lambda score: {"source": {"page": 1}}), {}, "of what had .*'tags'"),
    ],
    "test_a_subclass_of_document_is_kept": [
        (making(lambda old, metadata: type(old)(**{**old.model_dump(), "number": 0})), {}, "number=0.*; expected 'chapter"),
        (making(lambda old, metadata: Document(old.page_content, metadata=metadata, id=old.id)), {}, "was a _Chapter"),
    ],
    "test_the_metadata_go_to_json": [
        (adding(lambda score: {"relevance_score": np.float32(score)}), {}, "float32 is not JSON serializable"),
        (adding(lambda score: {"relevance_score": math.nan}), {}, "not JSON compliant"),
        (adding(lambda score: {"seen": {1}}), {}, "set is not JSON serializable"),
    ],
    "test_the_input_stays_as_it_was": [
        (asking(sorted_in_place), {}, "compress_documents: the list was changed"),
        (asking(noted), {}, "compress_documents: a document was changed"),
        (making(written_into), {}, "compress_documents: a document was changed"),
        (scoring(noted_on_failure), {}, "compress_documents of a failing model: a document was changed"),
    ],
    "test_what_comes_back_is_the_callers": [
        (making(lambda old, metadata: old), {}, "a change to what came from compress_documents: a document was changed"),
        (making(lambda old, metadata: old.model_copy()), {}, "a change to what came from compress_documents"),
        (
            making(lambda old, metadata: old.model_copy(update={"metadata": metadata})),  # what is nested is shared
            {},
            "a change to what came from compress_documents",
        ),
    ],
    "test_a_second_call_leaves_the_first_result_alone": [
        (Remembering, {}, "a second compress_documents: a document was changed"),
        (making(written_into), {}, "a second compress_documents: a document was changed"),
    ],
    "test_threads_share_one_instance": [(Forgetful, {}, "thread . got")],
    "test_acompress_returns_what_compress_returns": [(OtherWhenAwaited, {}, "acompress_documents returns")],
    "test_no_documents_take_no_model_call": [
        (AskingAboutNothing, {}, "out of order"),
        (faulty(compress_documents=lambda *asked, callbacks=None: [Document("none")]), {}, "of no documents returns"),
    ],
    "test_too_few_scores_are_an_error": [
        (scoring(lambda model, documents: model(documents)), {}, "compress_documents with 2 scores for 3 documents"),
        (scoring(padded), {}, "compress_documents with 2 scores for 3 documents"),
    ],
    "test_too_many_scores_are_an_error": [(scoring(as_many_as_there_are), {}, "with 4 scores for 3 documents raised nothing")],
    "test_a_score_that_is_not_finite_is_an_error": [
        (scoring(unchecked), {}, "with scores .nan, 0.5, 0.75. raised nothing"),
        (scoring(wary_of_nan), {}, "with scores .inf, 0.5, 0.75. raised nothing"),
    ],
    "test_a_failing_model_is_an_error": [(FailingInSilence, {}, "compress_documents of a failing model raised nothing")],
    "test_one_chain_run_under_the_callbacks_given": [
        (Untraced, {}, r"the runs under the caller's are \[\]"),
        (UntracedWhenAwaited, {}, r"acompress_documents: the runs under the caller's are \[\]"),
        (configured(lambda callbacks: {}), {}, r"the runs under the caller's are \[\]"),
        (TracedAsRetriever, {}, "are .*retriever.*; expected one of type chain"),
        (TracedOtherwiseWhenAwaited, {}, "traced as .* by compress_documents, as .* by acompress_documents"),
    ],
    "test_one_chain_run_under_the_ambient_runnable": [
        (Untraced, {}, r"the runs under the caller's are \[\]"),
        (configured(lambda callbacks: {"callbacks": callbacks or []}), {}, r"the runs under the caller's are \[\]"),
        (TracedOtherwiseWhenAwaited, {}, "traced as .* by compress_documents, as .* by acompress_documents"),
    ],
    "test_no_documents_are_no_run": [(TracingNothing, {}, "compress_documents of no documents is traced as .*chain")],
    "test_a_failure_is_seen_in_the_run": [
        (FailingAfterwards, {}, "the run has no error"),
        (FailingBeforehand, {}, "0 runs; expected 1"),
    ],
    "test_no_secret_is_shown": [
        (PlainKey, {}, "the key is in its repr"),
        (KeyInStr, {}, "the key is in its str"),
        (KeyInDump, {}, "the key is in its model_dump"),
        (KeyInJson, {}, "the key is in its model_dump_json"),
        (KeyInDumpd, {}, "the key is in its dumpd"),
        (KeyInRefusal, {}, "the key is in its error for an unknown field"),
        (KeyInWrongNumber, {}, "the key is in its error for a wrong number"),
        (KeyInResult, {}, "the key is in its result"),
        (KeyInError, {}, "the key is in its error for a failing model"),
        (KeyInRun, {}, "the key is in its run"),
    ],
    "test_pickles_rank_alike": [
        (Locked, {}, "cannot pickle"),
        (LocksOnUse, {}, "cannot pickle"),
        (LosesItsNumber, {}, "pickled when fresh, it returns"),
    ],
    "test_deep_copies_rank_alike": [
        (Locked, {}, "cannot pickle"),
        (LocksOnUse, {}, "cannot pickle"),
        (LosesItsNumber, {}, "deep-copied when fresh, it returns"),
    ],
    "test_no_overrides_DO_NOT_OVERRIDE": [
        (Sound, {"test_the_id_is_kept": marked()}, "test_the_id_is_kept is overridden"),
        (Sound, {"test_the_id_is_kept": None}, "test_the_id_is_kept is overridden"),
        (Sound, {"test_the_id_is_kept": marked(pytest.mark.xfail)}, "test_the_id_is_kept is overridden"),
        (Sound, {"test_the_id_is_kept": marked(KNOWN, pytest.mark.skip)}, "test_the_id_is_kept is skipped"),
    ],
}  # fmt: skip


def suite(compressor, declared):
    """Return the suite over a class of compressors."""
    hooks = {
        "scoring": lambda self, scores, **fields: compressor(model=Model(scores), **fields),
        "failing": lambda self, **fields: compressor(model=Model(None), **fields),
    }
    return type("Suite", (RerankerStandardTests,), {**hooks, "secret": KEY, **declared})()


@pytest.mark.parametrize(
    ("promise", "compressor", "declared", "said"),
    [
        pytest.param(promise, *fault, id=f"{promise}-{i}")
        for promise, faults in FAULTS.items()
        for i, fault in enumerate(faults)
    ],
)
def test_the_suite_finds_a_broken_promise(promise, compressor, declared, said):
    with pytest.raises(
        (AssertionError, RuntimeError, TypeError, ValueError, IndexError, pickle.PicklingError), match=said
    ):
        getattr(suite(compressor, declared), promise)()


def sound_unless_awaited(compressor):
    """Return the faulty compressor with a sound `compress_documents`."""

    def compress_documents(self, documents, query, callbacks=None):
        return Sound(model=self.model, top_n=self.top_n).compress_documents(documents, query, callbacks)

    return type("SoundUnlessAwaited", (compressor,), {"compress_documents": compress_documents})


ONE_WAY = {
    "test_top_n_below_one_is_refused": "is about the constructor",
    "test_an_unknown_field_is_refused": "is about the constructor",
    "test_no_secret_is_shown": "is about what it is",
    "test_no_overrides_DO_NOT_OVERRIDE": "is about the suite",
    "test_threads_share_one_instance": "event loops have one thread each",
    "test_pickles_rank_alike": "needs classes that are not made on the way; deep copies show the same",
}


@pytest.mark.parametrize("promise", [name for name in PROMISES if name not in ONE_WAY])
def test_the_suite_finds_a_promise_broken_only_when_awaited(promise):
    found = []
    getattr(suite(sound_unless_awaited(Sound), {}), promise)()
    for compressor, declared, _ in FAULTS[promise]:
        if compressor is Sound:  # wrongly declared: found without awaiting
            continue
        try:
            getattr(suite(sound_unless_awaited(compressor), declared), promise)()
        except Exception as error:
            found.append(error)
    assert found


def test_every_promise_of_the_suite_is_shown_to_be_tested():
    assert set(FAULTS) == set(PROMISES)


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_says_what_it_is(promise):
    assert getattr(RerankerStandardTests, promise).__doc__.endswith(".")


def test_a_known_fault_may_be_marked():
    suite(Sound, {"test_the_id_is_kept": marked(KNOWN)}).test_no_overrides_DO_NOT_OVERRIDE()


@pytest.mark.parametrize("promise", [name for name in PROMISES if not name.startswith("test_no_overrides")])
def test_a_suite_without_hooks_passes_nothing(promise):
    with pytest.raises((NotImplementedError, AssertionError)):
        getattr(RerankerStandardTests(), promise)()


def test_the_module_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; from langchain_rerankx.testing import RerankerStandardTests"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_hooks_that_do_not_pass_fields_on_are_no_proof():
    class Narrow(TestSound):
        def scoring(self, scores, top_n=None):
            return sound(scores, top_n=top_n)

    with pytest.raises(AssertionError, match=r"scoring does not pass \*\*fields on"):
        Narrow().test_an_unknown_field_is_refused()
