"""A small HTTP API that misbehaves as asked, and remembers what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.

    Attributes:
        times: which request for this row it is, from 1.
    """

    path: str
    body: Mapping[str, Any]
    once: str
    token: str
    times: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered after `wait` seconds; None as code: the connection is broken off."""

    code: int | None = 200
    body: object = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    wait: float = 0.0


class Api:
    """Serves while the block runs; `stop` and `start` again are an outage, on the same port.

    Args:
        answer: called for each request, from several threads.
    """

    def __init__(self, answer: Callable[[Asked], Answer]) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._server: ThreadingHTTPServer | None = None
        self.asked: Counter[str] = Counter()
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/"

    def start(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"]))
                once = self.headers["Idempotency-Key"]
                with api._lock:
                    api.asked[once] += 1
                    times = api.asked[once]
                token = self.headers["Authorization"].removeprefix("Bearer ")
                answer = api._answer(Asked(self.path, json.loads(text), once, token, times))
                time.sleep(answer.wait)
                if answer.code is None:
                    return
                body = answer.body
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(answer.code)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                """Whoever waited too long has gone."""

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Connections are refused from now on."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Api:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
