"""How the evaluator uses latency, with models that say what they take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array, Execution, Feeds, Runner, TensorSpec
from autotune.criterion import Criterion, Interval
from autotune.errors import OutputError
from autotune.evaluation import Evaluation, Evaluator, LatencyOptions, UserFunction
from autotune.evaluation.latency import Call, Reading
from autotune.trial import Measurement, TrialState
from tests.evaluation.latency.scripted import ScriptedClock

INPUTS = (TensorSpec(name="x", dtype=np.dtype(np.float32), shape=(1, 2)),)
SHAPES = {"logits": (1, 3), "mask": (1, 2)}


@dataclass(frozen=True, kw_only=True)
class Scripted:
    """A model that says what a call takes and what it computes."""

    milliseconds: float
    logits: tuple[float, ...] = (1.0, 2.0, 3.0)
    mask: tuple[float, ...] = (0.0, 0.0)
    size_bytes: int = 1000
    inputs: tuple[TensorSpec, ...] = INPUTS
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return repr(self)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name=n, dtype=np.dtype(np.float32), shape=s) for n, s in SHAPES.items())


@dataclass
class ScriptedAdapter:
    """Opens sessions that differ by ``spread`` and whose calls differ by ``noise``."""

    clock: ScriptedClock
    spread: float = 0.0
    noise: float = 0.01
    opened: list[Scripted] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._generator = np.random.default_rng(0)

    def runner(self, model: Scripted, execution: Execution) -> Runner:  # noqa: ARG002  # as the contract has it
        self.opened.append(model)
        own = model.milliseconds * math.exp(self.spread * self._generator.standard_normal())
        outputs = (np.array([model.logits], np.float32), np.array([model.mask], np.float32))

        def run(feeds: Feeds) -> tuple[Array, ...]:  # noqa: ARG001
            self.clock.taken_ms = own * math.exp(self.noise * abs(self._generator.standard_normal()))
            return outputs

        return run


FP32 = Scripted(milliseconds=2.0)
FEEDS = {"x": np.zeros((1, 2), np.float32)}


def make(
    fp32: Scripted = FP32,
    *,
    evaluated: Callable[[], None] = lambda: None,
    evaluation_s: float = 30.0,
    latency: LatencyOptions | None = None,
    score: float = 0.9,
    **adapter: Any,
) -> tuple[Evaluator[Any], ScriptedAdapter]:
    clock = ScriptedClock()
    scripted = ScriptedAdapter(clock, **adapter)

    def eval_fn(model: Callable[[object], object]) -> float:
        model(FEEDS)
        evaluated()
        clock.now += evaluation_s
        return score

    evaluator: Evaluator[Any] = Evaluator(
        adapter=scripted,  # type: ignore[arg-type]  # as much of an adapter as is used
        model=fp32,
        source=UserFunction(function=eval_fn),
        criterion=Criterion(),
        latency=latency or LatencyOptions(),
        feeds=FEEDS,
        seed=0,
        clock=clock,
    )
    return evaluator, scripted


def incumbent(speedup: float, low: float, high: float, **changes: Any) -> Measurement:
    return Measurement(speedup=speedup, speedup_interval=Interval(low=low, high=high), latency_decided=True, **changes)


def evaluate(best: Measurement, milliseconds: float = 1.0) -> Evaluation:
    evaluator, _ = make()
    evaluator.baseline()
    return evaluator.evaluate(Scripted(milliseconds=milliseconds), incumbent=best)


def test_latency_and_speedup_of_one_measurement_come_from_the_same_calls() -> None:
    evaluator, _ = make()
    baseline = evaluator.baseline()
    assert baseline.speedup == 1.0
    assert baseline.latency_ms == baseline.baseline_ms
    assert baseline.speedup_interval == Interval(low=1.0, high=1.0)
    found = evaluator.evaluate(Scripted(milliseconds=1.0)).measurement
    assert found.baseline_ms is not None
    assert found.latency_ms is not None
    assert found.baseline_ms / found.latency_ms == pytest.approx(found.speedup, rel=1e-12)
    assert found.speedup == pytest.approx(2.0, rel=0.02)
    assert (found.latency_cache, found.latency_sessions, found.latency_decided) == ("warm", 3, True)


@pytest.mark.parametrize(("evaluation_s", "most_s"), [(1.0, 2.0), (12.0, 3.0), (1000.0, 10.0)])
def test_a_comparison_costs_a_part_of_what_an_evaluation_does(evaluation_s: float, most_s: float) -> None:
    """Calls so noisy that time alone ends a comparison, which took ten seconds to spare an evaluation of one."""
    latency = LatencyOptions(interval_width=0.001, max_pairs=10_000)
    model = Scripted(milliseconds=20.0)
    evaluator, scripted = make(model, evaluation_s=evaluation_s, latency=latency, noise=0.5)
    evaluator.baseline()
    before = scripted.clock.now
    evaluator.evaluate(model)
    assert 0.5 * most_s < scripted.clock.now - before - evaluation_s < 1.2 * most_s
    before = scripted.clock.now
    evaluator.race([model])
    assert scripted.clock.now - before > 9.0  # the race says what the answer's speed is, and has its time


def test_a_comparison_without_a_limit_stays_without_one() -> None:
    assert LatencyOptions(max_seconds=None).priced(1.0).max_seconds is None


def test_a_measurement_survives_json_and_old_ones_are_read() -> None:
    evaluator, _ = make()
    found = evaluator.baseline()
    assert Measurement.from_json(found.to_json()) == found
    old = {k: v for k, v in found.to_json().items() if k not in ("baseline_ms", "latency_cache", "latency_sessions")}
    read = Measurement.from_json(old)
    assert (read.latency_ms, read.baseline_ms, read.latency_cache) == (found.latency_ms, None, None)


def test_a_candidate_under_the_incumbents_interval_is_pruned() -> None:
    """2.0x lies below 2.2x, of which 2.15 is certain."""
    found = evaluate(incumbent(2.2, 2.15, 2.25))
    assert found.state is TrialState.PRUNED
    assert found.reason is not None
    assert "slower than the best" in found.reason


@pytest.mark.parametrize(("worth_from", "evaluated"), [(None, True), (1.5, True), (2.5, False)])
def test_a_candidate_that_is_not_fast_enough_to_be_worth_it_is_pruned(worth_from: float, evaluated: bool) -> None:
    """It is proven about 2.0x as fast as fp32."""
    evaluator, _ = make()
    evaluator.baseline()
    model = Scripted(milliseconds=1.0)
    found = evaluator.evaluate(model, worth_from=worth_from)
    assert (found.measurement.loss is not None) == evaluated
    assert found.state is (TrialState.COMPLETED if evaluated else TrialState.PRUNED)
    if not evaluated:
        assert found.reason is not None
        assert "not proven more than 2.50x as fast as fp32: 2.0" in found.reason
    asked = evaluator.evaluate(model, worth_from=worth_from, needs_accuracy=True)
    assert asked.measurement.loss is not None


def test_a_candidate_under_the_incumbents_figure_alone_is_not() -> None:
    """2.0x lies below the 2.2x that was measured, but the incumbent may as well be at 1.95x."""
    assert evaluate(incumbent(2.2, 1.95, 2.45)).state is TrialState.COMPLETED


def test_a_candidate_that_is_known_too_little_is_not_pruned_by_its_figure() -> None:
    """Sessions that differ by 5 % leave the candidate's own speedup open."""
    evaluator, _ = make(spread=0.05)
    evaluator.baseline()
    candidate = Scripted(milliseconds=1.0)
    measured = evaluator.evaluate(candidate).measurement
    assert measured.latency_decided is False
    assert measured.speedup is not None
    above = measured.speedup * 1.01
    found = evaluator.evaluate(candidate, incumbent=incumbent(above + 0.02, above, above + 0.04))
    assert found.state is TrialState.COMPLETED


