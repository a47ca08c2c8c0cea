"""Scales and zero points, and what they do to arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.config import CalibrationMethod, PerAxis, PerGroup, QuantizedType, TensorScheme

_Float32 = npt.NDArray[np.float32]

_SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""The smallest normal float32: hardware that flushes denormals would divide by zero below it."""

_BLOCK = 1 << 16
"""Weights worked on at a time: 256 KiB of float32, which stays in a core's second-level cache."""


@dataclass(frozen=True, eq=False)
class AffineParameters:
    """``real = scale * (integer - zero_point)``.

    Attributes:
        scale: float32, shape () for one scale per tensor or (C,) for one per channel; positive and normal.
        zero_point: int8 or uint8, as the quantized type is; the shape of ``scale``.
    """

    scale: _Float32
    zero_point: npt.NDArray[np.int8] | npt.NDArray[np.uint8]


def integer_range(scheme: TensorScheme, *, reduce_range: bool = False) -> tuple[int, int]:
    """The smallest and the largest integer in use.

    ==================  ===========  ================
    scheme              8 bits       reduced
    ==================  ===========  ================
    s8 symmetric        -127 … 127   -64 … 64
    s8 asymmetric       -128 … 127   -64 … 64
    u8 symmetric           1 … 255    64 … 192
    u8 asymmetric          0 … 255    64 … 192
    ==================  ===========  ================

    Reduced weights are for CPUs without VNNI, which add two products of an u8 activation and an s8 weight in 16 bits:
    ``2 * 255 * 64 = 32640 <= 32767``, while 65 would exceed it. u8 weights move along with the 128 by which kernels
    turn them into s8.
    """
    offset = 128 if scheme.dtype is QuantizedType.U8 else 0
    if reduce_range:
        return offset - 64, offset + 64
    return offset - (127 if scheme.symmetric else 128), offset + 127


def representable(parameters: AffineParameters, dtype: QuantizedType) -> tuple[float, float]:
    """The smallest and the largest value that a tensor's integers can say."""
    smallest, largest = integer_range(TensorScheme(dtype=dtype))
    scale, zero_point = float(parameters.scale), int(parameters.zero_point)
    return scale * (smallest - zero_point), scale * (largest - zero_point)


def affine_parameters(
    low: npt.ArrayLike, high: npt.ArrayLike, scheme: TensorScheme, *, reduce_range: bool = False
) -> AffineParameters:
    """The scale and zero point that map a range to integers; zero is one of the values that come out exactly.

    Args:
        low: Lower end, a number or shape (C,). Values above zero count as zero.
        high: Upper end, likewise. Values below zero count as zero.
        scheme: Symmetric ones take the larger magnitude for both ends.
        reduce_range: Leave a bit unused, see :func:`integer_range`.

    Raises:
        ValueError: An end is not finite, or ``low > high``.
    """
    lower, upper = np.asarray(low, np.float64), np.asarray(high, np.float64)
    if not (np.isfinite(lower).all() and np.isfinite(upper).all() and (lower <= upper).all()):
        raise ValueError(f"`low <= high` must hold and both be finite, but got {low!r}, {high!r}")
    lower, upper = np.minimum(lower, 0.0), np.maximum(upper, 0.0)
    smallest, largest = integer_range(scheme, reduce_range=reduce_range)
    storage = _storage(scheme)
    if scheme.symmetric:
        zero = 128 if scheme.dtype is QuantizedType.U8 else 0
        scale = _scale(np.maximum(-lower, upper) / (largest - zero))
        return AffineParameters(scale, np.full(scale.shape, zero, storage))
    scale = _scale((upper - lower) / (largest - smallest))
    zero_point = np.clip(np.rint(smallest - lower / scale), smallest, largest)
    return AffineParameters(scale, np.asarray(zero_point).astype(storage))


def quantize(
    array: npt.NDArray[Any],
    params: AffineParameters,
    scheme: TensorScheme,
    axis: int | None = None,
    *,
    reduce_range: bool = False,
) -> npt.NDArray[Any]:
    """Round to the nearest integer, halves to even, as ONNX's QuantizeLinear does, and saturate.

    Args:
        array: Real values.
        params: Scale and zero point of the tensor, or of each channel along ``axis``.
        scheme: Scheme of the integers.
        axis: Needed where ``params`` are per channel.
        reduce_range: Saturate at the reduced range, see :func:`integer_range`.

    Returns:
        int8 or uint8, the shape of ``array``.
    """
    scale, zero_point = _broadcast(params, array.ndim, axis)
    smallest, largest = integer_range(scheme, reduce_range=reduce_range)
    integers = np.rint(array.astype(np.float32, copy=False) / scale) + zero_point
    return np.asarray(np.clip(integers, smallest, largest)).astype(_storage(scheme))


def dequantize(
    integers: npt.NDArray[Any], params: AffineParameters, scheme: TensorScheme, axis: int | None = None
) -> _Float32:
    """The real values that integers stand for: float32, the shape of ``integers``.

    Raises:
        ValueError: The integers are not of the scheme's type.
    """
    if integers.dtype != _storage(scheme):
        raise ValueError(f"Integers of scheme '{scheme}' must be {_storage(scheme)}, but are {integers.dtype}")
    scale, zero_point = _broadcast(params, integers.ndim, axis)
    return np.asarray((integers.astype(np.float32) - zero_point) * scale, np.float32)


def fake_quantize(
    array: npt.NDArray[Any],
    params: AffineParameters,
    scheme: TensorScheme,
    axis: int | None = None,
    *,
    reduce_range: bool = False,
) -> _Float32:
    """Quantize and dequantize: what is left of the values, float32."""
    return dequantize(quantize(array, params, scheme, axis, reduce_range=reduce_range), params, scheme, axis)


