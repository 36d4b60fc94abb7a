"""Advice about the server and the sessions on it now."""

from __future__ import annotations

from collections.abc import Iterator

from backfill.engine.batch import DEADLOCK_TIMEOUT_SECONDS
from backfill.engine.checks.finding import Finding, error, note, warning
from backfill.engine.checks.scene import Scene

#: Fewer free connections than this beside those of the run: somebody will be refused.
SPARE_CONNECTIONS = 5
#: What each batch sets for itself, whatever the role or the database says (pg/connect.py).
OVERRIDDEN = {
    "statement_timeout",
    "lock_timeout",
    "idle_in_transaction_session_timeout",
    "default_transaction_isolation",
    "TimeZone",
    "DateStyle",
    "IntervalStyle",
    "extra_float_digits",
    "bytea_output",
    "row_security",
    "tcp_user_timeout",
    "client_connection_check_interval",
}
#: Settings of a role that matter to a backfill in no way, or have a finding of their own.
_ELSEWHERE = {
    "default_transaction_read_only",
    "session_replication_role",
    "transaction_timeout",
    "idle_session_timeout",
}


def writable(scene: Scene) -> Iterator[Finding]:
    if scene.server.is_standby:
        yield error(
            "standby",
            "this server is a standby",
            why="Nothing can be written to it.",
            remedy="Point the database's URL at the primary.",
        )
    elif scene.server.read_only:
        yield error(
            "read-only",
            "default_transaction_read_only is on for this role, database or server",
            why="A batch does not override it, because a full disk or an operator may have set it:"
            " the run would pause.",
            remedy=f"ALTER ROLE {scene.role} SET default_transaction_read_only = off; once it is"
            " clear why it was set.",
        )


def deadlock_timeout(scene: Scene) -> Iterator[Finding]:
    """I5: a batch's age plus its lock_timeout stays below the server's deadlock_timeout."""
    deadlock, lock = scene.server.deadlock_timeout, scene.options.lock_timeout_seconds
    batch = scene.options.target_batch_seconds
    # a Python transform is given the time up to DEADLOCK_TIMEOUT_SECONDS, whatever the server has
    locks_meanwhile = not scene.subject.reads_unlocked(scene.options)
    is_python = scene.subject.writer.is_python and locks_meanwhile
    longest = DEADLOCK_TIMEOUT_SECONDS if is_python else batch + lock
    if max(longest, batch + lock) <= deadlock:
        return
    yield warning(
        "deadlock-timeout",
        f"deadlock_timeout is {deadlock:g} s; a batch may be {max(batch, longest - lock):g} s old"
        f" when it begins to wait for a lock for {lock:g} s",
        why="In a deadlock PostgreSQL would end whoever waits for deadlock_timeout first, which may"
        " be the application; below it, the batch gives up before.",
        remedy=f"Give the job lock_timeout_seconds={max(0.001, round((deadlock - batch) / 2, 3)):g}"
        " or less, or raise deadlock_timeout to its default of 1 s.",
    )


def transaction_timeout(scene: Scene) -> Iterator[Finding]:
    limit = scene.server.transaction_timeout
    if 0 < limit < scene.options.statement_timeout_seconds:
        yield warning(
            "transaction-timeout",
            f"transaction_timeout is {limit:g} s, less than the job's statement_timeout_seconds of"
            f" {scene.options.statement_timeout_seconds:g} s",
            why="It ends the whole connection, and the batch is tried again on a new one.",
            remedy=f"Give the job statement_timeout_seconds={limit / 2:g}, or raise it for role"
            f" {scene.role}.",
        )


def idle_session_timeout(scene: Scene) -> Iterator[Finding]:
    limit = scene.server.idle_session_timeout
    if limit > 0:
        yield note(
            "idle-session-timeout",
            f"idle_session_timeout is {limit:g} s",
            why="A run that rests between batches for longer loses its connection, and opens"
            " another.",
        )


