"""Keras models and SavedModels, where TensorFlow is installed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tensorflow = pytest.importorskip("tensorflow", reason="needs `pip install tensorflow`")
keras = pytest.importorskip("keras", reason="needs `pip install tensorflow`")

from autotune.adapters.tensorflow.adapter import TensorFlowAdapter  # noqa: E402  # what is skipped comes before
from autotune.errors import InputError, ModelError  # noqa: E402
from autotune.tuning.tuner import Tuner  # noqa: E402
from tests.adapters.tensorflow.calibrated import ONE  # noqa: E402

# Keras calls NumPy in ways of before.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")

ADAPTER = TensorFlowAdapter()


def network() -> Any:
    """A convolution with batch normalization, a depthwise one, a sum and a head."""
    keras.utils.set_random_seed(3)
    layers = keras.layers
    entry = keras.Input((8, 8, 3), name="pictures")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", name="stem")(entry)))
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    scores = layers.Dense(4, name="scores")(layers.GlobalAveragePooling2D()(layers.Add(name="sum")([x, y])))
    return keras.Model(entry, scores, name="net")


DATA = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)


def test_the_same_model_comes_of_an_object_a_file_and_a_folder(tmp_path: Path) -> None:
    model = network()
    model.save(tmp_path / "net.keras")
    model.export(tmp_path / "saved", verbose=False)
    loaded = [ADAPTER.load(source) for source in (model, tmp_path / "net.keras", tmp_path / "saved", model)]
    assert len({each.fingerprint for each in loaded}) == 1
    assert len({tuple(op.name for op in each.ops) for each in loaded}) == 1
    assert [spec.name for spec in loaded[0].inputs] == ["pictures"]
    assert [op.kind for op in loaded[0].ops][:3] == ["CONV_2D", "DEPTHWISE_CONV_2D", "ADD"]
    found = ADAPTER.runner(loaded[0], ONE)({"pictures": DATA})[0]
    np.testing.assert_allclose(found, model(DATA).numpy(), rtol=1e-4, atol=1e-5)


def test_a_lambda_layer_in_a_file_names_the_way(tmp_path: Path) -> None:
    entry = keras.Input((4,))
    keras.Model(entry, keras.layers.Lambda(lambda x: x * 2)(entry)).save(tmp_path / "lambda.keras")
    with pytest.raises(ModelError, match=r"lambda\.keras holds a Lambda layer.*safe_mode=False"):
        ADAPTER.load(tmp_path / "lambda.keras")


def test_a_model_without_shapes_says_so() -> None:
    with pytest.raises(ModelError, match="never called"):
        ADAPTER.load(keras.Sequential([keras.layers.Dense(3)]))


def test_an_op_that_tensorflow_lite_does_not_have_is_named() -> None:
    entry = keras.Input((4,))
    with pytest.raises(ModelError, match=r"has Erfinv\. Leave"):
        ADAPTER.load(keras.Model(entry, keras.ops.erfinv(keras.layers.Dense(4)(entry) * 0.01)))


@pytest.mark.parametrize("name", ["bad.keras", "saved"])
def test_damaged_files_are_refused(name: str, tmp_path: Path) -> None:
    if name == "saved":
        (tmp_path / name).mkdir()
    (tmp_path / name / "saved_model.pb" if name == "saved" else tmp_path / name).write_bytes(b"no model")
    with pytest.raises(ModelError, match=name):
        ADAPTER.load(tmp_path / name)


def test_training_on_keras_names_the_way() -> None:
    tuner = Tuner(framework="tensorflow", train_fn=lambda model: model)
    with pytest.raises(InputError, match=r"Keras.*tensorflow_model_optimization.*TF_USE_LEGACY_KERAS=1.*nn\.Module"):
        tuner.tune(network(), [DATA], lambda _model: 1.0)


_Module: Any = tensorflow.Module


class Two(_Module):
    """Two functions with a weight."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = tensorflow.Variable(np.ones((3, 3), np.float32))

    @tensorflow.function
    def double(self, x: Any) -> Any:
        return tensorflow.matmul(x, self.weight)

    @tensorflow.function
    def shift(self, x: Any) -> Any:
        return x + 1.0


def test_a_folder_without_a_signature_names_the_way(tmp_path: Path) -> None:
    tensorflow.saved_model.save(Two(), str(tmp_path / "saved"))
    with pytest.raises(ModelError, match=r"must have a signature.*signatures="):
        ADAPTER.load(tmp_path / "saved")


def test_a_file_with_several_signatures_says_which_one_is_tuned(tmp_path: Path) -> None:
    two, spec = Two(), tensorflow.TensorSpec([None, 3])
    signatures = {name: getattr(two, name).get_concrete_function(x=spec) for name in ("double", "shift")}
    tensorflow.saved_model.save(two, str(tmp_path / "saved"), signatures=signatures)
    (told,) = ADAPTER.load(tmp_path / "saved").notes
    assert told.startswith("This file has 2 signatures. 'double' is tuned, and 'shift' stays as it is")


def test_free_heights_and_widths_that_a_file_counts_as_one_name_the_way() -> None:
    pixels = keras.Input((None, None, 3), name="pixels")
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(16, 3)(pixels))
    with pytest.raises(ModelError, match=r"fixed lengths.*'pixels'.*Convert it with the heights"):
        ADAPTER.load(keras.Model(pixels, keras.layers.Dense(3)(pooled)))


def test_a_keras_file_that_is_cut_off_is_not_said_to_be_missing(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]).save(tmp_path / "net.keras")
    (tmp_path / "net.keras").write_bytes((tmp_path / "net.keras").read_bytes()[:100])
    with pytest.raises(ModelError, match=r"net\.keras must be the zip archive.*corrupt or cut off"):
        ADAPTER.load(tmp_path / "net.keras")
