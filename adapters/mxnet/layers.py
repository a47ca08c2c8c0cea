"""The symbol as the recipes' algorithms see it: nodes that can be run one at a time, and constants to change.

See :class:`autotune.algorithms.graph.LayerGraph`.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.mxnet.framework import dense, mx
from autotune.adapters.mxnet.graph import Graph
from autotune.algorithms.graph import Clip, Convolution, Layer, Node, Sum, Values

_SUMS = ("elemwise_add", "_plus", "_Plus")


class MxnetGraph:
    """See :class:`autotune.algorithms.graph.LayerGraph`.

    Args:
        graph: A symbol in fp32, with normalizations folded.
        arguments: Its parameters.
        states: Its auxiliary states.
        flat: Tensors of two axes, (samples, features).
    """

    def __init__(
        self, graph: Graph, arguments: Mapping[str, Array], states: Mapping[str, Array], flat: Collection[str]
    ) -> None:
        self._graph = graph
        self._states = states
        self._flat = flat
        self.constants: Mapping[str, Array] = {**arguments, **states}
        self.outputs: Collection[str] = set(graph.symbol.list_outputs())
        self._raw: dict[str, Mapping[str, Any]] = {}

    @cached_property
    def nodes(self) -> Sequence[Node]:
        """See :class:`autotune.algorithms.graph.LayerGraph`."""
        found = []
        for place, node in enumerate(self._graph.nodes):
            if node["op"] != "null":
                made = self._node(node, self._graph.tensors_of(place))
                self._raw[made.writes[0]] = node
                found.append(made)
        return tuple(found)

    def _node(self, node: Mapping[str, Any], writes: tuple[str, ...]) -> Node:
        entries = [self._graph.tensor(entry) for entry in node["inputs"]]
        common: dict[str, Any] = {"reads": tuple(dict.fromkeys(entries)), "writes": writes}
        live = [name for name in entries if name not in self.constants]
        attributes = node.get("attrs", {})
        if node["op"] == "Convolution" and live == entries[:1] and len(entries) == 3:
            walk = _convolution(attributes)
            if walk is not None:
                return _layer(node["name"], entries, walk, common)
        if node["op"] == "FullyConnected" and live == entries[:1] and len(entries) == 3 and entries[0] in self._flat:
            return _layer(node["name"], entries, None, common)
        name = f"{writes[0]}/node"
        ends = _ends(node["op"], attributes)
        if ends is not None:
            return Clip(name=name, low=ends[0], high=ends[1], **common)
        if node["op"] in _SUMS and len(live) == 2:
            return Sum(name=name, **common)
        return Node(name=name, **common)

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> Mapping[str, Values]:
        """See :meth:`autotune.algorithms.graph.LayerGraph.run`."""
        known = {**self.constants, **(constants or {})}
        if isinstance(node, Clip):
            return {node.writes[0]: [np.clip(chunk, node.low, node.high) for chunk in values[node.reads[0]]]}
        symbol, names = self._alone(node)
        live = {name: values[name] for name in node.reads if name not in known}
        chunks = len(next(iter((live or values).values())))
        fixed = {names[name]: dense(known[name]) for name in node.reads if name in known}
        results: dict[str, Values] = {name: [] for name in node.writes}
        states = set(symbol.list_auxiliary_states())
        for chunk in range(chunks):
            given = {**fixed, **{names[name]: dense(each[chunk]) for name, each in live.items()}}
            executor = symbol.bind(
                mx.cpu(),
                args={name: value for name, value in given.items() if name not in states},
                aux_states={name: value for name, value in given.items() if name in states},
                grad_req="null",
            )
            for name, output in zip(node.writes, executor.forward(is_train=False), strict=True):
                results[name].append(output.asnumpy())
        return results

    def _alone(self, node: Node) -> tuple[Any, dict[str, str]]:
        """A symbol of one node, and the names that its inputs have there."""
        assert self.nodes
        raw = self._raw[node.writes[0]]
        entries = [self._graph.tensor(entry) for entry in raw["inputs"]]
        names = {name: f"input{place}" for place, name in enumerate(dict.fromkeys(entries))}
        variables = [{"op": "null", "name": each, "inputs": []} for each in names.values()]
        places = {name: place for place, name in enumerate(names)}
        own = {**raw, "inputs": [[places[name], 0, 0] for name in entries]}
        content = {
            "nodes": [*variables, own],
            "arg_nodes": list(range(len(variables))),
            "heads": [[len(variables), output, 0] for output in range(len(node.writes))],
            "attrs": self._graph.attributes,
        }
        return mx.sym.load_json(json.dumps(content)), names


def _layer(name: str, entries: Sequence[str], walk: Convolution | None, common: Mapping[str, Any]) -> Layer:
    source, weight, bias = entries
    return Layer(name=name, source=source, weight=weight, axis=0, bias=bias, convolution=walk, **common)


def _convolution(attributes: Mapping[str, str]) -> Convolution | None:
    """How a convolution goes over its input; None where channels are not its axis 1."""
    kernel = _axes(attributes["kernel"])
    if attributes.get("layout", "None") not in ("None", "NCHW", "NCW", "NCDHW"):
        return None
    ones, zeros = (1,) * len(kernel), (0,) * len(kernel)
    pad = _axes(attributes.get("pad", "()")) or zeros
    return Convolution(
        groups=int(attributes.get("num_group", "1")),
        strides=_axes(attributes.get("stride", "()")) or ones,
        dilations=_axes(attributes.get("dilate", "()")) or ones,
        pads=(*pad, *pad),
    )


def _axes(text: str) -> tuple[int, ...]:
    found = ast.literal_eval(text)
    return (int(found),) if isinstance(found, int) else tuple(int(each) for each in found)


def _ends(kind: str, attributes: Mapping[str, str]) -> tuple[float, float] | None:
    """Between which values an op cuts what it reads; None where it does something else."""
    if kind == "relu" or (kind == "Activation" and attributes.get("act_type") == "relu"):
        return 0.0, math.inf
    if kind == "clip":
        return float(attributes["a_min"]), float(np.float32(attributes["a_max"]))
    return None
