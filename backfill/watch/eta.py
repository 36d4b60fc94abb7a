"""When a run will be at its end: one estimate for the terminal, `status`, Flower and the metrics.

What is left, divided by the present rate (decayed, checkpoint.py), and what the end costs; all of
it worked off in the hours in which the run may work. A rate says nothing of what will change: a
tuned rate, a signal, an application that wakes up. So there is an interval, too:

1. Its ends are what the fastest and the slowest rate of the last minute would give, and at least
   LEAST_SHARE to either side.
2. In the beginning little has been seen, so it is wider: by BEGIN_SECONDS for each second seen.
   After a change of pace it is wider by the share that the decayed rate still has of before.
3. It is no confidence interval of any theory. `python -m benchmarks eta` counts how often the truth
   was inside.

Nothing is made up: no total, no rate, or too little seen, and there is no estimate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from backfill.checkpoint import RATE_SECONDS
from backfill.events import Event
from backfill.hours import Hours
from backfill.pg.ledger import EventRecord

#: A run that has worked for less than this is not judged.
LEAST_SECONDS = 0.5
#: Slower than this is standing still.
LEAST_RATE = 0.01
#: The interval reaches at least so far to either side.
LEAST_SHARE = 0.05
#: One more second than this has been seen: so much wider is the interval, as a share.
BEGIN_SECONDS = 1.0
#: However little is known, it is not wider than this because of the beginning.
MOST_SHARE = 0.5
#: The usual rate is that of other hours, and a total from statistics is off by some percent.
USUAL_SHARE = 0.2
ESTIMATED_SHARE = 0.1
#: The completion check of 336,776 flights by two slots, and the steps between walk, sweep and check
#: (END_SECONDS is for those), took 0.16 to 0.35 s on two cores, and up to 0.75 s on busy ones.
CHECK_ROWS_PER_SECOND = 1_000_000.0
END_SECONDS = 0.1
#: A check that has gone on for so long says by itself how fast it is.
LEAST_CHECK_SECONDS = 2.0
#: What changes a run's speed.
_TURNS = frozenset({Event.RUN_TUNED, Event.RUN_SLOWED, Event.RUN_RESUMED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Turns:
    """When a run's pace was changed last.

    Attributes:
        changed_at: it was tuned, slowed by signals, or resumed; None: not of late.
        checking_since: its completion check began; None: it did not of late.
    """

    changed_at: datetime | None = None
    checking_since: datetime | None = None

    @classmethod
    def among(cls, newest: Sequence[EventRecord]) -> Turns:
        """What a run's newest events say of it."""
        changed = [one.at for one in newest if one.name in _TURNS]
        checking = [one.at for one in newest if one.name == Event.RUN_VERIFYING]
        return cls(
            changed_at=max(changed, default=None), checking_since=max(checking, default=None)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Eta:
    """An estimate of the end; all in UTC.

    Attributes:
        now: when it was made.
        at: when the run will be at its end.
        low_at: it may be so early. low_at ≤ at.
        high_at: it may be so late. at ≤ high_at; None: it may miss its hours (`until`).
        end_seconds: so much of the work is the completion check, and the steps before it.
    """

    now: datetime
    at: datetime
    low_at: datetime
    high_at: datetime | None
    end_seconds: float = 0.0

    @property
    def seconds(self) -> float:
        """From now to the end, those included in which the run may not work. ≥ 0."""
        return (self.at - self.now).total_seconds()

    @property
    def low_seconds(self) -> float:
        """The same of the early end of the interval."""
        return (self.low_at - self.now).total_seconds()

    @property
    def high_seconds(self) -> float | None:
        """The same of its late end."""
        return None if self.high_at is None else (self.high_at - self.now).total_seconds()


def check_rate(checked_rows: int, seconds: float | None) -> float:
    """Rows per second of the completion check: its own once there is one, else another table's.

    Args:
        seconds: since it began; None: it has not.
    """
    if seconds is None or seconds < LEAST_CHECK_SECONDS or not checked_rows:
        return CHECK_ROWS_PER_SECOND
    return checked_rows / seconds


def estimate(
    now: datetime,
    hours: Hours,
    *,
    left_rows: int,
    unchecked_rows: int,
    rate: float | None,
    rates: Sequence[float] = (),
    seen_seconds: float | None,
    changed_seconds_ago: float | None = None,
    checked_per_second: float = CHECK_ROWS_PER_SECOND,
    further_share: float = 0.0,
) -> Eta | None:
    """When so much will be done; None when that cannot be known.

    Args:
        left_rows: ≥ 0, keys that are not settled.
        unchecked_rows: ≥ 0, keys that the completion check has not seen.
        rate: keys per second; None: not known.
        rates: those of the last minute.
        seen_seconds: for so long it has worked; None: it has not begun.
        changed_seconds_ago: since its pace was changed; None: it was not of late.
        checked_per_second: rows, by the completion check.
        further_share: the interval is wider by this, for what else is not sure.
    """
    if rate is None or rate < LEAST_RATE or seen_seconds is None or seen_seconds < LEAST_SECONDS:
        return None
    known = [rate, *(one for one in rates if one >= LEAST_RATE)]
    of_before = (
        0.0 if changed_seconds_ago is None else math.exp(-changed_seconds_ago / RATE_SECONDS)
    )
    share = min(MOST_SHARE, LEAST_SHARE + BEGIN_SECONDS / seen_seconds + of_before + further_share)
    end_seconds = END_SECONDS + unchecked_rows / checked_per_second
    at = hours.finish(now, left_rows / rate + end_seconds)
    # the end is a guess of another table's cost: a third of it, or twice as much
    low_at = hours.finish(now, left_rows / max(known) * (1 - share) + end_seconds / 3)
    high_at = hours.finish(now, left_rows / min(known) * (1 + share) + end_seconds * 2)
    if at is None or low_at is None:
        return None
    return Eta(now=now, at=at, low_at=low_at, high_at=high_at, end_seconds=end_seconds)
