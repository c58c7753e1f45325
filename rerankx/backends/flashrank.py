"""`FlashRank`: FlashRank's models under its own names, without the package, or by the package itself."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Sequence
from functools import partial
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rerankx.catalogue import FLASHRANK
from rerankx.engines.files import ModelFiles, digest
from rerankx.engines.logs import root_logging_as_it_is
from rerankx.engines.once import Once
from rerankx.engines.prepare import assets
from rerankx.errors import BackendError, DeadlineError, MissingDependencyError, ModelNotFoundError, did_you_mean
from rerankx.interface import Backend, Scale, Scores, Usage, out_of_time

if TYPE_CHECKING:
    from tokenizers import Tokenizer

REPOSITORY = "prithivida/flashrank"
"""Where the zips lie on the hub; FlashRank's Config.py, 0.2.10."""
DEFAULT = "ms-marco-TinyBERT-L-2-v2"

# FlashRank reads no more, unless told so: Ranker(max_length=512).
_MAX_TOKENS = 512


class FlashRank(Backend):
    """Scores by one of FlashRank's cross-encoders.

    With the "onnx" engine our own runs the model's ONNX file, and `Hit.score` is what FlashRank calls the score: the sigmoid of
    one logit, or the softmax's share of the second of two. LOGIT, pointwise. For a file in fp32 the scores equal the package's
    to 1e-5, unless a text has a special token written in it ("[SEP]"), which is read as its characters. Most of FlashRank's files
    are quantised, and there its scores depend on which texts are scored together (they share one padded batch); here they do not.

    With the "flashrank" engine the package itself is run, on copies of the texts, all in one batch. PROBABILITY, not pointwise.

    Args:
        model: One of FlashRank's names, or a folder as one of its zips holds.
        engine: "onnx" needs the base install alone; "flashrank" the package of that name.
        max_tokens: The longest pair, at least 5; None is the model's length, at most 512, as in the package.
        cache_dir: Where the zips and what they hold are kept; None is the hub library's cache.
        local_files_only: Whether to take only what is there already.

    Raises:
        ModelNotFoundError: No model of that name; its files are not to be had.
        MissingDependencyError: The package is asked for and not installed.
    """

    name = "flashrank"

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT,
        *,
        engine: Literal["onnx", "flashrank"] = "onnx",
        max_tokens: int | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
    ) -> None:
        if engine not in ("onnx", "flashrank"):
            raise ValueError(f"engine must be 'onnx' or 'flashrank', not {engine!r}")
        if engine == "flashrank" and find_spec("flashrank") is None:
            raise MissingDependencyError("flashrank", ["flashrank"], "pip install 'rerankx[flashrank]'")
        if max_tokens is not None and (isinstance(max_tokens, bool) or not isinstance(max_tokens, int)):
            raise TypeError(f"max_tokens must be a whole number, not {max_tokens!r}")
        if max_tokens is not None and max_tokens < 5:
            raise ValueError(f"max_tokens must be at least 5, not {max_tokens}")
        self.model = os.fspath(model)
        if self.model not in FLASHRANK and self.model.strip() and Path(self.model).expanduser().is_dir():
            self.model = str(Path(self.model).expanduser().absolute())
        elif self.model not in FLASHRANK:
            raise ModelNotFoundError(
                f"FlashRank has no cross-encoder {self.model!r}{did_you_mean(self.model, FLASHRANK)}; it has"
                f" {', '.join(FLASHRANK)}, and a folder with config.json, tokenizer.json and an ONNX file works too"
            )
        self.scale = Scale.LOGIT if engine == "onnx" else Scale.PROBABILITY
        self.pointwise = engine == "onnx"
        self._given: dict[str, Any] = {
            "engine": engine, "max_tokens": max_tokens,
            "cache_dir": None if cache_dir is None else os.fspath(cache_dir), "local_files_only": local_files_only,
        }  # fmt: skip
        self._folder, self._content = Once(self._find_folder), Once(self._read_content)
        self._scorer = Once(self._load)
        self._tokenizer = Once(self._read_tokenizer)

    @property
    def fingerprint(self) -> str:
        """Return name, model, digest of its file, and what else changes a score; the file is fetched for it."""
        given = self._given
        return f"{self.name}:{self.model}@{self._content.get()}:{given['engine']}:max_tokens={given['max_tokens']}"

    def describe(self) -> dict[str, object]:
        """Return how the model runs; loads it if need be."""
        return {"model": self.model, "scale": self.scale.kind, **self._scorer.get().describe()}

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return where each token of the text begins and ends, in characters; of the model only the tokenizer is loaded."""
        from rerankx.engines.spans import token_spans

        tokenizer = self._tokenizer.get()
        return super().token_spans(text) if tokenizer is None else token_spans(tokenizer, text)

    def download(self) -> None:
        """Fetch the newest zip and make what is made of it: for an image, or a host without network."""
        if self.model in FLASHRANK:
            files = self._files()
            with files.refresh():
                files.get(f"{self.model}.zip", what="zip of that model")
        for known in (self._folder, self._content, self._tokenizer, self._scorer):
            known.forget()
        self._scorer.get()

    def close(self) -> None:
        """Let go of the model and its memory; the next call loads it again."""
        self._scorer.forget()
        self._tokenizer.forget()

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return self._scorer.get().score(query, texts)

    def _load(self) -> _OnOurEngine | _InThePackage:
        kind = _OnOurEngine if self._given["engine"] == "onnx" else _InThePackage
        return kind(
            self._folder.get(), self._graph(), max_tokens=self._given["max_tokens"], cache_dir=self._given["cache_dir"]
        )

    def _graph(self) -> Path:
        found = sorted(self._folder.get().glob("*.onnx"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ModelNotFoundError(
                f"{self._folder.get()} must hold one ONNX file, as FlashRank's zips do; it holds {names}"
            )
        return found[0]

    def _read_content(self) -> str:
        """Return a digest of those files that decide on scores."""
        texts = [path for path in sorted(self._folder.get().iterdir()) if path.suffix in (".json", ".txt")]
        return sha256("".join(map(digest, [self._graph(), *texts])).encode()).hexdigest()[:12]

    def _read_tokenizer(self) -> Tokenizer | None:
        from rerankx.engines.spans import read_tokenizer

        return read_tokenizer(ModelFiles(self._folder.get()))

    def _find_folder(self) -> Path:
        """Return the folder of the model, with its zip fetched and unpacked if need be."""
        if self.model not in FLASHRANK:
            return Path(self.model)
        packed = self._files().get(f"{self.model}.zip", what="zip of that model")
        return _unpacked(packed, assets(self._given["cache_dir"]) / "flashrank" / digest(packed)[:32]) / self.model

    def _files(self) -> ModelFiles:
        given, name = self._given, f"flashrank:{self.model}"
        return ModelFiles(
            REPOSITORY, cache_dir=given["cache_dir"], local_files_only=given["local_files_only"], name=name
        )

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), self.model, **self._given), ()  # options travel, weights do not


class _OnOurEngine:
    """The ONNX file on our engine, with FlashRank's reading of its logits."""

    def __init__(self, folder: Path, graph: Path, *, max_tokens: int | None, cache_dir: str | None) -> None:
        from rerankx.engines.onnx_engine import OnnxEngine, longest_pair

        files = ModelFiles(folder)
        if max_tokens is None:
            max_tokens = min(longest_pair(files) or _MAX_TOKENS, _MAX_TOKENS)
        self._engine = OnnxEngine(files, graphs=[graph.name], max_tokens=max_tokens, cache_dir=cache_dir)

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        logits = self._engine.logits(query, texts)
        return Scores(
            [None if row is None else _log_odds(row) for row in logits.rows],
            usage=Usage(input_tokens=logits.tokens),
            cut=logits.cut,
            degraded="deadline" if any(row is None for row in logits.rows) else None,
        )

    def describe(self) -> dict[str, object]:
        return self._engine.describe()


