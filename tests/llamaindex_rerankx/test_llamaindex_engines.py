import asyncio

import pytest

pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")

from llama_index.core import PromptTemplate
from llama_index.core.callbacks import CallbackManager, CBEventType
from llama_index.core.postprocessor import LongContextReorder, SimilarityPostprocessor
from llama_index.core.query_engine import CitationQueryEngine, RetrieverQueryEngine
from llama_index.core.tools import RetrieverTool
from llamaindex_stage import PASSAGES, QUESTION, Callbacks, Overlap, ids, index_of, llm, memory

from llamaindex_rerankx import Rerank, RerankedNode, rerank


@pytest.fixture(params=["sync", "async"])
def ask(request):
    """Returns `ask(engine)`, by the sync or by the async way."""

    def call(engine):
        return engine.query(QUESTION) if request.param == "sync" else asyncio.run(engine.aquery(QUESTION))

    call.how = request.param
    return call


def engine_of(*postprocessors, **options):
    options = {"similarity_top_k": 10, "llm": llm(), **options}
    return index_of().as_query_engine(node_postprocessors=list(postprocessors), **options)


def test_an_engine_answers_from_the_best_nodes(ask):
    response = ask(engine_of(Rerank(Overlap(), top_n=2)))
    assert ids(response.source_nodes) == ["p5", "p3"]
    assert all(isinstance(node, RerankedNode) for node in response.source_nodes)
    answer = str(response)  # MockLLM answers with its prompt
    assert PASSAGES[5] in answer
    assert PASSAGES[0] not in answer


def test_scores_are_not_written_into_the_prompt(ask):
    assert "score" not in str(ask(engine_of(Rerank(Overlap(), top_n=2))))


def test_one_instance_works_in_two_engines(ask):
    shared = Rerank(Overlap(), top_n=1)
    first, second = engine_of(shared), engine_of(shared)
    assert [ids(ask(engine).source_nodes) for engine in (first, second, first)] == [["p5"]] * 3


def test_a_later_postprocessor_can_go_by_the_scores(ask):
    # It puts the highest scores at both ends.
    nodes = ask(engine_of(Rerank(Overlap(), top_n=4), LongContextReorder())).source_nodes
    assert {nodes[0].node_id, nodes[-1].node_id} == {"p5", "p3"}


def test_a_citation_engine_cites_the_best_nodes(ask):
    retriever = index_of().as_retriever(similarity_top_k=10)
    engine = CitationQueryEngine(retriever, llm=llm(), node_postprocessors=[Rerank(Overlap(), top_n=1)])
    assert PASSAGES[5] in ask(engine).source_nodes[0].node.text


def test_a_retriever_tool_returns_reranked_nodes():
    retriever = index_of().as_retriever(similarity_top_k=10)
    tool = RetrieverTool.from_defaults(retriever, node_postprocessors=[Rerank(Overlap(), top_n=1)])
    assert ids(tool.call(QUESTION).raw_output) == ["p5"]


@pytest.mark.parametrize("chat_mode", ["context", "condense_plus_context"])
@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_chat_engine_answers_from_the_best_nodes(chat_mode, way):
    chat = index_of().as_chat_engine(
        chat_mode=chat_mode,
        llm=llm(),
        memory=memory(),
        similarity_top_k=10,
        node_postprocessors=[Rerank(Overlap(), top_n=2)],
    )
    response = chat.chat(QUESTION) if way == "sync" else asyncio.run(chat.achat(QUESTION))
    assert ids(response.source_nodes) == ["p5", "p3"]


# rerank(engine)


def test_an_existing_engine_is_reranked_in_one_line(ask):
    engine = rerank(engine_of(), Overlap(), top_n=2)
    assert isinstance(engine, RetrieverQueryEngine)
    assert ids(ask(engine).source_nodes) == ["p5", "p3"]


def test_the_engine_given_is_not_changed(ask):
    engine = engine_of(similarity_top_k=2)
    before = ids(ask(engine).source_nodes)
    rerank(engine, Overlap(), top_n=1, candidates=10)
    assert ids(ask(engine).source_nodes) == before
    assert engine.retriever.similarity_top_k == 2


def test_candidates_widen_what_the_engine_asks_its_retriever_for(ask):
    backend = Overlap()
    response = ask(rerank(engine_of(similarity_top_k=2), backend, top_n=3, candidates=9))
    assert (len(backend.seen), len(response.source_nodes)) == (9, 3)


def test_with_candidates_alone_the_engine_answers_from_as_many_as_before(ask):
    assert len(ask(rerank(engine_of(similarity_top_k=2), Overlap(), candidates=9)).source_nodes) == 2


def test_the_postprocessors_of_the_engine_come_first(ask):
    backend = Overlap()
    engine = rerank(engine_of(SimilarityPostprocessor(similarity_cutoff=0.3)), backend)
    kept = ask(engine_of(SimilarityPostprocessor(similarity_cutoff=0.3))).source_nodes
    assert sorted(ids(ask(engine).source_nodes)) == sorted(ids(kept))
    assert 0 < len(backend.seen) < len(PASSAGES)


def test_the_synthesizer_of_the_engine_is_kept(ask):
    engine = engine_of(text_qa_template=PromptTemplate("Answer {query_str} from {context_str}"))
    assert str(ask(rerank(engine, Overlap()))).startswith(f"Answer {QUESTION} from")


def test_a_subclass_of_the_engine_stays_one():
    class Mine(RetrieverQueryEngine):
        extra = None

    engine = Mine.from_args(index_of().as_retriever(), llm=llm())
    engine.extra = "mine"
    again = rerank(engine, Overlap())
    assert (type(again), again.extra) == (Mine, "mine")


def test_the_reranker_reports_to_the_callbacks_of_the_engine(ask):
    heard = Callbacks()
    engine = index_of(callback_manager=CallbackManager([heard])).as_query_engine(llm=llm())
    retriever_engine = RetrieverQueryEngine.from_args(
        engine.retriever, llm=llm(), callback_manager=CallbackManager([heard])
    )
    ask(rerank(retriever_engine, Overlap()))
    assert CBEventType.RERANKING in [kind for kind, _ in heard.started]


def test_an_engine_without_the_expected_insides_is_refused_with_the_fix():
    engine = engine_of()
    del engine._node_postprocessors
    with pytest.raises(TypeError, match=r"build it with node_postprocessors=\[Rerank\(\.\.\.\)\]"):
        rerank(engine, Overlap())


@pytest.mark.parametrize(("asked", "kept"), [(15, 10), (4, 2), (10, None)])
def test_an_engine_that_reranks_already_hands_on_as_many_as_asked_for(ask, asked, kept):
    first, second = Overlap(), Overlap()
    passages = [f"{PASSAGES[i % 10]} {i}" for i in range(30)]
    engine = index_of(passages).as_query_engine(llm=llm(), similarity_top_k=20)
    once = rerank(engine, first, top_n=kept)
    answer = ask(rerank(once, second, top_n=3, candidates=asked))
    assert (len(first.seen), len(second.seen)) == (20, asked)
    assert len(answer.source_nodes) == 3
    assert once._node_postprocessors[-1].top_n == kept


def test_with_candidates_an_engine_that_reranks_already_answers_from_as_many_as_before(ask):
    once = rerank(index_of().as_query_engine(llm=llm(), similarity_top_k=6), Overlap(), top_n=3)
    assert len(ask(rerank(once, Overlap(), candidates=8)).source_nodes) == 3
