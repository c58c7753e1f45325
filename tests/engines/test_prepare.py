"""What is made of a model's graph is made once, kept on disk, and never run where it is not right."""

import errno
import json
import multiprocessing
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from shutil import copyfile

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the package onnx, which edits and quantises graphs")

import onnx
from graph_stage import bert, difference, outputs_of, rows_of_products, save_graph, save_model, save_outside, without
from onnx import TensorProto

from rerankx import MissingDependencyError, ModelNotFoundError
from rerankx.engines.files import ModelFiles
from rerankx.engines.onnx_engine import OnnxEngine
from rerankx.engines.prepare import prepare


@pytest.fixture
def path(tmp_path):
    return save_graph(bert(), tmp_path)


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def made(path, cache, precision="fp32"):
    return prepare(path, precision=precision, cache_dir=str(cache))


def contents(folder):
    """Return every file below the folder, with what tells whether it was written again."""
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


# Kept


def test_what_was_made_is_found_again_and_nothing_is_written(path, cache):
    first, before = made(path, cache), contents(cache)
    assert made(path, cache) == first
    assert first.path.is_file()
    assert contents(cache) == before


def test_a_kept_graph_needs_no_package_onnx(path, cache):
    first = made(path, cache)
    with without("onnx"):
        assert made(path, cache) == first
        assert "onnx" not in sys.modules


def test_a_kept_int8_graph_needs_no_package_onnx(path, cache):
    first = made(path, cache, "int8")
    with without("onnx"):
        assert made(path, cache, "int8") == first


def test_that_a_graph_cannot_be_edited_is_kept_as_well(tmp_path, cache):
    path = save_graph(bert(head="mean"), tmp_path)
    first = made(path, cache)
    assert first.path == path
    with without("onnx"):
        assert made(path, cache) == first


def test_nothing_is_left_behind_but_the_graph_and_its_verdict(path, cache):
    first = made(path, cache)
    assert sorted(found.name for found in first.path.parent.iterdir()) == ["one-row.json", "one-row.onnx"]


def test_nothing_is_kept_beside_the_model(path, cache):
    made(path, cache, "int8")
    assert [found.name for found in path.parent.iterdir() if found.is_file()] == ["model.onnx"]


def test_without_a_folder_of_ones_own_it_is_kept_where_the_hub_library_keeps_assets(path, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_ASSETS_CACHE", str(tmp_path / "assets"))
    kept = prepare(path, precision="fp32").path
    assert kept.is_relative_to(tmp_path / "assets" / "rerankx")


def test_another_file_of_the_same_name_is_another_model(path, cache, tmp_path):
    first = made(path, cache).path
    save_graph(bert(seed=1), tmp_path)
    second = made(path, cache).path
    assert second != first
    assert difference(path, second) < 1e-5


def test_a_copy_of_a_file_is_the_same_model(path, cache, tmp_path):
    first = made(path, cache)
    copyfile(path, tmp_path / "copy.onnx")
    before = contents(cache)
    assert made(tmp_path / "copy.onnx", cache) == first
    assert contents(cache) == before


@pytest.mark.parametrize("content", ["", "{", '{"reason": nu', "[]", "null", "{}", "\x00"])
def test_a_verdict_that_cannot_be_read_is_made_anew(content, path, cache):
    first = made(path, cache)
    verdict = first.path.with_name("one-row.json")
    verdict.write_text(content)
    assert made(path, cache) == first
    assert json.loads(verdict.read_text())["reason"] is None


@pytest.mark.parametrize(
    "content",
    ['{"reason": null}', '{"reason": 1, "largest_difference": 0.0}', '{"reason": null, "largest_difference": "0"}'],
)
def test_half_a_verdict_is_made_anew(content, path, cache):
    first = made(path, cache)
    first.path.with_name("one-row.json").write_text(content)
    assert made(path, cache) == first


def test_a_kept_graph_that_was_deleted_is_made_anew(path, cache):
    first = made(path, cache)
    first.path.unlink()
    assert made(path, cache) == first
    assert difference(path, first.path) < 1e-5


def test_a_kept_graph_that_was_deleted_is_done_without_where_nobody_can_make_it(path, cache):
    made(path, cache).path.unlink()
    with without("onnx"):
        assert made(path, cache).path == path


def test_an_int8_graph_that_was_deleted_is_made_anew(path, cache):
    first = made(path, cache, "int8").path
    first.unlink()
    assert made(path, cache, "int8").path == first
    assert first.is_file()


def test_a_kept_graph_that_is_spoilt_does_not_stand_in_the_way_of_int8(path, cache):
    kept = made(path, cache).path
    kept.write_bytes(kept.read_bytes()[:1000])
    assert made(path, cache, "int8").path.is_file()


def test_other_weights_beside_the_same_graph_are_another_model(tmp_path, cache):
    for seed in (0, 1):
        (tmp_path / str(seed)).mkdir()
        save_outside(bert(seed=seed), tmp_path / str(seed) / "model.onnx")
    path, weights = tmp_path / "0" / "model.onnx", "model.onnx_data"
    first = outputs_of(made(path, cache, "int8").path)
    copyfile(tmp_path / "1" / weights, tmp_path / "0" / weights)  # as when a model was trained on, and exported anew
    second = outputs_of(made(path, cache, "int8").path)
    assert not np.allclose(first[0][0], second[0][0], atol=1e-3)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("bad allocation")], ids=["python", "runtime"])
