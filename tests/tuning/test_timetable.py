"""The time that is left to a run, by a clock that only moves when it is told to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from autotune.data import Batch
from autotune.errors import DeadlineReached
from autotune.tuning.timetable import Timetable


class Clock:
    """``time.monotonic`` in a test's hands."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


def batches(count: int, clock: Clock, *, read_s: float = 0.0) -> Iterator[Batch]:
    for _ in range(count):
        clock.now += read_s
        yield Batch(feeds={"x": np.zeros((10, 1))}, labels=None, size=10)


def test_a_stage_begins_only_while_there_is_time(clock: Clock) -> None:
    timetable = Timetable(20)
    assert timetable.deadline == 1020
    clock.now += 19.9
    timetable.begin("calibrate")
    assert timetable.stage == "calibrate"
    clock.now += 0.1
    with pytest.raises(DeadlineReached):
        timetable.begin("baseline")
    assert timetable.stage == "baseline", "the reason names the stage that could not begin"


def test_without_a_limit_nothing_is_raised_or_cut(clock: Clock) -> None:
    timetable = Timetable(None)
    timetable.begin("calibrate")
    shortened = timetable.shortened(batches(50, clock, read_s=1e6))
    assert sum(1 for _ in shortened) == 50
    assert not shortened.cut
    clock.now += 1e9
    timetable.begin("baseline")
    timetable.progressed(1, 10**9)


def test_reading_ends_where_the_time_does(clock: Clock) -> None:
    timetable = Timetable(20)
    read = timetable.watched(batches(10, clock, read_s=6))
    assert [next(read).size for _ in range(3)] == [10, 10, 10]
    with pytest.raises(DeadlineReached):
        next(read)


@pytest.mark.parametrize(
    ("each_s", "expected"), [(0.1, 10), (0.5, 10), (0.51, 9), (1.0, 5), (2.5, 2), (2.6, 1), (100.0, 1)]
)
def test_calibration_takes_a_quarter_of_the_time_at_the_most_and_one_batch_at_the_least(
    clock: Clock, each_s: float, expected: int
) -> None:
    shortened = Timetable(20).shortened(batches(10, clock))
    done = 0
    for _ in shortened:
        clock.now += each_s
        done += 1
    assert done == expected
    assert shortened.samples == 10 * expected
    assert shortened.cut == (expected < 10)


def test_a_deadline_while_batches_are_read_ends_calibration_with_what_there_is(clock: Clock) -> None:
    timetable = Timetable(20)
    shortened = timetable.shortened(timetable.watched(batches(10, clock)))
    for _ in shortened:
        clock.now += 30
    assert (shortened.samples, shortened.cut) == (10, True)
    with pytest.raises(DeadlineReached):
        next(iter(timetable.shortened(timetable.watched(batches(10, clock)))))


def test_calibration_takes_no_more_than_is_left(clock: Clock) -> None:
    timetable = Timetable(100)
    clock.now += 97
    count = 0
    for _ in timetable.shortened(batches(10, clock)):
        clock.now += 1
        count += 1
    assert count == 3


def test_a_stage_that_is_far_too_long_ends_once_its_pace_is_known(clock: Clock) -> None:
    timetable = Timetable(120)
    clock.now += 20
    timetable.begin("baseline")
    clock.now += 9
    timetable.progressed(1, 1000)  # a first call may be slow
    clock.now += 1
    timetable.progressed(50, 1000)  # 200 s, where 100 are left: the first part may have been slow
    clock.now += 1
    with pytest.raises(DeadlineReached, match="about 220 s, and 100 s were left"):
        timetable.progressed(50, 1000)
    assert "all samples together take about 220 s" in timetable.end_reason()
    assert "Give it 900 s or more (`timeout_s`, or `--timeout`)" in timetable.end_reason()


def test_the_pace_of_an_evaluation_counts_from_its_first_sample(clock: Clock) -> None:
    timetable = Timetable(120)
    clock.now += 20
    timetable.begin("baseline")
    clock.now += 30  # a compiler
    timetable.progressed(0, None)
    clock.now += 8
    timetable.progressed(50, 400)  # 64 s, where 70 are left
    assert "all samples together take about 64 s" in timetable.end_reason()
    assert "Give it 310 s or more" in timetable.end_reason()


@pytest.mark.parametrize(
    ("stage", "before", "spent", "words", "suggested"),
    [
        ("load", 0, 30, "the model was loaded and the data were read", 240),
        ("calibrate", 12, 10, "the calibration data ran through the model", 92),
        ("baseline", 5, 16, "the fp32 model itself was measured", 140),
        ("calibrate", 14, 0, "the calibration data ran through the model", 70),
        ("baseline", 18, 2, "the fp32 model itself was measured", 90),  # as long as what came before it
        ("search", 19, 2, "the first candidate was prepared or measured", 40),
    ],
)
def test_the_reason_names_the_stage_and_a_time_that_is_enough(  # one row for each stage
    clock: Clock, stage: str, before: float, spent: float, words: str, suggested: float
) -> None:
    timetable = Timetable(20)
    clock.now += before
    if stage != "load":
        timetable.begin(stage)
    clock.now += spent
    reason = timetable.end_reason()
    assert reason.startswith(f"timeout: the 20 s given to the run were up before {words}. ")
    assert timetable.suggested_s() == suggested
    assert f"Give it {suggested} s or more" in reason


def test_after_the_baseline_the_suggestion_is_for_evaluations_like_that_one(clock: Clock) -> None:
    timetable = Timetable(40)
    timetable.begin("baseline")
    clock.now += 35
    timetable.begin("search")
    clock.now += 4
    assert timetable.suggested_s() == 150  # 35 s, 3 evaluations of 35 s, and 8 s, rounded up


@pytest.mark.parametrize("given", [0.25, 1, 3, 14])
def test_a_suggestion_is_enough_for_the_comparisons_of_the_smallest_model(clock: Clock, given: float) -> None:
    """After 1 s, 2 s were suggested, in which no run ends."""
    timetable = Timetable(given)
    clock.now += 0.01
    assert timetable.suggested_s() == 30


def test_a_suggestion_is_never_less_than_twice_what_was_given(clock: Clock) -> None:
    timetable = Timetable(25)
    clock.now += 0.01
    assert timetable.suggested_s() == 50
    long: Any = Timetable(5000)
    clock.now += 10
    assert long.suggested_s() == 10_000
