"""`RerankerStandardTests`: what a LangChain document compressor that reranks should do, one test each.

    class TestMine(RerankerStandardTests):
        def scoring(self, scores: Sequence[float], **fields: Any) -> BaseDocumentCompressor:
            return Mine(client=FakeClient(scores), **fields)

        def failing(self, **fields: Any) -> BaseDocumentCompressor:
            return Mine(client=BrokenClient(), **fields)

is all it takes, for rerankers of any package; class attributes declare what `Mine` does where rerankers differ. A known fault is
marked, not hidden:

        @pytest.mark.xfail(reason="loses the id", strict=True)
        def test_the_id_is_kept(self) -> None:
            super().test_the_id_is_kept()
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import math
import pickle
import re
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from langchain_core.callbacks import AsyncCallbackManager, BaseCallbackManager, CallbackManager, Callbacks
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.load import dumpd
from langchain_core.runnables import RunnableLambda
from langchain_core.tracers.base import BaseTracer
from langchain_core.tracers.schemas import Run

_WAYS = ("compress_documents", "acompress_documents")
_BLANK = ("", " \n\t", "\N{IDEOGRAPHIC SPACE}")
_AWKWARD = (
    "\N{GRINNING FACE} \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "\N{RIGHT-TO-LEFT MARK}كم يستغرق استرداد الأموال",
    "退款需要多长时间",
    "bell \x07 escape \x1b[31m delete \x7f",
    "nul \x00 inside",
    "x" * 20_001,
    "?! … —",
)
_HALF_A_PAIR = "half a pair \ud83d"
_STALE = -12345.5


class RerankerStandardTests:
    """The promises of a reranking document compressor, a test each. Inherit it in a class named `Test...`.

    Every promise is held to by `compress_documents` and by `acompress_documents`. A declaration selects what is asserted;
    nothing is skipped.
    """

    score_key: str = "relevance_score"
    """Where in the metadata it writes the score."""
    top_n_field: str = "top_n"
    """Its field that says how many documents to keep."""
    default_top_n: int | None = None
    """How many it keeps without that field; None = all."""
    scores_blank_pages: bool = True
    """Whether its model is asked about pages with nothing but white space; if not, `scoring` has no score for them."""
    secret: str | None = None
    """The key that `scoring` and `failing` give it, if any."""
    query: str = "how long does a refund take"

    def scoring(self, scores: Sequence[float], **fields: object) -> BaseDocumentCompressor:
        """Return a new compressor with `fields`, whose model answers every question with `scores`.

        Args:
            scores: The model's answer: one raw score in (0, 1) per document, in the order in which they are given; higher is
                better. Too few, too many, NaN and infinity play a broken model. If yours answers with scalars of numpy,
                so should this one.
            **fields: Fields of the compressor, to be passed to its constructor as they are.
        """
        raise NotImplementedError

    def failing(self, **fields: object) -> BaseDocumentCompressor:
        """Return a new compressor with `fields`, whose model raises an error when it is asked anything."""
        raise NotImplementedError

    # Order and number

    def test_the_best_come_first(self) -> None:
        """Documents come in the order of their scores, the highest first, whatever order they are given in."""
        for n in (2, 5, 12):
            scores = _raw(n)
            for way, found in self._both_ways(self._keeping(n, scores), _documents(n)):
                _check_pages(found, _best(scores), way)

    def test_one_document_comes_back(self) -> None:
        """A single document is ranked like several."""
        for way, found in self._both_ways(self._keeping(1, [0.5]), _documents(1)):
            _check_pages(found, [0], way)

    def test_any_sequence_of_documents_is_taken(self) -> None:
        """A tuple of documents is ranked like a list."""
        compressor = self._keeping(5, _raw(5))
        expected = [_pages(found) for _, found in self._both_ways(compressor, _documents(5))]
        for (way, found), pages in zip(self._both_ways(compressor, tuple(_documents(5))), expected, strict=True):
            assert _pages(found) == pages, f"{way}: of a tuple {_pages(found)}, of a list {pages}"

    def test_ties_keep_the_order_given(self) -> None:
        """Documents with equal scores stay in the order in which they were given."""
        scores = [0.25, 0.75, 0.5, 0.75, 0.5, 0.25, 0.5]
        for way, found in self._both_ways(self._keeping(7, scores), _documents(7)):
            _check_pages(found, [1, 3, 2, 4, 6, 0, 5], f"{way} of scores {scores}")

    def test_by_default_as_many_are_kept_as_is_declared(self) -> None:
        """Where nothing says how many to keep, all come back, or the best `default_top_n` if that is declared."""
        scores = _raw(12)
        for way, found in self._both_ways(self.scoring(scores), _documents(12)):
            _check_pages(found, _best(scores)[: self.default_top_n], f"{way}, default_top_n={self.default_top_n}")

    def test_top_n_keeps_the_best(self) -> None:
        """With `top_n`, the best `top_n` come back, best first."""
        scores = _raw(5)
        for top_n in (1, 4, 5):
            for way, found in self._both_ways(self._keeping(top_n, scores), _documents(5)):
                _check_pages(found, _best(scores)[:top_n], f"{way}, {self.top_n_field}={top_n}")

    def test_top_n_may_exceed_the_number_of_documents(self) -> None:
        """With more to keep than there are, all come back."""
        scores = _raw(5)
        for way, found in self._both_ways(self._keeping(6, scores), _documents(5)):
            _check_pages(found, _best(scores), f"{way}, {self.top_n_field}=6 of 5")

    def test_top_n_below_one_is_refused(self) -> None:
        """To keep 0 or -1 documents is an error of the constructor, not an empty or a shortened result."""
        self._keeping(1, [0.5])
        for top_n in (0, -1):
            _raises(partial(self._keeping, top_n, [0.5]), f"{self.top_n_field}={top_n} was taken")

    def test_an_unknown_field_is_refused(self) -> None:
        """A misspelt field is an error of the constructor, not ignored."""
        parameters = inspect.signature(self.scoring).parameters.values()
        assert any(one.kind is one.VAR_KEYWORD for one in parameters), "scoring does not pass **fields on, as it should"
        self.scoring([0.5])
        _raises(partial(self.scoring, [0.5], no_such_field=1), "no_such_field=1 was taken")

    # What may be on the pages

    def test_duplicates_are_kept(self) -> None:
        """Of documents with the same text and the same id, each comes back."""
        twice = [*_documents(3), *_documents(2)]
        for way, found in self._both_ways(self._keeping(5, _raw(5)), twice):
            _check_kept(found, twice, way)

    def test_blank_pages_are_kept(self) -> None:
        """Pages with nothing but white space come back too, among others and alone."""
        blank = [Document(page) for page in _BLANK]
        for others in (0, 2):
            documents = [*_documents(others), *blank]
            scores = _raw(others + self.scores_blank_pages * len(blank))
            for way, found in self._both_ways(self._keeping(len(documents), scores), documents):
                _check_kept(found, documents, way)

    def test_awkward_pages_are_taken(self) -> None:
        """Emoji, other scripts, control characters, NUL, 20,000 letters on end: ranked like all others, as they are."""
        documents, scores = [Document(page) for page in _AWKWARD], _raw(len(_AWKWARD))
        for way, found in self._both_ways(self._keeping(len(documents), scores), documents):
            _check_kept(found, documents, way)

    def test_half_a_surrogate_pair_is_taken(self) -> None:
        """A page with half a surrogate pair, as careless cutting leaves it, is ranked like all others, as it is."""
        documents = [*_documents(1), Document(_HALF_A_PAIR)]
        for way, found in self._both_ways(self._keeping(2, [0.25, 0.75]), documents):
            _check_kept(found, documents, way)

    # The score

    def test_the_score_is_a_finite_builtin_float(self) -> None:
        """Every document has its score in the metadata: a float of Python's own, which JSON and every checkpointer know."""
        for way, found in self._both_ways(self._keeping(5, _raw(5)), _documents(5)):
            for score in self._scores(found):
                assert type(score) is float, (
                    f"{way}: score {score!r} is a {type(score).__module__}.{type(score).__name__}"
                )
                assert math.isfinite(score), f"{way}: score {score!r}"

    def test_the_score_never_rises_with_the_rank(self) -> None:
        """Scores fall, or stay, from each document to the next."""
        for scores in (_raw(12), [0.25, 0.75, 0.5, 0.75, 0.5]):
            for way, found in self._both_ways(self._keeping(len(scores), scores), _documents(len(scores))):
                got = self._scores(found)
                assert got == sorted(got, reverse=True), f"{way}: scores {got} by rank"

    def test_a_stale_score_is_overwritten(self) -> None:
        """A score that another reranker has left in the metadata does not survive."""
        compressor, stale = self._keeping(5, _raw(5)), _documents(5)
        for document in stale:
            document.metadata[self.score_key] = _STALE
        fresh = [self._scores(found) for _, found in self._both_ways(compressor, _documents(5))]
        for (way, found), expected in zip(self._both_ways(compressor, stale), fresh, strict=True):
            got = self._scores(found)
            assert got == expected, f"{way}: scores {got} where each had {_STALE} before; expected {expected}"

    # What is kept of a document

    def test_the_id_is_kept(self) -> None:
        """Every document keeps its id."""
        expected = {document.page_content: document.id for document in _documents(5)}
        for way, found in self._both_ways(self._keeping(5, _raw(5)), _documents(5)):
            got = {document.page_content: document.id for document in found}
            assert got == expected, f"{way}: ids {list(got.values())}"

    def test_the_metadata_are_kept(self) -> None:
        """Every document keeps its metadata, nested ones too; others may be added."""
        given = {document.page_content: document.metadata for document in _documents(5)}
        for way, found in self._both_ways(self._keeping(5, _raw(5)), _documents(5)):
            for document in found:
                expected = given[document.page_content]
                kept = {name: value for name, value in document.metadata.items() if name in expected}
                assert kept == expected, f"{way}: metadata {document.metadata} of what had {expected}"

    def test_a_subclass_of_document_is_kept(self) -> None:
        """An object of a subclass of `Document` comes back as one, with its fields."""
        documents = [_Chapter(page_content=f"chapter {i}", number=i) for i in range(5)]
        for way, found in self._both_ways(self._keeping(5, _raw(5)), documents):
            assert found, f"{way} returns nothing"
            for document in found:
                assert isinstance(document, _Chapter), f"{way}: {document!r} was a {_Chapter.__name__}"
                expected = f"chapter {document.number}"
                assert document.page_content == expected, f"{way}: {document!r}; expected {expected!r}"

    def test_the_metadata_go_to_json(self) -> None:
        """What comes back can be written as JSON, by `json` and by pydantic, if what went in could."""
        for _, found in self._both_ways(self._keeping(5, _raw(5)), _documents(5)):
            for document in found:
                json.dumps(document.metadata, allow_nan=False)
                document.model_dump_json()

    # What belongs to the caller

    def test_the_input_stays_as_it_was(self) -> None:
        """The list and the documents in it are left alone, also where the model fails."""
        given = _documents(5)
        before, items = copy.deepcopy(given), list(given)
        for way in _WAYS:
            self._ranked(way, self._keeping(5, _raw(5)), given)
            _check_untouched(given, items, before, way)
            self._error(way, self.failing(), given)
            _check_untouched(given, items, before, f"{way} of a failing model")

    def test_what_comes_back_is_the_callers(self) -> None:
        """What comes back are new documents with new metadata, nested ones too: a change does not reach what went in."""
        given = _documents(5)
        before, items = copy.deepcopy(given), list(given)
        for way, found in self._both_ways(self._keeping(5, _raw(5)), given):
            for document in found:
                document.metadata["read"] = True
                document.metadata["source"]["tags"].append("read")
                document.metadata["source"].clear()
                document.page_content, document.id = "read", None
            _check_untouched(given, items, before, f"a change to what came from {way}")

    def test_a_second_call_leaves_the_first_result_alone(self) -> None:
        """Ranking the same documents again, or what came back, changes nothing that has been returned."""
        compressor, given = self._keeping(5, _raw(5)), _documents(5)
        for way in _WAYS:
            first = self._ranked(way, compressor, given)
            before, items = copy.deepcopy(first), list(first)
            self._ranked(way, compressor, given[::-1])
            self._ranked(way, compressor, first)
            _check_untouched(first, items, before, f"a second {way}")

    def test_threads_share_one_instance(self) -> None:
        """8 threads at once, on an instance that has not been used, get their own documents back, best first."""
        compressor, together = self._keeping(5, _raw(5)), threading.Barrier(8)
        got: dict[int, object] = {}

        def run(number: int) -> None:
            documents = [Document(f"thread {number}, page {i}") for i in range(5)]
            together.wait(timeout=60)
            try:
                got[number] = _pages(self._ranked(_WAYS[0], compressor, documents))
            except Exception as error:
                got[number] = error

        threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(8)]
        for thread in threads:
            thread.start()
        for number, thread in enumerate(threads):
            thread.join(timeout=60)
            expected = [f"thread {number}, page {i}" for i in _best(_raw(5))]
            result = got.get(number, "stuck")
            assert result == expected, f"thread {number} got {result!r}; expected {expected}"

    def test_acompress_returns_what_compress_returns(self) -> None:
        """`acompress_documents` returns the same documents, scores and metadata as `compress_documents`."""
        for top_n in (2, 5):
            (_, found), (_, awaited) = self._both_ways(self._keeping(top_n, _raw(5)), _documents(5))
            assert awaited == found, f"acompress_documents returns {awaited}, compress_documents {found}"

    # What goes wrong

    def test_no_documents_take_no_model_call(self) -> None:
        """No documents in, none out, and a model that would fail is not asked."""
        for way, found in self._both_ways(self.failing(), []):
            assert found == [], f"{way} of no documents returns {found}"

    def test_too_few_scores_are_an_error(self) -> None:
        """A model that leaves documents out is an error: none is lost in silence."""
        for scores in ([0.5, 0.75], []):
            for way in _WAYS:
                self._error(way, self._keeping(3, scores), _documents(3), f"with {len(scores)} scores for 3 documents")

    def test_too_many_scores_are_an_error(self) -> None:
        """A model that scores more than there is has not scored these documents."""
        for way in _WAYS:
            self._error(way, self._keeping(3, [0.25, 0.5, 0.75, 0.875]), _documents(3), "with 4 scores for 3 documents")

    def test_a_score_that_is_not_finite_is_an_error(self) -> None:
        """NaN and infinity are errors, wherever they stand: NaN has no place in an order, and JSON knows neither."""
        for wrong in (math.nan, math.inf, -math.inf):
            for scores in ([wrong, 0.5, 0.75], [0.5, wrong, 0.75]):
                for way in _WAYS:
                    self._error(way, self._keeping(3, scores), _documents(3), f"with scores {scores}")

    def test_a_failing_model_is_an_error(self) -> None:
        """What the model raises, or an error made of it, reaches the caller."""
        for way in _WAYS:
            self._error(way, self.failing(), _documents(3))

    # What is seen of it

    def test_one_chain_run_under_the_callbacks_given(self) -> None:
        """A call is one run of type "chain" under the run whose callbacks it is given; the same by both ways."""
        self._check_trees(self._under_callbacks)

    def test_one_chain_run_under_the_ambient_runnable(self) -> None:
        """Without callbacks, a call is one run of type "chain" under the Runnable that it is made from; alike by both ways."""
        self._check_trees(self._under_a_runnable)

    def test_no_documents_are_no_run(self) -> None:
        """Where there is nothing to do, nothing is traced."""
        for way in _WAYS:
            tracer = _Tracer()
            self._ranked(way, self._keeping(1, []), [], [tracer])
            assert tracer.roots == [], f"{way} of no documents is traced as {[_shape(run) for run in tracer.roots]}"

    def test_a_failure_is_seen_in_the_run(self) -> None:
        """Where the model fails, the run has ended with an error."""
        for way in _WAYS:
            tracer = _Tracer()
            self._error(way, self.failing(), _documents(3), callbacks=[tracer])
            ended = [(run.run_type, run.error) for run in tracer.roots]
            assert len(ended) == 1, f"{way} of a failing model: {len(ended)} runs; expected 1"
            assert ended[0][1], f"{way} of a failing model: the run has no error"

    def test_no_secret_is_shown(self) -> None:
        """The key is not in `repr`, `str`, dumps, runs or errors."""
        for where, text in self._shown():
            assert self.secret is None or self.secret not in text, f"the key is in its {where}"

    # Copies

    def test_pickles_rank_alike(self) -> None:
        """Pickled, fresh or used, it ranks as before."""
        self._check_copies(lambda compressor: pickle.loads(pickle.dumps(compressor)), "pickled")  # noqa: S301 - our own

    def test_deep_copies_rank_alike(self) -> None:
        """Deep-copied, fresh or used, it ranks as before."""
        self._check_copies(copy.deepcopy, "deep-copied")

    def test_no_overrides_DO_NOT_OVERRIDE(self) -> None:  # langchain-tests' name for it
        """No test is overridden or taken away, unless it is marked as an expected failure with a reason."""
        for name in [name for name in vars(RerankerStandardTests) if name.startswith("test_")]:
            test = getattr(type(self), name, None)
            if test is getattr(RerankerStandardTests, name):
                continue
            marks = {mark.name: mark.kwargs for mark in getattr(test, "pytestmark", [])}
            assert marks.get("xfail", {}).get("reason"), (
                f"{name} is overridden; a known fault is marked @pytest.mark.xfail(reason=..., strict=True)"
            )
            assert not {"skip", "skipif"} & marks.keys(), f"{name} is skipped; a known fault is marked xfail alone"

    # Not tests

    def _keeping(self, top_n: int, scores: Sequence[float]) -> BaseDocumentCompressor:
        return self.scoring(scores, **{self.top_n_field: top_n})

    def _ranked(
        self,
        way: str,
        compressor: BaseDocumentCompressor,
        documents: Sequence[Document],
        callbacks: Callbacks = None,
    ) -> list[Document]:
        if way == _WAYS[0]:
            return list(compressor.compress_documents(documents, self.query, callbacks=callbacks))

        async def run() -> Sequence[Document]:
            return await compressor.acompress_documents(documents, self.query, callbacks=callbacks)

        return list(asyncio.run(run()))

    def _both_ways(
        self, compressor: BaseDocumentCompressor, documents: Sequence[Document]
    ) -> Iterator[tuple[str, list[Document]]]:
        for way in _WAYS:
            yield way, self._ranked(way, compressor, documents)

    def _error(
        self,
        way: str,
        compressor: BaseDocumentCompressor,
        documents: Sequence[Document],
        how: str = "of a failing model",
        callbacks: Callbacks = None,
    ) -> None:
        _raises(
            partial(self._ranked, way, compressor, documents, callbacks), f"{way} {how} raised nothing and returned"
        )

    def _scores(self, found: Sequence[Document]) -> list[float]:
        for document in found:
            assert self.score_key in document.metadata, f"no {self.score_key!r} in the metadata {document.metadata}"
        return [document.metadata[self.score_key] for document in found]

    def _check_trees(self, traced: Callable[[str, BaseDocumentCompressor], Run]) -> None:
        shapes = []
        for way in _WAYS:
            outer = traced(way, self._keeping(5, _raw(5)))
            shapes.append([_shape(run) for run in outer.child_runs])
            kinds = [run.run_type for run in outer.child_runs]
            assert kinds == ["chain"], (
                f"{way}: the runs under the caller's are {shapes[-1]}; expected one of type chain"
            )
        assert shapes[0] == shapes[1], f"traced as {shapes[0]} by {_WAYS[0]}, as {shapes[1]} by {_WAYS[1]}"

    def _under_callbacks(self, way: str, compressor: BaseDocumentCompressor) -> Run:
        """Return the run whose callbacks were given, as a retriever gives them: there is no other way to find it."""
        tracer = _Tracer()

        def run() -> None:
            outer = CallbackManager.configure([tracer]).on_chain_start(None, {}, name="outer")
            compressor.compress_documents(_documents(5), self.query, callbacks=outer.get_child())
            outer.on_chain_end({})

        async def arun() -> None:
            outer = await AsyncCallbackManager.configure([tracer]).on_chain_start(None, {}, name="outer")
            under: BaseCallbackManager = outer.get_child()
            await compressor.acompress_documents(_documents(5), self.query, callbacks=under)
            await outer.on_chain_end({})

        run() if way == _WAYS[0] else asyncio.run(arun())
        return tracer.outer()

    def _under_a_runnable(self, way: str, compressor: BaseDocumentCompressor) -> Run:
        """Return the run of the Runnable from which the compressor was called without callbacks."""
        tracer = _Tracer()

        def outer(_: str) -> Sequence[Document]:
            return compressor.compress_documents(_documents(5), self.query)

        async def aouter(_: str) -> Sequence[Document]:
            return await compressor.acompress_documents(_documents(5), self.query)

        runnable = RunnableLambda(outer, aouter, name="outer")
        if way == _WAYS[0]:
            runnable.invoke("", {"callbacks": [tracer]})
        else:
            asyncio.run(runnable.ainvoke("", {"callbacks": [tracer]}))
        return tracer.outer()

    def _shown(self) -> Iterator[tuple[str, str]]:
        """Yield everything that is likely to be printed, logged or stored, with its name."""
        compressor, tracer = self._keeping(5, _raw(5)), _Tracer()
        forms: dict[str, Callable[[], object]] = {
            "repr": lambda: repr(compressor),
            "str": lambda: str(compressor),
            "model_dump": compressor.model_dump,
            "model_dump_json": compressor.model_dump_json,
            "dumpd": lambda: dumpd(compressor),
            "error for an unknown field": lambda: self.scoring([0.5], no_such_field=1),
            "error for a wrong number": lambda: self._keeping(0, [0.5]),
            "result": lambda: self._ranked(_WAYS[0], compressor, _documents(5), [tracer]),
            "error for a failing model": lambda: self._ranked(_WAYS[0], self.failing(), _documents(5), [tracer]),
        }
        for where, form in forms.items():
            try:
                yield where, str(form())
            except Exception as error:  # what cannot be written shows nothing, but the error may
                yield where, _said(error)
        for run in tracer.roots:
            said = re.sub(r"^ .*\n?", "", run.error or "", flags=re.MULTILINE)  # without the lines of the stack
            yield "run", f"{run.name} {run.serialized} {run.inputs} {run.outputs} {run.extra} {said}"

    def _check_copies(self, copied: Callable[[BaseDocumentCompressor], BaseDocumentCompressor], how: str) -> None:
        compressor = self._keeping(4, _raw(5))
        fresh = copied(compressor)
        expected = [found for _, found in self._both_ways(compressor, _documents(5))]
        for made, state in ((fresh, "fresh"), (copied(compressor), "used")):
            got = [found for _, found in self._both_ways(made, _documents(5))]
            assert got == expected, f"{how} when {state}, it returns {got}; expected {expected}"


