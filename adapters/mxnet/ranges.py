"""Ranges of the tensors of a candidate: which are chosen, and by which op's algorithm."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.adapter import Array
from autotune.adapters.mxnet.channels import Channels
from autotune.adapters.mxnet.graph import POOLING, Graph, QuantizableOp
from autotune.adapters.mxnet.space import ACTIVATIONS, UNSIGNED, has_negatives
from autotune.algorithms import AffineParameters, activation_range
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, QuantizationConfig, QuantizedType
from autotune.errors import ApplyError

_HALVED = 255 / 127
"""How much wider the range of a u8 tensor is whose integers are to stay below 128."""


class Ranges:
    """Chooses the range of each tensor by the algorithm of the first op that reads it, else of the one that writes it.

    Pooled and flattened integers have the range of what was pooled.

    Args:
        fused: The fused symbol that is quantized.
        chosen: Its int8 ops.
        config: The candidate's config.
        statistics: Statistics of the fp32 model, which tell the type of each tensor.
        channels: The model with channels as the recipe wants them.
    """

    def __init__(
        self,
        fused: Graph,
        chosen: Sequence[QuantizableOp],
        config: QuantizationConfig,
        statistics: CalibrationStatistics,
        channels: Channels,
    ) -> None:
        self._fused = fused
        self._statistics = statistics
        self._channels = channels
        self._reduced = config.recipe.reduce_range
        self._passed = fused.passed_on({op.node for op in chosen})
        # MXNet writes such a sum over what is added, in its type: s8 has no room for the upper half of u8.
        self._halved = {op.output for op in chosen if op.summed is not None and has_negatives(op.summed, statistics)}
        self._choices: dict[str, OpConfig] = {}
        for op in chosen:
            for name in (op.source, op.summed):
                if name is not None:
                    self._choices.setdefault(self._root(name), config[op.name])
        for op in chosen:
            if op.kind != POOLING:
                self._choices.setdefault(op.output, config[op.name])
        self._found = {name: self._range(name) for name in self._choices}

    def _root(self, name: str) -> str:
        """The tensor whose range another one has."""
        while name in self._passed:
            name = self._passed[name]
        return name

    def unsigned(self, name: str) -> bool:
        """Whether a tensor becomes u8."""
        return not has_negatives(self._root(name), self._statistics)

    def of_layers(self, layers: Sequence[str]) -> dict[str, tuple[float, float]]:
        """By tensor of the fused symbol that MXNet's pass lists: its range; the pass lists some that no int8 op has."""
        origins = {name: self._fused.origin(name) for name in layers}
        return {name: self._found[origin] for name, origin in origins.items() if origin in self._found}

    def tensors(self) -> dict[str, tuple[AffineParameters, QuantizedType]]:
        """By tensor that int8 ops read or write: its scale, zero point and type."""
        found = {}
        for name in (*self._found, *self._passed):
            low, high = self._found.get(self._root(name), (0.0, 0.0))
            steps, dtype = (127, QuantizedType.S8) if low < 0 else (255, QuantizedType.U8)
            scale = np.asarray(max(high, float(np.finfo(np.float32).tiny)) / steps, np.float32)
            zero: Array = np.zeros((), np.int8 if low < 0 else np.uint8)
            found[name] = (AffineParameters(scale, zero), dtype)
        return found

    def _range(self, name: str) -> tuple[float, float]:
        observed = self._channels.statistics.tensors.get(name)
        if observed is None:
            raise ApplyError(
                f"An int8 op needs statistics of {name!r}, which it reads or writes, and there are none. Calibrate it"
            )
        calibration = self._choices[name].calibration
        assert calibration is not None
        scheme = UNSIGNED if self.unsigned(name) else ACTIVATIONS
        low, high = self._channels.ranges.get(name) or activation_range(observed, calibration, scheme)
        if scheme is UNSIGNED:
            narrow = self._reduced or name in self._halved
            return 0.0, float(high) * (_HALVED if narrow else 1.0)
        largest = max(abs(float(low)), abs(float(high)))
        return -largest, largest