def role_settings(scene: Scene) -> Iterator[Finding]:
    own = {n: v for n, v in scene.server.own_settings.items() if n not in _ELSEWHERE}
    overridden = [f"{name}={own[name]}" for name in sorted(set(own) & OVERRIDDEN)]
    kept = [f"{name}={own[name]}" for name in sorted(set(own) - OVERRIDDEN)]
    if overridden:
        yield note(
            "settings-overridden",
            f"role {scene.role} has {', '.join(overridden)}",
            why="Batches set their own: statement_timeout"
            f" {scene.options.statement_timeout_seconds:g} s, lock_timeout"
            f" {scene.options.lock_timeout_seconds:g} s, isolation READ COMMITTED.",
            remedy="Change the job's options where other values are meant.",
        )
    if kept:
        yield note(
            "settings-kept",
            f"role {scene.role} has {', '.join(kept)}",
            why="Batches run with them.",
        )


def replication_role(scene: Scene) -> Iterator[Finding]:
    if scene.server.replication_role == "replica":
        yield warning(
            "replication-role",
            f"session_replication_role is replica for role {scene.role}",
            why="Triggers do not fire and foreign keys are not checked in the run's batches.",
            remedy=f"ALTER ROLE {scene.role} RESET session_replication_role; unless it is meant.",
        )


def synchronous_standby(scene: Scene) -> Iterator[Finding]:
    server = scene.server
    if not server.synchronous_standbys or server.synchronous_commit in {"off", "local"}:
        return
    told = f"synchronous_standby_names is {server.synchronous_standbys!r}"
    if server.sees_all and server.connected_synchronous == 0:
        yield warning(
            "synchronous-standby-away",
            f"{told}, and no such standby is connected",
            why="Every commit waits for it, without a time-out: batches, and the application.",
            remedy="Bring the standby back, or change synchronous_standby_names.",
        )
    else:
        yield note(
            "synchronous-standby",
            told,
            why="Each batch's commit waits until the standby has its WAL; its rows stay locked"
            " meanwhile.",
        )


def idle_slots(scene: Scene) -> Iterator[Finding]:
    if scene.server.idle_slots:
        yield warning(
            "replication-slot-idle",
            f"nobody reads from the replication slot {', '.join(scene.server.idle_slots)}",
            why="It keeps all WAL that the run writes, until the disk is full.",
            remedy="Bring its reader back, or SELECT pg_drop_replication_slot(…).",
        )


def long_transactions(scene: Scene) -> Iterator[Finding]:
    if scene.long_transactions:
        told = "; ".join(f"{t.who}, open for {t.seconds:,.0f} s" for t in scene.long_transactions)
        yield warning(
            "transaction-long",
            told,
            why="No dead row is cleared away as long as it is open, so the table grows by what the"
            " run writes; and a run waits for older writers before it begins.",
            remedy="Wait for it or end it, and set a signal oldest_transaction for the run.",
        )


def connections(scene: Scene) -> Iterator[Finding]:
    free, needed = scene.server.free_connections, scene.options.concurrency + SPARE_CONNECTIONS
    if free < needed:
        yield warning(
            "connections-short",
            f"{max(free, 0)} connections are free; the run takes {scene.options.concurrency}, and"
            " workers a few of their own",
            why="The application would be refused connections.",
            remedy="Lower the run's concurrency, or go through a pooler.",
        )


def pooler(scene: Scene) -> Iterator[Finding]:
    if scene.through_pooler:
        yield note(
            "pooler",
            "the connection goes through a pooler in transaction mode",
            why="Statements are not prepared there; everything else works as without it.",
        )


def blind(scene: Scene) -> Iterator[Finding]:
    if not scene.server.sees_all:
        yield note(
            "sessions-hidden",
            f"role {scene.role} may not see what other roles' sessions do",
            why="Signals of waiting sessions and long transactions cannot be read, nor could this"
            " check look for them.",
            remedy=f"GRANT pg_read_all_stats TO {scene.role}; `backfill db grants` prints it.",
        )


CHECKS = (
    writable,
    deadlock_timeout,
    transaction_timeout,
    idle_session_timeout,
    role_settings,
    replication_role,
    synchronous_standby,
    idle_slots,
    long_transactions,
    connections,
    pooler,
    blind,
)
