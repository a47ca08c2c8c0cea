"""The contract of every strategy, whoever wrote it, as a suite of tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from optuna.samplers import RandomSampler

from autotune.config import Precision, QuantizationConfig
from autotune.criterion import Criterion
from autotune.strategy import Objective, Strategy
from autotune.testing.driver import Run
from autotune.testing.synthetic import Synthetic, make_model, with_precisions
from autotune.trial import TrialState

BUDGET = 25


MODELS: dict[str, Callable[[], Synthetic]] = {
    "separable": lambda: make_model(6),
    "interacting ops": lambda: dataclasses.replace(make_model(6, seed=1), interaction=0.8, crossing_s=1e-4),
    "noisy accuracy": lambda: dataclasses.replace(make_model(6, seed=2), noise=2e-3),
    "plateau": lambda: dataclasses.replace(make_model(6, seed=3), plateau=5e-3),
    "nothing meets the target": lambda: make_model(6, seed=4, total_loss=10.0),
    "fp32 is fastest": lambda: _slow_int8(make_model(6, seed=5)),
    "several precisions": lambda: with_precisions(
        make_model(6, seed=6), {Precision.INT8_DYNAMIC: (1.2, 0.3), Precision.INT4_WEIGHT: (0.8, 3.0)}
    ),
    "no op": lambda: make_model(0),
    "a single choice": lambda: make_model(1, rich=False),
}


def _slow_int8(model: Synthetic) -> Synthetic:
    return dataclasses.replace(model, seconds={op: (fp32, 1.5 * fp32) for op, (fp32, _) in model.seconds.items()})


def _run(make: Callable[[], Strategy], model: Synthetic, budget: int = BUDGET, seed: int = 0) -> Run:
    return Run(model.problem(seed), model).go(make(), budget)


def _configs(run: Run) -> list[QuantizationConfig]:
    return [trial.config for trial in run.evaluated]


class StrategySuite:
    """Checks a strategy against :class:`autotune.strategy.Strategy`, on made-up models.

    A test module subclasses it under a name that begins with ``Test``, and overrides one method::

        class TestMine(StrategySuite):
            def strategy(self):
                return MyStrategy()
    """

    def strategy(self) -> Strategy:
        """A new strategy, fit for a space of six ops and a budget of 25 candidates."""
        raise NotImplementedError

    @pytest.fixture
    def make(self) -> Callable[[], Strategy]:
        """Makes a new strategy at every call."""
        return self.strategy

    @pytest.mark.parametrize("kind", MODELS)
    def test_proposals_lie_in_the_space_and_are_new(self, make: Callable[[], Strategy], kind: str) -> None:
        model = MODELS[kind]()
        run = _run(make, model)
        configs = _configs(run)
        assert all(config in model.space for config in configs)
        assert len(set(configs)) == len(configs)
        assert run.reason is None or len(run.reason) > 8
        assert all(trial.note for trial in run.evaluated), "the trial table shows why each was tried"

    def test_same_seed_same_proposals(self, make: Callable[[], Strategy]) -> None:
        model = MODELS["noisy accuracy"]()
        assert _configs(_run(make, model, seed=3)) == _configs(_run(make, model, seed=3))

    @pytest.mark.parametrize("kept", [1, 7, 14])
    def test_resumed_run_goes_where_the_uninterrupted_one_went(self, make: Callable[[], Strategy], kept: int) -> None:
        model = MODELS["interacting ops"]()
        whole = _run(make, model)
        resumed = _run(make, model, budget=kept).go(make(), BUDGET)
        assert _configs(resumed) == _configs(whole)
        assert resumed.reason == whole.reason

    def test_one_strategy_object_serves_several_runs(self, make: Callable[[], Strategy]) -> None:
        strategy = make()
        model = MODELS["separable"]()
        first = Run(model.problem(), model).go(strategy, 8)
        other = MODELS["noisy accuracy"]()
        Run(other.problem(), other).go(strategy, 5)
        again = Run(model.problem(), model).go(strategy, 8)
        assert _configs(first) == _configs(again)

    def test_a_failing_trial_does_not_end_the_search(self, make: Callable[[], Strategy]) -> None:
        model = MODELS["separable"]()
        run = _run(make, dataclasses.replace(model, failing=lambda config: not config.is_fp32), budget=6)
        assert {trial.state for trial in run.evaluated} == {TrialState.FAILED}
        assert len(run.evaluated) == 6 or run.reason is not None
        assert len(run.evaluated) >= 2

        last = model.space.ops[-1].name
        broken = dataclasses.replace(model, failing=lambda config: config[last].precision is Precision.INT8)
        run = _run(make, broken, budget=60)
        assert any(trial.state is TrialState.COMPLETED for trial in run.evaluated)

    def test_it_ends(self, make: Callable[[], Strategy]) -> None:
        model = make_model(3, rich=False)
        run = _run(make, model, budget=100)
        assert len(run.evaluated) < model.space.size
        assert run.reason is not None

    def test_a_trial_that_another_worker_runs_is_not_proposed_again(self, make: Callable[[], Strategy]) -> None:
        model = MODELS["separable"]()
        run = _run(make, model, budget=1)
        assert run.history is not None
        first = _run(make, model, budget=2).evaluated[-1]
        run.history.start(run.history.open(RandomSampler(0)), first.config, "by another worker")
        run.go(make(), 4)
        assert first.config not in _configs(run)
        assert len(run.evaluated) == 4 or run.reason is not None

    @pytest.mark.parametrize("objective", [Objective.LATENCY, Objective.SIZE, Objective.MEMORY])
    def test_every_objective_is_searched(self, make: Callable[[], Strategy], objective: Objective) -> None:
        model = MODELS["separable"]()
        if objective is Objective.MEMORY:
            pytest.skip("the synthetic evaluator has no memory")
        run = Run(model.problem(objective=objective), model).go(make(), 12)
        assert run.evaluated

    def test_without_a_target_in_reach_the_search_is_over_in_time(self, make: Callable[[], Strategy]) -> None:
        model = MODELS["nothing meets the target"]()
        problem = dataclasses.replace(model.problem(), criterion=Criterion(absolute=0.0))
        run = Run(problem, model).go(make(), 40)
        assert run.best.config.is_fp32
