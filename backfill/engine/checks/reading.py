"""Advice about the source: how its rows are found, and what reading them costs."""

from __future__ import annotations

from collections.abc import Iterator

from backfill.engine.checks.finding import Finding, error, note, warning
from backfill.engine.checks.key import check_mutable_key
from backfill.engine.checks.scene import Scene
from backfill.engine.checks.tables import kind_told
from backfill.engine.page import SCAN_ROWS_PER_ROW
from backfill.errors import ProjectError
from backfill.job import Query
from backfill.pg.catalog import QUERY

#: A Python transform without `columns` is given whole rows; wider ones are worth naming columns.
WIDE_BYTES = 1_000
#: A smaller table is planned as a whole, whatever its indexes are.
SMALL_PAGES = 200
#: Each page of keys opens every partition.
MANY_PARTITIONS = 100
#: Below it the key's order is not that of the heap.
IN_ORDER = 0.5
#: More dead rows than this share make every read slower.
BLOATED_SHARE = 0.2
#: A sparse scope of fewer rows is walked in a moment.
SPARSE_ROWS = 100_000


def mutable_key(scene: Scene) -> Iterator[Finding]:
    yield from check_mutable_key(scene.subject.declaration, scene.subject.key)


def scope_not_computable(scene: Scene) -> Iterator[Finding]:
    refusal = scene.scope_refusal
    if refusal is not None:
        yield error(
            "scope-not-computable",
            refusal.message,
            why="The run would pause at the first page with such a row.",
            remedy=refusal.remedy,
            refusal=ProjectError,
        )


def page_without_index(scene: Scene) -> Iterator[Finding]:
    if scene.page is None or scene.page.walks_index:
        return
    if not scene.subject.source.is_lockable:
        yield _computed_whole(scene)
        return
    name, table = scene.subject.name, scene.source
    message = f"{name}.source: the page of keys is not read by walking an index of {table.name}"
    if table.storage.pages < SMALL_PAGES:
        yield note(
            "page-small-table",
            message,
            why=f"The table has {table.storage.pages} pages, which PostgreSQL reads as a whole.",
        )
        return
    yield warning(
        "page-without-index",
        message,
        why="Each batch would read far more than its rows.",
        remedy=f"ANALYZE {table.name}; then look at the plan again.",
    )


def _computed_whole(scene: Scene) -> Finding:
    source = scene.subject.source
    told = source.qualified
    return warning(
        "page-computes-all",
        f"{scene.subject.name}.source: each page computes most of {told}",
        why="PostgreSQL cannot begin behind the cursor, so each batch costs as much as all rows: a"
        " run of many batches reads everything as often, and statement_timeout may end a page.",
        remedy="Let the key be columns that it groups by, or that an index gives in order. Or keep"
        " the rows: CREATE MATERIALIZED VIEW … AS …; CREATE UNIQUE INDEX ON … (its key); and name"
        " that as the Table.",
    )


def not_locked(scene: Scene) -> Iterator[Finding]:
    source = scene.subject.source
    if source.is_lockable:
        return
    a_kind = "a query that names no table" if source.kind == QUERY else f"a {kind_told(source)}"
    yield note(
        "source-not-locked",
        f"{scene.subject.name}.source is {a_kind}: its rows are read without locks, and its keys"
        " are checked as they are read",
        why="A row may change between the reading and the write. A key that two rows have, or with"
        " a NULL in it, stops the run.",
        remedy="What changes after it was read is yours to bring over: by the application, or by a"
        " second run.",
    )


def foreign(scene: Scene) -> Iterator[Finding]:
    if scene.subject.source.kind == "f":
        yield warning(
            "source-foreign",
            f"{scene.subject.source.qualified} is a foreign table: transactions that write it on"
            " their server cannot be seen from here",
            why="A run cannot wait for those that are open when it begins, so a row that one of"
            " them commits behind the cursor is missed. Keys of text are compared there, too: both"
            " servers must sort them alike.",
            remedy="Begin when no long transaction writes it, or copy what is missing in a second"
            " run.",
        )


def reads_target(scene: Scene) -> Iterator[Finding]:
    if scene.reads_target:
        yield warning(
            "source-reads-target",
            f"{scene.subject.name}.source is made of {scene.subject.target.qualified}, too, which"
            " the job writes",
            why="Each batch may change what the next one finds.",
            remedy="Be sure that no row that the job writes becomes one of its source, or changes"
            " one.",
        )


def lookup_without_index(scene: Scene) -> Iterator[Finding]:
    for table in scene.page.read_whole if scene.page is not None else ():
        yield warning(
            "lookup-without-index",
            f"{scene.subject.name}.source: {table} is read as a whole to tell which keys are ours",
            why="For each key, or at best for each batch, all of that table is read.",
            remedy=f"Create an index on the columns of {table} that the query or the condition"
            " compares; ANALYZE it, if there is one.",
        )


