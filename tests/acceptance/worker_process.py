"""Starts a worker as `backfill worker` does, with a probe that lets a test kill or stop it.

    python worker_process.py NAME CHILDREN

At each named point of a batch the probe looks into the folder CREW_ORDERS for a file named
`ACTION @ POINT`. Who removes it obeys it, so each order is obeyed once, by one process. Only this
script knows of that: the engine's probe does nothing in production. Where CREW_CLOCK names a file,
the worker's wall clock is ahead by the seconds in it (jumping.py). With CREW_NETWORK it is
in the network namespace of that name; CREW_CELERY is more of Celery's arguments.
"""

from __future__ import annotations

import ctypes
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

_CLONE_NEWNET = 0x40000000
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


def enter(name: str) -> None:
    """Let this process be in a network namespace; os.setns came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{name}", "rb") as namespace:  # noqa: PTH123 - its number is wanted
        if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)


def main() -> int:
    """Start the worker."""
    name, children = sys.argv[1:]
    if clock := os.environ.get("CREW_CLOCK"):
        runpy.run_path(str(Path(__file__).with_name("jumping.py")))["follow"](Path(clock))
    if network := os.environ.get("CREW_NETWORK"):
        enter(network)
    logs.configure("json", "debug")
    return start(
        ProbedProject.find(),
        [
            "--loglevel=INFO",
            f"--concurrency={children}",
            f"--hostname={name}@%h",
            "--without-mingle",
            "--without-gossip",
            *os.environ.get("CREW_CELERY", "").split(),
        ],
    )


if __name__ == "__main__":
    sys.exit(main())
