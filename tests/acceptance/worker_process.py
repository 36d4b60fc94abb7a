"""Starts a worker as `backfill worker` does, with a probe that lets a test kill or stop it.

    python worker_process.py NAME CHILDREN

At each named point of a batch the probe looks into the folder CREW_ORDERS for a file named
`ACTION @ POINT`. Who removes it obeys it, so each order is obeyed once, by one process. Only this
script knows of that: the engine's probe does nothing in production. Where CREW_CLOCK names a file,
the worker's wall clock is ahead by the seconds in it (jumping.py).
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from backfill.engine.bench import Bench
from backfill.project import Project
from backfill.watch import logs
from backfill.worker.main import start

ORDERS = Path(os.environ["CREW_ORDERS"])


def kill_child() -> None:
    """This process alone; Celery sees it and starts another."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_worker() -> None:
    """This worker's every process at once, as when the machine goes."""
    os.killpg(0, signal.SIGKILL)


def stop_child() -> None:
    """This process stands still until the test continues it, and says who it is before."""
    (ORDERS / f"stopped {os.getpid()}").touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_worker() -> None:
    """This worker's every process stands still."""
    (ORDERS / f"stopped {os.getpid()}").touch()
    os.killpg(0, signal.SIGSTOP)


ACTIONS = {
    "kill child": kill_child,
    "kill worker": kill_worker,
    "stop child": stop_child,
    "stop worker": stop_worker,
}


def probe(point: str) -> None:
    """Obey an order for this point, if there is one."""
    for action, obey in ACTIONS.items():
        try:
            (ORDERS / f"{action} @ {point}").unlink()
        except FileNotFoundError:
            continue
        obey()


class ProbedProject(Project):
    """A project whose every workbench has the probe."""

    def bench(self, *args: Any, **options: Any) -> Bench:
        bench = super().bench(*args, **options)
        bench.probe = probe
        return bench


def main() -> int:
    """Start the worker."""
    name, children = sys.argv[1:]
    if clock := os.environ.get("CREW_CLOCK"):
        runpy.run_path(str(Path(__file__).with_name("jumping.py")))["follow"](Path(clock))
    logs.configure("json", "debug")
    return start(
        ProbedProject.find(),
        [
            "--loglevel=INFO",
            f"--concurrency={children}",
            f"--hostname={name}@%h",
            "--without-mingle",
            "--without-gossip",
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
