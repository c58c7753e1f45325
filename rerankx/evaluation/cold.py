"""What `cold_start` runs as a new process, by its path: `python -m` would import rerankx before the clock starts."""

from __future__ import annotations

import time

STARTED = time.perf_counter()


def main() -> None:
    """Read a backend's spec and queries from standard input, ask, and write what it took to standard output, as JSON."""
    import json
    import os
    import sys

    reply = os.dup(1)
    os.dup2(2, 1)  # what libraries print, from C too, is no part of the reply
    given = json.load(sys.stdin)
    # What the caller can import; and the folder of this file, which holds a "statistics" of its own, goes.
    sys.path[:] = given["path"]
    base = _peak_mb()
    try:
        hits, misses, start_s = _asked(given["spec"], given["queries"])
        told: dict[str, object] = {"start_s": start_s, "hits": hits, "misses": misses}
        told |= {"memory_mb": _peak_mb(), "base_mb": base}
    except Exception as error:
        told = {"error": _told(error)}
    with os.fdopen(reply, "w", encoding="ascii") as file:
        json.dump(told, file)


def _asked(spec: dict[str, str], queries: list[tuple[str, list[str], list[float | None]]]) -> tuple[int, int, float]:
    """Return the first answer's hits and misses of a cache, and after how many seconds it was there."""
    from rerankx import from_spec
    from rerankx.compose.retrieval import retrieved

    backend = from_spec(spec).backend
    (query, texts, given), *others = queries
    with retrieved(texts, given):
        usage = backend.score(query, texts).usage
    start_s = time.perf_counter() - STARTED
    for query, texts, given in others:
        with retrieved(texts, given):
            backend.score(query, texts)
    return usage.cache_hits, usage.cache_misses, start_s


def _told(error: Exception) -> str:
    from rerankx import RerankxError

    # Messages of others may quote a document or a key.
    return f"{type(error).__name__}: {error}" if isinstance(error, RerankxError) else type(error).__name__


def _peak_mb() -> float | None:
    """Return the most memory that this process had resident so far, in MB; None where the system does not tell."""
    import sys

    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6  # bytes, where others count kilobytes
    # Not ru_maxrss: on Linux it begins with the parent's, 597 MB where this process took 9. VmHWM is this program's own.
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return next((int(line.split()[1]) * 1024 / 1e6 for line in file if line.startswith("VmHWM:")), None)
    except OSError:
        return None


if __name__ == "__main__":
    main()
