"""The outbox of messages to people, in the ledger: what is to be sent, and what became of it.

Functions are handed a connection and never commit; each is one statement, so on a connection in
autocommit mode one transaction, and none is open while a message is under way (I5).

1. An event is marked and its notices are written in one statement: neither is lost without the
   other. Two who do it at once do not wait: each passes by what the other has locked.
2. Who takes a notice puts its `not_before` off: that is its lease, in which no other takes it. Who
   dies in it, before sending or after, leaves it to be taken again: at least once.
3. Nothing older than KEPT is sent: nobody wants to hear a week later that a run began.
4. Of a pause for signals that comes soon after one that was told, the notice waits for QUIET. If
   the pause has ended by then, it is given up; if it lasts, somebody is told (I7). Until it is
   taken such a notice is known by its `not_before`; what is to be sent at once has '-infinity'.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg.rows import class_row

from backfill.pg.connect import Connection
from backfill.pg.ledger import Ledger

#: After this time a message that could not be sent is given up; an interval as PostgreSQL reads it.
KEPT: Final = "1 day"
#: A run that signals stop and let go on again and again is told of once in this time, and of a
#: pause that then lasts for so long.
QUIET: Final = "10 minutes"
#: Between the attempts to send a message: the first wait, doubled with each, up to the last.
FIRST_WAIT_SECONDS: Final = 30.0
LAST_WAIT_SECONDS: Final = 3600.0
#: Events marked at once: a run has tens of them.
_MOST_EVENTS: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a channel wants to be told of.

    Attributes:
        event: an event's name.
        cause: of a pause; empty for other events.
    """

    channel: str
    event: str
    cause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """A message that is to be sent now, and the event that it tells of.

    Attributes:
        attempts: this one included.
    """

    id: int
    channel: str
    attempts: int
    run: str
    at: datetime
    name: str
    caused_by: str
    detail: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Waiting:
    """Whether there is anything to do: events to be marked, notices to be sent."""

    events: bool
    notices: bool


def take_lease(conn: Connection, ledger: Ledger, *, by: str, seconds: float) -> Waiting | None:
    """Take or renew the notifier's lease and say what waits; None: it is another's.

    One statement, because an idle worker sends it every two seconds. Both looks read a partial
    index that is empty then.
    """
    row = conn.execute(
        ledger.q(
            "WITH mine AS (UPDATE {s}.ledger SET notifier = %(by)s,"
            " notifier_until = clock_timestamp() + make_interval(secs => %(seconds)s)"
            " WHERE notifier = %(by)s OR notifier_until < clock_timestamp() RETURNING 1)"
            " SELECT EXISTS (SELECT FROM {s}.event WHERE NOT noticed),"
            " EXISTS (SELECT FROM {s}.notice WHERE sent_at IS NULL AND failed_at IS NULL"
            " AND not_before <= clock_timestamp()) FROM mine"
        ),
        {"by": by, "seconds": seconds},
    ).fetchone()
    return None if row is None else Waiting(*row)


def drop_lease(conn: Connection, ledger: Ledger, *, by: str) -> None:
    """Give the lease back, so that another need not wait for its end; no harm if it is lost."""
    conn.execute(
        ledger.q("UPDATE {s}.ledger SET notifier_until = '-infinity' WHERE notifier = %s"), [by]
    )


def gather(conn: Connection, ledger: Ledger, wishes: Iterable[Wish]) -> int:
    """Mark the events that are not noticed yet, and write a notice for each channel that wants one.

    Returns how many events were marked; with as many as the most, there may be more.

    Locks: the events' rows, which nobody else ever changes. It reads them by event_unnoticed. A
    notice that waits is none that was told: pauses that end soon put the next message off no more.
    """
    wanted = list(wishes)
    row = conn.execute(
        ledger.q(
            "WITH fresh AS (SELECT id FROM {s}.event WHERE NOT noticed ORDER BY id LIMIT %(most)s"
            " FOR UPDATE SKIP LOCKED),"
            " marked AS (UPDATE {s}.event AS e SET noticed = true FROM fresh WHERE e.id = fresh.id"
            " RETURNING e.id, e.run, e.at, e.name, coalesce(e.detail->>'cause', '') AS cause),"
            " written AS (INSERT INTO {s}.notice (event, channel, not_before)"
            " SELECT m.id, w.channel, CASE WHEN m.cause = 'signal' AND EXISTS ("
            " SELECT FROM {s}.event AS e"
            " JOIN {s}.notice AS n ON n.event = e.id AND n.channel = w.channel"
            " WHERE e.run = m.run AND e.id < m.id AND e.name = m.name"
            " AND e.detail->>'cause' = 'signal' AND e.at > m.at - %(quiet)s::interval"
            " AND (n.attempts > 0 OR n.not_before = '-infinity'))"
            " THEN m.at + %(quiet)s::interval ELSE '-infinity' END"
            " FROM marked AS m JOIN unnest(%(channels)s::text[], %(events)s::text[],"
            " %(causes)s::text[]) AS w (channel, event, cause)"
            " ON w.event = m.name AND w.cause = m.cause"
            " WHERE m.run IS NOT NULL AND m.at > clock_timestamp() - %(kept)s::interval"
            " ON CONFLICT DO NOTHING)"
            " SELECT count(*) FROM marked"
        ),
        {
            "most": _MOST_EVENTS,
            "channels": [wish.channel for wish in wanted],
            "events": [wish.event for wish in wanted],
            "causes": [wish.cause for wish in wanted],
            "kept": KEPT,
            "quiet": QUIET,
        },
    ).fetchone()
    return 0 if row is None else row[0]


