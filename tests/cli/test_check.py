"""`check`: what it prints, its JSON and its exit codes; what is found is tested with the engine."""

from __future__ import annotations

import json

from tests.cli.conftest import Shop


def test_a_job_is_checked_as_a_table_and_as_json(shop: Shop) -> None:
    shop.users(300)
    shop.conn.execute("CREATE INDEX ON users (email_lower)")
    done = shop("check", "lower_email")
    assert done.code == 0, done.told
    assert "warning" in done.stdout
    assert "index-on-written-column" in done.stdout
    assert "→ Where the index is new" in done.stdout
    assert "rows        300" in done.stdout
    assert done.stdout.rstrip().splitlines()[-1].startswith("lower_email on database default: 0 er")
    done = shop("check", "lower_email", "-p", "since=200", "--json", "--rate", "10/s", "--strict")
    assert done.code == 1  # a warning counts
    told = json.loads(done.stdout)
    assert told["counts"]["error"] == 0
    assert told["complete"] is True
    assert set(told["page"]) == {"walks_index", "plan"}
    values = {one["name"]: one["value"] for one in told["estimates"]}
    assert (values["rows"], values["seconds"]) == (101, 10.1)
    for finding in told["findings"]:
        assert set(finding) == {"name", "severity", "message", "why", "remedy"}
    assert shop.number("SELECT count(*) FROM backfill.run") == 0
    assert shop.number("SELECT count(*) FROM users WHERE email_lower IS NOT NULL") == 0


def test_errors_are_all_shown_and_the_exit_code_says_so(shop: Shop) -> None:
    """Without a table, and without a ledger: both are told at once."""
    shop.conn.execute("DROP SCHEMA backfill CASCADE")
    done = shop("check", "lower_email")
    assert done.code == 1
    assert "source-missing" in done.stdout
    assert "ledger-unusable" in done.stdout
    assert "mend the errors and check again" in done.stderr