def test_an_undecided_incumbent_prunes_nobody() -> None:
    best = incumbent(46.77, 40.0, 51.08)
    assert evaluate(best).state is TrialState.PRUNED
    assert evaluate(dataclasses.replace(best, latency_decided=False)).state is TrialState.COMPLETED
    assert evaluate(dataclasses.replace(best, speedup_interval=None)).state is TrialState.COMPLETED


def test_ten_equals_are_not_pruned() -> None:
    """The best so far is the luckiest of all before: by its point, equals fall to it."""
    for spread in (0.0, 0.02):
        evaluator, _ = make(spread=spread)
        best = evaluator.baseline()
        for _ in range(10):
            found = evaluator.evaluate(Scripted(milliseconds=1.0), incumbent=best)
            assert found.state is TrialState.COMPLETED
            assert found.measurement.speedup is not None
            assert best.speedup is not None
            if found.measurement.speedup > best.speedup and found.measurement.latency_decided:
                best = found.measurement


def test_what_keeps_the_target_is_timed_again_after_its_accuracy() -> None:
    """The machine is slower at that time, which no pair of calls beforehand could tell: a part of them comes later."""
    calls: list[int] = []
    evaluator, adapter = make(evaluated=lambda: calls.append(len(ticks)))
    ticks: list[float] = []
    original = adapter.clock.time

    def counted(call: Call) -> Reading:
        ticks.append(adapter.clock.now)
        return original(call)

    adapter.clock.time = counted  # type: ignore[method-assign]
    best = evaluator.baseline()
    evaluator.evaluate(Scripted(milliseconds=1.0), incumbent=best)
    assert len(ticks) > calls[-1] + 30
    again = len(ticks)
    evaluator.evaluate(Scripted(milliseconds=1.0), incumbent=None)  # speed is not the objective
    assert len(ticks) == calls[-1] > again


