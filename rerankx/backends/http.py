"""`Http`: any service that scores texts over HTTP, by a `Dialect` that says how."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Literal, cast
from urllib.parse import quote

import httpx

from rerankx.catalogue.endpoints import ENDPOINTS, LISTWISE, Dialect
from rerankx.errors import did_you_mean
from rerankx.interface import Scale
from rerankx.network.client import PerLoop, checked_base_url, http_client, joined, tls
from rerankx.network.faults import Quoted, nonsense, of_exception, of_status
from rerankx.network.remote import Answer, Remote, checked_results
from rerankx.network.service import checked_extra, checked_headers, find_key, told_amount, whole

_SCALES = MappingProxyType({"logit": Scale.LOGIT, "probability": Scale.PROBABILITY, "unknown": Scale.UNKNOWN})
_AS_SERVED = "as-served"
# What of a dialect changes a score; the path is in the address.
_SCORING = ("query", "repeat_query", "documents", "document", "model", "top_n", "results", "index", "score")


class Http(Remote):
    """Scores by a service that is asked over HTTP.

        Reranker("voyage:rerank-2.5")
        Reranker("tei", base_url="http://tei.internal:8080")
        Reranker("http", base_url="https://mine", dialect={"path": "/rank", "documents": "texts", "score": "score"})

    The names of the presets are backends themselves; `rerankx backends` lists them. What a dialect is: `Dialect` in
    `rerankx.catalogue.endpoints`. Redirects are not followed, certificates are verified, proxies are taken from the environment.

    Args:
        model: The model, as the service names it; for a server of one model it is only a name.
        dialect: A preset's name, a `Dialect`, or a mapping of its fields.
        base_url: The service's address; None is the preset's.
        api_key: The key; None reads the preset's environment variable.
        scale: What the scores are, where you know better than the preset: "logit", "probability", "unknown" or a `Scale`.
        pointwise: Whether a text's score ignores the other texts; None is yes, but for models that are known to compare them.
        headers: More headers. They may hold secrets: they are in no message, and what has them does not pickle.
        extra: More fields of the request's body.
        max_documents: How many texts go into one request; None is the preset's limit. More are sent in several, at once.
        timeout_s: Seconds for one request, to its last byte.
        deadline_s: Seconds for one ranking, with all tries and waits; None = no bound.
        max_retries: Tries after the first: of 408, 409, 429, 5xx and broken connections, and once of what took too long.
        requests_per_minute: Sent in any 60 seconds, by all backends of this process with the same address, key and limit; None =
            no limit. Others wait for their turn, or raise `RateLimitError` where that would be beyond the deadline.
        max_concurrency: Requests under way at a time, over all threads and event loops.
        failure_threshold: Faults of the service in a row after which nothing is sent for a while; None = never.
        recovery_s: Seconds of that while; then one request tries whether the service is back.
        max_calls: Requests in all; what would be one more raises `RateLimitError` and is not sent. None = no limit.
        budget_usd: US dollars in all, likewise.
        price: {"per_search_unit": usd} or {"per_million_tokens": usd}; None is the published one, if any.

    Raises:
        AuthenticationError: No key, and the service takes none without.
        TypeError: An argument of the wrong type.
        ValueError: An argument out of its range, or a dialect that is none.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        dialect: str | Dialect | Mapping[str, object] = "cohere",
        base_url: str | None = None,
        api_key: str | None = None,
        scale: Literal["logit", "probability", "unknown"] | Scale | None = None,
        pointwise: bool | None = None,
        headers: Mapping[str, str] | None = None,
        extra: Mapping[str, object] | None = None,
        max_documents: int | None = None,
        timeout_s: float = 30.0,
        deadline_s: float | None = None,
        max_retries: int = 2,
        requests_per_minute: int | None = None,
        max_concurrency: int = 8,
        failure_threshold: int | None = 5,
        recovery_s: float = 30.0,
        max_calls: int | None = None,
        budget_usd: float | None = None,
        price: Mapping[str, float] | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in ("self", "api_key", "__class__")}
        if model is not None and not isinstance(model, str):
            raise TypeError(f"model must be a string, not {type(model).__name__}")
        if pointwise is not None and not isinstance(pointwise, bool):
            raise TypeError(f"pointwise must be True, False or None, not {type(pointwise).__name__}")
        # "cohere" is the protocol here, and the backend of that name another one.
        preset = isinstance(dialect, str) and dialect != "cohere"
        self.name = cast("str", dialect) if preset else "http"
        self._dialect = asked = _dialect_of(dialect)
        model = model or asked.default_model
        if model is None and (asked.needs_key or "{model}" in asked.path):
            raise ValueError(f"{self.name!r} needs a model: write '{self.name}:...', as the service names it")
        if model and "{model}" in asked.path and {".", ".."} & {*model.split("/")}:
            raise ValueError(f"model {model[:60]!r} is no name, but a path that leads elsewhere")
        self.model = model or _AS_SERVED
        if base_url is None and not asked.base_url:
            raise ValueError(f"{self.name!r} needs base_url=, the address of the service")
        url = checked_base_url(asked.base_url if base_url is None else base_url, who=self.name)
        self._url = joined(
            url, asked.path.replace("{model}", quote(self.model.replace(".", asked.path_dot), safe="/:"))
        )
        self.scale = _scale(asked.scale if scale is None else scale)
        self.pointwise = self.model.rpartition("/")[2] not in LISTWISE if pointwise is None else pointwise
        self.secrets = {"api_key": asked.key_variables[0]} if asked.key_variables else {}
        self._headers, more = checked_headers(headers or {}), checked_extra(extra or {})
        self._extra = _merged(asked.extra, more)
        given |= {"extra": more, "headers": self._headers}
        key = find_key(api_key, asked.key_variables, needed=asked.needs_key and not headers, who=self.name)
        super().__init__(
            given,
            key=key,
            identity=f"{key and key.reveal()} {sorted(self._headers.items())}",
            address=self._url,
            billing=asked.billing,
            max_documents=whole("max_documents", max_documents) or asked.max_documents,
        )
        connections = self._policy.max_concurrency
        self._clients = PerLoop(lambda: http_client(connections), httpx.AsyncClient.aclose, prepare=tls)

    @property
    def fingerprint(self) -> str:
        """Return name, model, address, and a digest of what else is in a request and how a reply is read."""
        asked = {name: getattr(self._dialect, name) for name in _SCORING}
        what = json.dumps([asked, self._extra, asdict(self.scale)], sort_keys=True)
        return f"{self.name}:{self.model}@{self._url}:{sha256(what.encode()).hexdigest()[:12]}"

    async def _ask(self, query: str, texts: Sequence[str]) -> Answer:
        try:
            client = await self._clients.get()
            content = json.dumps(self._body(query, texts), ensure_ascii=False).encode()
            response = await client.post(self._url, content=content, headers=self._sent_headers())
        except Exception as error:
            fault = of_exception(error, address=self._url)
        else:
            if response.is_success:
                return self._read(response.content, len(texts))
            body = response.text
            said = Quoted(body, self._secrets(), [query, *texts])
            permanent = any(words in body for words in self._dialect.permanent)
            fault = of_status(
                response.status_code, response.headers, said, permanent=permanent, address=response.url.host
            )
        raise fault  # out of the except block: an exception of httpx's knows the request, and so the key

    def _body(self, query: str, texts: Sequence[str]) -> dict[str, object]:
        asked, body = self._dialect, dict[str, object]()
        _put(body, asked.query, [query] * len(texts) if asked.repeat_query else query)
        _put(body, asked.documents, texts if asked.document is None else [{asked.document: text} for text in texts])
        if asked.model is not None and self.model != _AS_SERVED:
            _put(body, asked.model, self.model)
        if asked.top_n is not None:
            _put(body, asked.top_n, len(texts))
        return _merged(body, self._extra)

    def _sent_headers(self) -> httpx.Headers:
        headers = httpx.Headers({"Content-Type": "application/json", **self._dialect.headers})
        if self._key is not None:
            headers[self._dialect.auth] = f"{self._dialect.auth_scheme} {self._key.reveal()}".strip()
        headers.update(self._headers)  # whatever the case of their names
        return headers

    def _secrets(self) -> list[str]:
        # A header's value is a secret whole, and so is each of its words: "Bearer ...".
        words = [word for value in self._own_headers() for word in [value, *value.split()] if len(word) > 7]
        return [*super()._secrets(), *words]

    def _own_headers(self) -> list[str]:
        """Return the values of the headers that are the caller's."""
        of_preset = self._dialect in ENDPOINTS.values()
        return [*self._headers.values(), *([] if of_preset else self._dialect.headers.values())]

    def _read(self, content: bytes, n: int) -> Answer:
        asked = self._dialect
        try:
            reply = json.loads(content)
        except (ValueError, RecursionError):
            raise nonsense(f"the reply is no JSON: {len(content)} bytes of something else") from None
        results = _at(reply, asked.results)
        if not isinstance(results, list):
            where = f"at {asked.results!r}" if asked.results else "as the whole"
            raise nonsense(f"the reply has no list of results {where}; {_shape(reply)}")
        if asked.index is None and len(results) != n:
            raise nonsense(f"the reply has {len(results)} scores for {n} documents")
        pairs = [
            (i if asked.index is None else _at(result, asked.index), _at(result, asked.score))
            for i, result in enumerate(results)
        ]
        values, order = checked_results(pairs, n)
        # Where results come in the order of the documents, that order says nothing about relevance.
        return Answer(
            values, [] if asked.index is None else order, units=_told(reply, asked.units), tokens=_told(reply, asked.tokens)
        )  # fmt: skip

    def __reduce__(self) -> tuple[object, ...]:
        if self._own_headers():
            raise TypeError(
                "headers may hold secrets, and a pickle holds none: pass the key by the environment instead"
            )
        return super().__reduce__()


