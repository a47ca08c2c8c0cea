from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autotune.algorithms import affine_parameters, dequantize, fake_quantize, integer_range, quantize, weight_parameters
from autotune.config import CalibrationMethod, Granularity, PerGroup, QuantizedType, TensorScheme

ALL = [
    TensorScheme(dtype=dtype, symmetric=symmetric, granularity=granularity)
    for dtype in QuantizedType
    for symmetric in (False, True)
    for granularity in Granularity.PLAIN
]
PER_TENSOR = [scheme for scheme in ALL if scheme.granularity is Granularity.PER_TENSOR]
S8_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
ENDS = st.floats(-1e6, 1e6)


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("scheme", PER_TENSOR, ids=str)
@given(ends=st.tuples(ENDS, ENDS))
@settings(max_examples=60, deadline=None)
def test_zero_is_exact_and_the_range_is_rounded_to_half_a_step(
    scheme: TensorScheme, reduce_range: bool, ends: Any
) -> None:
    low, high = sorted(ends)
    params = affine_parameters(low, high, scheme, reduce_range=reduce_range)
    low, high = min(low, 0.0), max(high, 0.0)
    values = np.linspace(low, high, 101).astype(np.float32)
    values = np.append(values, np.float32(0.0))
    left = fake_quantize(values, params, scheme, reduce_range=reduce_range)
    assert left[-1] == 0.0
    # an asymmetric zero point is rounded too, which moves the ends by up to another half step
    assert np.all(np.abs(left - values) <= params.scale * 1.01 + 1e-6 * np.abs(values))
    assert params.zero_point.dtype == quantize(values, params, scheme).dtype


@pytest.mark.parametrize(
    ("dtype", "symmetric", "zero_point", "ends"),
    [
        ("s8", True, 0, (-127, 127)),
        ("u8", True, 128, (1, 255)),
        ("u8", False, 64, (0, 255)),
        ("s8", False, -64, (-128, 127)),
    ],
)
def test_integers_in_use(dtype: Any, symmetric: Any, zero_point: Any, ends: Any) -> None:
    scheme = TensorScheme(dtype=QuantizedType(dtype), symmetric=symmetric)
    params = affine_parameters(-1.0, 3.0, scheme)
    assert params.zero_point == zero_point
    assert params.scale == pytest.approx(3.0 / 127 if symmetric else 4.0 / 255)
    far = quantize(np.array([-100.0, 100.0], np.float32), params, scheme)
    assert tuple(far.tolist()) == ends == integer_range(scheme)


@pytest.mark.parametrize("algorithm", [CalibrationMethod.MINMAX, CalibrationMethod.MSE])
@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_reduced_weights_cannot_saturate_sixteen_bits(scheme: TensorScheme, algorithm: Any) -> None:
    weight = np.random.default_rng(0).standard_normal((8, 30)).astype(np.float32)
    params = weight_parameters(weight, scheme, 0, algorithm, reduce_range=True)
    integers = quantize(weight, params, scheme, axis=0, reduce_range=True).astype(np.int64)
    signed = integers - 128 if scheme.dtype is QuantizedType.U8 else integers
    assert 2 * 255 * np.abs(signed).max() <= 32767
    assert np.abs(signed).max() == 64


@pytest.mark.parametrize("scheme", PER_TENSOR, ids=str)
def test_an_empty_range_has_scale_one_and_a_tiny_one_no_denormal(scheme: TensorScheme) -> None:
    assert affine_parameters(0.0, 0.0, scheme).scale == 1.0
    tiny = affine_parameters(-1e-44, 1e-44, scheme)
    assert tiny.scale == np.finfo(np.float32).tiny
    assert np.isfinite(affine_parameters(-3e38, 3e38, scheme).scale)


def test_channels_have_their_own_scale_along_any_axis() -> None:
    weight = np.random.default_rng(1).standard_normal((4, 5, 3)).astype(np.float32)
    weight *= np.array([1e-3, 1.0, 10.0, 0.0, 1e3], np.float32)[:, None]
    params = weight_parameters(weight, S8_CHANNEL, 1, CalibrationMethod.MINMAX)
    assert params.scale.shape == params.zero_point.shape == (5,)
    assert np.allclose(params.scale * 127, np.where(weight.any(axis=(0, 2)), np.abs(weight).max(axis=(0, 2)), 127))
    left = fake_quantize(weight, params, S8_CHANNEL, axis=1)
    assert np.all(np.abs(left - weight) <= params.scale[:, None] * 0.5001)
    assert np.array_equal(fake_quantize(weight, params, S8_CHANNEL, axis=-2), left)
    with pytest.raises(ValueError, match="axis"):
        fake_quantize(weight, params, S8_CHANNEL)


@given(
    weight=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 4), st.integers(1, 30)), elements=st.floats(-100, 100, width=32)
    ),
    scheme=st.sampled_from(ALL),
    reduce_range=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_mse_is_never_worse_than_minmax_in_any_channel(
    weight: npt.NDArray[Any], scheme: TensorScheme, reduce_range: bool
) -> None:
    def errors(algorithm: CalibrationMethod) -> npt.NDArray[Any]:
        params = weight_parameters(weight, scheme, 0, algorithm, reduce_range)
        left = fake_quantize(weight, params, scheme, axis=0, reduce_range=reduce_range)
        squares = (left.astype(np.float64) - weight) ** 2
        return np.asarray(squares.sum(axis=1) if scheme.granularity is Granularity.PER_CHANNEL else squares.sum())

    assert np.all(errors(CalibrationMethod.MSE) <= errors(CalibrationMethod.MINMAX) * (1 + 1e-5) + 1e-10)


@pytest.mark.parametrize("scheme", ALL, ids=str)
def test_mse_clips_where_it_pays(scheme: TensorScheme) -> None:
    weight = np.random.default_rng(2).standard_normal((4, 50_000)).astype(np.float32)
    weight[:, :2] = -12.0, 12.0

    def error(algorithm: CalibrationMethod) -> float:
        params = weight_parameters(weight, scheme, 0, algorithm)
        return float(np.mean((fake_quantize(weight, params, scheme, axis=0) - weight) ** 2))

    assert error(CalibrationMethod.MSE) < 0.93 * error(CalibrationMethod.MINMAX)


def test_rounding_is_half_to_even_as_in_onnx() -> None:
    scheme = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
    params = affine_parameters(-127.0, 127.0, scheme)
    halves = quantize(np.array([0.5, 1.5, 2.5, -0.5, -1.5], np.float32), params, scheme)
    assert halves.tolist() == [0, 2, 2, 0, -2]


def test_bad_arguments_are_refused() -> None:
    scheme = PER_TENSOR[0]
    with pytest.raises(ValueError, match="low <= high"):
        affine_parameters(1.0, 0.0, scheme)
    with pytest.raises(ValueError, match="low <= high"):
        affine_parameters(0.0, np.inf, scheme)
    with pytest.raises(ValueError, match="'minmax' or 'mse'"):
        weight_parameters(np.ones((2, 2)), scheme, 0, CalibrationMethod.KL)
    with pytest.raises(ValueError, match="must be"):
        dequantize(np.ones(2, np.int32), affine_parameters(0.0, 1.0, scheme), scheme)


def test_groups_have_scales_of_another_shape() -> None:
    scheme = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=PerGroup(32))
    with pytest.raises(ValueError, match="per_group:32"):
        weight_parameters(np.ones((4, 64), np.float32), scheme, 0, CalibrationMethod.MINMAX)
