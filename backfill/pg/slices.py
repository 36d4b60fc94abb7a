"""The ledger's rows for slices: placing, leasing, holding, recording.

Concurrency rules (I1, I3), each tested by killing the process there:
- A slice is held by whoever raised its epoch last. A batch locks the slice's row under its own
  epoch first and commits its record under the same lock, so an old holder finds no row and writes
  nothing.
- A slice is free when nobody holds it or its lease has run out. Free slices are taken with SKIP
  LOCKED: a batch that is still open keeps its slice, whatever the lease says, until it ends or its
  backend is terminated.
- A slot is filled by one slice at a time (a unique index), so a doubled message does nothing.
- Where the database has a limit on slots, they are counted and taken under one lock (`room`), which
  is every run's: within it nobody waits for a row longer than ROOM_LOCK_SECONDS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from backfill.model import Counts, Key, SlicePhase
from backfill.pg.columns import quoted
from backfill.pg.connect import Connection, transaction
from backfill.pg.ledger import Ledger
from backfill.pg.slots import held_by_all


@dataclass(frozen=True, slots=True, kw_only=True)
class Slice:
    """A slice that this process holds under `epoch`; `counts` as of when it was read.

    Attributes:
        allowance: in a run with a limit, how many rows it may still page.
        attempts: failures in a row since the last commit; below 0: outages, which are none.
        is_cut: it ends at its cursor, where the run's limit was reached.
        wal_at: the bytes that the server's WAL had come to then; None: not asked for.
    """

    run: str
    number: int
    after: Key | None
    upto: Key
    cursor: Key | None
    phase: SlicePhase
    passes: int
    epoch: int
    attempts: int
    counts: Counts
    allowance: int = 0
    is_cut: bool = False
    wal_at: int | None = field(default=None, compare=False)


_COUNTS = tuple(Counts().as_dict())
_AS_THEY_ARE = ("run", "number", "epoch", "attempts", "allowance", "is_cut")
_NAMES = (*_AS_THEY_ARE, "after", "upto", "cursor", "phase", "pass", *_COUNTS)
_OF_SLICE, _OF_S = quoted(_NAMES), quoted(_NAMES, of="s")


def _key(value: Sequence[str] | None) -> Key | None:
    return None if value is None else tuple(value)


def _slice(row: Mapping[str, Any]) -> Slice:
    return Slice(
        **{name: row[name] for name in _AS_THEY_ARE},
        after=_key(row["after"]),
        upto=tuple(row["upto"]),
        cursor=_key(row["cursor"]),
        phase=SlicePhase(row["phase"]),
        passes=row["pass"],
        counts=Counts(**{name: row[name] for name in _COUNTS}),
        wal_at=row.get("wal_at"),
    )


def _held(conn: Connection, statement: sql.SQL, values: Mapping[str, Any]) -> Slice | None:
    """Run a statement that gives its caller one slice, if its slot is empty."""
    try:
        with conn.cursor(row_factory=dict_row) as cursor:
            row = cursor.execute(statement, values).fetchone()
    except psycopg.errors.UniqueViolation as error:
        raise SlotTakenError(f"slot {values['slot']} of run {values['run']} is filled") from error
    return None if row is None else _slice(row)


class SlotTakenError(Exception):
    """Another task fills this slot: the message was doubled. Nothing has been changed."""


class NoRoomError(Exception):
    """The database's limit on slices held at once is reached, or a row is locked: again soon."""


#: Who cancels a run holds its row until its batches have ended: other runs do not wait for that.
ROOM_LOCK_SECONDS = 0.1


@contextmanager
def room(conn: Connection, ledger: Ledger, max_slots: int | None) -> Iterator[None]:
    """Take or place one slice within, if the database's limit over all runs leaves room for it.

    With a limit, a transaction that holds an advisory lock from counting to taking, so that two
    cannot both take the last place. It is taken before any row is locked, so nobody waits for it
    who holds one, and in it for a row only shortly. Without a limit: nothing. What a lost holder
    held counts until its lease is over.

    Raises:
        NoRoomError: there is none, or what is done within would have to wait for another session.
    """
    if max_slots is None:
        yield
        return
    try:
        with transaction(conn):
            conn.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", [ledger.id])
            held = held_by_all(conn, ledger)
            if held >= max_slots:
                raise NoRoomError(f"{held} slices are held in this database; {max_slots} may be")
            conn.execute(f"SET LOCAL lock_timeout = '{ROOM_LOCK_SECONDS * 1000:.0f}ms'")
            yield
    except psycopg.errors.LockNotAvailable as error:
        raise NoRoomError("another session holds what this slice needs; again later") from error


