"""A real streaming standby of an embedded PostgreSQL."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

from backfill.local.account import service_account
from backfill.local.postgres import LocalPostgres
from tests.pg.holding import until
from tests.services import FAST


@contextmanager
def standby_of(primary: LocalPostgres, name: str = "replica1") -> Iterator[LocalPostgres]:
    """A standby that streams from `primary` and is known there by this application_name."""
    folder = Path(tempfile.mkdtemp(prefix="backfill-standby-", dir="/tmp"))
    folder.chmod(0o755 if service_account() else 0o700)
    data = folder / "data"
    try:
        subprocess.run(
            [
                *(primary.bin("pg_basebackup"), "--pgdata", data, "--checkpoint=fast"),
                *("--write-recovery-conf", "--wal-method=stream", "--no-sync"),
                *("--dbname", f"{primary.url()}?application_name={name}"),
            ],
            check=True,
            capture_output=True,
        )
        settings: dict[str, str | int | float] = {**FAST, "hot_standby": True}
        programs = primary.bin("postgres").parent  # of the same version
        with LocalPostgres(data, settings=settings, bin_directory=programs) as standby:
            until(lambda: name in standbys_of(primary))
            yield standby
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def standbys_of(primary: LocalPostgres) -> list[str]:
    """The application names of the standbys that stream now."""
    with psycopg.connect(primary.url(), autocommit=True) as conn:
        found = conn.execute(
            "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'"
        ).fetchall()
    return [name for (name,) in found]


@contextmanager
def replay_held(standby: LocalPostgres) -> Iterator[None]:
    """The standby receives WAL and does not replay it."""
    with psycopg.connect(standby.url(), autocommit=True) as conn:
        conn.execute("SELECT pg_wal_replay_pause()")
        state = "SELECT pg_get_wal_replay_pause_state()"
        until(lambda: conn.execute(state).fetchone() == ("paused",))
        try:
            yield
        finally:
            conn.execute("SELECT pg_wal_replay_resume()")


def write_wal(primary: LocalPostgres, byte_count: int = 1_000_000) -> None:
    """Write about so much WAL on the primary; it has left the server's buffers then."""
    with psycopg.connect(primary.url(), autocommit=True) as conn:
        conn.execute("SET synchronous_commit = local")
        conn.execute("SELECT pg_logical_emit_message(true, 'test', repeat('x', %s))", [byte_count])


def wait_until_replayed(primary: LocalPostgres) -> None:
    """Wait until the standbys have replayed all that is written now, and the primary knows it."""
    with psycopg.connect(primary.url(), autocommit=True) as conn:
        row = conn.execute("SELECT pg_current_wal_lsn()").fetchone()
        assert row is not None
        seen = "SELECT bool_and(replay_lsn >= %s) FROM pg_stat_replication"
        until(lambda: conn.execute(seen, row).fetchone() == (True,))
