"""A cross-encoder by its repository's id: from a hub on loopback, by the hub's real library, to a ranking."""

import asyncio
import json
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the package onnx, by which these tests write their models")

import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from graph_stage import bert, logits_of, needs_torch, save_graph, save_outside
from hub_stage import HubStage
from torch_stage import save_classifier, word_piece

from rerankx import BackendError, MissingDependencyError, ModelNotFoundError, Reranker, RerankxError
from rerankx.backends import cross_encoder as module
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.interface import Backend, Scale
from rerankx.testing import BackendContract

MODEL = "org/model"
BACKEND = f"cross-encoder:{MODEL}"
QUERY, TEXTS = BackendContract.query, [BackendContract.relevant, BackendContract.irrelevant, "退款需要十天。"]
GRAPH = "onnx/model.onnx"
NEEDED = {"config.json", "config_sentence_transformers.json", "tokenizer.json", "tokenizer_config.json", GRAPH}
BESIDE = dict.fromkeys(
    ("pytorch_model.bin", "model.safetensors", "README.md", "onnx/model_O3.onnx", "vocab.txt", "modeling.py"),
    b"never asked for" * 100,
)
LFS = (GRAPH, "pytorch_model.bin", "model.safetensors")


def save(folder, *, seed=5, config=None, **options):
    """Save a whole cross-encoder and return the folder."""
    save_graph(bert(seed=seed, width=16, **options), folder, GRAPH)
    word_piece().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    base = {"model_type": "bert", "max_position_embeddings": 512, "id2label": {"0": "x"}}
    (folder / "config.json").write_text(json.dumps({**base, **(config or {})}))
    return folder


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def logits(folder, texts=TEXTS):
    """Return what the plain graph gives for what the tokenizer makes of query and text."""
    tokenizer, values = Tokenizer.from_file(str(folder / "tokenizer.json")), []
    for text in texts:
        pair = tokenizer.encode(QUERY, text)
        rows = {"input_ids": pair.ids, "token_type_ids": pair.type_ids, "attention_mask": pair.attention_mask}
        values.append(
            float(logits_of(folder / GRAPH, [{name: np.array([row]) for name, row in rows.items()}])[0][0, 0])
        )
    return pytest.approx(values, abs=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save(tmp_path_factory.mktemp("other"), seed=3)


@pytest.fixture(scope="module")
def files(folder):
    return files_of(folder)


@contextmanager
def served(home, **repositories):
    """Serve them; this process keeps all it fetches and makes under `home`."""
    from huggingface_hub import constants

    with HubStage() as hub, hub.in_process(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        yield hub


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def hub(files, home):
    with served(home) as stage:
        stage.commit = stage.add(MODEL, "main", {**files, **BESIDE}, lfs=LFS)
        yield stage


def rank(backend=BACKEND, **options):
    """Return raw scores in the order of the texts."""
    ranking = Reranker(backend, **options).rerank(QUERY, TEXTS)
    return [hit.raw_score for hit in sorted(ranking, key=lambda hit: hit.index)]


def asked_files(hub):
    return {request.path.split("/", 5)[5] for request in hub.asked(path="/resolve/", host="hub")}


def child(code, environment, *argv):
    """Return what a fresh process printed, as JSON; nothing may be said on standard error."""
    command = [sys.executable, "-W", "error", "-c", code, *argv]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


class TestFromTheHub(BackendContract):
    tolerance = 1e-5
    truncates = True
    on_deadline = "unscored"
    engine = "auto"

    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def _served(cls, files, tmp_path_factory):
        with served(tmp_path_factory.mktemp("home")) as hub:
            hub.add(MODEL, "main", files, lfs=LFS)
            hub.add(MODEL, "v1", files, lfs=LFS)
            hub.add("org/other", "main", files, lfs=LFS)
            yield

    def make(self) -> Backend:
        return CrossEncoder(MODEL, engine=self.engine)

    def variants(self) -> list[Backend]:
        changes = [{"max_tokens": 64}, {"revision": "v1"}, {"precision": "int8"}]
        return [*(CrossEncoder(MODEL, engine=self.engine, **change) for change in changes), CrossEncoder("org/other")]


class TestFromTheHubByItsEngine(TestFromTheHub):
    engine = "onnx"


# First use, and later ones


def test_the_first_use_downloads_and_the_scores_are_the_models(hub, folder):
    assert rank() == logits(folder)
    assert {request.host for request in hub.requests} == {"hub", "storage"}


def test_nothing_is_asked_before_the_first_use(hub):
    reranker = Reranker(BACKEND)
    repr(reranker)
    assert hub.requests == []
    assert len(reranker.rerank(QUERY, [])) == 0
    assert hub.asked(path="onnx") == []


def test_only_what_is_needed_is_fetched_and_once(hub):
    rank()
    assert asked_files(hub) == NEEDED
    assert len(hub.asked("GET", host="storage")) == 1
    before = len(hub.requests)
    rank()
    reranker = Reranker(BACKEND)
    for _ in range(2):
        reranker.rerank(QUERY, TEXTS, min_score=0.0 if reranker.backend.scale.absolute else None)
    reranker.backend.close()
    reranker.rerank(QUERY, TEXTS)
    assert len(hub.requests) == before


def test_a_process_fetches_without_a_word_and_another_needs_no_hub(folder, files, tmp_path):
    code = (
        "import json, sys; from rerankx import Reranker\n"
        "ranking = Reranker(sys.argv[1]).rerank(sys.argv[2], json.loads(sys.argv[3]))\n"
        "print(json.dumps([hit.raw_score for hit in sorted(ranking, key=lambda hit: hit.index)]))"
    )
    argv = (BACKEND, QUERY, json.dumps(TEXTS))
    with HubStage() as stage:
        stage.add(MODEL, "main", files, lfs=LFS)
        environment = stage.environment(tmp_path)
        assert child(code, environment, *argv) == logits(folder)
        assert stage.requests
    assert child(code, environment, *argv) == logits(folder)  # the server is down


def test_the_weights_beside_a_graph_come_with_it(hub, files, folder, tmp_path):
    import onnx

    outside = tmp_path / "outside"
    outside.mkdir()
    save_outside(onnx.load(folder / GRAPH), outside / "model.onnx")
    beside = {f"onnx/{name}": content for name, content in files_of(outside).items()}
    hub.add(MODEL, "main", {**files, **beside}, lfs=beside)
    assert rank() == logits(folder)
    assert asked_files(hub) == NEEDED | {"onnx/model.onnx_data"}


def test_a_graph_at_the_top_is_found(hub, files, folder):
    at_top = {name.removeprefix("onnx/"): content for name, content in files.items()}
    hub.add(MODEL, "main", at_top, lfs=["model.onnx"])
    assert rank() == logits(folder)


def test_a_graph_elsewhere_is_found_where_one_says(hub, files, folder, other):
    hub.add(MODEL, "main", {**files, "graphs/mine.onnx": files_of(other)[GRAPH]})
    assert rank(onnx_file="graphs/mine.onnx") == logits(other)
    with pytest.raises(ModelNotFoundError, match=r"no ONNX graph; looked for graphs/yours\.onnx"):
        rank(onnx_file="graphs/yours.onnx")


def test_threads_of_many_instances_fetch_and_score_at_once(hub, folder):
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: rank(), range(8)))
    assert found == [logits(folder)] * 8


