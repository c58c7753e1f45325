"""Cross-encoders as backends: what they promise, what they read from a model's files, and how they refuse."""

import asyncio
import copy
import gc
import json
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copyfile, copytree

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the package onnx, by which these tests write their models")

sys.path.append(str(Path(__file__).parent.parent / "engines"))  # the stages

from graph_stage import needs_torch, save_model
from hub_stage import HubStage
from torch_stage import save_classifier

from rerankx import BackendError, MissingDependencyError, ModelNotFoundError, Reranker
from rerankx.backends import cross_encoder
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.catalogue import CROSS_ENCODERS
from rerankx.engines.files import ModelFiles
from rerankx.engines.onnx_engine import OnnxEngine
from rerankx.interface import Backend, Scale, bounded, deadline
from rerankx.registry import BUILT_IN
from rerankx.testing import BackendContract

QUERY = "how long does a refund take"
TEXTS = [
    "A refund takes five working days to reach your account.",
    "The museum opens on Sundays; its garden is known for roses.",
    "yes",
    "Refunds are made within ten days. " * 20,
]
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Two models, of which the first scores the contract's relevant text above the irrelevant one, also in int8."""
    return [save_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="session")
def folder(models):
    return models[0]


@pytest.fixture(autouse=True)
def no_cache_of_the_users(tmp_path, monkeypatch):
    from huggingface_hub import constants

    for name in ("HF_HUB_CACHE", "HF_ASSETS_CACHE"):
        monkeypatch.setattr(constants, name, str(tmp_path / name))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def backend_of(folder, **options):
    return CrossEncoder(folder, cache_dir=folder / "cache", **options)


def copied(folder, tmp_path):
    """Return a copy of the model that a test may change."""
    return copytree(folder, tmp_path / "copy", ignore=lambda *_: ["cache"])


class TestOnnx(BackendContract):
    tolerance = 1e-5
    truncates = True
    on_deadline = "unscored"

    @pytest.fixture(autouse=True)
    def given(self, models):
        self.models = models

    def make(self) -> Backend:
        return backend_of(self.models[0])

    def variants(self) -> list[Backend]:
        first, second = self.models
        return [backend_of(first, max_tokens=16), backend_of(first, precision="int8"), backend_of(second)]


class TestInt8(TestOnnx):
    tolerance = 0.0

    def make(self) -> Backend:
        return backend_of(self.models[0], precision="int8")

    def variants(self) -> list[Backend]:
        first, second = self.models
        return [
            backend_of(first, max_tokens=16, precision="int8"), backend_of(first), backend_of(second, precision="int8")
        ]  # fmt: skip


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """Two checkpoints, of which the first scores the contract's relevant text above the irrelevant one."""
    return [save_classifier("bert", tmp_path_factory.mktemp("saved"), seed=seed, layers=1) for seed in (0, 1)]


@needs_torch
class TestSentenceTransformers(BackendContract):
    tolerance = 1e-5
    truncates = True
    on_deadline = "unscored"

    @pytest.fixture(autouse=True)
    def given(self, saved):
        self.models = saved

    def make(self) -> Backend:
        return backend_of(self.models[0], engine="sentence-transformers", device="cpu")

    def variants(self) -> list[Backend]:
        options = {"engine": "sentence-transformers", "device": "cpu"}
        return [backend_of(self.models[0], max_tokens=16, **options), backend_of(self.models[1], **options)]


# What it gives


def test_raw_scores_are_the_engines_logits(folder):
    logits = OnnxEngine(ModelFiles(folder), cache_dir=str(folder / "cache")).logits(QUERY, TEXTS)
    scores = backend_of(folder).score(QUERY, TEXTS)
    np.testing.assert_allclose(scores.values, [row[0] for row in logits.rows], atol=1e-6)
    assert scores.usage.input_tokens == logits.tokens
    assert scores.usage.calls == 0


def test_cut_texts_are_counted(folder):
    assert backend_of(folder, max_tokens=16).score(QUERY, TEXTS).truncated == 3


