"""Latency of a candidate against the fp32 baseline, and of finalists against each other."""

from autotune.evaluation.latency.compare import compare_latency, race_latency, speedup_interval
from autotune.evaluation.latency.options import CacheState, LatencyOptions
from autotune.evaluation.latency.results import LatencyComparison, Percentiles, RaceResult

__all__ = [
    "CacheState",
    "LatencyComparison",
    "LatencyOptions",
    "Percentiles",
    "RaceResult",
    "compare_latency",
    "race_latency",
    "speedup_interval",
]
