"""A run of a test that is killed, again and again, and has to come to the same end.

A process of its own works on the run and ends itself by SIGKILL at a named point of a batch, as an
OOM killer or a lost machine would: no handler runs, no connection is closed in order. The next one
goes on. Processes are forked, so that a job declared anywhere serves, in a test's function, too.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Literal, NoReturn, get_args

from backfill.engine.bench import Probe
from backfill.errors import UsageError
from backfill.job import Bounds, Job, Options
from backfill.job.declaration import declaration_of
from backfill.project import job_class_of
from backfill.testing.site import NotFinishedError, Outcome, Site, site, unhurried
from backfill.testing.writes import Writes, watched

#: Points of a batch (engine/batch.py, engine/optimistic.py, engine/work.py).
Point = Literal[
    "before the page",
    "after the transform",
    "after the write",
    "before COMMIT",
    "after COMMIT",
    "before the checkpoint",
]
At = Literal["every batch"] | Point

_POINTS: tuple[Point, ...] = get_args(Point)
#: Reached by rows that are read without locks only.
_UNLOCKED: Point = "after the transform"
_COMMITTED: tuple[Point, ...] = ("after COMMIT", "before the checkpoint")
#: So many batches and slices, about, unless the options say otherwise.
_BATCHES = 6
_SLICES = 3
#: A process that takes longer hangs.
_MOST_SECONDS = 120.0
#: So many deaths without a row more are no accident.
_MOST_IDLE_KILLS = 30


def interrupt(
    job: type[Job] | Job,
    url: str,
    /,
    at: At = "every batch",
    *,
    options: Options | None = None,
    bounds: Bounds | None = None,
    databases: Mapping[str, str] | None = None,
    **params: object,
) -> Outcome:
    """Run a job in processes that are killed at each point of each batch, to its end.

    Then it holds that
    - every row that was the job's when the run began was paged once, and has one outcome;
    - for Update and Delete every row was written at most once, and as many as the ledger says, and
      for an Insert that PostgreSQL computes as many rows; a trigger of the test's has counted them.
    Whether what was written is right, compare in the outcome's rows: they are those of `run`.
    Nothing is known of what a transform does elsewhere. What Call does is done at least once:
    count it in the test.

    Args:
        url: as for `run`. Nobody else may write to the job's tables meanwhile.
        at: `every batch`: at all points of each one, by turns; or one point, once in each batch.
        options: in place of the job's own; without them a run has about six batches.
        bounds, databases, params: as for `run`.

    Raises:
        AssertionError: a row was lost or done twice, or there was no batch to be killed in.
        NotFinishedError: as for `run`; or it comes no further, or a process hangs.
        UsageError: there is no such point, or this system cannot fork.
        BackfillError: as for `run`.
    """
    if not hasattr(os, "fork"):
        raise UsageError("interrupt forks processes, which this system cannot")
    if at != "every batch" and at not in _POINTS:
        raise UsageError(
            f"there is no point {at!r} in a batch",
            remedy=f"There are: every batch, {', '.join(_POINTS)}.",
        )
    declaration = declaration_of(job_class_of(job))
    chosen = options or unhurried(declaration.options)
    with (
        site(
            declaration, url, options=chosen, bounds=bounds, databases=databases, params=params
        ) as new,
        watched(new) as writes,
    ):
        here = new.begun()
        if at == _UNLOCKED and not here.reads_unlocked:
            raise UsageError(
                f"{at!r} is a point of rows that are read without locks", remedy="Name another."
            )
        if options is None:
            here = here.with_options(_small(here))
        kills = _killed_again_and_again(here, at)
        outcome = here.outcome(kills=kills)
        _check(here, outcome, writes)
        return outcome


def _small(here: Site) -> Options:
    """For the rows as they are."""
    return replace(
        here.options,
        batch_rows=min(max(1, math.ceil((here.run.total_rows or 0) / _BATCHES)), 100_000),
        # of all keys: a slice is walked even where no row of it is the job's
        slice_rows=min(max(1, math.ceil(here.keys / _SLICES)), 10_000_000),
    )


def _plan(at: At, *, unlocked: bool) -> Iterator[tuple[Point, int]]:
    """At which point the next process dies, and at which visit of it.

    A process that dies before its batch has committed leaves that batch to the next.
    """
    if at == "every batch":
        before = [p for p in _POINTS if p not in _COMMITTED and (unlocked or p != _UNLOCKED)]
        while True:
            for after in _COMMITTED:
                yield from ((point, 1) for point in (*before, after))
    elif at in _COMMITTED:
        yield from repeat((at, 1))
    else:
        yield from chain([(at, 1)], repeat((at, 2)))


def _killed_again_and_again(here: Site, at: At) -> int:
    idle, before = 0, here.progress()
    for kills, (point, visit) in enumerate(_plan(at, unlocked=here.reads_unlocked)):
        if not _dies(partial(_work, here, _killing(point, visit))):
            return kills
        # it is dead for certain, so nobody need wait for its lease to run out
        here.conn.execute(
            here.ledger.q(
                "UPDATE {s}.slice SET lease_until = '-infinity'"
                " WHERE run = %s AND holder IS NOT NULL"
            ),
            [here.run.id],
        )
        now = here.progress()
        idle, before = (idle + 1 if now == before else 0), now
        if idle > _MOST_IDLE_KILLS:
            raise NotFinishedError(
                f"{here.run.job} comes no further than {here.counts().paged} rows while it is"
                f" killed ({idle} times)"
            )
    raise AssertionError("the plan has no end")


def _killing(point: Point, visit: int) -> Probe:
    left = visit

    def probe(reached: str) -> None:
        nonlocal left
        if reached == point:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return probe


def _work(here: Site, probe: Probe) -> None:
    crew = here.crew(size=1, probe=probe)
    crew.start()
    crew.join()


def _dies(work: Callable[[], None]) -> bool:
    """Do something in a process of its own; True when that was killed, False when it came through.

    Raises:
        NotFinishedError: it raised, or it hangs.
    """
    with tempfile.TemporaryDirectory(prefix="backfill-") as folder:
        told = Path(folder) / "error"
        with warnings.catch_warnings():
            # a fork of a process with threads is warned of; the child's locks are its own
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _in_child(work, told)
        status = _wait(pid)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return True
        if status != 0:
            why = told.read_text(encoding="utf-8") if told.exists() else f"status {status}"
            raise NotFinishedError(f"a process that worked on the run ended by itself: {why}")
        return False


def _in_child(work: Callable[[], None], told: Path) -> NoReturn:
    """Whatever happens, nothing of the test that was forked goes on here."""
    code = 1
    try:
        if sys.platform == "darwin":  # libpq asks for Kerberos tickets, which dies after a fork
            os.environ.setdefault("PGGSSENCMODE", "disable")
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a process's boundary: the parent tells it
        told.write_text(traceback.format_exc(), encoding="utf-8")
    finally:
        os._exit(code)


def _wait(pid: int) -> int:
    deadline = time.monotonic() + _MOST_SECONDS
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise NotFinishedError(
                f"a process that worked on the run was still at it after {_MOST_SECONDS:.0f} s"
            )
        time.sleep(0.005)


def _check(here: Site, outcome: Outcome, writes: Writes | None) -> None:
    """See `interrupt`."""
    run, counts = here.now(), outcome.counts
    if not (outcome.kills and counts.paged):
        raise AssertionError(f"{run.job} had no row to take, so nothing was interrupted")
    if not counts.adds_up:
        raise AssertionError(f"the counts of {run.job} do not add up: {counts}")
    if run.total_is_exact and counts.paged != run.total_rows:
        raise AssertionError(
            f"{run.total_rows} rows were the job's when {run.job} began, and {counts.paged} were"
            " taken. Does somebody else write to its table?"
        )
    if writes is not None:
        writes.check(counts)
