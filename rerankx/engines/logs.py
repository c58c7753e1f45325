"""Other packages' logging, kept from setting up the application's."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def root_logging_as_it_is() -> Iterator[None]:
    """Within, `logging.basicConfig()`, and `logging.info()` which calls it, leave the root logger without a handler of theirs.

    They do nothing where a handler is.
    """
    guard = logging.NullHandler()
    logging.getLogger().addHandler(guard)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(guard)
