"""Makes docs/images/flower-*.png: our pages in Flower, while a run works on the demo's real data.

    make screenshots

It needs Chromium. Nothing is staged but the rows: a few flights get a time that no clock shows, so
that there is a quarantine to be seen.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

from backfill.local import flights
from backfill.local.process import free_port
from backfill.local.stage import Stage
from backfill.pg.connect import connect

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
PATIENCE_SECONDS = 120.0
#: The run is pictured when this share of it is done.
SHARE = 0.55
#: A picture that is larger slows the README down.
MOST_BYTES = 150_000
WIDE, HIGH = 1200, 1400

_JOB = "fill_departs_at"


def wait(true: Callable[[], object], what: str) -> None:
    """Wait for something that a worker or a server does."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > deadline:
            sys.exit(f"not within {PATIENCE_SECONDS:.0f} s: {what}")
        time.sleep(0.2)


def prepare(stage: Stage) -> None:
    """A table in use, one run that has ended, one schedule, and a run at work."""
    stage.start()
    with connect(stage.url) as conn:
        flights.load(conn)
        flights.expand(conn)
        conn.execute("UPDATE flights SET sched_dep_time = 2961 WHERE id % 30001 = 0")
    stage.run("db", "upgrade", "--yes")
    for _ in range(2):
        stage.add_worker()
    stage.run("enqueue", "fill_carrier_id", "--wait", "--yes")
    nightly = ("--cron", "30 1 * * *", "--zone", "America/New_York", "--yes")
    stage.run("schedule", "add", "nightly", "split_flight_times", *nightly)
    paced = ("--rate", "6000/s", "--concurrency", "4", "--set", "slice_rows=5000", "--yes")
    stage.run("enqueue", _JOB, *paced)


@contextmanager
def flower(stage: Stage) -> Iterator[str]:
    """Our Flower on the stage; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "backfill", "--project", str(ROOT), "flower"]
    process = subprocess.Popen(
        [*command, f"--port={port}"], env=stage.environment, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}/backfills"
    finally:
        process.terminate()
        process.wait(timeout=30)


def newest(address: str) -> dict[str, Any]:
    """The run that works, as the overview has it; empty while there is none."""
    try:
        with urllib.request.urlopen(f"{address}/api/overview", timeout=10) as answer:  # noqa: S310 - ours
            found = json.load(answer)
    except OSError:
        return {}
    runs = [run for run in found["databases"][0]["runs"] if run["job"] == _JOB]
    return runs[0] if runs else {}


def take(address: str, run: str, chromium: str) -> None:
    """All four pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        for scheme in ("light", "dark"):
            page = browser.new_page(
                viewport={"width": WIDE, "height": HIGH},
                color_scheme="dark" if scheme == "dark" else "light",
            )
            for name, path in (("overview", ""), ("run", f"/run/{run}?database=default")):
                page.goto(address + path)
                page.wait_for_selector('#bf-pulse[data-state="live"]')
                page.wait_for_timeout(1500)  # the bar glides
                picture = IMAGES / f"flower-{name}-{scheme}.png"
                last = page.locator("[aria-label=Signals], .bf-ended").last.bounding_box()
                end = HIGH if last is None else min(HIGH, last["y"] + last["height"] + 24)
                clip = {"x": 0.0, "y": 0.0, "width": float(WIDE), "height": end}
                page.screenshot(path=picture, clip=clip)  # type: ignore[arg-type]
                size = picture.stat().st_size
                sys.stdout.write(f"{picture.relative_to(ROOT)}: {size:,} bytes\n")
                if size > MOST_BYTES:
                    sys.exit("that is too large")
        browser.close()


def main() -> None:
    """Prepare the stage and take the pictures."""
    chromium = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if chromium is None:
        sys.exit("no Chromium is installed (`.ci/programs` installs it)")
    stage = Stage(ROOT)
    try:
        prepare(stage)
        with flower(stage) as address:
            wait(lambda: newest(address), "the run begins")
            wait(lambda: (newest(address).get("share") or 0) > SHARE, "the run comes on")
            take(address, newest(address)["run"], chromium)
    finally:
        stage.close(at_once=True)


if __name__ == "__main__":
    main()
