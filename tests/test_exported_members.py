"""The public interface is small, and importing it costs next to nothing."""

import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

import backfill
from backfill import testing

PUBLIC = [
    "BatchInfo",
    "Bounds",
    "Call",
    "Delete",
    "Insert",
    "Job",
    "Options",
    "Param",
    "Quarantine",
    "Query",
    "RetryLater",
    "Row",
    "RunInfo",
    "Sql",
    "Table",
    "Update",
    "__version__",
    "enqueue",
    "key_of",
    "run",
]

#: What a job's module must not load: drivers, brokers, terminals.
HEAVY = {"psycopg", "celery", "kombu", "redis", "rich", "structlog", "tenacity", "click"}


def test_the_public_names_are_these_and_no_others() -> None:
    assert backfill.__all__ == PUBLIC


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(backfill, name) is not None
    assert name in dir(backfill)


def test_the_names_for_tests_are_these_and_no_others() -> None:
    assert testing.__all__ == [
        "At",
        "NotFinishedError",
        "Outcome",
        "Quarantined",
        "interrupt",
        "run",
    ]


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'enqeue'"):
        backfill.enqeue  # type: ignore[attr-defined]  # noqa: B018


def test_the_version_is_that_of_the_distribution() -> None:
    project = Path(__file__).parents[1] / "pyproject.toml"
    assert backfill.__version__ == tomllib.loads(project.read_text())["project"]["version"]


def test_importing_loads_no_driver_no_broker_and_no_terminal() -> None:
    shown = "import sys, backfill; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", shown], check=True, capture_output=True, text=True
    ).stdout.split()
    assert "backfill" in loaded
    assert not HEAVY & set(loaded)


def test_importing_is_quick() -> None:
    def seconds(statement: str) -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        return time.perf_counter() - start

    # the least of several: what the machine does beside it only ever adds
    bare = min(seconds("pass") for _ in range(5))
    ours = min(seconds("import backfill") for _ in range(5))
    # the goal is 0.08 s, the bound five times that
    assert ours - bare < 0.4


def test_what_a_celery_application_needs_is_one_function() -> None:
    from backfill import celery

    assert celery.__all__ == ["install"]
