"""TLS to both servers, with the certificate and the name checked; and what is told where not.

PostgreSQL is the system's, which is built with OpenSSL. The embedded Redis is not: a proxy of the
test's ends the TLS in front of it.
"""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest
from celery import Celery
from click.testing import Result
from kombu import pools
from psycopg import sql

from backfill.checkpoint import Checkpoint
from backfill.local.postgres import LocalPostgres
from backfill.model import RunState
from backfill.pg.install import upgrade
from backfill.settings import load
from tests.acceptance.conftest import PASSWORD
from tests.acceptance.crew import QUICK, Crew
from tests.cli.conftest import invoke
from tests.engine.factory import until
from tests.programs import program, system_postgres
from tests.services import FAST, RedisServer

__all__ = ["invoke"]

JOBS = """
class Count(Job):
    source = Table("item")
    transform = Sql(n="n + 1")
    target = Update()
"""


@dataclass(frozen=True, slots=True)
class Site:
    """Two servers that speak TLS as `localhost`, and the certificates of two authorities."""

    folder: Path
    postgres_port: int
    redis_port: int

    def postgres(
        self, *, ca: str = "right.crt", host: str = "localhost", word: str = PASSWORD
    ) -> str:
        return (
            f"postgresql://tls:{word}@{host}:{self.postgres_port}/postgres"
            f"?sslmode=verify-full&sslrootcert={self.folder / ca}"
        )

    def redis(self, *, ca: str = "right.crt", host: str = "localhost") -> str:
        return f"rediss://{host}:{self.redis_port}/0?ssl_ca_certs={self.folder / ca}"


def make_certificates(folder: Path) -> None:
    """Two authorities, `right` and `wrong`, and the right one's certificate for localhost."""

    def openssl(command: str) -> None:
        subprocess.run(
            [program("openssl"), *command.split()], cwd=folder, check=True, capture_output=True
        )

    new_key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    for ca in ("right", "wrong"):
        openssl(f"req -x509 {new_key} -days 2 -subj /CN={ca} -keyout {ca}.key -out {ca}.crt")
    openssl(f"req {new_key} -subj /CN=localhost -keyout server.key -out server.csr")
    openssl(
        "x509 -req -days 2 -in server.csr -CA right.crt -CAkey right.key -CAcreateserial"
        " -extfile names -out server.crt"
    )


def speak_tls(server: LocalPostgres, folder: Path) -> None:
    """Over TCP with TLS and a password only; whoever is refused otherwise is told so."""
    data = server.data_directory
    with psycopg.connect(server.url(), autocommit=True) as conn:
        conn.execute(
            sql.SQL("CREATE ROLE tls SUPERUSER LOGIN PASSWORD {}").format(sql.Literal(PASSWORD))
        )
        upgrade(conn)
        conn.execute("CREATE TABLE item AS SELECT i AS id, 0 AS n FROM generate_series(1, 500) i")
        conn.execute("ALTER TABLE item ADD PRIMARY KEY (id)")
        owner = data.stat()
        for name in ("server.crt", "server.key"):
            (data / name).write_bytes((folder / name).read_bytes())
            (data / name).chmod(0o600)
            os.chown(data / name, owner.st_uid, owner.st_gid)
        hba = data / "pg_hba.conf"
        hba.write_text(
            "hostssl all tls 127.0.0.1/32 scram-sha-256\nhost all tls all reject\n"
            + hba.read_text()
        )
        conn.execute("ALTER SYSTEM SET ssl = on")
        conn.execute("SELECT pg_reload_conf()")


