"""Expectations of the recipes' tests on random graphs."""

from __future__ import annotations

import numpy as np
import onnx

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.calibration import CalibrationStatistics
from autotune.config import (
    MINMAX,
    Granularity,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
    Recipe,
    TensorScheme,
)
from tests.adapters.onnx.graphs import image_batches
from tests.adapters.onnxruntime.saturating import exact_here

ADAPTER = OnnxRuntimeAdapter()
BATCHES = image_batches()


def prepared(proto: onnx.ModelProto) -> tuple[OnnxModel, CalibrationStatistics]:
    model = ADAPTER.load(proto)
    return model, ADAPTER.calibrate(model, BATCHES, seed=0)


def config(
    model: OnnxModel, recipe: Recipe | None = None, *, granularity: Granularity = Granularity.PER_CHANNEL
) -> QuantizationConfig:
    """Everything in int8."""
    wanted = OpConfig(
        precision=Precision.INT8,
        activation=TensorScheme(dtype=QuantizedType.U8),
        weight=TensorScheme(dtype=QuantizedType.S8, symmetric=True, granularity=granularity),
        calibration=MINMAX,
    )
    return ADAPTER.space(model).uniform(wanted, exact_here(recipe or Recipe()))


def run(model: OnnxModel, feeds: Feeds = BATCHES[0]) -> Array:
    return ADAPTER.runner(model, Execution())(feeds)[0]


def relative_error(model: OnnxModel, other: OnnxModel, feeds: Feeds = BATCHES[0]) -> float:
    """The largest difference over the largest value."""
    expected = run(model, feeds)
    return float(np.abs(expected - run(other, feeds)).max() / max(float(np.abs(expected).max()), 1e-12))


def sqnr_db(model: OnnxModel, quantized: OnnxModel) -> float:
    expected = run(model)
    noise = np.square(expected - run(quantized)).mean()
    return float(10 * np.log10(np.square(expected).mean() / noise))
