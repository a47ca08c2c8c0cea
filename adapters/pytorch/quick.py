"""The form of a candidate that is judged for accuracy: computes what the compiled one does, by fewer and faster ops.

PyTorch runs the quantize and dequantize nodes that Inductor matches by several ops each. Here a pair of them is one
fused op, and weights are the real values that their integers stand for.
"""

from __future__ import annotations

import torch
from torch import fx

from autotune.adapters.pytorch.graph import ATEN, constant_of, copied, set_constant

QUANTIZED = torch.ops.quantized_decomposed


def quick_graph(module: fx.GraphModule) -> fx.GraphModule:
    """The graph with fused ops; the same where nothing is quantized."""
    if not any(node.target in _QUANTIZING for node in module.graph.nodes):
        return module
    made = copied(module)
    for node in list(made.graph.nodes):
        if node.target is QUANTIZED.dequantize_per_channel.default:
            _fold_weight(made, node)
        elif node.target is QUANTIZED.dequantize_per_tensor.default:
            _fuse(made.graph, node)
    made.graph.eliminate_dead_code()
    made.recompile()
    return made


_QUANTIZING = (QUANTIZED.dequantize_per_channel.default, QUANTIZED.dequantize_per_tensor.default)


def _fold_weight(made: fx.GraphModule, node: fx.Node) -> None:
    integers, scales = (constant_of(made, each) for each in node.args[:2])
    assert integers is not None
    assert scales is not None
    name = f"{node.name}_real"
    set_constant(made, name, integers.float() * scales.view(-1, *[1] * (integers.ndim - 1)))
    with made.graph.inserting_before(node):
        node.replace_all_uses_with(made.graph.get_attr(name))


def _fuse(graph: fx.Graph, node: fx.Node) -> None:
    """Put one op in the place of a quantization and a dequantization by the same constants."""
    (quantized, scale, zero_point, low, high, _) = node.args
    assert isinstance(quantized, fx.Node)
    assert quantized.target is QUANTIZED.quantize_per_tensor.default
    with graph.inserting_before(node):
        fused = graph.call_function(
            ATEN.fake_quantize_per_tensor_affine.default, (quantized.args[0], scale, zero_point, low, high)
        )
    node.replace_all_uses_with(fused)
