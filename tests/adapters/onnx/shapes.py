"""Small graphs of the kinds whose calls are no stack of samples along the first axis, or not obviously so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str | None
RNG = np.random.default_rng(0)


def tensor(name: str, *shape: Dim, dtype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, list(shape))


def constant(name: str, values: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values), name)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return constant(name, RNG.normal(0, 1 / np.sqrt(shape[-2] if len(shape) > 1 else 1), shape).astype(np.float32))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def node(op_type: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node named like its first output; names are separated by blanks, ``-`` leaves one out."""
    read = ["" if name == "-" else name for name in inputs.split()]
    written = outputs.split()
    return helper.make_node(op_type, read, written, name=f"{op_type}_{written[0]}", **attributes)


def time_major_lstm(time: Dim = "time", batch: Dim = "batch") -> onnx.ModelProto:
    """(time, batch, 8) to (time, batch, 5)."""
    return model(
        [
            node("LSTM", "x w r", "states", hidden_size=6),
            node("Squeeze", "states one", "flat"),
            node("MatMul", "flat head", "y"),
        ],
        [tensor("x", time, batch, 8)],
        [tensor("y", time, batch, 5)],
        [
            weight("w", 1, 24, 8),
            weight("r", 1, 24, 6),
            constant("one", np.array([1])),
            weight("head", 6, 5),
        ],
    )


def utterance(dim: Dim = None) -> onnx.ModelProto:
    """A sequence (frames, 8) to its classes (frames, 5), by a recurrence over the frames: no axis of samples."""
    return model(
        [
            node("Unsqueeze", "x one", "batched"),
            node("LSTM", "batched w r", "states", hidden_size=6),
            node("Squeeze", "states both", "flat"),
            node("MatMul", "flat head", "y"),
        ],
        [tensor("x", dim, 8)],
        [tensor("y", dim, 5)],
        [
            weight("w", 1, 24, 8),
            weight("r", 1, 24, 6),
            constant("one", np.array([1])),
            constant("both", np.array([1, 2])),
            weight("head", 6, 5),
        ],
    )


def classifier(batch: Dim = "batch", out: Dim = "batch", features: int = 8) -> onnx.ModelProto:
    """(batch, features) to (batch, 5): samples do not depend on each other."""
    return model(
        [
            node("MatMul", "x w0", "h"),
            node("Relu", "h", "r"),
            node("MatMul", "r w1", "y"),
        ],
        [tensor("x", batch, features)],
        [tensor("y", out, 5)],
        [weight("w0", features, 16), weight("w1", 16, 5)],
    )


def graph_network(nodes: Dim = "N", edges: Dim = "E") -> onnx.ModelProto:
    """Nodes (N, 8) and edges (2, E) to classes of the nodes (N, 5): each edge adds its source to its target."""
    return model(
        [
            node("MatMul", "x w0", "h"),
            node("Gather", "edges zero", "sources", axis=0),
            node("Gather", "edges first", "targets", axis=0),
            node("Gather", "h sources", "messages", axis=0),
            node("Unsqueeze", "targets one", "rows"),
            node("Shape", "messages", "wide"),
            node("Expand", "rows wide", "places"),
            node("ScatterElements", "h places messages", "mixed", axis=0, reduction="add"),
            node("Relu", "mixed", "r"),
            node("MatMul", "r w1", "y"),
        ],
        [tensor("x", nodes, 8), tensor("edges", 2, edges, dtype=TensorProto.INT64)],
        [tensor("y", nodes, 5)],
        [
            weight("w0", 8, 16),
            weight("w1", 16, 5),
            constant("zero", np.array(0)),
            constant("first", np.array(1)),
            constant("one", np.array([1])),
        ],
    )


def baked_batch(size: int = 4) -> onnx.ModelProto:
    """(batch, 2, 4) to (batch, 5), with the batch written into a Reshape."""
    return model(
        [node("Reshape", "x shape", "flat"), node("MatMul", "flat w", "y")],
        [tensor("x", "batch", 2, 4)],
        [tensor("y", "batch", 5)],
        [constant("shape", np.array([size, 8])), weight("w", 8, 5)],
    )


