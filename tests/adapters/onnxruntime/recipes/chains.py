"""Random chains of convolutions, and what the recipes' tests ask of them."""

from __future__ import annotations

import numpy as np
import onnx
from hypothesis import strategies as st

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
from tests.adapters.onnx.graphs import build, image_batches, node
from tests.adapters.onnxruntime.saturating import exact_here

ADAPTER = OnnxRuntimeAdapter()
BATCHES = image_batches()
CHANNELS = 8
LAYERS = st.lists(
    st.tuples(st.sampled_from(["dense", "pointwise", "depthwise"]), st.sampled_from(["none", "relu", "relu6"])),
    min_size=2,
    max_size=5,
)


def chain(layers: list[tuple[str, str]], seed: int, *, bias: bool = True, spread: float = 1.5) -> onnx.ModelProto:
    """Convolutions whose channels differ in range by orders of magnitude, each followed by an activation."""
    random = np.random.default_rng(seed)
    constants = {"zero": np.array(0, np.float32), "six": np.array(6, np.float32)}
    nodes, source, width = [], "x", 3
    for index, (kind, activation) in enumerate(layers):
        depthwise = kind == "depthwise" and width == CHANNELS
        size = 1 if kind == "pointwise" else 3
        weight = random.standard_normal((CHANNELS, 1 if depthwise else width, size, size))
        weight *= np.exp(spread * random.standard_normal((CHANNELS, 1, 1, 1))) / np.sqrt(weight[0].size)
        constants[f"w{index}"] = weight.astype(np.float32)
        inputs = f"{source} w{index}"
        if bias:
            constants[f"b{index}"] = random.standard_normal(CHANNELS).astype(np.float32)
            inputs += f" b{index}"
        pads = [size // 2] * 4
        nodes.append(node("Conv", inputs, f"c{index}", pads=pads, group=CHANNELS if depthwise else 1))
        source, width = f"c{index}", CHANNELS
        if activation == "relu":
            nodes.append(node("Relu", source, f"a{index}"))
        elif activation == "relu6":
            nodes.append(node("Clip", f"{source} zero six", f"a{index}"))
        source = nodes[-1].output[0]
    return build(nodes, {"x": ("N", 3, 8, 8)}, {source: None}, constants)


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
