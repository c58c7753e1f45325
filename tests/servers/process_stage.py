"""Somebody else's server in a process of its own, on a free port of loopback; stopped with all its children."""

import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path


class Served:
    """A server that answers: `address` without a slash at the end, and its output so far."""

    def __init__(self, port: int, log: Path):
        self.port, self._log = port, log

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")


def free_port() -> int:
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        return at.getsockname()[1]


@contextmanager
def serving(command, log: Path, *, health: str = "/", port: int | None = None, patience_s: float = 60):
    """Yield a `Served`; `command` takes the port and returns the arguments. Its output goes to the file `log`.

    Its life begins when a GET of `health` is answered by anything but 503. Without `port` a free one is taken, and another if
    the server ends before that: somebody may have been quicker.
    """
    for tries_left in (2, 1, 0):
        number = free_port() if port is None else port
        with log.open("wb") as out:
            process = subprocess.Popen(
                command(number), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            if _answers(process, number, health, time.monotonic() + patience_s):
                yield Served(number, log)
                return
            if process.poll() is None or not tries_left:
                raise RuntimeError(f"{command(number)[0]} does not answer: {log.read_text('utf-8', 'replace')[-2000:]}")
        finally:
            _stop(process)


def _answers(process: subprocess.Popen, port: int, path: str, until: float) -> bool:
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError, HTTPException), closing(HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", path)
            if connection.getresponse().status != 503:
                return True
        time.sleep(0.05)
    return False


def _stop(process: subprocess.Popen) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, how)
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=10)


def python(script: Path, *arguments: object) -> list[str]:
    """Return the command that runs a script with this interpreter."""
    return [sys.executable, str(script), *map(str, arguments)]
