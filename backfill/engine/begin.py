"""The beginning of a run: its horizon, the older writers, a total. Nothing scans the table.

Rows with a key up to the horizon that a transaction wrote before the run began may become visible
behind a cursor. So the run waits for the transactions that held a write lock on the source when
the horizon was read, bounded and saying so; later ones are the dual-write's duty.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from backfill.engine import lifecycle, misfits
from backfill.engine.bench import Bench, run_info
from backfill.engine.hooks import Calling, calling
from backfill.engine.source import reading_source
from backfill.events import Event
from backfill.model import Key, PauseCause, RunState
from backfill.pg.changes import set_state
from backfill.pg.connect import READ_LIMITS, Limits, server_time, transaction
from backfill.pg.hooks import Hook
from backfill.pg.keyset import bound
from backfill.pg.ledger import Run, add_event, get_run
from backfill.pg.planned import plan_of, relation_oids

#: Up to so many estimated rows the total is counted, under COUNT_LIMITS.
COUNTED_ROWS = 2_000_000
COUNT_LIMITS = Limits(lock_timeout_seconds=1.0, statement_timeout_seconds=2.0)
#: How long one call polls for older writers before it lets the caller look at other things.
POLL_SECONDS = 2.0

# Locks that INSERT, UPDATE, DELETE or stronger take on these tables or one of their partitions, at
# any depth: who writes to a partition by its own name locks none of those above it. Our own batches
# of another run are among them and end by themselves. Reads pg_locks: no lock needed.
_WRITERS = """
WITH RECURSIVE tables AS (
    SELECT unnest(%(oids)s::oid[]) AS oid
    UNION
    SELECT i.inhrelid FROM pg_inherits i JOIN tables ON i.inhparent = tables.oid)
SELECT l.virtualtransaction, l.pid FROM pg_locks l
 WHERE l.locktype = 'relation' AND l.granted
   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
   AND l.relation IN (SELECT oid FROM tables)
   AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
                  'AccessExclusiveLock')
   AND l.pid IS DISTINCT FROM pg_backend_pid()
"""


def begin(bench: Bench) -> Run:
    """Take a queued run a step further; it is `running` when no older writer is left.

    Several workers may do this at once: each step is a compare-and-set under the run's lock, and
    one of them calls `before_run` while the others wait, or come again.

    Raises:
        StopError: the job's `before_run` raised, a key is NULL, or the source is too slow.
    """
    run = get_run(bench.conn, bench.ledger, bench.run.id)
    if run.run_state is not RunState.QUEUED:
        return run
    if run.barrier is None:
        _read_horizon(bench)
        run = get_run(bench.conn, bench.ledger, run.id)
    tables = _tables(bench) if run.barrier else []
    deadline = bench.clock.monotonic() + POLL_SECONDS
    while run.run_state is RunState.QUEUED:
        waiting = _still_writing(bench, run, tables)
        may_start = not waiting or _is_over(bench, run)
        if not (may_start and _start(bench, waiting)):
            if bench.stopping() or bench.clock.monotonic() > deadline:
                return run
            bench.clock.sleep(0.1)
        run = get_run(bench.conn, bench.ledger, run.id)
    return run


def _read_horizon(bench: Bench) -> None:
    """First the horizon, then the writers: one that begins in between has a later horizon's row."""
    below = None if bench.run.to_key is None else tuple(bench.run.to_key)
    tables = _tables(bench)
    with reading_source(bench):
        misfits.check_null_first(bench)
        row = bench.reader.execute(
            bench.keyset.last_key(below=below is not None),
            {**bench.arguments, **bound("below", below)},
        ).fetchone()
        if row is not None:
            misfits.check_null(bench.keyset, row[0])
    with transaction(bench.reader, READ_LIMITS, run=bench.run.id):
        writers = bench.reader.execute(_WRITERS, {"oids": tables}).fetchall()
    total, is_exact = _total(bench, None if row is None else tuple(row[0]))
    with transaction(bench.conn):
        run = get_run(bench.conn, bench.ledger, bench.run.id, lock=True)
        if run.run_state is not RunState.QUEUED or run.barrier is not None:
            return
        bench.conn.execute(
            bench.ledger.q(
                "UPDATE {s}.run SET horizon = %s, barrier = %s, total_rows = %s,"
                " total_is_exact = %s, frontier_done = %s,"
                " barrier_until = clock_timestamp() + make_interval(secs => %s) WHERE id = %s"
            ),
            [
                None if row is None else row[0],
                [writer[0] for writer in writers],
                total,
                is_exact,
                row is None,  # an empty table has no slice to place
                bench.settings.begin_wait_seconds,
                run.id,
            ],
        )
        if writers:
            add_event(
                bench.conn,
                bench.ledger,
                Event.RUN_WAITING,
                run=run.id,
                caused_by=bench.holder,
                pids=sorted({writer[1] for writer in writers if writer[1] is not None}),
                seconds=bench.settings.begin_wait_seconds,
            )


