"""Cheap per-op measurements: sensitivity, latency, output error."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Generic

from autotune.adapter import (
    Adapter,
    Array,
    CostModel,
    Differentiable,
    Execution,
    Feeds,
    Gradients,
    LocalErrors,
    ModelT,
    Runner,
    Statistics,
    quick_runner,
)
from autotune.config import OpConfig, Precision, QuantizationConfig, Recipe
from autotune.errors import TrialError
from autotune.evaluation.latency import LatencyOptions, compare_latency
from autotune.space import TuningSpace
from autotune.tuning.gradients import source_sensitivity
from autotune.tuning.hessian import HessianSensitivity
from autotune.tuning.history import History
from autotune.tuning.output_error import output_error
from autotune.tuning.profiles import summary
from autotune.tuning.sensitivity import sensitivities
from autotune.tuning.side import SideHistory
from autotune.tuning.stopwatch import Stopwatch

_WORTH_A_PROFILE = 0.1
"""Share of the fp32 model's time that the ops of a further precision must take for it to be profiled."""

_ROUNDS = 3
"""Profiles of the same models, each in sessions of its own, which differ by more than their own noise."""

_SHORT_S = 0.2
_FEW_BATCHES = 2
"""Output errors are taken on what the fp32 model runs in this time: more would leave less time for other ops."""

_SHARE_OF_TIMEOUT = 0.2
_LEAST_ALLOWANCE_S = 2.0
"""Time for insights where an evaluation takes less: a profile of a small model takes about as long."""
_SHARE_OF_PROFILE = 0.3
"""Share of the time for insights beyond which profiles are not repeated."""
_SHARE_OF_SENSITIVITY = 0.3
_SHARE_OF_CHECKS = 0.4
"""Shares of the time for insights: the least for single ops, and the rest that they leave to whole configs."""
_SHARE_OF_FIRST_CHECKS = 0.25
_SHARE_OF_TRIALS = 0.2
"""Time that output errors of whole configs may take beyond all else, as shares of the time for insights and of each
evaluation: a look at eight samples tells which config deserves the whole data, and costs less than an evaluation."""

_COMPARISON = LatencyOptions(warmup=5, min_pairs=20, max_pairs=60, max_seconds=1.0)
_LEAST_COMPARISON_S = 0.3
_SHARE_OF_COMPARISON = 0.05
"""Bounds of the time for comparing execution options: a least number of seconds, and a share of fp32's evaluation."""

MEASURED_ALONE = "sensitivity measured"
"""Name under which the history keeps the ops whose sensitivity is a figure of their own, and no share of a group's."""

_KEPT_RUNNERS = 2  # one side of a comparison is the best config, again and again


