"""Every kind of table: each row done exactly once, in SQL and in Python, and the counts say so.

`n = n + 1` is not idempotent: a row that is met twice or never shows. Pages and slices are so small
that every table has several; the keys are what applications have, extremes included. Walking by any
key is also tried at random, without the engine, in tests/pg/test_keyset.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import psycopg
import pytest

from backfill.engine import begin
from backfill.errors import DeclarationError, ProjectError
from backfill.job import Job, Options, Row, Sql, Table, Update
from backfill.model import Counts
from backfill.pg.install import upgrade
from tests.engine.factory import Outcome, Worksite, until
from tests.programs import system_postgres
from tests.services import PostgresServer, embedded_postgres

TINY = Options(batch_rows=2, slice_rows=5, concurrency=1)


@dataclass(frozen=True, kw_only=True)
class Case:
    """A table that the statements make, with a column n of zeros.

    Attributes:
        table, key: as a job's source names them.
        needs: what not every server has; a query that returns a line where it has it.
    """

    name: str
    statements: str
    table: str = "t"
    key: str | tuple[str, ...] | None = None
    needs: str | None = None

    def __str__(self) -> str:
        return self.name


def _key(type_: str, *values: str, setup: str = "", needs: str | None = None) -> Case:
    """A table with a key of that type and a row for each of the values (SQL)."""
    rows = ", ".join(f"({value})" for value in values)
    return Case(
        name=f"key {type_}",
        statements=f"{setup}; CREATE TABLE t (k {type_} PRIMARY KEY, n int NOT NULL DEFAULT 0);"
        f" INSERT INTO t (k) VALUES {rows}",
        needs=needs,
    )


def _plain(name: str, table: str, column: str = "id") -> Case:
    """A table (SQL) whose name, or whose key's, is awkward."""
    return Case(
        name=name,
        table=table,
        statements=f"CREATE TABLE {table} ({column} int PRIMARY KEY, n int NOT NULL DEFAULT 0);"
        f" INSERT INTO {table} SELECT generate_series(-3, 8)",
    )


WORDS = ("''", "'a'", "'A'", "'b'", "'B'", "'ä'", "'Z'", "'z'", "'ß'", "'a b'", "'{\"'", "'\\'")
ICU = "SELECT FROM pg_collation WHERE collname = 'de-x-icu'"
CITEXT = "SELECT FROM pg_available_extensions WHERE name = 'citext'"

