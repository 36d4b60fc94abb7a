"""Mistakes in a settings file: each is one error that names the file and the key."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill.errors import ProjectError
from backfill.settings import find_project, load
from tests.settings.conftest import Project, refused


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
        (
            '[databases.m]\nurl_env = "A"\nsource_only = true',
            ": [databases] m source_only: every database is only read",
            "leave source_only out",
        ),
        ('[databases.m]\nurl_env = "A"\nmax_slots = 0', ": [databases.m] max_slots takes", "1 to"),
        (
            '[databases.m]\nurl_env = "A"\nmax_slots = 1.5',
            ": [databases.m] max_slots takes a whole number",
            "is a number",
        ),
        (
            '[databases.m]\nurl_env = "A"\nreplica_url_envs = "R"',
            ": [databases.m] replica_url_envs takes names",
            '["REPLICA_URL"]',
        ),
        (
            '[databases.m]\nurl_env = "A"\nreplica_url_envs = ["R", "R"]',
            ": [databases.m] replica_url_envs takes each variable once",
            "",
        ),
        (
            '[databases.m]\nurl_env = "A"\nprometheus_url_env = "http://s3cret@p"',
            ": [databases.m] prometheus_url_env would put a secret into a file",
            "",
        ),
        (
            '[databases.m]\nurl_env = "A"\nignored_standbys = [""]',
            ": [databases.m] ignored_standbys takes names of standbys",
            "",
        ),
        ("[engine]\nsample_seconds = 0", ": [engine] sample_seconds takes", "from 0.1"),
        (
            "[engine]\nsample_seconds = 5",
            ": [engine] signals_stale_seconds: signals_stale_seconds is 10",
            "more than twice sample_seconds (5)",
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


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Path.mkdir, "is a folder"),
        (lambda path: path.symlink_to("nowhere.toml"), "is a link to nothing"),
        (lambda path: path.symlink_to(path), "cannot be read"),
    ],
    ids=["folder", "dangling", "loop"],
)
def test_a_settings_file_that_is_none_is_no_missing_one(
    tmp_path: Path, make: Callable[[Path], None], told: str
) -> None:
    """Without a project, a command would go to the default database, and ask for nothing."""
    make(tmp_path / "backfill.toml")
    (tmp_path / "deep").mkdir()
    for look in (lambda: find_project(tmp_path / "deep"), lambda: load(tmp_path, {})):
        with pytest.raises(ProjectError, match=told) as caught:
            look()
        assert str(tmp_path / "backfill.toml") in caught.value.message
        assert caught.value.remedy


def test_a_folder_that_is_named_like_anothers_file_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").mkdir()
    assert find_project(tmp_path) is None


@pytest.mark.parametrize(
    ("toml", "shown"),
    [
        ('jobs = ["jobs", "../jobs"]', "a list with '../jobs'."),
        ('jobs = ["jobs", 5]', "a list with 5."),
        ('log_level = "LOUD"', "a string: 'LOUD'."),
        ('schema = "Bad Schema"', "a string: 'Bad Schema'."),
        ('queue = ""', "a string: ''."),
        ('setup = "x"', "a string: 'x'."),
        ("log_level = true", "true or false: true."),
        (f'queue = "{"ab " * 99}"', "…."),
        ("[engine]\nlease_seconds = 0.5", "a number: 0.5."),
    ],
)
def test_a_value_that_is_wrong_is_shown(project: Project, toml: str, shown: str) -> None:
    assert refused(project(toml)).remedy.endswith(shown)


@pytest.mark.parametrize(
    "toml",
    [
        '[databases.m]\nurl_env = "hunter2!"',
        '[databases.m]\nurl_env = "A"\nreplica_url_envs = ["hunter2!"]',
        '[databases]\nmain = "hunter2!"',
        '[redis]\nurl_env = "hunter2!"',
        'queue = "ann:hunter2@h"',
        'queue = "password=hunter2"',
        'jobs = ["redis://:hunter2"]',
    ],
)
def test_what_may_be_a_secret_is_not_shown(project: Project, toml: str) -> None:
    assert "hunter2" not in str(refused(project(toml)))


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", [".env", "backfill.toml"])
def test_a_file_in_another_encoding_is_told_with_what_to_do(
    project: Project, name: str, encoding: str
) -> None:
    folder = project("")
    (folder / name).write_bytes('queue = "hünter2"\n'.encode(encoding))
    error = refused(folder)
    assert error.message == f"{folder / name} is not UTF-8"
    assert error.remedy == "Save it as UTF-8."


def test_a_mark_before_the_text_is_no_mistake(project: Project) -> None:
    folder = project('\ufeffqueue = "other"', env="\ufeffBACKFILL_DATABASE_URL=postgres://h/d\n")
    settings = load(folder, {})
    assert settings.queue == "other"
    assert settings.database().url == "postgresql://h/d"


def test_an_env_file_that_may_not_be_read_says_so(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project("", env="A=1\n")
    read_text = Path.read_text

    def refuse(path: Path, encoding: str | None = None) -> str:  # root may read all
        if path.name == ".env":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return read_text(path, encoding)

    monkeypatch.setattr(Path, "read_text", refuse)
    error = refused(folder)
    assert error.message == f"{folder / '.env'} cannot be read: Permission denied"
    assert "chmod" in error.remedy
