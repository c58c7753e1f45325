"""A server on loopback that answers `POST /v2/rerank` as Cohere does, for tests with the real client."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple


class Request(NamedTuple):
    """What the server was asked."""

    path: str
    headers: dict[str, str]
    body: dict


class CohereStage:
    """A context manager: serves while it is entered; `requests` lists what it was asked.

        with CohereStage() as stage:
            client = cohere.ClientV2("key", base_url=stage.answering([0.1, 0.9]))

    Every client has its own address, which says what it is answered, so one stage serves many.
    """

    def __init__(self):
        self.requests: list[Request] = []
        self._answers: list[tuple[int, list[float]]] = []

    def __enter__(self):
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.stage = self
        # The server looks for the end of its days this often; the default makes every stage half a second longer.
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        return self

    def __exit__(self, *_error):
        self._server.shutdown()
        self._server.server_close()  # waits for the threads of its requests
        self._thread.join()

    def answering(self, scores):
        """Return a base URL whose documents have these scores, one each in the order in which they are sent.

        As Cohere does, it sends the results best first and no more than `top_n`; ties in the order of the documents. Fewer or
        more scores than documents, NaN and infinity are sent as they are.
        """
        return self._address(200, list(scores))

    def refusing(self, status=400):
        """Return a base URL that answers every request with that HTTP status; the client does not repeat a 400."""
        return self._address(status, [])

    def _address(self, status, scores):
        self._answers.append((status, scores))
        return f"http://127.0.0.1:{self._server.server_port}/{len(self._answers) - 1}"

    def answer(self, request):
        """Return HTTP status and body."""
        number, _, path = request.path.lstrip("/").partition("/")
        if path != "v2/rerank":
            return 404, {"message": f"no such path: {path}"}
        status, scores = self._answers[int(number)]
        if status != 200:
            return status, {"message": "refused"}
        top_n = request.body.get("top_n")
        if top_n is not None and top_n < 1:
            return 400, {"message": "top_n must be at least 1"}
        order = sorted(range(len(scores)), key=lambda i: -scores[i])[:top_n]
        results = [{"index": i, "relevance_score": scores[i]} for i in order]
        return 200, {"id": "stage", "results": results, "meta": {"billed_units": {"search_units": 1}}}


class _Server(ThreadingHTTPServer):
    daemon_threads = False  # so that closing waits for them
    request_queue_size = 128
    stage: CohereStage


class _Handler(BaseHTTPRequestHandler):
    """HTTP/1.0: one request per connection, so that nothing stays open for a client which is never closed."""

    timeout = 60

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        request = Request(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
        self.server.stage.requests.append(request)
        status, answer = self.server.stage.answer(request)
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_words):
        pass
