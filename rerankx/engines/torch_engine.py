"""Any checkpoint on torch, through sentence-transformers: for GPUs, for models without ONNX weights, and for language models."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rerankx.catalogue.templates import TEMPLATES
from rerankx.engines.engine import Logits
from rerankx.engines.files import ModelFiles
from rerankx.engines.once import renew_after_fork
from rerankx.engines.prompts import Encoded, check_answers
from rerankx.engines.torch_checkpoint import checkpoint_folder, load, out_of_memory
from rerankx.engines.torch_readers import PairReader, Reader, TemplateReader, keep_answers, longest, padded
from rerankx.errors import BackendError, ModelNotFoundError, OptionError, did_you_mean
from rerankx.interface import out_of_time

# Padded tokens per batch. CPU: measured with MiniLM-L6's shape on 2 cores, 50 short and 50 mixed texts: 512 and 1,024 within 7 %
# of each other, 256 and 2,048 7 to 22 % slower, 4,096 a third. Elsewhere large, so that the device has work, and not measured.
_CPU_TOKENS = 1024
_GPU_TOKENS = 32768

# Texts tokenised between two looks at the clock.
_SLICE = 64


class TorchEngine:
    """Runs a checkpoint on torch; safe under threads.

    One lock is held around each slice of tokenising and each batch: torch uses all cores, or the whole device, for one batch, so
    two at once would only share them, and transformers' tokenizers are set up anew at every call. Calls that come together take
    turns, batch by batch.

    Args:
        files: The model's: safetensors, a tokenizer, a sequence classifier (or, with a template, a language model). No code from
            the repository is run, and no pickle is read.
        device: As torch names it: "cpu", "cuda", "cuda:1", "mps"; None takes "cuda" where torch sees one, else "cpu".
        precision: Of the weights. None: "fp32", but on CUDA "fp16", or "bf16" with a template. "fp16" and "bf16" work on a CPU,
            on most of them slower. What is returned is float32 in any case.
        max_tokens: The longest pair, special tokens and prompt included. None: what the model has, or what the template says.
        tokens_per_batch: Padded tokens per batch: pairs times the longest of them. None: 1,024 on a CPU, 32,768 elsewhere. A pair
            that is longer has a batch to itself.
        template: A key of `rerankx.catalogue.templates.TEMPLATES`: the prompt of a language model, whose score is then the
            logit of the answer, or the log-odds where there are two answers.
        instruction: What to tell such a model to look for, in place of the template's own words.

    Raises:
        BackendError: The weights do not fit into memory.
        ModelNotFoundError: The files are not there, or are not those of a model that can be run like this.
        OptionError: An option that does not fit the model.
    """

    def __init__(
        self,
        files: ModelFiles,
        *,
        device: str | None = None,
        precision: Literal["fp32", "fp16", "bf16"] | None = None,
        max_tokens: int | None = None,
        tokens_per_batch: int | None = None,
        template: str | None = None,
        instruction: str | None = None,
    ) -> None:
        _check_options(precision, template, instruction, max_tokens, tokens_per_batch)
        self.device = _device(device)
        cuda = self.device.startswith("cuda")
        self.precision = precision or (("fp16" if template is None else "bf16") if cuda else "fp32")
        self.model, self.template = files.model, template
        self._budget = tokens_per_batch or (_CPU_TOKENS if self.device == "cpu" else _GPU_TOKENS)
        self.renew_lock()
        renew_after_fork(self)
        causal = _is_causal(files, template)
        folder = checkpoint_folder(files, modules=not causal)
        self._encoder = load(folder, self.model, device=self.device, precision=self.precision, causal=causal)
        limit = longest(self._encoder)
        self.max_tokens = _length(self.model, max_tokens, limit, template)
        self._reader: Reader
        if template is None:
            self._reader = PairReader(self._encoder, max_tokens=self.max_tokens)
        else:
            self._reader = own = self._prompts(template, None)
            keep_answers(self._encoder, self.model, own)
            # With the template's own words: under others a plain answer may well be what is not wanted.
            check_answers(self._score, model=self.model, template=template)
            if instruction is not None:
                self._reader = self._prompts(template, instruction)
        if self._encoder.tokenizer.pad_token_id is None:
            self._budget = 1  # nothing to fill a shorter row with

    def renew_lock(self) -> None:
        """Take a new lock, after a fork."""
        self._lock = threading.Lock()

    def logits(self, query: str, texts: Sequence[str]) -> Logits:
        """Return the logits of the query with each text, [labels] float32 each; None where the deadline left no time.

        Raises:
            BackendError: One pair alone does not fit into the device's memory.
        """
        over = out_of_time()
        rows: list[NDArray[np.float32] | None] = [None] * len(texts)
        pairs = self._read(query, texts, over)
        waiting = sorted(range(len(pairs)), key=lambda i: -pairs[i].tokens)
        cut, tokens = [False] * len(texts), 0
        while waiting:
            with self._lock:
                if over():
                    break
                batch = waiting[: max(1, self._budget // pairs[waiting[0]].tokens)]
                found = self._run([pairs[i] for i in batch])
            if found is None:
                continue  # with a smaller budget
            waiting = waiting[len(batch) :]
            for i, row in zip(batch, found, strict=True):
                rows[i] = row
                cut[i] = pairs[i].cut
                tokens += pairs[i].tokens
        return Logits(rows, cut, tokens)

    def describe(self) -> dict[str, object]:
        """Return how it runs, as JSON has it."""
        packages = ("sentence-transformers", "transformers", "torch")
        return {
            "engine": "sentence-transformers",
            "device": self.device,
            "precision": self.precision,
            "max_tokens": self.max_tokens,
            "tokens_per_batch": self._budget,
            "template": self.template,
            "versions": {name: version(name) for name in packages},
        }

    def _read(self, query: str, texts: Sequence[str], over: Callable[[], bool]) -> list[Encoded]:
        """Return the pairs, ready but for padding; none of them if time ran out meanwhile, since the longest come first."""
        pairs: list[Encoded] = []
        for start in range(0, len(texts), _SLICE):
            with self._lock:
                if over():
                    return []
                pairs += self._reader.read(query, texts[start : start + _SLICE])
        return pairs

    def _run(self, pairs: Sequence[Encoded]) -> NDArray[np.float32] | None:
        """Return the logits, [pairs, labels]; None where memory ran out, and the budget is now half of what this took."""
        try:
            return self._forward(pairs)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            length = max(pair.tokens for pair in pairs)
            if len(pairs) == 1:
                raise BackendError(
                    f"a single pair of {length} tokens does not fit into the memory of {self.device!r} with {self.model!r}:"
                    " lower max_tokens, take precision='fp16' or a smaller model"
                ) from error
        # Out of the except clause, whose traceback holds the tensors that are to be given back.
        _empty_cache(self.device)
        self._budget = max(1, length * len(pairs) // 2)
        return None

    def _forward(self, pairs: Sequence[Encoded]) -> NDArray[np.float32]:
        import torch

        features = {
            name: rows.to(self._encoder.device) for name, rows in padded(pairs, self._encoder.tokenizer).items()
        }
        with torch.inference_mode():
            scores = self._encoder({**features, **self._reader.extras})["scores"]
            found: NDArray[np.float32] = scores.float().cpu().numpy().reshape(len(pairs), -1)
        return found

    def _prompts(self, template: str, instruction: str | None) -> TemplateReader:
        tokenizer = self._encoder.tokenizer
        if not tokenizer.is_fast:
            raise ModelNotFoundError(f"{self.model!r} has no tokenizer.json, from which prompts are made")
        words, length = TEMPLATES[template], self.max_tokens
        return TemplateReader(tokenizer.backend_tokenizer, words, max_tokens=length, instruction=instruction)

    def _score(self, query: str, texts: Sequence[str]) -> list[float]:
        found = [self._run([pair]) for pair in self._reader.read(query, texts)]
        return [float(rows[0, 0]) for rows in found if rows is not None]  # a pair alone has logits, or raises


def _device(device: str | None) -> str:
    import torch

    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return str(torch.device(device))
    except RuntimeError as error:
        raise OptionError(
            f"device must be one that torch knows, such as 'cpu', 'cuda:0' or 'mps', not {device!r}"
        ) from error


def _empty_cache(device: str) -> None:
    import torch

    if device.startswith("cuda"):
        torch.cuda.empty_cache()
    elif device.startswith("mps"):
        torch.mps.empty_cache()


def _is_causal(files: ModelFiles, template: str | None) -> bool:
    """Return whether the logits of a next token are wanted: with a template, and only of a language model."""
    names, model = files.json("config.json").get("architectures"), files.model
    kind = str(names[0]) if isinstance(names, list) and names else ""
    causal = kind.endswith("ForCausalLM")
    if template is not None and not causal:
        raise ModelNotFoundError(
            f"{model!r} is saved as {kind or 'nothing that its config.json names'}, and the template {template!r} is for a"
            " language model (a class ...ForCausalLM); leave the template out"
        )
    if template is None and causal and files.find("modules.json") is None:
        raise ModelNotFoundError(
            f"{model!r} is a language model ({kind}), whose scores mean nothing without the prompt that it was trained with;"
            f" say which: template={' or '.join(map(repr, TEMPLATES))}"
        )
    return causal and template is not None


def _length(model: str, asked: int | None, limit: int | None, template: str | None) -> int:
    """Return the longest pair to make."""
    if asked is None and limit is None:
        raise OptionError(f"{model!r} does not say how long a pair it reads; give max_tokens")
    if asked is None:
        own = TEMPLATES[template].max_tokens if template else limit
        return min(one for one in (own, limit) if one is not None)
    if limit is not None and asked > limit:
        raise OptionError(f"max_tokens must be at most {limit} with {model!r}, not {asked}")
    return asked


def _check_options(precision: str | None, template: str | None, instruction: str | None, *counts: int | None) -> None:
    if precision not in (None, "fp32", "fp16", "bf16"):
        raise OptionError(f"precision must be 'fp32', 'fp16' or 'bf16', not {precision!r}")
    if template is not None and template not in TEMPLATES:
        raise OptionError(f"no template {template!r}{did_you_mean(template, TEMPLATES)}; known: {', '.join(TEMPLATES)}")
    if instruction is not None and template is None:
        raise OptionError(
            "an instruction is for a model with a template; this one reads a query and a text, nothing else"
        )
    if instruction is not None and not instruction.strip():
        raise OptionError("the instruction is blank; leave it out for the template's own")
    for name, count in zip(("max_tokens", "tokens_per_batch"), counts, strict=True):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
            raise OptionError(f"{name} must be a whole number of at least 1, not {count!r}")
