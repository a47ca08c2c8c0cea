"""Find attention in a graph as exporters write it: two MatMuls with a Softmax between them.

ONNX Runtime fuses it by itself only where the graph looks like that of an older exporter. PyTorch's current one writes
the scale to both sides of the first MatMul, turns keys around in three dimensions, and guards the Softmax against rows
that are masked altogether.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx

from autotune.adapters.onnx.graph import Graph, attributes, is_standard

_TO_HEADS = [0, 2, 1, 3]
_KEYS_TO_HEADS = [0, 2, 3, 1]
_TURNED = [0, 2, 1]
_SWAPPED = [0, 1, 3, 2]

_SHAPING = frozenset({"Expand", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Op types that change a mask's shape and not its values."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One attention over (batch, sequence, hidden) tensors.

    Attributes:
        query: Name of the tensor of all heads' queries, before it is split into heads.
        key: Tensor of keys, alike.
        value: Tensor of values, alike.
        bias: Tensor that is added before the Softmax, of rank 4; None where nothing is.
        heads: Number of heads.
        scale: Scale that the products of queries and keys are multiplied by.
        guarded: Whether a row that is masked with infinities altogether must give zeros; otherwise it gives NaN. Finite
            masks, as most models have them, need no guard.
        last: The node that writes the result, of shape (batch, sequence, hidden).
    """

    query: str
    key: str
    value: str
    bias: str | None
    heads: int
    scale: float
    guarded: bool
    last: onnx.NodeProto


def find_attention(graph: Graph) -> list[Attention]:
    """Every attention that is written in a known way, in graph order."""
    found = (_Match(graph).attention(node) for node in graph.nodes if _is(node, "Softmax"))
    return [attention for attention in found if attention is not None]


class _NoMatch(Exception):
    """The graph goes on in another way."""


