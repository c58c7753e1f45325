"""A cache of packed texts, bounded in bytes."""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections import OrderedDict

from rerankx.backends.embedded.combine import Packed

_OVERHEAD = 700  # bytes of a key, four array headers and a dict slot, measured with tracemalloc


def content_key(text: str) -> bytes:
    """Return 16 bytes that stand for a text's content."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


class VectorCache:
    """Keeps what was used last, up to `capacity` bytes; safe under threads.

    Args:
        capacity: Bytes, at least 0; 0 keeps nothing.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self._entries: OrderedDict[bytes, Packed] = OrderedDict()
        self._lock = threading.Lock()
        _caches.add(self)

    def get(self, key: bytes) -> Packed | None:
        """Return the text kept under `key`, now the last to go; None if it is not kept."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
            return entry

    def put(self, key: bytes, entry: Packed) -> None:
        """Keep a text, at the expense of those not used for longest; one larger than the whole cache is not kept."""
        size = entry.nbytes + _OVERHEAD
        if size > self.capacity:
            return
        with self._lock:
            old = self._entries.pop(key, None)
            if old is not None:
                self.nbytes -= old.nbytes + _OVERHEAD
            self._entries[key] = entry
            self.nbytes += size
            while self.nbytes > self.capacity:
                _, evicted = self._entries.popitem(last=False)
                self.nbytes -= evicted.nbytes + _OVERHEAD

    def __len__(self) -> int:
        return len(self._entries)

    def _renew(self) -> None:
        self.nbytes = 0
        self._entries, self._lock = OrderedDict(), threading.Lock()


_caches: weakref.WeakSet[VectorCache] = weakref.WeakSet()


def _renew_after_fork() -> None:
    # The fork may have come in the middle of a put, with the lock held by a thread that the child does not have.
    for cache in list(_caches):
        cache._renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_after_fork)