KEYS = [
    _key("bigint", "-9223372036854775808", "-1", "0", "1", "2", "9223372036854775807"),
    _key("smallint", "'-32768'", "-1", "0", "1", "7", "32767"),
    _key("numeric", "'NaN'", "'-Infinity'", "'Infinity'", "0.10", "-3", "1e30", "1e-30"),
    _key("double precision", "'NaN'", "'-Infinity'", "'Infinity'", "0.1", "-0.3", "1e300"),
    _key("text", *WORDS),
    _key('text COLLATE "C"', *WORDS),
    _key(
        'text COLLATE "german"',
        *WORDS,
        setup="CREATE COLLATION german (provider = icu, locale = 'de')",
        needs=ICU,
    ),
    _key(
        'text COLLATE "alike"',
        *(word for word in WORDS if word.upper() == word),
        "'é'",
        setup="CREATE COLLATION alike"
        " (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        needs=ICU,
    ),
    _key(
        "citext",
        *("'a'", "'B'", "'c'", "'D'", "''", "'ä'", "'_'"),
        setup="CREATE EXTENSION citext",
        needs=CITEXT,
    ),
    _key("char(5)", "''", "'a'", "'a b'", "'B'", "'zzzzz'", "'ä'"),
    _key("varchar(5)", "''", "'a'", "'a b'", "'a '", "'zzzzz'", "'ä'"),
    _key(
        "shout", "'A'", "'B'", "'C'", "'D'", setup="CREATE DOMAIN shout AS text CHECK (VALUE > '')"
    ),
    _key("mood", "'sad'", "'ok'", "'a''b'", setup="CREATE TYPE mood AS ENUM ('sad', 'ok', 'a''b')"),
    _key(
        '"Odd %s {} Mood"',
        "'sad'",
        "'%s'",
        "'{}'",
        setup="CREATE TYPE \"Odd %s {} Mood\" AS ENUM ('sad', '%s', '{}')",
    ),
    _key("uuid", *["gen_random_uuid()"] * 6, "'00000000-0000-0000-0000-000000000000'"),
    _key(
        "uuid /* v7 */",
        *(f"'0199{i:04x}-0000-7000-8000-0000000000{i:02x}'" for i in range(7)),
    ),
    _key("date", "'infinity'", "'-infinity'", "'0044-03-15 BC'", "'2024-02-29'", "'2025-01-01'"),
    _key(
        "timestamptz",
        "'infinity'",
        "'-infinity'",
        "'4713-01-01 00:00:00+00 BC'",
        "'2024-10-27 00:30:00+00'",
        "'2024-10-27 01:30:00.000001+00'",
        "'20000-01-01'",
    ),
    _key("timestamp", "'infinity'", "'0001-01-01'", "'2024-02-29 23:59:59.999999'"),
    _key("time", "'24:00'", "'00:00'", "'12:30:00.5'", "'23:59:59.999999'"),
    _key("bytea", "''", "'\\x00'", "'\\x00ff'", "'\\x27'", "'\\xff'"),
    _key("inet", "'10.0.0.1'", "'10.0.0.0/8'", "'::1'", "'fe80::/10'", "'255.255.255.255'"),
    _key(
        "interval",
        "'1 month'",
        "'29 days'",
        "'-1 day'",
        "'0'",
        "'10 years 1 microsecond'",
        "'5000000 years'",
    ),
    _key("bit varying", "B''", "B'0'", "B'00'", "B'1'", "B'101'"),
    _key("bit(3)", "B'000'", "B'001'", "B'010'", "B'101'", "B'111'"),
    _key('"char"', "''", "'a'", "'Z'", "'\\377'", "'\\200'"),
    _key("money", "-1", "0", "12.34", "'92233720368547758.07'"),
    _key("xid8", "'0'", "'1'", "'18446744073709551615'"),
    _key("name", "''", "'A'", "'b'"),
    _key("int4range", "'empty'", "'[1,2)'", "'[1,)'", "'(,1)'", "'[5,9)'"),
]

