"""The pages on metrics say what the collector and the alert rules say."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from backfill.pg.schedules import Outcome
from backfill.watch.limits import Limiting
from backfill.watch.metrics import METRICS, MOST_RUNS, MOST_SCHEDULES, OUTCOMES
from tests.docs.pages import ROOT, sections, table

REFERENCE = ROOT / "docs" / "reference" / "metrics.md"
HOW_TO = ROOT / "docs" / "how-to" / "metrics.md"
DEPLOY = ROOT / "deploy"


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def test_every_metric_is_documented_with_its_type_and_labels() -> None:
    documented = [
        (name, kind, tuple(re.findall(r"\w+", labels)))
        for name, kind, labels, _ in table(text_of(REFERENCE), "metric")
    ]
    assert documented == [(told.name, told.type, told.labels) for told in METRICS]


def test_the_values_of_labels_are_documented() -> None:
    meanings = {name: meaning for name, _, _, meaning in table(text_of(REFERENCE), "metric")}
    assert ", ".join(OUTCOMES) in meanings["backfill_rows_total"]
    assert ", ".join(Outcome) in meanings["backfill_schedule_last_outcome"]
    reasons = [reason for reason, _ in table(sections(REFERENCE)["Reasons"], "reason")]
    assert reasons == list(Limiting)


def test_the_bounds_are_documented() -> None:
    text = sections(REFERENCE)["How many series there are"]
    assert f"at most {MOST_RUNS} runs are told" in text
    assert f"Of schedules at most {MOST_SCHEDULES} are told" in text


def test_every_alert_is_documented_with_its_severity() -> None:
    rules = yaml.safe_load(text_of(DEPLOY / "prometheus" / "backfill.rules.yml"))
    assert {name: severity for name, severity, _ in table(text_of(HOW_TO), "alert")} == {
        rule["alert"]: rule["labels"]["severity"]
        for group in rules["groups"]
        for rule in group["rules"]
    }