def test_blank_texts_are_unscored(folder):
    scores = backend_of(folder).score(QUERY, ["", *TEXTS[:2], " \u3000\n"])
    assert [value is None for value in scores.values] == [True, False, False, True]
    assert scores.degraded is None


def test_a_deadline_on_the_way_keeps_what_was_scored_and_says_so(folder):
    backend, texts = backend_of(folder), [f"{i} {'word ' * 600}" for i in range(30)]
    backend.score(QUERY, TEXTS)
    engine, runs = backend._engine.get(), []
    real = engine._run
    with bounded(math.inf) as bound:

        def run(session, pairs):
            runs.append(pairs)
            if len(runs) == 5:
                bound.end = -math.inf
            return real(session, pairs)

        engine._run = run
        scores = backend.score(QUERY, texts)
    assert scores.degraded == "deadline"
    assert 1 <= sum(value is not None for value in scores.values) < 30


@needs_torch
def test_both_engines_score_alike(tmp_path):
    from graph_stage import export
    from transformers import AutoModelForSequenceClassification

    folder = save_classifier("bert", tmp_path)
    export(AutoModelForSequenceClassification.from_pretrained(folder), folder / "onnx/model.onnx", types=True)
    onnx, torch = (backend_of(folder, engine=engine, device="cpu") for engine in ("onnx", "sentence-transformers"))
    texts = [*TEXTS, "x", "word " * 600, "退款 \U0001f600", "half \ud83d"]
    one, other = onnx.score(QUERY, texts), torch.score(QUERY, texts)
    np.testing.assert_allclose(one.values, other.values, atol=1e-4, rtol=0)
    assert one.truncated == other.truncated == 1
    assert one.usage.input_tokens == other.usage.input_tokens
    assert one.scale == other.scale
    assert onnx.fingerprint != torch.fingerprint


# The scale


def scale_of(folder, tmp_path, files, **options):
    made = copied(folder, tmp_path)
    for name, content in files.items():
        before = json.loads((made / name).read_text()) if (made / name).exists() else {}
        (made / name).write_text(json.dumps(before | content))
    return CrossEncoder(made, cache_dir=tmp_path, **options).scale


