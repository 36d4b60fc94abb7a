"""The publisher: once a second it takes the pictures of all live runs, for everybody who watches.

It belongs to whoever holds the sampler's lease. Two at once do no harm: each writes whole pictures,
and a pulse only where there is no newer one. What is in Redis is a copy (I4), what is in the ledger
a note: losing either changes no work.
"""

from __future__ import annotations

from backfill.checkpoint import Checkpoint
from backfill.errors import UsageError
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.ledger import Ledger
from backfill.pg.pulses import period_seconds, read_pulses, write_pulse
from backfill.watch.picture import Picture, Point, read_overview, read_picture
from backfill.watch.progress import one_picture


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
        self._live: set[str] = set()

    def round(self, conn: Connection, ledger: Ledger) -> None:
        """Publish once. No transaction may be open.

        Raises:
            psycopg.Error: the database is away.
        """
        with one_picture(conn):
            overview = read_overview(conn, ledger, database=self._database)
        # first, so that nobody finds a run gone from the overview and still at work in its picture
        alive = len(overview.workers)
        for run in self._live - set(overview.live):
            self._end(conn, ledger, run, alive)
        if self._checkpoint is not None:
            self._checkpoint.publish_overview(overview.pack())
        for run in overview.live:
            picture = self._take(conn, ledger, run, alive)
            if picture is not None and picture.progress.run.run_state.is_live:
                self._publish(conn, ledger, picture)
        self._live = set(overview.live)

    def _take(self, conn: Connection, ledger: Ledger, run: str, alive: int) -> Picture | None:
        snapshot = None if self._checkpoint is None else self._checkpoint.read(run)
        try:
            with one_picture(conn):
                return read_picture(
                    conn,
                    ledger,
                    run,
                    database=self._database,
                    snapshot=snapshot,
                    max_slots=self._max_slots,
                    alive=alive,
                )
        except UsageError:  # somebody deleted it
            return None

    def _publish(self, conn: Connection, ledger: Ledger, picture: Picture) -> None:
        run = picture.progress.run
        point = Point.of(picture)
        if self._checkpoint is not None:
            self._checkpoint.publish(run.id, picture.pack(), point.pack())
        began = run.started_at or run.created_at
        period = period_seconds((point.at - began).total_seconds())
        # whoever takes over writes its first pulse a little early, which does no harm
        self._keep(conn, ledger, run.id, point, newer_than_seconds=period - 0.5)

    def _end(self, conn: Connection, ledger: Ledger, run: str, alive: int) -> None:
        """It is live no more: the last pulse says how far it came."""
        if self._checkpoint is not None:
            self._checkpoint.unpublish(run)
        picture = self._take(conn, ledger, run, alive)
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
    ) -> None:
        """Keep a pulse if it is time, in the ledger first; the checkpoint is mended from it."""
        with transaction(conn, READ_LIMITS):
            is_due = write_pulse(
                conn, ledger, run, point.pulse, newer_than_seconds=newer_than_seconds
            )
        if self._checkpoint is None or not is_due or self._checkpoint.add_pulse(run, point.pack()):
            return
        pulses = read_pulses(conn, ledger, run)
        self._checkpoint.put_pulses(run, [Point.of_pulse(pulse).pack() for pulse in pulses])
