"""Models with their statistics, made once for all tests that only read them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import onnx

from autotune.adapter import Execution, Feeds
from autotune.adapters.openvino import OpenVinoAdapter, OpenVinoModel
from autotune.calibration import CalibrationStatistics
from autotune.config import OpConfig, QuantizationConfig, Recipe
from tests.adapters.onnx.graphs import image_batches
from tests.adapters.openvino.graphs import wide_cnn

ADAPTER = OpenVinoAdapter()
ONE_THREAD = Execution(threads=1)


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    model: OpenVinoModel
    batches: Sequence[Feeds]
    statistics: CalibrationStatistics

    def int8(self, *names: str, recipe: Recipe | None = None, **changes: object) -> OpenVinoModel:
        """The candidate in which these ops, or all, take the preferred int8 choice with changes."""
        space = ADAPTER.space(self.model)
        chosen = [op for op in space.ops if op.name in names or not names]
        ops = {op.name: OpConfig(**{**vars(op.preferred), **changes}) for op in chosen}
        config = QuantizationConfig(ops=ops, recipe=recipe or Recipe())
        return ADAPTER.apply(self.model, config, self.statistics)


def calibrated(source: onnx.ModelProto, batches: Sequence[Feeds]) -> Calibrated:
    model = ADAPTER.load(source)
    return Calibrated(model=model, batches=batches, statistics=ADAPTER.calibrate(model, batches, seed=0))


@functools.cache
def wide() -> Calibrated:
    return calibrated(wide_cnn(), image_batches())
