"""The example, as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.adapters.tensorflow.adapter import TensorFlowAdapter

ROOT = Path(__file__).parents[3]


def test_it_tunes_the_digits_and_leaves_a_model(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    for name in ("digits.py", "digits.tflite"):
        shutil.copy(ROOT / "examples" / "tensorflow" / name, tmp_path)
    finished = subprocess.run(
        [sys.executable, "digits.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,  # a hang; how long it takes is the machine's affair
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "met: " in finished.stdout
    model = TensorFlowAdapter().load(tmp_path / "runs" / "digits.tuned.tflite")
    assert [spec.name for spec in model.inputs] == ["images"]
