"""Following runs: looking at their pictures again and again, and showing them while they change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import accumulate
from types import TracebackType
from typing import TYPE_CHECKING, Self

from backfill.cli.display import Display
from backfill.cli.plain import plain
from backfill.cli.scene import View
from backfill.cli.show import state
from backfill.errors import ExitCode, UnreachableError, WaitTimeoutError
from backfill.model import PauseCause, RunState
from backfill.watch.words import counts_sum, duration, limit_reached

if TYPE_CHECKING:
    from backfill.cli.charts import Marks
    from backfill.project import Desk, Project
    from backfill.watch.gallery import Gallery
    from backfill.watch.picture import Picture
    from backfill.watch.progress import Progress

#: How often pictures are looked at: workers renew them each second.
LOOK_SECONDS = 0.5
#: Followers go on trying for so long while the database is away, as a crew does.
PATIENCE_SECONDS = 120.0
#: The rate shown is that of the last seconds.
RATE_SECONDS = 10.0
#: So many marks of our own are kept, a second each.
MOST_MARKS = 300
#: How often its course is read anew, of which our own marks are the newest part.
COURSE_SECONDS = 60.0


def gallery_of(project: Project, desk: Desk, *, live: bool = True) -> Gallery:
    """The pictures of a desk's runs, to be closed.

    Args:
        live: from Redis, too: for runs that workers work on.
    """
    from backfill.watch.gallery import Gallery

    return Gallery(
        desk.database,
        desk.ledger,
        connect=desk.connect,
        checkpoint=project.checkpoint(desk.ledger) if live else None,
        max_slots=project.settings.database(desk.database).max_slots,
    )


class Reader:
    """Looks at one run again and again; outlives a database that is away for a while.

    Args:
        gallery: closed by its owner.
    """

    def __init__(self, gallery: Gallery, run: str) -> None:
        self._gallery = gallery
        self.run = run
        self._last: View | None = None
        self._away_since: float | None = None
        self._own: deque[tuple[datetime, int, float | None]] = deque(maxlen=MOST_MARKS)
        self._course: Marks = ()
        self._course_read_at = float("-inf")

    @property
    def misses_redis(self) -> bool:
        """True while Redis does not answer."""
        return self._gallery.misses_redis

    def read(self, *, with_marks: bool = False, now: bool = False) -> View | None:
        """The run as it is; as it was while the database is away; None: it was not seen yet.

        The same view as before while there is no newer picture.

        Args:
            with_marks: say how far it was before, too.
            now: as the ledger has it at this moment.

        Raises:
            UnreachableError: the database has been away for too long.
        """
        try:
            picture = (
                self._gallery.from_ledger(self.run, seconds=0.0)
                if now
                else self._gallery.picture(self.run)
            )
            if self._last is None or picture.progress.at != self._last.progress.at:
                picture = self._remember(picture)
                marks = self._marks() if with_marks else ()
                self._last = View(picture=picture, marks=marks)
        except UnreachableError as error:
            self._bear(error)
            return None if self._last is None else replace(self._last, is_away=True)
        self._away_since = None
        return self._last

    def settled(self) -> View:
        """The run as the ledger has it now; waits while the database is away.

        Raises:
            UnreachableError: it is away for too long.
        """
        while (view := self.read(now=True)) is None or view.is_away:
            time.sleep(LOOK_SECONDS)
        return view

    def _bear(self, error: UnreachableError) -> None:
        now = time.monotonic()
        self._away_since = self._away_since or now
        if now - self._away_since > PATIENCE_SECONDS:
            raise UnreachableError(
                f"the database has been away for {PATIENCE_SECONDS:.0f} s",
                remedy="The run is in it, as far as it came: look again when it is back.",
            ) from error

    def _remember(self, picture: Picture) -> Picture:
        """Keep how far it is; the ledger knows only the average, we have seen the last seconds."""
        progress = picture.progress
        rate = self._rate(progress)
        self._own.append((progress.at, progress.counts.settled, rate))
        if progress.source == "checkpoint" or rate is None:
            return picture
        rates = [known for _, _, known in list(self._own)[-60:] if known]
        return replace(picture, progress=replace(progress, rows_per_second=rate, rates=rates))

    def _rate(self, progress: Progress) -> float | None:
        """Keys per second over the last RATE_SECONDS that we have seen."""
        if not progress.run.run_state.is_working:
            return None
        for at, settled, _ in self._own:
            seconds = (progress.at - at).total_seconds()
            if 1.0 <= seconds <= RATE_SECONDS:
                return max(0.0, (progress.counts.settled - settled) / seconds)
        return None

    def _marks(self) -> Marks:
        """How far it was: what is known of its course, and what we have seen ourselves since."""
        if time.monotonic() - self._course_read_at > COURSE_SECONDS:
            pulses, recent = self._gallery.points(self.run)
            self._course = [(one.at, one.settled) for one in (*pulses, *recent)]
            self._course_read_at = time.monotonic()
        known = [*self._course, *((at, settled) for at, settled, _ in self._own)]
        known.sort()
        # Redis that comes back may tell what was long ago, until workers write to it again
        most = accumulate((settled for _, settled in known), max)
        return [(at, settled) for (at, _), settled in zip(known, most, strict=True)]

    # -- as a context -----------------------------------------------------------------------

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._gallery.close()


def exit_code(progress: Progress) -> ExitCode:
    """What a command that waited for the run returns."""
    if progress.run.run_state is RunState.SUCCEEDED:
        return ExitCode.DONE
    if progress.run.run_state is not RunState.PAUSED:
        return ExitCode.FAILED
    causes = {pause.cause for pause in progress.pauses}
    return ExitCode.QUARANTINE if PauseCause.QUARANTINE in causes else ExitCode.REFUSED


def end_told(progress: Progress) -> str:
    """How it ended, what became of the rows, and what to type now."""
    run = progress.run
    seconds = (
        (run.finished_at - run.started_at).total_seconds()
        if run.finished_at is not None and run.started_at is not None
        else None
    )
    took = "" if seconds is None else f" after {duration(seconds)}"
    told = [f"{run.id} {state(progress)}{took}: {counts_sum(progress.counts)}"]
    most = run.row_limit
    if run.run_state is RunState.SUCCEEDED and most is not None and progress.counts.reach(most):
        told.append(limit_reached(most))
    told += [
        f"{pause.cause}: {plain(pause.reason)}\nends: {plain(pause.ends)}"
        for pause in progress.pauses
    ]
    if run.run_state is RunState.FAILED:
        told.append(f"{plain(run.failure or '')}\nmend it, then: backfill retry {run.id}")
    return "\n".join(told)


def follow(
    project: Project,
    desk: Desk,
    run: str,
    *,
    is_over: Callable[[Progress], bool],
    timeout_seconds: float | None = None,
) -> ExitCode:
    """Show a run until `is_over`, and how it stands then.

    Raises:
        WaitTimeoutError: it is not over in time.
        UnreachableError: the database is away for too long.
    """
    with Reader(gallery_of(project, desk), run) as reader, Display() as display:
        return Watch([reader], display, is_over).to_the_end(timeout_seconds=timeout_seconds)


#: The worst first: what is returned for several runs.
_WORST = (ExitCode.FAILED, ExitCode.REFUSED, ExitCode.QUARANTINE, ExitCode.DONE)


class Watch:
    """Shows runs until all are over.

    Args:
        readers: of the runs; more may come while it watches.
        is_over: true of a run that need not be watched any more.
        more: readers of runs that have begun since it was last asked.
    """

    def __init__(
        self,
        readers: Sequence[Reader],
        display: Display,
        is_over: Callable[[Progress], bool],
        *,
        more: Callable[[], Sequence[Reader]] = tuple,
    ) -> None:
        self._going = list(readers)
        self._display = display
        self._is_over = is_over
        self._more = more
        self._codes: list[ExitCode] = []

    def to_the_end(self, *, timeout_seconds: float | None = None) -> ExitCode:
        """The worst of the runs' exit codes.

        Raises:
            WaitTimeoutError: not all are over in time.
            UnreachableError: a database is away for too long.
        """
        started = time.monotonic()
        while timeout_seconds is None or time.monotonic() - started < timeout_seconds:
            self._going += self._more()
            views = [view for reader in list(self._going) if (view := self._look(reader))]
            if self._display.is_due:
                misses_redis = any(reader.misses_redis for reader in self._going)
                self._display.show(views, misses_redis=misses_redis)
            if not self._going:
                return min(self._codes, key=_WORST.index)
            time.sleep(LOOK_SECONDS)
        run = self._going[0].run
        raise WaitTimeoutError(
            f"run {run} is not at its end after {timeout_seconds:g} s",
            remedy=f"It goes on. `backfill watch {run}` shows it,"
            f" `backfill status {run}` says what limits it.",
        )

    def _look(self, reader: Reader) -> View | None:
        view = reader.read(with_marks=self._display.is_drawn)
        if view is None or view.is_away or not self._is_over(view.progress):
            return view
        # a picture may be some seconds old; how a run ended is the ledger's to say
        last = reader.read(now=True)
        if last is None or last.is_away or not self._is_over(last.progress):
            return view
        self._going.remove(reader)
        self._codes.append(exit_code(last.progress))
        self._display.show_end(last, end_told(last.progress))
        return None
