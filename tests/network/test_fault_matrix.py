"""Every fault of a server × every policy × sync and async × backend: what the caller gets, and what the server saw."""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from typing import NamedTuple

import pytest
from backend_stage import BEST, DOCUMENTS, EVERY, KEY, QUERY, SDK, held_in, made, spoken, told
from fault_stage import (
    NO_INDEX,
    NONSENSE,
    Behaviour,
    FaultStage,
    Request,
    big,
    body,
    closed,
    echoing,
    good,
    gzip_bomb,
    half_a_body,
    rate_limited,
    redirect,
    reset,
    slow_body,
    slow_first_byte,
    slow_headers,
    status,
)

from rerankx import (
    AuthenticationError,
    BackendError,
    DeadlineError,
    Ranking,
    RateLimitError,
    ReplyError,
    Reranker,
)
from rerankx.catalogue.endpoints import ENDPOINTS
from rerankx.testing import FakeBackend

RETRIES, TIMEOUT_S, DEADLINE_S = 2, 0.25, 0.3
LATE_S = 2.0
"""How late a machine that is busy with all cells at once may note what came in time. Back-off without end would go on for
hours; a machine at rest is tested with the policies."""


class Fault(NamedTuple):
    behaviour: Behaviour
    error: type[BackendError]
    """What the caller gets, of exactly this type."""
    tries: int
    """How often the server is asked, where RETRIES are allowed."""
    slow: bool = False

    def seen(self, n: int, tries: int | None = None) -> bool:
        """Return whether the server should have seen n requests; a busy machine may not even connect in so short a time."""
        tries = self.tries if tries is None else tries
        return n <= tries if self.slow else n == tries


AGAIN, ONCE_MORE, NEVER = 1 + RETRIES, 2, 1

