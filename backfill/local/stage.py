"""The stage of the demo: a PostgreSQL, a Redis and worker processes, all in one folder.

1. What runs here is what runs in production: servers with fsync and an append-only file, and
   workers started by `backfill worker`, each a session of its own, so that a SIGKILL to its process
   group ends it as the machine's end would.
2. Nothing is left behind: `close` ends everything and removes the folder; when the demo itself is
   killed, guards do the same (`backfill.local.process`).
3. `keep` leaves everything running instead. What is needed to use and to end it is then in `.demo`
   in the project: `stop_kept` works from any later process of the same account.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backfill.errors import RefusedError, UnreachableError, WaitTimeoutError
from backfill.local import account, process
from backfill.local.postgres import LocalPostgres
from backfill.local.process import Guard
from backfill.local.redis import LocalRedis

DATABASE = "flights"
#: Where a stage that is kept says where it is; in the project, ignored by git.
KEPT = ".demo"
STATE_FILE = "state.json"
ENVIRONMENT_FILE = "env"

#: As a small production server has them; fsync and full_page_writes stay on.
POSTGRES_SETTINGS: Mapping[str, str | int | float] = {
    "shared_buffers": "128MB",
    "max_wal_size": "1GB",
    "max_connections": 60,
}
#: A worker that is asked to stop finishes its batch; five times what that was seen to take.
STOP_SECONDS = 15.0
#: A command of ours answers within this time.
COMMAND_SECONDS = 60.0


class Worker:
    """One `backfill worker`: a Celery worker with two children, in a process group of its own.

    Args:
        name: such as `w1`; others see `w1@host`.
        log: receives what it writes.
    """

    def __init__(self, name: str, *, log: Path) -> None:
        self.name = name
        self.log = log
        self.is_killed = False
        self._guard: Guard | None = None
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str], *, folder: Path, environment: dict[str, str]) -> None:
        """Start it, and do not wait until it is ready."""
        self._guard = Guard(end_signal=signal.SIGTERM, remove=None)
        with self.log.open("ab") as output:
            self._popen = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=environment,
                start_new_session=True,
            )
        self._guard.watch(self._popen.pid)

    @property
    def pid(self) -> int:
        """Its process id, which is that of its process group as well.

        Raises:
            UnreachableError: it was never started.
        """
        if self._popen is None:
            raise UnreachableError(f"worker {self.name} was not started")
        return self._popen.pid

    @property
    def is_running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    def runs(self, pid: int) -> bool:
        """True when this process is one of the worker's children."""
        with suppress(ProcessLookupError, PermissionError):
            return self.is_running and os.getpgid(pid) == self.pid
        return False

    def kill(self) -> None:
        """End the worker and its children as a power failure would: SIGKILL to all at once."""
        if self._popen is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        self.is_killed = True
        self._dismiss()

    def ask_to_stop(self) -> None:
        """SIGTERM: it finishes the batch in hand, gives its slice back and ends."""
        if self.is_running:
            os.kill(self.pid, signal.SIGTERM)

    def wait(self, timeout_seconds: float) -> None:
        """Wait for its end, and kill it after that time."""
        if self._popen is None:
            return
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout_seconds)
        if self.is_running:
            self.kill()
        self._dismiss()

    def leave_running(self) -> None:
        """Let it outlive this process."""
        self._dismiss()

    def _dismiss(self) -> None:
        if self._guard is not None:
            self._guard.dismiss()
            self._guard = None


@dataclass(frozen=True, slots=True)
class Said:
    """What a command wrote to both of its streams, and its exit code."""

    code: int
    text: str


