"""A process that sends messages and kills itself at a named point.

    python -m tests.worker.notice_process FOLDER POINT

FOLDER is a project's. Without POINT it sends what is due. It dies by SIGKILL, as an OOM killer
would end it.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from backfill.project import Project
from backfill.worker.notices import Notifier

#: So short that the next process need not wait long for the notice of the killed one.
SENDING_SECONDS = 1.5


def main(folder: str, point: str = "") -> None:
    """Send in one round."""

    def probe(reached: str) -> None:
        if reached == point:
            os.kill(os.getpid(), signal.SIGKILL)

    project = Project.find(Path(folder))
    desk = project.open()
    notifier = Notifier(project, probe=probe, sending_seconds=SENDING_SECONDS)
    notifier.gather(desk)
    notifier.send(desk, seconds=10)
    desk.conn.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
