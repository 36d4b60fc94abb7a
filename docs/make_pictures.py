"""Makes docs/images/demo.svg and watch.svg: the demo, played on the real data, in its first run.

    .venv/bin/python docs/make_pictures.py

The lines and the view are those that the demo itself draws, and those that `backfill watch` draws
of the same run. The moment comes after a worker has been killed and its slices have gone on with
others; then the demo is ended.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from backfill.cli.live import Reader
from backfill.cli.scene import Frame, scene
from backfill.local.screen import Screen, View, picture
from backfill.local.stage import Stage
from backfill.local.story import ALL_ROWS, PACED_SECONDS, Story
from backfill.project import Project
from backfill.settings import load

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
WIDTH_CELLS = 104
#: The picture begins with this act, and is taken when this share of the run is done at the latest.
FIRST_WORDS = "Fill departs_at"
LATEST_SHARE = 0.9


class _Taken(Exception):  # noqa: N818 - it ends the demo, and is no error
    """The picture has been taken."""


class _Camera(Screen):
    """The demo's screen, whose live view is drawn once: when there is something to see."""

    def __init__(self, console: Console, stage: Stage) -> None:
        super().__init__(console)
        self._recorder = console
        self._stage = stage
        self.watched = _recorder()
        self._is_rolling = self._has_gone_on = False
        self.is_live = True  # lines as a terminal has them

    def act(self, title: str) -> None:
        self._recorder.export_text(clear=True)  # what was before is not in the picture
        self._is_rolling = title.startswith(FIRST_WORDS)
        super().act(title)

    def event(self, text: str, style: str = "") -> None:
        super().event(text, style)
        self._has_gone_on = self._has_gone_on or "goes on with" in text

    @contextmanager
    def watching(self) -> Iterator[None]:
        yield

    def show(self, view: View) -> None:
        share = view.progress.share or 0.0
        all_work = not {"starting", "idle"} & {doing for _, doing in view.workers}
        is_worth_it = self._has_gone_on and all_work
        if self._is_rolling and (is_worth_it or share > LATEST_SHARE):
            self._recorder.print(picture(view, self._recorder.width))
            self._watch(view.progress.run.id)
            raise _Taken

    def _watch(self, run: str) -> None:
        """The same run, as `backfill watch` draws it."""
        environ = self._stage.environment
        with Reader(Project(load(ROOT, environ), environ).gallery("default"), run) as reader:
            seen = reader.read(with_marks=True)
        for line in scene([seen], (), Frame(width=WIDTH_CELLS - 1, height=40)) if seen else ():
            self.watched.print(line)


def _recorder() -> Console:
    return Console(record=True, width=WIDTH_CELLS, force_terminal=True, file=io.StringIO())


def _write(console: Console, name: str, title: str) -> None:
    svg = console.export_svg(title=title, unique_id=name)
    # no font from elsewhere: whoever looks at the picture has a monospaced one
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")
    sys.stdout.write(f"{name}.svg: {len(svg):,} characters\n")


def main() -> None:
    """Play the demo and take the pictures."""
    console = _recorder()
    stage = Stage(ROOT)
    camera = _Camera(console, stage)
    try:
        Story(stage, camera, rows=ALL_ROWS, seconds=PACED_SECONDS, keep=False).play()
    except _Taken:
        pass
    finally:
        stage.close(at_once=True)
    _write(console, "demo", "make demo")
    _write(camera.watched, "watch", "backfill watch")


if __name__ == "__main__":
    main()
