"""Measurements of the ops before anything is evaluated."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from optuna.samplers import RandomSampler

from autotune.adapter import Execution, Feeds, TensorSpec
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.errors import ApplyError, TrialError
from autotune.evaluation import LatencyOptions
from autotune.space import TuningSpace
from autotune.strategy import Objective
from autotune.trial import Measurement, Trial, TrialState
from autotune.tuning.history import History
from autotune.tuning.insights import MEASURED_ALONE, MeasuredInsights
from autotune.tuning.stopwatch import Stopwatch
from tests.numpy_adapter import NumpyAdapter
from tests.numpy_framework import Layer, NumpyModel

WIDTH = 256
ROW = {"data": np.random.default_rng(0).normal(size=(1, WIDTH)).astype(np.float32)}
EVERY = {
    Precision.FP32,
    Precision.INT8,
    Precision.INT8_DYNAMIC,
    Precision.INT8_WEIGHT,
}


def perceptron() -> NumpyModel:
    """Four dense layers with a relu each."""
    rng = np.random.default_rng(1)
    layers: list[Layer] = []
    for i in range(4):
        weight = rng.normal(0, 0.1, (WIDTH, WIDTH)).astype(np.float32)
        reads = ("data" if i == 0 else f"relu_{i - 1}",)
        bias = np.zeros(WIDTH, np.float32)
        layers.append(Layer(name=f"dense_{i}", kind="dense", reads=reads, weight=weight, bias=bias))
        layers.append(Layer(name=f"relu_{i}", kind="relu", reads=(f"dense_{i}",)))
    spec = TensorSpec(name="data", dtype=np.dtype(np.float32), shape=("batch", WIDTH))
    return NumpyModel(layers=tuple(layers), inputs=(spec,), outputs=(dataclasses.replace(spec, name="out"),))


class Profiled(NumpyAdapter):
    """Gives figures of ours for a profile: in fp32 one op takes 0.95 of the time, quantized half as much.

    Each profile is taken at a slower pace than the one before.
    """

    def __init__(self, *, refuses: bool = False) -> None:
        self.calls: list[int] = []
        self._refuses = refuses

    def op_seconds(self, models: Sequence[Any], feeds: Feeds, execution: Execution) -> Sequence[Mapping[str, float]]:  # noqa: ARG002
        """0.95 in dense_0, the rest in the others; at the n-th call everything takes n times as long."""
        self.calls.append(len(models))
        if self._refuses:
            raise ApplyError("refused")
        pace = float(len(self.calls))
        fp32 = {"dense_0": 0.95 * pace, "dense_1": 0.02 * pace, "dense_2": 0.02 * pace, "dense_3": 0.01 * pace}
        return [fp32, *({op: value / 2 for op, value in fp32.items()} for _ in models[1:])]


def insights_of(
    adapter: NumpyAdapter, keep: set[str] | None = None, *, history: History | None = None, **options: Any
) -> MeasuredInsights[Any]:
    """Insights on the perceptron; ``keep``: ops that offer more than one quantized precision."""
    model = adapter.load(perceptron())
    space = adapter.space(model)
    if keep is not None:
        ops = tuple(
            op if op.name in keep else type(op)(name=op.name, op_type=op.op_type, precisions=op.precisions[:1])
            for op in space.ops
        )
        space = type(space)(ops=ops, recipe=space.recipe)
    return MeasuredInsights(
        adapter=adapter,
        model=model,
        space=space,
        statistics=adapter.calibrate(model, [ROW], seed=0),
        feeds=[ROW],
        latency_feeds=ROW,
        execution=Execution(),
        history=History(None, {}) if history is None else history,
        stopwatch=Stopwatch(),
        **options,
    )


def test_every_precision_that_ops_offer_is_profiled() -> None:
    latency = insights_of(NumpyAdapter()).op_latency()
    assert set(latency) == {"dense_0", "dense_1", "dense_2", "dense_3"}
    assert all(set(by) == EVERY for by in latency.values())
    assert all(seconds > 0 for by in latency.values() for seconds in by.values())


def test_seconds_of_a_later_profile_are_brought_to_the_pace_of_the_first() -> None:
    adapter = Profiled()
    latency = insights_of(adapter).op_latency()
    assert adapter.calls == [2, 2, 2, 3, 3, 3]
    # The median of the first three paces is 2.
    assert latency["dense_0"][Precision.INT8_WEIGHT] == pytest.approx(0.95)


def test_a_precision_of_ops_that_take_no_time_is_not_profiled() -> None:
    adapter = Profiled()
    latency = insights_of(adapter, keep={"dense_1", "dense_2"}).op_latency()
    assert adapter.calls == [2, 2, 2]
    assert set(latency["dense_1"]) < EVERY


def test_without_a_profile_there_is_no_entry() -> None:
    assert insights_of(Profiled(refuses=True)).op_latency() == {}


class Slow(Profiled):
    """An adapter whose every candidate and profile takes a second of a clock of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def apply(self, model: Any, config: QuantizationConfig, statistics: CalibrationStatistics) -> Any:
        self.now += 1.0
        return super().apply(model, config, statistics)

    def op_seconds(self, models: Sequence[Any], feeds: Feeds, execution: Execution) -> Sequence[Mapping[str, float]]:
        self.now += 1.0
        return super().op_seconds(models, feeds, execution)


