"""A model's files, from folders and from a hub on loopback, by the real huggingface_hub."""

import hashlib
import http.client
import json
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from hub_stage import HubStage

from rerankx import ModelNotFoundError
from rerankx.engines.files import ModelFiles, digest, external_data

MODEL = "org/model"
WEIGHTS = bytes(range(256)) * 4096
FILES = {"config.json": b'{"num_labels": 1}', "tokenizer.json": b"{}", "onnx/model.onnx": WEIGHTS}
LFS = ("onnx/model.onnx",)
TOKEN = "hf_secretsecretsecret"


@pytest.fixture
def hub(tmp_path):
    with HubStage() as stage, stage.in_process(tmp_path / "home"):
        yield stage


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


def commit_of(path):
    return path.parts[path.parts.index("snapshots") + 1]


def error_of(call, *args, **kwargs):
    with pytest.raises(ModelNotFoundError) as caught:
        call(*args, **kwargs)
    return caught.value


# Folders


def test_a_folder_is_used_as_it_is(tmp_path, hub):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/model.onnx").write_bytes(b"")
    (tmp_path / "config.json").write_text('{"a": 1}')
    files = ModelFiles(str(tmp_path))
    assert files.folder == tmp_path
    assert files.find("model.onnx", "onnx/model.onnx") == tmp_path / "onnx/model.onnx"
    assert files.json("config.json") == {"a": 1}
    assert files.json("other.json") == {}
    assert files.find("other.json", "onnx") is None
    assert files.revision is None
    with files.refresh():
        assert files.get("config.json", what="configuration") == tmp_path / "config.json"
    message = str(error_of(files.get, "a.onnx", "b.onnx", what="ONNX file"))
    assert message == f"the folder {str(tmp_path)!r} has no ONNX file; looked for a.onnx and b.onnx"
    assert hub.requests == []


