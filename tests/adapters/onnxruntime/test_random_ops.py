"""Every config that a space offers, on random graphs: it applies, it runs, and what it calls int8 is int8.

``AUTOTUNE_RANDOM_GRAPHS=300 pytest tests/adapters/onnxruntime/test_random_ops.py`` looks at more of them.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.adapter import Execution
from autotune.adapters.onnx.session import optimized_graph
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.choices.execution_options import OPTIMIZATION
from autotune.config import (
    FP32,
    OpConfig,
    Precision,
    QuantizationConfig,
    QuantizedType,
)
from autotune.space import OpSpace, TuningSpace
from tests.adapters.onnx.random_graphs import RandomGraph
from tests.adapters.onnxruntime.random_ops import random_op_graphs

ADAPTER = OnnxRuntimeAdapter()
GRAPHS = int(os.environ.get("AUTOTUNE_RANDOM_GRAPHS", "15"))

KERNELS = {
    Precision.INT8: {
        *("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat"),
        *("QLinearAdd", "QLinearMul", "QLinearConcat", "QLinearAveragePool", "QLinearGlobalAveragePool"),
        *("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax"),
        "Concat",  # of integers that share a scale
    },
    Precision.INT8_DYNAMIC: {"ConvInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM"},
    Precision.INT8_WEIGHT: {"MatMulNBits", "GatherBlockQuantized"},
    Precision.INT4_WEIGHT: {"MatMulNBits", "GatherBlockQuantized"},
}


def in_u8(choice: OpConfig) -> bool:
    """On x86 ONNX Runtime turns s8 into u8 where it can, and fuses nothing where it cannot."""
    return choice.activation is None or choice.activation.dtype is QuantizedType.U8


def configs(space: TuningSpace, seed: int) -> Iterator[QuantizationConfig]:
    """The preferred one, one for each precision, and one that draws everything, with u8 activations and with any."""
    yield space.preferred
    for precision in dict.fromkeys(within.precision for op in space.ops for within in op.precisions):
        offered = {op.name: op.space_of(precision) for op in space.ops}
        ops = {name: FP32 if within is None else within.preferred for name, within in offered.items()}
        yield QuantizationConfig(ops=ops, recipe=space.recipe.preferred)
    draw = random.Random(seed)
    for u8 in (True, False):

        def choice(op: OpSpace, *, u8: bool = u8) -> OpConfig:
            return draw.choice([each for each in op.configs() if not u8 or in_u8(each)])

        recipe = draw.choice(list(space.recipe.recipes()))
        yield QuantizationConfig(ops={op.name: choice(op) for op in space.ops}, recipe=recipe)


def not_as_configured(candidate: OnnxModel, config: QuantizationConfig) -> list[str]:
    """The ops that ONNX Runtime executes in something else than the config says."""
    kernels: dict[str, set[str]] = {}
    for node in optimized_graph(candidate.proto).graph.node:
        for part in (node.name, *(node.name.removesuffix(end) for end in ("/MatMulInteger", "/ConvInteger"))):
            kernels.setdefault(part, set()).add(node.op_type)
    wanted = {name: KERNELS.get(choice.precision, set()) for name, choice in config.ops.items()}
    return [name for name, known in wanted.items() if known and known.isdisjoint(kernels.get(name, ()))]


def not_in_file(candidate: OnnxModel, config: QuantizationConfig) -> list[str]:
    """The static ops that neither read integers nor are integer kernels themselves."""
    proto = candidate.proto
    writers = {name: node.op_type for node in proto.graph.node for name in node.output}
    nodes = {node.name: node for node in proto.graph.node}
    static = [name for name, choice in config.ops.items() if choice.precision is Precision.INT8]
    return [
        name
        for name in static
        if nodes[name].op_type not in KERNELS[Precision.INT8] - {"Concat"}
        and any(writers.get(each) != "DequantizeLinear" for each in nodes[name].input if each in writers)
    ]


@settings(max_examples=GRAPHS, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=GRAPHS <= 15)
@given(random_op_graphs(), st.integers(0, 2**16))
def test_every_config_that_is_offered_is_served(graph: RandomGraph, seed: int) -> None:
    model = ADAPTER.load(graph.proto)
    statistics = ADAPTER.calibrate(model, list(graph.feeds), seed=0)
    space = ADAPTER.space(model)
    for config in configs(space, seed):
        assert config in space
        candidate = ADAPTER.apply(model, config, statistics)
        outputs = ADAPTER.runner(candidate, Execution())(graph.feeds[0])
        assert all(np.isfinite(each).all() for each in outputs)
        if "format" not in config.recipe.options:
            assert not_in_file(candidate, config) == []
        as_executed = OPTIMIZATION.of(config.recipe.options) in ("all", "gelu_approximation")
        if as_executed and all(in_u8(choice) for choice in config.ops.values()):
            assert not_as_configured(candidate, config) == [], config
