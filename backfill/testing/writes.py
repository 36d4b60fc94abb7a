"""Counts what a run writes, by a trigger on its table: independent of what the ledger says.

The trigger writes in the run's own transactions, so what was rolled back is not counted; and only
what the run's statements do themselves, not what triggers of the user's do after them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from backfill.errors import RefusedError
from backfill.job import Call, Delete, Insert
from backfill.model import Counts
from backfill.pg.catalog import Relation, as_template
from backfill.pg.connect import READ_LIMITS, transaction
from backfill.testing.site import Site

_NAME = "test_write"


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """What was written.

    Attributes:
        key: the columns by which rows are told apart; none: only their number is known.
    """

    here: Site
    table: Relation
    key: Sequence[str]

    def check(self, counts: Counts) -> None:
        """Compare with what the ledger says.

        Raises:
            AssertionError: a row was written twice, or not as many as the ledger says.
        """
        target, kind = self.here.declaration.target, self.here.declaration.kind
        is_insert = isinstance(target, Insert)
        if not is_insert:
            twice = self._rows(
                "SELECT key, count(*) FROM {} GROUP BY key HAVING count(*) > 1 ORDER BY key LIMIT 3"
            )
            if twice:
                told = ", ".join(f"{'/'.join(key)} ({times} times)" for key, times in twice)
                raise AssertionError(f"rows of {self.table.qualified} were written twice: {told}")
        ((rows,),) = self._rows("SELECT count(*) FROM {}")
        # a row in Python may become several, and a table that others inherit from sees its own only
        may_be_more = is_insert and kind in {"row", "batch"}
        if self.table.has_children or (may_be_more and rows >= counts.written):
            return
        if rows != counts.written:
            raise AssertionError(
                f"{rows} rows of {self.table.qualified} were written, and the ledger says"
                f" {counts.written}"
            )

    def _rows(self, statement: LiteralString) -> list[Any]:
        table = sql.Identifier(self.here.ledger.schema, _NAME)
        return self.here.conn.execute(sql.SQL(statement).format(table)).fetchall()


@contextmanager
def watched(here: Site) -> Iterator[Writes | None]:
    """Count what the run writes while the block runs; None: it calls, and writes nothing.

    Raises:
        RefusedError: the role may not create a trigger, or the test holds the table locked.
    """
    if (table := here.target()) is None or isinstance(here.declaration.target, Call):
        yield None
        return
    key = () if isinstance(here.declaration.target, Insert) else here.run.resolved.key
    writes = Writes(here=here, table=table, key=key)
    try:
        _create(writes)
    except psycopg.errors.InsufficientPrivilege as error:
        raise RefusedError(
            f"the writes to {table.qualified} cannot be counted: {error.diag.message_primary}",
            remedy="Let the test's role own the table, or have the right TRIGGER on it.",
        ) from error
    except psycopg.errors.LockNotAvailable as error:
        raise RefusedError(
            f"the writes to {table.qualified} cannot be counted: another session uses the table",
            remedy="Commit or roll back what the test has open, also where it has only read.",
        ) from error
    yield writes  # the trigger goes with the schema of its function


def _create(writes: Writes) -> None:
    """The table, the function and the trigger, in the schema of the ledger."""
    here = writes.here
    name, table = sql.Identifier(here.ledger.schema, _NAME), as_template(writes.table.qualified)
    of_row = sql.SQL(", ").join(
        sql.SQL("(written).{}::text").format(sql.Identifier(column)) for column in writes.key
    )
    # a row that an UPDATE moves to another partition is deleted and inserted: it counts once
    is_delete = isinstance(here.declaration.target, Delete)
    body = sql.SQL(
        "DECLARE written record; BEGIN"
        " IF current_setting('backfill.run', true) = {} AND pg_trigger_depth() = 1 THEN"
        " written := {}; INSERT INTO {} VALUES (ARRAY[{}]::text[]); END IF;"
        " RETURN NULL; END"
    ).format(sql.Literal(here.run.id), sql.SQL("OLD" if is_delete else "NEW"), name, of_row)
    with transaction(here.conn, READ_LIMITS):
        # as dropping the trigger will: where the test has read the table and not committed, it is
        # told now, and not waited for at the end
        here.conn.execute(sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(table), {})
        here.conn.execute(sql.SQL("CREATE TABLE {} (key text[] NOT NULL)").format(name))
        here.conn.execute(
            sql.SQL("CREATE FUNCTION {}() RETURNS trigger LANGUAGE plpgsql AS {}").format(
                name, sql.Literal(body.as_string(None))
            )
        )
        here.conn.execute(
            sql.SQL("CREATE TRIGGER {} AFTER {} ON {} FOR EACH ROW EXECUTE FUNCTION {}()").format(
                sql.Identifier(here.ledger.schema),
                sql.SQL("DELETE" if is_delete else "INSERT OR UPDATE"),
                table,
                name,
            ),
            {},
        )
