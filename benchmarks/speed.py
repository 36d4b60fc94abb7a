"""Speed: runs over Celery with two workers against one plain UPDATE, and against what people write.

All in one run on one server; the table is rebuilt and vacuumed before each; results are checked.
The slow ones (row by row, Django) work on fewer rows, and are compared as rows per second.
"""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable

import psycopg

from backfill.job import Options
from benchmarks.bed import PLAIN, Bed, running_workers

NOT_WORD = re.compile("[^A-Za-z0-9]+")


def plain(bed: Bed) -> float:
    """One UPDATE of the whole table."""
    started = time.perf_counter()
    bed.conn.execute(PLAIN)
    return time.perf_counter() - started


def row_by_row(bed: Bed) -> float:
    """The usual script: read all, one UPDATE a row, a commit every thousand."""
    started = time.perf_counter()
    with psycopg.connect(bed.url) as conn:
        rows = conn.execute("SELECT id, name FROM people WHERE slug IS NULL").fetchall()
        for i, (key, name) in enumerate(rows, 1):
            slug = NOT_WORD.sub("-", name).lower()
            conn.execute("UPDATE people SET slug = %s WHERE id = %s", [slug, key])
            if i % 1000 == 0:
                conn.commit()
    return time.perf_counter() - started


def django_bulk_update(bed: Bed) -> float:
    """Django's `bulk_update` in batches of 1,000, the objects read by `iterator`."""
    import django
    from django.conf import settings
    from django.db import connection, models

    if not settings.configured:
        info = psycopg.conninfo.conninfo_to_dict(bed.url)
        settings.configure(
            DATABASES={
                "default": {
                    "ENGINE": "django.db.backends.postgresql",
                    "NAME": info["dbname"],
                    "USER": info.get("user"),
                    "PASSWORD": info.get("password"),
                    "HOST": info.get("host"),
                    "PORT": info.get("port"),
                }
            }
        )
        django.setup()

    class Person(models.Model):  # type: ignore[misc]  # Django ships no types
        id = models.BigIntegerField(primary_key=True)
        name = models.TextField()
        slug = models.TextField(null=True)

        class Meta:
            app_label = "bench"
            db_table = "people"
            managed = False

    started = time.perf_counter()
    batch = []
    for person in Person.objects.filter(slug__isnull=True).iterator(chunk_size=1000):
        person.slug = NOT_WORD.sub("-", person.name).lower()
        batch.append(person)
        if len(batch) == 1000:
            Person.objects.bulk_update(batch, ["slug"])
            batch = []
    if batch:
        Person.objects.bulk_update(batch, ["slug"])
    seconds = time.perf_counter() - started
    connection.close()
    return seconds


def measure(bed: Bed, *, rows: int, few: int, rounds: int) -> None:
    """Print the table of ratios."""
    options = Options(concurrency=2)
    with running_workers(bed, 2):
        ways: list[tuple[str, int, Callable[[], float]]] = [
            ("plain UPDATE", rows, lambda: plain(bed)),
            ("Sql, two workers", rows, lambda: bed.run("slug_sql", options)),
            ("Python, two workers", rows, lambda: bed.run("slug_python", options)),
            ("row by row", few, lambda: row_by_row(bed)),
            ("Django bulk_update", few, lambda: django_bulk_update(bed)),
        ]
        speeds: dict[str, list[float]] = {name: [] for name, _, _ in ways}
        for round_number in range(rounds):
            for name, size, way in ways:
                if size == few and round_number:
                    continue
                bed.table(size)
                seconds = way()
                bed.check_slugs(size)
                speeds[name].append(size / seconds)
    base = statistics.median(speeds["plain UPDATE"])
    print(f"{'':28}{'rows':>10}{'rows/s':>12}{'ratio to plain':>16}")
    for name, size, _ in ways:
        speed = statistics.median(speeds[name])
        print(f"{name:28}{size:>10,}{speed:>12,.0f}{speed / base:>16.2f}")
    python = statistics.median(speeds["Python, two workers"])
    print(f"Python against row by row: {python / speeds['row by row'][0]:.1f} times")
    print(f"Python against bulk_update: {python / speeds['Django bulk_update'][0]:.1f} times")
