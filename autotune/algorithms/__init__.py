"""Algorithms that know no framework: arrays in, arrays out, the same for every adapter."""

from autotune.algorithms.affine import (
    AffineParameters,
    affine_parameters,
    dequantize,
    fake_quantize,
    integer_range,
    quantize,
    representable,
    weight_parameters,
)
from autotune.algorithms.ranges import activation_range, noise_to_signal
from autotune.algorithms.saturation import WeightLimits, can_saturate

__all__ = [
    "AffineParameters",
    "WeightLimits",
    "activation_range",
    "affine_parameters",
    "can_saturate",
    "dequantize",
    "fake_quantize",
    "integer_range",
    "noise_to_signal",
    "quantize",
    "representable",
    "weight_parameters",
]
