"""What a run's report tells, read from the ledger alone, so at any time; page.py writes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backfill.events import Event
from backfill.pg.connect import READ_LIMITS, Connection, server_time, transaction
from backfill.pg.ledger import EventRecord, Ledger, Run, Totals, events, get_run, pauses, totals
from backfill.pg.pictures import SetAside, read_set_aside
from backfill.pg.pulses import Pulse, read_pulses
from backfill.pg.quarantine import QuarantinedRow, quarantined_rows
from backfill.watch.history import WorkingTime

#: A run has tens of events, one that signals stop again and again has thousands.
_MOST_EVENTS = 100_000
#: Rows of the quarantine.
MOST_ROWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that a report tells.

    Attributes:
        database: its name in the settings and where it is, for people.
        server: the version of PostgreSQL.
        about: the first line of the job's docstring; empty where it is not to be had.
        at: when it was read, by the server's clock.
        set_aside: the quarantine by SQLSTATE.
        rows: the quarantine's rows; None: they were not asked for.
        settled_at: when each slice was last worked on, and the rows settled in it.
    """

    run: Run
    totals: Totals
    database: str
    server: str
    about: str
    at: datetime
    paused: str
    events: Sequence[EventRecord]
    pulses: Sequence[Pulse]
    set_aside: Sequence[SetAside]
    rows: Sequence[QuarantinedRow] | None
    settled_at: Sequence[tuple[datetime, int]]

    @property
    def time(self) -> WorkingTime | None:
        """When it worked; None: it has not begun."""
        if self.run.started_at is None:
            return None
        end = self.run.finished_at or self.at
        return WorkingTime(self.events, self.run.started_at, end)

    def of(self, *names: Event) -> list[EventRecord]:
        """Its events of these names."""
        return [event for event in self.events if event.name in names]


def read(
    conn: Connection,
    ledger: Ledger,
    run_id: str,
    *,
    database: str,
    about: str = "",
    with_rows: bool = False,
) -> Report:
    """Read what a report tells. No transaction may be open.

    Args:
        with_rows: keys and messages of quarantined rows, too.

    Raises:
        UsageError: there is no such run.
    """
    # read one after the other, counts and events of a live run would not fit
    with transaction(conn, READ_LIMITS, reads_only=True):
        run = get_run(conn, ledger, run_id)
        return Report(
            run=run,
            totals=totals(conn, ledger, run_id),
            database=database,
            server=conn.info.parameter_status("server_version") or str(conn.info.server_version),
            about=about,
            at=server_time(conn),
            paused=", ".join(pause.cause for pause in pauses(conn, ledger, run_id)),
            events=events(conn, ledger, run_id, limit=_MOST_EVENTS),
            pulses=read_pulses(conn, ledger, run_id),
            set_aside=read_set_aside(conn, ledger, run_id),
            rows=quarantined_rows(conn, ledger, run_id, limit=MOST_ROWS) if with_rows else None,
            settled_at=conn.execute(
                ledger.q(
                    "SELECT progress_at, (paged - deferred)::bigint FROM {s}.slice"
                    " WHERE run = %s AND paged > deferred ORDER BY progress_at"
                ),
                [run_id],
            ).fetchall(),
        )