def pointers() -> onnx.ModelProto:
    """Rows (rows, 8), and indices (picks) into them, to classes of the picked ones (picks, 5)."""
    return model(
        [node("Gather", "x index", "picked", axis=0), node("MatMul", "picked w", "y")],
        [tensor("x", None, 8), tensor("index", None, dtype=TensorProto.INT64)],
        [tensor("y", None, 5)],
        [weight("w", 8, 5)],
    )


def voice_detector(batch: Dim = "batch") -> onnx.ModelProto:
    """Samples (batch, 16), a state (2, batch, 6) and a scalar rate, to a probability (batch, 1) and the next state."""
    return model(
        [
            node("Cast", "sr", "rate", to=TensorProto.FLOAT),
            node("Div", "rate top", "share"),
            node("Mul", "input share", "scaled"),
            node("MatMul", "scaled w0", "h"),
            node("Unsqueeze", "h zero", "steps"),
            node("Split", "state", "h0 c0", axis=0),
            node("LSTM", "steps w r - - h0 c0", "all hn cn", hidden_size=6),
            node("Concat", "hn cn", "stateN", axis=0),
            node("Squeeze", "hn zero", "last"),
            node("MatMul", "last w1", "logit"),
            node("Sigmoid", "logit", "output"),
        ],
        [tensor("input", batch, 16), tensor("state", 2, batch, 6), tensor("sr", dtype=TensorProto.INT64)],
        [tensor("output", batch, 1), tensor("stateN", 2 if batch else None, batch, 6)],
        [
            weight("w0", 16, 8),
            weight("w", 1, 24, 8),
            weight("r", 1, 24, 6),
            weight("w1", 6, 1),
            constant("zero", np.array([0])),
            constant("top", np.array(16000.0, np.float32)),
        ],
    )


def masked_attention() -> onnx.ModelProto:
    """Tokens (batch, length, 8) and a mask of 0 and -inf (batch, 1, length), to (batch, length, 5).

    The scores are soft-capped, and their last axis counts tokens.
    """
    return model(
        [
            node("MatMul", "x wq", "q"),
            node("MatMul", "x wk", "k"),
            node("MatMul", "x wv", "v"),
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "q kt", "scores"),
            node("Mul", "scores cap", "small"),
            node("Tanh", "small", "capped"),
            node("Mul", "capped uncap", "wide"),
            node("Add", "wide mask", "masked"),
            node("Softmax", "masked", "shares", axis=-1),
            node("MatMul", "shares v", "context"),
            node("MatMul", "context head", "y"),
        ],
        [tensor("x", "batch", "length", 8), tensor("mask", "batch", 1, "length")],
        [tensor("y", "batch", "length", 5)],
        [
            weight("wq", 8, 8),
            weight("wk", 8, 8),
            weight("wv", 8, 8),
            weight("head", 8, 5),
            constant("cap", np.array(0.1, np.float32)),
            constant("uncap", np.array(10.0, np.float32)),
        ],
    )


def cached_decoder() -> onnx.ModelProto:
    """New keys (batch, steps, 8) behind those of a cache (batch, past, 8), which is empty at the start."""
    return model(
        [
            node("MatMul", "x wk", "k"),
            node("Concat", "past k", "present", axis=1),
            node("Transpose", "present", "kt", perm=[0, 2, 1]),
            node("MatMul", "k kt", "scores"),
            node("Softmax", "scores", "shares", axis=-1),
            node("MatMul", "shares present", "context"),
            node("MatMul", "context head", "y"),
        ],
        [tensor("x", "batch", "steps", 8), tensor("past", "batch", "past", 8)],
        [tensor("y", "batch", "steps", 5), tensor("present", "batch", "total", 8)],
        [weight("wk", 8, 8), weight("head", 8, 5)],
    )


