"""Kinds of graphs on which int8 throughout loses 18 to 97 % of the answers: what has to be is left alone at once.

Size is the objective, so that nothing depends on the machine: every op in int8 makes the model smaller.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import autotune
from autotune.config import FP32, Precision
from autotune.criterion import Verdict
from autotune.restriction import SpaceRestriction

Floats = npt.NDArray[np.float32]
SIDE = 16


class Builder:
    """Builds a graph node by node; each method returns the name of its output."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(seed)

    def node(self, kind: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [f"{name}_out"], name, **attributes))
        return f"{name}_out"

    def constant(self, value: Any) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def conv(self, source: str, into: int, out: int, *, name: str, scale: float = 1.0, size: int = 3) -> str:
        weight = self.rng.normal(0, scale * (2 / (into * size * size)) ** 0.5, (out, into, size, size))
        bias = self.rng.normal(0, 0.1 * scale, out)
        names = [self.constant(value.astype(np.float32)) for value in (weight, bias)]
        return self.node("Conv", source, *names, name=name, pads=[size // 2] * 4)

    def relu_conv(self, source: str, into: int, out: int, *, name: str) -> str:
        return self.node("Relu", self.conv(source, into, out, name=name))

    def model(self, output: str, shape: list[int | str | None], channels: int = 3) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "graph",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, channels, SIDE, SIDE])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
            self.constants,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def detector() -> onnx.ModelProto:
    """Boxes in pixels and scores between 0 and 1 that meet in one Concat, as YOLOv8 has them."""
    b = Builder()
    body = b.relu_conv(b.relu_conv("x", 3, 16, name="stem"), 16, 32, name="body")
    boxes = b.node("Mul", b.node("Sigmoid", b.conv(body, 32, 4, name="boxes")), b.constant(np.float32(640)))
    scores = b.node("Sigmoid", b.conv(b.relu_conv(body, 32, 32, name="deep"), 32, 6, name="scores", scale=2.0))
    flat = [b.node("Reshape", part, b.constant(np.array([1, count, -1]))) for part, count in ((boxes, 4), (scores, 6))]
    return b.model(b.node("Concat", *flat, name="meet", axis=1), [1, 10, SIDE * SIDE])


def log_spectrum() -> onnx.ModelProto:
    """A power spectrum over ten orders of magnitude, its logarithm, and a network that reads it."""
    b = Builder(1)
    power = b.node("Mul", *([b.conv("x", 3, 16, name="filters")] * 2), name="power")
    scaled = b.node("Mul", power, b.constant(np.logspace(-6, 3, 16).astype(np.float32).reshape(16, 1, 1)), name="gain")
    log = b.node("Log", b.node("Add", scaled, b.constant(np.float32(1e-9)), name="floor"))
    body = b.relu_conv(b.relu_conv(log, 16, 32, name="first"), 32, 32, name="second")
    return b.model(b.conv(body, 32, 8, name="head"), [1, 8, SIDE, SIDE])


def softmax_tail() -> onnx.ModelProto:
    """A temperature that makes a softmax sharp: what is added to the logits decides."""
    b = Builder(2)
    body = b.relu_conv(b.relu_conv("x", 3, 16, name="stem"), 16, 32, name="body")
    logits = b.node("Add", b.conv(body, 32, 8, name="head"), b.constant(np.float32(300)), name="offset")
    return b.model(
        b.node("Softmax", b.node("Mul", logits, b.constant(np.float32(4)), name="sharp"), axis=1), [1, 8, SIDE, SIDE]
    )


def concats() -> onnx.ModelProto:
    """Dense blocks: each Concat joins what has another range, one of them a thousand times as wide."""
    b = Builder(3)
    parts = [b.relu_conv("x", 3, 8, name="stem")]
    for i in range(6):
        joined = parts[0] if len(parts) == 1 else b.node("Concat", *parts, name=f"join_{i}", axis=1)
        grown = b.relu_conv(joined, 8 * len(parts), 8, name=f"grow_{i}")
        parts.append(b.node("Mul", grown, b.constant(np.float32(1000 if i == 2 else 1)), name=f"scale_{i}"))
    last = b.node("Concat", *(part for i, part in enumerate(parts) if i != 3), name="join_all", axis=1)
    return b.model(b.conv(last, 48, 6, name="head"), [1, 6, SIDE, SIDE])


def agreement(model: onnx.ModelProto, images: list[Floats], first: int) -> Callable[[Callable[[Floats], Any]], float]:
    """Share of the places at which the largest channel, from ``first`` on, is the one that fp32 says."""
    run: Callable[..., Any] = ReferenceEvaluator(model).run
    wanted = [run(None, {"x": image})[0][:, first:].argmax(axis=1) for image in images]

    def evaluate(candidate: Callable[[Floats], Any]) -> float:
        return float(
            np.mean([candidate(x)[:, first:].argmax(axis=1) == want for x, want in zip(images, wanted, strict=True)])
        )

    return evaluate


@pytest.mark.parametrize(
    ("make", "first", "loss", "evaluations"),
    [(detector, 4, 0.03, 1), (log_spectrum, 0, 0.05, 5), (softmax_tail, 0, 0.03, 2), (concats, 0, 0.03, 5)],
)
def test_auto_leaves_alone_what_has_to_be(
    make: Callable[[], onnx.ModelProto], first: int, loss: float, evaluations: int
) -> None:
    model = make()
    rng = np.random.default_rng(9)
    images = [rng.normal(size=(1, 3, SIDE, SIDE)).astype(np.float32) for _ in range(12)]
    result = autotune.tune(
        model,
        images[:4],
        agreement(model, images, first),
        criterion=autotune.Criterion(relative=loss),
        objective="size",
        latency_max_s=0.05,
        restriction=SpaceRestriction(excluded=frozenset(Precision) - {Precision.INT8, Precision.FP32}),
        strategy_options={"spare": 0},
    )
    assert result.verdict is Verdict.MET
    assert any(choice != FP32 for choice in result.best.config.ops.values())
    assert any(trial.met for trial in result.history[1 : 1 + evaluations])
