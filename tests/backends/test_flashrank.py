"""FlashRank's models, under its names and from zips laid out as its own, beside the package itself."""

import gc
import io
import json
import logging
import multiprocessing
import os
import pickle
import re
import subprocess
import sys
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the package onnx, by which these tests write their models")
pytest.importorskip("flashrank", reason="needs the package flashrank, to which these tests compare")

import flashrank
import onnx
import onnxruntime as ort
from onnxruntime.quantization import QuantType, quantize_dynamic

sys.path.insert(0, str(Path(__file__).parents[1] / "engines"))

from graph_stage import bert, save_graph
from hub_stage import HubStage
from torch_stage import unigram, word_piece

from rerankx import (
    BackendError,
    DeadlineError,
    MissingDependencyError,
    ModelNotFoundError,
    Reranker,
    RerankxError,
    demo,
)
from rerankx.backends import flashrank as module
from rerankx.backends.flashrank import DEFAULT, REPOSITORY, FlashRank
from rerankx.catalogue import FLASHRANK
from rerankx.engines.files import digest
from rerankx.interface import Backend, Scale, Usage, deadline
from rerankx.testing import BackendContract

TINY, MULTI, MINI, T5 = DEFAULT, "ms-marco-MultiBERT-L-12", "ms-marco-MiniLM-L-12-v2", "rank-T5-flan"
"""Here: one logit; two; one, quantised; one, from a tokenizer and a graph without token types."""
FP32 = (TINY, MULTI, T5)

QUERY = BackendContract.query
PASSAGES = [passage.text for passage in demo.passages()]
TEXTS = {
    "mixed": ["yes", *PASSAGES[:6], "A refund takes five days. " * 60, "退款", BackendContract.relevant],
    "one": [PASSAGES[0]],
    "200": [f"{i}. {PASSAGES[i % 100]}" for i in range(200)],
    "emoji": ["\U0001f600", "refund \U0001f44d\U0001f3fd", "\U0001f469\u200d\U0001f467 waits for a refund"],
    "chinese": ["退款需要多长时间？十天。", "博物馆星期日开放。", "退款 refund 10 天"],
    "long": ["The valve is closed by turning the red handle to the right. " * 200, "x" * 20_000, "refund " * 510],
    "twice": ["a refund", "ten days", "a refund", "a refund"],
    "control": ["bell \x07 escape \x1b[31m nul \x00 end", " \t a \n\n b \u3000 "],
}


# What is served


def lively(model):
    """Return the graph with its first token more moved by the others, so that texts of random weights differ by whole logits."""
    for weight in model.graph.initializer:
        if re.fullmatch(r"layer\d\.(query|key|value|attended)\.weight", weight.name):
            values = 5 * onnx.numpy_helper.to_array(weight)
            weight.CopyFrom(onnx.numpy_helper.from_array(values, weight.name))
    return model


def save(folder, name, model, *, tokenizer=None, pad=("[PAD]", 0), longest=512):
    """Save a model as FlashRank's zips hold it; return the folder."""
    folder.mkdir(parents=True)
    save_graph(model, folder, FLASHRANK[name].onnx_file)
    tokenizer = tokenizer or word_piece()
    # What the file says of cutting and padding is not what is done.
    tokenizer.enable_truncation(20)
    tokenizer.enable_padding(length=40, pad_id=pad[1], pad_token=pad[0])
    tokenizer.save(str(folder / "tokenizer.json"))
    for file, content in {
        "config.json": {"model_type": "bert", "max_position_embeddings": 512, "pad_token_id": pad[1]},
        "tokenizer_config.json": {"model_max_length": longest, "pad_token": pad[0]},
        "special_tokens_map.json": {"pad_token": pad[0], "unk_token": {"content": "[UNK]" if pad[1] == 0 else "<unk>"}},
    }.items():
        (folder / file).write_text(json.dumps(content))
    return folder


