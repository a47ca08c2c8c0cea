"""A small transformer as PyTorch's current exporter writes one, for the tests that need it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from autotune.adapter import Array
from autotune.adapters.onnxruntime import OnnxModel
from tests.adapters.onnx.graphs import node, normal

VOCABULARY, HIDDEN, HEADS, INNER, CLASSES = 50, 32, 4, 64, 5


def small_transformer(*, guarded: bool = True, older: bool = False, masked_with: float = -np.inf) -> onnx.ModelProto:
    """Embedding, LayerNormalization, one encoder layer, mean over the sequence, head; ``ids``, ``mask`` to ``logits``.

    Args:
        guarded: Whether rows that are masked altogether are guarded against.
        masked_with: Number that is added to the scores of padding.
        older: Whether attention is written as older exporters did: keys transposed at once, scores divided.
    """
    nodes = [
        node("Gather", "table ids", "embedded"),
        node("LayerNormalization", "embedded g1 b1", "n1", axis=-1),
        *_projections(),
        *(_older_scores() if older else _scores()),
        node("Unsqueeze", "mask axes12", "mask4"),
        node("Equal", "mask4 zero_int", "hidden"),
        node("Where", "hidden hide zero", "bias"),
        node("Add", "scores bias", "masked"),
        node("Softmax", "masked", "p", axis=-1),
    ]
    if guarded:
        nodes += [node("IsNaN", "p", "nan"), node("Where", "nan zero p", "probabilities")]
    nodes += [
        node("MatMul", f"{'probabilities' if guarded else 'p'} v4", "mixed"),
        node("Transpose", "mixed", "mixed3", perm=[0, 2, 1, 3]),
        node("Reshape", "mixed3 merged_shape", "context"),
        node("MatMul", "context wo", "projected"),
        node("Add", "projected bo", "out"),
        node("Add", "out n1", "residual"),
        node("LayerNormalization", "residual g2 b2", "n2", axis=-1),
        node("MatMul", "n2 wi", "inner"),
        node("Add", "inner bi", "inner_bias"),
        node("Gelu", "inner_bias", "gelu"),
        node("MatMul", "gelu wd", "down"),
        node("Add", "down bd", "down_bias"),
        node("Add", "down_bias n2", "residual2"),
        node("ReduceMean", "residual2 axis1", "pooled", keepdims=0),
        node("Gemm", "pooled wc bc", "logits", transB=1),
    ]
    constants = {**_constants(), "hide": np.array(masked_with, np.float32)}
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in ("ids", "mask")]
    graph = helper.make_graph(
        nodes,
        "transformer",
        inputs,
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    # The shape that PyTorch's exporter writes of a tensor may contradict the graph.
    graph.value_info.append(helper.make_tensor_value_info("projected", TensorProto.FLOAT, [HIDDEN]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def _projections() -> list[onnx.NodeProto]:
    nodes = []
    for name in "qkv":
        nodes += [
            node("MatMul", f"n1 w{name}", f"{name}_product"),
            node("Add", f"{name}_product b{name}", f"{name}3"),
            node("Reshape", f"{name}3 heads_shape", f"{name}_heads"),
        ]
    return [*nodes, *(node("Transpose", f"{name}_heads", f"{name}4", perm=[0, 2, 1, 3]) for name in "qv")]


def _scores() -> list[onnx.NodeProto]:
    return [
        node("Transpose", "k_heads", "k4", perm=[0, 2, 1, 3]),
        node("Shape", "k4", "k_shape"),
        node("Slice", "k_shape two three", "k_length"),
        node("Concat", "minus_one k_length head_size", "k_flat_shape", axis=0),
        node("Reshape", "k4 k_flat_shape", "k_flat"),
        node("Transpose", "k_flat", "k_turned", perm=[0, 2, 1]),
        node("Concat", "minus_one heads head_size k_length", "k_back_shape", axis=0),
        node("Reshape", "k_turned k_back_shape", "k_back"),
        node("Mul", "q4 root", "q_scaled"),
        node("Mul", "k_back root", "k_scaled"),
        node("MatMul", "q_scaled k_scaled", "scores"),
    ]


def _older_scores() -> list[onnx.NodeProto]:
    return [
        node("Transpose", "k_heads", "k4", perm=[0, 2, 3, 1]),
        node("MatMul", "q4 k4", "raw_scores"),
        node("Div", "raw_scores size_root", "scores"),
    ]


def _constants() -> dict[str, Array]:
    size = HIDDEN // HEADS
    matrices = {"wq": (HIDDEN, HIDDEN), "wk": (HIDDEN, HIDDEN), "wv": (HIDDEN, HIDDEN), "wo": (HIDDEN, HIDDEN)}
    matrices |= {"wi": (HIDDEN, INNER), "wd": (INNER, HIDDEN), "wc": (CLASSES, HIDDEN)}
    vectors = {"bq": HIDDEN, "bk": HIDDEN, "bv": HIDDEN, "bo": HIDDEN, "bi": INNER, "bd": HIDDEN, "bc": CLASSES}
    integers: dict[str, Sequence[int]] = {
        "heads_shape": [0, 0, HEADS, size],
        "merged_shape": [0, 0, HIDDEN],
        "two": [2],
        "three": [3],
        "minus_one": [-1],
        "heads": [HEADS],
        "head_size": [size],
        "axes12": [1, 2],
        "axis1": [1],
    }
    return {
        "table": normal(VOCABULARY, HIDDEN, scale=1.0),
        "g1": 1.0 + normal(HIDDEN, seed=1),
        "b1": normal(HIDDEN, seed=2),
        "g2": 1.0 + normal(HIDDEN, seed=3),
        "b2": normal(HIDDEN, seed=4),
        "zero": np.array(0, np.float32),
        "zero_int": np.array(0, np.int64),
        "root": np.array(size**-0.25, np.float32),
        "size_root": np.array(size**0.5, np.float32),
        **{name: normal(*shape, seed=10 + i) for i, (name, shape) in enumerate(matrices.items())},
        **{name: normal(length, seed=20 + i) for i, (name, length) in enumerate(vectors.items())},
        **{name: np.array(values, np.int64) for name, values in integers.items()},
    }


def token_batches(count: int = 2, *, size: int = 4, length: int = 9) -> list[dict[str, Array]]:
    """Token ids, the last of which are padding in some rows."""
    batches = []
    for index in range(count):
        rng = np.random.default_rng(index)
        lengths = rng.integers(3, length + 1, size=(size, 1))
        batches.append(
            {
                "ids": rng.integers(0, VOCABULARY, (size, length)),
                "mask": (np.arange(length) < lengths).astype(np.int64),
            }
        )
    return batches


def as_exported(proto: onnx.ModelProto) -> OnnxModel:
    """The model without preparation, and without what an exporter wrote of its inner tensors."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    return OnnxModel(proto=bare)
