"""Candidates once the ops are settled: faster execution, and less loss at the same speed."""

from __future__ import annotations

import dataclasses

import pytest

from autotune.config import QuantizationConfig, Recipe
from autotune.options import AdapterOption, Touches
from autotune.strategies import create_strategy
from autotune.strategy import Objective
from autotune.testing.driver import Run
from autotune.testing.synthetic import Synthetic, make_model
from autotune.trial import Trial

FORMAT = AdapterOption(name="format", values=("qdq", "qoperator"), default="qdq", touches=Touches.KERNELS)
OPTIMIZATION = AdapterOption(name="optimization", values=("all", "extended"), default="all", touches=Touches.KERNELS)
ROUNDING = AdapterOption(name="rounding", values=("even", "away"), default="even", touches=Touches.VALUES)
"""It changes no kernel, so that no time is spent on comparing speeds."""


@dataclasses.dataclass(frozen=True)
class WithOptions(Synthetic):
    """A model that runs ``factor`` times as long in QOperator format, and much longer without layout changes."""

    factor: float = 1.0

    def seconds_of(self, config: QuantizationConfig) -> float:
        seconds = super().seconds_of(config)
        if OPTIMIZATION.of(config.recipe.options) == "extended":
            seconds *= 1.5
        return seconds * (self.factor if format_of(config.recipe) == "qoperator" else 1.0)


def model(factor: float) -> WithOptions:
    base = make_model(6, total_loss=0.02)
    recipe = dataclasses.replace(base.space.recipe, options=(FORMAT, OPTIMIZATION, ROUNDING))
    fields = {f.name: getattr(base, f.name) for f in dataclasses.fields(base)}
    return WithOptions(**{**fields, "space": dataclasses.replace(base.space, recipe=recipe)}, factor=factor)


def run(made: WithOptions, objective: Objective = Objective.LATENCY) -> Run:
    problem = dataclasses.replace(made.problem(), objective=objective)
    return Run(problem, made).go(create_strategy("auto", spare=0), 60)


def format_of(recipe: Recipe) -> str:
    return FORMAT.of(recipe.options)


def formats(searched: Run) -> list[str]:
    return [format_of(trial.config.recipe) for trial in searched.evaluated]


def test_a_clearly_faster_option_is_tried_last_and_is_the_answer() -> None:
    searched = run(model(0.8))
    assert formats(searched).count("qoperator") == 1
    assert searched.best == searched.evaluated[-1]
    assert format_of(searched.best.config.recipe) == "qoperator"
    assert "format qoperator: 1.25 to 1.25 times as fast" in searched.best.note
    plain = run(model(1.0))
    assert searched.best.config.ops == plain.best.config.ops
    assert searched.reason == plain.reason


@pytest.mark.parametrize("factor", [0.98, 1.0, 1.2])
def test_an_option_within_noise_or_slower_costs_no_trial(factor: float) -> None:
    searched = run(model(factor))
    assert set(formats(searched)) == {"qdq"}
    assert all("optimization" not in trial.config.recipe.options for trial in searched.evaluated)


@dataclasses.dataclass(frozen=True)
class Unsure(WithOptions):
    """A model whose options are compared on a busy machine: with an interval of its own."""

    interval: tuple[float, float] = (1.0, 1.0)

    def relative_speed(self, config: QuantizationConfig, other: QuantizationConfig) -> tuple[float, float]:
        if format_of(other.recipe) == "qoperator":
            return self.interval
        return super().relative_speed(config, other)


@pytest.mark.parametrize(("interval", "tried"), [((0.9, 1.6), 0), ((1.02, 1.2), 0), ((1.04, 1.2), 1)])
def test_an_option_must_be_faster_for_certain(interval: tuple[float, float], tried: int) -> None:
    searched = run(Unsure(**vars(model(0.8)), interval=interval))
    assert formats(searched).count("qoperator") == tried


def test_options_change_no_size() -> None:
    assert set(formats(run(model(0.8), Objective.SIZE))) == {"qdq"}


def spared(total_loss: float, spare: int) -> tuple[Run, list[Trial]]:
    """A search, and its trials that were proposed for their accuracy."""
    made = make_model(6, total_loss=total_loss)
    searched = Run(made.problem(), made).go(create_strategy("auto", spare=spare), 60)
    return searched, [trial for trial in searched.evaluated if trial.note.startswith("as fast")]


@pytest.mark.parametrize("spare", [1, 2])
def test_where_much_of_the_target_is_spent_equally_fast_configs_are_tried(spare: int) -> None:
    searched, tried = spared(0.0095, spare)
    assert len(tried) == spare
    assert searched.evaluated[-spare:] == tried
    first = searched.evaluated[0]
    assert first.loss is not None
    assert first.loss > 0.005
    for trial in tried:
        assert trial.config != first.config
        assert trial.speedup == pytest.approx(first.speedup)
        assert {op: choice.precision for op, choice in trial.config.ops.items()} == {
            op: choice.precision for op, choice in first.config.ops.items()
        }


def test_a_small_loss_is_left_alone() -> None:
    searched, tried = spared(0.002, 2)
    assert searched.best.met
    assert not tried
    assert not spared(0.0095, 0)[1]


def test_trying_ends_with_the_first_config_that_loses_little() -> None:
    # The best loses just over a quarter of the target, and the first other calibration a fifth less.
    searched, tried = spared(0.0029, 2)
    assert [trial.loss is not None and trial.loss <= 0.0025 for trial in tried] == [True]
    assert searched.reason == "target met and no faster config predicted"
