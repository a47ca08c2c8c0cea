from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from autotune.algorithms import WeightLimits, can_saturate, quantize, weight_parameters
from autotune.algorithms.affine import AffineParameters
from autotune.algorithms.saturation import weight_limits
from autotune.config import CalibrationMethod, Granularity, QuantizedType, Recipe, TensorScheme

PER_CHANNEL = TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=Granularity.PER_CHANNEL)
PER_TENSOR = dataclasses.replace(PER_CHANNEL, granularity=Granularity.PER_TENSOR)
METHODS = [CalibrationMethod.MINMAX, CalibrationMethod.MSE]

Weights = npt.NDArray[np.float32]


def rows(count: int = 16, summed: int = 288, seed: int = 0) -> Weights:
    return np.random.default_rng(seed).standard_normal((count, summed)).astype(np.float32)


def limits_of(weight: Weights) -> WeightLimits:
    """Summed along the last axis, outputs first."""
    return WeightLimits(order=np.arange(weight.size).reshape(weight.shape).T)


def saturates_by_the_instruction(integers: npt.NDArray[Any]) -> bool:
    """Both neighbours at both extremes of an u8 activation, summed in 16 bits."""
    wide = integers.astype(np.int64)
    ends = [a * wide[:, :-1] + b * wide[:, 1:] for a in (0, 255) for b in (0, 255)]
    return any(bool((each < -32768).any() or (each > 32767).any()) for each in ends)


@given(
    weight=arrays(
        np.float32,
        array_shapes(min_dims=2, max_dims=2, max_side=9),
        elements=st.floats(-1000, 1000, width=32) | st.sampled_from([0.0, 63.5, 64.0, 64.5, -64.5, 127.0, -127.0]),
    ),
    scheme=st.sampled_from([PER_CHANNEL, PER_TENSOR]),
    method=st.sampled_from(METHODS),
    shrink=st.sampled_from([1.0, 0.9, 0.1]),
)
@settings(max_examples=300, deadline=None)
def test_no_weight_saturates_whatever_its_scales(
    weight: Weights, scheme: TensorScheme, method: CalibrationMethod, shrink: float
) -> None:
    limits = limits_of(weight)
    parameters = limits.parameters(weight, scheme, 0, method)
    scales = np.maximum(parameters.scale * np.float32(shrink), np.finfo(np.float32).tiny).astype(np.float32)
    axis = 0 if scales.ndim else None
    integers = limits.quantize(weight, AffineParameters(scales, parameters.zero_point), scheme, axis)
    assert integers.dtype == np.int8
    assert np.abs(integers.astype(int)).max() <= 127
    assert not saturates_by_the_instruction(integers)
    assert not can_saturate(integers.T)


@pytest.mark.parametrize("scheme", [PER_CHANNEL, PER_TENSOR])
def test_scales_are_the_smallest_that_keep_their_own_neighbours_within_the_bound(scheme: TensorScheme) -> None:
    weight = rows()
    limits = limits_of(weight)
    parameters = limits.parameters(weight, scheme, 0, CalibrationMethod.MINMAX)
    axis = 0 if scheme is PER_CHANNEL else None
    assert not can_saturate(quantize(weight, parameters, scheme, axis).T)  # no integer had to be reduced
    smaller = AffineParameters((parameters.scale * 0.98).astype(np.float32), parameters.zero_point)
    broken = [
        can_saturate(quantize(weight, smaller, scheme, axis)[index : index + 1].T) for index in range(len(weight))
    ]
    assert all(broken) if scheme is PER_CHANNEL else any(broken)


def test_bell_shaped_weights_lose_half_as_much_as_with_seven_bits() -> None:
    weight = rows(64)
    errors = []
    for limits in (WeightLimits(), limits_of(weight), WeightLimits(reduce_range=True)):
        parameters = limits.parameters(weight, PER_CHANNEL, 0, CalibrationMethod.MINMAX)
        left = limits.fake_quantize(weight, parameters, PER_CHANNEL, 0)
        errors.append(10 * np.log10(np.square(left - weight).mean()))
    eight, pairs, seven = errors
    assert eight < pairs
    assert seven - pairs > 2.5