def packed(folder, *, more=None):
    """Return a zip of the folder, with what else a zip of a Mac holds, and with `more`: name -> content."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr(f"{folder.name}/", "")
        for path in sorted(folder.iterdir()):
            archive.write(path, f"{folder.name}/{path.name}")
        archive.writestr(f"__MACOSX/{folder.name}/._config.json", b"\0")
        for name, some in (more or {}).items():
            archive.writestr(name, some)
    return content.getvalue()


def quantised(model, path):
    """Save the graph as FlashRank's quantised files are: activations too, 8 bits, per tensor."""
    # Else onnxruntime logs, and so sets up the root logger.
    model.metadata_props.add(key="onnx.quant.pre_process", value="onnxruntime.quant")
    quantize_dynamic(model, path, weight_type=QuantType.QUInt8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return name -> the folder of a model of that name, apart from all that FlashRank is given."""
    made = tmp_path_factory.mktemp("flashrank")
    save(made / TINY, TINY, lively(bert(seed=4, width=16)))
    save(made / MULTI, MULTI, lively(bert(seed=9, width=16, labels=2)))
    tokenizer = unigram()
    save(made / T5, T5, lively(bert(seed=1, width=16, types=False)), tokenizer=tokenizer, pad=("<pad>", 1))
    save(made / MINI, MINI, bert(layers=1))
    quantised(lively(bert(seed=4, width=16)), made / MINI / FLASHRANK[MINI].onnx_file)
    return {name: made / name for name in (TINY, MULTI, T5, MINI)}


@pytest.fixture(scope="module")
def zips(folders):
    return {f"{name}.zip": packed(folder) for name, folder in folders.items()}


@contextmanager
def hub_with(files, home):
    """Serve the files as FlashRank's repository; this process keeps all it fetches and makes under `home`."""
    from huggingface_hub import constants

    with HubStage() as hub, hub.in_process(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        hub.add(REPOSITORY, "main", files, lfs=files)
        yield hub


@pytest.fixture(scope="module")
def cache(zips, tmp_path_factory):
    """Return a cache with all the models: what is needed of most tests, and shared by them."""
    home = tmp_path_factory.mktemp("home")
    with hub_with(zips, home):
        for name in FLASHRANK.keys() & {zip.removesuffix(".zip") for zip in zips}:
            FlashRank(name).download()
        yield home


@pytest.fixture
def hub(zips, tmp_path):
    """A hub of its own, with nothing fetched yet."""
    with hub_with(zips, tmp_path / "home") as stage:
        yield stage


@pytest.fixture
def folder(folders, tmp_path):
    """Return a model's folder that may be spoilt."""
    return save(tmp_path / "mine" / TINY, TINY, lively(bert(seed=4, width=16)))


class Package:
    """FlashRank itself, on files of its own."""

    def __init__(self, folder, **options):
        with module.root_logging_as_it_is():
            self.ranker = flashrank.Ranker(folder.name, cache_dir=str(folder.parent), **options)

    def __call__(self, query, texts):
        """Return the scores in the order of the texts."""
        passages = [{"id": i, "text": text} for i, text in enumerate(texts)]
        found = self.ranker.rerank(flashrank.RerankRequest(query=query, passages=passages))
        return [float(passage["score"]) for passage in sorted(found, key=lambda passage: passage["id"])]


@pytest.fixture(scope="module")
def packages(folders):
    return {name: Package(folder) for name, folder in folders.items()}


def probabilities(scores):
    return [None if value is None else scores.scale.to_unit(value) for value in scores.values]


def close_to(expected):
    return pytest.approx(expected, abs=1e-5, rel=0)


# The contract


class TestFlashRank(BackendContract):
    tolerance = 1e-5
    truncates = True
    on_deadline = "unscored"
    model = TINY

    @pytest.fixture(autouse=True)
    def _served(self, cache):
        pass

    def make(self) -> Backend:
        return FlashRank(self.model)

    def variants(self) -> list[Backend]:
        return [FlashRank(self.model, max_tokens=64), FlashRank(self.model, engine="flashrank"), FlashRank(MINI)]


class TestTwoLogits(TestFlashRank):
    model = MULTI


class TestQuantised(TestFlashRank):
    tolerance = 0.0
    model = MINI

    def variants(self) -> list[Backend]:
        return [FlashRank(self.model, max_tokens=64)]


class TestThePackage(BackendContract):
    tolerance = 1e-5
    on_deadline = "error"

    @pytest.fixture(autouse=True)
    def _served(self, cache):
        pass

    def make(self) -> Backend:
        return FlashRank(engine="flashrank")

    def variants(self) -> list[Backend]:
        return [FlashRank(engine="flashrank", max_tokens=64), FlashRank(), FlashRank(MULTI, engine="flashrank")]

    def test_awkward_texts_are_taken_and_disturb_no_other(self) -> None:
        super().test_awkward_texts_are_taken_and_disturb_no_other()

    def test_awkward_queries_are_taken(self) -> None:
        super().test_awkward_queries_are_taken()


# The package's own scores


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("name", FP32)
def test_scores_are_the_packages(name, kind, cache, packages):
    expected = packages[name](QUERY, TEXTS[kind])
    assert probabilities(FlashRank(name).score(QUERY, TEXTS[kind])) == close_to(expected)


@pytest.mark.parametrize("name", FP32)
def test_the_models_of_these_tests_tell_texts_apart(name, packages):
    assert np.ptp(packages[name](QUERY, TEXTS["200"])) > 0.1


@pytest.mark.parametrize(
    ("name", "query"),
    [(TINY, "refund " * 300), (T5, "refund " * 2000), (MULTI, "x" * 5000), (TINY, "?"), (T5, "退款")],
    ids=["over half", "over all", "one word", "?", "chinese"],
)
def test_any_query_has_the_packages_scores(name, query, cache, packages):
    texts = TEXTS["mixed"]
    assert probabilities(FlashRank(name).score(query, texts)) == close_to(packages[name](query, texts))


def test_blank_texts_have_no_score_and_the_others_the_packages(cache, packages):
    texts = ["", *PASSAGES[:3], " \n\t", PASSAGES[3], "\u3000"]
    expected = iter(packages[TINY](QUERY, PASSAGES[:4]))
    got = probabilities(FlashRank().score(QUERY, texts))
    assert got == [close_to(next(expected)) if text.strip() else None for text in texts]


@pytest.mark.parametrize("tokens", [16, 64, 511, 512])
def test_max_tokens_is_the_packages_max_length(tokens, cache, folders):
    expected = Package(folders[TINY], max_length=tokens)(QUERY, TEXTS["mixed"])
    for engine in ("onnx", "flashrank"):
        got = probabilities(FlashRank(max_tokens=tokens, engine=engine).score(QUERY, TEXTS["mixed"]))
        assert got == close_to(expected)


@pytest.mark.parametrize("longest", [40, 512, 10_000])
def test_without_max_tokens_a_pair_is_as_long_as_the_package_reads(longest, tmp_path):
    folder = save(tmp_path / TINY, TINY, lively(bert(seed=4, width=16)), longest=longest)
    got = FlashRank(folder, cache_dir=tmp_path).score(QUERY, TEXTS["mixed"])
    assert probabilities(got) == close_to(Package(folder)(QUERY, TEXTS["mixed"]))


def test_a_model_that_reads_more_reads_512_tokens_unless_told_otherwise(tmp_path):
    folder = save(tmp_path / TINY, TINY, lively(bert(seed=4, width=16, positions=1024)), longest=1024)
    (folder / "config.json").write_text('{"max_position_embeddings": 1024, "pad_token_id": 0}')
    texts = TEXTS["long"]
    assert probabilities(FlashRank(folder, cache_dir=tmp_path).score(QUERY, texts)) == close_to(
        Package(folder)(QUERY, texts)
    )
    more = FlashRank(folder, cache_dir=tmp_path, max_tokens=1024).score(QUERY, texts)
    assert probabilities(more) == close_to(Package(folder, max_length=1024)(QUERY, texts))


@pytest.mark.parametrize("engine", ["onnx", "flashrank"])
@pytest.mark.parametrize("name", FP32)
def test_hits_have_the_packages_scores_and_order(name, engine, cache, packages):
    texts = TEXTS["mixed"]
    expected = packages[name](QUERY, texts)
    ranking = Reranker(f"flashrank:{name}", engine=engine).rerank(QUERY, texts)
    assert [hit.score for hit in ranking] == close_to(sorted(expected, reverse=True))
    assert [hit.score for hit in ranking] == close_to([expected[hit.index] for hit in ranking])
    assert ranking.model == name


def test_without_a_name_it_is_the_packages_default(cache, packages):
    from flashrank.Config import default_model

    backend = Reranker("flashrank").backend
    assert backend.model == default_model
    assert probabilities(backend.score(QUERY, TEXTS["one"])) == close_to(packages[TINY](QUERY, TEXTS["one"]))


@pytest.mark.parametrize("name", FP32)
def test_raw_scores_are_logits_of_relevance(name, cache, packages):
    scores = FlashRank(name).score(QUERY, TEXTS["mixed"])
    odds = np.array(packages[name](QUERY, TEXTS["mixed"]))
    assert scores.scale == Scale.LOGIT
    assert scores.values == pytest.approx(np.log(odds / (1 - odds)), abs=1e-3)
    assert all(type(value) is float for value in scores.values)


def test_what_a_scoring_took_and_cut_is_counted(cache):
    scores = FlashRank(max_tokens=32).score("a refund", ["ten days", "word " * 100, "ten days"])
    assert scores.truncated == 1
    assert scores.usage == Usage(input_tokens=len(word_piece().encode("a refund", "ten days").ids) + 32)  # each once


# Quantised files


def test_quantised_files_score_a_text_whatever_its_neighbours_and_the_package_does_not(cache, packages):
    backend, package, texts = FlashRank(MINI), packages[MINI], TEXTS["mixed"]
    together = backend.score(QUERY, texts)
    alone = [backend.score(QUERY, [text]).values[0] for text in texts]
    assert alone == list(together.values)
    theirs = [package(QUERY, [text])[0] for text in texts]
    assert np.abs(np.subtract(theirs, package(QUERY, texts))).max() > 1e-3
    assert probabilities(together) == close_to(theirs)


def test_the_file_of_these_tests_is_quantised_as_the_packages_are(folders):
    kinds = {node.op_type for node in onnx.load(folders[MINI] / FLASHRANK[MINI].onnx_file).graph.node}
    assert {"DynamicQuantizeLinear", "MatMulInteger"} <= kinds


# The package as the engine


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((TINY, kind) for kind in TEXTS if kind not in ("200", "long")),
        (MULTI, "mixed"),
        (T5, "mixed"),
        (MINI, "mixed"),
    ],
)
def test_the_package_as_the_engine_gives_its_own_scores(name, kind, cache, packages):
    scores = FlashRank(name, engine="flashrank").score(QUERY, TEXTS[kind])
    assert list(scores.values) == pytest.approx(packages[name](QUERY, TEXTS[kind]), abs=1e-7)
    assert scores.scale == Scale.PROBABILITY
    assert {type(value) for value in scores.values} == {float}


