"""The shift that quantized weights cause in mean outputs, from the means of inputs and from outputs."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.algorithms.bias_correction import convolution_shift, matmul_shift, mean_difference


def test_fast_shift_is_that_of_a_convolution_of_the_mean() -> None:
    error = np.random.default_rng(0).standard_normal((4, 2, 3, 3))
    mean = np.arange(1.0, 5.0)
    expected = [sum(error[o, i].sum() * mean[2 * (o // 2) + i] for i in range(2)) for o in range(4)]
    np.testing.assert_allclose(convolution_shift(error, mean, 2), expected)
    np.testing.assert_allclose(matmul_shift(error[:, :, 0, 0], mean[:2]), error[:, :, 0, 0] @ mean[:2])


@pytest.mark.parametrize(("axis", "shape"), [(1, (2, 3, 4, 5)), (-1, (2, 6, 3)), (-1, (7, 3))])
def test_mean_difference_is_that_of_all_chunks(axis: int, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    values, target = ([random.standard_normal(shape).astype(np.float32) for _ in range(3)] for _ in range(2))
    both = np.moveaxis(np.concatenate(values) - np.concatenate(target), axis, -1)
    np.testing.assert_allclose(mean_difference(values, target, axis), both.reshape(-1, 3).mean(axis=0), rtol=1e-4)
