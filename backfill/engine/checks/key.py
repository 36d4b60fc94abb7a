"""Findings about the key: it must be NOT NULL, unique, and walkable in order (I6)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from backfill.engine.checks.finding import Finding, error, warning
from backfill.errors import DeclarationError, ProjectError
from backfill.job import Delete
from backfill.job.declaration import Declaration
from backfill.model import Key
from backfill.pg.catalog import Relation


def named_key(declaration: Declaration, source: Relation) -> Key:
    """The key's columns: those that the job names, else the primary key's.

    Raises:
        DeclarationError: the table has no primary key, and the job names none.
        ProjectError: there is no such column.
    """
    name = declaration.job_class.__name__
    named = declaration.source.key
    if named is None:
        if source.primary_key is None:
            candidates = [
                key
                for key in source.unique_keys
                if all(source.columns[column].not_null for column in key)
            ]
            hint = f" For example key={list(candidates[0])!r}." if candidates else ""
            raise DeclarationError(
                f"{name}.source: {source.qualified} has no primary key",
                remedy=f"Name a unique key of NOT NULL columns: Table(…, key=…).{hint}",
            )
        named = source.primary_key
    for column in named:
        source.column(column, used_by=f"{name}.source")
    return tuple(named)


def check_key(declaration: Declaration, source: Relation, key: Key) -> Iterator[Finding]:
    """What keeps this key from serving.

    Of what is no table, no index tells: its keys are looked over as they are read (misfits.py).
    """
    name = declaration.job_class.__name__
    for column in key:
        if source.is_lockable and not source.columns[column].not_null:
            yield error(
                "key-nullable",
                f"{name}.source: the key's column {column!r} of {source.qualified} may be NULL;"
                " rows with NULL there could never be reached",
                why="NULL is neither greater nor less than any cursor, so such rows would be lost.",
                remedy="Declare it NOT NULL, or name another key.",
                refusal=DeclarationError,
            )
        if source.columns[column].is_nested:
            yield error(
                "key-nested",
                f"{name}.source: the key's column {column!r} of {source.qualified} is of type"
                f" {source.columns[column].type}; arrays and composites cannot be a key",
                why="Keys travel as arrays of texts, which cannot hold arrays.",
                remedy="Name another unique key.",
                refusal=DeclarationError,
            )
        if column in source.hidden_orders:
            yield error(
                "key-order-hidden",
                f"{name}.source: the key's column {column!r} of {source.qualified} is of type"
                f" {source.columns[column].type}, whose operators are not on this role's"
                " search_path",
                why="`>` would compare by another type's rules than the index, and pages would"
                " miss rows.",
                remedy="Add the type's schema: ALTER ROLE … SET search_path = public, …;",
                refusal=ProjectError,
            )
    if not source.is_lockable:
        return
    if not any(set(unique) <= set(key) for unique in source.unique_keys):
        yield error(
            "key-not-unique",
            f"{name}.source: no unique index of {source.qualified} says that"
            f" ({', '.join(key)}) is unique",
            why="A page that ends between two rows of one key would lose the second.",
            remedy="Name the columns of a unique index without WHERE or expressions.",
            refusal=DeclarationError,
        )
    if not any(walkable[: len(key)] == tuple(key) for walkable in source.walkable_keys):
        yield error(
            "key-not-indexed",
            f"{name}.source: no btree index of {source.qualified} gives the order"
            f" ({', '.join(key)}), so that each page would sort the table",
            why="Each batch would read the whole table.",
            remedy="Name the columns in the order of a btree index, or create one.",
            refusal=DeclarationError,
        )


def check_children(
    declaration: Declaration, source: Relation, key: Key, children: Sequence[Relation]
) -> Iterator[Finding]:
    """An index of a parent knows nothing of the rows in the tables that inherit from it."""
    name = declaration.job_class.__name__
    for child in children:
        is_unique = any(set(unique) <= set(key) for unique in child.unique_keys)
        if is_unique and any(walk[: len(key)] == tuple(key) for walk in child.walkable_keys):
            continue
        yield error(
            "child-not-indexed",
            f"{name}.source: {child.qualified}, which inherits from {source.qualified}, has no"
            f" unique btree index on ({', '.join(key)})",
            why="Each batch would read that whole table, and its keys might occur twice.",
            remedy=f"Create one: CREATE UNIQUE INDEX CONCURRENTLY ON {child.qualified}"
            f" ({', '.join(key)});",
            refusal=DeclarationError,
        )


def check_mutable_key(declaration: Declaration, key: Key) -> Iterator[Finding]:
    """Without a todo only the cursor tells what was done (I1)."""
    removes = isinstance(declaration.target, Delete) or declaration.deletes_source
    if removes or declaration.source.todo is not None:
        return
    yield warning(
        "key-mutable",
        f"{declaration.job_class.__name__} has no todo: its key ({', '.join(key)}) must not change"
        " while it runs, and rows that commit late behind the cursor cannot be found again",
        why="Only the cursor tells what is done, and it follows the key.",
        remedy="Be sure that nobody changes the key; copy what is new in a second run."
        if declaration.target_database is not None
        else 'Give the source a todo (`todo="new IS NULL"`), or be sure that nobody changes the'
        " key.",
    )
