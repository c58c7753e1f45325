"""What every Runnable can do, done with a `Reranker` and with the retriever that `rerank` makes."""

import asyncio
import threading
from operator import itemgetter

import pytest

pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")

from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.runnables import (
    ConfigurableField,
    RunnableLambda,
    RunnableParallel,
    RunnablePassthrough,
    chain,
)
from langchain_stage import BEST, PAGES, QUESTION, FromList, Tracer, documents, pages, runs, shape, store
from pydantic import ValidationError

from langchain_rerankx import Reranker, rerank
from rerankx import BackendError, RateLimitError
from rerankx.testing import FakeBackend


def base(**fields):
    return FromList(found=documents(), **{"k": 5, **fields})


def asked(**changes):
    return {"query": QUESTION, "documents": documents(), **changes}


def broken(error=BackendError):
    return FakeBackend(error=error("down"))


class Recovering(FakeBackend):
    """A backend whose first answer is an error."""

    def _score(self, query, texts, *, top_n=None):
        scored = super()._score(query, texts, top_n=top_n)
        if len(self.calls) == 1:
            raise RateLimitError("too many")
        return scored


both = pytest.mark.parametrize(
    ("runnable", "given"),
    [(Reranker(FakeBackend()), asked()), (rerank(base(), FakeBackend()), QUESTION)],
    ids=["reranker", "retriever"],
)


# Streams


def streamed(invoke, runnable, *args):
    if invoke.how == "sync":
        return list(runnable.stream(*args))

    async def collected():
        return [chunk async for chunk in runnable.astream(*args)]

    return asyncio.run(collected())


def transformed(invoke, runnable, parts):
    if invoke.how == "sync":
        return list(runnable.transform(iter(parts)))

    async def arriving():
        for part in parts:
            yield part

    async def collected():
        return [chunk async for chunk in runnable.atransform(arriving())]

    return asyncio.run(collected())


@both
def test_a_stream_is_the_whole_list_at_once(invoke, runnable, given):
    assert [pages(found) for found in streamed(invoke, runnable, given)] == [BEST]


def test_a_retriever_joins_the_parts_of_a_query_that_is_streamed(invoke):
    assert [
        pages(found) for found in transformed(invoke, rerank(base(), FakeBackend()), ["how do I get ", "my money back"])
    ] == [BEST]


def test_a_reranker_waits_for_query_and_documents_of_a_stream(invoke):
    steps = RunnableParallel(query=RunnablePassthrough(), documents=base()) | Reranker(FakeBackend())
    assert [pages(found) for found in streamed(invoke, steps, QUESTION)] == [BEST]


def test_a_model_behind_the_retriever_streams_its_answer(invoke):
    answer = RunnableLambda(lambda found: found[0].page_content) | FakeListChatModel(responses=["yes"])
    chunks = streamed(invoke, rerank(base(), FakeBackend()) | answer | StrOutputParser(), QUESTION)
    assert [chunk for chunk in chunks if chunk] == ["y", "e", "s"]


# with_config, bind, with_listeners


@both
def test_with_config_names_and_tags_the_run(invoke, runnable, given):
    tracer = Tracer()
    named = runnable.with_config(run_name="second stage", tags=["t"], metadata={"team": "shop"})
    invoke(named, given, {"callbacks": [tracer]})
    run = tracer.roots[0]
    assert (run.name, run.tags, run.metadata["team"]) == ("second stage", ["t"], "shop")


def test_a_reranker_with_config_keeps_its_name_within_the_retriever(invoke):
    tracer = Tracer()
    named = Reranker(FakeBackend()).with_config(run_name="second stage", tags=["t"])
    invoke(rerank(base(), named, top_n=2), QUESTION, {"callbacks": [tracer]})
    [run] = runs(tracer.roots[0], "second stage")
    assert "t" in run.tags
    assert pages(run.outputs["output"]) == BEST[:2]


@both
def test_bound_top_n_keeps_the_best(invoke, runnable, given):
    assert pages(invoke(runnable.bind(top_n=2), given)) == BEST[:2]


def test_a_bound_keyword_reaches_the_base_retriever(invoke):
    assert len(invoke(rerank(store().as_retriever(), FakeBackend()).bind(k=1), QUESTION)) == 1


