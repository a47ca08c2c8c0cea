"""The example, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.adapters.tensorflow.adapter import TensorFlowAdapter
from tests.adapters.examples import run_example


def test_it_tunes_the_digits_and_leaves_a_model(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    stdout, _ = run_example("tensorflow", tmp_path, ("digits.py", "digits.tflite"))
    assert "met: " in stdout
    model = TensorFlowAdapter().load(tmp_path / "runs" / "digits.tuned.tflite")
    assert [spec.name for spec in model.inputs] == ["images"]
