"""The stage with a retriever that is wrong: what answers best is long-winded, so that by likeness it comes after the rest."""

import llamaindex_stage
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeWithScore, TextNode

TALK = (
    " Whatever else there may be to say, let it be said: thank you very much, dear customer, and all the very best." * 4
)
PASSAGES = [text + TALK if i in llamaindex_stage.BEST else text for i, text in enumerate(llamaindex_stage.PASSAGES)]


def nodes_of(passages=PASSAGES) -> list[TextNode]:
    return llamaindex_stage.nodes_of(passages)


def retrieved() -> list[NodeWithScore]:
    return llamaindex_stage.retrieved(PASSAGES)


def index_of(passages=PASSAGES, **options) -> VectorStoreIndex:
    return llamaindex_stage.index_of(passages, **options)
