"""Ops that compute in float16 or bfloat16, between Casts, with their constants stored in that type.

A tensor is converted once, whoever reads it. Between two ops of one type there is no Cast, nor around a Relu, Clip or
reshaping between them where this build has a kernel of the type for it.

float16 ends at 65,504: an op that reads, writes or holds values near that end stays fp32, with a line in the notes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph, is_standard
from autotune.adapters.onnx.model import OnnxModel
from autotune.adapters.onnx.rewriting import add_constant, drop_unread, set_nodes
from autotune.adapters.onnxruntime.choices.ops import CLIPS, FOLLOWERS, QuantizableOp
from autotune.adapters.onnxruntime.half.kernels import HALF_TYPES, defined_in, has_kernel
from autotune.calibration import CalibrationStatistics
from autotune.config import Precision, QuantizationConfig
from autotune.errors import ApplyError

LARGEST_FP16 = 65504.0

_HEADROOM = 2.0
"""How far values may go beyond those of calibration."""

_CONVERTED = {"Clip": 3}
"""Ops without a choice that read more than one tensor of floats: the number of them."""


def compute_in_half(
    proto: onnx.ModelProto,
    model: OnnxModel,
    ops: Sequence[QuantizableOp],
    config: QuantizationConfig,
    statistics: CalibrationStatistics,
) -> list[str]:
    """Convert the ops that ``config`` wants in fp16 or bf16.

    Args:
        proto: The candidate, whose other ops may be quantized already; changed in place.
        model: The model that holds the values of constants.
        ops: Ops of the model; those of other precisions are passed over.
        config: The config that says how.
        statistics: Say how large the values are that an fp16 op reads and writes.

    Returns:
        A line for each op that stays fp32, and why.

    Raises:
        ApplyError: The model's opset has no such type for an op, or a tensor has no statistics.
    """
    wanted = {op.name: config[op.name].precision for op in ops if config[op.name].precision in HALF_TYPES}
    if not wanted:
        return []
    graph = Graph(proto)
    notes = []
    for op in ops:
        precision = wanted.get(op.name)
        if precision is None:
            continue
        if not defined_in(op.node.op_type, graph.opset, precision):
            raise ApplyError(
                f"{op.node.op_type} {op.name!r} cannot compute in {precision}: opset {graph.opset} does not have the "
                "type for it. Export the model with a newer opset"
            )
        if precision is Precision.FP16 and (reason := _too_large(op, model, statistics)):
            notes.append(f"{op.node.op_type} {op.name!r} stays fp32: {reason}")
            del wanted[op.name]
    if wanted:
        _Rewriting(proto, model, wanted).run()
    return notes


def supports_half(op: QuantizableOp, graph: Graph, precision: Precision) -> bool:
    """Whether an op can compute in FP16 or BF16: the opset has the type, and it can hold the op's constants.

    Constants in files of their own are looked at when the op is converted.
    """
    if not defined_in(op.node.op_type, graph.opset, precision):
        return False
    constants = (graph.constant(name) for name in (op.weight, op.bias, *op.constants) if name is not None)
    return precision is not Precision.FP16 or all(_fits(values) for values in constants if values is not None)


def _fits(values: Array) -> bool:
    """Whether float16 has a number for every one of a constant's values; it has none for NaN here."""
    return bool(np.abs(values).max(initial=0.0) <= LARGEST_FP16)


def _too_large(op: QuantizableOp, model: OnnxModel, statistics: CalibrationStatistics) -> str | None:
    for name in (*op.activations, op.output):
        observed = statistics.tensors.get(name)
        if observed is None:
            raise ApplyError(
                f"Every tensor around an fp16 op needs statistics, but {name!r} has none. "
                "Calibrate this model anew: the statistics belong to another one, or no batch reaches this tensor"
            )
        most = max(abs(observed.minimum), abs(observed.maximum))
        if not most * _HEADROOM <= LARGEST_FP16:
            return f"{name!r} reaches {most:.4g} in calibration, and fp16 ends at {LARGEST_FP16:,.0f}"
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    for constant in (op.weight, op.bias, *op.constants):
        if constant is not None and not _fits(np.asarray(model.tensor(constants[constant]))):
            return f"its constant {constant!r} has values beyond {LARGEST_FP16:,.0f}, where fp16 ends"
    return None


