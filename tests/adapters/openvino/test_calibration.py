from __future__ import annotations

import numpy as np
import pytest

from autotune.adapters.openvino import OpenVinoModel, calibration
from autotune.errors import DataError, ModelError
from tests.adapters.onnx.graphs import build, image_batches, node, normal
from tests.adapters.openvino.calibrated import ADAPTER, ONE_THREAD, wide


def test_statistics_are_those_of_what_the_model_computes() -> None:
    found = wide().statistics
    assert found.samples == sum(len(batch["x"]) for batch in wide().batches)
    # Tensors that int8 ops read, and before a Clip those that equalization asks for.
    assert set(found.tensors) == {"x", "r1", "c2", "r2", "c3", "flat"}
    images = np.concatenate([batch["x"] for batch in wide().batches])
    graph = wide().model.graph.clone()
    ops = {op.get_friendly_name(): op for op in graph.get_ordered_ops()}
    graph.add_outputs([ops["r1"].output(0), ops["c3"].output(0)])
    _, first, third = ADAPTER.runner(OpenVinoModel(graph=graph), ONE_THREAD)({"x": images})
    for name, values in (("x", images), ("r1", first), ("c3", third)):
        tensor = found.tensors[name]
        assert tensor.minimum == pytest.approx(float(values.min()), rel=1e-4)
        assert tensor.maximum == pytest.approx(float(values.max()), rel=1e-4)
        assert tensor.count == values.size
    channels = found.tensors["x"].channels
    assert channels is not None
    np.testing.assert_allclose(channels.mean, images.mean(axis=(0, 2, 3)), rtol=1e-3, atol=1e-5)


def test_samples_are_kept_for_recipes() -> None:
    assert {example["x"].shape for example in wide().statistics.examples} == {(1, 3, 8, 8)}


@pytest.mark.parametrize("exposed_bytes", [1, 70_000, 2**30])
def test_what_memory_allows_changes_no_figure(exposed_bytes: int) -> None:
    found = calibration.calibrate(wide().model, wide().batches, 0, exposed_bytes=exposed_bytes)
    assert set(found.tensors) == set(wide().statistics.tensors)
    for name, tensor in found.tensors.items():
        assert tensor.maximum == pytest.approx(wide().statistics.tensors[name].maximum, rel=1e-5)
        assert tensor.count == wide().statistics.tensors[name].count


def test_larger_batches_may_follow_smaller_ones() -> None:
    images = np.concatenate([batch["x"] for batch in wide().batches])
    found = calibration.calibrate(wide().model, [{"x": images[:1]}, {"x": images[1:]}], 0, exposed_bytes=70_000)
    assert found.samples == len(images)
    for name, tensor in found.tensors.items():
        assert tensor.count == wide().statistics.tensors[name].count


def test_a_batch_without_an_input_or_with_nan_is_named() -> None:
    with pytest.raises(DataError, match=r"Calibration batch 1 must name every input of the model, but lacks \['x'\]"):
        ADAPTER.calibrate(wide().model, [image_batches()[0], {"y": normal(1, 3, 8, 8)}], seed=0)
    broken = normal(1, 3, 8, 8)
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(DataError, match="Input 'x' must hold numbers, but 1 of its 192 values in calibration batch 0"):
        ADAPTER.calibrate(wide().model, [{"x": broken}], seed=0)


def test_a_weight_with_nan_is_named() -> None:
    weight = normal(4, 3, 3, 3)
    weight[0, 0, 0, 0] = np.nan
    nodes = [node("Conv", "x w", "c"), node("Conv", "c v", "y")]
    model = ADAPTER.load(build(nodes, {"x": ("N", 3, 8, 8)}, {"y": None}, {"w": weight, "v": normal(4, 4, 1, 1)}))
    with pytest.raises(ModelError, match=r"1 of the 108 values of the weight of 'c' are NaN, which reach 'c'"):
        ADAPTER.calibrate(model, image_batches(), seed=0)
