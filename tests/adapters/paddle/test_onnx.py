"""Programs of Paddle as ONNX, by paddle2onnx."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import DataError, ModelError
from tests.adapters.conversion import converted, make, names_of, shape_of

CODE = """
import paddle
paddle.seed(0)
net = paddle.nn.Sequential(
    paddle.nn.Conv2D(3, 8, 3, padding=1), paddle.nn.BatchNorm2D(8), paddle.nn.ReLU(),
    paddle.nn.Conv2D(8, 8, 3, groups=8), paddle.nn.AdaptiveAvgPool2D(1), paddle.nn.Flatten(), paddle.nn.Linear(8, 5),
)
net.eval()
spec = [paddle.static.InputSpec([None, 3, 16, 16], "float32", name="pixels")]
paddle.jit.save(net, "new", input_spec=spec)
with paddle.pir_utils.DygraphOldIrGuard():
    paddle.jit.save(net, "old", input_spec=spec)
"""
BATCH = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("paddle")
    make("paddle", CODE, path)
    return path


@pytest.mark.parametrize("name", ["old.pdmodel", "old", "new.json"])
def test_a_program_of_either_representation_keeps_its_names(folder: Path, name: str) -> None:
    proto, notes = converted(folder / name, BATCH)
    (read,), (written,) = proto.graph.input, proto.graph.output
    assert (read.name, shape_of(read), shape_of(written)) == ("pixels", ["batch", 3, 16, 16], ["batch", 5])
    assert len([each for each in names_of(proto, "Conv") if each.startswith("conv2d_")]) == 2
    assert "paddle2onnx made ONNX of the model. On the first batch its outputs part" in notes[0]


def test_without_data_it_is_said_that_nothing_was_compared(folder: Path) -> None:
    _, notes = converted(folder / "old.pdmodel", None)
    assert "not compared" in notes[0]


def test_a_batch_that_the_model_does_not_take_is_told(folder: Path) -> None:
    with pytest.raises(DataError, match="first batch"):
        converted(folder / "old.pdmodel", BATCH[:, :2])


def test_missing_parameters_are_named(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "old.pdmodel", tmp_path)
    with pytest.raises(ModelError, match=r"old\.pdiparams does not exist"):
        converted(tmp_path / "old.pdmodel", BATCH)