class _Match:
    """Walks the graph around one Softmax."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def attention(self, softmax: onnx.NodeProto) -> Attention | None:
        try:
            return self._attention(softmax)
        except _NoMatch:
            return None

    def _attention(self, softmax: onnx.NodeProto) -> Attention:
        if attributes(softmax).get("axis", -1) not in (-1, 3):
            raise _NoMatch
        probabilities, guarded = self._guarded(softmax.output[0])
        product = self._reader(probabilities, "MatMul")
        if product.input[0] != probabilities:
            raise _NoMatch
        merged = self._transposed(self._reader(product.output[0], "Transpose"), _TO_HEADS)
        last = self._reader(merged, "Reshape")

        scores, bias = self._biased(softmax.input[0])
        scores, scale = self._scaled(scores)
        first = self._producer(scores, "MatMul")
        query, query_scale = self._scaled(first.input[0])
        key, key_scale = self._scaled(first.input[1])
        query, head_size = self._split(query, _TO_HEADS)
        key, _ = self._keys(key)
        value, _ = self._split(product.input[1], _TO_HEADS)
        hidden = {self._hidden(name) for name in (query, key, value)}
        if self._graph.rank(last.output[0]) != 3 or len(hidden) != 1 or (size := hidden.pop()) % head_size:
            raise _NoMatch
        return Attention(
            query=query,
            key=key,
            value=value,
            bias=bias,
            heads=size // head_size,
            scale=scale * query_scale * key_scale,
            guarded=guarded and not self._is_finite(bias),
            last=last,
        )

    def _guarded(self, probabilities: str) -> tuple[str, bool]:
        """Past ``Where(IsNaN(p), 0, p)``."""
        readers = self._graph.readers.get(probabilities, [])
        if [node.op_type for node in readers] != ["IsNaN", "Where"]:
            return probabilities, False
        if probabilities in self._graph.outputs | self._graph.read_by_subgraphs:
            raise _NoMatch
        where = readers[1]
        zero = self._graph.constant(where.input[1])
        if list(where.input) != [readers[0].output[0], where.input[1], probabilities] or zero is None or zero.any():
            raise _NoMatch
        return where.output[0], True

    def _is_finite(self, bias: str | None) -> bool:
        """Whether a mask is made of finite constants alone, so that no Softmax over finite scores gives NaN."""
        if bias is None:
            return True
        node = self._graph.producers.get(bias)
        if node is None:
            value = self._graph.constant(bias)
            return value is not None and bool(np.isfinite(value).all())
        if not is_standard(node) or node.op_type not in ("Where", *_SHAPING):
            return False
        return all(self._is_finite(name) for name in (node.input[1:] if node.op_type == "Where" else node.input[:1]))

    def _biased(self, scores: str) -> tuple[str, str | None]:
        """The two inputs of an Add: the product, and the tensor that is added to it."""
        node = self._graph.producers.get(scores)
        if node is None or not _is(node, "Add"):
            return scores, None
        self._require_own(scores)
        for product, bias in (node.input, reversed(node.input)):
            origin = self._graph.producers.get(self._scaled(product)[0])
            if origin is not None and _is(origin, "MatMul") and self._graph.rank(bias) in (4, None):
                return product, bias
        raise _NoMatch

    def _scaled(self, tensor: str) -> tuple[str, float]:
        """The tensor before multiplications with or divisions by one number, and the number."""
        scale = 1.0
        while (node := self._graph.producers.get(tensor)) is not None and node.op_type in ("Mul", "Div"):
            names = list(node.input)
            if node.op_type == "Mul" and self._graph.constant(names[1]) is None:
                names.reverse()
            number = self._graph.constant(names[1])
            if number is None or number.size != 1 or not math.isfinite(number.item()) or not number.item():
                break
            scale *= float(number.item()) if node.op_type == "Mul" else 1.0 / float(number.item())
            tensor = names[0]
        return tensor, scale

    def _keys(self, tensor: str) -> tuple[str, int]:
        """Keys, turned around for the product: at once, after the split, or in three dimensions.

        With fixed shapes ONNX Runtime makes the second of the third, and leaves a Reshape that changes nothing.
        """
        node = self._producer(tensor)
        if node.op_type == "Transpose":
            if attributes(node).get("perm") == _SWAPPED:
                return self._split(self._unreshaped(node.input[0]), _TO_HEADS)
            return self._split(tensor, _KEYS_TO_HEADS)
        turned = self._producer(self._reshaped(node), "Transpose")
        return self._split(self._reshaped(self._producer(self._transposed(turned, _TURNED, back=True))), _TO_HEADS)

    def _unreshaped(self, tensor: str) -> str:
        """The tensor before a Reshape to the shape that it has already."""
        node = self._graph.producers.get(tensor)
        if node is None or not _is(node, "Reshape"):
            return tensor
        before, after = (
            [dim.dim_value for dim in self._graph.types[name].shape.dim] for name in (node.input[0], tensor)
        )
        if before != after or not all(after):
            raise _NoMatch
        return str(node.input[0])

    def _split(self, tensor: str, order: list[int]) -> tuple[str, int]:
        """The tensor before a Reshape and a Transpose that make heads, and the size of a head."""
        reshape = self._producer(self._transposed(self._producer(tensor, "Transpose"), order, back=True), "Reshape")
        shape = self._graph.constant(reshape.input[1])
        if shape is None:
            parts = self._producer(reshape.input[1], "Concat")
            shape = self._graph.constant(parts.input[-1])
        if shape is None or (head_size := int(np.ravel(shape)[-1])) <= 0 or self._graph.rank(reshape.output[0]) != 4:
            raise _NoMatch
        return str(reshape.input[0]), head_size

    def _hidden(self, tensor: str) -> int:
        shape = self._graph.types[tensor].shape.dim if self._graph.rank(tensor) == 3 else ()
        if not shape or not shape[-1].HasField("dim_value"):
            raise _NoMatch
        return int(shape[-1].dim_value)

    def _producer(self, tensor: str, op_type: str | None = None) -> onnx.NodeProto:
        node: onnx.NodeProto | None = self._graph.producers.get(tensor)
        if node is None or (op_type is not None and not _is(node, op_type)):
            raise _NoMatch
        return node

    def _reader(self, tensor: str, op_type: str) -> onnx.NodeProto:
        """The only node that reads a tensor."""
        self._require_own(tensor)
        node: onnx.NodeProto = self._graph.readers[tensor][0]
        if not _is(node, op_type):
            raise _NoMatch
        return node

    def _require_own(self, tensor: str) -> None:
        if not self._graph.read_once(tensor):
            raise _NoMatch

    def _transposed(self, node: onnx.NodeProto, order: list[int], *, back: bool = False) -> str:
        if attributes(node).get("perm") != order:
            raise _NoMatch
        return str(node.input[0] if back else node.output[0])

    def _reshaped(self, node: onnx.NodeProto) -> str:
        if not _is(node, "Reshape"):
            raise _NoMatch
        return str(node.input[0])


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return bool(node.op_type == op_type and is_standard(node))
