"""What happened, in words: a line for each event of the ledger, for people who watch.

The names and their fields are events.py's. What the ledger alone may say (keys) is not asked for,
so the words are the same whether a picture came from Redis or from the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from backfill.events import Event
from backfill.pg.ledger import EventRecord

Detail = Mapping[str, Any]


def told(event: EventRecord) -> str:
    """`paused (signal): lag = 42 s`; the event's name and fields where no words are known."""
    words = _WORDS.get(event.name)
    if words is None:
        fields = " ".join(f"{name}={value}" for name, value in event.detail.items())
        return f"{event.name} {fields}".rstrip()
    return words(event.detail)


def _begun(detail: Detail) -> str:
    rows = detail.get("total_rows")
    if rows is None:
        return "it has begun; how many rows there are is not known"
    about = "" if detail.get("total_is_exact", True) else "about "
    return f"it has begun: {about}{_number(rows, 'row')} to do"


def _waiting(detail: Detail) -> str:
    pids = detail.get("pids") or ()
    return f"it waits for older transactions that write to the source (pids {_listed(pids)})"


def _sweeping(detail: Detail) -> str:
    deferred = detail.get("deferred")
    more = f"; {_number(deferred, 'deferred row')} left to sweep" if deferred else ""
    return f"every slice is walked{more}"


def _tuned(detail: Detail) -> str:
    changes = detail.get("changes")
    if not isinstance(changes, Mapping):
        return "tuned"
    return f"tuned: {', '.join(f'{name} {_change(to)}' for name, to in changes.items())}"


def _change(change: object) -> str:
    if isinstance(change, list | tuple) and len(change) == 2:
        before, after = ("none" if value is None else value for value in change)
        return f"{before} → {after}"
    return str(change)


def _slowed(detail: Detail) -> str:
    speed = detail.get("speed", 1)
    reasons = _listed(detail.get("reasons") or ())
    if isinstance(speed, int | float) and speed >= 1:
        return "back at full speed"
    return f"{float(speed) * 100:.0f} % of full speed{f': {reasons}' if reasons else ''}"


def _quarantined(detail: Detail) -> str:
    codes = [code for code in detail.get("sqlstates") or () if code]
    why = f" ({_listed(codes)})" if codes else ""
    return f"{_number(detail.get('rows'), 'row')} of slice {detail.get('slice')} quarantined{why}"


def _freed(detail: Detail) -> str:
    return f"slice {detail.get('slice')} is free again: the lease of {detail.get('holder')} ran out"


def _named(text: str, *names: str) -> Callable[[Detail], str]:
    """`text: ` and these fields' values, where there are any."""

    def words(detail: Detail) -> str:
        values = [str(detail[name]) for name in names if detail.get(name)]
        return f"{text}: {'; '.join(values)}" if values else text

    return words


_WORDS: Mapping[str, Callable[[Detail], str]] = {
    Event.RUN_ENQUEUED: _named("enqueued"),
    Event.RUN_WAITING: _waiting,
    Event.RUN_BEGUN: _begun,
    Event.RUN_PAUSED: lambda detail: f"paused ({detail.get('cause')}): {detail.get('reason')}",
    # another cause may pause it still, so nothing is said of going on
    Event.RUN_RESUMED: lambda detail: f"pause lifted ({_listed(detail.get('causes'))})",
    Event.RUN_SWEEPING: _sweeping,
    Event.RUN_VERIFYING: lambda _: "nothing is deferred; the completion check begins",
    Event.RUN_REWALKED: lambda detail: (
        f"the check found rows to do: {_number(detail.get('slices'), 'slice')} walked again"
    ),
    Event.RUN_SUCCEEDED: _named("succeeded: the completion check agrees"),
    Event.RUN_FAILED: _named("failed", "reason"),
    Event.RUN_CANCELLED: _named("cancelled", "reason"),
    Event.RUN_RETRIED: _named("taken up again"),
    Event.RUN_HANDED_OVER: _named("handed over to the workers"),
    Event.RUN_CHANGED_ACCEPTED: _named("the job's changed declaration was accepted"),
    Event.RUN_TUNED: _tuned,
    Event.RUN_SLOWED: _slowed,
    Event.SIGNAL_OFF: lambda detail: (
        f"signal {detail.get('signal')} is left out: {detail.get('reason')}"
    ),
    Event.SLICE_FREED: _freed,
    Event.SLICE_REWALKED: lambda detail: (
        f"slice {detail.get('slice')} is walked again: {_number(detail.get('remaining'), 'row')}"
        " to do"
    ),
    Event.ROWS_QUARANTINED: _quarantined,
    Event.ROWS_RELEASED: lambda detail: (
        f"{_number(detail.get('rows'), 'row')} in quarantine taken again"
    ),
    Event.ROWS_ACCEPTED: lambda detail: (
        f"{_number(detail.get('rows'), 'row')} in quarantine stay as they are"
    ),
    Event.COMMIT_UNCONFIRMED: lambda detail: (
        "the wait for a synchronous standby was cancelled: a batch holds on the primary alone,"
        f" after {detail.get('seconds')} s"
    ),
    Event.BACKEND_TERMINATED: lambda detail: (
        f"a lost holder's transaction was ended (pid {detail.get('pid')})"
    ),
}


def _number(value: object, noun: str) -> str:
    """`1 row`, `1,200 rows`; a list counts its members."""
    count = len(value) if isinstance(value, list | tuple) else value
    if not isinstance(count, int):
        return f"{noun}s"
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _listed(values: object) -> str:
    if values is None:
        return ""
    return ", ".join(map(str, values)) if isinstance(values, list | tuple) else str(values)
