"""Which ops of a graph can compute in int8: what they read, and where their weights are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.adapter import Array
from autotune.adapters.tensorflow.graph import FLOAT32, INT32, Graph, shape_of, text

CONV, DEPTHWISE, DENSE, TRANSPOSED = "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"
CONVOLUTIONS = frozenset({CONV, DEPTHWISE, TRANSPOSED})
WEIGHTED = frozenset({*CONVOLUTIONS, DENSE})

COMPUTING = frozenset(
    {*WEIGHTED, "BATCH_MATMUL", "ADD", "SUB", "MUL", "MEAN", "AVERAGE_POOL_2D", "CONCATENATION"}
    | {"LOGISTIC", "TANH", "SOFTMAX", "HARD_SWISH"}
)
"""Kinds of ops that a config chooses for."""

FOLLOWING = frozenset(
    {"RESHAPE", "TRANSPOSE", "PAD", "MAX_POOL_2D", "SLICE", "STRIDED_SLICE", "SPLIT", "RELU"}
    | {"RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "SPACE_TO_DEPTH"}
)
"""Kinds of ops that pass integers on. They compute in what their neighbours do, so that nothing is converted."""

_GENERATED = ("arith.constant", "tfl.", "constant_", "StatefulPartitionedCall", "Identity")
"""Beginnings of names that converters count up; they tell a user nothing."""


@dataclass(frozen=True, kw_only=True)
class QuantizableOp:
    """One op that LiteRT has an integer kernel for.

    Attributes:
        name: Name by which configs know it.
        kind: TensorFlow Lite's name for this kind of op.
        place: Its place among the operators.
        activations: Places of the tensors that it reads and that are no constants.
        outputs: Places of the tensors that it writes.
        weight: Place of the constant weight; None for ops without one.
        bias: Place of the constant bias; None for ops without one.
    """

    name: str
    kind: str
    place: int
    activations: tuple[int, ...]
    outputs: tuple[int, ...]
    weight: int | None = None
    bias: int | None = None

    @property
    def convolves(self) -> bool:
        """Whether this is a convolution."""
        return self.kind in CONVOLUTIONS

    @property
    def axis(self) -> int:
        """The axis of the weight that counts output channels, as the file lays it out."""
        return 3 if self.kind == DEPTHWISE else 0

    def rows(self, weight: Array) -> Array:
        """A weight with its output channels first and its kernel last, as the algorithms lay it out.

        Shape (outputs, inputs / groups, height, width) or (outputs, inputs).
        """
        if self.kind == DEPTHWISE:
            return np.ascontiguousarray(weight.transpose(3, 0, 1, 2))
        return np.ascontiguousarray(weight.transpose(0, 3, 1, 2)) if weight.ndim == 4 else weight

    def as_stored(self, rows: Array) -> Array:
        """An array of the shape of :meth:`rows` as the file lays it out."""
        if self.kind == DEPTHWISE:
            return np.ascontiguousarray(rows.transpose(1, 2, 3, 0))
        return np.ascontiguousarray(rows.transpose(0, 2, 3, 1)) if rows.ndim == 4 else rows


def quantizable_ops(graph: Graph) -> list[QuantizableOp]:
    """The ops of a graph that a config chooses for, in the order in which they run."""
    candidates = [
        op for place, operator in enumerate(graph.operators) if (op := _quantizable(graph, place, operator)) is not None
    ]
    return _named(graph, candidates)


def following_ops(graph: Graph) -> list[QuantizableOp]:
    """The ops that compute in what their neighbours do, in the order in which they run."""
    found = []
    for place, operator in enumerate(graph.operators):
        if graph.kind(operator) in FOLLOWING and (op := _bare(graph, place, operator)) is not None:
            found.append(op)
    return found


def followed(graph: Graph, chosen: Sequence[QuantizableOp]) -> list[QuantizableOp]:
    """The following ops that compute in int8 once the chosen ones do.

    Such an op reads nothing but what int8 ops write, or all that read its output are int8 ops.
    """
    int8 = {op.place for op in chosen}
    writers = {place: index for index, each in enumerate(graph.operators) for place in each.outputs}
    readers: dict[int, set[int]] = {}
    for index, each in enumerate(graph.operators):
        for place in each.inputs:
            readers.setdefault(int(place), set()).add(index)
    pending = following_ops(graph)
    found: list[QuantizableOp] = []
    while True:
        more = [
            op
            for op in pending
            if all(writers.get(place) in int8 for place in op.activations)
            or (
                not set(op.outputs) & set(graph.outputs)
                and all(readers.get(place) and readers[place] <= int8 for place in op.outputs)
            )
        ]
        if not more:
            return sorted(found, key=lambda op: op.place)
        found += more
        int8 |= {op.place for op in more}
        pending = [op for op in pending if op.place not in int8]


def _quantizable(graph: Graph, place: int, operator: Any) -> QuantizableOp | None:
    kind = graph.kind(operator)
    op = _bare(graph, place, operator) if kind in COMPUTING else None
    if op is None or kind not in WEIGHTED:
        return op
    reads = [int(each) for each in operator.inputs]
    weight = reads[1]
    values = graph.constant(weight)
    if values is None or values.dtype != np.float32:
        return None
    at = 3 if kind == TRANSPOSED else 2
    bias = reads[at] if len(reads) > at and reads[at] >= 0 and graph.constant(reads[at]) is not None else None
    return QuantizableOp(**{**vars(op), "weight": weight, "bias": bias})


def _bare(graph: Graph, place: int, operator: Any) -> QuantizableOp | None:
    """An op whose activations are all of float32; None for others. Shapes that are computed are no activations."""
    reads = [int(each) for each in operator.inputs if each >= 0]
    computed = dict.fromkeys(each for each in reads if graph.constant(each) is None)
    activations = tuple(each for each in computed if graph.tensors[each].type != INT32)
    writes = tuple(int(each) for each in operator.outputs)
    floats = [graph.tensors[each].type == FLOAT32 for each in (*activations, *writes)]
    if not activations or not writes or not all(floats):
        return None
    return QuantizableOp(name="", kind=graph.kind(operator), place=place, activations=activations, outputs=writes)


def _named(graph: Graph, ops: Sequence[QuantizableOp]) -> list[QuantizableOp]:
    """The ops with a name of their own each: that of the layer where the file tells it, else that of what they write.

    A converter that fuses layers joins their names by semicolons. The weight's name is that of the one that counts.
    """
    options = [_names(graph, op) for op in ops]
    counts = Counter(name for names in options for name in dict.fromkeys(names))
    taken: set[str] = set()
    found = []
    for op, names in zip(ops, options, strict=True):
        name = next((each for each in names if counts[each] == 1), f"{op.kind}/{op.place}")
        while name in taken:
            name = f"{name}/{op.place}"
        taken.add(name)
        found.append(QuantizableOp(**{**vars(op), "name": name}))
    return found


def _names(graph: Graph, op: QuantizableOp) -> list[str]:
    """Names for an op, the best one first."""
    places = [each for each in (op.weight, op.bias, *op.outputs) if each is not None]
    joined = [text(graph.tensors[each].name) for each in places]
    parts = [part for name in joined for part in name.split(";")]
    return [part for part in parts if part and not part.startswith(_GENERATED)]


def by_name(ops: Sequence[QuantizableOp]) -> Mapping[str, QuantizableOp]:
    """The ops by their names."""
    return {op.name: op for op in ops}


def elements(graph: Graph, place: int) -> int:
    """How many values a tensor holds for one sample, by the file's own shapes."""
    return int(np.prod(shape_of(graph.tensors[place]), dtype=np.int64))
