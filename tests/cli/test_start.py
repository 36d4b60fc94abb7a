"""`backfill init` and `backfill new`: first files that work, and none written over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from click.testing import Result

from backfill.pg.install import VERSION
from tests.cli.conftest import Shop

Invoke = Callable[..., Result]


def test_init_makes_a_project_that_can_be_used_at_once(invoke: Invoke, tmp_path: Path) -> None:
    done = invoke("init")
    assert done.exit_code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"backfill.toml", "jobs", ".env.example"}
    assert 'jobs = ["jobs"]' in (tmp_path / "backfill.toml").read_text()
    assert invoke("list").exit_code == 0


def test_init_says_what_to_type_next(invoke: Invoke) -> None:
    told = invoke("init").stdout
    assert [c for c in ("db upgrade", "new NAME", "run NAME") if f"backfill {c}" in told] == [
        "db upgrade",
        "new NAME",
        "run NAME",
    ]


@pytest.mark.parametrize("name", ["backfill.toml", "jobs/__init__.py", ".env.example"])
def test_init_keeps_every_file_that_is_there(invoke: Invoke, tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("# mine\n")
    done = invoke("init")
    assert done.exit_code == 0
    assert (tmp_path / name).read_text() == "# mine\n"
    assert f"kept     {name}" in done.stdout


def test_init_twice_changes_nothing(invoke: Invoke, tmp_path: Path) -> None:
    invoke("init")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert "created" not in invoke("init").stdout
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_init_adds_no_second_settings_to_a_pyproject(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.backfill]\njobs = ["jobs"]\n')
    assert invoke("init").exit_code == 0
    assert not (tmp_path / "backfill.toml").exists()
    assert invoke("list").exit_code == 0


def test_init_makes_the_folder_that_project_names(invoke: Invoke, tmp_path: Path) -> None:
    assert invoke("--project", "deep/shop", "init").exit_code == 0
    assert (tmp_path / "deep/shop/backfill.toml").is_file()


def test_init_where_a_file_is_in_the_way_says_so(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "jobs").write_text("a file")
    done = invoke("init")
    assert done.exit_code == 3
    assert "jobs" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert [path.name for path in tmp_path.iterdir()] == ["jobs"]  # and nothing was made


def test_init_that_fails_takes_away_the_folders_that_it_made(
    invoke: Invoke, tmp_path: Path
) -> None:
    (tmp_path / "shop/.env.example").mkdir(parents=True)
    done = invoke("--project", "shop", "init")
    assert done.exit_code == 3
    assert ".env.example cannot be written: a folder or file is in the way" in done.stderr
    assert [path.name for path in (tmp_path / "shop").iterdir()] == [".env.example"]


def test_no_file_of_init_holds_a_password(invoke: Invoke, tmp_path: Path) -> None:
    invoke("init")
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or "user:" not in file.read_text()


def test_a_new_job_runs_as_it_is(shop: Shop) -> None:
    """On the table that its example names."""
    shop.users(50)
    shop.conn.execute("UPDATE users SET email = NULL WHERE id = 9")
    done = shop("new", "fold_address")
    assert done.code == 0, done.stderr
    assert "jobs/fold_address.py" in done.stdout
    ran = shop("run", "fold_address")
    assert ran.code == 0, ran.told
    assert "49 written + 1 unchanged" in ran.stdout
    assert shop.number("SELECT count(*) FROM users WHERE email_lower = lower(email)") == 49


def test_the_test_that_a_new_job_comes_with_passes(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "backfill.toml").write_text('jobs = ["newly_made"]\n')
    (tmp_path / "newly_made").mkdir()
    (tmp_path / "newly_made" / "__init__.py").write_text("")
    assert invoke("new", "fold_address").exit_code == 0
    written = (tmp_path / "newly_made/fold_address.py").read_text()
    skeleton = written[written.index("#     from types") :]
    code = "\n".join(line.removeprefix("#     ") for line in skeleton.splitlines() if line != "#")
    monkeypatch.syspath_prepend(str(tmp_path))
    names: dict[str, Callable[[], None]] = {}
    exec(code, names)
    names["test_an_address_is_folded"]()


def test_new_refuses_a_file_that_is_there(shop: Shop) -> None:
    done = shop("new", "shop")
    assert done.code == 5
    assert "jobs/shop.py" in done.stderr


def test_new_refuses_the_name_of_a_job_in_another_module(shop: Shop) -> None:
    done = shop("new", "judge_age")
    assert done.code == 5
    assert "judge_age" in done.stderr
    assert not (shop.folder / "jobs/judge_age.py").exists()


def test_new_helps_also_where_another_module_is_broken(shop: Shop) -> None:
    (shop.folder / "jobs/broken.py").write_text("import no_such_module\n")
    assert shop("new", "fold_address").code == 0


@pytest.mark.parametrize(
    "name", ["Fold", "fold-address", "9lives", "class", "_x", "", "é", "a/b", "a.b", "x" * 51]
)
def test_new_refuses_what_cannot_be_a_jobs_name(invoke: Invoke, tmp_path: Path, name: str) -> None:
    invoke("init")
    done = invoke("new", "--", name)
    assert done.exit_code == 2
    assert repr(name) in done.stderr
    assert [p.name for p in (tmp_path / "jobs").iterdir()] == ["__init__.py"]


def test_new_outside_of_a_project_says_how_to_make_one(invoke: Invoke) -> None:
    done = invoke("new", "fold_address")
    assert done.exit_code == 3
    assert "backfill init" in done.stderr


def test_db_upgrade_installs_the_ledger_and_says_so(
    shop: Shop, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    conn.execute("DROP SCHEMA backfill CASCADE")
    assert shop("status").code == 5
    first = shop("db", "upgrade")
    assert first.code == 0, first.stderr
    assert "installed in schema backfill, version" in first.stdout
    assert "there is nothing to do" in shop("db", "upgrade").stdout
    assert shop("status").code == 0


def test_db_upgrade_sql_prints_what_installs_the_ledger_and_asks_no_database(
    shop: Shop, conn: psycopg.Connection[tuple[object, ...]]
) -> None:
    conn.execute("DROP SCHEMA backfill CASCADE")
    script = shop("db", "upgrade", "--sql", BACKFILL_DATABASE_URL="")
    assert script.code == 0, script.stderr
    assert script.stdout.startswith(f"-- backfill's ledger, version {VERSION}, for a database with")
    conn.execute(script.stdout.encode())
    assert "there is nothing to do" in shop("db", "upgrade").stdout
    none = shop("db", "upgrade", "--sql", "--since", str(VERSION), BACKFILL_DATABASE_URL="")
    assert none.stdout == f"-- The ledger has version {VERSION} already: there is nothing to do.\n"


def test_a_folder_that_was_deleted_under_ones_feet_is_a_clear_mistake(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    for words in (["list"], ["init"], ["--project", "here", "list"]):
        done = invoke(*words)
        assert done.exit_code == 3, done.stderr
        assert "the current folder cannot be told: No such file or directory" in done.stderr
        assert "cd into another one" in done.stderr
