from __future__ import annotations

import pytest

from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import CriterionError


def test_the_default_is_one_percent_relative() -> None:
    assert Criterion().relative == 0.01
    assert Criterion(absolute=0.5).relative is None


@pytest.mark.parametrize(
    ("criterion", "baseline", "value", "loss"),
    [
        (Criterion(relative=0.01), 0.8, 0.796, 0.005),
        (Criterion(relative=0.01), 0.8, 0.808, -0.01),
        (Criterion(absolute=0.01), 0.8, 0.796, 0.004),
        (Criterion(relative=0.01, higher_is_better=False), 20.0, 20.1, 0.005),
        (Criterion(absolute=0.1, higher_is_better=False), 20.0, 19.9, -0.1),
        (Criterion(absolute=0.1), -3.0, -3.05, 0.05),
    ],
)
def test_a_loss_is_positive_where_the_candidate_is_worse(
    criterion: Criterion, baseline: float, value: float, loss: float
) -> None:
    assert criterion.loss(baseline, value) == pytest.approx(loss)


def test_without_confidence_the_measured_loss_decides() -> None:
    wide = Interval(low=-0.05, high=0.05)
    assert Criterion().verdict(0.01, wide) is Verdict.MET
    assert Criterion().verdict(0.0101, wide) is Verdict.MISSED


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(low=-0.01, high=0.01), Verdict.MET),
        (Interval(low=-0.01, high=0.011), Verdict.UNDECIDED),
        (Interval(low=0.011, high=0.02), Verdict.MISSED),
    ],
)
def test_with_confidence_the_interval_decides(interval: Interval, verdict: Verdict) -> None:
    assert Criterion(confidence=0.95).verdict(0.0, interval) is verdict


@pytest.mark.parametrize("baseline", [0.0, -1.0, float("nan"), float("inf")])
def test_a_relative_criterion_needs_a_positive_finite_baseline(baseline: float) -> None:
    with pytest.raises(CriterionError):
        Criterion(relative=0.01).check_baseline(baseline)


def test_an_absolute_criterion_takes_any_finite_baseline() -> None:
    Criterion(absolute=0.1).check_baseline(0.0)
    Criterion(absolute=0.1).check_baseline(-2.0)
    with pytest.raises(CriterionError, match="finite"):
        Criterion(absolute=0.1).check_baseline(float("nan"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relative": 0.01, "absolute": 0.1}, "not both"),
        ({"relative": -0.01}, ">= 0"),
        ({"relative": 1.0}, "1 % is 0.01"),
        ({"absolute": float("nan")}, ">= 0"),
        ({"confidence": 95}, "confidence"),
    ],
)
def test_a_criterion_that_makes_no_sense_is_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(CriterionError, match=message):
        Criterion(**options)  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_candidates_of_a_search_share_the_error_that_a_confidence_allows(confidence: float) -> None:
    levels = [Criterion(confidence=confidence).for_candidate(rank).confidence for rank in range(1, 2000)]
    assert all(level is not None for level in levels)
    errors = [1 - level for level in levels if level is not None]
    assert errors == sorted(errors, reverse=True)
    assert sum(errors) == pytest.approx(1 - confidence, rel=1e-3)
    assert sum(errors) < 1 - confidence
    assert Criterion().for_candidate(7) == Criterion()


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        (Interval(low=-0.01, high=0.01), Verdict.MET),
        (Interval(low=0.01, high=0.02), Verdict.UNDECIDED),
        (Interval(low=0.011, high=0.02), Verdict.MISSED),
        (Interval(low=float("-inf"), high=float("inf")), Verdict.UNDECIDED),
    ],
)
def test_what_an_interval_shows_by_itself(interval: Interval, verdict: Verdict) -> None:
    assert Criterion().shown(interval) is verdict


@pytest.mark.parametrize(
    ("loss", "low", "high", "samples"),
    [
        (0.0, -0.02, 0.02, 400),  # half as wide is enough, which four times the samples are
        (0.02, 0.0, 0.09, 400),  # the same from the other side
        (0.0, -0.09, 0.02, 400),  # only the end on the side of the target counts
        (0.01, -0.02, 0.02, None),  # on the target
        (0.0099999, -0.02, 0.02, None),  # a hair beside it: more than a million
        (0.0, float("-inf"), float("inf"), None),
        (0.0, -0.005, 0.005, 100),  # decided already
    ],
)
def test_how_many_samples_would_decide(loss: float, low: float, high: float, samples: int | None) -> None:
    assert Criterion().samples_to_decide(loss, Interval(low=low, high=high), 100) == samples
