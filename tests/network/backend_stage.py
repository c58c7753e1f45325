"""The network backends under test, all made in one way."""

import asyncio
import os
import traceback

from rerankx import Reranker
from rerankx.catalogue.endpoints import ENDPOINTS
from rerankx.interface import Backend

KEY = "sk-kanarienvogel-4711-wellensittich-0815"
SDK = "cohere SDK"
EVERY = (SDK, *ENDPOINTS)
QUERY = "how long does a refund take"
DOCUMENTS = ["The museum opens on Sundays.", "A refund takes a week.", "How long does it take, a refund?"]
BEST = [2, 1, 0]

KEYS = {"CO_API_KEY", "COHERE_API_KEY", "CO_API_URL", *(name for d in ENDPOINTS.values() for name in d.key_variables)}
PROXIES = {f"{kind}_proxy" for kind in ("http", "https", "all", "no")}


MADE: list[Backend] = []
"""Those that are closed after the test."""


def made(target: str, url: str, **options) -> Backend:
    """Return the backend for a dialect, or the one on Cohere's SDK; with a key, unless `options` hold another."""
    options = {"api_key": KEY, "base_url": url, **options}
    if target == SDK:
        from rerankx.backends.cohere import Cohere

        backend: Backend = Cohere(**options)
    else:
        from rerankx.backends.http import Http

        backend = Http(**{"model": "some/model", "dialect": target, **options})
    MADE.append(backend)
    return backend


def spoken(target: str) -> str:
    """Return the dialect in which the server has to answer."""
    return "cohere" if target == SDK else target


def sync(reranker: Reranker, query: str = QUERY, documents=tuple(DOCUMENTS), **options):
    return reranker.rerank(query, documents, **options)


def in_a_loop(reranker: Reranker, query: str = QUERY, documents=tuple(DOCUMENTS), **options):
    return asyncio.run(reranker.arerank(query, documents, **options))


WAYS = {"sync": sync, "async": in_a_loop}


def alone(monkeypatch) -> None:
    """Forget the keys and proxies of whoever runs the tests, and do not wait long between two tries."""
    from rerankx.network import policy

    for name in os.environ:
        if name in KEYS or name.lower() in PROXIES:
            monkeypatch.delenv(name)
    monkeypatch.setattr(policy, "BACKOFF_S", 0.01)


def told(error: BaseException) -> str:
    """Return all that anybody may print of an error."""
    chain, seen = [error], []
    while chain:
        one = chain.pop()
        if one is None or one in seen:
            continue
        seen.append(one)
        chain += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
    shown = [f"{one!s} {one!r} {one.args!r} {getattr(one, 'attempts', '')!r}" for one in seen]
    return " ".join([*traceback.format_exception(error), *shown])


def pieces(secret: str, size: int = 10) -> set[str]:
    """Return every run of that many letters of a secret: that much of it is too much."""
    return {secret[i : i + size] for i in range(len(secret) - size + 1)}


def held_in(text: str, secret: str = KEY) -> str | None:
    """Return the piece of the secret that the text holds, with what stands around it."""
    for piece in pieces(secret):
        if piece in text:
            place = text.index(piece)
            return text[max(0, place - 60) : place + 60]
    return None