def test_a_folder_may_be_named_in_any_way(tmp_path, monkeypatch):
    (tmp_path / "org/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for model in ("org/model", "./org/model", "~/org/model", "org/model/", Path("org/model"), tmp_path / "org/model"):
        assert ModelFiles(model).folder == tmp_path / "org/model"


def test_a_folder_stays_the_same_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/config.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    files = ModelFiles("here")
    monkeypatch.chdir("/")
    assert files.find("config.json") == tmp_path / "here/config.json"


@pytest.mark.parametrize(
    "model", ["/no/where", "./model", "../model", "~/model", "~model", "a/b/c", "C:\\models\\x", "C:/models", "a\\b"]
)  # fmt: skip
def test_what_looks_like_a_path_and_is_no_folder_is_said_to_be_so(model, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert str(error_of(ModelFiles, model)) == f"{model!r} is no folder here"


def test_a_path_object_is_never_a_repository():
    assert "is no folder here" in str(error_of(ModelFiles, Path("org/model")))


def test_a_file_is_no_folder(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"")
    assert "is a file; pass the folder that holds it" in str(error_of(ModelFiles, path))


@pytest.mark.parametrize(
    "model", ["", " ", "-a/b", "a b", "org/mo--del", "org/..x", "org/x.git", "a/", "org/ümläut!", "x" * 97]
)
def test_what_is_no_id_is_refused(model):
    message = str(error_of(ModelFiles, model))
    assert message.startswith(f"{model!r} is neither a folder nor a repository's id ('name' or 'owner/name'")


@pytest.mark.parametrize("model", ["org/model", "bert-base-uncased", "a_b/c.d-e", "x" * 96])
def test_ids_are_taken(model):
    assert ModelFiles(model).folder is None


@pytest.mark.parametrize("revision", ["", "../x", "/x", "a\\b"])
def test_what_is_no_revision_is_refused(revision):
    assert "no branch, tag or commit" in str(error_of(ModelFiles, MODEL, revision=revision))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\\b", "C:x", ""])
def test_names_that_lead_out_are_refused(name, tmp_path):
    for model in (str(tmp_path), MODEL):
        assert "inside the model's folder" in str(error_of(ModelFiles(model).find, name))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "cannot be read as JSON"),
        (b"\xff", "cannot be read as JSON"),
        (b"[" * 99999, "cannot be read as JSON"),
        (b"[1]", "holds a list"),
    ],
    ids=["cut", "no-text", "deep", "list"],
)
def test_a_broken_json_file_is_an_error(content, said, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    assert said in str(error_of(ModelFiles(tmp_path).json, "config.json"))


def test_files_pickle_as_their_arguments(tmp_path):
    files = ModelFiles(MODEL, revision="v1", cache_dir=tmp_path, local_files_only=True)
    again = pickle.loads(pickle.dumps(files))
    assert again.__reduce__()[0].keywords == files.__reduce__()[0].keywords
    assert again.__reduce__()[0].keywords == {
        "revision": "v1", "cache_dir": str(tmp_path), "local_files_only": True, "name": None,
    }  # fmt: skip
    assert repr(again) == "<ModelFiles org/model at v1>"
    assert repr(ModelFiles(tmp_path)) == f"<ModelFiles {tmp_path}>"


# The hub


def test_files_are_fetched_and_then_taken_from_the_cache(hub, home):
    commit = hub.add(MODEL, "main", FILES, lfs=LFS)
    files = ModelFiles(MODEL)
    assert files.revision is None
    path = files.get("onnx/model.onnx", "model.onnx", what="ONNX file")
    assert path.read_bytes() == WEIGHTS
    assert path == home / "hub/models--org--model/snapshots" / commit / "onnx/model.onnx"
    assert files.json("config.json") == {"num_labels": 1}
    assert files.revision == commit
    hub.requests.clear()
    assert files.find("onnx/model.onnx") == path
    again = ModelFiles(MODEL)
    assert again.find("onnx/model.onnx") == path
    assert again.json("config.json") == {"num_labels": 1}
    assert again.revision == commit
    assert hub.requests == []


def test_what_the_model_does_not_have_is_asked_once(hub):
    hub.add(MODEL, "main", FILES)
    files = ModelFiles(MODEL)
    assert files.find("model.onnx", "onnx/model.onnx").name == "model.onnx"
    assert files.find("special.json") is None
    assert len(hub.asked(path="/main/model.onnx")) == 1
    assert len(hub.asked(path="special.json")) == 1
    hub.requests.clear()
    for some in (files, ModelFiles(MODEL)):
        assert some.find("model.onnx", "onnx/model.onnx") is not None
        assert some.json("special.json") == {}
        message = str(error_of(some.get, "special.json", what="special tokens"))
        assert message == "'org/model' at revision 'main' has no special tokens; looked for special.json"
    assert hub.requests == []


def test_an_absent_file_is_asked_once_where_the_cache_cannot_say_so(hub, monkeypatch):
    hub.add(MODEL, "main", FILES)
    files = ModelFiles(MODEL)
    assert files.find("config.json") is not None
    assert files.find("none.json") is None
    for marker in (files._home() / ".no_exist").rglob("none.json"):
        marker.unlink()
    assert files.find("none.json") is None
    assert len(hub.asked(path="none.json")) == 1


@pytest.mark.parametrize("first", ["config.json", "none.json"], ids=["found", "absent"])
def test_all_files_are_of_one_commit_although_the_branch_moves(hub, first):
    old = hub.add(MODEL, "main", FILES)
    files = ModelFiles(MODEL)
    files.find(first)
    hub.add(MODEL, "main", dict.fromkeys(FILES, b"new"))
    assert files.get("tokenizer.json", what="tokenizer").read_bytes() == b"{}"
    path = ModelFiles(MODEL).get("onnx/model.onnx", what="ONNX file")  # as after a restart
    assert path.read_bytes() == WEIGHTS
    assert commit_of(path) == files.revision == old


def test_what_another_library_left_out_is_fetched_at_its_commit(hub, home):
    from huggingface_hub import hf_hub_download

    old = hub.add(MODEL, "main", FILES)
    hf_hub_download(MODEL, "config.json")
    hub.add(MODEL, "main", dict.fromkeys(FILES, b"new"))
    hub.requests.clear()
    files = ModelFiles(MODEL)
    assert files.json("config.json") == {"num_labels": 1}
    assert hub.requests == []
    assert commit_of(files.get("tokenizer.json", what="tokenizer")) == old


def test_a_reference_without_its_files_is_not_believed(hub, home):
    new = hub.add(MODEL, "main", FILES)
    for content in ("a" * 40, "nonsense", ""):
        (home / "hub/models--org--model/refs").mkdir(parents=True, exist_ok=True)
        (home / "hub/models--org--model/refs/main").write_text(content)
        assert commit_of(ModelFiles(MODEL).find("config.json")) == new


@pytest.mark.parametrize("revision", ["v1", "refs/pr/1"])
def test_another_revision_has_its_own_files(hub, revision):
    tagged = hub.add(MODEL, revision, {"config.json": b'{"tagged": true}'})
    hub.add(MODEL, "main", FILES)
    assert ModelFiles(MODEL, revision=revision).json("config.json") == {"tagged": True}
    assert ModelFiles(MODEL).json("config.json") == {"num_labels": 1}
    files = ModelFiles(MODEL, revision=tagged)
    assert files.revision == tagged
    hub.requests.clear()
    assert files.json("config.json") == ModelFiles(MODEL, revision=revision).json("config.json") == {"tagged": True}
    assert hub.requests == []


def test_refresh_takes_the_newest_commit_and_fetches_what_changed(hub):
    hub.add(MODEL, "main", FILES, lfs=LFS)
    files = ModelFiles(MODEL)
    for name in FILES:
        files.find(name)
    new = hub.add(MODEL, "main", {**FILES, "config.json": b'{"num_labels": 3}'}, lfs=LFS)
    hub.requests.clear()
    with files.refresh():
        for name in FILES:
            files.find(name)
    assert files.revision == new
    assert files.json("config.json") == {"num_labels": 3}
    assert [one.path.rpartition("/")[2] for one in hub.asked("GET", "/resolve/")] == ["config.json"]
    assert hub.asked(host="storage") == []
    hub.requests.clear()
    again = ModelFiles(MODEL)
    assert again.json("config.json") == {"num_labels": 3}
    assert again.get("onnx/model.onnx", what="ONNX file").read_bytes() == WEIGHTS
    assert hub.requests == []


def test_refresh_asks_once_where_nothing_is_new(hub):
    commit = hub.add(MODEL, "main", FILES)
    files = ModelFiles(MODEL)
    files.find("config.json")
    hub.requests.clear()
    ref = files._home() / "refs/main"
    os.utime(ref, (0, 0))
    with files.refresh():
        files.find("config.json")
    assert ref.stat().st_mtime == 0
    assert [(one.method, one.path) for one in hub.requests] == [("GET", "/api/models/org/model/revision/main")]
    with ModelFiles(MODEL, revision=commit).refresh():
        pass
    assert len(hub.requests) == 1


def test_a_refresh_that_fails_leaves_the_cache_as_it_was(hub):
    old = hub.add(MODEL, "main", FILES)
    files = ModelFiles(MODEL)
    files.find("config.json")
    hub.add(MODEL, "main", {"config.json": b"{}"})

    def refresh():
        with files.refresh():
            assert files.json("config.json") == {}
            files.get("tokenizer.json", what="tokenizer")

    assert "has no tokenizer" in str(error_of(refresh))
    for some in (files, ModelFiles(MODEL)):
        assert some.json("config.json") == {"num_labels": 1}
        assert some.revision == old


def test_threads_may_fetch_within_a_refresh(hub):
    hub.add(MODEL, "main", FILES)
    files = ModelFiles(MODEL)
    with files.refresh(), ThreadPoolExecutor(3) as pool:
        found = [done.result(timeout=30) for done in [pool.submit(files.find, name) for name in FILES]]
    assert [path.read_bytes() for path in found] == list(FILES.values())


def test_refresh_needs_the_hub(hub):
    hub.add(MODEL, "main", FILES)
    ModelFiles(MODEL).find("config.json")

    def refresh(files):
        with files.refresh():
            pass

    said = str(error_of(refresh, ModelFiles(MODEL, local_files_only=True)))
    assert "cannot look for a newer version of 'org/model'" in said
    hub.status = 503
    said = str(error_of(refresh, ModelFiles(MODEL)))
    assert said.startswith(f"the hub at {hub.url} cannot be reached (status 503) for the newest commit of 'main'")
    hub.status = None
    assert "has no model 'org/other'" in str(error_of(refresh, ModelFiles("org/other")))
    assert "has no revision 'v9'" in str(error_of(refresh, ModelFiles(MODEL, revision="v9")))


def test_a_commit_that_the_hub_has_dropped_is_said_to_be_so(hub):
    old = hub.add(MODEL, "main", FILES)
    ModelFiles(MODEL).find("config.json")
    hub.add(MODEL, "main", FILES)
    del hub.repositories[MODEL].commits[old]
    said = str(error_of(ModelFiles(MODEL).find, "tokenizer.json"))
    assert (
        f"no revision {old!r} of 'org/model', at which the cache holds 'main'; get the newest: rerankx download" in said
    )


@pytest.mark.parametrize("shared", [True, False], ids=["one-object", "eight-objects"])
def test_threads_fetch_once(hub, shared):
    hub.add(MODEL, "main", FILES, lfs=LFS)
    one = ModelFiles(MODEL)
    barrier = threading.Barrier(8)

    def fetch(_):
        files = one if shared else ModelFiles(MODEL)
        barrier.wait()
        return files.get("onnx/model.onnx", what="ONNX file"), files.json("config.json")

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(fetch, range(8)))
    assert {path for path, _ in found} == {one.find("onnx/model.onnx")}
    assert all(config == {"num_labels": 1} for _, config in found)
    assert found[0][0].read_bytes() == WEIGHTS
    assert len(hub.asked("GET", host="storage")) == 1
    assert len(hub.asked("GET", "config.json")) == 1


