"""`Cached`: a backend that is not asked again for a score that is known."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from typing import Any, NamedTuple, TypeVar

from rerankx.arguments import shown
from rerankx.compose.flights import (
    Flight,
    Landing,
    Patience,
    Question,
    Steps,
    UnderWay,
    Work,
    arun_steps,
    run_steps,
    started,
)
from rerankx.compose.made import made
from rerankx.compose.steps import with_usage
from rerankx.compose.stores import DiskStore, MemoryStore, Store
from rerankx.errors import BackendError
from rerankx.interface import Attempt, Backend, Scale, Scores, Usage

logger = logging.getLogger("rerankx")

T = TypeVar("T")

_FORMAT = b"rerankx-1"  # of keys and values; another number makes all that is kept foreign
_CHECKSUM_BYTES = 8


class Cached(Backend):
    """Scores as its backend does, and asks it only about pairs of query and text that it has not scored before.

        Reranker(Cached("minilm", "~/.cache/my-app/scores.db"))
        Fallback(Cached("cohere", ttl_s=86_400), "minilm")

    Values, details and what counts as cut are the backend's own. `details` of what came from the cache say {"cached": True}
    besides, and `usage` counts `cache_hits` and `cache_misses`, by texts. Only what was asked costs anything: where all is known,
    no model is loaded and nothing is sent.

    A pair is known by namespace, the backend's fingerprint, query and text: another model, prompt or option never meets it. Kept
    are raw score, details, whether the text was cut, and the time. Not kept: what has no score, anything of a degraded answer,
    and what has details that JSON does not give back as they were.

    Whoever asks for a pair that is just being scored waits for it, threads and tasks alike, and asks himself if nothing comes of
    it, if half of his time is over, or, as a thread that waits for a task, after a second. That holds within one instance: keep
    it. Processes share a file, and do not wait for each other.

    A cache never breaks a query: a store that fails is logged once and passed over, a slow one is waited for at most a second, or
    a quarter of the time that is left.

    Two things differ from the backend's own answer. It is asked for all scores whatever `top_n` says, so that all can be kept.
    And ties stand in input order, not in that of a server's answer, which may be about a part of the texts: a text has the same
    place whatever is kept. Of a backend that says how many texts were cut, and not which, the longest count as cut.

    Args:
        backend: A name such as "minilm" or "backend:model", or a `Backend`; pointwise. A name takes no options.
        store: Where scores are kept: a path, for a `DiskStore`, which other processes share and the next run finds; or a
            `Store`. None is a `MemoryStore` of its own.
        ttl_s: Seconds after which a score is no longer used, above 0. None = never; what the store has no room for goes.
        namespace: Whose scores they are. Two namespaces never share any, in whatever store.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: It needs a package that is not installed.
        TypeError: An argument of the wrong type.
        ValueError: The backend is not pointwise; `ttl_s` is out of its range.
    """

    name = "cached"
    pointwise = True

    _now = staticmethod(time.time)  # the clock of all processes and of the next run, as no monotonic one is

    def __init__(
        self,
        backend: str | Backend,
        store: Store | str | os.PathLike[str] | None = None,
        *,
        ttl_s: float | None = None,
        namespace: str = "",
    ) -> None:
        self.backend = made("backend of a cache", backend)
        if not self.backend.pointwise:
            raise ValueError(
                f"only pointwise scores can be cached, and those of {self.backend.name!r} depend on the other texts or on who"
                " answers; cache its parts instead, as in Fallback(Cached('cohere'), 'minilm')"
            )
        if not isinstance(namespace, str):
            raise TypeError(f"namespace must be a string, not {shown(namespace)}")
        self.store = _store(store)
        self.ttl_s = _checked_ttl_s(ttl_s)
        self.namespace = namespace
        self._here = UnderWay()
        self._told: set[str] = set()

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return the backend's name and model: "cross-encoder:..."."""
        return f"{self.backend.name}:{self.backend.model}"

    @property
    def scale(self) -> Scale:  # type: ignore[override]
        """Return the backend's."""
        return self.backend.scale

    @property
    def scale_source(self) -> Backend:
        """Return the backend."""
        return self.backend

    @property
    def fingerprint(self) -> str:
        """Return the backend's: a cache changes no score."""
        return self.backend.fingerprint

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the backend's."""
        return self.backend.token_spans(text)

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return run_steps(self._steps(query, texts, in_task=False))

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return await arun_steps(self._steps(query, texts, in_task=True))

    def _steps(self, query: str, texts: Sequence[str], *, in_task: bool) -> Steps[Scores]:
        scale, keys = yield Work(partial(self._identify, query, texts))
        text_of = dict(zip(keys, texts, strict=True))
        landed = self._here.landed
        cached = self._read((yield from self._look_up(list(text_of))))
        own: dict[bytes, _Pair] = {}
        answers: list[Scores] = []
        # Who waited in vain may be the next to be waited for. After the second time everybody asks for himself: with a backend
        # that fails, one after the other would take as long as all of them together.
        waits = 2
        while missing := [key for key in text_of if key not in cached and key not in own]:
            mine, theirs, known = Flight(in_task=in_task), dict[bytes, Flight](), dict[bytes, bytes]()
            try:
                if waits:
                    theirs = self._here.claim(missing, mine)
                todo = [key for key in missing if key not in theirs]
                if todo and landed != self._here.landed:  # what was missing may have been kept since
                    landed = self._here.landed
                    known = yield from self._look_up(todo)
                    cached |= self._read(known)
                    todo = [key for key in todo if key not in cached]
                if todo:
                    asked = [text_of[key] for key in todo]
                    scores = yield from self._ask(query, asked, answers)
                    own |= zip(todo, _pairs(scores, asked), strict=True)
                    kept = self._kept(scores, scale, {key: own[key] for key in todo})
                    mine.land(known | kept)
                    yield from self._keep(kept)
                mine.land(known)
            finally:
                self._here.release(mine)
            if theirs:
                values: Mapping[bytes, bytes] = yield Landing(set(theirs.values()))
                cached |= self._read({key: values[key] for key in theirs if key in values})
                waits = waits - 1 if all(flight.future.done() for flight in theirs.values()) else 0
        if (cached or len(answers) > 1) and any(scores.scale != scale for scores in answers):
            # They say something else than the others, or than those that are kept: they must not stand in one order.
            scores = yield from self._ask(query, list(text_of.values()), answers)
            cached, own = {}, dict(zip(text_of, _pairs(scores, list(text_of.values())), strict=True))
        return _joined(keys, cached, own, answers, scale)

    def _ask(self, query: str, texts: Sequence[str], answers: list[Scores]) -> Steps[Scores]:
        """Return what the backend says, and add it to the answers; what those took, its error tells, too."""
        try:
            scores: Scores = yield Question(self.backend, query, texts)
        except BackendError as error:
            if not answers:
                raise
            raise with_usage(error, sum((one.usage for one in answers), Usage())) from error
        answers.append(scores)
        return scores

    def _identify(self, query: str, texts: Sequence[str]) -> tuple[Scale, list[bytes]]:
        scale = self.backend.scale
        start = blake2b(digest_size=32, person=_FORMAT)
        for part in (self.namespace, self.backend.fingerprint, repr(scale), query):
            _feed(start, part)
        keys = []
        for text in texts:
            one = start.copy()
            _feed(one, text)
            keys.append(one.digest())
        return scale, keys

    def _look_up(self, keys: Sequence[bytes]) -> Steps[dict[bytes, bytes]]:
        """Return what the store has of the pairs, as it is kept."""
        asked = tuple(keys)
        values: dict[bytes, bytes] | None = yield from self._stored("get", lambda: dict(self.store.get(asked)))
        return {key: values[key] for key in keys if key in values} if values else {}

    def _keep(self, items: Mapping[bytes, bytes]) -> Steps[None]:
        if items:
            yield from self._stored("put", lambda: self.store.put(dict(items)))

    def _stored(self, method: str, work: Callable[[], Any]) -> Steps[Any]:
        """Return what `work` returns; None where it fails or takes too long."""
        try:
            if isinstance(self.store, MemoryStore):
                return work()
            if self._here.late is not None and not self._here.late.done():
                return None  # the store is at it still
            future = started(work)
            if (yield Patience(future)):
                return future.result()
            self._here.late = future
            self._say_once(f"the store of the cached {self.model} is passed over: {method} takes too long")
        except Exception as error:  # without its message, which may quote a password
            self._say_once(
                f"the store of the cached {self.model} is passed over: {method} raised {type(error).__name__}"
            )
        return None

    def _say_once(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            logger.warning(what)

    def _kept(self, scores: Scores, scale: Scale, pairs: Mapping[bytes, _Pair]) -> dict[bytes, bytes]:
        """Return the values of those pairs that may be kept, by their keys."""
        if scores.degraded is not None or scores.scale != scale or scores.min_score is not None:
            return {}
        now, values = self._now(), dict[bytes, bytes]()
        for key, pair in pairs.items():
            if pair.value is None:
                continue
            value = _packed(key, pair, now)
            if value is None:
                self._say_once(
                    f"scores of {self.model} are not cached: JSON does not give back its details as they are"
                )
            else:
                values[key] = value
        return values

    def _read(self, values: Mapping[bytes, object]) -> dict[bytes, _Pair]:
        """Return the pairs that are kept as these values; without what is too old, or no such thing."""
        now, pairs = self._now(), dict[bytes, _Pair]()
        for key, value in values.items():
            if not isinstance(value, bytes | bytearray | memoryview):  # drivers of databases return the latter two
                self._say_once(f"the store of the cached {self.model} returned {type(value).__name__}; expected bytes")
                continue
            found = _unpacked(key, bytes(value))
            # Of the future: the clock was set back, and nobody knows how old it is.
            if found is not None and (self.ttl_s is None or 0 <= now - found[1] < self.ttl_s):
                pairs[key] = found[0]
        return pairs

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), ttl_s=self.ttl_s, namespace=self.namespace), (self.backend, self.store)


