"""llama.cpp's server with a small cross-encoder whose weights are random."""

import os
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from process_stage import python, serving

MODELS = Path(os.environ.get("RERANKX_MODELS", Path(__file__).parents[3] / "shared" / "models"))
MODEL = MODELS / "tinyce.gguf"


def need() -> None:
    """Skip the module that calls it where llama.cpp or the model is not."""
    why_not = None
    if find_spec("xllamacpp") is None:
        why_not = "no llama.cpp: pip install xllamacpp"
    elif not MODEL.is_file():
        why_not = f"no {MODEL.name} in {MODELS}; RERANKX_MODELS names another folder"
    if why_not:
        pytest.skip(why_not, allow_module_level=True)


@contextmanager
def llama_cpp(folder: Path, *, key: str | None = None, port: int | None = None):
    """Yield a `Served` that reranks at /v1/rerank, in Jina's dialect and in TEI's."""
    script = Path(__file__).with_name("llamacpp_serve.py")
    keys = [] if key is None else [key]
    log = folder / "llamacpp.log"
    with serving(lambda at: python(script, MODEL, at, *keys), log, health="/health", port=port) as served:
        yield served
