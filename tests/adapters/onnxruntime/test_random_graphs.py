"""Whatever the graph: prepared it computes the same, and every form of it can be calibrated, quantized and run.

``AUTOTUNE_RANDOM_GRAPHS=300 pytest tests/adapters/onnxruntime/test_random_graphs.py`` looks at more of them;
``--hypothesis-seed`` chooses which.
"""

from __future__ import annotations

import os

import onnx
from hypothesis import HealthCheck, Phase, event, given, settings

from autotune.adapter import Execution
from autotune.adapters.onnx.compare import relative_difference
from autotune.adapters.onnx.quantized import is_pair
from autotune.adapters.onnxruntime import OnnxModel, OnnxRuntimeAdapter
from autotune.config import QuantizationConfig
from tests.adapters.onnx.random_graphs import RandomGraph, random_graphs

ADAPTER = OnnxRuntimeAdapter()

EXAMPLES = int(os.environ.get("AUTOTUNE_RANDOM_GRAPHS", "40"))
"""Examples in a run of all tests; 300 and 3,000 were tried by hand."""


def agree(first: OnnxModel, second: OnnxModel, graph: RandomGraph) -> None:
    runners = [ADAPTER.runner(model, Execution()) for model in (first, second)]
    for feeds in graph.feeds:
        for expected, actual in zip(*(run(feeds) for run in runners), strict=True):
            assert relative_difference(expected, actual) <= 1e-4


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES <= 40,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(graph=random_graphs())
def test_any_graph(graph: RandomGraph) -> None:
    model = ADAPTER.on_data(ADAPTER.load(graph.proto), graph.feeds)
    theirs = ADAPTER.as_given(model)
    assert theirs.proto == graph.proto, "the baseline is the user's model as it is"
    agree(theirs, model, graph)
    # A graph of a few nodes, to which the types of its tensors are added and nothing that grows with the weights.
    assert model.size_bytes < 1.1 * theirs.size_bytes + 150 * len(theirs.proto.graph.node)

    space = ADAPTER.space(model)
    names = {each.name for each in model.proto.graph.node}
    assert {op.name for op in space.ops} <= names
    assert not any("Fusion" in op.name or op.name.startswith("_if_") for op in space.ops)
    event("tunable" if space.tunable else "nothing to tune")
    statistics = ADAPTER.calibrate(model, graph.feeds, seed=0)
    agree(theirs, ADAPTER.apply(model, QuantizationConfig(prepared=True), statistics), graph)
    candidate = ADAPTER.apply(model, space.preferred, statistics)
    kept = {each.name for each in model.proto.graph.node if is_pair(each)}
    assert kept <= {each.name for each in candidate.proto.graph.node}
    for feeds in graph.feeds:
        for expected, actual in zip(
            ADAPTER.runner(theirs, Execution())(feeds), ADAPTER.runner(candidate, Execution())(feeds), strict=True
        ):
            assert expected.shape == actual.shape
    # A written model is a model like any other: read again, it is the same.
    again = ADAPTER.load(onnx.ModelProto.FromString(candidate.stored.SerializeToString()))
    agree(candidate, again, graph)
