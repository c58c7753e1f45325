"""What rerankx raises.

    RerankxError
    ├── MissingDependencyError (ImportError)   a package that a backend needs is not installed
    ├── UnknownBackendError (ValueError)       no backend of that name
    ├── ModelNotFoundError                     the model's files are neither here nor to be had
    ├── OptionError (ValueError)               an option that the model, once it is there, does not allow
    ├── SpecError (ValueError)                 a declared pipeline that cannot be built, or one that cannot be declared
    └── BackendError                           a backend was asked and did not answer as it must
        ├── AuthenticationError                the key is missing, wrong or not allowed this model
        ├── RateLimitError                     too many requests
        │   └── BudgetError                    a limit of your own is used up: calls, tokens or dollars
        ├── DeadlineError                      no answer within the deadline
        └── ReplyError                         an answer that is not a scoring of the texts

Bad arguments are ValueError and TypeError, as in the standard library. `BackendError` is what `on_error="input_order"`
catches; everything else is a mistake in the program or its installation and is always raised. No message holds a key or
a whole document.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any


class RerankxError(Exception):
    """Base of every error of rerankx's own."""


class MissingDependencyError(RerankxError, ImportError):
    """A package that a backend or an adapter needs is not installed.

    Attributes:
        backend: What needs them: a backend's name, or an adapter's.
        packages: The import names that were not found.
        command: What installs them, ready to paste.
    """

    def __init__(self, backend: str, packages: Sequence[str], command: str) -> None:
        super().__init__(backend, packages, command)
        self.backend, self.packages, self.command = backend, tuple(packages), command

    def __str__(self) -> str:
        return f"{self.backend!r} needs {', '.join(self.packages)}, not installed here: {self.command}"


class UnknownBackendError(RerankxError, ValueError):
    """No backend of that name is installed.

    Attributes:
        name: What was asked for.
        known: Every name there is, sorted.
    """

    def __init__(self, name: str, known: Iterable[str]) -> None:
        super().__init__(name, tuple(sorted(known)))
        self.name, self.known = self.args

    def __str__(self) -> str:
        return f"no backend named {self.name!r}{did_you_mean(self.name, self.known)}; known: {', '.join(self.known)}"


class ModelNotFoundError(RerankxError):
    """A model's files were not found; the message says what was looked for, where, and how to provide it."""


class OptionError(RerankxError, ValueError):
    """An option that does not fit the model: found out when the model is loaded, and no fault of the backend's."""


class SpecError(RerankxError, ValueError):
    """A spec from which nothing can be made, or a reranker of which there can be none; the message begins with the place."""


class BackendError(RerankxError):
    """A backend was asked and did not answer as it must.

    Attributes:
        attempts: Where several backends were asked and all failed: a `rerankx.Attempt` for each.
        usage: What it took to fail: a `rerankx.Usage`; None for nothing.
    """

    # Of classes which this module is beneath.
    attempts: tuple[Any, ...] = ()
    usage: Any = None


class AuthenticationError(BackendError):
    """The key is missing, wrong, or not allowed this model."""


class RateLimitError(BackendError):
    """Too many requests."""


class BudgetError(RateLimitError):
    """A limit that you set is used up: `max_calls`, `max_input_tokens` or `budget_usd`. Nothing was sent."""


class DeadlineError(BackendError):
    """No answer within the deadline."""


class ReplyError(BackendError):
    """An answer that is not a scoring of the texts; the message says what came back, cut short."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of `known`, or "" where none is near."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