def test_an_event_loop_gets_the_same(hub, folder):
    async def run():
        return await asyncio.gather(*(Reranker(BACKEND).arerank(QUERY, TEXTS) for _ in range(3)))

    for ranking in asyncio.run(run()):
        assert [hit.raw_score for hit in sorted(ranking, key=lambda hit: hit.index)] == logits(folder)


# Versions


@pytest.mark.parametrize("moves_at", ["config.json", "tokenizer.json", "name=model.onnx"])
def test_all_files_are_of_one_commit_although_the_branch_moves_between(moves_at, hub, files, folder, other):
    def move(request):
        if moves_at in request.path and len(hub.repositories[MODEL].commits) == 1:
            hub.add(MODEL, "main", files_of(other))

    hub.add(MODEL, "spare", files)
    hub.repositories[MODEL].commits.clear()
    hub.commit = hub.add(MODEL, "main", files, lfs=LFS)
    before = hub.before
    hub.before = lambda request: move(request) if request.method == "GET" else before(request)
    backend = CrossEncoder(MODEL)
    assert list(backend.score(QUERY, TEXTS).values) == logits(folder)
    assert len(hub.repositories[MODEL].commits) == 2
    assert backend.describe()["revision"] == hub.commit
    snapshots = {request.path.split("/")[4] for request in hub.asked("GET", path="/resolve/", host="hub")}
    assert snapshots - {"main"} == {hub.commit}


