"""Which columns a job reads and writes, as its declaration says."""

from __future__ import annotations

from backfill.job import Delete, Insert, Table, Update
from backfill.job.declaration import Declaration
from backfill.model import Key
from backfill.pg.catalog import Relation
from backfill.pg.keyset import RowLock


def update_columns(declaration: Declaration) -> tuple[str, ...]:
    """The columns that an Update writes; those of its Sql when it names none."""
    if isinstance(declaration.target, Update) and declaration.target.columns:
        return declaration.target.columns
    return tuple(declaration.sql.expressions) if declaration.sql is not None else ()


def copied_columns(declaration: Declaration, source: Relation, target: Relation) -> tuple[str, ...]:
    """The columns that an Insert without a transform copies: those of the same name in both."""
    named = declaration.target.columns if isinstance(declaration.target, Insert) else None
    if named is not None:
        return named
    return tuple(
        name
        for name, column in target.columns.items()
        if name in source.columns and not column.is_generated
    )


def read_columns(declaration: Declaration, source: Relation, key: Key) -> tuple[str, ...]:
    """The columns that a Python transform is given: the key, and those named, or all.

    Args:
        source: the source as it is read (rows.py).

    Raises:
        ProjectError: one of them is not there.
    """
    declared = declaration.source
    named = (isinstance(declared, Table) and declared.columns) or tuple(source.columns)
    for column in named:
        source.column(column, used_by=f"{declaration.job_class.__name__}.source")
    return (*(column for column in key if column not in named), *named)


def row_lock(declaration: Declaration, source: Relation) -> RowLock:
    """The weakest lock on the source's rows that serves what is done to them (I5)."""
    match declaration.target:
        case Insert(delete_source=False):
            return "FOR SHARE"
        case Insert() | Delete():
            return "FOR UPDATE"
    changed = set(update_columns(declaration))
    return "FOR UPDATE" if changed & source.locking_columns else "FOR NO KEY UPDATE"
