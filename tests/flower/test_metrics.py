"""Flower's own `/metrics` tells of runs, too."""

from __future__ import annotations

from tests.acceptance.crew import Crew
from tests.flower.servers import FlowerServer, running_flower
from tests.metrics import parsed


def test_runs_are_told_beside_what_flower_tells(crew: Crew, flower: FlowerServer) -> None:
    run = crew.enqueue("other")
    answer = flower.get("/metrics")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = parsed(answer.text)
    assert found.by("backfill_up", "database") == {"default": 1}
    assert found.now("backfill_state", "state", run=run, job="other") == {"queued"}
    assert "process_cpu_seconds_total" in found.names
    assert "# TYPE flower_events_total counter" in answer.text


def test_they_are_told_behind_a_prefix_and_without_a_login(crew: Crew) -> None:
    variables = {"FLOWER_URL_PREFIX": "tools", "FLOWER_BASIC_AUTH": "ann:correct"}
    with running_flower(crew.folder, crew.environ, prefix="/tools", variables=variables) as server:
        assert server.get("/backfills").status == 401
        assert "backfill_up" in parsed(server.get("/metrics").text).names
