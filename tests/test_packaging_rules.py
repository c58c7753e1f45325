"""Who may import whom, and what `import rerankx` costs: rules that no reader would see broken."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import rerankx

CORE = ("errors", "arguments", "interface", "explained", "ranking", "registry", "reranker")
BELOW = (*CORE, "fusion", "catalogue", "engines", "network", "llm", "backends", "compose")

# Which parts of rerankx a part may import, itself apart.
MAY_IMPORT = {
    **{part: CORE[:i] for i, part in enumerate(CORE)},
    "registry": (*CORE[: CORE.index("registry")], "catalogue"),
    "reranker": (*CORE[: CORE.index("reranker")], "compose"),
    "__init__": (*CORE, "compose", "long_documents", "session", "spec", "structured"),
    "structured": ("errors",),
    "fusion": (),
    "sentences": (),
    "after": ("arguments", "interface", "ranking", "compose", "backends"),
    "long_documents": (*CORE, "compose", "after", "sentences"),
    "session": (*CORE, "compose", "after"),
    "spec": (*CORE, "compose", "after"),
    "catalogue": (),
    "engines": ("errors", "interface", "catalogue"),
    "network": ("errors", "interface", "catalogue", "engines"),
    "llm": ("errors", "interface", "catalogue", "engines", "network"),
    "backends": ("errors", "interface", "catalogue", "engines", "network", "llm", "fusion"),
    "compose": ("errors", "arguments", "interface", "ranking", "registry", "fusion", "sentences"),
    "testing": ("errors", "interface"),
    "evaluation": (*BELOW, "spec"),
    "demo": (*BELOW, "spec", "evaluation"),
    "cli": (*BELOW, "spec", "evaluation", "demo"),
}
ADAPTERS = ("langchain_rerankx", "llamaindex_rerankx")
FRAMEWORKS = ("langchain", "llama_index", *ADAPTERS)

ROOT = Path(rerankx.__file__).parent.parent


def files_of(package):
    return [path.relative_to(ROOT) for path in sorted((ROOT / package).rglob("*.py"))]


def imports(source):
    """Return the dotted name of everything that is imported, and of every `rerankx.x` that is used, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import: these rules read absolute ones"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "rerankx":
            found.add(f"rerankx.{node.attr}")
    return found


def part_of(name):
    """Return the part of rerankx that holds `name`: "errors" for rerankx.errors.ReplyError and for rerankx.ReplyError."""
    first = name.split(".")[1]
    home = rerankx._HOME_OF.get(first, f"rerankx.{first}")
    return home.split(".")[1]


def against_the_direction(part, source):
    allowed = {part, *MAY_IMPORT[part], "__version__"}
    return {name for name in imports(source) if name.startswith("rerankx.") and part_of(name) not in allowed}


def frameworks_in(source):
    return {name for name in imports(source) if name.startswith(FRAMEWORKS)}


def beyond_the_public_names(adapter, source):
    others = {name for name in imports(source) if name.startswith(ADAPTERS) and not name.startswith(adapter)}
    private = {
        name
        for name in imports(source)
        if name.startswith("rerankx.") and name.removeprefix("rerankx.") not in rerankx.__all__
    }
    return others | private


@pytest.mark.parametrize("path", files_of("rerankx"), ids=str)
def test_imports_go_one_way(path):
    part = path.parts[1].removesuffix(".py")
    assert part in MAY_IMPORT, f"say in MAY_IMPORT what {part} may import"
    assert against_the_direction(part, (ROOT / path).read_text("utf-8")) == set()


@pytest.mark.parametrize("path", files_of("rerankx"), ids=str)
def test_the_core_knows_no_framework(path):
    assert frameworks_in((ROOT / path).read_text("utf-8")) == set()


@pytest.mark.parametrize("path", [path for adapter in ADAPTERS for path in files_of(adapter)], ids=str)
def test_adapters_use_public_names_alone(path):
    assert beyond_the_public_names(path.parts[0], (ROOT / path).read_text("utf-8")) == set()


