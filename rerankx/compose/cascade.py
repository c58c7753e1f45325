"""`Cascade`: a cheap backend first, a dear one for what it puts in front."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from rerankx.arguments import checked_deadline_s
from rerankx.compose.asking import Ask, Asking, aasked, asked
from rerankx.compose.made import all_made, title, whole
from rerankx.compose.steps import Step, attempts_of, cut_of, degraded_of, steps_of, with_steps, with_usage
from rerankx.errors import BackendError, DeadlineError, ReplyError
from rerankx.interface import Attempt, Backend, Degraded, Scale, Scores, Usage, out_of_time
from rerankx.ranking import best_first


class Cascade(Backend):
    """Asks its stages in turn, each about the best of the one before.

        Reranker(Cascade(["embedded", "minilm", "listwise:gpt-6-luna"], keep=[50, 10]))

    The scores are those of the last stage, on its scale. What did not get that far has no score and follows behind, in the order
    of the stage that it did get to: scores of different stages are never compared. Where a stage tells two texts not apart, they
    stand as the one before had them. `Hit.details["steps"]` has every stage's rank and score.

    A stage that runs out of time before it has scored all it was given is passed over, `degraded="deadline"`: the next one, if
    there is time for it, is given the best of the last one that finished; and if that was the last stage, the order is that of
    the last one that finished, and the scores are ranks. So it is with a stage that scores nothing. Where none has scored any, a
    `DeadlineError` is raised, and so is any other error of a stage: for another answer give `Fallback("cohere", "minilm")` as
    the stage.

    Args:
        stages: Each a name such as "minilm" or "backend:model", or a `Backend`; the cheapest first.
        keep: How many texts each stage but the last passes on, at least 1 and never more than before; `keep=20` for two stages.
        deadlines_s: Seconds for each stage, None for no bound but the caller's, which always holds.
        patience: The last stage, which has to be pointwise, scores that many texts at a time, in the order of the one before, and
            stops when as many have brought none into the best `top_n`; the rest has no score. None scores them all, and so does
            a ranking without `top_n`, or with steps that come after and may need more.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: One of them needs a package that is not installed.
        TypeError: An argument of the wrong type.
        ValueError: No stage, numbers out of range or not one per stage, or patience with a last stage that is not pointwise.

    Source: Wang, Lin and Metzler, SIGIR 2011, doi:10.1145/2009916.2009934.
    """

    name = "cascade"
    pointwise = False

    def __init__(
        self,
        stages: Sequence[str | Backend],
        *,
        keep: int | Sequence[int] = (),
        deadlines_s: Sequence[float | None] | None = None,
        patience: int | None = None,
    ) -> None:
        self.stages = all_made("stage {} of a cascade", "stages", stages)
        """The cheapest first."""
        self.keep = _checked_keep(keep, len(self.stages))
        """How many texts each stage but the last passes on."""
        self.deadlines_s = _checked_deadlines(deadlines_s, len(self.stages))
        """Seconds for each stage."""
        self.patience = None if patience is None else whole("patience", patience)
        if patience is not None and not self.stages[-1].pointwise:
            raise ValueError(
                f"patience needs a last stage whose score of a text ignores the others; {title(self.stages[-1])} is not"
                " pointwise: leave patience out"
            )

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return backend and model of each stage, and how many texts go on: "embedded:... | 50 | cross-encoder:..."."""
        first, *others = map(title, self.stages)
        return first + "".join(f" | {n} | {name}" for n, name in zip(self.keep, others, strict=True))

    @property
    def scale(self) -> Scale:  # type: ignore[override]
        """Return the last stage's."""
        return self.stages[-1].scale

    @property
    def scale_source(self) -> Backend:
        """Return the last stage."""
        return self.stages[-1]

    @property
    def fingerprint(self) -> str:
        """Return the fingerprints of all stages, and the numbers."""
        numbers = f"{self.keep}:{self.deadlines_s}:{self.patience}"
        return f"{self.name}:{[stage.fingerprint for stage in self.stages]}:{numbers}"

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the last stage's tokens."""
        return self.stages[-1].token_spans(text)

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return asked(query, self._asking(texts, top_n))

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        return await aasked(query, self._asking(texts, top_n))

    def _asking(self, texts: Sequence[str], top_n: int | None) -> Asking:
        way, over, last = _Way(len(texts)), out_of_time(), len(self.stages) - 1
        for i, (stage, seconds) in enumerate(zip(self.stages, self.deadlines_s, strict=True)):
            if i > 0 and over():
                way.failed(stage, DeadlineError("no time was left for it"))
                continue
            shown = way.order[: self.keep[i - 1]] if i else list(way.order)
            ask = Ask(stage, [texts[index] for index in shown], top_n if i == last else self.keep[i], seconds)
            try:
                if i == last and self.patience is not None and top_n is not None:
                    scores = yield from _patiently(ask, top_n, self.patience)
                else:
                    (scores,) = yield [ask]
            except DeadlineError as error:
                way.failed(stage, error)
            except BackendError as error:
                raise with_usage(error, way.spent) from error
            else:
                way.scored(i + 1, stage, shown, scores)
        return way.outcome(len(self.stages))


