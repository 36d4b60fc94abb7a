"""Our pages and their JSON, as handlers of Flower's: its logins hold for them."""

from __future__ import annotations

import json
import socket
from base64 import b64decode
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

from flower.views import BaseHandler
from flower.views.monitor import Metrics as FlowerMetrics
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from tornado.web import HTTPError, RequestHandler, StaticFileHandler, authenticated

from backfill.errors import BackfillError, ExitCode
from backfill.flower import actions, views
from backfill.flower.house import House
from backfill.flower.rights import Rights, rights

#: What a page of ours may load: what comes from this server. Bootstrap's icons are `data:` images.
POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
_STATUS = {
    ExitCode.USAGE: 400,
    ExitCode.PROJECT: 409,
    ExitCode.REFUSED: 409,
    ExitCode.UNREACHABLE: 503,
}
#: A question's fields are a few lines.
MOST_BYTES = 16_384


class _Ours(BaseHandler):
    """What all of ours have: the policy, and who may do what."""

    def set_default_headers(self) -> None:
        # not Flower's: with FLOWER_UNAUTHENTICATED_API these would let other sites read
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cache-Control", "no-store")

    @property
    def house(self) -> House:
        house: House = self.application.house
        return house

    @property
    def rights(self) -> Rights:
        options = self.application.options
        return rights(
            # a socket's file has no address: what is in front of it may be reached from anywhere
            address="" if options.unix_socket else options.address,
            host=self.request.host,
            basic_auth=options.basic_auth,
            oauth=options.auth,
            read_only=options.read_only,
        )

    @property
    def database(self) -> str:
        """The database that the address names."""
        name: str = self.get_argument("database", self.house.databases[0], escape=False)
        return name

    @property
    def person(self) -> str:
        """Who asks, for the ledger's events."""
        if isinstance(self.current_user, str):
            return f"flower:{self.current_user}"
        if self.application.options.basic_auth:
            name, _, _ = self._credentials().partition(":")
            return f"flower:{name}"
        return f"flower@{socket.gethostname()}"

    def _credentials(self) -> str:
        _, _, encoded = self.request.headers.get("Authorization", "").partition(" ")
        return b64decode(encoded).decode()


class OverviewPage(_Ours):
    """All runs."""

    @authenticated
    def get(self) -> None:
        self.render("backfills.html", rights=self.rights)


class RunPage(_Ours):
    """One run."""

    @authenticated
    def get(self, run: str) -> None:
        self.render("backfills_run.html", rights=self.rights, run=run, database=self.database)


class _Json(_Ours):
    """Answers JSON, errors as well."""

    def answer(self, found: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json; charset=UTF-8")
        self.finish(json.dumps(found, default=str, separators=(",", ":")))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        remedy = ""
        if isinstance(error, BackfillError):
            message, remedy = error.message, error.remedy
            self.set_status(_STATUS.get(error.exit_code, 500))
        elif isinstance(error, HTTPError):
            message = error.log_message or self._reason
        else:
            message = "unexpected error; Flower's log says more"
        if status_code == 401:
            self.set_header("WWW-Authenticate", 'Basic realm="flower"')
        self.answer({"error": message, "remedy": remedy})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, BackfillError):  # what a person is told needs no traceback
            super().log_exception(typ, value, tb)


class OverviewJson(_Json):
    """All databases and their runs."""

    @authenticated
    async def get(self) -> None:
        self.answer(await self.house.ask(lambda: views.overview(self.house)))


class RunJson(_Json):
    """One run."""

    @authenticated
    async def get(self, run: str) -> None:
        database = self.database
        self.answer(await self.house.ask(lambda: views.run(self.house, database, run)))


class QuarantineJson(_Json):
    """One page of a run's quarantine; the reasons only where they are asked for."""

    @authenticated
    async def get(self, run: str) -> None:
        may = self.rights
        if not may.may_see_rows:
            raise HTTPError(403, may.why)
        database = self.database
        page = max(0, min(1_000_000, self.get_argument("page", 0, type=int)))
        with_reasons = self.get_argument("reasons", "") == "1"
        self.answer(
            await self.house.ask(
                lambda: views.quarantine(
                    self.house, database, run, page=page, with_reasons=with_reasons
                )
            )
        )


class _Action(_Json):
    """A button was pressed, and its question answered."""

    def check_xsrf_cookie(self) -> None:
        """Refuse what was not sent by a page of ours, also where nobody has to log in.

        Flower's own check lets everything pass there, and asks no token of who logs in by basic
        authentication, which a browser sends along from any site.
        """
        headers = self.request.headers
        site, origin = headers.get("Sec-Fetch-Site"), headers.get("Origin")
        if site is not None and site != "same-origin":
            raise HTTPError(403, "this request comes from another site")
        if origin is not None and urlsplit(origin).netloc != self.request.host:
            raise HTTPError(403, "this request comes from another site")
        RequestHandler.check_xsrf_cookie(self)

    async def act(self, action: str, *, among: Sequence[str], run: str = "") -> None:
        """Do it, if it is `among` what can be done here and the person may."""
        may = self.rights
        if not may.may_act:
            raise HTTPError(403, may.why)
        if action not in among:
            raise HTTPError(404, f"there is no action {action}")
        asked = actions.Asked(
            action=action,
            database=self.database,
            run=run,
            by=self.person,
            values=self._values(),
        )
        answer = await self.house.ask(lambda: actions.perform(self.house.project, asked))
        if answer.error:
            self.set_status(_STATUS.get(ExitCode(answer.exit_code), 500))
        self.answer(answer.to_json())

    def _values(self) -> dict[str, Any]:
        if len(self.request.body) > MOST_BYTES:
            raise HTTPError(413, "the question's fields are too long")
        try:
            values = json.loads(self.request.body or b"{}")
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise HTTPError(400, "the body is no JSON object")
        return values


class ActionJson(_Action):
    """One of a run's buttons."""

    @authenticated
    async def post(self, run: str, action: str) -> None:
        await self.act(action, among=actions.ACTIONS, run=run)


class DatabaseActionJson(_Action):
    """One of the buttons for all runs of a database."""

    @authenticated
    async def post(self, action: str) -> None:
        await self.act(action, among=actions.DATABASE_ACTIONS)


class Static(StaticFileHandler):
    """Our script and our style; a browser asks whether they are still the same."""

    def set_extra_headers(self, path: str) -> None:
        del path
        self.set_header("Content-Security-Policy", POLICY)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-cache")


class Metrics(FlowerMetrics):
    """Flower's own metrics with those of runs (watch/exporter.py), which may wait for a server.

    So they are read in a thread; and the type says which form it is, which Prometheus 3 asks for.
    """

    async def get(self) -> None:
        self.application.purge_offline_worker_metrics()
        told = await self.application.house.ask(generate_latest)
        self.set_header("Content-Type", CONTENT_TYPE_PLAIN_0_0_4)
        self.write(told)
