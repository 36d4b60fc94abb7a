"""Looking a table up: names as PostgreSQL parses them, keys that are unique, indexes that order."""

from __future__ import annotations

import json
import re
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from backfill.errors import ProjectError
from backfill.pg.catalog import Relation, identifiers, relation
from backfill.pg.connect import Connection


def look_up(conn: Connection, table: str) -> Relation:
    return relation(conn, table, used_by="Fill.source")


@pytest.mark.parametrize(
    ("created", "asked", "qualified", "name"),
    [
        ("users", "users", "public.users", "users"),
        ("users", "USERS", "public.users", "users"),
        ("users", "public.users", "public.users", "users"),
        ('"Odd Name"', '"Odd Name"', 'public."Odd Name"', "Odd Name"),
        ('"quo""te"', '"quo""te"', 'public."quo""te"', 'quo"te'),
        ('"with.dot"', '"with.dot"', 'public."with.dot"', "with.dot"),
        ('"Größe"', '"Größe"', 'public."Größe"', "Größe"),
        ("größe", "größe", 'public."größe"', "größe"),
        ('"user"', '"user"', 'public."user"', "user"),
        ('"select"', "public.select", 'public."select"', "select"),
        ('"Büro"."Ablage 1"', '"Büro"."Ablage 1"', '"Büro"."Ablage 1"', "Ablage 1"),
    ],
)
def test_a_name_is_what_postgresql_makes_of_it(
    pg: Connection, created: str, asked: str, qualified: str, name: str
) -> None:
    pg.execute('CREATE SCHEMA "Büro"')
    pg.execute(f"CREATE TABLE {created} (id int PRIMARY KEY)")
    found = look_up(pg, asked)
    assert (found.qualified, found.name, found.kind) == (qualified, name, "r")
    pg.execute(f"SELECT FROM {found.qualified}")


def test_the_search_path_decides_between_tables_of_one_name(pg: Connection) -> None:
    pg.execute("CREATE SCHEMA app; CREATE TABLE users (a int); CREATE TABLE app.users (b int)")
    assert look_up(pg, "users").qualified == "public.users"
    pg.execute("SET search_path = app, public")
    assert look_up(pg, "users").qualified == "app.users"


def test_a_table_that_is_not_there_is_a_sentence(pg: Connection) -> None:
    with pytest.raises(ProjectError, match=r"Fill.source: there is no table 'userz' in database"):
        look_up(pg, "userz")
    with pytest.raises(ProjectError, match=r"there is no table 'nowhere.users'"):
        look_up(pg, "nowhere.users")


# Versions of PostgreSQL differ in which of these they refuse, and which they just do not find.
@pytest.mark.parametrize("name", ["", "a.b.c.d", '"open', "two words", "elsewhere.public.users"])
def test_a_name_that_cannot_be_right_is_a_sentence(pg: Connection, name: str) -> None:
    with pytest.raises(ProjectError, match=r"Fill\.source: .*" + re.escape(repr(name))) as error:
        look_up(pg, name)
    assert error.value.remedy


def test_a_lost_connection_is_not_taken_for_a_wrong_name(pg: Connection) -> None:
    pg.close()
    with pytest.raises(psycopg.OperationalError):
        look_up(pg, "users")


