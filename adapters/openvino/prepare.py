"""Changes before quantization: constants in their shapes, batch normalizations folded into convolutions.

OpenVINO does both when it compiles a model; here it is done before weights become integers. Names stay: the convolution
keeps its own, and the Add that remains bears that of the normalization.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapters.openvino.model import OpenVinoModel
from autotune.adapters.openvino.ops import QuantizableOp, constant_value, quantizable_ops


def prepare(given: OpenVinoModel) -> OpenVinoModel:
    """The model to be quantized; ``given`` stays as it is."""
    graph = given.graph.clone()
    _reshape_constants(graph)
    for op in quantizable_ops(graph)[0]:
        if op.weight is not None:
            _fold(op)
    graph.validate_nodes_and_infer_types()
    _, left_out = quantizable_ops(graph)
    return dataclasses.replace(given, graph=graph, given=given, told=(*given.told, *left_out))


def _reshape_constants(graph: ov.Model) -> None:
    """Give constants the shape that they are read in; the ONNX reader computes it from those of other tensors."""
    for node in graph.get_ordered_ops():
        value = constant_value(node) if node.get_type_name() == "Reshape" else None
        if value is not None:
            shaped = opset.constant(np.ascontiguousarray(value))
            shaped.set_friendly_name(node.get_friendly_name())
            for reader in node.output(0).get_target_inputs():
                reader.replace_source_output(shaped.output(0))


def _fold(op: QuantizableOp) -> None:
    readers = list(op.node.output(0).get_target_inputs())
    if len(readers) != 1 or readers[0].get_node().get_type_name() != "BatchNormInference":
        return
    norm: ov.Node = readers[0].get_node()
    values = [constant_value(port.get_node()) for port in norm.input_values()[1:]]
    if readers[0].get_index() != 0 or any(value is None for value in values):
        return
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    scale = gamma / np.sqrt(variance + norm.get_attributes()["epsilon"])
    rows = op.rows
    folded = rows * scale.reshape(-1, *[1] * (rows.ndim - 1))
    weight = opset.constant(np.ascontiguousarray(op.as_read(folded), np.float32))
    weight.set_friendly_name(f"{op.name}/weight")
    op.node.input(1).replace_source_output(weight.output(0))
    shape = (1, -1, *[1] * (op.node.get_output_partial_shape(0).rank.get_length() - 2))
    bias = opset.constant(np.asarray(beta - mean * scale, np.float32).reshape(shape))
    bias.set_friendly_name(f"{op.name}/bias")
    add = opset.add(op.node, bias)
    add.set_friendly_name(norm.get_friendly_name())
    names = norm.output(0).get_names()
    for reader in norm.output(0).get_target_inputs():
        reader.replace_source_output(add.output(0))
    add.output(0).set_names(names)
