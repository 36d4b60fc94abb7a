"""Messages to people, where several processes send them, and where they die or end."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from backfill.model import PauseCause
from backfill.project import Desk
from backfill.worker.notices import Notices, Notifier
from tests import starting
from tests.acceptance.crew import Crew
from tests.watch.receiver import Receiver
from tests.worker.notice_process import SENDING_SECONDS
from tests.worker.outbox import fail, outbox, pause, tell, until

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
    return starting.run(
        ["-m", "tests.worker.notice_process", str(crew.folder), point],
        folder=Path(__file__).parents[2],
        environ={**os.environ, "HOOK": receiver.url, "BACKFILL_DATABASE_URL": url},
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
