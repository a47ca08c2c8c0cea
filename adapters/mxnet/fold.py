"""Batch normalizations folded into the convolutions before them, and a bias for every layer.

oneDNN folds them too, when a model is first run. Recipes that change weights need to see what it quantizes.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.mxnet.graph import Graph, is_true

_WEIGHT, _BIAS = 1, 2
"""Places of what a layer reads."""


def folded(graph: Graph, arguments: Mapping[str, Array], states: Mapping[str, Array]) -> tuple[Graph, dict[str, Array]]:
    """The same symbol without the normalizations that only scale what a convolution writes, and its parameters.

    Args:
        graph: A symbol in fp32.
        arguments: Its parameters, by name.
        states: Its auxiliary states, by name.
    """
    return _Folding(graph, arguments, states).made()


class _Folding:
    """One pass over the nodes of a symbol."""

    def __init__(self, graph: Graph, arguments: Mapping[str, Array], states: Mapping[str, Array]) -> None:
        self._content: dict[str, Any] = json.loads(graph.text)
        self._old: list[dict[str, Any]] = self._content["nodes"]
        self._arguments = dict(arguments)
        self._states = states
        read = [tuple(entry[:2]) for node in self._old for entry in node["inputs"]]
        self._readers = Counter([*read, *(tuple(head[:2]) for head in self._content["heads"])])
        self._nodes: list[dict[str, Any]] = []
        self._moved: dict[tuple[int, int], tuple[int, int]] = {}

    def made(self) -> tuple[Graph, dict[str, Array]]:
        for place, node in enumerate(self._old):
            before = self._old[node["inputs"][0][0]] if node["inputs"] else node
            if node["op"] == "BatchNorm" and self._can_fold(node, before):
                self._fold(node, before)
                self._moved[place, 0] = self._moved[node["inputs"][0][0], 0]
                continue
            inputs = [[*self._moved.get((entry[0], entry[1]), entry[:2]), *entry[2:]] for entry in node["inputs"]]
            own = {**node, "inputs": inputs}
            if self._is_layer(node):
                self._give_bias(own)
            outputs = self._content["node_row_ptr"][place + 1] - self._content["node_row_ptr"][place]
            for output in range(outputs):
                self._moved[place, output] = (len(self._nodes), output)
            self._nodes.append(own)
        heads = [[*self._moved[head[0], head[1]], *head[2:]] for head in self._content["heads"]]
        variables = [place for place, node in enumerate(self._nodes) if node["op"] == "null"]
        attributes = self._content.get("attrs", {})
        content = {"nodes": self._nodes, "arg_nodes": variables, "heads": heads, "attrs": attributes}
        made = Graph.parsed(content)
        names = set(made.variables())
        return made, {name: array for name, array in self._arguments.items() if name in names}

    def _is_layer(self, node: Mapping[str, Any]) -> bool:
        """Whether a node multiplies by a weight of its own."""
        if node["op"] not in ("Convolution", "FullyConnected"):
            return False
        return all(
            self._old[entry[0]]["name"] in self._arguments and self._readers[entry[0], entry[1]] == 1
            for entry in node["inputs"][_WEIGHT:]
        )

    def _can_fold(self, node: Mapping[str, Any], before: Mapping[str, Any]) -> bool:
        return (
            before["op"] == "Convolution"
            and self._is_layer(before)
            and self._readers[tuple(node["inputs"][0][:2])] == 1
            and all(self._old[entry[0]]["name"] in {*self._arguments, *self._states} for entry in node["inputs"][1:])
            and int(node.get("attrs", {}).get("axis", "1")) == 1
            and before.get("attrs", {}).get("layout", "None") in ("None", "NCHW", "NCW", "NCDHW")
        )

    def _give_bias(self, node: dict[str, Any]) -> None:
        """A bias of zeros for a layer that has none; ``node`` is not among the new nodes yet."""
        if len(node["inputs"]) > _BIAS:
            return
        weight = self._arguments[self._nodes[node["inputs"][_WEIGHT][0]]["name"]]
        name = f"{node['name']}_bias"
        while name in self._arguments or any(each["name"] == name for each in self._old):
            name += "_"
        self._arguments[name] = np.zeros(len(weight), np.float32)
        self._nodes.append({"op": "null", "name": name, "inputs": []})
        node["inputs"] = [*node["inputs"], [len(self._nodes) - 1, 0, 0]]
        node["attrs"] = {**node.get("attrs", {}), "no_bias": "False"}

    def _fold(self, node: Mapping[str, Any], before: Mapping[str, Any]) -> None:
        """Scale a convolution's weight, and shift its bias, as the normalization behind it does."""
        known = {**self._arguments, **self._states}
        gamma, beta, mean, variance = (
            known[self._old[entry[0]]["name"]].astype(np.float64) for entry in node["inputs"][1:5]
        )
        attributes = node.get("attrs", {})
        if is_true(node, "fix_gamma", default="True"):
            gamma = np.ones_like(gamma)
        factor = gamma / np.sqrt(variance + float(attributes.get("eps", 1e-3)))
        new = next(each for each in reversed(self._nodes) if each["name"] == before["name"])
        weight, bias = (self._nodes[new["inputs"][place][0]]["name"] for place in (_WEIGHT, _BIAS))
        shape = (-1, *[1] * (self._arguments[weight].ndim - 1))
        self._arguments[weight] = np.asarray(self._arguments[weight] * factor.reshape(shape), np.float32)
        self._arguments[bias] = np.asarray((self._arguments[bias] - mean) * factor + beta, np.float32)
