"""The graph as the recipes' algorithms see it: nodes that can be run one at a time, and constants that can be changed.

See :class:`autotune.algorithms.graph.LayerGraph`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as opset

from autotune.adapter import Array, Execution
from autotune.adapters.openvino.nodes import GraphNode, graph_nodes
from autotune.adapters.openvino.ops import quantizable_ops, tensor_name
from autotune.adapters.openvino.session import compiled
from autotune.algorithms.graph import Clip, Node, Values

_ONE_THREAD = Execution(threads=1)


class OpenVinoGraph:
    """See :class:`autotune.algorithms.graph.LayerGraph`.

    Args:
        graph: The graph in fp32. The first :meth:`run` takes it apart, so that it is of no use afterwards.
    """

    def __init__(self, graph: ov.Model) -> None:
        self.outputs: Collection[str] = {tensor_name(port.get_node().input_value(0)) for port in graph.outputs}
        ops = [op for op in quantizable_ops(graph)[0] if op.has_channels]
        self._found: Sequence[GraphNode] = graph_nodes(graph, ops)
        self._requests: dict[str, Any] = {}
        self.nodes: Sequence[Node] = tuple(each.node for each in self._found)

    @cached_property
    def constants(self) -> Mapping[str, Array]:
        """Weights, biases and vectors that the algorithms may change; other constants stay inside of their nodes."""
        return {name: value for each in self._found for name, value in each.constants.items()}

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> Mapping[str, Values]:
        """See :meth:`autotune.algorithms.graph.LayerGraph.run`."""
        if isinstance(node, Clip):  # to compile a model takes longer
            return {node.writes[0]: [np.clip(chunk, node.low, node.high) for chunk in values[node.reads[0]]]}
        found, parameters = self._parts[node.writes[0]]
        given = {name: value for name, value in (constants or {}).items() if name in node.reads}
        request = self._requests.get(node.writes[0])
        if request is None or given:
            found.replace({**found.constants, **given})
            outputs = found.last.outputs()
            request = compiled(ov.Model(outputs, parameters, "node"), _ONE_THREAD).create_infer_request()
        if not given:
            self._requests[node.writes[0]] = request
        reads = [name for name in node.reads if name not in found.constants]
        written: dict[str, Values] = {name: [] for name in node.writes}
        for chunk in range(len(values[reads[0]])):
            for place, name in enumerate(reads):
                request.set_input_tensor(place, ov.Tensor(np.asarray(values[name][chunk], order="C")))
            request.infer()
            for place, name in enumerate(node.writes):
                written[name].append(request.get_output_tensor(place).data.copy())
        return written

    @cached_property
    def _parts(self) -> Mapping[str, tuple[GraphNode, list[ov.Node]]]:
        """By what a node writes: the node, and the parameters that it has got in place of what others write."""
        parts = {}
        for found in self._found:
            parameters: dict[str, ov.Node] = {}
            for port in found.inputs:
                source = port.get_source_output()
                name = tensor_name(source)
                if name not in parameters:
                    parameters[name] = opset.parameter(source.get_partial_shape(), source.get_element_type())
                port.replace_source_output(parameters[name].output(0))
            parts[found.node.writes[0]] = found, list(parameters.values())
        return parts


def replace_constants(graph: ov.Model, constants: Mapping[str, Array]) -> None:
    """Let a graph read other values of the constants that the algorithms know by these names."""
    for found in graph_nodes(graph, [op for op in quantizable_ops(graph)[0] if op.has_channels]):
        found.replace(constants)
