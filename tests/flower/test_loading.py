"""Flower's own templates: ours find their place in them."""

from __future__ import annotations

from pathlib import Path

import flower
import pytest

from backfill.flower.loading import MARKERS, changed, run_of_task

TEMPLATES = Path(flower.__file__).with_name("templates")


@pytest.mark.parametrize("name", sorted(MARKERS))
def test_the_flower_that_is_installed_has_the_place_for_ours(name: str) -> None:
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    marker, addition = MARKERS[name]
    assert changed(name, text) == text.replace(marker, marker + addition)
    assert changed(name, text) != text


def test_another_flower_shows_its_own_pages_as_they_are() -> None:
    assert changed("navbar.html", "<nav></nav>") == "<nav></nav>"
    assert changed("worker.html", "<p></p>") == "<p></p>"


@pytest.mark.parametrize(
    ("name", "kwargs", "run"),
    [
        ("backfill.work", "{'run': 'count-7f3k2', 'slot': 0, 'database': 'main'}", "count-7f3k2"),
        ("other.task", "{'run': 'count-7f3k2', 'database': 'main'}", None),
        ("backfill.work", "{'run': 'count-7f3k2', 'dat...", None),
        ("backfill.work", "['run']", None),
        ("backfill.work", "{'run': 7, 'database': 'main'}", None),
        ("backfill.work", "__import__('os').getcwd()", None),
        (None, None, None),
    ],
)
def test_a_task_leads_to_its_run(name: str | None, kwargs: str | None, run: str | None) -> None:
    assert run_of_task(name, kwargs) == (None if run is None else (run, "main"))
