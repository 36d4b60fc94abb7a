"""The application: pgbench reads and updates people by key, and says how long each one took.

What its numbers are:

- With a rate, transactions arrive as a Poisson process, and a latency counts from the moment at
  which the transaction was due: what waits in pgbench's queue because all clients are blocked is
  in it (pgbench's "schedule lag"; without it, one blocked second would look like four slow
  transactions). At full tilt each client begins the next transaction after the last: a latency is
  that transaction's own.
- Lock waits are what the server's log says of pgbench's sessions alone: they have `log_lock_waits`
  on, and their own `deadlock_timeout` says from which length a wait is logged. Nothing samples, and
  nothing in the runs' sessions is changed. A wait counts as caused by the work beside it unless
  another session of pgbench held the lock; behind one that waits for the work it counts, too.
"""

from __future__ import annotations

import math
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.bed import Bed, wait_for

CLIENTS = 4
#: Shorter waits are not seen. Each longer one costs two lines of log and a search for deadlocks.
LOGGED_MS = 5
#: Nothing is measured before the application has run for so long.
WARM_UP_SECONDS = 1.0

#: A name's read and a counter's update by the primary key, in a transaction, as most programs do.
SCRIPT = """\\set id random(1, :rows)
BEGIN;
SELECT name, n FROM people WHERE id = :id;
UPDATE people SET n = n + 1 WHERE id = :id;
COMMIT;
"""

_STILL = re.compile(r"process (\d+) still waiting for ")
_HOLDERS = re.compile(r"Process(?:es)? holding the lock: ([\d, ]*)\.")
_ACQUIRED = re.compile(r"process (\d+) acquired .* after ([\d.]+) ms$")


@dataclass(frozen=True, slots=True)
class Transaction:
    """One of pgbench's.

    Attributes:
        ended: seconds since 1970.
        seconds: from when it was due (with a rate), or else from its beginning, to its end.
        lag_seconds: the part of it before its beginning; 0 without a rate.
    """

    ended: float
    seconds: float
    lag_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Latencies:
    """What the application got in a span of time; all but `tps` in milliseconds.

    Attributes:
        tps: transactions per second that ended in it.
        begun_p99: the 99th percentile of the transactions' own times, without their lag.
    """

    tps: float
    p50: float
    p95: float
    p99: float
    longest: float
    begun_p99: float


