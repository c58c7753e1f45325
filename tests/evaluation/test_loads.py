"""Many queries at once, and the first answer of a new process."""

import json
import os
import sys
import threading
from types import SimpleNamespace

import pytest

from rerankx import BackendError, Cached, DiskStore, MissingDependencyError, Scale, Scores, SpecError, Usage
from rerankx.compose.retrieval import Retrieval
from rerankx.evaluation import Candidate, Dataset, score
from rerankx.evaluation.loads import cold_start, percentiles, under_load
from rerankx.registry import create
from rerankx.testing import FakeBackend

N = 20


def dataset(n=N):
    queries = {f"q{i}": f"apple {i}" for i in range(n)}
    candidates = {
        qid: [Candidate(f"d{i}", f"{qid} text {i} \ud800", None if i == 2 else 4.0 - i) for i in range(4)]
        for qid in queries
    }
    return Dataset("made up", queries, {qid: {"d3": 1} for qid in queries}, candidates)


def scored(backend, data=None):
    return score(backend, dataset() if data is None else data)


# Many at once


def test_so_many_threads_ask_at_once():
    met = threading.Barrier(4, timeout=60)

    class Meeting(FakeBackend):
        waits = False

        def _score(self, query, texts, *, top_n=None):
            if self.waits and len(texts) == 4:
                met.wait()  # until four are here
            return super()._score(query, texts)

    backend = Meeting()
    scoring = scored(backend)
    backend.waits = True
    load = under_load(backend, scoring, concurrency=4)
    assert (load.concurrency, load.queries, load.failed) == (4, N, 0)
    assert load.queries_per_s > 0
    assert 0 < load.p50_ms <= load.p95_ms


def test_one_query_is_asked_beforehand_about_two_candidates():
    backend = FakeBackend()
    scoring = scored(backend)
    backend.calls.clear()
    under_load(backend, scoring, concurrency=1)
    first, *others = backend.calls
    assert (len(first.texts), first.query) == (2, others[0].query)
    assert sorted(call.query for call in others) == sorted(dataset().queries.values())


@pytest.mark.parametrize(("concurrency", "queries"), [(1, 64), (20, 80), (200, 100)])
def test_a_sample_is_asked_that_keeps_the_threads_busy(concurrency, queries):
    backend = FakeBackend()
    load = under_load(backend, scored(backend, dataset(100)), concurrency=concurrency)
    assert (load.queries, load.concurrency) == (queries, min(concurrency, 100))


def test_the_sample_is_that_of_the_seed():
    backend = FakeBackend()
    scoring = scored(backend, dataset(100))
    asked = []
    for seed in (0, 0, 1):
        backend.calls.clear()
        under_load(backend, scoring, concurrency=1, seed=seed)
        asked.append([call.query for call in backend.calls])
    assert asked[0] == asked[1] != asked[2]


def test_failures_under_load_are_counted_and_not_timed():
    class Weak(FakeBackend):
        fails = frozenset()

        def _score(self, query, texts, *, top_n=None):
            if query in self.fails:
                raise BackendError("down")
            return super()._score(query, texts)

    backend = Weak()
    scoring = scored(backend)
    backend.fails = {"apple 3", "apple 4"}
    load = under_load(backend, scoring, concurrency=2)
    assert (load.failed, load.p50_ms is None) == (2, False)
    backend.fails = set(dataset().queries.values())
    load = under_load(backend, scoring, concurrency=2)
    assert (load.failed, load.p50_ms, load.p95_ms, load.queries_per_s) == (N, None, None, 0.0)


def test_what_is_no_failure_of_the_backend_is_raised():
    backend = FakeBackend()
    scoring = scored(backend)
    gone = FakeBackend(error=MissingDependencyError("fake", ["x"], "pip install x"))
    with pytest.raises(MissingDependencyError):
        under_load(gone, scoring, concurrency=2)


def test_each_thread_knows_the_scores_of_the_first_stage():
    class Heard(Retrieval):
        def __init__(self):
            self.heard = []

        def _score(self, query, texts, *, top_n=None):
            scores = super()._score(query, texts)
            self.heard.append(tuple(scores.values))
            return scores

    backend = Heard()
    scoring = scored(backend)
    backend.heard.clear()
    under_load(backend, scoring, concurrency=3)
    assert set(backend.heard[1:]) == {(4.0, 3.0, None, 1.0)}


