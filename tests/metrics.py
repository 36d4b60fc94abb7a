"""What Prometheus would read: metrics over HTTP, taken apart by prometheus_client's own parser."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.request import urlopen

from prometheus_client import Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from backfill.watch.exporter import RunsCollector, registry_of


@dataclass(frozen=True, slots=True)
class Scrape:
    """One scrape.

    Attributes:
        text: as it came.
        values: by metric's name and labels, these sorted.
    """

    text: str
    values: Mapping[tuple[str, tuple[tuple[str, str], ...]], float]

    def value(self, name: str, **labels: str) -> float | None:
        """The value of the one series with at least these labels; None: there is none."""
        found = self.series(name, **labels)
        assert len(found) <= 1, f"{name} {labels}: {found}"
        return next(iter(found.values()), None)

    def series(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Values by all labels, of the series with at least these."""
        return {
            other: value
            for (series, other), value in self.values.items()
            if series == name and labels.items() <= set(other)
        }

    def now(self, name: str, by: str, **labels: str) -> set[str]:
        """Of a metric that is 1 for what holds: the values of its label `by` that hold."""
        return {dict(found)[by] for found, value in self.series(name, **labels).items() if value}

    def by(self, name: str, label: str, **labels: str) -> dict[str, float]:
        """Values by one label."""
        return {dict(found)[label]: value for found, value in self.series(name, **labels).items()}

    @property
    def names(self) -> set[str]:
        """The names of all series."""
        return {name for name, _ in self.values}


def parsed(text: str) -> Scrape:
    """A scrape from its text; a series that comes twice fails."""
    values: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = (sample.name, tuple(sorted(sample.labels.items())))
            assert key not in values, key
            values[key] = sample.value
    return Scrape(text, values)


def scraped(port: int) -> Scrape:
    """What is told at this port of this host."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return parsed(answer.read().decode())


def collected(collector: RunsCollector) -> Scrape:
    """What a collector tells in this process."""
    return parsed(generate_latest(registry_of(collector)).decode())


def told_within(collector: RunsCollector, seconds: float) -> Iterable[Metric]:
    """What it tells; fails where that takes longer."""
    began = time.monotonic()
    found = list(collector.collect())
    took = time.monotonic() - began
    assert took < seconds, f"a scrape took {took:.1f} s"
    return found
