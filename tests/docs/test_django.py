"""The page on Django, played in a project that `django-admin startproject` has made."""

from __future__ import annotations

import subprocess
import sys

import psycopg
import pytest

from tests.docs.pages import ROOT
from tests.docs.reader import Reader
from tests.docs.test_stories import play
from tests.services import PostgresServer

PAGE = ROOT / "docs" / "how-to" / "django.md"

#: Somebody who orders by the application's view, and the answer.
CLIENT = """
import shop.boot
shop.boot.setup()
from django.test import Client
answer = Client(HTTP_HOST="shop.example.org").post("/orders", {"price": "1.25", "amount": "4"})
print(answer.status_code, answer.content.decode())
"""


@pytest.mark.slow
def test_the_page_can_be_followed_in_a_project_of_djangos(
    reader: Reader, postgres_server: PostgresServer, redis_url: str
) -> None:
    subprocess.run(
        [sys.executable, "-m", "django", "startproject", "shop", "."],
        cwd=reader.folder,
        check=True,
    )
    for package in ("migrations", "management", "management/commands"):
        (reader.folder / "shop" / package).mkdir()
        (reader.folder / "shop" / package / "__init__.py").touch()
    with postgres_server.database() as name:
        reader.url = postgres_server.url(name)
        reader.stands_for = {"postgresql://me@db.example.org:5432/shop": reader.url}
        reader.environ |= {
            "DATABASE_URL": reader.url,
            "REDIS_URL": redis_url,
            "SECRET_KEY": "of the test",
        }
        play(reader, PAGE)
        with psycopg.connect(reader.url, autocommit=True) as conn:
            done = "SELECT count(*) FROM shop_order WHERE total = price * amount"
            assert conn.execute(done).fetchone() == (5000,)
            # the view, in a web server's process that knows nothing of this folder
            answer = subprocess.run(
                [sys.executable, "-c", CLIENT],
                cwd="/",
                env={**reader.environ, "PYTHONPATH": str(reader.folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert answer.stdout == "202 accepted\n", answer.stderr
            assert conn.execute(done).fetchone() == (5001,)
            assert conn.execute("SELECT count(*) FROM backfill.run").fetchone() == (2,)
        reader.leave()
