"""A job, the tables that it means, and the statements that it will run, as PostgreSQL knows them.

Everything here reads the catalog and asks PostgreSQL to plan our statements; no row is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from backfill.engine import unlocked
from backfill.engine.checks.finding import Found
from backfill.engine.checks.key import check_children, check_key, named_key
from backfill.engine.checks.statements import check_statements, no_keys
from backfill.engine.checks.tables import check_kind
from backfill.engine.checks.values import check_values
from backfill.engine.checks.writing import (
    check_arbiters,
    check_columns,
    check_insert,
    check_own_rows,
    written_columns,
)
from backfill.engine.columns import read_columns
from backfill.engine.reading import Reading, readable, reading_of
from backfill.engine.removal import Removal
from backfill.engine.rows import keyset_of, query_of, read_relation, source_relation
from backfill.engine.write import Writer
from backfill.job import Call, Delete, Insert, Options, Query, Table
from backfill.job.declaration import Declaration
from backfill.model import Key
from backfill.pg import catalog
from backfill.pg.catalog import Relation
from backfill.pg.connect import Connection
from backfill.pg.keyset import Keyset


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What is checked.

    Attributes:
        arguments: parameters by placeholder.
        source, target: the tables; the same one for Update and Delete.
        read: the source as it is read: with a query's columns in place of its own.
        columns: what is written, as far as the declaration says.
    """

    declaration: Declaration
    arguments: Mapping[str, Any]
    source: Relation
    target: Relation
    read: Relation
    key: Key
    columns: tuple[str, ...]
    keyset: Keyset
    writer: Writer

    @property
    def name(self) -> str:
        """The job's class, as a person finds it in the code."""
        return self.declaration.job_class.__name__

    @property
    def claimed(self) -> tuple[str, ...]:
        """The columns that a run claims; `*` stands for deleting rows."""
        match self.declaration.target:
            case Insert(delete_source=True):
                return ("*",)
            case Insert() | Call():  # inserts may stand side by side, and Call writes nothing
                return ()
            case Delete():
                return ("*",)
            case _:
                return self.columns

    @property
    def claimed_table(self) -> str:
        """Whose columns they are."""
        return (self.source if self.declaration.deletes_source else self.target).qualified

    @property
    def reading(self) -> Reading:
        """How rows are read, where they are read without locks."""
        return reading_of(
            self.declaration, self.keyset, self.python_columns, source=self.read, target=self.target
        )

    def reads_unlocked(self, options: Options) -> bool:
        """As the declaration's, of this source."""
        return self.declaration.reads_unlocked(options, lockable=self.source.is_lockable)

    def whole(self) -> sql.Composed:
        """All rows that are the job's, with what is read of them without locks."""
        keyset = readable(query_of(self.declaration), self.keyset, self.reading)
        return sql.SQL("SELECT {} FROM {} WHERE {}").format(
            sql.SQL(", ").join(self.reading.values), keyset.from_table, keyset.condition
        )

    @property
    def removal(self) -> Removal | None:
        """What deletes the rows that were moved."""
        return Removal(self.keyset) if self.declaration.deletes_source else None

    @property
    def known_columns(self) -> tuple[str, ...] | None:
        """All columns that are written; None: a transform may name any of the target's."""
        target = self.declaration.target
        if isinstance(target, Insert) and not self.declaration.computes and target.columns is None:
            return None
        return self.columns or None

    @property
    def python_columns(self) -> tuple[str, ...] | None:
        """Those that a Python transform is given; None when PostgreSQL computes."""
        if self.declaration.kind not in {"row", "batch"}:
            return None
        return read_columns(self.declaration, self.read, self.key)

    @property
    def page_columns(self) -> tuple[str, ...] | None:
        """Those that are read when the rows are locked; a query's are read afterwards."""
        return None if isinstance(self.declaration.source, Query) else self.python_columns

    @property
    def row_by_row(self) -> sql.Composed | None:
        """A job's expressions where only what makes one value of one row may stand: in WHERE.

        PostgreSQL itself refuses them in an UPDATE. A SELECT that is inserted takes aggregates and
        functions that return sets, so a page would give more rows than it has, or fewer.
        """
        if self.declaration.sql is None or not isinstance(self.declaration.target, Insert):
            return None
        if self.writer.is_python:  # they are computed where the rows are read
            keyset = readable(query_of(self.declaration), self.keyset, self.reading)
            values: Sequence[sql.Composable] = self.reading.values
            rows: sql.Composable = sql.SQL("{} WHERE {}").format(
                keyset.from_table, keyset.condition
            )
        else:
            values, rows = self.writer.values_and_rows
        return sql.SQL("SELECT FROM {} AND ({})").format(
            rows, sql.SQL(" OR ").join(sql.SQL("({}) IS NULL").format(one) for one in values)
        )

    def unlocked_page(self, *, after: bool) -> tuple[sql.Composed, Mapping[str, Any]]:
        """The statement that reads a page without locks, and what it is given beside the bounds."""
        keyset = readable(query_of(self.declaration), self.keyset, self.reading)
        statement = unlocked.page(keyset, self.reading, after=after)
        return statement, {**self.arguments, **unlocked.seed()}


