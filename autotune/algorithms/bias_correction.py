"""Fast bias correction: what quantized weights add to an op's mean output is taken from its bias.

Follows M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
section 4.2: with ``dW`` the error of the weights, the output of a layer shifts by ``E[x] dW`` on average. ``E[x]`` is
taken from the calibration statistics here, rather than from batch normalization.

Costs no pass over data. What the errors of earlier ops do to ``E[x]`` stays; :mod:`.layerwise` corrects that as well.
"""

from __future__ import annotations

import numpy as np

from autotune.adapter import Array


def convolution_shift(error: Array, mean: Array, groups: int) -> Array:
    """By how much a convolution's mean output is shifted; its zero padding, where mean inputs are smaller, is ignored.

    Args:
        error: Quantized minus original weight, shape (outputs, inputs / groups, kernel...).
        mean: Of each input channel, shape (inputs,).
        groups: Of the convolution.

    Returns:
        float64, shape (outputs,).
    """
    outputs, inputs = error.shape[:2]
    split = error.astype(np.float64).reshape(groups, outputs // groups, inputs, -1).sum(axis=3)
    return np.asarray(np.einsum("goi,gi->go", split, mean.reshape(groups, inputs)).reshape(-1))


def matmul_shift(error: Array, mean: Array) -> Array:
    """The same for a matrix product; ``error`` has shape (outputs, inputs)."""
    return np.asarray(error.astype(np.float64) @ mean)
