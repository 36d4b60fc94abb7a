"""Ask the worker on this host whether it answers: exit code 0 when it does.

The health check of the container `worker`. It goes the way that the work goes, through Redis to
the worker's own process; a worker that lives while Redis is away counts as unhealthy, and is not
restarted for it (nothing is lost meanwhile: I4).
"""

from __future__ import annotations

import socket
import sys

from backfill.worker.app import celery_app

ANSWER_SECONDS = 10.0


def main() -> int:
    """Return 0 when a worker whose node name ends in this host's name answers in time, else 1."""
    replies = celery_app.control.broadcast(
        "ping",
        reply=True,
        # By pattern: the part of a node's name before the @ is the operator's choice.
        pattern=f"*@{socket.gethostname()}",
        matcher="glob",
        limit=1,
        timeout=ANSWER_SECONDS,
    )
    return 0 if replies else 1


if __name__ == "__main__":
    sys.exit(main())
