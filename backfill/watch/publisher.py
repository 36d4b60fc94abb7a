"""The publisher: once a second it takes the pictures of all live runs, for everybody who watches.

What changes less often it takes every other second: runs that wait, and what the runs share.

It belongs to whoever holds the sampler's lease. Two at once do no harm: each writes whole pictures,
and a pulse only where there is no newer one. What is in Redis is a copy (I4), what is in the ledger
a note: losing either changes no work.
"""

from __future__ import annotations

import time

from backfill.checkpoint import Checkpoint, Snapshot
from backfill.errors import UsageError
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.ledger import Ledger, Run, get_run, live_runs
from backfill.pg.pulses import period_seconds, read_pulses, write_pulse
from backfill.watch.picture import Overview, Picture, Point, read_overview, read_picture

#: A pulse is written so early, because rounds are a second apart.
EARLY_SECONDS = 0.5


class Publisher:
    """The publisher of one process for one database; used by one thread.

    Args:
        checkpoint: None: the project has no Redis; then only pulses are kept.
        max_slots: the database's limit on slices held at once; None: it has none.
    """

    def __init__(
        self, database: str, checkpoint: Checkpoint | None, *, max_slots: int | None = None
    ) -> None:
        self._database = database
        self._max_slots = max_slots
        self._checkpoint = checkpoint
        self._live: dict[str, Run] = {}
        self._overview: Overview | None = None
        self._rounds = 0
        self._next_pulse: dict[str, float] = {}

    def round(self, conn: Connection, ledger: Ledger) -> None:
        """Publish once. No transaction may be open.

        Raises:
            psycopg.Error: the database is away.
        """
        # before the ledger is read, which is then as new as they are, and outside its transaction;
        # of a run that is new to us the ledger's own counts will do for a second
        snapshots = self._snapshots()
        with transaction(conn, READ_LIMITS, reads_only=True):
            live = {run.id: run for run in live_runs(conn, ledger)}
            overview = self._overview
            if overview is None or live.keys() != self._live.keys() or self._rounds % 2 == 0:
                overview = read_overview(
                    conn, ledger, database=self._database, live=list(live.values())
                )
            ended = [
                run for one in self._live if one not in live if (run := _found(conn, ledger, one))
            ]
            pictures = {
                run.id: read_picture(
                    conn,
                    ledger,
                    run,
                    database=self._database,
                    snapshot=snapshots.get(run.id),
                    max_slots=self._max_slots,
                    alive=len(overview.workers),
                )
                for run in (*ended, *filter(self._is_due, live.values()))
            }
        # first, so that nobody finds a run gone from the overview and still at work in its picture
        for one in self._live.keys() - live:
            self._end(conn, ledger, one, pictures.get(one))
        if self._checkpoint is not None and overview is not self._overview:
            self._checkpoint.publish_overview(overview.pack())
        for one in pictures.keys() & live:
            self._publish(conn, ledger, pictures[one])
        self._live, self._overview = live, overview
        self._rounds += 1

    def _snapshots(self) -> dict[str, Snapshot | None]:
        """What the checkpoint says of the runs of the last round that are due."""
        if self._checkpoint is None:
            return {}
        return {
            run.id: self._checkpoint.read(run.id)
            for run in self._live.values()
            if self._is_due(run)
        }

    def _is_due(self, run: Run) -> bool:
        """True for a run that works or has changed; of those that wait, in every other round."""
        return run.run_state.is_working or self._live.get(run.id) != run or self._rounds % 2 == 0

    def _publish(self, conn: Connection, ledger: Ledger, picture: Picture) -> None:
        run = picture.progress.run
        point = Point.of(picture)
        if self._checkpoint is not None:
            self._checkpoint.publish(run.id, picture.pack(), point.pack())
        if time.monotonic() < self._next_pulse.get(run.id, 0.0):
            return
        began = run.started_at or run.created_at
        period = period_seconds((point.at - began).total_seconds())
        if self._keep(conn, ledger, run.id, point, newer_than_seconds=period - EARLY_SECONDS):
            self._next_pulse[run.id] = time.monotonic() + period - EARLY_SECONDS

    def _end(self, conn: Connection, ledger: Ledger, run: str, picture: Picture | None) -> None:
        """It is live no more: the last pulse says how far it came."""
        if self._checkpoint is not None:
            self._checkpoint.unpublish(run)
        self._next_pulse.pop(run, None)
        if picture is not None:
            self._keep(conn, ledger, run, Point.of(picture), newer_than_seconds=0.0)

    def _keep(
        self,
        conn: Connection,
        ledger: Ledger,
        run: str,
        point: Point,
        *,
        newer_than_seconds: float,
    ) -> bool:
        """Keep a pulse if it is time, in the ledger first; the checkpoint is mended from it."""
        with transaction(conn, READ_LIMITS):
            is_due = write_pulse(
                conn, ledger, run, point.pulse, newer_than_seconds=newer_than_seconds
            )
        if self._checkpoint is None or not is_due or self._checkpoint.add_pulse(run, point.pack()):
            return is_due
        pulses = read_pulses(conn, ledger, run)
        self._checkpoint.put_pulses(run, [Point.of_pulse(pulse).pack() for pulse in pulses])
        return True


def _found(conn: Connection, ledger: Ledger, run: str) -> Run | None:
    """A run that has ended; None: somebody deleted it."""
    try:
        return get_run(conn, ledger, run)
    except UsageError:
        return None