def sparse_scope(scene: Scene) -> Iterator[Finding]:
    matching, rows = scene.matching, scene.source.storage.rows
    if matching is None or rows < SPARSE_ROWS or matching.rows * SCAN_ROWS_PER_ROW >= rows:
        return
    yield warning(
        "scope-sparse",
        f"{scene.subject.name}.source: {scene.rows_told} of {rows:,.0f} match where and todo",
        why="A run walks the key through all rows, and reads each of them, to find these few."
        " An index on the scope does not help the walk.",
        remedy="Where the few lie together, walk by a key that has them together. Else it is a"
        " matter of time only: batches stay bounded by the keys that they look at.",
    )


def nothing_matches(scene: Scene) -> Iterator[Finding]:
    if scene.matching is not None and scene.matching.is_exact and scene.matching.rows == 0:
        yield note(
            "nothing-matches",
            f"{scene.subject.name}.source: no row matches where and todo now",
            why="A run would walk the table and write nothing.",
            remedy="If that is a surprise, look at the scope and at the parameters.",
        )


def never_analyzed(scene: Scene) -> Iterator[Finding]:
    if not scene.source.storage.analyzed:
        yield warning(
            "never-analyzed",
            f"{scene.source.name} has never been analysed",
            why="Plans, totals and the estimates below rest on its statistics.",
            remedy=f"ANALYZE {scene.source.name};",
        )


def wide_rows(scene: Scene) -> Iterator[Finding]:
    width = scene.source.row_bytes
    subject = scene.subject
    declared = subject.declaration.source
    computes = subject.declaration.computes
    if computes or isinstance(declared, Query) or declared.columns is not None:
        return
    if width is not None and width > WIDE_BYTES:
        yield warning(
            "rows-wide",
            f"{subject.name}.source names no columns, and a row of {scene.source.name} has"
            f" {width:,} bytes on average",
            why="Every row is sent to Python whole, while it is locked.",
            remedy="Name what the transform reads: Table(…, columns=[…]).",
        )


def random_order(scene: Scene) -> Iterator[Finding]:
    column = scene.source.column(scene.subject.key[0])
    if column is None or column.correlation is None or scene.source.storage.pages < SMALL_PAGES:
        return
    if abs(column.correlation) < IN_ORDER:
        yield note(
            "key-order-random",
            f"{scene.subject.name}.source: the key {', '.join(scene.subject.key)} does not follow"
            f" the order of the rows on the disk (correlation {column.correlation:.2f})",
            why="A batch touches about as many pages as it has rows: more reads, and more WAL after"
            " each checkpoint.",
            remedy="Where another unique key follows the order of insertion, walk by that one.",
        )


def partitions(scene: Scene) -> Iterator[Finding]:
    source, children = scene.subject.source, scene.source.storage.children
    if not children:
        return
    if source.kind != "p":
        yield warning(
            "inheritance",
            f"{children} tables inherit from {source.qualified}",
            why="Their rows are taken, too, and no index says that a key is unique over all of"
            " them: a key that two rows have stops the run.",
            remedy="Give each table a run of its own, or be sure that the keys differ.",
        )
    elif children > MANY_PARTITIONS:
        yield warning(
            "partitions-many",
            f"{source.qualified} has {children} partitions",
            why="Each page of keys looks into every partition that its bounds do not exclude.",
            remedy="A key that begins with the partition key lets PostgreSQL leave the others out;"
            " else give a partition a run of its own.",
        )


def persistence(scene: Scene) -> Iterator[Finding]:
    tables = {table.name: table for table in (scene.source, *(e.table for e in scene.effects))}
    for name, table in tables.items():
        if table.storage.persistence == "t":
            yield error(
                "table-temporary",
                f"{name} is a temporary table",
                why="Other sessions, and so workers, cannot see it.",
                remedy="Use a table that is there for all.",
            )
        elif table.storage.persistence == "u":
            yield warning(
                "table-unlogged",
                f"{name} is unlogged",
                why="A crash empties it, while the ledger says that the work is done.",
                remedy=f"ALTER TABLE {name} SET LOGGED; or begin a new run after a crash.",
            )


def bloat(scene: Scene) -> Iterator[Finding]:
    storage = scene.source.storage
    if storage.dead_rows > BLOATED_SHARE * max(storage.rows, 1) and storage.pages >= SMALL_PAGES:
        yield note(
            "table-bloated",
            f"{scene.source.name} has {storage.dead_rows:,} dead rows beside"
            f" {storage.rows:,.0f} live ones",
            why="Each page of keys reads past them.",
            remedy=f"VACUUM (ANALYZE) {scene.source.name}; before the run.",
        )


CHECKS = (
    mutable_key,
    scope_not_computable,
    page_without_index,
    not_locked,
    foreign,
    reads_target,
    lookup_without_index,
    sparse_scope,
    nothing_matches,
    never_analyzed,
    wide_rows,
    random_order,
    partitions,
    persistence,
    bloat,
)
