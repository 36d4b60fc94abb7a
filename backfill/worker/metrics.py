"""Serves a project's metrics over HTTP, in a thread of the process that asks for it.

The port is bound at once, so that one that is taken is told before anything has begun, and served
later: a worker starts its thread after its pool has forked. A process that is forked afterwards
inherits the socket, and would keep the port when its parent is gone; so it closes it first thing.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import make_wsgi_app

from backfill.errors import BackfillError, RefusedError, UsageError
from backfill.project import Project
from backfill.watch.exporter import RunsCollector, registry_of

#: A client that says nothing for so long is hung up on.
IDLE_SECONDS = 10.0


class _Handler(WSGIRequestHandler):
    timeout = IDLE_SECONDS

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the library's name
        """Say nothing: a scrape every few seconds is no news."""


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class MetricsServer:
    """A port at which the project's metrics can be read, whatever the path.

    Raises:
        RefusedError: the port is in use, or not allowed.
        UsageError: this host has no such address.
    """

    def __init__(self, project: Project, *, address: str, port: int) -> None:
        self._collector = RunsCollector(project)
        try:
            # named anew for each: the family belongs to a class of the library
            family, _, _, _, place = socket.getaddrinfo(
                address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            )[0]
            kind = type("Server", (_Server,), {"address_family": family})
            self._server: WSGIServer = kind(place, _Handler)
        except OSError as error:
            raise _told(error, address=address, port=port) from error
        self._server.set_app(make_wsgi_app(registry_of(self._collector)))
        self._thread: threading.Thread | None = None
        os.register_at_fork(after_in_child=self._server.socket.close)

    def start(self) -> None:
        """Answer from now on."""
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Answer no more, and give the port back."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._collector.close()


def _told(error: OSError, *, address: str, port: int) -> BackfillError:
    if error.errno == errno.EADDRINUSE:
        return RefusedError(
            f"port {port} of {address} is in use, so no metrics can be read there",
            remedy="Give each worker on a host its own --metrics-port.",
        )
    if error.errno == errno.EACCES:
        return RefusedError(
            f"port {port} of {address} is not allowed for this user",
            remedy="Give --metrics-port a number above 1023.",
        )
    return UsageError(
        f"metrics cannot be told at {address}: {error.strerror or error}",
        remedy="Give --metrics-address an address of this host, such as 127.0.0.1.",
    )
