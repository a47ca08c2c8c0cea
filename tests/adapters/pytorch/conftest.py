"""Skips all of this folder, each file by its name, where PyTorch is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_pycollect_makemodule(module_path: Path) -> None:
    if HERE in module_path.parents:
        pytest.importorskip("torch", reason="needs `pip install 'autotune-quantization[pytorch]'`")
