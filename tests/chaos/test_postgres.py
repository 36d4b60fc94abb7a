"""Faults of PostgreSQL and of the way to it, one by one: `n = n + 1` happens once all the same.

Each strikes in mid-run, at a named point of a batch. Those which only end a connection are in
tests/engine/test_faults.py; docs/reference/faults.md lists them all.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import psycopg
import pytest

from backfill.errors import UnreachableError
from backfill.job import Insert, Job, Options, Table
from backfill.local.postgres import LocalPostgres
from backfill.pg.connect import connect
from backfill.pg.ledger import Run
from backfill.pg.server import About, about
from tests.acceptance.test_stopped_holder import is_stopped
from tests.chaos.conftest import PLACES, through
from tests.chaos.proxy import Proxy
from tests.engine.factory import AtVisit, Outcome, Worksite, until
from tests.engine.jobs import Increment, IncrementInPython
from tests.pg.standby import standby_of, wait_until_replayed

ROWS = 200
OPTIONS = Options(batch_rows=10, slice_rows=50)


def done_once(site: Worksite, done: Outcome) -> None:
    """The run succeeded without anybody's help, each row was written once and counted once."""
    assert done.state == "succeeded", done
    assert "run.paused" not in done.event_names
    assert site.rows("SELECT n, count(*)::int FROM t GROUP BY n") == [(1, ROWS)]
    assert (done.counts.paged, done.counts.written) == (ROWS, ROWS)


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
def test_lost_answers_to_commit(faulty: Worksite, proxy: Proxy, job: type[Job]) -> None:
    """The server has committed, nobody heard of it: the ledger's cursor tells."""
    faulty.numbers(ROWS)
    run = faulty.enqueue(job, options=OPTIONS)
    commits = 0

    def every_fifth(piece: bytes) -> bool:
        nonlocal commits
        commits += b"COMMIT\x00" in piece
        return b"COMMIT\x00" in piece and commits % 5 == 0

    proxy.lose_reply = every_fifth
    with closing(Worksite(through(proxy, faulty.url))) as far:
        far.work(job, run)
    assert proxy.lost >= 3
    done_once(faulty, faulty.outcome(run))


def test_a_network_that_is_cut_and_healed(faulty: Worksite, proxy: Proxy) -> None:
    faulty.numbers(ROWS)
    run = faulty.enqueue(Increment, options=OPTIONS)
    healed: list[threading.Timer] = []

    def cut() -> None:
        proxy.cut()
        healed.append(threading.Timer(1.0, proxy.heal))
        healed[0].start()

    with (
        closing(Worksite(through(proxy, faulty.url))) as far,
        far.crew(Increment, run, threads=2, probe=AtVisit("after the write", 5, cut)),
    ):
        pass
    done_once(faulty, faulty.outcome(run))
    assert healed


def test_no_connection_is_free_when_one_is_needed(faulty: Worksite, server: LocalPostgres) -> None:
    """max_connections is reached by others; the worker waits for a place."""
    faulty.numbers(ROWS)
    run = faulty.enqueue(Increment, options=OPTIONS)
    others = ExitStack()

    def take_all_places() -> None:
        faulty.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name LIKE 'backfill %%' AND pid <> pg_backend_pid()"
        )
        with suppress(psycopg.OperationalError):  # "too many clients"
            for _ in range(PLACES + 1):
                others.enter_context(psycopg.connect(server.url()))
        with pytest.raises(psycopg.OperationalError, match="too many clients"):
            psycopg.connect(server.url())
        threading.Timer(1.0, others.close).start()

    probe = AtVisit("after the write", 5, take_all_places)
    with faulty.crew(Increment, run, probe=probe):
        pass
    done_once(faulty, faulty.outcome(run))


class Copy(Job):
    source = Table("t", columns=["n"])
    target = Insert("copies", on_conflict="error")


@contextmanager
def on_a_full_disk(site: Worksite, server: LocalPostgres, table: str) -> Iterator[None]:
    """PostgreSQL finds no space for the first page of this empty table.

    Its file leads to /dev/full, where the kernel answers each write with "No space left on device",
    for everybody: a file system that is full may be made by root alone.
    """
    file = server.data_directory / site.value("SELECT pg_relation_filepath(%s)", table)
    file.unlink()
    file.symlink_to("/dev/full")
    yield
    file.unlink()
    owner = server.data_directory.stat()
    file.touch(mode=0o600)
    os.chown(file, owner.st_uid, owner.st_gid)