@contextmanager
def tls_in_front_of(port: int, folder: Path) -> Iterator[int]:
    """Listen with the server's certificate and pass everything on; yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    sockets: list[socket.socket] = []

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError, ValueError):
            while chunk := source.recv(1 << 16):
                sink.sendall(chunk)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def serve(client: socket.socket) -> None:
        with suppress(OSError):  # ssl.SSLError is one: a client that does not trust us
            inner = context.wrap_socket(client, server_side=True)
            outer = socket.create_connection(("127.0.0.1", port))
            sockets.extend((inner, outer))
            threading.Thread(target=carry, args=(outer, inner), daemon=True).start()
            carry(inner, outer)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listening.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listening.getsockname()[1]
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        for one in sockets:
            one.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder)
    with ExitStack() as stack:
        server = stack.enter_context(LocalPostgres(settings=FAST, bin_directory=system_postgres()))
        speak_tls(server, folder)
        port = int(redis_server.url().rpartition(":")[2].partition("/")[0])
        front = stack.enter_context(tls_in_front_of(port, folder))
        yield Site(folder, server.port, front)


def test_a_worker_works_with_tls_to_both(site: Site, tmp_path: Path) -> None:
    crew = Crew(tmp_path, url=site.postgres(), redis_url=site.redis(), engine=QUICK)
    try:
        crew.write_jobs(JOBS)
        crew.start(as_users_do=True)
        run = crew.enqueue("count")
        crew.wait_for(run, RunState.SUCCEEDED)
        assert crew.query("SELECT count(*) FROM item WHERE n = 1") == [(500,)]
        assert "checkpoint.unavailable" not in crew.workers[0].log.read_text()
    finally:
        crew.close()


def test_a_database_that_cannot_be_trusted_is_told_once_and_plainly(
    site: Site, invoke: Callable[..., Result]
) -> None:
    for url, told in (
        (site.postgres(ca="wrong.crt"), "certificate verify failed"),
        (site.postgres(ca="missing.crt"), "missing.crt"),
        (site.postgres(host="127.0.0.1"), "does not match host name"),
        (site.postgres().replace("verify-full", "disable"), "pg_hba.conf rejects"),
        (site.postgres(word="hunter2"), "password authentication failed"),
    ):
        done = invoke("status", BACKFILL_DATABASE_URL=url)
        assert done.exit_code == 4, done.output
        assert told in done.stderr
        assert len(done.stderr.splitlines()) == 2
        assert "sslrootcert" in done.stderr, "the remedy"
        assert PASSWORD not in done.stderr
        assert "hunter2" not in done.stderr


def test_the_checkpoint_is_checked_also_where_a_users_own_broker_is_not(site: Site) -> None:
    """Celery's default for rediss:// checks nothing; `install` leaves a user's broker as it is."""
    unchecked = site.redis(host="127.0.0.1").partition("?")[0]
    with Celery("shop", broker=unchecked).connection_for_write() as connection:
        connection.ensure_connection(max_retries=1)
        assert connection.connected
    for url in (unchecked, site.redis(host="127.0.0.1"), site.redis(ca="wrong.crt")):
        assert not is_kept(url)
    # a machine that is busy may take longer over a handshake than a checkpoint waits
    until(lambda: is_kept(site.redis()), what="the checkpoint")


def is_kept(url: str) -> bool:
    """Whether a checkpoint of its own there keeps what it is given."""
    settings = load(None, {"BACKFILL_REDIS_URL": url})
    with closing(Checkpoint(settings.require_redis_url(), "a-ledger")) as checkpoint:
        checkpoint.publish_overview("{}")
        return checkpoint.overview() == "{}"


def test_a_redis_that_cannot_be_trusted_gets_no_message(
    site: Site, tmp_path: Path, invoke: Callable[..., Result]
) -> None:
    (tmp_path / "backfill.toml").write_text('jobs = ["count_jobs"]\n')
    (tmp_path / "count_jobs.py").write_text("from backfill import *\n" + JOBS)
    for url in (
        site.redis(ca="wrong.crt"),
        site.redis(host="127.0.0.1"),
        site.redis(ca="missing.crt"),
        site.redis().partition("?")[0],  # Celery's own default is to check nothing
    ):
        # kombu keeps connections by host and port, whatever they trust
        pools.reset()  # type: ignore[no-untyped-call]
        environ = {"BACKFILL_DATABASE_URL": site.postgres(), "BACKFILL_REDIS_URL": url}
        done = invoke("enqueue", "count", **environ)
        assert done.exit_code == 0, "the ledger has the run: workers find it without a message"
        assert "Redis does not answer" in done.stderr
        assert invoke("cancel", "count", **environ).exit_code == 0