def test_threads_of_one_object_get_one_commit_although_the_branch_moves(hub):
    hub.add(MODEL, "main", FILES)
    never = threading.Event()

    def move(request):
        if "/resolve/main/" in request.path:
            never.wait(0.2)  # lets other threads come in between, if they can
            hub.add(MODEL, "main", FILES)

    hub.before = move
    files = ModelFiles(MODEL)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(files.find, FILES))
    assert {commit_of(path) for path in found} == {files.revision}


def test_cache_dir_is_where_files_are_kept(hub, home, tmp_path):
    hub.add(MODEL, "main", FILES)
    path = ModelFiles(MODEL, cache_dir=tmp_path / "mine").find("config.json")
    assert path.is_relative_to(tmp_path / "mine/models--org--model")
    assert not (home / "hub/models--org--model").exists()


def test_the_hub_is_told_who_asks(hub):
    hub.add(MODEL, "main", FILES)
    ModelFiles(MODEL).find("config.json")
    assert all(one.headers["user-agent"].startswith("rerankx/") for one in hub.requests)


# Connections that break


def test_a_download_that_breaks_goes_on_where_it_broke(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # the library keeps whole chunks only, of 10 MiB
    hub.add(MODEL, "main", FILES, lfs=LFS)
    hub.drop_after, hub.drops = 100_000, 2
    files = ModelFiles(MODEL)
    for _ in range(2):  # versions of the library differ in whether it goes on by itself or when run again
        with suppress(ModelNotFoundError):
            files.get("onnx/model.onnx", what="ONNX file")
    path = files.get("onnx/model.onnx", what="ONNX file")
    assert path.read_bytes() == WEIGHTS
    first, second, third = hub.asked("GET", host="storage")
    assert "range" not in first.headers
    starts = [int(one.headers["range"].removeprefix("bytes=").removesuffix("-")) for one in (second, third)]
    assert 0 < starts[0] <= 100_000
    assert starts[0] < starts[1] <= 200_000


def test_a_download_that_breaks_for_good_is_an_error_and_can_be_run_again(hub, home):
    hub.add(MODEL, "main", FILES, lfs=LFS)
    hub.drop_after = 0
    files = ModelFiles(MODEL)
    error = error_of(files.get, "onnx/model.onnx", what="ONNX file")
    assert f"the connection to the hub at {hub.url} broke while it sent onnx/model.onnx of 'org/model'" in str(error)
    assert "run it again: files that are complete are kept" in str(error)
    assert "signature" not in str(error)
    assert error.__cause__ is not None
    assert list(home.rglob("snapshots/*/onnx/model.onnx")) == []
    hub.drop_after = None
    assert files.get("onnx/model.onnx", what="ONNX file").read_bytes() == WEIGHTS


@pytest.mark.parametrize("trouble", ["status", "silent", "away"])
def test_a_hub_that_does_not_answer_is_said_to_be_so(hub, trouble, home, monkeypatch):
    from huggingface_hub import constants, file_download

    hub.add(MODEL, "main", FILES)
    files = ModelFiles(MODEL)
    files.find("config.json")
    url, how = hub.url, "status 500"
    if trouble == "status":
        hub.status = 500
    elif trouble == "silent":
        hub.silent, how = True, "Timeout"
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 0.1)
        monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.1, raising=False)
    else:
        url, how = "http://127.0.0.1:9", "Connect"
        monkeypatch.setattr(constants, "ENDPOINT", url)
        for module in (constants, file_download):
            template = url + "/{repo_id}/resolve/{revision}/{filename}"
            monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    error = error_of(files.find, "tokenizer.json")
    assert str(error).startswith(f"the hub at {url} cannot be reached (")
    assert how in str(error)
    for word in (
        "tokenizer.json of 'org/model' at revision 'main'",
        str(home),
        "HF_ENDPOINT",
        "HF_HUB_OFFLINE=1",
        "proxy",
    ):
        assert word in str(error)
    assert error.__cause__ is not None
    # What the cache holds is used all the same: also where a better file cannot be asked for.
    hub.requests.clear()
    assert ModelFiles(MODEL).find("best.json", "better.json", "config.json").name == "config.json"
    assert hub.asked(path="better.json") == []