# Caches


def test_a_cache_in_memory_that_has_seen_the_texts_gives_nothing():
    backend = Cached(FakeBackend())
    scoring = scored(backend)
    before = len(backend.backend.calls)
    assert under_load(backend, scoring, concurrency=2).cached == pytest.approx(2 / (4 * N))  # the two asked beforehand
    assert len(backend.backend.calls) == before


def test_what_a_cache_gives_that_cannot_be_emptied_is_told(tmp_path):
    on_disk = Cached(FakeBackend(), store=DiskStore(tmp_path / "scores.db"))
    assert under_load(on_disk, scored(on_disk), concurrency=2).cached == 1.0
    not_to_be_copied = Cached(FakeBackend(score=lambda query, text: 0.5))
    assert under_load(not_to_be_copied, scored(not_to_be_copied), concurrency=2).cached == 1.0


def test_a_remote_backend_is_not_copied_so_that_its_limits_hold():
    copies = []

    class Remote(FakeBackend):
        def _score(self, query, texts, *, top_n=None):
            values = super()._score(query, texts)
            return Scores(values, usage=Usage(calls=1, cache_misses=len(texts)))

        def __reduce__(self):
            copies.append(self)
            return super().__reduce__()

    backend = Remote()
    assert under_load(backend, scored(backend), concurrency=2).cached == 0.0
    assert (copies, len(backend.calls)) == ([], 2 * (1 + N))


def test_percentiles_are_of_what_was_seen():
    assert percentiles([float(i) for i in range(20, 0, -1)]) == (10.5, 19.0)
    assert percentiles([7.0]) == (7.0, 7.0)
    assert percentiles([]) == (None, None)


# A new process

ODD = """
import json, os, sys, time
from functools import partial
from statistics import harmonic_mean  # of the standard library
from rerankx import AuthenticationError, Backend, Scale

if "ODD_BROKEN" in os.environ:
    raise RuntimeError("sk-secret is in here")

class Odd(Backend):
    name, scale, pointwise = "odd", Scale.UNKNOWN, True
    secrets = {"api_key": "ODD_KEY"}

    def __init__(self, model="well", *, api_key=None):
        self.model, self.key = model, api_key or os.environ.get("ODD_KEY")
        if model == "keyed" and not self.key:
            raise AuthenticationError("there is no ODD_KEY")

    def __reduce__(self):
        return partial(Odd, self.model), ()

    def _score(self, query, texts, *, top_n=None):
        with open(os.environ["ODD_LOG"], "a") as file:
            command = [sys.orig_argv, sys.argv]
            file.write(json.dumps({"pid": os.getpid(), "command": command, "query": query, "texts": list(texts)}) + "\\n")
        if os.getpid() != int(os.environ["ODD_PARENT"]):
            {"well": int, "keyed": int, "noise": noise, "raise": fail, "die": die, "hang": hang, "late": late}[self.model]()
        return [float(len(text)) for text in texts]

def noise():
    print("{}", flush=True)
    os.write(1, b"[]")
    print("x" * 1_000_000, file=sys.stderr)

def fail():
    raise ValueError("sk-secret is in here")

def die():
    os._exit(3)

def hang():
    time.sleep(600)

def late():
    import atexit
    atexit.register(os._exit, 9)
"""


@pytest.fixture
def odd(tmp_path, monkeypatch):
    """Return a namespace: `make`, which makes an installed backend, odd in other processes, and `asked`, what it was asked."""
    info = tmp_path / "odd-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: odd\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rerankx.backends]\nodd = odd_backend:Odd\n")
    (tmp_path / "odd_backend.py").write_text(ODD)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "odd_backend", raising=False)
    log = tmp_path / "log"
    monkeypatch.setenv("ODD_LOG", str(log))
    monkeypatch.setenv("ODD_PARENT", str(os.getpid()))
    monkeypatch.delenv("ODD_KEY", raising=False)

    def make(model, **options):
        return create("odd", model=model, **options)

    def asked():
        calls = [json.loads(line) for line in log.read_text().splitlines()]
        return [call for call in calls if call["pid"] != os.getpid()]

    yield SimpleNamespace(make=make, asked=asked)
    sys.modules.pop("odd_backend", None)


