"""`CrossEncoder`: query and text read together by a transformer, on this machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, get_args

from rerankx.catalogue import card_of
from rerankx.engines.engine import ONNX_FILES, Engine
from rerankx.engines.files import ModelFiles, digest, external_data
from rerankx.engines.once import Once
from rerankx.errors import MissingDependencyError, ModelNotFoundError, did_you_mean
from rerankx.interface import Backend, Scale, Scores, Usage

if TYPE_CHECKING:
    from tokenizers import Tokenizer

DEFAULT = "cross-encoder/ms-marco-MiniLM-L6-v2"

EngineName = Literal["auto", "onnx", "sentence-transformers"]
Precision = Literal["fp32", "fp16", "bf16", "int8"]

_SCALES = {"logit": Scale.LOGIT, "unknown": Scale.UNKNOWN}


class CrossEncoder(Backend):
    """Scores by a cross-encoder: MiniLM, BGE, Jina, mxbai, GTE, Qwen3, your own.

    Pointwise. Raw scores are the model's logits, whatever activation it ships with; the scale is LOGIT where the catalogue or the
    model's own configuration says that their sigmoid is a probability, else UNKNOWN. Loads on first use; texts that are longer
    than the model reads are cut and counted in `truncated`. A passed deadline leaves texts unscored.

    Args:
        model: A repository on the hub, or a folder with config.json, tokenizer.json and an ONNX graph (`model.onnx` or
            `onnx/model.onnx`) or safetensors.
        engine: "onnx" runs the graph on the CPU and needs no torch. "sentence-transformers" runs the safetensors on any device.
            "auto": "onnx" where the model has a graph and the device is a CPU.
        device: "cpu", "cuda", "cuda:1", "mps". None: CUDA where sentence-transformers is installed and torch sees it, else "cpu".
        precision: "fp32"; "int8" (onnx: faster, and the scores drift); "fp16" or "bf16" (sentence-transformers). None: fp32 on a
            CPU, 16 bits on a GPU.
        max_tokens: The longest pair of query and text, special tokens included; None is the longest the model takes.
        instruction: What counts as relevant, for models that read an instruction (Qwen3, mxbai-rerank v2, bge-reranker-v2-gemma).
        template: The prompt without which a language model's scores are noise: "qwen3", "bge-gemma" or "mxbai-v2". Needed for a
            folder or a fine-tuned copy; the catalogue knows it for the models it lists.
        scale: "logit" or "unknown", where you know better than the model's configuration.
        onnx_file: The fp32 graph in the repository or folder, where it lies elsewhere.
        tokens_per_batch: Padded tokens in one batch of the sentence-transformers engine; None: 1,024 on a CPU, 32,768 on a GPU.
        revision: Branch, tag or commit of the repository; a folder has none.
        cache_dir: Where files are kept; None is the hub library's cache.
        local_files_only: Whether to take only what is there already.

    Raises:
        ModelNotFoundError: Nothing of that name here or on the hub; raised on first use unless it can be seen at once.
        ValueError: Options that do not go together, or, on first use, do not fit the model.
    """

    name = "cross-encoder"
    pointwise = True

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT,
        *,
        engine: EngineName = "auto",
        device: str | None = None,
        precision: Precision | None = None,
        max_tokens: int | None = None,
        template: str | None = None,
        instruction: str | None = None,
        scale: Literal["logit", "unknown"] | None = None,
        onnx_file: str | None = None,
        tokens_per_batch: int | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        _one_of("engine", engine, get_args(EngineName))
        _one_of("precision", precision, (None, *get_args(Precision)))
        _one_of("scale", scale, (None, *_SCALES))
        for name, count in (("max_tokens", max_tokens), ("tokens_per_batch", tokens_per_batch)):
            if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
                raise TypeError(f"{name} must be a whole number, not {count!r}")
        if revision is not None and not isinstance(revision, str):
            raise TypeError(f"revision must be a string, not {revision!r}")
        self._files = ModelFiles(model, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
        # Absolute: a relative folder is another one, or a repository's name, once the process has moved.
        self.model = os.fspath(model) if self._files.folder is None else str(self._files.folder.absolute())
        self._card = card_of(self.model) if self._files.folder is None else None
        card = self._card
        template = card.template if template is None and card is not None else template
        for_torch = (
            device not in (None, "cpu")
            or precision in ("fp16", "bf16")
            or template is not None
            or instruction is not None
        )
        for_onnx = precision == "int8" or onnx_file is not None
        if (engine == "onnx" or for_onnx) and for_torch:
            raise ValueError(
                "engine='onnx' runs fp32 or int8 graphs on the CPU, without templates and instructions; take"
                " engine='sentence-transformers' for those, for fp16, bf16 and GPUs"
            )
        if engine == "sentence-transformers" and for_onnx:
            raise ValueError(
                "precision='int8' and onnx_file belong to engine='onnx'; leave them out or change the engine"
            )
        self._given: _Given = {
            "engine": engine, "device": device, "precision": precision, "max_tokens": max_tokens, "template": template,
            "instruction": instruction, "scale": scale, "onnx_file": onnx_file, "tokens_per_batch": tokens_per_batch,
            "revision": revision, "cache_dir": None if cache_dir is None else os.fspath(cache_dir),
            "local_files_only": local_files_only,
        }  # fmt: skip
        self._for_torch, self._for_onnx = for_torch, for_onnx
        self._engine, self._kind, self._read = Once(self._load), Once(self._choose), Once(self._read_scale)
        self._content, self._tokenizer = Once(self._read_content), Once(self._read_tokenizer)

    @property
    def scale(self) -> Scale:  # type: ignore[override]  # read, not set
        """Return LOGIT or UNKNOWN; the configuration of a model outside of the catalogue is fetched for it."""
        return self._read.get()

    @property
    def fingerprint(self) -> str:
        """Return name, model, version of its files, and what else changes a score; the files are looked up for it."""
        kind, given = str(self._kind.get()), self._given
        self._files.find("config.json")  # so that the revision is known
        version = self._files.revision or self._content.get()
        if kind != "onnx":
            kind += "@" + (given["device"] or ("cuda" if _sees_cuda() else "cpu"))
        names = ("precision", "max_tokens", "template", "instruction", "onnx_file")
        options = (f"{name}={value}" for name, value in given.items() if name in names and value is not None)
        return ":".join([self.name, f"{self.model}@{version}", kind, *options])

    def describe(self) -> dict[str, object]:
        """Return how the model runs: version, scale, engine, device, precision, longest pair; loads it if need be."""
        engine = self._engine.get()
        return {"model": self.model, "revision": self._files.revision, "scale": self.scale.kind, **engine.describe()}

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return where each token of the text begins and ends, in characters; of the model only the tokenizer is loaded."""
        from rerankx.engines.spans import token_spans

        tokenizer = self._tokenizer.get()
        return super().token_spans(text) if tokenizer is None else token_spans(tokenizer, text)

    def download(self) -> None:
        """Fetch the newest files of the revision and make what is made of them: for an image, or a host without network."""
        with self._files.refresh():
            self._forget()
            try:
                self._engine.get()
                self._read.get()
            except BaseException:  # the version that was there before is there still
                self._forget()
                raise

    def _forget(self) -> None:
        for known in (self._kind, self._engine, self._read, self._content, self._tokenizer):
            known.forget()

    def close(self) -> None:
        """Let go of the model and its memory; the next call loads it again."""
        self._engine.forget()
        self._tokenizer.forget()

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        logits = self._engine.get().logits(query, texts)
        labels = {len(row) for row in logits.rows if row is not None} - {1}
        if labels:
            raise ModelNotFoundError(
                f"{self.model} gives {max(labels)} logits per pair; a reranker gives one, the relevance"
            )
        return Scores(
            [None if row is None else float(row[0]) for row in logits.rows],
            usage=Usage(input_tokens=logits.tokens),
            cut=logits.cut,
            degraded="deadline" if any(row is None for row in logits.rows) else None,
            scale=self.scale,  # which may have to be fetched: here, and not in the caller's event loop
        )

    def _load(self) -> Engine:
        given = self._given
        labels = self._files.json("config.json").get("id2label")
        if isinstance(labels, dict) and len(labels) > 1 and given["template"] is None:
            raise ModelNotFoundError(
                f"{self.model} has {len(labels)} labels ({', '.join(map(str, labels.values()))[:100]}) where a reranker has one,"
                " the relevance; for such a classifier write a Backend of your own that says which label counts"
            )
        if self._kind.get() == "onnx":
            from rerankx.engines.onnx_engine import OnnxEngine

            return OnnxEngine(
                self._files, graphs=self._graphs(), precision="int8" if given["precision"] == "int8" else "fp32",
                max_tokens=given["max_tokens"], cache_dir=given["cache_dir"],
            )  # fmt: skip
        from rerankx.engines.torch_engine import TorchEngine

        precision = None if given["precision"] == "int8" else given["precision"]
        return TorchEngine(
            self._files, device=given["device"], precision=precision, max_tokens=given["max_tokens"],
            tokens_per_batch=given["tokens_per_batch"], template=given["template"], instruction=given["instruction"],
        )  # fmt: skip

    def _choose(self) -> Literal["onnx", "sentence-transformers"]:
        """Return the engine: ONNX where a graph is there and nothing asks for torch."""
        given = self._given
        if given["engine"] == "onnx" or self._for_onnx:
            return "onnx"
        torch = given["engine"] == "sentence-transformers" or self._for_torch
        if (
            not torch
            and self._has_graph()
            and (given["device"] == "cpu" or not _sees_cuda() or not self._runs_on_torch())
        ):
            return "onnx"
        if find_spec("sentence_transformers") is None:
            raise MissingDependencyError(
                f"{self.name}:{self.model}", ["sentence_transformers"], "pip install 'rerankx[sentence-transformers]'"
            )
        return "sentence-transformers"

    def _has_graph(self) -> bool:
        card = self._card
        # By the card where there is one: offline, a graph that is not cached would look like one that is not there.
        return card.onnx_file is not None if card is not None else self._files.find(*ONNX_FILES) is not None

    def _runs_on_torch(self) -> bool:
        """Return whether it has weights that torch can run without code of the repository's own."""
        if "auto_map" in self._files.json("config.json"):  # before the weights, which would be fetched for nothing
            return False
        return self._files.find("model.safetensors", "model.safetensors.index.json") is not None

    def _graphs(self) -> Sequence[str]:
        """Return where the model's fp32 graph may lie, best guess first."""
        if self._given["onnx_file"] is not None:
            return (self._given["onnx_file"],)
        card = self._card
        return (card.onnx_file,) if card is not None and card.onnx_file is not None else ONNX_FILES

    def _read_content(self) -> str:
        """Return a digest of those files of a folder that decide on scores."""
        folder = Path(self.model)
        kinds = {".json", ".jinja", ".txt", ".model"} | (set() if self._kind.get() == "onnx" else {".safetensors"})
        files = [path for path in sorted(folder.rglob("*")) if path.suffix in kinds and path.is_file()]
        if self._kind.get() == "onnx":
            graph = self._files.get(*self._graphs(), what="ONNX graph")
            files += [graph, *(graph.parent / name for name in external_data(graph))]
        return sha256("".join(map(digest, files)).encode()).hexdigest()[:12]

    def _read_tokenizer(self) -> Tokenizer | None:
        from rerankx.engines.spans import read_tokenizer

        return read_tokenizer(self._files)

    def _read_scale(self) -> Scale:
        given, card = self._given["scale"], self._card
        if given is None and card is not None:
            given = card.scale
        if given is None:
            given = "logit" if _trained_as_probability(self._files) else "unknown"
        return _SCALES[given]

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), self.model, **self._given), ()  # options travel, weights do not


