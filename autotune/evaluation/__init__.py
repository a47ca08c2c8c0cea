"""Measuring candidates: latency against the fp32 baseline, accuracy with its interval, size and memory."""

from autotune.evaluation.accuracy.metrics import METRICS, MeanMetric, Metric, create_metric
from autotune.evaluation.accuracy.sources import LabelledData, UserFunction, check_direction
from autotune.evaluation.evaluator import Evaluation, Evaluator
from autotune.evaluation.isolation.isolated import AnyEvaluator, IsolatedEvaluator, Isolation, IsolationOptions
from autotune.evaluation.latency import (
    CacheState,
    LatencyComparison,
    LatencyOptions,
    Percentiles,
    RaceResult,
    compare_latency,
    race_latency,
)
from autotune.evaluation.latency.throughput import Throughput, ThroughputOptions, measure_throughput

__all__ = [
    "METRICS",
    "AnyEvaluator",
    "CacheState",
    "Evaluation",
    "Evaluator",
    "IsolatedEvaluator",
    "Isolation",
    "IsolationOptions",
    "LabelledData",
    "LatencyComparison",
    "LatencyOptions",
    "MeanMetric",
    "Metric",
    "Percentiles",
    "RaceResult",
    "Throughput",
    "ThroughputOptions",
    "UserFunction",
    "check_direction",
    "compare_latency",
    "create_metric",
    "measure_throughput",
    "race_latency",
]
