"""The guide's code is run as it stands there."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import rerankx
from rerankx import registry

ROOT = Path(rerankx.__file__).parent.parent
GUIDE = (Path(__file__).parent.parent / "docs" / "write-your-own-backend.md").read_text("utf-8")

# The service that `Remote` asks, and its contract: what the guide leaves to the reader.
REST = """
class Client:
    def ask(self, query, texts, *, timeout):
        assert 0 < timeout <= 30
        return Overlap().score(query, texts)

    async def aask(self, query, texts, *, timeout):
        return self.ask(query, texts, timeout=timeout)


class TestRemote(BackendContract):
    on_deadline = "error"

    def make(self):
        return Remote(client=Client())
"""


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)


def test_the_python_runs_and_keeps_the_contract(tmp_path):
    (tmp_path / "test_guide.py").write_text("\n\n".join([*blocks("python"), REST]), "utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_guide.py"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(blocks("python")) == 3


def test_the_entry_point_is_in_the_group_that_is_read():
    (block,) = blocks("toml")
    assert tomllib.loads(block)["project"]["entry-points"] == {
        registry.GROUP: {"overlap": "my_package.backend:Overlap"}
    }
