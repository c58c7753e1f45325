"""`Floor`: a backend whose top is closed to what another order has far down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rerankx.compose.made import made
from rerankx.interface import Backend, Scale, Scores


class Floor(Backend):
    """Orders as its backend does, but for texts that another order has far down: they do not enter the top.

        Reranker(Floor(Listwise(llm=llm), "minilm"))
        Reranker(Floor("listwise:gpt-6-luna", below=20))

    A language model can be talked into putting a passage first by the passage itself. A cross-encoder cannot be talked to, and
    neither can the retriever: what they have far down is kept out of the first `top` places and follows right after them. Its
    `details` say where it was: {"floor_rank": 41, "held_back_from": 1}. Nothing is lost.

    Either can be given the words of the query, though: a passage that repeats them, or whose author knows them, is not far down
    with who reads for words, as the embedded reranker and keyword search do.

    The scores are ranks. What the backend leaves unscored stays so. Where the floor fails, the ranking fails: no floor is no
    protection.

    Args:
        backend: Whose order it is; a name such as "listwise:gpt-6-luna", or a `Backend`. A name takes no options.
        floor: Who keeps the top closed: "input_order", the order in which the texts come, or a name or `Backend`.
        below: Texts after this place in the floor's order are kept out, at least `top`.
        top: How many places are closed to them, at least 1.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A number out of its range.
    """

    name = "floor"
    scale = Scale.RANK
    pointwise = False

    def __init__(
        self, backend: str | Backend, floor: str | Backend = "input_order", *, below: int = 30, top: int = 10
    ) -> None:
        for name, value, least in (("top", top, 1), ("below", below, top)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{name} must be a whole number, not {type(value).__name__}")
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")
        self.backend = made("backend of a floor", backend)
        self.floor = None if floor == "input_order" else made("floor", floor)
        self.below, self.top = below, top

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return backend and model of both: "listwise:gpt-6-luna over cross-encoder:..."."""
        floor = "input_order" if self.floor is None else f"{self.floor.name}:{self.floor.model}"
        return f"{self.backend.name}:{self.backend.model} over {floor}"

    @property
    def fingerprint(self) -> str:
        """Return the fingerprints of both, and the numbers."""
        floor = "input_order" if self.floor is None else self.floor.fingerprint
        return f"{self.name}:[{self.backend.fingerprint!r}, {floor!r}]:{self.below}:{self.top}"

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        floor = None if self.floor is None else self.floor.score(query, texts)
        return self._held(self.backend.score(query, texts, top_n=top_n), floor)

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        floor = None if self.floor is None else await self.floor.ascore(query, texts)
        return self._held(await self.backend.ascore(query, texts, top_n=top_n), floor)

    def _held(self, scores: Scores, floor: Scores | None) -> Scores:
        """Return the scores as ranks, with what the floor has far down behind the top."""
        n, values = len(scores.values), list(scores.values)
        order = _best_first(scores)
        floor_order = list(range(n)) if floor is None else _best_first(floor)
        floor_rank = {index: place + 1 for place, index in enumerate(floor_order)}
        free = [index for index in order if values[index] is not None and floor_rank[index] <= self.below]
        top = free[: self.top]
        behind = [index for index in order if index not in {*top}]
        details: list[Mapping[str, object] | None] = list(scores.details or [None] * n)
        for place, index in enumerate(order[: self.top]):
            if index not in top and values[index] is not None:
                where = {"floor_rank": floor_rank[index], "held_back_from": place + 1}
                details[index] = {**(details[index] or {}), **where}
        for place, index in enumerate([*top, *behind]):
            # With fewer in the top than it has places the next would move up: what must not is left unscored.
            closed = len(top) < self.top and index in behind
            values[index] = None if values[index] is None or closed else float(n - place)
        return Scores(
            values,
            details=details if any(details) else None,
            usage=scores.usage if floor is None else scores.usage + floor.usage,
            truncated=scores.truncated,
            degraded=scores.degraded or ("incomplete" if floor is not None and floor.degraded else None),
            attempts=scores.attempts,
        )


def _best_first(scores: Scores) -> list[int]:
    """Return the text indices in the order in which they are ranked: ties by the server's order, what is not scored last."""
    place = {} if scores.order is None else {index: i for i, index in enumerate(scores.order)}
    n = len(scores.values)

    def key(index: int) -> tuple[bool, float, int, int]:
        value = scores.values[index]
        return value is None, -(value or 0.0), place.get(index, n), index

    return sorted(range(n), key=key)
