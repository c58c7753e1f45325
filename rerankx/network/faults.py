"""What can go wrong with one request, as rerankx's errors: no key, no query and no document in a message."""

from __future__ import annotations

import json
import math
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC
from email.utils import parsedate_to_datetime

import httpx

from rerankx.errors import AuthenticationError, BackendError, DeadlineError, RateLimitError, ReplyError
from rerankx.network.client import TooLargeError, TooMuchError

_SHOWN = 200  # characters of a server's own words
_PLAIN = 500  # of a body that is no JSON: an error page says nothing
_READ = 1_000_000  # of its body, to find them
# What may be a key, or a part of one: no word of a message is so long and holds a digit.
_OPAQUE = re.compile(r"(?=[\w\-./+=]*\d)[\w\-./+=]{20,}")
_UNSHOWABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]+")


class Fault(Exception):
    """One request that failed: which error it is for the caller, and what follows from it.

    Attributes:
        error: The kind of error that the caller is raised.
        words: What it says.
        said: Returns what the service's own words were, blotted; None where it said nothing.
        again: Whether asking again may help.
        timed_out: Whether no answer came in time.
        after_s: How long the service asks to be left alone, in seconds; None if it does not say.
        answered: Whether the service is well enough to answer.
        sick: Whether it is not: what a circuit breaker counts.
        sent: Whether a request has left at all.
        billed: Whether the service may have done the work, and charge for it.
    """

    def __init__(
        self,
        error: type[BackendError],
        words: str,
        *,
        said: Callable[[], str] | None = None,
        again: bool = False,
        timed_out: bool = False,
        after_s: float | None = None,
        answered: bool = False,
        sick: bool = False,
        sent: bool = True,
        billed: bool = False,
    ) -> None:
        super().__init__(words)
        self.error, self.words, self.said = error, words, said
        self.again, self.timed_out, self.after_s = again, timed_out, after_s
        self.answered, self.sick, self.sent, self.billed = answered, sick, sent, billed


def of_status(
    status: int, headers: Mapping[str, str], said: Callable[[], str], *, permanent: bool = False, address: str = ""
) -> Fault:
    """Return the fault that a reply with another status than 2xx is.

    Args:
        status: The HTTP status.
        headers: The reply's, names in lower case or in a mapping that does not mind.
        said: Returns what the body says, blotted.
        permanent: Whether asking again is no use, although the status says it may be.
        address: What was asked, for a message.
    """
    if 300 <= status < 400:
        words = (
            f"HTTP {status}: {address} sends on to {_host(headers.get('location', ''))}; redirects are not followed, set base_url"
            " to the address that answers"
        )
        return Fault(BackendError, words, answered=True)
    if status in (401, 403, 498):
        return Fault(
            AuthenticationError, f"HTTP {status}: the key is wrong or not allowed this model", said=said, answered=True
        )
    words, after_s = f"HTTP {status}", _retry_after(headers)
    if status in (402, 429):
        # 402: the account's own limit is reached, which no waiting changes.
        return Fault(RateLimitError, words, said=said, again=status == 429, after_s=after_s, answered=True)
    if status in (408, 409) or status >= 500:
        sick = status >= 500 and not permanent
        return Fault(BackendError, words, said=said, again=not permanent, after_s=after_s, sick=sick, answered=not sick)
    return Fault(BackendError, words, said=said, answered=True)


def of_exception(error: Exception, *, address: str) -> Fault:
    """Return the fault that an exception of httpx's is, or of what is beneath it; `address` is what was asked, for a message."""
    # None of them is kept: they know the request, and so the key.
    kind = type(error).__name__
    if isinstance(error, TooLargeError):
        return Fault(BackendError, str(error), sent=False)
    if isinstance(error, TooMuchError):
        return Fault(ReplyError, str(error), sick=True, billed=True)
    if isinstance(error, httpx.TimeoutException | TimeoutError):  # a client that was given has clocks of its own
        return Fault(DeadlineError, f"no answer in time ({kind})", again=True, timed_out=True, sick=True, billed=True)
    if isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        words = f"the certificate of {address} is not trusted; SSL_CERT_FILE names other authorities"
        return Fault(BackendError, words, sent=False)
    if isinstance(error, httpx.ConnectError):
        words = f"no connection to {address}: {_line(str(error))}; is base_url right, and the server running?"
        return Fault(BackendError, words, again=True, sick=True, sent=False)
    if isinstance(error, httpx.ProxyError):
        status = str(error)[:3] if str(error)[:3].isdigit() else kind
        if status == "407":
            return Fault(BackendError, "the proxy wants a user and a password (407); HTTPS_PROXY has them", sent=False)
        words = f"the proxy makes no connection to {address} ({status})"
        return Fault(BackendError, words, again=True, sick=True, sent=False)
    if isinstance(error, httpx.UnsupportedProtocol | httpx.LocalProtocolError):
        return Fault(BackendError, f"no connection to {address} ({kind})", sent=False)
    if isinstance(error, httpx.TransportError):  # its message may quote what came
        return Fault(BackendError, f"the connection broke ({kind})", again=True, sick=True, billed=True)
    return Fault(BackendError, f"the request failed: {kind}", billed=True)


