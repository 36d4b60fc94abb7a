"""Whether a process is there that works on a run of its own.

The ledger has no heartbeat of such a process: what tells is its sessions, which the server ends
with it. They are named for the run; every role is shown names. Through a transaction pooler an idle
process has no session: then a run is taken for abandoned that does not come forward, and waits for
nothing that the ledger knows of.
"""

from __future__ import annotations

from backfill.pg.connect import Connection, session_name
from backfill.pg.ledger import Ledger

# No lock on a table; the function below the view pg_stat_activity saves the view's joins.
_SESSIONS = """
SELECT EXISTS (SELECT FROM pg_stat_get_activity(NULL) WHERE application_name = %s
   AND datid = (SELECT oid FROM pg_database WHERE datname = current_database()))
"""


def process_name(run: str) -> str:
    """The name of the sessions of a process that works on this run."""
    return session_name("backfill run ", run)


def has_process(conn: Connection, ledger: Ledger, run: str) -> bool:
    """True where one is there, or might be; for a run of which no slice is held.

    Runs in the caller's transaction, if any.
    """
    if conn.prepare_threshold is not None:
        row = conn.execute(_SESSIONS, [process_name(run)]).fetchone()
    else:
        row = conn.execute(
            ledger.q(
                "SELECT EXISTS (SELECT FROM {s}.slice WHERE run = %(run)s"
                " AND not_before > clock_timestamp())"
                " OR EXISTS (SELECT FROM {s}.run WHERE id = %(run)s AND barrier IS NOT NULL"
                " AND state = 'queued')"
            ),
            {"run": run},
        ).fetchone()
    return bool(row and row[0])
