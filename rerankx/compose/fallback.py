"""`Fallback`: several backends, one after the other, until one answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from rerankx.arguments import checked_min_score
from rerankx.compose.made import known_scale, made, title
from rerankx.errors import AuthenticationError, BackendError, DeadlineError, RateLimitError, did_you_mean
from rerankx.interface import Attempt, Backend, Scale, Scores, Usage, deadline, out_of_time, remaining_s

logger = logging.getLogger("rerankx")


class Fallback(Backend):
    """Asks its backends in turn until one answers; to everybody else it is one backend.

        Reranker(Fallback("cohere", "minilm", min_scores={"minilm": 0.3}))

    The next is asked where one raises a `BackendError` or scores none of the texts. Everything else, such as a model that is not
    found or a package that is not installed, is a mistake of the program and is raised.

    The scores are those of the one that answered, on its own scale. `attempts` says who was asked and what went wrong, and
    `degraded` is "fallback" unless the first answered; what the answer itself lacks is then in `Attempt.degraded`.

    Under a deadline each backend but the last may use half of the time that is left, so that a first one that hangs leaves time
    for the next: with two backends and `deadline_s=4`, 2 seconds each, or more for the second if the first fails sooner. A
    local one whose half ends before all texts are scored gives way to the next; if none scores them all, the scores of the most
    texts stand.

    Args:
        *backends: At least two, each a name such as "minilm" or "backend:model", or a `Backend`; a name takes no options.
        min_scores: Thresholds in [0, 1] for the second and later ones, by the name as given ("minilm"), by "backend:model" or by
            `Backend.name`. Where `rerank` is given `min_score`, which is the first one's, the threshold of the one that answers
            takes its place; one without a threshold of its own has none applied.

    Raises:
        UnknownBackendError: No backend of that name.
        MissingDependencyError: One of them needs a package that is not installed.
        TypeError: Something else than a name or a backend.
        ValueError: Fewer than two; or a threshold out of its range, for a name that is not among them or names several, for the
            first one, or for one whose scores are only an order. (Where a model's configuration has to be fetched to know that,
            `rerank` raises it, when the threshold would be applied.)
    """

    name = "fallback"

    def __init__(self, *backends: str | Backend, min_scores: Mapping[str, float] | None = None) -> None:
        if len(backends) < 2:
            raise ValueError(f"a fallback takes at least two backends, as arguments, not {len(backends)}")
        self.backends = tuple(made(f"backend {i} of a fallback", backend) for i, backend in enumerate(backends))
        """In the order in which they are asked."""
        known = [_names(given, made) for given, made in zip(backends, self.backends, strict=True)]
        self._thresholds = _thresholds({} if min_scores is None else min_scores, known)
        for i in self._thresholds:
            if (scale := known_scale(self.backends[i])) is not None and not scale.absolute:
                raise ValueError(
                    f"min_scores: the scores of {known[i][0]!r} ({scale.kind}) are only an order; leave its threshold out"
                )

    @property
    def min_scores(self) -> dict[str, float]:
        """Return the thresholds, by "backend:model"."""
        return {title(self.backends[i]): threshold for i, threshold in self._thresholds.items()}

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return backend and model of each, in their order: "cohere:rerank-v3.5 > cross-encoder:..."."""
        return " > ".join(one.model if isinstance(one, Fallback) else title(one) for one in self.backends)

    @property
    def scale(self) -> Scale:  # type: ignore[override]
        """Return the first one's; `Scores.scale` is that of the one that answered."""
        return self.backends[0].scale

    @property
    def scale_source(self) -> Backend:
        """Return the first one."""
        return self.backends[0]

    pointwise = False
    """Who answers may change from call to call, and so may the scale: scores of two calls must not be joined or kept."""

    @property
    def fingerprint(self) -> str:
        """Return the fingerprints of all, and the thresholds."""
        thresholds = f":{sorted(self._thresholds.items())}" if self._thresholds else ""
        return f"{self.name}:{[backend.fingerprint for backend in self.backends]}{thresholds}"

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the first one's tokens."""
        return self.backends[0].token_spans(text)

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        turns = _Turns(self.backends, self._thresholds)
        for backend in self.backends:
            try:
                with deadline(turns.share()):
                    scores = backend.score(query, texts, top_n=top_n)
            except BackendError as error:
                turns.failed(error)
                continue
            if turns.answered(scores):
                break
        return turns.outcome()

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        turns = _Turns(self.backends, self._thresholds)
        for backend in self.backends:
            try:
                with deadline(turns.share()):
                    scores = await backend.ascore(query, texts, top_n=top_n)
            except BackendError as error:
                turns.failed(error)
                continue
            if turns.answered(scores):
                break
        return turns.outcome()


@dataclass(frozen=True, slots=True)
class _Turn:
    """What one backend did: it failed with `error`, or returned `scores`, which may fall short."""

    position: int
    attempts: tuple[Attempt, ...]
    scores: Scores | None = None
    error: BackendError | None = None
    shortcoming: str | None = None

    def usage(self) -> Usage:
        held = self.error if self.scores is None else self.scores
        return (held and held.usage) or Usage()

    def passed_over(self) -> tuple[Attempt, ...]:
        return tuple(replace(one, error=one.error or self.shortcoming, degraded=None) for one in self.attempts)


