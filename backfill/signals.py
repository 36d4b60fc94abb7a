"""Signals: what is measured of a database's health, and from which value on a run must stop.

A signal has two thresholds. From `stop` on the run stops; it goes on when the value is back beyond
`resume`; between the two it slows down. `worse` says in which direction it gets worse.

| signal | what it measures | on |
|---|---|---|
| replication_lag_seconds | the worst standby's replay, seen from the primary | yes |
| replication_lag_bytes | the same, as WAL that it has still to replay | yes |
| replica_lag_seconds | the worst of the replicas whose URLs are given | with them |
| blocked_seconds | another session's longest wait for a lock of the run's batches | yes |
| active_sessions_percent | other sessions at work, of the connections that there may be | yes |
| wal_bytes_per_second | WAL that the whole server writes | no |
| oldest_transaction_seconds | the oldest open transaction of another session | no |
| vacuums_on_target | VACUUM and autovacuum at work on the tables that the run writes | no |
| dead_rows_percent | dead rows, of all rows of these tables | no |
| batch_slowdown | a row's time in the run's last batches, against its own baseline | no |

1. A signal that is on without having been asked for never stops a healthy run: what the run itself
   makes worse by its work, or what other people's habits decide, is off until somebody asks.
2. A reading without a value says why (`problem`). It is never a zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Worse = Literal["above", "below"]
Kind = Literal["builtin", "sql", "prometheus"]

_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalSpec:
    """One signal as the settings have it.

    Attributes:
        name: as it is shown, and as the settings name it.
        unit: of its values and thresholds, such as `s`; empty for plain numbers.
        stop: from this value on the run stops.
        resume: beyond this value it goes on. `above`: at most `stop`; `below`: at least `stop`.
        worse: in which direction the value gets worse.
        required: somebody asked for it, so that it stops the run when it cannot be read, from the
            first sample on.
        kind: where it is read.
        query: the SQL or the PromQL; empty for `builtin`.

    Raises:
        ValueError: a threshold is not finite, or they are the wrong way round.
    """

    name: str
    unit: str
    stop: float
    resume: float
    worse: Worse = "above"
    required: bool = False
    kind: Kind = "builtin"
    query: str = ""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.stop) and math.isfinite(self.resume)):
            raise ValueError(f"{self.name}: a threshold is not finite")
        if self.stop != self.resume and (self.stop > self.resume) != (self.worse == "above"):
            raise ValueError(f"{self.name}: resume is on the wrong side of stop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one signal was for one run at one moment.

    Attributes:
        value: finite, in the unit of its spec; None: it could not be read, and `problem` says why.
        problem: in words, for whoever has to repair it; empty where there is a value.
        detail: what the value is of, such as the name of the worst standby; may be empty.
    """

    name: str
    value: float | None
    problem: str = ""
    detail: str = ""


#: Every signal that the engine knows how to read by itself. docs/reference/signals.md gives the
#: source of each threshold.
BUILTIN: Final[Mapping[str, SignalSpec]] = {
    spec.name: spec
    for spec in (
        SignalSpec(name="replication_lag_seconds", unit="s", stop=30, resume=10),
        SignalSpec(name="replication_lag_bytes", unit="B", stop=512 * _MIB, resume=128 * _MIB),
        SignalSpec(name="replica_lag_seconds", unit="s", stop=30, resume=10),
        SignalSpec(name="blocked_seconds", unit="s", stop=1, resume=0.5),
        SignalSpec(name="active_sessions_percent", unit="%", stop=80, resume=60),
        SignalSpec(name="wal_bytes_per_second", unit="B/s", stop=64 * _MIB, resume=32 * _MIB),
        SignalSpec(name="oldest_transaction_seconds", unit="s", stop=1800, resume=600),
        SignalSpec(name="vacuums_on_target", unit="", stop=1, resume=1),
        SignalSpec(name="dead_rows_percent", unit="%", stop=50, resume=30),
        SignalSpec(name="batch_slowdown", unit="times", stop=10, resume=3),
    )
}

#: The one that the settings turn on by naming replicas.
REPLICA_LAG: Final = "replica_lag_seconds"

#: Those that are on without a word in the settings.
DEFAULTS: Final[Mapping[str, SignalSpec]] = {
    name: BUILTIN[name]
    for name in (
        "replication_lag_seconds",
        "replication_lag_bytes",
        "blocked_seconds",
        "active_sessions_percent",
    )
}


class UnreadableError(Exception):
    """A signal could not be read; its text is the `problem`. It never leaves the reader."""
