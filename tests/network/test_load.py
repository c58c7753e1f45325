"""Many rankings at once: few connections, nothing lost, and an event loop that goes on."""

import asyncio

import pytest
from backend_stage import SDK, made, spoken
from fault_stage import good

from rerankx import Reranker

MANY = 200


@pytest.mark.parametrize("target", ["tei", "voyage", SDK])
def test_200_at_once_share_few_connections_and_are_all_answered(stage, target):
    url = stage.address(good(delay_s=0.05), dialect=spoken(target))
    backend = made(target, url, max_concurrency=20)

    async def ask(i: int) -> list[str]:
        documents = [f"of {j}" for j in range(i, i + 5)]
        ranking = await Reranker(backend).arerank(f"number {i + i % 5}", documents)
        assert ranking.degraded is None
        return [ranking.documents[0], *sorted(ranking.documents)]

    async def run() -> list[list[str]]:
        return await asyncio.gather(*(ask(i) for i in range(MANY)))

    for i, (best, *found) in enumerate(asyncio.run(run())):
        assert best == f"of {i + i % 5}"
        assert found == sorted(f"of {j}" for j in range(i, i + 5))
    requests = stage.requests(url)
    assert len(requests) == MANY
    assert len({request.connection for request in requests}) <= 20
    assert stage.connections_peak(url) <= 20
    assert 1 < stage.answering_peak(url) <= 20


def test_the_loop_goes_on_while_they_wait(stage):
    """The server answers nobody before something has happened that only the loop can make happen."""
    import threading

    from fault_stage import held

    gate = threading.Event()
    url = stage.address(held(gate), dialect="tei")
    backend = made("tei", url)

    async def run() -> list[int]:
        rankings = [asyncio.ensure_future(Reranker(backend).arerank("a", ["a", "b"])) for _ in range(MANY)]
        while not stage.requests(url):
            await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_later(0.01, gate.set)
        return [len(ranking) for ranking in await asyncio.wait_for(asyncio.gather(*rankings), 60)]

    assert asyncio.run(run()) == [2] * MANY


def test_synchronous_calls_within_a_loop_work_while_the_loop_serves_nobody(stage):
    url = stage.address(dialect="tei")
    backend = made("tei", url)

    async def run() -> int:
        return len(Reranker(backend).rerank("a", ["a", "b"]))

    assert asyncio.run(run()) == 2
