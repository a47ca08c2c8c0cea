"""The integers of the tensors that int8 ops read and write: one range for each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autotune.adapters.tensorflow.ops import QuantizableOp
from autotune.adapters.tensorflow.unfuse import tensor_key
from autotune.algorithms import AffineParameters, activation_range, affine_parameters, representable
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, QuantizationConfig, QuantizedType
from autotune.errors import ApplyError


class ActivationGrids:
    """Chooses a range for every tensor around int8 ops.

    LiteRT's int8 ops read and write integers, and a tensor between two of them has one scale. The op that writes a
    tensor chooses for it; where that one is not int8, the first op that reads it.

    Args:
        statistics: Statistics of the calibration.
        ranges: ``(low, high)`` of the tensors whose range the recipe has chosen, by key.
    """

    def __init__(self, statistics: CalibrationStatistics, ranges: Mapping[str, tuple[float, float]]) -> None:
        self._statistics = statistics
        self._ranges = ranges
        self.parameters: dict[str, AffineParameters] = {}

    def choose(
        self, chosen: Sequence[QuantizableOp], following: Sequence[QuantizableOp], config: QuantizationConfig
    ) -> None:
        """Choose for what ops read and write.

        Args:
            chosen: Ops that become int8, in the order in which they run.
            following: Ops that compute in int8 since their neighbours do.
            config: Their choices.

        Raises:
            ApplyError: A tensor has no statistics.
        """
        choices: dict[int, OpConfig] = {}
        for op in chosen:
            for place in (*op.activations, *op.outputs):
                choices.setdefault(place, config[op.name])
        for op in following:
            if op.activations[0] in choices:
                for place in op.outputs:
                    choices.setdefault(place, choices[op.activations[0]])
        for op in reversed(following):
            if op.outputs[0] in choices:
                for place in op.activations:
                    choices.setdefault(place, choices[op.outputs[0]])
        for place, choice in choices.items():
            self._choose(tensor_key(place), choice)

    def _choose(self, key: str, choice: OpConfig) -> None:
        found = self._statistics.tensors.get(key)
        if found is None:
            raise ApplyError(
                f"An int8 op needs statistics of all that it reads and writes, and there are none of tensor {key!r}. "
                "Calibrate this model"
            )
        assert choice.activation is not None
        assert choice.calibration is not None
        own = self._ranges.get(key)
        low, high = own or activation_range(found, choice.calibration, choice.activation)
        self.parameters[key] = affine_parameters(low, high, choice.activation)

    def ends(self) -> dict[str, tuple[float, float]]:
        """By key: the values that the smallest and the largest integer stand for."""
        return {key: representable(each, QuantizedType.S8) for key, each in self.parameters.items()}

    def tensors(self) -> dict[str, tuple[AffineParameters, QuantizedType]]:
        """By key: scale, zero point and type, as the algorithms ask for them."""
        return {key: (each, QuantizedType.S8) for key, each in self.parameters.items()}
