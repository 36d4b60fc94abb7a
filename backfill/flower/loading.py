"""Templates: ours, then Flower's, with one item more in its bar and one link in its task page.

Two of Flower's templates are changed where a marker stands, and otherwise are as it ships them: a
copy would go out of date in silence. A Flower without the marker shows its own pages as they are; a
test sees that, and the log says so.
"""

from __future__ import annotations

import ast
import logging
from pathlib import Path
from typing import Any

from tornado.template import Loader, Template

log = logging.getLogger(__name__)

OURS = Path(__file__).with_name("templates")

_ITEM = """
        <li class="nav-item">
          <a class="nav-link{% if active_tab == 'backfills' %} active{% end %}"
            href="{{ reverse_url('backfills') }}"
            {% if active_tab == 'backfills' %}aria-current="page"{% end %}>Backfills</a>
        </li>"""
_LINK = """
      {% set of_run = handler.application.run_of_task(task) %}
      {% if of_run %}
      <a class="btn btn-outline-primary" href="{{ of_run[1] }}">Run {{ of_run[0] }}</a>
      {% end %}"""
#: Flower's template → what to look for, and what comes after it.
MARKERS = {
    "navbar.html": ('<ul class="app-nav navbar-nav">', _ITEM),
    "task.html": ('<div class="detail-actions">', _LINK),
}


class TemplateLoader(Loader):
    """See the module.

    Args:
        flower: the folder of Flower's templates.
    """

    def __init__(self, flower: str, **options: Any) -> None:
        super().__init__(flower, **options)

    def _create_template(self, name: str) -> Template:
        ours = OURS / name
        if ours.is_file():
            return Template(ours.read_bytes(), name=name, loader=self)
        text = (Path(self.root) / name).read_text(encoding="utf-8")
        return Template(changed(name, text), name=name, loader=self)


def changed(name: str, text: str) -> str:
    """One of Flower's templates with what is ours in it."""
    if name not in MARKERS:
        return text
    marker, addition = MARKERS[name]
    if text.count(marker) != 1:
        log.warning("this Flower's %s is another one: it has no link to the backfills", name)
        return text
    return text.replace(marker, marker + addition)


def run_of_task(name: str | None, kwargs: object) -> tuple[str, str] | None:
    """The run and the database of one of our tasks, from its arguments as Flower has them."""
    if not (name or "").startswith("backfill.") or not isinstance(kwargs, str):
        return None
    try:
        found = ast.literal_eval(kwargs)
    except (ValueError, SyntaxError):
        return None
    if not isinstance(found, dict):
        return None
    run, database = found.get("run"), found.get("database")
    return (run, database) if isinstance(run, str) and isinstance(database, str) else None
