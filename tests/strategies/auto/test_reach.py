"""Choices that are made by the output errors of whole choices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from autotune.config import BiasCorrection, Recipe
from autotune.strategies.auto.loss_model import Template
from autotune.strategies.auto.program import Flags
from autotune.strategies.auto.reach import prefix, within_reach
from autotune.strategies.auto.template import with_recipe_that_helps
from autotune.testing.synthetic import make_model

OPS = 200


class Interacting:
    """Every one of a few ops ruins the outputs as long as it is in int8; groups say nothing of the single ones."""

    def __init__(self, needed: set[int], budget: float = math.inf) -> None:
        self.needed, self.budget, self.measured = needed, budget, 0

    def __call__(self, choice: Flags) -> float:
        if self.measured >= self.budget:
            return math.nan
        self.measured += 1
        return 0.4 if self.needed - set(np.flatnonzero(choice).tolist()) else 1e-5 * float((~choice).sum())


def find(errors: Callable[[Flags], float], tolerable: float = 0.01) -> Flags | None:
    return within_reach(list(range(OPS)), np.ones(OPS), errors, tolerable)


@pytest.mark.parametrize("needed", [{0}, {3, 17}, {0, 100, 150}])
def test_what_interacts_is_left_alone_and_most_of_the_rest_is_quantized(needed: set[int]) -> None:
    errors = Interacting(needed)
    found = find(errors)
    assert found is not None
    assert needed <= set(np.flatnonzero(found).tolist())
    # At most a part of the prefix for each op that is needed.
    assert found.sum() <= 1 + len(needed) * math.ceil(max(needed) / 8 + 1)
    assert errors.measured <= math.log2(OPS) + 3 + 8


def test_nothing_is_found_where_every_op_ruins_the_outputs() -> None:
    assert find(Interacting(set(range(OPS)))) is None


@pytest.mark.parametrize("budget", range(12))
def test_whatever_the_time_nothing_is_found_that_was_not_measured(budget: int) -> None:
    errors = Interacting({3, 17}, budget)
    found = find(errors)
    assert found is None or {3, 17} <= set(np.flatnonzero(found).tolist())


def test_a_prefix_is_the_first_steps_of_an_order() -> None:
    assert prefix([2, 0, 1], 2).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("evaluated", "full", "stays"),
    [(True, 0.01, True), (True, 0.02, True), (True, 0.24, False), (True, math.nan, True), (False, 0.01, False)],
)
def test_a_dear_recipe_stays_where_it_was_tried_and_does_no_harm(
    monkeypatch: pytest.MonkeyPatch, evaluated: bool, full: float, stays: bool
) -> None:
    problem = make_model(4).problem()
    errors = {True: 0.02, False: full}
    quick = problem.space.recipe.quick
    monkeypatch.setattr(
        type(problem.insights), "output_error", lambda _, config: errors[config.recipe == quick(config.recipe)]
    )
    dear = Recipe(bias_correction=BiasCorrection.FULL)
    opening = dataclasses.replace(problem.space.preferred, recipe=dear)
    template = Template(config=opening, steps=[], measured=True)
    found = with_recipe_that_helps(problem, opening, template, evaluated=evaluated)
    assert found.config.recipe == (dear if stays else quick(dear))
    assert found.config.ops == opening.ops
