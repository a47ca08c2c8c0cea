"""The graph as the recipes' algorithms see it: nodes that can be run one at a time.

See :class:`autotune.algorithms.graph.LayerGraph`. A convolution or MatMul and the Add of its bias are one node.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Array, Execution
from autotune.adapters.openvino.ops import QuantizableOp, bias_of, constant_value, quantizable_ops, tensor_name
from autotune.adapters.openvino.session import compiled
from autotune.algorithms.graph import Convolution, Layer, Node, Values

_ONE_THREAD = Execution(threads=1)
_NOT_RUN = frozenset({"Constant", "Parameter", "Result"})


def weight_name(op: QuantizableOp) -> str:
    """How the algorithms call the op's weight, which they get with output channels along the first axis."""
    return f"{op.name}/weight"


def bias_name(op: QuantizableOp) -> str:
    """How the algorithms call the op's bias, which they get as one number per output channel."""
    return f"{op.name}/bias"


class Bias:
    """The constant that is added to what an op writes.

    Args:
        op: An op with a weight.
    """

    def __init__(self, op: QuantizableOp) -> None:
        self._op = op
        self.add = bias_of(op)
        self.place = -1
        self.values: Array | None = None
        if self.add is not None and op.has_channels:
            own = op.node.get_name()
            self.place = 1 if self.add.input_value(0).get_node().get_name() == own else 0
            stored = constant_value(self.add.input_value(self.place).get_node())
            # One number for all channels, or one for each place of a picture, is no bias of channels.
            if stored is not None and stored.size == len(op.rows) == max(stored.shape, default=1):
                self.values = np.asarray(stored, np.float32).reshape(-1)

    def replace(self, values: Array) -> None:
        """Make the Add read other values."""
        assert self.add is not None
        rank = self._op.node.get_output_partial_shape(0).rank.get_length()
        shape = (1, -1, *[1] * (rank - 2)) if self._op.convolves else (-1,)
        constant = opset.constant(np.asarray(values, np.float32).reshape(shape))
        self.add.input(self.place).replace_source_output(constant.output(0))


def give_bias(op: QuantizableOp) -> None:
    """Add zeros to what an op writes where nothing is added yet, so that there is something to correct."""
    if not op.has_channels or bias_of(op) is not None:
        return
    readers = list(op.node.output(0).get_target_inputs())
    names = op.node.output(0).get_names()
    rank = op.node.get_output_partial_shape(0).rank.get_length()
    shape = (1, -1, *[1] * (rank - 2)) if op.convolves else (-1,)
    add = opset.add(op.node, opset.constant(np.zeros(len(op.rows), np.float32).reshape(shape)))
    add.set_friendly_name(f"{op.name}/biased")
    for reader in readers:
        reader.replace_source_output(add.output(0))
    op.node.output(0).set_names(set())
    add.output(0).set_names(names)  # it may be an output of the model


