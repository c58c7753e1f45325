"""A model's files: in a local folder, or in a repository of the hub, fetched once and kept in the hub library's own cache.

What the cache holds is found by its documented layout, without the hub library: to import that takes 0.2 s, as long as to load a
small model. All requests are the library's, and so are its settings: HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE, HF_TOKEN, proxies.
"""

from __future__ import annotations

import errno
import hashlib
import json
import mmap
import os
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NoReturn
from urllib.parse import urlsplit

from rerankx.engines.once import renew_after_fork
from rerankx.errors import ModelNotFoundError

_COMMIT = re.compile("[0-9a-f]{40}")
_SHA256 = re.compile("[0-9a-f]{64}")
# "name" or "owner/name", as huggingface_hub's `validate_repo_id` has it.
_REPOSITORY = re.compile(r"(?!.*(--|\.\.))(\b[\w.-]+\b/)?\b[\w.-]{1,96}\b(?<!\.git)")
_PATH = re.compile(r"[/~]|\.{1,2}(/|$)|[A-Za-z]:|.*\\|.*/.*/")
# A key "location" and the tag of its value, in the protobuf entries by which ONNX names a file of weights.
_LOCATION = b"\x0a\x08location\x12"


class ModelFiles:
    """The files of one model, all of one version; safe under threads, and pickled as its arguments.

    What the cache holds of the revision is used as it is, without a request. What it lacks is fetched at the very commit that the
    cache holds, or of which the first file was fetched, also when the branch has moved since. That the model has no file of
    some name is kept as well, and not asked again.

    Args:
        model: A folder, or a repository's id: "name" or "owner/name". A folder that exists comes first.
        revision: Branch, tag or commit of the repository; None is "main". A folder has none.
        cache_dir: Where fetched files are kept; None is where the hub library keeps them.
        local_files_only: Whether to take what the cache holds and never ask the hub, as with HF_HUB_OFFLINE=1.
        name: What `rerankx download` calls it, for messages; None is the repository.

    Raises:
        ModelNotFoundError: `model` looks like a path and is no folder, or is no repository's id; `revision` cannot be one.
    """

    model: str
    folder: Path | None
    """The local folder; None for a repository."""

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        local_files_only: bool = False,
        name: str | None = None,
    ) -> None:
        self.model = os.fspath(model)
        self._name = name
        self.folder = _folder(self.model, must_be=isinstance(model, os.PathLike))
        self._branch = "main" if revision is None else revision
        if not self._branch or self._branch.startswith("/") or ".." in self._branch or "\\" in self._branch:
            raise ModelNotFoundError(f"revision {revision!r} is no branch, tag or commit")
        self._cache_dir = None if cache_dir is None else os.fspath(cache_dir)
        self._local_files_only = local_files_only
        self._commit = self._branch if _COMMIT.fullmatch(self._branch) else None
        self._missing: set[tuple[str | None, str]] = set()
        self.renew_lock()
        renew_after_fork(self)

    def renew_lock(self) -> None:
        """Take a new lock, after a fork."""
        self._lock = threading.RLock()

    @property
    def revision(self) -> str | None:
        """Return the commit that the files are of, once one was looked for; None for a folder."""
        return None if self.folder is not None else self._commit

    def find(self, *names: str) -> Path | None:
        """Return the path of the first of these files that the model has, fetched if need be; None if it has none of them.

        With an ONNX file come the files that hold its weights, where it keeps them beside itself. Where the hub must not be
        asked, the model has what the cache holds.

        Args:
            names: Paths inside the repository or the folder, with "/" between the parts, in order of preference.

        Raises:
            ModelNotFoundError: The hub must not be asked and the cache holds nothing of the model; the hub does not answer and
                the cache holds none of the files; there is no such model or revision, or no right to read it; the cache cannot
                be written; a name, or that of an ONNX file's weights, leads out of the model's folder.
        """
        return self._search(names)[0]

    def get(self, *names: str, what: str) -> Path:
        """Return what `find` returns.

        Args:
            names: As for `find`.
            what: What the file is, for the message: "ONNX file".

        Raises:
            ModelNotFoundError: As for `find`, and where the model has none of them.
        """
        path, unsure = self._search(names)
        if path is None and unsure:
            self._raise_not_cached(names)
        if path is None:
            where = (
                f"the folder {str(self.folder)!r}" if self.folder else f"{self.model!r} at revision {self._branch!r}"
            )
            raise ModelNotFoundError(f"{where} has no {what}; looked for {' and '.join(names)}")
        return path

    def json(self, name: str) -> dict[str, object]:
        """Return what the file holds, an object; empty where the model has no such file.

        Raises:
            ModelNotFoundError: As for `find`, and where it holds something else.
        """
        path = self.find(name)
        if path is None:
            return {}
        try:
            content = json.loads(path.read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise ModelNotFoundError(f"{path} cannot be read as JSON; fetch or copy it again") from error
        if not isinstance(content, dict):
            raise ModelNotFoundError(f"{path} holds a {type(content).__name__}; expected an object")
        return content

    @contextmanager
    def refresh(self) -> Iterator[None]:
        """Within, files are those of the revision's newest commit, fetched where they changed; after it, the cache keeps to that.

            with files.refresh():
                files.get("config.json", what="configuration")

        If anything fails, the cache keeps to the commit it had. A folder or a fixed commit has nothing newer.

        Raises:
            ModelNotFoundError: The hub may not be asked, does not answer, or has no such model or revision.
        """
        if self.folder is not None or _COMMIT.fullmatch(self._branch):
            yield
            return
        newest, before = self._newest(), self._commit
        self._commit = newest
        try:
            yield  # without the lock, since files may be asked for by several threads
            if self._commit_held() != newest:
                self._point_at(newest)
        except BaseException:
            self._commit = before
            raise

    def __repr__(self) -> str:
        at = "" if self.folder is not None else f" at {self._branch}"
        return f"<ModelFiles {self.model}{at}>"

    def __reduce__(self) -> tuple[object, ...]:
        return partial(
            type(self), self.model, revision=self._branch, cache_dir=self._cache_dir, local_files_only=self._local_files_only,
            name=self._name,
        ), ()  # fmt: skip

    def _search(self, names: Sequence[str]) -> tuple[Path | None, bool]:
        """Return the path of the first there is, and whether there may be one that could not be asked for."""
        unreachable: _UnreachableError | None = None
        unsure = False
        with self._lock:
            for name in names:
                if _leads_out(name):
                    raise ModelNotFoundError(f"{name!r} is no name of a file inside the model's folder")
                path = self._held(name)
                if path is None and not self._lacks(name):
                    if self._offline() or unreachable is not None:
                        unsure = True
                        continue
                    try:
                        path = self._fetch(name)
                    except _UnreachableError as error:
                        unreachable = error
                if path is not None:
                    self._bring_weights(path, name)
                    return path, False
            if unreachable is not None:
                raise ModelNotFoundError(str(unreachable)) from unreachable.__cause__
            if unsure and self._commit is None:
                self._raise_not_cached(names)
        return None, unsure

    def _bring_weights(self, path: Path, name: str) -> None:
        if name.endswith(".onnx"):
            for beside in external_data(path):
                self.get((PurePosixPath(name).parent / beside).as_posix(), what=f"file with the weights of {name}")

    # What the cache holds, by https://huggingface.co/docs/hub/local-cache: refs/<branch> is a file with a commit in it, and
    # snapshots/<commit>/ has the files. .no_exist/<commit>/ has an empty file for each that the repository does not have.

    def _held(self, name: str) -> Path | None:
        if self.folder is not None:
            path = self.folder / name
        else:
            if self._commit is None:
                self._commit = self._commit_held()
            if self._commit is None:
                return None
            path = self._home() / "snapshots" / self._commit / name
        return path if os.path.isfile(path) else None  # False, not an error, where the folder may not be read

    def _lacks(self, name: str) -> bool:
        if self.folder is not None or (self._commit, name) in self._missing:
            return True
        return self._commit is not None and (self._home() / ".no_exist" / self._commit / name).is_file()

    def _commit_held(self) -> str | None:
        try:
            commit = (self._home() / "refs" / self._branch).read_text("utf-8").strip()
        except (OSError, ValueError):
            return None
        kept = _COMMIT.fullmatch(commit) and any(
            (self._home() / kind / commit).is_dir() for kind in ("snapshots", ".no_exist")
        )
        return commit if kept else None

    def _home(self) -> Path:
        """Return the cache's folder for this repository."""
        return self._cache() / f"models--{self.model.replace('/', '--')}"

    def _cache(self) -> Path:
        from huggingface_hub import constants

        return Path(os.path.expanduser(self._cache_dir or constants.HF_HUB_CACHE)).resolve()

    def _point_at(self, commit: str) -> None:
        ref = self._home() / "refs" / self._branch
        part = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
        try:
            ref.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(commit, "utf-8")
            part.replace(ref)
        except OSError as error:
            raise self._failure(error, self._branch) from error

    # What the hub is asked.

    def _offline(self) -> bool:
        from huggingface_hub import constants

        return self._local_files_only or constants.HF_HUB_OFFLINE

    def _fetch(self, name: str) -> Path | None:
        """Return the file's path; None where the repository has no such file."""
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

        from rerankx import __version__

        try:
            path = hf_hub_download(
                self.model,
                name,
                revision=self._commit or self._branch,
                cache_dir=str(self._cache()),
                library_name="rerankx",
                library_version=__version__,
            )
        except LocalEntryNotFoundError as error:  # its word for a hub that gave no usable answer
            raise self._unreachable(error.__cause__ or error, name) from error
        except EntryNotFoundError:
            # The library notes this in the cache, with the commit; unless that is read-only.
            self._missing.add((self._commit, name))
            return None
        except Exception as error:
            if type(error).__name__ in ("ProxyError", "SSLError"):
                raise self._unreachable(error, name) from error
            raise self._failure(error, name) from error
        self._commit = Path(path).parents[len(PurePosixPath(name).parts) - 1].name
        return Path(path)

    def _newest(self) -> str:
        """Return the commit that the branch is at, as the hub says."""
        if self._offline():
            raise ModelNotFoundError(
                f"cannot look for a newer version of {self.model!r}: the hub must not be asked ({self._why_offline()})"
            )
        from huggingface_hub import HfApi, constants

        try:
            info = HfApi(library_name="rerankx").model_info(
                self.model, revision=self._branch, timeout=constants.HF_HUB_ETAG_TIMEOUT
            )
        except Exception as error:
            status, what = _status(error), f"the newest commit of {self._branch!r}"
            if status is None or status >= 500:
                raise ModelNotFoundError(str(self._unreachable(error, what))) from error
            raise self._failure(error, what) from error
        if info.sha is None:
            raise ModelNotFoundError(f"{_hub()} does not say at which commit {self._branch!r} of {self.model!r} is")
        return info.sha

    def _failure(self, error: Exception, what: str) -> ModelNotFoundError:
        """Return what to say of an error of the hub's library; its own words stay in the cause, as they may hold signed URLs."""
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        status, log_in = _status(error), "log in with `hf auth login` or set HF_TOKEN"
        if isinstance(error, GatedRepoError):
            page = f"{_endpoint()}/{self.model}"
            text = f"{self.model!r} is gated: accept its licence at {page}, then {log_in}"
        elif isinstance(error, RepositoryNotFoundError):
            text = f"{_hub()} has no model {self.model!r}, or it is private: check the name; for a private one {log_in}"
        elif isinstance(error, RevisionNotFoundError):
            text = f"{_hub()} has no revision {self._commit or self._branch!r} of {self.model!r}"
            if self._commit not in (None, self._branch):
                text += f", at which the cache holds {self._branch!r}; get the newest: {self._download()}"
        elif status in (401, 403):
            text = (
                f"{_hub()} refuses {what} of {self.model!r} (status {status}): the token is not valid for it; {log_in}"
            )
        elif status is not None:
            text = f"{_hub()} answered status {status} when asked for {what} of {self.model!r}; try again later"
        elif isinstance(error, ValueError) and type(error).__name__ == "HFValidationError":
            text = _no_repository(self.model)
        elif isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            text = f"the cache {self._cache()} cannot keep {what} of {self.model!r}: {error.strerror}; free it or set cache_dir"
        else:
            text = (
                f"the connection to {_hub()} broke while it sent {what} of {self.model!r} ({type(error).__name__});"
                " run it again: files that are complete are kept"
            )
        return ModelNotFoundError(text)

    def _unreachable(self, error: BaseException, what: str) -> _UnreachableError:
        status = _status(error)
        how = type(error).__name__ if status is None else f"status {status}"
        return _UnreachableError(
            f"{_hub()} cannot be reached ({how}) for {what} of {self.model!r} at revision {self._branch!r}; the cache is"
            f" {self._home()}. Check network and proxy (HTTPS_PROXY), set HF_ENDPOINT to a mirror, or HF_HUB_OFFLINE=1 to take"
            " what the cache holds"
        )

    def _raise_not_cached(self, names: Sequence[str]) -> NoReturn:
        raise ModelNotFoundError(
            f"what is needed of {self.model!r} is not in the cache, and the hub must not be asked ({self._why_offline()}):"
            f" looked for {' and '.join(names)} at revision {self._branch!r} in {self._home()}. On a machine with network run"
            f" `{self._download()}` and copy its folder {self._home().name} into {self._cache()}, or pass a local folder"
        )

    def _why_offline(self) -> str:
        return "local_files_only=True" if self._local_files_only else "HF_HUB_OFFLINE is set"

    def _download(self) -> str:
        return f"rerankx download {self._name or self.model}" + (
            "" if self._branch == "main" else f" --revision {self._branch}"
        )


def external_data(path: Path) -> tuple[str, ...]:
    """Return the files beside an ONNX file that hold its weights, sorted, relative to its folder; none for most files.

    Read from the file's structure, in a few milliseconds at any size. What is no ONNX file has none.

    Raises:
        ModelNotFoundError: A name is absolute or leads out of the folder.

    Source: TensorProto.external_data in https://github.com/onnx/onnx/blob/main/docs/ExternalData.md.
    """
    if path.stat().st_size == 0:  # nothing to map
        return ()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        names = sorted({name for start, end in _small_parts(data) for name in _locations(data, start, end)})
    for name in names:
        if _leads_out(name):
            raise ModelNotFoundError(f"{path} wants its weights from {name!r}, outside its own folder; this is refused")
    return tuple(names)


def digest(path: Path) -> str:
    """Return the SHA-256 of the file's content, 64 hexadecimal digits.

    A file in the hub's cache that was stored by its digest has it as the name of its blob, and is not read.
    """
    target = Path(os.path.abspath(path))
    if target.is_symlink():
        # One step only: what a blob links to has a name by another hash.
        target = Path(os.path.normpath(target.parent / os.readlink(target)))
    if (
        _SHA256.fullmatch(target.name)
        and target.parent.name == "blobs"
        and target.parent.parent.name.startswith("models--")
    ):
        return target.name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _UnreachableError(Exception):
    """The hub gave no answer; the message is for a `ModelNotFoundError`, if nothing else helps."""


_OF_THE_DISK = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EACCES", "EPERM", "EROFS", "EIO", "ENOTDIR", "EEXIST", "ENOENT", "ENAMETOOLONG")
    if hasattr(errno, name)
}  # fmt: skip