PLACES = {
    "version-4": lambda word: {"config.json": {"sentence_transformers": {"activation_fn": word, "version": "4.1.0"}}},
    "own-file": lambda word: {"config_sentence_transformers.json": {"activation_fn": word}},
    "before-4": lambda word: {"config.json": {"sbert_ce_default_activation_function": word}},
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_sigmoid_in_the_models_configuration_makes_a_score_a_logit(place, folder, tmp_path):
    assert scale_of(folder, tmp_path, place(SIGMOID)) == Scale.LOGIT


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("word", [IDENTITY, "torch.nn.modules.activation.Tanh", None, 5])
def test_any_other_activation_leaves_it_unknown(place, word, folder, tmp_path):
    assert scale_of(folder, tmp_path, place(word)) == Scale.UNKNOWN


def test_nothing_said_is_unknown(folder):
    assert backend_of(folder).scale == Scale.UNKNOWN
    assert backend_of(folder).score(QUERY, TEXTS).scale == Scale.UNKNOWN


def test_the_newer_word_counts(folder, tmp_path):
    files = {
        "config.json": {**PLACES["before-4"](SIGMOID)["config.json"], **PLACES["version-4"](IDENTITY)["config.json"]}
    }
    assert scale_of(folder, tmp_path, files) == Scale.UNKNOWN


def test_the_caller_knows_better(folder, tmp_path):
    assert backend_of(folder, scale="logit").scale == Scale.LOGIT
    assert scale_of(folder, tmp_path, PLACES["own-file"](SIGMOID), scale="unknown") == Scale.UNKNOWN


def test_a_model_of_the_catalogue_has_its_scale_without_any_file():
    for model, card in CROSS_ENCODERS.items():
        assert CrossEncoder(model, local_files_only=True).scale.kind == card.scale


def test_a_threshold_needs_a_scale_and_takes_a_logits_sigmoid(folder):
    with pytest.raises(ValueError, match="min_score needs scores that mean the same"):
        Reranker(backend_of(folder)).rerank(QUERY, TEXTS, min_score=0.5)
    ranking = Reranker(backend_of(folder, scale="logit")).rerank(QUERY, TEXTS, min_score=0.5)
    assert {hit.index for hit in ranking} == {
        i for i, raw in enumerate(backend_of(folder).score(QUERY, TEXTS).values) if raw > 0
    }


# The engine


def engine_chosen(backend):
    return backend._kind.get()


def test_a_graph_is_run_by_onnx(folder):
    assert engine_chosen(backend_of(folder)) == "onnx"
    assert engine_chosen(backend_of(folder, device="cpu", precision="fp32")) == "onnx"


@pytest.fixture
def only_safetensors(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "model/model.safetensors").write_bytes(b"")
    return tmp_path / "model"


@pytest.fixture(params=[True, False], ids=["installed", "not-installed"])
def sentence_transformers(request, monkeypatch):
    monkeypatch.setattr(cross_encoder, "find_spec", lambda name: object() if request.param else None)
    monkeypatch.setattr(cross_encoder, "_sees_cuda", lambda: False)
    return request.param


def check_chosen(backend, sentence_transformers):
    if sentence_transformers:
        assert engine_chosen(backend) == "sentence-transformers"
        return
    with pytest.raises(MissingDependencyError, match=r"needs sentence_transformers.*rerankx\[sentence-transformers\]"):
        engine_chosen(backend)


def test_safetensors_alone_are_run_by_sentence_transformers(only_safetensors, sentence_transformers):
    check_chosen(backend_of(only_safetensors), sentence_transformers)


@pytest.mark.parametrize(
    "options", [{"device": "cuda"}, {"precision": "fp16"}, {"precision": "bf16"}, {"template": "qwen3"}]
)
def test_what_onnx_does_not_do_is_done_by_sentence_transformers(options, folder, sentence_transformers):
    check_chosen(backend_of(folder, **options), sentence_transformers)


@pytest.mark.parametrize("model", [model for model, card in CROSS_ENCODERS.items() if card.template is not None])
def test_models_with_a_template_are_run_by_sentence_transformers(model, sentence_transformers):
    check_chosen(CrossEncoder(model), sentence_transformers)


def test_a_gpu_that_torch_sees_is_taken_unless_the_device_is_a_cpu(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(cross_encoder, "_sees_cuda", lambda: True)
    monkeypatch.setattr(cross_encoder, "find_spec", lambda name: object())
    made = copied(folder, tmp_path)
    (made / "model.safetensors").write_bytes(b"weights")
    assert engine_chosen(backend_of(made)) == "sentence-transformers"
    assert engine_chosen(backend_of(made, device="cpu")) == "onnx"
    assert engine_chosen(backend_of(made, engine="onnx")) == "onnx"


@pytest.mark.parametrize("why", ["no safetensors", "code of its own"])
def test_a_model_that_torch_cannot_run_is_run_from_its_graph_although_there_is_a_gpu(
    why, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(cross_encoder, "_sees_cuda", lambda: True)
    monkeypatch.setattr(cross_encoder, "find_spec", lambda name: object())
    made = copied(folder, tmp_path)
    if why == "code of its own":
        (made / "model.safetensors").write_bytes(b"weights")
        config = json.loads((made / "config.json").read_text())
        (made / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "theirs.Model"}}))
    assert engine_chosen(backend_of(made)) == "onnx"


def test_a_relative_folder_stays_the_same_when_the_process_goes_elsewhere(folder, tmp_path, monkeypatch):
    made = copied(folder, tmp_path)
    monkeypatch.chdir(made.parent)
    backend = CrossEncoder(f"./{made.name}", cache_dir=tmp_path / "cache")
    monkeypatch.chdir("/")
    again = pickle.loads(pickle.dumps(backend))
    assert again.score("a refund", ["ten days"]).values == backend.score("a refund", ["ten days"]).values


