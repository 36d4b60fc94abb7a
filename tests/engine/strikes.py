"""Strikes against workers, at random points of their batches; the work goes on with new ones."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import psycopg
from hypothesis import currently_in_test_context, event
from hypothesis import strategies as st

from backfill.clock import SystemClock
from backfill.engine.bench import Bench
from backfill.engine.here import Crew
from backfill.job import Job
from backfill.pg.ledger import Run
from backfill.settings import EngineSettings
from tests.engine.factory import BOUND_SECONDS, Outcome, Worksite

#: A holder that is gone without a word is replaced after half a second.
SETTINGS = EngineSettings(lease_seconds=0.5, sweep_seconds=20.0, begin_wait_seconds=10.0)

POINTS = ["before the page", "after the write", "before COMMIT", "after COMMIT"]
Blow = Literal["raise", "vanish", "cut", "terminate", "lose the reply"]
BLOWS: list[Blow] = ["raise", "vanish", "cut", "terminate", "lose the reply"]


class StruckError(Exception):
    """Ends a crew at a point of a batch."""


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens at the n-th visit of a point, counted over a crew's threads.

    raise: the worker's code fails; it still gives its slice back.
    vanish: the worker is gone with its connection; its slice is leased for a while.
    cut: the connection breaks, the worker lives.
    terminate: an administrator ends the backend.
    lose the reply: the connection breaks after COMMIT took effect, before we heard of it.
    """

    point: str
    visit: int
    blow: Blow


STRIKES = st.builds(
    Strike,
    st.sampled_from([*POINTS, "before the checkpoint"]),
    st.integers(1, 8),
    st.sampled_from(BLOWS),
).map(lambda s: Strike("after COMMIT", s.visit, s.blow) if s.blow == "lose the reply" else s)


@dataclass(slots=True)
class Striking:
    """Counts visits, and strikes once."""

    site: Worksite
    strike: Strike | None
    has_struck: bool = False
    visits: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def probe(self, bench: Bench) -> Callable[[str], None]:
        def at(point: str) -> None:
            with self.lock:
                if self.strike is None or point != self.strike.point:
                    return
                self.visits += 1
                if self.visits != self.strike.visit:
                    return
                self.has_struck = True
            self._strike(bench, self.strike.blow)

        return at

    def _strike(self, bench: Bench, blow: Blow) -> None:
        if blow == "terminate":
            with psycopg.connect(self.site.url, autocommit=True) as admin:
                admin.execute("SELECT pg_terminate_backend(%s)", [bench.conn.info.backend_pid])
            return
        if blow != "raise":
            bench.conn.close()
        if blow == "lose the reply":
            raise psycopg.OperationalError("server closed the connection unexpectedly")
        if blow != "cut":
            raise StruckError(blow)


def work_through(
    site: Worksite, job: type[Job], run: Run, *, threads: int, strikes: Sequence[Strike]
) -> Outcome:
    """Crew after crew, each struck once, until one comes to the end."""
    for strike in [*strikes, None]:
        striking = Striking(site, strike)

        def make(stop: Callable[[], bool], striking: Striking = striking) -> Bench:
            bench = site.bench(job, run, settings=SETTINGS, stopping=stop)
            bench.probe = striking.probe(bench)
            return bench

        crew = Crew(make, size=threads, clock=SystemClock())
        crew.start()
        with suppress(StruckError):
            ended = crew.join(BOUND_SECONDS)
            crew.stop()
            assert ended, f"the crew is still at work: {site.outcome(run)}"
        if strike is not None and striking.has_struck and currently_in_test_context():
            event(f"struck: {strike.blow}")
    return site.outcome(run)
