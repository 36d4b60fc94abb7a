"""A user's project in a temporary folder, with real worker processes on it that a test may kill."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pytest
from celery import Celery

from backfill.engine.control import tune
from backfill.entry import enqueue_in
from backfill.job import Options
from backfill.model import Counts, RunState
from backfill.pg.connect import connect
from backfill.pg.ledger import EventRecord, Run, events, get_run, pauses, totals, workers
from backfill.project import Desk, Project
from backfill.settings import load
from backfill.worker.app import make_app
from backfill.worker.send import WORK
from tests import starting

#: What a step of a test may take before it fails: five times the goal, where there is a goal.
BOUND_SECONDS = 60.0
#: Short times, for tests that are not about them: a killed worker costs two seconds, not ten.
QUICK: Mapping[str, float] = {"lease_seconds": 2, "reconcile_seconds": 0.3, "task_seconds": 1}
#: The times that we ship.
SHIPPED: Mapping[str, float] = {}
#: Where a process can be killed in a batch (backfill/engine/batch.py).
POINTS = (
    "before BEGIN",
    "before the page",
    "after the write",
    "before COMMIT",
    "after COMMIT",
    "before the checkpoint",
)
_WORKER = Path(__file__).with_name("worker_process.py")


class Worker:
    """A `celery worker` with its children, in a process group of its own."""

    def __init__(
        self, name: str, process: starting.Process | subprocess.Popen[bytes], log: Path
    ) -> None:
        self.name = name
        self.log = log
        self._process = process

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None

    @property
    def children(self) -> list[int]:
        """Process ids of the pool's children."""
        listed = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        try:
            return [int(pid) for pid in listed.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            return []

    def logged(self, *events: str) -> list[dict[str, Any]]:
        """The lines of these events in its log, in order."""
        found = []
        for line in self.log.read_text(errors="replace").splitlines():
            if line.startswith("{"):
                with suppress(ValueError):  # cut off by SIGKILL
                    found.append(json.loads(line))
        return [line for line in found if line["event"] in events]

    def kill(self) -> None:
        """End it and its children at once, also those whose main process is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(timeout=30)

    def kill_main(self) -> None:
        """End its main process; nobody ends its children."""
        self._process.kill()
        self._process.wait(timeout=30)

    def kill_a_child(self, chance: random.Random) -> bool:
        """End one child; False when it has none at the moment."""
        children = self.children
        if children:
            try:
                os.kill(chance.choice(children), signal.SIGKILL)
            except ProcessLookupError:
                return False
        return bool(children)

    def stop(self) -> None:
        """Let all its processes stand still."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    def stop_main(self) -> None:
        """Let its main process stand still, with the timers in it; its children work on."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Continue all its processes."""
        with suppress(ProcessLookupError):  # it has ended
            os.killpg(self._process.pid, signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to end."""
        self._process.terminate()

    def wait(self, seconds: float) -> int:
        """Wait for its end; returns its exit code."""
        return self._process.wait(timeout=seconds)


class Crew:
    """See the module.

    Args:
        folder: an empty one, for the project.
        url: of a database with the ledger.
        engine: of the project's settings.

    Attributes:
        conn: the test's own look at the database.
        by_way_of: how the project comes to a database; conftest.py puts a pooler between here.
        is_pooled: it did so.
    """

    by_way_of: ClassVar[Callable[[str], str]] = staticmethod(str)
    is_pooled: ClassVar[bool] = False

    def __init__(
        self, folder: Path, *, url: str, redis_url: str, engine: Mapping[str, float]
    ) -> None:
        self.folder = folder
        self.package = f"jobs_{uuid4().hex[:8]}"
        self.workers: list[Worker] = []
        self._url = url
        self.conn = connect(url)
        self._orders = folder / "orders"
        self._orders.mkdir()
        self._environ = {
            **os.environ,
            "BACKFILL_DATABASE_URL": Crew.by_way_of(url),
            "BACKFILL_REDIS_URL": redis_url,
            "CREW_ORDERS": str(self._orders),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        times = "\n".join(f"{name} = {seconds}" for name, seconds in engine.items())
        (folder / "backfill.toml").write_text(f'jobs = ["{self.package}"]\n[engine]\n{times}\n')
        (folder / self.package).mkdir()
        (folder / self.package / "__init__.py").touch()

    def close(self) -> None:
        """End whatever still runs."""
        for worker in self.workers:
            worker.kill()
        if "desk" in self.__dict__:
            self.desk.conn.close()
        self.conn.close()
        self._forget_jobs()
        if str(self.folder) in sys.path:
            sys.path.remove(str(self.folder))

    def reconnect(self) -> None:
        """Connect again: the server has been away."""
        self.conn.close()
        self.conn = connect(self._url)
        if "desk" in self.__dict__:
            self.desk.conn.close()
            del self.desk

    # -- the project ------------------------------------------------------------------------

    def write_jobs(self, text: str) -> None:
        """(Re)write the module of the project's jobs; who has imported it keeps the old one."""
        self._forget_jobs()
        (self.folder / self.package / "work.py").write_text(
            "from backfill import *\n\n" + text, encoding="utf-8"
        )

    @property
    def project(self) -> Project:
        """The project as this process would find it now."""
        return Project(load(self.folder, self._environ), self._environ)

    def add_environment(self, **variables: str) -> None:
        """Variables for workers that are started later."""
        self._environ.update(variables)

    @property
    def environ(self) -> Mapping[str, str]:
        """Of the project's processes."""
        return self._environ

    @cached_property
    def desk(self) -> Desk:
        return self.project.open()

    @property
    def app(self) -> Celery:
        """An application to send messages with."""
        return make_app(self.project)

    def _forget_jobs(self) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] == self.package]:
            del sys.modules[name]
        shutil.rmtree(self.folder / self.package / "__pycache__", ignore_errors=True)

    # -- the workers ------------------------------------------------------------------------

    def start(
        self,
        children: int = 1,
        *,
        wait: bool = True,
        as_users_do: bool = False,
        pool: str = "prefork",
    ) -> Worker:
        """Start a worker; by default wait until it has reported itself in the ledger.

        Args:
            as_users_do: by the command line, so without the probe.
            pool: of Celery's, where it is started as users do.
        """
        name = f"w{len(self.workers)}"
        command = (
            [
                "-m",
                "backfill",
                "worker",
                f"--concurrency={children}",
                f"--name={name}@%h",
                f"--pool={pool}",
            ]
            if as_users_do
            else [str(_WORKER), name, str(children)]
        )
        log = self.folder / f"{name}.log"
        process = starting.start(command, folder=self.folder, environ=self._environ, stdout=log)
        worker = Worker(name, process, log)
        self.workers.append(worker)
        if wait:
            self.wait_for_workers(worker)
        return worker

    def wait_for_workers(self, *named: Worker) -> None:
        """Wait until these workers have reported themselves."""
        names = {worker.name for worker in named}

        def reported() -> bool:
            seen = workers(self.desk.conn, self.desk.ledger, within_seconds=3600)
            return names <= {record.name.split("@")[0] for record in seen}

        self.wait(reported, f"workers {sorted(names)} report themselves")

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.is_alive]

    def keep_alive(self, number: int, *, children: int = 1) -> None:
        """Start new workers until so many live; they are not waited for."""
        while len(self.alive) < number:
            self.start(children, wait=False)

    # -- orders to the probe ----------------------------------------------------------------

    def order(self, action: str, point: str) -> None:
        """The next process that comes to this point obeys; see worker_process.py."""
        (self._orders / f"{action} @ {point}").touch()

    def is_obeyed(self, action: str, point: str) -> bool:
        return not (self._orders / f"{action} @ {point}").exists()

    def withdraw(self, action: str, point: str) -> None:
        """Nobody obeys this order any more."""
        (self._orders / f"{action} @ {point}").unlink(missing_ok=True)

    def let_stopped_go_on(self) -> None:
        """Continue every process that obeyed an order to stop."""
        for path in self._orders.glob("stopped *"):
            with suppress(ProcessLookupError):
                os.kill(int(path.name.split()[1]), signal.SIGCONT)
            path.unlink()

    def stopped(self) -> int | None:
        """The process id of the child that obeyed an order to stop."""
        for path in self._orders.glob("stopped *"):
            return int(path.name.split()[1])
        return None

    # -- runs -------------------------------------------------------------------------------

    def enqueue(self, job: str, *, options: Options | None = None, **params: object) -> str:
        """Enqueue a run; returns its id."""
        project = self.project
        return enqueue_in(
            project, project.declaration(job), params=params, options=options, by="the test"
        ).run.id

    def hurry(self, run: str) -> None:
        """Lift the run's rate, as with `tune`: what the test wants to see needs it no more."""
        if self.state(run).is_live:
            tune(self.desk.conn, self.desk.ledger, run, {"rate": "none"}, by="the test")

    def send(self, run: str, slot: int, /, **other: object) -> None:
        """Send a message for a slot, beside those that the engine sends."""
        ours = {
            "job": self.run(run).job,
            "run": run,
            "slot": slot,
            "database": "default",
            "ledger": self.desk.ledger.id,
        }
        self.app.send_task(WORK, kwargs={**ours, **other}, ignore_result=True)

    def run(self, run: str) -> Run:
        return get_run(self.desk.conn, self.desk.ledger, run)

    def state(self, run: str) -> RunState:
        return self.run(run).run_state

    def counts(self, run: str) -> Counts:
        return totals(self.desk.conn, self.desk.ledger, run).counts

    def held(self, run: str) -> int:
        """How many of a run's slices somebody holds."""
        return totals(self.desk.conn, self.desk.ledger, run).held

    def causes(self, run: str) -> set[str]:
        """Why a run is paused."""
        return {pause.cause for pause in pauses(self.desk.conn, self.desk.ledger, run)}

    def events(self, run: str) -> list[EventRecord]:
        return events(self.desk.conn, self.desk.ledger, run)

    def query(self, statement: str, *values: object) -> list[tuple[object, ...]]:
        return self.conn.execute(statement.encode(), values).fetchall()

    # -- waiting ----------------------------------------------------------------------------

    def wait(
        self, true: Callable[[], object], what: str, *, seconds: float = BOUND_SECONDS
    ) -> float:
        """Wait for what workers do; when it fails it shows the end of what they logged."""
        began = time.monotonic()
        while not true():
            if time.monotonic() - began > seconds:
                pytest.fail(f"not within {seconds:.0f} s: {what}\n{self.told()}")
            time.sleep(0.02)
        return time.monotonic() - began

    def wait_for(self, run: str, *states: RunState, seconds: float = BOUND_SECONDS) -> float:
        """Wait until the run is in one of these states; returns the seconds it took."""
        return self.wait(
            lambda: self.state(run) in states, f"{run} is {' or '.join(states)}", seconds=seconds
        )

    def wait_for_rows(self, run: str, rows: int) -> float:
        """Wait until so many keys of the run are settled."""
        return self.wait(lambda: self.counts(run).settled >= rows, f"{run} has settled {rows} rows")

    def told(self, lines: int = 15) -> str:
        """The runs as they are, and the ends of the workers' logs."""
        runs = [
            (run[0], run[1], self.counts(str(run[0])), self.causes(str(run[0])))
            for run in self.query("SELECT id, state FROM backfill.run")
        ]
        ends = [
            f"--- {worker.name} (alive: {worker.is_alive})\n"
            + "\n".join(worker.log.read_text(errors="replace").splitlines()[-lines:])
            for worker in self.workers
        ]
        return "\n".join([*map(str, runs), *ends])


def each_row_once(crew: Crew, table: str, columns: Sequence[str], rows: int) -> None:
    """Every row of the table has been written exactly once in each of the columns."""
    listed = ", ".join(columns)
    found = crew.query(f"SELECT {listed}, count(*)::int FROM {table} GROUP BY {listed}")
    assert found == [(*[1] * len(columns), rows)]