def test_a_full_disk_pauses_and_with_space_again_it_goes_on(
    faulty: Worksite, server: LocalPostgres
) -> None:
    faulty.numbers(ROWS)
    faulty.execute(
        "CREATE TABLE copies (id bigint, n int) PARTITION BY RANGE (id);"
        " CREATE TABLE has_room PARTITION OF copies FOR VALUES FROM (1) TO (75);"
        " CREATE TABLE has_none PARTITION OF copies FOR VALUES FROM (75) TO (1000)"
    )
    with on_a_full_disk(faulty, server, "has_none"):
        paused = faulty.run(Copy, options=OPTIONS)
        (pause,) = paused.pauses
        assert (pause.cause, paused.counts.written) == ("error", 70)
        assert "53100" in pause.reason
        assert "No space left on device" in pause.reason
        assert f"backfill resume {paused.run.id}" in pause.ends
    faulty.lift(paused.run)
    done = faulty.work(Copy, paused.run)
    assert (done.state, done.counts.written) == ("succeeded", ROWS)
    assert faulty.rows("SELECT count(*), count(DISTINCT id) FROM copies") == [(ROWS, ROWS)]


def test_a_synchronous_standby_that_hangs_is_waited_for_until_somebody_ends_that(
    faulty: Worksite, server: LocalPostgres
) -> None:
    """No time-out of PostgreSQL bounds that wait. Who cancels it is told what it means (I7).

    Also where the database lets no warning pass.
    """
    faulty.numbers(ROWS)
    faulty.execute("ALTER DATABASE now SET client_min_messages = 'error'")
    options = Options(batch_rows=10, slice_rows=100, statement_timeout_seconds=0.5)
    run = faulty.enqueue(Increment, options=options)
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with (
        standby_of(server) as standby,
        hanging_later(faulty, standby) as (standby_pid, hang, go_on),
        faulty.crew(Increment, run, probe=AtVisit("before COMMIT", 2, hang)),
    ):
        # each commit waits a little, also for a standby that answers
        until(lambda: is_stopped(standby_pid), what="the standby to hang")
        until(lambda: faulty.rows(waiting), what="the wait for the standby")
        ((pid,),) = faulty.rows(waiting)
        time.sleep(1.0)
        assert faulty.rows(waiting) == [(pid,)], "it has given up"
        assert server_about(faulty).unconfirmed_seconds > 1.0, "the doctor does not see it"
        before = faulty.outcome(run).counts.written
        faulty.execute("SELECT pg_cancel_backend(%s)", pid)
        told = faulty.until_event(run, "commit.unconfirmed")
        assert faulty.outcome(run).counts.written == before + 10, "it took effect here"
        go_on()
    done_once(faulty, faulty.outcome(run))
    assert told.detail["seconds"] >= options.statement_timeout_seconds
    assert server_about(faulty).unconfirmed_seconds == 0


def server_about(site: Worksite) -> About:
    """What `backfill doctor` sees of the server."""
    with connect(site.url) as conn:
        return about(conn)


@contextmanager
def hanging_later(
    site: Worksite, standby: LocalPostgres
) -> Iterator[tuple[int, Callable[[], None], Callable[[], None]]]:
    """A standby that commits wait for; yields who receives, what lets it hang, and go on."""
    with psycopg.connect(standby.url()) as conn:
        receiver = conn.execute("SELECT pid FROM pg_stat_wal_receiver").fetchone()
    assert receiver is not None
    (pid,) = receiver
    set_server(site, "synchronous_standby_names", "replica1")
    try:
        yield pid, lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT)
    finally:
        os.kill(pid, signal.SIGCONT)
        reset_server(site, "synchronous_standby_names")
        until(lambda: setting(site, "synchronous_standby_names") == "", what="the setting to go")


def set_server(site: Worksite, name: str, value: str) -> None:
    """Change a server's setting, and wait until it holds."""
    with psycopg.connect(site.url, autocommit=True) as conn:
        conn.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
        conn.execute("SELECT pg_reload_conf()")
        until(lambda: conn.execute(f"SHOW {name}".encode()).fetchone() == (value,), what=name)


def reset_server(site: Worksite, name: str) -> None:
    """Take it back."""
    with psycopg.connect(site.url, autocommit=True) as conn:
        conn.execute(f"ALTER SYSTEM RESET {name}".encode())
        conn.execute("SELECT pg_reload_conf()")


def setting(site: Worksite, name: str) -> object:
    """A setting as a new session sees it."""
    with psycopg.connect(site.url) as conn:
        row = conn.execute(f"SHOW {name}".encode()).fetchone()
    return row and row[0]


#: What an administrator, or a hosting provider, may have set for everybody.
STRICT = {
    "statement_timeout": "150ms",
    "lock_timeout": "1ms",
    "idle_in_transaction_session_timeout": "50ms",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Kolkata",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "IntervalStyle": "sql_standard",
    "search_path": "nowhere",
    "standard_conforming_strings": "off",
    "row_security": "off",
    "synchronous_commit": "off",
}


