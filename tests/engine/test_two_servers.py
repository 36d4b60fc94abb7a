"""`Insert(database=…)` from another server, of another version, that is away in mid-run.

What two databases of one server show is in test_across.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest

from backfill.job import Insert, Job, Options, Row, Table
from backfill.local.binaries import find_postgres, major_version
from backfill.local.postgres import LocalPostgres
from backfill.model import Counts
from tests.engine.factory import AtVisit
from tests.engine.test_across import Across, Copy
from tests.programs import system_postgres
from tests.services import embedded_postgres

ROWS = 300


class CopyInPython(Job):
    source = Table("t", columns=["n", "label"])
    target = Insert("copies", on_conflict="error", database="there")

    def transform(self, row: Row) -> dict[str, object]:
        return {"id": row.id, "n": row.n + 1, "label": row.label}


@pytest.fixture
def other_server(conn: psycopg.Connection) -> Iterator[LocalPostgres]:
    """A server of another major version than the session's, with rows to copy."""
    programs = system_postgres()
    if major_version(programs / "postgres") == conn.info.server_version // 10_000:
        programs = find_postgres()
    with embedded_postgres({"fsync": False}, bin_directory=programs) as server:
        assert server.url("there") == server.create_database("there")
        with psycopg.connect(server.url("there"), autocommit=True) as there:
            assert there.info.server_version // 10_000 != conn.info.server_version // 10_000
            there.execute("CREATE TABLE t (id bigint PRIMARY KEY, n int NOT NULL, label text)")
            there.execute(
                "INSERT INTO t SELECT i, 0, 'row ' || i FROM generate_series(1, %s) AS i", [ROWS]
            )
            there.execute("ANALYZE t")
        yield server


@pytest.mark.parametrize(
    ("job", "point"), [(Copy, "after the write"), (CopyInPython, "before the page")]
)
def test_each_row_arrives_once_though_the_sources_server_goes_and_comes(
    db_url: str, other_server: LocalPostgres, job: type[Job], point: str
) -> None:
    """In the middle of a batch, without a word, for half a second."""
    site = Across(db_url, other_server.url("there"))
    site.execute("CREATE TABLE copies (id bigint, n int, label text)")
    back = threading.Timer(0.5, other_server.start)

    def go() -> None:
        other_server.stop("immediate", keep=True)
        back.start()

    options = Options(batch_rows=10, slice_rows=60)
    done = site.run(job, options=options, threads=2, probe=AtVisit(point, 8, go))
    back.join()
    assert done.state == "succeeded"
    assert "run.paused" not in done.event_names
    assert done.counts == Counts(paged=ROWS, written=ROWS)
    assert site.rows(
        "SELECT count(*), count(DISTINCT id), count(DISTINCT label), sum(n) FROM copies"
    ) == [(ROWS, ROWS, ROWS, 0 if job is Copy else ROWS)]
    site.close()
