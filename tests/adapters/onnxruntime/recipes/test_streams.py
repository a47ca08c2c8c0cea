"""Residual streams are scaled as one: no fp32 output changes, and int8 gains."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.adapters.onnx.session import optimized_op_counts
from autotune.adapters.onnxruntime.recipes.equalization import equalize
from autotune.config import FP32, Granularity, Recipe
from tests.adapters.onnx.graphs import build, node, normal
from tests.adapters.onnx.recipe_graphs import residual
from tests.adapters.onnxruntime.recipes.chains import ADAPTER, config, prepared, relative_error, sqnr_db
from tests.adapters.onnxruntime.saturating import exact_here

EQUALIZED = Recipe(equalization=True)


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans(), st.sampled_from(Granularity.PLAIN))
def test_fp32_outputs_stay(blocks: int, seed: int, rectified: bool, granularity: Granularity) -> None:
    model, statistics = prepared(residual(blocks, seed, rectified=rectified))
    equalized = equalize(model, config(model, EQUALIZED, granularity=granularity), statistics)
    assert relative_error(model, equalized.model) < 1e-4


@pytest.mark.parametrize("fp32", [(), ("stem",), ("head", "expand0")])
def test_int8_gains(fp32: tuple[str, ...]) -> None:
    gains = []
    for seed in range(3):
        model, statistics = prepared(residual(2, seed))
        names = {n.output[0]: n.name for n in model.proto.graph.node}
        plain = config(model).replace({names[name]: FP32 for name in fp32})
        better = ADAPTER.apply(model, dataclasses.replace(plain, recipe=exact_here(EQUALIZED)), statistics)
        counts = optimized_op_counts(better.proto)
        assert counts["QLinearConv"] == 6 - len(fp32)
        assert counts["QLinearAdd"] == 2
        gains.append(sqnr_db(model, better) - sqnr_db(model, ADAPTER.apply(model, plain, statistics)))
    assert min(gains) > 3.0


def test_all_tensors_of_a_stream_get_closer_to_one_range() -> None:
    model, statistics = prepared(residual(3, 0))
    equalized = equalize(model, config(model, EQUALIZED), statistics)
    assert {"stem", "project0", "add0", "project1", "add1", "rectified1", "project2", "add2"} <= set(equalized.ranges)
    after = prepared(equalized.model.proto)[1]
    for name in ("stem", "add0", "add2"):
        spreads = []
        for observed in (statistics.tensors[name].channels, after.tensors[name].channels):
            assert observed is not None
            reach = np.maximum(-observed.minimum, observed.maximum)
            spreads.append(float(reach.max() / reach[reach > 0].min()))
        # Half of the way, in logarithms, for the tensor whose channels differ most.
        assert spreads[1] < 2.0 * np.sqrt(spreads[0])


def test_weights_with_one_scale_keep_their_stream() -> None:
    model, statistics = prepared(residual(2, 0))
    per_tensor = config(model, EQUALIZED, granularity=Granularity.PER_TENSOR)
    assert "add0" not in equalize(model, per_tensor, statistics).ranges


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("constant", "a constant is added"),
        ("clip", "Clip among its ops"),
        ("shared weight", "shared between ops"),
        ("repeated channels", "repeats channels"),
        ("output", ""),
        ("other reader", ""),
    ],
)
def test_streams_that_cannot_be_served_stay(case: str, reason: str) -> None:
    constants = {name: normal(4, 4, 1, 1, seed=index) for index, name in enumerate("bc")}
    constants |= {
        "a": normal(4, 3, 1, 1),
        "k": normal(4, 1, 1),
        "zero": np.array(0, np.float32),
        "six": np.array(6, np.float32),
    }
    constants["v"] = normal(4)
    constants["one"] = normal(1, 4, 1, 1)
    nodes = [node("Conv", "x a", "p")]
    nodes.append(node("Conv", {"shared weight": "x a v", "repeated channels": "p one"}.get(case, "p b"), "q"))
    nodes.append(node("Add", "p q", "s"))
    last = "s"
    if case == "constant":
        nodes.append(node("Add", "s k", "t"))
        last = "t"
    elif case == "clip":
        nodes.append(node("Clip", "s zero six", "t"))
        last = "t"
    nodes.append(node("Conv", f"{last} c", "y"))
    outputs: dict[str, None] = {"y": None}
    if case == "output":
        outputs["s"] = None
    elif case == "other reader":
        nodes.append(node("Sigmoid", "s", "z"))
        outputs["z"] = None
    model, statistics = prepared(build(nodes, {"x": ("N", 3, 8, 8)}, outputs, constants))
    equalized = equalize(model, config(model, EQUALIZED), statistics)
    assert "s" not in equalized.ranges
    assert any(reason in note for note in equalized.notes) or not reason
    assert relative_error(model, equalized.model) < 1e-5
