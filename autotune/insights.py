"""What can be learnt of the ops at less than an evaluation's price."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic

import numpy as np

from autotune.adapter import Adapter, Array, CostModel, Execution, Feeds, ModelT, Runner
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, Precision, QuantizationConfig
from autotune.errors import TrialError
from autotune.evaluation.latency import LatencyOptions, compare_latency
from autotune.history import History
from autotune.space import TuningSpace
from autotune.stopwatch import Stopwatch

_WORTH_A_PROFILE = 0.1
"""Share of the fp32 model's time that the ops of a further precision must take for it to be profiled."""


_COMPARISON = LatencyOptions(warmup=5, min_pairs=20, max_pairs=60, max_seconds=1.0)

_KEPT_RUNNERS = 2
"""One side of a comparison is the best config, again and again."""


class MeasuredInsights(Generic[ModelT]):
    """Insights that are measured when first asked for, and kept in the history from then on.

    Args:
        adapter: Makes and runs the candidates.
        model: The fp32 model.
        space: Its ops.
        statistics: Of its calibration.
        feeds: A few calibration batches, the same for every op.
        latency_feeds: One batch for profiles.
        execution: How candidates run.
        history: Where the figures are kept.
        stopwatch: Counts the time that they cost.
    """

    def __init__(
        self,
        *,
        adapter: Adapter[ModelT],
        model: ModelT,
        space: TuningSpace,
        statistics: CalibrationStatistics,
        feeds: Sequence[Feeds],
        latency_feeds: Feeds,
        execution: Execution,
        history: History,
        stopwatch: Stopwatch,
    ) -> None:
        self._adapter = adapter
        self._model = model
        self._space = space
        self._statistics = statistics
        self._feeds = feeds
        self._latency_feeds = latency_feeds
        self._execution = execution
        self._history = history
        self._stopwatch = stopwatch
        self._runners: dict[str, Runner] = {}

    def sensitivity(self) -> Mapping[str, float]:
        """By op: squared error over squared output, when this op alone takes its preferred choice.

        It is 0 where that is fp32. Costs a candidate and a few inferences per op, so that recipes that take seconds are
        left out. An op whose candidate fails counts as infinitely sensitive.
        """
        return dict(self._kept("sensitivity", self._sensitivity))

    def output_error(self, config: QuantizationConfig) -> float:
        """The same ratio for any config; infinite for one that fails."""
        return float(self._kept(f"error:{config.fingerprint}", lambda: self._error(config)))

    def op_latency(self) -> Mapping[str, Mapping[Precision, float]]:
        """By op and precision: seconds of one call, from profiles of models that compute alike wherever they can.

        The fp32 model, the preferred one, and one for each further precision whose ops take a tenth of the fp32 time.
        """
        stored = self._kept("op_latency", self._op_latency)
        return {op: {Precision(name): value for name, value in by.items()} for op, by in stored.items()}

    def crossing_latency(self) -> Mapping[str, float]:
        """By op: seconds of converting its output between fp32 and int8 once."""
        return dict(self._kept("crossing_latency", self._crossing_latency))

    def neighbours(self) -> Mapping[str, Sequence[str]]:
        """By op: the ops that read its output."""
        return self._adapter.neighbours(self._model) if isinstance(self._adapter, CostModel) else {}

    def relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> tuple[float, float]:
        """How many times as fast ``other`` runs as ``config``: both ends of the interval."""
        key = f"relative speed:{config.fingerprint}:{other.fingerprint}"
        low, high = self._kept(key, lambda: self._relative_speed(config, other))
        return float(low), float(high)

    def hessian_sensitivity(self) -> Mapping[str, float] | None:
        """None: no adapter differentiates its models so far."""
        return None

    def _kept(self, name: str, measure: Callable[[], Any]) -> Any:
        value = self._history.kept(name)
        if value is None:
            with self._stopwatch("insights"):
                value = measure()
            self._history.keep(name, value)
        return value

    def _sensitivity(self) -> dict[str, float]:
        recipe = self._space.recipe.preferred.quick
        configs = {
            op.name: QuantizationConfig(ops={op.name: op.preferred}, recipe=recipe) for op in self._space.tunable
        }
        return {name: 0.0 if config.is_fp32 else self._error(config) for name, config in configs.items()}

    def _error(self, config: QuantizationConfig) -> float:
        try:
            outputs = self._outputs(self._adapter.apply(self._model, config, self._statistics))
        except TrialError:
            return float("inf")
        return noise_to_signal(self._expected, outputs)

    def _op_latency(self) -> dict[str, dict[str, float]]:
        if not isinstance(self._adapter, CostModel):
            return {}
        preferred = self._space.preferred
        before, after = self._profile([preferred])
        found = {
            op.name: {str(Precision.FP32): before[op.name], str(preferred[op.name].precision): after[op.name]}
            for op in self._space.tunable
            if op.name in before and op.name in after and preferred[op.name].precision is not Precision.FP32
        }
        further = self._further_precisions(before, found)
        fp32, *profiles = self._profile([preferred.replace(choices) for choices in further.values()])
        # Seconds of another minute: the machine may have changed its pace, and the fp32 model tells by how much.
        pace = sum(before.values()) / sum(fp32.values()) if fp32 and any(fp32.values()) else 1.0
        for (precision, choices), seconds in zip(further.items(), profiles, strict=True):
            for op in choices:
                if op in seconds:
                    found[op][str(precision)] = seconds[op] * pace
        return found

    def _further_precisions(
        self, seconds: Mapping[str, float], known: Mapping[str, Mapping[str, float]]
    ) -> dict[Precision, dict[str, OpConfig]]:
        """Precisions that are worth a profile, and the choices of the ops that offer them beside the preferred one."""
        offered: dict[Precision, dict[str, OpConfig]] = {}
        for op in self._space.tunable:
            for within in op.precisions:
                if op.name in known and within.precision not in (Precision.FP32, op.preferred.precision):
                    offered.setdefault(within.precision, {})[op.name] = within.preferred
        worth = _WORTH_A_PROFILE * sum(seconds.values())
        return {
            precision: choices for precision, choices in offered.items() if sum(seconds[op] for op in choices) >= worth
        }

    def _profile(self, configs: Sequence[QuantizationConfig]) -> list[Mapping[str, float]]:
        """Seconds by op of the fp32 model, then of each config; empty for a config that cannot be run."""
        assert isinstance(self._adapter, CostModel)
        models: list[ModelT | None] = []
        for config in configs:
            try:
                # Recipes change values, not kernels.
                quick = dataclasses.replace(config, recipe=config.recipe.quick)
                models.append(self._adapter.apply(self._model, quick, self._statistics))
            except TrialError:
                models.append(None)
        made = [model for model in models if model is not None]
        if not made:
            return [{} for _ in (None, *configs)]
        try:
            fp32, *profiles = self._adapter.op_seconds([self._model, *made], self._latency_feeds, self._execution)
        except TrialError:
            return [{} for _ in (None, *configs)]
        left = iter(profiles)
        return [fp32, *({} if model is None else next(left) for model in models)]

    def _relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> list[float]:
        try:
            first, second = self._executed(config), self._executed(other)
            compared = compare_latency(
                lambda: first(self._latency_feeds), lambda: second(self._latency_feeds), _COMPARISON
            )
        except TrialError:
            return [0.0, 0.0]
        return [compared.interval.low, compared.interval.high]

    def _executed(self, config: QuantizationConfig) -> Runner:
        """What runs as the config's model does, whatever it computes; the last ones are kept for what comes next."""
        if config.fingerprint not in self._runners:
            recipe = config.recipe
            quick = dataclasses.replace(recipe.quick, format=recipe.format, optimization=recipe.optimization)
            model = self._adapter.apply(self._model, dataclasses.replace(config, recipe=quick), self._statistics)
            if len(self._runners) >= _KEPT_RUNNERS:
                self._runners.popitem()
            self._runners[config.fingerprint] = self._adapter.runner(model, self._execution)
        return self._runners[config.fingerprint]

    def _crossing_latency(self) -> dict[str, float]:
        if not isinstance(self._adapter, CostModel):
            return {}
        return dict(self._adapter.conversion_seconds(self._model, self._statistics, self._execution))

    @cached_property
    def _expected(self) -> list[tuple[Array, ...]]:
        return self._outputs(self._model)

    def _outputs(self, model: ModelT) -> list[tuple[Array, ...]]:
        run = self._adapter.runner(model, self._execution)
        return [run(feeds) for feeds in self._feeds]


def noise_to_signal(expected: Sequence[Sequence[Array]], actual: Sequence[Sequence[Array]]) -> float:
    """Squared error over squared expectation, the mean over outputs; outputs that are no floats do not count.

    Args:
        expected: By batch, by output.
        actual: The same.
    """
    ratios = []
    for index, first in enumerate(expected[0]):
        if first.dtype.kind != "f":
            continue
        want = np.concatenate([batch[index].ravel() for batch in expected]).astype(np.float64)
        have = np.concatenate([batch[index].ravel() for batch in actual]).astype(np.float64)
        finite = np.isfinite(want)  # fp32 itself may write infinities into a mask
        want, have = want[finite], have[finite]
        energy = float(np.dot(want, want))
        error = float(np.dot(have - want, have - want))
        ratios.append(error / energy if energy > 0 else float(error > 0))
    return float(np.mean(ratios)) if ratios else 0.0
