"""Pictures: all that is shown of a run, and of what its database's runs share.

One process takes them from the ledger once a second (publisher.py) and puts them into Redis, packed
as JSON; whoever watches reads them there (gallery.py), so that a hundred who watch cost the
database no more than one. No row's value is in them, so what names keys stays out: the horizon, the
frontier, and why a run failed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar, cast

from backfill.checkpoint import Snapshot
from backfill.events import reason_without_keys, without_keys
from backfill.model import Counts, SignalState
from backfill.pg import ledger as pg
from backfill.pg.connect import Connection, server_time
from backfill.pg.control import Stopped, stopped
from backfill.pg.ledger import EventRecord, Ledger, Pause, Run, WorkerRecord
from backfill.pg.pictures import (
    Cell,
    SetAside,
    Working,
    read_map,
    read_set_aside,
    read_working,
)
from backfill.pg.pulses import Pulse
from backfill.pg.samples import Sample
from backfill.pg.schedules import Schedule, list_schedules
from backfill.watch.eta import Turns
from backfill.watch.limits import Slots
from backfill.watch.progress import EVENTS, WORKER_SECONDS, Progress, read_within
from backfill.watch.words import untold, utc

#: Raised when what is packed changes its meaning: another version's pictures are not read.
_VERSION = 1
#: What names keys, and is not known where a picture comes from Redis.
_KEYS_OF_RUN = ("horizon", "frontier", "failure")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A run at an instant.

    Attributes:
        cells: its slices as a map, in the order of their keys.
        working: the slices that somebody holds.
        set_aside: its quarantine by reason.
        events: the newest, oldest first.
    """

    database: str
    progress: Progress
    cells: Sequence[Cell] = ()
    working: Sequence[Working] = ()
    set_aside: Sequence[SetAside] = ()
    events: Sequence[EventRecord] = ()

    @property
    def open_quarantine(self) -> int:
        """Rows that wait for somebody."""
        return sum(one.open for one in self.set_aside)

    def to_json(self) -> dict[str, Any]:
        """`Progress.to_json` and more; names are added, never changed."""
        return {
            **self.progress.to_json(),
            "at": utc(self.progress.at),
            "database": self.database,
            "quarantine": {
                "open": self.open_quarantine,
                "all": sum(one.open + one.accepted for one in self.set_aside),
                "by_sqlstate": [_plain(one) for one in self.set_aside],
            },
            "map": [_plain(one) for one in self.cells],
            "working": [_plain(one) for one in self.working],
            "events": [{**_plain(one), "at": utc(one.at)} for one in self.events],
        }

    def pack(self) -> str:
        """As text, for Redis."""
        progress = self.progress
        return _dumps(
            {
                "version": _VERSION,
                "database": self.database,
                "at": progress.at,
                "run": {
                    **_plain(progress.run),
                    **dict.fromkeys(_KEYS_OF_RUN),
                    **untold(progress.run),
                },
                "counts": progress.counts.as_dict(),
                "committed": (progress.committed or progress.counts).as_dict(),
                "progress_at": progress.progress_at,
                "by_phase": dict(progress.by_phase),
                "held": progress.held,
                "rows_per_second": progress.rows_per_second,
                "usual_rate": progress.usual_rate,
                "rates": progress.rates,
                "turns": _plain(progress.turns),
                "workers": progress.workers,
                "unconfirmed_seconds": progress.unconfirmed_seconds,
                "is_abandoned": progress.is_abandoned,
                "pauses": [
                    _plain(replace(one, reason=reason_without_keys(one.reason)))
                    for one in progress.pauses
                ],
                "signals": [_plain(one) for one in progress.signals],
                "slots": None if progress.slots is None else _plain(progress.slots),
                "cells": [_plain(one) for one in self.cells],
                "working": [_plain(one) for one in self.working],
                "set_aside": [_plain(one) for one in self.set_aside],
                "events": [
                    _plain(replace(one, detail=without_keys(one.name, one.detail)))
                    for one in self.events
                ],
            }
        )

    @classmethod
    def unpack(cls, text: str) -> Picture | None:
        """What `pack` made; None for another version's."""
        found = json.loads(text)
        if found.get("version") != _VERSION:
            return None
        return cls(
            database=found["database"],
            progress=Progress(
                run=_made(Run, found["run"]),
                counts=Counts(**found["counts"]),
                # these are younger than the version: a picture may lack them
                committed=None if not found.get("committed") else Counts(**found["committed"]),
                progress_at=_instant(found.get("progress_at")),
                by_phase=found["by_phase"],
                held=found["held"],
                rows_per_second=found["rows_per_second"],
                usual_rate=found["usual_rate"],
                rates=found.get("rates", ()),
                turns=_made(Turns, found.get("turns", {})),
                pauses=_all(Pause, found["pauses"]),
                workers=found["workers"],
                unconfirmed_seconds=found.get("unconfirmed_seconds", 0.0),
                is_abandoned=found.get("is_abandoned", False),
                source="checkpoint",
                at=datetime.fromisoformat(found["at"]),
                signals=[
                    _made(Sample, {**one, "state": SignalState(one["state"])})
                    for one in found["signals"]
                ],
                slots=None if found.get("slots") is None else _made(Slots, found["slots"]),
            ),
            cells=_all(Cell, found["cells"]),
            working=_all(Working, found["working"]),
            set_aside=_all(SetAside, found["set_aside"]),
            events=_all(EventRecord, found["events"]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Overview:
    """What the runs of a database share, at an instant.

    Attributes:
        live: ids of the live runs, oldest first.
        stopped: the red button; None: it is not pressed.
        workers: those that were seen lately.
    """

    database: str
    at: datetime
    live: Sequence[str] = ()
    stopped: Stopped | None = None
    workers: Sequence[WorkerRecord] = ()
    schedules: Sequence[Schedule] = ()

    def pack(self) -> str:
        """As text, for Redis."""
        return _dumps(
            {
                "version": _VERSION,
                **_plain(self),
                "stopped": None if self.stopped is None else _plain(self.stopped),
                "workers": [_plain(one) for one in self.workers],
                "schedules": [_plain(one) for one in self.schedules],
            }
        )

    @classmethod
    def unpack(cls, text: str) -> Overview | None:
        """What `pack` made; None for another version's."""
        found = json.loads(text)
        if found.get("version") != _VERSION:
            return None
        return cls(
            database=found["database"],
            at=datetime.fromisoformat(found["at"]),
            live=found["live"],
            stopped=None if found["stopped"] is None else _made(Stopped, found["stopped"]),
            workers=_all(WorkerRecord, found["workers"]),
            schedules=_all(Schedule, found["schedules"]),
        )


def read_picture(
    conn: Connection,
    ledger: Ledger,
    run: Run,
    *,
    database: str,
    snapshot: Snapshot | None,
    max_slots: int | None = None,
    alive: int | None = None,
) -> Picture:
    """A run's picture from the ledger. A transaction must be open, of one snapshot.

    Args:
        run: as it is in this transaction.
        snapshot: what the checkpoint said just before; None: it says nothing.
        max_slots: the database's limit on slices held at once; None: it has none.
        alive: workers that were seen lately; None: not asked for yet.
    """
    events = pg.events(conn, ledger, run.id, limit=EVENTS)
    progress = read_within(
        conn, ledger, run, newest=events, snapshot=snapshot, max_slots=max_slots, alive=alive
    )
    cells = read_map(conn, ledger, run.id)
    is_any_set_aside = any(one.quarantined for one in cells)
    return Picture(
        database=database,
        progress=progress,
        cells=cells,
        working=read_working(conn, ledger, run.id) if progress.held else (),
        set_aside=read_set_aside(conn, ledger, run.id) if is_any_set_aside else (),
        events=events,
    )


def read_overview(
    conn: Connection, ledger: Ledger, *, database: str, live: Sequence[Run]
) -> Overview:
    """What the runs of a database share, from the ledger. A transaction must be open.

    Args:
        live: the live runs, as they are in this transaction.
    """
    return Overview(
        database=database,
        at=server_time(conn),
        live=[run.id for run in live],
        stopped=stopped(conn, ledger),
        workers=pg.workers(conn, ledger, within_seconds=WORKER_SECONDS),
        schedules=list_schedules(conn, ledger),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """How far a run was at an instant: a pulse, with the rate of late where it is known."""

    at: datetime
    state: str
    settled: int
    speed: float
    batch_rows: int | None
    batch_seconds: float | None
    signals: Mapping[str, float]
    rows_per_second: float | None = None

    @classmethod
    def of(cls, picture: Picture) -> Point:
        """What a picture says of this instant."""
        progress = picture.progress
        rows = [one.batch_rows for one in picture.working if one.batch_rows is not None]
        seconds = [one.batch_seconds for one in picture.working if one.batch_seconds is not None]
        return cls(
            at=progress.at,
            state=progress.run.state,
            settled=progress.counts.settled,
            speed=progress.run.speed,
            batch_rows=round(sum(rows) / len(rows)) if rows else None,
            batch_seconds=sum(seconds) / len(seconds) if seconds else None,
            signals={one.name: one.value for one in progress.signals if one.value is not None},
            rows_per_second=progress.rows_per_second if progress.run.run_state.is_working else 0.0,
        )

    @classmethod
    def of_pulse(cls, pulse: Pulse) -> Point:
        """A pulse of the ledger."""
        return cls(**_plain(pulse))

    @property
    def pulse(self) -> Pulse:
        """What the ledger keeps of it."""
        return Pulse(**{name: getattr(self, name) for name in _names(Pulse)})

    def pack(self) -> str:
        """As text, for Redis."""
        return _dumps(_plain(self))

    @classmethod
    def unpack(cls, text: str) -> Point:
        """What `pack` made."""
        return _made(cls, json.loads(text))

    def to_json(self) -> dict[str, Any]:
        """Names are added, never changed."""
        return {**_plain(self), "at": utc(self.at)}


class _Value(Protocol):
    """A dataclass of this module's or of the ledger's."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


#: Fields that hold instants, in all classes that are packed here.
_INSTANTS = frozenset(
    {
        *("at", "since", "created_at", "started_at", "finished_at", "barrier_until"),
        *("changed_at", "checking_since"),
        *("next_at", "waiting_tick", "last_tick"),
    }
)


def _names(kind: type[_Value]) -> list[str]:
    return [field.name for field in fields(kind)]


def _plain(value: _Value) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _made(kind: type[T], found: Mapping[str, Any]) -> T:
    """Fields that this version does not know are left out: another may have added some."""
    known = set(_names(cast("type[_Value]", kind)))
    return kind(
        **{
            name: datetime.fromisoformat(value)
            if name in _INSTANTS and value is not None
            else value
            for name, value in found.items()
            if name in known
        }
    )


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _all(kind: type[T], found: Iterable[Mapping[str, Any]]) -> list[T]:
    return [_made(kind, one) for one in found]


def _dumps(value: Mapping[str, Any]) -> str:
    return json.dumps(value, default=_text, separators=(",", ":"))


def _text(value: object) -> str:
    """Of what JSON has no word for: instants."""
    return value.isoformat() if isinstance(value, datetime) else str(value)