def test_the_package_changes_nothing_that_it_is_given(cache):
    documents = [{"id": 7, "text": PASSAGES[0]}, {"id": 8, "text": PASSAGES[1]}]
    before = [dict(document) for document in documents]
    ranking = Reranker("flashrank", engine="flashrank").rerank(QUERY, documents, key=lambda document: document["text"])
    assert documents == before
    assert {hit.document["id"] for hit in ranking} == {7, 8}


def test_the_package_survives_an_empty_list_and_blank_texts(cache):
    backend = FlashRank(engine="flashrank")
    assert backend.score(QUERY, []).values == ()
    assert backend.score(QUERY, ["", " "]).values == (None, None)
    assert len(Reranker(backend).rerank(QUERY, [])) == 0


@pytest.mark.parametrize("level", [logging.WARNING, logging.DEBUG])
def test_the_package_leaves_the_applications_logging_alone(level, cache, monkeypatch, capfd):
    monkeypatch.setattr(logging.root, "handlers", [])  # pytest's own, with which basicConfig() would do nothing
    monkeypatch.setattr(logging.root, "level", level)
    FlashRank(engine="flashrank").score(QUERY, TEXTS["one"])
    assert (logging.root.handlers, logging.root.level) == ([], level)
    assert capfd.readouterr().err == ""


