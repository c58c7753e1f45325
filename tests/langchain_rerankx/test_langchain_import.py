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
        if name.partition(".")[0] == "langchain_core":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""
SAY = """
try:
    import langchain_rerankx
except ImportError as error:
    print(type(error).__name__, error)
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


def test_without_langchain_core_the_error_names_the_extra():
    said = python(BLOCK + SAY)
    assert said.startswith("MissingDependencyError")
    assert "langchain_core" in said
    assert said.endswith("pip install 'rerankx[langchain]'")


def test_a_broken_langchain_core_is_not_called_missing(tmp_path):
    (tmp_path / "langchain_core").mkdir()
    (tmp_path / "langchain_core" / "__init__.py").write_text("import a_package_that_core_needs_and_is_gone\n")
    assert python(SAY, tmp_path) == "ModuleNotFoundError No module named 'a_package_that_core_needs_and_is_gone'"


def test_a_langchain_core_that_lacks_a_part_is_not_called_missing(tmp_path):
    (tmp_path / "langchain_core").mkdir()
    (tmp_path / "langchain_core" / "__init__.py").write_text("")
    assert python(SAY, tmp_path).startswith("ModuleNotFoundError No module named 'langchain_core.")


needs_langchain = pytest.mark.skipif(
    find_spec("langchain_core") is None, reason="needs the extra: pip install 'rerankx[langchain]'"
)


@needs_langchain
def test_public_names_are_sorted_and_all_there():
    import langchain_rerankx

    assert langchain_rerankx.__all__ == ["RerankInput", "RerankRetriever", "Reranker", "rerank"]
    assert langchain_rerankx.__all__ == sorted(langchain_rerankx.__all__)
    assert all(hasattr(langchain_rerankx, name) for name in langchain_rerankx.__all__)


@needs_langchain
def test_importing_adds_no_package_to_those_of_langchain_core():
    code = """
import langchain_core.retrievers, langchain_core.vectorstores.base, sys
before = {name.partition(".")[0] for name in sys.modules}
import langchain_rerankx
after = {name.partition(".")[0] for name in sys.modules}
print(sorted(after - before - sys.stdlib_module_names))
"""
    assert python(code) == "['langchain_rerankx', 'rerankx']"
