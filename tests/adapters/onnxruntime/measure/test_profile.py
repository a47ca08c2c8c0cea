from __future__ import annotations

import numpy as np
import pytest

from autotune.adapter import CostModel, Execution
from autotune.adapters.onnxruntime.adapter import OnnxRuntimeAdapter
from autotune.adapters.onnxruntime.measure.profile import conversion_seconds
from tests.conftest import convolutional_network

FEEDS = {"data": np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)}


@pytest.fixture
def adapter() -> OnnxRuntimeAdapter:
    return OnnxRuntimeAdapter()


def test_every_convolution_has_its_seconds_in_fp32_and_in_int8(adapter: OnnxRuntimeAdapter) -> None:
    assert isinstance(adapter, CostModel)
    model = adapter.load(convolutional_network())
    statistics = adapter.calibrate(model, [FEEDS], seed=0)
    candidate = adapter.apply(model, adapter.space(model).preferred, statistics)
    for seconds in adapter.op_seconds([model, candidate], FEEDS, Execution()):
        assert {"conv_0", "conv_1", "conv_2", "head"} <= set(seconds)
        assert all(0 < value < 0.1 for value in seconds.values())


def test_neighbours_are_found_through_what_keeps_the_integers(adapter: OnnxRuntimeAdapter) -> None:
    readers = adapter.neighbours(adapter.load(convolutional_network()))
    assert set(readers["conv_0"]) == {"conv_1", "add_1"}
    assert readers["conv_2"] == ("pool",)
    assert readers["pool"] == ("head",)
    assert readers["head"] == ()


def test_conversions_cost_more_where_there_is_more_to_convert(adapter: OnnxRuntimeAdapter) -> None:
    model = adapter.load(convolutional_network())
    statistics = adapter.calibrate(model, [FEEDS], seed=0)
    assert {"conv_0", "add_1", "head"} <= set(adapter.conversion_seconds(model, statistics, Execution()))
    seconds = conversion_seconds([1_000, 1_000_000, 1_000], Execution())
    assert 10 * seconds[1_000] < seconds[1_000_000] < 0.1
    assert conversion_seconds([], Execution()) == {}
