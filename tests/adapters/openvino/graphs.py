"""ONNX graphs for the OpenVINO adapter, wide enough for weights to outweigh the XML that describes the graph."""

from __future__ import annotations

import numpy as np
import onnx

from tests.adapters.onnx.graphs import build, node, normal


def wide_cnn(channels: int = 96) -> onnx.ModelProto:
    """Convolution with batch normalization, depthwise convolution, residual Add, classifier; ``x`` to ``logits``."""
    nodes = [
        node("Conv", "x w1", "c1", pads=[1, 1, 1, 1]),
        node("BatchNormalization", "c1 gamma beta mean variance", "n1"),
        node("Relu", "n1", "r1"),
        node("Conv", "r1 w2 b2", "c2", pads=[1, 1, 1, 1], group=channels),
        node("Clip", "c2 zero six", "r2"),
        node("Conv", "r2 w3 b3", "c3"),
        node("Add", "c3 r1", "sum"),
        node("GlobalAveragePool", "sum", "pooled"),
        node("Flatten", "pooled", "flat"),
        node("Gemm", "flat w4 b4", "logits", transB=1),
    ]
    constants = {
        "w1": normal(channels, 3, 3, 3),
        "gamma": 1.0 + normal(channels, seed=1),
        "beta": normal(channels, seed=2),
        "mean": normal(channels, seed=3),
        "variance": 0.5 + np.square(normal(channels, seed=4)),
        "w2": normal(channels, 1, 3, 3, seed=5),
        "b2": normal(channels, seed=6),
        "zero": np.array(0, dtype=np.float32),
        "six": np.array(6, dtype=np.float32),
        "w3": normal(channels, channels, 1, 1, seed=7),
        "b3": normal(channels, seed=8),
        "w4": normal(500, channels, seed=9),
        "b4": normal(500, seed=10),
    }
    return build(nodes, {"x": ("N", 3, 8, 8)}, {"logits": ("N", 500)}, constants)
