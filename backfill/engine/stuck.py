"""A sweep without progress: somebody holds the last rows. The run fails and names them (I2)."""

from __future__ import annotations

from psycopg import sql

from backfill.engine import lifecycle
from backfill.engine.bench import Bench
from backfill.events import NAMING_KEYS
from backfill.model import RunState
from backfill.pg.connect import READ_LIMITS, transaction
from backfill.pg.keyset import key_arrays
from backfill.pg.ledger import get_run
from backfill.pg.slices import Slice

#: Between two tries a worker looks for other work, and its slot's next message is on the way.
UNTRIED_SECONDS = 1.0

# The transaction that holds a row is the row's xmax, or a member of it when it is a multixact.
_HOLDERS = """
SELECT DISTINCT l.pid, coalesce(nullif(a.application_name, ''), a.usename, '?') AS who, a.xact_start
  FROM (SELECT xmax FROM {table}, {keys} WHERE {joined}) AS held
  JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = held.xmax
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
"""


# How long nothing came forward, and how long of that nobody tried: not_before of a slice that was
# swept in vain is just behind the end of that try. Another worker may be trying now; so this is
# the most that it can have been.
_STILL = """
SELECT extract(epoch FROM now.at - max(progress_at))::float8,
       extract(epoch FROM now.at - greatest(max(progress_at), max(not_before)))::float8 - %(tried)s
  FROM {s}.slice, (SELECT clock_timestamp() AS at) AS now
 WHERE run = %(run)s AND phase = 'sweep'
 GROUP BY now.at
"""
# What is judged is the newest of all slices, so moving one moves it. Ours: no batch of another's
# holds its row. A moment that two workers both leave out is bounded by now.
_LEAVE_OUT = """
UPDATE {s}.slice SET progress_at = least(clock_timestamp(), clock_timestamp()
       + make_interval(secs => %(untried)s - %(still)s))
 WHERE run = %(run)s AND number = %(number)s AND epoch = %(epoch)s
"""


def fail_if_stuck(bench: Bench, held: Slice, *, tried_seconds: float) -> None:
    """Fail a sweeping run that has settled no row in `sweep_seconds` of trying.

    Asked by whoever has just tried all deferred rows of a slice in vain: time alone proves nothing,
    since another may be about to succeed. Nor does time in which nobody tried, because workers were
    away: it is left out.

    Args:
        held: the slice that was tried.
        tried_seconds: for so long, until now.
    """
    run = get_run(bench.conn, bench.ledger, bench.run.id)
    if run.run_state is not RunState.SWEEPING:
        return
    row = bench.conn.execute(
        bench.ledger.q(_STILL), {"run": run.id, "tried": tried_seconds}
    ).fetchone()
    if row is None or row[0] is None:
        return
    still_seconds, untried_seconds = row
    if untried_seconds > UNTRIED_SECONDS:
        bench.conn.execute(
            bench.ledger.q(_LEAVE_OUT),
            {
                "run": run.id,
                "number": held.number,
                "epoch": held.epoch,
                "still": still_seconds,
                "untried": untried_seconds,
            },
        )
        still_seconds -= untried_seconds
    if still_seconds < bench.settings.sweep_seconds:
        return
    keys = [
        tuple(line[0])
        for line in bench.conn.execute(
            bench.ledger.q("SELECT key FROM {s}.deferred WHERE run = %s ORDER BY key LIMIT 3"),
            [run.id],
        )
    ]
    lifecycle.fail(
        bench.conn,
        bench.ledger,
        run.id,
        reason=f"for {still_seconds:.0f} s no deferred row could be locked"
        f"{NAMING_KEYS} {', '.join('/'.join(key) for key in keys)}, held by"
        f" {_holders(bench, keys)}",
        by=bench.holder,
    )


def _holders(bench: Bench, keys: list[tuple[str, ...]]) -> str:
    with transaction(bench.conn, READ_LIMITS, run=bench.run.id):
        found = bench.conn.execute(
            sql.SQL(_HOLDERS).format(
                table=bench.keyset.from_table,
                keys=bench.keyset.unnested(),
                joined=bench.keyset.joined(),
            ),
            key_arrays(keys, len(bench.keyset.columns)),
        ).fetchall()
    return (
        ", ".join(
            f"process {pid} ({who}, in a transaction since {since})" for pid, who, since in found
        )
        or "a transaction that has just ended"
    )
