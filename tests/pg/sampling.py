"""What the tests of the signal reader have in common: a clock to turn, settings, one round."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger, get_run
from backfill.pg.signals import SignalReader
from backfill.settings import DatabaseSettings
from backfill.signals import BUILTIN, Reading, SignalSpec
from backfill.url import UrlVariable
from tests.pg.holding import RUN


class HandClock:
    """A clock that the test turns; sleeping turns it, too."""

    def __init__(self) -> None:
        self.seconds = 1_000.0

    def now(self) -> datetime:
        return datetime(2026, 5, 27, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def hear(self, now: datetime) -> None:
        """It is the test's time that counts."""

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def asked_for(*names: str) -> dict[str, SignalSpec]:
    """These signals of ours, as if somebody had asked for them."""
    return {name: replace(BUILTIN[name], required=True) for name in names}


def own_query(name: str, sql: str) -> dict[str, SignalSpec]:
    """A signal with a query of its own."""
    spec = SignalSpec(name=name, unit="", stop=10, resume=5, kind="sql", query=sql, required=True)
    return {name: spec}


def variable(name: str, url: str | None) -> UrlVariable:
    """An environment variable with this URL, as a settings file would name it."""
    return UrlVariable(
        name=name, named_in=f"backfill.toml: [databases.main] {name.lower()}", raw=url
    )


@contextmanager
def reader_of(
    signals: Mapping[str, SignalSpec],
    *,
    clock: HandClock | None = None,
    replicas: tuple[UrlVariable, ...] = (),
    prometheus: UrlVariable | None = None,
    ignored_standbys: tuple[str, ...] = (),
) -> Iterator[SignalReader]:
    """A reader of these signals, closed afterwards."""
    database = DatabaseSettings(
        name="main",
        signals=signals,
        replicas=replicas,
        prometheus=prometheus,
        ignored_standbys=ignored_standbys,
    )
    reader = SignalReader(database, clock=clock or HandClock())
    try:
        yield reader
    finally:
        reader.close()


def sample(
    reader: SignalReader, conn: Connection, ledger: Ledger, run: str = RUN
) -> dict[str, Reading]:
    """One round for one run, by the signal's name."""
    readings = reader.read(conn, ledger, [get_run(conn, ledger, run)])
    return {reading.name: reading for reading in readings[run]}


def value(reading: Reading) -> float:
    """Its value, which it must have."""
    assert reading.value is not None, reading.problem
    assert not reading.problem
    return reading.value
