"""Compares what should run with what does: a timer in every worker, under a lease in the ledger.

Every period each worker says in the ledger that it lives. Whoever holds the reconciler's lease then
- frees slices whose lease has run out, and ends the backend of a holder that is lost in a batch,
- starts the runs whose schedules tick,
- opens the windows that have opened,
- sends the messages of slots that nobody fills though there is work,
- mends the checkpoint, which lacks the last batches of a killed worker.

Nothing here is needed for the data to be right (I3): two reconcilers at once send messages twice,
and doubled messages find their slot taken. Dying anywhere in here costs one lease. It does not
depend on Redis delivering anything again by itself, which can take minutes. Each database has its
own thread (rounds.py): one that hangs leaves the runs of the others alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version

from celery import Celery
from kombu.exceptions import OperationalError

from backfill.checkpoint import Checkpoint
from backfill.engine import schedule
from backfill.engine.pausing import open_window, pause_for_lapses
from backfill.events import Event
from backfill.job import Options
from backfill.job.declaration import Declaration
from backfill.model import RunState
from backfill.pg import freeing, slices
from backfill.pg.connect import Connection, application_name
from backfill.pg.ledger import Ledger, Run, add_event, live_runs
from backfill.project import Desk, Project
from backfill.worker.rounds import Rounds
from backfill.worker.send import send_slot, slots_of

#: A message that was sent so long ago and fills no slot is taken for lost, if the queue is empty;
#: each message that waits there may take a task's time before it is this one's turn.
LOST_SECONDS = 3.0
#: The checkpoint is mended at least so often.
MEND_SECONDS = 10.0
#: A lost holder's statement may run for its statement_timeout; then its backend is ended.
SPARE_SECONDS = 5.0
#: A worker that stopped without a word is forgotten after this time.
FORGET_SECONDS = 3600.0

#: Schedules of several databases tick at once, and jobs are imported when the first one does. No
#: pool's process waits for this lock, which it may have been forked with: it has no reconciler.
_importing = threading.Lock()


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round did."""

    is_leader: bool = False
    freed: int = 0
    sent: int = 0


class Reconciling(Rounds):
    """The reconciler's threads in one worker, one for each database: see `Rounds`.

    Args:
        databases: their names in the project's settings.
        name: the worker's name, as others see it.
    """

    def __init__(
        self, project: Project, app: Celery, databases: Iterable[str], *, name: str
    ) -> None:
        super().__init__(
            project,
            databases,
            name="backfill-reconcile",
            duty=lambda _: Reconciler(project, app, name=name),
            seconds=project.settings.engine.reconcile_seconds,
            failed=Event.RECONCILE_FAILED,
        )


