"""`backfill watch`: runs as they go, to their ends."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from backfill.cli.ending import code_of, ends_in_order
from backfill.cli.options import json_option
from backfill.cli.session import Session, pass_session
from backfill.errors import UnreachableError
from backfill.model import PauseCause

if TYPE_CHECKING:
    from backfill.cli.live import Reader
    from backfill.project import Desk
    from backfill.watch.gallery import Gallery
    from backfill.watch.progress import Progress

#: How often new runs are looked for.
NEW_SECONDS = 1.0
#: What no clock and no signal ends.
_OF_PEOPLE = {
    PauseCause.USER,
    PauseCause.ERROR,
    PauseCause.CHANGED_JOB,
    PauseCause.QUARANTINE,
    PauseCause.STOP_ALL,
}


def has_ended(progress: Progress) -> bool:
    """True when it is at its end, or only its quarantine is left."""
    causes = {pause.cause for pause in progress.pauses}
    return not progress.run.run_state.is_live or PauseCause.QUARANTINE in causes


def needs_a_person(progress: Progress) -> bool:
    """True when it is at its end, or stands until somebody does something."""
    return (
        not progress.run.run_state.is_live
        or any(pause.cause in _OF_PEOPLE for pause in progress.pauses)
        or progress.is_past_until
    )


@click.command()
@click.argument("run_texts", metavar="[RUN]…", nargs=-1)
@click.option("--database", metavar="NAME", help="Look in this database of the project only.")
@click.option(
    "--signals", "all_signals", is_flag=True, help="Show all signals, also the calm ones."
)
@json_option
@pass_session
@ends_in_order
def watch(
    session: Session,
    *,
    run_texts: tuple[str, ...],
    database: str | None,
    all_signals: bool,
    as_json: bool,
) -> int:
    """Show runs until they end; exit with the worst of their codes.

    Without RUN: all live runs of all databases, and those that begin meanwhile. Ctrl-C leaves the
    runs alone. With --json, each line is a run as `status RUN --json` has it, without
    "quarantine", when it changes, at most each second.
    """
    from backfill.cli.display import Display
    from backfill.cli.live import Watch

    with ExitStack() as stack:
        rooms = _Rooms(session, stack)
        if run_texts:
            for text in run_texts:
                with session.run(text, database) as (desk, run):
                    rooms.add(desk, [run.id])
        else:
            with session.live_runs(database) as found:
                for desk, runs in found:
                    rooms.add(desk, [run.id for run in runs])
        try:
            with Display(
                as_json=as_json,
                all_signals=all_signals,
                several_databases=len(session.project.settings.ledgers) > 1,
            ) as display:
                more = tuple if run_texts else rooms.begun
                watched = Watch(rooms.readers, display, has_ended, more=more)
                return watched.to_the_end()
        except KeyboardInterrupt as error:
            click.echo(_left_alone(rooms, run_texts), err=True)
            return code_of(error)


class _Rooms:
    """The galleries of the databases whose runs are watched, each opened once.

    Args:
        stack: closes them.
    """

    def __init__(self, session: Session, stack: ExitStack) -> None:
        self.readers: list[Reader] = []
        self._session = session
        self._stack = stack
        self._galleries: dict[str, Gallery] = {}
        self._known: set[tuple[str, str]] = set()
        self._asked_at = time.monotonic()

    def add(self, desk: Desk, runs: Sequence[str]) -> None:
        """Watch these runs of a database."""
        from backfill.cli.live import gallery_of

        if desk.database not in self._galleries:
            gallery = gallery_of(self._session.project, desk)
            self._stack.callback(gallery.close)
            self._galleries[desk.database] = gallery
        self.readers += self._readers(desk.database, runs)

    def begun(self) -> list[Reader]:
        """Readers of the runs that have begun since; of a database that is away, later."""
        if time.monotonic() - self._asked_at < NEW_SECONDS:
            return []
        self._asked_at = time.monotonic()
        found: list[Reader] = []
        for database, gallery in self._galleries.items():
            try:
                found += self._readers(database, gallery.overview().live)
            except UnreachableError:
                continue
        return found

    def _readers(self, database: str, runs: Sequence[str]) -> list[Reader]:
        from backfill.cli.live import Reader

        new = [run for run in dict.fromkeys(runs) if (database, run) not in self._known]
        self._known |= {(database, run) for run in new}
        return [Reader(self._galleries[database], run) for run in new]


def left_alone(run: str) -> str:
    """What is said to whoever ends the watching of a run."""
    return f"the run is left alone; watch it again with `backfill watch {run}`"


def _left_alone(rooms: _Rooms, run_texts: Sequence[str]) -> str:
    runs = [reader.run for reader in rooms.readers]
    if len(runs) == 1:
        return left_alone(runs[0])
    again = " ".join(["backfill watch", *(runs if run_texts else ())])
    return f"the runs are left alone; watch them again with `{again}`"
