"""Models of the benchmarks as MXNet's symbols, made of ONNX files op by op; the weights are the files' own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from autotune.adapters.mxnet.framework import dense, mx


def from_onnx(source: Path, prefix: Path) -> Path:
    """Write the symbol and the parameters of a convolutional network that lies in an ONNX file.

    Args:
        source: The ONNX file.
        prefix: Path of the two files without their endings ``-symbol.json`` and ``-0000.params``.

    Returns:
        Path of the symbol's file.

    Raises:
        NotImplementedError: The network has an op that is not in these networks.
    """
    graph = onnx.load(source).graph
    writer = _Writer({each.name: numpy_helper.to_array(each) for each in graph.initializer})
    for value in graph.input:
        shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        writer.symbols[value.name] = mx.sym.var(value.name, shape=tuple(shape), dtype="float32")
    for node in graph.node:
        writer.write(node)
    symbol = mx.sym.Group([writer.symbols[value.name] for value in graph.output])
    mx.model.save_checkpoint(str(prefix), 0, symbol, writer.arguments, writer.states)
    return prefix.with_name(f"{prefix.name}-symbol.json")


class _Writer:
    """Writes ops of MXNet for those of ONNX."""

    def __init__(self, constants: dict[str, Any]) -> None:
        self._constants = constants
        self.symbols: dict[str, Any] = {}
        self.arguments: dict[str, Any] = {}
        self.states: dict[str, Any] = {}

    def write(self, node: Any) -> None:
        """Add what one node computes, under the name of the node."""
        options = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        (out, *_), reads, kind = node.output, list(node.input), node.op_type
        if kind == "Constant":
            self._constants[out] = numpy_helper.to_array(node.attribute[0].t)
        elif kind == "Identity" and reads[0] in self._constants:
            self._constants[out] = self._constants[reads[0]]
        elif kind in _WRITERS:
            name = (node.name or out).strip("/").replace("/", ".")
            self.symbols[out] = _WRITERS[kind](self, reads, name, options)
        else:
            raise NotImplementedError(f"{kind} is not among the ops of these networks")

    def constant(self, name: str) -> Any:
        """The array of a constant."""
        return self._constants[name]

    def parameters(self, name: str, arrays: Mapping[str, Any]) -> None:
        """Keep parameters of an op under the names that MXNet gives them."""
        self.arguments |= {f"{name}_{part}": dense(array) for part, array in arrays.items()}


def _convolution(writer: _Writer, reads: Sequence[str], name: str, options: Mapping[str, Any]) -> Any:
    weight = writer.constant(reads[1])
    biased = len(reads) > 2
    writer.parameters(name, {"weight": weight, **({"bias": writer.constant(reads[2])} if biased else {})})
    return mx.sym.Convolution(
        writer.symbols[reads[0]],
        name=name,
        num_filter=weight.shape[0],
        kernel=tuple(weight.shape[2:]),
        stride=tuple(options.get("strides", (1, 1))),
        pad=tuple(options.get("pads", (0, 0, 0, 0)))[:2],
        dilate=tuple(options.get("dilations", (1, 1))),
        num_group=int(options.get("group", 1)),
        no_bias=not biased,
    )


def _normalization(writer: _Writer, reads: Sequence[str], name: str, options: Mapping[str, Any]) -> Any:
    gamma, beta, mean, variance = (writer.constant(each) for each in reads[1:])
    writer.parameters(name, {"gamma": gamma, "beta": beta})
    writer.states |= {f"{name}_moving_mean": dense(mean), f"{name}_moving_var": dense(variance)}
    return mx.sym.BatchNorm(
        writer.symbols[reads[0]], name=name, eps=float(options.get("epsilon", 1e-5)), fix_gamma=False
    )


def _product(writer: _Writer, reads: Sequence[str], name: str, options: Mapping[str, Any]) -> Any:
    weight = writer.constant(reads[1])
    weight = weight if options.get("transB") else np.ascontiguousarray(weight.T)
    writer.parameters(name, {"weight": weight, "bias": writer.constant(reads[2])})
    return mx.sym.FullyConnected(writer.symbols[reads[0]], name=name, num_hidden=len(weight))


def _clip(writer: _Writer, reads: Sequence[str], name: str, _: Mapping[str, Any]) -> Any:
    low, high = (float(np.squeeze(writer.constant(each))) for each in reads[1:3])
    return mx.sym.clip(writer.symbols[reads[0]], name=name, a_min=low, a_max=high)


def _pool(writer: _Writer, reads: Sequence[str], name: str, _: Mapping[str, Any]) -> Any:
    return mx.sym.Pooling(writer.symbols[reads[0]], name=name, global_pool=True, pool_type="avg", kernel=(1, 1))


_WRITERS: Mapping[str, Callable[[_Writer, Sequence[str], str, Mapping[str, Any]], Any]] = {
    "Conv": _convolution,
    "BatchNormalization": _normalization,
    "Gemm": _product,
    "Clip": _clip,
    "GlobalAveragePool": _pool,
    "ReduceMean": _pool,
    "Relu": lambda writer, reads, name, _: mx.sym.Activation(writer.symbols[reads[0]], act_type="relu", name=name),
    "Add": lambda writer, reads, name, _: mx.sym.elemwise_add(*(writer.symbols[each] for each in reads), name=name),
    "Flatten": lambda writer, reads, name, _: mx.sym.Flatten(writer.symbols[reads[0]], name=name),
    "Reshape": lambda writer, reads, name, _: mx.sym.Flatten(writer.symbols[reads[0]], name=name),
}
"""By op of ONNX: the symbol of what it computes."""
