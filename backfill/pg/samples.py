"""The samples of signals in the ledger, the sampler's lease, and what follows from a sample.

Functions are handed a connection and never commit. Whoever writes a run's samples has locked the
run's row first, in the same transaction (`get_run(…, lock=True)`): so two samplers write one after
the other, and each sees what the other wrote. Nobody else writes these rows or `run.speed`; a
run's end deletes its samples under the same lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import kwargs_row

from backfill.model import PauseCause, SignalState
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger
from backfill.pg.storable import storable
from backfill.signals import Worse


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What one signal was for one run, and what that means.

    Attributes:
        value: in `unit`; None: it could not be read, and `message` says why.
        stop, resume, worse: what it was judged by, see `SignalSpec`.
        message: what the value is of, such as a replica's name; or why there is none.
        held: it has stopped the run, and has not been beyond `resume` since.
        at, since: when it was sampled, and since when it is in this state, by the ledger's clock;
            None before it is written.
    """

    name: str
    value: float | None
    unit: str
    stop: float
    resume: float
    worse: Worse
    state: SignalState
    message: str = ""
    held: bool = False
    at: datetime | None = None
    since: datetime | None = None


def take_lease(conn: Connection, ledger: Ledger, *, by: str, seconds: float) -> datetime | None:
    """Take or renew the sampler's lease; the ledger's time then, or None: it is another's."""
    row = conn.execute(
        ledger.q(
            "UPDATE {s}.ledger SET sampler = %(by)s,"
            " sampler_until = clock_timestamp() + make_interval(secs => %(seconds)s)"
            " WHERE sampler = %(by)s OR sampler_until < clock_timestamp()"
            " RETURNING clock_timestamp()"
        ),
        {"by": by, "seconds": seconds},
    ).fetchone()
    return None if row is None else row[0]


def holds_lease(conn: Connection, ledger: Ledger, *, by: str) -> bool:
    """Whether the sampler's lease is this process's."""
    return (
        conn.execute(
            ledger.q(
                "SELECT FROM {s}.ledger WHERE sampler = %s AND sampler_until > clock_timestamp()"
            ),
            [by],
        ).rowcount
        == 1
    )


def drop_lease(conn: Connection, ledger: Ledger, *, by: str) -> None:
    """Give the lease back, so that another need not wait for its end; no harm if it is lost."""
    conn.execute(
        ledger.q("UPDATE {s}.ledger SET sampler_until = '-infinity' WHERE sampler = %s"), [by]
    )


def read_samples(conn: Connection, ledger: Ledger, run: str) -> list[Sample]:
    """A run's last samples, by name."""
    with conn.cursor(row_factory=kwargs_row(_sample)) as cursor:
        return cursor.execute(
            ledger.q(
                "SELECT name, value, unit, stop, resume, worse, state, message, held, at, since"
                " FROM {s}.signal WHERE run = %s ORDER BY name"
            ),
            [run],
        ).fetchall()


def _sample(*, state: str, **columns: object) -> Sample:
    return Sample(state=SignalState(state), **columns)  # type: ignore[arg-type]


def write_samples(conn: Connection, ledger: Ledger, run: str, samples: Sequence[Sample]) -> None:
    """Put a run's samples in place of its last ones; `since` stays where the state does."""
    conn.execute(
        ledger.q("DELETE FROM {s}.signal WHERE run = %s AND name <> ALL(%s)"),
        [run, [sample.name for sample in samples]],
    )
    conn.execute(
        ledger.q(
            "INSERT INTO {s}.signal AS old"
            " (run, name, value, unit, stop, resume, worse, state, message, held)"
            " SELECT %(run)s, * FROM unnest(%(names)s::text[], %(values)s::float8[],"
            " %(units)s::text[], %(stops)s::float8[], %(resumes)s::float8[], %(worse)s::text[],"
            " %(states)s::text[], %(messages)s::text[], %(held)s::boolean[])"
            " ON CONFLICT (run, name) DO UPDATE SET value = excluded.value, unit = excluded.unit,"
            " stop = excluded.stop, resume = excluded.resume, worse = excluded.worse,"
            " state = excluded.state, message = excluded.message, held = excluded.held,"
            " at = excluded.at, since ="
            " CASE WHEN old.state = excluded.state THEN old.since ELSE excluded.since END"
        ),
        {
            "run": run,
            "names": [sample.name for sample in samples],
            "values": [sample.value for sample in samples],
            "units": [sample.unit for sample in samples],
            "stops": [sample.stop for sample in samples],
            "resumes": [sample.resume for sample in samples],
            "worse": [sample.worse for sample in samples],
            "states": [str(sample.state) for sample in samples],
            "messages": [sample.message for sample in samples],
            "held": [sample.held for sample in samples],
        },
    )


def delete_samples(conn: Connection, ledger: Ledger, run: str) -> None:
    """A run that has ended is not measured any more."""
    conn.execute(ledger.q("DELETE FROM {s}.signal WHERE run = %s"), [run])


def set_speed(conn: Connection, ledger: Ledger, run: str, speed: float) -> None:
    """The share of its full speed at which a run may work: 0 < speed ≤ 1."""
    conn.execute(ledger.q("UPDATE {s}.run SET speed = %s WHERE id = %s"), [speed, run])


def signal_pause_ends(conn: Connection, ledger: Ledger, run: str) -> str | None:
    """What ends the run's pause for signals, in words; None: signals do not pause it."""
    row = conn.execute(
        ledger.q("SELECT ends FROM {s}.pause WHERE run = %s AND cause = %s"),
        [run, str(PauseCause.SIGNAL)],
    ).fetchone()
    return None if row is None else row[0]


def tell_signal_pause(
    conn: Connection, ledger: Ledger, run: str, *, reason: str, ends: str, by: str
) -> None:
    """Another reason for a pause that stays: other signals stop the run now."""
    conn.execute(
        ledger.q(
            "UPDATE {s}.pause SET reason = %s, ends = %s, caused_by = %s"
            " WHERE run = %s AND cause = %s"
        ),
        [*map(storable, (reason, ends, by)), run, str(PauseCause.SIGNAL)],
    )
