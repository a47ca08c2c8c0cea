"""Scales of the tensors of a candidate: which are chosen, and from which range."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from autotune.adapters.paddle.ops import QuantizableOp
from autotune.adapters.paddle.tensors import Tensors
from autotune.adapters.paddle.weights import REDUCED
from autotune.algorithms import AffineParameters, activation_range, affine_parameters
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, QuantizedType, TensorScheme
from autotune.errors import ApplyError

SIGNED = TensorScheme(dtype=QuantizedType.S8, symmetric=True)
UNSIGNED = TensorScheme(dtype=QuantizedType.U8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scale:
    """The integers of one tensor.

    Attributes:
        parameters: Scale and zero point, which is zero.
        scheme: :data:`SIGNED` or :data:`UNSIGNED`.
        largest: The largest integer that values within the range become.
    """

    parameters: AffineParameters
    scheme: TensorScheme
    largest: int

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
        largest: By unsigned tensor that is to leave some of its integers unused: the largest one.
    """

    def __init__(
        self,
        tensors: Tensors,
        statistics: CalibrationStatistics,
        ranges: Mapping[str, tuple[float, float]],
        *,
        largest: Mapping[str, int],
    ) -> None:
        self._tensors = tensors
        self._statistics = statistics
        self._ranges = ranges
        self._largest = largest
        self.found: dict[str, Scale] = {}

    def choose(self, op: QuantizableOp, choice: OpConfig) -> None:
        """Choose for what an op reads, and for the sum that is fused into it.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        residual = self._tensors.residual(op)
        for name in self._tensors.read_or_summed(op):
            if name not in self.found:
                narrow = residual is not None and residual.narrow and name in (residual.result, residual.last)
                scale = self._scale(name, choice, narrow=narrow)
                self.found |= dict.fromkeys(self._tensors.group(name), scale)

    def _scale(self, name: str, choice: OpConfig, *, narrow: bool) -> Scale:
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
        if scheme is SIGNED:
            return Scale(parameters=affine_parameters(low, high, scheme), scheme=scheme, largest=127)
        largest = min(self._largest.get(member, 255) for member in self._tensors.group(name))
        largest = min(largest, REDUCED) if narrow else largest
        parameters = affine_parameters(0.0, high, scheme)
        wider = np.asarray(parameters.scale * np.float32(255 / largest), np.float32)
        return Scale(parameters=AffineParameters(wider, parameters.zero_point), scheme=scheme, largest=largest)

    def tensors(self) -> dict[str, tuple[AffineParameters, QuantizedType]]:
        """By tensor: its scale, zero point and type."""
        return {name: (scale.parameters, scale.scheme.dtype) for name, scale in self.found.items()}