class _Turns:
    """One query's way through the backends."""

    def __init__(self, backends: Sequence[Backend], thresholds: Mapping[int, float]) -> None:
        self.backends, self.thresholds = backends, thresholds
        self.taken: list[_Turn] = []

    def share(self) -> float | None:
        """Return the seconds that the next backend may use; None if there is no bound but the caller's."""
        left = remaining_s()
        return None if left is None or len(self.taken) == len(self.backends) - 1 else left / 2

    def failed(self, error: BackendError) -> None:
        position = len(self.taken)
        why = f"{type(error).__name__}: {str(error).removeprefix(f'{title(self.backends[position])}: ')}"
        attempts = tuple(error.attempts) or (self._attempt(position, error=why),)
        self.taken.append(_Turn(position, attempts, error=error))
        self._log(why)

    def answered(self, scores: Scores) -> bool:
        """Take the scores; return whether to stop: they will do, or there is no time for others."""
        position = len(self.taken)
        attempts = tuple(scores.attempts)
        if all(attempt.error is not None for attempt in attempts):
            attempts += (replace(self._attempt(position), degraded=scores.degraded),)
        shortcoming = _shortcoming(scores)
        self.taken.append(_Turn(position, attempts, scores, shortcoming=shortcoming))
        if shortcoming is None or out_of_time()():
            return True
        self._log(shortcoming)
        return False

    def outcome(self) -> Scores:
        """Return the scores that stand: those that will do, else those of the most texts.

        Raises:
            BackendError: Every backend failed, or some did and the others scored nothing.
        """
        answers = [turn for turn in self.taken if turn.scores is not None]
        failed = any(turn.error is not None for turn in self.taken)
        if not answers or (failed and not any(_count(turn.scores) for turn in answers)):
            self._raise()
        chosen = max(answers, key=lambda turn: (turn.shortcoming is None, _count(turn.scores)))  # the first of equals
        assert chosen.scores is not None
        usage, attempts = Usage(), list[Attempt]()
        for turn in self.taken:
            attempts += turn.attempts if turn is chosen else turn.passed_over()
            usage += turn.usage()
        return replace(
            chosen.scores,
            degraded="fallback" if chosen.position > 0 else chosen.scores.degraded,
            attempts=attempts,
            usage=usage,
            min_score=self._min_score(chosen.position, chosen.scores),
        )

    def _attempt(self, position: int, error: str | None = None) -> Attempt:
        return Attempt(self.backends[position].name, self.backends[position].model, error)

    def _log(self, why: str) -> None:
        """Say that a failure is passed over; the last one is not."""
        if len(self.taken) < len(self.backends):
            failed, following = (title(self.backends[len(self.taken) + i]) for i in (-1, 0))
            logger.warning("%s failed, %s is asked next: %s", failed, following, why)

    def _min_score(self, position: int, scores: Scores) -> float | None:
        """Return the threshold of the one that answered."""
        if scores.degraded == "fallback":  # within this one: the threshold that it has here is its first one's
            return scores.min_score
        return self.thresholds.get(position, scores.min_score)

    def _raise(self) -> NoReturn:
        errors = [turn.error for turn in self.taken if turn.error is not None]
        attempts = tuple(attempt for turn in self.taken for attempt in turn.passed_over())
        kinds = (AuthenticationError, RateLimitError, DeadlineError)
        kind = next((kind for kind in kinds if all(isinstance(error, kind) for error in errors)), BackendError)
        told = "; ".join(f"{attempt.backend}:{attempt.model}: {attempt.error}" for attempt in attempts)
        failure = kind(f"all {len(attempts)} backends failed: {told}")
        failure.attempts, failure.usage = attempts, sum((turn.usage() for turn in self.taken), Usage())
        raise failure from errors[-1]


def _shortcoming(scores: Scores) -> str | None:
    """Return why the scores will not do, as an error's name and message; None if they will."""
    scored, n = _count(scores), len(scores.values)
    cut = "deadline" in (scores.degraded, *(attempt.degraded for attempt in scores.attempts))
    # Without a deadline there are no shares, and what is unscored is the backend's own choice.
    if cut and remaining_s() is not None:
        return f"DeadlineError: {scored} of {n} texts were scored in its share of the time"
    return None if scored else f"ReplyError: none of {n} texts was scored"


def _count(scores: Scores | None) -> int:
    return 0 if scores is None else sum(value is not None for value in scores.values)


def _names(given: str | Backend, made: Backend) -> list[str]:
    """Return what a threshold may call a backend, the name as given first."""
    names = [title(made), made.name]
    return [given, *names] if isinstance(given, str) else names


def _thresholds(min_scores: Mapping[str, float], known: Sequence[Sequence[str]]) -> dict[int, float]:
    """Return the thresholds by position; `known` holds what each backend may be called."""
    if not isinstance(min_scores, Mapping):
        raise TypeError(f"min_scores must be a mapping of names to numbers, not {type(min_scores).__name__}")
    found: dict[int, float] = {}
    for name, threshold in min_scores.items():
        places = [i for i, names in enumerate(known) if names[0] == name]
        places = places or [i for i, names in enumerate(known) if name in names]
        if not places:
            every = [names[0] for names in known[1:]]
            raise ValueError(
                f"min_scores: no backend {name!r} among them{did_you_mean(str(name), every)}; known: {', '.join(every)}"
            )
        if len(places) > 1:
            several = ", ".join(known[i][0] for i in places)
            raise ValueError(f"min_scores: {name!r} may be any of {several}; take one of these names")
        if places == [0]:
            raise ValueError(f"min_scores: {name!r} comes first, and its threshold is the min_score of rerank()")
        if places[0] in found:
            raise ValueError(f"min_scores: two thresholds for {known[places[0]][0]!r}")
        number = checked_min_score(threshold)
        if number is None:
            raise TypeError(f"min_scores: the threshold of {name!r} is None; leave it out")
        found[places[0]] = number
    return found
