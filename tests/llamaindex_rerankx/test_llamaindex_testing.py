"""`PostprocessorStandardTests` lets the sound pass and finds the faulty."""

import asyncio
import math
import subprocess
import sys
import threading
import time

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

import numpy as np
from llama_index.core.bridge.pydantic import ConfigDict, Field, PrivateAttr, SecretStr
from llama_index.core.callbacks import CallbackManager, CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle, TextNode

from llamaindex_rerankx.testing import PostprocessorStandardTests

KEY = "sk-0123456789abcdef"
PROMISES = [name for name in vars(PostprocessorStandardTests) if name.startswith("test_")]
ASKED = []

dispatcher = get_dispatcher(__name__)


class Sound(BaseNodePostprocessor):
    """A postprocessor that keeps every promise, in steps that each can go wrong; its model has an answer, or fails."""

    answer: list[float] | None
    top_n: int | None = Field(default=None, ge=1)
    key: SecretStr = Field(default=SecretStr(KEY), exclude=True)
    model: str = "sound"
    model_config = ConfigDict(extra="forbid", validate_assignment=True)
    _wait: object = PrivateAttr(default=None)

    @classmethod
    def class_name(cls):
        return "Sound"

    def _postprocess_nodes(self, nodes, query_bundle=None):
        return self.postprocessed(nodes, query_bundle)

    @dispatcher.span
    async def _apostprocess_nodes(self, nodes, query_bundle=None):
        return await asyncio.to_thread(self.postprocessed, nodes, query_bundle)

    def postprocessed(self, nodes, query):
        query, given = self.query(query), self.given(nodes)
        return self.reported(query, given) if given else []

    def query(self, query):
        if query is None:
            raise ValueError("no query")
        return QueryBundle(query) if isinstance(query, str) else query

    def given(self, nodes):
        return [node if isinstance(node, NodeWithScore) else NodeWithScore(node=node) for node in nodes]

    def reported(self, query, given):
        top_n = self.told(given)
        self.sent(ReRankStartEvent(query=query, nodes=given, top_n=top_n, model_name=self.model))
        payload = {
            EventPayload.NODES: given,
            EventPayload.MODEL_NAME: self.model,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        with self.manager().event(CBEventType.RERANKING, payload=payload) as event:
            found = self.ended(event, given)
        self.sent(ReRankEndEvent(nodes=found))
        return found

    def told(self, given):
        return len(given) if self.top_n is None else self.top_n

    def sent(self, event):
        dispatcher.event(event)

    def manager(self):
        return self.callback_manager

    def ended(self, event, given):
        found = self.ranked(given)
        event.on_end(payload={EventPayload.NODES: found})
        return found

    def ranked(self, given):
        scores = self.scores(given)
        return [self.made(given[i], scores[i]) for i in self.kept(self.order(scores))]

    def scores(self, given):
        scores = self.asking([self.text(one) for one in given])
        if len(scores) != len(given) or not all(map(math.isfinite, scores)):
            raise ValueError("the model's answer is no scoring of the nodes")
        return scores

    def text(self, one):
        return one.get_content(metadata_mode=MetadataMode.EMBED)

    def asking(self, texts):
        ASKED[:] = texts
        if self._wait is not None:
            self._wait()
        if self.answer is None:
            raise RuntimeError("out of order")
        return list(self.answer)

    def order(self, scores):
        return sorted(range(len(scores)), key=lambda i: -scores[i])

    def kept(self, order):
        return order[: self.top_n]

    def made(self, came, score):
        return NodeWithScore(node=came.node, score=score)


class Hooks:
    kind = Sound

    def scoring(self, scores, **fields):
        return self.kind(answer=list(scores), **fields)

    def failing(self, **fields):
        return self.kind(answer=None, **fields)

    def asked(self):
        return ASKED

    def waiting(self, wait):
        made = self.kind(answer=[0.5])
        made._wait = wait
        return made


class TestSound(Hooks, PostprocessorStandardTests):
    secret = KEY


class OtherNames(Sound):
    """Keeps 3 unless told otherwise, has another name for that, reads what an LLM reads, and does not score the blank."""

    keep: int = Field(default=3, ge=1)

    def told(self, given):
        return self.keep

    def kept(self, order):
        return order[: self.keep]

    def text(self, one):
        return one.get_content(metadata_mode=MetadataMode.LLM)

    def ranked(self, given):
        blank = [one for one in given if not one.get_content().strip()]
        ranked = super().ranked([one for one in given if one.get_content().strip()])
        return (ranked + [self.made(one, 0.0) for one in blank])[: self.keep]


class TestSoundWithOtherNames(Hooks, PostprocessorStandardTests):
    kind = OtherNames
    top_n_field = "keep"
    default_top_n = 3
    scores_textless = False
    metadata_mode = MetadataMode.LLM


class NeedsItsKey(Sound):
    key: SecretStr = Field(exclude=True)


class TestSoundWithAKeyThatItNeeds(Hooks, PostprocessorStandardTests):
    """The lines of a traceback show the source, which is no fault of the postprocessor's."""

    secret = "sk-written-out"
    given_again = {"key": SecretStr("sk-written-out")}  # noqa: RUF012 - as users write it

    def scoring(self, scores, **fields):
        return NeedsItsKey(answer=list(scores), key=SecretStr("sk-written-out"), **fields)

    def failing(self, **fields):
        return NeedsItsKey(answer=None, key=SecretStr("sk-written-out"), **fields)

    def waiting(self, wait):
        return None


class CannotBeMadeAgain(Sound):
    answer: list[float] | None = Field(exclude=True)


class TestSoundThatDoesNotSurviveToDict(Hooks, PostprocessorStandardTests):
    kind = CannotBeMadeAgain
    survives_to_dict = False


# The faulty


def faulty(**members):
    """Return `Sound` with something else in place of some of its methods."""
    return type("Faulty", (Sound,), {"__module__": __name__, **members})


def returning(change):
    """Return `Sound` that does something to what it returns; `change` is given the result and what was asked."""
    return faulty(ranked=lambda self, given: change(Sound.ranked(self, given), given))


def making(make):
    return faulty(made=lambda self, came, score: make(came, score))


def scored(came, score):
    """Return a node with a score that is not validated."""
    made = NodeWithScore(node=came.node)
    made.score = score
    return made


def rewriting(change):
    """Return `Sound` that does something to the texts."""
    return making(
        lambda came, score: NodeWithScore(node=TextNode(id_=came.node_id, text=change(came.get_content())), score=score)
    )


def ordering(order):
    return faulty(order=lambda self, scores: order(scores))


def answering(scores):
    """Return `Sound` that takes other answers of its model for good."""
    return faulty(scores=lambda self, given: scores(self.asking([self.text(one) for one in given]), given))


def receiving(change):
    """Return `Sound` that does something to the list and the nodes that it is given."""
    return faulty(postprocessed=lambda self, nodes, query: Sound.postprocessed(self, change(nodes), query))


def noting(change):
    """Return `Sound` that does something to every `NodeWithScore` that it is given."""
    return receiving(lambda nodes: [change(one) or one for one in nodes])


def distinct(found, given):
    return list({one.node_id: one for one in found}.values())


def by_id(found, given):
    scores = {one.node_id: one.score for one in found}
    for one in found:
        one.score = scores[one.node_id]
    return found


def without_text_dropped(found, given):
    return [one for one in found if one.get_content().strip()]


def asked_for_more(self, order):
    return [order[i] for i in range(len(order) if self.top_n is None else self.top_n)]


def written_into(came, score):
    came.score = score
    return came


def sorted_in_place(nodes):
    nodes.sort(key=lambda one: one.node_id, reverse=True)
    return nodes


def padded(scores, given):
    return [*scores, *[0.0] * len(given)][: len(given)]


def as_many_as_there_are(scores, given):
    if len(scores) < len(given):
        raise ValueError("too few")
    return scores[: len(given)]


def unchecked(scores, given):
    if len(scores) != len(given):
        raise ValueError("not as many")
    return scores


def wary_of_nan(scores, given):
    if any(map(math.isnan, unchecked(scores, given))):
        raise ValueError("NaN")
    return scores


def checked_if_there_are_nodes(self, nodes, query):
    return Sound.postprocessed(self, nodes, query) if nodes else []


def without_query_str(self, nodes, query_bundle=None, query_str=None):
    return BaseNodePostprocessor.postprocess_nodes(self, nodes, query_bundle)


async def awithout_query_str(self, nodes, query_bundle=None, query_str=None):
    return await BaseNodePostprocessor.apostprocess_nodes(self, nodes, query_bundle)


class Duck:
    """Has all the methods, one may suppose, and is something else."""

    def __init__(self, **fields):
        pass


class AnyNumber(Sound):
    top_n: int | None = None


class KeepsThree(Sound):
    top_n: int | None = Field(default=3, ge=1)


class TakesAnything(Sound):
    model_config = ConfigDict(extra="ignore")


class NumberForGood(Sound):
    top_n: int | None = Field(default=None, ge=1, frozen=True)


class NumberKeptElsewhere(Sound):
    _kept: int | None = PrivateAttr()

    def __init__(self, **fields):
        super().__init__(**fields)
        self._kept = self.top_n

    def kept(self, order):
        return order[: self._kept]


class AssignsAnything(Sound):
    model_config = ConfigDict(validate_assignment=False)


class RefusesTooLate(AssignsAnything):
    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "top_n" and value < 1:
            raise ValueError("below 1")


class Blank(Sound):
    """Does not score nodes without text."""

    def ranked(self, given):
        blank = [
            NodeWithScore(node=one.node, score=self.blank_score()) for one in given if not one.get_content().strip()
        ]
        return self.together(super().ranked([one for one in given if one.get_content().strip()]), blank)

    def blank_score(self):
        return 0.0


class BlankFirst(Blank):
    def together(self, ranked, blank):
        return blank + ranked


class BlankWithoutScore(Blank):
    def together(self, ranked, blank):
        return ranked + blank

    def blank_score(self):
        return None


class Remembering(Sound):
    """Returns the object that it made the first time, with the new score."""

    _made: dict = PrivateAttr(default_factory=dict)

    def made(self, came, score):
        made = self._made.setdefault(came.node_id, super().made(came, score))
        made.score = score
        return made


class Forgetful(Sound):
    """Keeps what it is asked on itself."""

    _given: list = PrivateAttr(default_factory=list)

    def ranked(self, given):
        self._given = given
        time.sleep(0.002)
        return super().ranked(self._given)


class BoundToALoop(Sound):
    """Holds to the event loop of its first use, as a client does that was made in it."""

    _loop: object = PrivateAttr(default=None)

    async def _apostprocess_nodes(self, nodes, query_bundle=None):
        self._loop = self._loop or asyncio.get_running_loop()
        if self._loop is not asyncio.get_running_loop():
            raise RuntimeError("attached to a different loop")
        return await super()._apostprocess_nodes(nodes, query_bundle)


class OnTheLoop(Sound):
    async def _apostprocess_nodes(self, nodes, query_bundle=None):
        return self.postprocessed(nodes, query_bundle)


class OtherWhenAwaited(Sound):
    async def _apostprocess_nodes(self, nodes, query_bundle=None):
        return (await super()._apostprocess_nodes(nodes, query_bundle))[::-1]


class FailingInSilence(Sound):
    def scores(self, given):
        try:
            return super().scores(given)
        except RuntimeError:
            return [0.0] * len(given)


class Silent(Sound):
    def sent(self, event):
        pass


class WithoutEnd(Sound):
    def sent(self, event):
        if isinstance(event, ReRankStartEvent):
            super().sent(event)


class SentTwice(Sound):
    def sent(self, event):
        super().sent(event)
        super().sent(event)


class SentWithWhatCame(Sound):
    """Tells at the end what was told at the start."""

    _given: list = PrivateAttr()

    def sent(self, event):
        if isinstance(event, ReRankStartEvent):
            self._given = event.nodes
        super().sent(event if isinstance(event, ReRankStartEvent) else ReRankEndEvent(nodes=self._given))


class SentFromNowhere(Sound):
    def sent(self, event):
        event.span_id = None
        super().sent(event)


class SentEvenIfItFails(Sound):
    def reported(self, query, given):
        try:
            return super().reported(query, given)
        except RuntimeError:
            self.sent(ReRankEndEvent(nodes=[]))
            raise


class Uncalled(Sound):
    def manager(self):
        return CallbackManager()


class SilentAndUncalled(Silent, Uncalled):
    pass


class SilentAboutTheNumber(Silent):
    def reported(self, query, given):
        with self.callback_manager.event(CBEventType.RERANKING, payload={EventPayload.TOP_K: self.top_n}):
            return self.ranked(given)


class CalledTwice(Sound):
    def ranked(self, given):
        with self.callback_manager.event(CBEventType.RERANKING):
            return super().ranked(given)


class CalledWithWhatCame(Sound):
    def ended(self, event, given):
        event.on_end(payload={EventPayload.NODES: given})
        return self.ranked(given)


class CalledWithoutTheError(Sound):
    def ended(self, event, given):
        try:
            return super().ended(event, given)
        except RuntimeError:
            event.on_end()
            raise


class WithoutAModel(Sound):
    model: str = ""


class OutsideASpan(Sound):
    def postprocess_nodes(self, nodes, query_bundle=None, query_str=None):
        return self.postprocessed(nodes, query_bundle or query_str)

    async def apostprocess_nodes(self, nodes, query_bundle=None, query_str=None):
        return self.postprocessed(nodes, query_bundle or query_str)


class RaisesAfterItsSpan(Sound):
    def _postprocess_nodes(self, nodes, query_bundle=None):
        try:
            return self.postprocessed(nodes, query_bundle)
        except RuntimeError as error:
            return error

    @dispatcher.span
    async def _apostprocess_nodes(self, nodes, query_bundle=None):
        return self._postprocess_nodes(nodes, query_bundle)

    def postprocess_nodes(self, *asked):
        return self.raised(super().postprocess_nodes(*asked))

    async def apostprocess_nodes(self, *asked):
        return self.raised(await super().apostprocess_nodes(*asked))

    def raised(self, found):
        if isinstance(found, Exception):
            raise found
        return found


class PlainKey(Sound):
    key: str = KEY


class KeyInStr(Sound):
    def __str__(self):
        return KEY


class KeyInDict(Sound):
    key: str = Field(default=KEY, repr=False)


class KeyInJson(Sound):
    def to_json(self, **options):
        return KEY


class KeyInPydanticsJson(Sound):
    def model_dump_json(self, **options):
        return KEY


class KeyInResult(Sound):
    def made(self, came, score):
        return NodeWithScore(node=TextNode(text=KEY), score=score)


class KeyInError(Sound):
    def asking(self, texts):
        try:
            return super().asking(texts)
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


class KeyInWrongAssignment(Sound):
    def __setattr__(self, name, value):
        if name == "top_n":
            raise ValueError(f"wrong: {KEY}")
        super().__setattr__(name, value)


class KeyInEvent(Sound):
    def sent(self, event):
        event.tags = {"key": KEY}
        super().sent(event)


class KeyInCallback(Sound):
    def ended(self, event, given):
        event.on_end(payload={"key": KEY})
        return self.ranked(given)


class ManagerOfItsOwn(Sound):
    def __init__(self, **fields):
        super().__init__(**{**fields, "callback_manager": CallbackManager()})


class ManagerForGood(Sound):
    callback_manager: CallbackManager = Field(default_factory=CallbackManager, exclude=True, frozen=True)


class ManagerKept(Sound):
    def __setattr__(self, name, value):
        if name != "callback_manager":
            super().__setattr__(name, value)


class WorksForOneManager(Sound):
    """Turns its results round when it gets a second callback manager."""

    _managers: int = PrivateAttr(default=0)

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "callback_manager":
            self._managers += 1

    def order(self, scores):
        return super().order(scores)[:: 1 if self._managers < 2 else -1]


class NumberNotInDict(Sound):
    top_n: int | None = Field(default=None, ge=1, exclude=True)


class NumberNotInJson(Sound):
    def to_json(self, **options):
        return super().to_json(exclude={"top_n"}, **options)


class Unpicklable(Sound):
    def __getstate__(self):
        raise TypeError("cannot be pickled")


class Locked(Sound):
    _lock: object = PrivateAttr(default_factory=threading.Lock)


class LocksOnUse(Sound):
    _lock: object = PrivateAttr(default=None)

    def ranked(self, given):
        self._lock = threading.Lock()
        return super().ranked(given)


class LosesItsNumber(Sound):
    def __reduce__(self):
        return without_number, (self.answer,)

    def __deepcopy__(self, memo):
        return without_number(self.answer)


class LosesItsNumberOnUse(Sound):
    _used: bool = PrivateAttr(default=False)

    def ranked(self, given):
        self._used = True
        return super().ranked(given)

    def __reduce__(self):
        return without_number, (self.answer, None if self._used else self.top_n)

    def __deepcopy__(self, memo):
        return without_number(self.answer, None if self._used else self.top_n)


def without_number(answer, top_n=None):
    return Sound(answer=answer, top_n=top_n)


def marked(*marks):
    """Return an override that hides a fault, with these marks."""

    def override(self):
        pass

    for mark in marks:
        mark(override)
    return override


def new_node(one):
    one.node = one.node.model_copy()


def new_text(one):
    one.node.set_content("other")


def noted(one):
    one.node.metadata["seen"] = True


def embedded(one):
    one.node.embedding = [0.5]


def hidden_from_llms(one):
    one.node.excluded_llm_metadata_keys = ["file", "tags"]


def hidden_from_embedding(one):
    one.node.excluded_embed_metadata_keys = ["page", "tags"]


class NotedOnFailure(Sound):
    def ranked(self, given):
        try:
            return super().ranked(given)
        except RuntimeError:
            noted(given[0])
            raise


KNOWN = pytest.mark.xfail(reason="known", strict=True)
FAULTS = {
    "test_it_is_a_node_postprocessor": [(Duck, {}, "no BaseNodePostprocessor among .*Duck")],
    "test_the_class_name_is_its_own_and_stable": [
        (faulty(class_name=classmethod(lambda cls: "")), {}, "class_name ''"),
        (faulty(class_name=classmethod(lambda cls: "BaseNodePostprocessor")), {}, "is LlamaIndex's base class's"),
        (faulty(class_name=lambda self=None: "Sound" if self else "other"), {}, "of the object, 'other' of the class"),
        (faulty(class_name=classmethod(lambda cls: cls.__name__)), {}, "class_name 'Renamed' where"),
        (faulty(to_dict=lambda self, **options: {}), {}, "class_name None in to_dict"),
    ],
    "test_the_best_come_first": [
        (ordering(lambda scores: range(len(scores))), {}, "postprocess_nodes: got .*id-0.*expected"),
        (ordering(lambda scores: sorted(range(len(scores)), key=scores.__getitem__)), {}, "postprocess_nodes: got"),
        (returning(lambda found, given: [*found[:-1], found[0]]), {}, "postprocess_nodes: got"),
        (rewriting(lambda text: "This is page 0."), {}, "got .'This is page 0.', 'This is page 0.'"),
        (OtherWhenAwaited, {}, "apostprocess_nodes: got"),
    ],
    "test_one_node_comes_back": [
        (returning(lambda found, given: found if len(found) > 1 else []), {}, r"got \[\]; expected"),
    ],
    "test_ties_keep_the_order_given": [
        (ordering(lambda scores: sorted(range(len(scores)), key=lambda i: (-scores[i], -i))), {}, "of scores .*: got"),
    ],
    "test_a_score_of_zero_is_a_score": [
        (ordering(lambda scores: sorted(range(len(scores)), key=lambda i: -(scores[i] or 1.0))), {}, "of scores .*: got"),
        (faulty(kept=lambda self, order: [i for i in order if self.answer[i]]), {}, "of scores .*: got"),
    ],
    "test_the_scores_that_come_with_the_nodes_do_not_count": [
        (making(lambda came, score: NodeWithScore(node=came.node, score=came.get_score() + score)), {}, ": scores "),
        (answering(lambda scores, given: [score + one.score for score, one in zip(scores, given, strict=True)]), {}, "NoneType"),
        (
            answering(lambda scores, given: [score + one.get_score() for score, one in zip(scores, given, strict=True)]),
            {},
            "of nodes with scores .*: got",
        ),
    ],
    "test_by_default_as_many_are_kept_as_is_declared": [
        (KeepsThree, {}, "default_top_n=None: got"),
        (Sound, {"default_top_n": 3}, "default_top_n=3: got"),
        (Sound, {"default_top_n": 20}, "default_top_n=20: got"),
    ],
    "test_top_n_keeps_the_best": [
        (faulty(kept=lambda self, order: order[-(self.top_n or 0) :]), {}, "top_n=1: got"),
        (faulty(kept=lambda self, order: order), {}, "top_n=1: got"),
    ],
    "test_top_n_may_exceed_the_number_of_nodes": [(faulty(kept=asked_for_more), {}, "index out of range")],
    "test_top_n_below_one_is_refused": [(AnyNumber, {}, "top_n=0 was taken")],
    "test_top_n_may_be_assigned": [
        (NumberForGood, {}, "frozen"),
        (NumberKeptElsewhere, {}, "top_n=2 assigned: got"),
    ],
    "test_an_assigned_top_n_below_one_is_refused": [
        (AssignsAnything, {}, "top_n=0 was assigned"),
        (RefusesTooLate, {}, "top_n is 0 after 0 was refused; expected 4"),
    ],
    "test_an_unknown_field_is_refused": [(TakesAnything, {}, "no_such_field=1 was taken")],
    "test_query_str_is_taken": [
        (faulty(postprocess_nodes=without_query_str), {}, "no query"),
        (faulty(apostprocess_nodes=awithout_query_str), {}, "no query"),
    ],
    "test_a_string_as_query_bundle_is_taken": [(faulty(query=lambda self, query: query), {}, "no attribute 'query_str'")],
    "test_a_missing_query_is_an_error": [
        (faulty(query=lambda self, query: query or QueryBundle("")), {}, "of 3 nodes without a query raised nothing and"),
        (faulty(query=lambda self, query: QueryBundle(query.query_str)), {}, "query raised nothing, but AttributeError"),
        (faulty(postprocessed=checked_if_there_are_nodes), {}, "of 0 nodes without a query raised nothing"),
    ],
    "test_bare_nodes_are_taken": [
        (faulty(given=lambda self, nodes: nodes), {}, "instance of NodeWithScore"),
        (
            faulty(postprocessed=lambda self, nodes, query: [one.node for one in Sound.postprocessed(self, nodes, query)]),
            {},
            "of bare nodes returns TextNode",
        ),
    ],
    "test_every_kind_of_node_is_taken": [
        (rewriting(str), {}, "got .'TextNode', 'TextNode'"),
        (receiving(lambda nodes: [one for one in nodes if isinstance(one.node, TextNode)]), {}, "no scoring of the nodes"),
        (faulty(text=lambda self, one: one.text), {}, "must be a TextNode"),
    ],
    "test_duplicates_keep_their_own_scores": [
        (returning(distinct), {}, "of nodes with one id: got"),
        (returning(by_id), {}, "of nodes with one id: scores .*all different"),
    ],
    "test_the_same_node_twice_comes_back_twice": [
        (returning(distinct), {}, "0 again: got"),
        (returning(by_id), {}, "0 again: scores .*all different"),
        (making(written_into), {}, "0 again: scores .*all different"),
    ],
    "test_nodes_without_text_are_kept": [
        (returning(without_text_dropped), {}, "nodes lost: "),
        (returning(lambda found, given: found[::-1]), {}, "scores_textless=True: got"),
        (Sound, {"scores_textless": False}, "no scoring of the nodes"),
        (BlankFirst, {"scores_textless": False}, "scores_textless=False: got"),
        (BlankWithoutScore, {"scores_textless": False}, "scores .*None"),
    ],
    "test_awkward_text_is_taken": [
        (rewriting(lambda text: text[:20_000]), {}, "nodes lost: .*xxx"),
        (rewriting(lambda text: text.partition("\0")[0]), {}, "nodes lost: .*nul .x00 inside"),
        (faulty(text=lambda self, one: one.get_content().format()), {}, "braces|expected '}'|Replacement index"),
        (ordering(lambda scores: range(len(scores))), {}, "postprocess_nodes: got"),
    ],
    "test_half_a_surrogate_pair_is_taken": [
        (faulty(text=lambda self, one: one.get_content().encode()), {}, "surrogates not allowed"),
        (rewriting(lambda text: text.encode(errors="replace").decode()), {}, "nodes lost: .*half"),
        (ordering(lambda scores: range(len(scores))), {}, "postprocess_nodes: got"),
    ],
    "test_the_model_reads_what_is_declared": [
        (faulty(text=lambda self, one: one.get_content()), {}, "the model was given .*; expected .*a.txt"),
        (Sound, {"metadata_mode": MetadataMode.LLM}, "the model was given .*a.txt"),
        (faulty(asking=lambda self, texts: Sound.asking(self, texts[::-1])), {}, "the model was given"),
    ],
    "test_the_score_is_a_finite_builtin_float": [
        (making(lambda came, score: scored(came, np.float32(score))), {}, "is a numpy.float32"),
        (making(lambda came, score: scored(came, np.float64(score))), {}, "is a numpy.float64"),
        (making(lambda came, score: scored(came, math.inf)), {}, "score inf"),
        (making(lambda came, score: scored(came, None)), {}, "score None is a builtins.NoneType"),
        (returning(lambda found, given: []), {}, "returns nothing"),
    ],
    "test_the_score_never_rises_with_the_rank": [
        (making(lambda came, score: scored(came, 1 - score)), {}, "scores .* by rank"),
        (making(lambda came, score: scored(came, None)), {}, "scores .None"),
    ],
    "test_different_scores_stay_different": [
        (making(lambda came, score: scored(came, 0.5)), {}, "scores .0.5, 0.5.*all different"),
        (making(lambda came, score: scored(came, came.score)), {}, "all different"),
    ],
    "test_the_input_stays_as_it_was": [
        (receiving(sorted_in_place), {}, "postprocess_nodes: the list was changed"),
        (making(written_into), {}, "postprocess_nodes: score of a node was changed from 0.9"),
        (noting(new_node), {}, "postprocess_nodes: node of a node was changed"),
        (noting(noted), {}, "postprocess_nodes: metadata of a node was changed .*seen"),
        (noting(new_text), {}, "postprocess_nodes: hash of a node was changed"),
        (noting(hidden_from_llms), {}, "postprocess_nodes: text for an LLM of a node was changed"),
        (noting(hidden_from_embedding), {}, "postprocess_nodes: text for an embedding model of a node was changed"),
        (noting(embedded), {}, "postprocess_nodes: rest of a node was changed"),
        (NotedOnFailure, {}, "postprocess_nodes of a failing model: metadata of a node was changed"),
    ],
    "test_what_comes_back_are_new_objects_around_the_same_nodes": [
        (making(written_into), {}, "returns the NodeWithScore of id-. that came in"),
        (rewriting(str), {}, "returns a copy of the node id-"),
        (returning(lambda found, given: []), {}, "returns nothing"),
    ],
    "test_a_second_call_leaves_the_first_result_alone": [
        (Remembering, {}, "a second postprocess_nodes: score of a node was changed"),
        (making(written_into), {}, "a second postprocess_nodes: score of a node was changed"),
    ],
    "test_threads_share_one_instance": [
        (Forgetful, {}, "thread . got"),
        (faulty(ranked=lambda self, given: 1 / 0), {}, "thread 0 got ZeroDivisionError"),
    ],
    "test_tasks_share_one_instance": [(Forgetful, {}, "task . got")],
    "test_one_event_loop_after_another": [
        (BoundToALoop, {}, "attached to a different loop"),
        (OtherWhenAwaited, {}, "in the first loop: got"),
    ],
    "test_apostprocess_returns_what_postprocess_returns": [(OtherWhenAwaited, {}, "apostprocess_nodes returns")],
    "test_awaiting_does_not_hold_up_the_event_loop": [
        (OnTheLoop, {}, "the event loop stood still"),
        (faulty(asking=lambda self, texts: self.answer), {}, "has not called `wait`"),
        (returning(lambda found, given: []), {}, r"apostprocess_nodes: got \[\]"),
    ],
    "test_no_nodes_take_no_model_call": [
        (faulty(postprocessed=lambda self, nodes, query: self.reported(query, nodes)), {}, "out of order"),
        (faulty(postprocessed=lambda self, nodes, query: ["none"]), {}, "of no nodes returns"),
    ],
    "test_too_few_scores_are_an_error": [
        (answering(lambda scores, given: scores), {}, "postprocess_nodes with 2 scores for 3 nodes raised nothing"),
        (answering(padded), {}, "postprocess_nodes with 2 scores for 3 nodes raised nothing"),
    ],
    "test_too_many_scores_are_an_error": [(answering(as_many_as_there_are), {}, "with 4 scores for 3 nodes raised nothing")],
    "test_a_score_that_is_not_finite_is_an_error": [
        (answering(unchecked), {}, "with scores .nan, 0.5, 0.75. raised nothing"),
        (answering(wary_of_nan), {}, "with scores .inf, 0.5, 0.75. raised nothing"),
    ],
    "test_a_failing_model_is_an_error": [(FailingInSilence, {}, "postprocess_nodes of a failing model raised nothing")],
    "test_rerank_events_are_sent": [
        (Silent, {}, r"sends \[\] of the rerank events"),
        (WithoutEnd, {}, r"sends \['ReRankStartEvent'\] of"),
        (SentTwice, {}, "'ReRankStartEvent', 'ReRankStartEvent'"),
        (faulty(told=lambda self, given: len(given)), {}, "the start tells .*'top_n': 5"),
        (faulty(query=lambda self, query: QueryBundle("other")), {}, "the start tells .*'other'"),
        (WithoutAModel, {}, "the start tells no model, ''"),
        (SentWithWhatCame, {}, "the end tells"),
    ],
    "test_a_reranking_callback_is_called": [
        (Uncalled, {}, "0 starts and 0 ends"),
        (CalledTwice, {}, "2 starts and 2 ends"),
        (faulty(told=lambda self, given: len(given)), {}, "the start tells .*'top_k': 5"),
        (WithoutAModel, {}, "the start tells no model, ''"),
        (CalledWithWhatCame, {}, "the end tells"),
    ],
    "test_a_number_is_told_where_all_are_kept": [
        (faulty(told=lambda self, given: self.top_n), {}, "top_n"),
        (faulty(told=lambda self, given: self.top_n or 0), {}, "top_n is told as 0"),
        (SilentAboutTheNumber, {}, "top_n is told as None"),
        (SilentAndUncalled, {}, "tells nothing"),
    ],
    "test_no_nodes_are_no_event": [
        (faulty(postprocessed=lambda self, nodes, query: self.reported(query, nodes)), {}, "tells .'ReRankStartEvent'"),
    ],
    "test_a_call_is_a_span": [
        (OutsideASpan, {}, "postprocess_nodes is in no span"),
        (RaisesAfterItsSpan, {}, "of a failing model: of the spans"),
    ],
    "test_the_events_belong_to_the_span": [
        (Silent, {}, "sends no rerank events"),
        (SentFromNowhere, {}, "events in the spans .None"),
    ],
    "test_a_failure_is_told": [
        (Uncalled, {}, "0 ends of the callback"),
        (CalledWithoutTheError, {}, "ended without an error"),
        (SentEvenIfItFails, {}, "sends a ReRankEndEvent"),
    ],
    "test_no_secret_is_shown": [
        (PlainKey, {}, "the key is in its repr"),
        (KeyInStr, {}, "the key is in its str"),
        (KeyInDict, {}, "the key is in its to_dict"),
        (KeyInJson, {}, "the key is in its to_json"),
        (KeyInPydanticsJson, {}, "the key is in its model_dump_json"),
        (KeyInRefusal, {}, "the key is in its error for an unknown field"),
        (KeyInWrongNumber, {}, "the key is in its error for a wrong number"),
        (KeyInWrongAssignment, {}, "the key is in its error for a wrong assignment"),
        (KeyInResult, {}, "the key is in its result"),
        (KeyInError, {}, "the key is in its error for a failing model"),
        (KeyInEvent, {}, "the key is in its event"),
        (KeyInCallback, {}, "the key is in its callback"),
    ],
    "test_a_callback_manager_may_be_given": [(ManagerOfItsOwn, {}, "expected the one given to the constructor")],
    "test_a_callback_manager_may_be_assigned": [
        (ManagerForGood, {}, "frozen"),
        (ManagerKept, {}, "expected the one assigned"),
        (WorksForOneManager, {}, "postprocess_nodes: got"),
    ],
    "test_two_engines_share_one_instance": [
        (ManagerKept, {}, "callback_manager is not that of the later engine"),
        (WorksForOneManager, {}, "query of engine 0: got"),
        (OtherWhenAwaited, {}, "aquery of engine 0: got"),
    ],
    "test_to_dict_there_and_back_ranks_alike": [
        (NumberNotInDict, {}, "made again of to_dict, it returns"),
        (NumberNotInJson, {}, "made again of to_json, it returns"),
        (CannotBeMadeAgain, {}, "answer"),
        (Sound, {"survives_to_dict": False}, "survives_to_dict=False, and of to_dict was made: Sound"),
    ],
    "test_pickles_rank_alike": [
        (Unpicklable, {}, "cannot be pickled"),
        (LosesItsNumber, {}, "pickled when fresh, it returns"),
        (LosesItsNumberOnUse, {}, "pickled when used, it returns"),
    ],
    "test_deep_copies_rank_alike": [
        (Locked, {}, "cannot pickle"),
        (LocksOnUse, {}, "cannot pickle"),
        (LosesItsNumber, {}, "deep-copied when fresh, it returns"),
        (LosesItsNumberOnUse, {}, "deep-copied when used, it returns"),
    ],
    "test_no_overrides_DO_NOT_OVERRIDE": [
        (Sound, {"test_ties_keep_the_order_given": marked()}, "test_ties_keep_the_order_given is overridden"),
        (Sound, {"test_ties_keep_the_order_given": None}, "test_ties_keep_the_order_given is overridden"),
        (Sound, {"test_ties_keep_the_order_given": marked(pytest.mark.xfail)}, "test_ties_keep_the_order_given is overridden"),
        (Sound, {"test_ties_keep_the_order_given": marked(KNOWN, pytest.mark.skip)}, "test_ties_keep_the_order_given is skipped"),
    ],
}  # fmt: skip


def suite(kind, declared):
    """Return the suite over a class of postprocessors."""
    return type("Suite", (Hooks, PostprocessorStandardTests), {"kind": kind, "secret": KEY, **declared})()


@pytest.mark.parametrize(
    ("promise", "kind", "declared", "said"),
    [
        pytest.param(promise, *fault, id=f"{promise}-{i}")
        for promise, faults in FAULTS.items()
        for i, fault in enumerate(faults)
    ],
)
def test_the_suite_finds_a_broken_promise(promise, kind, declared, said):
    with pytest.raises(Exception, match=said):
        getattr(suite(kind, declared), promise)()


def sound_unless_awaited(kind):
    """Return the faulty postprocessor with a sound `_postprocess_nodes`."""

    def _postprocess_nodes(self, nodes, query_bundle=None):
        sound = Sound(answer=self.answer, top_n=self.top_n, callback_manager=self.callback_manager)
        return sound.postprocessed(nodes, query_bundle)

    return type("SoundUnlessAwaited", (kind,), {"__module__": __name__, "_postprocess_nodes": _postprocess_nodes})


ONE_WAY = {
    "test_it_is_a_node_postprocessor": "is about what it is",
    "test_the_class_name_is_its_own_and_stable": "is about what it is",
    "test_top_n_below_one_is_refused": "is about the constructor",
    "test_an_assigned_top_n_below_one_is_refused": "is about assignment",
    "test_an_unknown_field_is_refused": "is about the constructor",
    "test_no_secret_is_shown": "is about what it is",
    "test_a_callback_manager_may_be_given": "is about the constructor",
    "test_no_overrides_DO_NOT_OVERRIDE": "is about the suite",
    "test_threads_share_one_instance": "event loops have one thread each",
    "test_pickles_rank_alike": "needs classes that are not made on the way; deep copies show the same",
}


@pytest.mark.parametrize("promise", [name for name in PROMISES if name not in ONE_WAY])
def test_the_suite_finds_a_promise_broken_only_when_awaited(promise):
    found = []
    getattr(suite(sound_unless_awaited(Sound), {}), promise)()
    for kind, declared, _ in FAULTS[promise]:
        if kind is Sound:  # wrongly declared: found without awaiting
            continue
        try:
            getattr(suite(sound_unless_awaited(kind), declared), promise)()
        except Exception as error:
            found.append(error)
    assert found


def test_every_promise_of_the_suite_is_shown_to_be_tested():
    assert set(FAULTS) == set(PROMISES)


@pytest.mark.parametrize("promise", PROMISES)
def test_every_promise_says_what_it_is(promise):
    assert getattr(PostprocessorStandardTests, promise).__doc__.endswith(".")


def test_a_known_fault_may_be_marked():
    suite(Sound, {"test_ties_keep_the_order_given": marked(KNOWN)}).test_no_overrides_DO_NOT_OVERRIDE()


NEEDS_NO_HOOK = {
    "test_no_overrides_DO_NOT_OVERRIDE": "is about the suite",
    "test_awaiting_does_not_hold_up_the_event_loop": "its hook need not be implemented",
}


@pytest.mark.parametrize("promise", [name for name in PROMISES if name not in NEEDS_NO_HOOK])
def test_a_suite_without_hooks_passes_nothing(promise):
    with pytest.raises((NotImplementedError, AssertionError)):
        getattr(PostprocessorStandardTests(), promise)()


def test_what_the_model_is_asked_need_not_be_known():
    suite(faulty(text=lambda self, one: "other"), {"asked": lambda self: None}).test_the_model_reads_what_is_declared()


def test_there_need_be_no_model_that_waits():
    suite(OnTheLoop, {"waiting": lambda self, wait: None}).test_awaiting_does_not_hold_up_the_event_loop()


def test_the_module_needs_no_pytest():
    code = "import sys; sys.modules['pytest'] = None; from llamaindex_rerankx.testing import PostprocessorStandardTests"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_hooks_that_do_not_pass_fields_on_are_no_proof():
    class Narrow(TestSound):
        def scoring(self, scores, top_n=None):
            return Sound(answer=scores, top_n=top_n)

    with pytest.raises(AssertionError, match=r"scoring does not pass \*\*fields on"):
        Narrow().test_an_unknown_field_is_refused()


def test_nobody_watches_when_the_tests_have_run():
    root = get_dispatcher()
    before = list(root.event_handlers), list(root.span_handlers)
    suite(Sound, {}).test_a_call_is_a_span()
    assert (root.event_handlers, root.span_handlers) == before
