"""What the tests of the LlamaIndex adapter play with: backends, an index over ten passages, recorders of events."""

import asyncio
import re
from functools import partial
from zlib import crc32

from llama_index.core import VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks.base_handler import BaseCallbackHandler
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.schema import NodeWithScore, TextNode

from rerankx import Scale
from rerankx.testing import FakeBackend, word_overlap

QUESTION = "how do I get my money back"
PASSAGES = [
    "Parcels leave the warehouse within two days.",
    "Our shops open at nine.",
    "How to change the address on a parcel.",
    "How soon do you get your money back? Within a week.",
    "Gift cards do not expire.",
    "How do I get my money back? Send the item to us and get the money back on your card.",
    "Money can be paid by card.",
    "The newsletter comes monthly.",
    "Do I get a receipt? Yes, by mail.",
    "Batteries are not included.",
]
BEST = [5, 3]  # in this order, for QUESTION


def weighted_overlap(weight: float, query: str, text: str) -> float:
    return weight * word_overlap(query, text)


class Overlap(FakeBackend):
    """Scores by the query's words; takes options as real backends do, and notes by which way it was called."""

    def __init__(
        self, model: str = "words", weight: float = 1.0, error: Exception | None = None, **ignored: object
    ) -> None:
        super().__init__(name="overlap", model=model, score=partial(weighted_overlap, weight), error=error)
        self.ways: list[str] = []

    def _score(self, query, texts, *, top_n=None):
        self.ways.append("sync")
        return super()._score(query, texts, top_n=top_n)

    async def _ascore(self, query, texts, *, top_n=None):
        await asyncio.sleep(0)
        self.ways.append("async")
        return super()._score(query, texts, top_n=top_n)

    @property
    def seen(self) -> list[str]:
        """The texts of the last call."""
        return list(self.calls[-1].texts)


def places() -> FakeBackend:
    """The same order, as ranks: raw scores that mean nothing else, and lie far outside [0, 1]."""
    return FakeBackend(score=partial(weighted_overlap, 1000.0), scale=Scale.RANK, pointwise=False)


class HashEmbedding(BaseEmbedding):
    """Counts of words in 64 buckets: an embedding model without a model."""

    def _get_text_embedding(self, text: str) -> list[float]:
        buckets = [0.01] * 64
        for word in re.findall(r"\w+", text.lower()):
            buckets[crc32(word.encode()) % 64] += 1
        return buckets

    def _get_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


class Events(BaseEventHandler):
    """Keeps every instrumentation event."""

    seen: list  # pydantic: one per instance

    @classmethod
    def class_name(cls) -> str:
        return "Events"

    def handle(self, event, **kwargs):
        self.seen.append(event)

    def of(self, kind):
        return [event for event in self.seen if isinstance(event, kind)]


class Callbacks(BaseCallbackHandler):
    """Keeps every event of the older callback system, as (type, payload)."""

    def __init__(self) -> None:
        super().__init__(event_starts_to_ignore=[], event_ends_to_ignore=[])
        self.started, self.ended = [], []

    def on_event_start(self, event_type, payload=None, event_id="", parent_id="", **kwargs):
        self.started.append((event_type, payload))
        return event_id

    def on_event_end(self, event_type, payload=None, event_id="", **kwargs):
        self.ended.append((event_type, payload))

    def start_trace(self, trace_id=None):
        pass

    def end_trace(self, trace_id=None, trace_map=None):
        pass


def nodes_of(passages=PASSAGES) -> list[TextNode]:
    return [TextNode(id_=f"p{i}", text=text) for i, text in enumerate(passages)]


def retrieved(passages=PASSAGES) -> list[NodeWithScore]:
    """The passages as a retriever brings them, with falling scores."""
    return [NodeWithScore(node=node, score=0.9 - i / 100) for i, node in enumerate(nodes_of(passages))]


def ids(nodes) -> list[str]:
    return [node.node_id for node in nodes]


def index_of(passages=PASSAGES, **options) -> VectorStoreIndex:
    return VectorStoreIndex(nodes_of(passages), embed_model=HashEmbedding(), **options)


def llm() -> MockLLM:
    return MockLLM()


def memory() -> ChatMemoryBuffer:
    """A chat engine's memory without the database of LlamaIndex's default, whose connection nothing ever closes."""
    return ChatMemoryBuffer.from_defaults(token_limit=10_000)
