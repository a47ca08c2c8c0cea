"""Which operators this build of ONNX Runtime computes in float16 or bfloat16 on this CPU: found out by trying.

Where a float16 kernel is missing, ONNX Runtime computes in float32 between Casts of its own; where a bfloat16 kernel
is missing, it refuses the model. Which kernels there are changes with version, build and CPU: ONNX Runtime 1.32 on
x86-64 has none for MatMul, Gemm and Conv, 1.29 had float16 ones for MatMul and Gemm that are much slower than float32.
"""

from __future__ import annotations

import functools
from typing import Any

import onnx
import onnxruntime
from onnx import TensorProto, defs, helper

from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.session import optimized_graph
from autotune.config import Precision
from autotune.errors import ApplyError

HALF_TYPES = {Precision.FP16: TensorProto.FLOAT16, Precision.BF16: TensorProto.BFLOAT16}
"""``TensorProto.DataType`` of the precisions that have half the bits of fp32."""

_TRIED = "tried"


def defined_in(op_type: str, opset: int, precision: Precision) -> bool:
    """Whether the standard lets an operator, and the Cast before it, have this type in this opset."""
    name = f"tensor({TensorProto.DataType.Name(HALF_TYPES[precision]).lower()})"
    try:
        op, cast = (defs.get_schema(each, opset, "") for each in (op_type, "Cast"))
    except defs.SchemaError:
        return False
    return name in op.inputs[0].types and name in cast.outputs[0].types


def has_kernel(node: onnx.NodeProto, graph: Graph, precision: Precision) -> bool:
    """Whether a node has a kernel for what it reads if its floats become ``precision``.

    Args:
        node: Node of the standard operator set; its first input holds float32.
        graph: Graph of the model that it belongs to.
        precision: FP16 or BF16.
    """
    if not defined_in(node.op_type, graph.opset, precision):
        return False
    types = {name: graph.elem_type(name) for name in node.input[1:] if name}
    if not all(types.values()):
        return False
    ranks = {name: graph.rank(name) for name in node.input if name}
    tried = onnx.NodeProto()
    tried.CopyFrom(node)
    tried.name = _TRIED
    # Names do not matter to a kernel: nodes that are alike are tried once.
    names = {name: f"i{index}" for index, name in enumerate(ranks)}
    for index, name in enumerate(node.input):
        tried.input[index] = names.get(name, "")
    for index, name in enumerate(node.output):
        tried.output[index] = f"o{index}" if name else ""
    inputs = [
        helper.make_tensor_value_info(
            names[name],
            types.get(name, TensorProto.FLOAT),
            None if ranks[name] is None else [None] * int(ranks[name] or 0),
        )
        for name in ranks
    ]
    return computes_in(one_node_model(tried, inputs, (), HALF_TYPES[precision], graph.opset), HALF_TYPES[precision])


def one_node_model(
    node: onnx.NodeProto,
    inputs: list[onnx.ValueInfoProto],
    constants: tuple[TensorProto, ...],
    elem_type: int,
    opset: int,
) -> onnx.ModelProto:
    """A model of one node that reads and writes float32 and computes in ``elem_type``, between Casts.

    Args:
        node: Its name and the names of its inputs and outputs are kept. Its first output leaves the model.
        inputs: Inputs of the model. Those of float32 reach the node as ``elem_type``.
        constants: The other inputs of the node; as they are.
        elem_type: ``TensorProto.DataType``; FLOAT for a model without Casts.
        opset: Operator set of the standard operators.
    """
    inner = onnx.NodeProto()
    inner.CopyFrom(node)
    output = node.output[0]
    nodes = [inner]
    if elem_type != TensorProto.FLOAT:
        for value in inputs:
            if value.type.tensor_type.elem_type == TensorProto.FLOAT:
                cast = f"{value.name}_half"
                nodes.insert(0, helper.make_node("Cast", [value.name], [cast], cast, to=elem_type))
                for index, name in enumerate(inner.input):
                    inner.input[index] = cast if name == value.name else name
        inner.output[0] = f"{output}_half"
        nodes.append(helper.make_node("Cast", [inner.output[0]], [output], output, to=TensorProto.FLOAT))
    outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "one_node", inputs, outputs, list(constants))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def computes_in(model: onnx.ModelProto, elem_type: int) -> bool:
    """Whether ONNX Runtime executes the node called ``tried`` of a one-node model in this type."""
    return _executes(model.SerializeToString(deterministic=True), elem_type)


@functools.cache
def _executes(model: bytes, elem_type: int) -> bool:
    try:
        graph = optimized_graph(
            onnx.ModelProto.FromString(model), level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        ).graph
    except ApplyError:
        return False
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    for node in graph.node:
        if node.op_type == "Cast":
            types[node.output[0]] = next(a.i for a in node.attribute if a.name == "to")
        elif node.name == _TRIED:
            return types.get(node.input[0]) == elem_type
    return False  # taken apart into other operators


def tried_node(op_type: str, inputs: list[str], **attributes: Any) -> onnx.NodeProto:
    """A node that :func:`computes_in` recognises; it writes ``y``."""
    return helper.make_node(op_type, inputs, ["y"], _TRIED, **attributes)
