"""A job's class with a wrong shape is refused when it is made."""

import functools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from types import new_class
from typing import Any

import pytest

from backfill import (
    Delete,
    Insert,
    Job,
    Options,
    Param,
    Query,
    Row,
    Sql,
    Table,
    Update,
)
from backfill.errors import DeclarationError, ProjectError
from backfill.job import Source, Target
from backfill.job.anatomy import is_abstract


def declare(**parts: object) -> type[Job]:
    """A job's class named `Wrong` with these parts; untyped, as a user's mistakes are."""
    declared: type[Job] = new_class("Wrong", (Job,), exec_body=lambda body: body.update(parts))
    return declared


def by_row(self: Job, row: Row) -> Mapping[str, object]:
    return {"a": 1}


def by_batch(self: Job, rows: list[Row]) -> list[Mapping[str, object]]:
    return [{"a": 1} for _ in rows]


async def in_async(self: Job, row: Row) -> None: ...


async def in_async_steps(self: Job, row: Row) -> AsyncIterator[object]:
    yield {}


def in_steps(self: Job, row: Row) -> Iterator[object]:
    yield {}


def without_row(self: Job) -> None: ...


def without_self(row: Row) -> None: ...


def with_more(self: Job, row: Row, conn: object) -> None: ...


class Odd(Source):
    """A source of a user's own."""


class OddTarget(Target):
    """A target of a user's own."""


USERS = Table("users")
SQL = Sql(a="lower(b)")
ONE_PARAM = Param(int, default=1)

