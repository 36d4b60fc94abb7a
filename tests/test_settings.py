"""`backfill.settings`: the project found, its settings read, and no secret shown."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import ExitCode, ProjectError, UsageError
from backfill.settings import (
    DatabaseSettings,
    EngineSettings,
    Settings,
    find_project,
    load,
    read_environment,
)
from backfill.url import safe_url

Project = Callable[..., Path]
URL = "postgresql://ann:s3cret@db.example:5432/shop"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Makes a folder with these files in it; by default with an empty backfill.toml."""

    def make(toml: str | None = "", /, *, under: str = "p", **files: str) -> Path:
        folder = tmp_path / under
        folder.mkdir(parents=True, exist_ok=True)
        names = {"pyproject": "pyproject.toml", "env": ".env"}
        if toml is not None:
            (folder / "backfill.toml").write_text(toml, encoding="utf-8")
        for name, text in files.items():
            (folder / names[name]).write_text(text, encoding="utf-8")
        return folder

    return make


def refused(folder: Path, environ: Mapping[str, str] | None = None) -> ProjectError:
    with pytest.raises(ProjectError) as caught:
        load(folder, environ or {})
    assert caught.value.exit_code is ExitCode.PROJECT
    return caught.value


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
    assert "is no valid TOML" in refused(folder).message


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
        [databases.archive]
        url_env = "ARCHIVE_URL"
        [redis]
        url_env = "BROKER"
        [engine]
        lease_seconds = 8
        reconcile_seconds = 1.5
        task_seconds = 3
        sweep_seconds = 60
        begin_wait_seconds = 0
    """)
    settings = load(folder, {"DATABASE_URL": URL, "BROKER": "rediss://r:6380/0"})
    assert settings.jobs == ("jobs", "shop.backfills")
    assert settings.setup == "shop.boot:setup"
    assert (settings.schema, settings.queue) == ("ledger", "slow.lane")
    assert (settings.log_format, settings.log_level) == ("json", "debug")
    assert list(settings.databases) == ["main", "archive"]
    assert settings.database("main").url == URL
    assert settings.database("main").confirm is True
    assert settings.database("archive").confirm is False
    assert settings.redis_url == "rediss://r:6380/0"
    assert settings.redis_url_env == "BROKER"
    assert settings.engine == EngineSettings(
        lease_seconds=8,
        reconcile_seconds=1.5,
        task_seconds=3,
        sweep_seconds=60,
        begin_wait_seconds=0,
    )


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
    "url", ["redis://r:6379/0", "rediss://:pw@r:6380/2", "unix:///run/redis.sock?db=1"]
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


# ---------------------------------------------------------------------------------- no secret


def test_no_url_is_in_a_repr() -> None:
    settings = load(None, {"BACKFILL_DATABASE_URL": URL, "BACKFILL_REDIS_URL": "redis://:s3cret@r"})
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in repr(settings.database())


@pytest.mark.parametrize(
    "toml",
    [
        f'[databases.main]\nurl = "{URL}"',
        f'[databases.main]\nurl_env = "A"\nurl = "{URL}"',
        f'[databases.main]\nurl_env = "{URL}"',
        '[databases.main]\nurl_env = "A"\npassword = "s3cret"',
        '[redis]\nurl = "redis://:s3cret@r"',
        'redis_url = "redis://:s3cret@r"',
        f'database_url = "{URL}"',
    ],
)
def test_a_literal_url_in_a_file_is_refused_for_that_reason(project: Project, toml: str) -> None:
    error = refused(project(toml))
    assert "would put a secret into a file" in error.message
    assert "url_env" in error.remedy
    assert "s3cret" not in str(error)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (URL, "postgresql://db.example:5432/shop"),
        ("postgres://h/db?password=s3cret", "postgres://h/db"),
        ("postgresql://h1:1,h2:2/db", "postgresql://h1:1,h2:2/db"),
        ("postgresql://u:s3cret@[::1]:5432/db", "postgresql://[::1]:5432/db"),
        ("postgresql:///db?host=/run", "postgresql:///db"),
        ("postgresql://%2Frun%2Fpg/db", "postgresql://%2Frun%2Fpg/db"),
        ("redis://:s3cret@r:6379/0", "redis://r:6379/0"),
        ("redis://:s3@cret@r:6379/0", "redis://r:6379/0"),
        ("unix://ann:s3cret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        # a password that should have been written with percent signs
        ("postgresql://ann:s3/cret@h/db", "postgresql://…"),
        ("postgresql://ann:12/s3cret@h/db", "postgresql://…"),
        ("postgresql://ann:12?s3cret@h/db", "postgresql://…"),
        ("postgresql://ann:12#s3cret@h/db", "postgresql://…"),
        ("redis://:s3cret", "redis://…"),
        ("postgresql://h/db\nforged", "postgresql://…"),
        ("host=h password=s3cret", "…"),
        ("s3cret", "…"),
        ("", "…"),
    ],
)
def test_a_url_is_shown_as_host_port_and_database(url: str, shown: str) -> None:
    assert safe_url(url) == shown


_part = st.text(min_size=1).filter(lambda text: "Pa55" not in text)


@given(_part, _part, st.sampled_from(["@h:5432/db", "@h", "@h/db?a=b", "@[::1]/db"]))
def test_no_password_is_ever_shown_however_it_is_written(
    before: str, after: str, place: str
) -> None:
    shown = safe_url(f"postgresql://ann:{before}Pa55{after}{place}")
    assert "Pa55" not in shown
    assert "ann" not in shown


# ------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("toml", "place", "rest"),
    [
        ("job = []", ": job is no setting", 'did you mean "jobs"?'),
        ("xyzzy = 1", ": xyzzy is no setting", "The settings here: jobs, setup"),
        ("[enginge]", ": enginge is no setting", 'did you mean "engine"?'),
        ("[engine]\nlease_s = 5", ": [engine] lease_s is no setting", 'you mean "lease_seconds"?'),
        ("[redis]\nurlenv = 1", ": [redis] urlenv is no setting", 'did you mean "url_env"?'),
        (
            '[databases.main]\nurl_env = "A"\nconfim = true',
            ": [databases.main] confim is no setting",
            'did you mean "confirm"?',
        ),
        ('jobs = "jobs"', ": jobs takes names of modules", "is a string"),
        ("jobs = [1]", ": jobs takes names of modules", "is a list"),
        ('jobs = ["a/b.py"]', ": jobs takes names of modules", ""),
        ('jobs = ["a.2"]', ": jobs takes names of modules", ""),
        ('setup = "myapp.boot"', ": setup takes a function", 'such as "myapp.boot:setup"'),
        ("setup = true", ": setup takes a function", "is true or false"),
        ("setup = 2026-01-01", ": setup takes a function", "is a date or time"),
        ('schema = "Ledger"', ": schema takes a plain lower-case name", ""),
        ('schema = "pg_ledger"', ": schema takes a plain lower-case name", ""),
        ('schema = ""', ": schema takes a plain lower-case name", ""),
        (f'schema = "{"a" * 64}"', ": schema takes a plain lower-case name", ""),
        ('queue = "a b"', ": queue takes letters", ""),
        ('log_format = "xml"', ": log_format takes one of auto, console, json", ""),
        ('log_level = "loud"', ": log_level takes one of debug, info, warning, error", ""),
        ("log_level = 10", ": log_level takes one of", "is a number"),
        ("databases = 1", ": databases takes a table", "is a number"),
        ('[databases]\nurl_env = "A"', ": [databases] url_env takes a table", "[databases.main]"),
        ("[databases.main]", ": [databases.main] url_env is missing", '"DATABASE_URL"'),
        ('[databases.main]\nurl_env = "A B"', ": [databases.main] url_env takes the name", ""),
        ("[databases.main]\nurl_env = 1", ": [databases.main] url_env takes the name", ""),
        ('[databases."a b"]\nurl_env = "A"', ": [databases] a b is no name", ""),
        (
            '[databases.main]\nurl_env = "A"\nconfirm = "yes"',
            ": [databases.main] confirm takes true or false",
            "is a string",
        ),
        ('[engine]\ntask_seconds = "5"', ": [engine] task_seconds takes a number", "is a string"),
        ("[engine]\ntask_seconds = true", ": [engine] task_seconds takes a number", ""),
        ("[engine]\ntask_seconds = 0.9", ": [engine] task_seconds takes", "from 1 to"),
        ("[engine]\nsweep_seconds = nan", ": [engine] sweep_seconds takes", "from 0 to"),
        ("[engine]\nsweep_seconds = inf", ": [engine] sweep_seconds takes", "from 0 to"),
        ("[engine]\nbegin_wait_seconds = -1", ": [engine] begin_wait_seconds takes", "from 0"),
        ("[engine]\nreconcile_seconds = 0", ": [engine] reconcile_seconds takes", "from 0.1"),
        ("[engine]\nlease_seconds = 0", ": [engine] lease_seconds takes", "from 1 to"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_key(
    project: Project, toml: str, place: str, rest: str
) -> None:
    folder = project(toml)
    error = refused(folder)
    assert error.message.startswith(f"{folder / 'backfill.toml'}{place}")
    assert rest in str(error)


def test_a_mistake_in_pyproject_is_named_with_its_table(project: Project) -> None:
    folder = project(None, pyproject="[tool.backfill.engine]\ntask = 1")
    assert refused(folder).message.startswith(
        f"{folder / 'pyproject.toml'}: [tool.backfill.engine] task is no setting"
    )


def test_a_tool_backfill_that_is_no_table_is_refused(project: Project) -> None:
    folder = project(None, pyproject="[tool]\nbackfill = 1")
    assert "[tool] backfill takes a table" in refused(folder).message


@pytest.mark.parametrize(
    "toml",
    ["lease_seconds = 13", "reconcile_seconds = 5", "lease_seconds = 12\nreconcile_seconds = 3"],
)
def test_a_lease_and_a_period_that_break_the_promise_of_15_seconds_are_refused(
    project: Project, toml: str
) -> None:
    error = refused(project(f"[engine]\n{toml}"))
    assert "must stay below 15" in error.message
    assert "killed worker" in error.remedy


def test_a_lease_and_a_period_just_below_15_seconds_are_taken(project: Project) -> None:
    engine = load(project("[engine]\nlease_seconds = 12.5\nreconcile_seconds = 2.4"), {}).engine
    assert engine.lease_seconds + engine.reconcile_seconds < 15


# ---------------------------------------------------------------------------------------- fuzz


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    return (yield tmp_path_factory.mktemp("fuzzed"))


_names = st.sampled_from(
    [
        "jobs",
        "setup",
        "schema",
        "queue",
        "log_format",
        "log_level",
        "databases",
        "redis",
        "engine",
        "databases.main",
        "databases.x.y",
        "url_env",
        "confirm",
        "lease_seconds",
        "task_seconds",
    ]
)
_values = st.one_of(
    st.text(max_size=8).map(json.dumps),
    st.sampled_from(
        ['"A"', '["a"]', '"m:f"', "[]", "{}", '{ url_env = "A" }', "2026-05-27", "nan"]
    ),
    st.integers().map(str),
    st.integers(10**300, 10**320).map(str),
    st.booleans().map(json.dumps),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
)
_lines = st.tuples(_names, _values).map(" = ".join) | _names.map("[{}]".format)


@given(st.lists(_lines, max_size=6).map("\n".join) | st.text(max_size=20))
def test_any_settings_file_is_read_or_is_a_project_error(fuzzed: Path, text: str) -> None:
    (fuzzed / "backfill.toml").write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        settings = load(fuzzed, {})
    except ProjectError as error:
        message = error.message
    else:
        message = str(fuzzed)
        assert settings.databases
        assert settings.engine.lease_seconds + settings.engine.reconcile_seconds < 15
    assert str(fuzzed) in message


@given(st.text(max_size=40) | st.text(max_size=9).map("postgres://".__add__))
def test_any_text_is_a_url_of_postgresql_or_a_project_error(text: str) -> None:
    database = DatabaseSettings(name="main", raw_url=text)
    try:
        url = database.url
    except ProjectError:
        url = "postgresql://"
    assert url.startswith("postgresql://")


@given(st.text(max_size=40) | st.text(max_size=9).map("redis://".__add__))
def test_any_text_is_a_url_of_redis_or_a_project_error(text: str) -> None:
    settings = Settings(raw_redis_url=text)
    try:
        url = settings.redis_url
    except ProjectError:
        url = None
    assert url is None or url == text