def after_baseline(duration_s: float) -> History:
    """A history whose fp32 evaluation took so long."""
    history = History(None, {})
    opened = history.open(RandomSampler(0))
    history.start(opened, QuantizationConfig(), "fp32 baseline")
    baseline = Trial(
        number=0,
        config=QuantizationConfig(),
        state=TrialState.COMPLETED,
        measurement=Measurement(loss=0.0, latency_ms=1.0, speedup=1.0),
        duration_s=duration_s,
    )
    history.finish(opened, baseline, Objective.LATENCY, 0.01)
    return history


def add_trial(history: History, config: QuantizationConfig, duration_s: float) -> None:
    """Add a candidate whose evaluation took so long."""
    opened = history.open(RandomSampler(0))
    history.start(opened, config, "")
    trial = Trial(
        number=opened.number,
        config=config,
        state=TrialState.COMPLETED,
        measurement=Measurement(loss=0.1, latency_ms=1.0, speedup=1.0),
        duration_s=duration_s,
    )
    history.finish(opened, trial, Objective.LATENCY, 0.01)


def everything(insights: MeasuredInsights[Any], space: TuningSpace) -> None:
    """Ask for all there is, the most useful first."""
    insights.op_latency()
    insights.output_error(space.preferred)
    insights.sensitivity()
    insights.crossing_latency()
    for op in space.tunable:
        insights.output_error(QuantizationConfig(ops={op.name: op.preferred}))


@pytest.mark.parametrize(
    ("evaluation_s", "timeout_s", "allowed_s"),
    [(6.0, None, 6.0), (6.0, 20.0, 4.0), (100.0, 30.0, 6.0), (0.1, None, 2.0), (0.1, 5.0, 1.0), (1e6, None, 1e6)],
)
def test_insights_cost_at_most_an_evaluation_and_a_fifth_of_the_time_given(
    evaluation_s: float, timeout_s: float | None, allowed_s: float
) -> None:
    adapter = Slow()
    history = after_baseline(evaluation_s)
    insights = insights_of(adapter, history=history, timeout_s=timeout_s, clock=adapter.clock)
    everything(insights, adapter.space(adapter.load(perceptron())))
    # A quarter more is for a look at whole configs. A step that has begun is brought to its end: a candidate and its
    # profile.
    assert adapter.now <= min(1.25 * allowed_s, 0.2 * (timeout_s or math.inf)) + 2.0
    assert set(insights.sensitivity()) == {"dense_0", "dense_1", "dense_2", "dense_3"}


def test_each_evaluation_pays_for_a_look_at_further_configs() -> None:
    adapter = Slow()
    history = after_baseline(2.0)
    insights = insights_of(adapter, history=history, clock=adapter.clock)
    space = adapter.space(adapter.load(perceptron()))
    everything(insights, space)
    spent = adapter.now
    first, second, third, fourth = (op.name for op in space.tunable)
    later, another, tried = (
        QuantizationConfig(ops={op: space.preferred[op] for op in ops})
        for ops in ((first, third), (second, third), (second, fourth))
    )
    assert math.isnan(insights.output_error(later))
    add_trial(history, tried, duration_s=10.0)
    assert math.isfinite(insights.output_error(another))
    # A figure that was not known once stays unknown: a resumed run decides alike.
    assert math.isnan(insights.output_error(later))
    assert adapter.now <= spent + 0.2 * 10.0 + 1.0


def test_single_ops_leave_time_for_a_look_at_whole_configs() -> None:
    adapter = Slow()
    insights = insights_of(adapter, history=after_baseline(10.0), clock=adapter.clock)
    insights.sensitivity()
    assert adapter.now <= 0.6 * 10.0 + 1.0
    space = adapter.space(adapter.load(perceptron()))
    assert math.isfinite(insights.output_error(space.preferred))


def test_nothing_is_begun_after_the_deadline() -> None:
    adapter = Slow()
    insights = insights_of(adapter, history=after_baseline(100.0), deadline=0.0, clock=adapter.clock)
    everything(insights, adapter.space(adapter.load(perceptron())))
    assert adapter.now == 0.0
    assert insights.op_latency() == {}
    assert sum(insights.sensitivity().values()) == pytest.approx(1.0)


def test_ops_that_were_measured_are_told_from_those_with_a_share_of_a_guess() -> None:
    adapter = Slow()
    unhurried, none_left = after_baseline(100.0), after_baseline(100.0)
    measured = insights_of(adapter, history=unhurried, clock=adapter.clock).sensitivity()
    assert unhurried.kept(MEASURED_ALONE) == list(measured)
    insights_of(adapter, history=none_left, deadline=0.0, clock=adapter.clock).sensitivity()
    assert none_left.kept(MEASURED_ALONE) == []