def normal(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def detector(layout: str = "yolov8", batch: Dim = 1) -> onnx.ModelProto:
    """Pictures (1, 3, 32, 32) to boxes and scores of three classes at 64 anchors, as YOLOv8 or YOLOv5 write them."""
    columns = 7 if layout == "yolov8" else 8
    nodes = [
        node("Conv", "images w0 b0", "c0", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Relu", "c0", "r0"),
        node("Conv", "r0 w1 b1", "c1", strides=[2, 2], pads=[1, 1, 1, 1]),
        node("Reshape", "c1 shape", "rows"),
        node("Split", "rows sizes", "box rest", axis=1),
        node("Abs", "box", "sizes_px"),
        node("Mul", "sizes_px pixels", "pixel_box"),
        node("Sigmoid", "rest", "scores"),
        node("Concat", "pixel_box scores", "joined", axis=1),
        node("Identity", "joined", "output0")
        if layout == "yolov8"
        else node("Transpose", "joined", "output0", perm=[0, 2, 1]),
    ]
    shape: tuple[Dim, ...] = (batch, columns, 64) if layout == "yolov8" else (batch, 64, columns)
    return model(
        nodes,
        [tensor("images", batch, 3, 32, 32)],
        [tensor("output0", *shape)],
        [
            weight("w0", 16, 3, 3, 3),
            constant("b0", np.zeros(16, np.float32)),
            weight("w1", columns, 16, 3, 3),
            constant("b1", np.zeros(columns, np.float32)),
            constant("shape", np.array([0, columns, 64])),
            constant("sizes", np.array([4, columns - 4])),
            constant("pixels", np.array(20.0, np.float32)),
        ],
    )


def text_classifier() -> onnx.ModelProto:
    """Words and their mask (batch, length) to logits of two classes."""
    return model(
        [
            node("Gather", "table input_ids", "words", axis=0),
            node("Cast", "attention_mask", "floats", to=TensorProto.FLOAT),
            node("Unsqueeze", "floats last", "column"),
            node("Mul", "words column", "seen"),
            node("ReduceMean", "seen", "pooled", axes=[1], keepdims=0),
            node("MatMul", "pooled w0", "h"),
            node("Relu", "h", "r"),
            node("MatMul", "r w1", "logits"),
        ],
        [tensor(name, "batch", "length", dtype=TensorProto.INT64) for name in ("input_ids", "attention_mask")],
        [tensor("logits", "batch", 2)],
        [
            weight("table", 50, 16),
            constant("last", np.array([2])),
            weight("w0", 16, 16),
            weight("w1", 16, 2),
        ],
    )


def regressor() -> onnx.ModelProto:
    """Eight features (?, 8) to a number (?, 1), free dimensions without names."""
    return model(
        [node("MatMul", "x w0", "h"), node("Relu", "h", "r"), node("MatMul", "r w1", "y")],
        [tensor("x", None, 8)],
        [tensor("y", None, 1)],
        [weight("w0", 8, 16), weight("w1", 16, 1)],
    )


def two_inputs() -> onnx.ModelProto:
    """A picture and features beside it to logits."""
    return model(
        [
            node("Conv", "picture w0", "c0", pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", "c0", "p0"),
            node("Flatten", "p0", "f0"),
            node("MatMul", "features w1", "f1"),
            node("Concat", "f0 f1", "both", axis=1),
            node("MatMul", "both w2", "logits"),
        ],
        [tensor("picture", "batch", 3, 8, 8), tensor("features", "batch", 8)],
        [tensor("logits", "batch", 5)],
        [weight("w0", 8, 3, 3, 3), weight("w1", 8, 8), weight("w2", 16, 5)],
    )


def step_probabilities() -> onnx.ModelProto:
    """A sequence (steps, 8) and a state (1, 1, 6) to a probability of each step (steps,) and the next state."""
    return model(
        [
            node("Unsqueeze", "x one", "batched"),
            node("LSTM", "batched w r - - h c", "states hn cn", hidden_size=6),
            node("Squeeze", "states both", "flat"),
            node("MatMul", "flat head", "logits"),
            node("Sigmoid", "logits", "column"),
            node("Squeeze", "column one", "probabilities"),
        ],
        [tensor("x", "steps", 8), tensor("h", 1, 1, 6), tensor("c", 1, 1, 6)],
        [tensor("probabilities", "steps"), tensor("hn", 1, 1, 6), tensor("cn", 1, 1, 6)],
        [
            weight("w", 1, 24, 8),
            weight("r", 1, 24, 6),
            constant("one", np.array([1])),
            constant("both", np.array([1, 2])),
            weight("head", 6, 1),
        ],
    )
