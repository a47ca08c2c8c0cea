"""How exact ops are by themselves, from calibration alone."""

from __future__ import annotations

import numpy as np

from autotune.adapter import LocalErrors
from autotune.adapters.onnxruntime import OnnxRuntimeAdapter
from autotune.config import FP32, QuantizationConfig
from tests.adapters.onnx.graphs import build, node, normal

ADAPTER = OnnxRuntimeAdapter()


def joined(scale: float) -> dict[str, float]:
    """The local errors of two branches, one of which is ``scale`` times the other, that meet in a Concat."""
    constants = {
        "w": normal(8, 3, 3, 3),
        "wide": np.float32(scale) * normal(4, 8, 1, 1),
        "narrow": normal(4, 8, 1, 1),
    }
    nodes = [
        node("Conv", "x w", "stem", pads=[1, 1, 1, 1]),
        node("Conv", "stem wide", "boxes"),
        node("Conv", "stem narrow", "scores"),
        node("Concat", "boxes scores", "join", axis=1),
    ]
    model = ADAPTER.load(build(nodes, {"x": ("N", 3, 8, 8)}, {"join": None}, constants))
    random = np.random.default_rng(0)
    batches = [{"x": random.standard_normal((4, 3, 8, 8)).astype(np.float32)} for _ in range(3)]
    statistics = ADAPTER.calibrate(model, batches, seed=0)
    assert isinstance(ADAPTER, LocalErrors)
    return dict(ADAPTER.local_errors(model, ADAPTER.space(model).preferred, statistics))


def test_a_concat_of_unlike_ranges_is_found_without_an_inference() -> None:
    alike, unlike = joined(1.0), joined(1000.0)
    assert set(alike) == {"stem", "boxes", "scores", "join"}
    assert alike["join"] < 1e-3
    assert unlike["join"] > 0.5
    assert unlike["stem"] < 1e-3


def test_only_ops_that_the_config_quantizes_have_a_local_error() -> None:
    proto = build([node("Conv", "x w", "y")], {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": normal(4, 3, 1, 1)})
    model = ADAPTER.load(proto)
    statistics = ADAPTER.calibrate(model, [{"x": np.ones((2, 3, 8, 8), np.float32)}], seed=0)
    assert ADAPTER.local_errors(model, QuantizationConfig(ops={"y": FP32}), statistics) == {}
