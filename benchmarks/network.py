"""What the network backends add to a request, and how an event loop fares under many.

    python benchmarks/network.py [--rounds 300] [--concurrent 200] [--server-ms 50]

A server on loopback, in a process of its own, answers at once or after a delay. Each figure of the first table is over the same
request sent bare, by httpx or by Cohere's SDK, with its reply read: the two take turns. 50 documents of 100 words.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import httpx

from rerankx import Reranker

SERVER = r"""
import asyncio, json

open_now = peak = 0

async def serve(reader, writer):
    global open_now, peak
    open_now += 1
    peak = max(peak, open_now)
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            path = head.split()[1]
            sizes = [line.split(":")[1] for line in head.lower().splitlines() if line.startswith("content-length:")]
            body = json.loads(await reader.readexactly(int(sizes[0])) if sizes else "{}")
            if path == "/peak":
                reply, peak = {"peak": peak}, open_now
            else:
                await asyncio.sleep(float(path.split("/")[1]) / 1000)
                n = len(body["documents"])
                reply = {"results": [{"index": i, "relevance_score": 1 - i / n} for i in range(n)]}
            content = json.dumps(reply).encode()
            head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(content)
            writer.write(head + content)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        open_now -= 1
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""

QUERY = "how long does a refund take"
TEXTS = [f"{i} " + "the refund is paid to the card within five working days " * 9 for i in range(50)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--concurrent", type=int, default=200)
    parser.add_argument("--server-ms", type=float, default=50)
    args = parser.parse_args()
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{int(server.stdout.readline())}"  # type: ignore[union-attr]
        print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
        print("| 50 documents | bare, ms | with rerankx, ms | added, ms |\n|---|---|---|---|")
        sync_overhead(f"{address}/0", args.rounds)
        asyncio.run(async_overhead(f"{address}/0", args.rounds))
        asyncio.run(load(address, args.server_ms, args.concurrent))
    finally:
        server.terminate()
        server.wait()


def sync_overhead(address: str, rounds: int) -> None:
    reranker = Reranker("http:model", base_url=address)
    body = {"model": "model", "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)}
    with httpx.Client() as client:
        row(
            "`rerank`, over httpx.Client",
            in_turn(
                lambda: client.post(f"{address}/v2/rerank", json=body).raise_for_status().json(),
                lambda: reranker.rerank(QUERY, TEXTS),
                rounds,
            ),
        )
    reranker.backend.close()


async def async_overhead(address: str, rounds: int) -> None:
    from cohere import AsyncClientV2

    body = {"model": "model", "query": QUERY, "documents": TEXTS, "top_n": len(TEXTS)}
    async with httpx.AsyncClient() as client:
        reranker = Reranker("http:model", base_url=address)

        async def bare() -> object:
            return (await client.post(f"{address}/v2/rerank", json=body)).raise_for_status().json()

        row("`arerank`, over httpx.AsyncClient", await ain_turn(bare, lambda: reranker.arerank(QUERY, TEXTS), rounds))
        sdk = AsyncClientV2("key", base_url=address, httpx_client=client)
        reranker = Reranker("cohere:model", base_url=address, api_key="key")
        row(
            "`arerank` with `cohere`, over its SDK",
            await ain_turn(
                lambda: sdk.rerank(model="model", query=QUERY, documents=TEXTS, top_n=len(TEXTS)),
                lambda: reranker.arerank(QUERY, TEXTS),
                rounds,
            ),
        )


async def load(address: str, server_ms: float, concurrent: int) -> None:
    """Print how long so many rerankings at once take, over how many connections, and how late a task that wants 1 ms wakes."""
    for max_concurrency in (8, 32):
        reranker = Reranker("http:model", base_url=f"{address}/{server_ms}", max_concurrency=max_concurrency)
        await reranker.arerank(QUERY, TEXTS)
        async with httpx.AsyncClient() as client:
            await client.get(f"{address}/peak")
        late: list[float] = []
        ticker = asyncio.create_task(tick(late))
        start = time.perf_counter()
        rankings = await asyncio.gather(*(reranker.arerank(f"{QUERY} {i}", TEXTS) for i in range(concurrent)))
        took = time.perf_counter() - start
        ticker.cancel()
        async with httpx.AsyncClient() as client:
            peak = (await client.get(f"{address}/peak")).json()["peak"] - 1  # this one
        lost = sum(len(ranking) != len(TEXTS) or None in [hit.raw_score for hit in ranking] for ranking in rankings)
        least = -(-concurrent // max_concurrency) * server_ms / 1000
        late.sort()
        print(
            f"\n{concurrent} at once, server {server_ms:g} ms, max_concurrency={max_concurrency}: {took:.2f} s (no less than"
            f" {least:.2f}), {peak} connections, {lost} incomplete; the loop was late by {statistics.median(late):.1f} ms"
            f" (median), {late[int(len(late) * 0.99)]:.1f} ms (99th percentile), {late[-1]:.1f} ms (most)"
        )
        await reranker.backend.aclose()


async def tick(late: list[float]) -> None:
    while True:
        start = time.perf_counter()
        await asyncio.sleep(0.001)
        late.append((time.perf_counter() - start - 0.001) * 1000)


def in_turn(one: Callable[[], object], other: Callable[[], object], rounds: int) -> list[tuple[float, float]]:
    times = [(timed(one), timed(other)) for _ in range(rounds + 20)]
    return times[20:]  # without the first connections


async def ain_turn(
    one: Callable[[], Awaitable[object]], other: Callable[[], Awaitable[object]], rounds: int
) -> list[tuple[float, float]]:
    times = [(await atimed(one), await atimed(other)) for _ in range(rounds + 20)]
    return times[20:]


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1000


async def atimed(call: Callable[[], Awaitable[object]]) -> float:
    start = time.perf_counter()
    await call()
    return (time.perf_counter() - start) * 1000


def row(what: str, times: list[tuple[float, float]]) -> None:
    bare, ours = (statistics.median(column) for column in zip(*times, strict=True))
    added = statistics.median(other - one for one, other in times)
    print(f"| {what} | {bare:.2f} | {ours:.2f} | {added:.2f} |", flush=True)


if __name__ == "__main__":
    main()
