"""The pages themselves: where they fit, what they do when nobody looks, and when nobody answers."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from playwright.sync_api import Browser, Route, expect

from backfill.local.redis import LocalRedis
from tests.acceptance.crew import Crew
from tests.flower.conftest import Visitor
from tests.flower.servers import FlowerServer, running_flower


@pytest.fixture(scope="module")
def run(crew: Crew) -> str:
    """A run that waits for a worker for ever; so nobody publishes it."""
    return crew.enqueue("other")


def test_every_page_of_flower_leads_to_ours(flower: FlowerServer, visitor: Visitor) -> None:
    """A new Flower whose bar is another one fails here."""
    for path in ("/workers", "/tasks", "/broker", "/backfills"):
        visitor.page.goto(flower.url + path)
        links = visitor.page.locator("nav .app-nav a").all_inner_texts()
        assert [text.strip() for text in links[:4]] == ["Backfills", "Workers", "Tasks", "Broker"]
    expect(visitor.page.locator("nav [aria-current=page]")).to_have_text("Backfills")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_everything_without_scrolling_sideways(
    flower: FlowerServer, browser: Browser, run: str, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740}, color_scheme="dark" if scheme == "dark" else "light"
    )
    page = context.new_page()
    for path in ("/backfills", f"/backfills/run/{run}?database=default"):
        page.goto(flower.url + path)
        page.wait_for_selector('#bf-pulse[data-state="ledger"]')
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        assert page.locator("html").get_attribute("data-bs-theme") == scheme
    page.get_by_role("button", name=f"Tune {run}").click()
    box = page.get_by_role("dialog").bounding_box()
    assert box is not None
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 360
    context.close()


def test_without_a_picture_in_redis_the_ledger_is_read_and_said_to_be(
    crew: Crew, flower: FlowerServer, visitor: Visitor, run: str
) -> None:
    crew.conn.execute(
        "UPDATE backfill.run SET from_key = '{424242}', row_limit = 5000 WHERE id = %s", [run]
    )
    visitor.page.goto(f"{flower.url}/backfills/run/{run}?database=default")
    visitor.pulse("ledger")
    expect(visitor.page.locator("#bf-pulse")).to_have_text("read from the ledger")
    expect(visitor.page.locator(".bf-limit")).to_contain_text("no worker is running")
    bounded = f"from a key on (`backfill status {run}` says which), at most 5,000 rows"
    expect(visitor.page.locator("dd", has_text=bounded)).to_have_count(1)
    assert "424242" not in flower.get(f"/backfills/api/run/{run}?database=default").text


def test_the_pages_go_on_when_redis_has_gone_away(
    crew: Crew, run: str, own_redis: LocalRedis
) -> None:
    environ = {**crew.environ, "BACKFILL_REDIS_URL": own_redis.url()}
    with running_flower(crew.folder, environ) as server:
        assert server.get(f"/backfills/api/run/{run}").json["state"] == "queued"
        own_redis.stop()
        for path in (f"/backfills/api/run/{run}", "/backfills/api/overview"):
            began = time.monotonic()
            answer = server.get(path)
            assert (answer.status, run in answer.text) == (200, True)
            assert time.monotonic() - began < 10
        paused = server.post(f"/backfills/api/run/{run}/pause", {"reason": "no Redis"})
        assert paused.json["lines"] == [f"{run} is paused"]
        page = f"/backfills/api/run/{run}"  # the ledger is read once a second at most
        crew.wait(lambda: server.get(page).json["state"] == "paused", "the page sees it")
        assert server.post(f"/backfills/api/run/{run}/resume", {}).json["error"] == ""


def test_nothing_is_asked_while_nobody_looks(
    flower: FlowerServer, visitor: Visitor, run: str
) -> None:
    page = visitor.page
    asked: list[float] = []
    page.on("request", lambda one: asked.append(time.monotonic()) if "/api/" in one.url else None)
    page.goto(f"{flower.url}/backfills")
    visitor.pulse("ledger")
    hide = "Object.defineProperty(document, 'hidden', {configurable: true, get: () => %s});"
    told = "document.dispatchEvent(new Event('visibilitychange'))"
    page.evaluate(hide % "true" + told)
    page.wait_for_timeout(500)  # what was under way comes to its end
    before = len(asked)
    page.wait_for_timeout(2500)
    assert len(asked) == before
    with page.expect_response("**/api/overview"):
        page.evaluate(hide % "false" + told)


def test_a_server_that_is_away_is_said_to_be_and_asked_less_often(
    flower: FlowerServer, visitor: Visitor, run: str
) -> None:
    page = visitor.page
    page.goto(f"{flower.url}/backfills")
    visitor.pulse("ledger")
    refused: list[float] = []

    def refuse(route: Route) -> None:
        refused.append(time.monotonic())
        route.abort()

    page.route("**/api/overview", refuse)
    visitor.pulse("away")
    expect(page.locator("#bf-pulse")).to_have_text("Flower does not answer; trying again")
    expect(page.locator("article")).to_contain_text(run)  # what was known stays
    page.wait_for_timeout(3000)
    waits = [later - sooner for sooner, later in pairwise(refused)]
    assert waits
    assert min(waits) > 1.8
    page.unroute("**/api/overview")
    visitor.pulse("ledger")
    visitor.complaints.clear()  # of the requests that were refused
