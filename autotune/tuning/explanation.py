"""Figures of single ops that explain a result: a report needs them, and no strategy may have asked for them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any, Generic

from autotune.adapter import Compiles, ModelT
from autotune.config import FP32, QuantizationConfig
from autotune.trial import Trial
from autotune.tuning.evidence import RETURNED
from autotune.tuning.insights import MeasuredInsights
from autotune.tuning.setup import Setup
from autotune.tuning.side import Side, SideHistory

_LEAST_S = 2.0
_SHARE = 0.05
"""Time for the figures after a run: this share of all activities and of their total, a tenth of the run, or 2 s."""
_RESERVE_SHARE = 0.1
"""Largest share of the time given to a run that is reserved for the figures."""
_TIMED = 3
"""How many of the worst ops are timed by themselves, where no profile has a figure of them."""


def reserve_s(timeout_s: float | None) -> float:
    """Seconds of a run with a time limit that the search leaves for figures of single ops."""
    return 0.0 if timeout_s is None else min(_LEAST_S, _RESERVE_SHARE * timeout_s)


def explanation_s(seconds: Mapping[str, float]) -> float:
    """Seconds for figures of single ops after a run, of which ``seconds`` holds those by activity and their total."""
    return max(_LEAST_S, _SHARE * sum(seconds.values()))


class Explanation(Generic[ModelT]):
    """Measures figures of single ops in little time; what a strategy has measured is not measured again.

    Args:
        setup: The sides of the run and its history.
    """

    def __init__(self, setup: Setup[ModelT]) -> None:
        self._setup = setup

    def measure(self, shown: Trial, *, within_s: float) -> None:
        """Measure the profile, the conversions and the sensitivity of the runtime of a trial.

        Args:
            shown: The trial whose config is explained.
            within_s: Seconds after which nothing more is begun.
        """
        insights = self._setup.side_of(shown).problem.insights
        if isinstance(insights, MeasuredInsights):
            insights.end_within(within_s)
            insights.op_latency()
            insights.crossing_latency()
            insights.sensitivity()

    def time_worst(self, shown: Trial, *, within_s: float) -> None:
        """Time the shown config with the worst ops in the other precision, where the profile has no figure of them.

        An op that is fused into another one in fp32 has none. Where candidates are compiled, nothing is timed: that
        takes longer than trials do.

        Args:
            shown: The trial whose config is explained.
            within_s: Seconds after which nothing more is begun.
        """
        side = self._setup.side_of(shown)
        history, insights = SideHistory(self._setup.history, side.runtime), side.problem.insights
        if not isinstance(insights, MeasuredInsights) or shown.config.is_fp32 or shown.config.trained:
            return
        # In a run over several runtimes it is that of the one that is shown.
        if isinstance(insights.adapter, Compiles):
            return
        deadline = time.monotonic() + within_s
        config = dataclasses.replace(shown.config, runtime=None)
        found: dict[str, list[float]] = {}
        for op in _worst(history):
            if time.monotonic() < deadline and (other := _flipped(config, op, side)) is not None:
                found[op] = _share(insights, config, other, quantized=config[op] != FP32)
        history.keep(RETURNED, {"config": shown.config.fingerprint, "shares": found})


def _worst(history: SideHistory) -> list[str]:
    """Those of the worst ops of which the profile has no figure, worst first."""
    sensitivity: dict[str, float] = history.kept("sensitivity") or {}
    seconds: dict[str, dict[str, Any]] = history.kept("op_latency") or {}
    worst = sorted((op for op in sensitivity if sensitivity[op]), key=lambda op: -sensitivity[op])[:_TIMED]
    return [op for op in worst if len(seconds.get(op, {})) < 2]


def _flipped(config: QuantizationConfig, op: str, side: Side[Any]) -> QuantizationConfig | None:
    """The config with one op in fp32, or in its preferred precision where it is fp32; None where nothing differs."""
    ops = {name: choice for name, choice in config.ops.items() if name != op}
    if config[op] == FP32:
        ops[op] = side.problem.space.preferred[op]
    other = dataclasses.replace(config, ops=ops)
    return None if other == config or other.is_fp32 else other


def _share(
    insights: MeasuredInsights[Any], config: QuantizationConfig, other: QuantizationConfig, *, quantized: bool
) -> list[float]:
    """Both ends of how much longer a call takes with the op in fp32, as a share of a call of the shown config."""
    low, high = insights.relative_speed(config, other)
    if not low or not high:
        return []
    # The other config takes 1 / speed of a call.
    ends = (1 / high - 1, 1 / low - 1) if quantized else (1 - 1 / low, 1 - 1 / high)
    return sorted(ends)
