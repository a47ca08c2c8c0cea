"""Measuring candidates: latency against the fp32 baseline, accuracy with its interval, size and memory."""

from autotune.evaluation.accuracy.metrics import METRICS, MeanMetric, Metric, create_metric
from autotune.evaluation.accuracy.sources import LabelledData, UserFunction, check_direction
from autotune.evaluation.compiling import evaluator_of
from autotune.evaluation.evaluator import Evaluator
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
from autotune.evaluation.measured import Evaluation

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
    "evaluator_of",
    "measure_throughput",
    "race_latency",
]
