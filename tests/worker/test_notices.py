"""Messages to people: at least once, once in the normal case, and never in the way of the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from backfill.engine import lifecycle
from backfill.model import PauseCause
from backfill.pg import notices
from backfill.project import Desk
from backfill.settings_notify import Kind
from backfill.worker.notices import Notices, Notifier
from tests.acceptance.crew import Crew
from tests.watch.receiver import Receiver, heard, program
from tests.worker.notice_process import SENDING_SECONDS

OPS = '[notify.ops]\nwebhook_url_env = "HOOK"\n'
BOUND_SECONDS = 30.0


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver().serving() as receiver:
        yield receiver


@pytest.fixture
def ops(crew: Crew, receiver: Receiver) -> Crew:
    """A project with a channel to the receiver, and one run that nobody works on."""
    settings(crew, OPS)
    crew.add_environment(HOOK=receiver.url)
    return crew


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


def until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + BOUND_SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


# ----------------------------------------------------------------------------------- what is told


def test_each_channel_is_told_once_of_what_it_wants_and_of_nothing_else(
    ops: Crew, receiver: Receiver
) -> None:
    command = program(ops.folder)
    settings(ops, f'{OPS}[notify.pager]\ncommand = {command}\non = ["failed"]\n')
    run = ops.enqueue("count")
    pause(ops, run, PauseCause.USER)
    pause(ops, run, PauseCause.ERROR)
    fail(ops, run)
    for _ in range(2):
        tell(ops)
        come_due(ops)
    assert [text.splitlines()[0] for text in receiver.texts] == [
        f"{run} is paused (error): no column n",
        f"{run} failed: the end",
    ]
    assert [message["kind"] for message in heard(ops.folder)] == ["failed"]
    assert outbox(ops, "channel, attempts, sent_at IS NOT NULL, error") == [
        ("ops", 1, True, ""),
        ("ops", 1, True, ""),
        ("pager", 1, True, ""),
    ]
    assert ops.query("SELECT FROM backfill.event WHERE NOT noticed") == []


def test_every_kind_says_what_happened_and_what_to_type(ops: Crew) -> None:
    settings(ops, f"[notify.pager]\ncommand = {program(ops.folder)}\n")
    run = ops.enqueue("count")
    for cause in PauseCause:
        pause(ops, run, cause)
    fail(ops, run, f"2 rows remain{lifecycle.NAMING_KEYS} ann@example.org, bob@example.org")
    tell(ops)
    found = [
        (message["kind"], message["state"], message["reason"], message["next"])
        for message in heard(ops.folder)
    ]
    assert found == [
        (Kind.SIGNAL, "paused (signal)", "no column n", f"backfill status {run}"),
        (
            Kind.QUARANTINE,
            "paused (quarantine)",
            "no column n",
            f"backfill quarantine list {run}",
        ),
        (Kind.ERROR, "paused (error)", "no column n", f"backfill resume {run}"),
        (
            Kind.ERROR,
            "paused (changed job)",
            "no column n",
            f"backfill resume {run} --accept-changes",
        ),
        (Kind.FAILED, "failed", "2 rows remain", f"backfill retry {run}"),
    ], "in the order of the causes; and keys are values of rows, which stay in the house"
    told = heard(ops.folder)[0]
    assert told["job"] == "count"
    assert told["label"] == "item.n"
    assert told["event"] == "run.paused"
    assert told["database"].startswith("default (")
    assert "@" not in told["database"], "no user, no password"
    assert told["counts"]["paged"] == 0
    assert told["text"].splitlines() == [
        f"{run} is paused (signal): no column n",
        f"item.n on {told['database']}: 0 paged = 0",
        "it goes on by itself",
        f"`backfill status {run}`",
    ]
    (signal_event,) = [e.id for e in ops.events(run) if e.detail.get("cause") == "signal"]
    assert told["id"] == f"{ops.desk.ledger.id}:{signal_event}"


def test_a_reason_is_one_line_that_calls_nobody(ops: Crew, receiver: Receiver) -> None:
    run = ops.enqueue("count")
    pause(ops, run, PauseCause.ERROR, "<!channel>\n\x1b[31m" + "x" * 10_000)
    tell(ops)
    (text,) = receiver.texts
    assert text.splitlines()[0].startswith(f"{run} is paused (error): &lt;!channel&gt; [31mxxx")
    assert len(text) < 1000


def test_without_a_channel_events_are_only_marked_and_a_later_one_tells_no_old_stories(
    ops: Crew, receiver: Receiver
) -> None:
    settings(ops, "")
    run = ops.enqueue("count")
    pause(ops, run, PauseCause.ERROR)
    assert Notifier(ops.project).round(ops.desk, by="w0")
    assert ops.query("SELECT FROM backfill.event WHERE NOT noticed") == []
    settings(ops, OPS)
    fail(ops, run)
    tell(ops)
    assert [text.splitlines()[0] for text in receiver.texts] == [f"{run} failed: the end"]


def test_nobody_is_told_of_what_happened_days_ago(ops: Crew, receiver: Receiver) -> None:
    fail(ops, ops.enqueue("count"))
    ops.query("UPDATE backfill.event SET at = at - interval '25 hours' RETURNING 1")
    tell(ops)
    assert receiver.got == []
    assert outbox(ops, "1") == []


def test_a_run_that_signals_stop_again_and_again_is_told_of_once_in_ten_minutes(
    ops: Crew, receiver: Receiver
) -> None:
    run = ops.enqueue("count")
    for _ in range(3):
        pause(ops, run, PauseCause.SIGNAL)
        tell(ops)
    assert len(receiver.got) == 1
    ops.query("UPDATE backfill.event SET at = at - interval '11 minutes' RETURNING 1")
    pause(ops, run, PauseCause.SIGNAL)
    pause(ops, run, PauseCause.ERROR)
    pause(ops, run, PauseCause.ERROR)
    tell(ops)
    assert len(receiver.got) == 4, "what needs a person is told each time"


# ------------------------------------------------------------------------------------ when it fails


def test_a_message_that_is_refused_is_tried_again_with_longer_waits(
    ops: Crew, receiver: Receiver
) -> None:
    receiver.status, receiver.body = 500, ""
    fail(ops, ops.enqueue("count"))
    waits = []
    for _ in range(3):
        tell(ops)
        ((attempts, wait, error),) = outbox(
            ops, "attempts, extract(epoch FROM not_before - clock_timestamp())::int, error"
        )
        waits.append(wait)
        assert error == "the webhook (HOOK) answered 500"
        tell(ops)
        assert len(receiver.got) == attempts, "not before its time"
        come_due(ops)
    assert [round(int(str(wait)) / 30) for wait in waits] == [1, 2, 4]
    assert notices.wait_seconds(1000) == notices.LAST_WAIT_SECONDS
    receiver.status = 200
    tell(ops)
    assert outbox(ops, "attempts, sent_at IS NOT NULL, error") == [(4, True, "")]


def test_after_a_day_it_is_given_up_and_the_log_says_so(ops: Crew, receiver: Receiver) -> None:
    receiver.status = 503
    run = ops.enqueue("count")
    fail(ops, run)
    with capture_logs() as before:
        tell(ops)
    ops.query("UPDATE backfill.event SET at = at - interval '25 hours' RETURNING 1")
    come_due(ops)
    with capture_logs() as after:
        tell(ops)
    said = {"run": run, "channel": "ops", "kind": "failed"}
    error = "the webhook (HOOK) answered 503: ok"
    assert before == [
        {"event": "notice.unsent", **said, "error": error, "attempt": 1, "log_level": "warning"}
    ]
    assert after == [
        {"event": "notice.failed", **said, "error": error, "attempt": 2, "log_level": "error"}
    ]
    come_due(ops)
    tell(ops)
    assert len(receiver.got) == 2


def test_a_channel_that_fails_keeps_no_other_waiting(ops: Crew, receiver: Receiver) -> None:
    failing = program(ops.folder, code=1)
    settings(ops, f"[notify.aaa]\ncommand = {failing}\n{OPS}")
    run = ops.enqueue("count")
    for _ in range(3):
        pause(ops, run, PauseCause.ERROR)
    tell(ops)
    assert len(receiver.got) == 3
    assert len(heard(ops.folder)) == 1, "it is left alone until the next round"


def test_notices_of_a_channel_that_is_gone_are_given_up_after_a_day(ops: Crew) -> None:
    fail(ops, ops.enqueue("count"))
    Notifier(ops.project).gather(ops.desk)
    settings(ops, '[notify.other]\ncommand = ["true"]\n')
    Notifier(ops.project).round(ops.desk, by="w0")
    assert outbox(ops, "failed_at") == [(None,)], "a newer worker may know it"
    ops.query("UPDATE backfill.event SET at = at - interval '25 hours' RETURNING 1")
    Notifier(ops.project).round(ops.desk, by="w0")
    assert outbox(ops, "failed_at IS NOT NULL, error") == [
        (True, "the settings have no channel of this name")
    ]


def test_a_run_that_was_deleted_takes_its_messages_with_it(ops: Crew, receiver: Receiver) -> None:
    run = ops.enqueue("count")
    fail(ops, run)
    Notifier(ops.project).gather(ops.desk)
    ops.query("DELETE FROM backfill.run RETURNING 1")
    tell(ops)
    assert receiver.got == []


# ------------------------------------------------------------------- several processes, and dying


def test_two_processes_at_once_send_each_message_once(ops: Crew, receiver: Receiver) -> None:
    run = ops.enqueue("count")
    for number in range(40):
        pause(ops, run, PauseCause.ERROR, f"reason {number}")
    together = threading.Barrier(2)

    def send(desk: Desk) -> None:
        together.wait()
        notifier = Notifier(ops.project)
        notifier.gather(desk)
        notifier.send(desk, seconds=20)

    with closing(ops.project.open().conn) as one, closing(ops.project.open().conn) as two:
        desks = [Desk(database="default", url=ops.desk.url, conn=conn, ledger=ops.desk.ledger)
                 for conn in (one, two)]  # fmt: skip
        threads = [threading.Thread(target=send, args=(desk,)) for desk in desks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(receiver.texts) == sorted(set(receiver.texts))
    assert len(receiver.texts) == 40


@pytest.mark.parametrize(
    ("point", "sent_before"), [("notice taken", 0), ("message sent", 1)], ids=["before", "after"]
)
def test_a_message_is_sent_again_when_its_sender_dies_before_or_after_sending(
    ops: Crew, receiver: Receiver, point: str, sent_before: int
) -> None:
    fail(ops, ops.enqueue("count"))
    assert in_a_process(ops, receiver, point) == -signal.SIGKILL
    assert len(receiver.got) == sent_before
    assert outbox(ops, "attempts, sent_at") == [(1, None)]
    tell(ops)
    assert len(receiver.got) == sent_before, "nobody else takes it before the lease has run out"
    time.sleep(SENDING_SECONDS)
    assert in_a_process(ops, receiver) == 0
    assert len(receiver.got) == sent_before + 1
    assert outbox(ops, "attempts, sent_at IS NOT NULL") == [(2, True)]


def in_a_process(crew: Crew, receiver: Receiver, point: str = "") -> int:
    url = crew.desk.url
    return subprocess.run(
        [sys.executable, "-m", "tests.worker.notice_process", str(crew.folder), point],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "HOOK": receiver.url, "BACKFILL_DATABASE_URL": url},
        check=False,
        timeout=60,
    ).returncode


def test_no_transaction_is_open_while_a_message_is_under_way(ops: Crew, receiver: Receiver) -> None:
    """I5."""
    seen: list[list[tuple[object, ...]]] = []
    receiver.before_answer = lambda: seen.append(
        ops.query(
            "SELECT state, xact_start FROM pg_stat_activity WHERE pid = %s",
            ops.desk.conn.info.backend_pid,
        )
    )
    fail(ops, ops.enqueue("count"))
    tell(ops)
    assert seen == [[("idle", None)]]


def test_one_process_looks_and_another_takes_over_when_it_is_silent(ops: Crew) -> None:
    first, second = Notifier(ops.project), Notifier(ops.project)
    assert first.round(ops.desk, by="first")
    assert not second.round(ops.desk, by="second")
    assert first.round(ops.desk, by="first"), "it renews its lease"
    ops.query("UPDATE backfill.ledger SET notifier_until = now() RETURNING 1")
    assert second.round(ops.desk, by="second")
    assert not first.round(ops.desk, by="first")


# ------------------------------------------------------------------------------ the threads' ends


def test_the_thread_tells_outlives_a_lost_connection_and_gives_the_lease_back(
    ops: Crew, receiver: Receiver
) -> None:
    sending = Notices(ops.project, ["default"], name="w0")
    sending.start()
    try:
        until(lambda: ops.query("SELECT FROM backfill.ledger WHERE notifier = 'w0'"), "it leads")
        ops.query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database() AND query LIKE '%%notifier%%' AND pid <> %s",
            ops.desk.conn.info.backend_pid,
        )
        fail(ops, ops.enqueue("count"))
        until(lambda: receiver.got, "the message is sent by a new connection")
    finally:
        sending.stop()
    assert ops.query("SELECT FROM backfill.ledger WHERE notifier_until > now()") == []


def test_the_end_of_a_process_sends_what_waits_though_another_has_the_lease(
    ops: Crew, receiver: Receiver
) -> None:
    ops.query(
        "UPDATE backfill.ledger SET notifier = 'w1', notifier_until = now() + interval '1 hour'"
        " RETURNING 1"
    )
    with Notices(ops.project, ["default"], name="w0"):
        fail(ops, ops.enqueue("count"))
    assert len(receiver.got) == 1


def test_the_end_of_a_process_does_not_wait_long_for_a_dead_channel(
    ops: Crew, receiver: Receiver
) -> None:
    ended = threading.Event()
    receiver.before_answer = lambda: ended.wait(30)
    with Notices(ops.project, ["default"], name="w0"):
        fail(ops, ops.enqueue("count"))
        began = time.monotonic()
    assert time.monotonic() - began < 12
    ended.set()
