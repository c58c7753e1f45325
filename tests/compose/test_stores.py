import copy
import logging
import multiprocessing
import os
import pickle
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from rerankx.compose.stores import DiskStore, MemoryStore

HEADER = b"SQLite format 3\0"
FORK = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def key(i):
    return i.to_bytes(32, "big")


def items(numbers, size=10):
    return {key(i): bytes([i % 256]) * size for i in numbers}


def intact(path):
    with closing(sqlite3.connect(path)) as db:
        return db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "folder" / "scores.db"


@pytest.fixture(params=["memory", "disk"])
def store(request, path):
    return MemoryStore() if request.param == "memory" else DiskStore(path)


@pytest.fixture
def warnings(caplog):
    caplog.set_level(logging.WARNING, logger="rerankx")
    return lambda: [record.getMessage() for record in caplog.records]


# What both promise.


def test_what_was_put_is_there_and_nothing_else(store):
    store.put(items([1, 2]))
    assert store.get([key(1), key(2), key(3)]) == items([1, 2])
    assert store.get([]) == {}
    store.put({})


def test_the_later_value_stands(store):
    store.put({key(1): b"old", key(2): b"same"})
    store.put({key(1): b"new"})
    assert store.get([key(1), key(2)]) == {key(1): b"new", key(2): b"same"}


def test_values_may_hold_any_bytes(store):
    values = {key(1): b"", key(2): b"\0'\"\xff" * 3, key(3): bytes(100_000)}
    store.put(values)
    assert store.get(list(values)) == values


def test_many_keys_are_looked_up_at_once(store):
    store.put(items(range(3_000)))
    assert store.get([key(i) for i in range(3_500)]) == items(range(3_000))


def test_threads_share_it(store):
    def work(number):
        mine = items(range(100 * number, 100 * number + 30))
        for name, value in mine.items():
            store.put({name: value})
        return store.get(list(mine)) == mine

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(work, range(16)))


@pytest.mark.parametrize("kind", [MemoryStore, lambda **options: DiskStore("x.db", **options)])
@pytest.mark.parametrize("wrong", [1.5, "1", True, None])
def test_a_size_that_is_no_whole_number_is_refused(kind, wrong):
    with pytest.raises(TypeError, match="max_bytes must be a whole number"):
        kind(max_bytes=wrong)


# Memory.


def test_in_memory_what_was_used_longest_ago_goes_first():
    store = MemoryStore(max_bytes=3 * 350)
    store.put(items([1, 2, 3], size=100))
    store.get([key(1)])
    store.put(items([4], size=100))
    assert set(store.get([key(i) for i in (1, 2, 3, 4)])) == {key(1), key(3), key(4)}


def test_a_value_that_is_put_again_is_not_counted_twice():
    store = MemoryStore(max_bytes=3 * 350)
    for _ in range(10):
        store.put(items([1, 2, 3], size=100))
    assert len(store.get([key(i) for i in (1, 2, 3)])) == 3


def test_what_is_larger_than_the_memory_is_not_kept():
    for store in (MemoryStore(max_bytes=0), MemoryStore(max_bytes=300)):
        store.put(items([1], size=1_000))
        assert store.get([key(1)]) == {}
    with pytest.raises(ValueError, match="at least 0"):
        MemoryStore(max_bytes=-1)


def test_what_is_larger_than_the_memory_drives_nothing_out():
    store = MemoryStore(max_bytes=10_000)
    store.put(items(range(20)))
    store.put({key(1): bytes(10_000), key(99): bytes(10_000)})
    assert store.get([key(i) for i in range(100)]) == items(set(range(20)) - {1})  # the old value of 1 is none any more


def test_the_memory_that_is_counted_is_what_is_taken():
    store, chance = MemoryStore(), random.Random(0)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5_000):
            store.put({chance.randbytes(32): chance.randbytes(100)})
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.6 * store._held < after - before < 1.1 * store._held


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda store: pickle.loads(pickle.dumps(store))])
def test_a_copy_of_a_memory_begins_empty(copied):
    store = MemoryStore(max_bytes=1_000)
    store.put(items([1]))
    other = copied(store)
    assert (other.get([key(1)]), other.max_bytes) == ({}, 1_000)


