"""Checkpoints as sentence-transformers loads them: from safetensors, with no code from the repository and no weights made up."""

from __future__ import annotations

import json
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rerankx.engines.files import ModelFiles
from rerankx.errors import BackendError, ModelNotFoundError

_WEIGHTS = (
    "weights in safetensors (a pickle such as pytorch_model.bin is never read, since it can run any code: convert it with"
    " transformers' save_pretrained, or take engine='onnx' where there is an ONNX file)"
)
_TOKENIZERS = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "spm.model",
)
# What else transformers and sentence-transformers read, where there is one.
_BESIDES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
    "chat_template.jinja",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
)

_quiet = threading.Lock()


def checkpoint_folder(files: ModelFiles, *, modules: bool) -> Path:
    """Return the folder that has all the files of the checkpoint, fetched if need be.

    Args:
        files: The model's.
        modules: Whether sentence-transformers' modules are wanted, where it saved the checkpoint.

    Raises:
        ModelNotFoundError: It has no configuration, tokenizer or safetensors, or is no cross-encoder's.
    """
    folder = files.get("config.json", what="configuration").parent
    parts = _modules(files) if modules else []
    if parts and files.json("config_sentence_transformers.json").get("model_type") != "CrossEncoder":
        raise _no_reranker(
            files.model, "it was saved to make vectors of single texts, with no weights that score a pair"
        )
    files.get(*_TOKENIZERS, what="tokenizer")
    for name in _BESIDES:
        files.find(name)
    _get_weights(files)
    for part in filter(None, parts):
        files.find(f"{part}/config.json")
        # A module may have no weights. One that has a pickle alone would be read from it.
        if files.find(f"{part}/model.safetensors") is None and (folder / part / "pytorch_model.bin").exists():
            files.get(f"{part}/model.safetensors", what=_WEIGHTS)
    return folder


def _get_weights(files: ModelFiles) -> None:
    found = files.get("model.safetensors", "model.safetensors.index.json", what=_WEIGHTS)
    if found.suffix == ".json":
        shards = files.json(found.name).get("weight_map")
        for name in sorted(set(shards.values())) if isinstance(shards, dict) else ():
            files.get(str(name), what="shard of the weights")


def _modules(files: ModelFiles) -> list[str]:
    """Return where sentence-transformers' modules lie in the folder; none where it did not save the checkpoint."""
    path = files.find("modules.json")
    if path is None:
        return []
    try:
        modules = [(str(module["path"]), str(module["type"])) for module in json.loads(path.read_bytes())]
    except (ValueError, TypeError, KeyError) as error:
        raise ModelNotFoundError(f"{path} is not a list of modules; fetch or copy it again") from error
    foreign = [kind for _, kind in modules if not kind.startswith("sentence_transformers.")]
    if foreign:
        raise _no_reranker(files.model, f"it wants to run a module {foreign[0]!r} of its own, and rerankx runs none")
    return [folder for folder, _ in modules]


def load(folder: Path, model: str, *, device: str, precision: str, causal: bool) -> Any:
    """Return the `CrossEncoder`, on its device and ready to be run.

    Args:
        folder: Where the files are.
        model: Its name, for messages.
        device: As torch names it.
        precision: "fp32", "fp16" or "bf16".
        causal: Whether it is a language model, of which the logits of the next token are wanted.

    Raises:
        BackendError: It does not fit into the device's memory.
        ModelNotFoundError: It cannot be loaded as it is; the message says why.
    """
    with _silence():
        try:
            return _load(folder, model, device, precision, causal).eval()
        except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError, _safetensor_error()) as error:
            raise _explained(error, folder, model, device) from error


