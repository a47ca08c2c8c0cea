"""Residual streams: tensors that Adds tie together, whose channels can be scaled as one.

Every residual block adds its output to what it read, so that one factor per channel has to serve all tensors between
the first convolution that writes into the stream and the last one that reads from it. Cross-layer equalization as
published (arXiv 1906.04721) stops there. But Add is linear and Relu keeps positive factors, so that the factors of a
whole stream change nothing either, once every convolution that writes into it is scaled by them and every one that
reads from it by their inverse.

On MobileNetV2 the last stream's channels differ in range by four, and its tensors make up a fifth of the noise at the
outputs once pairs are equalized (each tensor quantized alone).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import onnx

from autotune.adapters.onnx.graph import Graph, attributes, is_standard
from autotune.adapters.onnxruntime.choices.ops import QuantizableOp
from autotune.notes import listed


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Tensors with the same channels, and the convolutions at the ends.

    Attributes:
        tensors: In graph order.
        rectified: Those of them that a Relu wrote.
        writers: Convolutions that write into it.
        readers: Convolutions that read from it.
        channels: How many channels it has.
    """

    tensors: tuple[str, ...]
    rectified: frozenset[str]
    writers: tuple[QuantizableOp, ...]
    readers: tuple[QuantizableOp, ...]
    channels: int


class _Refusal(Exception):
    """Why the channels of a stream stay as they are; empty where there is nothing to tell."""


def find_streams(graph: Graph, ops: Sequence[QuantizableOp], int8: Collection[str]) -> tuple[list[Stream], list[str]]:
    """The streams that can be scaled, in graph order, and a line for each reason why others cannot.

    Args:
        graph: Of the fp32 model.
        ops: Its quantizable ops.
        int8: Names of those that become int8. A stream without any of them gains nothing.
    """
    convs = {op.name: op for op in ops if op.node.op_type == "Conv"}
    seen: set[str] = set()
    streams: list[Stream] = []
    refused: dict[str, list[str]] = {}
    for node in graph.nodes:
        if node.op_type != "Add" or not is_standard(node) or node.output[0] in seen:
            continue
        tied = _Tied(graph, convs)
        try:
            tied.take(node.output[0])
            stream = tied.stream()
        except _Refusal as refusal:
            if str(refusal):
                refused.setdefault(str(refusal), []).append(node.name)
        else:
            if {op.name for op in (*stream.writers, *stream.readers)} & set(int8):
                streams.append(stream)
        seen |= tied.tensors
    notes = [
        f"Equalization leaves the residual stream of {listed(names)} as it is: {reason}"
        for reason, names in refused.items()
    ]
    return streams, notes


class _Tied:
    """Gathers what shares its channels with a tensor."""

    def __init__(self, graph: Graph, convs: Mapping[str, QuantizableOp]) -> None:
        self.tensors: set[str] = set()
        self._graph = graph
        self._convs = convs
        self._writers: dict[str, QuantizableOp] = {}
        self._readers: dict[str, QuantizableOp] = {}

    def take(self, tensor: str) -> None:
        """Take in a tensor and all that hangs on it.

        Raises:
            _Refusal: Something hangs on it that factors do not pass.
        """
        pending = [tensor]
        while pending:
            name = pending.pop()
            if name in self.tensors:
                continue
            self.tensors.add(name)
            producer = self._graph.producers.get(name)
            if producer is None or name in self._graph.outputs or name in self._graph.read_by_subgraphs:
                raise _Refusal("")
            pending += self._through(producer, name, self._writers, written=True)
            for reader in self._graph.readers.get(name, ()):
                pending += self._through(reader, name, self._readers, written=False)

    def _through(
        self, node: onnx.NodeProto, tensor: str, ends: dict[str, QuantizableOp], *, written: bool
    ) -> list[str]:
        """The tensors that share their channels with ``tensor`` through a node; a convolution is an end."""
        if node.name in self._convs:
            op = self._convs[node.name]
            if not written and op.activations != (tensor,):
                raise _Refusal("")
            ends[node.name] = op
            return []
        if node.op_type not in ("Add", "Relu") or not is_standard(node):
            raise _Refusal(f"{node.op_type} among its ops keeps no factor" if node.op_type == "Clip" else "")
        if any(name in self._graph.initializers for name in node.input):
            raise _Refusal("a constant is added to it")
        return [*node.input, node.output[0]]

    def stream(self) -> Stream:
        """What was taken in.

        Raises:
            _Refusal: Its convolutions cannot be scaled.
        """
        writers, readers = (tuple(ends.values()) for ends in (self._writers, self._readers))
        graph = self._graph
        if not writers or not readers:
            raise _Refusal("")
        for name in dict.fromkeys(name for op in (*writers, *readers) for name in (op.weight, op.bias) if name):
            if not graph.read_once(name):
                raise _Refusal(f"{name!r} is shared between ops")
        channels = {int(graph.initializers[str(op.weight)].dims[0]) for op in writers}
        channels |= {int(graph.initializers[str(op.weight)].dims[1]) * _groups(op) for op in readers}
        if len(channels) != 1:
            raise _Refusal("an Add in it repeats channels")
        order = [name for node in graph.nodes for name in node.output if name in self.tensors]
        rectified = frozenset(name for name in order if graph.producers[name].op_type == "Relu")
        return Stream(
            tensors=tuple(order), rectified=rectified, writers=writers, readers=readers, channels=channels.pop()
        )


def _groups(op: QuantizableOp) -> int:
    groups = attributes(op.node).get("group", 1)
    assert isinstance(groups, int)
    return groups
