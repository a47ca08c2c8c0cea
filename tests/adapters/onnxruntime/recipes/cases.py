"""A model, what recipes make of it, and whether it stays right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from autotune.adapter import Array, Execution, Feeds
from autotune.adapters.onnxruntime import OnnxModel
from autotune.adapters.onnxruntime.recipes.equalization import equalize
from autotune.calibration import CalibrationStatistics
from autotune.config import FP32, BiasCorrection, Granularity, QuantizationConfig, Recipe, WeightRounding
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config

ALL = Recipe(equalization=True, bias_correction=BiasCorrection.FULL, weight_rounding=WeightRounding.GPTQ)


IMAGE = ("N", 3, 8, 8)


class Case:
    """A model with every op in int8 and every recipe on."""

    def __init__(
        self,
        nodes: Sequence[onnx.NodeProto],
        constants: dict[str, Array],
        *,
        outputs: Sequence[str] = ("y",),
        shape: Sequence[int | str] | None = None,
        fp32: Sequence[str] = (),
        granularity: Granularity = Granularity.PER_CHANNEL,
    ) -> None:
        self.feeds = image_batches(1, size=8)[0]
        proto = build(nodes, {"x": IMAGE}, dict.fromkeys(outputs, shape), constants)
        self.model: OnnxModel = ADAPTER.load(proto)
        self.statistics: CalibrationStatistics = ADAPTER.calibrate(self.model, image_batches(), seed=0)
        wanted: QuantizationConfig = config(self.model, ALL, granularity=granularity)
        self.config = wanted.replace(dict.fromkeys(fp32, FP32))
        self.equalized = equalize(self.model, self.config, self.statistics)
        self.candidate: OnnxModel = ADAPTER.apply(self.model, self.config, self.statistics)
        onnx.checker.check_model(self.candidate.proto)

    @property
    def notes(self) -> str:
        return "\n".join(self.candidate.notes)

    def check(self, least_db: float = 20.0, feeds: Feeds | None = None) -> None:
        """fp32 outputs must stay after equalization, and int8 ones must be near them."""
        given = feeds or self.feeds
        expected = run(self.model, given)
        for exact, equalized, actual in zip(
            expected, run(self.equalized.model, given), run(self.candidate, given), strict=True
        ):
            np.testing.assert_allclose(equalized, exact, rtol=0, atol=1e-4 * float(np.abs(exact).max()))
            noise = np.square(exact - actual).mean()
            assert 10 * np.log10(np.square(exact).mean() / noise) > least_db

    def constant(self, name: str) -> Array:
        """A constant after equalization."""
        tensor = next(t for t in self.equalized.model.proto.graph.initializer if t.name == name)
        return numpy_helper.to_array(tensor)


def run(model: OnnxModel, feeds: Feeds) -> tuple[Array, ...]:
    return ADAPTER.runner(model, Execution())(feeds)


def uneven(*shape: int, seed: int = 0) -> Array:
    """Weights whose output channels differ by orders of magnitude, so that equalization has something to do."""
    channels = np.exp(1.5 * normal(shape[0], seed=seed + 50, scale=1.0)).reshape(-1, *[1] * (len(shape) - 1))
    return np.asarray(normal(*shape, seed=seed) * channels, np.float32)


def conv(inputs: str, output: str, **attributes: object) -> onnx.NodeProto:
    return node("Conv", inputs, output, **{"pads": [1, 1, 1, 1], **attributes})
