"""`PostprocessorStandardTests`: what a LlamaIndex node postprocessor that reranks should do, one test each.

    class TestMine(PostprocessorStandardTests):
        def scoring(self, scores: Sequence[float], **fields: Any) -> BaseNodePostprocessor:
            return Mine(client=FakeClient(scores), **fields)

        def failing(self, **fields: Any) -> BaseNodePostprocessor:
            return Mine(client=BrokenClient(), **fields)

is all it takes, for postprocessors of any package; class attributes declare what `Mine` does where postprocessors differ. A known
fault is marked, not hidden:

        @pytest.mark.xfail(reason="writes the scores into what came in", strict=True)
        def test_the_input_stays_as_it_was(self) -> None:
            super().test_the_input_stays_as_it_was()
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import json
import math
import pickle
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar, cast

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.instrumentation.span import BaseSpan
from llama_index.core.instrumentation.span_handlers import BaseSpanHandler
from llama_index.core.llms import MockLLM
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.no_text import NoText
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    MediaResource,
    MetadataMode,
    Node,
    NodeWithScore,
    QueryBundle,
    TextNode,
)

T = TypeVar("T")

_WAYS = ("postprocess_nodes", "apostprocess_nodes")
_AWKWARD = (
    "\N{GRINNING FACE} \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "\N{RIGHT-TO-LEFT MARK}كم يستغرق استرداد الأموال",
    "退款需要多长时间",
    "bell \x07 escape \x1b[31m delete \x7f",
    "nul \x00 inside",
    "{braces} {0} {",
    "x" * 20_001,
    "?! … —",
)
_HALF_A_PAIR = "half a pair \ud83d"


class PostprocessorStandardTests:
    """The promises of a reranking node postprocessor, a test each. Inherit it in a class named `Test...`.

    Every promise is held to by `postprocess_nodes` and by `apostprocess_nodes`. A declaration selects what is asserted;
    nothing is skipped.
    """

    top_n_field: str = "top_n"
    """Its field that says how many nodes to keep."""
    default_top_n: int | None = None
    """How many it keeps without that field; None = all."""
    scores_textless: bool = True
    """Whether its model is asked about nodes without text; if not, `scoring` has no score for them, and they come last."""
    metadata_mode: MetadataMode = MetadataMode.EMBED
    """With which metadata its model is given a node's text; asserted where `asked` is implemented."""
    survives_to_dict: bool = True
    """Whether `from_dict` makes it again of what `to_dict` returns; if not, it is to say so by an error."""
    given_again: Mapping[str, object] = {}
    """What `from_dict` has to be given because `to_dict` leaves it out, such as a key."""
    secret: str | None = None
    """The key that `scoring` and `failing` give it, if any."""
    query: str = "how long does a refund take"

    def scoring(self, scores: Sequence[float], **fields: object) -> BaseNodePostprocessor:
        """Return a new postprocessor with `fields`, whose model answers every question with `scores`.

        Args:
            scores: The model's answer: one raw score in [0, 1) per node, in the order in which they are given; higher is
                better. Too few, too many, NaN and infinity play a broken model. If yours answers with scalars of numpy,
                so should this one.
            **fields: Fields of the postprocessor, to be passed to its constructor as they are.
        """
        raise NotImplementedError

    def failing(self, **fields: object) -> BaseNodePostprocessor:
        """Return a new postprocessor with `fields`, whose model raises an error when it is asked anything."""
        raise NotImplementedError

    def asked(self) -> Sequence[str] | None:
        """Return the texts of the last question to the model of the last `scoring`, in their order; None if unknown."""
        return None

    def waiting(self, wait: Callable[[], object]) -> BaseNodePostprocessor | None:
        """Return a new postprocessor whose model calls `wait`, then scores each node with 0.5; None if there is no such model.

        Args:
            wait: Stands for the work of a model that runs in this process, or for a request that is not awaited.
        """
        return None

    # What it is

    def test_it_is_a_node_postprocessor(self) -> None:
        """LlamaIndex's `BaseNodePostprocessor` is among its classes, as engines and traces expect."""
        names = [cls.__name__ for cls in type(self.scoring([0.5])).__mro__]
        assert BaseNodePostprocessor.__name__ in names, f"no BaseNodePostprocessor among {names}"

    def test_the_class_name_is_its_own_and_stable(self) -> None:
        """`class_name`, under which it is serialised, is its own, is in `to_dict`, and outlives a new name of the class."""
        made = self.scoring([0.5])
        name, data = made.class_name(), made.to_dict()
        assert name, f"class_name {name!r}"
        assert name != BaseNodePostprocessor.class_name(), f"class_name {name!r} is LlamaIndex's base class's"
        assert type(made).class_name() == name, (
            f"class_name {name!r} of the object, {type(made).class_name()!r} of the class"
        )
        assert data.get("class_name") == name, f"class_name {data.get('class_name')!r} in to_dict; expected {name!r}"
        subclass: Any = type("Renamed", (type(made),), {"__module__": __name__})
        renamed = subclass.class_name()
        assert renamed == name, f"class_name {renamed!r} where the class is called Renamed; expected {name!r}"

    # Order and number

    def test_the_best_come_first(self) -> None:
        """Nodes come in the order of their scores, the highest first, whatever order they are given in."""
        for n in (2, 5, 12):
            scores = _raw(n)
            for way, found in self._both_ways(self._keeping(n, scores), _nodes(n)):
                _check_order(found, _best(scores), way)

    def test_one_node_comes_back(self) -> None:
        """A single node is ranked like several."""
        for way, found in self._both_ways(self._keeping(1, [0.5]), _nodes(1)):
            _check_order(found, [0], way)

    def test_ties_keep_the_order_given(self) -> None:
        """Nodes with equal scores stay in the order in which they were given."""
        scores = [0.25, 0.75, 0.5, 0.75, 0.5, 0.25, 0.5]
        for way, found in self._both_ways(self._keeping(7, scores), _nodes(7)):
            _check_order(found, [1, 3, 2, 4, 6, 0, 5], f"{way} of scores {scores}")

    def test_a_score_of_zero_is_a_score(self) -> None:
        """0.0 is the lowest score here, not a missing one, and ties with itself."""
        scores = [0.0, 0.25, 0.0, 0.75]
        for way, found in self._both_ways(self._keeping(4, scores), _nodes(4)):
            _check_order(found, [3, 1, 0, 2], f"{way} of scores {scores}")

    def test_the_scores_that_come_with_the_nodes_do_not_count(self) -> None:
        """The retriever's scores, high, low, negative or missing, change nothing."""
        scores, came = _raw(5), [None, 1000.0, -3.5, 0.0, 0.9]
        given = [NodeWithScore(node=one.node, score=score) for one, score in zip(_nodes(5), came, strict=True)]
        made = self._keeping(5, scores)
        for (way, found), (_, fresh) in zip(
            self._both_ways(made, given), self._both_ways(made, _nodes(5)), strict=True
        ):
            _check_order(found, _best(scores), f"{way} of nodes with scores {came}")
            got = [one.score for one in found]
            assert got == [one.score for one in fresh], f"{way} of nodes with scores {came}: scores {got}"

    def test_by_default_as_many_are_kept_as_is_declared(self) -> None:
        """Where nothing says how many to keep, all come back, or the best `default_top_n` if that is declared."""
        n = max(12, 2 * (self.default_top_n or 0))
        scores = _raw(n)
        for way, found in self._both_ways(self.scoring(scores), _nodes(n)):
            _check_order(found, _best(scores)[: self.default_top_n], f"{way}, default_top_n={self.default_top_n}")

    def test_top_n_keeps_the_best(self) -> None:
        """With `top_n`, the best `top_n` come back, best first."""
        scores = _raw(5)
        for top_n in (1, 4, 5):
            for way, found in self._both_ways(self._keeping(top_n, scores), _nodes(5)):
                _check_order(found, _best(scores)[:top_n], f"{way}, {self.top_n_field}={top_n}")

    def test_top_n_may_exceed_the_number_of_nodes(self) -> None:
        """With more to keep than there are, all come back."""
        scores = _raw(5)
        for way, found in self._both_ways(self._keeping(6, scores), _nodes(5)):
            _check_order(found, _best(scores), f"{way}, {self.top_n_field}=6 of 5")

    def test_top_n_below_one_is_refused(self) -> None:
        """To keep 0 or -1 nodes is an error of the constructor, not an empty or a shortened result."""
        self._keeping(1, [0.5])
        for top_n in (0, -1):
            _raises(partial(self._keeping, top_n, [0.5]), f"{self.top_n_field}={top_n} was taken")

    def test_top_n_may_be_assigned(self) -> None:
        """An assigned `top_n` is the one that counts."""
        scores = _raw(5)
        made = self._keeping(4, scores)
        for top_n in (2, 5):
            setattr(made, self.top_n_field, top_n)
            for way, found in self._both_ways(made, _nodes(5)):
                _check_order(found, _best(scores)[:top_n], f"{way}, {self.top_n_field}={top_n} assigned")

    def test_an_assigned_top_n_below_one_is_refused(self) -> None:
        """To assign 0 or -1 is an error there and then, and the number before it stays."""
        made = self._keeping(4, [0.5])
        for top_n in (0, -1):
            _raises(partial(setattr, made, self.top_n_field, top_n), f"{self.top_n_field}={top_n} was assigned")
            kept = getattr(made, self.top_n_field)
            assert kept == 4, f"{self.top_n_field} is {kept} after {top_n} was refused; expected 4"

    def test_an_unknown_field_is_refused(self) -> None:
        """A misspelt field is an error of the constructor, not ignored."""
        parameters = inspect.signature(self.scoring).parameters.values()
        assert any(one.kind is one.VAR_KEYWORD for one in parameters), "scoring does not pass **fields on, as it should"
        self.scoring([0.5])
        _raises(partial(self.scoring, [0.5], no_such_field=1), "no_such_field=1 was taken")

    # What it is given

    def test_query_str_is_taken(self) -> None:
        """The query may be given as `query_str`."""
        scores = _raw(5)
        for way in _WAYS:
            found = _ranked(way, self._keeping(5, scores), _nodes(5), query_str=self.query)
            _check_order(found, _best(scores), f"{way} with query_str")

    def test_a_string_as_query_bundle_is_taken(self) -> None:
        """A string in the place of the `QueryBundle`, as callers write it, is the query."""
        scores = _raw(5)
        for way in _WAYS:
            found = _ranked(way, self._keeping(5, scores), _nodes(5), self.query)
            _check_order(found, _best(scores), f"{way} with a string as query_bundle")

    def test_a_missing_query_is_an_error(self) -> None:
        """Without a query there is a ValueError, with nodes and without."""
        for n in (3, 0):
            for way in _WAYS:
                _raises(
                    partial(_ranked, way, self._keeping(3, _raw(n)), _nodes(n), None),
                    f"{way} of {n} nodes without a query raised nothing and returned",
                    ValueError,
                )

    def test_bare_nodes_are_taken(self) -> None:
        """Nodes that are in no `NodeWithScore`, as an index or a splitter has them, are ranked like others."""
        scores, given = _raw(5), [one.node for one in _nodes(5)]
        for way, found in self._both_ways(self._keeping(5, scores), cast("list[NodeWithScore]", given)):
            for one in found:
                assert isinstance(one, NodeWithScore), f"{way} of bare nodes returns {type(one).__name__}"
            _check_order(found, _best(scores), f"{way} of bare nodes")

    def test_every_kind_of_node_is_taken(self) -> None:
        """Text, document, index, image with a caption, and multi-media nodes come back as the objects that they are."""
        nodes: list[BaseNode] = [
            TextNode(text="text"),
            Document(text="document"),
            IndexNode(text="index", index_id="another index"),
            ImageNode(text="image", image_url="https://example.org/cat.png"),
            Node(text_resource=MediaResource(text="media")),
        ]
        scores, given = _raw(5), [NodeWithScore(node=node, score=0.5) for node in nodes]
        for way, found in self._both_ways(self._keeping(5, scores), given):
            got, expected = [type(one.node).__name__ for one in found], [type(nodes[i]).__name__ for i in _best(scores)]
            assert got == expected, f"{way}: got {got}; expected {expected}"

    def test_duplicates_keep_their_own_scores(self) -> None:
        """Nodes with the same id, as two retrievers bring them, each come back, each in the place of its own score."""
        scores = _raw(5)
        given = [NodeWithScore(node=TextNode(id_="same", text=f"This is page {i}."), score=0.5) for i in range(5)]
        for way, found in self._both_ways(self._keeping(5, scores), given):
            _check_pages(found, _best(scores), f"{way} of nodes with one id")
            self._check_falling(found, f"{way} of nodes with one id")

    def test_the_same_node_twice_comes_back_twice(self) -> None:
        """One and the same object at two places comes back twice, with two scores if it was given two."""
        first, second = _nodes(2)
        for way, found in self._both_ways(self._keeping(3, [0.75, 0.5, 0.25]), [first, second, first]):
            _check_order(found, [0, 1, 0], f"{way} of nodes 0, 1 and 0 again")
            self._check_falling(found, f"{way} of nodes 0, 1 and 0 again")

    def test_nodes_without_text_are_kept(self) -> None:
        """Images without caption, empty and blank nodes come back too, among others and alone; last if they are not scored."""
        bare: list[BaseNode] = [
            ImageNode(id_="image", image_url="https://example.org/cat.png"),
            TextNode(id_="empty", text=""),
            TextNode(id_="blank", text=" \n\t"),
            Node(id_="nothing"),
        ]
        textless = [NodeWithScore(node=node, score=0.9) for node in bare]
        for others in (0, 3):
            given = [*textless, *_nodes(others)]
            scores = _raw(len(given) if self.scores_textless else others)
            order = _best(scores) if self.scores_textless else [i + 4 for i in _best(scores)] + [0, 1, 2, 3]
            expected = [given[i].node_id for i in order]
            for way, found in self._both_ways(self._keeping(len(given), scores), given):
                _check_kept(found, given, way)
                got = [one.node_id for one in found]
                assert got == expected, f"{way}, scores_textless={self.scores_textless}: got {got}; expected {expected}"
                _check_scores(found, way)

    def test_awkward_text_is_taken(self) -> None:
        """Emoji, other scripts, control characters, NUL, braces, 20,000 letters on end: ranked like all others, as they are."""
        given, scores = _with_texts(_AWKWARD), _raw(len(_AWKWARD))
        for way, found in self._both_ways(self._keeping(len(given), scores), given):
            _check_kept(found, given, way)
            _check_ids(found, _best(scores), way)

    def test_half_a_surrogate_pair_is_taken(self) -> None:
        """A text with half a surrogate pair, as careless cutting leaves it, is ranked like all others, as it is."""
        given = _with_texts(["This is page 0.", _HALF_A_PAIR])
        for way, found in self._both_ways(self._keeping(2, [0.25, 0.75]), given):
            _check_kept(found, given, way)
            _check_ids(found, [1, 0], way)

    def test_the_model_reads_what_is_declared(self) -> None:
        """The model is given each node's content with the metadata of `metadata_mode`, in the order of the nodes."""
        given = _nodes(5)
        expected = [one.get_content(metadata_mode=self.metadata_mode) for one in given]
        for way, _ in self._both_ways(self._keeping(5, _raw(5)), given):
            got = self.asked()
            assert got is None or list(got) == expected, f"{way}: the model was given {got}; expected {expected}"

    # The score

    def test_the_score_is_a_finite_builtin_float(self) -> None:
        """Every node has a score: a float of Python's own, which JSON knows."""
        for way, found in self._both_ways(self._keeping(5, _raw(5)), _nodes(5)):
            assert found, f"{way} returns nothing"
            for one in found:
                kind = f"{type(one.score).__module__}.{type(one.score).__name__}"
                assert type(one.score) is float, f"{way}: score {one.score!r} is a {kind}"
                assert math.isfinite(one.score), f"{way}: score {one.score!r}"
                json.dumps(one.to_dict(), allow_nan=False)

    def test_the_score_never_rises_with_the_rank(self) -> None:
        """Scores fall, or stay, from each node to the next: fusion and evaluation sort by them again."""
        for scores in (_raw(12), [0.25, 0.75, 0.5, 0.75, 0.5]):
            for way, found in self._both_ways(self._keeping(len(scores), scores), _nodes(len(scores))):
                _check_scores(found, way)

    def test_different_scores_stay_different(self) -> None:
        """Where the model tells nodes apart, so do the scores, which are the reranker's and not the retriever's."""
        for way, found in self._both_ways(self._keeping(5, _raw(5)), _nodes(5)):
            self._check_falling(found, way)

    # What belongs to the caller

    def test_the_input_stays_as_it_was(self) -> None:
        """The list, the scores, the nodes, their metadata, hashes and contents are left alone, also where the model fails."""
        given = _nodes(5)
        before = _State(given)
        for way in _WAYS:
            self._ranked(way, self._keeping(5, _raw(5)), given)
            before.check(way)
            self._error(way, self.failing(), given)
            before.check(f"{way} of a failing model")

    def test_what_comes_back_are_new_objects_around_the_same_nodes(self) -> None:
        """A new list of new `NodeWithScore` objects; the nodes in them are the very objects that came in."""
        given = _nodes(5)
        nodes = {one.node_id: one.node for one in given}
        for way, found in self._both_ways(self._keeping(5, _raw(5)), given):
            assert found, f"{way} returns nothing"
            for one in found:
                assert all(one is not came for came in given), (
                    f"{way} returns the NodeWithScore of {one.node_id} that came in"
                )
                assert one.node is nodes[one.node_id], f"{way} returns a copy of the node {one.node_id}"

    def test_a_second_call_leaves_the_first_result_alone(self) -> None:
        """Ranking the same nodes again, or what came back, changes nothing that has been returned."""
        made, given = self._keeping(5, _raw(5)), _nodes(5)
        for way in _WAYS:
            first = self._ranked(way, made, given)
            before = _State(first)
            self._ranked(way, made, given[::-1])
            self._ranked(way, made, list(first))
            before.check(f"a second {way}")

    # Many at once

    def test_threads_share_one_instance(self) -> None:
        """8 threads at once, on an instance that has not been used, get their own nodes back, best first."""
        made, together = self._keeping(5, _raw(5)), threading.Barrier(8)
        got: dict[int, object] = {}

        def run(number: int) -> None:
            given = _with_texts([f"thread {number}, page {i}" for i in range(5)])
            together.wait(timeout=60)
            try:
                got[number] = _pages(self._ranked(_WAYS[0], made, given))
            except Exception as error:  # shown below
                got[number] = error

        threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(8)]
        for thread in threads:
            thread.start()
        for number, thread in enumerate(threads):
            thread.join(timeout=60)
            expected = [f"thread {number}, page {i}" for i in _best(_raw(5))]
            result = got.get(number, "stuck")
            assert result == expected, f"thread {number} got {result!r}; expected {expected}"

    def test_tasks_share_one_instance(self) -> None:
        """8 tasks of one event loop get their own nodes back, best first."""
        made = self._keeping(5, _raw(5))
        given = [_with_texts([f"task {number}, page {i}" for i in range(5)]) for number in range(8)]

        async def run() -> list[list[NodeWithScore]]:
            calls = (made.apostprocess_nodes(nodes, QueryBundle(self.query)) for nodes in given)
            return await asyncio.wait_for(asyncio.gather(*calls), timeout=60)

        for number, found in enumerate(asyncio.run(run())):
            expected = [f"task {number}, page {i}" for i in _best(_raw(5))]
            assert _pages(found) == expected, f"task {number} got {_pages(found)}; expected {expected}"

    def test_one_event_loop_after_another(self) -> None:
        """An instance outlives the event loop that it was first used in, as in a notebook or a worker."""
        made, scores = self._keeping(5, _raw(5)), _raw(5)
        for loop in ("first", "second"):
            _check_order(self._ranked(_WAYS[1], made, _nodes(5)), _best(scores), f"{_WAYS[1]} in the {loop} loop")

    def test_apostprocess_returns_what_postprocess_returns(self) -> None:
        """`apostprocess_nodes` returns the same nodes and scores as `postprocess_nodes`."""
        for top_n in (2, 5):
            found, awaited = [_seen(found) for _, found in self._both_ways(self._keeping(top_n, _raw(5)), _nodes(5))]
            assert awaited == found, f"apostprocess_nodes returns {awaited}, postprocess_nodes {found}"

    def test_awaiting_does_not_hold_up_the_event_loop(self) -> None:
        """While the model works, other tasks of the event loop go on; asserted where `waiting` is implemented."""
        going_on, waited = threading.Event(), list[bool]()

        async def run() -> None:
            ours = threading.get_ident()

            def wait() -> None:
                # In the thread of the loop, nothing could end the waiting.
                waited.append(threading.get_ident() != ours and going_on.wait(timeout=60))

            made = self.waiting(wait)
            if made is not None:
                call = asyncio.ensure_future(made.apostprocess_nodes(_nodes(1), QueryBundle(self.query)))
                asyncio.get_running_loop().call_later(0.01, going_on.set)
                _check_order(await call, [0], _WAYS[1])
                assert waited, "the model of `waiting` has not called `wait`"

        asyncio.run(run())
        assert all(waited), f"{_WAYS[1]}: the event loop stood still while the model was at work"

    # What goes wrong

    def test_no_nodes_take_no_model_call(self) -> None:
        """No nodes in, none out, and a model that would fail is not asked."""
        for way, found in self._both_ways(self.failing(), []):
            assert found == [], f"{way} of no nodes returns {found}"

    def test_too_few_scores_are_an_error(self) -> None:
        """A model that leaves nodes out is an error: none is lost in silence."""
        for scores in ([0.5, 0.75], []):
            for way in _WAYS:
                self._error(way, self._keeping(3, scores), _nodes(3), f"with {len(scores)} scores for 3 nodes")

    def test_too_many_scores_are_an_error(self) -> None:
        """A model that scores more than there is has not scored these nodes."""
        for way in _WAYS:
            self._error(way, self._keeping(3, [0.25, 0.5, 0.75, 0.875]), _nodes(3), "with 4 scores for 3 nodes")

    def test_a_score_that_is_not_finite_is_an_error(self) -> None:
        """NaN and infinity are errors, wherever they stand: NaN has no place in an order, and JSON knows neither."""
        for wrong in (math.nan, math.inf, -math.inf):
            for scores in ([wrong, 0.5, 0.75], [0.5, wrong, 0.75]):
                for way in _WAYS:
                    self._error(way, self._keeping(3, scores), _nodes(3), f"with scores {scores}")

    def test_a_failing_model_is_an_error(self) -> None:
        """What the model raises, or an error made of it, reaches the caller."""
        for way in _WAYS:
            self._error(way, self.failing(), _nodes(3))

    # What is seen of it

    def test_rerank_events_are_sent(self) -> None:
        """A call sends one `ReRankStartEvent` and one `ReRankEndEvent`, which tell what was asked and what came of it."""
        for way in _WAYS:
            made, given = self._keeping(2, _raw(5)), _nodes(5)
            with _watched() as (events, _):
                found = self._ranked(way, made, given)
            kinds = [type(event).__name__ for event in events.of(ReRankStartEvent, ReRankEndEvent)]
            assert kinds == ["ReRankStartEvent", "ReRankEndEvent"], f"{way} sends {kinds} of the rerank events"
            (start,), (end,) = events.of(ReRankStartEvent), events.of(ReRankEndEvent)
            query = start.query.query_str if isinstance(start.query, QueryBundle) else start.query
            told = {"query": query, "top_n": start.top_n, "nodes": [one.node_id for one in start.nodes]}
            expected = {"query": self.query, "top_n": 2, "nodes": [one.node_id for one in given]}
            assert told == expected, f"{way}: the start tells {told}; expected {expected}"
            assert start.model_name, f"{way}: the start tells no model, {start.model_name!r}"
            assert _seen(end.nodes) == _seen(found), f"{way}: the end tells {_seen(end.nodes)}; returned {_seen(found)}"

    def test_a_reranking_callback_is_called(self) -> None:
        """A call is one `CBEventType.RERANKING` for the callback manager, with what was asked and what came of it."""
        for way in _WAYS:
            made, given, heard = self._keeping(2, _raw(5)), _nodes(5), _Callbacks()
            made.callback_manager = CallbackManager([heard])
            found = self._ranked(way, made, given)
            starts, ends = heard.of_reranking()
            assert (len(starts), len(ends)) == (1, 1), (
                f"{way}: {len(starts)} starts and {len(ends)} ends; expected 1 and 1"
            )
            nodes, model = starts[0].get(EventPayload.NODES, []), starts[0].get(EventPayload.MODEL_NAME)
            told = {
                "query": starts[0].get(EventPayload.QUERY_STR),
                "top_k": starts[0].get(EventPayload.TOP_K),
                "nodes": [one.node_id for one in nodes],
            }
            expected = {"query": self.query, "top_k": 2, "nodes": [one.node_id for one in given]}
            assert told == expected, f"{way}: the start tells {told}; expected {expected}"
            assert model, f"{way}: the start tells no model, {model!r}"
            ended = _seen(ends[0].get(EventPayload.NODES, []))
            assert ended == _seen(found), f"{way}: the end tells {ended}; returned {_seen(found)}"

    def test_a_number_is_told_where_all_are_kept(self) -> None:
        """Without `top_n`, events and callbacks tell a number all the same: None is no `top_n` to those who read them."""
        for way in _WAYS:
            made, heard = self.scoring(_raw(5)), _Callbacks()
            made.callback_manager = CallbackManager([heard])
            with _watched() as (events, _):
                self._ranked(way, made, _nodes(5))
            told: list[object] = [event.top_n for event in events.of(ReRankStartEvent)]
            told += [payload.get(EventPayload.TOP_K) for payload in heard.of_reranking()[0]]
            assert told, f"{way} tells nothing"
            for number in told:
                assert type(number) is int, f"{way}: top_n is told as {number!r}"
                assert number >= 1, f"{way}: top_n is told as {number!r}"

    def test_no_nodes_are_no_event(self) -> None:
        """Where there is nothing to do, nothing is told."""
        for way in _WAYS:
            made, heard = self._keeping(1, []), _Callbacks()
            made.callback_manager = CallbackManager([heard])
            with _watched() as (events, _):
                self._ranked(way, made, [])
            told = [type(event).__name__ for event in events.seen] + [str(kind.name) for kind, _ in heard.started]
            assert told == [], f"{way} of no nodes tells {told}"

    def test_a_call_is_a_span(self) -> None:
        """A call is a span of the instance, which ends with it; where the model fails, it is dropped."""
        for way in _WAYS:
            for made, fails in ((self._keeping(5, _raw(5)), False), (self.failing(), True)):
                with _watched() as (_, spans):
                    if fails:
                        self._error(way, made, _nodes(5))
                    else:
                        self._ranked(way, made, _nodes(5))
                how = f"{way} of a failing model" if fails else way
                opened, closed = spans.of(made), spans.dropped if fails else spans.exited
                assert opened, f"{how} is in no span"
                assert set(opened) <= set(closed), f"{how}: of the spans {opened}, these ended as they should: {closed}"

    def test_the_events_belong_to_the_span(self) -> None:
        """The rerank events are sent from within the span of the call, so that a trace shows whose they are."""
        for way in _WAYS:
            made = self._keeping(5, _raw(5))
            with _watched() as (events, spans):
                self._ranked(way, made, _nodes(5))
            sent = [event.span_id for event in events.of(ReRankStartEvent, ReRankEndEvent)]
            assert sent, f"{way} sends no rerank events"
            assert set(sent) <= set(spans.of(made)), (
                f"{way}: events in the spans {sent}; the call's are {spans.of(made)}"
            )

    def test_a_failure_is_told(self) -> None:
        """Where the model fails, the callback has ended with an error, and there is no `ReRankEndEvent`."""
        for way in _WAYS:
            made, heard = self.failing(), _Callbacks()
            made.callback_manager = CallbackManager([heard])
            with _watched() as (events, _):
                self._error(way, made, _nodes(3))
            ends = heard.of_reranking()[1]
            assert len(ends) == 1, f"{way} of a failing model: {len(ends)} ends of the callback; expected 1"
            assert EventPayload.EXCEPTION in ends[0], (
                f"{way} of a failing model: the callback has ended without an error"
            )
            assert not events.of(ReRankEndEvent), f"{way} of a failing model sends a ReRankEndEvent"

    def test_no_secret_is_shown(self) -> None:
        """The key is not in `repr`, `str`, `to_dict`, `to_json`, events, callbacks, results or errors."""
        for where, text in self._shown():
            assert self.secret is None or self.secret not in text, f"the key is in its {where}"

    # In engines

    def test_a_callback_manager_may_be_given(self) -> None:
        """The constructor takes `callback_manager`, the one field of every node postprocessor."""
        given = CallbackManager()
        kept = self.scoring([0.5], callback_manager=given).callback_manager
        assert kept is given, f"callback_manager is {kept!r}; expected the one given to the constructor"

    def test_a_callback_manager_may_be_assigned(self) -> None:
        """`callback_manager` can be assigned, before the first use and after, as every engine does."""
        made, scores = self._keeping(5, _raw(5)), _raw(5)
        for _ in range(2):
            given = CallbackManager()
            made.callback_manager = given
            kept = made.callback_manager
            assert kept is given, f"callback_manager is {kept!r}; expected the one assigned"
            for way, found in self._both_ways(made, _nodes(5)):
                _check_order(found, _best(scores), way)

    def test_two_engines_share_one_instance(self) -> None:
        """In two query engines at once it ranks for both; the callback manager is that of the later one."""
        made, scores = self._keeping(3, _raw(5)), _raw(5)
        engines = [
            RetrieverQueryEngine(
                _Retriever(_nodes(5)), NoText(llm=MockLLM()), [made], callback_manager=CallbackManager()
            )
            for _ in range(2)
        ]
        assert made.callback_manager is engines[1].callback_manager, "callback_manager is not that of the later engine"
        for number, engine in enumerate(engines):
            _check_order(engine.query(self.query).source_nodes, _best(scores)[:3], f"query of engine {number}")
            _check_order(asyncio.run(_aquery(engine, self.query)), _best(scores)[:3], f"aquery of engine {number}")

    # Copies

    def test_to_dict_there_and_back_ranks_alike(self) -> None:
        """`from_dict` makes of `to_dict` what ranks as before, by JSON too; where that cannot be, it is an error."""
        made = self._keeping(4, _raw(5))
        ways: dict[str, Callable[[], BaseNodePostprocessor]] = {
            "to_dict": lambda: type(made).from_dict(made.to_dict(), **self.given_again),
            "to_json": lambda: type(made).from_json(made.to_json(), **self.given_again),
        }
        for how, again in ways.items():
            if self.survives_to_dict:
                self._check_alike(again(), made, f"made again of {how}")
            else:
                made.to_dict()
                _raises(again, f"survives_to_dict=False, and of {how} was made")

    def test_pickles_rank_alike(self) -> None:
        """Pickled, fresh or used, it ranks as before."""
        self._check_copies(lambda made: pickle.loads(pickle.dumps(made)), "pickled")  # noqa: S301 - our own

    def test_deep_copies_rank_alike(self) -> None:
        """Deep-copied, fresh or used, it ranks as before."""
        self._check_copies(copy.deepcopy, "deep-copied")

    def test_no_overrides_DO_NOT_OVERRIDE(self) -> None:  # the name of langchain-tests, as in langchain_rerankx.testing
        """No test is overridden or taken away, unless it is marked as an expected failure with a reason."""
        for name in [name for name in vars(PostprocessorStandardTests) if name.startswith("test_")]:
            test = getattr(type(self), name, None)
            if test is getattr(PostprocessorStandardTests, name):
                continue
            marks = {mark.name: mark.kwargs for mark in getattr(test, "pytestmark", [])}
            assert marks.get("xfail", {}).get("reason"), (
                f"{name} is overridden; a known fault is marked @pytest.mark.xfail(reason=..., strict=True)"
            )
            assert not {"skip", "skipif"} & marks.keys(), f"{name} is skipped; a known fault is marked xfail alone"

    # Not tests

    def _keeping(self, top_n: int, scores: Sequence[float]) -> BaseNodePostprocessor:
        return self.scoring(scores, **{self.top_n_field: top_n})

    def _ranked(self, way: str, made: BaseNodePostprocessor, nodes: list[NodeWithScore]) -> list[NodeWithScore]:
        return _ranked(way, made, nodes, QueryBundle(self.query))

    def _both_ways(
        self, made: BaseNodePostprocessor, nodes: list[NodeWithScore]
    ) -> Iterator[tuple[str, list[NodeWithScore]]]:
        for way in _WAYS:
            yield way, self._ranked(way, made, nodes)

    def _error(
        self, way: str, made: BaseNodePostprocessor, nodes: list[NodeWithScore], how: str = "of a failing model"
    ) -> None:
        _raises(partial(self._ranked, way, made, nodes), f"{way} {how} raised nothing and returned")

    def _check_falling(self, found: Sequence[NodeWithScore], what: str) -> None:
        got = [one.get_score() for one in found]
        assert got == sorted(set(got), reverse=True), f"{what}: scores {got}; the model's are all different"

    def _shown(self) -> Iterator[tuple[str, str]]:
        """Yield everything that is likely to be printed, logged or stored, with its name; not pickles: some hold the key."""
        made, heard = self._keeping(5, _raw(5)), _Callbacks()
        made.callback_manager = CallbackManager([heard])
        failing = self.failing()
        failing.callback_manager = CallbackManager([heard])
        forms: dict[str, Callable[[], object]] = {
            "repr": lambda: repr(made),
            "str": lambda: str(made),
            "to_dict": made.to_dict,
            "to_json": made.to_json,
            "model_dump_json": made.model_dump_json,
            "error for an unknown field": lambda: self.scoring([0.5], no_such_field=1),
            "error for a wrong number": lambda: self._keeping(0, [0.5]),
            "error for a wrong assignment": lambda: setattr(made, self.top_n_field, 0),
            "result": lambda: [one.to_dict() for one in self._ranked(_WAYS[0], self._keeping(5, _raw(5)), _nodes(5))],
            "error for a failing model": lambda: self._ranked(_WAYS[0], failing, _nodes(5)),
        }
        with _watched() as (events, _):
            for where, form in forms.items():
                try:
                    yield where, str(form())
                except Exception as error:  # what cannot be written shows nothing, but the error may
                    yield where, _said(error)
        for event in events.seen:
            yield "event", str(event)
        for kind, payload in [*heard.started, *heard.ended]:
            yield "callback", f"{kind} {payload}"

    def _check_copies(self, copied: Callable[[BaseNodePostprocessor], BaseNodePostprocessor], how: str) -> None:
        made = self._keeping(4, _raw(5))
        fresh = copied(made)
        self._check_alike(fresh, made, f"{how} when fresh")
        self._check_alike(copied(made), made, f"{how} when used")

    def _check_alike(self, again: BaseNodePostprocessor, made: BaseNodePostprocessor, how: str) -> None:
        expected = [_seen(found) for _, found in self._both_ways(made, _nodes(5))]
        got = [_seen(found) for _, found in self._both_ways(again, _nodes(5))]
        assert got == expected, f"{how}, it returns {got}; expected {expected}"


