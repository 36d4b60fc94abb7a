"""Makes docs/images/demo.svg: the demo, played on the real data, at a moment of its first run.

    .venv/bin/python docs/make_pictures.py

The lines and the view are those that the demo itself draws. The moment comes after a worker has
been killed and its slices have gone on with others; then the demo is ended.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from backfill.local.screen import Screen, View, picture
from backfill.local.stage import Stage
from backfill.local.story import ALL_ROWS, PACED_SECONDS, Story

ROOT = Path(__file__).parents[1]
PICTURE = ROOT / "docs" / "images" / "demo.svg"
WIDTH_CELLS = 104
#: The picture begins with this act, and is taken when this share of the run is done at the latest.
FIRST_WORDS = "Fill departs_at"
LATEST_SHARE = 0.9


class _Taken(Exception):  # noqa: N818 - it ends the demo, and is no error
    """The picture has been taken."""


class _Camera(Screen):
    """The demo's screen, whose live view is drawn once: when there is something to see."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._recorder = console
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
            raise _Taken


def main() -> None:
    """Play the demo and take the picture."""
    console = Console(record=True, width=WIDTH_CELLS, force_terminal=True, file=io.StringIO())
    stage = Stage(ROOT)
    try:
        Story(stage, _Camera(console), rows=ALL_ROWS, seconds=PACED_SECONDS, keep=False).play()
    except _Taken:
        pass
    finally:
        stage.close(at_once=True)
    svg = console.export_svg(title="make demo", unique_id="demo")
    # no font from elsewhere: whoever looks at the picture has a monospaced one
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(svg, encoding="utf-8")
    sys.stdout.write(f"{PICTURE.relative_to(ROOT)}: {len(svg):,} characters\n")


if __name__ == "__main__":
    main()