def take(
    conn: Connection, ledger: Ledger, channels: Sequence[str], *, lease_seconds: float
) -> Notice | None:
    """Take the oldest notice that is due for one of these channels; None: there is none.

    It is the caller's for `lease_seconds`. The attempt counts from here, so one that ends with the
    process counts, too. Who comes at the same instant passes the locked row by. Notices that have
    waited in vain, because their pause has ended (its row is gone, or of a later one), are given up
    by the same statement, which takes none of them: both parts see one snapshot.
    """
    with conn.cursor(row_factory=class_row(Notice)) as cursor:
        return cursor.execute(
            ledger.q(
                "WITH due AS MATERIALIZED (SELECT n.event, n.channel,"
                " n.attempts = 0 AND n.not_before > '-infinity' AND NOT EXISTS ("
                " SELECT FROM {s}.pause AS p WHERE p.run = e.run"
                " AND p.cause = e.detail->>'cause' AND p.since <= e.at) AS in_vain"
                " FROM {s}.notice AS n JOIN {s}.event AS e ON e.id = n.event"
                " WHERE n.sent_at IS NULL AND n.failed_at IS NULL"
                " AND n.not_before <= clock_timestamp() AND n.channel = ANY(%(channels)s)),"
                " given_up AS (UPDATE {s}.notice AS n SET failed_at = clock_timestamp(),"
                " error = 'the pause has ended' FROM (SELECT n.event, n.channel"
                " FROM {s}.notice AS n JOIN due AS d USING (event, channel) WHERE d.in_vain"
                " FOR UPDATE OF n SKIP LOCKED) AS v"
                " WHERE n.event = v.event AND n.channel = v.channel AND n.failed_at IS NULL),"
                " next AS (SELECT n.event, n.channel"
                " FROM {s}.notice AS n JOIN due AS d USING (event, channel) WHERE NOT d.in_vain"
                " AND n.sent_at IS NULL AND n.failed_at IS NULL"
                " AND n.not_before <= clock_timestamp()"
                " ORDER BY n.event, n.channel LIMIT 1 FOR UPDATE OF n SKIP LOCKED)"
                " UPDATE {s}.notice AS n SET attempts = n.attempts + 1,"
                " not_before = clock_timestamp() + make_interval(secs => %(lease)s)"
                " FROM next, {s}.event AS e"
                " WHERE n.event = next.event AND n.channel = next.channel AND e.id = n.event"
                " RETURNING e.id, n.channel, n.attempts, e.run, e.at, e.name, e.caused_by, e.detail"
            ),
            {"channels": list(channels), "lease": lease_seconds},
        ).fetchone()


def mark_sent(conn: Connection, ledger: Ledger, notice: Notice) -> None:
    """Say that a notice was sent."""
    conn.execute(
        ledger.q(
            "UPDATE {s}.notice SET sent_at = clock_timestamp(), error = ''"
            " WHERE event = %s AND channel = %s AND sent_at IS NULL"
        ),
        [notice.id, notice.channel],
    )


def mark_unsent(
    conn: Connection, ledger: Ledger, notice: Notice, error: str, *, wait_seconds: float
) -> bool:
    """Say why a notice could not be sent, and when it is tried again; True when it is given up."""
    row = conn.execute(
        ledger.q(
            "UPDATE {s}.notice SET error = %(error)s,"
            " not_before = clock_timestamp() + make_interval(secs => %(wait)s),"
            " failed_at = CASE WHEN clock_timestamp() > %(at)s + %(kept)s::interval"
            " THEN clock_timestamp() END"
            " WHERE event = %(event)s AND channel = %(channel)s AND sent_at IS NULL"
            " RETURNING failed_at IS NOT NULL"
        ),
        {
            "error": error,
            "wait": wait_seconds,
            "at": notice.at,
            "kept": KEPT,
            "event": notice.id,
            "channel": notice.channel,
        },
    ).fetchone()
    return row is not None and row[0]


def give_up_strangers(conn: Connection, ledger: Ledger, channels: Sequence[str]) -> None:
    """Give up notices of channels that the settings do not have any more, when they are too old.

    Not before: another worker may have been started with newer settings.
    """
    conn.execute(
        ledger.q(
            "UPDATE {s}.notice AS n SET failed_at = clock_timestamp(),"
            " error = 'the settings have no channel of this name' FROM {s}.event AS e"
            " WHERE e.id = n.event AND n.sent_at IS NULL AND n.failed_at IS NULL"
            " AND n.channel <> ALL(%s) AND e.at < clock_timestamp() - %s::interval"
        ),
        [list(channels), KEPT],
    )


def wait_seconds(attempts: int) -> float:
    """How long to wait after so many attempts."""
    return min(LAST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0 ** min(attempts - 1, 20))
