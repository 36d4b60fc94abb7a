"""A scope that matches one row in ten million: found, in statements that are short each (I5).

At night, because the table alone takes a while: `HYPOTHESIS_PROFILE=nightly`. By day
test_every_table.py counts what is read of 300,000 rows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest

from backfill.job import Job, Sql, Table, Update
from backfill.local.postgres import LocalPostgres
from backfill.model import Counts
from backfill.pg.install import upgrade
from tests.engine.factory import Worksite
from tests.profiles import nightly

ROWS = 10_000_000
#: None may take longer; the server's own time-out for them is 30 s.
LONGEST_SECONDS = 2.0
#: Slower statements than this are in the server's log.
LOGGED = "20ms"


class FindOne(Job):
    """The only row that matches is the last but one."""

    source = Table("t", where="n = 1", todo="n <> 2")
    transform = Sql(n="n + 1")
    target = Update()


@pytest.fixture
def site(own_postgres: LocalPostgres) -> Iterator[Worksite]:
    url = own_postgres.create_database("large")
    with psycopg.connect(url, autocommit=True) as conn:
        upgrade(conn)
        conn.execute("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)")
        conn.execute(
            f"INSERT INTO t SELECT i, (i = {ROWS - 1})::int FROM generate_series(1, {ROWS}) i"
        )
        conn.execute("VACUUM ANALYZE t")
        conn.execute(f"ALTER DATABASE large SET log_min_duration_statement = '{LOGGED}'")
    with closing(Worksite(url)) as site:
        yield site


@nightly
@pytest.mark.timeout(1_200)
def test_one_row_of_ten_million_is_found_in_short_statements(
    site: Worksite, own_postgres: LocalPostgres, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    run = site.enqueue(FindOne)
    done = site.work(FindOne, run, threads=2, wait_seconds=900)
    seconds = time.monotonic() - began
    log = (own_postgres.data_directory / "server.log").read_text(errors="replace")
    durations = [float(found) / 1000 for found in re.findall(r"duration: ([\d.]+) ms", log)]
    longest = max(durations, default=0.0)
    told = (
        f"{seconds:.1f} s; {len(durations)} statements over {LOGGED}, the longest {longest:.3f} s"
    )
    record_property("scale", told)
    print(told)
    assert done.state == "succeeded"
    assert done.counts == Counts(paged=1, written=1)
    assert site.value(f"SELECT n FROM t WHERE id = {ROWS - 1}") == 2
    assert longest < LONGEST_SECONDS, told
