"""Latency of a candidate against the fp32 baseline, and of finalists against each other.

One-shot wall times lie: on a busy two-core machine two sessions of one and the same model differ by more than 5 % in
half of the comparisons. Here the sessions of both sides run in turn, in short blocks of warm calls, so that whatever
slows the machine slows both, and the interval of the ratio holds what was seen to differ over time and over sessions.
"""

from autotune.evaluation.latency.clock import Call, Clock, Reading, SystemClock
from autotune.evaluation.latency.compare import Comparison, Sessions, compare_latency
from autotune.evaluation.latency.contest import Pace
from autotune.evaluation.latency.options import CacheState, LatencyOptions
from autotune.evaluation.latency.race import race_latency
from autotune.evaluation.latency.results import LatencyComparison, Percentiles, RaceResult

__all__ = [
    "CacheState",
    "Call",
    "Clock",
    "Comparison",
    "LatencyComparison",
    "LatencyOptions",
    "Pace",
    "Percentiles",
    "RaceResult",
    "Reading",
    "Sessions",
    "SystemClock",
    "compare_latency",
    "race_latency",
]
