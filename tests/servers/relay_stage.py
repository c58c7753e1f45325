"""A relay in front of a server: what was asked and answered is kept, and headers may be put in or taken out on the way."""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import urlsplit

_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server", "host"}


class Exchange(NamedTuple):
    """One request and its answer; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: dict
    status: int
    reply: object
    """What JSON it holds; None if it is none."""


class Relay:
    """A context manager; `address` is where to ask, `exchanges` what has gone through, oldest first.

        with Relay("http://127.0.0.1:4010", add={"Prefer": "code=429"}) as relay:
            Reranker("http", dialect="cohere", base_url=relay.address, ...)

    `add` are headers that the server gets besides those that came, with the first `times` requests or with all; `drop` those
    that it does not get.
    """

    def __init__(
        self, to: str, *, add: Mapping[str, str] | None = None, times: float = math.inf, drop: Sequence[str] = ()
    ):
        self.exchanges: list[Exchange] = []
        self.times = times
        self.to, self.add, self.drop = urlsplit(to), add or {}, {*_HOP, *(name.lower() for name in drop)}

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.relay = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        return self

    def __exit__(self, *_error):
        self._server.shutdown()
        self._server.server_close()  # waits for the threads of its requests
        self._thread.join()

    def pass_on(self, path: str, headers: Mapping[str, str], content: bytes) -> tuple[int, dict[str, str], bytes]:
        upstream = HTTPConnection(self.to.hostname, self.to.port, timeout=60)
        try:
            sent = {name: value for name, value in headers.items() if name.lower() not in self.drop}
            added = self.add if len(self.exchanges) < self.times else {}
            upstream.request("POST", self.to.path + path, content, {**sent, **added})
            answer = upstream.getresponse()
            body = answer.read()
        finally:
            upstream.close()
        try:
            reply = json.loads(body)
        except ValueError:
            reply = None
        asked = {name.lower(): value for name, value in headers.items()}
        self.exchanges.append(Exchange(path, asked, json.loads(content), answer.status, reply))
        return answer.status, {name: value for name, value in answer.getheaders() if name.lower() not in _HOP}, body


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128
    relay: Relay


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one request per connection, so that nothing stays open for a client which is never closed."""

    timeout = 60

    def do_POST(self):
        content = self.rfile.read(int(self.headers["Content-Length"]))
        status, headers, body = self.server.relay.pass_on(self.path, self.headers, content)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words):
        pass