def test_bound_top_n_of_the_reranker_holds_where_the_retriever_has_none(invoke):
    assert pages(invoke(rerank(base(), Reranker(FakeBackend()).bind(top_n=2)), QUESTION)) == BEST[:2]


def test_top_n_of_the_retriever_stands_over_what_is_bound_to_the_reranker(invoke):
    assert pages(invoke(rerank(base(), Reranker(FakeBackend()).bind(top_n=1), top_n=2), QUESTION)) == BEST[:2]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda reranker: reranker.with_fallbacks([Reranker(FakeBackend(), top_n=2)]),
        lambda reranker: reranker.with_retry(),
        lambda reranker: reranker.bind(top_n=1),
    ],
    ids=["fallbacks", "retry", "bind"],
)
def test_top_n_of_the_retriever_stands_over_that_of_a_wrapped_reranker(invoke, wrap):
    assert len(invoke(rerank(base(k=5), wrap(Reranker(FakeBackend(), top_n=1)), top_n=3), QUESTION)) == 3


def test_top_n_is_not_passed_on_to_a_fallback_that_would_not_take_it(invoke):
    down = Reranker(broken())
    wrapped = down.with_fallbacks([RunnableLambda(lambda asked: asked["documents"])])
    assert len(invoke(rerank(base(k=5), wrapped, top_n=3), QUESTION)) == 3


def test_with_candidates_the_bound_number_of_the_reranker_comes_first(invoke):
    assert len(invoke(rerank(base(k=2), Reranker(FakeBackend()).bind(top_n=3), candidates=5), QUESTION)) == 3


@both
def test_a_listener_hears_of_the_run(invoke, runnable, given):
    ended = []
    invoke(runnable.with_listeners(on_end=lambda run: ended.append(run.name)), given)
    assert ended == [runnable.get_name()]


# with_retry


def retried(runnable):
    return runnable.with_retry(
        retry_if_exception_type=(RateLimitError,), wait_exponential_jitter=False, stop_after_attempt=2
    )


def test_a_reranker_is_asked_again(invoke):
    backend = Recovering()
    assert pages(invoke(retried(Reranker(backend)), asked())) == BEST
    assert len(backend.calls) == 2


def test_a_reranker_within_the_retriever_is_asked_again(invoke):
    backend = Recovering()
    assert pages(invoke(rerank(base(), retried(Reranker(backend)), top_n=2), QUESTION)) == BEST[:2]
    assert [call.top_n for call in backend.calls] == [2, 2]


def test_both_attempts_are_seen(invoke):
    tracer = Tracer()
    invoke(rerank(base(), retried(Reranker(Recovering()))), QUESTION, {"callbacks": [tracer]})
    assert [run.error is None for run in runs(tracer.roots[0], "Reranker")][-2:] == [False, True]


def test_another_error_is_not_tried_again(invoke):
    backend = broken(BackendError)
    with pytest.raises(BackendError, match="down"):
        invoke(rerank(base(), retried(Reranker(backend))), QUESTION)
    assert len(backend.calls) == 1


# with_fallbacks


def test_a_second_reranker_takes_over(invoke):
    steps = Reranker(broken()).with_fallbacks([Reranker(FakeBackend(), top_n=2)])
    assert pages(invoke(steps, asked())) == BEST[:2]


def test_a_second_reranker_takes_over_within_the_retriever(invoke):
    steps = Reranker(broken()).with_fallbacks([Reranker(FakeBackend())])
    assert pages(invoke(rerank(base(), steps, top_n=2), QUESTION)) == BEST[:2]


def test_the_one_that_failed_and_the_one_that_took_over_are_seen(invoke):
    tracer = Tracer()
    steps = Reranker(broken(), name="first").with_fallbacks([Reranker(FakeBackend(), name="second")])
    invoke(rerank(base(), steps), QUESTION, {"callbacks": [tracer]})
    [first], [second] = (runs(tracer.roots[0], name) for name in ("first", "second"))
    assert "down" in first.error
    assert second.error is None
    assert first.parent_run_id == second.parent_run_id


