"""PgBouncer (Debian's) in transaction mode, before a server on 127.0.0.1."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

import psycopg

from backfill.local.account import service_account
from backfill.local.process import free_port
from tests.engine.factory import until
from tests.programs import program


@contextmanager
def pooler(url: str) -> Iterator[str]:
    """A pooler for this URL's server, as Debian configures it; yields the URL by way of it.

    Few server connections for many clients: so a session's next transaction has another backend.
    Other logins than the URL's are looked up in the server, with their passwords. Two times are
    shorter than shipped (15 s, 120 s): when it looks again for a server that is away, and how long
    it lets a statement wait for one.
    """
    binary = program("pgbouncer", "/usr/sbin/pgbouncer")
    parts, port, account = urlsplit(url), free_port(), service_account()
    folder = Path(tempfile.mkdtemp(prefix="backfill-pgbouncer-", dir="/tmp"))
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    (folder / "users.txt").write_text(f'"{user}" "{password}"\n')
    (folder / "pgbouncer.ini").write_text(
        "[databases]\n"
        f"* = host={parts.hostname} port={parts.port}\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        f"auth_type = {'scram-sha-256' if password else 'trust'}\nauth_file = {folder}/users.txt\n"
        f"auth_user = {user}\nlogfile = {folder}/log\n"
        "pool_mode = transaction\ndefault_pool_size = 4\nmax_client_conn = 200\n"
        "server_login_retry = 1\nquery_wait_timeout = 10\n"
    )
    if account is not None:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.uid, account.gid)
    process = subprocess.Popen(
        [binary, "--quiet", folder / "pgbouncer.ini"],
        user=account.uid if account else None,
        group=account.gid if account else None,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    pooled = by_way_of(port, url)
    try:
        until(lambda: _answers(pooled), what="the pooler")
        yield pooled
    finally:
        process.kill()
        process.wait(timeout=30)
        shutil.rmtree(folder)


def by_way_of(port: int, url: str) -> str:
    """The URL with its database and its login, at another port of this machine."""
    parts = urlsplit(url)
    login, at, _ = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login}{at}127.0.0.1:{port}"))


def _answers(url: str) -> bool:
    try:
        psycopg.connect(url, connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True
