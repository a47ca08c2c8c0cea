"""LSTM and GRU in dynamic int8: their steps written out, each with one integer product.

``torch.export`` fixes the number of steps, so that nothing is lost by writing them out. The inputs of all steps are
multiplied at once, with one range for all of them; the hidden state is quantized anew at every step.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

from autotune.adapters.pytorch.dynamic import dynamic_integers
from autotune.adapters.pytorch.graph import ATEN, constant_of, set_constant, tensor
from autotune.adapters.pytorch.kernels import scale_name
from autotune.adapters.pytorch.recurrent import integers_name, matrix_name, recurrence
from autotune.adapters.pytorch.weights import channel_scales
from autotune.algorithms.grids import WeightGrid

_GATES = {"LSTM": 4, "GRU": 3}

_PREPACK = "onednn::qlinear_prepack"


def _describe_prepack() -> None:
    """Tell PyTorch the shape of packed weights: Inductor itself writes that op once nobody asks for shapes any more."""
    if not torch._C._dispatch_has_kernel_for_dispatch_key(_PREPACK, "Meta"):
        torch.library.register_fake(_PREPACK, lambda weight, _: weight.new_empty(weight.shape[::-1]))


_describe_prepack()


class RecurrentWriter:
    """Writes the steps of a recurrent op into a graph in its place.

    Args:
        module: The graph.
        node: The op.
        grids: The grid of each of its matrices.
    """

    def __init__(self, module: fx.GraphModule, node: fx.Node, grids: Sequence[WeightGrid]) -> None:
        self._module = module
        self._node = node
        self._found = recurrence(node)
        self._grids = grids

    def write(self) -> None:
        """Replace the op; its node stays without readers."""
        with self._module.graph.inserting_before(self._node):
            outputs = self._layers()
        for user in list(self._node.users):
            assert user.target is operator.getitem
            user.replace_all_uses_with(outputs[user.args[1]])

    def _call(self, target: Any, *args: Any) -> fx.Node:
        return self._module.graph.call_function(target, args)

    def _layers(self) -> Mapping[Any, fx.Node]:
        found = self._found
        x = self._call(ATEN.transpose.int, found.source, 0, 1) if found.batch_first else found.source
        last: list[list[fx.Node]] = [[] for _ in found.states]
        directions = 2 if found.both else 1
        for layer in range(found.layers):
            sides = []
            for direction in range(directions):
                written, states = self._pass(x, layer * directions + direction, backwards=direction == 1)
                sides.append(written)
                for place, state in enumerate(states):
                    last[place].append(state)
            x = self._call(ATEN.cat.default, sides, 2) if found.both else sides[0]
        if found.batch_first:
            x = self._call(ATEN.transpose.int, x, 0, 1)
        ends = [self._call(ATEN.stack.default, states) for states in last]
        return dict(enumerate((x, *ends)))

    def _pass(self, x: fx.Node, place: int, *, backwards: bool) -> tuple[fx.Node, list[fx.Node]]:
        """One layer in one direction: what it writes, shape (steps, samples, hidden), and its last states."""
        found = self._found
        own = found.parameters[place * (4 if found.biased else 2) :]
        biases = own[2:4] if found.biased else (None, None)
        weight = constant_of(self._module, own[0])
        assert weight is not None
        assert found.steps is not None
        rows, columns = weight.shape
        flat = self._call(ATEN.reshape.default, x, [-1, columns])
        product = self._product(flat, self._packed(2 * place), biases[0])
        inputs = self._call(ATEN.view.default, product, [found.steps, -1, rows])
        states = [self._call(ATEN.select.int, state, 0, place) for state in found.states]
        packed, written = self._packed(2 * place + 1), {}
        for step in reversed(range(found.steps)) if backwards else range(found.steps):
            given = self._call(ATEN.select.int, inputs, 0, step)
            own_part = self._product(states[0], packed, biases[1])
            states = self._cell(given, own_part, states, rows // _GATES[found.kind])
            written[step] = states[0]
        return self._call(ATEN.stack.default, [written[step] for step in range(found.steps)]), states

    def _cell(self, given: fx.Node, own: fx.Node, states: list[fx.Node], hidden: int) -> list[fx.Node]:
        """The states after a step, of the products of its input and of the hidden state before it."""
        add, multiply, tanh = ATEN.add.Tensor, ATEN.mul.Tensor, ATEN.tanh.default
        if self._found.kind == "LSTM":
            gates = self._split(self._call(add, own, given), hidden)
            entry, forget, exit_ = (self._call(ATEN.sigmoid.default, gates[place]) for place in (0, 1, 3))
            kept = self._call(multiply, forget, states[1])
            new = self._call(multiply, entry, self._call(tanh, gates[2]))
            cells = self._call(add, kept, new)
            return [self._call(multiply, exit_, self._call(tanh, cells)), cells]
        read, held = self._split(given, hidden), self._split(own, hidden)
        reset, update = (
            self._call(ATEN.sigmoid.default, self._call(add, read[place], held[place])) for place in (0, 1)
        )
        new = self._call(tanh, self._call(add, read[2], self._call(multiply, reset, held[2])))
        change = self._call(multiply, update, self._call(ATEN.sub.Tensor, states[0], new))
        return [self._call(add, new, change)]

    def _split(self, gates: fx.Node, hidden: int) -> list[fx.Node]:
        parts = self._call(ATEN.split.Tensor, gates, hidden, 1)
        return [self._call(operator.getitem, parts, place) for place in range(_GATES[self._found.kind])]

    def _packed(self, place: int) -> tuple[fx.Node, fx.Node, fx.Node]:
        """A matrix in the order of the kernel, packed once when the model is compiled; its scales and zero points."""
        weight = constant_of(self._module, self._found.matrices[place])
        assert weight is not None
        grid, name = self._grids[place], matrix_name(self._node.name, place)
        scales = tensor(channel_scales(grid))
        names = (integers_name(self._node.name, place), scale_name(name), f"{name}_weight_zero_point")
        values = (tensor(grid.integers(weight.numpy())), scales, torch.zeros(len(scales), dtype=torch.int64))
        for each, value in zip(names, values, strict=True):
            set_constant(self._module, each, value)
        integers, scale, zero_point = (self._module.graph.get_attr(each) for each in names)
        return self._call(torch.ops.onednn.qlinear_prepack.default, integers, None), scale, zero_point

    def _product(self, x: fx.Node, packed: tuple[fx.Node, fx.Node, fx.Node], bias: fx.Node | None) -> fx.Node:
        """The integer product of a tensor, whose range is found in the call, and a matrix."""
        integers, (scale, zero_point, *_) = dynamic_integers(self._module.graph, x)
        real_output: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
        return self._call(
            torch.ops.onednn.qlinear_pointwise.tensor, integers, scale, zero_point, *packed, bias, *real_output
        )
