"""Imports what `backfill` imports, then forks for each request; see this package.

    python server.py SOCKET

A line of JSON on the socket is a request; it ends when the socket does. Nothing but imports may
happen before the fork: no thread, no connection, no open file.
"""

from __future__ import annotations

import gc
import importlib
import json
import mmap
import os
import pkgutil
import runpy
import select
import signal
import socket
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any, TextIO

#: Loaded by name while it works.
_LATER = (
    "celery.app.amqp",
    "celery.app.control",
    "celery.app.events",
    "celery.app.log",
    "celery.apps.worker",
    "celery.backends.redis",
    "celery.bin.celery",
    "celery.bin.worker",
    "celery.concurrency.prefork",
    "celery.concurrency.solo",
    "celery.concurrency.thread",
    "celery.events.state",
    "celery.fixups.django",
    "celery.loaders.app",
    "celery.worker.autoscale",
    "celery.worker.components",
    "celery.worker.consumer",
    "celery.worker.strategy",
    "flower.app",
    "flower.command",
    "flower.urls",
    "kombu.transport.redis",
    "psycopg_binary._psycopg",
    "rich.progress",
    "rich.table",
    "rich.traceback",
)


def load() -> None:
    import backfill

    for module in pkgutil.walk_packages(backfill.__path__, "backfill."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in _LATER:
        importlib.import_module(name)
    assert threading.active_count() == 1, threading.enumerate()


def become(request: dict[str, Any]) -> str:
    """Make this process the one that was asked for; returns the module, or script, to be run."""
    os.setsid()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environ"])
    time.tzset()
    stdin, stdout, stderr = request["files"]
    writing = os.O_WRONLY | os.O_CREAT | os.O_NOCTTY
    os.dup2(os.open(stdin, os.O_RDONLY | os.O_NOCTTY), 0)
    os.dup2(os.open(stdout, writing, 0o644), 1)
    os.dup2(1 if stderr is None else os.open(stderr, writing, 0o644), 2)
    os.closerange(3, 1024)
    set_stream("stdin", os.fdopen(0, "r", errors="surrogateescape", closefd=False))
    set_stream(
        "stdout",
        os.fdopen(1, "w", 1 if os.isatty(1) else -1, errors="surrogateescape", closefd=False),
    )
    set_stream("stderr", os.fdopen(2, "w", 1, errors="backslashreplace", closefd=False))
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    if asked := os.environ.get("PYTHONWARNINGS"):
        warnings.simplefilter(asked)  # type: ignore[arg-type]
    # shared with its own children, and with nobody else
    vars(importlib.import_module("backfill.worker.stopping"))["_flag"] = mmap.mmap(-1, 1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    first, *rest = request["command"]
    if first == "-m":
        module, *rest = rest
        sys.path[0] = str(Path.cwd())
        sys.argv = [module, *rest]
        return str(module)
    sys.path[0] = str(Path(first).parent)
    sys.argv = [first, *rest]
    return str(first)


def set_stream(name: str, stream: TextIO) -> None:
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)


def serve(ours: socket.socket) -> str | None:
    """Fork for each request. Returns in each child what it is to run, here None at the end."""
    waker, wakened = os.pipe()
    for end in (waker, wakened):
        os.set_blocking(end, False)
    signal.set_wakeup_fd(wakened)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    said = b""
    both: list[Any] = [ours, waker]
    while True:
        ready, _, _ = select.select(both, [], [])
        if waker in ready:
            os.read(waker, 4096)
            tell_ended(ours)
        if ours not in ready:
            continue
        data = ours.recv(1 << 20)
        if not data:
            return None
        *lines, said = (said + data).split(b"\n")
        for line in lines:
            pid = os.fork()
            if pid == 0:
                return become(json.loads(line))
            ours.sendall(f"pid {pid}\n".encode())


def tell_ended(ours: socket.socket) -> None:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        ours.sendall(f"end {pid} {os.waitstatus_to_exitcode(status)}\n".encode())


def main() -> None:
    ours = socket.socket(fileno=int(sys.argv[1]))
    load()
    gc.collect()
    gc.freeze()
    program = serve(ours)
    if program is None:
        return
    ours.detach()
    if program.endswith(".py"):
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
