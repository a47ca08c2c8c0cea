"""The real models in Keras: each layer of the ONNX file as a Keras layer with the same weights, channels last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper


def keras_model(path: Path, size: int) -> Any:
    """A ``keras.Model`` that computes what an ONNX file of convolutions does.

    Args:
        path: The file.
        size: Side of its square input, in pixels.
    """
    graph = onnx.load(path).graph
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    constants |= {
        node.output[0]: constants[node.input[0]]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in constants
    }
    entry = keras.Input((size, size, 3), name="data")
    tensors: dict[str, Any] = {graph.input[0].name: entry}
    weights: list[tuple[Any, list[Any]]] = []
    for node in graph.node:
        if node.op_type != "Identity":
            tensors[node.output[0]] = _layer(node, tensors, constants, weights)
    model = keras.Model(entry, tensors[graph.output[0].name], name=path.stem)
    for layer, values in weights:
        layer.set_weights(values)
    return model


def _layer(node: Any, tensors: dict[str, Any], constants: dict[str, Any], weights: list[tuple[Any, list[Any]]]) -> Any:
    options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    reads = [tensors[name] for name in node.input if name in tensors]
    values = [constants[name] for name in node.input if name in constants]
    layers = keras.layers
    if node.op_type == "Conv":
        return _convolution(reads[0], options, values, weights)
    if node.op_type == "BatchNormalization":
        layer = layers.BatchNormalization(epsilon=options["epsilon"])
        weights.append((layer, values))
        return layer(reads[0])
    if node.op_type == "Gemm":
        layer = layers.Dense(len(values[1]))
        weights.append((layer, [np.transpose(values[0]), values[1]]))
        return layer(reads[0])
    simple = {
        "Relu": lambda: layers.ReLU()(reads[0]),
        "Clip": lambda: layers.ReLU(6.0)(reads[0]),
        "Add": lambda: layers.Add()(reads),
        "GlobalAveragePool": lambda: layers.GlobalAveragePooling2D()(reads[0]),
        "Flatten": lambda: reads[0],
    }
    return simple[node.op_type]()


def _convolution(x: Any, options: dict[str, Any], values: list[Any], weights: list[tuple[Any, list[Any]]]) -> Any:
    layers = keras.layers
    weight, biased, stride = values[0], len(values) > 1, options["strides"][0]
    same = stride == 1 and options["pads"][0] == (weight.shape[2] - 1) // 2
    if not same and any(options["pads"]):
        x = layers.ZeroPadding2D(options["pads"][0])(x)
    common = {"strides": stride, "padding": "same" if same else "valid", "use_bias": biased}
    if options["group"] == 1:
        layer = layers.Conv2D(weight.shape[0], weight.shape[2], **common)
        rows = weight.transpose(2, 3, 1, 0)
    else:
        layer = layers.DepthwiseConv2D(weight.shape[2], **common)
        rows = weight.transpose(2, 3, 0, 1)
    result = layer(x)
    weights.append((layer, [rows, *values[1:]]))
    return result