def test_a_branch_that_moved_later_changes_nothing_until_one_downloads(hub, folder, other):
    backend = CrossEncoder(MODEL)
    assert list(backend.score(QUERY, TEXTS).values) == logits(folder)
    first = backend.fingerprint
    newest = hub.add(MODEL, "main", files_of(other))
    assert rank() == logits(folder)
    assert list(backend.score(QUERY, TEXTS).values) == logits(folder)
    backend.download()
    assert list(backend.score(QUERY, TEXTS).values) == logits(other)
    assert backend.describe()["revision"] == newest
    assert backend.fingerprint != first
    assert rank(local_files_only=True) == logits(other)


@pytest.mark.parametrize("by", ["branch", "tag", "commit"])
def test_a_revision_may_be_pinned(by, hub, folder, other):
    first = hub.commit
    second = hub.add(MODEL, "v2", files_of(other))
    revision = {"branch": "main", "tag": "v2", "commit": second}[by]
    expected = folder if by == "branch" else other
    assert rank(revision=revision) == logits(expected)
    assert CrossEncoder(MODEL, revision=revision).describe()["revision"] == (first if by == "branch" else second)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"engine": "onnx"},
        {"precision": "int8"},
        {"onnx_file": GRAPH},
    ],
    ids=str,
)
def test_a_fingerprint_is_the_same_before_and_after(options, hub):
    backend = CrossEncoder(MODEL, **options)
    first = backend.fingerprint
    backend.score(QUERY, TEXTS)
    assert (backend.fingerprint, CrossEncoder(MODEL, **options).fingerprint) == (first, first)
    assert hub.commit in first


# Which engine


@pytest.mark.parametrize("engine", ["auto", "onnx"])
def test_with_a_graph_and_without_a_gpu_it_is_onnx(engine, hub, monkeypatch):
    monkeypatch.setattr(module, "_sees_cuda", lambda: False)
    assert CrossEncoder(MODEL, engine=engine).describe()["engine"] == "onnx"


def test_weights_are_not_fetched_only_to_find_that_torch_cannot_run_them(hub, files, monkeypatch):
    monkeypatch.setattr(module, "_sees_cuda", lambda: True)
    config = {**json.loads(files["config.json"]), "auto_map": {"AutoModel": "theirs.Model"}}
    weights = {"config.json": json.dumps(config).encode(), "model.safetensors": b"weights"}
    hub.add(MODEL, "main", {**files, **weights}, lfs=[*LFS, "model.safetensors"])
    assert CrossEncoder(MODEL).describe()["engine"] == "onnx"
    assert not [request for request in hub.requests if "safetensors" in request.path]