def test_the_package_fetches_nothing_itself(hub, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("the package asked for something")

    monkeypatch.setattr(sys.modules["flashrank.Ranker"].requests, "get", refuse)
    FlashRank(engine="flashrank").score(QUERY, TEXTS["one"])
    assert {request.path.partition("/resolve/")[2] for request in hub.asked(host="hub")} == {f"main/{TINY}.zip"}


def test_the_package_starts_nothing_after_the_deadline(cache):
    backend = FlashRank(engine="flashrank")
    with deadline(1e-9), pytest.raises(DeadlineError, match="FlashRank"):
        backend.score(QUERY, TEXTS["one"])


def test_without_the_package_only_its_engine_is_missing(cache, monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    for name in ("flashrank", f"flashrank:{MULTI}"):
        with pytest.raises(MissingDependencyError) as caught:
            Reranker(name, engine="flashrank")
        assert caught.value.packages == ("flashrank",)
        assert "pip install 'rerankx[flashrank]'" in str(caught.value)
    assert FlashRank().score(QUERY, TEXTS["one"]).values[0] is not None


def test_our_engine_does_not_import_the_package(cache):
    script = (
        "import sys; from rerankx import Reranker; Reranker('flashrank', cache_dir=sys.argv[1], local_files_only=True)"
        ".rerank('q', ['a']); sys.exit('flashrank' in sys.modules or 'onnx' in sys.modules)"
    )
    # What is made of models lies elsewhere under a cache_dir: with it, it would be made anew, by the package onnx.
    (cache / "hub" / "assets").mkdir(exist_ok=True)
    if not (cache / "hub" / "assets" / "rerankx").exists():
        (cache / "hub" / "assets" / "rerankx").symlink_to(cache / "assets" / "rerankx")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(cache / "hub")], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")


# Names and folders


@pytest.mark.parametrize("engine", ["package", "Onnx", "", "auto"])
def test_an_engine_that_there_is_not_is_named(engine):
    with pytest.raises(ValueError, match=f"'onnx' or 'flashrank', not '{engine}'"):
        FlashRank(engine=engine)


@pytest.mark.parametrize(
    ("model", "meant"), [("ms-marco-TinyBERT-L2-v2", TINY), ("rank-t5-flan", T5), ("ms-marco-MultiBERT-L12", MULTI)]
)
def test_a_name_that_is_nearly_right_is_put_right(model, meant):
    with pytest.raises(ModelNotFoundError, match=f"did you mean '{meant}'"):
        Reranker(f"flashrank:{model}")


def test_the_packages_language_model_is_none_of_these():
    with pytest.raises(ModelNotFoundError) as caught:
        FlashRank("rank_zephyr_7b_v1_full")
    assert "no cross-encoder 'rank_zephyr_7b_v1_full'" in str(caught.value)
    assert all(name in str(caught.value) for name in FLASHRANK)


@pytest.mark.parametrize(
    "model",
    [
        "",
        "cross-encoder/ms-marco-MiniLM-L6-v2",
        "no/such/folder",
    ],
)
def test_what_is_neither_a_name_nor_a_folder_is_refused_at_once(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFoundError, match="FlashRank has no cross-encoder"):
        FlashRank(model)


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_works_under_any_name(kind, folder, packages, tmp_path):
    (folder / FLASHRANK[TINY].onnx_file).rename(folder / "whatever.onnx")
    mine = folder.rename(folder.parent / "my model")
    got = FlashRank(kind(mine), cache_dir=tmp_path).score(QUERY, TEXTS["mixed"])
    assert probabilities(got) == close_to(packages[TINY](QUERY, TEXTS["mixed"]))


def test_the_package_takes_a_folder_too(folder, packages):
    got = FlashRank(folder, engine="flashrank").score(QUERY, TEXTS["mixed"])
    assert list(got.values) == close_to(packages[TINY](QUERY, TEXTS["mixed"]))


def test_the_package_takes_its_own_names_of_folders_and_files_alone_and_one_is_told(folder):
    mine = folder.rename(folder.parent / "mine")
    with pytest.raises(ModelNotFoundError, match=r"names alone, not mine/.*\.onnx; take engine='onnx'"):
        FlashRank(mine, engine="flashrank").score(QUERY, TEXTS["mixed"])


def test_a_folder_stays_the_same_when_the_process_goes_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    backend = FlashRank(f"./{TINY}", cache_dir=tmp_path)
    monkeypatch.chdir("/")
    assert backend.score(QUERY, TEXTS["one"]).values[0] is not None


def test_a_folder_may_be_named_from_the_users_home(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert FlashRank(f"~/{TINY}", cache_dir=tmp_path).score(QUERY, TEXTS["one"]).values[0] is not None


@pytest.mark.parametrize("engine", ["onnx", "flashrank"])
def test_a_folder_without_a_graph_is_named(engine, folder):
    (folder / FLASHRANK[TINY].onnx_file).unlink()
    with pytest.raises(ModelNotFoundError, match=r"must hold one ONNX file.* it holds none") as caught:
        FlashRank(folder, engine=engine).score(QUERY, TEXTS["one"])
    assert str(folder) in str(caught.value)


def test_a_folder_with_two_graphs_is_named_with_both(folder):
    (folder / "other.onnx").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=f"it holds {FLASHRANK[TINY].onnx_file}, other.onnx"):
        FlashRank(folder).score(QUERY, TEXTS["one"])


def test_a_model_of_three_logits_is_an_error_that_says_so(tmp_path):
    folder = save(tmp_path / TINY, TINY, bert(width=16, labels=3))
    with pytest.raises(BackendError, match="gives 3 logits per pair; FlashRank's give one or two"):
        FlashRank(folder, cache_dir=tmp_path).score(QUERY, TEXTS["one"])


@pytest.mark.parametrize("tokens", [513, 100_000])
def test_more_tokens_than_the_model_reads_are_refused_with_the_number(tokens, cache):
    with pytest.raises((ValueError, RerankxError), match="512"):
        FlashRank(max_tokens=tokens).score(QUERY, TEXTS["one"])


@pytest.mark.parametrize("tokens", [0, -1, 4])
def test_too_few_tokens_are_refused_with_the_number(tokens, cache):
    with pytest.raises((ValueError, RerankxError), match=f"{tokens}"):
        FlashRank(max_tokens=tokens).score(QUERY, TEXTS["one"])


@pytest.mark.parametrize("tokens", [True, "64", 64.0])
def test_tokens_that_are_no_whole_number_are_refused(tokens):
    with pytest.raises(TypeError, match="max_tokens"):
        FlashRank(max_tokens=tokens)


# The zip


def files_below(path):
    return {str(one.relative_to(path)) for one in path.rglob("*") if one.is_file()}


def spoilt(content, at):
    return content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]