def test_where_time_may_run_out_the_first_texts_are_scored_first(folder):
    backend = backend_of(folder)
    engine, begun = backend._engine.get(), []
    run = engine._run
    engine._run = lambda session, pairs: begun.append(max(len(pair.ids) for pair in pairs)) or run(session, pairs)
    texts = ["short", "a refund " * 60, "a refund " * 90]
    with deadline(60):
        backend.score("q", texts)
    first = begun[0]
    begun.clear()
    backend.score("q", texts)
    assert first < 30 < begun[0]


def test_without_sentence_transformers_no_gpu_is_looked_for(monkeypatch):
    monkeypatch.setattr(cross_encoder, "find_spec", lambda name: None)
    assert cross_encoder._sees_cuda() is False


def test_a_graph_of_another_name_may_be_given(folder, tmp_path):
    made = copied(folder, tmp_path)
    (made / "model.onnx").rename(made / "other.onnx")
    backend = CrossEncoder(made, onnx_file="other.onnx", cache_dir=tmp_path)
    assert engine_chosen(backend) == "onnx"
    assert backend.score(QUERY, TEXTS).values == pytest.approx(backend_of(folder).score(QUERY, TEXTS).values, abs=1e-5)


def test_it_says_how_it_runs(folder):
    said = json.loads(json.dumps(backend_of(folder).describe()))
    expected = {"model": str(folder), "revision": None, "scale": "unknown", "engine": "onnx", "device": "cpu"}
    assert (expected | {"precision": "fp32"}).items() <= said.items()
    options = {"precision": "int8", "max_tokens": 99}
    assert options.items() <= backend_of(folder, **options).describe().items()


# Names


@pytest.mark.parametrize("name", [name for name, entry in BUILT_IN.items() if "cross_encoder" in entry.target])
def test_a_name_stands_for_a_model_and_loads_nothing(name, monkeypatch):
    def fail(*_):
        raise AssertionError("a file was looked for")

    monkeypatch.setattr(ModelFiles, "find", fail)
    monkeypatch.setattr("rerankx.registry.find_spec", lambda name: object())  # sentence-transformers, for some
    backend = Reranker(name).backend
    assert backend.name == "cross-encoder"
    assert backend.model in CROSS_ENCODERS
    assert BUILT_IN[name].model in (None, backend.model)


def test_a_folder_may_be_given_in_all_the_ways_a_model_may(folder):
    expected = backend_of(folder).score(QUERY, TEXTS).values
    for reranker in (
        Reranker(f"cross-encoder:{folder}", cache_dir=folder / "cache"),
        Reranker("bge", model=str(folder), cache_dir=str(folder / "cache")),
        Reranker(f"minilm:{folder}", cache_dir=folder / "cache"),
        Reranker("cross-encoder", model=folder, cache_dir=folder / "cache"),
    ):
        assert reranker.backend.score(QUERY, TEXTS).values == pytest.approx(expected, abs=1e-6)


def test_a_model_of_the_hub_is_fetched_scored_and_known_by_its_commit(folder, tmp_path):
    files = {"onnx/model.onnx": (folder / "model.onnx").read_bytes()}
    files |= {name: (folder / name).read_bytes() for name in ("config.json", "tokenizer.json")}
    with HubStage() as hub, hub.in_process(tmp_path / "home"), pytest.MonkeyPatch.context() as patch:
        from huggingface_hub import constants

        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        commit = hub.add("cross-encoder/ms-marco-MiniLM-L6-v2", "main", files, lfs=("onnx/model.onnx",))
        reranker = Reranker("minilm", cache_dir=tmp_path / "cache")
        expected = backend_of(folder).score(QUERY, TEXTS).values
        assert reranker.backend.score(QUERY, TEXTS).values == pytest.approx(expected, abs=1e-5)
        assert reranker.backend.describe()["revision"] == commit
        assert commit in reranker.backend.fingerprint
        hub.requests.clear()
        assert Reranker("minilm", cache_dir=tmp_path / "cache", local_files_only=True).rerank(QUERY, TEXTS)
        assert hub.requests == []
    assert not (tmp_path / "home").exists() or not any((tmp_path / "home").rglob("*.onnx"))