class _Retriever(BaseRetriever):
    """Brings the same nodes always."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        super().__init__(callback_manager=CallbackManager())
        self.nodes = nodes

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return list(self.nodes)


class _Events(BaseEventHandler):
    """Keeps every instrumentation event."""

    seen: list[BaseEvent] = Field(default_factory=list)

    def handle(self, event: BaseEvent, **kwargs: object) -> None:
        self.seen.append(event)

    def of(self, *kinds: type[T]) -> list[T]:
        return [event for event in self.seen if isinstance(event, kinds)]


class _Spans(BaseSpanHandler[BaseSpan]):
    """Keeps the ids of all spans, and whose they are."""

    entered: list[tuple[str, object]] = Field(default_factory=list)
    exited: list[str] = Field(default_factory=list)
    dropped: list[str] = Field(default_factory=list)

    def new_span(self, id_: str, bound_args: object, instance: object = None, *args: object, **kwargs: object) -> None:
        self.entered.append((id_, instance))

    def prepare_to_exit_span(self, id_: str, *args: object, **kwargs: object) -> None:
        self.exited.append(id_)

    def prepare_to_drop_span(self, id_: str, *args: object, **kwargs: object) -> None:
        self.dropped.append(id_)

    def of(self, made: BaseNodePostprocessor) -> list[str]:
        return [id_ for id_, instance in self.entered if instance is made]


class _Callbacks(BaseCallbackHandler):
    """Keeps every event of the older callback system, as (type, payload)."""

    def __init__(self) -> None:
        super().__init__(event_starts_to_ignore=[], event_ends_to_ignore=[])
        self.started: list[tuple[CBEventType, dict[str, Any]]] = []
        self.ended: list[tuple[CBEventType, dict[str, Any]]] = []

    def on_event_start(
        self,
        event_type: CBEventType,
        payload: dict[str, Any] | None = None,
        event_id: str = "",
        *args: Any,
        **kwargs: Any,
    ) -> str:
        self.started.append((event_type, payload or {}))
        return event_id

    def on_event_end(
        self, event_type: CBEventType, payload: dict[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> None:
        self.ended.append((event_type, payload or {}))

    def start_trace(self, trace_id: str | None = None) -> None:
        pass

    def end_trace(self, trace_id: str | None = None, trace_map: dict[str, list[str]] | None = None) -> None:
        pass

    def of_reranking(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the payloads of the starts and of the ends."""
        starts, ends = (
            [payload for kind, payload in told if kind is CBEventType.RERANKING] for told in (self.started, self.ended)
        )
        return starts, ends


