"""The graphs that are run, made once from a model's own ONNX file and kept on disk: last layer for one row, int8.

Each is kept under the digest of the file it was made from, so that another file of the same name is never taken for it. What is
kept is tried once, when it is made; a later process only loads it, and does not need the package `onnx`.
"""

from __future__ import annotations

import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from hashlib import file_digest, sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple
from uuid import uuid4

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from rerankx.engines.files import digest, external_data
from rerankx.engines.logs import root_logging_as_it_is
from rerankx.errors import MissingDependencyError, ModelNotFoundError

logger = logging.getLogger("rerankx")

# Raise it when the edit or the quantisation makes another graph of the same file.
_VERSION = 1
_begun: set[str] = set()  # edits that threads of this process are at
_PROTOBUF_LIMIT = 2**31 - 1  # bytes in one message
_INSTALL = "pip install 'rerankx[onnx]'"


class Prepared(NamedTuple):
    """A graph to run."""

    path: Path
    layers: str
    """How the last layer is computed, and why so."""


def prepare(
    path: Path, *, precision: Literal["fp32", "int8"], cache_dir: str | None = None, longest: int = 512
) -> Prepared:
    """Return the fastest graph that gives the scores of the one in `path`; for int8 the one made of that.

    Args:
        path: A model's ONNX file, fp32.
        precision: "fp32" keeps the logits to 1e-4. "int8" quantises the matrix products dynamically: weights signed, per
            channel and in 7 bits, which is right on every CPU.
        cache_dir: Where what is made is kept; None is beside the hub library's cache.
        longest: Tokens of the longest pair that the model takes, whatever the caller wants to read.

    Raises:
        MissingDependencyError: int8 is not there yet, and the package onnx that makes it neither.
        ModelNotFoundError: int8 cannot be made of this file, or not be kept.
    """
    parts = [digest(path), *(digest(path.parent / name) for name in external_data(path))]
    name = parts[0] if len(parts) == 1 else sha256("".join(parts).encode()).hexdigest()
    kept = assets(cache_dir) / f"{name[:32]}.{_VERSION}"
    prepared = _one_row(path, kept, longest)
    if precision == "fp32":
        return prepared
    made = kept / f"{'all-rows' if prepared.path == path else 'one-row'}.int8.onnx"
    if made.is_file():
        return Prepared(made, prepared.layers)
    if find_spec("onnx") is None:
        raise MissingDependencyError("cross-encoder with precision='int8'", ["onnx"], _INSTALL)
    _check_whole(path)
    try:
        session_of(prepared.path)
    except Exception as error:  # onnxruntime has a dozen kinds
        if prepared.path == path:
            raise unreadable(path, error) from error
        prepared, made = Prepared(path, "all rows: the edited graph is spoilt"), kept / "all-rows.int8.onnx"
    _quantise(prepared.path, made, source=path)
    return Prepared(made, prepared.layers)


def assets(cache_dir: str | None) -> Path:
    """Return where what is made of models' files is kept; it need not exist."""
    if cache_dir is not None:
        return Path(cache_dir) / "assets" / "rerankx"
    from huggingface_hub import constants

    return Path(constants.HF_ASSETS_CACHE) / "rerankx"


def _one_row(path: Path, kept: Path, longest: int) -> Prepared:
    """Return the graph with its last layer for one row, from disk or made now; where that cannot be, the plain one."""
    edited, verdict = kept / "one-row.onnx", _read(kept / "one-row.json")
    if verdict is None or (verdict.reason is None and not edited.is_file()):
        if find_spec("onnx") is None:
            return Prepared(path, f"all rows: {_INSTALL} saves most of the last layer")
        if _died(kept):
            return Prepared(
                path, f"all rows: an edit was begun and not ended, for want of memory? To try again delete {kept}"
            )
        try:
            verdict = _edit(path, kept, longest)
        except ModelNotFoundError:
            raise
        except OSError as error:
            logger.warning("no graph can be kept in %s (%s); the model's own is run", kept, error.strerror)
            return Prepared(path, "all rows: what is made cannot be kept on disk")
        except Exception as error:
            # Too little memory, or what an unknown graph makes of onnx: nothing is kept, the next process may be luckier.
            logger.info("the graph %s was not edited", path, exc_info=True)
            return Prepared(path, f"all rows: the edit failed ({type(error).__name__})")
    if verdict.reason is None:
        return Prepared(edited, f"first row: differs by {verdict.difference:.1g} at most")
    return Prepared(path, f"all rows: {verdict.reason}")