SHAPES = [
    Case(
        name="composite with booleans",
        statements="CREATE TABLE t (a boolean, b text, c date, n int NOT NULL DEFAULT 0,"
        " PRIMARY KEY (a, b, c)); INSERT INTO t SELECT a, b, c FROM unnest('{t,f}'::boolean[]) a,"
        " unnest('{x,\"\",\"y z\"}'::text[]) b, unnest('{infinity,2024-01-01}'::date[]) c",
    ),
    Case(
        name="descending index",
        statements="CREATE TABLE t (id int NOT NULL, n int NOT NULL DEFAULT 0);"
        " CREATE UNIQUE INDEX ON t (id DESC); INSERT INTO t SELECT generate_series(1, 12)",
        key="id",
    ),
    Case(
        name="descending composite index",
        statements="CREATE TABLE t (a int NOT NULL, b text NOT NULL, n int NOT NULL DEFAULT 0);"
        " CREATE UNIQUE INDEX ON t (a DESC, b DESC);"
        " INSERT INTO t SELECT i / 4, i::text FROM generate_series(1, 12) i",
        key=("a", "b"),
    ),
    _plain("reserved words", '"order"', '"select"'),
    _plain("quotes in names", '"a ""quoted"" t"', '"the ""key"""'),
    _plain("percent in names", '"100%s %(x)s %"', '"%"'),
    _plain("braces in names", '"{} {0} {table}"', '"{key}"'),
    _plain("unicode names", '"Übergröße 🛫"', '"schlüssel"'),
    _plain("upper case", '"Users"', '"Id"'),
    _plain("the longest name", "t" * 63, "k" * 63),
    Case(
        name="schema-qualified",
        statements='CREATE SCHEMA IF NOT EXISTS "App.x"; CREATE TABLE "App.x"."t.t"'
        ' (id int PRIMARY KEY, n int NOT NULL DEFAULT 0); CREATE TABLE "t.t" (x int);'
        ' INSERT INTO "App.x"."t.t" SELECT generate_series(1, 12)',
        table='"App.x"."t.t"',
    ),
    Case(
        name="partitioned by range of the key",
        statements="CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"
        " PARTITION BY RANGE (id); CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (10) TO (20);"
        " CREATE TABLE t0 PARTITION OF t FOR VALUES FROM (MINVALUE) TO (10);"
        " CREATE TABLE td PARTITION OF t DEFAULT; INSERT INTO t SELECT generate_series(-4, 24)",
    ),
    Case(
        name="partitioned in two levels, the key across partitions",
        statements="CREATE TABLE t (id int, region text, n int NOT NULL DEFAULT 0,"
        " PRIMARY KEY (id, region)) PARTITION BY LIST (region);"
        " CREATE TABLE de PARTITION OF t FOR VALUES IN ('de') PARTITION BY HASH (id);"
        " CREATE TABLE de0 PARTITION OF de FOR VALUES WITH (modulus 2, remainder 0);"
        " CREATE TABLE de1 PARTITION OF de FOR VALUES WITH (modulus 2, remainder 1);"
        " CREATE TABLE rest PARTITION OF t DEFAULT;"
        " INSERT INTO t SELECT i, r FROM generate_series(1, 8) i, unnest('{de,fr,at}'::text[]) r",
    ),
    Case(
        name="one partition of its parent",
        table="t0",
        statements="CREATE TABLE p (n int NOT NULL DEFAULT 0, id int PRIMARY KEY)"
        " PARTITION BY RANGE (id); CREATE TABLE t0 (id int PRIMARY KEY, x text, n int NOT NULL"
        " DEFAULT 0); ALTER TABLE t0 DROP COLUMN x;"
        " ALTER TABLE p ATTACH PARTITION t0 FOR VALUES FROM (0) TO (99);"
        " INSERT INTO p (id) SELECT generate_series(1, 12)",
    ),
    Case(
        name="inherited",
        statements="CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);"
        " CREATE TABLE child (x text, PRIMARY KEY (id)) INHERITS (t);"
        " CREATE TABLE grandchild (PRIMARY KEY (id)) INHERITS (child);"
        " INSERT INTO t SELECT generate_series(1, 12, 3);"
        " INSERT INTO child (id) SELECT generate_series(2, 12, 3);"
        " INSERT INTO grandchild (id) SELECT generate_series(3, 12, 3)",
    ),
    Case(
        name="a child that inherits",
        table="child",
        statements="CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);"
        " CREATE TABLE child (x text, PRIMARY KEY (id)) INHERITS (t);"
        " INSERT INTO child (id) SELECT generate_series(1, 12)",
    ),
    Case(name="empty", statements="CREATE TABLE t (id int PRIMARY KEY, n int)"),
    Case(
        name="one row",
        statements="CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (0, 0)",
    ),
    Case(
        name="one row with the largest key",
        statements="CREATE TABLE t (id bigint PRIMARY KEY, n int);"
        " INSERT INTO t VALUES (9223372036854775807, 0)",
    ),
    Case(
        name="identity, generated and dropped columns",
        statements="CREATE TABLE t (gone text, id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,"
        " n int NOT NULL DEFAULT 0, twice int GENERATED ALWAYS AS (n * 2) STORED);"
        " ALTER TABLE t DROP COLUMN gone;"
        " INSERT INTO t (n) SELECT 0 FROM generate_series(1, 12)",
    ),
    Case(
        name="a key that is generated",
        statements="CREATE TABLE t (a int, k int GENERATED ALWAYS AS (a * 2) STORED PRIMARY KEY,"
        " n int NOT NULL DEFAULT 0); INSERT INTO t (a) SELECT generate_series(1, 12)",
    ),
    Case(
        name="unlogged, replica identity full, fillfactor",
        statements="CREATE UNLOGGED TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"
        " WITH (fillfactor = 50); ALTER TABLE t REPLICA IDENTITY FULL;"
        " INSERT INTO t SELECT generate_series(1, 12)",
    ),
    Case(
        name="values of 1 MB",
        statements="CREATE TABLE t (id int PRIMARY KEY, big text, n int NOT NULL DEFAULT 0);"
        " ALTER TABLE t ALTER big SET STORAGE external;"
        " INSERT INTO t SELECT i, repeat(chr(60 + i), 1024 * 1024) FROM generate_series(1, 5) i",
    ),
]


