"""Installing the ledger: once, by us or by a DBA, in any schema, and never over a newer one."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg import sql

from backfill.errors import ExitCode, LedgerError, UsageError
from backfill.model import SlicePhase
from backfill.pg import install, slices
from backfill.pg.connect import Connection, connect
from backfill.pg.ledger import list_runs, open_ledger

# Everything that an installation makes, as PostgreSQL describes it.
_OBJECTS = """
SELECT 'column', c.relname, a.attname, a.attnum::text, format_type(a.atttypid, a.atttypmod),
       a.attnotnull::text, a.attidentity::text, pg_get_expr(d.adbin, d.adrelid)
  FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
  LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind = 'r'
UNION ALL
SELECT 'constraint', conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', '', ''
  FROM pg_constraint WHERE connamespace = %(schema)s::regnamespace
UNION ALL
SELECT 'index', '', relname, pg_get_indexdef(oid), '', '', '', ''
  FROM pg_class WHERE relnamespace = %(schema)s::regnamespace AND relkind = 'i'
UNION ALL
SELECT 'trigger', '', tgname, pg_get_triggerdef(t.oid), '', '', '', ''
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = %(schema)s::regnamespace AND NOT tgisinternal
UNION ALL
SELECT 'function', '', proname, prosrc, prorettype::regtype::text, '', '', ''
  FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace
UNION ALL
SELECT 'option', '', relname, array_to_string(reloptions, ','), '', '', '', ''
  FROM pg_class WHERE relnamespace = %(schema)s::regnamespace AND reloptions IS NOT NULL