FAULTS: dict[str, Fault] = {
    "slow first byte": Fault(slow_first_byte(), DeadlineError, ONCE_MORE, slow=True),
    "slow headers": Fault(slow_headers(), DeadlineError, ONCE_MORE, slow=True),
    "slow body": Fault(slow_body(), DeadlineError, ONCE_MORE, slow=True),
    "reset": Fault(reset(), BackendError, AGAIN),
    "reset within the body": Fault(
        reset(after=b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"id"'), BackendError, AGAIN
    ),
    "closed without a byte": Fault(closed(), BackendError, AGAIN),
    "half a body": Fault(half_a_body(), BackendError, AGAIN),
    "half a chunked body": Fault(half_a_body(chunked=True), BackendError, AGAIN),
    "429": Fault(rate_limited(), RateLimitError, AGAIN),
    "429, retry at once": Fault(rate_limited("0"), RateLimitError, AGAIN),
    "429, retry in an hour": Fault(rate_limited("3600"), RateLimitError, NEVER),
    "429, retry next century": Fault(rate_limited("Fri, 31 Dec 2100 23:59:59 GMT"), RateLimitError, NEVER),
    "429, retry whenever": Fault(rate_limited("whenever you like"), RateLimitError, AGAIN),
    "503, retry in an hour": Fault(status(503, Retry_After="3600"), BackendError, NEVER),
    "HTML 502": Fault(body(b"<html>502</html>", 502, Content_Type="text/html"), BackendError, AGAIN),
    **{f"{code}": Fault(status(code), BackendError, AGAIN) for code in (408, 409, 500, 501, 503, 504, 529)},
    "500 that echoes": Fault(echoing(500), BackendError, AGAIN),
    **{f"{code}": Fault(status(code), AuthenticationError, NEVER) for code in (401, 403, 498)},
    "401 that echoes": Fault(echoing(401), AuthenticationError, NEVER),
    "402": Fault(status(402), RateLimitError, NEVER),
    **{f"{code}": Fault(status(code), BackendError, NEVER) for code in (400, 404, 405, 413, 418, 422)},
    **{f"redirect {code}": Fault(redirect(code), BackendError, NEVER) for code in (301, 302, 303, 307, 308)},
    "50 MB": Fault(big(), ReplyError, NEVER),
    "50 MB in chunks": Fault(big(chunked=True), ReplyError, NEVER),
    "gzip bomb": Fault(gzip_bomb(), ReplyError, NEVER),
    **{name: Fault(behaviour, ReplyError, NEVER) for name, behaviour in {**NONSENSE, **NO_INDEX}.items()},
}

THOROUGHLY = (SDK, "cohere", "tei", "voyage", "nim", "deepinfra", "pinecone")
BRIEFLY = (
    "slow first byte", "reset", "half a body", "429", "HTML 502", "500", "401", "422", "redirect 307", "an empty 200",
    "invalid JSON", "results elsewhere", "score NaN", "score a string", "index out of range", "index twice",
)  # fmt: skip


def faults_of(target: str) -> list[str]:
    names = FAULTS if target in THOROUGHLY else BRIEFLY
    return [name for name in names if ENDPOINTS[spoken(target)].index is not None or name not in NO_INDEX]


def policies_of(target: str, fault: str) -> list[str]:
    """Return all of them, where they can make a difference."""
    if target not in THOROUGHLY:
        return ["default", "fallback"]
    return [name for name in POLICIES if FAULTS[fault].tries > 1 or name not in ("no retries", "short deadline")]


POLICIES: dict[str, dict] = {
    "default": {},
    "no retries": {"max_retries": 0},
    "short deadline": {"max_retries": 1_000, "failure_threshold": None},
    "input order": {},
    "fallback": {},
}


class Outcome(NamedTuple):
    error: BaseException | None
    ranking: Ranking | None
    requests: list[Request]
    began: float
    url: str


def reranker_of(target: str, url: str, policy: str, fault: Fault) -> Reranker:
    options = {"timeout_s": TIMEOUT_S} if fault.slow else {}
    more: dict = {
        "short deadline": {"deadline_s": DEADLINE_S},
        "input order": {"on_error": "input_order"},
        "fallback": {"fallback": FakeBackend()},
    }.get(policy, {})
    return Reranker(made(target, url, **{"max_retries": RETRIES, **options, **POLICIES[policy]}), **more)


_AT_ONCE = 24


def _timed(fault: str, policy: str) -> bool:
    return FAULTS[fault].slow or policy == "short deadline"


class Matrix:
    """Runs all cells of one backend at once, when the first is asked for."""

    def __init__(self, stage: FaultStage) -> None:
        self._stage, self._outcomes = stage, {}

    def __call__(self, target: str) -> dict[tuple[str, str, str], Outcome]:
        if target not in self._outcomes:
            cells = [(fault, policy) for fault in faults_of(target) for policy in policies_of(target, fault)]
            outcomes = self._outcomes[target] = {}
            # What is measured by the clock is not disturbed by what takes work.
            for some in (
                [cell for cell in cells if not _timed(*cell)],
                [cell for cell in cells if _timed(*cell)],
            ):
                with ThreadPoolExecutor(_AT_ONCE) as pool:
                    sync = list(pool.map(lambda cell: self._sync(target, *cell), some))
                both = {"sync": sync, "async": asyncio.run(self._all(target, some))}
                for way, found in both.items():
                    outcomes.update({(*cell, way): outcome for cell, outcome in zip(some, found, strict=True)})
        return self._outcomes[target]

    def _sync(self, target: str, name: str, policy: str) -> Outcome:
        url, reranker = self._set_up(target, name, policy)
        began, error, ranking = time.monotonic(), None, None
        try:
            ranking = reranker.rerank(QUERY, DOCUMENTS)
        except Exception as raised:
            error = raised
        return Outcome(error, ranking, self._stage.requests(url), began, url)

    async def _all(self, target: str, cells: list[tuple[str, str]]) -> list[Outcome]:
        places = asyncio.Semaphore(_AT_ONCE)

        async def run(name: str, policy: str) -> Outcome:
            async with places:
                url, reranker = self._set_up(target, name, policy)
                began, error, ranking = time.monotonic(), None, None
                try:
                    ranking = await reranker.arerank(QUERY, DOCUMENTS)
                except Exception as raised:
                    error = raised
                return Outcome(error, ranking, self._stage.requests(url), began, url)

        return await asyncio.gather(*(run(*cell) for cell in cells))

    def _set_up(self, target: str, name: str, policy: str) -> tuple[str, Reranker]:
        url = self._stage.address(FAULTS[name].behaviour, dialect=spoken(target))
        return url, reranker_of(target, url, policy, FAULTS[name])


@pytest.fixture(scope="module")
def matrix(stage):
    return Matrix(stage)


targets = pytest.mark.parametrize("target", EVERY)
cells = pytest.mark.parametrize(("target", "name"), [(t, name) for t in EVERY for name in faults_of(t)])
WAYS = ("sync", "async")


@cells
def test_a_fault_is_raised_as_what_it_is_after_so_many_tries(matrix, target, name):
    fault, outcomes = FAULTS[name], matrix(target)
    for policy, way in product(("default", "no retries"), WAYS):
        if (outcome := outcomes.get((name, policy, way))) is not None:
            assert type(outcome.error) is fault.error, (policy, way, outcome.error or outcome.ranking)
            assert fault.seen(len(outcome.requests), 1 if policy == "no retries" else fault.tries), (policy, way)


@cells
def test_no_document_is_lost(matrix, target, name):
    fault, outcomes = FAULTS[name], matrix(target)
    expected = {
        "input order": ([0, 1, 2], "input_order", [fault.error]),
        "fallback": (BEST, "fallback", [fault.error, None]),
    }
    for (policy, (order, degraded, errors)), way in product(expected.items(), WAYS):
        if (outcome := outcomes.get((name, policy, way))) is None:
            continue
        assert outcome.error is None, (policy, way)
        assert [hit.index for hit in outcome.ranking] == order, (policy, way)
        assert outcome.ranking.documents == [DOCUMENTS[i] for i in order], (policy, way)
        assert outcome.ranking.degraded == degraded, (policy, way)
        failed = [attempt.error and attempt.error.split(":")[0] for attempt in outcome.ranking.attempts]
        assert failed == [error and error.__name__ for error in errors], (policy, way)
        assert fault.seen(len(outcome.requests)), (policy, way)


@pytest.mark.parametrize("target", THOROUGHLY)
def test_no_request_begins_after_the_deadline(matrix, stage, target):
    some = 0
    for (name, policy, way), outcome in matrix(target).items():
        if policy != "short deadline":
            continue
        assert type(outcome.error) in (FAULTS[name].error, DeadlineError), (name, way, outcome.error)
        requests = stage.requests(outcome.url)  # now, which is some time after
        some = max(some, len(requests))
        for request in requests:
            assert request.at < outcome.began + DEADLINE_S + LATE_S, (name, way)
    # A machine that is busy with all cells at once may not come to so many; with one alone, and more time, it does.
    assert some > RETRIES + 1 or any(tries_within(wait_s, stage, target) > RETRIES + 1 for wait_s in (1, 4, 16))


def tries_within(deadline_s: float, stage: FaultStage, target: str) -> int:
    url = stage.address(rate_limited("0"), dialect=spoken(target))
    reranker = Reranker(made(target, url, **POLICIES["short deadline"]), deadline_s=deadline_s)
    with pytest.raises((RateLimitError, DeadlineError)):
        reranker.rerank(QUERY, DOCUMENTS)
    return len(stage.requests(url))


@targets
def test_the_key_is_sent_and_never_shown(matrix, target):
    for cell, outcome in matrix(target).items():
        for request in outcome.requests:
            assert KEY in request.headers[ENDPOINTS[spoken(target)].auth.lower()], cell
        shown = told(outcome.error) if outcome.error else repr(outcome.ranking) + outcome.ranking.to_json()
        assert held_in(shown) is None, cell


def test_a_redirect_is_never_followed(matrix, stage):
    for target in THOROUGHLY:
        assert matrix(target)["redirect 307", "default", "async"].error is not None
    assert stage.strays == 0


@pytest.mark.parametrize("target", ["tei", SDK])
def test_a_reply_without_end_is_not_read_to_its_end(stage, target, rank):
    for behaviour in (big(size=500_000_000), big(chunked=True, size=500_000_000)):
        url = stage.address(behaviour, dialect=spoken(target))
        with pytest.raises(ReplyError):
            rank(Reranker(made(target, url)))
        # The limit, and what the system's buffers take.
        assert stage.wait_for(url, 1)[0].sent < 64 * 2**20


@pytest.mark.parametrize("target", EVERY)
def test_500_then_200_is_a_ranking_that_took_two_calls(stage, target, rank):
    url = stage.address(status(500), good(), dialect=spoken(target))
    ranking = rank(Reranker(made(target, url)))
    assert ([hit.index for hit in ranking], ranking.degraded) == (BEST, None)
    assert ranking.usage.calls == len(stage.requests(url)) == 2


@pytest.mark.parametrize("target", EVERY)
def test_a_request_holds_what_the_dialect_says_and_nothing_else(stage, target):
    """The server refuses what is not of its dialect; this is about what is too much."""
    url = stage.address(dialect=spoken(target))
    assert [hit.index for hit in Reranker(made(target, url)).rerank(QUERY, DOCUMENTS)] == BEST
    (request,), dialect = stage.requests(url), ENDPOINTS[spoken(target)]
    places = (dialect.query, dialect.documents, dialect.model, dialect.top_n)
    extra = () if target == SDK else dialect.extra
    assert set(request.body) == {place.split(".")[0] for place in places if place} | set(extra)
    assert {name: request.body[name] for name in extra} == dict(extra)
    assert request.headers[dialect.auth.lower()] == f"{dialect.auth_scheme} {KEY}".strip()
    assert {name: request.headers[name.lower()] for name in dialect.headers} == dict(dialect.headers)