class _Pair(NamedTuple):
    """What is said of one query and text."""

    value: float | None
    cut: bool
    details: Mapping[str, object] | None


def _pairs(scores: Scores, texts: Sequence[str]) -> list[_Pair]:
    """Return what the scores say of each text."""
    cut = scores.cut
    if cut is None:
        order = sorted(range(len(texts)), key=lambda i: (scores.values[i] is None, -len(texts[i])))
        longest = set(order[: scores.truncated])
        cut = [i in longest for i in range(len(texts))]
    details = scores.details or [None] * len(texts)
    return [_Pair(*each) for each in zip(scores.values, cut, details, strict=True)]


def _joined(
    keys: Sequence[bytes],
    cached: Mapping[bytes, _Pair],
    own: Mapping[bytes, _Pair],
    answers: Sequence[Scores],
    scale: Scale,
) -> Scores:
    """Return what is said of each text, and what it took."""
    marked = {key: pair._replace(details={**(pair.details or {}), "cached": True}) for key, pair in cached.items()}
    pairs = [marked[key] if key in marked else own[key] for key in keys]
    # Each its own, equal texts too.
    details = [None if pair.details is None else dict(pair.details) for pair in pairs]
    hits = sum(key in cached for key in keys)
    usage = replace(sum((scores.usage for scores in answers), Usage()), cache_hits=hits, cache_misses=len(keys) - hits)
    attempts = list[Attempt]()
    for scores in answers:
        attempts += scores.attempts
    last = answers[-1] if answers else None
    return Scores(
        [pair.value for pair in pairs],
        details=details if any(detail is not None for detail in details) else None,
        usage=usage,
        cut=[pair.cut for pair in pairs],
        degraded=next((scores.degraded for scores in answers if scores.degraded is not None), None),
        attempts=attempts,
        scale=scale if last is None else last.scale,
        min_score=None if last is None else last.min_score,
    )


