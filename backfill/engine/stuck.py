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

# The transaction that holds a row is the row's xmax, or a member of it when it is a multixact.
_HOLDERS = """
SELECT DISTINCT l.pid, coalesce(nullif(a.application_name, ''), a.usename, '?') AS who, a.xact_start
  FROM (SELECT xmax FROM {table}, {keys} WHERE {joined}) AS held
  JOIN pg_locks l ON l.locktype = 'transactionid' AND l.granted AND l.transactionid = held.xmax
  LEFT JOIN pg_stat_activity a ON a.pid = l.pid
"""


def fail_if_stuck(bench: Bench) -> None:
    """Fail a sweeping run that has settled no row for `sweep_seconds`.

    Asked by whoever has just tried all deferred rows of a slice in vain: time alone proves nothing,
    since workers may have been away, or another may be about to succeed.
    """
    run = get_run(bench.conn, bench.ledger, bench.run.id)
    if run.run_state is not RunState.SWEEPING:
        return
    row = bench.conn.execute(
        bench.ledger.q(
            "SELECT extract(epoch FROM clock_timestamp() - max(progress_at))::float8"
            " FROM {s}.slice WHERE run = %s AND phase = 'sweep'"
        ),
        [run.id],
    ).fetchone()
    if row is None or row[0] is None or row[0] < bench.settings.sweep_seconds:
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
        reason=f"for {row[0]:.0f} s no deferred row could be locked"
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