class InSql(Job, abstract=True):
    transform = Sql(n="n + 1")
    target = Update()


class InPython(Job, abstract=True):
    target = Update("n")

    def transform(self, row: Row) -> dict[str, object]:
        return {"n": row["n"] + 1}


@pytest.fixture(scope="module")
def common(postgres_server: PostgresServer, template_database: str) -> Iterator[Worksite]:
    """A database of the session's server, for all cases that it can serve."""
    with (
        postgres_server.database(template_database) as name,
        closing(Worksite(postgres_server.url(name))) as site,
    ):
        yield site


@pytest.fixture(scope="module")
def complete() -> Iterator[Worksite]:
    """A database of the system's PostgreSQL, which has ICU and the extensions."""
    with embedded_postgres(bin_directory=system_postgres()) as server:
        with psycopg.connect(server.url(), autocommit=True) as connection:
            upgrade(connection)
        with closing(Worksite(server.url())) as site:
            yield site


@pytest.fixture
def site(request: pytest.FixtureRequest) -> Iterator[Worksite]:
    """The database for a case; its tables go afterwards."""
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    needs = params["case"].needs if "case" in params else params.get("needs")
    site: Worksite = request.getfixturevalue("common")
    if needs is not None and not site.rows(needs):
        site = request.getfixturevalue("complete")
    yield site
    site.execute('DROP SCHEMA public CASCADE; DROP SCHEMA IF EXISTS "App.x" CASCADE')
    site.execute("CREATE SCHEMA public; DELETE FROM backfill.run")


def _done(site: Worksite, job: type[Job], source: Table, options: Options = TINY) -> Outcome:
    """The outcome of a run of such a job over the source."""
    done = site.run(type(job.__name__, (job,), {"source": source}), options=options)
    assert done.state == "succeeded", (done.pauses, done.quarantine)
    return done


@pytest.mark.parametrize("case", [*KEYS, *SHAPES], ids=str)
def test_every_row_is_done_exactly_once(site: Worksite, case: Case) -> None:
    site.execute(case.statements)
    rows = site.value(f"SELECT count(*) FROM {case.table}")
    for times, job in enumerate((InSql, InPython), 1):
        done = _done(site, job, Table(case.table, key=case.key))
        assert done.counts == Counts(paged=rows, written=rows)
        wrong = site.value(f"SELECT count(*) FROM {case.table} WHERE n <> {times}")
        assert wrong == 0


# --- what the rows hold ------------------------------------------------------------------------


