"""Which integers the weight of an op may become: in what order its kernel sums, and what the recipe bounds."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from autotune.adapter import Array
from autotune.adapters.onnx.graph import attributes
from autotune.algorithms.saturation import WeightLimits, weight_limits
from autotune.config import Recipe, TensorScheme

_CONVOLUTIONS = frozenset({"Conv", "QLinearConv", "ConvInteger"})


def summed_columns(node: onnx.NodeProto, weight: Array) -> Array | None:
    """The weight in the order in which it is summed up, shape (summed, outputs); None for a depthwise convolution.

    The kernels of those widen both sides to 16 bits before they multiply
    (``onnxruntime/core/mlas/lib/intrinsics/avx2/qdwconv_avx2.cpp``).
    """
    if node.op_type in _CONVOLUTIONS:
        if weight.shape[1] == 1 and weight.shape[0] > 1 and weight.shape[0] == attributes(node).get("group", 1):
            return None
        # Kernels read pictures channels last: neighbours are channels of one position.
        order = (*range(2, weight.ndim), 1, 0)
        return weight.transpose(order).reshape(-1, weight.shape[0])
    if node.op_type in ("Gemm", "QGemm") and attributes(node).get("transB", 0):
        return weight.T
    return np.moveaxis(weight, -2, 0).reshape(weight.shape[-2], -1) if weight.ndim > 1 else weight[:, None]


def op_limits(node: onnx.NodeProto, shape: Sequence[int], scheme: TensorScheme, recipe: Recipe) -> WeightLimits:
    """The limits of an op's weight.

    Args:
        node: The fp32 node.
        shape: Shape of the op's weight.
        scheme: How the weight is quantized.
        recipe: The candidate's recipe.
    """
    if not recipe.bound_pairs:
        return WeightLimits(reduce_range=recipe.reduce_range)
    return weight_limits(summed_columns(node, np.arange(int(np.prod(shape))).reshape(shape)), scheme, recipe)
