"""Scales of the tensors of a candidate: which are chosen, and from which range."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from autotune.adapters.paddle.ops import QuantizableOp
from autotune.adapters.paddle.tensors import Tensors
from autotune.algorithms import AffineParameters, activation_range, affine_parameters
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, QuantizedType, TensorScheme
from autotune.errors import ApplyError

SIGNED = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
UNSIGNED = TensorScheme(dtype=QuantizedType.U8)

_REDUCED = 127
"""Largest u8 activation with a bit to spare: ``2 * 127 * 127 = 32258`` fits the 16 bits in which CPUs without VNNI add
two products. Paddle chooses the scales of weights itself, so that the bit is taken from activations."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """The integers of one tensor.

    Attributes:
        parameters: Scale and zero point, which is zero.
        scheme: :data:`SIGNED` or :data:`UNSIGNED`.
    """

    parameters: AffineParameters
    scheme: TensorScheme

    @property
    def threshold(self) -> float:
        """The value that the largest integer stands for, which is what Paddle stores."""
        return float(self.parameters.scale) * (255 if self.scheme.dtype is QuantizedType.U8 else 127)


class Scales:
    """Chooses the integers of the tensors around int8 ops; what an op before has chosen for one stays.

    Args:
        tensors: The tensors of the program.
        statistics: Statistics of the calibration.
        ranges: ``(low, high)`` of the tensors whose range the recipe has chosen.
        reduced: Whether unsigned tensors use 7 of their 8 bits.
    """

    def __init__(
        self,
        tensors: Tensors,
        statistics: CalibrationStatistics,
        ranges: Mapping[str, tuple[float, float]],
        *,
        reduced: bool,
    ) -> None:
        self._tensors = tensors
        self._statistics = statistics
        self._ranges = ranges
        self._reduced = reduced
        self.found: dict[str, Scale] = {}

    def choose(self, op: QuantizableOp, choice: OpConfig) -> None:
        """Choose for what an op reads, and for the sum that is fused into it.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        for name in dict.fromkeys((op.source, *self._tensors.residual(op))):
            if name not in self.found:
                self.found[name] = self._scale(name, choice)

    def _scale(self, name: str, choice: OpConfig) -> Scale:
        scheme = UNSIGNED if self._tensors.unsigned(name) else SIGNED
        assert choice.calibration is not None
        low, high = 0.0, 0.0
        for member in self._tensors.group(name):
            found = self._statistics.tensors.get(member)
            if found is None:
                if member == name:
                    raise ApplyError(
                        f"An int8 op needs statistics of {name!r}, which it reads or writes, and there are none. "
                        "Calibrate it"
                    )
                continue  # what moves values about may write some that nothing reads
            own = self._ranges.get(member) or activation_range(found, choice.calibration, scheme)
            low, high = min(low, own[0]), max(high, own[1])
        if scheme is UNSIGNED:
            low = 0.0
        parameters = affine_parameters(low, high, scheme)
        if scheme is UNSIGNED and self._reduced:
            wider = np.asarray(parameters.scale * np.float32(255 / _REDUCED), np.float32)
            parameters = AffineParameters(wider, parameters.zero_point)
        return Scale(parameters=parameters, scheme=scheme)

    def tensors(self) -> dict[str, tuple[AffineParameters, QuantizedType]]:
        """By tensor: its scale, zero point and type."""
        return {name: (scale.parameters, scale.scheme.dtype) for name, scale in self.found.items()}
