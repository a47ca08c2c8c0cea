from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from autotune.criterion import Criterion
from autotune.evaluation import create_metric
from autotune.evaluation.accuracy.intervals import (
    difference_score_interval,
    fieller_interval,
    holdout_confidence,
    interval_confidence,
    mean_loss_interval,
    ratio_score_interval,
    resampled_loss_interval,
)

Array = np.ndarray[Any, Any]
Z = 1.959963984540054


def answers(both: int, only_baseline: int, only_candidate: int, neither: int) -> tuple[Array, Array]:
    baseline = np.repeat([1.0, 1.0, 0.0, 0.0], [both, only_baseline, only_candidate, neither])
    return baseline, np.repeat([1.0, 0.0, 1.0, 0.0], [both, only_baseline, only_candidate, neither])


def test_with_no_discordant_pair_the_ends_have_a_closed_form() -> None:
    """The difference ends where ``n * d = z**2 * (1 - d)``, the ratio where ``n * (1 - r) = z**2 * r``."""
    assert difference_score_interval(0, 0, 200, Z) == pytest.approx((-(Z**2) / (200 + Z**2), Z**2 / (200 + Z**2)))
    low, high = ratio_score_interval(100, 0, 0, Z)
    assert low == pytest.approx(1 / (1 + Z**2 / 100))
    assert high == pytest.approx(1 + Z**2 / 100)


def test_intervals_turn_with_the_models() -> None:
    assert difference_score_interval(9, 3, 100, Z) == pytest.approx(
        tuple(-end for end in difference_score_interval(3, 9, 100, Z)[::-1])
    )
    low, high = ratio_score_interval(70, 9, 3, Z)
    other = ratio_score_interval(70, 3, 9, Z)
    assert (low, high) == pytest.approx((1 / other[1], 1 / other[0]), rel=1e-6)


@pytest.mark.parametrize("criterion", [Criterion(relative=0.01), Criterion(absolute=0.01)])
@pytest.mark.parametrize("cells", [(0.76, 0.02, 0.01), (0.777, 0.003, 0.001)])
def test_coverage_at_few_discordant_pairs(criterion: Criterion, cells: tuple[float, float, float]) -> None:
    """600 sets of 500 samples; a coverage of 95 % falls below 92.5 % in one run of 300."""
    generator = np.random.default_rng(1)
    both, lost, gained = cells
    truth = (lost - gained) / (both + lost if criterion.relative else 1)
    covered = 0
    for _ in range(600):
        drawn = generator.multinomial(500, [both, lost, gained, 1 - sum(cells)])
        interval = mean_loss_interval(*answers(*drawn), criterion)
        covered += interval.low <= truth <= interval.high
    assert covered / 600 > 0.925


def test_lower_is_better_turns_the_loss() -> None:
    baseline, candidate = answers(80, 10, 2, 8)
    up = mean_loss_interval(baseline, candidate, Criterion(absolute=0.1))
    down = mean_loss_interval(baseline, candidate, Criterion(absolute=0.1, higher_is_better=False))
    assert (down.low, down.high) == pytest.approx((-up.high, -up.low))


def test_confidence_is_that_of_the_upper_bound() -> None:
    baseline, candidate = answers(700, 20, 10, 270)
    loose = mean_loss_interval(baseline, candidate, Criterion(relative=0.01))
    bound = mean_loss_interval(baseline, candidate, Criterion(relative=0.01, confidence=0.95))
    assert loose.confidence == 0.95
    assert bound.confidence == pytest.approx(0.9)
    assert bound.high < loose.high
    point = mean_loss_interval(baseline, candidate, Criterion(relative=0.01, confidence=0.5))
    assert point.low == pytest.approx(point.high) == pytest.approx(10 / 720)


def test_other_scores_get_a_t_interval_and_fieller() -> None:
    generator = np.random.default_rng(0)
    baseline = generator.random(60)
    candidate = baseline - 0.01 + 0.05 * generator.standard_normal(60)
    absolute = mean_loss_interval(baseline, candidate, Criterion(absolute=0.01))
    expected = stats.ttest_rel(baseline, candidate).confidence_interval(0.95)
    assert (absolute.low, absolute.high) == pytest.approx((expected.low, expected.high))
    relative = mean_loss_interval(baseline, candidate, Criterion(relative=0.01))
    assert relative.low < float((baseline - candidate).mean() / baseline.mean()) < relative.high


def test_a_baseline_that_may_be_zero_has_no_relative_interval() -> None:
    baseline = np.array([1.0, -1.0, 0.5, -0.5])
    assert fieller_interval(baseline, baseline, 3.0) == (-math.inf, math.inf)
    assert mean_loss_interval(np.ones(1) / 2, np.ones(1) / 3, Criterion(relative=0.1)).high == math.inf


def test_resampling_agrees_with_the_formula_on_a_mean() -> None:
    baseline, candidate = answers(700, 40, 20, 240)
    metric = create_metric("topk")
    formula = mean_loss_interval(baseline, candidate, Criterion(relative=0.01))
    drawn = resampled_loss_interval(metric, baseline[:, None], candidate[:, None], Criterion(relative=0.01), seed=0)
    assert (drawn.low, drawn.high) == pytest.approx((formula.low, formula.high), abs=0.004)


def test_a_figure_that_resamples_cannot_have_gets_no_interval() -> None:
    records = np.array([[1.0, 0.3]] * 5)
    interval = resampled_loss_interval(create_metric("roc_auc"), records, records, Criterion(absolute=0.1), seed=0)
    assert (interval.low, interval.high) == (-math.inf, math.inf)


@pytest.mark.parametrize("slope", [-0.4, 0.0, 0.4])
def test_the_ends_of_fiellers_interval_are_where_a_t_test_of_the_share_would_just_reject(slope: float) -> None:
    """``difference - share * baseline`` has mean zero for the true share, and its variance holds their covariance."""
    generator = np.random.default_rng(4)
    baseline = 1.0 + 0.3 * generator.standard_normal(80)
    difference = slope * (baseline - 1) + 0.02 + 0.05 * generator.standard_normal(80)
    for end, sign in zip(fieller_interval(difference, baseline, 2.1), (1, -1), strict=True):
        gap = difference - end * baseline
        assert gap.mean() / (gap.std(ddof=1) / math.sqrt(80)) == pytest.approx(sign * 2.1)


def test_a_quantile_that_no_resample_lies_beyond_is_moved_on_like_a_normal_tail() -> None:
    baseline, candidate = answers(700, 40, 20, 240)
    metric, criterion = create_metric("topk"), Criterion(absolute=0.01)

    def high(confidence: float) -> float:
        drawn = resampled_loss_interval(metric, baseline[:, None], candidate[:, None], criterion, confidence, seed=0)
        assert drawn.confidence == confidence
        return drawn.high

    for tail in (1e-3, 1e-4, 1e-6):
        far = mean_loss_interval(baseline, candidate, criterion, 1 - 2 * tail).high
        assert high(1 - 2 * tail) == pytest.approx(far, rel=0.15)
    assert high(1 - 2e-6) > high(1 - 2e-4) > high(1 - 2e-3) > high(0.9)


def test_each_further_candidate_on_the_data_held_out_has_a_wider_interval() -> None:
    for criterion in (Criterion(), Criterion(confidence=0.9)):
        errors = [1 - holdout_confidence(criterion, rank) for rank in range(1, 1000)]
        assert errors == sorted(errors, reverse=True)
        assert sum(errors) == pytest.approx(1 - interval_confidence(criterion), rel=2e-3)