# Equal and different


def test_fingerprints_tell_what_changes_a_score(models, tmp_path):
    first, second = models
    moved = copied(first, tmp_path)
    options = [{}, {"precision": "int8"}, {"max_tokens": 64}, {"max_tokens": 65}]
    prints = [backend_of(first, **some).fingerprint for some in options]
    prints += [backend_of(second).fingerprint, backend_of(moved).fingerprint]
    assert len(set(prints)) == len(prints)


def test_a_fingerprint_changes_with_the_file(folder, models, tmp_path):
    made = copied(folder, tmp_path)
    before = backend_of(made).fingerprint
    assert backend_of(made).fingerprint == before
    copyfile(models[1] / "model.onnx", made / "model.onnx")
    assert backend_of(made).fingerprint != before


def test_a_fingerprint_changes_with_the_tokenizer(folder, tmp_path):
    made = copied(folder, tmp_path)
    before = backend_of(made).fingerprint
    tokenizer = json.loads((made / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (made / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert backend_of(made).fingerprint != before


def test_a_fingerprint_changes_with_the_longest_pair_of_the_configuration(folder, tmp_path):
    made = copied(folder, tmp_path)
    before = backend_of(made).fingerprint
    (made / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    assert backend_of(made).fingerprint != before


def test_copies_keep_their_options_and_leave_weights_behind(folder):
    backend = backend_of(folder, max_tokens=64, scale="logit")
    backend.score(QUERY, TEXTS)
    assert len(pickle.dumps(backend)) < 1500
    for made in (pickle.loads(pickle.dumps(backend)), copy.deepcopy(backend)):
        assert not made._engine._made
        assert made.scale == Scale.LOGIT
        assert made.describe()["max_tokens"] == 64
        assert made.fingerprint == backend.fingerprint


# Life


def test_making_one_imports_no_framework():
    import subprocess

    code = (
        "import sys; from rerankx import Reranker; Reranker('minilm'); Reranker('bge');"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'onnx') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_scoring_by_onnx_imports_no_torch(folder):
    import subprocess

    code = (
        f"import sys; from rerankx import Reranker; Reranker('cross-encoder', model={str(folder)!r},"
        f" cache_dir={str(folder / 'cache')!r}).rerank('q', ['a']);"
        "print([name for name in ('torch', 'transformers', 'sentence_transformers', 'onnx') if name in sys.modules])"
    )
    backend_of(folder).score(QUERY, TEXTS)  # the edited graph is there
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_closing_frees_the_model_and_the_next_call_loads_it_again(folder):
    backend = backend_of(folder)
    before = backend.score(QUERY, TEXTS).values
    gone = [weakref.ref(backend._engine.get()), weakref.ref(backend._engine.get()._session)]
    backend.close()
    gc.collect()
    assert [one() for one in gone] == [None, None]
    assert backend.score(QUERY, TEXTS).values == before


def test_closing_what_was_never_used_or_is_closed_is_nothing(folder):
    backend = backend_of(folder)
    backend.close()
    backend.close()
    assert backend.score(QUERY, TEXTS).values


def test_the_model_is_loaded_once_by_threads_that_come_together(folder, monkeypatch):
    loads, real = [], CrossEncoder._load
    monkeypatch.setattr(CrossEncoder, "_load", lambda self: loads.append(self) or real(self))
    backend = backend_of(folder)
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda _: backend.score(QUERY, TEXTS[:1]), range(16)))
    assert len(loads) == 1


def test_a_load_that_failed_is_tried_again(folder, tmp_path):
    made = copied(folder, tmp_path)
    tokenizer = (made / "tokenizer.json").rename(made / "elsewhere.json")
    backend = backend_of(made)
    with pytest.raises(ModelNotFoundError, match=r"tokenizer\.json"):
        backend.score(QUERY, TEXTS)
    tokenizer.rename(made / "tokenizer.json")
    assert None not in backend.score(QUERY, TEXTS).values


def test_a_storm_of_threads_over_two_models_gets_what_one_gets(models):
    backends = [backend_of(model) for model in models]
    jobs = [
        (backends[i % 2], f"{QUERY} {i % 5}", [f"{text} {i % 7}"[:100] for text in TEXTS[: 1 + i % 4]])
        for i in range(50)
    ]
    alone = [backend.score(query, texts).values for backend, query, texts in jobs]
    together = threading.Barrier(16)

    def storm(seed):
        together.wait(30)
        order = np.random.default_rng(seed).permutation(len(jobs))
        return [(i, jobs[i][0].score(*jobs[i][1:]).values) for i in order]

    with ThreadPoolExecutor(16) as threads:
        for results in threads.map(storm, range(16)):
            for i, values in results:
                assert values == pytest.approx(alone[i], abs=1e-5)


def test_two_event_loops_at_once_get_what_one_gets(folder):
    backend, together = backend_of(folder), threading.Barrier(2)
    expected = backend.score(QUERY, TEXTS).values

    async def several():
        return await asyncio.gather(*(backend.ascore(QUERY, TEXTS) for _ in range(10)))

    def loop(_):
        together.wait(30)
        return asyncio.run(several())

    with ThreadPoolExecutor(2) as threads:
        for scores in (one for results in threads.map(loop, range(2)) for one in results):
            assert scores.values == pytest.approx(expected, abs=1e-5)


def test_a_cancelled_call_starts_nothing_more(folder):
    backend, begun, go_on, runs = backend_of(folder), threading.Event(), threading.Event(), []
    engine = backend._engine.get()
    real = engine._run

    def run(session, pairs):
        runs.append(pairs)
        begun.set()
        go_on.wait(30)
        return real(session, pairs)

    engine._run = run

    async def cancel():
        task = asyncio.create_task(Reranker(backend).arerank(QUERY, [f"{i} {'word ' * 600}" for i in range(100)]))
        await asyncio.to_thread(begun.wait, 30)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    asyncio.run(cancel())  # waits for the thread, too
    assert 1 <= len(runs) <= 8


def _score_in_child(backend):
    return list(backend.score(QUERY, TEXTS).values)


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_process_scores_as_its_parent(method, folder):
    backend = backend_of(folder)
    expected = _score_in_child(backend)
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert pool.apply(_score_in_child, (backend,)) == expected


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_the_model_was_loading_loads_its_own(folder, monkeypatch):
    begun, go_on, parent, real = threading.Event(), threading.Event(), os.getpid(), CrossEncoder._load

    def load(self):
        if os.getpid() == parent:
            begun.set()
            go_on.wait(30)
        return real(self)

    monkeypatch.setattr(CrossEncoder, "_load", load)
    backend = backend_of(folder)
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(backend.score, QUERY, TEXTS)
        begun.wait(10)
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            os._exit(0 if None not in backend.score(QUERY, TEXTS).values else 1)
        go_on.set()
        busy.result(30)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# What it refuses


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"engine": "onyx"}, ValueError, "one of auto, onnx, sentence-transformers, not 'onyx'; did you mean 'onnx'"),
        ({"engine": None}, ValueError, "engine must be one of"),
        ({"precision": "fp23"}, ValueError, "precision must be one of fp32, fp16, bf16, int8, not 'fp23'; did you mean 'fp32'"),
        ({"scale": "logits"}, ValueError, "scale must be one of logit, unknown, not 'logits'; did you mean 'logit'"),
        ({"engine": "sentence-transformers", "precision": "int8"}, ValueError, "int8.* belong to engine='onnx'"),
        ({"engine": "sentence-transformers", "onnx_file": "x.onnx"}, ValueError, "onnx_file belong to engine='onnx'"),
        ({"engine": "onnx", "precision": "fp16"}, ValueError, "engine='onnx' runs fp32 or int8"),
        ({"engine": "onnx", "device": "cuda"}, ValueError, "on the CPU"),
        ({"engine": "onnx", "instruction": "x"}, ValueError, "without templates and instructions"),
        ({"precision": "int8", "device": "cuda"}, ValueError, "on the CPU"),
        ({"onnx_file": "x.onnx", "precision": "bf16"}, ValueError, "engine='sentence-transformers' for those"),
        ({"max_tokens": True}, TypeError, "max_tokens must be a whole number, not True"),
        ({"max_tokens": "128"}, TypeError, "max_tokens must be a whole number, not '128'"),
        ({"max_tokens": 1.5}, TypeError, "max_tokens must be a whole number"),
        ({"max_token": 128}, TypeError, "no option 'max_token'; did you mean 'max_tokens'"),
        ({"revision": "../x"}, ModelNotFoundError, "no branch, tag or commit"),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_option_is_named_at_once(options, error, said, folder):
    with pytest.raises(error, match=said):
        Reranker("cross-encoder", model=str(folder), **options)