WRONG: dict[str, tuple[dict[str, object], str, str]] = {
    # what is declared, the mistake in the message, the right form in the remedy
    "no source": ({"target": Delete()}, "source is missing", "source = Table("),
    "no target": ({"source": USERS, "transform": SQL}, "target is missing", "target = Update("),
    "only a transform": ({"transform": by_row}, "source is missing", "abstract=True"),
    "Update without a transform": (
        {"source": USERS, "target": Update("a")},
        "no transform",
        "transform = Sql(",
    ),
    "two transforms": (
        {"source": USERS, "target": Update("a"), "transform": by_row, "transform_batch": by_batch},
        "both declared",
        "Keep one",
    ),
    "Sql beside transform_batch": (
        {"source": USERS, "target": Update("a"), "transform": SQL, "transform_batch": by_batch},
        "both declared",
        "Keep one",
    ),
    "Sql with Delete": (
        {"source": USERS, "target": Delete(), "transform": SQL},
        "no meaning with Delete()",
        "where=",
    ),
    "Update() with a Python transform": (
        {"source": USERS, "target": Update(), "transform": by_row},
        "which columns",
        'Update("email_lower")',
    ),
    "Update() with a batch transform": (
        {"source": USERS, "target": Update(), "transform_batch": by_batch},
        "which columns",
        'Update("email_lower")',
    ),
    "Update names other columns than Sql": (
        {"source": USERS, "target": Update("b"), "transform": SQL},
        "'b', and Sql names 'a'",
        "target = Update()",
    ),
    "Update names more columns than Sql": (
        {"source": USERS, "target": Update("a", "b"), "transform": SQL},
        "'a', 'b', and Sql names 'a'",
        "target = Update()",
    ),
    "Insert names other columns than Sql": (
        {
            "source": USERS,
            "target": Insert("archive", on_conflict="skip", columns=["b"]),
            "transform": SQL,
        },
        "'b', and Sql names 'a'",
        "Leave columns= out",
    ),
    "Insert into its own source": (
        {"source": Table("users"), "target": Insert("Users", on_conflict="skip")},
        "its own source",
        "todo",
    ),
    "the key is written": (
        {"source": Table("users", key="a"), "target": Update("a", "b"), "transform": by_row},
        "'a' is written",
        "todo=",
    ),
    "the key is written by Sql": (
        {"source": Table("users", key=["tenant", "a"]), "target": Update(), "transform": SQL},
        "'a' is written",
        "todo=",
    ),
    "async transform": (
        {"source": USERS, "target": Update("a"), "transform": in_async},
        "transform is async",
        "def transform(self, row)",
    ),
    "async generator": (
        {"source": USERS, "target": Update("a"), "transform": in_async_steps},
        "transform is async",
        "def transform(self, row)",
    ),
    "yield with Update": (
        {"source": USERS, "target": Update("a"), "transform": in_steps},
        "yield",
        "return {",
    ),
    "yield with Delete": (
        {"source": USERS, "target": Delete(), "transform": in_steps},
        "yield",
        "for Insert only",
    ),
    "yield in transform_batch": (
        {
            "source": USERS,
            "target": Insert("b", on_conflict="skip"),
            "transform_batch": in_steps,
        },
        "yield",
        "a list",
    ),
    "transform without row": (
        {"source": USERS, "target": Update("a"), "transform": without_row},
        "transform(self: backfill.job.job.Job)",
        "def transform(self, row)",
    ),
    "transform without self": (
        {"source": USERS, "target": Update("a"), "transform": without_self},
        "cannot be called",
        "def transform(self, row)",
    ),
    "transform with too many parameters": (
        {"source": USERS, "target": Update("a"), "transform": with_more},
        "cannot be called",
        "def transform(self, row)",
    ),
    "transform_batch without rows": (
        {"source": USERS, "target": Update("a"), "transform_batch": without_row},
        "transform_batch(self",
        "def transform_batch(self, rows)",
    ),
    "static transform with self": (
        {"source": USERS, "target": Update("a"), "transform": staticmethod(by_row)},
        "cannot be called",
        "def transform(self, row)",
    ),
    "transform is text": (
        {"source": USERS, "target": Update("a"), "transform": "lower(b)"},
        "transform is 'lower(b)'",
        "transform = Sql(",
    ),
    "transform is the class Sql": (
        {"source": USERS, "target": Update("a"), "transform": Sql},
        "the class Sql itself",
        "transform = Sql(",
    ),
    "transform_batch is Sql": (
        {"source": USERS, "target": Update("a"), "transform_batch": SQL},
        "transform_batch is of type Sql",
        "def transform_batch(self, rows)",
    ),
    "setup is async": ({"setup": in_async}, "setup is async", "def setup(self, conn)"),
    "setup without conn": ({"setup": without_row}, "setup(self", "def setup(self, conn)"),
    "setup is None": ({"setup": None}, "setup is", "def setup(self, conn)"),
    "after_batch with a yield": ({"after_batch": in_steps}, "yield", "returns nothing"),
    "teardown with an argument": ({"teardown": by_row}, "teardown(self", "def teardown(self)"),
    "__init__ with an argument": ({"__init__": by_row}, "__init__(self", "def setup(self, conn)"),
    "run is declared": ({"run": by_row}, "run is declared", "def transform(self, row)"),
    "source is text": ({"source": "users"}, "source is 'users'", "source = Table("),
    "source is a class": ({"source": Table}, "the class Table itself", "source = Table("),
    "source of an unknown kind": ({"source": Odd()}, "source is of type Odd", "source = Table("),
    "target is text": ({"target": "a"}, "target is 'a'", "target = Update("),
    "target is a class": ({"target": Update}, "the class Update itself", "target = Update("),
    "target of an unknown kind": ({"target": OddTarget()}, "of type OddTarget", "target = Update("),
    "options is a mapping": ({"options": {"rate": "1/s"}}, "options is of type dict", "Options("),
    "options is the class": ({"options": Options}, "the class Options itself", "Options("),
    "Update over a query without a table": (
        {"source": Query("TABLE a", key="b"), "target": Update("a"), "transform": by_row},
        "Update() writes rows of a table, and the query names none",
        'Query("SELECT ...", key="id", table="users")',
    ),
    "Delete over a query without a table": (
        {"source": Query("TABLE a", key="b"), "target": Delete()},
        "Delete() writes rows of a table",
        "table=",
    ),
    "a parameter that a query misspells": (
        {
            "source": Query("SELECT * FROM a WHERE x > %(sinse)s", key="b", table="a"),
            "target": Delete(),
            "since": Param(int),
        },
        "%(sinse)s in the query is no parameter",
        "%(since)s",
    ),
    "name with capitals": ({"name": "Lower"}, "'Lower'", 'name = "fill_departure"'),
    "name too long": ({"name": "a" * 64}, "cannot be a job's", "63 at most"),
    "name of another type": ({"name": 7}, "the name 7", 'name = "fill_departure"'),
    "version 0": ({"version": 0}, "version is 0", "version = 2"),
    "version True": ({"version": True}, "version is True", "version = 2"),
    "version as text": ({"version": "2"}, "version is '2'", "version = 2"),
    "retry_on is one class": ({"retry_on": OSError}, "retry_on is", "(TimeoutError,)"),
    "retry_on has an instance": ({"retry_on": (OSError(),)}, "retry_on is", "(TimeoutError,)"),
    "retry_on has KeyboardInterrupt": (
        {"retry_on": (KeyboardInterrupt,)},
        "retry_on is",
        "(TimeoutError,)",
    ),
    "tranform": ({"tranform": by_row}, "tranform means nothing", "def transform(self, row)"),
    "transformBatch": ({"transformBatch": by_batch}, "transform_batch?", "transform_batch(self"),
    "tranform as Sql": ({"tranform": SQL}, "did you mean transform?", "transform = Sql("),
    "any name for a Table": ({"users": USERS}, "did you mean source?", "source = Table("),
    "targt": ({"targt": Delete()}, "did you mean target?", "target = Update("),
    "option": ({"option": Options()}, "did you mean options?", "options = Options("),
    "nme": ({"nme": "x"}, "did you mean name?", "name ="),
    "versoin": ({"versoin": 2}, "did you mean version?", "version = 2"),
    "retryon": ({"retryon": (OSError,)}, "did you mean retry_on?", "retry_on = "),
    "tear_down": ({"tear_down": without_row}, "did you mean teardown?", "def teardown(self)"),
    "parameter named version": ({"version": ONE_PARAM}, "parameter version", "its_version"),
    "parameter named setup": ({"setup": ONE_PARAM}, "parameter setup", "its_setup"),
    "parameter with capitals": ({"Since": Param(int)}, "parameter Since", "small letters"),
    "parameter with an underscore first": ({"_since": Param(int)}, "_since", "small letters"),
    "one Param under two names": ({"a": ONE_PARAM, "b": ONE_PARAM}, "one and the same", "Param("),
    "placeholder between quotes": (
        {
            "source": Table("users", where="born > '%(since)s'"),
            "target": Delete(),
            "since": Param(int),
        },
        "%(since)s stands between quotes in where",
        "Take the quotes away",
    ),
    "misspelt placeholder": (
        {
            "source": USERS,
            "target": Update(),
            "transform": Sql(a="b + %(sicne)s"),
            "since": Param(int),
        },
        "%(sicne)s in the expression for a",
        "%(since)s",
    ),
}


