"""Installs and upgrades the ledger: numbered SQL files beside this module, each applied once.

1. An upgrade is one transaction: it is done wholly, or not at all.
2. It is made while runs live (I5). It asks for its locks as a batch does, for half a second, below
   the server's deadlock_timeout: so it never keeps a batch waiting longer, and of the two that want
   each other's locks it gives up itself, and tries again. A batch that met it tries again, too.
3. It is made first, and then workers get the new package, one after the other: code works with a
   newer ledger, as long as that has only been added to (schema/006_versions.sql), and asks for an
   upgrade where it is older. Statements name their columns (columns.py) for the same reason.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import resources

import psycopg
from psycopg import sql

from backfill.errors import LedgerError, UsageError
from backfill.pg.connect import LEDGER_LIMITS, Connection, transaction

#: The version of the ledger that this code writes.
VERSION = 6

#: Serialises two upgrades of one database; any constant that no other tool uses will do.
_ADVISORY_LOCK = 0x6261636B66696C6C  # "backfill"

#: For each lock of an upgrade; see the module.
LOCK_SECONDS = 0.5
#: How long an upgrade tries to get its locks.
TRY_SECONDS = 60.0


_LIMITS = replace(LEDGER_LIMITS, lock_timeout_seconds=LOCK_SECONDS)


def script(version: int, *, schema: str) -> sql.Composed:
    """The SQL that brings a ledger from the version before to `version`."""
    folder = resources.files("backfill.pg") / "schema"
    names = [f.name for f in folder.iterdir() if f.name.startswith(f"{version:03d}_")]
    text = (folder / names[0]).read_text(encoding="utf-8")
    return sql.SQL(text).format(schema=sql.Identifier(schema))


def installed_version(conn: Connection, *, schema: str = "backfill") -> int:
    """The version of the installed ledger; 0 when there is none.

    Raises:
        LedgerError: this role may not read it, or it has lost its one row.
    """
    try:
        row = conn.execute("SELECT to_regclass(%s)", [f'"{schema}".ledger']).fetchone()
        if row is None or row[0] is None:
            return 0
        found = conn.execute(
            sql.SQL("SELECT version FROM {}.ledger").format(sql.Identifier(schema))
        ).fetchone()
    except psycopg.errors.InsufficientPrivilege as error:
        raise LedgerError(
            f"this role may not use the ledger in schema {schema}: {error.diag.message_primary}",
            remedy="Let its owner run what `backfill db grants ROLE` prints, with ROLE for"
            f" {conn.info.user}.",
        ) from error
    if found is None:
        raise LedgerError(
            f"the ledger in database {conn.info.dbname} has lost its identity: its table ledger"
            " is empty",
            remedy="Restore the row of table ledger from a backup.",
        )
    return int(found[0])


def may_upgrade(conn: Connection, *, schema: str) -> bool:
    """Whether this role may install the ledger, or upgrade it where it is. Reads the catalog only.

    Only a table's owner may alter it.
    """
    row = conn.execute(
        "SELECT coalesce((SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class"
        " WHERE relnamespace = to_regnamespace(%(name)s) AND relkind = 'r'),"
        " has_database_privilege(current_database(), 'CREATE'))",
        {"name": f'"{schema}"'},
    ).fetchone()
    return row == (True,)


def require_version(conn: Connection, *, schema: str) -> None:
    """See that this code works with the installed ledger.

    Raises:
        LedgerError: it does not, or there is none, or this role may not read it.
    """
    version = installed_version(conn, schema=schema)
    if version == 0:
        raise LedgerError(
            f"the ledger is not installed in database {conn.info.dbname} (schema {schema})",
            remedy="Run `backfill db upgrade`; with --sql it prints what it would do.",
        )
    if version < VERSION:
        raise LedgerError(
            f"the ledger in database {conn.info.dbname} has version {version}; this program needs"
            f" {VERSION}",
            remedy="Run `backfill db upgrade`: runs and workers that are at work go on meanwhile.",
        )
    if version > VERSION:
        _require_additions_only(conn, version, schema=schema)


def _require_additions_only(conn: Connection, version: int, *, schema: str) -> None:
    """Raise LedgerError if this newer ledger needs newer code."""
    row = conn.execute(
        sql.SQL("SELECT needs_version FROM {}.ledger").format(sql.Identifier(schema))
    ).fetchone()
    if row is None or row[0] > VERSION:
        raise LedgerError(
            f"the ledger in database {conn.info.dbname} has version {version}, newer than this"
            f" program's {VERSION}, and has changed in what this program uses",
            remedy="Upgrade the package backfill.",
        )


def upgrade(
    conn: Connection,
    *,
    schema: str = "backfill",
    try_seconds: float = TRY_SECONDS,
    sleep: Callable[[float], object] = time.sleep,
) -> tuple[int, int]:
    """Bring the ledger to `VERSION`, in one transaction; do nothing when it is there already.

    Args:
        try_seconds: how long it tries to get its locks while others hold them.

    Returns:
        The version before and the version after. A newer one that serves this code stays as it is:
        a package that was taken back finds nothing to do.

    Raises:
        LedgerError: the role may not create the schema, the ledger is newer than this code, or
            somebody holds it locked.
    """
    until = time.monotonic() + try_seconds
    while True:
        try:
            return _upgrade(conn, schema=schema)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            if time.monotonic() > until:
                raise LedgerError(
                    f"the ledger in schema {schema} is locked by another session for"
                    f" {try_seconds:.0f} s already; nothing has been changed",
                    remedy="End the long transaction that has read or written its tables"
                    " (pg_stat_activity, oldest xact_start), and try again.",
                ) from error
        sleep(random.uniform(0.1, 0.5))  # noqa: S311 - so that two that try do not meet for ever


def _upgrade(conn: Connection, *, schema: str) -> tuple[int, int]:
    try:
        with transaction(conn, _LIMITS):
            conn.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
            before = installed_version(conn, schema=schema)
            if before > VERSION:
                _require_additions_only(conn, before, schema=schema)
                return before, before
            for version in range(before + 1, VERSION + 1):
                conn.execute(script(version, schema=schema))
    except psycopg.errors.InsufficientPrivilege as error:
        raise LedgerError(
            f"this role may not install the ledger in schema {schema}:"
            f" {error.diag.message_primary}",
            remedy="Let a role that may create schemas run what `db upgrade --sql` prints.",
        ) from error
    return before, VERSION


def upgrade_sql(*, schema: str = "backfill", since: int = 0) -> str:
    """The installation as SQL text, for a DBA to read and run with psql.

    Args:
        since: the version that is installed; 0: none.

    Raises:
        UsageError: this code knows no such version.
    """
    if not 0 <= since <= VERSION:
        raise UsageError(
            f"there is no ledger of version {since} to begin with",
            remedy=f"`SELECT version FROM {schema}.ledger` says which one is installed; this"
            f" program's is {VERSION}.",
        )
    name = sql.Identifier(schema)
    if since == VERSION:
        return f"-- The ledger has version {VERSION} already: there is nothing to do.\n"
    told = f"from version {since}" if since else "for a database without one"
    begin = [
        f"-- backfill's ledger, version {VERSION}, {told}.",
        "BEGIN;",
        f"SET LOCAL lock_timeout = '{LOCK_SECONDS * 1000:.0f}ms'; -- when it fails: run it again",
    ]
    if since:
        begin.append(_EXPECT.format(s=name, since=sql.Literal(since)).as_string(None))
    parts = [
        script(version, schema=schema).as_string(None) for version in range(since + 1, VERSION + 1)
    ]
    return "\n\n".join([*begin, "\n".join(parts)]) + "\nCOMMIT;\n"


# Nothing of a script for another version is done.
_EXPECT = sql.SQL("""DO $$ BEGIN
    IF (SELECT version FROM {s}.ledger) IS DISTINCT FROM {since} THEN
        RAISE EXCEPTION 'this script is for a ledger of version %', {since};
    END IF;
END $$;""")