def test_a_model_with_a_template_has_no_onnx():
    with pytest.raises(ValueError, match="without templates"):
        CrossEncoder("Qwen/Qwen3-Reranker-0.6B", engine="onnx")


LATE = [
    ({"max_tokens": 513}, "up to 512 tokens; max_tokens is 513"),
    ({"max_tokens": 4}, "max_tokens must be at least 5, not 4"),
    ({"max_tokens": 0}, "max_tokens must be at least"),
    pytest.param({"instruction": "x"}, "template", marks=needs_torch),
    pytest.param({"template": "qwen4"}, "did you mean 'qwen3'", marks=needs_torch),
]


@pytest.mark.parametrize(("options", "said"), LATE, ids=str)
def test_an_option_that_does_not_fit_the_model_is_a_mistake_and_not_a_failure(options, said, folder):
    with pytest.raises(ValueError, match=said):
        Reranker("cross-encoder", model=str(folder), cache_dir=folder / "cache", **options).rerank(QUERY, TEXTS)


@pytest.mark.parametrize("model", ["/no/where", "./nowhere"])
def test_a_folder_that_is_not_there_is_said_so_at_once(model):
    with pytest.raises(ModelNotFoundError, match=f"{model!r} is no folder here"):
        Reranker("cross-encoder", model=model)