@needs_torch
def test_with_safetensors_alone_it_is_sentence_transformers_and_no_graph_is_fetched(hub, tmp_path):
    from sentence_transformers import CrossEncoder as Theirs

    torch_model = save_classifier("bert", tmp_path / "torch")
    hub.add(MODEL, "main", {**files_of(torch_model), "pytorch_model.bin": b"a pickle"}, lfs=["model.safetensors"])
    backend = CrossEncoder(MODEL)
    values = backend.score(QUERY, TEXTS).values
    theirs = Theirs(str(torch_model), device="cpu", activation_fn=_identity()).predict(
        [(QUERY, text) for text in TEXTS]
    )
    assert list(values) == pytest.approx(theirs.tolist(), abs=1e-4)
    assert backend.describe()["engine"] == "sentence-transformers"
    graphs = [request for request in hub.asked(path=".onnx") if request.method == "GET"]
    assert graphs == []
    fetched = {Path(request.path.partition("?")[0]).name for request in hub.asked("GET")}
    assert "pytorch_model.bin" not in fetched
    hub.requests.clear()
    again = CrossEncoder(MODEL, local_files_only=True).score(QUERY, TEXTS).values
    assert list(again) == pytest.approx(theirs.tolist(), abs=1e-4)
    assert hub.requests == []


def _identity():
    import torch

    return torch.nn.Identity()


@needs_torch
def test_sentence_transformers_takes_all_files_of_one_commit(hub, tmp_path):
    commit = hub.add(MODEL, "main", files_of(save_classifier("bert", tmp_path / "one")))
    newer = files_of(save_classifier("bert", tmp_path / "two", seed=1))

    def move(request):
        if (
            request.path.endswith("/config.json")
            and request.method == "GET"
            and len(hub.repositories[MODEL].commits) == 2
        ):
            hub.add(MODEL, "main", newer)

    hub.before = move
    backend = CrossEncoder(MODEL, engine="sentence-transformers")
    values = backend.score(QUERY, TEXTS).values
    assert len(hub.repositories[MODEL].commits) == 3
    assert backend.describe()["revision"] == commit
    folder_of_one = CrossEncoder(tmp_path / "one", engine="sentence-transformers")
    assert values == pytest.approx(folder_of_one.score(QUERY, TEXTS).values, abs=1e-5)


def test_with_safetensors_alone_and_no_torch_one_is_told_what_to_install(hub, files, monkeypatch):
    hub.add(MODEL, "main", {"config.json": files["config.json"], "model.safetensors": b"x"})
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'rerankx\[sentence-transformers\]'"):
        rank()
    with pytest.raises(ModelNotFoundError, match=r"no ONNX graph; looked for onnx/model\.onnx and model\.onnx"):
        rank(engine="onnx")
    assert hub.asked("GET", path="safetensors") == []


# What the hub refuses


def spoil(hub, files, trouble, monkeypatch):
    from huggingface_hub import constants, file_download

    if trouble == "absent":
        hub.repositories.clear()
    elif trouble == "private":
        hub.add(MODEL, "main", files, token="hf_secret")
    elif trouble == "gated":
        hub.add(MODEL, "main", files, gated=True)
    elif trouble == "silent":
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
        monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.1, raising=False)
        hub.silent = True
    elif trouble == "broken":
        hub.drop_after = 1000
    elif isinstance(trouble, int):
        hub.status = trouble


TROUBLES = [
    ("absent", "has no model 'org/model', or it is private: check the name"),
    ("private", "log in with `hf auth login` or set HF_TOKEN"),
    ("gated", "'org/model' is gated: accept its licence at http"),
    ("silent", "cannot be reached"),
    ("broken", "broke while it sent onnx/model.onnx of 'org/model'"),
    (401, "org/model"),
    (403, "org/model"),
    (429, "org/model"),
    (500, "status 500"),
    (503, "status 503"),
]


@pytest.mark.parametrize(("trouble", "said"), TROUBLES, ids=[str(trouble) for trouble, _ in TROUBLES])
@pytest.mark.parametrize("on_error", ["raise", "input_order"])
def test_what_the_hub_refuses_is_raised_in_useful_words_whatever_on_error_says(
    trouble, said, on_error, hub, files, monkeypatch
):
    spoil(hub, files, trouble, monkeypatch)
    reranker = Reranker(BACKEND, on_error=on_error)
    with pytest.raises(ModelNotFoundError) as caught:
        reranker.rerank(QUERY, TEXTS)
    assert not isinstance(caught.value, BackendError)  # which is what "input_order" takes
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert QUERY not in str(caught.value)


