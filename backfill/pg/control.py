"""What somebody may change while a run works, as the ledger has it; and the operator's red button.

Lock order, everywhere: ledger, then run, then slice, then the user's rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from backfill.events import Event
from backfill.model import RunState
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, add_event


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """What a run is to obey now.

    Attributes:
        options: as the ledger keeps them.
        speed: the share of its full speed at which signals let it work; 0 < speed ≤ 1.
        sample_age_seconds: since the newest sample of its signals; None: there is none.
    """

    options: Mapping[str, Any]
    speed: float
    state: str
    sample_age_seconds: float | None

    @property
    def run_state(self) -> RunState:
        return RunState(self.state)


def read_control(conn: Connection, ledger: Ledger, run: str) -> Control | None:
    """Read it, in one statement without locks; None: there is no such run."""
    with conn.cursor(row_factory=class_row(Control)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT options, speed, state, (SELECT extract(epoch FROM clock_timestamp()"
                " - max(at))::float8 FROM {s}.signal WHERE run = r.id) AS sample_age_seconds"
                " FROM {s}.run AS r WHERE id = %s"
            ),
            [run],
        ).fetchone()


def set_options(conn: Connection, ledger: Ledger, run: str, options: Mapping[str, object]) -> None:
    """Write a run's options. A transaction must be open that has locked the run."""
    conn.execute(
        ledger.q("UPDATE {s}.run SET options = %s WHERE id = %s"), [Jsonb(dict(options)), run]
    )


def add_event_once(
    conn: Connection,
    ledger: Ledger,
    event: Event,
    *,
    run: str,
    caused_by: str,
    signal: str,
    reason: str,
) -> None:
    """Say of a run's signal what many processes find out: the first says it (nearly always)."""
    said = conn.execute(
        ledger.q(
            "SELECT FROM {s}.event WHERE run = %s AND name = %s AND detail->>'signal' = %s LIMIT 1"
        ),
        [run, str(event), signal],
    ).rowcount
    if not said:
        add_event(conn, ledger, event, run=run, caused_by=caused_by, signal=signal, reason=reason)


# --- the red button ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """The red button is pressed: no run works until `backfill start-all`."""

    at: datetime
    by: str
    reason: str

    @property
    def told(self) -> str:
        """In words, for people."""
        return f"all runs are stopped: {self.reason} ({self.by})"


def stopped(conn: Connection, ledger: Ledger, *, lock: bool = False) -> Stopped | None:
    """Who pressed the red button; None: it is not pressed.

    With `lock`, inside an open transaction and before it locks any run: the button stays as it is
    until the end of the transaction (FOR SHARE, which many hold at once). Then a run that begins in
    it is either seen by who presses the button, or sees it pressed.
    """
    text = (
        "SELECT stopped_at AS at, coalesce(stopped_by, '?') AS by,"
        " coalesce(stop_reason, '') AS reason FROM {s}.ledger"
    )
    row = conn.execute(ledger.q(text + " FOR SHARE") if lock else ledger.q(text)).fetchone()
    return None if row is None or row[0] is None else Stopped(at=row[0], by=row[1], reason=row[2])


def press(conn: Connection, ledger: Ledger, *, by: str, reason: str) -> None:
    """Press the button, or find it pressed, and hold it until the transaction ends."""
    conn.execute(
        ledger.q(
            "UPDATE {s}.ledger SET stopped_at = coalesce(stopped_at, clock_timestamp()),"
            " stopped_by = coalesce(stopped_by, %s), stop_reason = coalesce(stop_reason, %s)"
        ),
        [by, reason],
    )


def release(conn: Connection, ledger: Ledger) -> None:
    """Release the button, and hold it until the transaction ends."""
    conn.execute(
        ledger.q("UPDATE {s}.ledger SET stopped_at = NULL, stopped_by = NULL, stop_reason = NULL")
    )