class Stage:
    """See the module.

    Args:
        project: the project's folder, with the jobs in it.
    """

    def __init__(self, project: Path) -> None:
        self.project = project
        self.workers: list[Worker] = []
        self._account = account.service_account()
        self._folder = account.scratch_directory("backfill-demo-", self._account)
        self._logs = self._folder / "logs"
        self._temporary = self._folder / "tmp"  # a killed worker cannot remove its own
        for private in (self._logs, self._temporary):
            private.mkdir(mode=0o700)
        self.postgres = LocalPostgres(
            self._folder / "postgres", temporary_in=self._folder, settings=POSTGRES_SETTINGS
        )
        self.redis = LocalRedis(self._folder / "redis")
        self._guard: Guard | None = None
        self.url = ""

    # -- its life ---------------------------------------------------------------------------

    def start(self) -> None:
        """Start both servers and make the database.

        Raises:
            UnreachableError: one of them cannot be found or started.
        """
        self.postgres.start()
        self._guard = Guard(end_signal=signal.SIGINT, remove=self._folder)
        self._guard.watch(self.postgres.pid)
        self.url = self.postgres.create_database(DATABASE)
        self.redis.start()

    def close(self, *, at_once: bool = False) -> None:
        """End everything and remove the folder.

        Args:
            at_once: do not let workers finish their batches.
        """
        for worker in self.workers:
            if at_once and worker.is_running:
                worker.kill()
            worker.ask_to_stop()
        for worker in self.workers:
            worker.wait(STOP_SECONDS)
        self.redis.close()
        self.postgres.stop("immediate" if at_once else "fast")
        if self._guard is not None:
            self._guard.dismiss()
        account.remove_tree(self._folder)

    # -- its workers and commands -----------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """Of the processes here: ours, without what would lead them elsewhere."""
        return {
            **_clean_environment(),
            "BACKFILL_DATABASE_URL": self.url,
            "BACKFILL_REDIS_URL": self.redis.url(),
            "TMPDIR": str(self._temporary),
        }

    def add_worker(self) -> Worker:
        """Start one more `backfill worker`, with two children; it is ready some seconds later."""
        name = f"w{len(self.workers) + 1}"
        worker = Worker(name, log=self._logs / f"{name}.log")
        self.workers.append(worker)
        worker.start(
            self._command("worker", "--name", f"{name}@%h"),
            folder=self._folder,
            environment=self.environment,
        )
        return worker

    def run(self, *words: str) -> Said:
        """Run one command of `backfill` to its end.

        Raises:
            WaitTimeoutError: it does not come back.
        """
        try:
            said = subprocess.run(
                self._command(*words),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd=self.project,
                env=self.environment,
                start_new_session=True,  # Ctrl-C is for the demo to deal with
                timeout=COMMAND_SECONDS,
                text=True,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise WaitTimeoutError(
                f"backfill {' '.join(words)} did not end within {COMMAND_SECONDS:g} s"
            ) from error
        return Said(said.returncode, said.stdout.strip())

    def log_tails(self) -> str:
        """The last lines of every worker's log, for a report of what went wrong."""
        return "\n".join(
            f"--- {worker.name}\n{process.tail(worker.log, lines=8)}" for worker in self.workers
        )

    def _command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "backfill", "--project", str(self.project), *words]

    # -- leaving it running -----------------------------------------------------------------

    def keep(self) -> None:
        """Leave servers and workers running, and write down how to use and how to end them.

        Raises:
            RefusedError: the project's folder cannot be written to.
        """
        running = [worker for worker in self.workers if worker.is_running]
        kept = self.project / KEPT
        exports = {
            "BACKFILL_DATABASE_URL": self.url,
            "BACKFILL_REDIS_URL": self.redis.url(),
        }
        state = {"folder": str(self._folder), "workers": [worker.pid for worker in running]}
        try:
            kept.mkdir(exist_ok=True)
            # the database's password is in it
            account.write_private(
                kept / ENVIRONMENT_FILE,
                "".join(f"export {name}={shlex.quote(text)}\n" for name, text in exports.items()),
                None,
            )
            (kept / STATE_FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise RefusedError(
                f"{kept} cannot be written: {error.strerror}", remedy="Run the demo without --keep."
            ) from error
        for worker in running:
            worker.leave_running()
        self.redis.leave_running()
        self.postgres.leave_running()
        if self._guard is not None:
            self._guard.dismiss()


def is_kept(project: Path) -> bool:
    """True when a stage was left running in this project, and not stopped since."""
    return (project / KEPT / STATE_FILE).exists()


def stop_kept(project: Path) -> bool:
    """End the stage that was left running, and remove everything of it; False: there is none.

    Raises:
        RefusedError: what `.demo` says cannot be read.
        UnreachableError: its servers belong to another account.
        WaitTimeoutError: one of its processes does not end.
    """
    state = project / KEPT / STATE_FILE
    try:
        kept = json.loads(state.read_text(encoding="utf-8"))
        folder, workers = Path(kept["folder"]), [int(pid) for pid in kept["workers"]]
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RefusedError(
            f"{state} cannot be read: {type(error).__name__}",
            remedy="End its processes yourself, and remove the folder .demo.",
        ) from error
    if folder.is_dir():
        # a number may be anybody's by now: only what works in the stage's folder is a worker of it
        ours = [pid for pid in workers if process.works_in(pid, folder)]
        for pid in ours:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        _wait_for(ours)
        LocalRedis(folder / "redis").stop()
        LocalPostgres(folder / "postgres").stop()
        account.remove_tree(folder)
    account.remove_tree(project / KEPT)
    return True


def _wait_for(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while any(process.is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def _clean_environment() -> dict[str, str]:
    """Our environment, without what steers PostgreSQL's clients, Celery or another project."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PG", "BACKFILL_", "CELERY_")) or name == "BACKFILL_DEBUG"
    }
