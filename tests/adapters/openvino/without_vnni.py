"""Runs candidates as a CPU without VNNI does, and prints what comes of it; a process of its own.

oneDNN, whose kernels OpenVINO uses, reads the instruction set from the environment before the first model is compiled.
Inputs are 1 and weights of one sign, so that an exact kernel gives the sum of the weights.
"""

from __future__ import annotations

import json
import os

os.environ["ONEDNN_MAX_CPU_ISA"] = "AVX2"

import numpy as np
import onnx

from autotune.config import Recipe
from tests.adapters.onnx.graphs import build, node
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, calibrated


def weights(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Near 1; every second position of a filter is much smaller, so that no neighbours within a channel are at risk."""
    values = np.random.default_rng(0).uniform(0.7, 1.0, shape).astype(np.float32)
    if len(shape) == 4:
        values.reshape(*shape[:2], -1)[..., [1, 3, 5, 7, 8]] /= 100
    return values


def convolution(groups: int, *shape: int) -> onnx.ModelProto:
    return build([node("Conv", "x w", "y", group=groups)], {"x": ("N", 32, 8, 8)}, {"y": None}, {"w": weights(*shape)})


def product(kind: str, *shape: int) -> onnx.ModelProto:
    rows = ("N", 32) if kind == "Gemm" else ("N", 5, 32)
    return build([node(kind, "x w", "y")], {"x": rows}, {"y": None}, {"w": weights(*shape)})


CASES: dict[str, tuple[onnx.ModelProto, tuple[int, ...]]] = {
    "convolution": (convolution(1, 16, 32, 3, 3), (32, 8, 8)),
    "grouped": (convolution(2, 32, 16, 3, 3), (32, 8, 8)),
    "depthwise": (convolution(32, 32, 1, 3, 3), (32, 8, 8)),
    "gemm": (product("Gemm", 32, 64), (32,)),
    "matmul": (product("MatMul", 32, 64), (5, 32)),
}
RECIPES = {"8 bits": Recipe(), "7 bits": Recipe(reduce_range=True), "pairs": Recipe(bound_pairs=True)}


def main() -> None:
    found: dict[str, dict[str, tuple[float, bool]]] = {}
    for name, (proto, shape) in CASES.items():
        ones = np.ones((2, *shape), np.float32)
        subject = calibrated(proto, [{"x": ones}])
        reference = ADAPTER.runner(subject.model, ONE_THREAD)({"x": ones})[0]
        for recipe_name, recipe in RECIPES.items():
            candidate = subject.int8(recipe=recipe)
            ratio = ADAPTER.runner(candidate, ONE_THREAD)({"x": ones})[0] / reference
            found.setdefault(name, {})[recipe_name] = float(ratio.min()), bool(ADAPTER.saturating_ops(candidate))
    print(json.dumps(found))  # noqa: T201


if __name__ == "__main__":
    main()
