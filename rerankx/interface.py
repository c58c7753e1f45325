"""What a backend is: all that somebody who writes one has to read.

    class Mine(Backend):
        name = "mine"
        model = "word-overlap"
        scale = Scale.similarity(0, 1)
        pointwise = True

        def _score(self, query, texts, *, top_n=None):
            return [overlap(query, text) for text in texts]

A backend scores one query against n texts, in the order they came, and never sorts: `rerankx.Reranker` does the only
sort. `rerankx.testing.BackendContract` holds a test for every promise made here.
"""

from __future__ import annotations

import math
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import ClassVar, Literal, TypeVar, final, get_args

from rerankx.arguments import check_query
from rerankx.errors import BackendError, ReplyError, RerankxError

_T = TypeVar("_T")

Degraded = Literal["fallback", "deadline", "incomplete", "input_order"]
"""Why a result is less than what was asked: another backend answered, time ran out, texts came back without a score, or
nothing was scored and the input order stands."""

# Thai, Lao, Tibetan, Burmese, Khmer, Han, kana and hangul by the character.
_DENSE = r"\u0e00-\u109f\u1780-\u17ff\u2e80-\ua4cf\uac00-\ud7af\uf900-\ufaff\uff00-\uffef"
_LOOKS_LIKE_A_TOKEN = re.compile(rf"(?!\s)[{_DENSE}]|[^\W{_DENSE}]{{1,6}}|[^\w\s]|\w")

# Providers round: a probability may arrive as 1.0000001. More than this outside the declared bounds is a wrong
# declaration.
_BOUNDS_SLACK = 1e-4


@dataclass(frozen=True, slots=True)
class Scale:
    """What raw scores are. A backend declares it; nobody guesses it from values.

    `Scale.LOGIT`: any real number, the log-odds of relevance. `Scale.PROBABILITY`: in [0, 1].
    `Scale.similarity(low, high)`: in [low, high]. `Scale.RANK`: an order, nothing more. `Scale.UNKNOWN`: higher is
    better, nothing more is known.
    """

    kind: Literal["logit", "probability", "similarity", "rank", "unknown"]
    low: float = -math.inf
    high: float = math.inf

    LOGIT: ClassVar[Scale]
    PROBABILITY: ClassVar[Scale]
    RANK: ClassVar[Scale]
    UNKNOWN: ClassVar[Scale]

    def __post_init__(self) -> None:
        bounds = {"probability": (0.0, 1.0), "logit": (-math.inf, math.inf)}
        if self.kind not in (*bounds, "similarity", "rank", "unknown"):
            raise ValueError(
                f"no scale {self.kind!r}; take Scale.LOGIT, PROBABILITY, RANK, UNKNOWN or similarity(low, high)"
            )
        if self.kind == "similarity" and not (
            math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high
        ):
            raise ValueError(f"similarity bounds must be finite with low < high, not {self.low!r} and {self.high!r}")
        if (self.low, self.high) != bounds.get(self.kind, (self.low, self.high)):
            raise ValueError(f"scale {self.kind} has the bounds {bounds[self.kind]}, not {(self.low, self.high)}")

    @staticmethod
    def similarity(low: float, high: float) -> Scale:
        """Return the scale of scores that lie in [low, high]; both finite, low < high."""
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"similarity bounds must be finite with low < high, not {low!r} and {high!r}")
        return Scale("similarity", float(low), float(high))

    @property
    def absolute(self) -> bool:
        """Whether a score means the same in every ranking: what a threshold, an average or a calibration needs."""
        return self.kind not in ("rank", "unknown")

    def to_unit(self, raw: float) -> float:
        """Return a raw score in [0, 1], never falling as `raw` rises.

        LOGIT by the sigmoid, PROBABILITY as it is, a similarity linearly over its bounds.

        Raises:
            ValueError: The scale is not `absolute`.
        """
        if self.kind == "logit":
            # exp(x) / (1 + exp(x)) can fall by a last bit as x rises; this cannot. exp overflows above 709.
            return 1 / (1 + math.exp(min(-raw, 709.0)))
        if not self.absolute:
            raise ValueError(f"a score of scale {self.kind} has no place in [0, 1]; only its rank has")
        return min(max((raw - self.low) / (self.high - self.low), 0.0), 1.0)