class Reconciler:
    """The reconciler of one worker for one database; used by one thread.

    Args:
        name: the worker's name, as others see it.
    """

    def __init__(self, project: Project, app: Celery, *, name: str) -> None:
        self._project = project
        self._app = app
        self.name = name
        self._checkpoint: Checkpoint | None = None
        self._mended_at = -MEND_SECONDS

    def end(self, desk: Desk | None) -> None:
        """Say that this worker has gone."""
        try:
            if desk is not None:
                desk.conn.execute(
                    desk.ledger.q("DELETE FROM {s}.worker WHERE name = %s"), [self.name]
                )
        finally:
            if self._checkpoint is not None:
                self._checkpoint.close()

    def round(self, desk: Desk) -> Round:
        """One round.

        Raises:
            psycopg.Error: the database is away; the next round tries again.
            OperationalError: the broker is.
        """
        conn, ledger = desk.conn, desk.ledger
        self._report_alive(conn, ledger)
        if not self._lead(conn, ledger):
            return Round()
        freed = self._free(conn, ledger)
        schedule.tick(
            conn,
            ledger,
            database=desk.database,
            declare=self._declaration,
            source=self._project.source,
            environ=self._project.environ,
            by=self.name,
        )
        runs = [run for run in live_runs(conn, ledger) if run.executor == "celery"]
        self._mend_checkpoint(desk, runs)
        for run in runs:
            if run.run_state is RunState.PAUSED:
                open_window(conn, ledger, run)
        # only now what needs the broker: its absence ends the round
        sent = sum(self._reconcile(desk, run, lost_a_holder=run.id in freed) for run in runs)
        return Round(is_leader=True, freed=len(freed), sent=sent)

    def _declaration(self, job: str) -> Declaration:
        with _importing:
            return self._project.declaration(job)

    def _report_alive(self, conn: Connection, ledger: Ledger) -> None:
        conn.execute(
            ledger.q(
                "INSERT INTO {s}.worker (name, version, seen_at)"
                " VALUES (%s, %s, clock_timestamp())"
                " ON CONFLICT (name) DO UPDATE SET seen_at = excluded.seen_at"
            ),
            [self.name, version("backfill")],
        )

    def _lead(self, conn: Connection, ledger: Ledger) -> bool:
        period = self._project.settings.engine.reconcile_seconds
        return (
            conn.execute(
                ledger.q(
                    "UPDATE {s}.ledger SET reconciler = %(me)s,"
                    " reconciler_until = clock_timestamp() + make_interval(secs => %(lease)s)"
                    " WHERE reconciler = %(me)s OR reconciler_until < clock_timestamp()"
                ),
                {"me": self.name, "lease": 2 * period},
            ).rowcount
            == 1
        )

    def _free(self, conn: Connection, ledger: Ledger) -> list[str]:
        """Free what lost holders held; returns the run of each slice."""
        conn.execute(
            ledger.q(
                "DELETE FROM {s}.worker"
                " WHERE seen_at < clock_timestamp() - make_interval(secs => %s)"
            ),
            [FORGET_SECONDS],
        )
        freed, stuck = freeing.free_lapsed(conn, ledger, by=self.name)
        if stuck:
            pids = freeing.terminate_backends(
                conn,
                [application_name(held.run, held.number, held.epoch) for held in stuck],
                busy_seconds=self._longest_statement(conn, ledger),
            )
            for pid in pids:
                add_event(
                    conn,
                    ledger,
                    Event.BACKEND_TERMINATED,
                    run=stuck[0].run if len(stuck) == 1 else None,
                    caused_by=self.name,
                    pid=pid,
                )
        pause_for_lapses(conn, ledger, freed, by=self.name)
        return [lapsed.run for lapsed in freed]

    def _longest_statement(self, conn: Connection, ledger: Ledger) -> float:
        longest = max(
            (
                Options.from_json(run.options).statement_timeout_seconds
                for run in live_runs(conn, ledger)
            ),
            default=0.0,
        )
        return longest + SPARE_SECONDS

    def _mend_checkpoint(self, desk: Desk, runs: Sequence[Run]) -> None:
        now = time.monotonic()
        if now - self._mended_at < MEND_SECONDS:
            return
        self._mended_at = now
        if self._checkpoint is None:
            self._checkpoint = self._project.checkpoint(desk.ledger)
        for run in runs:
            if self._checkpoint is not None and run.began:
                counts = slices.all_counts(desk.conn, desk.ledger, run.id)
                self._checkpoint.rebuild(run.id, counts)

    def _reconcile(self, desk: Desk, run: Run, *, lost_a_holder: bool) -> int:
        if run.run_state is RunState.PAUSED:
            return 0
        if run.run_state is not RunState.QUEUED and not self._has_work(desk, run):
            return 0
        patience = 0.0
        if not lost_a_holder:  # a holder that is gone took its message with it
            task_seconds = self._project.settings.engine.task_seconds
            patience = LOST_SECONDS + self._messages_waiting() * task_seconds
        return sum(
            bool(
                send_slot(
                    self._app,
                    desk.conn,
                    desk.ledger,
                    run,
                    slot,
                    database=desk.database,
                    queue=self._project.settings.queue,
                )
            )
            for slot in self._empty_slots(desk, run, patience)
        )

    def _has_work(self, desk: Desk, run: Run) -> bool:
        """A free slice, room at the frontier, or nobody left to move the run on."""
        if run.run_state is RunState.RUNNING and not run.frontier_done:
            return True
        phase = {"running": "walk", "sweeping": "sweep", "verifying": "verify"}[run.state]
        row = desk.conn.execute(
            desk.ledger.q(
                "SELECT count(*) FILTER (WHERE holder IS NULL AND phase = %(phase)s"
                " AND not_before <= clock_timestamp()),"
                " count(*) FILTER (WHERE holder IS NOT NULL),"
                " count(*) FILTER (WHERE phase = %(phase)s)"
                " FROM {s}.slice WHERE run = %(run)s AND phase <> 'done'"
            ),
            {"run": run.id, "phase": phase},
        ).fetchone()
        free, held, in_phase = row or (0, 0, 0)
        return bool(free or (not held and not in_phase))

    def _empty_slots(self, desk: Desk, run: Run, patience: float) -> list[int]:
        """Slots that nobody fills, and whose last message must be lost by now."""
        busy = {
            row[0]
            for row in desk.conn.execute(
                desk.ledger.q(
                    "SELECT slot FROM {s}.slice WHERE run = %(run)s AND slot IS NOT NULL"
                    " UNION SELECT slot FROM {s}.slot WHERE run = %(run)s"
                    " AND sent_at > clock_timestamp() - make_interval(secs => %(patience)s)"
                ),
                {"run": run.id, "patience": patience},
            )
        }
        return [slot for slot in slots_of(run) if slot not in busy]

    def _messages_waiting(self) -> int:
        """Messages in our queue.

        Raises:
            OperationalError: the broker is away, so nobody knows; the next round asks again.
        """
        with self._app.connection_for_write() as connection:
            try:
                # passive: it may have been declared with arguments of the application's own
                queue = connection.default_channel.queue_declare(
                    self._project.settings.queue, passive=True
                )
            except connection.channel_errors:  # there is none: in Redis an empty one is none
                return 0
            except connection.connection_errors as error:
                # lost since Kombu connected, so raised as the transport's own: no OSError, either
                raise OperationalError(f"the broker has gone: {type(error).__name__}") from error
            return int(queue.message_count)