def cold(backend, **options):
    return cold_start(backend, scored(backend), **options)


def test_a_new_process_is_asked_three_queries(odd):
    told = cold(odd.make("well"))
    assert told.start_s > 0
    assert told.cached == 0.0
    calls = odd.asked()
    assert len({call["pid"] for call in calls}) == 1
    asked = {call["query"]: call["texts"] for call in calls}
    assert len(asked) == 3
    known = {dataset().queries[qid]: [one.text for one in found] for qid, found in dataset().candidates.items()}
    assert all(known[query] == texts for query, texts in asked.items())


@pytest.mark.skipif(sys.platform != "linux", reason="how it is told differs, and was not tried elsewhere")
def test_memory_is_that_of_the_new_process_and_not_of_this_one(odd):
    much = b"x" * 200_000_000
    told = cold(odd.make("well"))
    assert 1 < told.base_mb <= told.memory_mb < len(much) / 1e6


def test_a_model_is_loaded_in_the_new_process():
    backend = create("embedded")
    scoring = score(backend, dataset(3))
    assert cold_start(backend, scoring).start_s > 0


def test_noise_is_no_part_of_the_reply(odd):
    assert cold(odd.make("noise")).start_s > 0


def test_a_process_that_dies_after_its_reply_has_replied(odd):
    assert cold(odd.make("late")).start_s > 0


def test_a_process_that_dies_is_told_with_its_code(odd):
    with pytest.raises(BackendError, match="ended with code 3 and no answer"):
        cold(odd.make("die"))


def test_a_process_that_hangs_is_ended(odd):
    with pytest.raises(BackendError, match="no answer within 3 s"):
        cold(odd.make("hang"), timeout_s=3)
    if sys.platform == "linux" and odd.asked():  # it came as far as to hang
        with pytest.raises(ProcessLookupError):
            os.kill(odd.asked()[0]["pid"], 0)


def test_a_failure_in_the_new_process_is_told_without_what_it_may_quote(odd, monkeypatch):
    with pytest.raises(BackendError, match=r"in a new process: BackendError: backend 'odd'.*ValueError") as caught:
        cold(odd.make("raise"))
    assert "sk-secret" not in str(caught.value)
    backend = odd.make("well")
    scoring = scored(backend)
    monkeypatch.setenv("ODD_BROKEN", "yes")
    with pytest.raises(BackendError, match=r"^in a new process: RuntimeError$"):
        cold_start(backend, scoring)


def test_a_key_comes_from_the_environment_and_is_never_told(odd, monkeypatch):
    backend = odd.make("keyed", api_key="sk-secret")
    with pytest.raises(BackendError, match="AuthenticationError: there is no ODD_KEY") as caught:
        cold(backend)
    assert "sk-secret" not in str(caught.value)
    monkeypatch.setenv("ODD_KEY", "sk-secret")
    assert cold(backend).start_s > 0
    commands = json.dumps([call["command"] for call in odd.asked()])
    assert "cold.py" in commands
    assert "sk-secret" not in commands
    assert "apple" not in commands


def test_a_backend_without_a_spec_is_not_started():
    with pytest.raises(SpecError, match="FakeBackend is not registered"):
        cold(FakeBackend(scale=Scale.UNKNOWN))


@pytest.mark.parametrize(
    ("executable", "told"),
    [("", "sys.executable names none"), ("/no/such/python", "could not be started: FileNotFound")],
)
def test_without_an_interpreter_there_is_no_new_process(executable, told, monkeypatch):
    scoring = scored(create("retrieval"))
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(BackendError, match=told):
        cold_start(create("retrieval"), scoring)


def test_a_cache_on_disk_that_answers_the_first_query_is_told(tmp_path):
    backend = Cached("embedded", store=DiskStore(tmp_path / "scores.db"))
    assert cold_start(backend, score(backend, dataset(3))).cached == 1.0