Scale.LOGIT = Scale("logit")
Scale.PROBABILITY = Scale("probability", 0.0, 1.0)
Scale.RANK = Scale("rank")
Scale.UNKNOWN = Scale("unknown")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a scoring took. 0 means none; None means not known, and adding to it stays not known."""

    calls: int = 0
    """Requests that left the process."""
    input_tokens: int | None = 0
    """Tokens read: by a remote model as billed, by a local one as computed."""
    output_tokens: int | None = 0
    """Tokens written by a language model."""
    search_units: int | None = 0
    """Search units billed; one unit is a query with up to 100 documents."""
    cost_usd: float | None = 0.0
    """US dollars."""
    cache_hits: int = 0
    """Texts answered from a cache."""
    cache_misses: int = 0
    """Texts looked up in a cache and not found."""
    estimated: bool = False
    """Whether any figure is an estimate rather than the provider's."""

    def __add__(self, other: Usage) -> Usage:
        def plus(a: int | None, b: int | None) -> int | None:
            return None if a is None or b is None else a + b

        return Usage(
            calls=self.calls + other.calls,
            input_tokens=plus(self.input_tokens, other.input_tokens),
            output_tokens=plus(self.output_tokens, other.output_tokens),
            search_units=plus(self.search_units, other.search_units),
            cost_usd=None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd,
            cache_hits=self.cache_hits + other.cache_hits,
            cache_misses=self.cache_misses + other.cache_misses,
            estimated=self.estimated or other.estimated,
        )


@dataclass(frozen=True, slots=True)
class Attempt:
    """One backend that was tried, and its error; None if it answered."""

    backend: str
    model: str
    error: str | None = None
    """Its type and message, as in "RateLimitError: ..."."""
    degraded: Degraded | None = None
    """What the answer of this backend lacks, if anything."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What a backend says of n texts, in the order they came.

    A backend that has nothing to add to the values may return the plain list instead.
    """

    values: Sequence[float | None]
    """One finite raw score per text, higher is better; None = not scored."""
    order: Sequence[int] | None = None
    """Text indices, best first, as a server gave them; it breaks ties only. Indices left out come after the others."""
    details: Sequence[Mapping[str, object] | None] | None = None
    """One mapping or None per text: best window, spans, scores of stages."""
    usage: Usage = field(default_factory=Usage)
    truncated: int = 0
    """How many texts were cut to the model's length."""
    cut: Sequence[bool] | None = None
    """Whether each text was cut, where the backend knows of each; `truncated` is then their number, filled in for it."""
    degraded: Degraded | None = None
    attempts: Sequence[Attempt] = ()
    """Who was tried, where more than one was."""
    scale: Scale | None = None
    """The scale of these values, where it may differ from the backend's (a fallback answered). None = the backend's."""
    elapsed_ms: float = 0.0
    """Wall time in milliseconds; filled in by `Backend.score`."""
    min_score: float | None = None
    """The threshold, in [0, 1], that takes the place of the caller's, if there is one (a fallback with its own answered)."""


