"""What one candidate chooses for its graph as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self


class BiasCorrection(StrEnum):
    """How the shift that quantized weights cause in an op's mean output is taken back through its bias."""

    NONE = "none"
    FAST = "fast"
    """From the statistics alone."""
    FULL = "full"
    """From the quantized model's own activations on a few samples, op after op in graph order."""


class WeightRounding(StrEnum):
    """How weights become integers."""

    NEAREST = "nearest"
    GPTQ = "error_feedback"
    """One input channel after the other, the error of each handed on to those that follow. ``gptq`` is read as well."""

    @classmethod
    def _missing_(cls, value: object) -> WeightRounding | None:
        return cls.GPTQ if value == "gptq" else None

    def __repr__(self) -> str:
        # The history keeps a hash of the space's `repr`, in which the member was called as its value is.
        return f"<{type(self).__name__}.{self.value.upper()}: {self.value!r}>"


class WeightOnly(StrEnum):
    """How weights that are stored in blocks of 4 or 8 bits are rounded."""

    RTN = "rtn"
    """Each to the nearest value between the block's ends."""
    HQQ = "hqq"
    """Scales are chosen for the least error of each block; no data is needed."""
    GPTQ = "gptq"
    """One input channel after the other, the error of each handed on to those that follow, on a few samples."""


class SmoothQuant(StrEnum):
    """How much of the range of activations moves into the weights that read them (alpha in arXiv 2211.10438)."""

    NONE = "none"
    AUTO = "auto"
    """An alpha for each tensor, by the least estimated error."""
    HALF = "0.5"
    THREE_QUARTERS = "0.75"

    @property
    def alpha(self) -> float | None:
        """The same alpha for all tensors; None where there is none."""
        return None if self in (SmoothQuant.NONE, SmoothQuant.AUTO) else float(self)


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


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Choices for the graph as a whole.

    Attributes:
        reduce_range: Weights use 7 of their 8 bits, so that the sum of two u8 x s8 products cannot exceed the 16 bits
            in which CPUs without VNNI accumulate them.
        bound_pairs: Weights use all 8 bits, and scales are as large as that sum demands of each output channel's own
            neighbours. With ``reduce_range``, whose weights satisfy that anyway, it changes nothing.
        equalization: Channels between two convolutions are scaled to ranges that int8 serves better.
        bias_correction: How biases make up for quantized weights.
        weight_rounding: How weights become integers.
        smooth_quant: How outliers of activations move into the weights that read them.
        format: How int8 ops are written.
        optimization: How far the runtime optimizes the graph.
        weight_only: How weights of precision ``int8_weight`` and ``int4_weight`` are rounded.
    """

    reduce_range: bool = False
    bound_pairs: bool = False
    equalization: bool = False
    bias_correction: BiasCorrection = BiasCorrection.NONE
    weight_rounding: WeightRounding = WeightRounding.NEAREST
    smooth_quant: SmoothQuant = SmoothQuant.NONE
    format: GraphFormat = GraphFormat.QDQ
    optimization: GraphOptimization = GraphOptimization.ALL
    weight_only: WeightOnly = WeightOnly.RTN

    def __post_init__(self) -> None:
        # What JSON and Optuna hand back are plain strings.
        object.__setattr__(self, "bias_correction", BiasCorrection(self.bias_correction))
        object.__setattr__(self, "weight_rounding", WeightRounding(self.weight_rounding))
        object.__setattr__(self, "smooth_quant", SmoothQuant(self.smooth_quant))
        object.__setattr__(self, "format", GraphFormat(self.format))
        object.__setattr__(self, "optimization", GraphOptimization(self.optimization))
        object.__setattr__(self, "weight_only", WeightOnly(self.weight_only))

    @property
    def quick(self) -> Recipe:
        """The same without what takes seconds to apply or changes kernels alone, for figures of many configs."""
        bias = BiasCorrection.FAST if self.bias_correction is BiasCorrection.FULL else self.bias_correction
        return dataclasses.replace(
            self,
            bias_correction=bias,
            weight_rounding=WeightRounding.NEAREST,
            weight_only=WeightOnly.RTN,
            format=GraphFormat.QDQ,
            optimization=GraphOptimization.ALL,
        )

    def to_json(self) -> dict[str, Any]:
        """The fields that differ from their defaults: a field that is added later changes no stored hash."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if getattr(self, f.name) != f.default}
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in values.items()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: A value is not one of those known.
            TypeError: A key is unknown.
        """
        return cls(**data)