@pytest.mark.parametrize(("parts", "mistake", "right"), WRONG.values(), ids=list(WRONG))
def test_a_wrong_shape_is_refused_naming_class_mistake_and_right_form(
    parts: dict[str, object], mistake: str, right: str
) -> None:
    with pytest.raises(DeclarationError) as refusal:
        declare(**parts)

    assert refusal.value.message.startswith("Wrong: ")
    assert mistake in refusal.value.message
    assert right in refusal.value.remedy


def test_a_refusal_is_a_type_error_and_a_project_error() -> None:
    with pytest.raises(TypeError) as refusal:
        declare(version=0)
    assert isinstance(refusal.value, ProjectError)


def decorated(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def with_default(self: Job, row: Row, extra: int = 0) -> object:
    return {}


RIGHT: dict[str, dict[str, object]] = {
    "Sql with Update()": {"source": USERS, "target": Update(), "transform": SQL},
    "Sql with the same columns": {"source": USERS, "target": Update("a"), "transform": SQL},
    "a row at a time": {"source": USERS, "target": Update("a"), "transform": by_row},
    "a batch at a time": {"source": USERS, "target": Update("a"), "transform_batch": by_batch},
    "decorated": {"source": USERS, "target": Update("a"), "transform": decorated(by_row)},
    "static": {"source": USERS, "target": Update("a"), "transform": staticmethod(without_self)},
    "a further parameter with a default": {
        "source": USERS,
        "target": Update("a"),
        "transform": with_default,
    },
    "yield with Insert": {
        "source": USERS,
        "target": Insert("b", on_conflict="error"),
        "transform": in_steps,
    },
    "Insert from a query without a table": {
        "source": Query("TABLE a", key="b"),
        "target": Insert("c", on_conflict="skip"),
    },
    "Update over a query": {
        "source": Query("WITH x AS (TABLE a) SELECT * FROM x", key="b", table="a"),
        "target": Update("c"),
        "transform": by_row,
    },
    "Insert copies": {"source": USERS, "target": Insert("b", on_conflict="skip")},
    "Insert with Sql": {
        "source": USERS,
        "target": Insert("b", on_conflict="skip", columns=["a"]),
        "transform": SQL,
    },
    "Insert into its own source with a todo": {
        "source": Table("users", todo="x"),
        "target": Insert("users", on_conflict="skip"),
    },
    "Insert into a table of the same name elsewhere": {
        "source": Table("app.users"),
        "target": Insert("archive.users", on_conflict="skip"),
    },
    "Delete all": {"source": USERS, "target": Delete()},
    "Delete chosen": {"source": USERS, "target": Delete(), "transform": by_row},
    "the key is written with a todo": {
        "source": Table("users", key="a", todo="b IS NULL"),
        "target": Update(),
        "transform": SQL,
    },
    "helpers of one's own": {
        "source": USERS,
        "target": Update("a"),
        "transform": by_row,
        "names": ["a"],
        "lookup": {},
        "other_users": USERS,
        "_tranform": by_row,
    },
    "a placeholder that is no parameter": {
        "source": Table("users", where="a %(b) > 1"),
        "target": Delete(),
        "since": Param(int),
    },
}


@pytest.mark.parametrize("parts", RIGHT.values(), ids=list(RIGHT))
def test_a_right_shape_is_taken(parts: dict[str, object]) -> None:
    assert not is_abstract(declare(**parts))
