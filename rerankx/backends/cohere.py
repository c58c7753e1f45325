"""`Cohere`: Cohere's rerank models through its own SDK; retries, waits and deadlines are ours."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from itertools import count
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

import httpx

from rerankx.catalogue.prices import PRICES
from rerankx.engines.once import Once
from rerankx.interface import Scale, remaining_s
from rerankx.network.client import PerLoop, checked_base_url, http_client, joined, tls
from rerankx.network.faults import Fault, Quoted, nonsense, of_exception, of_status
from rerankx.network.remote import Answer, Remote, checked_results
from rerankx.network.service import find_key, told_amount, whole

if TYPE_CHECKING:
    from cohere import AsyncClientV2

DEFAULT = "rerank-v5.0-fast"
"""The default model, as of 2026-11-23: the newest small one, https://docs.cohere.com/changelog/rerank-v5."""
ADDRESS = "https://api.cohere.com"

# "Recommended <= 1,000 per call"; above 10,000 it is an error. https://docs.cohere.com/reference/rerank, 2026-11.
_MAX_DOCUMENTS = 1000


_given = count()  # clients that were given: whose account each is nobody knows


class Cohere(Remote):
    """Scores by Cohere's models, in [0, 1].

        Reranker("cohere")  # the key is in CO_API_KEY or COHERE_API_KEY
        Reranker("cohere:rerank-v3.5", api_key=key, deadline_s=2.0)
        Reranker("cohere:cohere.rerank-v3-5:0", client=cohere.BedrockClientV2(aws_region="us-east-1"))

    Documents with fields are best sent as YAML: `rerank(query, records, key=as_yaml)`. A long document is cut by the service to
    `max_tokens_per_doc` tokens; it does not say which were, so `Scores.truncated` is 0.

    Args:
        model: The model, as Cohere names it.
        api_key: The key; None reads CO_API_KEY, then COHERE_API_KEY.
        base_url: Another address, of a private deployment or a gateway; None reads CO_API_URL, else it is Cohere's own.
        client: A client of the SDK's to use instead, such as one for Bedrock, SageMaker or Azure. A synchronous one is called in
            threads; an asynchronous one in the event loop that runs, or for `rerank` in one of rerankx's: use it in one alone.
        max_tokens_per_doc: Tokens of a document that are read; None is the service's default, 4096.
        priority: 0, the most urgent, to 999; None is the service's default.
        relevant_spans: True, or a mapping of its settings ("threshold", "max_spans"), asks for the spans that made a document
            relevant; they are in `Hit.details["relevant_spans"]`. For models from v5.
        timeout_s: As of `Http`, and so are those below.
        deadline_s: Seconds for one ranking, with all tries and waits.
        max_retries: Tries after the first.
        requests_per_minute: A trial key is allowed 10, a production key 1,000.
        max_concurrency: Requests under way at a time.
        failure_threshold: Faults in a row after which nothing is sent for a while.
        recovery_s: Seconds of that while.
        max_calls: Requests in all.
        budget_usd: US dollars in all.
        price: {"per_search_unit": usd} or {"per_million_tokens": usd}; None is the published one, if any.

    Raises:
        AuthenticationError: No key and no client.
        TypeError: An argument of the wrong type.
        ValueError: An argument out of its range.
    """

    name = "cohere"
    scale = Scale.PROBABILITY
    pointwise = True
    secrets = MappingProxyType({"api_key": "COHERE_API_KEY"})

    def __init__(
        self,
        model: str = DEFAULT,
        *,
        api_key: str | None = None,
        base_url: str | None = None,
        client: object | None = None,
        max_tokens_per_doc: int | None = None,
        priority: int | None = None,
        relevant_spans: bool | Mapping[str, object] = False,
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
        given = {
            name: value for name, value in locals().items() if name not in ("self", "api_key", "client", "__class__")
        }
        if not isinstance(model, str) or not model:
            raise TypeError(f"model must be a string with something in it, not {model!r}"[:200])
        self.model = model
        self._client: Any = client
        if client is not None and not callable(getattr(client, "rerank", None)):
            raise TypeError(f"client must be one of Cohere's SDK, such as ClientV2, not {type(client).__name__}")
        if client is not None and (api_key is not None or base_url is not None):
            raise TypeError("api_key and base_url belong to the client that is given: pass them to its constructor")
        elsewhere = None if client is not None else base_url or os.environ.get("CO_API_URL")
        address = checked_base_url(elsewhere or ADDRESS, who="cohere")
        address = joined(address, "/v2/rerank").removesuffix("/v2/rerank")  # which the SDK adds
        key = (
            None
            if client is not None
            else find_key(api_key, ("CO_API_KEY", "COHERE_API_KEY"), needed=True, who="cohere")
        )
        self._body = {
            "max_tokens_per_doc": whole("max_tokens_per_doc", max_tokens_per_doc),
            "priority": whole("priority", priority, low=0, high=999),
            "relevant_spans": _spans_asked(relevant_spans),
        }
        paid = PRICES.get(f"cohere:{model}")
        super().__init__(
            given,
            key=key,
            identity=key.reveal() if key is not None else f"client {next(_given)}",
            address=address if client is None else _address_of(client),
            billing="tokens" if paid is not None and paid.per_search_unit is None else "search_units",
            max_documents=_MAX_DOCUMENTS,
        )
        connections = self._policy.max_concurrency
        # For a synchronous client; made when it is needed, and anew after a fork, which threads do not survive.
        self._threads = Once(lambda: ThreadPoolExecutor(connections, "rerankx-cohere"))
        self._threads_of = os.getpid()

        def connected() -> tuple[AsyncClientV2, httpx.AsyncClient]:
            from cohere import AsyncClientV2

            assert key is not None
            ours = http_client(connections)
            return AsyncClientV2(key.reveal(), base_url=address, httpx_client=ours, client_name="rerankx"), ours

        self._clients = PerLoop(connected, lambda both: both[1].aclose(), prepare=_prepare)

    @property
    def fingerprint(self) -> str:
        """Return name, model, address and what else changes a score, or the spans beside it."""
        options = "".join(f":{name}={self._body[name]}" for name in ("max_tokens_per_doc", "relevant_spans"))
        return f"{self.name}:{self.model}@{self._address}{options}"

    async def _ask(self, query: str, texts: Sequence[str]) -> Answer:
        options: dict[str, object] = {"max_retries": 0}
        # By this way they also reach the service through a release of the SDK which does not know them.
        body = {name: value for name, value in self._body.items() if value is not None}
        if body:
            options["additional_body_parameters"] = body
        try:
            reply = await self._rerank(
                model=self.model, query=query, documents=texts, top_n=len(texts), request_options=options
            )
        except Exception as error:
            fault = self._fault(error, [query, *texts])
        else:
            return _read(reply, len(texts))
        raise fault  # out of the except block: the SDK's errors hold what the service said, which may be the key

    def _fault(self, error: Exception, texts: Sequence[str]) -> Fault:
        status = getattr(error, "status_code", None)
        if isinstance(error, ValueError | TypeError | AttributeError | RecursionError):  # so the SDK fails on nonsense
            return nonsense(f"the SDK cannot read the reply: {type(error).__name__}")
        if status is None:
            return of_exception(error, address=self._address)
        body = getattr(error, "body", "")
        if 200 <= status < 300:
            return nonsense("the reply is no JSON")
        words = body if isinstance(body, str) else json.dumps(body, ensure_ascii=False, default=str)
        secrets = [*self._secrets(), *_secrets_of(self._client)]
        headers = httpx.Headers(getattr(error, "headers", None) or {})
        return of_status(status, headers, Quoted(words, secrets, texts), address=self._address)

    async def _rerank(self, *, request_options: Any, **request: Any) -> object:
        """Return the reply of the SDK's client, ours for the running event loop or the one that was given."""
        if self._client is None:
            sdk, _ = await self._clients.get()
            return await sdk.rerank(**request, request_options=request_options)
        rerank = self._client.rerank
        if inspect.iscoroutinefunction(rerank):
            return await rerank(**request, request_options=request_options)
        # A thread cannot be cancelled: its request ends by a clock of its own.
        left, longest = remaining_s(), self._policy.timeout_s
        seconds = max(1, math.ceil(longest if left is None else min(longest, left)))
        call = partial(rerank, **request, request_options={**request_options, "timeout_in_seconds": seconds})
        reply = await asyncio.get_running_loop().run_in_executor(self._executor(), copy_context().run, call)
        return await reply if inspect.isawaitable(reply) else reply

    def _executor(self) -> ThreadPoolExecutor:
        if self._threads_of != os.getpid():
            self._threads.forget()
            self._threads_of = os.getpid()
        return self._threads.get()

    async def _prepared(self) -> None:
        if self._client is None:
            await super()._prepared()

    def __reduce__(self) -> tuple[object, ...]:
        if self._client is not None:
            raise TypeError("a Cohere with a client of yours does not pickle: the client holds a key")
        return super().__reduce__()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return super().__deepcopy__(memo) if self._client is None else type(self)(**self._given, client=self._client)


def _prepare() -> None:
    from cohere import AsyncClientV2  # noqa: F401 - half a second

    tls()


def _spans_asked(relevant_spans: object) -> dict[str, object] | None:
    if isinstance(relevant_spans, bool):
        return {"mode": "enabled"} if relevant_spans else None
    if not isinstance(relevant_spans, Mapping):
        raise TypeError(
            f"relevant_spans must be True, False or a mapping such as {{'max_spans': 3}}, not {type(relevant_spans).__name__}"
        )
    return {"mode": "enabled", **relevant_spans}


def _read(reply: object, n: int) -> Answer:
    # The SDK does not check replies against its own classes: anything may be anywhere in them.
    results = getattr(reply, "results", None)
    if not isinstance(results, list):
        raise nonsense(f"the reply has no list of results, but {type(results).__name__}")
    pairs = [(getattr(result, "index", None), getattr(result, "relevance_score", None)) for result in results]
    values, order = checked_results(pairs, n)
    details: list[Mapping[str, object] | None] = [None] * n
    for index, result in zip(order, results, strict=True):
        if spans := _spans(getattr(result, "relevant_spans", None)):
            details[index] = {"relevant_spans": spans}
    meta = getattr(reply, "meta", None)
    billed = getattr(meta, "billed_units", None)
    return Answer(
        values,
        order,
        details,
        units=told_amount(getattr(billed, "search_units", None)),
        tokens=told_amount(getattr(billed, "input_tokens", None)),
    )


def _spans(spans: object) -> list[dict[str, object]]:
    """Return the spans as plain dicts: code points [start, end) of the document, and a score in [0, 1]."""
    names = ("start", "end", "score")
    # A release of the SDK that does not know of spans leaves them as dicts.
    read = [
        {name: span.get(name) if isinstance(span, Mapping) else getattr(span, name, None) for name in names}
        for span in (spans if isinstance(spans, list) else [])
    ]
    return [span for span in read if None not in span.values()]


def _headers_of(client: object) -> Mapping[str, str]:
    """Return what a client of the SDK's sends, as far as it tells."""
    try:
        return dict(client._client_wrapper.get_headers())  # type: ignore[attr-defined]
    except Exception:  # it is somebody's own
        return {}


def _secrets_of(client: object | None) -> list[str]:
    return [] if client is None else _headers_of(client).get("Authorization", "").split()[1:]


def _address_of(client: object) -> str:
    try:
        where = str(client._client_wrapper.get_base_url())  # type: ignore[attr-defined]
    except Exception:  # it is somebody's own
        where = "somewhere"
    return f"{where} by {type(client).__name__}"