def _feed(hashed: blake2b, part: str) -> None:
    # Each with its length, so that no two ways to divide a string are the same; half a surrogate pair is taken as it is.
    data = part.encode("utf-8", "surrogatepass")
    hashed.update(len(data).to_bytes(8, "big"))
    hashed.update(data)


def _packed(key: bytes, pair: _Pair, now: float) -> bytes | None:
    """Return what is kept of a pair: a checksum and JSON; None where the details would not come back as they are."""
    details = None if pair.details is None else dict(pair.details)
    try:
        text = json.dumps([now, pair.value, pair.cut, details], allow_nan=False, separators=(",", ":"))
        if json.loads(text)[3] != details:  # a tuple, a key that is a number
            return None
    except (TypeError, ValueError, RecursionError):
        return None
    data = text.encode()
    return _checksum(key, data) + data


def _unpacked(key: bytes, value: bytes) -> tuple[_Pair, float] | None:
    """Return a pair and when it was kept; None if `value` is not what `_packed` made for this key."""
    checksum, data = value[:_CHECKSUM_BYTES], value[_CHECKSUM_BYTES:]
    if checksum != _checksum(key, data):
        return None
    now, score, cut, details = json.loads(data)
    return _Pair(score, cut, details), now


def _checksum(key: bytes, data: bytes) -> bytes:
    return blake2b(data, key=key, digest_size=_CHECKSUM_BYTES, person=_FORMAT).digest()


def _store(store: object) -> Store:
    if store is None:
        return MemoryStore()
    if isinstance(store, str | os.PathLike):
        return DiskStore(store)
    methods = (getattr(store, name, None) for name in ("get", "put"))
    if isinstance(store, type) or not all(callable(method) for method in methods):
        kind = f"the class {store.__name__}" if isinstance(store, type) else type(store).__name__
        raise TypeError(f"store must be a path, None, or an object with get(keys) and put(items), not {kind}")
    return store  # type: ignore[return-value]


def _checked_ttl_s(ttl_s: float | None) -> float | None:
    if ttl_s is None:
        return None
    if isinstance(ttl_s, bool | str) or not hasattr(ttl_s, "__float__"):
        raise TypeError(f"ttl_s must be a number of seconds above 0 or None, not {shown(ttl_s)}")
    number = float(ttl_s)
    if not 0 < number < math.inf:
        raise ValueError(f"ttl_s must be a number of seconds above 0, or None, not {number:g}")
    return number
