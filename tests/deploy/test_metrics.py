"""The alert rules, Prometheus' configuration and the dashboard: promtool accepts them, and they ask
for metrics that there are, with labels that these have.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from backfill.model import PauseCause, RunState, SignalState
from backfill.pg.schedules import Outcome
from backfill.watch.limits import Limiting
from backfill.watch.metrics import METRICS, OUTCOMES
from tests.programs import program

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"

#: What Prometheus adds to each series, and what a histogram has beside its labels.
ADDED = {"instance", "le"}
LABELS = {told.name: set(told.labels) for told in METRICS}
TYPES = {told.name: told.type for told in METRICS}


def promtool(*arguments: str, cwd: Path = PROMETHEUS) -> str:
    """What promtool says; fails where it finds something wrong."""
    done = subprocess.run(
        [program("promtool"), *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def alerts() -> list[dict[str, Any]]:
    rules = yaml.safe_load((PROMETHEUS / "backfill.rules.yml").read_text(encoding="utf-8"))
    return [rule for group in rules["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((GRAFANA / "backfill.json").read_text(encoding="utf-8"))
    return found


def panel_queries() -> Iterator[tuple[str, str]]:
    """Each query of a panel with the panel's title."""
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def every_query() -> list[tuple[str, str]]:
    """Each query of the rules and of the dashboard, its variables' among them, and where it is."""
    variables = [
        (f"variable {one['name']}", str(one["definition"]))
        for one in dashboard()["templating"]["list"]
        if one["type"] == "query"
    ]
    return [(rule["alert"], rule["expr"]) for rule in alerts()] + [*panel_queries(), *variables]


def selected(query: str) -> Iterator[tuple[str, set[str]]]:
    """The metrics that a query asks for, each with the labels by which it selects."""
    for name, _, labels in re.findall(r"\b(backfill_\w+)(\{([^}]*)\})?", query):
        yield name, set(re.findall(r"(\w+)\s*=~?\s*\"", labels))


def base(name: str) -> str:
    """A histogram's series belong to it."""
    if name in TYPES:
        return name
    stripped = re.sub(r"_(bucket|sum|count)$", "", name)
    assert TYPES.get(stripped) == "histogram", f"there is no metric {name}"
    return stripped


@pytest.mark.parametrize(("place", "query"), every_query())
def test_a_query_asks_for_metrics_and_labels_that_there_are(place: str, query: str) -> None:
    found = list(selected(query))
    assert found or 'up{job="backfill"}' in query, place
    grouped = {
        label.strip()
        for group in re.findall(r"\b(?:by|on) \(([^)]*)\)", query)
        for label in group.split(",")
    }
    known: set[str] = set(ADDED)
    for name, labels in found:
        there = LABELS[base(name)]
        assert labels <= there | ADDED, f"{place}: {name}"
        known |= there
    assert grouped <= known, place


@pytest.mark.parametrize(("place", "query"), every_query())
def test_values_of_labels_are_those_that_are_told(place: str, query: str) -> None:
    known: dict[str, set[str]] = {
        "state": {str(one) for one in (*RunState, *SignalState)},
        "reason": {str(one) for one in Limiting},
        "status": {"open", "accepted"},
        "outcome": {str(one) for one in (*Outcome, *OUTCOMES)},
    }
    for label, text in re.findall(r'\b(state|reason|status|outcome)=~?"([^"]*)"', query):
        assert set(text.split("|")) <= known[label], place


# ------------------------------------------------------------------------------------- the alerts


def test_promtool_accepts_rules_and_configuration() -> None:
    assert "SUCCESS: 12 rules found" in promtool("check", "rules", "backfill.rules.yml")
    assert "is valid prometheus config" in promtool("check", "config", "prometheus.yml")


def test_each_alert_fires_when_it_should_and_keeps_still_otherwise() -> None:
    assert "SUCCESS" in promtool("test", "rules", "tests.yml")
    text = (PROMETHEUS / "tests.yml").read_text(encoding="utf-8")
    fired = set(re.findall(r'alertname="(\w+)"', text))
    assert fired == {rule["alert"] for rule in alerts()}