class _Rewriting:
    """Makes the nodes of one candidate, and the constants and Casts that they share."""

    def __init__(self, proto: onnx.ModelProto, model: OnnxModel, wanted: Mapping[str, Precision]) -> None:
        self._proto = proto
        self._model = model
        self._graph = Graph(proto)
        self._wanted = wanted
        self._precisions = {**wanted, **_passing(self._graph, wanted)}
        self._nodes: list[onnx.NodeProto] = []
        self._converted: dict[tuple[str, Precision], str] = {}
        self._replaced: set[str] = set()

    def run(self) -> None:
        """Rewrite the graph, its nodes still in topological order."""
        for node in self._graph.nodes:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            precision = self._precisions.get(node.name)
            if precision is None:
                self._nodes.append(copy)
            else:
                self._convert(copy, precision)
        set_nodes(self._proto, self._nodes)
        drop_unread(self._proto, self._replaced)
        written = {name for node in self._nodes for name in node.output}
        kept = [value for value in self._proto.graph.value_info if value.name in written]
        del self._proto.graph.value_info[:]
        self._proto.graph.value_info.extend(kept)

    def _convert(self, node: onnx.NodeProto, precision: Precision) -> None:
        floats = len(node.input) if node.name in self._wanted else _CONVERTED.get(node.op_type, 1)
        for index, name in enumerate(node.input[:floats]):
            if name:
                node.input[index] = self._half(name, precision)
        self._nodes.append(node)
        for index, name in enumerate(node.output):
            if not name:
                continue
            half = self._converted[name, precision] = f"{name}/{precision}"
            node.output[index] = half
            if self._is_read_in_other_types(name, precision):
                cast = helper.make_node("Cast", [half], [name], f"{half}/Cast", to=TensorProto.FLOAT)
                self._nodes.append(cast)

    def _is_read_in_other_types(self, tensor: str, precision: Precision) -> bool:
        readers = self._graph.readers.get(tensor, [])
        return (
            tensor in self._graph.outputs
            or tensor in self._graph.read_by_subgraphs
            or any(self._precisions.get(reader.name) is not precision for reader in readers)
        )

    def _half(self, tensor: str, precision: Precision) -> str:
        """The name of a float32 tensor in the other type; made where it is asked for first."""
        key = (tensor, precision)
        if key not in self._converted:
            name = self._converted[key] = f"{tensor}/{precision}"
            constant = self._graph.initializers.get(tensor)
            if constant is not None:
                self._replaced.add(tensor)
                values = _as_half(np.asarray(self._model.tensor(constant)), precision)
                add_constant(self._proto, name, values)
            else:
                cast = helper.make_node("Cast", [tensor], [name], f"{name}/Cast", to=HALF_TYPES[precision])
                self._nodes.append(cast)
        return self._converted[key]


def _as_half(values: Array, precision: Precision) -> Array:
    if precision is Precision.FP16:
        # Weights end earlier; a bound of a Clip beyond says that there is none.
        values = np.clip(values, -LARGEST_FP16, LARGEST_FP16)
    dtype = helper.tensor_dtype_to_np_dtype(HALF_TYPES[precision])
    return np.ascontiguousarray(values.astype(dtype))


def _passing(graph: Graph, wanted: Mapping[str, Precision]) -> dict[str, Precision]:
    """Nodes without a choice of their own that go along: they read what an op writes in half the bits.

    A Relu or Clip always does where nobody else reads the same, since kernels take it along; others do where all their
    readers want that type.
    """
    found: dict[str, Precision] = dict(wanted)
    passing: dict[str, Precision] = {}
    for node in graph.nodes:
        precision = _written_in(node, graph, found)
        if precision is not None and node.name not in wanted and _can_pass(node, graph, precision):
            found[node.name] = passing[node.name] = precision
    for node in reversed(graph.nodes):
        precision = passing.get(node.name)
        if precision is None or (node.op_type in CLIPS and graph.read_once(node.input[0])):
            continue
        if not all(_read_only_in(name, graph, found, precision) for name in node.output if name):
            del found[node.name], passing[node.name]
    # A node that is left may read from one that is not.
    for node in graph.nodes:
        if node.name in passing and _written_in(node, graph, found) is not passing[node.name]:
            del found[node.name], passing[node.name]
    return passing


def _written_in(node: onnx.NodeProto, graph: Graph, precisions: Mapping[str, Precision]) -> Precision | None:
    writer = graph.producers.get(node.input[0]) if node.input else None
    return None if writer is None else precisions.get(writer.name)


def _read_only_in(tensor: str, graph: Graph, precisions: Mapping[str, Precision], precision: Precision) -> bool:
    readers = graph.readers.get(tensor, [])
    inside = tensor not in graph.outputs and tensor not in graph.read_by_subgraphs
    return inside and all(precisions.get(reader.name) is precision for reader in readers)


def _can_pass(node: onnx.NodeProto, graph: Graph, precision: Precision) -> bool:
    if node.op_type not in CLIPS | FOLLOWERS or not is_standard(node):
        return False
    bounds = node.input[1 : _CONVERTED.get(node.op_type, 1)]
    return all(not name or name in graph.initializers for name in bounds) and has_kernel(node, graph, precision)
