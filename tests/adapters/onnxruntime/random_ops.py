"""Further layers for :mod:`random_graphs`: ops with a choice, as they stand in models that people bring."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.adapters.onnx import random_parts
from tests.adapters.onnx.random_graphs import RandomGraph
from tests.adapters.onnx.random_parts import Pictures, Rows, Writer

OPSETS = (11, 13, 15, 17, 20)
"""Those from which on everything can be offered."""

BATCH = 3


def _transposed(w: Writer, x: Pictures) -> Pictures:
    """Twice as large, then halved again."""
    weight, bias = w.constant(w.normal(x.channels, 4, 4, 4)), w.constant(w.normal(4))
    tensor = w.node("ConvTranspose", x.tensor, weight, bias, strides=[2, 2], pads=[1, 1, 1, 1])
    return Pictures(tensor=w.node("MaxPool", tensor, kernel_shape=[2, 2], strides=[2, 2]), channels=4, size=x.size)


def _leaky_by_max(w: Writer, x: Pictures) -> Pictures:
    scaled = w.node("Mul", x.tensor, w.constant(np.asarray(0.1, np.float32)))
    return Pictures(tensor=w.node("Max", x.tensor, scaled), channels=x.channels, size=x.size)


def _dead_channels(w: Writer, x: Pictures) -> Pictures:
    """A convolution some of whose channels training has switched off."""
    weight = w.normal(4, x.channels, 1, 1)
    weight[0], weight[1] = 1e-41, 0.0
    return Pictures(tensor=w.node("Conv", x.tensor, w.constant(weight), w.constant(w.normal(4))), size=x.size)


def _in_groups(w: Writer, x: Pictures) -> Pictures:
    weight = w.constant(w.normal(4, x.channels // 2, 3, 3))
    tensor = w.node("Conv", x.tensor, weight, pads=[2, 2, 2, 2], dilations=[2, 2], group=2)
    return Pictures(tensor=w.clip(tensor, -0.5, 1.5), channels=4, size=x.size)


def _clip_without_zero(w: Writer, x: Pictures) -> Pictures:
    weight = w.constant(w.normal(4, x.channels, 1, 1))
    tensor = w.clip(w.node("Conv", x.tensor, weight), 0.25, 2.0)
    return Pictures(tensor=tensor, channels=4, size=x.size)


def _log_spectrum(w: Writer, x: Pictures) -> Pictures:
    power = w.node("Add", w.node("Mul", x.tensor, x.tensor), w.constant(np.asarray(1e-7, np.float32)))
    return Pictures(tensor=w.node("Log", power), channels=x.channels, size=x.size)


def _power(w: Writer, x: Pictures) -> Pictures:
    tensor = w.node("Pow", w.node("Exp", w.clip(x.tensor, -3.0, 3.0)), w.constant(np.asarray(2.0, np.float32)))
    return Pictures(tensor=tensor, channels=x.channels, size=x.size)


def _unlike_concat(w: Writer, x: Pictures) -> Pictures:
    """Boxes beside scores."""
    large = w.node("Mul", x.tensor, w.constant(np.asarray(300.0, np.float32)))
    return Pictures(
        tensor=w.node("Concat", large, w.node("Sigmoid", x.tensor), axis=1), channels=2 * x.channels, size=x.size
    )


def _split(w: Writer, x: Pictures) -> Pictures:
    half = x.channels // 2
    if w.opset < 13:
        first = w.node("Split", x.tensor, outputs=2, axis=1, split=[half, half])
    else:
        first = w.node("Split", x.tensor, w.constant(np.array([half, half], np.int64)), outputs=2, axis=1)
    weight = w.constant(w.normal(half, half, 1, 1))
    tensor = w.node("Concat", w.node("Relu", w.node("Conv", first, weight)), f"{first}_1", axis=1)
    return Pictures(tensor=tensor, channels=2 * half, size=x.size)


def _twice(w: Writer, x: Pictures) -> Pictures:
    """One weight for two convolutions, one of which leaves the graph's other branch alone."""
    weight = w.constant(w.normal(x.channels, x.channels, 1, 1))
    first = w.node("Relu", w.node("Conv", x.tensor, weight))
    return Pictures(tensor=w.node("Add", w.node("Conv", first, weight), first), channels=x.channels, size=x.size)


PICTURES: Mapping[str, Callable[[Writer, Pictures], Pictures]] = {
    **random_parts.PICTURES,
    "transposed": _transposed,
    "leaky by max": _leaky_by_max,
    "dead channels": _dead_channels,
    "in groups": _in_groups,
    "clip without zero": _clip_without_zero,
    "log spectrum": _log_spectrum,
    "power": _power,
    "unlike concat": _unlike_concat,
    "split": _split,
    "twice": _twice,
}


def _odd_gemm(w: Writer, x: Rows, bias: str) -> Rows:
    shapes = {"row": (1, 6), "number": (), "matrix": (BATCH, 6), "column": (BATCH, 1)}
    names = [w.constant(w.normal(x.values, 6))]
    if bias != "none":
        names.append(w.constant(np.asarray(w.normal(*shapes[bias]), np.float32)))
    return Rows(tensor=w.node("Gemm", x.tensor, *names, alpha=0.5, beta=2.0), values=6)


def _transposed_gemm(w: Writer, x: Rows) -> Rows:
    turned = w.node("Transpose", x.tensor, perm=[1, 0])
    constants = w.constant(w.normal(6, x.values)), w.constant(w.normal(6))
    return Rows(tensor=w.node("Gemm", turned, *constants, transA=1, transB=1), values=6)


