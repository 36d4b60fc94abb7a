"""What is to become of rows in quarantine."""

from __future__ import annotations

from backfill.engine import lifecycle
from backfill.errors import RefusedError
from backfill.model import PauseCause
from backfill.operate import waiting
from backfill.operate.onward import go_on
from backfill.operate.told import Told
from backfill.pg.ledger import Run, pauses
from backfill.pg.quarantine import open_quarantine
from backfill.project import Desk, Project


def release_quarantine(project: Project, desk: Desk, run: Run, *, by: str) -> Told:
    """Take the rows again, now that they are mended; the run goes on.

    Raises:
        RefusedError: no row is in quarantine, the run has ended, or a batch in hand does not end in
            time.
    """
    _refuse_if_empty(desk, run)
    with waiting.for_batches_of(run):
        rows = lifecycle.release_quarantine(desk.conn, desk.ledger, run.id, by=by)
    told = "1 row is taken again" if rows == 1 else f"{rows:,} rows are taken again"
    return Told(lines=(f"{run.id}: {told}",)).then(go_on(project, desk, run.id, by=by))


def accept_quarantine(project: Project, desk: Desk, run: Run, *, by: str) -> Told:
    """Leave the rows as they are, for good; the run goes on to its end.

    Raises:
        RefusedError: no row is in quarantine, or the run has ended.
    """
    _refuse_if_empty(desk, run)
    rows = lifecycle.accept_quarantine(desk.conn, desk.ledger, run.id, by=by)
    told = "1 row stays as it is" if rows == 1 else f"{rows:,} rows stay as they are"
    return Told(lines=(f"{run.id}: {told}",)).then(go_on(project, desk, run.id, by=by))


def _refuse_if_empty(desk: Desk, run: Run) -> None:
    """A run that has ended is refused by the lifecycle, which says more."""
    causes = {pause.cause for pause in pauses(desk.conn, desk.ledger, run.id)}
    if (
        run.run_state.is_live
        and PauseCause.QUARANTINE not in causes
        and not open_quarantine(desk.conn, desk.ledger, run.id)
    ):
        raise RefusedError(
            f"no row of {run.id} is in quarantine", remedy=f"See `backfill status {run.id}`."
        )
