"""Candidates that have to be compiled: accuracy is judged first, and only what may win is compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from autotune.adapter import Array
from autotune.criterion import Criterion, Interval, Verdict
from autotune.errors import ApplyError, DeadlineReached
from autotune.evaluation import Evaluator, LatencyOptions, UserFunction, evaluator_of
from autotune.evaluation.compiling import CompilingEvaluator
from autotune.evaluation.latency import SystemClock
from autotune.trial import Measurement, TrialState
from tests.compiling_adapter import Compiler, compiling

QUICK = LatencyOptions(warmup=2, min_pairs=10, max_pairs=15, max_seconds=1.0)
COMPILATION_S = 1000.0
FAST = Measurement(speedup=50.0, speedup_interval=Interval(low=49.0, high=51.0, confidence=0.95), latency_decided=True)


class ScriptedClock(SystemClock):
    """The time of this process, and what compilations are said to take."""

    def __init__(self) -> None:
        super().__init__(1)
        self.spent_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.spent_s

    def compile(self) -> None:
        self.spent_s += COMPILATION_S


class Fixture:
    """An evaluator, what it compiles with, and the models that accuracy was evaluated of."""

    def __init__(self, problem: Any, changes: Callable[[Array], Array] = lambda array: array) -> None:
        self.clock = ScriptedClock()
        self.compiler = Compiler(self.clock.compile, changes)
        self.scores: list[float] = []
        self.problem = problem

        def eval_fn(model: Callable[[object], Array]) -> float:
            self.scores.append(float((model(problem.inputs).argmax(1) == problem.labels).mean()))
            return self.scores[-1]

        self.evaluator: Evaluator[Any] = evaluator_of(
            adapter=compiling(self.compiler),
            model=problem.model,
            source=UserFunction(function=eval_fn),
            criterion=Criterion(relative=0.05),
            latency=QUICK,
            feeds={"x": problem.inputs[:1]},
            seed=0,
            clock=self.clock,
        )
        self.evaluator.baseline()


@pytest.fixture
def fixture(problem: Any) -> Fixture:
    return Fixture(problem)


def test_a_failed_compilation_tells_what_it_took(fixture: Fixture) -> None:
    def refuse() -> None:
        fixture.clock.compile()
        raise ApplyError("the compiler refuses it")

    fixture.compiler.spend = refuse
    with pytest.raises(ApplyError) as raised:
        fixture.evaluator.evaluate(fixture.problem.disturbed(0.01))
    assert raised.value.compiled_s == pytest.approx(COMPILATION_S, rel=0.1)


def test_a_candidate_that_misses_the_target_is_not_compiled(fixture: Fixture) -> None:
    candidate = fixture.problem.disturbed(3.0)
    found = fixture.evaluator.evaluate(candidate)
    assert found.state is TrialState.PRUNED
    assert found.measurement.verdict is Verdict.MISSED
    assert found.measurement.speedup is None
    assert found.compiled_s is None
    assert found.reason is not None
    assert "not compiled" in found.reason
    assert fixture.compiler.compiled == [fixture.problem.model.fingerprint]


def test_one_that_keeps_it_is_compiled_and_its_accuracy_evaluated_once(fixture: Fixture) -> None:
    candidate = fixture.problem.disturbed(0.01)
    found = fixture.evaluator.evaluate(candidate)
    assert found.state is TrialState.COMPLETED
    assert found.measurement.verdict is Verdict.MET
    assert found.measurement.speedup is not None
    assert found.measurement.size_bytes == candidate.size_bytes
    assert found.compiled_s == pytest.approx(COMPILATION_S, rel=0.1)
    assert fixture.compiler.compiled[1:] == [candidate.fingerprint]
    assert len(fixture.scores) == 2, "of fp32, and of the candidate's quick form"


def test_what_is_slower_than_the_best_keeps_the_target_all_the_same(fixture: Fixture) -> None:
    found = fixture.evaluator.evaluate(fixture.problem.disturbed(0.01), incumbent=FAST)
    assert found.state is TrialState.COMPLETED, "its accuracy was known before it was compiled"
    assert found.measurement.verdict is Verdict.MET
    assert found.measurement.speedup is not None
    assert found.measurement.speedup < 49.0


def test_one_that_is_compiled_already_is_measured_in_the_usual_order(fixture: Fixture) -> None:
    candidate = fixture.problem.disturbed(0.01)
    fixture.evaluator.speed_of(candidate)
    before = len(fixture.scores)
    found = fixture.evaluator.evaluate(candidate, incumbent=FAST)
    assert found.state is TrialState.PRUNED
    assert found.measurement.loss is None
    assert found.compiled_s is None
    assert len(fixture.scores) == before


def test_accuracy_is_evaluated_on_the_compiled_form_where_that_computes_otherwise(problem: Any) -> None:
    fixture = Fixture(problem)
    fixture.compiler.changes = lambda array: np.roll(array, 1, axis=-1)
    found = fixture.evaluator.evaluate(problem.disturbed(0.01), needs_accuracy=True)
    assert found.measurement.verdict is Verdict.MISSED
    assert len(fixture.scores) == 3, "of fp32, of the quick form, and of the compiled one"


def test_rounding_is_no_difference(problem: Any) -> None:
    fixture = Fixture(problem)
    fixture.compiler.changes = lambda array: array * np.float32(1.001)
    fixture.evaluator.evaluate(problem.disturbed(0.01))
    assert len(fixture.scores) == 2


def test_nothing_is_compiled_that_would_outlast_the_deadline(fixture: Fixture) -> None:
    near = fixture.clock.now_s() + COMPILATION_S / 2
    with pytest.raises(DeadlineReached, match=r"Compiling takes 1000 s"):
        fixture.evaluator.evaluate(fixture.problem.disturbed(0.01), deadline=near)
    assert len(fixture.compiler.compiled) == 1
    far = fixture.clock.now_s() + 2 * COMPILATION_S
    assert fixture.evaluator.evaluate(fixture.problem.disturbed(0.01), deadline=far).state is TrialState.COMPLETED


def test_memory_is_taken_without_compiling(fixture: Fixture) -> None:
    fixture.evaluator.run_once(fixture.problem.disturbed(0.01))
    assert len(fixture.compiler.compiled) == 1


def test_only_adapters_that_compile_are_measured_so(problem: Any, adapter: Any, fixture: Fixture) -> None:
    plain = evaluator_of(
        adapter=adapter,
        model=problem.model,
        source=UserFunction(function=lambda _: 1.0),
        criterion=Criterion(),
        latency=QUICK,
        feeds={"x": problem.inputs[:1]},
        seed=0,
    )
    assert not isinstance(plain, CompilingEvaluator)
    assert isinstance(fixture.evaluator, CompilingEvaluator)