class OpenVinoGraph:
    """See :class:`autotune.algorithms.graph.LayerGraph`.

    Args:
        graph: The fp32 graph; it is taken apart, so that it is of no use afterwards.
    """

    def __init__(self, graph: ov.Model) -> None:
        self.outputs: Collection[str] = {tensor_name(port.get_node().input_value(0)) for port in graph.outputs}
        self._ops = {op.node.get_name(): op for op in quantizable_ops(graph)[0] if op.has_channels}
        self._biases = {name: Bias(op) for name, op in self._ops.items()}
        self._requests: dict[str, Any] = {}
        self._whole: list[tuple[Node, list[Any], ov.Node, QuantizableOp | None]] = []
        self.nodes: Sequence[Node] = self._found(graph)

    @cached_property
    def constants(self) -> Mapping[str, Array]:
        """Weights and biases of the ops that have channels; other constants stay inside of their nodes."""
        found = {weight_name(op): op.rows for op in self._ops.values()}
        biases = ((bias_name(self._ops[name]), bias.values) for name, bias in self._biases.items())
        return {**found, **{name: values for name, values in biases if values is not None}}

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> Mapping[str, Values]:
        """See :meth:`autotune.algorithms.graph.LayerGraph.run`."""
        outputs, parameters, op = self._parts[node.writes[0]]
        given = {name: value for name, value in (constants or {}).items() if name in node.reads}
        request = self._requests.get(node.writes[0])
        if request is None or given:
            if op is not None:
                self._set_constants(op, {**self.constants, **given})
            request = compiled(ov.Model(outputs, parameters, "node"), _ONE_THREAD).create_infer_request()
        if not given:
            self._requests[node.writes[0]] = request
        reads = [name for name in node.reads if name not in self.constants]
        found: dict[str, Values] = {name: [] for name in node.writes}
        for chunk in range(len(values[reads[0]])):
            for place, name in enumerate(reads):
                request.set_input_tensor(place, ov.Tensor(np.asarray(values[name][chunk], order="C")))
            request.infer()
            for place, name in enumerate(node.writes):
                found[name].append(request.get_output_tensor(place).data.copy())
        return found

    def _set_constants(self, op: QuantizableOp, constants: Mapping[str, Array]) -> None:
        weight = opset.constant(np.ascontiguousarray(op.as_read(constants[weight_name(op)]), np.float32))
        op.node.input(1).replace_source_output(weight.output(0))
        if bias_name(op) in constants:
            self._biases[op.node.get_name()].replace(constants[bias_name(op)])

    def _found(self, graph: ov.Model) -> list[Node]:
        """The nodes that depend on inputs; a bias goes with its op."""
        adds = {name: bias.add for name, bias in self._biases.items() if bias.values is not None}
        biases = {add.get_name() for add in adds.values() if add is not None}
        nodes = []
        for node in graph.get_ordered_ops():
            if node.get_type_name() in _NOT_RUN or node.get_name() in biases or _is_fixed(node):
                continue
            op = self._ops.get(node.get_name())
            last = adds.get(node.get_name()) or node
            inputs = [port for port in node.inputs() if not _is_fixed(port.get_source_output().get_node())]
            read = dict.fromkeys(tensor_name(port.get_source_output()) for port in inputs)
            writes = tuple(tensor_name(port) for port in last.outputs())
            # The Add at the end of a Gemm bears the op's own name, where its bias is a MatMul.
            made = Node(name=f"{writes[0]}/node", reads=tuple(read), writes=writes)
            if op is not None:
                made = _layer(op, made, has_bias=last is not node)
            nodes.append(made)
            self._whole.append((made, inputs, last, op))
        return nodes

    @cached_property
    def _parts(self) -> Mapping[str, tuple[list[Any], list[ov.Node], QuantizableOp | None]]:
        """By what a node writes: its outputs, the parameters that it has got in place of what others write, its op."""
        parts = {}
        for made, inputs, last, op in self._whole:
            parameters: dict[str, ov.Node] = {}
            for port in inputs:
                source = port.get_source_output()
                name = tensor_name(source)
                if name not in parameters:
                    parameters[name] = opset.parameter(source.get_partial_shape(), source.get_element_type())
                port.replace_source_output(parameters[name].output(0))
            parts[made.writes[0]] = last.outputs(), list(parameters.values()), op
        return parts


def _layer(op: QuantizableOp, node: Node, *, has_bias: bool) -> Layer:
    constants = (weight_name(op), *((bias_name(op),) if has_bias else ()))
    return Layer(
        name=op.name,
        reads=(*node.reads, *constants),
        writes=node.writes,
        source=node.reads[0],
        weight=weight_name(op),
        axis=0,
        bias=bias_name(op) if has_bias else None,
        convolution=convolution_of(op) if op.convolves else None,
    )


def convolution_of(op: QuantizableOp) -> Convolution:
    """How a convolution goes over what it reads."""
    options = op.node.get_attributes()
    chosen_at_run_time = options["auto_pad"].startswith("same")
    return Convolution(
        groups=op.groups,
        strides=tuple(options["strides"]),
        dilations=tuple(options["dilations"]),
        pads=None if chosen_at_run_time else (*options["pads_begin"], *options["pads_end"]),
    )


def _is_fixed(node: ov.Node) -> bool:
    """Whether nothing but constants goes into a node."""
    if node.get_type_name() == "Constant":
        return True
    reads = node.input_values()
    return bool(reads) and all(_is_fixed(port.get_node()) for port in reads)