def test_settings_of_the_role_do_not_change_what_a_batch_does(faulty: Worksite) -> None:
    """A batch that takes longer than the role's time-outs commits, in the isolation we need."""
    faulty.execute("CREATE TABLE public.t (id timestamptz PRIMARY KEY, n int NOT NULL DEFAULT 0)")
    faulty.execute(
        "INSERT INTO t SELECT timestamptz '2026-01-31' + i * interval '1.000001 day'"
        f" FROM generate_series(1, {ROWS}) i"
    )
    faulty.execute(
        "CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_sleep(0.2); RETURN NULL; END'"
    )
    faulty.execute("CREATE TRIGGER slowly AFTER UPDATE ON t EXECUTE FUNCTION slowly()")
    run = faulty.enqueue(Increment, options=Options(batch_rows=50, slice_rows=70))
    for name, value in STRICT.items():
        faulty.execute(f"ALTER DATABASE now SET {name} = '{value}'")
    with faulty.crew(Increment, run, threads=2):
        pass
    done_once(faulty, faulty.outcome(run))


def fail_over(primary: LocalPostgres, standby: LocalPostgres, proxy: Proxy) -> None:
    """The primary dies, the standby is promoted, and the address goes to it."""
    primary.kill()
    with psycopg.connect(standby.url(), autocommit=True) as conn:
        assert conn.execute("SELECT pg_promote(wait_seconds => 20)").fetchone() == (True,)
    proxy.cut()
    proxy.port = standby.port
    proxy.heal()


@contextmanager
def before_fail_over(
    server: LocalPostgres, faulty: Worksite, proxy: Proxy
) -> Iterator[tuple[LocalPostgres, Run, Callable[[], None]]]:
    """A standby, a run, and what lets the primary die."""
    faulty.numbers(ROWS)
    run = faulty.enqueue(Increment, options=OPTIONS)
    with standby_of(server) as standby:
        yield standby, run, lambda: fail_over(server, standby, proxy)


def test_a_fail_over_to_a_synchronous_standby(
    faulty: Worksite, server: LocalPostgres, proxy: Proxy
) -> None:
    """What had committed is there; what was in hand happened or did not, and the ledger knows."""
    with before_fail_over(server, faulty, proxy) as (standby, run, die):
        check_standby(server, standby, run)
        check_standby_source(faulty, standby, run)
        set_server(faulty, "synchronous_standby_names", "replica1")
        try:
            check_fail_over(faulty, proxy, standby, run, AtVisit("before COMMIT", 8, die))
        finally:
            server.start()
            reset_server(faulty, "synchronous_standby_names")


def check_standby(server: LocalPostgres, standby: LocalPostgres, run: Run) -> None:
    """Whose URL leads to the standby says so, and writes nothing."""
    wait_until_replayed(server)
    with (
        closing(Worksite(standby.url("now"))) as far,
        pytest.raises(UnreachableError, match="it is a standby now"),
    ):
        far.bench(Increment, run)


class FromStandby(Job):
    source = Table("t")
    target = Insert("copies", on_conflict="error", database="there")


def check_standby_source(faulty: Worksite, standby: LocalPostgres, run: Run) -> None:
    """I2: it shows no transaction that still writes; neither a new run reads there nor one that
    comes back to it.
    """
    with closing(Worksite(faulty.url, source_url=standby.url("now"))) as far:
        for refused in (lambda: far.enqueue(FromStandby), lambda: far.bench(Increment, run)):
            with pytest.raises(UnreachableError, match="source's database is a standby"):
                refused()


def check_fail_over(
    site: Worksite, proxy: Proxy, standby: LocalPostgres, run: Run, probe: AtVisit
) -> None:
    with (
        closing(Worksite(through(proxy, site.url))) as far,
        far.crew(Increment, run, threads=2, probe=probe),
    ):
        pass
    with closing(Worksite(standby.url("now"))) as after:
        done_once(after, after.outcome(run))


def test_an_asynchronous_standby_that_lost_commits_does_them_again(
    faulty: Worksite, server: LocalPostgres, proxy: Proxy
) -> None:
    """Rows and ledger are lost together: it is done once more, on the rows as they were."""
    with before_fail_over(server, faulty, proxy) as (standby, run, die):
        wait_until_replayed(server)
        falls_behind = AtVisit("before the page", 5, lambda: stop_receiving(standby))
        dies = AtVisit("before the page", 12, die)

        def strike(point: str) -> None:
            falls_behind(point)
            dies(point)

        try:
            with (
                closing(Worksite(through(proxy, faulty.url))) as far,
                far.crew(Increment, run, probe=strike),
            ):
                pass
            with closing(Worksite(standby.url("now"))) as after:
                done_once(after, after.outcome(run))
        finally:
            server.start()
    with closing(Worksite(server.url("now"))) as before:
        lost = before.value("SELECT count(*) FROM t WHERE n = 1")
        assert lost >= 40, "nothing was lost that had been committed"


def stop_receiving(standby: LocalPostgres) -> None:
    """It gets nothing any more from its primary."""
    with psycopg.connect(standby.url(), autocommit=True) as conn:
        conn.execute("ALTER SYSTEM SET primary_conninfo = ''")
        conn.execute("SELECT pg_reload_conf()")
        streams = "SELECT count(*) FROM pg_stat_wal_receiver"
        until(lambda: conn.execute(streams).fetchone() == (0,), what="the stream to end")
