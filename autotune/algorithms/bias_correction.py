"""Fast bias correction: what quantized weights add to an op's mean output is taken from its bias.

Follows M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
section 4.2: with ``dW`` the error of the weights, the output of a layer shifts by ``E[x] dW`` on average. ``E[x]`` is
taken from the calibration statistics here, rather than from batch normalization.

Costs no pass over data. The effect of earlier ops' errors on ``E[x]`` stays; :mod:`.layerwise` corrects that as well.
"""

from __future__ import annotations

import numpy as np

from autotune.adapter import Array
from autotune.algorithms.graph import Values


def convolution_shift(error: Array, mean: Array, groups: int) -> Array:
    """By how much a convolution's mean output is shifted; its zero padding, where mean inputs are smaller, is ignored.

    Args:
        error: Quantized minus original weight, shape (outputs, inputs / groups, kernel...).
        mean: Mean of each input channel, shape (inputs,).
        groups: Groups of the convolution.

    Returns:
        float64, shape (outputs,).
    """
    outputs, inputs = error.shape[:2]
    split = error.astype(np.float64).reshape(groups, outputs // groups, inputs, -1).sum(axis=3)
    return np.asarray(np.einsum("goi,gi->go", split, mean.reshape(groups, inputs)).reshape(-1))


def matmul_shift(error: Array, mean: Array) -> Array:
    """The same for a matrix product; ``error`` has shape (outputs, inputs)."""
    return np.asarray(error.astype(np.float64) @ mean)


def mean_difference(values: Values, target: Values, axis: int) -> Array:
    """By how much values lie above others on average, each channel for itself.

    Args:
        values: Arrays with their channels along ``axis``.
        target: As many outputs, of the same shapes.
        axis: 1 for what convolutions write, -1 for what matrix products do.

    Returns:
        float64, shape (C,).
    """
    sums = []
    for array, other in zip(values, target, strict=True):
        # One sample at a time adds up in float32, all of them in float64.
        samples = (
            (array - other).reshape(len(array), array.shape[axis], -1) if axis == 1 else (array - other)[..., None]
        )
        inner = samples.sum(axis=-1).astype(np.float64)
        sums.append(inner.reshape(-1, array.shape[axis]).sum(axis=0))
    count = sum(a.size // a.shape[axis] for a in values)
    return np.asarray(sum(sums) / max(count, 1))
