"""Configs that users name, of which any file may be one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.config import LEAST_ERROR, OpConfig, Precision, QuantizationConfig, TensorScheme
from autotune.errors import InputError
from autotune.results.stored_config import read_config

CONFIG = QuantizationConfig(ops={"a": OpConfig(precision=Precision.FP32)})

TEXTS = {
    "empty": b"",
    "nested objects": b'{"ops":' * 100_000,
    "nested lists": b'{"ops":' + b"[" * 100_000,
    "NUL": b'{"ops": "\0"}',
    "no UTF-8": b'{"ops": "\xff"}',
    "a byte order mark": b'\xef\xbb\xbf{"ops": {}}',
    "a list": b"[1]",
    "a long number": b'{"ops": ' + b"9" * 6_000 + b"}",
    "an infinite number": b'{"ops": {}, "recipe": {"smoothquant_alpha": 1e999}}',
}


WHOLE = QuantizationConfig(
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
    data: dict[str, Any] = json.loads(json.dumps(WHOLE.to_json()))
    for key, value in changes.items():
        (data["ops"][0] if key in ("precision", "rounding") else data)[key] = value
    return data


def test_a_config_is_read_from_its_json_whatever_the_ending(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(WHOLE.to_json()))
    assert read_config(path).config == WHOLE
    assert read_config(path.rename(tmp_path / "config.txt")).config == WHOLE


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


@pytest.mark.parametrize("name", TEXTS)
def test_a_file_that_is_no_config_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(TEXTS[name])
    with pytest.raises(InputError, match="must be a workspace, WORKSPACE:TRIAL, a JSON file"):
        read_config(path)


@pytest.mark.parametrize("name", ["", "nothing", ".", "a" * 5_000, "a/" * 3_000, "\0", "~nosuchuser/x", "work:²", ":1"])
def test_a_name_of_nothing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "study.db").touch()
    with pytest.raises(InputError):
        read_config(name)


def test_what_never_ends_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(InputError, match="must be a regular file"):
            read_config(path)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(b"{")
    os.truncate(path, 2**40)  # a file with a hole
    with pytest.raises(InputError, match=r"1,099,511,627,776 bytes"):
        read_config(path)


_KEYS = st.sampled_from(
    ["ops", "recipe", "a", "precision", "activation", "weight", "runtime", "prepared", "trained"]
) | (st.text(max_size=4))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["int8", "fp32"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.dictionaries(_KEYS, _JSON, max_size=5))
def test_any_json_is_a_config_or_refused(tmp_path: Path, data: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    try:
        found = read_config(path).config
    except InputError:
        return
    assert QuantizationConfig.from_json(found.to_json()).fingerprint == found.fingerprint
