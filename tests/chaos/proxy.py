"""A TCP proxy between us and a server: it cuts, refuses, slows, and loses replies."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

_CHUNK = 65_536


class Proxy:
    """Listens on a port of its own on 127.0.0.1 and passes everything on to `port`.

    Attributes:
        port: of the server; where it is changed, new connections go there (a virtual address).
        delay_seconds: before each piece of an answer is passed on.
        lose_reply: asked with each piece that a client sends; True: it is passed on, the answer
            is awaited and thrown away, and the connection is cut.
        lost: how many answers were thrown away.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        self.delay_seconds = 0.0
        self.lose_reply: Callable[[bytes], bool] = lambda _: False
        self.lost = 0
        self._is_open = True
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut every connection, and every new one at once, until `heal`."""
        self._is_open = False
        self._cut_all()

    def heal(self) -> None:
        """New connections are passed on again."""
        self._is_open = True

    def close(self) -> None:
        """End it."""
        self._is_open = False
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _cut_all(self) -> None:
        with self._lock:
            sockets, self._sockets = self._sockets, set()
        for one in sockets:
            _end(one)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_open:
                _end(client)
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.port), timeout=5)
            except OSError:
                _end(client)
                continue
            server.settimeout(None)
            with self._lock:
                self._sockets |= {client, server}
            for pump in (self._requests, self._answers):
                threading.Thread(target=pump, args=(client, server), daemon=True).start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while piece := client.recv(_CHUNK):
                if self.lose_reply(piece):
                    # nothing of the answer may pass: the way back ends before the request leaves
                    client.shutdown(socket.SHUT_WR)
                    server.sendall(piece)
                    time.sleep(0.1)  # its answer has come, and the other thread cannot pass it on
                    self.lost += 1
                    break
                server.sendall(piece)
        self._end_both(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while piece := server.recv(_CHUNK):
                if self.delay_seconds:
                    time.sleep(self.delay_seconds)
                client.sendall(piece)
        self._end_both(client, server)

    def _end_both(self, client: socket.socket, server: socket.socket) -> None:
        with self._lock:
            self._sockets -= {client, server}
        _end(client)
        _end(server)


def _end(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