class _State:
    """What a list of nodes is now, and whether it still is."""

    def __init__(self, nodes: list[NodeWithScore]) -> None:
        self.nodes, self.items, self.before = nodes, list(nodes), [self._of(one) for one in nodes]

    def check(self, what: str) -> None:
        assert [id(one) for one in self.nodes] == [id(one) for one in self.items], f"{what}: the list was changed"
        for one, before in zip(self.nodes, self.before, strict=True):
            for name, value in self._of(one).items():
                expected = before[name]
                assert value == expected, f"{what}: {name} of a node was changed from {expected!r} to {value!r}"

    @staticmethod
    def _of(one: NodeWithScore) -> dict[str, object]:
        return {
            **{name: value for name, value in vars(one).items() if name != "node"},
            "node": id(one.node),
            "metadata": copy.deepcopy(one.node.metadata),
            "hash": one.node.hash,
            "text for an embedding model": one.get_content(metadata_mode=MetadataMode.EMBED),
            "text for an LLM": one.get_content(metadata_mode=MetadataMode.LLM),
            "rest": one.node.model_dump(),
        }


@contextmanager
def _watched() -> Iterator[tuple[_Events, _Spans]]:
    """Watch the events and the spans of everything in this process while inside."""
    root, events, spans = get_dispatcher(), _Events(), _Spans()
    root.add_event_handler(events)
    root.add_span_handler(spans)
    try:
        yield events, spans
    finally:
        root.event_handlers[:] = [one for one in root.event_handlers if one is not events]
        root.span_handlers[:] = [one for one in root.span_handlers if one is not spans]