#: Types and two values of each, the awkward first; NULL is a third.
VALUES = {
    "int[]": ("'{1,NULL,-3}'", "'{}'"),
    "text[][]": (r"""'{{"a,b","\\\"{}"},{NULL,"null"}}'""", "'[2:3]={x,y}'"),
    "jsonb": (r"""'{"a": [1, null, "\u00e4"], "b": 1.5}'""", "'null'"),
    "json": ("""'{"a":1}'""", "'[1.5]'"),
    "jsonb[]": (r"""ARRAY['{"a": ["x\"y", null]}', NULL, '[1, 2]', '"t"']::jsonb[]""", "'{}'"),
    "date[]": ("'{infinity,2024-01-01,NULL}'", "'{{0044-03-15 BC,2024-01-01}}'"),
    "interval[]": ("'{9000000 years,1 day}'", "'{}'"),
    "daterange": ("'[2024-01-01,infinity)'", "'empty'"),
    "tstzmultirange": ("'{[2024-01-01 00:00+02,2024-01-02),[2025-01-01,)}'", "'{}'"),
    "pair": ("""ROW(1, 'a "b", c')""", "ROW(NULL, '')"),
    "pair[]": ("ARRAY[ROW(1, 'a')::pair, NULL]", "'{}'"),
    "mood[]": (r"""'{sad,"o,\"k"}'""", "'{NULL}'"),
    "mood": ("""'o,"k'""", "'sad'"),
    "tags": ("""'{a,"b c"}'""", "'{}'"),
    "bytea": (r"'\x0027ff'", "''"),
    "interval": ("'1 mon -3 days 00:00:00.000001'", "'9000000 years'"),
    "timestamptz": ("'-infinity'", "'2024-10-27 02:30+01'"),
    "timestamp[]": ("'{infinity,0044-03-15 BC}'", "'{}'"),
    "numeric": ("'NaN'", "1.10"),
    "numeric(999,3)": ("1e300", "-0.001"),
    "real": ("'0.1'", "'-Infinity'"),
    "double precision": ("0.1", "5e-324"),
    "bit(3)": ("B'101'", "B'000'"),
    "char(4)": ("'a'", "''"),
    "money": ("12.34", "-1"),
    "inet": ("'10.0.0.1/8'", "'::1'"),
    "macaddr": ("'08:00:2b:01:02:03'", "'00:00:00:00:00:00'"),
    "point": ("'(1,2.5)'", "'(0,0)'"),
    "polygon": ("'((0,0),(1,1),(2,0))'", "'((0,0))'"),
    "tsvector": ("""'''a'':1 ''b c'':2A'""", "''"),
    "oid": ("4294967295", "0"),
    "pg_lsn": ("'16/B374D848'", "'0/0'"),
    "time": ("'24:00'", "'00:00:00.000001'"),
    "timetz": ("'12:00+05:30'", "'00:00-14'"),
    "boolean": ("true", "false"),
    "uuid": ("'00000000-0000-0000-0000-00000000000a'", "gen_random_uuid()"),
}


class Rewrite(Job):
    """Writes every column back as it was read."""

    source = Table("t")
    target = Update(*VALUES)

    def transform(self, row: Row) -> dict[str, object]:
        return {column: row[column] for column in VALUES}


def test_what_python_reads_it_can_write_back_unchanged(site: Worksite) -> None:
    site.execute(
        """CREATE TYPE mood AS ENUM ('sad', 'o,"k'); CREATE TYPE pair AS (x int, "y z" text);
        CREATE DOMAIN tags AS text[]"""
    )
    columns = ", ".join(f'"{type_}" {type_}' for type_ in VALUES)
    site.execute(f"CREATE TABLE t (id int PRIMARY KEY, {columns})")
    for row in (0, 1):
        values = ", ".join(value[row] for value in VALUES.values())
        site.execute(f"INSERT INTO t VALUES ({row}, {values})")
    site.execute("INSERT INTO t (id) VALUES (2)")
    picture = "SELECT key, value FROM t, jsonb_each_text(to_jsonb(t)) ORDER BY id, key"
    before = site.rows(picture)
    done = site.run(Rewrite)
    assert (done.state, done.quarantine) == ("succeeded", [])
    assert done.counts == Counts(paged=3, written=3)
    assert site.rows(picture) == before


# --- what a table does when it is written ------------------------------------------------------


@pytest.mark.parametrize("job", [InSql, InPython])
def test_rows_that_a_trigger_suppresses_are_counted_and_those_it_changes_are_written(
    site: Worksite, job: type[Job]
) -> None:
    """I2: an UPDATE that a trigger swallows is no error in PostgreSQL, and must not look done."""
    site.numbers(12)
    site.execute(
        """
        CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF old.id % 4 = 0 THEN RETURN NULL; END IF;
            new.label := current_setting('backfill.run'); RETURN new; END $$;
        CREATE TRIGGER judge BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION judge()
        """
    )
    done = _done(site, job, Table("t"))
    assert done.counts == Counts(paged=12, written=9, suppressed=3)
    expected = [(i, int(i % 4 > 0), done.run.id if i % 4 else None) for i in range(1, 13)]
    assert site.rows("SELECT id, n, label FROM t ORDER BY id") == expected


