"""What a tracer that knows nothing of rerankx sees of it: OpenInference's instrumentation, which Phoenix and others use."""

import asyncio

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")
pytest.importorskip(
    "openinference.instrumentation.llama_index", reason="needs: pip install openinference-instrumentation-llama-index"
)
pytest.importorskip("opentelemetry.sdk.trace", reason="needs: pip install opentelemetry-sdk")

from hard_stage import PASSAGES, index_of, nodes_of
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.schema import ImageNode
from llamaindex_stage import QUESTION, Overlap, llm
from openinference.instrumentation.llama_index import LlamaIndexInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from llamaindex_rerankx import Rerank, rerank
from rerankx import BackendError

# OpenInference reads an LLM's metadata by pydantic's old name.
pytestmark = pytest.mark.filterwarnings("ignore:The `json` method is deprecated:DeprecationWarning:openinference")


@pytest.fixture
def trace():
    """Returns `trace()`, which gives the spans that have ended by now; nothing is instrumented afterwards."""
    exporter, provider = InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    root = get_dispatcher()
    before = [*root.span_handlers], [*root.event_handlers]
    LlamaIndexInstrumentor().instrument(tracer_provider=provider)
    yield exporter.get_finished_spans
    LlamaIndexInstrumentor().uninstrument()
    provider.shutdown()
    assert ([*root.span_handlers], [*root.event_handlers]) == before


@pytest.fixture(params=["sync", "async"])
def query(request):
    """Returns `query(engine)`, by the sync or by the async way."""

    def call(engine):
        return engine.query(QUESTION) if request.param == "sync" else asyncio.run(engine.aquery(QUESTION))

    call.prefix = {"sync": "", "async": "a"}[request.param]
    return call


def engine_of(backend, **options):
    return rerank(index_of().as_query_engine(similarity_top_k=10, llm=llm()), backend, top_n=2, **options)


def reranker_span(trace):
    [span] = [span for span in trace() if span.attributes["openinference.span.kind"] == "RERANKER"]
    return span


def documents(span, which):
    """Return (id, text, score) of each of a span's documents, in their order."""
    found, i = [], 0
    while (prefix := f"reranker.{which}_documents.{i}.document") + ".id" in span.attributes:
        found.append(tuple(span.attributes[f"{prefix}.{name}"] for name in ("id", "content", "score")))
        i += 1
    return found


def test_a_reranking_is_a_reranker_span(trace, query):
    query(engine_of(Overlap()))
    seen = reranker_span(trace).attributes
    assert {name: seen[f"reranker.{name}"] for name in ("query", "model_name", "top_k")} == {
        "query": QUESTION,
        "model_name": "words",
        "top_k": 2,
    }


def test_the_span_holds_what_came_in_with_the_scores_of_the_retriever(trace, query):
    query(engine_of(Overlap()))
    came = index_of().as_retriever(similarity_top_k=10).retrieve(QUESTION)
    assert documents(reranker_span(trace), "input") == [(node.node_id, node.text, node.score) for node in came]


def test_the_span_holds_what_came_out_with_the_scores_of_the_reranker(trace, query):
    kept = query(engine_of(Overlap())).source_nodes
    assert documents(reranker_span(trace), "output") == [
        ("p5", PASSAGES[5], kept[0].score),
        ("p3", PASSAGES[3], kept[1].score),
    ]


def test_the_span_lies_within_that_of_the_query_engine(trace, query):
    query(engine_of(Overlap()))
    names = {span.context.span_id: span.name for span in trace()}
    assert names[reranker_span(trace).parent.span_id] == f"RetrieverQueryEngine._{query.prefix}query"


def test_the_span_lies_within_that_of_the_retriever(trace):
    asyncio.run(rerank(index_of().as_retriever(), Overlap(), top_n=1).aretrieve(QUESTION))
    names = {span.context.span_id: (span.name, span.attributes["openinference.span.kind"]) for span in trace()}
    assert names[reranker_span(trace).parent.span_id] == ("RerankRetriever._aretrieve", "RETRIEVER")


def test_a_reranking_that_works_is_an_ok_span(trace, query):
    query(engine_of(Overlap()))
    assert reranker_span(trace).status.status_code is StatusCode.OK


def test_an_error_marks_the_span(trace, query):
    with pytest.raises(BackendError):
        query(engine_of(Overlap(error=RuntimeError("down"))))
    span = reranker_span(trace)
    assert (span.status.status_code, "overlap" in span.status.description) == (StatusCode.ERROR, True)
    assert [event.attributes["exception.type"] for event in span.events] == ["rerankx.errors.BackendError"]


def test_a_failed_attempt_that_raises_nothing_is_an_ok_span_with_the_nodes_as_they_came(trace, query):
    # OpenInference passes over the ExceptionEvent of the attempt: all that can be seen is that no node was scored.
    query(engine_of(Overlap(error=RuntimeError("down")), on_error="input_order"))
    span = reranker_span(trace)
    assert (span.status.status_code, span.events) == (StatusCode.OK, ())
    came, kept = documents(span, "input"), documents(span, "output")
    assert [one[:2] for one in kept] == [one[:2] for one in came[:2]]
    assert [score for _, _, score in kept] == [0.0, 0.0]


def test_queries_at_once_keep_their_spans_apart(trace):
    asked = [f"{QUESTION} {i}" for i in range(4)]
    engine = engine_of(Overlap())

    async def together():
        await asyncio.gather(*(engine.aquery(one) for one in asked))

    asyncio.run(together())
    rerankings = [span for span in trace() if span.attributes["openinference.span.kind"] == "RERANKER"]
    assert sorted(span.attributes["reranker.query"] for span in rerankings) == asked
    assert len({span.context.trace_id for span in rerankings}) == 4


def test_a_node_without_text_is_in_the_span_with_score_0(trace):
    Rerank(Overlap()).postprocess_nodes([ImageNode(id_="image"), *nodes_of()], query_str=QUESTION)
    seen = reranker_span(trace).attributes
    last = {name: seen.get(f"reranker.output_documents.10.document.{name}") for name in ("id", "content", "score")}
    assert last == {"id": "image", "content": None, "score": 0.0}
