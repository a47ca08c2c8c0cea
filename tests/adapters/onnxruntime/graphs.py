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