def examine(
    conn: Connection,
    declaration: Declaration,
    *,
    arguments: Mapping[str, Any],
    source_conn: Connection | None = None,
) -> tuple[Subject | None, Found]:
    """Resolve a job's tables and find what makes a run impossible.

    Args:
        arguments: parameters by placeholder, for planning.
        source_conn: to the source's database, where it is not the one that is written.

    Returns:
        The subject, None where it could not be resolved; what was found, in order. What depends on
        a part that is wrong is not looked at.
    """
    found, reader = Found(), source_conn or conn
    name = declaration.job_class.__name__
    source: Relation | None = None
    target: Relation | None = None
    read: Relation | None = None
    if declaration.source.table is None:
        with found.refused("query-not-runnable", why="It gives the rows."):
            source = source_relation(reader, declaration, None, arguments)
    else:
        with found.refused("source-missing", why="The rows are taken from this table."):
            source = source_relation(reader, declaration, declaration.source.table, arguments)
    if source is not None:
        found.findings += check_kind(declaration, source)
    if isinstance(declaration.target, Insert):
        with found.refused("target-missing", why="The rows are written into this table."):
            target = catalog.relation(conn, declaration.target.table, used_by=f"{name}.target")
    else:
        target = source
    if source is None or target is None or found.has_errors:
        return None, found
    with found.refused("query-not-runnable", why="It gives the rows."):
        read = read_relation(reader, declaration, source, arguments)
    if read is None:
        return None, found
    subject = _resolve(declaration, arguments, source, target, read=read, found=found)
    if subject is not None and source.has_children:
        inheriting = catalog.children(reader, source, used_by=f"{name}.source")
        found.findings += check_children(declaration, source, subject.key, inheriting)
    if subject is not None:
        found.findings += check_arbiters(conn, declaration, target)
        found.findings += check_own_rows(conn, declaration, source, target)
        if (row_by_row := subject.row_by_row) is not None:
            found.findings += check_values(
                reader if subject.writer.is_python else conn,
                row_by_row,
                {**arguments, **no_keys(subject.keyset)},
                name=name,
                secrets=declaration.secrets(arguments),
            )
    if subject is not None and not found.has_errors:
        found.findings += check_statements(
            conn,
            subject.keyset,
            subject.writer,
            name=name,
            arguments=arguments,
            secrets=declaration.secrets(arguments),
            columns=subject.columns,
            removal=subject.removal,
            tables={source.oid, target.oid},
            source_conn=reader,
            unlocked_page=(
                None if subject.writer.locks_rows else subject.unlocked_page(after=False)
            ),
        )
    return subject, found


def _resolve(
    declaration: Declaration,
    arguments: Mapping[str, Any],
    source: Relation,
    target: Relation,
    *,
    read: Relation,
    found: Found,
) -> Subject | None:
    name = declaration.job_class.__name__
    key: Key | None = None
    with found.refused("key-missing", why="Pages of rows are found by walking a unique key."):
        key = named_key(declaration, source)
        found.findings += check_key(declaration, source, key)
    declared = declaration.source
    for column in (isinstance(declared, Table) and declared.columns) or ():
        with found.refused("column-missing", why="The transform is to be given this column."):
            source.column(column, used_by=f"{name}.source")
    columns = written_columns(declaration, read, target)
    found.findings += check_columns(declaration, target, key, columns)
    if isinstance(declaration.target, Insert):
        found.findings += check_insert(declaration, declaration.target, read, target, columns)
    if key is None or found.has_errors:
        return None
    types = [source.columns[column].type for column in key]
    keyset = keyset_of(declaration, source, key, types)
    return Subject(
        declaration=declaration,
        arguments=arguments,
        source=source,
        target=target,
        read=read,
        key=key,
        columns=columns,
        keyset=keyset,
        writer=Writer(declaration, keyset, source=read, target=target, arguments=arguments),
    )