@pytest.mark.parametrize(
    ("part", "source"),
    [
        ("errors", "from rerankx.interface import Scale"),
        ("errors", "from rerankx import interface"),
        ("interface", "from rerankx import Reranker"),
        ("interface", "import rerankx.reranker"),
        ("ranking", "def f():\n    from rerankx.registry import create"),
        ("reranker", "import rerankx\nrerankx.cli.main()"),
        ("registry", "from rerankx.backends.embedded import Embedded"),
        ("compose", "from rerankx.reranker import Reranker"),
        ("network", "from rerankx.backends.http import Http"),
        ("backends", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rerankx.reranker import Reranker"),
        ("fusion", "from rerankx import Scores"),
    ],
)
def test_an_import_against_the_direction_is_found(part, source):
    assert len(against_the_direction(part, source)) == 1


def test_imports_along_the_direction_are_let_pass():
    assert against_the_direction("reranker", "from rerankx import registry, BackendError\nimport json") == set()
    assert against_the_direction("cli", "from rerankx import __version__, demo, Reranker") == set()


@pytest.mark.parametrize(
    "source",
    [
        "from langchain_core.documents import Document",
        "import llama_index.core",
        "def f():\n    import langchain_rerankx",
    ],
)
def test_a_framework_in_the_core_is_found(source):
    assert len(frameworks_in(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from rerankx.reranker import Reranker",
        "import rerankx.errors",
        "import rerankx\nrerankx.interface",
        "from rerankx import registry",
        "from llamaindex_rerankx import Rerank",
    ],
)
def test_an_adapter_that_goes_behind_the_public_names_is_found(source):
    assert len(beyond_the_public_names("langchain_rerankx", source)) == 1


def test_an_adapter_may_use_public_names_and_its_own():
    source = "import rerankx\nfrom rerankx import Hit\nfrom langchain_rerankx.options import x\nrerankx.Reranker"
    assert beyond_the_public_names("langchain_rerankx", source) == set()


def test_the_public_names_are_these():
    assert rerankx.__all__ == [
        "Attempt",
        "AuthenticationError",
        "Backend",
        "BackendError",
        "BudgetError",
        "Cached",
        "Calibrated",
        "Cascade",
        "DeadlineError",
        "DiskStore",
        "Fallback",
        "Floor",
        "Fusion",
        "Hit",
        "MemoryStore",
        "MissingDependencyError",
        "ModelNotFoundError",
        "OptionError",
        "Ranking",
        "RateLimitError",
        "ReplyError",
        "RerankSession",
        "Reranker",
        "RerankxError",
        "Scale",
        "Scores",
        "SpecError",
        "Step",
        "Store",
        "UnknownBackendError",
        "Usage",
        "Windowed",
        "arerank_then_chunk",
        "as_yaml",
        "from_spec",
        "rerank_then_chunk",
        "to_spec",
    ]


def test_type_checkers_see_the_public_names_and_no_others():
    tree = ast.parse(Path(rerankx.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: f"{line.module}.{alias.name}" for line in block.body for alias in line.names}
    assert seen == {name: f"{home}.{name}" for name, home in rerankx._HOME_OF.items()}


@pytest.mark.parametrize("name", rerankx.__all__)
def test_each_public_name_is_the_thing_of_its_home(name):
    assert getattr(rerankx, name) is getattr(sys.modules[rerankx._HOME_OF[name]], name)
    assert name in dir(rerankx)


def test_there_are_no_other_names():
    with pytest.raises(AttributeError, match="module 'rerankx' has no attribute 'Rerank'"):
        _ = rerankx.Rerank


def test_importing_rerankx_and_its_public_names_imports_no_third_party():
    code = """
import json, sys
before = set(sys.modules)
def third_parties():
    tops = {name.partition(".")[0] for name in set(sys.modules) - before}
    return sorted(tops - sys.stdlib_module_names - {"rerankx"})
import rerankx
found = {"import rerankx": third_parties()}
for name in rerankx.__all__:
    getattr(rerankx, name)
    found[name] = third_parties()
import rerankx.registry
rerankx.registry.available()
found["available()"] = third_parties()
import rerankx.testing
found["testing"] = third_parties()
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 3 + len(rerankx.__all__)
    assert {where: modules for where, modules in found.items() if modules} == {}


def test_importing_rerankx_resolves_nothing_yet():
    code = "import sys, rerankx; print(*(name for name in sys.modules if name.startswith('rerankx.')))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=ROOT, check=True
    )
    assert done.stdout.split() == []


FLOORS = ("langchain", "llamaindex", "onnx", "http", "cohere")


@pytest.mark.skipif(not (ROOT / ".ci" / "floor.txt").is_file(), reason="the sources are not here")
def test_the_oldest_versions_that_are_tried_are_those_that_are_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    lines = [*project["dependencies"], *(line for name in FLOORS for line in extras[name])]
    declared = [line for line in lines if not line.startswith("rerankx[")]
    floors = dict(re.match(r"([a-z-]+)>=([0-9.]+)", line).groups() for line in declared)
    tried = dict(line.split("==") for line in (ROOT / ".ci" / "floor.txt").read_text("utf-8").split())
    assert tried.keys() == floors.keys()
    assert all(tried[name].startswith(floor) for name, floor in floors.items())