def test_an_alert_that_never_fires_is_found(tmp_path: Path) -> None:
    """The cases bite: with rules that are never true, promtool misses each alert."""
    shutil.copytree(PROMETHEUS, tmp_path / "prometheus")
    path = tmp_path / "prometheus" / "backfill.rules.yml"
    rules = yaml.safe_load(path.read_text(encoding="utf-8"))
    for rule in rules["groups"][0]["rules"]:
        rule["expr"] = f"({rule['expr']}) > 1e12"
    path.write_text(yaml.safe_dump(rules), encoding="utf-8")
    done = subprocess.run(
        [program("promtool"), "test", "rules", "tests.yml"],
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    missed = set(re.findall(r'alertname="(\w+)"', done.stdout + done.stderr))
    assert missed == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_says_how_bad_it_is_and_what_to_type(rule: dict[str, Any]) -> None:
    assert re.fullmatch(r"[1-9]\d*m", rule["for"])
    assert rule["labels"]["severity"] in {"warning", "critical"}
    assert rule["annotations"]["summary"]
    assert re.search(r"`backfill [a-z]", " ".join(rule["annotations"]["description"].split()))


def test_every_cause_that_waits_for_a_person_has_an_alert() -> None:
    asked = " ".join(rule["expr"] for rule in alerts())
    for cause in (PauseCause.ERROR, PauseCause.CHANGED_JOB, PauseCause.QUARANTINE):
        assert str(cause) in asked


def test_prometheus_asks_one_worker_where_it_tells_its_metrics() -> None:
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text(encoding="utf-8"))
    (scrape,) = config["scrape_configs"]
    assert scrape["job_name"] == "backfill"  # as in the alert that it is down
    assert scrape["honor_labels"] is True
    (target,) = scrape["static_configs"][0]["targets"]
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    name, port = target.split(":")
    assert f"--metrics-port={port}" in services[name]["command"]


# ---------------------------------------------------------------------------------- the dashboard


def test_the_queries_of_panels_are_promql(tmp_path: Path) -> None:
    """promtool reads them as rules, with Grafana's variables as Grafana fills them in."""
    rules = [
        {
            "record": f"panel:{number}",
            "expr": query.replace("$__rate_interval", "1m").replace("$__range", "1h"),
            "labels": {"panel": title},
        }
        for number, (title, query) in enumerate(panel_queries())
    ]
    path = tmp_path / "panels.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(path), cwd=tmp_path)


def test_every_panel_and_variable_asks_the_datasource_that_is_chosen() -> None:
    found = dashboard()
    variables = {one["name"]: one for one in found["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for one in [*found["panels"], *(v for v in variables.values() if v["type"] == "query")]:
        assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(found)))
    assert used <= set(variables) | {"labels", "value"}
    assert "id" not in found  # the number that another Grafana gave it


def test_panels_have_numbers_of_their_own_and_do_not_lie_upon_each_other() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        assert 0 <= place["x"] < place["x"] + place["w"] <= 24
        refs = [target["refId"] for target in panel["targets"]]
        assert len(set(refs)) == len(refs)
    for one, other in combinations((panel["gridPos"] for panel in panels), 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above


def test_every_metric_that_changes_is_on_the_dashboard_or_in_an_alert() -> None:
    asked = {base(name) for _, query in every_query() for name, _ in selected(query)}
    left_out = {told.name for told in METRICS} - asked
    assert left_out == {
        "backfill_batches_total",  # the histogram counts them, too
        "backfill_build_info",
        "backfill_finished_timestamp_seconds",
        "backfill_omitted_runs",
        "backfill_schedule_last_tick_timestamp_seconds",
        "backfill_schedule_next_tick_timestamp_seconds",
        "backfill_signal_state",
        "backfill_started_timestamp_seconds",
        "backfill_total_rows",
    }


def test_grafana_finds_its_datasource_and_its_dashboard() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    provisioning = GRAFANA / "provisioning"
    assert mounts["./deploy/grafana/provisioning"] == "/etc/grafana/provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "backfill.yml").read_text())[
        "providers"
    ]
    seen_at = Path(mounts["./deploy/grafana/backfill.json"])
    assert seen_at.parent == Path(provider["options"]["path"])
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())[
        "datasources"
    ]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    scraped = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())["global"]
    assert source["jsonData"]["timeInterval"] == scraped["scrape_interval"]
