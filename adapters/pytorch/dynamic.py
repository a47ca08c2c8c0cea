"""Integers of a tensor whose range is found in every call."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from autotune.adapters.pytorch.graph import ATEN
from autotune.adapters.pytorch.quick import QUANTIZED

_LOW, _HIGH = 0, 255
"""Integers of activations, which are u8."""

_EPSILON = float(torch.finfo(torch.float32).eps)
"""The smallest scale."""

Ends = tuple[fx.Node, fx.Node, int, int, torch.dtype]
"""Scale and zero point, least and greatest integer, and their type: the arguments of the dequantize node."""


def dynamic_integers(graph: fx.Graph, source: fx.Node) -> tuple[fx.Node, Ends]:
    """Write nodes that quantize a tensor by its own range, in which zero always lies.

    PyTorch's ``choose_qparams`` is not used: Inductor's form of it leaves zero out where all values have one sign, and
    then cuts off the largest of them (PyTorch 2.13).

    Args:
        graph: Its insertion point says where the nodes go.
        source: The tensor.
    """

    def call(target: Any, *args: Any) -> fx.Node:
        return graph.call_function(target, args)

    low = call(ATEN.clamp_max.default, call(ATEN.amin.default, source), 0.0)
    high = call(ATEN.clamp_min.default, call(ATEN.amax.default, source), 0.0)
    step = call(ATEN.div.Tensor, call(ATEN.sub.Tensor, high, low), float(_HIGH - _LOW))
    real = call(ATEN.clamp_min.default, step, _EPSILON)
    below = call(ATEN.round.default, call(ATEN.neg.default, call(ATEN.div.Tensor, low, real)))
    scale = call(ATEN.to.dtype, real, torch.float64)
    zero_point = call(ATEN.to.dtype, call(ATEN.clamp.default, below, _LOW, _HIGH), torch.int64)
    ends = (scale, zero_point, _LOW, _HIGH, torch.uint8)
    return call(QUANTIZED.quantize_per_tensor.tensor, source, *ends), ends