def test_a_model_is_fetched_once_and_alone(hub):
    assert FlashRank().score(QUERY, TEXTS["one"]).values[0] is not None
    assert len(hub.asked("GET", host="storage")) == 1
    hub.requests.clear()
    for options in ({}, {"local_files_only": True}, {"engine": "flashrank"}):
        assert FlashRank(**options).score(QUERY, TEXTS["one"]).values[0] is not None
    assert hub.requests == []


def test_cache_dir_is_where_everything_is_kept(hub, tmp_path):
    FlashRank(cache_dir=tmp_path / "kept").score(QUERY, TEXTS["one"])
    assert not (tmp_path / "home" / "hub").exists()
    assert not (tmp_path / "home" / "assets").exists()
    kept = {Path(name).name for name in files_below(tmp_path / "kept")}
    assert {f"{TINY}.zip", FLASHRANK[TINY].onnx_file, "one-row.onnx"} <= kept


def test_what_is_no_zip_is_an_error_that_names_the_file(hub):
    hub.add(REPOSITORY, "main", {f"{TINY}.zip": b"<html>maintenance</html>"})
    with pytest.raises(ModelNotFoundError, match=rf"{TINY}\.zip is no zip"):
        FlashRank().score(QUERY, TEXTS["one"])


@pytest.mark.parametrize(
    "where",
    [
        "end", "stored", "deflated",
        "code",
    ],
)  # fmt: skip
def test_a_zip_that_is_spoilt_is_an_error_and_half_of_it_is_never_seen(where, hub, zips, folders, tmp_path):
    if where == "end":
        content = zips[f"{TINY}.zip"][:-1000]
    elif where == "deflated":
        content = spoilt(zips[f"{TINY}.zip"], 100_000)
    elif where == "code":  # the first three bits of what is deflated say how
        content = zips[f"{TINY}.zip"]
        name = f"{TINY}/{FLASHRANK[TINY].onnx_file}".encode()
        at = content.index(name) + len(name)
        content = content[:at] + b"\xff" + content[at + 1 :]
    else:
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w") as archive:
            for path in sorted(folders[TINY].iterdir()):
                archive.write(path, f"{TINY}/{path.name}")
        content = spoilt(held.getvalue(), 100_000)
    hub.add(REPOSITORY, "main", {f"{TINY}.zip": content}, lfs=[f"{TINY}.zip"])
    backend = FlashRank()
    for _ in range(2):
        with pytest.raises(ModelNotFoundError, match=rf"{TINY}\.zip"):
            backend.score(QUERY, TEXTS["one"])
    assert files_below(tmp_path / "home" / "assets") == set()
    hub.add(REPOSITORY, "main", zips, lfs=zips)
    backend.download()
    assert backend.score(QUERY, TEXTS["one"]).values[0] is not None