def claim(
    conn: Connection,
    ledger: Ledger,
    run: str,
    phase: SlicePhase,
    *,
    holder: str,
    slot: int,
    lease_seconds: float,
) -> Slice | None:
    """Take a free slice of that phase, raising its epoch; None when there is none now.

    Runs as its own statement (autocommit). Dying right after it costs one lease.

    Raises:
        SlotTakenError: the slot is filled.
    """
    # a sweep that is in vain comes again soon: those that wait longest first, or some never come
    order: LiteralString = "not_before, number" if phase is SlicePhase.SWEEP else "number"
    return _held(
        conn,
        ledger.q(
            "UPDATE {s}.slice SET epoch = epoch + 1, holder = %(holder)s, slot = %(slot)s,"
            " lease_until = clock_timestamp() + make_interval(secs => %(lease)s)"
            " WHERE (run, number) = (SELECT run, number FROM {s}.slice"
            " WHERE run = %(run)s AND phase = %(phase)s"
            " AND (holder IS NULL OR lease_until < clock_timestamp())"
            " AND not_before <= clock_timestamp()"
            f" ORDER BY {order} LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED)"
            f" RETURNING {_OF_SLICE}"
        ),
        {"run": run, "phase": str(phase), "holder": holder, "slot": slot, "lease": lease_seconds},
    )


def place(
    conn: Connection,
    ledger: Ledger,
    run: str,
    *,
    after: Key | None,
    upto: Key,
    is_last: bool,
    holder: str,
    slot: int,
    lease_seconds: float,
) -> Slice | None:
    """Move the run's frontier from `after` to `upto` and hold the slice between; compare-and-swap.

    One statement (autocommit): None when another worker was faster, or the run does not work now.

    Raises:
        SlotTakenError: the slot is filled; the frontier has not moved.
    """
    return _held(
        conn,
        ledger.q(
            "WITH moved AS (UPDATE {s}.run SET frontier = %(upto)s::text[],"
            " slices = slices + 1, frontier_done = %(is_last)s"
            " WHERE id = %(run)s AND state = 'running' AND NOT frontier_done"
            " AND frontier IS NOT DISTINCT FROM %(after)s::text[] RETURNING slices)"
            ' INSERT INTO {s}.slice (run, number, "after", upto, epoch, holder, slot,'
            " lease_until) SELECT %(run)s, slices, %(after)s::text[], %(upto)s::text[], 1,"
            " %(holder)s, %(slot)s,"
            " clock_timestamp() + make_interval(secs => %(lease)s) FROM moved"
            f" RETURNING {_OF_SLICE}"
        ),
        {
            "run": run,
            "after": None if after is None else list(after),
            "upto": list(upto),
            "is_last": is_last,
            "holder": holder,
            "slot": slot,
            "lease": lease_seconds,
        },
    )


# How far the server's WAL has come, in bytes; in the statements that a batch makes anyway. What
# others wrote meanwhile is in the difference, so a reader takes a middle value of several batches.
_WAL_AT: LiteralString = "pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint AS wal_at"
_WAL_UNKNOWN: LiteralString = "NULL::bigint AS wal_at"


def can_read_wal(conn: Connection) -> psycopg.Error | None:
    """Why how far the WAL has come cannot be read here; None: it can. No transaction may be open.

    Some hosted servers refuse the function, and anybody may revoke it.
    """
    try:
        conn.execute("SELECT " + _WAL_AT)
    except psycopg.OperationalError:
        raise
    except psycopg.Error as error:
        return error
    return None


def lock(
    conn: Connection, ledger: Ledger, held: Slice, *, reads_wal: bool = False
) -> tuple[Slice, str] | None:
    """Inside a batch's transaction: hold our slice's row until the end of it.

    Returns:
        The slice as it is now and the run's state; None when the epoch is no longer ours.
    """
    wal_at = _WAL_AT if reads_wal else _WAL_UNKNOWN
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            ledger.q(
                f"SELECT {_OF_S}, r.state, {wal_at}"
                " FROM {s}.slice s JOIN {s}.run r"
                " ON r.id = s.run"
                " WHERE s.run = %s AND s.number = %s AND s.epoch = %s FOR NO KEY UPDATE OF s"
            ),
            [held.run, held.number, held.epoch],
        ).fetchone()
    return None if row is None else (_slice(row), row["state"])