def _ranked(
    way: str,
    made: BaseNodePostprocessor,
    nodes: list[NodeWithScore],
    query_bundle: QueryBundle | str | None = None,
    query_str: str | None = None,
) -> list[NodeWithScore]:
    query = cast("QueryBundle | None", query_bundle)
    if way == _WAYS[0]:
        return list(made.postprocess_nodes(nodes, query, query_str))

    async def run() -> list[NodeWithScore]:
        return await made.apostprocess_nodes(nodes, query, query_str)

    return list(asyncio.run(run()))


async def _aquery(engine: RetrieverQueryEngine, query: str) -> list[NodeWithScore]:
    return (await engine.aquery(query)).source_nodes


def _said(error: BaseException | None) -> str:
    """Return what an error and those behind it say; not the lines of code in the traceback, which may be the test's own."""
    if error is None:
        return ""
    behind = error.__cause__ or error.__context__
    return "".join(traceback.format_exception_only(error)) + _said(behind)


def _nodes(n: int) -> list[NodeWithScore]:
    # A name that rerankers are known to write to is among the metadata.
    return [
        NodeWithScore(
            node=TextNode(
                id_=f"id-{i}",
                text=f"This is page {i}.",
                metadata={"page": i, "file": "a.txt", "tags": ["a"], "retrieval_score": -1.5},
                excluded_embed_metadata_keys=["page"],
                excluded_llm_metadata_keys=["file"],
            ),
            score=0.9 - i / 100,
        )
        for i in range(n)
    ]


