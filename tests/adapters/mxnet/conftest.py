"""Skips all of this folder, each file by its name, where MXNet is not installed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_pycollect_makemodule(module_path: Path) -> None:
    if HERE in module_path.parents and importlib.util.find_spec("mxnet") is None:
        pytest.skip("needs MXNet, installed as docs/mxnet.md says", allow_module_level=True)
