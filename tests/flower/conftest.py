"""One project, one worker's table, one Flower and one browser for a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from tests.acceptance import counting
from tests.acceptance.crew import BOUND_SECONDS, QUICK, Crew
from tests.flower.servers import FlowerServer, running_flower
from tests.programs import program
from tests.services import PostgresServer, RedisServer

#: In a key and in a reason; a browser that takes it for markup sets `hacked`.
HOSTILE = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"

#: As long as PostgreSQL and we let a name be, and nowhere to break it.
LONG = "a_name_that_is_as_long_as_postgresql_lets_it_be_".ljust(63, "x")

OTHER = f'''
class Other(Job):
    """Never worked on: no worker is there in its tests."""
    source = Table("other", columns=["n"])
    target = Update("n")

    def transform(self, row):
        return {{"n": row.n + 1}}


class Long(Job):
    """Count in a table with long names."""
    name = "{LONG}"
    source = Table("{LONG}", columns=["{LONG}"])
    target = Update("{LONG}")
    options = Options(batch_rows=10, slice_rows=100, concurrency=2, quarantine_share=1.0)

    def transform(self, row):
        if row.{LONG} < 0:
            raise Quarantine("negative: " + "{LONG}" * 3)
        return {{"{LONG}": row.{LONG} + 1}}
'''


@pytest.fixture(scope="module")
def crew(
    tmp_path_factory: pytest.TempPathFactory,
    postgres_server: PostgresServer,
    template_database: str,
    redis_server: RedisServer,
) -> Iterator[Crew]:
    """A project with tables of 800 items, one of them hostile, and of 10 others; no worker."""
    folder = tmp_path_factory.mktemp("project")
    with (
        postgres_server.database(template_database) as name,
        redis_server.database() as redis_url,
    ):
        crew = Crew(folder, url=postgres_server.url(name), redis_url=redis_url, engine=QUICK)
        try:
            crew.conn.execute("CREATE TABLE other (id int PRIMARY KEY, n int NOT NULL)")
            crew.conn.execute("INSERT INTO other SELECT i, 0 FROM generate_series(1, 10) i")
            crew.conn.execute("ANALYZE other")
            counting.arrange(crew, [f"{i:04}" for i in range(1, 800)], [HOSTILE], jobs=OTHER)
            yield crew
        finally:
            crew.close()


@pytest.fixture(scope="module")
def flower(crew: Crew) -> Iterator[FlowerServer]:
    """Flower as it starts without a flag."""
    with running_flower(crew.folder, crew.environ) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; nothing of it goes to the network by itself."""
    chromium = program("chromium", "chromium-browser", "google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium,
            args=[
                *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
                *("--disable-background-networking", "--disable-component-update"),
                "--disable-sync",
            ],
        )
        # a busy machine takes a while, as it does for the workers
        expect.set_options(timeout=BOUND_SECONDS * 1000)
        yield browser
        browser.close()


class Visitor:
    """A page of the browser that writes down what must not happen."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        page.on("console", lambda said: self._note(said.type == "error", said.text))
        page.on("pageerror", lambda error: self._note(True, str(error)))
        page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))

    def _note(self, is_wrong: bool, text: str) -> None:
        if is_wrong:
            self.complaints.append(text)

    def ask(self, button: str, *named: str) -> Locator:
        """Press a button; its question, which names all of these."""
        self.page.get_by_role("button", name=button, exact=True).first.click()
        question = self.page.get_by_role("dialog")
        for name in named:
            expect(question).to_contain_text(name)
        return question

    def pulse(self, state: str) -> None:
        """Wait until the page says that it is `live`, read from the `ledger`, or `away`."""
        self.page.wait_for_selector(f'#bf-pulse[data-state="{state}"]')


@pytest.fixture
def visitor(browser: Browser, flower: FlowerServer) -> Iterator[Visitor]:
    """Someone with a browser. What the browser complained of fails the test at its end."""
    context = browser.new_context(viewport={"width": 1200, "height": 900})
    context.set_default_timeout(BOUND_SECONDS * 1000)
    visitor = Visitor(context.new_page())
    yield visitor
    context.close()
    assert visitor.complaints == []
    assert visitor.hosts == {f"127.0.0.1:{flower.port}"}
