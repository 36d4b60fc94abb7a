"""The application that goes on while the demo's backfills work.

Two threads of the demo, each with a connection of its own:

- the *application* changes and adds single flights in short transactions. It is the new version of
  the program: whatever it writes, it writes to the new columns and the new table as well (the
  dual-write), so that a backfill need not look at its rows again;
- the *clerk* keeps a few hundred random flights locked for a while, as a form left open on a screen
  does. A backfill that meets such rows defers them, and takes them again later.

The two never want the same rows, so that what the application waits for is the backfills alone.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass

import psycopg

from backfill.pg.connect import NO_LIMITS, Connection, connect

#: Between two short transactions.
PAUSE_SECONDS = 0.02
#: How many rows the clerk holds, and for how long; and how long it then holds none.
CLERK_ROWS = 300
CLERK_SECONDS = 1.5
CLERK_PAUSE_SECONDS = 0.5
#: The clerk's are the flights whose id this divides.
_CLERK_EVERY = 10
#: A statement in hand ends within this time, or its server is gone.
JOIN_SECONDS = 5.0

# One row of each table by its primary key: the ordinary ROW EXCLUSIVE and row locks.
_DELAY = "UPDATE flights SET dep_delay = coalesce(dep_delay, 0) + 1 WHERE id = %(id)s"
_DELAY_NEW = (
    "UPDATE flight_times SET dep_delay = (SELECT dep_delay FROM flights WHERE id = %(id)s)"
    " WHERE flight_id = %(id)s"
)
_MOVE = (
    "UPDATE flights SET sched_dep_time = 1230, departs_at ="
    " (make_date(year, month, day) + time '12:30')"
    " AT TIME ZONE (SELECT tzone FROM airports WHERE faa = flights.origin) WHERE id = %(id)s"
)
_MOVE_NEW = "UPDATE flight_times SET sched_dep_time = 1230 WHERE flight_id = %(id)s"
_TIMES = "dep_time, sched_dep_time, dep_delay, arr_time, sched_arr_time, arr_delay"
_ADD = f"""
WITH added AS (
    INSERT INTO flights (year, month, day, sched_dep_time, sched_arr_time, carrier, flight, origin,
                         dest, departs_at, carrier_id)
    SELECT 2013, 12, 31, 1830, 2130, f.carrier, f.flight, f.origin, f.dest,
           timestamp '2013-12-31 18:30' AT TIME ZONE p.tzone, a.id
      FROM flights f JOIN airports p ON p.faa = f.origin JOIN airlines a USING (carrier)
     WHERE f.id = %(id)s
    RETURNING id, {_TIMES})
INSERT INTO flight_times (flight_id, {_TIMES}) SELECT id, {_TIMES} FROM added
"""
# Takes row locks until the transaction ends, in key order, so that nobody gets into a deadlock.
_HOLD = "SELECT id FROM flights WHERE id = ANY(%(ids)s) ORDER BY id FOR UPDATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What the application has done so far.

    Attributes:
        transactions: short ones that have committed.
        filled: those among them that filled a flight themselves or added one.
        longest_seconds: the longest of them, from BEGIN to the answer to COMMIT.
        errors: transactions that failed; `last_error` says how.
        held: rows that the clerk holds now.
    """

    transactions: int = 0
    filled: int = 0
    longest_seconds: float = 0.0
    errors: int = 0
    last_error: str = ""
    held: int = 0


class Application:
    """See the module. `stop` ends both threads; they do not keep the process alive.

    Args:
        url: of the database with the expanded tables.
        rows: ids of flights go from 1 to this.
    """

    def __init__(self, url: str, *, rows: int) -> None:
        self._url = url
        self._rows = rows
        self._lock = threading.Lock()
        self._transactions = self._filled = self._errors = self._held = 0
        self._longest_seconds = 0.0
        self._last_error = ""
        self._stop = threading.Event()
        self._clerk_stop = threading.Event()
        self._threads: dict[str, threading.Thread] = {}

    def start(self) -> None:
        """Start both threads.

        Raises:
            UnreachableError: the database does not answer.
        """
        for name, work in (("application", self._write), ("clerk", self._hold_rows)):
            conn = connect(self._url, application_name=name, limits=NO_LIMITS)
            self._threads[name] = threading.Thread(
                target=work, args=(conn,), name=name, daemon=True
            )
            self._threads[name].start()

    def dismiss_clerk(self) -> None:
        """Let the clerk release its rows and go."""
        self._clerk_stop.set()
        if "clerk" in self._threads:
            self._threads["clerk"].join(JOIN_SECONDS)

    def stop(self) -> None:
        """End both after the transaction in hand."""
        self._stop.set()
        self._clerk_stop.set()
        for thread in self._threads.values():
            thread.join(JOIN_SECONDS)

    @property
    def traffic(self) -> Traffic:
        """What has been done so far."""
        with self._lock:
            return Traffic(
                transactions=self._transactions,
                filled=self._filled,
                longest_seconds=self._longest_seconds,
                errors=self._errors,
                last_error=self._last_error,
                held=self._held,
            )

    def _write(self, connected: Connection) -> None:
        chance = random.Random()  # noqa: S311 - which flights is no secret
        with connected as conn:
            while not self._stop.wait(PAUSE_SECONDS):
                number = chance.randint(1, self._rows)
                if number % _CLERK_EVERY == 0:
                    continue
                statements = chance.choices(
                    [(_DELAY, _DELAY_NEW), (_MOVE, _MOVE_NEW), (_ADD,)], weights=[7, 2, 1]
                )[0]
                began = time.monotonic()
                try:
                    with conn.transaction():
                        for statement in statements:
                            conn.execute(statement.encode(), {"id": number})
                except psycopg.Error as error:
                    if self._failed(conn, error):
                        return
                    continue
                seconds = time.monotonic() - began
                with self._lock:
                    self._transactions += 1
                    self._filled += _DELAY not in statements
                    self._longest_seconds = max(self._longest_seconds, seconds)

    def _hold_rows(self, connected: Connection) -> None:
        chance = random.Random()  # noqa: S311 - which flights is no secret
        theirs = range(_CLERK_EVERY, self._rows + 1, _CLERK_EVERY)
        with connected as conn:
            while not self._clerk_stop.wait(CLERK_PAUSE_SECONDS):
                ids = chance.sample(theirs, min(CLERK_ROWS, len(theirs)))
                try:
                    with conn.transaction():
                        self._hold(conn.execute(_HOLD, {"ids": ids}).rowcount)
                        self._clerk_stop.wait(CLERK_SECONDS)
                except psycopg.Error as error:
                    if self._failed(conn, error):
                        return
                finally:
                    self._hold(0)

    def _hold(self, rows: int) -> None:
        with self._lock:
            self._held = rows

    def _failed(self, conn: Connection, error: psycopg.Error) -> bool:
        """Count an error; True when it is no use to go on."""
        if self._stop.is_set() and conn.closed:
            return True
        with self._lock:
            self._errors += 1
            self._last_error = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        return conn.closed
