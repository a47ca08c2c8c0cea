"""Insert Q/DQ pairs around what computes in int8, in one pass.

The graphs are those that ONNX Runtime's own ``QDQQuantizer`` makes of the same choices. That class searches all nodes
or all constants for every tensor that it touches, so that a candidate of a chain of 2,000 ops took minutes; here each
is visited once.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableSequence, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnx.graph import Graph
from autotune.adapters.onnx.rewriting import drop_unread, set_nodes, sort_nodes
from autotune.adapters.onnxruntime.choices.ops import CLIPS, QuantizableOp
from autotune.adapters.onnxruntime.static.placement import Placement
from autotune.algorithms import AffineParameters
from autotune.config import QuantizedType

_TYPES = {QuantizedType.U8: np.dtype(np.uint8), QuantizedType.S8: np.dtype(np.int8)}


def insert_pairs(
    proto: onnx.ModelProto, placement: Placement, parameters: Mapping[str, tuple[AffineParameters, QuantizedType]]
) -> None:
    """Quantize activations, the constants that are read like them, and biases; weights have their integers already.

    A Relu or Clip that goes along disappears: the range of what it wrote does its work.

    Args:
        proto: The model, its weights quantized; changed in place.
        placement: The ops and tensors that are quantized.
        parameters: Scale, zero point and integer type of every tensor around int8 ops, by its name.
    """
    insertion = _Insertion(proto, parameters)
    insertion.mark(placement)
    insertion.quantize_marked()
    insertion.quantize_biases(placement.ops)
    insertion.finish()


class _Insertion:
    """The state of one insertion: indices of the graph that follow each change of it.

    Args:
        proto: The model; its messages are changed in place.
        parameters: See :func:`insert_pairs`.
    """

    def __init__(
        self, proto: onnx.ModelProto, parameters: Mapping[str, tuple[AffineParameters, QuantizedType]]
    ) -> None:
        self._proto = proto
        self._parameters = parameters
        self._graph = Graph(proto)
        self._readers = {name: list(readers) for name, readers in self._graph.readers.items()}
        self._writers = dict(self._graph.producers)
        self._nodes = {node.name: node for node in self._graph.nodes}
        self._marked: dict[str, None] = {}
        self._dropped: set[str] = set()
        self._int8: set[str] = set()
        self._new_nodes: list[onnx.NodeProto] = []
        self._new_constants: list[TensorProto] = []
        self._scales: dict[str, Array] = {}
        self._taken = {*self._graph.initializers, *self._graph.producers, *self._nodes, *self._graph.outputs}

    def mark(self, placement: Placement) -> None:
        """Note the tensors that are to be quantized; a Relu or Clip whose input is noted disappears."""
        ops = {op.name for op in placement.ops}
        self._int8 = ops | placement.followers
        for node in self._graph.nodes:
            if node.name in ops:
                tensors = [*node.input, *node.output]
            elif node.name in placement.followers:
                tensors = [node.input[0], *node.output]
                if node.op_type in CLIPS and node.input[0] in self._marked:
                    self._drop_clip(node)
                    tensors = [node.output[0]]
            else:
                continue
            for tensor in tensors:
                if tensor in self._parameters and self._graph.elem_type(tensor) == TensorProto.FLOAT:
                    self._marked.setdefault(tensor)

    def _drop_clip(self, node: onnx.NodeProto) -> None:
        source, output = node.input[0], node.output[0]
        writer = self._writers.pop(source)
        _rename(writer.output, source, output)
        self._writers[output] = writer
        self._marked.pop(source)
        self._dropped.add(node.name)

    def quantize_marked(self) -> None:
        """Give each noted tensor its pair; a constant is stored as integers, and what is dequantized already stays."""
        for tensor in self._marked:
            given = self._given_scale(tensor)
            if given is not None:
                self._scales[tensor] = given
                continue
            parameters, dtype = self._parameters[tensor]
            scale = np.asarray(parameters.scale, np.float32).reshape(())
            zero_point = np.asarray(parameters.zero_point).astype(_TYPES[dtype]).reshape(())
            names = [self._free(f"{tensor}_scale"), self._free(f"{tensor}_zero_point")]
            self._add_constants([(zero_point, names[1]), (scale, names[0])])
            self._scales[tensor] = scale
            constant = self._graph.initializers.get(tensor)
            if constant is not None:
                self._dequantize_constant(constant, scale, zero_point, names)
            else:
                self._quantize(tensor, names)

    def _given_scale(self, tensor: str) -> Array | None:
        """The scale of what is dequantized already, by one known scale; None for every other tensor."""
        writer = self._writers.get(tensor)
        if writer is None or writer.op_type != "DequantizeLinear":
            return None
        scale = self._graph.initializers.get(writer.input[1])
        values = None if scale is None else numpy_helper.to_array(scale)
        return None if values is None or values.size != 1 else np.asarray(values, np.float32).reshape(())

    def _quantize(self, tensor: str, names: list[str]) -> None:
        source, output = tensor, self._free(f"{tensor}_DequantizeLinear_Output")
        # An output that no node writes is an input that is passed on: it stays what it is.
        handed_out = tensor in self._graph.outputs and tensor in self._writers
        if handed_out or self._is_written_in_int8_and_read_inside(tensor):
            source, output = self._free(f"{tensor}_QuantizeLinear_Input"), tensor
            _rename(self._writers[tensor].output, tensor, source)
        else:
            self._redirect(tensor, output)
        integers = self._free(f"{tensor}_QuantizeLinear_Output")
        self._add_node("QuantizeLinear", [source, *names], integers, tensor)
        self._add_node("DequantizeLinear", [integers, *names], output, tensor)

    def _is_written_in_int8_and_read_inside(self, tensor: str) -> bool:
        """Whether a graph inside of a node reads what an int8 op writes.

        It shall read what is left of it, or the op's fp32 output would be needed and ONNX Runtime fuse nothing.
        """
        writer = self._writers.get(tensor)
        return tensor in self._graph.read_by_subgraphs and writer is not None and writer.name in self._int8

    def _dequantize_constant(self, constant: TensorProto, scale: Array, zero_point: Array, names: list[str]) -> None:
        output = self._free(f"{constant.name}_DequantizeLinear_Output")
        stored = self._free(f"{constant.name}_quantized")
        self._redirect(constant.name, output)
        values = numpy_helper.to_array(constant)
        bounds = np.iinfo(zero_point.dtype)
        integers = np.clip((values / scale).round() + zero_point, bounds.min, bounds.max).astype(zero_point.dtype)
        self._add_constants([(integers, stored)])
        self._add_node("DequantizeLinear", [stored, *names], output, constant.name)

    def quantize_biases(self, ops: Sequence[QuantizableOp]) -> None:
        """Store each bias as 32-bit integers, their scale the product of those of activation and weight."""
        limits = np.iinfo(np.int32)
        for op in ops:
            if op.bias is None:
                continue
            node = self._nodes[op.name]
            bias = node.input[2]
            dequantize = self._writers[node.input[1]]
            weight_scale = numpy_helper.to_array(self._graph.initializers[dequantize.input[1]])
            scale = np.asarray(self._scales[op.activations[0]] * weight_scale, np.float32)
            values = numpy_helper.to_array(self._graph.initializers[bias])
            integers = np.clip((values.astype(np.float64) / scale.astype(np.float64)).round(), limits.min, limits.max)
            per_channel = scale.size > 1
            zero_point = np.zeros(scale.size if per_channel else (), np.int32)
            ends = ("", "_scale", "_zero_point")
            names = [self._free(f"{bias}_quantized{end}") for end in ends]
            arrays = (integers.astype(np.int32).reshape(values.shape), scale.reshape(-1), zero_point)
            self._add_constants(list(zip(arrays, names, strict=True)))
            # The node writes the bias's own name, so that nothing has to be redirected; the constant goes.
            self._add_node("DequantizeLinear", names, bias, bias, **({"axis": 0} if per_channel else {}))

    def finish(self) -> None:
        """Write nodes and constants back, without what nobody reads any more."""
        nodes = [node for node in self._graph.nodes if node.name not in self._dropped]
        set_nodes(self._proto, (*nodes, *self._new_nodes))
        sort_nodes(self._proto)
        self._proto.graph.initializer.extend(self._new_constants)
        self._drop_unread_constants()

    def _drop_unread_constants(self) -> None:
        before = {tensor.name for tensor in self._proto.graph.initializer}
        drop_unread(self._proto, before)
        dropped = before - {tensor.name for tensor in self._proto.graph.initializer}
        inputs = [value for value in self._proto.graph.input if value.name not in dropped]
        if len(inputs) < len(self._proto.graph.input):
            left = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
            del self._proto.graph.input[:]
            self._proto.graph.input.extend(left)

    def _free(self, name: str) -> str:
        """The name, or one with a number where the model has it already."""
        free, number = name, 0
        while free in self._taken:
            number += 1
            free = f"{name}_{number}"
        self._taken.add(free)
        return free

    def _add_node(self, op_type: str, inputs: list[str], output: str, about: str, **options: Any) -> None:
        name = self._free(f"{about}_{op_type}")
        self._new_nodes.append(helper.make_node(op_type, inputs, [output], name, **options))

    def _add_constants(self, named: list[tuple[Array, str]]) -> None:
        self._new_constants += [numpy_helper.from_array(np.asarray(array), name) for array, name in named]

    def _redirect(self, tensor: str, output: str) -> None:
        """Make every node that reads a tensor read another one."""
        for reader in self._readers.get(tensor, ()):
            _rename(reader.input, tensor, output)


def _rename(names: MutableSequence[str], old: str, new: str) -> None:
    for index, name in enumerate(names):
        if name == old:
            names[index] = new
