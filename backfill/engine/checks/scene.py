"""A job on its database, with all that the advice looks at: read once, then only thought about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from backfill.engine.checks.plan import PagePlan, page_plan
from backfill.engine.checks.subject import Subject
from backfill.engine.telling import in_a_reason
from backfill.errors import ProjectError
from backfill.job import Call, Delete, Insert, Options, Update
from backfill.pg.catalog import QUERY
from backfill.pg.connect import READ_LIMITS, Connection, Limits, transaction
from backfill.pg.failure import FaultKind, classify
from backfill.pg.inspect import TableFacts, facts_of_query, table_facts
from backfill.pg.planned import plan_of, relation_oids
from backfill.pg.surroundings import OpenTransaction, Server, open_transactions, server

#: Up to so many rows of the table the matching ones are counted, under COUNT_LIMITS.
COUNTED_ROWS = 2_000_000
COUNT_LIMITS = Limits(lock_timeout_seconds=1.0, statement_timeout_seconds=2.0)
#: A transaction that is open for so long is worth a word.
LONG_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Matching:
    """How many rows are the job's: counted, or the planner's estimate."""

    rows: int
    is_exact: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What the job does to a table.

    Attributes:
        events: of INSERT, UPDATE, DELETE.
        columns: those that are written; None: all of the row, or not known beforehand.
    """

    table: TableFacts
    events: Sequence[str]
    columns: Sequence[str] | None

    def touches(self, columns: Sequence[str]) -> bool:
        """Whether one of these columns is written."""
        return self.columns is None or bool(set(self.columns) & set(columns))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that the findings are made from.

    Attributes:
        reads_target: what is no table is made of the table that is written, too.
        page: None where the table is empty, or the statement could not be planned in time.
        scope_refusal: why the matching rows cannot be told.
        through_pooler: another process stands between us and the server.
    """

    subject: Subject
    options: Options
    source: TableFacts
    effects: Sequence[Effect]
    reads_target: bool
    matching: Matching | None
    scope_refusal: ProjectError | None
    page: PagePlan | None
    server: Server
    long_transactions: Sequence[OpenTransaction]
    role: str
    through_pooler: bool

    @property
    def rows_told(self) -> str:
        """How many rows the job is about, in words."""
        if self.matching is None:
            return "each row"
        about = "" if self.matching.is_exact else "about "
        return f"{about}{self.matching.rows:,} rows"


def read_scene(
    conn: Connection,
    subject: Subject,
    options: Options,
    *,
    is_plannable: bool,
    reader: Connection,
) -> Scene:
    """Look at everything; reads the catalog, plans statements, and counts where that is cheap.

    Args:
        reader: to the source's database; what is said of the server is of the one that is written.
        is_plannable: False: the job's statements were refused, so nothing is counted or planned.
    """
    declaration = subject.declaration
    event = {Insert: "INSERT", Delete: "DELETE"}.get(type(declaration.target), "UPDATE")
    source = (
        _of_query(reader, subject, is_plannable=is_plannable)
        if subject.source.kind in {QUERY, "v"}
        else table_facts(
            reader,
            subject.source.oid,
            name=subject.source.qualified,
            event="DELETE" if declaration.deletes_source else event,
        )
    )
    matching: Matching | None = None
    refusal: ProjectError | None = None
    if is_plannable:
        try:
            matching = count_matching(reader, subject)
        except ProjectError as error:
            refusal = error
    target = source
    if subject.target is not subject.source:
        target = table_facts(conn, subject.target.oid, name=subject.target.qualified, event=event)
    return Scene(
        subject=subject,
        options=options,
        source=source,
        reads_target=is_plannable and _reads_target(reader, subject),
        effects=[
            *_effects(subject, target),
            *(
                [Effect(table=source, events=["DELETE"], columns=None)]
                if declaration.deletes_source
                else []
            ),
        ],
        matching=matching,
        scope_refusal=refusal,
        page=page_plan(reader, subject, options) if is_plannable else None,
        server=server(conn),
        long_transactions=open_transactions(conn, seconds=LONG_SECONDS),
        role=conn.info.user,
        through_pooler=conn.prepare_threshold is None,
    )


def _of_query(conn: Connection, subject: Subject, *, is_plannable: bool) -> TableFacts:
    """A query, or a view, has no statistics; how wide its rows are the planner thinks it knows."""
    width: int | None = None
    if is_plannable:
        with transaction(conn, READ_LIMITS):
            width = plan_of(conn, subject.whole(), subject.arguments)["Plan Width"]
    return facts_of_query(subject.source.qualified, row_bytes=width)


def _reads_target(conn: Connection, subject: Subject) -> bool:
    if subject.source.is_lockable or subject.declaration.target_database is not None:
        return False
    with transaction(conn, READ_LIMITS):
        plan = plan_of(conn, subject.whole(), subject.arguments)
        return subject.target.oid in relation_oids(conn, plan)


def _effects(subject: Subject, target: TableFacts) -> list[Effect]:
    match subject.declaration.target:
        case Update():
            return [Effect(table=target, events=["UPDATE"], columns=subject.columns)]
        case Insert(on_conflict="update"):
            known = subject.known_columns
            return [Effect(table=target, events=["INSERT", "UPDATE"], columns=known)]
        case Insert():
            return [Effect(table=target, events=["INSERT"], columns=subject.known_columns)]
        case Call():
            return []
        case _:
            return [Effect(table=target, events=["DELETE"], columns=None)]


def count_matching(conn: Connection, subject: Subject) -> Matching | None:
    """How many rows are the job's; None: a lock keeps us from asking.

    Raises:
        ProjectError: where and todo cannot be computed for each row.
    """
    query = sql.SQL("SELECT {} FROM {} WHERE {}")
    where = (subject.keyset.from_table, subject.keyset.condition)
    try:
        with transaction(conn, COUNT_LIMITS):
            plan = conn.execute(
                sql.SQL("EXPLAIN (FORMAT json) ") + query.format(sql.SQL("1"), *where),
                subject.arguments,
            ).fetchone()
            estimate = int(plan[0][0]["Plan"]["Plan Rows"]) if plan else 0
            if max(estimate, subject.source.estimated_rows) > COUNTED_ROWS:
                return Matching(rows=estimate, is_exact=False)
            try:
                # a function in the scope may write: whoever only counts leaves nothing
                with conn.transaction(force_rollback=True):
                    row = conn.execute(
                        query.format(sql.SQL("count(*)"), *where), subject.arguments
                    ).fetchone()
            except psycopg.errors.QueryCanceled:
                return Matching(rows=estimate, is_exact=False)
            return Matching(rows=int(row[0]) if row else 0, is_exact=True)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.QueryCanceled):
        return None
    except psycopg.Error as error:
        fault = classify(error, writing=False)
        if fault.kind is not FaultKind.STOP:
            raise
        secrets = subject.declaration.secrets(subject.arguments)
        raise ProjectError(
            f"{subject.name}.source: where and todo cannot be computed for every row:"
            f" {in_a_reason(fault, secrets)}",
            remedy="Let the condition hold for rows of any kind, as CASE WHEN … THEN … END does:"
            " PostgreSQL computes the parts of AND in any order.",
        ) from error
