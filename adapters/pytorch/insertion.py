"""Writes quantize and dequantize nodes, integers and conversions into a graph, as Inductor's patterns expect them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import fx

from autotune.adapter import Array
from autotune.adapters.pytorch.dynamic import dynamic_integers
from autotune.adapters.pytorch.graph import ATEN, constant_of, set_constant, tensor
from autotune.adapters.pytorch.kernels import OP, scale_name
from autotune.adapters.pytorch.ops import LINEAR, QuantizableOp, nodes_by_name
from autotune.adapters.pytorch.quick import QUANTIZED
from autotune.adapters.pytorch.unrolled import RecurrentWriter
from autotune.adapters.pytorch.weights import channel_scales
from autotune.algorithms import AffineParameters
from autotune.algorithms.grids import WeightGrid

_LOW, _HIGH = 0, 255
"""Integers of activations, which are u8."""

_WEIGHT_LOW, _WEIGHT_HIGH = -128, 127


class Writer:
    """Quantizes ops of a graph in place.

    Args:
        graph: In fp32, with the weights and biases of the candidate.
    """

    def __init__(self, graph: fx.GraphModule) -> None:
        self._module = graph
        self._graph = graph.graph
        self._nodes = nodes_by_name(graph)
        self._integers: dict[tuple[str, bool], fx.Node] = {}

    def quantize(self, op: QuantizableOp, activations: dict[str, AffineParameters], grid: WeightGrid | None) -> None:
        """Let a static int8 op read integers.

        Args:
            op: The op.
            activations: Scale and zero point by tensor that the op reads as integers; those of its other tensors are
                not among them.
            grid: Grid of its weight; None for a sum.
        """
        node = self._nodes[op.node]
        args = list(node.args)
        for place in op.activations:
            source = args[place]
            assert isinstance(source, fx.Node)
            if source.name in activations:
                args[place] = self._dequantized(node, source, activations[source.name])
        node.args = tuple(args)
        if grid is not None:
            self._set_weight(op, node, grid)
        self._mark(op, node)

    def quantize_dynamic(self, op: QuantizableOp, grid: WeightGrid) -> None:
        """Let an op read integers whose scale and zero point are those of the call."""
        node = self._nodes[op.node]
        source = node.args[0]
        assert isinstance(source, fx.Node)
        with self._graph.inserting_before(node):
            integers, ends = dynamic_integers(self._graph, self._in_order(node, source))
            real = self._graph.call_function(QUANTIZED.dequantize_per_tensor.tensor, (integers, *ends))
        node.args = (real, *node.args[1:])
        self._set_weight(op, node, grid)
        self._mark(op, node)

    def unroll(self, op: QuantizableOp, grids: Sequence[WeightGrid]) -> None:
        """Let the steps of a recurrent op read integers whose scale and zero point are those of the step.

        Args:
            op: The op.
            grids: The grid of each of its matrices.
        """
        RecurrentWriter(self._module, self._nodes[op.node], grids).write()

    def convert(self, op: QuantizableOp) -> None:
        """Let an op compute in bfloat16 between two conversions; its constants are stored in it."""
        node = self._nodes[op.node]
        readers = list(node.users)
        args = list(node.args)
        with self._graph.inserting_before(node):
            args[0] = self._graph.call_function(ATEN.to.dtype, (args[0], torch.bfloat16))
            for place in (1, 2):
                value = constant_of(self._module, args[place]) if place < len(args) else None
                if value is not None:
                    name = f"{op.node}_bf16_{place}"
                    set_constant(self._module, name, value.to(torch.bfloat16))
                    args[place] = self._graph.get_attr(name)
        node.args = tuple(args)
        with self._graph.inserting_after(node):
            back = self._graph.call_function(ATEN.to.dtype, (node, torch.float32))
        for reader in readers:
            reader.replace_input_with(node, back)
        self._mark(op, node)

    def finished(self) -> fx.GraphModule:
        """The graph without what nobody reads any more."""
        self._graph.eliminate_dead_code()
        self._graph.lint()
        # A module of the constants that are left; those of fp32 weights are not.
        return fx.GraphModule(self._module, self._graph)

    def _dequantized(self, node: fx.Node, source: fx.Node, parameters: AffineParameters) -> fx.Node:
        """Ops that read one tensor share its integers, and each has real values of its own, as patterns want them."""
        ends = (float(parameters.scale), int(parameters.zero_point), _LOW, _HIGH, torch.uint8)
        key = (source.name, node.target is LINEAR)
        with self._graph.inserting_before(node):
            if key not in self._integers:
                ordered = self._in_order(node, source)
                with self._graph.inserting_after(ordered):
                    made = self._graph.call_function(QUANTIZED.quantize_per_tensor.default, (ordered, *ends))
                self._integers[key] = made
            return self._graph.call_function(QUANTIZED.dequantize_per_tensor.default, (self._integers[key], *ends))

    def _in_order(self, node: fx.Node, source: fx.Node) -> fx.Node:
        """The tensor that a ``Linear`` reads, with its values in order.

        Where it is transposed, as an LSTM writes it, Inductor multiplies each sample by itself, and fails on its own
        pattern for that where their number is free (PyTorch 2.13). Nothing is copied where they are in order.
        """
        value = source.meta.get("val")
        if node.target is not LINEAR or (value is not None and value.ndim < 3):
            return source
        return self._graph.call_function(ATEN.contiguous.default, (source,))

    def _set_weight(self, op: QuantizableOp, node: fx.Node, grid: WeightGrid) -> None:
        weight = constant_of(self._module, node.args[1])
        assert weight is not None
        scales = tensor(channel_scales(grid))
        integers: Array = grid.integers(weight.numpy())
        names = (f"{op.node}_weight_int8", scale_name(op.node), f"{op.node}_weight_zero_point")
        for name, value in zip(
            names, (tensor(integers), scales, torch.zeros(len(scales), dtype=torch.int64)), strict=True
        ):
            set_constant(self._module, name, value)
        with self._graph.inserting_before(node):
            reads = [self._graph.get_attr(name) for name in names]
            ends = (0, _WEIGHT_LOW, _WEIGHT_HIGH, torch.int8)
            real = self._graph.call_function(QUANTIZED.dequantize_per_channel.default, (*reads, *ends))
        node.args = (node.args[0], real, *node.args[2:])

    def _mark(self, op: QuantizableOp, node: fx.Node) -> None:
        node.meta["custom"] = {**(node.meta.get("custom") or {}), OP: op.name}
