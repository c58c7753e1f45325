"""What became of a model's replies, counted over all calls, and whether it seems to rank at all."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rerankx.engines.once import renew_after_fork

logger = logging.getLogger("rerankx")

_SAME_IN_A_ROW = 8  # a good first stage is left as it came now and then, but hardly ever so many times in a row


@dataclass(frozen=True, slots=True)
class Replies:
    """How many replies there were of each kind; each is counted once."""

    parsed: int = 0
    """Exactly what was asked for."""
    repaired: int = 0
    """An answer, but not in the form asked for, or with ids too many, too few or twice."""
    failed: int = 0
    """No answer: refused, empty, an error message, too few ids. The model was asked again, once."""
    repairs: Mapping[str, int] = field(default_factory=dict)
    """How many replies were repaired in which way; one reply may count in several."""


class Tally:
    """Counts replies; safe under threads."""

    def __init__(self, who: str) -> None:
        self._who = who
        self._parsed = self._repaired = self._failed = 0
        self._repairs: Counter[str] = Counter()
        self._same, self._warned = 0, False
        self.renew_lock()
        renew_after_fork(self)

    def renew_lock(self) -> None:
        """Take a new lock, after a fork."""
        self._lock = threading.Lock()

    @property
    def replies(self) -> Replies:
        """Return the counts so far."""
        with self._lock:
            return Replies(self._parsed, self._repaired, self._failed, dict(self._repairs))

    def answered(self, repairs: Collection[str]) -> None:
        """Count a reply that could be read."""
        with self._lock:
            self._repairs.update(repairs)
            if repairs:
                self._repaired += 1
            else:
                self._parsed += 1

    def failed(self) -> None:
        """Count a reply that could not."""
        with self._lock:
            self._failed += 1

    def ranked(self, *, moved: bool) -> None:
        """Note a ranking, and warn, once, of a model that returns whatever it is shown in the order in which it is shown.

        Args:
            moved: Whether any of its replies was another order than that, or its reverse.
        """
        with self._lock:
            self._same = 0 if moved else self._same + 1
            warn = self._same >= _SAME_IN_A_ROW and not self._warned
            self._warned = self._warned or warn
        if warn:
            logger.warning(
                "%s has left the passages in the order in which they were shown, or reversed it, in all replies of %d rankings"
                " in a row: it may not rank at all; compare with shuffles=2: its order is then random", self._who, _SAME_IN_A_ROW,
            )  # fmt: skip
