"""Skips all of this folder, each file by its name, where PaddlePaddle is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_pycollect_makemodule(module_path: Path) -> None:
    if HERE in module_path.parents and importlib.util.find_spec("paddle") is None:
        pytest.skip("needs `pip install 'autotune-quantization[paddle]'`", allow_module_level=True)
