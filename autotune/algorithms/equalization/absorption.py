"""High-bias absorption: move what a channel always has over into the bias of the convolution that reads it.

Follows M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv 1906.04721),
section 4.1.3: where a channel stays above ``c`` before a Relu, ``Relu(x) = Relu(x - c) + c``, and the constant passes
through the next convolution into its bias. The range to quantize shrinks by ``c``. The paper takes
``c = max(0, mean - 3 * deviation)``; here ``c`` stays below the smallest value of the channel in calibration as well,
so that nothing changes on data like that. A convolution that pads would meet zeros at its borders where it expects
``-c``, so that its input keeps its offset.

Costs no pass over data.
"""

from __future__ import annotations

import numpy as np

from autotune.adapter import Array
from autotune.algorithms.equalization.pairs import ConvPair, scale_inputs
from autotune.calibration import ChannelMoments

_DEVIATIONS = 3.0


def absorb_bias(constants: dict[str, Array], pair: ConvPair, written: ChannelMoments | None) -> Array:
    """Move the offset of each channel between a pair from the first bias to the second.

    Args:
        constants: Weights and biases by name; the two biases are replaced.
        pair: The convolutions.
        written: Moments of what the first one writes, before the activation.

    Returns:
        The bias that each channel between them has lost, shape (C,), zero where nothing can be absorbed.
    """
    channels = constants[pair.first.weight].shape[0]
    none = np.zeros(channels, np.float32)
    if written is None or pair.activation is None or pair.padded or pair.first.bias is None or pair.second.bias is None:
        return none
    floor = np.minimum(written.mean - _DEVIATIONS * np.sqrt(written.variance), written.minimum)
    shift = np.asarray(np.maximum(floor, 0.0), np.float32)
    if pair.cap < np.inf:
        shift = np.where(written.maximum < pair.cap, shift, 0.0).astype(np.float32)
    if not shift.any():
        return none
    weight = constants[pair.second.weight]
    carried = scale_inputs(weight, shift, pair.groups).reshape(weight.shape[0], -1).sum(axis=1, dtype=np.float64)
    constants[pair.first.bias] = np.asarray(constants[pair.first.bias] - shift, np.float32)
    constants[pair.second.bias] = np.asarray(constants[pair.second.bias] + carried, np.float32)
    return shift
