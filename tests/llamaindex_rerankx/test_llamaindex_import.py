import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rerankx

ROOT = Path(rerankx.__file__).parents[1]

BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llama_index":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code, *paths):
    """Return what a fresh Python prints that runs `code`."""
    path = os.pathsep.join(map(str, [*paths, ROOT]))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_without_llama_index_the_error_names_the_extra():
    code = (
        BLOCK
        + "\ntry:\n    import llamaindex_rerankx\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    )
    said = python(code)
    assert said.startswith("MissingDependencyError")
    assert said.endswith("pip install 'rerankx[llamaindex]'")


def test_without_llama_index_core_alone_the_error_is_the_same(tmp_path):
    (tmp_path / "llama_index" / "readers").mkdir(parents=True)
    block = BLOCK.replace('name.partition(".")[0] == "llama_index"', 'name == "llama_index.core"')
    code = (
        block + "\ntry:\n    import llamaindex_rerankx\nexcept ImportError as error:\n    print(type(error).__name__)"
    )
    assert python(code, tmp_path) == "MissingDependencyError"


def test_a_broken_llama_index_core_is_not_called_missing(tmp_path):
    core = tmp_path / "llama_index" / "core"
    core.mkdir(parents=True)
    (core / "__init__.py").write_text("import a_package_that_core_needs_and_is_gone\n")
    code = "try:\n    import llamaindex_rerankx\nexcept ImportError as error:\n    print(type(error).__name__, error)"
    assert python(code, tmp_path) == "ModuleNotFoundError No module named 'a_package_that_core_needs_and_is_gone'"


needs_llama_index = pytest.mark.skipif(
    find_spec("llama_index") is None or find_spec("llama_index.core") is None,
    reason="needs the extra: pip install 'rerankx[llamaindex]'",
)


@needs_llama_index
def test_public_names_are_sorted_and_all_there():
    import llamaindex_rerankx

    assert llamaindex_rerankx.__all__ == ["Rerank", "RerankRetriever", "RerankedNode", "rerank"]
    assert llamaindex_rerankx.__all__ == sorted(llamaindex_rerankx.__all__)
    assert all(hasattr(llamaindex_rerankx, name) for name in llamaindex_rerankx.__all__)


@needs_llama_index
def test_importing_adds_no_package_to_those_of_llama_index():
    code = """
import llama_index.core, sys
before = {name.partition(".")[0] for name in sys.modules}
import llamaindex_rerankx
after = {name.partition(".")[0] for name in sys.modules}
print(sorted(after - before - sys.stdlib_module_names))
"""
    assert python(code) == "['llamaindex_rerankx', 'rerankx']"


@needs_llama_index
def test_the_name_that_integrations_have_is_an_alias():
    import llama_index.postprocessor.rerankx as alias

    import llamaindex_rerankx

    assert alias.__all__ == llamaindex_rerankx.__all__
    assert all(getattr(alias, name) is getattr(llamaindex_rerankx, name) for name in alias.__all__)
    above = Path(alias.__file__).parents[1]
    assert not (above / "__init__.py").exists()
    assert not (above.parent / "__init__.py").exists()
