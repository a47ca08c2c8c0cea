"""Put this project's integers in the place of those that ai-edge-quantizer chose for weights and biases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.tensorflow.graph import INT8, INT32, Graph, text
from autotune.adapters.tensorflow.ops import TRANSPOSED, QuantizableOp
from autotune.adapters.tensorflow.recipe_entries import split
from autotune.adapters.tensorflow.unfuse import tensor_key
from autotune.algorithms.grids import WeightGrid

_LARGEST = np.iinfo(np.int32).max


def operators_by_output(graph: Graph) -> Mapping[str, Any]:
    """By short name of what it writes: the operator that writes it, conversions left out."""
    found: dict[str, Any] = {}
    for operator in graph.operators:
        if graph.kind(operator) not in ("QUANTIZE", "DEQUANTIZE"):
            for place in operator.outputs:
                found[split(text(graph.tensors[place].name))[0]] = operator
    return found


def ask_integers_for_shapes(graph: Graph) -> None:
    """Let SHAPE ops read integers where there are such, and drop the conversions that nothing else reads.

    The quantizer gives every op that is not int8 real values, also one that asks for no value.
    """
    sources = {int(each.outputs[0]): each for each in graph.operators if graph.kind(each) == "DEQUANTIZE"}
    freed = set()
    for operator in graph.operators:
        if graph.kind(operator) == "SHAPE" and int(operator.inputs[0]) in sources:
            freed.add(int(operator.inputs[0]))
            operator.inputs = [sources[int(operator.inputs[0])].inputs[0]]
    read = {int(place) for each in graph.operators for place in each.inputs} | set(graph.outputs)
    graph.main.operators = [
        each for each in graph.operators if int(each.outputs[0]) not in freed - read or graph.kind(each) != "DEQUANTIZE"
    ]


def keep_free_axes(graph: Graph) -> None:
    """Give what a QUANTIZE or DEQUANTIZE reads and writes the same free axes; the quantizer's new tensors have none."""
    for operator in graph.operators:
        if graph.kind(operator) not in ("QUANTIZE", "DEQUANTIZE"):
            continue
        source, target = (graph.tensors[each[0]] for each in (operator.inputs, operator.outputs))
        for given, other in ((source, target), (target, source)):
            if other.shapeSignature is None or len(other.shapeSignature) == 0:
                other.shapeSignature = given.shapeSignature


def put_integers(graph: Graph, op: QuantizableOp, grid: WeightGrid, rounded: Array, bias: Array | None) -> None:
    """Write the weight and the bias of one static int8 op.

    Args:
        graph: The graph that the quantizer made, with short names.
        op: The op.
        grid: Grid of its weight.
        rounded: The weight on the grid, in the grid's layout.
        bias: Its bias; None where it has none.
    """
    operator = operators_by_output(graph)[tensor_key(op.outputs[0])]
    weight = graph.tensors[operator.inputs[1]]
    if weight.type != INT8:
        return  # the quantizer left the op as it was, which kernels.py finds out
    scale = np.atleast_1d(np.asarray(grid.parameters.scale, np.float32))
    graph.set_constant(int(operator.inputs[1]), op.as_stored(grid.integers(rounded)))
    _set_scheme(weight, scale, op.axis if scale.size > 1 else 0)
    source = graph.tensors[operator.inputs[2 if op.kind == TRANSPOSED else 0]]
    at = 3 if op.kind == TRANSPOSED else 2
    if bias is None or len(operator.inputs) <= at or graph.tensors[operator.inputs[at]].type != INT32:
        return
    product = (np.float32(source.quantization.scale[0]) * scale).astype(np.float32)
    integers = np.clip(np.round(bias.astype(np.float64) / product), -_LARGEST, _LARGEST).astype(np.int32)
    graph.set_constant(int(operator.inputs[at]), integers)
    _set_scheme(graph.tensors[operator.inputs[at]], product, 0)


def _set_scheme(tensor: Any, scale: Array, axis: int) -> None:
    scheme = tensor.quantization
    scheme.scale = scale.tolist()
    scheme.zeroPoint = [0] * scale.size  # LiteRT wants as many as there are scales
    scheme.quantizedDimension = axis
