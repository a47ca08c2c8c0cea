"""Find LayerNormalization and GELU where an exporter wrote them out in smaller operators.

ONNX Runtime joins them again, but some of them only when it opens a session, which is after quantization: by then each
Add and Mul of them would have been offered as an op of its own. Patterns that its basic optimisations join
(LayerNormalization from opset 17 on, GELU with a quotient and ``Erf`` from opset 20 on) are gone before this module
looks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.adapters.onnx.graph import Graph, attributes, is_standard
from autotune.adapters.onnx.rewriting import CONTRIB_DOMAIN

LAYER_NORMALIZATION_OPSET = 17
"""LayerNormalization is a standard operator from here on; before, it is one of ONNX Runtime's own by the same name."""

GELU_OPSET = 20
"""Gelu is a standard operator from here on; before, ONNX Runtime has two of its own for its two forms."""

_DEPTH = 6
"""Operators one after the other: more than any way to write half of a GELU has."""

_DEGREE = 4
"""The largest degree of a polynomial that is followed; that of a GELU is less."""

_SAME = 1e-4
"""Relative difference up to which two coefficients are one: exporters write the root of two with 5 to 17 digits."""

_CUBE = 0.044715
_ERF_ARGUMENT = {(1, 0): math.sqrt(0.5)}
_TANH_ARGUMENT = {(1, 0): math.sqrt(2 / math.pi), (3, 0): math.sqrt(2 / math.pi) * _CUBE}
_GELU = {(1, 0): 0.5, (1, 1): 0.5}


@dataclass(frozen=True, kw_only=True)
class Decomposed:
    """One operator that is written out in several.

    Attributes:
        last: The node that writes its result.
        fused: The node that takes its place, under the same name and with the same output.
        constants: Constants that ``fused`` reads and the graph does not have yet.
    """

    last: onnx.NodeProto
    fused: onnx.NodeProto
    constants: tuple[onnx.TensorProto, ...] = ()


def find_layer_normalizations(graph: Graph) -> list[Decomposed]:
    """Every LayerNormalization over the last axis, with or without scale and bias (arXiv 1607.06450)."""
    return _each(graph, ("Sqrt", "Pow"), _layer_normalization)


def find_gelus(graph: Graph) -> list[Decomposed]:
    """Every GELU, exact (``Erf``) or approximated (``Tanh``), in whatever order its factors are (arXiv 1606.08415)."""
    return _each(graph, ("Erf", "Tanh"), _gelu)


class _NoMatch(Exception):
    """The graph goes on in another way."""


def _each(
    graph: Graph, op_types: tuple[str, ...], match: Callable[[onnx.NodeProto, Graph], Decomposed]
) -> list[Decomposed]:
    found = []
    for node in graph.nodes:
        if node.op_type in op_types and is_standard(node):
            try:
                found.append(match(node, graph))
            except _NoMatch:
                continue
    return found


def _layer_normalization(root: onnx.NodeProto, graph: Graph) -> Decomposed:
    """The one whose standard deviation, or its reciprocal, ``root`` computes."""
    inner = [root]
    if root.op_type == "Pow" and not _is_close(_number(graph, root.input[1]), -0.5):
        raise _NoMatch
    shifted = _producer(graph, root.input[0], "Add")
    variance, epsilon = _with_number(graph, shifted)
    mean_of_squares = _producer(graph, variance, "ReduceMean")
    square = _producer(graph, mean_of_squares.input[0], "Pow", "Mul")
    deviation = square.input[0]
    if (square.op_type == "Mul" and square.input[1] != deviation) or (
        square.op_type == "Pow" and not _is_close(_number(graph, square.input[1]), 2.0)
    ):
        raise _NoMatch
    difference = _producer(graph, deviation, "Sub")
    source = difference.input[0]
    mean = _producer(graph, difference.input[1], "ReduceMean")
    if mean.input[0] != source or not all(_is_over_last_axis(node, graph) for node in (mean, mean_of_squares)):
        raise _NoMatch
    if graph.elem_type(source) != TensorProto.FLOAT:
        raise _NoMatch
    inner += [shifted, mean_of_squares, square, difference, mean]
    last = _normalized(root, deviation, graph, inner)
    return _with_scale_and_bias(last, source, epsilon, graph, inner)


def _normalized(root: onnx.NodeProto, deviation: str, graph: Graph, inner: list[onnx.NodeProto]) -> onnx.NodeProto:
    """The node that divides by the standard deviation; all before it joins ``inner``."""
    node = _only_reader(graph, root.output[0])
    divides = root.op_type == "Sqrt"
    if divides and node.op_type == "Reciprocal":
        inner.append(node)
        root, node, divides = node, _only_reader(graph, node.output[0]), False
    expected = [deviation, root.output[0]]
    if node.op_type != ("Div" if divides else "Mul") or (
        list(node.input) != expected and (divides or list(node.input) != expected[::-1])
    ):
        raise _NoMatch
    return node