def _edit(path: Path, kept: Path, longest: int) -> _Verdict:
    """Make the graph, compare it, keep it if it is right, and return what became of it."""
    from rerankx.engines.graph import TOLERANCE, CannotEdit, first_row_only

    kept.mkdir(parents=True, exist_ok=True)
    _check_whole(path)
    begun = kept / f"begun.{os.getpid()}.{uuid4().hex}"
    _begun.add(begun.name)
    begun.touch()
    try:
        if path.stat().st_size > _PROTOBUF_LIMIT or external_data(path):
            raise CannotEdit("its weights lie outside of the file")
        if longest < 16:
            raise CannotEdit(f"it reads {longest} tokens")
        with tempfile.TemporaryDirectory(dir=kept) as scratch:
            import onnx

            edited = first_row_only(path, Path(scratch), longest=min(longest, 1024))
            made, probes = Path(scratch) / "one-row.onnx", edited.probes
            onnx.save(edited.model, str(made))
            del edited
            difference = _difference(session_of(made), probes)
            if not difference <= TOLERANCE:  # so that NaN is none
                raise CannotEdit(f"edited, its logits differ by {difference:.2g}")
            os.replace(made, kept / "one-row.onnx")
        verdict = _Verdict(difference=difference)
    except CannotEdit as error:
        verdict = _Verdict(reason=str(error))
    finally:
        begun.unlink(missing_ok=True)
        _begun.discard(begun.name)
    _write(kept / "one-row.json", verdict)
    return verdict


def _died(kept: Path) -> bool:
    """Return whether a process began to edit, and is no more."""
    for begun in kept.glob("begun.*"):
        process = int(begun.name.split(".")[1])
        # In a container every process may be number 1.
        if begun.name not in _begun and (process == os.getpid() or not _lives(process)):
            return True
    return False


def _lives(process: int) -> bool:
    if os.name != "posix":
        return True  # there, signal 0 would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _check_whole(path: Path) -> None:
    """Refuse a file of the hub's cache whose content is not what its name there says: what is made of it would be kept for good.

    Raises:
        ModelNotFoundError: It is damaged.
    """
    with path.open("rb") as file:
        content = file_digest(file, "sha256").hexdigest()
    if content != digest(path):
        raise ModelNotFoundError(
            f"{path} is damaged: its content is not what it was when it was fetched; delete it, and run again"
        )


def _difference(
    session: ort.InferenceSession, probes: Sequence[tuple[Mapping[str, NDArray[Any]], NDArray[np.float32]]]
) -> float:
    """Return how far the session's logits lie from the plain graph's at most; NaN where they are no numbers."""
    found = [session.run(None, feed)[0] for feed, _ in probes]
    if any(one.shape != logits.shape for one, (_, logits) in zip(found, probes, strict=True)):
        return math.inf
    return float(np.max([np.abs(one - logits).max() for one, (_, logits) in zip(found, probes, strict=True)]))


def _quantise(path: Path, made: Path, *, source: Path) -> None:
    """Write the graph `path` in int8 to `made`."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    try:
        made.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=made.parent) as scratch, root_logging_as_it_is():
            target = Path(scratch) / made.name
            model = onnx.load(str(path))
            # Else onnxruntime warns that a first pass is recommended; it folds what an exporter has folded.
            model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
            quantize_dynamic(
                model, target, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True,
                weight_type=QuantType.QInt8,
            )  # fmt: skip
            os.replace(target, made)
    except OSError as error:
        raise ModelNotFoundError(
            f"an int8 graph of {source} cannot be kept in {made.parent} ({error.strerror}); pass a cache_dir that can be written"
        ) from error
    except Exception as error:
        raise ModelNotFoundError(f"no int8 graph can be made of {source}; use precision='fp32'") from error


def session_of(path: Path, *, threads: int = 1) -> ort.InferenceSession:
    """Return a session that computes each run on that many threads of its own; 1 is the caller's thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads burn no core
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def unreadable(path: Path, error: Exception) -> ModelNotFoundError:
    """Return what to raise where onnxruntime does not load a file."""
    with path.open("rb") as file:
        start = file.read(40)
    if start.startswith(b"version https://git-lfs"):
        return ModelNotFoundError(
            f"{path} is a pointer of Git LFS, not the file; run `git lfs pull`, or fetch the model with `rerankx download`"
        )
    size, said = path.stat().st_size, str(error)[:200]
    return ModelNotFoundError(
        f"{path} ({size} bytes) is no ONNX graph that onnxruntime {ort.__version__} loads: {said}"
    )


class _Verdict(NamedTuple):
    """What became of an edit."""

    reason: str | None = None
    """Why the plain graph is run; None where the edited one is."""
    difference: float = 0.0


def _read(path: Path) -> _Verdict | None:
    try:
        found = json.loads(path.read_text("utf-8"))
        reason, difference = found["reason"], found["largest_difference"]
    except (OSError, ValueError, TypeError, KeyError):  # none yet, or one that a crash left half written
        return None
    if not (reason is None or isinstance(reason, str)) or not isinstance(difference, float):
        return None
    return _Verdict(reason, difference)


def _write(path: Path, verdict: _Verdict) -> None:
    # Not tempfile's, which nobody but its maker may read: an image is made by root and run by another.
    draft = path.with_suffix(f".{uuid4().hex}")
    draft.write_text(json.dumps({"reason": verdict.reason, "largest_difference": verdict.difference}), "utf-8")
    os.replace(draft, path)
