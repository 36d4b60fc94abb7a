"""What the benchmark of gentleness says of its numbers, and where it writes them."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from benchmarks import gentle_page
from benchmarks.application import Latencies
from benchmarks.gentle import BATCH_SECONDS, DUTIES
from benchmarks.gentle_page import BEGIN, END, GENTLE_NAME, HEAD, Measured, Page, Point, replaced

SVG = "{http://www.w3.org/2000/svg}"


def measured(
    name: str = "", *, p99: float = 1.0, speed: float | None = None, waits: tuple[float, ...] = ()
) -> Measured:
    got = Latencies(tps=1500, p50=0.4, p95=0.7, p99=p99, longest=7, begun_p99=p99)
    return Measured(name=name, latencies=got, waits_ms=waits, rows_per_second=speed)


def page(gentle: Measured) -> Page:
    made = Page(about="2 cores", rate=1500, full_speed=100_000)
    made.arriving = [measured("nothing"), gentle]
    made.full_tilt = [measured("nothing")]
    made.alone = measured("nothing")
    made.curve = [
        Point(
            slots=2,
            duty=duty,
            batch_seconds=seconds,
            measured=measured(p99=100 * seconds * duty, speed=80_000 * duty),
        )
        for duty in DUTIES
        for seconds in BATCH_SECONDS
    ]
    return made


@pytest.mark.parametrize(
    ("gentle", "verdicts"),
    [
        pytest.param(
            measured(GENTLE_NAME, p99=2.0, speed=15_000, waits=(8.0, 50.0)),
            ["met", "met", "met"],
            id="at the bounds",
        ),
        pytest.param(
            measured(GENTLE_NAME, p99=2.1, speed=14_900, waits=(8.0, 50.1)),
            ["not met", "not met", "not met"],
            id="beyond them",
        ),
    ],
)
def test_the_goal_is_judged_by_its_three_numbers(gentle: Measured, verdicts: list[str]) -> None:
    lines = [line for line in page(gentle).verdict().splitlines() if line.endswith("met |")]
    assert [line.split("|")[3].strip() for line in lines] == verdicts


def test_points_of_the_curve_that_meet_the_goal_are_named() -> None:
    text = page(measured(GENTLE_NAME, speed=1.0)).verdict()
    (told,) = (line for line in text.splitlines() if line.startswith("Points of the curve"))
    assert "0.02 s at duty 1, 2 slots" in told
    assert "0.05 s at duty 0.25, 2 slots" in told
    assert "0.05 s at duty 0.5" not in told


def test_rows_of_a_table_have_the_cells_of_its_head() -> None:
    made = page(measured(GENTLE_NAME, speed=15_000))
    text = made.text()
    for head, count in ((HEAD, 2), (gentle_page.CURVE_HEAD, 1)):
        assert text.count(head) == count
        columns = head.splitlines()[0].count("|")
        for part in text.split(head)[1:]:
            rows = part.strip().split("\n\n")[0].splitlines()
            assert rows
            assert {row.count("|") for row in rows} == {columns}


def test_publishing_again_replaces_what_was_published() -> None:
    before = f"# A page\n\n{BEGIN}\n\nold\n\n{END}\n\nmore\n"
    once = replaced(before, "new")
    assert once == f"# A page\n\n{BEGIN}\n\nnew\n\n{END}\n\nmore\n"
    assert replaced(once, "newer") == once.replace("new", "newer")


def test_a_page_without_its_place_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="lacks the comments"):
        replaced("# A page\n", "new")


def test_the_docs_have_a_place_for_the_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "gentleness.md"
    copy.write_text(gentle_page.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(gentle_page, "PAGE", copy)
    monkeypatch.setattr(gentle_page, "PICTURE", tmp_path / "gentleness.svg")
    made = page(measured(GENTLE_NAME, speed=15_000))
    made.publish()
    assert made.text() in copy.read_text(encoding="utf-8")
    assert (tmp_path / "gentleness.svg").read_text(encoding="utf-8") == made.picture()


def test_the_picture_has_a_line_for_each_duty_and_a_labelled_point_for_each_batch_time() -> None:
    root = ET.fromstring(page(measured(GENTLE_NAME, speed=1.0)).picture())
    lines = [line.attrib["points"].split() for line in root.iter(f"{SVG}polyline")]
    assert [len(points) for points in lines] == [len(BATCH_SECONDS)] * len(DUTIES)
    texts = [text.text for text in root.iter(f"{SVG}text")]
    assert texts.count("5") >= len(DUTIES)
    assert {"duty 1", "duty 0.5", "duty 0.25", "alone", "2 times alone", "15 %"} <= set(texts)
    width, height = (float(value) for value in root.attrib["viewBox"].split()[2:])
    for points in lines:
        places = [tuple(float(value) for value in point.split(",")) for point in points]
        assert all(0 < x < width and 0 < y < height for x, y in places)
        # at one duty the speeds are equal here, and a longer batch has the larger p99: it is higher
        assert [y for _, y in places] == sorted((y for _, y in places), reverse=True)
