"""Fit what turns a backend's scores into probabilities of relevance, and measure how far such probabilities can be trusted.

Sources: Platt, Advances in Large Margin Classifiers, 1999; Lin, Lin and Weng, Machine Learning 68, 2007,
doi:10.1007/s10994-007-5018-6; Guo et al., ICML 2017, arXiv:1706.04599; Zadrozny and Elkan, KDD 2002, doi:10.1145/775047.775151.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypedDict

from rerankx.arguments import shown
from rerankx.compose.calibrated import Bin, Calibration, Method, check_calibrates, to_axis
from rerankx.compose.made import whole
from rerankx.interface import Scale

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Bin", "Calibrator", "brier_score", "calibration_error", "reliability"]

_FOLDS = 5
# Platt asks for two numbers, isotonic for a whole curve; Niculescu-Mizil and Caruana, ICML 2005, doi:10.1145/1102351.1102430, see
# isotonic regression overfit below about 1,000.
_FEWEST: Mapping[Method, int] = {"platt": 50, "temperature": 50, "isotonic": 500}
# Peduzzi et al., J. Clin. Epidemiol. 49, 1996, doi:10.1016/S0895-4356(96)00236-3: ten of the rarer outcome per number fitted.
_FEWEST_OF_A_KIND = 10
# How far a curve rises, in log-odds, where the scores do not rise with relevance: too little to see, enough to keep their order.
_LEAST_RISE = 4e-6


class Calibrator(Calibration):
    """A `Calibration` that can be fitted.

        calibrator = Calibrator.fit(scores, labels, scale=backend.scale, fingerprint=backend.fingerprint, corpus="support")
        calibrator.save("minilm-support.json")
        Reranker(Calibrated("minilm", "minilm-support.json"))

    The probabilities are those of candidates like the ones that were judged: from the same first stage, to the same depth. Among
    candidates of which half as many are relevant, they are too high.
    """

    @staticmethod
    def fit(
        scores: Iterable[float],
        labels: Iterable[float],
        *,
        scale: Scale,
        fingerprint: str,
        corpus: str,
        method: Method = "platt",
        relevant_from: int = 1,
        groups: Iterable[Hashable] | None = None,
        date: str | None = None,
    ) -> Calibrator:
        """Return the curve that fits best to all pairs; its `ece`, `brier` and `bins` are of pairs that were held out.

        Held out by cross-fitting: each fifth of the pairs gets its probabilities from a curve that was fitted to the other four.

        Args:
            scores: The raw score of each judged pair of query and text, on `scale`.
            labels: The grade of each, a whole number; booleans will do.
            scale: `Backend.scale`.
            fingerprint: `Backend.fingerprint`.
            corpus: A name for what the pairs are from.
            method: "platt", a logistic curve, two numbers, good from 50 labels; "temperature", one number, for logits and
                probabilities that are only too sharp or too flat; "isotonic", any curve that does not fall, from 500 labels. The
                first two are fitted to Platt's targets, just inside 0 and 1, and so are finite where scores tell labels apart.
            relevant_from: Lowest grade that counts as relevant, at least 1.
            groups: The query of each pair. Pairs of a query are then held out together, as they should be; None = each by itself.
            date: When this was, to be kept with it.

        Returns:
            The calibration. Its `notes` say where there are too few labels, and where the scores do not rise with relevance: the
            curve is then level but for a slope too small to see.

        Raises:
            TypeError: An argument of the wrong type.
            ValueError: No pairs, all of them relevant or none; scores that are not on the scale; grades that are not
                whole numbers; arguments of unequal length; a scale that is only an order, or a similarity for "temperature".
        """
        import numpy as np

        if not isinstance(scale, Scale):
            raise TypeError(f"scale must be a rerankx.Scale, such as backend.scale, not {shown(scale)}")
        if method not in _FEWEST:
            raise ValueError(f"method must be one of {', '.join(_FEWEST)}, not {shown(method)}")
        check_calibrates(scale, method)
        raws, relevant = _scores(scores, scale), _relevance(labels, relevant_from)
        queries = list(range(len(raws)) if groups is None else groups)
        if not len(raws) == len(relevant) == len(queries):
            more = "" if groups is None else f" and {len(queries)} groups"
            raise ValueError(f"{len(raws)} scores, {len(relevant)} labels{more}: expected one of each per pair")
        if (found := sum(relevant)) in (0, len(raws)):
            told = (
                "there are no pairs" if not raws else f"{'all' if found else 'none'} of {len(raws)} pairs are relevant"
            )
            raise ValueError(f"{told}; a curve needs some that are and some that are not")

        axis, truth = np.array([to_axis(scale, raw) for raw in raws]), np.array(relevant, float)

        def fitted(rows: Sequence[int]) -> Calibrator:
            curve = _fitted(method, axis[rows], truth[rows])
            return Calibrator(method=method, scale=scale, fingerprint=fingerprint, corpus=corpus, **curve)

        every = range(len(raws))
        best, folds = fitted(every), _folds(relevant, queries)
        held_out: list[float] = [math.nan] * len(raws)
        for fold in folds:
            curve = fitted(sorted(set(every) - set(fold)))
            for i in fold:
                held_out[i] = curve.probability(raws[i])
        return replace(
            best,
            n=len(raws),
            relevant=found,
            ece=calibration_error(held_out, relevant) if folds else None,
            brier=brier_score(held_out, relevant) if folds else None,
            bins=reliability(held_out, relevant) if folds else (),
            notes=tuple(_notes(method, relevant, folds, rises=_rises(best, axis))),
            date=date,
        )


def reliability(probabilities: Iterable[float], labels: Iterable[float], *, bins: int = 10) -> tuple[Bin, ...]:
    """Return what a reliability plot shows: per bin of equal width, the mean probability and the share that is relevant.

    Args:
        probabilities: In [0, 1], one per pair.
        labels: 0 or 1, or booleans; any grade from 1 is relevant.
        bins: How many, at least 1.

    Returns:
        The bins that are not empty, from low to high.

    Raises:
        ValueError: Numbers out of their range, or of unequal lengths.
    """
    predicted, relevant = _pairs(probabilities, labels)
    whole("bins", bins)
    members: list[list[int]] = [[] for _ in range(bins)]
    for i, p in enumerate(predicted):
        members[min(int(p * bins), bins - 1)].append(i)
    return tuple(
        Bin(
            low=b / bins,
            high=(b + 1) / bins,
            n=len(rows),
            predicted=math.fsum(predicted[i] for i in rows) / len(rows),
            relevant=sum(relevant[i] for i in rows) / len(rows),
        )
        for b, rows in enumerate(members)
        if rows
    )


def calibration_error(probabilities: Iterable[float], labels: Iterable[float], *, bins: int = 10) -> float:
    """Return the expected calibration error in [0, 1]: how far the two numbers of each bin lie apart, weighted by pairs.

    Arguments and errors are those of `reliability`, and no pairs are a ValueError. Of n pairs that are perfectly calibrated it is
    not 0, but about as much as chance puts shares off: 0.03 to 0.1 with 100 to 1,000 pairs that fill all bins.

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015, doi:10.1609/aaai.v29i1.9602.
    """
    found = reliability(probabilities, labels, bins=bins)
    if not found:
        raise ValueError("there are no pairs; expected at least one")
    return math.fsum(one.n * abs(one.predicted - one.relevant) for one in found) / sum(one.n for one in found)


def brier_score(probabilities: Iterable[float], labels: Iterable[float]) -> float:
    """Return the mean squared difference between probability and truth, in [0, 1]; lower is better.

    Always to say the share r that is relevant scores r (1 - r).

    Raises:
        ValueError: Numbers out of their range or of unequal lengths, or none.

    Source: Brier, Monthly Weather Review 78, 1950.
    """
    predicted, relevant = _pairs(probabilities, labels)
    if not predicted:
        raise ValueError("there are no pairs; expected at least one")
    return math.fsum((p - y) ** 2 for p, y in zip(predicted, relevant, strict=True)) / len(predicted)


# What is given, checked


def _listed(name: str, values: Iterable[float]) -> list[float]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a list of numbers, not {type(values).__name__}")
    return list(values)


def _number(name: str, i: int, value: object) -> float:
    if isinstance(value, str) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} {i} is {shown(value)}; expected a number")
    return float(value)


def _scores(values: Iterable[float], scale: Scale) -> list[float]:
    raws = [_number("score", i, value) for i, value in enumerate(_listed("scores", values))]
    slack = 1e-4  # providers round
    for i, raw in enumerate(raws):
        if not math.isfinite(raw):
            raise ValueError(f"score {i} is {raw}; scores must be finite, and what was not scored is left out")
        if not scale.low - slack <= raw <= scale.high + slack:
            raise ValueError(f"score {i} is {raw:g}, outside of {scale.kind} [{scale.low:g}, {scale.high:g}]")
    return raws


def _relevance(labels: Iterable[float], relevant_from: int = 1) -> list[bool]:
    lowest = whole("relevant_from", relevant_from)
    grades = [_number("label", i, value) for i, value in enumerate(_listed("labels", labels))]
    for i, grade in enumerate(grades):
        if not grade.is_integer():
            raise ValueError(f"label {i} is {grade}; expected a whole number")
    return [grade >= lowest for grade in grades]


def _pairs(probabilities: Iterable[float], labels: Iterable[float]) -> tuple[list[float], list[bool]]:
    predicted = [_number("probability", i, p) for i, p in enumerate(_listed("probabilities", probabilities))]
    relevant = _relevance(labels)
    if len(predicted) != len(relevant):
        raise ValueError(f"{len(predicted)} probabilities, {len(relevant)} labels: expected one of each per pair")
    for i, p in enumerate(predicted):
        if not 0 <= p <= 1:
            raise ValueError(f"probability {i} is {p}; expected one in [0, 1]")
    return predicted, relevant


# Fitting


class _Curve(TypedDict, total=False):
    slope: float
    intercept: float
    knots: tuple[tuple[float, float], ...]


def _fitted(method: Method, x: NDArray[np.float64], truth: NDArray[np.float64]) -> _Curve:
    if method == "isotonic":
        return {"knots": _isotonic(x, truth)}
    import numpy as np

    # Platt's targets: what the labels say, and one more pair of either kind.
    relevant = truth.sum()
    targets = np.where(truth > 0, (relevant + 1) / (relevant + 2), 1 / (len(truth) - relevant + 2))
    # Of equal numbers the deviation may be 1e-17, and of nearly equal ones 0.
    apart = np.ptp(x) > 1e-9 * max(1.0, np.abs(x).max())
    least = _LEAST_RISE / (np.ptp(x) if apart else 1.0)
    if method == "temperature":
        unit = np.abs(x).max() or 1.0
        slope = _logistic((x / unit)[:, None], targets)[0] / unit
        return {"slope": float(max(slope, least))}
    middle, unit = x.mean(), x.std() if apart else 1.0
    rise, level = _logistic(np.column_stack([(x - middle) / unit, np.ones_like(x)]), targets)
    if rise / unit < least:  # the best of the curves that do not fall
        mean = targets.mean()
        rise, level = least * unit, np.log(mean / (1 - mean))
    return {"slope": float(rise / unit), "intercept": float(level - rise * middle / unit)}


def _logistic(columns: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the weights [d] of the logistic curve over columns [n, d] that is likeliest for targets [n] inside (0, 1).

    Newton's method with step halving, after Lin, Lin and Weng 2007.
    """
    import numpy as np

    def loss(weights: NDArray[np.float64]) -> float:
        z = columns @ weights
        return float((np.logaddexp(0, z) - targets * z).sum())

    weights = np.zeros(columns.shape[1])
    now = loss(weights)
    for _ in range(100):
        p = np.exp(-np.logaddexp(0, -(columns @ weights)))
        gradient = columns.T @ (p - targets)
        hessian = (columns * (p * (1 - p))[:, None]).T @ columns + 1e-12 * np.eye(len(weights))
        step = np.linalg.solve(hessian, gradient)
        size, new = 1.0, loss(weights - step)
        while new > now - 1e-4 * size * (gradient @ step) and size > 1e-10:
            size /= 2
            new = loss(weights - size * step)
        if not new < now:
            break
        weights, now = weights - size * step, new
    return weights