class Backend(ABC):
    """Scores one query against n texts. A subclass declares the attributes and writes `_score`.

    Instances are safe under threads, load what they need on first use, and pickle without it.
    """

    name: str
    """The name it is registered under, such as "cross-encoder"."""
    model: str
    """What is loaded, as its provider names it."""
    scale: Scale
    """What the raw scores are."""
    pointwise: bool
    """Whether a text's score ignores the other texts. Only then may it be cached, windowed or scored in parts."""
    secrets: Mapping[str, str] = MappingProxyType({})
    """Which arguments of its constructor are secrets, with the environment variable that each goes by."""

    @property
    def fingerprint(self) -> str:
        """Return what a cache must know: equal fingerprints promise equal scores.

        The default names backend and model. Override it where an option, a revision or a prompt changes a score.
        """
        return f"{self.name}:{self.model}"

    @abstractmethod
    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Sequence[float | None] | Scores:
        """Return one value per text, in the order of `texts`, higher is better, None = not scored.

        Args:
            query: Not blank.
            texts: At least one; none is blank.
            top_n: How many of the best will be kept, if known: a hint for those who can save work by it.

        `remaining_s()` says how much time the caller left; stop between texts and leave the rest None, with
        `degraded="deadline"`, or raise `DeadlineError`. Whatever else is raised reaches the caller as a `BackendError`.
        """

    async def _ascore(
        self, query: str, texts: Sequence[str], *, top_n: int | None = None
    ) -> Sequence[float | None] | Scores:
        """Return what `_score` returns. The default runs it in a thread; override it where the work is waiting."""
        from asyncio import CancelledError, to_thread

        with bounded(math.inf) as bound:
            try:
                return await to_thread(self._score, query, texts, top_n=top_n)
            except CancelledError:
                bound.end = -math.inf  # the thread goes on, but starts nothing more
                raise

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return where each token of the text begins and ends, in characters, in their order, as the model counts tokens.

        For those who cut a text into windows or fill a budget. The default counts what looks like a token: up to six letters or
        digits on end, one of a script without blanks, one other character that is no blank. Override it where there is a
        tokenizer.
        """
        return [match.span() for match in _LOOKS_LIKE_A_TOKEN.finditer(text)]

    @final
    def score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        """Return checked scores for `texts`, in their order; blank texts are not scored and never sent.

        Raises:
            ValueError: The query is blank.
            TypeError: The query or a text is not a string, or `texts` is one string.
            BackendError: The backend failed, or what it returned is not a scoring of the texts.
        """
        asked = _texts_to_score(query, texts)
        if not asked:
            return Scores((None,) * len(texts), scale=self.scale if texts else None)
        start = time.perf_counter()
        try:
            reply = self._score(query, [texts[i] for i in asked], top_n=top_n)
            return _checked(self, reply, asked, len(texts), start)
        except RerankxError:
            raise
        except Exception as error:
            raise _failure(self, error, len(asked)) from error

    @final
    async def ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        """Return what `score` returns, without blocking the event loop."""
        asked = _texts_to_score(query, texts)
        if not asked:
            return Scores((None,) * len(texts), scale=self.scale if texts else None)
        start = time.perf_counter()
        try:
            reply = await self._ascore(query, [texts[i] for i in asked], top_n=top_n)
            return _checked(self, reply, asked, len(texts), start)
        except RerankxError:
            raise
        except Exception as error:
            raise _failure(self, error, len(asked)) from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}:{self.model}>"


class _Bound:
    """When the caller's time is up; `end` may be moved by the caller, from any thread."""

    __slots__ = ("end", "outer")

    def __init__(self, end: float, outer: _Bound | None) -> None:
        self.end, self.outer = end, outer

    def nearest(self) -> float:
        return self.end if self.outer is None else min(self.end, self.outer.nearest())


_bound: ContextVar[_Bound | None] = ContextVar("rerankx_bound", default=None)


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """Bound what runs inside to `seconds` from now; an outer, nearer bound stays. None adds no bound."""
    if seconds is None:
        yield
        return
    with bounded(time.monotonic() + seconds):
        yield


@contextmanager
def bounded(end: float) -> Iterator[_Bound]:
    """Bound what runs inside, in whatever thread, by an end on `time.monotonic` that may be moved: `bound.end = -math.inf`."""
    bound = _Bound(end, _bound.get())
    token = _bound.set(bound)
    try:
        yield bound
    finally:
        _bound.reset(token)


def remaining_s() -> float | None:
    """Return the seconds left of the caller's deadline, below 0 when it has passed; None if there is none."""
    bound = _bound.get()
    end = math.inf if bound is None else bound.nearest()
    return None if end == math.inf else end - time.monotonic()


def out_of_time() -> Callable[[], bool]:
    """Return a function that says, in any thread, whether the caller's deadline has passed or the caller has gone."""
    bound = _bound.get()
    return lambda: bound is not None and bound.nearest() <= time.monotonic()


def _texts_to_score(query: str, texts: Sequence[str]) -> list[int]:
    """Return the indices of the texts that are not blank."""
    check_query(query)
    if isinstance(texts, str):
        raise TypeError("texts is one string; pass a list of strings")
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"text {i} is {type(text).__name__}, not a string")
    return [i for i, text in enumerate(texts) if text.strip()]


