"""Why Linear layers stay in fp32: Paddle's integer passes take the scale of an output channel from other weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from autotune.adapters.paddle import program as programs
from autotune.adapters.paddle.model import PaddleModel
from tests.adapters.paddle.calibrated import ADAPTER, ONE

FLOAT = np.dtype(np.float32)


def linear(weight: Any, *, integers: bool) -> PaddleModel:
    program = programs.empty()
    constants = {"w": weight, "scale": np.full(1, 4.0, np.float32), "zero": np.zeros(1, np.float32)}
    constants["b"] = np.zeros(weight.shape[1], np.float32)
    for name, array in constants.items():
        programs.add_tensor(program, name, array.dtype, array.shape, constant=True)
    for name, width in (("x", 64), ("q", 64), ("d", 64), ("p", 32), ("y", 32)):
        programs.add_tensor(program, name, FLOAT, (-1, width))
    attrs = {"quant_axis": -1, "bit_length": 8, "is_test": True, "only_observer": False}
    read = {"Scale": ["scale"], "ZeroPoint": ["zero"]}
    made = [
        programs.new_op("quantize_linear", {"X": ["x"], **read}, {"Y": ["q"]}, attrs),
        programs.new_op("dequantize_linear", {"X": ["q"], **read}, {"Y": ["d"]}, attrs),
    ]
    product: dict[str, bool | str] = {"trans_x": False, "trans_y": False, "quantization_type": "qat_with_weight"}
    source = "d" if integers else "x"
    made = [
        *(made if integers else []),
        programs.new_op("matmul_v2", {"X": [source], "Y": ["w"]}, {"Out": ["p"]}, product),
        programs.new_op("elementwise_add", {"X": ["p"], "Y": ["b"]}, {"Out": ["y"]}, {"axis": -1}),
    ]
    program = programs.part(program, made, ["x"], ["y"])
    kept = programs.drop_unused(program, constants)
    return PaddleModel(content=program.SerializeToString(), constants=kept)


def test_paddle_cuts_the_weights_of_a_linear_layer() -> None:
    """Where this begins to fail, Paddle has mended it: then Linear layers can be offered."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(64, 32)).astype(np.float32)
    weight[:, 0] *= 20  # one output channel with larger weights than the others
    feeds = {"x": rng.uniform(-4, 4, (16, 64)).astype(np.float32)}
    right, found = (ADAPTER.runner(linear(weight, integers=each), ONE)(feeds)[0] for each in (False, True))
    error = np.abs(found - right).mean(axis=0) / np.abs(right).mean(axis=0)
    assert error.max() > 0.05