def _folder(model: str, *, must_be: bool) -> Path | None:
    """Return the folder that `model` names; None where it is a repository's id."""
    path = Path(os.path.expanduser(model))
    if model and os.path.isdir(path):
        return path.absolute()
    if must_be or _PATH.match(model):
        what = (
            "a file; pass the folder that holds it and the model's other files"
            if os.path.isfile(path)
            else "no folder here"
        )
        raise ModelNotFoundError(f"{model!r} is {what}")
    if not _REPOSITORY.fullmatch(model):
        raise ModelNotFoundError(_no_repository(model))
    return None


def _no_repository(model: str) -> str:
    return f"{model[:200]!r} is neither a folder nor a repository's id ('name' or 'owner/name' of letters, digits, '-', '_', '.')"


def _leads_out(name: str) -> bool:
    return not name or name.startswith("/") or "\\" in name or "\0" in name or ":" in name or ".." in name.split("/")


def _endpoint() -> str:
    from huggingface_hub import constants

    parts = urlsplit(constants.ENDPOINT)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # no password


def _hub() -> str:
    return f"the hub at {_endpoint()}"


def _status(error: BaseException) -> int | None:
    """Return the HTTP status that the hub answered, if that is what is wrong."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


# ModelProto.graph, GraphProto.initializer and TensorProto.external_data, by their field numbers in onnx.proto.
_GRAPH, _INITIALIZER, _EXTERNAL_DATA = 7, 5, 13


def _small_parts(data: mmap.mmap) -> Iterator[tuple[int, int]]:
    """Yield where in an ONNX file names of other files may stand: everything in the graph but the weights themselves."""
    for number, start, end in _fields(data, 0, len(data)):
        if number == _GRAPH:
            for kind, first, last in _fields(data, start, end):
                if kind != _INITIALIZER:
                    yield first, last
                    continue
                for what, low, high in _fields(data, first, last):
                    if what == _EXTERNAL_DATA:
                        yield low, high


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of every field that has a length; stop where it is no protobuf message."""
    while at < end:
        key, at = _varint(data, at, end)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at, end)
        elif kind == 2:
            size, at = _varint(data, at, end)
            if at + size > end:
                return
            yield key >> 3, at, at + size
            at += size
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return the number that starts at `at`, and where the next thing starts; `end` where the number has none."""
    value = 0
    for i in range(min(10, end - at)):
        byte = data[at + i]
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    return 0, end


def _locations(data: mmap.mmap, start: int, end: int) -> Iterator[str]:
    while (found := data.find(_LOCATION, start, end)) >= 0:
        size, at = _varint(data, found + len(_LOCATION), end)
        start = min(at + size, end)
        yield data[at:start].decode("utf-8", "replace")
