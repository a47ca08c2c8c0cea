"""ONNX graphs for the OpenVINO adapter, wide enough for weights to outweigh the XML that describes the graph."""

from __future__ import annotations

import onnx

from tests.adapters.onnx.graphs import small_cnn


def wide_cnn(channels: int = 96) -> onnx.ModelProto:
    """Convolution with batch normalization, depthwise convolution, residual Add, classifier; ``x`` to ``logits``."""
    return small_cnn(channels)
