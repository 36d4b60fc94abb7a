"""`backfill flower` as a process of its own, and requests to it."""

from __future__ import annotations

import base64
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

from backfill.local.process import free_port
from tests import starting


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    headers: Message
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass(frozen=True, slots=True)
class FlowerServer:
    """A running Flower.

    Attributes:
        prefix: of its pages, such as `/tools`; empty: none.
        login: `user:password`, sent with every request; empty: none.
    """

    port: int
    prefix: str = ""
    login: str = ""
    log: Path = field(default_factory=Path)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def get(self, path: str, **headers: str) -> Answer:
        return self._send(path, None, headers)

    def post(self, path: str, values: Mapping[str, object], **headers: str) -> Answer:
        """As a page of ours sends it: with its cookie and token, unless others are given."""
        cookie = self.get("/backfills").headers["Set-Cookie"].partition(";")[0]
        ours = {
            "Content_Type": "application/json",
            "Cookie": cookie,
            "X_XSRFToken": cookie.partition("=")[2].strip('"'),
        }
        return self._send(path, json.dumps(values).encode(), {**ours, **headers})

    def answers(self) -> bool:
        try:
            return self.get("/healthcheck").status == 200
        except OSError:
            return False

    def _send(self, path: str, body: bytes | None, headers: Mapping[str, str]) -> Answer:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.login and "Authorization" not in sent:
            sent["Authorization"] = "Basic " + base64.b64encode(self.login.encode()).decode()
        request = urllib.request.Request(self.url + path, data=body, headers=sent)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, answer.headers, answer.read().decode())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, error.headers, error.read().decode())


@contextmanager
def running_flower(
    folder: Path,
    environ: Mapping[str, str],
    *flags: str,
    prefix: str = "",
    login: str = "",
    port: int = 0,
    variables: Mapping[str, str] | None = None,
) -> Iterator[FlowerServer]:
    """Start it in a project's folder; it is ended afterwards.

    Args:
        environ: of the project.
        port: 0: a free one.
        variables: for Flower, such as FLOWER_BASIC_AUTH.
    """
    port = port or free_port()
    server = FlowerServer(port, prefix=prefix, login=login, log=folder / f"flower-{port}.log")
    command = ["backfill", "flower", f"--port={port}", *flags]
    with _running(server, folder, command, {**environ, **(variables or {})}):
        yield server


@contextmanager
def running_stock_flower(folder: Path, redis_url: str) -> Iterator[FlowerServer]:
    """Flower as it comes, without anything of ours; it asks nobody for a password."""
    port = free_port()
    server = FlowerServer(port, log=folder / f"flower-{port}.log")
    command = [
        *("celery", "--broker", redis_url, "flower", "--address=127.0.0.1", f"--port={port}"),
        "--tasks-columns=name,uuid,state,args,kwargs,result,received,started,runtime",
    ]
    with _running(server, folder, command, {"FLOWER_UNAUTHENTICATED_API": "1"}):
        yield server


@contextmanager
def _running(
    server: FlowerServer, folder: Path, command: Sequence[str], variables: Mapping[str, str]
) -> Iterator[None]:
    process = starting.start(
        ["-m", *command], folder=folder, environ={**os.environ, **variables}, stdout=server.log
    )
    try:
        deadline = time.monotonic() + 60
        while not server.answers():
            if process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(server.log.read_text(errors="replace"))
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0, server.log.read_text(errors="replace")
