"""Runs from their first row to their end, watched and led from the browser alone."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from backfill.cron import Cron
from backfill.engine import schedule
from backfill.model import RunState
from backfill.pg.ledger import Run
from backfill.pg.samples import read_samples
from tests.acceptance.crew import Crew, each_row_once
from tests.flower.conftest import HOSTILE, LONG, Visitor
from tests.flower.servers import FlowerServer


def share(page: Page) -> int:
    """What the bar shows, in percent."""
    return int(page.get_by_role("progressbar").get_attribute("aria-valuenow") or 0)


def tab_to(page: Page, action: str) -> None:
    """Go there as somebody without a mouse does."""
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.action") == action:
            return
    pytest.fail(f"no way by keyboard to {action}")


def options_of(run: Run) -> dict[str, object]:
    return {name: run.options[name] for name in ("rate", "concurrency")}


@pytest.mark.slow
def test_a_run_is_watched_paused_tuned_resumed_and_brought_to_its_end(
    crew: Crew, flower: FlowerServer, visitor: Visitor
) -> None:
    page = visitor.page
    shipped = crew.project.declaration("count").options
    run = crew.enqueue("count", options=shipped.replace_from_text({"rate": "100/s"}))
    crew.start(2)

    # the bar moves, and nobody loads the page again
    page.goto(f"{flower.url}/backfills")
    visitor.pulse("live")
    crew.wait_for_rows(run, 20)
    crew.wait(lambda: share(page) > 0, "the bar begins")
    before = share(page)
    crew.wait(lambda: share(page) > before, "the bar moves on")
    expect(page.locator("article")).to_contain_text("its rate of 100/s")

    # paused by keyboard, as the ledger says
    page.get_by_role("link", name="item.n").click()
    tab_to(page, "pause")
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    for named in (run, "Job", "count", "default, postgresql://127.0.0.1"):
        expect(dialog).to_contain_text(named)
    page.keyboard.type("the boss is looking")
    page.keyboard.press("Enter")
    crew.wait_for(run, RunState.PAUSED)
    assert crew.causes(run) == {"user"}
    paused = crew.events(run)[-1]
    assert (paused.name, paused.detail["reason"]) == ("run.paused", "the boss is looking")
    assert paused.caused_by == f"flower@{socket.gethostname()}"
    expect(page.locator("#bf-told")).to_contain_text(f"{run} is paused")
    expect(page.locator(".bf-limit")).to_contain_text("user: the boss is looking")

    # the red button, which names the database, and what undoes it: the user's pause stays
    page.get_by_role("link", name="Backfills", exact=True).first.click()
    page.get_by_role("button", name="Stop all default").click()
    expect(dialog).to_contain_text("default, postgresql://127.0.0.1")
    expect(dialog).not_to_contain_text(run)
    page.get_by_label("Reason").fill("the disk is full")
    page.get_by_role("button", name="Stop all", exact=True).click()
    expect(page.locator("#bf-told")).to_contain_text(f"default: {run} is paused")
    assert crew.causes(run) == {"user", "stop-all"}
    expect(page.locator(".bf-database .bf-wrong:visible")).to_contain_text("the disk is full")
    expect(page.get_by_role("button", name="Stop all default")).to_be_hidden()
    page.get_by_role("button", name="Start all default").click()
    page.get_by_role("button", name="Start all", exact=True).click()
    expect(page.locator("#bf-told")).to_contain_text(f"{run} stays paused")
    expect(page.locator("#bf-told")).to_contain_text("user: the boss is looking")
    assert crew.causes(run) == {"user"}
    expect(page.get_by_role("button", name="Stop all default")).to_be_visible()

    # words stand below a chart's lines, and not on them
    page.get_by_role("link", name="item.n").click()
    expect(page.locator(".bf-chart-times").first).to_contain_text("at most")
    expect(page.locator(".bf-plot").first).to_have_text("")

    # tuned: only what was changed
    page.get_by_role("button", name=f"Tune {run}").click()
    page.get_by_label("Rate").fill("")
    page.get_by_role("button", name="Tune", exact=True).click()
    expect(page.locator("#bf-told")).to_contain_text("rate 100/s → none")
    assert options_of(crew.run(run)) == {"rate": None, "concurrency": 2}

    # resumed; at its end one row needs somebody
    page.get_by_role("button", name=f"Resume {run}").click()
    page.get_by_role("button", name="Resume", exact=True).click()
    crew.wait(lambda: crew.causes(run) == {"quarantine"}, "only the quarantine is left")

    # what is hostile is text, and no row is shown before somebody asks
    panel = page.get_by_role("region", name="Quarantine", exact=True)
    expect(panel).to_contain_text("1 row waits for somebody")
    assert "hacked" not in page.content()
    panel.get_by_role("button", name="Show rows").click()
    expect(panel.locator("code")).to_have_text(HOSTILE)
    assert "negative" not in page.content()
    panel.get_by_role("button", name="Show reasons").click()
    expect(panel.locator(".bf-reason")).to_have_text(f"{HOSTILE} is negative")
    assert page.evaluate("window.hacked") is None

    # accepted, and done
    panel.get_by_role("button", name=f"Accept {run}").click()
    page.get_by_role("button", name="Accept", exact=True).click()
    crew.wait_for(run, RunState.SUCCEEDED)
    expect(page.locator(".bf-top .bf-state")).to_have_text("succeeded")
    assert share(page) == 100
    expect(page.get_by_role("button", name=f"Pause {run}")).to_be_hidden()
    shown = flower.get(f"/backfills/api/run/{run}").json
    assert shown["counts"] == crew.counts(run).as_dict()
    assert crew.query("SELECT count(*) FROM item WHERE n = 1") == [(799,)]
    tasks(page, flower, run)


def tasks(page: Page, flower: FlowerServer, run: str) -> None:
    """From a run to its tasks and back."""
    page.get_by_role("link", name="Its tasks in Celery").click()
    page.locator("#tasks-table tbody tr", has_text=run).locator("a[href*='/task/']").first.click()
    page.get_by_role("link", name=f"Run {run}").click()
    assert page.url == f"{flower.url}/backfills/run/{run}?database=default"


# ------------------------------------------------------------------ all that there is to be seen

#: One row stays locked by somebody else, one cannot be processed until it is mended.
LOCKED, NEGATIVE, ROWS = 15, 130, 800


@pytest.fixture
def long_table(crew: Crew) -> None:
    """A table whose name is as long as can be, a schedule of its job, and a worker."""
    crew.conn.execute(f"CREATE TABLE {LONG} (id int PRIMARY KEY, {LONG} int NOT NULL)")
    crew.conn.execute(
        f"INSERT INTO {LONG} SELECT i, CASE i WHEN {NEGATIVE} THEN -1 ELSE 0 END"
        f" FROM generate_series(1, {ROWS}) i"
    )
    crew.conn.execute(f"ANALYZE {LONG}")
    schedule.add(
        crew.desk.conn,
        crew.desk.ledger,
        crew.project.declaration(LONG),
        name=f"nightly-{LONG}"[:63],
        params={},
        options={},
        when=Cron.parse("30 1 1 1 *", "America/New_York"),
        if_running="skip",
        if_missed="skip",
        by="the test",
    )
    if not crew.alive:
        crew.start(2)


@contextmanager
def locked_row(crew: Crew) -> Iterator[None]:
    with psycopg.connect(crew.environ["BACKFILL_DATABASE_URL"]) as other:
        other.execute(f"SELECT FROM {LONG} WHERE id = {LOCKED} FOR UPDATE")
        yield


def figure(page: Page, words: str) -> Locator:
    """The large number over these words."""
    named = page.get_by_text(words, exact=True)
    return page.locator(".bf-top .bf-figures div", has=named).locator("dd")


def points(chart: Locator) -> int:
    """Of a chart's line."""
    return (chart.locator(".bf-line").get_attribute("d") or "").count("L") + 1


