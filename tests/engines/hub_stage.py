"""A server on loopback that speaks the model hub's protocol as far as huggingface_hub downloads by it."""

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit


class Request(NamedTuple):
    """What a server was asked; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    host: str
    """"hub" or "storage"."""


class Repository:
    def __init__(self):
        self.branches: dict[str, str] = {}
        self.commits: dict[str, dict[str, bytes]] = {}
        self.lfs: frozenset[str] = frozenset()
        self.gated = False
        self.token: str | None = None


class HubStage:
    """A context manager: serves while it is entered; `requests` lists what the hub and its storage were asked.

        with HubStage() as hub, hub.in_process(tmp_path):
            commit = hub.add("org/model", "main", {"config.json": b"{}"}, lfs=("onnx/model.onnx",))
            huggingface_hub.hf_hub_download("org/model", "config.json")

    Files named in `lfs` are redirected to a storage server under another host name, as large files are on the real hub.

    Switches, each to be set and unset at will:
        drop_after: Connections of the storage break after so many bytes of content; None = never.
        drops: How many connections do; None = all.
        status: The hub answers everything with this status; None = as it should.
        silent: The hub takes requests and never answers.
        before: Called with every `Request` before it is answered.
    """

    def __init__(self):
        self.requests: list[Request] = []
        self.drop_after: int | None = None
        self.drops: int | None = None
        self.status: int | None = None
        self.silent = False
        self.before: Callable[[Request], object] = lambda _request: None
        self.repositories: dict[str, Repository] = {}
        self.gone = threading.Event()

    def __enter__(self):
        self._servers = [_Server(self, "hub"), _Server(self, "storage")]
        # A server looks for the end of its days this often; the default makes every stage half a second longer.
        self._threads = [
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}) for server in self._servers
        ]
        for thread in self._threads:
            thread.start()
        self.url = f"http://127.0.0.1:{self._servers[0].server_port}"
        # Another host name for the same machine: to clients it is another host.
        self.storage_url = f"http://localhost:{self._servers[1].server_port}"
        return self

    def __exit__(self, *_error):
        self.gone.set()
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            server.server_close()  # waits for the threads of its requests
            thread.join()

    def add(self, repo, revision, files, *, lfs=(), gated=False, token=None):
        """Return the commit, new at every call, to which the branch or tag `revision` of `repo` moves.

        Args:
            repo: "owner/name".
            revision: A branch's or tag's name.
            files: Name -> content, all files there are at the new commit.
            lfs: Which of them are large files, kept by their SHA-256 in the storage.
            gated: Whether nobody may read it before the licence is accepted.
            token: What a reader must present; None = a public repository.
        """
        here = self.repositories.setdefault(repo, Repository())
        here.lfs, here.gated, here.token = here.lfs | set(lfs), gated, token
        commit = hashlib.sha1(f"{repo} {len(here.commits)}".encode()).hexdigest()
        here.commits[commit] = dict(files)
        here.branches[revision] = commit
        return commit

    def asked(self, method=None, path="", host=None):
        """Return the requests by that method, whose path has `path` in it, to that host."""
        return [
            one for one in self.requests if method in (None, one.method) and path in one.path and host in (None, one.host)
        ]  # fmt: skip

    def environment(self, home):
        """Return the environment for a child process that takes this for the hub and keeps its files under `home`."""
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        return {name: value for name, value in os.environ.items() if not _OTHERS.match(name)} | ours

    @contextmanager
    def in_process(self, home):
        """Make this process take it for the hub, without its environment's token, waits between retries, or own cache."""
        import pytest
        from huggingface_hub import constants, file_download
        from huggingface_hub.utils import _http

        with pytest.MonkeyPatch.context() as patch:
            for name in [name for name in os.environ if _OTHERS.match(name)]:
                patch.delenv(name)
            patch.setattr(constants, "ENDPOINT", self.url)
            template = self.url + "/{repo_id}/resolve/{revision}/{filename}"
            for module in (constants, file_download):  # below 1.0 the latter has its own
                patch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
            patch.setattr(constants, "HF_URL_HOSTS", frozenset({"127.0.0.1"}), raising=False)
            patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
            patch.setattr(constants, "HF_ASSETS_CACHE", str(home / "assets"))
            patch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
            patch.setattr(constants, "HF_HUB_OFFLINE", False)
            patch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
            for module in (file_download, _http):
                patch.setattr(module, "time", _Hurry())
            yield self


