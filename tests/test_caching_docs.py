"""What docs/caching.md says is true: its code runs."""

import random
import re
from pathlib import Path

import pytest

from rerankx import Cached, DiskStore, MemoryStore, Reranker

GUIDE = (Path(__file__).parents[1] / "docs" / "caching.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
PASSAGES = ["Cats sleep all day.", "The shop pays for a refund.", "The museum opens on Sundays."]


class Redis:
    """As much of redis.Redis as the guide uses."""

    def __init__(self):
        self.held, self.waiting = {}, []

    def mget(self, keys):
        return [self.held.get(key) for key in keys]

    def pipeline(self, transaction=True):
        assert transaction is False
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.waiting.clear()

    def set(self, key, value, ex=None):
        assert (type(key), type(value), ex) == (bytes, bytes, 86_400)
        self.waiting.append((key, value))

    def execute(self):
        self.held.update(self.waiting)


@pytest.fixture
def names(monkeypatch, tmp_path, capsys):
    pytest.importorskip("httpx", reason="the cohere backend needs the extra: pip install 'rerankx[cohere]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CO_API_KEY", "key")
    names = {"passages": PASSAGES, "client": Redis()}
    for block in BLOCKS:
        exec(compile(block, "docs/caching.md", "exec"), names)
    return names | {"printed": capsys.readouterr().out}


def test_every_block_runs(names):
    assert names["printed"] == "3 of 3 known; True\n"
    assert Path("scores.db").is_file()


def test_tenants_share_a_file_and_no_score(names):
    first, second = names["ours"], names["theirs"]
    assert first.backend.store is second.backend.store
    assert [first.rerank("q", PASSAGES).usage.cache_hits for _ in range(2)] == [0, 3]
    assert second.rerank("q", PASSAGES).usage.cache_hits == 0


def test_the_store_of_ones_own_keeps_scores(names):
    reranker = names["reranker"]
    assert [reranker.rerank("refund", PASSAGES).usage.cache_hits for _ in range(2)] == [0, 3]
    assert len(names["client"].held) == 3


def test_the_sizes_that_the_guide_gives_are_those_of_the_code(tmp_path):
    in_memory, on_disk = map(int, re.search(r"about (\d+) bytes in memory, (\d+) on disk", GUIDE).groups())
    assert MemoryStore().max_bytes == 64 * 2**20  # "64 MB"
    kept = Shelf()
    Reranker(Cached("embedded", kept)).rerank("who pays for a refund?", PASSAGES)
    value, chance = max(kept.held.values(), key=len), random.Random(0)
    items = {chance.randbytes(32): value for _ in range(5_000)}
    memory, disk = MemoryStore(), DiskStore(tmp_path / "scores.db")
    memory.put(items)
    disk.put(items)
    disk.close()
    assert in_memory == pytest.approx(memory._held / len(items), rel=0.2)
    assert on_disk == pytest.approx(disk.path.stat().st_size / len(items), rel=0.3)


class Shelf:
    def __init__(self):
        self.held = {}

    def get(self, keys):
        return {}

    def put(self, items):
        self.held.update(items)