def test_a_model_that_is_not_in_the_cache_says_where_it_would_be():
    with pytest.raises(ModelNotFoundError, match=r"'org/model' is not in the cache.*rerankx download org/model"):
        CrossEncoder("org/model", local_files_only=True).score(QUERY, TEXTS)


def change(folder, tmp_path, name, content):
    made = copied(folder, tmp_path)
    if content is None:
        (made / name).unlink()
    else:
        (made / name).write_bytes(content)
    return made


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", None, r"no tokenizer.json"),
        ("tokenizer.json", b"{", r"tokenizer.json is no tokenizer"),
        ("config.json", b"{'a'", r"config.json cannot be read as JSON"),
        ("config.json", b"[1]", r"config.json holds a list"),
        ("model.onnx", b"nonsense", r"model.onnx \(8 bytes\) is no ONNX graph"),
        ("model.onnx", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    ],
)
def test_a_file_that_is_wrong_is_named(name, content, said, folder, tmp_path):
    with pytest.raises(ModelNotFoundError, match=said):
        backend_of(change(folder, tmp_path, name, content)).score(QUERY, TEXTS)


def test_such_a_mistake_is_raised_although_failures_are_forgiven(folder, tmp_path):
    backend = backend_of(change(folder, tmp_path, "tokenizer.json", None))
    with pytest.raises(ModelNotFoundError):
        Reranker(backend, on_error="input_order").rerank(QUERY, TEXTS)


def test_no_graph_with_the_engine_onnx_is_an_error_that_says_what_was_looked_for(folder, tmp_path):
    made = change(folder, tmp_path, "model.onnx", None)
    with pytest.raises(ModelNotFoundError, match=r"no ONNX graph; looked for onnx/model.onnx and model.onnx"):
        backend_of(made, engine="onnx").score(QUERY, TEXTS)


