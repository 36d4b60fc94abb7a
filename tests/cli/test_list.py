"""`backfill list`: jobs, what became of them lately, and modules that are broken."""

from __future__ import annotations

import json

from tests.cli.conftest import Shop


def test_each_job_is_listed_with_its_table_target_and_first_line(shop: Shop) -> None:
    done = shop("list")
    assert done.code == 0
    line = next(text for text in done.stdout.splitlines() if text.startswith("lower_email"))
    assert line.split()[1:3] == ["users", "update"]
    assert "Fold the case of every address." in line
    assert "leaves out" not in done.stdout


def test_the_latest_run_of_a_job_is_shown_with_its_state(shop: Shop) -> None:
    shop.users(10)
    shop("run", "lower_email")
    run = shop.latest("lower_email").id
    line = next(x for x in shop("list").stdout.splitlines() if x.startswith("lower_email"))
    assert f"{run} succeeded" in line


def test_without_a_database_the_jobs_are_listed_all_the_same(shop: Shop) -> None:
    for url in ("", "postgresql://nobody@127.0.0.1:1/none"):
        done = shop("list", BACKFILL_DATABASE_URL=url)
        assert done.code == 0
        assert "lower_email" in done.stdout
        assert "no latest runs" in done.stderr


def test_a_broken_module_shows_with_its_error_beside_the_jobs_of_the_others(shop: Shop) -> None:
    (shop.folder / "jobs" / "broken.py").write_text("import no_such_module\n")
    done = shop("list")
    assert done.code == 0
    assert "lower_email" in done.stdout
    assert "broken: jobs.broken: ModuleNotFoundError" in done.stderr
    assert "Traceback" not in done.told


def test_a_job_that_may_stand_in_a_broken_module_is_said_so(shop: Shop) -> None:
    (shop.folder / "jobs" / "broken.py").write_text("1 / 0\n")
    done = shop("run", "missing_job")
    assert done.code == 3
    assert "jobs.broken: ZeroDivisionError" in done.stderr


def test_json_has_every_part_that_the_help_names(shop: Shop) -> None:
    (shop.folder / "jobs" / "broken.py").write_text("1 / 0\n")
    found = json.loads(shop("list", "--json").stdout)
    assert set(found) == {"jobs", "broken", "unread"}
    jobs = {job["name"]: job for job in found["jobs"]}
    assert jobs["lower_email"] == {
        "name": "lower_email",
        "class": "jobs.shop.LowerEmail",
        "doc": "Fold the case of every address.",
        "version": 1,
        "table": "users",
        "target": "update email_lower",
        "database": "default",
        "params": [{"name": "since", "type": "int", "required": False, "help": "first id"}],
        "latest_run": None,
    }
    assert list(found["broken"]) == ["jobs.broken"]
    assert found["unread"] is None


def test_the_projects_folder_may_be_named_from_elsewhere(shop: Shop) -> None:
    inner = shop.folder / "jobs"
    done = shop("--project", str(shop.folder), "list")
    assert "lower_email" in done.stdout
    assert inner.is_dir()