_OTHERS = re.compile(r"(HF_|HUGGING_?FACE|TRANSFORMERS_OFFLINE|TQDM_)|(https?|all|no)_proxy$", re.IGNORECASE)


class _Hurry:
    """The module `time` for those who wait before they try again."""

    def __getattr__(self, name):
        return getattr(time, name)

    def sleep(self, _seconds):
        time.sleep(0.001)


class _Server(ThreadingHTTPServer):
    def __init__(self, stage, role):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.stage, self.role = stage, role

    def handle_error(self, request, client_address):
        """Say nothing: clients that hang up early are part of the play."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        stage, path = self.server.stage, unquote(self.path)
        self.close_connection = True  # one request per connection: nothing lingers when the stage goes
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, headers, self.server.role)
        stage.requests.append(request)
        stage.before(request)
        if self.server.role == "storage":
            self.serve_blob(path, headers)
        elif stage.silent:
            stage.gone.wait(30)
        elif stage.status is not None:
            self.reply(stage.status, {}, b"out of order")
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.serve_info(found[1], found[2] or "main", headers)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/((?:refs/[^/]+/)?[^/]+)/(.+)", path):
            self.serve_file(found[1], found[2], found[3], headers)
        else:
            self.refuse(404, "RepoNotFound", "Repository not found")

    def opened(self, repo, revision, headers):
        """Return repository and commit; None after a refusal."""
        here = self.server.stage.repositories.get(repo)
        presented = headers.get("authorization", "").removeprefix("Bearer ")
        if here is None or (here.token is not None and presented != here.token):
            # The real hub does not tell strangers which private repositories there are.
            return self.refuse(401 if not presented else 404, "RepoNotFound", "Repository not found")
        commit = here.branches.get(revision, revision)
        if commit not in here.commits:
            return self.refuse(404, "RevisionNotFound", "Invalid rev id")
        return here, commit

    def serve_info(self, repo, revision, headers):
        if opened := self.opened(repo, revision, headers):
            here, commit = opened
            siblings = [{"rfilename": name} for name in here.commits[commit]]
            body = {"id": repo, "modelId": repo, "sha": commit, "private": False, "tags": [], "siblings": siblings}
            self.reply(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def serve_file(self, repo, revision, name, headers):
        opened = self.opened(repo, revision, headers)
        if opened is None:
            return
        here, commit = opened
        if here.gated:
            return self.refuse(401, "GatedRepo", "Access to this model is restricted")
        said = {"X-Repo-Commit": commit}
        content = here.commits[commit].get(name)
        if content is None:
            return self.refuse(404, "EntryNotFound", "Entry not found", said)
        if name in here.lfs:
            sha256 = hashlib.sha256(content).hexdigest()
            said |= {
                "Location": f"{self.server.stage.storage_url}/blobs/{sha256}?name={name.rpartition('/')[2]}&signature=secret",
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(content)),
            }
            return self.reply(302, said, b"")
        sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # git's own name for it
        self.reply(200, {**said, "ETag": f'"{sha1}"', "Accept-Ranges": "bytes"}, content)

    def serve_blob(self, path, headers):
        stage = self.server.stage
        sha256 = path.partition("?")[0].rpartition("/")[2]
        contents = (
            file for repo in stage.repositories.values() for files in repo.commits.values() for file in files.values()
        )
        content = next((file for file in contents if hashlib.sha256(file).hexdigest() == sha256), None)
        if content is None:
            return self.refuse(404, "EntryNotFound", "No such key")
        name = parse_qs(urlsplit(path).query)["name"][0]
        disposition = f"inline; filename*=UTF-8''{name}; filename=\"{name}\";"
        said = {"ETag": f'"{sha256[:32]}"', "Accept-Ranges": "bytes", "Content-Disposition": disposition}
        if wanted := re.fullmatch(r"bytes=(\d+)-", headers.get("range", "")):
            start = int(wanted[1])
            said["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            return self.reply(206, said, content[start:])
        self.reply(200, said, content)

    def refuse(self, status, code, message, said=None):
        self.reply(status, {**(said or {}), "X-Error-Code": code, "X-Error-Message": message}, b"")

    def reply(self, status, headers, body):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.shortened(body))

    def shortened(self, body):
        stage = self.server.stage
        if self.server.role != "storage" or stage.drop_after is None or stage.drops == 0:
            return body
        if stage.drops is not None:
            stage.drops -= 1
        return body[: stage.drop_after]
