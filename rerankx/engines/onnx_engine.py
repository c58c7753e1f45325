"""A cross-encoder on a CPU: ONNX Runtime, tokenizers and numpy, no torch.

Few tokens per run, one thread each, as many runs at once as there are cores: big padded batches leave the cores' caches and
compute their own padding, which is what makes the usual ways two to four times slower (`benchmarks/local_speed.py` measures it).
"""

from __future__ import annotations

import math
import mmap
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal
from weakref import WeakSet

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerankx.engines.engine import ONNX_FILES, Logits
from rerankx.engines.files import ModelFiles, external_data
from rerankx.engines.once import Once
from rerankx.engines.pairs import Pair, PairTokenizer
from rerankx.engines.pool import run_longest_first, usable_cores
from rerankx.engines.prepare import Prepared, prepare, session_of, unreadable
from rerankx.errors import BackendError, ModelNotFoundError, OptionError
from rerankx.interface import out_of_time, remaining_s

# One run computes at most that many tokens, padding included, or one text. Measured with MiniLM-L6 and TinyBERT-L2 on 2 cores:
# against one text per run, 128 to 512 save 20 % with pairs of 24 tokens, a few with 90 (20 % for the tiny model); 1,024 lose.
_TOKENS_PER_RUN = 256
# Tokens. A lone text of _LONG is worth a second session, which uses all cores for one run. Texts of _VERY_LONG take turns in it:
# attention over n tokens keeps heads * n * n numbers, and 8,192 tokens gigabytes of them. A large file is not loaded twice.
_LONG, _VERY_LONG = 512, 2048
_SMALL = 600e6  # bytes

# RoBERTa and its kin count positions from behind the padding's id (`create_position_ids_from_input_ids` in transformers).
# fmt: off
_BEHIND_PADDING = frozenset({
    "camembert", "data2vec-text", "esm", "ibert", "longformer", "luke", "mpnet", "roberta", "roberta-prelayernorm", "xlm-roberta",
    "xlm-roberta-xl", "xmod",
})
# fmt: on

_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}


