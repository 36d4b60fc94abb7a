"""The public interface is small, and importing it costs next to nothing."""

import subprocess
import sys
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
    "Source",
    "Sql",
    "Table",
    "Target",
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


def loaded_by_importing() -> set[str]:
    """The modules that `import backfill` adds to those of a bare interpreter."""
    shown = "import sys; b = set(sys.modules); import backfill; print(*set(sys.modules) - b)"
    done = subprocess.run([sys.executable, "-c", shown], check=True, capture_output=True, text=True)
    return set(done.stdout.split())


def test_importing_loads_no_driver_no_broker_and_no_terminal() -> None:
    loaded = loaded_by_importing()
    assert "backfill.job" in loaded
    assert not HEAVY & {name.partition(".")[0] for name in loaded}


def test_importing_is_quick() -> None:
    """Counted and not timed: what else the machine does at the moment would be measured, too."""
    loaded = loaded_by_importing()
    # 69 modules took 0.08 s; each of these alone would bring dozens, or be slow by itself
    assert len(loaded) <= 80, sorted(loaded)
    assert not {"asyncio", "email", "hashlib", "json", "logging", "subprocess"} & loaded


def test_what_a_celery_application_needs_is_one_function() -> None:
    from backfill import celery

    assert celery.__all__ == ["install"]