class _Stage(NamedTuple):
    """A stage that answered: which texts it was given, and what it made of them."""

    number: int
    backend: Backend
    shown: Sequence[int]
    scores: Scores

    @property
    def finished(self) -> bool:
        """Whether its order stands: it has scored all that it was given, or was not cut short and has scored some."""
        values, attempts = self.scores.values, self.scores.attempts
        cut_short = "deadline" in (self.scores.degraded, *(attempt.degraded for attempt in attempts))
        return None not in values or (not cut_short and any(value is not None for value in values))


class _Way:
    """One query's way through the stages."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.order: list[int] = list(range(n))
        """All texts: by the last stage that finished, behind it what it was not given."""
        self.answers: list[_Stage] = []
        self.attempts: list[Attempt] = []
        self.spent = Usage()
        self.error: DeadlineError | None = None

    def failed(self, backend: Backend, error: DeadlineError) -> None:
        self.error = error
        self.spent += error.usage or Usage()
        why = f"{type(error).__name__}: {str(error).removeprefix(f'{title(backend)}: ')}"
        self.attempts += error.attempts or (Attempt(backend.name, backend.model, why),)

    def scored(self, number: int, backend: Backend, shown: Sequence[int], scores: Scores) -> None:
        answer = _Stage(number, backend, shown, scores)
        self.answers.append(answer)
        self.spent += scores.usage
        if answer.finished:
            self.attempts += attempts_of(backend, scores)
            self.order[: len(shown)] = [shown[place] for place in best_first(scores.values, scores.order)]
            return
        count = sum(value is not None for value in scores.values)
        why = "DeadlineError" if scores.degraded == "deadline" else "ReplyError"
        told = f"{why}: {count} of {len(shown)} texts were scored"
        self.attempts += [replace(one, error=one.error or told, degraded=None) for one in attempts_of(backend, scores)]

    def outcome(self, stages: int) -> Scores:
        finished = [answer for answer in self.answers if answer.finished]
        top = finished[-1] if finished else self._begun()
        values: list[float | None] = [None] * self.n
        for index, value in zip(top.shown, top.scores.values, strict=True):
            values[index] = value
        scale, min_score = top.scores.scale, top.scores.min_score
        if top.number < stages:  # the scores are not on the last one's scale
            scale, min_score = Scale.RANK, None
            for place, index in enumerate(self.order):
                values[index] = None if values[index] is None else float(self.n - place)
        stood = finished or [top]
        passed_over = len(stood) < len(self.answers) or self.error is not None
        plain = not passed_over and not any(answer.scores.attempts for answer in stood)
        cut, truncated = cut_of(self.n, [(answer.shown, answer.scores) for answer in self.answers])
        return Scores(
            values,
            order=self.order,
            details=self._details(stood),
            usage=self.spent,
            cut=cut,
            truncated=truncated,
            degraded=self._degraded(top),
            attempts=() if plain else self.attempts,
            scale=scale,
            min_score=min_score,
        )

    def _degraded(self, top: _Stage) -> Degraded | None:
        if top is self.answers[-1] and top.scores.degraded is not None:
            return top.scores.degraded  # which decides on thresholds
        if self.error is not None:
            return "deadline"
        before = degraded_of(answer.scores for answer in reversed(self.answers))
        return "incomplete" if before == "fallback" else before  # it is not the scores that are a fallback's

    def _details(self, finished: Sequence[_Stage]) -> list[dict[str, object] | None]:
        """Return what the last stage that finished says of each text, and the steps of all."""
        steps: list[list[Step | None]] = [[] for _ in range(self.n)]
        said: list[dict[str, object]] = [{} for _ in range(self.n)]
        for answer in finished:
            found = steps_of(answer.backend, answer.scores, number=answer.number)
            for index, step in zip(answer.shown, found, strict=True):
                steps[index].append(step)
        for index, detail in zip(finished[-1].shown, finished[-1].scores.details or (), strict=False):
            said[index].update(detail or {})
        return [{**own, **(with_steps(some) or {})} or None for own, some in zip(said, steps, strict=True)]

    def _begun(self) -> _Stage:
        """Return the first stage, which was given all texts, with what it got to.

        Raises:
            DeadlineError: It got to nothing, for lack of time.
        """
        first = next((answer for answer in self.answers if len(answer.shown) == self.n), None)
        if first is not None and (self.error is None or any(value is not None for value in first.scores.values)):
            self.order = best_first(first.scores.values, first.scores.order)
            return first
        assert self.error is not None, "a stage that did not answer failed"
        error = DeadlineError(f"no stage of the cascade finished in time: {self.error}")
        error.attempts, error.usage = tuple(self.attempts), self.spent
        raise error from self.error


def _patiently(ask: Ask, top_n: int, patience: int) -> Generator[Sequence[Ask], list[Scores], Scores]:
    """Return the scores of as many texts as it takes until `patience` of them bring none into the best `top_n`."""
    n, parts = len(ask.texts), list[Scores]()
    values: list[float | None] = []
    late: DeadlineError | None = None
    passed = out_of_time()
    over = None if ask.seconds is None else time.monotonic() + ask.seconds
    bounds = [0, *range(min(top_n, n), n, patience), n]
    for start, end in pairwise(bounds):
        left = None if over is None else over - time.monotonic()
        if parts and (passed() or (left is not None and left <= 0)):
            late = DeadlineError("no time was left for the rest")
            break
        try:
            (scores,) = yield [ask._replace(texts=ask.texts[start:end], seconds=left)]
        except DeadlineError as error:
            if not parts:
                raise
            late = error
            break
        except BackendError as error:
            raise with_usage(error, sum((part.usage for part in parts), Usage())) from error
        if parts and scores.scale != parts[0].scale:
            raise ReplyError(f"{title(ask.backend)} scored part of the texts on another scale than the rest")
        parts.append(scores)
        before = _best(values, top_n)
        values += scores.values
        if scores.degraded == "deadline" or (start > 0 and _best(values, top_n) == before):
            break
    spans = [range(start, end) for start, end in pairwise(bounds)]
    rest: list[None] = [None] * (n - len(values))
    cut, truncated = cut_of(n, list(zip(spans, parts, strict=False)), disjoint=True)
    return Scores(
        [*values, *rest],
        order=range(n),
        details=[*(detail for part in parts for detail in part.details or (None,) * len(part.values)), *rest],
        usage=sum((part.usage for part in parts), (late and late.usage) or Usage()),
        cut=cut,
        truncated=truncated,
        degraded="deadline" if late else degraded_of(parts),
        attempts=[*(attempt for part in parts for attempt in part.attempts), *(late.attempts if late else ())],
        scale=parts[0].scale,
    )


def _best(values: Sequence[float | None], n: int) -> list[int]:
    return [index for index in best_first(values)[:n] if values[index] is not None]


def _checked_keep(keep: object, stages: int) -> tuple[int, ...]:
    given = [keep] if hasattr(keep, "__index__") else keep
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise TypeError(f"keep must be one whole number per stage but the last, not {type(keep).__name__}")
    if len(given) != stages - 1:
        raise ValueError(
            f"keep has {len(given)} numbers; expected {stages - 1}, one for each of {stages} stages but the last"
        )
    numbers = tuple(whole(f"keep[{i}]", number) for i, number in enumerate(given))
    for i, (before, number) in enumerate(pairwise(numbers), start=1):
        if number > before:
            raise ValueError(
                f"keep[{i}] is {number}, more than the {before} that the stage is given; it cannot pass on more"
            )
    return numbers


def _checked_deadlines(deadlines_s: object, stages: int) -> tuple[float | None, ...]:
    if deadlines_s is None:
        return (None,) * stages
    if not isinstance(deadlines_s, Sequence) or isinstance(deadlines_s, str):
        raise TypeError(
            f"deadlines_s must be one number of seconds or None per stage, not {type(deadlines_s).__name__}"
        )
    if len(deadlines_s) != stages:
        raise ValueError(f"deadlines_s has {len(deadlines_s)} entries; expected {stages}, one per stage")
    return tuple(checked_deadline_s(seconds, f"deadlines_s[{i}]") for i, seconds in enumerate(deadlines_s))
