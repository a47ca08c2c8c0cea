"""The program as the recipes' algorithms see it: nodes that can be run one at a time, and constants to change.

See :class:`autotune.algorithms.graph.LayerGraph`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from autotune.adapter import Array, Execution
from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.model import PaddleModel
from autotune.adapters.paddle.nodes import GraphNode, graph_nodes
from autotune.adapters.paddle.ops import QuantizableOp
from autotune.adapters.paddle.session import PaddleRunner
from autotune.algorithms.graph import Clip, Node, Sum, Values

_ONE_THREAD = Execution(threads=1)


class PaddleGraph:
    """See :class:`autotune.algorithms.graph.LayerGraph`.

    Args:
        program: The fp32 program, prepared.
        constants: Its constants.
        ops: Its ops that can be int8.
    """

    def __init__(self, program: Any, constants: Mapping[str, Array], ops: Sequence[QuantizableOp]) -> None:
        self._program = program
        self.constants: Mapping[str, Array] = constants
        self.outputs: Collection[str] = set(programs.outputs(program))
        found = graph_nodes(program, constants, ops)
        self.nodes: Sequence[Node] = tuple(each.node for each in found)
        self._found: Mapping[str, GraphNode] = {each.node.writes[0]: each for each in found}
        self._runners: dict[str, PaddleRunner] = {}

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> Mapping[str, Values]:
        """See :meth:`autotune.algorithms.graph.LayerGraph.run`."""
        if isinstance(node, Clip):  # to make a predictor takes longer
            return {node.writes[0]: [np.clip(chunk, node.low, node.high) for chunk in values[node.reads[0]]]}
        found = self._found[node.writes[0]]
        if isinstance(node, Sum):
            first, second = (values[name] for name in found.tensors)
            if all(one.shape == other.shape for one, other in zip(first, second, strict=True)):
                return {node.writes[0]: [one + other for one, other in zip(first, second, strict=True)]}
        given = {name: value for name, value in (constants or {}).items() if name in node.reads}
        runner = self._runners.get(node.writes[0])
        if runner is None or given:
            runner = self._runner(found, given)
        if not given:
            self._runners[node.writes[0]] = runner
        results: dict[str, Values] = {name: [] for name in node.writes}
        for chunk in range(len(values[found.tensors[0]])):
            made = runner({name: values[name][chunk] for name in found.tensors})
            for name, array in zip(node.writes, made, strict=True):
                results[name].append(array)
        return results

    def _runner(self, found: GraphNode, constants: Mapping[str, Array]) -> PaddleRunner:
        program = programs.part(self._program, found.parts, found.tensors, found.node.writes)
        for name in found.tensors:
            _free_shape(program, name)
        kept = programs.drop_unused(program, {**self.constants, **constants})
        return PaddleRunner(PaddleModel(content=program.SerializeToString(), constants=kept), _ONE_THREAD)


def _free_shape(program: Any, name: str) -> None:
    """Let a tensor have any shape: what is inside of a model knows its own from the batch."""
    tensor = programs.variables(program)[name].type.dense_tensor.tensor
    for axis in range(len(tensor.dims)):
        tensor.dims[axis] = -1
