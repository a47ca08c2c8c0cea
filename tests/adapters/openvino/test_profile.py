from __future__ import annotations

from autotune.adapter import CostModel
from autotune.adapters.openvino import runtime
from autotune.adapters.openvino.ops import op_name
from autotune.adapters.openvino.session import compile_for
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, wide


def test_every_op_with_a_weight_has_a_cost_in_every_precision() -> None:
    assert isinstance(ADAPTER, CostModel)
    feeds = {"x": wide().batches[0]["x"][:1]}
    profiles = ADAPTER.op_seconds([wide().model, wide().int8(), wide().int8("c1")], feeds, ONE_THREAD)
    assert len(profiles) == 3
    for seconds in profiles:
        assert {"c1", "c2", "c3", "logits"} <= set(seconds)
        assert all(value >= 0 for value in seconds.values())
        assert sum(seconds.values()) > 0


def test_kernels_belong_to_the_convolution_among_what_was_fused() -> None:
    for model in (wide().model, wide().int8()):
        nodes = {op_name(node): node for node in model.graph.get_ordered_ops()}
        ops = {name: nodes[name] for name in ("c1", "c2", "c3", "sum", "logits")}
        members = runtime.kernels(compile_for(model, ((1, 3, 8, 8),), ONE_THREAD), ops).values()
        assert {each[0] for each in members} == {"c1", "c2", "c3", "logits"}
        assert ("c3", "sum") in members


def test_conversion_seconds_of_every_op_for_one_sample() -> None:
    seconds = ADAPTER.conversion_seconds(wide().model, wide().statistics, ONE_THREAD)
    assert set(seconds) == {"c1", "c2", "c3", "sum", "logits"}
    assert all(value >= 0 for value in seconds.values())


def test_neighbours_are_found_behind_biases_and_activations() -> None:
    neighbours = ADAPTER.neighbours(wide().model)
    assert {op: set(readers) for op, readers in neighbours.items()} == {
        "c1": {"c2", "sum"},
        "c2": {"c3"},
        "c3": {"sum"},
        "sum": set(),
        "logits": set(),
    }
