"""How ONNX Runtime executes a model: the values of options that the ONNX Runtime adapter declares."""

from __future__ import annotations

from enum import StrEnum


class GraphFormat(StrEnum):
    """How int8 ops are written into the graph."""

    QDQ = "qdq"
    """As the fp32 op between DequantizeLinear and QuantizeLinear, which the runtime fuses when it loads the model."""
    QOPERATOR = "qoperator"
    """As the integer kernel that comes of it, so that nothing is left to fuse."""


class GraphOptimization(StrEnum):
    """How far the runtime optimizes the graph when it loads it. All but ``all`` have to be asked for at load."""

    ALL = "all"
    """All that it does by default."""
    PLAIN_LAYOUT = "plain_layout"
    """Without blocks of channels in the memory layout of fp32 convolutions."""
    EXTENDED = "extended"
    """Without anything that changes the memory layout."""
    GELU_APPROXIMATION = "gelu_approximation"
    """Gelu by tanh instead of erf."""
