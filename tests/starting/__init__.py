"""Processes of a user's, started quickly: forked from one that has imported everything already.

To import what `backfill` imports takes a second of CPU, and the tests start hundreds of them.
So each test process keeps a server (server.py) that has done so, and forks for each: a real
process, with a session, environment, folder and files of its own, that runs the command as
`python -m backfill` would. What is different from a new one is that all modules are loaded; tests
that are about that, the stories of the documents, and the demo's start new ones.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ["Process", "run", "start"]

_SERVER = Path(__file__).with_name("server.py")


class Process:
    """What `subprocess.Popen` is, of a process that the server forked."""

    def __init__(self, server: _Server, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._server = server

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._server.code_of(self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, so many seconds; None: for ever.

        Raises:
            TimeoutExpired: of subprocess.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        """As Popen: nothing happens when it has ended."""
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def start(
    command: Sequence[str],
    *,
    folder: Path,
    environ: Mapping[str, str],
    stdout: Path | str,
    stderr: Path | str | None = None,
    stdin: Path | str = os.devnull,
) -> Process:
    """Start `python COMMAND…` in a session of its own.

    Args:
        command: as after `python`: `-m`, a module and arguments, or a script and arguments.
        environ: PYTHONWARNINGS and PYTHONDONTWRITEBYTECODE are followed, other settings of Python
            itself are not: it is in UTF-8 mode.
        stdout: a file, made anew, or a terminal's path.
        stderr: None: with stdout.
    """
    for file in (stdout, stderr):
        if isinstance(file, Path):
            file.write_bytes(b"")  # it is there to be read from now on
    server = _server()
    return Process(
        server,
        server.fork(
            {
                "command": list(command),
                "folder": str(folder),
                "environ": dict(environ),
                "files": [str(stdin), str(stdout), None if stderr is None else str(stderr)],
            }
        ),
    )


def run(
    command: Sequence[str], *, folder: Path, environ: Mapping[str, str], timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Start it, wait for its end, and tell what it printed, as `subprocess.run` does."""
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch) / "out", Path(scratch) / "err"
        process = start(command, folder=folder, environ=environ, stdout=out, stderr=err)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        return subprocess.CompletedProcess(
            list(command), code, out.read_text("utf-8"), err.read_text("utf-8")
        )


class _Server:
    """The process that forks, and what it tells of its children; used by any thread."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, str(_SERVER), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={
                **{name: os.environ[name] for name in os.environ if not name.startswith("PYTHON")},
                "PYTHONUTF8": "1",
            },
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is the tests' alone
        )
        theirs.close()
        self._socket = ours
        self._lines = ours.makefile("r", encoding="utf-8")
        self._changed = threading.Condition()
        self._forked: list[int] = []
        self._codes: dict[int, int] = {}
        self._has_ended = False
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        """`pid N`: forked; `end N CODE`: a child has ended."""
        for line in self._lines:
            what, pid, *code = line.split()
            with self._changed:
                if what == "pid":
                    self._forked.append(int(pid))
                else:
                    self._codes[int(pid)] = int(code[0])
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def fork(self, request: Mapping[str, object]) -> int:
        with self._changed:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
            self._changed.wait_for(lambda: self._forked or self._has_ended)
            return self._forked.pop()

    def code_of(self, pid: int) -> int | None:
        with self._changed:
            return self._codes.get(pid)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._process.wait()


@functools.cache
def _server() -> _Server:
    server = _Server()
    atexit.register(server.close)
    return server
