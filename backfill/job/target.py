"""What a job does with its rows: update them, insert elsewhere, delete them, call something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from backfill.errors import DeclarationError
from backfill.job.arguments import arguments
from backfill.job.identifier import column_names, table_name
from backfill.job.mapped import TableLike
from backfill.job.suggestion import did_you_mean

OnConflict = Literal["error", "skip", "update"]


class Target:
    """What every target is; a job declares one as `target`."""

    __slots__ = ()


@arguments('Update("email_lower")')
@dataclass(frozen=True, slots=True, init=False)
class Update(Target):
    """Write columns of the source's own rows.

    Attributes:
        columns: what may be written; empty: the columns that the job's `Sql` names.
    """

    columns: tuple[str, ...]

    def __init__(self, *columns: str) -> None:
        """Declare the columns.

        Raises:
            DeclarationError: a name that cannot be a column's, or one twice.
        """
        if len(columns) == 1 and isinstance(columns[0], list | tuple | set | frozenset):
            raise DeclarationError(
                "Update(...): the columns are given as one collection",
                remedy='Write them side by side: Update("name", "email").',
            )
        checked = column_names("Update", "columns", columns) if columns else ()
        object.__setattr__(self, "columns", checked)


@arguments('Insert("archive", on_conflict="skip")')
@dataclass(frozen=True, slots=True, init=False)
class Insert(Target):
    """Write rows into another table; without a transform, columns of the same name are copied.

    Attributes:
        table: the name as PostgreSQL parses it.
        on_conflict: what happens when the row is there already: `error` (the row goes into
            quarantine), `skip` (counted as skipped), `update` (its columns are overwritten).
        columns: what is written; None: the columns that the transform names, else those of the
            same name.
        conflict: the columns whose unique index decides what "there already" means; None: any
            for `skip`, the target's primary key for `update`.
        database: the name, in the project's settings, of the database that the table is in, and the
            run's ledger with it; None: the one that the source is in.
        delete_source: delete what was inserted from the source, in the same transaction.
    """

    table: str
    on_conflict: OnConflict
    columns: tuple[str, ...] | None
    conflict: tuple[str, ...] | None
    database: str | None
    delete_source: bool

    def __init__(
        self,
        table: TableLike,
        *,
        on_conflict: OnConflict,
        columns: Sequence[str] | None = None,
        conflict: Sequence[str] | None = None,
        database: str | None = None,
        delete_source: bool = False,
    ) -> None:
        """Declare the table and what a conflict means.

        Raises:
            DeclarationError: an unknown `on_conflict`, or names that cannot be right.
        """
        if on_conflict not in get_args(OnConflict):
            raise DeclarationError(
                f"Insert(...): on_conflict is {on_conflict!r}",
                remedy=f"{did_you_mean(str(on_conflict), get_args(OnConflict))} "
                f'Write Insert("archive", on_conflict="skip").',
            )
        if conflict is not None and on_conflict == "error":
            raise DeclarationError(
                "Insert(...): conflict= has no meaning with on_conflict='error'",
                remedy='Leave conflict out, or write on_conflict="skip" or "update".',
            )
        if database is not None:
            _check_across(database, on_conflict, delete_source=delete_source)
        if delete_source and on_conflict == "skip":
            raise DeclarationError(
                "Insert(...): delete_source=True with on_conflict='skip' would have to tell which"
                " rows were there already, and whether they are the same",
                remedy='Write on_conflict="error": what is there already goes into quarantine, and'
                ' stays in the source. Or "update", if the source\'s row is the right one.',
            )
        keep = object.__setattr__  # the way in which a frozen dataclass sets its own fields
        keep(self, "table", table_name("Insert", table))
        keep(self, "on_conflict", on_conflict)
        keep(
            self,
            "columns",
            None if columns is None else column_names("Insert", "columns", columns),
        )
        keep(
            self,
            "conflict",
            None if conflict is None else column_names("Insert", "conflict", conflict),
        )
        keep(self, "database", database)
        keep(self, "delete_source", bool(delete_source))


def _check_across(database: object, on_conflict: OnConflict, *, delete_source: bool) -> None:
    """What cannot be promised where source and target share no transaction."""
    if not isinstance(database, str) or not database.strip():
        raise DeclarationError(
            f"Insert(...): database is {database!r}",
            remedy='Write the name of a database in the project\'s settings: database="archive".',
        )
    if delete_source:
        raise DeclarationError(
            "Insert(...): delete_source=True needs one transaction, and database= makes it two",
            remedy="Move in two runs: copy, then delete what was verified to be there.",
        )
    if on_conflict == "update":
        raise DeclarationError(
            "Insert(...): on_conflict='update' with database= could overwrite a newer row: rows are"
            " read without locks, and the application may have written the target since",
            remedy='Write on_conflict="skip": what is there already is at least as new.',
        )


@arguments("Delete()")
@dataclass(frozen=True, slots=True)
class Delete(Target):
    """Delete the source's rows: all that match, or those for which the transform is truthy."""


@arguments("Call()")
@dataclass(frozen=True, slots=True)
class Call(Target):
    """Do what the transform does, such as calling an API; its answer is ignored.

    No row is written and none is locked: the rows are read, and no transaction is open while the
    transform works. It is called at least once for each row: a process that dies between the call
    and the commit that records it leaves the row to be called again.
    """
