"""Secrets, passwords and values of rows are nowhere that they need not be, whatever happens.

One crew with hostile names in its tables works, puts rows into quarantine for every kind of reason,
meets a refused statement, a failed check, a lost database and a message that is no JSON. Meanwhile
everything that anybody could read is kept, and each test reads it.
"""

from __future__ import annotations

import base64
import pickle
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit
from uuid import uuid4

import psycopg
import pytest
import redis
from psycopg import sql

from backfill.model import RunState
from tests.acceptance.conftest import PASSWORD, REDIS_PASSWORD, logged_in, with_users
from tests.acceptance.crew import QUICK, Crew
from tests.flower.servers import running_flower
from tests.services import PostgresServer

SECRET = "a-key-of-the-geocoder-4711"
#: Parts of values and of keys of rows.
VALUE, KEY = "a-value-of-a-row-4714", "a-key-of-a-row-4715"
LOGIN = "a-password-of-flower-4716"
THE_END = "no-key-but-the-end-of-listening"
#: Names that end a statement, a placeholder or a format where somebody pastes them into one.
TABLE = 'odd "; DROP TABLE place; -- %(x)s %s {} {0}'
COLUMN = "of '; DROP TABLE place; -- %(x)s {row}"
KEY_COLUMN = 'key "); --%'
RESULT = 'code "%s" \\ {}'

JOBS = f"""
TABLE, COLUMN, KEY_COLUMN, RESULT = {TABLE!r}, {COLUMN!r}, {KEY_COLUMN!r}, {RESULT!r}
ALL = dict(batch_rows=50, slice_rows=300, quarantine_rows=1000, quarantine_share=1.0)

def quoted(name):
    return '"' + name.replace('"', '""') + '"'

class Geocode(Job):
    source = Table(quoted(TABLE), where=quoted(COLUMN) + " <> %(key)s")
    target = Update(RESULT)
    options = Options(**ALL)
    key = Param(str, secret=True, env="GEOCODER_KEY")
    suffix = Param(str, default="!")

    def transform(self, row):
        if row["n"] % 100 == 1:
            raise ValueError("not to be found: " + row[COLUMN])
        # the same twice: the constraint's DETAIL quotes it; "bad": a CHECK quotes the whole row
        same = {{2: row[COLUMN][:-5] + "twice", 3: "bad " + row[COLUMN]}}.get(row["n"] % 100)
        return {{RESULT: same or f"{{row[COLUMN]}} {{len(self.key)}} {{self.suffix}}"}}

class Fold(Job):
    source = Table(quoted(TABLE), todo=quoted(COLUMN) + " <> lower(" + quoted(COLUMN) + ")")
    transform = Sql({{COLUMN: "lower(" + quoted(COLUMN) + ")"}})
    target = Update()
    options = Options(**ALL)

class Unending(Job):
    source = Table(quoted(TABLE), columns=["n"], todo="n < 40")
    target = Update("n")
    options = Options(**ALL)

    def transform(self, row):
        return {{"n": row["n"] - 1}}

class Stumble(Job):
    source = Table("place", columns=["city"], where="city <> %(key)s")
    target = Update("nothing_there")
    key = Param(str, secret=True, env="GEOCODER_KEY")
    transform = Sql(nothing_there="%(key)s || city")
"""


