"""The example, as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_it_trains_tunes_and_leaves_a_model(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples" / "paddle" / "digits.py", tmp_path)
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
    told = [line for line in finished.stderr.splitlines() if "[    INFO]" not in line]
    assert not told, "Paddle's handler of the root logger, which its import in the example sets, shows every event"
    assert "agrees with the one that was trained on" in finished.stdout
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "digits.tuned.pdiparams",
        "digits.tuned.pdmodel",
    ]
