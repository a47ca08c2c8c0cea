"""GPTQ: weights on their grid with less error at the outputs, and the moments that it reads."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.adapter import Array
from autotune.algorithms import AffineParameters, WeightLimits, can_saturate
from autotune.algorithms.gptq import PairBound, convolution_moments, matmul_moments, round_by_gptq
from autotune.algorithms.graph import Convolution
from autotune.algorithms.saturation import LARGEST_PAIR
from tests.algorithms.networks import PER_CHANNEL
from tests.algorithms.numpy_graph import convolve


def test_gptq_beats_rounding_to_nearest_where_inputs_correlate() -> None:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((2000, 24)) @ random.standard_normal((24, 24))
    moments = (inputs.T @ inputs / len(inputs))[None]
    rows = random.standard_normal((1, 16, 24)).astype(np.float32)
    scale = np.full((1, 16), 0.1)
    rounded = round_by_gptq(rows, scale, np.zeros((1, 16)), moments, (-128, 127))
    nearest = np.rint(rows / 0.1) * 0.1

    def loss(weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> float:
        error = (weights - rows)[0]
        return float(np.einsum("oi,ij,oj->", error, moments[0], error))

    np.testing.assert_allclose(rounded / 0.1, np.rint(rounded / 0.1), atol=1e-4)
    assert loss(rounded.astype(np.float64)) < 0.6 * loss(nearest)


def test_gptq_stays_within_the_integers() -> None:
    rows = np.full((1, 2, 4), 3.0, np.float32)
    moments = np.eye(4)[None] + 0.9
    rounded = round_by_gptq(rows, np.full((1, 2), 0.01), np.zeros((1, 2)), moments, (-64, 63))
    assert rounded.max() <= 0.63 + 1e-6


def test_gptq_makes_up_for_what_a_bound_on_neighbours_takes() -> None:
    """The bound is kept as weights are rounded: cut afterwards, nothing would make up for it."""
    random = np.random.default_rng(0)
    inputs = random.standard_normal((2000, 24)) @ random.standard_normal((24, 24))
    moments = (inputs.T @ inputs / len(inputs))[None]
    rows = random.standard_normal((1, 16, 24)).astype(np.float32)
    limits = WeightLimits(order=np.arange(rows.size).reshape(16, 24).T)
    scale, zero = np.full((1, 16), 0.024, np.float32), np.zeros((1, 16), np.int8)
    neighbours = limits.neighbours((16, 24), 0)
    assert neighbours is not None
    bound = PairBound(neighbours=neighbours, most=LARGEST_PAIR)
    within = round_by_gptq(rows, scale, zero, moments, (-127, 127), bound)[0]
    free = round_by_gptq(rows, scale, zero, moments, (-127, 127))[0]
    parameters, scheme = AffineParameters(scale[0], zero[0]), PER_CHANNEL

    def loss(weights: Array) -> float:
        error = (weights - rows[0]).astype(np.float64)
        return float(np.einsum("oi,ij,oj->", error, moments[0], error))

    assert can_saturate(np.rint(free / 0.024).astype(np.int64).T)
    assert not can_saturate(np.rint(within / 0.024).astype(np.int64).T)
    np.testing.assert_array_equal(limits.fake_quantize(within, parameters, scheme, 0), within)
    assert loss(within) < 0.7 * loss(limits.fake_quantize(free, parameters, scheme, 0))


def test_moments_that_are_not_finite_leave_rounding_to_nearest() -> None:
    """An op before made an infinity of a zero: weights must not become what is no number."""
    rows = np.random.default_rng(0).standard_normal((1, 3, 4)).astype(np.float32)
    scale, zero_point = np.full((1, 3), 0.1, np.float32), np.zeros((1, 3))
    for bad in (np.nan, np.inf):
        moments = np.eye(4)[None].copy()
        moments[0, 1, 2] = bad
        rounded = round_by_gptq(rows, scale, zero_point, moments, (-127, 127))
        np.testing.assert_allclose(rounded, np.rint(rows / 0.1) * 0.1, rtol=1e-5)


@pytest.mark.parametrize("strides", [(1, 1), (2, 3)])
@pytest.mark.parametrize("dilations", [(1, 1), (2, 1)])
@pytest.mark.parametrize("pads", [(0, 0, 0, 0), (1, 0, 2, 1)])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_moments_predict_the_output(
    strides: tuple[int, int], dilations: tuple[int, int], pads: tuple[int, ...], groups: int
) -> None:
    """The mean square of a convolution's output is ``w H w``, whatever its strides, dilations, pads and groups."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((4, 4 // groups, 3, 3)).astype(np.float32)
    inputs = random.standard_normal((2, 4, 9, 9)).astype(np.float32)
    convolution = Convolution(groups=groups, strides=strides, dilations=dilations, pads=pads)
    moments = convolution_moments(convolution, (3, 3), [inputs])
    rows = weight.reshape(groups, 4 // groups, -1)
    predicted = np.einsum("goi,gij,goj->go", rows, moments, rows).ravel()
    expected = np.square(convolve(inputs, weight, convolution)).mean(axis=(0, 2, 3))
    np.testing.assert_allclose(predicted, expected, rtol=1e-3)


def test_moments_of_a_matrix_product_predict_its_output() -> None:
    random = np.random.default_rng(0)
    inputs = [random.standard_normal((2, 5, 6)).astype(np.float32) for _ in range(3)]
    rows = random.standard_normal((1, 4, 6)).astype(np.float32)
    predicted = np.einsum("goi,gij,goj->go", rows, matmul_moments(inputs), rows).ravel()
    expected = np.square(np.concatenate(inputs) @ rows[0].T).mean(axis=(0, 1))
    np.testing.assert_allclose(predicted, expected, rtol=1e-3)