def _computed_bias(w: Writer, x: Rows) -> Rows:
    bias = w.node("Gemm", x.tensor, w.constant(w.normal(x.values, 6)))
    return Rows(tensor=w.node("Gemm", x.tensor, w.constant(w.normal(x.values, 6)), bias), values=6)


def _large_product(w: Writer, x: Rows) -> Rows:
    """Large enough to be stored in fewer bits."""
    wide = w.node("MatMul", x.tensor, w.constant(w.normal(x.values, 264)))
    tensor = w.node("MatMul", w.node("Relu", wide), w.constant(w.normal(264, 260, scale=0.1)))
    added = w.node("Add", tensor, w.constant(w.normal(1, 260)))
    return Rows(tensor=w.node("MatMul", added, w.constant(w.normal(260, 8, scale=0.1))), values=8)


def _lstm(w: Writer, x: Rows) -> Rows:
    """Over two steps that hold the same."""
    steps = w.axes("Unsqueeze", x.tensor, [0], 13)
    sequence = w.node("Concat", steps, steps, axis=0)
    names = [w.constant(w.normal(1, 20, x.values)), w.constant(w.normal(1, 20, 5)), w.constant(w.normal(1, 40))]
    node = w.node("LSTM", sequence, *names, outputs=2, hidden_size=5)
    return Rows(tensor=w.axes("Squeeze", f"{node}_1", [0], 13), values=5)


def _attention(w: Writer, x: Rows) -> Rows:
    """Over the samples of a batch, as if these were the positions of a text."""
    queries, keys, values = (w.node("MatMul", x.tensor, w.constant(w.normal(x.values, 8))) for _ in range(3))
    scores = w.node("MatMul", queries, w.node("Transpose", keys, perm=[1, 0]))
    return Rows(tensor=w.node("MatMul", w.node("Softmax", scores, axis=1), values), values=8)


def _inside(w: Writer, x: Rows) -> Rows:
    """A branch that reads the same tensor as an op outside does, and a constant of the graph around it."""
    weight = w.constant(w.normal(x.values, 6))
    flag = f"flag_{len(w.inputs)}"
    w.input(flag, [], [np.array(True)] * 2)
    branches = []
    for label in ("then", "else"):
        output = w.name(label)
        scale = numpy_helper.from_array(np.asarray(0.5, np.float32), w.name(f"{label}_scale"))
        nodes = [
            helper.make_node("MatMul", [x.tensor, weight], [f"{output}_product"], f"{output}_product"),
            helper.make_node("Mul", [f"{output}_product", scale.name], [output], output),
        ]
        value = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["N", 6])
        branches.append(helper.make_graph(nodes, label, [], [value], [scale]))
    inner = w.node("If", flag, then_branch=branches[0], else_branch=branches[1])
    return Rows(tensor=w.node("Add", inner, w.node("MatMul", x.tensor, weight)), values=6)


ROWS: Mapping[str, Callable[[Writer, Rows], Rows]] = {
    # Ops that are quantized already are left alone, and are no ops of a config.
    **{name: layer for name, layer in random_parts.ROWS.items() if name != "quantized"},
    **{
        f"gemm with bias {kind}": lambda w, x, kind=kind: _odd_gemm(w, x, kind)  # type: ignore[misc]
        for kind in ("none", "row", "number", "matrix", "column")
    },
    "transposed gemm": _transposed_gemm,
    "computed bias": _computed_bias,
    "large product": _large_product,
    "lstm": _lstm,
    "attention": _attention,
    "inside": _inside,
}


def random_op_graph(opset: int, pictures: list[str], rows: list[str], seed: int, *, fixed: bool) -> RandomGraph:
    """The graph that the names of its layers describe.

    Args:
        opset: Opset of the standard operators.
        pictures: Names from :data:`PICTURES`, in order; a convolution goes before them.
        rows: Names from :data:`ROWS`, in order; a pool goes before them, a Gemm after.
        seed: Seed of the constants and the batches.
        fixed: Whether the number of samples in a batch is written down.
    """
    writer = Writer(opset, seed)
    batches = [writer.normal(BATCH, 3, 8, 8, scale=1.0) for _ in range(2)]
    # A bias with a row for each sample fixes their number.
    fixed = fixed or not {"gemm with bias matrix", "gemm with bias column"}.isdisjoint(rows)
    samples: int | str = BATCH if fixed else "N"
    picture = Pictures(tensor=writer.input("x", [samples, 3, 8, 8], batches), channels=3)
    picture = random_parts.PICTURES["conv"](writer, picture)
    for name in pictures:
        picture = PICTURES[name](writer, picture)
    pooled = writer.node("Flatten", writer.node("GlobalAveragePool", picture.tensor))
    row = Rows(tensor=pooled, values=picture.channels)
    for name in rows:
        row = ROWS[name](writer, row)
    weight, bias = writer.constant(writer.normal(row.values, 5)), writer.constant(writer.normal(5))
    output = writer.node("Gemm", row.tensor, weight, bias)
    writer.outputs.append(helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, [samples, 5]))
    return RandomGraph(proto=writer.model(), feeds=writer.feeds, kinds=(*pictures, *rows))


def random_op_graphs() -> st.SearchStrategy[RandomGraph]:
    """Graphs of up to six layers and a head."""
    return st.builds(
        random_op_graph,
        opset=st.sampled_from(OPSETS),
        pictures=st.lists(st.sampled_from(sorted(PICTURES)), max_size=3),
        rows=st.lists(st.sampled_from(sorted(ROWS)), max_size=3),
        seed=st.integers(0, 2**16),
        fixed=st.booleans(),
    )
