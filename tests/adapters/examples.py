"""Runs the examples as a user does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run_example(framework: str, folder: Path, names: Sequence[str] = ("digits.py",)) -> tuple[str, str]:
    """Run the first of some files of an example in a folder of its own; what it wrote to stdout and stderr."""
    for name in names:
        shutil.copy(ROOT / "examples" / framework / name, folder)
    finished = subprocess.run(
        [sys.executable, names[0]],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,  # a hang; how long it takes is the machine's affair
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout, finished.stderr
