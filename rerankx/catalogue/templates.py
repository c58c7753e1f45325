"""Prompts of language models that rerank: what their makers' own code puts around a query and a document, to the character.

Each model was trained on one wording; under another its scores are noise that looks like scores.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_SLOT = re.compile(r"\{(instruct|query|document)\}")


@dataclass(frozen=True, slots=True)
class Template:
    """How a language model is asked whether a document answers a query, and where its answer stands."""

    pieces: tuple[str, ...]
    """The prompt. Each piece is tokenised by itself, and the ids are joined: a token never spans two pieces. Slots:
    `{instruct}`, `{query}` and `{document}`, which ends its piece. Special tokens stand as they are written."""
    instruct: str
    """What fills `{instruct}`, with the slot `{instruction}`; nothing where there is no instruction."""
    instruction: str | None
    """The instruction where the caller gives none; None where the model then gets none."""
    yes: str
    """The token whose logit says "relevant"."""
    no: str | None
    """The token whose logit says "not relevant": the score is yes - no, the log-odds of yes. None: the logit of yes alone."""
    max_tokens: int
    """How much of a pair the makers' code reads where nothing else is said, in tokens; the model itself may have positions for
    more."""
    source: str
    """Where all this is written, and when it was read there."""

    def __post_init__(self) -> None:
        slots = [piece for piece in self.pieces if "{document}" in piece]
        if len(slots) != 1 or not slots[0].endswith("{document}"):
            raise ValueError(
                "a template has one piece with {document}, at its end: what is cut there is the document alone"
            )
        if sum(piece.count("{query}") for piece in self.pieces) != 1:
            raise ValueError("a template has one {query}")

    def filled(self, query: str, document: str, instruction: str | None = None) -> tuple[str, ...]:
        """Return the pieces with their slots filled; `instruction` None takes the default."""
        told = self.instruction if instruction is None else instruction
        instruct = "" if told is None else self.instruct.replace("{instruction}", told)
        slots = {"instruct": instruct, "query": query, "document": document}
        # One pass over each piece, so that a query that has "{document}" in it stays a query.
        return tuple(_SLOT.sub(lambda slot: slots[slot[1]], piece) for piece in self.pieces)


TEMPLATES: Mapping[str, Template] = {
    # Qwen/Qwen3-Reranker-0.6B, -4B, -8B. p(yes) is the softmax over the two logits, so the sigmoid of their difference.
    "qwen3": Template(
        pieces=(
            "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct provided."
            ' Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n',
            "{instruct}<Query>: {query}\n<Document>: {document}",
            "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        ),
        instruct="<Instruct>: {instruction}\n",
        instruction="Given a web search query, retrieve relevant passages that answer the query",
        yes="yes",
        no="no",
        max_tokens=8192,
        source="https://huggingface.co/Qwen/Qwen3-Reranker-0.6B, Transformers usage; 2026-11-23",
    ),
    # BAAI/bge-reranker-v2-gemma: another prompt may take the place of the question at the end.
    "bge-gemma": Template(
        pieces=("<bos>", "A: {query}", "\n", "B: {document}", "\n", "{instruct}"),
        instruct="{instruction}",
        instruction=(
            "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a"
            " prediction of either 'Yes' or 'No'."
        ),
        yes="Yes",
        no=None,
        max_tokens=1024,
        source="https://github.com/FlagOpen/FlagEmbedding/blob/0dff36cd1fc1d63dd39bf209e87cfa1ba83dc74d/FlagEmbedding/inference/"
        "reranker/decoder_only/base.py, and max_length of https://huggingface.co/BAAI/bge-reranker-v2-gemma; 2026-11-23",
    ),
    # mixedbread-ai/mxbai-rerank-base-v2, -large-v2.
    "mxbai-v2": Template(
        pieces=(
            "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
            "<|im_start|>user\n",
            "{instruct}query: {query}",
            "\n",
            "document: {document}",
            "\n",
            "You are a search relevance expert who evaluates how well documents match search queries. For each query-document"
            " pair, carefully analyze the semantic relationship between them, then provide your binary relevance judgment"
            " (0 for not relevant, 1 for relevant).\nRelevance:",
            "<|im_end|>\n<|im_start|>assistant\n",
        ),
        instruct="instruction: {instruction}\n",
        instruction=None,
        yes="1",
        no="0",
        max_tokens=8192,
        source="https://github.com/mixedbread-ai/mxbai-rerank/blob/03324ea9e52fbb13f6477bf30406ef5919e09d4a/mxbai_rerank/"
        "mxbai_rerank_v2.py; 2026-11-23",
    ),
}