def weight_parameters(
    weight: npt.NDArray[Any],
    scheme: TensorScheme,
    axis: int,
    algorithm: CalibrationMethod,
    reduce_range: bool = False,
) -> AffineParameters:
    """Scales and zero points of a constant weight, from its own values.

    Args:
        weight: Real values.
        scheme: The weight's scheme, whose granularity says whether there is one scale for all or one per channel.
        axis: Axis that counts output channels; negative ones count from the end.
        algorithm: ``MINMAX`` keeps every value. ``MSE`` clips each channel (or the tensor) where that lessens the
            squared error; the error of every candidate is computed exactly, and none is worse than ``MINMAX``.
        reduce_range: Leave a bit unused, see :func:`integer_range`.

    Returns:
        Shape () per tensor, (C,) per channel.

    Raises:
        ValueError: The algorithm is another one, the weight is not finite, or groups are asked for, whose scales have
            another shape.
    """
    if isinstance(scheme.granularity, PerGroup):
        raise ValueError(f"Scales are one for the tensor or one per channel, but got {scheme.granularity}")
    if algorithm not in (CalibrationMethod.MINMAX, CalibrationMethod.MSE):
        raise ValueError(f"Weights are quantized by 'minmax' or 'mse', but got '{algorithm}'")
    per_channel = isinstance(scheme.granularity, PerAxis)
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1) if per_channel else weight.reshape(1, -1)
    rows = np.ascontiguousarray(rows, np.float32)
    low = rows.min(axis=1, initial=0.0).astype(np.float64)
    high = rows.max(axis=1, initial=0.0).astype(np.float64)
    if scheme.symmetric:
        high = np.maximum(-low, high)
        low = -high
    if algorithm is CalibrationMethod.MSE:
        low, high = _clip_ends(rows, low, high, scheme, reduce_range)
    if not per_channel:
        low, high = low[0], high[0]
    return affine_parameters(low, high, scheme, reduce_range=reduce_range)


def _clip_ends(
    rows: _Float32,
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    scheme: TensorScheme,
    reduce_range: bool,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The ends with the least squared error for each row: both shrunk together first, then each end by itself."""
    best = np.ones(len(rows)), np.ones(len(rows))
    error = _squared_errors(rows, low, high, scheme, reduce_range)
    together = [(ratio, ratio) for ratio in np.linspace(0.4, 0.98, 30)]
    sides = ((1.0, 0.0), (0.0, 1.0)) if not scheme.symmetric else ((1.0, 1.0),)
    fine = [(step * side[0], step * side[1]) for side in sides for step in (-0.12, -0.06, -0.03, -0.01, 0.01, 0.03)]
    for candidates, relative in ((together, False), (fine, True)):
        for low_ratio, high_ratio in candidates:
            if relative:
                trial = np.clip(best[0] + low_ratio, 0.0, 1.0), np.clip(best[1] + high_ratio, 0.0, 1.0)
            else:
                trial = np.full(len(rows), low_ratio), np.full(len(rows), high_ratio)
            candidate = _squared_errors(rows, low * trial[0], high * trial[1], scheme, reduce_range)
            better = candidate < error
            error = np.where(better, candidate, error)
            best = np.where(better, trial[0], best[0]), np.where(better, trial[1], best[1])
    return low * best[0], high * best[1]


def _squared_errors(
    rows: _Float32,
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    scheme: TensorScheme,
    reduce_range: bool,
) -> npt.NDArray[np.float64]:
    """The summed squared error of each row when it is quantized to its own range."""
    params = affine_parameters(low, high, scheme, reduce_range=reduce_range)
    smallest, largest = integer_range(scheme, reduce_range=reduce_range)
    zero_point = params.zero_point.astype(np.float32)
    errors = np.zeros(len(rows))
    columns = min(rows.shape[1], _BLOCK)
    height = max(1, _BLOCK // max(columns, 1))
    for top in range(0, len(rows), height):
        scale = params.scale[top : top + height, None]
        zero = zero_point[top : top + height, None]
        for left in range(0, rows.shape[1], columns):
            part = rows[top : top + height, left : left + columns]
            rounded = part / scale
            np.rint(rounded, out=rounded)
            np.clip(rounded, smallest - zero, largest - zero, out=rounded)
            rounded *= scale
            rounded -= part
            errors[top : top + height] += np.vecdot(rounded, rounded)
    return errors


def _scale(scale: npt.ArrayLike) -> _Float32:
    """Convert scales to float32; an empty range gets 1, and none is denormal."""
    values = np.asarray(scale, np.float64)
    return np.where(values > 0, np.maximum(values, _SMALLEST_SCALE), 1.0).astype(np.float32)


def _storage(scheme: TensorScheme) -> np.dtype[Any]:
    return np.dtype(np.uint8 if scheme.dtype is QuantizedType.U8 else np.int8)


def _broadcast(params: AffineParameters, ndim: int, axis: int | None) -> tuple[_Float32, _Float32]:
    """Scale and zero point, as float32, in a shape that meets an array of ``ndim`` dimensions.

    Raises:
        ValueError: The parameters are per channel and no axis is given.
    """
    zero_point = params.zero_point.astype(np.float32)
    if params.scale.ndim == 0:
        return params.scale, zero_point
    if axis is None:
        raise ValueError(f"Parameters of {params.scale.size} channels need the `axis` that counts them, but got None")
    shape = [1] * ndim
    shape[axis] = params.scale.size
    return params.scale.reshape(shape), zero_point.reshape(shape)
