"""A backend of somebody else's, really installed by pip: found, used and tested without an edit to rerankx."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rerankx

pytestmark = pytest.mark.slow  # pip builds a wheel

ROOT = Path(rerankx.__file__).parent.parent
PLUGIN = Path(__file__).parent / "example_plugin"
NO_INDEX = (
    "No matching distribution found for hatchling",
    "Could not find a version",
    "Failed to establish a new connection",
)


@pytest.fixture(scope="module")
def plugin(tmp_path_factory):
    """Return (where the plug-in is installed, where its sources are), far from the sources of rerankx."""
    if find_spec("pip") is None:
        pytest.skip("pip is not installed")
    folder = tmp_path_factory.mktemp("plugin")
    site, source = folder / "site", folder / "source"
    shutil.copytree(PLUGIN, source, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(source)]
    isolated = find_spec("hatchling") is None
    if not isolated:
        command.append("--no-build-isolation")
    quick = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "10", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env={**os.environ, **quick})
    if done.returncode and isolated and any(sign in done.stderr for sign in NO_INDEX):
        pytest.skip("hatchling is not installed, and pip reaches no index to build with it")
    assert done.returncode == 0, done.stdout + done.stderr
    return site, source


def run(arguments, *paths, cwd):
    """Run Python on `arguments` where rerankx and `paths` can be imported."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, [*paths, ROOT])), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=env, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_it_is_found_by_name_model_and_options(plugin, tmp_path):
    code = """
import json
from rerankx import Reranker
texts = ["hush", "Stop!!", "STOP"]
print(json.dumps([
    Reranker("shout").rerank("q", texts).documents,
    Reranker("shout:big").rerank("q", texts).documents,
    [hit.score for hit in Reranker("shout:small", gain=2).rerank("q", ["No", "Noo"])],
]))
"""
    small, big, scores = json.loads(run(["-c", code], plugin[0], cwd=tmp_path).stdout)
    assert small == ["STOP", "Stop!!", "hush"]
    assert big == ["Stop!!", "hush", "STOP"]
    assert scores == [1.0, 2 / 3]


def test_a_wrong_option_of_it_names_the_right_one(plugin, tmp_path):
    code = """
from rerankx import Reranker
try:
    Reranker("shout", gian=2)
except TypeError as error:
    print(error)
"""
    said = run(["-c", code], plugin[0], cwd=tmp_path).stdout.strip()
    assert said == "backend 'shout' has no option 'gian'; did you mean 'gain'?; it has: gain, model"


def test_it_is_listed_with_its_distribution(plugin, tmp_path):
    code = "from rerankx import registry; print(*registry.available(), sep='\\n')"
    assert "Listed(name='shout', summary='from rerankx-shout'" in run(["-c", code], plugin[0], cwd=tmp_path).stdout


def test_listing_it_does_not_import_it(plugin, tmp_path):
    code = "import sys; from rerankx import registry; registry.available(); print('rerankx_shout' in sys.modules)"
    assert run(["-c", code], plugin[0], cwd=tmp_path).stdout.strip() == "False"


def test_its_own_tests_hold_it_to_the_contract(plugin):
    site, source = plugin
    done = run(["-m", "pytest", "-q", "-p", "no:cacheprovider", source], site, cwd=source)
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_without_it_there_is_no_such_backend(tmp_path):
    code = """
from rerankx import Reranker, UnknownBackendError
try:
    Reranker("shout")
except UnknownBackendError as error:
    print(error)
"""
    assert run(["-c", code], cwd=tmp_path).stdout.startswith("no backend named 'shout'")


def test_a_plug_in_cannot_take_the_name_of_a_built_in_backend(plugin, tmp_path):
    impostor = tmp_path / "impostor-1.0.dist-info"
    impostor.mkdir()
    (impostor / "METADATA").write_text("Metadata-Version: 2.1\nName: impostor\nVersion: 1.0\n")
    (impostor / "entry_points.txt").write_text("[rerankx.backends]\nembedded = rerankx_shout:Shout\n")
    code = "from rerankx import registry; print(*(line for line in registry.available() if line.name == 'embedded'))"
    done = run(["-c", code], plugin[0], tmp_path, cwd=tmp_path)
    assert "impostor" not in done.stdout
    assert done.stdout.count("Listed(") == 1
    assert "backend 'embedded' of impostor is ignored: that name is built in" in done.stderr