def test_a_failure_that_may_pass_is_tried_again(error, path, cache, monkeypatch):
    def fail(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("rerankx.engines.graph._observe", fail)
        assert made(path, cache).path == path
    assert made(path, cache).path != path


# Not to be kept


def refuse(*_args, **_options):
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def full_disk(*_args, **_options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.fixture(params=["a-file", "read-only", "full"])
def unwritable(request, cache, monkeypatch):
    """A cache that cannot be written; root may write everywhere, so that permissions alone do not do."""
    if request.param == "a-file":
        cache.write_text("")
    elif request.param == "read-only":
        cache.mkdir()
        monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    else:
        monkeypatch.setattr("tempfile.mkdtemp", full_disk)
    return cache


def test_where_nothing_can_be_kept_the_plain_graph_is_run_with_a_warning(path, unwritable, caplog):
    assert made(path, unwritable) == (path, "all rows: what is made cannot be kept on disk")
    (warning,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert str(unwritable) in warning.getMessage()


def test_where_nothing_can_be_kept_there_is_no_int8_and_the_error_says_what_to_do(path, unwritable):
    with pytest.raises(
        ModelNotFoundError, match=r"cannot be kept in .*; pass a cache_dir that can be written"
    ) as caught:
        made(path, unwritable, "int8")
    assert str(unwritable) in str(caught.value)


def test_without_the_package_onnx_the_plain_graph_is_run_and_says_what_to_install(path, cache):
    with without("onnx"):
        plain = made(path, cache)
    assert plain.path == path
    assert plain.layers == "all rows: pip install 'rerankx[onnx]' saves most of the last layer"
    assert not cache.exists()


def test_once_the_package_is_installed_the_graph_is_edited(path, cache):
    with without("onnx"):
        made(path, cache)
    assert made(path, cache).path != path


def test_int8_without_the_package_onnx_says_what_to_install(path, cache):
    with (
        without("onnx"),
        pytest.raises(MissingDependencyError, match=r"int8.* needs onnx.*pip install 'rerankx\[onnx\]'"),
    ):
        made(path, cache, "int8")


def test_int8_of_what_is_no_graph_says_so(tmp_path, cache):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no graph at all")
    with pytest.raises(ModelNotFoundError, match=r"model\.onnx \(\d+ bytes\) is no ONNX graph"):
        made(path, cache, "int8")


# Several at once


def _in_child(path, cache, precision, barrier):
    barrier.wait(30)
    prepared = prepare(path, precision=precision, cache_dir=cache)
    outputs_of(prepared.path)
    assert prepared.layers.startswith("first row"), prepared.layers


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_two_processes_may_make_it_at_once(precision, path, cache):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(2)
    children = [
        spawn.Process(target=_in_child, args=(path, str(cache), precision, barrier), daemon=True) for _ in range(2)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0, 0]
    kept = made(path, cache, precision).path
    assert not [found for found in kept.parent.iterdir() if found.is_dir()]


def test_threads_may_make_it_at_once(path, cache):
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda precision: made(path, cache, precision), ["fp32", "int8"] * 2))
    assert results[:2] == results[2:]
    assert difference(path, results[0].path) < 1e-5


# int8


@pytest.fixture(scope="module")
def quantised(tmp_path_factory):
    folder = tmp_path_factory.mktemp("int8")
    path = save_graph(bert(width=64, focus=0.2), folder)
    return path, made(path, folder / "cache", "int8").path


def weights_of(path):
    """Return the quantised weights, each with its scales."""
    graph = onnx.load(str(path)).graph
    arrays = {one.name: one for one in graph.initializer}
    names = [name.removesuffix("_quantized") for name in arrays if name.endswith("_quantized")]
    return {
        name: (arrays[f"{name}_quantized"], arrays[f"{name}_scale"], arrays[f"{name}_zero_point"]) for name in names
    }


def test_int8_quantises_every_product_with_weights(quantised):
    path, int8 = quantised
    plain, weights = onnx.load(str(path)).graph, weights_of(int8)
    constant = {one.name for one in plain.initializer}
    assert weights.keys() == {n.input[1] for n in plain.node if n.op_type == "MatMul" and n.input[1] in constant}
    assert "DynamicQuantizeLinear" in {node.op_type for node in onnx.load(str(int8)).graph.node}


def test_int8_weights_are_signed_and_of_seven_bits(quantised):
    for codes, _, zero in weights_of(quantised[1]).values():
        assert codes.data_type == TensorProto.INT8
        values = onnx.numpy_helper.to_array(codes)
        assert 60 <= np.abs(values.astype(int)).max() <= 64  # AVX2 adds pairs of products in 16 bits
        assert not onnx.numpy_helper.to_array(zero).any()


def test_int8_weights_have_one_scale_per_column(quantised):
    for codes, scale, _ in weights_of(quantised[1]).values():
        scales = onnx.numpy_helper.to_array(scale)
        assert scales.shape == (codes.dims[1],)
        assert codes.dims[1] == 1 or len(set(scales.tolist())) > codes.dims[1] // 2


def test_int8_leaves_word_vectors_and_attention_in_floats(quantised):
    graph = onnx.load(str(quantised[1])).graph
    kinds = {one.name: one.data_type for one in graph.initializer}
    assert kinds["word_table"] == kinds["position_table"] == TensorProto.FLOAT
    assert [node.name for node in graph.node if node.op_type == "MatMul"] == [
        f"layer{i}.{product}" for i in (0, 1) for product in ("products", "context")
    ]


def test_int8_is_made_of_the_edited_graph(quantised):
    path, int8 = quantised
    assert int8.name == "one-row.int8.onnx"
    assert 1 in rows_of_products(int8)
    assert 1 not in rows_of_products(path)


def test_int8_of_a_graph_that_cannot_be_edited_is_made_of_that(tmp_path, cache):
    path = save_graph(bert(head="mean", focus=0.2), tmp_path)
    int8 = made(path, cache, "int8")
    assert int8.path.name == "all-rows.int8.onnx"
    assert int8.layers == made(path, cache).layers
    assert difference(path, int8.path) < 0.3


def test_int8_of_a_graph_with_its_weights_beside_it_is_made(tmp_path, cache):
    path = save_outside(bert(focus=0.2), tmp_path / "model.onnx")
    assert difference(path, made(path, cache, "int8").path) < 0.3


def test_int8_drifts_little_and_does_drift(quantised):
    plain, int8 = (np.concatenate([one[0][:, 0] for one in outputs_of(path)]) for path in quantised)
    assert 0 < np.abs(int8 - plain).mean() < 0.2 * plain.std()
    assert np.corrcoef(int8, plain)[0, 1] > 0.97


def test_int8_is_made_without_a_word_and_without_a_handler_on_the_root_logger(path, cache):
    # In a process of its own: pytest's handlers are there already, and what sets up the root logger does so where it has none.
    code = (
        "import logging, pathlib; from rerankx.engines.prepare import prepare;"
        f"prepare(pathlib.Path({str(path)!r}), precision='int8', cache_dir={str(cache)!r}); print(logging.root.handlers)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


# What the reader of an image, and a small machine, need


def test_what_is_kept_may_be_read_by_others(path, cache):
    for precision in ("fp32", "int8"):
        prepared = made(path, cache, precision)
        assert prepared.path.stat().st_mode & 0o044 == 0o044
    assert prepared.path.with_name("one-row.json").stat().st_mode & 0o044 == 0o044


def test_an_edit_that_killed_the_process_is_not_tried_at_every_start(path, cache):
    kept = made(path, cache).path.parent
    for file in kept.iterdir():
        file.unlink()
    (kept / f"begun.{os.getpid()}.of-a-container-before").touch()
    prepared = made(path, cache)
    assert prepared.path == path
    assert f"To try again delete {kept}" in prepared.layers


def test_a_file_of_the_cache_that_is_damaged_is_not_made_into_one_that_is_kept(path, cache, tmp_path, monkeypatch):
    monkeypatch.setattr("rerankx.engines.prepare.digest", lambda path: "0" * 64)  # as a blob's name says
    with pytest.raises(ModelNotFoundError, match=r"is damaged.*delete it, and run again"):
        made(path, cache)


def test_a_short_pair_of_one_caller_does_not_spoil_the_graph_of_the_next(tmp_path):
    folder = save_model(tmp_path / "m")
    cache = str(tmp_path / "cache")
    files = ModelFiles(folder)
    OnnxEngine(files, max_tokens=8, cache_dir=cache)
    engine = OnnxEngine(files, cache_dir=cache)
    assert engine.describe()["last_layer"].startswith("first row")
    assert engine.logits("a refund", ["ten days " * 150]).tokens > 200