class _Chapter(Document):
    """A document as an application may define it."""

    number: int


class _Tracer(BaseTracer):
    """Keeps the root runs that end."""

    def __init__(self) -> None:
        super().__init__()
        self.roots: list[Run] = []

    def _persist_run(self, run: Run) -> None:
        self.roots.append(run)

    def outer(self) -> Run:
        """Return the run named "outer"."""
        outer = [run for run in self.roots if run.name == "outer"]
        assert len(outer) == 1, (
            f"the root runs are {[_shape(run) for run in self.roots]}; expected one of them to be outer"
        )
        return outer[0]


def _said(error: BaseException | None) -> str:
    """Return what an error and those behind it say; not the lines of code in the traceback, which may be the test's own."""
    if error is None:
        return ""
    behind = error.__cause__ or error.__context__
    return "".join(traceback.format_exception_only(error)) + _said(behind)


def _shape(run: Run) -> tuple[str, str, list[object]]:
    """Return a run and those beneath it, as (type, name, children)."""
    return run.run_type, run.name, [_shape(child) for child in run.child_runs]


def _documents(n: int) -> list[Document]:
    # Names that rerankers are known to write to are among the metadata.
    return [
        Document(
            f"This is page {i}.", id=f"id-{i}", metadata={"source": {"page": i, "tags": ["a"]}, "id": -i, "index": i}
        )
        for i in range(n)
    ]