def _dialect_of(dialect: object) -> Dialect:
    if isinstance(dialect, Dialect):
        return dialect
    if isinstance(dialect, str):
        if dialect not in ENDPOINTS:
            raise ValueError(
                f"no dialect {dialect!r}{did_you_mean(dialect, ENDPOINTS)}; known: {', '.join(ENDPOINTS)}, or give a mapping of"
                " its fields"
            )
        return ENDPOINTS[dialect]
    if not isinstance(dialect, Mapping):
        raise TypeError(f"dialect must be a name, a Dialect or a mapping of its fields, not {type(dialect).__name__}")
    known = [field.name for field in fields(Dialect)]
    for name in dialect:
        if name not in known:
            raise ValueError(
                f"a dialect has no field {name!r}{did_you_mean(str(name), known)}; it has: {', '.join(known)}"
            )
    if "path" not in dialect:
        raise ValueError('a dialect needs a path, such as "/v1/rerank"')
    return Dialect(**cast("dict[str, Any]", dict(dialect)))


def _scale(scale: object) -> Scale:
    if isinstance(scale, Scale):
        return scale
    if isinstance(scale, Mapping) and scale.keys() <= {"kind", "low", "high"}:  # as it is in JSON
        return Scale(**scale)
    if not isinstance(scale, str) or scale not in _SCALES:
        raise ValueError(f"scale must be one of {', '.join(_SCALES)}, or a rerankx.Scale, not {scale!r}")
    return _SCALES[scale]


def _put(body: dict[str, object], place: str, value: object) -> None:
    """Put a value at a place of the body; dots go down."""
    *above, name = place.split(".")
    for step in above:
        body = cast("dict[str, object]", body.setdefault(step, {}))
    body[name] = value


def _merged(body: Mapping[str, object], more: Mapping[str, object]) -> dict[str, object]:
    """Return the body with more in it; where both have an object, so have they both in it."""
    merged = {**body, **more}
    for name in body.keys() & more.keys():
        old, new = body[name], more[name]
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            merged[name] = _merged(old, new)
    return merged


def _at(reply: object, place: str) -> object:
    """Return what lies at a place of the reply; None where it has no such place."""
    for step in place.split(".") if place else ():
        reply = reply.get(step) if isinstance(reply, Mapping) else None
    return reply


def _told(reply: object, place: str | None) -> float | None:
    return None if place is None else told_amount(_at(reply, place))


def _shape(reply: object) -> str:
    if isinstance(reply, Mapping):
        return f"it is an object of {len(reply)} fields"
    return f"it is a {type(reply).__name__}"
