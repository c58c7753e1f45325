"""`rerankx models`, `download` and `verify`, with real models from a hub on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("onnx", reason="needs the package onnx, by which these tests write their models")

import numpy as np
from tokenizers import Tokenizer

sys.path.insert(0, str(Path(__file__).parent / "engines"))

from graph_stage import bert, logits_of, save_graph, without
from hub_stage import HubStage
from torch_stage import word_piece

from rerankx import BackendError, Reranker
from rerankx.backends.cross_encoder import CrossEncoder
from rerankx.backends.flashrank import REPOSITORY
from rerankx.catalogue import CROSS_ENCODERS, EMBEDDED, FLASHRANK, Golden
from rerankx.cli import main
from rerankx.cli.models import backend_of, table, verify
from rerankx.registry import BUILT_IN

LOCAL = [name for name, entry in BUILT_IN.items() if "httpx" not in entry.requires]

MODEL = "org/model"
TOKEN = "hf_secretsecretsecret"
QUERY, TEXTS = "how long does a refund take", ("A refund takes five days.", "The museum opens on Sundays.")
CARD = replace(CROSS_ENCODERS["cross-encoder/ms-marco-MiniLM-L6-v2"], model=MODEL, golden=None)
NEEDED = {"config.json", "tokenizer.json", "tokenizer_config.json", "onnx/model.onnx"}
BESIDE = {
    "pytorch_model.bin": b"\0" * 100,
    "model.safetensors": b"\0" * 100,
    "README.md": b"#",
    "onnx/model_O3.onnx": b"\0",
}


@pytest.fixture(autouse=True)
def _network_only_when_asked(request):
    if request.node.get_closest_marker("network") and "network" not in request.config.option.markexpr:
        pytest.skip("needs the internet; run with -m network")


def save(folder, *, seed=0, **options):
    """Save a whole cross-encoder and return the folder."""
    save_graph(bert(seed=seed, width=16, **options), folder, "onnx/model.onnx")
    word_piece().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 512}')
    (folder / "config.json").write_text(
        '{"model_type": "bert", "max_position_embeddings": 512, "id2label": {"0": "x"}}'
    )
    return folder


def files_of(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def logits(folder, query=QUERY, texts=TEXTS):
    """Return what the plain graph gives for what the tokenizer makes of query and text."""
    tokenizer, values = Tokenizer.from_file(str(folder / "tokenizer.json")), []
    for text in texts:
        pair = tokenizer.encode(query, text)
        rows = {"input_ids": pair.ids, "token_type_ids": pair.type_ids, "attention_mask": pair.attention_mask}
        feed = {name: np.array([row]) for name, row in rows.items()}
        values.append(float(logits_of(folder / "onnx/model.onnx", [feed])[0][0, 0]))
    return tuple(values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save(tmp_path_factory.mktemp("other"), seed=1)


@contextmanager
def in_process(hub, home):
    """Make this process take it for the hub, and keep all that is fetched and made under `home`."""
    from huggingface_hub import constants

    with hub.in_process(home), pytest.MonkeyPatch.context() as patch:
        patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
        yield


@pytest.fixture
def hub(folder, tmp_path):
    with HubStage() as stage, in_process(stage, tmp_path / "home"):
        stage.commit = stage.add(MODEL, "main", {**files_of(folder), **BESIDE}, lfs=["onnx/model.onnx", *BESIDE])
        yield stage


@pytest.fixture
def golden(folder, monkeypatch):
    """Put the model into the catalogue, with its own logits moved by so much; return how to."""

    def publish(*, moved=0.0, tolerance=1e-3):
        values = logits(folder)
        published = (values[0], values[1] + moved)
        card = replace(CARD, golden=Golden(QUERY, TEXTS, published, tolerance, "https://example.org/printed"))
        monkeypatch.setitem(CROSS_ENCODERS, MODEL, card)
        return values

    return publish


def facts(out):
    """Return what `rerankx download` printed, as name -> value."""
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def asked_files(hub):
    return {request.path.split("/", 5)[5] for request in hub.asked(path="/resolve/", host="hub")}


def scores(**options):
    return CrossEncoder(MODEL, **options).score(QUERY, TEXTS).values


# models


def test_every_model_of_the_catalogue_is_listed_once(capsys):
    assert main(["models"]) == 0
    first = [line.split()[0] for line in capsys.readouterr().out.splitlines() if line.strip()]
    for name in (EMBEDDED.model, *CROSS_ENCODERS, *(f"flashrank:{name}" for name in FLASHRANK)):
        assert first.count(name) == 1, name


def test_what_may_not_be_used_commercially_is_shown_as_such_and_nothing_else(capsys):
    assert main(["models"]) == 0
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if "(non-commercial)" in line}
    cards = (*CROSS_ENCODERS.values(), *FLASHRANK.values())
    assert shown == {card.model for card in cards if not card.commercial_use} != set()


def test_a_line_has_size_length_licence_languages_engine_and_figure():
    lines = {line.split()[0]: line for line in table().splitlines() if line.strip()}
    assert re.search(
        r"\(minilm\) +91 +512 +Apache-2.0 +English +onnx +0\.743$", lines["cross-encoder/ms-marco-MiniLM-L6-v2"]
    )
    assert re.search(r" 8192 .* sentence-transformers +-$", lines["BAAI/bge-reranker-v2-m3"])
    assert re.search(r" 150 +512 +CC-BY-SA +Over 100 languages +onnx +-$", lines["flashrank:ms-marco-MultiBERT-L-12"])


def test_every_alias_is_shown_at_its_model():
    lines = table().splitlines()
    for name, entry in BUILT_IN.items():
        if entry.model:
            assert [line for line in lines if line.startswith(f"{entry.model} ({name})")], name


def test_a_row_is_a_line_without_spaces_at_its_end():
    lines = table().splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert len(lines) == 1 + 1 + len(CROSS_ENCODERS) + len(FLASHRANK) + 3


@pytest.mark.parametrize("name", [*CROSS_ENCODERS, *(f"flashrank:{name}" for name in FLASHRANK), *LOCAL])
def test_what_is_listed_is_what_the_other_commands_take(name):
    assert backend_of(name, {}).model == (
        name.removeprefix("flashrank:") if ":" in name else backend_of(name, {}).model
    )
    if name in CROSS_ENCODERS:
        assert (backend_of(name, {}).name, backend_of(name, {}).model) == ("cross-encoder", name)


def test_a_reader_that_stops_early_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-m", "rerankx.cli", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.close()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")


def test_a_pipe_in_a_narrow_encoding_gets_the_table_without_a_heavy_import():
    code = (
        "import sys; from rerankx.cli import main; status = main(['models']);"
        "heavy = {'torch', 'transformers', 'sentence_transformers', 'huggingface_hub', 'onnxruntime', 'flashrank'};"
        "sys.exit(status or ', '.join(heavy & set(sys.modules)) or 0)"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "COLUMNS": "20"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, env=env, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"Qwen/Qwen3-Reranker-4B" in done.stdout


@pytest.mark.parametrize("command", ["models", "download", "verify"])
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        main([command, "--help"])
    assert exit_.value.code == 0
    assert f"usage: rerankx {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "argv", [["models", "x"], ["download"], ["verify"], ["download", "a", "b"], ["verify", "a", "--rev"]]
)
def test_wrong_arguments_exit_with_2(argv, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(argv)
    assert exit_.value.code == 2
    assert "usage: rerankx" in capsys.readouterr().err


# download


def test_download_fetches_what_is_needed_prepares_it_and_says_what_there_is(hub, folder, tmp_path, capsys):
    assert main(["download", MODEL]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    said = facts(printed.out)
    assert (said["model"], said["revision"], said["engine"]) == (MODEL, hub.commit, "onnx")
    assert said["last_layer"].startswith("first row")
    assert Path(said["graph"]).is_file()
    assert tmp_path / "home" / "assets" in Path(said["graph"]).parents
    assert asked_files(hub) - NEEDED <= {"config_sentence_transformers.json"}
    assert len(hub.asked("GET", host="storage")) == 1


def test_after_a_download_scoring_asks_nothing_and_makes_nothing(hub, folder, tmp_path, capsys):
    assert main(["download", MODEL]) == 0
    hub.requests.clear()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with without("onnx"):
        assert scores() == pytest.approx(logits(folder), abs=1e-5)
    assert hub.requests == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", [f"cross-encoder:{MODEL}", MODEL])
@pytest.mark.parametrize("option", ["precision=int8", 'precision="int8"'])
def test_int8_is_made_ahead(name, option, hub, folder, capsys):
    assert main(["download", name, "--option", option]) == 0
    assert facts(capsys.readouterr().out)["precision"] == "int8"
    hub.requests.clear()
    with without("onnx"):
        assert scores(precision="int8", local_files_only=True) == pytest.approx(logits(folder), abs=0.2)
        assert scores(precision="int8") != scores()
    assert hub.requests == []


def test_an_alias_is_downloaded_by_its_name(hub, folder, capsys):
    hub.add("cross-encoder/ms-marco-MiniLM-L6-v2", "main", files_of(folder))
    assert main(["download", "minilm"]) == 0
    assert facts(capsys.readouterr().out)["model"] == "cross-encoder/ms-marco-MiniLM-L6-v2"
    assert main(["download", "cross-encoder"]) == 0


def test_a_folder_is_prepared_where_one_says(folder, tmp_path, capsys):
    kept = tmp_path / "kept"
    assert main(["download", str(folder), "--option", f"cache_dir={kept}"]) == 0
    said = facts(capsys.readouterr().out)
    assert (said["model"], said["revision"]) == (str(folder), "None")
    assert kept in Path(said["graph"]).parents


def test_cache_dir_is_where_everything_is_kept(hub, tmp_path, capsys):
    assert main(["download", MODEL, "--option", f"cache_dir={tmp_path / 'kept'}"]) == 0
    assert not (tmp_path / "home").exists()
    assert scores(cache_dir=tmp_path / "kept", local_files_only=True)


@pytest.mark.parametrize("by", ["--revision", "--option"])
def test_a_revision_may_be_asked_for(by, hub, folder, other, capsys):
    tag = hub.add(MODEL, "v2", files_of(other))
    hub.repositories[MODEL].branches["main"] = hub.commit
    argv = ["--revision", "v2"] if by == "--revision" else ["--option", "revision=v2"]
    assert main(["download", MODEL, *argv]) == 0
    assert facts(capsys.readouterr().out)["revision"] == tag
    assert scores(revision="v2", local_files_only=True) == pytest.approx(logits(other), abs=1e-5)
    assert main(["download", MODEL, "--revision", hub.commit]) == 0
    assert scores(revision=hub.commit, local_files_only=True) == pytest.approx(logits(folder), abs=1e-5)


def test_a_revision_that_there_is_not_exits_with_1(hub, capsys):
    assert main(["download", MODEL, "--revision", "v9"]) == 1
    assert f"no revision 'v9' of '{MODEL}'" in capsys.readouterr().err


def test_download_takes_the_newest_commit(hub, folder, other, capsys):
    assert main(["download", MODEL]) == 0
    newest = hub.add(MODEL, "main", files_of(other))
    assert scores() == pytest.approx(logits(folder), abs=1e-5)
    capsys.readouterr()
    assert main(["download", MODEL]) == 0
    assert facts(capsys.readouterr().out)["revision"] == newest
    hub.requests.clear()
    assert scores(local_files_only=True) == pytest.approx(logits(other), abs=1e-5)
    assert hub.requests == []


def test_download_asks_little_where_nothing_is_new(hub, capsys):
    assert main(["download", MODEL]) == 0
    hub.requests.clear()
    assert main(["download", MODEL]) == 0
    assert [request.path for request in hub.requests] == [f"/api/models/{MODEL}/revision/main"]


def test_a_download_that_breaks_off_leaves_the_version_that_was_there(hub, folder, other, capsys):
    assert main(["download", MODEL]) == 0
    hub.add(MODEL, "main", {name: content for name, content in files_of(other).items() if name != "tokenizer.json"})
    assert main(["download", MODEL]) == 1
    assert "no tokenizer.json" in capsys.readouterr().err
    assert scores(local_files_only=True) == pytest.approx(logits(folder), abs=1e-5)


@pytest.mark.parametrize("command", ["download", "verify"])
def test_a_model_that_there_is_not_exits_with_1(command, hub, golden, capsys):
    golden()
    hub.repositories.clear()
    assert main([command, MODEL]) == 1
    printed = capsys.readouterr()
    assert f"no model '{MODEL}', or it is private" in printed.err
    assert printed.out == ""
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("token", [None, TOKEN])
@pytest.mark.parametrize("command", ["download", "verify"])
def test_a_private_model_exits_with_1_and_shows_no_token(
    command, token, hub, folder, golden, monkeypatch, capsys, caplog
):
    golden()
    hub.add(MODEL, "main", files_of(folder), token="hf_theright_secretsecret")
    if token is not None:
        monkeypatch.setenv("HF_TOKEN", token)
    assert main([command, MODEL]) == 1
    printed = capsys.readouterr()
    assert "HF_TOKEN" in printed.err
    assert "hf auth login" in printed.err
    assert "secret" not in printed.out + printed.err + caplog.text
    monkeypatch.setenv("HF_TOKEN", "hf_theright_secretsecret")
    assert main([command, MODEL]) == 0
    printed = capsys.readouterr()
    assert "secret" not in printed.out + printed.err + caplog.text


def test_a_gated_model_exits_with_1_and_says_where_its_licence_is(hub, folder, capsys):
    hub.add(MODEL, "main", files_of(folder), gated=True)
    assert main(["download", MODEL]) == 1
    assert f"accept its licence at {hub.url}/{MODEL}" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["environment", "option"])
def test_offline_nothing_is_downloaded_and_one_is_told_why(by, hub, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", by == "environment")
    argv = ["--option", "local_files_only=true"] if by == "option" else []
    assert main(["download", MODEL, *argv]) == 1
    assert "must not be asked" in capsys.readouterr().err
    assert hub.requests == []


def test_a_hub_that_is_out_of_order_exits_with_1(hub, capsys):
    hub.status = 500
    assert main(["download", MODEL]) == 1
    assert "status 500" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["embedded"], "backend 'embedded' has nothing to download"),
        (["minilm", "--option", "precison=int8"], "did you mean 'precision'?"),
        (["minilm", "--option", "precision=int4"], "precision must be one of"),
        (["minilm", "--option", "precision"], "--option takes NAME=VALUE"),
        (["minilm", "--option", "max_tokens=many"], "max_tokens must be a whole number"),
        (["cross-encoder:"], "names no model after the colon"),
        ([f"cross-encoder:{MODEL}", "--option", "model=other"], "two models"),
        ([f"flashrank:{next(iter(FLASHRANK))}", "--revision", "main"], "no option 'revision'"),
        (["minilm", "--option", "cache_dir=7"], "not int"),
        (["minilm", "--option", "revision=2024"], "revision"),
    ],
)  # fmt: skip
def test_wrong_options_are_named_and_exit_with_2(argv, message, hub, capsys):
    assert main(["download", *argv]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert hub.requests == []


def test_more_tokens_than_the_model_reads_are_named_and_exit_with_2(hub, capsys):
    assert main(["download", MODEL, "--option", "max_tokens=600"]) == 2
    assert "pairs of up to 512 tokens; max_tokens is 600" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["download", "verify"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", "is no folder here"),
        ("a b", "neither a folder nor a repository"),
        ("flashrank:ms-marco-TinyBERT", "did you mean"),
    ],
)
def test_what_is_no_model_exits_with_1(command, name, message, hub, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([command, name]) == 1
    assert message in capsys.readouterr().err


def test_a_classifier_of_three_labels_is_refused_before_its_graph_is_fetched(hub, folder, capsys):
    config = json.dumps({"id2label": {"0": "contradiction", "1": "neutral", "2": "entailment"}})
    hub.add(MODEL, "main", {**files_of(folder), "config.json": config.encode()})
    assert main(["download", MODEL]) == 1
    assert "3 labels (contradiction, neutral, entailment)" in capsys.readouterr().err
    assert hub.asked(host="storage") == []


def test_flashranks_models_are_downloaded_by_its_names(hub, folder, tmp_path, capsys):
    name, card = next(iter(FLASHRANK.items()))
    inner = tmp_path / "zip" / name
    shutil.copytree(folder, inner)
    (inner / "onnx" / "model.onnx").rename(inner / card.onnx_file)
    shutil.make_archive(str(tmp_path / name), "zip", tmp_path / "zip")
    hub.add(REPOSITORY, "main", {f"{name}.zip": (tmp_path / f"{name}.zip").read_bytes()})
    assert main(["download", "flashrank"]) == 0
    assert facts(capsys.readouterr().out)["model"] == name
    hub.requests.clear()
    assert Reranker("flashrank").rerank(QUERY, TEXTS)[0].raw_score is not None
    assert hub.requests == []


def test_an_image_is_filled_by_one_process_and_used_by_another_without_the_hub(folder, tmp_path):
    with HubStage() as hub:
        hub.add(MODEL, "main", files_of(folder), lfs=["onnx/model.onnx"])
        environment = hub.environment(tmp_path / "home")
        argv = [sys.executable, "-W", "error", "-m", "rerankx.cli"]
        done = subprocess.run([*argv, "download", MODEL], env=environment, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
        assert facts(done.stdout)["last_layer"].startswith("first row")
    done = subprocess.run(
        [*argv, "rerank", QUERY, "--backend", f"cross-encoder:{MODEL}"],
        env=environment, capture_output=True, text=True, timeout=60, input="\n".join(TEXTS),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = sorted((json.loads(line) for line in done.stdout.splitlines()), key=lambda row: row["index"])
    assert [row["raw_score"] for row in rows] == pytest.approx(logits(folder), abs=1e-5)


# verify


def test_the_published_logits_are_confirmed_with_the_numbers(hub, golden, capsys):
    values = golden()
    assert main(["verify", MODEL]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    for text, value in zip(TEXTS, values, strict=True):
        assert re.search(rf"{value:.5f} +{value:.5f} +0\.0000\d  {re.escape(text)}", printed.out)
    assert "tolerance 0.001" in printed.out
    assert "https://example.org/printed" in printed.out
    assert QUERY in printed.out


@pytest.mark.parametrize("moved", [0.01, -0.01, 3.0])
def test_other_logits_exit_with_1_and_the_numbers(moved, hub, golden, capsys):
    values = golden(moved=moved)
    assert main(["verify", MODEL]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.search(rf"{values[1] + moved:.5f} +{values[1]:.5f} +{abs(moved):.5f}", printed.err)
    assert f"largest difference {abs(moved):.2g}, tolerance 0.001" in printed.err
    assert "differ from the published ones" in printed.err


@pytest.mark.parametrize(("moved", "status"), [(0.049, 0), (0.051, 1), (-0.051, 1)])
def test_a_difference_is_judged_by_the_cards_tolerance(moved, status, hub, golden, capsys):
    golden(moved=moved, tolerance=0.05)
    assert main(["verify", MODEL]) == status


def test_a_difference_in_the_first_logit_alone_counts_too(hub, golden, monkeypatch, capsys):
    golden()
    card = CROSS_ENCODERS[MODEL]
    first, *rest = card.golden.logits
    monkeypatch.setitem(CROSS_ENCODERS, MODEL, replace(card, golden=replace(card.golden, logits=(first + 0.01, *rest))))
    assert main(["verify", MODEL]) == 1


def test_scores_that_are_swapped_are_no_match(hub, golden, monkeypatch, capsys):
    golden()
    card = CROSS_ENCODERS[MODEL]
    swapped = replace(card.golden, logits=card.golden.logits[::-1], tolerance=1e-5)
    monkeypatch.setitem(CROSS_ENCODERS, MODEL, replace(card, golden=swapped))
    assert main(["verify", MODEL]) == 1


def test_options_and_revision_are_those_that_are_verified(hub, other, golden, capsys):
    golden()
    hub.add(MODEL, "v2", files_of(other))
    assert main(["verify", MODEL, "--revision", "v2"]) == 1
    assert main(["verify", MODEL, "--revision", hub.commit, "--option", "max_tokens=64"]) == 0
    assert main(["verify", f"cross-encoder:{MODEL}", "--revision", hub.commit]) == 0


def test_a_model_that_does_not_run_is_no_confirmation(hub, folder, golden, capsys):
    golden()
    hub.add(MODEL, "main", {**files_of(folder), "onnx/model.onnx": b"\x08\x08"})
    assert main(["verify", MODEL]) == 1
    assert "is no ONNX graph" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", [MODEL, "embedded", f"flashrank:{next(iter(FLASHRANK))}", "cross-encoder/ms-marco-MiniLM-L2-v2", "mxbai"]
)
def test_a_model_of_which_nothing_is_published_exits_with_2_and_names_those_of_which_something_is(name, hub, capsys):
    assert main(["verify", name]) == 2
    printed = capsys.readouterr()
    assert "no published logits" in printed.err
    known = printed.err.rpartition("there are some of ")[2].strip().split(", ")
    assert known == [card.model for card in CROSS_ENCODERS.values() if card.golden is not None]
    assert hub.requests == []


def test_a_folder_has_no_published_logits(folder, capsys):
    assert main(["verify", str(folder)]) == 2
    assert f"no published logits of '{folder}'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["minilm", "--option", "engin=onnx"], "did you mean 'engine'?"),
        (["embedded", "--revision", "main"], "no option 'revision'"),
        (["minilm", "--option", "x"], "--option takes NAME=VALUE"),
    ],
)
def test_verify_names_wrong_options_and_exits_with_2(argv, message, hub, capsys):
    assert main(["verify", *argv]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "rerank"])
def test_more_tokens_than_the_model_reads_are_named_by_every_command(command, hub, golden, capsys, tmp_path):
    golden()
    (tmp_path / "texts").write_text("a\n")
    texts, backend = str(tmp_path / "texts"), f"cross-encoder:{MODEL}"
    argv = ["verify", MODEL] if command == "verify" else ["rerank", "q", "--file", texts, "--backend", backend]
    assert main([*argv, "--option", "max_tokens=600"]) == 2
    assert "max_tokens is 600" in capsys.readouterr().err


def test_verify_runs_as_a_process(folder, tmp_path):
    with HubStage() as hub:
        name = "cross-encoder/ms-marco-MiniLM-L6-v2"
        hub.add(name, "main", files_of(folder))
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "rerankx.cli", "verify", "minilm"],
            env=hub.environment(tmp_path), capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 1  # it is not that model
    assert re.search(r"8\.50071 +-?\d+\.\d{5} +\d+\.\d{5}  Paris is the capital of France\.", done.stderr)
    assert "Traceback" not in done.stderr


# The hub itself


WITH_GOLDEN = [card.model for card in CROSS_ENCODERS.values() if card.golden is not None and card.onnx_file is not None]


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("model", WITH_GOLDEN)
def test_a_models_logits_are_the_published_ones(model, tmp_path):
    try:
        said = verify(model, {"cache_dir": str(tmp_path)})
    finally:
        shutil.rmtree(tmp_path)  # up to a gigabyte each
    assert "largest difference" in said


@pytest.mark.network
@pytest.mark.slow
def test_another_models_logits_would_not_pass(tmp_path, monkeypatch):
    small, large = (CROSS_ENCODERS[f"cross-encoder/ms-marco-MiniLM-{size}-v2"] for size in ("L6", "L12"))
    monkeypatch.setitem(CROSS_ENCODERS, small.model, replace(small, golden=large.golden))
    with pytest.raises(BackendError, match="differ"):
        verify(small.model, {"cache_dir": str(tmp_path)})


@pytest.mark.network
@pytest.mark.parametrize("card", CROSS_ENCODERS.values(), ids=lambda card: card.model)
def test_a_repository_has_the_files_that_its_card_names(card):
    from huggingface_hub import HfApi

    files = set(HfApi().list_repo_files(card.model))
    assert {"config.json", "tokenizer.json"} <= files
    if card.onnx_file is not None:
        assert card.onnx_file in files
    else:
        assert {"model.safetensors", "model.safetensors.index.json"} & files
        assert not {"onnx/model.onnx", "model.onnx"} & files  # or the card should name it


@pytest.mark.network
def test_the_repository_of_flashrank_has_the_zips_that_the_cards_name():
    from huggingface_hub import HfApi

    assert {f"{name}.zip" for name in FLASHRANK} <= set(HfApi().list_repo_files(REPOSITORY))
