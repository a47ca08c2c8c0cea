"""Chance, without repetition."""

from __future__ import annotations

from typing import Any

import numpy as np

from autotune.config import OpConfig, QuantizationConfig
from autotune.space import OpSpace
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal

_PERMUTED = 2**16
"""Spaces up to this size are shuffled as a whole; in larger ones a draw is hardly ever a repetition."""


class Random(PlannedStrategy):
    """Draws configs uniformly from the space, each at most once.

    Costs: as many evaluations as it is given, at most the size of the space. Choose it as the yardstick for other
    strategies, or with many workers on a small space. Random search: Bergstra and Bengio, JMLR 13 (2012).
    """

    def plan(self, problem: Problem) -> Plan:
        """A shuffled space, or draws without repetition."""
        space = problem.space
        generator = np.random.default_rng(problem.seed)
        if space.size <= _PERMUTED:
            for index in generator.permutation(space.size):
                yield Proposal(config=_at(problem, int(index)), note="drawn at random")
            return f"exhausted: all {space.size} configs were tried"
        seen: set[str] = set()
        while len(seen) < space.size:
            index = 0
            for op in space.ops:
                index = index * op.size + int(generator.integers(op.size))
            config = _at(problem, index * space.recipe.size + int(generator.integers(space.recipe.size)))
            if config.fingerprint not in seen:
                seen.add(config.fingerprint)
                yield Proposal(config=config, note="drawn at random")
        return f"exhausted: all {space.size} configs were tried"


def _at(problem: Problem, index: int) -> QuantizationConfig:
    """The config at a position of the space, counted in mixed radix with the recipe as the last digit."""
    space = problem.space
    index, digit = divmod(index, space.recipe.size)
    recipe = list(space.recipe.recipes())[digit]
    ops = {}
    for op in reversed(space.ops):
        index, digit = divmod(index, op.size)
        ops[op.name] = _choice_at(op, digit)
    return QuantizationConfig(ops=ops, recipe=recipe)


def _choice_at(op: OpSpace, index: int) -> OpConfig:
    """The choice at a position of ``op.configs()``, without going through those before it."""
    for within in op.precisions:
        if index < within.size:
            break
        index -= within.size
    values: list[Any] = []
    for axis in (within.algorithms, within.weights, within.activations):
        index, digit = divmod(index, max(1, len(axis)))
        values.append(axis[digit] if axis else None)
    calibration, weight, activation = values
    return OpConfig(precision=within.precision, activation=activation, weight=weight, calibration=calibration)
