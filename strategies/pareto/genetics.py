"""The operators of a genetic algorithm on configs: drawing, selection, crossover and mutation."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.config import FP32, OpConfig, QuantizationConfig, Recipe
from autotune.space import OpSpace, PrecisionSpace, RecipeSpace, TuningSpace

_CROSSED = 0.9
"""Share of the children that have two parents."""


class Generation:
    """The survivors: whole fronts while they fit, then those of the next front that have the most room around them.

    Args:
        measured: All that compete, each with its values to minimise; two or more.
        size: How many survive.
    """

    def __init__(self, measured: Sequence[tuple[QuantizationConfig, Sequence[float]]], size: int) -> None:
        points = np.array([values for _, values in measured], dtype=float)
        self._configs = [config for config, _ in measured]
        self._survivors: list[int] = []
        """Positions among all, the best first."""
        for front in fronts(points):
            room = crowding(points[front])
            self._survivors += [int(front[i]) for i in np.argsort(-room, kind="stable")]
            if len(self._survivors) >= size:
                break
        self._survivors = self._survivors[:size]

    def pair(self, rng: np.random.Generator) -> tuple[QuantizationConfig, QuantizationConfig]:
        """Two parents, each the better of two that are drawn."""
        picks = rng.integers(len(self._survivors), size=(2, 2)).min(axis=1)
        first, second = (self._configs[self._survivors[int(pick)]] for pick in picks)
        return first, second


def fronts(points: npt.NDArray[np.float64]) -> list[npt.NDArray[np.int64]]:
    """Positions of the points that no other dominates, then of those that only these dominate, and so on.

    Args:
        points: (n, objectives), less is better.
    """
    no_worse = np.all(points[:, None] <= points[None], axis=2)
    dominates = no_worse & ~no_worse.T
    found = []
    left = np.ones(len(points), dtype=bool)
    while left.any():
        front = left & ~dominates[left].any(axis=0)
        found.append(np.flatnonzero(front))
        left &= ~front
    return found


def crowding(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The crowding distance of each point of a front, summed over objectives; infinite at the ends."""
    room = np.zeros(len(points))
    for column in points.T:
        order = np.argsort(column, kind="stable")
        extent = column[order[-1]] - column[order[0]]
        room[order[[0, -1]]] = np.inf
        if extent > 0:
            room[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / extent
    return room


def drawn(space: TuningSpace, rng: np.random.Generator) -> QuantizationConfig:
    """A random config of which any share of the ops is in fp32.

    A fair coin per op would put about half of the ops of a large model into fp32 every time.
    """
    share = rng.random()
    ops = {op.name: FP32 if FP32 in op and rng.random() < share else _drawn_choice(op, rng) for op in space.ops}
    values = {name: _any(space.recipe[name], rng) for name in space.recipe.names}
    return QuantizationConfig(ops=ops, recipe=space.recipe.made(values))


def child(
    space: TuningSpace,
    first: QuantizationConfig,
    second: QuantizationConfig,
    rng: np.random.Generator,
    *,
    mutations: int,
) -> QuantizationConfig:
    """Each op's choice and each recipe option from one of two parents; one of them changed on average, and more.

    Args:
        space: Space of the configs.
        first: A parent.
        second: Another one.
        rng: Generator of every choice.
        mutations: Ops that change besides.
    """
    count = len(space.ops)
    crossed = rng.random() < _CROSSED
    from_second = rng.random(count) < (0.5 if crossed else 0.0)
    ops = {op.name: (second if other else first)[op.name] for op, other in zip(space.ops, from_second, strict=True)}
    changed = set(np.flatnonzero(rng.random(count) * count < 1).tolist()) if count else set()
    changed |= set(rng.integers(count, size=mutations).tolist()) if count else set()
    for index in sorted(changed):
        op = space.ops[index]
        ops[op.name] = _mutated(op, ops[op.name], rng)
    recipe = _crossed_recipe(space.recipe, (first, second) if crossed else (first, first), rng, mutations=mutations)
    return QuantizationConfig(ops=ops, recipe=recipe)


def _crossed_recipe(
    space: RecipeSpace, parents: tuple[QuantizationConfig, QuantizationConfig], rng: np.random.Generator, mutations: int
) -> Recipe:
    """Options of the parents that have any (an fp32 model's recipe is none), now and then another value."""
    recipes = [parent.recipe for parent in parents if parent.recipe in space] or [space.preferred]
    values = {}
    for name in space.names:
        again = rng.random() * len(space.names) < (1 if mutations else 0.5)
        values[name] = _any(space[name], rng) if again else space.value(_any(recipes, rng), name)
    return space.made(values)


def _mutated(op: OpSpace, choice: OpConfig, rng: np.random.Generator) -> OpConfig:
    """Another precision or, as often where there is one to change, another value of one field."""
    within = op.space_of(choice.precision)
    assert within is not None
    axes = [
        (field, values)
        for field, values in (
            ("activation", within.activations),
            ("weight", within.weights),
            ("calibration", within.algorithms),
        )
        if len(values) > 1
    ]
    if axes and (len(op.precisions) < 2 or rng.random() < 0.5):
        field, values = _any(axes, rng)
        others = [value for value in values if value != getattr(choice, field)]
        return dataclasses.replace(choice, **{field: _any(others, rng)})
    others = [other for other in op.precisions if other.precision is not choice.precision]
    return _within(_any(others, rng), rng) if others else choice


def _drawn_choice(op: OpSpace, rng: np.random.Generator) -> OpConfig:
    spaces = [within for within in op.precisions if within.preferred != FP32]
    return _within(_any(spaces or op.precisions, rng), rng)


def _within(space: PrecisionSpace, rng: np.random.Generator) -> OpConfig:
    """A random choice of one precision."""
    activation, weight, calibration = (
        _any(values, rng) if values else None for values in (space.activations, space.weights, space.algorithms)
    )
    return OpConfig(precision=space.precision, activation=activation, weight=weight, calibration=calibration)


def _any(values: Sequence[Any], rng: np.random.Generator) -> Any:
    return values[int(rng.integers(len(values)))]
