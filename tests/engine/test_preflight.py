"""What is refused before a run is written: told now, with the remedy, rather than found at night.

Nothing of a refused run is left in the ledger.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from psycopg import sql

from backfill.engine.preflight import preflight
from backfill.errors import BackfillError, DeclarationError, ProjectError, RefusedError
from backfill.job import Delete, Insert, Job, Row, Sql, Table, Target, Update
from backfill.job.declaration import declaration_of
from tests.engine.factory import Worksite
from tests.engine.jobs import Increment, Label


def _job(source: Table, target: Target | None = None, transform: Any = None) -> type[Job]:
    """A job named Fill, whose parts are given; by default it sets n by Sql."""
    namespace: dict[str, object] = {
        "source": source,
        "target": target or Update(),
        "__module__": __name__,
    }
    if transform is not None:
        namespace["transform"] = transform
    elif target is None:
        namespace["transform"] = Sql(n="n + 1")
    return type("Fill", (Job,), namespace)


def _refused(site: Worksite, job: type[Job], kind: type[BackfillError]) -> tuple[str, str]:
    """Message and remedy of the refusal."""
    with pytest.raises(kind) as refused:
        site.enqueue(job)
    assert type(refused.value) is kind
    assert site.rows("SELECT FROM backfill.run") == []
    return refused.value.message, refused.value.remedy


# --- the key -----------------------------------------------------------------------------------


def test_a_table_without_a_primary_key_needs_a_key_and_one_is_proposed(site: Worksite) -> None:
    site.execute("CREATE TABLE t (n int, code text NOT NULL UNIQUE, note text UNIQUE)")
    message, remedy = _refused(site, _job(Table("t")), DeclarationError)
    assert message == "Fill.source: public.t has no primary key"
    assert remedy.endswith("For example key=['code'].")
    assert site.run(_job(Table("t", key="code"))).state == "succeeded"


def test_a_key_that_may_be_null_is_refused(site: Worksite) -> None:
    """I6: a row with NULL in its key is neither greater nor less than any cursor."""
    site.execute("CREATE TABLE t (n int, code text UNIQUE)")
    message, remedy = _refused(site, _job(Table("t", key="code")), DeclarationError)
    assert "column 'code' of public.t may be NULL" in message
    assert "Declare it NOT NULL" in remedy


@pytest.mark.parametrize("type_", ["int[]", "pair", "tags"])
def test_a_key_of_arrays_or_composites_is_refused(site: Worksite, type_: str) -> None:
    """Keys travel as arrays of texts, and unnest takes an array of arrays to pieces."""
    site.execute("CREATE TYPE pair AS (a int, b int); CREATE DOMAIN tags AS text[]")
    site.execute(f"CREATE TABLE t (n int, code {type_} PRIMARY KEY)")
    message, remedy = _refused(site, _job(Table("t")), DeclarationError)
    assert "column 'code' of public.t is of type" in message
    assert remedy == "Name another unique key."


@pytest.mark.parametrize(
    "index",
    [
        "",
        "CREATE INDEX ON t (code)",
        "CREATE UNIQUE INDEX ON t (code) WHERE n > 0",
        "CREATE UNIQUE INDEX ON t (lower(code))",
        "CREATE UNIQUE INDEX ON t (code, n)",
    ],
)
def test_a_key_that_no_index_says_is_unique_is_refused(site: Worksite, index: str) -> None:
    site.execute("CREATE TABLE t (n int NOT NULL, code text NOT NULL)")
    if index:
        site.execute(index)
    message, _ = _refused(site, _job(Table("t", key="code")), DeclarationError)
    assert "no unique index of public.t says that (code) is unique" in message


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX ON t (b, a)",
        "CREATE UNIQUE INDEX ON t (a, b DESC)",
    ],
)
def test_a_key_in_an_order_that_no_index_gives_is_refused(site: Worksite, index: str) -> None:
    """Each page would sort the table."""
    site.execute("CREATE TABLE t (n int, a int NOT NULL, b int NOT NULL)")
    site.execute(index)
    message, remedy = _refused(site, _job(Table("t", key=["a", "b"])), DeclarationError)
    assert "no btree index of public.t gives the order (a, b)" in message
    assert "in the order of a btree index" in remedy


def test_a_job_that_writes_its_own_key_is_refused(site: Worksite) -> None:
    """I1: a row whose key changes could be met twice, or never."""
    site.numbers(10)
    job = _job(Table("t"), Update(), Sql(id="id + 1000"))
    message, remedy = _refused(site, job, RefusedError)
    assert "writes the key's column id" in message
    assert "Walk by another unique key" in remedy


# --- tables and columns ------------------------------------------------------------------------


def test_a_table_that_is_not_there_is_named_with_its_database(site: Worksite) -> None:
    message, remedy = _refused(site, _job(Table("flihgts")), ProjectError)
    assert message.startswith("Fill.source: there is no table 'flihgts' in database backfill_test_")
    assert "expand step" in remedy


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("CREATE VIEW v AS SELECT * FROM t", "view"),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM t", "materialized view"),
        ("CREATE SEQUENCE v", "sequence"),
    ],
)
def test_a_source_that_is_no_table_is_refused(site: Worksite, statement: str, what: str) -> None:
    site.numbers(1)
    site.execute(statement)
    message, _ = _refused(site, _job(Table("v")), DeclarationError)
    assert message == f"Fill.source: public.v is no table (it is a {what})"


WITH_TODO = Table("t", todo="n = 0")


def _nothing(self: Job, row: Row) -> dict[str, object] | None:
    return None


@pytest.mark.parametrize(
    "job",
    [
        _job(Table("t", columns=["lable"]), Update("label"), _nothing),
        _job(Table("t"), Update("lable"), _nothing),
        _job(Table("t"), Update(), Sql(lable="'x'")),
        _job(
            Table("t", todo="n = 0"), Insert("t", on_conflict="skip", columns=["lable"]), _nothing
        ),
        _job(
            Table("t", todo="n = 0"), Insert("t", on_conflict="skip", conflict=["lable"]), _nothing
        ),
        _job(Table("t", key="lable")),
    ],
)
def test_a_column_that_is_not_there_is_refused_naming_the_one_that_was_meant(
    site: Worksite, job: type[Job]
) -> None:
    site.numbers(1)
    message, remedy = _refused(site, job, ProjectError)
    assert re.match(r"Fill\.(source|target): table public\.t has no column 'lable'", message)
    assert "Did you mean 'label'?" in remedy


def test_a_generated_column_cannot_be_written(site: Worksite) -> None:
    site.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED)"
    )
    message, remedy = _refused(site, _job(Table("t"), Update(), Sql(twice="4")), DeclarationError)
    assert "column 'twice' of public.t is generated" in message
    assert "Leave it out" in remedy


# --- expressions -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("job", "part", "reason"),
    [
        (_job(Table("t", where="nn > 0")), "source", 'column "nn" does not exist'),
        (_job(Table("t", todo="n +")), "source", "syntax error"),
        (_job(Table("t", where="n")), "source", "must be type boolean"),
        (_job(Table("t"), Update(), Sql(n="lenght(label)")), "transform", "does not exist"),
        (_job(Table("t"), Update(), Sql(n="'abc'::date")), "transform", "date"),
        (_job(Table("t"), Update(), Sql(n="label")), "transform", "is of type integer but"),
    ],
)
def test_an_expression_that_postgresql_cannot_run_is_refused_with_its_own_words(
    site: Worksite, job: type[Job], part: str, reason: str
) -> None:
    site.numbers(1)
    message, remedy = _refused(site, job, ProjectError)
    assert message.startswith(f"Fill.{part}: PostgreSQL cannot run it: ")
    assert reason in message
    assert remedy


# --- targets -----------------------------------------------------------------------------------


def test_an_insert_into_its_own_source_without_a_todo_would_never_end(site: Worksite) -> None:
    site.numbers(1)
    job = _job(Table("public.t"), Insert("t", on_conflict="skip"), Sql(id="id + 1000"))
    message, remedy = _refused(site, job, RefusedError)
    assert "inserts into its own source public.t without a todo" in message
    assert "a todo that excludes the new rows" in remedy


def test_an_insert_that_overwrites_must_know_which_columns_conflict(site: Worksite) -> None:
    site.numbers(1)
    site.execute("CREATE TABLE keyless (id bigint)")
    job = _job(Table("t"), Insert("keyless", on_conflict="update"), Sql(id="id"))
    message, _ = _refused(site, job, DeclarationError)
    assert "needs to know which columns conflict" in message


def test_an_insert_that_overwrites_by_columns_without_a_unique_index_is_refused(
    site: Worksite,
) -> None:
    site.numbers(1)
    site.execute("CREATE TABLE other (id bigint, n int)")
    target = Insert("other", on_conflict="update", conflict=["id"])
    message, _ = _refused(site, _job(Table("t"), target, Sql(id="id", n="n")), ProjectError)
    assert "no unique or exclusion constraint matching" in message


def test_a_copy_between_tables_that_have_no_column_in_common_is_refused(site: Worksite) -> None:
    site.numbers(1)
    site.execute("CREATE TABLE stranger (x int)")
    job = _job(Table("t"), Insert("stranger", on_conflict="skip"))
    message, _ = _refused(site, job, DeclarationError)
    assert "public.t and public.stranger have no column in common" in message


def test_a_copy_of_a_named_column_that_the_source_lacks_is_refused(site: Worksite) -> None:
    site.numbers(1)
    site.execute("CREATE TABLE other (id bigint, origin text)")
    job = _job(Table("t"), Insert("other", on_conflict="skip", columns=["id", "origin"]))
    message, _ = _refused(site, job, ProjectError)
    assert "table public.t has no column 'origin'" in message


# --- permissions -------------------------------------------------------------------------------


@pytest.fixture
def limited(site: Worksite) -> Iterator[Worksite]:
    """A site whose own session is a role that may read t, and use the ledger."""
    name = f"reader_of_{site.conn.info.dbname}"
    role = sql.Identifier(name)
    site.numbers(10)
    for statement in (
        "CREATE ROLE {}",
        "GRANT USAGE ON SCHEMA backfill TO {}",
        "GRANT ALL ON ALL TABLES IN SCHEMA backfill TO {}",
        "GRANT SELECT ON t TO {}",
        "SET ROLE {}",
    ):
        site.conn.execute(sql.SQL(statement).format(role))
    yield site
    site.execute("RESET ROLE")
    site.conn.execute(sql.SQL("DROP OWNED BY {}").format(role))
    site.conn.execute(sql.SQL("DROP ROLE {}").format(role))


def test_a_role_that_may_not_write_is_told_what_it_needs(limited: Worksite) -> None:
    message, remedy = _refused(limited, Label, RefusedError)
    assert "permission denied for table t" in message
    assert "FOR NO KEY UPDATE needs UPDATE on the source" in remedy


def test_rows_that_a_policy_hides_are_an_error_and_no_loss(limited: Worksite) -> None:
    """I2: row_security = off does not show them, it says that there are some."""
    name = limited.value("SELECT current_user")
    limited.execute("RESET ROLE")
    limited.execute(f"GRANT UPDATE ON t TO {name}")
    limited.execute("ALTER TABLE t ENABLE ROW LEVEL SECURITY")
    limited.execute(f"CREATE POLICY half ON t TO {name} USING (mod(id, 2) = 0)")
    limited.execute(f"SET ROLE {name}")
    message, _ = _refused(limited, Label, RefusedError)
    assert "row-level security policy" in message


# --- what is found -----------------------------------------------------------------------------


def test_a_job_without_a_todo_is_warned_of_keys_that_change(site: Worksite) -> None:
    site.numbers(1)
    (warning,) = preflight(site.conn, declaration_of(Increment), arguments={}).warnings
    assert "its key (id) must not change" in warning
    assert preflight(site.conn, declaration_of(Label), arguments={}).warnings == ()


@pytest.mark.parametrize(
    ("job", "relation", "columns"),
    [
        (Label, "public.t", ("label",)),
        (_job(Table("t"), Delete()), "public.t", ("*",)),
        (_job(Table("t"), Insert("other", on_conflict="skip")), "public.other", ()),
    ],
)
def test_what_the_run_writes_is_found_and_claimed(
    site: Worksite, job: type[Job], relation: str, columns: tuple[str, ...]
) -> None:
    site.numbers(1)
    site.execute("CREATE TABLE other (id bigint PRIMARY KEY)")
    found = preflight(site.conn, declaration_of(job), arguments={})
    assert (found.relation, found.columns) == (relation, columns)
    assert (found.source.table, found.source.key, found.source.key_types) == (
        "public.t",
        ("id",),
        ("bigint",),
    )
    site.enqueue(job)
    claimed = site.rows("SELECT relation, column_name FROM backfill.write_claim")
    assert claimed == [(relation, column) for column in columns]
