"""A server on loopback that answers as any rerank service does, from its `Dialect` alone, and fails in every way there is."""

import asyncio
import email.utils
import gzip
import json
import math
import re
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from rerankx.catalogue.endpoints import ENDPOINTS, Dialect

BIG = 50_000_000
_PAGE = b" " * 65_536
_TOO_BIG_A_NUMBER = "one followed by 999 noughts"


def overlap(query: str, texts: list[str]) -> list[float]:
    """Return the share of the query's words in each text, in [0, 1]."""
    words = set(re.findall(r"\w+", query.lower()))
    return [len(words & set(re.findall(r"\w+", text.lower()))) / max(1, len(words)) for text in texts]


@dataclass
class Request:
    """What the server was asked, and how far the answer got."""

    at: float
    """Monotonic time of the first byte."""
    target: str
    """As on the request line: a path, or through a proxy an address."""
    path: str
    """Below the base URL."""
    headers: dict[str, str]
    body: dict
    connection: int
    """Which connection it came on, counted over the whole stage."""
    sent: int = 0
    """Bytes of the answer's body."""
    hung_up: bool = False
    """Whether the client closed the connection while it was being answered."""
    done: bool = False


@dataclass
class _Address:
    """What is known of one base URL."""

    script: list["Behaviour"]
    dialect: Dialect
    scorer: Callable[[str, list[str]], list[float]]
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    connections_peak: int = 0
    answering: int = 0
    answering_peak: int = 0


