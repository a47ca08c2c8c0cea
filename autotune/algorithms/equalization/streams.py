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

from autotune.adapter import Array
from autotune.algorithms.graph import Clip, Connections, Layer, Node, Sum
from autotune.notes import listed


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Tensors with the same channels, and the convolutions at the ends.

    Attributes:
        tensors: Tensors in graph order.
        rectified: The tensors among them that a Relu wrote.
        writers: Convolutions that write into it.
        readers: Convolutions that read from it.
        channels: How many channels it has.
    """

    tensors: tuple[str, ...]
    rectified: frozenset[str]
    writers: tuple[Layer, ...]
    readers: tuple[Layer, ...]
    channels: int


class _Refusal(Exception):
    """Reason why a stream's channels stay as they are; empty where none is worth a note."""


def find_streams(
    connections: Connections, constants: Mapping[str, Array], layers: Sequence[Layer], int8: Collection[str]
) -> tuple[list[Stream], list[str]]:
    """The streams that can be scaled, in graph order, and a line for each reason why others cannot.

    Args:
        connections: Connections of the fp32 model.
        constants: Constants of the fp32 model.
        layers: The model's layers whose weights may be changed.
        int8: Names of those that become int8. A stream without any of them gains nothing.
    """
    convs = {layer.name: layer for layer in layers if layer.convolution is not None}
    seen: set[str] = set()
    streams: list[Stream] = []
    refused: dict[str, list[str]] = {}
    for node in connections.nodes:
        if not isinstance(node, Sum) or node.writes[0] in seen:
            continue
        tied = _Tied(connections, constants, convs)
        try:
            tied.take(node.writes[0])
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

    def __init__(self, connections: Connections, constants: Mapping[str, Array], convs: Mapping[str, Layer]) -> None:
        self.tensors: set[str] = set()
        self._connections = connections
        self._constants = constants
        self._convs = convs
        self._writers: dict[str, Layer] = {}
        self._readers: dict[str, Layer] = {}

    def take(self, tensor: str) -> None:
        """Add a tensor to the stream, and all tensors that must be scaled with it.

        Raises:
            _Refusal: An op reads or writes it that factors do not pass.
        """
        pending = [tensor]
        while pending:
            name = pending.pop()
            if name in self.tensors:
                continue
            self.tensors.add(name)
            writer = self._connections.writers.get(name)
            if writer is None or name in self._connections.outputs:
                raise _Refusal("")
            pending += self._through(writer, name, self._writers, written=True)
            for reader in self._connections.readers.get(name, ()):
                pending += self._through(reader, name, self._readers, written=False)

    def _through(self, node: Node, tensor: str, ends: dict[str, Layer], *, written: bool) -> list[str]:
        """The tensors that share their channels with ``tensor`` through a node; a convolution is an end."""
        if node.name in self._convs:
            op = self._convs[node.name]
            if not written and op.source != tensor:
                raise _Refusal("")
            ends[node.name] = op
            return []
        if isinstance(node, Clip):
            if not node.is_relu:
                raise _Refusal("Clip among its ops keeps no factor")
            return [node.reads[0], node.writes[0]]
        if not isinstance(node, Sum):
            raise _Refusal("")
        if any(name in self._constants for name in node.reads):
            raise _Refusal("a constant is added to it")
        return [*node.reads, node.writes[0]]

    def stream(self) -> Stream:
        """The stream that was found.

        Raises:
            _Refusal: Its convolutions cannot be scaled.
        """
        writers, readers = (tuple(ends.values()) for ends in (self._writers, self._readers))
        connections = self._connections
        if not writers or not readers:
            raise _Refusal("")
        for name in dict.fromkeys(name for op in (*writers, *readers) for name in (op.weight, op.bias) if name):
            if not connections.read_once(name):
                raise _Refusal(f"{name!r} is shared between ops")
        channels = {self._constants[op.weight].shape[0] for op in writers}
        channels |= {self._constants[op.weight].shape[1] * op.groups for op in readers}
        if len(channels) != 1:
            raise _Refusal("an Add in it repeats channels")
        order = [name for node in connections.nodes for name in node.writes if name in self.tensors]
        rectified = frozenset(name for name in order if isinstance(connections.writers[name], Clip))
        return Stream(
            tensors=tuple(order), rectified=rectified, writers=writers, readers=readers, channels=channels.pop()
        )
