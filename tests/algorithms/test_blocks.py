"""Grids for weights in blocks, and GPTQ on them."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.adapter import Array
from autotune.algorithms.blocks import block_grid, gptq_blocks, round_to_grid, values_of
from autotune.algorithms.layerwise import Correction, walk
from autotune.config import WeightOnly
from tests.algorithms.numpy_graph import AXES, NumpyGraph, product

RTN, HQQ, GPTQ = WeightOnly.RTN, WeightOnly.HQQ, WeightOnly.GPTQ


def nearest(rows: Array, bits: int, algorithm: WeightOnly, block: int = 32) -> Array:
    grid = block_grid(rows, bits, block, algorithm)
    return values_of(round_to_grid(rows, grid), grid, rows.shape[1])


@pytest.mark.parametrize("algorithm", [RTN, HQQ])
def test_constant_blocks_and_zeros_are_exact(algorithm: WeightOnly) -> None:
    rows = np.concatenate([np.zeros((2, 64)), np.full((2, 64), 0.5), np.full((2, 64), -3.0)]).astype(np.float32)
    np.testing.assert_allclose(nearest(rows, 4, algorithm), rows, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("inputs", [32, 3 * 32, 70])
def test_hqq_is_no_worse_than_rtn_in_any_block(bits: int, inputs: int) -> None:
    rows = np.random.default_rng(0).standard_normal((10, inputs)).astype(np.float32)
    errors = [np.square(nearest(rows, bits, algorithm) - rows) for algorithm in (HQQ, RTN)]
    padded = [np.pad(each, [(0, 0), (0, -inputs % 32)]).reshape(10, -1, 32).sum(axis=2) for each in errors]
    assert (padded[0] <= padded[1] * (1.0 + 1e-4)).all()
    assert errors[0].sum() < errors[1].sum()


def correlated(count: int) -> Array:
    """Inputs as layers see them: a few directions carry most of their energy."""
    random = np.random.default_rng(count)
    mixed = random.standard_normal((count, 8)) @ np.random.default_rng(1).standard_normal((8, 64))
    return np.asarray(mixed + 0.3 * random.standard_normal((count, 64)), np.float32)


@pytest.mark.parametrize("axis", [0, 1])
def test_gptq_lessens_the_error_of_what_a_layer_writes(axis: int) -> None:
    weight = np.random.default_rng(2).standard_normal((16, 64)).astype(np.float32)
    graph = NumpyGraph([product("y", "x", axis=axis)], {"y/w": weight if axis == 0 else weight.T})
    grid = block_grid(weight, 4, 32, GPTQ)
    layers, notes = gptq_blocks(graph, {"y": grid})
    assert not notes
    corrections: dict[str, Correction] = dict(layers)
    constants = walk(graph, [{"x": correlated(1000)}], {}, corrections, {}, AXES)
    assert constants["y/w"].shape == graph.constants["y/w"].shape
    rounded = constants["y/w"] if axis == 0 else constants["y/w"].T
    np.testing.assert_allclose(values_of(round_to_grid(rounded, grid), grid, 64), rounded, atol=1e-5)
    fresh = {"x": correlated(500)}
    ours, theirs = (np.square(fresh["x"] @ (each - weight).T).mean() for each in (rounded, nearest(weight, 4, HQQ)))
    assert ours < 0.5 * theirs


def test_matrix_that_others_read_is_left_to_rounding() -> None:
    weight = np.random.default_rng(2).standard_normal((64, 64)).astype(np.float32)
    first = product("y", "x")
    second = product("z", "y")
    shared = [first, type(second)(**{**vars(second), "weight": "y/w", "reads": ("y", "y/w")})]
    grid = block_grid(weight.T, 4, 32, GPTQ)
    layers, notes = gptq_blocks(NumpyGraph(shared, {"y/w": weight}), dict.fromkeys(("y", "z"), grid))
    assert not layers
    assert any("GPTQ leaves the weights of 'y', 'z'" in note for note in notes)
