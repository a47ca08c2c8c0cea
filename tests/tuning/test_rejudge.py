from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from autotune.config import QuantizationConfig
from autotune.criterion import Criterion, Interval, Verdict
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.rejudge import Rejudge, worth_keeping

BASELINE = Measurement(accuracy=0.8, metrics={"top1": 0.8, "top5": 0.9}, size_bytes=100, speedup=1.0)
ONE, TWO = Criterion(relative=0.01), Criterion(relative=0.02)


def rejudge(after: Criterion, before: Criterion = ONE, **options: Any) -> Rejudge:
    defaults = {"criteria": {}, "objective": Objective.LATENCY, "before_objective": Objective.LATENCY}
    return Rejudge(before=before, after=after, baseline=BASELINE, **{**defaults, **options})


def trial(state: TrialState = TrialState.COMPLETED, reason: str | None = None, **figures: Any) -> Trial:
    measured = Measurement(**{"accuracy": 0.788, "loss": 0.015, "size_bytes": 30, "speedup": 2.0, **figures})
    return Trial(number=1, config=QuantizationConfig(), state=state, measurement=measured, reason=reason)


def interval(low: float, high: float, confidence: float = 0.95) -> Interval:
    return Interval(low=low, high=high, confidence=confidence)


@pytest.mark.parametrize(
    ("after", "loss", "verdict"),
    [
        (TWO, 0.015, Verdict.MET),
        (Criterion(relative=0.014), 0.015, Verdict.MISSED),
        (Criterion(absolute=0.0125), 0.012, Verdict.MET),
        (Criterion(absolute=0.0115), 0.012, Verdict.MISSED),
    ],
)
def test_a_whole_evaluation_is_judged_by_any_target(after: Criterion, loss: float, verdict: Verdict) -> None:
    found = rejudge(after)(trial(verdict=Verdict.MISSED, loss_interval=interval(0.01, 0.02)))
    assert found is not None
    assert found.measurement is not None
    assert found.loss == pytest.approx(loss)
    assert found.measurement.verdict is verdict
    assert found.measurement.loss_interval is not None
    assert found.measurement.loss_interval.low == pytest.approx(0.01 * loss / 0.015)


def test_absolute_and_back_is_the_same() -> None:
    there = rejudge(Criterion(absolute=0.01))(trial(verdict=Verdict.MISSED))
    assert there is not None
    back = rejudge(ONE, before=Criterion(absolute=0.01))(there)
    assert back is not None
    assert back.loss == pytest.approx(0.015)


def test_the_other_direction_turns_the_loss_round() -> None:
    found = rejudge(Criterion(absolute=0.02, higher_is_better=False), before=Criterion(absolute=0.02))(
        trial(loss=0.01, loss_interval=interval(0.0, 0.03), verdict=Verdict.MET)
    )
    assert found is not None
    assert found.loss == -0.01
    assert found.measurement is not None
    assert found.measurement.loss_interval == interval(-0.03, 0.0)


PART: dict[str, Any] = {"samples": 100, "samples_total": 1000}


@pytest.mark.parametrize(
    ("low", "high", "state"),
    [(0.012, 0.018, TrialState.COMPLETED), (0.021, 0.03, TrialState.PRUNED), (0.015, 0.025, None)],
)
def test_an_early_end_is_judged_where_its_interval_lies_on_one_side(
    low: float, high: float, state: TrialState | None
) -> None:
    stopped = trial(TrialState.PRUNED, "it lost", verdict=Verdict.MISSED, loss_interval=interval(low, high), **PART)
    found = rejudge(TWO)(stopped)
    assert (None if found is None else found.state) == state
    if found is not None:
        assert found.met == (state is TrialState.COMPLETED)
        assert found.reason == ("it lost" if state is TrialState.PRUNED else None)


def test_an_early_acceptance_can_become_a_miss() -> None:
    accepted = trial(loss=0.005, verdict=Verdict.MET, loss_interval=interval(0.004, 0.009), **PART)
    found = rejudge(Criterion(relative=0.001))(accepted)
    assert found is not None
    assert found.state is TrialState.PRUNED
    assert found.reason == "it misses the target by what was seen of 100 samples"
    assert rejudge(ONE)(dataclasses.replace(accepted, measurement=dataclasses.replace(
        accepted.measurement or Measurement(), loss_interval=None))) is None  # fmt: skip


def test_another_confidence_needs_the_samples_again() -> None:
    measured = trial(verdict=Verdict.MET, loss=0.002, loss_interval=interval(-0.001, 0.005))
    assert rejudge(Criterion(relative=0.01, confidence=0.99))(measured) is None
    sure = Criterion(relative=0.01, confidence=0.95)
    found = rejudge(Criterion(relative=0.004, confidence=0.95), before=sure)(measured)
    assert found is not None
    assert found.measurement is not None
    assert found.measurement.verdict is Verdict.UNDECIDED
    # Without intervals, as with an eval_fn, there is nothing that depends on it.
    assert rejudge(Criterion(relative=0.02, confidence=0.99))(trial(verdict=Verdict.MISSED)) is not None


def test_further_targets_count_too() -> None:
    criteria = {"top5": Criterion(absolute=0.01)}
    bad = trial(verdict=Verdict.MISSED, metrics={"top1": 0.788, "top5": 0.85})
    found = rejudge(TWO, criteria=criteria)(bad)
    assert found is not None
    assert not found.met
    good = rejudge(TWO, criteria=criteria)(trial(verdict=Verdict.MISSED, metrics={"top1": 0.788, "top5": 0.895}))
    assert good is not None
    assert good.met


def test_what_was_too_slow_is_untried_where_another_figure_counts() -> None:
    slow = trial(TrialState.PRUNED, "slower", loss=None, accuracy=None, speedup_interval=interval(0.8, 0.9))
    assert rejudge(TWO)(slow) == slow
    assert rejudge(TWO, objective=Objective.SIZE)(slow) is None
    assert worth_keeping(slow, 1.0)
    assert not worth_keeping(slow, 0.85)


def test_a_figure_that_was_not_measured_makes_it_untried() -> None:
    assert rejudge(TWO, objective=Objective.MEMORY)(trial(verdict=Verdict.MET)) is None
    assert rejudge(TWO, objective=Objective.SIZE)(trial(verdict=Verdict.MET)) is not None
    # It missed the target by its quick form, and was never compiled: now it would keep it.
    uncompiled = trial(TrialState.PRUNED, "not compiled", verdict=Verdict.MISSED, speedup=None)
    assert rejudge(TWO)(uncompiled) is None
    still = rejudge(Criterion(relative=0.012))(uncompiled)
    assert still is not None
    assert still.state is TrialState.PRUNED


def test_a_failure_stays_one() -> None:
    failed = Trial(number=3, config=QuantizationConfig(), state=TrialState.FAILED, reason="no kernel")
    assert rejudge(TWO)(failed) == failed
