"""The parts of a declaration - Table, Sql, Update, Insert, Delete - and what each refuses."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from backfill import Call, Delete, Insert, Options, Param, Query, Sql, Table, Update
from backfill.errors import DeclarationError
from backfill.job.identifier import same_table


class Model:
    """Stands for a mapped class of some framework."""


untyped_table: Callable[..., Table] = Table
untyped_query: Callable[..., Query] = Query
untyped_sql: Callable[..., Sql] = Sql
untyped_update: Callable[..., Update] = Update
untyped_insert: Callable[..., Insert] = Insert

TOO_LONG = "ä" * 32  # 64 bytes

WRONG: list[tuple[Callable[[], object], str, str]] = [
    (lambda: untyped_table(Model), "the table is the class Model", 'Table("users")'),
    (lambda: untyped_table(None), "the table is of type NoneType", 'Table("users")'),
    (lambda: Table(""), "the table's name is empty", 'Table("users")'),
    (lambda: Table("  "), "the table's name is empty", 'Table("users")'),
    (lambda: Table("users;"), "Table('users;')", 'Table("users")'),
    (lambda: Table("Odd Name"), "Table('Odd Name')", "Table('\"Odd Name\"')"),
    (lambda: Table("SELECT * FROM users"), "no table's name", 'Table("users")'),
    (lambda: Table("one.two.three"), "no table's name", 'Table("app.users")'),
    (lambda: Table(".users"), "no table's name", 'Table("app.users")'),
    (lambda: Table('"users'), "no table's name", 'Table("users")'),
    (lambda: Table("users", key=""), "key has an empty name", "column's name"),
    (lambda: Table("users", key=[]), "key is empty", "key=["),
    (lambda: Table("users", key=["id", "id"]), "key names 'id' twice", "once"),
    (lambda: untyped_table("users", key=[1]), "key has of type int", "key=["),
    (lambda: Table("users", columns="email"), "columns is 'email'", "columns=["),
    (lambda: untyped_table("users", columns={"a"}), "columns is of type set", "columns=["),
    (lambda: Table("users", columns=[]), "columns is empty", "leave columns out"),
    (lambda: Table("users", columns=["a", " "]), "columns has an empty name", "name"),
    (lambda: Table("users", columns=["a", "a"]), "columns names 'a' twice", "once"),
    (lambda: Table("users", columns=[TOO_LONG]), "no column can be called", "63 bytes"),
    (lambda: Table("users", columns=["a\0"]), "no column can be called", "NUL"),
    (lambda: Table("users", columns=["a\ud800"]), "no column can be called", "UTF-8"),
    (lambda: Table('"a\ud800"'), "no table's name", 'Table("users")'),
    (lambda: Table(TOO_LONG), "would cut it off", "63 bytes"),
    (lambda: Table("users", where=""), "where is empty", 'where="'),
    (lambda: Table("users", where="a > 1;"), "where has a semicolon", 'where="'),
    (lambda: Table("users", where="WHERE a > 1"), "begins with the word WHERE", 'where="'),
    (lambda: Table("users", todo="(a"), "todo opens a parenthesis", 'todo="'),
    (lambda: untyped_table("users", todo=True), "todo is of type bool", 'todo="'),
    (lambda: Query("", key="id"), "its SQL is empty", "Query("),
    (lambda: untyped_query(7, key="id"), "its SQL is of type int", "Query("),
    (lambda: Query("SELECT 1;", key="id"), "its SQL has a semicolon", "Query("),
    (lambda: Query("SELECT 1) x, (SELECT 2", key="id"), "closes a parenthesis", "Query("),
    (lambda: Query("SELECT 1 -- all", key="id"), "ends in a comment", "Query("),
    (lambda: Query("SELECT 1 -- all\n", key="id"), "ends in a comment", "Query("),
    (lambda: Table("users", where="a -- b\n"), "where ends in a comment", 'where="'),
    (lambda: Query("DELETE FROM a", key="id"), "its SQL is no SELECT", "Query("),
    (lambda: Query("orders", key="id"), "its SQL is no SELECT", "Query("),
    (lambda: Query("TABLE a FOR no KEY update", key="id"), "locks rows itself", "FOR UPDATE"),
    (lambda: Query("TABLE a FOR\nSHARE OF a", key="id"), "locks rows itself", "FOR UPDATE"),
    (lambda: Query("SELECT 1", key=[]), "Query(...): key is empty", "key=["),
    (lambda: Query("SELECT 1", key="id", table="a b"), "Query('a b')", 'Query("users")'),
    (lambda: Query("SELECT 1", key="id", todo="WHERE a"), "Query(...): todo begins", 'todo="'),
    (Sql, "no column is named", 'Sql(email_lower="lower(email)")'),
    (lambda: Sql({}), "no column is named", 'Sql(email_lower="lower(email)")'),
    (lambda: untyped_sql("lower(email)"), "does not say which column", "Sql(email_lower="),
    (lambda: Sql({"a": "1"}, a="2"), "'a' is named twice", "Sql(email_lower="),
    (lambda: Sql(a=""), "the expression for 'a' is empty", "Sql(email_lower="),
    (lambda: untyped_sql(a=1), "the expression for 'a' is of type int", "Sql(email_lower="),
    (lambda: Sql(a="lower(b"), "'a' opens a parenthesis", "Sql(email_lower="),
    (lambda: Sql({"": "1"}), "columns has an empty name", "name"),
    (lambda: untyped_sql({1: "1"}), "columns has of type int", "text"),
    (lambda: untyped_update(["a", "b"]), "one collection", 'Update("name", "email")'),
    (lambda: Update("a", "a"), "columns names 'a' twice", "once"),
    (lambda: Update(""), "columns has an empty name", "name"),
    (lambda: untyped_update(1), "columns has of type int", "text"),
    (lambda: Insert("", on_conflict="skip"), "the table's name is empty", 'Insert("users")'),
    (
        lambda: untyped_insert("b", on_conflict="ignore"),
        "on_conflict is 'ignore'",
        "error, skip, update",
    ),
    (lambda: untyped_insert("b", on_conflict="updat"), "'updat'", "Did you mean update?"),
    (
        lambda: Insert("b", on_conflict="error", conflict=["id"]),
        "conflict= has no meaning",
        '"skip" or "update"',
    ),
    (lambda: Insert("b", on_conflict="skip", columns=[]), "columns is empty", "columns"),
    (lambda: Insert("b", on_conflict="skip", conflict="id"), "conflict is 'id'", "conflict=["),
]


@pytest.mark.parametrize(("make", "mistake", "right"), WRONG)
def test_a_wrong_part_is_refused_naming_the_mistake_and_the_right_form(
    make: Callable[[], object], mistake: str, right: str
) -> None:
    with pytest.raises(DeclarationError) as refusal:
        make()
    assert mistake in refusal.value.message
    assert right in refusal.value.remedy


@pytest.mark.parametrize(
    ("part", "given", "named", "mistake", "right"),
    [
        (Table, ["users"], {"wehre": "a"}, "no argument wehre", "Did you mean where?"),
        (Table, [], {}, "table", 'Write Table("users"'),
        (Table, ["users", "id"], {}, "too many positional", 'Write Table("users"'),
        (Query, ["SELECT 1"], {"keys": "id"}, "no argument keys", "Did you mean key?"),
        (Query, ["SELECT 1"], {}, "key", 'key="id"'),
        (Insert, ["a"], {}, "on_conflict", 'on_conflict="skip"'),
        (Insert, ["a"], {"onconflict": "skip"}, "onconflict", "Did you mean on_conflict?"),
        (Update, [], {"columns": ["a"]}, "'columns'", 'Write Update("email_lower")'),
        (Update, [], {"column": "a"}, "column", 'Write Update("email_lower")'),
        (Delete, ["users"], {}, "too many positional", "Write Delete()."),
        (Call, [], {"url": "a"}, "no argument url", "There are none. Write Call()."),
        (Param, [int], {"defualt": 1}, "no argument defualt", "Did you mean default?"),
        (Param, [], {"type": int}, "no argument type", "Write Param(int"),
        (Options, [5], {}, "too many positional", 'Write Options(rate="5000/s")'),
    ],
)
def test_arguments_that_a_part_does_not_take_are_told_with_what_was_meant(
    part: Callable[..., object],
    given: Sequence[object],
    named: Mapping[str, object],
    mistake: str,
    right: str,
) -> None:
    with pytest.raises(DeclarationError) as refusal:
        part(*given, **named)
    assert refusal.value.message.startswith(f"{part.__name__}(...): ")
    assert mistake in refusal.value.message
    assert right in refusal.value.remedy


def test_signatures_are_as_they_are_written() -> None:
    assert "rate: 'str | None' = None" in str(inspect.signature(Options))
    assert next(iter(inspect.signature(Table).parameters)) == "table"


@pytest.mark.parametrize(
    "name", ["users", "app.users", '"Odd Name"', '"a"."b""c"', "app . users", "größe", "_a$1"]
)
def test_a_table_is_named_as_postgresql_parses_it(name: str) -> None:
    assert Table(f" {name} ").table == name


def test_a_single_key_column_is_a_key_of_one() -> None:
    assert Table("users", key="id").key == ("id",)
    assert Table("users", key=["tenant", "id"]).key == ("tenant", "id")
    assert Table("users").key is None


def test_columns_keep_their_order_and_their_exact_names() -> None:
    table = Table("users", columns=["b", "A a"], where=" x ", todo="y\n")
    assert table.columns == ("b", "A a")
    assert (table.where, table.todo) == ("x", "y")


def test_expressions_keep_their_order_whichever_way_they_are_named() -> None:
    assert list(Sql({"odd name": "1"}, b="2", a="3").expressions.items()) == [
        ("odd name", "1"),
        ("b", "2"),
        ("a", "3"),
    ]


def test_a_query_may_speak_of_what_it_does_not_do() -> None:
    for text in ("SELECT substring(a FOR 3) FROM b", "SELECT 'FOR UPDATE' -- FOR UPDATE\n a"):
        assert Query(text, key="id").sql == text.strip()


def test_a_column_of_sql_may_be_called_columns() -> None:
    assert dict(Sql(columns="1").expressions) == {"columns": "1"}


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (Table("a"), Table("a"), Table("b")),
        (Query("TABLE a", key="b"), Query("TABLE a", key=["b"]), Query("TABLE b", key="b")),
        (Sql(a="1"), Sql(a="1"), Sql(a="2")),
        (Update("a"), Update("a"), Update("b")),
        (Insert("a", on_conflict="skip"), Insert("a", on_conflict="skip"), Delete()),
        (Delete(), Delete(), Update()),
    ],
)
def test_parts_are_values(one: object, same: object, other: object) -> None:
    assert one == same
    assert hash(one) == hash(same)
    assert one != other


@pytest.mark.parametrize(
    ("part", "field"),
    [
        (Table("a"), "table"),
        (Query("TABLE a", key="b"), "sql"),
        (Sql(a="1"), "expressions"),
        (Update("a"), "columns"),
        (Insert("a", on_conflict="skip"), "table"),
    ],
)
def test_parts_are_read_only(part: Any, field: str) -> None:
    before = getattr(part, field)
    with pytest.raises((AttributeError, FrozenInstanceError)):
        setattr(part, field, "b")
    assert getattr(part, field) == before


def test_expressions_are_read_only() -> None:
    expressions: Any = Sql(a="1").expressions
    with pytest.raises(TypeError):
        expressions["a"] = "2"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("users", "Users", True),
        ("users", '"users"', True),
        ("users", '"Users"', False),
        ("app.users", "APP . users", True),
        ("users", "app.users", False),
        ('"a""b"', '"a""b"', True),
    ],
)
def test_names_are_compared_as_postgresql_folds_them(one: str, other: str, same: object) -> None:
    assert same_table(one, other) is same