def who_works(crew: Crew, run: str) -> set[str]:
    held = crew.query("SELECT number, holder FROM backfill.slice WHERE run = %s", run)
    return {f"slice {number} · {holder}" for number, holder in held if holder is not None}


def cells(crew: Crew, run: str) -> list[str]:
    """What the map has to say of each slice, from the ledger."""
    words = {"walk": "waiting", "sweep": "to sweep", "verify": "to verify", "done": "done"}
    return [
        f"slice {number}: {words[str(phase)]}"
        + (f", {deferred} row deferred" if deferred else "")
        + (f", {quarantined} row in quarantine" if quarantined else "")
        for number, phase, deferred, quarantined in crew.query(
            "SELECT number, phase, deferred, quarantined FROM backfill.slice WHERE run = %s"
            " ORDER BY number",
            run,
        )
    ]


@pytest.mark.slow
def test_everything_is_drawn_as_the_ledger_has_it_and_a_mended_row_is_taken_again(
    crew: Crew, flower: FlowerServer, visitor: Visitor, browser: Browser, long_table: None
) -> None:
    page = visitor.page
    with locked_row(crew):
        shipped = crew.project.declaration(LONG).options
        run = crew.enqueue(LONG, options=shipped.replace_from_text({"rate": "80/s"}))
        address = f"{flower.url}/backfills/run/{run}?database=default"
        page.goto(address)
        visitor.pulse("live")

        # while it works: who works on which slice, and when it will be done
        shown = page.get_by_role("list", name="Who works").get_by_role("listitem")
        seen: set[str] = set()

        def is_named() -> bool:
            seen.update(who_works(crew, run))
            names = {" · ".join(text.split(" · ")[:2]) for text in shown.all_inner_texts()}
            return len(names) == 2 and names <= seen

        crew.wait(is_named, "both who work are named as the ledger names them")
        crew.wait_for_rows(run, 240)
        expect(figure(page, "left")).to_have_text(re.compile(r"^\d+ s$"))
        expect(figure(page, "ends about")).to_have_text(re.compile(r"^\d\d:\d\d:\d\d$"))

        over_time = page.get_by_role("region", name="Over time").locator(".bf-chart")
        assert over_time.count() == 3
        crew.wait(lambda: min(map(points, over_time.all())) > 2, "each chart is a line")

        # paused: all of it stands still, and is compared
        visitor.ask(f"Pause {run}", run).get_by_role("button", name="Pause").click()
        crew.wait(lambda: crew.state(run) is RunState.PAUSED and not crew.held(run), "it rests")
        counts = crew.counts(run)
        assert (counts.deferred, counts.quarantined) == (1, 1)
        expect(figure(page, "rows")).to_have_text(re.compile(rf"^{counts.settled} / (≈ )?{ROWS}$"))
        expect(figure(page, "deferred")).to_have_text("1")
        expect(figure(page, "quarantined")).to_have_text("1")
        expect(page.locator(".bf-map i:not(.bf-ahead)")).to_have_count(len(cells(crew, run)))
        drawn = page.locator(".bf-map i:not(.bf-ahead)")
        crew.wait(
            lambda: [one.get_attribute("title") for one in drawn.all()] == cells(crew, run),
            "the map's cells are the ledger's slices",
        )
        assert page.locator(".bf-map i").count() == ROWS // 100
        happened = [event.name.replace(".", " ") for event in reversed(crew.events(run))]
        expect(page.get_by_role("list", name="Events").locator("b")).to_have_text(happened)
        planned = page.get_by_role("region", name="Schedules of this job")
        expect(planned).to_contain_text(f"nightly-{LONG}"[:63])
        expect(planned).to_contain_text("30 1 1 1 * America/New_York")
        signals = page.get_by_role("region", name="Signals").locator(".bf-chart")
        samples = read_samples(crew.desk.conn, crew.desk.ledger, run)
        known = {one.name.replace("_", " "): one for one in samples if one.value is not None}
        assert known
        assert signals.count() == len(known)
        for chart in signals.all():
            sample = known[chart.locator("figcaption span").first.inner_text()]
            assert points(chart) > 2, sample.name
            for kind in ("stop", "resume"):
                threshold = chart.locator(f"line.bf-limit-{kind}")
                assert 0 <= float(threshold.get_attribute("y1") or "-1") <= 120, sample.name
                assert (threshold.text_content() or "").startswith(f"{kind} at ")

        fits_a_phone(browser, flower, run)

    # mended, and taken again: the row is done, and so is the one that was locked
    crew.conn.execute(f"UPDATE {LONG} SET {LONG} = 0 WHERE id = {NEGATIVE}")
    question = visitor.ask(f"Take again {run}", run, LONG, "default, postgresql://127.0.0.1")
    expect(question).to_contain_text("1 row, now that they are mended")
    question.get_by_role("button", name="Take again").click()
    expect(page.locator("#bf-told")).to_contain_text("1 row")
    assert crew.query("SELECT FROM backfill.quarantine WHERE run = %s", run) == []
    assert crew.events(run)[-1].caused_by == f"flower@{socket.gethostname()}"
    visitor.ask(f"Resume {run}", run).get_by_role("button", name="Resume").click()
    crew.hurry(run)
    crew.wait_for(run, RunState.SUCCEEDED)
    assert (crew.counts(run).written, crew.counts(run).quarantined) == (ROWS, 0)
    each_row_once(crew, LONG, [LONG], ROWS)
    expect(page.locator(".bf-top .bf-state")).to_have_text("succeeded")


def fits_a_phone(browser: Browser, flower: FlowerServer, run: str) -> None:
    """Nothing of a full page scrolls sideways or is cut off, but the tables that scroll alone."""
    beyond = """() => [...document.querySelectorAll('main *')].filter((one) =>
        !one.closest('.bf-scroll, svg') && one.getBoundingClientRect().right > 360.5
    ).map((one) => `${one.className} ${one.textContent.slice(0, 60)}`)"""
    page = browser.new_page(viewport={"width": 360, "height": 740})
    for path in ("", f"/run/{run}?database=default"):
        page.goto(f"{flower.url}/backfills{path}")
        page.wait_for_selector('#bf-pulse[data-state="live"]')
        expect(page.locator("main")).to_contain_text(LONG)
        if path:
            page.get_by_role("button", name="Show rows").click()
            page.get_by_role("button", name="Show reasons").click()
            expect(page.locator(".bf-reason")).to_contain_text("negative: ")
        assert page.evaluate(beyond) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.close()