class _Given(TypedDict):
    """The options, as they were given."""

    engine: EngineName
    device: str | None
    precision: Precision | None
    max_tokens: int | None
    template: str | None
    instruction: str | None
    scale: Literal["logit", "unknown"] | None
    onnx_file: str | None
    tokens_per_batch: int | None
    revision: str | None
    cache_dir: str | None
    local_files_only: bool


def _trained_as_probability(files: ModelFiles) -> bool:
    """Return whether the model's configuration says that a sigmoid belongs behind its logit."""
    config, own = files.json("config.json"), files.json("config_sentence_transformers.json")
    inner = config.get("sentence_transformers")
    activation = (
        (inner.get("activation_fn") if isinstance(inner, dict) else None)
        or own.get("activation_fn")
        or config.get("sbert_ce_default_activation_function")  # sentence-transformers before 4
    )
    return isinstance(activation, str) and activation.endswith("Sigmoid")


def _sees_cuda() -> bool:
    """Return whether torch, if sentence-transformers is installed, sees a CUDA device; not imported where no driver is."""
    driver = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    if find_spec("sentence_transformers") is None or sys.platform == "darwin":
        return False
    import ctypes

    try:
        ctypes.CDLL(driver)
    except OSError:
        return False
    import torch

    return bool(torch.cuda.is_available())


def _one_of(name: str, value: str | None, known: Sequence[str | None]) -> None:
    if value not in known:
        words = [str(word) for word in known if word is not None]
        raise ValueError(f"{name} must be one of {', '.join(words)}, not {value!r}{did_you_mean(str(value), words)}")
