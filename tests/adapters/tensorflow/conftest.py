"""Skips all of this folder, each file by its name, where LiteRT is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_pycollect_makemodule(module_path: Path) -> None:
    if HERE in module_path.parents:
        reason = "needs `pip install 'autotune-quantization[tensorflow]'`"
        pytest.importorskip("ai_edge_litert", reason=reason)
        pytest.importorskip("ai_edge_quantizer", reason=reason)