def test_what_there_was_no_time_for_stays_unknown_when_the_run_goes_on_later() -> None:
    adapter = Slow()
    history = after_baseline(2.0)
    insights = insights_of(adapter, history=history, clock=adapter.clock)
    config = adapter.space(adapter.load(perceptron())).preferred
    first, *others = config.ops
    everything(insights, adapter.space(adapter.load(perceptron())))
    late = QuantizationConfig(ops={op: config[op] for op in others})
    assert math.isnan(insights.output_error(late))
    resumed = insights_of(adapter, history=history, clock=adapter.clock)
    # A resumed run must decide as the uninterrupted one did.
    assert math.isnan(resumed.output_error(late))
    assert not math.isnan(resumed.output_error(QuantizationConfig(ops={op: config[op] for op in (first, others[0])})))


def test_profiles_are_repeated_and_say_how_sure_they_are() -> None:
    class Uneven(Profiled):
        def op_seconds(
            self, models: Sequence[Any], feeds: Feeds, execution: Execution
        ) -> Sequence[Mapping[str, float]]:
            fp32, *others = super().op_seconds(models, feeds, execution)
            # One op of the candidates takes another time in each session.
            return [fp32, *({**each, "dense_1": 0.01 * len(self.calls) ** 2} for each in others)]

    insights = insights_of(Uneven(), keep=set())
    steady, uneven = (insights.op_latency_noise()[op] for op in ("dense_0", "dense_1"))
    (quantized,) = set(steady) - {Precision.FP32}
    assert steady[quantized] == pytest.approx(0.0, abs=1e-12)
    assert uneven[Precision.FP32] == pytest.approx(0.0, abs=1e-12)
    assert uneven[quantized] > 1e-3


def test_profiles_in_workspaces_of_before_hold_no_noise() -> None:
    history = History(None, {})
    history.keep("op_latency", {"dense_0": {"fp32": 2e-3, "int8": 1e-3}})
    insights = insights_of(Profiled(), history=history)
    assert insights.op_latency() == {"dense_0": {Precision.FP32: 2e-3, Precision.INT8: 1e-3}}
    assert insights.op_latency_noise() == {"dense_0": {}}


@pytest.mark.parametrize(("evaluation_s", "most_s"), [(1.0, 0.3), (12.0, 0.6), (1000.0, 1.0)])
def test_a_comparison_of_options_costs_a_twentieth_of_an_evaluation(
    evaluation_s: float, most_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float | None] = []

    def compared(_first: object, _second: object, options: LatencyOptions) -> Any:
        asked.append(options.max_seconds)
        raise TrialError("enough is known")

    monkeypatch.setattr("autotune.tuning.insights.compare_latency", compared)
    insights = insights_of(Profiled(), history=after_baseline(evaluation_s))
    assert insights.relative_speed(QuantizationConfig(), QuantizationConfig()) == (0.0, 0.0)
    assert asked == [pytest.approx(most_s)]


class WithoutGradients(NumpyAdapter):
    weights = None  # type: ignore[assignment]  # a protocol whose method is None is not there


class Differentiated(NumpyAdapter):
    """Says what is easy to check: each weight is 1, in a candidate 2, and every product is the number of its op."""

    def __init__(self) -> None:
        self.loaded: Any = None
        self.probes = 0

    def weights(self, model: Any) -> Mapping[str, Any]:
        return {f"dense_{index}": np.full(4, 1.0 if model is self.loaded else 2.0) for index in range(4)}

    def hessian_probe(self, model: Any, feeds: Feeds, *, seed: int) -> Mapping[str, float]:  # noqa: ARG002
        self.probes += 1
        return {f"dense_{index}": float(index) for index in range(4)}

    def load(self, source: object, example: Any = None) -> Any:
        self.loaded = super().load(source, example)
        return self.loaded


def test_second_order_sensitivity_is_asked_of_an_adapter_that_differentiates_and_kept() -> None:
    assert insights_of(WithoutGradients()).hessian_sensitivity() is None
    adapter = Differentiated()
    insights = insights_of(adapter)
    # Four weights are off by one each, and the mean of the diagonal is a quarter of the product.
    assert insights.hessian_sensitivity() == {f"dense_{index}": float(index) for index in range(4)}
    probes = adapter.probes
    assert insights.hessian_sensitivity() is not None
    assert adapter.probes == probes == 4


def test_second_order_sensitivity_is_empty_where_the_preferred_config_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = Differentiated()
    insights = insights_of(adapter)

    def refuse(*_: Any) -> Any:
        raise ApplyError("refused")

    monkeypatch.setattr(adapter, "apply", refuse)
    assert insights.hessian_sensitivity() == {}
    assert adapter.probes == 0
