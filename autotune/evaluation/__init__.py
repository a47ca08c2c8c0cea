"""Measuring candidates: latency against the fp32 baseline, accuracy with its interval, size and memory."""

from autotune.evaluation.evaluator import Evaluation, Evaluator
from autotune.evaluation.isolation import IsolatedEvaluator, IsolationOptions
from autotune.evaluation.latency import (
    LatencyComparison,
    LatencyOptions,
    Percentiles,
    RaceResult,
    compare_latency,
    race_latency,
)
from autotune.evaluation.metrics import METRICS, MeanMetric, Metric, create_metric
from autotune.evaluation.sources import LabelledData, UserFunction

__all__ = [
    "METRICS",
    "Evaluation",
    "Evaluator",
    "IsolatedEvaluator",
    "IsolationOptions",
    "LabelledData",
    "LatencyComparison",
    "LatencyOptions",
    "MeanMetric",
    "Metric",
    "Percentiles",
    "RaceResult",
    "UserFunction",
    "compare_latency",
    "create_metric",
    "race_latency",
]