@FORK
@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")
def test_after_a_fork_while_threads_use_it_it_works_in_the_child(kind, path):
    store = MemoryStore() if kind == "memory" else DiskStore(path)
    store.put(items([1]))
    over = threading.Event()

    def use(number):
        while not over.is_set():
            store.put(items(range(number, number + 20)))
            store.get([key(i) for i in range(100)])

    def child():
        if getattr(store, "_db", None) is not None:  # SQLite's own must not cross a fork
            os._exit(2)
        for _ in range(50):  # it may be locked for a moment
            store.put(items([7_777]))
            if store.get([key(1), key(7_777)]) == items([1, 7_777]):
                os._exit(0)
        os._exit(1)

    threads = [threading.Thread(target=use, args=[1_000 * i]) for i in range(1, 4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(20):
            pid = os.fork()
            if pid == 0:
                child()
            assert os.waitpid(pid, 0)[1] == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert store.get([key(1)]) == items([1])
    if kind == "disk":
        assert store.get([key(7_777)]) == items([7_777])
        assert intact(path)


# The file.


def test_the_next_run_finds_what_was_kept(path):
    DiskStore(path).put(items([1, 2]))
    found = subprocess.run(
        [sys.executable, "-c", "import sys; from rerankx.compose.stores import DiskStore, MemoryStore;"
         "print(DiskStore(sys.argv[1]).get([(1).to_bytes(32, 'big')]))", str(path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == str(items([1]))


def test_nothing_is_touched_before_it_is_used(path):
    DiskStore(path)
    assert not path.parent.exists()


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_it_is_for_its_owner_alone(path):
    mask = os.umask(0)
    try:
        store = DiskStore(path)
        store.put(items([1]))
        files = list(path.parent.iterdir())
        assert {file.name for file in files} == {"scores.db", "scores.db-wal", "scores.db-shm"}
        assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    finally:
        os.umask(mask)


def test_a_relative_path_stays_where_it_was_and_travels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = DiskStore("here.db", max_bytes=100_000)
    store.put(items([1]))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for other in (pickle.loads(pickle.dumps(store)), copy.deepcopy(store), copy.copy(store)):
        assert (other.path, other.max_bytes) == (tmp_path / "here.db", 100_000)
        assert other.get([key(1)]) == items([1])


def test_home_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert DiskStore("~/x.db").path == tmp_path / "x.db"


def test_what_is_no_path_is_refused():
    with pytest.raises(TypeError, match="path must be a path, not int"):
        DiskStore(3)
    for wrong in ("", "redis://:secret@host/0"):
        with pytest.raises(ValueError, match="path must be a file's"):
            DiskStore(wrong)
    with pytest.raises(ValueError, match="at least 65,536"):
        DiskStore("x.db", max_bytes=100)
    with pytest.raises(ValueError, match="at most 1,099,511,627,776"):
        DiskStore("x.db", max_bytes=10**30)


def test_the_largest_file_is_no_problem(path):
    store = DiskStore(path, max_bytes=2**40)
    store.put(items([1]))
    assert store.get([key(1)]) == items([1])


def test_the_file_stays_within_its_size_and_keeps_the_latest(path):
    store = DiskStore(path, max_bytes=2**18)
    for start in range(0, 20_000, 50):
        store.put(items(range(start, start + 50), size=100))
    store.close()
    assert path.stat().st_size <= 2**18
    latest = [key(i) for i in range(19_500, 20_000)]
    assert len(store.get(latest)) == 500
    assert store.get([key(i) for i in range(10_000)]) == {}


@pytest.mark.parametrize("size", [1_400, 2_100, 5_000])
def test_large_entries_are_kept_too(path, size, warnings):
    store = DiskStore(path, max_bytes=2**18)
    for i in range(400):
        store.put(items([i], size=size))
        assert store.get([key(i)]) == items([i], size=size)
    store.close()
    assert path.stat().st_size <= 2**18
    assert warnings() == []


def test_in_a_file_what_is_used_stays_while_others_go(path):
    store = DiskStore(path, max_bytes=2**17)
    store.put(items([1], size=100))
    for start in range(1_000, 5_000, 50):
        store.put(items(range(start, start + 50), size=100))
        assert store.get([key(1)]) == items([1], size=100)
    assert store.get([key(1_000)]) == {}


def test_entries_that_do_not_fit_at_once_do_no_harm(path, warnings):
    store = DiskStore(path, max_bytes=2**16)
    store.put(items(range(10)))
    store.put(items(range(100, 104), size=2**16))
    (warning,) = warnings()
    assert "cannot keep all it is given" in warning
    store.put(items([5]))
    assert store.get([key(5)]) == items([5])
    store.close()
    assert path.stat().st_size <= 2**16


def test_a_database_that_is_locked_is_a_miss_and_no_warning(path, warnings):
    store = DiskStore(path)
    store.put(items([1]))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    try:
        store.put(items([2]))  # waits a moment, and gives up
        assert DiskStore(path).get([key(2)]) == {}
        assert store.get([key(1)]) == items([1])  # readers are not locked out
    finally:
        other.execute("ROLLBACK")
        other.close()
    store.put(items([3]))
    assert store.get([key(1), key(2), key(3)]) == items([1, 3])
    assert warnings() == []


@pytest.mark.parametrize(
    "garbage", [HEADER + b"no page of a database, but long enough to be looked at" * 100, HEADER + bytes(5_000)]
)
def test_a_broken_database_is_put_aside_and_begun_anew(path, garbage, warnings):
    path.parent.mkdir()
    path.write_bytes(garbage)
    store = DiskStore(path)
    assert store.get([key(1)]) == {}
    store.put(items([1]))
    assert store.get([key(1)]) == items([1])
    assert path.with_name("scores.db.broken").read_bytes() == garbage
    (warning,) = warnings()
    assert "was broken" in warning
    assert str(path) in warning


@pytest.mark.parametrize("content", [b"notes", b"my important notes " * 100, random.Random(0).randbytes(8_192)])
def test_a_file_that_never_was_a_database_is_left_alone(path, content, warnings):
    path.parent.mkdir()
    path.write_bytes(content)
    store = DiskStore(path)
    for _ in range(3):
        store.put(items([1]))
        assert store.get([key(1)]) == {}
    assert [file.name for file in path.parent.iterdir()] == ["scores.db"]
    assert path.read_bytes() == content
    (warning,) = warnings()
    assert "it is no database; give another path" in warning


def test_a_file_that_loses_its_header_while_it_is_open_is_put_aside(path, warnings):
    first = DiskStore(path)
    first.put(items(range(2_000), size=100))
    first.close()
    store = DiskStore(path)
    store.get([key(1)])
    path.write_bytes(random.Random(0).randbytes(path.stat().st_size))
    store.get([key(i) for i in range(2_000)])
    store.put(items([1]))
    assert store.get([key(1)]) == items([1])
    assert path.with_name("scores.db.broken").exists()


def test_what_was_put_aside_is_never_overwritten(path, warnings):
    path.parent.mkdir()
    for i in range(12):
        path.write_bytes(HEADER + b"garbage number %d, which is no database and never was " % i * 20)
        store = DiskStore(path)
        store.get([key(1)])
    aside = sorted(path.parent.glob("*.broken*"))
    assert len(aside) == 10
    assert aside[0].read_bytes().startswith(HEADER + b"garbage number 0,")
    assert store.get([key(1)]) == {}
    assert "remove the .broken files" in warnings()[-1]


@pytest.mark.parametrize("left", [0, 50, 4_096, 10_000])
def test_a_file_that_was_cut_short_is_survived(path, left, warnings):
    store = DiskStore(path)
    store.put(items(range(1_000), size=100))
    store.close()
    os.truncate(path, left)
    for other in (DiskStore(path), DiskStore(path)):
        other.get([key(i) for i in range(1_000)])
        other.put(items(range(2_000, 2_100)))
    assert other.get([key(2_000)]) == items([2_000])
    assert DiskStore(path).get([key(2_050)]) == items([2_050])


def test_pages_overwritten_while_it_is_open_are_survived(path):
    store = DiskStore(path)
    store.put(items(range(2_000), size=100))
    store.close()
    store.get([key(1)])
    noise = random.Random(0)
    with path.open("r+b") as file:
        file.seek(4_096)
        file.write(noise.randbytes(path.stat().st_size - 4_096))
    other = DiskStore(path)
    for _ in range(3):
        other.get([key(i) for i in range(2_000)])
        other.put(items(range(3_000, 3_100)))
    assert other.get([key(3_000)]) == items([3_000])
    store.put(items([5_000]))  # it follows to the new file
    store.put(items([5_000]))
    assert other.get([key(5_000)]) == items([5_000])


def test_a_file_that_is_removed_while_it_is_open_is_begun_anew(path):
    store = DiskStore(path)
    store.put(items([1]))
    for file in path.parent.iterdir():
        file.unlink()
    assert store.get([key(1)]) == {}
    store.put(items([2]))
    assert DiskStore(path).get([key(2)]) == items([2])


def test_a_folder_in_its_place_is_no_cache_and_said_once(path, warnings):
    path.mkdir(parents=True)
    store = DiskStore(path)
    for _ in range(3):
        store.put(items([1]))
        assert store.get([key(1)]) == {}
    assert len(warnings()) == 1
    assert path.is_dir()


def test_a_file_where_a_folder_should_be_is_no_cache(tmp_path, warnings):
    (tmp_path / "file").write_text("x")
    store = DiskStore(tmp_path / "file" / "scores.db")
    store.put(items([1]))
    assert store.get([key(1)]) == {}
    assert len(warnings()) == 1


def test_another_programs_database_is_left_alone(path, warnings):
    path.parent.mkdir()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE theirs(x)")
    db.close()
    before = path.read_bytes()
    store = DiskStore(path)
    for _ in range(3):
        store.put(items([1]))
        assert store.get([key(1)]) == {}
    store.close()
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["scores.db"]
    (warning,) = warnings()
    assert "another program's database" in warning


def run_python(code, *arguments, **options):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, **options
    )


READ_ONLY = """
import os, sys
from rerankx.compose.stores import DiskStore
if os.geteuid() == 0:  # whom permissions do not bind
    os.setegid(65534); os.seteuid(65534)
key = (1).to_bytes(32, "big")
for name in sys.argv[1:]:
    store = DiskStore(name)
    for _ in range(3):
        store.put({key: b"x"})
        print(len(store.get([key])))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX permissions")
def test_what_may_not_be_written_is_no_cache_and_said_once():
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        folder = Path(name) / "read-only"
        store = DiskStore(folder / "old.db")
        store.put({key(2): b"other"})
        store.close()
        os.chmod(folder / "old.db", 0o444)
        os.chmod(folder, 0o555)
        done = run_python(READ_ONLY, folder / "new.db", folder / "old.db")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["0"] * 6
        assert done.stderr.count("is not used") == 2, done.stderr
        assert [file.name for file in folder.iterdir()] == ["old.db"]
        os.chmod(folder, 0o755)


FULL = """
import resource, sys
from rerankx.compose.stores import DiskStore
store = DiskStore(sys.argv[1])
store.put({i.to_bytes(32, "big"): bytes(100) for i in range(10)})
size = 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
for start in range(100, 50_000, 500):
    store.put({i.to_bytes(32, "big"): bytes(100) for i in range(start, start + 500)})
    store.get([i.to_bytes(32, "big") for i in range(start, start + 500)])
print("alive")
"""


def test_a_disk_that_is_full_is_survived_and_said_once(path):
    pytest.importorskip("resource", reason="needs POSIX limits")
    done = run_python(FULL, path)
    assert done.stdout == "alive\n", done.stderr
    assert 1 <= done.stderr.count("is not used") <= 3, done.stderr
    store = DiskStore(path)  # there is room again
    store.put(items([1]))
    assert store.get([key(1)]) == items([1])


WRITE = """
import sys
from rerankx.compose.stores import DiskStore
store, i = DiskStore(sys.argv[1], max_bytes=2**20), int(sys.argv[2])
print("begun", flush=True)
while True:
    store.put({n.to_bytes(32, "big"): n.to_bytes(8, "big") * 20 for n in range(i, i + 50)})
    i += 50
"""


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_killed_while_it_writes_it_stays_usable(path):
    chance = random.Random(1)
    for round in range(6):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITE, str(path), str(10**6 * (2 * round + i))], stdout=subprocess.PIPE
            )
            for i in range(2)
        ]
        for writer in writers:
            writer.stdout.readline()
        time.sleep(chance.uniform(0.05, 0.2))  # at any moment
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.wait()
            writer.stdout.close()
        store = DiskStore(path, max_bytes=2**20)
        last = 10**6 * 2 * round
        found = store.get([key(last + i) for i in range(2_000)])
        assert all(value == name[-8:] * 20 for name, value in found.items())
        store.put(items([round]))
        assert store.get([key(round)]) == items([round])
        store.close()
        assert intact(path)
    assert not list(path.parent.glob("*.broken*"))


def _put_and_check(path, number):
    store = DiskStore(path)
    wrong = 0
    for start in range(0, 1_000, 20):
        numbers = range(start, start + 20)
        found = store.get([key(i) for i in numbers])
        wrong += any(found[name] != items(numbers)[name] for name in found)
        store.put(items(numbers))
    store.close()
    return wrong


def test_processes_share_one_file(path):
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        assert pool.starmap(_put_and_check, [(path, i) for i in range(4)]) == [0, 0, 0, 0]
    found = DiskStore(path).get([key(i) for i in range(1_000)])
    assert found == {name: items(range(1_000))[name] for name in found}
    assert len(found) > 500  # what was not kept because the file was locked is not missed
