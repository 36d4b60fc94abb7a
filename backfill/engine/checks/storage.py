"""Advice about what a write costs: indexes, locks, dead rows, what subscribers are sent."""

from __future__ import annotations

from collections.abc import Iterator

from backfill.engine.checks.finding import Finding, error, note, warning
from backfill.engine.checks.scene import Scene
from backfill.engine.columns import update_columns
from backfill.pg.inspect import Index, TableFacts

#: A fuller page has no room for the new version of a row.
ROOMY_FILLFACTOR = 90


def hindering_indexes(table: TableFacts, columns: tuple[str, ...]) -> list[Index]:
    """Indexes that keep an update of these columns from being heap-only (HOT)."""
    return [
        index
        for index in table.indexes
        if not index.keeps_hot and set(index.columns) & set(columns)
    ]


def index_on_written_column(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        table = effect.table
        if list(effect.events) != ["UPDATE"] or effect.columns is None:
            continue
        hindering = hindering_indexes(table, tuple(effect.columns))
        if not hindering:
            continue
        every = len(table.indexes)
        yield warning(
            "index-on-written-column",
            f"{', '.join(index.name for index in hindering)} of {table.name}"
            f" {'has' if len(hindering) == 1 else 'have'} a column that the job writes",
            why=f"No update can be heap-only (HOT): each of {scene.rows_told} gets a new entry in"
            f" every one of the {every} index{'es' * (every != 1)}, with the WAL for it, and the"
            " old ones stay until a VACUUM.",
            remedy="Where the index is new with its column, build it after the run: DROP INDEX"
            f" CONCURRENTLY {hindering[0].name}; and later CREATE INDEX CONCURRENTLY.",
        )


def no_room_on_pages(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        table = effect.table
        if list(effect.events) != ["UPDATE"] or effect.columns is None or not table.indexes:
            continue
        if (
            hindering_indexes(table, tuple(effect.columns))
            or table.storage.fillfactor <= ROOMY_FILLFACTOR
        ):
            continue
        yield note(
            "fillfactor",
            f"the pages of {table.name} are filled to {table.storage.fillfactor} %",
            why="The new version of a row finds no room beside the old one unless rows were deleted"
            " there, so many updates write to all indexes although no indexed column changes.",
            remedy=f"Where the table is rewritten anyway: ALTER TABLE {table.name} SET"
            f" (fillfactor = {ROOMY_FILLFACTOR}); it holds for pages that are filled from then on.",
        )


def stronger_lock(scene: Scene) -> Iterator[Finding]:
    subject = scene.subject
    if subject.writer.lock != "FOR UPDATE" or not any("UPDATE" in e.events for e in scene.effects):
        return
    columns = sorted(set(update_columns(subject.declaration)) & subject.source.locking_columns)
    children = sorted(
        {c.other for c in scene.source.constraints if c.kind == "f" and c.is_incoming}
    )
    message = (
        f"{', '.join(columns)} of {scene.source.name} is part of a unique index, so rows are taken"
        " FOR UPDATE"
    )
    if children:
        yield warning(
            "lock-strong",
            message,
            why=f"Inserts into {', '.join(children)} that refer to a row of the batch wait until"
            " its end; with the weaker lock they would not.",
            remedy="Make the index UNIQUE after the run, or let batches be short:"
            " target_batch_seconds=0.01.",
        )
    else:
        yield note(
            "lock-strong",
            message,
            why="Nothing refers to this table, so nobody waits for that who would not wait anyway."
            " Values that are there already put the row into quarantine.",
        )


def invalid_indexes(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        broken = [index.name for index in effect.table.indexes if not index.is_valid]
        if broken:
            yield note(
                "index-invalid",
                f"{', '.join(broken)} of {effect.table.name} is invalid",
                why="It serves no query, and every write pays for it: a CREATE INDEX CONCURRENTLY"
                " has failed, or is under way.",
                remedy=f"DROP INDEX CONCURRENTLY {broken[0]}; unless it is just being built.",
            )


def autovacuum_off(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        if list(effect.events) == ["INSERT"]:
            continue
        off = (
            f"autovacuum is off for {effect.table.name}"
            if effect.table.storage.autovacuum_off
            else "autovacuum is off on this server"
        )
        if effect.table.storage.autovacuum_off or not scene.server.autovacuum:
            yield warning(
                "autovacuum-off",
                off,
                why=f"The run leaves a dead version of {scene.rows_told}, and nothing clears them"
                " away: the table grows by as much.",
                remedy=f"ALTER TABLE {effect.table.name} RESET (autovacuum_enabled); or VACUUM it"
                " while the run works."
                if effect.table.storage.autovacuum_off
                else "Set autovacuum = on and track_counts = on, or VACUUM while the run works.",
            )


def published(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        table = effect.table
        if not table.storage.publications:
            continue
        names = ", ".join(table.storage.publications)
        has_primary_key = scene.subject.target.primary_key is not None
        identity = table.storage.replica_identity
        if list(effect.events) != ["INSERT"] and (
            identity == "n" or (identity == "d" and not has_primary_key)
        ):
            yield error(
                "no-replica-identity",
                f"{table.name} is published by {names} and has no replica identity",
                why="PostgreSQL refuses to update or delete its rows.",
                remedy=f"ALTER TABLE {table.name} REPLICA IDENTITY USING INDEX …; or FULL.",
            )
            continue
        whole = (
            " Its replica identity is FULL, so each change carries the old row, too, and a"
            " subscriber without a fitting index searches its whole table for it."
            if identity == "f"
            else ""
        )
        yield warning(
            "published",
            f"{table.name} is published by {names}",
            why=f"Every one of {scene.rows_told} that is written goes to the subscribers, who apply"
            f" them one by one; slots that fall behind keep the WAL on this server.{whole}",
            remedy="Give the run a rate that the subscribers can follow, and watch their lag with a"
            " signal.",
        )


CHECKS = (
    index_on_written_column,
    no_room_on_pages,
    stronger_lock,
    invalid_indexes,
    autovacuum_off,
    published,
)
