"""How a job's target is written: one set-based statement a batch, never one a row.

Which lock the rows are taken with follows from the write (I5): a plain FOR UPDATE on a parent
blocks inserts of its children, so it is used only where the write itself needs it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psycopg import sql

from backfill.engine.columns import copied_columns, row_lock
from backfill.engine.faults import StopError
from backfill.engine.lines import Line, Written, groups
from backfill.engine.rows import query_of
from backfill.job import Call, Delete, Insert, Update
from backfill.job.declaration import Declaration, sql_fragment
from backfill.model import Key
from backfill.pg.catalog import Relation, as_template, identifier, identifiers
from backfill.pg.connect import Connection
from backfill.pg.keyset import Keyset, RowLock, array_literal, key_arrays
from backfill.pg.query import ROWS
from backfill.pg.values import Text, UnfitValueError, ValueTexts

Values = Mapping[str, Any]


class Writer:
    """Writes one job's batches.

    Args:
        source: the source's table.
        target: the table that is written; the source's own for Update and Delete.
        arguments: values of the declared parameters, by placeholder.

    Attributes:
        returning, returned: what an Insert is to tell of the rows that it writes, and what it told;
            None in production.
    """

    def __init__(
        self,
        declaration: Declaration,
        keyset: Keyset,
        *,
        source: Relation,
        target: Relation,
        arguments: Mapping[str, Any],
    ) -> None:
        self._declaration = declaration
        self._target = declaration.target
        self._keyset = keyset
        self._source = source
        self._relation = target
        self._arguments = arguments
        self._query = query_of(declaration)
        self.lock: RowLock = row_lock(declaration, source)
        self._checked: set[tuple[str, ...]] = set()
        self._statements: dict[object, sql.SQL] = {}
        self.returning: sql.Composable | None = None
        self.returned: list[tuple[Any, ...]] = []
        self.by_key = None if self.is_python else self._set_based()

    @property
    def is_python(self) -> bool:
        """Whether rows come through Python; otherwise PostgreSQL computes from the keys alone."""
        return self._is_apart or self._declaration.kind in {"row", "batch"}

    @property
    def locks_rows(self) -> bool:
        """Whether rows are locked before they are done; not for Call."""
        return not isinstance(self._target, Call) and not self._is_apart

    @property
    def _is_apart(self) -> bool:
        """Whether the rows are where the write cannot lock them, such as another database."""
        return self._declaration.target_database is not None or not self._source.is_lockable

    @property
    def writes_rows(self) -> bool:
        """Whether anything of the user's is written; not for Call."""
        return not isinstance(self._target, Call)

    @property
    def table(self) -> Relation:
        """The table that is written."""
        return self._relation

    @property
    def table_oid(self) -> int:
        """Its oid."""
        return self._relation.oid

    @property
    def skips_conflicts(self) -> bool:
        """Whether a key without effect was skipped by a conflict, as the target says."""
        return isinstance(self._target, Insert) and self._target.on_conflict == "skip"

    def write_keys(self, conn: Connection, keys: Sequence[Key]) -> Written:
        """Write the rows of these keys, computed by PostgreSQL after they were locked."""
        if self.by_key is None:
            raise TypeError("this job's values are computed in Python")
        if not keys:
            return Written(rows=0, keys=0, missing=0)
        rows = self._execute(
            conn, self.by_key, {**self._arguments, **key_arrays(keys, len(self._keyset.columns))}
        )
        return Written(rows=rows, keys=rows, missing=len(keys) - rows)

    def by_values(self, columns: Sequence[str]) -> sql.Composed:
        """The statement that writes what Python computed for these columns, as `v_0 …`."""
        return self._valued(columns, (None,) * len(columns))

    @property
    def writes_ranges(self) -> bool:
        """Whether a page of which every row was taken can be written by its bounds alone."""
        is_plain = self._query is None and not isinstance(self._target, Insert)
        return is_plain and not self.is_python

    def write_range(
        self, conn: Connection, taken: int, *, after: bool, bounds: Mapping[str, Any]
    ) -> Written:
        """Write all that matches between the bounds, every row of which this transaction holds.

        A row that was committed there since the page was taken is written with them: it is ours,
        and the cursor passes it. It cannot be waited for longer than lock_timeout.
        """
        rows = conn.execute(
            self._once(("range", after), lambda: self._ranged(after=after)),
            {**self._arguments, **bounds},
        ).rowcount
        return Written(rows=rows, keys=rows, missing=max(0, taken - rows))

    def write_values(
        self, conn: Connection, texts: ValueTexts, rows: Sequence[tuple[Key, Sequence[Values]]]
    ) -> Written:
        """Write what Python computed; a row with a value that has no form in PostgreSQL is unfit.

        Raises:
            StopError: values name columns that cannot be written.
        """
        if isinstance(self._target, Call):  # it has happened already
            return Written(rows=len(rows), keys=len(rows), missing=0)
        if (written := self._write_alike(conn, texts, rows)) is not None:
            return written
        unfit: list[tuple[Key, str]] = []
        lines: list[Line] = []
        fit = 0
        for key, several in rows:
            try:
                lines += [Line(key, tuple(v), self._texts(texts, v)) for v in several]
            except UnfitValueError as error:
                unfit.append((key, str(error)))
                continue
            fit += 1
        meant = len(lines)
        done = sum(self._write_group(conn, *group) for group in groups(lines))
        # several rows a key: which of them met a conflict is not known, so keys count as written
        # as long as enough rows were; the smallest number that is certainly right
        keys = done if meant == fit else min(fit, done)
        return Written(rows=done, keys=keys, missing=fit - keys, unfit=unfit)

    def _write_alike(
        self, conn: Connection, texts: ValueTexts, rows: Sequence[tuple[Key, Sequence[Values]]]
    ) -> Written | None:
        """The usual case, column by column: one mapping a key, all with the same columns.

        None when it is not the usual case, or a value needs a look of its own.
        """
        if not rows:
            return Written(rows=0, keys=0, missing=0)
        keys, written = zip(*rows, strict=True)
        if set(map(len, written)) != {1}:
            return None
        mappings = [several[0] for several in written]
        columns = tuple(mappings[0])
        if set(map(type, mappings)) != {dict} or set(map(len, mappings)) != {len(columns)}:
            return None
        self._check_columns(columns)
        arrays: dict[str, str] = {}
        for i, column in enumerate(columns):
            try:
                values = [mapping[column] for mapping in mappings]
            except KeyError:  # as many columns, but others
                return None
            converted = texts.all_of(self._relation.columns[column], values)
            if converted is None:
                return None
            arrays[f"v_{i}"] = array_literal(converted)
        done = self._execute(
            conn,
            self._once(columns, lambda: self.by_values(columns)),
            {**arrays, **key_arrays(keys, len(self._keyset.columns))},
        )
        return Written(rows=done, keys=done, missing=len(rows) - done)

    def _texts(self, texts: ValueTexts, values: Values) -> list[Text]:
        self._check_columns(tuple(values))
        return [
            texts.text_of(self._relation.columns[column], value) for column, value in values.items()
        ]

    def _write_group(
        self,
        conn: Connection,
        columns: tuple[str, ...],
        types: tuple[str | None, ...],
        lines: Sequence[Line],
    ) -> int:
        arrays = {
            f"v_{i}": array_literal([line.texts[i][0] for line in lines])
            for i in range(len(columns))
        }
        keys = key_arrays([line.key for line in lines], len(self._keyset.columns))
        return self._execute(conn, self._valued(columns, types), {**arrays, **keys})

    def _execute(
        self, conn: Connection, statement: sql.SQL | sql.Composed, arguments: Mapping[str, Any]
    ) -> int:
        """Run a write; returns how many rows it reports, and keeps what was asked for of them."""
        if self.returning is None:
            return conn.execute(statement, arguments).rowcount
        told = conn.execute(sql.SQL("{} RETURNING {}").format(statement, self.returning), arguments)
        self.returned += told.fetchall()
        return told.rowcount

    def _check_columns(self, columns: tuple[str, ...]) -> None:
        if columns in self._checked:
            return
        name = self._declaration.job_class.__name__
        match self._target:
            case Update(columns=declared):
                allowed: Sequence[str] = declared
            case Insert(columns=tuple() as declared):
                allowed = declared
            case _:
                allowed = tuple(self._relation.columns)
        unknown = [column for column in columns if column not in allowed]
        is_short = isinstance(self._target, Update) and set(columns) != set(allowed)
        is_empty = isinstance(self._target, Insert) and not columns
        if unknown or is_short or is_empty:
            told = ", ".join(map(str, columns)) or "(none)"
            raise StopError(
                f"{name}: the transform returned the columns {told}; its"
                f" target writes {', '.join(allowed)}",
                summary="the transform returned other columns than its target",
            )
        self._checked.add(columns)

    # --- statements -------------------------------------------------------------------------

    def _fragment(self, text: str) -> sql.SQL:
        return sql.SQL(sql_fragment(text, self._declaration.params))  # the user's own SQL

    def _set_based(self) -> sql.Composed:
        """The rows of the keys are locked: their columns, and what sub-selects read, are new."""
        expressions = self._expressions()
        match self._target:
            case Delete():
                return self._delete()
            case Update() if self._query is not None:
                return self._query.update(self._keyset, expressions)
            case Insert() as insert:
                ordered = [c for c in self._conflict_columns(insert) if c in expressions]
                return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}{}{}").format(
                    as_template(self._relation.qualified),  # quoted by PostgreSQL
                    identifiers(list(expressions)),
                    sql.SQL(", ").join(expressions.values()),
                    self._rows(),
                    _order([expressions[column] for column in ordered]),
                    self._on_conflict(insert, list(expressions)),
                )
            case _:
                return sql.SQL("UPDATE {} SET {} FROM {} WHERE {}").format(
                    self._keyset.from_table,
                    _assigned(expressions),
                    self._keyset.unnested(),
                    self._keyset.joined(),
                )

    @property
    def values_and_rows(self) -> tuple[list[sql.Composable], sql.Composable]:
        """What PostgreSQL computes, and what follows FROM there, for the rows of given keys."""
        return list(self._expressions().values()), self._rows()

    def _rows(self) -> sql.Composable:
        """What follows FROM, for the rows of the keys `k_0 …`."""
        if self._query is not None:
            return self._query.rows(self._keyset)
        return sql.SQL("{}, {} WHERE {}").format(
            self._keyset.from_table, self._keyset.unnested(), self._keyset.joined()
        )

    def _once(self, form: object, make: Callable[[], sql.Composed]) -> sql.SQL:
        """The statement of that form, composed for the first batch that needs it."""
        if form not in self._statements:
            self._statements[form] = sql.SQL(make().as_string(None))
        return self._statements[form]

    def _ranged(self, *, after: bool) -> sql.Composed:
        keyset = self._keyset
        where = sql.SQL("{} AND ({})").format(keyset.between(after=after), keyset.condition)
        if isinstance(self._target, Delete):
            return sql.SQL("DELETE FROM {} WHERE {}").format(keyset.from_table, where)
        return sql.SQL("UPDATE {} SET {} WHERE {}").format(
            keyset.from_table, _assigned(self._expressions()), where
        )

    def _expressions(self) -> dict[str, sql.Composable]:
        if self._declaration.sql is not None:
            return {
                column: sql.SQL("({})").format(self._fragment(text))
                for column, text in self._declaration.sql.expressions.items()
            }
        if isinstance(self._target, Insert):
            return {
                column: sql.SQL("{}.{}").format(
                    self._keyset.from_table if self._query is None else ROWS, identifier(column)
                )
                for column in copied_columns(self._declaration, self._source, self._relation)
            }
        return {}

    def _delete(self) -> sql.Composed:
        return sql.SQL("DELETE FROM {} USING {} WHERE {}").format(
            self._keyset.from_table, self._keyset.unnested(), self._keyset.joined()
        )

    def _valued(self, columns: Sequence[str], types: Sequence[str | None]) -> sql.Composed:
        """The write of values that come as arrays `v_0 …`.

        Args:
            types: what each is read as; None: as its column's own type. The assignment converts.
        """
        if isinstance(self._target, Delete):
            return self._delete()
        relation = self._relation
        extra: list[tuple[str, str]] = []
        values: dict[str, sql.Composable] = {}
        for i, (name, type_) in enumerate(zip(columns, types, strict=True)):
            column = relation.columns[name]
            read_as = type_ or column.type
            # unnest would take arrays and composites to pieces: they are read one by one
            is_nested = read_as.endswith("[]") or column.is_nested
            extra.append((f"v_{i}", "text" if is_nested else read_as))
            values[name] = sql.SQL("_bf.{}{}").format(
                sql.Identifier(f"_v{i}"), as_template(f"::{read_as}" if is_nested else "")
            )
        if isinstance(self._target, Insert):
            ordered = [c for c in self._conflict_columns(self._target) if c in values]
            return sql.SQL("INSERT INTO {} ({}) SELECT {} FROM {}{}{}").format(
                as_template(relation.qualified),  # quoted by PostgreSQL
                identifiers(columns),
                sql.SQL(", ").join(values.values()),
                self._keyset.unnested(extra),
                _order([values[column] for column in ordered]),
                self._on_conflict(self._target, columns),
            )
        return sql.SQL("UPDATE {} SET {} FROM {} WHERE {}").format(
            self._keyset.from_table,
            _assigned(values),
            self._keyset.unnested(extra),
            self._keyset.joined(),
        )

    def _conflict_columns(self, insert: Insert) -> tuple[str, ...]:
        return insert.conflict or self._relation.primary_key or ()

    def _on_conflict(self, insert: Insert, columns: Sequence[str]) -> sql.Composable:
        named = (
            sql.SQL(" ({})").format(identifiers(insert.conflict))
            if insert.conflict
            else sql.SQL("")
        )
        if insert.on_conflict == "error":
            return sql.SQL("")
        if insert.on_conflict == "skip":
            return sql.SQL(" ON CONFLICT{} DO NOTHING").format(named)
        conflict = self._conflict_columns(insert)
        # where nothing else is written, the conflict's own columns: "equal" need not be "the same",
        # and a row that was there already is one that arrived
        changed = [column for column in columns if column not in conflict] or columns
        return sql.SQL(" ON CONFLICT ({}) DO UPDATE SET {}").format(
            identifiers(conflict),
            sql.SQL(", ").join(
                sql.SQL("{0} = excluded.{0}").format(identifier(column)) for column in changed
            ),
        )


def _assigned(values: Mapping[str, sql.Composable]) -> sql.Composed:
    """`"a" = …, "b" = …`."""
    return sql.SQL(", ").join(
        sql.SQL("{} = {}").format(identifier(column), value) for column, value in values.items()
    )


def _order(expressions: Sequence[sql.Composable]) -> sql.Composable:
    """Conflicting inserts wait for each other: in one order, so that they cannot deadlock (I5).

    A constant by itself would be the place of a column, or refused; the planner takes CASE away.
    """
    if not expressions:
        return sql.SQL("")
    return sql.SQL(" ORDER BY {}").format(
        sql.SQL(", ").join(sql.SQL("CASE WHEN true THEN {} END").format(one) for one in expressions)
    )