@pytest.mark.parametrize("job", [InSql, InPython])
def test_a_deferred_constraint_is_charged_to_the_row_that_breaks_it(
    site: Worksite, job: type[Job]
) -> None:
    """In COMMIT it would fail the whole batch, outside every time-out."""
    site.numbers(12)
    site.execute(
        "CREATE TABLE parent (n int PRIMARY KEY); INSERT INTO parent VALUES (0), (1);"
        " UPDATE t SET n = 1 WHERE id = 7; INSERT INTO parent VALUES (3);"
        " ALTER TABLE t ADD FOREIGN KEY (n) REFERENCES parent DEFERRABLE INITIALLY DEFERRED"
    )
    done = site.run(type("Break", (job,), {"source": Table("t")}), options=TINY)
    assert done.counts == Counts(paged=12, written=11, quarantined=1)
    assert [(row.key, row.sqlstate) for row in done.quarantine] == [(("7",), "23503")]


def test_a_scope_that_matches_one_row_of_many_never_scans_the_table(
    site: Worksite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I5: no statement looks at more than its share of the keys, however few of them match."""
    site.execute(
        # a vacuum in between would let index-only scans fetch less than what is counted here
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"
        " WITH (autovacuum_enabled = false);"
        " INSERT INTO t SELECT i, CASE i WHEN 299999 THEN 1 ELSE 0 END"
        " FROM generate_series(1, 300000) i; ANALYZE t"
    )
    scope = "SELECT seq_scan, idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 't'"
    site.execute("SELECT pg_stat_force_next_flush()")
    ((scans, _),) = site.rows(scope)
    monkeypatch.setattr(begin, "COUNTED_ROWS", 0)  # the exact total is one statement by intent
    done = _done(site, InSql, Table("t", where="n = 1", todo="n <> 2"), Options())
    assert done.counts == Counts(paged=1, written=1)
    # read by the frontier, the pages (twice) and the completion check; a session's counters show
    # when it has ended
    fetched = until(
        lambda: [row for row in site.rows(scope) if row[1] >= 1_200_000], what="the counters"
    )
    assert fetched[0][0] == scans
    assert fetched[0][1] < 1_500_000


def test_a_key_of_a_parent_that_occurs_in_its_child_too_stops_the_run(site: Worksite) -> None:
    """No index spans a parent and its children: values would be given to the other's row."""
    site.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL DEFAULT 0);"
        " CREATE TABLE child (PRIMARY KEY (id)) INHERITS (t);"
        " INSERT INTO t SELECT generate_series(1, 6); INSERT INTO child VALUES (4, 7)"
    )
    for job in (InSql, InPython):
        done = site.run(type(f"Twice{job.__name__}", (job,), {"source": Table("t")}), options=TINY)
        site.execute("DELETE FROM backfill.run")
        assert "a key occurs twice in public.t and" in done.why_paused
        assert site.rows("SELECT DISTINCT n FROM t WHERE id IN (4, 5) ORDER BY n") == [(0,), (7,)]


def test_a_child_without_an_index_on_the_key_is_refused(site: Worksite) -> None:
    site.execute("CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE child () INHERITS (t)")
    with pytest.raises(DeclarationError, match=r"child.*inherits.*no unique btree index"):
        site.enqueue(type("Childish", (InSql,), {"source": Table("t")}))


@pytest.mark.parametrize("needs", [CITEXT])
def test_a_key_whose_operators_are_out_of_sight_is_refused(site: Worksite, needs: str) -> None:
    """I6: PostgreSQL would compare it as text, and sort it as citext: pages would miss rows."""
    site.execute('CREATE SCHEMA "App.x"; CREATE EXTENSION citext SCHEMA "App.x"')
    site.execute('CREATE TABLE t (k "App.x".citext PRIMARY KEY, n int NOT NULL DEFAULT 0)')
    with pytest.raises(ProjectError, match=r"'k' of public.t .* \"App.x\"\.citext.*search_path"):
        site.enqueue(type("Unseen", (InSql,), {"source": Table("t")}))
