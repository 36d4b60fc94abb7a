"""The one task: work in a slot of a run for a while, then say so and send the slot again.

Concurrency rules: the task holds nothing but its slice (pg/slices.py) and this process's workbench
for the run. Dying anywhere leaves a lease that runs out and a slot that the reconciler fills again.
"""

from __future__ import annotations

from typing import Any

import psycopg
import structlog
from celery import Celery, Task
from celery.signals import worker_process_init

from backfill.engine.report import Ended, Report
from backfill.engine.work import work
from backfill.errors import RefusedError, UnreachableError, UsageError
from backfill.events import Event
from backfill.project import Project
from backfill.worker import stopping
from backfill.worker.benches import Benches
from backfill.worker.send import WORK, send_slot

log = structlog.get_logger("backfill")


def register(app: Celery, project: Project) -> None:
    """Register our tasks on an application."""
    benches = Benches(project)

    def forget(**_: Any) -> None:
        benches.forget()

    worker_process_init.connect(forget, weak=False)

    @app.task(  # type: ignore[untyped-decorator]  # Celery ships no types
        bind=True,
        name=WORK,
        acks_late=True,
        reject_on_worker_lost=True,
        ignore_result=True,
        max_retries=0,
        serializer="json",
    )
    def work_slot(self: Task, *, job: str, run: str, slot: int, database: str, ledger: str) -> str:
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
        except (RefusedError, UsageError) as error:
            told = error.message
        except (psycopg.OperationalError, UnreachableError) as error:
            benches.drop(run)
            log.warning(Event.DATABASE_UNREACHABLE, run=run, slot=slot, error=type(error).__name__)
            told = f"the database is away ({type(error).__name__}); it goes on later"
        except BaseException:
            benches.drop(run)
            raise
        return f"{run} slot {slot}: {told}"


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
            return total.told()
        if send_slot(app, bench.conn, bench.ledger, bench.run, slot, database=database):
            return total.told()
        if stopping.is_requested():
            return f"{total.told()}; its message could not be sent"