def test_where_all_rerankers_fail_the_first_error_is_raised(invoke):
    steps = Reranker(broken()).with_fallbacks([Reranker(broken(RateLimitError))])
    with pytest.raises(BackendError) as caught:
        invoke(rerank(base(), steps), QUESTION)
    assert type(caught.value) is BackendError


def test_the_base_retriever_takes_over_where_reranking_fails(invoke):
    retriever = base()
    assert pages(invoke(rerank(retriever, broken()).with_fallbacks([retriever]), QUESTION)) == PAGES


# configurable_alternatives and configurable_fields


def either(first, second):
    """Return a reranker that is one or, with {"which": "second"}, the other."""
    return Reranker(first).configurable_alternatives(
        ConfigurableField(id="which"), default_key="first", second=Reranker(second)
    )


CHOICE = pytest.mark.parametrize(
    ("config", "asked_first", "asked_second"),
    [({}, 1, 0), ({"configurable": {"which": "first"}}, 1, 0), ({"configurable": {"which": "second"}}, 0, 1)],
    ids=["by default", "first", "second"],
)


@CHOICE
def test_the_reranker_that_is_chosen_is_asked(invoke, config, asked_first, asked_second):
    first, second = FakeBackend(), FakeBackend()
    assert pages(invoke(rerank(base(), either(first, second)), QUESTION, config)) == BEST
    assert (len(first.calls), len(second.calls)) == (asked_first, asked_second)


def test_a_reranker_is_chosen_once_and_for_all_with_config(invoke):
    first, second = FakeBackend(), FakeBackend()
    invoke(rerank(base(), either(first, second).with_config(configurable={"which": "second"})), QUESTION)
    assert (len(first.calls), len(second.calls)) == (0, 1)


@pytest.mark.parametrize("which", ["first", "second"])
def test_top_n_of_a_call_reaches_the_backend_that_is_chosen_as_a_hint(invoke, which):
    backends = {"first": FakeBackend(), "second": FakeBackend()}
    retriever = rerank(base(), either(**backends), top_n=4)
    invoke(retriever, QUESTION, {"configurable": {"which": which}}, top_n=2)
    assert [call.top_n for call in backends[which].calls] == [2]


def test_what_is_configurable_at_both_levels_is_told():
    configurable = store().as_retriever().configurable_fields(search_kwargs=ConfigurableField(id="search"))
    retriever = rerank(configurable, either(FakeBackend(), FakeBackend())).configurable_fields(
        top_n=ConfigurableField(id="n")
    )
    assert sorted(spec.id for spec in retriever.config_specs) == ["n", "search", "which"]


def test_a_misspelt_alternative_is_a_value_error(invoke):
    with pytest.raises(ValueError, match="third"):
        invoke(rerank(base(), either(FakeBackend(), FakeBackend())), QUESTION, {"configurable": {"which": "third"}})


def test_a_retriever_with_a_configurable_number_takes_it_from_the_call(invoke):
    retriever = rerank(base(), FakeBackend(), top_n=4).configurable_fields(top_n=ConfigurableField(id="n"))
    assert pages(invoke(retriever, QUESTION, {"configurable": {"n": 2}})) == BEST[:2]
    assert pages(invoke(retriever, QUESTION)) == BEST[:4]


def test_a_retriever_with_configurable_candidates_takes_them_from_the_call(invoke):
    backend = FakeBackend()
    retriever = rerank(base(k=2), backend, top_n=1).configurable_fields(candidates=ConfigurableField(id="c"))
    invoke(retriever, QUESTION, {"configurable": {"c": 5}})
    invoke(retriever, QUESTION)
    assert [len(call.texts) for call in backend.calls] == [5, 2]


def test_all_levels_are_configured_in_one_call(invoke):
    first, second = FakeBackend(), FakeBackend()
    configurable = store().as_retriever().configurable_fields(search_kwargs=ConfigurableField(id="search"))
    retriever = rerank(configurable, either(first, second)).configurable_fields(top_n=ConfigurableField(id="n"))
    config = {"configurable": {"n": 2, "search": {"k": 3}, "which": "second"}}
    assert len(invoke(retriever, QUESTION, config)) == 2
    assert [len(call.texts) for call in second.calls] == [3]


