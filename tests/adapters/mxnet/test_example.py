"""The example, as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_it_trains_tunes_and_leaves_a_model(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "mxnet" / "digits.py", tmp_path)
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
    assert finished.stderr == ""
    assert "accuracy" in finished.stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "digits.tuned-0000.params",
        "digits.tuned-symbol.json",
    ]
