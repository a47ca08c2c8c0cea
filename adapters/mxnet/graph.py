"""Symbols as their JSON: inputs, parameters, and the ops that oneDNN fuses and quantizes."""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from autotune.adapters.mxnet.framework import FAILURES, mx, reason
from autotune.errors import ModelError

BACKEND = "MKLDNN_QUANTIZE"
"""The subgraph backend that fuses what oneDNN can compute in integers."""

CONVOLUTION, DENSE = "_sg_mkldnn_conv", "_sg_mkldnn_fully_connected"
POOLING, _QUANTIZED_POOLING = "Pooling", "_contrib_quantized_pooling"
_FUSED = {CONVOLUTION: "Convolution", DENSE: "FullyConnected"}
_PREFIX = "quantized_"

KEY = "__autotune__"
"""Attribute of the first input of a symbol that was saved here, with what the adapter knows of the model."""

_WITHOUT_LABELS = {"SoftmaxOutput": "softmax", "LogisticRegressionOutput": "sigmoid", "LinearRegressionOutput": "_copy"}
"""Heads that read labels in training, and what they compute without."""


@dataclass(frozen=True, kw_only=True)
class QuantizableOp:
    """A convolution or a dense layer, with all that is fused into it, or a pooling.

    Attributes:
        name: Name of the convolution in the user's symbol, by which configs know it.
        kind: ``Convolution``, ``FullyConnected`` or ``Pooling``.
        node: Name of the fused node.
        source: The tensor that it reads, by its name in the symbol that was fused.
        summed: The tensor that is added to its result; None where none is.
        output: The tensor that it writes.
    """

    name: str
    kind: str
    node: str
    source: str
    summed: str | None
    output: str

    @property
    def tensors(self) -> tuple[str, ...]:
        """The tensors whose ranges it needs; pooling gives the integers that it reads."""
        if self.kind == POOLING:
            return (self.source,)
        return tuple(name for name in (self.source, self.summed, self.output) if name is not None)


