"""`Floor`: a backend that is not asked about what another order has far down."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rerankx.compose.made import made
from rerankx.compose.steps import cut_of
from rerankx.errors import BackendError
from rerankx.interface import Backend, Scale, Scores
from rerankx.ranking import best_first


class Floor(Backend):
    """Orders as its backend does, but for texts that another order has far down: the backend does not see them.

        Reranker(Floor(Listwise(llm=llm), "minilm"))
        Reranker(Floor("listwise:gpt-6-luna", below=20))

    A language model can be talked into putting a passage first by the passage itself. A cross-encoder cannot be talked to, and
    neither can the retriever: what they have far down follows behind all others, in their order, and can neither rise nor push
    others aside. Its `details` say where it was: {"floor_rank": 41}. Nothing is lost.

    Either can be given the words of the query, though: a passage that repeats them is not far down with who compares words, as
    the embedded reranker and keyword search do.

    The scores are ranks. What the backend leaves unscored stays so, before what is far down. Where the floor fails, the ranking
    fails: no floor is no protection.

    Args:
        backend: Whose order it is; a name such as "listwise:gpt-6-luna", or a `Backend`. A name takes no options.
        floor: Whose order it is that closes: "input_order", the order in which the texts come, or a name or `Backend`. The
            backend is asked in this order.
        below: Texts after this place in the floor's order are kept from the backend, at least 1.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: A number out of its range.
    """

    name = "floor"
    scale = Scale.RANK
    pointwise = False

    def __init__(self, backend: str | Backend, floor: str | Backend = "input_order", *, below: int = 30) -> None:
        if isinstance(below, bool) or not isinstance(below, int):
            raise TypeError(f"below must be a whole number, not {type(below).__name__}")
        if below < 1:
            raise ValueError(f"below must be at least 1, not {below}")
        self.backend = made("backend of a floor", backend)
        self.floor = None if floor == "input_order" else made("floor", floor)
        self.below = below

    @property
    def model(self) -> str:  # type: ignore[override]  # read, not set
        """Return backend and model of both: "listwise:gpt-6-luna over cross-encoder:..."."""
        floor = "input_order" if self.floor is None else f"{self.floor.name}:{self.floor.model}"
        return f"{self.backend.name}:{self.backend.model} over {floor}"

    @property
    def fingerprint(self) -> str:
        """Return the fingerprints of both, and the number."""
        floor = "input_order" if self.floor is None else self.floor.fingerprint
        return f"{self.name}:[{self.backend.fingerprint!r}, {floor!r}]:{self.below}"

    def token_spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Return the backend's tokens."""
        return self.backend.token_spans(text)

    def _score(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        floor = None if self.floor is None else self.floor.score(query, texts)
        order = self._order(len(texts), floor)
        seen = [texts[i] for i in order[: self.below]]
        return self._joined(order, self.backend.score(query, seen, top_n=top_n), floor)

    async def _ascore(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> Scores:
        floor = None if self.floor is None else await self.floor.ascore(query, texts)
        order = self._order(len(texts), floor)
        seen = [texts[i] for i in order[: self.below]]
        return self._joined(order, await self.backend.ascore(query, seen, top_n=top_n), floor)

    def _order(self, n: int, floor: Scores | None) -> list[int]:
        if floor is None:
            return list(range(n))
        if all(value is None for value in floor.values):
            raise BackendError(f"{self.name}: its floor has scored nothing ({floor.degraded})")
        return best_first(floor.values, floor.order)

    def _joined(self, floor_order: Sequence[int], scores: Scores, floor: Scores | None) -> Scores:
        """Return the scores as ranks, and behind them what the backend was not asked about."""
        n, closed = len(floor_order), floor_order[self.below :]
        values: list[float | None] = [None] * n
        details: list[Mapping[str, object] | None] = [None] * n
        places = best_first(scores.values, scores.order)
        order = [*(floor_order[place] for place in places), *closed]
        # What is far down must not rise above what has no score, and so has none either.
        ranked = n if None not in scores.values else sum(value is not None for value in scores.values)
        for place, index in enumerate(order[:ranked]):
            values[index] = float(n - place)
        for place, detail in enumerate(scores.details or ()):
            details[floor_order[place]] = detail
        for place, index in enumerate(closed, start=self.below + 1):
            details[index] = {"floor_rank": place}
        cut, truncated = cut_of(n, [(floor_order, scores)])
        return Scores(
            values,
            order=order,
            details=details if any(details) else None,
            usage=scores.usage if floor is None else scores.usage + floor.usage,
            cut=cut,
            truncated=truncated,
            degraded=scores.degraded or ("incomplete" if floor is not None and floor.degraded else None),
            attempts=scores.attempts,
        )
