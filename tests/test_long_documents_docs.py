"""What docs/long-documents.md says is true: its code runs, and its table is that of the constructor."""

import inspect
import re
from pathlib import Path
from typing import get_args

from rerankx import Windowed
from rerankx.compose.windowed import Combine

GUIDE = (Path(__file__).parents[1] / "docs" / "long-documents.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)


def test_every_block_runs_and_finds_the_money(capsys):
    names = {}
    for block in BLOCKS:
        exec(compile(block, "docs/long-documents.md", "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"chapter \d, window \d+ of \d+\n", printed)
    assert "refund" in names["best"].text[names["window"]["start"] : names["window"]["end"]]
    for hit in names["context"]:
        chunk = hit.document
        assert chunk.text == chunk.document["body"][chunk.start : chunk.end]
    backend = names["reranker"].backend
    assert 0 < sum(len(backend.token_spans(hit.text)) for hit in names["context"]) <= 500


def test_the_options_and_their_defaults_are_those_of_the_constructor():
    rows = dict(re.findall(r"^\| `(\w+)` \| (\S+) \|", GUIDE, re.MULTILINE))
    parameters = inspect.signature(Windowed).parameters
    assert list(rows) == [name for name in parameters if name != "backend"]
    for name, default in rows.items():
        assert str(parameters[name].default) == default.strip('"')
    assert set(re.findall(r'"(max|first|top3_mean)": ', GUIDE)) == set(get_args(Combine))
