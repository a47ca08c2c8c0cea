"""Chance, without repetition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from autotune.config import OpConfig, QuantizationConfig
from autotune.notes import counted
from autotune.space import OpSpace, TuningSpace
from autotune.strategies.planning.planned import Plan, PlannedStrategy
from autotune.strategy import Problem, Proposal

_PERMUTED = 2**16
"""Spaces up to this size are shuffled as a whole; in larger ones a draw is hardly ever a repetition."""
_TOGETHER = 64
"""Configs that are drawn at once, which takes no longer than drawing one."""


class Random(PlannedStrategy):
    """Draws configs uniformly from the space, each at most once.

    Costs: as many evaluations as it is given, at most the size of the space. Choose it as the yardstick for other
    strategies, or with many workers on a small space. Random search: Bergstra and Bengio, JMLR 13 (2012).
    """

    def plan(self, problem: Problem) -> Plan:
        """A shuffled space, or draws without repetition."""
        space, at = problem.space, _Positions(problem.space)
        size, generator = space.size, np.random.default_rng(problem.seed)
        if size <= _PERMUTED:
            for index in generator.permutation(size):
                yield Proposal(config=at.index(int(index)), note="drawn at random")
            return f"exhausted: all {counted(size, 'config')} tried"
        seen: set[str] = set()
        # Drawn together they are the numbers that one draw for each op, and one for the recipe, would give.
        sizes = np.tile([*(op.size for op in space.ops), space.recipe.size], (_TOGETHER, 1))
        while len(seen) < size:
            for *digits, recipe in generator.integers(sizes).tolist():
                config = at(digits, recipe)
                if config.fingerprint not in seen:
                    seen.add(config.fingerprint)
                    yield Proposal(config=config, note="drawn at random")
        return f"exhausted: all {counted(size, 'config')} tried"


class _Positions:
    """The configs of a space by their positions. Each choice is made once: a replay goes through thousands of configs.

    Args:
        space: The choices that are allowed.
    """

    def __init__(self, space: TuningSpace) -> None:
        self._space = space
        self._recipes = list(space.recipe.recipes())
        self._choices: list[dict[int, OpConfig]] = [{} for _ in space.ops]

    def __call__(self, digits: Sequence[int], recipe: int) -> QuantizationConfig:
        """The config of a choice for each op, and one of the recipes, by their positions."""
        ops = {}
        for op, known, digit in zip(self._space.ops, self._choices, digits, strict=True):
            choice = known.get(digit)
            if choice is None:
                choice = known[digit] = _choice_at(op, digit)
            ops[op.name] = choice
        return QuantizationConfig(ops=ops, recipe=self._recipes[recipe])

    def index(self, index: int) -> QuantizationConfig:
        """The config at a position of the space, counted in mixed radix with the recipe as the last digit."""
        index, recipe = divmod(index, len(self._recipes))
        digits = []
        for op in reversed(self._space.ops):
            index, digit = divmod(index, op.size)
            digits.append(digit)
        return self(digits[::-1], recipe)


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
