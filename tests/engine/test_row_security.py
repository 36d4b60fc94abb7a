"""Row security: for whom it does not hold a run works, for others it stops before a row is lost.

A batch sets `row_security = off` (pg/connect.py), which PostgreSQL takes as "all rows or an error".
So a policy never decides about single rows, neither which are read nor which may be written: its
USING cannot hide any (I2), and its WITH CHECK is not asked. Rules about single rows that a run
obeys are constraints, triggers, and views WITH CHECK OPTION.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backfill.engine.preflight import preflight
from backfill.errors import RefusedError
from backfill.job import Insert, Job, Options, Row, Table
from backfill.job.declaration import declaration_of
from backfill.model import Counts
from tests.engine.factory import AtVisit, Outcome, Worksite
from tests.engine.jobs import Increment, IncrementInPython

ROWS = 100
BY_TEN = Options(batch_rows=10, slice_rows=50)
#: Of a table whose rows belong to tenants.
HALF = "USING (mod(id, 2) = 0) WITH CHECK (n = 0)"


class Copy(Job):
    source = Table("t", columns=["n"])
    target = Insert("copies", on_conflict="error")


@pytest.fixture
def role(site: Worksite) -> Iterator[str]:
    """A role that may do all that rights are for, with the table t and an empty one."""
    name = f"tenant_of_{site.conn.info.dbname}"
    site.numbers(ROWS)
    site.execute("CREATE TABLE copies (id bigint, n int)")
    site.execute(f"CREATE ROLE {name}; GRANT ALL ON t, copies TO {name}")
    site.execute(f"GRANT USAGE ON SCHEMA backfill TO {name}")
    site.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA backfill TO {name}")
    site.execute(f"GRANT ALL ON ALL SEQUENCES IN SCHEMA backfill TO {name}")
    yield name
    site.execute("RESET ROLE")
    site.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


def protect(site: Worksite, table: str, policy: str = HALF) -> None:
    """Enable row security on the table, with this policy for everybody."""
    site.execute(f"CREATE POLICY tenants ON {table} {policy}")
    site.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


def each_once(site: Worksite, done: Outcome) -> None:
    assert (done.state, done.quarantine) == ("succeeded", [])
    assert done.counts == Counts(paged=ROWS, written=ROWS)
    assert site.rows("SELECT n, count(*) FROM t GROUP BY n") == [(1, ROWS)]


@pytest.mark.parametrize("job", [Increment, IncrementInPython])
@pytest.mark.parametrize("who", ["ALTER TABLE t OWNER TO {}", "ALTER ROLE {} BYPASSRLS"])
def test_a_role_to_whom_policies_do_not_apply_works_on_all_rows(
    site: Worksite, role: str, who: str, job: type[Job]
) -> None:
    protect(site, "t")
    site.execute(who.format(role))
    each_once(site, site.run(job, options=BY_TEN, role=role))


@pytest.mark.parametrize("table", ["t", "copies"])
@pytest.mark.parametrize("policy", [HALF, "USING (true) WITH CHECK (mod(id, 2) = 0)"])
def test_a_role_to_whom_a_policy_applies_is_refused_before_it_begins(
    site: Worksite, role: str, table: str, policy: str
) -> None:
    """Of the source, and of the target; also where it would only refuse what is written."""
    protect(site, table, policy)
    site.execute(f"SET ROLE {role}")
    with pytest.raises(RefusedError) as caught:
        preflight(site.conn, declaration_of(Copy), arguments={})
    assert f'row-level security policy for table "{table}"' in caught.value.message
    assert "BYPASSRLS" in caught.value.remedy
    assert "owner" in caught.value.remedy


def test_the_owner_is_refused_where_policies_are_forced(site: Worksite, role: str) -> None:
    protect(site, "t")
    site.execute(f"ALTER TABLE t OWNER TO {role}; ALTER TABLE t FORCE ROW LEVEL SECURITY")
    site.execute(f"SET ROLE {role}")
    with pytest.raises(RefusedError, match='row-level security policy for table "t"'):
        preflight(site.conn, declaration_of(Increment), arguments={})


@pytest.mark.parametrize(
    ("job", "table"), [(Increment, "t"), (IncrementInPython, "t"), (Copy, "t"), (Copy, "copies")]
)
def test_a_policy_that_is_enabled_in_mid_run_pauses_it_and_no_row_is_lost(
    site: Worksite, role: str, job: type[Job], table: str
) -> None:
    enable = AtVisit("after COMMIT", 3, lambda: protect(site, table))
    paused = site.run(job, options=BY_TEN, role=role, probe=enable)
    assert paused.state == "paused"
    assert paused.why_paused.startswith("error: ")
    assert f'row-level security policy for table "{table}"' in paused.why_paused
    assert "42501" in paused.why_paused
    assert paused.quarantine == []
    assert paused.counts == Counts(paged=30, written=30)

    site.execute(f"ALTER ROLE {role} BYPASSRLS")
    site.lift(paused.run)
    done = site.work(job, paused.run, role=role)
    if job is Copy:
        assert done.state == "succeeded"
        assert site.rows("SELECT count(*), count(DISTINCT id) FROM copies") == [(ROWS, ROWS)]
    else:
        each_once(site, done)


class AddThroughView(Job):
    source = Table("t", columns=["n"])
    target = Insert("even", on_conflict="error", columns=["id", "n"])

    def transform(self, row: Row) -> dict[str, object]:
        return {"id": row.id, "n": 1}


@pytest.mark.parametrize("job", [AddThroughView, Copy])
def test_rows_that_a_views_check_option_refuses_are_quarantined_and_the_others_written(
    site: Worksite, role: str, job: type[Job]
) -> None:
    """What decides about single rows without hiding any."""
    site.execute("ALTER TABLE copies RENAME TO held")
    for view in ("even", "copies"):
        site.execute(
            f"CREATE VIEW {view} AS SELECT * FROM held WHERE mod(id, 10) <> 0 WITH CHECK OPTION"
        )
    site.execute(f"GRANT ALL ON even, copies TO {role}")
    options = Options(batch_rows=10, slice_rows=50, quarantine_rows=50, quarantine_share=1.0)
    done = site.run(job, options=options, role=role)
    assert done.counts == Counts(paged=ROWS, written=90, quarantined=10)
    assert {(row.sqlstate, int(row.key[0]) % 10) for row in done.quarantine} == {("44000", 0)}
    assert site.rows("SELECT count(*), count(DISTINCT id) FROM held") == [(90, 90)]