def _log_odds(row: NDArray[np.float32]) -> float:
    """Return the number of which the sigmoid is FlashRank's score."""
    if len(row) > 2:
        raise BackendError(f"the model gives {len(row)} logits per pair; FlashRank's give one or two")
    # The second one's share in the softmax of two is the sigmoid of their difference.
    return float(row[0]) if len(row) == 1 else float(row[1]) - float(row[0])


class _InThePackage:
    """flashrank.Ranker itself."""

    def __init__(self, folder: Path, graph: Path, *, max_tokens: int | None, cache_dir: str | None) -> None:
        from flashrank import Ranker
        from flashrank.Config import model_file_map

        if model_file_map.get(folder.name) != graph.name:
            raise ModelNotFoundError(
                f"the package takes folders and files by its own names alone, not {folder.name}/{graph.name}; take engine='onnx'"
            )
        # It takes cache_dir / model_name for the model's folder, and fetches nothing where there is one.
        with root_logging_as_it_is():
            self._ranker = Ranker(
                folder.name, cache_dir=str(folder.parent), max_length=_MAX_TOKENS if max_tokens is None else max_tokens
            )

    def score(self, query: str, texts: Sequence[str]) -> Scores:
        from flashrank import RerankRequest

        if out_of_time()():
            raise DeadlineError("the deadline passed before FlashRank began")
        # Its tokenizer takes no half of a surrogate pair.
        clean, *passages = (text.encode("utf-8", "replace").decode("utf-8") for text in (query, *texts))
        request = RerankRequest(clean, [{"id": i, "text": text} for i, text in enumerate(passages)])
        found = {passage["id"]: float(passage["score"]) for passage in self._ranker.rerank(request)}
        return Scores([found[i] for i in range(len(texts))], usage=Usage(input_tokens=None))

    def describe(self) -> dict[str, object]:
        from importlib.metadata import version

        return {"engine": "flashrank", "device": "cpu", "flashrank": version("flashrank")}


def _unpacked(packed: Path, folder: Path) -> Path:
    """Return `folder` with what the zip holds; a half-done one is never seen under that name."""
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            with zipfile.ZipFile(packed) as archive:
                archive.extractall(Path(scratch) / "all")  # it leaves out drives, leading slashes and ".."
            try:
                os.replace(Path(scratch) / "all", folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ModelNotFoundError(f"{packed} is no zip; delete it, and fetch the model again") from error
    except OSError as error:
        raise ModelNotFoundError(f"{packed} cannot be unpacked into {folder}: {error.strerror}") from error
    return folder