def test_a_candidate_that_misses_is_not_timed_again() -> None:
    scores = iter([0.9, 0.5])
    clock = ScriptedClock()
    ticks: list[float] = []

    def eval_fn(model: Callable[[object], object]) -> float:  # noqa: ARG001
        clock.now += 30.0
        ticks.append(clock.now)
        return next(scores)

    evaluator: Evaluator[Any] = Evaluator(
        adapter=ScriptedAdapter(clock),  # type: ignore[arg-type]
        model=FP32,
        source=UserFunction(function=eval_fn),
        criterion=Criterion(),
        latency=LatencyOptions(),
        feeds=FEEDS,
        seed=0,
        clock=clock,
    )
    evaluator.evaluate(Scripted(milliseconds=1.0), incumbent=evaluator.baseline())
    assert clock.now == ticks[-1]


def test_fp32_is_opened_once_for_all_comparisons_and_finalists_twice_or_more() -> None:
    evaluator, adapter = make()
    evaluator.baseline()
    opened = adapter.opened.count(FP32)
    candidates = [Scripted(milliseconds=1.0), Scripted(milliseconds=1.2)]
    for candidate in candidates:
        evaluator.evaluate(candidate)
        assert adapter.opened.count(candidate) == 3
    result = evaluator.race(candidates)
    assert result.order == (0, 1)
    assert result.sessions >= 2
    assert adapter.opened.count(FP32) == opened <= 4


def test_models_that_are_dear_to_run_have_fewer_sessions_but_two_in_a_race() -> None:
    evaluator, adapter = make(Scripted(milliseconds=2000.0))
    evaluator.baseline()
    slow = Scripted(milliseconds=1000.0)
    evaluator.evaluate(slow)
    assert adapter.opened.count(slow) == 1
    assert evaluator.race([slow]).sessions == 2


def test_infinities_are_allowed_where_fp32_has_them_and_nowhere_else() -> None:
    """An attention mask is full of them."""
    masked = dataclasses.replace(FP32, mask=(0.0, -math.inf))
    evaluator, _ = make(masked)
    evaluator.baseline()
    assert evaluator.evaluate(dataclasses.replace(masked, milliseconds=1.0)).state is TrialState.COMPLETED
    with pytest.raises(OutputError, match="'logits' must be finite"):
        evaluator.evaluate(dataclasses.replace(masked, logits=(1.0, math.inf, 0.0)))
    plain, _ = make()
    plain.baseline()
    with pytest.raises(OutputError, match="'mask' must be finite"):
        plain.evaluate(masked)


@dataclass(frozen=True, kw_only=True)
class Misdeclared(Scripted):
    """Its file says of both outputs that they have one dimension, and they have two."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(dataclasses.replace(spec, shape=(1,)) for spec in super().outputs)


def test_outputs_are_held_against_those_of_fp32_and_not_against_what_its_file_says() -> None:
    evaluator, _ = make(Misdeclared(milliseconds=2.0))
    assert evaluator.baseline().accuracy == 0.9
    assert evaluator.evaluate(Misdeclared(milliseconds=1.0)).measurement.accuracy == 0.9
