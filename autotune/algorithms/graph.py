"""What an adapter tells of a model's graph, so that the recipes' algorithms work on it whatever the framework.

An adapter describes each node of its graph by one of the classes below, and implements the four members of
:class:`LayerGraph`. A node may stand for several ops of the framework: a convolution and the addition of its bias, for
example.

Arrays are laid out as ONNX lays them out: activations of convolutions are (N, C, spatial...), their weights
(outputs, inputs / groups, kernel...). An adapter whose framework lays them out otherwise transposes in
``LayerGraph.constants`` and ``LayerGraph.run``, and transposes back what the algorithms return.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from autotune.adapter import Array

Values: TypeAlias = list[Array]
"""What a tensor holds, an array for each chunk of examples."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that the algorithms only run.

    Attributes:
        name: As configs name it where it can be quantized.
        reads: Names of the tensors and constants that it reads, each once; those that graphs inside of it read, too.
        writes: Names of the tensors that it writes, the one that matters first.
    """

    name: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """How a convolution goes over what it reads, for R spatial axes.

    Attributes:
        groups: Into how many groups its channels fall; each filter reads the channels of one group.
        strides: Shape (R,).
        dilations: Shape (R,).
        pads: Zeros before and after each spatial axis, shape (2R,): first all that come before, then all that come
            after. None where they are chosen at run time.
    """

    groups: int = 1
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...] | None

    @property
    def padded(self) -> bool:
        """Whether filters may see zeros that no op has written."""
        return self.pads is None or any(self.pads)


class LayerGraph(Protocol):
    """A model's graph; what an adapter implements to get the recipes."""

    @property
    def nodes(self) -> Sequence[Node]:
        """All nodes, in an order in which they can run."""
        ...

    @property
    def outputs(self) -> Collection[str]:
        """Names of the tensors that the model returns."""
        ...

    @property
    def constants(self) -> Mapping[str, Array]:
        """Values of the constants that nodes read, by name; read from the model when they are asked for."""
        ...

    def run(
        self, node: Node, values: Mapping[str, Values], constants: Mapping[str, Array] | None = None
    ) -> Mapping[str, Values]:
        """Run one node in fp32.

        Args:
            node: One of :attr:`nodes`.
            values: What it reads, by name; all of them have as many chunks. Holds other tensors too.
            constants: In place of the graph's own, by name; those of other nodes too.

        Returns:
            What it writes, by name, with as many chunks.
        """
        ...
