"""How ONNX Runtime executes a model: the values of options that the ONNX Runtime adapter declares."""

from __future__ import annotations

from enum import StrEnum


class GraphFormat(StrEnum):
    """How int8 ops are written into the graph."""

    QDQ = "qdq"
    """The fp32 op stands between DequantizeLinear and QuantizeLinear; the runtime fuses them when it loads them."""
    QOPERATOR = "qoperator"
    """The integer kernel itself stands in the graph, so that nothing is left to fuse."""


class GraphOptimization(StrEnum):
    """How far the runtime optimizes the graph when it loads it. All but ``all`` have to be asked for at load."""

    ALL = "all"
    """All optimizations that are on by default."""
    PLAIN_LAYOUT = "plain_layout"
    """All optimizations but blocks of channels in the memory layout of fp32 convolutions."""
    EXTENDED = "extended"
    """All optimizations that leave the memory layout as it is."""
    GELU_APPROXIMATION = "gelu_approximation"
    """Gelu by tanh instead of erf."""