def test_once_the_hub_is_well_again_the_same_reranker_works(hub, folder):
    reranker = Reranker(BACKEND)
    hub.status = 500
    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            reranker.rerank(QUERY, TEXTS)
    hub.status = None
    hub.drop_after = 1000
    with pytest.raises(ModelNotFoundError, match="run it again"):
        reranker.rerank(QUERY, TEXTS)
    hub.drop_after = None
    ranking = reranker.rerank(QUERY, TEXTS)
    assert [hit.raw_score for hit in sorted(ranking, key=lambda hit: hit.index)] == logits(folder)


def test_what_arerank_is_refused_is_raised_too(hub):
    hub.status = 500
    with pytest.raises(ModelNotFoundError, match="status 500"):
        asyncio.run(Reranker(BACKEND, on_error="input_order").arerank(QUERY, TEXTS))


@pytest.mark.parametrize(
    ("missing", "said"),
    [("tokenizer.json", "no tokenizer.json"), (GRAPH, "model.onnx")],
)
def test_a_repository_that_lacks_a_file_is_said_to(missing, said, hub, files):
    hub.add(MODEL, "main", {name: content for name, content in files.items() if name != missing})
    with pytest.raises(ModelNotFoundError, match=said):
        rank(engine="onnx")


def test_a_private_model_is_read_with_a_token_which_nobody_is_shown(hub, files, folder, monkeypatch, caplog):
    hub.add(MODEL, "main", files, token="hf_secretsecret", lfs=LFS)
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    caplog.set_level(logging.DEBUG, logger="rerankx")
    backend = CrossEncoder(MODEL)
    assert list(backend.score(QUERY, TEXTS).values) == logits(folder)
    assert "secret" not in repr(backend) + backend.fingerprint + str(backend.describe()) + caplog.text


def test_a_revision_that_there_is_not_is_named(hub):
    with pytest.raises(ModelNotFoundError, match="no revision 'v9' of 'org/model'"):
        rank(revision="v9")


def test_more_tokens_than_the_model_reads_are_refused_with_the_number(hub):
    with pytest.raises((RerankxError, ValueError), match="512") as caught:
        Reranker(BACKEND, max_tokens=600, on_error="input_order").rerank(QUERY, TEXTS)
    assert not isinstance(caught.value, BackendError)


# Offline


def offline(by, monkeypatch):
    """Return options for it."""
    from huggingface_hub import constants

    if by == "environment":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return {}
    return {"local_files_only": True}


@pytest.mark.parametrize("by", ["environment", "argument"])
def test_offline_what_was_fetched_is_used(by, hub, folder, monkeypatch):
    rank()
    hub.requests.clear()
    assert rank(**offline(by, monkeypatch)) == logits(folder)
    assert hub.requests == []


@pytest.mark.parametrize("by", ["environment", "argument"])
@pytest.mark.parametrize("on_error", ["raise", "input_order"])
def test_offline_and_not_there_says_what_to_run_and_copy_where(by, on_error, hub, home, monkeypatch):
    with pytest.raises(ModelNotFoundError) as caught:
        rank(on_error=on_error, **offline(by, monkeypatch))
    said = str(caught.value)
    assert "`rerankx download org/model`" in said
    assert f"copy its folder models--org--model into {home / 'hub'}" in said
    assert hub.requests == []


def test_offline_with_a_part_fetched_names_what_is_needed(hub):
    from huggingface_hub import hf_hub_download

    hf_hub_download(MODEL, "config.json")
    hub.requests.clear()
    with pytest.raises(ModelNotFoundError, match=r"onnx/model\.onnx"):
        rank(engine="onnx", local_files_only=True)
    assert hub.requests == []


