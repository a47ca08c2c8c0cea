"""TensorFlow's models as ONNX, by tf2onnx."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotune.errors import DataError, ModelError
from tests.adapters.conversion import converted, make, names_of, shape_of

CODE = """
import keras, tensorflow as tf
keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential([
    keras.Input((16, 16, 3), name="pixels"), layers.Conv2D(8, 3, name="first"), layers.ReLU(),
    layers.DepthwiseConv2D(3, name="second"), layers.GlobalAveragePooling2D(), layers.Dense(5, name="head"),
], name="net")
model.save("net.keras")
model.export("saved", verbose=False)
open("net.tflite", "wb").write(tf.lite.TFLiteConverter.from_saved_model("saved").convert())
"""
BATCH = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("ai_edge_litert")
    path = tmp_path_factory.mktemp("tensorflow")
    make("tensorflow", CODE, path)
    return path


@pytest.mark.parametrize("name", ["net.tflite", "net.keras", "saved"])
def test_inputs_keep_name_and_layout_and_ops_the_names_of_layers(folder: Path, name: str) -> None:
    proto, notes = converted(folder / name, BATCH)
    (read,), (written,) = proto.graph.input, proto.graph.output
    assert (read.name, shape_of(read)) == ("pixels", ["batch", 16, 16, 3])
    assert (written.name, shape_of(written)) == ("output_0", ["batch", 5])
    weighted = names_of(proto, "Conv", "MatMul", "Gemm")
    assert [any(part in each for each in weighted) for part in ("first", "second", "head")] == [True, True, True]
    assert "tf2onnx made ONNX of the model. On the first batch its outputs part" in notes[0]


def test_a_batch_of_another_layout_is_told(folder: Path) -> None:
    with pytest.raises(DataError, match="first batch"):
        converted(folder / "saved", BATCH.transpose(0, 3, 1, 2))


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.keras").write_bytes((folder / "net.keras").read_bytes()[:100])
    with pytest.raises(ModelError, match="tf2onnx"):
        converted(tmp_path / "net.keras", BATCH)
