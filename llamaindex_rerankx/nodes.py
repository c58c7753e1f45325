"""`RerankedNode`, what comes out of a reranking, and the way there and back between LlamaIndex's nodes and rerankx."""

from __future__ import annotations

from collections.abc import Iterable

from llama_index.core.schema import BaseNode, NodeWithScore

from rerankx import Hit, Ranking


class RerankedNode(NodeWithScore):
    """A node in its new place: the retriever's node object itself, the reranker's score, and where it came from.

    `score` is a float in [0, 1] that never rises from one node to the next; 0.0 if the node was not scored. What a subclass of
    `NodeWithScore` had beside node and score is not carried on.
    """

    retrieval_score: float | None = None
    """The score it came with, whatever that means to the retriever; a second reranking carries it on."""
    retrieval_rank: int | None = None
    """Its place among the nodes that came in, from 1; a second reranking carries it on."""
    degraded: str | None = None
    """`Ranking.degraded`: why this result is less than what was asked; None if it is not. A second reranking carries it on."""

    @classmethod
    def class_name(cls) -> str:
        """Return the id under which it is serialised."""
        return "RerankedNode"


def with_scores(nodes: Iterable[object]) -> list[NodeWithScore]:
    """Return the nodes in their order, the very objects; a bare node is wrapped, without a score."""
    return [_with_score(i, node) for i, node in enumerate(nodes)]


def _with_score(index: int, node: object) -> NodeWithScore:
    if isinstance(node, NodeWithScore):
        return node
    if isinstance(node, BaseNode):
        return NodeWithScore(node=node)
    raise TypeError(f"node {index} is {type(node).__name__}; expected a NodeWithScore or a node")


def reranked_nodes(ranking: Ranking[NodeWithScore], *, into_metadata: bool = False) -> list[RerankedNode]:
    """Return new objects around the ranking's own nodes, in its order; around copies of them if the score goes into metadata."""
    reranked = [_reranked_node(hit, ranking.degraded) for hit in ranking]
    if into_metadata:
        for one in reranked:
            one.node = _noted(one.node, one.retrieval_score)
    return reranked


def _reranked_node(hit: Hit[NodeWithScore], degraded: str | None) -> RerankedNode:
    came = hit.document
    if isinstance(came, RerankedNode):
        score, rank = came.retrieval_score, came.retrieval_rank
    else:
        score, rank = came.score, hit.index + 1
    degraded = degraded or getattr(came, "degraded", None)
    return RerankedNode(node=came.node, score=hit.score, retrieval_score=score, retrieval_rank=rank, degraded=degraded)


def _noted(node: BaseNode, score: float | None) -> BaseNode:
    name = "retrieval_score"
    hidden = {
        field: list(dict.fromkeys([*getattr(node, field), name]))
        for field in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    return node.model_copy(update={"metadata": {**node.metadata, name: score}, **hidden})