def _with_texts(texts: Sequence[str]) -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(id_=f"id-{i}", text=text), score=0.5) for i, text in enumerate(texts)]


def _raw(n: int) -> list[float]:
    """Return n different scores in (0, 1), in no order; n is no multiple of 1009."""
    return [(i * 1009 % n + 1) / (n + 1) for i in range(n)]


def _best(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda i: -scores[i])


def _pages(found: Sequence[NodeWithScore]) -> list[str]:
    return [one.get_content() for one in found]


def _seen(found: Sequence[NodeWithScore]) -> list[tuple[str, float | None]]:
    return [(one.node_id, one.score) for one in found]


def _check_order(found: Sequence[NodeWithScore], expected: Sequence[int], what: str) -> None:
    _check_ids(found, expected, what)
    _check_pages(found, expected, what)


def _check_ids(found: Sequence[NodeWithScore], expected: Sequence[int], what: str) -> None:
    got, ids = [one.node_id for one in found], [f"id-{i}" for i in expected]
    assert got == ids, f"{what}: got {got}; expected {ids}"


def _check_pages(found: Sequence[NodeWithScore], expected: Sequence[int], what: str) -> None:
    got, pages = _pages(found), [f"This is page {i}." for i in expected]
    assert got == pages, f"{what}: got {got}; expected {pages}"


def _check_kept(found: Sequence[NodeWithScore], given: Sequence[NodeWithScore], what: str) -> None:
    got, expected = (Counter((one.node_id, one.get_content()) for one in some) for some in (found, given))
    lost, new = [text[:40] for _, text in expected - got], [text[:40] for _, text in got - expected]
    assert got == expected, f"{what}: nodes lost: {lost!a}; nodes that were not given: {new!a}"


def _check_scores(found: Sequence[NodeWithScore], what: str) -> None:
    """Check that there are scores, and that they never rise."""
    got = [one.score for one in found]
    numbers = [score for score in got if score is not None]
    assert len(numbers) == len(got), f"{what}: scores {got}"
    assert numbers == sorted(numbers, reverse=True), f"{what}: scores {got} by rank"


def _raises(call: Callable[[], object], otherwise: str, kind: type[Exception] = Exception) -> None:
    """Check that the call raises an error of that kind; `otherwise` says what happened instead."""
    try:
        got = call()
    except kind:
        return
    except Exception as error:
        raise AssertionError(
            f"{otherwise.removesuffix(' and returned')}, but {type(error).__name__}: {error}"
        ) from error
    raise AssertionError(f"{otherwise}: {got!r}")
