"""Where `Cached` keeps scores: in memory, in a file, or in whatever has `get` and `put`.

The file is SQLite's, by the standard library's `sqlite3`: kept by Python itself, made for several processes and for being killed
in the middle, and nothing in it is ever executed, as a pickle would be.
"""

from __future__ import annotations

import logging
import operator
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar
from weakref import WeakSet

from rerankx.arguments import shown

logger = logging.getLogger("rerankx")

T = TypeVar("T")

_BUSY_S = 0.2  # for another process
_TURN_S = 1.0  # for the other threads
# What an entry takes beside its value, rounded up: objects and links in memory; key, its index and space left in pages on disk.
_IN_MEMORY, _ON_DISK = 250, 160
_LEAST_FILE, _MOST_FILE = 2**16, 2**40
_KEYS_AT_ONCE = 500  # SQLite before 3.32 takes 999
_OURS = 0x72726B78  # "rrkx", SQLite's application_id: another program's database is left alone
_HEADER = b"SQLite format 3\0"
_TABLE = "pairs_1"  # another number where the columns change
_BUSY, _BROKEN = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class Store(Protocol):
    """What `Cached` keeps its entries in: bytes under bytes, a key of 32 and a value of some hundred.

    Called from any thread. An entry may vanish at any time. What is raised is logged, and the query goes on without the cache.
    """

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values of those keys that are there."""

    def put(self, items: Mapping[bytes, bytes]) -> object:
        """Keep the items; a key that is there gets the new value."""


class MemoryStore:
    """Keeps entries in this process; what was not used for the longest time goes first.

    Safe under threads. A copy, pickled or not, begins empty.

    Args:
        max_bytes: How much it may hold, at least 0; an entry takes about 350.

    Raises:
        TypeError: Not a whole number.
        ValueError: Below 0.
    """

    def __init__(self, max_bytes: int = 64 * 2**20) -> None:
        self.max_bytes = _checked_bytes(max_bytes, least=0)
        self._entries: OrderedDict[bytes, bytes] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()
        told_of_forks(self)

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values of those keys that are there."""
        found = {}
        with self._lock:
            for key in keys:
                value = self._entries.get(key)
                if value is not None:
                    self._entries.move_to_end(key)
                    found[key] = value
        return found

    def put(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the items; a key that is there gets the new value."""
        with self._lock:
            for key, value in items.items():
                old = self._entries.pop(key, None)
                if old is not None:
                    self._held -= len(old) + _IN_MEMORY
                if len(value) + _IN_MEMORY <= self.max_bytes:  # else all others would have to go, and then it
                    self._held += len(value) + _IN_MEMORY
                    self._entries[key] = value
            while self._held > self.max_bytes:
                _, value = self._entries.popitem(last=False)
                self._held -= len(value) + _IN_MEMORY

    def before_fork(self) -> None:
        """Wait until no thread is in the middle of a change: the child has what is held here."""
        self._lock.acquire()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on."""
        self._lock.release()

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), max_bytes=self.max_bytes), ()

    def __repr__(self) -> str:
        return f"MemoryStore(max_bytes={self.max_bytes})"


