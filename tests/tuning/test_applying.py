from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autotune
from autotune.config import MINMAX, OpConfig, Precision, QuantizationConfig
from autotune.errors import DataError, InputError, WorkspaceError
from tests.conftest import dense_network
from tests.numpy_adapter import S8_CHANNELS, U8, NumpyAdapter
from tests.numpy_framework import NumpyModel, read
from tests.tuning.cheap import CHEAP, TOLERANT

Score = Callable[[Any], float]

STATIC = OpConfig(precision=Precision.INT8, activation=U8, weight=S8_CHANNELS, calibration=MINMAX)
CONFIG = QuantizationConfig(ops={"dense_1": STATIC, "head": STATIC})


@pytest.fixture
def found(
    network: NumpyModel, images: Sequence[Any], score: Score, tmp_path: Path
) -> tuple[autotune.TuningResult, Path]:
    """A run whose answer is quantized, and its workspace."""
    tuner = autotune.Tuner(
        **CHEAP, objective="size", strategy="basic", max_trials=3, criterion=TOLERANT, workspace=tmp_path / "last"
    )
    result = tuner.tune(network, images, score)
    assert not result.best.config.is_fp32
    return result, tmp_path / "last"


def test_a_stored_config_makes_the_models_of_its_run(
    found: tuple[autotune.TuningResult, Path], network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    result, workspace = found
    stored = tmp_path / "config.json"
    stored.write_text(json.dumps(result.best.config.to_json()))
    tuned = result.save(tmp_path / "tuned.npz")
    by_file: dict[str, Any] = {"framework": "numpy"}
    for source, options in (
        (result.best.config, by_file),
        (stored, by_file),
        (workspace, {}),  # the workspace knows the framework
        (f"{workspace}:{result.best.number}", {}),
        (tuned, by_file),
    ):
        made = autotune.apply(network, source, images, **options)
        written = made.save(tmp_path / "made.npz")
        assert read(written)[0].fingerprint == read(tuned)[0].fingerprint, source
        assert json.loads(read(written)[1]["autotune:config"]) == result.best.config.to_json()
        np.testing.assert_array_equal(made.model(images[0]), result.model(images[0]))


def test_another_trial_of_a_workspace_can_be_named(
    found: tuple[autotune.TuningResult, Path], network: NumpyModel, images: Sequence[Any]
) -> None:
    result, workspace = found
    other = next(trial for trial in result.history[1:] if trial.config != result.best.config)
    assert autotune.apply(network, f"{workspace}:{other.number}", images).config == other.config
    with pytest.raises(InputError, match="there is no trial 99"):
        autotune.apply(network, f"{workspace}:99", images)


def test_retrained_weights_are_calibrated_anew(images: Sequence[Any]) -> None:
    older, newer = dense_network(0), dense_network(7)
    before = autotune.apply(older, CONFIG, images, framework="numpy")
    after = autotune.apply(newer, CONFIG, images, framework="numpy")
    adapter = NumpyAdapter()
    batches = [{"data": batch} for batch in images]
    statistics = adapter.calibrate(newer, batches, seed=0)
    assert after.fingerprint == adapter.apply(newer, CONFIG, statistics).fingerprint
    assert after.fingerprint != before.fingerprint
    stale = adapter.apply(newer, CONFIG, adapter.calibrate(older, batches, seed=0))
    assert after.fingerprint != stale.fingerprint, "it took the old ranges"


def test_sampling_size_and_fp32_count(network: NumpyModel, images: Sequence[Any]) -> None:
    whole = autotune.apply(network, CONFIG, images, framework="numpy")
    part = autotune.apply(network, CONFIG, images, framework="numpy", sampling_size=8)
    assert whole.fingerprint != part.fingerprint
    fp32 = autotune.apply(network, QuantizationConfig(), images, framework="numpy")
    assert fp32.fingerprint == network.fingerprint
    assert (whole.size_bytes < fp32.size_bytes, repr(whole)) == (
        True,
        f"<QuantizedModel: config {CONFIG.fingerprint}, 2 ops quantized>",
    )


def test_ops_that_the_model_has_not_are_named(network: NumpyModel, images: Sequence[Any]) -> None:
    wrong = QuantizationConfig(ops={"dense_1": STATIC, "dense_9": STATIC, "encoder": STATIC})
    with pytest.raises(InputError) as caught:
        autotune.apply(network, wrong, images, framework="numpy")
    text = str(caught.value)
    assert "2 of its 3 are not there: 'dense_9' (did you mean 'dense_" in text
    assert "'encoder'" in text
    assert "start_from" in text


def test_what_the_framework_refuses_is_bad_input(network: NumpyModel, images: Sequence[Any]) -> None:
    half = QuantizationConfig(ops={"head": OpConfig(precision=Precision.FP16)})
    with pytest.raises(InputError, match="must be one that numpy can apply"):
        autotune.apply(network, half, images, framework="numpy")
    with pytest.raises(DataError):
        autotune.apply(network, CONFIG, iter(images), framework="numpy")


def test_a_trained_config_says_whose_weights_it_takes(network: NumpyModel, images: Sequence[Any]) -> None:
    made = autotune.apply(network, dataclasses.replace(CONFIG, trained=True), images, framework="numpy")
    assert any("weights are those of the given model" in note for note in made.notes)


@pytest.mark.parametrize("source", ["nothing", "folder", "words.json", "plain.npz", 5])
def test_what_is_no_config_says_what_one_is(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path, source: object
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "words.json").write_text('{"ops": 3}')
    NumpyAdapter().save(network, tmp_path / "plain.npz", {})
    named = tmp_path / source if isinstance(source, str) else source
    with pytest.raises(InputError, match="must be a "):
        autotune.apply(network, named, images, framework="numpy")  # type: ignore[arg-type]


def test_a_file_of_a_framework_that_reads_no_metadata(
    network: NumpyModel, images: Sequence[Any], tmp_path: Path
) -> None:
    (tmp_path / "model.tflite").write_bytes(b"\0\0")
    with pytest.raises(InputError, match=r"not read from files that end in '\.tflite'\. Name the workspace"):
        autotune.apply(network, tmp_path / "model.tflite", images)


def test_an_unwritable_place_is_an_error(network: NumpyModel, images: Sequence[Any], tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError):
        autotune.apply(network, CONFIG, images, framework="numpy").save(tmp_path / "no" / "where.npz")


def test_a_file_has_no_module(network: NumpyModel, images: Sequence[Any]) -> None:
    with pytest.raises(InputError, match=r"nn\.Module"):
        autotune.apply(network, CONFIG, images, framework="numpy").module()