def test_no_password_of_a_mirror_is_shown(hub, monkeypatch):
    from huggingface_hub import constants

    hub.status = 500
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.replace("//", "//user:pass@"))
    said = str(error_of(ModelFiles(MODEL).find, "config.json"))
    assert hub.url in said
    assert "pass@" not in said


def test_a_cache_that_cannot_be_written_is_named(hub, tmp_path):
    hub.add(MODEL, "main", FILES)
    blocked = tmp_path / "cache"
    blocked.write_text("a file")
    error = error_of(ModelFiles(MODEL, cache_dir=blocked / "hub").find, "config.json")
    assert str(error).startswith(
        f"the cache {blocked / 'hub'} cannot keep config.json of 'org/model': Not a directory;"
    )
    assert isinstance(error.__cause__, OSError)


# Rights


def test_no_such_model_and_no_such_revision(hub):
    hub.add(MODEL, "main", FILES)
    said = str(error_of(ModelFiles("org/other").find, "config.json"))
    assert said.startswith(f"the hub at {hub.url} has no model 'org/other', or it is private")
    assert "`hf auth login` or set HF_TOKEN" in said
    said = str(error_of(ModelFiles(MODEL, revision="v9").find, "config.json"))
    assert said == f"the hub at {hub.url} has no revision 'v9' of 'org/model'"


