"""`Calibrated`: a backend whose scores are probabilities of relevance, by a curve that was fitted to judged pairs."""

from __future__ import annotations

import json
import math
import os
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from hashlib import blake2b
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import Literal, NamedTuple, Self, get_args

from rerankx.arguments import shown
from rerankx.compose.made import known_scale, made, title
from rerankx.errors import OptionError
from rerankx.interface import Backend, Scale, Scores
from rerankx.ranking import best_first

Method = Literal["platt", "temperature", "isotonic"]

_FORMAT, _VERSION = "rerankx calibration", 1
# The log-odds of 0 and 1 are infinite; with this margin they are -13.8 and 13.8, about as far as logits of models go.
_MARGIN = 1e-6
# How much of an isotonic curve is a slope of its own: enough for its steps to keep the order of scores, too little to see.
_TILT = 1e-6


class Bin(NamedTuple):
    """What is said of the pairs whose probability lies in [low, high), the last bin's in [low, 1]."""

    low: float
    high: float
    n: int
    """How many pairs."""
    predicted: float
    """The mean of their probabilities."""
    relevant: float
    """The share of them that is relevant."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """The probabilities of relevance that belong to a backend's raw scores, on one corpus. Made by `Calibrator.fit`.

    The curve runs over x: a logit itself, the log-odds of a probability p (of 1e-6 + (1 - 2e-6) p, so that 0 and 1 have some), or
    a similarity linearly over its bounds as [0, 1]. It never falls, so that it changes no order.

    Raises:
        TypeError: A field of the wrong type.
        ValueError: The curve falls or is none; a scale that is only an order.
    """

    method: Method
    scale: Scale
    """What the raw scores are."""
    fingerprint: str
    """Whose scores they are: `Backend.fingerprint`."""
    corpus: str
    """The name of what it was fitted on."""
    slope: float = 0.0
    """Of "platt" and "temperature", whose curve is 1 / (1 + exp(-(slope x + intercept))); above 0. A temperature is 1 / slope."""
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    """Of "isotonic": x, rising, and its probability, never falling. Straight between two, level outside."""
    n: int = 0
    """How many labels it was fitted to."""
    relevant: int = 0
    """How many of them were relevant."""
    ece: float | None = None
    """Expected calibration error in [0, 1] over `bins`, of pairs that were held out, as in `Calibrator.fit`; None: not known."""
    brier: float | None = None
    """Mean squared error of the probability in [0, 1], of the same pairs."""
    bins: tuple[Bin, ...] = ()
    """A reliability plot of the same pairs; without empty bins."""
    notes: tuple[str, ...] = ()
    """What speaks against trusting it, a sentence each."""
    date: str | None = None
    """When it was fitted, as the caller says."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise ValueError(f"method must be one of {', '.join(get_args(Method))}, not {shown(self.method)}")
        if not isinstance(self.scale, Scale):
            raise TypeError(f"scale must be a rerankx.Scale, not {shown(self.scale)}")
        for name in ("fingerprint", "corpus"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a string, not {shown(getattr(self, name))}")
        check_calibrates(self.scale, self.method)
        if self.method == "isotonic":
            _check_knots(self.knots)
        elif not (0 < self.slope < math.inf and math.isfinite(self.intercept)):
            raise ValueError(
                f"slope and intercept must be finite and the slope above 0, not {self.slope}, {self.intercept}"
            )

    def probability(self, raw: float) -> float:
        """Return the probability in [0, 1] that a text with this raw score is relevant, never falling as `raw` rises.

        Raises:
            ValueError: `raw` is nan.
        """
        if math.isnan(raw):
            raise ValueError("raw is nan; leave out what was not scored")
        x = to_axis(self.scale, raw)
        if self.method == "isotonic":
            return min((1 - _TILT) * self._step(x) + _TILT * _rise(x), 1.0)
        return Scale.LOGIT.to_unit(self.slope * x + self.intercept)

    def _step(self, x: float) -> float:
        i = bisect_right(self.knots, x, key=itemgetter(0))
        if i in (0, len(self.knots)):
            return self.knots[max(i - 1, 0)][1]
        (left, low), (right, high) = self.knots[i - 1 : i + 1]
        return min(low + (high - low) * ((x - left) / (right - left)), high)  # a last bit above the next one would fall

    def to_dict(self) -> dict[str, object]:
        """Return it as plain data, from which `from_dict` makes an equal one."""
        plain: dict[str, object] = {field.name: getattr(self, field.name) for field in fields(self)}
        scale: dict[str, object] = {"kind": self.scale.kind}
        if self.scale.kind == "similarity":
            scale |= {"low": self.scale.low, "high": self.scale.high}
        lists = {"knots": list(map(list, self.knots)), "bins": list(map(list, self.bins)), "notes": list(self.notes)}
        return {"format": _FORMAT, "version": _VERSION, **plain, "scale": scale, **lists}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Self:
        """Return the calibration that `to_dict` wrote.

        Raises:
            ValueError: It is none, or of another version.
        """
        if not isinstance(data, Mapping) or data.get("format") != _FORMAT:
            raise ValueError(f'it is no calibration: "format" is not {_FORMAT!r}')
        if data.get("version") != _VERSION:
            raise ValueError(
                f"it is of version {shown(data.get('version'))}; this rerankx reads {_VERSION}: fit it anew"
            )
        given = {field.name: data[field.name] for field in fields(cls) if field.name in data}
        try:
            given["scale"] = _scale(given["scale"])
            given["knots"] = tuple((x, p) for x, p in given.get("knots", ()))  # type: ignore[attr-defined]  # or a TypeError
            given["bins"] = tuple(Bin(*row) for row in given.get("bins", ()))  # type: ignore[attr-defined]
            given["notes"] = tuple(given.get("notes", ()))  # type: ignore[arg-type]
            return cls(**given)  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError) as error:
            told = f"no {error}" if isinstance(error, KeyError) else error
            raise ValueError(f"it is no calibration: {told}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a JSON file; it holds numbers and names, no texts.

        Raises:
            OSError: It cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
        Path(path).expanduser().write_text(text + "\n", "utf-8")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the calibration that `save` wrote.

        Raises:
            OSError: The file cannot be read.
            ValueError: It holds no calibration, or one of another version.
        """
        try:
            return cls.from_dict(json.loads(Path(path).expanduser().read_text("utf-8-sig")))
        except ValueError as error:  # JSON's own and that of wrong bytes are some
            raise ValueError(f"{os.fspath(path)}: {error}") from error


class Calibrated(Backend):
    """Scores as its backend does, as probabilities of relevance: a threshold means the same whatever is behind it.

        calibrator = Calibrator.fit(scores, labels, scale=backend.scale, fingerprint=backend.fingerprint, corpus="support")
        Reranker(Calibrated(backend, calibrator)).rerank(query, documents, min_score=0.5)

    The order is the backend's. `details` keep its own score: {"raw_score": 3.2}. A calibration holds for the backend, options and
    all, and the corpus that it was fitted on; on another corpus it says little.

    An answer on another scale than the backend's, or with a threshold of its own, is passed on as it is, with that scale.

    Args:
        backend: A name such as "minilm" or "backend:model", or a `Backend`; pointwise. A name takes no options.
        calibrator: What `Calibrator.fit` returned, the path of its file, or its `to_dict()`.
        check: Whether scoring is refused where `backend.fingerprint` is not the one that the calibrator was fitted to. It differs
            by model, revision, option and device: fitted on one device for use on another, say False.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: It needs a package that is not installed.
        TypeError: An argument of the wrong type.
        ValueError: A backend that is not pointwise, a calibrator of another scale, or what is no calibrator. (For
            another fingerprint, and for a scale that only a model's configuration tells, scoring raises `OptionError`.)
        OSError: The file cannot be read.
    """

    name = "calibrated"
    scale = Scale.PROBABILITY
    pointwise = True

    def __init__(
        self,
        backend: str | Backend,
        calibrator: Calibration | Mapping[str, object] | str | os.PathLike[str],
        *,
        check: bool = True,
    ) -> None:
        self.backend = made("backend to calibrate", backend)
        if not self.backend.pointwise:
            raise ValueError(
                f"only pointwise scores can be calibrated, and those of {self.backend.name!r} depend on the other texts or on who"
                " answers; calibrate its parts instead, as in Fallback(Calibrated('cohere', 'cohere.json'), 'minilm')"
            )
        self.calibrator = _calibration(calibrator)
        self.check = check
        if (scale := known_scale(self.backend)) is not None:
            self._check_scale(scale)

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return backend and model: "cross-encoder:..."."""
        return title(self.backend)

    @property
    def fingerprint(self) -> str:
        """Return the backend's, and what names the curve."""
        one = self.calibrator
        curve = repr((one.method, one.scale, one.slope, one.intercept, one.knots))
        digest = blake2b(curve.encode(), digest_size=8).hexdigest()
        return f"{self.name}.{_VERSION}:{digest}:[{self.backend.fingerprint!r}]"

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the backend's."""
        return self.backend.token_spans(text)

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        self._check()
        return self._calibrated(self.backend.score(query, texts, top_n=top_n))

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        from asyncio import to_thread

        await to_thread(self._check)  # a model's files may have to be looked up
        return self._calibrated(await self.backend.ascore(query, texts, top_n=top_n))

    def _calibrated(self, scores: Scores) -> Scores:
        if scores.scale != self.calibrator.scale or scores.min_score is not None:
            return scores
        raws, details, order = scores.values, scores.details or [None] * len(scores.values), scores.order
        values = [None if raw is None else self.calibrator.probability(raw) for raw in raws]
        if len(set(values)) < len(set(raws)):  # rounding has made ties of what was told apart
            order = best_first(raws, order)
        return replace(
            scores,
            values=values,
            order=order,
            details=[
                detail if raw is None else {**(detail or {}), "raw_score": raw}
                for raw, detail in zip(raws, details, strict=True)
            ],
            scale=self.scale,
        )

    def _check(self) -> None:
        self._check_scale(self.backend.scale)
        if self.check and (found := self.backend.fingerprint) != self.calibrator.fingerprint:
            raise OptionError(
                f"the calibrator was fitted to the scores of {self.calibrator.fingerprint!r}, not to those of {found!r}; fit"
                " one to these, or pass check=False if you know that they are the same"
            )

    def _check_scale(self, scale: Scale) -> None:
        if scale != self.calibrator.scale:
            raise OptionError(
                f"the calibrator was fitted to scores on {_told(self.calibrator.scale)}, and those of {title(self.backend)} are"
                f" on {_told(scale)}; fit one to them"
            )


def check_calibrates(scale: Scale, method: Method) -> None:
    """Raise a ValueError if scores on this scale cannot be calibrated so."""
    if not scale.absolute:
        raise ValueError(f"scores of scale {scale.kind} are only an order within one query, and cannot be calibrated")
    if method == "temperature" and scale.kind == "similarity":
        raise ValueError("a similarity has no log-odds that a temperature could divide; take method='platt'")


def to_axis(scale: Scale, raw: float) -> float:
    """Return where a raw score stands on the axis that curves run over, rising with it: see `Calibration`."""
    if scale.kind == "logit":
        return float(raw)
    unit = scale.to_unit(raw)
    if scale.kind == "similarity":
        return unit
    inner = _MARGIN + (1 - 2 * _MARGIN) * unit
    return math.log(inner / (1 - inner))


def _rise(x: float) -> float:
    """Return a number in [0, 1] that rises with x, and so slowly that it still does far out."""
    return 0.5 / (1 - x) if x <= 0 else 1 - 0.5 / (1 + x)


def _check_knots(knots: Sequence[tuple[float, float]]) -> None:
    if not knots:
        raise ValueError("an isotonic curve needs at least one knot")
    if not all(math.isfinite(x) and 0 <= p <= 1 for x, p in knots):
        raise ValueError("knots must be pairs of a finite number and a probability in [0, 1]")
    if any(right <= left or high < low for (left, low), (right, high) in pairwise(knots)):
        raise ValueError("knots must rise, and their probabilities must never fall")


def _calibration(given: object) -> Calibration:
    if isinstance(given, Calibration):
        return given
    if isinstance(given, str | os.PathLike):
        return Calibration.load(given)
    if isinstance(given, Mapping):
        return Calibration.from_dict(given)
    raise TypeError(f"calibrator must be a Calibrator, the path of its file or its to_dict(), not {shown(given)}")


def _scale(plain: object) -> Scale:
    if not isinstance(plain, Mapping):
        raise TypeError(f"scale must be a mapping, not {shown(plain)}")
    if plain["kind"] == "similarity":
        return Scale.similarity(plain["low"], plain["high"])
    return Scale.PROBABILITY if plain["kind"] == "probability" else Scale(plain["kind"])


def _told(scale: Scale) -> str:
    return f"similarity({scale.low:g}, {scale.high:g})" if scale.kind == "similarity" else scale.kind