def test_cache_dir_is_where_everything_is_kept(hub, home, folder, tmp_path):
    assert rank(cache_dir=tmp_path / "kept") == logits(folder)
    assert not home.exists()
    assert {path.name for path in (tmp_path / "kept").iterdir()} >= {"models--org--model", "assets"}
    hub.requests.clear()
    assert rank(cache_dir=str(tmp_path / "kept"), local_files_only=True) == logits(folder)
    with pytest.raises(ModelNotFoundError, match="not in the cache"):
        rank(local_files_only=True)
    assert hub.requests == []


# The scale of a model that the catalogue does not know


SIGMOID = "torch.nn.modules.activation.Sigmoid"
SAYS = [
    ({}, None, Scale.UNKNOWN),
    ({"sentence_transformers": {"activation_fn": SIGMOID}}, None, Scale.LOGIT),
    ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}}, None, Scale.UNKNOWN),
    ({}, {"activation_fn": SIGMOID}, Scale.LOGIT),
    ({"sbert_ce_default_activation_function": SIGMOID}, None, Scale.LOGIT),
]


@pytest.mark.parametrize(("config", "own", "scale"), SAYS)
def test_the_scale_is_read_from_the_models_configuration(config, own, scale, hub, tmp_path):
    mine = files_of(save(tmp_path / "mine", config=config))
    if own is not None:
        mine["config_sentence_transformers.json"] = json.dumps(own).encode()
    hub.add(MODEL, "main", mine)
    assert CrossEncoder(MODEL).scale == scale
    assert hub.asked(path="onnx") == []  # no need of the weights for it
    ranking = Reranker(BACKEND).rerank(QUERY, TEXTS)
    assert ranking.scale == scale
    if scale == Scale.LOGIT:
        assert ranking[0].score == pytest.approx(scale.to_unit(ranking[0].raw_score))
        assert len(Reranker(BACKEND).rerank(QUERY, TEXTS, min_score=0.0)) == 3
    else:
        with pytest.raises(ValueError, match="min_score"):
            Reranker(BACKEND).rerank(QUERY, TEXTS, min_score=0.5)


def test_the_scale_that_one_gives_comes_first(hub):
    assert rank(scale="logit")
    assert CrossEncoder(MODEL, scale="logit").scale == Scale.LOGIT


def with_sigmoid(files):
    return {**files, "config_sentence_transformers.json": json.dumps({"activation_fn": SIGMOID}).encode()}


def test_after_a_download_the_scale_is_known_offline(hub, files):
    hub.add(MODEL, "main", with_sigmoid(files))
    CrossEncoder(MODEL).download()
    assert CrossEncoder(MODEL, local_files_only=True).scale == Scale.LOGIT


def test_a_download_of_a_newer_version_takes_its_scale(hub, files):
    backend = CrossEncoder(MODEL)
    assert backend.scale == Scale.UNKNOWN
    hub.add(MODEL, "main", with_sigmoid(files))
    backend.download()
    assert backend.scale == Scale.LOGIT


def test_the_scale_offline_is_that_online(hub, files):
    hub.add(MODEL, "main", with_sigmoid(files))
    assert Reranker(BACKEND).rerank(QUERY, TEXTS).scale == Scale.LOGIT
    hub.requests.clear()
    assert CrossEncoder(MODEL, local_files_only=True).scale == Scale.LOGIT
    assert hub.requests == []


def test_a_scale_that_cannot_be_fetched_is_an_error_and_no_guess(hub):
    hub.status = 500
    with pytest.raises(ModelNotFoundError, match="status 500"):
        _ = CrossEncoder(MODEL).scale
    hub.status = None
    assert CrossEncoder(MODEL).scale == Scale.UNKNOWN


def test_a_download_of_a_version_without_a_graph_changes_the_engine(hub, files, monkeypatch):
    backend = CrossEncoder(MODEL)
    backend.score(QUERY, TEXTS)
    hub.add(MODEL, "main", {"config.json": files["config.json"], "model.safetensors": b"x"})
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="sentence_transformers"):
        backend.download()
