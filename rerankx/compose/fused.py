"""`Fusion`: several backends about the same texts, and the retriever too, as one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, get_args

from rerankx.compose.asking import Ask, Asking, aasked, asked
from rerankx.compose.made import all_made, known_scale, title, whole
from rerankx.compose.retrieval import Retrieval
from rerankx.compose.steps import attempts_of, cut_of, degraded_of, steps_of, with_steps
from rerankx.errors import OptionError, did_you_mean
from rerankx.fusion import Normalise, checked_weights, rrf, weighted_sum
from rerankx.interface import Backend, Scale, Scores, Usage
from rerankx.ranking import best_first

Method = Literal["rrf", "weighted"]


class Fusion(Backend):
    """Orders texts by what several backends say of them together.

        Reranker(Fusion(["retrieval", "embedded"]))
        Reranker(Cascade([Fusion(["retrieval", "embedded"]), "minilm"], keep=20))

    "retrieval" is the retriever's own order, or its scores where there are any. All are asked side by side, about all texts.
    Where one fails, the fusion fails: for another answer give `Fallback("cohere", "minilm")` in its place. A text that none has
    scored is not scored. `Hit.details["steps"]` has everybody's rank and score.

    "rrf" adds up shares of places, weight / (k + rank): it needs no scale. Texts that one scores alike share their places, so
    that one who scores all alike changes nothing; a text that it did not score has no share.

    "weighted" adds up scores, by `normalise`: "minmax" brings each backend's scores of one query to [0, 1], "zscore" to mean 0
    and deviation 1; a text that one did not score has its lowest. The sums mean nothing beyond the query. "none" takes the mean
    of the scores as they are, of backends on one absolute scale, and stays on it: it may be cached, and have a threshold; a text
    that one did not score has none. Where a degraded answer turns out to be on another scale, or only an order (a fallback's, a
    cascade's out of time), that query is fused by "rrf".

    Args:
        backends: Each a name such as "minilm" or "backend:model", or a `Backend`.
        method: "rrf" or "weighted".
        weights: A finite number of at least 0 for each backend, not all 0; None is 1 each.
        k: For "rrf": the offset of ranks, at least 0; None is 60, the source's.
        normalise: For "weighted": "minmax", "zscore" or "none"; None is "minmax".

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: One of them needs a package that is not installed.
        TypeError: An argument of the wrong type.
        ValueError: No backend, an argument out of its range or of the other method.
        OptionError: "weighted" with a backend whose scores are only an order, or "none" with scales that are not one absolute
            scale. What is known only later, since a model's configuration has to be fetched or the retriever gave no scores, is
            raised when texts are ranked.

    Source: Cormack, Clarke and Büttcher, SIGIR 2009, doi:10.1145/1571941.1572114 (rrf); Fox and Shaw, TREC-2, 1994, and Bruch,
    Gai and Ingber, TOIS 2023, doi:10.1145/3596512 (weighted).
    """

    name = "fusion"

    def __init__(
        self,
        backends: Sequence[str | Backend],
        *,
        method: Method = "rrf",
        weights: Sequence[float] | None = None,
        k: int | None = None,
        normalise: Normalise | None = None,
    ) -> None:
        self.backends = all_made("backend {} of a fusion", "backends", backends)
        if method not in get_args(Method):
            raise ValueError(
                f"method must be 'rrf' or 'weighted', not {method!r}{did_you_mean(str(method), get_args(Method))}"
            )
        for name, value, other in (("k", k, "weighted"), ("normalise", normalise, "rrf")):
            if value is not None and method == other:
                raise ValueError(f"{name} is not for method={method!r}; leave it out or take the other method")
        if normalise is not None and normalise not in get_args(Normalise):
            known = ", ".join(map(repr, get_args(Normalise)))
            raise ValueError(f"normalise must be one of {known}, not {normalise!r}")
        self.method: Method = method
        self.weights = (
            None if weights is None else tuple(map(float, checked_weights(weights, len(self.backends), "backends")))
        )
        if self.weights is not None and not math.isfinite(sum(self.weights)):
            raise ValueError("the weights are too large to be added up; their proportion is what counts")
        self.k = None if k is None else whole("k", k, low=0)
        self.normalise: Normalise | None = normalise
        self._check_scales([known_scale(backend) for backend in self.backends])

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return backend and model of each: "retrieval:order-or-score + embedded:..."."""
        return " + ".join(map(title, self.backends))

    @property
    def _offset(self) -> int:
        return 60 if self.k is None else self.k

    @property
    def _keeps_scale(self) -> bool:
        return self.method == "weighted" and self.normalise == "none"

    @property
    def scale(self) -> Scale:  # type: ignore[override]
        """Return the backends' own with `normalise="none"`; else the sums are only an order."""
        if self._keeps_scale:
            return self.backends[0].scale
        return Scale.RANK if self.method == "rrf" else Scale.UNKNOWN

    @property
    def scale_source(self) -> Backend | Scale:
        """Return what decides on the scale: a backend, or nobody but the method."""
        return self.backends[0] if self._keeps_scale else self.scale

    @property
    def pointwise(self) -> bool:  # type: ignore[override]
        """Return whether all are and the scores are taken as they are."""
        return self._keeps_scale and all(backend.pointwise for backend in self.backends)

    @property
    def fingerprint(self) -> str:
        """Return the fingerprints of all, the method and its numbers."""
        how = self._offset if self.method == "rrf" else self.normalise or "minmax"
        return f"{self.name}:{[backend.fingerprint for backend in self.backends]}:{self.method}:{how}:{self.weights}"

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return asked(query, self._asking(texts))

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return await aasked(query, self._asking(texts))

    def _asking(self, texts: Sequence[str]) -> Asking:
        answers = yield [Ask(backend, texts) for backend in self.backends]
        n = len(texts)
        values, scale = self._fused(answers, n)
        numbered = enumerate(zip(self.backends, answers, strict=True), start=1)
        steps = [steps_of(backend, scores, number=i) for i, (backend, scores) in numbered]
        if self.pointwise:  # the same in any company
            steps = [[step and {**step, "rank": None} for step in some] for some in steps]
        cut, truncated = cut_of(n, [(range(n), scores) for scores in answers])
        plain = not any(scores.attempts for scores in answers)
        return Scores(
            values,
            order=answers[0].order if len(answers) == 1 else None,
            details=[with_steps(some) for some in zip(*steps, strict=True)],
            usage=sum((scores.usage for scores in answers), Usage()),
            cut=cut,
            truncated=truncated,
            degraded=degraded_of(
                sorted(answers, key=lambda scores: scores.degraded != "fallback")
            ),  # it decides on thresholds
            attempts=()
            if plain
            else [one for pair in zip(self.backends, answers, strict=True) for one in attempts_of(*pair)],
            scale=scale,
        )

    def _fused(self, answers: Sequence[Scores], n: int) -> tuple[list[float | None], Scale]:
        """Return a score for each text, and the scale it is on."""
        if self.method == "weighted":
            # An answer that is less than what was asked may be on another scale, and is no mistake of the caller's.
            self._check_scales([None if scores.degraded else scores.scale for scores in answers])
            rows, scales = [scores.values for scores in answers], {scores.scale or Scale.UNKNOWN for scores in answers}
            if self._keeps_scale and len(scales) == 1:
                return self._means(rows), scales.pop()
            if not self._keeps_scale and Scale.RANK not in scales:
                return weighted_sum(rows, weights=self.weights, normalise=self.normalise or "minmax"), Scale.UNKNOWN
        shares = rrf(
            [places_of(scores.values, scores.order) for scores in answers], n=n, k=self._offset, weights=self.weights
        )
        scored = [any(scores.values[i] is not None for scores in answers) for i in range(n)]
        return [share if there else None for share, there in zip(shares, scored, strict=True)], Scale.RANK

    def _means(self, rows: Sequence[Sequence[float | None]]) -> list[float | None]:
        weights = self.weights or (1.0,) * len(rows)
        total = sum(weights)
        means: list[float | None] = []
        for column in zip(*rows, strict=True):
            there = [value for value in column if value is not None]
            if len(there) < len(column):
                means.append(None)
            else:
                means.append(sum(weight * value for weight, value in zip(weights, there, strict=True)) / total)
        return means

    def _check_scales(self, scales: Sequence[Scale | None]) -> None:
        """Raise an OptionError if scores on these scales cannot be added up; None is one that is not known."""
        if self.method == "rrf":
            return
        for backend, scale in zip(self.backends, scales, strict=True):
            if scale is not None and scale.kind == "rank":
                missing, way = "its", ""
                if isinstance(backend, Retrieval):
                    missing, way = "no retrieval_score came, so its", "pass retrieval_score=, or "
                raise OptionError(
                    f"method='weighted' adds up scores, and {title(backend)} has none: {missing} answer is only an order;"
                    f" {way}take method='rrf'"
                )
            if scale is not None and self._keeps_scale and not scale.absolute:
                raise OptionError(
                    f"normalise='none' takes scores as they are, and those of {title(backend)} ({scale.kind}) mean nothing beyond"
                    " one query; take 'minmax', 'zscore' or method='rrf'"
                )
        known = [
            (title(backend), scale) for backend, scale in zip(self.backends, scales, strict=True) if scale is not None
        ]
        for name, scale in known[1:]:
            if self._keeps_scale and scale != known[0][1]:
                first, other = known[0]
                raise OptionError(
                    f"normalise='none' needs one common scale, and {first} ({other.kind}) and {name} ({scale.kind}) have none;"
                    " take 'minmax', 'zscore' or method='rrf'"
                )


def places_of(values: Sequence[float | None], order: Sequence[int] | None = None) -> list[int | Sequence[int]]:
    """Return the texts that were scored, best first; those that nothing tells apart as one entry."""
    ranked = [index for index in best_first(values, order) if values[index] is not None]
    told_apart = set(order or ())
    places: list[int | Sequence[int]] = []
    tied: list[int] = []
    for index in ranked:
        same = tied and values[index] == values[tied[-1]] and not {index, tied[-1]} & told_apart
        if not same:
            if tied:
                places.append(tied)
            tied = []
        tied.append(index)
    return [*places, tied] if tied else places
