"""What a run did over time, as the ledger keeps it: pulses, rarer the longer a run lasts.

Functions are handed a connection and never commit. A pulse is a note for charts and reports; one
that is missing, or there twice, changes nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger

#: The shortest time between two pulses of a run. It doubles whenever a run has lasted for MANY of
#: them, so that MANY are kept of the first hours and half as many more for each doubling: a run of
#: a month has fewer than 3,000.
PERIOD_SECONDS = 10.0
MANY = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """How far a run was at an instant.

    Attributes:
        settled: keys that were settled until then.
        speed: the share of its full speed at which signals let it work.
        batch_rows, batch_seconds: of the newest batches, on average; None: nobody worked.
        signals: each signal's value by its name.
    """

    at: datetime
    state: str
    settled: int
    speed: float
    batch_rows: int | None
    batch_seconds: float | None
    signals: Mapping[str, float]


def period_seconds(lasted_seconds: float) -> float:
    """The time between two pulses of a run that has lasted for so long."""
    period = PERIOD_SECONDS
    while lasted_seconds > MANY * period:
        period *= 2
    return period


def write_pulse(
    conn: Connection,
    ledger: Ledger,
    run: str,
    pulse: Pulse,
    *,
    newer_than_seconds: float,
) -> bool:
    """Write a pulse, unless the run has one that is newer than this; True when it was written.

    Its `at` is the server's clock.
    """
    return (
        conn.execute(
            ledger.q(
                "INSERT INTO {s}.pulse (run, state, settled, speed, batch_rows, batch_seconds,"
                " signals) SELECT %(run)s, %(state)s, %(settled)s, %(speed)s, %(rows)s,"
                " %(seconds)s, %(signals)s WHERE NOT EXISTS (SELECT FROM {s}.pulse"
                " WHERE run = %(run)s AND at > clock_timestamp() - make_interval(secs => %(age)s))"
                " ON CONFLICT DO NOTHING"
            ),
            {
                "run": run,
                "state": pulse.state,
                "settled": pulse.settled,
                "speed": pulse.speed,
                "rows": pulse.batch_rows,
                "seconds": pulse.batch_seconds,
                "signals": Jsonb(dict(pulse.signals)),
                "age": newer_than_seconds,
            },
        ).rowcount
        == 1
    )


def read_pulses(conn: Connection, ledger: Ledger, run: str) -> list[Pulse]:
    """A run's pulses, oldest first."""
    with conn.cursor(row_factory=class_row(Pulse)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT at, state, settled, speed, batch_rows, batch_seconds, signals"
                " FROM {s}.pulse WHERE run = %s ORDER BY at"
            ),
            [run],
        ).fetchall()
