"""Writes a run's report in Markdown, to be kept with a change.

What a person or a database said is escaped (markdown.py). Keys and what the quarantine says of rows
are left out unless they were asked for: a report goes where rows may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from statistics import fmean
from typing import Any

from backfill.events import Event, reason_without_keys
from backfill.job import Options
from backfill.model import PauseCause, RunState
from backfill.pg.ledger import EventRecord
from backfill.watch.history import Stretch, pauses_of
from backfill.watch.markdown import bars, code, table, text
from backfill.watch.report import MOST_ROWS, Report
from backfill.watch.words import bounds, counts_sum, duration, label, scope

#: Lines of a table that may grow without bound.
_MOST_LINES = 200
#: Bars of the line, and lines of the table that show the speed over time.
_BARS, _PARTS = 60, 10
#: With fewer pulses a run is too short for them, and its slices say more.
_ENOUGH_PULSES = 5

#: What somebody did to the run, in words.
_DONE: Mapping[str, str] = {
    Event.RUN_RETRIED: "taken up again after it had failed",
    Event.RUN_HANDED_OVER: "handed to the workers",
    Event.RUN_CHANGED_ACCEPTED: "its job's changed declaration accepted",
    Event.RUN_CANCELLED: "cancelled",
}


def page(report: Report) -> str:
    """The report as a page."""
    sections = (
        ("", _head(report)),
        ("What it did", _what(report)),
        ("Rows", _rows(report)),
        ("Time", _times(report)),
        ("Speed", _speed(report)),
        ("Pauses", _pauses(report)),
        ("Changes while it lived", _changes(report)),
        ("Signals", _signals(report)),
        ("Quarantine", _quarantine(report)),
        ("Completion check", _check(report)),
        ("Slices", _slices(report)),
        ("Versions", _versions(report)),
    )
    parts = []
    for heading, lines in sections:
        told = list(lines)
        if told:
            parts.append("\n".join([f"## {heading}", "", *told] if heading else told))
    return "\n\n".join(parts) + "\n"


# ----------------------------------------------------------------------------------- the sections


def _head(report: Report) -> Iterator[str]:
    run = report.run
    yield f"# Backfill {code(run.id)}"
    yield ""
    state = f"{run.state} ({report.paused})" if report.paused else run.state
    worked = "" if report.time is None else f" after {duration(report.time.seconds())} of work"
    yield f"**{text(state)}**{worked}: {counts_sum(report.totals.counts)}"
    if run.failure:
        yield ""
        yield f"Why it failed: {text(_told(report, run.failure))}"
    yield ""
    still = "The run is live: all this may change. " if run.run_state.is_live else ""
    yield f"{still}Written at {_time(report.at)}. All times are in UTC."


def _what(report: Report) -> Iterator[str]:
    run, source = report.run, report.run.declaration["source"]
    key = ", ".join(
        f"{code(name)} ({text(kind)})"
        for name, kind in zip(run.resolved.key, run.resolved.key_types, strict=False)
    )
    transform = run.declaration["transform"]
    expressions = transform["sql"] or {}
    computed = ", ".join(f"{code(name)} = {code(sql)}" for name, sql in expressions.items())
    otherwise = "nothing: without a transform" if transform["kind"] == "none" else "Python"
    defaults = Options().to_json()
    told = {
        "job": f"{code(run.job)}, version {run.job_version}",
        "docstring": text(report.about),
        "fills": code(label(run)),
        "table": f"{code(run.resolved.name)}, by the key {key}",
        "scope": scope(source),
        "todo": code(source["todo"]) if source["todo"] else "none",
        "computed by": computed or otherwise,
        "parameters": ", ".join(code(f"{name} = {value}") for name, value in run.params.items()),
        "bounds": text(bounds(run)),
        "options that differ from the defaults": ", ".join(
            code(f"{name} = {run.options[name]}")
            for name in (*defaults, *sorted(run.options.keys() - defaults))
            if name in run.options and run.options[name] != defaults.get(name)
        )
        or "none",
        "database": text(report.database),
        "worked on by": "workers" if run.executor == "celery" else "a process of its own",
        "asked for by": f"{text(run.requested_by)}, {_time(run.created_at)}",
    }
    yield from table(["", ""], [[name, value] for name, value in told.items() if value])


def _rows(report: Report) -> Iterator[str]:
    counts, run = report.totals.counts.as_dict(), report.run
    yield from table(
        ["outcome", "rows"],
        [[name, f"{rows:,}"] for name, rows in counts.items() if rows and name != "paged"]
        + [["**all that were paged**", f"**{counts['paged']:,}**"]],
    )
    if run.total_rows is not None:
        how = "counted" if run.total_is_exact else "estimated"
        yield ""
        yield f"When it began, {run.total_rows:,} rows were to do ({how})."


def _times(report: Report) -> Iterator[str]:
    run, time = report.run, report.time
    if run.started_at is None or time is None:
        yield "It has not begun to work."
        return
    whole = (time.end - time.begin).total_seconds()
    worked = time.seconds()
    yield from table(
        ["", ""],
        [
            ["began", _time(run.started_at)],
            ["ended", "not yet" if run.finished_at is None else _time(run.finished_at)],
            ["from begin to end", duration(whole)],
            ["of that at work", duration(worked)],
            ["of that paused, or failed and not taken up", duration(max(0.0, whole - worked))],
        ],
    )


def _speed(report: Report) -> Iterator[str]:
    time, settled = report.time, report.totals.counts.settled
    if time is None or not settled or time.seconds() <= 0:
        return
    yield f"{_rate(settled / time.seconds())} rows/s on average while it worked."
    with_pulses = len(report.pulses) >= _ENOUGH_PULSES
    points = [(pulse.at, pulse.settled) for pulse in report.pulses]
    if not with_pulses:
        points, until_now = [], 0
        for at, rows in report.settled_at:
            until_now += rows
            points.append((at, until_now))
    points.append((time.end, settled))
    yield ""
    yield f"`{bars([part.rate for part in time.stretches(points, _BARS)])}`"
    yield ""
    yield from _parts(report, time.stretches(points, _PARTS), with_pulses=with_pulses)
    if not with_pulses:
        yield ""
        yield "From when each slice was last worked on, so roughly: the run was short."


def _parts(report: Report, stretches: Sequence[Stretch], *, with_pulses: bool) -> list[str]:
    rows = []
    for part in stretches:
        row = [
            _time(part.since),
            f"{part.rows:,.0f}",
            _rate(part.rate) if part.worked_seconds > 0 else "paused",
        ]
        if with_pulses:
            inside = [pulse for pulse in report.pulses if part.since < pulse.at <= part.until]
            row += [
                _mean([pulse.speed * 100 for pulse in inside], " %"),
                _mean([pulse.batch_rows for pulse in inside], ""),
                _mean([s * 1000 for p in inside if (s := p.batch_seconds) is not None], " ms"),
            ]
        rows.append(row)
    more = ["allowed by signals", "rows a batch", "a batch took"] if with_pulses else []
    return table(["from", "rows", "rows/s", *more], rows)


def _pauses(report: Report) -> Iterator[str]:
    found = pauses_of(report.events)
    if not found:
        yield "None."
        return
    yield from table(
        ["cause", "reason", "since", "until", "for", "by", "ended by"],
        [
            [
                text(paused.cause),
                text(_told(report, paused.reason)),
                _time(paused.since),
                "still" if paused.until is None else _time(paused.until),
                duration(((paused.until or report.at) - paused.since).total_seconds()),
                text(paused.by),
                text(paused.ended_by),
            ]
            for paused in found[:_MOST_LINES]
        ],
    )
    yield from _and_more(found)


def _changes(report: Report) -> Iterator[str]:
    found = [[_time(event.at), what, text(event.caused_by)]
             for event in report.events for what in _changes_of(event)]  # fmt: skip
    if found:
        yield from table(["at", "what", "by"], found[:_MOST_LINES])
        yield from _and_more(found)


def _changes_of(event: EventRecord) -> list[str]:
    if event.name == Event.RUN_TUNED:
        changes: Mapping[str, Any] = event.detail.get("changes", {})
        return [
            f"{code(name)}: {code(_value(was))} → {code(_value(now))}"
            for name, (was, now) in sorted(changes.items())
        ]
    if event.name in {Event.ROWS_RELEASED, Event.ROWS_ACCEPTED}:
        became = "taken again" if event.name == Event.ROWS_RELEASED else "left as they are"
        return [f"{event.detail.get('rows', 0):,} quarantined rows {became}"]
    if event.name in _DONE:
        reason = event.detail.get("reason")
        return [f"{_DONE[event.name]}{f': {text(reason)}' if reason else ''}"]
    return []


def _signals(report: Report) -> Iterator[str]:
    slowed = [
        [
            _time(event.at),
            f"{float(event.detail.get('speed', 1)) * 100:.0f} %",
            "; ".join(text(reason) for reason in event.detail.get("reasons", ())),
        ]
        for event in report.of(Event.RUN_SLOWED)
    ]
    unread = {
        str(e.detail.get("signal")): e.detail.get("reason") for e in report.of(Event.SIGNAL_OFF)
    }
    measured: dict[str, list[float]] = {}
    for pulse in report.pulses:
        for name, value in pulse.signals.items():
            measured.setdefault(name, []).append(float(value))
    stopped = any(event.detail.get("cause") == PauseCause.SIGNAL for event in report.events)
    if stopped:
        yield f"They stopped it: see its pauses.{'' if slowed else ' They did not slow it down.'}"
    elif not slowed:
        yield "None slowed it down."
    if slowed:
        yield ""
        yield from table(["at", "speed from then on", "because"], slowed[:_MOST_LINES])
        yield from _and_more(slowed)
    if measured:
        yield ""
        yield "What was measured while it lived:"
        yield ""
        yield from table(
            ["signal", "least", "greatest"],
            [
                [code(name), f"{min(values):,.4g}", f"{max(values):,.4g}"]
                for name, values in sorted(measured.items())
            ],
        )
    for name, reason in unread.items():
        yield ""
        yield f"Not read: {code(name)} ({text(reason)})"


def _quarantine(report: Report) -> Iterator[str]:
    if not report.set_aside:
        yield "No row is in it."
        return
    yield from table(
        ["SQLSTATE", "rows waiting", "rows accepted"],
        [
            [
                code(one.sqlstate) if one.sqlstate else "none: the transform refused them",
                f"{one.open:,}",
                f"{one.accepted:,}",
            ]
            for one in report.set_aside
        ],
    )
    yield ""
    if report.rows is None:
        yield (
            "Keys and messages may quote rows, so they are left out;"
            f" {code(f'backfill quarantine list {report.run.id}')} shows them."
        )
        return
    yield from table(
        ["key", "SQLSTATE", "message", ""],
        [
            [
                text("/".join(row.key)),
                text(row.sqlstate or ""),
                text(row.message),
                "accepted" if row.accepted else "waits",
            ]
            for row in report.rows
        ],
    )
    if len(report.rows) == MOST_ROWS:
        yield ""
        yield f"These are the first {MOST_ROWS:,}."


def _check(report: Report) -> Iterator[str]:
    run, counts = report.run, report.totals.counts
    left = counts.unchanged + counts.skipped + counts.suppressed + counts.quarantined
    if run.run_state is not RunState.SUCCEEDED:
        yield "It has not agreed yet: the run has not succeeded."
    elif run.declaration["source"]["todo"]:
        yield (
            "It agrees: every slice is finished, no row is deferred, and in no slice do more rows"
            f" match the todo than were left there on purpose ({left:,} in all)."
        )
    else:
        yield (
            "It agrees: every slice is finished and no row is deferred. The job has no todo, so the"
            " rows themselves could not be asked."
        )
    rewalked = report.of(Event.SLICE_REWALKED)
    if rewalked:
        yield ""
        yield from table(
            ["at", "slice walked again", "pass", "rows that remained", "left on purpose"],
            [
                [
                    _time(event.at),
                    *(
                        text(event.detail.get(name, ""))
                        for name in ("slice", "passes", "remaining", "left")
                    ),
                ]
                for event in rewalked[:_MOST_LINES]
            ],
        )
        yield from _and_more(rewalked)


def _slices(report: Report) -> Iterator[str]:
    phases = report.totals.by_phase
    number = sum(phases.values())
    told = ", ".join(f"{slices:,} {phase}" for phase, slices in phases.items() if slices)
    more = "" if report.run.frontier_done else " More are to be placed."
    yield f"{number:,} slices{f': {told}' if told else ''}.{more}"
    freed = len(report.of(Event.SLICE_FREED))
    ended = len(report.of(Event.BACKEND_TERMINATED))
    if freed or ended:
        yield ""
        yield (
            f"{freed:,} times a slice was taken from a holder that was lost; {ended:,} transactions"
            " of lost holders were ended."
        )


def _versions(report: Report) -> Iterator[str]:
    yield f"backfill {version('backfill')}, PostgreSQL {text(report.server)}, as this was written."


# --------------------------------------------------------------------------------------- the words


def _told(report: Report, reason: str) -> str:
    """A reason, without keys where rows were not asked for."""
    return reason_without_keys(reason) if report.rows is None else reason


def _and_more(found: Sequence[object]) -> Iterator[str]:
    if len(found) > _MOST_LINES:
        yield ""
        yield f"And {len(found) - _MOST_LINES:,} more."


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _rate(rows_per_second: float) -> str:
    return f"{rows_per_second:,.0f}" if rows_per_second >= 10 else f"{rows_per_second:.1f}"


def _mean(values: Sequence[float | None], unit: str) -> str:
    known = [value for value in values if value is not None]
    return f"{fmean(known):,.0f}{unit}" if known else ""


def _value(value: object) -> str:
    return "none" if value is None else str(value)