class MeasuredInsights(Generic[ModelT]):
    """Insights that are measured when first asked for, and kept in the history from then on.

    All of them together cost at most what one evaluation of the fp32 model does (2 s where that is less), and output
    errors of whole configs a quarter of that and a fifth of later evaluations more; in all no more than a fifth of the
    time given to the run. They are measured in the order in which they are asked for; what there is no time for is
    empty, shared among the ops, or not a number, as each method says, and that is kept as well.

    Args:
        adapter: Makes and runs the candidates.
        model: The fp32 model.
        space: Space of the model's ops.
        statistics: Statistics of the model's calibration.
        feeds: A few calibration batches, the same for every op.
        latency_feeds: A batch for profiles.
        execution: How candidates run.
        history: History that keeps the figures.
        stopwatch: Counts the time that they cost.
        timeout_s: The time given to the run in seconds.
        deadline: Latest end of the run, a value of ``clock``.
        clock: Seconds since some moment.
        gradients: Gives derivatives of the user's own object, where the adapter does not differentiate its models.
    """

    def __init__(
        self,
        *,
        adapter: Adapter[ModelT],
        model: ModelT,
        space: TuningSpace,
        statistics: Statistics,
        feeds: Sequence[Feeds],
        latency_feeds: Feeds,
        execution: Execution,
        history: History | SideHistory,
        stopwatch: Stopwatch,
        timeout_s: float | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        gradients: Callable[[], Gradients | None] | None = None,
    ) -> None:
        self._gradients = gradients
        self.adapter = adapter
        self._model = model
        self._space = space
        self._statistics = statistics
        self._feeds = feeds
        self._latency_feeds = latency_feeds
        self._execution = execution
        self._history = history
        self._stopwatch = stopwatch
        self._timeout_s = timeout_s
        self._deadline = deadline
        self._clock = clock
        self._spent_s = 0.0
        self._runners: dict[str, Runner] = {}

    def end_within(self, seconds: float) -> None:
        """Let all that is measured from now on end within so many seconds."""
        at = self._clock() + seconds
        self._deadline = at if self._deadline is None else min(at, self._deadline)

    def sensitivity(self) -> Mapping[str, float]:
        """By op: squared error over squared spread of the outputs, when this op alone takes its preferred choice.

        It is 0 where that is fp32. A candidate and a few inferences per op where there is time for as many, else per
        group of ops, see :mod:`autotune.tuning.sensitivity`. Recipes that take seconds are left out. An op whose
        candidate fails counts as infinitely sensitive.
        """
        return dict(self._kept("sensitivity", self._sensitivity))

    def output_error(self, config: QuantizationConfig) -> float:
        """The same ratio for any config; infinite for one that fails, not a number where there was no time for it."""
        return float(self._kept(f"error:{config.fingerprint}", lambda: self._error_in_time(config)))

    def op_latency(self) -> Mapping[str, Mapping[Precision, float]]:
        """By op and precision: seconds of one call, from profiles of models that compute alike wherever they can.

        The fp32 model, the preferred one, and one for each further precision whose ops take a tenth of the fp32 time.
        """
        return {op: {p: value for p, (value, _) in by.items()} for op, by in self._latency().items()}

    def op_latency_noise(self) -> Mapping[str, Mapping[Precision, float]]:
        """By op and precision: standard error of that time in seconds; no entry where it was measured only once."""
        return {
            op: {p: noise for p, (_, noise) in by.items() if math.isfinite(noise)} for op, by in self._latency().items()
        }

    def _latency(self) -> dict[str, dict[Precision, tuple[float, float]]]:
        stored = self._kept("op_latency", self._op_latency)
        # Workspaces of before hold the seconds alone.
        return {
            op: {
                Precision(name): (float(value), math.inf) if isinstance(value, (int, float)) else (value[0], value[1])
                for name, value in by.items()
            }
            for op, by in stored.items()
        }

    def crossing_latency(self) -> Mapping[str, float]:
        """By op: seconds of converting its output between fp32 and int8 once."""
        return dict(self._kept("crossing_latency", self._crossing_latency))

    def neighbours(self) -> Mapping[str, Sequence[str]]:
        """By op: the ops that read its output."""
        return self.adapter.neighbours(self._model) if isinstance(self.adapter, CostModel) else {}

    def relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> tuple[float, float]:
        """How many times as fast ``other`` runs as ``config``: both ends of the interval."""
        key = f"relative speed:{config.fingerprint}:{other.fingerprint}"
        low, high = self._kept(key, lambda: self._relative_speed(config, other))
        return float(low), float(high)

    def hessian_sensitivity(self, *, labelled: bool = False) -> Mapping[str, float] | None:
        """By op: mean of the Hessian's diagonal in its weights times the squared error of its preferred choice.

        None where nothing differentiates the model (by labels, only its framework can); empty where nothing applies.
        """
        if isinstance(self.adapter, Differentiable) and not labelled:
            return dict(self._kept("hessian sensitivity", lambda: self._hessian(self.adapter)))
        if (gradients := self._gradients) is None:
            return None
        name = "hessian sensitivity by labels" if labelled else "hessian sensitivity"
        return dict(self._kept(name, lambda: self._hessian_of_source(gradients(), labelled)))

    def _hessian_of_source(self, gradients: Gradients | None, labelled: bool) -> dict[str, float]:
        started = self._clock()
        return source_sensitivity(gradients, self._space, self._feeds, lambda: self._left_s(started) > 0, labelled)

    def _hessian(self, adapter: Any) -> dict[str, float]:
        started = self._clock()
        try:
            config = self._space.quick(self._space.preferred)
            quantized = self.adapter.apply(self._model, config, self._statistics)
        except TrialError:
            return {}
        return HessianSensitivity(adapter, self._model, self._feeds, lambda: self._left_s(started) > 0)(quantized)

    def _kept(self, name: str, measure: Callable[[], Any]) -> Any:
        value = self._history.kept(name)
        if value is None:
            started = self._clock()
            with self._stopwatch("insights"):
                value = measure()
            self._spent_s += self._clock() - started
            self._history.keep(name, value)
        return value

    @cached_property
    def _allowance_s(self) -> float:
        """Time in seconds that insights may take in all before a candidate was evaluated."""
        evaluation = self._evaluation_s
        return self._of_timeout(math.inf if evaluation is None else max(evaluation, _LEAST_ALLOWANCE_S))

    @property
    def _check_allowance_s(self) -> float:
        """Time in seconds that insights may take in all, output errors of whole configs included."""
        later = sum(trial.duration_s or 0.0 for trial in self._history.trials[1:])
        first = _SHARE_OF_FIRST_CHECKS * self._allowance_s
        return self._of_timeout(self._allowance_s + first + _SHARE_OF_TRIALS * later)

    def _of_timeout(self, seconds: float) -> float:
        return seconds if self._timeout_s is None else min(seconds, _SHARE_OF_TIMEOUT * self._timeout_s)

    @property
    def _evaluation_s(self) -> float | None:
        """Time in seconds that evaluating fp32 took; None before that."""
        trials = self._history.trials
        return trials[0].duration_s if trials else None

    def _left_s(self, since: float, allowance_s: float | None = None) -> float:
        """Seconds left to a measurement that began at ``since``."""
        now = self._clock()
        left = (self._allowance_s if allowance_s is None else allowance_s) - self._spent_s - (now - since)
        return left if self._deadline is None else min(left, self._deadline - now)

    def _sensitivity(self) -> dict[str, float]:
        recipe = self._space.recipe.quick(self._space.recipe.preferred)
        preferred = {
            op.name: op.preferred for op in self._space.tunable if op.preferred.precision is not Precision.FP32
        }
        started = self._clock()
        checked_s = (1 - _SHARE_OF_CHECKS) * self._allowance_s
        took: list[float] = []
        alone: list[str] = []

        def error_of(ops: Sequence[str]) -> float:
            before = self._clock()
            error = self._error(QuantizationConfig(ops={op: preferred[op] for op in ops}, recipe=recipe))
            took.append(self._clock() - before)
            alone.extend(ops if len(ops) == 1 else ())
            return error

        def affordable(count: int) -> bool:
            # The first one also runs the fp32 model and is of all ops, so that it is the most expensive.
            share = _SHARE_OF_SENSITIVITY * self._allowance_s - (self._clock() - started)
            left = max(min(share, self._left_s(started)), self._left_s(started, checked_s))
            return left > count * min(took, default=0.0)

        found = sensitivities(list(preferred), error_of, affordable, self._local_errors(preferred, recipe))
        self._history.keep(MEASURED_ALONE, alone)
        return {op.name: 0.0 for op in self._space.tunable} | found

    def _local_errors(self, choices: Mapping[str, OpConfig], recipe: Recipe) -> Mapping[str, float]:
        """How exact ops are by themselves, where the adapter can tell."""
        if not isinstance(self.adapter, LocalErrors):
            return {}
        try:
            return self.adapter.local_errors(
                self._model, QuantizationConfig(ops=choices, recipe=recipe), self._statistics
            )
        except TrialError:
            return {}

    def _error_in_time(self, config: QuantizationConfig) -> float:
        return self._error(config) if self._left_s(self._clock(), self._check_allowance_s) > 0 else math.nan

    def _error(self, config: QuantizationConfig) -> float:
        try:
            outputs = self._outputs(self.adapter.apply(self._model, config, self._statistics))
        except TrialError:
            return math.inf
        return output_error(self._expected, outputs, self._model.outputs)

    def _op_latency(self) -> dict[str, dict[str, tuple[float, float]]]:
        """By op and precision: seconds and their standard error, infinite where it is not known."""
        started = self._clock()
        if not isinstance(self.adapter, CostModel) or self._left_s(started) <= 0:
            return {}
        preferred = self._space.preferred
        rounds = self._profile([preferred], started)
        found = summary(rounds, {op.name: (preferred[op.name].precision,) for op in self._space.tunable})
        before = {op: by[str(Precision.FP32)][0] for op, by in found.items()}
        further = self._further_precisions(before)
        took = self._clock() - started
        if not further or self._left_s(started) <= took / len(rounds):
            return found
        rounds = self._profile([preferred.replace(choices) for choices in further.values()], started)
        precisions = {op: tuple(p if op in choices else None for p, choices in further.items()) for op in before}
        # Seconds of another minute: the machine may have changed its pace, and the fp32 model tells by how much.
        later = summary(rounds, precisions)
        fp32 = sum(by[str(Precision.FP32)][0] for by in later.values())
        pace = sum(before[op] for op in later) / fp32 if fp32 else 1.0
        for op, by in later.items():
            for precision, (seconds, noise) in by.items():
                if precision != Precision.FP32:
                    found[op][precision] = (seconds * pace, noise * pace)
        return found

    def _further_precisions(self, seconds: Mapping[str, float]) -> dict[Precision, dict[str, OpConfig]]:
        """Precisions that are worth a profile, and the choices of the ops that offer them beside the preferred one."""
        offered: dict[Precision, dict[str, OpConfig]] = {}
        for op in self._space.tunable:
            for within in op.precisions:
                if op.name in seconds and within.precision not in (Precision.FP32, op.preferred.precision):
                    offered.setdefault(within.precision, {})[op.name] = within.preferred
        worth = _WORTH_A_PROFILE * sum(seconds.values())
        return {
            precision: choices for precision, choices in offered.items() if sum(seconds[op] for op in choices) >= worth
        }

    def _profile(self, configs: Sequence[QuantizationConfig], started: float) -> list[list[Mapping[str, float]]]:
        """By round: seconds by op of the fp32 model, then of each config; empty for a config that cannot be run."""
        assert isinstance(self.adapter, CostModel)
        models: list[ModelT | None] = []
        for config in configs:
            try:
                # Recipes change values, not kernels.
                models.append(self.adapter.apply(self._model, self._space.quick(config), self._statistics))
            except TrialError:
                models.append(None)
        made = [model for model in models if model is not None]
        rounds: list[list[Mapping[str, float]]] = []
        before = self._clock()
        while made and len(rounds) < _ROUNDS:
            took = (self._clock() - before) / max(len(rounds), 1)
            if rounds and self._left_s(started) - took < (1 - _SHARE_OF_PROFILE) * self._allowance_s < math.inf:
                break
            try:
                fp32, *profiles = self.adapter.op_seconds([self._model, *made], self._latency_feeds, self._execution)
            except TrialError:
                break
            left = iter(profiles)
            rounds.append([fp32, *({} if model is None else next(left) for model in models)])
        return rounds or [[{} for _ in (None, *configs)]]

    def _relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> list[float]:
        try:
            first, second = self._executed(config), self._executed(other)
            share_s = max(_LEAST_COMPARISON_S, _SHARE_OF_COMPARISON * (self._evaluation_s or math.inf))
            options = dataclasses.replace(_COMPARISON, max_seconds=min(_COMPARISON.max_seconds or share_s, share_s))
            compared = compare_latency(lambda: first(self._latency_feeds), lambda: second(self._latency_feeds), options)
        except TrialError:
            return [0.0, 0.0]
        return [compared.interval.low, compared.interval.high]

    def _executed(self, config: QuantizationConfig) -> Runner:
        """A runner as fast as the config's model, whatever values it computes; the last ones are kept."""
        if config.fingerprint not in self._runners:
            executed = dataclasses.replace(config, recipe=self._space.recipe.executed(config.recipe))
            model = self.adapter.apply(self._model, executed, self._statistics)
            if len(self._runners) >= _KEPT_RUNNERS:
                self._runners.popitem()
            self._runners[config.fingerprint] = self.adapter.runner(model, self._execution)
        return self._runners[config.fingerprint]

    def _crossing_latency(self) -> dict[str, float]:
        if not isinstance(self.adapter, CostModel):
            return {}
        return dict(self.adapter.conversion_seconds(self._model, self._statistics, self._execution))

    @cached_property
    def _expected(self) -> list[tuple[Array, ...]]:
        """The fp32 outputs, of as many of the feeds as are run in a short time; the first ones always."""
        run = quick_runner(self.adapter, self._model, self._execution)
        enough = self._history.kept("insight batches") or len(self._feeds)
        found: list[tuple[Array, ...]] = []
        started = self._clock()
        for feeds in self._feeds[:enough]:
            if len(found) >= _FEW_BATCHES and self._clock() - started > _SHORT_S:
                break
            found.append(run(feeds))
        self._history.keep("insight batches", len(found))
        return found

    def _outputs(self, model: ModelT) -> list[tuple[Array, ...]]:
        run = quick_runner(self.adapter, model, self._execution)
        return [run(feeds) for feeds in self._feeds[: len(self._expected)]]