def test_a_gated_model_is_said_to_be_so(hub):
    hub.add(MODEL, "main", FILES, gated=True)
    said = str(error_of(ModelFiles(MODEL).find, "config.json"))
    assert said == (
        f"'org/model' is gated: accept its licence at {hub.url}/org/model, then log in with `hf auth login` or set HF_TOKEN"
    )


def test_a_private_model_is_read_with_the_token_which_the_storage_never_sees(hub, monkeypatch, caplog):
    hub.add(MODEL, "main", FILES, lfs=LFS, token=TOKEN)
    assert "or it is private" in str(error_of(ModelFiles(MODEL).find, "config.json"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    files = ModelFiles(MODEL)
    assert files.get("onnx/model.onnx", what="ONNX file").read_bytes() == WEIGHTS
    assert all(one.headers["authorization"] == f"Bearer {TOKEN}" for one in hub.asked(path="onnx/model.onnx"))
    assert hub.asked("GET", host="storage") != []
    assert all("authorization" not in one.headers for one in hub.asked(host="storage"))
    hub.drop_after = 0
    hub.repositories[MODEL].commits[files.revision]["onnx/model.onnx_data"] = b"more"
    hub.repositories[MODEL].lfs |= {"onnx/model.onnx_data"}
    errors = [error_of(files.find, "onnx/model.onnx_data"), error_of(ModelFiles("org/other").find, "config.json")]
    assert TOKEN not in " ".join(map(str, [*errors, repr(files), caplog.text]))


def test_a_token_that_is_not_valid_is_said_to_be_so(hub, monkeypatch):
    hub.status = 403
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said = str(error_of(ModelFiles(MODEL).find, "config.json"))
    assert TOKEN not in said
    assert "status 403" in said


# Offline


@pytest.mark.parametrize("by", ["argument", "setting"])
def test_offline_takes_what_the_cache_holds(hub, home, monkeypatch, by):
    from huggingface_hub import constants, hf_hub_download

    commit = hub.add(MODEL, "main", FILES)
    hf_hub_download(MODEL, "config.json")
    hub.requests.clear()
    if by == "setting":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    why = "HF_HUB_OFFLINE is set" if by == "setting" else "local_files_only=True"
    files = ModelFiles(MODEL, local_files_only=by == "argument")
    assert files.find("better.json", "config.json").read_bytes() == FILES["config.json"]
    assert files.revision == commit
    assert files.json("special.json") == {}
    cache = (home / "hub").resolve()
    assert str(error_of(files.get, "model.onnx", "onnx/model.onnx", what="ONNX file")) == (
        f"what is needed of 'org/model' is not in the cache, and the hub must not be asked ({why}):"
        " looked for model.onnx and onnx/model.onnx"
        f" at revision 'main' in {cache}/models--org--model. On a machine with network run `rerankx download org/model` and"
        f" copy its folder models--org--model into {cache}, or pass a local folder"
    )
    other = ModelFiles("org/other", revision="v1", local_files_only=by == "argument")
    for call in (other.find, other.json):
        assert "`rerankx download org/other --revision v1`" in str(error_of(call, "config.json"))
    assert hub.requests == []


def test_a_copied_folder_works_offline(hub, home, tmp_path):
    import shutil

    hub.add(MODEL, "main", FILES, lfs=LFS)
    ModelFiles(MODEL).get("model.onnx", "onnx/model.onnx", what="ONNX file")
    hub.requests.clear()
    shutil.copytree(home / "hub/models--org--model", tmp_path / "usb/models--org--model", symlinks=True)
    files = ModelFiles(MODEL, cache_dir=tmp_path / "usb", local_files_only=True)
    assert files.get("model.onnx", "onnx/model.onnx", what="ONNX file").read_bytes() == WEIGHTS
    assert hub.requests == []


# Weights beside an ONNX file


def message(number, content):
    """A protobuf field that has a length."""
    size, head = len(content), [number << 3 | 2]
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    return bytes([*head, size]) + content


def onnx_file(*locations, in_node=(), inline=b""):
    def tensor(location):
        entries = message(1, b"location") + message(2, location.encode())
        return message(8, b"w") + message(13, entries) + b"\x70\x01"

    nodes = [message(1, message(5, message(1, b"value") + message(5, tensor(location)))) for location in in_node]
    weights = [message(5, tensor(location)) for location in locations]
    graph = b"".join([*nodes, message(2, b"graph"), *weights, message(5, message(9, inline) + b"\x10\x01")])
    return b"\x08\x08" + message(2, b"test") + message(7, graph) + message(8, b"\x10\x11")


def test_external_data_is_found_wherever_a_graph_names_it(tmp_path):
    path = tmp_path / "model.onnx"
    long = "sub/" + "x" * 200 + ".bin"
    path.write_bytes(onnx_file("b.data", "b.data", long, in_node=["a.data"], inline=b"\x0a\x08location\x12\x03abc" * 9))
    assert external_data(path) == ("a.data", "b.data", long)


def test_external_data_is_what_onnx_writes(tmp_path):
    onnx = pytest.importorskip("onnx", reason="writes the file")
    weights = onnx.numpy_helper.from_array(__import__("numpy").ones(1000, "float32"), "w")
    graph = onnx.helper.make_graph([], "g", [], [], [weights])
    model = onnx.helper.make_model(graph)
    onnx.save(model, tmp_path / "inside.onnx")
    onnx.save(model, tmp_path / "beside.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    assert external_data(tmp_path / "inside.onnx") == ()
    assert external_data(tmp_path / "beside.onnx") == ("w.data",)


@pytest.mark.parametrize("content", [b"", b"\x3a", b"not an ONNX file" * 99, b"\xff" * 99, onnx_file("a")[:40]])
def test_what_is_no_onnx_file_names_no_others(tmp_path, content):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert external_data(path) == ()


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret", "a/../../secret", "C:\\secret", "..\\secret", ""])
def test_weights_outside_the_folder_are_refused(hub, name, tmp_path):
    hub.add(MODEL, "main", {"onnx/model.onnx": onnx_file(name)})
    (tmp_path / "model.onnx").write_bytes(onnx_file(name))
    for files in (ModelFiles(MODEL), ModelFiles(tmp_path)):
        said = str(error_of(files.find, "model.onnx", "onnx/model.onnx"))
        assert f"wants its weights from {name!r}, outside its own folder" in said


def test_weights_beside_an_onnx_file_come_with_it(hub):
    graph = onnx_file("model.onnx_data")
    hub.add(MODEL, "main", {"onnx/model.onnx": graph, "onnx/model.onnx_data": WEIGHTS}, lfs=("onnx/model.onnx_data",))
    path = ModelFiles(MODEL).get("onnx/model.onnx", what="ONNX file")
    assert path.with_name("model.onnx_data").read_bytes() == WEIGHTS
    hub.requests.clear()
    assert ModelFiles(MODEL).find("onnx/model.onnx") == path
    assert hub.requests == []


def test_weights_that_are_not_there_are_an_error(hub, tmp_path):
    hub.add(MODEL, "main", {"model.onnx": onnx_file("w.data")})
    (tmp_path / "model.onnx").write_bytes(onnx_file("w.data"))
    for files in (ModelFiles(MODEL), ModelFiles(tmp_path)):
        assert "has no file with the weights of model.onnx; looked for w.data" in str(
            error_of(files.find, "model.onnx")
        )


# Digests


def test_a_digest_is_that_of_the_content(hub, tmp_path):
    hub.add(MODEL, "main", FILES, lfs=LFS)
    for name, content in FILES.items():
        assert digest(ModelFiles(MODEL).find(name)) == hashlib.sha256(content).hexdigest()
        (tmp_path / "copy").write_bytes(content)
        assert digest(tmp_path / "copy") == hashlib.sha256(content).hexdigest()


def test_a_digest_that_is_the_name_of_a_blob_is_not_computed(hub, monkeypatch):
    hub.add(MODEL, "main", FILES, lfs=LFS)
    path = ModelFiles(MODEL).find("onnx/model.onnx")
    blob = path.resolve()
    if blob == path:
        pytest.skip("no symbolic links on this file system")
    blob.write_bytes(b"")
    assert digest(path) == digest(blob) == hashlib.sha256(WEIGHTS).hexdigest()


def test_other_names_are_not_believed(tmp_path):
    named = "a" * 64
    for folder in (tmp_path, tmp_path / "blobs", tmp_path / "models--x/snapshots"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / named).write_bytes(b"x")
        assert digest(folder / named) == hashlib.sha256(b"x").hexdigest()
    # A blob may itself be a link into a store where files are named by another hash.
    store, blobs = tmp_path / "blobs/aa", tmp_path / "models--x/blobs"
    store.mkdir()
    blobs.mkdir()
    (store / named).write_bytes(b"x")
    (blobs / ("b" * 64)).symlink_to(store / named)
    (tmp_path / "models--x/snapshots/model.onnx").symlink_to(blobs / ("b" * 64))
    assert digest(tmp_path / "models--x/snapshots/model.onnx") == "b" * 64


# Whole processes: what the hub's library reads at its import


SCRIPT = """
import json, sys
from rerankx.engines.files import ModelFiles
names = sys.argv[2:]
assert not [name for name in sys.modules if name.startswith("huggingface_hub")]
found = [str(ModelFiles(sys.argv[1]).get(name, what="file")) for name in names]
client = sorted({name.partition(".")[0] for name in sys.modules} & {"httpx", "requests", "tqdm", "filelock"})
print(json.dumps({"found": found, "client": client}))
"""


def run(environment, *names, fails=False, **kwargs):
    """Return what the script said, and what it logged."""
    outputs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **kwargs}
    command = [sys.executable, "-B", "-W", "error::ResourceWarning", "-c", SCRIPT, MODEL, *names]
    done = subprocess.run(command, env=environment, text=True, timeout=60, check=False, **outputs)
    assert bool(done.returncode) == fails, done.stderr
    return (json.loads(done.stdout) if done.stdout else None), done.stderr


def test_a_mirror_is_used_and_nothing_is_drawn_where_there_is_no_terminal(tmp_path):
    with HubStage() as hub:
        hub.add(MODEL, "main", FILES, lfs=LFS)
        said, log = run(hub.environment(tmp_path), *FILES)
        assert [Path(path).read_bytes() for path in said["found"]] == list(FILES.values())
        assert said["found"][0].startswith(str(tmp_path))
        assert log == ""
        hub.requests.clear()
        # Offline, and without even the import of what could ask.
        again, log = run({**hub.environment(tmp_path), "HF_HUB_OFFLINE": "1"}, *FILES)
        assert again == {"found": said["found"], "client": []}
        assert hub.requests == []


@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX")
def test_progress_is_drawn_on_a_terminal(tmp_path):
    import pty
    import termios

    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    with HubStage() as hub:
        hub.add(MODEL, "main", FILES, lfs=LFS)
        run(hub.environment(tmp_path), *LFS, stderr=theirs)
    os.close(theirs)
    drawn = b""
    try:
        while some := os.read(ours, 65536):
            drawn += some
    except OSError:  # how Linux says that the other side has gone
        pass
    os.close(ours)
    assert b"model.onnx: 100%" in drawn


class Proxy(BaseHTTPRequestHandler):
    """Fetches for others; the host name hub.invalid is the stage."""

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.asked.append(self.path)
        parts = urlsplit(self.path)
        netloc = urlsplit(self.server.stage.url).netloc if parts.hostname == "hub.invalid" else parts.netloc
        connection = http.client.HTTPConnection(netloc, timeout=30)
        connection.request(self.command, self.path.partition(parts.netloc)[2], headers=dict(self.headers))
        reply = connection.getresponse()
        self.send_response(reply.status)
        for name, value in reply.getheaders():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(reply.read())
        connection.close()

    def do_CONNECT(self):
        self.send_error(407)

    def log_message(self, *args):
        pass


@contextmanager
def proxy_to(hub):
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        proxy.asked, proxy.stage = [], hub
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()


def test_a_proxy_is_used(tmp_path):
    with HubStage() as hub, proxy_to(hub) as proxy:
        hub.add(MODEL, "main", FILES, lfs=LFS)
        through = f"http://127.0.0.1:{proxy.server_port}"
        ours = {"HF_ENDPOINT": "http://hub.invalid", "HTTP_PROXY": through, "http_proxy": through}
        said, _ = run(hub.environment(tmp_path) | ours, *FILES)
    assert [Path(path).read_bytes() for path in said["found"]] == list(FILES.values())
    assert any(path.startswith("http://hub.invalid/org/model/resolve/") for path in proxy.asked)
    assert any(path.startswith(hub.storage_url) for path in proxy.asked)


def test_a_proxy_that_refuses_is_said_to_be_so(tmp_path):
    with HubStage() as hub, proxy_to(hub) as proxy:
        through = f"http://user:word@127.0.0.1:{proxy.server_port}"
        ours = {"HF_ENDPOINT": "https://hub.invalid", "HTTPS_PROXY": through, "https_proxy": through}
        _, log = run(hub.environment(tmp_path) | ours, "config.json", fails=True)
    said = log.strip().splitlines()[-1]
    assert "ModelNotFoundError: the hub at https://hub.invalid cannot be reached (ProxyError)" in said
    assert "word" not in said


@pytest.mark.skipif(sys.platform == "win32", reason="limits of a process are POSIX")
def test_a_full_disk_is_named(tmp_path):
    import resource

    def small_files_only():
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    with HubStage() as hub:
        hub.add(MODEL, "main", FILES, lfs=LFS)
        _, log = run(hub.environment(tmp_path), *LFS, fails=True, preexec_fn=small_files_only)
    said = f"ModelNotFoundError: the cache {tmp_path}/hub cannot keep onnx/model.onnx of 'org/model': File too large"
    assert said in log
