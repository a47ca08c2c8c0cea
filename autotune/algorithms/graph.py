"""The protocol by which an adapter describes a model's graph, so that recipes work on it whatever the framework.

An adapter describes each node of its graph by one of the classes below, and implements the four members of
:class:`LayerGraph`. A node may stand for several ops of the framework: a convolution and the addition of its bias, for
example.

Arrays are laid out as ONNX lays them out: activations of convolutions are (N, C, spatial...), their weights
(outputs, inputs / groups, kernel...). An adapter whose framework lays them out otherwise transposes in
``LayerGraph.constants`` and ``LayerGraph.run``, and transposes back what the algorithms return.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from autotune.adapter import Array

Values: TypeAlias = list[Array]
"""Values of a tensor, an array for each chunk of examples."""


@dataclass(frozen=True, kw_only=True)
class Node:
    """A node that the algorithms only run.

    Attributes:
        name: Name by which configs know it where it can be quantized.
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


@dataclass(frozen=True, kw_only=True)
class Layer(Node):
    """A convolution or a MatMul that multiplies a tensor by a constant weight; it writes one tensor.

    Attributes:
        source: The tensor.
        weight: Name of the weight, (outputs, inputs / groups, kernel...) or a matrix.
        axis: The weight's axis of output channels; None for a stack of matrices, which share none.
        bias: Name of the constant bias, shape (outputs,); None where there is none.
        convolution: How a convolution goes over ``source``, whose channels lie along its axis 1; None for a matrix
            product, which sums over the last axis of ``source``.
    """

    source: str
    weight: str
    axis: int | None
    bias: str | None = None
    convolution: Convolution | None = None

    @property
    def output(self) -> str:
        """The tensor that it writes."""
        return self.writes[0]

    @property
    def groups(self) -> int:
        """Groups of its convolution; 1 for a matrix product."""
        return 1 if self.convolution is None else self.convolution.groups


@dataclass(frozen=True, kw_only=True)
class Clip(Node):
    """An activation that cuts its first read at two ends, Relu and ReLU6 for example.

    Attributes:
        low: Lower end.
        high: Upper end, infinity for Relu. Both are NaN where an end is computed at run time.
    """

    low: float
    high: float

    @property
    def is_relu(self) -> bool:
        """Whether it lets through all that is positive, and nothing else."""
        return self.low == 0.0 and self.high == math.inf


@dataclass(frozen=True, kw_only=True)
class Sum(Node):
    """An addition of all that it reads, element by element."""


@dataclass(frozen=True, kw_only=True)
class Scaled(Node):
    """A node whose only output is divided by a vector along its last axis once some constants are.

    A LayerNormalization over the last axis with its scale and bias, or a Mul with a vector.

    Attributes:
        vectors: Names of all those constants, each of shape (C,) with C > 1.
    """

    vectors: tuple[str, ...]


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
            node: A node of :attr:`nodes`.
            values: Tensors that it reads, by name; all of them have as many chunks. Holds other tensors too.
            constants: Constants in place of the graph's own, by name; those of other nodes too.

        Returns:
            Tensors that it writes, by name, with as many chunks.
        """
        ...


class Connections:
    """Writers and readers of each tensor and constant of a graph.

    Attributes:
        nodes: Nodes of the graph, in order.
        outputs: Tensors that the model returns.
        writers: By tensor; inputs of the model and constants have none.
        readers: By tensor or constant, in order.
    """

    def __init__(self, nodes: Sequence[Node], outputs: Collection[str]) -> None:
        self.nodes = nodes
        self.outputs = outputs
        self.writers = {name: node for node in nodes for name in node.writes}
        self.readers: dict[str, list[Node]] = {}
        for node in nodes:
            for name in node.reads:
                self.readers.setdefault(name, []).append(node)

    def read_once(self, name: str) -> bool:
        """Whether one node reads a tensor or constant, and nothing else does."""
        return len(self.readers.get(name, ())) == 1 and name not in self.outputs
