"""What the tests of messages do to a run, and what they look at."""

from __future__ import annotations

import time
from collections.abc import Callable

from backfill.engine import lifecycle
from backfill.model import PauseCause
from backfill.worker.notices import Notifier
from tests.acceptance.crew import Crew

OPS = '[notify.ops]\nwebhook_url_env = "HOOK"\n'
BOUND_SECONDS = 30.0


def settings(crew: Crew, channels: str) -> None:
    text = f'jobs = ["{crew.package}"]\n{channels}'
    (crew.folder / "backfill.toml").write_text(text, encoding="utf-8")


def pause(crew: Crew, run: str, cause: PauseCause, reason: str = "no column n") -> None:
    """Pause it, as the engine does, and let it go on, so that it can be paused again."""
    desk = crew.desk
    assert lifecycle.pause(
        desk.conn, desk.ledger, run, cause, reason=reason, ends="by itself", by="w0"
    )
    assert lifecycle.lift(desk.conn, desk.ledger, run, [cause], by="w0")


def fail(crew: Crew, run: str, reason: str = "the end") -> None:
    lifecycle.fail(crew.desk.conn, crew.desk.ledger, run, reason=reason, by="w0")


def tell(crew: Crew) -> None:
    """What a process does in a round in which it leads."""
    notifier = Notifier(crew.project)
    notifier.gather(crew.desk)
    notifier.send(crew.desk, seconds=20)


def outbox(crew: Crew, columns: str) -> list[tuple[object, ...]]:
    return crew.query(f"SELECT {columns} FROM backfill.notice ORDER BY event, channel")


def come_due(crew: Crew) -> None:
    """The wait for the next attempt is over."""
    crew.query("UPDATE backfill.notice SET not_before = now() RETURNING 1")


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for it."""
    deadline = time.monotonic() + BOUND_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)