def _total(bench: Bench, horizon: Key | None) -> tuple[int | None, bool]:
    """How many keys are ours: counted where that is cheap, else the planner's estimate."""
    run = bench.run
    is_bounded = run.from_key is not None or run.to_key is not None
    if is_bounded and horizon is None:
        return 0, True
    total, is_exact = _count(bench, horizon if is_bounded else None)
    if run.row_limit is None or total is None or total <= run.row_limit:
        return total, is_exact
    return run.row_limit, is_exact


def _count(bench: Bench, upto: Key | None) -> tuple[int | None, bool]:
    """`upto`: from the run's first key up to this one; None: the whole table."""
    query = sql.SQL("SELECT {} FROM {} WHERE {} AND {}")
    within = sql.SQL("TRUE") if upto is None else bench.keyset.between(after=False)
    where = (bench.keyset.from_table, within, bench.keyset.condition)
    arguments = {**bench.arguments, **bound("upto", upto)}
    try:
        with transaction(bench.reader, COUNT_LIMITS, run=bench.run.id):
            plan = bench.reader.execute(
                sql.SQL("EXPLAIN (FORMAT json) ") + query.format(sql.SQL("1"), *where), arguments
            ).fetchone()
            estimate = int(plan[0][0]["Plan"]["Plan Rows"]) if plan else 0
            # of a bounded run's rows the planner's estimate alone is known
            known = 0 if upto is not None else bench.source.estimated_rows
            if max(estimate, known) > COUNTED_ROWS:
                return estimate, False
            try:
                with bench.reader.transaction():
                    row = bench.reader.execute(
                        query.format(sql.SQL("count(*)"), *where), arguments
                    ).fetchone()
            except psycopg.errors.QueryCanceled:
                return estimate, False
            return (int(row[0]) if row else 0), True
    except psycopg.errors.LockNotAvailable:
        return None, False


def _tables(bench: Bench) -> list[int]:
    """What the source's rows are made of: its table, and what a query or a view reads."""
    oids = {bench.source.oid}
    if bench.query is not None or not bench.source.is_lockable:
        statement = sql.SQL("SELECT FROM {} WHERE {}").format(
            bench.keyset.from_table, bench.keyset.condition
        )
        with transaction(bench.reader, READ_LIMITS, run=bench.run.id):
            oids |= relation_oids(bench.reader, plan_of(bench.reader, statement, bench.arguments))
    return sorted(oids)


def _still_writing(bench: Bench, run: Run, tables: list[int]) -> list[tuple[str, int | None]]:
    if not run.barrier:
        return []
    rows = bench.reader.execute(_WRITERS, {"oids": tables}).fetchall()
    return [(row[0], row[1]) for row in rows if row[0] in run.barrier]


def _is_over(bench: Bench, run: Run) -> bool:
    row = bench.conn.execute("SELECT clock_timestamp() > %s", [run.barrier_until]).fetchone()
    return bool(row and row[0])


def _start(bench: Bench, waiting: list[tuple[str, int | None]]) -> bool:
    """Let the run work. Writers that would not end are named; without a todo it pauses instead.

    False while another calls `before_run`: no slice is placed until that has come back.
    """
    pids = sorted({pid for _, pid in waiting if pid is not None})
    if waiting and not bench.checks_completion:
        lifecycle.pause(
            bench.conn,
            bench.ledger,
            bench.run.id,
            PauseCause.ERROR,
            reason=f"transactions older than the run still write to {bench.keyset.table}"
            f" (process ids {', '.join(map(str, pids))}); rows that they commit behind the cursor"
            " could not be found without a todo",
            ends="end them or wait for them, then `backfill resume`; the wait begins anew",
            by=bench.holder,
        )
        with transaction(bench.conn):
            bench.conn.execute(
                bench.ledger.q("UPDATE {s}.run SET barrier = NULL WHERE id = %s AND NOT began"),
                [bench.run.id],
            )
        return True
    with calling(bench, Hook.BEFORE_RUN) as caller:
        if caller is None:
            return False
        if get_run(bench.conn, bench.ledger, bench.run.id).run_state is RunState.QUEUED:
            caller.call(lambda: bench.job.before_run(run_info(bench.run)))
            _set_running(bench, caller, pids)
    return True


def _set_running(bench: Bench, caller: Calling, older_writers: list[int]) -> None:
    """After `before_run`, unless its lease was lost: then whoever has it calls it once more."""
    with transaction(bench.conn):
        run = get_run(bench.conn, bench.ledger, bench.run.id, lock=True)
        if run.run_state is not RunState.QUEUED or not caller.is_ours():
            return
        set_state(
            bench.conn,
            bench.ledger,
            run,
            RunState.RUNNING,
            began=True,
            started_at=server_time(bench.conn),
        )
        add_event(
            bench.conn,
            bench.ledger,
            Event.RUN_BEGUN,
            run=run.id,
            caused_by=bench.holder,
            horizon=run.horizon,
            total_rows=run.total_rows,
            total_is_exact=run.total_is_exact,
            older_writers=older_writers,
        )
