"""Who is let in and who may change runs: other sites, strangers, readers, who has logged in."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from backfill.local.process import free_port
from backfill.model import RunState
from tests.acceptance.crew import Crew
from tests.flower.servers import FlowerServer, running_flower

PREFIX, LOGIN = "/tools/flower", "ann:correct"


@pytest.fixture(scope="module")
def run(crew: Crew) -> str:
    """A run that waits for a worker for ever."""
    return crew.enqueue("other")


@pytest.fixture(scope="module")
def guarded(crew: Crew) -> Iterator[FlowerServer]:
    """Reached from everywhere, behind a prefix, with a login: all by variables."""
    variables = {
        "FLOWER_ADDRESS": "0.0.0.0",
        "FLOWER_BASIC_AUTH": LOGIN,
        "FLOWER_URL_PREFIX": PREFIX.strip("/"),
    }
    with running_flower(
        crew.folder, crew.environ, prefix=PREFIX, login=LOGIN, variables=variables
    ) as server:
        yield server


@pytest.fixture(scope="module")
def open_to_all(crew: Crew) -> Iterator[FlowerServer]:
    """Reached from everywhere, and nobody has to log in."""
    with running_flower(crew.folder, crew.environ, "--address", "0.0.0.0") as server:
        yield server


@pytest.fixture(scope="module")
def read_only(crew: Crew) -> Iterator[FlowerServer]:
    with running_flower(crew.folder, crew.environ, "--read-only") as server:
        yield server


STOP_ALL = "/backfills/api/all/stop-all?database=default"


def pause_of(run: str) -> str:
    return f"/backfills/api/run/{run}/pause?database=default"


def test_a_request_that_no_page_of_ours_has_sent_is_refused(
    crew: Crew, flower: FlowerServer, run: str
) -> None:
    own = f"127.0.0.1:{flower.port}"
    foreign: list[dict[str, str]] = [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{flower.port}"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": f"http://{own}"},
        {"X_XSRFToken": ""},
        {"X_XSRFToken": "0123456789abcdef0123456789abcdef"},
        {"Cookie": ""},
        # a name of somebody else's that leads to this machine: same origin, for the browser
        {"Host": "evil.example", "Origin": "http://evil.example"},
    ]
    for headers in foreign:
        for action in (pause_of(run), STOP_ALL):
            answer = flower.post(action, {}, **headers)
            assert answer.status == 403, headers
            assert answer.json["error"], headers
    assert crew.causes(run) == set()
    answer = flower.post(
        pause_of(run), {"reason": "ours"}, Origin=f"http://{own}", Sec_Fetch_Site="same-origin"
    )
    assert (answer.status, answer.json["error"]) == (200, "")
    assert crew.causes(run) == {"user"}
    assert flower.post(f"/backfills/api/run/{run}/resume", {}).status == 200
    assert crew.causes(run) == set()


def test_nobody_cancels_without_typing_the_run(crew: Crew, flower: FlowerServer, run: str) -> None:
    for typed in ({}, {"typed_run": ""}, {"typed_run": run[:-1]}):
        answer = flower.post(f"/backfills/api/run/{run}/cancel", typed)
        assert (answer.status, answer.json["remedy"]) == (409, f"Type {run}.")
    assert crew.state(run) is RunState.QUEUED


@pytest.mark.parametrize(
    "action", ["run/RUN/explode", "run/RUN/quarantine", "run/RUN/tune", "all/pause"]
)
def test_what_cannot_be_done_is_told_with_a_remedy(
    flower: FlowerServer, run: str, action: str
) -> None:
    answer = flower.post(f"/backfills/api/{action.replace('RUN', run)}", {"rate": "fast"})
    assert answer.status in {400, 404, 405}
    assert answer.json["error"]


def test_a_run_or_a_database_that_does_not_exist_is_told(flower: FlowerServer) -> None:
    for path in ("nothing-00000?database=default", "nothing-00000?database=elsewhere"):
        answer = flower.get(f"/backfills/api/run/{path}")
        assert answer.status == 400
        assert answer.json["remedy"]


def test_every_answer_of_ours_forbids_what_comes_from_elsewhere(
    flower: FlowerServer, run: str
) -> None:
    api = f"/backfills/api/run/{run}"
    for path in ("/backfills", f"/backfills/run/{run}", api, "/backfills/api/overview"):
        answer = flower.get(path)
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'self';")
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["Access-Control-Allow-Origin"] is None
    assert flower.get("/backfills/static/run.js").headers["X-Content-Type-Options"] == "nosniff"
    assert flower.get("/backfills/static/../app.py").status in {403, 404}


def test_who_has_no_login_sees_and_changes_nothing(
    crew: Crew, guarded: FlowerServer, run: str
) -> None:
    stranger = FlowerServer(guarded.port, prefix=PREFIX, login="ann:wrong")
    for path in ("/backfills", f"/backfills/run/{run}", "/backfills/api/overview"):
        assert stranger.get(path).status == 401
        assert stranger.get(path, Authorization="").status == 401
    for action in (pause_of(run), STOP_ALL):
        assert guarded.post(action, {}, Authorization="").status == 401
    assert crew.causes(run) == set()


def test_who_has_logged_in_acts_under_that_name_behind_a_prefix(
    crew: Crew, guarded: FlowerServer, run: str, browser: Browser
) -> None:
    name, _, password = LOGIN.partition(":")
    context = browser.new_context(http_credentials={"username": name, "password": password})
    page = context.new_page()
    page.goto(f"{guarded.url}/")
    page.get_by_role("link", name="Backfills", exact=True).click()
    page.get_by_role("link", name="other.n").click()
    assert page.url == f"{guarded.url}/backfills/run/{run}?database=default"
    page.get_by_role("button", name=f"Pause {run}").click()
    page.get_by_role("button", name="Pause", exact=True).click()
    expect(page.locator("#bf-told")).to_contain_text("is paused")
    context.close()
    assert crew.events(run)[-1].caused_by == "flower:ann"
    assert guarded.post(f"/backfills/api/run/{run}/resume", {}).status == 200


@pytest.mark.parametrize(
    ("door", "sees_rows", "told"),
    [("open_to_all", 403, "FLOWER_BASIC_AUTH"), ("read_only", 200, "read-only")],
)
def test_strangers_and_readers_look_and_are_offered_nothing(  # noqa: PLR0917 - fixtures
    crew: Crew,
    run: str,
    browser: Browser,
    request: pytest.FixtureRequest,
    door: str,
    sees_rows: int,
    told: str,
) -> None:
    server: FlowerServer = request.getfixturevalue(door)
    page = browser.new_page()
    page.goto(f"{server.url}/backfills/run/{run}?database=default")
    expect(page.locator(".bf-top .bf-state")).to_have_text("queued")
    expect(page.locator("#bf-why")).to_contain_text(told)
    assert page.locator("[data-action]").count() == 0
    page.goto(f"{server.url}/backfills")
    expect(page.locator("article")).to_contain_text(run)
    assert page.locator("[data-action]").count() == 0
    page.close()
    for action in ("pause", "cancel", "tune", "resume", "retry", "quarantine-accept"):
        answer = server.post(f"/backfills/api/run/{run}/{action}", {"typed_run": run})
        assert answer.status == 403
        assert told in answer.json["error"]
    for action in ("stop-all", "start-all"):
        assert server.post(f"/backfills/api/all/{action}", {}).status == 403
    assert crew.state(run) is RunState.QUEUED
    assert crew.causes(run) == set()
    assert server.get(f"/backfills/api/run/{run}/quarantine?reasons=1").status == sees_rows


# --------------------------------------------------------------------------------- Flower's OAuth


class Provider(BaseHTTPRequestHandler):
    """Of Okta's kind: it lets everybody in at once, as the server's `email` says."""

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if address.path == "/v1/authorize":
            asked = parse_qs(address.query)
            code = urlencode({"code": "once", "state": asked["state"][0]})
            self.send_response(302)
            self.send_header("Location", f"{asked['redirect_uri'][0]}?{code}")
            self.end_headers()
        else:
            assert self.headers["Authorization"] == "Bearer of-ann"
            self._tell({"email": self.server.email, "email_verified": True})  # type: ignore[attr-defined]

    def do_POST(self) -> None:
        sent = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        assert (sent["code"], sent["client_secret"]) == (["once"], ["hush"])
        self._tell({"access_token": "of-ann"})

    def _tell(self, found: object) -> None:
        body = json.dumps(found).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Say nothing."""


