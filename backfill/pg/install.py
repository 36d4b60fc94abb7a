"""Installs and upgrades the ledger: numbered SQL files beside this module, each applied once.

Upgrades are additive while runs live: code works with its own version and the one before.
"""

from __future__ import annotations

from importlib import resources

import psycopg
from psycopg import sql

from backfill.errors import LedgerError
from backfill.pg.connect import Connection, transaction

#: The version of the ledger that this code writes.
VERSION = 4

#: Serialises two upgrades of one database; any constant that no other tool uses will do.
_ADVISORY_LOCK = 0x6261636B66696C6C  # "backfill"


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


def upgrade(conn: Connection, *, schema: str = "backfill") -> tuple[int, int]:
    """Bring the ledger to `VERSION`, in one transaction; do nothing when it is there already.

    Returns:
        The version before and the version after.

    Raises:
        LedgerError: the role may not create the schema, or the ledger is newer than this code.
    """
    try:
        with transaction(conn):
            conn.execute("SELECT pg_advisory_xact_lock(%s)", [_ADVISORY_LOCK])
            before = installed_version(conn, schema=schema)
            if before > VERSION:
                raise LedgerError(
                    f"the ledger in schema {schema} has version {before}, newer than this"
                    f" program's {VERSION}",
                    remedy="Upgrade the package backfill.",
                )
            for version in range(before + 1, VERSION + 1):
                conn.execute(script(version, schema=schema))
    except psycopg.errors.InsufficientPrivilege as error:
        raise LedgerError(
            f"this role may not install the ledger in schema {schema}:"
            f" {error.diag.message_primary}",
            remedy="Let a role that may create schemas run what `db upgrade --sql` prints.",
        ) from error
    return before, VERSION


def upgrade_sql(*, schema: str = "backfill") -> str:
    """The whole installation as SQL text, for a DBA to read and run with psql."""
    parts = [script(version, schema=schema).as_string(None) for version in range(1, VERSION + 1)]
    return "BEGIN;\n\n" + "\n".join(parts) + "\nCOMMIT;\n"
