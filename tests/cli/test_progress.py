from __future__ import annotations

import dataclasses
import io

import pytest
from rich.console import Console

from autotune.cli.progress import ProgressDisplay
from autotune.config import FP32, OpConfig, Precision, QuantizationConfig
from autotune.criterion import Criterion, Verdict
from autotune.trial import Measurement, Trial, TrialState

INT8 = QuantizationConfig(ops={"conv": OpConfig(precision=Precision.INT8)})
BASELINE = Trial(
    number=0,
    config=QuantizationConfig(ops={"conv": FP32}),
    state=TrialState.COMPLETED,
    measurement=Measurement(accuracy=0.8, loss=0.0, verdict=Verdict.MET, speedup=1.0),
    note="fp32 baseline",
)


def candidate(number: int, loss: float, speedup: float) -> Trial:
    verdict = Verdict.MET if loss <= 0.01 else Verdict.MISSED
    measured = Measurement(accuracy=0.8 * (1 - loss), loss=loss, verdict=verdict, speedup=speedup)
    return Trial(number=number, config=INT8, state=TrialState.COMPLETED, measurement=measured, note="all int8")


def display(*, terminal: bool, max_trials: int | None = 4, timeout_s: float | None = None) -> ProgressDisplay:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    return ProgressDisplay(console, Criterion(), max_trials=max_trials, timeout_s=timeout_s)


def text(shown: ProgressDisplay) -> str:
    file = shown._console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def rendered(shown: ProgressDisplay) -> str:
    with shown._console.capture() as capture:
        shown._console.print(shown._status())
    return capture.get()


def test_without_a_terminal_there_is_a_plain_line_for_each_trial() -> None:
    with display(terminal=False) as shown:
        shown.phase("baseline")
        shown.trial_finished(BASELINE, BASELINE)
        shown.phase("search")
        shown.note("[conv] stays as it is")
        first = candidate(1, 0.05, 2.0)
        shown.trial_started(1, INT8, "all int8")
        shown.trial_finished(first, BASELINE)
        second = candidate(2, 0.005, 1.5)
        shown.trial_finished(second, second)
        failed = Trial(number=3, config=INT8, state=TrialState.FAILED, reason="NaN in output 'y'", note="per_tensor")
        shown.trial_finished(failed, second)
        slow = Trial(
            number=4,
            config=INT8,
            state=TrialState.PRUNED,
            measurement=Measurement(speedup=1.1),
            reason="slower than trial 2",
        )
        shown.trial_finished(slow, second)
    lines = text(shown).splitlines()
    assert "\x1b" not in text(shown)
    assert lines[1].split() == ["trial", "accuracy", "loss", "speedup", "what"]
    assert lines[2].split() == ["0", "0.8000", "1.00x", "fp32", "baseline"]
    assert lines[4] == "Note: [conv] stays as it is"
    assert lines[5].split() == ["1", "0.7600", "+5.00", "%", "2.00x", "all", "int8"]
    assert lines[6].endswith("all int8  <- best so far")
    assert lines[7].split()[:4] == ["3", "-", "-", "-"]
    assert lines[7].endswith("failed: NaN in output 'y' (per_tensor)")
    assert lines[8].split() == ["4", "-", "-", "1.10x", "pruned:", "slower", "than", "trial", "2"]


def test_columns_stand_below_their_headings() -> None:
    with display(terminal=False) as shown:
        shown.phase("baseline")
        shown.trial_finished(candidate(12, 0.123456, 12.3), BASELINE)
    heading, row = text(shown).splitlines()[1:]
    for column in ("accuracy", "loss", "speedup"):
        end = heading.index(column) + len(column)
        assert row[end - 1] != " "
        assert row[end] == " "


def test_an_undecided_speedup_has_a_question_mark() -> None:
    busy = candidate(1, 0.005, 46.77)
    assert busy.measurement is not None
    busy = dataclasses.replace(busy, measurement=dataclasses.replace(busy.measurement, latency_decided=False))
    with display(terminal=False) as shown:
        shown.phase("search")
        shown.trial_finished(busy, BASELINE)
        shown.trial_finished(candidate(2, 0.005, 1.5), busy)
    lines = text(shown).splitlines()
    assert "46.77x?  all int8" in lines[-2]
    assert "best so far" not in lines[-2]
    assert "1.50x  all int8" in lines[-1]
    assert "best trial 1: 46.77x?" in rendered(shown)


def test_the_status_line_tells_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("autotune.cli.progress.time.monotonic", lambda: clock[0])
    shown = display(terminal=True, timeout_s=60)
    shown.phase("search")
    best = candidate(2, 0.005, 1.5)
    shown.trial_finished(best, best)
    shown.trial_started(3, INT8, "conv to fp32")
    shown.progress(250, 1000)
    clock[0] = 112.0
    status = rendered(shown)
    assert "trial 3: conv to fp32" in status
    assert "250/1,000 samples" in status
    assert "best trial 2: 1.50x, loss +0.50 %" in status
    assert "2 of at most 4 trials" in status
    assert "12 s elapsed · 48 s left" in status


def test_without_a_time_limit_the_time_left_is_told_from_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("autotune.cli.progress.time.monotonic", lambda: clock[0])
    shown = display(terminal=True)
    shown.phase("search")
    assert "left" not in rendered(shown)
    clock[0] = 120.0
    shown.trial_finished(candidate(1, 0.005, 1.5), BASELINE)
    assert "at most about 1 min 00 s left" in rendered(shown)


def test_on_a_terminal_the_status_is_gone_in_the_end() -> None:
    with display(terminal=True) as shown:
        shown.phase("search")
    assert text(shown).endswith("\x1b[?25h") or "\x1b[2K" in text(shown)
