"""What `check` finds: each finding where its cause is there, and not where it is not.

Each case prepares a table and says which findings its cause must give; that the same job without
the cause gives none of them is tested by the first case, whose table is as plain as can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from backfill.engine.check import Report, check
from backfill.engine.checks import reading, surroundings
from backfill.engine.checks.estimate import estimates
from backfill.engine.checks.finding import Severity
from backfill.engine.checks.plan import judged
from backfill.engine.checks.runs import Before
from backfill.engine.checks.scene import Matching, Scene, read_scene
from backfill.engine.checks.subject import examine
from backfill.errors import LedgerError, RefusedError
from backfill.job import (
    Call,
    Delete,
    Insert,
    Job,
    Options,
    Param,
    Query,
    Row,
    Sql,
    Table,
    Target,
    Update,
)
from backfill.job.declaration import declaration_of
from backfill.pg.surroundings import OpenTransaction
from tests.engine.factory import Worksite

OPTIONS = Options()


def make(source: Table | Query, target: Target | None = None, transform: Any = None) -> type[Job]:
    """A job named Fill; by default it sets n by Sql."""
    namespace: dict[str, object] = {"source": source, "target": target or Update()}
    if transform is not None:
        namespace["transform"] = transform
    elif target is None:
        namespace["transform"] = Sql(n="1")
    return type("Fill", (Job,), {**namespace, "__module__": __name__})


def found(site: Worksite, job: type[Job], options: Options = OPTIONS) -> Report:
    """What check finds."""
    return check(site.conn, declaration_of(job), arguments={}, options=options, ledger=site.ledger)


def names(report: Report, *severities: Severity) -> set[str]:
    return {f.name for f in report.findings if not severities or f.severity in severities}


TODO = Table("t", todo="n IS NULL")
FILL = make(TODO)
PURGE = make(Table("t", where="n IS NULL"), Delete())


def by_python(self: Job, row: Row) -> dict[str, object]:
    return {"n": 1}


def trigger(what: str, more: str = "") -> str:
    """A trigger that calls f()."""
    return (
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';"
        f"CREATE {what} FOR EACH ROW EXECUTE FUNCTION f();{more}"
    )


REFERRED = "CREATE TABLE p (n int PRIMARY KEY); ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES p"
BY_K = (
    "DROP TABLE t;"
    "CREATE TABLE t (id int, n int, k int, PRIMARY KEY (id, k)) PARTITION BY LIST (k);"
    "CREATE TABLE t1 PARTITION OF t DEFAULT; INSERT INTO t VALUES (1, NULL, 1), (2, NULL, 1)"
)
SERIAL = "CREATE TABLE u (id bigserial PRIMARY KEY, label text)"
WIDE = "UPDATE t SET label = repeat(md5(id::text), 60)"
COPY = make(Table("t", todo="n IS NULL"), Insert("u", on_conflict="skip"))
COPY_LABEL = make(Table("t", todo="n IS NULL"), Insert("u", on_conflict="skip"), Sql(label="label"))
LINES = "CREATE TABLE u AS SELECT i % 300 + 1 AS t FROM generate_series(1, 30000) AS i"
OF_LINES = Query(
    "SELECT t.id, count(*) AS n FROM t JOIN u ON u.t = t.id GROUP BY t.id",
    key="id",
    table="t",
    todo="n > 0",
)
COPY_BY_PYTHON = make(
    Table("t", columns=["id"], todo="n IS NULL"),
    Insert("u", on_conflict="skip", columns=["id"], conflict=["id"]),
    by_python,
)
COPY_ANYTHING = make(
    Table("t", columns=["id"], todo="n IS NULL"),
    Insert("u", on_conflict="skip", conflict=["id"]),
    by_python,
)
PYTHON = make(TODO, Update("n"), by_python)
PYTHON_NAMED = make(Table("t", columns=["label"], todo="n IS NULL"), Update("n"), by_python)

COUNTS = "CREATE TABLE counts (n bigint, rows bigint)"
MANY = (
    "INSERT INTO t SELECT i, i % 30000, 'row' FROM generate_series(301, 60000) AS i;"
    " CREATE INDEX ON t (n)"
)
COUNT = make(
    Query("SELECT n, count(*) AS rows FROM t WHERE n > 0 GROUP BY n", key="n"),
    Insert("counts", on_conflict="skip"),
)
COUNT_ALL = make(
    Query("SELECT n + 1 AS n, count(*) AS rows FROM t WHERE n > 0 GROUP BY t.n", key="n"),
    Insert("counts", on_conflict="skip"),
)
COUNT_OWN = make(
    Query("SELECT id AS n FROM t WHERE id NOT IN (SELECT n FROM counts)", key="n"),
    Insert("counts", on_conflict="skip"),
)
LISTED = (
    "CREATE EXTENSION file_fdw; CREATE SERVER f FOREIGN DATA WRAPPER file_fdw;"
    " CREATE FOREIGN TABLE v (n int) SERVER f OPTIONS (program 'seq 9')"
)
NOT_RUN = {"query-not-runnable"}

#: What is done to a table (id, n, label) of 300 rows; the job; what is found because of it.
CASES: list[tuple[str, type[Job], set[str]]] = [
    ("", FILL, set()),
    ("", make(Table("t")), {"key-mutable"}),
    ("UPDATE t SET n = 1", FILL, {"nothing-matches"}),
    ("CREATE INDEX ON t (n)", FILL, {"index-on-written-column"}),
    ("CREATE INDEX ON t (id) WHERE n > 0", FILL, {"index-on-written-column"}),
    ("CREATE INDEX ON t ((n + 1))", FILL, {"index-on-written-column"}),
    ("CREATE INDEX ON t (id) INCLUDE (n)", FILL, {"index-on-written-column"}),
    ("CREATE INDEX ON t (label)", FILL, set()),
    ("CREATE UNIQUE INDEX ON t (n)", FILL, {"index-on-written-column", "lock-strong"}),
    (trigger("TRIGGER tr AFTER UPDATE ON t"), FILL, {"trigger-fires"}),
    (trigger("TRIGGER tr BEFORE UPDATE OF n ON t"), FILL, {"trigger-fires"}),
    (trigger("TRIGGER tr BEFORE UPDATE OF label ON t"), FILL, set()),
    (trigger("TRIGGER tr BEFORE DELETE ON t"), FILL, set()),
    (trigger("TRIGGER tr BEFORE DELETE ON t"), PURGE, {"trigger-fires"}),
    (trigger("TRIGGER tr BEFORE UPDATE ON t", "ALTER TABLE t DISABLE TRIGGER tr"), FILL, set()),
    ("CREATE RULE r AS ON DELETE TO t DO ALSO SELECT 1", FILL, {"rules"}),
    ("ALTER TABLE t ADD CHECK (n > 0)", FILL, {"check-met"}),
    ("ALTER TABLE t ADD CHECK (id > 0)", FILL, set()),
    ("ALTER TABLE t ADD CHECK (id > 0) NOT VALID", FILL, {"check-not-valid"}),
    (REFERRED, FILL, {"foreign-key-out"}),
    ("CREATE TABLE c (t bigint REFERENCES t)", FILL, set()),
    (
        "ALTER TABLE t ADD UNIQUE (n); CREATE TABLE c (n int REFERENCES t (n))",
        FILL,
        {"foreign-key-in", "lock-strong", "index-on-written-column"},
    ),
    (
        "CREATE TABLE c (t bigint REFERENCES t ON DELETE CASCADE)",
        PURGE,
        {"foreign-key-in", "foreign-key-not-indexed"},
    ),
    ("CREATE TABLE c (t bigint REFERENCES t); CREATE INDEX ON c (t)", PURGE, {"foreign-key-in"}),
    ("ALTER TABLE t SET (autovacuum_enabled = false)", FILL, {"autovacuum-off"}),
    ("ALTER TABLE t SET UNLOGGED", FILL, {"table-unlogged"}),
    ("CREATE TABLE c (PRIMARY KEY (id)) INHERITS (t)", FILL, {"inheritance"}),
    ("CREATE TABLE c () INHERITS (t)", FILL, {"inheritance", "child-not-indexed"}),
    ("CREATE PUBLICATION pub FOR TABLE t", FILL, {"published"}),
    ("CREATE PUBLICATION pub FOR TABLE t WITH (publish = 'insert')", FILL, set()),
    (
        "CREATE PUBLICATION pub FOR TABLE t; ALTER TABLE t REPLICA IDENTITY NOTHING",
        FILL,
        {"no-replica-identity", "not-runnable"},
    ),
    (WIDE, PYTHON, {"rows-wide"}),
    (WIDE, PYTHON_NAMED, set()),
    ("", PYTHON, set()),
    (SERIAL, COPY, {"sequence-behind"}),
    (SERIAL, COPY_LABEL, {"sequence-gaps"}),
    ("CREATE TABLE u (id bigint PRIMARY KEY, x int NOT NULL)", COPY, {"column-required"}),
    ("CREATE TABLE u (id bigint PRIMARY KEY, x int NOT NULL)", COPY_BY_PYTHON, {"column-required"}),
    ("CREATE TABLE u (id bigint PRIMARY KEY, x int NOT NULL)", COPY_ANYTHING, set()),
    (BY_K, make(Table("t", key=["k", "id"], todo="n IS NULL")), {"key-not-indexed"}),
    (BY_K, make(TODO, Update(), Sql(n="1")), set()),
    (LINES, make(OF_LINES, Update("n"), by_python), {"lookup-without-index"}),
    (f"{LINES}; CREATE INDEX ON u (t)", make(OF_LINES, Update("n"), by_python), set()),
    (COUNTS, COUNT, {"key-mutable", "source-not-locked", "nothing-matches"}),
    (f"{COUNTS}; {MANY}", COUNT, {"key-mutable", "source-not-locked"}),
    (f"{COUNTS}; {MANY}", COUNT_ALL, {"key-mutable", "source-not-locked", "page-computes-all"}),
    (COUNTS, COUNT_OWN, {"key-mutable", "source-not-locked", "source-reads-target"}),
    (
        f"{COUNTS}; CREATE VIEW v AS SELECT n, count(*) AS rows FROM t GROUP BY n",
        make(Table("v", key="n"), Insert("counts", on_conflict="skip")),
        {"key-mutable", "source-not-locked"},
    ),
    (COUNTS, make(Query("SELECT a", key="a"), Insert("counts", on_conflict="skip")), NOT_RUN),
    ("CREATE VIEW v AS TABLE t", make(Table("v", key="id"), Delete()), {"source-no-table"}),
    ("", make(Table("t", where="nn > 0", todo="n IS NULL")), {"not-runnable"}),
    ("ALTER TABLE t DROP CONSTRAINT t_pkey", make(TODO), {"key-missing"}),
    (
        "ALTER TABLE t DROP CONSTRAINT t_pkey, ALTER id DROP NOT NULL",
        make(Table("t", key="id", columns=["lable"]), Update("mm"), by_python),
        {"key-nullable", "key-not-unique", "key-not-indexed", "column-missing"},
    ),
    ("", make(Table("t", where="label::int > 0", todo="n IS NULL")), {"scope-not-computable"}),
    ("DROP TABLE t", FILL, {"source-missing"}),
]
#: Notes whose causes are the size and the defaults of any small table.
USUAL = {"fillfactor", "page-small-table"}


def prepare(site: Worksite, schema: str, cause: str) -> None:
    """A table in a schema of its own, to which something is done."""
    site.execute(f"CREATE SCHEMA {schema}; SET search_path = {schema}")
    site.execute("CREATE TABLE t (id bigint PRIMARY KEY, n int, label text)")
    site.execute("INSERT INTO t (id, label) SELECT i, 'row' FROM generate_series(1, 300) AS i")
    site.execute(cause or "SELECT 1")
    for (table,) in site.rows(
        "SELECT oid::regclass::text FROM pg_class WHERE relkind IN ('r', 'p')"
        " AND relnamespace = to_regnamespace(%s)",
        schema,
    ):
        site.execute(f"ANALYZE {table}")


def test_each_finding_is_made_where_its_cause_is_there_and_only_there(site: Worksite) -> None:
    wrong = []
    for number, (cause, job, expected) in enumerate(CASES):
        prepare(site, f"s{number}", cause)
        given = names(found(site, job)) - USUAL
        if given != expected:
            wrong.append((cause, sorted(given), sorted(expected)))
        site.execute(f"DROP SCHEMA s{number} CASCADE")
        site.execute("DROP PUBLICATION IF EXISTS pub")
    assert not wrong, "\n".join(map(str, wrong))


def test_a_foreign_table_is_named_as_one(site: Worksite) -> None:
    if not site.rows("SELECT FROM pg_available_extensions WHERE name = 'file_fdw'"):
        pytest.skip("this PostgreSQL has no file_fdw")
    prepare(site, "s", f"{COUNTS}; {LISTED}")
    job = make(Table("v", key="n"), Insert("counts", on_conflict="skip"))
    expected = {"key-mutable", "source-not-locked", "source-foreign", "never-analyzed"}
    assert names(found(site, job)) - USUAL == expected


def test_every_finding_says_why_and_what_to_do_and_the_worst_come_first(site: Worksite) -> None:
    prepare(site, "s", trigger("TRIGGER tr AFTER UPDATE ON t") + "CREATE INDEX ON t (n)")
    site.execute("ALTER TABLE t ADD CHECK (n > 0)")
    findings = found(site, make(Table("t", where="nn > 0"))).findings
    order = [list(Severity).index(finding.severity) for finding in findings]
    assert order == sorted(order)
    assert order[0] == 0
    assert set(order) == {0, 1, 2}
    for finding in findings:
        assert finding.message
        assert finding.why.endswith((".", "`")), finding
        assert finding.remedy, finding


# --- the server ----------------------------------------------------------------------------------


@pytest.fixture
def scene(site: Worksite) -> Scene:
    """FILL on its small table, on a server that nothing is wrong with."""
    prepare(site, "s", "")
    return scene_of(site, FILL)


def scene_of(site: Worksite, job: type[Job], options: Options = OPTIONS) -> Scene:
    subject, refused = examine(site.conn, declaration_of(job), arguments={})
    assert subject is not None, refused.findings
    scene = read_scene(site.conn, subject, options, is_plannable=True, reader=site.conn)
    return replace(scene, server=replace(scene.server, idle_slots=[], free_connections=90))


HANGS = {"synchronous_standbys": "a", "synchronous_commit": "on"}
SERVERS: list[tuple[Mapping[str, Any], set[str]]] = [
    ({}, set()),
    ({"is_standby": True}, {"standby"}),
    ({"read_only": True}, {"read-only"}),
    ({"deadlock_timeout": 0.2}, {"deadlock-timeout"}),
    ({"transaction_timeout": 5.0}, {"transaction-timeout"}),
    ({"transaction_timeout": 60.0}, set()),
    ({"idle_session_timeout": 60.0}, {"idle-session-timeout"}),
    ({"own_settings": {"statement_timeout": "5s"}}, {"settings-overridden"}),
    ({"own_settings": {"work_mem": "1GB"}}, {"settings-kept"}),
    ({"replication_role": "replica"}, {"replication-role"}),
    (HANGS, {"synchronous-standby-away"}),
    ({**HANGS, "connected_synchronous": 1}, {"synchronous-standby"}),
    ({**HANGS, "synchronous_commit": "local"}, set()),
    ({"idle_slots": ["old"]}, {"replication-slot-idle"}),
    ({"free_connections": 3}, {"connections-short"}),
    ({"sees_all": False}, {"sessions-hidden"}),
]


def test_what_is_wrong_with_a_server_is_found(scene: Scene) -> None:
    for changes, expected in SERVERS:
        server = replace(scene.server, **changes)
        changed = replace(scene, server=server)
        given = {f.name for advice in surroundings.CHECKS for f in advice(changed)}
        assert given == expected, changes


def test_the_options_and_sessions_of_others_are_looked_at(scene: Scene) -> None:
    headlong = Options(lock_timeout_seconds=0.9, target_batch_seconds=0.4)
    (finding,) = surroundings.deadlock_timeout(replace(scene, options=headlong))
    assert "lock_timeout_seconds=0.3 or less" in finding.remedy
    old = OpenTransaction(who="process 7 (psql, idle in transaction)", seconds=3_700)
    (finding,) = surroundings.long_transactions(replace(scene, long_transactions=[old]))
    assert finding.message == "process 7 (psql, idle in transaction), open for 3,700 s"
    (finding,) = surroundings.pooler(replace(scene, through_pooler=True))
    assert finding.severity is Severity.NOTE


def test_a_locked_table_refuses_the_run_and_names_who_holds_it(site: Worksite) -> None:
    prepare(site, "s", "")
    with site.session() as other:
        other.execute("LOCK TABLE s.t IN SHARE MODE")
        with pytest.raises(RefusedError, match="holds ShareLock on t"):
            site.enqueue(FILL)


# --- the page ------------------------------------------------------------------------------------


class Narrow(Job):
    """With a parameter whose value nobody is shown."""

    source = Table("t", where="label <> %(word)s", todo="n IS NULL")
    transform = Sql(n="1")
    target = Update()
    word = Param(str, default="hushhush")


def test_the_page_of_a_larger_table_walks_the_index_and_its_plan_tells_no_values(
    site: Worksite,
) -> None:
    prepare(site, "s", "INSERT INTO t SELECT i, NULL, 'x' FROM generate_series(301, 60000) AS i")
    declaration = declaration_of(Narrow)
    arguments = declaration.sql_arguments(Narrow())
    report = check(site.conn, declaration, arguments=arguments, options=OPTIONS, ledger=site.ledger)
    page = report.page
    assert page is not None
    assert page.walks_index, page.lines
    told = "\n".join(page.lines)
    assert "Index Scan using t_pkey on t" in told
    assert "index condition" in told
    assert "hushhush" not in told


class Ring(Job):
    source = Query("SELECT t.id, o.label FROM t JOIN t AS o ON o.id = t.id", key="id", table="t")
    target = Call()

    def transform(self, row: Row) -> None:
        """Tell nobody."""


SLOW = make(Table("t", columns=["label"], todo="n IS NULL"), Update("n"), by_python)


@pytest.mark.parametrize(
    ("job", "options", "locks"),
    [
        (SLOW, OPTIONS, True),
        (SLOW, Options(lock="optimistic"), False),
        (make(Table("t", where="n IS NULL"), Call(), by_python), OPTIONS, False),
        (Ring, OPTIONS, False),
    ],
    ids=["locked", "optimistic", "Call", "Call over a query"],
)
def test_the_plan_is_that_of_the_page_that_is_read(
    site: Worksite, job: type[Job], options: Options, locks: bool
) -> None:
    prepare(site, "s", "INSERT INTO t SELECT i, NULL, 'x' FROM generate_series(301, 60000) AS i")
    page = found(site, job, options).page
    assert page is not None
    told = "\n".join(page.lines)
    assert page.walks_index, told
    assert ("LockRows" in told) is locks


def test_a_query_that_reads_a_whole_table_for_each_key_is_found_without_locks_too(
    site: Worksite,
) -> None:
    prepare(site, "s", LINES)
    site.execute("INSERT INTO t (id) SELECT generate_series(301, 60000); ANALYZE t")

    class Tell(Ring):
        source = OF_LINES

    report = found(site, Tell)
    assert report.page is not None
    assert report.page.walks_index, report.page.lines
    assert report.page.read_whole == ["u"]
    assert "lookup-without-index" in names(report)


@pytest.mark.parametrize(
    ("nodes", "walks"),
    [
        ([{"Node Type": "Index Scan", "Alias": "t", "Index Cond": "x"}], True),
        ([{"Node Type": "Index Only Scan", "Alias": "t_12", "Index Cond": "x"}], True),
        ([{"Node Type": "Index Scan", "Alias": "t"}], False),
        ([{"Node Type": "Seq Scan", "Alias": "t"}], False),
        ([{"Node Type": "Bitmap Heap Scan", "Alias": "t"}], False),
        ([{"Node Type": "Sort", "Plans": [
            {"Node Type": "Index Scan", "Alias": "t", "Index Cond": "x"}]}], False),
        ([{"Node Type": "Index Scan", "Alias": "t", "Index Cond": "x"},
          {"Node Type": "Seq Scan", "Alias": "t_1"}], False),
        ([{"Node Type": "Index Scan", "Alias": "t", "Index Cond": "x"},
          {"Node Type": "Seq Scan", "Alias": "other"}], True),
        ([{"Node Type": "Index Scan", "Alias": "t", "Index Cond": "x", "Plans": [
            {"Node Type": "Seq Scan", "Alias": "t", "Parent Relationship": "SubPlan"}]}], True),
        ([], False),
    ],
)  # fmt: skip
def test_a_page_walks_the_index_if_each_scan_of_the_source_does(
    nodes: list[dict[str, Any]], walks: bool
) -> None:
    def costed(node: dict[str, Any]) -> dict[str, Any]:
        below = [costed(one) for one in node.get("Plans", [])]
        return {**node, "Total Cost": 1.0, "Plan Rows": 1, "Plans": below}

    scan = {"Node Type": "Aggregate", "Subplan Name": "CTE _scan", "Plans": nodes}
    assert judged(costed({"Node Type": "Append", "Plans": [scan]}), table="t").walks_index is walks


def test_a_page_that_reads_a_large_table_is_warned_of_and_a_small_one_is_not(scene: Scene) -> None:
    assert scene.page is not None
    bad = replace(scene, page=replace(scene.page, walks_index=False))
    (small,) = reading.page_without_index(bad)
    assert small.severity is Severity.NOTE
    storage = replace(scene.source.storage, pages=10_000, rows=1e6)
    large = replace(bad, source=replace(scene.source, storage=storage))
    (finding,) = reading.page_without_index(large)
    assert finding.severity is Severity.WARNING
    (finding,) = reading.sparse_scope(replace(large, matching=Matching(rows=300, is_exact=True)))
    assert "300 rows of 1,000,000 match" in finding.message
    assert not list(
        reading.sparse_scope(replace(large, matching=Matching(rows=200_000, is_exact=False)))
    )


# --- estimates -----------------------------------------------------------------------------------


def numbers(scene: Scene, before: Before | None = None) -> dict[str, float | None]:
    return {estimate.name: estimate.value for estimate in estimates(scene, before=before)}


def test_estimates_say_what_is_known_and_how(site: Worksite, scene: Scene) -> None:
    known = numbers(scene)
    assert (known["rows"], known["dead_rows"], known["seconds"]) == (300, 300, None)
    # 8 + 4 of label, 4 of n that is still NULL, a header
    assert scene.source.row_bytes == 44
    heap = scene.source.storage.heap_bytes / 300
    assert known["wal_bytes"] == pytest.approx(300 * (60 + 60 + 44 + 90 + heap))
    assert known["disk_bytes"] == pytest.approx(300 * (44 + 24))
    paced = replace(scene, options=Options(rate="100/s"))
    assert numbers(paced)["seconds"] == 3
    fast, slow = (Before(run="fill-7", rows_per_second=rate) for rate in (1000.0, 10.0))
    assert numbers(paced, fast)["seconds"] == 3
    assert numbers(paced, slow)["seconds"] == 30
    (seconds,) = [e for e in estimates(scene, before=slow) if e.name == "seconds"]
    assert "as fast as run fill-7 was" in seconds.basis
    assert numbers(replace(scene, matching=None))["wal_bytes"] is None
    purge = numbers(scene_of(site, PURGE))
    assert (purge["dead_rows"], purge["disk_bytes"]) == (300, 0)


# --- the ledger ----------------------------------------------------------------------------------


def test_live_runs_the_red_button_and_a_missing_ledger_are_found(site: Worksite) -> None:
    from backfill.engine import control

    site.numbers(10)
    job = make(Table("t", todo="n = 0"))
    assert names(found(site, job), Severity.ERROR) == set()
    run = site.enqueue(job)
    (finding,) = [f for f in found(site, job).findings if f.severity is Severity.ERROR]
    assert (finding.name, run.id in finding.message) == ("run-live", True)
    other = type("Other", (job,), {"__module__": __name__})
    (finding,) = [f for f in found(site, other).findings if f.severity is Severity.ERROR]
    assert (finding.name, run.id in finding.message) == ("columns-claimed", True)
    control.stop_all(site.conn, site.ledger, reason="a sale", by="the test")
    assert "stopped" in names(found(site, other))
    none = check(
        site.conn,
        declaration_of(other),
        arguments={},
        options=OPTIONS,
        ledger=LedgerError("there is no ledger", remedy="Run `backfill db upgrade`."),
    )
    assert "ledger-unusable" in names(none, Severity.ERROR)


def test_a_role_that_lacks_rights_on_the_ledger_is_told_which(site: Worksite) -> None:
    site.numbers(10)
    job = make(Table("t", todo="n = 0"))
    role = f"reader_of_{site.conn.info.dbname}"
    site.execute(
        f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA backfill TO {role};"
        f"GRANT ALL ON ALL TABLES IN SCHEMA backfill TO {role}; GRANT ALL ON t TO {role};"
        f"SET ROLE {role}"
    )
    try:
        assert names(found(site, job), Severity.ERROR) == set()
        site.execute(
            f"RESET ROLE; REVOKE INSERT ON backfill.run FROM {role};"
            f"REVOKE ALL ON backfill.write_claim, backfill.event FROM {role};"
            f"GRANT SELECT, INSERT, UPDATE (name) ON backfill.event TO {role}; SET ROLE {role}"
        )
        (finding,) = [f for f in found(site, job).findings if f.severity is Severity.ERROR]
        assert finding.name == "ledger-not-permitted"
        assert finding.message.endswith(
            ": DELETE on write_claim, INSERT on run, INSERT on write_claim, SELECT on write_claim,"
            " UPDATE on event, UPDATE on write_claim"
        )
    finally:
        site.execute(f"RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}")


def test_the_rate_of_the_run_before_is_used(site: Worksite) -> None:
    site.numbers(100)
    job = make(Table("t", todo="n = 0"))
    assert site.run(job).state == "succeeded"
    (seconds,) = [e for e in found(site, job).estimates if e.name == "seconds"]
    assert seconds.value == 0  # nothing is left
    assert "as fast as run fill-" in seconds.basis
