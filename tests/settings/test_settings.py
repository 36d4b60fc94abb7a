"""`backfill.settings`: the project found, and its settings read."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest

from backfill.errors import ProjectError, UsageError
from backfill.settings import (
    EngineSettings,
    Settings,
    find_project,
    load,
    read_environment,
)
from tests.settings.conftest import URL, Project, refused

# ------------------------------------------------------------------------------------- finding


def test_a_project_is_the_nearest_folder_upward_with_a_backfill_toml(project: Project) -> None:
    project()
    inner = project(under="p/q")
    below = project(None, under="p/q/r/s")
    assert find_project(below) == inner
    assert find_project(inner) == inner
    assert find_project(inner.parent) == inner.parent


def test_a_project_may_be_a_table_in_pyproject(project: Project) -> None:
    outer = project(None, pyproject='[tool.backfill]\njobs = ["work"]\n')
    inner = project(None, under="p/q", pyproject="[tool.ruff]\nline-length = 100\n")
    assert find_project(inner) == outer
    assert load(outer, {}).jobs == ("work",)


def test_an_empty_table_in_pyproject_makes_a_project(project: Project) -> None:
    folder = project(None, pyproject="[tool.backfill]")
    assert find_project(folder) == folder


@pytest.mark.parametrize(
    "pyproject", ["tool = 3  # backfill", "[tool]\n# backfill", "backfill = 1"]
)
def test_a_pyproject_that_only_mentions_us_makes_no_project(
    project: Project, pyproject: str
) -> None:
    outer = project()
    assert find_project(project(None, under="p/q", pyproject=pyproject)) == outer


def test_the_search_starts_in_the_present_folder(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project()
    monkeypatch.chdir(project(None, under="p/q"))
    assert find_project() == folder


def test_no_project_is_none() -> None:
    assert find_project(Path("/")) is None


def test_a_relative_start_gives_an_absolute_project(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project()
    monkeypatch.chdir(folder)
    assert find_project(Path()) == folder


def test_an_explicit_project_is_taken_as_it_is_or_refused(project: Project) -> None:
    folder, empty = project(), project(None, under="p/q")
    assert find_project(empty, explicit=folder) == folder
    assert find_project(empty, explicit=folder / "backfill.toml") == folder
    for wrong in (empty, folder / "absent"):
        with pytest.raises(ProjectError, match=r"no backfill\.toml there"):
            find_project(folder, explicit=wrong)


def test_settings_in_both_files_are_refused(project: Project) -> None:
    folder = project("", pyproject="[tool.backfill]")
    with pytest.raises(ProjectError, match="in both") as caught:
        find_project(folder)
    assert str(folder) in caught.value.message


def test_a_broken_file_is_named_with_the_place_of_the_mistake(project: Project) -> None:
    folder = project("jobs = [\nsetup")
    assert str(folder / "backfill.toml") in refused(folder).message
    assert "line 2" in refused(folder).message


def test_a_broken_pyproject_of_somebody_else_is_passed_by(project: Project) -> None:
    outer = project()
    assert find_project(project(None, under="p/q", pyproject="[[[")) == outer


def test_a_broken_pyproject_that_may_be_ours_is_refused(project: Project) -> None:
    folder = project(None, pyproject="[tool.backfill]\njobs =")
    with pytest.raises(ProjectError, match="is no valid TOML"):
        find_project(folder)


def test_a_file_that_is_no_utf8_is_refused(project: Project) -> None:
    folder = project()
    (folder / "backfill.toml").write_bytes(b'setup = "\xff"')
    assert "is not UTF-8" in refused(folder).message


# -------------------------------------------------------------------------------------- reading


def test_without_a_project_there_are_defaults_and_the_environment() -> None:
    settings = load(None, {"BACKFILL_DATABASE_URL": URL, "BACKFILL_REDIS_URL": "redis://r/1"})
    assert settings.project is None
    assert settings.jobs == ()
    assert settings.setup is None
    assert (settings.schema, settings.queue) == ("backfill", "backfill")
    assert (settings.log_format, settings.log_level) == ("auto", "info")
    assert settings.engine == EngineSettings()
    assert list(settings.databases) == ["default"]
    assert settings.database().url == URL
    assert settings.database().confirm is False
    assert settings.redis_url == "redis://r/1"


def test_an_empty_file_says_the_same_as_none(project: Project) -> None:
    folder = project("")
    environ = {"BACKFILL_DATABASE_URL": URL}
    assert load(folder, environ).databases == load(None, environ).databases
    assert load(folder, environ).project == folder


def test_settings_made_by_hand_are_the_defaults() -> None:
    assert Settings() == load(None, {})


def test_every_setting_is_read(project: Project) -> None:
    folder = project("""
        jobs = ["jobs", "shop.backfills"]
        setup = "shop.boot:setup"
        schema = "ledger"
        queue = "slow.lane"
        log_format = "json"
        log_level = "debug"
        [databases.main]
        url_env = "DATABASE_URL"
        confirm = true
        max_slots = 8
        replica_url_envs = ["NEAR_URL", "FAR_URL"]
        prometheus_url_env = "PROMETHEUS_URL"
        ignored_standbys = ["delayed", "an odd name"]
        [databases.archive]
        url_env = "ARCHIVE_URL"
        source_only = true
        [redis]
        url_env = "BROKER"
        [engine]
        lease_seconds = 8
        reconcile_seconds = 1.5
        task_seconds = 3
        sweep_seconds = 60
        begin_wait_seconds = 0
        sample_seconds = 0.5
        signals_stale_seconds = 5
    """)
    environ = {"DATABASE_URL": URL, "NEAR_URL": URL, "PROMETHEUS_URL": "http://prometheus:9090"}
    settings = load(folder, {**environ, "BROKER": "rediss://r:6380/0"})
    assert settings.jobs == ("jobs", "shop.backfills")
    assert settings.setup == "shop.boot:setup"
    assert (settings.schema, settings.queue) == ("ledger", "slow.lane")
    assert (settings.log_format, settings.log_level) == ("json", "debug")
    assert list(settings.databases) == ["main", "archive"]
    assert settings.database("main").url == URL
    assert settings.database("main").confirm is True
    assert settings.database("archive").confirm is False
    assert settings.redis_url == "rediss://r:6380/0?ssl_cert_reqs=required"
    assert settings.redis_url_env == "BROKER"
    assert settings.engine == EngineSettings(
        lease_seconds=8,
        reconcile_seconds=1.5,
        task_seconds=3,
        sweep_seconds=60,
        begin_wait_seconds=0,
        sample_seconds=0.5,
        signals_stale_seconds=5,
    )
    main, archive = settings.databases.values()
    assert (main.max_slots, archive.max_slots) == (8, None)
    assert (main.source_only, archive.source_only) == (False, True)
    assert list(settings.ledgers) == ["main"]
    near, far = main.replicas
    assert (near.name, near.postgres(), far.name, far.raw) == ("NEAR_URL", URL, "FAR_URL", None)
    assert main.prometheus is not None
    assert main.prometheus.http() == "http://prometheus:9090"
    assert main.ignored_standbys == ("delayed", "an odd name")
    assert (archive.replicas, archive.prometheus, archive.ignored_standbys) == ((), None, ())


def test_settings_go_to_another_process_as_they_are(project: Project) -> None:
    settings = load(project('[databases.main]\nurl_env = "A"'), {"A": URL})
    assert pickle.loads(pickle.dumps(settings)) == settings


# -------------------------------------------------------------------------------- the databases


def test_default_means_the_only_database_whatever_its_name(project: Project) -> None:
    settings = load(project('[databases.main]\nurl_env = "A"'), {"A": URL})
    assert settings.database("default").name == "main"
    assert settings.database("main") is settings.database()


def test_default_means_the_one_of_that_name_before_others(project: Project) -> None:
    toml = '[databases.main]\nurl_env = "A"\n[databases.default]\nurl_env = "B"'
    assert load(project(toml), {}).database().url_env == "B"


def test_default_among_several_is_refused_with_their_names(project: Project) -> None:
    toml = '[databases.main]\nurl_env = "A"\n[databases.archive]\nurl_env = "B"'
    with pytest.raises(UsageError, match="main, archive") as caught:
        load(project(toml), {}).database()
    assert 'Options(database="main")' in caught.value.remedy


def test_an_unknown_database_is_refused_with_the_known_ones_and_a_suggestion(
    project: Project,
) -> None:
    settings = load(project('[databases.archive]\nurl_env = "A"'), {})
    with pytest.raises(UsageError, match='no database "archiv"; did you mean "archive"') as caught:
        settings.database("archiv")
    assert "archive" in caught.value.remedy


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        (URL, URL),
        ("postgres://h/db", "postgresql://h/db"),
        ("postgresql+psycopg://h/db", "postgresql://h/db"),
        ("postgresql+psycopg2://h/db", "postgresql://h/db"),
        ("postgres+asyncpg://u:p%2F@h/db?sslmode=require", "postgresql://u:p%2F@h/db?sslmode=require"),
        ("POSTGRES://h/db", "postgresql://h/db"),
        ("  postgres:///db  ", "postgresql:///db"),
    ],
)  # fmt: skip
def test_a_url_is_given_to_libpq_in_its_own_form(given: str, normal: str) -> None:
    assert load(None, {"BACKFILL_DATABASE_URL": given}).database().url == normal


@pytest.mark.parametrize(
    "given", ["mysql://ann:s3cret@h/db", "host=h password=s3cret", "s3cret", "postgres:/s3cret"]
)
def test_what_is_no_url_of_postgresql_is_refused_without_quoting_it(given: str) -> None:
    database = load(None, {"BACKFILL_DATABASE_URL": given}).database()
    with pytest.raises(ProjectError, match="BACKFILL_DATABASE_URL holds no URL") as caught:
        _ = database.url
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("environ", [{}, {"MAIN_URL": ""}, {"MAIN_URL": " "}])
def test_a_missing_url_is_an_error_only_when_it_is_asked_for(
    project: Project, environ: dict[str, str]
) -> None:
    folder = project('[databases.main]\nurl_env = "MAIN_URL"')
    database = load(folder, environ).database()
    with pytest.raises(ProjectError, match="environment variable MAIN_URL is not set") as caught:
        _ = database.url
    assert f"{folder / 'backfill.toml'}: [databases.main] url_env" in caught.value.message
    assert ".env" in caught.value.remedy


def test_a_missing_url_by_default_says_that_the_name_is_the_default() -> None:
    with pytest.raises(ProjectError, match=r"BACKFILL_DATABASE_URL is not set .*the default"):
        _ = load(None, {}).database().url


# ---------------------------------------------------------------------------------------- Redis


@pytest.mark.parametrize(
    "url",
    [
        "redis://r:6379/0",
        "rediss://:pw@r:6380/2?ssl_cert_reqs=required",
        "unix:///run/redis.sock?db=1",
    ],
)
def test_the_redis_url_is_taken_in_each_of_its_forms(url: str) -> None:
    settings = load(None, {"BACKFILL_REDIS_URL": url})
    assert settings.redis_url == url
    assert settings.require_redis_url() == url


def test_a_missing_redis_url_is_none_until_it_is_required(project: Project) -> None:
    settings = load(project('[redis]\nurl_env = "BROKER"'), {"BACKFILL_REDIS_URL": "redis://r"})
    assert settings.redis_url is None
    with pytest.raises(ProjectError, match=r"BROKER is not set .*\[redis\] url_env"):
        settings.require_redis_url()


def test_what_is_no_url_of_redis_is_refused_without_quoting_it() -> None:
    settings = load(None, {"BACKFILL_REDIS_URL": "amqp://ann:s3cret@r"})
    with pytest.raises(ProjectError, match="redis://, rediss:// or unix://") as caught:
        _ = settings.redis_url
    assert "s3cret" not in str(caught.value)


# ---------------------------------------------------------------------------------- environment


def test_the_environment_goes_before_the_projects_env_file(project: Project) -> None:
    toml = '[databases.a]\nurl_env = "A"\n[databases.b]\nurl_env = "B"'
    folder = project(toml, env="A=postgres://file/a\nexport B='postgres://file/b' # local\nBARE\n")
    settings = load(folder, {"A": "postgres://env/a"})
    assert settings.database("a").url == "postgresql://env/a"
    assert settings.database("b").url == "postgresql://file/b"


def test_the_environment_has_all_variables_of_the_env_file(project: Project) -> None:
    folder = project("", env="GEOCODER_KEY=k\nBARE\n")
    assert read_environment(folder, {"HOME": "/h"}) == {"GEOCODER_KEY": "k", "HOME": "/h"}


def test_the_process_environment_is_left_alone(project: Project) -> None:
    before = dict(os.environ)
    load(project("", env="BACKFILL_NEW_VARIABLE=1\n"), {})
    assert dict(os.environ) == before


def test_an_env_file_outside_of_the_project_is_not_read(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(None, env=f"BACKFILL_DATABASE_URL={URL}"))
    inner = project("", under="p/q")
    assert load(inner, {}).database().raw_url is None
    assert load(None, {}).database().raw_url is None


def test_an_env_file_that_cannot_be_read_is_named_and_not_quoted(project: Project) -> None:
    folder = project("")
    (folder / ".env").write_bytes(b"PASSWORD=s3cret\xff")
    error = refused(folder)
    assert str(folder / ".env") in error.message
    assert "s3cret" not in str(error)
    assert error.__suppress_context__  # a traceback with locals would show the file's bytes


def test_a_line_of_an_env_file_that_cannot_be_read_is_numbered_and_not_quoted(
    project: Project,
) -> None:
    """Half of what it holds would be missing, without a word."""
    folder = project("")
    (folder / ".env").write_text("# a remark\n\nexport A=1\nB='s3cret\nC=2\n")
    error = refused(folder)
    assert error.message == f"{folder / '.env'}: line 4 cannot be read"
    assert "s3cret" not in str(error)