def record(
    conn: Connection,
    ledger: Ledger,
    held: Slice,
    *,
    cursor: Key | None,
    added: Counts,
    phase: SlicePhase,
    lease_seconds: float,
    taken: int | None = None,
    reads_wal: bool = False,
) -> Slice:
    """In the batch's transaction, after `lock`: move the cursor, add counts, renew the lease.

    `batch_seconds` is the transaction's age, so without the commit's own flush.
    """
    wal_at = _WAL_AT if reads_wal else _WAL_UNKNOWN
    with conn.cursor(row_factory=dict_row) as cur:
        row = cur.execute(
            ledger.q(
                "UPDATE {s}.slice SET cursor = %(cursor)s, phase = %(phase)s, attempts = 0,"
                " paged = paged + %(paged)s, written = written + %(written)s,"
                " unchanged = unchanged + %(unchanged)s, skipped = skipped + %(skipped)s,"
                " quarantined = quarantined + %(quarantined)s,"
                " suppressed = suppressed + %(suppressed)s, gone = gone + %(gone)s,"
                " deferred = deferred + %(deferred)s,"
                " allowance = greatest(allowance - %(paged)s, 0),"
                " progress_at = CASE WHEN %(progress)s THEN clock_timestamp() ELSE progress_at END,"
                " batch_seconds = extract(epoch FROM clock_timestamp() - transaction_timestamp()),"
                " batch_rows = %(taken)s,"
                " lease_until = clock_timestamp() + make_interval(secs => %(lease)s)"
                " WHERE run = %(run)s AND number = %(number)s AND epoch = %(epoch)s"
                f" RETURNING {_OF_SLICE}, {wal_at}"
            ),
            {
                **added.as_dict(),
                "progress": bool(added.settled) or cursor != held.cursor,
                "taken": taken,
                "run": held.run,
                "number": held.number,
                "epoch": held.epoch,
                "cursor": None if cursor is None else list(cursor),
                "phase": str(phase),
                "lease": lease_seconds,
            },
        ).fetchone()
    if row is None:  # the row is locked by this transaction under this epoch
        raise AssertionError(f"slice {held.number} of {held.run} vanished under its lock")
    return _slice(row)


def release(
    conn: Connection,
    ledger: Ledger,
    held: Slice,
    *,
    wait_seconds: float = 0.0,
    failed: bool = False,
    was_outage: bool = False,
) -> bool:
    """Give a slice back; False when it is no longer ours. One statement (autocommit).

    Args:
        wait_seconds: nobody takes it before that.
        failed, was_outage: one more in `attempts`; the first of one kind clears the other's.
    """
    return (
        conn.execute(
            ledger.q(
                "UPDATE {s}.slice SET holder = NULL, slot = NULL, lease_until = NULL,"
                " attempts = CASE WHEN %(failed)s THEN greatest(attempts, 0) + 1"
                " WHEN %(outage)s THEN least(attempts, 0) - 1 ELSE attempts END,"
                " not_before = CASE WHEN %(wait)s > 0 THEN"
                " clock_timestamp() + make_interval(secs => %(wait)s) ELSE not_before END"
                " WHERE run = %(run)s AND number = %(number)s AND epoch = %(epoch)s"
                " AND holder IS NOT NULL"
            ),
            {
                "run": held.run,
                "number": held.number,
                "epoch": held.epoch,
                "wait": float(wait_seconds),
                "failed": failed,
                "outage": was_outage,
            },
        ).rowcount
        == 1
    )


def renew(
    conn: Connection, ledger: Ledger, held: Slice, *, lease_seconds: float
) -> tuple[Slice, str] | None:
    """Renew the lease and read, outside any transaction; what is returned is as for `lock`.

    The cursor is as of the last batch that committed: an answer that was lost is found here.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        row = cursor.execute(
            ledger.q(
                "UPDATE {s}.slice AS s"
                " SET lease_until = clock_timestamp() + make_interval(secs => %s)"
                " FROM {s}.run AS r WHERE s.run = %s AND s.number = %s AND s.epoch = %s"
                " AND s.holder IS NOT NULL AND r.id = s.run"
                f" RETURNING {_OF_S}, r.state"
            ),
            [lease_seconds, held.run, held.number, held.epoch],
        ).fetchone()
    return None if row is None else (_slice(row), row["state"])


def heartbeat(conn: Connection, ledger: Ledger, held: Slice, *, lease_seconds: float) -> bool:
    """Renew the lease while waiting, outside any transaction; False when it is no longer ours."""
    return (
        conn.execute(
            ledger.q(
                "UPDATE {s}.slice SET lease_until = clock_timestamp() + make_interval(secs => %s)"
                " WHERE run = %s AND number = %s AND epoch = %s AND holder IS NOT NULL"
            ),
            [lease_seconds, held.run, held.number, held.epoch],
        ).rowcount
        == 1
    )


def raise_epochs(conn: Connection, ledger: Ledger, run: str) -> None:
    """Take every slice of a run from its holder, waiting for the batches in hand.

    Inside a transaction that holds the run's row, so that no slice is placed meanwhile. After it,
    no batch of this run can commit any more.
    """
    conn.execute(
        ledger.q(
            "UPDATE {s}.slice SET epoch = epoch + 1, holder = NULL, slot = NULL, lease_until = NULL"
            " WHERE run = %s AND phase <> 'done'"
        ),
        [run],
    )


def all_counts(conn: Connection, ledger: Ledger, run: str) -> list[tuple[int, int, Counts]]:
    """Every slice's number, epoch and counts, for rebuilding the checkpoint."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return [
            (row["number"], row["epoch"], Counts(**{name: row[name] for name in _COUNTS}))
            for row in cursor.execute(
                ledger.q(f"SELECT {_OF_SLICE} FROM {{s}}.slice WHERE run = %s ORDER BY number"),
                [run],
            )
        ]