def test_a_zip_without_the_models_folder_does_not_pretend_to_hold_the_graph(hub, folders):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("another/config.json", "{}")
    hub.add(REPOSITORY, "main", {f"{TINY}.zip": content.getvalue()})
    with pytest.raises(ModelNotFoundError, match="must hold one ONNX file") as caught:
        FlashRank().score(QUERY, TEXTS["one"])
    assert f"it holds {FLASHRANK[TINY].onnx_file}" not in str(caught.value)


def test_a_zip_that_wants_to_leave_its_folder_stays_in_it(hub, folders, tmp_path):
    outside = tmp_path / "outside.txt"
    names = ["../evil.txt", f"{TINY}/../../../../evil.txt", str(outside), "../" * 12 + str(outside)[1:]]
    content = packed(folders[TINY], more=dict.fromkeys(names, b"evil"))
    hub.add(REPOSITORY, "main", {f"{TINY}.zip": content})
    assert FlashRank().score(QUERY, TEXTS["one"]).values[0] is not None
    assert not outside.exists()
    (unpacked,) = (tmp_path / "home" / "assets" / "rerankx" / "flashrank").iterdir()
    evil = [path for path in tmp_path.rglob("*") if path.name in ("evil.txt", "outside.txt")]
    assert evil
    assert all(unpacked in path.parents for path in evil)