class Graph:
    """A symbol.

    Args:
        text: Its JSON, as ``Symbol.tojson`` gives it.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._content: dict[str, Any] = json.loads(text)

    @classmethod
    def parsed(cls, content: Mapping[str, Any]) -> Graph:
        """The graph of nodes that were written by hand; MXNet leaves out the variables that nothing reads."""
        return cls(mx.sym.load_json(json.dumps(content)).tojson())

    @property
    def nodes(self) -> Sequence[dict[str, Any]]:
        """The nodes in graph order, variables included."""
        nodes: list[dict[str, Any]] = self._content["nodes"]
        return nodes

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes of the symbol as a whole, such as the version that wrote it."""
        found: Mapping[str, Any] = self._content.get("attrs", {})
        return found

    @cached_property
    def symbol(self) -> Any:
        """The symbol as MXNet has it."""
        return mx.sym.load_json(self.text)

    def variables(self) -> list[str]:
        """Names of the inputs and parameters."""
        return [node["name"] for node in self.nodes if node["op"] == "null"]

    def said(self) -> Mapping[str, Any]:
        """Notes of the adapter in a symbol that it saved; empty for others."""
        for node in self.nodes:
            if node["op"] == "null" and KEY in node.get("attrs", {}):
                found: Mapping[str, Any] = json.loads(node["attrs"][KEY])
                return found
        return {}

    def saying(self, name: str, said: Mapping[str, Any] | None) -> Graph:
        """The same symbol with this in the attributes of an input; None takes it away."""
        content = json.loads(self.text)
        for node in content["nodes"]:
            if node["op"] != "null":
                continue
            node.get("attrs", {}).pop(KEY, None)
            if node["name"] == name and said is not None:
                node.setdefault("attrs", {})[KEY] = json.dumps(said, sort_keys=True)
        return Graph(json.dumps(content))

    def renamed(self, prefix: str) -> Graph:
        """The same symbol without a prefix of its names, which a process counts anew for each block."""
        content = json.loads(self.text)
        for node in content["nodes"]:
            node["name"] = node["name"].removeprefix(prefix) or node["name"]
        return Graph(json.dumps(content))

    def without_labels(self) -> Graph:
        """The same symbol whose heads compute what they do in inference, without the labels of training."""
        content = json.loads(self.text)
        nodes = content["nodes"]
        changed = False
        for node in nodes:
            if node["op"] not in _WITHOUT_LABELS:
                continue
            changed = True
            several = node.get("attrs", {}).get("multi_output", "False") in ("True", "1")
            node["op"] = _WITHOUT_LABELS[node["op"]]
            node["inputs"] = node["inputs"][:1]
            node["attrs"] = {"axis": "1" if several else "-1"} if node["op"] == "softmax" else {}
        if not changed:
            return self
        try:
            # MXNet leaves out the variables that nothing reads now.
            return Graph(mx.sym.load_json(json.dumps(content)).tojson())
        except FAILURES as error:
            raise ModelError(f"The symbol's head cannot be read without labels: {reason(error)}") from error

    @cached_property
    def fused(self) -> Graph:
        """The same symbol with what oneDNN computes in one kernel as one node."""
        return Graph(self.symbol.get_backend_symbol(BACKEND).tojson())

    @cached_property
    def ops(self) -> tuple[QuantizableOp, ...]:
        """The ops that can be int8, of a fused symbol."""
        return tuple(self._ops())

    def _ops(self) -> Iterator[QuantizableOp]:
        for node in self.nodes:
            if node["op"] == _QUANTIZED_POOLING or _pools_integers(node):
                yield QuantizableOp(
                    name=node["name"].removeprefix(_PREFIX) if node["op"] == _QUANTIZED_POOLING else node["name"],
                    kind=POOLING,
                    node=node["name"],
                    source=self.origin(self.tensor(node["inputs"][0])),
                    summed=None,
                    output=f"{node['name']}_output",
                )
            if node["op"] not in _FUSED:
                continue
            inner = [each for each in node["subgraphs"][0]["nodes"] if each["op"] == _FUSED[node["op"]]]
            yield QuantizableOp(
                name=inner[0]["name"] if inner else node["name"],
                kind=_FUSED[node["op"]],
                node=node["name"],
                source=self.origin(self.tensor(node["inputs"][0])),
                summed=self.origin(self.tensor(node["inputs"][-1])) if is_true(node, "with_sum") else None,
                output=self.origin(f"{node['name']}_output"),
            )

    def tensor(self, entry: Sequence[int]) -> str:
        """The name of a tensor as ``list_outputs`` of the inner nodes has it."""
        return self._named[entry[0]][entry[1]]

    def tensors_of(self, place: int) -> tuple[str, ...]:
        """Names of the tensors that a node writes, without those that are hidden."""
        return tuple(self._named[place])

    def origin(self, tensor: str) -> str:
        """The name that a tensor of a fused symbol has in the symbol that was fused."""
        return self._origins.get(tensor, tensor)

    @cached_property
    def _origins(self) -> Mapping[str, str]:
        """By tensor that a fused node writes: the name of the same tensor before."""
        found = {}
        for node in self.nodes:
            if node["op"] in _FUSED:
                inner = node["subgraphs"][0]
                last = inner["nodes"][inner["heads"][0][0]]
                found[f"{node['name']}_output"] = f"{last['name']}_output"
        return found

    @cached_property
    def tensors(self) -> Sequence[str]:
        """Names of all tensors, variables included, in graph order."""
        found: list[str] = self.symbol.get_internals().list_outputs()
        return found

    @cached_property
    def _named(self) -> Sequence[Sequence[str]]:
        """By node: names of its outputs without those that are hidden, such as the moments of a normalization."""
        found: list[list[str]] = []
        left = list(reversed(self.tensors))
        starts = [*self._content["node_row_ptr"]]
        for place, node in enumerate(self.nodes):
            own = [left.pop()]
            following = self.nodes[place + 1]["name"] if place + 1 < len(self.nodes) else ""
            for _ in range(1, starts[place + 1] - starts[place]):
                if not left or not left[-1].startswith(f"{node['name']}_") or left[-1].startswith(f"{following}_"):
                    break
                own.append(left.pop())
            found.append(own)
        return found

    def others(self, kept: Collection[str]) -> list[str]:
        """Names of all nodes but variables and those named, of a fused symbol.

        A flattening between nodes that are named is not among them: it moves integers as they are.
        """
        within = {*kept, *self._flattenings(kept)}
        return [node["name"] for node in self.nodes if node["op"] != "null" and node["name"] not in within]

    def passed_on(self, kept: Collection[str]) -> Mapping[str, str]:
        """By tensor that holds another one's integers when the nodes named are int8: that one, in a fused symbol."""
        flattenings = self._flattenings(kept)
        return {
            self.tensor([place, 0]): self.origin(self.tensor(node["inputs"][0]))
            for place, node in enumerate(self.nodes)
            if node["name"] in flattenings or (node["op"] == POOLING and node["name"] in kept)
        }

    def _flattenings(self, kept: Collection[str]) -> set[str]:
        """Names of the flattenings that int8 nodes alone write and read."""
        found: set[str] = set()
        for node in self.nodes:
            if node["op"] == "Flatten" and self._readers.get(node["name"], {""}) <= set(kept):
                before = self.nodes[node["inputs"][0][0]]["name"]
                if before in kept or before in found:
                    found.add(node["name"])
        return found

    @cached_property
    def _readers(self) -> Mapping[str, set[str]]:
        """By node: names of the nodes that read it; what the symbol returns is read by one without a name."""
        found: dict[str, set[str]] = {self.nodes[head[0]]["name"]: {""} for head in self._content["heads"]}
        for node in self.nodes:
            for source, *_ in node["inputs"]:
                found.setdefault(self.nodes[source]["name"], set()).add(node["name"])
        return found

    def integer_ops(self) -> list[str]:
        """Names of the ops that compute in integers, of a quantized symbol."""
        by_node = {op.node: op.name for op in self.ops}
        return [
            by_node[node["name"]]
            for node in self.nodes
            if node["name"] in by_node and (node["op"] == _QUANTIZED_POOLING or is_true(node, "quantized"))
        ]


def is_true(node: Mapping[str, Any], attribute: str, default: str = "False") -> bool:
    """Whether an attribute of a node says yes, ``default`` where it is not given."""
    return node.get("attrs", {}).get(attribute, default) in ("true", "True", "1")


def _pools_integers(node: Mapping[str, Any]) -> bool:
    """Whether oneDNN has an integer kernel for a pooling: the largest or the mean of two-dimensional windows."""
    attributes = node.get("attrs", {})
    if node["op"] != POOLING or attributes.get("pool_type", "max") not in ("max", "avg"):
        return False
    return len(ast.literal_eval(attributes.get("kernel", "()"))) == 2 and attributes.get("layout", "NCHW") == "NCHW"


def graph_of(symbol: Any) -> Graph:
    """The graph of MXNet's own object."""
    return Graph(symbol.tojson())
