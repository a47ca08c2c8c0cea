"""Small ONNX graphs, built by the tests that need them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array

Shape = Sequence[int | str]


def build(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape | None],
    constants: Mapping[str, Array],
    *,
    opset: int = 17,
    elem_type: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info(name, elem_type, list(shape)) for name, shape in inputs.items()],
        [
            helper.make_tensor_value_info(name, elem_type, None if shape is None else list(shape))
            for name, shape in outputs.items()
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node named after its output."""
    names = outputs.split()
    return helper.make_node(op_type, inputs.split(), names, name=names[0], **attributes)


def normal(*shape: int, seed: int = 0, scale: float = 0.3) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def around(
    middle: Sequence[onnx.NodeProto], last: str, *, constants: Mapping[str, Array] | None = None, opset: int = 17
) -> onnx.ModelProto:
    """Nodes between two convolutions: the first writes ``a`` (N, 8, 8, 8), the second, ``second``, reads ``last``."""
    nodes = [
        node("Conv", "x w1 b1", "a", pads=[1, 1, 1, 1]),
        *middle,
        node("Conv", f"{last} w2 b2", "second", pads=[1, 1, 1, 1]),
    ]
    weights = {
        "w1": normal(8, 3, 3, 3),
        "b1": normal(8, seed=1),
        "w2": normal(4, 8, 3, 3, seed=2),
        "b2": normal(4, seed=3),
    }
    return build(nodes, {"x": ("N", 3, 8, 8)}, {"second": None}, {**weights, **(constants or {})}, opset=opset)


def image_batches(
    count: int = 2, *, size: int = 4, shape: Sequence[int] = (3, 8, 8), name: str = "x"
) -> list[dict[str, Array]]:
    return [{name: normal(size, *shape, seed=100 + index, scale=1.0)} for index in range(count)]


def small_cnn(channels: int = 32) -> onnx.ModelProto:
    """Convolution, depthwise convolution with ReLU6, residual Add, average pool, classifier; ``x`` to ``logits``."""
    nodes = [
        node("Conv", "x w1", "c1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c1 gamma beta mean variance", "n1"),
        node("Relu", "n1", "r1"),
        node("Conv", "r1 w2 b2", "c2", pads=[1, 1, 1, 1], group=channels),
        node("Clip", "c2 zero six", "r2"),
        node("Conv", "r2 w3 b3", "c3"),
        node("Add", "c3 r1", "sum"),
        node("GlobalAveragePool", "sum", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("Gemm", "flat w4 b4", "logits", transB=1),
    ]
    constants = {
        "w1": normal(channels, 3, 3, 3),
        "gamma": 1.0 + normal(channels, seed=1),
        "beta": normal(channels, seed=2),
        "mean": normal(channels, seed=3),
        "variance": 0.5 + np.square(normal(channels, seed=4)),
        "w2": normal(channels, 1, 3, 3, seed=5),
        "b2": normal(channels, seed=6),
        "zero": np.array(0, dtype=np.float32),
        "six": np.array(6, dtype=np.float32),
        "w3": normal(channels, channels, 1, 1, seed=7),
        "b3": normal(channels, seed=8),
        "w4": normal(500, channels, seed=9),
        "b4": normal(500, seed=10),
    }
    return build(nodes, {"x": ("N", 3, 8, 8)}, {"logits": ("N", 500)}, constants)
