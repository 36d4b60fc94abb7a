"""A run from its first row to its end, watched and led from the browser alone."""

from __future__ import annotations

import socket

import pytest
from playwright.sync_api import Page, expect

from backfill.model import RunState
from backfill.pg.ledger import Run
from tests.acceptance.crew import Crew
from tests.flower.conftest import HOSTILE, Visitor
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
