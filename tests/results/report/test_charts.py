"""The drawings of a report."""

from __future__ import annotations

import dataclasses
import itertools
import re
import xml.etree.ElementTree as ET

import pytest

from autotune.config import QuantizationConfig
from autotune.constraints import Constraints
from autotune.criterion import Criterion, Interval
from autotune.results.report import charts
from autotune.results.report.svg import NARROW, WIDE, Size, ticks
from autotune.results.summary import TuningSummary
from autotune.strategy import Objective
from autotune.trial import Measurement, TrialState
from tests.results.report.conftest import ALL, WITHOUT_MIDDLE, MakeSummary, evidence, trial

SVG = "{http://www.w3.org/2000/svg}"


def drawn(result: TuningSummary, size: Size = WIDE) -> ET.Element:
    drawing = charts.scatter(result, size)
    assert drawing is not None
    return ET.fromstring(drawing.svg())


def titles(root: ET.Element) -> list[str]:
    return [each.text or "" for each in root.iter(f"{SVG}title")]


def test_every_trial_is_drawn_and_pruned_ones_as_crosses(summary: MakeSummary) -> None:
    pruned = trial(3, QuantizationConfig(ops={"last": ALL["last"]}), None, 0.8, state=TrialState.PRUNED)
    root = drawn(summary(trial(1, ALL, 0.05, 2.0), pruned, trial(4, WITHOUT_MIDDLE, 0.002, 1.6)))
    assert sorted(re.findall(r"trial (\d)", " ".join(titles(root)))) == ["0", "1", "3", "4"]
    crosses = [each for each in root.iter(f"{SVG}path") if each.get("class") == "dropped"]
    assert "slower than the best" in titles(crosses[0])[0]


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_everything_lies_inside_the_picture(summary: MakeSummary, size: Size) -> None:
    root = drawn(summary(trial(1, ALL, 1.0, 40.0), trial(2, WITHOUT_MIDDLE, -0.004, 1.6)), size)
    for each in root.iter():
        for key, most in (("cx", size.width), ("cy", size.height), ("x", size.width), ("y", size.height)):
            assert 0 <= float(each.get(key, 0)) <= most
        if each.tag == f"{SVG}path":
            pairs = re.findall(r"[ML]([\d.-]+) ([\d.-]+)", each.get("d", ""))
            assert all(0 <= float(x) <= size.width and 0 <= float(y) <= size.height for x, y in pairs)


def test_one_outlier_does_not_press_the_others_together() -> None:
    top, bottom = charts.loss_range([0.001, 0.004, 0.012, 1.0], target=0.01)
    assert top == pytest.approx(0.015, rel=0.2)
    assert bottom == pytest.approx(0.0, abs=0.002)
    right, left = charts.gain_range([1.0, 1.5, 1.8, 46.0])
    assert 1.8 < right < 2.0
    assert 0.8 < left < 1.0


def test_a_tiny_target_makes_no_outliers_of_what_all_candidates_lose() -> None:
    top, _ = charts.loss_range([0.0, 0.004, 0.005, 0.006], target=1e-5)
    assert top > 0.006
    top, _ = charts.loss_range([0.0, 0.005, 0.52, 0.57], target=0.01)
    assert top < 0.02
    top, bottom = charts.loss_range([0.0, -0.05, 0.03], target=1e-5)
    assert top > 0.03
    assert bottom < -0.05


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_the_intervals_of_the_answer_are_drawn_whole(summary: MakeSummary, size: Size) -> None:
    wide = trial(1, ALL, 0.002, 1.6)
    assert wide.measurement is not None
    measured = dataclasses.replace(
        wide.measurement,
        loss_interval=Interval(low=-0.02, high=0.024),
        speedup_interval=Interval(low=1.3, high=1.9),
    )
    drawing = charts.scatter(summary(dataclasses.replace(wide, measurement=measured)), size)
    assert drawing is not None
    room = drawing.size
    assert drawing.y(-0.02) < room.height - room.bottom
    assert drawing.y(0.024) > room.top
    assert drawing.x(1.9) < room.width - room.right


