"""Every test in this folder needs OpenVINO, which is an extra; the contract suite says so where it is missing."""

from __future__ import annotations

import importlib.util

import pytest

collect_ignore_glob = ["test_*.py"] if importlib.util.find_spec("openvino") is None else []


@pytest.fixture(autouse=True)
def no_half_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU that computes in no type of 16 bits, whatever this one does; :mod:`.test_half` has the others."""
    for module in ("adapter", "candidate"):
        monkeypatch.setattr(f"autotune.adapters.openvino.{module}.half_types", tuple)
