"""The plan of the statement that chooses a page: does it walk the key's index?

Planned with the bounds of a slice in the table's beginning, not executed. What is shown leaves the
conditions out: they quote values of keys and of parameters, which may be secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from backfill.engine.checks.subject import Subject
from backfill.engine.page import LEAST_SCAN_ROWS
from backfill.engine.sizing import FIRST_ROWS
from backfill.job import Options
from backfill.model import Key
from backfill.pg.connect import READ_LIMITS, Connection, transaction
from backfill.pg.keyset import bound
from backfill.pg.planned import Plan, plan_of

_WALKS = {"Index Scan", "Index Only Scan"}
_ASIDE = {"SubPlan", "InitPlan", "Inner"}
#: Reading a smaller table as a whole is no harm: 200 pages, in PostgreSQL's unit of cost.
WHOLE_COST = 200.0
#: A page of a query that costs so much, and this share of all the query, computes it as a whole.
DEAR_COST = 1_000.0
WHOLE_SHARE = 0.5
_SORTS = {"Sort", "Incremental Sort"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PagePlan:
    """How PostgreSQL would find a page.

    Attributes:
        walks_index: it reads the keys in the index's order, from the cursor on, and stops.
        told: the same in words.
        read_whole: tables without the index by which the scope, or the query, looks into them.
        lines: the plan, a line a node, indented.
    """

    walks_index: bool
    told: str
    read_whole: Sequence[str]
    lines: Sequence[str]


def page_plan(conn: Connection, subject: Subject, options: Options) -> PagePlan | None:
    """Plan the first full page of a run, with locks or without, as its batches will read it.

    Args:
        conn: to the source's database.

    Returns:
        None: the table has fewer than two rows, or is locked.

    Raises:
        UsageError: the job cannot work with the option `lock`.
    """
    is_unlocked = subject.reads_unlocked(options)
    keyset = subject.keyset
    is_lockable = subject.source.is_lockable
    try:
        with transaction(conn, READ_LIMITS, in_batch=True, joins_freely=not is_lockable):
            last = _key(conn, keyset.last_key(), subject.arguments)
            if last is None:
                return None
            first = _key(
                conn,
                keyset.nth_key(after=False),
                {**subject.arguments, **bound("upto", last), "rows": 1},
            )
            if first is None or first == last:
                return None
            upto = _key(
                conn,
                keyset.nth_key(after=True),
                {
                    **subject.arguments,
                    **bound("after", first),
                    **bound("upto", last),
                    "rows": options.slice_rows,
                },
            )
            statement: sql.Composable
            statement, arguments = _locked_page(subject)
            if is_unlocked:
                statement, arguments = subject.unlocked_page(after=True)
            plan = plan_of(
                conn,
                statement,
                {
                    **arguments,
                    **bound("after", first),
                    **bound("upto", upto or last),
                    "scan_rows": LEAST_SCAN_ROWS,
                    "page_rows": FIRST_ROWS,
                },
            )
            if is_lockable:
                return judged(plan, table=subject.source.name)
            return by_cost(plan, whole=plan_of(conn, subject.whole(), subject.arguments))
    except psycopg.errors.LockNotAvailable:
        return None
    except psycopg.errors.QueryCanceled:
        # of a table with an index on its key that is an accident
        return None if is_lockable else _of_query((), is_whole=True)


def by_cost(plan: Plan, *, whole: Plan) -> PagePlan:
    """Read the plan of what is no table, and so has no index that could be named.

    Args:
        whole: the plan of all its rows.
    """
    costs = plan["Total Cost"], whole["Total Cost"]
    is_whole = costs[1] >= DEAR_COST and costs[0] >= WHOLE_SHARE * costs[1]
    return _of_query(list(_told(plan, 0)), is_whole=is_whole)


def _of_query(lines: Sequence[str], *, is_whole: bool) -> PagePlan:
    return PagePlan(
        walks_index=not is_whole,
        told="computes most of the source" if is_whole else "begins behind the cursor",
        read_whole=(),
        lines=lines,
    )


def _locked_page(subject: Subject) -> tuple[sql.Composable, Mapping[str, Any]]:
    statement = subject.keyset.page(
        after=True,
        lock=subject.writer.lock,
        columns=subject.page_columns,
        all_keys=not subject.writer.writes_ranges,
    )
    return statement, subject.arguments


def _key(
    conn: Connection, statement: sql.Composed | sql.SQL, arguments: Mapping[str, Any]
) -> Key | None:
    row = conn.execute(statement, arguments).fetchone()
    return None if row is None else tuple(row[0])


def judged(plan: Mapping[str, Any], *, table: str) -> PagePlan:
    """Read a plan in EXPLAIN's JSON.

    Args:
        table: the source's name without its schema; partitions are known by it, with a number.
    """
    alias = re.compile(rf"{re.escape(table)}(_\d+)?")
    walks = []
    for node, above in _nodes(plan, ()):
        path = (*above, node)
        scan = next((i for i, n in enumerate(path) if _is_scan(n)), None)
        if scan is None or not alias.fullmatch(node.get("Alias", "")):
            continue
        if any(one.get("Parent Relationship") in _ASIDE for one in path[scan + 1 :]):
            continue  # what the scope's own sub-selects read, and the query
        walks.append(
            node["Node Type"] in _WALKS
            and "Index Cond" in node
            and not any(one["Node Type"] in _SORTS for one in path[scan:])
        )
    walks_index = bool(walks) and all(walks)
    return PagePlan(
        walks_index=walks_index,
        told="walks the key's index" if walks_index else "does NOT walk an index",
        read_whole=sorted(set(_read_whole(plan))),
        lines=list(_told(plan, 0)),
    )


def _is_scan(node: Mapping[str, Any]) -> bool:
    """Where the keys are looked at: in a page with locks, in one without."""
    return node.get("Subplan Name") == "CTE _scan" or node.get("Alias") == "_bf_scan"


def _read_whole(plan: Mapping[str, Any]) -> Iterator[str]:
    for node, above in _nodes(plan, ()):
        is_looked_up = any(
            one.get("Parent Relationship") in {"SubPlan", "Inner"} for one in (*above, node)
        )
        is_whole = node["Node Type"] == "Seq Scan" and node["Total Cost"] >= WHOLE_COST
        if is_looked_up and is_whole and "Relation Name" in node:
            yield node["Relation Name"]


def _nodes(
    node: Mapping[str, Any], above: tuple[Mapping[str, Any], ...]
) -> Iterator[tuple[Mapping[str, Any], tuple[Mapping[str, Any], ...]]]:
    yield node, above
    for child in node.get("Plans", ()):
        yield from _nodes(child, (*above, node))


def _told(node: Mapping[str, Any], depth: int) -> Iterator[str]:
    name = f"{node['Subplan Name']}: " if "Subplan Name" in node else ""
    index = f" using {node['Index Name']}" if "Index Name" in node else ""
    table = f" on {node['Relation Name']}" if "Relation Name" in node else ""
    more = [
        told
        for key, told in (("Index Cond", "index condition"), ("Filter", "filter"))
        if key in node
    ]
    yield (
        f"{'  ' * depth}{name}{node['Node Type']}{index}{table}"
        f" (cost {node['Total Cost']:.0f}, rows {node['Plan Rows']}"
        f"{''.join(f', {told}' for told in more)})"
    )
    for child in node.get("Plans", ()):
        yield from _told(child, depth + 1)
