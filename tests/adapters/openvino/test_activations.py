"""Where the activations of two OpenVINO models part."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest

import autotune
from autotune.adapter import Execution
from tests.adapters.onnx.graphs import image_batches, small_cnn
from tests.adapters.openvino.calibrated import ADAPTER


@pytest.fixture
def fp32(tmp_path: Path) -> Path:
    onnx.save(small_cnn(), tmp_path / "cnn.onnx")
    return tmp_path / "cnn.onnx"


def test_values_are_those_that_the_ops_write(fp32: Path) -> None:
    model = ADAPTER.load(fp32)
    feeds = image_batches(1)[0]
    (values,) = ADAPTER.activations(model, [feeds], ["logits", "c1", "nothing of that name"])
    assert set(values) == {"logits", "c1"}
    np.testing.assert_allclose(values["logits"], ADAPTER.runner(model, Execution(threads=1))(feeds)[0], rtol=1e-5)


def test_layers_are_no_constants_and_come_in_their_order(fp32: Path) -> None:
    layers = ADAPTER.layers(ADAPTER.load(fp32))
    names = [layer.tensor for layer in layers]
    assert [name for name in names if name in ("c1", "c2", "c3", "logits")] == ["c1", "c2", "c3", "logits"]
    assert not {layer.op_type for layer in layers} & {"Constant", "Parameter", "Result"}


def test_a_model_equals_itself_and_not_the_tuned_one(fp32: Path, tmp_path: Path) -> None:
    batches = [feeds["x"] for feeds in image_batches(3)]
    assert all(math.isinf(each.sqnr_db) for each in autotune.compare(fp32, fp32, batches, framework="openvino"))
    model = ADAPTER.load(fp32)
    config = ADAPTER.space(model).preferred
    statistics = ADAPTER.calibrate(model, image_batches(3), seed=0)
    files = ADAPTER.save(ADAPTER.apply(model, config, statistics), tmp_path / "tuned.xml", {})
    found = {each.tensor: each for each in autotune.compare(fp32, files[0], batches, framework="openvino")}
    assert 5 < found["logits"].sqnr_db < 80
    assert found["logits"].op_type in ("MatMul", "Add")