def test_a_retriever_that_is_configured_does_not_make_the_backend_again(named, invoke):
    retriever = rerank(base(), "named").configurable_fields(top_n=ConfigurableField(id="n"))
    found = [invoke(retriever, QUESTION, {"configurable": {"n": n}}) for n in (1, 2)]
    assert [pages(some) for some in found] == [BEST[:1], BEST[:2]]
    assert len(named) == 1


def test_a_backend_may_be_configured_and_is_made_once(named, invoke):
    reranker = Reranker("named").configurable_fields(backend=ConfigurableField(id="backend"))
    for _ in range(2):
        assert pages(invoke(rerank(base(), reranker), QUESTION, {"configurable": {"backend": "named:other"}})) == BEST
    assert [backend.model for backend in named] == ["words", "other"]


def test_a_configured_number_out_of_range_is_refused(invoke):
    retriever = rerank(base(), FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n"))
    with pytest.raises(ValidationError, match="top_n"):
        invoke(retriever, QUESTION, {"configurable": {"n": 0}})


def test_a_retriever_is_one_of_two(invoke):
    plain, reranked = base(), rerank(base(), FakeBackend())
    retriever = plain.configurable_alternatives(ConfigurableField(id="which"), default_key="plain", reranked=reranked)
    assert pages(invoke(retriever, QUESTION)) == PAGES
    assert pages(invoke(retriever, QUESTION, {"configurable": {"which": "reranked"}})) == BEST


# Batches


def batched(invoke, runnable, *args, **kwargs):
    if invoke.how == "sync":
        return runnable.batch(*args, **kwargs)
    return asyncio.run(runnable.abatch(*args, **kwargs))


class Crowded(FakeBackend):
    """A backend that lets nobody go before two have come, and counts in `most` how many were there at once."""

    def __init__(self):
        super().__init__()
        self.inside = self.most = 0
        self.lock, self.two, self.two_tasks = threading.Lock(), threading.Barrier(2), asyncio.Barrier(2)

    def come(self):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def go(self):
        with self.lock:
            self.inside -= 1

    def _score(self, query, texts, *, top_n=None):
        self.come()
        self.two.wait(timeout=20)  # so that what hangs fails
        self.go()
        return super()._score(query, texts, top_n=top_n)

    async def _ascore(self, query, texts, *, top_n=None):
        self.come()
        await asyncio.wait_for(self.two_tasks.wait(), timeout=20)
        self.go()
        return super()._score(query, texts, top_n=top_n)


@both
def test_a_batch_works_on_as_many_at_once_as_it_may(invoke, runnable, given):
    backend = Crowded()
    runnable = Reranker(backend) if isinstance(runnable, Reranker) else rerank(base(), backend)
    found = batched(invoke, runnable, [given] * 6, {"max_concurrency": 2})
    assert [pages(one) for one in found] == [BEST] * 6
    assert backend.most == 2


def choosy():
    """Return a backend that fails when it is asked for gift cards."""

    def score(query, text):
        if query == "gift cards":
            raise ValueError("no gifts")
        return 0.5

    return FakeBackend(score=score)


def test_a_batch_returns_the_error_in_the_place_of_its_query(invoke):
    queries = [QUESTION, "gift cards", "parcels"]
    first, error, last = batched(invoke, rerank(base(), choosy()), queries, return_exceptions=True)
    assert (pages(first), pages(last)) == (PAGES, PAGES)
    assert type(error) is BackendError


def test_a_batch_of_a_reranker_returns_the_error_in_the_place_of_its_input(invoke):
    given = [asked(), asked(query="gift cards"), asked(query=" ")]
    first, second, third = batched(invoke, Reranker(choosy()), given, return_exceptions=True)
    assert pages(first) == PAGES
    assert (type(second), type(third)) == (BackendError, ValueError)


def test_an_error_in_a_batch_is_raised(invoke):
    with pytest.raises(BackendError, match="ValueError"):
        batched(invoke, rerank(base(), choosy()), [QUESTION, "gift cards"])


def test_every_query_of_a_batch_has_its_own_config(invoke):
    retriever = rerank(base(), FakeBackend()).configurable_fields(top_n=ConfigurableField(id="n"))
    found = batched(invoke, retriever, [QUESTION, QUESTION], [{"configurable": {"n": n}} for n in (1, 3)])
    assert [len(one) for one in found] == [1, 3]


def test_every_query_of_a_batch_has_its_own_trace(invoke):
    tracer = Tracer()
    batched(invoke, rerank(base(), FakeBackend()), [QUESTION, "gift cards"], {"callbacks": [tracer]})
    tree = ("retriever", "RerankRetriever", [("retriever", "FromList", []), ("chain", "Reranker", [])])
    assert [shape(root) for root in tracer.roots] == [tree, tree]
    assert sorted(root.inputs["query"] for root in tracer.roots) == ["gift cards", QUESTION]


def test_an_empty_batch_is_an_empty_list(invoke):
    assert batched(invoke, rerank(base(), FakeBackend()), []) == []


# Parts of larger chains


def test_a_reranker_is_mapped_over_inputs(invoke):
    given = [asked(), asked(query="gift cards")]
    assert [found[0].page_content for found in invoke(Reranker(FakeBackend()).map(), given)] == [PAGES[3], PAGES[2]]


def test_a_retriever_is_mapped_over_queries(invoke):
    found = invoke(rerank(base(), FakeBackend(), top_n=1).map(), [QUESTION, "gift cards"])
    assert [pages(one) for one in found] == [[PAGES[3]], [PAGES[2]]]


def test_a_reranker_is_assigned_beside_what_it_was_given(invoke):
    steps = RunnablePassthrough.assign(documents=itemgetter("query") | base()).assign(
        best=Reranker(FakeBackend(), top_n=1)
    )
    given = invoke(steps, {"query": QUESTION, "user": "u"})
    assert (given["user"], pages(given["documents"]), pages(given["best"])) == ("u", PAGES, BEST[:1])


def test_what_was_assigned_is_picked(invoke):
    steps = RunnableParallel(query=RunnablePassthrough(), documents=base()).assign(best=Reranker(FakeBackend()))
    assert pages(invoke(steps.pick("best"), QUESTION)) == BEST


def test_a_retriever_is_assigned_to_a_question(invoke):
    steps = RunnablePassthrough.assign(context=itemgetter("question") | rerank(base(), FakeBackend(), top_n=1))
    assert pages(invoke(steps, {"question": QUESTION})["context"]) == BEST[:1]


def test_a_function_may_choose_the_retriever(invoke):
    retriever = rerank(base(), FakeBackend(), top_n=1)
    route = RunnableLambda(lambda query: retriever if "money" in query else base())
    assert pages(invoke(route, QUESTION)) == BEST[:1]


def test_a_function_that_is_a_chain_nests_the_search():
    retriever = rerank(base(), FakeBackend())

    @chain
    def answer(query):
        return pages(retriever.invoke(query))[0]

    tracer = Tracer()
    assert answer.invoke(QUESTION, {"callbacks": [tracer]}) == BEST[0]
    assert [(run.run_type, run.name) for run in tracer.roots[0].child_runs] == [("retriever", "RerankRetriever")]


# What it looks like


# LangChain calls as_tool beta, at every use
@pytest.mark.filterwarnings("ignore:This API is in beta")
def test_a_retriever_is_a_tool(invoke):
    tool = rerank(base(), FakeBackend(), top_n=1).as_tool(name="search", description="Searches the help pages.")
    assert (tool.name, tool.description) == ("search", "Searches the help pages.")
    assert pages(invoke(tool, QUESTION)) == BEST[:1]


@both
def test_its_name_is_that_of_the_class(runnable, given):
    assert runnable.get_name() == type(runnable).__name__


@both
def test_its_graph_has_a_node_of_its_name(runnable, given):
    assert [node.name for node in runnable.get_graph().nodes.values()][1:2] == [runnable.get_name()]


def test_a_chain_with_both_is_drawn():
    steps = RunnableParallel(query=RunnablePassthrough(), documents=rerank(base(), FakeBackend())) | Reranker(
        FakeBackend(), name="second stage"
    )
    drawn = steps.get_graph().draw_mermaid()
    assert "RerankRetriever" in drawn
    assert "second stage" in drawn.replace("\\20", " ")
