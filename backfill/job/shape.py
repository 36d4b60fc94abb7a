"""Whether a job's class can be a job: checked when the class is made.

Every refusal names the class and the mistake, and its remedy shows the right form.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any, NoReturn

from backfill.errors import DeclarationError
from backfill.job.anatomy import (
    ARGUMENTS,
    NAME,
    OWN_NAMES,
    RIGHT_BASE,
    RIGHT_FORM,
    RIGHT_JOB,
    TRANSFORMS,
    Kind,
    is_abstract,
    kind_of,
    params_of,
    part_of,
    snake_case,
)
from backfill.job.fragment import placeholders, quoted_placeholders
from backfill.job.identifier import same_table
from backfill.job.options import Options
from backfill.job.param import NAME as PARAM_NAME
from backfill.job.param import Param
from backfill.job.source import Query, Source, Table
from backfill.job.suggestion import nearest
from backfill.job.target import Call, Delete, Insert, Target, Update
from backfill.job.transform import Sql

#: How much a wrong name resembles a right one, 0 to 1; names of ours are short.
_MISSPELT = 0.8

#: What the value of a part is, where it is no function.
_VALUES: dict[str, type] = {
    "name": str,
    "version": int,
    "source": Source,
    "target": Target,
    "options": Options,
    "retry_on": tuple,
}


def check(job_class: type, base: type, *, abstract: bool) -> None:
    """Check the class, and mark it as a base for other jobs where it is one.

    Args:
        base: Job itself, whose attributes are the names that a job may use.
        abstract: the class says that it is a base for other jobs.

    Raises:
        DeclarationError: the first mistake found.
    """
    _check_spelling(job_class, base)
    if "name" not in vars(job_class):
        # an identity is never inherited: two jobs of one name would be one to the ledger
        job_class.name = snake_case(job_class.__name__)  # type: ignore[attr-defined]
    _check_params(job_class)
    _check_values(job_class)
    _check_functions(job_class, base)
    nothing = all(part_of(job_class, name) is None for name in ("source", "target", *TRANSFORMS))
    job_class._abstract = abstract or nothing  # type: ignore[attr-defined]  # read by is_abstract
    if not is_abstract(job_class):
        _check_whole(job_class)


def _check_spelling(job_class: type, base: type) -> None:
    """A name that is nearly one of ours, with a value that such a name would have."""
    for name, value in vars(job_class).items():
        if name.startswith("_") or name in OWN_NAMES or isinstance(value, Param):
            continue
        known = [
            own
            for own in OWN_NAMES - {"run", "__init__"}
            if part_of(job_class, own) is part_of(base, own)  # the right one is not declared
            and (
                isinstance(value, _VALUES[own])
                if own in _VALUES
                else isinstance(value, FunctionType | staticmethod | classmethod)
                or (own == "transform" and _is_sql(value))
            )
        ]
        # an int near `version` may be anything; a Table can only be the source
        ours = isinstance(value, Source | Target | Sql | Options)
        meant = nearest(name, known, likeness=0.0 if ours else _MISSPELT)
        if meant is not None:
            _refuse(
                job_class,
                f"{name} means nothing to a job; did you mean {meant}?",
                f"Write {RIGHT_FORM[meant]}. If something else is meant, let its name begin "
                f"with an underscore.",
            )


def _check_params(job_class: type) -> None:
    params = params_of(job_class)
    for name, param in params.items():
        value = part_of(job_class, name)
        if name in OWN_NAMES:
            _refuse(
                job_class,
                f"the parameter {name} has the name of an attribute that every job has",
                f"Give it another name: its_{name} = Param({param.value_type.__name__}).",
            )
        if value is not param and not isinstance(value, Param):
            _refuse(
                job_class,
                f"{name} is a parameter of a base class, and another thing here",
                f"Declare it again: {name} = Param({param.value_type.__name__}, default=...).",
            )
        if param.name != name:
            _refuse(
                job_class,
                f"{name} and {param.name} are one and the same Param",
                f"Give each its own: {name} = Param({param.value_type.__name__}).",
            )
        if PARAM_NAME.fullmatch(name) is None:
            _refuse(
                job_class,
                f"the parameter {name} cannot be written as an option and in SQL",
                "Use small letters, digits and underscores, a letter first: since = Param(int).",
            )


def _check_values(job_class: type) -> None:
    name = part_of(job_class, "name")
    if not isinstance(name, str) or NAME.fullmatch(name) is None:
        _refuse(
            job_class,
            f"the name {name!r} cannot be a job's",
            f"Write {RIGHT_FORM['name']}: small letters, digits and underscores, a letter "
            f"first, 63 at most.",
        )
    version = part_of(job_class, "version")
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        _refuse(
            job_class,
            f"version is {version!r}",
            f"Write {RIGHT_FORM['version']}: a whole number from 1.",
        )
    options = part_of(job_class, "options")
    if not isinstance(options, Options):
        _refuse(
            job_class,
            f"options is {_described(options)}",
            f"Write {RIGHT_FORM['options']}.",
        )
    retry_on = part_of(job_class, "retry_on")
    if not isinstance(retry_on, tuple) or not all(
        isinstance(error, type) and issubclass(error, Exception) for error in retry_on
    ):
        _refuse(
            job_class,
            f"retry_on is {retry_on!r}",
            f"Write {RIGHT_FORM['retry_on']}: a tuple of exception classes.",
        )
    for field, right_type in (
        ("source", Table | Query),
        ("target", Update | Insert | Delete | Call),
    ):
        value = part_of(job_class, field)
        if value is not None and not isinstance(value, right_type):
            _refuse(job_class, f"{field} is {_described(value)}", f"Write {RIGHT_FORM[field]}.")


def _check_functions(job_class: type, base: type) -> None:
    if part_of(job_class, "run") is not part_of(base, "run"):
        _refuse(
            job_class,
            "run is declared, which is how a job sees the run that it works for",
            "Give it another name. A row's work is def transform(self, row).",
        )
    for name in ARGUMENTS:
        value = part_of(job_class, name)
        absent = value is None and name in TRANSFORMS
        if absent or value is part_of(base, name) or (name == "transform" and _is_sql(value)):
            continue
        right = f"Write {RIGHT_FORM[name]}."
        if isinstance(value, type) or not (
            callable(value) or isinstance(value, staticmethod | classmethod)
        ):
            _refuse(job_class, f"{name} is {_described(value)}", right)
        _check_callable(job_class, name, value, right)


def _check_callable(job_class: type, name: str, value: Any, right: str) -> None:
    function = inspect.unwrap(getattr(value, "__func__", value))
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        _refuse(job_class, f"{name} is async, and the engine is not", right)
    if inspect.isgeneratorfunction(function) and name != "transform":
        answer = "a list, one answer for each row" if name == "transform_batch" else "nothing"
        _refuse(job_class, f"{name} has a yield in it", f"{right} It returns {answer}.")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return  # a built-in that does not tell
    # what the engine passes; self comes before it, unless the function is not bound to a job
    bound = inspect.isfunction(value) or isinstance(value, classmethod)
    passed = (None,) * (ARGUMENTS[name] + bound)
    try:
        signature.bind(*passed)
    except TypeError:
        _refuse(job_class, f"{name}{signature} cannot be called with what the engine passes", right)


def _check_whole(job_class: type) -> None:
    if all(part_of(job_class, name) is not None for name in TRANSFORMS):
        _refuse(
            job_class,
            "transform and transform_batch are both declared",
            "Keep one: def transform(self, row), or def transform_batch(self, rows).",
        )
    for field in ("source", "target"):
        if part_of(job_class, field) is None:
            _refuse(job_class, f"{field} is missing", f"{RIGHT_JOB}\n{RIGHT_BASE}")
    source: Table | Query = part_of(job_class, "source")
    target: Update | Insert | Delete | Call = part_of(job_class, "target")
    kind = kind_of(job_class)
    transform = part_of(job_class, "transform")
    sql = transform if isinstance(transform, Sql) else None
    match target:
        case Update():
            _check_update(job_class, source, target, sql, kind)
        case Insert():
            _check_insert(job_class, source, target, sql)
        case Delete() if sql is not None:
            _refuse(
                job_class,
                "Sql has no meaning with Delete(), which writes no column",
                "Say which rows go in the source: "
                'source = Table("users", where="left_at < now() - interval \'1 year\'").',
            )
        case Call() if kind not in {"row", "batch"}:
            right = "Write def transform(self, row): announce(row.id). Its answer is ignored."
            _refuse(job_class, "Call() needs a transform in Python, whose effect counts", right)
    if kind == "row" and not isinstance(target, Insert):
        function = inspect.unwrap(getattr(transform, "__func__", transform))
        if inspect.isgeneratorfunction(function):
            _refuse(
                job_class,
                f"transform has a yield in it, and {type(target).__name__} takes one answer a row",
                'Write return {"email_lower": ...}. Several rows of one are for Insert only.',
            )
    _check_lock(job_class, source, target, kind)
    _check_placeholders(job_class, source, sql)


def _check_lock(job_class: type, source: Table | Query, target: Target, kind: Kind) -> None:
    lock = part_of(job_class, "options").lock
    writes = not isinstance(target, Insert | Call)
    if source.table is None and (writes or (lock == "skip" and isinstance(target, Insert))):
        what = f"{type(target).__name__}() writes" if writes else "lock='skip' locks"
        _refuse(
            job_class,
            f"{what} rows of a table, and the query names none",
            'Name it: Query("SELECT ...", key="id", table="users").',
        )
    if isinstance(source, Query) and lock == "optimistic" and not isinstance(target, Call):
        _refuse(
            job_class,
            "lock='optimistic' compares a table's columns, and the source is a query",
            "Leave it out: a query's table is locked, and then the query is read again.",
        )
    waits = kind in {"row", "batch"} or (isinstance(target, Insert) and target.database)
    if lock == "optimistic" and not waits:
        _refuse(
            job_class,
            "lock='optimistic' has no meaning where PostgreSQL computes in one statement",
            "Leave it out: it is for transforms in Python that take long.",
        )
    if lock == "skip" and isinstance(target, Call):
        _refuse(
            job_class,
            "lock='skip' would hold a transaction open while the transform waits for an answer",
            "Leave it out: Call() reads its rows without locks.",
        )


def _check_update(
    job_class: type, source: Table | Query, target: Update, sql: Sql | None, kind: Kind
) -> None:
    columns = target.columns
    if kind == "none":
        _refuse(job_class, "Update() has no transform to take values from", RIGHT_JOB)
    if sql is not None:
        named = tuple(sql.expressions)
        if columns and set(columns) != set(named):
            _refuse(
                job_class,
                f"Update names {_listed(columns)}, and Sql names {_listed(named)}",
                "Write target = Update(): it takes the columns that Sql names.",
            )
        columns = named
    elif not columns:
        _refuse(
            job_class,
            "Update() does not say which columns the transform gives",
            'Write target = Update("email_lower").',
        )
    written = [column for column in source.key or () if column in columns]
    if written and source.todo is None:
        _refuse(
            job_class,
            f"the key's own column {_listed(written)} is written, so that rows move past the "
            f"cursor, and nothing says which of them are done",
            f'Give the source a todo: {type(source).__name__}(..., todo="...").',
        )


def _check_insert(job_class: type, source: Table | Query, target: Insert, sql: Sql | None) -> None:
    if sql is not None and target.columns and set(target.columns) != set(sql.expressions):
        _refuse(
            job_class,
            f"Insert names {_listed(target.columns)}, and Sql names {_listed(sql.expressions)}",
            "Leave columns= out: the columns are those that Sql names.",
        )
    if target.database is not None and source.todo is not None:
        _refuse(
            job_class,
            f"the todo is asked in the source's database, and the rows are in {target.database}",
            "Leave it out, or write it as where=, for rows that are not to be copied.",
        )
    own = source.table if target.database is None else None
    if target.delete_source and source.table is None:
        _refuse(
            job_class,
            "delete_source=True deletes rows of a table, and the query names none",
            'Name it: Query("SELECT ...", key="id", table="users").',
        )
    if target.delete_source and own is not None and same_table(own, target.table):
        _refuse(
            job_class,
            f"Insert moves rows from {target.table} into itself",
            "Name the table that they are to be moved to.",
        )
    if source.todo is None and own is not None and same_table(own, target.table):
        _refuse(
            job_class,
            f"Insert writes into its own source {target.table}, which would never end",
            "Give the source a todo that is not true of the new rows.",
        )


def _check_placeholders(job_class: type, source: Table | Query, sql: Sql | None) -> None:
    params = params_of(job_class)
    for where, text in _fragments(source, sql):
        if quoted := sorted(quoted_placeholders(text) & params.keys()):
            _refuse(
                job_class,
                f"%({quoted[0]})s stands between quotes in {where}, where no value can be bound",
                f"Take the quotes away: %({quoted[0]})s is a value with its own type.",
            )
        for name in sorted(placeholders(text) - params.keys()):
            if (meant := nearest(name, params, likeness=_MISSPELT)) is not None:
                _refuse(
                    job_class,
                    f"%({name})s in {where} is no parameter of this job",
                    f"Did you mean %({meant})s?",
                )


def _fragments(source: Table | Query, sql: Sql | None) -> Iterator[tuple[str, str]]:
    if isinstance(source, Query):
        yield "the query", source.sql
    elif source.where is not None:
        yield "where", source.where
    if source.todo is not None:
        yield "todo", source.todo
    if sql is not None:
        for column, expression in sql.expressions.items():
            yield f"the expression for {column}", expression


def _is_sql(value: object) -> bool:
    return isinstance(value, Sql)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _described(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if isinstance(value, str | int | float | bool):
        return repr(value)
    return f"of type {type(value).__name__}"


def _refuse(job_class: type, mistake: str, right: str) -> NoReturn:
    raise DeclarationError(f"{job_class.__name__}: {mistake}", remedy=right)
