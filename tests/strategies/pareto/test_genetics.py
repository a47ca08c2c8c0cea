"""Selection, crossover and mutation of configs."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from autotune.config import FP32, QuantizationConfig
from autotune.strategies.pareto.genetics import Generation, child, crowding, drawn, fronts
from autotune.testing.synthetic import make_space


def test_fronts_are_what_pairwise_dominance_says() -> None:
    points = np.random.default_rng(0).integers(0, 5, (40, 3)).astype(float)

    def dominates(a: int, b: int) -> bool:
        return bool((points[a] <= points[b]).all() and (points[a] < points[b]).any())

    left = set(range(len(points)))
    for front in fronts(points):
        expected = {i for i in left if not any(dominates(j, i) for j in left)}
        assert set(front.tolist()) == expected
        left -= expected
    assert not left


def test_the_ends_of_a_front_and_what_is_far_from_others_have_room() -> None:
    room = crowding(np.array([[0.0, 4.0], [1.0, 3.0], [1.5, 2.5], [4.0, 0.0]]))
    assert np.isinf(room[[0, 3]]).all()
    assert room[2] > room[1]


def test_values_that_all_are_equal_crowd_nobody_out() -> None:
    assert crowding(np.ones((4, 2))).tolist().count(0.0) >= 2


def test_dominated_configs_do_not_survive() -> None:
    space = make_space(3)
    rng = np.random.default_rng(0)
    configs = [drawn(space, rng) for _ in range(6)]
    measured = [(config, (i, 5 - i) if i < 3 else (9, 9)) for i, config in enumerate(configs)]
    generation = Generation(measured, 3)
    picked = {config.fingerprint for _ in range(50) for config in generation.pair(rng)}
    assert picked <= {config.fingerprint for config in configs[:3]}


@pytest.mark.parametrize("mutations", [0, 3])
def test_children_lie_in_the_space_and_take_after_their_parents(mutations: int) -> None:
    space = make_space(40)
    rng = np.random.default_rng(1)
    shares = []
    for _ in range(30):
        first, second = drawn(space, rng), drawn(space, rng)
        made = child(space, first, second, rng, mutations=mutations)
        assert made in space
        shares.append(np.mean([made[op.name] in (first[op.name], second[op.name]) for op in space.ops]))
    assert np.mean(shares) > 0.85


def test_a_child_of_the_baseline_takes_the_other_parents_recipe_or_the_preferred_one() -> None:
    space = make_space(10)
    rng = np.random.default_rng(2)
    for _ in range(30):
        assert child(space, QuantizationConfig(), drawn(space, rng), rng, mutations=1) in space


def test_random_configs_have_any_share_of_ops_in_fp32() -> None:
    space = make_space(100)
    rng = np.random.default_rng(3)
    shares = [
        np.mean([config[op.name] == FP32 for op in space.ops]) for config in (drawn(space, rng) for _ in range(60))
    ]
    assert min(shares) < 0.15
    assert max(shares) > 0.85
    assert all(b - a < 0.3 for a, b in itertools.pairwise(sorted(shares)))
