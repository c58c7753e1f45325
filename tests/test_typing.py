import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import rerankx

ROOT = Path(rerankx.__file__).parent.parent
API = Path(__file__).parent / "typing" / "api.py"


def mypy(path, tmp_path):
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path}", str(path)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "MYPYPATH": str(ROOT)}, cwd=tmp_path
    )


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_the_public_api_has_the_types_that_users_rely_on(tmp_path):
    done = mypy(API, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("mypy") is None, reason="mypy is not installed")
def test_a_wrong_type_would_be_seen(tmp_path):
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import rerankx\nx: int = rerankx.Reranker().rerank('q', ['d'])\n")
    done = mypy(wrong, tmp_path)
    assert done.returncode == 1
    assert 'expression has type "Ranking[str]"' in done.stdout