def test_a_process_that_dies_while_it_unpacks_leaves_nothing_under_the_name(hub, tmp_path):
    FlashRank(cache_dir=tmp_path / "cache", local_files_only=False)._files().get(f"{TINY}.zip", what="zip")

    def die():
        extract = zipfile.ZipFile.extract

        def some(archive, path):
            extract(archive, archive.namelist()[1], path)
            os._exit(9)

        zipfile.ZipFile.extractall = some
        FlashRank(cache_dir=tmp_path / "cache")._folder.get()

    child = multiprocessing.get_context("fork").Process(target=die)
    child.start()
    child.join(60)
    assert child.exitcode == 9
    assert files_below(tmp_path / "cache" / "assets")  # it had begun
    assert FlashRank(cache_dir=tmp_path / "cache").score(QUERY, TEXTS["one"]).values[0] is not None


if sys.platform == "win32":
    test_a_process_that_dies_while_it_unpacks_leaves_nothing_under_the_name = pytest.mark.skip(reason="forks")(
        test_a_process_that_dies_while_it_unpacks_leaves_nothing_under_the_name
    )


def test_threads_that_unpack_at_once_all_get_the_model(hub, tmp_path, packages):
    together = threading.Barrier(8)

    def score(_):
        backend = FlashRank()
        together.wait(30)
        return probabilities(backend.score(QUERY, TEXTS["one"]))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(score, range(8)))
    assert found == [close_to(packages[TINY](QUERY, TEXTS["one"]))] * 8
    (unpacked,) = (tmp_path / "home" / "assets" / "rerankx" / "flashrank").iterdir()  # and no scratch folder is left
    assert re.fullmatch("[0-9a-f]{32}", unpacked.name)


