"""Notes on ops that multiply and yet stay in fp32: which ones, and why."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
from torch import fx

from autotune.adapters.pytorch.fold import CONVOLUTIONS
from autotune.adapters.pytorch.graph import ATEN, constant_of, is_tensor
from autotune.adapters.pytorch.ops import LINEAR, QuantizableOp
from autotune.adapters.pytorch.recurrent import RECURRENT, recurrence, why_not
from autotune.notes import listed

_TRANSPOSED = "Inductor has no integer kernel for transposed convolutions"
_PRODUCT = "it is no `nn.Linear`, whose form Inductor's integer kernels have"
_REASONS = {
    ATEN.rnn_tanh.input: "recurrent ops in int8 are LSTM and GRU",
    ATEN.rnn_relu.input: "recurrent ops in int8 are LSTM and GRU",
    ATEN.conv_transpose1d.default: _TRANSPOSED,
    ATEN.conv_transpose2d.input: _TRANSPOSED,
    ATEN.conv_transpose3d.input: _TRANSPOSED,
    ATEN.matmul.default: _PRODUCT,
    ATEN.mm.default: _PRODUCT,
    ATEN.bmm.default: _PRODUCT,
    ATEN.addmm.default: _PRODUCT,
    ATEN.baddbmm.default: _PRODUCT,
    ATEN.einsum.default: _PRODUCT,
    ATEN.bilinear.default: _PRODUCT,
    ATEN.scaled_dot_product_attention.default: "attention multiplies activations by one another, for which Inductor "
    "has no integer kernel",
}
"""By op that multiplies: why none of its kind is int8."""

_ONNX_RUNTIME = "ONNX Runtime has an LSTM in dynamic int8: tune with `runtimes=['onnxruntime']`"


def lines_on_left(module: fx.GraphModule, ops: Sequence[QuantizableOp], names: Mapping[str, str]) -> list[str]:
    """A line for each reason, with the ops that it holds for.

    Args:
        module: A flat graph in fp32.
        ops: Those that can be quantized.
        names: The user's names for the ops, by the names of their nodes.
    """
    offered = {op.node for op in ops}
    left: defaultdict[str, list[str]] = defaultdict(list)
    for node in module.graph.nodes:
        reason = None if node.op != "call_function" or node.name in offered else _reason(module, node)
        if reason is not None:
            left[reason].append(names[node.name])
    return [f"{listed(found)}: fp32 on PyTorch, since {reason}" for reason, found in left.items()]


def _reason(module: fx.GraphModule, node: fx.Node) -> str | None:
    """Why an op is not among those that can be quantized; None for one that multiplies nothing."""
    if node.target in RECURRENT:
        way = f". {_ONNX_RUNTIME}" if recurrence(node).kind == "LSTM" else ""
        return f"{why_not(module, node)}{way}"
    if node.target in CONVOLUTIONS or node.target is LINEAR:
        return _reason_of_layer(module, node)
    return _REASONS.get(node.target)


def _reason_of_layer(module: fx.GraphModule, node: fx.Node) -> str:
    source, weight = node.args[0], constant_of(module, node.args[1])
    if weight is None:
        return "its weight is computed from the inputs"
    if weight.dtype is not torch.float32 or not isinstance(source, fx.Node) or not is_tensor(source):
        return f"its weight is {str(weight.dtype).removeprefix('torch.')}"
    if weight.ndim == 5:
        return "Inductor has no integer kernel for convolutions of three dimensions"
    return "with one input channel, the int8 kernel that Inductor compiles computes something else"
