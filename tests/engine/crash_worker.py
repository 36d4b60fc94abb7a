"""A process that works a run and kills itself at a named point of a batch.

    python -m tests.engine.crash_worker URL RUN JOB POINT VISIT

Without POINT and VISIT it works to the end. Exits by SIGKILL, as an OOM killer would end it: no
handler runs, no connection is closed in order.
"""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace

from backfill.engine.bench import no_probe
from backfill.pg.ledger import get_run
from tests.engine import jobs
from tests.engine.factory import QUICK, AtVisit, Worksite

#: So short that the next process need not wait long for the slice of the killed one.
SETTINGS = replace(QUICK, lease_seconds=0.5)


def main(url: str, run_id: str, job_name: str, point: str = "", visit: str = "0") -> None:
    """Work the run with one thread."""
    site = Worksite(url)
    run = get_run(site.conn, site.ledger, run_id)
    kill = AtVisit(point, int(visit), lambda: os.kill(os.getpid(), signal.SIGKILL))
    site.work(getattr(jobs, job_name), run, settings=SETTINGS, probe=kill if point else no_probe)
    site.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