def test_columns_tell_their_type_and_nature(pg: Connection) -> None:
    pg.execute(
        """
        CREATE TYPE mood AS ENUM ('sad', 'ok');
        CREATE TYPE pair AS (a int, b text);
        CREATE DOMAIN email AS varchar(40) CHECK (VALUE LIKE '%@%');
        CREATE DOMAIN tags AS text[];
        CREATE DOMAIN doc AS jsonb;
        CREATE DOMAIN doc_2 AS doc;
        CREATE TABLE t (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            code varchar(3) NOT NULL, fixed char(5), bits bit(3), amount numeric(5, 2),
            at timestamptz(0), mood mood, pair pair, mail email, numbers int[], grid int[][],
            tags tags, names varchar(10)[], doc json, docb jsonb, dom doc, dom_2 doc_2,
            many_docs jsonb[], span int4range, spans int4multirange,
            twice int GENERATED ALWAYS AS (length(code) * 2) STORED,
            "Größe %" int, gone int
        );
        ALTER TABLE t DROP COLUMN gone
        """
    )
    columns = look_up(pg, "t").columns
    assert {name: column.type for name, column in columns.items()} == {
        "id": "bigint",
        "code": "character varying",
        "fixed": "bpchar",
        "bits": '"bit"',
        "amount": "numeric",
        "at": "timestamp with time zone",
        "mood": "mood",
        "pair": "pair",
        "mail": "email",
        "numbers": "integer[]",
        "grid": "integer[]",
        "tags": "tags",
        "names": "character varying[]",
        "doc": "json",
        "docb": "jsonb",
        "dom": "doc",
        "dom_2": "doc_2",
        "many_docs": "jsonb[]",
        "span": "int4range",
        "spans": "int4multirange",
        "twice": "integer",
        "Größe %": "integer",
    }
    assert {name for name, column in columns.items() if column.not_null} == {"id", "code"}
    assert {name for name, column in columns.items() if column.is_nested} == {
        *("numbers", "grid", "tags", "names", "many_docs", "pair")
    }
    assert {name for name, column in columns.items() if column.category == "N"} == {
        *("id", "amount", "twice", "Größe %")
    }
    base = pg.execute("SELECT 'varchar'::regtype::oid::bigint, 'text[]'::regtype::oid::bigint")
    assert (columns["mail"].base_oid, columns["tags"].base_oid) == base.fetchone()
    assert {name for name, column in columns.items() if column.is_json} == {
        *("doc", "docb", "dom", "dom_2")
    }
    assert {name for name, column in columns.items() if column.is_generated} == {"twice"}


def test_a_cast_to_a_columns_type_cuts_nothing(pg: Connection) -> None:
    pg.execute("CREATE TABLE t (a varchar(3), b char(3), c bit(3), d numeric(3, 1))")
    texts = {"a": "abcdef", "b": "abcdef", "c": "101010", "d": "1.2345"}
    for name, column in look_up(pg, "t").columns.items():
        row = pg.execute(
            sql.SQL("SELECT %s::{0}::text").format(sql.SQL(column.type)),
            [texts[name]],
        ).fetchone()
        assert row == (texts[name],)


def test_types_of_another_schema_are_named_so_that_a_cast_finds_them(pg: Connection) -> None:
    pg.execute(
        'CREATE SCHEMA "Typen"; CREATE TYPE "Typen"."Laune" AS ENUM (\'gut\');'
        ' CREATE TABLE t (laune "Typen"."Laune", launen "Typen"."Laune"[])'
    )
    columns = look_up(pg, "t").columns
    assert columns["laune"].type == '"Typen"."Laune"'
    assert columns["launen"].type == '"Typen"."Laune"[]'


def test_an_unknown_column_is_a_sentence_that_names_the_nearest(pg: Connection) -> None:
    pg.execute("CREATE TABLE users (id int, email text)")
    users = look_up(pg, "users")
    assert users.column("email", used_by="Fill.target") is users.columns["email"]
    with pytest.raises(
        ProjectError, match=r"Fill\.target: table public\.users has no column 'emial'"
    ) as e:
        users.column("emial", used_by="Fill.target")
    assert e.value.remedy == "Its columns are id, email. Did you mean 'email'?"
    with pytest.raises(ProjectError) as e:
        users.column("EMAIL", used_by="Fill.target")
    with pytest.raises(ProjectError) as e:
        users.column("zzz", used_by="Fill.target")
    assert "Did you mean" not in e.value.remedy


def test_the_primary_key_comes_first_in_the_order_of_its_index(pg: Connection) -> None:
    pg.execute(
        "CREATE TABLE t (a int, b int, c int NOT NULL UNIQUE, d int, PRIMARY KEY (b, a));"
        " CREATE UNIQUE INDEX ON t (d, c)"
    )
    found = look_up(pg, "t")
    assert found.primary_key == ("b", "a")
    assert found.unique_keys == (("b", "a"), ("c",), ("d", "c"))


def test_without_a_primary_key_there_is_none(pg: Connection) -> None:
    pg.execute("CREATE TABLE t (a int NOT NULL UNIQUE)")
    assert look_up(pg, "t").primary_key is None
    assert look_up(pg, "t").unique_keys == (("a",),)
    pg.execute("CREATE TABLE bare ()")
    assert (look_up(pg, "bare").unique_keys, look_up(pg, "bare").columns) == ((), {})


