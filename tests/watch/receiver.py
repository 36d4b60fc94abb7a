"""Receivers of messages: a real web server and a real program, and what they were sent."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

#: The part of the path that is a secret, as in Slack's URLs.
SECRET = "T0x-s3cret-B0x"


class Receiver:
    """A web server that keeps what is posted to it, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.requests: list[str] = []
        self.status, self.body = 200, "ok"
        self.location = ""
        self.before_answer: Callable[[], object] = lambda: None
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.requests.append(f"POST {self.path}")
                receiver.headers.append(dict(self.headers))
                receiver.got.append(json.loads(body))
                self._answer()

            def do_GET(self) -> None:
                receiver.requests.append(f"GET {self.path}")
                self._answer()

            def _answer(self) -> None:
                receiver.before_answer()
                self.send_response(receiver.status)
                if receiver.location:
                    self.send_header("Location", receiver.location)
                with suppress(BrokenPipeError):  # who asked did not wait
                    self.end_headers()
                    self.wfile.write(receiver.body.encode())

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def texts(self) -> list[str]:
        return [str(message["text"]) for message in self.got]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/services/{SECRET}"

    @contextmanager
    def serving(self) -> Iterator[Receiver]:
        self._thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()


def program(folder: Path, *, code: int = 0, then: str = "") -> list[str]:
    """A command that keeps what it is sent, a line each, in the file `heard`; see `heard`."""
    script = folder / "hear.py"
    script.write_text(
        "import os, sys, time\n"
        "line = sys.stdin.read()\n"
        f"with open({str(folder / 'heard')!r}, 'a') as file:\n"
        "    file.write(line)\n"
        f"{then}\nsys.exit({code})\n"
    )
    return [sys.executable, str(script)]


def heard(folder: Path) -> list[dict[str, Any]]:
    """What the command was sent."""
    path = folder / "heard"
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines()]
