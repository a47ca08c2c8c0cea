"""The example, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import onnx

from tests.adapters.examples import run_example


def test_it_trains_tunes_and_leaves_a_model(tmp_path: Path) -> None:
    stdout, stderr = run_example("pytorch", tmp_path)
    assert stderr == ""
    assert "agrees with the one that was trained on" in stdout
    onnx.checker.check_model(tmp_path / "runs" / "digits.tuned.onnx")
