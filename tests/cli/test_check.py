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


def test_a_dry_run_shows_rows_steers_no_terminal_and_logs_no_values(shop: Shop) -> None:
    shop.users(200, bad=[3])
    shop.conn.execute("UPDATE users SET email = E'\x1b[31mR\u202eD' WHERE id = 1")
    shop.conn.execute("UPDATE users SET email = ' ' WHERE id = 2")
    done = shop("dry-run", "lower_email", "--show", "2")
    assert done.code == 0, done.told
    lines = done.stdout.splitlines()
    assert lines[0].startswith("beginning: 200 rows in 2 batches, ")
    assert lines[1:5] == [
        "  ~ 1",
        r"      email_lower: NULL → \x1b[31mr\u202ed",
        "  ~ 2",
        '      email_lower: NULL → " "',
    ]
    assert lines[-1] == "everything was rolled back"
    assert done.stderr == ""
    done = shop("dry-run", "judge_age", "--json", "--rows", "50")
    assert done.code == 1
    told = json.loads(done.stdout)
    (place,) = told["places"][:1]
    assert place["refused"] == [{"key": ["3"], "sqlstate": None, "message": "an age below zero"}]
    assert place["changes"][0]["after"]["adult"] == "true"
    assert told["clean"] is False
    assert shop.number("SELECT count(*) FROM users WHERE adult IS NOT NULL") == 0