def timed_out(seconds: float, *, sick: bool) -> Fault:
    """Return the fault that a request is which took longer than it may; `sick` if that speaks of the service's health."""
    return Fault(DeadlineError, f"no answer within {seconds:.3g} s", again=True, timed_out=True, sick=sick, billed=True)


def unsent(error: type[BackendError], words: str) -> Fault:
    """Return the fault that a request is which was not sent, for a reason of ours."""
    return Fault(error, f"{words}, nothing was sent", sent=False)


def _host(location: str) -> str:
    try:
        return httpx.URL(location).host or "another address"
    except httpx.InvalidURL:
        return "another address"


def nonsense(what: str) -> Fault:
    """Return the fault that a reply is which is no scoring of the texts; the service may charge for it all the same."""
    return Fault(ReplyError, what, sick=True, billed=True)


@dataclass(frozen=True, slots=True)
class Quoted:
    """What an error's body says, to be blotted when somebody wants to know."""

    body: str
    secrets: Sequence[str]
    texts: Sequence[str]

    def __call__(self) -> str:
        """Return the words."""
        return blotted(self.body, secrets=self.secrets, texts=self.texts)

    @property
    def slow(self) -> bool:
        """Return whether it takes too long for an event loop."""
        return len(self.body) + sum(map(len, self.texts)) > 100_000


def blotted(body: str, *, secrets: Iterable[str], texts: Iterable[str]) -> str:
    """Return what an error's body says, cut short: without keys, and without the texts that were sent, which it may quote.

    Args:
        body: JSON, of which the strings are taken, or anything else.
        secrets: Of these no run of 6 characters is left.
        texts: Of these no run of 12 characters is left, and none as a whole.
    """
    words = _squeezed(_said(body)[: 20 * _SHOWN])
    secrets = [secret for secret in secrets if secret]
    for secret in secrets:
        words = words.replace(secret, "…")
    sent = [text for text in map(_squeezed, texts) if len(text) > 2]
    for text in sent:
        words = words.replace(text, "…")
    words = _without_runs(words[: 2 * _SHOWN], "\0".join(sent), 12)
    words = _without_runs(words, "\0".join(secrets), 6)
    return _line(_OPAQUE.sub("…", words))


def _said(body: str) -> str:
    """Return the strings of a JSON body, or the body."""
    if len(body) > _READ:
        return f"{len(body):,} characters"  # which may quote anything
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body if len(body) <= _PLAIN else f"{len(body):,} characters that are no JSON"
    strings: dict[str, None] = {}
    waiting = deque([found])
    while waiting:
        one = waiting.popleft()
        if isinstance(one, str):
            strings[one] = None
        elif isinstance(one, list | dict):
            waiting.extend(one.values() if isinstance(one, dict) else one)
    return "; ".join(strings)


def _without_runs(words: str, source: str, length: int) -> str:
    """Return the words without runs of that many characters which are in the source."""
    within = [False] * len(words)
    for i in range(len(words) - length + 1):
        if words[i : i + length] in source:
            within[i : i + length] = [True] * length
    kept = (char if not inside else "\0" for char, inside in zip(words, within, strict=True))
    return re.sub("\0+", "…", "".join(kept))


def _squeezed(words: str) -> str:
    return " ".join(_UNSHOWABLE.sub(" ", words).split())


def _line(words: str) -> str:
    line = _squeezed(words)
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the service asks for: RFC 9110, 10.2.3, and `retry-after-ms`, which some send."""
    waits = (_seconds(headers.get("retry-after-ms"), 0.001), _seconds(headers.get("retry-after"), 1.0))
    return next((wait for wait in waits if wait is not None), None)


def _seconds(asked: str | None, unit_s: float) -> float | None:
    try:
        if asked is None:
            return None
        if re.fullmatch(r"\s*[0-9.]+\s*", asked):
            seconds = float(asked) * unit_s
        else:
            date = parsedate_to_datetime(asked)
            seconds = max((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time(), 0.0)
    except (ValueError, OverflowError):
        return None
    return seconds if seconds < math.inf else None