class OnnxEngine:
    """Runs the graph of a model; safe under threads.

    Args:
        files: The model's; its tokenizer.json, config.json and graph are read.
        graphs: Where its fp32 graph may lie among them, best guess first.
        precision: "int8" quantises it (`prepare`).
        max_tokens: The longest pair; None is the longest the model takes.
        cache_dir: Where edited graphs are kept.

    Raises:
        ModelNotFoundError: A file is not there, or is not what it should be; the message says which.
        MissingDependencyError: int8 has to be made first, and the package that makes it is not installed.
        OptionError: `max_tokens` is more than the model takes, or leaves no room for query and text.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        graphs: Sequence[str] = ONNX_FILES,
        precision: Literal["fp32", "int8"] = "fp32",
        max_tokens: int | None = None,
        cache_dir: str | None = None,
    ) -> None:
        path = files.get(*graphs, what="ONNX graph")
        limit = longest_pair(files)
        if max_tokens is not None and limit is not None and max_tokens > limit:
            raise OptionError(f"{files.model} reads pairs of up to {limit} tokens; max_tokens is {max_tokens}")
        self.precision = precision
        self.max_tokens = max_tokens if max_tokens is not None else limit or 512
        self._pairs = PairTokenizer(_tokenizer(files), max_tokens=self.max_tokens)
        self._session, (self._path, self._layers) = _load(path, precision, cache_dir, limit or 512)
        given = self._session.get_inputs()
        self._inputs = {node.name: _whole_numbers(node, path) for node in given}
        if not {"input_ids"} <= set(self._inputs) <= _INPUTS:
            raise ModelNotFoundError(
                f"{path} has the inputs {', '.join(self._inputs)}; a cross-encoder has input_ids, attention_mask and perhaps"
                " token_type_ids"
            )
        fixed = [size for node in given for size in node.shape[1:] if isinstance(size, int)]
        if fixed:
            raise ModelNotFoundError(
                f"{path} reads {fixed[0]} tokens, no more and no less; export it with dynamic axes"
            )
        self._quantised = _quantised(self._path)
        # Where texts that run together would change each other's scores, each is a run of its own: padding that cannot be masked,
        # activations that are quantised while the graph runs, a graph for one text.
        together = (
            "attention_mask" in self._inputs
            and not self._quantised
            and not isinstance(next(iter(given[0].shape), None), int)
        )
        self._per_run = _TOKENS_PER_RUN if together else 0
        weights = [self._path, *(self._path.parent / name for name in external_data(self._path))]
        self._bytes = sum(file.stat().st_size for file in weights)
        self._wide = Once(partial(_Wide, self._path))

    def logits(self, query: str, texts: Sequence[str]) -> Logits:
        """Return the logits of the query with each text; a text that occurs twice is computed once."""
        pairs = self._pairs_of(query, texts)
        lengths = {text: len(pair.ids) for text, pair in pairs.items()}
        chunks = plan(lengths, per_run=self._per_run, workers=usable_cores())
        sizes = [sum(lengths[text] for text in chunk) for chunk in chunks]
        wide = self._how_many_wide(sizes)
        # Where time may run out, what the caller has put first is scored first.
        position = {text: -i for i, text in enumerate(pairs)}
        urgency = sizes if remaining_s() is None else [max(position[text] for text in chunk) for chunk in chunks]
        done: list[NDArray[np.float32] | None] = []
        for chunk in chunks[:wide]:  # one after the other, each with all cores
            done.append(self._run_wide([pairs[text] for text in chunk]))
        done += run_longest_first(
            lambda chunk: self._run(self._session, [pairs[text] for text in chunk]), chunks[wide:], sizes=urgency[wide:]
        )
        rows: dict[str, NDArray[np.float32]] = {}
        for chunk, logits in zip(chunks, done, strict=True):
            if logits is not None:
                rows.update(zip(chunk, logits, strict=True))
        return Logits(
            [rows.get(text) for text in texts],
            cut=[text in rows and pairs[text].cut for text in texts],
            tokens=sum(lengths[text] for text in rows),
        )

    def _pairs_of(self, query: str, texts: Sequence[str]) -> dict[str, Pair]:
        """Return the pairs of as many texts as there is time for.

        In this thread: tokenizers hold Python's lock for so much of their time that two threads take longer than one.
        """
        over, asked = out_of_time(), self._pairs.ids(query)
        # Which of two that are both too long is cut by one token more depends on how long they are in whole.
        read = self._pairs.start if len(asked) <= self._pairs.room else self._pairs.ids
        pairs: dict[str, Pair] = {}
        for text in texts:
            if over():
                break
            if text not in pairs:
                pairs[text] = self._pairs.join(asked, read(text))
        return pairs

    def describe(self) -> dict[str, object]:
        """Return how it runs."""
        return {
            "engine": "onnx",
            "device": "cpu",
            "precision": "as shipped, quantised" if self.precision == "fp32" and self._quantised else self.precision,
            "max_tokens": self.max_tokens,
            "last_layer": self._layers,
            "graph": str(self._path),
            "onnxruntime": ort.__version__,
        }

    def _how_many_wide(self, sizes: Sequence[int]) -> int:
        """Return how many of the runs, longest first, have all cores for themselves."""
        if usable_cores() == 1 or self._bytes > _SMALL:
            return 0
        return sum(size >= (_LONG if len(sizes) == 1 else _VERY_LONG) for size in sizes)

    def _run_wide(self, pairs: Sequence[Pair]) -> NDArray[np.float32] | None:
        """Return the logits of a run that has all cores; None where time ran out before its turn came."""
        wide = self._wide.get()
        if wide.process != os.getpid():
            self._wide.forget()
            wide = self._wide.get()
        left = remaining_s()
        # It waits here, and not in the pool, whose threads others need.
        if not wide.lock.acquire(timeout=-1 if left is None else max(left, 0)):
            return None
        try:
            return run_longest_first(partial(self._run, wide.session), [pairs], sizes=[1])[0]
        finally:
            wide.lock.release()

    def _run(self, session: ort.InferenceSession, pairs: Sequence[Pair]) -> NDArray[np.float32]:
        """Return [pairs, labels]."""
        longest = max(len(pair.ids) for pair in pairs)
        ids, types, mask = np.zeros((3, len(pairs), longest), np.int64)
        for i, pair in enumerate(pairs):
            ids[i, : len(pair.ids)], types[i, : len(pair.ids)], mask[i, : len(pair.ids)] = pair.ids, pair.types, 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        (logits, *_) = session.run(
            None, {name: feed[name].astype(kind, copy=False) for name, kind in self._inputs.items()}
        )
        if logits.ndim != 2 or len(logits) != len(pairs):
            raise BackendError(
                f"{self._path} gave an array of shape {logits.shape} for {len(pairs)} pairs; expected [pairs, labels]"
            )
        return np.asarray(logits, np.float32)


class _Wide:
    """A session that uses all cores for one run at a time, and the process that its threads are in."""

    def __init__(self, path: Path) -> None:
        self.session, self.process = session_of(path, threads=usable_cores()), os.getpid()
        self.lock = threading.Lock()
        _wide.add(self)


_wide: WeakSet[_Wide] = WeakSet()
_left_behind: list[_Wide] = []

if hasattr(os, "register_at_fork"):
    # A child that let go of such a session would wait for threads that stayed in the parent.
    os.register_at_fork(after_in_child=lambda: _left_behind.extend(_wide))


def plan(lengths: Mapping[str, int], *, per_run: int, workers: int) -> list[list[str]]:
    """Return which texts are run together: of like length, few tokens, and so that all workers have their share.

    Args:
        lengths: Tokens of each text's pair.
        per_run: The most tokens in one run, padding included; a text alone may have more.
        workers: How many runs go on at once.

    Returns:
        Each text in one run; longest first.
    """
    total = sum(lengths.values())
    rounds = max(1, math.ceil(total / max(per_run * workers, 1)))
    share = min(per_run, math.ceil(total / (rounds * workers)))
    runs: list[list[str]] = []
    for text in sorted(lengths, key=lambda text: -lengths[text]):
        if runs and lengths[runs[-1][0]] * (len(runs[-1]) + 1) <= share:
            runs[-1].append(text)
        else:
            runs.append([text])
    return runs


def longest_pair(files: ModelFiles) -> int | None:
    """Return how many tokens the model takes, by its own configuration; None where that does not say."""
    config = files.json("config.json")
    limits = []
    positions = config.get("max_position_embeddings")
    if isinstance(positions, int) and positions > 0:
        padding = config.get("pad_token_id") if config.get("model_type") in _BEHIND_PADDING else None
        limits.append(positions - (padding + 1 if isinstance(padding, int) else 0))
    longest = files.json("tokenizer_config.json").get("model_max_length")
    if isinstance(longest, int) and longest < 10**9:  # "none" is written as 10**30
        limits.append(longest)
    return min(limits, default=None)


def _tokenizer(files: ModelFiles) -> Tokenizer:
    path = files.get("tokenizer.json", what="tokenizer.json (AutoTokenizer.save_pretrained writes one)")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises this class itself
        raise ModelNotFoundError(f"{path} is no tokenizer that tokenizers reads: {str(error)[:200]}") from error


def _load(
    path: Path, precision: Literal["fp32", "int8"], cache_dir: str | None, longest: int
) -> tuple[ort.InferenceSession, Prepared]:
    """Return a session and what it runs; what was kept and is spoilt, by a full disk or a crash, is made anew once."""
    for attempt in range(2):
        prepared = prepare(path, precision=precision, cache_dir=cache_dir, longest=longest)
        try:
            return session_of(prepared.path), prepared
        except Exception as error:  # onnxruntime has a dozen kinds
            if prepared.path == path or attempt:
                raise unreadable(prepared.path, error) from error
        shutil.rmtree(prepared.path.parent, ignore_errors=True)
    raise AssertionError


def _quantised(path: Path) -> bool:
    """Return whether activations are quantised while the graph runs: whether it names that operation."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(b"DynamicQuantize") >= 0  # ...Linear, and ...MatMul in fused graphs


def _whole_numbers(node: ort.NodeArg, path: Path) -> type[np.int32 | np.int64]:
    kinds: dict[str, type[np.int32 | np.int64]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
    if node.type not in kinds:
        raise ModelNotFoundError(f"{path} takes {node.name} as {node.type}; a cross-encoder takes whole numbers")
    return kinds[node.type]