class Exchange:
    """One request and the means to answer it."""

    def __init__(self, stage, address, request, reader, writer):
        self.stage, self.dialect, self.request = stage, address.dialect, request
        self._scorer, self._reader, self._writer = address.scorer, reader, writer
        self.over = False
        """Whether the connection is of no more use."""

    @property
    def query(self) -> str:
        query = taken(self.request.body, self.dialect.query)
        return query[0] if self.dialect.repeat_query else query

    @property
    def texts(self) -> list[str]:
        wrap = self.dialect.document
        return [d if wrap is None else d[wrap] for d in taken(self.request.body, self.dialect.documents)]

    def reply(self, change=None) -> object:
        """Return what a service of this dialect answers: results best first, or in order where they have no index.

        `change` is given the list of results and returns what is sent in its place.
        """
        d, scores = self.dialect, self._scorer(self.query, self.texts)
        if d.index is None:
            order = list(range(len(scores)))
        else:
            order = sorted(range(len(scores)), key=lambda i: -scores[i])
            order = order[: d.top_n and taken(self.request.body, d.top_n)]
        results: object = [_result(d, i, scores[i]) for i in order]
        if change is not None:
            results = change(results)
        if not d.results:
            return results
        reply: dict = {"id": "stage"}
        put(reply, d.results, results)
        if d.tokens is not None:
            put(reply, d.tokens, 11)
        if d.units is not None:
            put(reply, d.units, 1)
        return reply

    async def send(self, status: int, body: bytes, **headers: str) -> None:
        await self.head(status, **{"Content_Type": "application/json", "Content_Length": str(len(body)), **headers})
        await self.write(body)

    async def send_json(self, value: object, status: int = 200, **headers: str) -> None:
        text = json.dumps(value).replace(json.dumps(_TOO_BIG_A_NUMBER), "1e999")
        await self.send(status, text.encode(), **headers)

    async def head(self, status: int, reason: str = "Some Reason", **headers: str) -> None:
        lines = [f"HTTP/1.1 {status} {reason}", *(f"{name.replace('_', '-')}: {v}" for name, v in headers.items())]
        self._writer.write("\r\n".join([*lines, "", ""]).encode())
        await self._writer.drain()

    async def write(self, part: bytes) -> None:
        self._writer.write(part)
        self.request.sent += len(part)
        await self._writer.drain()

    async def hangs_up(self, *, within: float, unless: threading.Event | None = None) -> bool:
        """Return whether the client hangs up before that many seconds are over, or the event is set."""
        reading = asyncio.ensure_future(self._reader.read(1))
        end = time.monotonic() + within
        try:
            while time.monotonic() < end and not (unless is not None and unless.is_set()):
                await asyncio.wait([reading], timeout=0.005 if unless is not None else end - time.monotonic())
                if reading.done():  # nobody sends the next request before this one is answered
                    self.request.hung_up = self.over = True
                    return True
            return False
        finally:
            reading.cancel()
            await asyncio.wait([reading])  # a stream has one reader at a time

    def close(self) -> None:
        self.over = True

    def reset(self) -> None:
        """Close with a RST instead of a FIN."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()
        self.over = True


Behaviour = Callable[[Exchange], Awaitable[None]]


class FaultStage:
    """A context manager: serves while it is entered.

        with FaultStage() as stage:
            url = stage.address(status(500), good(), dialect="tei")
            ...
            assert len(stage.requests(url)) == 2

    Every address has its own script: the first request is answered by the first behaviour, and so on; the last one goes
    on for ever. `elsewhere` is the address of another listener, `strays` the connections that it had.
    """

    def __init__(self):
        self._addresses: list[_Address] = []
        self._connections = 0
        self._tasks: set[asyncio.Task] = set()
        self.strays = 0

    def __enter__(self):
        ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve(ready)), name="fault-stage")
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(self, *_error):
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(30)
        assert not self._thread.is_alive()

    def address(self, *script: Behaviour, dialect: str | Dialect = "cohere", scorer=overlap) -> str:
        """Return a base URL that behaves so; `scorer(query, texts)` returns the scores, a list stands for itself."""
        if not callable(scorer):
            scores = list(scorer)
            scorer = lambda _query, texts: scores[: len(texts)]  # noqa: E731
        spoken = ENDPOINTS[dialect] if isinstance(dialect, str) else dialect
        self._addresses.append(_Address(list(script) or [good()], spoken, scorer))
        return f"{self.origin}/{len(self._addresses) - 1}"

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def requests(self, url: str) -> list[Request]:
        return list(self._at(url).requests)

    def connections_peak(self, url: str) -> int:
        """Return the most connections that were open at a time on which this address had been asked."""
        return self._at(url).connections_peak

    def connections_open(self, url: str) -> int:
        return self._at(url).connections

    def answering_peak(self, url: str) -> int:
        """Return the most requests that were being answered at a time."""
        return self._at(url).answering_peak

    def wait_for(self, url: str, n: int) -> list[Request]:
        """Return the requests as soon as there are n of them."""
        wait_until(lambda: len(self._at(url).requests) >= n, f"{n} requests; there are {len(self.requests(url))}")
        return self.requests(url)

    def _at(self, url: str) -> _Address:
        return self._addresses[int(re.search(r"/(\d+)(/|\?|$)", re.sub(r"^\w+://[^/]*", "", url))[1])]

    async def _serve(self, ready: threading.Event) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=512)
        other = await asyncio.start_server(self._stray, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self.elsewhere = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        ready.set()
        await self._end.wait()
        server.close()
        other.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stray(self, reader, writer) -> None:
        self.strays += 1
        writer.close()

    async def _connection(self, reader, writer) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        self._connections += 1
        number, address = self._connections, None
        try:
            while True:
                address, exchange = await self._read(reader, writer, number, address)
                await self._answer(address, exchange)
                if exchange.over:
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass  # the client has closed it, or the stage is
        finally:
            self._tasks.discard(task)
            if address is not None:
                address.connections -= 1
            writer.close()

    async def _read(self, reader, writer, number, address) -> tuple[_Address, Exchange]:
        first = await reader.readexactly(1)
        at = time.monotonic()
        head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (f.partition(":") for f in fields)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        target = line.split(" ")[1]
        path = re.sub(r"^\w+://[^/]*", "", target).lstrip("/")
        place, _, path = path.partition("/")
        if address is None:
            address = self._addresses[int(place)]
            address.connections += 1
            address.connections_peak = max(address.connections_peak, address.connections)
        request = Request(at, target, "/" + path, headers, json.loads(body or b"null"), number)
        return address, Exchange(self, self._addresses[int(place)], request, reader, writer)

    async def _answer(self, address: _Address, exchange: Exchange) -> None:
        script, request = address.script, exchange.request
        behaviour = script[min(len(address.requests), len(script) - 1)]
        address.requests.append(request)
        address.answering += 1
        address.answering_peak = max(address.answering_peak, address.answering)
        try:
            wrong = wrong_in(request, exchange.dialect)
            if wrong:
                await exchange.send_json({"message": f"no request of this dialect: {wrong}"}, 400)
            else:
                await behaviour(exchange)
        except ConnectionError:
            request.hung_up = True
            raise
        finally:
            address.answering -= 1
            request.done = True


def wait_until(condition: Callable[[], object], what: str = "what was waited for", seconds: float = 30) -> None:
    """Return when the condition holds; it is an error if it never does."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(0.002)


