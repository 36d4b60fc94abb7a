"""Messages to people: what is told to whom, and what becomes of what cannot be sent."""

from __future__ import annotations

from structlog.testing import capture_logs

from backfill.engine import lifecycle
from backfill.events import NAMING_KEYS
from backfill.model import PauseCause
from backfill.pg import notices
from backfill.settings_notify import Kind
from backfill.worker.notices import Notifier
from tests.acceptance.crew import Crew
from tests.watch.receiver import Receiver, heard, program
from tests.worker.outbox import OPS, come_due, fail, outbox, pause, settings, tell

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
    fail(ops, run, f"2 rows remain{NAMING_KEYS} ann@example.org, bob@example.org")
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


def test_a_pause_for_signals_that_stands_is_told_though_one_was_told_shortly_before(
    ops: Crew, receiver: Receiver
) -> None:
    """I7: it waits for the ten minutes, and pauses that ended in them are not told."""
    desk, run = ops.desk, ops.enqueue("count")
    pause(ops, run, PauseCause.SIGNAL)
    tell(ops)
    pause(ops, run, PauseCause.SIGNAL, "it ends")
    tell(ops)
    lifecycle.pause(
        desk.conn, desk.ledger, run, PauseCause.SIGNAL, reason="it stands", ends="", by="w0"
    )
    tell(ops)
    waits = "extract(epoch FROM not_before - at)::int, sent_at"
    joined = "SELECT {} FROM backfill.notice AS n JOIN backfill.event AS e ON e.id = n.event {}"
    found = ops.query(joined.format(waits, "WHERE sent_at IS NULL"))
    assert found == [(600, None), (600, None)]
    assert len(receiver.got) == 1
    for table, column in (("event", "at"), ("pause", "since"), ("notice", "not_before")):
        ops.query(
            f"UPDATE backfill.{table} SET {column} = {column} - interval '11 minutes' RETURNING 1"
        )
    tell(ops)
    assert [text.splitlines()[0] for text in receiver.texts] == [
        f"{run} is paused (signal): no column n",
        f"{run} is paused (signal): it stands",
    ]
    assert outbox(ops, "attempts, sent_at IS NOT NULL, failed_at IS NOT NULL, error") == [
        (1, True, False, ""),
        (0, False, True, "the pause has ended"),
        (1, True, False, ""),
    ]


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


def test_a_channel_whose_variable_is_not_set_says_so_and_keeps_no_other_back(
    ops: Crew, receiver: Receiver
) -> None:
    settings(ops, f'[notify.aaa]\nwebhook_url_env = "NOT_SET"\n{OPS}')
    fail(ops, ops.enqueue("count"))
    tell(ops)
    assert len(receiver.got) == 1
    (told,), sent = outbox(ops, "error")
    assert str(told).startswith("the environment variable NOT_SET is not set")
    assert sent == ("",)


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