@pytest.mark.parametrize("size", [WIDE, NARROW])
@pytest.mark.parametrize("target", [1e-5, 0.01])
def test_no_name_covers_another_or_the_target(summary: MakeSummary, size: Size, target: float) -> None:
    near = [trial(number, ALL, 0.0004 * number, 1.5 + 0.01 * number) for number in range(1, 9)]
    root = drawn(summary(*near, trial(9, ALL, 0.9, 1.55), criterion=Criterion(relative=target)), size)
    texts = [each for each in root.iter(f"{SVG}text") if each.get("class") in ("name", "target-text")]
    boxes = []
    for each in texts:
        width, x = 7.0 * len(each.text or ""), float(each.get("x", 0))
        start = x - width if each.get("text-anchor") == "end" else x
        boxes.append((start, start + width, float(each.get("y", 0))))
    assert len(boxes) > 2
    assert not [
        (a, b) for a, b in itertools.combinations(boxes, 2) if a[0] < b[1] and b[0] < a[1] and abs(a[2] - b[2]) < 12
    ]


def test_a_limit_of_speed_is_drawn(summary: MakeSummary) -> None:
    root = drawn(summary(constraints=Constraints(speedup=1.5)))
    texts = [each.text for each in root.iter(f"{SVG}text") if each.get("class") == "target-text"]
    assert texts == ["limit: 1.5x"]


def test_rows_with_names_have_no_lines_between_them() -> None:
    drawing = charts.latencies([("fp32", trial(1, ALL, 0.0, 1.0).measurement or Measurement())], WIDE)
    assert drawing is not None
    level = re.compile(r'class="grid" d="M[\d.]+ ([\d.]+)L[\d.]+ \1"')
    assert not level.search(drawing.svg())


def test_the_outlier_is_named_on_the_edge(summary: MakeSummary) -> None:
    root = drawn(summary(trial(1, ALL, 0.85, 2.0), trial(2, WITHOUT_MIDDLE, 0.002, 1.6)))
    assert "85.00 %" in [each.text for each in root.iter(f"{SVG}text")]


def test_the_front_holds_what_nothing_beats(summary: MakeSummary) -> None:
    beaten = QuantizationConfig(ops={"first": ALL["first"]})
    result = summary(trial(1, ALL, 0.05, 2.0), trial(2, beaten, 0.004, 1.5), trial(3, WITHOUT_MIDDLE, 0.002, 1.6))
    assert [each.trial.number for each in charts.points(result) if each.front] == [0, 1, 3]


def test_size_is_drawn_where_size_is_the_objective(summary: MakeSummary) -> None:
    result = summary(objective=Objective.SIZE)
    assert {each.gain for each in charts.points(result)} == {1.0}
    assert "times as small as fp32" in [each.text for each in drawn(result).iter(f"{SVG}text")]


def test_progress_never_falls_and_knows_only_what_keeps_the_target(summary: MakeSummary) -> None:
    drawing = charts.progress(summary(), WIDE)
    assert drawing is not None
    (line,) = [each for each in ET.fromstring(drawing.svg()).iter(f"{SVG}path") if each.get("class") == "best-so-far"]
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", line.get("d", ""))]
    assert heights == sorted(heights, reverse=True)
    assert heights[-1] == pytest.approx(drawing.y(1.6), abs=0.1)  # trial 1 is faster and misses the target


def test_a_histogram_shades_the_chosen_range() -> None:
    root = ET.fromstring(charts.histogram(evidence().tensors[0], Size(width=400, height=100)).svg())
    (box,) = [each for each in root.iter(f"{SVG}rect") if each.get("class") == "range"]
    assert float(box.get("width", 0)) == pytest.approx(384 * 3 / 6, abs=0.1)


def test_ticks_are_round_and_within_the_ends() -> None:
    assert ticks(0.0, 1.0, 5) == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(0.93, 2.1, 5) == pytest.approx([1.0, 1.25, 1.5, 1.75, 2.0])
    assert ticks(1.0, 1.0, 5) == [1.0]