@pytest.mark.parametrize("labels", [2, 3])
def test_several_labels_are_refused_by_their_names(labels, tmp_path):
    names = {str(i): name for i, name in enumerate(["contradiction", "entailment", "neutral"][:labels])}
    save_model(tmp_path, labels=labels, config={"id2label": names})
    with pytest.raises(
        ModelNotFoundError, match=f"has {labels} labels .contradiction, entailment.*where a reranker has one"
    ):
        backend_of(tmp_path).score(QUERY, TEXTS)


@pytest.mark.parametrize("labels", [2, 3])
def test_several_logits_are_refused_where_the_configuration_is_silent(labels, tmp_path):
    save_model(tmp_path, labels=labels, config={"id2label": None})  # transformers writes no names for two labels
    with pytest.raises(ModelNotFoundError, match=f"gives {labels} logits per pair; a reranker gives one"):
        backend_of(tmp_path).score(QUERY, TEXTS)


@needs_torch
def test_two_labels_are_refused_by_sentence_transformers_too(tmp_path):
    folder = save_classifier("bert", tmp_path, labels=2, layers=1)
    assert "id2label" not in json.loads((folder / "config.json").read_text())
    with pytest.raises(ModelNotFoundError, match="2 l"):
        backend_of(folder, engine="sentence-transformers", device="cpu").score(QUERY, TEXTS)


@needs_torch
@pytest.mark.parametrize("engine", ["auto", "sentence-transformers"])
def test_a_folder_with_nothing_but_a_pickle_is_refused(engine, tmp_path):
    folder = save_classifier("bert", tmp_path, layers=1)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ModelNotFoundError, match="safetensors"):
        backend_of(folder, engine=engine, device="cpu").score(QUERY, TEXTS)


def test_an_output_of_another_shape_is_a_failure_that_says_which(tmp_path):
    with pytest.raises(BackendError, match=r"gave an array of shape .* expected \[pairs, labels\]"):
        backend_of(save_model(tmp_path, head="all")).score(QUERY, TEXTS)


def test_a_logit_that_is_no_number_is_a_failure(tmp_path):
    import onnx

    save_model(tmp_path)
    model = onnx.load(str(tmp_path / "model.onnx"))
    (classifier,) = (one for one in model.graph.initializer if one.name == "classifier")
    classifier.CopyFrom(onnx.numpy_helper.from_array(np.full((32, 1), np.nan, np.float32), "classifier"))
    onnx.save(model, str(tmp_path / "model.onnx"))
    with pytest.raises(BackendError, match="the score is nan; scores must be finite"):
        backend_of(tmp_path).score(QUERY, TEXTS)


def test_a_passed_deadline_is_no_failure(folder):
    with deadline(0):
        ranking = Reranker(backend_of(folder)).rerank(QUERY, TEXTS)
    assert ranking.degraded == "deadline"
    assert [hit.raw_score for hit in ranking] == [None] * len(TEXTS)


# In the frameworks


def test_it_reranks_in_langchain(folder):
    pytest.importorskip("langchain_core", reason="needs the extra: pip install 'rerankx[langchain]'")
    from langchain_core.documents import Document

    from langchain_rerankx import Reranker as LangChainReranker

    reranker = LangChainReranker(backend_of(folder), top_n=2)
    found = reranker.compress_documents([Document(page_content=text) for text in TEXTS], QUERY)
    expected = Reranker(backend_of(folder)).rerank(QUERY, TEXTS, top_n=2)
    assert [document.page_content for document in found] == [hit.text for hit in expected]


def test_it_reranks_in_llama_index(folder):
    pytest.importorskip("llama_index.core", reason="needs the extra: pip install 'rerankx[llamaindex]'")
    from llama_index.core.schema import NodeWithScore, TextNode

    from llamaindex_rerankx import Rerank

    nodes = [NodeWithScore(node=TextNode(text=text), score=0.5) for text in TEXTS]
    found = Rerank(backend_of(folder), top_n=2).postprocess_nodes(nodes, query_str=QUERY)
    expected = Reranker(backend_of(folder)).rerank(QUERY, TEXTS, top_n=2)
    assert [node.node.get_content() for node in found] == [hit.text for hit in expected]