def _with_scale_and_bias(
    last: onnx.NodeProto, source: str, epsilon: float, graph: Graph, inner: list[onnx.NodeProto]
) -> Decomposed:
    known = graph.types[source].shape.dim if graph.rank(source) else ()
    size = int(known[-1].dim_value) if known else 0
    vectors: list[str] = []
    constants: list[onnx.TensorProto] = []
    for op_type in ("Mul", "Add"):
        vector = _next_vector(last, op_type, size, graph)
        if vector is None:
            break
        reader, tensor = vector
        inner.append(last)
        last, size = reader, math.prod(tensor.dims)
        vectors.append(tensor.name if len(tensor.dims) == 1 else f"{last.name}/{op_type}")
        if len(tensor.dims) > 1:
            constants.append(numpy_helper.from_array(numpy_helper.to_array(tensor).reshape(-1), vectors[-1]))
    if not vectors:
        if not size:
            raise _NoMatch
        vectors = [f"{last.name}/ones"]
        constants.append(numpy_helper.from_array(np.ones(size, np.float32), vectors[0]))
    _require_closed(graph, inner, last)
    fused = helper.make_node(
        "LayerNormalization", [source, *vectors], [last.output[0]], last.name, axis=-1, epsilon=epsilon
    )
    return Decomposed(last=last, fused=fused, constants=tuple(constants))


def _next_vector(
    node: onnx.NodeProto, op_type: str, size: int, graph: Graph
) -> tuple[onnx.NodeProto, onnx.TensorProto] | None:
    """The node that brings one constant for each value of the last axis in, and the constant."""
    if not graph.read_once(node.output[0]):
        return None
    reader = graph.readers[node.output[0]][0]
    others = [name for name in reader.input if name != node.output[0]]
    if reader.op_type != op_type or not is_standard(reader) or len(others) != 1:
        return None
    tensor = graph.initializers.get(others[0])
    if tensor is None or tensor.data_type != TensorProto.FLOAT or not tensor.dims:
        return None
    if math.prod(tensor.dims) != tensor.dims[-1] or (size and tensor.dims[-1] != size):
        return None
    # One value for all is no scale of LayerNormalization, and what lies in a file keeps its shape.
    if (not size and tensor.dims[-1] == 1) or (len(tensor.dims) > 1 and graph.constant(tensor.name) is None):
        return None
    return reader, tensor


def _is_over_last_axis(node: onnx.NodeProto, graph: Graph) -> bool:
    options = attributes(node)
    axes: Any = options.get("axes")
    if axes is None and len(node.input) > 1:
        axes = graph.constant(node.input[1])
    rank = graph.rank(node.input[0])
    if axes is None or not options.get("keepdims", 1):
        return False
    return [int(axis) for axis in np.ravel(axes)] in ([-1], [(rank or 0) - 1])


_Polynomial = dict[tuple[int, int], float]
"""Coefficients by the powers of the input and of what Erf or Tanh gave."""


def _gelu(root: onnx.NodeProto, graph: Graph) -> Decomposed:
    """The one around ``root``, Erf or Tanh."""
    wanted = _ERF_ARGUMENT if root.op_type == "Erf" else _TANH_ARGUMENT
    argument, result = root.input[0], root.output[0]
    for source in _sources(argument, graph):
        try:
            before = _Expression(graph, {source: (1, 0)})
            if not _agree(before.polynomial(argument), wanted):
                continue
            last, after = _product(source, result, graph)
        except _NoMatch:
            continue
        inner = [root, *(node for node in {**before.nodes, **after}.values() if node.name != last.name)]
        _require_closed(graph, inner, last)
        return Decomposed(last=last, fused=_gelu_node(root.op_type, source, last, graph.opset))
    raise _NoMatch


def _gelu_node(form: str, source: str, last: onnx.NodeProto, opset: int) -> onnx.NodeProto:
    exact = form == "Erf"
    if opset >= GELU_OPSET:
        approximate = "none" if exact else "tanh"
        return helper.make_node("Gelu", [source], [last.output[0]], last.name, approximate=approximate)
    return helper.make_node(
        "Gelu" if exact else "FastGelu", [source], [last.output[0]], last.name, domain=CONTRIB_DOMAIN
    )


def _sources(argument: str, graph: Graph) -> Iterator[str]:
    """Tensors of which ``argument`` may be a polynomial, the nearest first."""
    level, seen = [argument], {argument}
    for _ in range(_DEPTH):
        yield from (tensor for tensor in level if graph.elem_type(tensor) == TensorProto.FLOAT)
        nodes = [graph.producers[tensor] for tensor in level if tensor in graph.producers]
        names = [name for node in nodes if node.op_type in _ARITHMETIC and is_standard(node) for name in node.input]
        level = [name for name in dict.fromkeys(names) if name not in seen and name not in graph.initializers]
        seen.update(level)