@pytest.fixture
def provider() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Provider) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_who_comes_by_oauth_acts_and_nobody_else_sees_anything(
    crew: Crew, run: str, browser: Browser, provider: ThreadingHTTPServer
) -> None:
    port = free_port()
    variables = {
        "FLOWER_AUTH": ".*@example.com",
        "FLOWER_AUTH_PROVIDER": "flower.views.auth.OktaLoginHandler",
        "FLOWER_OAUTH2_KEY": "flower",
        "FLOWER_OAUTH2_SECRET": "hush",
        "FLOWER_OAUTH2_REDIRECT_URI": f"http://127.0.0.1:{port}/login",
        "FLOWER_OAUTH2_OKTA_BASE_URL": f"http://127.0.0.1:{provider.server_port}",
        "FLOWER_ADDRESS": "0.0.0.0",
    }
    with running_flower(crew.folder, crew.environ, port=port, variables=variables) as server:
        # a stranger is sent to log in, whatever is asked for, and changes nothing
        provider.email = "eve@elsewhere.example"  # type: ignore[attr-defined]
        stranger = browser.new_page()
        answer = stranger.goto(f"{server.url}/backfills/run/{run}")
        assert answer is not None
        assert answer.status == 403
        assert "Access denied" in stranger.content()
        assert run not in stranger.content()
        for path in ("/backfills", f"/backfills/api/run/{run}", "/backfills/api/overview"):
            refused = server.get(path)
            assert (refused.status, run in refused.text) == (403, False), path
        for cookie in ({}, {"Cookie": "user=ann@example.com"}):
            answered = server.post(pause_of(run), {}, **cookie)
            assert answered.status == 403
        assert crew.causes(run) == set()
        stranger.close()

        # who is known is let in, and acts under that name
        provider.email = "ann@example.com"  # type: ignore[attr-defined]
        page = browser.new_page()
        page.goto(f"{server.url}/backfills")
        page.goto(f"{server.url}/backfills/run/{run}?database=default")
        for pressed in ("Pause", "Resume"):
            page.get_by_role("button", name=f"{pressed} {run}").click()
            page.get_by_role("button", name=pressed, exact=True).click()
            expect(page.get_by_role("button", name=f"{pressed} {run}")).to_be_hidden()
            assert crew.events(run)[-1].caused_by == "flower:ann@example.com"
            assert crew.causes(run) == ({"user"} if pressed == "Pause" else set())
        page.close()
