"""The one task: work in a slot of a run for a while, then say so and send the slot again.

What a task did, and what kept it from working, is its result, in words: the run's events and
`backfill status` say more. Only a defect, ours or of a job's code, is a failure of the task.

Concurrency rules: the task holds nothing but its slice (pg/slices.py) and this process's workbench
for the run. Dying anywhere leaves a lease that runs out and a slot that the reconciler fills again.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass

import psycopg
import structlog
from celery import Celery, Task

from backfill.engine.bench import Bench
from backfill.engine.report import Ended, Report
from backfill.engine.work import work
from backfill.errors import BackfillError, UnreachableError
from backfill.events import Event, reason_without_keys
from backfill.model import RunState
from backfill.pg.failure import classify
from backfill.pg.ledger import pauses
from backfill.project import Project
from backfill.worker import stopping
from backfill.worker.benches import Benches
from backfill.worker.send import WORK, send_slot

log = structlog.get_logger("backfill")

#: A task has a budget and ends by itself; but while the broker takes no message it works on (I4).
#: So a limit as good as none, in place of the application's own.
LONGEST_SECONDS = 7 * 86_400


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What a task did. Celery shows its repr: so it is the text, and has no quotes around it."""

    text: str

    def __repr__(self) -> str:
        return self.text


class UnexpectedError(BackfillError):
    """A defect of ours or of a job's code: its kind and its place, and no value of a row."""


class WorkTask(Task):  # type: ignore[misc]  # Celery ships no types
    """As it is written here, whatever the application's `task_annotations` and base class say."""

    abstract = True

    @classmethod
    def annotate(cls) -> None:
        """Change nothing."""


def register(app: Celery, project: Project, benches: Benches) -> None:
    """Register our task on an application, with options that hold under any settings of its own.

    What is None or left out would be taken from the application's settings.
    """

    @app.task(  # type: ignore[untyped-decorator]  # Celery ships no types
        base=WorkTask,
        bind=True,
        shared=False,  # on this application and no other of the process
        name=WORK,
        serializer="json",
        acks_late=True,
        acks_on_failure_or_timeout=True,  # the reconciler sends again what is to be done
        reject_on_worker_lost=True,
        ignore_result=True,
        store_errors_even_if_ignored=False,
        track_started=False,
        max_retries=0,
        autoretry_for=(),
        rate_limit=0,  # none: the run's own is the one
        time_limit=LONGEST_SECONDS,
        soft_time_limit=LONGEST_SECONDS,
    )
    def work_slot(
        self: Task, *, job: str, run: str, slot: int, database: str, ledger: str
    ) -> Result:
        """Work in one slot of a run; the arguments say which."""
        del job  # for people who look at Flower
        try:
            told = _work_slot(
                project=project,
                app=app,
                benches=benches,
                task=self,
                run=run,
                slot=slot,
                database=database,
                ledger=ledger,
            )
        except (psycopg.OperationalError, UnreachableError) as error:
            benches.drop(run)
            log.warning(Event.DATABASE_UNREACHABLE, run=run, slot=slot, error=type(error).__name__)
            why = error.message if isinstance(error, UnreachableError) else type(error).__name__
            told = f"the database is away ({why}); it goes on later"
        except BackfillError as error:
            told = " ".join(f"{error.message}. {error.remedy}".split()).removesuffix(".")
        except Exception as error:  # noqa: BLE001 - the task's boundary: a clean error replaces it
            benches.drop(run)
            raise unexpected(error, run=run, slot=slot) from None
        except BaseException:
            benches.drop(run)
            raise
        finally:
            benches.rest(run)
        return Result(f"{run} slot {slot}: {told}")


def _work_slot(
    *,
    project: Project,
    app: Celery,
    benches: Benches,
    task: Task,
    run: str,
    slot: int,
    database: str,
    ledger: str,
) -> str:
    """Work for the task's time, and on in its place while the broker takes no message (I4)."""
    kept = benches.get(run, database=database, ledger=ledger)
    kept.observer.task = task
    bench, total = kept.bench, Report()
    if slot >= bench.options.concurrency:
        return f"the run has {bench.options.concurrency} slots now"
    while True:
        report = work(bench, slot=slot, budget_seconds=project.settings.engine.task_seconds)
        kept.observer.flush()
        total.add(report)
        if report.ended not in {Ended.BUDGET, Ended.STOPPED}:
            told = _told(bench, total)
            if not RunState(report.state).is_live:
                benches.drop(run)
            return told
        if send_slot(
            app,
            bench.conn,
            bench.ledger,
            bench.run,
            slot,
            database=database,
            queue=project.settings.queue,
        ):
            return total.told()
        if stopping.is_requested():
            return f"{total.told()}; its message could not be sent"


def _told(bench: Bench, report: Report) -> str:
    """What was done; and what pauses the run, where that ended the work."""
    if report.state != RunState.PAUSED:
        return report.told()
    causes = [
        f"{pause.cause}: {reason_without_keys(pause.reason)}"
        for pause in pauses(bench.conn, bench.ledger, bench.run.id)
    ]
    return "; ".join([report.told(), *causes])


def unexpected(error: Exception, *, run: str, slot: int) -> UnexpectedError:
    """A defect as logs and Flower may show it, with the traceback of the code that raised it.

    The original's message is left out: a KeyError's is a value, and PostgreSQL's may quote a row.
    """
    frames = traceback.extract_tb(error.__traceback__)
    place = f" in {frames[-1].name} ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    what = type(error).__name__
    if isinstance(error, psycopg.Error):
        what = classify(error, writing=False).told
    told = UnexpectedError(f"{run} slot {slot}: unexpected {what}{place}")
    return told.with_traceback(error.__traceback__)
