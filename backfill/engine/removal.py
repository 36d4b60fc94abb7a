"""The second half of moving rows: `Insert(delete_source=True)` deletes what it has inserted.

In the transaction of the insert (I1), and only rows whose every line was inserted. Where a trigger
of the target, or of the source, lets fewer through than were meant, nothing is moved: the page is
rolled back and halved, and the row that is found so stays where it was, and counts as suppressed.
"""

from __future__ import annotations

from collections.abc import Sequence

from psycopg import sql

from backfill.model import Key
from backfill.pg.connect import Connection
from backfill.pg.keyset import Keyset, key_arrays


class NotMovedError(Exception):
    """Fewer rows were inserted, or deleted, than were meant; nothing may be committed of it."""


class Removal:
    """Deletes rows of the source."""

    def __init__(self, keyset: Keyset) -> None:
        self._width = len(keyset.columns)
        self.statement = sql.SQL("DELETE FROM {} USING {} WHERE {}").format(
            keyset.from_table, keyset.unnested(), keyset.joined()
        )

    def remove(self, conn: Connection, keys: Sequence[Key], *, inserted: int, meant: int) -> None:
        """Delete the rows of these keys, which this transaction has locked and inserted.

        Args:
            inserted, meant: rows of the target.

        Raises:
            NotMovedError: the transaction has to be rolled back.
        """
        if inserted != meant:
            raise NotMovedError(f"{inserted} of {meant} rows were inserted")
        if not keys:
            return
        deleted = conn.execute(self.statement, key_arrays(keys, self._width)).rowcount
        if deleted != len(keys):
            raise NotMovedError(f"{deleted} of {len(keys)} rows were deleted")