def _load(folder: Path, model: str, device: str, precision: str, causal: bool) -> Any:
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.modules import Transformer

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    safe = {"trust_remote_code": False, "local_files_only": True}
    weights = {"dtype": dtype, "use_safetensors": True}
    if not causal and (folder / "modules.json").is_file():
        encoder = CrossEncoder(str(folder), device=device, model_kwargs=weights, **safe)
        _check_heads(encoder, folder, model)
        return encoder
    made_up: list[str] = []

    class Checked(Transformer):  # type: ignore[misc,unused-ignore]
        """Keeps the names of weights that the files lack: transformers would fill them with random numbers and go on."""

        def _load_model(self, *args: Any, **kwargs: Any) -> Any:
            both: Any = super()._load_model(*args, output_loading_info=True, **kwargs)
            made_up.extend(both[1]["missing_keys"])
            return both[0]

    first = Checked(
        str(folder),
        transformer_task="text-generation" if causal else "sequence-classification",
        model_kwargs={**safe, **weights},
        processor_kwargs=dict(safe),
        config_kwargs=dict(safe),
    )
    if made_up:
        lack = f"its files lack {len(made_up)} of the weights that one has, {sorted(made_up)[0]!r} among them"
        raise _no_reranker(model, f"{lack}, and random ones would give random scores")
    return CrossEncoder(modules=[first], device=device)


def _check_heads(encoder: Any, folder: Path, model: str) -> None:
    """Refuse a model whose files lack the weights of a head, which transformers has filled with random numbers.

    Raises:
        ModelNotFoundError: They do.
    """
    from safetensors import safe_open
    from transformers import PreTrainedModel

    held: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            held.update(file.keys())
    for part in encoder.modules():
        if isinstance(part, PreTrainedModel):
            heads = {name.partition(".")[0] for name, _ in part.named_parameters()} - {part.base_model_prefix}
            lacking = sorted(head for head in heads if not any(name.startswith(f"{head}.") for name in held))
            if part.base_model_prefix and lacking and hasattr(part, part.base_model_prefix):
                why = f"its files lack the weights of its {lacking[0]!r}, and random ones would give random scores"
                raise _no_reranker(model, why)
            return


def _no_reranker(model: str, why: str) -> ModelNotFoundError:
    return ModelNotFoundError(
        f"{model!r} is no reranker as it stands: {why}; take a checkpoint that was trained to score pairs"
    )


def _explained(error: BaseException, folder: Path, model: str, device: str) -> Exception:
    """Return what to tell the caller instead of a library's error."""
    said = str(error).strip()
    if isinstance(error, ModelNotFoundError):
        return error
    if out_of_memory(error):
        return BackendError(
            f"{model!r} does not fit into the memory of {device!r}; take precision='fp16' or a smaller model"
        )
    if "trust_remote_code" in said:
        return ModelNotFoundError(
            f"{model!r} wants to run code from its own repository, and rerankx runs none; take engine='onnx' where it has an ONNX"
            " file, a version of transformers that has this architecture built in, or another model"
        )
    first = said.splitlines()[0][:300] if said else "no reason given"
    return ModelNotFoundError(
        f"{model!r} cannot be loaded from {folder}: {type(error).__name__}: {first}; if a file is damaged, delete it and fetch it"
        " anew"
    )


def out_of_memory(error: BaseException) -> bool:
    """Return whether a device or the host had no memory left, as torch says it on CUDA, MPS and CPU."""
    said = str(error).lower()
    words = ("out of memory", "not enough memory", "can't allocate memory", "cublas_status_alloc_failed")
    return isinstance(error, RuntimeError) and any(some in said for some in words)


def _safetensor_error() -> type[Exception]:
    from safetensors import SafetensorError

    return SafetensorError  # type: ignore[no-any-return,unused-ignore]


@contextmanager
def _silence() -> Iterator[None]:
    """Keep what the libraries print and log below an error to themselves; one load at a time, so that all is put back."""
    from transformers.utils import logging as progress

    loggers = [logging.getLogger(name) for name in ("transformers", "sentence_transformers")]
    with _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        levels, bars = [logger.level for logger in loggers], getattr(progress, "_tqdm_active", False)
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        # Not disable_progress_bar: to undo that is to switch on the hub's bars as well, wanted or not.
        progress._tqdm_active = False
        try:
            yield
        finally:
            progress._tqdm_active = bars
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _forget_after_fork() -> None:
    # Another thread of the parent's may have held it.
    global _quiet
    _quiet = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