def taken(body: object, place: str) -> object:
    """Return what lies at a place; dots go down, "" is all of it."""
    for name in place.split(".") if place else ():
        body = body[name]
    return body


def put(body: dict, place: str, value: object) -> None:
    *above, last = place.split(".")
    for name in above:
        body = body.setdefault(name, {})
    body[last] = value


def wrong_in(request: Request, dialect: Dialect) -> str | None:
    """Return what a service of this dialect would not understand."""
    d, body = dialect, request.body
    if not re.fullmatch(re.escape(d.path).replace(r"\{model\}", ".+"), request.path.partition("?")[0]):
        return f"path {request.path}"
    try:
        query, documents = taken(body, d.query), taken(body, d.documents)
        if d.model is not None and not (isinstance(taken(body, d.model), str) and taken(body, d.model)):
            return "model"
        top_n = None if d.top_n is None else taken(body, d.top_n)
    except (KeyError, TypeError) as error:
        return f"no {error}"
    if not (isinstance(documents, list) and documents):
        return "documents"
    if d.max_documents is not None and len(documents) > d.max_documents:
        return f"{len(documents)} documents"
    if not all(isinstance(x, str) if d.document is None else isinstance(x.get(d.document), str) for x in documents):
        return "a document"
    if not (query == [query[0]] * len(documents) if d.repeat_query else isinstance(query, str)):
        return "query"
    if d.top_n is not None and (type(top_n) is not int or top_n < 1):
        return "top_n"
    return None


def _result(dialect: Dialect, index: int, score: float) -> object:
    if not dialect.score:
        return score
    result: dict = {}
    if dialect.index is not None:
        put(result, dialect.index, index)
    put(result, dialect.score, score)
    return result


# What an address does with a request. `good` is the only one that is none of a fault.


def good(delay_s: float = 0) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        if not (delay_s and await exchange.hangs_up(within=delay_s)):
            await exchange.send_json(exchange.reply())

    return behave


def held(gate: threading.Event, then: Behaviour | None = None) -> Behaviour:
    """Answer when the gate is opened."""

    async def behave(exchange: Exchange) -> None:
        if not await exchange.hangs_up(within=60, unless=gate):
            await (then or good())(exchange)

    return behave


def shuffled(order: Callable[[int], Iterable[int]]) -> Behaviour:
    """Send the results in the order of `order(n)`, indices of documents; those that are not in it are left out."""

    async def behave(exchange: Exchange) -> None:
        d, scores = exchange.dialect, exchange._scorer(exchange.query, exchange.texts)
        results = [_result(d, i, scores[i]) for i in order(len(scores))]
        await exchange.send_json(exchange.reply(lambda _: results))

    return behave


def altered(change: Callable[[list, Dialect], object]) -> Behaviour:
    """Send what `change` makes of the list of results."""

    async def behave(exchange: Exchange) -> None:
        await exchange.send_json(exchange.reply(lambda results: change(results, exchange.dialect)))

    return behave


def score_of_first(value: object) -> Behaviour:
    def change(results: list, d: Dialect) -> list:
        if not d.score:
            return [value, *results[1:]]
        put(results[0], d.score, value)
        return results

    return altered(change)


def index_of_first(value: object) -> Behaviour:
    def change(results: list, d: Dialect) -> list:
        put(results[0], d.index, value)
        return results

    return altered(change)


def body(content: bytes | Callable[[Exchange], bytes], code: int = 200, **headers: str) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(code, content(exchange) if callable(content) else content, **headers)

    return behave


def status(code: int, message: str = "the server says no", **headers: str) -> Behaviour:
    return body(json.dumps({"message": message, "error": {"code": code, "message": message}}).encode(), code, **headers)


def slow_first_byte(seconds: float = 60) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        if not await exchange.hangs_up(within=seconds):
            exchange.close()

    return behave


def slow_headers(seconds: float = 60) -> Behaviour:
    """One byte of a header at a time, so that no wait for a byte is ever long."""

    async def behave(exchange: Exchange) -> None:
        exchange._writer.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        for _ in range(int(seconds / 0.01)):
            exchange._writer.write(b"z")
            await exchange._writer.drain()
            if await exchange.hangs_up(within=0.01):
                return
        exchange.close()

    return behave


