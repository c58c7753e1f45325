import asyncio
import sys

import pytest


@pytest.fixture(autouse=True)
def nothing_said_yet():
    """Forgets the hints that were given, each of which comes once per process."""
    if "langchain_rerankx.candidates" in sys.modules:
        candidates = sys.modules["langchain_rerankx.candidates"]
        candidates.hint_at_nothing_to_choose_from.cache_clear()
        candidates.hint_at_fewer_than_asked.cache_clear()
        candidates.hint_at_fetch_k.cache_clear()


@pytest.fixture(params=["sync", "async"])
def invoke(request):
    """Returns `invoke(runnable, input, config, **kwargs)`, by the sync or by the async way; `invoke.how` says which."""

    def call(runnable, *args, **kwargs):
        if request.param == "sync":
            return runnable.invoke(*args, **kwargs)
        return asyncio.run(runnable.ainvoke(*args, **kwargs))

    call.how = request.param
    return call


@pytest.fixture
def compress(invoke):
    """Returns `compress(compressor, documents, query, callbacks)`, by the sync or by the async way."""

    def call(compressor, *args, **kwargs):
        if invoke.how == "sync":
            return compressor.compress_documents(*args, **kwargs)
        return asyncio.run(compressor.acompress_documents(*args, **kwargs))

    return call


@pytest.fixture
def named(tmp_path, monkeypatch):
    """The backend "named" of the stage, installed as a third party would; returns the list of those that were made."""
    from langchain_stage import Named

    info = tmp_path / "stage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rerankx.backends]\nnamed = langchain_stage:Named\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(Named, "made", [])
    return Named.made