def _product(source: str, result: str, graph: Graph) -> tuple[onnx.NodeProto, dict[str, onnx.NodeProto]]:
    """The node that writes ``0.5 * source * (1 + result)``, and all that it takes by name."""
    tensor = result
    for _ in range(_DEPTH):
        if not graph.read_once(tensor):
            break
        reader = graph.readers[tensor][0]
        tensor = reader.output[0]
        expression = _Expression(graph, {source: (1, 0), result: (0, 1)})
        if _agree(expression.polynomial(tensor), _GELU):
            return reader, expression.nodes
    raise _NoMatch


_ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})


class _Expression:
    """Reads tensors as polynomials of others.

    Args:
        graph: Graph of the nodes.
        variables: By the name of a tensor, its powers in the polynomials.
    """

    def __init__(self, graph: Graph, variables: Mapping[str, tuple[int, int]]) -> None:
        self._graph = graph
        self._variables = variables
        self.nodes: dict[str, onnx.NodeProto] = {}
        """The nodes that compute them, by name."""

    def polynomial(self, tensor: str, depth: int = _DEPTH) -> _Polynomial:
        """A tensor as a polynomial.

        Raises:
            _NoMatch: It is none, or one of more than a GELU has.
        """
        if tensor in self._variables:
            return {self._variables[tensor]: 1.0}
        if tensor in self._graph.initializers:
            return {(0, 0): _number(self._graph, tensor)}
        node = _producer(self._graph, tensor, *_ARITHMETIC)
        if not depth:
            raise _NoMatch
        self.nodes[node.name] = node
        left = self.polynomial(node.input[0], depth - 1)
        if node.op_type in ("Div", "Pow"):
            number = _number(self._graph, node.input[1])
            if node.op_type == "Div" and number:
                return {powers: value / number for powers, value in left.items()}
            if node.op_type == "Div" or number not in (2.0, 3.0):
                raise _NoMatch
            square = _times(left, left)
            return square if number == 2.0 else _times(square, left)
        right = self.polynomial(node.input[1], depth - 1)
        if node.op_type == "Mul":
            return _times(left, right)
        sign = 1.0 if node.op_type == "Add" else -1.0
        return {powers: left.get(powers, 0.0) + sign * right.get(powers, 0.0) for powers in {**left, **right}}


def _times(left: _Polynomial, right: _Polynomial) -> _Polynomial:
    product: _Polynomial = {}
    for (i, j), a in left.items():
        for (k, m), b in right.items():
            if i + j + k + m > _DEGREE:
                raise _NoMatch
            product[i + k, j + m] = product.get((i + k, j + m), 0.0) + a * b
    return product


def _agree(found: _Polynomial, wanted: _Polynomial) -> bool:
    return all(_is_close(found.get(powers, 0.0), wanted.get(powers, 0.0)) for powers in {**found, **wanted})


def _is_close(value: float, wanted: float) -> bool:
    return math.isclose(value, wanted, rel_tol=_SAME, abs_tol=_SAME * 1e-3)


def _number(graph: Graph, tensor: str) -> float:
    """The value of a constant with a single one, whatever its type; of at most one dimension, so that ranks stay."""
    constant = graph.constant(tensor)
    if constant is None or constant.size != 1 or constant.ndim > 1:
        raise _NoMatch
    return float(constant.item())


def _with_number(graph: Graph, node: onnx.NodeProto) -> tuple[str, float]:
    """Both inputs of an Add of a tensor and one number."""
    names = list(node.input)
    if names[0] in graph.initializers:
        names.reverse()
    return names[0], _number(graph, names[1])


def _producer(graph: Graph, tensor: str, *op_types: str) -> onnx.NodeProto:
    node: onnx.NodeProto | None = graph.producers.get(tensor)
    if node is None or node.op_type not in op_types or not is_standard(node):
        raise _NoMatch
    return node


def _only_reader(graph: Graph, tensor: str) -> onnx.NodeProto:
    if not graph.read_once(tensor):
        raise _NoMatch
    node: onnx.NodeProto = graph.readers[tensor][0]
    if not is_standard(node):
        raise _NoMatch
    return node


def _require_closed(graph: Graph, inner: Sequence[onnx.NodeProto], last: onnx.NodeProto) -> None:
    """Nobody but the operator's own nodes may read what lies inside of it."""
    names = {node.name for node in (*inner, last)}
    for node in inner:
        for output in node.output:
            readers = {reader.name for reader in graph.readers.get(output, ())}
            if not readers <= names or output in graph.outputs or output in graph.read_by_subgraphs:
                raise _NoMatch