def slow_body(seconds: float = 60) -> Behaviour:
    """One byte at a time of a reply that would be right."""

    async def behave(exchange: Exchange) -> None:
        content = json.dumps(exchange.reply()).encode()
        blanks = int(seconds / 0.01)
        await exchange.head(200, Content_Type="application/json", Content_Length=str(blanks + len(content)))
        for _ in range(blanks):
            await exchange.write(b" ")
            if await exchange.hangs_up(within=0.01):
                return
        await exchange.write(content)

    return behave


def reset(*, after: bytes = b"") -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        if after:
            await exchange.write(after)
            await asyncio.sleep(0.01)  # a RST overtakes what was sent before it
        exchange.reset()

    return behave


def closed() -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        exchange.close()

    return behave


def half_a_body(*, chunked: bool = False) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        content = json.dumps(exchange.reply()).encode()
        half = content[: len(content) // 2]
        if chunked:
            await exchange.head(200, Content_Type="application/json", Transfer_Encoding="chunked")
            await exchange.write(b"%x\r\n%s\r\n" % (len(half), half))
        else:
            await exchange.head(200, Content_Type="application/json", Content_Length=str(len(content)))
            await exchange.write(half)
        exchange.close()

    return behave


def big(*, chunked: bool = False, size: int = BIG) -> Behaviour:
    """A reply that would be right, if it were not for so many blanks before it."""

    async def behave(exchange: Exchange) -> None:
        content = json.dumps(exchange.reply()).encode()
        pages = size // len(_PAGE)
        if chunked:
            await exchange.head(200, Content_Type="application/json", Transfer_Encoding="chunked")
        else:
            length = pages * len(_PAGE) + len(content)
            await exchange.head(200, Content_Type="application/json", Content_Length=str(length))
        for part in (*[_PAGE] * pages, content, *[b""] * chunked):
            await exchange.write(b"%x\r\n%s\r\n" % (len(part), part) if chunked else part)

    return behave


def gzip_bomb(size: int = 4 * BIG) -> Behaviour:
    blanks = gzip.compress(b" " * size, 1)

    async def behave(exchange: Exchange) -> None:
        content = blanks + gzip.compress(json.dumps(exchange.reply()).encode())  # members follow each other
        await exchange.send(200, content, Content_Encoding="gzip")

    return behave


def redirect(code: int = 307) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        await exchange.send(code, b"", Location=f"{exchange.stage.elsewhere}/0{exchange.request.path}")

    return behave


def http_date(seconds_from_now: float) -> str:
    # Whole seconds, as the format has it: rounded up, so that a wait is never shorter.
    return email.utils.formatdate(math.ceil(time.time() + seconds_from_now), usegmt=True)


def rate_limited(retry_after: str | Callable[[], str] | None = None) -> Behaviour:
    async def behave(exchange: Exchange) -> None:
        after = retry_after() if callable(retry_after) else retry_after
        headers = {} if after is None else {"Retry_After": after}
        await exchange.send(429, b'{"message": "slow down"}', **headers)

    return behave


def _everything(exchange: Exchange) -> str:
    """All that a client would not like to read in a log, first plain and then as it came."""
    secrets = [v for name, v in exchange.request.headers.items() if name not in ("accept", "content-length", "host")]
    bare = [secret.removeprefix("Bearer ") for secret in secrets]
    came = [json.dumps(exchange.request.body), str(exchange.request.headers), exchange.request.target]
    return " ".join([*bare, *secrets, exchange.query, *exchange.texts, *came])


def echoing(code: int) -> Behaviour:
    """An error whose body repeats headers, query and documents."""
    return body(lambda exchange: json.dumps({"message": _everything(exchange)}).encode(), code)


def echoing_late(code: int) -> Behaviour:
    """The same, after so many letters that what is cut short is cut within the key."""

    def content(exchange: Exchange) -> bytes:
        auth = exchange.request.headers.get(exchange.dialect.auth.lower(), "")
        return ("".join("n" * (n - 12) + " " + auth + " " for n in (200,))).encode()

    return body(content, code, Content_Type="text/plain")


def echoing_place(where: str) -> Behaviour:
    """An answer with all of it in a place that a message may quote: reason, location, index, score, key, status line."""

    async def behave(exchange: Exchange) -> None:
        everything = _everything(exchange)
        latin = re.sub(r"[^ -~]", "?", everything)
        match where:
            case "reason":
                await exchange.head(400, latin, Content_Length="0")
            case "location":
                await exchange.send(302, b"", Location="http://127.0.0.1:9/" + latin.replace(" ", "+"))
            case "retry-after":
                await exchange.send(429, b"", Retry_After=latin)
            case "status line":
                await exchange.write(f"{latin}\r\n\r\n".encode())
                exchange.close()
            case "header line":
                await exchange.write(f"HTTP/1.1 200 OK\r\n{latin}\r\n\r\n".encode())
                exchange.close()
            case "encoding":
                await exchange.send(200, everything.encode(), Content_Encoding="gzip")
            case "no json":
                await exchange.send(200, everything.encode())
            case "field":
                await exchange.send_json({everything: everything})
            case "results":
                await exchange.send_json(exchange.reply(lambda _: everything))
            case "result":
                await exchange.send_json(exchange.reply(lambda results: [everything, *results[1:]]))
            case "score":
                await score_of_first(everything)(exchange)
            case "index":
                await (index_of_first if exchange.dialect.index else score_of_first)(everything)(exchange)
            case _:
                raise ValueError(where)

    return behave


PLACES = (
    "reason", "location", "retry-after", "status line", "header line", "encoding", "no json", "field", "results",
    "result", "score", "index",
)  # fmt: skip


def _duplicate(results: list, d: Dialect) -> list:
    return [results[0], *results]


def _nothing_but_data(exchange: Exchange) -> bytes:
    return json.dumps({"elsewhere": exchange.reply()}).encode()


NONSENSE: dict[str, Behaviour] = {
    "an empty 200": body(b""),
    "an HTML 200": body(b"<html><body>Sign in to the network</body></html>", Content_Type="text/html"),
    "JSON cut short by the server": body(lambda e: json.dumps(e.reply()).encode()[:-2]),
    "invalid JSON": body(b"{'results': nope}"),
    "invalid UTF-8": body(b'{"results": "\xff\xfe\xfa"}'),
    "JSON nested without end": body(b"[" * 200_000),
    "a number of 5,000 digits": body(lambda e: json.dumps(e.reply(lambda _: [0])).replace("0", "9" * 5000).encode()),
    "gzip that is none": body(b"no gzip at all", Content_Encoding="gzip"),
    "null": body(b"null"),
    "a number": body(b"7"),
    "a string": body(b'"results"'),
    "results elsewhere": body(_nothing_but_data),
    "results null": altered(lambda _results, _d: None),
    "results a mapping": altered(lambda _results, _d: {"0": 0.5}),
    "results a string": altered(lambda _results, _d: "0.5"),
    "results of strings": altered(lambda results, _d: ["0.5" for _ in results]),
    "results of nulls": altered(lambda results, _d: [None for _ in results]),
    "results of lists": altered(lambda results, _d: [[0, 0.5] for _ in results]),
    "score NaN": score_of_first(math.nan),
    "score Infinity": score_of_first(math.inf),
    "score -Infinity": score_of_first(-math.inf),
    "score 1e999": score_of_first(_TOO_BIG_A_NUMBER),
    "score an integer beyond floats": score_of_first(10**400),
    "score a string": score_of_first("0.5"),
    "score null": score_of_first(None),
    "score true": score_of_first(True),
    "score a list": score_of_first([0.5]),
    "one result too many": altered(lambda results, _d: [*results, results[-1]]),
}
"""Replies with status 200 that are no scoring of the texts, in every dialect."""

NO_INDEX: dict[str, Behaviour] = {
    "index out of range": index_of_first(99),
    "index one too high": altered(lambda results, d: [{**r, d.index: r[d.index] + 1} for r in results]),
    "index negative": index_of_first(-1),
    "index twice": altered(_duplicate),
    "index missing": altered(lambda results, d: [{k: v for k, v in r.items() if k != d.index} for r in results]),
    "index null": index_of_first(None),
    "index a string": index_of_first("0"),
    "index a float": index_of_first(0.5),
    "index true": index_of_first(True),
    "score missing": altered(lambda results, d: [{d.index: r[d.index]} for r in results]),
}
"""The same, in dialects whose results say which document they are about."""
