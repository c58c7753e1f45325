"""`BackendContract`: what `rerankx.Backend` promises, one test each.

    class TestMine(BackendContract):
        def make(self) -> Backend:
            return Mine()

is all it takes; class attributes declare what `Mine` does where backends differ.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import pickle
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

from rerankx.errors import DeadlineError
from rerankx.interface import Backend, Scale, Scores, Usage, deadline

if TYPE_CHECKING:
    import pytest

_BLANK = ("", " \n\t", "\N{IDEOGRAPHIC SPACE}")
_AWKWARD = (
    "\N{GRINNING FACE} \N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}",
    "\N{RIGHT-TO-LEFT MARK}كم يستغرق استرداد الأموال",
    "退款需要多长时间",
    "bell \x07 escape \x1b[31m delete \x7f",
    "nul \x00 inside",
    "half a pair \ud83d",
    "e\N{COMBINING ACUTE ACCENT}\N{COMBINING TILDE}\N{COMBINING RING BELOW}",
    "x" * 20_001,
    "?! … —",
)
_MANUAL = "The valve is closed by turning the red handle to the right until it stops, then checked for leaks. " * 3_000


class BackendContract:
    """The promises of `rerankx.Backend`, a test each. Inherit it in a class named `Test...` and write `make`.

    A declaration selects what is asserted; nothing is skipped.
    """

    tolerance: float = 0.0
    """How far two scores of the same query and text may lie apart, on the backend's scale."""
    truncates: bool = False
    """Whether a text of 100 pages is cut, and so counted in `Scores.truncated`."""
    on_deadline: Literal["unscored", "error", "ignored"] = "ignored"
    """What a deadline that has passed does: leaves texts unscored, raises `DeadlineError`, or nothing."""
    picklable: bool = True
    """Whether it pickles and copies; if not, pickling raises TypeError or PicklingError."""
    secret: str | None = None
    """The key that `make` gives it, if any."""
    query: str = "how long does a refund take"
    relevant: str = "A refund takes five working days to reach your account."
    irrelevant: str = "The museum opens on Sundays; its garden is known for roses."

    def make(self) -> Backend:
        """Return a new backend, equal to the one before."""
        raise NotImplementedError

    def variants(self) -> list[Backend]:
        """Return backends that each differ from `make()`, and from each other, in something that changes a score."""
        return []

    def test_what_it_is_is_declared(self) -> None:
        """Name, model, scale, pointwise and fingerprint are there, of the right type, before anything is scored."""
        backend = self.make()
        kinds = {"name": str, "model": str, "scale": Scale, "pointwise": bool, "fingerprint": str}
        for attribute, kind in kinds.items():
            value = getattr(backend, attribute)
            assert type(value) is kind, f"{attribute} is {value!r}; expected a {kind.__name__}"
            assert value != "", f"{attribute} is empty"
        assert ":" not in backend.name, f"{backend.name!r}: in 'backend:model' the model begins at the first colon"

    def test_score_and_ascore_are_the_inherited_ones(self) -> None:
        """`score` and `ascore`, which check what goes in and comes out, are not overridden."""
        for method in ("score", "ascore"):
            assert getattr(type(self.make()), method) is getattr(Backend, method), f"override _{method}, not {method}"

    def test_no_text_takes_no_call(self) -> None:
        """Nothing in, nothing out."""
        scores = self.make().score(self.query, [])
        assert (scores.values, scores.usage) == ((), Usage()), f"no texts, but {scores}"

    def test_one_finite_score_on_the_scale_per_text(self) -> None:
        """Each text has one finite score, within the declared bounds, or None: `score` raises where it is not so."""
        backend = self.make()
        for n in (1, 2, 33):
            self._scores(backend, self._texts(n))

    def test_blank_texts_are_unscored_and_disturb_no_other(self) -> None:
        """A blank text has None, with others or alone; the others score as they do without it."""
        backend, texts = self.make(), self._texts(3)
        first, *others = self._scores(backend, texts)
        got = self._scores(backend, [_BLANK[0], texts[0], *_BLANK[1:], *texts[1:]])
        self._check_same(got, [None, first, None, None, *others], "with blank texts among them")
        self._check_same(self._scores(backend, _BLANK), [None] * len(_BLANK), "with blank texts alone")

    def test_duplicates_score_alike(self) -> None:
        """Pointwise, the same text has the same score; any backend gives each copy one."""
        backend, texts = self.make(), [self.relevant, self.irrelevant, self.relevant]
        got = self._scores(backend, texts)
        if backend.pointwise:
            self._check_same(got[2:], got[:1], "a text given twice")

    def test_a_score_ignores_the_other_texts_if_pointwise(self) -> None:
        """Pointwise, a text scores the same alone, in company, and in any order; any backend takes any order."""
        backend, texts = self.make(), self._texts(7)
        together, backwards = (self._scores(backend, some) for some in (texts, texts[::-1]))
        if backend.pointwise:
            self._check_same(backwards[::-1], together, "in reverse order")
            alone = [self._scores(backend, [text])[0] for text in texts]
            self._check_same(alone, together, "alone and in company")

    def test_the_relevant_text_scores_above_the_irrelevant_one(self) -> None:
        """A relevant text scores above an irrelevant one, whichever comes first."""
        backend = self.make()
        for texts in ([self.relevant, self.irrelevant], [self.irrelevant, self.relevant]):
            scores = dict(zip(texts, self._scores(backend, texts), strict=True))
            relevant, irrelevant = scores[self.relevant], scores[self.irrelevant]
            assert relevant is not None, f"{self.relevant!r} was not scored"
            assert irrelevant is None or relevant > irrelevant, f"relevant {relevant}, irrelevant {irrelevant}"

    def test_top_n_is_only_a_hint(self) -> None:
        """`top_n` may save work on the tail; there is still one entry per text, and the best one is scored."""
        backend, texts = self.make(), [*self._texts(5)[::-1], self.relevant]
        for top_n in (1, len(texts) + 1):
            values = self._scores(backend, texts, top_n=top_n)
            assert values[-1] is not None, f"top_n={top_n}: the most relevant text was not scored"

    def test_its_input_stays_as_it_was(self) -> None:
        """`_score` and `_ascore` leave the list that they are given alone."""
        backend, texts = self.make(), self._texts(3)
        given = list(texts)
        backend._score(self.query, given)
        asyncio.run(backend._ascore(self.query, given))
        assert given == texts, f"the list of texts was changed to {given}"

    def test_awkward_texts_are_taken_and_disturb_no_other(self) -> None:
        """Emoji, other scripts, control characters, NUL, half a surrogate pair, 20,000 letters on end: a score each."""
        backend = self.make()
        got = self._scores(backend, [*_AWKWARD, self.relevant])
        if backend.pointwise:
            self._check_same(got[-1:], self._scores(backend, [self.relevant]), "in awkward company")

    def test_awkward_queries_are_taken(self) -> None:
        """A query may hold what a text may hold."""
        backend = self.make()
        for query in _AWKWARD:
            self._scores(backend, [self.relevant, self.irrelevant], query=query)

    def test_a_cut_text_is_counted(self) -> None:
        """A text of 100 pages is read whole, or counted in `truncated`; a short one is never counted."""
        backend, expected = self.make(), int(self.truncates)
        counted = backend.score(self.query, [self.relevant, _MANUAL]).truncated
        assert counted == expected, (
            f"truncated is {counted} with one text of 100 pages; declared truncates={self.truncates}"
        )
        assert backend.score(self.query, [self.relevant]).truncated == 0, f"{self.relevant!r} was cut"

    def test_threads_share_one_instance(self) -> None:
        """16 threads at once, on an instance that has not been used, get what one after the other gets."""
        backend, jobs, together = self.make(), self._jobs(), threading.Barrier(16)

        def run(texts: list[str]) -> list[float | None]:
            together.wait(timeout=60)
            return self._scores(backend, texts)

        with ThreadPoolExecutor(16) as pool:
            got = list(pool.map(run, jobs))
        for texts, values in zip(jobs, got, strict=True):
            self._check_same(values, self._scores(backend, texts), "under threads")

    def test_ascore_returns_what_score_returns(self) -> None:
        """16 `ascore` at once in one event loop get what `score` gets."""
        backend, jobs = self.make(), self._jobs()

        async def run() -> list[Scores]:
            return await asyncio.gather(*(backend.ascore(self.query, texts) for texts in jobs))

        for texts, scores in zip(jobs, asyncio.run(run()), strict=True):
            self._check_same(scores.values, self._scores(backend, texts), "from ascore")

    def test_score_works_inside_a_running_event_loop(self) -> None:
        """`score` may be called where an event loop runs, as in a notebook."""
        backend, texts = self.make(), self._texts(3)

        async def run() -> list[float | None]:
            return self._scores(backend, texts)

        self._check_same(asyncio.run(run()), self._scores(backend, texts), "inside a running event loop")

    def test_one_instance_serves_one_event_loop_after_another(self) -> None:
        """Nothing is kept that belongs to an event loop which has been closed."""
        backend, texts = self.make(), self._texts(3)
        for _ in range(3):
            scores = asyncio.run(backend.ascore(self.query, texts))
            self._check_same(scores.values, self._scores(backend, texts), "in another event loop")

    def test_copies_are_equal(self) -> None:
        """Pickled or deep-copied, fresh or used, it has the same fingerprint and gives the same scores."""
        import pytest

        backend, texts = self.make(), self._texts(3)
        if not self.picklable:
            with pytest.raises((TypeError, pickle.PicklingError)):
                pickle.dumps(backend)
            return
        fresh = _copies(backend)
        values = self._scores(backend, texts)
        for made in (*fresh, *_copies(backend)):
            assert made.fingerprint == backend.fingerprint, f"a copy has fingerprint {made.fingerprint!r}"
            self._check_same(self._scores(made, texts), values, "from a copy")

    def test_equal_backends_have_equal_fingerprints_and_scores(self) -> None:
        """Two backends made alike have one fingerprint, before and after scoring, and give the same scores."""
        one, other, texts = self.make(), self.make(), self._texts(3)
        before = one.fingerprint
        self._check_same(self._scores(one, texts), self._scores(other, texts), "from two equal backends")
        for found in (one.fingerprint, other.fingerprint):
            assert found == before, f"fingerprints {before!r} and {found!r} of equal backends"

    def test_different_backends_have_different_fingerprints(self) -> None:
        """What changes a score changes the fingerprint."""
        prints = [backend.fingerprint for backend in (self.make(), *self.variants())]
        for i, found in enumerate(prints):
            assert found not in prints[:i], f"variant {i} has the fingerprint of another: {found!r}"

    def test_the_key_stays_secret(self) -> None:
        """The key is not in `repr`, `str`, fingerprint or pickle."""
        backend, secret = self.make(), self.secret
        shown = {"repr": repr(backend), "str": str(backend), "fingerprint": backend.fingerprint}
        if self.picklable:
            shown["pickle"] = pickle.dumps(backend).decode("latin-1")
        for where, text in shown.items():
            assert secret is None or secret not in text, f"the key is in its {where}"

    def test_a_deadline_does_what_is_declared(self) -> None:
        """A deadline that has passed leaves texts unscored, raises `DeadlineError` or is ignored, as is declared."""
        import pytest

        backend, texts = self.make(), self._texts(3)
        for score in (backend.score, lambda *given: asyncio.run(backend.ascore(*given))):
            with deadline(1e-9):
                if self.on_deadline == "error":
                    with pytest.raises(DeadlineError):
                        score(self.query, texts)
                    continue
                scores = score(self.query, texts)
            if self.on_deadline == "unscored":
                assert None in scores.values, f"the deadline had passed, and all were scored: {scores.values}"
                assert scores.degraded == "deadline", f"degraded is {scores.degraded!r}; expected 'deadline'"
            else:
                self._check_same(scores.values, self._scores(backend, texts), "after a deadline that is ignored")
                assert scores.degraded is None, f"degraded is {scores.degraded!r}; declared on_deadline='ignored'"

    def test_usage_and_details_go_to_json(self) -> None:
        """Usage is a `Usage`, and it and the details hold nothing that JSON does not know."""
        scores = self.make().score(self.query, self._texts(3))
        assert type(scores.usage) is Usage, f"usage is a {type(scores.usage).__name__}"
        json.dumps([asdict(scores.usage), [detail and dict(detail) for detail in scores.details or ()]])

    def test_a_blank_query_is_refused(self) -> None:
        """A blank query is a ValueError that says so."""
        import pytest

        with pytest.raises(ValueError, match="query"):
            self.make().score(" \n", self._texts(2))

    def test_a_text_that_is_no_string_is_refused_with_its_index(self) -> None:
        """None among the texts is a TypeError that names its index."""
        import pytest

        texts: list[str] = [self.relevant, None]  # type: ignore[list-item]
        with pytest.raises(TypeError, match="1"):
            self.make().score(self.query, texts)

    def test_nothing_is_printed(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Scoring prints nothing and leaves the root logger alone."""
        handlers = list(logging.root.handlers)
        self._scores(self.make(), self._texts(3))
        printed = capsys.readouterr()
        assert printed.out + printed.err == "", f"printed {printed.out + printed.err!r}"
        assert logging.root.handlers == handlers, "the root logger has another handler"

    def _texts(self, n: int) -> list[str]:
        # Of many degrees of relevance, so that a score which leans on the best or the next one gives itself away.
        words = self.relevant.split()
        more = [f"{i}. {' '.join(words[: 1 + i % len(words)])}. {self.irrelevant}" for i in range(n)]
        return [self.relevant, self.irrelevant, *more][:n]

    def _jobs(self) -> list[list[str]]:
        # No two alike, so that an answer to another question is found out.
        return [self._texts(n)[::-1] for n in range(1, 17)]

    def _scores(
        self, backend: Backend, texts: Sequence[str], *, query: str | None = None, top_n: int | None = None
    ) -> list[float | None]:
        return list(backend.score(self.query if query is None else query, texts, top_n=top_n).values)

    def _check_same(self, got: Sequence[float | None], expected: Sequence[float | None], where: str) -> None:
        for a, b in zip(got, expected, strict=True):
            same = a is b if a is None or b is None else abs(a - b) <= self.tolerance
            assert same, f"{where}: {list(got)}; expected {list(expected)} within {self.tolerance}"


def _copies(backend: Backend) -> tuple[Backend, Backend]:
    return pickle.loads(pickle.dumps(backend)), copy.deepcopy(backend)  # noqa: S301 - made on this line