"""


def objects(conn: Connection, schema: str) -> set[tuple[str, ...]]:
    quoted = '"' + schema.replace('"', '""') + '"'
    rows = conn.execute(_OBJECTS, {"schema": quoted}).fetchall()
    plain = re.compile(rf"({re.escape(quoted)}|\b{re.escape(schema)})\.")
    return {tuple(plain.sub("…", value or "") for value in row) for row in rows}


def as_psql_would(conn: Connection, text: str) -> None:
    """Send a script as it stands, in one message and with no parameters; errors are its own."""
    conn.pgconn.exec_(text.encode())


def test_an_installation_says_from_where_to_where_it_went(bare: Connection) -> None:
    assert install.installed_version(bare) == 0
    assert install.upgrade(bare) == (0, install.VERSION)
    assert install.installed_version(bare) == install.VERSION
    assert len(objects(bare, "backfill")) > 50


def test_a_second_installation_changes_nothing(bare: Connection) -> None:
    install.upgrade(bare)
    before, identity = objects(bare, "backfill"), open_ledger(bare, schema="backfill")
    assert install.upgrade(bare) == (install.VERSION, install.VERSION)
    assert objects(bare, "backfill") == before
    assert open_ledger(bare, schema="backfill") == identity


def test_two_installations_at_once_make_one_ledger(bare_url: str) -> None:
    def upgrade(_: int) -> tuple[int, int]:
        with connect(bare_url) as conn:
            return install.upgrade(conn)

    with ThreadPoolExecutor(4) as pool:
        done = sorted(pool.map(upgrade, range(4)))
    assert done == [(0, install.VERSION)] + [(install.VERSION, install.VERSION)] * 3


def test_the_text_for_a_dba_makes_the_same_schema(bare: Connection) -> None:
    install.upgrade(bare)
    ours = objects(bare, "backfill")
    bare.execute("DROP SCHEMA backfill CASCADE")
    as_psql_would(bare, install.upgrade_sql())
    as_psql_would(bare, install.upgrade_sql(schema="order"))
    assert objects(bare, "backfill") == objects(bare, "order") == ours
    assert open_ledger(bare, schema="backfill").id != open_ledger(bare, schema="order").id


def test_the_text_for_a_dba_is_one_transaction(bare: Connection) -> None:
    as_psql_would(bare, install.upgrade_sql().replace("COMMIT;", "SELECT 1/0;\nCOMMIT;"))
    bare.execute("ROLLBACK")
    assert install.installed_version(bare) == 0


def older(conn: Connection, version: int) -> None:
    """Install a ledger as code of that version did."""
    for number in range(1, version + 1):
        conn.execute(install.script(number, schema="backfill"))


def test_the_text_since_a_version_upgrades_that_version_and_no_other(bare: Connection) -> None:
    install.upgrade(bare)
    ours = objects(bare, "backfill")
    bare.execute("DROP SCHEMA backfill CASCADE")
    older(bare, 3)
    with pytest.raises(psycopg.errors.RaiseException, match="for a ledger of version 2"):
        bare.execute(install.upgrade_sql(since=2).encode())
    bare.execute("ROLLBACK")
    assert install.installed_version(bare) == 3
    as_psql_would(bare, install.upgrade_sql(since=3))
    assert objects(bare, "backfill") == ours


def test_the_whole_text_changes_nothing_where_a_ledger_is(bare: Connection) -> None:
    older(bare, 3)
    ours = objects(bare, "backfill")
    with pytest.raises(psycopg.errors.DuplicateTable):
        bare.execute(install.upgrade_sql().encode())
    bare.execute("ROLLBACK")
    assert objects(bare, "backfill") == ours


def test_there_is_no_text_since_a_version_that_is_not_known() -> None:
    with pytest.raises(UsageError, match="no ledger of version 99") as error:
        install.upgrade_sql(since=99)
    assert "SELECT version FROM backfill.ledger" in error.value.remedy


def test_an_upgrade_waits_for_its_locks_shortly_and_changes_nothing_without_them(
    bare: Connection, bare_url: str
) -> None:
    """I5."""
    older(bare, 3)
    tried: list[float] = []
    with connect(bare_url) as reader:
        reader.execute("BEGIN; SELECT FROM backfill.event")
        with pytest.raises(LedgerError, match="locked by another session") as error:
            install.upgrade(bare, try_seconds=0.6, sleep=tried.append)
        assert "pg_stat_activity" in error.value.remedy
        assert install.installed_version(bare) == 3
        assert install.upgrade(bare, sleep=lambda _: reader.execute("COMMIT"))[0] == 3
    assert 1 <= len(tried) <= 2


# settings.py takes plain lower-case names only; some of them are words of SQL
@pytest.mark.parametrize("schema", ["jobs", "order", "_2"])
def test_a_ledger_of_another_name_is_the_same(bare: Connection, schema: str) -> None:
    install.upgrade(bare)
    assert install.upgrade(bare, schema=schema) == (0, install.VERSION)
    assert install.upgrade(bare, schema=schema) == (install.VERSION, install.VERSION)
    assert objects(bare, schema) == objects(bare, "backfill")
    # two ledgers of one database are two ledgers, and statements reach the one that is meant
    ledger = open_ledger(bare, schema=schema)
    assert ledger.id != open_ledger(bare, schema="backfill").id
    assert list_runs(bare, ledger) == []
    assert not slices.claim(
        bare, ledger, "r", SlicePhase.WALK, holder="h", slot=0, lease_seconds=1.0
    )


def test_a_newer_ledger_is_refused_and_left_alone(pg: Connection) -> None:
    pg.execute("UPDATE backfill.ledger SET version = 99, needs_version = 98")
    for refused in (install.upgrade, lambda conn: open_ledger(conn, schema="backfill")):
        with pytest.raises(LedgerError, match="version 99, newer than this program") as error:
            refused(pg)
        assert error.value.remedy == "Upgrade the package backfill."
        assert error.value.exit_code == ExitCode.REFUSED
    assert install.installed_version(pg) == 99


def test_a_newer_ledger_to_which_was_only_added_serves(pg: Connection) -> None:
    """A package that was taken back goes on, and its `db upgrade` finds nothing to do."""
    pg.execute("UPDATE backfill.ledger SET version = 99")
    assert open_ledger(pg, schema="backfill").id
    assert install.upgrade(pg) == (99, 99)


def test_an_older_ledger_is_not_opened(pg: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    there = install.VERSION
    monkeypatch.setattr("backfill.pg.install.VERSION", there + 1)
    with pytest.raises(LedgerError, match=f"version {there}; this program needs") as error:
        open_ledger(pg, schema="backfill")
    assert "backfill db upgrade" in error.value.remedy


def test_a_missing_ledger_is_not_opened(bare: Connection) -> None:
    with pytest.raises(LedgerError, match="is not installed in database backfill_test_") as error:
        open_ledger(bare, schema="backfill")
    assert "backfill db upgrade" in error.value.remedy


def test_a_ledger_without_identity_is_not_opened(pg: Connection) -> None:
    pg.execute("DELETE FROM backfill.ledger")
    for refused in (install.upgrade, lambda conn: open_ledger(conn, schema="backfill")):
        with pytest.raises(LedgerError, match="has lost its identity"):
            refused(pg)


def test_a_role_that_may_not_create_a_schema_is_told_whom_to_ask(
    stranger: str, bare: Connection
) -> None:
    bare.execute(sql.SQL("SET ROLE {}").format(sql.Identifier(stranger)))
    with pytest.raises(LedgerError, match="may not install the ledger in schema backfill") as error:
        install.upgrade(bare)
    assert "db upgrade --sql" in error.value.remedy
    assert isinstance(error.value.__cause__, psycopg.errors.InsufficientPrivilege)
    bare.execute("RESET ROLE")
    assert install.installed_version(bare) == 0


def test_a_role_that_may_use_the_ledger_need_not_be_able_to_install_it(
    stranger: str, pg: Connection
) -> None:
    role = sql.Identifier(stranger)
    pg.execute(sql.SQL("GRANT USAGE ON SCHEMA backfill TO {}").format(role))
    pg.execute(sql.SQL("GRANT SELECT ON ALL TABLES IN SCHEMA backfill TO {}").format(role))
    pg.execute(sql.SQL("SET ROLE {}").format(role))
    assert install.upgrade(pg) == (install.VERSION, install.VERSION)
    assert open_ledger(pg, schema="backfill").id


@pytest.mark.parametrize("may_see_the_schema", [False, True])
def test_a_role_that_may_not_read_the_ledger_is_told_so(
    stranger: str, pg: Connection, may_see_the_schema: bool
) -> None:
    role = sql.Identifier(stranger)
    if may_see_the_schema:
        pg.execute(sql.SQL("GRANT USAGE ON SCHEMA backfill TO {}").format(role))
    pg.execute(sql.SQL("SET ROLE {}").format(role))
    with pytest.raises(LedgerError, match="permission denied") as error:
        open_ledger(pg, schema="backfill")
    assert "backfill db grants ROLE" in error.value.remedy
