"""What the pages show, as JSON: made from pictures, for one answer. All of it may wait.

These forms serve our own script and change with it: no promise is made of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from backfill.errors import BackfillError
from backfill.events import reason_without_keys, without_keys
from backfill.flower.house import House
from backfill.flower.series import series
from backfill.pg.connect import Connection
from backfill.pg.quarantine import open_quarantine, quarantined_rows
from backfill.pg.schedules import Schedule
from backfill.watch.gallery import Gallery
from backfill.watch.picture import Overview, Picture
from backfill.watch.words import bounds_to_json, untold, utc

#: Runs that an overview lists, live ones first.
MOST_RUNS = 30
#: Rows of the quarantine on one page.
PAGE_ROWS = 100
#: Points of the small chart on a card.
SPARK_POINTS = 90
#: Of a run on the overview, the newest events.
LAST_EVENTS = 3

_ON_CARDS = (
    *("run", "job", "label", "state", "total_rows", "total_is_exact", "share", "counts", "slices"),
    *("held", "rows_per_second", "eta_seconds", "eta_at", "limited_by", "speed", "pauses"),
    *("workers", "created_at", "started_at", "finished_at", "source", "quarantine", "working"),
)


def overview(house: House) -> dict[str, Any]:
    """All databases with their runs; one that does not answer says so, and the others go on."""
    return {"databases": [_database(house, name) for name in house.databases]}


def _database(house: House, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {"name": name, "where": "", "runs": [], "workers": [], "schedules": []}
    try:
        found |= of_database(house, name)
        gallery = house.gallery(name)
        shared = gallery.overview()
        found |= {
            "stopped": _stopped(shared),
            "workers": [worker.name for worker in shared.workers],
            "schedules": [_schedule(one) for one in shared.schedules],
            "runs": [_card(gallery, picture) for picture in gallery.runs(limit=MOST_RUNS)],
        }
    except BackfillError as error:
        found |= {"error": error.message, "remedy": error.remedy}
    return found


def of_database(house: House, name: str) -> dict[str, Any]:
    """What a question names it by, and whether its name has to be typed."""
    return {
        "name": name,
        "where": house.where(name),
        "confirm": house.project.settings.database(name).confirm,
    }


def _told(picture: Picture) -> dict[str, Any]:
    """A picture, wherever it comes from, without keys in the reasons of pauses."""
    told = picture.to_json()
    pauses = [pause | {"reason": reason_without_keys(pause["reason"])} for pause in told["pauses"]]
    return told | {"pauses": pauses}


def _card(gallery: Gallery, picture: Picture) -> dict[str, Any]:
    whole = _told(picture)
    card = {name: whole[name] for name in _ON_CARDS}
    if picture.progress.run.run_state.is_live:
        pulses, recent = gallery.points(picture.progress.run.id)
        card["series"] = series(pulses, recent, most=SPARK_POINTS)
        card["events"] = _events(picture)[:LAST_EVENTS]
    return card


def run(house: House, database: str, run_id: str) -> dict[str, Any]:
    """Everything of one run, but for values of its rows: those are on the quarantine's page alone.

    Raises:
        BackfillError: there is no such run, or nothing answers.
    """
    gallery = house.gallery(database)
    picture = gallery.picture(run_id)
    pulses, recent = gallery.points(run_id)
    of_run = picture.progress.run
    shared = gallery.overview()
    return {
        **_told(picture),
        "bounds": bounds_to_json(replace(of_run, **untold(of_run))),  # wherever it comes from
        "failure": None if of_run.failure is None else reason_without_keys(of_run.failure),
        "database": of_database(house, database),
        "events": _events(picture),
        "slices_ahead": slices_ahead(picture),
        "series": series(pulses, recent),
        "schedules": [_schedule(one) for one in shared.schedules if one.job == of_run.job],
        "stopped": _stopped(shared),
        "tunable": _tunable(of_run.options),
    }


def slices_ahead(picture: Picture) -> int:
    """About how many slices are still to be placed beyond the frontier; for the map alone."""
    of_run = picture.progress.run
    if of_run.frontier_done or not of_run.run_state.is_live or picture.progress.total_rows is None:
        return 0
    rows = int(of_run.options["slice_rows"])
    return max(0, math.ceil(picture.progress.total_rows / rows) - of_run.slices)


def quarantine(
    house: House, database: str, run_id: str, *, page: int, with_reasons: bool
) -> dict[str, Any]:
    """One page of a run's quarantine, read now and kept nowhere.

    Raises:
        BackfillError: the database does not answer.
    """
    gallery = house.gallery(database)

    def read(conn: Connection) -> dict[str, Any]:
        rows = quarantined_rows(
            conn, gallery.ledger, run_id, limit=PAGE_ROWS + 1, offset=page * PAGE_ROWS
        )
        return {
            "open": open_quarantine(conn, gallery.ledger, run_id),
            "page": page,
            "more": len(rows) > PAGE_ROWS,
            "rows": [
                {
                    "slice": row.slice,
                    "key": list(row.key),
                    "sqlstate": row.sqlstate,
                    "reason": row.message if with_reasons else None,
                    "accepted": row.accepted,
                    "since": utc(row.since),
                }
                for row in rows[:PAGE_ROWS]
            ],
        }

    return gallery.read_ledger(read)


def _events(picture: Picture) -> list[dict[str, Any]]:
    """Newest first; what names keys is left out, wherever the picture comes from."""
    return [
        {
            "id": one.id,
            "at": utc(one.at),
            "name": one.name,
            "caused_by": one.caused_by,
            "detail": without_keys(one.name, one.detail),
        }
        for one in reversed(picture.events)
    ]


def _stopped(shared: Overview) -> dict[str, Any] | None:
    if shared.stopped is None:
        return None
    return {
        "reason": shared.stopped.reason,
        "by": shared.stopped.by,
        "since": utc(shared.stopped.at),
    }


def _schedule(one: Schedule) -> dict[str, Any]:
    when = f"{one.cron} {one.zone}" if one.cron else "once"
    return {
        "name": one.name,
        "job": one.job,
        "when": when,
        "next_at": utc(one.next_at),
        "waiting": one.waiting_tick is not None,
        "last_outcome": one.last_outcome,
        "last_tick": utc(one.last_tick),
        "last_reason": one.last_reason,
        "last_run": one.last_run,
    }


def _tunable(options: Mapping[str, Any]) -> dict[str, Any]:
    names = ("rate", "concurrency", "batch_rows", "window")
    return {name: options.get(name) for name in names}
