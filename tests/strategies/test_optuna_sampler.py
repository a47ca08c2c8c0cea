from __future__ import annotations

import importlib.util
import warnings

import optuna
import pytest
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GridSampler,
    NSGAIISampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from autotune.config import MINMAX, MSE
from autotune.errors import StrategyError
from autotune.strategies import as_strategy
from autotune.strategies.optuna_sampler import OptunaSampler, space_of_grid
from autotune.testing.driver import Run
from autotune.testing.synthetic import make_model, make_space

SMALL = make_model(3, rich=False)


def samplers() -> dict[str, BaseSampler]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return {
            "tpe": TPESampler(n_startup_trials=3),
            "nsgaii": NSGAIISampler(population_size=4),
            "qmc": QMCSampler(warn_independent_sampling=False, warn_asynchronous_seeding=False),
            "random": RandomSampler(),
        }


@pytest.mark.parametrize("name", samplers())
def test_any_sampler_searches_and_resumes(name: str) -> None:
    model = make_model(4)
    whole = Run(model.problem(), model).go(as_strategy(samplers()[name]), 10)
    resumed = Run(model.problem(), model).go(as_strategy(samplers()[name]), 4).go(as_strategy(samplers()[name]), 10)
    assert all(trial.config in model.space for trial in whole.evaluated)
    assert [trial.config for trial in resumed.evaluated] == [trial.config for trial in whole.evaluated]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("name", ["brute force", "grid"])
def test_an_enumerating_sampler_sees_everything_and_ends(name: str) -> None:
    sampler = BruteForceSampler() if name == "brute force" else GridSampler(space_of_grid(SMALL.space), seed=0)
    run = Run(SMALL.problem(), SMALL).go(as_strategy(sampler), 100)
    assert run.reason is not None
    assert run.reason.startswith("exhausted")
    # All 8 configs, of which fp32 is the baseline.
    assert len(run.evaluated) == SMALL.space.size - 1


def test_a_grid_for_another_space_is_refused() -> None:
    with pytest.raises(StrategyError, match="cannot draw the parameters of this space"):
        Run(SMALL.problem(), SMALL).go(as_strategy(GridSampler({"x": [1, 2]}, seed=0)), 3)


def test_samplers_that_know_only_numbers_get_positions() -> None:
    assert OptunaSampler(CmaEsSampler()).ordinal if importlib.util.find_spec("cmaes") else True
    model = make_model(4)
    run = Run(model.problem(), model).go(OptunaSampler(RandomSampler(), ordinal=True), 5)
    assert len(run.evaluated) == 5
    assert all(isinstance(value, int) for trial in run.evaluated for value in trial.params.values())


def test_the_target_reaches_the_sampler_as_a_constraint() -> None:
    model = make_model(4, total_loss=0.2)
    run = Run(model.problem(), model).go(as_strategy(TPESampler(n_startup_trials=3)), 8)
    assert run.history is not None
    by_number = {trial.number: trial for trial in run.evaluated}
    seen = 0
    for frozen in run.history.study.trials:
        trial = by_number.get(frozen.number)
        if trial is not None and trial.loss is not None:
            seen += 1
            assert list(frozen.constraints.values()) == pytest.approx([trial.loss - 0.01])
    assert seen


def test_a_space_of_one_config_is_exhausted_at_once() -> None:
    model = make_model(0)
    space = make_space(0, rich=False, algorithms=(MINMAX, MSE))
    assert space.size == 1
    run = Run(make_model(0, rich=False).problem(), model).go(as_strategy(RandomSampler()), 5)
    assert run.evaluated == []
    assert run.reason is not None
