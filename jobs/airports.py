"""Backfills that call an API for each airport: one for what it answers, one for what it does.

Both wait for the API while no transaction is open and no row is locked. `--rate 10/s` keeps them to
what the API allows, over all workers.
"""

from __future__ import annotations

from collections.abc import Mapping

from backfill import Call, Job, Options, Param, Quarantine, Row, Table, Update, key_of
from jobs.http_api import AWAY, post


class ApiJob(Job, abstract=True):
    """A job with an API: its address, its key, and what it means when it does not answer."""

    options = Options(lock="optimistic", concurrency=4)
    retry_on = AWAY
    url = Param(str, help="the API's address, such as https://geo.example.com/v1")
    token = Param(str, secret=True, env="AIRPORTS_API_KEY", help="the API's key")
    # below the two minutes after which a worker that waits is taken to hang
    seconds = Param(float, default=10.0, help="how long to wait for an answer")

    def ask(self, path: str, row: Row, body: Mapping[str, object]) -> Mapping[str, object]:
        """What the API answers; the same row has the same key whenever it is asked for."""
        key = "-".join(map(str, key_of(row)))
        return post(
            f"{self.url.rstrip('/')}/{path}",
            body,
            token=self.token,
            once=f"{self.name}-{key}",
            timeout=self.seconds,
        )


class FillAirportCountry(ApiJob):
    """Ask a geocoder for the country of every airport."""

    source = Table("airports", columns=["lat", "lon"], todo="country IS NULL")
    target = Update("country")

    def transform(self, row: Row) -> Mapping[str, object] | None:
        """None where the geocoder knows of no country: the high seas.

        Raises:
            Quarantine: it answers something that is no country.
        """
        country = self.ask("country", row, {"lat": row.lat, "lon": row.lon}).get("country")
        if country is None:
            return None
        if not isinstance(country, str) or len(country) != 2:
            raise Quarantine("the answer's country is no code of two letters")
        return {"country": country.upper()}


class AnnounceAirports(ApiJob):
    """Tell a partner of every airport, as if it had been entered today; at least once."""

    source = Table("airports", columns=["name"])
    target = Call()

    def transform(self, row: Row) -> None:
        """The partner knows an airport that it is told of again by the idempotency key."""
        self.ask("airports", row, {"code": row.faa, "name": row.name})