def _raw(n: int) -> list[float]:
    """Return n different scores in (0, 1), in no order; n is no multiple of 17."""
    return [(i * 17 % n + 1) / (n + 1) for i in range(n)]


def _best(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def _pages(found: Sequence[Document]) -> list[str]:
    return [document.page_content for document in found]


def _check_pages(found: Sequence[Document], expected: Sequence[int], what: str) -> None:
    got, pages = _pages(found), [f"This is page {i}." for i in expected]
    assert got == pages, f"{what}: got {got}; expected {pages}"


def _check_kept(found: Sequence[Document], given: Sequence[Document], what: str) -> None:
    got, expected = (Counter(_pages(some)) for some in (found, given))
    lost, new = [page[:40] for page in expected - got], [page[:40] for page in got - expected]
    assert got == expected, f"{what}: pages lost: {lost!a}; pages that were not given: {new!a}"


def _check_untouched(
    given: Sequence[Document], items: Sequence[Document], before: Sequence[Document], what: str
) -> None:
    assert [id(document) for document in given] == [id(document) for document in items], f"{what}: the list was changed"
    for document, expected in zip(given, before, strict=True):
        assert document == expected, f"{what}: a document was changed from {expected!r} to {document!r}"


def _raises(call: Callable[[], object], otherwise: str) -> None:
    """Check that the call raises; `otherwise` says what happened instead."""
    try:
        got = call()
    except Exception:
        return
    raise AssertionError(f"{otherwise}: {got!r}")
