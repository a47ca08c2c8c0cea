"""Which ops Inductor gave a kernel of integers or of 16 bits: read from its graph once all patterns are matched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._inductor.custom_graph_pass import CustomGraphPass

from autotune.adapters.pytorch.ops import ADD
from autotune.adapters.pytorch.recurrent import matrix_name
from autotune.config import Precision

if TYPE_CHECKING:
    from autotune.adapters.pytorch.model import PytorchModel

OP = "autotune_op"
"""Where a node of a candidate's graph says, in its ``custom`` metadata, which op it computes; Inductor hands it on."""

_NARROW_KERNELS = ("_convolution_pointwise", "_linear_pointwise", "mkl_linear", "convolution", "addmm", "mm.")


def scale_name(node: str) -> str:
    """Name of the constant that holds the scales of an op's weight, which its integer kernel reads."""
    return f"{node}_weight_scale"


class Kernels(CustomGraphPass):
    """A pass over Inductor's graph that changes nothing.

    Args:
        model: The candidate that is compiled.

    Attributes:
        narrow: Names of the ops with such a kernel.
    """

    def __init__(self, model: PytorchModel) -> None:
        self.narrow: set[str] = set()
        self._sums = {op.name: op.node for op in model.ops if op.kind == "Add" and op.name in model.asked}
        asked = [op for op in model.ops if op.name in model.asked]
        self._integers = {scale_name(op.node): op for op in asked if op.weight is not None}
        self._recurrent = {
            op.name: {scale_name(matrix_name(op.node, place)) for place in range(len(op.matrices))}
            for op in asked
            if op.recurs
        }
        self._half = {name for name, precision in model.asked.items() if precision is Precision.BF16}
        self._writers = _sums_behind(model)

    def __call__(self, graph: fx.Graph) -> None:
        """Read a graph whose patterns are matched."""
        for node in graph.nodes:
            text = str(node.target)
            if "qconv" in text or "qlinear" in text:
                self._read_integer(node, binary="binary" in text)
            name = (node.meta.get("custom") or {}).get(OP)
            value = node.meta.get("val")
            half = isinstance(value, torch.Tensor) and value.dtype is torch.bfloat16
            if name in self._half and half and any(kernel in text for kernel in _NARROW_KERNELS):
                self.narrow.add(name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Kernels:
        """Itself: Inductor copies its options, and what it finds is wanted here."""
        return self

    def uuid(self) -> Any:
        """Identity of this pass in Inductor's cache: None, since its findings are of one compilation."""
        return None

    def _read_integer(self, node: fx.Node, *, binary: bool) -> None:
        for read in node.all_input_nodes:
            self._read_recurrent(str(read.target))
            op = self._integers.get(str(read.target)) if read.op == "get_attr" else None
            if op is not None:
                self.narrow.add(op.name)
                if binary and op.node in self._writers:
                    self.narrow.add(self._writers[op.node])

    def _read_recurrent(self, scale: str) -> None:
        """A recurrent op is integer once kernels of all its matrices were seen."""
        for name, scales in self._recurrent.items():
            if scale in scales:
                scales.remove(scale)
                if not scales:
                    self.narrow.add(name)


def _sums_behind(model: PytorchModel) -> dict[str, str]:
    """By the node of a convolution that one addition alone reads: the name of that op."""
    if model.graph is None:
        return {}
    names = {op.node: op.name for op in model.ops if op.kind == "Add"}
    found = {}
    for node in model.graph.graph.nodes:
        if node.target is ADD and node.name in names:
            for side in node.args[:2]:
                found[side.name] = names[node.name]
    return found