def _failure(backend: Backend, error: Exception, n: int) -> BackendError:
    # The cause's own message may quote a document or a key: it stays in the chained traceback, out of ours.
    return BackendError(
        f"backend {backend.name!r} (model {backend.model!r}) failed while scoring {n} texts: {type(error).__name__}"
    )


def _checked(
    backend: Backend, reply: Sequence[float | None] | Scores, asked: list[int], n: int, start: float
) -> Scores:
    """Return `reply`, which is about the texts `asked`, as valid scores about all n texts.

    Raises:
        ReplyError: It is not a scoring of those texts.
    """
    elapsed_ms = (time.perf_counter() - start) * 1000
    scores = reply if isinstance(reply, Scores) else Scores(reply)
    scale = scores.scale or backend.scale
    cut: list[bool | None] | None = None
    where = f"backend {backend.name!r} (model {backend.model!r})"

    def spread(items: Sequence[_T | None], what: str) -> list[_T | None]:
        if isinstance(items, str | bytes | Mapping | Set) or not hasattr(items, "__len__"):
            raise ReplyError(f"{where} returned {type(items).__name__} as {what}; expected a sequence")
        if len(items) != len(asked):
            raise ReplyError(f"{where} returned {len(items)} {what} for {len(asked)} texts; expected one per text")
        out: list[_T | None] = [None] * n
        for i, item in zip(asked, items, strict=True):
            out[i] = item
        return out

    values = [_value(v, scale, f"{where}, text {i}") for i, v in enumerate(spread(scores.values, "scores"))]
    order = None
    if scores.order is not None:
        order = tuple(i.__index__() if hasattr(i, "__index__") else -1 for i in scores.order)
        if len(set(order)) < len(order) or any(not 0 <= i < len(asked) for i in order):
            raise ReplyError(f"{where} returned an order with repeated or foreign indices for {len(asked)} texts")
        order = tuple(asked[i] for i in order)
    details = None if scores.details is None else tuple(spread(scores.details, "details"))
    if not all(detail is None or isinstance(detail, Mapping) for detail in details or ()):
        raise ReplyError(f"{where} returned details that are neither a mapping nor None")
    truncated = scores.truncated
    if scores.cut is not None:
        cut = spread(scores.cut, "flags for what was cut")
        truncated = sum(map(bool, cut))
    for name, expected in (("usage", Usage), ("truncated", int)):
        if not isinstance(getattr(scores, name), expected):
            kind = type(getattr(scores, name)).__name__
            raise ReplyError(f"{where}: {name} is a {kind}; expected {expected.__name__}")
    threshold = scores.min_score
    if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
        raise ReplyError(f"{where} returned min_score={str(threshold)[:40]!r}; expected a number in [0, 1] or None")
    if scores.degraded not in (None, *get_args(Degraded)):
        raise ReplyError(f"{where} returned degraded={str(scores.degraded)[:40]!r}; known: {get_args(Degraded)}")
    # Part of the texts may be left unscored on purpose; all of them is no scoring, whatever the backend calls it.
    nothing = all(value is None for value in values)
    degraded = "incomplete" if nothing and scores.degraded is None else scores.degraded
    return replace(
        scores, values=tuple(values), order=order, details=details, attempts=tuple(scores.attempts), scale=scale,
        elapsed_ms=elapsed_ms, degraded=degraded, truncated=truncated, cut=None if cut is None else tuple(map(bool, cut)),
    )  # fmt: skip


def _value(value: object, scale: Scale, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool | str) or not hasattr(value, "__float__"):
        raise ReplyError(f"{where}: a score must be a number or None, not {type(value).__name__}")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:  # an array of two logits, say
        raise ReplyError(f"{where}: a score must be one number, not {type(value).__name__}") from error
    if not math.isfinite(number):
        raise ReplyError(f"{where}: the score is {number}; scores must be finite")
    if not scale.low - _BOUNDS_SLACK <= number <= scale.high + _BOUNDS_SLACK:
        declared = f"{scale.kind} [{scale.low:g}, {scale.high:g}]"
        raise ReplyError(f"{where}: score {number:g} lies outside the declared {declared}")
    return number
