"""What stands below the help of each command: how it is typed, and what RUN is."""

from __future__ import annotations

from collections.abc import Mapping

_RUN = (
    "RUN is a run's id, a beginning of it that fits one run, or a job's name (its latest run)."
    " Without RUN: {without}."
)
_LIVE = "the one run that is live"
#: By command: what is meant where RUN is left out.
WITHOUT_RUN: Mapping[str, str] = {
    "status": "a list of all",
    "watch": "every run that is live",
    "retry": "the one run that has failed and is the latest of its job",
    **dict.fromkeys(
        ["events", "report", "pause", "resume", "cancel", "tune"]
        + [f"quarantine {what}" for what in ("list", "retry", "accept")],
        _LIVE,
    ),
}

#: By command; a test parses each.
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "init": ("backfill init", "backfill --project shop init"),
    "new": ("backfill new fill_departure",),
    "db upgrade": (
        "backfill db upgrade",
        "backfill db upgrade --sql > ledger.sql",
        "backfill db upgrade --sql --since 5",
    ),
    "db grants": (
        "backfill db grants app > grants.sql",
        "backfill db grants app --job fill_departure -p since=2014",
    ),
    "doctor": ("backfill doctor", "backfill doctor --strict --json"),
    "list": ("backfill list",),
    "check": (
        "backfill check fill_departure",
        "backfill check fill_departure -p since=2014 --rate 5000/s --strict",
    ),
    "dry-run": (
        "backfill dry-run fill_departure",
        "backfill dry-run fill_departure --rows 10000 --show 10 --set batch_rows=500",
    ),
    "run": (
        "backfill run fill_departure --rate 5000/s",
        "backfill run fill_departure -p since=2014 --gentle --limit 10000",
        'backfill run fill_departure --window "22:00-06:00 Europe/Berlin"',
        """backfill run fill_seats --from '["2014-01-01", 7]' --to '["2015-01-01", 1]'""",
    ),
    "enqueue": (
        "backfill enqueue fill_departure -p since=2014 --rate 5000/s",
        "backfill enqueue fill_departure --set slice_rows=10000 --set quarantine_rows=0",
        "backfill enqueue fill_departure --wait --timeout 3600",
    ),
    "worker": (
        "backfill worker --concurrency 4",
        "backfill worker --name w1@%h --metrics-port 9108 -- --max-tasks-per-child 100",
    ),
    "status": ("backfill status", "backfill status fill_departure --json"),
    "watch": ("backfill watch", "backfill watch fill_departure"),
    "flower": ("backfill flower", "backfill flower --port 5556 --read-only"),
    "events": ("backfill events --follow", "backfill events fill_departure --limit 20"),
    "report": (
        "backfill report fill_departure",
        "backfill report fill_departure -o fill_departure.md",
    ),
    "pause": ('backfill pause --reason "the export runs"',),
    "resume": ("backfill resume", "backfill resume fill_departure --accept-changes"),
    "cancel": ('backfill cancel fill_departure --reason "a wrong parameter"',),
    "retry": ("backfill retry", "backfill retry fill_departure"),
    "tune": (
        "backfill tune --rate 2000/s",
        "backfill tune fill_departure --rate none --concurrency 4 --duty 0.5",
        "backfill tune --set target_batch_seconds=0.02",
    ),
    "stop-all": ('backfill stop-all --reason "the site is slow"',),
    "start-all": ("backfill start-all",),
    "quarantine list": ("backfill quarantine list fill_departure",),
    "quarantine retry": ("backfill quarantine retry fill_departure",),
    "quarantine accept": ("backfill quarantine accept fill_departure",),
    "schedule add": (
        'backfill schedule add nightly fill_departure --cron "0 22 * * Mon-Fri" --zone UTC',
        "backfill schedule add once fill_departure --at 2099-12-01T22:00+01:00",
    ),
    "schedule list": ("backfill schedule list",),
    "schedule next": ("backfill schedule next nightly --count 10",),
    "schedule remove": ("backfill schedule remove nightly",),
    "notify test": ("backfill notify test", "backfill notify test ops"),
}


def epilog(command: str) -> str | None:
    """Below a command's help; None: nothing, as for a group of commands."""
    parts = []
    if command in WITHOUT_RUN:
        parts.append(_RUN.format(without=WITHOUT_RUN[command]))
    if command in EXAMPLES:
        parts.append("\n".join(["\b", "Examples:", *(f"  {one}" for one in EXAMPLES[command])]))
    return "\n\n".join(parts) or None