def parse_log(lines: Iterable[str]) -> list[Transaction]:
    """Transactions of a log that pgbench wrote with `--log`.

    Its fields: client, number, microseconds, script, end (seconds, microseconds), and with a rate
    the schedule lag, which is a part of the first microseconds.
    """
    found = []
    for line in lines:
        _, _, micros, _, second, fraction, *lag = line.split()
        if not micros.isdigit():  # "failed" stands there
            raise SystemExit(f"a transaction of the application failed: {line}")
        lag_seconds = int(lag[0]) / 1e6 if lag else 0.0
        ended = int(second) + int(fraction) / 1e6
        found.append(Transaction(ended, int(micros) / 1e6, lag_seconds))
    return found


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` of all (nearest rank); 0 of nothing."""
    if not ordered:
        return 0.0
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def latencies(transactions: Iterable[Transaction], since: float, until: float) -> Latencies:
    """Of the transactions that were under way, or due, between two instants."""
    met = [t for t in transactions if t.ended >= since and t.ended - t.seconds <= until]
    millis = sorted(t.seconds * 1000 for t in met)
    return Latencies(
        tps=sum(t.ended <= until for t in met) / (until - since),
        p50=percentile(millis, 0.5),
        p95=percentile(millis, 0.95),
        p99=percentile(millis, 0.99),
        longest=millis[-1] if millis else 0.0,
        begun_p99=percentile(sorted((t.seconds - t.lag_seconds) * 1000 for t in met), 0.99),
    )


def parse_waits(lines: Iterable[str], application: Set[int]) -> list[float]:
    """Milliseconds of each lock wait in the server's log that the application did not cause itself.

    Args:
        application: process ids of pgbench's sessions, the only ones that log their waits.
    """
    waits: list[float] = []
    waiting: dict[int, set[int]] = {}  # for whom, at the last word
    blocked: set[int] = set()  # those who wait for the work, or behind one who does
    asking = 0
    for line in lines:
        if still := _STILL.search(line):
            asking = int(still[1])
        elif asking and (holders := _HOLDERS.search(line)):
            waiting[asking] = {int(pid) for pid in re.findall(r"\d+", holders[1])}
            asking = 0
            # the last in the queue may have been the first to say so
            while newly := {
                pid
                for pid, held_by in waiting.items()
                if pid not in blocked
                and (not held_by or held_by - application or held_by & blocked)
            }:
                blocked |= newly
        elif acquired := _ACQUIRED.search(line):
            pid = int(acquired[1])
            if pid in blocked or pid not in waiting:
                waits.append(float(acquired[2]))
            waiting.pop(pid, None)
            blocked.discard(pid)
    return waits


class Application:
    """pgbench at work, for a fixed time.

    Attributes:
        ends_at: when it begins its last transactions (seconds since 1970).
    """

    def __init__(self, bed: Bed, folder: Path, *, rows: int, rate: int | None, seconds: float):
        self._bed = bed
        self._folder = folder
        self._log_began_at = self._log_size()
        script = folder / "script.sql"
        script.write_text(SCRIPT)
        lasting = math.ceil(WARM_UP_SECONDS + seconds)
        self.ends_at = time.time() + lasting
        self._process = subprocess.Popen(
            [
                *(str(bed.postgres.bin("pgbench")), "--no-vacuum", "--protocol", "prepared"),
                *("--client", str(CLIENTS), "--jobs", "2", "--time", str(lasting)),
                *("--file", str(script), "--define", f"rows={rows}"),
                *("--log", "--log-prefix", str(folder / "transactions")),
                *(() if rate is None else ("--rate", str(rate))),
                bed.url,
            ],
            env={
                **os.environ,
                "PGAPPNAME": "pgbench",
                "PGOPTIONS": f"-c log_lock_waits=on -c deadlock_timeout={LOGGED_MS}ms",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        wait_for(lambda: self._process.poll() is not None or len(self._sessions()) == CLIENTS, 10)
        self._pids = self._sessions()
        time.sleep(WARM_UP_SECONDS)

    def finish(self) -> tuple[list[Transaction], list[float]]:
        """Wait for its end: every transaction since its start, and the lock waits (ms)."""
        said = self._process.communicate()[0].decode(errors="replace")
        if self._process.returncode != 0:
            raise SystemExit(f"pgbench failed:\n{said}")
        logs = [path.read_text().splitlines() for path in self._folder.glob("transactions.*")]
        transactions = [t for lines in logs for t in parse_log(lines)]
        return transactions, parse_waits(self._server_log(), self._pids)

    def end(self) -> None:
        """End it, if it still runs."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def _sessions(self) -> set[int]:
        found = self._bed.conn.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'pgbench'"
        )
        return {row[0] for row in found}

    def _log_size(self) -> int:
        return (self._bed.postgres.data_directory / "server.log").stat().st_size

    def _server_log(self) -> list[str]:
        with (self._bed.postgres.data_directory / "server.log").open("rb") as file:
            file.seek(self._log_began_at)
            return file.read().decode(errors="replace").splitlines()


@contextmanager
def application(bed: Bed, *, rows: int, rate: int | None, seconds: float) -> Iterator[Application]:
    """The application at work on the table's keys from 1 to `rows`, warmed up.

    Args:
        rate: transactions that arrive each second; None: as many as four clients can do.
        seconds: it begins transactions for so long after it is warm.
    """
    with TemporaryDirectory(prefix="backfill-pgbench-") as name:
        made = Application(bed, Path(name), rows=rows, rate=rate, seconds=seconds)
        try:
            yield made
        finally:
            made.end()
