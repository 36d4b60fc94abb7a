"""How a run works, changed while it works."""

from __future__ import annotations

from collections.abc import Mapping

from backfill.engine import control
from backfill.engine.control import Tuned
from backfill.errors import UsageError
from backfill.operate.told import Told, send_or_warn
from backfill.pg.ledger import Run
from backfill.project import Desk, Project


def changes_of(given: Mapping[str, str | None]) -> dict[str, str]:
    """The options that somebody gave, without those left out (None).

    Raises:
        UsageError: there is none.
    """
    changes = {name: text for name, text in given.items() if text is not None}
    if not changes:
        raise UsageError(
            "there is nothing to change", remedy="Say what, such as `backfill tune --rate 2000/s`."
        )
    return changes


def tune(
    project: Project, desk: Desk, run: Run, changes: Mapping[str, str | None], *, by: str
) -> Told:
    """Change how a live run works, within two seconds.

    Args:
        changes: by the option's name, as on the command line; `none` takes a rate, a window or a
            time away, and None leaves the option as it is.

    Raises:
        UsageError: nothing is given, an option does not exist or cannot be changed, or a value is
            wrong.
        RefusedError: the run has ended.
    """
    tuned = control.tune(desk.conn, desk.ledger, run.id, changes_of(changes), by=by)
    lines = [
        f"{run.id}: {name} {_told(was)} → {_told(now)}"
        for name, (was, now) in sorted(tuned.changes.items())
    ]
    if tuned.lifted:
        lines.append(f"{run.id}: its window is open now")
    told = Told(lines=(*([] if tuned.changes else [f"{run.id} works like that already"]), *lines))
    if tuned.run.executor != "celery":
        return told
    return told.then(_tell_workers(project, desk, tuned))


def _told(value: object) -> str:
    return "none" if value is None else str(value)


def _tell_workers(project: Project, desk: Desk, tuned: Tuned) -> Told:
    """Messages for the slots that are new; without them the reconciler fills them (I3)."""
    from backfill.worker.send import send_slots, slots_of  # Celery takes a while to import

    slots = slots_of(tuned.run)
    if not tuned.lifted:
        slots = [slot for slot in slots if slot >= tuned.before.concurrency]
    if not slots:
        return Told()
    return send_or_warn(
        lambda: send_slots(project, desk, tuned.run, slots), otherwise="new slots are filled"
    )