@given(arrays(np.float32, (3, 8), elements=st.floats(-5, 5, width=32)))
@settings(deadline=None)
def test_no_scale_is_larger_than_that_of_seven_bits(weight: Weights) -> None:
    bounded = limits_of(weight).parameters(weight, PER_CHANNEL, 0, CalibrationMethod.MINMAX)
    reduced = weight_parameters(weight, PER_CHANNEL, 0, CalibrationMethod.MINMAX, reduce_range=True)
    assert (bounded.scale <= reduced.scale * np.float32(1.000001)).all()


def test_weights_whose_neighbours_differ_in_sign_keep_eight_bits() -> None:
    weight = np.tile(np.array([[1.0, -1.0]], np.float32), (2, 5))
    limits = limits_of(weight)
    parameters = limits.parameters(weight, PER_CHANNEL, 0, CalibrationMethod.MINMAX)
    assert np.abs(limits.quantize(weight, parameters, PER_CHANNEL, 0)).min() == 127


def test_an_outlier_that_mse_cuts_off_does_not_widen_the_scale() -> None:
    weight = rows(1, 20000)
    weight[0, 100] = 40.0
    limits = limits_of(weight)
    wide, cut = (limits.parameters(weight, PER_CHANNEL, 0, method) for method in METHODS)
    assert cut.scale[0] < 0.95 * wide.scale[0]
    assert not can_saturate(limits.quantize(weight, cut, PER_CHANNEL, 0).T)


@pytest.mark.parametrize(
    ("integers", "expected"),
    [
        ([127, 3], [125, 3]),  # the larger gives way
        ([3, 127], [3, 125]),
        ([100, 90], [64, 64]),  # both, where both exceed half
        ([-127, -10, -127], [-118, -10, -118]),
        ([127, -127, 127], [127, -127, 127]),
        ([64, 64, 64], [64, 64, 64]),
    ],
)
def test_what_is_taken_back(integers: list[int], expected: list[int]) -> None:
    weight = np.array([integers], np.float32)
    one = AffineParameters(np.ones((), np.float32), np.zeros((), np.int8))
    assert limits_of(weight).quantize(weight, one, PER_TENSOR, None).tolist() == [expected]


def test_neighbours_of_a_convolution_are_channels_of_one_position() -> None:
    order = np.arange(2 * 2 * 3).reshape(2, 2, 3).transpose(2, 1, 0).reshape(-1, 2)  # (outputs, channels, width)
    found = WeightLimits(order=order).neighbours((2, 2, 3), 0)
    assert found is not None
    before, after = found
    # A row is c0w0 c0w1 c0w2 c1w0 c1w1 c1w2; the kernel sums c0w0 c1w0 c0w1 c1w1 c0w2 c1w2.
    assert list(before) == [-1, 3, 4, 0, 1, 2]
    assert list(after) == [3, 4, 5, 1, 2, -1]
    assert WeightLimits().neighbours((2, 2, 3), 0) is None


@pytest.mark.parametrize(
    ("recipe", "scheme", "summed", "expected"),
    [
        (Recipe(), PER_CHANNEL, 4, "free"),
        (Recipe(reduce_range=True), PER_CHANNEL, 4, "reduced"),
        (Recipe(bound_pairs=True), PER_CHANNEL, 4, "bound"),
        (Recipe(bound_pairs=True, reduce_range=True), PER_CHANNEL, 4, "reduced"),
        (Recipe(bound_pairs=True), dataclasses.replace(PER_CHANNEL, symmetric=False), 4, "reduced"),
        (Recipe(bound_pairs=True), dataclasses.replace(PER_CHANNEL, dtype=QuantizedType.U8), 4, "free"),
        (Recipe(bound_pairs=True), PER_CHANNEL, 1, "free"),
        (Recipe(bound_pairs=True), PER_CHANNEL, None, "free"),
    ],
)
def test_limits_are_as_strict_as_kernel_and_scheme_demand(
    recipe: Recipe, scheme: TensorScheme, summed: int | None, expected: str
) -> None:
    order = None if summed is None else np.arange(summed * 3).reshape(summed, 3)
    limits = weight_limits(order, scheme, recipe)
    found = "bound" if limits.order is not None else "reduced" if limits.reduce_range else "free"
    assert found == expected
