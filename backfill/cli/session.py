"""What a command acts in: the project, opened when first needed, and the run that is meant."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from backfill.errors import BackfillError, RefusedError, UsageError
from backfill.streams import is_terminal

if TYPE_CHECKING:
    from backfill.pg.ledger import Run
    from backfill.project import Desk, Project


class Session:
    """One call of the command line.

    Args:
        folder: what `--project` says.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    @cached_property
    def project(self) -> Project:
        """The project around the current folder, or the one named.

        Raises:
            ProjectError: its settings cannot be used.
        """
        from backfill.project import Project
        from backfill.watch.logs import configure

        # commands say themselves what happened; only `run` and `worker` log
        configure("auto", "error")
        return Project.find(self.folder)

    @contextmanager
    def desk(self, database: str) -> Iterator[Desk]:
        """A database with its ledger, closed at the end.

        Raises:
            BackfillError: no such database, no answer, or no ledger.
        """
        desk = self.project.open(database)
        try:
            yield desk
        finally:
            desk.conn.close()

    @contextmanager
    def run(self, text: str | None, database: str | None) -> Iterator[tuple[Desk, Run]]:
        """The run that a user means, with its database's desk, closed at the end.

        Args:
            text: an id, a unique prefix, a job's name; None: the only live run.
            database: where to look; None: in all databases of the project.

        Raises:
            UsageError: none fits, or more than one.
            BackfillError: a database that had to be asked does not answer, or has no ledger.
        """
        if text is not None and not text.strip():
            # `cancel "$RUN"` of a shell in which RUN is not set
            raise UsageError("RUN is empty", remedy="Leave it out where one run is live only.")
        with ExitStack() as stack:
            desks, failure = self._desks(stack, database)
            found, missed = _matches(desks, text)
            # without a name, a database that does not answer may hold the live run that is meant
            if failure is not None and (not found or text is None):
                raise failure
            if len(found) > 1:
                listed = ", ".join(f"{run.id} (database {desk.database})" for desk, run in found)
                raise UsageError(
                    f"{len(found)} runs fit: {listed}",
                    remedy="Say which one you mean, with --database where the names are the same.",
                )
            if not found:
                raise missed or _no_live_run()
            yield found[0]

    @contextmanager
    def failed_run(self, text: str | None, database: str | None) -> Iterator[tuple[Desk, Run]]:
        """The same for what has failed: without a name, the only failed run that is its job's last.

        Raises:
            UsageError, BackfillError: as `run`.
        """
        from backfill.pg.ledger import failed_runs

        if text is not None:
            with self.run(text, database) as found:
                yield found
            return
        with ExitStack() as stack:
            desks, failure = self._desks(stack, database)
            if failure is not None:
                raise failure
            failed = [(desk, run) for desk in desks for run in failed_runs(desk.conn, desk.ledger)]
            live, _ = _matches(desks, None)
            if not failed and len(live) == 1:
                failed = live  # it is refused, which says what to do with it
            if not failed:
                raise UsageError(
                    "no job's latest run has failed: there is nothing to retry",
                    remedy="`backfill status` lists the runs; give one's id.",
                )
            if len(failed) > 1:
                listed = ", ".join(f"{run.id} (database {desk.database})" for desk, run in failed)
                raise UsageError(
                    f"{len(failed)} runs have failed: {listed}",
                    remedy="Say which one you mean.",
                )
            yield failed[0]

    @contextmanager
    def live_runs(self, database: str | None) -> Iterator[list[tuple[Desk, list[Run]]]]:
        """The live runs of each database, with its desk, closed at the end.

        Raises:
            UsageError: no run is live.
            BackfillError: a database does not answer, or has no ledger.
        """
        from backfill.pg.ledger import live_runs

        with ExitStack() as stack:
            desks, failure = self._desks(stack, database)
            if failure is not None:
                raise failure
            found = [(desk, live_runs(desk.conn, desk.ledger)) for desk in desks]
            if not any(runs for _, runs in found):
                raise _no_live_run()
            yield found

    def _desks(
        self, stack: ExitStack, database: str | None
    ) -> tuple[list[Desk], BackfillError | None]:
        """Those that could be opened, and why the first of the others could not."""
        desks: list[Desk] = []
        failure: BackfillError | None = None
        for name in [database] if database is not None else self.project.settings.ledgers:
            try:
                desks.append(stack.enter_context(self.desk(name)))
            except BackfillError as error:
                failure = failure or error
        return desks, failure

    def confirm_write(self, database: str, *, yes: bool) -> None:
        """Name host and database and ask, where the settings say `confirm = true`.

        Raises:
            RefusedError: there is no terminal to ask on, or the answer is no.
        """
        from backfill.url import safe_url

        settings = self.project.settings.database(database)
        if not settings.confirm or yes:
            return
        where = f"{safe_url(settings.url)} (database {settings.name})"
        if not is_terminal(sys.stdin):
            raise RefusedError(
                f"{where} wants a confirmation, and there is no terminal to ask on",
                remedy="Say --yes where that is what you want.",
            )
        ask(f"This writes to {where}. Go on?")


def ask(question: str) -> None:
    """Ask on the terminal.

    Raises:
        RefusedError: the answer is no.
    """
    if not click.confirm(question, err=True):
        raise RefusedError("not confirmed; nothing has been done")


def _matches(
    desks: Sequence[Desk], text: str | None
) -> tuple[list[tuple[Desk, Run]], UsageError | None]:
    """What fits in each database, and why the first that has nothing has nothing."""
    from backfill.pg.ledger import find_run, live_runs

    if text is None:
        return [(desk, run) for desk in desks for run in live_runs(desk.conn, desk.ledger)], None
    found: list[tuple[Desk, Run]] = []
    missed: UsageError | None = None
    for desk in desks:
        try:
            found.append((desk, find_run(desk.conn, desk.ledger, text)))
        except UsageError as error:
            missed = missed or error
    return found, missed


def _no_live_run() -> UsageError:
    return UsageError(
        "no run is live, so say which one you mean",
        remedy="`backfill status` lists the runs; give one's id or a job's name.",
    )


pass_session = click.make_pass_decorator(Session)
