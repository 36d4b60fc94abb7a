"""Reads the signals of a database for its live runs, once for all workers.

Invariants:
1. Whatever is wrong with one signal is that signal's reading (`problem`); only a dead connection to
   the ledger's database is raised. So one dead replica or query never hides the other signals.
2. Nothing is read that this role sees only a part of: what pg_stat_activity hides is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from backfill.clock import Clock
from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, Run
from backfill.settings import DatabaseSettings
from backfill.signals import Reading

__all__ = ["Reading", "SignalReader"]


class SignalReader:
    """Reads every signal of one database; used by one thread.

    It keeps the replicas' connections and the last round's positions, so that rates and lags can
    be told: one reader for as long as a process samples.

    Args:
        database: whose signals, and with which replicas and Prometheus.
        clock: its `monotonic` is what lags and rates are measured by.
    """

    def __init__(self, database: DatabaseSettings, *, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    def read(
        self, conn: Connection, ledger: Ledger, runs: Sequence[Run]
    ) -> Mapping[str, list[Reading]]:
        """One reading of each signal of the settings, for each of these runs, by the run's id.

        Opens short read-only transactions of its own; none may be open.

        Raises:
            psycopg.OperationalError: `conn` is dead; nothing else is ever raised.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Close the connections to replicas."""