@pytest.mark.parametrize(
    "index",
    [
        "CREATE UNIQUE INDEX ON t (a) WHERE b IS NULL",
        "CREATE UNIQUE INDEX ON t (lower(c))",
        "CREATE UNIQUE INDEX ON t (a, lower(c))",
        "CREATE INDEX ON t (a)",
        "CREATE INDEX ON t USING hash (a)",
    ],
)
def test_an_index_that_does_not_make_every_row_unique_is_no_key(
    pg: Connection, index: LiteralString
) -> None:
    pg.execute("CREATE TABLE t (a int, b int, c text)")
    pg.execute(index)
    found = look_up(pg, "t")
    assert found.unique_keys == ()
    assert found.locking_columns == frozenset()


def test_an_invalid_index_is_no_key(pg: Connection) -> None:
    pg.execute("CREATE TABLE t (a int NOT NULL); INSERT INTO t VALUES (1), (1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        pg.execute("CREATE UNIQUE INDEX CONCURRENTLY t_a ON t (a)")
    assert look_up(pg, "t").unique_keys == ()
    assert look_up(pg, "t").walkable_keys == frozenset()


def test_included_columns_are_no_part_of_a_key(pg: Connection) -> None:
    pg.execute("CREATE TABLE t (a int NOT NULL, b int); CREATE UNIQUE INDEX ON t (a) INCLUDE (b)")
    found = look_up(pg, "t")
    assert found.unique_keys == (("a",),)
    assert found.locking_columns == {"a"}
    assert found.walkable_keys == {("a",)}


def test_columns_of_unique_indexes_take_the_stronger_lock(pg: Connection) -> None:
    pg.execute(
        "CREATE TABLE t (id int PRIMARY KEY, a int, b int, c int UNIQUE);"
        " CREATE INDEX ON t (a); CREATE UNIQUE INDEX ON t (b) WHERE b > 0"
    )
    assert look_up(pg, "t").locking_columns == {"id", "c"}


# Whether an index gives an order is PostgreSQL's to say: a plan without a sort.
@pytest.mark.parametrize("key", [("a",), ("a", "b"), ("b", "a"), ("a", "b", "c")])
@pytest.mark.parametrize(
    "index",
    [
        "(a, b)",
        "(a DESC, b DESC)",
        "(a, b DESC)",
        "(a DESC, b)",
        "(a NULLS FIRST, b NULLS FIRST)",
        "(a DESC NULLS LAST, b DESC NULLS LAST)",
        "(a, b NULLS FIRST)",
        "(a, b text_pattern_ops)",
        "(a, b varchar_ops)",
        '(a, b COLLATE "ucs_basic")',
        "(a, b) INCLUDE (c)",
        "(a, b, c)",
        "(a, b, c DESC)",
        "(a) WHERE a > 0",
        "(b, a)",
    ],
)
def test_a_walkable_key_is_read_in_order_without_a_sort(
    pg: Connection, index: LiteralString, key: tuple[str, ...]
) -> None:
    pg.execute("CREATE TABLE t (a int NOT NULL, b text NOT NULL, c int NOT NULL)")
    pg.execute("CREATE INDEX ON t " + index)
    pg.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    pg.execute("SET enable_incremental_sort = off")
    plan = pg.execute(
        sql.SQL("EXPLAIN (FORMAT json) SELECT {0} FROM t ORDER BY {0}").format(identifiers(key))
    ).fetchone()
    is_walkable = any(found[: len(key)] == key for found in look_up(pg, "t").walkable_keys)
    assert is_walkable == ('"Sort"' not in json.dumps(plan))


def test_only_a_btree_gives_an_order(pg: Connection) -> None:
    pg.execute("CREATE TABLE t (a int4range NOT NULL, b int); CREATE INDEX ON t USING gist (a)")
    pg.execute("CREATE INDEX ON t USING hash (b); CREATE INDEX ON t USING brin (b)")
    assert look_up(pg, "t").walkable_keys == frozenset()


@pytest.mark.parametrize(
    ("created", "kind"),
    [
        ("CREATE TABLE x (a int) PARTITION BY RANGE (a)", "p"),
        ("CREATE VIEW x AS SELECT 1 AS a", "v"),
        ("CREATE MATERIALIZED VIEW x AS SELECT 1 AS a", "m"),
    ],
)
def test_a_relation_says_what_it_is(pg: Connection, created: LiteralString, kind: str) -> None:
    pg.execute(created)
    assert look_up(pg, "x").kind == kind


def test_estimates_come_from_the_statistics(pg: Connection) -> None:
    pg.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS id")
    pg.execute("ANALYZE t")
    assert look_up(pg, "t").estimated_rows == 1000


def test_identifiers_are_quoted() -> None:
    assert identifiers(["a", 'quo"te', "Größe"]).as_string(None) == '"a", "quo""te", "Größe"'