def _isotonic(x: NDArray[np.float64], truth: NDArray[np.float64]) -> tuple[tuple[float, float], ...]:
    """Return the ends of the level parts of the curve that fits best of those that never fall: pool adjacent violators."""
    import numpy as np

    places, index, counts = np.unique(x, return_inverse=True, return_counts=True)
    sums = np.bincount(index, weights=truth)
    parts: list[tuple[float, float, float, int]] = []  # left, right, sum, count
    for place, total, count in zip(places.tolist(), sums.tolist(), counts.tolist(), strict=True):
        left = place
        while parts and parts[-1][2] * count >= total * parts[-1][3]:
            left, _, before, n = parts.pop()
            total, count = total + before, count + n
        parts.append((left, place, total, count))
    ends = [(end, total / count) for left, right, total, count in parts for end in dict.fromkeys((left, right))]
    return tuple(ends)


def _folds(relevant: Sequence[bool], groups: Sequence[Hashable]) -> list[list[int]]:
    """Return the pairs in up to five parts, groups whole, each with its share of what is relevant; none if there is one group."""
    import numpy as np

    rows: dict[Hashable, list[int]] = {}
    for i, group in enumerate(groups):
        rows.setdefault(group, []).append(i)
    if len(rows) < 2:
        return []
    members = list(rows.values())
    shuffled = [members[i] for i in np.random.default_rng(0).permutation(len(members))]
    shuffled.sort(key=lambda some: -sum(relevant[i] for i in some))
    folds: list[list[int]] = [[] for _ in range(min(_FOLDS, len(shuffled)))]
    for i, some in enumerate(shuffled):
        folds[i % len(folds)] += some
    return folds


def _rises(curve: Calibration, x: NDArray[np.float64]) -> bool:
    if curve.method == "isotonic":
        return curve.knots[0][1] < curve.knots[-1][1]
    return curve.slope * float(x.max() - x.min()) > 2 * _LEAST_RISE


def _notes(method: Method, relevant: Sequence[bool], folds: Sequence[object], *, rises: bool) -> list[str]:
    notes, n, found = [], len(relevant), sum(relevant)
    if n < (fewest := _FEWEST[method]):
        notes.append(f"{method} wants at least {fewest} labels, and there are {n}")
    rarer, kind = min((found, "relevant"), (n - found, "not relevant"))
    if rarer < _FEWEST_OF_A_KIND:
        notes.append(f"only {rarer} of {n} pairs are {kind}; a curve wants at least {_FEWEST_OF_A_KIND}")
    if not rises:
        notes.append("the scores do not rise with relevance: the probability is the same for all")
    if not folds:
        notes.append("all pairs are of one query: nothing can be held out, so that there is no ece and no brier")
    return notes
