"""An ONNX graph as the recipes' algorithms see it, see :mod:`autotune.algorithms.graph`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from autotune.adapter import Array, Execution
from autotune.adapters.onnx.graph import Graph, attributes, clip_bounds, is_standard, outer_reads
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import set_constants
from autotune.adapters.onnx.session import open_session, session_options
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.algorithms.graph import Clip, Convolution, Layer, Node, Scaled, Sum, Values


class OnnxGraph:
    """The :class:`~autotune.algorithms.graph.LayerGraph` of a model; it must not outlive a change of the graph.

    Args:
        model: The model.
        ops: Its ops whose constant weights the algorithms may look at, and change.
    """

    def __init__(self, model: OnnxModel, ops: Sequence[QuantizableOp] = ()) -> None:
        self._model = model
        self._ops = ops
        self._protos = {writes[0]: proto for proto in model.proto.graph.node if (writes := _writes(proto))}
        self.constants: Mapping[str, Array] = _Constants(model)
        self.outputs: Collection[str] = {output.name for output in model.proto.graph.output}

    @cached_property
    def nodes(self) -> tuple[Node, ...]:
        """See :class:`~autotune.algorithms.graph.LayerGraph`."""
        return described(Graph(self._model.proto), self._ops)

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> dict[str, Values]:
        """See :class:`~autotune.algorithms.graph.LayerGraph`."""
        given = constants or {}
        inputs = [name for name in node.reads if name in values]
        initializers = [
            numpy_helper.from_array(np.ascontiguousarray(given[name]), name)
            if name in given
            else numpy_helper.from_array(self.constants[name], name)
            for name in node.reads
            if name not in values and (name in given or name in self.constants)
        ]
        graph = helper.make_graph(
            [self._protos[node.writes[0]]],
            "node",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(values[name][0].dtype), [None] * values[name][0].ndim
                )
                for name in inputs
            ],
            [onnx.ValueInfoProto(name=name) for name in node.writes],
            initializers,
        )
        proto = helper.make_model(graph, opset_imports=list(self._model.proto.opset_import))
        proto.ir_version = self._model.proto.ir_version
        proto.functions.extend(self._model.proto.functions)
        options = session_options(Execution())
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = open_session(proto, None, options)
        chunks = len(next(iter(values.values())))
        results = [
            session.run(list(node.writes), {name: values[name][chunk] for name in inputs}) for chunk in range(chunks)
        ]
        return {name: [result[index] for result in results] for index, name in enumerate(node.writes)}


class _Constants(Mapping[str, Array]):
    """A model's initializers, each read when it is asked for."""

    def __init__(self, model: OnnxModel) -> None:
        self._model = model
        self._tensors = {tensor.name: tensor for tensor in model.proto.graph.initializer}

    def __getitem__(self, name: str) -> Array:
        return np.asarray(self._model.tensor(self._tensors[name]))

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def described(graph: Graph, ops: Sequence[QuantizableOp]) -> tuple[Node, ...]:
    """The nodes of a graph as the algorithms know them; those of ``ops`` with a constant weight are layers."""
    by_output = {op.output: op for op in ops if op.weight is not None and op.node.op_type in ("Conv", "Gemm", "MatMul")}
    return tuple(_described(proto, graph, by_output) for proto in graph.nodes)


def _described(proto: onnx.NodeProto, graph: Graph, ops: Mapping[str, QuantizableOp]) -> Node:
    name, reads, writes = str(proto.name), _reads(proto), _writes(proto)
    op = ops.get(writes[0]) if writes else None
    if op is not None:
        return layer_of(op, graph)
    if is_standard(proto) and proto.op_type in ("Relu", "Clip"):
        low, high = clip_bounds(proto, graph) or (math.nan, math.nan)
        return Clip(name=name, reads=reads, writes=writes, low=low, high=high)
    if is_standard(proto) and proto.op_type == "Add":
        return Sum(name=name, reads=reads, writes=writes)
    vectors = _vectors(proto, graph)
    if vectors:
        return Scaled(name=name, reads=reads, writes=writes, vectors=vectors)
    return Node(name=name, reads=reads, writes=writes)


def _vectors(proto: onnx.NodeProto, graph: Graph) -> tuple[str, ...]:
    """The constants by which a node can divide its last axis; empty where it cannot."""
    if not is_standard(proto):
        return ()
    rank = graph.rank(proto.output[0]) if proto.output else None
    if proto.op_type == "LayerNormalization" and rank:
        names = tuple(str(name) for name in proto.input[1:] if name)
        usable = attributes(proto).get("axis", -1) in (-1, rank - 1) and len(proto.output) == 1
    elif proto.op_type == "Mul" and rank:
        names = tuple(str(name) for name in proto.input if name in graph.initializers)
        usable = len(names) == 1
    else:
        return ()
    wide = all(name in graph.initializers and graph.rank(name) == 1 for name in names) and all(
        graph.initializers[name].dims[0] > 1 for name in names
    )
    return names if usable and wide else ()


def layer_of(op: QuantizableOp, graph: Graph) -> Layer:
    """An op with a constant weight, Conv, Gemm or MatMul, as the algorithms know it."""
    assert op.weight is not None
    rank = len(graph.initializers[op.weight].dims) - 2
    return Layer(
        name=op.name,
        reads=_reads(op.node),
        writes=_writes(op.node),
        source=op.activations[0],
        weight=op.weight,
        axis=op.weight_axis,
        bias=op.bias,
        convolution=convolution_of(op.node, rank) if op.node.op_type == "Conv" else None,
    )


def with_constants(model: OnnxModel, constants: Mapping[str, Array]) -> OnnxModel:
    """The model with other values of some constants, by name; ``model`` stays as it is."""
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    set_constants(proto, constants)
    return dataclasses.replace(model, proto=proto)


def _reads(proto: onnx.NodeProto) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys((*proto.input, *outer_reads(proto))) if name)


def _writes(proto: onnx.NodeProto) -> tuple[str, ...]:
    return tuple(name for name in proto.output if name)


def convolution_of(node: onnx.NodeProto, rank: int) -> Convolution:
    """How a Conv goes over what it reads.

    Args:
        node: The Conv.
        rank: Number of its spatial axes.
    """
    options = attributes(node)
    groups = options.get("group", 1)
    assert isinstance(groups, int)
    explicit = options.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    return Convolution(
        groups=groups,
        strides=_numbers(options.get("strides"), 1, rank),
        dilations=_numbers(options.get("dilations"), 1, rank),
        pads=_numbers(options.get("pads"), 0, 2 * rank) if explicit else None,
    )


def _numbers(value: object, default: int, count: int) -> tuple[int, ...]:
    return tuple(int(each) for each in value) if isinstance(value, list | tuple) and value else (default,) * count