def test_processes_that_unpack_at_once_all_get_the_model(hub, tmp_path, packages):
    FlashRank(cache_dir=tmp_path / "cache")._files().get(f"{TINY}.zip", what="zip")
    script = (
        "import sys, json; from rerankx.backends.flashrank import FlashRank\n"
        "backend = FlashRank(cache_dir=sys.argv[1], local_files_only=True)\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(json.dumps(list(backend.score(*json.loads(sys.stdin.readline())).values)))"
    )
    given = json.dumps([QUERY, TEXTS["mixed"]])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "cache")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write(f"go\n{given}\n")
        process.stdin.flush()
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert err == ""
        assert [Scale.LOGIT.to_unit(value) for value in json.loads(out)] == close_to(
            packages[TINY](QUERY, TEXTS["mixed"])
        )
    assert len(list((tmp_path / "cache" / "assets" / "rerankx" / "flashrank").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_named(hub, tmp_path):
    (tmp_path / "home" / "assets").mkdir(parents=True)
    (tmp_path / "home" / "assets" / "rerankx").write_text("a file where a folder should be")
    with pytest.raises(ModelNotFoundError, match="cannot be unpacked into"):
        FlashRank().score(QUERY, TEXTS["one"])


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_offline_and_not_there_is_an_error_that_says_what_would_help(by, hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by == "environment")
    with pytest.raises(ModelNotFoundError) as caught:
        Reranker(f"flashrank:{MULTI}", local_files_only=by == "argument", on_error="input_order").rerank(QUERY, ["a"])
    said = str(caught.value)
    assert f"{MULTI}.zip" in said
    assert str(tmp_path / "home" / "hub" / "models--prithivida--flashrank") in said
    assert hub.requests == []


def test_the_command_that_offline_is_said_to_help_does_help(hub, capsys):
    from rerankx.cli import main

    with pytest.raises(ModelNotFoundError) as caught:
        FlashRank(MULTI, local_files_only=True).score(QUERY, ["a"])
    command = re.search(r"`rerankx ([^`]+)`", str(caught.value))[1]
    assert main(command.split()) == 0
    assert FlashRank(MULTI, local_files_only=True).score(QUERY, ["a"]).values[0] is not None


def test_a_zip_that_the_repository_does_not_have_is_said_so(hub, zips):
    hub.add(REPOSITORY, "main", {f"{TINY}.zip": zips[f"{TINY}.zip"]})
    with pytest.raises(ModelNotFoundError, match=f"looked for {MULTI}.zip"):
        FlashRank(MULTI).score(QUERY, ["a"])


# Its life


def test_download_takes_the_newest_zip_and_nothing_else_does(hub, zips, folders, tmp_path):
    backend = FlashRank()
    (before,), first = backend.score(QUERY, TEXTS["one"]).values, backend.fingerprint
    other = save(tmp_path / TINY, TINY, lively(bert(seed=5, width=16)))
    hub.add(REPOSITORY, "main", {**zips, f"{TINY}.zip": packed(other)}, lfs=zips)
    assert FlashRank().score(QUERY, TEXTS["one"]).values == (before,)
    backend.download()
    (after,) = backend.score(QUERY, TEXTS["one"]).values
    assert Scale.LOGIT.to_unit(after) == close_to(Package(other)(QUERY, TEXTS["one"])[0])
    assert after != before
    assert backend.fingerprint != first
    hub.requests.clear()
    assert FlashRank(local_files_only=True).score(QUERY, TEXTS["one"]).values == (after,)
    assert hub.requests == []


def test_a_download_that_fails_leaves_what_there_was(hub):
    backend = FlashRank()
    before = backend.score(QUERY, TEXTS["one"]).values
    hub.status = 503
    with pytest.raises(ModelNotFoundError, match="503"):
        backend.download()
    assert backend.score(QUERY, TEXTS["one"]).values == before
    assert FlashRank().score(QUERY, TEXTS["one"]).values == before


def test_after_a_download_nothing_is_asked_or_made(hub, tmp_path, capsys):
    from rerankx.cli import main

    assert main(["download", f"flashrank:{TINY}"]) == 0
    assert "first row" in capsys.readouterr().out
    hub.requests.clear()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    FlashRank(local_files_only=True).score(QUERY, TEXTS["one"])
    assert hub.requests == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_can_be_prepared_ahead_too(folder, tmp_path):
    FlashRank(folder, cache_dir=tmp_path / "cache").download()
    assert any(name.endswith("one-row.onnx") for name in files_below(tmp_path / "cache"))


def sessions():
    gc.collect()
    return sum(type(one) is ort.InferenceSession for one in gc.get_objects())


@pytest.mark.parametrize("engine", ["onnx", "flashrank"])
def test_close_lets_go_of_the_model_and_the_next_call_loads_it_again(engine, cache):
    before, backend = sessions(), FlashRank(engine=engine)
    assert sessions() == before
    first = backend.score(QUERY, TEXTS["mixed"]).values
    assert sessions() == before + 1
    backend.close()
    assert sessions() == before
    assert list(backend.score(QUERY, TEXTS["mixed"]).values) == pytest.approx(first, abs=1e-6)
    backend.close()
    backend.close()


def test_options_travel_with_a_pickle_and_the_weights_do_not(cache):
    options = {"engine": "flashrank", "max_tokens": 64, "cache_dir": cache / "hub", "local_files_only": True}
    for backend in (FlashRank(MULTI, **options), FlashRank()):
        backend.score(QUERY, TEXTS["one"])
        content = pickle.dumps(backend)
        assert len(content) < 1000
        copied = pickle.loads(content)
        assert copied._given == backend._given
        assert copied.model == backend.model
        assert (copied.scale, copied.pointwise) == (backend.scale, backend.pointwise)


def test_a_fingerprint_knows_the_file(folder, tmp_path):
    first = FlashRank(folder).fingerprint
    assert FlashRank(folder, max_tokens=64).fingerprint != first
    save_graph(lively(bert(seed=5, width=16)), folder, FLASHRANK[TINY].onnx_file)
    assert FlashRank(folder).fingerprint != first


def test_a_fingerprint_reads_the_files_once_and_again_after_a_download(folder, monkeypatch):
    read = []
    monkeypatch.setattr(module, "digest", lambda path: read.append(path) or digest(path))
    backend = FlashRank(folder)
    prints = {backend.fingerprint for _ in range(3)}
    assert len(prints) == 1
    assert len(read) == len(set(read))
    save_graph(lively(bert(seed=5, width=16)), folder, FLASHRANK[TINY].onnx_file)
    backend.download()
    assert backend.fingerprint not in prints


@pytest.mark.parametrize(("name", "engine"), [(TINY, "onnx"), (MULTI, "onnx"), (MINI, "onnx"), (TINY, "flashrank")])
def test_it_says_how_it_runs_in_words_that_json_knows(name, engine, cache):
    said = json.loads(json.dumps(FlashRank(name, engine=engine).describe()))
    assert (said["model"], said["engine"], said["device"]) == (name, engine, "cpu")
    assert said["scale"] == ("logit" if engine == "onnx" else "probability")
    if engine == "onnx":
        assert said["max_tokens"] == 512
        assert said["last_layer"].startswith("first row") or name == MINI


@pytest.mark.parametrize("name", ["Flashrank", "flashrank:"])
def test_the_backends_name_is_written_as_it_is(name):
    with pytest.raises(ValueError, match="flashrank"):
        Reranker(name)
