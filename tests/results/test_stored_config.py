"""Configs in files: what cannot be read says why, and nothing of a newer version is left out in silence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autotune.config import LEAST_ERROR, OpConfig, Precision, QuantizationConfig, TensorScheme
from autotune.errors import InputError
from autotune.results.stored_config import read_config

CONFIG = QuantizationConfig(
    ops={
        "conv": OpConfig(
            precision=Precision.INT8,
            activation=TensorScheme.parse("u8 asymmetric per_tensor"),
            weight=TensorScheme.parse("s8 symmetric per_channel"),
            calibration=LEAST_ERROR,
        )
    }
)


def stored(**changes: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(json.dumps(CONFIG.to_json()))
    for key, value in changes.items():
        (data["ops"][0] if key in ("precision", "rounding") else data)[key] = value
    return data


def test_a_config_is_read_from_its_json(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG.to_json()))
    assert read_config(path).config == CONFIG
    assert read_config(path.rename(tmp_path / "config.txt")).config == CONFIG


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "its JSON cannot be read: Expecting value"),
        ("hello", "its JSON cannot be read: Expecting value"),
        (json.dumps(stored())[:-9], "its JSON cannot be read: "),
        ("[1, 2]", "its JSON has no 'ops'"),
        ('{"a": 1}', "its JSON has no 'ops'"),
        (json.dumps(stored(precision="fp8")), "'fp8' is not a valid Precision.*newer version"),
        (json.dumps(stored(rounding="odd")), "'rounding' is no key of an op's choice.*newer version"),
        (json.dumps(stored(layout="blocked")), "'layout' is no key of a config.*newer version"),
        (json.dumps(stored(ops=[1])), "does not know all of it"),
    ],
)
def test_what_is_no_config_says_why(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"config\.json must be a workspace.*but {why}|{why}") as caught:
        read_config(path, "onnxruntime")
    assert "Export it again" not in str(caught.value)


def test_a_file_of_another_kind_and_an_empty_name_are_no_configs(tmp_path: Path) -> None:
    path = tmp_path / "experiment.yaml"
    path.write_text("model: {path: model.onnx}")
    with pytest.raises(InputError, match="it is no JSON, and no model that onnxruntime can read"):
        read_config(path, "onnxruntime")
    with pytest.raises(InputError, match="it is empty"):
        read_config("")