class DiskStore:
    """Keeps entries in a file, for several processes and the next run; what was not used for long goes first.

    The file holds scores, details and hashes: no query and no text. It is made for its owner alone (mode 0600), and so is the
    folder that it is in, where there is none (0700). Safe under threads; killed at any moment, it stays usable. Safe after a
    fork; in a child that was forked while another thread's call took more than a second, there is no cache.

    It never raises once it is made. A file that is locked for more than 0.2 s is a miss. A database that is broken is renamed to
    `.broken` and begun anew. Where nothing can be written or read (a full disk, no permission, a folder or another program's file
    in its place) there is no cache. Each kind of failure is logged once.

    Not for folders that several machines share: SQLite's locks do not hold there.

    Args:
        path: The file; made on first use, with its folders. "~" is the home folder.
        max_bytes: How large the file may become, 65,536 to 2^40; an entry takes about 250. SQLite keeps some 4 MB more beside
            it, in `-wal` and `-shm`.

    Raises:
        TypeError: Not a path, not a whole number.
        ValueError: A number out of its range, or a URL instead of a path.
    """

    def __init__(self, path: str | os.PathLike[str], *, max_bytes: int = 2**30) -> None:
        if not isinstance(path, str | os.PathLike):
            raise TypeError(f"path must be a path, not {type(path).__name__}")
        given = os.fspath(path)
        if not given or "://" in given:
            raise ValueError(f"path must be a file's, not {shown(given)}; for a server write a class with get and put")
        # Absolute: the process may move, and a copy may live in another one.
        self.path = Path(given).expanduser().absolute()
        self.max_bytes = _checked_bytes(max_bytes, least=_LEAST_FILE, most=_MOST_FILE)
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._told: set[object] = set()
        self._stopped = self._lost = False
        told_of_forks(self)

    def get(self, keys: Sequence[bytes]) -> Mapping[bytes, bytes]:
        """Return the values of those keys that are there."""
        return self._use(partial(_read, keys=keys, max_bytes=self.max_bytes), dict[bytes, bytes]())

    def put(self, items: Mapping[bytes, bytes]) -> None:
        """Keep the items; a key that is there gets the new value."""
        if items:
            self._use(partial(_write, items=items, max_bytes=self.max_bytes), None)

    def close(self) -> None:
        """Let go of the file; the next call opens it again."""
        with self._lock:
            self._close()

    def _use(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """Return what `work` makes of the open file, or `otherwise` where there is none."""
        lock = self._lock
        if not lock.acquire(timeout=_TURN_S):
            return otherwise
        try:
            return work(self._open())
        except (sqlite3.Error, OSError, _NotOursError) as error:
            self._failed(error)
            return otherwise
        finally:
            lock.release()

    def _open(self) -> sqlite3.Connection:
        if self._lost:
            raise OSError("the process was forked while the file was in use")
        if self._db is not None:
            if _identity(self.path) == self._file:
                return self._db
            self._close()  # somebody removed it, or put it aside
        # One at a time: where a file is closed, the process loses its locks on it, those of its other connections, too.
        with _opening:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            self._file = _identity(self.path)
            db = sqlite3.connect(self.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(db, self.max_bytes)
            except BaseException:
                db.close()
                raise
        self._db = db
        return db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(sqlite3.Error):
                db.close()

    def _failed(self, error: Exception) -> None:
        code = getattr(error, "sqlite_errorcode", -1) & 0xFF
        if code in _BUSY:
            logger.debug("the cache %s is locked by another process", self.path)
            return
        ours = self._db is not None
        self._close()
        if code in _BROKEN:
            try:
                aside = self._put_aside(ours=ours)
            except (OSError, _NotOursError) as failure:
                error = failure
            else:
                if aside is not None:
                    logger.warning(
                        "the cache %s was broken (%s): begun anew, the old one is %s", self.path, error, aside
                    )
                return
        kind = (type(error), code)
        if kind not in self._told:
            self._told.add(kind)
            what = "cannot keep all it is given" if code == sqlite3.SQLITE_FULL else "is not used"
            logger.warning("the cache %s %s: %s", self.path, what, error)

    def _put_aside(self, *, ours: bool) -> Path | None:
        """Return what the broken file is called now; None where another has put it aside."""
        with _opening:
            if _identity(self.path) != self._file:
                return None
            if not ours:
                with self.path.open("rb") as file:
                    if file.read(len(_HEADER)) != _HEADER:
                        raise _NotOursError("it is no database; give another path, or remove it")
            names = (self.path.with_name(f"{self.path.name}.broken{number or ''}") for number in range(10))
            aside = next((path for path in names if not path.exists()), None)
            if aside is None:
                raise FileExistsError("broken again; remove the .broken files beside it")
            for name in ("-wal", "-shm"):  # first: they belong to what is broken
                self.path.with_name(self.path.name + name).unlink(missing_ok=True)
            return self.path.rename(aside)

    def before_fork(self) -> None:
        """Close the file: SQLite keeps account of the process's locks, and a child would take its parent's for its own."""
        self._stopped = self._lock.acquire(timeout=1.0)
        if self._stopped:
            self._close()

    def after_fork(self, *, in_child: bool) -> None:
        """Go on; whoever uses the file opens it again."""
        if self._stopped:
            self._lock.release()
        elif in_child:  # a thread that does not exist here is in the middle of something
            self._lock, self._lost = threading.Lock(), True
            _left.append(self._db)  # not closed: it is the parent's
            self._db = None

    def __reduce__(self) -> tuple[object, ...]:
        return partial(type(self), self.path, max_bytes=self.max_bytes), ()

    def __repr__(self) -> str:
        return f"DiskStore({str(self.path)!r}, max_bytes={self.max_bytes})"

    def __del__(self) -> None:
        if getattr(self, "_db", None) is not None:
            self._close()


class _NotOursError(Exception):
    """The file is another program's."""


# A row's stamp is how many bytes had been written when it was: what lies more than `max_bytes` behind the newest is removed, and
# what lies more than half as far behind gets a new one when it is read. So nothing is counted, and few reads write.


def _prepare(db: sqlite3.Connection, max_bytes: int) -> None:
    with _transaction(db, "DEFERRED"):  # of one moment: another process may be making the table
        (application,) = db.execute("PRAGMA application_id").fetchone()
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
    if application != _OURS and (application or tables):
        raise _NotOursError("it is another program's database; give another path")
    if _TABLE not in tables:
        db.execute("PRAGMA journal_mode=WAL")
        with _transaction(db, "IMMEDIATE"):
            db.execute(
                f"CREATE TABLE IF NOT EXISTS {_TABLE}"
                " (stamp INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)"
            )
            db.execute(f"PRAGMA application_id={_OURS}")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("PRAGMA journal_size_limit=4194304")
    (page_bytes,) = db.execute("PRAGMA page_size").fetchone()
    db.execute(f"PRAGMA max_page_count={max_bytes // page_bytes}")


def _read(db: sqlite3.Connection, *, keys: Sequence[bytes], max_bytes: int) -> dict[bytes, bytes]:
    rows: list[tuple[int, bytes, bytes]] = []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        marks = ",".join("?" * len(some))
        rows += db.execute(f"SELECT stamp, key, value FROM {_TABLE} WHERE key IN ({marks})", some).fetchall()  # noqa: S608
    newest = _newest(db)
    ageing = [row for row in rows if row[0] < newest - max_bytes // 2]
    if ageing:
        with suppress(sqlite3.OperationalError), _transaction(db, "IMMEDIATE"):
            stamped = _stamped(db, ((key, value) for _, key, value in ageing))
            db.executemany(f"UPDATE {_TABLE} SET stamp=? WHERE key=?", ((stamp, key) for stamp, key, _ in stamped))  # noqa: S608
    return {key: value for _, key, value in rows if isinstance(value, bytes)}


def _write(db: sqlite3.Connection, *, items: Mapping[bytes, bytes], max_bytes: int) -> None:
    try:
        _insert(db, items, max_bytes)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
        # The disk is full, or the file is: large entries leave space in its pages, which the stamps do not count.
        db.execute(f"DELETE FROM {_TABLE} WHERE stamp<=(SELECT (min(stamp)+max(stamp))/2 FROM {_TABLE})")  # noqa: S608
        _insert(db, items, max_bytes)


def _insert(db: sqlite3.Connection, items: Mapping[bytes, bytes], max_bytes: int) -> None:
    with _transaction(db, "IMMEDIATE"):
        rows = _stamped(db, items.items())
        db.executemany(f"INSERT OR REPLACE INTO {_TABLE} VALUES (?, ?, ?)", rows)  # noqa: S608
        db.execute(f"DELETE FROM {_TABLE} WHERE stamp<=?", [rows[-1][0] - max_bytes])  # noqa: S608


def _stamped(db: sqlite3.Connection, items: Iterable[tuple[bytes, bytes]]) -> list[tuple[int, bytes, bytes]]:
    stamp, rows = _newest(db), []
    for key, value in items:
        stamp += len(value) + _ON_DISK
        rows.append((stamp, key, value))
    return rows


def _newest(db: sqlite3.Connection) -> int:
    (newest,) = db.execute(f"SELECT max(stamp) FROM {_TABLE}").fetchone()  # noqa: S608
    return newest or 0


@contextmanager
def _transaction(db: sqlite3.Connection, kind: str) -> Iterator[None]:
    db.execute(f"BEGIN {kind}")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _identity(path: Path) -> tuple[int, int] | None:
    """Return which file it is, whatever its name; None for none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _checked_bytes(max_bytes: int, *, least: int, most: int | None = None) -> int:
    if isinstance(max_bytes, bool) or not hasattr(max_bytes, "__index__"):
        raise TypeError(f"max_bytes must be a whole number, not {shown(max_bytes)}")
    number = operator.index(max_bytes)
    if number < least:
        raise ValueError(f"max_bytes must be at least {least:,}, not {number:,}")
    if most is not None and number > most:
        raise ValueError(f"max_bytes must be at most {most:,}, not {number:,}")
    return number


class _Forked(Protocol):
    def before_fork(self) -> None: ...
    def after_fork(self, *, in_child: bool) -> None: ...


_all: WeakSet[_Forked] = WeakSet()
_told: list[_Forked] = []
_forking = threading.Lock()
_opening = threading.Lock()
_left: list[object] = []


def told_of_forks(owner: _Forked) -> None:
    """Call `owner.before_fork()` and `owner.after_fork(in_child=)` around every fork, as long as it lives."""
    with _forking:
        _all.add(owner)


def _before_fork() -> None:
    _forking.acquire()
    _told[:] = _all
    for one in _told:
        one.before_fork()


def _after_fork(*, in_child: bool) -> None:
    global _opening
    if in_child:
        _opening = threading.Lock()
    for one in _told:
        one.after_fork(in_child=in_child)
    _told.clear()
    _forking.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=partial(_after_fork, in_child=False),
        after_in_child=partial(_after_fork, in_child=True),
    )
