"""The sentence encoder: one vector per token of a text, from an ONNX file and a tokenizer that ship with it."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from tokenizers import Tokenizer

from rerankx.backends.embedded.lexical import DATA, Pieces
from rerankx.engines.spans import parts, token_spans
from rerankx.errors import ModelNotFoundError

CLS, SEP = 101, 102  # in the vocabulary of tokenizer.json
DIMENSIONS = 384
"""The length of a token's vector."""
POSITIONS = 512
"""The longest sequence the model has positions for, [CLS] and [SEP] included."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """A text as the encoder sees it."""

    pieces: Pieces
    """All of the text's pieces, also those behind the cut."""
    vectors: NDArray[np.float32]
    """[tokens, 384]: one vector per token of the part that was read, [CLS] first and [SEP] last."""
    cut: bool
    """Whether the text was longer than what was read."""


class SentenceEncoder:
    """Encodes one text per call; safe under threads.

    Args:
        folder: Holds `encoder.int8.onnx` and `tokenizer.json`.
        file: The ONNX file in it.

    Raises:
        ModelNotFoundError: A file is not there.
    """

    def __init__(self, folder: Path = DATA, file: str = "encoder.int8.onnx") -> None:
        for path in (folder / file, folder / "tokenizer.json"):
            if not path.is_file():
                raise ModelNotFoundError(
                    f"the embedded model's {path.name} is not in {folder}: the installation is incomplete;"
                    " pip install --force-reinstall rerankx"
                )
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        # "[SEP]" in a passage is five characters, not the end of the passage.
        self._tokenizer.encode_special_tokens = True
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self._session = ort.InferenceSession(str(folder / file), options, providers=["CPUExecutionProvider"])

    def encode(self, text: str, *, max_tokens: int) -> Encoding:
        """Return the pieces and token vectors of `text`, read up to `max_tokens` tokens, [CLS] and [SEP] included."""
        pieces = self.pieces(text)
        read = np.array([[CLS, *pieces[: max_tokens - 2], SEP]], np.int64)
        (vectors,) = self._session.run(None, {"input_ids": read})
        return Encoding(pieces, vectors, len(pieces) > max_tokens - 2)

    def pieces(self, text: str) -> Pieces:
        """Return the ids of the text's word pieces, without special tokens."""
        # The tokenizer takes no lone surrogates. One text at a time also keeps its own threads, which warn after a fork, unused.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        ids = [self._tokenizer.encode(part, add_special_tokens=False).ids for _, part in parts(clean)]
        return np.concatenate([np.array(some, np.uint16) for some in ids])

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Return where each of the text's word pieces begins and ends, in characters."""
        return token_spans(self._tokenizer, text)


_lock = threading.Lock()
_shared: SentenceEncoder | None = None


def shared_encoder() -> SentenceEncoder:
    """Return the encoder that ships with rerankx, loaded once per process."""
    global _shared
    with _lock:
        if _shared is None:
            _shared = SentenceEncoder()
        return _shared


def _new_lock_after_fork() -> None:
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock_after_fork)
