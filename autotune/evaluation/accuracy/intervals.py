"""Intervals of the loss, from two models' results on the same samples.

Both models see the same samples, so the loss is estimated far better than either accuracy: only samples on which the
two differ count. Right-or-wrong scores get a score interval, which holds its coverage where the two models differ in a
handful of samples or in none at all; there the bootstrap and Wald intervals shrink to nothing. Other means get
Fieller's interval, and figures that are no means the paired bootstrap.
``benchmarks/interval_coverage.py`` measures them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from autotune.adapter import Array
from autotune.criterion import Criterion, Interval, spent
from autotune.evaluation.accuracy.metrics.metric import Metric

_EDGE = 1e-9
_TAIL_RESAMPLES = 10
"""Resamples that must lie beyond a quantile of the bootstrap for it to be read off them."""


def interval_confidence(criterion: Criterion) -> float:
    """Confidence of the two-sided interval whose upper end is the one-sided bound that the criterion asks for."""
    return 0.95 if criterion.confidence is None else 2 * criterion.confidence - 1


def holdout_confidence(criterion: Criterion, rank: int) -> float:
    """Confidence of the interval of the ``rank``-th candidate that is measured on the data held out.

    A candidate is dropped where its interval lies beyond the target. With these intervals a search drops a good one by
    chance no more often than its confidence allows, however many it measures there.
    """
    return 1 - (1 - interval_confidence(criterion)) * spent(rank)


def mean_loss_interval(
    baseline: Array, candidate: Array, criterion: Criterion, confidence: float | None = None
) -> Interval:
    """Interval of the loss of a metric that is a mean over samples.

    Args:
        baseline: The fp32 model's score of each sample, shape (samples,).
        candidate: The candidate's scores of the same samples, shape (samples,).
        criterion: The criterion, which says whether the loss is relative, and the confidence.
        confidence: Confidence of the two-sided interval; None: what the criterion asks for.
    """
    confidence = interval_confidence(criterion) if confidence is None else confidence
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    if _binary(baseline) and _binary(candidate):
        both = int(((baseline == 1) & (candidate == 1)).sum())
        only_baseline = int(((baseline == 1) & (candidate == 0)).sum())
        only_candidate = int(((baseline == 0) & (candidate == 1)).sum())
        if criterion.relative is not None:
            ends = ratio_score_interval(both, only_baseline, only_candidate, z)
            low, high = 1 - ends[1], 1 - ends[0]
        else:
            low, high = difference_score_interval(only_baseline, only_candidate, len(baseline), z)
        return _oriented(low, high, criterion, confidence)
    difference = baseline - candidate
    if len(difference) < 2:
        return Interval(low=-math.inf, high=math.inf, confidence=confidence)
    from scipy.special import stdtrit  # noqa: PLC0415  scipy takes half a second to import, which `import autotune` need not wait

    t = float(stdtrit(len(difference) - 1, (1 + confidence) / 2))
    if criterion.relative is not None:
        low, high = fieller_interval(difference, baseline, t)
    else:
        half = t * float(difference.std(ddof=1)) / math.sqrt(len(difference))
        low, high = float(difference.mean()) - half, float(difference.mean()) + half
    return _oriented(low, high, criterion, confidence)


def resampled_loss_interval(
    metric: Metric,
    baseline: Array,
    candidate: Array,
    criterion: Criterion,
    confidence: float | None = None,
    *,
    seed: int,
) -> Interval:
    """Interval of the loss of any metric: percentiles of the paired bootstrap (Efron and Tibshirani 1993, chapter 8).

    Samples are drawn with replacement, the same ones for both models. Where a quantile lies so far out that hardly a
    resample is beyond it, the outermost that can be read off is moved on as far as a normal distribution's tail would.

    Args:
        metric: Makes the figures.
        baseline: The fp32 model's record of each sample.
        candidate: The candidate's records of the same samples.
        criterion: The criterion, which says what a loss is, and the confidence.
        confidence: Confidence of the two-sided interval; None: what the criterion asks for.
        seed: Seed of the resampling.
    """
    confidence = interval_confidence(criterion) if confidence is None else confidence
    generator = np.random.default_rng(seed)
    losses = []
    for _ in range(metric.resamples):
        drawn = generator.integers(0, len(baseline), len(baseline))
        reference, value = metric.figure(baseline[drawn]), metric.figure(candidate[drawn])
        # A resample may lack a class, or its figure be zero: it says nothing of the loss.
        if math.isfinite(value) and math.isfinite(reference) and (criterion.relative is None or reference != 0):
            losses.append(criterion.loss(reference, value))
    if len(losses) < metric.resamples / 2:
        return Interval(low=-math.inf, high=math.inf, confidence=confidence)
    tail = (1 - confidence) / 2
    readable = max(tail, min(0.25, _TAIL_RESAMPLES / len(losses)))
    low, middle, high = np.quantile(losses, [readable, 0.5, 1 - readable])
    further = 1.0 if tail == readable else NormalDist().inv_cdf(tail) / NormalDist().inv_cdf(readable)
    return Interval(
        low=float(middle - (middle - low) * further),
        high=float(middle + (high - middle) * further),
        confidence=confidence,
    )


def difference_score_interval(only_baseline: int, only_candidate: int, samples: int, z: float) -> tuple[float, float]:
    """Score interval of the difference of two paired proportions (Tango 1998, Statistics in Medicine 17, 891-908).

    Args:
        only_baseline: Samples that only the baseline gets right.
        only_candidate: Samples that only the candidate gets right.
        samples: All samples.
        z: Normal quantile.
    """

    def statistic(delta: float) -> float:
        a = 2.0 * samples
        b = -only_baseline - only_candidate + (2.0 * samples - only_baseline + only_candidate) * delta
        c = -only_candidate * delta * (1 - delta)
        rare = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = samples * (2 * rare + delta * (1 - delta))
        return (only_baseline - only_candidate - samples * delta) / math.sqrt(max(variance, _EDGE**2))

    estimate = (only_baseline - only_candidate) / samples
    return _crossings(statistic, estimate, -1 + _EDGE, 1 - _EDGE, z)


def ratio_score_interval(both: int, only_baseline: int, only_candidate: int, z: float) -> tuple[float, float]:
    """Score interval of candidate over baseline of two paired proportions (Nam and Blackwelder 2002, Statistics in
    Medicine 21, 689-699).

    Samples that both get wrong say nothing of a ratio.

    Args:
        both: Samples that both get right.
        only_baseline: Samples that only the baseline gets right.
        only_candidate: Samples that only the candidate gets right.
        z: Normal quantile.
    """  # noqa: D205
    total = both + only_baseline + only_candidate
    right, kept = both + only_baseline, both + only_candidate
    if right == 0:
        return 0.0, math.inf

    def statistic(ratio: float) -> float:
        # Maximum likelihood of the discordant cells where candidate = ratio * baseline: the root of a quadratic.
        gap = total * (1 - ratio)
        a = ratio * (1 + ratio) * total
        b = (1 + ratio) * gap * kept - ratio**2 * total * (only_baseline + only_candidate)
        c = -only_candidate * gap * ratio * total
        gained = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        lost = gap + ratio * gained
        variance = ratio * (gained + lost)
        return (kept - ratio * right) / math.sqrt(max(variance, _EDGE**2))

    return _crossings(statistic, kept / right, _EDGE, kept / right + 1e6, z)


def fieller_interval(difference: Array, baseline: Array, t: float) -> tuple[float, float]:
    """Interval of ``mean(difference) / mean(baseline)`` (Fieller 1954, JRSS B 16, 175-185).

    Args:
        difference: Baseline minus candidate, shape (samples,).
        baseline: Shape (samples,).
        t: Quantile of Student's distribution.
    """
    samples = len(baseline)
    top, bottom = float(difference.mean()), float(baseline.mean())
    (var_top, covariance), (_, var_bottom) = np.cov(difference, baseline) / samples
    a = bottom**2 - t**2 * var_bottom
    b = -2 * (top * bottom - t**2 * covariance)
    c = top**2 - t**2 * var_top
    discriminant = b * b - 4 * a * c
    # Where the baseline itself cannot be told from zero, a share of it may be anything.
    if a <= 0 or discriminant < 0:
        return -math.inf, math.inf
    root = math.sqrt(discriminant)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


def _crossings(
    statistic: Callable[[float], float], estimate: float, least: float, most: float, z: float
) -> tuple[float, float]:
    """Arguments at which a falling statistic is ``z`` and ``-z``."""
    from scipy.optimize import brentq  # noqa: PLC0415  as above

    inside = min(max(estimate, least), most)

    def crossing(level: float, low: float, high: float, beyond: float) -> float:
        def gap(at: float) -> float:
            return statistic(at) - level

        if z == 0 or low >= high or gap(low) * gap(high) > 0:
            return estimate if z == 0 else beyond
        return float(brentq(gap, low, high, xtol=1e-10))

    return crossing(z, least, inside, least), crossing(-z, inside, most, most)


def _binary(scores: Array) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())


def _oriented(low: float, high: float, criterion: Criterion, confidence: float) -> Interval:
    """Turn baseline minus candidate into a loss: of an error the candidate's surplus is the loss."""
    if not criterion.higher_is_better:
        low, high = -high, -low
    return Interval(low=low, high=high, confidence=confidence)
