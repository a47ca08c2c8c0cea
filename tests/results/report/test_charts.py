"""The drawings of a report."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from autotune.config import QuantizationConfig
from autotune.results.report import charts
from autotune.results.report.svg import NARROW, WIDE, Size, ticks
from autotune.results.summary import TuningSummary
from autotune.strategy import Objective
from autotune.trial import TrialState
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
