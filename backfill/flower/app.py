"""Flower's application with our handlers, templates and static files under its own prefix."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from flower.app import Flower, rewrite_handler
from tornado.web import url

from backfill.flower.handlers import (
    ActionJson,
    DatabaseActionJson,
    Metrics,
    OverviewJson,
    OverviewPage,
    QuarantineJson,
    RunJson,
    RunPage,
    Static,
)
from backfill.flower.house import House
from backfill.flower.loading import TemplateLoader, run_of_task

_RUN = r"([^/?#]+)"
STATIC = Path(__file__).with_name("static")


class Backfills(Flower):
    """Flower with pages of ours.

    Args:
        house: what they share; the caller closes it.
        options, capp, settings: as Flower's.
    """

    def __init__(self, house: House, *, options: Any, capp: Any, **settings: Any) -> None:
        super().__init__(
            options=options,
            capp=capp,
            template_loader=TemplateLoader(settings["template_path"]),
            **settings,
        )
        self.house = house
        handlers = [
            url(r"/backfills/?", OverviewPage, name="backfills"),
            url(rf"/backfills/run/{_RUN}", RunPage, name="backfills_run"),
            url(r"/backfills/api/overview", OverviewJson, name="backfills_overview"),
            url(r"/backfills/api/all/([a-z-]+)", DatabaseActionJson, name="backfills_api_all"),
            url(rf"/backfills/api/run/{_RUN}", RunJson, name="backfills_api_run"),
            url(rf"/backfills/api/run/{_RUN}/quarantine", QuarantineJson),
            url(rf"/backfills/api/run/{_RUN}/([a-z-]+)", ActionJson),
            url(r"/backfills/static/(.+)", Static, {"path": str(STATIC)}, name="backfills_static"),
            url(r"/metrics", Metrics),
        ]
        prefix = options.url_prefix
        # Flower's last handler answers everything, so ours are looked at before all of its own
        self.add_handlers(
            ".*", [rewrite_handler(one, prefix) for one in handlers] if prefix else handlers
        )

    def run_of_task(self, task: Any) -> tuple[str, str] | None:
        """The run that a task works on, and the address of its page; None: it is not ours."""
        found = run_of_task(task.name, task.kwargs)
        if found is None:
            return None
        run, database = found
        return run, f"{self.reverse_url('backfills_run', run)}?{urlencode({'database': database})}"
