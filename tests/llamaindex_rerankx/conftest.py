import asyncio

import pytest


@pytest.fixture(params=["sync", "async"])
def run(request):
    """Returns `run(postprocessor, nodes, query)`, which reranks by the sync or by the async way."""

    def call(postprocessor, nodes, query):
        if request.param == "sync":
            return postprocessor.postprocess_nodes(nodes, query)
        return asyncio.run(postprocessor.apostprocess_nodes(nodes, query))

    call.how = request.param
    return call


@pytest.fixture
def events():
    """Every instrumentation event from here on."""
    from llama_index.core.instrumentation import get_dispatcher
    from llamaindex_stage import Events

    handler, root = Events(seen=[]), get_dispatcher()
    root.add_event_handler(handler)
    yield handler
    root.event_handlers.remove(handler)


@pytest.fixture
def spans():
    """Every span from here on."""
    from llama_index.core.instrumentation import get_dispatcher
    from llama_index.core.instrumentation.span_handlers import SimpleSpanHandler

    handler, root = SimpleSpanHandler(), get_dispatcher()
    root.add_span_handler(handler)
    yield handler
    root.span_handlers.remove(handler)


@pytest.fixture
def installed_backends(tmp_path, monkeypatch):
    """The backends of the stage, installed under their names as a third party would install them."""
    info = tmp_path / "stage-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stage\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rerankx.backends]\noverlap = llamaindex_stage:Overlap\n")
    monkeypatch.syspath_prepend(tmp_path)
