"""Advice about what a write meets: triggers, rules, constraints, foreign keys, sequences."""

from __future__ import annotations

from collections.abc import Iterator

from backfill.engine.checks.finding import Finding, note, warning
from backfill.engine.checks.scene import Effect, Scene
from backfill.pg.inspect import Constraint, Trigger

_FIRES = {"origin": "OA", "local": "OA", "replica": "RA"}
_ON_DELETE = {
    "c": "its rows that refer to a deleted one are deleted, too, in the same batch: uncounted, and"
    " as many as there are",
    "n": "its rows that refer to a deleted one are changed, in the same batch: uncounted, and as"
    " many as there are",
    "a": "a row that it still refers to cannot be deleted, and goes into quarantine",
    "r": "a row that it still refers to cannot be deleted, and goes into quarantine",
}
_ON_DELETE["d"] = _ON_DELETE["n"]


def triggers(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        for trigger in effect.table.triggers:
            if trigger.enabled in _FIRES[scene.server.replication_role] and _fires(trigger, effect):
                yield _trigger(scene, effect, trigger)


def _fires(trigger: Trigger, effect: Effect) -> bool:
    hit = set(trigger.events) & set(effect.events)
    if hit == {"UPDATE"} and trigger.columns:
        return effect.touches(trigger.columns)
    return bool(hit)


def _trigger(scene: Scene, effect: Effect, trigger: Trigger) -> Finding:
    when = "before" if trigger.is_before else "after"
    how_often = f"for each of {scene.rows_told}" if trigger.is_per_row else "once a batch"
    deferred = (
        " It is deferred; in a batch it fires at once, so that its errors are the batch's."
        if trigger.is_deferred
        else ""
    )
    effect_told = (
        "It may change or suppress a row"
        if trigger.is_before
        else "What it does is done in the batch, under its locks"
    )
    return warning(
        "trigger-fires",
        f"trigger {trigger.name} of {trigger.table} calls {trigger.function}() {when}"
        f" {' or '.join(effect.events)}, {how_often}",
        why=f"{effect_told}; its time is the batch's.{deferred}",
        remedy="If a backfill is not its business, let it leave at once: IF"
        " coalesce(current_setting('backfill.run', true), '') <> '' THEN RETURN NEW; END IF;",
    )


def rules(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        if effect.table.storage.has_rules:
            yield warning(
                "rules",
                f"{effect.table.name} has rewrite rules",
                why="They change our statement, and what it says of the rows that it wrote.",
                remedy="Replace them by triggers, or look at the rows of a `backfill dry-run`.",
            )


def check_constraints(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        checks = [c for c in effect.table.constraints if c.kind == "c"]
        for constraint in checks:
            if not constraint.is_validated and "DELETE" not in effect.events:
                yield warning(
                    "check-not-valid",
                    f"constraint {constraint.name} of {effect.table.name} is NOT VALID",
                    why="Every write of a row checks it, also where its columns do not change: old"
                    " rows that violate it go into quarantine.",
                    remedy="See which rows violate it, and mend them first:"
                    f" {constraint.definition.removesuffix(' NOT VALID')}",
                )
        met = [c.name for c in checks if c.is_validated and effect.touches(c.columns)]
        if met and "DELETE" not in effect.events:
            yield note(
                "check-met",
                f"what is written to {effect.table.name} must satisfy {', '.join(met)}",
                why="Rows whose new values do not go into quarantine.",
                remedy="`backfill dry-run` shows whether some do.",
            )


def foreign_keys_out(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        if "DELETE" in effect.events:
            continue
        for key in effect.table.constraints:
            if key.kind != "f" or key.is_incoming or not effect.touches(key.columns):
                continue
            at_once = " It is deferrable; in a batch it is checked at once." * key.is_deferrable
            yield note(
                "foreign-key-out",
                f"{key.name}: each written row of {effect.table.name} is looked up in {key.other}",
                why=f"The row of {key.other} is locked FOR KEY SHARE until the batch's end: whoever"
                " deletes it, or changes its key, waits; a value that is not there puts the row"
                f" into quarantine.{at_once}",
            )


def foreign_keys_in(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        for key in effect.table.constraints:
            if key.kind != "f" or not key.is_incoming:
                continue
            if "DELETE" in effect.events:
                yield from _deleted(scene, effect, key)
            elif (
                "UPDATE" in effect.events
                and effect.columns is not None
                and effect.touches(key.columns)
            ):
                yield warning(
                    "foreign-key-in",
                    f"{key.name}: {key.other} refers to the column"
                    f" {', '.join(key.columns)} that the job writes in {effect.table.name}",
                    why="Each changed row is looked up there, and inserts of rows that refer to"
                    " it wait until the batch's end.",
                    remedy="Expand and contract with a new column, where that is possible.",
                )


def _deleted(scene: Scene, effect: Effect, key: Constraint) -> Iterator[Finding]:
    if not key.other_is_indexed:
        yield warning(
            "foreign-key-not-indexed",
            f"{key.name}: no index of {key.other} begins with ({', '.join(key.other_columns)})",
            why=f"Each deleted row of {effect.table.name} reads the whole of {key.other}.",
            remedy=f"CREATE INDEX CONCURRENTLY ON {key.other} ({', '.join(key.other_columns)});",
        )
    yield warning(
        "foreign-key-in",
        f"{key.name}: {key.other} refers to {effect.table.name}",
        why=f"With {scene.rows_told} deleted, {_ON_DELETE[key.on_delete]}. Inserts of rows that"
        " refer to a row in the batch wait until its end.",
        remedy=f"Give {key.other} a job of its own first, so that nothing refers to these rows.",
    )


def required_columns(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        if "INSERT" not in effect.events or effect.columns is None:
            continue
        missing = [
            column.name
            for column in effect.table.columns
            if column.not_null and not column.has_default and column.name not in effect.columns
        ]
        if missing:
            yield warning(
                "column-required",
                f"{scene.subject.name}.target does not write {', '.join(missing)} of"
                f" {effect.table.name}, which may not be NULL and has no default",
                why="Unless a trigger fills it, every row goes into quarantine.",
                remedy="Write it, or give the column a default.",
            )


def sequences(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        if "INSERT" not in effect.events or effect.columns is None:
            continue
        for column in effect.table.columns:
            if not column.sequence:
                continue
            if column.name in effect.columns:
                yield warning(
                    "sequence-behind",
                    f"the job writes values of its own into {effect.table.name}.{column.name},"
                    f" which the sequence {column.sequence} belongs to",
                    why="The sequence does not follow: the application's next inserts would meet"
                    " values that are there already.",
                    remedy=f"After the run, and before the application inserts: SELECT"
                    f" setval({_quoted(column.sequence)}, (SELECT max({column.name}) FROM"
                    f" {effect.table.name}));",
                )
            else:
                yield note(
                    "sequence-gaps",
                    f"{effect.table.name}.{column.name} takes its values from {column.sequence}",
                    why="A batch that is rolled back leaves gaps; so does a row that conflicts.",
                )


def _quoted(text: str) -> str:
    """As a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def partition_key(scene: Scene) -> Iterator[Finding]:
    for effect in scene.effects:
        if "UPDATE" not in effect.events or effect.columns is None:
            continue
        written = [
            c.name for c in effect.table.columns if c.in_partition_key and c.name in effect.columns
        ]
        if written:
            yield warning(
                "partition-key-written",
                f"the job writes {', '.join(written)}, by which {effect.table.name} is partitioned",
                why="A row whose partition changes is deleted and inserted; whoever waits for it"
                " then gets an error.",
                remedy="Move such rows with an Insert and a Delete, in an hour without traffic.",
            )


CHECKS = (
    triggers,
    rules,
    check_constraints,
    foreign_keys_out,
    foreign_keys_in,
    required_columns,
    sequences,
    partition_key,
)