class Opened:
    """What a pickle would do where somebody loads it: leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


@contextmanager
def everything_told(url: str) -> Iterator[list[bytes]]:
    """Every command that Redis is sent meanwhile: values, messages and published events.

    By a bare connection: a client's would parse each line, and give up where it is slow to.
    """
    told: list[bytes] = []
    where = urlsplit(url)
    with socket.create_connection((where.hostname or "", where.port or 0)) as listening:
        listening.sendall(b"MONITOR\r\n")

        def listen() -> None:
            end = b""
            while THE_END.encode() not in end:
                chunk = listening.recv(1 << 20)
                if not chunk:
                    return
                told.append(chunk)
                end = end[-len(THE_END) :] + chunk

        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield told
        finally:
            with redis.Redis.from_url(url) as client:
                client.get(THE_END)
            thread.join()


def readable(text: str) -> str:
    """The text, and what stands in it as base64: so messages have their bodies."""
    hidden = re.findall(r"[A-Za-z0-9+/]{24,}={0,2}", text)
    bodies = []
    for found in hidden:
        try:
            bodies.append(base64.b64decode(found, validate=True).decode())
        except ValueError:
            continue
    return "\n".join([text, *bodies])


def all_of_redis(url: str) -> str:
    """Every key with its value."""
    read = {
        b"string": lambda client, key: client.get(key),
        b"hash": lambda client, key: client.hgetall(key),
        b"set": lambda client, key: client.smembers(key),
        b"zset": lambda client, key: client.zrange(key, 0, -1),
        b"list": lambda client, key: client.lrange(key, 0, -1),
        b"stream": lambda client, key: client.xrange(key),
    }
    with redis.Redis.from_url(url) as client:
        return "\n".join(
            repr((key, read[kind](client, key)))
            for key in client.scan_iter("*", count=1000)
            if (kind := client.type(key)) != b"none"
        )


def all_of_the_ledger(conn: psycopg.Connection) -> dict[str, str]:
    """Every column of every table of the ledger, by `table.column`."""
    columns = conn.execute(
        "SELECT relname, attname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid"
        " WHERE relkind = 'r' AND relnamespace = 'backfill'::regnamespace AND attnum > 0"
    ).fetchall()
    found = {}
    for table, column in columns:
        rows = conn.execute(
            sql.SQL("SELECT {}::text FROM {}").format(
                sql.Identifier(column), sql.Identifier("backfill", table)
            )
        )
        found[f"{table}.{column}"] = "\n".join(str(row[0]) for row in rows)
    return found


def all_command_lines() -> str:
    """What `ps` shows to everybody, whose ever the process is."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # it has ended
            continue
    return "\n".join(lines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What was kept.

    Attributes:
        outside: by the place where it was found.
        flower: what its quarantine page says.
        ledger: by column.
        columns: what the hostile columns hold in the end.
    """

    outside: Mapping[str, str]
    quarantine: str
    ledger: Mapping[str, str]
    written: int
    places: int
    is_pickle_opened: bool


def send_a_pickle(crew: Crew, opened: Path) -> None:
    """A task of ours in the queue, its body a pickle."""
    crew.app.send_task("backfill.work", kwargs={"run": "none"}, queue="elsewhere")
    with redis.Redis.from_url(crew.environ["BACKFILL_REDIS_URL"]) as client:
        message = client.lpop("elsewhere")
        assert isinstance(message, bytes)
        body = base64.b64encode(pickle.dumps(((Opened(opened),), {}, {}))).decode()
        text = message.decode().replace("application/json", "application/x-python-serialize")
        text = re.sub(r'"body": "[^"]*"', f'"body": "{body}"', text)
        client.lpush(
            "backfill", text.replace('"elsewhere"', '"backfill"').replace("none", uuid4().hex)
        )


def arrange(conn: psycopg.Connection) -> None:
    """A table with hostile names, and one that they would drop."""
    names = {
        "table": sql.Identifier(TABLE),
        "key": sql.Identifier(KEY_COLUMN),
        "column": sql.Identifier(COLUMN),
        "result": sql.Identifier(RESULT),
    }
    for statement in (
        (
            "CREATE TABLE {table} ({key} text PRIMARY KEY, {column} text NOT NULL, n int NOT NULL,"
            " {result} text UNIQUE CHECK ({result} NOT LIKE 'bad%'))"
        ),
        (
            f"INSERT INTO {{table}} SELECT 'k{KEY}' || to_char(i, '0000'),"
            f" 'V{VALUE}' || to_char(i, '0000'), i FROM generate_series(1, 1500) i"
        ),
        "CREATE TABLE place (id int PRIMARY KEY, city text NOT NULL, nothing_there text)",
        f"INSERT INTO place SELECT i, '{VALUE}' || i FROM generate_series(1, 1000) i",
    ):
        conn.execute(sql.SQL(statement).format(**names))


@pytest.fixture(scope="module")
def seen(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    template_database: str,
) -> Iterator[Seen]:
    """Through written rows, quarantine, a refused statement, a failure and a lost database."""
    folder, opened = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("o") / "opened"
    with (
        pytest.MonkeyPatch.context() as patch,
        with_users(tmp_path_factory.mktemp("redis")) as server,
        postgres_server.database(template_database) as name,
        psycopg.connect(postgres_server.url(name), autocommit=True) as conn,
        logged_in(conn, postgres_server.url(name)) as login,
    ):
        patch.setenv("GEOCODER_KEY", SECRET)
        arrange(conn)
        url = server.url().replace("127.0.0.1", f"worker:{REDIS_PASSWORD}@127.0.0.1")
        crew = Crew(folder, url=login, redis_url=url, engine=QUICK)
        outside: dict[str, str] = {}
        try:
            crew.write_jobs(JOBS)
            with (
                everything_told(server.url()) as told,
                running_flower(
                    folder,
                    crew.environ,
                    login=f"ann:{LOGIN}",
                    variables={"FLOWER_BASIC_AUTH": f"ann:{LOGIN}"},
                ) as flower,
            ):
                first = crew.enqueue("geocode", suffix="?")
                stumbling = crew.enqueue("stumble")
                conn.execute("ALTER TABLE place DROP nothing_there")
                worker = crew.start(2)
                send_a_pickle(crew, opened)
                crew.wait_for(stumbling, RunState.PAUSED)
                crew.wait_for(first, RunState.PAUSED)
                assert crew.causes(first) == {"quarantine"}
                folding = crew.enqueue("fold")
                crew.wait_for(folding, RunState.SUCCEEDED)
                failing = crew.enqueue("unending")
                crew.wait_for(failing, RunState.FAILED)
                crew.wait(
                    lambda: "ContentDisallowed" in worker.log.read_text() or opened.exists(),
                    "the pickle is met",
                )
                outside["command lines"] = all_command_lines()
                outside["pg_stat_activity"] = str(
                    conn.execute("SELECT query, application_name FROM pg_stat_activity").fetchall()
                )
                runs = (first, stumbling, folding, failing)
                for path in [
                    *("/backfills", "/backfills/api/overview", "/tasks", "/api/tasks", "/metrics"),
                    *(f"/backfills/run/{run}?database=default" for run in runs),
                    *(f"/backfills/api/run/{run}?database=default" for run in runs),
                    *(f"/task/{uuid}" for uuid in list(flower.get("/api/tasks").json)[:20]),
                ]:
                    answer = flower.get(path)
                    assert answer.status == 200, (path, answer.status)
                    outside[f"Flower's {path}"] = answer.text
                page = f"/backfills/api/run/{quote(first)}/quarantine?database=default"
                quarantine = flower.get(page).text
                # the database ends every session of the workers
                conn.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                    " AND application_name LIKE 'backfill%'"
                )
                time.sleep(1)  # some rounds of the reconciler
            outside["commands of Redis"] = readable(b"".join(told).decode(errors="replace"))
            outside["Redis"] = readable(all_of_redis(server.url()))
            outside["the worker's log"] = worker.log.read_text()
            outside["Flower's log"] = flower.log.read_text()
            count = sql.SQL("SELECT count(*) FROM {} WHERE {} IS NOT NULL").format(
                sql.Identifier(TABLE), sql.Identifier(RESULT)
            )
            (written,) = conn.execute(count).fetchone() or (0,)
            (places,) = conn.execute("SELECT count(*) FROM place").fetchone() or (0,)
            yield Seen(
                outside=outside,
                quarantine=quarantine,
                ledger=all_of_the_ledger(conn),
                written=written,
                places=places,
                is_pickle_opened=opened.exists(),
            )
        finally:
            crew.close()


def test_it_has_looked_where_it_means_to(seen: Seen) -> None:
    assert "backfill.work" in seen.outside["commands of Redis"]
    assert "task-succeeded" in seen.outside["commands of Redis"]
    assert "geocode" in seen.outside["Redis"]
    log = seen.outside["the worker's log"]
    for event in ("batch.committed", "run.begun", "run.failed", "rows.quarantined", "slice.placed"):
        assert event in log
    # a pooler takes another session for one that has ended between two transactions
    assert Crew.is_pooled or "database.unreachable" in log or "reconcile.failed" in log
    assert "backfill_test_" in seen.outside["command lines"], "PostgreSQL names its sessions"
    assert seen.ledger["run.job"].splitlines().count("geocode") == 1


def test_secrets_and_passwords_are_nowhere(seen: Seen) -> None:
    for place, text in [*seen.outside.items(), *seen.ledger.items(), ("page", seen.quarantine)]:
        for secret in (SECRET, PASSWORD, REDIS_PASSWORD, LOGIN):
            assert secret not in text, place


def test_values_of_rows_are_nowhere_outside_the_database(seen: Seen) -> None:
    for place, text in seen.outside.items():
        for value in (VALUE, KEY):
            assert value not in text, (place, text[max(0, text.find(value) - 200) :][:300])


def test_values_of_rows_are_in_the_ledger_only_where_it_is_documented(seen: Seen) -> None:
    assert {column for column, text in seen.ledger.items() if KEY in text} <= {
        *("run.horizon", "run.frontier", "run.failure", "slice.after", "slice.upto"),
        *("slice.walked", "slice.cursor", "deferred.key", "quarantine.key", "quarantine.message"),
        "event.detail",  # of run.begun and run.failed
    }
    assert {column for column, text in seen.ledger.items() if VALUE in text} == {
        "quarantine.message"
    }
    assert KEY in seen.quarantine, "the page of the quarantine shows which rows they are"


def test_names_and_values_inject_nothing(seen: Seen) -> None:
    assert seen.places == 1000
    # fifteen hundred but fifteen that the transform refuses, fifteen checked, fifteen the same
    assert seen.written == 1500 - 15 - 15 - 14
    sqlstates = seen.ledger["quarantine.sqlstate"].splitlines()
    assert {state: sqlstates.count(state) for state in set(sqlstates)} == {
        "None": 15,
        "23514": 15,
        "23505": 14,
    }


def test_a_message_that_is_no_json_is_refused_and_not_opened(seen: Seen, tmp_path: Path) -> None:
    assert not seen.is_pickle_opened
    assert "ContentDisallowed" in seen.outside["the worker's log"]
    pickle.loads(pickle.dumps(Opened(tmp_path / "opened")))
    assert (tmp_path / "opened").exists(), "it would have been opened"
