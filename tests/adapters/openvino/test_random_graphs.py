"""Whatever the graph: what OpenVINO reads can be calibrated, and its recipes change nothing in fp32.

``AUTOTUNE_RANDOM_GRAPHS=300 pytest tests/adapters/openvino/test_random_graphs.py`` looks at more of them.
"""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, Phase, event, given, settings

from autotune.adapters.onnx.compare import relative_difference
from autotune.adapters.openvino import OpenVinoModel
from autotune.adapters.openvino.channels import prepare_channels
from autotune.config import BiasCorrection, Precision, QuantizationConfig, Recipe, SmoothQuant
from autotune.errors import ApplyError, DataError, ModelError
from tests.adapters.onnx.random_graphs import RandomGraph, random_graphs
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD

EXAMPLES = int(os.environ.get("AUTOTUNE_RANDOM_GRAPHS", "40"))
RECIPE = Recipe(equalization=True, smooth_quant=SmoothQuant.AUTO, bias_correction=BiasCorrection.FAST)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 40,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(graph=random_graphs())
def test_recipes_change_no_fp32_output_of_any_graph(graph: RandomGraph) -> None:
    try:
        model = ADAPTER.load(graph.proto)
        exact = [ADAPTER.runner(model, ONE_THREAD)(feeds) for feeds in graph.feeds]
        statistics = ADAPTER.calibrate(model, graph.feeds, seed=0)
    except (ModelError, ApplyError, DataError) as error:
        event(f"OpenVINO refuses it: {str(error)[:60]}")
        return
    space, _ = ADAPTER.calibrated_space(ADAPTER.space(model), model, statistics)
    offered = {op.name: op.space_of(Precision.INT8) for op in space.ops}
    config = QuantizationConfig(
        ops={name: one.preferred for name, one in offered.items() if one is not None}, recipe=RECIPE
    )
    found = prepare_channels(model.graph.clone(), config, statistics)
    event("scaled" if found.ranges else "nothing to scale")
    run = ADAPTER.runner(OpenVinoModel(graph=found.reference), ONE_THREAD)
    candidate = ADAPTER.runner(ADAPTER.apply(model, config, statistics), ONE_THREAD)
    for feeds, outputs in zip(graph.feeds, exact, strict=True):
        for expected, ours, quantized in zip(outputs, run(feeds), candidate(feeds), strict=True):
            assert relative_difference(expected, ours) <= 1e-4
            assert quantized.shape == expected.shape
            assert np.isfinite(quantized).all() or not np.isfinite(expected).all()
